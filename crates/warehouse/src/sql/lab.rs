//! A warehouse with sessions, for tests.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, SchemaRef};
use async_trait::async_trait;
use freshet_core::{Error, Result};
use futures::TryStreamExt;

use super::{JobCommand, Outcome, Session, Sql, SqlOptions, SystemTables};
use crate::{Options, Warehouse};

struct NoJobs;

#[async_trait]
impl SystemTables for NoJobs {
    fn tables(&self) -> Vec<(&'static str, SchemaRef)> {
        Vec::new()
    }

    async fn rows(&self, table: &str) -> Result<RecordBatch> {
        Err(Error::not_found(table))
    }

    async fn control(&self, _: JobCommand) -> Result<()> {
        Ok(())
    }
}

/// A warehouse in a folder of its own, and a first session with the database `d`.
pub(crate) struct Lab {
    pub(crate) warehouse: Arc<Warehouse>,
    first: Client,
    sql: Arc<Sql>,
    _dir: tempfile::TempDir,
}

/// One session.
pub(crate) struct Client(Session);

impl Lab {
    pub(crate) async fn new() -> Lab {
        Lab::with(SqlOptions { partitions: 2, ..SqlOptions::default() }).await
    }

    pub(crate) async fn with(limits: SqlOptions) -> Lab {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { background: false, ..Options::default() };
        let warehouse = Warehouse::open(dir.path(), options).await.unwrap();
        let sql = Sql::new(Arc::clone(&warehouse), limits, Arc::new(NoJobs));
        let mut first = Client(sql.session("root"));
        first.run("CREATE DATABASE d").await;
        first.run("USE d").await;
        Lab { warehouse, first, sql, _dir: dir }
    }

    /// Another session with the database `d`.
    pub(crate) fn session(&self) -> Client {
        let mut session = self.sql.session("root");
        session.use_database("d").unwrap();
        Client(session)
    }

    /// The same warehouse as a process that starts finds it.
    pub(crate) fn sql(&self, limits: SqlOptions) -> Arc<Sql> {
        Sql::new(Arc::clone(&self.warehouse), limits, Arc::new(NoJobs))
    }

    /// How many segments a query opens, by EXPLAIN.
    pub(crate) async fn segments(&mut self, sql: &str) -> usize {
        self.run(&format!("EXPLAIN {sql}")).await.iter().map(|l| l.matches(".parquet").count()).sum()
    }
}

impl Deref for Lab {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.first
    }
}

impl DerefMut for Lab {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.first
    }
}

impl Client {
    async fn batches(&mut self, sql: &str) -> Result<Vec<RecordBatch>> {
        match self.0.execute(sql).await? {
            Outcome::Done { .. } => Ok(Vec::new()),
            Outcome::Rows { stream, .. } => stream.try_collect().await,
        }
    }

    /// The rows as text.
    pub(crate) async fn run(&mut self, sql: &str) -> Vec<String> {
        let batches = self.batches(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
        let text = |b: &RecordBatch, c: usize| cast(b.column(c), &DataType::Utf8).unwrap();
        let lines = batches.iter().flat_map(|b| {
            let columns: Vec<_> = (0..b.num_columns()).map(|c| text(b, c)).collect();
            let row = move |i| {
                let value = |a: &ArrayRef| match a.is_null(i) {
                    true => "NULL".to_string(),
                    false => a.as_string::<i32>().value(i).to_string(),
                };
                columns.iter().map(value).collect::<Vec<_>>().join(" ")
            };
            (0..b.num_rows()).map(row).collect::<Vec<_>>()
        });
        lines.collect()
    }

    /// The error of a statement that fails, at once or in its rows.
    pub(crate) async fn fails(&mut self, sql: &str) -> Error {
        match self.batches(sql).await {
            Err(e) => e,
            Ok(_) => panic!("{sql} should fail"),
        }
    }
}
