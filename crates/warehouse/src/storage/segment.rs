//! A segment: an immutable Parquet file of one table's rows, sorted by key, columns named by id, with its index file.
//! The files are removed when nobody uses them any more.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use arrow::array::RecordBatch;
use freshet_core::error::io_error;
use freshet_core::failpoint::{self, failpoint};
use freshet_core::{Error, Result};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use serde::{Deserialize, Serialize};

use super::cache::Cache;
use super::engine::Shared;
use super::index::{IndexReader, IndexWriter, ROW_ENTRY, SUM_BLOCK, block_sum};
use super::key::{HASH, Keys};
use super::remover::Remover;
use crate::catalog::{Model, Table};

/// Rows and bytes of a row group: it is held in memory while it is written.
const GROUP_ROWS: usize = 1 << 20;
const GROUP_BYTES: usize = 32 << 20;
const PAGE_ROWS: usize = 8192;

/// What the manifest and the log know of a segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentMeta {
    /// Never used twice within the warehouse; the files' name.
    pub id: u64,
    pub table: u64,
    pub rows: u32,
    /// Bytes of the Parquet file.
    pub data_len: u64,
    /// Bytes of the index file.
    pub index_len: u64,
    /// Ids of the stored columns.
    pub columns: Vec<u32>,
    /// Of a multiset: the table's shape when its rows were hashed.
    #[serde(default)]
    pub shape: u32,
    /// The least and the greatest key.
    #[serde(with = "hex")]
    pub min_key: Vec<u8>,
    #[serde(with = "hex")]
    pub max_key: Vec<u8>,
}

mod hex {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
        let mut out = String::new();
        freshet_core::text::hex(bytes, &mut out);
        s.serialize_str(&out)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(d)?;
        let pair = |i| text.get(i..i + 2).and_then(|p| u8::from_str_radix(p, 16).ok());
        (0..text.len()).step_by(2).map(|i| pair(i).ok_or_else(|| D::Error::custom("no hexadecimal digits"))).collect()
    }
}

/// A segment in use.
pub struct Segment {
    pub meta: SegmentMeta,
    /// Since when this process has it.
    pub(crate) since: Instant,
    dir: PathBuf,
    pub(crate) cache: Arc<Cache>,
    remover: Remover,
    obsolete: AtomicBool,
}

impl std::fmt::Debug for Segment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.meta.fmt(f)
    }
}

impl Segment {
    pub(crate) fn new(meta: SegmentMeta, shared: &Shared) -> Arc<Segment> {
        Arc::new(Segment {
            meta,
            since: Instant::now(),
            dir: shared.segment_dir.clone(),
            cache: Arc::clone(&shared.cache),
            remover: shared.remover.clone(),
            obsolete: AtomicBool::new(false),
        })
    }

    /// The Parquet file.
    pub fn data_path(&self) -> PathBuf {
        data_path(&self.dir, self.meta.id)
    }

    /// The index file.
    pub fn index_path(&self) -> PathBuf {
        index_path(&self.dir, self.meta.id)
    }

    pub(crate) fn with_index<T>(&self, use_it: impl FnOnce(&IndexReader<'_>) -> Result<T>) -> Result<T> {
        use_it(&IndexReader { path: &self.index_path(), segment: self.meta.id, cache: &self.cache })
    }

    /// The log is about to name the files: they stay.
    pub(crate) fn keep(&self) {
        self.obsolete.store(false, Ordering::Release);
    }

    /// From now on the files may be removed as soon as nobody uses them.
    pub(crate) fn retire(&self) {
        self.obsolete.store(true, Ordering::Release);
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        if self.obsolete.load(Ordering::Acquire) {
            self.remover.remove(&self.dir, self.meta.id);
            self.cache.forget(self.meta.id);
        }
    }
}

pub(crate) fn data_path(dir: &Path, id: u64) -> PathBuf {
    dir.join(format!("{id:016x}.parquet"))
}

pub(crate) fn index_path(dir: &Path, id: u64) -> PathBuf {
    dir.join(format!("{id:016x}.idx"))
}

/// What is left over is removed at the next start.
pub(crate) fn remove_files(dir: &Path, id: u64) {
    let _ = std::fs::remove_file(data_path(dir, id));
    let _ = std::fs::remove_file(index_path(dir, id));
}

/// Makes names in a directory durable; `place` is the failpoint.
pub(crate) fn sync_dir(place: &'static str, dir: &Path) -> Result<()> {
    failpoint(place, dir)
        .and_then(|()| File::open(dir)?.sync_all())
        .map_err(|e| io_error(dir, "make a directory durable", e))
}

/// Counts bytes and checksums blocks on the way to the file.
struct Summed {
    path: PathBuf,
    file: File,
    len: u64,
    block: Vec<u8>,
    sums: Vec<u32>,
}

impl Write for Summed {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let n = bytes.len().min(SUM_BLOCK - self.block.len());
        self.block.extend_from_slice(&bytes[..n]);
        self.len += n as u64;
        if self.block.len() == SUM_BLOCK {
            self.end_block()?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Summed {
    fn end_block(&mut self) -> std::io::Result<()> {
        failpoint::write_all("segment.write", &self.path, &mut self.file, &self.block)?;
        self.sums.push(block_sum(&self.block));
        self.block.clear();
        Ok(())
    }
}

/// Writes a segment; rows come in the order of their keys. Dropped without [`SegmentWriter::finish`], it leaves nothing.
pub(crate) struct SegmentWriter {
    dir: PathBuf,
    id: u64,
    table: u64,
    model: Model,
    shape: u32,
    data: Option<ArrowWriter<Summed>>,
    index: Option<IndexWriter>,
    columns: Vec<u32>,
    rows: u32,
    min_key: Vec<u8>,
    max_key: Vec<u8>,
    /// Of a multiset: the index's entries, to be sorted at the end.
    hashes: Vec<[u8; ROW_ENTRY]>,
}

impl SegmentWriter {
    /// For rows in the table's current definition. `expected`: an upper bound of their number.
    pub(crate) fn create(dir: &Path, id: u64, table: &Table, expected: usize) -> Result<Self> {
        let schema = table.stored_schema();
        let path = data_path(dir, id);
        let file = failpoint("segment.create", &path).and_then(|()| File::create(&path));
        let file = file.map_err(|e| io_error(&path, "create a segment", e))?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::LZ4_RAW)
            .set_max_row_group_row_count(Some(GROUP_ROWS))
            .set_max_row_group_bytes(Some(GROUP_BYTES))
            .set_data_page_row_count_limit(PAGE_ROWS)
            .set_data_page_size_limit(256 << 10)
            .set_write_batch_size(4096)
            .set_statistics_enabled(EnabledStatistics::Page)
            .set_created_by("Freshet".into())
            .build();
        let summed = Summed { path, file, len: 0, block: Vec::with_capacity(SUM_BLOCK), sums: Vec::new() };
        let columns = schema.fields().iter().filter_map(|f| f.name().strip_prefix('c')?.parse().ok()).collect();
        let mut writer = SegmentWriter {
            dir: dir.to_path_buf(),
            id,
            table: table.id,
            model: table.model,
            shape: table.shape,
            data: None,
            index: None,
            columns,
            rows: 0,
            min_key: Vec::new(),
            max_key: Vec::new(),
            hashes: Vec::new(),
        };
        let data = ArrowWriter::try_new(summed, schema, Some(properties));
        writer.data = Some(data.map_err(|e| writer.failed(e))?);
        let keys = if table.model == Model::Duplicate { 0 } else { expected };
        writer.index = Some(IndexWriter::create(&index_path(dir, id), keys)?);
        Ok(writer)
    }

    fn failed(&self, e: parquet::errors::ParquetError) -> Error {
        let path = data_path(&self.dir, self.id);
        match e {
            parquet::errors::ParquetError::External(inner) => match inner.downcast::<std::io::Error>() {
                Ok(io) => io_error(&path, "write a segment", *io),
                Err(other) => Error::io("cannot write a segment").with("path", path.display()).because(other),
            },
            other => Error::io("cannot write a segment").with("path", path.display()).because(other),
        }
    }

    pub(crate) fn rows(&self) -> u32 {
        self.rows
    }

    /// Appends rows with their keys: in ascending order, but for a multiset's hashes.
    pub(crate) fn write(&mut self, rows: &RecordBatch, keys: &Keys) -> Result<()> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        if let Some(data) = &mut self.data {
            data.write(rows).map_err(|e| self.failed(e))?;
        }
        if self.model == Model::Multiset {
            for i in 0..keys.len() {
                let mut entry = [0; ROW_ENTRY];
                entry[..HASH].copy_from_slice(keys.get(i));
                entry[HASH..].copy_from_slice(&(self.rows + i as u32).to_be_bytes());
                self.hashes.push(entry);
            }
        } else {
            if self.rows == 0 {
                self.min_key = keys.get(0).to_vec();
            }
            self.max_key = keys.get(keys.len() - 1).to_vec();
        }
        self.rows += rows.num_rows() as u32;
        if self.model == Model::Unique
            && let Some(index) = &mut self.index
        {
            let path = index_path(&self.dir, self.id);
            for i in 0..keys.len() {
                index.push(keys.get(i)).map_err(|e| io_error(&path, "write an index file", e))?;
            }
        }
        Ok(())
    }

    /// Makes both files and their names durable.
    pub(crate) fn finish(mut self) -> Result<SegmentMeta> {
        let path = data_path(&self.dir, self.id);
        let io = |e| io_error(&path, "write a segment", e);
        let (Some(data), Some(mut index)) = (self.data.take(), self.index.take()) else {
            return Err(Error::internal("a segment is finished twice"));
        };
        let mut hashes = std::mem::take(&mut self.hashes);
        hashes.sort_unstable();
        if let (Some(first), Some(last)) = (hashes.first(), hashes.last()) {
            (self.min_key, self.max_key) = (first[..HASH].to_vec(), last[..HASH].to_vec());
        }
        for entry in &hashes {
            index.push_row(entry).map_err(|e| io_error(&index_path(&self.dir, self.id), "write an index file", e))?;
        }
        drop(hashes);
        let mut summed = data.into_inner().map_err(|e| self.failed(e))?;
        if !summed.block.is_empty() {
            summed.end_block().map_err(io)?;
        }
        failpoint("segment.sync", &path).and_then(|()| summed.file.sync_all()).map_err(io)?;
        let index_len = index.finish(summed.len, &summed.sums).map_err(io)?;
        sync_dir("segment.dir-sync", &self.dir)?;
        failpoint("segment.finished", &path).map_err(io)?;
        let meta = SegmentMeta {
            id: self.id,
            table: self.table,
            rows: self.rows,
            data_len: summed.len,
            index_len,
            shape: self.shape,
            columns: std::mem::take(&mut self.columns),
            min_key: std::mem::take(&mut self.min_key),
            max_key: std::mem::take(&mut self.max_key),
        };
        // Finished: nothing to clean up.
        self.id = 0;
        Ok(meta)
    }
}

impl Drop for SegmentWriter {
    fn drop(&mut self) {
        if self.id != 0 {
            remove_files(&self.dir, self.id);
        }
    }
}
