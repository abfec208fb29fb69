//! The manifest: a checkpoint of everything but the delta's rows, replaced as a whole. Replay begins with it.

use std::collections::{HashSet, VecDeque};
use std::fs::File;
use std::path::Path;

use freshet_core::error::io_error;
use freshet_core::failpoint::{self, failpoint};
use freshet_core::{Error, Label, Result};
use roaring::RoaringBitmap;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use super::codec::{self, Put, Take};
use super::record::{from_json, json, put_bitmap, take_bitmap};
use super::segment::{SegmentMeta, sync_dir};
use crate::catalog::Catalog;

const MAGIC: &[u8; 8] = b"FRSHMAN\n";
const NAME: &str = "manifest";

/// Labels of the last transactions, as hashes; the oldest are forgotten.
#[derive(Debug, Default, Clone)]
pub(crate) struct Labels {
    order: VecDeque<u128>,
    set: HashSet<u128>,
}

const MAX_LABELS: usize = 100_000;

impl Labels {
    pub(crate) fn contains(&self, label: &Label) -> bool {
        self.set.contains(&xxh3_128(label.0.as_bytes()))
    }

    pub(crate) fn insert(&mut self, label: &str) {
        self.insert_hash(xxh3_128(label.as_bytes()));
    }

    fn insert_hash(&mut self, hash: u128) {
        if self.set.insert(hash) {
            self.order.push_back(hash);
            if self.order.len() > MAX_LABELS
                && let Some(old) = self.order.pop_front()
            {
                self.set.remove(&old);
            }
        }
    }
}

/// Why there is no new manifest.
#[derive(Debug)]
pub(crate) enum Unwritten {
    /// The old one is in place; it may be tried again.
    Again(Error),
    /// Making it durable failed: which one the disk keeps is not known, and a second try would prove nothing.
    Unknown(Error),
}

impl From<Error> for Unwritten {
    fn from(e: Error) -> Self {
        Unwritten::Again(e)
    }
}

impl From<Unwritten> for Error {
    fn from(e: Unwritten) -> Self {
        match e {
            Unwritten::Again(e) | Unwritten::Unknown(e) => e,
        }
    }
}

/// A table's rows.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct TableFiles {
    pub(crate) table: u64,
    pub(crate) segments: Vec<SegmentMeta>,
    /// Layers of the delta whose rows are still in the log.
    pub(crate) layers: Vec<u64>,
}

/// The readable part of the manifest.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// The last transaction that it contains.
    pub(crate) version: u64,
    /// The log file where replay begins.
    pub(crate) log_file: u64,
    pub(crate) next_segment: u64,
    pub(crate) next_layer: u64,
    pub(crate) catalog: Catalog,
    pub(crate) tables: Vec<TableFiles>,
    /// Delete bitmaps of all segments, in the order of `tables`.
    #[serde(skip)]
    pub(crate) deletes: Vec<RoaringBitmap>,
    #[serde(skip)]
    pub(crate) labels: Labels,
}

impl Manifest {
    /// Of an empty warehouse.
    pub(crate) fn empty() -> Self {
        Manifest {
            version: 0,
            log_file: 1,
            next_segment: 1,
            next_layer: 1,
            catalog: Catalog { next_table: 1, ..Catalog::default() },
            tables: Vec::new(),
            deletes: Vec::new(),
            labels: Labels::default(),
        }
    }

    /// Replaces the manifest in `dir`, durably.
    pub(crate) fn write(&self, dir: &Path) -> Result<(), Unwritten> {
        let mut out = MAGIC.to_vec();
        out.put_u32(codec::FORMAT);
        out.put_bytes(&json(self)?);
        self.deletes.iter().for_each(|d| put_bitmap(&mut out, d));
        out.put_u32(self.labels.order.len() as u32);
        for label in &self.labels.order {
            out.extend_from_slice(&label.to_le_bytes());
        }
        codec::seal(&mut out, 0);
        let (path, temporary) = (dir.join(NAME), dir.join("manifest.new"));
        let write = || -> std::io::Result<File> {
            failpoint("manifest.create", &temporary)?;
            let mut file = File::create(&temporary)?;
            failpoint::write_all("manifest.write", &temporary, &mut file, &out)?;
            Ok(file)
        };
        let file = write().map_err(|e| Unwritten::Again(io_error(&path, "write the manifest", e)))?;
        let sync = || -> std::io::Result<()> {
            failpoint("manifest.sync", &temporary)?;
            file.sync_all()?;
            failpoint("manifest.rename", &path)?;
            std::fs::rename(&temporary, &path)
        };
        sync().map_err(|e| Unwritten::Unknown(io_error(&path, "make the manifest durable", e)))?;
        sync_dir("manifest.dir-sync", dir).map_err(Unwritten::Unknown)
    }

    /// Reads the manifest in `dir`; `None` when there is none.
    ///
    /// # Errors
    /// `Corrupt` when it fails its checksum, `Unsupported` when it is newer than this program.
    pub(crate) fn read(dir: &Path) -> Result<Option<Manifest>> {
        let path = dir.join(NAME);
        match std::fs::read(&path) {
            Ok(bytes) => Manifest::decode(&bytes).map(Some).map_err(|e| e.with("file", path.display())),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(io_error(&path, "read the manifest", e)),
        }
    }

    fn decode(bytes: &[u8]) -> Result<Manifest> {
        let mut input = Take::new(codec::unseal(bytes, "the manifest")?);
        if input.raw(8)? != MAGIC {
            return Err(Error::corrupt("this is no manifest").hint(codec::CORRUPT_HINT));
        }
        codec::check_format(input.u32()?)?;
        let mut manifest: Manifest = from_json(input.bytes()?)?;
        for _ in manifest.tables.iter().flat_map(|t| &t.segments) {
            manifest.deletes.push(take_bitmap(&mut input)?);
        }
        for _ in 0..input.u32()? {
            manifest.labels.insert_hash(u128::from_le_bytes(input.array()?));
        }
        Ok(manifest)
    }
}
