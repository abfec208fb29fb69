//! From the statement at the source to its row in an answer of the warehouse, at 1,000 changes a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use freshet_tests::freshet::{Sync, connect, prepare_mark};
use freshet_tests::source::Source;
use freshet_tests::usage::usage;
use mysql_async::prelude::Queryable;
use tokio::task::JoinHandle;

use crate::Scale;
use crate::report::Report;

/// Transactions a second, each of two changes: an insert, and an update of an earlier row.
const TRANSACTIONS: u64 = 500;

pub(crate) async fn measure(source: &Source, scale: Scale, report: &mut Report) {
    println!("latency");
    let db = source.database("bench_latency").await;
    prepare_mark(source, &db).await;
    source.run(&format!("CREATE TABLE {db}.{PROBED}")).await;
    let mut sync = Sync::start(source, &db);
    sync.caught_up(source, &db).await;
    let start = Instant::now();
    let probe = Probe::start(source, &sync, &db, TRANSACTIONS, Duration::from_millis(1));
    tokio::time::sleep(Duration::from_secs(scale.latency_s)).await;
    let seen = probe.finish().await;
    let mut latencies: Vec<f64> = seen.between(start, Instant::now()).collect();
    let used = usage(sync.pid());
    let detail = format!(
        "{:.0} changes/s, {} queries, max {:.0} ms, {:.1} CPU s",
        2.0 * seen.rate,
        seen.queries,
        percentile(&mut latencies, 1.0),
        used.cpu_s
    );
    report.at_most("commit to visible, p50", percentile(&mut latencies, 0.5), "ms", 50.0, detail);
    report.at_most("commit to visible, p99", percentile(&mut latencies, 0.99), "ms", 250.0, String::new());
    drop(sync);
    source.run(&format!("DROP DATABASE {db}")).await;
}

/// The table that a [`Probe`] writes to, behind `CREATE TABLE database.`; it has to be empty.
pub(crate) const PROBED: &str = "t (id BIGINT NOT NULL PRIMARY KEY, n INT NOT NULL, note VARCHAR(100))";

/// The number of rows while it is not known yet.
const UNKNOWN: usize = usize::MAX;

/// Writes rows 0, 1, 2 … at an even pace, and looks when each of them is visible.
pub(crate) struct Probe {
    stop: Arc<AtomicBool>,
    /// Gives when each row's commit was sent.
    writer: JoinHandle<Vec<Instant>>,
    /// Gives when each row was seen first, and the number of queries.
    reader: JoinHandle<(Vec<Instant>, u64)>,
}

/// What a [`Probe`] saw.
pub(crate) struct Seen {
    /// When each row's commit was sent, and how long after that a query had it, in milliseconds.
    rows: Vec<(Instant, f64)>,
    /// Transactions a second, each of two changes.
    pub(crate) rate: f64,
    pub(crate) queries: u64,
}

impl Probe {
    /// Begins. `rate`: transactions a second; `pause`: between one query's answer and the next one.
    pub(crate) fn start(source: &Source, sync: &Sync, db: &str, rate: u64, pause: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let total = Arc::new(AtomicUsize::new(UNKNOWN));
        let writer = write(source.clone(), db.to_string(), rate, Arc::clone(&stop), Arc::clone(&total));
        let reader = read(sync.port, db.to_string(), pause, total);
        Probe { stop, writer: tokio::spawn(writer), reader: tokio::spawn(reader) }
    }

    /// Ends the writing, and waits until all rows are visible.
    pub(crate) async fn finish(self) -> Seen {
        self.stop.store(true, Ordering::SeqCst);
        let sent = self.writer.await.unwrap();
        let (seen, queries) = self.reader.await.unwrap();
        let took = (sent[sent.len() - 1] - sent[0]).as_secs_f64();
        let rate = sent.len() as f64 / took;
        let rows = sent.into_iter().zip(seen).map(|(sent, seen)| (sent, (seen - sent).as_secs_f64() * 1e3)).collect();
        Seen { rows, rate, queries }
    }
}

impl Seen {
    /// The latencies of rows that were committed in this time, in milliseconds.
    pub(crate) fn between(&self, start: Instant, end: Instant) -> impl Iterator<Item = f64> {
        self.rows.iter().filter(move |(sent, _)| (start..end).contains(sent)).map(|(_, latency)| *latency)
    }
}

/// What a part `p` of them does not exceed.
pub(crate) fn percentile(latencies: &mut [f64], p: f64) -> f64 {
    latencies.sort_by(f64::total_cmp);
    latencies[((latencies.len() - 1) as f64 * p) as usize]
}

/// Returns when each commit was sent; sets `total` at its end.
async fn write(source: Source, db: String, rate: u64, stop: Arc<AtomicBool>, total: Arc<AtomicUsize>) -> Vec<Instant> {
    let mut conn = source.connect().await;
    conn.query_drop(format!("USE {db}")).await.unwrap();
    let start = Instant::now();
    let mut sent = Vec::new();
    while !stop.load(Ordering::SeqCst) || sent.is_empty() {
        let id = sent.len() as u64;
        tokio::time::sleep_until((start + Duration::from_micros(id * 1_000_000 / rate)).into()).await;
        conn.query_drop("BEGIN").await.unwrap();
        conn.query_drop(format!("INSERT INTO t VALUES ({id}, 0, 'row number {id}')")).await.unwrap();
        conn.query_drop(format!("UPDATE t SET n = n + 1 WHERE id = {}", id / 2)).await.unwrap();
        sent.push(Instant::now());
        conn.query_drop("COMMIT").await.unwrap();
    }
    total.store(sent.len(), Ordering::SeqCst);
    sent
}

/// Asks until it has seen `total` rows; returns when each was first seen, and the number of queries.
async fn read(port: u16, db: String, pause: Duration, total: Arc<AtomicUsize>) -> (Vec<Instant>, u64) {
    let mut conn = connect(port).await.unwrap();
    let sql = format!("SELECT MAX(id) FROM {db}.t");
    // Its place is a row's id.
    let mut seen: Vec<Instant> = Vec::new();
    let mut queries = 0;
    let mut deadline = None;
    while seen.len() < total.load(Ordering::SeqCst) {
        let last: Option<u64> = conn.query_first::<Option<u64>, _>(sql.as_str()).await.unwrap().flatten();
        seen.resize(last.map_or(0, |id| id as usize + 1).max(seen.len()), Instant::now());
        queries += 1;
        if total.load(Ordering::SeqCst) != UNKNOWN {
            let deadline = deadline.get_or_insert_with(|| Instant::now() + Duration::from_secs(30));
            assert!(Instant::now() < *deadline, "only {} rows became visible", seen.len());
        }
        tokio::time::sleep(pause).await;
    }
    (seen, queries)
}
