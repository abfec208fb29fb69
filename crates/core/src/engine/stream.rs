//! Following the source's log in the main lane. Events go into one buffer; at a commit, when something in it is old
//! enough or it is full, everything up to that commit is flushed: intent stored, all tables written together, position
//! advanced. One flush is under way at a time, while the next fills the buffer; a full buffer stops the reading.
//!
//! The position of a finished flush is stored together with the intent of the next one, in one transaction; when
//! nothing follows it is stored a moment later. In between the intent in the store says the same: its label is done.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::connector::{ChangesRequest, Commit, Event, Flush, Load, Purpose};
use crate::engine::buffer::{Buffer, Taken, keep_last};
use crate::engine::job::{End, Job, MAIN, stopped, with_retries};
use crate::engine::reader::{Reader, Task};
use crate::engine::status::JobState;
use crate::error::{Error, Result};
use crate::intent::{Intent, LoadIntent};
use crate::position::Position;
use crate::schema::TableName;
use crate::store::{Change, TableState};

/// How long a position that nothing follows waits before it is stored.
const STORE_AFTER: Duration = Duration::from_millis(200);

/// A flush under way.
struct Flushing {
    task: Task<Result<()>>,
    loads: Vec<Load>,
    intent: Intent,
    commit: Commit,
}

/// What the stream loop works with besides the job.
struct Stream {
    events: Reader,
    buffer: Buffer,
    flushing: Option<Flushing>,
    /// When the oldest complete transaction in the buffer came.
    since: Option<Instant>,
    /// When a position that is not stored yet was reached.
    unstored: Option<Instant>,
}

enum Next {
    Flushed(Result<()>),
    Stop,
    Event(Result<Event>),
    Timer,
}

impl Job {
    /// Streams until told to stop.
    pub(crate) async fn stream(&mut self) -> Result<End> {
        let tables = self.tables.keys().filter(|t| self.follows(t)).map(|t| Arc::clone(&self.schemas[t].1)).collect();
        let request = ChangesRequest {
            tables,
            pattern: self.spec.tables.clone(),
            from: self.lane.position.clone(),
            stop: self.lane.intent.as_ref().map(|i| i.to.clone()),
            lane: MAIN,
            watched: Vec::new(),
        };
        let events = Reader::start(self.source.changes(request).await?);
        // The start counts as a position to be stored: tables whose copy it has passed already are live.
        let unstored = Some(Instant::now());
        let mut stream = Stream { events, buffer: Buffer::default(), flushing: None, since: None, unstored };
        loop {
            self.start_flush_if_due(&mut stream).await?;
            match self.next(&mut stream).await {
                Next::Flushed(result) => self.flushed(&mut stream, result).await?,
                Next::Event(event) => self.handle(&mut stream, event?).await?,
                Next::Timer if stream.unstored.is_some_and(|t| Instant::now() >= t + STORE_AFTER) => {
                    self.store_position(&mut stream).await?;
                }
                Next::Timer => {}
                Next::Stop => return self.stop(&mut stream).await,
            }
        }
    }

    /// Waits for the next thing that happens.
    async fn next(&self, stream: &mut Stream) -> Next {
        let mut control = self.control.clone();
        let idle = stream.flushing.is_none() && self.lane.intent.is_none();
        let due = stream.since.filter(|_| idle).map(|t| t + self.max_age());
        let store = stream.unstored.filter(|_| idle).map(|t| t + STORE_AFTER);
        let timer = due.into_iter().chain(store).min();
        let Stream { events, buffer, flushing, .. } = stream;
        let options = &self.spec.options;
        let full = buffer.is_ready() && buffer.is_full(options.max_rows, options.max_bytes);
        tokio::select! {
            biased;
            () = stopped(&mut control) => Next::Stop,
            result = async { flushing.as_mut().expect("guarded").task.join().await }, if flushing.is_some() => {
                Next::Flushed(result.and_then(|r| r))
            }
            () = async { sleep_until(timer.expect("guarded")).await }, if timer.is_some() => Next::Timer,
            event = events.next(), if !full || self.lane.intent.is_some() && flushing.is_none() => Next::Event(event),
        }
    }

    fn max_age(&self) -> Duration {
        Duration::from_millis(self.spec.options.max_age_ms)
    }

    async fn handle(&mut self, stream: &mut Stream, event: Event) -> Result<()> {
        match event {
            Event::Rows(batch) => {
                if self.follows(&batch.schema.name) && batch.rows.num_rows() > 0 {
                    stream.buffer.push(batch);
                }
            }
            Event::Commit(commit) => {
                self.committed(stream, commit);
                if self.replay_is_complete(stream) {
                    self.flush_all(stream).await?;
                }
            }
            Event::Schema(change) => {
                // Contract: the event behind a schema change is the commit behind it.
                let Event::Commit(commit) = stream.events.next().await? else {
                    return Err(Error::internal("a source sent no commit behind a schema change"));
                };
                if self.rules.barrier {
                    self.flush_all(stream).await?;
                }
                self.schema_change(change, commit.position).await?;
                stream.unstored = None;
            }
            Event::Suspend { table, error } => {
                self.flush_all(stream).await?;
                stream.buffer.forget(&table);
                self.suspend(&table, error).await?;
            }
        }
        Ok(())
    }

    fn committed(&mut self, stream: &mut Stream, commit: Commit) {
        let transactions = commit.transactions;
        stream.buffer.commit(commit);
        if stream.buffer.has_rows() {
            stream.since.get_or_insert_with(Instant::now);
        }
        self.progress.job(|s| s.transactions += transactions);
    }

    /// Whether the buffer holds exactly what an intent of the last run holds.
    fn replay_is_complete(&self, stream: &Stream) -> bool {
        let Some(intent) = &self.lane.intent else { return false };
        let Some(position) = stream.buffer.position() else { return false };
        stream.flushing.is_none() && self.source.compare(position, &intent.to) == Some(Ordering::Equal)
    }

    /// Starts a flush when there is something to flush, nothing under way and no reason to wait for more.
    async fn start_flush_if_due(&mut self, stream: &mut Stream) -> Result<()> {
        if stream.flushing.is_some() || !stream.buffer.is_ready() || self.lane.intent.is_some() {
            return Ok(());
        }
        let options = &self.spec.options;
        let old = stream.since.is_none_or(|t| Instant::now() >= t + self.max_age());
        if old || stream.buffer.is_full(options.max_rows, options.max_bytes) {
            self.start_flush(stream).await?;
        }
        Ok(())
    }

    /// Takes what is complete out of the buffer and writes it in a task of its own. Commits without rows only move the
    /// position.
    async fn start_flush(&mut self, stream: &mut Stream) -> Result<()> {
        let Some(Taken { commit, tables }) = stream.buffer.take() else { return Ok(()) };
        stream.since = None;
        let to = commit.position.clone();
        let label = self.flush_label(&to);
        let mut loads = Vec::with_capacity(tables.len());
        for (name, batches) in tables {
            let Some(record) = self.tables.get(&name) else { continue };
            let table_label =
                self.writer.label(&name.table, &[&name.to_string(), &self.lane.position.to_string(), &to.to_string()]);
            let batches = if self.rules.keep_last { vec![keep_last(&batches)?] } else { batches };
            for rows in batches {
                loads.push(Load { target: record.target.clone(), label: table_label.clone(), rows, exact: true });
            }
        }
        if loads.is_empty() {
            self.reached(stream, &commit);
            return Ok(());
        }
        let intent = self.intent(&to, label, &loads);
        self.write(stream, intent, loads, commit);
        Ok(())
    }

    fn intent(&self, to: &Position, label: crate::Label, loads: &[Load]) -> Intent {
        let load = |l: &Load| LoadIntent {
            table: l.rows.schema.name.clone(),
            target: l.target.clone(),
            schema_version: self.schemas.get(&l.rows.schema.name).map_or(0, |s| s.0),
            columns: None,
            part: 0,
            label: l.label.clone(),
        };
        Intent {
            writer: self.writer.clone(),
            from: self.lane.position.clone(),
            to: to.clone(),
            cut_rows: None,
            spec_hash: self.spec.hash(),
            loads: loads.iter().map(load).collect(),
            label,
        }
    }

    /// Stores the intent, and with it the position before, then writes.
    fn write(&mut self, stream: &mut Stream, intent: Intent, loads: Vec<Load>, commit: Commit) {
        let mut lane = self.lane.clone();
        if self.rules.intent {
            lane.intent = Some(intent.clone());
        }
        let mut change = Change::new();
        change.lane(&self.spec.name, MAIN, &lane);
        self.note_live(&mut change);
        stream.unstored = None;
        let (store, sink, progress) = (self.store.clone(), Arc::clone(&self.sink), Arc::clone(&self.progress));
        let (label, written, writer) = (intent.label.clone(), loads.clone(), self.writer.clone());
        let task = Task::spawn(async move {
            store.commit(change).await?;
            with_retries(
                || {
                    sink.write(Flush {
                        label: label.clone(),
                        loads: written.clone(),
                        purpose: Purpose::Stream { writer: writer.clone(), parts: 0 },
                    })
                },
                |e, _| {
                    progress.job(|s| {
                        s.state = JobState::Retrying;
                        s.error = Some(e.clone());
                    });
                },
            )
            .await
        });
        stream.flushing = Some(Flushing { task, loads, intent, commit });
    }

    /// A flush has ended. When rows of one table cannot be written, that table is suspended and the rest written.
    async fn flushed(&mut self, stream: &mut Stream, result: Result<()>) -> Result<()> {
        let Some(done) = stream.flushing.take() else { return Ok(()) };
        if let Err(error) = result {
            return self.without_the_culprit(stream, done, error).await;
        }
        for load in &done.loads {
            let rows = load.rows.rows.num_rows() as u64;
            self.progress.table(&load.rows.schema.name, |t| t.changes += rows);
            self.progress.job(|s| s.changes += rows);
        }
        self.progress.job(|s| {
            s.flushes += 1;
            if s.state == JobState::Retrying {
                (s.state, s.error) = (JobState::Streaming, None);
            }
        });
        // The start of this flush was stored with its intent; its end is not stored yet.
        self.source.acknowledge(&done.intent.from).await?;
        self.reached(stream, &done.commit);
        Ok(())
    }

    async fn without_the_culprit(&mut self, stream: &mut Stream, done: Flushing, error: Error) -> Result<()> {
        let named = error.context.iter().find(|(k, _)| k == "table").map(|(_, v)| v.clone());
        let culprit =
            done.loads.iter().find(|l| Some(l.target.to_string()) == named).map(|l| l.rows.schema.name.clone());
        let Some(culprit) = culprit else { return Err(error) };
        self.suspend(&culprit, error).await?;
        stream.buffer.forget(&culprit);
        let loads: Vec<_> = done.loads.into_iter().filter(|l| l.rows.schema.name != culprit).collect();
        if loads.is_empty() {
            self.lane.intent = None;
            self.reached(stream, &done.commit);
            return Ok(());
        }
        let mut intent = done.intent;
        intent.loads.retain(|l| l.table != culprit);
        self.write(stream, intent, loads, done.commit);
        Ok(())
    }

    /// Everything before that commit is in the sink.
    fn reached(&mut self, stream: &mut Stream, commit: &Commit) {
        self.lane.position = commit.position.clone();
        self.lane.intent = None;
        stream.unstored.get_or_insert_with(Instant::now);
        let (position, now) = (commit.position.to_string(), crate::engine::clock::now_ms());
        self.progress.job(|s| {
            s.position = Some(position);
            s.lag_ms = commit.time_ms.map(|t| (now - t).max(0));
        });
    }

    /// Flushes everything that is complete and waits for it.
    async fn flush_all(&mut self, stream: &mut Stream) -> Result<()> {
        loop {
            if stream.flushing.is_none() {
                if !stream.buffer.is_ready() {
                    return Ok(());
                }
                self.start_flush(stream).await?;
                continue;
            }
            let result = stream.flushing.as_mut().expect("just looked").task.join().await.and_then(|r| r);
            self.flushed(stream, result).await?;
        }
    }

    /// Stores the position when nothing follows, acknowledges it, and finds the tables that are live now.
    async fn store_position(&mut self, stream: &mut Stream) -> Result<()> {
        if stream.flushing.is_some() {
            return Ok(());
        }
        let mut change = Change::new();
        change.lane(&self.spec.name, MAIN, &self.lane);
        self.note_live(&mut change);
        self.store.commit(change).await?;
        stream.unstored = None;
        self.source.acknowledge(&self.lane.position).await
    }

    /// Tables whose copy has been passed are equal to the source from here on.
    pub(crate) fn note_live(&mut self, change: &mut Change) {
        let live: Vec<TableName> =
            self.tables.values().filter(|t| self.is_live(&t.state)).map(|t| t.name.clone()).collect();
        for name in &live {
            let Some(record) = self.tables.get_mut(name) else { continue };
            record.state = TableState::Live;
            change.table(&self.spec.name, record);
        }
        if !live.is_empty() {
            self.progress.set_tables(self.tables.values());
        }
    }

    fn is_live(&self, state: &TableState) -> bool {
        let TableState::CatchingUp { high } = state else { return false };
        matches!(self.source.compare(&self.lane.position, high), Some(Ordering::Equal | Ordering::Greater))
    }

    /// The graceful end: what is complete is flushed, the position stored.
    async fn stop(&mut self, stream: &mut Stream) -> Result<End> {
        let replaying = self.lane.intent.is_some() && stream.flushing.is_none();
        if !replaying {
            self.flush_all(stream).await?;
            self.store_position(stream).await?;
        }
        Ok(End::Stopped)
    }
}
