//! Catching up on a backlog of changes, beside a MariaDB replica with default settings on the same log.

use std::time::Instant;

use freshet_tests::freshet::{Sync, prepare_mark};
use freshet_tests::source::Source;
use freshet_tests::usage::{Usage, at_rest, usage};
use mysql_async::Opts;
use mysql_async::prelude::Queryable;

use crate::Scale;
use crate::copy::RUNS;
use crate::report::Report;

/// Rows of the table that is changed.
const ROWS: u64 = 200_000;

/// Transactions of `per` updates of one row each, as an application writes them.
const ONE_BY_ONE: &str = "CREATE PROCEDURE one_by_one(total INT, per INT)
BEGIN
    DECLARE i INT DEFAULT 0;
    WHILE i < total DO
        START TRANSACTION;
        REPEAT
            UPDATE t SET k = k + 1, c = CONCAT(i, '-', SUBSTR(c, 8)) WHERE id = 1 + (i * 7919) % 200000;
            SET i = i + 1;
        UNTIL i % per = 0 END REPEAT;
        COMMIT;
    END WHILE;
END";

/// Transactions of one statement that updates `per` rows, as a batch writes them.
const AT_ONCE: &str = "CREATE PROCEDURE at_once(total INT, per INT)
BEGIN
    DECLARE i INT DEFAULT 0;
    WHILE i < total DO
        UPDATE t SET k = k + 1, c = CONCAT(i, '-', SUBSTR(c, 8)) WHERE id > i % 200000 AND id <= i % 200000 + per;
        SET i = i + per;
    END WHILE;
END";

pub(crate) async fn measure(source: &Source, replica: &Source, scale: Scale, report: &mut Report) {
    println!("catching up");
    let db = source.database("bench_stream").await;
    prepare_mark(source, &db).await;
    let mut conn = source.connect().await;
    conn.query_drop(format!("USE {db}")).await.unwrap();
    for statement in [
        "CREATE TABLE t (id INT NOT NULL PRIMARY KEY, k INT NOT NULL, c CHAR(120) NOT NULL, pad CHAR(60) NOT NULL)",
        &format!(
            "INSERT INTO t SELECT seq, seq, SHA2(seq, 384), LEFT(SHA2(-CAST(seq AS SIGNED), 256), 59) FROM seq_1_to_{ROWS}"
        ),
        ONE_BY_ONE,
        AT_ONCE,
    ] {
        conn.query_drop(statement).await.unwrap();
    }
    let opts = Opts::from_url(&source.url).unwrap();
    let (port, password) = (opts.tcp_port(), opts.pass().unwrap_or_default().to_string());
    replica
        .run(&format!(
            "CHANGE MASTER TO master_host = '127.0.0.1', master_port = {port}, master_user = 'root', \
            master_password = '{password}', master_use_gtid = slave_pos;\nSTART SLAVE"
        ))
        .await;
    let mut sync = Sync::start(source, &db);
    sync.caught_up(source, &db).await;
    replicated(source, replica).await;

    let changes = scale.changes as f64;
    for (procedure, per) in [("one_by_one", 10), ("at_once", 1000)] {
        let (mut ours, mut theirs) = ((f64::MAX, Usage::default()), (f64::MAX, Usage::default()));
        for _ in 0..RUNS {
            at_rest(sync.pid()).await;
            assert_eq!(sync.terminate(), Some(0), "{}", sync.log());
            replica.run("STOP SLAVE").await;
            let start = Instant::now();
            conn.query_drop(format!("CALL {procedure}({}, {per})", scale.changes)).await.unwrap();
            println!("  {} changes written in {:.0} s", scale.changes, start.elapsed().as_secs_f64());
            at_rest(source.pid()).await;

            let start = Instant::now();
            sync.spawn();
            sync.caught_up(source, &db).await;
            let seconds = start.elapsed().as_secs_f64();
            if seconds < ours.0 {
                ours = (seconds, usage(sync.pid()));
            }

            let before = usage(replica.pid());
            let start = Instant::now();
            replica.run("START SLAVE").await;
            replicated(source, replica).await;
            let seconds = start.elapsed().as_secs_f64();
            if seconds < theirs.0 {
                let after = usage(replica.pid());
                theirs = (seconds, Usage { cpu_s: after.cpu_s - before.cpu_s, ..after });
            }
        }
        let detail = format!(
            "{:.1} CPU s, peak {:.0} MiB; replica {:.1} CPU s, {:.0} MiB",
            ours.1.cpu_s, ours.1.peak_mib, theirs.1.cpu_s, theirs.1.rss_mib
        );
        let measure = format!("catching up, transactions of {per}");
        report.at_least_times(&measure, changes / ours.0, ("replica", changes / theirs.0), 2.0, detail);
    }
    replica.run("STOP SLAVE;\nRESET SLAVE ALL").await;
    drop(sync);
    source.run(&format!("DROP DATABASE {db}")).await;
}

/// Waits until the replica has applied everything that the source has.
async fn replicated(source: &Source, replica: &Source) {
    let end: Option<String> = source.connect().await.query_first("SELECT @@gtid_binlog_pos").await.unwrap();
    let mut conn = replica.connect().await;
    let waited: Option<i64> = conn.exec_first("SELECT MASTER_GTID_WAIT(?, 600)", (end,)).await.unwrap();
    if waited != Some(0) {
        let status: Option<mysql_async::Row> = conn.query_first("SHOW SLAVE STATUS").await.unwrap();
        panic!("the replica does not follow: {status:?}");
    }
}
