//! What jobs do beyond upserts: updates of some columns, moved keys, multisets, transactions in parts, replaced tables.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::UInt32Array;
use arrow::compute::take;
use freshet_core::Writer;

use super::*;
use crate::storage::engine::Partial;
use crate::storage::stage::{Part, Stage};

type Row = (Option<i32>, Option<String>);
type Rows = BTreeMap<i64, Row>;

/// One row of a flush; `None` for a column: it is absent.
#[derive(Debug, Clone)]
enum Change {
    Put { key: i64, base: i64, v: Option<Option<i32>>, s: Option<Option<String>> },
    Delete(i64),
}

/// The loads of a flush: one for each set of columns.
fn loads(changes: &[Change], exact: bool) -> Vec<TableWrite> {
    let mut groups: BTreeMap<(bool, bool), Vec<&Change>> = BTreeMap::new();
    for change in changes {
        let columns = match change {
            Change::Put { v, s, .. } => (v.is_some(), s.is_some()),
            Change::Delete(_) => (false, false),
        };
        groups.entry(columns).or_default().push(change);
    }
    let one = |((with_v, with_s), changes): ((bool, bool), Vec<&Change>)| {
        let (mut keys, mut bases, mut vs, mut ss, mut ops) = (vec![], vec![], vec![], vec![], vec![]);
        for change in changes {
            let (key, base, v, s, op) = match change {
                Change::Put { key, base, v, s } => (*key, *base, v.flatten(), s.clone().flatten(), OP_UPSERT),
                Change::Delete(key) => (*key, *key, None, None, OP_DELETE),
            };
            keys.push(key);
            bases.push(base);
            vs.push(v);
            ss.push(s);
            ops.push(op);
        }
        let moved = keys != bases;
        let mut columns: Vec<(&str, ArrayRef)> = vec![("k", Arc::new(Int64Array::from(keys)))];
        if with_v {
            columns.push(("v", Arc::new(Int32Array::from(vs))));
        }
        if with_s {
            columns.push(("s", Arc::new(StringArray::from(ss))));
        }
        let bases = moved.then(|| vec![Arc::new(Int64Array::from(bases)) as ArrayRef]);
        let partial = (!with_v || !with_s).then_some(Partial { bases, exact });
        TableWrite { partial, ..write("t", columns, Some(ops)) }
    };
    groups.into_iter().map(one).collect()
}

/// What the changes make of the rows.
fn apply(rows: &mut Rows, changes: &[Change]) {
    let before = rows.clone();
    for change in changes {
        match change {
            Change::Delete(key) => drop(rows.remove(key)),
            Change::Put { key, base, v, s } => {
                let base = before.get(base);
                let whole = v.is_some() && s.is_some();
                if let Some((old_v, old_s)) = base.or(whole.then_some(&(None, None))) {
                    rows.insert(*key, (v.unwrap_or(*old_v), s.clone().unwrap_or(old_s.clone())));
                }
            }
        }
    }
}

/// Changes of distinct keys, as the engine folds them: some rows moved, some swapped.
fn changes(rng: &mut Rng, rows: &Rows, n: usize) -> Vec<Change> {
    let mut free: Vec<i64> = (0..80).collect();
    rng.shuffle(&mut free);
    let mut out = Vec::new();
    for _ in 0..n {
        let Some(key) = free.pop() else { break };
        let v = Some(rng.bool().then(|| rng.i32(0..1000)));
        let s = Some(rng.bool().then(|| format!("s{}", rng.u16(..))));
        let (some_v, some_s) = if rng.bool() { (v, None) } else { (None, s.clone()) };
        match rng.u8(0..8) {
            0 | 1 => out.push(Change::Put { key, base: key, v, s }),
            2 => out.push(Change::Delete(key)),
            3 if rows.contains_key(&key) => {
                let Some(other) = free.pop() else { break };
                out.push(Change::Put { key: other, base: key, v: some_v, s: some_s });
                out.push(match rows.contains_key(&other) {
                    true => Change::Put { key, base: other, v: None, s: Some(Some("swapped".into())) },
                    false => Change::Delete(key),
                });
            }
            4 => out.push(Change::Put { key, base: key, v: None, s: None }),
            _ => out.push(Change::Put { key, base: key, v: some_v, s: some_s }),
        }
    }
    out
}

fn as_contents(rows: &Rows) -> BTreeMap<String, Vec<Option<String>>> {
    let texts =
        |(k, (v, s)): (&i64, &Row)| (k.to_string(), vec![Some(k.to_string()), v.map(|v| v.to_string()), s.clone()]);
    rows.iter().map(texts).collect()
}

/// A transaction that is put aside: what it makes of the table, keys whose visible rows will die, keys of its own.
struct Open {
    rows: Rows,
    parts: u32,
    dying: BTreeSet<i64>,
    own: BTreeSet<i64>,
}

impl Change {
    fn key(&self) -> i64 {
        match self {
            Change::Put { key, .. } | Change::Delete(key) => *key,
        }
    }

    /// Whether it is left out, because the row that its values come from is not there.
    fn left_out(&self, before: &Rows) -> bool {
        match self {
            Change::Put { base, v, s, .. } => (v.is_none() || s.is_none()) && !before.contains_key(base),
            Change::Delete(_) => false,
        }
    }
}

impl Open {
    fn apply(&mut self, visible: &Rows, changes: &[Change]) {
        for change in changes.iter().filter(|c| !c.left_out(&self.rows)) {
            let key = change.key();
            if visible.contains_key(&key) {
                self.dying.insert(key);
            }
            match change {
                Change::Put { .. } => self.own.insert(key),
                Change::Delete(_) => self.own.remove(&key),
            };
        }
        apply(&mut self.rows, changes);
    }

    /// Others have written; their rows stay unless this transaction has something to say about them.
    fn others(&mut self, visible: &mut Rows, changes: &[Change]) {
        let before = visible.clone();
        apply(visible, changes);
        for change in changes.iter().filter(|c| !c.left_out(&before)) {
            let key = change.key();
            let claimed = self.own.contains(&key) || self.dying.contains(&key);
            match (visible.get(&key), claimed) {
                (Some(_), true) => drop(self.dying.insert(key)),
                (Some(row), false) => drop(self.rows.insert(key, row.clone())),
                (None, true) => drop(self.dying.remove(&key)),
                (None, false) => drop(self.rows.remove(&key)),
            }
        }
    }
}

#[tokio::test]
async fn partial_updates_moves_and_parts_equal_a_model() {
    for seed in 0..40 {
        let mut rng = Rng::with_seed(seed);
        let dir = tempfile::tempdir().unwrap();
        let mut w = Warehouse::open(dir.path(), manual()).await.unwrap();
        w.ddl(None, create("t", Model::Unique)).await.unwrap();
        let mut visible = Rows::new();
        let mut open: Option<Open> = None;
        let writer = Writer { job: "j".into(), incarnation: 1, lane: 0 };
        for step in 0..50 {
            let n = if rng.u8(0..4) == 0 { 60 } else { rng.usize(1..10) };
            match rng.u8(0..20) {
                0 | 1 => w.flush().await.unwrap(),
                2 => w.optimize().await.unwrap(),
                3 => {
                    w.close().await.unwrap();
                    w = Warehouse::open(dir.path(), manual()).await.unwrap();
                    open = None;
                }
                4..7 => {
                    let mine = changes(&mut rng, &visible, n);
                    w.commit(None, loads(&mine, false)).await.unwrap();
                    match &mut open {
                        Some(open) => open.others(&mut visible, &mine),
                        None => apply(&mut visible, &mine),
                    }
                }
                7..14 => {
                    let begun =
                        || Open { rows: visible.clone(), parts: 0, dying: BTreeSet::new(), own: BTreeSet::new() };
                    let open = match rng.u8(0..8) {
                        0 => open.insert(begun()),
                        _ => open.get_or_insert_with(begun),
                    };
                    let mine = changes(&mut rng, &open.rows, n);
                    let stage = Stage::Part(Part { writer: writer.clone(), number: open.parts });
                    w.commit_stage(None, loads(&mine, false), stage.clone()).await.unwrap();
                    open.apply(&visible, &mine);
                    open.parts += 1;
                    if open.parts > 1 && rng.bool() {
                        // The same part again.
                        w.commit_stage(None, loads(&mine, false), stage).await.unwrap();
                    }
                }
                _ => {
                    let mut rows = open.as_ref().map_or_else(|| visible.clone(), |o| o.rows.clone());
                    let mine = changes(&mut rng, &rows, n);
                    apply(&mut rows, &mine);
                    let parts = open.take().map_or(0, |o| o.parts);
                    let label = Some(Label(format!("s{step}")));
                    let stage = Stage::Last { writer: writer.clone(), parts };
                    for _ in 0..2 {
                        w.commit_stage(label.clone(), loads(&mine, false), stage.clone()).await.unwrap();
                    }
                    visible = rows;
                }
            }
            assert_eq!(table_of(&w.snapshot(), "t"), as_contents(&visible), "seed {seed}, step {step}");
        }
    }
}

#[tokio::test]
async fn a_missing_base_is_an_error_when_the_target_should_be_exact() {
    let dir = tempfile::tempdir().unwrap();
    let w = Warehouse::open(dir.path(), manual()).await.unwrap();
    w.ddl(None, create("t", Model::Unique)).await.unwrap();
    w.commit(None, vec![upserts("t", [(1, 1)])]).await.unwrap();
    let change = |key, base| Change::Put { key, base, v: Some(Some(9)), s: None };
    for changes in [vec![change(1, 1), change(7, 7)], vec![change(2, 7), Change::Delete(7)]] {
        let error = w.commit(None, loads(&changes, true)).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Data);
        assert!(error.context.iter().any(|(k, v)| k == "key" && v == "7"), "{error}");
        assert!(error.to_string().contains("d.t") && error.hint.as_ref().unwrap().contains("resync"), "{error}");
    }
    assert_eq!(table_of(&w.snapshot(), "t").len(), 1);
    w.commit(None, loads(&[change(1, 1)], true)).await.unwrap();
    let row = |s: &Snapshot, k: &str| table_of(s, "t")[k].clone();
    assert_eq!(row(&w.snapshot(), "1"), [Some("1".into()), Some("9".into()), Some("text of row 1".into())]);
}

#[tokio::test]
async fn parts_that_are_missing_or_meet_anothers_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let w = Warehouse::open(dir.path(), manual()).await.unwrap();
    w.ddl(None, create("t", Model::Unique)).await.unwrap();
    let writer = |incarnation, lane| Writer { job: "j".into(), incarnation, lane };
    let part = async |writer, number, row| {
        w.commit_stage(None, vec![upserts("t", [row])], Stage::Part(Part { writer, number })).await
    };
    let last = async |writer, parts| w.commit_stage(None, Vec::new(), Stage::Last { writer, parts }).await;
    let kind = |done: freshet_core::Result<()>| done.unwrap_err().kind;
    assert_eq!(kind(last(writer(1, 0), 3).await), ErrorKind::Internal);
    part(writer(1, 0), 0, (1, 1)).await.unwrap();
    assert_eq!(kind(part(writer(1, 0), 2, (1, 1)).await), ErrorKind::Internal);
    assert_eq!(kind(part(writer(2, 0), 1, (1, 1)).await), ErrorKind::Internal);
    assert_eq!(kind(last(writer(1, 0), 2).await), ErrorKind::Internal);
    assert_eq!(kind(part(writer(1, 1), 0, (2, 2)).await), ErrorKind::SinkUnavailable);
    // Another life of the same lane takes its place.
    part(writer(2, 0), 0, (2, 2)).await.unwrap();
    assert_eq!(kind(last(writer(1, 0), 1).await), ErrorKind::Internal);
    last(writer(2, 0), 1).await.unwrap();
    part(writer(1, 1), 0, (3, 3)).await.unwrap();
    w.ddl(None, vec![Ddl::Truncate { table: name("t") }]).await.unwrap();
    last(writer(1, 1), 1).await.unwrap();
    assert_eq!(table_of(&w.snapshot(), "t").len(), 0);
    let files = std::fs::read_dir(dir.path().join("segments")).unwrap().count();
    assert_eq!(files, 0, "what is dropped leaves no files");
}

/// A transaction that would take more of the disk than it may is refused with what to do, and leaves nothing there.
#[tokio::test]
async fn parts_beyond_the_disk_they_may_take_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let w = Warehouse::open(dir.path(), Options { staged_bytes: 20_000, ..manual() }).await.unwrap();
    w.ddl(None, create("t", Model::Unique)).await.unwrap();
    let writer = Writer { job: "j".into(), incarnation: 1, lane: 0 };
    let part = async |number: u32| {
        let rows = (0..200).map(|k| (i64::from(number) * 1000 + k, 1));
        w.commit_stage(None, vec![upserts("t", rows)], Stage::Part(Part { writer: writer.clone(), number })).await
    };
    let files = || std::fs::read_dir(dir.path().join("segments")).unwrap().count();
    for _ in 0..2 {
        let mut taken = 0;
        let error = loop {
            match part(taken).await {
                Ok(()) => taken += 1,
                Err(e) => break e,
            }
            assert!(taken < 1000, "there is no limit");
        };
        assert!(taken > 1 && error.kind == ErrorKind::Io, "{taken}: {error}");
        assert!(error.hint.unwrap().contains("--transaction-disk"));
        assert_eq!(files(), 0);
    }
    part(0).await.unwrap();
    w.commit_stage(None, Vec::new(), Stage::Last { writer: writer.clone(), parts: 1 }).await.unwrap();
    assert_eq!(table_of(&w.snapshot(), "t").len(), 200);
}

#[tokio::test]
async fn what_was_seen_and_is_no_longer_so_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut w = Warehouse::open(dir.path(), manual()).await.unwrap();
    w.ddl(None, [create("t", Model::Unique), create("shadow", Model::Unique)[1..].to_vec()].concat()).await.unwrap();
    w.commit(None, vec![upserts("t", [(1, 1)]), upserts("shadow", [(2, 2)])]).await.unwrap();
    w.close().await.unwrap();
    for step in 0..5 {
        drop(w);
        w = Warehouse::open(dir.path(), manual()).await.unwrap();
        let seen = Some(w.snapshot().table(&name("t")).unwrap().seen());
        let lasts = match step {
            0 => w.optimize().await.map(|()| true),
            1 => w.commit(None, vec![upserts("t", [(3, 3)])]).await.map(|()| false),
            2 => w.ddl(None, vec![Ddl::Truncate { table: name("t") }]).await.map(|()| false),
            3 => {
                let (table, by) = (name("t"), name("shadow"));
                w.ddl(None, vec![Ddl::ReplaceTable { table, by, swap: true }]).await.map(|()| false)
            }
            _ => w.commit(None, vec![upserts("shadow", [(3, 3)])]).await.map(|()| true),
        };
        let done = w.commit(None, vec![TableWrite { seen, ..upserts("t", [(9, 9)]) }]).await;
        match lasts.unwrap() {
            true => done.unwrap(),
            false => assert_eq!(done.unwrap_err().kind, ErrorKind::SinkUnavailable, "step {step}"),
        }
        w.close().await.unwrap();
    }
}

/// A table's rows with how often each is there.
fn counts(view: &TableView) -> BTreeMap<Vec<Option<String>>, usize> {
    let mut out = BTreeMap::new();
    for values in live_rows(view) {
        *out.entry(values).or_default() += 1;
    }
    assert_eq!(out.values().sum::<usize>() as u64, view.live_rows, "the count of live rows is exact");
    out
}

fn create_multiset(columns: Vec<ColumnDef>) -> Vec<Ddl> {
    let table = TableDef { name: name("t"), columns, model: Model::Multiset, key: Vec::new(), comment: String::new() };
    vec![
        Ddl::CreateDatabase { name: "d".into(), if_not_exists: true },
        Ddl::CreateTable { table, if_not_exists: false },
    ]
}

/// A multiset as it should be.
#[derive(Default, Clone)]
struct Bag {
    columns: Vec<(String, DataType)>,
    rows: Vec<Vec<Option<String>>>,
}

impl Bag {
    fn counts(&self) -> BTreeMap<Vec<Option<String>>, usize> {
        let mut out = BTreeMap::new();
        self.rows.iter().for_each(|r| *out.entry(r.clone()).or_default() += 1);
        out
    }

    /// Appends and deletes, in order; `None` for the write when it deletes a row that is not there.
    fn change(&mut self, rng: &mut Rng, n: usize) -> (TableWrite, bool) {
        let (mut values, mut ops, mut good) = (Vec::new(), Vec::new(), true);
        let before = self.rows.clone();
        for _ in 0..n {
            if rng.u8(0..5) < 2 && !self.rows.is_empty() {
                ops.push(OP_DELETE);
                values.push(self.rows.swap_remove(rng.usize(0..self.rows.len())));
                continue;
            }
            let value = |(_, t): &(String, DataType)| match (rng.u8(0..4), t) {
                (0, _) => None,
                (_, DataType::Int32 | DataType::Int64) => Some(rng.i32(-2..2).to_string()),
                (_, DataType::Float32 | DataType::Float64) => {
                    Some(["0e0", "-0e0", "1.5e0"][rng.usize(0..3)].to_string())
                }
                _ => Some(["", "x", "x\u{0}"][rng.usize(0..3)].to_string()),
            };
            let row: Vec<_> = self.columns.iter().map(value).collect();
            let missing = rng.u8(0..60) == 0 && !self.rows.contains(&row);
            match missing {
                true => good = false,
                false => self.rows.push(row.clone()),
            }
            ops.push(if missing { OP_DELETE } else { OP_UPSERT });
            values.push(row);
        }
        let columns = self.columns.iter().enumerate().map(|(i, (n, t))| {
            let texts: ArrayRef = Arc::new(values.iter().map(|r| r[i].as_deref()).collect::<StringArray>());
            (n.as_str(), value::cast(&texts, &t.to_arrow()).unwrap())
        });
        let write = write("t", columns.collect(), Some(ops));
        if !good {
            self.rows = before;
        }
        (write, good)
    }

    fn alter(&mut self, rng: &mut Rng, n: usize) -> Ddl {
        let table = name("t");
        let at = rng.usize(0..self.columns.len());
        match (rng.u8(0..5), &self.columns[at].1) {
            (0, _) if self.columns.len() > 1 => {
                self.rows.iter_mut().for_each(|r| drop(r.remove(at)));
                Ddl::DropColumn { table, name: self.columns.remove(at).0 }
            }
            (1, _) => {
                let from = std::mem::replace(&mut self.columns[at].0, format!("r{n}"));
                Ddl::RenameColumn { table, from, to: format!("r{n}") }
            }
            (2, DataType::Int32) => {
                self.columns[at].1 = DataType::Int64;
                Ddl::ModifyColumn { table, column: column(&self.columns[at].0, DataType::Int64), position: None }
            }
            (2, DataType::Int64) => {
                self.columns[at].1 = DataType::TEXT;
                Ddl::ModifyColumn { table, column: column(&self.columns[at].0, DataType::TEXT), position: None }
            }
            (2, DataType::Float32) => {
                self.columns[at].1 = DataType::Float64;
                Ddl::ModifyColumn { table, column: column(&self.columns[at].0, DataType::Float64), position: None }
            }
            (3, _) => {
                let moved = self.columns.remove(at);
                self.rows.iter_mut().for_each(|r| {
                    let value = r.remove(at);
                    r.insert(0, value);
                });
                let column = column(&moved.0, moved.1.clone());
                self.columns.insert(0, moved);
                Ddl::ModifyColumn { table, column, position: Some(ColumnPosition::First) }
            }
            _ => {
                let mut added = column(&format!("a{n}"), if rng.bool() { DataType::Int32 } else { DataType::TEXT });
                let fill = rng.bool().then(|| "1".to_string());
                added.default = fill.clone().map(DefaultValue::Literal);
                self.columns.insert(0, (added.name.clone(), added.data_type.clone()));
                self.rows.iter_mut().for_each(|r| r.insert(0, fill.clone()));
                Ddl::AddColumn { table, column: added, position: ColumnPosition::First }
            }
        }
    }
}

#[tokio::test]
async fn multisets_equal_a_model() {
    for seed in 0..40 {
        let mut rng = Rng::with_seed(seed);
        let dir = tempfile::tempdir().unwrap();
        let mut w = Warehouse::open(dir.path(), manual()).await.unwrap();
        let columns = [("a", DataType::Int32), ("f", DataType::Float32), ("s", DataType::TEXT)];
        w.ddl(None, create_multiset(columns.iter().map(|(n, t)| column(n, t.clone())).collect())).await.unwrap();
        let mut bag = Bag { columns: columns.map(|(n, t)| (n.to_string(), t)).to_vec(), rows: Vec::new() };
        let mut open: Option<(Bag, u32)> = None;
        let writer = Writer { job: "j".into(), incarnation: 1, lane: 0 };
        for step in 0..50 {
            let n = if rng.u8(0..4) == 0 { 120 } else { rng.usize(1..12) };
            match rng.u8(0..20) {
                0 | 1 if open.is_none() => w.ddl(None, vec![bag.alter(&mut rng, step)]).await.unwrap(),
                2 | 3 => w.flush().await.unwrap(),
                4 => w.optimize().await.unwrap(),
                5 | 6 => {
                    w.close().await.unwrap();
                    w = Warehouse::open(dir.path(), manual()).await.unwrap();
                    open = None;
                }
                7..11 if open.is_some() || rng.u8(0..3) == 0 => {
                    let (rows, parts) = open.get_or_insert_with(|| (bag.clone(), 0));
                    let (write, good) = rows.change(&mut rng, n);
                    let stage = Stage::Part(Part { writer: writer.clone(), number: *parts });
                    let done = w.commit_stage(None, vec![write], stage).await;
                    assert_eq!(done.is_ok(), good, "seed {seed}, step {step}: {done:?}");
                    *parts += u32::from(good);
                }
                _ => {
                    let (mut rows, parts) = open.take().unwrap_or_else(|| (bag.clone(), 0));
                    let (write, good) = rows.change(&mut rng, n);
                    let stage = Stage::Last { writer: writer.clone(), parts };
                    let done = w.commit_stage(None, vec![write], stage).await;
                    match done {
                        Ok(()) => {
                            assert!(good, "seed {seed}, step {step}: a row that is not there was deleted");
                            bag = rows;
                        }
                        Err(e) => {
                            assert!(!good && e.kind == ErrorKind::Data, "seed {seed}, step {step}: {e}");
                            assert!(e.to_string().contains("d.t"), "{e}");
                            open = (parts > 0).then_some((rows, parts));
                        }
                    }
                }
            }
            let snapshot = w.snapshot();
            assert_eq!(counts(snapshot.table(&name("t")).unwrap()), bag.counts(), "seed {seed}, step {step}");
        }
    }
}

#[tokio::test]
async fn a_table_takes_the_place_of_another_in_one_instant() {
    for swap in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let w = Warehouse::open(dir.path(), manual()).await.unwrap();
        let both = [create("t", Model::Unique), create("shadow", Model::Unique)[1..].to_vec()].concat();
        w.ddl(None, both).await.unwrap();
        w.commit(None, vec![upserts("t", (0..300).map(|k| (k, 1)))]).await.unwrap();
        w.commit(None, vec![upserts("t", (0..3).map(|k| (k, 2)))]).await.unwrap();
        w.commit(None, vec![upserts("shadow", (1000..1200).map(|k| (k, 3)))]).await.unwrap();
        w.commit(None, vec![upserts("shadow", (1000..1002).map(|k| (k, 4)))]).await.unwrap();
        let (old, new) = (table_of(&w.snapshot(), "t"), table_of(&w.snapshot(), "shadow"));
        let files = || std::fs::read_dir(dir.path().join("segments")).unwrap().count();
        let before = w.snapshot();
        let replace = |table: &str| Ddl::ReplaceTable { table: name(table), by: name("shadow"), swap };
        assert_eq!(w.ddl(None, vec![replace("nope")]).await.unwrap_err().kind, ErrorKind::NotFound);
        let label = Label("replace".into());
        for _ in 0..2 {
            w.ddl(Some(&label), vec![replace("t")]).await.unwrap();
        }
        assert_eq!(table_of(&before, "t"), old, "who reads goes on reading the old rows");
        assert_eq!(files(), 4);
        drop(before);
        assert_eq!(files(), if swap { 4 } else { 2 });
        let check = |w: &Warehouse| {
            let s = w.snapshot();
            assert_eq!(table_of(&s, "t"), new);
            match swap {
                true => assert_eq!(table_of(&s, "shadow"), old),
                false => assert!(s.table(&name("shadow")).is_none()),
            }
        };
        check(&w);
        // As after a kill: the log is replayed.
        let copy = tempfile::tempdir().unwrap();
        copy_dir(dir.path(), copy.path());
        let killed = Warehouse::open(copy.path(), manual()).await.unwrap();
        check(&killed);
        assert!(killed.label_state(&label));
        w.optimize().await.unwrap();
        check(&w);
        w.commit(None, vec![upserts("t", [(1, 1)])]).await.unwrap();
        assert_eq!(table_of(&w.snapshot(), "t").len(), 201);
        w.close().await.unwrap();
        drop(w);
        let w = Warehouse::open(dir.path(), manual()).await.unwrap();
        assert_eq!(table_of(&w.snapshot(), "t").len(), 201);
    }
}

fn resident_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmHWM")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).unwrap_or_default() / 1024
}

/// Prints figures; run by hand: the test binary with `figures_of_changes --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures"]
#[allow(clippy::print_stdout)]
async fn figures_of_changes() {
    let target = std::env::var("CARGO_TARGET_TMPDIR").unwrap_or_else(|_| "/tmp".into());
    let dir = tempfile::tempdir_in(target).unwrap();
    let w = Warehouse::open(dir.path(), Options::default()).await.unwrap();
    let writer = Writer { job: "j".into(), incarnation: 1, lane: 0 };
    let mut rng = Rng::with_seed(1);

    w.ddl(None, create("p", Model::Unique)).await.unwrap();
    for part in 0..10 {
        w.commit(None, vec![upserts("p", (part * 100_000..(part + 1) * 100_000).map(|k| (k, 0)))]).await.unwrap();
    }
    for batch in [100_000, 10_000, 100] {
        let (start, rounds) = (Instant::now(), if batch == 100 { 200 } else { 100_000 / batch });
        for i in 0..rounds {
            let mut keys: Vec<i64> = (0..batch).map(|_| rng.i64(0..1_000_000)).collect();
            keys.sort_unstable();
            keys.dedup();
            let values = Int32Array::from(vec![i; keys.len()]);
            let columns: Vec<(&str, ArrayRef)> = vec![("k", Arc::new(Int64Array::from(keys))), ("v", Arc::new(values))];
            let partial = Some(Partial { bases: None, exact: true });
            w.commit(None, vec![TableWrite { partial, ..write("p", columns, None) }]).await.unwrap();
        }
        let rate = (batch * rounds) as f64 / start.elapsed().as_secs_f64();
        println!("partial updates of a table of 1,000,000 rows, {batch} in a flush: {rate:.0}/s");
    }

    let mut multiset =
        create_multiset(vec![column("k", DataType::Int64), column("v", DataType::Int32), column("s", DataType::TEXT)]);
    if let Ddl::CreateTable { table, .. } = &mut multiset[1] {
        table.name = name("m");
    }
    w.ddl(None, multiset).await.unwrap();
    let start = Instant::now();
    for part in 0..10 {
        w.commit(None, vec![upserts("m", (part * 100_000..(part + 1) * 100_000).map(|k| (k, 0)))]).await.unwrap();
    }
    println!("load of 1,000,000 rows into a multiset: {:?}", start.elapsed());
    let mut keys: Vec<i64> = (0..1_000_000).collect();
    rng.shuffle(&mut keys);
    for batch in [100_000, 10_000, 100] {
        let (start, rounds) = (Instant::now(), if batch == 100 { 200 } else { 100_000 / batch });
        for _ in 0..rounds {
            let mine = keys.split_off(keys.len() - batch);
            let mut delete = upserts("m", mine.into_iter().map(|k| (k, 0)));
            delete.ops = Some(Int8Array::from(vec![OP_DELETE; batch]));
            w.commit(None, vec![delete]).await.unwrap();
        }
        let rate = (batch * rounds) as f64 / start.elapsed().as_secs_f64();
        println!("deletes from a multiset of 1,000,000 rows, {batch} in a flush: {rate:.0}/s");
    }
    println!("peak memory so far: {} MB", resident_mb());

    w.ddl(None, create("t", Model::Unique)[1..].to_vec()).await.unwrap();
    w.commit(None, vec![upserts("t", (0..100_000).map(|k| (k * 7, 0)))]).await.unwrap();
    let start = Instant::now();
    let order: Vec<u32> = (0..100_000).map(|i| (i * 7919) % 100_000).collect();
    for part in 0..100u32 {
        let mut write = upserts("t", (0..100_000).map(|k| (k * 100 + i64::from(part), 1)));
        let shuffled: Vec<ArrayRef> =
            write.rows.columns().iter().map(|c| take(c, &UInt32Array::from(order.clone()), None).unwrap()).collect();
        write.rows = RecordBatch::try_new(write.rows.schema(), shuffled).unwrap();
        w.commit_stage(None, vec![write], Stage::Part(Part { writer: writer.clone(), number: part })).await.unwrap();
    }
    let staged = start.elapsed();
    assert_eq!(w.snapshot().table(&name("t")).unwrap().live_rows, 100_000);
    let start = Instant::now();
    w.commit_stage(Some(Label("big".into())), Vec::new(), Stage::Last { writer, parts: 100 }).await.unwrap();
    println!(
        "a transaction of 10,000,000 rows in 100 parts: put aside in {staged:?}, published in {:?}, {} live rows, peak memory {} MB",
        start.elapsed(),
        w.snapshot().table(&name("t")).unwrap().live_rows,
        resident_mb()
    );
}
