//! The rows of a range of a table's key, in key order, by as many statements as it takes: for the copy as values, for
//! `verify` as text. An open SELECT keeps everybody
//! from altering the table, and whoever waits to alter it keeps all writers waiting. So a statement is open for seconds
//! only, also while nobody takes its rows (the sink may be away); the next goes on behind the last row that was taken.
//! Rows that change in between come with the log.

use std::sync::Arc;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use freshet_core::{BatchStream, KeyRange, Position, Result, TableSchema, text};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::MySql;
use super::text_values::TextBatches;

/// See the [module](self).
pub(super) struct RangeStream {
    source: MySql,
    table: Arc<TableSchema>,
    range: KeyRange,
    /// Everything before it is visible to the statements; `None`: the rows as text, for `verify`.
    low: Option<Position>,
    /// The statement under way; empty once its time is over.
    open: Arc<Mutex<Option<TextBatches>>>,
    timer: JoinSet<()>,
    /// The key of the last row that was taken.
    last: Option<Vec<String>>,
    done: bool,
}

impl RangeStream {
    /// Opens the first statement of a copy.
    ///
    /// # Errors
    /// `Schema` when the table is not as `table` says; those of the connection.
    pub(super) async fn open(
        source: &MySql,
        table: &Arc<TableSchema>,
        range: &KeyRange,
        low: &Position,
    ) -> Result<RangeStream> {
        Self::with(source, table, range, Some(low.clone())).await
    }

    /// Opens the first statement for the rows as text.
    ///
    /// # Errors
    /// As [`RangeStream::open`].
    pub(super) async fn text(source: &MySql, table: &Arc<TableSchema>, range: &KeyRange) -> Result<RangeStream> {
        Self::with(source, table, range, None).await
    }

    async fn with(
        source: &MySql,
        table: &Arc<TableSchema>,
        range: &KeyRange,
        low: Option<Position>,
    ) -> Result<RangeStream> {
        let mut stream = RangeStream {
            source: source.clone(),
            table: Arc::clone(table),
            range: range.clone(),
            low,
            open: Arc::default(),
            timer: JoinSet::new(),
            last: None,
            done: false,
        };
        stream.go_on().await?;
        Ok(stream)
    }

    async fn go_on(&mut self) -> Result<()> {
        let from = self.last.clone().or_else(|| self.range.from.clone());
        let range = KeyRange { from, to: self.range.to.clone() };
        let (rows, may_pause) = match &self.low {
            Some(low) => self.source.select_range(&self.table, &range, low).await?,
            None => self.source.select_text(&self.table, &range).await?,
        };
        *self.open.lock().await = Some(rows);
        self.timer.abort_all();
        if may_pause {
            let (open, limit) = (Arc::clone(&self.open), self.source.statement_limit);
            self.timer.spawn(async move {
                tokio::time::sleep(limit).await;
                *open.lock().await = None;
            });
        }
        Ok(())
    }

    /// The batch without its first row, if that was the last one before; notes where it ends.
    fn behind_the_last(&mut self, batch: RecordBatch) -> Result<RecordBatch> {
        let skip = usize::from(self.last.as_ref() == Some(&self.key(&batch, 0)?));
        self.last = Some(self.key(&batch, batch.num_rows() - 1)?);
        Ok(batch.slice(skip, batch.num_rows() - skip))
    }

    /// The key of a row as canonical text.
    fn key(&self, batch: &RecordBatch, row: usize) -> Result<Vec<String>> {
        let mut key = Vec::with_capacity(self.table.key.len());
        for place in self.table.key_indexes() {
            let value = text::render(&batch.column(place).slice(row, 1), &self.table.columns[place].data_type)?;
            key.push(value.value(0).to_string());
        }
        Ok(key)
    }
}

#[async_trait]
impl BatchStream for RangeStream {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        while !self.done {
            let rows = {
                let mut open = self.open.lock().await;
                match open.as_mut() {
                    Some(rows) => rows.next().await?,
                    None => {
                        drop(open);
                        self.go_on().await?;
                        continue;
                    }
                }
            };
            let Some(rows) = rows else {
                self.done = true;
                break;
            };
            let rows = self.behind_the_last(rows)?;
            if rows.num_rows() > 0 {
                return Ok(Some(rows));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use freshet_core::{ErrorKind, Source};
    use std::time::{Duration, Instant};

    use crate::mysql::live::Bench;
    use crate::mysql::wire::live::servers;

    use super::*;

    /// 180,000 rows with a composite key that is not ASCII, in an order that is the collation's.
    const ROWS: usize = 180_000;

    async fn bench(o: &crate::mysql::wire::Options, database: &str, limit: Duration) -> Bench {
        let mut b = Bench::new(o, database).await;
        b.source.statement_limit = limit;
        b.run(
            "CREATE TABLE t (name VARCHAR(30) COLLATE utf8mb4_general_ci, n INT, filler CHAR(200), PRIMARY KEY (name, n))",
        )
        .await;
        b.run("CREATE TABLE digits (d INT PRIMARY KEY)").await;
        b.run("INSERT INTO digits VALUES (0), (1), (2), (3), (4), (5), (6), (7), (8), (9)").await;
        b.run(
            "INSERT INTO t SELECT CONCAT(ELT(1 + a.d % 4, 'Straße', 'ÄÖ', 'zebra', 'O''Neill \\\\'), b.d * 10 + c.d), \
             a.d * 1000 + d.d * 100 + e.d * 10 + f.d, REPEAT('x', 200) \
             FROM digits a, digits b, digits c, digits d, digits e, digits f WHERE a.d < 6 AND b.d < 3",
        )
        .await;
        b
    }

    #[tokio::test]
    async fn many_statements_give_what_one_gives() {
        for o in servers("many_statements_give_what_one_gives") {
            let mut b = bench(&o, "fr_range", Duration::from_secs(60)).await;
            let (low, tables) = b.begin().await;
            let table = tables.iter().find(|t| t.name.table == "t").unwrap();
            let digits = tables.iter().find(|t| t.name.table == "digits").unwrap();
            let mut few = RangeStream::open(&b.source, digits, &KeyRange::default(), &low).await.unwrap();
            let few = few.next().await.unwrap().unwrap();
            assert_eq!(few.num_rows(), 10);
            assert!(few.get_array_memory_size() < 4096, "{} bytes for ten numbers", few.get_array_memory_size());
            let mut results = Vec::new();
            for limit in [Duration::from_secs(60), Duration::ZERO] {
                b.source.statement_limit = limit;
                for low in [Some(low.clone()), None] {
                    let mut stream = RangeStream::with(&b.source, table, &KeyRange::default(), low).await.unwrap();
                    let (mut keys, mut batches) = (Vec::new(), 0);
                    while let Some(batch) = stream.next().await.unwrap() {
                        batches += 1;
                        keys.extend((0..batch.num_rows()).map(|row| stream.key(&batch, row).unwrap()));
                        // Lets the timer run.
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    assert!(batches > 3, "one batch shows nothing");
                    assert!(stream.next().await.unwrap().is_none());
                    results.push(keys);
                }
            }
            assert_eq!(results[0].len(), ROWS);
            for (way, keys) in results.iter().enumerate() {
                assert!(*keys == results[0], "way {way}: {} rows", keys.len());
            }
        }
    }

    #[tokio::test]
    async fn rows_that_nobody_takes_keep_nobody_from_altering_the_table() {
        for o in servers("rows_that_nobody_takes_keep_nobody_from_altering_the_table") {
            let mut b = bench(&o, "fr_range_alter", Duration::from_millis(300)).await;
            let (low, tables) = b.begin().await;
            let table = tables.iter().find(|t| t.name.table == "t").unwrap();
            let split = b.source.splits(table, 1_000_000).await.unwrap().remove(0);
            let mut stream = b.source.read(table, &split, &low).await.unwrap();
            let first = stream.next().await.unwrap().unwrap();
            assert!(first.num_rows() < ROWS, "the rest must still be in the server");
            b.run("SET lock_wait_timeout = 20").await;
            let start = Instant::now();
            b.run("ALTER TABLE t ADD COLUMN more INT").await;
            assert!(start.elapsed() < Duration::from_secs(20));
            let error = loop {
                match stream.next().await {
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("the new column went unnoticed"),
                    Err(e) => break e,
                }
            };
            assert_eq!(error.kind, ErrorKind::Schema, "{error:?}");
            // Nor do those that `verify` reads as text, which come to their end.
            let mut text = b.source.text(table, &KeyRange::default()).await.unwrap();
            let mut rows = text.next().await.unwrap().unwrap().num_rows();
            assert!(rows < ROWS, "the rest must still be in the server");
            let start = Instant::now();
            b.run("ALTER TABLE t ADD COLUMN still_more INT").await;
            assert!(start.elapsed() < Duration::from_secs(20));
            while let Some(batch) = text.next().await.unwrap() {
                rows += batch.num_rows();
            }
            assert_eq!(rows, ROWS);
        }
    }
}
