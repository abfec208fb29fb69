//! The world as a `Source`.

use std::cmp::Ordering;
use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use async_trait::async_trait;
use freshet_core::batch::OP_MOVE;
use freshet_core::{
    BatchStream, ChangeStream, ChangesRequest, Check, Commit, CopyStart, Cut, Discovered, Error, Event, Finding,
    KeyRange, LogEnd, Position, Result, SchemaChange, Source, Split, TableChange, TableName, TablePattern, TableSchema,
};

use crate::faults::Faults;
use crate::log::Set;
use crate::world::{Entry, Table, World, copy_batch};

pub struct ModelSource {
    pub world: Arc<Mutex<World>>,
    pub faults: Faults,
    pub acknowledged: Arc<Mutex<Set>>,
    /// A suspended table was continued: for those alone the log is not kept.
    pub continued: Arc<AtomicBool>,
}

#[async_trait]
impl Check for ModelSource {
    async fn check(&self, _: &TablePattern) -> Vec<Finding> {
        Vec::new()
    }
}

#[async_trait]
impl Source for ModelSource {
    async fn tables(&self, wanted: &TablePattern) -> Result<Vec<Discovered>> {
        Ok(self.begin(wanted).await?.tables)
    }

    async fn begin(&self, wanted: &TablePattern) -> Result<CopyStart> {
        self.faults.point("begin").await;
        let world = self.world.lock().unwrap();
        let found = |t: &crate::world::Table| Discovered {
            name: t.schema.name.clone(),
            schema: Ok(t.schema.clone()),
            rows: Some(t.rows.len() as u64),
            bytes: None,
        };
        let all = world.states.last().expect("never empty").values();
        let tables = all.filter(|t| wanted.matches(&t.schema.name)).map(found).collect();
        Ok(CopyStart { low: world.end().position(), tables })
    }

    async fn splits(&self, table: &TableSchema, _: u64) -> Result<Vec<Split>> {
        self.faults.point("splits").await;
        let world = self.world.lock().unwrap();
        if !world.states[world.visible].contains_key(&table.name) {
            return Err(Error::not_found("there is no such table").with("table", &table.name));
        }
        let keys = world.shape.keys;
        let bound = |k: i64| Some(vec![k.to_string()]);
        let cuts = [None, bound(keys / 3), bound(keys * 2 / 3), None];
        let split = |n: usize| Split {
            number: n as u32,
            range: KeyRange { from: cuts[n].clone(), to: cuts[n + 1].clone() },
            rows: keys as u64 / 3,
        };
        Ok((0..3).map(split).collect())
    }

    async fn read(&self, table: &Arc<TableSchema>, split: &Split, low: &Position) -> Result<Box<dyn BatchStream>> {
        self.faults.point("read").await;
        self.until_visible(low).await;
        let world = self.world.lock().unwrap();
        let found = same_table(&world, table)?;
        let bound = |b: &Option<Vec<String>>| b.as_ref().map(|v| v[0].parse::<i64>().unwrap());
        let (from, to) = (bound(&split.range.from), bound(&split.range.to));
        let rows: Vec<_> = found
            .rows
            .iter()
            .filter(|(k, _)| from.is_none_or(|f| **k >= f) && to.is_none_or(|t| **k < t))
            .map(|(_, r)| r.clone())
            .collect();
        self.faults.log(|| format!("read {} split {} at {}: {rows:?}", table.name, split.number, world.visible));
        let batches = rows.chunks(3).map(|c| copy_batch(table, c)).collect();
        Ok(Box::new(Rows { batches, faults: self.faults.clone() }))
    }

    async fn cut(&self, table: &Arc<TableSchema>, low: &Position) -> Result<Cut> {
        self.faults.point("cut").await;
        self.until_visible(low).await;
        let world = self.world.lock().unwrap();
        let found = same_table(&world, table)?;
        let rows: Vec<_> = found.bag.iter().flat_map(|(r, n)| std::iter::repeat_n(r.clone(), *n)).collect();
        self.faults.log(|| format!("cut {} at {}: {rows:?}", table.name, world.visible));
        let batches = rows.chunks(3).map(|c| copy_batch(table, c)).collect();
        let at = world.set(world.visible).position();
        Ok(Cut { at, rows: Box::new(Rows { batches, faults: self.faults.clone() }) })
    }

    async fn rows_of(&self, table: &Arc<TableSchema>, keys: &RecordBatch, low: &Position) -> Result<RecordBatch> {
        self.faults.point("rows of").await;
        self.until_visible(low).await;
        let world = self.world.lock().unwrap();
        let found = same_table(&world, table)?;
        let keys = keys.column(0).as_primitive::<Int64Type>().values();
        let rows: Vec<_> = keys.iter().filter_map(|k| found.rows.get(k).cloned()).collect();
        self.faults.log(|| format!("rows of {} {keys:?} at {}: {rows:?}", table.name, world.visible));
        Ok(copy_batch(table, &rows))
    }

    async fn end(&self, _: Option<&Position>) -> Result<LogEnd> {
        self.faults.point("end").await;
        Ok(LogEnd { position: self.world.lock().unwrap().end().position(), bytes_behind: None })
    }

    async fn changes(&self, request: ChangesRequest) -> Result<Box<dyn ChangeStream>> {
        self.faults.point("changes").await;
        let from = Set::of(&request.from);
        let purged = *self.acknowledged.lock().unwrap();
        if !from.holds(purged) {
            let parked = request.lane > 0 && self.continued.load(std::sync::atomic::Ordering::SeqCst);
            assert!(parked, "the log is read below what was acknowledged");
            return Err(Error::source_state(format!("the log is purged up to {}", purged.position())));
        }
        Ok(Box::new(Changes {
            world: Arc::clone(&self.world),
            faults: self.faults.clone(),
            from,
            at: from,
            next: 0,
            followed: request.tables.iter().map(|t| t.name.clone()).collect(),
            watched: request.watched.iter().map(|t| t.name.clone()).collect(),
            pattern: request.pattern,
            stop: request.stop.as_ref().map(Set::of),
            ready: VecDeque::new(),
        }))
    }

    async fn acknowledge(&self, upto: &Position) -> Result<()> {
        *self.acknowledged.lock().unwrap() = Set::of(upto);
        self.faults.point("acknowledge").await;
        Ok(())
    }

    fn compare(&self, a: &Position, b: &Position) -> Option<Ordering> {
        Set::of(a).partial_cmp(&Set::of(b))
    }

    async fn text(&self, _: &Arc<TableSchema>, _: &KeyRange) -> Result<Box<dyn BatchStream>> {
        Err(Error::unsupported("the simulation compares by itself"))
    }
}

impl ModelSource {
    /// A SELECT sees a transaction only some time after it stands in the log.
    async fn until_visible(&self, low: &Position) {
        let is_visible = |world: &World| world.set(world.visible).holds(Set::of(low));
        while !is_visible(&self.world.lock().unwrap()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// The table as a SELECT sees it, if it is still defined so.
fn same_table<'a>(world: &'a World, table: &TableSchema) -> Result<&'a Table> {
    let found = world.states[world.visible].get(&table.name).filter(|t| t.schema == *table);
    found.ok_or_else(|| Error::schema("the table is not as it was when the copy began").with("table", &table.name))
}

struct Rows {
    batches: VecDeque<RecordBatch>,
    faults: Faults,
}

#[async_trait]
impl BatchStream for Rows {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        self.faults.point("next rows").await;
        Ok(self.batches.pop_front())
    }
}

struct Changes {
    world: Arc<Mutex<World>>,
    faults: Faults,
    /// Where it began, and what it has come to.
    from: Set,
    at: Set,
    /// The entry that is looked at next.
    next: usize,
    followed: BTreeSet<TableName>,
    watched: BTreeSet<TableName>,
    pattern: TablePattern,
    stop: Option<Set>,
    ready: VecDeque<Event>,
}

impl Changes {
    /// Keeps track of the names that are followed; whether the step is told.
    fn follow(&mut self, name: &TableName, step: &TableChange) -> bool {
        let known = self.followed.contains(name) || self.watched.contains(name);
        let named = known || self.pattern.matches(name);
        match step {
            TableChange::CreateTable(_) if self.pattern.matches(name) => {
                self.watched.remove(name);
                self.followed.insert(name.clone());
                true
            }
            TableChange::DropTable => {
                self.followed.remove(name);
                self.watched.remove(name);
                named
            }
            TableChange::RenameTable { to } => {
                for set in [&mut self.followed, &mut self.watched] {
                    if set.remove(name) && self.pattern.matches(to) {
                        set.insert(to.clone());
                    }
                }
                named || self.pattern.matches(to)
            }
            _ => known,
        }
    }

    /// Gathers the rows of some entries, as a real source does, up to a schema change or the end of a replay.
    fn gather(&mut self) {
        let world = Arc::clone(&self.world);
        let world = world.lock().unwrap();
        self.next = (self.next..world.log.len()).find(|e| !world.is_in(*e, self.from)).unwrap_or(world.log.len());
        if self.next == world.log.len() {
            return;
        }
        let mut taken = Vec::new();
        if let Entry::Schema(change) = world.log[self.next].clone() {
            let steps = change.steps.into_iter().filter(|(name, step)| self.follow(name, step)).collect::<Vec<_>>();
            if !steps.is_empty() {
                self.ready.push_back(Event::Schema(SchemaChange { steps, ..change }));
            }
            self.at = world.with(self.at, self.next);
            taken.push(self.next);
            self.next += 1;
        } else {
            let most = 1 + self.faults.number(6);
            while self.next < world.log.len()
                && taken.len() < most
                && matches!(world.log[self.next], Entry::Rows(_))
                && (taken.is_empty() || self.is_before_stop())
            {
                if !world.is_in(self.next, self.from) {
                    self.at = world.with(self.at, self.next);
                    taken.push(self.next);
                }
                self.next += 1;
            }
            for batch in world.batches(&taken) {
                if !self.followed.contains(&batch.schema.name) {
                    continue;
                }
                // A big transaction comes in several pieces before its commit.
                let (mut from, rows) = (0, batch.rows.num_rows());
                while from < rows {
                    let mut to = rows.min(from + 16);
                    if batch.ops().value(to - 1) == OP_MOVE {
                        to += 1;
                    }
                    let rows = batch.rows.slice(from, to - from);
                    self.ready.push_back(Event::Rows(freshet_core::ChangeBatch { rows, ..batch.clone() }));
                    from = to;
                }
            }
        }
        let transactions = taken.len() as u64;
        self.ready.push_back(Event::Commit(Commit { position: self.at.position(), time_ms: None, transactions }));
    }

    fn is_before_stop(&self) -> bool {
        self.stop.is_none_or(|stop| self.at.partial_cmp(&stop) == Some(Ordering::Less))
    }
}

#[async_trait]
impl ChangeStream for Changes {
    async fn next(&mut self) -> Result<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            self.faults.point("next event").await;
            if self.faults.disconnects() {
                return Err(Error::source_unavailable("connection lost"));
            }
            self.gather();
            if self.ready.is_empty() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }
}
