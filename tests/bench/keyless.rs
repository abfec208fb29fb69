//! Deletes in a table without a key, half of whose rows are there twice: each has to find exactly one equal row. They
//! are in the source's log when the process starts.

use std::time::Instant;

use freshet_tests::compare::assert_same_answer;
use freshet_tests::freshet::{Sync, prepare_mark};
use freshet_tests::source::Source;
use freshet_tests::usage::usage;
use mysql_async::prelude::Queryable;

use crate::Scale;
use crate::report::Report;

/// Transactions of 100 deletes, each of one row of another `a`; where two rows are equal, one of them stays.
const ONE_BY_ONE: &str = "CREATE PROCEDURE one_by_one(first INT, total INT)
BEGIN
    DECLARE i INT DEFAULT 0;
    WHILE i < total DO
        START TRANSACTION;
        REPEAT
            DELETE FROM t WHERE a = first + (i * 7919) % total LIMIT 1;
            SET i = i + 1;
        UNTIL i % 100 = 0 END REPEAT;
        COMMIT;
    END WHILE;
END";

pub(crate) async fn measure(source: &Source, scale: Scale, report: &mut Report) {
    println!("keyless");
    let rows = scale.rows / 2;
    let (deletes, values) = (rows / 10, rows / 4);
    let db = source.database("bench_keyless").await;
    prepare_mark(source, &db).await;
    let mut conn = source.connect().await;
    conn.query_drop(format!("USE {db}")).await.unwrap();
    for statement in [
        // The index is the source's own help to find rows; it is not unique.
        "CREATE TABLE t (a INT NOT NULL, b VARCHAR(60), c INT NOT NULL, d DATETIME, KEY (a))",
        // Each `a` four times: in two rows that are equal, and in two that are not.
        &format!(
            "INSERT INTO t SELECT seq % {values}, SHA2(seq % {values}, 224), IF(seq <= {rows} / 2, 0, seq), \
            '2024-01-01' + INTERVAL seq % {values} SECOND FROM seq_1_to_{rows}"
        ),
        ONE_BY_ONE,
    ] {
        conn.query_drop(statement).await.unwrap();
    }
    let mut sync = Sync::start(source, &db);
    sync.caught_up(source, &db).await;

    let all_of_some_values = deletes / 4;
    for (what, statement) in [
        ("in one transaction", format!("DELETE FROM t WHERE a < {all_of_some_values}")),
        ("in transactions of 100", format!("CALL one_by_one({all_of_some_values}, {deletes})")),
    ] {
        assert_eq!(sync.terminate(), Some(0), "{}", sync.log());
        let start = Instant::now();
        conn.query_drop(statement).await.unwrap();
        let theirs = start.elapsed().as_secs_f64();
        let start = Instant::now();
        sync.spawn();
        sync.caught_up(source, &db).await;
        let seconds = start.elapsed().as_secs_f64();
        let used = usage(sync.pid());
        let detail = format!(
            "{seconds:.2} s with the start of the process, {:.1} CPU s, peak {:.0} MiB; the source took {theirs:.1} s",
            used.cpu_s, used.peak_mib
        );
        let measure = format!("keyless, {deletes} deletes {what}");
        report.at_least(&measure, deletes as f64 / seconds, 50_000.0, detail);
        let sql = format!(
            "SELECT twice, COUNT(*), SUM(a), SUM(c) FROM (SELECT a, c, COUNT(*) AS twice FROM {db}.t GROUP BY a, b, c, d) \
             AS r GROUP BY twice ORDER BY twice"
        );
        assert_same_answer(&mut source.connect().await, &mut sync.connect().await, &sql).await;
    }
    let left: Option<u64> = conn.query_first("SELECT COUNT(*) FROM t").await.unwrap();
    assert_eq!(left, Some(rows - 2 * deletes), "the source did not delete what was meant");
    drop(sync);
    source.run(&format!("DROP DATABASE {db}")).await;
}
