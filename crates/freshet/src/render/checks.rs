//! Findings of a check, and what a plan shows.

use std::fmt::Write;

use freshet_core::{Finding, Statement, TableSchema, Verdict};

use super::Style;
use super::table::table;

/// The findings under a title, each with the statement that mends it.
pub(crate) fn findings(title: &str, findings: &[Finding], style: Style) -> String {
    let mut out = format!("{}\n", style.bold(title));
    let width = findings.iter().map(|f| label(f).chars().count()).max().unwrap_or(0);
    for finding in findings {
        let mark = match finding.verdict {
            Verdict::Ok => style.green("✓"),
            Verdict::Warning => style.yellow("!"),
            Verdict::Failed => style.red("✗"),
        };
        let name = label(finding);
        let pad = " ".repeat(width - name.chars().count());
        let _ = writeln!(out, "  {mark} {name}{pad}  {}", finding.message);
        for line in finding.fix.iter().flat_map(|fix| fix.lines()) {
            let _ = writeln!(out, "      {} {}", style.cyan("→"), style.cyan(line));
        }
    }
    out
}

fn label(finding: &Finding) -> String {
    finding.table.clone().unwrap_or_else(|| finding.name.clone())
}

/// `all good`, or how many findings are not.
pub(crate) fn verdict(findings: &[Finding]) -> (usize, String) {
    let number = |v: Verdict| findings.iter().filter(|f| f.verdict == v).count();
    let (failed, warnings) = (number(Verdict::Failed), number(Verdict::Warning));
    let plural = |n: usize, word: &str| format!("{n} {word}{}", if n == 1 { "" } else { "s" });
    let text = match (failed, warnings) {
        (0, 0) => "everything is as it should be".to_string(),
        (0, w) => format!("it works, with {}", plural(w, "warning")),
        (f, 0) => format!("{f} failed"),
        (f, w) => format!("{f} failed, {}", plural(w, "warning")),
    };
    (failed, text)
}

/// A table's plan: how each type is mapped, and the statements.
pub(crate) fn plan(schema: &TableSchema, statements: &[Statement], types: &[String], style: Style) -> String {
    let mut out = format!("{}\n", style.bold(&format!("-- {}", schema.name)));
    let rows = schema.columns.iter().zip(types).map(|(c, target)| {
        let key = if schema.key.contains(&c.name) { "key" } else { "" };
        vec![c.name.clone(), c.source_type.clone(), c.data_type.to_string(), target.clone(), key.to_string()]
    });
    for line in table(&["Column", "Source", "Type", "Target", ""], &[], rows).lines() {
        let _ = writeln!(out, "--{line}");
    }
    for statement in statements {
        let _ = writeln!(out, "{statement};");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_the_fix() {
        let list = [
            Finding::new("connect", Verdict::Ok, "10.11.6-MariaDB"),
            Finding::new("binlog format", Verdict::Failed, "STATEMENT; ROW is needed")
                .fix("SET GLOBAL binlog_format = 'ROW'"),
            Finding::new("key", Verdict::Warning, "slow").about("shop.t"),
        ];
        assert_eq!(
            findings("Source", &list, Style { color: false }),
            "Source\n  ✓ connect        10.11.6-MariaDB\n  ✗ binlog format  STATEMENT; ROW is needed\n      \
             → SET GLOBAL binlog_format = 'ROW'\n  ! shop.t         slow\n"
        );
        assert_eq!(verdict(&list), (1, "1 failed, 1 warning".into()));
        assert_eq!(verdict(&list[..1]), (0, "everything is as it should be".into()));
    }
}
