//! Doris's data definition statements for a schema change: used by the embedded warehouse and by a Doris cluster's sink
//! alike, so that both plan the same.

use crate::connector::Statement;
use crate::datatype::{DataType, Doris};
use crate::error::{Error, Result};
use crate::schema::{Column, DefaultValue, TableChange, TableName, TableSchema, quote_name, quote_text};

/// The statements that bring `change` of the table `target` about. `after` is the source's schema behind the change.
///
/// # Errors
/// `Unsupported` when Doris has no such change.
pub fn plan(
    which: Doris,
    target: &TableName,
    change: &TableChange,
    after: Option<&TableSchema>,
) -> Result<Vec<Statement>> {
    let alter = |clause: String| vec![Statement(format!("ALTER TABLE {} {clause}", target.quoted()))];
    let modify = |name: &str| -> Result<Vec<Statement>> {
        let schema = after.ok_or_else(|| Error::internal("no schema behind a column change"))?;
        let column = schema
            .column(name)
            .ok_or_else(|| Error::schema(format!("column {name} is not known")).with("table", target))?;
        Ok(alter(format!("MODIFY COLUMN {}", column_definition(which, schema, column))))
    };
    Ok(match change {
        TableChange::CreateTable(schema) => vec![
            Statement(format!("CREATE DATABASE IF NOT EXISTS {}", quote_name(&target.database))),
            Statement(create_table(which, target, schema)),
        ],
        TableChange::DropTable => vec![Statement(format!("DROP TABLE IF EXISTS {}", target.quoted()))],
        TableChange::Truncate => vec![Statement(format!("TRUNCATE TABLE {}", target.quoted()))],
        TableChange::RenameTable { to } if to.database == target.database => {
            alter(format!("RENAME {}", quote_name(&to.table)))
        }
        TableChange::RenameTable { to } => {
            return Err(Error::unsupported(format!(
                "{target} was renamed to {to}: Doris cannot move a table between databases"
            ))
            .hint("drop the table from the job and sync it again under its new name"));
        }
        TableChange::AddColumn { column, .. } => {
            let schema = after.ok_or_else(|| Error::internal("no schema behind a new column"))?;
            let is_last = target_order(schema).last().is_some_and(|c| c.name == column.name);
            let place = if is_last { String::new() } else { place(schema, &column.name) };
            alter(format!("ADD COLUMN {}{place}", column_definition(which, schema, column)))
        }
        TableChange::DropColumn { name } => alter(format!("DROP COLUMN {}", quote_name(name))),
        TableChange::RenameColumn { from, to } => {
            alter(format!("RENAME COLUMN {} {}", quote_name(from), quote_name(to)))
        }
        TableChange::MoveColumn { name, .. } => {
            let schema = after.ok_or_else(|| Error::internal("no schema behind a moved column"))?;
            if schema.key.contains(name) {
                return Ok(Vec::new());
            }
            let mut statements = modify(name)?;
            for s in &mut statements {
                s.0.push_str(&place(schema, name));
            }
            statements
        }
        TableChange::ChangeType { name, .. }
        | TableChange::SetDefault { name, .. }
        | TableChange::SetNullable { name, .. } => modify(name)?,
        TableChange::SetColumnComment { name, comment } => {
            alter(format!("MODIFY COLUMN {} COMMENT {}", quote_name(name), quote_text(comment)))
        }
        TableChange::SetTableComment { comment } => alter(format!("MODIFY COMMENT {}", quote_text(comment))),
        TableChange::Rewrite { .. } | TableChange::SetSourceDefaults { .. } => Vec::new(),
        TableChange::ReplaceBy { shadow } => {
            alter(format!("REPLACE WITH TABLE {} PROPERTIES (\"swap\" = \"false\")", quote_name(&shadow.table)))
        }
        TableChange::ChangeKey { .. } => {
            return Err(Error::unsupported(format!(
                "the key of {target} changed: Doris cannot change the key of a table"
            ))
            .hint("drop the table from the job and sync it again"));
        }
    })
}

/// `CREATE TABLE`: a Unique Key (merge-on-write) table with the key's columns first. When the source has no key, a table
/// without one in the embedded warehouse, which can delete exactly one of equal rows there, and a Duplicate Key table
/// over the first column in a cluster. Without IF NOT EXISTS: rows must never be added to a table that somebody else
/// filled; doing it again after a crash is the label's business.
pub fn create_table(which: Doris, target: &TableName, schema: &TableSchema) -> String {
    let columns = target_order(schema);
    let definitions: Vec<_> = columns.iter().map(|c| format!("  {}", column_definition(which, schema, c))).collect();
    let comment = match schema.comment.as_str() {
        "" => String::new(),
        text => format!("COMMENT {}\n", quote_text(text)),
    };
    let key: Vec<_> = schema.key.iter().map(|k| quote_name(k)).collect();
    let first: Vec<_> = columns.first().map(|c| quote_name(&c.name)).into_iter().collect();
    let (model, distribution, properties) = match which {
        _ if schema.has_key() => {
            (format!("UNIQUE KEY ({})\n", key.join(", ")), format!("HASH({})", key.join(", ")), "")
        }
        Doris::Cluster => (format!("DUPLICATE KEY ({})\n", first.concat()), "RANDOM".into(), ""),
        Doris::Embedded => (String::new(), "RANDOM".into(), "\nPROPERTIES (\"freshet.multiset\" = \"true\")"),
    };
    format!(
        "CREATE TABLE {} (\n{}\n) {model}{comment}DISTRIBUTED BY {distribution} BUCKETS AUTO{properties}",
        target.quoted(),
        definitions.join(",\n"),
    )
}

fn column_definition(which: Doris, schema: &TableSchema, column: &Column) -> String {
    let in_key = schema.key.contains(&column.name);
    let mut out = format!("{} {}", quote_name(&column.name), column.data_type.to_doris(which, in_key));
    out.push_str(if column.nullable && !in_key { " NULL" } else { " NOT NULL" });
    if let Some(default) = &column.default
        && let Some(text) = default_clause(default, &column.data_type)
    {
        out.push_str(&format!(" DEFAULT {text}"));
    }
    if !column.comment.is_empty() {
        out.push_str(&format!(" COMMENT {}", quote_text(&column.comment)));
    }
    out
}

/// Defaults that Doris cannot express (expressions, current time on a column that is no date and time) are left out:
/// every row that we write carries the value.
fn default_clause(default: &DefaultValue, data_type: &DataType) -> Option<String> {
    match (default, data_type) {
        (_, DataType::Json | DataType::Bytes { .. } | DataType::Array(_)) => None,
        (DefaultValue::Literal(text), _) => Some(quote_text(text)),
        (DefaultValue::CurrentTimestamp(digits), DataType::DateTime { .. } | DataType::Timestamp { .. }) => {
            Some(if *digits == 0 { "CURRENT_TIMESTAMP".into() } else { format!("CURRENT_TIMESTAMP({digits})") })
        }
        _ => None,
    }
}

/// A table's columns in the order that they have at the target: the key's first, in the key's order.
fn target_order(schema: &TableSchema) -> Vec<&Column> {
    let mut columns: Vec<&Column> = schema.key.iter().filter_map(|k| schema.column(k)).collect();
    columns.extend(schema.columns.iter().filter(|c| !schema.key.contains(&c.name)));
    columns
}

/// Where a column stands at the target. What the source says (`FIRST`, `AFTER` a column of the key) would not give the
/// source's order there.
fn place(schema: &TableSchema, name: &str) -> String {
    let order = target_order(schema);
    match order.iter().position(|c| c.name == name) {
        None | Some(0) => " FIRST".into(),
        Some(at) => format!(" AFTER {}", quote_name(&order[at - 1].name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::ColumnPosition;

    /// Every change that a source can report, and what it is at the target.
    #[test]
    fn each_change_has_its_statement() {
        let table = TableName::new("dw", "t`s");
        let literal = |text: &str| Some(DefaultValue::Literal(text.into()));
        let column = |name: &str, of: DataType| Column::new(name, of);
        let columns = vec![
            column("b", DataType::Int32).not_null(),
            Column { default: literal("it's \\"), comment: "a 'note'".into(), ..column("note", DataType::TEXT) },
            column("id", DataType::Int64).not_null(),
            Column {
                default: literal("1.50"),
                ..column("n", DataType::Decimal { precision: 10, scale: 2 }).not_null()
            },
            Column {
                default: Some(DefaultValue::CurrentTimestamp(3)),
                ..column("at", DataType::DateTime { digits: 3 })
            },
            // What Doris cannot say: an expression, defaults of JSON and bytes, the time as a number.
            Column { default: Some(DefaultValue::Expression("uuid()".into())), ..column("u", DataType::TEXT) },
            Column { default: literal("{}"), ..column("j", DataType::Json) },
            Column { default: literal("00FF"), ..column("raw", DataType::Bytes { length: Some(2) }) },
            Column { default: Some(DefaultValue::CurrentTimestamp(0)), ..column("y", DataType::Int16) },
        ];
        let schema = TableSchema {
            name: TableName::new("d", "t"),
            columns,
            key: vec!["id".into(), "b".into()],
            comment: "all; of it".into(),
            source_defaults: String::new(),
        };
        let name = |n: &str| n.to_string();
        let add = |n: &str| TableChange::AddColumn {
            column: schema.column(n).unwrap().clone(),
            position: ColumnPosition::First,
        };
        let rows: Vec<(TableChange, &[&str])> = vec![
            (
                TableChange::CreateTable(schema.clone()),
                &[
                    "CREATE DATABASE IF NOT EXISTS `dw`",
                    "CREATE TABLE `dw`.`t``s` (\n  `id` BIGINT NOT NULL,\n  `b` INT NOT NULL,\n  \
                     `note` STRING NULL DEFAULT 'it''s \\\\' COMMENT 'a ''note''',\n  \
                     `n` DECIMAL(10,2) NOT NULL DEFAULT '1.50',\n  \
                     `at` DATETIME(3) NULL DEFAULT CURRENT_TIMESTAMP(3),\n  `u` STRING NULL,\n  `j` JSON NULL,\n  \
                     `raw` VARBINARY NULL,\n  `y` SMALLINT NULL\n) UNIQUE KEY (`id`, `b`)\nCOMMENT 'all; of it'\n\
                     DISTRIBUTED BY HASH(`id`, `b`) BUCKETS AUTO",
                ],
            ),
            (TableChange::DropTable, &["DROP TABLE IF EXISTS `dw`.`t``s`"]),
            (TableChange::Truncate, &["TRUNCATE TABLE `dw`.`t``s`"]),
            (TableChange::RenameTable { to: TableName::new("dw", "v") }, &["ALTER TABLE `dw`.`t``s` RENAME `v`"]),
            (add("n"), &["ALTER TABLE `dw`.`t``s` ADD COLUMN `n` DECIMAL(10,2) NOT NULL DEFAULT '1.50' AFTER `note`"]),
            (add("y"), &["ALTER TABLE `dw`.`t``s` ADD COLUMN `y` SMALLINT NULL"]),
            (TableChange::DropColumn { name: name("gone") }, &["ALTER TABLE `dw`.`t``s` DROP COLUMN `gone`"]),
            (
                TableChange::RenameColumn { from: name("was"), to: name("note") },
                &["ALTER TABLE `dw`.`t``s` RENAME COLUMN `was` `note`"],
            ),
            (
                TableChange::ChangeType {
                    name: name("n"),
                    from: DataType::Int32,
                    to: DataType::Decimal { precision: 10, scale: 2 },
                    source_type: name("decimal(10,2)"),
                },
                &["ALTER TABLE `dw`.`t``s` MODIFY COLUMN `n` DECIMAL(10,2) NOT NULL DEFAULT '1.50'"],
            ),
            (
                TableChange::MoveColumn { name: name("at"), position: ColumnPosition::Last },
                &["ALTER TABLE `dw`.`t``s` MODIFY COLUMN `at` DATETIME(3) NULL DEFAULT CURRENT_TIMESTAMP(3) AFTER `n`"],
            ),
            // A key's columns come first, wherever they stand at the source.
            (TableChange::MoveColumn { name: name("b"), position: ColumnPosition::First }, &[]),
            (
                TableChange::SetDefault { name: name("n"), default: literal("1.50") },
                &["ALTER TABLE `dw`.`t``s` MODIFY COLUMN `n` DECIMAL(10,2) NOT NULL DEFAULT '1.50'"],
            ),
            (
                TableChange::SetDefault { name: name("u"), default: None },
                &["ALTER TABLE `dw`.`t``s` MODIFY COLUMN `u` STRING NULL"],
            ),
            (
                TableChange::SetNullable { name: name("y"), nullable: true },
                &["ALTER TABLE `dw`.`t``s` MODIFY COLUMN `y` SMALLINT NULL"],
            ),
            (
                TableChange::SetColumnComment { name: name("note"), comment: name("it's") },
                &["ALTER TABLE `dw`.`t``s` MODIFY COLUMN `note` COMMENT 'it''s'"],
            ),
            (
                TableChange::SetTableComment { comment: name("it's") },
                &["ALTER TABLE `dw`.`t``s` MODIFY COMMENT 'it''s'"],
            ),
            (TableChange::SetSourceDefaults { source_defaults: name("utf8mb4") }, &[]),
            (TableChange::Rewrite { reason: name("charset"), columns: Vec::new() }, &[]),
            (
                TableChange::ReplaceBy { shadow: TableName::new("dw", "__freshet_1") },
                &["ALTER TABLE `dw`.`t``s` REPLACE WITH TABLE `__freshet_1` PROPERTIES (\"swap\" = \"false\")"],
            ),
        ];
        for (change, expected) in rows {
            let planned = plan(Doris::Embedded, &table, &change, Some(&schema)).unwrap();
            let planned: Vec<String> = planned.into_iter().map(|s| s.0).collect();
            assert_eq!(planned, expected, "{change:?}");
        }
        for refused in [
            TableChange::RenameTable { to: TableName::new("elsewhere", "t") },
            TableChange::ChangeKey { key: vec![name("n")] },
        ] {
            let e = plan(Doris::Embedded, &table, &refused, Some(&schema)).unwrap_err();
            assert!(e.kind == crate::error::ErrorKind::Unsupported && e.hint.is_some(), "{e}");
        }
        // Nothing can be said about a column that is not there behind the change.
        let missing = TableChange::SetNullable { name: name("missing"), nullable: true };
        assert!(plan(Doris::Embedded, &table, &missing, Some(&schema)).is_err());
        assert!(plan(Doris::Embedded, &table, &missing, None).is_err());
    }

    #[test]
    fn columns_stand_as_at_the_source_behind_the_key() {
        let column = |n: &str| Column::new(n, DataType::Int32);
        let mut schema = TableSchema {
            name: TableName::new("d", "t"),
            columns: ["first", "id", "middle", "note"].map(column).to_vec(),
            key: vec!["id".into()],
            comment: String::new(),
            source_defaults: String::new(),
        };
        let add = |name: &str| {
            let change = TableChange::AddColumn { column: column(name), position: ColumnPosition::First };
            plan(Doris::Embedded, &schema.name, &change, Some(&schema)).unwrap()[0].0.clone()
        };
        assert_eq!(add("first"), "ALTER TABLE `d`.`t` ADD COLUMN `first` INT NULL AFTER `id`");
        assert_eq!(add("middle"), "ALTER TABLE `d`.`t` ADD COLUMN `middle` INT NULL AFTER `first`");
        assert_eq!(add("note"), "ALTER TABLE `d`.`t` ADD COLUMN `note` INT NULL");
        schema.key.clear();
        let change = TableChange::MoveColumn { name: "first".into(), position: ColumnPosition::First };
        let moved = plan(Doris::Embedded, &schema.name, &change, Some(&schema)).unwrap();
        assert_eq!(moved[0].0, "ALTER TABLE `d`.`t` MODIFY COLUMN `first` INT NULL FIRST");
        // Without a place it would stay where it is.
        let change = TableChange::MoveColumn { name: "note".into(), position: ColumnPosition::Last };
        let moved = plan(Doris::Embedded, &schema.name, &change, Some(&schema)).unwrap();
        assert_eq!(moved[0].0, "ALTER TABLE `d`.`t` MODIFY COLUMN `note` INT NULL AFTER `middle`");
    }
}
