//! What a server's log does not show, against real servers: changes logged as statements, rows that foreign keys change.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // test code, though not marked as such

mod support;

use freshet_core::{Check, Verdict};
use support::{Bench, servers};

#[tokio::test]
async fn statements_in_place_of_rows_suspend_their_table() {
    for url in servers("statements_in_place_of_rows_suspend_their_table") {
        let mut b = Bench::new(&url, "un_statements").await;
        b.run(&[
            "CREATE TABLE a (id INT PRIMARY KEY, v INT)",
            "CREATE TABLE b (id INT PRIMARY KEY, v INT)",
            "CREATE TABLE aimed (id INT PRIMARY KEY, v INT)",
            "CREATE TABLE calm (id INT PRIMARY KEY, v INT)",
            "CREATE DATABASE IF NOT EXISTS un_elsewhere",
            "CREATE TABLE IF NOT EXISTS un_elsewhere.a (id INT, v INT)",
        ])
        .await;
        let mut job = b.begin().await;
        let mut c = b.session().await;
        support::run(
            &mut c,
            &[
                "SET SESSION binlog_format = STATEMENT",
                // Harmless, or about others.
                "BEGIN",
                "SAVEPOINT s",
                "INSERT INTO un_elsewhere.a SELECT 1, v FROM calm",
                "COMMIT",
                "FLUSH TABLES",
                "ANALYZE TABLE a",
                "GRANT SELECT ON un_statements.* TO root@'%'",
                "SET @x = 1",
                "INSERT INTO un_elsewhere.a VALUES (@x, 'b')",
                "INSERT INTO a VALUES (1, @x)",
                "SET SESSION binlog_format = ROW",
                "INSERT INTO calm VALUES (1, 1)",
                "INSERT INTO b VALUES (1, 1)",
                "SET SESSION binlog_format = STATEMENT",
                "DELETE x FROM b AS x JOIN calm AS y ON x.id = y.id + 1000",
            ],
        )
        .await;
        job.catch_up(&b).await;
        assert_eq!(job.suspended.keys().collect::<Vec<_>>(), ["a", "b", "calm"]);
        let error = job.suspended["a"].to_string();
        for part in ["INSERT INTO a VALUES (1, @x)", "as a statement", "binlog_format = 'ROW'", "freshet resync"] {
            assert!(error.contains(part), "{part} in {error}");
        }
    }
}

#[tokio::test]
async fn foreign_keys_that_change_rows_unseen() {
    for url in servers("foreign_keys_that_change_rows_unseen") {
        let mut b = Bench::new(&url, "un_keys").await;
        b.run(&[
            "CREATE TABLE p (id INT PRIMARY KEY, v INT)",
            "CREATE TABLE deleted (id INT PRIMARY KEY, p INT, CONSTRAINT fk1 FOREIGN KEY (p) REFERENCES p (id) ON DELETE CASCADE)",
            "CREATE TABLE moved (id INT PRIMARY KEY, p INT, CONSTRAINT fk2 FOREIGN KEY (p) REFERENCES p (id) ON UPDATE CASCADE)",
            "CREATE TABLE plain (id INT PRIMARY KEY, p INT, FOREIGN KEY (p) REFERENCES p (id))",
            "INSERT INTO p VALUES (1,1),(2,2),(3,3)",
            "INSERT INTO deleted VALUES (1,1),(2,2)",
            "INSERT INTO moved VALUES (3,3)",
        ])
        .await;
        let findings = b.source.check(&b.pattern()).await;
        let found: Vec<_> = findings.iter().filter(|f| f.name == "foreign keys").collect();
        if b.is_mysql() {
            assert!(found.len() == 1 && found[0].verdict == Verdict::Ok, "{found:#?}");
        } else {
            let tables: Vec<_> = found.iter().filter_map(|f| f.table.as_deref()).collect();
            assert_eq!(tables, ["un_keys.deleted", "un_keys.moved"], "{found:#?}");
            let fix = found[0].fix.as_deref().unwrap();
            assert!(fix.starts_with("ALTER TABLE `un_keys`.`deleted` DROP FOREIGN KEY `fk1`;"), "{fix}");
        }
        let mut job = b.begin().await;
        b.run(&["UPDATE p SET v = 9", "INSERT INTO p VALUES (4,4)"]).await;
        job.catch_up(&b).await;
        b.must_equal(&job, "nothing cascades").await;
        assert!(job.suspended.is_empty(), "{:?}", job.suspended);
        b.run(&["SET foreign_key_checks = 0", "DELETE FROM p WHERE id = 4", "SET foreign_key_checks = 1"]).await;
        b.run(&["DELETE FROM p WHERE id = 1"]).await;
        job.catch_up(&b).await;
        b.run(&["UPDATE p SET id = 30 WHERE id = 3"]).await;
        job.catch_up(&b).await;
        b.must_equal(&job, "what is left").await;
        match b.is_mysql() {
            true => assert!(job.suspended.is_empty(), "{:?}", job.suspended),
            false => {
                assert_eq!(job.suspended.keys().collect::<Vec<_>>(), ["deleted", "moved"]);
                let error = job.suspended["deleted"].to_string();
                assert!(error.contains("foreign key") && error.contains("un_keys.p"), "{error}");
            }
        }
    }
}
