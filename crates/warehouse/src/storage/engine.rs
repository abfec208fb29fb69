//! The whole of the storage engine: opening with recovery, transactions, snapshots, closing.

use std::collections::HashMap;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use freshet_core::batch::OP_DELETE;
use freshet_core::error::io_error;
use freshet_core::{Error, ErrorKind, Label, Result, TableName};
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, mpsc, oneshot};

use super::cache::Cache;
use super::log;
use super::maintain::{Compacted, FULL_ROWS, Maintainer, Merges};
use super::manifest::{Labels, Manifest};
use super::partial;
pub use super::prepare::{Partial, TableWrite};
use super::prepare::{Prepared, prepare, prepare_pieces};
use super::remover::Remover;
use super::stage::Stage;
use super::version::{Snapshot, TableView};
use super::writer::{Command, Done, Found, Recovery, Work};
use crate::catalog::{Ddl, Model};

/// Limits; the defaults suit a small machine.
#[derive(Debug, Clone)]
pub struct Options {
    /// The delta is flushed when it holds this many bytes.
    pub delta_bytes: usize,
    /// … or when this many bytes of log would have to be replayed.
    pub log_bytes: u64,
    /// Bytes of index pages, bloom filters and Parquet metadata that are kept in memory.
    pub cache_bytes: usize,
    /// A write of this many rows to one table becomes a segment at once.
    pub direct_rows: usize,
    /// … or of this many bytes.
    pub direct_bytes: usize,
    /// Rows of which columns are absent are made whole so many bytes at once.
    pub piece_bytes: usize,
    /// Bytes of files that transactions which have not ended yet may put aside.
    pub staged_bytes: u64,
    /// Segments of a table beyond which writers are slowed down until compaction has caught up.
    pub slow_segments: usize,
    /// Whether flush, checkpoint and compaction run by themselves.
    pub background: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            delta_bytes: 24 << 20,
            log_bytes: 32 << 20,
            cache_bytes: 64 << 20,
            direct_rows: 50_000,
            direct_bytes: 16 << 20,
            piece_bytes: 16 << 20,
            staged_bytes: 64 << 30,
            slow_segments: 48,
            background: true,
        }
    }
}

/// What the threads share.
pub(crate) struct Shared {
    pub(crate) dir: PathBuf,
    pub(crate) segment_dir: PathBuf,
    pub(crate) options: Options,
    pub(crate) cache: Arc<Cache>,
    pub(crate) remover: Remover,
    published: RwLock<Arc<Snapshot>>,
    labels: Mutex<Labels>,
    next_segment: AtomicU64,
    /// Layers with a lower id get no more rows.
    sealed: AtomicU64,
    poisoned: Mutex<Option<Error>>,
    log_bytes: AtomicU64,
    stopping: AtomicBool,
    signals: Mutex<Signals>,
    changed: Condvar,
}

#[derive(Default)]
struct Signals {
    flush: bool,
    compact: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.published.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes a version visible, with the labels of its transactions.
    pub(crate) fn publish(&self, head: Snapshot, labels: impl Iterator<Item = Label>) {
        {
            let mut known = lock(&self.labels);
            labels.for_each(|l| known.insert(&l.0));
        }
        let delta: usize = head.views.values().map(|v| v.delta_bytes()).sum();
        let many = head.views.values().any(|v| v.segments.len() >= 4);
        let head = Arc::new(head);
        // What goes with the old version goes when readers can have the new one.
        let old = std::mem::replace(&mut *self.published.write().unwrap_or_else(PoisonError::into_inner), head);
        drop(old);
        let full = delta >= self.options.delta_bytes;
        if full || many {
            let mut signals = lock(&self.signals);
            signals.flush |= full;
            signals.compact |= many;
            self.changed.notify_all();
        }
    }

    pub(crate) fn note_log_bytes(&self, bytes: u64) {
        self.log_bytes.store(bytes, Ordering::Relaxed);
        if bytes >= self.options.log_bytes {
            lock(&self.signals).flush = true;
            self.changed.notify_all();
        }
    }

    pub(crate) fn wake_compaction(&self) {
        lock(&self.signals).compact = true;
        self.changed.notify_all();
    }

    /// Waits until a flush is due; false when the warehouse closes.
    pub(crate) fn wait_for_flush(&self) -> bool {
        while self.wait(|s| std::mem::take(&mut s.flush)) {
            // Commits that came during the last flush may have asked for one that is no longer due.
            let delta: usize = self.snapshot().tables().map(|v| v.delta_bytes()).sum();
            if delta >= self.options.delta_bytes || self.log_bytes.load(Ordering::Relaxed) >= self.options.log_bytes {
                return true;
            }
        }
        false
    }

    /// Waits until compaction may be due; false when the warehouse closes.
    pub(crate) fn wait_for_compaction(&self) -> bool {
        self.wait(|s| std::mem::take(&mut s.compact))
    }

    fn wait(&self, due: impl Fn(&mut Signals) -> bool) -> bool {
        let mut signals = lock(&self.signals);
        loop {
            if self.stopping.load(Ordering::Acquire) {
                return false;
            }
            if due(&mut signals) {
                return true;
            }
            signals = self.changed.wait(signals).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Sleeps unless the warehouse closes.
    pub(crate) fn pause(&self, time: Duration) {
        let signals = lock(&self.signals);
        let stopped = |_: &mut Signals| !self.stopping.load(Ordering::Acquire);
        drop(self.changed.wait_timeout_while(signals, time, stopped));
    }

    /// # Errors
    /// When the warehouse closes.
    pub(crate) fn check_running(&self) -> Result<()> {
        if self.stopping.load(Ordering::Acquire) { Err(closed()) } else { Ok(()) }
    }

    pub(crate) fn next_segment_id(&self) -> u64 {
        self.next_segment.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn peek_segment_id(&self) -> u64 {
        self.next_segment.load(Ordering::Relaxed)
    }

    pub(crate) fn raise_segment_id(&self, least: u64) {
        self.next_segment.fetch_max(least, Ordering::Relaxed);
    }

    pub(crate) fn seal_layers_below(&self, id: u64) {
        self.sealed.store(id, Ordering::Release);
    }

    pub(crate) fn is_sealed(&self, layer: u64) -> bool {
        layer < self.sealed.load(Ordering::Acquire)
    }

    pub(crate) fn label_known(&self, label: &Label) -> bool {
        lock(&self.labels).contains(label)
    }

    pub(crate) fn labels(&self) -> Labels {
        lock(&self.labels).clone()
    }

    pub(crate) fn poisoned(&self) -> Option<Error> {
        lock(&self.poisoned).clone()
    }

    /// No more transactions: what is on disk behind the last durable record is unknown until the next start reads it.
    pub(crate) fn poison(&self, error: Error) -> Error {
        // Whatever else would help, this has to be done.
        let error = Error { hint: None, ..error }.hint(
            "the warehouse takes no more writes: mend the cause and start Freshet again; nothing acknowledged is lost",
        );
        lock(&self.poisoned).get_or_insert(error.clone());
        error
    }
}

pub(crate) fn closed() -> Error {
    Error::new(ErrorKind::SinkUnavailable, "the warehouse is closed")
}

/// The storage engine over one directory. Dropping it ends its threads; [`Warehouse::close`] waits for them.
pub struct Warehouse {
    shared: Arc<Shared>,
    commands: Mutex<Option<mpsc::Sender<Command>>>,
    turns: Mutex<HashMap<TableName, Arc<tokio::sync::RwLock<()>>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    lock: Mutex<Option<File>>,
}

impl std::fmt::Debug for Warehouse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Warehouse({})", self.shared.dir.display())
    }
}

/// Writers that wait for the background work look again after this time.
const BACKPRESSURE_PAUSE: Duration = Duration::from_millis(5);
/// Times that a directory in use is looked at again.
const LOCK_TRIES: usize = 10;
/// Times that a write is prepared again because its table changed meanwhile.
const ATTEMPTS: usize = 20;

impl Warehouse {
    /// Opens the warehouse in `dir` (created if it is not there) as it was after its last durable transaction.
    ///
    /// # Errors
    /// `Config` when another process has it open, `Corrupt` with the file's name when stored bytes fail their checksum,
    /// `Unsupported` when a newer Freshet wrote it, `Io`.
    pub async fn open(dir: &Path, options: Options) -> Result<Arc<Warehouse>> {
        let dir = dir.to_path_buf();
        blocking(move || Warehouse::open_blocking(&dir, options)).await
    }

    fn open_blocking(dir: &Path, options: Options) -> Result<Arc<Warehouse>> {
        let segment_dir = dir.join("segments");
        std::fs::create_dir_all(&segment_dir).map_err(|e| io_error(&segment_dir, "create the data directory", e))?;
        let lock = lock_directory(dir)?;
        let manifest = match Manifest::read(dir)? {
            Some(manifest) => manifest,
            None => {
                let manifest = Manifest::empty();
                manifest.write(dir)?;
                manifest
            }
        };
        let (remover, orders) = Remover::new();
        let shared = Arc::new(Shared {
            dir: dir.to_path_buf(),
            segment_dir,
            cache: Arc::new(Cache::new(options.cache_bytes)),
            options,
            remover,
            published: RwLock::default(),
            labels: Mutex::default(),
            next_segment: AtomicU64::new(manifest.next_segment),
            sealed: AtomicU64::new(0),
            poisoned: Mutex::default(),
            log_bytes: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            signals: Mutex::default(),
            changed: Condvar::new(),
        });
        let (from, next) = (manifest.log_file, manifest.version + 1);
        let mut recovery = Recovery::new(&shared, manifest);
        let log = log::replay(dir, from, next, |file, lsn, body| recovery.apply(&shared, file, lsn, body))?;
        remove_orphans(&shared, &recovery.head)?;
        *lock_labels(&shared) = std::mem::take(&mut recovery.labels);
        let log_bytes = log.bytes;
        let writer = recovery.finish(&shared, log)?;
        shared.publish(writer.first_version(), std::iter::empty());
        shared.note_log_bytes(log_bytes);
        let (commands, queue) = mpsc::channel(1024);
        let mut threads = vec![spawn("warehouse-writer", move || writer.run(queue))?];
        if shared.options.background {
            threads.push(spawn("warehouse-remover", move || orders.carry_out())?);
            let maintainer = || Maintainer { shared: Arc::clone(&shared), commands: commands.clone() };
            let (flush, compact) = (maintainer(), maintainer());
            threads.push(spawn("warehouse-flush", move || flush.flush_loop())?);
            threads.push(spawn("warehouse-compaction", move || compact.compact_loop())?);
        }
        let (commands, threads) = (Mutex::new(Some(commands)), Mutex::new(threads));
        Ok(Arc::new(Warehouse { shared, commands, turns: Mutex::default(), threads, lock: Mutex::new(Some(lock)) }))
    }

    /// Where queries put what does not fit in their memory; emptied at every start.
    pub fn scratch(&self) -> PathBuf {
        self.shared.dir.join("tmp")
    }

    /// One version of everything.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.snapshot()
    }

    /// Whether a transaction of this label is done.
    pub fn label_state(&self, label: &Label) -> bool {
        self.shared.label_known(label)
    }

    /// Data definition, all of it in one transaction; done already under this label means success.
    ///
    /// # Errors
    /// `NotFound`, `AlreadyExists`, `Config`, `Unsupported` for what cannot be done; `Io`.
    pub async fn ddl(&self, label: Option<&Label>, ddl: Vec<Ddl>) -> Result<()> {
        let now_micros = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as i64);
        self.ask(Work::Ddl { label: label.cloned(), ddl, now_micros }).await.map(drop)
    }

    /// Writes to any number of tables in one transaction; returns when it is durable and visible. Done already under
    /// this label means success. Within all writes to a table the last row of a key counts; of a multiset deletes meet
    /// what came before them.
    ///
    /// # Errors
    /// `NotFound`, `Schema` or `Data`, naming table and column, when the rows do not fit; `Data` when a row is not there
    /// that is to be deleted from a multiset or that absent columns come from; `Unsupported` for deletes from a
    /// Duplicate Key table; `SinkUnavailable` when a table is no longer as a write has [seen](TableWrite::seen) it; `Io`.
    pub async fn commit(&self, label: Option<Label>, writes: Vec<TableWrite>) -> Result<()> {
        self.commit_stage(label, writes, Stage::Whole).await
    }

    /// [`Warehouse::commit`] of a transaction or of a part of one.
    ///
    /// # Errors
    /// As there; `Internal` when earlier parts are not there.
    pub async fn commit_stage(&self, label: Option<Label>, writes: Vec<TableWrite>, stage: Stage) -> Result<()> {
        let mut tables: Vec<(&TableName, bool)> = Vec::new();
        for write in &writes {
            // Who looks rows up first must not lose them to another writer for ever.
            match tables.iter_mut().find(|t| *t.0 == write.table) {
                Some(t) => t.1 |= write.partial.is_some(),
                None => tables.push((&write.table, write.partial.is_some())),
            }
        }
        tables.sort();
        let mut turns = (Vec::new(), Vec::new());
        for (table, alone) in tables {
            match alone {
                true => turns.0.push(self.turn(table).await),
                false => turns.1.push(self.shared_turn(table).await),
            }
        }
        self.commit_in_turn(label, writes, stage).await
    }

    /// Nobody else writes to the table until what is returned is dropped; whoever has it uses
    /// [`Warehouse::commit_in_turn`].
    pub async fn turn(&self, table: &TableName) -> OwnedRwLockWriteGuard<()> {
        self.turn_lock(table).write_owned().await
    }

    async fn shared_turn(&self, table: &TableName) -> OwnedRwLockReadGuard<()> {
        self.turn_lock(table).read_owned().await
    }

    fn turn_lock(&self, table: &TableName) -> Arc<tokio::sync::RwLock<()>> {
        let mut turns = lock(&self.turns);
        Arc::clone(turns.entry(table.clone()).or_default())
    }

    /// [`Warehouse::commit_stage`] without waiting for others that write to the same tables.
    ///
    /// # Errors
    /// As there.
    pub async fn commit_in_turn(&self, label: Option<Label>, writes: Vec<TableWrite>, stage: Stage) -> Result<()> {
        if label.as_ref().is_some_and(|l| self.shared.label_known(l)) {
            return Ok(());
        }
        self.backpressure(&writes).await?;
        let writes = Arc::new(writes);
        for _ in 0..ATTEMPTS {
            let Some(prepared) = self.prepare(&writes, &stage).await? else { continue };
            let (label, stage) = (label.clone(), stage.clone());
            match self.ask(Work::Commit { label, writes: prepared, stage }).await? {
                Done::Stale if writes.iter().any(|w| w.seen.is_some()) => break,
                Done::Stale => {}
                Done::Yes | Done::Found(_) => return Ok(()),
            }
        }
        Err(Error::new(ErrorKind::SinkUnavailable, "a table was changed by others while this was written")
            .with("tables", writes.iter().map(|w| w.table.to_string()).collect::<Vec<_>>().join(", "))
            .hint("nothing was written: try again"))
    }

    /// The writes of each table as one, whole rows, against the newest version; `None` when that has changed meanwhile.
    async fn prepare(&self, writes: &Arc<Vec<TableWrite>>, stage: &Stage) -> Result<Option<Vec<Prepared>>> {
        let snapshot = self.snapshot();
        let mut tables: Vec<(Arc<TableView>, Vec<usize>)> = Vec::new();
        for (i, write) in writes.iter().enumerate() {
            let missing =
                || Error::not_found(format!("table {} does not exist", write.table)).with("table", &write.table);
            let view = snapshot.table(&write.table).ok_or_else(missing)?;
            match tables.iter_mut().find(|t| t.0.table.id == view.table.id) {
                Some(t) => t.1.push(i),
                None => tables.push((Arc::clone(view), vec![i])),
            }
        }
        let mut out = Vec::with_capacity(tables.len());
        for (view, mine) in tables {
            if view.table.model == Model::Multiset {
                self.rehash(&view, mine.iter().map(|i| &writes[*i])).await?;
            }
            let found = match mine.iter().any(|i| writes[*i].partial.is_some()) {
                false => None,
                true => match self.find_bases(&view, writes, &mine, stage).await? {
                    None => return Ok(None),
                    found => found,
                },
            };
            let (shared, writes) = (Arc::clone(&self.shared), Arc::clone(writes));
            let staged = matches!(stage, Stage::Part(_));
            let prepared = blocking(move || {
                let mine: Vec<&TableWrite> = mine.iter().map(|i| &writes[*i]).collect();
                let Some((bases, found)) = found else { return prepare(&shared, &view.table, &mine, staged) };
                let (rows, piece) = (
                    mine.iter().map(|w| w.rows.num_rows()).sum(),
                    partial::piece_rows(&found.view, shared.options.piece_bytes),
                );
                if rows < shared.options.direct_rows && rows <= piece {
                    let whole = partial::complete(&mine, &bases, &found)?;
                    return prepare(&shared, &view.table, &whole.iter().collect::<Vec<_>>(), staged);
                }
                prepare_pieces(&shared, &view.table, rows, partial::pieces(&mine, &bases, &found, piece)?)
            });
            out.push(prepared.await?);
        }
        Ok(Some(out))
    }

    /// Looks up the rows that absent columns come from, where commits are serialised.
    async fn find_bases(
        &self,
        view: &Arc<TableView>,
        writes: &Arc<Vec<TableWrite>>,
        mine: &[usize],
        stage: &Stage,
    ) -> Result<Option<(partial::Bases, Found)>> {
        let (table, all, mine) = (Arc::clone(&view.table), Arc::clone(writes), mine.to_vec());
        let mut bases = blocking(move || partial::bases(&table, mine.iter().map(|i| &all[*i]))).await?;
        let keys = std::mem::take(&mut bases.keys);
        let (table, version, stage) = (view.table.id, view.table.version, stage.clone());
        match self.ask(Work::Find { table, version, keys, stage }).await? {
            Done::Found(found) => Ok(Some((bases, found))),
            Done::Yes | Done::Stale => Ok(None),
        }
    }

    /// Deletes from a multiset need its segments hashed in the table's present shape.
    async fn rehash<'a>(&self, view: &TableView, mut writes: impl Iterator<Item = &'a TableWrite>) -> Result<()> {
        let old = view.segments.iter().any(|s| s.segment.meta.shape != view.table.shape && s.live_rows() > 0);
        let deletes = |w: &TableWrite| w.ops.as_ref().is_some_and(|ops| ops.values().contains(&OP_DELETE));
        if !old || !writes.any(deletes) {
            return Ok(());
        }
        let (maintainer, table) = (self.maintainer()?, view.table.name.clone());
        blocking(move || maintainer.rehash(&table)).await
    }

    /// Slows a writer down before anything would have to be refused.
    async fn backpressure(&self, writes: &[TableWrite]) -> Result<()> {
        if !self.shared.options.background {
            return Ok(());
        }
        let options = &self.shared.options;
        for round in 0.. {
            let snapshot = self.snapshot();
            // Full segments are many in a large table; they are nothing to wait for.
            let small = |v: &TableView| v.segments.iter().filter(|s| s.live_rows() < FULL_ROWS / 4).count();
            let segments = writes.iter().filter_map(|w| Some(small(snapshot.table(&w.table)?))).max().unwrap_or(0);
            let delta: usize = snapshot.tables().map(|v| v.delta_bytes()).sum();
            let wait = delta > 2 * options.delta_bytes || segments > 4 * options.slow_segments;
            if segments > options.slow_segments {
                self.shared.wake_compaction();
            }
            let rounds = segments.saturating_sub(options.slow_segments);
            if !wait && round >= rounds || self.shared.poisoned().is_some() {
                return Ok(());
            }
            self.shared.check_running()?;
            tokio::time::sleep(BACKPRESSURE_PAUSE).await;
        }
        Ok(())
    }

    /// Writes the delta to segments, compacts what is worth it, and writes a checkpoint, now. Not needed in
    /// operation: the background does it.
    ///
    /// # Errors
    /// `Io`, `Corrupt`.
    pub async fn optimize(&self) -> Result<()> {
        let maintainer = self.maintainer()?;
        blocking(move || {
            maintainer.flush()?;
            while let Compacted::Merged = maintainer.compact_once(Merges::All)? {}
            maintainer.checkpoint()
        })
        .await
    }

    /// Writes the delta to segments and a checkpoint, now.
    ///
    /// # Errors
    /// `Io`, `Corrupt`.
    pub async fn flush(&self) -> Result<()> {
        let maintainer = self.maintainer()?;
        blocking(move || maintainer.flush()).await
    }

    fn maintainer(&self) -> Result<Maintainer> {
        Ok(Maintainer { shared: Arc::clone(&self.shared), commands: self.sender()? })
    }

    fn sender(&self) -> Result<mpsc::Sender<Command>> {
        lock(&self.commands).clone().ok_or_else(closed)
    }

    async fn ask(&self, work: Work) -> Result<Done> {
        let (reply, answer) = oneshot::channel();
        self.sender()?.send(Command { work, reply }).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    /// Ends the threads after the transactions that are on their way. What is open afterwards answers with an error.
    ///
    /// # Errors
    /// `Internal` when a thread has died.
    pub async fn close(&self) -> Result<()> {
        let threads = self.stop();
        let died =
            blocking(move || Ok(threads.into_iter().map(JoinHandle::join).filter(|r| r.is_err()).count())).await?;
        lock(&self.lock).take();
        if died > 0 { Err(Error::internal("a thread of the warehouse has died")) } else { Ok(()) }
    }

    fn stop(&self) -> Vec<JoinHandle<()>> {
        self.shared.stopping.store(true, Ordering::Release);
        lock(&self.commands).take();
        drop(lock(&self.shared.signals));
        self.shared.changed.notify_all();
        self.shared.remover.end();
        std::mem::take(&mut *lock(&self.threads))
    }
}

impl Drop for Warehouse {
    fn drop(&mut self) {
        for thread in self.stop() {
            let _ = thread.join();
        }
    }
}

fn lock_labels(shared: &Shared) -> MutexGuard<'_, Labels> {
    lock(&shared.labels)
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.into()).spawn(run).map_err(|e| Error::io("cannot start a thread").because(e))
}

/// Runs work that may take long or touch the disk off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => Err(Error::internal("a task of the warehouse has died").because(e)),
    }
}

fn lock_directory(dir: &Path) -> Result<File> {
    let path = dir.join("lock");
    let file = File::create(&path).map_err(|e| io_error(&path, "create the lock file", e))?;
    let mut locked = file.try_lock();
    for _ in 0..LOCK_TRIES {
        if !matches!(locked, Err(TryLockError::WouldBlock)) {
            break;
        }
        // A process that this one has just started holds all our files for the instant until it is another program.
        std::thread::sleep(BACKPRESSURE_PAUSE);
        locked = file.try_lock();
    }
    match locked {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::config("another process has this data directory open")
            .with("path", dir.display())
            .hint("connect to that process, stop it, or choose another data directory")),
        Err(TryLockError::Error(e)) => Err(io_error(&path, "lock the data directory", e)),
    }
}

/// Checks that every segment's files are there, and removes those that no version names (a kill left them over).
fn remove_orphans(shared: &Shared, head: &Snapshot) -> Result<()> {
    let mut missing: HashMap<String, PathBuf> = HashMap::new();
    for view in head.views.values().flat_map(|v| &v.segments) {
        for path in [view.segment.data_path(), view.segment.index_path()] {
            missing.insert(path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default(), path);
        }
    }
    let dir = &shared.segment_dir;
    for entry in std::fs::read_dir(dir).map_err(|e| io_error(dir, "list the segments", e))? {
        let entry = entry.map_err(|e| io_error(dir, "list the segments", e))?;
        if missing.remove(&*entry.file_name().to_string_lossy()).is_none() {
            std::fs::remove_file(entry.path()).map_err(|e| io_error(&entry.path(), "remove a left-over file", e))?;
        }
    }
    match missing.into_values().next() {
        None => Ok(()),
        Some(path) => Err(Error::corrupt("a segment's file is missing")
            .with("file", path.display())
            .hint(super::codec::CORRUPT_HINT)),
    }
}
