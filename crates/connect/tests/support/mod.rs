//! What the tests against real servers share: a database of its own for each test, and a reader of its changes that can
//! be stopped and continued, as a job would be. `FRESHET_TEST_MARIADB` and `FRESHET_TEST_MYSQL` name the servers,
//! `cargo xtask test` starts them.

#![allow(dead_code, clippy::unwrap_used, clippy::print_stdout)] // test code, of which each file uses a part

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, AsArray, RecordBatch};
use freshet_connect::mysql::wire::{Connection, Flavour};
use freshet_connect::mysql::{Address, MySql};
use freshet_core::batch::OP_DELETE;
use freshet_core::schema::quote_name;
use freshet_core::{
    ChangesRequest, DataType, Error, Event, KeyRange, Position, Source, TableName, TablePattern, TableSchema, text,
};

/// The URLs of the servers that there are; says so for each that is missing.
pub(crate) fn servers(test: &str) -> Vec<String> {
    ["MARIADB", "MYSQL"].into_iter().filter_map(|name| server(name, test)).collect()
}

/// The URL of one server; says so when it is missing.
pub(crate) fn server(name: &str, test: &str) -> Option<String> {
    let url = std::env::var(format!("FRESHET_TEST_{name}")).ok();
    if url.is_none() {
        println!("SKIPPED {test}: no FRESHET_TEST_{name}");
    }
    url.map(|u| u.trim_end_matches('/').to_string())
}

/// A session with a server.
pub(crate) async fn connect(url: &str) -> Connection {
    let mut c = Connection::connect(&Address::parse(url).unwrap().connect).await.unwrap();
    c.execute("SET NAMES utf8mb4, sql_mode = '', time_zone = '+00:00'").await.unwrap();
    c
}

/// Runs statements.
pub(crate) async fn run(c: &mut Connection, statements: &[&str]) {
    for sql in statements {
        c.execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    }
}

/// Prepares an XA transaction in a session of its own, and waits until the server has noticed that the session is gone:
/// before, another one cannot commit it (MariaDB 10.11 then logs a commit and loses the rows).
pub(crate) async fn prepare(b: &Bench, xid: &str, statements: &[&str]) {
    let mut c = b.session().await;
    let id = c.query("SELECT CONNECTION_ID()").await.unwrap()[0].get_str(0).unwrap().to_string();
    run(&mut c, &[&format!("XA START {xid}")]).await;
    run(&mut c, statements).await;
    run(&mut c, &[&format!("XA END {xid}"), &format!("XA PREPARE {xid}")]).await;
    drop(c);
    let mut c = b.session().await;
    loop {
        let sessions = c.query("SHOW PROCESSLIST").await.unwrap();
        if !sessions.iter().any(|s| s.get_str(0) == Some(&id)) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
}

/// A database of its own for a test, and the source that reads it.
pub(crate) struct Bench {
    pub(crate) c: Connection,
    pub(crate) source: MySql,
    pub(crate) database: String,
    pub(crate) url: String,
}

impl Bench {
    pub(crate) async fn new(url: &str, database: &str) -> Bench {
        let mut c = connect(url).await;
        c.execute(&format!("DROP DATABASE IF EXISTS {}", quote_name(database))).await.unwrap();
        c.execute(&format!("CREATE DATABASE {} CHARACTER SET utf8mb4", quote_name(database))).await.unwrap();
        c.execute(&format!("USE {}", quote_name(database))).await.unwrap();
        Bench { c, source: MySql::new(url).unwrap(), database: database.to_string(), url: url.to_string() }
    }

    /// In a database that is there.
    pub(crate) async fn at(url: &str, database: &str) -> Bench {
        let mut c = connect(url).await;
        c.execute(&format!("USE {}", quote_name(database))).await.unwrap();
        Bench { c, source: MySql::new(url).unwrap(), database: database.to_string(), url: url.to_string() }
    }

    pub(crate) fn is_mysql(&self) -> bool {
        self.c.server.flavour == Flavour::MySql
    }

    pub(crate) async fn run(&mut self, statements: &[&str]) {
        run(&mut self.c, statements).await;
    }

    /// Another session in the database.
    pub(crate) async fn session(&self) -> Connection {
        let mut c = connect(&self.url).await;
        c.execute(&format!("USE {}", quote_name(&self.database))).await.unwrap();
        c
    }

    pub(crate) fn pattern(&self) -> TablePattern {
        TablePattern::database(&self.database)
    }

    /// The rows of a table as the server prints them, by the first column.
    pub(crate) async fn printed(&self, table: &Arc<TableSchema>) -> BTreeMap<String, String> {
        let mut rows = BTreeMap::new();
        let mut stream = self.source.text(table, &KeyRange::default()).await.unwrap();
        while let Some(batch) = stream.next().await.unwrap() {
            let columns: Vec<_> = batch.columns().iter().map(|c| text::render(c, &DataType::TEXT).unwrap()).collect();
            let columns: Vec<_> = columns.iter().map(|c| c as &dyn Array).collect();
            rows.extend(lines(&columns));
        }
        rows
    }

    /// Begins to follow, as a job does that copies nothing but what is there.
    pub(crate) async fn begin(&self) -> Job {
        let start = self.source.begin(&self.pattern()).await.unwrap();
        let mut job = Job::at(start.low);
        for found in start.tables {
            let Ok(schema) = found.schema else { continue };
            let schema = Arc::new(schema);
            let mut rows = BTreeMap::new();
            for split in self.source.splits(&schema, 1_000_000).await.unwrap() {
                let mut stream = self.source.read(&schema, &split, &job.at).await.unwrap();
                while let Some(batch) = stream.next().await.unwrap() {
                    rows.extend(shown(&batch, &schema));
                }
            }
            job.rows.insert(schema.name.table.clone(), rows);
            job.tables.insert(schema.name.clone(), schema);
        }
        job
    }

    /// The job's tables must be as the server prints them.
    pub(crate) async fn must_equal(&self, job: &Job, what: &str) {
        for table in job.tables.values() {
            let (got, want) = (&job.rows[&table.name.table], self.printed(table).await);
            if *got != want {
                let differs: BTreeSet<_> = got
                    .iter()
                    .chain(&want)
                    .filter(|(k, v)| got.get(*k) != want.get(*k) || got[*k] != **v)
                    .take(5)
                    .collect();
                panic!("{what}: {}: {} rows instead of {}, among them {differs:?}", table.name, got.len(), want.len());
            }
        }
    }
}

/// What a job knows.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub(crate) at: Position,
    pub(crate) tables: BTreeMap<TableName, Arc<TableSchema>>,
    /// Rows of each table by their first column.
    pub(crate) rows: BTreeMap<String, BTreeMap<String, String>>,
    pub(crate) suspended: BTreeMap<String, Error>,
    /// Row events of each table so far.
    pub(crate) changes: BTreeMap<String, usize>,
    /// Commits so far.
    pub(crate) commits: usize,
}

impl Job {
    /// One that follows nothing yet.
    pub(crate) fn at(at: Position) -> Job {
        let (tables, rows, suspended, changes) = Default::default();
        Job { at, tables, rows, suspended, changes, commits: 0 }
    }

    /// Reads on up to the log's end as it is now, over a new connection.
    pub(crate) async fn catch_up(&mut self, b: &Bench) {
        self.try_catch_up(&b.source, b.pattern()).await.unwrap();
    }

    /// The same, with what goes wrong.
    pub(crate) async fn try_catch_up(&mut self, source: &MySql, pattern: TablePattern) -> Result<(), Error> {
        let end = source.end(None).await?.position;
        if source.compare(&self.at, &end).is_some_and(|o| o.is_eq()) {
            return Ok(());
        }
        let tables = self.tables.values().cloned().collect();
        let request = ChangesRequest {
            tables,
            pattern,
            from: self.at.clone(),
            stop: None,
            spool: None,
            lane: 0,
            watched: Vec::new(),
        };
        let mut stream = source.changes(request).await?;
        // Rows count with their commit.
        let mut open: Vec<(String, String, Option<String>)> = Vec::new();
        loop {
            let event =
                tokio::time::timeout(Duration::from_secs(30), stream.next()).await.expect("the stream hangs")?;
            match event {
                Event::Rows(batch) => {
                    let table = batch.schema.name.table.clone();
                    let rows = batch.rows.project(&(0..batch.schema.columns.len()).collect::<Vec<_>>()).unwrap();
                    for ((key, line), op) in shown(&rows, &batch.schema).into_iter().zip(batch.ops().values()) {
                        *self.changes.entry(table.clone()).or_default() += 1;
                        open.push((table.clone(), key, (*op != OP_DELETE).then_some(line)));
                    }
                }
                Event::Suspend { table, error } => {
                    open.retain(|(t, ..)| *t != table.table);
                    self.tables.remove(&table);
                    self.suspended.insert(table.table, error);
                }
                Event::Unseen { table, reason, .. } => panic!("unexpected: {table}: {reason}"),
                Event::Schema(change) => panic!("unexpected {change:?}"),
                Event::Commit(commit) => {
                    for (table, key, line) in open.drain(..) {
                        let rows = self.rows.entry(table).or_default();
                        match line {
                            Some(line) => rows.insert(key, line),
                            None => rows.remove(&key),
                        };
                    }
                    self.commits += 1;
                    self.at = commit.position;
                    if source.compare(&self.at, &end).is_none_or(|o| o.is_ge()) {
                        return Ok(());
                    }
                }
            }
        }
    }
}

fn shown(batch: &RecordBatch, schema: &TableSchema) -> Vec<(String, String)> {
    let columns: Vec<_> =
        batch.columns().iter().zip(&schema.columns).map(|(c, s)| text::render(c, &s.data_type).unwrap()).collect();
    lines(&columns.iter().map(|c| c as &dyn Array).collect::<Vec<_>>())
}

fn lines(columns: &[&dyn Array]) -> Vec<(String, String)> {
    let columns: Vec<_> = columns.iter().map(|c| c.as_string::<i32>()).collect();
    let rows = columns.first().map_or(0, |c| c.len());
    (0..rows)
        .map(|row| {
            let cells: Vec<_> = columns.iter().map(|c| if c.is_null(row) { "NULL" } else { c.value(row) }).collect();
            (cells[0].to_string(), cells.join("|"))
        })
        .collect()
}
