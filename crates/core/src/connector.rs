//! The contract between engine and connectors: [`Source`], [`Sink`] and [`Check`](crate::Check). Three small traits
//! without optional capabilities; what a connector cannot do it says in `check` and as an error with a hint.
//!
//! A connector never reads the clock or the environment and spawns no task behind the engine's back, so that
//! everything can be simulated. Dropping what a method returned ends the work and closes its connections.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::RecordBatch;
use async_trait::async_trait;

use crate::batch::ChangeBatch;
use crate::check::Check;
use crate::error::{Error, Result};
use crate::intent::{Intent, Label, Writer};
use crate::pattern::TablePattern;
use crate::position::Position;
use crate::schema::{SchemaChange, TableChange, TableName, TableSchema};
use crate::spool::Spooling;

/// What a source emits, in its order.
#[derive(Debug, Clone)]
pub enum Event {
    /// Rows that are, or with the coming [`Event::Commit`] will be, committed. A source gathers the rows of several
    /// transactions into one batch per table; between two commits the order of rows is kept within each table only.
    Rows(ChangeBatch),
    /// A schema change. Comes right after an [`Event::Commit`] (or at the start), and the next event is the
    /// [`Event::Commit`] behind it: rows before and behind it are never mixed.
    Schema(SchemaChange),
    /// From here on the table cannot be followed (a type or statement that we don't know, rows that disagree with the
    /// schema); its rows are no longer sent. The other tables go on.
    Suspend {
        /// The table.
        table: TableName,
        /// Why, and what to do.
        error: Error,
    },
    /// Since the last [`Event::Commit`] and up to the coming one rows of the table have changed without being in the log (a
    /// foreign key has changed them below it): only what is read behind that commit has them. There is one of these for
    /// each foreign key that may have acted, those of children of children included.
    Unseen {
        /// The table.
        table: TableName,
        /// What changed them.
        reason: String,
        /// The foreign key that did it. It has changed no other rows than those that named a row of the parent's which
        /// was deleted, or was given other values, between the two commits. `None`: any rows may have changed.
        by: Option<ForeignKey>,
    },
    /// Everything before is a whole number of transactions.
    Commit(Commit),
}

/// A foreign key that changes rows of its own table when rows of the parent's change. The columns of each side are in
/// the order in which they belong together, and of types of which equal values have equal [canonical text](crate::text),
/// strings apart, which their collation compares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignKey {
    /// The table that refers.
    pub child: TableName,
    /// By these columns.
    pub columns: Vec<String>,
    /// The table that is referred to.
    pub parent: TableName,
    /// Its columns.
    pub references: Vec<String>,
    /// The child's columns may have got other values than NULL (`ON UPDATE CASCADE`).
    pub moves: bool,
}

/// A commit boundary in the source's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// The position behind it.
    pub position: Position,
    /// When the source committed, in milliseconds since 1970, if the log says so.
    pub time_ms: Option<i64>,
    /// Source transactions since the last one.
    pub transactions: u64,
}

/// A running stream of changes.
#[async_trait]
pub trait ChangeStream: Send {
    /// The next event; waits for it. Cancel-safe: dropping the future loses nothing.
    ///
    /// # Errors
    /// `SourceUnavailable` when the connection broke (open again at the last commit), `SourceState` when the log is
    /// purged or another server answers.
    async fn next(&mut self) -> Result<Event>;
}

/// What to stream.
#[derive(Debug, Clone)]
pub struct ChangesRequest {
    /// The followed tables with their schemas in force at `from`.
    pub tables: Vec<Arc<TableSchema>>,
    /// Tables in another lane, with their schemas at `from`: only their schema changes are sent, no rows.
    pub watched: Vec<Arc<TableSchema>>,
    /// Tables that are created later and match are followed as well. That a table of a matching name is dropped, or
    /// that one is renamed from or to such a name, is told even when its schema is not known.
    pub pattern: TablePattern,
    /// Where to begin.
    pub from: Position,
    /// If given, an [`Event::Commit`] is emitted at exactly this position: the end of an intent that is replayed, or of a
    /// pass of the catch-up lane. A log with another order (behind a failover) may not have it: then one is emitted as
    /// soon as the position is no longer before it.
    pub stop: Option<Position>,
    /// What it does with the part of the log that is kept locally, of a source that [can](Source::spools).
    pub spool: Option<Spooling>,
    /// The lane that reads; a source that must tell its readers apart (MySQL's server id) derives that from it.
    pub lane: u32,
}

/// A table that the source has.
#[derive(Debug, Clone)]
pub struct Discovered {
    /// Its name.
    pub name: TableName,
    /// Its schema, or why it cannot be followed.
    pub schema: Result<TableSchema>,
    /// The source's estimate of rows.
    pub rows: Option<u64>,
    /// The source's estimate of bytes.
    pub bytes: Option<u64>,
}

/// The beginning of a copy.
#[derive(Debug, Clone)]
pub struct CopyStart {
    /// The low position: streaming begins here, and every split of this copy sees everything before it.
    pub low: Position,
    /// The tables' schemas in force at `low`.
    pub tables: Vec<Discovered>,
}

/// A range of keys, lower bound included, upper bound not; values in the key's order, in the source's text form. For
/// `verify` ([`Source::text`], [`Sink::rows`]) a bound may have values of the key's first columns only: those that begin
/// with the values of `from` belong to the range, those that begin with the values of `to` do not.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct KeyRange {
    /// Lower bound; `None`: open.
    pub from: Option<Vec<String>>,
    /// Upper bound; `None`: open.
    pub to: Option<Vec<String>>,
}

/// A part of a table that is copied by one read.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Split {
    /// Ordinal within the table.
    pub number: u32,
    /// Its rows.
    pub range: KeyRange,
    /// Estimate of its rows.
    pub rows: u64,
}

/// A stream of batches.
#[async_trait]
pub trait BatchStream: Send {
    /// The next batch, `None` at the end. Batches are bounded in bytes.
    ///
    /// # Errors
    /// As the call that returned the stream.
    async fn next(&mut self) -> Result<Option<RecordBatch>>;
}

/// A table without a key, copied in one piece.
pub struct Cut {
    /// The rows are exactly the table's at this position: changes and schema changes before it are in them.
    pub at: Position,
    /// The rows.
    pub rows: Box<dyn BatchStream>,
}

/// The end of a source's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEnd {
    /// The position behind the last commit.
    pub position: Position,
    /// Bytes of log between the position that was asked about and the end, if the source can tell.
    pub bytes_behind: Option<u64>,
}

/// Where changes come from.
#[async_trait]
pub trait Source: Check {
    /// Whether it keeps its log locally when it is asked to ([`ChangesRequest::spool`]).
    fn spools(&self) -> bool {
        false
    }

    /// The tables that match, with those that cannot be followed.
    ///
    /// # Errors
    /// When the source cannot be asked.
    async fn tables(&self, wanted: &TablePattern) -> Result<Vec<Discovered>>;

    /// Notes the low position and reads the schemas in force there (notes it, reads, notes again; starts over when
    /// a schema change lies between).
    ///
    /// # Errors
    /// When the source cannot be asked.
    async fn begin(&self, wanted: &TablePattern) -> Result<CopyStart>;

    /// Cuts a table with a key into ranges of about `rows` rows, in key order, that together hold every key.
    ///
    /// # Errors
    /// When the source cannot be asked.
    async fn splits(&self, table: &TableSchema, rows: u64) -> Result<Vec<Split>>;

    /// Reads a split at a time when everything before `low` is certainly visible; fields as
    /// [`TableSchema::arrow_fields`], without operation column.
    ///
    /// # Errors
    /// `Schema` when the table is no longer as `table` says.
    async fn read(&self, table: &Arc<TableSchema>, split: &Split, low: &Position) -> Result<Box<dyn BatchStream>>;

    /// Reads a table without a key in one consistent snapshot at or behind `low`, with that snapshot's own position
    /// (not the log's end).
    ///
    /// # Errors
    /// As [`Source::read`]; `Unsupported` when the server cannot tell a snapshot's position.
    async fn cut(&self, table: &Arc<TableSchema>, low: &Position) -> Result<Cut>;

    /// The rows that these keys have now, as [`Source::read`] gives them; a key that does not exist is left out.
    /// `keys` has the key's columns in the key's order; everything before `low` is certainly visible to the read.
    ///
    /// # Errors
    /// As [`Source::read`].
    async fn rows_of(&self, table: &Arc<TableSchema>, keys: &RecordBatch, low: &Position) -> Result<RecordBatch>;

    /// The end of the log, and how far it is from `from`.
    ///
    /// # Errors
    /// When the source cannot be asked.
    async fn end(&self, from: Option<&Position>) -> Result<LogEnd>;

    /// Streams changes.
    ///
    /// # Errors
    /// `SourceState` when the log no longer reaches back to there.
    async fn changes(&self, request: ChangesRequest) -> Result<Box<dyn ChangeStream>>;

    /// Everything before this position is durable in the sink and will not be asked for again.
    ///
    /// # Errors
    /// When the source cannot be told.
    async fn acknowledge(&self, upto: &Position) -> Result<()>;

    /// The order of two positions; `None` when they are not comparable (another server's history).
    fn compare(&self, a: &Position, b: &Position) -> Option<Ordering>;

    /// For `verify`: the rows of a range in key order (without a key: all rows, in any order) as
    /// [canonical text](crate::text), rendered by the source itself and not by the decoder that the copy and the stream
    /// use. All columns are `Utf8`. Each row is as it was at some instant of the call, not all at the same.
    ///
    /// # Errors
    /// When the source cannot be asked.
    async fn text(&self, table: &Arc<TableSchema>, range: &KeyRange) -> Result<Box<dyn BatchStream>>;
}

/// A statement for a sink, as `plan` shows it and `apply` executes it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Statement(pub String);

impl std::fmt::Display for Statement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Rows for one target table.
#[derive(Debug, Clone)]
pub struct Load {
    /// The target table.
    pub target: TableName,
    /// Its label, when the sink commits table by table.
    pub label: Label,
    /// The rows in order, keep-last per key already done, all with the same columns. Of columns that are absent the
    /// row keeps what it has, or takes what the row at its base key has ([`crate::batch::BASE_PREFIX`]); all of that
    /// is looked up as it was before the flush.
    pub rows: ChangeBatch,
    /// Whether the target equals the source where the flush begins. Then a row with absent columns and no base is an
    /// error. Otherwise, behind a copy that has seen more, such a row is left out: it is gone further on.
    pub exact: bool,
}

/// What is written together.
#[derive(Debug)]
pub struct Flush {
    /// The label of the whole.
    pub label: Label,
    /// The loads in order.
    pub loads: Vec<Load>,
    /// Why it is written.
    pub purpose: Purpose,
}

/// Why a flush is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purpose {
    /// Streamed changes: written once per label; done already means success. What this writer has staged in parts
    /// number 0 to `parts` - 1 becomes visible with it, in that order and before its own loads; whatever else the
    /// writer has staged is dropped (the engine has begun that transaction again).
    Stream {
        /// Who writes.
        writer: Writer,
        /// Parts that it completes.
        parts: u32,
    },
    /// A part of a transaction whose end has not been read yet, because it is larger than the buffer. It is staged:
    /// visible only with the flush of the same writer (job, incarnation, lane) that completes it, and need not
    /// survive a restart of the sink, because the engine then reads the whole transaction again. Number 0 begins anew
    /// and drops what the writer had staged. Sinks that cannot stage make it visible at once.
    Part {
        /// Who writes.
        writer: Writer,
        /// Ordinal within the transaction.
        number: u32,
    },
    /// Rows of a copy: written every time (a second SELECT sees other rows), idempotent by key.
    Copy,
}

/// What became of a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// It is done.
    Done,
    /// It is not done, and no late call can still do it.
    NotDone,
    /// The sink does not remember labels as old as this one: it may be done. (Doris forgets labels after hours, or
    /// when there are too many.)
    Forgotten,
}

/// Where changes go.
#[async_trait]
pub trait Sink: Check {
    /// The statements that bring a change of a table about, in order. Pure: it looks at nothing but its arguments, so
    /// that showing a plan and executing it are the same code. `target` is the table's name at the sink before the
    /// change; `after` is the source's schema behind it.
    ///
    /// # Errors
    /// `Unsupported` or `Schema` when the sink cannot bring it about.
    fn plan(&self, target: &TableName, change: &TableChange, after: Option<&TableSchema>) -> Result<Vec<Statement>>;

    /// Executes one statement; done already under this label means success.
    ///
    /// # Errors
    /// `SinkUnavailable` when it may help to try again.
    async fn apply(&self, label: &Label, statement: &Statement) -> Result<()>;

    /// Executes the statements of one schema change as one transaction; done already under this label means success.
    /// False when the sink has no such transactions: then nothing has happened, and they go one by one.
    ///
    /// # Errors
    /// As [`Sink::apply`]; nothing has happened then.
    async fn apply_together(&self, _label: &Label, _statements: &[&Statement]) -> Result<bool> {
        Ok(false)
    }

    /// Writes; returns when it is durable.
    ///
    /// # Errors
    /// `SinkUnavailable` when it may help to try again; otherwise, with the target in the context under `table`, what
    /// is wrong with that table's rows.
    async fn write(&self, flush: Flush) -> Result<()>;

    /// Whether parts of a transaction ([`Purpose::Part`]) stay unseen until its end.
    fn holds_parts(&self) -> bool {
        false
    }

    /// What became of the loads or statement of a previous run under this label. Afterwards no late call may land.
    ///
    /// # Errors
    /// When the sink cannot be asked.
    async fn settle(&self, label: &Label, intent: Option<&Intent>) -> Result<Settled>;

    /// For `verify`: the rows of a range of a target table in the given columns, in any order; more than those of the
    /// range, where the sink orders keys otherwise.
    ///
    /// # Errors
    /// When the sink cannot be asked.
    async fn rows(
        &self,
        target: &TableName,
        schema: &Arc<TableSchema>,
        range: &KeyRange,
    ) -> Result<Box<dyn BatchStream>>;
}
