//! What `verify` found.

use std::fmt::Write;

use freshet_core::engine::{Mismatch, TableReport, VerifyReport};

use super::table::table;
use super::{Style, count};

/// Keys that are listed of a table.
const KEYS: usize = 10;

/// One line about the table that is being compared.
pub(crate) fn progress(table: &TableReport) -> String {
    format!("{}: {} rows compared", table.name, count(table.rows))
}

/// The tables, the keys that differ, and the verdict.
pub(crate) fn report(report: &VerifyReport, style: Style) -> String {
    let rows = report.tables.iter().map(|t| {
        let result = match (&t.error, t.equal) {
            (Some(_), _) => "not compared".to_string(),
            (None, true) if !t.left_out.is_empty() => "equal in the rest".to_string(),
            (None, true) => "equal".to_string(),
            (None, false) => format!("{} differ", count(t.differing)),
        };
        vec![t.name.to_string(), count(t.rows), result]
    });
    let mut out = table(&["Table", "Rows", "Result"], &["Rows"], rows);
    for t in &report.tables {
        if let Some(error) = &t.error {
            let _ = writeln!(out, "\n{} {}: {}", style.yellow("not compared"), t.name, error.line());
            error.hint.iter().for_each(|h| out.push_str(&format!("{} {h}\n", style.cyan("hint:"))));
        }
        if !t.left_out.is_empty() {
            let _ = writeln!(out, "{} {}: {}", style.yellow("left out"), t.name, t.left_out.join("; "));
        }
        for difference in t.keys.iter().take(KEYS) {
            let what = match difference.what {
                Mismatch::Missing => "is missing in the target",
                Mismatch::Extra => "is not at the source",
                Mismatch::Changed => "has other values in the target",
            };
            let _ = writeln!(out, "{} {} ({}) {what}", style.red("✗"), t.name, difference.key.join(", "));
        }
        if t.differing > KEYS as u64 && !t.keys.is_empty() {
            let _ = writeln!(out, "  … and {} more", count(t.differing - KEYS as u64));
        }
    }
    if report.equal {
        let all = report.tables.iter().all(|t| t.left_out.is_empty());
        let but = if all { "" } else { ", but for what the job's policy for schema changes left out" };
        let _ = writeln!(out, "{}", style.green(&format!("equal: source and target hold the same rows{but}")));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use freshet_core::TableName;
    use freshet_core::engine::Difference;

    #[test]
    fn names_the_keys() {
        let one = |name: &str, equal| TableReport {
            name: TableName::new("shop", name),
            equal,
            rows: 1200,
            ranges: 1,
            differing: u64::from(!equal),
            keys: Vec::new(),
            error: None,
            repaired: 0,
            left_out: Vec::new(),
        };
        let mut bad = one("b", false);
        bad.keys.push(Difference { key: vec!["7".into(), "x".into()], what: Mismatch::Missing });
        let text = report(&VerifyReport { equal: false, tables: vec![one("a", true), bad] }, Style { color: false });
        assert_eq!(
            text,
            " Table     Rows   Result\n───────────────────────────\n shop.a   1,200   equal\n shop.b   1,200   1 differ\n\
             ✗ shop.b (7, x) is missing in the target\n"
        );
        let good = report(&VerifyReport { equal: true, tables: vec![one("a", true)] }, Style { color: false });
        assert!(good.ends_with("equal: source and target hold the same rows\n"));
    }
}
