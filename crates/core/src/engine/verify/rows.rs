//! Rows as `verify` compares them: an identity and a hash of each. With a key the identity is the key's hash, and what
//! must agree is the row's hash; a table without a key is a multiset, whose identities are the rows themselves, and what
//! must agree is how often each is there. A first look keeps only sums over buckets of identities, so that memory does
//! not depend on the table; whatever differs is then looked at by identity.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, StringArray};
use arrow::datatypes::DataType as Arrow;
use xxhash_rust::xxh3::xxh3_128;

use super::Mismatch;
use crate::connector::KeyRange;
use crate::datatype::DataType;
use crate::error::{Error, Result};
use crate::schema::TableSchema;
use crate::text::render;

/// Buckets of a range of a divided table …
const BUCKETS: usize = 1 << 10;
/// … and of one that may have any number of rows: 20 bytes each.
const BUCKETS_OF_MANY: usize = 1 << 20;
/// Identities that are looked at one by one at the same time.
const IDS_AT_ONCE: u64 = 250_000;
/// The largest precision of a decimal that fits 128 bits.
const DECIMAL_DIGITS: u8 = 38;
/// How NULL is shown among the values of a row.
const NULL: &str = "NULL";
/// Characters of each value by which a row without a key is shown.
const VALUE_SHOWN: usize = 60;

/// Values to be compared by identity.
pub(super) type Values = HashMap<u128, u128>;

/// A table as it is compared.
#[derive(Debug)]
pub(super) struct Shape {
    pub(super) schema: Arc<TableSchema>,
    /// Places of the key's columns; none: a multiset.
    key: Vec<usize>,
    /// So many of them, from the first, have the same order at every source and sink.
    ordered: usize,
}

/// A row that was read.
pub(super) struct Row<'a> {
    pub(super) id: u128,
    hash: u128,
    shape: &'a Shape,
    columns: &'a [StringArray],
    row: usize,
}

/// One value of a key, in its order.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place<'a> {
    Number(i128),
    /// Dates too, whose text has a fixed width.
    Text(&'a str),
}

impl Shape {
    /// A table of which not all columns of the key are compared is compared as a multiset.
    pub(super) fn of(schema: TableSchema) -> Shape {
        let mut schema = schema;
        if schema.key_indexes().len() < schema.key.len() {
            schema.key.clear();
        }
        let key = schema.key_indexes();
        let ordered = key.iter().take_while(|k| is_ordered_alike(&schema.columns[**k].data_type)).count();
        Shape { schema: Arc::new(schema), key, ordered }
    }

    pub(super) fn has_key(&self) -> bool {
        !self.key.is_empty()
    }

    /// How many of the key's columns, from the first, bound a range alike at source and target.
    pub(super) fn ordered(&self) -> usize {
        self.ordered
    }

    /// Calls `f` with each row, of those `within` the range.
    pub(super) fn each_row(
        &self,
        batch: &RecordBatch,
        within: Option<&KeyRange>,
        f: &mut (dyn FnMut(&Row<'_>) + Send),
    ) -> Result<()> {
        let columns: Vec<StringArray> = self
            .schema
            .columns
            .iter()
            .map(|c| {
                let missing =
                    || Error::schema(format!("column {} is missing", c.name)).with("table", &self.schema.name);
                let array = batch.column_by_name(&c.name).ok_or_else(missing)?;
                match array.data_type() {
                    Arrow::Utf8 => Ok(array.as_string::<i32>().clone()),
                    _ => render(array.as_ref(), &c.data_type),
                }
            })
            .collect::<Result<_>>()?;
        let bound = |b: &'_ Option<Vec<String>>| b.as_ref().map(|b| b.len().min(self.ordered));
        let limits = within.map(|r| (r, bound(&r.from), bound(&r.to)));
        let mut bytes = Vec::new();
        for row in 0..batch.num_rows() {
            if let Some((range, from, to)) = &limits {
                let below = from.is_some_and(|n| self.compare(&columns, row, &range.from, n).is_lt());
                let above = to.is_some_and(|n| self.compare(&columns, row, &range.to, n).is_ge());
                if below || above {
                    continue;
                }
            }
            bytes.clear();
            columns.iter().for_each(|c| append(&mut bytes, c, row));
            let hash = xxh3_128(&bytes);
            let id = match self.has_key() {
                true => {
                    bytes.clear();
                    self.key.iter().for_each(|k| append(&mut bytes, &columns[*k], row));
                    xxh3_128(&bytes)
                }
                false => hash,
            };
            f(&Row { id, hash, shape: self, columns: &columns, row });
        }
        Ok(())
    }

    /// A row's key against the first `n` values of a bound.
    fn compare(
        &self,
        columns: &[StringArray],
        row: usize,
        bound: &Option<Vec<String>>,
        n: usize,
    ) -> std::cmp::Ordering {
        let bound = bound.as_deref().unwrap_or_default();
        let mine = self.key.iter().take(n).map(|k| self.place(*k, columns[*k].value(row)));
        mine.cmp(self.key.iter().zip(bound).take(n).map(|(k, text)| self.place(*k, text)))
    }

    fn place<'a>(&self, column: usize, text: &'a str) -> Place<'a> {
        use DataType as T;
        let digits = match self.schema.columns[column].data_type {
            T::Int8 | T::Int16 | T::Int32 | T::Int64 | T::UInt8 | T::UInt16 | T::UInt32 | T::UInt64 => {
                text.parse().ok()
            }
            // The scale is the same in all of them.
            T::Decimal { precision, .. } if precision <= DECIMAL_DIGITS => text.replace('.', "").parse().ok(),
            _ => None,
        };
        digits.map_or(Place::Text(text), Place::Number)
    }

    /// Sorts by key, as far as people expect it sorted by its first columns; without a key by the rows' text.
    pub(super) fn sort_key<'a>(&self, text: &'a [String]) -> impl Ord + use<'a> {
        match self.has_key() {
            true => self.key.iter().zip(text).map(|(k, text)| self.place(*k, text)).collect::<Vec<_>>(),
            false => text.iter().map(|t| Place::Text(t)).collect(),
        }
    }

    /// Nothing yet. `large`: the range may have any number of rows.
    pub(super) fn sums(&self, large: bool) -> Sums {
        let buckets = if large { BUCKETS_OF_MANY } else { BUCKETS };
        Sums { rows: 0, hashes: vec![0; buckets], counts: vec![0; buckets] }
    }
}

impl Row<'_> {
    /// What must agree between source and target, added up over the rows of the same identity. Two rows of one key, as
    /// a damaged target may have them, are no row of the source's.
    pub(super) fn value(&self) -> u128 {
        if self.shape.has_key() { self.hash } else { 1 }
    }

    /// Canonical text of the key; without one, of the whole row, long values cut.
    pub(super) fn text(&self) -> Vec<String> {
        let value = |c: &StringArray| if c.is_null(self.row) { NULL } else { c.value(self.row) }.to_string();
        match self.shape.has_key() {
            true => self.shape.key.iter().map(|k| value(&self.columns[*k])).collect(),
            false => self.columns.iter().map(|c| shortened(value(c))).collect(),
        }
    }
}

/// What a first look keeps of a range's rows: a sum over each bucket of identities.
pub(super) struct Sums {
    pub(super) rows: u64,
    hashes: Vec<u128>,
    counts: Vec<u32>,
}

impl Sums {
    pub(super) fn add(&mut self, row: &Row<'_>) {
        let bucket = bucket(row.id, self.hashes.len());
        self.rows += 1;
        self.hashes[bucket] = self.hashes[bucket].wrapping_add(row.hash);
        self.counts[bucket] = self.counts[bucket].saturating_add(1);
    }

    /// The buckets in which the other side has something else, in groups that may be looked at together.
    pub(super) fn differing(&self, other: &Sums) -> Vec<Buckets> {
        let (mut groups, mut rows) = (Vec::<Buckets>::new(), 0);
        for b in 0..self.hashes.len() {
            if self.hashes[b] == other.hashes[b] && self.counts[b] == other.counts[b] {
                continue;
            }
            let more = u64::from(self.counts[b].max(other.counts[b]));
            if groups.is_empty() || rows + more > IDS_AT_ONCE {
                groups.push(Buckets { of: self.hashes.len(), wanted: Vec::new() });
                rows = 0;
            }
            rows += more;
            if let Some(group) = groups.last_mut() {
                group.wanted.push(b);
            }
        }
        groups
    }
}

/// Some of the buckets.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Buckets {
    of: usize,
    /// In order.
    wanted: Vec<usize>,
}

impl Buckets {
    pub(super) fn hold(&self, id: u128) -> bool {
        self.wanted.binary_search(&bucket(id, self.of)).is_ok()
    }
}

fn bucket(id: u128, of: usize) -> usize {
    (id % of as u128) as usize
}

/// What one round says of an identity: `before` and `after` are the source's, `target` was read in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The target has what the source had at one of the two times.
    Equal,
    /// The source says the same twice, and the target something else.
    Differs(Mismatch),
    /// The source changed it, and the target has neither: nothing can be said.
    Changing,
}

impl Verdict {
    pub(super) fn of(has_key: bool, before: Option<u128>, target: Option<u128>, after: Option<u128>) -> Verdict {
        if target == before || target == after {
            return Verdict::Equal;
        }
        if before != after {
            return Verdict::Changing;
        }
        Verdict::Differs(match (before, target) {
            (None, _) => Mismatch::Extra,
            (_, None) => Mismatch::Missing,
            // How often a row is there.
            (Some(before), Some(target)) if !has_key && target < before => Mismatch::Missing,
            _ if !has_key => Mismatch::Extra,
            _ => Mismatch::Changed,
        })
    }
}

/// Types whose text orders alike at every source and sink, by number or as text of a fixed width.
fn is_ordered_alike(data_type: &DataType) -> bool {
    use DataType as T;
    match data_type {
        T::Int8 | T::Int16 | T::Int32 | T::Int64 | T::UInt8 | T::UInt16 | T::UInt32 | T::UInt64 => true,
        T::Decimal { precision, .. } => *precision <= DECIMAL_DIGITS,
        T::Date | T::DateTime { .. } | T::Timestamp { .. } => true,
        _ => false,
    }
}

/// Length in front, so that no two rows have the same bytes.
fn append(bytes: &mut Vec<u8>, column: &StringArray, row: usize) {
    if column.is_null(row) {
        bytes.extend_from_slice(&u64::MAX.to_le_bytes());
        return;
    }
    let value = column.value(row).as_bytes();
    bytes.extend_from_slice(&(value.len() as u64).to_le_bytes());
    bytes.extend_from_slice(value);
}

fn shortened(text: String) -> String {
    match text.char_indices().nth(VALUE_SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::ArrayRef;

    use crate::engine::read_back::keys_of;
    use crate::schema::{Column, TableName};

    fn shape(columns: &[(&str, DataType)], key: &[&str]) -> Shape {
        Shape::of(TableSchema {
            name: TableName::new("d", "t"),
            columns: columns.iter().map(|(n, t)| Column::new(*n, t.clone())).collect(),
            key: key.iter().map(|k| (*k).to_string()).collect(),
            comment: String::new(),
            source_defaults: String::new(),
        })
    }

    fn batch(shape: &Shape, rows: &[&[&str]]) -> RecordBatch {
        let columns = shape.schema.columns.iter().enumerate().map(|(i, c)| {
            let values: StringArray = rows.iter().map(|r| Some(r[i]).filter(|v| *v != NULL)).collect();
            (c.name.clone(), Arc::new(values) as ArrayRef)
        });
        RecordBatch::try_from_iter_with_nullable(columns.map(|(n, a)| (n, a, true))).unwrap()
    }

    fn read(shape: &Shape, rows: &[&[&str]], within: Option<&KeyRange>) -> (Sums, Vec<Vec<String>>) {
        let (mut sums, mut texts) = (shape.sums(false), Vec::new());
        let mut row = |row: &Row<'_>| {
            sums.add(row);
            texts.push(row.text());
        };
        shape.each_row(&batch(shape, rows), within, &mut row).unwrap();
        (sums, texts)
    }

    #[test]
    fn buckets_of_a_multiset_see_how_often_a_row_is_there() {
        let bag = shape(&[("a", DataType::Int32), ("b", DataType::TEXT)], &[]);
        let rows: [&[&str]; 4] = [&["1", "x"], &["2", "y"], &["2", "y"], &["3", "NULL"]];
        let (source, texts) = read(&bag, &rows, None);
        assert_eq!((source.rows, &texts[3]), (4, &vec!["3".to_string(), "NULL".to_string()]));
        let other_order: [&[&str]; 4] = [&["3", "NULL"], &["2", "y"], &["1", "x"], &["2", "y"]];
        assert_eq!(source.differing(&read(&bag, &other_order, None).0), []);
        let once_less: [&[&str]; 3] = [&["1", "x"], &["2", "y"], &["3", "NULL"]];
        let groups = source.differing(&read(&bag, &once_less, None).0);
        let mut held = Vec::new();
        let mut row = |row: &Row<'_>| held.extend(groups[0].hold(row.id).then(|| row.text()));
        bag.each_row(&batch(&bag, &once_less), None, &mut row).unwrap();
        assert_eq!((groups.len(), held), (1, vec![vec!["2".to_string(), "y".to_string()]]));
        // Columns do not run into each other.
        let pair = shape(&[("a", DataType::TEXT), ("b", DataType::TEXT)], &[]);
        assert_eq!(read(&pair, &[&["ab", "c"]], None).0.differing(&read(&pair, &[&["a", "bc"]], None).0).len(), 1);
    }

    #[test]
    fn ranges_go_by_the_columns_that_have_one_order() {
        let decimal = DataType::Decimal { precision: 10, scale: 1 };
        let t = shape(&[("v", DataType::TEXT), ("d", decimal), ("n", DataType::Int32)], &["d", "n", "v"]);
        assert_eq!(t.ordered(), 2);
        let rows: [&[&str]; 5] =
            [&["a", "-10.5", "1"], &["b", "-9.5", "7"], &["c", "-9.5", "10"], &["d", "2.0", "-1"], &["e", "10.0", "0"]];
        let names = |from: Option<&[&str]>, to: Option<&[&str]>| -> String {
            let own = |b: Option<&[&str]>| b.map(|b| b.iter().map(|s| (*s).to_string()).collect());
            let range = KeyRange { from: own(from), to: own(to) };
            read(&t, &rows, Some(&range)).1.iter().map(|key| key[2].clone()).collect()
        };
        assert_eq!(names(None, None), "abcde");
        assert_eq!(names(Some(&["-9.5", "10"]), Some(&["10.0"])), "cd");
        assert_eq!(names(Some(&["-9.5"]), Some(&["2.0", "-1"])), "bc");
        let dates = shape(&[("k", DataType::DateTime { digits: 0 })], &["k"]);
        let rows: [&[&str]; 2] = [&["0999-12-31 00:00:00"], &["2024-01-01 00:00:00"]];
        let range = KeyRange { from: Some(vec!["1000-01-01 00:00:00".into()]), to: None };
        assert_eq!(read(&dates, &rows, Some(&range)).1.len(), 1);
        assert_eq!(shape(&[("k", DataType::TEXT)], &["k"]).ordered(), 0);
        // Only a part of the key is there to be compared.
        assert!(!shape(&[("k", DataType::TEXT)], &["k", "gone"]).has_key());
    }

    #[test]
    fn a_difference_counts_only_where_the_source_agrees_with_itself() {
        use Mismatch::{Changed, Extra, Missing};
        use Verdict::{Changing, Differs, Equal};
        for (before, target, after, keyed, bag) in [
            (Some(5), Some(5), Some(5), Equal, Equal),
            (Some(5), Some(4), Some(5), Differs(Changed), Differs(Missing)),
            (Some(5), Some(6), Some(5), Differs(Changed), Differs(Extra)),
            (Some(5), None, Some(5), Differs(Missing), Differs(Missing)),
            (None, Some(5), None, Differs(Extra), Differs(Extra)),
            (Some(5), Some(6), Some(6), Equal, Equal),
            (Some(5), Some(5), None, Equal, Equal),
            (Some(5), Some(6), Some(7), Changing, Changing),
            (None, None, Some(7), Equal, Equal),
        ] {
            assert_eq!(Verdict::of(true, before, target, after), keyed, "{before:?} {target:?} {after:?}");
            assert_eq!(Verdict::of(false, before, target, after), bag, "{before:?} {target:?} {after:?}");
        }
    }

    #[test]
    fn keys_are_read_back_from_their_text() {
        let bytes = DataType::Bytes { length: Some(4) };
        let t = shape(&[("n", DataType::UInt64), ("b", bytes), ("s", DataType::TEXT)], &["s", "b", "n"]);
        let key = |parts: [&str; 3]| parts.map(str::to_string).to_vec();
        let keys = [key(["a\u{1f}b", "00FF", "18446744073709551615"]), key(["", "", "0"])];
        let read = keys_of(&t.schema, &keys.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap();
        let shown: Vec<StringArray> = [2, 1, 0]
            .iter()
            .zip(read.columns())
            .map(|(i, a)| render(a, &t.schema.columns[*i].data_type).unwrap())
            .collect();
        assert_eq!(shown[0].value(0), "a\u{1f}b");
        assert_eq!((shown[1].value(0), shown[1].value(1)), ("00FF", ""));
        assert_eq!(shown[2].value(0), u64::MAX.to_string());
        let wrong = key(["a", "0G", "1"]);
        assert!(keys_of(&t.schema, &[&wrong]).unwrap_err().message.contains("keys of this type"));
        let none = keys_of(&shape(&[("n", DataType::Int32)], &[]).schema, &[&wrong]).unwrap_err();
        assert!(none.message.contains("without a key"), "{none}");
    }
}
