//! Folding the changes of one table in one flush: every key once, with its last change, because the order of rows
//! inside one load means nothing to a sink. Whole rows replace each other; rows with absent columns are overlaid column
//! by column, and a moved row takes what it does not say from where it was. What is left after that is looked up by the
//! sink as it was before the flush, so the loads that come out may be applied together, in any order.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::BuildHasherDefault;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int8Array, RecordBatch, UInt32Array, new_null_array};
use arrow::compute::interleave;
use arrow::datatypes::{
    ArrowPrimitiveType, DataType as Arrow, Field, Int32Type, Int64Type, Schema, UInt32Type, UInt64Type,
};
use arrow::row::{OwnedRow, RowConverter, Rows, SortField};
use xxhash_rust::xxh3::Xxh3Default;

use crate::batch::{BASE_PREFIX, ChangeBatch, OP_COLUMN, OP_DELETE, OP_MOVE, OP_UPSERT, concat, take};
use crate::error::{Error, Result};
use crate::schema::TableSchema;

type Hasher = BuildHasherDefault<Xxh3Default>;

/// The protocol's rules of folding, which the simulation can break.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Folding {
    /// What a later change of a key does not say an earlier one does.
    pub(crate) overlay: bool,
    /// A row that moved takes what it does not say from its old place.
    pub(crate) moves: bool,
}

/// The changes as loads in which every key occurs once. A table without a key keeps all, in order.
pub(crate) fn fold_by(batches: &[ChangeBatch], how: Folding) -> Result<Vec<ChangeBatch>> {
    let Some(first) = batches.first() else { return Ok(Vec::new()) };
    if !first.schema.has_key() {
        return Ok(vec![concat(batches)?]);
    }
    if batches.iter().any(ChangeBatch::is_partial) {
        return Overlay::new(&first.schema, how)?.fold(batches);
    }
    Ok(vec![keep_last(&concat(batches)?)?])
}

/// The key's columns in the key's order.
pub(crate) fn key_columns(schema: &TableSchema, rows: &RecordBatch) -> Result<Vec<ArrayRef>> {
    let column = |k: &String| {
        rows.column_by_name(k).cloned().ok_or_else(|| {
            Error::internal("a change batch lacks a column of the key").with("table", &schema.name).with("column", k)
        })
    };
    schema.key.iter().map(column).collect()
}

/// Keys as comparable bytes.
pub(crate) struct KeyCodec(RowConverter);

impl KeyCodec {
    pub(crate) fn new(schema: &TableSchema) -> Result<Self> {
        let fields = schema.key_indexes().into_iter().map(|i| SortField::new(schema.columns[i].data_type.to_arrow()));
        Ok(KeyCodec(RowConverter::new(fields.collect()).map_err(cannot_compare)?))
    }

    pub(crate) fn encode(&self, keys: &[ArrayRef]) -> Result<Rows> {
        self.0.convert_columns(keys).map_err(cannot_compare)
    }
}

fn cannot_compare(e: arrow::error::ArrowError) -> Error {
    Error::internal("cannot compare keys").because(e)
}

/// Whole rows only: of each key the last change, in the order of those.
fn keep_last(all: &ChangeBatch) -> Result<ChangeBatch> {
    if all.rows.num_rows() < 2 {
        return Ok(all.clone());
    }
    let keys = key_columns(&all.schema, &all.rows)?;
    let places = match (keys.len(), keys[0].data_type()) {
        (1, Arrow::Int32) => last_places_of::<Int32Type>(&keys[0]),
        (1, Arrow::Int64) => last_places_of::<Int64Type>(&keys[0]),
        (1, Arrow::UInt32) => last_places_of::<UInt32Type>(&keys[0]),
        (1, Arrow::UInt64) => last_places_of::<UInt64Type>(&keys[0]),
        _ => {
            let rows = KeyCodec::new(&all.schema)?.encode(&keys)?;
            last_places(rows.iter().map(|r| r.data()), rows.num_rows())
        }
    };
    if places.len() == all.rows.num_rows() {
        return Ok(all.clone());
    }
    Ok(ChangeBatch { rows: take(&all.rows, &UInt32Array::from(places))?, schema: Arc::clone(&all.schema) })
}

fn last_places_of<T: ArrowPrimitiveType>(key: &ArrayRef) -> Vec<u32>
where
    T::Native: std::hash::Hash + Eq,
{
    let values = key.as_primitive::<T>().values();
    last_places(values.iter().copied(), values.len())
}

fn last_places<K: std::hash::Hash + Eq>(keys: impl Iterator<Item = K>, rows: usize) -> Vec<u32> {
    let mut last: HashMap<K, u32, Hasher> = HashMap::with_capacity_and_hasher(rows, Hasher::default());
    let mut keep = vec![true; rows];
    for (place, key) in keys.enumerate() {
        match last.entry(key) {
            Entry::Vacant(slot) => {
                slot.insert(place as u32);
            }
            Entry::Occupied(mut slot) => keep[slot.insert(place as u32) as usize] = false,
        }
    }
    keep.iter().enumerate().filter(|(_, keep)| **keep).map(|(place, _)| place as u32).collect()
}

/// A value: batch and row.
type Cell = (usize, usize);

/// What becomes of one key.
#[derive(Clone)]
struct Outcome {
    deleted: bool,
    /// Where each column's value is; `None`: what the base has.
    cells: Vec<Option<Cell>>,
    /// The key whose row, as it was before the flush, has the values that are not said; `None`: nothing is missing.
    base: Option<(OwnedRow, Cell)>,
}

/// Folds batches with different sets of columns.
struct Overlay<'a> {
    schema: &'a Arc<TableSchema>,
    how: Folding,
    codec: KeyCodec,
    /// Keys in the order in which they were met first.
    order: Vec<OwnedRow>,
    outcomes: HashMap<OwnedRow, Outcome, Hasher>,
}

impl<'a> Overlay<'a> {
    fn new(schema: &'a Arc<TableSchema>, how: Folding) -> Result<Self> {
        let codec = KeyCodec::new(schema)?;
        Ok(Overlay { schema, how, codec, order: Vec::new(), outcomes: HashMap::default() })
    }

    fn fold(mut self, batches: &[ChangeBatch]) -> Result<Vec<ChangeBatch>> {
        for (number, batch) in batches.iter().enumerate() {
            self.batch(number, batch)?;
        }
        self.loads(batches)
    }

    fn batch(&mut self, number: usize, batch: &ChangeBatch) -> Result<()> {
        let keys = self.codec.encode(&key_columns(self.schema, &batch.rows)?)?;
        let present: Vec<bool> =
            self.schema.columns.iter().map(|c| batch.rows.schema_ref().index_of(&c.name).is_ok()).collect();
        let whole = present.iter().all(|p| *p);
        let ops = batch.ops();
        let mut row = 0;
        while row < ops.len() {
            let key = keys.row(row).owned();
            let cell = (number, row);
            match ops.value(row) {
                op if op == OP_DELETE || op == OP_MOVE && !self.how.moves => {
                    self.set(key, Outcome { deleted: true, cells: self.nothing(), base: None })
                }
                OP_MOVE => {
                    row += 1;
                    if row >= ops.len() || ops.value(row) != OP_UPSERT {
                        return Err(Error::internal("a moved row says not where to").with("table", &self.schema.name));
                    }
                    let mut moved = self.current(&key, cell);
                    self.set(key, Outcome { deleted: true, cells: self.nothing(), base: None });
                    say(&mut moved, &present, (number, row));
                    self.set(keys.row(row).owned(), moved);
                }
                _ if whole => {
                    self.set(key, Outcome { deleted: false, cells: vec![Some(cell); present.len()], base: None })
                }
                _ => {
                    let mut outcome = self.current(&key, cell);
                    say(&mut outcome, &present, cell);
                    self.set(key, outcome);
                }
            }
            row += 1;
        }
        Ok(())
    }

    fn nothing(&self) -> Vec<Option<Cell>> {
        vec![None; self.schema.columns.len()]
    }

    /// The row that a key has so far in this flush, or the one that it had before.
    fn current(&self, key: &OwnedRow, cell: Cell) -> Outcome {
        match self.outcomes.get(key) {
            Some(found) if !found.deleted && self.how.overlay => found.clone(),
            _ => Outcome { deleted: false, cells: self.nothing(), base: Some((key.clone(), cell)) },
        }
    }

    fn set(&mut self, key: OwnedRow, outcome: Outcome) {
        if self.outcomes.insert(key.clone(), outcome).is_none() {
            self.order.push(key);
        }
    }

    /// One load per set of columns; moved rows, which need their bases, apart.
    fn loads(self, batches: &[ChangeBatch]) -> Result<Vec<ChangeBatch>> {
        let key_indexes = self.schema.key_indexes();
        let mut groups: Vec<(Vec<bool>, bool, Vec<usize>)> = Vec::new();
        for (place, key) in self.order.iter().enumerate() {
            let outcome = &self.outcomes[key];
            let whole = outcome.deleted || outcome.cells.iter().all(Option::is_some);
            let present = match whole {
                true => vec![true; self.schema.columns.len()],
                false => outcome.cells.iter().map(Option::is_some).collect(),
            };
            let moved = !whole && outcome.base.as_ref().is_some_and(|(base, _)| base != key);
            match groups.iter_mut().find(|g| g.0 == present && g.1 == moved) {
                Some(group) => group.2.push(place),
                None => groups.push((present, moved, vec![place])),
            }
        }
        // Keys of deletes stand in no cell: they are found where the delete stands.
        let deleted = self.deleted_keys(batches)?;
        let mut loads = Vec::with_capacity(groups.len());
        for (present, moved, places) in groups {
            let outcomes: Vec<&Outcome> = places.iter().map(|p| &self.outcomes[&self.order[*p]]).collect();
            let mut columns: Vec<ArrayRef> = Vec::new();
            let mut fields: Vec<Field> = Vec::new();
            for (i, column) in self.schema.columns.iter().enumerate().filter(|(i, _)| present[*i]) {
                let in_key = key_indexes.contains(&i);
                let cells: Vec<Option<Cell>> = places
                    .iter()
                    .zip(&outcomes)
                    .map(|(place, o)| match o.deleted {
                        true if in_key => deleted.get(&self.order[*place]).copied(),
                        true => None,
                        false => o.cells[i],
                    })
                    .collect();
                columns.push(gather(batches, &column.name, &column.data_type.to_arrow(), &cells)?);
                fields.push(Field::new(&column.name, column.data_type.to_arrow(), true));
            }
            if moved {
                let bases: Vec<Option<Cell>> =
                    outcomes.iter().map(|o| o.base.as_ref().map(|(_, cell)| *cell)).collect();
                for i in &key_indexes {
                    let column = &self.schema.columns[*i];
                    columns.push(gather(batches, &column.name, &column.data_type.to_arrow(), &bases)?);
                    fields.push(Field::new(format!("{BASE_PREFIX}{}", column.name), column.data_type.to_arrow(), true));
                }
            }
            let ops: Int8Array = outcomes.iter().map(|o| if o.deleted { OP_DELETE } else { OP_UPSERT }).collect();
            columns.push(Arc::new(ops));
            fields.push(Field::new(OP_COLUMN, Arrow::Int8, false));
            let rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(|e| {
                Error::internal("folded columns do not fit").with("table", &self.schema.name).because(e)
            })?;
            loads.push(ChangeBatch { schema: Arc::clone(self.schema), rows });
        }
        Ok(loads)
    }

    fn deleted_keys(&self, batches: &[ChangeBatch]) -> Result<HashMap<OwnedRow, Cell, Hasher>> {
        let mut out: HashMap<OwnedRow, Cell, Hasher> = HashMap::default();
        for (number, batch) in batches.iter().enumerate() {
            let keys = self.codec.encode(&key_columns(self.schema, &batch.rows)?)?;
            for (row, op) in batch.ops().values().iter().enumerate() {
                if matches!(*op, OP_DELETE | OP_MOVE) {
                    out.insert(keys.row(row).owned(), (number, row));
                }
            }
        }
        Ok(out)
    }
}

/// Overlays what a row says.
fn say(outcome: &mut Outcome, present: &[bool], cell: Cell) {
    for (slot, _) in outcome.cells.iter_mut().zip(present).filter(|(_, present)| **present) {
        *slot = Some(cell);
    }
    if outcome.cells.iter().all(Option::is_some) {
        outcome.base = None;
    }
}

/// The values of one column at these places; NULL where there is none.
fn gather(batches: &[ChangeBatch], name: &str, data_type: &Arrow, cells: &[Option<Cell>]) -> Result<ArrayRef> {
    let null = new_null_array(data_type, 1);
    let mut arrays: Vec<&dyn Array> = vec![null.as_ref()];
    let mut at: Vec<Option<usize>> = Vec::with_capacity(batches.len());
    for batch in batches {
        let column = batch.rows.column_by_name(name);
        at.push(column.map(|_| arrays.len()));
        arrays.extend(column.map(AsRef::as_ref));
    }
    let places: Vec<(usize, usize)> =
        cells.iter().map(|c| c.and_then(|(batch, row)| Some((at[batch]?, row))).unwrap_or((0, 0))).collect();
    interleave(&arrays, &places).map_err(|e| Error::internal("cannot gather values").with("column", name).because(e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Column, DataType, TableName};
    use arrow::array::{Int64Array, StringArray};
    use arrow::datatypes::Int64Type;

    fn fold(batches: &[ChangeBatch]) -> Result<Vec<ChangeBatch>> {
        fold_by(batches, Folding { overlay: true, moves: true })
    }

    fn schema(key: &[&str]) -> Arc<TableSchema> {
        Arc::new(TableSchema {
            name: TableName::new("d", "t"),
            columns: ["k", "v", "w"]
                .iter()
                .map(|n| Column::new(*n, if *n == "k" { DataType::Int64 } else { DataType::TEXT }))
                .collect(),
            key: key.iter().map(|k| (*k).to_string()).collect(),
            comment: String::new(),
            source_defaults: String::new(),
        })
    }

    /// Rows `(op, k, v, w)` in which the columns of `present` mean something.
    fn batch(key: &[&str], present: &[usize], rows: &[(i8, i64, &str, &str)]) -> ChangeBatch {
        let k: ArrayRef = Arc::new(rows.iter().map(|r| r.1).collect::<Int64Array>());
        let v: ArrayRef = Arc::new(rows.iter().map(|r| Some(r.2)).collect::<StringArray>());
        let w: ArrayRef = Arc::new(rows.iter().map(|r| Some(r.3)).collect::<StringArray>());
        let all = [k, v, w];
        let columns = present.iter().map(|i| Arc::clone(&all[*i])).collect();
        ChangeBatch::partial(schema(key), present, columns, rows.iter().map(|r| r.0).collect()).unwrap()
    }

    fn shown(batches: &[ChangeBatch]) -> String {
        let mut out: Vec<String> = Vec::new();
        for batch in batches {
            for row in 0..batch.rows.num_rows() {
                let mut line = ["+", "-"][batch.ops().value(row) as usize].to_string();
                for (field, column) in batch.rows.schema().fields().iter().zip(batch.rows.columns()) {
                    let name = field.name().replace(BASE_PREFIX, "base ");
                    match field.data_type() {
                        Arrow::Int64 => line += &format!(" {name}={}", column.as_primitive::<Int64Type>().value(row)),
                        Arrow::Utf8 if !column.is_null(row) => {
                            line += &format!(" {name}={}", column.as_string::<i32>().value(row));
                        }
                        _ => {}
                    }
                }
                out.push(line);
            }
        }
        out.join("; ")
    }

    const ALL: &[usize] = &[0, 1, 2];

    #[test]
    fn last_change_of_each_key_wins() {
        let rows = [(0, 1, "a", "-"), (0, 2, "b", "-"), (1, 1, "c", "-"), (0, 3, "d", "-"), (0, 2, "e", "-")];
        for key in [&["k"][..], &["k", "v"]] {
            let whole = fold(&[batch(key, ALL, &rows)]).unwrap();
            assert_eq!(
                shown(&whole),
                shown(&fold(&[batch(key, ALL, &rows[..2]), batch(key, ALL, &rows[2..])]).unwrap())
            );
        }
        let last = fold(&[batch(&["k"], ALL, &rows)]).unwrap();
        assert_eq!(shown(&last), "- k=1 v=c w=-; + k=3 v=d w=-; + k=2 v=e w=-");
        assert_eq!(fold(&[batch(&[], ALL, &rows)]).unwrap()[0].rows.num_rows(), 5);
    }

    #[test]
    fn absent_columns_are_overlaid() {
        let loads = fold(&[
            batch(&["k"], ALL, &[(0, 1, "a", "b"), (1, 9, "", "")]),
            batch(&["k"], &[0, 2], &[(0, 1, "", "c"), (0, 2, "", "d")]),
            batch(&["k"], &[0, 1], &[(0, 2, "e", ""), (0, 3, "f", "")]),
        ]);
        assert_eq!(
            shown(&loads.unwrap()),
            "+ k=1 v=a w=c; - k=9; + k=2 v=e w=d; + k=3 v=f",
            "a whole row, a delete, a row that became whole, and one that lacks w"
        );
    }

    #[test]
    fn moved_rows_take_their_values_along() {
        // 1 is whole in this flush; 5 is known to the sink only; then 5's place is taken again.
        let loads = fold(&[
            batch(&["k"], ALL, &[(0, 1, "a", "b")]),
            batch(&["k"], &[0, 1], &[(2, 1, "", ""), (0, 2, "x", ""), (2, 5, "", ""), (0, 6, "y", "")]),
            batch(&["k"], &[0, 1], &[(2, 6, "", ""), (0, 7, "z", "")]),
            batch(&["k"], ALL, &[(0, 5, "n", "m")]),
        ]);
        assert_eq!(shown(&loads.unwrap()), "- k=1; + k=2 v=x w=b; + k=5 v=n w=m; - k=6; + k=7 v=z base k=5");
    }

    #[test]
    fn two_keys_are_swapped() {
        let loads = fold(&[batch(
            &["k"],
            &[0],
            &[(2, 1, "", ""), (0, 3, "", ""), (2, 2, "", ""), (0, 1, "", ""), (2, 3, "", ""), (0, 2, "", "")],
        )]);
        assert_eq!(shown(&loads.unwrap()), "+ k=1 base k=2; + k=2 base k=1; - k=3");
    }
}
