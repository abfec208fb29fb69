//! Every column type at its limits: copied, streamed, and both again after a restart.

use fastrand::Rng;
use freshet_tests::compare::assert_equal;
use freshet_tests::freshet::{Sync, prepare_mark};
use freshet_tests::source::{Flavour, Source};

/// Column name, type, and values as SQL literals.
const TYPES: &[(&str, &str, &[&str])] = &[
    ("t8", "TINYINT", &["-128", "127", "0"]),
    ("t8u", "TINYINT UNSIGNED", &["0", "255"]),
    ("t8b", "TINYINT(1)", &["0", "1", "2"]),
    ("t16", "SMALLINT", &["-32768", "32767"]),
    ("t16u", "SMALLINT UNSIGNED", &["65535", "0"]),
    ("t24", "MEDIUMINT", &["-8388608", "8388607"]),
    ("t24u", "MEDIUMINT UNSIGNED", &["16777215", "8388608"]),
    ("t32", "INT", &["-2147483648", "2147483647"]),
    ("t32u", "INT UNSIGNED ZEROFILL", &["4294967295", "7"]),
    ("t64", "BIGINT", &["-9223372036854775808", "9223372036854775807"]),
    ("t64u", "BIGINT UNSIGNED", &["18446744073709551615", "9223372036854775808"]),
    ("b1", "BIT(1)", &["b'0'", "b'1'"]),
    ("b7", "BIT(7)", &["b'1010101'", "b'0'"]),
    ("b64", "BIT(64)", &["0xFFFFFFFFFFFFFFFF", "b'1'", "0x8000000000000000"]),
    ("d1", "DECIMAL(1,0)", &["-9", "9", "0"]),
    ("d9", "DECIMAL(9,9)", &["0.123456789", "-0.999999999"]),
    ("d10", "DECIMAL(10,2)", &["-12345678.90", "0.01", "-0.01"]),
    ("d38", "DECIMAL(38,18)", &["99999999999999999999.999999999999999999", "-1"]),
    (
        "d65",
        "DECIMAL(65,30)",
        &["99999999999999999999999999999999999.999999999999999999999999999999", "-0.000000000000000000000000000001"],
    ),
    ("f", "FLOAT", &["1.5", "-3.402823e38", "1e-45", "0.1", "16777216"]),
    ("db", "DOUBLE", &["0.1", "-1.7976931348623157e308", "5e-324", "123456789012345680", "1e15"]),
    ("dt", "DATE", &["'2024-02-29'", "'0001-01-01'", "'9999-12-31'", "'1969-12-31'"]),
    ("dt0", "DATETIME", &["'2024-02-29 23:59:59'", "'0001-01-01 00:00:00'", "'9999-12-31 23:59:59'"]),
    ("dt1", "DATETIME(1)", &["'2024-02-29 23:59:59.9'"]),
    ("dt3", "DATETIME(3)", &["'1969-12-31 23:59:59.999'"]),
    ("dt6", "DATETIME(6)", &["'2024-02-29 23:59:59.000001'", "'9999-12-31 23:59:59.999999'"]),
    ("ts0", "TIMESTAMP NULL", &["'1970-01-01 00:00:01'", "'2038-01-19 03:14:07'", "'2024-03-31 01:30:00'"]),
    ("ts2", "TIMESTAMP(2) NULL", &["'2024-10-27 01:30:00.99'"]),
    ("ts6", "TIMESTAMP(6) NULL", &["'2024-06-01 12:00:00.000001'", "'2038-01-19 03:14:07.999999'"]),
    ("tm0", "TIME", &["'-838:59:59'", "'838:59:59'", "'00:00:00'", "'-00:00:01'"]),
    ("tm3", "TIME(3)", &["'-00:00:00.001'", "'23:59:59.999'"]),
    ("tm6", "TIME(6)", &["'100:00:00.000001'", "'-12:34:56.654321'"]),
    ("y", "YEAR", &["1901", "2155", "0"]),
    ("c", "CHAR(10)", &["'x'", "''", "'0123456789'", "'ends  '"]),
    ("cl", "CHAR(10) CHARACTER SET latin1", &["'é€ÿ'", "''"]),
    ("cb", "CHAR(5) COLLATE utf8mb4_bin", &["'日本語'", "'🦀'"]),
    ("v", "VARCHAR(200)", &["'it''s'", "'back\\\\slash\\n'", "'🦀 naïve'", "'trailing  '"]),
    ("vl", "VARCHAR(200) CHARACTER SET latin1", &["'naïve €'", "REPEAT('ü', 200)"]),
    ("v3", "VARCHAR(20) CHARACTER SET ascii", &["'plain'"]),
    ("tt", "TINYTEXT", &["'tiny'", "REPEAT('a', 255)"]),
    ("tx", "TEXT", &["REPEAT('日本', 2000)", "''"]),
    ("tl", "TEXT CHARACTER SET latin1", &["'Größe'"]),
    ("tm", "MEDIUMTEXT", &["REPEAT('0123456789', 10000)"]),
    ("lt", "LONGTEXT", &["REPEAT('x', 300000)", "'short'"]),
    ("bi", "BINARY(8)", &["x'00'", "x'0102030405060708'", "x'FF00'", "''"]),
    ("vb", "VARBINARY(300)", &["x'00FF'", "REPEAT(x'00', 300)", "''"]),
    ("tb", "TINYBLOB", &["x'DEADBEEF'"]),
    ("bl", "BLOB", &["REPEAT(x'FE', 60000)", "''"]),
    ("mb", "MEDIUMBLOB", &["REPEAT(x'00FF', 40000)"]),
    ("lb", "LONGBLOB", &["x'80'", "REPEAT(x'AB', 200000)"]),
    ("en", "ENUM('a','b','with space','it''s','ü')", &["'a'", "'it''s'", "'ü'"]),
    ("se", "SET('a','b','c','ü')", &["''", "'a,c'", "'a,b,c,ü'"]),
    (
        "js",
        "JSON",
        &[
            "'null'",
            "'true'",
            "'-1.5'",
            "'18446744073709551615'",
            "'\"text \\\\u00fc\"'",
            "'[]'",
            "'{}'",
            "'[1, 2.50, \"x\", null, {\"a\": [true, false]}]'",
            "'{\"b\": 1, \"a\": {\"deep\": [1, [2, [3]]]}, \"🦀\": \"\"}'",
            "CONCAT('{\"long\": \"', REPEAT('y', 70000), '\"}')",
        ],
    ),
];

/// Types that only MySQL's JSON functions can make.
const MYSQL_JSON: &[&str] = &[
    "JSON_OBJECT('d', CAST('2024-02-29' AS DATE), 't', CAST('-12:34:56.5' AS TIME(6)))",
    "JSON_ARRAY(CAST('2024-02-29 01:02:03.000004' AS DATETIME(6)), CAST(1.250 AS DECIMAL(10,3)), 1e300, 1.0)",
    "JSON_ARRAY(CAST(x'00FF' AS BINARY(2)), 4294967296, -32769, 32768, 65536)",
];

fn create(database: &str, table: &str) -> String {
    let columns: Vec<String> = TYPES.iter().map(|(name, ty, _)| format!("{name} {ty}")).collect();
    format!("CREATE TABLE {database}.{table} (id INT NOT NULL PRIMARY KEY, {})", columns.join(", "))
}

/// Rows that hold each value of each type once, and one that is all NULL.
fn inserts(database: &str, table: &str, first: usize, flavour: Flavour) -> String {
    let longest = TYPES.iter().map(|(_, _, values)| values.len()).max().unwrap_or(0);
    let mut statements = Vec::new();
    for row in 0..longest {
        let values: Vec<&str> = TYPES.iter().map(|(_, _, values)| values[row % values.len()]).collect();
        statements.push(format!("INSERT INTO {database}.{table} VALUES ({}, {})", first + row, values.join(", ")));
    }
    statements.push(format!("INSERT INTO {database}.{table} (id) VALUES ({})", first + 90));
    if flavour == Flavour::MySql {
        for (i, json) in MYSQL_JSON.iter().enumerate() {
            statements.push(format!("INSERT INTO {database}.{table} (id, js) VALUES ({}, {json})", first + 91 + i));
        }
    }
    statements.join(";\n")
}

/// Limits of every type, copied and streamed, then updated and deleted.
pub(crate) async fn every_type(source: Source) {
    let _turn = source.shared().await;
    let db = source.database("types").await;
    prepare_mark(&source, &db).await;
    source.run(&create(&db, "copied")).await;
    source.run(&create(&db, "streamed")).await;
    source.run(&inserts(&db, "copied", 1, source.flavour)).await;

    let mut sync = Sync::start(&source, &db);
    sync.caught_up(&source, &db).await;
    let (mut theirs, mut ours) = (source.connect().await, sync.connect().await);
    assert_equal(&mut theirs, &mut ours, &db).await;

    source.run(&inserts(&db, "streamed", 1, source.flavour)).await;
    source.run(&inserts(&db, "copied", 1001, source.flavour)).await;
    // Another session's time zone changes nothing: the log holds instants.
    source.run(&format!("SET time_zone = '-08:00';\nINSERT INTO {db}.streamed (id, ts0, ts6) VALUES (500, '2024-01-01 00:00:00', '2024-01-01 00:00:00.5')")).await;
    sync.caught_up(&source, &db).await;
    assert_equal(&mut theirs, &mut ours, &db).await;

    // From every row to the next one's values, then to NULL, then away.
    let assignments: Vec<String> = TYPES.iter().map(|(name, _, values)| format!("{name} = {}", values[0])).collect();
    source.run(&format!("UPDATE {db}.streamed SET {} WHERE id % 2 = 0", assignments.join(", "))).await;
    let nulls: Vec<String> = TYPES.iter().map(|(name, ..)| format!("{name} = NULL")).collect();
    source.run(&format!("UPDATE {db}.copied SET {} WHERE id % 3 = 0", nulls.join(", "))).await;
    source.run(&format!("DELETE FROM {db}.copied WHERE id % 5 = 0")).await;
    sync.kill();
    sync.spawn();
    sync.caught_up(&source, &db).await;
    let mut ours = sync.connect().await;
    assert_equal(&mut theirs, &mut ours, &db).await;

    let verified = sync.command(&["verify", "job", "--json"]);
    assert_eq!(verified.code, 0, "{verified:?}");
}

/// Numbers, times and bytes drawn at random; the copy and the stream must agree on each.
pub(crate) async fn random_values(source: Source) {
    const COLUMNS: &str = "(id INT NOT NULL PRIMARY KEY, i BIGINT, u BIGINT UNSIGNED, d DECIMAL(30,10), f FLOAT, \
        db DOUBLE, dt DATETIME(6), ts TIMESTAMP(6) NULL, tm TIME(6), b VARBINARY(64), s VARCHAR(64), bits BIT(33), \
        e ENUM('x','y','z'), st SET('p','q','r','s'))";
    let _turn = source.shared().await;
    let db = source.database("random").await;
    prepare_mark(&source, &db).await;
    source.run(&format!("CREATE TABLE {db}.copied {COLUMNS};\nCREATE TABLE {db}.streamed {COLUMNS}")).await;
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = Rng::with_seed(seed);
    let rows: Vec<String> = (0..2000).map(|id| random_row(id, &mut rng)).collect();
    let insert = |table: &str| -> String {
        let statements = rows.chunks(200).map(|r| format!("INSERT INTO {db}.{table} VALUES {}", r.join(", ")));
        statements.collect::<Vec<_>>().join(";\n")
    };
    source.run(&insert("copied")).await;
    let mut sync = Sync::start(&source, &db);
    sync.caught_up(&source, &db).await;
    source.run(&insert("streamed")).await;
    sync.caught_up(&source, &db).await;
    assert_equal(&mut source.connect().await, &mut sync.connect().await, &db).await;
}

fn random_row(id: u32, rng: &mut Rng) -> String {
    let day = |rng: &mut Rng| format!("{:02}-{:02}", rng.u8(1..13), rng.u8(1..29));
    let clock = |rng: &mut Rng| format!("{:02}:{:02}.{:06}", rng.u8(0..60), rng.u8(0..60), rng.u32(0..1_000_000));
    let bytes: String = (0..rng.usize(0..64)).map(|_| format!("{:02x}", rng.u8(..))).collect();
    let text: String =
        (0..rng.usize(0..60)).map(|_| rng.char(' '..'\u{2fff}')).filter(|c| !"'\\".contains(*c)).collect();
    let set: Vec<&str> = ["p", "q", "r", "s"].into_iter().filter(|_| rng.bool()).collect();
    format!(
        "({id}, {}, {}, {}.{:010}, {:e}, {:e}, '{:04}-{} {:02}:{}', '{:04}-{} {:02}:{}', '{}{}:{}', x'{bytes}', '{text}', {}, {}, '{}')",
        rng.i64(..),
        rng.u64(..),
        rng.i64(..),
        rng.u64(0..10_000_000_000),
        f64::from(rng.f32() - 0.5) * 10f64.powi(rng.i32(-30..30)),
        (rng.f64() - 0.5) * 10f64.powi(rng.i32(-300..300)),
        rng.u16(1..10_000),
        day(rng),
        rng.u8(0..24),
        clock(rng),
        rng.u16(1971..2038),
        day(rng),
        rng.u8(0..24),
        clock(rng),
        if rng.bool() { "-" } else { "" },
        rng.u16(0..838),
        clock(rng),
        rng.u64(..1 << 33),
        rng.u8(1..4),
        set.join(","),
    )
}
