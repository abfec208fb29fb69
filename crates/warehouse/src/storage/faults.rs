//! Every durable step fails once, in every way: the disk reports an error or is full, a write is cut short, the process
//! dies. Nothing acknowledged may be lost, nothing unacknowledged be visible, the error must say where and what to do,
//! and after a restart everything goes on. The process that dies is this test program, started again as a child.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int8Array, Int32Array, Int64Array, RecordBatch};
use arrow::datatypes::{Field, Int32Type, Int64Type, Schema};
use freshet_core::batch::{OP_DELETE, OP_UPSERT};
use freshet_core::failpoint::{self, PLACES};
use freshet_core::{DataType, Error, Label, Result, TableName, Writer};

use super::engine::{Options, TableWrite, Warehouse};
use super::stage::{Part, Stage};
use super::value;
use crate::catalog::{ColumnDef, Ddl, Model, TableDef};

/// The child's data directory, by the environment.
const CHILD: &str = "FRESHET_FAULTS_DIRECTORY";
const TABLES: [&str; 2] = ["t1", "t2"];
/// Transactions of the history; each fifth comes in parts, after each third the delta is flushed, after each fourth
/// everything is compacted.
const TRANSACTIONS: u32 = 12;

type Rows = BTreeMap<i64, i32>;

fn name(table: &str) -> TableName {
    TableName::new("d", table)
}

fn options() -> Options {
    Options { background: false, direct_rows: 40, ..Options::default() }
}

fn label(n: u32) -> Label {
    Label(format!("transaction-{n}"))
}

/// Transaction `n`: an even one is large (a segment at once), an odd one small (log and delta).
fn changes(n: u32) -> (Vec<i64>, Vec<i64>) {
    let size = if n.is_multiple_of(2) { 60 } else { 7 };
    let from = i64::from(n % 3) * 20;
    ((from..from + size).collect(), vec![from + i64::from(n) % size])
}

/// The rows after the first `n` transactions.
fn model(n: u32) -> Rows {
    let mut rows = Rows::new();
    for t in 1..=n {
        let (puts, deletes) = changes(t);
        rows.extend(puts.iter().map(|k| (*k, t as i32)));
        deletes.iter().for_each(|k| {
            rows.remove(k);
        });
    }
    rows
}

fn write(table: &str, n: u32) -> TableWrite {
    rows(table, n, changes(n))
}

/// A transaction larger than the engine's buffer: a part is put aside, the end makes all of it visible.
async fn commit(warehouse: &Warehouse, n: u32) -> Result<()> {
    if !n.is_multiple_of(5) {
        return warehouse.commit(Some(label(n)), TABLES.iter().map(|t| write(t, n)).collect()).await;
    }
    let (mut first, deletes) = changes(n);
    let last = first.split_off(first.len() / 2);
    let writer = || Writer { job: "job".into(), incarnation: 1, lane: 0 };
    let part = Stage::Part(Part { writer: writer(), number: 0 });
    warehouse.commit_stage(None, TABLES.iter().map(|t| rows(t, n, (first.clone(), vec![]))).collect(), part).await?;
    let writes = TABLES.iter().map(|t| rows(t, n, (last.clone(), deletes.clone()))).collect();
    warehouse.commit_stage(Some(label(n)), writes, Stage::Last { writer: writer(), parts: 1 }).await
}

fn rows(table: &str, n: u32, (puts, deletes): (Vec<i64>, Vec<i64>)) -> TableWrite {
    let keys: Vec<i64> = puts.iter().chain(&deletes).copied().collect();
    let ops = puts.iter().map(|_| OP_UPSERT).chain(deletes.iter().map(|_| OP_DELETE));
    let values = Int32Array::from(vec![n as i32; keys.len()]);
    let ops = Some(Int8Array::from(ops.collect::<Vec<_>>()));
    let columns: Vec<(&str, ArrayRef)> = vec![("k", Arc::new(Int64Array::from(keys))), ("v", Arc::new(values))];
    let fields: Vec<_> = columns.iter().map(|(n, a)| Field::new(*n, a.data_type().clone(), true)).collect();
    let arrays = columns.into_iter().map(|(_, a)| a).collect();
    TableWrite::new(name(table), RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap(), ops)
}

async fn create(warehouse: &Warehouse) -> Result<()> {
    let column = |name: &str, data_type| ColumnDef {
        name: name.into(),
        data_type,
        nullable: false,
        default: None,
        comment: String::new(),
        bytes: None,
    };
    let table = |table: &&str| Ddl::CreateTable {
        table: TableDef {
            name: name(table),
            columns: vec![column("k", DataType::Int64), column("v", DataType::Int32)],
            model: Model::Unique,
            key: vec!["k".into()],
            comment: String::new(),
        },
        if_not_exists: true,
    };
    let database = Ddl::CreateDatabase { name: "d".into(), if_not_exists: true };
    warehouse.ddl(None, std::iter::once(database).chain(TABLES.iter().map(table)).collect()).await
}

/// The part of the history behind transaction `done`. `acknowledged` hears of every transaction.
async fn go_on(warehouse: &Warehouse, done: u32, mut acknowledged: impl FnMut(u32)) -> Result<()> {
    for n in done + 1..=TRANSACTIONS {
        commit(warehouse, n).await?;
        acknowledged(n);
        if n.is_multiple_of(3) {
            warehouse.flush().await?;
        }
        if n.is_multiple_of(4) {
            warehouse.optimize().await?;
        }
    }
    Ok(())
}

/// How many transactions are visible; panics unless it is whole ones, the same in both tables.
fn visible(warehouse: &Warehouse, what: &str) -> u32 {
    let snapshot = warehouse.snapshot();
    let tables = TABLES.iter().map(|table| {
        let Some(view) = snapshot.table(&name(table)) else { return Rows::new() };
        let mut batches = view.delta().unwrap();
        for segment in &view.segments {
            let live = parquet::arrow::arrow_reader::RowSelection::from_boolean_buffer(segment.live());
            let rows = segment.open().unwrap().batches(Some(live), 100).unwrap();
            batches.extend(rows.map(|b| value::adapt(&view.table, &b.unwrap()).unwrap()));
        }
        let mut rows = Rows::new();
        for batch in batches {
            let (keys, values) =
                (batch.column(0).as_primitive::<Int64Type>(), batch.column(1).as_primitive::<Int32Type>());
            for i in 0..batch.num_rows() {
                assert_eq!(rows.insert(keys.value(i), values.value(i)), None, "{what}: a key is live twice");
            }
        }
        rows
    });
    let tables: Vec<Rows> = tables.collect();
    assert_eq!(tables[0], tables[1], "{what}: a transaction is visible in one table only");
    (0..=TRANSACTIONS)
        .find(|n| model(*n) == tables[0])
        .unwrap_or_else(|| panic!("{what}: no whole transactions: {tables:?}"))
}

/// What, where, and what to do.
fn assert_helpful(error: &Error, dir: &Path, what: &str) {
    let text = error.to_string();
    assert!(text.contains(&dir.display().to_string()), "{what}: where? {text}");
    assert!(text.contains("cannot") || text.contains("no more writes"), "{what}: what? {text}");
    let why = ["os error 5", "os error 28"].iter().any(|w| text.contains(w));
    assert!(why, "{what}: why? {text}");
    assert!(error.hint.is_some(), "{what}: what to do? {text}");
}

/// After a restart: what was acknowledged, and at most the one transaction more that was under way, and it goes on.
async fn recovers(dir: &Path, acknowledged: u32, what: &str) {
    let warehouse = Warehouse::open(dir, options()).await.unwrap_or_else(|e| panic!("{what}: {e}"));
    create(&warehouse).await.unwrap();
    let done = visible(&warehouse, what);
    assert!((acknowledged..=acknowledged + 1).contains(&done), "{what}: {done} visible, {acknowledged} acknowledged");
    for n in 1..=TRANSACTIONS {
        assert_eq!(warehouse.label_state(&label(n)), n <= done, "{what}: label of {n}");
    }
    go_on(&warehouse, done, |_| {}).await.unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_eq!(visible(&warehouse, what), TRANSACTIONS, "{what}");
    warehouse.close().await.unwrap();
    let again = Warehouse::open(dir, options()).await.unwrap();
    assert_eq!(visible(&again, what), TRANSACTIONS, "{what}: after another restart");
    again.close().await.unwrap();
    let segments = std::fs::read_dir(dir.join("segments")).unwrap().count();
    let named: usize = again.snapshot().tables().map(|t| t.segments.len() * 2).sum();
    assert_eq!(segments, named, "{what}: files that nobody needs are left");
}

/// The places of the warehouse in its normal work; the others have tests of their own.
fn places() -> impl Iterator<Item = &'static str> {
    PLACES.iter().map(|(p, _)| *p).filter(|p| {
        *p != "log.cut" && ["log.", "segment.", "index.", "compact.", "manifest."].iter().any(|w| p.starts_with(w))
    })
}

#[tokio::test]
async fn the_disk_fails() {
    for place in places() {
        for action in ["eio", "enospc", "short"] {
            for time in 1..=3 {
                let what = format!("{place}={action}@{time}");
                let dir = tempfile::tempdir().unwrap();
                let warehouse = Warehouse::open(dir.path(), options()).await.unwrap();
                create(&warehouse).await.unwrap();
                let armed = failpoint::arm(dir.path(), &what).unwrap();
                let mut acknowledged = 0;
                let failed = go_on(&warehouse, 0, |n| acknowledged = n).await;
                let Err(error) = failed else {
                    assert!(armed.times(place) < time, "{what} was swallowed");
                    assert!(time > 1 || place == "log.remove", "{what} is never reached");
                    continue;
                };
                assert_helpful(&error, dir.path(), &what);
                assert_eq!(visible(&warehouse, &what), acknowledged, "{what}: not what was acknowledged");
                // Where the log is in doubt, nothing more is taken; else it goes on at once.
                let poisoned = place.starts_with("log.") && place != "log.remove"
                    || ["manifest.sync", "manifest.rename", "manifest.dir-sync"].contains(&place);
                let next = go_on(&warehouse, acknowledged, |n| acknowledged = n).await;
                match next {
                    Err(e) if poisoned => {
                        assert!(e.to_string().contains("no more writes"), "{what}: {e}");
                        assert_eq!(visible(&warehouse, &what), acknowledged, "{what}");
                    }
                    Err(e) => panic!("{what}: does not go on: {e}"),
                    Ok(()) => assert!(!poisoned, "{what}: written to a log in doubt"),
                }
                drop(armed);
                warehouse.close().await.unwrap();
                recovers(dir.path(), acknowledged, &what).await;
            }
        }
    }
}

#[tokio::test]
async fn the_process_dies() {
    let ends = |place: &str| {
        if place.ends_with("write") || place.ends_with("header") { vec!["kill", "torn"] } else { vec!["kill"] }
    };
    for place in places() {
        for action in ends(place) {
            for time in [1, 3] {
                let what = format!("{place}={action}@{time}");
                let dir = tempfile::tempdir().unwrap();
                let died = child(dir.path(), &what);
                assert!(died || time > 1 || place == "log.remove", "{what} is never reached");
                recovers(dir.path(), acknowledged(dir.path()), &what).await;
            }
        }
    }
}

/// A torn tail whose removal fails, or is interrupted, is still there for the next start.
#[tokio::test]
async fn cutting_a_torn_tail_fails() {
    let dir = tempfile::tempdir().unwrap();
    assert!(child(dir.path(), "log.write=torn@6"));
    let armed = failpoint::arm(dir.path(), "log.cut=eio").unwrap();
    let error = Warehouse::open(dir.path(), options()).await.unwrap_err();
    assert!(error.to_string().contains("cut a torn record"), "{error}");
    drop(armed);
    let before = acknowledged(dir.path());
    assert!(child(dir.path(), "log.cut=kill"));
    recovers(dir.path(), before, "log.cut").await;
}

/// Runs the history in a process of its own; whether it died.
fn child(dir: &Path, failpoints: &str) -> bool {
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "storage::faults::in_a_child", "--nocapture"])
        .env(CHILD, dir)
        .env(failpoint::VARIABLE, failpoints)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&status.stdout);
    assert!(status.status.code().is_none_or(|c| c == 0), "{failpoints}: {text}");
    status.status.code().is_none()
}

fn acknowledged(dir: &Path) -> u32 {
    std::fs::read_to_string(dir.join("acknowledged")).map_or(0, |n| n.parse().unwrap())
}

/// What [`child`] runs; as a test of its own it has nothing to do.
#[tokio::test]
async fn in_a_child() {
    let Some(dir) = std::env::var_os(CHILD).map(PathBuf::from) else { return };
    failpoint::arm_from_environment().unwrap();
    let warehouse = Warehouse::open(&dir, options()).await.unwrap();
    create(&warehouse).await.unwrap();
    let done = visible(&warehouse, "child");
    let told = dir.join("acknowledged");
    go_on(&warehouse, done, |n| std::fs::write(&told, n.to_string()).unwrap()).await.unwrap();
}
