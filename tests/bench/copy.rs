//! The first copy of two tables, beside the command line client that reads the same table to nowhere.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use freshet_tests::freshet::{Sync, prepare_mark};
use freshet_tests::source::Source;
use freshet_tests::usage::{Usage, usage};
use mysql_async::Opts;
use mysql_async::prelude::Queryable;

use crate::Scale;
use crate::report::Report;

/// How often each side is measured; the fastest counts.
pub(crate) const RUNS: usize = 3;

/// Columns of `sbtest1`, whose rows have 200 bytes.
pub(crate) const SBTEST: &str =
    "id INT NOT NULL PRIMARY KEY, k INT NOT NULL, c CHAR(120) NOT NULL, pad CHAR(60) NOT NULL";

/// The query that makes the rows of `sbtest1`, with ids from 1.
pub(crate) fn sbtest_rows(rows: u64) -> String {
    format!(
        "SELECT seq, (seq * 7919) % {rows}, LEFT(SHA2(seq, 512), 119), LEFT(SHA2(seq + {rows}, 256), 59) \
         FROM seq_1_to_{rows}"
    )
}

pub(crate) async fn measure(source: &Source, scale: Scale, report: &mut Report) {
    println!("copy");
    let (rows, orders) = (scale.rows, scale.rows / 2);
    let sbtest = sbtest_rows(rows);
    let mixed = format!(
        "SELECT seq, seq % 50021, ELT(seq % 4 + 1, 'new', 'paid', 'shipped', 'returned'), seq * 1.07, \
        seq / 3, IF(seq % 9 = 0, NULL, CONCAT('note on order ', seq)), '2020-01-01' + INTERVAL seq * 37 SECOND, \
        '2020-01-01' + INTERVAL seq * 37001 MICROSECOND, seq % 2, CONCAT('{{\"items\": ', seq % 7, '}}'), UNHEX(MD5(seq)), \
        seq % 127 FROM seq_1_to_{orders}"
    );
    for (table, count, columns, select) in [
        ("sbtest1", rows, SBTEST, sbtest),
        (
            "orders",
            orders,
            "id BIGINT NOT NULL PRIMARY KEY, customer INT UNSIGNED NOT NULL, state ENUM('new','paid','shipped','returned'), \
             total DECIMAL(14,2), weight DOUBLE, note VARCHAR(100), placed DATETIME NOT NULL, changed TIMESTAMP(6) NULL, \
             gift TINYINT(1) NOT NULL, extra JSON, digest BINARY(16), rating TINYINT UNSIGNED",
            mixed,
        ),
    ] {
        measure_table(source, report, table, count, columns, &select).await;
    }
}

async fn measure_table(source: &Source, report: &mut Report, table: &str, rows: u64, columns: &str, select: &str) {
    let db = source.database("bench_copy").await;
    prepare_mark(source, &db).await;
    source.run(&format!("USE {db};\nCREATE TABLE {table} ({columns});\nINSERT INTO {table} {select}")).await;
    let sql = format!("select * from {db}.{table}");
    let bytes = read_with_client(source, &sql, true).1; // also warms the server's cache
    let client = (0..RUNS).map(|_| read_with_client(source, &sql, false).0).min().unwrap().as_secs_f64();
    let mut runs = Vec::new();
    for _ in 0..RUNS {
        let (_, seconds, used) = copy_once(source, &db, table, rows).await;
        runs.push((seconds, used));
    }
    runs.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (seconds, used) = runs[0];
    let peak = runs.iter().map(|(_, used)| used.peak_mib).fold(0.0, f64::max);
    let detail = format!(
        "{:.0} rows/s, {:.0} MB/s, {:.1} CPU s",
        rows as f64 / seconds,
        bytes as f64 / 1e6 / seconds,
        used.cpu_s
    );
    report.at_most_times(&format!("copy of {table}, {rows} rows"), seconds, ("client", client), 1.5, detail);
    report.at_most(&format!("peak memory, copy of {table}"), peak, "MiB", 400.0, String::new());
    source.run(&format!("DROP DATABASE {db}")).await;
}

/// From the start of the process until all rows are visible and the stream is level.
pub(crate) async fn copy_once(source: &Source, db: &str, table: &str, rows: u64) -> (Sync, f64, Usage) {
    let start = Instant::now();
    let mut sync = Sync::start(source, db);
    sync.caught_up(source, db).await;
    let mut conn = sync.connect().await;
    loop {
        let n: Option<u64> = conn.query_first(format!("SELECT COUNT(*) FROM {db}.{table}")).await.unwrap();
        if n == Some(rows) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let seconds = start.elapsed().as_secs_f64();
    let used = usage(sync.pid());
    (sync, seconds, used)
}

/// Time of `mariadb --quick -N -B -e SQL > /dev/null`; with `count` also the bytes that it prints.
fn read_with_client(source: &Source, sql: &str, count: bool) -> (Duration, u64) {
    let opts = Opts::from_url(&source.url).unwrap();
    let start = Instant::now();
    let mut child = Command::new("mariadb")
        .args(["--no-defaults", "--host=127.0.0.1", "--user=root", "--quick", "-N", "-B", "-e", sql])
        .arg(format!("--port={}", opts.tcp_port()))
        .env("MYSQL_PWD", opts.pass().unwrap_or_default())
        .stdout(if count { Stdio::piped() } else { Stdio::null() })
        .spawn()
        .unwrap();
    let mut bytes = 0;
    if let Some(mut out) = child.stdout.take() {
        let mut buffer = vec![0; 1 << 20];
        while let Ok(n @ 1..) = out.read(&mut buffer) {
            bytes += n as u64;
        }
    }
    assert!(child.wait().unwrap().success());
    (start.elapsed(), bytes)
}
