//! `sql`: statements for the warehouse, of the running process or of the data directory.

use std::io::{IsTerminal, Read};

use freshet_core::secret::redact_url;
use freshet_core::{Error, Result};
use serde_json::json;

use super::args::Sql;
use crate::node::Asked;
use crate::render::rows::{as_lines, as_table};
use crate::render::{Printer, Reply};

pub(super) async fn run(args: &Sql, asked: &Asked<'_>, printer: &Printer) -> Result<Reply> {
    let query = match &args.query {
        Some(query) => query.clone(),
        None => read_input()?,
    };
    not_a_url(&query)?;
    let results = asked.sql(&query, args.database.as_deref()).await?;
    let table = std::io::stdout().is_terminal();
    for set in &results {
        printer.data(&if table { as_table(set) } else { as_lines(set) });
        if set.truncated && !table {
            printer.note(&format!("{} only the first rows are shown", printer.style.yellow("warning:")));
        }
    }
    Ok(Reply::of(json!({ "results": results })))
}

/// The message about a statement quotes it, and a URL holds a password.
fn not_a_url(query: &str) -> Result<()> {
    let (word, shown) = (query.trim(), redact_url(query.trim()));
    let is_url = word.contains("://") || shown != word;
    if is_url && !word.contains(char::is_whitespace) {
        return Err(Error::config(format!("'{shown}' is a URL and no statement"))
            .hint("`freshet sql 'SHOW JOBS'` asks the warehouse; --data names the folder that it is in"));
    }
    Ok(())
}

fn read_input() -> Result<String> {
    let mut text = String::new();
    std::io::stdin()
        .lock()
        .read_to_string(&mut text)
        .map_err(|e| Error::config("the statements on the standard input cannot be read").because(e))?;
    Ok(text)
}
