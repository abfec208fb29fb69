//! A source without a database: a made-up shop whose log is a pure function of a seed and a transaction's number
//! ([`shop`]). It feeds `freshet demo`, shows what a source is in a few lines, and replays from any position exactly.
//!
//! `generator://shop?rows=10000&rate=200&seed=1`; the host is the name of the database.
//!
//! | Option | Meaning | Default |
//! | --- | --- | --- |
//! | `rows` | about so many rows exist at the beginning | 10000 |
//! | `rate` | transactions a second; 0: as fast as they are read | 200 |
//! | `seed` | another seed, another shop | 1 |
//! | `transactions` | the log ends after so many from the beginning; 0: never | 0 |
//! | `alter` | `orders` gets another column with this transaction from the beginning; 0: never | 2000 |

mod rows;
mod shop;

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow::array::{ArrayRef, Int8Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType as Arrow, Field, Schema};
use async_trait::async_trait;
use freshet_core::{
    BatchStream, ChangeBatch, ChangeStream, ChangesRequest, Check, Commit, CopyStart, Cut, Discovered, Error, Event,
    Finding, KeyRange, LogEnd, Position, Result, SchemaChange, Source, Split, TableChange, TableName, TablePattern,
    TableSchema, Verdict,
};
use tokio::time::Instant;
use url::Url;

use rows::{Columns, Value};
use shop::{Shop, TABLES, Table};

/// Transactions that become one batch per table.
const TRANSACTIONS_PER_BATCH: u64 = 1000;
const NANOS: u128 = 1_000_000_000;
/// Rows of a batch of a copy.
const ROWS_PER_BATCH: usize = 8192;
/// Rows of the shop for each transaction of its history, roughly.
const ROWS_PER_TRANSACTION: f64 = 3.6;

/// The made-up shop as a source.
pub struct Generator {
    shop: Shop,
    /// Number of the last transaction that exists at the beginning.
    history: u64,
    rate: u64,
    /// Number of the last transaction there will ever be.
    last: u64,
    clock: Mutex<Clock>,
}

/// How far the log is: `base` at `since`, growing with the rate.
#[derive(Debug, Clone, Copy)]
struct Clock {
    base: u64,
    since: Instant,
}

impl Generator {
    /// From its URL.
    ///
    /// # Errors
    /// `Config` when an option is unknown or no number.
    pub fn open(url: &str) -> Result<Generator> {
        let bad =
            |why: String| Error::config(why).with("url", url).hint("write generator://shop?rows=10000&rate=200&seed=1");
        let parsed = Url::parse(url).map_err(|e| bad("not a URL".into()).because(e))?;
        let database = parsed.host_str().filter(|h| !h.is_empty()).unwrap_or("shop").to_string();
        let (mut rows, mut rate, mut seed, mut transactions, mut alter) = (10_000, 200, 1, 0, 2000);
        for (name, value) in parsed.query_pairs() {
            let number: u64 = value.parse().map_err(|_| bad(format!("'{value}' is not a number for '{name}'")))?;
            match name.as_ref() {
                "rows" => rows = number,
                "rate" => rate = number.min(1_000_000),
                "seed" => seed = number,
                "transactions" => transactions = number,
                "alter" => alter = number,
                other => return Err(bad(format!("unknown option '{other}'"))),
            }
        }
        let history = (rows.min(1 << 40) as f64 / ROWS_PER_TRANSACTION) as u64;
        let alter = if alter == 0 { u64::MAX } else { history.saturating_add(alter) };
        let last = if transactions == 0 { u64::MAX } else { history.saturating_add(transactions) };
        let clock = Mutex::new(Clock { base: history, since: Instant::now() });
        Ok(Generator { shop: Shop { database, seed, alter }, history, rate, last, clock })
    }

    /// Number of the newest transaction now.
    fn head(&self) -> u64 {
        let clock = self.clock();
        let grown = clock.since.elapsed().as_nanos() * u128::from(self.rate) / NANOS;
        clock.base.saturating_add(u64::try_from(grown).unwrap_or(u64::MAX)).min(self.last)
    }

    /// Makes the log at least that long.
    fn reach(&self, number: u64) {
        if self.head() < number {
            *self.clock() = Clock { base: number, since: Instant::now() };
        }
    }

    /// When a transaction that is not there yet will be; `None`: never.
    fn due(&self, number: u64) -> Option<Instant> {
        let clock = *self.clock();
        if number > self.last || self.rate == 0 {
            return None;
        }
        // Rounded up as `head` rounds down, so that nothing is due that is not there.
        let wait = (u128::from(number - clock.base.min(number)) * NANOS).div_ceil(u128::from(self.rate));
        Some(clock.since + Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX)))
    }

    fn clock(&self) -> std::sync::MutexGuard<'_, Clock> {
        self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn discover(&self, wanted: &TablePattern, at: u64) -> Vec<Discovered> {
        let found = TABLES.iter().map(|t| (*t, self.shop.schema(*t, at))).filter(|(_, s)| wanted.matches(&s.name));
        found
            .map(|(table, schema)| Discovered {
                name: schema.name.clone(),
                schema: Ok(schema),
                rows: Some(self.shop.estimate(table, at)),
                bytes: None,
            })
            .collect()
    }

    fn table(&self, name: &TableName) -> Result<Table> {
        TABLES
            .into_iter()
            .find(|t| t.name() == name.table && name.database == self.shop.database)
            .ok_or_else(|| Error::not_found("the generator has no such table").with("table", name))
    }

    /// The rows of a range as they are now.
    fn rows_now(&self, schema: &Arc<TableSchema>, range: &KeyRange) -> Result<Rows> {
        let table = self.table(&schema.name)?;
        let (from, to) = (bound(&range.from, 0)?, bound(&range.to, i64::MAX)?);
        let at = self.head();
        Ok(Rows { shop: self.shop.clone(), table, at, schema: Arc::clone(schema), next: from.0.max(1), from, to })
    }
}

/// A bound of a range as the first two columns of the key.
fn bound(values: &Option<Vec<String>>, open: i64) -> Result<(i64, i64)> {
    let Some(values) = values else { return Ok((open, open)) };
    let number = |i: usize| match values.get(i) {
        Some(text) => text
            .parse()
            .map_err(|_| Error::config(format!("'{text}' is not a key of the generator: its keys are numbers"))),
        None => Ok(0),
    };
    Ok((number(0)?, number(1)?))
}

/// The number in `tx:123`.
fn number(position: &Position) -> Result<u64> {
    let number = position.commit.strip_prefix("tx:").and_then(|n| n.parse().ok());
    number
        .filter(|_| position.event == 0)
        .ok_or_else(|| Error::source_state("this is not a position of the generator").with("position", position))
}

fn position(number: u64) -> Position {
    Position::at(format!("tx:{number}"))
}

#[async_trait]
impl Check for Generator {
    async fn check(&self, tables: &TablePattern) -> Vec<Finding> {
        let found = self.discover(tables, self.head());
        let rate = if self.rate == 0 { "as fast as it is read".into() } else { format!("{}/s", self.rate) };
        let tables = match found.len() {
            0 => Finding::new("tables", Verdict::Failed, format!("no table matches {tables}"))
                .fix(format!("--tables '{}.*'", self.shop.database)),
            n => Finding::new("tables", Verdict::Ok, format!("{n} match, all with a key")),
        };
        vec![
            Finding::new("generator", Verdict::Ok, format!("shop of seed {}, transactions {rate}", self.shop.seed)),
            tables,
        ]
    }
}

#[async_trait]
impl Source for Generator {
    async fn tables(&self, wanted: &TablePattern) -> Result<Vec<Discovered>> {
        Ok(self.discover(wanted, self.head()))
    }

    async fn begin(&self, wanted: &TablePattern) -> Result<CopyStart> {
        let at = self.head();
        Ok(CopyStart { low: position(at), tables: self.discover(wanted, at) })
    }

    async fn splits(&self, table: &TableSchema, rows: u64) -> Result<Vec<Split>> {
        let kind = self.table(&table.name)?;
        let at = self.head();
        let (ids, estimate) = (self.shop.ids(kind, at).max(1), self.shop.estimate(kind, at));
        let count = estimate.div_ceil(rows.max(1)).clamp(1, ids);
        // The highest ids are left open: the shop goes on growing.
        let key = |i: u64| {
            let first = (1 + ids * i / count).to_string();
            (i > 0 && i < count).then(|| if table.key.len() > 1 { vec![first, "0".into()] } else { vec![first] })
        };
        Ok((0..count)
            .map(|i| Split {
                number: u32::try_from(i).unwrap_or(u32::MAX),
                range: KeyRange { from: key(i), to: key(i + 1) },
                rows: estimate / count,
            })
            .collect())
    }

    async fn read(&self, table: &Arc<TableSchema>, split: &Split, low: &Position) -> Result<Box<dyn BatchStream>> {
        self.reach(number(low)?);
        Ok(Box::new(CopyRows(self.rows_now(table, &split.range)?)))
    }

    async fn cut(&self, table: &Arc<TableSchema>, _low: &Position) -> Result<Cut> {
        Err(Error::unsupported("every table of the generator has a key").with("table", &table.name))
    }

    async fn rows_of(&self, table: &Arc<TableSchema>, _keys: &RecordBatch, _low: &Position) -> Result<RecordBatch> {
        Err(Error::unsupported("the generator sends whole rows: none is ever read back").with("table", &table.name))
    }

    async fn end(&self, _from: Option<&Position>) -> Result<LogEnd> {
        Ok(LogEnd { position: position(self.head()), bytes_behind: None })
    }

    async fn changes(&self, request: ChangesRequest) -> Result<Box<dyn ChangeStream>> {
        let from = number(&request.from)?;
        if from < self.history {
            return Err(Error::source_state("the generator's log does not reach back to there")
                .with("position", &request.from)
                .hint("drop the job and sync again"));
        }
        self.reach(from);
        let stop = request.stop.as_ref().map(number).transpose()?;
        let follows = TABLES.map(|t| {
            let name = TableName::new(&self.shop.database, t.name());
            request.tables.iter().any(|s| s.name == name)
        });
        let clock = *self.clock();
        let generator = Generator {
            shop: self.shop.clone(),
            history: self.history,
            rate: self.rate,
            last: self.last,
            clock: Mutex::new(clock),
        };
        Ok(Box::new(Changes { generator, next: from + 1, stop, follows, ready: VecDeque::new() }))
    }

    async fn acknowledge(&self, upto: &Position) -> Result<()> {
        // Without a rate the log is as long as it has been read.
        self.reach(number(upto)?);
        Ok(())
    }

    fn compare(&self, a: &Position, b: &Position) -> Option<Ordering> {
        Some(number(a).ok()?.cmp(&number(b).ok()?))
    }

    async fn text(&self, table: &Arc<TableSchema>, range: &KeyRange) -> Result<Box<dyn BatchStream>> {
        Ok(Box::new(TextRows(self.rows_now(table, range)?)))
    }
}

/// The running log.
struct Changes {
    generator: Generator,
    /// Number of the next transaction.
    next: u64,
    stop: Option<u64>,
    follows: [bool; TABLES.len()],
    ready: VecDeque<Event>,
}

#[async_trait]
impl ChangeStream for Changes {
    async fn next(&mut self) -> Result<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            let limit = if self.generator.rate == 0 { self.generator.last } else { self.generator.head() };
            if self.next <= limit {
                self.produce(limit)?;
                continue;
            }
            match self.generator.due(self.next) {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        }
    }
}

impl Changes {
    /// Makes the events of the next transactions, up to `limit`: those of a schema change, or of several with rows.
    fn produce(&mut self, limit: u64) -> Result<()> {
        let shop = &self.generator.shop;
        if self.next == shop.alter {
            let (table, change, statement) = shop.schema_change();
            if self.follows[Table::Orders as usize] {
                let steps: Vec<(TableName, TableChange)> = vec![(table, change)];
                self.ready.push_back(Event::Schema(SchemaChange { statement, steps }));
            }
            self.commit(self.next);
            return Ok(());
        }
        let mut to = limit.min(self.next.saturating_add(TRANSACTIONS_PER_BATCH - 1));
        if self.next < shop.alter {
            to = to.min(shop.alter - 1);
        }
        if let Some(stop) = self.stop.filter(|stop| *stop >= self.next) {
            to = to.min(stop);
        }
        let schemas = TABLES.map(|t| Arc::new(shop.schema(t, to)));
        let mut columns = schemas.each_ref().map(|s| Columns::new(s));
        let mut ops: [Vec<i8>; TABLES.len()] = Default::default();
        for number in self.next..=to {
            shop.transaction(number, &mut |table, op, row| {
                if self.follows[table as usize] {
                    columns[table as usize].push(row);
                    ops[table as usize].push(op);
                }
            });
        }
        for ((columns, ops), schema) in columns.into_iter().zip(ops).zip(schemas) {
            if !ops.is_empty() {
                let batch = ChangeBatch::new(schema, columns.finish()?, Int8Array::from(ops))?;
                self.ready.push_back(Event::Rows(batch));
            }
        }
        self.commit(to);
        Ok(())
    }

    fn commit(&mut self, to: u64) {
        let transactions = to + 1 - self.next;
        self.ready.push_back(Event::Commit(Commit { position: position(to), time_ms: None, transactions }));
        self.next = to + 1;
    }
}

/// The rows of a range of a table at one transaction.
struct Rows {
    shop: Shop,
    table: Table,
    at: u64,
    schema: Arc<TableSchema>,
    /// The next value of the key's first column.
    next: i64,
    from: (i64, i64),
    to: (i64, i64),
}

impl Rows {
    /// Hands some rows to `each`, in the columns of the schema; `false` when there are no more.
    fn some(&mut self, mut each: impl FnMut(Vec<Value>)) -> bool {
        // Columns that came after the wanted schema are left out.
        let now = self.shop.schema(self.table, self.at);
        let wanted: Vec<usize> = self.schema.columns.iter().filter_map(|c| now.index_of(&c.name)).collect();
        let last = i64::try_from(self.shop.ids(self.table, self.at)).unwrap_or(i64::MAX).min(self.to.0);
        let mut rows = 0;
        while self.next <= last && rows < ROWS_PER_BATCH {
            for row in self.shop.rows(self.table, self.next.unsigned_abs(), self.at) {
                let key = (row[0].int(), if now.key.len() > 1 { row[1].int() } else { 0 });
                if key >= self.from && key < self.to {
                    each(wanted.iter().map(|i| row[*i].clone()).collect());
                    rows += 1;
                }
            }
            self.next += 1;
        }
        rows > 0 || self.next <= last
    }
}

/// For the copy: Arrow's own types.
struct CopyRows(Rows);

#[async_trait]
impl BatchStream for CopyRows {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            let mut columns = Columns::new(&self.0.schema);
            let mut rows = 0;
            let more = self.0.some(|row| {
                columns.push(row);
                rows += 1;
            });
            if rows > 0 {
                return batch(self.0.schema.arrow_fields(), columns.finish()?).map(Some);
            }
            if !more {
                return Ok(None);
            }
        }
    }
}

/// For `verify`: canonical text, written by [`Value::text`] and by nothing that the copy uses.
struct TextRows(Rows);

#[async_trait]
impl BatchStream for TextRows {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        let schema = Arc::clone(&self.0.schema);
        loop {
            let mut texts: Vec<Vec<Option<String>>> = vec![Vec::new(); schema.columns.len()];
            let more = self.0.some(|row| {
                for ((column, texts), value) in schema.columns.iter().zip(&mut texts).zip(row) {
                    texts.push(value.text(&column.data_type));
                }
            });
            if texts.first().is_some_and(|t| !t.is_empty()) {
                let fields = schema.columns.iter().map(|c| Field::new(&c.name, Arrow::Utf8, true)).collect();
                let columns = texts.into_iter().map(|t| Arc::new(StringArray::from(t)) as ArrayRef).collect();
                return batch(fields, columns).map(Some);
            }
            if !more {
                return Ok(None);
            }
        }
    }
}

fn batch(fields: Vec<Field>, columns: Vec<ArrayRef>) -> Result<RecordBatch> {
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
        .map_err(|e| Error::internal("generated columns do not fit the table").because(e))
}

#[cfg(test)]
mod tests;
