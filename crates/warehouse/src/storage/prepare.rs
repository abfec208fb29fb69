//! What can be done for a write before its turn comes, on the caller's thread: check the rows against the table, encode
//! and sort the keys, keep the last row per key, and encode the rows for the log or write them as a segment.

use std::cmp::Ordering;

use arrow::array::{Array, ArrayRef, Int8Array, RecordBatch, UInt32Array};
use arrow::compute::take;
use freshet_core::batch::OP_DELETE;
use freshet_core::{Error, Result, TableName};

use super::block;
use super::engine::Shared;
use super::key::{self, Keys};
use super::segment::{Segment, SegmentWriter};
use crate::catalog::{Model, Table};
use std::sync::Arc;

/// Rows for one table.
#[derive(Debug, Clone)]
pub struct TableWrite {
    pub table: TableName,
    /// All columns of the table by name, in any order, with the table's Arrow types.
    pub rows: RecordBatch,
    /// One per row (`OP_UPSERT`, `OP_DELETE`), `None`: all are upserts. In a delete only the key counts.
    pub ops: Option<Int8Array>,
}

/// A write that waits for its turn.
pub(crate) struct Prepared {
    pub(crate) table: u64,
    /// The definition that it was checked against.
    pub(crate) version: u32,
    /// Every key that is written or deleted, ascending, each once; empty for a Duplicate Key table.
    pub(crate) keys: Keys,
    /// Places in `keys` of the rows, in their order.
    pub(crate) puts: Vec<u32>,
    pub(crate) rows: Option<NewRows>,
}

pub(crate) enum NewRows {
    /// For the delta: columns by id, and as bytes for the log.
    Delta(RecordBatch, Vec<u8>),
    Segment(Arc<Segment>),
}

/// Prepares a write.
///
/// # Errors
/// `Data` or `Schema`, naming table and column, when the rows do not fit; `Unsupported` for a delete from a Duplicate Key
/// table; `Io` when a segment cannot be written.
pub(crate) fn prepare(shared: &Shared, table: &Arc<Table>, write: &TableWrite) -> Result<Prepared> {
    let at_table = |e: Error| e.with("table", &write.table);
    let columns = columns(table, &write.rows).map_err(at_table)?;
    let deleted = |i: usize| write.ops.as_ref().is_some_and(|ops| ops.value(i) == OP_DELETE);
    if table.model == Model::Duplicate && (0..write.rows.num_rows()).any(deleted) {
        return Err(at_table(
            Error::unsupported("rows cannot be deleted from a Duplicate Key table").hint("use a UNIQUE KEY table"),
        ));
    }
    let keys = key::encode(&columns[..table.key_columns])?;
    let order = order(&keys, table.model, write.rows.num_rows());
    let mut sorted = Keys::default();
    let (mut puts, mut places) = (Vec::new(), Vec::new());
    for (n, i) in order.iter().enumerate() {
        sorted.push(if keys.len() == 0 { &[] } else { keys.get(*i as usize) });
        if !deleted(*i as usize) {
            puts.push(n as u32);
            places.push(*i);
        }
    }
    let mut prepared = Prepared { table: table.id, version: table.version, keys: sorted, puts, rows: None };
    if !places.is_empty() {
        let in_order = places.len() == write.rows.num_rows() && places.iter().zip(0..).all(|(a, b)| *a == b);
        let columns = if in_order { columns } else { pick(&columns, places)? };
        check_nulls(table, &columns).map_err(at_table)?;
        let rows = RecordBatch::try_new(table.stored_schema(), columns)
            .map_err(|e| at_table(Error::internal("rows do not fit their table").because(e)))?;
        prepared.rows = Some(store(shared, table, rows, &prepared).map_err(at_table)?);
    }
    if table.model == Model::Duplicate {
        (prepared.keys, prepared.puts) = (Keys::default(), Vec::new());
    }
    Ok(prepared)
}

/// The rows' columns in the table's order.
fn columns(table: &Table, rows: &RecordBatch) -> Result<Vec<ArrayRef>> {
    let mut out = Vec::with_capacity(table.columns.len());
    for column in &table.columns {
        let array = rows
            .column_by_name(&column.name)
            .ok_or_else(|| Error::schema(format!("no values for column {}", column.name)))?;
        let wanted = column.data_type.to_arrow();
        if *array.data_type() != wanted {
            return Err(Error::schema(format!(
                "column {} takes {} ({wanted}), not {}",
                column.name,
                column.data_type,
                array.data_type()
            )));
        }
        out.push(Arc::clone(array));
    }
    match rows.num_columns() == out.len() {
        true => Ok(out),
        false => {
            let unknown = rows.schema().fields().iter().find(|f| table.index_of(f.name()).is_none()).cloned();
            Err(Error::schema(format!(
                "the table has no column {}",
                unknown.map_or(String::new(), |f| f.name().clone())
            )))
        }
    }
}

/// Rows in the order of their keys; of equal keys of a Unique Key table only the last.
fn order(keys: &Keys, model: Model, rows: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..rows as u32).collect();
    if keys.len() == 0 {
        return order;
    }
    let key = |i: &u32| keys.get(*i as usize);
    if order.windows(2).any(|w| key(&w[0]) > key(&w[1])) {
        order.sort_unstable_by(|a, b| match key(a).cmp(key(b)) {
            Ordering::Equal => a.cmp(b),
            other => other,
        });
    }
    if model == Model::Unique {
        order.dedup_by(|later, kept| {
            let same = key(later) == key(kept);
            if same {
                *kept = *later;
            }
            same
        });
    }
    order
}

fn pick(columns: &[ArrayRef], places: Vec<u32>) -> Result<Vec<ArrayRef>> {
    let places = UInt32Array::from(places);
    columns.iter().map(|c| take(c, &places, None).map_err(|e| Error::internal("cannot sort rows").because(e))).collect()
}

fn check_nulls(table: &Table, columns: &[ArrayRef]) -> Result<()> {
    match table.columns.iter().zip(columns).find(|(c, array)| !c.nullable && array.null_count() > 0) {
        None => Ok(()),
        Some((c, _)) => {
            Err(Error::data(format!("NULL in column {}, which is NOT NULL", c.name)).with("column", &c.name))
        }
    }
}

/// Few rows go into the delta, many become a segment at once.
fn store(shared: &Shared, table: &Table, rows: RecordBatch, prepared: &Prepared) -> Result<NewRows> {
    let options = &shared.options;
    if rows.num_rows() < options.direct_rows && rows.get_array_memory_size() < options.direct_bytes {
        let mut bytes = Vec::new();
        block::encode(&rows, &mut bytes)?;
        return Ok(NewRows::Delta(rows, bytes));
    }
    let unique = table.model == Model::Unique;
    let id = shared.next_segment_id();
    let mut writer =
        SegmentWriter::create(&shared.segment_dir, (id, table.id), rows.schema_ref(), unique, rows.num_rows())?;
    let mut keys = Keys::default();
    prepared.puts.iter().for_each(|i| keys.push(prepared.keys.get(*i as usize)));
    writer.write(&rows, &keys)?;
    let segment = Segment::new(writer.finish()?, &shared.segment_dir, &shared.cache);
    // Until the transaction is durable nobody needs the files.
    segment.retire();
    Ok(NewRows::Segment(segment))
}
