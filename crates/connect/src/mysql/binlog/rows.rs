//! Row events, straight into the Arrow builders of their table.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{BooleanArray, Int8Array};
use arrow::compute::filter_record_batch;
use freshet_core::batch::{OP_DELETE, OP_UPSERT};
use freshet_core::{ChangeBatch, Error, Result, TableSchema};

use super::super::types::{DecodeOptions, MysqlType};
use super::super::wire::Cursor;
use super::columns::{Bad, Builder, Plan, plan};
use super::table_map::{TableMap, WireColumn};

/// What happened to rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Insert,
    Update,
    Delete,
}

/// Decodes the rows of one table in one schema and gathers them.
pub(super) struct TableDecoder {
    schema: Arc<TableSchema>,
    /// What the plans were made for.
    wire: Vec<WireColumn>,
    plans: Vec<Plan>,
    /// Whether a column belongs to the key; without a key all do.
    key: Vec<bool>,
    /// The number of columns up to the last one of the key.
    key_end: usize,
    builders: Vec<Builder>,
    ops: Vec<i8>,
    /// Rows of transactions that are complete.
    committed: usize,
    /// Updates that changed the key, ever.
    pub(super) key_changes: u64,
    /// Rows that were rolled back.
    discarded: Vec<Range<usize>>,
}

impl TableDecoder {
    /// For rows that come behind this table map.
    ///
    /// # Errors
    /// `Schema` when the log's columns are not those of the schema.
    pub(super) fn new(schema: &Arc<TableSchema>, map: &TableMap, options: DecodeOptions) -> Result<Self> {
        let disagree = |what: String| {
            Error::schema(format!("rows in the log do not fit the table's schema: {what}"))
                .with("table", &schema.name)
                .hint("the schema was changed past the log, or the change was not understood: sync the table anew")
        };
        if map.columns.len() != schema.columns.len() {
            let (there, here) = (map.columns.len(), schema.columns.len());
            return Err(disagree(format!("{there} columns instead of {here}")));
        }
        let (mut plans, mut builders) = (Vec::new(), Vec::new());
        for (column, wire) in schema.columns.iter().zip(&map.columns) {
            let wanted = MysqlType::parse(&column.source_type)
                .map_err(|e| e.with("column", &column.name).with("table", &schema.name))?;
            if let Some(name) = wire.name.as_ref().filter(|n| !n.eq_ignore_ascii_case(&column.name) && n.is_ascii()) {
                return Err(disagree(format!("column {name} instead of {}", column.name)));
            }
            if let Some(what) = contradiction(wire, &wanted) {
                return Err(disagree(format!("column {} is {what} instead of {wanted}", column.name)));
            }
            let plan = plan(wire.kind, wire.meta, &wanted, options.zero_dates)
                .map_err(|what| disagree(format!("column {} is {what} instead of {wanted}", column.name)))?;
            builders.push(Builder::new(&wanted)?);
            plans.push(plan);
        }
        let keys = schema.key_indexes();
        let key: Vec<bool> = (0..plans.len()).map(|i| keys.is_empty() || keys.contains(&i)).collect();
        let key_end = key.iter().rposition(|k| *k).map_or(0, |last| last + 1);
        let wire = map.columns.clone();
        Ok(TableDecoder {
            schema: Arc::clone(schema),
            wire,
            plans,
            key,
            key_end,
            builders,
            ops: Vec::new(),
            committed: 0,
            discarded: Vec::new(),
            key_changes: 0,
        })
    }

    pub(super) fn schema(&self) -> &Arc<TableSchema> {
        &self.schema
    }

    /// Whether rows behind this table map are decoded the same way.
    pub(super) fn fits(&self, map: &TableMap) -> bool {
        self.wire == map.columns
    }

    /// Rows gathered.
    pub(super) fn rows(&self) -> usize {
        self.ops.len()
    }

    /// Rows of the transaction that is not complete.
    pub(super) fn uncommitted(&self) -> usize {
        self.ops.len() - self.committed
    }

    /// The transaction is complete.
    pub(super) fn commit(&mut self) {
        self.committed = self.ops.len();
    }

    /// Throws rows away that were rolled back: of the transaction that is not complete those from this ordinal on.
    pub(super) fn discard_from(&mut self, row: usize) {
        let from = row.max(self.committed);
        if from < self.ops.len() {
            self.discarded.push(from..self.ops.len());
        }
    }

    /// Decodes the rows behind the post-header of a row event: number of columns, bitmaps, rows. Gives their number.
    ///
    /// # Errors
    /// `Data`, `Schema`, `Unsupported`: this table cannot be followed. What was gathered is then of no use any more.
    pub(super) fn apply(&mut self, change: Change, body: &[u8]) -> Result<usize> {
        let mut c = Cursor::new(body);
        let columns = c.length().ok_or_else(|| self.malformed())?;
        if columns != self.plans.len() as u64 {
            return Err(self.malformed());
        }
        let bitmaps = if change == Change::Update { 2 } else { 1 };
        for _ in 0..bitmaps {
            let present = c.take(self.plans.len().div_ceil(8)).ok_or_else(|| self.malformed())?;
            if let Some(missing) = (0..self.plans.len()).find(|i| !bit(present, *i)) {
                return Err(Error::unsupported("the log holds rows without all of their columns")
                    .with("table", &self.schema.name)
                    .with("column", &self.schema.columns[missing].name)
                    .hint("SET GLOBAL binlog_row_image = 'FULL', also in sessions that set it themselves, and sync the table anew"));
            }
        }
        let before = self.ops.len();
        while !c.is_empty() {
            match change {
                Change::Insert => self.append(&mut c, OP_UPSERT)?,
                Change::Delete => self.append(&mut c, OP_DELETE)?,
                Change::Update => self.update(&mut c)?,
            }
        }
        Ok(self.ops.len() - before)
    }

    /// Decodes an image as a row. A delete takes only what identifies the row.
    #[inline]
    fn append(&mut self, c: &mut Cursor<'_>, op: i8) -> Result<()> {
        let nulls = c.take(self.plans.len().div_ceil(8)).ok_or_else(|| self.malformed())?;
        let mut failed = None;
        for (i, (plan, builder)) in self.plans.iter().zip(&mut self.builders).enumerate() {
            if bit(nulls, i) {
                builder.append_null();
                continue;
            }
            let done = match plan.width.cut(c) {
                None => Err(Bad::Malformed),
                Some(_) if op == OP_DELETE && !self.key[i] => {
                    builder.append_null();
                    Ok(())
                }
                Some(bytes) => (plan.decode)(bytes, &plan.params, builder),
            };
            if let Err(bad) = done {
                failed = Some((i, bad));
                break;
            }
        }
        match failed {
            Some((column, bad)) => Err(self.bad(column, bad)),
            None => {
                self.ops.push(op);
                Ok(())
            }
        }
    }

    /// An update is an upsert of the new image, and when the key is another one, before it a delete of the old.
    fn update(&mut self, c: &mut Cursor<'_>) -> Result<()> {
        let mut old = *c;
        self.skip(c, self.plans.len())?;
        if !self.schema.has_key() || self.key_changed(old, *c)? {
            self.key_changes += 1;
            self.append(&mut old, OP_DELETE)?;
        }
        self.append(c, OP_UPSERT)
    }

    /// Steps over an image.
    fn skip(&self, c: &mut Cursor<'_>, columns: usize) -> Result<()> {
        let nulls = c.take(self.plans.len().div_ceil(8)).ok_or_else(|| self.malformed())?;
        for (i, plan) in self.plans.iter().enumerate().take(columns) {
            if !bit(nulls, i) {
                plan.width.cut(c).ok_or_else(|| self.bad(i, Bad::Malformed))?;
            }
        }
        Ok(())
    }

    fn key_changed<'a>(&self, mut old: Cursor<'a>, mut new: Cursor<'a>) -> Result<bool> {
        let bitmap = self.plans.len().div_ceil(8);
        let nulls = old.take(bitmap).zip(new.take(bitmap)).ok_or_else(|| self.malformed())?;
        for (i, plan) in self.plans.iter().enumerate().take(self.key_end) {
            let value =
                |nulls: &[u8], c: &mut Cursor<'a>| if bit(nulls, i) { Some(None) } else { plan.width.cut(c).map(Some) };
            let values = value(nulls.0, &mut old).zip(value(nulls.1, &mut new));
            let (old, new) = values.ok_or_else(|| self.bad(i, Bad::Malformed))?;
            if self.key[i] && old != new {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What was gathered as one batch; `None` when that is nothing.
    ///
    /// # Errors
    /// `Internal` when columns and schema don't fit.
    pub(super) fn take(&mut self) -> Result<Option<ChangeBatch>> {
        let rows = self.ops.len();
        self.committed = 0;
        if rows == 0 {
            return Ok(None);
        }
        let columns = self.builders.iter_mut().map(Builder::finish).collect();
        let ops = Int8Array::from(std::mem::take(&mut self.ops));
        let batch = ChangeBatch::new(Arc::clone(&self.schema), columns, ops)?;
        if self.discarded.is_empty() {
            return Ok(Some(batch));
        }
        let mut stays = vec![true; rows];
        for range in self.discarded.drain(..) {
            stays[range].fill(false);
        }
        let rows = filter_record_batch(&batch.rows, &BooleanArray::from(stays))
            .map_err(|e| Error::internal("rows that were rolled back cannot be left out").because(e))?;
        Ok(Some(ChangeBatch { rows, ..batch }).filter(|b| b.rows.num_rows() > 0))
    }

    fn malformed(&self) -> Error {
        Bad::Malformed.error().with("table", &self.schema.name)
    }

    fn bad(&self, column: usize, bad: Bad) -> Error {
        bad.error().with("column", &self.schema.columns[column].name).with("table", &self.schema.name)
    }
}

/// What the log says about a column that the schema says otherwise.
fn contradiction(wire: &WireColumn, wanted: &MysqlType) -> Option<String> {
    let unsigned = match wanted {
        MysqlType::TinyInt { unsigned }
        | MysqlType::SmallInt { unsigned }
        | MysqlType::MediumInt { unsigned }
        | MysqlType::Int { unsigned }
        | MysqlType::BigInt { unsigned } => Some(*unsigned),
        _ => None,
    };
    if let (Some(there), Some(here)) = (wire.unsigned, unsigned)
        && there != here
    {
        return Some(if there { "unsigned" } else { "signed" }.to_string());
    }
    let here = match wanted {
        MysqlType::Char { charset, .. } | MysqlType::VarChar { charset, .. } | MysqlType::Text { charset, .. } => {
            charset.name()
        }
        MysqlType::Binary { .. } | MysqlType::VarBinary { .. } | MysqlType::Blob { .. } => "binary",
        _ => return None,
    };
    let there = charset_of(wire.collation?)?;
    (there != here).then(|| format!("in character set {there}"))
}

/// The character set of a collation, for the sets that we read and numbers that are certain.
fn charset_of(collation: u16) -> Option<&'static str> {
    Some(match collation {
        63 => "binary",
        5 | 8 | 15 | 31 | 47..=49 | 94 => "latin1",
        11 | 65 => "ascii",
        33 | 83 | 192..=215 | 223 => "utf8mb3",
        45 | 46 | 224..=247 | 255..=323 => "utf8mb4",
        _ => return None,
    })
}

#[inline]
fn bit(bits: &[u8], place: usize) -> bool {
    bits.get(place >> 3).is_some_and(|b| b >> (place & 7) & 1 == 1)
}
