//! The world as a `Source`.

use std::cmp::Ordering;
use std::collections::{BTreeMap, VecDeque};
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
use crate::world::{Entry, Table, World, copy_batch, shape, shown_column};

/// What the engine relies on in a source; the simulation can break it.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// A split is read when everything before its start position is visible.
    pub visible: bool,
    /// A schema change inside a transaction has a position of its own.
    pub event: bool,
    /// Position and definitions are read again when a schema change lies between.
    pub begin_again: bool,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules { visible: true, event: true, begin_again: true }
    }
}

pub struct ModelSource {
    pub world: Arc<Mutex<World>>,
    pub faults: Faults,
    pub acknowledged: Arc<Mutex<Set>>,
    /// A suspended table was continued: for those alone the log is not kept.
    pub continued: Arc<AtomicBool>,
    pub rules: Rules,
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
        loop {
            self.faults.point("begin").await;
            let (entries, low) = {
                let world = self.world.lock().unwrap();
                (world.log.len(), world.end().position())
            };
            tokio::time::sleep(Duration::from_millis(self.faults.number(4) as u64)).await;
            let world = self.world.lock().unwrap();
            let found = |t: &crate::world::Table| Discovered {
                name: t.schema.name.clone(),
                schema: Ok(t.schema.clone()),
                rows: Some(t.rows.len() as u64),
                bytes: None,
            };
            let all = world.states.last().expect("never empty").values();
            let tables = all.filter(|t| wanted.matches(&t.schema.name)).map(found).collect();
            let changed = world.log[entries..].iter().any(|entry| matches!(entry, Entry::Schema(_)));
            if !changed || !self.rules.begin_again {
                return Ok(CopyStart { low, tables });
            }
        }
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
        self.faults.log(|| {
            let columns = |t: &Arc<TableSchema>| {
                let columns: Vec<_> = t.columns.iter().map(shown_column).collect();
                format!(" {}[{}]", t.name.table, columns.join(" "))
            };
            let (tables, watched): (String, String) =
                (request.tables.iter().map(columns).collect(), request.watched.iter().map(columns).collect());
            let (lane, stop) = (request.lane, request.stop.as_ref().map(ToString::to_string));
            format!("lane {lane} reads from {} to {stop:?}:{tables}, watches{watched}", request.from)
        });
        Ok(Box::new(Changes {
            world: Arc::clone(&self.world),
            faults: self.faults.clone(),
            rules: self.rules,
            from,
            at: from,
            next: 0,
            followed: request.tables.into_iter().map(|t| (t.name.clone(), t)).collect(),
            watched: request.watched.into_iter().map(|t| (t.name.clone(), t)).collect(),
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
        let is_visible = |world: &World| !self.rules.visible || world.set(world.visible).holds(Set::of(low));
        while !is_visible(&self.world.lock().unwrap()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// The table as a SELECT sees it, if it is still defined so.
fn same_table<'a>(world: &'a World, table: &TableSchema) -> Result<&'a Table> {
    let found = world.states[world.visible].get(&table.name).filter(|t| shape(&t.schema) == shape(table));
    found.ok_or_else(|| Error::schema("the table is not as it was when the copy began").with("table", &table.name))
}

/// Batches, each of which may be the last thing that the engine sees.
pub struct Rows {
    pub batches: VecDeque<RecordBatch>,
    pub faults: Faults,
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
    rules: Rules,
    /// Where it began, and what it has come to.
    from: Set,
    at: Set,
    /// The entry that is looked at next.
    next: usize,
    /// Definitions as this stream takes them to be: those that it was given, and what the log says from there on.
    followed: BTreeMap<TableName, Arc<TableSchema>>,
    watched: BTreeMap<TableName, Arc<TableSchema>>,
    pattern: TablePattern,
    stop: Option<Set>,
    ready: VecDeque<Event>,
}

impl Changes {
    /// Keeps track of the tables that are followed; whether the step is told.
    fn follow(&mut self, name: &TableName, step: &TableChange, violation: &mut Option<String>) -> bool {
        let known = self.followed.contains_key(name) || self.watched.contains_key(name);
        let named = known || self.pattern.matches(name);
        match step {
            TableChange::CreateTable(schema) if self.pattern.matches(name) => {
                self.watched.remove(name);
                self.followed.insert(name.clone(), Arc::new(schema.clone()));
                true
            }
            TableChange::DropTable => {
                self.followed.remove(name);
                self.watched.remove(name);
                named
            }
            TableChange::RenameTable { to } => {
                if !known {
                    self.followed.remove(to);
                    self.watched.remove(to);
                }
                for set in [&mut self.followed, &mut self.watched] {
                    if let Some(schema) = set.remove(name).filter(|_| self.pattern.matches(to)) {
                        let schema = TableSchema { name: to.clone(), ..schema.as_ref().clone() };
                        set.insert(to.clone(), Arc::new(schema));
                    }
                }
                named || self.pattern.matches(to)
            }
            _ => {
                for schema in [&mut self.followed, &mut self.watched].into_iter().filter_map(|set| set.get_mut(name)) {
                    match schema.after(step) {
                        Ok(Some(after)) => *schema = Arc::new(after),
                        _ => *violation = Some(format!("{step:?} is read in the log of {schema:?}")),
                    }
                }
                known
            }
        }
    }

    /// Gathers the rows of some entries, as a real source does, up to a schema change or the end of a replay.
    fn gather(&mut self) {
        let world = Arc::clone(&self.world);
        let mut world = world.lock().unwrap();
        self.next = (self.next..world.log.len()).find(|e| !world.is_in(*e, self.from)).unwrap_or(world.log.len());
        if self.next == world.log.len() {
            return;
        }
        let mut taken = Vec::new();
        if let Entry::Schema(change) = world.log[self.next].clone() {
            let mut follow = |name: &TableName, step: &TableChange| self.follow(name, step, &mut world.violation);
            let steps = change.steps.into_iter().filter(|(name, step)| follow(name, step)).collect::<Vec<_>>();
            if !steps.is_empty() {
                self.ready.push_back(Event::Schema(SchemaChange { steps, ..change }));
            }
            if self.rules.event || world.ids[self.next].event == 0 {
                self.at = world.with(self.at, self.next);
            }
            taken.push(self.next);
            self.next += 1;
        } else {
            self.give_up_a_table(world.shape.suspend);
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
            for batch in world.batches(&taken, &self.followed) {
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
            for (table, by) in taken.iter().flat_map(|entry| &world.foreign_keys[*entry]) {
                let known = self.followed.contains_key(table) || self.watched.contains_key(table);
                if known || self.pattern.matches(table) {
                    let reason = "a foreign key changed them".to_string();
                    self.ready.push_back(Event::Unseen { table: table.clone(), reason, by: by.clone() });
                }
            }
        }
        let transactions = taken.len() as u64;
        self.ready.push_back(Event::Commit(Commit { position: self.at.position(), time_ms: None, transactions }));
    }

    /// Rows of a table that cannot be decoded: from here on only its definition is followed.
    fn give_up_a_table(&mut self, chance: f64) {
        if self.followed.is_empty() || !self.faults.chance(chance) {
            return;
        }
        let unlucky = self.followed.keys().nth(self.faults.number(self.followed.len())).cloned();
        if let Some((table, schema)) = unlucky.and_then(|name| self.followed.remove_entry(&name)) {
            self.watched.insert(table.clone(), schema);
            self.faults.log(|| format!("the stream gives {table} up"));
            self.ready.push_back(Event::Suspend { table, error: Error::schema("rows that cannot be decoded") });
        }
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
