//! `plan`: the statements that would create the targets, and the mapping of types. Nothing is done.

use freshet_core::datatype::Doris;
use freshet_core::engine::SchemaPolicy;
use freshet_core::{Result, TableChange, TableName, ddl};
use serde_json::json;

use super::args::From;
use super::check::source_url;
use super::tables::{discover, unusable};
use crate::connectors::{EMBEDDED, Sources, open_file_sink, pattern};
use crate::render::checks::plan;
use crate::render::{Printer, Reply};

pub(super) async fn run(from: &From, changes: Option<SchemaPolicy>, printer: &Printer) -> Result<Reply> {
    let changes = changes.unwrap_or_default();
    if changes != SchemaPolicy::default() {
        printer.data(&format!("-- schema changes: {changes}, {}\n\n", meaning(changes)));
    }
    let url = source_url(&from.source, from.select.password_file.as_deref())?;
    let source = Sources::default().open(&url)?;
    let tables = pattern(&url, from.select.tables.as_deref())?;
    let sink = from.sink.as_deref().filter(|s| *s != EMBEDDED).map(open_file_sink).transpose()?;
    let which = if sink.is_some() { Doris::Cluster } else { Doris::Embedded };
    let mut planned = Vec::new();
    for table in discover(source.as_ref(), &tables, &url).await? {
        let schema = match table.schema {
            Ok(schema) => schema,
            Err(e) => {
                printer.note(&unusable(&table.name, &e, printer.style));
                planned.push(json!({ "table": table.name.to_string(), "error": e }));
                continue;
            }
        };
        let database = from.select.target_database.as_ref().unwrap_or(&schema.name.database);
        let target = TableName::new(database, &schema.name.table);
        let change = TableChange::CreateTable(schema.clone());
        let statements = match &sink {
            Some(sink) => sink.plan(&target, &change, Some(&schema))?,
            None => ddl::doris::plan(which, &target, &change, Some(&schema))?,
        };
        let types: Vec<String> =
            schema.columns.iter().map(|c| c.data_type.to_doris(which, schema.key.contains(&c.name))).collect();
        if !planned.is_empty() {
            printer.data("\n");
        }
        printer.data(&plan(&schema, &statements, &types, printer.data_style));
        let columns: Vec<_> = schema
            .columns
            .iter()
            .zip(&types)
            .map(
                |(c, t)| json!({"name": c.name, "source": c.source_type, "type": c.data_type.to_string(), "target": t}),
            )
            .collect();
        planned.push(json!({
            "table": schema.name.to_string(), "target": target.to_string(), "columns": columns, "key": schema.key,
            "statements": statements,
        }));
    }
    Ok(Reply::of(json!({ "tables": planned, "schema_changes": changes })))
}

/// What a policy makes of a table's later changes, in a few words.
fn meaning(policy: SchemaPolicy) -> &'static str {
    match policy {
        SchemaPolicy::Evolve => "a target does the same as its source, or its table waits",
        SchemaPolicy::TryEvolve => "a target does the same as its source as far as it can",
        SchemaPolicy::Lenient => "a target gains what its source gains, and keeps what its source drops",
        SchemaPolicy::Ignore => "a target stays as it is created here",
        SchemaPolicy::Exception => "a table whose definition changes waits for a person",
    }
}
