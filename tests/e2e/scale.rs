//! Many tables at once, and one large table, copied while writers change them.

use std::time::{Duration, Instant};

use freshet_tests::compare::{assert_equal, assert_table};
use freshet_tests::freshet::{PATIENCE, Sync, prepare_mark};
use freshet_tests::source::{Flavour, Source};
use freshet_tests::writer::{BUSY_COLUMNS, Writer};
use mysql_async::prelude::Queryable;

/// 50 tables, half of them filled, all of them written to from before the copy on.
pub(crate) async fn fifty_tables(source: Source) {
    let _turn = source.shared().await;
    let db = source.database("fifty").await;
    prepare_mark(&source, &db).await;
    let tables: Vec<String> = (0..50).map(|i| format!("t{i:02}")).collect();
    let mut statements = vec![format!("USE {db}")];
    for (i, table) in tables.iter().enumerate() {
        statements.push(format!("CREATE TABLE {table} {BUSY_COLUMNS}"));
        if i % 2 == 0 {
            let row = |id: usize| format!("({id}, 'row {id}', {id}.25, now(6), x'{id:08x}', {id}e-3, {})", id % 65536);
            let rows: Vec<String> = (0..1000).map(|n| row(n * 5)).collect();
            statements.push(format!("INSERT INTO {table} VALUES {}", rows.join(", ")));
        }
    }
    source.run(&statements.join(";\n")).await;
    let writers: Vec<Writer> =
        (0..3).map(|seed| Writer::start(&source, &db, &tables, seed, Duration::from_millis(5))).collect();
    let mut sync = Sync::start(&source, &db);
    sync.caught_up(&source, &db).await;
    // All of them are live: their definitions change while they are written to.
    for (i, table) in tables.iter().enumerate() {
        let clause = match i % 5 {
            0 => "ADD COLUMN more INT NOT NULL DEFAULT 5 AFTER id",
            1 => "MODIFY name VARCHAR(90) DEFAULT 'none' COMMENT 'wider; with a default'",
            2 => "RENAME COLUMN ratio TO rate, ADD COLUMN more VARCHAR(10) FIRST",
            3 => "DROP COLUMN raw, COMMENT = 'without raw'",
            _ => "MODIFY small INT, ALTER COLUMN amount SET DEFAULT 1.5",
        };
        let mut conn = source.connect().await;
        conn.query_drop(format!("ALTER TABLE {db}.{table} {clause}")).await.unwrap_or_else(|e| panic!("{clause}: {e}"));
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    for writer in writers {
        assert!(writer.stop().await > 20);
    }
    sync.caught_up(&source, &db).await;
    sync.all_live(PATIENCE).await;
    assert_equal(&mut source.connect().await, &mut sync.connect().await, &db).await;
    let verified = sync.command(&["verify", "job", "--json"]);
    assert_eq!(verified.code, 0, "{verified:?}");
}

/// 2,000,000 rows (`FRESHET_ROWS` for another number), written to while they are copied, the process killed once in
/// the middle.
pub(crate) async fn one_large_table(source: Source) {
    let rows: u64 = std::env::var("FRESHET_ROWS").map_or(2_000_000, |n| n.parse().unwrap());
    let _turn = source.shared().await;
    let db = source.database("large").await;
    prepare_mark(&source, &db).await;
    source.run(&format!("CREATE TABLE {db}.large {BUSY_COLUMNS}")).await;
    let numbers = match source.flavour {
        Flavour::MariaDb => format!("SELECT seq AS n FROM seq_1_to_{rows}"),
        Flavour::MySql => format!(
            "SELECT /*+ SET_VAR(cte_max_recursion_depth = {rows}) */ n FROM \
             (WITH RECURSIVE s AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM s WHERE n < {rows}) SELECT n FROM s) x"
        ),
    };
    let start = Instant::now();
    source
        .run(&format!(
            "USE {db};\nINSERT INTO large SELECT n, CONCAT('name of ', n), n / 7, '2024-01-01' + INTERVAL n MICROSECOND, \
        UNHEX(LEFT(SHA2(n, 256), 32)), n * 1e-3, n % 65536 FROM ({numbers}) numbers"
        ))
        .await;
    println!("{rows} rows inserted after {:.1} s", start.elapsed().as_secs_f32());

    let writer = Writer::start(&source, &db, &["large".to_string()], 1, Duration::from_millis(5));
    let start = Instant::now();
    let mut sync = Sync::start(&source, &db);
    drop(sync.connect().await);
    tokio::time::sleep(Duration::from_secs(2)).await;
    sync.kill();
    sync.spawn();
    sync.caught_up(&source, &db).await;
    println!("copied after {:.1} s", start.elapsed().as_secs_f32());
    writer.stop().await;
    sync.caught_up(&source, &db).await;
    let start = Instant::now();
    let compared = assert_table(&mut source.connect().await, &mut sync.connect().await, &db, "large").await;
    assert!(compared as u64 > rows - 10_000, "{compared} rows");
    println!("compared after {:.1} s", start.elapsed().as_secs_f32());
    let start = Instant::now();
    let verified = sync.command(&["verify", "job", "--json"]);
    assert_eq!(verified.code, 0, "{verified:?}");
    println!("verified after {:.1} s", start.elapsed().as_secs_f32());
    source.run(&format!("DROP DATABASE {db}")).await;
}
