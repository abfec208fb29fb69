//! Updates of some columns: the rows that the absent values come from are looked up as they are before the transaction,
//! and their values read, a page at most once, so that what is written are whole rows.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Int8Array, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::{concat, filter, filter_record_batch, take, take_record_batch};
use arrow::datatypes::{Field, Schema};
use freshet_core::batch::OP_DELETE;
use freshet_core::{Error, Result, text};
use parquet::arrow::arrow_reader::RowSelection;

use super::key::{self, Keys};
use super::prepare::{Partial, TableWrite};
use super::record::Place;
use super::value::{self, Stored};
use super::version::TableView;
use super::writer::{Found, RESYNC};
use crate::catalog::{Model, Table, TableColumn};

const BATCH_ROWS: usize = 8192;

/// The keys of the rows that writes to one table take values from.
pub(crate) struct Bases {
    /// Ascending, each once.
    pub(crate) keys: Keys,
    /// For each write the place in `keys` for each row; `None`: it needs none. Empty for a write of whole rows.
    of: Vec<Vec<Option<u32>>>,
}

/// Which rows the partial ones of these writes need.
///
/// # Errors
/// `Unsupported` when the table has no unique key, `Schema` when the key's columns are absent.
pub(crate) fn bases<'a>(table: &Table, writes: impl Iterator<Item = &'a TableWrite>) -> Result<Bases> {
    if table.model != Model::Unique {
        return Err(Error::unsupported(
            "rows without all columns, and the table has no unique key to find the rest by",
        )
        .with("table", &table.name)
        .hint("let the source send full rows (MySQL: binlog_row_image=FULL)"));
    }
    let mut all = Vec::new();
    for write in writes {
        all.push(match &write.partial {
            Some(partial) => Some((key::encode(&base_columns(table, write, partial)?)?, write)),
            None => None,
        });
    }
    let mut order: Vec<(&[u8], usize, usize)> = Vec::new();
    for (n, (keys, write)) in all.iter().enumerate().filter_map(|(n, a)| Some((n, a.as_ref()?))) {
        let deleted = |i: &usize| write.ops.as_ref().is_some_and(|ops| ops.value(*i) == OP_DELETE);
        order.extend((0..keys.len()).filter(|i| !deleted(i)).map(|i| (keys.get(i), n, i)));
    }
    order.sort_unstable();
    let mut keys = Keys::default();
    let mut of: Vec<Vec<Option<u32>>> =
        all.iter().map(|a| vec![None; a.as_ref().map_or(0, |(keys, _)| keys.len())]).collect();
    let mut last = None;
    for (key, write, row) in order {
        if last != Some(key) {
            keys.push(key);
            last = Some(key);
        }
        of[write][row] = Some(keys.len() as u32 - 1);
    }
    Ok(Bases { keys, of })
}

/// The columns of the key that says for each row where its values come from.
fn base_columns(table: &Table, write: &TableWrite, partial: &Partial) -> Result<Vec<ArrayRef>> {
    let own = |c: &TableColumn| {
        let missing = || Error::schema(format!("no values for column {}", c.name)).with("table", &table.name);
        write.rows.column_by_name(&c.name).map(Arc::clone).ok_or_else(missing)
    };
    let columns = match &partial.bases {
        Some(bases) => bases.clone(),
        None => table.key().iter().map(own).collect::<Result<_>>()?,
    };
    let fits = columns.iter().zip(table.key()).all(|(a, c)| *a.data_type() == c.data_type.to_arrow());
    match fits && columns.len() == table.key_columns {
        true => Ok(columns),
        false => Err(Error::schema("the base keys do not fit the table's key").with("table", &table.name)),
    }
}

/// The writes with whole rows.
///
/// # Errors
/// `Data` when a row is not there that has to be; `Corrupt`, `Io`.
pub(crate) fn complete(writes: &[&TableWrite], bases: &Bases, found: &Found) -> Result<Vec<TableWrite>> {
    let one = |(write, of): (&&TableWrite, &Vec<Option<u32>>)| match &write.partial {
        None => Ok((*write).clone()),
        Some(partial) => whole(write, partial, of, found),
    };
    writes.iter().zip(&bases.of).map(one).collect()
}

/// How many whole rows are completed at once, for about so many bytes: what is wide has few.
pub(crate) fn piece_rows(view: &TableView, bytes: usize) -> usize {
    let layers: usize = view.layers.iter().map(|l| l.rows as usize).sum();
    let rows: usize = view.segments.iter().map(|s| s.rows() as usize).sum();
    // Files are compressed.
    let width = (view.delta_bytes() / layers.max(1)).max(view.file_bytes() as usize * 4 / rows.max(1)).max(64);
    (bytes / width).max(1)
}

/// The rows of the writes in pieces of so many, completed when they are asked for, one range of keys behind the other.
///
/// # Errors
/// As [`complete`].
pub(crate) fn pieces<'a>(
    writes: &'a [&'a TableWrite],
    bases: &'a Bases,
    found: &'a Found,
    rows: usize,
) -> Result<impl Iterator<Item = Result<Vec<TableWrite>>> + 'a> {
    let table = &found.view.table;
    let key_of = |w: &&TableWrite| {
        let missing = |c: &TableColumn| Error::schema(format!("no values for column {}", c.name));
        let column = |c: &TableColumn| w.rows.column_by_name(&c.name).map(Arc::clone).ok_or_else(|| missing(c));
        key::encode(&table.key().iter().map(column).collect::<Result<Vec<_>>>()?)
    };
    let keys = writes.iter().map(key_of).collect::<Result<Vec<_>>>().map_err(|e| e.with("table", &table.name))?;
    let mut order: Vec<(usize, u32)> =
        keys.iter().enumerate().flat_map(|(w, keys)| (0..keys.len() as u32).map(move |row| (w, row))).collect();
    let key = |(w, row): &(usize, u32)| keys[*w].get(*row as usize);
    order.sort_by(|a, b| key(a).cmp(key(b)));
    // Rows with one key stay together.
    let mut ends: Vec<usize> = (1..order.len()).filter(|i| i % rows == 0).collect();
    ends.iter_mut()
        .for_each(|end| *end -= order[..*end].iter().rev().take_while(|r| key(r) == key(&order[*end])).count());
    ends.push(order.len());
    ends.dedup();
    ends.retain(|end| *end > 0);
    drop(keys);
    let mut start = 0;
    Ok(ends.into_iter().map(move |end| {
        let mut mine: Vec<Vec<u32>> = vec![Vec::new(); writes.len()];
        order[std::mem::replace(&mut start, end)..end].iter().for_each(|(w, row)| mine[*w].push(*row));
        let mut out = Vec::new();
        for ((write, mine), of) in writes.iter().zip(mine).zip(&bases.of).filter(|((_, mine), _)| !mine.is_empty()) {
            // In the order that they had, so that the last row of a key is the last.
            let mut mine = mine;
            mine.sort_unstable();
            let of: Vec<_> = mine.iter().filter_map(|row| of.get(*row as usize).copied()).collect();
            let write = rows_at(write, &UInt32Array::from(mine))?;
            out.push(match &write.partial {
                None => write,
                Some(partial) => whole(&write, partial, &of, found)?,
            });
        }
        Ok(out)
    }))
}

/// Some rows of a write.
fn rows_at(write: &TableWrite, rows: &UInt32Array) -> Result<TableWrite> {
    let fail = |e| Error::internal("rows cannot be taken").with("table", &write.table).because(e);
    let take_ops = |ops: &Int8Array| -> Result<Int8Array> {
        let taken = take(ops, rows, None).map_err(fail)?;
        taken.as_any().downcast_ref().cloned().ok_or_else(|| Error::internal("operations are no longer bytes"))
    };
    let partial = match &write.partial {
        None => None,
        Some(Partial { bases, exact }) => {
            let taken = |b: &Vec<ArrayRef>| b.iter().map(|a| take(a, rows, None).map_err(fail)).collect::<Result<_>>();
            Some(Partial { bases: bases.as_ref().map(taken).transpose()?, exact: *exact })
        }
    };
    let ops = write.ops.as_ref().map(take_ops).transpose()?;
    let table = write.table.clone();
    Ok(TableWrite { table, rows: take_record_batch(&write.rows, rows).map_err(fail)?, ops, partial, seen: write.seen })
}

fn whole(write: &TableWrite, partial: &Partial, of: &[Option<u32>], found: &Found) -> Result<TableWrite> {
    let table = &found.view.table;
    let place = |k: u32| found.places[k as usize];
    let mut needed: Vec<u32> = of.iter().flatten().copied().filter(|k| place(*k).is_some()).collect();
    needed.sort_unstable();
    needed.dedup();
    let stays: BooleanArray = of.iter().map(|k| Some(k.is_none_or(|k| place(k).is_some()))).collect();
    if partial.exact
        && let Some(row) = stays.values().iter().position(|stays| !stays)
    {
        let base = base_columns(table, write, partial)?;
        let text = table.key().iter().zip(&base).map(|(c, a)| {
            let mut out = String::new();
            text::render_value(a.as_ref(), row, &c.data_type, &mut out).map(|_| out)
        });
        return Err(Error::data("a row of which some columns changed is not there")
            .with("key", text.collect::<Result<Vec<_>>>()?.join(", "))
            .with("table", &table.name)
            .hint(RESYNC));
    }
    let absent: Vec<&TableColumn> =
        table.columns.iter().filter(|c| write.rows.column_by_name(&c.name).is_none()).collect();
    let places: Vec<(Place, u32)> = needed.iter().filter_map(|k| place(*k)).collect();
    let mut values = fetch(&found.view, &absent, &places)?.into_iter();
    let at: UInt32Array =
        of.iter().map(|k| k.and_then(|k| needed.binary_search(&k).ok()).map(|at| at as u32)).collect();

    let fail = |e| Error::internal("rows cannot be completed").with("table", &table.name).because(e);
    let mut columns = Vec::with_capacity(table.columns.len());
    for column in &table.columns {
        columns.push(match write.rows.column_by_name(&column.name) {
            Some(array) => Arc::clone(array),
            None => {
                let read = values.next().ok_or_else(|| Error::internal("a column was not read"))?;
                take(&read, &at, None).map_err(fail)?
            }
        });
    }
    let fields: Vec<_> =
        table.columns.iter().zip(&columns).map(|(c, a)| Field::new(&c.name, a.data_type().clone(), true)).collect();
    let mut rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(fail)?;
    let mut ops = write.ops.clone();
    if stays.false_count() > 0 {
        rows = filter_record_batch(&rows, &stays).map_err(fail)?;
        let filtered = ops.map(|ops| filter(&ops, &stays)).transpose().map_err(fail)?;
        ops = filtered.and_then(|ops| ops.as_any().downcast_ref::<Int8Array>().cloned());
    }
    let seen = Some(found.view.seen());
    Ok(TableWrite { table: write.table.clone(), rows, ops, partial: None, seen })
}

/// The values of some columns in the rows at these places, in their order.
fn fetch(view: &TableView, columns: &[&TableColumn], places: &[(Place, u32)]) -> Result<Vec<ArrayRef>> {
    let mut order: Vec<u32> = (0..places.len() as u32).collect();
    order.sort_unstable_by_key(|i| places[*i as usize]);
    let mut parts: Vec<Vec<ArrayRef>> = vec![Vec::new(); columns.len()];
    let mut rest = order.as_slice();
    while let Some(first) = rest.first() {
        let place = places[*first as usize].0;
        let (mine, behind) = rest.split_at(rest.partition_point(|i| places[*i as usize].0 == place));
        rest = behind;
        let rows: Vec<u32> = mine.iter().map(|i| places[*i as usize].1).collect();
        let read = match place {
            Place::Layer(id) => from_layer(view, id, columns, &rows)?,
            Place::Segment(id) => from_segment(view, id, columns, &rows)?,
        };
        parts.iter_mut().zip(read).for_each(|(part, mut read)| part.append(&mut read));
    }
    let mut back = vec![0; order.len()];
    order.iter().zip(0..).for_each(|(i, at)| back[*i as usize] = at);
    let back = UInt32Array::from(back);
    let fail = |e| Error::internal("rows cannot be put in order").because(e);
    let join = |(parts, column): (Vec<ArrayRef>, &&TableColumn)| -> Result<ArrayRef> {
        if parts.is_empty() {
            return Ok(arrow::array::new_empty_array(&column.data_type.to_arrow()));
        }
        let all = concat(&parts.iter().map(AsRef::as_ref).collect::<Vec<&dyn Array>>()).map_err(fail)?;
        take(&all, &back, None).map_err(fail)
    };
    parts.into_iter().zip(columns).map(join).collect()
}

fn gone() -> Error {
    Error::internal("a row that was found is not there")
}

/// Of each column the values of these rows (ascending), in several arrays.
fn from_layer(view: &TableView, id: u64, columns: &[&TableColumn], rows: &[u32]) -> Result<Vec<Vec<ArrayRef>>> {
    let layer = view.layers.iter().find(|l| l.id == id).ok_or_else(gone)?;
    let mut out = vec![Vec::new(); columns.len()];
    for chunk in &layer.chunks {
        let end = chunk.first + chunk.rows.num_rows() as u32;
        let mine = &rows[rows.partition_point(|r| *r < chunk.first)..rows.partition_point(|r| *r < end)];
        if mine.is_empty() {
            continue;
        }
        let at = UInt32Array::from_iter_values(mine.iter().map(|r| r - chunk.first));
        let has = |id: u32| chunk.rows.schema_ref().index_of(&format!("c{id}")).is_ok();
        for (out, column) in out.iter_mut().zip(columns) {
            let (fields, arrays): (Vec<Field>, Vec<ArrayRef>) = match value::stored_as(column, has) {
                Stored::AsIs(id) | Stored::Converted(id, _) => {
                    let name = format!("c{id}");
                    let array = chunk.rows.column_by_name(&name).ok_or_else(gone)?;
                    let array = take(array, &at, None)
                        .map_err(|e| Error::internal("rows of a layer cannot be taken").because(e))?;
                    (vec![Field::new(name, array.data_type().clone(), true)], vec![array])
                }
                Stored::Filled => (Vec::new(), Vec::new()),
            };
            let options = RecordBatchOptions::new().with_row_count(Some(mine.len()));
            let taken = RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options)
                .map_err(|e| Error::internal("rows of a layer cannot be taken").because(e))?;
            out.push(value::column_of(column, &taken)?);
        }
    }
    Ok(out)
}

/// Of each column the values of these rows (ascending), in several arrays.
fn from_segment(view: &TableView, id: u64, columns: &[&TableColumn], rows: &[u32]) -> Result<Vec<Vec<ArrayRef>>> {
    let segment = view.segments.iter().find(|s| s.segment.meta.id == id).ok_or_else(gone)?;
    let ids = value::stored_ids(columns.iter().copied(), |id| segment.has_column(id));
    if ids.is_empty() {
        return columns.iter().map(|c| Ok(vec![value::filled(c, rows.len())?])).collect();
    }
    let mut ranges: Vec<std::ops::Range<usize>> = Vec::new();
    for row in rows.iter().map(|r| *r as usize) {
        match ranges.last_mut() {
            Some(last) if last.end == row => last.end += 1,
            _ => ranges.push(row..row + 1),
        }
    }
    let selection = RowSelection::from_consecutive_ranges(ranges.into_iter(), segment.rows() as usize);
    let mut out = vec![Vec::new(); columns.len()];
    let mut read = 0;
    for batch in segment.open()?.batches_of(Some(&ids), Some(selection), BATCH_ROWS)? {
        let batch = batch?;
        read += batch.num_rows();
        for (out, column) in out.iter_mut().zip(columns) {
            out.push(value::column_of(column, &batch)?);
        }
    }
    match read == rows.len() {
        true => Ok(out),
        false => Err(Error::corrupt("a segment holds other rows than its index says")
            .with("file", segment.segment.data_path().display())),
    }
}
