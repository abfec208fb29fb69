//! Places in a source's log.

use std::fmt;

/// A place in a source's log: everything before it is done, reading goes on at it.
///
/// `commit` is the source's own readable text of a commit boundary (MySQL: `mysql-bin.000003:4567 0-1-55`); only the
/// source that wrote it interprets and orders it ([`crate::Source::compare`]). `event` counts the events
/// inside the transaction that follows that boundary which are done, too; it is 0 but for places beside a schema change
/// inside one. MySQL's counts schema changes only: rows of a transaction that was not completed are read again.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Position {
    /// The commit boundary, in the source's notation.
    pub commit: String,
    /// Events of the following transaction that are done.
    #[serde(default)]
    pub event: u64,
}

impl Position {
    /// A commit boundary.
    pub fn at(commit: impl Into<String>) -> Self {
        Position { commit: commit.into(), event: 0 }
    }

    /// Reads what `Display` shows; total, because any text is a source's notation.
    pub fn parse(shown: &str) -> Self {
        let inside = shown.strip_suffix(" events").and_then(|s| s.rsplit_once(" + "));
        match inside.and_then(|(commit, n)| Some((commit, n.parse().ok()?))) {
            Some((commit, event)) => Position { commit: commit.into(), event },
            None => Position::at(shown),
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.event {
            0 => f.write_str(&self.commit),
            n => write!(f, "{} + {n} events", self.commit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_reads_back() {
        for position in [Position::at("binlog.000001:4 gtid=0-1-2"), Position { commit: "a:1".into(), event: 7 }] {
            assert_eq!(Position::parse(&position.to_string()), position);
        }
    }
}
