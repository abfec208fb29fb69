//! Versions: one immutable picture of the catalog and of all rows. A commit makes a new one out of the last, sharing
//! all that it does not touch, and publishes it by exchanging one pointer; a reader keeps the one that it has taken.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use arrow::array::{BooleanArray, BooleanBufferBuilder, RecordBatch};
use arrow::buffer::BooleanBuffer;
use arrow::compute::filter_record_batch;
use freshet_core::{Error, Result, TableName};
use roaring::RoaringBitmap;

use super::reader::SegmentReader;
use super::segment::Segment;
use super::value;
use crate::catalog::{Catalog, Table};

/// A segment and which of its rows are deleted in this version.
#[derive(Debug, Clone)]
pub struct SegmentView {
    pub segment: Arc<Segment>,
    pub deletes: Arc<RoaringBitmap>,
}

impl SegmentView {
    /// All rows in the file.
    pub fn rows(&self) -> u32 {
        self.segment.meta.rows
    }

    /// Rows that are not deleted.
    pub fn live_rows(&self) -> u64 {
        u64::from(self.rows()) - self.deletes.len()
    }

    /// Whether the file has the column of this id.
    pub fn has_column(&self, id: u32) -> bool {
        self.segment.meta.columns.contains(&id)
    }

    /// A checked reader of the Parquet file.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub fn open(&self) -> Result<SegmentReader> {
        SegmentReader::open(&self.segment)
    }

    /// One bit per row of the file: whether it is live.
    pub fn live(&self) -> BooleanBuffer {
        live_mask(&self.deletes, 0, self.rows() as usize)
    }
}

/// One bit for each of `rows` rows from `first` on: set but for those in `dead`.
pub(crate) fn live_mask(dead: &RoaringBitmap, first: u32, rows: usize) -> BooleanBuffer {
    let mut mask = BooleanBufferBuilder::new(rows);
    mask.append_n(rows, true);
    if rows > 0 {
        let last = first + (rows - 1) as u32;
        dead.range(first..=last).for_each(|row| mask.set_bit((row - first) as usize, false));
    }
    mask.finish()
}

/// Rows of a layer with columns by id; their ordinals in the layer follow one another.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) first: u32,
    pub(crate) rows: RecordBatch,
}

/// A layer of the delta: rows in memory, by ordinal.
#[derive(Debug, Clone)]
pub(crate) struct LayerView {
    pub(crate) id: u64,
    pub(crate) chunks: Vec<Arc<Chunk>>,
    pub(crate) rows: u32,
    pub(crate) bytes: usize,
    pub(crate) dead: Arc<RoaringBitmap>,
}

/// A table in one version.
#[derive(Debug)]
pub struct TableView {
    pub table: Arc<Table>,
    pub segments: Vec<SegmentView>,
    pub(crate) layers: Vec<LayerView>,
    /// Rows that a reader sees, exactly.
    pub live_rows: u64,
    /// The last transaction of this process that changed its rows; flush and compaction do not.
    pub(crate) written: u64,
    delta: OnceLock<Vec<RecordBatch>>,
}

impl Clone for TableView {
    fn clone(&self) -> Self {
        TableView {
            table: Arc::clone(&self.table),
            segments: self.segments.clone(),
            layers: self.layers.clone(),
            live_rows: self.live_rows,
            written: self.written,
            delta: OnceLock::new(),
        }
    }
}

/// A table in one state of its rows, by which a later write tells whether that lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    table: u64,
    written: u64,
}

/// Chunks of a layer grow to this many rows by merging with their neighbour.
const CHUNK_ROWS: usize = 8192;

impl TableView {
    pub(crate) fn new(table: Arc<Table>) -> Self {
        TableView { table, segments: Vec::new(), layers: Vec::new(), live_rows: 0, written: 0, delta: OnceLock::new() }
    }

    /// The state of its rows.
    pub fn seen(&self) -> Seen {
        Seen { table: self.table.id, written: self.written }
    }

    /// The live rows in memory as rows of the table's current definition; computed once per version.
    ///
    /// # Errors
    /// `Data` when a value cannot be converted to the column's current type.
    pub fn delta(&self) -> Result<Vec<RecordBatch>> {
        if let Some(delta) = self.delta.get() {
            return Ok(delta.clone());
        }
        let mut out = Vec::new();
        for layer in &self.layers {
            for chunk in &layer.chunks {
                let rows = layer.live(chunk)?;
                if rows.num_rows() > 0 {
                    out.push(value::adapt(&self.table, &rows)?);
                }
            }
        }
        Ok(self.delta.get_or_init(|| out).clone())
    }

    /// Bytes in memory.
    pub fn delta_bytes(&self) -> usize {
        self.layers.iter().map(|l| l.bytes).sum()
    }

    /// Bytes of the files.
    pub fn file_bytes(&self) -> u64 {
        self.segments.iter().map(|s| s.segment.meta.data_len + s.segment.meta.index_len).sum()
    }

    pub(crate) fn recount(&mut self) {
        let layers: u64 = self.layers.iter().map(|l| u64::from(l.rows) - l.dead.len()).sum();
        self.live_rows = layers + self.segments.iter().map(SegmentView::live_rows).sum::<u64>();
    }
}

impl LayerView {
    pub(crate) fn new(id: u64) -> Self {
        LayerView { id, chunks: Vec::new(), rows: 0, bytes: 0, dead: Arc::default() }
    }

    /// The rows of a chunk that are not deleted, columns by id.
    pub(crate) fn live(&self, chunk: &Chunk) -> Result<RecordBatch> {
        let rows = chunk.rows.num_rows();
        let end = chunk.first + rows as u32;
        if rows == 0 || self.dead.range_cardinality(chunk.first..end) == 0 {
            return Ok(chunk.rows.clone());
        }
        let mask = BooleanArray::new(live_mask(&self.dead, chunk.first, rows), None);
        filter_record_batch(&chunk.rows, &mask).map_err(|e| Error::internal("cannot filter rows").because(e))
    }

    /// Appends rows as they are; [`LayerView::coalesce`] follows.
    pub(crate) fn append_plain(&mut self, rows: RecordBatch) {
        self.bytes += rows.get_array_memory_size();
        let first = self.rows;
        self.rows += rows.num_rows() as u32;
        self.chunks.push(Arc::new(Chunk { first, rows }));
    }

    /// Merges neighbours to chunks of a good size, all at once.
    pub(crate) fn coalesce(&mut self) -> Result<()> {
        let chunks = std::mem::take(&mut self.chunks);
        let mut rest = chunks.as_slice();
        while let Some(first) = rest.first() {
            let mut rows = 0;
            let fits = |c: &&Arc<Chunk>| {
                rows += c.rows.num_rows();
                rows <= CHUNK_ROWS && c.rows.schema_ref() == first.rows.schema_ref()
            };
            let n = rest.iter().take_while(fits).count().max(1);
            let (mine, behind) = rest.split_at(n);
            rest = behind;
            self.chunks.push(match mine {
                [one] => Arc::clone(one),
                many => {
                    let merged = arrow::compute::concat_batches(first.rows.schema_ref(), many.iter().map(|c| &c.rows))
                        .map_err(|e| Error::internal("cannot merge rows").because(e))?;
                    Arc::new(Chunk { first: first.first, rows: merged })
                }
            });
        }
        self.bytes = self.chunks.iter().map(|c| c.rows.get_array_memory_size()).sum();
        Ok(())
    }

    /// Appends rows, merging small neighbours so that readers meet few chunks.
    pub(crate) fn append(&mut self, rows: RecordBatch) -> Result<()> {
        self.bytes += rows.get_array_memory_size();
        let mut chunk = Chunk { first: self.rows, rows };
        self.rows += chunk.rows.num_rows() as u32;
        while let Some(last) = self.chunks.last() {
            let (a, b) = (last.rows.num_rows(), chunk.rows.num_rows());
            if a > 2 * b || a + b > CHUNK_ROWS || last.rows.schema_ref() != chunk.rows.schema_ref() {
                break;
            }
            let merged = arrow::compute::concat_batches(last.rows.schema_ref(), [&last.rows, &chunk.rows])
                .map_err(|e| Error::internal("cannot merge rows").because(e))?;
            chunk = Chunk { first: last.first, rows: merged };
            self.chunks.pop();
        }
        self.chunks.push(Arc::new(chunk));
        Ok(())
    }
}

/// One version of everything.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Number of the last transaction in it.
    pub version: u64,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) views: HashMap<u64, Arc<TableView>>,
    pub(crate) names: Arc<HashMap<TableName, u64>>,
}

impl Snapshot {
    /// Names of the databases, in order.
    pub fn databases(&self) -> impl Iterator<Item = &str> {
        self.catalog.databases.iter().map(String::as_str)
    }

    /// All tables, in the order of their creation.
    pub fn tables(&self) -> impl Iterator<Item = &Arc<TableView>> {
        self.catalog.tables.keys().filter_map(|id| self.views.get(id))
    }

    /// The table of that name.
    pub fn table(&self, name: &TableName) -> Option<&Arc<TableView>> {
        self.views.get(self.names.get(name)?)
    }
}
