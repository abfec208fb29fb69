//! Row events, straight into the Arrow builders of their table.
//!
//! Servers may be told to log a part of each row only (`binlog_row_image`, `SET` by every session as it likes), and
//! what a missing column means depends on the event. In an insert it is the column's default, which is filled in here.
//! In an update it is unchanged: the old image is looked at next, and what neither holds stays absent from the batch.
//! A batch has rows of one set of columns; where the set changes, the next one begins.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int8Array};
use arrow::compute::filter_record_batch;
use freshet_core::batch::{OP_DELETE, OP_MOVE, OP_UPSERT};
use freshet_core::{ChangeBatch, DefaultValue, Error, Result, TableSchema};

use super::super::ddl::{GENERATED_MARK, UNIQUE_KEY_MARK, implicit_default};
use super::super::text_values::constant;
use super::super::types::{DecodeOptions, MysqlType, ZeroDates};
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

/// What an insert means by not naming a column.
enum Fill {
    Null,
    Value(ArrayRef),
    /// It cannot be told, for this reason.
    Unknown(String),
}

/// A column of a row image.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cell<'a> {
    Absent,
    Null,
    Value(&'a [u8]),
}

/// Decodes the rows of one table in one schema and gathers them.
pub(super) struct TableDecoder {
    schema: Arc<TableSchema>,
    options: DecodeOptions,
    mariadb: bool,
    /// What the plans were made for.
    wire: Vec<WireColumn>,
    plans: Vec<Plan>,
    /// Whether a column belongs to the key; without a key all do.
    key: Vec<bool>,
    /// The number of columns up to the last one of the key.
    key_end: usize,
    /// What absent columns of inserts are; made when the first one is met.
    fills: Option<Vec<Fill>>,
    /// Which columns the rows in the builders have.
    present: Vec<bool>,
    builders: Vec<Builder>,
    ops: Vec<i8>,
    /// Batches before those rows.
    ready: Vec<ChangeBatch>,
    ready_rows: usize,
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
    pub(super) fn new(
        schema: &Arc<TableSchema>,
        map: &TableMap,
        options: DecodeOptions,
        mariadb: bool,
    ) -> Result<Self> {
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
        Ok(TableDecoder {
            schema: Arc::clone(schema),
            options,
            mariadb,
            wire: map.columns.clone(),
            fills: None,
            present: vec![true; plans.len()],
            plans,
            key,
            key_end,
            builders,
            ops: Vec::new(),
            ready: Vec::new(),
            ready_rows: 0,
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
        self.ready_rows + self.ops.len()
    }

    /// Rows of the transaction that is not complete.
    pub(super) fn uncommitted(&self) -> usize {
        self.rows() - self.committed
    }

    /// The transaction is complete.
    pub(super) fn commit(&mut self) {
        self.committed = self.rows();
    }

    /// Throws rows away that were rolled back: of the transaction that is not complete those from this ordinal on.
    pub(super) fn discard_from(&mut self, row: usize) {
        let from = row.max(self.committed);
        if from < self.rows() {
            self.discarded.push(from..self.rows());
        }
    }

    /// Decodes the rows behind the post-header of a row event: number of columns, bitmaps, rows. Gives their number.
    /// `replaces`: the statement is one of MariaDB's REPLACE, which logs an update without the columns that it sets back
    /// to their defaults.
    ///
    /// # Errors
    /// `Data`, `Schema`, `Unsupported`: this table cannot be followed. What was gathered is then of no use any more.
    pub(super) fn apply(&mut self, change: Change, body: &[u8], replaces: bool) -> Result<usize> {
        let mut c = Cursor::new(body);
        let columns = c.length().ok_or_else(|| self.malformed())?;
        if columns != self.plans.len() as u64 {
            return Err(self.malformed());
        }
        let count = self.plans.len();
        let first = c.take(count.div_ceil(8)).ok_or_else(|| self.malformed())?;
        let second = match change {
            Change::Update => c.take(count.div_ceil(8)).ok_or_else(|| self.malformed())?,
            _ => first,
        };
        let before = self.rows();
        if !(0..count).all(|i| bit(first, i) && bit(second, i)) {
            let columns = |bits| (0..count).map(|i| bit(bits, i)).collect::<Vec<bool>>();
            self.apply_partial(change, &mut c, &columns(first), &columns(second), replaces)?;
            return Ok(self.rows() - before);
        }
        if self.present.contains(&false) {
            self.switch_to(&vec![true; count])?;
        }
        while !c.is_empty() {
            match change {
                Change::Insert => self.append(&mut c, OP_UPSERT)?,
                Change::Delete => self.append(&mut c, OP_DELETE)?,
                Change::Update => self.update(&mut c)?,
            }
        }
        Ok(self.rows() - before)
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

    // Rows without all of their columns.

    /// `first` and `second` say which columns the event's images hold: an update has an old and a new one.
    fn apply_partial(
        &mut self,
        change: Change,
        c: &mut Cursor<'_>,
        first: &[bool],
        second: &[bool],
        replaces: bool,
    ) -> Result<()> {
        let all = vec![true; self.plans.len()];
        let either: Vec<bool> = first.iter().zip(second).map(|(a, b)| a | b).collect();
        let key_absent = |image: &[bool]| (0..all.len()).find(|i| self.key[*i] && !image[*i]);
        if change != Change::Insert
            && let Some(missing) = key_absent(first)
        {
            return Err(self.not_logged(missing, "which identifies the row"));
        }
        let replaces = replaces && change == Change::Update;
        if replaces && let Some(missing) = key_absent(second) {
            return Err(self.not_logged(missing, "which identifies the row"));
        }
        match change {
            _ if replaces || change == Change::Insert => {
                self.switch_to(&all)?;
                if self.fills.is_none() {
                    self.fills = Some(self.fills()?);
                }
            }
            // A delete's other columns mean nothing, so that it fits in wherever it comes.
            Change::Insert | Change::Delete => {}
            Change::Update => {
                let unknown = |i: &usize| self.mariadb && !either[*i] && self.is_generated(*i);
                if let Some(generated) = (0..all.len()).find(unknown) {
                    return Err(self.not_logged(generated, "which the server computes"));
                }
                self.switch_to(&either)?;
            }
        }
        let moved = if replaces || either.iter().all(|p| *p) { OP_DELETE } else { OP_MOVE };
        while !c.is_empty() {
            let old = self.image(c, first)?;
            match change {
                Change::Insert => self.append_cells(&old, OP_UPSERT)?,
                Change::Delete => self.append_cells(&old, OP_DELETE)?,
                Change::Update => {
                    let mut new = self.image(c, second)?;
                    for (new, old) in new.iter_mut().zip(&old).filter(|(new, _)| **new == Cell::Absent && !replaces) {
                        *new = *old;
                    }
                    let changed = (0..self.key_end).any(|i| self.key[i] && old[i] != new[i]);
                    if changed || !self.schema.has_key() {
                        self.append_cells(&old, moved)?;
                    }
                    self.append_cells(&new, OP_UPSERT)?;
                }
            }
        }
        Ok(())
    }

    /// Cuts an image into its columns. Only those that it holds have a bit for NULL.
    fn image<'a>(&self, c: &mut Cursor<'a>, holds: &[bool]) -> Result<Vec<Cell<'a>>> {
        let count = holds.iter().filter(|h| **h).count();
        let nulls = c.take(count.div_ceil(8)).ok_or_else(|| self.malformed())?;
        let mut cells = vec![Cell::Absent; holds.len()];
        for (place, (i, plan)) in self.plans.iter().enumerate().filter(|(i, _)| holds[*i]).enumerate() {
            cells[i] = match bit(nulls, place) {
                true => Cell::Null,
                false => Cell::Value(plan.width.cut(c).ok_or_else(|| self.bad(i, Bad::Malformed))?),
            };
        }
        Ok(cells)
    }

    /// Appends a row of the columns that the builders have.
    fn append_cells(&mut self, cells: &[Cell<'_>], op: i8) -> Result<()> {
        for i in (0..cells.len()).filter(|i| self.present[*i]) {
            let (plan, builder) = (&self.plans[i], &mut self.builders[i]);
            let done = match cells[i] {
                _ if op != OP_UPSERT && !self.key[i] => {
                    builder.append_null();
                    Ok(())
                }
                Cell::Null => {
                    builder.append_null();
                    Ok(())
                }
                Cell::Value(bytes) => (plan.decode)(bytes, &plan.params, builder),
                Cell::Absent => match self.fills.as_ref().map(|f| &f[i]) {
                    Some(Fill::Null) => {
                        builder.append_null();
                        Ok(())
                    }
                    Some(Fill::Value(value)) => builder.append_constant(value),
                    Some(Fill::Unknown(why)) => {
                        let why = why.clone();
                        return Err(self.not_logged(i, &why));
                    }
                    None => Err(Bad::Malformed),
                },
            };
            done.map_err(|bad| self.bad(i, bad))?;
        }
        self.ops.push(op);
        Ok(())
    }

    fn is_generated(&self, column: usize) -> bool {
        let of = &self.schema.columns[column].source_type;
        of.strip_suffix(UNIQUE_KEY_MARK).unwrap_or(of).ends_with(GENERATED_MARK)
    }

    /// What each column is in an insert that does not hold it.
    fn fills(&self) -> Result<Vec<Fill>> {
        let fill = |i: usize| -> Result<Fill> {
            let column = &self.schema.columns[i];
            if self.is_generated(i) {
                return Ok(Fill::Unknown("which the server computes".into()));
            }
            let of = MysqlType::parse(&column.source_type)?;
            let zero_date = matches!(of, MysqlType::Date | MysqlType::DateTime { .. } | MysqlType::Timestamp { .. })
                && self.options.zero_dates == ZeroDates::Null;
            let default = match &column.default {
                None if column.nullable => return Ok(Fill::Null),
                None if zero_date => return Ok(Fill::Null),
                None => implicit_default(&of),
                default => default.clone(),
            };
            Ok(match default {
                Some(DefaultValue::Literal(text)) => match constant(&of, &text, self.options) {
                    Some(value) => Fill::Value(value),
                    None => Fill::Unknown(format!("whose default '{text}' is not understood")),
                },
                Some(DefaultValue::CurrentTimestamp(_)) => Fill::Unknown("whose default is the time".into()),
                Some(DefaultValue::Expression(text)) if zero_date && text.starts_with("'0000-00-00") => Fill::Null,
                Some(DefaultValue::Expression(text)) => Fill::Unknown(format!("whose default is {text}")),
                None => Fill::Unknown("which has no default that could be stored".into()),
            })
        };
        (0..self.plans.len()).map(fill).collect()
    }

    fn not_logged(&self, column: usize, what: &str) -> Error {
        let name = &self.schema.columns[column].name;
        Error::unsupported(format!("the log holds rows without the column {name}, {what}"))
            .with("table", &self.schema.name)
            .hint(
                "SET GLOBAL binlog_row_image = 'FULL', also in sessions that set it themselves, and sync the table anew",
            )
    }

    // Batches.

    /// The next rows have these columns.
    fn switch_to(&mut self, present: &[bool]) -> Result<()> {
        if self.present != present {
            self.finish()?;
            self.present.copy_from_slice(present);
        }
        Ok(())
    }

    /// Makes a batch of the rows in the builders.
    fn finish(&mut self) -> Result<()> {
        if self.ops.is_empty() {
            return Ok(());
        }
        let ops = Int8Array::from(std::mem::take(&mut self.ops));
        self.ready_rows += ops.len();
        let places: Vec<usize> = (0..self.present.len()).filter(|i| self.present[*i]).collect();
        let columns = places.iter().map(|i| self.builders[*i].finish()).collect();
        let schema = Arc::clone(&self.schema);
        self.ready.push(match places.len() == self.present.len() {
            true => ChangeBatch::new(schema, columns, ops)?,
            false => ChangeBatch::partial(schema, &places, columns, ops)?,
        });
        Ok(())
    }

    /// What was gathered and not rolled back, in order.
    ///
    /// # Errors
    /// `Internal` when columns and schema don't fit.
    pub(super) fn take(&mut self) -> Result<Vec<ChangeBatch>> {
        self.finish()?;
        (self.committed, self.ready_rows) = (0, 0);
        let ready = std::mem::take(&mut self.ready);
        if self.discarded.is_empty() {
            return Ok(ready);
        }
        let mut stays = vec![true; ready.iter().map(|b| b.rows.num_rows()).sum()];
        for range in self.discarded.drain(..) {
            stays[range].fill(false);
        }
        let mut rest = BooleanArray::from(stays);
        let mut out = Vec::with_capacity(ready.len());
        for batch in ready {
            let count = batch.rows.num_rows();
            let rows = filter_record_batch(&batch.rows, &rest.slice(0, count))
                .map_err(|e| Error::internal("rows that were rolled back cannot be left out").because(e))?;
            rest = rest.slice(count, rest.len() - count);
            out.extend((rows.num_rows() > 0).then_some(ChangeBatch { rows, ..batch }));
        }
        Ok(out)
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
