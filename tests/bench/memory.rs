//! Resident memory: idle, with 50 tables, and over minutes of a steady stream; and the time to the first answer.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use freshet_tests::freshet::{Sync, binary, connect, free_port, prepare_mark};
use freshet_tests::source::Source;
use freshet_tests::usage::usage;
use freshet_tests::writer::{BUSY_COLUMNS, Writer};
use mysql_async::prelude::Queryable;

use crate::Scale;
use crate::report::Report;

/// Changes a second of the steady stream, and rows of one of its transactions.
const STEADY: u64 = 5_000;
const STEADY_ROWS: u64 = 50;

pub(crate) async fn measure(source: &Source, scale: Scale, report: &mut Report) {
    println!("start and memory");
    start_and_idle(report).await;
    fifty_tables(source, report).await;
    steady(source, scale, report).await;
}

/// The median of several starts, and the memory of one that has answered a query.
async fn start_and_idle(report: &mut Report) {
    let dir = tempfile::tempdir().unwrap();
    let mut times = Vec::new();
    let mut idle = 0.0;
    for _ in 0..5 {
        let port = free_port();
        let start = Instant::now();
        let mut server = Server::start(&dir.path().join("data"), port);
        loop {
            if let Ok(mut conn) = connect(port).await {
                let one: Option<i64> = conn.query_first("SELECT 1 + 1").await.unwrap();
                assert_eq!(one, Some(2));
                break;
            }
            server.assert_runs();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        times.push(start.elapsed().as_secs_f64());
        tokio::time::sleep(Duration::from_secs(1)).await;
        idle = usage(server.0.id()).rss_mib;
    }
    times.sort_by(f64::total_cmp);
    report.at_most("start to the first answer", times[times.len() / 2], "s", 0.5, String::new());
    report.at_most("memory, idle", idle, "MiB", 60.0, String::new());
}

async fn fifty_tables(source: &Source, report: &mut Report) {
    let db = source.database("bench_fifty").await;
    prepare_mark(source, &db).await;
    let tables: Vec<String> = (0..50).map(|i| format!("t{i}")).collect();
    for table in &tables {
        source.run(&format!("CREATE TABLE {db}.{table} {BUSY_COLUMNS}")).await;
    }
    let mut sync = Sync::start(source, &db);
    sync.caught_up(source, &db).await;
    let writers: Vec<Writer> =
        (0..2).map(|seed| Writer::start(source, &db, &tables, seed, Duration::from_millis(2))).collect();
    tokio::time::sleep(Duration::from_secs(20)).await;
    let mut transactions = 0;
    for writer in writers {
        transactions += writer.stop().await;
    }
    sync.caught_up(source, &db).await;
    let used = usage(sync.pid());
    let detail = format!("{transactions} transactions in 20 s, {:.1} CPU s, now {:.0} MiB", used.cpu_s, used.rss_mib);
    report.at_most("peak memory, 50 tables streaming", used.peak_mib, "MiB", 150.0, detail);
    drop(sync);
    source.run(&format!("DROP DATABASE {db}")).await;
}

/// Flat: the last quarter's highest memory is at most a tenth above the second quarter's.
async fn steady(source: &Source, scale: Scale, report: &mut Report) {
    let db = source.database("bench_steady").await;
    prepare_mark(source, &db).await;
    let count = 100_000;
    source
        .run(&format!(
            "USE {db};\nCREATE TABLE t (id INT NOT NULL PRIMARY KEY, n INT NOT NULL, c CHAR(120) NOT NULL);\n\
            INSERT INTO t SELECT seq, 0, SHA2(seq, 384) FROM seq_1_to_{count}"
        ))
        .await;
    let mut sync = Sync::start(source, &db);
    sync.caught_up(source, &db).await;
    let mut conn = source.connect().await;
    let start = Instant::now();
    let mut samples = Vec::new();
    let transactions = scale.soak_s * STEADY / STEADY_ROWS;
    for i in 0..transactions {
        tokio::time::sleep_until((start + Duration::from_micros(i * 1_000_000 * STEADY_ROWS / STEADY)).into()).await;
        let first = i * 7919 % (count - STEADY_ROWS);
        conn.query_drop(format!(
            "UPDATE {db}.t SET n = n + 1, c = SHA2(n, 384) WHERE id > {first} AND id <= {}",
            first + STEADY_ROWS
        ))
        .await
        .unwrap();
        if i % (STEADY / STEADY_ROWS) == 0 {
            samples.push(usage(sync.pid()).rss_mib);
        }
    }
    sync.caught_up(source, &db).await;
    let quarter = samples.len() / 4;
    let highest = |part: &[f64]| part.iter().copied().fold(0.0, f64::max);
    let (early, late) = (highest(&samples[quarter..2 * quarter]), highest(&samples[3 * quarter..]));
    let detail = format!("{early:.0} then {late:.0} MiB, {:.1} CPU s", usage(sync.pid()).cpu_s);
    let measure = format!("memory growth, {} s at {STEADY} changes/s", scale.soak_s);
    report.at_most(&measure, (late / early - 1.0) * 100.0, "%", 10.0, detail);
    drop(sync);
    source.run(&format!("DROP DATABASE {db}")).await;
}

/// `freshet serve`, killed when dropped.
struct Server(Child);

impl Server {
    fn start(data: &std::path::Path, port: u16) -> Self {
        let listen = format!("127.0.0.1:{port}");
        let mut command = Command::new(binary());
        command.args(["serve", "--listen", &listen, "--data"]).arg(data);
        Server(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    fn assert_runs(&mut self) {
        assert!(self.0.try_wait().unwrap().is_none(), "`freshet serve` ended");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
