//! Schema changes in the log: every clause with rows of the old and the new shape around it, tables that come and go,
//! and all of it while others write.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use freshet_tests::compare::{assert_equal, compare_definition, count};
use freshet_tests::freshet::{Sync, prepare_mark};
use freshet_tests::quote;
use freshet_tests::source::Source;
use freshet_tests::writer::{BUSY_COLUMNS, Writer};
use mysql_async::prelude::Queryable;

/// Statements on `t`, each followed by an insert and an update.
const ALTERS: &[&str] = &[
    "ADD COLUMN last_one INT",
    "ADD COLUMN first_one VARCHAR(10) DEFAULT 'dflt' FIRST",
    "ADD COLUMN middle DECIMAL(10,2) NOT NULL DEFAULT 1.50 AFTER id",
    "ADD COLUMN (p1 INT DEFAULT 7, p2 VARCHAR(5) NOT NULL DEFAULT 'x''y')",
    "DROP COLUMN p1",
    "DROP COLUMN p2, ADD COLUMN p2 BIGINT DEFAULT 9",
    "RENAME COLUMN last_one TO renamed",
    "CHANGE COLUMN renamed changed BIGINT NULL",
    "MODIFY COLUMN changed BIGINT AFTER id",
    "MODIFY note VARCHAR(300)",
    "MODIFY note TEXT",
    "ALTER COLUMN first_one SET DEFAULT 'other'",
    "MODIFY first_one VARCHAR(10)",
    "MODIFY middle DECIMAL(20,4) NULL, DROP first_one, ADD COLUMN flag TINYINT(1) NOT NULL DEFAULT 1 FIRST",
    "COMMENT = 'a table, commented'",
    "MODIFY flag TINYINT(1) NOT NULL DEFAULT 1 COMMENT 'yes; or no'",
    "ADD INDEX by_note (note(20))",
    "DROP INDEX by_note",
    "ENGINE = InnoDB",
];

/// Each clause once.
pub(crate) async fn columns_come_and_go(source: Source) {
    let _turn = source.shared().await;
    let db = source.database("columns").await;
    prepare_mark(&source, &db).await;
    source.run(&format!("USE {db};\nCREATE TABLE t (id INT NOT NULL PRIMARY KEY, note VARCHAR(20));\nINSERT INTO t VALUES (1, 'one'), (2, 'two')")).await;
    let mut sync = Sync::start(&source, &db);
    sync.caught_up(&source, &db).await;
    let (mut theirs, mut ours) = (source.connect().await, sync.connect().await);
    for (i, alter) in ALTERS.iter().enumerate() {
        let id = 10 + i;
        source
            .run(&format!(
                "USE {db};\nINSERT INTO t (id, note) VALUES ({id}, 'before');\nALTER TABLE t {alter};\n\
            INSERT INTO t (id, note) VALUES ({}, 'behind');\nUPDATE t SET note = '{i}' WHERE id = 1",
                id + 100
            ))
            .await;
        sync.caught_up(&source, &db).await;
        println!("compare after {alter}");
        assert_equal(&mut theirs, &mut ours, &db).await;
    }
    // The same once more from the start, and then all at one go while the process is down.
    source.run(&format!("USE {db};\nCREATE TABLE u (id INT NOT NULL PRIMARY KEY, note VARCHAR(20));\nINSERT INTO u VALUES (1, 'one')")).await;
    sync.caught_up(&source, &db).await;
    sync.kill();
    let mut statements = vec![format!("USE {db}")];
    for (i, alter) in ALTERS.iter().enumerate() {
        statements.push(format!("ALTER TABLE u {alter}"));
        statements.push(format!("INSERT INTO u (id, note) VALUES ({}, 'x')", 10 + i));
    }
    source.run(&statements.join(";\n")).await;
    sync.spawn();
    sync.caught_up(&source, &db).await;
    assert_equal(&mut theirs, &mut sync.connect().await, &db).await;
}

/// The comparison of definitions sees what it should: each statement is done at the target alone.
pub(crate) async fn definitions_are_compared(source: Source) {
    let _turn = source.shared().await;
    let db = source.database("definitions").await;
    prepare_mark(&source, &db).await;
    source
        .run(&format!(
            "CREATE TABLE {db}.t (id INT PRIMARY KEY, s VARCHAR(20) DEFAULT 'it''s \\\\' COMMENT 'a; ''b''', \
             n DECIMAL(10,2) NOT NULL DEFAULT 1.5, d DATETIME(3) DEFAULT CURRENT_TIMESTAMP(3), f DOUBLE DEFAULT -1e-3, \
             b BIT(4) DEFAULT b'101', e ENUM('x','y') NOT NULL DEFAULT 'y', i INT DEFAULT NULL, \
             day DATE DEFAULT '2024-02-29', at DATETIME DEFAULT '2024-02-29 01:02:03', \
             raw VARBINARY(4) DEFAULT 'ab', sum INT DEFAULT (1 + 2)) COMMENT 'all; of it'"
        ))
        .await;
    let mut sync = Sync::start(&source, &db);
    sync.caught_up(&source, &db).await;
    let (mut theirs, mut ours) = (source.connect().await, sync.connect().await);
    compare_definition(&mut theirs, &mut ours, &db, "t").await.unwrap();
    for (change, back, expected) in [
        ("MODIFY COMMENT 'other'", "MODIFY COMMENT 'all; of it'", "the table's comment"),
        ("MODIFY COLUMN s COMMENT 'x'", "MODIFY COLUMN s COMMENT 'a; ''b'''", "s: the comment"),
        ("MODIFY COLUMN i INT DEFAULT '1'", "MODIFY COLUMN i INT", "i int"),
        ("MODIFY COLUMN i INT NOT NULL", "MODIFY COLUMN i INT NULL", "i: the source says nullable"),
        ("MODIFY COLUMN i BIGINT", "", "is bigint"),
    ] {
        ours.query_drop(format!("ALTER TABLE {db}.t {change}")).await.unwrap();
        let said = compare_definition(&mut theirs, &mut ours, &db, "t").await.expect_err(change);
        assert!(said.contains(expected), "{change}: {said}");
        if !back.is_empty() {
            ours.query_drop(format!("ALTER TABLE {db}.t {back}")).await.unwrap();
            compare_definition(&mut theirs, &mut ours, &db, "t").await.unwrap();
        }
    }
}

/// CREATE, RENAME, TRUNCATE and DROP TABLE.
pub(crate) async fn tables_come_and_go(source: Source) {
    let _turn = source.shared().await;
    let db = source.database("tables").await;
    prepare_mark(&source, &db).await;
    source
        .run(&format!(
            "USE {db};\nCREATE TABLE a (id INT NOT NULL PRIMARY KEY, v TEXT);\nINSERT INTO a VALUES (1, 'x');\n\
        CREATE TABLE gone (id INT NOT NULL PRIMARY KEY);\nINSERT INTO gone VALUES (1)"
        ))
        .await;
    let mut sync = Sync::start(&source, &db);
    sync.caught_up(&source, &db).await;
    source
        .run(&format!(
            "USE {db};\n\
        CREATE TABLE b (k VARCHAR(10) NOT NULL, n INT UNSIGNED DEFAULT 3, PRIMARY KEY (k)) COMMENT 'b';\n\
        INSERT INTO b (k) VALUES ('one'), ('two');\n\
        CREATE TABLE like_b LIKE b;\nINSERT INTO like_b VALUES ('three', 4);\n\
        CREATE TABLE IF NOT EXISTS b (z INT);\n\
        RENAME TABLE a TO a2;\nINSERT INTO a2 VALUES (2, 'y');\n\
        RENAME TABLE b TO c, a2 TO b;\nINSERT INTO b VALUES (3, 'z');\nINSERT INTO c (k) VALUES ('four');\n\
        TRUNCATE TABLE like_b;\nINSERT INTO like_b VALUES ('five', 6);\n\
        TRUNCATE c;\n\
        DROP TABLE gone;\nDROP TABLE IF EXISTS gone;\n\
        CREATE TABLE gone (id INT NOT NULL PRIMARY KEY, again INT);\nINSERT INTO gone VALUES (7, 8);\n\
        ALTER TABLE like_b RENAME TO d"
        ))
        .await;
    sync.caught_up(&source, &db).await;
    let (mut theirs, mut ours) = (source.connect().await, sync.connect().await);
    assert_equal(&mut theirs, &mut ours, &db).await;
    let tables: Vec<String> = ours.query(format!("SHOW TABLES FROM {}", quote(&db))).await.unwrap();
    assert_eq!(tables, ["b", "c", "d", "gone", "zz_mark"]);
    assert_eq!((count(&mut ours, &db, "b").await, count(&mut ours, &db, "c").await), (3, 0));
}

/// A statement with several effects shows none or all of them: tables that change their names in a circle are always
/// there, and the columns of one ALTER come together.
pub(crate) async fn changes_are_seen_whole(source: Source) {
    let _turn = source.shared().await;
    let db = source.database("whole").await;
    prepare_mark(&source, &db).await;
    source
        .run(&format!(
            "USE {db};\nCREATE TABLE a (id INT NOT NULL PRIMARY KEY, v INT);\nINSERT INTO a VALUES (1, 1);\n\
             CREATE TABLE b (id INT NOT NULL PRIMARY KEY, v INT);\nINSERT INTO b VALUES (1, 2);\n\
             CREATE TABLE c (id INT NOT NULL PRIMARY KEY);\nINSERT INTO c VALUES (1)"
        ))
        .await;
    let mut sync = Sync::start(&source, &db);
    sync.caught_up(&source, &db).await;
    let stop = Arc::new(AtomicBool::new(false));
    let watcher = tokio::spawn({
        let (mut ours, db, stop) = (sync.connect().await, db.clone(), Arc::clone(&stop));
        async move {
            let (mut orders, mut widths) = (BTreeSet::new(), BTreeSet::new());
            while !stop.load(Ordering::Relaxed) {
                let both = format!("SELECT a.v, b.v FROM {db}.a a JOIN {db}.b b ON a.id = b.id");
                let row: Option<(i32, i32)> = ours.query_first(both).await.expect("a table is missing");
                orders.insert(row.expect("a row is missing"));
                let row: mysql_async::Row = ours.query_first(format!("SELECT * FROM {db}.c")).await.unwrap().unwrap();
                widths.insert(row.len());
            }
            (orders, widths)
        }
    });
    let mut theirs = source.connect().await;
    for _ in 0..15 {
        theirs.query_drop(format!("RENAME TABLE {db}.a TO {db}.t, {db}.b TO {db}.a, {db}.t TO {db}.b")).await.unwrap();
        theirs.query_drop(format!("ALTER TABLE {db}.c ADD x INT, ADD y INT, ADD z INT")).await.unwrap();
        theirs.query_drop(format!("ALTER TABLE {db}.c DROP x, DROP y, DROP z")).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    sync.caught_up(&source, &db).await;
    stop.store(true, Ordering::Relaxed);
    let (orders, widths) = watcher.await.unwrap();
    assert_eq!(orders, BTreeSet::from([(1, 2), (2, 1)]));
    assert!(widths.is_subset(&BTreeSet::from([1, 4])), "{widths:?}");
    assert_equal(&mut theirs, &mut sync.connect().await, &db).await;
}

/// DDL on tables that are being written to, as soon as their copies are done.
pub(crate) async fn while_writers_write(source: Source) {
    let _turn = source.shared().await;
    let db = source.database("busy_ddl").await;
    prepare_mark(&source, &db).await;
    let tables: Vec<String> = (0..4).map(|i| format!("t{i}")).collect();
    for table in &tables {
        source.run(&format!("CREATE TABLE {db}.{table} {BUSY_COLUMNS}")).await;
    }
    let writers: Vec<Writer> =
        (0..2).map(|seed| Writer::start(&source, &db, &tables, seed, Duration::from_millis(2))).collect();
    let mut sync = Sync::start(&source, &db);
    sync.caught_up(&source, &db).await;
    for round in 0..5 {
        for table in &tables {
            source.run(&format!("ALTER TABLE {db}.{table} ADD COLUMN extra{round} INT NOT NULL DEFAULT {round} AFTER id, MODIFY name VARCHAR({})", 100 + round)).await;
            let update = format!("UPDATE {db}.{table} SET extra{round} = id WHERE id % 3 = 0");
            // The server may choose this statement as the victim of a deadlock with the writers.
            let mut conn = source.connect().await;
            while let Err(e) = conn.query_drop(&update).await {
                assert!(e.to_string().contains("1213"), "{e}");
            }
            if round > 1 {
                source.run(&format!("ALTER TABLE {db}.{table} DROP COLUMN extra{}", round - 2)).await;
            }
        }
    }
    let mut transactions = 0;
    for writer in writers {
        transactions += writer.stop().await;
    }
    assert!(transactions > 20, "the writers did almost nothing: {transactions}");
    sync.caught_up(&source, &db).await;
    assert_equal(&mut source.connect().await, &mut sync.connect().await, &db).await;
    let verified = sync.command(&["verify", "job", "--json"]);
    assert_eq!(verified.code, 0, "{verified:?}");
}
