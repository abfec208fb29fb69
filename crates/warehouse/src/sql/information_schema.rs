//! `information_schema` (and the few tables of `mysql` that tools look for), as batches made anew for each statement, so
//! that they can be joined and filtered like any table. The engine's tables ([`super::SystemTables`]) appear here, too.

use arrow::datatypes::{DataType as Arrow, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use freshet_core::{Error, Result, TableName};

use super::listing::Listing;
use super::show::shown;
use super::types::{mysql_name, sizes};
use super::{Session, VERSION_COMMENT, nearest};
use crate::catalog::{Model, Table};
use crate::{Snapshot, TableView};

/// The database's name.
pub(crate) const NAME: &str = "information_schema";
/// What stands in the columns `TABLE_CATALOG`.
const CATALOG: &str = "internal";
pub(crate) const COLLATION: &str = "utf8mb4_0900_bin";
/// The row of `character_sets`.
pub(crate) const CHARACTER_SET: [&str; 4] = ["utf8mb4", COLLATION, "UTF-8 Unicode", "4"];
/// The rows of `collations`.
pub(crate) const COLLATIONS: [[&str; 6]; 2] =
    [[COLLATION, "utf8mb4", "309", "Yes", "Yes", "1"], ["utf8mb4_general_ci", "utf8mb4", "45", "", "Yes", "1"]];
/// The row of `engines`.
pub(crate) const ENGINE: [&str; 6] = ["OLAP", "DEFAULT", "Segments sorted by key, merged on write", "YES", "NO", "NO"];

/// Tables and their columns; a name that ends in `#` is a column of whole numbers.
const TABLES: &[(&str, &[&str])] = &[
    ("character_sets", &["CHARACTER_SET_NAME", "DEFAULT_COLLATE_NAME", "DESCRIPTION", "MAXLEN#"]),
    ("collations", &["COLLATION_NAME", "CHARACTER_SET_NAME", "ID#", "IS_DEFAULT", "IS_COMPILED", "SORTLEN#"]),
    (
        "column_privileges",
        &["GRANTEE", "TABLE_CATALOG", "TABLE_SCHEMA", "TABLE_NAME", "COLUMN_NAME", "PRIVILEGE_TYPE", "IS_GRANTABLE"],
    ),
    (
        "columns",
        &[
            "TABLE_CATALOG",
            "TABLE_SCHEMA",
            "TABLE_NAME",
            "COLUMN_NAME",
            "ORDINAL_POSITION#",
            "COLUMN_DEFAULT",
            "IS_NULLABLE",
            "DATA_TYPE",
            "CHARACTER_MAXIMUM_LENGTH#",
            "CHARACTER_OCTET_LENGTH#",
            "NUMERIC_PRECISION#",
            "NUMERIC_SCALE#",
            "DATETIME_PRECISION#",
            "CHARACTER_SET_NAME",
            "COLLATION_NAME",
            "COLUMN_TYPE",
            "COLUMN_KEY",
            "EXTRA",
            "PRIVILEGES",
            "COLUMN_COMMENT",
            "COLUMN_SIZE#",
            "DECIMAL_DIGITS#",
            "GENERATION_EXPRESSION",
            "SRS_ID#",
        ],
    ),
    ("engines", &["ENGINE", "SUPPORT", "COMMENT", "TRANSACTIONS", "XA", "SAVEPOINTS"]),
    (
        "events",
        &[
            "EVENT_CATALOG",
            "EVENT_SCHEMA",
            "EVENT_NAME",
            "DEFINER",
            "TIME_ZONE",
            "EVENT_BODY",
            "EVENT_DEFINITION",
            "EVENT_TYPE",
            "STATUS",
            "EVENT_COMMENT",
        ],
    ),
    ("global_variables", &["VARIABLE_NAME", "VARIABLE_VALUE", "DEFAULT_VALUE", "CHANGED"]),
    (
        "key_column_usage",
        &[
            "CONSTRAINT_CATALOG",
            "CONSTRAINT_SCHEMA",
            "CONSTRAINT_NAME",
            "TABLE_CATALOG",
            "TABLE_SCHEMA",
            "TABLE_NAME",
            "COLUMN_NAME",
            "ORDINAL_POSITION#",
            "POSITION_IN_UNIQUE_CONSTRAINT#",
            "REFERENCED_TABLE_SCHEMA",
            "REFERENCED_TABLE_NAME",
            "REFERENCED_COLUMN_NAME",
        ],
    ),
    (
        "parameters",
        &[
            "SPECIFIC_CATALOG",
            "SPECIFIC_SCHEMA",
            "SPECIFIC_NAME",
            "ORDINAL_POSITION#",
            "PARAMETER_MODE",
            "PARAMETER_NAME",
            "DATA_TYPE",
            "DTD_IDENTIFIER",
            "ROUTINE_TYPE",
        ],
    ),
    (
        "partitions",
        &[
            "TABLE_CATALOG",
            "TABLE_SCHEMA",
            "TABLE_NAME",
            "PARTITION_NAME",
            "SUBPARTITION_NAME",
            "PARTITION_ORDINAL_POSITION#",
            "PARTITION_METHOD",
            "PARTITION_EXPRESSION",
            "PARTITION_DESCRIPTION",
            "TABLE_ROWS#",
            "DATA_LENGTH#",
            "PARTITION_COMMENT",
        ],
    ),
    ("processlist", &["ID#", "USER", "HOST", "DB", "COMMAND", "TIME#", "STATE", "INFO"]),
    (
        "referential_constraints",
        &[
            "CONSTRAINT_CATALOG",
            "CONSTRAINT_SCHEMA",
            "CONSTRAINT_NAME",
            "UNIQUE_CONSTRAINT_CATALOG",
            "UNIQUE_CONSTRAINT_SCHEMA",
            "UNIQUE_CONSTRAINT_NAME",
            "MATCH_OPTION",
            "UPDATE_RULE",
            "DELETE_RULE",
            "TABLE_NAME",
            "REFERENCED_TABLE_NAME",
        ],
    ),
    (
        "routines",
        &[
            "SPECIFIC_NAME",
            "ROUTINE_CATALOG",
            "ROUTINE_SCHEMA",
            "ROUTINE_NAME",
            "ROUTINE_TYPE",
            "DATA_TYPE",
            "DTD_IDENTIFIER",
            "ROUTINE_BODY",
            "ROUTINE_DEFINITION",
            "IS_DETERMINISTIC",
            "SQL_DATA_ACCESS",
            "SECURITY_TYPE",
            "ROUTINE_COMMENT",
            "DEFINER",
        ],
    ),
    ("schema_privileges", &["GRANTEE", "TABLE_CATALOG", "TABLE_SCHEMA", "PRIVILEGE_TYPE", "IS_GRANTABLE"]),
    ("schemata", &["CATALOG_NAME", "SCHEMA_NAME", "DEFAULT_CHARACTER_SET_NAME", "DEFAULT_COLLATION_NAME", "SQL_PATH"]),
    ("session_variables", &["VARIABLE_NAME", "VARIABLE_VALUE", "DEFAULT_VALUE", "CHANGED"]),
    (
        "statistics",
        &[
            "TABLE_CATALOG",
            "TABLE_SCHEMA",
            "TABLE_NAME",
            "NON_UNIQUE#",
            "INDEX_SCHEMA",
            "INDEX_NAME",
            "SEQ_IN_INDEX#",
            "COLUMN_NAME",
            "COLLATION",
            "CARDINALITY#",
            "SUB_PART#",
            "PACKED",
            "NULLABLE",
            "INDEX_TYPE",
            "COMMENT",
            "INDEX_COMMENT",
        ],
    ),
    (
        "table_constraints",
        &[
            "CONSTRAINT_CATALOG",
            "CONSTRAINT_SCHEMA",
            "CONSTRAINT_NAME",
            "TABLE_SCHEMA",
            "TABLE_NAME",
            "CONSTRAINT_TYPE",
        ],
    ),
    ("table_privileges", &["GRANTEE", "TABLE_CATALOG", "TABLE_SCHEMA", "TABLE_NAME", "PRIVILEGE_TYPE", "IS_GRANTABLE"]),
    (
        "tables",
        &[
            "TABLE_CATALOG",
            "TABLE_SCHEMA",
            "TABLE_NAME",
            "TABLE_TYPE",
            "ENGINE",
            "VERSION#",
            "ROW_FORMAT",
            "TABLE_ROWS#",
            "AVG_ROW_LENGTH#",
            "DATA_LENGTH#",
            "MAX_DATA_LENGTH#",
            "INDEX_LENGTH#",
            "DATA_FREE#",
            "AUTO_INCREMENT#",
            "CREATE_TIME",
            "UPDATE_TIME",
            "CHECK_TIME",
            "TABLE_COLLATION",
            "CHECKSUM#",
            "CREATE_OPTIONS",
            "TABLE_COMMENT",
        ],
    ),
    (
        "triggers",
        &[
            "TRIGGER_CATALOG",
            "TRIGGER_SCHEMA",
            "TRIGGER_NAME",
            "EVENT_MANIPULATION",
            "EVENT_OBJECT_CATALOG",
            "EVENT_OBJECT_SCHEMA",
            "EVENT_OBJECT_TABLE",
            "ACTION_STATEMENT",
            "ACTION_TIMING",
        ],
    ),
    ("user_privileges", &["GRANTEE", "TABLE_CATALOG", "PRIVILEGE_TYPE", "IS_GRANTABLE"]),
    (
        "views",
        &[
            "TABLE_CATALOG",
            "TABLE_SCHEMA",
            "TABLE_NAME",
            "VIEW_DEFINITION",
            "CHECK_OPTION",
            "IS_UPDATABLE",
            "DEFINER",
            "SECURITY_TYPE",
            "CHARACTER_SET_CLIENT",
            "COLLATION_CONNECTION",
        ],
    ),
];

/// Whether it is a database without tables of its own.
pub(crate) fn is_database(name: &str) -> bool {
    name.eq_ignore_ascii_case(NAME)
}

/// All databases with this one, sorted.
pub(crate) fn databases(snapshot: &Snapshot) -> Vec<String> {
    let mut names: Vec<String> = snapshot.databases().map(str::to_string).collect();
    names.push(NAME.to_string());
    names.sort();
    names
}

/// Names of the tables here.
pub(crate) fn table_names(session: &Session) -> Vec<String> {
    let engine = session.sql.system.tables().into_iter().map(|(name, _)| name.to_string());
    TABLES.iter().map(|(name, _)| (*name).to_string()).chain(engine).collect()
}

/// Columns of a table here.
///
/// # Errors
/// `NotFound` when there is none of that name.
pub(crate) fn schema(session: &Session, table: &str) -> Result<SchemaRef> {
    if let Some((_, columns)) = TABLES.iter().find(|(name, _)| name.eq_ignore_ascii_case(table)) {
        return Ok(Listing::new(columns).schema());
    }
    if let Some((_, schema)) = session.sql.system.tables().into_iter().find(|(n, _)| n.eq_ignore_ascii_case(table)) {
        return Ok(schema);
    }
    let e = Error::not_found(format!("table '{NAME}.{table}' does not exist")).with("table", format!("{NAME}.{table}"));
    let names = table_names(session);
    Err(match nearest(table, names.iter().map(String::as_str)) {
        Some(near) => e.hint(format!("did you mean {near}?")),
        None => e,
    })
}

/// The rows of a table here.
///
/// # Errors
/// As [`schema`], and when the engine cannot be asked.
pub(crate) async fn table(session: &Session, snapshot: &Snapshot, table: &str) -> Result<RecordBatch> {
    let Some((name, columns)) = TABLES.iter().find(|(name, _)| name.eq_ignore_ascii_case(table)) else {
        schema(session, table)?;
        return session.sql.system.rows(&table.to_lowercase()).await;
    };
    let mut l = Listing::new(columns);
    match *name {
        "character_sets" => l.texts(&CHARACTER_SET),
        "collations" => COLLATIONS.iter().for_each(|row| l.texts(row)),
        "columns" => {
            for view in snapshot.tables() {
                columns_of(view, &mut l);
            }
            for table in table_names(session) {
                system_columns(&table, &*schema(session, &table)?, &mut l);
            }
        }
        "engines" => l.texts(&ENGINE),
        "global_variables" | "session_variables" => variables(session, &mut l),
        "key_column_usage" => snapshot.tables().for_each(|view| key_usage(view, &mut l)),
        "statistics" => snapshot.tables().flat_map(|view| key_rows(view.as_ref())).for_each(|row| l.row(row)),
        "processlist" => l.row(process(session, None)),
        "schemata" => {
            for name in databases(snapshot) {
                l.row(vec![Some(CATALOG.into()), Some(name), Some("utf8mb4".into()), Some(COLLATION.into()), None]);
            }
        }
        "table_constraints" => {
            for view in snapshot.tables().filter(|v| v.table.model == Model::Unique) {
                let table = &view.table.name;
                l.texts(&[CATALOG, &table.database, "PRIMARY", &table.database, &table.table, "PRIMARY KEY"]);
            }
        }
        "tables" => {
            snapshot.tables().for_each(|view| l.row(table_row(view)));
            for name in table_names(session) {
                let mut row = vec![Some(CATALOG), Some(NAME), Some(name.as_str()), Some("SYSTEM VIEW"), Some("MEMORY")];
                row.resize(20, None);
                row.push(Some(VERSION_COMMENT));
                l.row(row.into_iter().map(|v| v.map(str::to_string)).collect());
            }
        }
        "user_privileges" => {
            for privilege in ["SELECT", "INSERT", "UPDATE", "DELETE", "CREATE", "DROP", "ALTER"] {
                l.texts(&[&format!("'{}'@'%'", session.user), CATALOG, privilege, "NO"]);
            }
        }
        _ => {}
    }
    l.batch()
}

/// Rows of names, values, defaults, and whether the value is another one.
pub(crate) fn variables(session: &Session, l: &mut Listing) {
    for (name, value, default) in session.variables.all() {
        let changed = if value == default { "0" } else { "1" };
        l.texts(&[name, value, default, changed.to_string()]);
    }
}

/// The row of this session in `processlist`; `info`: the statement.
pub(crate) fn process(session: &Session, info: Option<&str>) -> Vec<Option<String>> {
    vec![
        some(session.id),
        some(&session.user),
        some("localhost"),
        session.database.clone(),
        some("Query"),
        some(0),
        some(""),
        info.map(str::to_string),
    ]
}

fn some(n: impl ToString) -> Option<String> {
    Some(n.to_string())
}

/// A table's row in `tables`; its bytes are those of segments on disk and of the delta in memory.
pub(crate) fn table_row(view: &TableView) -> Vec<Option<String>> {
    let (table, rows, bytes) = (&view.table, view.live_rows, view.file_bytes() + view.delta_bytes() as u64);
    vec![
        some(CATALOG),
        some(&table.name.database),
        some(&table.name.table),
        some("BASE TABLE"),
        some("OLAP"),
        None,
        None,
        some(rows),
        some(bytes.checked_div(rows).unwrap_or(0)),
        some(bytes),
        None,
        None,
        None,
        None,
        None,
        None,
        None,
        some(COLLATION),
        None,
        None,
        some(&table.comment),
    ]
}

fn columns_of(view: &TableView, l: &mut Listing) {
    let table = &view.table;
    for (i, (shown, column)) in shown(table).into_iter().zip(&table.columns).enumerate() {
        let s = sizes(column, shown.key);
        let number = |n: Option<u64>| n.map(|n| n.to_string());
        let key = match (shown.key, shown.primary) {
            (false, _) => "",
            (true, true) => "PRI",
            (true, false) => "DUP",
        };
        l.row(vec![
            some(CATALOG),
            some(&table.name.database),
            some(&table.name.table),
            some(shown.name),
            some(i + 1),
            shown.default,
            some(if shown.nullable { "YES" } else { "NO" }),
            some(mysql_name(&column.data_type)),
            number(s.length),
            number(s.length),
            number(s.precision),
            number(s.scale),
            number(s.digits),
            shown.text.then(|| "utf8mb4".to_string()),
            shown.text.then(|| COLLATION.to_string()),
            some(shown.kind),
            some(key),
            some(""),
            some("select,insert,update,delete"),
            some(shown.comment),
            number(s.length.or(s.precision).or(s.digits)),
            number(s.scale),
            some(""),
            None,
        ]);
    }
}

fn system_columns(table: &str, schema: &Schema, l: &mut Listing) {
    for (i, f) in schema.fields().iter().enumerate() {
        let (name, length) = system_type(f);
        let mut row = vec![
            some(CATALOG),
            some(NAME),
            some(table),
            some(f.name()),
            some(i + 1),
            None,
            some("YES"),
            some(name),
            length.map(|n| n.to_string()),
            length.map(|n| n.to_string()),
        ];
        row.resize(15, None);
        row.extend([some(name), some(""), some(""), some("select"), some("")]);
        l.row(row);
    }
}

fn system_type(field: &Field) -> (&'static str, Option<u32>) {
    match field.data_type() {
        Arrow::Utf8 => ("varchar", Some(65_533)),
        Arrow::Timestamp(..) => ("datetime", None),
        Arrow::Float64 | Arrow::Float32 => ("double", None),
        Arrow::Boolean => ("tinyint", None),
        _ => ("bigint", None),
    }
}

/// The columns of a unique key, as ordinals from 1 and names.
fn unique_key(table: &Table) -> impl Iterator<Item = (usize, &str)> {
    let key = if table.model == Model::Unique { table.key() } else { &[] };
    (1..).zip(key.iter().map(|c| c.name.as_str()))
}

fn key_usage(view: &TableView, l: &mut Listing) {
    let TableName { database, table } = &view.table.name;
    for (i, column) in unique_key(&view.table) {
        l.row(vec![
            some(CATALOG),
            some(database),
            some("PRIMARY"),
            some(CATALOG),
            some(database),
            some(table),
            some(column),
            some(i),
        ]);
    }
}

/// A table's rows in `statistics`.
pub(crate) fn key_rows(view: &TableView) -> Vec<Vec<Option<String>>> {
    let TableName { database, table } = &view.table.name;
    let row = |(i, column): (usize, &str)| {
        vec![
            some(CATALOG),
            some(database),
            some(table),
            some(0),
            some(database),
            some("PRIMARY"),
            some(i),
            some(column),
            some("A"),
            some(view.live_rows),
            None,
            None,
            some(""),
            some("BTREE"),
            some(""),
            some(""),
        ]
    };
    unique_key(&view.table).map(row).collect()
}
