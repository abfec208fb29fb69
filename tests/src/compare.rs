//! Compares tables of source and target, sharing no code with the product: both sides are read with another client
//! library as the text that the servers send, and brought to one form by column type here.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row, Value};

use crate::quote;
use crate::shape::{Column, Table, tables};

/// Panics unless all base tables of the source's database are in the target's, with equal columns and equal rows.
pub async fn assert_equal(source: &mut Conn, target: &mut Conn, database: &str) {
    let tables: Vec<String> = source
        .exec(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = ? AND table_type = 'BASE TABLE'
             ORDER BY table_name",
            (database,),
        )
        .await
        .unwrap();
    assert!(!tables.is_empty(), "{database} has no tables");
    for table in tables {
        assert_table(source, target, database, &table).await;
    }
}

/// Panics unless this table is equal on both sides, definition and rows; returns its rows.
pub async fn assert_table(source: &mut Conn, target: &mut Conn, database: &str, table: &str) -> usize {
    compare_definition(source, target, database, table).await.unwrap_or_else(|difference| panic!("{difference}"));
    compare_table(source, target, database, table).await.unwrap_or_else(|difference| panic!("{difference}"))
}

/// The number of rows of a table that is equal on both sides.
///
/// # Errors
/// How it differs: the columns, or the first few rows.
pub async fn compare_table(source: &mut Conn, target: &mut Conn, database: &str, table: &str) -> Result<usize, String> {
    let columns = definition(source, database, table).await.columns;
    let name = format!("{}.{}", quote(database), quote(table));
    compare_columns(target, &name, &columns).await?;

    let source_sql = format!("SELECT {} FROM {name}", list(&columns, at_source));
    let target_sql = format!("SELECT {} FROM {name}", list(&columns, |c| quote(&c.name)));
    let theirs = hashes(source, &source_sql, &columns, source_text).await?;
    let ours = hashes(target, &target_sql, &columns, target_text).await?;
    let differs = |key: &&String| theirs.get(*key) != ours.get(*key);
    let mut differing: Vec<&String> = theirs.keys().chain(ours.keys()).filter(differs).collect();
    if differing.is_empty() {
        return Ok(theirs.values().map(|found| found.times).sum());
    }
    differing.sort();
    differing.dedup();
    let count = differing.len();
    differing.truncate(5);
    let their_rows = rows(source, &source_sql, &columns, source_text, &differing).await?;
    let our_rows = rows(target, &target_sql, &columns, target_text, &differing).await?;
    let shown: Vec<String> = differing
        .iter()
        .map(|key| {
            let times = [&theirs, &ours].map(|side| side.get(*key).map_or(0, |found| found.times));
            match times {
                [1, 1] | [_, 0] | [0, _] => show(&columns, key, their_rows.get(*key), our_rows.get(*key)),
                [at_source, at_target] => format!(
                    "  ({}) is there {at_source} times at the source, {at_target} times in the target",
                    readable(key)
                ),
            }
        })
        .collect();
    Err(format!("{name} differs in {count} rows\n{}", shown.join("\n")))
}

/// Panics unless both sides give the same answer to a query whose rows are in order.
pub async fn assert_same_answer(source: &mut Conn, target: &mut Conn, sql: &str) {
    let theirs: Vec<Row> = source.query(sql).await.unwrap_or_else(|e| panic!("{e}\nin: {sql}"));
    let ours: Vec<Row> = target.query(sql).await.unwrap_or_else(|e| panic!("{e}\nin: {sql}"));
    let texts = |rows: Vec<Row>| -> Vec<Vec<Option<String>>> {
        rows.into_iter().map(|r| r.unwrap().into_iter().map(|v| bytes(v).map(text)).collect()).collect()
    };
    assert_eq!(texts(theirs), texts(ours), "source, then target: {sql}");
}

/// Compares the definition of a table with what the warehouse should have made of the source's: types, whether columns
/// may be NULL, defaults, comments of columns and table.
///
/// # Errors
/// What differs.
pub async fn compare_definition(
    source: &mut Conn,
    target: &mut Conn,
    database: &str,
    table: &str,
) -> Result<(), String> {
    let Table { columns, comment, .. } = definition(source, database, table).await;
    let mariadb: Option<bool> = source.query_first("SELECT VERSION() LIKE '%MariaDB%'").await.unwrap();
    let mariadb = mariadb == Some(true);
    let (database, name) = (database.replace('\'', "''"), table.replace('\'', "''"));
    let of_table = format!("table_schema = '{database}' AND table_name = '{name}'");
    let sql = format!(
        "SELECT column_name, column_type, is_nullable, column_default, column_comment
         FROM information_schema.columns WHERE {of_table}"
    );
    type Ours = (String, String, String, Option<String>, String);
    let ours: Vec<Ours> = target.query(&sql).await.map_err(|e| format!("{e}\nin: {sql}"))?;
    let mut differing = Vec::new();
    for column in &columns {
        let Some((_, column_type, nullable, default, comment)) = ours.iter().find(|(n, ..)| *n == column.name) else {
            differing.push(format!("{} is missing", column.name));
            continue;
        };
        let expected = target_types(column);
        if !expected.is_empty() && !expected.iter().any(|e| e.eq_ignore_ascii_case(column_type)) {
            differing.push(format!("{} {} is {column_type}, not {expected:?}", column.name, column.column_type));
        }
        if (nullable == "YES") != column.nullable {
            differing
                .push(format!("{}: the source says nullable {}, the target {nullable}", column.name, column.nullable));
        }
        let wanted = target_default(column, mariadb, column_type);
        if !wanted.is(column, default.as_deref()) {
            differing.push(format!(
                "{} {}: the default at the source is {:?}, so {wanted:?}, in the target {default:?}",
                column.name, column.column_type, column.default
            ));
        }
        if *comment != column.comment {
            differing.push(format!("{}: the comment is {comment:?}, not {:?}", column.name, column.comment));
        }
    }
    let sql = format!("SELECT table_comment FROM information_schema.tables WHERE {of_table}");
    let ours: Option<String> = target.query_first(&sql).await.map_err(|e| format!("{e}\nin: {sql}"))?;
    if ours.as_deref() != Some(comment.as_str()) {
        differing.push(format!("the table's comment is {ours:?}, not {comment:?}"));
    }
    if differing.is_empty() { Ok(()) } else { Err(format!("{database}.{table}: {}", differing.join("; "))) }
}

/// What a column's default should be in the target.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    /// This one.
    Is(String),
    /// None: there is none, or Doris's statements cannot say it.
    Nothing,
    /// This one, or none because it is not known how far a session's time zone was from UTC.
    Perhaps(String),
    /// Only the server knows.
    Unknown,
}

impl Wanted {
    fn is(&self, column: &Column, found: Option<&str>) -> bool {
        match (self, found) {
            (Wanted::Unknown, _) | (Wanted::Nothing | Wanted::Perhaps(_), None) => true,
            (Wanted::Is(wanted) | Wanted::Perhaps(wanted), Some(found)) => {
                canonical(column, wanted) == canonical(column, found)
            }
            (Wanted::Nothing, Some(_)) | (Wanted::Is(_), None) => false,
        }
    }
}

/// The default that a column should have in the target. What Doris's statements cannot express is left out, because every
/// row that is written carries the value: expressions, defaults of JSON and of bytes, dates that do not exist.
fn target_default(column: &Column, mariadb: bool, target_type: &str) -> Wanted {
    let Some(shown) = column.default.as_deref().filter(|_| !column.generated) else { return Wanted::Nothing };
    let kind = column.data_type.as_str();
    let upper = shown.to_uppercase();
    let is_bytes = target_type.to_lowercase().starts_with("varbinary");
    if (mariadb && upper == "NULL") || is_bytes || target_type.eq_ignore_ascii_case("json") {
        return Wanted::Nothing;
    }
    if upper.starts_with("CURRENT_TIMESTAMP") {
        let digits: String = upper.chars().filter(char::is_ascii_digit).collect();
        return match (kind, digits.as_str()) {
            ("datetime" | "timestamp", "" | "0") => Wanted::Is("CURRENT_TIMESTAMP".into()),
            ("datetime" | "timestamp", n) => Wanted::Is(format!("CURRENT_TIMESTAMP({n})")),
            _ => Wanted::Nothing,
        };
    }
    if column.extra.contains("DEFAULT_GENERATED") {
        // An expression; MySQL does not say whether it is one that stands for a constant.
        return Wanted::Unknown;
    }
    let quoted = shown.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\''));
    let literal = match quoted {
        Some(text) if mariadb => unquoted(text),
        // What MariaDB does not quote is a number, bits or an expression.
        None if mariadb && !shown.starts_with("b'") && shown.parse::<f64>().is_err() => return Wanted::Nothing,
        _ => shown.to_string(),
    };
    match kind {
        "date" | "datetime" | "timestamp" if literal.contains("-00") => Wanted::Nothing,
        // MySQL shows it as the session wrote it, whose time zone it does not tell.
        "timestamp" if !mariadb => Wanted::Unknown,
        "timestamp" => Wanted::Perhaps(literal),
        _ => Wanted::Is(literal),
    }
}

/// The text of a literal between its quotes, as MariaDB shows it.
fn unquoted(inside: &str) -> String {
    let mut out = String::new();
    let mut chars = inside.chars();
    while let Some(c) = chars.next() {
        match c {
            '\'' => out.extend(chars.next()),
            '\\' => out.extend(chars.next().map(|c| match c {
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                '0' => '\0',
                'Z' => '\x1a',
                other => other,
            })),
            other => out.push(other),
        }
    }
    out
}

/// One form for each value: numbers without zeros that mean nothing, bits as a number, times without an empty fraction.
fn canonical(column: &Column, text: &str) -> String {
    let plain = |text: &str| {
        let (sign, digits) = text.strip_prefix('-').map_or(("", text), |digits| ("-", digits));
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
        format!("{sign}{}.{fraction}", if whole.is_empty() { "0" } else { whole })
    };
    match column.data_type.as_str() {
        "float" | "double" => text.parse::<f64>().map_or(text.to_string(), |n| format!("{n:e}")),
        "bit" => {
            let bits = text.strip_prefix("b'").and_then(|rest| rest.strip_suffix('\''));
            bits.map_or(text.to_string(), |bits| u64::from_str_radix(bits, 2).unwrap().to_string())
        }
        "tinyint" | "smallint" | "mediumint" | "int" | "bigint" | "decimal" | "year" => plain(text),
        "datetime" | "timestamp" | "time" => match text.split_once('.') {
            Some((whole, fraction)) if fraction.bytes().all(|b| b == b'0') => whole.to_string(),
            _ => text.to_string(),
        },
        _ => text.to_string(),
    }
}

/// What the warehouse may make of a column's type; nothing where that is left to it.
fn target_types(column: &Column) -> Vec<String> {
    let unsigned = column.column_type.contains("unsigned");
    let inside =
        column.column_type.split_once('(').and_then(|(_, rest)| rest.split_once(')')).map(|(inside, _)| inside);
    let digits = inside.unwrap_or("0");
    let one = |name: &str| vec![name.to_string()];
    match (column.data_type.as_str(), unsigned) {
        ("tinyint", false) => one("TINYINT"),
        ("tinyint", true) | ("smallint", false) => one("SMALLINT"),
        ("smallint", true) | ("int" | "mediumint", false) => one("INT"),
        ("int", true) | ("bigint", false) => one("BIGINT"),
        ("bigint", true) => one("LARGEINT"),
        ("decimal", _) => vec![format!("DECIMAL({})", inside.unwrap_or("10,0")), "DECIMAL".into()],
        ("float" | "double" | "date", _) => one(&column.data_type),
        ("datetime", _) => vec![format!("DATETIME({digits})"), "DATETIME".into()],
        ("timestamp", _) => vec![format!("TIMESTAMPTZ({digits})")],
        ("char" | "varchar", _) => {
            let bytes = digits.parse::<u64>().map_or(0, |n| n.max(1) * 4);
            vec![format!("VARCHAR({bytes})"), "STRING".into()]
        }
        ("tinytext", _) => vec!["VARCHAR(1020)".into(), "STRING".into()],
        ("text" | "mediumtext", _) => one("STRING"),
        ("longtext", _) => vec!["STRING".into(), "JSON".into()],
        ("json", _) => one("JSON"),
        _ => Vec::new(),
    }
}

/// Rows of a table on one side.
pub async fn count(conn: &mut Conn, database: &str, table: &str) -> u64 {
    let sql = format!("SELECT COUNT(*) FROM {}.{}", quote(database), quote(table));
    conn.query_first(sql).await.unwrap().unwrap()
}

async fn definition(source: &mut Conn, database: &str, table: &str) -> Table {
    let found = tables(source, database, Some(table)).await.unwrap().pop();
    found.unwrap_or_else(|| panic!("the source has no {database}.{table}"))
}

async fn compare_columns(target: &mut Conn, name: &str, columns: &[Column]) -> Result<(), String> {
    let result = target.query_iter(format!("SELECT * FROM {name} LIMIT 0")).await;
    let result = result.map_err(|e| format!("{name} cannot be read from the target: {e}"))?;
    let ours: Vec<String> = result.columns_ref().iter().map(|c| c.name_str().into_owned()).collect();
    result.drop_result().await.unwrap();
    // The target puts the key's columns first; the others keep their order.
    let (mut keys, others): (Vec<&Column>, Vec<&Column>) = columns.iter().partition(|c| c.in_key.is_some());
    keys.sort_by_key(|c| c.in_key);
    let in_order: Vec<&str> = columns.iter().map(|c| c.name.as_str()).collect();
    let keys_first: Vec<&str> = keys.iter().chain(&others).map(|c| c.name.as_str()).collect();
    let plain = |names: &[&str]| ours.iter().map(String::as_str).eq(names.iter().copied());
    if plain(&in_order) || plain(&keys_first) {
        return Ok(());
    }
    Err(format!("{name} has columns {ours:?} in place of {in_order:?}"))
}

fn list(columns: &[Column], expression: impl Fn(&Column) -> String) -> String {
    columns.iter().map(expression).collect::<Vec<_>>().join(", ")
}

type Convert = fn(&Column, Value) -> Option<String>;

/// What one side has under a key.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    /// Of the row.
    hash: u64,
    /// How often; more than once only in tables without a key.
    times: usize,
}

/// A hash of each row, by the text of its key (of the whole row, where there is no key).
async fn hashes(
    conn: &mut Conn,
    sql: &str,
    columns: &[Column],
    convert: Convert,
) -> Result<HashMap<String, Found>, String> {
    let keyed = columns.iter().any(|c| c.in_key.is_some());
    let mut all: HashMap<String, Found> = HashMap::new();
    let mut result = conn.query_iter(sql).await.map_err(|e| format!("{e}\nin: {sql}"))?;
    let mut twice = None;
    while let Some(row) = result.next().await.map_err(|e| format!("{e}\nin: {sql}"))? {
        let (key, row) = texts(row, columns, convert);
        let mut hasher = DefaultHasher::new();
        row.hash(&mut hasher);
        let found = all.entry(key).or_insert(Found { hash: hasher.finish(), times: 0 });
        found.times += 1;
        if keyed && found.times > 1 {
            twice.get_or_insert_with(|| format!("a key is there twice: {row:?}\nin: {sql}"));
        }
    }
    twice.map_or(Ok(all), Err)
}

/// The rows with these keys.
async fn rows(
    conn: &mut Conn,
    sql: &str,
    columns: &[Column],
    convert: Convert,
    wanted: &[&String],
) -> Result<HashMap<String, Vec<Option<String>>>, String> {
    let mut found = HashMap::new();
    let mut result = conn.query_iter(sql).await.map_err(|e| format!("{e}\nin: {sql}"))?;
    while let Some(row) = result.next().await.map_err(|e| format!("{e}\nin: {sql}"))? {
        let (key, row) = texts(row, columns, convert);
        if wanted.contains(&&key) {
            found.insert(key, row);
        }
    }
    Ok(found)
}

fn texts(row: Row, columns: &[Column], convert: Convert) -> (String, Vec<Option<String>>) {
    let texts: Vec<Option<String>> = columns.iter().zip(row.unwrap()).map(|(c, v)| convert(c, v)).collect();
    let keyed = columns.iter().any(|c| c.in_key.is_some());
    let in_key = columns.iter().zip(&texts).filter(|(c, _)| c.in_key.is_some() || !keyed);
    let key: Vec<&str> = in_key.map(|(_, t)| t.as_deref().unwrap_or(NULL)).collect();
    (key.join("\u{1}"), texts)
}

/// NULL in a key's text.
const NULL: &str = "\u{2}";

type Texts = Vec<Option<String>>;

fn readable(key: &str) -> String {
    key.replace('\u{1}', ", ").replace(NULL, "NULL")
}

fn show(columns: &[Column], key: &str, theirs: Option<&Texts>, ours: Option<&Texts>) -> String {
    let key = readable(key);
    match (theirs, ours) {
        (Some(theirs), Some(ours)) => {
            let cells = columns.iter().zip(theirs.iter().zip(ours)).filter(|(_, (t, o))| t != o);
            let cells: Vec<String> = cells
                .map(|(c, (t, o))| format!("    {} {}: source {t:?}, target {o:?}", c.name, c.column_type))
                .collect();
            format!("  ({key})\n{}", cells.join("\n"))
        }
        (Some(_), None) => format!("  ({key}) is missing in the target"),
        _ => format!("  ({key}) is in the target only"),
    }
}

/// The expression that makes the source send a value exactly: FLOAT is shown with 6 digits, YEAR with 4, BIT as
/// bytes.
fn at_source(column: &Column) -> String {
    let name = quote(&column.name);
    match column.data_type.as_str() {
        _ if column.column_type.contains("zerofill") => format!("{name} + 0"),
        "float" => format!("{name} + 0e0"),
        "bit" | "year" => format!("{name} + 0"),
        _ => name,
    }
}

fn source_text(column: &Column, value: Value) -> Option<String> {
    let bytes = bytes(value)?;
    Some(match column.data_type.as_str() {
        "binary" | "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" => hex(&bytes),
        // What the server sends as a double is the float exactly.
        "float" => format!("{:e}", number(&bytes) as f32),
        "double" => format!("{:e}", number(&bytes)),
        _ => text(bytes),
    })
}

fn target_text(column: &Column, value: Value) -> Option<String> {
    let bytes = bytes(value)?;
    Some(match column.data_type.as_str() {
        "binary" | "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" => hex(&bytes),
        "float" => format!("{:e}", number(&bytes) as f32),
        "double" => format!("{:e}", number(&bytes)),
        "timestamp" => text(bytes).trim_end_matches("+00:00").to_string(),
        _ => text(bytes),
    })
}

/// What the text protocol sent; `None`: NULL.
fn bytes(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::NULL => None,
        Value::Bytes(bytes) => Some(bytes),
        other => panic!("{other:?} in the text protocol"),
    }
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("text in UTF-8")
}

fn number(bytes: &[u8]) -> f64 {
    let text = std::str::from_utf8(bytes).unwrap();
    text.parse().unwrap_or_else(|_| panic!("{text:?} is no number"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02X}")).collect()
}
