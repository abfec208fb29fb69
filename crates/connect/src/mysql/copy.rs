//! The copy of a table: ranges of its key, each read by one SELECT in key order, at a time when everything before the
//! low position is certainly visible. Single rows are read back by their keys; `cut.rs` reads tables without a key.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::Schema;
use freshet_core::schema::quote_name;
use freshet_core::{Error, KeyRange, Position, Result, Split, TableSchema};

use super::MySql;
use super::binlog::gtid::GtidSet;
use super::binlog::position::LogPosition;
use super::discover::{Definition, definition, difference, snapshot_position};
use super::key::Key;
use super::text_values::{RowDecoder, TextBatches, expression, table_changed};
use super::types::MysqlType;
use super::wire::{Connection, Flavour};

/// How long to wait until what is before the low position is visible.
const VISIBLE_SECONDS: u32 = 30;
const VISIBLE_PAUSE: Duration = Duration::from_millis(20);
/// A range of integers is cut evenly when that gives no more splits than this, however few rows they may hold …
const EVEN_SPLITS: u64 = 64;
/// … or no more than this many times those that the estimate of rows asks for.
const EVEN_FACTOR: u64 = 3;

impl MySql {
    /// Integer keys that are not too sparse are cut evenly: as they are unique, no split can hold more rows than it
    /// holds numbers. All others are cut by stepping through the key's index, which is exact and goes by the columns'
    /// own collations; that reads the index once.
    pub(super) async fn cut_into_splits(&self, table: &TableSchema, rows: u64) -> Result<Vec<Split>> {
        let mut c = self.session().await?;
        let found = definition(&mut c, &table.name).await?.ok_or_else(|| gone(table))?;
        let key = Key::of(table, found.key_index.as_deref())?;
        let estimate = found.found.rows.unwrap_or(0);
        let rows = rows.max(1);
        let bounds = match key.integer() {
            Some(_) => even_bounds(&mut c, &key, estimate, rows).await?,
            None => None,
        };
        let bounds = match bounds {
            Some(bounds) => bounds,
            None if key.is_ordered() => stepped_bounds(&mut c, &key, rows).await?,
            None => Vec::new(),
        };
        Ok(splits_between(bounds, rows, estimate))
    }

    /// Selects the rows of a range, in key order; and whether the key of any row can be the bound of a range.
    pub(super) async fn select_range(
        &self,
        table: &Arc<TableSchema>,
        range: &KeyRange,
        low: &Position,
    ) -> Result<(TextBatches, bool)> {
        let mut c = self.session_at(&LogPosition::parse(low)?).await?;
        let context = |e: Error| table_changed(e).with("table", &table.name);
        open_snapshot(self, &mut c, table, low).await.map_err(context)?;
        let found = hold(&mut c, table).await?;
        let key = Key::of(table, found.key_index.as_deref())?;
        let sql = key.select(&columns_of(table)?, range)?;
        Ok((self.batches(c, table, &sql).await?, key.is_ordered()))
    }

    /// The rows that these keys have now. A statement takes only so many keys, so that it stays small.
    pub(super) async fn rows_of_keys(
        &self,
        table: &Arc<TableSchema>,
        keys: &RecordBatch,
        low: &Position,
    ) -> Result<RecordBatch> {
        let mut c = self.session().await?;
        open_snapshot(self, &mut c, table, low).await.map_err(|e| table_changed(e).with("table", &table.name))?;
        hold(&mut c, table).await?;
        let columns = columns_of(table)?;
        let mut found = Vec::new();
        for sql in Key::of(table, None)?.select_each(&columns, table, keys)? {
            let mut rows = c.into_stream(&sql).await.map_err(|e| table_changed(e).with("table", &table.name))?;
            let mut decoder = RowDecoder::new(table, self.address.decode)?;
            while let Some(batch) = decoder.fill(&mut rows, table).await? {
                found.push(batch);
            }
            c = rows.into_connection();
        }
        let fields = Arc::new(Schema::new(table.arrow_fields()));
        concat_batches(&fields, &found)
            .map_err(|e| Error::internal("rows read back do not fit the table").with("table", &table.name).because(e))
    }

    /// Runs a statement that selects the table's columns.
    pub(super) async fn batches(&self, c: Connection, table: &Arc<TableSchema>, sql: &str) -> Result<TextBatches> {
        let rows = c.into_stream(sql).await.map_err(|e| table_changed(e).with("table", &table.name))?;
        let decoder = RowDecoder::new(table, self.address.decode)?;
        Ok(TextBatches { rows, decoder, table: Arc::clone(table) })
    }
}

/// From here to the end of the connection's transaction nobody can alter the table, and it is as `table` says.
///
/// # Errors
/// `Schema` when it is not.
pub(super) async fn hold(c: &mut Connection, table: &TableSchema) -> Result<Definition> {
    let context = |e: Error| table_changed(e).with("table", &table.name);
    c.execute(&format!("SELECT 1 FROM {} LIMIT 0", table.name.quoted())).await.map_err(context)?;
    let found = definition(c, &table.name).await?.ok_or_else(|| gone(table))?;
    let schema = found.found.schema.clone()?;
    match difference(table, &schema) {
        Some(what) => Err(context(Error::schema("the table is no longer as it was when its copy began").because(what))),
        None => Ok(found),
    }
}

/// The table's columns as a statement selects them from `t`.
pub(super) fn columns_of(table: &TableSchema) -> Result<String> {
    let mut columns = Vec::with_capacity(table.columns.len());
    for column in &table.columns {
        let of = MysqlType::parse(&column.source_type)
            .map_err(|e| e.with("column", &column.name).with("table", &table.name))?;
        columns.push(expression(&format!("t.{}", quote_name(&column.name)), &of));
    }
    Ok(columns.join(", "))
}

fn gone(table: &TableSchema) -> Error {
    Error::schema("the table is no longer there").with("table", &table.name)
}

/// Splits between these keys, which are in order.
fn splits_between(bounds: Vec<Vec<String>>, rows: u64, estimate: u64) -> Vec<Split> {
    let count = bounds.len() as u64 + 1;
    let each = if count == 1 { estimate } else { rows.min(estimate.div_ceil(count).max(1)) };
    let mut from = None;
    let mut splits = Vec::with_capacity(bounds.len() + 1);
    for (number, to) in bounds.into_iter().map(Some).chain([None]).enumerate() {
        let range = KeyRange { from: from.take(), to: to.clone() };
        splits.push(Split { number: number as u32, range, rows: each });
        from = to;
    }
    splits
}

/// Cuts the numbers between the smallest and the largest key evenly; `None` when they are too sparse for that.
async fn even_bounds(c: &mut Connection, key: &Key, estimate: u64, rows: u64) -> Result<Option<Vec<Vec<String>>>> {
    let Some(column) = key.integer() else { return Ok(None) };
    let found = c.query(&format!("SELECT MIN({column}), MAX({column}) FROM {} AS t", key.table())).await?;
    let ends = found.first().and_then(|r| Some((r.number::<i128>(0)?, r.number::<i128>(1)?)));
    let Some((min, max)) = ends else { return Ok(Some(Vec::new())) };
    let width = i128::from(rows);
    let splits = u64::try_from((max - min) / width + 1).unwrap_or(u64::MAX);
    if splits > EVEN_SPLITS.max(estimate.saturating_mul(EVEN_FACTOR) / rows) {
        return Ok(None);
    }
    Ok(Some((1..i128::from(splits)).map(|n| vec![(min + n * width).to_string()]).collect()))
}

/// Every `rows`th key.
async fn stepped_bounds(c: &mut Connection, key: &Key, rows: u64) -> Result<Vec<Vec<String>>> {
    let mut bounds: Vec<Vec<String>> = Vec::new();
    loop {
        let range = KeyRange { from: bounds.last().cloned(), to: None };
        let sql = format!("{} LIMIT 1 OFFSET {rows}", key.select(&key.texts(), &range)?);
        let found = c.query(&sql).await?;
        let Some(row) = found.first() else { return Ok(bounds) };
        let next: Option<Vec<String>> = (0..row.values.len()).map(|i| row.get_str(i).map(str::to_string)).collect();
        match next {
            Some(next) if bounds.last() != Some(&next) => bounds.push(next),
            _ => return Err(Error::data("the keys of the table cannot be stepped through").with("statement", sql)),
        }
    }
}

/// Opens a consistent snapshot that sees everything before `low`.
async fn open_snapshot(source: &MySql, c: &mut Connection, table: &TableSchema, low: &Position) -> Result<()> {
    const OPEN: &str = "START TRANSACTION WITH CONSISTENT SNAPSHOT";
    let low = LogPosition::parse(low)?;
    if c.server.flavour == Flavour::MariaDb {
        return snapshot_at(c, &low).await.map(drop);
    }
    if let Some(gtids @ GtidSet::MySql(_)) = low.known_gtids() {
        let rows = c.query(&format!("SELECT WAIT_FOR_EXECUTED_GTID_SET('{gtids}', {VISIBLE_SECONDS})")).await?;
        return match rows.first().and_then(|r| r.number::<u8>(0)) {
            Some(0) => c.execute(OPEN).await,
            _ => Err(not_visible(&low)),
        };
    }
    // The lock is granted when all who wrote to the table have committed, in the engine as well as in the log; the
    // snapshot is another connection's, because opening it would end the lock.
    let mut lock = source.session_at(&low).await?;
    lock.execute(&format!("LOCK TABLES {} READ", table.name.quoted())).await?;
    let opened = c.execute(OPEN).await;
    lock.execute("UNLOCK TABLES").await?;
    opened
}

/// MariaDB: opens snapshots until one is at or behind `low`; gives its place, without the transactions before it.
pub(super) async fn snapshot_at(c: &mut Connection, low: &LogPosition) -> Result<LogPosition> {
    let attempts = VISIBLE_SECONDS * 1000 / VISIBLE_PAUSE.as_millis() as u32;
    for _ in 0..attempts {
        c.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT").await?;
        let (file, offset) = snapshot_position(c).await?;
        let here = LogPosition::at(file, offset, None);
        let there = LogPosition { gtids: None, ..low.clone() };
        match here.compare(&there) {
            Some(Ordering::Greater | Ordering::Equal) => return Ok(here),
            Some(Ordering::Less) => c.execute("ROLLBACK").await?,
            None => {
                return Err(Error::source_state("the server's log is not the one in which the copy began")
                    .with("position", low)
                    .with("now", here)
                    .hint("the log's base name was changed, or another server answers: start the copy again"));
            }
        }
        tokio::time::sleep(VISIBLE_PAUSE).await;
    }
    Err(not_visible(low))
}

fn not_visible(low: &LogPosition) -> Error {
    Error::source_unavailable("the server does not show what it logged before the copy began")
        .with("position", low)
        .hint("it may be a replica that lags, or its log may have been reset")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_cover_everything() {
        let bound = |s: &str| vec![s.to_string()];
        let splits = splits_between(vec![bound("10"), bound("20")], 10, 25);
        let ranges: Vec<_> = splits.iter().map(|s| (s.range.from.clone(), s.range.to.clone(), s.rows)).collect();
        assert_eq!(
            ranges,
            [(None, Some(bound("10")), 9), (Some(bound("10")), Some(bound("20")), 9), (Some(bound("20")), None, 9)]
        );
        let whole = splits_between(Vec::new(), 10, 3);
        assert_eq!(whole, [Split { number: 0, range: KeyRange::default(), rows: 3 }]);
    }
}
