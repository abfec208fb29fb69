//! Rewrites the live rows of layers and segments as one new segment, sorted by key, in the table's current definition,
//! and notes where each row went, so that deletes that land meanwhile can be translated.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::{interleave_record_batch, take_record_batch};
use freshet_core::{Error, Result};
use parquet::arrow::arrow_reader::RowSelection;
use roaring::RoaringBitmap;
use std::sync::Arc;

use super::engine::Shared;
use super::key::{self, Keys};
use super::reader::SegmentReader;
use super::record::Place;
use super::segment::{SegmentMeta, SegmentWriter};
use super::value;
use super::version::{LayerView, SegmentView};
use crate::catalog::{Model, Table};

const BATCH_ROWS: usize = 8192;
/// The row was deleted before the merge began.
const GONE: u32 = u32::MAX;

/// Something to be merged.
pub(crate) enum Input {
    Layer(LayerView),
    Segment(SegmentView),
}

impl Input {
    pub(crate) fn place(&self) -> Place {
        match self {
            Input::Layer(l) => Place::Layer(l.id),
            Input::Segment(s) => Place::Segment(s.segment.meta.id),
        }
    }

    fn rows(&self) -> u32 {
        match self {
            Input::Layer(l) => l.rows,
            Input::Segment(s) => s.rows(),
        }
    }

    fn dead(&self) -> &Arc<RoaringBitmap> {
        match self {
            Input::Layer(l) => &l.dead,
            Input::Segment(s) => &s.deletes,
        }
    }
}

/// Where the rows of an input went.
pub(crate) struct Moved {
    pub(crate) place: Place,
    /// The rows that were dead when the merge began.
    pub(crate) dead: Arc<RoaringBitmap>,
    /// The new row of each old row.
    to: Vec<u32>,
}

impl Moved {
    /// The new row of an old one that was live when the merge began.
    pub(crate) fn new_row(&self, row: u32) -> Option<u32> {
        self.to.get(row as usize).copied().filter(|r| *r != GONE)
    }

    /// The new rows of those that have died since the merge began.
    pub(crate) fn late(&self, dead_now: &RoaringBitmap) -> impl Iterator<Item = u32> {
        (dead_now - self.dead.as_ref()).into_iter().filter_map(|row| self.new_row(row))
    }
}

/// Sorted rows with their keys and their ordinals in the input.
struct Batch {
    rows: RecordBatch,
    keys: Keys,
    ordinals: Vec<u32>,
}

/// Merges; no segment when no row is live.
pub(crate) fn merge(shared: &Shared, table: &Table, inputs: &[Input]) -> Result<(Option<SegmentMeta>, Vec<Moved>)> {
    let live = |i: &Input| (u64::from(i.rows()) - i.dead().len()) as usize;
    let expected: usize = inputs.iter().map(live).sum();
    let mut moved: Vec<Moved> = inputs
        .iter()
        .map(|i| Moved { place: i.place(), dead: Arc::clone(i.dead()), to: vec![GONE; i.rows() as usize] })
        .collect();
    if expected == 0 {
        return Ok((None, moved));
    }
    let mut streams = inputs.iter().map(|i| stream(table, i)).collect::<Result<Vec<_>>>()?;
    let id = shared.next_segment_id();
    let mut writer = SegmentWriter::create(&shared.segment_dir, id, table, expected)?;
    // A multiset's rows stay in the order of the inputs.
    let order =
        |keys: &Keys, at: usize| if table.model == Model::Multiset { Vec::new() } else { keys.get(at).to_vec() };

    let mut current: Vec<Option<Batch>> = Vec::new();
    let mut heap = BinaryHeap::new();
    for (i, s) in streams.iter_mut().enumerate() {
        let batch = s.next().transpose()?;
        if let Some(batch) = &batch {
            heap.push(Reverse((order(&batch.keys, 0), i, 0)));
        }
        current.push(batch);
    }
    let mut out = Output::default();
    while let Some(Reverse((_, i, start))) = heap.pop() {
        shared.check_running()?;
        let Some(batch) = &current[i] else { continue };
        // A run: all rows of this stream that come before the next stream's first.
        let mut end = start + 1;
        let n = batch.keys.len();
        let first = |at: usize, next: &(Vec<u8>, usize, usize)| match table.model {
            Model::Multiset => i < next.1,
            _ => (batch.keys.get(at), i) < (next.0.as_slice(), next.1),
        };
        while end < n && heap.peek().is_none_or(|Reverse(next)| first(end, next)) {
            end += 1;
        }
        for at in start..end {
            moved[i].to[batch.ordinals[at] as usize] = writer.rows() + out.places.len() as u32;
            out.push(i, at, batch.keys.get(at));
        }
        if out.places.len() >= BATCH_ROWS || end == n {
            out.flush(&mut writer, &current)?;
        }
        let at = if end < n {
            end
        } else {
            current[i] = streams[i].next().transpose()?;
            0
        };
        if let Some(batch) = &current[i] {
            heap.push(Reverse((order(&batch.keys, at), i, at)));
        }
    }
    out.flush(&mut writer, &current)?;
    Ok((Some(writer.finish()?), moved))
}

/// Rows that are to be written next.
#[derive(Default)]
struct Output {
    places: Vec<(usize, usize)>,
    keys: Keys,
}

impl Output {
    fn push(&mut self, stream: usize, at: usize, key: &[u8]) {
        self.places.push((stream, at));
        self.keys.push(key);
    }

    fn flush(&mut self, writer: &mut SegmentWriter, current: &[Option<Batch>]) -> Result<()> {
        if self.places.is_empty() {
            return Ok(());
        }
        let (first, n) = (self.places[0], self.places.len());
        let last = self.places[n - 1];
        let one_run = self.places.iter().all(|p| p.0 == first.0) && last.1 - first.1 + 1 == n;
        if let (true, Some(batch)) = (one_run, &current[first.0]) {
            writer.write(&batch.rows.slice(first.1, n), &self.keys)?;
        } else {
            let mut batches = Vec::new();
            let mut index = vec![0; current.len()];
            for (i, batch) in current.iter().enumerate() {
                if let Some(batch) = batch {
                    index[i] = batches.len();
                    batches.push(&batch.rows);
                }
            }
            let places: Vec<_> = self.places.iter().map(|(i, at)| (index[*i], *at)).collect();
            let rows = interleave_record_batch(&batches, &places)
                .map_err(|e| Error::internal("cannot merge rows").because(e))?;
            writer.write(&rows, &self.keys)?;
        }
        self.places.clear();
        self.keys = Keys::default();
        Ok(())
    }
}

type Stream = Box<dyn Iterator<Item = Result<Batch>>>;

fn stream(table: &Table, input: &Input) -> Result<Stream> {
    match input {
        Input::Layer(layer) => Ok(Box::new(sorted_layer(table, layer)?.into_iter().map(Ok))),
        Input::Segment(view) => {
            let live = view.live();
            let ordinals: Vec<u32> = live.set_indices_u32().collect();
            let selection = (!view.deletes.is_empty()).then(|| RowSelection::from_boolean_buffer(live));
            let mut done = 0;
            let table = table.clone();
            let batches = SegmentReader::open(&view.segment)?.batches(selection, BATCH_ROWS)?;
            let batches = batches.map(move |batch| {
                let batch = batch?;
                let mine = ordinals.get(done..done + batch.num_rows());
                let mine = mine.ok_or_else(|| Error::corrupt("a segment holds more rows than its manifest says"))?;
                done += batch.num_rows();
                current(&table, &batch, mine.to_vec())
            });
            Ok(Box::new(batches.filter(|b| !matches!(b, Ok(b) if b.ordinals.is_empty()))))
        }
    }
}

/// Rows in the table's current definition, with their keys.
fn current(table: &Table, rows: &RecordBatch, ordinals: Vec<u32>) -> Result<Batch> {
    let columns = table.columns.iter().map(|c| value::column_of(c, rows)).collect::<Result<Vec<ArrayRef>>>()?;
    let keys = key::of_rows(table, &columns)?;
    let rows = RecordBatch::try_new(table.stored_schema(), columns)
        .map_err(|e| Error::internal("stored rows do not fit their table").with("table", &table.name).because(e))?;
    Ok(Batch { rows, keys, ordinals })
}

fn sorted_layer(table: &Table, layer: &LayerView) -> Result<Option<Batch>> {
    let mut parts = Vec::new();
    let mut ordinals = Vec::new();
    for chunk in &layer.chunks {
        let rows = layer.live(chunk)?;
        let all = chunk.first..chunk.first + chunk.rows.num_rows() as u32;
        ordinals.extend(all.filter(|o| !layer.dead.contains(*o)));
        parts.push(current(table, &rows, Vec::new())?.rows);
    }
    if ordinals.is_empty() {
        return Ok(None);
    }
    let rows = arrow::compute::concat_batches(&table.stored_schema(), &parts)
        .map_err(|e| Error::internal("cannot merge rows").because(e))?;
    let keys = key::of_rows(table, rows.columns())?;
    if table.model == Model::Multiset {
        return Ok(Some(Batch { rows, keys, ordinals }));
    }
    let mut order: Vec<u32> = (0..rows.num_rows() as u32).collect();
    order.sort_by(|a, b| keys.get(*a as usize).cmp(keys.get(*b as usize)));
    let mut sorted = Keys::default();
    order.iter().for_each(|i| sorted.push(keys.get(*i as usize)));
    let ordinals = order.iter().map(|i| ordinals[*i as usize]).collect();
    let rows = take_record_batch(&rows, &UInt32Array::from(order))
        .map_err(|e| Error::internal("cannot sort rows").because(e))?;
    Ok(Some(Batch { rows, keys: sorted, ordinals }))
}
