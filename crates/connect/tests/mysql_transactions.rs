//! Commits only: what a server's log holds of transactions that end otherwise, against real servers.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // test code, though not marked as such

mod support;

use support::{Bench, prepare, servers};

/// Statements that end in more rows than are handed out in one piece.
fn many(table: &str, from: u32, rows: u32) -> String {
    let digits = "(SELECT 0 d UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4 UNION ALL \
        SELECT 5 UNION ALL SELECT 6 UNION ALL SELECT 7 UNION ALL SELECT 8 UNION ALL SELECT 9)";
    format!(
        "INSERT INTO {table} SELECT n + {from}, n FROM (SELECT a.d + 10*b.d + 100*c.d + 1000*e.d + 10000*f.d n FROM \
         {digits} a, {digits} b, {digits} c, {digits} e, {digits} f) x WHERE n < {rows}"
    )
}

#[tokio::test]
async fn what_is_rolled_back_is_not_handed_out() {
    for url in servers("what_is_rolled_back_is_not_handed_out") {
        let mut b = Bench::new(&url, "tx_rollback").await;
        b.run(&[
            "CREATE TABLE i (id INT PRIMARY KEY, v INT) ENGINE=InnoDB",
            "CREATE TABLE m (id INT PRIMARY KEY, v INT) ENGINE=MyISAM",
        ])
        .await;
        let mut job = b.begin().await;
        let mixed = !b.is_mysql();
        let statements = |texts: &[&str]| texts.iter().map(|t| t.to_string()).collect::<Vec<_>>();
        let mut transactions = vec![
            (
                "savepoint",
                statements(&[
                    "BEGIN",
                    "INSERT INTO i VALUES (1,1)",
                    "SAVEPOINT a",
                    "INSERT INTO i VALUES (2,1)",
                    "ROLLBACK TO a",
                    "INSERT INTO i VALUES (3,1)",
                    "COMMIT",
                ]),
            ),
            ("rollback", statements(&["BEGIN", "INSERT INTO i VALUES (5,1)", "ROLLBACK"])),
            ("failing on MyISAM", statements(&["INSERT IGNORE INTO m VALUES (1,1),(2,1),(1,2)"])),
        ];
        if mixed {
            // MySQL refuses these with gtid_mode=ON.
            transactions.extend([
                (
                    "MyISAM in a rollback",
                    statements(&["BEGIN", "INSERT INTO i VALUES (10,1)", "INSERT INTO m VALUES (10,1)", "ROLLBACK"]),
                ),
                (
                    "MyISAM behind a savepoint",
                    statements(&[
                        "BEGIN",
                        "INSERT INTO i VALUES (20,1)",
                        "SAVEPOINT `a b`",
                        "UPDATE i SET v = 7 WHERE id = 20",
                        "INSERT INTO i VALUES (21,1)",
                        "SAVEPOINT c",
                        "INSERT INTO m VALUES (21,1)",
                        "INSERT INTO i VALUES (22,1)",
                        "ROLLBACK TO c",
                        "INSERT INTO i VALUES (23,1)",
                        "ROLLBACK TO `A B`",
                        "INSERT INTO i VALUES (24,1)",
                        "COMMIT",
                    ]),
                ),
                (
                    "temporary table in a rollback",
                    statements(&[
                        "BEGIN",
                        "INSERT INTO i VALUES (30,1)",
                        "CREATE TEMPORARY TABLE tt (a INT)",
                        "DELETE FROM i WHERE id = 1",
                        "SAVEPOINT a",
                        "DROP TEMPORARY TABLE tt",
                        "INSERT INTO i VALUES (31,1)",
                        "ROLLBACK",
                    ]),
                ),
                (
                    "large rollback",
                    vec![
                        "BEGIN".into(),
                        many("i", 100_000, 80_000),
                        "CREATE TEMPORARY TABLE tt (a INT)".into(),
                        "ROLLBACK".into(),
                        "DROP TEMPORARY TABLE tt".into(),
                    ],
                ),
                (
                    "large savepoint",
                    vec![
                        "BEGIN".into(),
                        many("i", 200_000, 40_000),
                        "SAVEPOINT a".into(),
                        many("i", 300_000, 90_000),
                        "INSERT INTO m VALUES (30,1)".into(),
                        "ROLLBACK TO a".into(),
                        "INSERT INTO i VALUES (40,1)".into(),
                        "COMMIT".into(),
                    ],
                ),
                (
                    "late savepoint",
                    vec![
                        "BEGIN".into(),
                        many("i", 400_000, 70_000),
                        "SAVEPOINT a".into(),
                        many("i", 500_000, 70_000),
                        "INSERT INTO m VALUES (31,1)".into(),
                        "ROLLBACK TO a".into(),
                        "COMMIT".into(),
                    ],
                ),
            ]);
        }
        transactions.push((
            "large",
            vec!["BEGIN".into(), many("i", 600_000, 90_000), "INSERT INTO i VALUES (50,1)".into(), "COMMIT".into()],
        ));
        for (what, statements) in transactions {
            for sql in &statements {
                b.run(&[sql]).await;
            }
            job.catch_up(&b).await;
            b.must_equal(&job, what).await;
        }
        assert!(job.suspended.is_empty(), "{:?}", job.suspended);
    }
}

#[tokio::test]
async fn prepared_transactions_count_at_their_commit() {
    for url in servers("prepared_transactions_count_at_their_commit") {
        // What a failed run left behind holds locks.
        let mut c = support::connect(&url).await;
        for xid in ["'small','b,@ ',77", "'large'", "'never'", "'unread'", "'savepoint'", "'again'"] {
            let _ = c.execute(&format!("XA ROLLBACK {xid}")).await;
        }
        let mut b = Bench::new(&url, "tx_xa").await;
        b.run(&["CREATE TABLE i (id INT PRIMARY KEY, v INT)", "CREATE TABLE other (id INT PRIMARY KEY, v INT)"]).await;
        let mut job = b.begin().await;
        let (small, large) = (many("i", 1000, 100), many("i", 100_000, 90_000));
        let wide = "INSERT INTO i SELECT id + 5000, v FROM i WHERE id BETWEEN 1 AND 2";
        prepare(
            &b,
            "'small','b,@ ',77",
            &["INSERT INTO i VALUES (1,1)", "INSERT INTO i VALUES (2,2)", "UPDATE i SET v = 3 WHERE id = 2"],
        )
        .await;
        prepare(&b, "'large'", &[&large, "INSERT INTO other VALUES (1,1)"]).await;
        prepare(&b, "'never'", &["INSERT INTO i VALUES (7,7)"]).await;
        prepare(&b, "'unread'", &[&small]).await;
        prepare(
            &b,
            "'savepoint'",
            &[
                "INSERT INTO i VALUES (50,1)",
                "SAVEPOINT a",
                "INSERT INTO i VALUES (51,1)",
                "ROLLBACK TO a",
                "INSERT INTO i VALUES (52,1)",
            ],
        )
        .await;
        job.catch_up(&b).await;
        assert_eq!(job.changes.get("i"), None);
        assert!(job.at.commit.contains(" xa="), "{}", job.at);

        // A job that begins now: a copy does not see what is prepared, the log before its begin has it.
        let mut late = b.begin().await;
        assert!(!late.at.commit.contains(" xa="), "{}", late.at);
        b.must_equal(&late, "begun with prepared transactions").await;

        // Restarted (each catching up opens a new stream), and the log goes on in another file.
        b.run(&["FLUSH BINARY LOGS", "INSERT INTO other VALUES (9,9)"]).await;
        job.catch_up(&b).await;
        b.run(&["XA COMMIT 'large'", "XA COMMIT 'small','b,@ ',77", "XA ROLLBACK 'never'"]).await;
        job.catch_up(&b).await;
        assert_eq!(job.changes["i"], 3 + 90_000);
        late.catch_up(&b).await;
        assert_eq!(late.changes["i"], 3 + 90_000);
        b.must_equal(&job, "committed").await;
        b.must_equal(&late, "committed after the job began").await;

        b.run(&["XA COMMIT 'unread'", "XA COMMIT 'savepoint'"]).await;
        // In one stream: prepared, others in between, committed.
        prepare(&b, "'again'", &[wide]).await;
        b.run(&[
            "INSERT INTO i VALUES (8,8)",
            "XA COMMIT 'again'",
            "XA START 'once'",
            "INSERT INTO i VALUES (9,9)",
            "XA END 'once'",
            "XA COMMIT 'once' ONE PHASE",
        ])
        .await;
        // The same name a second time.
        prepare(&b, "'again'", &["INSERT INTO i VALUES (10,1)"]).await;
        b.run(&["XA COMMIT 'again'"]).await;
        for job in [&mut job, &mut late] {
            job.catch_up(&b).await;
            b.must_equal(job, "all committed").await;
            assert_eq!(job.changes["i"], 3 + 90_000 + 100 + 2 + 2 + 1 + 1 + 1);
            assert!(!job.at.commit.contains(" xa="), "{}", job.at);
            assert!(job.suspended.is_empty(), "{:?}", job.suspended);
        }
    }
}

#[tokio::test]
async fn one_phase_transactions_larger_than_memory() {
    for url in servers("one_phase_transactions_larger_than_memory") {
        let mut b = Bench::new(&url, "tx_xa_large").await;
        b.run(&["CREATE TABLE i (id INT PRIMARY KEY, v TEXT)"]).await;
        let mut job = b.begin().await;
        b.run(&["XA START 'large one'"]).await;
        for id in 0..8 {
            b.run(&[&format!("INSERT INTO i VALUES ({id}, REPEAT('x', 1000000))")]).await;
        }
        b.run(&["XA END 'large one'", "XA COMMIT 'large one' ONE PHASE"]).await;
        let mut c = b.session().await;
        support::run(&mut c, &["XA START 'second'"]).await;
        for id in 10..18 {
            support::run(&mut c, &[&format!("INSERT INTO i VALUES ({id}, REPEAT('y', 1000000))")]).await;
        }
        support::run(&mut c, &["XA END 'second'", "XA PREPARE 'second'", "XA COMMIT 'second'"]).await;
        job.catch_up(&b).await;
        b.must_equal(&job, "large").await;
        assert_eq!(job.changes["i"], 16);
    }
}

/// MySQL packs all of a transaction into one event, the one that prepares it included.
#[tokio::test]
async fn prepared_transactions_that_are_compressed() {
    let Some(url) = support::server("MYSQL", "prepared_transactions_that_are_compressed") else { return };
    let mut b = Bench::new(&url, "tx_xa_packed").await;
    b.run(&["CREATE TABLE i (id INT PRIMARY KEY, v TEXT)"]).await;
    let mut job = b.begin().await;
    let packed = "SET SESSION binlog_transaction_compression = ON";
    let wide = |from: u32, rows: u32| {
        let values: Vec<_> = (from..from + rows).map(|id| format!("({id}, REPEAT('x', 100000))")).collect();
        format!("INSERT INTO i VALUES {}", values.join(", "))
    };
    for (xid, statement) in [("'packed small'", wide(0, 2)), ("'packed large'", wide(100, 80))] {
        b.run(&[
            packed,
            &format!("XA START {xid}"),
            &statement,
            &format!("XA END {xid}"),
            &format!("XA PREPARE {xid}"),
        ])
        .await;
        job.catch_up(&b).await;
        assert!(job.at.commit.contains(" xa="), "{}", job.at);
        b.run(&[&format!("XA COMMIT {xid}")]).await;
        job.catch_up(&b).await;
        b.must_equal(&job, xid).await;
    }
    // In one stream, larger than what is kept.
    let large = wide(300, 80);
    b.run(&["XA START 'packed on'", &large, "XA END 'packed on'", "XA PREPARE 'packed on'", "XA COMMIT 'packed on'"])
        .await;
    let large = wide(500, 80);
    b.run(&["XA START 'packed once'", &large, "XA END 'packed once'", "XA COMMIT 'packed once' ONE PHASE"]).await;
    job.catch_up(&b).await;
    b.must_equal(&job, "in one stream").await;
    assert_eq!(job.changes["i"], 2 + 80 + 80 + 80);
}
