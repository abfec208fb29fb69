//! Copies: several connections read splits, each a little ahead of the sink, for as long as the job runs. A split counts
//! when all its rows are durable in the sink. A second SELECT sees other rows than the first, so every try has labels
//! of its own. A table without a key is read in one snapshot, and begins anew after a failure.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arrow::array::{Int8Array, RecordBatch};
use tokio::sync::{Notify, mpsc};

use crate::batch::{ChangeBatch, OP_UPSERT, concat};
use crate::connector::{BatchStream, Flush, KeyRange, Load, Purpose, Split};
use crate::engine::job::with_retries;
use crate::engine::lane::{Context, MAIN};
use crate::engine::reader::Task;
use crate::error::{Error, Result, Retry};
use crate::failpoint::step;
use crate::intent::Label;
use crate::position::Position;
use crate::schema::{TableName, TableSchema};
use crate::store::{Change, CopyRecord, SplitRecord};

/// Bytes that are gathered before they are written, where the job's limit is not lower; a split may be several times as
/// large.
const LOAD_BYTES: usize = 24 << 20;
/// Pauses after a read that failed.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// The copy of one table.
#[derive(Debug)]
struct Copy {
    name: TableName,
    record: CopyRecord,
    schema: Arc<TableSchema>,
}

/// What a connection does next.
#[derive(Debug, Clone)]
enum Work {
    /// Cut the table into splits, or take up those that are stored.
    Plan(Arc<Copy>),
    Split(Arc<Copy>, SplitRecord),
}

impl Work {
    fn copy(&self) -> &Arc<Copy> {
        match self {
            Work::Plan(copy) | Work::Split(copy, _) => copy,
        }
    }
}

/// What became of a copy.
#[derive(Debug)]
pub(crate) enum Report {
    /// All rows are in the sink. `high`: the log's end behind the last read; `cut`: the exact position of a table without
    /// a key.
    Copied { name: TableName, number: u32, high: Position, cut: Option<Position> },
    /// A person has to look, or the schema is not what it was.
    Failed { name: TableName, number: u32, error: Error },
}

/// What a reading connection hands over.
enum Read {
    Rows(Rows),
    Failed(Work, Error),
}

/// Rows of a split for one load, in the order of `part`.
struct Rows {
    copy: Arc<Copy>,
    split: SplitRecord,
    part: u64,
    batches: Vec<RecordBatch>,
    /// There are no more.
    end: Option<End>,
}

/// The end of a split.
struct End {
    /// All of its rows.
    rows: u64,
    /// The exact position of a table without a key.
    cut: Option<Position>,
}

/// The connections of a job's copies, and what they have to do.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    reports: mpsc::UnboundedReceiver<Report>,
    _connections: Vec<Task<()>>,
}

struct Shared {
    context: Arc<Context>,
    state: Mutex<State>,
    /// There is work.
    work: Notify,
    /// A write has ended.
    written: Notify,
    reports: mpsc::UnboundedSender<Report>,
}

#[derive(Default)]
struct State {
    work: VecDeque<Work>,
    /// Copies that go on, with the splits that are left; `None`: not cut yet.
    open: BTreeMap<u32, Option<usize>>,
    /// Copies that are writing at this moment.
    writing: BTreeMap<u32, usize>,
}

impl Pool {
    pub(crate) fn start(context: Arc<Context>) -> Pool {
        let (sender, reports) = mpsc::unbounded_channel();
        let connections = context.spec.options.copy_connections;
        let shared = Arc::new(Shared {
            context,
            state: Mutex::default(),
            work: Notify::new(),
            written: Notify::new(),
            reports: sender,
        });
        let connection = |_| Task::spawn(connection(Arc::clone(&shared)));
        let connections = (0..connections).map(connection).collect();
        Pool { shared, reports, _connections: connections }
    }

    /// Whether a connection would have nothing to do.
    pub(crate) fn wants_work(&self) -> bool {
        let state = self.shared.lock();
        let unplanned = state.open.values().filter(|left| left.is_none()).count();
        state.work.len() + unplanned < self.shared.context.spec.options.copy_connections
    }

    pub(crate) fn is_copying(&self) -> bool {
        !self.shared.lock().open.is_empty()
    }

    /// Copies a table, or goes on with it.
    pub(crate) fn begin(&self, name: &TableName, record: &CopyRecord, schema: &Arc<TableSchema>) {
        let copy = Arc::new(Copy { name: name.clone(), record: record.clone(), schema: Arc::clone(schema) });
        let mut state = self.shared.lock();
        state.open.insert(record.number, None);
        state.work.push_back(Work::Plan(copy));
        self.shared.work.notify_one();
    }

    /// Gives a copy up; on return nothing of it is written any more.
    pub(crate) async fn leave(&self, number: u32) {
        loop {
            let written = self.shared.written.notified();
            {
                let mut state = self.shared.lock();
                state.open.remove(&number);
                state.work.retain(|w| w.copy().record.number != number);
                if !state.writing.contains_key(&number) {
                    return;
                }
            }
            written.await;
        }
    }

    /// The next thing that happened. Cancel-safe.
    pub(crate) async fn report(&mut self) -> Report {
        match self.reports.recv().await {
            Some(report) => report,
            None => std::future::pending().await,
        }
    }
}

/// While this lives, the copy it belongs to counts as writing.
struct Writing<'a> {
    shared: &'a Shared,
    number: u32,
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if let Some(n) = state.writing.get_mut(&self.number) {
            *n -= 1;
            if *n == 0 {
                state.writing.remove(&self.number);
            }
        }
        drop(state);
        self.shared.written.notify_waiters();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn next(&self) -> Work {
        loop {
            let notified = self.work.notified();
            {
                let mut state = self.lock();
                if let Some(work) = state.work.pop_front() {
                    if !state.work.is_empty() {
                        self.work.notify_one();
                    }
                    return work;
                }
            }
            notified.await;
        }
    }

    /// Permission to write for a copy; `None` when it was given up.
    fn enter(&self, copy: &Copy) -> Option<Writing<'_>> {
        let number = copy.record.number;
        let mut state = self.lock();
        state.open.contains_key(&number).then(|| {
            *state.writing.entry(number).or_default() += 1;
            Writing { shared: self, number }
        })
    }

    /// Cuts a table into splits and queues them. The splits of an earlier run are taken up where they stood: their loads
    /// in doubt were settled when the job began.
    async fn plan(&self, copy: &Arc<Copy>) -> Result<()> {
        let job = &self.context.spec.name;
        let mut splits = self.context.store.splits(job, &copy.name)?;
        let keyless = !copy.schema.has_key();
        if splits.is_empty() {
            let cut = match keyless {
                true => vec![Split { number: 0, range: KeyRange::default(), rows: 0 }],
                false => self.context.source.splits(&copy.schema, self.context.spec.options.split_rows).await?,
            };
            splits = cut.into_iter().map(|split| SplitRecord { split, done: None, begun: None, tries: 0 }).collect();
        }
        let Some(_writing) = self.enter(copy) else { return Ok(()) };
        let mut change = Change::new();
        for split in &mut splits {
            split.tries += 1;
            change.split(job, &copy.name, split);
        }
        step("copy.splits")?;
        self.context.store.commit(change).await?;
        self.context.progress.table(&copy.name, |t| {
            t.splits = splits.len() as u64;
            t.splits_done = splits.iter().filter(|s| s.done.is_some()).count() as u64;
            t.rows_copied = splits.iter().filter_map(|s| s.done).sum();
        });
        let left: Vec<_> = splits.into_iter().filter(|s| s.done.is_none()).collect();
        {
            let mut state = self.lock();
            state.open.insert(copy.record.number, Some(left.len()));
            // In front of other tables' plans, so that a table is finished before the next one is begun.
            for split in left.iter().rev() {
                state.work.push_front(Work::Split(Arc::clone(copy), split.clone()));
            }
        }
        self.work.notify_one();
        if left.is_empty() {
            self.copied(copy, None).await?;
        }
        Ok(())
    }

    /// A split is done; with the last one the table is.
    async fn done(&self, copy: &Arc<Copy>, split: SplitRecord, cut: Option<Position>) -> Result<()> {
        {
            let Some(_writing) = self.enter(copy) else { return Ok(()) };
            step("copy.split")?;
            self.record(copy, &split).await?;
        }
        self.context.progress.table(&copy.name, |t| t.splits_done += 1);
        let last = {
            let mut state = self.lock();
            match state.open.get_mut(&copy.record.number) {
                Some(Some(left)) => {
                    *left -= 1;
                    *left == 0
                }
                _ => false,
            }
        };
        if last {
            self.copied(copy, cut).await?;
        }
        Ok(())
    }

    async fn copied(&self, copy: &Arc<Copy>, cut: Option<Position>) -> Result<()> {
        let end = with_retries(|| self.context.source.end(None), |e, _| self.trouble(e)).await?;
        self.lock().open.remove(&copy.record.number);
        let (name, number) = (copy.name.clone(), copy.record.number);
        // Without a receiver the job has ended.
        let _ = self.reports.send(Report::Copied { name, number, high: end.position, cut });
        Ok(())
    }

    fn failed(&self, copy: &Copy, error: Error) {
        let number = copy.record.number;
        let mut state = self.lock();
        if state.open.remove(&number).is_some() {
            state.work.retain(|w| w.copy().record.number != number);
            // Without a receiver the job has ended.
            let _ = self.reports.send(Report::Failed { name: copy.name.clone(), number, error });
        }
    }

    fn trouble(&self, error: &Error) {
        tracing::warn!(job = self.context.spec.name, "the copy tries again: {}", error.line());
        self.context.progress.job(|s| s.error = Some(error.clone()));
    }

    /// Does a piece of work again, a little later.
    fn again(&self, work: Work) {
        let mut state = self.lock();
        if state.open.contains_key(&work.copy().record.number) {
            state.work.push_front(work);
        }
        drop(state);
        self.work.notify_one();
    }

    async fn record(&self, copy: &Copy, split: &SplitRecord) -> Result<()> {
        let mut change = Change::new();
        change.split(&self.context.spec.name, &copy.name, split);
        self.context.store.commit(change).await
    }

    /// Writes rows; behind the last of a split it is done.
    async fn take(&self, rows: Rows) -> Result<()> {
        let Rows { copy, mut split, part, batches, end } = rows;
        if !batches.is_empty() {
            self.write(&copy, &mut split, part, batches).await?;
        }
        match end {
            Some(End { rows, cut }) => self.done(&copy, SplitRecord { done: Some(rows), ..split }, cut).await,
            None => Ok(()),
        }
    }

    /// Writes rows of a split, unless its copy was given up; on return they are durable.
    async fn write(&self, copy: &Copy, split: &mut SplitRecord, part: u64, batches: Vec<RecordBatch>) -> Result<()> {
        let Some(_writing) = self.enter(copy) else { return Ok(()) };
        let batches = batches.into_iter().map(|rows| upserts(&copy.schema, &rows)).collect::<Result<Vec<_>>>()?;
        let rows = concat(&batches)?;
        drop(batches);
        let (count, bytes) = (rows.rows.num_rows() as u64, rows.bytes() as u64);
        let label = self.label(copy, split, part);
        let load = Load { target: copy.record.into.clone(), label: label.clone(), rows, exact: false };
        split.begun = Some(label.clone());
        split.done = (!self.context.rules.progress_after).then_some(0);
        self.record(copy, split).await?;
        step("copy.write")?;
        let write = || {
            let flush = Flush { label: label.clone(), loads: vec![load.clone()], purpose: Purpose::Copy };
            self.context.sink.write(flush)
        };
        let written = with_retries(write, |e, _| self.trouble(e)).await;
        self.context.unless_done(written, &label, |e, _| self.trouble(e)).await?;
        step("copy.written")?;
        split.begun = None;
        self.context.progress.job(|s| s.error = None);
        self.context.progress.table(&copy.name, |t| {
            t.rows_copied += count;
            t.bytes_copied += bytes;
        });
        Ok(())
    }

    fn label(&self, copy: &Copy, split: &SplitRecord, part: u64) -> Label {
        let number = if self.context.rules.numbers { copy.record.number } else { 0 };
        let tries = if self.context.rules.tries { split.tries } else { 0 };
        let numbers = [number, split.split.number, tries].map(|n| n.to_string());
        let (name, part) = (copy.name.to_string(), part.to_string());
        self.context.writer(MAIN).label("copy", &[&name, &numbers[0], &numbers[1], &numbers[2], &part])
    }
}

/// One connection: a task reads a load ahead, this one writes.
async fn connection(shared: Arc<Shared>) {
    let (sender, mut reads) = mpsc::channel(1);
    let _reading = Task::spawn(reading(Arc::clone(&shared), sender));
    let mut given_up: BTreeSet<u32> = BTreeSet::new();
    while let Some(read) = reads.recv().await {
        match read {
            Read::Rows(rows) if given_up.contains(&rows.copy.record.number) => {}
            Read::Rows(rows) => {
                let copy = Arc::clone(&rows.copy);
                if let Err(error) = shared.take(rows).await {
                    given_up.insert(copy.record.number);
                    shared.failed(&copy, error);
                }
            }
            Read::Failed(work, error) => match (error.kind.retry(), work) {
                (Retry::Backoff, Work::Split(copy, split)) if copy.schema.has_key() => {
                    shared.trouble(&error);
                    shared.again(Work::Split(copy, SplitRecord { tries: split.tries + 1, ..split }));
                }
                (Retry::Backoff, work @ Work::Plan(_)) => {
                    shared.trouble(&error);
                    shared.again(work);
                }
                (_, work) => shared.failed(work.copy(), error),
            },
        }
    }
}

/// Reads what there is to read.
async fn reading(shared: Arc<Shared>, to: mpsc::Sender<Read>) {
    let mut pause = PAUSE_MIN;
    loop {
        let work = shared.next().await;
        let result = match &work {
            Work::Plan(copy) => shared.plan(copy).await,
            Work::Split(copy, split) => read_split(&shared, copy, split, &to).await,
        };
        match result {
            Ok(()) => pause = PAUSE_MIN,
            Err(error) => {
                let passing = error.kind.retry() == Retry::Backoff;
                if to.send(Read::Failed(work, error)).await.is_err() {
                    return;
                }
                if passing {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }
}

/// Reads one split to its end.
async fn read_split(shared: &Shared, copy: &Arc<Copy>, split: &SplitRecord, to: &mpsc::Sender<Read>) -> Result<()> {
    let source = &shared.context.source;
    let start = &copy.record.start;
    let (mut rows, cut): (Box<dyn BatchStream>, _) = match copy.schema.has_key() {
        true => (source.read(&copy.schema, &split.split, start).await?, None),
        false => {
            let cut = source.cut(&copy.schema, start).await?;
            (cut.rows, Some(cut.at))
        }
    };
    let (mut part, mut bytes, mut read) = (0, 0, 0);
    let mut gathered = Vec::new();
    let load =
        |part, batches, end| Read::Rows(Rows { copy: Arc::clone(copy), split: split.clone(), part, batches, end });
    let enough = LOAD_BYTES.min(shared.context.spec.options.max_bytes);
    // One load is gathered while one is being written, and no more. The receiver is gone when the job ends.
    let Ok(mut room) = to.reserve().await else { return Ok(()) };
    while let Some(batch) = rows.next().await? {
        if !shared.lock().open.contains_key(&copy.record.number) {
            return Ok(());
        }
        read += batch.num_rows() as u64;
        bytes += batch.get_array_memory_size();
        gathered.push(batch);
        if bytes >= enough {
            room.send(load(part, std::mem::take(&mut gathered), None));
            (part, bytes) = (part + 1, 0);
            let Ok(more) = to.reserve().await else { return Ok(()) };
            room = more;
        }
    }
    room.send(load(part, gathered, Some(End { rows: read, cut })));
    Ok(())
}

fn upserts(schema: &Arc<TableSchema>, rows: &RecordBatch) -> Result<ChangeBatch> {
    let ops = Int8Array::from_value(OP_UPSERT, rows.num_rows());
    ChangeBatch::new(Arc::clone(schema), rows.columns().to_vec(), ops)
}
