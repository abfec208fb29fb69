//! `verify`: proof that source and target are equal, while changes flow, never through our own decoder alone. Per key
//! range the source is read as text that its server renders, the log's end is noted, and when the job has applied that
//! the target is read. A range that differs is read again key by key: source, wait, target, source; a key counts as
//! different only when both source reads agree and the target still differs, several times in a row.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, AsArray, RecordBatch, StringArray};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use crate::connector::{KeyRange, Sink, Source};
use crate::datatype::DataType;
use crate::engine::job::Ask;
use crate::engine::{Engine, JobState};
use crate::error::{Error, Result};
use crate::pattern::TablePattern;
use crate::position::Position;
use crate::schema::{TableName, TableSchema};
use crate::store::{Apart, TableRecord, TableState};
use crate::text::render;

/// Rows of a range.
const RANGE_ROWS: u64 = 50_000;
/// Keys that are compared one by one at the same time.
const KEYS_AT_ONCE: u64 = 500_000;
/// So many times in a row must a key differ.
const ROUNDS: usize = 3;
/// Differing keys that a report lists per table.
const LISTED: usize = 100;
/// The longest that the job may take to apply what the source had when a range was read.
const APPLY_WITHIN: Duration = Duration::from_secs(300);
/// Between the parts of a key's text.
const KEY_SEPARATOR: char = '\u{1f}';

/// What to verify.
#[derive(Debug, Clone, Default)]
pub struct VerifyOptions {
    /// Only these tables.
    pub tables: Option<TablePattern>,
    /// At most so many key ranges of each table, spread evenly; `None`: all.
    pub sample: Option<u64>,
    /// Keys that differ are written anew, as the source has them; the report then says so, and still counts them.
    pub repair: bool,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VerifyReport {
    /// Whether every table was compared and is equal.
    pub equal: bool,
    /// The tables by name.
    pub tables: Vec<TableReport>,
}

/// What was found of one table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TableReport {
    /// Its name at the source.
    pub name: TableName,
    /// Whether it is equal.
    pub equal: bool,
    /// Rows at the source when they were read.
    pub rows: u64,
    /// Key ranges that were compared.
    pub ranges: u64,
    /// How many keys differ.
    pub differing: u64,
    /// The first of them.
    pub keys: Vec<Difference>,
    /// How many of them were written anew.
    #[serde(default)]
    pub repaired: u64,
    /// What was not compared, because the job's policy for schema changes left it out at the target.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
    /// Why it could not be compared.
    pub error: Option<Error>,
}

/// A key that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Canonical text of the key's columns.
    pub key: Vec<String>,
    /// What is wrong with it.
    pub what: Mismatch,
}

/// How a key differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mismatch {
    /// The source has it, the target not.
    Missing,
    /// The target has it, the source not.
    Extra,
    /// Both have it, with other values.
    Changed,
}

/// Count and order-independent checksum of a set of rows.
#[derive(Debug, Default, PartialEq, Eq, Clone, Copy)]
struct Sum {
    rows: u64,
    hash: u128,
}

/// Keys of one part of a table, with the hash of their rows.
type Keys = BTreeMap<String, u128>;

/// The part of a table's keys that is looked at: those whose hash leaves `remainder`.
#[derive(Debug, Clone, Copy)]
struct Part {
    of: u64,
    remainder: u64,
}

struct Verifier<'a> {
    engine: &'a Engine,
    job: &'a str,
    source: Arc<dyn Source>,
    sink: Arc<dyn Sink>,
    options: VerifyOptions,
}

impl Engine {
    /// Compares source and target of a job's tables. `progress` is told of each range.
    ///
    /// # Errors
    /// `NotFound`, or that the source or the job cannot be asked.
    pub async fn verify(
        &self,
        job: &str,
        options: VerifyOptions,
        progress: &(dyn Fn(&TableReport) + Send + Sync),
    ) -> Result<VerifyReport> {
        let record = self.store.job(job)?.ok_or_else(|| self.no_job(job))?;
        let verifier = Verifier {
            engine: self,
            job,
            source: (self.connectors.source)(&record.spec.source)?,
            sink: (self.connectors.sink)(&record.spec.sink)?,
            options,
        };
        let mut tables = Vec::new();
        for table in self.store.tables(job)? {
            if verifier.options.tables.as_ref().is_none_or(|p| p.matches(&table.name)) {
                tables.push(verifier.table(&table, progress).await);
            }
        }
        Ok(VerifyReport { equal: !tables.is_empty() && tables.iter().all(|t| t.equal), tables })
    }
}

impl Verifier<'_> {
    async fn table(&self, record: &TableRecord, progress: &(dyn Fn(&TableReport) + Send + Sync)) -> TableReport {
        let mut report = TableReport {
            name: record.name.clone(),
            equal: false,
            rows: 0,
            ranges: 0,
            differing: 0,
            keys: Vec::new(),
            repaired: 0,
            left_out: Vec::new(),
            error: None,
        };
        if let Err(error) = self.compare(record, &mut report, progress).await {
            report.error = Some(error);
        }
        report.equal = report.error.is_none() && report.differing == 0;
        progress(&report);
        report
    }

    async fn compare(
        &self,
        record: &TableRecord,
        report: &mut TableReport,
        progress: &(dyn Fn(&TableReport) + Send + Sync),
    ) -> Result<()> {
        match &record.state {
            TableState::Suspended { error, .. } => return Err(error.clone()),
            TableState::Away => {
                return Err(Error::config("the table is still being copied").hint("verify again when it is live"));
            }
            TableState::CatchingUp { .. } | TableState::Live => {}
        }
        let history = self.engine.store.schemas(self.job, &record.name)?;
        let schema = history
            .into_iter()
            .find(|s| s.version == record.schema_version)
            .map(|s| Arc::new(s.schema))
            .ok_or_else(|| Error::corrupt("the store lacks the schema of a table"))?;
        let schema = match &record.apart {
            Some(apart) => Arc::new(comparable(apart, &schema, report)?),
            None => schema,
        };
        let ranges = self.ranges(&schema).await?;
        let every = self.options.sample.map_or(1, |n| ranges.len().div_ceil(n.max(1) as usize)).max(1);
        for range in ranges.into_iter().step_by(every) {
            let source = self.sum(self.source.text(&schema, &range).await?, &schema, None).await?;
            self.applied().await?;
            let target =
                self.sum(self.sink.rows(&record.target, &schema, &range).await?, &schema, Some(&range)).await?;
            report.rows += source.rows;
            report.ranges += 1;
            if source != target {
                self.key_by_key(record, &schema, &range, source.rows.max(target.rows), report).await?;
            }
            progress(report);
        }
        Ok(())
    }

    /// Ranges are of use only where source and target order keys alike: a single integer. Other tables are one range.
    async fn ranges(&self, schema: &TableSchema) -> Result<Vec<KeyRange>> {
        if !is_ordered_alike(schema) {
            return Ok(vec![KeyRange::default()]);
        }
        Ok(self.source.splits(schema, RANGE_ROWS).await?.into_iter().map(|s| s.range).collect())
    }

    /// Waits until everything that the source's log holds now is in the target.
    async fn applied(&self) -> Result<()> {
        let end = self.source.end(None).await?.position;
        let waiting = async {
            loop {
                let status = self.engine.job(self.job)?;
                let here = status.position.as_deref().map(Position::parse);
                if here.is_some_and(|p| self.source.compare(&p, &end).is_some_and(|o| o.is_ge())) {
                    return Ok(());
                }
                if !matches!(
                    status.state,
                    JobState::Starting | JobState::Copying | JobState::Streaming | JobState::Retrying
                ) {
                    return Err(Error::config(format!("the job is {}, and the source is ahead of it", status.state))
                        .with("job", self.job)
                        .hint("start or resume the job, then verify"));
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(APPLY_WITHIN, waiting).await.unwrap_or_else(|_| {
            Err(Error::source_unavailable(format!("the job did not apply what the source has within {APPLY_WITHIN:?}"))
                .with("job", self.job)
                .hint("`freshet status` shows its lag; verify again when it has caught up"))
        })
    }

    async fn key_by_key(
        &self,
        record: &TableRecord,
        schema: &Arc<TableSchema>,
        range: &KeyRange,
        rows: u64,
        report: &mut TableReport,
    ) -> Result<()> {
        let of = rows / KEYS_AT_ONCE + 1;
        for remainder in 0..of {
            let part = Part { of, remainder };
            let mut suspects: Option<BTreeSet<(String, Mismatch)>> = None;
            for _ in 0..ROUNDS {
                let before = self.keys(self.source.text(schema, range).await?, schema, part, None).await?;
                self.applied().await?;
                let rows = self.sink.rows(&record.target, schema, range).await?;
                let target = self.keys(rows, schema, part, Some(range)).await?;
                let after = self.keys(self.source.text(schema, range).await?, schema, part, None).await?;
                let mut found = differing(&before, &target, &after);
                if record.apart.as_ref().is_some_and(|a| a.rows_kept) {
                    found.retain(|(_, what)| *what != Mismatch::Extra);
                }
                let still = suspects.map_or(found.clone(), |s| s.intersection(&found).cloned().collect());
                if still.is_empty() {
                    suspects = None;
                    break;
                }
                suspects = Some(still);
            }
            let suspects = suspects.unwrap_or_default();
            if self.options.repair && !suspects.is_empty() {
                let keys = key_batch(schema, suspects.iter().map(|(key, _)| key.as_str()))?;
                self.engine.ask(self.job, Ask::Repair(record.name.clone(), keys)).await?;
                report.repaired += suspects.len() as u64;
            }
            for (key, what) in suspects {
                report.differing += 1;
                if report.keys.len() < LISTED {
                    let key = key.split(KEY_SEPARATOR).map(str::to_string).collect();
                    report.keys.push(Difference { key, what });
                }
            }
        }
        Ok(())
    }

    async fn sum(
        &self,
        mut rows: Box<dyn crate::BatchStream>,
        schema: &TableSchema,
        within: Option<&KeyRange>,
    ) -> Result<Sum> {
        let mut sum = Sum::default();
        while let Some(batch) = rows.next().await? {
            each_row(&batch, schema, within, |_, hash| {
                sum.rows += 1;
                sum.hash = sum.hash.wrapping_add(hash);
            })?;
        }
        Ok(sum)
    }

    async fn keys(
        &self,
        mut rows: Box<dyn crate::BatchStream>,
        schema: &TableSchema,
        part: Part,
        within: Option<&KeyRange>,
    ) -> Result<Keys> {
        let mut keys = Keys::new();
        while let Some(batch) = rows.next().await? {
            each_row(&batch, schema, within, |key, hash| {
                if xxhash_rust::xxh3::xxh3_64(key.as_bytes()) % part.of == part.remainder {
                    keys.insert(key.to_string(), hash);
                }
            })?;
        }
        Ok(keys)
    }
}

/// The columns in which the target is to be equal; what is left out goes into the report.
fn comparable(apart: &Apart, schema: &TableSchema, report: &mut TableReport) -> Result<TableSchema> {
    if apart.rows_kept && !schema.has_key() {
        return Err(Error::unsupported("the target keeps rows of before the table was emptied, and has no key")
            .hint("copy the table again, then they are equal: freshet resync JOB TABLE"));
    }
    let columns = apart.equal_columns(schema);
    let missing = |c: &&crate::Column| !columns.iter().any(|same| same.name == c.name);
    let theirs = schema.columns.iter().filter(missing).map(|c| c.name.clone());
    let left_out: BTreeSet<String> = theirs.chain(apart.incomplete.iter().cloned()).collect();
    if !left_out.is_empty() {
        report.left_out.push(format!("columns {}", left_out.into_iter().collect::<Vec<_>>().join(", ")));
    }
    if apart.rows_kept {
        report.left_out.push("rows of before the table was emptied".into());
    }
    Ok(TableSchema { columns, ..schema.clone() })
}

fn is_ordered_alike(schema: &TableSchema) -> bool {
    use DataType::{Int8, Int16, Int32, Int64, UInt8, UInt16, UInt32, UInt64};
    let single = schema.key.len() == 1;
    let column = schema.key.first().and_then(|k| schema.column(k));
    single
        && column
            .is_some_and(|c| matches!(c.data_type, Int8 | Int16 | Int32 | Int64 | UInt8 | UInt16 | UInt32 | UInt64))
}

/// Keys on whose row the source agrees with itself and not with the target.
fn differing(before: &Keys, target: &Keys, after: &Keys) -> BTreeSet<(String, Mismatch)> {
    let all: BTreeSet<&String> = before.keys().chain(target.keys()).collect();
    all.into_iter()
        .filter(|k| before.get(*k) == after.get(*k))
        .filter_map(|k| match (before.get(k), target.get(k)) {
            (Some(_), None) => Some((k.clone(), Mismatch::Missing)),
            (None, Some(_)) => Some((k.clone(), Mismatch::Extra)),
            (a, b) if a != b => Some((k.clone(), Mismatch::Changed)),
            _ => None,
        })
        .collect()
}

/// Calls `f` with key and hash of each row. A sink may return more than the range: what is outside is left out.
fn each_row(
    batch: &RecordBatch,
    schema: &TableSchema,
    within: Option<&KeyRange>,
    mut f: impl FnMut(&str, u128),
) -> Result<()> {
    let columns: Vec<StringArray> = schema
        .columns
        .iter()
        .map(|c| {
            let array = batch
                .column_by_name(&c.name)
                .ok_or_else(|| Error::schema(format!("column {} is missing", c.name)).with("table", &schema.name))?;
            match array.data_type() {
                arrow::datatypes::DataType::Utf8 => Ok(array.as_string::<i32>().clone()),
                _ => render(array.as_ref(), &c.data_type),
            }
        })
        .collect::<Result<_>>()?;
    let key = schema.key_indexes();
    let bounds = within.filter(|_| is_ordered_alike(schema)).map(|r| (bound(&r.from), bound(&r.to)));
    let (mut text, mut row_text) = (String::new(), Vec::new());
    for row in 0..batch.num_rows() {
        text.clear();
        for (i, column) in key.iter().enumerate() {
            if i > 0 {
                text.push(KEY_SEPARATOR);
            }
            text.push_str(columns[*column].value(row));
        }
        if let Some((from, to)) = bounds {
            let value = text.parse::<i128>().unwrap_or(i128::MIN);
            if from.is_some_and(|f| value < f) || to.is_some_and(|t| value >= t) {
                continue;
            }
        }
        row_text.clear();
        for column in &columns {
            // Length in front, so that no two rows have the same bytes.
            if column.is_null(row) {
                row_text.extend_from_slice(&u64::MAX.to_le_bytes());
            } else {
                let value = column.value(row).as_bytes();
                row_text.extend_from_slice(&(value.len() as u64).to_le_bytes());
                row_text.extend_from_slice(value);
            }
        }
        f(&text, xxh3_128(&row_text));
    }
    Ok(())
}

/// Keys, given as canonical text, as the source's types.
fn key_batch<'a>(schema: &TableSchema, keys: impl Iterator<Item = &'a str>) -> Result<RecordBatch> {
    let mut columns: Vec<Vec<&str>> = vec![Vec::new(); schema.key.len()];
    for key in keys {
        for (column, text) in columns.iter_mut().zip(key.split(KEY_SEPARATOR)) {
            column.push(text);
        }
    }
    let fail = |e| {
        Error::unsupported("keys of this type cannot be repaired one by one")
            .with("table", &schema.name)
            .because(e)
            .hint("copy the table again: freshet resync JOB TABLE")
    };
    let all = schema.arrow_fields();
    let (mut fields, mut arrays) = (Vec::new(), Vec::new());
    for (index, texts) in schema.key_indexes().into_iter().zip(columns) {
        let text = StringArray::from(texts);
        let options = arrow::compute::CastOptions { safe: false, ..Default::default() };
        arrays.push(arrow::compute::cast_with_options(&text, all[index].data_type(), &options).map_err(fail)?);
        fields.push(all[index].clone());
    }
    RecordBatch::try_new(Arc::new(arrow::datatypes::Schema::new(fields)), arrays).map_err(fail)
}

fn bound(bound: &Option<Vec<String>>) -> Option<i128> {
    bound.as_ref().and_then(|b| b.first()).and_then(|t| t.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(of: &[(&str, u128)]) -> Keys {
        of.iter().map(|(k, h)| ((*k).to_string(), *h)).collect()
    }

    #[test]
    fn counts_only_what_the_source_agrees_on() {
        let before = keys(&[("1", 1), ("2", 2), ("3", 3), ("5", 5)]);
        let target = keys(&[("1", 1), ("2", 9), ("4", 4), ("5", 6)]);
        let after = keys(&[("1", 1), ("2", 2), ("3", 3), ("5", 7)]);
        let found: Vec<_> = differing(&before, &target, &after).into_iter().collect();
        assert_eq!(
            found,
            [("2".into(), Mismatch::Changed), ("3".into(), Mismatch::Missing), ("4".into(), Mismatch::Extra)]
        );
    }
}
