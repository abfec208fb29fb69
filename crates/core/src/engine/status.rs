//! What a person sees of a job: one snapshot for the command line, SQL and JSON alike.

use std::collections::BTreeMap;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use crate::engine::policy::SchemaPolicy;
use crate::error::Error;
use crate::schema::TableName;
use crate::store::{Phase, TableRecord, TableState};

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Connecting, settling what the last run left, creating target tables.
    Starting,
    /// Copying tables.
    Copying,
    /// Following the source's log.
    Streaming,
    /// Trying again after an error that may pass; see `error`.
    Retrying,
    /// Stopped by a person.
    Paused,
    /// Stopped by an error that a person has to deal with; see `error`.
    Failed,
    /// Not running, because no process runs it.
    Stopped,
    /// Being dropped; the next start finishes it.
    Dropping,
}

impl std::fmt::Display for JobState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&format!("{self:?}").to_lowercase())
    }
}

/// A job and its tables at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobStatus {
    /// Name.
    pub name: String,
    /// State.
    pub state: JobState,
    /// Source URL without its password.
    pub source: String,
    /// Sink URL without its password.
    pub sink: String,
    /// Everything before is in the sink.
    pub position: Option<String>,
    /// Milliseconds between the source's commit and now, of the newest change that is in the sink; 0 when the job has
    /// caught up.
    pub lag_ms: Option<i64>,
    /// Bytes of log that are not in the sink yet, if the source can tell.
    pub lag_bytes: Option<u64>,
    /// Rows copied.
    pub rows_copied: u64,
    /// Changes of rows written by the stream since this process began.
    pub changes: u64,
    /// Flushes since this process began.
    pub flushes: u64,
    /// Source transactions since this process began.
    pub transactions: u64,
    /// The tables by name.
    pub tables: Vec<TableStatus>,
    /// Why the job retries or has failed.
    pub error: Option<Error>,
    /// The job's policy for schema changes.
    #[serde(default)]
    pub schema_changes: SchemaPolicy,
    /// Tables that are gone at the source and whose targets stay, by that policy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
    /// When this process began with the job, milliseconds since 1970.
    pub started_ms: Option<i64>,
    /// The part of the source's log that is kept locally while tables are on their way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spool: Option<SpoolStatus>,
    /// A transaction that is larger than the buffer and whose end has not been read yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub large: Option<LargeStatus>,
}

/// A transaction under way that is larger than the buffer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LargeStatus {
    /// Parts of it that have been written.
    pub parts: u32,
    /// Whether the target shows them already, because it cannot hold them back until the end.
    pub shown: bool,
}

/// The part of the source's log that is kept locally.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpoolStatus {
    /// Bytes that are kept.
    pub bytes: u64,
    /// The most that may be kept.
    pub limit: u64,
    /// Why nothing more is kept; what comes then is there as long as the source itself keeps it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<String>,
}

/// A table of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TableStatus {
    /// Name at the source.
    pub name: TableName,
    /// Name at the sink.
    pub target: TableName,
    /// `pending`, `copying`, `catching_up`, `live` or `suspended`.
    pub state: String,
    /// The source's estimate.
    pub rows_estimated: Option<u64>,
    /// Rows copied.
    pub rows_copied: u64,
    /// Bytes copied, as Arrow holds them.
    pub bytes_copied: u64,
    /// Splits that are done.
    pub splits_done: u64,
    /// Splits in all; 0 until they are known.
    pub splits: u64,
    /// Changes of rows written by the stream since this process began.
    pub changes: u64,
    /// Why it is suspended.
    pub error: Option<Error>,
    /// How far a new copy of a live table is, which takes its place when it is level.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resync: Option<String>,
    /// What the target has not followed of the source's schema changes, by the job's policy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
}

impl TableStatus {
    /// From what is stored.
    pub fn new(record: &TableRecord) -> Self {
        let mut status = TableStatus {
            name: record.name.clone(),
            target: record.target.clone(),
            state: String::new(),
            rows_estimated: record.rows_estimated,
            rows_copied: 0,
            bytes_copied: 0,
            splits_done: 0,
            splits: 0,
            changes: 0,
            error: None,
            resync: None,
            left_out: Vec::new(),
        };
        status.set_state(record);
        status
    }

    /// Takes over a stored state.
    pub fn set_state(&mut self, record: &TableRecord) {
        let way = record.copy.as_ref().map(|copy| match copy.phase {
            Phase::Found | Phase::Queued => "pending",
            Phase::Copying => "copying",
            Phase::Copied { .. } | Phase::CatchingUp { .. } => "catching_up",
        });
        (self.error, self.resync) = (None, None);
        let notes = record.apart.iter().flat_map(|apart| &apart.left_out);
        self.left_out = notes.map(ToString::to_string).collect();
        self.state = match &record.state {
            TableState::Away => way.unwrap_or("pending"),
            TableState::CatchingUp { .. } => "catching_up",
            TableState::Live => {
                self.resync = way.map(ToString::to_string);
                "live"
            }
            TableState::Suspended { error, .. } => {
                self.error = Some(error.clone());
                "suspended"
            }
        }
        .to_string();
    }
}

/// A job's status as the running job writes it and everybody else reads it.
#[derive(Debug)]
pub(crate) struct Progress {
    status: Mutex<(JobStatus, BTreeMap<TableName, TableStatus>)>,
}

impl Progress {
    pub(crate) fn new(status: JobStatus) -> Self {
        let tables = status.tables.iter().map(|t| (t.name.clone(), t.clone())).collect();
        Progress { status: Mutex::new((status, tables)) }
    }

    pub(crate) fn job(&self, f: impl FnOnce(&mut JobStatus)) {
        f(&mut self.lock().0);
    }

    pub(crate) fn table(&self, name: &TableName, f: impl FnOnce(&mut TableStatus)) {
        if let Some(table) = self.lock().1.get_mut(name) {
            f(table);
        }
    }

    /// Takes over the stored tables, keeping the counters of those that stay.
    pub(crate) fn set_tables<'a>(&self, records: impl Iterator<Item = &'a TableRecord>) {
        let mut guard = self.lock();
        let mut tables = BTreeMap::new();
        for record in records {
            let mut table = guard.1.remove(&record.name).unwrap_or_else(|| TableStatus::new(record));
            table.target = record.target.clone();
            table.rows_estimated = record.rows_estimated;
            table.set_state(record);
            tables.insert(record.name.clone(), table);
        }
        guard.1 = tables;
    }

    pub(crate) fn snapshot(&self) -> JobStatus {
        let guard = self.lock();
        let mut status = guard.0.clone();
        status.tables = guard.1.values().cloned().collect();
        status.rows_copied = status.tables.iter().map(|t| t.rows_copied).sum();
        status
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (JobStatus, BTreeMap<TableName, TableStatus>)> {
        self.status.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
