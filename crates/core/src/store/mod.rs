//! The engine's memory: one embedded transactional file (redb) with jobs, lanes, intents, splits, tables, schema
//! history and rejected rows. Values are JSON, so that a person can read them and fields can be added. Everything that
//! must change together changes in one [`Change`], which is one durable transaction. One process at a time may open it.

mod records;

use std::path::Path;
use std::sync::Arc;

use futures::future::BoxFuture;
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use records::{
    Apart, CopyRecord, DdlIntent, DdlStep, Desired, Doubt, JobRecord, LaneRecord, Ledger, LeftOut, Parked, Phase,
    RejectedRow, SchemaRecord, SplitRecord, TableRecord, TableState,
};

use crate::error::{Error, ErrorKind, Result};
use crate::failpoint::failpoint;
use crate::schema::TableName;

/// Version of the file's contents. A file with another one is refused: a higher one was written by a newer Freshet, 1
/// by an unreleased one that knew no lanes.
const FORMAT: u32 = 2;
/// Pages that redb keeps in memory.
const CACHE_BYTES: usize = 8 << 20;
/// Between the parts of a key; cannot be in a name that came from SQL.
const SEPARATOR: char = '\u{1}';

const META: TableDefinition<&str, &str> = TableDefinition::new("meta");
const RECORDS: [TableDefinition<&str, &[u8]>; 7] = [
    TableDefinition::new("jobs"),
    TableDefinition::new("lanes"),
    TableDefinition::new("tables"),
    TableDefinition::new("splits"),
    TableDefinition::new("schemas"),
    TableDefinition::new("rejected"),
    TableDefinition::new("ledgers"),
];

/// The kinds of records, as indexes of `RECORDS`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Jobs,
    Lanes,
    Tables,
    Splits,
    Schemas,
    Rejected,
    Ledgers,
}

/// What the simulation hangs on the store: called before and after every durable transaction.
pub type Probe = Arc<dyn Fn(&'static str) -> BoxFuture<'static, ()> + Send + Sync>;

/// The open store; cheap to clone.
#[derive(Clone)]
pub struct Store {
    database: Arc<Database>,
    /// In tests the transaction runs on the caller's thread, so that a run is deterministic.
    inline: bool,
    probe: Option<Probe>,
}

/// A set of writes that become durable together.
#[derive(Debug, Default)]
pub struct Change {
    writes: Vec<(Kind, String, Option<Vec<u8>>)>,
    /// Ranges to delete: every key that starts so.
    prefixes: Vec<(Kind, String)>,
}

fn key(parts: &[&str]) -> String {
    parts.join(&SEPARATOR.to_string())
}

/// The key's beginning that all records below `parts` share.
fn prefix(parts: &[&str]) -> String {
    let mut out = key(parts);
    out.push(SEPARATOR);
    out
}

fn table_part(table: &TableName) -> String {
    key(&[&table.database, &table.table])
}

impl Change {
    /// An empty set.
    pub fn new() -> Self {
        Change::default()
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty() && self.prefixes.is_empty()
    }

    fn put(&mut self, kind: Kind, key: String, value: &impl Serialize) -> &mut Self {
        let bytes = serde_json::to_vec(value).expect("records serialise: their maps have text keys");
        self.writes.push((kind, key, Some(bytes)));
        self
    }

    /// Writes a job.
    pub fn job(&mut self, record: &JobRecord) -> &mut Self {
        self.put(Kind::Jobs, record.spec.name.clone(), record)
    }

    /// Writes a lane of a job.
    pub fn lane(&mut self, job: &str, lane: u32, record: &LaneRecord) -> &mut Self {
        self.put(Kind::Lanes, key(&[job, &format!("{lane:010}")]), record)
    }

    /// Removes a lane of a job.
    pub fn remove_lane(&mut self, job: &str, lane: u32) -> &mut Self {
        self.writes.push((Kind::Lanes, key(&[job, &format!("{lane:010}")]), None));
        self
    }

    /// Writes what a job remembers besides.
    pub fn ledger(&mut self, job: &str, ledger: &Ledger) -> &mut Self {
        self.put(Kind::Ledgers, key(&[job, "ledger"]), ledger)
    }

    /// Writes a table of a job.
    pub fn table(&mut self, job: &str, record: &TableRecord) -> &mut Self {
        self.put(Kind::Tables, key(&[job, &table_part(&record.name)]), record)
    }

    /// Removes a table of a job with its splits; its schema history stays.
    pub fn remove_table(&mut self, job: &str, table: &TableName) -> &mut Self {
        self.writes.push((Kind::Tables, key(&[job, &table_part(table)]), None));
        self.prefixes.push((Kind::Splits, prefix(&[job, &table_part(table)])));
        self
    }

    /// Writes a split of a table.
    pub fn split(&mut self, job: &str, table: &TableName, record: &SplitRecord) -> &mut Self {
        self.put(Kind::Splits, key(&[job, &table_part(table), &format!("{:010}", record.split.number)]), record)
    }

    /// Removes all splits of a table.
    pub fn remove_splits(&mut self, job: &str, table: &TableName) -> &mut Self {
        self.prefixes.push((Kind::Splits, prefix(&[job, &table_part(table)])));
        self
    }

    /// Writes a version of a table's schema.
    pub fn schema(&mut self, job: &str, table: &TableName, record: &SchemaRecord) -> &mut Self {
        self.put(Kind::Schemas, key(&[job, &table_part(table), &format!("{:010}", record.version)]), record)
    }

    /// Writes a rejected row.
    pub fn rejected(&mut self, job: &str, record: &RejectedRow) -> &mut Self {
        self.put(Kind::Rejected, key(&[job, &format!("{:020}", record.number)]), record)
    }

    /// Removes everything of a job.
    pub fn remove_job(&mut self, job: &str) -> &mut Self {
        self.writes.push((Kind::Jobs, job.to_string(), None));
        for kind in [Kind::Lanes, Kind::Tables, Kind::Splits, Kind::Schemas, Kind::Rejected, Kind::Ledgers] {
            self.prefixes.push((kind, prefix(&[job])));
        }
        self
    }
}

impl Store {
    /// Opens or creates the file.
    ///
    /// # Errors
    /// `AlreadyExists` when another process has it open, `Corrupt` when it cannot be read, `Config` when a newer
    /// Freshet wrote it.
    pub fn open(path: &Path) -> Result<Store> {
        let opened = || {
            let database = Database::builder().set_cache_size(CACHE_BYTES).create(path).map_err(|e| match e {
                redb::DatabaseError::DatabaseAlreadyOpen => Error::already_exists(
                    "another Freshet process uses this data directory",
                )
                .hint("ask that process (`freshet status --data DIR`), end it first, or give another --data DIR"),
                other => store_error("cannot open the store", other),
            })?;
            checked(database).and_then(|d| Store::prepare(d, false))
        };
        // redb trusts parts of its file that no checksum covers.
        std::panic::catch_unwind(opened)
            .unwrap_or_else(|_| Err(Error::corrupt("the store is damaged: it cannot be read").hint(DAMAGED)))
            .map_err(|e| e.with("file", path.display()))
    }

    /// A store in memory for tests; clone the backend's bytes to simulate a crash.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn in_memory(probe: Option<Probe>) -> Result<Store> {
        let database = Database::builder()
            .create_with_backend(redb::backends::InMemoryBackend::new())
            .map_err(|e| store_error("cannot open the store", e))?;
        let mut store = Store::prepare(database, true)?;
        store.probe = probe;
        Ok(store)
    }

    fn prepare(database: Database, inline: bool) -> Result<Store> {
        let failed = |e: redb::Error| store_error("cannot prepare the store", e);
        let transaction = database.begin_write().map_err(|e| failed(e.into()))?;
        {
            let mut meta = transaction.open_table(META).map_err(|e| failed(e.into()))?;
            let found = meta.get("format").map_err(|e| failed(e.into()))?.map(|v| v.value().to_string());
            match found.map(|v| v.parse::<u32>()) {
                None => {
                    meta.insert("format", FORMAT.to_string().as_str()).map_err(|e| failed(e.into()))?;
                }
                Some(Ok(FORMAT)) => {}
                Some(Ok(n)) if n < FORMAT => {
                    return Err(Error::config(format!(
                        "the store has format {n}, which was never released; this Freshet reads {FORMAT}"
                    ))
                    .hint("sync into a new data directory"));
                }
                Some(Ok(n)) => {
                    return Err(Error::config(format!(
                        "the store has format {n}, this Freshet reads formats up to {FORMAT}"
                    ))
                    .hint("use the newer Freshet that wrote this data directory"));
                }
                Some(Err(e)) => return Err(Error::corrupt("the store's format number is not readable").because(e)),
            }
            for table in RECORDS {
                transaction.open_table(table).map_err(|e| failed(e.into()))?;
            }
        }
        transaction.commit().map_err(|e| failed(e.into()))?;
        Ok(Store { database: Arc::new(database), inline, probe: None })
    }

    /// The same store with another probe (tests).
    #[must_use]
    pub fn with_probe(&self, probe: Option<Probe>) -> Store {
        Store { probe, ..self.clone() }
    }

    /// Makes the change durable (fsync) before it returns.
    ///
    /// # Errors
    /// `Io` when the disk is full or fails; then nothing of the change is stored.
    pub async fn commit(&self, change: Change) -> Result<()> {
        if change.is_empty() {
            return Ok(());
        }
        if let Some(probe) = &self.probe {
            probe("store-before-commit").await;
        }
        let database = Arc::clone(&self.database);
        if self.inline {
            write(&database, change)?;
        } else {
            tokio::task::spawn_blocking(move || write(&database, change))
                .await
                .map_err(|e| Error::internal("the store's writer ended").because(e))??;
        }
        if let Some(probe) = &self.probe {
            probe("store-after-commit").await;
        }
        Ok(())
    }

    fn get<T: DeserializeOwned>(&self, kind: Kind, key: &str) -> Result<Option<T>> {
        let failed = |e: redb::Error| store_error("cannot read the store", e);
        let transaction = self.database.begin_read().map_err(|e| failed(e.into()))?;
        let table = transaction.open_table(RECORDS[kind as usize]).map_err(|e| failed(e.into()))?;
        match table.get(key).map_err(|e| failed(e.into()))? {
            Some(value) => decode(kind, key, value.value()).map(Some),
            None => Ok(None),
        }
    }

    fn scan<T: DeserializeOwned>(&self, kind: Kind, prefix: &str) -> Result<Vec<T>> {
        let failed = |e: redb::Error| store_error("cannot read the store", e);
        let transaction = self.database.begin_read().map_err(|e| failed(e.into()))?;
        let table = transaction.open_table(RECORDS[kind as usize]).map_err(|e| failed(e.into()))?;
        let mut out = Vec::new();
        for entry in table.range(prefix..).map_err(|e| failed(e.into()))? {
            let (key, value) = entry.map_err(|e| failed(e.into()))?;
            if !key.value().starts_with(prefix) {
                break;
            }
            out.push(decode(kind, key.value(), value.value())?);
        }
        Ok(out)
    }

    /// All jobs by name.
    ///
    /// # Errors
    /// `Corrupt` when a record cannot be read; so for all the readers below.
    pub fn jobs(&self) -> Result<Vec<JobRecord>> {
        self.scan(Kind::Jobs, "")
    }

    /// One job.
    ///
    /// # Errors
    /// See [`Store::jobs`].
    pub fn job(&self, name: &str) -> Result<Option<JobRecord>> {
        self.get(Kind::Jobs, name)
    }

    /// One lane of a job.
    ///
    /// # Errors
    /// See [`Store::jobs`].
    pub fn lane(&self, job: &str, lane: u32) -> Result<Option<LaneRecord>> {
        self.get(Kind::Lanes, &key(&[job, &format!("{lane:010}")]))
    }

    /// What a job remembers besides.
    ///
    /// # Errors
    /// See [`Store::jobs`].
    pub fn ledger(&self, job: &str) -> Result<Ledger> {
        Ok(self.get(Kind::Ledgers, &key(&[job, "ledger"]))?.unwrap_or_default())
    }

    /// A job's tables by name.
    ///
    /// # Errors
    /// See [`Store::jobs`].
    pub fn tables(&self, job: &str) -> Result<Vec<TableRecord>> {
        self.scan(Kind::Tables, &prefix(&[job]))
    }

    /// A table's splits by number.
    ///
    /// # Errors
    /// See [`Store::jobs`].
    pub fn splits(&self, job: &str, table: &TableName) -> Result<Vec<SplitRecord>> {
        self.scan(Kind::Splits, &prefix(&[job, &table_part(table)]))
    }

    /// A table's schema history by version.
    ///
    /// # Errors
    /// See [`Store::jobs`].
    pub fn schemas(&self, job: &str, table: &TableName) -> Result<Vec<SchemaRecord>> {
        self.scan(Kind::Schemas, &prefix(&[job, &table_part(table)]))
    }

    /// A job's rejected rows in order.
    ///
    /// # Errors
    /// See [`Store::jobs`].
    pub fn rejected(&self, job: &str) -> Result<Vec<RejectedRow>> {
        self.scan(Kind::Rejected, &prefix(&[job]))
    }
}

/// Verifies every page's checksum.
fn checked(mut database: Database) -> Result<Database> {
    match database.check_integrity() {
        Ok(true) => Ok(database),
        Ok(false) => Err(store_error("the store's checksums do not agree", redb::Error::Corrupted("a page".into()))),
        Err(e) => Err(store_error("cannot verify the store", e)),
    }
}

const DAMAGED: &str = "the store is damaged: restore the data directory from a copy, or sync again into a new one";

fn decode<T: DeserializeOwned>(kind: Kind, key: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| {
        Error::corrupt("a record of the store cannot be read")
            .with("record", format!("{kind:?}/{}", key.replace(SEPARATOR, "/")).to_lowercase())
            .because(e)
            .hint(DAMAGED)
    })
}

fn write(database: &Database, change: Change) -> Result<()> {
    let failed = |e: redb::Error| store_error("cannot write the store", e);
    let mut transaction = database.begin_write().map_err(|e| failed(e.into()))?;
    transaction.set_durability(Durability::Immediate).map_err(|e| failed(e.into()))?;
    // With one phase a damaged transaction would pass for one that a crash has cut short, and silently be taken back.
    transaction.set_two_phase_commit(true);
    for (kind, prefix) in change.prefixes {
        let mut table = transaction.open_table(RECORDS[kind as usize]).map_err(|e| failed(e.into()))?;
        let mut end = prefix.clone();
        end.pop();
        end.push('\u{2}');
        table.retain_in(prefix.as_str()..end.as_str(), |_, _| false).map_err(|e| failed(e.into()))?;
    }
    for (kind, key, value) in change.writes {
        let mut table = transaction.open_table(RECORDS[kind as usize]).map_err(|e| failed(e.into()))?;
        match value {
            Some(bytes) => table.insert(key.as_str(), bytes.as_slice()).map_err(|e| failed(e.into()))?,
            None => table.remove(key.as_str()).map_err(|e| failed(e.into()))?,
        };
    }
    let io = |e: std::io::Error| store_error("cannot write the store", redb::Error::Io(e));
    failpoint("store.commit", Path::new("jobs.redb")).map_err(io)?;
    transaction.commit().map_err(|e| failed(e.into()))?;
    failpoint("store.committed", Path::new("jobs.redb")).map_err(io)
}

fn store_error(doing: &str, error: impl Into<redb::Error>) -> Error {
    let error = error.into();
    let kind = match &error {
        redb::Error::Corrupted(_) => ErrorKind::Corrupt,
        // redb reports a file that is not one of its own, or that is cut off, as invalid data.
        redb::Error::Io(e)
            if matches!(e.kind(), std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof) =>
        {
            ErrorKind::Corrupt
        }
        _ => ErrorKind::Io,
    };
    let hint = match kind {
        ErrorKind::Corrupt => DAMAGED,
        _ => "look for free space and for errors of the disk, then start again; nothing acknowledged is lost",
    };
    Error::new(kind, doing).because(error).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Position;

    fn lane(text: &str) -> LaneRecord {
        LaneRecord { position: Position::at(text), intent: None, part: None, ddl: None }
    }

    #[tokio::test]
    async fn keeps_and_removes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("jobs.redb");
        let store = Store::open(&path).unwrap();
        let mut change = Change::new();
        change.lane("a", 0, &lane("1")).lane("a", 1, &lane("2")).lane("ab", 0, &lane("3"));
        store.commit(change).await.unwrap();
        assert_eq!(Store::open(&path).err().map(|e| e.kind), Some(ErrorKind::AlreadyExists));
        drop(store);
        let store = Store::open(&path).unwrap();
        let mut change = Change::new();
        change.remove_job("a");
        store.commit(change).await.unwrap();
        assert_eq!(store.lane("a", 1).unwrap(), None);
        assert_eq!(store.lane("ab", 0).unwrap(), Some(lane("3")));
    }

    /// A byte that changes anywhere is found, or it was of no meaning; after an orderly end and after a kill alike.
    #[test]
    fn a_flipped_byte_is_named_or_harmless() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("jobs.redb");
        let store = Store::open(&path).unwrap();
        let note = |i: u32| {
            let mut change = Change::new();
            let left = vec![TableName::new("d", format!("t{i}")); 1 + i as usize % 40];
            change.ledger(&format!("job{}", i % 9), &Ledger { left, ..Ledger::default() });
            change
        };
        (0..60).for_each(|i| write(&store.database, note(i)).unwrap());
        let shown = |store: &Store| (0..9).map(|i| store.ledger(&format!("job{i}")).unwrap()).collect::<Vec<_>>();
        let right = shown(&store);
        let killed = std::fs::read(&path).unwrap();
        drop(store);
        let ended = std::fs::read(&path).unwrap();
        let mut rng = fastrand::Rng::with_seed(11);
        for (what, bytes) in [("killed", killed), ("ended", ended)] {
            let mut named = 0;
            for _ in 0..150 {
                // Half of the flips meet the headers and the first pages, where most of what is in use is.
                let span = if rng.bool() { bytes.len() } else { bytes.len().min(64 << 10) };
                let (at, bit) = (rng.usize(0..span), 1 << rng.u8(0..8));
                let mut bad = bytes.clone();
                bad[at] ^= bit;
                std::fs::write(&path, bad).unwrap();
                match Store::open(&path) {
                    Ok(store) => assert_eq!(shown(&store), right, "{what}, byte {at}"),
                    Err(e) => {
                        assert!(e.to_string().contains("jobs.redb"), "{what}, byte {at}: {e}");
                        named += 1;
                    }
                }
            }
            assert!(named > 8, "{what}: {named} flips were found");
        }
    }

    #[test]
    fn damaged_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("jobs.redb");
        drop(Store::open(&path).unwrap());
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[..64].fill(0xa5);
        std::fs::write(&path, bytes).unwrap();
        let e = Store::open(&path).err().unwrap();
        assert_eq!(e.kind, ErrorKind::Corrupt, "{e}");
        assert!(e.to_string().contains("jobs.redb"), "{e}");
    }
}
