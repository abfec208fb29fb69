//! Progress of a job: a few lines that are redrawn on a terminal, plain lines elsewhere. Rates are over the last
//! seconds, so that they show what happens now.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use freshet_core::TableName;
use freshet_core::engine::{JobState, JobStatus, TableStatus};

use super::{Style, clock, count, lag};

/// Over how long a rate is measured.
const WINDOW: Duration = Duration::from_secs(5);
/// Tables that are drawn at most.
const TABLES: usize = 15;

/// Measures a job by looking at it from time to time.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    seen: VecDeque<(Duration, u64, u64, BTreeMap<TableName, u64>)>,
}

impl Meter {
    /// Looks at the job, `at` so long after the beginning.
    pub(crate) fn look(&mut self, at: Duration, job: &JobStatus) {
        let tables = job.tables.iter().map(|t| (t.name.clone(), t.rows_copied)).collect();
        self.seen.push_back((at, job.rows_copied, job.changes, tables));
        while self.seen.len() > 2 && self.seen.front().is_some_and(|(t, ..)| *t + WINDOW < at) {
            self.seen.pop_front();
        }
    }

    fn rate(&self, of: impl Fn(&(Duration, u64, u64, BTreeMap<TableName, u64>)) -> u64) -> f64 {
        let (Some(first), Some(last)) = (self.seen.front(), self.seen.back()) else { return 0.0 };
        let seconds = (last.0 - first.0).as_secs_f64();
        if seconds <= 0.0 { 0.0 } else { of(last).saturating_sub(of(first)) as f64 / seconds }
    }

    /// Rows copied a second.
    pub(crate) fn rows(&self) -> f64 {
        self.rate(|s| s.1)
    }

    /// Changes a second.
    pub(crate) fn changes(&self) -> f64 {
        self.rate(|s| s.2)
    }

    fn table(&self, name: &TableName) -> f64 {
        self.rate(|s| s.3.get(name).copied().unwrap_or(0))
    }
}

/// Share of a table that is copied: by splits, or by rows when there is one split.
pub(crate) fn share(table: &TableStatus) -> Option<f64> {
    if ["live", "catching_up"].contains(&table.state.as_str()) {
        return Some(1.0);
    }
    let by_rows = table.rows_estimated.filter(|n| *n > 0).map(|n| (table.rows_copied as f64 / n as f64).min(0.99));
    match table.splits {
        0 | 1 => by_rows,
        n => Some((table.splits_done as f64 / n as f64).max(by_rows.unwrap_or(0.0).min(0.99))),
    }
}

/// Share of the whole copy, weighed by the tables' estimates, and the seconds that are left at that rate.
pub(crate) fn whole(job: &JobStatus, rows_a_second: f64) -> (Option<f64>, Option<u64>) {
    let tables = || job.tables.iter().filter(|t| t.state != "suspended");
    let weight = |t: &TableStatus| t.rows_estimated.unwrap_or(0).max(t.rows_copied) as f64;
    let total: f64 = tables().map(weight).sum();
    if total <= 0.0 {
        return (None, None);
    }
    let done: f64 = tables().map(|t| weight(t) * share(t).unwrap_or(0.0)).sum();
    let left = (rows_a_second >= 1.0).then(|| ((total - done) / rows_a_second).ceil() as u64);
    (Some(done / total), left)
}

fn percent(share: f64) -> String {
    format!("{}%", (share * 100.0) as u64)
}

fn per_second(rate: f64) -> String {
    count(rate.round() as u64)
}

/// One line about the whole job.
pub(crate) fn line(job: &JobStatus, meter: &Meter) -> String {
    let tables = job.tables.len();
    let suspended = job.tables.iter().filter(|t| t.state == "suspended").count();
    let mut parts = vec![job.state.to_string()];
    match job.state {
        JobState::Copying => {
            let (share, left) = whole(job, meter.rows());
            let done = job.tables.iter().filter(|t| t.splits > 0 && t.splits_done == t.splits).count();
            parts.push(format!("{done} of {tables} tables"));
            parts.push(format!("{} rows", count(job.rows_copied)));
            parts.extend(share.map(percent));
            parts.push(format!("{} rows/s", per_second(meter.rows())));
            parts.extend(left.map(|s| format!("ETA {}", clock(s))));
        }
        _ => {
            let live = job.tables.iter().filter(|t| t.state == "live").count();
            parts.push(format!("{live} of {tables} tables live"));
            parts.push(format!("{} rows copied", count(job.rows_copied)));
            parts.push(format!("{} changes", count(job.changes)));
            parts.push(format!("{}/s", per_second(meter.changes())));
            parts.extend(job.lag_ms.map(|ms| format!("lag {}", lag(ms))));
        }
    }
    if suspended > 0 {
        parts.push(format!("{suspended} suspended"));
    }
    if let Some(error) = &job.error {
        parts.push(error.line());
    }
    format!("{}: {}", job.name, parts.join(", "))
}

/// The lines that are redrawn on a terminal.
pub(crate) fn lines(job: &JobStatus, meter: &Meter, style: Style) -> Vec<String> {
    let mut out = vec![style.bold(&line(job, meter))];
    if job.state != JobState::Copying {
        return out;
    }
    let mut tables: Vec<&TableStatus> = job.tables.iter().filter(|t| t.state == "copying" && !is_done(t)).collect();
    tables.sort_by_key(|t| std::cmp::Reverse(t.rows_copied));
    let hidden = tables.len().saturating_sub(TABLES);
    tables.truncate(TABLES);
    let width = tables.iter().map(|t| t.name.to_string().chars().count()).max().unwrap_or(0);
    for table in tables {
        let name = table.name.to_string();
        let pad = " ".repeat(width - name.chars().count());
        let share = share(table);
        let rate = meter.table(&table.name);
        let left =
            table.rows_estimated.filter(|_| rate >= 1.0).map(|n| n.saturating_sub(table.rows_copied) as f64 / rate);
        let mut text = format!("  {name}{pad}  {}", bar(share.unwrap_or(0.0)));
        text.push_str(&format!(" {:>4}", share.map_or(String::new(), percent)));
        text.push_str(&format!("  {:>12} rows  {:>9} rows/s", count(table.rows_copied), per_second(rate)));
        text.push_str(&left.map_or(String::new(), |s| format!("  ETA {}", clock(s.ceil() as u64))));
        out.push(text);
    }
    if hidden > 0 {
        out.push(style.dim(&format!("  … and {hidden} more")));
    }
    out
}

fn is_done(table: &TableStatus) -> bool {
    table.splits > 0 && table.splits_done == table.splits
}

fn bar(share: f64) -> String {
    const WIDTH: usize = 20;
    let full = ((share * WIDTH as f64) as usize).min(WIDTH);
    format!("{}{}", "█".repeat(full), "░".repeat(WIDTH - full))
}

/// What changed between two looks and deserves a line where nothing is redrawn.
pub(crate) fn events(before: Option<&JobStatus>, now: &JobStatus, style: Style) -> Vec<String> {
    let mut out = Vec::new();
    for table in &now.tables {
        let old = before.and_then(|b| b.tables.iter().find(|t| t.name == table.name));
        if old.is_some_and(|o| o.state == table.state) {
            continue;
        }
        match (table.state.as_str(), &table.error) {
            ("suspended", Some(error)) => {
                out.push(format!("{} {} is suspended: {}", style.yellow("warning:"), table.name, error.line()));
                out.extend(error.hint.iter().map(|h| format!("{} {h}", style.cyan("hint:"))));
            }
            ("live", _) if before.is_some() => {
                out.push(format!("{}: {} is live, {} rows copied", now.name, table.name, count(table.rows_copied)));
            }
            _ => {}
        }
    }
    for gone in before.into_iter().flat_map(|b| &b.tables).filter(|t| !now.tables.iter().any(|n| n.name == t.name)) {
        out.push(format!("{}: {} is gone", now.name, gone.name));
    }
    let trouble = |j: &JobStatus| j.error.as_ref().map(freshet_core::Error::line);
    if let Some(text) = trouble(now).filter(|text| before.and_then(trouble).as_ref() != Some(text)) {
        out.push(format!("{} {}: {text}", style.yellow("warning:"), now.name));
        out.extend(now.error.iter().filter_map(|e| e.hint.as_ref()).map(|h| format!("{} {h}", style.cyan("hint:"))));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use freshet_core::Error;
    use freshet_core::engine::SchemaPolicy;

    const PLAIN: Style = Style { color: false };

    pub(crate) fn table(name: &str, state: &str, copied: u64, estimated: u64) -> TableStatus {
        TableStatus {
            name: TableName::new("shop", name),
            target: TableName::new("shop", name),
            state: state.into(),
            rows_estimated: Some(estimated),
            rows_copied: copied,
            bytes_copied: copied * 100,
            splits_done: copied * 10 / estimated.max(1),
            splits: 10,
            changes: 0,
            error: None,
            resync: None,
            left_out: Vec::new(),
        }
    }

    pub(crate) fn job(state: JobState, tables: Vec<TableStatus>) -> JobStatus {
        JobStatus {
            name: "shop".into(),
            state,
            source: "mysql://root:***@db/shop".into(),
            sink: "embedded:".into(),
            position: Some("mysql-bin.000001:4".into()),
            lag_ms: Some(12),
            lag_bytes: Some(0),
            rows_copied: tables.iter().map(|t| t.rows_copied).sum(),
            changes: 0,
            flushes: 0,
            transactions: 0,
            tables,
            error: None,
            schema_changes: SchemaPolicy::Evolve,
            left_out: Vec::new(),
            started_ms: None,
            spool: None,
            large: None,
        }
    }

    #[test]
    fn copying() {
        let mut meter = Meter::default();
        meter.look(
            Duration::ZERO,
            &job(JobState::Copying, vec![table("a", "copying", 0, 1000), table("b", "copying", 0, 1000)]),
        );
        let now = job(JobState::Copying, vec![table("a", "copying", 500, 1000), table("b", "copying", 1000, 1000)]);
        meter.look(Duration::from_secs(2), &now);
        assert_eq!(line(&now, &meter), "shop: copying, 1 of 2 tables, 1,500 rows, 75%, 750 rows/s, ETA 0:01");
        assert_eq!(
            lines(&now, &meter, PLAIN)[1],
            "  shop.a  ██████████░░░░░░░░░░  50%           500 rows        250 rows/s  ETA 0:02"
        );
        assert_eq!(lines(&now, &meter, PLAIN).len(), 2);
    }

    #[test]
    fn streaming() {
        let mut meter = Meter::default();
        let before = job(JobState::Streaming, vec![table("a", "catching_up", 1000, 1000)]);
        meter.look(Duration::ZERO, &before);
        let mut now = job(JobState::Streaming, vec![table("a", "live", 1000, 1000), table("b", "suspended", 0, 1)]);
        now.changes = 3000;
        now.tables[1].error = Some(Error::schema("an odd type").hint("drop it"));
        meter.look(Duration::from_secs(1), &now);
        assert_eq!(
            line(&now, &meter),
            "shop: streaming, 1 of 2 tables live, 1,000 rows copied, 3,000 changes, 3,000/s, lag 12 ms, 1 suspended"
        );
        assert_eq!(
            events(Some(&before), &now, PLAIN),
            ["shop: shop.a is live, 1,000 rows copied", "warning: shop.b is suspended: an odd type", "hint: drop it"]
        );
        assert!(events(Some(&now), &now, PLAIN).is_empty());
        now.error = Some(Error::source_unavailable("connection lost"));
        assert_eq!(events(Some(&before), &now, PLAIN).last().unwrap(), "warning: shop: connection lost");
    }

    #[test]
    fn rates_are_of_the_last_seconds() {
        let mut meter = Meter::default();
        for second in 0..20_u64 {
            let copied = if second < 10 { second * 100 } else { 1000 };
            meter.look(Duration::from_secs(second), &job(JobState::Copying, vec![table("a", "copying", copied, 1000)]));
        }
        assert_eq!(meter.rows(), 0.0);
        assert!(meter.seen.len() <= 7);
    }
}
