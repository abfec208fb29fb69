//! What the store holds. Fields may be added with `#[serde(default)]`; none is renamed or given another meaning.

use serde::{Deserialize, Serialize};

use crate::connector::{Split, Statement};
use crate::engine::JobSpec;
use crate::error::Error;
use crate::intent::{Intent, Label};
use crate::position::Position;
use crate::schema::{SchemaChange, TableName, TableSchema};

/// What a person wants a job to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Desired {
    /// Run.
    Running,
    /// Stand still until resumed.
    Paused,
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

/// A lane: a set of tables that share one position in the source's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneRecord {
    /// Everything before is in the sink.
    pub position: Position,
    /// The flush that follows, if one has begun.
    pub intent: Option<Intent>,
    /// The schema change that follows, if one has begun.
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

/// Where a table stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum TableState {
    /// Its target is not created yet.
    Pending,
    /// Its rows are being copied.
    Copying,
    /// Copied, but the stream has not reached the end of the copy (`high`).
    CatchingUp {
        /// The log's end when the copy ended.
        high: Position,
    },
    /// Equal to the source at the lane's position.
    Live,
    /// Not followed any more until a person acts; the target keeps what it had.
    Suspended {
        /// Why, and what to do.
        error: Error,
        /// Where the rows that are missing begin.
        at: Position,
    },
}

/// A table of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TableRecord {
    /// Its name at the source.
    pub name: TableName,
    /// Its name at the sink.
    pub target: TableName,
    /// The lane that it is in.
    pub lane: u32,
    /// Version of its schema at the lane's position.
    pub schema_version: u32,
    /// Attempts of the copy that have begun; part of the copy's labels.
    pub attempt: u32,
    /// The source's estimate of rows when the copy began.
    #[serde(default)]
    pub rows_estimated: Option<u64>,
    /// Where it stands.
    #[serde(flatten)]
    pub state: TableState,
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
