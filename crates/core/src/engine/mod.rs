//! The job engine: creates, runs, pauses, resumes and drops jobs. Command line, SQL and whatever comes later call this
//! one type, and see a job through one [`JobStatus`].

mod buffer;
mod catch_up;
pub mod clock;
mod copy;
mod fold;
mod foreign_keys;
mod job;
mod lane;
mod log_spool;
mod policy;
mod read_back;
mod reader;
mod schema_change;
mod spec;
mod status;
mod unseen;
mod verify;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arrow::array::RecordBatch;
use tokio::sync::{mpsc, oneshot, watch};

pub use job::Rules;
pub use policy::SchemaPolicy;
pub use spec::{JobOptions, JobSpec};
pub use status::{JobState, JobStatus, LargeStatus, SpoolStatus, TableStatus};
pub use verify::{Difference, Mismatch, TableReport, Times, VerifyOptions, VerifyReport};

use crate::connector::{Sink, Source};
use crate::error::{Error, Result};
use crate::intent::Writer;
use crate::position::Position;
use crate::schema::{TableChange, TableName};
use crate::secret::redact_url;
use crate::store::{Change, Desired, Doubt, JobRecord, Phase, Store};
use catch_up::{CREATION_STEPS, creation};
use job::{Ask, Control, Job, Request, give_up_copy, queued};
use lane::{Context, MAIN};
use reader::Task;
use status::Progress;

/// How often the distance to the source's end is asked for.
const LAG_EVERY: Duration = Duration::from_secs(2);
/// How long a job may take to end gracefully before it is cut off (nothing is lost, its intent is replayed).
const STOP_WITHIN: Duration = Duration::from_secs(30);

/// Opens sources by URL.
pub type OpenSource = Box<dyn Fn(&str) -> Result<Arc<dyn Source>> + Send + Sync>;
/// Opens sinks by URL.
pub type OpenSink = Box<dyn Fn(&str) -> Result<Arc<dyn Sink>> + Send + Sync>;

/// How the engine gets at sources and sinks, whose crates it does not know.
pub struct Connectors {
    /// Opens a source; checks the URL, connects to nothing yet.
    pub source: OpenSource,
    /// Opens a sink, likewise.
    pub sink: OpenSink,
}

/// A job that runs in this process.
struct Running {
    requests: mpsc::Sender<Request>,
    control: watch::Sender<Control>,
    progress: Arc<Progress>,
    task: Task<()>,
    _lag: Task<()>,
}

/// The engine of one data directory.
pub struct Engine {
    store: Store,
    connectors: Connectors,
    rules: Rules,
    /// Where sources may keep their logs.
    spool: Option<PathBuf>,
    running: Mutex<BTreeMap<String, Running>>,
    /// Held by whoever starts or ends jobs, so that no job ever runs beside itself; whether the engine has ended.
    turn: tokio::sync::Mutex<bool>,
}

impl Engine {
    /// Opens the store `jobs.redb` in the data directory; starts nothing.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open(data: &Path, connectors: Connectors) -> Result<Arc<Engine>> {
        std::fs::create_dir_all(data).map_err(|e| crate::error::io_error(data, "create the data directory", e))?;
        Engine::in_directory(data, Store::open(&data.join("jobs.redb"))?, connectors)
    }

    /// The same over its store, which is open already.
    ///
    /// # Errors
    /// `Io` when what dropped jobs have left there cannot be removed.
    pub fn in_directory(data: &Path, store: Store, connectors: Connectors) -> Result<Arc<Engine>> {
        let engine = Engine { spool: Some(data.join("spool")), ..Engine::new(store, connectors, Rules::default()) };
        engine.remove_left_spools()?;
        Ok(Arc::new(engine))
    }

    /// Without a directory, with rules that the simulation may break.
    pub fn with_store(store: Store, connectors: Connectors, rules: Rules) -> Arc<Engine> {
        Arc::new(Engine::new(store, connectors, rules))
    }

    fn new(store: Store, connectors: Connectors, rules: Rules) -> Engine {
        Engine { store, connectors, rules, spool: None, running: Mutex::default(), turn: Default::default() }
    }

    /// Where a job's source may keep its log. Not under the job's name, which may be anything.
    fn spool_of(&self, record: &JobRecord) -> Option<PathBuf> {
        Some(self.spool.as_ref()?.join(format!("{:016x}", record.incarnation)))
    }

    /// Removes what jobs have left that were dropped, or begun anew.
    fn remove_left_spools(&self) -> Result<()> {
        let Some(Ok(entries)) = self.spool.as_ref().map(std::fs::read_dir) else { return Ok(()) };
        let known: Vec<_> = self.store.jobs()?.iter().filter_map(|r| self.spool_of(r)).collect();
        for left in entries.filter_map(|e| Some(e.ok()?.path())).filter(|path| !known.contains(path)) {
            std::fs::remove_dir_all(&left).map_err(|e| crate::error::io_error(&left, "remove the spool", e))?;
        }
        Ok(())
    }

    /// Stores a new job and starts it.
    ///
    /// # Errors
    /// `AlreadyExists`, or what is wrong with the specification.
    pub async fn create(self: &Arc<Self>, spec: JobSpec) -> Result<()> {
        self.create_with_incarnation(spec, random()?).await
    }

    /// [`Engine::create`] with a given incarnation (the simulation draws its own).
    ///
    /// # Errors
    /// As [`Engine::create`].
    pub async fn create_with_incarnation(self: &Arc<Self>, spec: JobSpec, incarnation: u64) -> Result<()> {
        let _turn = self.turn().await?;
        spec.validate()?;
        (self.connectors.source)(&spec.source)?;
        (self.connectors.sink)(&spec.sink)?;
        if self.store.job(&spec.name)?.is_some() {
            return Err(Error::already_exists(format!("a job named {} exists already", spec.name))
                .hint(format!("`freshet status {0}` shows it; `freshet drop {0}` removes it", spec.name)));
        }
        let created_ms = clock::now_ms();
        let record = JobRecord { spec, incarnation, desired: Desired::Running, failed: None, created_ms };
        let mut change = Change::new();
        change.job(&record);
        self.store.commit(change).await?;
        self.start(&record)
    }

    /// The stored job of that name.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn stored(&self, name: &str) -> Result<Option<JobRecord>> {
        self.store.job(name)
    }

    /// Stores other options of a job, which hold from its next start on.
    ///
    /// # Errors
    /// `NotFound`, or what is wrong with them.
    pub async fn set_options(&self, name: &str, options: JobOptions) -> Result<()> {
        let _turn = self.turn().await?;
        let mut record = self.record(name)?;
        record.spec.options = options;
        record.spec.validate()?;
        self.store_job(&record).await
    }

    /// Starts every job that is meant to run.
    ///
    /// # Errors
    /// When the store cannot be read. A job that cannot start is shown as failed.
    pub async fn start_all(self: &Arc<Self>) -> Result<()> {
        let _turn = self.turn().await?;
        for record in self.store.jobs()? {
            if record.desired == Desired::Running && !self.lock().contains_key(&record.spec.name) {
                self.start(&record)?;
            }
        }
        Ok(())
    }

    fn start(self: &Arc<Self>, record: &JobRecord) -> Result<()> {
        let source = (self.connectors.source)(&record.spec.source)?;
        let sink = (self.connectors.sink)(&record.spec.sink)?;
        let mut status = self.stored_status(record)?;
        (status.state, status.error) = (JobState::Starting, None);
        status.started_ms = Some(clock::now_ms());
        let progress = Arc::new(Progress::new(status));
        let (control, told) = watch::channel(Control::Run);
        let (requests, asked) = mpsc::channel(16);
        let context = Context {
            spec: record.spec.clone(),
            incarnation: record.incarnation,
            store: self.store.clone(),
            source: Arc::clone(&source),
            sink,
            progress: Arc::clone(&progress),
            rules: self.rules,
            spool: self.spool_of(record).filter(|_| source.spools() && record.spec.options.spool_bytes > 0),
        };
        let engine = Arc::downgrade(self);
        let name = record.spec.name.clone();
        let task = Task::spawn(async move {
            let (name, progress) = (context.spec.name.clone(), Arc::clone(&context.progress));
            let mut run = Task::spawn(async move { job::run(&mut Job::new(context, told, asked)).await });
            // A task that panicked ends its job, not the process: what it had begun is settled at the next start.
            if let Err(error) = run.join().await.and_then(|end| end) {
                tracing::error!(job = name, "failed: {}", error.line());
                progress.job(|s| (s.state, s.error) = (JobState::Failed, Some(error.clone())));
                if let Some(engine) = engine.upgrade() {
                    // The status above shows it already; after a restart the job tries again by itself.
                    let _ = engine.set_failed(&name, Some(error)).await;
                }
            }
        });
        let lag = Task::spawn(watch_lag(source, Arc::clone(&progress)));
        self.lock().insert(name, Running { requests, control, progress, task, _lag: lag });
        Ok(())
    }

    async fn set_failed(&self, name: &str, failed: Option<Error>) -> Result<()> {
        let Some(mut record) = self.store.job(name)? else { return Ok(()) };
        record.failed = failed;
        self.store_job(&record).await
    }

    async fn store_job(&self, record: &JobRecord) -> Result<()> {
        let mut change = Change::new();
        change.job(record);
        self.store.commit(change).await
    }

    /// The record of a job that is not being dropped.
    fn record(&self, name: &str) -> Result<JobRecord> {
        let record = self.store.job(name)?.ok_or_else(|| self.no_job(name))?;
        match record.desired {
            Desired::Dropped => Err(Error::not_found(format!("the job {name} is being dropped"))
                .hint("the next start of Freshet finishes that; then create it again")),
            _ => Ok(record),
        }
    }

    /// Lets a job flush, store its position and stand still, also over restarts.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn pause(&self, name: &str) -> Result<()> {
        let _turn = self.turn().await?;
        let mut record = self.record(name)?;
        (record.desired, record.failed) = (Desired::Paused, None);
        self.store_job(&record).await?;
        self.end(name).await;
        Ok(())
    }

    /// Lets a paused or failed job go on where it stood; with `source` from there: the same data at another address (a
    /// replica that has taken over) or with other credentials. Whether its log goes on where the job stands is found out
    /// when the job opens it.
    ///
    /// # Errors
    /// `NotFound`; `Config` when the URL is of another kind or wrong.
    pub async fn resume(self: &Arc<Self>, name: &str, source: Option<&str>) -> Result<()> {
        let _turn = self.turn().await?;
        let record = self.mark_resumed(name, source).await?;
        self.end(name).await;
        self.start(&record)
    }

    /// As [`Engine::resume`], without starting it in this process.
    ///
    /// # Errors
    /// `NotFound`; `Config` when the URL is of another kind.
    pub async fn mark_resumed(&self, name: &str, source: Option<&str>) -> Result<JobRecord> {
        let mut record = self.record(name)?;
        if let Some(url) = source {
            let kind = |url: &str| url.split(':').next().unwrap_or_default().to_string();
            if kind(url) != kind(&record.spec.source) {
                return Err(Error::config(format!("the job {name} reads from {}", record.spec.source_redacted()))
                    .with("url", redact_url(url))
                    .hint("only the same data can take its source's place: another address or other credentials"));
            }
            record.spec.source = url.to_string();
        }
        (record.desired, record.failed) = (Desired::Running, None);
        self.store_job(&record).await?;
        Ok(record)
    }

    /// Copies tables of a job again, all of them when none is named. The job runs on: what is live stays readable and
    /// fresh until its new copy takes its place in one instant.
    ///
    /// A job that does not run because the source's log is lost is begun anew, all of its tables at once.
    ///
    /// # Errors
    /// `NotFound`; `Config` when the job does not run and single tables are named.
    pub async fn resync(self: &Arc<Self>, job: &str, tables: Vec<TableName>) -> Result<()> {
        let state = self.job(job)?.state;
        if matches!(state, JobState::Failed | JobState::Paused | JobState::Stopped) {
            if !tables.is_empty() {
                return Err(Error::config(format!("the job is {state}: single tables are copied again while it runs"))
                    .hint(format!("freshet resume {job}, or copy all of its tables again: freshet resync {job}")));
            }
            let _turn = self.turn().await?;
            self.end(job).await;
            let record = self.mark_resynced(job).await?;
            return self.start(&record);
        }
        self.ask(job, Ask::Resync(tables)).await
    }

    /// Lets a job that does not run begin anew at its next start: forgets its positions, under a new incarnation. Its
    /// targets keep what they have until the new copies are level.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn mark_resynced(&self, job: &str) -> Result<JobRecord> {
        let mut record = self.record(job)?;
        let name = record.spec.name.clone();
        let mut ledger = self.store.ledger(&name)?;
        ledger.doubts = self.doubts(&record)?;
        (record.desired, record.failed) = (Desired::Running, None);
        if self.rules.incarnations {
            record.incarnation = random()?;
        }
        let mut change = Change::new();
        for mut table in self.store.tables(&name)? {
            give_up_copy(&mut table, &mut ledger);
            // So it is seen that it is due; where it begins is found out then.
            table.copy = Some(queued(&table.target, &Position::at(""), table.schema_version));
            change.remove_splits(&name, &table.name).table(&name, &table);
        }
        for lane in ledger.side.take().into_iter().chain([MAIN]) {
            change.remove_lane(&name, lane);
        }
        change.ledger(&name, &ledger).job(&record);
        self.store.commit(change).await?;
        Ok(record)
    }

    /// Lets a suspended table of a running job go on where it stood.
    ///
    /// # Errors
    /// `NotFound`; `Config` when it is not suspended, or only a new copy helps.
    pub async fn resume_table(&self, job: &str, table: TableName) -> Result<()> {
        self.ask(job, Ask::Continue(table)).await
    }

    /// Writes rows of a live table of a running job as the source has them now. `keys`: the columns of the table's key.
    ///
    /// # Errors
    /// `NotFound`; `Config` when the table is not live or has no key.
    pub async fn repair(&self, job: &str, table: TableName, keys: RecordBatch) -> Result<()> {
        self.ask(job, Ask::Repair(table, keys)).await
    }

    /// Asks a running job to do something, and waits until it is under way.
    async fn ask(&self, job: &str, what: Ask) -> Result<()> {
        let stopped =
            || Error::config(format!("the job {job} does not run")).hint(format!("start it: freshet resume {job}"));
        let requests = self.lock().get(job).map(|r| r.requests.clone());
        let requests = match requests {
            Some(requests) => requests,
            None if self.store.job(job)?.is_none() => return Err(self.no_job(job)),
            None => return Err(stopped()),
        };
        let (answer, answered) = oneshot::channel();
        requests.send(Request { what, answer }).await.map_err(|_| stopped())?;
        answered.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// Ends a job and forgets it; the target tables stay.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn drop_job(&self, name: &str) -> Result<()> {
        let _turn = self.turn().await?;
        let mut record = self.store.job(name)?.ok_or_else(|| self.no_job(name))?;
        self.end(name).await;
        // Durable before anything is removed: what is left of the job cannot go on.
        record.desired = Desired::Dropped;
        let mut change = Change::new();
        change.job(&record);
        self.store.commit(change).await?;
        self.finish_drop(&record).await
    }

    /// Finishes what a process that ended was dropping. Call before anything else looks at the jobs.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub async fn finish_drops(&self) -> Result<()> {
        let _turn = self.turn().await?;
        for record in self.store.jobs()?.into_iter().filter(|r| r.desired == Desired::Dropped) {
            self.finish_drop(&record).await?;
        }
        Ok(())
    }

    async fn finish_drop(&self, record: &JobRecord) -> Result<()> {
        let name = record.spec.name.as_str();
        if let Err(error) = self.clean_up(record).await {
            tracing::warn!(job = name, "tables of unfinished copies may be left: {}", error.line());
        }
        let mut change = Change::new();
        change.remove_job(name);
        self.store.commit(change).await?;
        self.remove_left_spools()
    }

    /// What a job had begun at the sink when it ended.
    fn doubts(&self, record: &JobRecord) -> Result<Vec<Doubt>> {
        let name = record.spec.name.as_str();
        let ledger = self.store.ledger(name)?;
        let writer = Writer { job: name.to_string(), incarnation: record.incarnation, lane: MAIN };
        let mut doubts = ledger.doubts;
        let mut add = |label, intent, creates| doubts.push(Doubt { label, intent, creates });
        for lane in ledger.side.into_iter().chain([MAIN]) {
            let Some(lane) = self.store.lane(name, lane)? else { continue };
            for intent in lane.intent.into_iter().chain(lane.part) {
                add(intent.label.clone(), Some(intent), None);
            }
            if let Some(ddl) = lane.ddl {
                add(ddl.together(&writer), None, None);
                ddl.steps.into_iter().skip(ddl.done).for_each(|step| add(step.label, None, None));
            }
        }
        for table in self.store.tables(name)? {
            let splits = self.store.splits(name, &table.name)?;
            splits.into_iter().filter_map(|s| s.begun).for_each(|label| add(label, None, None));
            let Some(copy) = table.copy.filter(|c| c.phase == Phase::Queued && c.number > 0) else { continue };
            let creates = Some(table.name.clone()).filter(|_| copy.into == table.target);
            let label = |step| creation(&writer, &table.name, copy.number, step);
            (0..CREATION_STEPS).for_each(|step| add(label(step), None, creates.clone()));
        }
        Ok(doubts)
    }

    /// Settles what the job had begun, because nothing of it may land in tables that somebody else fills later, and drops
    /// what unfinished copies have filled. A sink that does not answer keeps that; the job is forgotten all the same.
    async fn clean_up(&self, record: &JobRecord) -> Result<()> {
        let name = record.spec.name.as_str();
        let doubts = self.doubts(record)?;
        let tables = self.store.tables(name)?.into_iter();
        let filled = tables.filter_map(|t| t.copy.map(|c| c.into).filter(|into| *into != t.target));
        let shadows: Vec<TableName> = self.store.ledger(name)?.garbage.into_iter().chain(filled).collect();
        if shadows.is_empty() && doubts.is_empty() {
            return Ok(());
        }
        let sink = (self.connectors.sink)(&record.spec.sink)?;
        for Doubt { label, intent, .. } in doubts.into_iter().filter(|_| self.rules.doubts) {
            sink.settle(&label, intent.as_ref()).await?;
        }
        let writer = Writer { job: name.to_string(), incarnation: record.incarnation, lane: MAIN };
        for shadow in shadows {
            for statement in sink.plan(&shadow, &TableChange::DropTable, None)? {
                sink.apply(&writer.label("dropped", &[&shadow.to_string()]), &statement).await?;
            }
        }
        Ok(())
    }

    /// Waits until nobody else starts or ends jobs.
    async fn turn(&self) -> Result<tokio::sync::MutexGuard<'_, bool>> {
        let turn = self.turn.lock().await;
        if *turn {
            return Err(Error::config("Freshet is ending").hint("ask again when it has been started again"));
        }
        Ok(turn)
    }

    /// Ends all jobs gracefully; they go on when the engine is opened again. Nothing is started any more.
    pub async fn shutdown(&self) {
        for running in self.lock().values() {
            running.control.send_replace(Control::Stop);
        }
        let mut ended = self.turn.lock().await;
        *ended = true;
        let names: Vec<_> = self.lock().keys().cloned().collect();
        for running in self.lock().values() {
            running.control.send_replace(Control::Stop);
        }
        for name in names {
            self.end(&name).await;
        }
    }

    /// Stops a job that runs here and waits for its end.
    async fn end(&self, name: &str) {
        let Some(mut running) = self.lock().remove(name) else { return };
        running.control.send_replace(Control::Stop);
        if tokio::time::timeout(STOP_WITHIN, running.task.join()).await.is_err() {
            tracing::warn!(
                job = name,
                "did not end within {STOP_WITHIN:?}; what was under way is settled at the next start"
            );
        }
    }

    /// All jobs by name.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn status(&self) -> Result<Vec<JobStatus>> {
        self.store.jobs()?.iter().map(|r| self.job_status(r)).collect()
    }

    /// One job.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn job(&self, name: &str) -> Result<JobStatus> {
        let record = self.store.job(name)?.ok_or_else(|| self.no_job(name))?;
        self.job_status(&record)
    }

    fn job_status(&self, record: &JobRecord) -> Result<JobStatus> {
        match self.lock().get(&record.spec.name) {
            Some(running) => Ok(running.progress.snapshot()),
            None => self.stored_status(record),
        }
    }

    fn stored_status(&self, record: &JobRecord) -> Result<JobStatus> {
        let name = &record.spec.name;
        let mut tables = Vec::new();
        for table in self.store.tables(name)? {
            let splits = self.store.splits(name, &table.name)?;
            let mut status = TableStatus::new(&table);
            status.splits = splits.len() as u64;
            status.splits_done = splits.iter().filter(|s| s.done.is_some()).count() as u64;
            status.rows_copied = splits.iter().filter_map(|s| s.done).sum();
            tables.push(status);
        }
        let state = match (record.desired, &record.failed) {
            (Desired::Dropped, _) => JobState::Dropping,
            (Desired::Paused, _) => JobState::Paused,
            (Desired::Running, Some(_)) => JobState::Failed,
            (Desired::Running, None) => JobState::Stopped,
        };
        Ok(JobStatus {
            name: name.clone(),
            state,
            source: record.spec.source_redacted(),
            sink: record.spec.sink_redacted(),
            position: self.store.lane(name, MAIN)?.map(|l| l.position.to_string()),
            lag_ms: None,
            lag_bytes: None,
            rows_copied: tables.iter().map(|t| t.rows_copied).sum(),
            changes: 0,
            flushes: 0,
            transactions: 0,
            tables,
            error: record.failed.clone(),
            schema_changes: record.spec.options.schema_changes,
            left_out: self.store.ledger(name)?.left_out.iter().map(ToString::to_string).collect(),
            started_ms: None,
            spool: None,
            large: None,
        })
    }

    fn no_job(&self, name: &str) -> Error {
        let names: Vec<_> = self.store.jobs().unwrap_or_default().into_iter().map(|r| r.spec.name).collect();
        let hint = match names.as_slice() {
            [] => "there are no jobs yet: `freshet sync SOURCE` makes one".to_string(),
            some => format!("jobs are: {}", some.join(", ")),
        };
        Error::not_found(format!("there is no job named {}", redact_url(name))).hint(hint)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks the source from time to time how far it is ahead.
async fn watch_lag(source: Arc<dyn Source>, progress: Arc<Progress>) {
    // Where the job stood when it was first seen there.
    let mut seen: Option<(String, tokio::time::Instant)> = None;
    loop {
        tokio::time::sleep(LAG_EVERY).await;
        let status = progress.snapshot();
        let Some(position) = status.position.filter(|_| status.state == JobState::Streaming) else { continue };
        let here = Position::parse(&position);
        let Ok(Ok(end)) = tokio::time::timeout(LAG_EVERY * 5, source.end(Some(&here))).await else { continue };
        let level = matches!(source.compare(&here, &end.position), Some(o) if o.is_ge());
        let since = match &seen {
            Some((there, since)) if *there == position && !level => *since,
            _ => tokio::time::Instant::now(),
        };
        seen = Some((position, since));
        let stands_ms = i64::try_from(since.elapsed().as_millis()).unwrap_or(i64::MAX);
        progress.job(|s| {
            s.lag_bytes = if level { Some(0) } else { end.bytes_behind };
            s.lag_ms = match level {
                true => Some(0),
                // Each commit says how late it is; where none comes, the lag grows with the time.
                false => Some(s.lag_ms.unwrap_or(0).max(stands_ms)),
            };
        });
    }
}

fn random() -> Result<u64> {
    getrandom::u64().map_err(|e| Error::internal("this system gives no random numbers").because(e))
}
