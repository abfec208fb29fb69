//! One run of one job: settle what the last run left in doubt, then drive the lanes and the copies from one loop.
//! Everything durable is in the store before it is relied on, so a run may end at any instant and the next one begins
//! here again. Reading, decoding and writing happen in tasks of their own; this loop only decides.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use arrow::array::RecordBatch;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use crate::connector::{ChangesRequest, CopyStart, Event, Settled};
use crate::engine::catch_up::{Found, Side};
use crate::engine::copy::{Pool, Report};
use crate::engine::foreign_keys::{Owed, Touched};
use crate::engine::lane::{Context, Flushed, Lane, MAIN, Route, flush_end};
use crate::engine::schema_change::come_back;
use crate::engine::status::JobState;
use crate::engine::unseen::Unseen;
use crate::error::{Error, ErrorKind, Result, Retry};
use crate::failpoint::step;
use crate::position::Position;
use crate::schema::{TableName, TableSchema};
use crate::spool::{Spool, Spooling};
use crate::store::{
    Change, CopyRecord, Doubt, LaneRecord, Ledger, Parked, Phase, SchemaRecord, TableRecord, TableState,
};

/// The longest pause between two tries.
const BACKOFF_MAX: Duration = Duration::from_secs(30);
const BACKOFF_MIN: Duration = Duration::from_millis(250);
/// How long the loop may sleep while something waits that no event announces.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What a running job is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Control {
    Run,
    /// Flush, store, end.
    Stop,
}

/// What a running job is asked to do; the answer comes when it has been stored.
pub(crate) struct Request {
    pub(crate) what: Ask,
    pub(crate) answer: oneshot::Sender<Result<()>>,
}

/// What a running job can be asked.
#[derive(Debug, Clone)]
pub(crate) enum Ask {
    /// Copy these tables again, all without a name.
    Resync(Vec<TableName>),
    /// Go on with a suspended table where it stood.
    Continue(TableName),
    /// Write these keys of a table as the source has them now.
    Repair(TableName, RecordBatch),
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
    /// A load holds each key once, with its last change; absent columns are overlaid.
    pub keep_last: bool,
    /// Everything before a schema change is flushed before it is applied.
    pub barrier: bool,
    /// Streaming begins at the position that was noted before the first split.
    pub low_position: bool,
    /// A table whose definition changes while it is copied is copied again.
    pub copy_again: bool,
    /// The catch-up lane joins at the main lane's position.
    pub join_level: bool,
    /// The catch-up lane joins when it has passed the end of the copies.
    pub join_live: bool,
    /// The main lane leaves the rows of tables in the other lane alone.
    pub main_skips: bool,
    /// What the previous run left open is settled before anything else.
    pub settle: bool,
    /// Progress of a split is stored after its rows.
    pub progress_after: bool,
    /// A table whose rows were rewritten without being logged is copied again.
    pub rewrite: bool,
    /// The rows of a table without a key are followed from exactly the position of its copy.
    pub cut: bool,
    /// What a moved row does not say is read from the source behind a copy.
    pub read_back: bool,
    /// A table joins where the main lane stands between two transactions, or the log is read again from there.
    pub join_between: bool,
    /// Labels hold the lane's and the copy's number.
    pub numbers: bool,
    /// The copy of a table without a key begins anew after a crash.
    pub keyless_anew: bool,
    /// The source is told the lowest position of all lanes.
    pub acknowledge_lowest: bool,
    /// A transaction in parts that is read again has other labels.
    pub part_labels: bool,
    /// Tables of which parts were sent are not taken for equal before the lane has passed them.
    pub note_parts: bool,
    /// What the order of another server's log does not let replay, or catch up with, is done anew.
    pub astray: bool,
    /// A flush that the sink refuses is settled before its table goes on.
    pub settle_refused: bool,
    /// Flushes that the sink has forgotten are not simply repeated.
    pub forgotten: bool,
    /// A job that begins anew has other labels.
    pub incarnations: bool,
    /// What an earlier incarnation had begun is settled, too.
    pub doubts: bool,
    /// The catch-up lane decodes rows with the schema in force where it stands.
    pub in_force: bool,
    /// A suspended table whose definition changes does not go on from where it stood.
    pub parked: bool,
    /// Each try of a split has labels of its own.
    pub tries: bool,
    /// Of changes of one key in one flush, what the later ones do not say the earlier ones do.
    pub overlay: bool,
    /// A row that moved takes what it does not say from its old place.
    pub moves: bool,
    /// A schema change has an intent.
    pub ddl_intent: bool,
    /// A table of which rows have changed without being in the log is copied again.
    pub unseen: bool,
    /// Rows that foreign keys may have changed are read again behind the commit.
    pub read_again: bool,
    /// Those that the buffer has are among them.
    pub logged_again: bool,
    /// Those that were read again before and are ahead of the lane are among them.
    pub ahead_again: bool,
    /// Those of a table that was on its way then are among them.
    pub owed_again: bool,
    /// Each statement of a schema change is recorded when it is done.
    pub ddl_steps: bool,
    /// That tables join is recorded before their shadows take their places.
    pub join_intent: bool,
    /// The rows of a table without a key count from the position of its snapshot, not from the log's end of then.
    pub cut_place: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Rules {
            intent: true,
            keep_last: true,
            barrier: true,
            low_position: true,
            copy_again: true,
            join_level: true,
            join_live: true,
            main_skips: true,
            settle: true,
            progress_after: true,
            rewrite: true,
            cut: true,
            read_back: true,
            join_between: true,
            numbers: true,
            keyless_anew: true,
            acknowledge_lowest: true,
            part_labels: true,
            note_parts: true,
            astray: true,
            settle_refused: true,
            forgotten: true,
            incarnations: true,
            doubts: true,
            in_force: true,
            parked: true,
            unseen: true,
            read_again: true,
            logged_again: true,
            ahead_again: true,
            owed_again: true,
            tries: true,
            overlay: true,
            moves: true,
            ddl_intent: true,
            ddl_steps: true,
            join_intent: true,
            cut_place: true,
        }
    }
}

/// A job that runs.
pub(crate) struct Job {
    pub(crate) context: Arc<Context>,
    pub(crate) control: watch::Receiver<Control>,
    pub(crate) requests: mpsc::Receiver<Request>,
    /// The tables as stored; what is in here is durable.
    pub(crate) tables: BTreeMap<TableName, TableRecord>,
    /// Their schemas at the main lane's position, with the version.
    pub(crate) schemas: BTreeMap<TableName, (u32, Arc<TableSchema>)>,
    pub(crate) ledger: Ledger,
    pub(crate) main: Lane,
    pub(crate) side: Option<Side>,
    pub(crate) pool: Pool,
    /// The main lane waits for a lane that is nearly level.
    pub(crate) hold: Option<Instant>,
    /// Copies that met another schema: what they met, and the log's end then.
    pub(crate) blocked: BTreeMap<TableName, (Position, Error)>,
    /// Tables whose schema is not known at the main lane's position yet.
    pub(crate) found: BTreeMap<TableName, Found>,
    /// When the source was asked last about tables that came from outside.
    pub(crate) looked: Option<Instant>,
    /// Tables of which rows have changed unseen up to the coming commit, and why.
    pub(crate) unseen: BTreeMap<TableName, Unseen>,
    /// Tables of the main lane of which some rows are ahead of it, and which at least: they were read again because they
    /// had changed unseen. What is ahead for other reasons is not here.
    pub(crate) ahead: Touched,
    /// What to look for in tables that are on their way, as long as all of it is known that their records say of.
    pub(crate) owed: BTreeMap<TableName, Owed>,
    /// Since when tables wait to be copied again because of that.
    pub(crate) paused: BTreeMap<TableName, Instant>,
    /// What the main lane keeps of the log, while a table is on its way, and how its reader is told.
    pub(crate) spool: Option<Arc<Spool>>,
    pub(crate) keep: watch::Sender<Option<Arc<Spool>>>,
    /// Which lane's event is taken when both have one.
    turn: bool,
}

/// What happens next.
enum Next {
    Stop,
    Main(Result<Event>),
    Side(Result<Event>),
    MainFlushed(Result<()>),
    SideFlushed(Result<()>),
    Copy(Report),
    Asked(Request),
    Timer,
}

/// Runs a job until it is stopped, trying again after errors that may pass.
///
/// # Errors
/// What a person has to deal with.
pub(crate) async fn run(job: &mut Job) -> Result<End> {
    let mut pause = BACKOFF_MIN;
    loop {
        let before = job.main.position.clone();
        let error = match job.run_once().await {
            Ok(end) => return Ok(end),
            Err(error) => error,
        };
        if error.kind.retry() == Retry::Person {
            return Err(error);
        }
        if job.main.position != before {
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
    pub(crate) fn new(context: Context, control: watch::Receiver<Control>, requests: mpsc::Receiver<Request>) -> Job {
        let context = Arc::new(context);
        let nowhere = LaneRecord { position: Position::at(""), intent: None, part: None, ddl: None };
        Job {
            control,
            requests,
            tables: BTreeMap::new(),
            schemas: BTreeMap::new(),
            ledger: Ledger::default(),
            main: Lane::new(&context, MAIN, nowhere),
            side: None,
            pool: Pool::start(Arc::clone(&context)),
            hold: None,
            blocked: BTreeMap::new(),
            found: BTreeMap::new(),
            looked: None,
            unseen: BTreeMap::new(),
            ahead: Touched::new(),
            owed: BTreeMap::new(),
            paused: BTreeMap::new(),
            spool: None,
            keep: watch::Sender::new(None),
            turn: false,
            context,
        }
    }

    async fn run_once(&mut self) -> Result<End> {
        self.state(JobState::Starting);
        let mut control = self.control.clone();
        // Whatever has been begun is settled at the next start, as after a crash.
        tokio::select! {
            biased;
            () = stopped(&mut control) => return Ok(End::Stopped),
            begun = self.start_up() => begun?,
        }
        loop {
            self.advance().await?;
            match self.next().await {
                Next::Stop => return self.stop().await,
                Next::Main(event) => self.main_event(event?).await?,
                Next::Side(Err(error)) if error.kind == ErrorKind::SourceState => self.side_lost(&error).await?,
                Next::Side(event) => self.side_event(event?).await?,
                Next::MainFlushed(result) => self.flushed(MAIN, result).await?,
                Next::SideFlushed(result) => self.flushed(MAIN + 1, result).await?,
                Next::Copy(report) => self.copy_report(report).await?,
                Next::Asked(Request { what, answer }) => {
                    let result = self.asked(what).await;
                    let failed = result.as_ref().err().filter(|e| e.kind.retry() == Retry::Backoff).cloned();
                    // Whoever asked may have gone.
                    let _ = answer.send(result);
                    failed.map_or(Ok(()), Err)?;
                }
                Next::Timer => {}
            }
        }
    }

    async fn start_up(&mut self) -> Result<()> {
        self.load()?;
        if self.context.store.lane(self.name(), MAIN)?.is_none() {
            self.begin().await?;
        }
        self.settle().await?;
        self.finish_reading_again().await?;
        self.open_main().await?;
        self.resume_copies();
        Ok(())
    }

    pub(crate) fn name(&self) -> &str {
        &self.context.spec.name
    }

    /// Reads what the store knows. Whatever ran before is gone: its tasks are dropped with what is replaced here.
    fn load(&mut self) -> Result<()> {
        let (context, store) = (Arc::clone(&self.context), self.context.store.clone());
        let job = context.spec.name.as_str();
        self.pool = Pool::start(Arc::clone(&context));
        (self.side, self.hold) = (None, None);
        self.blocked.clear();
        self.found.clear();
        self.unseen.clear();
        self.ahead.clear();
        self.tables = store.tables(job)?.into_iter().map(|t| (t.name.clone(), t)).collect();
        self.schemas.clear();
        for table in self.tables.values().filter(|t| t.schema_version > 0) {
            let history = store.schemas(job, &table.name)?;
            let found = history.into_iter().find(|s| s.version == table.schema_version);
            let found = found
                .ok_or_else(|| Error::corrupt("the store lacks the schema of a table").with("table", &table.name))?;
            self.schemas.insert(table.name.clone(), (found.version, Arc::new(found.schema)));
        }
        self.ledger = store.ledger(job)?;
        if let Some(record) = store.lane(job, MAIN)? {
            self.main = Lane::new(&context, MAIN, record);
        }
        if let Some(id) = self.ledger.side {
            let record = store.lane(job, id)?;
            let record = record.ok_or_else(|| Error::corrupt("the store lacks the catch-up lane of a job"))?;
            self.side = Some(Side::new(Lane::new(&context, id, record)));
        }
        context.progress.set_tables(self.tables.values());
        context.progress.job(|s| s.left_out = self.ledger.left_out.iter().map(ToString::to_string).collect());
        for table in self.tables.values() {
            let splits = store.splits(job, &table.name)?;
            context.progress.table(&table.name, |t| {
                t.splits = splits.len() as u64;
                t.splits_done = splits.iter().filter(|s| s.done.is_some()).count() as u64;
                t.rows_copied = splits.iter().filter_map(|s| s.done).sum();
            });
        }
        let position = self.main.position.to_string();
        context.progress.job(|s| s.position = Some(position));
        Ok(())
    }

    /// The first start, or one behind the loss of the source's log: notes low position and schemas, durably, before
    /// anything is read. All tables are on their way then; those that have a target keep it until their copy is done.
    async fn begin(&mut self) -> Result<()> {
        let CopyStart { low, tables } = self.context.source.begin(&self.context.spec.tables).await?;
        if tables.is_empty() {
            return Err(Error::not_found(format!("no table matches {}", self.context.spec.tables))
                .with("source", self.context.spec.source_redacted())
                .hint("`freshet tables SOURCE` lists what is there"));
        }
        let job = self.name().to_string();
        let mut change = Change::new();
        self.main =
            Lane::new(&self.context, MAIN, LaneRecord { position: low.clone(), intent: None, part: None, ddl: None });
        change.lane(&job, MAIN, &self.main.record());
        let mut before = std::mem::take(&mut self.tables);
        for found in tables {
            let target = self.context.spec.target(&found.name);
            let known = before.remove(&found.name);
            let (state, schema_version) = match &found.schema {
                Ok(_) => (TableState::Away, self.next_version(&found.name)?),
                Err(error) => (TableState::Suspended { error: error.clone(), at: None }, 0),
            };
            let copy = found.schema.is_ok().then(|| queued(&target, &low, schema_version));
            let came_back = come_back(&mut self.ledger, &target);
            let record = TableRecord {
                created: came_back || known.as_ref().is_some_and(|k| k.created && k.target == target),
                target,
                name: found.name.clone(),
                schema_version,
                rows_estimated: found.rows,
                unseen: None,
                state,
                copy,
                apart: None,
            };
            change.table(&job, &record).remove_splits(&job, &found.name);
            if let Ok(schema) = found.schema {
                let history = SchemaRecord { version: schema_version, from: low.clone(), schema: schema.clone() };
                change.schema(&job, &found.name, &history);
                self.schemas.insert(found.name.clone(), (schema_version, Arc::new(schema)));
            }
            self.tables.insert(found.name, record);
        }
        for gone in before.into_values() {
            change.remove_table(&job, &gone.name);
            self.ledger.left.extend(gone.created.then_some(gone.target));
        }
        change.ledger(&job, &self.ledger);
        self.context.store.commit(change).await?;
        self.context.progress.set_tables(self.tables.values());
        self.context.progress.job(|s| s.position = Some(low.to_string()));
        Ok(())
    }

    /// The version that the next schema of this name gets.
    pub(crate) fn next_version(&self, name: &TableName) -> Result<u32> {
        Ok(self.context.store.schemas(self.name(), name)?.last().map_or(0, |s| s.version) + 1)
    }

    /// Finds out what became of everything that the last run left open. Nothing else may happen before: a late call
    /// must not land behind its successor.
    async fn settle(&mut self) -> Result<()> {
        step("settle.begin")?;
        let context = Arc::clone(&self.context);
        if context.rules.settle {
            self.settle_doubts().await?;
            for which in [MAIN, MAIN + 1] {
                let Some(lane) = self.lane(which) else { continue };
                if lane.settle(&context).await? && context.rules.forgotten {
                    self.distrust(which).await?;
                }
            }
            self.settle_copies().await?;
            self.settle_creations().await?;
        }
        if self.main.ddl.is_some() {
            self.finish_schema_change().await?;
        }
        Ok(())
    }

    /// A lane that does not read has sent parts of a transaction, and will read it again, or be joined before it. A sink
    /// that cannot stage them shows some of it, and the engine cannot tell how much: up to the log's end of now the
    /// lane's tables may be ahead of it.
    pub(crate) async fn settle_parts(&mut self, which: u32) -> Result<()> {
        if !self.lane(which).is_some_and(|l| l.has_part()) || !self.context.rules.note_parts {
            return Ok(());
        }
        let context = Arc::clone(&self.context);
        let end = context.source.end(None).await?.position;
        let mut change = Change::new();
        let names: Vec<_> = self.tables.keys().cloned().collect();
        for name in names {
            self.raise(which, &name, &end, &mut change);
        }
        context.store.commit(change).await?;
        if let Some(lane) = self.lane(which) {
            lane.part_noted = true;
        }
        Ok(())
    }

    /// The sink does not know any more whether it has the flush that the lane had begun. What is written again whole does
    /// no harm; what counts on the rows before is read from the source, and tables without a key are copied again.
    async fn distrust(&mut self, which: u32) -> Result<()> {
        let context = Arc::clone(&self.context);
        let end = context.source.end(None).await?.position;
        let mut change = Change::new();
        let tables: Vec<_> = self.schemas.iter().map(|(name, (_, schema))| (name.clone(), schema.has_key())).collect();
        for (name, keyed) in tables {
            let Some(record) = self.tables.get(&name) else { continue };
            let member = match which {
                MAIN => matches!(record.state, TableState::Live | TableState::CatchingUp { .. }),
                _ => record.copy.as_ref().is_some_and(|c| matches!(c.phase, Phase::CatchingUp { .. })),
            };
            match (member, keyed) {
                (false, _) => {}
                (true, true) => self.raise(which, &name, &end, &mut change),
                (true, false) if which == MAIN => self.queue_again(&name, &mut change),
                (true, false) => self.resync(&name).await?,
            }
        }
        context.store.commit(change).await
    }

    /// The main lane's intent cannot be replayed with its boundaries: the log has another order than when it was stored,
    /// because another server's is read now, or a schema change lies inside.
    async fn replay_anew(&mut self) -> Result<()> {
        let context = Arc::clone(&self.context);
        self.distrust(MAIN).await?;
        self.main.give_up_replay();
        self.main.store(&context, Change::new()).await?;
        self.open_main().await
    }

    async fn settle_doubts(&mut self) -> Result<()> {
        if self.ledger.doubts.is_empty() {
            return Ok(());
        }
        let mut created: BTreeMap<TableName, usize> = BTreeMap::new();
        for Doubt { label, intent, creates } in std::mem::take(&mut self.ledger.doubts) {
            if self.context.rules.doubts
                && self.context.sink.settle(&label, intent.as_ref()).await? == Settled::Done
                && let Some(table) = creates
            {
                *created.entry(table).or_default() += 1;
            }
        }
        let mut change = Change::new();
        for (name, steps) in created {
            let (Some(record), Some((_, schema))) = (self.tables.get(&name), self.schemas.get(&name)) else {
                // Its table has left since.
                self.ledger.left.push(self.context.spec.target(&name));
                continue;
            };
            let all = self.creation_plan(&record.target, record, schema)?.len();
            if let Some(record) = self.tables.get_mut(&name).filter(|_| steps == all) {
                record.created = true;
                change.table(&self.context.spec.name, record);
            }
        }
        change.ledger(self.name(), &self.ledger);
        self.context.store.commit(change).await
    }

    async fn settle_copies(&mut self) -> Result<()> {
        let names: Vec<_> = self.tables.keys().cloned().collect();
        for name in names {
            for mut split in self.context.store.splits(self.name(), &name)? {
                let Some(label) = split.begun.take() else { continue };
                self.context.sink.settle(&label, None).await?;
                let mut change = Change::new();
                change.split(self.name(), &name, &split);
                self.context.store.commit(change).await?;
            }
        }
        Ok(())
    }

    /// Reads the log in the main lane from its position on.
    pub(crate) async fn open_main(&mut self) -> Result<()> {
        let epoch = self.number().await?;
        self.settle_parts(MAIN).await?;
        self.route_main();
        self.spool_or_not();
        // The rows of tables that are on their way come as well, so that their joining disturbs nobody.
        let on_its_way =
            |t: &TableRecord| t.state == TableState::Away && t.copy.as_ref().is_some_and(|c| c.phase != Phase::Found);
        let followed =
            |name: &TableName| self.main.routes.contains_key(name) || self.tables.get(name).is_some_and(on_its_way);
        let schemas = || self.schemas.iter().map(|(name, (_, schema))| (name, Arc::clone(schema)));
        let request = ChangesRequest {
            tables: schemas().filter(|(n, _)| followed(n)).map(|(_, s)| s).collect(),
            watched: schemas().filter(|(n, _)| !followed(n)).map(|(_, s)| s).collect(),
            pattern: self.context.spec.tables.clone(),
            from: self.main.position.clone(),
            stop: self.main.replay().map(|i| i.to.clone()),
            spool: self.context.spool.is_some().then(|| Spooling::Keep(self.keep.subscribe())),
            lane: MAIN,
        };
        self.main.open(&self.context, request, epoch).await?;
        // The start counts as a position to be stored: tables whose copy it has passed already are live.
        self.main.unstored = Some(Instant::now());
        Ok(())
    }

    /// Which tables the main lane writes.
    pub(crate) fn route_main(&mut self) {
        let rules = self.context.rules;
        let route = |t: &TableRecord| {
            let (target, exact) = match (&t.state, &t.copy) {
                (TableState::Live, _) => (&t.target, true),
                (TableState::CatchingUp { .. }, _) => (&t.target, false),
                (TableState::Away, Some(copy)) if !rules.main_skips && copy.phase != Phase::Queued => {
                    (&copy.into, false)
                }
                _ => return None,
            };
            let apart = t.apart.clone().filter(|_| *target == t.target).map(Arc::new);
            Some((t.name.clone(), Route { target: target.clone(), schema_version: t.schema_version, exact, apart }))
        };
        self.main.routes = self.tables.values().filter_map(route).collect();
    }

    /// A number that this job uses once.
    pub(crate) async fn number(&mut self) -> Result<u32> {
        self.ledger.next += 1;
        let mut change = Change::new();
        change.ledger(self.name(), &self.ledger);
        self.context.store.commit(change).await?;
        Ok(self.ledger.next)
    }

    /// Waits for the next thing that happens.
    async fn next(&mut self) -> Next {
        self.turn = !self.turn;
        let (turn, holds) = (self.turn, self.hold.is_some() && self.boundary().is_none());
        let options = &self.context.spec.options;
        let timers = [self.main.timer(options), self.side.as_ref().and_then(|s| s.lane.timer(options))];
        let again = self.waits_for_nothing_in_particular().then(|| Instant::now() + LOOK_AGAIN);
        let timer = timers.into_iter().flatten().chain(again).chain(self.boundary()).min();
        let main_wants = (!holds || self.main.replay().is_some()) && self.main.wants_events(options);
        let side_wants = self.side.as_ref().is_some_and(|s| s.lane.wants_events(options));
        let Job { main, side, pool, requests, control, .. } = self;
        let (mut main_events, main_flush) = main.parts_of(main_wants);
        let (mut side_events, side_flush) = match side {
            Some(side) => side.lane.parts_of(side_wants),
            None => (None, None),
        };
        let events = std::future::poll_fn(|cx| {
            for main in [turn, !turn] {
                let reader = if main { &mut main_events } else { &mut side_events };
                let Some(reader) = reader else { continue };
                if let Poll::Ready(event) = reader.poll(cx) {
                    return Poll::Ready(if main { Next::Main(event) } else { Next::Side(event) });
                }
            }
            Poll::Pending
        });
        tokio::select! {
            biased;
            () = stopped(control) => Next::Stop,
            result = flush_end(main_flush) => Next::MainFlushed(result),
            result = flush_end(side_flush) => Next::SideFlushed(result),
            Some(request) = requests.recv() => Next::Asked(request),
            report = pool.report() => Next::Copy(report),
            () = async { sleep_until(timer.expect("guarded")).await }, if timer.is_some() => Next::Timer,
            event = events => event,
        }
    }

    /// Does everything that can be done now.
    async fn advance(&mut self) -> Result<()> {
        self.flush_if_due(MAIN).await?;
        self.flush_if_due(MAIN + 1).await?;
        if self.main.store_is_due() {
            self.store_position().await?;
        }
        if self.side.as_ref().is_some_and(|s| s.lane.store_is_due()) {
            let context = Arc::clone(&self.context);
            if let Some(side) = &mut self.side {
                side.lane.unstored = None;
                side.lane.store(&context, Change::new()).await?;
            }
        }
        self.catch_up().await?;
        self.spool_or_not();
        self.show_state();
        Ok(())
    }

    /// A lane by its kind.
    pub(crate) fn lane(&mut self, which: u32) -> Option<&mut Lane> {
        match which {
            MAIN => Some(&mut self.main),
            _ => self.side.as_mut().map(|s| &mut s.lane),
        }
    }

    /// Begins a flush where one is due.
    async fn flush_if_due(&mut self, which: u32) -> Result<()> {
        let context = Arc::clone(&self.context);
        let hurry = if which == MAIN { self.hold.is_some() } else { self.side.as_ref().is_some_and(Side::is_at_stop) };
        while self.lane(which).is_some_and(|l| l.flush_is_due(&context, hurry)) {
            self.start_flush(which).await?;
        }
        self.lane(which).map_or(Ok(()), |lane| lane.fold_ahead(&context))
    }

    async fn start_flush(&mut self, which: u32) -> Result<()> {
        let context = Arc::clone(&self.context);
        let Some(lane) = self.lane(which) else { return Ok(()) };
        let Some(prepared) = lane.prepare(&context).await? else { return Ok(()) };
        let mut change = Change::new();
        for (name, high) in &prepared.raised {
            self.raise(which, name, high, &mut change);
        }
        let staged = which != MAIN && self.lane(which).is_some_and(|l| l.parts > 0);
        for name in &prepared.copy_again {
            self.leave_lanes(name).await?;
            self.queue_again(name, &mut change);
        }
        if staged && !prepared.copy_again.is_empty() {
            // The transaction is read again without them.
            return context.store.commit(change).await;
        }
        if which == MAIN {
            self.note_live(&mut change);
        }
        if let Some(lane) = self.lane(which) {
            if !change.is_empty() {
                lane.store(&context, change).await?;
            }
            lane.write(&context, prepared);
        }
        Ok(())
    }

    /// A table of that lane may be ahead of it, as far as here.
    fn raise(&mut self, which: u32, name: &TableName, to: &Position, change: &mut Change) {
        let context = Arc::clone(&self.context);
        if which == MAIN {
            // Which of its rows are ahead is not known any more, nor does what was known before another copy count.
            self.ahead.remove(name);
        }
        let Some(record) = self.tables.get_mut(name) else { return };
        let high = match (which, &mut record.state, &mut record.copy) {
            (MAIN, state @ TableState::Live, _) => {
                *state = TableState::CatchingUp { high: to.clone() };
                change.table(&context.spec.name, record);
                return self.route_main();
            }
            (MAIN, TableState::CatchingUp { high }, _) => high,
            (MAIN, ..) => return,
            (_, _, Some(CopyRecord { phase: Phase::CatchingUp { high }, .. })) => high,
            _ => return,
        };
        if context.reached(to, high) {
            *high = to.clone();
            change.table(&context.spec.name, record);
        }
    }

    async fn main_event(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Rows(batch) => self.main.push(batch),
            Event::Unseen { table, reason, by } if self.context.rules.unseen => self.note_unseen(table, reason, by),
            Event::Unseen { .. } => {}
            Event::Commit(commit) => {
                let to = commit.position.clone();
                let Some(touched) = self.changed_unseen(&to).await? else { return Ok(()) };
                self.main.commit(&self.context, commit);
                if self.main.astray && self.context.rules.astray {
                    self.replay_anew().await?;
                }
                if !touched.is_empty() {
                    self.flush_all(MAIN).await?;
                    self.read_again(touched, &to).await?;
                }
            }
            Event::Schema(change) => {
                // Contract: the event behind a schema change is the commit behind it.
                let next = match &mut self.main.events {
                    Some(events) => events.next().await?,
                    None => return Err(Error::internal("the main lane is not being read")),
                };
                let Event::Commit(commit) = next else {
                    return Err(Error::internal("a source sent no commit behind a schema change"));
                };
                if self.context.rules.barrier {
                    self.flush_all(MAIN).await?;
                }
                // It was not told when the intent was stored: its table was not known then.
                if self.main.replay().is_some() && self.context.rules.astray {
                    return self.replay_anew().await;
                }
                self.schema_change(change, commit.position, Vec::new()).await?;
            }
            Event::Suspend { table, error } => {
                self.main.followed.remove(&table);
                self.flush_all(MAIN).await?;
                self.suspend(&table, error, None).await?;
            }
        }
        Ok(())
    }

    /// Flushes everything that is complete and waits for it.
    pub(crate) async fn flush_all(&mut self, which: u32) -> Result<()> {
        let context = Arc::clone(&self.context);
        loop {
            let Some(lane) = self.lane(which) else { return Ok(()) };
            if lane.is_flushing() {
                let result = lane.flush_end().await;
                self.flushed(which, result).await?;
            } else if lane.flush_is_due(&context, true) {
                self.start_flush(which).await?;
            } else {
                return Ok(());
            }
        }
    }

    /// A flush has ended. A table whose rows the sink refuses is suspended, the others go on.
    pub(crate) async fn flushed(&mut self, which: u32, result: Result<()>) -> Result<()> {
        let context = Arc::clone(&self.context);
        let Some(lane) = self.lane(which) else { return Ok(()) };
        match lane.flushed(&context, result)? {
            Flushed::Done => self.acknowledge().await,
            Flushed::Refused(table, error, flush) => {
                // An earlier try may have been done, or must not land any more behind what comes next.
                let settle = || context.sink.settle(&flush.intent.label, Some(&flush.intent));
                if context.rules.settle_refused
                    && with_retries(settle, |e, pause| self.retrying(e, pause)).await? == Settled::Done
                {
                    if let Some(lane) = self.lane(which) {
                        lane.written(&context, &flush);
                    }
                    return self.acknowledge().await;
                }
                if let Some(lane) = self.lane(which) {
                    lane.leave(&table);
                }
                self.suspend(&table, error, flush.parked().filter(|_| which == MAIN)).await?;
                if let Some(lane) = self.lane(which) {
                    lane.write_without(&context, &table, *flush);
                }
                Ok(())
            }
        }
    }

    /// Tells the source the lowest position that may be asked for again.
    async fn acknowledge(&mut self) -> Result<()> {
        let context = &self.context;
        let side = self.side.iter().map(|s| &s.lane.stored);
        let copies = self.tables.values().filter_map(|t| t.copy.as_ref());
        let copies = copies.filter(|c| !matches!(c.phase, Phase::Found | Phase::Queued)).map(|c| &c.start);
        let others: Vec<_> = side.chain(copies).filter(|_| context.rules.acknowledge_lowest).collect();
        let lowest = others.iter().fold(&self.main.stored, |low, p| if context.reached(p, low) { low } else { p });
        // Behind a failover there may be none for a while that all have passed.
        if !others.iter().chain([&&self.main.stored]).all(|position| context.reached(position, lowest)) {
            return Ok(());
        }
        if let Some(spool) = &self.spool {
            spool.set_needed_from(lowest);
        }
        context.source.acknowledge(lowest).await
    }

    /// Stores the position when nothing follows, acknowledges it, and finds the tables that are live now.
    pub(crate) async fn store_position(&mut self) -> Result<()> {
        let mut change = Change::new();
        change.lane(self.name(), MAIN, &self.main.record());
        self.note_live(&mut change);
        step("position.store")?;
        self.context.store.commit(change).await?;
        step("position.stored")?;
        self.main.stored = self.main.position.clone();
        self.main.unstored = None;
        self.acknowledge().await
    }

    /// Tables that have passed what was read ahead of the lane are equal to the source from here on.
    fn note_live(&mut self, change: &mut Change) {
        let context = Arc::clone(&self.context);
        let mut any = false;
        for record in self.tables.values_mut() {
            let TableState::CatchingUp { high } = &record.state else { continue };
            if context.reached(&self.main.position, high) && record.unseen.is_none() {
                record.state = TableState::Live;
                self.ahead.remove(&record.name);
                change.table(&context.spec.name, record);
                any = true;
            }
        }
        if any {
            self.route_main();
            context.progress.set_tables(self.tables.values());
        }
    }

    /// Parks a table with the reason; the others go on. `at`: from where it could go on as it is.
    pub(crate) async fn suspend(&mut self, name: &TableName, error: Error, at: Option<Parked>) -> Result<()> {
        tracing::warn!(job = self.name(), table = %name, "suspended: {}", error.line());
        self.leave_lanes(name).await?;
        let Some(record) = self.tables.get_mut(name) else { return Ok(()) };
        give_up_copy(record, &mut self.ledger);
        let served = record.state == TableState::Live;
        record.state = TableState::Suspended { error, at: at.filter(|_| served) };
        let mut change = Change::new();
        change.table(&self.context.spec.name, record);
        change.ledger(&self.context.spec.name, &self.ledger);
        step("table.suspend")?;
        self.context.store.commit(change).await?;
        self.context.progress.set_tables(self.tables.values());
        Ok(())
    }

    /// The graceful end: what is complete is flushed, the positions stored.
    async fn stop(&mut self) -> Result<End> {
        for which in [MAIN, MAIN + 1] {
            if self.lane(which).is_none_or(|l| l.replay().is_some()) {
                continue;
            }
            self.flush_all(which).await?;
        }
        if self.main.is_quiet() {
            self.store_position().await?;
        }
        let context = Arc::clone(&self.context);
        if let Some(side) = self.side.as_mut().filter(|s| s.lane.is_quiet()) {
            side.lane.store(&context, Change::new()).await?;
        }
        Ok(End::Stopped)
    }

    pub(crate) fn state(&self, state: JobState) {
        self.context.progress.job(|s| {
            s.state = state;
            s.error = None;
        });
    }

    /// Shows whether the job copies or streams.
    pub(crate) fn show_state(&self) {
        let state = if self.pool.is_copying() { JobState::Copying } else { JobState::Streaming };
        let side = self.side.as_ref().and_then(|side| side.lane.large(&self.context));
        let large = self.main.large(&self.context).or(side);
        self.context.progress.job(|s| {
            s.large = large;
            if s.state != JobState::Retrying && s.state != state {
                (s.state, s.error) = (state, None);
            }
        });
    }

    pub(crate) fn retrying(&self, error: &Error, pause: Duration) {
        tracing::warn!(job = self.name(), "trying again in {pause:?}: {}", error.line());
        self.context.progress.job(|s| {
            s.state = JobState::Retrying;
            s.error = Some(error.clone());
        });
    }
}

/// Forgets a table's copy; a shadow that it filled is dropped later.
pub(crate) fn give_up_copy(record: &mut TableRecord, ledger: &mut Ledger) {
    let shadow = record.copy.take().map(|c| c.into).filter(|into| *into != record.target);
    ledger.garbage.extend(shadow);
}

/// A table that waits for its copy.
pub(crate) fn queued(target: &TableName, start: &Position, schema_version: u32) -> CopyRecord {
    CopyRecord { number: 0, start: start.clone(), schema_version, into: target.clone(), phase: Phase::Queued }
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
