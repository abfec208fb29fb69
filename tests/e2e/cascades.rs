//! Foreign keys that change rows of other tables, where the server does not log that (MariaDB) and where it does (MySQL).

use std::time::{Duration, Instant};

use freshet_tests::compare::assert_equal;
use freshet_tests::freshet::{PATIENCE, Sync, prepare_mark};
use freshet_tests::source::{Flavour, Source};
use mysql_async::prelude::Queryable;

/// Children and grandchildren, keys that are not primary, of several columns, and of the table itself.
const TABLES: &str = "
CREATE TABLE p (id INT PRIMARY KEY, code INT NOT NULL UNIQUE, v INT);
CREATE TABLE c (id INT PRIMARY KEY, p INT, v INT, CONSTRAINT c_p FOREIGN KEY (p) REFERENCES p (id) ON DELETE CASCADE ON UPDATE CASCADE);
CREATE TABLE g (id INT PRIMARY KEY, c INT, CONSTRAINT g_c FOREIGN KEY (c) REFERENCES c (id) ON DELETE CASCADE);
CREATE TABLE n (id INT PRIMARY KEY, code INT, CONSTRAINT n_p FOREIGN KEY (code) REFERENCES p (code) ON DELETE SET NULL ON UPDATE SET NULL);
CREATE TABLE s (id INT PRIMARY KEY, up INT, CONSTRAINT s_s FOREIGN KEY (up) REFERENCES s (id) ON DELETE CASCADE);
CREATE TABLE k (a INT, b INT, v INT, PRIMARY KEY (a, b));
CREATE TABLE w (x INT, a INT, b INT, CONSTRAINT w_k FOREIGN KEY (a, b) REFERENCES k (a, b) ON DELETE CASCADE ON UPDATE CASCADE);
CREATE TABLE l (a INT, b INT, line INT, x INT, PRIMARY KEY (a, b, line), CONSTRAINT l_k FOREIGN KEY (a, b) REFERENCES k (a, b) ON DELETE CASCADE ON UPDATE CASCADE);
CREATE TABLE m (id INT PRIMARY KEY, a INT, b INT, CONSTRAINT m_k FOREIGN KEY (a, b) REFERENCES k (a, b) ON DELETE SET NULL ON UPDATE CASCADE);
CREATE TABLE u (name VARCHAR(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci PRIMARY KEY);
CREATE TABLE t (id INT PRIMARY KEY, u VARCHAR(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci, CONSTRAINT t_u FOREIGN KEY (u) REFERENCES u (name) ON DELETE CASCADE ON UPDATE SET NULL);
CREATE TABLE e (kind ENUM('x', 'y', 'z') PRIMARY KEY);
CREATE TABLE f (id INT PRIMARY KEY, kind ENUM('z', 'y', 'x'), CONSTRAINT f_e FOREIGN KEY (kind) REFERENCES e (kind) ON DELETE CASCADE);
INSERT INTO p SELECT id, id + 10000, 0 FROM numbers;
INSERT INTO c SELECT id, id % 300, 0 FROM numbers;
INSERT INTO g SELECT id, (id * 7) % 1000 FROM numbers;
INSERT INTO n SELECT id, id % 300 + 10000 FROM numbers;
INSERT INTO s SELECT id, IF(id < 100, NULL, id % 100) FROM numbers;
INSERT INTO k SELECT id % 40, id, 0 FROM numbers;
INSERT INTO w SELECT id % 5, id % 40, id FROM numbers;
INSERT INTO l SELECT id % 40, id, 1, 0 FROM numbers UNION ALL SELECT id % 40, id, 2, 0 FROM numbers;
INSERT INTO m SELECT id, id % 40, id FROM numbers;
INSERT INTO u SELECT CONCAT('Name', id) FROM numbers WHERE id < 50;
INSERT INTO u VALUES ('Zoé'), ('plain');
INSERT INTO t SELECT id, CONCAT(IF(id % 2, 'NAME', 'name'), id % 50) FROM numbers;
INSERT INTO t VALUES (2000, 'ZOE'), (2001, 'zoé'), (2002, 'pláin'), (2003, 'PLAIN');
INSERT INTO e VALUES ('x'), ('y'), ('z');
INSERT INTO f SELECT id, 1 + id % 3 FROM numbers";

/// Without a word the check refuses them; with `cascades=resync` what they change is read again, row by row where that is
/// possible, a kill in between included, and comes along when it happens all the time.
pub(crate) async fn foreign_keys(source: Source) {
    let _turn = source.shared().await;
    let db = source.database("cascades").await;
    prepare_mark(&source, &db).await;
    let numbers: Vec<String> = (0..1000).map(|n| format!("({n})")).collect();
    source
        .run(&format!(
            "USE {db};\nCREATE TABLE numbers (id INT PRIMARY KEY);\nINSERT INTO numbers VALUES {};{TABLES}",
            numbers.join(", ")
        ))
        .await;
    let pattern = format!("{db}.*");
    if source.flavour == Flavour::MariaDb {
        let refused = freshet_tests::freshet::freshet(&["check", &source.url, "--tables", &pattern]);
        assert_eq!(refused.code, 3, "{refused:?}");
        let text = refused.stdout + &refused.stderr;
        assert!(text.contains("DROP FOREIGN KEY") && text.contains("?cascades=resync"), "{text}");
    }
    let url = format!("{}?cascades=resync", source.url);
    let mut sync = Sync::new(&url, &pattern, &["--verbose"]);
    sync.spawn();
    sync.caught_up(&source, &db).await;
    let mut conn = source.connect().await;
    conn.query_drop(format!("USE {db}")).await.unwrap();
    // No table is copied again for these, where the server does not log them.
    let rounds: [&[&str]; 6] = [
        &["DELETE FROM p WHERE id < 10", "UPDATE p SET id = id + 70000 WHERE id = 12", "DELETE FROM c WHERE id = 13"],
        &[
            "START TRANSACTION",
            "DELETE FROM p WHERE id = 14",
            "INSERT INTO p VALUES (14, 77, 1)",
            "INSERT INTO c VALUES (314, 14, 5)",
            "COMMIT",
        ],
        &["UPDATE p SET code = code + 70000 WHERE id = 15", "DELETE FROM s WHERE id = 7"],
        &["DELETE FROM k WHERE b = 9", "UPDATE k SET v = 1 WHERE b = 10"],
        &[
            "DELETE FROM u WHERE name = 'name7'",
            "UPDATE u SET name = 'other' WHERE name = 'NAME8'",
            "DELETE FROM u WHERE name = 'plain'",
        ],
        &["INSERT INTO p VALUES (90000, 90000, 1)", "DELETE FROM p WHERE id = 90000"],
    ];
    for statements in rounds {
        for statement in statements {
            conn.query_drop(*statement).await.unwrap();
        }
        sync.caught_up(&source, &db).await;
        assert_equal(&mut conn, &mut sync.connect().await, &db).await;
    }
    let log = sync.log();
    assert_eq!(log.contains("rows are read again: "), source.flavour == Flavour::MariaDb, "{log}");
    let whole: Vec<_> = log.lines().filter(|l| l.contains("is copied again")).collect();
    // A table without a key.
    assert_eq!(whole.is_empty(), source.flavour == Flavour::MySql, "{log}");
    assert!(whole.iter().all(|l| l.contains(&format!("{db}.w"))), "{whole:#?}");
    for statement in ["DELETE FROM u WHERE name = 'zoe'", "DELETE FROM e WHERE kind = 'x'"] {
        conn.query_drop(statement).await.unwrap();
        sync.caught_up(&source, &db).await;
        assert_equal(&mut conn, &mut sync.connect().await, &db).await;
    }
    for (round, statements) in [
        [
            "DELETE FROM p WHERE id BETWEEN 16 AND 18",
            "UPDATE c SET v = 1 WHERE id > 500",
            "INSERT INTO c VALUES (5000, 20, 1)",
        ],
        [
            "UPDATE p SET id = id + 50000 WHERE id BETWEEN 20 AND 30",
            "DELETE FROM c WHERE id = 100",
            "UPDATE g SET c = 200 WHERE id < 5",
        ],
        [
            "UPDATE p SET code = code + 50000 WHERE id BETWEEN 40 AND 50",
            "UPDATE p SET v = 7",
            "INSERT INTO n VALUES (5000, NULL)",
        ],
        ["DELETE FROM s WHERE id = 3", "INSERT INTO s VALUES (5000, 4)", "DELETE FROM s WHERE id = 4"],
        [
            "DELETE FROM k WHERE a = 3",
            "UPDATE k SET a = 99 WHERE a = 4",
            "INSERT INTO w SELECT 7, a, b FROM k WHERE a = 5",
        ],
        ["START TRANSACTION", "DELETE FROM p WHERE id = 60", "ROLLBACK"],
    ]
    .into_iter()
    .enumerate()
    {
        for statement in statements {
            conn.query_drop(statement).await.unwrap();
        }
        if round % 2 == 1 {
            tokio::time::sleep(Duration::from_millis(round as u64 * 150)).await;
            sync.kill();
            conn.query_drop(format!("DELETE FROM p WHERE id = {}", 100 + round)).await.unwrap();
            sync.spawn();
        }
        sync.caught_up(&source, &db).await;
        assert_equal(&mut conn, &mut sync.connect().await, &db).await;
    }
    // All the time: the target comes along, though no copy is of the newest.
    let mut ours = sync.connect().await;
    let count = format!("SELECT COUNT(*) FROM {db}.c");
    let before: u64 = ours.query_first(count.as_str()).await.unwrap().unwrap();
    let (start, mut id) = (Instant::now(), 150);
    loop {
        conn.query_drop(format!("DELETE FROM p WHERE id = {}", id % 300)).await.unwrap();
        conn.query_drop(format!("REPLACE INTO p VALUES ({}, {}, 1)", id % 300, id + 100_000)).await.unwrap();
        conn.query_drop(format!("REPLACE INTO c VALUES ({}, {}, {id})", id + 6000, id % 300)).await.unwrap();
        id += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
        let now: u64 = ours.query_first(count.as_str()).await.unwrap().unwrap();
        if now < before && id > 250 {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "{before} rows, and now {now}:\n{}", sync.log());
    }
    sync.caught_up(&source, &db).await;
    assert_equal(&mut conn, &mut ours, &db).await;
    let verified = sync.command(&["verify", "job", "--json"]);
    assert_eq!(verified.code, 0, "{verified:?}");
}
