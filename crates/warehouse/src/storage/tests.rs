//! The storage engine as a whole: random histories against a model, kills at every byte, damaged files, readers beside
//! writers.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{Array, ArrayRef, Int8Array, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{Field, Schema};
use fastrand::Rng;
use freshet_core::batch::{OP_DELETE, OP_UPSERT};
use freshet_core::{ColumnPosition, DataType, DefaultValue, ErrorKind, Label, TableName, text};

use super::engine::{Options, TableWrite, Warehouse};
use super::value;
use super::version::{Snapshot, TableView};
use crate::catalog::{ColumnDef, Ddl, Model, TableDef};

mod changes;

fn name(table: &str) -> TableName {
    TableName::new("d", table)
}

fn column(name: &str, data_type: DataType) -> ColumnDef {
    ColumnDef { name: name.into(), data_type, nullable: true, default: None, comment: String::new(), bytes: None }
}

fn create(table: &str, model: Model) -> Vec<Ddl> {
    let mut key = column("k", DataType::Int64);
    key.nullable = false;
    let def = TableDef {
        name: name(table),
        columns: vec![key, column("v", DataType::Int32), column("s", DataType::TEXT)],
        model,
        key: vec!["k".into()],
        comment: String::new(),
    };
    vec![
        Ddl::CreateDatabase { name: "d".into(), if_not_exists: true },
        Ddl::CreateTable { table: def, if_not_exists: false },
    ]
}

/// A write with columns by name.
fn write(table: &str, columns: Vec<(&str, ArrayRef)>, ops: Option<Vec<i8>>) -> TableWrite {
    let fields: Vec<_> = columns.iter().map(|(n, a)| Field::new(*n, a.data_type().clone(), true)).collect();
    let arrays = columns.into_iter().map(|(_, a)| a).collect();
    let rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap();
    TableWrite::new(name(table), rows, ops.map(Int8Array::from))
}

fn upserts(table: &str, rows: impl IntoIterator<Item = (i64, i32)>) -> TableWrite {
    let (keys, values): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
    let texts: Vec<_> = keys.iter().map(|k| format!("text of row {k}")).collect();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("k", Arc::new(Int64Array::from(keys))),
        ("v", Arc::new(Int32Array::from(values))),
        ("s", Arc::new(StringArray::from(texts))),
    ];
    write(table, columns, None)
}

/// No background work, and segments from a few rows on.
fn manual() -> Options {
    Options { background: false, direct_rows: 40, piece_bytes: 1000, ..Options::default() }
}

/// All live rows as text.
fn live_rows(view: &TableView) -> Vec<Vec<Option<String>>> {
    let mut batches = view.delta().unwrap();
    for segment in &view.segments {
        let live = parquet::arrow::arrow_reader::RowSelection::from_boolean_buffer(segment.live());
        for batch in segment.open().unwrap().batches(Some(live), 100).unwrap() {
            batches.push(value::adapt(&view.table, &batch.unwrap()).unwrap());
        }
    }
    let mut out = Vec::new();
    for batch in batches {
        let columns: Vec<_> = view
            .table
            .columns
            .iter()
            .zip(batch.columns())
            .map(|(c, a)| text::render(a, &c.data_type).unwrap())
            .collect();
        let value = |c: &arrow::array::StringArray, row| c.is_valid(row).then(|| c.value(row).to_string());
        out.extend((0..batch.num_rows()).map(|row| columns.iter().map(|c| value(c, row)).collect::<Vec<_>>()));
    }
    out
}

/// All live rows as text, by key.
fn contents(view: &TableView) -> BTreeMap<String, Vec<Option<String>>> {
    let mut out = BTreeMap::new();
    for values in live_rows(view) {
        let old = out.insert(values[0].clone().unwrap(), values);
        assert!(old.is_none(), "a key is live twice: {old:?}");
    }
    assert_eq!(out.len() as u64, view.live_rows, "the count of live rows is exact");
    out
}

fn table_of(snapshot: &Snapshot, table: &str) -> BTreeMap<String, Vec<Option<String>>> {
    contents(snapshot.table(&name(table)).unwrap())
}

/// What the table should be: columns with their types, rows by key.
#[derive(Default, Clone)]
struct Expected {
    columns: Vec<(String, DataType)>,
    rows: BTreeMap<i64, Vec<Option<String>>>,
}

impl Expected {
    fn contents(&self) -> BTreeMap<String, Vec<Option<String>>> {
        self.rows.iter().map(|(k, v)| (k.to_string(), v.clone())).collect()
    }

    /// Some upserts and deletes, applied to the model.
    fn change(&mut self, rng: &mut Rng, rows: usize) -> TableWrite {
        let mut values: Vec<Vec<Option<String>>> = Vec::new();
        let mut ops = Vec::new();
        for _ in 0..rows {
            let key = rng.i64(-60..60);
            let mut row = vec![Some(key.to_string())];
            for (_, t) in &self.columns[1..] {
                row.push(match t {
                    _ if rng.u8(0..5) == 0 => None,
                    DataType::Int32 | DataType::Int64 => Some(rng.i32(..).to_string()),
                    _ => Some(format!("t{}", rng.u16(..))),
                });
            }
            if rng.u8(0..4) == 0 {
                self.rows.remove(&key);
                ops.push(OP_DELETE);
            } else {
                self.rows.insert(key, row.clone());
                ops.push(OP_UPSERT);
            }
            values.push(row);
        }
        let columns = self.columns.iter().enumerate().map(|(i, (n, t))| {
            let texts: ArrayRef = Arc::new(values.iter().map(|r| r[i].as_deref()).collect::<StringArray>());
            (n.as_str(), value::cast(&texts, &t.to_arrow()).unwrap())
        });
        write("t", columns.collect(), Some(ops))
    }

    /// A random change of the definition, applied to the model.
    fn alter(&mut self, rng: &mut Rng, n: usize) -> Ddl {
        let table = name("t");
        let at = rng.usize(1..self.columns.len().max(2));
        match rng.u8(0..6) {
            0 if self.columns.len() > 2 => {
                let (name, _) = self.columns.remove(at);
                self.rows.values_mut().for_each(|r| drop(r.remove(at)));
                Ddl::DropColumn { table, name }
            }
            1 if at < self.columns.len() => {
                let from = std::mem::replace(&mut self.columns[at].0, format!("r{n}"));
                Ddl::RenameColumn { table, from, to: format!("r{n}") }
            }
            2 if at < self.columns.len() && self.columns[at].1 != DataType::TEXT => {
                let to = if self.columns[at].1 == DataType::Int32 { DataType::Int64 } else { DataType::TEXT };
                self.columns[at].1 = to.clone();
                Ddl::ModifyColumn { table, column: column(&self.columns[at].0, to), position: None }
            }
            3 => {
                self.rows.clear();
                Ddl::Truncate { table }
            }
            _ => {
                let mut added = column(&format!("a{n}"), if rng.bool() { DataType::Int32 } else { DataType::TEXT });
                let fill = rng.bool().then(|| "7".to_string());
                added.default = fill.clone().map(DefaultValue::Literal);
                self.columns.insert(1, (added.name.clone(), added.data_type.clone()));
                self.rows.values_mut().for_each(|r| r.insert(1, fill.clone()));
                Ddl::AddColumn { table, column: added, position: ColumnPosition::First }
            }
        }
    }
}

#[tokio::test]
async fn random_histories_equal_a_model() {
    for seed in 0..60 {
        let mut rng = Rng::with_seed(seed);
        let dir = tempfile::tempdir().unwrap();
        let mut w = Warehouse::open(dir.path(), manual()).await.unwrap();
        w.ddl(None, create("t", Model::Unique)).await.unwrap();
        let columns = [("k", DataType::Int64), ("v", DataType::Int32), ("s", DataType::TEXT)];
        let mut model = Expected { columns: columns.map(|(n, t)| (n.to_string(), t)).to_vec(), ..Expected::default() };
        let mut old: Option<(Arc<Snapshot>, Expected)> = None;
        for step in 0..40 {
            match rng.u8(0..20) {
                0 | 1 => w.ddl(None, vec![model.alter(&mut rng, step)]).await.unwrap(),
                2 | 3 => w.flush().await.unwrap(),
                4 => w.optimize().await.unwrap(),
                5 | 6 => {
                    w.close().await.unwrap();
                    let opened = Warehouse::open(dir.path(), manual()).await;
                    (w, old) = (opened.unwrap_or_else(|e| panic!("seed {seed}, step {step}: {e}")), None);
                }
                7 => old = Some((w.snapshot(), model.clone())),
                n => {
                    let rows = if n < 10 { rng.usize(30..90) } else { rng.usize(1..12) };
                    w.commit(None, vec![model.change(&mut rng, rows)]).await.unwrap();
                }
            }
            assert_eq!(table_of(&w.snapshot(), "t"), model.contents(), "seed {seed}, step {step}");
            if let Some((snapshot, model)) = &old {
                assert_eq!(table_of(snapshot, "t"), model.contents(), "an older version, seed {seed}, step {step}");
            }
        }
    }
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => copy_dir(&entry.path(), &to.join(entry.file_name())),
            false => drop(std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap()),
        }
    }
}

#[tokio::test]
async fn a_log_cut_at_any_byte_gives_a_prefix_of_whole_transactions() {
    let dir = tempfile::tempdir().unwrap();
    let w = Warehouse::open(dir.path(), manual()).await.unwrap();
    w.ddl(None, [create("a", Model::Unique), create("b", Model::Unique)[1..].to_vec()].concat()).await.unwrap();
    let mut versions = vec![0];
    for i in 0..6 {
        let writes = vec![upserts("a", [(1, i), (i64::from(i), i)]), upserts("b", [(1, -i)])];
        w.commit(Some(Label(format!("l{i}"))), writes).await.unwrap();
        versions.push(i);
    }
    let killed = tempfile::tempdir().unwrap();
    copy_dir(dir.path(), killed.path());
    w.close().await.unwrap();
    let last_log = |dir: &Path| {
        let names = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        names.filter(|n| n.starts_with("log-")).max().unwrap()
    };
    // After an orderly end nothing may be missing.
    let log = last_log(dir.path());
    let whole = std::fs::read(dir.path().join(&log)).unwrap();
    for cut in (0..whole.len()).rev().step_by(41) {
        std::fs::write(dir.path().join(&log), &whole[..cut]).unwrap();
        let error = Warehouse::open(dir.path(), manual()).await.unwrap_err();
        assert!(error.kind == ErrorKind::Corrupt && error.to_string().contains(&log), "cut at {cut}: {error}");
    }
    let log = last_log(killed.path());
    let whole = std::fs::read(killed.path().join(&log)).unwrap();
    let mut seen = 0;
    for cut in (0..=whole.len()).rev().step_by(7) {
        let copy = tempfile::tempdir().unwrap();
        copy_dir(killed.path(), copy.path());
        std::fs::write(copy.path().join(&log), &whole[..cut]).unwrap();
        let w = Warehouse::open(copy.path(), manual()).await.unwrap_or_else(|e| panic!("cut at {cut}: {e}"));
        let snapshot = w.snapshot();
        if snapshot.table(&name("a")).is_none() {
            continue;
        }
        let (a, b) = (table_of(&snapshot, "a"), table_of(&snapshot, "b"));
        let last = (0..6).take_while(|i| w.label_state(&Label(format!("l{i}")))).count() as i32 - 1;
        seen = seen.max(last + 1);
        if last >= 0 {
            let value = |t: &BTreeMap<String, Vec<Option<String>>>| t["1"][1].clone().unwrap().parse::<i32>().unwrap();
            assert_eq!(value(&b), -last, "cut at {cut}");
            assert!(
                a.contains_key(&last.to_string()) && !a.contains_key(&(last + 1).max(2).to_string()),
                "cut at {cut}: {a:?}"
            );
        }
        w.commit(None, vec![upserts("a", [(100, 1)])]).await.unwrap();
    }
    assert_eq!(seen, 6);
}

#[tokio::test]
async fn a_flipped_byte_in_any_file_is_found_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let w = Warehouse::open(dir.path(), manual()).await.unwrap();
    w.ddl(None, create("t", Model::Unique)).await.unwrap();
    w.commit(None, vec![upserts("t", (0..300).map(|i| (i, 1)))]).await.unwrap();
    w.flush().await.unwrap();
    w.commit(None, vec![upserts("t", [(5, 2)])]).await.unwrap();
    w.commit(None, vec![upserts("t", [(6, 3)])]).await.unwrap();
    let good = table_of(&w.snapshot(), "t");
    w.close().await.unwrap();
    let mut files = Vec::new();
    for sub in ["", "segments"] {
        files.extend(
            std::fs::read_dir(dir.path().join(sub)).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_file()),
        );
    }
    let mut rng = Rng::with_seed(1);
    let mut kinds = std::collections::BTreeSet::new();
    for path in files.iter().filter(|p| !p.ends_with("lock")) {
        let bytes = std::fs::read(path).unwrap();
        kinds.insert(path.extension().map_or_else(
            || path.file_stem().unwrap().to_str().unwrap()[..3].to_string(),
            |e| e.to_str().unwrap().to_string(),
        ));
        for _ in 0..60 {
            let mut bad = bytes.clone();
            let at = rng.usize(0..bad.len());
            bad[at] ^= 1 << rng.u8(0..8);
            std::fs::write(path, &bad).unwrap();
            let file = path.file_name().unwrap().to_str().unwrap();
            let error = read_everything(dir.path())
                .await
                .err()
                .unwrap_or_else(|| panic!("byte {at} of {file} was not noticed"));
            assert!(matches!(error.kind, ErrorKind::Corrupt | ErrorKind::Unsupported), "byte {at} of {file}: {error}");
            assert!(error.to_string().contains(file), "byte {at} of {file}: {error}");
        }
        std::fs::write(path, &bytes).unwrap();
    }
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), ["idx", "log", "man", "parquet"]);
    let w = Warehouse::open(dir.path(), manual()).await.unwrap();
    assert_eq!(table_of(&w.snapshot(), "t"), good);
}

/// Opens, reads all rows and looks up keys.
async fn read_everything(dir: &Path) -> freshet_core::Result<()> {
    let w = Warehouse::open(dir, manual()).await?;
    let snapshot = w.snapshot();
    for view in snapshot.tables() {
        for segment in &view.segments {
            for batch in segment.open()?.batches(None, 1000)? {
                batch?;
            }
        }
    }
    w.commit(None, vec![upserts("t", (0..3).map(|i| (i * 100, 9)))]).await?;
    w.commit(None, vec![upserts("t", (0..300).map(|i| (i, 9)))]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readers_see_whole_transactions_beside_compaction() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { delta_bytes: 20_000, direct_rows: 60, ..Options::default() };
    let w = Warehouse::open(dir.path(), options.clone()).await.unwrap();
    w.ddl(None, [create("a", Model::Unique), create("b", Model::Unique)[1..].to_vec()].concat()).await.unwrap();
    w.commit(None, vec![upserts("a", (0..50).map(|k| (k, 100))), upserts("b", (0..50).map(|k| (k, 100)))])
        .await
        .unwrap();
    let reader = {
        let w = Arc::clone(&w);
        tokio::spawn(async move {
            let mut versions = std::collections::BTreeSet::new();
            while !w.label_state(&Label("end".into())) {
                let s = w.snapshot();
                versions.insert(s.version);
                let sum = |t: &str| {
                    table_of(&s, t).values().map(|r| r[1].clone().unwrap().parse::<i64>().unwrap()).sum::<i64>()
                };
                assert_eq!(sum("a") + sum("b"), 10_000, "version {}", s.version);
                tokio::task::yield_now().await;
            }
            versions.len()
        })
    };
    let mut values = [[100i32; 50]; 2];
    let mut rng = Rng::with_seed(3);
    for i in 0..400 {
        let n = if i % 9 == 0 { 50 } else { 3 };
        let mut touched = [Vec::new(), Vec::new()];
        for _ in 0..n {
            let (from, to, amount) = (rng.usize(0..50), rng.usize(0..50), rng.i32(-9..9));
            values[0][from] -= amount;
            values[1][to] += amount;
            touched[0].push((from as i64, values[0][from]));
            touched[1].push((to as i64, values[1][to]));
        }
        let [a, b] = touched;
        let label = if i == 399 { "end".to_string() } else { format!("w{i}") };
        w.commit(Some(Label(label)), vec![upserts("a", a), upserts("b", b)]).await.unwrap();
    }
    assert!(reader.await.unwrap() > 3);
    w.close().await.unwrap();
    drop(w);
    let w = Warehouse::open(dir.path(), options).await.unwrap();
    assert!(w.label_state(&Label("w17".into())));
    let got: Vec<_> = table_of(&w.snapshot(), "a")
        .into_values()
        .map(|r| (r[0].clone().unwrap().parse::<usize>().unwrap(), r[1].clone().unwrap().parse::<i32>().unwrap()))
        .collect();
    assert!(got.iter().all(|(k, v)| values[0][*k] == *v));
}

/// Fewer segments than one merge takes are merged when no more of them come, without another write.
#[tokio::test(flavor = "multi_thread")]
async fn loads_are_merged_when_they_rest() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { background: true, ..manual() };
    let w = Warehouse::open(dir.path(), options).await.unwrap();
    w.ddl(None, create("t", Model::Unique)).await.unwrap();
    for load in 0..8 {
        w.commit(None, vec![upserts("t", (load * 50..(load + 1) * 50).map(|k| (k, 1)))]).await.unwrap();
    }
    let segments = || w.snapshot().table(&name("t")).unwrap().segments.len();
    let end = Instant::now() + std::time::Duration::from_secs(30);
    while segments() > 1 {
        assert!(Instant::now() < end, "{} segments are left", segments());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(table_of(&w.snapshot(), "t").len(), 400);
    w.close().await.unwrap();
}

#[tokio::test]
async fn labels_errors_and_second_opener() {
    let dir = tempfile::tempdir().unwrap();
    let w = Warehouse::open(dir.path(), manual()).await.unwrap();
    let error = Warehouse::open(dir.path(), manual()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Config);
    w.ddl(None, create("t", Model::Unique)).await.unwrap();
    w.ddl(None, create("dup", Model::Duplicate)[1..].to_vec()).await.unwrap();
    let label = Label("once".into());
    for _ in 0..2 {
        w.commit(Some(label.clone()), vec![upserts("dup", [(1, 1)])]).await.unwrap();
    }
    assert_eq!(w.snapshot().table(&name("dup")).unwrap().live_rows, 1);
    let mut delete = upserts("dup", [(1, 1)]);
    delete.ops = Some(Int8Array::from(vec![OP_DELETE]));
    assert_eq!(w.commit(None, vec![delete]).await.unwrap_err().kind, ErrorKind::Unsupported);
    assert_eq!(w.commit(None, vec![upserts("nope", [(1, 1)])]).await.unwrap_err().kind, ErrorKind::NotFound);
    let nulls: Vec<(&str, ArrayRef)> = vec![
        ("k", Arc::new(Int64Array::from(vec![None]))),
        ("v", Arc::new(Int32Array::from(vec![1]))),
        ("s", Arc::new(StringArray::from(vec!["x"]))),
    ];
    let error = w.commit(None, vec![write("t", nulls, None)]).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Data);
    assert!(error.to_string().contains("column k") && error.to_string().contains("d.t"), "{error}");
    let narrow = Ddl::ModifyColumn { table: name("t"), column: column("v", DataType::Int8), position: None };
    assert_eq!(w.ddl(None, vec![narrow]).await.unwrap_err().kind, ErrorKind::Unsupported);
    w.close().await.unwrap();
    drop(w);
    let w = Warehouse::open(dir.path(), manual()).await.unwrap();
    assert!(w.label_state(&label));
}

/// Prints figures; run by hand: `cargo test -p freshet-warehouse figures -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "prints figures"]
#[allow(clippy::print_stdout)]
async fn figures() {
    let dir = tempfile::tempdir_in(
        std::env::var("CARGO_MANIFEST_DIR").map_or("/tmp".into(), |d| format!("{d}/../../target")),
    )
    .unwrap();
    let w = Warehouse::open(dir.path(), Options::default()).await.unwrap();
    w.ddl(None, create("t", Model::Unique)).await.unwrap();
    let start = Instant::now();
    for part in 0..10 {
        w.commit(None, vec![upserts("t", (part * 100_000..(part + 1) * 100_000).map(|k| (k, 0)))]).await.unwrap();
    }
    println!("load of 1,000,000 rows: {:?}", start.elapsed());
    let mut rng = Rng::with_seed(1);
    let start = Instant::now();
    for i in 0..40 {
        w.commit(None, vec![upserts("t", (0..10_000).map(|_| (rng.i64(0..1_000_000), i)))]).await.unwrap();
    }
    println!("upserts of existing keys in batches of 10,000: {:.0}/s", 400_000.0 / start.elapsed().as_secs_f64());
    for writers in [1, 16] {
        let start = Instant::now();
        let tasks: Vec<_> = (0..writers)
            .map(|n| {
                let w = Arc::clone(&w);
                tokio::spawn(async move {
                    let mut rng = Rng::with_seed(n);
                    for i in 0..400 {
                        w.commit(None, vec![upserts("t", (0..10).map(|_| (rng.i64(0..1_000_000), i)))]).await.unwrap();
                    }
                })
            })
            .collect();
        for t in tasks {
            t.await.unwrap();
        }
        println!(
            "commits of 10 rows, {writers} writers: {:.0}/s",
            (400 * writers) as f64 / start.elapsed().as_secs_f64()
        );
    }
    w.close().await.unwrap();
    drop(w);
    let start = Instant::now();
    let w = Warehouse::open(dir.path(), Options::default()).await.unwrap();
    println!(
        "open after that: {:?}, {} live rows, {} segments",
        start.elapsed(),
        w.snapshot().table(&name("t")).unwrap().live_rows,
        w.snapshot().table(&name("t")).unwrap().segments.len()
    );
}
