//! The copy of the tables that a job begins with: several connections read splits, each a little ahead of the sink; a
//! split counts when all its rows are durable there. Rows of a copy are never written after a streamed change of the
//! same table, because streaming begins when the copy has ended.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use arrow::array::{Int8Array, RecordBatch};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::batch::{ChangeBatch, OP_UPSERT, concat};
use crate::connector::{Flush, Load, Purpose, Sink, Source, Split};
use crate::engine::job::{End, Job, MAIN, stopped, with_retries};
use crate::engine::reader::Task;
use crate::engine::status::{JobState, Progress};
use crate::error::{Error, Result, Retry};
use crate::intent::{Label, Writer};
use crate::position::Position;
use crate::schema::{TableName, TableSchema};
use crate::store::{Change, SplitRecord, Store, TableRecord, TableState};

/// Bytes that are gathered before they are written; a split may be several times as large.
const LOAD_BYTES: usize = 24 << 20;

/// A split to read.
#[derive(Debug, Clone)]
struct Work {
    record: TableRecord,
    schema: Arc<TableSchema>,
    split: Split,
}

/// What a reading connection hands over.
enum Read {
    Rows(Work, RecordBatch),
    End(Work),
    /// Reading this split failed.
    Failed(Work, Error),
}

/// What all connections of a copy share.
struct Shared {
    work: Mutex<VecDeque<Work>>,
    low: Position,
    writer: Writer,
    store: Store,
    sink: Arc<dyn Sink>,
    progress: Arc<Progress>,
}

impl Job {
    /// Copies what is not copied yet. `Some` when the job was told to stop before the end.
    pub(crate) async fn copy(&mut self) -> Result<Option<End>> {
        let copying: Vec<_> =
            self.tables.values().filter(|t| t.state == TableState::Copying).map(|t| t.name.clone()).collect();
        if copying.is_empty() {
            return Ok(None);
        }
        self.state(JobState::Copying);
        let work = self.plan_copy(&copying).await?;
        let mut control = self.control.clone();
        let failed = tokio::select! {
            biased;
            () = stopped(&mut control) => return Ok(Some(End::Stopped)),
            failed = copy_splits(self.shared(work), Arc::clone(&self.source), self.spec.options.copy_connections) => failed?,
        };
        for (name, error) in failed {
            self.suspend(&name, error).await?;
        }
        let high = self.source.end(None).await?.position;
        self.caught_up(&copying, &high).await?;
        Ok(None)
    }

    /// The copy of these tables has ended at the log's end `high`.
    async fn caught_up(&mut self, tables: &[TableName], high: &Position) -> Result<()> {
        let mut change = Change::new();
        for name in tables {
            let Some(record) = self.tables.get_mut(name).filter(|t| t.state == TableState::Copying) else { continue };
            record.state = TableState::CatchingUp { high: high.clone() };
            change.table(&self.spec.name, record);
        }
        if !self.rules.low_position {
            self.lane.position = high.clone();
            change.lane(&self.spec.name, MAIN, &self.lane);
        }
        self.store.commit(change).await?;
        self.progress.set_tables(self.tables.values());
        Ok(())
    }

    /// The splits that are left, cutting the tables that are not cut yet.
    async fn plan_copy(&mut self, tables: &[TableName]) -> Result<VecDeque<Work>> {
        let mut work = VecDeque::new();
        for name in tables {
            let schema = Arc::clone(&self.schemas[name].1);
            let mut splits = self.store.splits(&self.spec.name, name)?;
            if splits.is_empty() {
                let cut = match self.source.splits(&schema, self.spec.options.split_rows).await {
                    Ok(cut) => cut,
                    Err(e) if e.kind.retry() == Retry::Backoff => return Err(e),
                    Err(e) => {
                        self.suspend(name, e).await?;
                        continue;
                    }
                };
                splits = cut.into_iter().map(|split| SplitRecord { split, done: None, begun: None }).collect();
            }
            self.begin_attempt(name, &mut splits).await?;
            self.progress.table(name, |t| t.splits = splits.len() as u64);
            let record = self.tables[name].clone();
            work.extend(splits.into_iter().filter(|s| s.done.is_none()).map(|s| Work {
                record: record.clone(),
                schema: Arc::clone(&schema),
                split: s.split,
            }));
        }
        Ok(work)
    }

    /// A second SELECT sees other rows than the first, so every attempt has labels of its own; and before anything is
    /// read again, the loads of the attempt before must have landed or be gone.
    async fn begin_attempt(&mut self, name: &TableName, splits: &mut [SplitRecord]) -> Result<()> {
        let mut change = Change::new();
        for split in splits {
            if let Some(label) = split.begun.take() {
                self.sink.settle(&label, None).await?;
            }
            change.split(&self.spec.name, name, split);
        }
        if let Some(record) = self.tables.get_mut(name) {
            record.attempt += 1;
            change.table(&self.spec.name, record);
        }
        self.store.commit(change).await
    }

    fn shared(&self, work: VecDeque<Work>) -> Arc<Shared> {
        Arc::new(Shared {
            work: Mutex::new(work),
            low: self.lane.position.clone(),
            writer: self.writer.clone(),
            store: self.store.clone(),
            sink: Arc::clone(&self.sink),
            progress: Arc::clone(&self.progress),
        })
    }

    /// For the simulation only: lets the copy race with the stream, to show what that breaks.
    pub(crate) async fn race_copy(&mut self) -> Result<Task<()>> {
        let copying: Vec<_> =
            self.tables.values().filter(|t| t.state == TableState::Copying).map(|t| t.name.clone()).collect();
        let work = self.plan_copy(&copying).await?;
        let high = self.source.end(None).await?.position;
        self.caught_up(&copying, &high).await?;
        let (shared, source) = (self.shared(work), Arc::clone(&self.source));
        Ok(Task::spawn(async move {
            let _ = copy_splits(shared, source, 1).await;
        }))
    }
}

/// Copies over several connections; returns the tables that failed for good.
async fn copy_splits(
    shared: Arc<Shared>,
    source: Arc<dyn Source>,
    connections: usize,
) -> Result<Vec<(TableName, Error)>> {
    let mut running = JoinSet::new();
    for _ in 0..connections {
        running.spawn(copy_connection(Arc::clone(&shared), Arc::clone(&source)));
    }
    let mut failed = Vec::new();
    while let Some(ended) = running.join_next().await {
        failed.extend(ended.map_err(|e| Error::internal("a task of the copy ended").because(e))??);
    }
    Ok(failed)
}

impl Shared {
    fn next(&self) -> Option<Work> {
        self.work.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop_front()
    }

    /// A table that failed is not read any further.
    fn leave(&self, table: &TableName) {
        self.work.lock().unwrap_or_else(std::sync::PoisonError::into_inner).retain(|w| w.record.name != *table);
    }

    /// Writes rows of a split; on return they are durable.
    async fn write(&self, work: &Work, number: u64, batches: Vec<RecordBatch>) -> Result<()> {
        let batches = batches.into_iter().map(|rows| upserts(&work.schema, &rows)).collect::<Result<Vec<_>>>()?;
        let rows = concat(&batches)?;
        drop(batches);
        let (count, bytes) = (rows.rows.num_rows() as u64, rows.bytes() as u64);
        let (table, attempt) = (work.record.name.to_string(), work.record.attempt.to_string());
        let (split, part) = (work.split.number.to_string(), number.to_string());
        let label = self.writer.label("copy", &[&table, &attempt, &split, &part]);
        let load = Load { target: work.record.target.clone(), label: label.clone(), rows, exact: false };
        self.record(work, None, Some(label.clone())).await?;
        with_retries(
            || self.sink.write(Flush { label: label.clone(), loads: vec![load.clone()], purpose: Purpose::Copy }),
            |e, _| self.progress.job(|s| s.error = Some(e.clone())),
        )
        .await?;
        self.progress.job(|s| s.error = None);
        self.progress.table(&work.record.name, |t| {
            t.rows_copied += count;
            t.bytes_copied += bytes;
        });
        Ok(())
    }

    async fn done(&self, work: &Work, rows: u64) -> Result<()> {
        self.record(work, Some(rows), None).await?;
        self.progress.table(&work.record.name, |t| t.splits_done += 1);
        Ok(())
    }

    async fn record(&self, work: &Work, done: Option<u64>, begun: Option<Label>) -> Result<()> {
        let mut change = Change::new();
        change.split(&self.writer.job, &work.record.name, &SplitRecord { split: work.split.clone(), done, begun });
        self.store.commit(change).await
    }
}

/// One connection: a task reads ahead, this one writes.
async fn copy_connection(shared: Arc<Shared>, source: Arc<dyn Source>) -> Result<Vec<(TableName, Error)>> {
    let (sender, mut reads) = mpsc::channel(2);
    let reader = Arc::clone(&shared);
    let _reading = Task::spawn(async move {
        while let Some(work) = reader.next() {
            let outcome = match read_split(source.as_ref(), &reader.low, &work, &sender).await {
                Ok(()) => Read::End(work),
                Err(error) => Read::Failed(work, error),
            };
            if sender.send(outcome).await.is_err() {
                return;
            }
        }
    });
    let mut failed: Vec<(TableName, Error)> = Vec::new();
    let (mut gathered, mut bytes, mut number, mut rows) = (Vec::new(), 0, 0, 0);
    while let Some(read) = reads.recv().await {
        let (work, ended) = match read {
            Read::Rows(work, batch) => {
                rows += batch.num_rows() as u64;
                bytes += batch.get_array_memory_size();
                gathered.push(batch);
                (work, false)
            }
            Read::End(work) => (work, true),
            Read::Failed(work, error) => {
                if error.kind.retry() == Retry::Backoff {
                    return Err(error);
                }
                shared.leave(&work.record.name);
                failed.push((work.record.name, error));
                (gathered, bytes, number, rows) = (Vec::new(), 0, 0, 0);
                continue;
            }
        };
        if !gathered.is_empty() && (ended || bytes >= LOAD_BYTES) {
            bytes = 0;
            if let Err(error) = shared.write(&work, number, std::mem::take(&mut gathered)).await {
                shared.leave(&work.record.name);
                failed.push((work.record.name, error));
                continue;
            }
            number += 1;
        }
        if ended {
            if !failed.iter().any(|(t, _)| *t == work.record.name) {
                shared.done(&work, rows).await?;
            }
            (number, rows) = (0, 0);
        }
    }
    Ok(failed)
}

/// Reads one split to its end.
async fn read_split(source: &dyn Source, low: &Position, work: &Work, to: &mpsc::Sender<Read>) -> Result<()> {
    let mut rows = source.read(&work.schema, &work.split, low).await?;
    while let Some(batch) = rows.next().await? {
        if to.send(Read::Rows(work.clone(), batch)).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

fn upserts(schema: &Arc<TableSchema>, rows: &RecordBatch) -> Result<ChangeBatch> {
    let ops = Int8Array::from_value(OP_UPSERT, rows.num_rows());
    ChangeBatch::new(Arc::clone(schema), rows.columns().to_vec(), ops)
}
