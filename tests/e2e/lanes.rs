//! Tables on their way: copied again while they are written to, changed while they are copied, without a key, logged in
//! part, swapped by a migration tool, larger than the buffer, damaged and repaired.

use std::time::{Duration, Instant};

use freshet_tests::compare::assert_equal;
use freshet_tests::freshet::{PATIENCE, Sync, prepare_mark};
use freshet_tests::source::Source;
use freshet_tests::writer::{BUSY_COLUMNS, Writer};
use mysql_async::prelude::Queryable;

/// Fills a table made with [`BUSY_COLUMNS`] with ids from 0.
pub(crate) async fn filled(source: &Source, db: &str, table: &str, rows: u32) {
    source.run(&format!("CREATE TABLE {db}.{table} {BUSY_COLUMNS}")).await;
    let mut conn = source.connect().await;
    for from in (0..rows).step_by(5000) {
        let row = |id: u32| format!("({id}, 'row {id}', {id}.5, '2024-01-01', x'{id:08x}', {id}e3, {})", id % 65536);
        let rows: Vec<String> = (from..rows.min(from + 5000)).map(row).collect();
        conn.query_drop(format!("INSERT INTO {db}.{table} VALUES {}", rows.join(", "))).await.unwrap();
    }
}

/// Waits until no table is being copied again.
pub(crate) async fn resynced(sync: &Sync) {
    let start = Instant::now();
    loop {
        let status = sync.command(&["status", "job", "--json"]).json();
        let tables = status["result"]["jobs"][0]["tables"].as_array().cloned().unwrap_or_default();
        assert!(!tables.is_empty(), "{status}");
        if tables.iter().all(|t| t["resync"].is_null() && t["state"] != "copying" && t["state"] != "pending") {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "{status}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// `resync` under load: the old contents stay readable, what comes out is equal, and the others go on.
pub(crate) async fn resync_under_load(source: Source) {
    let _turn = source.shared().await;
    let db = source.database("resync").await;
    prepare_mark(&source, &db).await;
    let tables: Vec<String> = ["again", "other"].map(String::from).to_vec();
    for table in &tables {
        filled(&source, &db, table, 30_000).await;
    }
    let mut sync = Sync::start(&source, &db);
    sync.caught_up(&source, &db).await;
    let writer = Writer::start(&source, &db, &tables, 3, Duration::from_millis(2));
    let mut ours = sync.connect().await;
    for round in 0..3 {
        let answer = sync.command(&["resync", "job", &format!("{db}.again")]);
        assert_eq!(answer.code, 0, "{answer:?}");
        if round == 1 {
            // In the middle of it.
            sync.kill();
            sync.spawn();
            ours = sync.connect().await;
        }
        let rows: u64 = ours.query_first(format!("SELECT COUNT(*) FROM {db}.again")).await.unwrap().expect("an answer");
        assert!(rows > 20_000, "the old contents are gone: {rows} rows");
        resynced(&sync).await;
    }
    assert!(writer.stop().await > 10);
    sync.caught_up(&source, &db).await;
    assert_equal(&mut source.connect().await, &mut sync.connect().await, &db).await;
    let verified = sync.command(&["verify", "job", "--json"]);
    assert_eq!(verified.code, 0, "{verified:?}");
    let left: Vec<String> = ours.query(format!("SHOW TABLES FROM {db}")).await.unwrap();
    assert!(left.iter().all(|t| !t.starts_with("__freshet")), "shadows are left: {left:?}");
}

/// A migration in the middle of the copy: columns, a rename, a truncate, a drop, while rows change.
pub(crate) async fn changed_while_copied(source: Source) {
    let _turn = source.shared().await;
    let db = source.database("amid").await;
    prepare_mark(&source, &db).await;
    let tables: Vec<String> = (0..4).map(|i| format!("t{i}")).collect();
    for table in &tables {
        filled(&source, &db, table, 40_000).await;
    }
    let writer = Writer::start(&source, &db, &tables, 5, Duration::from_millis(2));
    let mut sync = Sync::start(&source, &db);
    drop(sync.connect().await);
    for change in [
        "ALTER TABLE t0 ADD COLUMN extra INT DEFAULT 7",
        "RENAME TABLE t1 TO renamed",
        "TRUNCATE TABLE t2",
        "ALTER TABLE t0 ADD COLUMN born DATETIME DEFAULT CURRENT_TIMESTAMP",
        "ALTER TABLE t3 DROP COLUMN ratio",
        "RENAME TABLE t0 TO x, t3 TO t0, x TO t3",
    ] {
        source.run(&format!("USE {db};\n{change}")).await;
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    sync.kill();
    source.run(&format!("ALTER TABLE {db}.renamed ADD COLUMN later BIGINT NOT NULL DEFAULT 5 FIRST")).await;
    sync.spawn();
    tokio::time::sleep(Duration::from_millis(500)).await;
    writer.stop().await;
    sync.caught_up(&source, &db).await;
    assert_equal(&mut source.connect().await, &mut sync.connect().await, &db).await;
}

/// Tables without a key are exact multisets, over copies, changes of one of several equal rows, and kills.
pub(crate) async fn without_a_key(source: Source) {
    let _turn = source.shared().await;
    let db = source.database("keyless").await;
    prepare_mark(&source, &db).await;
    source.run(&format!("CREATE TABLE {db}.t (a INT, b VARCHAR(10), c DECIMAL(8,2))")).await;
    let mut rng = fastrand::Rng::with_seed(11);
    let mut conn = source.connect().await;
    let value = |rng: &mut fastrand::Rng| match rng.u8(0..5) {
        0 => "NULL".to_string(),
        n => format!("{}", n % 3),
    };
    let mut write = async |conn: &mut mysql_async::Conn, n: usize| {
        for _ in 0..n {
            let (a, b, c) = (value(&mut rng), value(&mut rng), value(&mut rng));
            let statement = match rng.u8(0..6) {
                0..=2 => format!("INSERT INTO {db}.t VALUES ({a}, {b}, {c}), ({a}, {b}, {c})"),
                3 => format!("DELETE FROM {db}.t WHERE a <=> {a} ORDER BY b, c LIMIT 1"),
                4 => format!("UPDATE {db}.t SET b = {b} WHERE a <=> {a} ORDER BY b, c LIMIT 2"),
                _ => format!("UPDATE {db}.t SET a = {a}, c = {c} WHERE b <=> {b} ORDER BY a, c LIMIT 1"),
            };
            conn.query_drop(statement).await.unwrap();
        }
    };
    write(&mut conn, 300).await;
    let mut sync = Sync::start(&source, &db);
    write(&mut conn, 300).await;
    drop(sync.connect().await);
    sync.kill();
    write(&mut conn, 200).await;
    sync.spawn();
    write(&mut conn, 300).await;
    sync.caught_up(&source, &db).await;
    source
        .run(&format!(
            "USE {db};\nALTER TABLE t ADD COLUMN d INT DEFAULT 4;\nDELETE FROM t WHERE a = 1 LIMIT 3;\nUPDATE t SET d = 5 LIMIT 9"
        ))
        .await;
    sync.caught_up(&source, &db).await;
    assert_same_bag(&source, &mut sync, &db).await;
    let answer = sync.command(&["resync", "job", &format!("{db}.t")]);
    assert_eq!(answer.code, 0, "{answer:?}");
    resynced(&sync).await;
    sync.caught_up(&source, &db).await;
    assert_same_bag(&source, &mut sync, &db).await;
}

/// Equal rows equally often.
async fn assert_same_bag(source: &Source, sync: &mut Sync, db: &str) {
    let sql = format!("SELECT a, b, c, d, COUNT(*) FROM {db}.t GROUP BY a, b, c, d ORDER BY a, b, c, d");
    type Rows = Vec<(Option<i64>, Option<String>, Option<String>, Option<i64>, u64)>;
    let mut theirs: Rows = source.connect().await.query(&sql).await.unwrap();
    let mut ours: Rows = sync.connect().await.query(&sql).await.unwrap();
    theirs.sort();
    ours.sort();
    assert!(theirs.len() > 10, "{theirs:?}");
    assert_eq!(theirs, ours);
}

/// The server logs only what changed.
pub(crate) async fn partial_images(source: Source) {
    let _turn = source.alone().await;
    for image in ["MINIMAL", "NOBLOB"] {
        source.run(&format!("SET GLOBAL binlog_row_image = {image}")).await;
        let db = source.database("images").await;
        prepare_mark(&source, &db).await;
        let tables: Vec<String> = ["t", "u"].map(String::from).to_vec();
        for table in &tables {
            filled(&source, &db, table, 5_000).await;
        }
        source
            .run(&format!(
                "USE {db};\nCREATE TABLE docs (id INT PRIMARY KEY, body TEXT, n INT NOT NULL DEFAULT 3);\n\
                 INSERT INTO docs (id, body) VALUES (1, 'one'), (2, 'two')"
            ))
            .await;
        let writer = Writer::start(&source, &db, &tables, 7, Duration::from_millis(1));
        let mut sync = Sync::start(&source, &db);
        drop(sync.connect().await);
        tokio::time::sleep(Duration::from_millis(400)).await;
        sync.kill();
        source
            .run(&format!(
                "USE {db};\nUPDATE docs SET n = n + 1 WHERE id = 1;\nUPDATE docs SET id = 20 WHERE id = 2;\n\
                 INSERT INTO docs (id) VALUES (5);\nUPDATE docs SET body = 'five' WHERE id = 5"
            ))
            .await;
        sync.spawn();
        tokio::time::sleep(Duration::from_millis(600)).await;
        assert!(writer.stop().await > 10);
        sync.caught_up(&source, &db).await;
        assert_equal(&mut source.connect().await, &mut sync.connect().await, &db).await;
        source.run("SET GLOBAL binlog_row_image = FULL").await;
    }
}

/// Online migration tools: a copy beside the table takes its name, from outside what the job follows.
pub(crate) async fn a_table_takes_the_place_of_another(source: Source) {
    let _turn = source.shared().await;
    let db = source.database("ghost").await;
    prepare_mark(&source, &db).await;
    filled(&source, &db, "t", 3_000).await;
    let mut sync = Sync::new(&source.url, &format!("{db}.t,{db}.zz_mark"), &[]);
    sync.spawn();
    sync.caught_up(&source, &db).await;
    source
        .run(&format!(
            "USE {db};\nCREATE TABLE _t_gho LIKE t;\nALTER TABLE _t_gho ADD COLUMN extra INT NOT NULL DEFAULT 9;\n\
             INSERT INTO _t_gho (id, name, amount, at, raw, ratio, small) SELECT * FROM t;\n\
             RENAME TABLE t TO _t_del, _t_gho TO t;\nUPDATE t SET extra = 10 WHERE id < 5"
        ))
        .await;
    sync.caught_up(&source, &db).await;
    let (mut theirs, mut ours) = (source.connect().await, sync.connect().await);
    freshet_tests::compare::assert_table(&mut theirs, &mut ours, &db, "t").await;
    source.run(&format!("DROP TABLE {db}._t_del;\nDELETE FROM {db}.t WHERE id = 7")).await;
    sync.caught_up(&source, &db).await;
    freshet_tests::compare::assert_table(&mut theirs, &mut ours, &db, "t").await;
}

/// One transaction that is larger than the buffer is visible at once, or not at all.
pub(crate) async fn a_large_transaction(source: Source) {
    let _turn = source.shared().await;
    let db = source.database("large").await;
    prepare_mark(&source, &db).await;
    source.run(&format!("CREATE TABLE {db}.t (id INT PRIMARY KEY, v VARCHAR(100))")).await;
    let mut sync = Sync::start(&source, &db);
    sync.caught_up(&source, &db).await;
    let mut conn = source.connect().await;
    conn.query_drop("BEGIN").await.unwrap();
    let total = 400_000u32;
    for from in (0..total).step_by(20_000) {
        let rows: Vec<String> = (from..from + 20_000).map(|i| format!("({i}, repeat('x', 90))")).collect();
        conn.query_drop(format!("INSERT INTO {db}.t VALUES {}", rows.join(","))).await.unwrap();
    }
    conn.query_drop(format!("DELETE FROM {db}.t WHERE id % 10 = 3")).await.unwrap();
    conn.query_drop(format!("UPDATE {db}.t SET v = 'changed' WHERE id % 10 = 4")).await.unwrap();
    let mut ours = sync.connect().await;
    let watcher = tokio::spawn({
        let sql = format!("SELECT COUNT(*) FROM {db}.t");
        async move {
            let start = Instant::now();
            let mut seen = Vec::new();
            while start.elapsed() < PATIENCE {
                let n: u32 = ours.query_first(&sql).await.unwrap().unwrap();
                if seen.last() != Some(&n) {
                    seen.push(n);
                }
                if n == total / 10 * 9 {
                    break;
                }
            }
            seen
        }
    });
    conn.query_drop("COMMIT").await.unwrap();
    assert_eq!(watcher.await.unwrap(), [0, total / 10 * 9], "some of it was visible");
    sync.caught_up(&source, &db).await;
    assert_equal(&mut conn, &mut sync.connect().await, &db).await;
}

/// What somebody damaged in the target is found key by key, and repaired.
pub(crate) async fn repair(source: Source) {
    let _turn = source.shared().await;
    let db = source.database("repair").await;
    prepare_mark(&source, &db).await;
    filled(&source, &db, "t", 4_000).await;
    let mut sync = Sync::start(&source, &db);
    sync.caught_up(&source, &db).await;
    let mut ours = sync.connect().await;
    ours.query_drop(format!("DELETE FROM {db}.t WHERE id IN (5, 2000)")).await.unwrap();
    ours.query_drop(format!("UPDATE {db}.t SET name = 'wrong' WHERE id = 77")).await.unwrap();
    let found = sync.command(&["verify", "job", "--json"]);
    assert_eq!(found.code, 1, "{found:?}");
    let repaired = sync.command(&["verify", "job", "--repair", "--json"]).json();
    let tables = repaired["result"]["tables"].as_array().unwrap();
    assert_eq!(tables.iter().map(|t| t["repaired"].as_u64().unwrap()).sum::<u64>(), 3, "{repaired}");
    sync.caught_up(&source, &db).await;
    let verified = sync.command(&["verify", "job", "--json"]);
    assert_eq!(verified.code, 0, "{verified:?}");
    assert_equal(&mut source.connect().await, &mut ours, &db).await;
}

/// The log is gone when a paused job goes on: it says so, and `resync` begins anew, with the old contents readable.
pub(crate) async fn purged_while_paused(source: Source) {
    let _turn = source.alone().await;
    let db = source.database("purged").await;
    prepare_mark(&source, &db).await;
    filled(&source, &db, "t", 2_000).await;
    source.run(&format!("CREATE TABLE {db}.bag (a INT, b INT);\nINSERT INTO {db}.bag VALUES (1, 1), (1, 1)")).await;
    let mut sync = Sync::start(&source, &db);
    sync.caught_up(&source, &db).await;
    assert_eq!(sync.command(&["pause", "job"]).code, 0);
    source
        .run(&format!(
            "DELETE FROM {db}.t WHERE id < 100;\nFLUSH BINARY LOGS;\nDELETE FROM {db}.bag LIMIT 1;\nFLUSH BINARY LOGS"
        ))
        .await;
    let mut conn = source.connect().await;
    purge(&mut conn).await;
    let _ = sync.command(&["resume", "job"]);
    let said = crate::away::failed(&mut sync).await;
    assert!(said.contains("purged") && said.contains("freshet resync"), "{said}\n{}", sync.log());
    let answer = sync.command(&["resync", "job"]);
    assert_eq!(answer.code, 0, "{answer:?}");
    sync.spawn();
    sync.caught_up(&source, &db).await;
    freshet_tests::compare::assert_table(&mut conn, &mut sync.connect().await, &db, "t").await;
    let bag = format!("SELECT COUNT(*) FROM {db}.bag");
    assert_eq!(sync.connect().await.query_first::<u64, _>(bag).await.unwrap(), Some(1));
}

/// A table whose target is out of the way is parked with the reason, the others go on; once its target is back,
/// `resume JOB TABLE` lets it go on from there, a kill in between included.
pub(crate) async fn refused_and_resumed(source: Source) {
    let _turn = source.shared().await;
    let db = source.database("parked").await;
    prepare_mark(&source, &db).await;
    for table in ["gone", "other"] {
        filled(&source, &db, table, 1_000).await;
    }
    let mut sync = Sync::start(&source, &db);
    sync.caught_up(&source, &db).await;
    let gone = format!("{db}.gone");
    let early = sync.command(&["resume", "job", &gone]);
    assert!(early.code != 0 && early.stderr.contains("not suspended"), "{early:?}");
    let mut ours = sync.connect().await;
    ours.query_drop(format!("ALTER TABLE {gone} RENAME aside")).await.unwrap();
    let write = |n: u32| {
        let change = |t: &str| {
            format!(
                "UPDATE {db}.{t} SET name = 'round {n}' WHERE id % 7 = {n};\nDELETE FROM {db}.{t} WHERE id % 97 = {n};\n\
                 INSERT INTO {db}.{t} SELECT id + 10000 * ({n} + 1), name, amount, at, raw, ratio, small \
                 FROM {db}.{t} WHERE id BETWEEN 100 AND 120"
            )
        };
        format!("{};\n{}", change("gone"), change("other"))
    };
    source.run(&write(0)).await;
    let parked = suspended(&sync).await;
    assert!(parked.contains("gone") && parked.contains("does not exist"), "{parked}");
    source.run(&write(1)).await;
    sync.caught_up(&source, &db).await;
    freshet_tests::compare::assert_table(&mut source.connect().await, &mut ours, &db, "other").await;
    sync.kill();
    sync.spawn();
    let mut ours = sync.connect().await;
    ours.query_drop(format!("ALTER TABLE {db}.aside RENAME gone")).await.unwrap();
    let answer = sync.command(&["resume", "job", &gone]);
    assert_eq!(answer.code, 0, "{answer:?}");
    source.run(&write(2)).await;
    sync.caught_up(&source, &db).await;
    assert_equal(&mut source.connect().await, &mut ours, &db).await;

    // A target that is gone for good comes back with a new copy.
    ours.query_drop(format!("DROP TABLE {gone}")).await.unwrap();
    source.run(&write(3)).await;
    suspended(&sync).await;
    let answer = sync.command(&["resync", "job", &gone]);
    assert_eq!(answer.code, 0, "{answer:?}");
    resynced(&sync).await;
    sync.caught_up(&source, &db).await;
    assert_equal(&mut source.connect().await, &mut ours, &db).await;
}

/// Waits until a table is suspended, and returns what is said about it.
async fn suspended(sync: &Sync) -> String {
    let start = Instant::now();
    loop {
        let status = sync.command(&["status", "job", "--json"]).json();
        let tables = status["result"]["jobs"][0]["tables"].as_array().cloned().unwrap_or_default();
        if let Some(parked) = tables.iter().find(|t| t["state"] == "suspended") {
            return parked.to_string();
        }
        assert!(start.elapsed() < PATIENCE, "{status}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Takes everything but the newest file of the server's log away.
async fn purge(conn: &mut mysql_async::Conn) {
    conn.query_drop("FLUSH BINARY LOGS").await.unwrap();
    let logs: Vec<mysql_async::Row> = conn.query("SHOW BINARY LOGS").await.unwrap();
    let last: String = logs.last().unwrap().get(0).unwrap();
    // A server keeps logs that a reader had open, until it has noticed that the reader is gone.
    let start = Instant::now();
    loop {
        conn.query_drop(format!("PURGE BINARY LOGS TO '{last}'")).await.unwrap();
        let left: Vec<mysql_async::Row> = conn.query("SHOW BINARY LOGS").await.unwrap();
        if left.first().unwrap().get::<String, _>(0).unwrap() == last {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "the logs cannot be purged");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The server purges its log behind the main lane while a table is being copied, before and behind a `kill -9`: what the
/// catch-up lane needs of it was kept. Without a spool the table is suspended.
pub(crate) async fn purged_while_copied(source: Source) {
    for spool in ["64MB", "0"] {
        let _turn = source.alone().await;
        let db = source.database("spooled").await;
        prepare_mark(&source, &db).await;
        for table in ["held", "busy"] {
            filled(&source, &db, table, 5_000).await;
        }
        let mut sync = Sync::new(&source.url, &format!("{db}.*"), &["--spool", spool]);
        sync.spawn();
        sync.caught_up(&source, &db).await;
        let (mut locker, mut conn) = (source.connect().await, source.connect().await);
        let write = async |locker: &mut mysql_async::Conn, round: u32| {
            for n in 0..100 {
                let id = round * 1000 + n;
                locker
                    .query_drop(format!("UPDATE {db}.held SET name = 'round {round}' WHERE id = {id}"))
                    .await
                    .unwrap();
                locker.query_drop(format!("DELETE FROM {db}.held WHERE id = {}", id + 500)).await.unwrap();
            }
        };
        // The lock lets the copy of this table wait, but not its owner's changes.
        locker.query_drop(format!("LOCK TABLES {db}.held WRITE")).await.unwrap();
        let answer = sync.command(&["resync", "job", &format!("{db}.held")]);
        assert_eq!(answer.code, 0, "{answer:?}");
        for round in 0..3 {
            write(&mut locker, round).await;
            // The main lane has passed that when it has passed this.
            let followed = format!("SELECT COUNT(*) FROM {db}.busy WHERE name = 'passed {round}'");
            conn.query_drop(format!("UPDATE {db}.busy SET name = 'passed {round}' WHERE id = {round}")).await.unwrap();
            let start = Instant::now();
            while sync.connect().await.query_first::<u64, _>(&followed).await.unwrap() != Some(1) {
                assert!(start.elapsed() < PATIENCE, "the main lane does not go on:\n{}", sync.log());
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            purge(&mut conn).await;
            if round == 1 {
                let status = sync.command(&["status", "job", "--json"]).json();
                let kept = &status["result"]["jobs"][0]["spool"];
                assert_eq!(kept["bytes"].as_u64().is_some_and(|n| n > 20_000), spool != "0", "{status}");
                sync.kill();
                sync.spawn();
            }
        }
        locker.query_drop("UNLOCK TABLES").await.unwrap();
        resynced(&sync).await;
        let status = sync.command(&["status", "job", "--json"]).json();
        let suspended = status["result"]["jobs"][0]["tables"].to_string().contains("suspended");
        assert_eq!(suspended, spool == "0", "{status}\n{}", sync.log());
        if !suspended {
            sync.caught_up(&source, &db).await;
            assert_equal(&mut conn, &mut sync.connect().await, &db).await;
            let left: Vec<_> = std::fs::read_dir(sync.data().join("spool")).into_iter().flatten().collect();
            assert!(left.is_empty(), "{left:?}");
        }
    }
}
