//! The way of a table to the main lane: it waits in a queue, is copied from the main lane's position of that moment on,
//! and then the catch-up lane brings it level. The catch-up lane is there for one *round*: it takes the tables whose
//! copies have ended, reads the log from the first of their start positions in passes, each up to where the main lane
//! stands, and when both stand at one position behind all copies the tables change over in one transaction. The main
//! lane holds for the last, short pass, because under load the positions would never meet. One idea serves the first
//! copy, tables that appear later, `resync` (which fills a shadow while the main lane feeds the old contents) and
//! suspended tables that go on.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use tokio::time::Instant;

use crate::batch::ChangeBatch;
use crate::connector::{ChangesRequest, Discovered, Event, Flush, Load, Purpose, Statement};
use crate::engine::copy::Report;
use crate::engine::job::{Ask, Job, LOOK_AGAIN, give_up_copy, queued, with_retries};
use crate::engine::lane::{Context, Lane, MAIN, Route};
use crate::engine::read_back::rows_now;
use crate::error::{Error, ErrorKind, Result, Retry};
use crate::failpoint::step;
use crate::intent::{Label, Writer};
use crate::pattern::TablePattern;
use crate::position::Position;
use crate::schema::{SchemaChange, TableChange, TableName, TableSchema};
use crate::spool::Spooling;
use crate::store::{Change, CopyRecord, Doubt, LaneRecord, Phase, SchemaRecord, TableRecord, TableState};

/// A pass as short as this is followed by the last one, for which the main lane holds.
const SHORT_PASS: Duration = Duration::from_millis(100);
/// More statements than any sink creates a table with.
pub(crate) const CREATION_STEPS: usize = 4;
/// After so many passes the main lane holds in any case.
const PASSES: u32 = 8;

/// The catch-up lane.
pub(crate) struct Side {
    pub(crate) lane: Lane,
    /// Where the pass ends that is going on.
    stop: Option<Position>,
    passes: u32,
    began: Instant,
    took: Duration,
}

/// What is known of a table whose schema at the main lane's position is not.
pub(crate) struct Found {
    /// The log's end when its schema was read.
    low: Position,
    /// `None`: it was not there.
    schema: Option<TableSchema>,
}

impl Side {
    pub(crate) fn new(lane: Lane) -> Side {
        Side { lane, stop: None, passes: 0, began: Instant::now(), took: Duration::MAX }
    }

    /// Ends the pass where the lane stands.
    fn restart(&mut self) {
        self.lane.close();
        self.stop = None;
    }

    /// Whether everything that this pass is to write has been read.
    pub(crate) fn is_at_stop(&self) -> bool {
        self.stop.is_some() && self.lane.events.is_none()
    }
}

impl Job {
    /// Finishes what the last run had begun to create.
    pub(crate) async fn settle_creations(&mut self) -> Result<()> {
        let begun = |t: &&TableRecord| t.copy.as_ref().is_some_and(|c| c.phase == Phase::Queued && c.number > 0);
        let names: Vec<_> = self.tables.values().filter(begun).map(|t| t.name.clone()).collect();
        for name in names {
            self.create_copy(&name).await?;
        }
        Ok(())
    }

    /// Goes on with the copies that the last run left open. A table without a key begins anew.
    pub(crate) fn resume_copies(&mut self) {
        for record in self.tables.values_mut() {
            let Some(copy) = record.copy.as_mut().filter(|c| c.phase == Phase::Copying) else { continue };
            let Some((_, schema)) = self.schemas.get(&record.name) else { continue };
            if schema.has_key() || !self.context.rules.keyless_anew {
                self.pool.begin(&record.name, copy, schema);
            } else {
                // What it filled is dropped, or replaced at the end when it is the target itself.
                let again = queued(&record.target, &copy.start, record.schema_version);
                give_up_copy(record, &mut self.ledger);
                record.copy = Some(again);
            }
        }
    }

    /// One look at everything that is on its way.
    pub(crate) async fn catch_up(&mut self) -> Result<()> {
        self.drop_garbage().await?;
        self.end_pauses();
        self.look_for_found_tables().await?;
        self.give_up_blocked_copies().await?;
        while self.log_is_kept() && self.pool.wants_work() {
            let waits = |t: &&TableRecord| {
                let queued = t.copy.as_ref().is_some_and(|c| c.phase == Phase::Queued);
                queued && !self.blocked.contains_key(&t.name) && self.may_begin(t)
            };
            let Some(name) = self.tables.values().find(waits).map(|t| t.name.clone()) else { break };
            self.begin_copy(&name).await?;
        }
        self.round().await
    }

    /// Whether something waits that no event announces.
    pub(crate) fn waits_for_nothing_in_particular(&self) -> bool {
        let found = |t: &TableRecord| t.copy.as_ref().is_some_and(|c| c.phase == Phase::Found);
        self.tables.values().any(found) || !self.paused.is_empty()
    }

    async fn drop_garbage(&mut self) -> Result<()> {
        while let Some(table) = self.ledger.garbage.first().cloned() {
            let label = self.main.writer.label("garbage", &[&table.to_string()]);
            for statement in self.context.sink.plan(&table, &TableChange::DropTable, None)? {
                let sink = &self.context.sink;
                with_retries(|| sink.apply(&label, &statement), |e, pause| self.retrying(e, pause)).await?;
            }
            self.ledger.garbage.remove(0);
            let mut change = Change::new();
            change.ledger(self.name(), &self.ledger);
            self.context.store.commit(change).await?;
        }
        Ok(())
    }

    /// Begins the copy of a table at the main lane's position.
    async fn begin_copy(&mut self, name: &TableName) -> Result<()> {
        self.create_copy(name).await?;
        let copying = |t: &&TableRecord| t.copy.as_ref().is_some_and(|c| c.phase == Phase::Copying);
        let Some(record) = self.tables.get(name).filter(copying) else { return Ok(()) };
        let (Some(copy), Some((_, schema))) = (&record.copy, self.schemas.get(name)) else { return Ok(()) };
        self.pool.begin(name, copy, schema);
        if !self.context.rules.main_skips {
            self.route_main();
        }
        Ok(())
    }

    /// Creates the table that a copy fills. Its name and number are durable before, so that a creation that was cut off
    /// is done again under its label.
    pub(crate) async fn create_copy(&mut self, name: &TableName) -> Result<()> {
        let context = Arc::clone(&self.context);
        let Some((version, schema)) = self.schemas.get(name).cloned() else { return Ok(()) };
        let Some(record) = self.tables.get_mut(name) else { return Ok(()) };
        let Some(copy) = &mut record.copy else { return Ok(()) };
        if copy.number == 0 {
            self.ledger.next += 1;
            copy.number = self.ledger.next;
            if record.created {
                copy.into = shadow(&record.target, context.incarnation, copy.number);
            }
            let mut change = Change::new();
            change.table(&context.spec.name, record).ledger(&context.spec.name, &self.ledger);
            step("copy.begin")?;
            context.store.commit(change).await?;
        }
        let record = record.clone();
        step("copy.create")?;
        match self.create(&record, &schema).await {
            Ok(()) => {}
            Err(e) if e.kind.retry() == Retry::Backoff || !e.kind.is_about_a_table() => return Err(e),
            Err(e) => return self.suspend(name, e, None).await,
        }
        step("copy.created")?;
        let Some(record) = self.tables.get_mut(name) else { return Ok(()) };
        let Some(copy) = &mut record.copy else { return Ok(()) };
        (copy.start, copy.schema_version, copy.phase) = (self.main.position.clone(), version, Phase::Copying);
        if copy.into == record.target {
            record.apart = None;
        }
        (record.created, record.unseen) = (true, None);
        self.owed.remove(name);
        let mut change = Change::new();
        change.remove_splits(&context.spec.name, name);
        change.table(&context.spec.name, record);
        change.lane(&context.spec.name, MAIN, &self.main.record());
        context.store.commit(change).await?;
        context.progress.set_tables(self.tables.values());
        context.progress.table(name, |t| (t.splits, t.splits_done, t.rows_copied, t.bytes_copied) = (0, 0, 0, 0));
        Ok(())
    }

    async fn create(&self, record: &TableRecord, schema: &TableSchema) -> Result<()> {
        let Some(CopyRecord { into, number, .. }) = &record.copy else { return Ok(()) };
        for (step, statement) in self.creation_plan(into, record, schema)?.iter().enumerate() {
            let label = creation(&self.main.writer, &record.name, *number, step);
            self.context.sink.apply(&label, statement).await.map_err(|e| match e.kind {
                ErrorKind::AlreadyExists => e.hint(format!(
                    "drop it (freshet sql 'DROP TABLE {}'), sync with --replace, or give another \
                     --target-database",
                    into.quoted()
                )),
                _ => e,
            })?;
        }
        Ok(())
    }

    /// The statements that create what a copy fills.
    pub(crate) fn creation_plan(
        &self,
        into: &TableName,
        record: &TableRecord,
        schema: &TableSchema,
    ) -> Result<Vec<Statement>> {
        let sink = &self.context.sink;
        let mut plan = Vec::new();
        if self.context.spec.options.replace && *into == record.target {
            plan = sink.plan(into, &TableChange::DropTable, Some(schema))?;
        }
        plan.extend(sink.plan(into, &TableChange::CreateTable(schema.clone()), Some(schema))?);
        Ok(plan)
    }

    /// A copy has ended, well or not.
    pub(crate) async fn copy_report(&mut self, report: Report) -> Result<()> {
        let (name, number) = match &report {
            Report::Copied { name, number, .. } | Report::Failed { name, number, .. } => (name.clone(), *number),
        };
        let current =
            |t: &&mut TableRecord| t.copy.as_ref().is_some_and(|c| c.number == number && c.phase == Phase::Copying);
        let Some(record) = self.tables.get_mut(&name).filter(current) else { return Ok(()) };
        let Some(copy) = &mut record.copy else { return Ok(()) };
        match report {
            Report::Copied { high, cut, .. } => {
                if !self.context.rules.low_position {
                    copy.start = high.clone();
                }
                if let Some(cut) = cut.filter(|_| self.context.rules.cut) {
                    copy.start = if self.context.rules.cut_place { cut } else { high.clone() };
                }
                copy.phase = Phase::Copied { high };
                let mut change = Change::new();
                change.table(&self.context.spec.name, record);
                step("copy.copied")?;
                self.context.store.commit(change).await?;
                self.context.progress.set_tables(self.tables.values());
                Ok(())
            }
            Report::Failed { error, .. } if error.kind.retry() == Retry::Backoff => {
                let again = queued(&record.target, &copy.start, record.schema_version);
                give_up_copy(record, &mut self.ledger);
                record.copy = Some(again);
                let mut change = Change::new();
                change.table(&self.context.spec.name, record).ledger(&self.context.spec.name, &self.ledger);
                self.context.store.commit(change).await?;
                Err(error)
            }
            // The sink's disk, say: nothing of this table's own.
            Report::Failed { error, .. } if !error.kind.is_about_a_table() => Err(error),
            // The table may not be any more what it was when its copy began, or be gone. If the log says so, the main lane
            // will come to it; if not, the table is suspended then.
            Report::Failed { error, .. } => {
                let end = self.context.source.end(None).await?.position;
                self.blocked.insert(name, (end, error));
                Ok(())
            }
        }
    }

    /// Copies that met a schema which the log, read to its end of then, does not explain.
    async fn give_up_blocked_copies(&mut self) -> Result<()> {
        let main = &self.main.position;
        let passed = |end: &Position| self.context.reached(main, end);
        let Some(name) = self.blocked.iter().find(|(_, (end, _))| passed(end)).map(|(name, _)| name.clone()) else {
            return Ok(());
        };
        let Some((_, error)) = self.blocked.remove(&name) else { return Ok(()) };
        self.suspend(&name, error, None).await
    }

    /// Finds out the schemas, at the main lane's position, of tables that came from outside: what is read from the
    /// source is as new as its log's end, so the main lane goes there, and when the source still says the same then
    /// nothing has changed in between.
    async fn look_for_found_tables(&mut self) -> Result<()> {
        if self.looked.is_some_and(|t| t.elapsed() < LOOK_AGAIN) || !self.waits_for_nothing_in_particular() {
            return Ok(());
        }
        self.looked = Some(Instant::now());
        let found = |t: &&TableRecord| t.copy.as_ref().is_some_and(|c| c.phase == Phase::Found);
        let names: Vec<_> = self.tables.values().filter(found).map(|t| t.name.clone()).collect();
        for name in names {
            let known = self.found.get(&name);
            if known.is_some_and(|f| !self.context.reached(&self.main.position, &f.low)) {
                continue;
            }
            let start = self.context.source.begin(&TablePattern::tables([&name])).await?;
            let schema = match start.tables.into_iter().next() {
                Some(Discovered { schema: Err(e), .. }) => {
                    self.suspend(&name, e, None).await?;
                    continue;
                }
                Some(Discovered { schema: Ok(schema), .. }) => Some(schema),
                None => None,
            };
            if self.found.get(&name).is_none_or(|f| f.schema != schema) {
                self.found.insert(name, Found { low: start.low, schema });
                continue;
            }
            match schema {
                Some(schema) => self.queue_found(&name, schema).await?,
                // Of a table that is gone again the log would have said so by now.
                None => {
                    self.schemas.remove(&name);
                    if let Some(record) = self.tables.get_mut(&name) {
                        record.schema_version = 0;
                    }
                    let e = Error::not_found("the table is not there at the source");
                    let hint = "its target keeps what it had; when the table is created again, it is copied";
                    self.suspend(&name, e.with("table", &name).hint(hint), None).await?;
                }
            }
        }
        Ok(())
    }

    async fn queue_found(&mut self, name: &TableName, schema: TableSchema) -> Result<()> {
        self.flush_all(MAIN).await?;
        self.found.remove(name);
        let version = self.next_version(name)?;
        let at = self.main.position.clone();
        let Some(record) = self.tables.get_mut(name) else { return Ok(()) };
        record.schema_version = version;
        record.copy = Some(queued(&record.target, &at, version));
        let history = SchemaRecord { version, from: at, schema: schema.clone() };
        let mut change = Change::new();
        change.table(&self.context.spec.name, record).schema(&self.context.spec.name, name, &history);
        // At the position that the store had, the table may have been another.
        change.lane(&self.context.spec.name, MAIN, &self.main.record());
        self.context.store.commit(change).await?;
        self.schemas.insert(name.clone(), (version, Arc::new(schema)));
        self.context.progress.set_tables(self.tables.values());
        // From here on the source has to tell its schema changes.
        self.open_main().await
    }

    /// Drives the catch-up lane.
    async fn round(&mut self) -> Result<()> {
        let context = Arc::clone(&self.context);
        let Some(side) = &mut self.side else { return self.begin_round().await };
        if side.lane.is_flushing() || side.lane.events.is_some() {
            return Ok(());
        }
        if side.stop.is_some() {
            if !side.lane.is_quiet() {
                return Ok(());
            }
            side.stop = None;
            side.took = side.began.elapsed();
            side.passes += 1;
        }
        if self.members().is_empty() {
            return self.end_round(Vec::new()).await;
        }
        self.settle_parts(MAIN + 1).await?;
        let members = self.members();
        let Some(side) = &self.side else { return Ok(()) };
        if let Some(to) = side.lane.replay().map(|i| i.to.clone()) {
            return self.pass(to).await;
        }
        let position = side.lane.position.clone();
        let (passes, took) = (side.passes, side.took);
        let live = |t: &TableRecord| match &t.copy {
            Some(CopyRecord { phase: Phase::CatchingUp { high }, .. }) => {
                context.reached(&self.main.position, high) || !context.rules.join_live
            }
            _ => true,
        };
        if !members.iter().all(live) {
            self.hold = None;
            return Ok(());
        }
        let level = context.same(&position, &self.main.position);
        if level || !context.rules.join_level && passes > 0 {
            self.hold.get_or_insert_with(Instant::now);
            return match self.stands_still() && context.same(&position, &self.main.position)
                || !context.rules.join_level
            {
                true => self.join(members).await,
                false => Ok(()),
            };
        }
        if passes > 0 && (took < SHORT_PASS || passes >= PASSES) {
            self.hold.get_or_insert_with(Instant::now);
        }
        if self.hold.is_some() && !self.stands_still() || context.reached(&position, &self.main.position) {
            return Ok(());
        }
        let starts = members.iter().filter_map(|t| t.copy.as_ref().map(|c| &c.start));
        let mut stop = self.main.position.clone();
        for start in starts.filter(|s| !context.reached(&position, s)) {
            if !context.reached(start, &stop) {
                stop = start.clone();
            }
        }
        self.pass(stop).await
    }

    /// Until when the main lane, which is to stand still, goes on to the end of a transaction that it has begun to read.
    pub(crate) fn boundary(&self) -> Option<Instant> {
        let waits = self.context.rules.join_between && self.main.parts == 0 && !self.main.is_between();
        self.hold.filter(|_| waits).map(|since| since + SHORT_PASS).filter(|until| Instant::now() < *until)
    }

    /// Whether the main lane, which is to stand still, does.
    fn stands_still(&self) -> bool {
        self.main.is_quiet() && self.boundary().is_none()
    }

    /// The tables of the round.
    fn members(&self) -> Vec<TableRecord> {
        let member = |t: &&TableRecord| t.copy.as_ref().is_some_and(|c| matches!(c.phase, Phase::CatchingUp { .. }));
        self.tables.values().filter(member).cloned().collect()
    }

    /// Reads the log up to exactly `stop`.
    async fn pass(&mut self, stop: Position) -> Result<()> {
        let epoch = self.number().await?;
        let context = Arc::clone(&self.context);
        let members = self.members();
        let Some(side) = &mut self.side else { return Ok(()) };
        side.lane.routes.clear();
        let mut tables = Vec::new();
        for record in &members {
            let Some(copy) = &record.copy else { continue };
            // The rows before its start are in its copy.
            if context.rules.cut && !context.reached(&side.lane.position, &copy.start) {
                continue;
            }
            let SchemaRecord { version: schema_version, schema, .. } =
                in_force(&context, record, copy, &side.lane.position)?;
            tables.push(Arc::new(schema));
            let apart = record.apart.clone().filter(|_| copy.into == record.target).map(Arc::new);
            let target = copy.into.clone();
            let route = Route { target, schema_version, exact: false, apart };
            side.lane.routes.insert(record.name.clone(), route);
        }
        let request = ChangesRequest {
            pattern: TablePattern::tables(members.iter().map(|t| &t.name)),
            tables,
            watched: Vec::new(),
            from: side.lane.position.clone(),
            stop: Some(stop.clone()),
            spool: self.spool.clone().map(Spooling::Take),
            lane: MAIN + 1,
        };
        (side.stop, side.began) = (Some(stop), Instant::now());
        match side.lane.open(&context, request, epoch).await {
            Err(error) if error.kind == ErrorKind::SourceState => self.side_lost(&error).await,
            other => other,
        }
    }

    /// The log does not reach back to where the tables of the round stopped.
    pub(crate) async fn side_lost(&mut self, error: &Error) -> Result<()> {
        self.flush_all(MAIN + 1).await?;
        self.side.iter_mut().for_each(Side::restart);
        for table in self.members() {
            self.suspend(&table.name, error.clone(), None).await?;
        }
        Ok(())
    }

    pub(crate) async fn side_event(&mut self, event: Event) -> Result<()> {
        let context = Arc::clone(&self.context);
        let Some(side) = &mut self.side else { return Ok(()) };
        match event {
            Event::Rows(batch) => side.lane.push(batch),
            Event::Commit(commit) => {
                let Some(stop) = &side.stop else { return Ok(()) };
                let order = context.source.compare(&commit.position, stop);
                if !matches!(order, Some(Ordering::Less | Ordering::Equal)) && context.rules.astray {
                    return self.round_anew().await;
                }
                side.lane.commit(&context, commit);
                if matches!(order, Some(Ordering::Equal | Ordering::Greater)) {
                    side.lane.events = None;
                }
            }
            // The main lane is ahead: what disturbs a table of this lane has taken it out of it.
            Event::Schema(_) | Event::Unseen { .. } => {}
            Event::Suspend { table, error } => {
                self.suspend(&table, error, None).await?;
            }
        }
        Ok(())
    }

    /// The log has another order than what the main lane has read, because another server's is read now: these tables
    /// cannot be brought to where it stands, and are copied again.
    async fn round_anew(&mut self) -> Result<()> {
        for table in self.members() {
            self.resync(&table.name).await?;
        }
        if let Some(side) = &mut self.side {
            side.restart();
        }
        Ok(())
    }

    async fn begin_round(&mut self) -> Result<()> {
        let context = Arc::clone(&self.context);
        let mut position: Option<Position> = None;
        for copy in self.tables.values().filter_map(|t| t.copy.as_ref()) {
            if matches!(copy.phase, Phase::Copied { .. })
                && position.as_ref().is_none_or(|p| !context.reached(&copy.start, p))
            {
                position = Some(copy.start.clone());
            }
        }
        let Some(position) = position else { return Ok(()) };
        let id = if context.rules.numbers { self.ledger.next + 1 } else { 1 };
        (self.ledger.next, self.ledger.side) = (self.ledger.next + 1, Some(id));
        let record = LaneRecord { position, intent: None, part: None, ddl: None };
        let mut change = Change::new();
        for table in self.tables.values_mut() {
            let Some(copy) = &mut table.copy else { continue };
            if let Phase::Copied { high } = &copy.phase {
                copy.phase = Phase::CatchingUp { high: high.clone() };
                change.table(&context.spec.name, table);
            }
        }
        change.lane(&context.spec.name, id, &record).ledger(&context.spec.name, &self.ledger);
        step("lane.fork")?;
        context.store.commit(change).await?;
        context.progress.set_tables(self.tables.values());
        self.side = Some(Side::new(Lane::new(&context, id, record)));
        // Its first pass may begin at once.
        Box::pin(self.round()).await
    }

    /// Both lanes stand at one position: the tables change over.
    async fn join(&mut self, members: Vec<TableRecord>) -> Result<()> {
        let shadows: Vec<_> = members
            .iter()
            .filter_map(|t| {
                let into = &t.copy.as_ref()?.into;
                (*into != t.target).then(|| (t.name.clone(), TableChange::ReplaceBy { shadow: into.clone() }))
            })
            .collect();
        let names: Vec<_> = members.into_iter().map(|t| t.name).collect();
        if shadows.is_empty() {
            return self.end_round(names).await;
        }
        let change = SchemaChange { statement: "the end of a copy".into(), steps: shadows };
        let at = self.main.position.clone();
        self.schema_change(change, at, names).await
    }

    /// Ends the round; `joined` are in the main lane from here on.
    async fn end_round(&mut self, joined: Vec<TableName>) -> Result<()> {
        let mut change = Change::new();
        self.join_in(&joined, &mut change);
        change.lane(self.name(), MAIN, &self.main.record());
        step("lane.join")?;
        self.context.store.commit(change).await?;
        self.after_round(&joined).await
    }

    /// Takes tables over into the main lane, in the change that ends the round.
    pub(crate) fn join_in(&mut self, joined: &[TableName], change: &mut Change) {
        let job = self.context.spec.name.clone();
        for name in joined {
            let Some(record) = self.tables.get_mut(name) else { continue };
            if !matches!(record.state, TableState::Suspended { .. }) {
                // A new copy has the source's definition.
                if record.copy.take().is_some_and(|copy| copy.into != record.target) {
                    record.apart = None;
                }
                (record.state, record.copy) = match &record.unseen {
                    None => (TableState::Live, None),
                    // What these are will be looked for at once.
                    Some(at) if self.owed.contains_key(name) && record.apart.is_none() => {
                        (TableState::CatchingUp { high: at.clone() }, None)
                    }
                    // Its copy is of before that: it is the best there is, until the next one.
                    Some(at) => (TableState::Away, Some(queued(&record.target, at, record.schema_version))),
                };
            }
            change.table(&job, record);
        }
        if let Some(side) = self.ledger.side.take() {
            change.remove_lane(&job, side);
        }
        change.ledger(&job, &self.ledger);
    }

    pub(crate) async fn after_round(&mut self, joined: &[TableName]) -> Result<()> {
        (self.side, self.hold) = (None, None);
        // First the job's state, so that nobody sees a job that copies and has only live tables.
        self.show_state();
        self.context.progress.set_tables(self.tables.values());
        if joined.is_empty() {
            return Ok(());
        }
        let between = self.main.is_between() || !self.context.rules.join_between;
        if !between || joined.iter().any(|table| !self.main.followed.contains(table)) {
            self.open_main().await?;
        } else {
            // What comes next is the first that they need, and it is read ahead already.
            self.route_main();
            self.main.unstored.get_or_insert_with(Instant::now);
        }
        self.read_owed(joined).await
    }

    /// Takes a table out of its copy and out of the lanes; on return nothing of it is written any more.
    pub(crate) async fn leave_lanes(&mut self, name: &TableName) -> Result<()> {
        self.main.leave(name);
        self.leave_copy(name).await
    }

    /// Gives up a table's copy, but not its place in the main lane.
    pub(crate) async fn leave_copy(&mut self, name: &TableName) -> Result<()> {
        self.blocked.remove(name);
        self.found.remove(name);
        let Some(copy) = self.tables.get(name).and_then(|t| t.copy.clone()) else { return Ok(()) };
        self.pool.leave(copy.number).await;
        if !matches!(copy.phase, Phase::CatchingUp { .. }) {
            return Ok(());
        }
        while let Some(side) = self.side.as_mut().filter(|s| s.lane.is_flushing()) {
            let result = side.lane.flush_end().await;
            Box::pin(self.flushed(MAIN + 1, result)).await?;
        }
        if let Some(side) = &mut self.side {
            side.lane.leave(name);
            // Parts of a transaction that are staged hold rows of the table: it is read again without them.
            if side.lane.parts > 0 {
                side.restart();
            }
        }
        Ok(())
    }

    /// Does what a person asks for.
    pub(crate) async fn asked(&mut self, what: Ask) -> Result<()> {
        match what {
            Ask::Resync(names) => {
                let names = match names.is_empty() {
                    true => self.tables.keys().cloned().collect(),
                    false => names,
                };
                for name in &names {
                    self.known(name)?;
                }
                for name in names {
                    self.resync(&name).await?;
                }
                Ok(())
            }
            Ask::Continue(name) => self.go_on(&name).await,
            Ask::Repair(name, keys) => self.repair(&name, &keys).await,
        }
    }

    fn known(&self, name: &TableName) -> Result<()> {
        if self.tables.contains_key(name) {
            return Ok(());
        }
        let mut tables: Vec<_> = self.tables.keys().map(ToString::to_string).collect();
        tables.truncate(10);
        Err(Error::not_found(format!("the job has no table {name}"))
            .with("job", self.name())
            .hint(format!("its tables are: {}", tables.join(", "))))
    }

    /// A table that was in a lane has to be copied before it goes on.
    pub(crate) fn queue_again(&mut self, name: &TableName, change: &mut Change) {
        let Some(record) = self.tables.get_mut(name) else { return };
        give_up_copy(record, &mut self.ledger);
        record.state = TableState::Away;
        record.copy = Some(queued(&record.target, &self.main.position, record.schema_version));
        change.table(&self.context.spec.name, record).ledger(&self.context.spec.name, &self.ledger);
        self.context.progress.set_tables(self.tables.values());
    }

    /// Queues a table for a new copy. One that is live stays so; one that is being copied begins anew.
    pub(crate) async fn resync(&mut self, name: &TableName) -> Result<()> {
        self.leave_copy(name).await?;
        let at = self.main.position.clone();
        let has_schema = self.schemas.contains_key(name);
        let Some(record) = self.tables.get_mut(name) else { return Ok(()) };
        give_up_copy(record, &mut self.ledger);
        let mut copy = queued(&record.target, &at, record.schema_version);
        // What made it stop may be a change of its schema that we do not know.
        if !has_schema || matches!(record.state, TableState::Suspended { .. }) {
            copy.phase = Phase::Found;
        }
        record.copy = Some(copy);
        if !matches!(record.state, TableState::Live | TableState::CatchingUp { .. }) {
            record.state = TableState::Away;
        }
        let mut change = Change::new();
        change.table(&self.context.spec.name, record).ledger(&self.context.spec.name, &self.ledger);
        step("table.resume")?;
        self.context.store.commit(change).await?;
        self.context.progress.set_tables(self.tables.values());
        Ok(())
    }

    /// Goes on with a suspended table where it stood.
    async fn go_on(&mut self, name: &TableName) -> Result<()> {
        self.known(name)?;
        let Some(record) = self.tables.get_mut(name) else { return Ok(()) };
        let TableState::Suspended { at, error } = &record.state else {
            return Err(Error::config(format!("{name} is not suspended")).with("job", &self.context.spec.name));
        };
        let Some(at) = at.clone() else {
            return Err(Error::config(format!("{name} cannot go on where it stood"))
                .because(error.line())
                .hint(format!("copy it again: freshet resync {} {name}", self.context.spec.name)));
        };
        self.ledger.next += 1;
        record.state = TableState::Away;
        record.copy = Some(CopyRecord {
            number: self.ledger.next,
            start: at.from,
            schema_version: record.schema_version,
            into: record.target.clone(),
            phase: Phase::Copied { high: at.to },
        });
        let mut change = Change::new();
        change.table(&self.context.spec.name, record).ledger(&self.context.spec.name, &self.ledger);
        step("table.resume")?;
        self.context.store.commit(change).await?;
        self.context.progress.set_tables(self.tables.values());
        Ok(())
    }

    /// Writes keys of a live table as the source has them now. The table is equal to the source again when the main
    /// lane has passed what was read.
    async fn repair(&mut self, name: &TableName, keys: &RecordBatch) -> Result<()> {
        self.known(name)?;
        self.flush_all(MAIN).await?;
        let context = Arc::clone(&self.context);
        let live =
            self.tables.get(name).is_some_and(|t| matches!(t.state, TableState::Live | TableState::CatchingUp { .. }));
        let Some((_, schema)) = self.schemas.get(name).filter(|(_, s)| live && s.has_key()) else {
            return Err(Error::config(format!("{name} cannot be repaired key by key: it is not live or has no key"))
                .hint(format!("copy it again: freshet resync {} {name}", self.name())));
        };
        let mut rows = rows_now(&context, schema, keys).await?;
        if let Some(apart) = self.tables.get(name).and_then(|t| t.apart.as_ref()) {
            rows = apart.rows(&rows)?;
        }
        // Which of its rows are ahead is not known any more.
        self.ahead.remove(name);
        self.write_as_now(name, rows).await
    }

    /// Writes rows that were just read from the source into a table of the main lane, of which nothing is under way. They
    /// are ahead of it until it has passed what was read.
    pub(crate) async fn write_as_now(&mut self, name: &TableName, rows: ChangeBatch) -> Result<()> {
        let context = Arc::clone(&self.context);
        let high = context.source.end(None).await?.position;
        let number = self.number().await?;
        let Some(record) = self.tables.get_mut(name) else { return Ok(()) };
        record.state = TableState::CatchingUp { high };
        let target = record.target.clone();
        let label = self.main.writer.label("repair", &[&name.to_string(), &number.to_string()]);
        self.ledger.doubts.push(Doubt { label: label.clone(), intent: None, creates: None });
        let mut change = Change::new();
        change.table(&context.spec.name, record);
        change.ledger(&context.spec.name, &self.ledger);
        context.store.commit(change).await?;
        self.route_main();
        if self.main.parts > 0 {
            // Parts that are staged count on the rows of before: their transaction is read again.
            self.open_main().await?;
        }
        self.main.unstored.get_or_insert_with(Instant::now);
        let load = Load { target, label: label.clone(), rows, exact: false };
        let flush = || Flush { label: label.clone(), loads: vec![load.clone()], purpose: Purpose::Copy };
        let failed = |e: &Error, pause| self.retrying(e, pause);
        let written = with_retries(|| context.sink.write(flush()), failed).await;
        // An earlier try of a refused one may be on its way: it would land in rows of later.
        let written = context.unless_done(written, &label, failed).await;
        // It is stored with what comes next; until then it is asked for once more.
        self.ledger.doubts.retain(|d| d.label != label);
        written
    }
}

/// The schema of a table that is on its way, in force at that position: the last one since its copy began that is not
/// behind it. The main lane, which is ahead, has recorded them all.
fn in_force(context: &Context, record: &TableRecord, copy: &CopyRecord, at: &Position) -> Result<SchemaRecord> {
    let known = |s: &SchemaRecord| match context.rules.in_force {
        true => {
            let since = copy.schema_version <= s.version && s.version <= record.schema_version;
            since && (s.version == copy.schema_version || context.reached(at, &s.from))
        }
        false => s.version == record.schema_version,
    };
    let history = context.store.schemas(&context.spec.name, &record.name)?;
    let found = history.into_iter().rfind(known);
    found.ok_or_else(|| Error::corrupt("the store lacks the schema of a table").with("table", &record.name))
}

/// The label of a statement that creates what a copy fills.
pub(crate) fn creation(writer: &Writer, name: &TableName, number: u32, step: usize) -> Label {
    writer.label("create", &[&name.to_string(), &number.to_string(), &step.to_string()])
}

/// A table that nobody else has, in the target's database.
fn shadow(target: &TableName, incarnation: u64, number: u32) -> TableName {
    TableName::new(target.database.clone(), format!("__freshet_{incarnation:016x}_{number}"))
}
