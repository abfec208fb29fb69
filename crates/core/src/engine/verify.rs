//! `verify`: proof that source and target are equal, while changes flow, never through our own decoder alone. Per key
//! range the source is read as text that its server renders, the log's end is noted, and when the job has applied that
//! the target is read. Where the two differ, they are read again key by key: source, wait, target, source, and so on; a
//! key counts as different only when both source reads agree and the target says something else, many times in a row.
//!
//! Ranges are those by which source and target order keys alike: numbers and dates, and the leading such columns of a
//! composite key. Every other table is one range. A table without a key is compared as a multiset: how often each row
//! is there. What has been found counts only if the table's definition was the same all the while; otherwise the table
//! is compared once more.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::connector::{KeyRange, Sink, Source};
use crate::engine::read_back::keys_of;
use crate::engine::{Engine, JobState};
use crate::error::{Error, ErrorKind, Result};
use crate::pattern::TablePattern;
use crate::position::Position;
use crate::schema::{TableName, TableSchema};
use crate::store::{Apart, TableRecord, TableState};
use rows::{Buckets, Row, Shape, Sums, Values, Verdict};

mod rows;

/// Rows of a range.
const RANGE_ROWS: u64 = 50_000;
/// So many times must a key differ. A value that goes to and fro at the source looks different once in four times at
/// worst, because the target is read at another instant.
const ROUNDS: usize = 6;
/// So often is a key looked at that was changing at one time and differed at another.
const ROUNDS_MAX: usize = 12;
/// So often is a table compared whose definition changes meanwhile.
const ATTEMPTS: usize = 5;
/// Differing keys that a report lists per table.
const LISTED: usize = 100;
/// Rows without a key whose text is kept, so that the report can list some of them.
const TEXTS_KEPT: usize = 1000;
/// The longest that the job may take to apply what the source had when a range was read.
const APPLY_WITHIN: Duration = Duration::from_secs(300);

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
    /// Key ranges that the table has.
    #[serde(default)]
    pub ranges_in_all: u64,
    /// A sample was asked for, and the table was compared as a whole, because its key cannot be divided into ranges.
    #[serde(default)]
    pub indivisible: bool,
    /// How many keys differ; without a key: how many different rows.
    pub differing: u64,
    /// The first of them.
    pub keys: Vec<Difference>,
    /// How many keys the source changed each time they were read, so that nothing can be said of them.
    #[serde(default)]
    pub changing: u64,
    /// How many of those that differ were written anew.
    #[serde(default)]
    pub repaired: u64,
    /// Why others were not, though that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unrepaired: Option<Error>,
    /// What was not compared, because the job's policy for schema changes left it out at the target.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
    /// Why it could not be compared.
    pub error: Option<Error>,
}

/// A key that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Canonical text of the key's columns; of a table without a key, of all columns, long values cut.
    pub key: Vec<String>,
    /// What is wrong with it.
    pub what: Mismatch,
    /// Of a table without a key: how often the row is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<Times>,
}

/// How often a row of a table without a key is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    /// At the source.
    pub source: u64,
    /// In the target.
    pub target: u64,
}

/// How a key differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mismatch {
    /// The source has it, the target not; without a key: not as often.
    Missing,
    /// The target has it, the source not; without a key: not as often.
    Extra,
    /// Both have it, with other values.
    Changed,
}

/// An identity that differs, or changes too fast to say.
#[derive(Debug, Clone, Copy)]
struct Suspect {
    /// How often it has differed.
    times: usize,
    what: Mismatch,
    /// What the source said last, and the target.
    source: u128,
    target: u128,
}

/// What is read of a range when it is not summed up.
enum Wanted<'a> {
    In(&'a Buckets),
    Suspects(&'a HashMap<u128, Suspect>),
}

/// The text of keys, or rows without one, by identity.
type Texts = HashMap<u128, Vec<String>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Source,
    Target,
}

/// A range of a table.
struct Piece<'a> {
    record: &'a TableRecord,
    shape: &'a Shape,
    range: &'a KeyRange,
    /// It may have many more rows than a range should.
    large: bool,
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
        for TableRecord { name, .. } in self.store.tables(job)? {
            if verifier.options.tables.as_ref().is_none_or(|p| p.matches(&name)) {
                tables.push(verifier.table(&name, progress).await);
            }
        }
        Ok(VerifyReport { equal: !tables.is_empty() && tables.iter().all(|t| t.equal), tables })
    }
}

impl TableReport {
    /// Nothing has been looked at.
    pub fn new(name: TableName) -> TableReport {
        TableReport {
            name,
            equal: false,
            rows: 0,
            ranges: 0,
            ranges_in_all: 0,
            indivisible: false,
            differing: 0,
            keys: Vec::new(),
            changing: 0,
            repaired: 0,
            unrepaired: None,
            left_out: Vec::new(),
            error: None,
        }
    }
}

impl Verifier<'_> {
    async fn table(&self, name: &TableName, progress: &(dyn Fn(&TableReport) + Send + Sync)) -> TableReport {
        let mut report = TableReport::new(name.clone());
        for _ in 0..ATTEMPTS {
            report = TableReport::new(name.clone());
            match self.attempt(name, &mut report, progress).await {
                Ok(true) => break,
                Ok(false) => {
                    report = TableReport {
                        error: Some(
                            Error::schema("the table's definition changed again and again while it was compared")
                                .hint("verify again when its migration is over"),
                        ),
                        ..TableReport::new(name.clone())
                    }
                }
                Err(error) => {
                    report = TableReport { error: Some(error), ..TableReport::new(name.clone()) };
                    break;
                }
            }
        }
        report.equal = report.error.is_none() && report.differing == 0;
        progress(&report);
        report
    }

    /// Compares a table; whether that is worth anything, because its definition was the same all the while.
    async fn attempt(
        &self,
        name: &TableName,
        report: &mut TableReport,
        progress: &(dyn Fn(&TableReport) + Send + Sync),
    ) -> Result<bool> {
        let record = self.record(name)?;
        report.error = self.compare(&record, report, progress).await.err();
        if report.error.is_none() && report.differing == 0 {
            return Ok(true);
        }
        // The source is not as the job knew it; it will know.
        let unlike = is_followed(&record) && report.error.as_ref().is_some_and(|e| e.kind == ErrorKind::Schema);
        if unlike && self.applied().await.is_err() {
            return Ok(true);
        }
        self.is_still(&record)
    }

    fn record(&self, name: &TableName) -> Result<TableRecord> {
        let found = self.engine.store.tables(self.job)?.into_iter().find(|t| t.name == *name);
        found.ok_or_else(|| Error::not_found("the table was dropped or renamed while the job was being verified"))
    }

    /// Whether the table is what it was when `record` was read.
    fn is_still(&self, record: &TableRecord) -> Result<bool> {
        let now = self.record(&record.name)?;
        Ok(is_followed(&now) == is_followed(record)
            && now.schema_version == record.schema_version
            && now.target == record.target
            && now.apart == record.apart)
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
            .map(|s| s.schema)
            .ok_or_else(|| Error::corrupt("the store lacks the schema of a table"))?;
        let shape = Shape::of(match &record.apart {
            Some(apart) => comparable(apart, &schema, report)?,
            None => schema,
        });
        let (ranges, large) = self.ranges(&shape, report).await?;
        let every = self.options.sample.map_or(1, |n| ranges.len().div_ceil(n.max(1) as usize)).max(1);
        for range in ranges.iter().step_by(every) {
            let piece = Piece { record, shape: &shape, range, large };
            let source = self.sums(&piece, Side::Source).await?;
            self.applied().await?;
            let target = self.sums(&piece, Side::Target).await?;
            report.rows += source.rows;
            report.ranges += 1;
            for group in source.differing(&target) {
                self.key_by_key(&piece, &group, report).await?;
            }
            progress(report);
        }
        Ok(())
    }

    /// Between the bounds of the source's splits, as far as source and target order keys alike; and whether a range may
    /// have many more rows than a split, because that is not far.
    async fn ranges(&self, shape: &Shape, report: &mut TableReport) -> Result<(Vec<KeyRange>, bool)> {
        let (mut bounds, mut large) = (Vec::<Vec<String>>::new(), true);
        if shape.ordered() > 0 {
            let splits = self.source.splits(&shape.schema, RANGE_ROWS).await?;
            let count = splits.len();
            bounds.extend(splits.into_iter().filter_map(|s| s.range.to));
            bounds.iter_mut().for_each(|b| b.truncate(shape.ordered()));
            bounds.dedup();
            large = bounds.len() + 1 < count;
        }
        report.indivisible = self.options.sample.is_some() && large && bounds.is_empty();
        let from = std::iter::once(None).chain(bounds.iter().cloned().map(Some));
        let to = bounds.iter().cloned().map(Some).chain([None]);
        let ranges: Vec<KeyRange> = from.zip(to).map(|(from, to)| KeyRange { from, to }).collect();
        report.ranges_in_all = ranges.len() as u64;
        Ok((ranges, large))
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

    async fn key_by_key(&self, piece: &Piece<'_>, buckets: &Buckets, report: &mut TableReport) -> Result<()> {
        let has_key = piece.shape.has_key();
        let rows_kept = piece.record.apart.as_ref().is_some_and(|a| a.rows_kept);
        let mut texts = Texts::new();
        let mut suspects: HashMap<u128, Suspect> = HashMap::new();
        let mut before = self.values(piece, Side::Source, &Wanted::In(buckets), &mut texts).await?;
        for round in 1..=ROUNDS_MAX {
            let wanted = if round == 1 { Wanted::In(buckets) } else { Wanted::Suspects(&suspects) };
            self.applied().await?;
            let target = self.values(piece, Side::Target, &wanted, &mut texts).await?;
            let after = self.values(piece, Side::Source, &wanted, &mut texts).await?;
            let ids: BTreeSet<u128> = match round {
                1 => before.keys().chain(target.keys()).copied().collect(),
                _ => suspects.keys().copied().collect(),
            };
            let mut still = HashMap::new();
            for id in ids {
                let [b, t, a] = [&before, &target, &after].map(|values| values.get(&id).copied());
                let mut suspect = suspects.get(&id).copied().unwrap_or(Suspect::new());
                match Verdict::of(has_key, b, t, a) {
                    Verdict::Equal => continue,
                    Verdict::Differs(Mismatch::Extra) if rows_kept => continue,
                    Verdict::Differs(what) => {
                        let (source, target) = (b.unwrap_or_default(), t.unwrap_or_default());
                        suspect = Suspect { times: suspect.times + 1, what, source, target };
                    }
                    Verdict::Changing => {}
                }
                still.insert(id, suspect);
            }
            (suspects, before) = (still, after);
            let is_open = |s: &Suspect| s.times < ROUNDS && (s.times > 0 || round < ROUNDS);
            if !suspects.values().any(is_open) {
                break;
            }
        }
        let (found, changing): (Vec<_>, Vec<_>) = suspects.into_iter().partition(|(_, s)| s.times >= ROUNDS);
        report.changing += changing.len() as u64;
        self.report(piece, &found, &texts, report).await
    }

    /// Lists what differs, and repairs it if that is asked for.
    async fn report(
        &self,
        piece: &Piece<'_>,
        found: &[(u128, Suspect)],
        texts: &Texts,
        report: &mut TableReport,
    ) -> Result<()> {
        let has_key = piece.shape.has_key();
        let mut found: Vec<_> = found.iter().map(|(id, suspect)| (texts.get(id), suspect)).collect();
        found.sort_by_key(|(text, _)| (text.is_none(), text.map(|t| piece.shape.sort_key(t))));
        for (text, suspect) in &found {
            report.differing += 1;
            if let (Some(text), true) = (text, report.keys.len() < LISTED) {
                let times = |n: u128| u64::try_from(n).unwrap_or(u64::MAX);
                let times = Times { source: times(suspect.source), target: times(suspect.target) };
                let times = (!has_key).then_some(times);
                report.keys.push(Difference { key: text.to_vec(), what: suspect.what, times });
            }
        }
        if !self.options.repair || found.is_empty() {
            return Ok(());
        }
        if !self.is_still(piece.record)? {
            return Err(Error::schema("the table's definition changed while it was compared"));
        }
        let keys: Vec<&[String]> = found.iter().filter_map(|(text, _)| text.map(Vec::as_slice)).collect();
        let repaired = match keys_of(&piece.shape.schema, &keys) {
            Ok(batch) => self.engine.repair(self.job, piece.record.name.clone(), batch).await,
            Err(e) => Err(e.hint(format!("copy the table again: freshet resync {} {}", self.job, piece.record.name))),
        };
        match repaired {
            Ok(()) => report.repaired += keys.len() as u64,
            Err(e) => report.unrepaired = Some(e),
        }
        Ok(())
    }

    async fn sums(&self, piece: &Piece<'_>, side: Side) -> Result<Sums> {
        let mut sums = piece.shape.sums(piece.large);
        self.each_row(piece, side, &mut |row| sums.add(row)).await?;
        Ok(sums)
    }

    async fn values(&self, piece: &Piece<'_>, side: Side, wanted: &Wanted<'_>, texts: &mut Texts) -> Result<Values> {
        let limit = if piece.shape.has_key() { usize::MAX } else { TEXTS_KEPT };
        let mut values = Values::new();
        let mut add = |row: &Row<'_>| {
            match wanted {
                Wanted::In(buckets) if !buckets.hold(row.id) => return,
                Wanted::Suspects(ids) if !ids.contains_key(&row.id) => return,
                Wanted::In(_) => {}
                Wanted::Suspects(_) if texts.len() >= limit => {}
                Wanted::Suspects(_) => {
                    texts.entry(row.id).or_insert_with(|| row.text());
                }
            }
            let value = values.entry(row.id).or_default();
            *value = value.wrapping_add(row.value());
        };
        self.each_row(piece, side, &mut add).await?;
        Ok(values)
    }

    async fn each_row(&self, piece: &Piece<'_>, side: Side, f: &mut (dyn FnMut(&Row<'_>) + Send)) -> Result<()> {
        let Piece { record, shape, range, .. } = piece;
        let (mut rows, within) = match side {
            Side::Source => (self.source.text(&shape.schema, range).await?, None),
            // A sink may return more than the range.
            Side::Target => (self.sink.rows(&record.target, &shape.schema, range).await?, Some(*range)),
        };
        while let Some(batch) = rows.next().await? {
            shape.each_row(&batch, within, f)?;
        }
        Ok(())
    }
}

impl Suspect {
    /// One that has not differed yet.
    fn new() -> Suspect {
        Suspect { times: 0, what: Mismatch::Changed, source: 0, target: 0 }
    }
}

fn is_followed(record: &TableRecord) -> bool {
    matches!(record.state, TableState::CatchingUp { .. } | TableState::Live)
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

#[cfg(test)]
mod tests;
