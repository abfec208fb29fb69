//! What can be done for a write before its turn comes, on the caller's thread: check the rows against the table, encode
//! and sort the keys, keep the last row per key (of a multiset: let deletes meet rows of the same write), and encode the
//! rows for the log or write them as a segment.

use std::cmp::Ordering;
use std::collections::HashMap;

use arrow::array::{Array, ArrayRef, Int8Array, RecordBatch, UInt32Array};
use arrow::compute::{concat, take};
use freshet_core::batch::OP_DELETE;
use freshet_core::{Error, Result, TableName};

use super::block;
use super::engine::Shared;
use super::key::{self, Keys};
use super::segment::{Segment, SegmentWriter};
use super::version::Seen;
use crate::catalog::{Model, Table};
use std::sync::Arc;

/// Rows for one table.
#[derive(Debug, Clone)]
pub struct TableWrite {
    pub table: TableName,
    /// All columns of the table by name, in any order, with the table's Arrow types.
    pub rows: RecordBatch,
    /// One per row (`OP_UPSERT`, `OP_DELETE`), `None`: all are upserts. In a delete only the key counts; of a multiset
    /// it removes one row that is equal.
    pub ops: Option<Int8Array>,
    /// Columns may be absent (not the key's); upserts take their values from rows that exist.
    pub partial: Option<Partial>,
    /// The rows were found in this state of the table, and mean something only as long as it lasts.
    pub seen: Option<Seen>,
}

impl TableWrite {
    /// Of whole rows, whatever the table holds.
    pub fn new(table: TableName, rows: RecordBatch, ops: Option<Int8Array>) -> Self {
        TableWrite { table, rows, ops, partial: None, seen: None }
    }
}

/// Where the values of absent columns come from.
#[derive(Debug, Clone)]
pub struct Partial {
    /// For each row the key of the row that it takes them from, as it was before the transaction; `None`: its own key.
    pub bases: Option<Vec<ArrayRef>>,
    /// Whether it is an error that this row does not exist; otherwise the upsert is left out.
    pub exact: bool,
}

/// A write that waits for its turn.
pub(crate) struct Prepared {
    pub(crate) table: u64,
    /// The definition that it was checked against.
    pub(crate) version: u32,
    /// The state of the table in which the rows were found; `None`: they mean the same in any.
    pub(crate) seen: Option<Seen>,
    /// Whose live rows die, ascending, each once: every key that is written or deleted; of a multiset, hashes of the
    /// rows that are deleted.
    pub(crate) keys: Keys,
    /// How the new rows are found later.
    pub(crate) puts: Puts,
    pub(crate) rows: Option<NewRows>,
}

pub(crate) enum Puts {
    /// They are not: a Duplicate Key table.
    Nowhere,
    /// By the keys at these places in `keys`, one for each row.
    Keyed(Vec<u32>),
    Multiset {
        /// Of each of `keys`, how many rows die.
        deletes: Vec<u32>,
        /// One for each new row.
        hashes: Keys,
    },
}

pub(crate) enum NewRows {
    /// For the delta: columns by id, and as bytes for the log.
    Delta(RecordBatch, Vec<u8>),
    Segment(Arc<Segment>),
}

/// Prepares the writes to one table, in their order. `staged`: they stay outside of the delta, however few.
///
/// # Errors
/// `Data` or `Schema`, naming table and column, when the rows do not fit; `Unsupported` for a delete from a Duplicate Key
/// table; `Io` when a segment cannot be written.
pub(crate) fn prepare(shared: &Shared, table: &Arc<Table>, writes: &[&TableWrite], staged: bool) -> Result<Prepared> {
    let at_table = |e: Error| e.with("table", &table.name);
    let (columns, deleted) = joined(table, writes).map_err(at_table)?;
    if table.model == Model::Duplicate && deleted.contains(&true) {
        return Err(at_table(
            Error::unsupported("rows cannot be deleted from a Duplicate Key table").hint("use a UNIQUE KEY table"),
        ));
    }
    let keys = key::of_rows(table, &columns)?;
    let seen = writes.iter().find_map(|w| w.seen);
    let mut prepared = Prepared {
        table: table.id,
        version: table.version,
        seen,
        keys: Keys::default(),
        puts: Puts::Nowhere,
        rows: None,
    };
    let places = match table.model {
        Model::Multiset => multiset(&mut prepared, &keys, &deleted),
        Model::Duplicate => order(&keys, table.model, deleted.len()),
        Model::Unique => {
            let (sorted, puts, places) = sorted(&keys, &deleted);
            (prepared.keys, prepared.puts) = (sorted, Puts::Keyed(puts));
            places
        }
    };
    if !places.is_empty() {
        let in_order = places.len() == deleted.len() && places.iter().zip(0..).all(|(a, b)| *a == b);
        let columns = if in_order { columns } else { pick(&columns, &places)? };
        check_nulls(table, &columns).map_err(at_table)?;
        let rows = RecordBatch::try_new(table.stored_schema(), columns)
            .map_err(|e| at_table(Error::internal("rows do not fit their table").because(e)))?;
        prepared.rows = Some(match few(shared, &rows) && !staged {
            true => {
                let mut bytes = Vec::new();
                block::encode(&rows, &mut bytes)?;
                NewRows::Delta(rows, bytes)
            }
            false => {
                let mut mine = Keys::default();
                places.iter().for_each(|i| mine.push(keys.get(*i as usize)));
                NewRows::Segment(segment(shared, table, &rows, &mine).map_err(at_table)?)
            }
        });
    }
    Ok(prepared)
}

/// [`prepare`] of many rows of a Unique Key table, which come in pieces: each in a range of keys behind the last one's, so
/// that only one is in memory.
///
/// # Errors
/// As [`prepare`], and those of the pieces.
pub(crate) fn prepare_pieces(
    shared: &Shared,
    table: &Arc<Table>,
    expected: usize,
    pieces: impl Iterator<Item = Result<Vec<TableWrite>>>,
) -> Result<Prepared> {
    let at_table = |e: Error| e.with("table", &table.name);
    let mut writer = SegmentWriter::create(&shared.segment_dir, shared.next_segment_id(), table, expected)?;
    let (mut keys, mut puts, mut seen) = (Keys::default(), Vec::new(), None);
    for piece in pieces {
        let piece = piece?;
        seen = seen.or(piece.iter().find_map(|w| w.seen));
        let (columns, deleted) = joined(table, &piece.iter().collect::<Vec<_>>()).map_err(at_table)?;
        let unsorted = key::of_rows(table, &columns)?;
        let (mine, mine_put, places) = sorted(&unsorted, &deleted);
        let columns = pick(&columns, &places)?;
        check_nulls(table, &columns).map_err(at_table)?;
        let rows = RecordBatch::try_new(table.stored_schema(), columns)
            .map_err(|e| at_table(Error::internal("rows do not fit their table").because(e)))?;
        let mut put_keys = Keys::default();
        mine_put.iter().for_each(|k| put_keys.push(mine.get(*k as usize)));
        writer.write(&rows, &put_keys).map_err(at_table)?;
        let first = keys.len() as u32;
        puts.extend(mine_put.iter().map(|k| first + k));
        (0..mine.len()).for_each(|k| keys.push(mine.get(k)));
    }
    let rows = if puts.is_empty() { None } else { Some(NewRows::Segment(finished(shared, writer)?)) };
    Ok(Prepared { table: table.id, version: table.version, seen, keys, puts: Puts::Keyed(puts), rows })
}

/// The columns of all writes, one behind the other, and which rows are deletes.
fn joined(table: &Table, writes: &[&TableWrite]) -> Result<(Vec<ArrayRef>, Vec<bool>)> {
    let mut parts = writes.iter().map(|w| columns(table, &w.rows)).collect::<Result<Vec<_>>>()?;
    let deleted = |w: &&TableWrite| -> Vec<bool> {
        match &w.ops {
            Some(ops) => ops.iter().map(|op| op == Some(OP_DELETE)).collect(),
            None => vec![false; w.rows.num_rows()],
        }
    };
    let deleted = writes.iter().flat_map(deleted).collect();
    if parts.len() == 1 {
        return Ok((parts.remove(0), deleted));
    }
    let column = |i: usize| {
        let arrays: Vec<&dyn Array> = parts.iter().map(|p| p[i].as_ref()).collect();
        concat(&arrays).map_err(|e| Error::internal("writes to one table cannot be joined").because(e))
    };
    Ok(((0..table.columns.len()).map(column).collect::<Result<Vec<_>>>()?, deleted))
}

/// All keys in order, each once; the places in them of the rows that are put; and the places of those rows, of each key
/// the last one.
fn sorted(keys: &Keys, deleted: &[bool]) -> (Keys, Vec<u32>, Vec<u32>) {
    let (mut sorted, mut puts, mut places) = (Keys::default(), Vec::new(), Vec::new());
    for (n, i) in order(keys, Model::Unique, deleted.len()).into_iter().enumerate() {
        sorted.push(keys.get(i as usize));
        if !deleted[i as usize] {
            puts.push(n as u32);
            places.push(i);
        }
    }
    (sorted, puts, places)
}

/// A delete takes away the last equal row of the same write in front of it; only if there is none, one that was there
/// before. Returns the places of the rows that stay.
fn multiset(prepared: &mut Prepared, hashes: &Keys, deleted: &[bool]) -> Vec<u32> {
    let mut places: Vec<u32> = (0..deleted.len() as u32).collect();
    let mut before: Vec<u32> = Vec::new();
    if deleted.contains(&true) {
        let mut open: HashMap<&[u8], Vec<u32>> = HashMap::new();
        let mut stays: Vec<bool> = deleted.iter().map(|d| !d).collect();
        for (i, deleted) in deleted.iter().enumerate() {
            let hash = hashes.get(i);
            match (deleted, open.get_mut(hash)) {
                (false, Some(same)) => same.push(i as u32),
                (false, None) => drop(open.insert(hash, vec![i as u32])),
                (true, same) => match same.and_then(Vec::pop) {
                    Some(put) => stays[put as usize] = false,
                    None => before.push(i as u32),
                },
            }
        }
        places.retain(|i| stays[*i as usize]);
    }
    before.sort_unstable_by(|a, b| hashes.get(*a as usize).cmp(hashes.get(*b as usize)));
    let mut deletes: Vec<u32> = Vec::new();
    for i in before {
        let hash = hashes.get(i as usize);
        match deletes.last_mut() {
            Some(n) if prepared.keys.get(prepared.keys.len() - 1) == hash => *n += 1,
            _ => {
                prepared.keys.push(hash);
                deletes.push(1);
            }
        }
    }
    let mut mine = Keys::default();
    places.iter().for_each(|i| mine.push(hashes.get(*i as usize)));
    prepared.puts = Puts::Multiset { deletes, hashes: mine };
    places
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

fn pick(columns: &[ArrayRef], places: &[u32]) -> Result<Vec<ArrayRef>> {
    let places = UInt32Array::from(places.to_vec());
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
fn few(shared: &Shared, rows: &RecordBatch) -> bool {
    let options = &shared.options;
    rows.num_rows() < options.direct_rows && rows.get_array_memory_size() < options.direct_bytes
}

fn segment(shared: &Shared, table: &Table, rows: &RecordBatch, keys: &Keys) -> Result<Arc<Segment>> {
    let mut writer = SegmentWriter::create(&shared.segment_dir, shared.next_segment_id(), table, rows.num_rows())?;
    writer.write(rows, keys)?;
    finished(shared, writer)
}

fn finished(shared: &Shared, writer: SegmentWriter) -> Result<Arc<Segment>> {
    let segment = Segment::new(writer.finish()?, shared);
    // Until the transaction is durable nobody needs the files.
    segment.retire();
    Ok(segment)
}
