//! Jobs and their tables, as `status` and the end of `sync` show them.

use freshet_core::engine::{JobState, JobStatus, SchemaPolicy, TableStatus};

use super::progress::share;
use super::table::table;
use super::{Style, bytes, count, lag};

/// Notes of a table that are shown; all of them are in `freshet_tables` and with `--json`.
const NOTES: usize = 10;

/// A job with its tables.
pub(crate) fn job(status: &JobStatus, style: Style) -> String {
    let state = status.state.to_string();
    let state = match status.state {
        JobState::Streaming | JobState::Copying | JobState::Starting => style.green(&state),
        JobState::Retrying | JobState::Paused | JobState::Stopped | JobState::Dropping => style.yellow(&state),
        JobState::Failed => style.red(&state),
    };
    let mut out = format!("{}  {state}  {} → {}\n", style.bold(&status.name), status.source, status.sink);
    let mut facts = Vec::new();
    facts.extend(status.position.as_ref().filter(|p| !p.is_empty()).map(|p| format!("position {p}")));
    facts.extend(status.lag_ms.map(|ms| format!("lag {}", lag(ms))));
    facts.extend(status.lag_bytes.filter(|b| *b > 0).map(|b| format!("{} behind", bytes(b))));
    facts.extend(
        status.spool.as_ref().filter(|s| s.bytes > 0).map(|s| format!("{} of the log spooled", bytes(s.bytes))),
    );
    let large = status.large.as_ref().map(|l| match l.shown {
        true => format!("a large transaction is shown in parts, {} so far: this target cannot hold them back", l.parts),
        false => format!("a large transaction is on its way, {} parts so far", l.parts),
    });
    facts.extend(large);
    let policy = Some(status.schema_changes).filter(|p| *p != SchemaPolicy::default());
    facts.extend(policy.map(|p| format!("schema changes: {p}")));
    if !facts.is_empty() {
        out.push_str(&format!("{}\n", facts.join(", ")));
    }
    if let Some(why) = status.spool.as_ref().and_then(|s| s.stopped.as_ref()) {
        out.push_str(&format!(
            "{} the log is no longer spooled, because {why}; what comes now has to stay in the source's log until all \
             tables are live\n",
            style.yellow("note:")
        ));
    }
    if let Some(error) = &status.error {
        out.push_str(&super::error(error, style));
    }
    out.push_str(&tables(status));
    for (name, error) in status.tables.iter().filter_map(|t| t.error.as_ref().map(|e| (&t.name, e))) {
        out.push_str(&format!("\n{} {name}: {}\n", style.yellow("suspended"), error.line()));
        out.push_str(&error.hint.as_ref().map_or(String::new(), |h| format!("{} {h}\n", style.cyan("hint:"))));
    }
    out.push_str(&left_out(status, style));
    out
}

/// What targets have not followed of their sources' schema changes, and how they take it over.
fn left_out(status: &JobStatus, style: Style) -> String {
    let mut out = String::new();
    for table in status.tables.iter().filter(|t| !t.left_out.is_empty()) {
        out.push('\n');
        let from = table.left_out.len().saturating_sub(NOTES);
        if from > 0 {
            out.push_str(&format!("{} {}: {from} earlier changes\n", style.yellow("left out"), table.name));
        }
        for what in &table.left_out[from..] {
            out.push_str(&format!("{} {}: {what}\n", style.yellow("left out"), table.name));
        }
        let resync = format!("freshet resync {} {}", status.name, table.name);
        out.push_str(&format!("{} {resync} takes the source's definition and rows over\n", style.cyan("hint:")));
    }
    for what in &status.left_out {
        out.push_str(&format!("\n{} {what}\n", style.yellow("left out")));
    }
    out
}

/// The table of a job's tables.
pub(crate) fn tables(status: &JobStatus) -> String {
    if status.tables.is_empty() {
        return String::new();
    }
    let elsewhere = status.tables.iter().any(|t| t.target != t.name);
    let rows = status.tables.iter().map(|t| {
        let copied = match share(t).filter(|s| *s < 1.0 && t.state == "copying") {
            Some(share) => format!("{} ({}%)", count(t.rows_copied), (share * 100.0) as u64),
            None => count(t.rows_copied),
        };
        let mut row = vec![t.name.to_string(), state(t), copied, count(t.changes)];
        if elsewhere {
            row.insert(1, t.target.to_string());
        }
        row
    });
    let mut head = vec!["Table", "State", "Rows copied", "Changes"];
    if elsewhere {
        head.insert(1, "Target");
    }
    table(&head, &["Rows copied", "Changes"], rows)
}

/// `live`, or what it is on its way to be.
fn state(table: &TableStatus) -> String {
    let state = table.state.replace('_', " ");
    match &table.resync {
        Some(way) => format!("{state}, new copy {}", way.replace('_', " ")),
        None => state,
    }
}

#[cfg(test)]
mod tests {
    use super::super::progress;
    use super::*;
    use freshet_core::{Error, TableName};

    #[test]
    fn shows_tables_and_reasons() {
        let mut status: JobStatus = serde_json::from_value(serde_json::json!({
            "name": "shop", "state": "streaming", "source": "mysql://root:***@db/shop", "sink": "embedded:",
            "position": "bin.1:4", "lag_ms": 3, "lag_bytes": 0, "rows_copied": 12, "changes": 5, "flushes": 1,
            "transactions": 2, "error": null, "started_ms": null, "tables": []
        }))
        .unwrap();
        let mut audit: freshet_core::engine::TableStatus = serde_json::from_value(serde_json::json!({
            "name": {"database": "shop", "table": "audit"}, "target": {"database": "dw", "table": "audit"},
            "state": "suspended", "rows_estimated": 10, "rows_copied": 1200, "bytes_copied": 1, "splits_done": 0,
            "splits": 1, "changes": 0, "error": null
        }))
        .unwrap();
        audit.error = Some(Error::unsupported("no primary key").hint("add one"));
        status.tables = vec![audit];
        let text = job(&status, Style { color: false });
        assert_eq!(
            text,
            "shop  streaming  mysql://root:***@db/shop → embedded:\nposition bin.1:4, lag 3 ms\n \
             Table        Target     State       Rows copied   Changes\n\
             ───────────────────────────────────────────────────────────\n \
             shop.audit   dw.audit   suspended         1,200         0\n\n\
             suspended shop.audit: no primary key\nhint: add one\n"
        );
        status.spool = Some(freshet_core::engine::SpoolStatus {
            bytes: 3 << 20,
            limit: 4 << 20,
            stopped: Some("it is full".into()),
        });
        let text = job(&status, Style { color: false });
        assert!(text.contains(" of the log spooled") && text.contains("because it is full"), "{text}");
        assert_eq!(progress::share(&status.tables[0]), Some(0.99));
        (status.spool, status.schema_changes) = (None, SchemaPolicy::Lenient);
        status.tables[0].left_out = vec!["column x was dropped: the target keeps it (ALTER TABLE t DROP x)".into()];
        status.left_out = vec!["shop.old was dropped: its target dw.old stays (DROP TABLE old)".into()];
        let text = job(&status, Style { color: false });
        assert!(text.contains("position bin.1:4, lag 3 ms, schema changes: lenient\n"), "{text}");
        let end = "left out shop.audit: column x was dropped: the target keeps it (ALTER TABLE t DROP x)\n\
                   hint: freshet resync shop shop.audit takes the source's definition and rows over\n\n\
                   left out shop.old was dropped: its target dw.old stays (DROP TABLE old)\n";
        assert!(text.ends_with(end), "{text}");
        status.tables[0].target = TableName::new("shop", "audit");
        assert!(!tables(&status).contains("dw"));
    }
}
