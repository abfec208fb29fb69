//! Tables and columns as every connector sees them. A [`TableSchema`] is plain data that the store keeps by position,
//! so that rows are always decoded with the schema in force where they were written.

use std::fmt;

use crate::datatype::DataType;
use crate::error::{Error, Result};

/// A table's full name at the source or target: `database.table` (PostgreSQL: the schema in place of the database).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct TableName {
    /// Database or schema.
    pub database: String,
    /// Table.
    pub table: String,
}

impl TableName {
    /// From its two parts.
    pub fn new(database: impl Into<String>, table: impl Into<String>) -> Self {
        TableName { database: database.into(), table: table.into() }
    }

    /// Backquoted for MySQL, Doris and StarRocks: `` `db`.`table` ``.
    pub fn quoted(&self) -> String {
        format!("{}.{}", quote_name(&self.database), quote_name(&self.table))
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.database, self.table)
    }
}

/// A name in backquotes, backquotes inside doubled (MySQL, Doris, StarRocks).
pub fn quote_name(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// A string literal in single quotes for MySQL, Doris and StarRocks with their default `sql_mode`.
pub fn quote_text(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// What a column holds when a row does not say.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DefaultValue {
    /// A constant, as the text that the source would print (`0`, `abc`, `2024-01-01`).
    Literal(String),
    /// The time of the statement, with so many fractional digits.
    CurrentTimestamp(u8),
    /// An expression of the source that we cannot evaluate, as its text.
    Expression(String),
}

/// One column.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Column {
    /// Name.
    pub name: String,
    /// Type.
    pub data_type: DataType,
    /// Whether NULL is allowed.
    pub nullable: bool,
    /// Default; `None`: NULL where allowed, else the value is required.
    pub default: Option<DefaultValue>,
    /// Comment, empty without one.
    pub comment: String,
    /// The source's own full type, with whatever its decoder needs (`int(10) unsigned`,
    /// `varchar(20) character set latin1`). Only the source that wrote it reads it.
    pub source_type: String,
}

impl Column {
    /// A nullable column without default and comment.
    pub fn new(name: impl Into<String>, data_type: DataType) -> Self {
        Column {
            name: name.into(),
            data_type,
            nullable: true,
            default: None,
            comment: String::new(),
            source_type: String::new(),
        }
    }

    /// The same, NOT NULL.
    #[must_use]
    pub fn not_null(mut self) -> Self {
        self.nullable = false;
        self
    }
}

/// A table as the source has it at one position.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TableSchema {
    /// Name.
    pub name: TableName,
    /// Columns in the source's order.
    pub columns: Vec<Column>,
    /// Names of the key's columns in the key's order; empty: the table has no key and is a multiset.
    pub key: Vec<String>,
    /// Comment, empty without one.
    pub comment: String,
    /// What new columns have that don't say it themselves (MySQL: the table's character set). Only the source that wrote
    /// it reads it; empty: not known, or nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source_defaults: String,
}

impl TableSchema {
    /// The column of that name (source databases compare column names without case).
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.index_of(name).map(|i| &self.columns[i])
    }

    /// Its ordinal, counted from 0.
    pub fn index_of(&self, name: &str) -> Option<usize> {
        self.columns
            .iter()
            .position(|c| c.name == name)
            .or_else(|| self.columns.iter().position(|c| c.name.to_lowercase() == name.to_lowercase()))
    }

    /// Ordinals of the key's columns in the key's order.
    pub fn key_indexes(&self) -> Vec<usize> {
        self.key.iter().filter_map(|k| self.index_of(k)).collect()
    }

    /// Whether the table has a key.
    pub fn has_key(&self) -> bool {
        !self.key.is_empty()
    }

    /// The Arrow schema of this table's rows in a [`crate::ChangeBatch`], without the operation column. Every field is
    /// nullable, because a delete carries only the key.
    pub fn arrow_fields(&self) -> Vec<arrow::datatypes::Field> {
        self.columns.iter().map(|c| arrow::datatypes::Field::new(&c.name, c.data_type.to_arrow(), true)).collect()
    }
}

/// Where a new or moved column stands.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnPosition {
    /// Behind all others.
    Last,
    /// Before all others.
    First,
    /// Behind that one.
    After(String),
}

/// One step of a schema change; a statement with several clauses gives several, in order.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TableChange {
    /// A table that did not exist.
    CreateTable(TableSchema),
    /// The table is gone.
    DropTable,
    /// All rows are gone.
    Truncate,
    /// The table has another name.
    RenameTable { to: TableName },
    /// A new column.
    AddColumn { column: Column, position: ColumnPosition },
    /// The column is gone.
    DropColumn { name: String },
    /// The column has another name.
    RenameColumn { from: String, to: String },
    /// The column has another type. `from` is the type that it had.
    ChangeType { name: String, from: DataType, to: DataType, source_type: String },
    /// The column stands elsewhere.
    MoveColumn { name: String, position: ColumnPosition },
    /// Another default.
    SetDefault { name: String, default: Option<DefaultValue> },
    /// NULL is now allowed, or no longer.
    SetNullable { name: String, nullable: bool },
    /// Another comment of a column.
    SetColumnComment { name: String, comment: String },
    /// Another comment of the table.
    SetTableComment { comment: String },
    /// Other [`TableSchema::source_defaults`]; nothing at a sink.
    SetSourceDefaults { source_defaults: String },
    /// Another key; empty: none any more.
    ChangeKey { key: Vec<String> },
    /// Rows have other values from here on, which the log does not show (a new column whose default is computed for
    /// each row, another character set, a dropped partition): the table has to be copied again. Comes behind the step
    /// that brings it about. `columns`: the only ones whose values changed; none: any rows may be others.
    Rewrite {
        reason: String,
        #[serde(default)]
        columns: Vec<String>,
    },
    /// At sinks only, the end of a copy into a shadow table: its contents take the place of this table's, in one
    /// instant, and the shadow is gone.
    ReplaceBy { shadow: TableName },
}

/// One data definition statement of the source, as the table changes that it amounts to.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SchemaChange {
    /// The statement's text, for people.
    pub statement: String,
    /// The steps in order, each with the table that it applies to (its name before that step).
    pub steps: Vec<(TableName, TableChange)>,
}

impl TableSchema {
    /// The schema after `change`; `None` when the table is gone or has been given another name (then the caller moves
    /// it). The one place that knows what a change means.
    ///
    /// # Errors
    /// `Schema` when the change does not fit the table.
    pub fn after(&self, change: &TableChange) -> Result<Option<TableSchema>> {
        let mut t = self.clone();
        let missing = |column: &str| {
            Error::schema(format!("column {column} is not known")).with("table", &self.name).hint(
                "the table's schema in Freshet and at the source differ: run `freshet drop` and sync the table again",
            )
        };
        match change {
            TableChange::CreateTable(schema) => t = schema.clone(),
            TableChange::DropTable => return Ok(None),
            TableChange::Truncate => {}
            TableChange::RenameTable { to } => t.name = to.clone(),
            TableChange::AddColumn { column, position } => {
                if t.index_of(&column.name).is_some() {
                    return Err(
                        Error::schema(format!("column {} exists already", column.name)).with("table", &self.name)
                    );
                }
                let at = t.slot(position).ok_or_else(|| missing(&format!("{position:?}")))?;
                t.columns.insert(at, column.clone());
            }
            TableChange::DropColumn { name } => {
                let at = t.index_of(name).ok_or_else(|| missing(name))?;
                let gone = t.columns.remove(at).name;
                t.key.retain(|k| *k != gone);
            }
            TableChange::RenameColumn { from, to } => {
                let at = t.index_of(from).ok_or_else(|| missing(from))?;
                let old = std::mem::replace(&mut t.columns[at].name, to.clone());
                t.key.iter_mut().filter(|k| **k == old).for_each(|k| k.clone_from(to));
            }
            TableChange::ChangeType { name, to, source_type, .. } => {
                let at = t.index_of(name).ok_or_else(|| missing(name))?;
                t.columns[at].data_type = to.clone();
                t.columns[at].source_type.clone_from(source_type);
            }
            TableChange::MoveColumn { name, position } => {
                let at = t.index_of(name).ok_or_else(|| missing(name))?;
                let column = t.columns.remove(at);
                let to = t.slot(position).ok_or_else(|| missing(&format!("{position:?}")))?;
                t.columns.insert(to, column);
            }
            TableChange::SetDefault { name, default } => {
                let at = t.index_of(name).ok_or_else(|| missing(name))?;
                t.columns[at].default.clone_from(default);
            }
            TableChange::SetNullable { name, nullable } => {
                let at = t.index_of(name).ok_or_else(|| missing(name))?;
                t.columns[at].nullable = *nullable;
            }
            TableChange::SetColumnComment { name, comment } => {
                let at = t.index_of(name).ok_or_else(|| missing(name))?;
                t.columns[at].comment.clone_from(comment);
            }
            TableChange::SetTableComment { comment } => t.comment.clone_from(comment),
            TableChange::SetSourceDefaults { source_defaults } => t.source_defaults.clone_from(source_defaults),
            TableChange::ChangeKey { key } => t.key.clone_from(key),
            TableChange::Rewrite { .. } | TableChange::ReplaceBy { .. } => {}
        }
        Ok(Some(t))
    }

    fn slot(&self, position: &ColumnPosition) -> Option<usize> {
        match position {
            ColumnPosition::Last => Some(self.columns.len()),
            ColumnPosition::First => Some(0),
            ColumnPosition::After(name) => self.index_of(name).map(|i| i + 1),
        }
    }
}
