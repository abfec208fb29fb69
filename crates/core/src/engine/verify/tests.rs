//! `verify` against a source and a target of a few rows that change between any two reads, as told.

use std::cmp::Ordering;
use std::sync::Mutex;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use async_trait::async_trait;

use super::*;
use crate::connector::{BatchStream, ChangeStream, ChangesRequest, CopyStart, Cut, Discovered, Flush, LogEnd, Settled};
use crate::connector::{Split, Statement};
use crate::engine::{Connectors, JobOptions, JobSpec, Rules};
use crate::intent::{Intent, Label};
use crate::schema::{Column, TableChange};
use crate::store::{Change, Desired, JobRecord, LaneRecord, SchemaRecord, Store};
use crate::{Check, DataType, Finding};

type Rows = Vec<Vec<String>>;
/// What happens right before a read: its ordinal (counted for each side from 0), and the rows of source and target.
type Script = Box<dyn FnMut(Side, usize, &mut Rows, &mut Rows) + Send>;

/// Key, what is wrong, and how often a row is at source and target.
type Listed = (String, Mismatch, Option<(u64, u64)>);

struct World {
    schema: TableSchema,
    source: Rows,
    target: Rows,
    splits: Vec<Option<Vec<String>>>,
    reads: [usize; 2],
    script: Script,
    /// Committed before the source is read for this time.
    migration: Option<(usize, Store, Change)>,
}

#[derive(Clone)]
struct Model(Arc<Mutex<World>>);

struct Batches(Vec<RecordBatch>);

#[async_trait]
impl BatchStream for Batches {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        Ok(self.0.pop())
    }
}

impl Model {
    async fn read(&self, side: Side, range: &KeyRange) -> Result<Box<dyn BatchStream>> {
        let migration = {
            let mut world = self.0.lock().unwrap();
            let due = side == Side::Source && world.migration.as_ref().is_some_and(|m| m.0 == world.reads[0]);
            if due { world.migration.take() } else { None }
        };
        if let Some((_, store, change)) = migration {
            store.commit(change).await?;
        }
        let mut world = self.0.lock().unwrap();
        let world = &mut *world;
        let number = world.reads[side as usize];
        world.reads[side as usize] += 1;
        (world.script)(side, number, &mut world.source, &mut world.target);
        // The target gives more than the range.
        let within = |row: &Vec<String>| {
            let bound = |b: &Option<Vec<String>>| b.as_ref().map(|b| b[0].parse::<i64>().unwrap());
            let key = row[0].parse::<i64>().unwrap_or_default();
            side == Side::Target
                || bound(&range.from).is_none_or(|f| key >= f) && bound(&range.to).is_none_or(|t| key < t)
        };
        let rows: Rows = if side == Side::Source { &world.source } else { &world.target }.clone();
        let rows: Vec<_> = rows.into_iter().filter(within).collect();
        let batch = |rows: &[Vec<String>]| {
            let column = |(i, c): (usize, &Column)| {
                let values: StringArray = rows.iter().map(|r| Some(&r[i])).collect();
                (c.name.clone(), Arc::new(values) as ArrayRef)
            };
            RecordBatch::try_from_iter(world.schema.columns.iter().enumerate().map(column)).unwrap()
        };
        Ok(Box::new(Batches(rows.chunks(2).map(batch).collect())))
    }
}

#[async_trait]
impl Check for Model {
    async fn check(&self, _: &TablePattern) -> Vec<Finding> {
        Vec::new()
    }
}

fn unused<T>() -> Result<T> {
    Err(Error::internal("verify has no need of it"))
}

#[async_trait]
impl Source for Model {
    async fn tables(&self, _: &TablePattern) -> Result<Vec<Discovered>> {
        unused()
    }
    async fn begin(&self, _: &TablePattern) -> Result<CopyStart> {
        unused()
    }
    async fn splits(&self, _: &TableSchema, _: u64) -> Result<Vec<Split>> {
        let ends = self.0.lock().unwrap().splits.clone();
        let split = |to: Option<Vec<String>>| Split { number: 0, range: KeyRange { from: None, to }, rows: 1 };
        Ok(ends.into_iter().map(split).collect())
    }
    async fn read(&self, _: &Arc<TableSchema>, _: &Split, _: &Position) -> Result<Box<dyn BatchStream>> {
        unused()
    }
    async fn cut(&self, _: &Arc<TableSchema>, _: &Position) -> Result<Cut> {
        unused()
    }
    async fn rows_of(&self, _: &Arc<TableSchema>, _: &RecordBatch, _: &Position) -> Result<RecordBatch> {
        unused()
    }
    async fn end(&self, _: Option<&Position>) -> Result<LogEnd> {
        Ok(LogEnd { position: Position::at("1"), bytes_behind: None })
    }
    async fn changes(&self, _: ChangesRequest) -> Result<Box<dyn ChangeStream>> {
        unused()
    }
    async fn acknowledge(&self, _: &Position) -> Result<()> {
        unused()
    }
    fn compare(&self, _: &Position, _: &Position) -> Option<Ordering> {
        Some(Ordering::Equal)
    }
    async fn text(&self, _: &Arc<TableSchema>, range: &KeyRange) -> Result<Box<dyn BatchStream>> {
        self.read(Side::Source, range).await
    }
}

#[async_trait]
impl Sink for Model {
    fn plan(&self, _: &TableName, _: &TableChange, _: Option<&TableSchema>) -> Result<Vec<Statement>> {
        unused()
    }
    async fn apply(&self, _: &Label, _: &Statement) -> Result<()> {
        unused()
    }
    async fn write(&self, _: Flush) -> Result<()> {
        unused()
    }
    async fn settle(&self, _: &Label, _: Option<&Intent>) -> Result<Settled> {
        unused()
    }
    async fn rows(&self, _: &TableName, _: &Arc<TableSchema>, range: &KeyRange) -> Result<Box<dyn BatchStream>> {
        self.read(Side::Target, range).await
    }
}

fn rows(of: &[[&str; 2]]) -> Rows {
    of.iter().map(|r| r.map(str::to_string).to_vec()).collect()
}

/// A table `(a, b)` with such a key.
fn world(key: &[&str], source: &[[&str; 2]], target: &[[&str; 2]]) -> World {
    World {
        schema: TableSchema {
            name: TableName::new("d", "t"),
            columns: vec![Column::new("a", DataType::Int32), Column::new("b", DataType::TEXT)],
            key: key.iter().map(|k| (*k).to_string()).collect(),
            comment: String::new(),
            source_defaults: String::new(),
        },
        source: rows(source),
        target: rows(target),
        splits: vec![None],
        reads: [0, 0],
        script: Box::new(|_, _, _, _| {}),
        migration: None,
    }
}

fn record(schema_version: u32) -> TableRecord {
    TableRecord {
        name: TableName::new("d", "t"),
        target: TableName::new("d", "t"),
        schema_version,
        created: true,
        rows_estimated: None,
        unseen: None,
        state: TableState::Live,
        copy: None,
        apart: None,
    }
}

/// The report of the table, and how often each side was read.
async fn verify(world: World, options: VerifyOptions) -> (TableReport, [usize; 2]) {
    verify_in(Store::in_memory(None).unwrap(), world, options).await
}

async fn verify_in(store: Store, world: World, options: VerifyOptions) -> (TableReport, [usize; 2]) {
    let spec = JobSpec {
        name: "j".into(),
        source: "s".into(),
        sink: "t".into(),
        tables: TablePattern::parse("d.*", None).unwrap(),
        target_database: None,
        options: JobOptions::default(),
    };
    let mut change = Change::new();
    change.job(&JobRecord { spec, incarnation: 1, desired: Desired::Running, failed: None, created_ms: 0 });
    change.lane("j", 0, &LaneRecord { position: Position::at("1"), intent: None, part: None, ddl: None });
    change.table("j", &record(1));
    for version in 1..=2 {
        let schema = world.schema.clone();
        let of = SchemaRecord { version, from: Position::at("1"), schema };
        change.schema("j", &TableName::new("d", "t"), &of);
    }
    store.commit(change).await.unwrap();
    let model = Model(Arc::new(Mutex::new(world)));
    let (source, sink) = (model.clone(), model.clone());
    let connectors = Connectors {
        source: Box::new(move |_| Ok(Arc::new(source.clone()))),
        sink: Box::new(move |_| Ok(Arc::new(sink.clone()))),
    };
    let engine = Engine::with_store(store, connectors, Rules::default());
    let report = engine.verify("j", options, &|_| {}).await.unwrap();
    let reads = model.0.lock().unwrap().reads;
    (report.tables.into_iter().next().unwrap(), reads)
}

fn found(report: &TableReport) -> Vec<Listed> {
    let times = |d: &Difference| d.times.map(|t| (t.source, t.target));
    report.keys.iter().map(|d| (d.key.join("|"), d.what, times(d))).collect()
}

#[tokio::test]
async fn a_row_that_is_missing_in_the_middle_of_a_table_without_a_key() {
    let source = [["1", "x"], ["2", "y"], ["2", "y"], ["3", "z"], ["4", "v"]];
    let target = [["1", "x"], ["2", "y"], ["3", "z"], ["4", "v"], ["4", "v"]];
    let (report, _) = verify(world(&[], &source, &target), VerifyOptions::default()).await;
    assert!(!report.equal);
    assert_eq!((report.rows, report.differing), (5, 2));
    assert_eq!(
        found(&report),
        [("2|y".into(), Mismatch::Missing, Some((2, 1))), ("4|v".into(), Mismatch::Extra, Some((1, 2)))]
    );
    let other_order = [["4", "v"], ["2", "y"], ["1", "x"], ["3", "z"], ["2", "y"]];
    let (report, _) = verify(world(&[], &source, &other_order), VerifyOptions::default()).await;
    assert!(report.equal, "{report:?}");
    // It takes a new copy to repair it; what was found is said all the same.
    let options = VerifyOptions { repair: true, ..VerifyOptions::default() };
    let (report, _) = verify(world(&[], &source, &target), options).await;
    assert_eq!((report.differing, report.repaired, report.error), (2, 0, None));
    assert!(report.unrepaired.unwrap().hint.unwrap().contains("freshet resync j d.t"));
}

#[tokio::test]
async fn a_table_without_a_key_that_changes_meanwhile_is_equal() {
    let mut world = world(&[], &[["1", "x"], ["2", "y"], ["3", "z"]], &[["1", "x"], ["2", "y"], ["3", "z"]]);
    // The source gets a row before each of its reads and loses one, and the target has it all before it is read.
    world.script = Box::new(|side, number, source, target| match side {
        Side::Source => {
            source[0] = vec!["1".into(), format!("x{number}")];
            source.push(vec!["9".into(), "same".into()]);
        }
        Side::Target => *target = source.iter().rev().cloned().collect(),
    });
    let (report, reads) = verify(world, VerifyOptions::default()).await;
    assert!(report.equal, "{report:?}");
    assert_eq!((report.changing, reads), (0, [1, 1]));
}

#[tokio::test]
async fn what_differs_by_chance_is_not_reported_and_what_stays_different_is() {
    let start = [["1", "a"], ["2", "b"], ["3", "c"], ["4", "d"]];
    let mut world = world(&["a"], &start, &[["1", "a"], ["2", "b"], ["3", "WRONG"], ["5", "e"]]);
    // Row 2 goes to and fro at the source; five times in a row the target is read when it is the other way round.
    world.script = Box::new(|side, number, _, target| {
        if side == Side::Target {
            target[1][1] = if number <= 5 { "beta" } else { "b" }.into();
        }
    });
    let (report, reads) = verify(world, VerifyOptions::default()).await;
    assert_eq!(
        found(&report),
        [
            ("3".into(), Mismatch::Changed, None),
            ("4".into(), Mismatch::Missing, None),
            ("5".into(), Mismatch::Extra, None)
        ]
    );
    assert_eq!(reads, [1 + 1 + ROUNDS, 1 + ROUNDS]);
}

#[tokio::test]
async fn nothing_is_said_of_what_changes_whenever_it_is_read() {
    let mut world = world(&["a"], &[["1", "a"], ["2", "b"]], &[["1", "a"], ["2", "b"]]);
    world.script = Box::new(|side, number, source, target| match side {
        Side::Source => source[1][1] = format!("source {number}"),
        Side::Target => target[1][1] = format!("in between {number}"),
    });
    let (report, _) = verify(world, VerifyOptions::default()).await;
    assert_eq!((report.equal, report.changing, report.differing), (true, 1, 0), "{report:?}");
}

#[tokio::test]
async fn ranges_of_a_composite_key_and_what_a_sample_can_leave_out() {
    let all: Vec<[String; 2]> = (0..100).map(|i| [(i / 10).to_string(), format!("{:02}", i % 10)]).collect();
    let all: Vec<[&str; 2]> = all.iter().map(|[a, b]| [a.as_str(), b.as_str()]).collect();
    let mut damaged = all.clone();
    damaged.remove(57);
    let key = |a: &str, b: &str| Some(vec![a.to_string(), b.to_string()]);
    // Bounds of the source's order; the second and the third begin alike.
    let splits = vec![key("2", "x"), key("5", "Y"), key("5", "z"), None];
    let with = |sample| VerifyOptions { sample, ..VerifyOptions::default() };
    for (sample, ranges, rows, expected) in
        [(None, 3, 100, vec!["5|07"]), (Some(1), 1, 20, vec![]), (Some(2), 2, 70, vec!["5|07"])]
    {
        let world = World { splits: splits.clone(), ..world(&["a", "b"], &all, &damaged) };
        let (report, _) = verify(world, with(sample)).await;
        assert_eq!((report.ranges, report.ranges_in_all, report.rows, report.indivisible), (ranges, 3, rows, false));
        assert_eq!(report.keys.iter().map(|d| d.key.join("|")).collect::<Vec<_>>(), expected, "{sample:?}");
    }
    // A text orders otherwise at the target; there is nothing to choose from.
    let world = World { splits, ..world(&["b"], &all[..10], &all[..10]) };
    let (report, _) = verify(world, with(Some(1))).await;
    assert_eq!((report.equal, report.ranges, report.rows, report.indivisible), (true, 1, 10, true));
}

#[tokio::test]
async fn a_definition_that_changes_meanwhile_is_compared_anew() {
    let store = Store::in_memory(None).unwrap();
    let mut world = world(&["a"], &[["1", "10"], ["2", "20"]], &[["1", "10"], ["2", "20"]]);
    // From the first read on the source shows the new definition; the target has it from the second round on.
    world.script = Box::new(|side, number, source, target| match (side, number) {
        (Side::Source, 0) => *source = rows(&[["1", "10.0"], ["2", "20.0"]]),
        (Side::Target, 7) => *target = rows(&[["1", "10.0"], ["2", "20.0"]]),
        _ => {}
    });
    let mut change = Change::new();
    change.table("j", &record(2));
    world.migration = Some((3, store.clone(), change));
    let (report, reads) = verify_in(store, world, VerifyOptions::default()).await;
    assert!(report.equal, "{report:?}");
    assert_eq!(reads, [1 + 1 + ROUNDS + 1, 1 + ROUNDS + 1]);
}
