//! What the server has: its tables from `information_schema`, and its place in its own log.

use std::collections::HashMap;
use std::time::Duration;

use freshet_core::schema::{quote_name, quote_text};
use freshet_core::{
    Column, CopyStart, DefaultValue, Discovered, Error, LogEnd, Position, Result, TableName, TablePattern, TableSchema,
};

use super::MySql;
use super::binlog::gtid::GtidSet;
use super::binlog::position::LogPosition;
use super::ddl::{GENERATED_MARK, UNIQUE_KEY_MARK, choose_key, default_of_sql, default_of_text, timestamp_defaults};
use super::server_state::identity;
use super::types::{Charsets, MysqlType, charset_of_collation};
use super::wire::{Connection, Flavour, Row, server_error_number};

/// Databases of the server itself.
const SYSTEM_DATABASES: &str = "'mysql', 'information_schema', 'performance_schema', 'sys'";
/// How often [`MySql::begin`] starts over when schemas change under its hands.
const BEGIN_ATTEMPTS: usize = 20;
/// MySQL shows what a statement has changed an instant before `gtid_executed` holds it: a position that is noted in between
/// would have the change still to come.
const UNTIL_EXECUTED: Duration = Duration::from_millis(20);
/// So often is the end of a log asked for on which others write meanwhile.
const END_ATTEMPTS: u32 = 5;

/// A table as `information_schema` describes it.
#[derive(Debug, Clone)]
pub(super) struct Definition {
    /// The table with estimates.
    pub(super) found: Discovered,
    /// The index that the key is, for `FORCE INDEX`.
    pub(super) key_index: Option<String>,
}

impl MySql {
    pub(super) async fn discover(&self, wanted: &TablePattern) -> Result<Vec<Discovered>> {
        let mut c = self.session().await?;
        read_tables(&mut c, wanted).await
    }

    /// The schemas are read, the place is noted, and the schemas are read again unless nothing was logged meanwhile:
    /// when both are the same, they are in force at that place. (A change and its undoing in between would be met in
    /// the log and suspend their table.)
    pub(super) async fn begin_copy(&self, wanted: &TablePattern) -> Result<CopyStart> {
        let mut c = self.session().await?;
        let mut before = visible_position(&mut c).await?;
        let mut tables = read_tables(&mut c, wanted).await?;
        for _ in 0..BEGIN_ATTEMPTS {
            if c.server.flavour == Flavour::MySql {
                tokio::time::sleep(UNTIL_EXECUTED).await;
            }
            let low = visible_position(&mut c).await?;
            if low == before {
                return Ok(CopyStart { low: numbered(&mut c, low).await?.position(), tables });
            }
            let again = read_tables(&mut c, wanted).await?;
            let same = again.len() == tables.len()
                && again.iter().zip(&tables).all(|(a, b)| a.name == b.name && a.schema == b.schema);
            if same {
                return Ok(CopyStart { low: numbered(&mut c, low).await?.position(), tables });
            }
            (before, tables) = (low, again);
        }
        Err(Error::source_unavailable("the schemas of the source change faster than they can be read")
            .hint("wait until the migration that is running there is done"))
    }

    pub(super) async fn log_end(&self, from: Option<&Position>) -> Result<LogEnd> {
        let mut c = self.session().await?;
        let end = written_position(&mut c).await?;
        let bytes_behind = match from {
            Some(from) => bytes_between(&mut c, from, &end).await?,
            None => None,
        };
        Ok(LogEnd { position: end.position(), bytes_behind })
    }
}

/// The place up to which transactions are certainly visible to a SELECT that begins now.
///
/// MariaDB tells the log's place of a consistent snapshot. MySQL's `gtid_executed` holds a transaction only once it is
/// committed in the engine; without GTIDs there is only the log's end, and readers take a brief lock. MariaDB's still
/// needs [`numbered`].
async fn visible_position(c: &mut Connection) -> Result<LogPosition> {
    if c.server.flavour == Flavour::MySql {
        return written_position(c).await;
    }
    c.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT").await?;
    let snapshot = snapshot_position(c).await;
    c.execute("COMMIT").await?;
    let (file, offset) = snapshot?;
    Ok(LogPosition::at(file, offset, None).of_server(&identity(c).await?))
}

/// A place with the transactions before it.
pub(super) async fn numbered(c: &mut Connection, place: LogPosition) -> Result<LogPosition> {
    if c.server.flavour == Flavour::MySql {
        return Ok(place);
    }
    let gtids = gtids_at(c, &place.file, place.offset).await?;
    Ok(LogPosition { gtids, ..place })
}

/// MariaDB: the log's place of the consistent snapshot that this connection has open.
pub(super) async fn snapshot_position(c: &mut Connection) -> Result<(String, u64)> {
    let rows = c.query("SHOW STATUS LIKE 'binlog_snapshot_%'").await?;
    let value = |name: &str| rows.iter().find(|r| r.get_str(0).is_some_and(|n| n.eq_ignore_ascii_case(name)));
    let file = value("binlog_snapshot_file").and_then(|r| r.get_str(1)).filter(|f| !f.is_empty());
    let offset = value("binlog_snapshot_position").and_then(|r| r.number(1));
    file.map(str::to_string).zip(offset).ok_or_else(binlog_off)
}

/// MariaDB: the transactions before a place of the log. Where that is not the log's end, the server reads the file up to
/// there, which takes the longer the larger it is.
pub(super) async fn gtids_at(c: &mut Connection, file: &str, offset: u64) -> Result<Option<GtidSet>> {
    let (end, gtids) = end_of_log(c).await?;
    match gtids {
        Some(gtids) if end == (file.to_string(), offset) => Ok(GtidSet::parse(&gtids)),
        _ => gtids_read(c, file, offset).await,
    }
}

/// MariaDB: the transactions before a place of the log, as the server finds them by reading the file.
async fn gtids_read(c: &mut Connection, file: &str, offset: u64) -> Result<Option<GtidSet>> {
    let gtids = first_text(c, &format!("SELECT BINLOG_GTID_POS({}, {offset})", quote_text(file))).await?;
    Ok(gtids.as_deref().and_then(GtidSet::parse))
}

/// MariaDB: the log's end, and the transactions before it, unless some were being written just then: while the end is
/// told none is in the middle of being written, and none was between two looks at their numbers that say the same.
pub(super) async fn end_of_log(c: &mut Connection) -> Result<((String, u64), Option<String>)> {
    const NUMBERS: &str = "SELECT @@global.gtid_binlog_pos";
    let (mut before, mut attempts) = (first_text(c, NUMBERS).await?, 0);
    loop {
        let end = place(log_status(c).await?.first())?;
        let after = first_text(c, NUMBERS).await?;
        attempts += 1;
        if before == after {
            return Ok((end, after));
        }
        if attempts == END_ATTEMPTS {
            return Ok((end, None));
        }
        before = after;
    }
}

async fn first_text(c: &mut Connection, sql: &str) -> Result<Option<String>> {
    Ok(c.query(sql).await?.first().and_then(|r| r.get_str(0)).map(str::to_string))
}

/// File and offset of the log's end.
fn place(row: Option<&Row>) -> Result<(String, u64)> {
    let file = row.and_then(|r| r.named("File")).map(str::to_string);
    let offset = row.and_then(|r| r.named("Position")).and_then(|p| p.parse().ok());
    file.zip(offset).ok_or_else(binlog_off)
}

/// The end of the log.
pub(super) async fn written_position(c: &mut Connection) -> Result<LogPosition> {
    let ((file, offset), gtids) = match c.server.flavour {
        Flavour::MySql => {
            let rows = log_status(c).await?;
            let executed = rows.first().and_then(|r| r.named("Executed_Gtid_Set")).and_then(GtidSet::parse);
            (place(rows.first())?, executed)
        }
        Flavour::MariaDb => {
            let (end, gtids) = end_of_log(c).await?;
            let gtids = match gtids {
                Some(gtids) => GtidSet::parse(&gtids),
                None => gtids_read(c, &end.0, end.1).await?,
            };
            (end, gtids)
        }
    };
    Ok(LogPosition::at(file, offset, gtids).of_server(&identity(c).await?))
}

/// `SHOW MASTER STATUS` under the name that this server knows.
pub(super) async fn log_status(c: &mut Connection) -> Result<Vec<Row>> {
    let renamed = c.server.flavour == Flavour::MySql && c.server.version >= (8, 2, 0);
    c.query(if renamed { "SHOW BINARY LOG STATUS" } else { "SHOW MASTER STATUS" }).await
}

fn binlog_off() -> Error {
    Error::source_state("the server writes no binary log")
        .hint("set log_bin in the server's configuration and restart it; `freshet check` shows all that is needed")
}

/// Bytes of log between two places; `None` when the first is not in the server's log any more.
async fn bytes_between(c: &mut Connection, from: &Position, end: &LogPosition) -> Result<Option<u64>> {
    let from = LogPosition::parse(from)?;
    let logs = match c.query("SHOW BINARY LOGS").await {
        Ok(rows) => rows,
        Err(e) if server_error_number(&e).is_some() => return Ok(None),
        Err(e) => return Err(e),
    };
    let (mut inside, mut total) = (false, 0_u64);
    for row in &logs {
        let (Some(file), Some(size)) = (row.get_str(0), row.number::<u64>(1)) else { continue };
        let upto = if file == end.file { end.offset } else { size };
        if file == from.file {
            inside = true;
            total = upto.saturating_sub(from.offset);
        } else if inside {
            total += upto;
        }
        if file == end.file {
            break;
        }
    }
    Ok(inside.then_some(total))
}

/// The character sets that tables have when they don't name one.
pub(super) async fn charsets(c: &mut Connection) -> Result<Charsets> {
    let server = c.query("SELECT @@character_set_server").await?;
    let rows = c.query("SELECT SCHEMA_NAME, DEFAULT_CHARACTER_SET_NAME FROM information_schema.SCHEMATA").await?;
    let pair = |r: &Row| Some((r.get_str(0)?.to_string(), r.get_str(1)?.to_string()));
    Ok(Charsets {
        server: server.first().and_then(|r| r.get_str(0)).unwrap_or_default().to_string(),
        databases: rows.iter().filter_map(pair).collect(),
    })
}

/// The definition of one table, `None` when there is none of that name.
pub(super) async fn definition(c: &mut Connection, name: &TableName) -> Result<Option<Definition>> {
    let only = format!("TABLE_SCHEMA = {} AND TABLE_NAME = {}", quote_text(&name.database), quote_text(&name.table));
    Ok(definitions(c, &only).await?.into_iter().find(|d| d.found.name == *name))
}

async fn read_tables(c: &mut Connection, wanted: &TablePattern) -> Result<Vec<Discovered>> {
    // Names alone come from the dictionary; everything else makes MariaDB open each table.
    let sql = format!(
        "SELECT TABLE_SCHEMA, TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA NOT IN ({SYSTEM_DATABASES})"
    );
    let mut names: Vec<TableName> = c
        .query(&sql)
        .await?
        .iter()
        .filter_map(|r| Some(TableName::new(r.get_str(0)?, r.get_str(1)?)))
        .filter(|name| wanted.matches(name))
        .collect();
    names.sort();
    let mut tables = Vec::with_capacity(names.len());
    for group in names.chunk_by(|a, b| a.database == b.database) {
        let mut only = format!("TABLE_SCHEMA = {}", quote_text(&group[0].database));
        if let [one] = group {
            only.push_str(&format!(" AND TABLE_NAME = {}", quote_text(&one.table)));
        }
        let found = definitions(c, &only).await?.into_iter().map(|d| d.found);
        // `=` may compare names without case.
        tables.extend(found.filter(|d| group.binary_search(&d.name).is_ok()));
    }
    Ok(tables)
}

/// Base tables where `only` holds, by name.
async fn definitions(c: &mut Connection, only: &str) -> Result<Vec<Definition>> {
    let mariadb = c.server.flavour == Flavour::MariaDb;
    let tables = c
        .query(&format!(
            "SELECT TABLE_SCHEMA, TABLE_NAME, TABLE_TYPE, TABLE_ROWS, DATA_LENGTH, TABLE_COMMENT, \
             TABLE_COLLATION \
             FROM information_schema.TABLES WHERE {only} AND TABLE_TYPE IN ('BASE TABLE', 'SYSTEM VERSIONED') \
             ORDER BY TABLE_SCHEMA, TABLE_NAME"
        ))
        .await?;
    let columns = c
        .query(&format!(
            "SELECT TABLE_SCHEMA, TABLE_NAME, COLUMN_NAME, COLUMN_DEFAULT, IS_NULLABLE, COLUMN_TYPE, \
             CHARACTER_SET_NAME, EXTRA, COLUMN_COMMENT FROM information_schema.COLUMNS WHERE {only} \
             ORDER BY TABLE_SCHEMA, TABLE_NAME, ORDINAL_POSITION"
        ))
        .await?;
    let indexes = c
        .query(&format!(
            "SELECT TABLE_SCHEMA, TABLE_NAME, INDEX_NAME, COLUMN_NAME FROM information_schema.STATISTICS \
             WHERE {only} AND NON_UNIQUE = 0 ORDER BY TABLE_SCHEMA, TABLE_NAME, INDEX_NAME, SEQ_IN_INDEX"
        ))
        .await?;
    let checks = match mariadb {
        true => {
            let only = only.replace("TABLE_SCHEMA =", "CONSTRAINT_SCHEMA =");
            c.query(&format!(
                "SELECT CONSTRAINT_SCHEMA, TABLE_NAME, CHECK_CLAUSE FROM information_schema.CHECK_CONSTRAINTS WHERE {only}"
            ))
            .await?
        }
        false => Vec::new(),
    };
    let (columns, indexes, checks) = (by_table(&columns), by_table(&indexes), by_table(&checks));
    let mut out = Vec::with_capacity(tables.len());
    for row in &tables {
        let Some(name) = table_of(row) else { continue };
        let description = Description {
            columns: rows_of(&columns, &name),
            indexes: rows_of(&indexes, &name),
            checks: rows_of(&checks, &name),
            timestamps: if mariadb { HashMap::new() } else { timestamps(c, &name, &columns).await? },
            mariadb,
        };
        out.push(description.definition(name, row));
    }
    Ok(out)
}

/// MySQL shows literal defaults of `TIMESTAMP` columns in `information_schema` as the session wrote them that declared
/// them, without its time zone; `SHOW CREATE TABLE` shows them in ours, which is UTC. A default of which that cannot be
/// learnt (the table is gone meanwhile) is absent.
async fn timestamps(c: &mut Connection, name: &TableName, columns: &Rows<'_>) -> Result<HashMap<String, DefaultValue>> {
    if !columns.get(name).is_some_and(|columns| columns.iter().any(|r| is_written_instant(r))) {
        return Ok(HashMap::new());
    }
    let sql = format!("SHOW CREATE TABLE {}.{}", quote_name(&name.database), quote_name(&name.table));
    let rows = match c.query(&sql).await {
        Ok(rows) => rows,
        Err(e) if server_error_number(&e).is_some() => return Ok(HashMap::new()),
        Err(e) => return Err(e),
    };
    let defaults = rows.first().and_then(|r| r.get_str(1)).and_then(|sql| timestamp_defaults(sql).ok());
    Ok(defaults.into_iter().flatten().filter_map(|(column, default)| Some((column, default?))).collect())
}

/// Whether a row of MySQL's `information_schema.COLUMNS` holds a literal default of a `TIMESTAMP` column.
fn is_written_instant(row: &Row) -> bool {
    let is = |i: usize, what: &str| row.get_str(i).is_some_and(|text| text.to_ascii_uppercase().starts_with(what));
    let generated = row.get_str(7).is_some_and(|extra| extra.to_ascii_uppercase().contains("DEFAULT_GENERATED"));
    is(5, "TIMESTAMP") && !generated && row.get_str(3).is_some() && !is(3, "CURRENT_TIMESTAMP") && !is(3, "0000-00-00")
}

type Rows<'a> = HashMap<TableName, Vec<&'a Row>>;

fn table_of(row: &Row) -> Option<TableName> {
    Some(TableName::new(row.get_str(0)?, row.get_str(1)?))
}

fn rows_of<'a>(rows: &Rows<'a>, name: &TableName) -> Vec<&'a Row> {
    rows.get(name).cloned().unwrap_or_default()
}

fn by_table(rows: &[Row]) -> Rows<'_> {
    let mut out = Rows::new();
    for row in rows {
        if let Some(name) = table_of(row) {
            out.entry(name).or_default().push(row);
        }
    }
    out
}

/// Everything that `information_schema` says about one table.
struct Description<'a> {
    columns: Vec<&'a Row>,
    indexes: Vec<&'a Row>,
    checks: Vec<&'a Row>,
    /// MySQL: literal defaults of `TIMESTAMP` columns, by name.
    timestamps: HashMap<String, DefaultValue>,
    mariadb: bool,
}

impl Description<'_> {
    fn definition(&self, name: TableName, table: &Row) -> Definition {
        let (rows, bytes) = (table.number(3), table.number(4));
        let mut key_index = None;
        let schema = match table.get_str(2) {
            Some("SYSTEM VERSIONED") => {
                Err(Error::unsupported("the table is system-versioned").hint("leave the table out of the job"))
            }
            _ => self.schema(&name, table, &mut key_index),
        };
        let schema = schema.map_err(|e| e.with("table", &name));
        Definition { found: Discovered { name, schema, rows, bytes }, key_index }
    }

    fn schema(&self, name: &TableName, table: &Row, key_index: &mut Option<String>) -> Result<TableSchema> {
        let mut columns = self.columns.iter().map(|r| self.column(r)).collect::<Result<Vec<_>>>()?;
        let mut indexes: Vec<(String, Vec<String>)> = Vec::new();
        for row in &self.indexes {
            let Some(index) = row.get_str(2) else { continue };
            if indexes.last().is_none_or(|(last, _)| last != index) {
                indexes.push((index.to_string(), Vec::new()));
            }
            // A part without a column is an expression: no column has the empty name, so the index is not taken.
            let part = row.get_str(3).unwrap_or_default().to_string();
            indexes.last_mut().into_iter().for_each(|(_, parts)| parts.push(part.clone()));
        }
        let primary = indexes.iter().find(|(index, _)| index == "PRIMARY").map(|(_, parts)| parts.clone());
        let key = choose_key(&mut columns, primary, indexes.clone());
        *key_index =
            indexes.into_iter().filter(|(_, parts)| *parts == key).map(|(i, _)| i).min_by_key(|i| i != "PRIMARY");
        Ok(TableSchema {
            name: name.clone(),
            columns,
            key,
            comment: table.get_str(5).unwrap_or_default().to_string(),
            source_defaults: table.get_str(6).and_then(charset_of_collation).unwrap_or_default(),
        })
    }

    fn column(&self, row: &Row) -> Result<Column> {
        let text = |i: usize| row.get_str(i).unwrap_or_default();
        let (name, extra) = (text(2).to_string(), text(7).to_ascii_uppercase());
        let declared = match row.get_str(6) {
            Some(charset) => format!("{} character set {charset}", text(5)),
            None => text(5).to_string(),
        };
        let mut of = MysqlType::parse(&declared).map_err(|e| e.with("column", &name))?;
        if declared == "longtext character set utf8mb4" && self.is_json(&name) {
            of = MysqlType::Json;
        }
        let generated = ["VIRTUAL GENERATED", "STORED GENERATED"].iter().any(|g| extra.contains(g));
        let default = match row.get_str(3) {
            None => None,
            _ if generated => None,
            // MySQL marks expressions, the time of the statement among them; MariaDB writes all as in a statement.
            Some(sql) if self.mariadb || extra.contains("DEFAULT_GENERATED") => default_of_sql(sql, &of),
            Some("CURRENT_TIMESTAMP") if matches!(of, MysqlType::DateTime { .. } | MysqlType::Timestamp { .. }) => {
                default_of_sql("CURRENT_TIMESTAMP", &of)
            }
            Some(text) if !self.mariadb && is_written_instant(row) => Some(match self.timestamps.get(&name) {
                Some(default) => default.clone(),
                None => DefaultValue::Expression(format!("'{text}' in a time zone that is not known")),
            }),
            Some(text) => Some(default_of_text(text, &of)),
        };
        Ok(Column {
            name,
            data_type: of.data_type(),
            nullable: text(4) == "YES",
            default,
            comment: text(8).to_string(),
            source_type: format!("{of}{}", if generated { GENERATED_MARK } else { "" }),
        })
    }

    /// MariaDB writes a JSON column as a `longtext` with this check.
    fn is_json(&self, column: &str) -> bool {
        let clause = format!("json_valid({})", freshet_core::schema::quote_name(column));
        self.checks.iter().any(|r| r.get_str(2).is_some_and(|c| c.eq_ignore_ascii_case(&clause)))
    }
}

/// Why rows of the table as it is cannot be read with `expected`; `None` when they can.
pub(super) fn difference(expected: &TableSchema, found: &TableSchema) -> Option<String> {
    let shape = |t: &TableSchema| -> Vec<(String, String)> {
        let bare = |s: &str| s.strip_suffix(UNIQUE_KEY_MARK).unwrap_or(s).to_string();
        t.columns.iter().map(|c| (c.name.clone(), bare(&c.source_type))).collect()
    };
    let (wanted, there) = (shape(expected), shape(found));
    if let Some((a, b)) = wanted.iter().zip(&there).find(|(a, b)| a != b) {
        return Some(format!("column {} {} is now {} {}", a.0, a.1, b.0, b.1));
    }
    if wanted.len() != there.len() {
        return Some(format!("it had {} columns and now has {}", wanted.len(), there.len()));
    }
    (expected.key != found.key)
        .then(|| format!("its key ({}) is now ({})", expected.key.join(", "), found.key.join(", ")))
}
