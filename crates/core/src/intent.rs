//! Write-ahead intents: what a flush is about to do, stored before it begins, so that after a crash exactly that is
//! done again, under the same labels and with the same boundaries, whatever limits are configured by then. In
//! simulation labels by range without an intent diverged, with it never (docs/architecture.md, "Exactly once").

use std::fmt;

use crate::position::Position;
use crate::schema::TableName;

/// The name under which a sink remembers that something is done; at most 128 of `[-_A-Za-z0-9]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Label(pub String);

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who writes: a job's lane in one of its lives. The incarnation is drawn once and stored; it is new after create,
/// resync, restore or a reset of the source's log, so that no later job can meet an old label.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Writer {
    /// The job's name.
    pub job: String,
    /// 64 random bits.
    pub incarnation: u64,
    /// The lane: 0 is the main lane.
    pub lane: u32,
}

impl Writer {
    /// A label that is a pure function of this writer and of what `parts` say.
    pub fn label(&self, what: &str, parts: &[&str]) -> Label {
        let mut hash = xxhash_rust::xxh3::Xxh3::new();
        hash.update(self.job.as_bytes());
        for part in parts {
            hash.update(&[0]);
            hash.update(part.as_bytes());
        }
        let clean = |s: &str, n: usize| -> String {
            s.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).take(n).collect()
        };
        let (job, what) = (clean(&self.job, 32), clean(what, 24));
        Label(format!("freshet-{job}-{:016x}-{}-{what}-{:032x}", self.incarnation, self.lane, hash.digest128()))
    }
}

/// One load of a flush: one table, one schema version, one set of columns, one part.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LoadIntent {
    /// The source table.
    pub table: TableName,
    /// Where it goes.
    pub target: TableName,
    /// Version of the source table's schema in the job's history.
    pub schema_version: u32,
    /// Names of the columns that the rows carry; `None`: all of the schema's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<Vec<String>>,
    /// Ordinal of the part when the rows of a table are cut into several loads.
    pub part: u32,
    /// Its label.
    pub label: Label,
}

/// A flush that has begun or is about to.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Intent {
    /// Who writes.
    pub writer: Writer,
    /// First position of the range.
    pub from: Position,
    /// End of the range; the position to be stored afterwards.
    pub to: Position,
    /// Rows in each part, when an oversized transaction is cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut_rows: Option<u64>,
    /// Hash of the job's specification: labels are settled before it may change.
    pub spec_hash: u64,
    /// The loads in order.
    pub loads: Vec<LoadIntent>,
    /// Label of the whole, for sinks that publish all loads in one transaction.
    pub label: Label,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_legal_and_pure() {
        let w = Writer { job: "Бази даних / shop".repeat(9), incarnation: u64::MAX, lane: 1 };
        let a = w.label("orders with a very long name indeed", &["a", "b"]);
        assert!(a.0.len() <= 128, "{} is {} long", a, a.0.len());
        assert!(a.0.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_'));
        assert_eq!(a, w.label("orders with a very long name indeed", &["a", "b"]));
        assert_ne!(a, w.label("orders with a very long name indeed", &["ab"]));
        assert_ne!(a, Writer { lane: 0, ..w.clone() }.label("orders with a very long name indeed", &["a", "b"]));
    }
}
