//! `check`: whether the tables can be followed, with the statement that mends each finding.

use std::path::Path;

use freshet_core::secret::redact_url;
use freshet_core::{Check, Error, Finding, Result, Verdict};
use serde_json::json;

use super::args::From;
use crate::connectors::{EMBEDDED, Sources, open_file_sink, pattern, with_password_file};
use crate::render::checks::{findings, verdict};
use crate::render::{Printer, Reply};

/// The source's URL, with the file that holds its password.
pub(super) fn source_url(source: &str, password_file: Option<&Path>) -> Result<String> {
    match password_file {
        Some(file) => with_password_file(source, file),
        None => Ok(source.to_string()),
    }
}

pub(super) async fn run(from: &From, printer: &Printer) -> Result<Reply> {
    let url = source_url(&from.source, from.select.password_file.as_deref())?;
    let source = Sources::default().open(&url)?;
    let tables = pattern(&url, from.select.tables.as_deref())?;
    let mut all = source.check(&tables).await;
    printer.data(&findings(&format!("Source  {}", redact_url(&from.source)), &all, printer.data_style));
    if let Some(sink) = from.sink.as_deref().filter(|s| *s != EMBEDDED) {
        let of_sink = open_file_sink(sink)?.check(&tables).await;
        printer.data(&findings(&format!("Sink  {}", redact_url(sink)), &of_sink, printer.data_style));
        all.extend(of_sink);
    }
    let (failed, text) = verdict(&all);
    if failed == 0 {
        printer.note(&format!("{} {text}", printer.style.green("ok:")));
    }
    Ok(reply(&all, failed, text))
}

fn reply(all: &[Finding], failed: usize, text: String) -> Reply {
    let failed = (failed > 0).then(|| {
        Error::source_state(text).hint("mend what failed, where there is a → with that statement, then check again")
    });
    Reply { result: json!({ "findings": all }), failed }
}

/// The findings before a job is made; `Some` when it cannot work.
pub(super) async fn preflight(
    source: &dyn Check,
    tables: &freshet_core::TablePattern,
    title: &str,
    printer: &Printer,
) -> Option<Reply> {
    let mut all = source.check(tables).await;
    // A table that cannot be followed is suspended with the reason; the others go on.
    let about_all = all.iter().filter(|f| f.table.is_none());
    let (failed, text) = verdict(&about_all.cloned().collect::<Vec<_>>());
    for finding in all.iter_mut().filter(|f| f.table.is_some() && f.verdict == Verdict::Failed) {
        finding.verdict = Verdict::Warning;
    }
    if failed > 0 {
        if !printer.json {
            printer.error_text(&findings(title, &all, printer.style));
        }
        return Some(reply(&all, failed, text));
    }
    let warnings: Vec<Finding> = all.into_iter().filter(|f| f.verdict == Verdict::Warning).collect();
    if !warnings.is_empty() {
        printer.note(findings(title, &warnings, printer.style).trim_end());
    }
    None
}
