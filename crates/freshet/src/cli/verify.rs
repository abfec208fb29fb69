//! `verify`: whether source and target are equal, while changes flow.

use std::sync::{Arc, Mutex, PoisonError};

use freshet_core::engine::{Engine, TableReport, VerifyOptions, VerifyReport};
use freshet_core::secret::redact_url;
use freshet_core::{Error, ErrorKind, Result, TablePattern};
use serde_json::{Value, json};

use super::args::Verify;
use crate::connectors::database_of;
use crate::node::{Asked, unknown_job};
use crate::render::verify::{progress, report as text};
use crate::render::{Printer, Reply};

pub(super) async fn run(args: &Verify, asked: &Asked<'_>, printer: &Printer) -> Result<Reply> {
    let mut show = |value: Value| {
        if let (true, Ok(table)) = (printer.terminal, serde_json::from_value::<TableReport>(value)) {
            printer.error_text(&format!("\r\x1b[K{}", progress(&table)));
        }
    };
    let answer = asked
        .running(
            "verify",
            json!({ "job": args.job, "tables": args.tables, "sample": args.sample, "repair": args.repair }),
            &mut show,
        )
        .await;
    if printer.terminal {
        printer.error_text("\r\x1b[K");
    }
    let report: VerifyReport = serde_json::from_value(answer.map_err(|e| {
        match e.kind {
            ErrorKind::NotFound if e.message.starts_with("no Freshet is running") => Error { hint: None, ..e }
                .hint("verify needs the running job: start it with `freshet serve` or `freshet sync`"),
            _ => e,
        }
    })?)
    .map_err(|e| Error::internal("an answer cannot be read").because(e))?;
    printer.data(&text(&report, printer.data_style));
    Ok(reply(&report))
}

/// The report as the answer of a command: not equal is a failure.
pub(super) fn reply(report: &VerifyReport) -> Reply {
    let differing = report.tables.iter().filter(|t| !t.equal).count();
    let why = match report.tables.len() {
        0 => {
            Error::data("no table was compared").hint("`freshet status` shows the job's tables and what they wait for")
        }
        n => Error::data(format!("{differing} of {n} tables are not equal to the source")).hint(
            "`freshet verify JOB --repair` writes the keys that differ, `freshet resync JOB TABLES` copies again",
        ),
    };
    Reply { failed: (!report.equal).then_some(why), ..Reply::of(report) }
}

/// What is to be verified.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Wanted<'a> {
    /// Only these tables.
    pub(crate) tables: Option<&'a str>,
    /// At most so many key ranges of each.
    pub(crate) sample: Option<u64>,
    /// Differing keys are written anew.
    pub(crate) repair: bool,
}

/// A pattern that some table of the job matches.
///
/// # Errors
/// `NotFound` for an unknown job or tables that it has not.
pub(crate) fn pattern(engine: &Engine, job: &str, tables: &str) -> Result<TablePattern> {
    let Some(record) = engine.stored(job)? else { return Err(unknown_job(job, &engine.status()?)) };
    let pattern = TablePattern::parse(tables, database_of(&record.spec.source).as_deref())?;
    if !engine.job(job)?.tables.iter().any(|t| pattern.matches(&t.name)) {
        let shown = redact_url(&pattern.to_string());
        return Err(Error::not_found(format!("the job has no table that matches {shown}"))
            .with("job", job)
            .hint(format!("`freshet status {job}` lists its tables")));
    }
    Ok(pattern)
}

/// Verifies in the process that runs the job.
///
/// # Errors
/// `NotFound` for an unknown job or tables that it has not, else what the source says.
pub(crate) async fn in_process(
    engine: &Arc<Engine>,
    job: &str,
    wanted: Wanted<'_>,
    progress: &mut (dyn FnMut(Value) + Send),
) -> Result<VerifyReport> {
    if engine.stored(job)?.is_none() {
        return Err(unknown_job(job, &engine.status()?));
    }
    let tables = wanted.tables.map(|t| pattern(engine, job, t)).transpose()?;
    let progress = Mutex::new(progress);
    let tell = |table: &TableReport| {
        if let Ok(value) = serde_json::to_value(table) {
            (progress.lock().unwrap_or_else(PoisonError::into_inner))(value);
        }
    };
    let options = VerifyOptions { tables, sample: wanted.sample, repair: wanted.repair };
    engine.verify(job, options, &tell).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use freshet_core::TableName;

    #[test]
    fn not_equal_is_a_failure_with_what_to_do() {
        let table = |equal: bool| -> TableReport {
            let name = TableName::new("shop", "t");
            let report = json!({"name": name, "equal": equal, "rows": 3, "ranges": 1, "differing": 1, "keys": []});
            serde_json::from_value(report).expect("a report")
        };
        let reports = [
            (vec![], Some("no table was compared")),
            (vec![table(true), table(false)], Some("1 of 2 tables are not equal to the source")),
            (vec![table(true)], None),
        ];
        for (tables, said) in reports {
            let report = VerifyReport { equal: said.is_none(), tables };
            let failed = reply(&report).failed;
            assert_eq!(failed.as_ref().map(|e| e.message.as_str()), said);
            assert!(failed.is_none_or(|e| e.kind.exit_code() == 1 && e.hint.is_some()));
        }
    }
}
