//! A lane: the tables that share one position in the source's log, and how they are written. Events go into one buffer;
//! at a commit, when something in it is old enough or it is full, everything up to that commit is flushed: intent
//! stored, all tables written together, position advanced. One flush is under way at a time, while the next fills the
//! buffer; a full buffer stops the reading. A transaction that is larger than the buffer is staged in parts, which the
//! flush at its end makes visible.
//!
//! The position of a finished flush is stored together with the intent of the next one, in one transaction; when
//! nothing follows it is stored a moment later. In between the intent in the store says the same: its label is done.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::batch::ChangeBatch;
use crate::connector::{ChangesRequest, Commit, Flush, Load, Purpose, Settled, Sink, Source};
use crate::engine::buffer::Buffer;
use crate::engine::fold::{Folding, fold_by};
use crate::engine::job::{Rules, with_retries};
use crate::engine::read_back::read_back;
use crate::engine::reader::{Reader, Task};
use crate::engine::spec::{JobOptions, JobSpec};
use crate::engine::status::{JobState, LargeStatus, Progress};
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint::step;
use crate::intent::{Intent, Label, LoadIntent, Writer};
use crate::position::Position;
use crate::schema::TableName;
use crate::store::{Apart, Change, DdlIntent, LaneRecord, Parked, Store};

/// The main lane.
pub(crate) const MAIN: u32 = 0;
/// How long a position that nothing follows waits before it is stored.
pub(crate) const STORE_AFTER: Duration = Duration::from_millis(200);

/// Bytes of rows that are kept though the lane does not write them.
const PASSED_OVER: usize = 8 << 20;

/// What every part of a running job works with.
pub(crate) struct Context {
    pub(crate) spec: JobSpec,
    pub(crate) incarnation: u64,
    pub(crate) store: Store,
    pub(crate) source: Arc<dyn Source>,
    pub(crate) sink: Arc<dyn Sink>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) rules: Rules,
    /// Where the source's log may be kept; `None`: nowhere.
    pub(crate) spool: Option<PathBuf>,
}

impl Context {
    pub(crate) fn writer(&self, lane: u32) -> Writer {
        Writer { job: self.spec.name.clone(), incarnation: self.incarnation, lane }
    }

    /// Whether everything before `a` is before `b`, too; no, when they cannot be compared.
    pub(crate) fn reached(&self, a: &Position, b: &Position) -> bool {
        matches!(self.source.compare(a, b), Some(Ordering::Equal | Ordering::Greater))
    }

    /// What a call that the sink refuses has come to: an earlier try of it may have been done; otherwise none may land any
    /// more behind what comes next.
    ///
    /// # Errors
    /// The refusal, or that the sink cannot be asked.
    pub(crate) async fn unless_done(
        &self,
        result: Result<()>,
        label: &Label,
        failed: impl Fn(&Error, Duration),
    ) -> Result<()> {
        let Err(refusal) = result else { return Ok(()) };
        if !self.rules.settle_refused {
            return Err(refusal);
        }
        match with_retries(|| self.sink.settle(label, None), failed).await? {
            Settled::Done => Ok(()),
            Settled::NotDone | Settled::Forgotten => Err(refusal),
        }
    }

    pub(crate) fn same(&self, a: &Position, b: &Position) -> bool {
        self.source.compare(a, b) == Some(Ordering::Equal)
    }
}

/// Where the rows of a table go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) target: TableName,
    pub(crate) schema_version: u32,
    /// Whether the target is equal to the source at the lane's position.
    pub(crate) exact: bool,
    /// How the target differs from the source's definition, if it does.
    pub(crate) apart: Option<Arc<Apart>>,
}

/// A flush under way.
struct Flushing {
    task: Task<Result<()>>,
    flush: Begun,
}

/// A flush whose intent is stored.
pub(crate) struct Begun {
    loads: Vec<Load>,
    pub(crate) intent: Intent,
    /// The commit at its end; `None`: a part of a transaction.
    commit: Option<Commit>,
    /// Parts that were staged before it.
    parts: u32,
}

impl Begun {
    /// The table whose rows that error is about.
    fn culprit(&self, error: &Error) -> Option<TableName> {
        let (_, target) = error.context.iter().find(|(k, _)| k == "table" && error.kind.is_about_a_table())?;
        let load = self.loads.iter().find(|l| l.target.to_string() == *target)?;
        Some(load.rows.schema.name.clone())
    }

    /// Where a table that it cannot write stopped; `None`: somewhere in a transaction in parts.
    pub(crate) fn parked(&self) -> Option<Parked> {
        let whole = self.commit.is_some() && self.parts == 0;
        whole.then(|| Parked { from: self.intent.from.clone(), to: self.intent.to.clone() })
    }
}

/// What a flush is about to write.
pub(crate) struct Prepared {
    loads: Vec<Load>,
    to: Position,
    commit: Option<Commit>,
    /// Tables of which rows as new as this were read from the source.
    pub(crate) raised: BTreeMap<TableName, Position>,
    /// Tables whose rows cannot be completed: only a new copy helps.
    pub(crate) copy_again: Vec<TableName>,
}

/// What became of a flush.
pub(crate) enum Flushed {
    /// Everything is written; the lane's position has moved, or a part is staged.
    Done,
    /// The sink refuses the rows of this table.
    Refused(TableName, Error, Box<Begun>),
}

/// Rows that a lane does not write: for a moment they are kept, because others may depend on them.
#[derive(Default)]
struct PassedOver {
    any: bool,
    rows: Vec<ChangeBatch>,
    /// Of all of them, also where they were too many to be kept.
    bytes: usize,
}

impl PassedOver {
    fn push(&mut self, batch: ChangeBatch) {
        self.any = true;
        self.bytes += batch.rows.get_array_memory_size();
        match self.bytes <= PASSED_OVER {
            true => self.rows.push(batch),
            false => self.rows.clear(),
        }
    }
}

/// A running lane.
pub(crate) struct Lane {
    pub(crate) id: u32,
    pub(crate) writer: Writer,
    /// Everything before is in the sink.
    pub(crate) position: Position,
    /// The position that the store has.
    pub(crate) stored: Position,
    pub(crate) ddl: Option<DdlIntent>,
    pub(crate) routes: BTreeMap<TableName, Route>,
    pub(crate) events: Option<Reader>,
    /// Tables of which the reading is sure to send the rows, also those that the lane does not write yet.
    pub(crate) followed: BTreeSet<TableName>,
    /// Rows that the lane does not write and that have come since the last commit.
    passed_over: PassedOver,
    intent: Option<Intent>,
    /// The intent is one of the last run, and is to be done again.
    replaying: bool,
    /// Everything that the replayed intent covers is in the buffer.
    complete: bool,
    /// More than that is: the log has another order than when the intent was stored.
    pub(crate) astray: bool,
    /// Parts were sent of the transaction behind the position, in this reading or one before: the labels of whatever
    /// repeats them must be new.
    part: Option<Intent>,
    /// The tables are marked as ahead as far as those parts may go.
    pub(crate) part_noted: bool,
    buffer: Buffer,
    flushing: Option<Flushing>,
    /// Parts staged of the transaction that is being read.
    pub(crate) parts: u32,
    /// The reading that is going on.
    epoch: u32,
    /// When the oldest complete transaction in the buffer came.
    since: Option<Instant>,
    /// When a position that is not stored yet was reached.
    pub(crate) unstored: Option<Instant>,
}

impl Lane {
    pub(crate) fn new(context: &Context, id: u32, record: LaneRecord) -> Lane {
        Lane {
            id,
            writer: context.writer(id),
            stored: record.position.clone(),
            position: record.position,
            ddl: record.ddl,
            replaying: record.intent.is_some(),
            complete: false,
            astray: false,
            intent: record.intent,
            part: record.part,
            part_noted: false,
            routes: BTreeMap::new(),
            events: None,
            followed: BTreeSet::new(),
            passed_over: PassedOver::default(),
            buffer: Buffer::default(),
            flushing: None,
            parts: 0,
            epoch: 0,
            since: None,
            unstored: None,
        }
    }

    /// As the store has it: with the intents that have begun.
    pub(crate) fn record(&self) -> LaneRecord {
        LaneRecord {
            position: self.position.clone(),
            intent: self.intent.clone(),
            part: self.part.clone(),
            ddl: self.ddl.clone(),
        }
    }

    /// The intent of the last run that is to be done again.
    pub(crate) fn replay(&self) -> Option<&Intent> {
        self.intent.as_ref().filter(|_| self.replaying)
    }

    pub(crate) fn is_flushing(&self) -> bool {
        self.flushing.is_some()
    }

    /// Nothing is under way and nothing complete waits.
    pub(crate) fn is_quiet(&self) -> bool {
        self.flushing.is_none() && self.intent.is_none() && !self.buffer.is_ready()
    }

    /// Whether it stands between two transactions: nothing that was read belongs to one whose end has not come.
    pub(crate) fn is_between(&self) -> bool {
        self.parts == 0 && !self.buffer.is_open() && !self.passed_over.any
    }

    /// Whether parts of a transaction were sent whose effect on the tables is not noted yet.
    pub(crate) fn has_part(&self) -> bool {
        self.part.is_some() && !self.part_noted
    }

    /// Finds out what became of what the last run left open; afterwards no late call may land. What was sent in parts
    /// stays noted until the transaction is read again. Returns whether the sink has forgotten the flush that had begun.
    pub(crate) async fn settle(&mut self, context: &Context) -> Result<bool> {
        if let Some(part) = &self.part {
            context.sink.settle(&part.label, Some(part)).await?;
        }
        let Some(intent) = self.intent.clone() else { return Ok(false) };
        let settled = context.sink.settle(&intent.label, Some(&intent)).await?;
        if settled == Settled::Done {
            self.position = intent.to;
            (self.intent, self.part, self.replaying) = (None, None, false);
            self.store(context, Change::new()).await?;
        }
        Ok(settled == Settled::Forgotten)
    }

    /// Stores the lane as it is, together with `change`.
    pub(crate) async fn store(&mut self, context: &Context, mut change: Change) -> Result<()> {
        change.lane(&context.spec.name, self.id, &self.record());
        context.store.commit(change).await?;
        self.stored = self.position.clone();
        Ok(())
    }

    /// Reads from the lane's position on.
    /// `epoch` is a number of its own for every reading.
    pub(crate) async fn open(&mut self, context: &Context, request: ChangesRequest, epoch: u32) -> Result<()> {
        self.close();
        self.epoch = epoch;
        let followed = request.tables.iter().map(|t| t.name.clone()).collect();
        self.events = Some(Reader::start(context.source.changes(request).await?));
        self.followed = followed;
        Ok(())
    }

    /// Stops reading and forgets what was read behind the position.
    pub(crate) fn close(&mut self) {
        self.events = None;
        self.followed.clear();
        self.buffer = Buffer::default();
        self.passed_over = PassedOver::default();
        (self.since, self.parts, self.complete, self.astray) = (None, 0, false, false);
    }

    /// Lets the intent of the last run go; what its flush would have written is read again.
    pub(crate) fn give_up_replay(&mut self) {
        self.close();
        (self.intent, self.replaying) = (None, false);
    }

    /// Whether more may be read: the buffer has room.
    pub(crate) fn wants_events(&self, options: &JobOptions) -> bool {
        let full = self.buffer.is_full(options.max_rows, options.max_bytes);
        let waits = match self.replaying {
            true => self.replays_in_parts(),
            false => self.buffer.is_ready() || self.buffer.is_open(),
        };
        let no_room = full && waits || self.buffer.is_folded();
        self.events.is_some() && !self.complete && !no_room
    }

    pub(crate) fn push(&mut self, batch: ChangeBatch) {
        match self.routes.contains_key(&batch.schema.name) {
            true if batch.rows.num_rows() > 0 => self.buffer.push(batch),
            true => {}
            false => self.passed_over.push(batch),
        }
    }

    /// The rows that were read since the last commit; of tables that the lane does not write, if it has
    /// [them all](Lane::has_passed_over).
    pub(crate) fn open_rows(&self) -> impl Iterator<Item = &ChangeBatch> {
        self.buffer.open().chain(&self.passed_over.rows)
    }

    /// Whether the rows of this table that have come since the last commit are there, though the lane does not write them.
    pub(crate) fn has_passed_over(&self, table: &TableName) -> bool {
        self.followed.contains(table) && self.passed_over.bytes <= PASSED_OVER
    }

    pub(crate) fn commit(&mut self, context: &Context, commit: Commit) {
        if let Some(intent) = self.replay() {
            let order = context.source.compare(&commit.position, &intent.to);
            self.complete = order == Some(Ordering::Equal);
            self.astray = !matches!(order, Some(Ordering::Less | Ordering::Equal));
        }
        self.buffer.commit(commit);
        self.passed_over = PassedOver::default();
        if self.buffer.has_rows() || self.parts > 0 {
            self.since.get_or_insert_with(Instant::now);
        }
    }

    /// Forgets a table. Call when no flush is under way.
    pub(crate) fn leave(&mut self, table: &TableName) {
        self.routes.remove(table);
        for rows in self.buffer.open().filter(|rows| rows.schema.name == *table) {
            self.passed_over.push(rows.clone());
        }
        self.buffer.forget(table);
    }

    /// When something is to be done though nothing happens.
    pub(crate) fn timer(&self, options: &JobOptions) -> Option<Instant> {
        let idle = self.flushing.is_none() && self.intent.is_none();
        let due = self.since.filter(|_| idle).map(|t| t + age(options));
        let store = self.unstored.filter(|_| idle).map(|t| t + STORE_AFTER);
        due.into_iter().chain(store).min()
    }

    /// Whether the position has waited long enough to be stored.
    pub(crate) fn store_is_due(&self) -> bool {
        let idle = self.flushing.is_none() && self.intent.is_none();
        idle && self.unstored.is_some_and(|t| Instant::now() >= t + STORE_AFTER)
    }

    /// Whether a flush should begin now. `hurry`: whatever is complete.
    pub(crate) fn flush_is_due(&self, context: &Context, hurry: bool) -> bool {
        if self.flushing.is_some() {
            return false;
        }
        let options = &context.spec.options;
        let full = self.buffer.is_full(options.max_rows, options.max_bytes);
        if self.replaying {
            return self.complete || full && self.replays_in_parts();
        }
        let full = full || self.buffer.is_folded();
        let old = self.since.is_none_or(|t| Instant::now() >= t + age(options));
        self.buffer.is_ready() && (old || full || hurry) || full && self.buffer.is_open()
    }

    /// While a flush is under way and the next one is full, the next one is folded.
    ///
    /// # Errors
    /// When its rows do not fit together.
    pub(crate) fn fold_ahead(&mut self, context: &Context) -> Result<()> {
        let options = &context.spec.options;
        let full = self.buffer.is_ready() && self.buffer.is_full(options.max_rows, options.max_bytes);
        if self.flushing.is_none() || self.replaying || !full || self.buffer.is_folded() || !context.rules.keep_last {
            return Ok(());
        }
        self.buffer.fold(|batches| fold_by(batches, folding(&context.rules)))
    }

    /// What went out whole is replayed whole, whatever the limits are now: some of its loads may be in the sink, and
    /// under other labels they would be written again.
    fn replays_in_parts(&self) -> bool {
        self.part.is_some() && self.buffer.is_open() && !self.buffer.has_rows()
    }

    /// Takes what is complete out of the buffer, or else a part of a transaction that is too large for it, folds it
    /// into loads and supplies what rows that were moved do not say. Commits without rows only move the position.
    pub(crate) async fn prepare(&mut self, context: &Context) -> Result<Option<Prepared>> {
        let (tables, commit, folded) = match self.buffer.take() {
            Some(taken) => (taken.tables, Some(taken.commit), taken.folded || !context.rules.keep_last),
            None => (self.buffer.take_open(), None, !context.rules.keep_last),
        };
        if commit.is_some() {
            self.since = None;
        }
        let to = commit.as_ref().map_or_else(|| self.position.clone(), |c| c.position.clone());
        let (mut raised, mut copy_again) = (BTreeMap::new(), Vec::new());
        let mut loads = Vec::with_capacity(tables.len());
        for (name, batches) in tables {
            let Some(route) = self.routes.get(&name) else { continue };
            let mut folded = if folded { batches } else { fold_by(&batches, folding(&context.rules))? };
            if !route.exact && context.rules.read_back {
                match read_back(context, &mut folded).await {
                    Ok(high) => raised.extend(high.map(|high| (name.clone(), high))),
                    // The source is already behind a schema change that the lane has not come to.
                    Err(e) if matches!(e.kind, ErrorKind::Schema | ErrorKind::NotFound) => {
                        copy_again.push(name);
                        continue;
                    }
                    Err(e) => return Err(e),
                }
            }
            if let Some(apart) = &route.apart {
                folded = folded.iter().map(|rows| apart.rows(rows)).collect::<Result<_>>()?;
            }
            let label = self.writer.label(
                &name.table,
                &[
                    &name.to_string(),
                    &self.position.to_string(),
                    &to.to_string(),
                    &self.part_number(commit.as_ref(), &context.rules),
                ],
            );
            let load = |rows| Load { target: route.target.clone(), label: label.clone(), rows, exact: route.exact };
            loads.extend(folded.into_iter().map(load));
        }
        if loads.is_empty()
            && copy_again.is_empty()
            && self.parts == 0
            && let Some(commit) = commit
        {
            self.reached(context, &commit);
            return Ok(None);
        }
        Ok(Some(Prepared { loads, to, commit, raised, copy_again }))
    }

    /// A transaction in parts is read anew after a restart, with other boundaries: all of its labels are new then.
    fn part_number(&self, commit: Option<&Commit>, rules: &Rules) -> String {
        if commit.is_some() && self.part.is_none() {
            return String::new();
        }
        let epoch = if rules.part_labels { self.epoch } else { 0 };
        format!("{epoch} {}", self.parts)
    }

    /// Stores the intent, and with it the position before, then writes, in a task of its own. The task may store nothing
    /// else: what the job's loop stores meanwhile would be overwritten.
    pub(crate) fn write(&mut self, context: &Context, prepared: Prepared) {
        let Prepared { loads, to, commit, .. } = prepared;
        let number = self.part_number(commit.as_ref(), &context.rules);
        let label = self.writer.label(
            if commit.is_some() { "flush" } else { "part" },
            &[&self.position.to_string(), &to.to_string(), &number],
        );
        let intent = self.intent(context, &to, label, &loads);
        self.send(context, loads, intent, commit);
    }

    fn send(&mut self, context: &Context, loads: Vec<Load>, intent: Intent, commit: Option<Commit>) {
        if commit.is_some() {
            (self.replaying, self.complete) = (false, false);
        }
        if context.rules.intent {
            match commit {
                Some(_) => self.intent = Some(intent.clone()),
                None => (self.part, self.part_noted) = (Some(intent.clone()), false),
            }
        }
        let mut change = Change::new();
        change.lane(&context.spec.name, self.id, &self.record());
        self.unstored = None;
        let writer = self.writer.clone();
        let purpose = match commit {
            Some(_) => Purpose::Stream { writer, parts: self.parts },
            None => Purpose::Part { writer, number: self.parts },
        };
        let (store, sink, progress) = (context.store.clone(), Arc::clone(&context.sink), Arc::clone(&context.progress));
        let (label, written) = (intent.label.clone(), loads.clone());
        let [begin, write, done] = match commit {
            Some(_) => ["flush.intent", "flush.write", "flush.written"],
            None => ["part.intent", "part.write", "part.written"],
        };
        let flush = Begun { loads, intent, commit, parts: self.parts };
        let task = Task::spawn(async move {
            step(begin)?;
            store.commit(change).await?;
            step(write)?;
            with_retries(
                || sink.write(Flush { label: label.clone(), loads: written.clone(), purpose: purpose.clone() }),
                |e, _| {
                    progress.job(|s| {
                        s.state = JobState::Retrying;
                        s.error = Some(e.clone());
                    });
                },
            )
            .await?;
            step(done)
        });
        self.flushing = Some(Flushing { task, flush });
    }

    fn intent(&self, context: &Context, to: &Position, label: Label, loads: &[Load]) -> Intent {
        let load = |l: &Load| LoadIntent {
            table: l.rows.schema.name.clone(),
            target: l.target.clone(),
            schema_version: self.routes.get(&l.rows.schema.name).map_or(0, |r| r.schema_version),
            columns: l.rows.is_partial().then(|| {
                let present = |c: &&crate::Column| l.rows.rows.schema_ref().index_of(&c.name).is_ok();
                l.rows.schema.columns.iter().filter(present).map(|c| c.name.clone()).collect()
            }),
            part: self.parts,
            label: l.label.clone(),
        };
        Intent {
            writer: self.writer.clone(),
            from: self.position.clone(),
            to: to.clone(),
            cut_rows: None,
            spec_hash: context.spec.hash(),
            loads: loads.iter().map(load).collect(),
            label,
        }
    }

    /// What the job's loop waits for: the events, if they are wanted, and the flush under way.
    pub(crate) fn parts_of(&mut self, events: bool) -> (Option<&mut Reader>, Option<&mut Task<Result<()>>>) {
        (self.events.as_mut().filter(|_| events), self.flushing.as_mut().map(|f| &mut f.task))
    }

    /// Waits for the flush under way; pends for ever without one. Cancel-safe.
    pub(crate) async fn flush_end(&mut self) -> Result<()> {
        flush_end(self.flushing.as_mut().map(|f| &mut f.task)).await
    }

    /// A flush has ended.
    ///
    /// # Errors
    /// When no table is to blame.
    pub(crate) fn flushed(&mut self, context: &Context, result: Result<()>) -> Result<Flushed> {
        let Some(Flushing { flush, .. }) = self.flushing.take() else { return Ok(Flushed::Done) };
        self.stored = flush.intent.from.clone();
        let Err(error) = result else {
            self.written(context, &flush);
            return Ok(Flushed::Done);
        };
        match flush.culprit(&error) {
            Some(table) => Ok(Flushed::Refused(table, error, Box::new(flush))),
            None => Err(error),
        }
    }

    /// That flush is in the sink.
    pub(crate) fn written(&mut self, context: &Context, flush: &Begun) {
        for load in &flush.loads {
            let rows = load.rows.rows.num_rows() as u64;
            context.progress.table(&load.rows.schema.name, |t| t.changes += rows);
            context.progress.job(|s| s.changes += rows);
        }
        context.progress.job(|s| {
            s.flushes += 1;
            if s.state == JobState::Retrying {
                (s.state, s.error) = (JobState::Streaming, None);
            }
        });
        match &flush.commit {
            Some(commit) => {
                self.parts = 0;
                self.reached(context, commit);
            }
            None => self.parts += 1,
        }
    }

    /// The transaction that is on its way in parts.
    pub(crate) fn large(&self, context: &Context) -> Option<LargeStatus> {
        (self.parts > 0).then(|| LargeStatus { parts: self.parts, shown: !context.sink.holds_parts() })
    }

    /// Writes what is left of a flush without that table. Only once the store knows that the table is out: it would be
    /// taken for written with the rest.
    pub(crate) fn write_without(&mut self, context: &Context, refused: &TableName, flush: Begun) {
        let Begun { mut loads, mut intent, commit, parts } = flush;
        loads.retain(|l| l.rows.schema.name != *refused);
        intent.loads.retain(|l| l.table != *refused);
        match commit {
            // The transaction is read again, without the table.
            commit if parts != self.parts => self.intent = self.intent.take().filter(|_| commit.is_none()),
            Some(commit) if loads.is_empty() && parts == 0 => self.reached(context, &commit),
            commit => self.send(context, loads, intent, commit),
        }
    }

    /// Everything before that commit is in the sink.
    fn reached(&mut self, context: &Context, commit: &Commit) {
        self.position = commit.position.clone();
        (self.intent, self.part, self.replaying, self.complete) = (None, None, false, false);
        self.unstored.get_or_insert_with(Instant::now);
        if self.id == MAIN {
            let (position, now) = (commit.position.to_string(), crate::engine::clock::now_ms());
            context.progress.job(|s| {
                s.position = Some(position);
                s.lag_ms = commit.time_ms.map(|t| (now - t).max(0)).or(s.lag_ms);
                s.transactions += commit.transactions;
            });
        }
    }
}

/// Waits for a flush; pends for ever without one. Cancel-safe.
pub(crate) async fn flush_end(flush: Option<&mut Task<Result<()>>>) -> Result<()> {
    match flush {
        Some(task) => task.join().await.and_then(|r| r),
        None => std::future::pending().await,
    }
}

fn folding(rules: &Rules) -> Folding {
    Folding { overlay: rules.overlay, moves: rules.moves }
}

fn age(options: &JobOptions) -> Duration {
    Duration::from_millis(options.max_age_ms)
}
