//! Every flush is there once and as a whole, however the process or the disk ended.

use std::sync::Arc;

use arrow::array::{ArrayRef, Decimal128Array, Float64Array, Int8Array, Int64Array, StringArray};
use freshet_core::batch::{OP_DELETE, OP_UPSERT};
use freshet_core::{ChangeBatch, Column, DataType, ErrorKind, Load};
use tempfile::TempDir;

use super::*;

fn load(number: i64) -> Load {
    let decimal = DataType::Decimal { precision: 10, scale: 2 };
    let schema = Arc::new(TableSchema {
        name: TableName::new("s", "t/1"),
        columns: vec![
            Column::new("id", DataType::Int64).not_null(),
            Column::new("name", DataType::TEXT),
            Column::new("price", decimal),
            Column::new("doc", DataType::Json),
            Column::new("f", DataType::Float64),
        ],
        key: vec!["id".into()],
        comment: String::new(),
        source_defaults: String::new(),
    });
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(vec![number, number + 1])),
        Arc::new(StringArray::from(vec![Some("a\"b\n"), None])),
        Arc::new(Decimal128Array::from(vec![Some(1234), None]).with_precision_and_scale(10, 2).unwrap()),
        Arc::new(StringArray::from(vec![Some("{\"a\": [1]}"), None])),
        Arc::new(Float64Array::from(vec![Some(f64::NAN), None])),
    ];
    let rows = ChangeBatch::new(schema, columns, Int8Array::from(vec![OP_UPSERT, OP_DELETE])).unwrap();
    Load { target: TableName::new("s", "t/1"), label: Label("l".into()), rows, exact: true }
}

fn flush(label: &str, number: i64) -> Flush {
    let purpose =
        Purpose::Stream { writer: freshet_core::Writer { job: "j".into(), incarnation: 1, lane: 0 }, parts: 0 };
    Flush { label: Label(label.into()), loads: vec![load(number)], purpose }
}

fn open(dir: &TempDir) -> FileSink {
    FileSink::open(&format!("file://{}", dir.path().display())).unwrap()
}

#[tokio::test]
async fn once_per_label_over_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("s.t%2F1.jsonl");
    let sink = open(&dir);
    sink.write(flush("one", 1)).await.unwrap();
    sink.write(flush("one", 1)).await.unwrap();
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(
        text,
        concat!(
            r#"{"op":"upsert","table":"s.t/1","key":{"id":1},"row":{"id":1,"name":"a\"b\n","price":"12.34","doc":{"a": [1]},"f":"NaN"},"label":"one"}"#,
            "\n",
            r#"{"op":"delete","table":"s.t/1","key":{"id":2},"label":"one"}"#,
            "\n"
        )
    );
    // The process dies in the middle of the next flush: rows are there, its label is half written.
    let mut add = OpenOptions::new().append(true).open(&file).unwrap();
    add.write_all(b"{\"op\":\"upsert\",\"tab").unwrap();
    let mut add = OpenOptions::new().append(true).open(dir.path().join(INDEX)).unwrap();
    add.write_all(b"{\"label\":\"two\",\"files\":{\"s.t%2").unwrap();
    let sink = open(&dir);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
    assert_eq!(sink.settle(&Label("one".into()), None).await.unwrap(), Settled::Done);
    assert_eq!(sink.settle(&Label("two".into()), None).await.unwrap(), Settled::NotDone);
    sink.write(flush("one", 1)).await.unwrap();
    sink.write(flush("two", 3)).await.unwrap();
    sink.apply(&Label("ddl".into()), &Statement("ALTER TABLE x".into())).await.unwrap();
    sink.apply(&Label("ddl".into()), &Statement("ALTER TABLE x".into())).await.unwrap();
    let sink = open(&dir);
    assert_eq!(std::fs::read_to_string(&file).unwrap().lines().count(), 4);
    assert_eq!(std::fs::read_to_string(dir.path().join(STATEMENTS)).unwrap(), "ALTER TABLE x;\n");
    for label in ["one", "two", "ddl"] {
        assert_eq!(sink.settle(&Label(label.into()), None).await.unwrap(), Settled::Done);
    }
}

#[tokio::test]
async fn copies_are_written_every_time() {
    let dir = tempfile::tempdir().unwrap();
    let sink = open(&dir);
    for _ in 0..2 {
        sink.write(Flush { purpose: Purpose::Copy, ..flush("copy", 1) }).await.unwrap();
    }
    assert_eq!(std::fs::read_to_string(dir.path().join("s.t%2F1.jsonl")).unwrap().lines().count(), 4);
}

#[tokio::test]
async fn a_lost_tail_is_named() {
    let dir = tempfile::tempdir().unwrap();
    open(&dir).write(flush("one", 1)).await.unwrap();
    let file = dir.path().join("s.t%2F1.jsonl");
    OpenOptions::new().write(true).open(&file).unwrap().set_len(5).unwrap();
    let error = FileSink::open(&format!("file://{}", dir.path().display())).err().unwrap();
    assert_eq!(error.kind, ErrorKind::Corrupt);
    assert!(error.line().contains("s.t%2F1.jsonl"), "{error}");
    assert_eq!(FileSink::open("file:/x").err().unwrap().kind, ErrorKind::Config);
    let unsupported = open(&tempfile::tempdir().unwrap());
    let schema = load(1).rows.schema;
    let error = unsupported.rows(&schema.name, &schema, &KeyRange::default()).await.err().unwrap();
    assert_eq!(error.kind, ErrorKind::Unsupported);
}
