//! The connections that are open: for the limit on their number, `SHOW PROCESSLIST` and `KILL`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use arrow::array::{Array, ArrayRef, StringArray, UInt32Array, UInt64Array};
use arrow::record_batch::RecordBatch;
use freshet_core::{Error, Result};
use tokio::sync::watch;

/// Bytes of a statement that the list keeps.
const SHOWN: usize = 1000;

/// What somebody else wants of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kill {
    /// Nothing yet.
    Nothing,
    /// To end its statement.
    Query,
    /// To end.
    Connection,
}

/// What the list shows of a connection.
struct Entry {
    user: String,
    host: String,
    database: Option<String>,
    program: String,
    /// The statement that runs, if one does.
    statement: Option<String>,
    since: Instant,
    kill: watch::Sender<Kill>,
}

/// The open connections by id.
#[derive(Default)]
pub(super) struct Registry {
    entries: Mutex<BTreeMap<u32, Entry>>,
}

/// A connection's place in the list, given up when dropped.
pub(super) struct Place {
    registry: Arc<Registry>,
    pub(super) id: u32,
    pub(super) kill: watch::Receiver<Kill>,
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a connection in, unless there are so many already.
    pub(super) fn enter(self: &Arc<Self>, id: u32, host: String, limit: usize) -> Option<Place> {
        let mut entries = self.lock();
        if entries.len() >= limit {
            return None;
        }
        let (sender, kill) = watch::channel(Kill::Nothing);
        let entry = Entry {
            user: "unauthenticated user".into(),
            host,
            database: None,
            program: String::new(),
            statement: None,
            since: Instant::now(),
            kill: sender,
        };
        entries.insert(id, entry);
        Some(Place { registry: Arc::clone(self), id, kill })
    }

    /// Asks a connection to end its statement, or to end; false when there is none of this id.
    pub(super) fn kill(&self, id: u64, what: Kill) -> bool {
        let entries = self.lock();
        let entry = u32::try_from(id).ok().and_then(|id| entries.get(&id));
        entry.is_some_and(|e| e.kill.send(what).is_ok())
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    /// The list, as `SHOW PROCESSLIST` shows it; statements are cut after 100 characters unless `full`.
    pub(super) fn list(&self, full: bool) -> Result<RecordBatch> {
        let entries = self.lock();
        let each = |f: &dyn Fn(&Entry) -> Option<String>| -> ArrayRef {
            Arc::new(entries.values().map(f).collect::<StringArray>())
        };
        let info = |e: &Entry| {
            let statement = e.statement.as_ref()?;
            Some(if full { statement.clone() } else { statement.chars().take(100).collect() })
        };
        let columns: [(&str, ArrayRef); 9] = [
            ("Id", Arc::new(entries.keys().copied().collect::<UInt32Array>())),
            ("User", each(&|e| Some(e.user.clone()))),
            ("Host", each(&|e| Some(e.host.clone()))),
            ("db", each(&|e| e.database.clone())),
            ("Command", each(&|e| Some(if e.statement.is_some() { "Query" } else { "Sleep" }.into()))),
            ("Time", Arc::new(entries.values().map(|e| e.since.elapsed().as_secs()).collect::<UInt64Array>())),
            ("State", each(&|e| Some(if e.statement.is_some() { "executing" } else { "" }.into()))),
            ("Info", each(&info)),
            ("Program", each(&|e| Some(e.program.clone()))),
        ];
        let columns = columns.map(|(name, column)| {
            let nullable = column.null_count() > 0;
            (name, column, nullable)
        });
        RecordBatch::try_from_iter_with_nullable(columns)
            .map_err(|e| Error::internal("cannot list the connections").because(e))
    }
}

impl Place {
    /// The client is known now.
    pub(super) fn login(&self, user: &str, program: &str) {
        self.change(|e| {
            e.user = user.to_string();
            e.program = program.to_string();
        });
    }

    /// A statement begins.
    pub(super) fn start(&self, statement: &str) {
        let end = statement.floor_char_boundary(SHOWN);
        self.change(|e| e.statement = Some(statement[..end].to_string()));
    }

    /// It has ended, in this database.
    pub(super) fn finish(&self, database: Option<&str>) {
        self.change(|e| {
            e.statement = None;
            e.database = database.map(str::to_string);
        });
    }

    fn change(&self, f: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.registry.lock().get_mut(&self.id) {
            f(entry);
            entry.since = Instant::now();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.registry.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_limited_listed_and_given_up() {
        let registry = Arc::new(Registry::default());
        let first = registry.enter(1, "a:1".into(), 2).expect("a place");
        let second = registry.enter(2, "a:2".into(), 2).expect("a place");
        assert!(registry.enter(3, "a:3".into(), 2).is_none());
        second.login("root", "mysql");
        second.start(&"ü".repeat(600));
        assert_eq!(registry.list(true).expect("a list").num_rows(), 2);
        assert!(
            registry.kill(2, Kill::Query) && !registry.kill(3, Kill::Query) && !registry.kill(1 << 40, Kill::Query)
        );
        assert_eq!(*second.kill.borrow(), Kill::Query);
        drop(first);
        assert_eq!(registry.len(), 1);
    }
}
