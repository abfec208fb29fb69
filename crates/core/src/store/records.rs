//! What the store holds. Fields may be added with `#[serde(default)]`; none is renamed or given another meaning.

use serde::{Deserialize, Serialize};

use crate::connector::{Split, Statement};
use crate::engine::JobSpec;
use crate::error::Error;
use crate::intent::{Intent, Label, Writer};
use crate::position::Position;
use crate::schema::{Column, SchemaChange, TableName, TableSchema};

/// What a person wants a job to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Desired {
    /// Run.
    Running,
    /// Stand still until resumed.
    Paused,
    /// Be gone: its unfinished copies are being removed.
    Dropped,
}

/// A job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobRecord {
    /// What it does.
    pub spec: JobSpec,
    /// Drawn once; part of every label.
    pub incarnation: u64,
    /// What a person wants.
    pub desired: Desired,
    /// Why it stopped by itself.
    #[serde(default)]
    pub failed: Option<Error>,
    /// When it was created, milliseconds since 1970.
    pub created_ms: i64,
}

/// A lane: a set of tables that share one position in the source's log. Number 0 is the main lane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneRecord {
    /// Everything before is in the sink.
    pub position: Position,
    /// The flush that follows, if one has begun.
    pub intent: Option<Intent>,
    /// The part of a larger transaction that has begun last: in doubt after a crash.
    #[serde(default)]
    pub part: Option<Intent>,
    /// The schema change that follows, if one has begun (main lane only).
    pub ddl: Option<DdlIntent>,
}

/// A schema change that has begun: what is left to do after a crash, without looking at the source again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DdlIntent {
    /// The change at the source.
    pub change: SchemaChange,
    /// Position behind it.
    pub to: Position,
    /// The statements at the sink, in order.
    pub steps: Vec<DdlStep>,
    /// How many of them are done.
    pub done: usize,
    /// Whether they go one by one, because the sink has refused them as one transaction.
    #[serde(default)]
    pub one_by_one: bool,
    /// Tables that come into the main lane with it.
    #[serde(default)]
    pub joined: Vec<TableName>,
}

impl DdlIntent {
    /// The label of all statements as one transaction.
    pub fn together(&self, writer: &Writer) -> Label {
        let steps: Vec<&str> = self.steps.iter().map(|s| s.label.0.as_str()).collect();
        writer.label("ddl-all", &steps)
    }
}

/// One statement of a schema change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DdlStep {
    /// The source table it belongs to, which is suspended if it fails.
    pub table: TableName,
    /// Its label.
    pub label: Label,
    /// The statement.
    pub statement: Statement,
}

/// How a table stands to the main lane.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum TableState {
    /// On its way to the main lane, which does not write its rows; where it is, its [`CopyRecord`] says.
    Away,
    /// In the main lane, and equal to the source once the lane has passed `high`.
    CatchingUp {
        /// Rows as new as this have been read from the source and written.
        high: Position,
    },
    /// In the main lane, and equal to the source at its position.
    Live,
    /// Not followed any more until a person acts; the target keeps what it had.
    Suspended {
        /// Why, and what to do.
        error: Error,
        /// From where it can go on. `None`: only a new copy helps.
        at: Option<Parked>,
    },
}

/// Where a table stopped: between the ends of a flush of which some of its rows may have been written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parked {
    /// Everything before is in the target.
    pub from: Position,
    /// Nothing behind is.
    pub to: Position,
}

/// A table of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TableRecord {
    /// Its name at the source.
    pub name: TableName,
    /// Its name at the sink.
    pub target: TableName,
    /// Version of its schema at the main lane's position; 0: not known yet.
    pub schema_version: u32,
    /// Whether the job has created the target.
    pub created: bool,
    /// The source's estimate of rows when the copy began.
    #[serde(default)]
    pub rows_estimated: Option<u64>,
    /// Rows have changed up to here without being in the log: only a copy that begins behind counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unseen: Option<Position>,
    /// How it stands to the main lane.
    #[serde(flatten)]
    pub state: TableState,
    /// Its copy, or its way back: always there for [`TableState::Away`]; for a live table it is a resync into a shadow.
    #[serde(default)]
    pub copy: Option<CopyRecord>,
    /// How the target differs from the source's definition, where the job's policy for schema changes let it; a new copy
    /// takes the source's definition over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apart: Option<Apart>,
}

/// A target that has not followed every schema change of its source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Apart {
    /// The target's own columns. Its key is the source's.
    pub columns: Vec<Column>,
    /// The target's own comment, where it is not the source's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Those of them that are not equal to the source's: the source has them no more, or rows of before lack its values.
    pub incomplete: Vec<String>,
    /// Rows are kept that the source has no more, since it was emptied.
    pub rows_kept: bool,
    /// What was left out or done otherwise, the newest last.
    pub left_out: Vec<LeftOut>,
}

/// A part of a schema change that a target has not followed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// What, for people.
    pub what: String,
    /// The statement at the source, cut when it is long.
    pub statement: String,
}

impl std::fmt::Display for LeftOut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.what, self.statement)
    }
}

/// A table on its way to the main lane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyRecord {
    /// Unique within the job; part of the labels of everything that this copy writes.
    pub number: u32,
    /// Where it left the main lane: streaming begins here, and every split sees everything before it. (Table without a
    /// key: the position of the snapshot that was copied.)
    pub start: Position,
    /// Version of its schema there.
    pub schema_version: u32,
    /// What is filled: the target itself, or a shadow that takes its place at the end.
    pub into: TableName,
    /// How far it is.
    #[serde(flatten)]
    pub phase: Phase,
}

/// How far a table is on its way to the main lane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "phase")]
pub enum Phase {
    /// Its schema is not known yet.
    Found,
    /// Waits for its copy to begin.
    Queued,
    /// Its rows are being copied.
    Copying,
    /// Copied; waits for the catch-up lane.
    Copied {
        /// The log's end when the copy ended.
        high: Position,
    },
    /// In the catch-up lane.
    CatchingUp {
        /// The log's end when the copy ended.
        high: Position,
    },
}

/// What a job remembers besides its lanes and tables.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Number of the next lane or copy: never used twice, so that no later one can meet an old label.
    pub next: u32,
    /// The catch-up lane, while there is one.
    pub side: Option<u32>,
    /// Shadow tables of copies that were given up, still to be dropped at the sink.
    pub garbage: Vec<TableName>,
    /// Targets that the job created and whose tables have left it: a table that comes back under the name takes their
    /// place with its copy.
    pub left: Vec<TableName>,
    /// What was begun besides the lanes and copies, or by an earlier incarnation of the job.
    #[serde(default)]
    pub doubts: Vec<Doubt>,
    /// What targets of tables that are gone have not followed: they keep their rows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<LeftOut>,
}

/// Something at the sink that may not be done, or be done late, until the sink has been asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doubt {
    /// Its label.
    pub label: Label,
    /// The flush, if it is one.
    pub intent: Option<Intent>,
    /// The table whose target it creates, if it does.
    pub creates: Option<TableName>,
}

/// A split of a copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitRecord {
    /// The split.
    pub split: Split,
    /// The rows that were copied, once all of them are durable in the sink.
    pub done: Option<u64>,
    /// The load that has begun last: in doubt after a crash, until the sink has been asked.
    #[serde(default)]
    pub begun: Option<Label>,
    /// How often it has been read: a second SELECT sees other rows, so this is part of the labels of its loads.
    #[serde(default)]
    pub tries: u32,
}

/// A version of a table's schema.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaRecord {
    /// Counted from 1.
    pub version: u32,
    /// The position from which on it is in force.
    pub from: Position,
    /// The schema.
    pub schema: TableSchema,
}

/// A row that could not be written and was kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RejectedRow {
    /// Ordinal within the job.
    pub number: u64,
    /// The source table.
    pub table: TableName,
    /// The position of its transaction.
    pub position: Position,
    /// The row's columns as canonical text.
    pub row: Vec<(String, Option<String>)>,
    /// Why.
    pub error: Error,
}
