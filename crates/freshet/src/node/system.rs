//! Jobs as SQL: `information_schema.freshet_jobs`, `freshet_tables` and `freshet_errors`, and the statements
//! `PAUSE JOB`, `RESUME JOB`, `DROP JOB`, all over the engine.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use freshet_core::engine::{Engine, JobStatus, TableStatus};
use freshet_core::{Error, ErrorKind, Result};
use freshet_warehouse::sql::{JobCommand, SystemTables};

use super::unknown_job;

/// The engine's jobs.
pub(crate) struct Jobs(pub(crate) Arc<Engine>);

/// A table's columns while they are made.
struct Columns(Vec<(&'static str, ArrayRef)>);

impl Columns {
    fn text<'a>(&mut self, name: &'static str, values: impl Iterator<Item = Option<String>> + 'a) {
        self.0.push((name, Arc::new(values.collect::<StringArray>())));
    }

    fn number(&mut self, name: &'static str, values: impl Iterator<Item = Option<u64>>) {
        let values = values.map(|n| n.map(|n| i64::try_from(n).unwrap_or(i64::MAX)));
        self.0.push((name, Arc::new(values.collect::<Int64Array>())));
    }

    fn batch(self) -> Result<RecordBatch> {
        let field = |(name, array): &(&str, ArrayRef)| Field::new(*name, array.data_type().clone(), true);
        let schema = Schema::new(self.0.iter().map(field).collect::<Vec<_>>());
        let arrays = self.0.into_iter().map(|(_, array)| array).collect();
        RecordBatch::try_new(Arc::new(schema), arrays)
            .map_err(|e| Error::internal("a system table is wrong").because(e))
    }
}

fn jobs(jobs: &[JobStatus]) -> Result<RecordBatch> {
    let mut c = Columns(Vec::new());
    c.text("name", jobs.iter().map(|j| Some(j.name.clone())));
    c.text("state", jobs.iter().map(|j| Some(j.state.to_string())));
    c.text("source", jobs.iter().map(|j| Some(j.source.clone())));
    c.text("sink", jobs.iter().map(|j| Some(j.sink.clone())));
    c.text("position", jobs.iter().map(|j| j.position.clone()));
    let seconds = jobs.iter().map(|j| j.lag_ms.map(|ms| ms as f64 / 1000.0));
    c.0.push(("lag_seconds", Arc::new(seconds.collect::<Float64Array>())));
    c.number("lag_bytes", jobs.iter().map(|j| j.lag_bytes));
    c.number("tables", jobs.iter().map(|j| Some(j.tables.len() as u64)));
    c.number("rows_copied", jobs.iter().map(|j| Some(j.rows_copied)));
    c.number("changes", jobs.iter().map(|j| Some(j.changes)));
    c.number("flushes", jobs.iter().map(|j| Some(j.flushes)));
    c.text("schema_changes", jobs.iter().map(|j| Some(j.schema_changes.to_string())));
    c.text("left_out", jobs.iter().map(|j| lines(&j.left_out)));
    c.text("reason", jobs.iter().map(|j| j.error.as_ref().map(Error::line)));
    c.text("fix", jobs.iter().map(|j| j.error.as_ref().and_then(|e| e.hint.clone())));
    c.batch()
}

fn tables(jobs: &[JobStatus]) -> Result<RecordBatch> {
    let all: Vec<(&str, &TableStatus)> =
        jobs.iter().flat_map(|j| j.tables.iter().map(|t| (j.name.as_str(), t))).collect();
    let mut c = Columns(Vec::new());
    c.text("job", all.iter().map(|(job, _)| Some((*job).to_string())));
    c.text("source", all.iter().map(|(_, t)| Some(t.name.to_string())));
    c.text("target", all.iter().map(|(_, t)| Some(t.target.to_string())));
    c.text("state", all.iter().map(|(_, t)| Some(t.state.clone())));
    c.number("rows_estimated", all.iter().map(|(_, t)| t.rows_estimated));
    c.number("rows_copied", all.iter().map(|(_, t)| Some(t.rows_copied)));
    c.number("splits_done", all.iter().map(|(_, t)| Some(t.splits_done)));
    c.number("splits", all.iter().map(|(_, t)| Some(t.splits)));
    c.number("changes", all.iter().map(|(_, t)| Some(t.changes)));
    c.text("left_out", all.iter().map(|(_, t)| lines(&t.left_out)));
    c.text("reason", all.iter().map(|(_, t)| t.error.as_ref().map(Error::line)));
    c.text("fix", all.iter().map(|(_, t)| t.error.as_ref().and_then(|e| e.hint.clone())));
    c.batch()
}

/// One note a line; NULL without any.
fn lines(notes: &[String]) -> Option<String> {
    (!notes.is_empty()).then(|| notes.join("\n"))
}

/// What is wrong now, of jobs and of tables.
fn errors(jobs: &[JobStatus]) -> Result<RecordBatch> {
    let all: Vec<(&str, Option<String>, &Error)> = jobs
        .iter()
        .flat_map(|j| {
            let own = j.error.iter().map(|e| (j.name.as_str(), None, e));
            let tables = j.tables.iter();
            own.chain(tables.filter_map(|t| t.error.as_ref().map(|e| (j.name.as_str(), Some(t.name.to_string()), e))))
        })
        .collect();
    let mut c = Columns(Vec::new());
    c.text("job", all.iter().map(|(job, ..)| Some((*job).to_string())));
    c.text("source_table", all.iter().map(|(_, table, _)| table.clone()));
    c.text("kind", all.iter().map(|(.., e)| serde_json::to_value(e.kind).ok()?.as_str().map(str::to_string)));
    c.text("reason", all.iter().map(|(.., e)| Some(e.line())));
    c.text("fix", all.iter().map(|(.., e)| e.hint.clone()));
    c.batch()
}

#[async_trait]
impl SystemTables for Jobs {
    fn tables(&self) -> Vec<(&'static str, SchemaRef)> {
        let schema = |batch: Result<RecordBatch>| {
            batch.map_or_else(|_| Arc::new(Schema::new(vec![Field::new("name", DataType::Utf8, true)])), |b| b.schema())
        };
        vec![
            ("freshet_jobs", schema(jobs(&[]))),
            ("freshet_tables", schema(tables(&[]))),
            ("freshet_errors", schema(errors(&[]))),
        ]
    }

    async fn rows(&self, table: &str) -> Result<RecordBatch> {
        let status = self.0.status()?;
        match table {
            "freshet_jobs" => jobs(&status),
            "freshet_tables" => tables(&status),
            "freshet_errors" => errors(&status),
            other => Err(Error::not_found("there is no such table").with("table", other)),
        }
    }

    async fn control(&self, command: JobCommand) -> Result<()> {
        let done = match &command {
            JobCommand::Pause { name } => self.0.pause(name).await,
            JobCommand::Resume { name } => self.0.resume(name, None).await,
            JobCommand::Drop { name, .. } => self.0.drop_job(name).await,
        };
        match (done, command) {
            (Err(e), JobCommand::Drop { if_exists: true, .. }) if e.kind == ErrorKind::NotFound => Ok(()),
            (Err(e), JobCommand::Pause { name } | JobCommand::Resume { name } | JobCommand::Drop { name, .. })
                if e.kind == ErrorKind::NotFound =>
            {
                Err(unknown_job(&name, &self.0.status()?))
            }
            (done, _) => done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_do_not_depend_on_rows() {
        let status: JobStatus = serde_json::from_value(serde_json::json!({
            "name": "shop", "state": "failed", "source": "mysql://root:***@db/shop", "sink": "embedded:",
            "position": null, "lag_ms": 1500, "lag_bytes": null, "rows_copied": 1, "changes": 2, "flushes": 3,
            "transactions": 4, "error": Error::permission("access denied").hint("grant it"), "started_ms": null,
            "tables": [{
                "name": {"database": "shop", "table": "t"}, "target": {"database": "dw", "table": "t"},
                "state": "live", "rows_estimated": null, "rows_copied": 1, "bytes_copied": 1, "splits_done": 1,
                "splits": 1, "changes": 2, "error": Error::schema("odd")
            }]
        }))
        .unwrap();
        let one = [status];
        for (empty, full, rows) in
            [(jobs(&[]), jobs(&one), 1), (tables(&[]), tables(&one), 1), (errors(&[]), errors(&one), 2)]
        {
            let (empty, full) = (empty.unwrap(), full.unwrap());
            assert_eq!(empty.schema(), full.schema());
            assert_eq!((empty.num_rows(), full.num_rows()), (0, rows));
        }
    }
}
