//! One transaction of ten million rows: in bounded memory, and visible at once. A reader counts all the while; it may
//! see none of them or all.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use freshet_tests::compare::assert_same_answer;
use freshet_tests::freshet::{Sync, connect, prepare_mark};
use freshet_tests::source::Source;
use freshet_tests::usage::{forget_peak, usage};
use mysql_async::prelude::Queryable;

use crate::Scale;
use crate::report::Report;

/// How long a transaction may take to become visible after its commit.
const PATIENCE: Duration = Duration::from_secs(600);

pub(crate) async fn measure(source: &Source, scale: Scale, report: &mut Report) {
    println!("transaction");
    let rows = scale.transaction;
    let db = source.database("bench_transaction").await;
    prepare_mark(source, &db).await;
    source
        .run(&format!("CREATE TABLE {db}.t (id INT NOT NULL PRIMARY KEY, n BIGINT NOT NULL, note VARCHAR(40))"))
        .await;
    let mut sync = Sync::start(source, &db);
    sync.caught_up(source, &db).await;
    let mut conn = source.connect().await;
    conn.query_drop(format!("USE {db}")).await.unwrap();
    for (what, statement, from, to) in [
        ("insert", format!("INSERT INTO t SELECT seq, seq * 7919, CONCAT('row ', seq) FROM seq_1_to_{rows}"), 0, rows),
        ("delete", "DELETE FROM t".to_string(), rows, 0),
    ] {
        forget_peak(sync.pid());
        let before = usage(sync.pid());
        let committed = Arc::new(AtomicBool::new(false));
        let reader = tokio::spawn(watch(sync.port, db.clone(), (from, to), Arc::clone(&committed)));
        let start = Instant::now();
        conn.query_drop(statement).await.unwrap();
        let end = Instant::now();
        committed.store(true, Ordering::SeqCst);
        let Watched { visible, queries, partial } = reader.await.unwrap();
        let used = usage(sync.pid());
        let seconds = visible.saturating_duration_since(end).as_secs_f64();
        let name = format!("{what} of {rows} rows at once");
        let detail = format!("{:.0} rows/s, {:.1} CPU s", rows as f64 / seconds, used.cpu_s - before.cpu_s);
        let executed = ("executed in", (end - start).as_secs_f64());
        report.beside(&format!("{name}, commit to visible"), seconds, "s", executed, detail);
        report.at_most(&format!("{name}, peak memory"), used.peak_mib, "MiB", 256.0, String::new());
        let detail = format!("of {queries} counts");
        report.at_most(&format!("{name}, seen in part"), partial as f64, "", 0.0, detail);
        sync.caught_up(source, &db).await;
        let sql = format!("SELECT COUNT(*), SUM(id), SUM(n), MIN(note), MAX(note) FROM {db}.t");
        assert_same_answer(&mut source.connect().await, &mut sync.connect().await, &sql).await;
    }
    drop(sync);
    source.run(&format!("DROP DATABASE {db}")).await;
}

/// What a reader saw.
struct Watched {
    /// When it first saw all.
    visible: Instant,
    queries: u64,
    /// Answers that were neither nothing nor all.
    partial: u64,
}

/// Counts until the count is not the first of these but the second.
async fn watch(port: u16, db: String, (from, to): (u64, u64), committed: Arc<AtomicBool>) -> Watched {
    let mut conn = connect(port).await.unwrap();
    let sql = format!("SELECT COUNT(*) FROM {db}.t");
    let (mut queries, mut partial) = (0, 0);
    let mut deadline = None;
    loop {
        let count: Option<u64> = conn.query_first(sql.as_str()).await.unwrap();
        queries += 1;
        match count {
            Some(n) if n == to => return Watched { visible: Instant::now(), queries, partial },
            Some(n) if n == from => {}
            _ => partial += 1,
        }
        if committed.load(Ordering::SeqCst) {
            let deadline = deadline.get_or_insert_with(|| Instant::now() + PATIENCE);
            assert!(Instant::now() < *deadline, "the transaction is not visible after {PATIENCE:?}: {count:?}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
