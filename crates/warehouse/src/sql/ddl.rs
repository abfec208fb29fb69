//! Doris's data definition statements: databases, tables with their key model, distribution, partitions and properties,
//! and `ALTER TABLE` with several clauses. Everything that `freshet_core::ddl::doris` plans reads back here. Clauses
//! that only say how a cluster spreads its data are read and left out; what would change meaning is refused.

use freshet_core::{ColumnPosition, DataType, DefaultValue, Error, Result, TableName};

use super::lexer::{Cursor, Token};
use super::types;
use crate::catalog::{ColumnDef, Ddl, Model, TableDef};

/// The steps of one statement, all names qualified.
///
/// # Errors
/// Syntax errors; `Unsupported` for what the warehouse has not.
pub fn parse(sql: &str) -> Result<Vec<Ddl>> {
    parse_in(sql, None)
}

/// [`parse`] with a database for names without one.
///
/// # Errors
/// As [`parse`], and when a name has no database and there is none.
pub(crate) fn parse_in(sql: &str, database: Option<&str>) -> Result<Vec<Ddl>> {
    let plain = super::lexer::plain(sql)?;
    let mut p = Parser { c: Cursor::new(&plain)?, database };
    let steps = p.statement()?;
    p.c.end()?;
    Ok(steps)
}

/// The property of a table without a key in which a delete removes exactly one row that is equal in all columns.
const MULTISET: &str = "freshet.multiset";

struct Parser<'a> {
    c: Cursor<'a>,
    database: Option<&'a str>,
}

impl Parser<'_> {
    fn statement(&mut self) -> Result<Vec<Ddl>> {
        let c = &mut self.c;
        match c.eat_any(&["CREATE", "DROP", "ALTER TABLE", "TRUNCATE TABLE", "TRUNCATE", "ALTER"]) {
            Some("CREATE") => self.create(),
            Some("DROP") => self.drop(),
            Some("ALTER TABLE") => self.alter(),
            Some("ALTER") => Err(unsupported_object(c, "altered")),
            Some(_) => {
                let name = self.table_name()?;
                if self.c.eat_any(&["PARTITION", "PARTITIONS"]).is_some() {
                    return Err(Error::unsupported("the warehouse does not partition tables")
                        .hint("DELETE FROM … WHERE … removes the rows of a range"));
                }
                self.c.eat("FORCE");
                Ok(vec![Ddl::Truncate { table: name }])
            }
            None => Err(c.error("expected CREATE, DROP, ALTER TABLE or TRUNCATE TABLE")),
        }
    }

    fn create(&mut self) -> Result<Vec<Ddl>> {
        if self.c.eat_any(&["DATABASE", "SCHEMA"]).is_some() {
            let if_not_exists = self.c.eat("IF NOT EXISTS");
            let name = self.database_name()?;
            self.charset_clauses();
            if self.c.eat("PROPERTIES") {
                self.c.skip_brackets()?;
            }
            return Ok(vec![Ddl::CreateDatabase { name, if_not_exists }]);
        }
        let external = self.c.eat_any(&["EXTERNAL", "TEMPORARY"]);
        if let Some(kind) = external {
            return Err(Error::unsupported(format!("{kind} tables are not stored by the warehouse")));
        }
        if !self.c.eat("TABLE") {
            return Err(unsupported_object(&self.c, "created"));
        }
        let if_not_exists = self.c.eat("IF NOT EXISTS");
        let name = self.table_name()?;
        if self.c.eat("LIKE") {
            return Err(
                Error::unsupported("CREATE TABLE … LIKE").hint("copy the statement that SHOW CREATE TABLE prints")
            );
        }
        let table = self.table(name)?;
        Ok(vec![Ddl::CreateTable { table, if_not_exists }])
    }

    /// `CHARACTER SET x`, `COLLATE y`: everything is UTF-8.
    fn charset_clauses(&mut self) {
        loop {
            self.c.eat("DEFAULT");
            if self.c.eat_any(&["CHARACTER SET", "CHARSET", "COLLATE"]).is_none() {
                return;
            }
            self.c.eat_symbol("=");
            self.c.advance();
        }
    }

    fn table(&mut self, name: TableName) -> Result<TableDef> {
        self.c.expect_symbol("(")?;
        let (mut columns, mut key): (Vec<ColumnDef>, Vec<String>) = (Vec::new(), Vec::new());
        let mut model = None;
        while !self.c.eat_symbol(")") {
            if self.c.eat_any(&["INDEX", "FULLTEXT"]).is_some() {
                self.skip_index()?;
            } else if self.c.eat("PRIMARY KEY") {
                (model, key) = (Some(Model::Unique), self.names()?);
            } else {
                let (column, in_key) = self.column()?;
                if in_key {
                    key.push(column.name.clone());
                }
                columns.push(column);
            }
            if !self.c.eat_symbol(",") {
                self.c.expect_symbol(")")?;
                break;
            }
        }
        let mut comment = String::new();
        let mut multiset = false;
        let at = self.c.offset();
        while !self.c.done() {
            if let Some(kind) = self.c.eat_any(&["UNIQUE KEY", "DUPLICATE KEY", "PRIMARY KEY", "AGGREGATE KEY"]) {
                model = Some(match kind {
                    "DUPLICATE KEY" => Model::Duplicate,
                    "AGGREGATE KEY" => {
                        return Err(Error::unsupported("Aggregate Key tables")
                            .with("table", &name)
                            .hint("use a UNIQUE KEY table, and aggregate in the query"));
                    }
                    _ => Model::Unique,
                });
                key = self.names()?;
            } else if self.c.eat_any(&["PROPERTIES", "BROKER PROPERTIES"]).is_some() {
                let on = |(key, value): &(String, String)| key == MULTISET && value.eq_ignore_ascii_case("true");
                multiset |= self.properties()?.iter().any(on);
            } else {
                self.table_option(&mut comment)?;
            }
        }
        let fail = |what: String| Err(self.c.error_at(at, what).with("table", &name));
        if columns.is_empty() {
            return fail("a table needs a column".into());
        }
        if multiset {
            if model.is_some() || !key.is_empty() {
                return fail(format!("a table with {MULTISET} has no key"));
            }
            return Ok(TableDef { name, columns, model: Model::Multiset, key, comment });
        }
        // Without a key clause Doris takes the first columns as a Duplicate Key table's key.
        let model = model.unwrap_or(Model::Duplicate);
        if key.is_empty() {
            key.push(columns[0].name.clone());
        }
        for (i, k) in key.iter_mut().enumerate() {
            match columns.iter().position(|c| c.name.to_lowercase() == k.to_lowercase()) {
                Some(at) if at == i => k.clone_from(&columns[at].name),
                Some(_) => {
                    return fail(format!("key column {k} must be column {} of the table: keys come first", i + 1));
                }
                None => return fail(format!("key column {k} is not a column of the table")),
            }
            let c = &columns[i];
            if matches!(c.data_type, DataType::Json | DataType::Array(_) | DataType::Float32 | DataType::Float64)
                || c.data_type == DataType::TEXT
            {
                return fail(format!("{} {} cannot be a key column", c.name, types::doris_name(&c.data_type, false)));
            }
        }
        let mut seen = std::collections::HashSet::new();
        if let Some(twice) = columns.iter().find(|c| !seen.insert(c.name.to_lowercase())) {
            return fail(format!("column {} is there twice", twice.name));
        }
        Ok(TableDef { name, columns, model, key, comment })
    }

    /// A clause behind the columns that is no key.
    fn table_option(&mut self, comment: &mut String) -> Result<()> {
        let c = &mut self.c;
        if c.eat("COMMENT") {
            c.eat_symbol("=");
            *comment = c.text()?;
        } else if c.eat("ENGINE") {
            c.eat_symbol("=");
            c.name()?;
        } else if c.eat("DISTRIBUTED BY") {
            if !c.eat("RANDOM") {
                c.expect("HASH")?;
                c.skip_brackets()?;
            }
            if c.eat("BUCKETS") && !c.eat("AUTO") {
                c.integer()?;
            }
        } else if c.eat("AUTO PARTITION BY") || c.eat("PARTITION BY") {
            // Partitions prune in Doris; here the segments' statistics do, so that they mean nothing.
            if c.eat_any(&["RANGE", "LIST"]).is_none() && c.peek() != Some(&Token::Symbol("(")) {
                return Err(c.error("expected RANGE or LIST"));
            }
            c.skip_brackets()?;
            c.skip_brackets()?;
        } else if c.eat("ROLLUP") {
            return Err(Error::unsupported("rollups").hint("leave ROLLUP out"));
        } else if c.eat_any(&["ORDER BY", "CLUSTER BY"]).is_some() {
            return Err(Error::unsupported("a sort order other than the key").hint("leave ORDER BY out"));
        } else if c.sees("AS") || c.sees("SELECT") {
            return Err(
                Error::unsupported("CREATE TABLE … AS SELECT").hint("create the table, then INSERT INTO … SELECT")
            );
        } else {
            let before = c.offset();
            self.charset_clauses();
            if self.c.offset() == before {
                return Err(self.c.error("this is not a clause of CREATE TABLE"));
            }
        }
        Ok(())
    }

    fn properties(&mut self) -> Result<Vec<(String, String)>> {
        let c = &mut self.c;
        let mut out = Vec::new();
        c.expect_symbol("(")?;
        loop {
            let key = c.text()?.to_lowercase();
            c.expect_symbol("=")?;
            let value = c.text()?;
            if key.starts_with("function_column.sequence") {
                return Err(Error::unsupported("sequence columns").hint("leave the property out: the last write wins"));
            }
            if key == "enable_unique_key_merge_on_write" && value.eq_ignore_ascii_case("false") {
                tracing::warn!("unique key tables are always merged on write");
            }
            out.push((key, value));
            if !c.eat_symbol(",") {
                break;
            }
        }
        c.expect_symbol(")")?;
        Ok(out)
    }

    /// `INDEX name (columns) [USING kind [PROPERTIES (…)]] [COMMENT '…']`: segments carry their own indexes.
    fn skip_index(&mut self) -> Result<()> {
        let c = &mut self.c;
        c.eat("IF NOT EXISTS");
        c.name()?;
        if c.peek() != Some(&Token::Symbol("(")) {
            return Err(c.error("expected the columns of the index"));
        }
        c.skip_brackets()?;
        if c.eat("USING") {
            c.name()?;
        }
        if c.eat("PROPERTIES") {
            c.skip_brackets()?;
        }
        if c.eat("COMMENT") {
            c.text()?;
        }
        Ok(())
    }

    /// `name type [KEY] [aggregation] [NOT NULL|NULL] [AUTO_INCREMENT] [DEFAULT v] [COMMENT '…']`; whether it is a key.
    fn column(&mut self) -> Result<(ColumnDef, bool)> {
        let name = self.c.name()?;
        let (data_type, bytes) = types::parse(&mut self.c)?;
        let mut column = ColumnDef { name, data_type, nullable: true, default: None, comment: String::new(), bytes };
        let mut in_key = false;
        loop {
            let c = &mut self.c;
            if c.eat("PRIMARY KEY") || c.eat("KEY") {
                in_key = true;
            } else if c.eat("NOT NULL") {
                column.nullable = false;
            } else if c.eat("NULL") {
                column.nullable = true;
            } else if c.eat("DEFAULT") {
                column.default = self.default(&column)?;
            } else if c.eat("COMMENT") {
                column.comment = c.text()?;
            } else if c.eat("AUTO_INCREMENT") {
                return Err(Error::unsupported("AUTO_INCREMENT")
                    .with("column", &column.name)
                    .hint("leave it out and give every row its value"));
            } else if c.eat("ON UPDATE") {
                return Err(Error::unsupported("ON UPDATE CURRENT_TIMESTAMP").with("column", &column.name));
            } else if c.eat("GENERATED ALWAYS") || c.sees("AS") {
                return Err(Error::unsupported("generated columns")
                    .with("column", &column.name)
                    .hint("compute the value in the query"));
            } else if let Some(how) =
                c.eat_any(&["REPLACE_IF_NOT_NULL", "REPLACE", "SUM", "MIN", "MAX", "HLL_UNION", "BITMAP_UNION"])
            {
                return Err(Error::unsupported(format!("the aggregation {how}"))
                    .with("column", &column.name)
                    .hint("use a UNIQUE KEY table, and aggregate in the query"));
            } else if c.eat_any(&["CHARACTER SET", "CHARSET", "COLLATE"]).is_some() {
                c.advance();
            } else {
                return Ok((column, in_key));
            }
        }
    }

    fn default(&mut self, column: &ColumnDef) -> Result<Option<DefaultValue>> {
        let c = &mut self.c;
        let negative = c.eat_symbol("-");
        match c.advance() {
            Some(Token::Number(n)) => {
                Ok(Some(DefaultValue::Literal(format!("{}{n}", if negative { "-" } else { "" }))))
            }
            _ if negative => Err(c.error("expected a number")),
            Some(Token::Text(text)) => Ok(Some(DefaultValue::Literal(text))),
            Some(Token::Word(w)) => match w.to_uppercase().as_str() {
                "NULL" => Ok(None),
                "TRUE" => Ok(Some(DefaultValue::Literal("1".into()))),
                "FALSE" => Ok(Some(DefaultValue::Literal("0".into()))),
                "PI" => Ok(Some(DefaultValue::Literal(std::f64::consts::PI.to_string()))),
                "E" => Ok(Some(DefaultValue::Literal(std::f64::consts::E.to_string()))),
                "CURRENT_TIMESTAMP" | "NOW" => {
                    let mut digits = 0;
                    if c.eat_symbol("(") && !c.eat_symbol(")") {
                        digits = c.integer()?.min(6) as u8;
                        c.expect_symbol(")")?;
                    }
                    Ok(Some(DefaultValue::CurrentTimestamp(digits)))
                }
                "CURRENT_DATE" => {
                    c.skip_brackets()?;
                    Ok(Some(DefaultValue::CurrentTimestamp(0)))
                }
                other => Err(Error::unsupported(format!("the default {other}")).with("column", &column.name)),
            },
            _ => Err(c.error("expected a default value")),
        }
    }

    fn drop(&mut self) -> Result<Vec<Ddl>> {
        if self.c.eat_any(&["DATABASE", "SCHEMA"]).is_some() {
            let if_exists = self.c.eat("IF EXISTS");
            let name = self.database_name()?;
            self.c.eat("FORCE");
            return Ok(vec![Ddl::DropDatabase { name, if_exists }]);
        }
        if !self.c.eat("TABLE") {
            return Err(unsupported_object(&self.c, "dropped"));
        }
        let if_exists = self.c.eat("IF EXISTS");
        let mut steps = Vec::new();
        loop {
            steps.push(Ddl::DropTable { table: self.table_name()?, if_exists });
            if !self.c.eat_symbol(",") {
                break;
            }
        }
        self.c.eat("FORCE");
        Ok(steps)
    }

    fn alter(&mut self) -> Result<Vec<Ddl>> {
        let table = self.table_name()?;
        let mut steps = Vec::new();
        loop {
            self.alter_clause(&table, &mut steps)?;
            if !self.c.eat_symbol(",") {
                break;
            }
        }
        Ok(steps)
    }

    fn alter_clause(&mut self, table: &TableName, steps: &mut Vec<Ddl>) -> Result<()> {
        let c = &mut self.c;
        let table = table.clone();
        match c.eat_any(&["ADD", "DROP", "MODIFY", "RENAME", "ORDER BY", "SET", "ENABLE FEATURE", "REPLACE"]) {
            Some("ADD") if c.eat_any(&["INDEX", "PARTITION", "ROLLUP"]).is_some() => Err(unsupported_clause()),
            Some("ADD") => {
                c.eat("COLUMN");
                if c.eat_symbol("(") {
                    loop {
                        let column = self.added()?;
                        steps.push(Ddl::AddColumn { table: table.clone(), column, position: ColumnPosition::Last });
                        if !self.c.eat_symbol(",") {
                            break;
                        }
                    }
                    return self.c.expect_symbol(")");
                }
                let column = self.added()?;
                let position = self.position()?.unwrap_or(ColumnPosition::Last);
                steps.push(Ddl::AddColumn { table, column, position });
                Ok(())
            }
            Some("DROP") if c.eat_any(&["INDEX", "PARTITION", "ROLLUP"]).is_some() => Err(unsupported_clause()),
            Some("DROP") => {
                c.eat("COLUMN");
                steps.push(Ddl::DropColumn { table, name: c.name()? });
                Ok(())
            }
            Some("MODIFY") if c.eat("COMMENT") => {
                steps.push(Ddl::SetTableComment { table, comment: c.text()? });
                Ok(())
            }
            Some("MODIFY") => self.modify(table, steps),
            Some("RENAME") if c.eat("COLUMN") => {
                let from = c.name()?;
                c.eat("TO");
                steps.push(Ddl::RenameColumn { table, from, to: c.name()? });
                Ok(())
            }
            Some("RENAME") if c.eat_any(&["PARTITION", "ROLLUP"]).is_some() => Err(unsupported_clause()),
            Some("RENAME") => {
                c.eat_any(&["TO", "AS"]);
                steps.push(Ddl::RenameTable { table, to: c.name()? });
                Ok(())
            }
            Some("REPLACE") if c.eat("WITH TABLE") => {
                let by = TableName::new(&table.database, c.name()?);
                let mut swap = true;
                if c.eat("PROPERTIES") {
                    for (key, value) in self.properties()? {
                        match (key.as_str(), value.to_lowercase().as_str()) {
                            ("swap", "true") => swap = true,
                            ("swap", "false") => swap = false,
                            _ => return Err(Error::unsupported(format!("the property {key} = {value}"))),
                        }
                    }
                }
                self.c.eat("FORCE");
                steps.push(Ddl::ReplaceTable { table, by, swap });
                Ok(())
            }
            // Properties of a table change nothing here that a reader could see.
            Some("SET") => self.properties().map(|_| ()),
            Some(_) => Err(unsupported_clause()),
            None => Err(c.error("expected a clause of ALTER TABLE: ADD, DROP, MODIFY, RENAME or REPLACE")),
        }
    }

    fn added(&mut self) -> Result<ColumnDef> {
        let (column, in_key) = self.column()?;
        if in_key {
            return Err(Error::unsupported("adding a key column")
                .with("column", &column.name)
                .hint("create a new table with that key and copy the rows"));
        }
        Ok(column)
    }

    fn modify(&mut self, table: TableName, steps: &mut Vec<Ddl>) -> Result<()> {
        self.c.eat("COLUMN");
        if matches!(self.c.peek_at(1), Some(Token::Word(w)) if w.eq_ignore_ascii_case("COMMENT")) {
            let name = self.c.name()?;
            self.c.expect("COMMENT")?;
            steps.push(Ddl::SetColumnComment { table, name, comment: self.c.text()? });
            return Ok(());
        }
        let (column, _) = self.column()?;
        let position = self.position()?;
        steps.push(Ddl::ModifyColumn { table, column, position });
        Ok(())
    }

    fn position(&mut self) -> Result<Option<ColumnPosition>> {
        if self.c.eat("FIRST") {
            return Ok(Some(ColumnPosition::First));
        }
        if self.c.eat("AFTER") {
            return Ok(Some(ColumnPosition::After(self.c.name()?)));
        }
        Ok(None)
    }

    fn names(&mut self) -> Result<Vec<String>> {
        self.c.expect_symbol("(")?;
        let mut names = vec![self.c.name()?];
        while self.c.eat_symbol(",") {
            names.push(self.c.name()?);
        }
        self.c.expect_symbol(")")?;
        Ok(names)
    }

    fn database_name(&mut self) -> Result<String> {
        let first = self.c.name()?;
        if self.c.eat_symbol(".") { self.c.name() } else { Ok(first) }
    }

    /// `[[catalog.]database.]table`.
    fn table_name(&mut self) -> Result<TableName> {
        let mut parts = vec![self.c.name()?];
        while self.c.eat_symbol(".") {
            parts.push(self.c.name()?);
        }
        match parts.as_slice() {
            [table] => match self.database {
                Some(database) => Ok(TableName::new(database, table)),
                None => Err(Error::config("no database selected")
                    .with("no database", table)
                    .hint("say USE <database>, or write <database>.<table>")),
            },
            [.., database, table] => Ok(TableName::new(database, table)),
            [] => Err(self.c.error("expected the name of a table")),
        }
    }
}

fn unsupported_object(c: &Cursor<'_>, done: &str) -> Error {
    let word = c.rest().split_whitespace().next().unwrap_or_default().to_uppercase();
    match word.as_str() {
        "VIEW" | "MATERIALIZED" | "INDEX" | "USER" | "ROLE" | "CATALOG" | "RESOURCE" | "FUNCTION" | "JOB" | "OR"
        | "ROUTINE" | "REPOSITORY" | "WORKLOAD" | "DATABASE" => {
            Error::unsupported(format!("a {word} cannot be {done} in the warehouse yet"))
        }
        _ => c.error("expected DATABASE or TABLE"),
    }
}

fn unsupported_clause() -> Error {
    Error::unsupported("this clause of ALTER TABLE")
        .hint("columns can be added, dropped, modified, moved and renamed, tables renamed, replaced and commented")
}
