//! The world as a `Source`: positions are counts of log entries.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use freshet_core::{
    BatchStream, ChangeStream, ChangesRequest, Check, Commit, CopyStart, Cut, Discovered, Error, Event, Finding,
    KeyRange, LogEnd, Position, Result, Source, Split, TablePattern, TableSchema,
};

use crate::faults::Faults;
use crate::world::{Entry, World, copy_batch};

pub struct ModelSource {
    pub world: Arc<Mutex<World>>,
    pub faults: Faults,
    pub acknowledged: Arc<Mutex<usize>>,
}

pub fn number(position: &Position) -> usize {
    position.commit.parse().expect("the model's own position")
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

    async fn begin(&self, _: &TablePattern) -> Result<CopyStart> {
        self.faults.point("begin").await;
        let world = self.world.lock().unwrap();
        let low = world.log.len();
        let found = |t: &crate::world::Table| Discovered {
            name: t.schema.name.clone(),
            schema: Ok(t.schema.clone()),
            rows: Some(t.rows.len() as u64),
            bytes: None,
        };
        let tables = world.states[low].values().map(found).collect();
        Ok(CopyStart { low: Position::at(low.to_string()), tables })
    }

    async fn splits(&self, _: &TableSchema, _: u64) -> Result<Vec<Split>> {
        self.faults.point("splits").await;
        let keys = self.world.lock().unwrap().shape.keys;
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
        // A SELECT sees a transaction only some time after it stands in the log.
        while self.world.lock().unwrap().visible < number(low) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let world = self.world.lock().unwrap();
        let state = &world.states[world.visible];
        let found = state.get(&table.name).filter(|t| t.schema == **table);
        let found = found.ok_or_else(|| {
            Error::schema("the table is no longer as it was when the copy began").with("table", &table.name)
        })?;
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

    async fn cut(&self, table: &Arc<TableSchema>, _low: &Position) -> Result<Cut> {
        Err(Error::unsupported("not yet").with("table", &table.name))
    }

    async fn rows_of(&self, table: &Arc<TableSchema>, _keys: &RecordBatch, _low: &Position) -> Result<RecordBatch> {
        Err(Error::unsupported("not yet").with("table", &table.name))
    }

    async fn end(&self, _: Option<&Position>) -> Result<LogEnd> {
        self.faults.point("end").await;
        let end = self.world.lock().unwrap().log.len();
        Ok(LogEnd { position: Position::at(end.to_string()), bytes_behind: None })
    }

    async fn changes(&self, request: ChangesRequest) -> Result<Box<dyn ChangeStream>> {
        self.faults.point("changes").await;
        let from = number(&request.from);
        assert!(from >= *self.acknowledged.lock().unwrap(), "the log is read below what was acknowledged");
        Ok(Box::new(Changes {
            world: Arc::clone(&self.world),
            faults: self.faults.clone(),
            at: from,
            stop: request.stop.as_ref().map(number),
            ready: VecDeque::new(),
        }))
    }

    async fn acknowledge(&self, upto: &Position) -> Result<()> {
        *self.acknowledged.lock().unwrap() = number(upto);
        self.faults.point("acknowledge").await;
        Ok(())
    }

    fn compare(&self, a: &Position, b: &Position) -> Option<Ordering> {
        Some(number(a).cmp(&number(b)))
    }

    async fn text(&self, _: &Arc<TableSchema>, _: &KeyRange) -> Result<Box<dyn BatchStream>> {
        Err(Error::unsupported("the simulation compares by itself"))
    }
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
    at: usize,
    stop: Option<usize>,
    ready: VecDeque<Event>,
}

impl Changes {
    /// Gathers the rows of some entries, as a real source does, up to a schema change or the end of a replay.
    fn gather(&mut self) {
        let world = self.world.lock().unwrap();
        if self.at >= world.log.len() {
            return;
        }
        let first = self.at;
        if let Entry::Schema(change) = &world.log[first] {
            self.ready.push_back(Event::Schema(change.clone()));
            self.at += 1;
        } else {
            let most = first + 1 + self.faults.number(6);
            while self.at < world.log.len().min(most)
                && matches!(world.log[self.at], Entry::Rows(_))
                && (self.at == first || Some(self.at) != self.stop)
            {
                self.at += 1;
            }
            for batch in world.batches(first..self.at) {
                // A big transaction comes in several pieces before its commit.
                let rows = batch.rows.num_rows();
                for from in (0..rows).step_by(16) {
                    let rows = batch.rows.slice(from, 16.min(rows - from));
                    self.ready.push_back(Event::Rows(freshet_core::ChangeBatch { rows, ..batch.clone() }));
                }
            }
        }
        let position = Position::at(self.at.to_string());
        self.ready.push_back(Event::Commit(Commit { position, time_ms: None, transactions: (self.at - first) as u64 }));
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
