//! Keeps tables of a source busy with random transactions: inserts, updates, deletes, changes of keys, rollbacks, of
//! one row and of hundreds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fastrand::Rng;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use tokio::task::JoinHandle;

use crate::quote;
use crate::source::Source;

/// The columns of the tables that a [`Writer`] writes to, behind `CREATE TABLE name`.
pub const BUSY_COLUMNS: &str = "(id BIGINT NOT NULL PRIMARY KEY, name VARCHAR(60), amount DECIMAL(14,4), \
    at DATETIME(6) NOT NULL, raw VARBINARY(40), ratio DOUBLE, small SMALLINT UNSIGNED)";

/// Ids are drawn from this range, so that keys are hit again and again.
const IDS: i64 = 5_000;

/// A running writer.
pub struct Writer {
    stop: Arc<AtomicBool>,
    task: JoinHandle<u64>,
}

impl Writer {
    /// Begins to write to these tables (each made with [`BUSY_COLUMNS`]), pausing for so long between transactions.
    /// A writer outlives the server: it connects again.
    pub fn start(source: &Source, database: &str, tables: &[String], seed: u64, pause: Duration) -> Writer {
        let stop = Arc::new(AtomicBool::new(false));
        let tables: Vec<String> = tables.iter().map(|t| format!("{}.{}", quote(database), quote(t))).collect();
        let task = tokio::spawn(write(source.clone(), tables, Rng::with_seed(seed), pause, Arc::clone(&stop)));
        Writer { stop, task }
    }

    /// Ends it; the number of transactions that were committed.
    pub async fn stop(self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        self.task.await.unwrap()
    }
}

async fn write(source: Source, tables: Vec<String>, mut rng: Rng, pause: Duration, stop: Arc<AtomicBool>) -> u64 {
    let mut committed = 0;
    let mut conn: Option<Conn> = None;
    while !stop.load(Ordering::SeqCst) {
        let Some(open) = conn.as_mut() else {
            conn = source.try_connect().await.ok();
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        match transaction(open, &tables, &mut rng).await {
            Ok(()) => committed += 1,
            Err(mysql_async::Error::Server(e)) if [1062, 1205, 1213].contains(&e.code) => {
                let _ = open.query_drop("ROLLBACK").await; // duplicate key, lock wait, deadlock
            }
            // The table is gone or has other columns, because the test does DDL; or the server is gone.
            Err(mysql_async::Error::Server(e)) if [1146, 1054, 1136].contains(&e.code) => {
                let _ = open.query_drop("ROLLBACK").await;
            }
            Err(_) => conn = None,
        }
        if pause > Duration::ZERO {
            tokio::time::sleep(pause).await;
        }
    }
    committed
}

async fn transaction(conn: &mut Conn, tables: &[String], rng: &mut Rng) -> mysql_async::Result<()> {
    conn.query_drop("BEGIN").await?;
    let statements = if rng.u8(..) < 10 { rng.u32(20..60) } else { rng.u32(1..4) };
    for _ in 0..statements {
        let table = &tables[rng.usize(..tables.len())];
        conn.query_drop(statement(table, rng)).await?;
    }
    conn.query_drop(if rng.u8(..) < 20 { "ROLLBACK" } else { "COMMIT" }).await
}

fn statement(table: &str, rng: &mut Rng) -> String {
    let id = rng.i64(0..IDS);
    match rng.u8(0..10) {
        0..4 => {
            let rows: Vec<String> = (0..rng.i64(1..20)).map(|i| row((id + i * 7) % IDS, rng)).collect();
            format!("REPLACE INTO {table} (id, name, amount, at, raw, ratio, small) VALUES {}", rows.join(", "))
        }
        4..6 => format!("UPDATE {table} SET name = {}, at = now(6) WHERE id = {id}", text(rng)),
        6 => format!("UPDATE {table} SET amount = amount + 0.0001 WHERE id BETWEEN {id} AND {}", id + 30),
        7 => format!("UPDATE {table} SET id = {} WHERE id = {id}", rng.i64(0..IDS)),
        8 => format!("DELETE FROM {table} WHERE id = {id}"),
        _ => format!("DELETE FROM {table} WHERE id BETWEEN {id} AND {}", id + 20),
    }
}

fn row(id: i64, rng: &mut Rng) -> String {
    let or_null = |text: String, rng: &mut Rng| if rng.u8(..) < 20 { "NULL".to_string() } else { text };
    let amount = format!("{}.{:04}", rng.i64(-9_999_999..9_999_999), rng.u16(0..10_000));
    let raw = format!("x'{}'", (0..rng.usize(0..40)).map(|_| format!("{:02x}", rng.u8(..))).collect::<String>());
    let ratio = format!("{:e}", (rng.f64() - 0.5) * 10f64.powi(rng.i32(-30..30)));
    let small = rng.u16(..).to_string();
    format!(
        "({id}, {}, {}, now(6), {}, {}, {})",
        text(rng),
        or_null(amount, rng),
        or_null(raw, rng),
        or_null(ratio, rng),
        or_null(small, rng)
    )
}

fn text(rng: &mut Rng) -> String {
    const WORDS: [&str; 8] = ["", "plain", "it''s", "naïve", "日本語", "🦀 crab", "back\\\\slash", "tab\\tnew\\nline"];
    match rng.u8(0..12) {
        0 => "NULL".into(),
        _ => format!("'{} {}'", WORDS[rng.usize(..WORDS.len())], rng.u32(..)),
    }
}
