//! `tables`: what a source has.

use freshet_core::secret::redact_url;
use freshet_core::{Discovered, Error, Result, Source, TableName, TablePattern};
use serde_json::json;

use super::args::Tables;
use super::check::source_url;
use crate::connectors::{Sources, pattern};
use crate::nearest::did_you_mean;
use crate::render::table::table;
use crate::render::{Printer, Reply, Style, bytes, count};

pub(super) async fn run(args: &Tables, printer: &Printer) -> Result<Reply> {
    let url = source_url(&args.source, args.select.password_file.as_deref())?;
    let source = Sources::default().open(&url)?;
    // Without any selection: everything that the account sees.
    let wanted = match pattern(&url, args.select.tables.as_deref()) {
        Err(_) if args.select.tables.is_none() => TablePattern::parse("*.*", None)?,
        other => other?,
    };
    let found = discover(source.as_ref(), &wanted, &url).await?;
    let rows = found.iter().map(|t| {
        let (columns, key) = match &t.schema {
            Ok(s) if s.has_key() => (s.columns.len().to_string(), s.key.join(", ")),
            Ok(s) => (s.columns.len().to_string(), "none".into()),
            Err(_) => (String::new(), String::new()),
        };
        let number = |n: Option<u64>, shown: fn(u64) -> String| n.map_or(String::new(), shown);
        vec![t.name.to_string(), columns, key, number(t.rows, count), number(t.bytes, bytes)]
    });
    let head = ["Table", "Columns", "Key", "Rows (estimate)", "Size"];
    printer.data(&table(&head, &["Columns", "Rows (estimate)", "Size"], rows));
    for (name, error) in found.iter().filter_map(|t| t.schema.as_ref().err().map(|e| (&t.name, e))) {
        printer.note(&unusable(name, error, printer.style));
    }
    let list: Vec<_> = found
        .iter()
        .map(|t| {
            let key = t.schema.as_ref().ok().map(|s| &s.key);
            let columns = t.schema.as_ref().ok().map(|s| s.columns.len());
            let error = t.schema.as_ref().err();
            json!({"name": t.name.to_string(), "key": key, "columns": columns, "rows": t.rows, "bytes": t.bytes, "error": error})
        })
        .collect();
    Ok(Reply::of(json!({ "tables": list })))
}

/// The tables that match, at least one.
///
/// # Errors
/// `NotFound` with the name that was perhaps meant, or what the source says.
pub(super) async fn discover(source: &dyn Source, wanted: &TablePattern, url: &str) -> Result<Vec<Discovered>> {
    let found = source.tables(wanted).await?;
    if !found.is_empty() {
        return Ok(found);
    }
    let shown = redact_url(&wanted.to_string());
    let error = Error::not_found(format!("no table matches {shown}")).with("source", redact_url(url));
    // The suggestion is a courtesy: failing to make it is no error.
    let all = source.tables(&TablePattern::parse("*.*", None)?).await.unwrap_or_default();
    let names: Vec<String> = all.iter().map(|t| t.name.to_string()).collect();
    let near = did_you_mean(&wanted.to_string(), names.iter().map(String::as_str));
    Err(error.hint(near.unwrap_or_else(|| {
        "`freshet tables` with the same URL and --tables '*.*' lists what there is, as far as the account may see it".into()
    })))
}

/// Why a table cannot be followed.
pub(super) fn unusable(name: &TableName, error: &Error, style: Style) -> String {
    let hint = error.hint.as_ref().map_or(String::new(), |h| format!("\n{} {h}", style.cyan("hint:")));
    format!("{} {name} cannot be followed: {}{hint}", style.yellow("warning:"), error.line())
}
