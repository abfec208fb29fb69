//! Copying a table again while 1,000 changes a second go to it, beside its first copy that nobody disturbs, and how
//! fresh another table is meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use freshet_tests::compare::assert_same_answer;
use freshet_tests::freshet::prepare_mark;
use freshet_tests::source::Source;
use freshet_tests::usage::{at_rest, forget_peak, usage};
use mysql_async::prelude::Queryable;

use crate::Scale;
use crate::copy::{RUNS, SBTEST, copy_once, sbtest_rows};
use crate::latency::{PROBED, Probe, percentile};
use crate::report::Report;

/// Changes a second of the table that is copied, and rows of one of its transactions.
const CHANGES: u64 = 1_000;
const CHANGED_TOGETHER: u64 = 10;

/// Transactions a second of the other table, and the pause between two looks at it: often enough to see a tenth of the
/// target, seldom enough not to be what is measured.
const PROBES: u64 = 100;
const PAUSE: Duration = Duration::from_millis(10);

pub(crate) async fn measure(source: &Source, scale: Scale, report: &mut Report) {
    println!("resync");
    let rows = scale.rows;
    let db = source.database("bench_resync").await;
    prepare_mark(source, &db).await;
    source
        .run(&format!(
            "USE {db};\nCREATE TABLE {PROBED};\nCREATE TABLE sbtest1 ({SBTEST});\nINSERT INTO sbtest1 {}",
            sbtest_rows(rows)
        ))
        .await;
    let (mut first, mut again): (f64, f64) = (f64::MAX, f64::MAX);
    let (mut latencies, mut peak, mut cpu_s, mut load): (Vec<f64>, f64, f64, String) = Default::default();
    for _ in 0..RUNS {
        source.run(&format!("TRUNCATE TABLE {db}.t")).await;
        let (mut sync, seconds, _) = copy_once(source, &db, "sbtest1", rows).await;
        first = first.min(seconds);
        at_rest(sync.pid()).await;
        forget_peak(sync.pid());
        let before = usage(sync.pid());
        let probe = Probe::start(source, &sync, &db, PROBES, PAUSE);
        let stop = Arc::new(AtomicBool::new(false));
        let writer = tokio::spawn(change(source.clone(), db.clone(), rows, Arc::clone(&stop)));
        tokio::time::sleep(Duration::from_millis(500)).await; // the stream is under way

        let start = Instant::now();
        sync.resync(Some(&format!("{db}.sbtest1"))).await;
        let end = Instant::now();
        let seconds = (end - start).as_secs_f64();
        let used = usage(sync.pid());

        stop.store(true, Ordering::SeqCst);
        let rate = writer.await.unwrap();
        latencies.extend(probe.finish().await.between(start, end));
        peak = peak.max(used.peak_mib);
        if seconds < again {
            (again, cpu_s, load) = (seconds, used.cpu_s - before.cpu_s, format!("{rate:.0} changes/s"));
        }
        sync.caught_up(source, &db).await;
        let sql = format!("SELECT COUNT(*), SUM(k), MIN(c), MAX(c) FROM {db}.sbtest1");
        assert_same_answer(&mut source.connect().await, &mut sync.connect().await, &sql).await;
    }
    let detail = format!("{load}, {:.0} rows/s, {cpu_s:.1} CPU s, peak {peak:.0} MiB", rows as f64 / again);
    report.at_most_times(&format!("resync of sbtest1, {rows} rows"), again, ("first copy", first), 1.5, detail);
    let [p50, p99, max] = [0.5, 0.99, 1.0].map(|p| percentile(&mut latencies, p));
    let detail = format!("{} rows of another table, p50 {p50:.0} ms, max {max:.0} ms", latencies.len());
    report.at_most("commit to visible meanwhile, p99", p99, "ms", 250.0, detail);
    source.run(&format!("DROP DATABASE {db}")).await;
}

/// Updates rows from all over the table at an even pace until it is stopped; returns the changes per second.
async fn change(source: Source, db: String, rows: u64, stop: Arc<AtomicBool>) -> f64 {
    let mut conn = source.connect().await;
    let start = Instant::now();
    let mut changes = 0;
    while !stop.load(Ordering::SeqCst) {
        tokio::time::sleep_until((start + Duration::from_micros(changes * 1_000_000 / CHANGES)).into()).await;
        let id = |i: u64| (1 + (changes + i) * 1_299_709 % rows).to_string();
        let ids = (0..CHANGED_TOGETHER).map(id).collect::<Vec<_>>().join(", ");
        conn.query_drop(format!(
            "UPDATE {db}.sbtest1 SET k = k + 1, c = CONCAT({changes}, '-', SUBSTR(c, 9)) WHERE id IN ({ids})"
        ))
        .await
        .unwrap();
        changes += CHANGED_TOGETHER;
    }
    changes as f64 / start.elapsed().as_secs_f64()
}
