//! Runs the files of `tests/slt` against a warehouse in a temporary folder. The format is sqllogictest's: `statement ok`,
//! `statement error PATTERN` (a part of the message, or MySQL's number), `query [rowsort]` with the expected rows
//! behind `----`, values separated by blanks, NULL and (empty) spelled out; besides, `flush` writes what is in memory
//! into segments, and `restart` closes and opens the warehouse.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // test code, though not marked as such

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::SchemaRef;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use async_trait::async_trait;
use freshet_core::{Error, Result};
use freshet_warehouse::sql::{JobCommand, Outcome, Session, Sql, SqlOptions, SystemTables, mysql_error};
use freshet_warehouse::{Options, Partial, TableWrite, Warehouse};
use futures::StreamExt;

/// An engine with one job.
struct OneJob;

#[async_trait]
impl SystemTables for OneJob {
    fn tables(&self) -> Vec<(&'static str, SchemaRef)> {
        vec![("freshet_jobs", jobs().schema())]
    }

    async fn rows(&self, table: &str) -> Result<RecordBatch> {
        match table {
            "freshet_jobs" => Ok(jobs()),
            other => Err(Error::not_found(format!("table {other} does not exist"))),
        }
    }

    async fn control(&self, command: JobCommand) -> Result<()> {
        match command {
            JobCommand::Pause { name } | JobCommand::Resume { name } if name == "shop" => Ok(()),
            JobCommand::Drop { name, if_exists } if name == "shop" || if_exists => Ok(()),
            other => Err(Error::not_found(format!("no such job: {other:?}"))),
        }
    }
}

fn jobs() -> RecordBatch {
    let text = |s: &str| Arc::new(arrow::array::StringArray::from(vec![s])) as _;
    let rows = Arc::new(arrow::array::Int64Array::from(vec![42])) as _;
    RecordBatch::try_from_iter([("name", text("shop")), ("state", text("running")), ("rows", rows)]).unwrap()
}

struct Runner {
    dir: tempfile::TempDir,
    warehouse: Option<Arc<Warehouse>>,
    session: Option<Session>,
}

impl Runner {
    async fn start() -> Runner {
        let mut runner = Runner { dir: tempfile::tempdir().unwrap(), warehouse: None, session: None };
        runner.open().await;
        runner
    }

    async fn open(&mut self) {
        let database = self.session.take().and_then(|s| s.database().map(str::to_string));
        if let Some(warehouse) = self.warehouse.take() {
            warehouse.close().await.unwrap();
        }
        let warehouse = Warehouse::open(self.dir.path(), Options::default()).await.unwrap();
        let sql = Sql::new(Arc::clone(&warehouse), SqlOptions::default(), Arc::new(OneJob));
        let mut session = sql.session("root");
        if let Some(database) = database {
            session.use_database(&database).unwrap();
        }
        (self.warehouse, self.session) = (Some(warehouse), Some(session));
    }

    async fn run(&mut self, sql: &str) -> Result<Vec<String>> {
        match self.session.as_mut().unwrap().execute(sql).await? {
            Outcome::Done { affected, .. } => Ok(vec![affected.to_string()]),
            Outcome::Rows { mut stream, .. } => {
                let mut rows = Vec::new();
                while let Some(batch) = stream.next().await {
                    rows.extend(lines(&batch?));
                }
                Ok(rows)
            }
        }
    }
}

fn lines(batch: &RecordBatch) -> Vec<String> {
    let options = FormatOptions::default()
        .with_null("NULL")
        .with_datetime_format(Some("%Y-%m-%dT%H:%M:%S%.6f"))
        .with_timestamp_format(Some("%Y-%m-%dT%H:%M:%S%.6f"))
        .with_timestamp_tz_format(Some("%Y-%m-%dT%H:%M:%S%.6f%:z"));
    let formatters: Vec<_> =
        batch.columns().iter().map(|c| ArrayFormatter::try_new(c.as_ref(), &options).unwrap()).collect();
    let value = |row: usize, column: usize| {
        if batch.column(column).is_null(row) {
            return "NULL".to_string();
        }
        match formatters[column].value(row).to_string() {
            text if text.is_empty() => "(empty)".to_string(),
            text => text,
        }
    };
    let line = |row| (0..batch.num_columns()).map(|c| value(row, c)).collect::<Vec<_>>().join(" ");
    (0..batch.num_rows()).map(line).collect()
}

/// The records of a file: their line number, their head, the lines behind it.
fn records(text: &str) -> Vec<(usize, String, Vec<String>)> {
    let mut out: Vec<(usize, String, Vec<String>)> = Vec::new();
    let mut open = false;
    for (i, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            open = false;
        } else if open {
            out.last_mut().unwrap().2.push(line.to_string());
        } else if !line.starts_with('#') {
            out.push((i + 1, line.trim().to_string(), Vec::new()));
            open = true;
        }
    }
    out
}

/// Runs one file and returns what was not as expected.
async fn run_file(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap();
    let mut runner = Runner::start().await;
    let mut wrong = Vec::new();
    for (line, head, body) in records(&text) {
        let place = format!("{}:{line}", path.file_name().unwrap().to_string_lossy());
        let split = body.iter().position(|l| l == "----").unwrap_or(body.len());
        let sql = body[..split].join("\n");
        let mut expected = body.get(split + 1..).unwrap_or_default().to_vec();
        let mut words = head.splitn(3, ' ');
        match (words.next(), words.next(), words.next()) {
            (Some("statement"), Some("ok"), None) => {
                if let Err(e) = runner.run(&sql).await {
                    wrong.push(format!("{place}: {sql}\n  failed: {e}"));
                }
            }
            (Some("statement"), Some("error"), Some(part)) => match runner.run(&sql).await {
                Ok(rows) => wrong.push(format!("{place}: {sql}\n  should fail, but gave {rows:?}")),
                Err(e) => {
                    let (number, state) = mysql_error(&e);
                    let all = format!("{number} ({state}): {e}");
                    if !all.contains(part) {
                        wrong.push(format!("{place}: {sql}\n  the error should have {part}, but is {all}"));
                    }
                }
            },
            (Some("query"), sort, None) => match runner.run(&sql).await {
                Err(e) => wrong.push(format!("{place}: {sql}\n  failed: {e}")),
                Ok(mut rows) => {
                    if sort == Some("rowsort") {
                        rows.sort();
                        expected.sort();
                    }
                    let rows: Vec<String> = rows.iter().flat_map(|r| r.lines().map(str::to_string)).collect();
                    if rows != expected {
                        wrong.push(format!(
                            "{place}: {sql}\n  expected:\n{}\n  got:\n{}",
                            expected.join("\n"),
                            rows.join("\n")
                        ));
                    }
                }
            },
            (Some("flush"), None, None) => {
                if let Err(e) = runner.warehouse.as_ref().unwrap().flush().await {
                    wrong.push(format!("{place}: flush failed: {e}"));
                }
            }
            (Some("restart"), None, None) => runner.open().await,
            other => panic!("{place}: {other:?} is not a record"),
        }
    }
    wrong
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_files() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/slt");
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "slt"));
    files.sort();
    assert!(!files.is_empty());
    let mut wrong = Vec::new();
    for file in files {
        wrong.extend(run_file(&file).await);
    }
    assert!(wrong.is_empty(), "{} records are wrong\n\n{}", wrong.len(), wrong.join("\n\n"));
}

/// A job writes one column while statements change another: no change of the job is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_beside_a_job_lose_none_of_its_changes() {
    let mut runner = Runner::start().await;
    for sql in ["create database d", "use d", "create table t (k bigint not null, a int, b int) unique key (k)"] {
        runner.run(sql).await.unwrap();
    }
    runner.run("insert into t values (1, 0, 0), (2, 0, 0), (3, 0, 0)").await.unwrap();
    let warehouse = Arc::clone(runner.warehouse.as_ref().unwrap());
    let job = tokio::spawn(async move {
        for n in 1..=300 {
            let keys = Arc::new(arrow::array::Int64Array::from(vec![1, 2, 3])) as _;
            let values = Arc::new(arrow::array::Int32Array::from(vec![n; 3])) as _;
            let rows = RecordBatch::try_from_iter([("k", keys), ("b", values)]).unwrap();
            let table = freshet_core::TableName::new("d", "t");
            let partial = Some(Partial { bases: None, exact: true });
            let write = TableWrite { partial, ..TableWrite::new(table, rows, None) };
            warehouse.commit(None, vec![write]).await.unwrap();
        }
    });
    let mut statements = 0;
    while !job.is_finished() {
        assert_eq!(runner.run("update t set a = a + 1 where k < 3").await.unwrap(), ["2"]);
        statements += 1;
    }
    job.await.unwrap();
    let rows = runner.run("select * from t order by k").await.unwrap();
    assert_eq!(rows, [format!("1 {statements} 300"), format!("2 {statements} 300"), "3 0 300".to_string()]);
    assert!(statements > 1);
}
