//! From the statement at the source to its row in an answer of the warehouse, at 1,000 changes a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use freshet_tests::freshet::{Sync, prepare_mark};
use freshet_tests::source::Source;
use freshet_tests::usage::usage;
use mysql_async::prelude::Queryable;

use crate::Scale;
use crate::report::Report;

/// Transactions a second, each of two changes: an insert, and an update of an earlier row.
const TRANSACTIONS: u64 = 500;

pub(crate) async fn measure(source: &Source, scale: Scale, report: &mut Report) {
    println!("latency");
    let db = source.database("bench_latency").await;
    prepare_mark(source, &db).await;
    source
        .run(&format!("CREATE TABLE {db}.t (id BIGINT NOT NULL PRIMARY KEY, n INT NOT NULL, note VARCHAR(100))"))
        .await;
    let mut sync = Sync::start(source, &db);
    sync.caught_up(source, &db).await;

    let total = scale.latency_s * TRANSACTIONS;
    let done = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(write(source.clone(), db.clone(), total, Arc::clone(&done)));
    let mut conn = sync.connect().await;
    let sql = format!("SELECT MAX(id) FROM {db}.t");
    // When each row was first seen; its place is its id.
    let mut seen: Vec<Instant> = Vec::new();
    let mut queries = 0_u64;
    let mut deadline = None;
    while (seen.len() as u64) < total {
        let last: Option<u64> = conn.query_first::<Option<u64>, _>(sql.as_str()).await.unwrap().flatten();
        seen.resize(last.map_or(0, |id| id as usize + 1).max(seen.len()), Instant::now());
        queries += 1;
        if done.load(Ordering::SeqCst) {
            let deadline = deadline.get_or_insert_with(|| Instant::now() + Duration::from_secs(30));
            assert!(Instant::now() < *deadline, "{} of {total} rows became visible", seen.len());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let sent = writer.await.unwrap();
    let took = (sent[sent.len() - 1] - sent[0]).as_secs_f64();
    let mut latencies: Vec<f64> = sent.iter().zip(&seen).map(|(s, v)| (*v - *s).as_secs_f64() * 1e3).collect();
    latencies.sort_by(f64::total_cmp);
    let percentile = |p: f64| latencies[((latencies.len() - 1) as f64 * p) as usize];
    let used = usage(sync.pid());
    let detail = format!(
        "{:.0} changes/s, {queries} queries, max {:.0} ms, {:.1} CPU s",
        2.0 * total as f64 / took,
        latencies[latencies.len() - 1],
        used.cpu_s
    );
    report.at_most("commit to visible, p50", percentile(0.5), "ms", 50.0, detail);
    report.at_most("commit to visible, p99", percentile(0.99), "ms", 250.0, String::new());
    drop(sync);
    source.run(&format!("DROP DATABASE {db}")).await;
}

/// Writes rows 0, 1, 2 … at an even pace; returns when each statement was sent.
async fn write(source: Source, db: String, total: u64, done: Arc<AtomicBool>) -> Vec<Instant> {
    let mut conn = source.connect().await;
    conn.query_drop(format!("USE {db}")).await.unwrap();
    let start = Instant::now();
    let mut sent = Vec::with_capacity(total as usize);
    for id in 0..total {
        let due = start + Duration::from_micros(id * 1_000_000 / TRANSACTIONS);
        tokio::time::sleep_until(due.into()).await;
        conn.query_drop("BEGIN").await.unwrap();
        conn.query_drop(format!("INSERT INTO t VALUES ({id}, 0, 'row number {id}')")).await.unwrap();
        conn.query_drop(format!("UPDATE t SET n = n + 1 WHERE id = {}", id / 2)).await.unwrap();
        sent.push(Instant::now());
        conn.query_drop("COMMIT").await.unwrap();
    }
    done.store(true, Ordering::SeqCst);
    sent
}
