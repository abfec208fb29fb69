//! `kill -9` of Freshet and of the source at random instants: nothing is lost, nothing is there twice.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fastrand::Rng;
use freshet_tests::compare::{assert_equal, assert_table};
use freshet_tests::freshet::{PATIENCE, Sync, prepare_mark};
use freshet_tests::source::Source;
use freshet_tests::writer::{BUSY_COLUMNS, Writer};
use mysql_async::prelude::Queryable;

/// A database with tables that are worth copying, each with 2,000 rows.
async fn busy_database(source: &Source, name: &str, tables: &[String]) -> String {
    let db = source.database(name).await;
    prepare_mark(source, &db).await;
    for table in tables {
        let row = |id: u32| format!("({id}, 'row {id}', {id}.5, now(6), x'{id:08x}', {id}e3, {})", id % 65536);
        let rows: Vec<String> = (0..2000).map(row).collect();
        source
            .run(&format!(
                "CREATE TABLE {db}.{table} {BUSY_COLUMNS};\nINSERT INTO {db}.{table} VALUES {}",
                rows.join(", ")
            ))
            .await;
    }
    db
}

fn seeded() -> Rng {
    let seed = std::env::var("FRESHET_SEED").map_or_else(|_| fastrand::u64(..), |s| s.parse().unwrap());
    println!("FRESHET_SEED={seed}");
    Rng::with_seed(seed)
}

/// 5 kills (`FRESHET_KILLS` for another number), from within the copy on, with a column added on the way.
pub(crate) async fn freshet_at_random_instants(source: Source) {
    let kills: u32 = std::env::var("FRESHET_KILLS").map_or(5, |n| n.parse().unwrap());
    let _turn = source.shared().await;
    let mut rng = seeded();
    let tables: Vec<String> = (0..5).map(|i| format!("t{i}")).collect();
    let db = busy_database(&source, "killed", &tables).await;
    let writers: Vec<Writer> =
        (0..2).map(|_| Writer::start(&source, &db, &tables, rng.u64(..), Duration::from_millis(2))).collect();
    let mut sync = Sync::start(&source, &db);
    for kill in 0..kills {
        if kill % 2 == 0 {
            drop(sync.connect().await);
        }
        tokio::time::sleep(Duration::from_millis(rng.u64(20..1500))).await;
        assert!(sync.runs(), "it ended:\n{}", sync.log());
        sync.kill();
        if rng.bool() {
            let table = &tables[rng.usize(..tables.len())];
            source.run(&format!("ALTER TABLE {db}.{table} ADD COLUMN k{kill} INT DEFAULT {kill}")).await;
        }
        sync.spawn();
    }
    for writer in writers {
        assert!(writer.stop().await > 10);
    }
    sync.caught_up(&source, &db).await;
    assert_equal(&mut source.connect().await, &mut sync.connect().await, &db).await;
    let verified = sync.command(&["verify", "job", "--json"]);
    assert_eq!(verified.code, 0, "{verified:?}");
}

/// The source is killed in the copy and in the stream, and comes back. What it had committed but not yet flushed to
/// its disk survives, because the machine does.
pub(crate) async fn the_source(source: Source) {
    let _turn = source.alone().await;
    let mut rng = seeded();
    let tables: Vec<String> = (0..5).map(|i| format!("t{i}")).collect();
    let db = busy_database(&source, "killing", &tables).await;
    let writer = Writer::start(&source, &db, &tables, rng.u64(..), Duration::from_millis(2));
    let mut sync = Sync::start(&source, &db);
    drop(sync.connect().await);
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(rng.u64(100..2000))).await;
        source.kill();
        tokio::time::sleep(Duration::from_millis(rng.u64(0..1000))).await;
        source.start(&[]);
        source.wait().await;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(writer.stop().await > 10);
    assert!(sync.runs(), "a lost source ended it:\n{}", sync.log());
    sync.caught_up(&source, &db).await;
    assert_equal(&mut source.connect().await, &mut sync.connect().await, &db).await;
}

/// SIGTERM writes what has been read and ends with 0; the next start goes on from there.
pub(crate) async fn terminate_and_resume(source: Source) {
    let _turn = source.shared().await;
    let tables = vec!["t".to_string()];
    let db = busy_database(&source, "terminated", &tables).await;
    let mut sync = Sync::start(&source, &db);
    sync.caught_up(&source, &db).await;
    let writer = Writer::start(&source, &db, &tables, 1, Duration::from_millis(1));
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(sync.terminate(), Some(0), "{}", sync.log());
    tokio::time::sleep(Duration::from_millis(300)).await;
    sync.spawn();
    assert!(writer.stop().await > 10);
    sync.caught_up(&source, &db).await;
    assert_equal(&mut source.connect().await, &mut sync.connect().await, &db).await;
}

/// A transaction beyond the buffer that is cut off at a step of its parts is read again, and becomes visible as a whole.
pub(crate) async fn amid_a_large_transaction(source: Source) {
    let _turn = source.shared().await;
    let db = source.database("parts").await;
    prepare_mark(&source, &db).await;
    let numbers: Vec<String> = (0..20_000).map(|i| format!("({i})")).collect();
    source
        .run(&format!(
            "USE {db};\nCREATE TABLE n (id INT PRIMARY KEY);\nINSERT INTO n VALUES {};\n\
             CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(1000))",
            numbers.join(",")
        ))
        .await;
    let mut sync = Sync::start(&source, &db);
    sync.caught_up(&source, &db).await;
    for what in [
        "part.intent=kill@1",
        "part.intent=eio@2",
        "part.intent=enospc@1",
        "part.write=kill@1",
        "part.write=eio@2",
        "part.write=enospc@1",
        "part.written=kill@1",
        "part.written=eio@2",
        "part.written=enospc@1",
    ] {
        sync.kill();
        sync.spawn_with_failpoints(what);
        let mut conn = source.connect().await;
        conn.query_drop(format!("TRUNCATE TABLE {db}.t")).await.unwrap();
        conn.query_drop("BEGIN").await.unwrap();
        for from in (0..80_000).step_by(20_000) {
            let rows = format!("SELECT id + {from}, repeat('x', 1000) FROM {db}.n");
            conn.query_drop(format!("INSERT INTO {db}.t {rows}")).await.unwrap();
        }
        conn.query_drop("COMMIT").await.unwrap();
        sync.ended(PATIENCE, what).await;
        sync.spawn();
        let mut ours = sync.connect().await;
        let seen: u32 = ours.query_first(format!("SELECT COUNT(*) FROM {db}.t")).await.unwrap().unwrap();
        assert!(seen == 0 || seen == 80_000, "{what}: {seen} rows of a transaction are visible");
        sync.caught_up(&source, &db).await;
        assert_eq!(assert_table(&mut conn, &mut ours, &db, "t").await, 80_000, "{what}");
    }
}

/// `kill -9` while a query has spilled: what it left on the disk is gone at the next start, and the data is whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn amid_a_query_that_spills() {
    let extra = ["--query-memory", "16MB"];
    let mut sync = Sync::new("generator://shop?rows=60000&transactions=1", "shop.*", &extra);
    sync.spawn();
    drop(sync.connect().await);
    sync.all_live(PATIENCE).await;
    let count = "SELECT COUNT(*), SUM(quantity) FROM shop.order_items WHERE order_id < 5000";
    let before: Option<(u64, u64)> = sync.connect().await.query_first(count).await.unwrap();
    let mut asking = sync.connect().await;
    let query = tokio::spawn(async move {
        let sorted = "SELECT MAX(r) FROM (SELECT ROW_NUMBER() OVER (ORDER BY a.order_id * b.order_id % 1000003, \
                      a.order_id, b.order_id) r FROM shop.order_items a JOIN shop.order_items b \
                      ON a.product_id = b.product_id) t";
        asking.query_first::<u64, _>(sorted).await
    });
    let spilled = sync.data().join("warehouse").join("tmp");
    let start = Instant::now();
    while bytes_in(&spilled) < 1 << 20 {
        assert!(!query.is_finished(), "it ended before it had spilled: {:?}", query.await);
        assert!(start.elapsed() < PATIENCE, "nothing is spilled");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    sync.kill();
    assert!(query.await.unwrap().is_err(), "the query outlived its process");
    assert!(bytes_in(&spilled) > 0, "nothing was left behind: the kill came too late");
    sync.spawn();
    let after: Option<(u64, u64)> = sync.connect().await.query_first(count).await.unwrap();
    assert_eq!(bytes_in(&spilled), 0, "what the killed process had spilled is still there");
    assert!(before.is_some_and(|(rows, _)| rows > 1_000), "{before:?}");
    assert_eq!(before, after);
}

/// Bytes of all files below.
fn bytes_in(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let bytes = |path: PathBuf| match path.is_dir() {
        true => bytes_in(&path),
        false => path.metadata().map_or(0, |m| m.len()),
    };
    entries.flatten().map(|e| bytes(e.path())).sum()
}
