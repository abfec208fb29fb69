//! A place on the local disk where a source keeps what it reads of its log while tables are on their way, because the
//! catch-up lane will need it after the source may have purged it. The engine says where and how much; what the files
//! hold is the source's business. A spool is a help, not a promise: what it does not hold is asked of the source.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::error::Result;
use crate::position::Position;

/// A job's spool.
#[derive(Debug)]
pub struct Spool {
    directory: PathBuf,
    limit: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    bytes: u64,
    begun: Option<Position>,
    stopped: Option<String>,
    needed_from: Option<Position>,
    discarded: bool,
}

/// What a reader of the log does with the spool.
#[derive(Debug, Clone)]
pub enum Spooling {
    /// It keeps what it reads, as long as there is a spool in here. Told of one while it reads, it begins between two
    /// transactions, says [where](Spool::set_begun), and emits an [`Event::Commit`](crate::Event::Commit) there.
    Keep(watch::Receiver<Option<Arc<Spool>>>),
    /// It takes from it what is there, in place of asking the source.
    Take(Arc<Spool>),
}

impl Spool {
    /// In that folder, which need not exist, and of at most so many bytes.
    pub fn new(directory: PathBuf, limit: u64) -> Spool {
        Spool { directory, limit, state: Mutex::default() }
    }

    /// Where its files are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The most that its files may hold together, in bytes.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// The bytes that its files hold, as the source has said last.
    pub fn bytes(&self) -> u64 {
        self.lock().bytes
    }

    /// The source says how much its files hold.
    pub fn set_bytes(&self, bytes: u64) {
        self.lock().bytes = bytes;
    }

    /// From where on the source keeps its log; `None`: it has not begun.
    pub fn begun(&self) -> Option<Position> {
        self.lock().begun.clone()
    }

    /// The source says that from this position on everything has been offered to the spool. Only the first one counts:
    /// readings that begin anew join on to what was kept before.
    pub fn set_begun(&self, position: Position) {
        self.lock().begun.get_or_insert(position);
    }

    /// Why nothing more is kept, if that is so.
    pub fn stopped(&self) -> Option<String> {
        self.lock().stopped.clone()
    }

    /// The source says that it keeps nothing more, and why; `None`: it has begun.
    pub fn set_stopped(&self, why: Option<String>) {
        self.lock().stopped = why;
    }

    /// Whether its time is over.
    pub fn is_discarded(&self) -> bool {
        self.lock().discarded
    }

    /// From where on it may be asked for; what is before can go.
    pub fn needed_from(&self) -> Option<Position> {
        self.lock().needed_from.clone()
    }

    /// The engine says from where on it may be asked for.
    pub fn set_needed_from(&self, position: &Position) {
        self.lock().needed_from = Some(position.clone());
    }

    /// Nothing of it is needed any more: its files are removed, and whoever keeps something in it ends that.
    ///
    /// # Errors
    /// `Io`.
    pub fn discard(&self) -> Result<()> {
        *self.lock() = State { discarded: true, ..State::default() };
        match std::fs::remove_dir_all(&self.directory) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(crate::error::io_error(&self.directory, "remove the spool", e))
            }
            _ => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
