//! Reading a segment's Parquet file with every block checked against its checksum, for the Parquet readers of both
//! kinds: sequential (compaction, `verify`) and asynchronous (queries).

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use bytes::Bytes;
use freshet_core::error::io_error;
use freshet_core::{Error, Result};
use futures::FutureExt;
use futures::future::BoxFuture;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder, RowSelection,
};
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::errors::ParquetError;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};
use parquet::file::reader::{ChunkReader, Length};

use super::codec::CORRUPT_HINT;
use super::index::{Directory, SUM_BLOCK, block_sum, read_at};
use super::segment::Segment;

/// Reads of one segment's Parquet file, checked. Cheap to clone.
#[derive(Clone)]
pub struct SegmentReader(Arc<Inner>);

struct Inner {
    segment: Arc<Segment>,
    file: File,
    path: PathBuf,
    directory: Arc<Directory>,
    /// The last block that was checked: small reads follow one another.
    last: Mutex<Option<(u64, Bytes)>>,
}

const METADATA: u64 = u64::MAX - 2;

impl SegmentReader {
    /// Opens the file.
    ///
    /// # Errors
    /// `Corrupt` when the file has another length than when it was written, or the index file is broken.
    pub fn open(segment: &Arc<Segment>) -> Result<SegmentReader> {
        let path = segment.data_path();
        let directory = segment.with_index(|i| i.directory())?;
        let file = File::open(&path).map_err(|e| io_error(&path, "open a segment", e))?;
        let len = file.metadata().map_err(|e| io_error(&path, "read a segment", e))?.len();
        if len != directory.data_len || len != segment.meta.data_len {
            return Err(Error::corrupt(format!("a segment has {len} bytes in place of {}", segment.meta.data_len))
                .with("file", path.display())
                .hint(CORRUPT_HINT));
        }
        let segment = Arc::clone(segment);
        Ok(SegmentReader(Arc::new(Inner { segment, file, path, directory, last: Mutex::default() })))
    }

    /// Bytes of the file.
    pub fn bytes(&self) -> u64 {
        self.0.directory.data_len
    }

    /// These bytes of the file, checked.
    ///
    /// # Errors
    /// `Corrupt` when a block fails its checksum.
    pub fn read(&self, range: Range<u64>) -> Result<Bytes> {
        let inner = &self.0;
        let block = SUM_BLOCK as u64;
        if range.start > range.end || range.end > inner.directory.data_len {
            return Err(Error::corrupt("a segment's metadata points outside of the file")
                .with("file", inner.path.display())
                .hint(CORRUPT_HINT));
        }
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let (first, end) = (range.start / block, range.end.div_ceil(block));
        let lock = || inner.last.lock().unwrap_or_else(PoisonError::into_inner);
        if end - first == 1
            && let Some((at, bytes)) = &*lock()
            && *at == first
        {
            return Ok(bytes.slice((range.start - first * block) as usize..(range.end - first * block) as usize));
        }
        let from = first * block;
        let to = (end * block).min(inner.directory.data_len);
        let bytes = read_at(&inner.file, &inner.path, from, (to - from) as usize, "a segment")?;
        for (i, part) in bytes.chunks(SUM_BLOCK).enumerate() {
            let n = first as usize + i;
            if inner.directory.sums.get(n) != Some(&block_sum(part)) {
                return Err(Error::corrupt("a segment fails its checksum")
                    .with("bytes", format!("{} to {}", n * SUM_BLOCK, n * SUM_BLOCK + part.len()))
                    .with("file", inner.path.display())
                    .hint(CORRUPT_HINT));
            }
        }
        let bytes = Bytes::from(bytes);
        if end - first == 1 {
            *lock() = Some((first, bytes.clone()));
        }
        Ok(bytes.slice((range.start - from) as usize..(range.end - from) as usize))
    }

    /// The file's metadata with its page indexes, cached.
    ///
    /// # Errors
    /// As [`SegmentReader::read`].
    pub fn metadata(&self) -> Result<Arc<ParquetMetaData>> {
        self.0.segment.cache.get((self.0.segment.meta.id, METADATA), || {
            let metadata = ParquetMetaDataReader::new()
                .with_page_index_policy(PageIndexPolicy::Optional)
                .parse_and_finish(self)
                .map_err(|e| from_parquet(e, &self.0.path))?;
            let bytes = metadata.memory_size();
            Ok((Arc::new(metadata), bytes))
        })
    }

    /// The selected rows (all without a selection), batch by batch, columns by id.
    pub(crate) fn batches(&self, selection: Option<RowSelection>, batch_rows: usize) -> Result<Batches> {
        self.batches_of(None, selection, batch_rows)
    }

    /// [`SegmentReader::batches`] of the columns with these ids.
    pub(crate) fn batches_of(
        &self,
        columns: Option<&[u32]>,
        selection: Option<RowSelection>,
        batch_rows: usize,
    ) -> Result<Batches> {
        let fail = |e| from_parquet(e, &self.0.path);
        let metadata = ArrowReaderMetadata::try_new(self.metadata()?, ArrowReaderOptions::new()).map_err(fail)?;
        let mut builder =
            ParquetRecordBatchReaderBuilder::new_with_metadata(self.clone(), metadata).with_batch_size(batch_rows);
        if let Some(ids) = columns {
            let schema = builder.parquet_schema();
            let named = |n: &str| n.strip_prefix('c').and_then(|n| n.parse().ok()).is_some_and(|id| ids.contains(&id));
            let roots = schema.root_schema().get_fields().iter().enumerate().filter(|(_, f)| named(f.name()));
            let mask = ProjectionMask::roots(schema, roots.map(|(i, _)| i).collect::<Vec<_>>());
            builder = builder.with_projection(mask);
        }
        if let Some(selection) = selection {
            builder = builder.with_row_selection(selection);
        }
        Ok(Batches { reader: builder.build().map_err(fail)?, path: self.0.path.clone() })
    }
}

/// Batches of a segment's rows.
pub(crate) struct Batches {
    reader: ParquetRecordBatchReader,
    path: PathBuf,
}

impl Iterator for Batches {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = self.reader.next()?;
        Some(batch.map_err(|e| match e {
            arrow::error::ArrowError::ExternalError(inner) => from_external(inner, &self.path),
            // The Parquet reader renders our error into its own text.
            other => Error::corrupt("a segment cannot be read").with("file", self.path.display()).because(other),
        }))
    }
}

/// The error that [`SegmentReader`] gave to the Parquet reader, or the reader's own.
pub fn from_parquet(e: ParquetError, path: &std::path::Path) -> Error {
    match e {
        ParquetError::External(inner) => from_external(inner, path),
        other => Error::corrupt("a segment cannot be read").with("file", path.display()).because(other),
    }
}

fn from_external(inner: Box<dyn std::error::Error + Send + Sync>, path: &std::path::Path) -> Error {
    match inner.downcast::<Error>() {
        Ok(ours) => *ours,
        Err(other) => Error::corrupt("a segment cannot be read").with("file", path.display()).because(other),
    }
}

fn external(e: Error) -> ParquetError {
    ParquetError::External(Box::new(e))
}

impl Length for SegmentReader {
    fn len(&self) -> u64 {
        self.bytes()
    }
}

impl ChunkReader for SegmentReader {
    type T = Sequential;

    fn get_read(&self, start: u64) -> Result<Sequential, ParquetError> {
        Ok(Sequential { reader: self.clone(), at: start })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        self.read(start..start + length as u64).map_err(external)
    }
}

/// Reads on from a place in the file.
pub struct Sequential {
    reader: SegmentReader,
    at: u64,
}

impl Read for Sequential {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let block_end = (self.at / SUM_BLOCK as u64 + 1) * SUM_BLOCK as u64;
        let end = block_end.min(self.reader.bytes()).min(self.at + out.len() as u64).max(self.at);
        let bytes = self.reader.read(self.at..end).map_err(std::io::Error::other)?;
        out[..bytes.len()].copy_from_slice(&bytes);
        self.at = end;
        Ok(bytes.len())
    }
}

impl AsyncFileReader for SegmentReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        async move { self.read(range).map_err(external) }.boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>, ParquetError>> {
        async move { self.metadata().map_err(external) }.boxed()
    }
}
