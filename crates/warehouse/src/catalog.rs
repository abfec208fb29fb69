//! What the warehouse holds: databases, tables and their columns. Columns have ids that are never used twice, and files
//! name columns by id, so that adding, dropping, renaming, moving and widening a column touch nothing but this data. A
//! column whose type changes gets a new id and remembers the old one ([`Former`]): an id has one type for ever.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use freshet_core::{ColumnPosition, DataType, DefaultValue, Error, Result, TableName};
use serde::{Deserialize, Serialize};

use crate::storage::value;

/// How rows with equal keys are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Model {
    /// One row per key, the last one written.
    Unique,
    /// Every row is kept; the key only says the order in the files.
    Duplicate,
    /// Every row is kept, and a delete removes exactly one row that is equal in all columns. No key.
    Multiset,
}

/// A column as a statement defines it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnDef {
    pub name: String,
    pub data_type: DataType,
    pub nullable: bool,
    pub default: Option<DefaultValue>,
    pub comment: String,
    /// See [`TableColumn::bytes`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u32>,
}

/// A table as a statement defines it; the key's columns are the first ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableDef {
    pub name: TableName,
    pub columns: Vec<ColumnDef>,
    pub model: Model,
    /// Names of the key's columns: the first columns, in their order.
    pub key: Vec<String>,
    pub comment: String,
}

/// One step of data definition; several are executed as one transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ddl {
    CreateDatabase {
        name: String,
        if_not_exists: bool,
    },
    DropDatabase {
        name: String,
        if_exists: bool,
    },
    CreateTable {
        table: TableDef,
        if_not_exists: bool,
    },
    DropTable {
        table: TableName,
        if_exists: bool,
    },
    Truncate {
        table: TableName,
    },
    /// Within its database.
    RenameTable {
        table: TableName,
        to: String,
    },
    /// The contents and the definition of `by` take the place of the table's; `by` is gone, or with `swap` it gets what
    /// the table had.
    ReplaceTable {
        table: TableName,
        by: TableName,
        swap: bool,
    },
    SetTableComment {
        table: TableName,
        comment: String,
    },
    AddColumn {
        table: TableName,
        column: ColumnDef,
        position: ColumnPosition,
    },
    DropColumn {
        table: TableName,
        name: String,
    },
    RenameColumn {
        table: TableName,
        from: String,
        to: String,
    },
    /// Type, nullability, default, comment (if not empty) and, if given, the place of the column of that name.
    ModifyColumn {
        table: TableName,
        column: ColumnDef,
        position: Option<ColumnPosition>,
    },
    SetColumnComment {
        table: TableName,
        name: String,
        comment: String,
    },
}

/// A column that had another type before: rows that were written then are converted when they are read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Former {
    pub id: u32,
    pub data_type: DataType,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub former: Option<Box<Former>>,
}

/// A column of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableColumn {
    /// Never used twice within the table; the column is named `c<id>` in files.
    pub id: u32,
    pub name: String,
    pub data_type: DataType,
    /// What writers may send. Rows from before a change to NOT NULL may still hold NULL.
    pub nullable: bool,
    pub default: Option<DefaultValue>,
    pub comment: String,
    /// The declared length of a text (`VARCHAR(10)`), in bytes of UTF-8 as Doris counts it. Statements may not write more;
    /// jobs store what their source has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u32>,
    /// Its value in rows that were written before it existed, as canonical text; `None`: NULL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fill: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub former: Option<Box<Former>>,
}

/// A table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Never used twice within the warehouse.
    pub id: u64,
    /// Grows with every change of the definition.
    pub version: u32,
    pub name: TableName,
    pub columns: Vec<TableColumn>,
    pub model: Model,
    /// So many first columns are the key.
    pub key_columns: usize,
    pub comment: String,
    /// The id of the next column.
    pub next_column: u32,
    /// Of a multiset: grows with every change of what its rows' hashes are made of.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub shape: u32,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

impl TableColumn {
    /// Its name in files.
    pub fn stored_name(&self) -> String {
        format!("c{}", self.id)
    }

    /// How many bytes a value may have that a statement writes.
    pub fn max_bytes(&self) -> Option<u32> {
        match self.data_type {
            DataType::Bytes { length } => length,
            _ => self.bytes,
        }
    }

    /// Its first id: the same whatever type it has had.
    pub(crate) fn root(&self) -> u32 {
        let (mut id, mut former) = (self.id, self.former.as_deref());
        while let Some(f) = former {
            (id, former) = (f.id, f.former.as_deref());
        }
        id
    }

    fn new(id: u32, def: &ColumnDef) -> TableColumn {
        TableColumn {
            id,
            name: def.name.clone(),
            data_type: def.data_type.clone(),
            nullable: def.nullable,
            default: def.default.clone(),
            comment: def.comment.clone(),
            bytes: def.bytes,
            fill: None,
            former: None,
        }
    }
}

impl Table {
    /// The Arrow schema of its rows, columns by name. Every field is nullable ([`TableColumn::nullable`] says why), but
    /// for the key's.
    pub fn arrow_schema(&self) -> SchemaRef {
        let field = |(i, c): (usize, &TableColumn)| {
            Field::new(&c.name, c.data_type.to_arrow(), i >= self.key_columns || c.nullable)
        };
        Arc::new(Schema::new(self.columns.iter().enumerate().map(field).collect::<Vec<_>>()))
    }

    /// The Arrow schema of its rows in files: columns by id, all nullable.
    pub fn stored_schema(&self) -> SchemaRef {
        let field = |c: &TableColumn| Field::new(c.stored_name(), c.data_type.to_arrow(), true);
        Arc::new(Schema::new(self.columns.iter().map(field).collect::<Vec<_>>()))
    }

    /// The ordinal of the column of that name, without regard to case.
    pub fn index_of(&self, name: &str) -> Option<usize> {
        self.columns
            .iter()
            .position(|c| c.name == name)
            .or_else(|| self.columns.iter().position(|c| c.name.to_lowercase() == name.to_lowercase()))
    }

    /// The key's columns.
    pub fn key(&self) -> &[TableColumn] {
        &self.columns[..self.key_columns.min(self.columns.len())]
    }

    fn at(&self, name: &str) -> Result<usize> {
        self.index_of(name).ok_or_else(|| {
            Error::not_found(format!("column {name} does not exist")).with("table", &self.name).hint(format!(
                "the columns are {}",
                self.columns.iter().map(|c| &*c.name).collect::<Vec<_>>().join(", ")
            ))
        })
    }

    /// Where a column that is no key stands: key columns stay first.
    fn slot(&self, position: &ColumnPosition) -> Result<usize> {
        Ok(match position {
            ColumnPosition::Last => self.columns.len(),
            ColumnPosition::First => self.key_columns,
            ColumnPosition::After(name) => (self.at(name)? + 1).max(self.key_columns),
        })
    }

    fn create(id: u64, def: &TableDef) -> Result<Table> {
        let bad = |what: String| Error::config(what).with("table", &def.name);
        for (i, k) in def.key.iter().enumerate() {
            if def.columns.get(i).is_none_or(|c| c.name != *k) {
                return Err(bad(format!("key column {k} must be column {} of the table", i + 1)));
            }
            if !value::orderable(&def.columns[i].data_type) {
                return Err(bad(format!("{} cannot be a key column: it is {}", k, def.columns[i].data_type)));
            }
        }
        let mut names = BTreeSet::new();
        if let Some(twice) = def.columns.iter().find(|c| !names.insert(c.name.to_lowercase())) {
            return Err(bad(format!("column {} is there twice", twice.name)));
        }
        if def.columns.is_empty() || (def.key.is_empty() && def.model != Model::Multiset) {
            return Err(bad("a table needs a column and a key".into()));
        }
        if !def.key.is_empty() && def.model == Model::Multiset {
            return Err(bad("a multiset has no key".into()));
        }
        let columns = def.columns.iter().zip(1..).map(|(c, id)| TableColumn::new(id, c)).collect();
        Ok(Table {
            id,
            version: 1,
            name: def.name.clone(),
            columns,
            model: def.model,
            key_columns: def.key.len(),
            comment: def.comment.clone(),
            next_column: def.columns.len() as u32 + 1,
            shape: 0,
        })
    }

    fn add_column(&mut self, def: &ColumnDef, position: &ColumnPosition, now_micros: i64) -> Result<()> {
        if self.index_of(&def.name).is_some() {
            return Err(Error::already_exists(format!("column {} exists already", def.name)).with("table", &self.name));
        }
        let at = self.slot(position)?;
        let mut column = TableColumn::new(self.next_column, def);
        column.fill = value::fill(def, now_micros).map_err(|e| e.with("table", &self.name))?;
        self.next_column += 1;
        self.columns.insert(at, column);
        self.reshape();
        Ok(())
    }

    /// Hashes of a multiset's rows from before are no longer those of the same rows.
    fn reshape(&mut self) {
        if self.model == Model::Multiset {
            self.shape += 1;
        }
    }

    fn drop_column(&mut self, name: &str) -> Result<()> {
        let at = self.at(name)?;
        if at < self.key_columns {
            return Err(Error::unsupported(format!("{name} is a column of the key and cannot be dropped"))
                .with("table", &self.name)
                .hint("create a new table with the other key, or sync the table again"));
        }
        if self.columns.len() == 1 {
            return Err(Error::unsupported(format!("{name} is the table's only column")).with("table", &self.name));
        }
        self.columns.remove(at);
        self.reshape();
        Ok(())
    }

    fn rename_column(&mut self, from: &str, to: &str) -> Result<()> {
        let at = self.at(from)?;
        if self.index_of(to).is_some_and(|other| other != at) {
            return Err(Error::already_exists(format!("column {to} exists already")).with("table", &self.name));
        }
        self.columns[at].name = to.to_string();
        Ok(())
    }

    fn modify_column(&mut self, def: &ColumnDef, position: Option<&ColumnPosition>) -> Result<()> {
        let at = self.at(&def.name)?;
        let in_key = at < self.key_columns;
        let column = &mut self.columns[at];
        if column.data_type != def.data_type {
            if !value::convertible(&column.data_type, &def.data_type, in_key) {
                let (from, to) = (&column.data_type, &def.data_type);
                return Err(Error::unsupported(format!("column {} cannot change from {from} to {to} in place", def.name))
                    .with("table", &self.name)
                    .hint("only changes that keep every value are done in place; sync the table again, or copy it to a new one"));
            }
            let former = column.former.take();
            let old = Former { id: column.id, data_type: column.data_type.clone(), former };
            column.former = Some(Box::new(old));
            column.fill = value::convert_fill(column.fill.take(), &column.data_type, &def.data_type)?;
            // What keeps a key's encoding keeps that of a row.
            let same = value::convertible(&column.data_type, &def.data_type, true);
            column.id = self.next_column;
            self.next_column += 1;
            column.data_type = def.data_type.clone();
            if !same {
                self.reshape();
            }
        }
        let column = &mut self.columns[at];
        column.nullable = def.nullable && !in_key || in_key && column.nullable;
        column.default.clone_from(&def.default);
        column.bytes = def.bytes;
        if !def.comment.is_empty() {
            column.comment.clone_from(&def.comment);
        }
        if let Some(position) = position
            && !in_key
        {
            let column = self.columns.remove(at);
            let to = self.slot(position)?;
            self.columns.insert(to, column);
        }
        Ok(())
    }
}

/// The effect of data definition on the stored data, as the log keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Edit {
    /// The database is there.
    PutDatabase(String),
    /// The database is gone.
    RemoveDatabase(String),
    /// The table is there with this definition, and under no other name.
    PutTable(Table),
    /// The table and its rows are gone.
    RemoveTable(u64),
    /// Its rows are gone.
    ClearTable(u64),
}

/// All databases and tables.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Catalog {
    pub databases: BTreeSet<String>,
    #[serde(with = "as_list")]
    pub tables: BTreeMap<u64, Arc<Table>>,
    /// The id of the next table.
    pub next_table: u64,
}

mod as_list {
    use super::{Arc, BTreeMap, Deserialize, Table};
    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(map: &BTreeMap<u64, Arc<Table>>, s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(map.values().map(AsRef::as_ref))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<BTreeMap<u64, Arc<Table>>, D::Error> {
        Ok(Vec::<Table>::deserialize(d)?.into_iter().map(|t| (t.id, Arc::new(t))).collect())
    }
}

impl Catalog {
    /// The table of that name.
    pub fn table(&self, name: &TableName) -> Option<&Arc<Table>> {
        self.tables.values().find(|t| t.name == *name)
    }

    fn existing(&self, name: &TableName) -> Result<Table> {
        match self.table(name) {
            Some(table) => Ok(table.as_ref().clone()),
            None => Err(Error::not_found(format!("table {name} does not exist"))),
        }
    }

    /// What `ddl` does to this catalog; nothing if it has nothing to do. `now_micros`: the time of the statement.
    ///
    /// # Errors
    /// `NotFound`, `AlreadyExists`, `Config`, or `Unsupported` when it cannot be done without rewriting rows.
    pub fn plan(&self, ddl: &Ddl, now_micros: i64) -> Result<Vec<Edit>> {
        let alter = |name: &TableName, change: &dyn Fn(&mut Table) -> Result<()>| {
            let mut table = self.existing(name)?;
            change(&mut table)?;
            table.version += 1;
            Ok(vec![Edit::PutTable(table)])
        };
        match ddl {
            Ddl::CreateDatabase { name, if_not_exists } => match (self.databases.contains(name), if_not_exists) {
                (false, _) => Ok(vec![Edit::PutDatabase(name.clone())]),
                (true, true) => Ok(Vec::new()),
                (true, false) => Err(Error::already_exists(format!("database {name} exists already"))),
            },
            Ddl::DropDatabase { name, if_exists } => match (self.databases.contains(name), if_exists) {
                (true, _) => {
                    let inside = self.tables.values().filter(|t| t.name.database == *name);
                    let mut edits: Vec<_> = inside.map(|t| Edit::RemoveTable(t.id)).collect();
                    edits.push(Edit::RemoveDatabase(name.clone()));
                    Ok(edits)
                }
                (false, true) => Ok(Vec::new()),
                (false, false) => Err(Error::not_found(format!("database {name} does not exist"))),
            },
            Ddl::CreateTable { table, if_not_exists } => self.plan_create(table, *if_not_exists),
            Ddl::DropTable { table, if_exists } => match (self.table(table), if_exists) {
                (Some(t), _) => Ok(vec![Edit::RemoveTable(t.id)]),
                (None, true) => Ok(Vec::new()),
                (None, false) => Err(Error::not_found(format!("table {table} does not exist"))),
            },
            Ddl::Truncate { table } => Ok(vec![Edit::ClearTable(self.existing(table)?.id)]),
            Ddl::RenameTable { table, to } => {
                let to = TableName::new(&table.database, to);
                if to != *table && self.table(&to).is_some() {
                    return Err(Error::already_exists(format!("table {to} exists already")));
                }
                alter(table, &|t| {
                    t.name = to.clone();
                    Ok(())
                })
            }
            Ddl::ReplaceTable { table, by, swap } => self.plan_replace(table, by, *swap),
            Ddl::SetTableComment { table, comment } => alter(table, &|t| {
                t.comment.clone_from(comment);
                Ok(())
            }),
            Ddl::AddColumn { table, column, position } => alter(table, &|t| t.add_column(column, position, now_micros)),
            Ddl::DropColumn { table, name } => alter(table, &|t| t.drop_column(name)),
            Ddl::RenameColumn { table, from, to } => alter(table, &|t| t.rename_column(from, to)),
            Ddl::ModifyColumn { table, column, position } => {
                alter(table, &|t| t.modify_column(column, position.as_ref()))
            }
            Ddl::SetColumnComment { table, name, comment } => alter(table, &|t| {
                let at = t.at(name)?;
                t.columns[at].comment.clone_from(comment);
                Ok(())
            }),
        }
    }

    fn plan_replace(&self, name: &TableName, by: &TableName, swap: bool) -> Result<Vec<Edit>> {
        let (mut old, mut new) = (self.existing(name)?, self.existing(by)?);
        if name.database != by.database || old.id == new.id {
            return Err(Error::config(format!("{name} cannot be replaced by {by}"))
                .with("table", name)
                .hint("name another table of the same database"));
        }
        std::mem::swap(&mut old.name, &mut new.name);
        (old.version, new.version) = (old.version + 1, new.version + 1);
        let first = if swap { Edit::PutTable(old) } else { Edit::RemoveTable(old.id) };
        Ok(vec![first, Edit::PutTable(new)])
    }

    fn plan_create(&self, def: &TableDef, if_not_exists: bool) -> Result<Vec<Edit>> {
        if !self.databases.contains(&def.name.database) {
            return Err(Error::not_found(format!("database {} does not exist", def.name.database))
                .hint(format!("CREATE DATABASE {}", freshet_core::schema::quote_name(&def.name.database))));
        }
        match (self.table(&def.name), if_not_exists) {
            (None, _) => Ok(vec![Edit::PutTable(Table::create(self.next_table, def)?)]),
            (Some(_), true) => Ok(Vec::new()),
            (Some(_), false) => Err(Error::already_exists(format!("table {} exists already", def.name))),
        }
    }

    /// Brings an edit about.
    pub fn apply(&mut self, edit: &Edit) {
        match edit {
            Edit::PutDatabase(name) => {
                self.databases.insert(name.clone());
            }
            Edit::RemoveDatabase(name) => {
                self.databases.remove(name);
            }
            Edit::PutTable(table) => {
                self.next_table = self.next_table.max(table.id + 1);
                self.tables.insert(table.id, Arc::new(table.clone()));
            }
            Edit::RemoveTable(id) => {
                self.tables.remove(id);
            }
            Edit::ClearTable(_) => {}
        }
    }
}
