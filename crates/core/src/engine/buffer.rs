//! What has been read and not yet flushed: rows by table up to the last commit, and the rows behind it whose commit is
//! still to come. At a flush each table's rows become one load in which every key occurs once, with its last change,
//! because the order of rows inside one load means nothing to a sink.

use std::collections::BTreeMap;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasherDefault;

use arrow::array::{Array, ArrayRef, AsArray, UInt32Array};
use arrow::datatypes::{ArrowPrimitiveType, DataType as Arrow, Int32Type, Int64Type, UInt32Type, UInt64Type};
use arrow::row::{RowConverter, SortField};
use xxhash_rust::xxh3::Xxh3Default;

use crate::batch::{ChangeBatch, concat, take};
use crate::connector::Commit;
use crate::error::{Error, Result};
use crate::position::Position;
use crate::schema::TableName;

/// Rows between two flushes.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    /// Complete transactions.
    complete: BTreeMap<TableName, Vec<ChangeBatch>>,
    /// Rows whose commit has not come yet.
    tail: VecDeque<ChangeBatch>,
    commit: Option<Commit>,
    rows: usize,
    bytes: usize,
}

/// What one flush takes out of the buffer.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) commit: Commit,
    pub(crate) tables: BTreeMap<TableName, Vec<ChangeBatch>>,
}

impl Buffer {
    pub(crate) fn push(&mut self, batch: ChangeBatch) {
        self.rows += batch.rows.num_rows();
        self.bytes += batch.bytes();
        self.tail.push_back(batch);
    }

    /// Everything that was pushed is complete now.
    pub(crate) fn commit(&mut self, mut commit: Commit) {
        for batch in self.tail.drain(..) {
            self.complete.entry(batch.schema.name.clone()).or_default().push(batch);
        }
        commit.transactions += self.commit.as_ref().map_or(0, |c| c.transactions);
        self.commit = Some(commit);
    }

    /// Whether a commit waits to be flushed.
    pub(crate) fn is_ready(&self) -> bool {
        self.commit.is_some()
    }

    /// The position of the newest commit that waits.
    pub(crate) fn position(&self) -> Option<&Position> {
        self.commit.as_ref().map(|c| &c.position)
    }

    /// Whether rows wait to be flushed; a commit without rows only moves the position.
    pub(crate) fn has_rows(&self) -> bool {
        !self.complete.is_empty()
    }

    pub(crate) fn is_full(&self, rows: usize, bytes: usize) -> bool {
        self.rows >= rows || self.bytes >= bytes
    }

    /// The rows of a table that is no longer followed are of no use.
    pub(crate) fn forget(&mut self, table: &TableName) {
        self.complete.remove(table);
        self.tail.retain(|b| b.schema.name != *table);
        self.count();
    }

    /// Takes the complete transactions out.
    pub(crate) fn take(&mut self) -> Option<Taken> {
        let commit = self.commit.take()?;
        let tables = std::mem::take(&mut self.complete);
        self.count();
        Some(Taken { commit, tables })
    }

    fn count(&mut self) {
        let left = || self.complete.values().flatten().chain(self.tail.iter());
        self.rows = left().map(|b| b.rows.num_rows()).sum();
        self.bytes = left().map(ChangeBatch::bytes).sum();
    }
}

type Hasher = BuildHasherDefault<Xxh3Default>;

/// One batch of all rows, of each key only the last change, in the order of those. A table without a key keeps all.
pub(crate) fn keep_last(batches: &[ChangeBatch]) -> Result<ChangeBatch> {
    let all = concat(batches)?;
    if !all.schema.has_key() || all.rows.num_rows() < 2 {
        return Ok(all);
    }
    let keys: Vec<ArrayRef> = all
        .schema
        .key
        .iter()
        .map(|k| {
            all.rows.column_by_name(k).cloned().ok_or_else(|| {
                Error::internal("a change batch lacks a column of the key")
                    .with("table", &all.schema.name)
                    .with("column", k)
            })
        })
        .collect::<Result<_>>()?;
    let places = match (keys.len(), keys[0].data_type()) {
        (1, Arrow::Int32) => last_places_of::<Int32Type>(&keys[0]),
        (1, Arrow::Int64) => last_places_of::<Int64Type>(&keys[0]),
        (1, Arrow::UInt32) => last_places_of::<UInt32Type>(&keys[0]),
        (1, Arrow::UInt64) => last_places_of::<UInt64Type>(&keys[0]),
        _ => last_places_of_rows(&keys)?,
    };
    if places.len() == all.rows.num_rows() {
        return Ok(all);
    }
    Ok(ChangeBatch { rows: take(&all.rows, &UInt32Array::from(places))?, schema: all.schema })
}

fn last_places_of<T: ArrowPrimitiveType>(key: &ArrayRef) -> Vec<u32>
where
    T::Native: std::hash::Hash + Eq,
{
    let values = key.as_primitive::<T>().values();
    last_places(values.iter().copied(), values.len())
}

fn last_places_of_rows(keys: &[ArrayRef]) -> Result<Vec<u32>> {
    let failed = |e| Error::internal("cannot compare keys").because(e);
    let fields = keys.iter().map(|k| SortField::new(k.data_type().clone())).collect();
    let rows = RowConverter::new(fields).map_err(failed)?.convert_columns(keys).map_err(failed)?;
    Ok(last_places(rows.iter().map(|r| r.data()), rows.num_rows()))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Column, DataType, TableSchema};
    use arrow::array::{Int8Array, Int64Array, StringArray};
    use std::sync::Arc;

    fn batch(key: &[&str], rows: &[(i64, &str, i8)]) -> ChangeBatch {
        let schema = TableSchema {
            name: TableName::new("d", "t"),
            columns: vec![Column::new("k", DataType::Int64), Column::new("v", DataType::TEXT)],
            key: key.iter().map(|k| (*k).to_string()).collect(),
            comment: String::new(),
        };
        let k: Int64Array = rows.iter().map(|r| r.0).collect();
        let v: StringArray = rows.iter().map(|r| Some(r.1)).collect();
        let ops: Int8Array = rows.iter().map(|r| r.2).collect();
        ChangeBatch::new(Arc::new(schema), vec![Arc::new(k), Arc::new(v)], ops).unwrap()
    }

    fn shown(batch: &ChangeBatch) -> String {
        let (k, v) = (batch.rows.column(0).as_primitive::<Int64Type>(), batch.rows.column(1).as_string::<i32>());
        let row = |i| format!("{}{}{}", ["+", "-"][batch.ops().value(i) as usize], k.value(i), v.value(i));
        (0..batch.rows.num_rows()).map(row).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn last_change_of_each_key_wins() {
        let rows = [(1, "a", 0), (2, "b", 0), (1, "c", 1), (3, "d", 0), (2, "e", 0)];
        for key in [&["k"][..], &["k", "k"]] {
            assert_eq!(shown(&keep_last(&[batch(key, &rows)]).unwrap()), "-1c +3d +2e");
            assert_eq!(shown(&keep_last(&[batch(key, &rows[..2]), batch(key, &rows[2..])]).unwrap()), "-1c +3d +2e");
        }
        assert_eq!(shown(&keep_last(&[batch(&[], &rows)]).unwrap()), "+1a +2b -1c +3d +2e");
    }
}
