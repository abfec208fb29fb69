//! The stream against a real server (see `wire::live`): rows that went through the log are compared with what the server
//! itself prints for them.

use std::collections::BTreeMap;
use std::time::Duration;

use freshet_core::batch::OP_DELETE;
use freshet_core::{ChangeStream, ChangesRequest, Event, KeyRange, Position, Source, TablePattern, TableSchema, text};

use super::super::MySql;
use super::super::wire::{Connection, Options, live::servers};
use super::*;

/// All types that are read, with their corner cases; `{json}` is only where it is binary.
pub(super) const SETUP: &str = "
SET SESSION sql_mode = '', time_zone = '+00:00';
DROP DATABASE IF EXISTS fr_types; CREATE DATABASE fr_types CHARACTER SET utf8mb4; USE fr_types;
CREATE TABLE t (id INT PRIMARY KEY, y YEAR, ti TINYINT, tu TINYINT UNSIGNED, si SMALLINT, su SMALLINT UNSIGNED, mi MEDIUMINT,
 mu MEDIUMINT UNSIGNED, i INT, iu INT UNSIGNED, bi BIGINT, bu BIGINT UNSIGNED, b1 BIT(1), b9 BIT(9), b64 BIT(64),
 d1 DECIMAL(10,2), d2 DECIMAL(65,30), d3 DECIMAL(5,5), d4 DECIMAL(38,0), f FLOAT, dd DOUBLE, da DATE, dt0 DATETIME, dt3 DATETIME(3),
 dt6 DATETIME(6), ts0 TIMESTAMP NULL, ts2 TIMESTAMP(2) NULL, ts6 TIMESTAMP(6) NULL, t0 TIME, t1 TIME(1), t4 TIME(4), t6 TIME(6),
 c CHAR(10), cl CHAR(200) CHARACTER SET latin1, cb CHAR(255), v VARCHAR(20), vl VARCHAR(300) CHARACTER SET latin1,
 va VARCHAR(10) CHARACTER SET ascii, v3 VARCHAR(100) CHARACTER SET utf8mb3, tt TINYTEXT, tx TEXT CHARACTER SET latin1, mt MEDIUMTEXT, lt LONGTEXT,
 bn BINARY(4), vb VARBINARY(300), tb TINYBLOB, bl BLOB, mb MEDIUMBLOB, lb LONGBLOB, e ENUM('a','b''c','ä'), s SET('x','y','z'), j JSON);
INSERT INTO t (id) VALUES (1);
INSERT INTO t VALUES (2, 2155, -128, 255, -32768, 65535, -8388608, 16777215, -2147483648, 4294967295, -9223372036854775808, 18446744073709551615,
 b'1', b'101010101', 0xFFFFFFFFFFFFFFFF, -99999999.99, 99999999999999999999999999999999999.999999999999999999999999999999, 0.00001,
 -99999999999999999999999999999999999999, -1.5e-10, 1.7976931348623157e308, '9999-12-31', '9999-12-31 23:59:59', '1000-01-01 00:00:00.123', '2024-02-29 12:34:56.000001',
 '2038-01-19 03:14:07', '1970-01-01 00:00:01.25', '2000-06-01 00:00:00.999999', '-838:59:59', '-00:00:00.1', '838:59:58.9999', '-12:34:56.000001',
 'hé  ', 'é€', REPEAT('€',255), 'emoji 😀', REPEAT('ü', 300), 'ascii', 'ab€', '', 'latin1 ÿ', REPEAT('m', 70000), 'long', 'a', 0x00FF00, '', 0xFF, REPEAT('x', 70000), 'q',
 'b''c', 'x,z', NULL);
INSERT INTO t (id, y, t1, t4, t6, d1, e, s, bn, f, dd, b9, dt6) VALUES (3, 0, '00:00:00.1', '-00:00:01.5', '-838:59:59.000001', 0, 'zzz', '', 0x01020300, 3.14159, -0.0, 0, '0001-01-01 00:00:00'),
 (4, 1901, '-23:59:59.9', '-838:59:59', '00:00:00.000001', -0.01, 3, 7, '', 16777216, 1e-300, 511, '1969-12-31 23:59:59.999999');
";

pub(super) const JSON: &[&str] = &[
    "'{}'",
    "'[]'",
    "'null'",
    "'true'",
    "'\"str\\\\\\\\ \\\\\"q\\\\\" \\\\u0001 \\\\n \\\\t é 😀 /\"'",
    "'[1, -1, 32767, -32768, 65535, 65536, 2147483647, -2147483648, 4294967295, 9223372036854775807, 18446744073709551615, -9223372036854775808]'",
    "'{\"b\": 1, \"aa\": 2, \"a\": {\"x\": [true, false, null]}}'",
    "'[1.0, 1.5, 1e15, 1e14, 123456789012345680, 1e-15, 1e-16, 1.5e300, -0.0, 0.1, 100.0, 1e20]'",
];
/// Only where JSON is binary.
pub(super) const JSON_OPAQUE: &[&str] = &[
    "JSON_ARRAY(CAST('2015-01-15' AS DATE), CAST('2015-01-15 23:24:25.000012' AS DATETIME(6)), CAST('-23:24:25.12' AS TIME(2)), CAST(-12.50 AS DECIMAL(10,2)))",
    "JSON_OBJECT('b', CAST(REPEAT('abc', 60) AS BINARY), 'y', CAST(0x01 AS BINARY))",
    "JSON_ARRAY(REPEAT('long', 30000), 70000, 1)",
    "CAST(CAST(1e0 AS DOUBLE) AS JSON)",
    "JSON_OBJECT(REPEAT('k', 300), JSON_ARRAY(JSON_ARRAY(), JSON_OBJECT()))",
    "JSON_ARRAY(b'101', CAST('00:00:00' AS TIME), 0.10, -0.0e0)",
];

pub(super) const CHANGES: &[&str] = &[
    "UPDATE fr_types.t SET i = 7 WHERE id = 2",
    "UPDATE fr_types.t SET id = 5 WHERE id = 3",
    "DELETE FROM fr_types.t WHERE id = 4",
    "INSERT INTO fr_types.t (id, v) VALUES (4, 'again')",
    "ALTER TABLE fr_types.t ADD COLUMN added VARCHAR(5) CHARACTER SET utf8mb4 DEFAULT 'x' AFTER id",
    "INSERT INTO fr_types.t (id, added) VALUES (100, 'neu')",
    "CREATE TABLE fr_types.u (a VARCHAR(20), b INT, PRIMARY KEY (b, a)) CHARACTER SET latin1",
    "INSERT INTO fr_types.u VALUES ('é', 1), ('b', 2)",
    "UPDATE fr_types.u SET a = 'c' WHERE b = 2",
];

pub(super) type Rows = BTreeMap<Vec<String>, Vec<Option<String>>>;

pub(super) async fn run(c: &mut Connection, sql: &str) {
    c.execute(sql).await.unwrap_or_else(|e| panic!("{e}: {sql}"));
}

/// Applies an event to the contents of each table.
pub(super) fn apply(tables: &mut BTreeMap<String, Rows>, event: &Event) {
    match event {
        Event::Rows(batch) => {
            let rows = tables.entry(batch.schema.name.table.clone()).or_default();
            let columns: Vec<_> = (batch.schema.columns.iter().zip(batch.rows.columns()))
                .map(|(c, a)| text::render(a, &c.data_type).unwrap())
                .collect();
            for i in 0..batch.rows.num_rows() {
                let row: Vec<_> = columns.iter().map(|c| c.iter().nth(i).unwrap().map(str::to_string)).collect();
                let key = batch.schema.key_indexes().into_iter().map(|k| row[k].clone().unwrap()).collect();
                if batch.ops().value(i) == OP_DELETE {
                    rows.remove(&key)
                } else {
                    rows.insert(key, row)
                };
            }
        }
        Event::Suspend { table, error } => panic!("{table} suspended: {error}"),
        Event::Unseen { table, reason, .. } => panic!("{table}: {reason}"),
        Event::Schema(change) => {
            for (table, step) in &change.steps {
                // The one schema change of a table with rows: a column behind the first, with a constant.
                if let freshet_core::TableChange::AddColumn { .. } = step {
                    for row in tables.entry(table.table.clone()).or_default().values_mut() {
                        row.insert(1, Some("x".into()));
                    }
                }
            }
        }
        Event::Commit(_) => {}
    }
}

/// Streams until `end`; gives the contents of each table.
async fn follow(stream: &mut BinlogStream, end: &Position) -> BTreeMap<String, Rows> {
    let mut tables: BTreeMap<String, Rows> = BTreeMap::new();
    loop {
        let event =
            tokio::time::timeout(Duration::from_secs(20), stream.next()).await.expect("the stream hangs").unwrap();
        apply(&mut tables, &event);
        if matches!(&event, Event::Commit(commit) if commit.position == *end) {
            return tables;
        }
    }
}

/// The contents of the tables as the server prints them.
pub(super) async fn printed(source: &MySql, pattern: &TablePattern) -> Vec<(TableSchema, Rows)> {
    let mut tables = Vec::new();
    for table in source.tables(pattern).await.unwrap() {
        let schema = std::sync::Arc::new(table.schema.unwrap());
        let mut rows = source.text(&schema, &KeyRange::default()).await.unwrap();
        let mut printed = Rows::new();
        while let Some(batch) = rows.next().await.unwrap() {
            let columns: Vec<_> =
                batch.columns().iter().map(|c| text::render(c, &freshet_core::DataType::TEXT).unwrap()).collect();
            for i in 0..batch.num_rows() {
                let row: Vec<_> = columns.iter().map(|c| c.iter().nth(i).unwrap().map(str::to_string)).collect();
                let key = schema.key_indexes().into_iter().map(|k| row[k].clone().unwrap()).collect();
                printed.insert(key, row);
            }
        }
        tables.push((schema.as_ref().clone(), printed));
    }
    tables
}

#[tokio::test]
async fn stream_equals_what_the_server_prints() {
    for o in servers("stream_equals_what_the_server_prints") {
        stream_equals_what_the_server_prints_on(o).await;
    }
}

async fn stream_equals_what_the_server_prints_on(o: Options) {
    let mut c = Connection::connect(&o).await.unwrap();
    let source =
        MySql::new(&format!("mysql://{}:{}@{}:{}/fr_types", o.user, o.password.reveal(), o.host, o.port)).unwrap();
    let mut statements = SETUP.split(';').map(str::trim).filter(|s| !s.is_empty());
    for sql in statements.by_ref() {
        run(&mut c, sql).await;
        if sql.starts_with("CREATE TABLE") {
            break;
        }
    }
    let pattern = TablePattern::parse("fr_types.*", None).unwrap();
    let start = source.begin(&pattern).await.unwrap();
    let tables: Vec<_> = start.tables.iter().map(|t| std::sync::Arc::new(t.schema.clone().unwrap())).collect();
    assert_eq!(tables.len(), 1);
    for sql in statements {
        run(&mut c, sql).await;
    }
    let binary = c.server.flavour == crate::mysql::wire::Flavour::MySql;
    for (i, json) in JSON.iter().chain(JSON_OPAQUE.iter().filter(|_| binary)).enumerate() {
        run(&mut c, &format!("INSERT INTO fr_types.t (id, j) VALUES ({}, {json})", 10 + i)).await;
    }
    if !binary {
        run(&mut c, "SET GLOBAL log_bin_compress = 1").await;
        run(&mut c, "INSERT INTO fr_types.t (id, lt) VALUES (60, REPEAT('compress', 1000))").await;
        run(&mut c, "UPDATE fr_types.t SET lt = REPEAT('compressed', 1000) WHERE id = 60").await;
        run(&mut c, "SET GLOBAL log_bin_compress = 0").await;
    }
    run(&mut c, "FLUSH BINARY LOGS").await;
    for sql in CHANGES {
        run(&mut c, sql).await;
    }
    let end = source.end(None).await.unwrap().position;

    let request = ChangesRequest {
        tables,
        pattern,
        from: start.low.clone(),
        stop: Some(end.clone()),
        spool: None,
        lane: 0,
        watched: Vec::new(),
    };
    let connection = Connection::connect(&o).await.unwrap();
    let mut stream = open(connection, &o, &request, StreamOptions::new(4_000_001)).await.unwrap();
    let streamed = follow(&mut stream, &end).await;

    let now = printed(&source, &request.pattern).await;
    assert_eq!(now.len(), 2);
    for (schema, printed) in now {
        let got = &streamed[&schema.name.table];
        assert_eq!(got.keys().collect::<Vec<_>>(), printed.keys().collect::<Vec<_>>(), "{}", schema.name);
        for (key, row) in &printed {
            for (i, column) in schema.columns.iter().enumerate() {
                assert_eq!(
                    got[key][i], row[i],
                    "table {} row {key:?} column {} ({})",
                    schema.name, column.name, column.source_type
                );
            }
        }
    }

    // By file and offset the same comes.
    let place = request.from.commit.split(' ').next().unwrap();
    let request = ChangesRequest { from: Position::at(place), ..request };
    let mut again =
        open(Connection::connect(&o).await.unwrap(), &o, &request, StreamOptions::new(4_000_002)).await.unwrap();
    assert!(follow(&mut again, &end).await == streamed);

    // A log that is not there.
    let request = ChangesRequest { from: Position::at("no-such-file.000001:4"), ..request };
    let mut none =
        open(Connection::connect(&o).await.unwrap(), &o, &request, StreamOptions::new(4_000_003)).await.unwrap();
    let error = none.next().await.unwrap_err();
    assert_eq!(error.kind, freshet_core::ErrorKind::SourceState, "{error}");
}
