//! What a source's tables look like, as its own `information_schema` says.

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};

/// A base table.
#[derive(Debug, Clone)]
pub struct Table {
    /// Its name, without the database.
    pub name: String,
    /// In their order.
    pub columns: Vec<Column>,
    /// Its comment, empty without one.
    pub comment: String,
}

/// A column.
#[derive(Debug, Clone)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Type without length and attributes: `varchar`.
    pub data_type: String,
    /// Type in full: `varchar(20)`.
    pub column_type: String,
    /// Whether it may be NULL.
    pub nullable: bool,
    /// Whether an INSERT may leave it out in strict mode.
    pub optional: bool,
    /// Whether the server computes it from other columns.
    pub generated: bool,
    /// Its place in the primary key, from 1.
    pub in_key: Option<u32>,
    /// Its default as the server shows it: MySQL the text itself, MariaDB a piece of a statement.
    pub default: Option<String>,
    /// Its comment, empty without one.
    pub comment: String,
    /// `DEFAULT_GENERATED` and the like.
    pub extra: String,
}

impl Table {
    /// The primary key's columns in the key's order.
    pub fn key(&self) -> Vec<&Column> {
        let mut key: Vec<&Column> = self.columns.iter().filter(|c| c.in_key.is_some()).collect();
        key.sort_by_key(|c| c.in_key);
        key
    }
}

/// All base tables of a database, by name; or the one that is meant.
///
/// # Errors
/// When the server does not answer.
pub async fn tables(conn: &mut Conn, database: &str, only: Option<&str>) -> mysql_async::Result<Vec<Table>> {
    let mut filter = format!("WHERE table_schema = '{}'", database.replace('\'', "''"));
    if let Some(name) = only {
        filter += &format!(" AND table_name = '{}'", name.replace('\'', "''"));
    }
    // Not one statement with joins: MariaDB 10.11 has died of that, with DDL beside it.
    let names: Vec<(String, String)> = conn
        .query(format!(
            "SELECT table_name, table_comment FROM information_schema.tables {filter} AND table_type = 'BASE TABLE'"
        ))
        .await?;
    let keys: Vec<(String, String, u32)> = conn
        .query(format!(
            "SELECT table_name, column_name, seq_in_index FROM information_schema.statistics {filter}
             AND index_name = 'PRIMARY'"
        ))
        .await?;
    let rows: Vec<Row> = conn
        .query(format!(
            "SELECT table_name, column_name, data_type, column_type, is_nullable, column_default, extra, column_comment
             FROM information_schema.columns {filter} ORDER BY table_name, ordinal_position"
        ))
        .await?;
    let mut tables: Vec<Table> = Vec::new();
    for row in rows {
        type Columns = (String, String, String, String, String, Option<String>, String, String);
        let (table, name, data_type, column_type, nullable, default, extra, comment): Columns =
            mysql_async::from_row(row);
        let Some((_, of_table)) = names.iter().find(|(name, _)| *name == table) else { continue };
        let in_key = keys.iter().find(|(t, c, _)| *t == table && *c == name).map(|(.., place)| *place);
        if tables.last().is_none_or(|t| t.name != table) {
            tables.push(Table { name: table, columns: Vec::new(), comment: of_table.clone() });
        }
        let nullable = nullable == "YES";
        let optional = nullable || default.is_some() || !extra.is_empty();
        // MySQL calls a default that is an expression DEFAULT_GENERATED.
        let generated = extra.contains("VIRTUAL GENERATED") || extra.contains("STORED GENERATED");
        let column =
            Column { name, data_type, column_type, nullable, optional, generated, in_key, default, comment, extra };
        if let Some(table) = tables.last_mut() {
            table.columns.push(column);
        }
    }
    Ok(tables)
}
