//! `freshet verify` while changes flow: equal tables are called equal at any time, and what somebody damaged in the
//! target is found with exactly its keys, and written anew.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fastrand::Rng;
use freshet_tests::compare::assert_equal;
use freshet_tests::freshet::{Output, Sync, prepare_mark};
use freshet_tests::source::Source;
use freshet_tests::writer::Writer;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::lanes::{filled, resynced};

/// How often a job is verified while its tables are written to.
const TIMES: usize = 4;
/// Rows of the tables of several ranges.
const ROWS: u32 = 60_000;

/// Runs statements of a test's own until it is stopped.
struct Statements {
    stop: Arc<AtomicBool>,
    task: JoinHandle<u64>,
}

impl Statements {
    fn start(source: &Source, seed: u64, next: impl Fn(&mut Rng) -> String + Send + 'static) -> Statements {
        let stop = Arc::new(AtomicBool::new(false));
        let (source, stopped) = (source.clone(), Arc::clone(&stop));
        let task = tokio::spawn(async move {
            let (mut rng, mut done) = (Rng::with_seed(seed), 0);
            let mut conn = source.connect().await;
            while !stopped.load(Ordering::SeqCst) {
                let sql = next(&mut rng);
                conn.query_drop(&sql).await.unwrap_or_else(|e| panic!("{e} in {sql}"));
                done += 1;
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            done
        });
        Statements { stop, task }
    }

    async fn stop(self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        self.task.await.unwrap()
    }
}

/// Verifies without keeping the test's writers from writing.
async fn verify(sync: &Sync, options: &[&str]) -> Output {
    sync.request().run(&[&["verify", "job"], options].concat()).await
}

/// What was found of a table.
fn table<'a>(answer: &'a Value, name: &str) -> &'a Value {
    let tables = answer["result"]["tables"].as_array().unwrap_or_else(|| panic!("no tables in {answer}"));
    let found = tables.iter().find(|t| t["name"]["table"] == name);
    found.unwrap_or_else(|| panic!("no table {name} in {answer}"))
}

/// The keys that are listed of a table, each as `changed: 7, x`.
fn found(answer: &Value, name: &str) -> BTreeSet<String> {
    let part = |v: &Value| v.as_str().unwrap().to_string();
    let shown = |d: &Value| {
        let key: Vec<String> = d["key"].as_array().unwrap().iter().map(part).collect();
        format!("{}: {}", part(&d["what"]), key.join(", "))
    };
    table(answer, name)["keys"].as_array().unwrap().iter().map(shown).collect()
}

fn set(of: &[&str]) -> BTreeSet<String> {
    of.iter().map(ToString::to_string).collect()
}

/// Verifies a few times while others write; each time everything is equal.
async fn equal_amid_changes(sync: &Sync, tables: &[&str]) {
    for _ in 0..TIMES {
        let verified = verify(sync, &["--json"]).await;
        assert_eq!(verified.code, 0, "{verified:?}");
        let answer = verified.json();
        for name in tables {
            let report = table(&answer, name);
            assert!(report["equal"] == true && report["rows"].as_u64().unwrap() > 100, "{report}");
        }
    }
}

async fn insert(conn: &mut Conn, table: &str, rows: impl Iterator<Item = String>) {
    let rows: Vec<String> = rows.collect();
    for some in rows.chunks(5000) {
        conn.query_drop(format!("INSERT INTO {table} VALUES {}", some.join(", "))).await.unwrap();
    }
}

/// A table without a key: a row in the middle that is missing, one that is there too often, and writers.
pub(crate) async fn a_multiset_is_verified(source: Source) {
    let _turn = source.shared().await;
    let db = source.database("bag").await;
    prepare_mark(&source, &db).await;
    source.run(&format!("CREATE TABLE {db}.bag (a INT, b VARCHAR(20), c DECIMAL(8,2))")).await;
    let bag = format!("{db}.bag");
    let mut theirs = source.connect().await;
    insert(&mut theirs, &bag, (0..3000).map(|i| format!("({i}, 'row {i}', {i}.5)"))).await;
    insert(&mut theirs, &bag, (0..300).map(|i| format!("({}, NULL, {})", i % 3, i % 2))).await;
    let mut sync = Sync::start(&source, &db);
    sync.caught_up(&source, &db).await;
    assert_eq!(verify(&sync, &[]).await.code, 0);

    let mut ours = sync.connect().await;
    ours.query_drop(format!("DELETE FROM {bag} WHERE a = 1500")).await.unwrap();
    let damaged = verify(&sync, &["--json"]).await;
    assert_eq!(damaged.code, 1, "{damaged:?}");
    let answer = damaged.json();
    assert_eq!(found(&answer, "bag"), set(&["missing: 1500, row 1500, 1500.50"]), "{answer}");
    assert_eq!(table(&answer, "bag")["differing"], 1, "{answer}");
    assert_eq!(table(&answer, "zz_mark")["equal"], true, "{answer}");
    // 51 times in place of 50.
    ours.query_drop(format!("INSERT INTO {bag} VALUES (1, NULL, 1)")).await.unwrap();
    let shown = verify(&sync, &["--table", &bag]).await;
    for line in ["(1500, row 1500, 1500.50) is missing in the target", "(1, NULL, 1.00) is there 50 times"] {
        assert!(shown.code == 1 && shown.stdout.contains(line), "{line:?} is not in {shown:?}");
    }
    let repaired = verify(&sync, &["--repair", "--json"]).await;
    assert_eq!(repaired.code, 1, "{repaired:?}");
    let answer = repaired.json();
    assert_eq!(found(&answer, "bag"), set(&["missing: 1500, row 1500, 1500.50", "extra: 1, NULL, 1.00"]), "{answer}");
    let hint = table(&answer, "bag")["unrepaired"]["hint"].as_str().unwrap_or_default();
    assert!(hint.contains(&format!("freshet resync job {bag}")), "{answer}");
    assert_eq!(sync.command(&["resync", "job", &bag]).code, 0);
    resynced(&sync).await;

    let statements = Statements::start(&source, 5, move |rng| {
        let (a, b) = (rng.u8(0..3), rng.u8(0..2));
        match rng.u8(0..6) {
            0..2 => format!("INSERT INTO {bag} VALUES ({a}, NULL, {b}), ({a}, 'x', {b})"),
            2..4 => format!("DELETE FROM {bag} WHERE a = {a} ORDER BY b, c LIMIT 2"),
            4 => format!("UPDATE {bag} SET c = {b} WHERE a = {a} AND c = 1 - {b} ORDER BY b LIMIT 3"),
            _ => format!("UPDATE {bag} SET b = 'moved', c = c + 1 WHERE a = {}", rng.u16(10..3000)),
        }
    });
    equal_amid_changes(&sync, &["bag"]).await;
    assert!(statements.stop().await > 10);
    sync.caught_up(&source, &db).await;
    let verified = verify(&sync, &["--json"]).await;
    assert_eq!(verified.code, 0, "{verified:?}");
}

/// Keys that are a number, a text, and several columns: verified, damaged and repaired while all are written to.
pub(crate) async fn damage_is_found_and_repaired(source: Source) {
    let _turn = source.shared().await;
    let db = source.database("amid").await;
    prepare_mark(&source, &db).await;
    filled(&source, &db, "numbers", ROWS).await;
    source
        .run(&format!(
            "USE {db};\nCREATE TABLE words (w VARCHAR(40) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci PRIMARY KEY, n INT);\n\
             CREATE TABLE pairs (tenant INT, code VARBINARY(6), at DATETIME(3), n INT, PRIMARY KEY (tenant, code, at))"
        ))
        .await;
    let mut theirs = source.connect().await;
    insert(&mut theirs, &format!("{db}.words"), (0..5000).map(|i| format!("('Wört {i}', {i})"))).await;
    let pair = |i: u32| format!("({}, x'{:04x}ff', '2024-01-01 00:00:00.{:03}', {i})", 100 + i / 100, i % 100, i % 7);
    insert(&mut theirs, &format!("{db}.pairs"), (0..ROWS).map(pair)).await;
    let mut sync = Sync::start(&source, &db);
    sync.caught_up(&source, &db).await;
    // They write to what nobody damages.
    let writer = Writer::start(&source, &db, &["numbers".to_string()], 7, Duration::from_millis(2));
    let words = format!("{db}.words");
    let on_words = Statements::start(&source, 8, move |rng| match rng.u8(0..4) {
        0 => format!("REPLACE INTO {words} VALUES ('hot {}', {})", rng.u8(0..40), rng.u8(0..2)),
        1 => format!("UPDATE {words} SET n = 1 - n WHERE w = 'HOT {}'", rng.u8(0..40)),
        2 => format!("UPDATE IGNORE {words} SET w = 'Hot {}' WHERE w = 'hot {}'", rng.u8(0..40), rng.u8(0..40)),
        _ => format!("DELETE FROM {words} WHERE w = 'hot {}'", rng.u8(0..40)),
    });
    let pairs = format!("{db}.pairs");
    let on_pairs = Statements::start(&source, 9, move |rng| {
        let (tenant, code) = (rng.u8(0..4), rng.u8(0..10));
        let key = format!("tenant = {tenant} AND code = x'{code:02x}'");
        match rng.u8(0..4) {
            0 => format!("REPLACE INTO {pairs} VALUES ({tenant}, x'{code:02x}', '2024-01-01', {})", rng.u8(..)),
            1 => format!("UPDATE {pairs} SET n = n + 1 WHERE {key}"),
            2 => format!("UPDATE IGNORE {pairs} SET tenant = 3 - tenant WHERE {key}"),
            _ => format!("DELETE FROM {pairs} WHERE {key}"),
        }
    });
    equal_amid_changes(&sync, &["numbers", "words", "pairs"]).await;

    // Parts of them.
    let only = verify(&sync, &["--table", &format!("{db}.words"), "--json"]).await.json();
    assert_eq!((only["result"]["tables"].as_array().unwrap().len(), only["ok"].as_bool()), (1, Some(true)), "{only}");
    let unknown = verify(&sync, &["--tables", &format!("{db}.nothing")]).await;
    assert_eq!(unknown.code, 2, "{unknown:?}");
    let sample = verify(&sync, &["--sample", "1", "--json"]).await;
    assert_eq!(sample.code, 0, "{sample:?}");
    let sample = sample.json();
    for (name, ranges, in_all, indivisible) in [("numbers", 1, 2, false), ("pairs", 1, 2, false), ("words", 1, 1, true)]
    {
        let report = table(&sample, name);
        assert_eq!(
            (&report["ranges"], &report["ranges_in_all"], &report["indivisible"]),
            (&Value::from(ranges), &Value::from(in_all), &Value::from(indivisible)),
            "{report}"
        );
        assert!(report["rows"].as_u64().unwrap() < u64::from(ROWS) - 5000, "{report}");
    }
    let shown = verify(&sync, &["--sample", "1", "--tables", &format!("{db}.words,{db}.pairs")]).await.stdout;
    assert!(shown.contains(&format!("sample {db}.pairs: 1 of 2 key ranges")), "{shown}");
    assert!(shown.contains(&format!("no sample {db}.words")), "{shown}");

    // Somebody changes a row of each in the target, deletes one and adds one.
    let mut ours = sync.connect().await;
    ours.query_drop(format!("USE {db}")).await.unwrap();
    for damage in [
        "UPDATE numbers SET name = 'wrong' WHERE id = 20000",
        "DELETE FROM numbers WHERE id = 55000",
        "INSERT INTO numbers (id, name, at) VALUES (1000000, 'extra', '2024-01-01')",
        "UPDATE words SET n = -1 WHERE w = 'Wört 17'",
        "DELETE FROM words WHERE w = 'Wört 4000'",
        "INSERT INTO words VALUES ('wört 17', 17)",
        "UPDATE pairs SET n = -1 WHERE n = 12345",
        "INSERT INTO pairs SELECT 999999, code, at, n FROM pairs WHERE n = 23456",
        "DELETE FROM pairs WHERE n = 50000",
    ] {
        ours.query_drop(damage).await.unwrap_or_else(|e| panic!("{e} in {damage}"));
    }
    let damaged = verify(&sync, &["--json"]).await;
    assert_eq!(damaged.code, 1, "{damaged:?}");
    let wrong = [
        ("numbers", set(&["changed: 20000", "missing: 55000", "extra: 1000000"])),
        ("words", set(&["changed: Wört 17", "missing: Wört 4000", "extra: wört 17"])),
        (
            "pairs",
            set(&[
                "changed: 223, 002DFF, 2024-01-01 00:00:00.004",
                "missing: 600, 0000FF, 2024-01-01 00:00:00.006",
                "extra: 999999, 0038FF, 2024-01-01 00:00:00.006",
            ]),
        ),
    ];
    let answer = damaged.json();
    for (name, keys) in &wrong {
        assert_eq!(found(&answer, name), *keys, "{answer}");
        assert_eq!(table(&answer, name)["differing"], keys.len(), "{answer}");
    }
    let repaired = verify(&sync, &["--repair", "--json"]).await.json();
    for (name, keys) in &wrong {
        assert_eq!(found(&repaired, name), *keys, "{repaired}");
        assert_eq!(table(&repaired, name)["repaired"], keys.len(), "{repaired}");
    }
    let verified = verify(&sync, &["--json"]).await;
    assert_eq!(verified.code, 0, "{verified:?}");
    let written = [writer.stop().await, on_words.stop().await, on_pairs.stop().await];
    assert!(written.iter().all(|n| *n > 50), "{written:?}");
    sync.caught_up(&source, &db).await;
    assert_equal(&mut theirs, &mut ours, &db).await;
    let verified = verify(&sync, &["--json"]).await;
    assert_eq!(verified.code, 0, "{verified:?}");
}
