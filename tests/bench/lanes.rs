//! A thousand tables on their way at the same time, with writers to all of them: how many readers of the log that
//! takes, and how much memory. Once as their first copy, and once as a `resync` of all of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use freshet_tests::compare::assert_equal;
use freshet_tests::freshet::{Sync, freshet, prepare_mark};
use freshet_tests::source::Source;
use freshet_tests::usage::{forget_peak, usage};
use freshet_tests::writer::{BUSY_COLUMNS, Writer};
use mysql_async::prelude::Queryable;
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::Scale;
use crate::report::Report;

/// Rows of each table at first.
const ROWS: u32 = 20;
/// Connections that write to tables at random, and their pause between transactions.
const WRITERS: u64 = 2;
const PAUSE: Duration = Duration::from_millis(5);
/// How long all of them may take to become level.
const PATIENCE: Duration = Duration::from_secs(900);

pub(crate) async fn measure(source: &Source, scale: Scale, report: &mut Report) {
    println!("lanes");
    let db = source.database("bench_lanes").await;
    prepare_mark(source, &db).await;
    let tables: Vec<String> = (0..scale.tables).map(|i| format!("t{i}")).collect();
    let mut conn = source.connect().await;
    conn.query_drop(format!("USE {db}")).await.unwrap();
    for table in &tables {
        conn.query_drop(format!("CREATE TABLE {table} {BUSY_COLUMNS}")).await.unwrap();
        conn.query_drop(format!(
            "INSERT INTO {table} SELECT seq, 'row', seq, '2024-01-01', x'00ff', seq, 0 FROM seq_1_to_{ROWS}"
        ))
        .await
        .unwrap();
    }

    let mut sync = Sync::new(&source.url, &format!("{db}.*"), &[]);
    sync.spawn();
    let on_the_way = OnTheWay::begin(source, &db, &tables, &mut sync).await;
    sync.all_live(PATIENCE).await;
    on_the_way.level(source, &db, &mut sync, "first copy", report).await;

    // The same process: its peak counts from what it holds now.
    forget_peak(sync.pid());
    let on_the_way = OnTheWay::begin(source, &db, &tables, &mut sync).await;
    sync.resync(None).await;
    on_the_way.level(source, &db, &mut sync, "resync", report).await;
    drop(sync);
    source.run(&format!("DROP DATABASE {db}")).await;
}

/// All tables on their way.
struct OnTheWay {
    start: Instant,
    /// What the process had taken before.
    cpu_s: f64,
    tables: usize,
    writers: Vec<Writer>,
    stop: Arc<AtomicBool>,
    watch: JoinHandle<Most>,
}

/// The most that was seen at any time.
#[derive(Default)]
struct Most {
    /// Connections that read the source's log.
    readers: u64,
    /// Tables that were copied and not level yet.
    catching_up: usize,
}

impl OnTheWay {
    /// Begins to write to them all, and to watch.
    async fn begin(source: &Source, db: &str, tables: &[String], sync: &mut Sync) -> Self {
        let start = Instant::now();
        let writers = (0..WRITERS).map(|seed| Writer::start(source, db, tables, seed, PAUSE)).collect();
        drop(sync.connect().await);
        let cpu_s = usage(sync.pid()).cpu_s;
        let stop = Arc::new(AtomicBool::new(false));
        let watch = tokio::spawn(watch(source.clone(), sync.data().display().to_string(), Arc::clone(&stop)));
        OnTheWay { start, cpu_s, tables: tables.len(), writers, stop, watch }
    }

    /// They have become level just now.
    async fn level(self, source: &Source, db: &str, sync: &mut Sync, what: &str, report: &mut Report) {
        let seconds = self.start.elapsed().as_secs_f64();
        self.stop.store(true, Ordering::SeqCst);
        let most = self.watch.await.unwrap();
        let mut transactions = 0;
        for writer in self.writers {
            transactions += writer.stop().await;
        }
        sync.caught_up(source, db).await;
        let used = usage(sync.pid());
        assert_equal(&mut source.connect().await, &mut sync.connect().await, db).await;
        let tables = self.tables;
        let detail = format!(
            "level after {seconds:.1} s, {transactions} transactions meanwhile, at most {} tables in the catch-up lane or \
            waiting for it, {:.1} CPU s",
            most.catching_up,
            used.cpu_s - self.cpu_s
        );
        report.at_most(&format!("readers of the log, {what} of {tables} tables"), most.readers as f64, "", 2.0, detail);
        report.at_most(&format!("peak memory, {what} of {tables} tables"), used.peak_mib, "MiB", 250.0, String::new());
    }
}

/// Looks at the source's connections ten times a second, and once a second at the tables.
async fn watch(source: Source, data: String, stop: Arc<AtomicBool>) -> Most {
    let mut conn = source.connect().await;
    let mut most = Most::default();
    let mut rounds = 0;
    while !stop.load(Ordering::SeqCst) {
        let sql = "SELECT COUNT(*) FROM information_schema.processlist WHERE command LIKE 'Binlog Dump%'";
        let readers: Option<u64> = conn.query_first(sql).await.unwrap();
        most.readers = most.readers.max(readers.unwrap_or(0));
        if rounds % 10 == 0 {
            let data = data.clone();
            let ask = move || freshet(&["status", "job", "--json", "--data", &data]);
            let status = tokio::task::spawn_blocking(ask).await.unwrap().json();
            let tables = status["result"]["jobs"][0]["tables"].as_array().cloned().unwrap_or_default();
            let catching_up = |t: &&Value| t["state"] == "catching_up" || t["resync"] == "catching_up";
            most.catching_up = most.catching_up.max(tables.iter().filter(catching_up).count());
        }
        rounds += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    most
}
