//! The log replays exactly from any position, and copy plus stream equal the state, schema change included.

use std::collections::BTreeMap;

use arrow::array::Array;
use freshet_core::batch::OP_DELETE;
use freshet_core::text::render;

use super::*;

type Model = BTreeMap<Vec<String>, Vec<Option<String>>>;

fn all() -> TablePattern {
    TablePattern::parse("shop.*", None).unwrap()
}

fn key_of(schema: &TableSchema, row: &[Option<String>]) -> Vec<String> {
    schema.key_indexes().into_iter().map(|i| format!("{:>20}", row[i].clone().unwrap())).collect()
}

fn texts(schema: &TableSchema, batch: &RecordBatch) -> Vec<Vec<Option<String>>> {
    let columns: Vec<StringArray> = schema
        .columns
        .iter()
        .enumerate()
        .map(|(i, c)| render(batch.column(i).as_ref(), &c.data_type).unwrap())
        .collect();
    let value = |c: &StringArray, row: usize| (!c.is_null(row)).then(|| c.value(row).to_string());
    (0..batch.num_rows()).map(|row| columns.iter().map(|c| value(c, row)).collect()).collect()
}

async fn copy(source: &Generator, schema: &Arc<TableSchema>, low: &Position, rows: u64) -> Model {
    let mut model = Model::new();
    for split in source.splits(schema, rows).await.unwrap() {
        let mut stream = source.read(schema, &split, low).await.unwrap();
        while let Some(batch) = stream.next().await.unwrap() {
            for row in texts(schema, &batch) {
                assert!(model.insert(key_of(schema, &row), row).is_none(), "read twice");
            }
        }
    }
    model
}

async fn state(source: &Generator, schema: &Arc<TableSchema>) -> Model {
    let mut stream = source.text(schema, &KeyRange::default()).await.unwrap();
    let mut model = Model::new();
    while let Some(batch) = stream.next().await.unwrap() {
        for row in 0..batch.num_rows() {
            let values: Vec<Option<String>> = (0..batch.num_columns())
                .map(|c| {
                    let c = batch.column(c).as_any().downcast_ref::<StringArray>().unwrap();
                    (!c.is_null(row)).then(|| c.value(row).to_string())
                })
                .collect();
            model.insert(key_of(schema, &values), values);
        }
    }
    model
}

/// Applies the log from a position to another to the models.
async fn follow(source: &Generator, models: &mut BTreeMap<TableName, (Arc<TableSchema>, Model)>, from: u64, to: u64) {
    let tables = models.values().map(|(s, _)| Arc::clone(s)).collect();
    let (from, stop) = (position(from), Some(position(to)));
    let mut stream = source
        .changes(ChangesRequest { tables, pattern: all(), from, stop, spool: None, lane: 0, watched: Vec::new() })
        .await
        .unwrap();
    loop {
        match stream.next().await.unwrap() {
            Event::Rows(batch) => {
                let (schema, model) = models.get_mut(&batch.schema.name).unwrap();
                assert_eq!(**schema, *batch.schema);
                for (row, op) in texts(schema, &batch.rows).into_iter().zip(batch.ops().values()) {
                    let key = key_of(schema, &row);
                    if *op == OP_DELETE {
                        assert!(model.remove(&key).is_some(), "deletes what is not there");
                    } else {
                        model.insert(key, row);
                    }
                }
            }
            Event::Schema(change) => {
                for (table, step) in change.steps {
                    let (schema, model) = models.get_mut(&table).unwrap();
                    *schema = Arc::new(schema.after(&step).unwrap().unwrap());
                    model.values_mut().for_each(|row| row.insert(3, Some("web".into())));
                }
            }
            Event::Commit(commit) if commit.position == position(to) => return,
            Event::Commit(_) => {}
            Event::Suspend { .. } | Event::Unseen { .. } => panic!("suspended"),
        }
    }
}

#[tokio::test]
async fn copy_and_stream_equal_the_state() {
    for rows in [0, 100, 5000] {
        let source =
            Generator::open(&format!("generator://shop?rows={rows}&rate=0&transactions=1500&alter=700&seed=7"))
                .unwrap();
        let start = source.begin(&all()).await.unwrap();
        let mut models = BTreeMap::new();
        for table in start.tables {
            let schema = Arc::new(table.schema.unwrap());
            let model = copy(&source, &schema, &start.low, 64).await;
            assert_eq!(model, state(&source, &schema).await);
            models.insert(table.name, (schema, model));
        }
        let from = number(&start.low).unwrap();
        // Not in one go: each piece ends exactly where it is asked to.
        for (a, b) in [(0, 1), (1, 699), (699, 700), (700, 701), (701, 1500)] {
            follow(&source, &mut models, from + a, from + b).await;
            source.acknowledge(&position(from + b)).await.unwrap();
            for (schema, model) in models.values() {
                assert_eq!(*model, state(&source, schema).await, "{} after {b}", schema.name);
            }
        }
        assert_eq!(models[&TableName::new("shop", "orders")].0.columns.len(), 9);
    }
}

#[tokio::test]
async fn a_range_holds_its_keys() {
    let source = Generator::open("generator://shop?rows=500&rate=0").unwrap();
    let schema = Arc::new(source.shop.schema(Table::OrderItems, source.history));
    let key = |a: &str, b: &str| Some(vec![a.to_string(), b.to_string()]);
    let range = KeyRange { from: key("10", "2"), to: key("12", "2") };
    let mut stream = source.text(&schema, &range).await.unwrap();
    let batch = stream.next().await.unwrap().unwrap();
    let column = |i: usize| batch.column(i).as_any().downcast_ref::<StringArray>().unwrap().clone();
    let keys: Vec<(i64, i64)> = column(0)
        .iter()
        .zip(column(1).iter())
        .map(|(a, b)| (a.unwrap().parse().unwrap(), b.unwrap().parse().unwrap()))
        .collect();
    assert!(!keys.is_empty() && keys.is_sorted());
    assert!(keys.iter().all(|k| *k >= (10, 2) && *k < (12, 2)), "{keys:?}");
    assert!(stream.next().await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn keeps_its_rate() {
    let source = Generator::open("generator://shop?rows=100&rate=100").unwrap();
    let from = source.end(None).await.unwrap().position;
    let tables = source.tables(&all()).await.unwrap().into_iter().map(|t| Arc::new(t.schema.unwrap())).collect();
    let request = ChangesRequest {
        tables,
        pattern: all(),
        from: from.clone(),
        stop: None,
        spool: None,
        lane: 0,
        watched: Vec::new(),
    };
    let mut stream = source.changes(request).await.unwrap();
    let start = Instant::now();
    let mut transactions = 0;
    while transactions < 500 {
        if let Event::Commit(commit) = stream.next().await.unwrap() {
            transactions += commit.transactions;
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    assert!((4.9..5.2).contains(&seconds), "{seconds}");
    let end = source.end(None).await.unwrap().position;
    assert!(number(&end).unwrap().abs_diff(number(&from).unwrap() + 500) <= 2, "{end}");
    assert_eq!(source.compare(&from, &end), Some(Ordering::Less));
}

#[test]
fn wrong_urls() {
    for url in ["generator://shop?rows=many", "generator://shop?speed=1", "generator"] {
        let error = Generator::open(url).err().expect(url);
        assert!(error.hint.is_some(), "{error}");
    }
    assert!(number(&Position::at("mysql-bin.1:4")).is_err());
}
