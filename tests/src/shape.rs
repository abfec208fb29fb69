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
    /// Its place in the primary key, from 1.
    pub in_key: Option<u32>,
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
    let only = only.map_or_else(String::new, |name| format!("AND c.table_name = '{}'", name.replace('\'', "''")));
    let rows: Vec<Row> = conn
        .query(format!(
            "SELECT c.table_name, c.column_name, c.data_type, c.column_type, c.is_nullable,
                 c.column_default IS NOT NULL OR c.extra <> '', k.ordinal_position
             FROM information_schema.columns c
             JOIN information_schema.tables t ON t.table_schema = '{database}' AND t.table_name = c.table_name
                 AND t.table_type = 'BASE TABLE'
             LEFT JOIN information_schema.key_column_usage k ON k.table_schema = '{database}'
                 AND k.table_name = c.table_name AND k.column_name = c.column_name AND k.constraint_name = 'PRIMARY'
             WHERE c.table_schema = '{database}' {only} ORDER BY c.table_name, c.ordinal_position"
        ))
        .await?;
    let mut tables: Vec<Table> = Vec::new();
    for row in rows {
        let (table, name, data_type, column_type, nullable, default, in_key): (
            String,
            String,
            String,
            String,
            String,
            bool,
            Option<u32>,
        ) = mysql_async::from_row(row);
        if tables.last().is_none_or(|t| t.name != table) {
            tables.push(Table { name: table, columns: Vec::new() });
        }
        let nullable = nullable == "YES";
        let column = Column { name, data_type, column_type, nullable, optional: nullable || default, in_key };
        if let Some(table) = tables.last_mut() {
            table.columns.push(column);
        }
    }
    Ok(tables)
}
