//! The MySQL source against real servers: `FRESHET_TEST_MARIADB` and `FRESHET_TEST_MYSQL` name them
//! (`mysql://root:secret@127.0.0.1:3306/`), `cargo xtask test` starts them. Each test works in databases of its own.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // test code, though not marked as such

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use freshet_connect::mysql::wire::{Connection, Flavour, Options};
use freshet_connect::mysql::{Address, MySql};
use freshet_core::schema::quote_name;
use freshet_core::{
    BatchStream, ChangesRequest, Check, DefaultValue, Discovered, ErrorKind, Event, KeyRange, Position, Source, Split,
    TablePattern, TableSchema, Verdict,
};

/// The URLs of the servers that there are; says so for each that is missing.
fn servers(test: &str) -> Vec<String> {
    let named = |name: &str| match std::env::var(name) {
        Ok(url) => Some(url.trim_end_matches('/').to_string()),
        Err(_) => {
            println!("SKIPPED {test}: no {name}");
            None
        }
    };
    ["FRESHET_TEST_MARIADB", "FRESHET_TEST_MYSQL"].into_iter().filter_map(named).collect()
}

/// A database of its own for a test, and the source that reads it.
struct Bench {
    c: Connection,
    source: MySql,
    database: String,
}

impl Bench {
    async fn new(url: &str, database: &str) -> Bench {
        let options: Options = Address::parse(url).unwrap().connect;
        let mut c = Connection::connect(&options).await.unwrap();
        c.execute("SET NAMES utf8mb4, sql_mode = '', time_zone = '+00:00'").await.unwrap();
        c.execute(&format!("DROP DATABASE IF EXISTS {}", quote_name(database))).await.unwrap();
        c.execute(&format!("CREATE DATABASE {} CHARACTER SET utf8mb4", quote_name(database))).await.unwrap();
        c.execute(&format!("USE {}", quote_name(database))).await.unwrap();
        Bench { c, source: MySql::new(url).unwrap(), database: database.to_string() }
    }

    async fn run(&mut self, statements: &[&str]) {
        for sql in statements {
            self.c.execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
        }
    }

    fn pattern(&self) -> TablePattern {
        TablePattern::database(&self.database)
    }

    async fn tables(&self) -> BTreeMap<String, Discovered> {
        let found = self.source.tables(&self.pattern()).await.unwrap();
        found.into_iter().map(|d| (d.name.table.clone(), d)).collect()
    }

    async fn schema(&self, table: &str) -> Arc<TableSchema> {
        Arc::new(self.tables().await.remove(table).unwrap().schema.unwrap())
    }

    /// All rows of a table as the copy reads them, in splits of about `rows`.
    async fn copy(&self, table: &str, rows: u64) -> (Vec<Split>, Vec<RecordBatch>) {
        let start = self.source.begin(&self.pattern()).await.unwrap();
        let found = start.tables.into_iter().find(|d| d.name.table == table).unwrap();
        let schema = Arc::new(found.schema.unwrap());
        let splits = self.source.splits(&schema, rows).await.unwrap();
        let mut batches = Vec::new();
        for split in &splits {
            batches.extend(all(self.source.read(&schema, split, &start.low).await.unwrap()).await);
        }
        (splits, batches)
    }
}

async fn all(mut stream: Box<dyn BatchStream>) -> Vec<RecordBatch> {
    let mut batches = Vec::new();
    while let Some(batch) = stream.next().await.unwrap() {
        batches.push(batch);
    }
    batches
}

/// Rows as canonical text.
fn lines(batches: &[RecordBatch], schema: Option<&TableSchema>) -> Vec<String> {
    let mut out = Vec::new();
    for batch in batches {
        let columns: Vec<_> = (0..batch.num_columns())
            .map(|i| match schema {
                Some(s) => freshet_core::text::render(batch.column(i), &s.columns[i].data_type).unwrap(),
                None => batch.column(i).as_string::<i32>().clone(),
            })
            .collect();
        for row in 0..batch.num_rows() {
            let cells = columns.iter().map(|c| if c.is_null(row) { "NULL" } else { c.value(row) });
            out.push(cells.collect::<Vec<_>>().join("|"));
        }
    }
    out
}

/// Every type, with values at their edges; the same for both flavours.
const ALL_TYPES: &str = "CREATE TABLE types (
    id INT UNSIGNED NOT NULL PRIMARY KEY,
    ti TINYINT, tiu TINYINT(3) UNSIGNED ZEROFILL, si SMALLINT, siu SMALLINT UNSIGNED, mi MEDIUMINT, miu MEDIUMINT UNSIGNED,
    i INT, iu INT UNSIGNED, bi BIGINT, biu BIGINT UNSIGNED, b1 BIT(1), b9 BIT(9), b64 BIT(64),
    d10 DECIMAL(10,2), d38 DECIMAL(38,10), d65 DECIMAL(65,30), dz DECIMAL(8,3) UNSIGNED ZEROFILL,
    f FLOAT, fm FLOAT(7,4), db DOUBLE, dm DOUBLE(10,2),
    da DATE, dt DATETIME, dt3 DATETIME(3), dt6 DATETIME(6), ts TIMESTAMP NULL, ts6 TIMESTAMP(6) NULL,
    t TIME, t2 TIME(2), t6 TIME(6), y YEAR,
    c CHAR(5), cl CHAR(5) CHARACTER SET latin1, v VARCHAR(20), vl VARCHAR(20) CHARACTER SET latin1, v3 VARCHAR(20) CHARACTER SET utf8mb3,
    va VARCHAR(20) CHARACTER SET ascii, tx TEXT, txl MEDIUMTEXT CHARACTER SET latin1, tt TINYTEXT, lt LONGTEXT,
    bn BINARY(5), vb VARBINARY(20), bb BLOB, lb LONGBLOB,
    e ENUM('small','it''s','ü','') , s SET('a','b','ç'), j JSON)";

const ALL_VALUES: [&str; 5] = [
    "INSERT INTO types (id) VALUES (0)",
    "INSERT INTO types VALUES (1, -128, 255, -32768, 65535, -8388608, 16777215, -2147483648, 4294967295,
        -9223372036854775808, 18446744073709551615, b'1', b'100000001', 18446744073709551615,
        -99999999.99, -1234567890123456789012345678.0123456789, -99999999999999999999999999999999999.999999999999999999999999999999, 12.5,
        -3.4028234e38, -123.4567, -1.7976931348623157e308, -12345678.91,
        '1000-01-01', '1000-01-01 00:00:00', '1000-01-01 00:00:00.001', '1000-01-01 00:00:00.000001', '1970-01-01 00:00:01', '1970-01-01 00:00:01.000001',
        '-838:59:59', '-00:00:00.01', '-00:00:00.000001', 1901,
        'a  ', 'é€', ' x ', 'Ää€ß', 'ж', 'plain', 'text \\n\\0 😀', 'ÿ€', 'tiny', '',
        'ab', x'00FF00', x'0000', x'FF00', 'small', 'a,ç', '{\"b\": [1, 2.5, null, true], \"a\": \"ü\\\\n\"}')",
    "INSERT INTO types VALUES (2, 127, 0, 32767, 0, 8388607, 0, 2147483647, 0, 9223372036854775807, 0, b'0', 0, 0,
        99999999.99, 0.0000000001, 0.000000000000000000000000000001, 0,
        1.17549435e-38, 0.0001, 2.2250738585072014e-308, 0.01,
        '9999-12-31', '9999-12-31 23:59:59', '9999-12-31 23:59:59.999', '9999-12-31 23:59:59.999999', '2038-01-19 03:14:07', '2038-01-19 03:14:07.999999',
        '838:59:59', '838:59:58.99', '838:59:58.999999', 2155,
        '', '', '', '', '', '', '', '', '', 'long', '', '', '', '', 'ü', '', '[]')",
    "INSERT INTO types (id, f, db, e, s, y, t, j) VALUES (3, -0e0, -0e0, 'it''s', 'b', 0, '-00:00:01', '\"text\"')",
    "INSERT INTO types (id, f, db, e, s, y, t6, j) VALUES (4294967295, 0.1, 0.1, '', 'a,b,ç', 1970, '00:00:00.5', '-1.5e300')",
];

#[tokio::test]
async fn every_type_as_text_and_as_values() {
    for url in servers("every_type_as_text_and_as_values") {
        let mut b = Bench::new(&url, "live_types").await;
        b.run(&[ALL_TYPES]).await;
        b.run(&ALL_VALUES).await;
        let schema = b.schema("types").await;
        let (_, batches) = b.copy("types", 1000).await;
        let copied = lines(&batches, Some(&schema));
        let text = lines(&all(b.source.text(&schema, &KeyRange::default()).await.unwrap()).await, None);
        assert_eq!(copied.len(), 5);
        for (a, b) in copied.iter().zip(&text) {
            for ((x, y), column) in a.split('|').zip(b.split('|')).zip(&schema.columns) {
                assert_eq!(x, y, "{}", column.name);
            }
        }
        let edge: Vec<&str> = copied[1].split('|').collect();
        for (column, want) in [
            ("ti", "-128"),
            ("tiu", "255"),
            ("bi", "-9223372036854775808"),
            ("biu", "18446744073709551615"),
            ("b1", "1"),
            ("b9", "257"),
            ("d65", "-99999999999999999999999999999999999.999999999999999999999999999999"),
            ("dz", "12.500"),
            ("f", "-3.4028234663852886e38"),
            ("db", "-1.7976931348623157e308"),
            ("dt6", "1000-01-01 00:00:00.000001"),
            ("ts6", "1970-01-01 00:00:01.000001"),
            ("t", "-838:59:59"),
            ("t6", "-00:00:00.000001"),
            ("c", "a"),
            ("cl", "é€"),
            ("vl", "Ää€ß"),
            ("tx", "text \n\0 😀"),
            ("bn", "6162000000"),
            ("vb", "00FF00"),
            ("e", "small"),
            ("s", "a,ç"),
        ] {
            assert_eq!(edge[schema.index_of(column).unwrap()], want, "{column}");
        }
    }
}

/// Follows the log from `from` until its end as it is now; gives each table's rows as upserts and deletes left them.
async fn follow(
    b: &Bench,
    tables: Vec<Arc<TableSchema>>,
    from: &Position,
) -> BTreeMap<String, BTreeMap<String, String>> {
    let end = b.source.end(None).await.unwrap().position;
    let request = ChangesRequest {
        tables,
        pattern: b.pattern(),
        from: from.clone(),
        stop: None,
        spool: None,
        lane: 0,
        watched: Vec::new(),
    };
    let mut stream = b.source.changes(request).await.unwrap();
    let mut out = BTreeMap::<String, BTreeMap<String, String>>::new();
    loop {
        match tokio::time::timeout(std::time::Duration::from_secs(20), stream.next()).await.unwrap().unwrap() {
            Event::Rows(batch) => {
                let rows = out.entry(batch.schema.name.table.clone()).or_default();
                let text = lines(
                    &[batch.rows.project(&(0..batch.schema.columns.len()).collect::<Vec<_>>()).unwrap()],
                    Some(&batch.schema),
                );
                for (line, op) in text.into_iter().zip(batch.ops().values()) {
                    let key = line.split('|').next().unwrap().to_string();
                    match op {
                        0 => rows.insert(key, line),
                        _ => rows.remove(&key),
                    };
                }
            }
            Event::Schema(_) => {}
            Event::Suspend { table, error } => panic!("{table}: {error}"),
            Event::Unseen { table, reason, .. } => panic!("{table}: {reason}"),
            Event::Commit(commit) => {
                if b.source.compare(&commit.position, &end).is_none_or(|o| o.is_ge()) {
                    return out;
                }
            }
        }
    }
}

#[tokio::test]
async fn copy_and_stream_give_identical_values() {
    for url in servers("copy_and_stream_give_identical_values") {
        let mut b = Bench::new(&url, "live_same").await;
        b.run(&[ALL_TYPES]).await;
        let start = b.source.begin(&b.pattern()).await.unwrap();
        let schema = Arc::new(start.tables[0].schema.clone().unwrap());
        b.run(&ALL_VALUES).await;
        // Random values: what one way rounds, cuts or pads, the other must as well.
        let mut r = fastrand::Rng::with_seed(11);
        for id in 10..400_u32 {
            let (f, d) = (f32::from_bits(r.u32(..)), f64::from_bits(r.u64(..)));
            let (f, d) = (if f.is_finite() { f } else { 0.1 }, if d.is_finite() { d } else { 0.1 });
            let hex: String = (0..r.usize(0..6)).map(|_| format!("{:02x}", [0, r.u8(..)][r.usize(0..2)])).collect();
            let word: String = (0..r.usize(0..6)).map(|_| ['a', 'é', '€', ' ', 'Z', 'ß'][r.usize(0..6)]).collect();
            let (micros, digits) = (r.u32(0..1_000_000), r.u64(..));
            b.run(&[&format!(
                "INSERT INTO types (id, i, biu, b9, b64, d10, d38, d65, f, fm, db, dm, dt3, dt6, ts6, t2, t6, c, cl, v, vl, tx, bn, vb, e, s, j) VALUES \
                 ({id}, {}, {digits}, {}, {digits}, {}.{:02}, {digits}.{micros}, -{digits}.{digits}, {:e}, {}, {d:e}, {}, '2024-02-29 01:02:03.{micros:06}', \
                 '1969-12-31 23:59:59.{micros:06}', '2001-09-09 01:46:40.{micros:06}', '-0{}:00:00.{micros:06}', '{}:59:59.{micros:06}', '{word}', '{word}', '{word}', '{word}', '{word}', \
                 x'{hex}', x'{hex}', {}, {}, '{{\"k\": [{}, {}, \"{word}\", {{\"n\": {digits}}}], \"{word}\": -{micros}}}')",
                r.i32(..), r.u16(0..512), r.i32(-9_999_999..9_999_999), r.u8(0..100), f64::from(f), r.f32() * 100.0, r.f64() * 1e6, r.u8(0..9),
                r.u16(0..838), r.u8(0..5), r.u8(0..8), r.i32(..), r.f32(),
            )])
            .await;
        }
        b.run(&[
            "UPDATE types SET v = CONCAT(v, '!'), id = id + 1000 WHERE id BETWEEN 100 AND 150",
            "DELETE FROM types WHERE id BETWEEN 20 AND 30",
        ])
        .await;
        let streamed = follow(&b, vec![schema.clone()], &start.low).await.remove("types").unwrap();
        let copied = lines(&b.copy("types", 100).await.1, Some(&schema));
        assert_eq!(copied.len(), streamed.len());
        for line in &copied {
            let other = &streamed[line.split('|').next().unwrap()];
            if line != other {
                let differs = line.split('|').zip(other.split('|')).zip(&schema.columns).find(|((x, y), _)| x != y);
                let ((x, y), column) = differs.unwrap();
                panic!("{}: copied {x:?}, streamed {y:?}", column.name);
            }
        }
    }
}

#[tokio::test]
async fn floats_keep_every_bit() {
    for url in servers("floats_keep_every_bit") {
        let mut b = Bench::new(&url, "live_floats").await;
        b.run(&["CREATE TABLE f (id INT PRIMARY KEY, f FLOAT, d DOUBLE, m FLOAT(10,3), w DOUBLE(20,6))"]).await;
        let mut seed = fastrand::Rng::with_seed(7);
        let mut want = Vec::new();
        for group in 0..20 {
            let mut values = Vec::new();
            for id in group * 100..group * 100 + 100 {
                let f = loop {
                    let f = f32::from_bits(seed.u32(..));
                    if f.is_finite() {
                        break f;
                    }
                };
                let d = loop {
                    let d = f64::from_bits(seed.u64(..));
                    if d.is_finite() {
                        break d;
                    }
                };
                let m = seed.f32() * 1000.0;
                let w = seed.f64() * 1e9;
                values.push(format!("({id}, {:e}, {d:e}, {m}, {w})", f64::from(f)));
                want.push((f, d));
            }
            b.run(&[&format!("INSERT INTO f VALUES {}", values.join(", "))]).await;
        }
        let (_, batches) = b.copy("f", 10_000).await;
        let rows = arrow::compute::concat_batches(&batches[0].schema(), &batches).unwrap();
        let f = rows.column(1).as_primitive::<arrow::datatypes::Float32Type>();
        let d = rows.column(2).as_primitive::<arrow::datatypes::Float64Type>();
        for (i, (wf, wd)) in want.iter().enumerate() {
            // Servers flush numbers below the normal range to what they are; bits must be the same all the same.
            assert_eq!(f.value(i).to_bits(), wf.to_bits(), "row {i}: {} {wf}", f.value(i));
            assert_eq!(d.value(i).to_bits(), wd.to_bits(), "row {i}: {} {wd}", d.value(i));
        }
        // What the server itself finds equal must be what we read.
        let schema = b.schema("f").await;
        let text = lines(&all(b.source.text(&schema, &KeyRange::default()).await.unwrap()).await, None);
        assert_eq!(lines(&batches, Some(&schema)), text);
    }
}

#[tokio::test]
async fn splits_hold_every_row_once() {
    for url in servers("splits_hold_every_row_once") {
        let mut b = Bench::new(&url, "live_splits").await;
        b.run(&[
            "CREATE TABLE dense (id INT PRIMARY KEY)",
            "CREATE TABLE sparse (id BIGINT UNSIGNED PRIMARY KEY)",
            "CREATE TABLE words (w VARCHAR(30) CHARACTER SET latin1 COLLATE latin1_german1_ci PRIMARY KEY)",
            "CREATE TABLE pair (a INT, b VARCHAR(20) COLLATE utf8mb4_unicode_ci, c DATETIME(2), PRIMARY KEY (b, c, a))",
            "CREATE TABLE bytes (k VARBINARY(8) PRIMARY KEY)",
            "CREATE TABLE fixed (k BINARY(8) PRIMARY KEY)",
            "CREATE TABLE choice (e ENUM('z','y','x','w'), n TINYINT UNSIGNED, s SET('q','p'), PRIMARY KEY (n, e, s))",
            "CREATE TABLE exact (d DECIMAL(20,5), t TIME(3), ts TIMESTAMP, y YEAR, bi BIT(12), PRIMARY KEY (d, t, ts, y, bi))",
            "CREATE TABLE reals (d DOUBLE PRIMARY KEY)",
            "CREATE TABLE begins (t TEXT, PRIMARY KEY (t(5)))",
            "CREATE TABLE uniq (x INT, a INT NOT NULL, b CHAR(9) NOT NULL, UNIQUE KEY z (x), UNIQUE KEY u (a, b))",
            "CREATE TABLE nothing (id INT PRIMARY KEY)",
        ])
        .await;
        let mut r = fastrand::Rng::with_seed(3);
        let mut fill = Vec::new();
        for i in 0..500_u64 {
            let word: String =
                (0..r.usize(1..12)).map(|_| ['a', 'B', 'ß', 'ü', 'Z', ' ', '\'', '\\', '%'][r.usize(0..9)]).collect();
            let word = word.trim_end().replace('\\', "\\\\").replace('\'', "''");
            let hex: String = (0..r.usize(0..8)).map(|_| format!("{:02x}", r.u8(..))).collect();
            let d = r.i64(-1_000_000..1_000_000);
            fill.extend([
                format!("INSERT IGNORE INTO dense VALUES ({})", i as i64 - 250),
                format!("INSERT IGNORE INTO sparse VALUES ({})", r.u64(..)),
                format!("INSERT IGNORE INTO words VALUES ('{word}')"),
                format!("INSERT IGNORE INTO pair VALUES ({d}, '{word}', '2024-01-01 00:00:0{}.{:02}')", i % 3, i % 100),
                format!("INSERT IGNORE INTO bytes VALUES (x'{hex}')"),
                format!("INSERT IGNORE INTO fixed VALUES (x'{hex}')"),
                format!("INSERT IGNORE INTO choice VALUES ({}, {}, {})", r.u8(0..5), r.u8(..), r.u8(0..4)),
                format!(
                    "INSERT IGNORE INTO exact VALUES ({d}.25, '-0{}:00:00.5', '2024-01-01 00:00:0{}', {}, {})",
                    i % 9,
                    i % 7,
                    2000 + i % 3,
                    i % 4096
                ),
                format!("INSERT IGNORE INTO reals VALUES ({:e})", r.f64()),
                format!("INSERT IGNORE INTO begins VALUES ('{i} {word}')"),
                format!("INSERT IGNORE INTO uniq VALUES (NULL, {}, '{}')", i % 7, i),
            ]);
        }
        b.run(&["BEGIN"]).await;
        b.run(&fill.iter().map(String::as_str).collect::<Vec<_>>()).await;
        b.run(&["COMMIT"]).await;
        for (name, found) in b.tables().await {
            let schema = Arc::new(found.schema.unwrap());
            let (splits, batches) = b.copy(&name, 37).await;
            let copied = lines(&batches, Some(&schema));
            let key: Vec<String> = schema.key.iter().map(|k| format!("`{k}`")).collect();
            let count =
                b.c.query(&format!("SELECT COUNT(*) FROM {name}")).await.unwrap()[0].number::<usize>(0).unwrap();
            assert_eq!(copied.len(), count, "{name}");
            let mut unique = copied.clone();
            unique.sort();
            unique.dedup();
            assert_eq!(unique.len(), count, "{name}: rows twice");
            if !["reals", "begins", "nothing"].contains(&name.as_str()) {
                assert!(splits.len() >= count / 37, "{name}: {} splits of {count} rows", splits.len());
            }
            let text = lines(&all(b.source.text(&schema, &KeyRange::default()).await.unwrap()).await, None);
            assert_eq!(copied, text, "{name}");
            // A bounded split goes by the key's index, without sorting.
            if let Some(split) = splits.get(1) {
                assert!(split.range.from.is_some());
            }
            assert!(!key.is_empty());
        }
        assert_eq!(b.schema("uniq").await.key, ["a", "b"]);
    }
}

#[tokio::test]
async fn text_of_ranges_that_name_the_first_columns_of_a_key() {
    for url in servers("text_of_ranges_that_name_the_first_columns_of_a_key") {
        let mut b = Bench::new(&url, "live_first_columns").await;
        b.run(&["CREATE TABLE t (s VARCHAR(9), d DATE, n INT, PRIMARY KEY (n, d, s))"]).await;
        let row = |i: u32| format!("('s{}', '2024-01-{:02}', {})", i % 3, 1 + i % 5, i / 20);
        let rows: Vec<String> = (0..200).map(row).collect();
        b.run(&[&format!("INSERT IGNORE INTO t VALUES {}", rows.join(", "))]).await;
        let schema = b.schema("t").await;
        let whole = lines(&all(b.source.text(&schema, &KeyRange::default()).await.unwrap()).await, None);
        assert_eq!(whole.len(), 150);
        let bound = |parts: &[&str]| Some(parts.iter().map(|p| (*p).to_string()).collect::<Vec<_>>());
        let bounds =
            [None, bound(&["3"]), bound(&["3", "2024-01-04"]), bound(&["3", "2024-01-04", "s1"]), bound(&["9"])];
        let (mut pieces, mut sizes) = (Vec::new(), Vec::new());
        for (i, from) in bounds.iter().enumerate() {
            let range = KeyRange { from: from.clone(), to: bounds.get(i + 1).cloned().flatten() };
            let piece = lines(&all(b.source.text(&schema, &range).await.unwrap()).await, None);
            sizes.push(piece.len());
            pieces.extend(piece);
        }
        assert_eq!(sizes, [45, 9, 1, 80, 15]);
        assert_eq!(pieces, whole);
    }
}

#[tokio::test]
async fn definitions_and_odd_names() {
    for url in servers("definitions_and_odd_names") {
        let mut b = Bench::new(&url, "live_öдd%_`x").await;
        b.run(&[
            "CREATE TABLE `t%_``1 表` (`id-1` INT AUTO_INCREMENT, `select` VARCHAR(5) NOT NULL DEFAULT 'it''s' COMMENT 'c''ö', \
             n DECIMAL(5,2) DEFAULT 1.5, d DATETIME(3) DEFAULT CURRENT_TIMESTAMP(3) ON UPDATE CURRENT_TIMESTAMP(3), x INT DEFAULT (1+2), \
             b BIT(4) DEFAULT b'101', vb VARBINARY(3) DEFAULT 'AB', e ENUM('a','b') DEFAULT 'b', dd DATE DEFAULT '2020-1-1', z DATE NOT NULL DEFAULT '0000-00-00', \
             g INT AS (x + 1) VIRTUAL, PRIMARY KEY (`select`, `id-1`), KEY (`id-1`)) COMMENT='of ''it'''",
            "CREATE TABLE nokey (a INT, b INT UNIQUE)",
            "CREATE TABLE geo (id INT PRIMARY KEY, g GEOMETRY)",
            "CREATE TABLE gbk (id INT PRIMARY KEY, g VARCHAR(3) CHARACTER SET gbk)",
            "CREATE VIEW v AS SELECT 1",
        ])
        .await;
        let tables = b.tables().await;
        assert_eq!(tables.keys().collect::<Vec<_>>(), ["gbk", "geo", "nokey", "t%_`1 表"]);
        let t = tables["t%_`1 表"].schema.as_ref().unwrap();
        assert_eq!(t.key, ["select", "id-1"]);
        assert_eq!(t.comment, "of 'it'");
        let default = |c: &str| t.column(c).unwrap().default.clone();
        let literal = |s: &str| Some(DefaultValue::Literal(s.into()));
        assert_eq!(default("select"), literal("it's"));
        assert_eq!(t.column("select").unwrap().comment, "c'ö");
        assert_eq!(default("n"), literal("1.50"));
        assert_eq!(default("d"), Some(DefaultValue::CurrentTimestamp(3)));
        assert!(matches!(default("x"), Some(DefaultValue::Expression(_))), "{:?}", default("x"));
        assert_eq!(default("b"), literal("5"));
        assert_eq!(default("vb"), literal("4142"));
        assert_eq!(default("e"), literal("b"));
        assert_eq!(default("dd"), literal("2020-01-01"));
        assert!(matches!(default("z"), Some(DefaultValue::Expression(_))));
        assert_eq!(default("g"), None);
        for (table, why) in [("geo", "geometry"), ("gbk", "gbk")] {
            let e = tables[table].schema.as_ref().unwrap_err();
            assert_eq!(e.kind, ErrorKind::Unsupported);
            assert!(e.line().contains(why) && e.line().contains("column: g"), "{e}");
        }
        let e = b.source.splits(tables["nokey"].schema.as_ref().unwrap(), 10).await.unwrap_err();
        assert!(e.message.contains("has no primary key"), "{e}");
        b.run(&["INSERT INTO `t%_``1 表` (`select`, z) VALUES ('q', '2024-01-01')"]).await;
        assert_eq!(b.copy("t%_`1 表", 10).await.1.iter().map(RecordBatch::num_rows).sum::<usize>(), 1);
        b.run(&["DROP DATABASE `live_öдd%_``x`"]).await;
    }
}

/// The definition that the DDL parser makes of a statement is the one that discovery finds.
#[tokio::test]
async fn statements_and_discovery_agree() {
    use freshet_connect::mysql::ddl::{Context, Parsed, Zone, parse};
    use freshet_connect::mysql::types::Charsets;
    use freshet_core::{TableChange, TableName};
    for url in servers("statements_and_discovery_agree") {
        let mut b = Bench::new(&url, "live_ddl").await;
        let charsets =
            Charsets { server: "latin1".into(), databases: [("live_ddl".to_string(), "utf8mb4".to_string())].into() };
        let mariadb = b.c.server.flavour == Flavour::MariaDb;
        let context = Context {
            default_database: "live_ddl",
            ansi_quotes: false,
            no_backslash_escapes: false,
            charsets: &charsets,
            mariadb,
            lower_case_names: false,
            strict: true,
            zone: Zone::UTC,
        };
        let mut followed = std::collections::HashMap::<TableName, Arc<TableSchema>>::new();
        let types = ALL_TYPES;
        for sql in [
            types,
            "CREATE TABLE u (a TEXT(100), b TEXT(20), c TEXT(70000), d BLOB(100), e NCHAR(3), f NATIONAL VARCHAR(5), g CHAR(3) BYTE, h LONG VARCHAR, i DEC(5), j REAL, \
             k FLOAT(30), l BOOL DEFAULT TRUE, m CHARACTER VARYING(5), n SERIAL, o ENUM('a ','b\\\\c','d\\'e','f\\ng'), p VARCHAR(10) COLLATE latin1_bin, q INT1, r INT8, s DOUBLE PRECISION) CHARSET=latin1 COMMENT 'c'",
            "CREATE TABLE w (a INT NOT NULL, b INT, c INT NOT NULL DEFAULT 7, d DATETIME(2) DEFAULT CURRENT_TIMESTAMP(2), UNIQUE (b), UNIQUE k2 (c), UNIQUE k1 (a, c))",
            "ALTER TABLE w ADD x VARCHAR(5) NOT NULL DEFAULT 'q' COMMENT 'x' AFTER a, MODIFY b BIGINT UNSIGNED FIRST, CHANGE d dd DATETIME(4) NULL, COMMENT 'hey'",
            "ALTER TABLE w RENAME COLUMN x TO y, ALTER COLUMN c DROP DEFAULT, DROP COLUMN dd, ADD COLUMN (p INT, q JSON), ADD r DECIMAL(5,2) NOT NULL FIRST",
            "ALTER TABLE u DROP COLUMN h, MODIFY COLUMN a MEDIUMTEXT CHARACTER SET utf8mb4, ADD t CHAR(5) CHARSET latin1 AFTER b",
            "CREATE TABLE l LIKE u",
            "RENAME TABLE l TO l2, w TO l, l TO w",
        ] {
            b.run(&[sql]).await;
            let Parsed::Changes(steps) = parse(sql, &context, &followed, &b.pattern()) else {
                panic!("{sql}: {:?}", parse(sql, &context, &followed, &b.pattern()))
            };
            for (name, change) in steps {
                match change {
                    TableChange::CreateTable(schema) => drop(followed.insert(name, Arc::new(schema))),
                    change => {
                        let after = followed.remove(&name).unwrap().after(&change).unwrap().unwrap();
                        followed.insert(after.name.clone(), Arc::new(after));
                    }
                }
            }
            let tables = b.tables().await;
            assert_eq!(tables.len(), followed.len());
            for (name, schema) in &followed {
                assert_eq!(tables[&name.table].schema.as_ref().unwrap(), schema.as_ref(), "{sql}");
            }
        }
    }
}

#[tokio::test]
async fn a_changed_table_is_noticed() {
    for url in servers("a_changed_table_is_noticed") {
        let mut b = Bench::new(&url, "live_changed").await;
        b.run(&["CREATE TABLE t (id INT PRIMARY KEY, a INT)", "INSERT INTO t VALUES (1, 2)"]).await;
        let start = b.source.begin(&b.pattern()).await.unwrap();
        let schema = Arc::new(start.tables[0].schema.clone().unwrap());
        let split = Split { number: 0, range: KeyRange::default(), rows: 1 };
        for change in ["ALTER TABLE t MODIFY a BIGINT", "ALTER TABLE t DROP a", "DROP TABLE t"] {
            b.run(&[change]).await;
            let e = b.source.read(&schema, &split, &start.low).await.err().unwrap();
            assert_eq!(e.kind, ErrorKind::Schema, "{change}: {e}");
        }
        let now = b.source.end(Some(&start.low)).await.unwrap();
        assert!(now.bytes_behind.is_some_and(|n| n > 0), "{now:?}");
        assert_eq!(b.source.compare(&start.low, &now.position), Some(std::cmp::Ordering::Less));
    }
}

#[tokio::test]
async fn a_copy_sees_everything_before_its_low_position() {
    for url in servers("a_copy_sees_everything_before_its_low_position") {
        let mut b = Bench::new(&url, "live_low").await;
        b.run(&["CREATE TABLE t (id INT PRIMARY KEY)"]).await;
        let schema = b.schema("t").await;
        let whole = Split { number: 0, range: KeyRange::default(), rows: 1 };
        for n in 1..=30 {
            b.run(&[&format!("INSERT INTO t VALUES ({n})")]).await;
            let start = b.source.begin(&b.pattern()).await.unwrap();
            let read = all(b.source.read(&schema, &whole, &start.low).await.unwrap()).await;
            assert_eq!(read.iter().map(RecordBatch::num_rows).sum::<usize>(), n);
        }
    }
}

#[tokio::test]
async fn zero_dates() {
    for url in servers("zero_dates") {
        let mut b = Bench::new(&url, "live_zero").await;
        b.run(&[
            "SET sql_mode = 'ALLOW_INVALID_DATES'",
            "CREATE TABLE t (id INT PRIMARY KEY, d DATE, dt DATETIME, ts TIMESTAMP NULL)",
            "INSERT INTO t VALUES (1, '0000-00-00', '0000-00-00 00:00:00', '0000-00-00 00:00:00'), (2, '2024-02-31', '2024-00-10', NULL)",
        ])
        .await;
        let start = b.source.begin(&b.pattern()).await.unwrap();
        let schema = Arc::new(start.tables[0].schema.clone().unwrap());
        let split = Split { number: 0, range: KeyRange::default(), rows: 1 };
        let e = b.source.read(&schema, &split, &start.low).await.unwrap().next().await.unwrap_err();
        assert_eq!(e.kind, ErrorKind::Data);
        assert!(e.line().contains("0000-00-00") && e.hint.as_deref().unwrap().contains("zero_dates=null"), "{e}");
        let lenient = MySql::new(&format!("{url}/?zero_dates=null")).unwrap();
        let rows = lines(&all(lenient.read(&schema, &split, &start.low).await.unwrap()).await, Some(&schema));
        assert_eq!(rows, ["1|NULL|NULL|NULL", "2|NULL|NULL|NULL"]);
        assert_eq!(lines(&all(lenient.text(&schema, &KeyRange::default()).await.unwrap()).await, None), rows);
    }
}

#[tokio::test]
async fn check_says_how_to_mend() {
    for url in servers("check_says_how_to_mend") {
        let mut b = Bench::new(&url, "live_check").await;
        b.run(&["CREATE TABLE t (id INT PRIMARY KEY)", "CREATE TABLE nokey (id INT)"]).await;
        let findings = b.source.check(&b.pattern()).await;
        assert!(!findings.iter().any(|f| f.verdict == Verdict::Failed), "{findings:#?}");
        let key = findings.iter().find(|f| f.name == "key").unwrap();
        assert_eq!((key.verdict, key.table.as_deref()), (Verdict::Warning, Some("live_check.nokey")));
        assert!(key.fix.as_deref().unwrap().starts_with("ALTER TABLE"));
        for name in [
            "server",
            "binary log",
            "binlog format",
            "row image",
            "server id",
            "log retention",
            "transaction ids",
            "time zone",
            "grant to stream",
            "log filters",
        ] {
            assert!(findings.iter().any(|f| f.name == name), "{name} in {findings:#?}");
        }

        b.run(&[
            "DROP USER IF EXISTS live_poor@'%'",
            "CREATE USER live_poor@'%' IDENTIFIED BY 'pw'",
            "GRANT INSERT ON live_check.* TO live_poor@'%'",
        ])
        .await;
        let address = Address::parse(&url).unwrap().connect;
        let poor = MySql::new(&format!("mysql://live_poor:pw@{}:{}/", address.host, address.port)).unwrap();
        let findings = poor.check(&b.pattern()).await;
        let failed: Vec<_> =
            findings.iter().filter(|f| f.verdict == Verdict::Failed).map(|f| f.name.as_str()).collect();
        for name in ["grant to stream", "grant to look", "grant to read"] {
            assert!(failed.contains(&name), "{name} in {findings:#?}");
        }
        let wrong = MySql::new(&format!("mysql://nobody:pw@{}:{}/", address.host, address.port)).unwrap();
        let findings = wrong.check(&b.pattern()).await;
        assert_eq!((findings.len(), findings[0].name.as_str()), (1, "connection"));
        b.run(&["DROP USER live_poor@'%'"]).await;
    }
}

#[tokio::test]
async fn several_hundred_tables_at_once() {
    for url in servers("several_hundred_tables_at_once") {
        let mut b = Bench::new(&url, "live_many").await;
        for n in 0..300 {
            b.run(&[&format!("CREATE TABLE t{n} (id INT PRIMARY KEY, a VARCHAR(5), b DATETIME) ENGINE=InnoDB")]).await;
        }
        let tables = b.tables().await;
        assert_eq!(tables.len(), 300);
        assert!(tables.values().all(|t| t.schema.as_ref().is_ok_and(|s| s.key == ["id"])));
        b.run(&["DROP DATABASE live_many"]).await;
    }
}

/// Not a test of speed: prints it. `FRESHET_BENCH_TABLE=db.table cargo test -p freshet-connect copy_speed -- --ignored --nocapture`.
#[tokio::test]
#[ignore = "a measurement"]
async fn copy_speed() {
    let Ok(table) = std::env::var("FRESHET_BENCH_TABLE") else { return };
    for url in servers("copy_speed") {
        let source = MySql::new(&url).unwrap();
        let start = source.begin(&TablePattern::parse(&table, None).unwrap()).await.unwrap();
        let Some(found) = start.tables.into_iter().next() else { continue };
        let schema = Arc::new(found.schema.unwrap());
        let began = std::time::Instant::now();
        let splits = source.splits(&schema, 100_000).await.unwrap();
        println!("{} splits in {:?}", splits.len(), began.elapsed());
        let (mut rows, mut bytes) = (0, 0);
        for split in &splits {
            let mut stream = source.read(&schema, split, &start.low).await.unwrap();
            while let Some(batch) = stream.next().await.unwrap() {
                rows += batch.num_rows();
                bytes += batch.get_array_memory_size();
            }
        }
        let seconds = began.elapsed().as_secs_f64();
        println!("{rows} rows, {} MB in {seconds:.2} s: {:.0} rows/s", bytes >> 20, rows as f64 / seconds);
    }
}
