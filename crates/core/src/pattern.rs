//! Which tables a job follows: `shop.orders`, `shop.*`, `*.audit_?`, several separated by commas, `!` in front leaves
//! out.

use crate::error::{Error, Result};
use crate::schema::TableName;
use crate::secret::redact_url;

/// A selection of tables by name. Wildcards are `*` (any characters) and `?` (one).
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TablePattern {
    include: Vec<(String, String)>,
    exclude: Vec<(String, String)>,
}

impl TablePattern {
    /// All tables of one database.
    pub fn database(name: &str) -> Self {
        TablePattern { include: vec![(escape(name), "*".into())], exclude: Vec::new() }
    }

    /// Exactly these tables.
    pub fn tables<'a>(names: impl IntoIterator<Item = &'a TableName>) -> Self {
        let include = names.into_iter().map(|n| (escape(&n.database), escape(&n.table))).collect();
        TablePattern { include, exclude: Vec::new() }
    }

    /// Reads a comma-separated list. A name without a point is a table of `default_database`. `\` takes the next
    /// character literally, for names that hold one of `*?,.!\`.
    ///
    /// # Errors
    /// `Config` when an entry is empty, has more than one point, or has none and there is no default database.
    pub fn parse(text: &str, default_database: Option<&str>) -> Result<Self> {
        let mut pattern = TablePattern { include: Vec::new(), exclude: Vec::new() };
        for entry in split_unescaped(text, ',') {
            let entry = entry.trim();
            let (list, name) = match entry.strip_prefix('!') {
                Some(rest) => (&mut pattern.exclude, rest),
                None => (&mut pattern.include, entry),
            };
            let bad = |why: &str| {
                Error::config(format!("table pattern '{}' {why}", redact_url(entry)))
                    .hint("write database.table, with * and ? as wildcards: --tables 'shop.*,!shop.audit'")
            };
            let parts = split_unescaped(name, '.');
            match (parts.as_slice(), default_database) {
                ([t], Some(db)) if !t.is_empty() => list.push((escape(db), t.clone())),
                ([t], None) if !t.is_empty() => return Err(bad("names no database, and the source URL has none")),
                ([db, t], _) if !db.is_empty() && !t.is_empty() => list.push((db.clone(), t.clone())),
                _ => return Err(bad("is not of the form database.table")),
            }
        }
        if pattern.include.is_empty() {
            let db = default_database.ok_or_else(|| Error::config("no tables are selected"))?;
            pattern.include.push((escape(db), "*".into()));
        }
        Ok(pattern)
    }

    /// Whether that table is selected.
    pub fn matches(&self, name: &TableName) -> bool {
        let hit = |list: &[(String, String)]| {
            list.iter().any(|(db, t)| wildcard(db, &name.database) && wildcard(t, &name.table))
        };
        hit(&self.include) && !hit(&self.exclude)
    }
}

impl std::fmt::Display for TablePattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let include = self.include.iter().map(|(d, t)| format!("{d}.{t}"));
        let exclude = self.exclude.iter().map(|(d, t)| format!("!{d}.{t}"));
        f.write_str(&include.chain(exclude).collect::<Vec<_>>().join(","))
    }
}

fn escape(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for c in name.chars() {
        if "*?,.!\\".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// Splits at `at`, leaving escapes as they are.
fn split_unescaped(text: &str, at: char) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let last = parts.last_mut().expect("never empty");
        if c == '\\' {
            last.push(c);
            last.extend(chars.next());
        } else if c == at {
            parts.push(String::new());
        } else {
            last.push(c);
        }
    }
    parts
}

/// Matches with `*` and `?`, iteratively, so that no pattern takes exponential time.
fn wildcard(pattern: &str, text: &str) -> bool {
    let (p, t): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut i, mut j, mut retry) = (0, 0, None);
    while j < t.len() {
        let literal = match p.get(i) {
            Some('*') => {
                retry = Some((i + 1, j));
                i += 1;
                continue;
            }
            Some('?') => Some((1, true)),
            Some('\\') => p.get(i + 1).map(|c| (2, *c == t[j])),
            Some(c) => Some((1, *c == t[j])),
            None => None,
        };
        match (literal, retry) {
            (Some((width, true)), _) => {
                i += width;
                j += 1;
            }
            (_, Some((pi, tj))) => {
                i = pi;
                j = tj + 1;
                retry = Some((pi, tj + 1));
            }
            _ => return false,
        }
    }
    p[i..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selects() {
        let p = TablePattern::parse("shop.*, !shop.audit?,other.x", None).unwrap();
        for (db, t, want) in [
            ("shop", "orders", true),
            ("shop", "audit", true),
            ("shop", "audit1", false),
            ("other", "x", true),
            ("other", "y", false),
        ] {
            assert_eq!(p.matches(&TableName::new(db, t)), want, "{db}.{t}");
        }
        assert!(TablePattern::parse("a*c*e", Some("d")).unwrap().matches(&TableName::new("d", "abcde")));
        assert!(TablePattern::parse(r"we\.ird\*", Some("d")).unwrap().matches(&TableName::new("d", "we.ird*")));
        assert!(TablePattern::database("we*ird").matches(&TableName::new("we*ird", "t")));
        assert!(!TablePattern::database("we*ird").matches(&TableName::new("we_ird", "t")));
        assert!(TablePattern::parse("a.b.c", None).is_err());
        assert!(TablePattern::parse("orders", None).is_err());
    }
}
