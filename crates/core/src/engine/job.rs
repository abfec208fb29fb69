//! One run of one job: settle what the last run left in doubt, create the targets, copy, stream. Everything durable is
//! in the store before it is relied on, so a run may end at any instant and the next one begins here again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::connector::{CopyStart, Settled, Sink, Source};
use crate::engine::spec::JobSpec;
use crate::engine::status::{JobState, Progress};
use crate::error::{Error, ErrorKind, Result, Retry};
use crate::intent::{Label, Writer};
use crate::schema::{TableChange, TableName, TableSchema};
use crate::store::{Change, LaneRecord, SchemaRecord, Store, TableRecord, TableState};

/// The main lane.
pub(crate) const MAIN: u32 = 0;
/// The longest pause between two tries.
const BACKOFF_MAX: Duration = Duration::from_secs(30);
const BACKOFF_MIN: Duration = Duration::from_millis(250);

/// What a running job is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Control {
    Run,
    /// Flush, store, end.
    Stop,
}

/// How a run ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    Stopped,
}

/// The protocol's rules, each of which the simulation can break to show that it is needed.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// A write-ahead intent is stored before each flush and replayed with its boundaries.
    pub intent: bool,
    /// A load holds each key once, with its last change.
    pub keep_last: bool,
    /// Everything before a schema change is flushed before it is applied.
    pub barrier: bool,
    /// Streaming begins at the position that was noted before the first split.
    pub low_position: bool,
    /// Streaming begins when the copy has ended.
    pub copy_first: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Rules { intent: true, keep_last: true, barrier: true, low_position: true, copy_first: true }
    }
}

/// Everything that a run works with.
pub(crate) struct Job {
    pub(crate) spec: JobSpec,
    pub(crate) writer: Writer,
    pub(crate) store: Store,
    pub(crate) source: Arc<dyn Source>,
    pub(crate) sink: Arc<dyn Sink>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) control: watch::Receiver<Control>,
    pub(crate) rules: Rules,
    /// The tables as stored; what is in here is durable.
    pub(crate) tables: BTreeMap<TableName, TableRecord>,
    /// Their schemas at the lane's position, with the version.
    pub(crate) schemas: BTreeMap<TableName, (u32, Arc<TableSchema>)>,
    pub(crate) lane: LaneRecord,
}

/// Runs a job until it is stopped, trying again after errors that may pass.
///
/// # Errors
/// What a person has to deal with.
pub(crate) async fn run(job: &mut Job) -> Result<End> {
    let mut pause = BACKOFF_MIN;
    loop {
        let before = job.lane.position.clone();
        let error = match job.run_once().await {
            Ok(end) => return Ok(end),
            Err(error) => error,
        };
        if error.kind.retry() == Retry::Person {
            return Err(error);
        }
        if job.lane.position != before {
            pause = BACKOFF_MIN;
        }
        job.retrying(&error, pause);
        tokio::select! {
            biased;
            () = stopped(&mut job.control) => return Ok(End::Stopped),
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(BACKOFF_MAX),
        }
    }
}

/// Waits until the job is told to stop.
pub(crate) async fn stopped(control: &mut watch::Receiver<Control>) {
    // An engine that is gone has stopped its jobs as well.
    let _ = control.wait_for(|c| *c == Control::Stop).await;
}

impl Job {
    async fn run_once(&mut self) -> Result<End> {
        self.state(JobState::Starting);
        self.load()?;
        if self.store.lane(&self.spec.name, MAIN)?.is_none() {
            self.begin().await?;
        }
        self.settle().await?;
        self.create_targets().await?;
        if self.rules.copy_first && self.copy().await? == Some(End::Stopped) {
            return Ok(End::Stopped);
        }
        let _racing = if self.rules.copy_first { None } else { Some(self.race_copy().await?) };
        self.state(JobState::Streaming);
        self.stream().await
    }

    /// Reads what the store knows.
    fn load(&mut self) -> Result<()> {
        let job = &self.spec.name;
        self.tables = self.store.tables(job)?.into_iter().map(|t| (t.name.clone(), t)).collect();
        self.schemas.clear();
        for table in self.tables.values() {
            let history = self.store.schemas(job, &table.name)?;
            if let Some(found) = history.into_iter().find(|s| s.version == table.schema_version) {
                self.schemas.insert(table.name.clone(), (found.version, Arc::new(found.schema)));
            } else if !matches!(table.state, TableState::Suspended { .. }) {
                return Err(Error::corrupt("the store lacks the schema of a table").with("table", &table.name));
            }
        }
        if let Some(lane) = self.store.lane(job, MAIN)? {
            self.lane = lane;
        }
        self.progress.set_tables(self.tables.values());
        for table in self.tables.values() {
            let splits = self.store.splits(job, &table.name)?;
            self.progress.table(&table.name, |t| {
                t.splits = splits.len() as u64;
                t.splits_done = splits.iter().filter(|s| s.done.is_some()).count() as u64;
                t.rows_copied = splits.iter().filter_map(|s| s.done).sum();
            });
        }
        let position = self.lane.position.to_string();
        self.progress.job(|s| s.position = Some(position));
        Ok(())
    }

    /// The first start: notes low position and schemas, durably, before anything is read.
    async fn begin(&mut self) -> Result<()> {
        let CopyStart { low, tables } = self.source.begin(&self.spec.tables).await?;
        if tables.is_empty() {
            return Err(Error::not_found(format!("no table matches {}", self.spec.tables))
                .with("source", self.spec.source_redacted())
                .hint("`freshet tables SOURCE` lists what is there"));
        }
        let mut change = Change::new();
        self.lane = LaneRecord { position: low.clone(), intent: None, ddl: None };
        change.lane(&self.spec.name, MAIN, &self.lane);
        for found in tables {
            let state = match &found.schema {
                Ok(_) => TableState::Pending,
                Err(error) => TableState::Suspended { error: error.clone(), at: low.clone() },
            };
            let record = TableRecord {
                target: self.spec.target(&found.name),
                name: found.name.clone(),
                lane: MAIN,
                schema_version: 1,
                attempt: 0,
                rows_estimated: found.rows,
                state,
            };
            change.table(&self.spec.name, &record);
            if let Ok(schema) = found.schema {
                let history = SchemaRecord { version: 1, from: low.clone(), schema: schema.clone() };
                change.schema(&self.spec.name, &found.name, &history);
                self.schemas.insert(found.name.clone(), (1, Arc::new(schema)));
            }
            self.tables.insert(found.name, record);
        }
        self.store.commit(change).await?;
        self.progress.set_tables(self.tables.values());
        self.progress.job(|s| s.position = Some(low.to_string()));
        Ok(())
    }

    /// Finds out what became of the flush and the schema change that the last run left open.
    async fn settle(&mut self) -> Result<()> {
        if let Some(intent) = self.lane.intent.clone()
            && self.sink.settle(&intent.label, Some(&intent)).await? == Settled::Done
        {
            self.lane.position = intent.to;
            self.lane.intent = None;
            self.store_lane().await?;
        }
        if self.lane.ddl.is_some() {
            self.finish_schema_change().await?;
        }
        Ok(())
    }

    /// Creates the targets of the tables that have none yet.
    async fn create_targets(&mut self) -> Result<()> {
        let pending: Vec<_> =
            self.tables.values().filter(|t| t.state == TableState::Pending).map(|t| t.name.clone()).collect();
        for name in pending {
            let record = self.tables[&name].clone();
            let schema = Arc::clone(&self.schemas[&name].1);
            let result = match schema.has_key() {
                true => self.create_target(&record, &schema).await,
                false => Err(keyless(&name)),
            };
            match result {
                Ok(()) => self.set_table_state(&name, TableState::Copying).await?,
                Err(e) if e.kind.retry() == Retry::Backoff => return Err(e),
                Err(e) => self.suspend(&name, e).await?,
            }
        }
        Ok(())
    }

    async fn create_target(&mut self, record: &TableRecord, schema: &TableSchema) -> Result<()> {
        let mut changes = vec![TableChange::CreateTable(schema.clone())];
        if self.spec.options.replace {
            changes.insert(0, TableChange::DropTable);
        }
        let mut number = 0;
        for change in changes {
            for statement in self.sink.plan(&record.target, &change, Some(schema))? {
                let (table, step) = (record.name.to_string(), number.to_string());
                let label = self.writer.label("create", &[&table, &step]);
                self.sink.apply(&label, &statement).await.map_err(|e| match e.kind {
                    ErrorKind::AlreadyExists => e.hint(format!(
                        "drop it (freshet sql 'DROP TABLE {}'), sync with --replace, or give another \
                         --target-database",
                        record.target.quoted()
                    )),
                    _ => e,
                })?;
                number += 1;
            }
        }
        Ok(())
    }

    /// The label of a flush: a pure function of its range.
    pub(crate) fn flush_label(&self, to: &crate::Position) -> Label {
        self.writer.label("flush", &[&self.lane.position.to_string(), &to.to_string()])
    }

    pub(crate) async fn store_lane(&self) -> Result<()> {
        let mut change = Change::new();
        change.lane(&self.spec.name, MAIN, &self.lane);
        self.store.commit(change).await
    }

    pub(crate) async fn set_table_state(&mut self, name: &TableName, state: TableState) -> Result<()> {
        let Some(record) = self.tables.get_mut(name) else { return Ok(()) };
        record.state = state;
        let mut change = Change::new();
        change.table(&self.spec.name, record);
        self.store.commit(change).await?;
        self.progress.table(name, |t| t.set_state(&self.tables[name].state));
        Ok(())
    }

    /// Parks a table with the reason; the others go on.
    pub(crate) async fn suspend(&mut self, name: &TableName, error: Error) -> Result<()> {
        tracing::warn!(job = self.spec.name, table = %name, "suspended: {}", error.line());
        let at = self.lane.position.clone();
        self.set_table_state(name, TableState::Suspended { error, at }).await
    }

    /// Whether the table's rows are written.
    pub(crate) fn follows(&self, name: &TableName) -> bool {
        self.tables.get(name).is_some_and(|t| !matches!(t.state, TableState::Suspended { .. }))
    }

    pub(crate) fn state(&self, state: JobState) {
        self.progress.job(|s| {
            s.state = state;
            s.error = None;
        });
    }

    pub(crate) fn retrying(&self, error: &Error, pause: Duration) {
        tracing::warn!(job = self.spec.name, "trying again in {pause:?}: {}", error.line());
        self.progress.job(|s| {
            s.state = JobState::Retrying;
            s.error = Some(error.clone());
        });
    }
}

pub(crate) fn keyless(table: &TableName) -> Error {
    Error::unsupported("the table has no primary key, so its updates and deletes cannot be applied exactly")
        .with("table", table)
        .hint("add a primary key at the source; tables without a key are not followed yet")
}

/// Tries until it succeeds or a person is needed; `failed` is told of each failure and how long the pause is.
pub(crate) async fn with_retries<T, F: Future<Output = Result<T>>>(
    mut attempt: impl FnMut() -> F,
    failed: impl Fn(&Error, Duration),
) -> Result<T> {
    let mut pause = BACKOFF_MIN;
    loop {
        match attempt().await {
            Err(e) if e.kind.retry() == Retry::Backoff => {
                failed(&e, pause);
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(BACKOFF_MAX);
            }
            other => return other,
        }
    }
}
