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
        if t.indivisible {
            let _ = writeln!(
                out,
                "{} {}: compared as a whole, because its key cannot be divided into ranges",
                style.yellow("no sample"),
                t.name
            );
        } else if t.ranges < t.ranges_in_all && t.error.is_none() {
            let _ = writeln!(
                out,
                "{} {}: {} of {} key ranges",
                style.cyan("sample"),
                t.name,
                count(t.ranges),
                count(t.ranges_in_all)
            );
        }
        if t.changing > 0 {
            let _ = writeln!(
                out,
                "{} {}: {} changed at the source each time they were read, so nothing is said of them",
                style.yellow("not compared"),
                t.name,
                number(t.changing, "row", "rows")
            );
        }
        for difference in t.keys.iter().take(KEYS) {
            let what = match (difference.what, difference.times) {
                (_, Some(t)) if t.source > 0 && t.target > 0 => {
                    format!("is there {} at the source and {} in the target", times(t.source), times(t.target))
                }
                (Mismatch::Missing, _) => "is missing in the target".to_string(),
                (Mismatch::Extra, _) => "is not at the source".to_string(),
                (Mismatch::Changed, _) => "has other values in the target".to_string(),
            };
            let _ = writeln!(out, "{} {} ({}) {what}", style.red("✗"), t.name, difference.key.join(", "));
        }
        if t.differing > KEYS as u64 && !t.keys.is_empty() {
            let _ = writeln!(out, "  … and {} more", count(t.differing - KEYS as u64));
        }
        if t.repaired > 0 {
            let written = number(t.repaired, "row was", "rows were");
            let _ = writeln!(out, "{} {}: {written} written anew", style.cyan("repaired"), t.name);
        }
        if let Some(error) = &t.unrepaired {
            let _ = writeln!(out, "{} {}: {}", style.yellow("not repaired"), t.name, error.line());
            error.hint.iter().for_each(|h| out.push_str(&format!("{} {h}\n", style.cyan("hint:"))));
        }
    }
    if report.equal {
        let all = report.tables.iter().all(|t| t.left_out.is_empty());
        let but = if all { "" } else { ", but for what the job's policy for schema changes left out" };
        let sampled = report.tables.iter().any(|t| t.ranges < t.ranges_in_all);
        let of = if sampled { " in the ranges that were compared" } else { "" };
        let _ = writeln!(out, "{}", style.green(&format!("equal: source and target hold the same rows{of}{but}")));
    }
    out
}

fn times(n: u64) -> String {
    if n == 1 { "once".to_string() } else { format!("{} times", count(n)) }
}

fn number(n: u64, one: &str, many: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{} {many}", count(n)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use freshet_core::engine::{Difference, Times};
    use freshet_core::{Error, TableName};

    fn one(name: &str, equal: bool) -> TableReport {
        let name = TableName::new("shop", name);
        let (ranges, ranges_in_all) = (1, 1);
        TableReport { equal, rows: 1200, ranges, ranges_in_all, differing: u64::from(!equal), ..TableReport::new(name) }
    }

    fn shown(equal: bool, tables: Vec<TableReport>) -> String {
        report(&VerifyReport { equal, tables }, Style { color: false })
    }

    #[test]
    fn names_the_keys() {
        let mut bad = one("b", false);
        bad.keys.push(Difference { key: vec!["7".into(), "x".into()], what: Mismatch::Missing, times: None });
        assert_eq!(
            shown(false, vec![one("a", true), bad]),
            " Table     Rows   Result\n───────────────────────────\n shop.a   1,200   equal\n shop.b   1,200   1 differ\n\
             ✗ shop.b (7, x) is missing in the target\n"
        );
        let good = shown(true, vec![one("a", true)]);
        assert!(good.ends_with("equal: source and target hold the same rows\n"));
    }

    #[test]
    fn says_how_often_a_row_is_there_and_why_it_was_not_repaired() {
        let mut bag = one("bag", false);
        for (source, target) in [(1, 0), (1200, 1), (0, 2)] {
            let what = if target > source { Mismatch::Extra } else { Mismatch::Missing };
            bag.keys.push(Difference { key: vec!["7".into()], what, times: Some(Times { source, target }) });
        }
        bag.unrepaired = Some(Error::unsupported("cannot be repaired").hint("resync"));
        let mut keyed = one("k", false);
        keyed.repaired = 1;
        let text = shown(false, vec![bag, keyed]);
        let lines: Vec<&str> = text.lines().skip(4).collect();
        assert_eq!(
            lines,
            [
                "✗ shop.bag (7) is missing in the target",
                "✗ shop.bag (7) is there 1,200 times at the source and once in the target",
                "✗ shop.bag (7) is not at the source",
                "not repaired shop.bag: cannot be repaired",
                "hint: resync",
                "repaired shop.k: 1 row was written anew",
            ]
        );
    }

    #[test]
    fn says_what_was_not_compared() {
        let mut part = one("part", true);
        (part.ranges_in_all, part.changing) = (40, 2);
        let mut whole = one("whole", true);
        whole.indivisible = true;
        let text = shown(true, vec![part, whole]);
        let lines: Vec<&str> = text.lines().skip(4).collect();
        assert_eq!(
            lines,
            [
                "sample shop.part: 1 of 40 key ranges",
                "not compared shop.part: 2 rows changed at the source each time they were read, so nothing is said of them",
                "no sample shop.whole: compared as a whole, because its key cannot be divided into ranges",
                "equal: source and target hold the same rows in the ranges that were compared",
            ]
        );
    }
}
