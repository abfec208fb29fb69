//! `SHOW …` and `DESC`: what clients ask to find their way around, in the column shapes of Doris and MySQL 5.7.

use std::sync::Arc;

use freshet_core::schema::{quote_name, quote_text};
use freshet_core::{Error, Result, TableName};

use super::lexer::{Cursor, Token};
use super::listing::Listing;
use super::types::declared;
use super::{Outcome, Session, find_table, information_schema, unknown_database};
use crate::catalog::{Model, Table, TableColumn};
use crate::{Snapshot, TableView};
use freshet_core::DefaultValue;

/// What follows most forms: `LIKE '…'` or `WHERE …`.
#[derive(Default)]
struct Filter {
    like: Option<String>,
    condition: Option<String>,
}

impl Session {
    /// `SHOW …`, behind the word.
    ///
    /// # Errors
    /// Syntax errors, unknown databases and tables.
    pub(crate) async fn show(&mut self, c: &mut Cursor<'_>) -> Result<Outcome> {
        c.eat_any(&["GLOBAL", "SESSION", "LOCAL"]);
        let full = c.eat("FULL") || c.eat("EXTENDED");
        let start = c.rest().to_string();
        match c.advance().map(|t| word(&t)).unwrap_or_default().as_str() {
            "DATABASES" | "SCHEMAS" => self.show_databases(c).await,
            "TABLES" => self.show_tables(c, full).await,
            "VIEWS" => {
                let database = self.named_database(c)?;
                let listing = Listing::new(&[format!("Tables_in_{database}")]);
                self.filtered(listing, c, 0).await
            }
            "COLUMNS" | "FIELDS" => self.show_columns(c, full).await,
            "CREATE" => self.show_create(c).await,
            "TABLE" if c.eat("STATUS") => self.show_table_status(c).await,
            "INDEX" | "INDEXES" | "KEYS" => self.show_index(c).await,
            "VARIABLES" => self.show_variables(c).await,
            "STATUS" => self.show_status(c).await,
            "WARNINGS" | "ERRORS" => self.empty(c, &["Level", "Code#", "Message"]).await,
            "COUNT" => self.show_count(c).await,
            "ENGINES" => {
                let mut l = Listing::new(&["Engine", "Support", "Comment", "Transactions", "XA", "Savepoints"]);
                l.texts(&information_schema::ENGINE);
                self.filtered(l, c, 0).await
            }
            "CHARSET" => self.show_charset(c).await,
            "CHARACTER" if c.eat("SET") => self.show_charset(c).await,
            "COLLATION" => self.show_collation(c).await,
            "PROCESSLIST" => self.show_processlist(c).await,
            "GRANTS" => self.show_grants(c).await,
            "PRIVILEGES" => self.empty(c, &["Privilege", "Context", "Comment"]).await,
            "PLUGINS" => self.empty(c, &["Name", "Status", "Type", "Library", "License"]).await,
            "TRIGGERS" => {
                let names = ["Trigger", "Event", "Table", "Statement", "Timing", "Created", "sql_mode", "Definer"];
                self.empty(c, &names).await
            }
            "EVENTS" => {
                let names = [
                    "Db",
                    "Name",
                    "Definer",
                    "Time zone",
                    "Type",
                    "Execute at",
                    "Interval value",
                    "Interval field",
                    "Starts",
                    "Ends",
                    "Status",
                    "Originator",
                    "character_set_client",
                    "collation_connection",
                    "Database Collation",
                ];
                self.empty(c, &names).await
            }
            "PROCEDURE" | "FUNCTION" if c.eat("STATUS") => {
                let names = [
                    "Db",
                    "Name",
                    "Type",
                    "Definer",
                    "Modified",
                    "Created",
                    "Security_type",
                    "Comment",
                    "character_set_client",
                    "collation_connection",
                    "Database Collation",
                ];
                self.empty(c, &names).await
            }
            "OPEN" if c.eat("TABLES") => self.empty(c, &["Database", "Table", "In_use#", "Name_locked#"]).await,
            "PARTITIONS" => self.empty(c, &["PartitionId#", "PartitionName", "State", "Buckets#", "DataSize"]).await,
            "CATALOGS" => {
                let mut l = Listing::new(&["CatalogId#", "CatalogName", "Type", "IsCurrent", "Comment"]);
                l.texts(&["0", "internal", "internal", "Yes", "Freshet's embedded warehouse"]);
                self.filtered(l, c, 1).await
            }
            "BACKENDS" | "FRONTENDS" => self.show_nodes(c).await,
            "JOBS" => self.show_system(c, "freshet_jobs", None).await,
            "JOB" if c.eat("TABLES") => self.show_system(c, "freshet_tables", Some("job")).await,
            "JOB" if c.eat("ERRORS") => self.show_system(c, "freshet_errors", Some("job")).await,
            other => {
                const KNOWN: [&str; 16] = [
                    "DATABASES",
                    "TABLES",
                    "COLUMNS",
                    "CREATE",
                    "INDEX",
                    "VARIABLES",
                    "STATUS",
                    "WARNINGS",
                    "ENGINES",
                    "CHARSET",
                    "COLLATION",
                    "PROCESSLIST",
                    "GRANTS",
                    "JOBS",
                    "JOB",
                    "VIEWS",
                ];
                let near = super::nearest(other, KNOWN.into_iter());
                let e = Error::config(format!("there is no SHOW {other}")).with("near", format!("'{start}'"));
                Err(match near {
                    Some(near) => e.hint(format!("did you mean SHOW {near}?")),
                    None => e,
                })
            }
        }
    }

    /// `DESC [database.]table`, behind the word.
    ///
    /// # Errors
    /// As [`Self::show`].
    pub(crate) fn describe(&self, c: &mut Cursor<'_>) -> Result<Outcome> {
        let name = self.named_table(c)?;
        c.eat("ALL");
        c.end()?;
        let snapshot = self.sql.warehouse.snapshot();
        let mut l = Listing::new(&["Field", "Type", "Null", "Key", "Default", "Extra"]);
        for column in shown_columns(self, &snapshot, &name)? {
            l.row(vec![
                Some(column.name),
                Some(column.kind),
                Some(if column.nullable { "Yes" } else { "No" }.into()),
                Some(column.key.to_string()),
                column.default,
                Some(if column.key { "" } else { "NONE" }.into()),
            ]);
        }
        let (schema, batch) = (l.schema(), l.batch()?);
        Ok(Outcome::Rows { schema, stream: Box::pin(futures::stream::iter([Ok(batch)])) })
    }

    async fn show_databases(&self, c: &mut Cursor<'_>) -> Result<Outcome> {
        if c.eat_any(&["FROM", "IN"]).is_some() {
            c.name()?;
        }
        let snapshot = self.sql.warehouse.snapshot();
        let mut l = Listing::new(&["Database"]);
        for database in information_schema::databases(&snapshot) {
            l.texts(&[database]);
        }
        self.filtered(l, c, 0).await
    }

    async fn show_tables(&self, c: &mut Cursor<'_>, full: bool) -> Result<Outcome> {
        let database = self.named_database(c)?;
        let snapshot = self.sql.warehouse.snapshot();
        let mut names = vec![format!("Tables_in_{database}")];
        if full {
            names.push("Table_type".into());
        }
        let mut l = Listing::new(&names);
        if information_schema::is_database(&database) {
            for name in information_schema::table_names(self) {
                l.row(vec![Some(name), Some("SYSTEM VIEW".into())].into_iter().take(names.len()).collect());
            }
        } else {
            for view in tables_of(&snapshot, &database)? {
                let row = vec![Some(view.table.name.table.clone()), Some("BASE TABLE".into())];
                l.row(row.into_iter().take(names.len()).collect());
            }
        }
        l.sort();
        self.filtered(l, c, 0).await
    }

    async fn show_columns(&self, c: &mut Cursor<'_>, full: bool) -> Result<Outcome> {
        let name = self.table_behind_from(c)?;
        let snapshot = self.sql.warehouse.snapshot();
        let names: &[&str] = match full {
            true => &["Field", "Type", "Collation", "Null", "Key", "Default", "Extra", "Privileges", "Comment"],
            false => &["Field", "Type", "Null", "Key", "Default", "Extra"],
        };
        let mut l = Listing::new(names);
        for column in shown_columns(self, &snapshot, &name)? {
            let null = Some(if column.nullable { "YES" } else { "NO" }.to_string());
            // As MySQL's clients look for it; `DESC` has Doris's word.
            let key = Some(if column.primary { "PRI" } else { "" }.to_string());
            let collation = column.text.then(|| information_schema::COLLATION.to_string());
            l.row(match full {
                true => vec![
                    Some(column.name),
                    Some(column.kind),
                    collation,
                    null,
                    key,
                    column.default,
                    Some(String::new()),
                    Some("select,insert,update,delete".into()),
                    Some(column.comment),
                ],
                false => vec![Some(column.name), Some(column.kind), null, key, column.default, Some(String::new())],
            });
        }
        self.filtered(l, c, 0).await
    }

    async fn show_create(&self, c: &mut Cursor<'_>) -> Result<Outcome> {
        let snapshot = self.sql.warehouse.snapshot();
        if c.eat_any(&["DATABASE", "SCHEMA"]).is_some() {
            c.eat("IF NOT EXISTS");
            let name = c.name()?;
            c.end()?;
            if !information_schema::databases(&snapshot).contains(&name) {
                return Err(unknown_database(&snapshot, &name));
            }
            let mut l = Listing::new(&["Database", "Create Database"]);
            l.texts(&[name.clone(), format!("CREATE DATABASE {}", quote_name(&name))]);
            return self.answer(l, None).await;
        }
        if c.eat("CATALOG") {
            let name = c.name()?;
            let mut l = Listing::new(&["Catalog", "Create Catalog"]);
            l.texts(&[name.clone(), format!("CREATE CATALOG {}", quote_name(&name))]);
            return self.answer(l, None).await;
        }
        if c.eat("VIEW") {
            return Err(Error::unsupported("views"));
        }
        c.expect("TABLE")?;
        let name = self.named_table(c)?;
        c.end()?;
        let view = find_table(&snapshot, &name)?;
        let mut l = Listing::new(&["Table", "Create Table"]);
        l.texts(&[name.table.clone(), create_table(&view.table)]);
        self.answer(l, None).await
    }

    async fn show_table_status(&self, c: &mut Cursor<'_>) -> Result<Outcome> {
        let database = self.named_database(c)?;
        let snapshot = self.sql.warehouse.snapshot();
        let mut l = Listing::new(&[
            "Name",
            "Engine",
            "Version#",
            "Row_format",
            "Rows#",
            "Avg_row_length#",
            "Data_length#",
            "Max_data_length#",
            "Index_length#",
            "Data_free#",
            "Auto_increment#",
            "Create_time",
            "Update_time",
            "Check_time",
            "Collation",
            "Checksum#",
            "Create_options",
            "Comment",
        ]);
        if !information_schema::is_database(&database) {
            for view in tables_of(&snapshot, &database)? {
                // The same columns, but for where the table is and of which kind.
                let mut row = information_schema::table_row(view);
                row.remove(3);
                l.row(row.split_off(2));
            }
        }
        l.sort();
        self.filtered(l, c, 0).await
    }

    async fn show_index(&self, c: &mut Cursor<'_>) -> Result<Outcome> {
        let name = self.table_behind_from(c)?;
        let snapshot = self.sql.warehouse.snapshot();
        let mut l = Listing::new(&[
            "Table",
            "Non_unique#",
            "Key_name",
            "Seq_in_index#",
            "Column_name",
            "Collation",
            "Cardinality#",
            "Sub_part#",
            "Packed",
            "Null",
            "Index_type",
            "Comment",
            "Index_comment",
        ]);
        if !information_schema::is_database(&name.database) {
            for mut row in information_schema::key_rows(find_table(&snapshot, &name)?) {
                // The same columns, but for the databases of table and index.
                row.remove(4);
                l.row(row.split_off(2));
            }
        }
        self.filtered(l, c, 2).await
    }

    async fn show_variables(&self, c: &mut Cursor<'_>) -> Result<Outcome> {
        let mut l = Listing::new(&["Variable_name", "Value", "Default_Value", "Changed"]);
        information_schema::variables(self, &mut l);
        self.filtered(l, c, 0).await
    }

    async fn show_status(&self, c: &mut Cursor<'_>) -> Result<Outcome> {
        let mut l = Listing::new(&["Variable_name", "Value"]);
        for (name, value) in [("Ssl_cipher", ""), ("Threads_connected", "1"), ("Uptime", "1")] {
            l.texts(&[name, value]);
        }
        self.filtered(l, c, 0).await
    }

    async fn show_count(&self, c: &mut Cursor<'_>) -> Result<Outcome> {
        c.expect_symbol("(")?;
        c.expect_symbol("*")?;
        c.expect_symbol(")")?;
        let what = c.name()?.to_lowercase();
        let name = if what == "errors" { "@@session.error_count#" } else { "@@session.warning_count#" };
        let mut l = Listing::new(&[name]);
        l.texts(&["0"]);
        self.answer(l, None).await
    }

    async fn show_charset(&self, c: &mut Cursor<'_>) -> Result<Outcome> {
        let mut l = Listing::new(&["Charset", "Description", "Default collation", "Maxlen#"]);
        let [name, collation, description, bytes] = information_schema::CHARACTER_SET;
        l.texts(&[name, description, collation, bytes]);
        self.filtered(l, c, 0).await
    }

    async fn show_collation(&self, c: &mut Cursor<'_>) -> Result<Outcome> {
        let mut l = Listing::new(&["Collation", "Charset", "Id#", "Default", "Compiled", "Sortlen#"]);
        information_schema::COLLATIONS.iter().for_each(|row| l.texts(row));
        self.filtered(l, c, 0).await
    }

    async fn show_processlist(&self, c: &mut Cursor<'_>) -> Result<Outcome> {
        let mut l = Listing::new(&["Id#", "User", "Host", "db", "Command", "Time#", "State", "Info"]);
        l.row(information_schema::process(self, Some("SHOW PROCESSLIST")));
        self.filtered(l, c, 1).await
    }

    async fn show_grants(&self, c: &mut Cursor<'_>) -> Result<Outcome> {
        while !c.done() {
            c.advance();
        }
        let mut l = Listing::new(&[format!("Grants for {}@%", self.user)]);
        l.texts(&[format!("GRANT ALL PRIVILEGES ON *.* TO '{}'@'%'", self.user)]);
        self.answer(l, None).await
    }

    async fn show_nodes(&self, c: &mut Cursor<'_>) -> Result<Outcome> {
        let mut l = Listing::new(&["Id#", "Host", "QueryPort#", "Alive", "Version"]);
        let port = self.variable("port").unwrap_or_default();
        l.texts(&["1", "127.0.0.1", &port, "true", super::VERSION_COMMENT]);
        self.filtered(l, c, 1).await
    }

    /// A table of the engine, for one job if its name is given.
    async fn show_system(&self, c: &mut Cursor<'_>, table: &str, job: Option<&str>) -> Result<Outcome> {
        let mut sql = format!("SELECT * FROM information_schema.{table}");
        match job {
            Some(column) if c.eat("FOR") => {
                let name = match c.peek() {
                    Some(Token::Text(_)) => c.text()?,
                    _ => c.name()?,
                };
                sql.push_str(&format!(" WHERE {column} = {}", quote_text(&name)));
            }
            _ if c.sees("WHERE") || c.sees("ORDER") || c.sees("LIMIT") => {
                sql.push_str(&format!(" {}", c.rest()));
                while !c.done() {
                    c.advance();
                }
            }
            _ => {}
        }
        c.end()?;
        Box::pin(self.query(&sql)).await
    }

    async fn empty(&self, c: &mut Cursor<'_>, names: &[&str]) -> Result<Outcome> {
        while !c.done() {
            c.advance();
        }
        self.answer(Listing::new(names), None).await
    }

    /// Applies `LIKE` to a column, or `WHERE`, and answers.
    async fn filtered(&self, mut listing: Listing, c: &mut Cursor<'_>, column: usize) -> Result<Outcome> {
        let filter = filter(c)?;
        if let Some(pattern) = &filter.like {
            listing.keep_like(column, pattern);
        }
        self.answer(listing, filter.condition.as_deref()).await
    }

    /// `[FROM|IN database]`, or the current one.
    fn named_database(&self, c: &mut Cursor<'_>) -> Result<String> {
        if c.eat_any(&["FROM", "IN"]).is_none() {
            return Ok(self.need_database()?.to_string());
        }
        let mut name = c.name()?;
        while c.eat_symbol(".") {
            name = c.name()?;
        }
        Ok(name)
    }

    /// `FROM [database.]table [FROM database]`.
    fn table_behind_from(&self, c: &mut Cursor<'_>) -> Result<TableName> {
        if c.eat_any(&["FROM", "IN"]).is_none() {
            return Err(c.error("expected FROM and a table"));
        }
        let mut name = self.named_table_or(c, None)?;
        if c.eat_any(&["FROM", "IN"]).is_some() {
            name.database = c.name()?;
        }
        Ok(name)
    }

    fn named_table(&self, c: &mut Cursor<'_>) -> Result<TableName> {
        let name = self.named_table_or(c, self.database.as_deref())?;
        if name.database.is_empty() {
            self.need_database()?;
        }
        Ok(name)
    }

    fn named_table_or(&self, c: &mut Cursor<'_>, database: Option<&str>) -> Result<TableName> {
        let mut parts = vec![c.name()?];
        while c.eat_symbol(".") {
            parts.push(c.name()?);
        }
        let table = parts.pop().unwrap_or_default();
        let database = parts.pop().or_else(|| database.or(self.database.as_deref()).map(str::to_string));
        Ok(TableName::new(database.unwrap_or_default(), table))
    }
}

fn word(token: &Token<'_>) -> String {
    match token {
        Token::Word(w) => w.to_uppercase(),
        _ => String::new(),
    }
}

fn filter(c: &mut Cursor<'_>) -> Result<Filter> {
    let mut filter = Filter::default();
    if c.eat("LIKE") {
        filter.like = Some(c.text()?);
    } else if c.eat("WHERE") {
        filter.condition = Some(c.rest().to_string());
        while !c.done() {
            c.advance();
        }
    }
    c.end()?;
    Ok(filter)
}

/// The tables of a database.
fn tables_of<'s>(snapshot: &'s Snapshot, database: &str) -> Result<Vec<&'s Arc<TableView>>> {
    if !snapshot.databases().any(|d| d == database) {
        return Err(unknown_database(snapshot, database));
    }
    Ok(snapshot.tables().filter(|v| v.table.name.database == database).collect())
}

/// A column as it is shown.
pub(crate) struct Shown {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) nullable: bool,
    pub(crate) key: bool,
    /// Of a unique key.
    pub(crate) primary: bool,
    pub(crate) default: Option<String>,
    pub(crate) comment: String,
    pub(crate) text: bool,
}

fn shown_columns(session: &Session, snapshot: &Snapshot, name: &TableName) -> Result<Vec<Shown>> {
    if information_schema::is_database(&name.database) {
        let fields = information_schema::schema(session, &name.table)?;
        return Ok(fields
            .fields()
            .iter()
            .map(|f| Shown {
                name: f.name().clone(),
                kind: if f.data_type().is_numeric() { "bigint".into() } else { "varchar(65533)".into() },
                nullable: true,
                key: false,
                primary: false,
                default: None,
                comment: String::new(),
                text: !f.data_type().is_numeric(),
            })
            .collect());
    }
    Ok(shown(&find_table(snapshot, name)?.table))
}

/// The columns of a table.
pub(crate) fn shown(table: &Table) -> Vec<Shown> {
    let column = |(i, c): (usize, &TableColumn)| {
        let key = i < table.key_columns;
        Shown {
            name: c.name.clone(),
            kind: declared(c, key),
            nullable: c.nullable,
            key,
            primary: key && table.model == Model::Unique,
            default: c.default.as_ref().map(default_text),
            comment: c.comment.clone(),
            text: matches!(c.data_type, freshet_core::DataType::String { .. }),
        }
    };
    table.columns.iter().enumerate().map(column).collect()
}

/// A default as SHOW prints it.
fn default_text(default: &DefaultValue) -> String {
    match default {
        DefaultValue::Literal(text) | DefaultValue::Expression(text) => text.clone(),
        DefaultValue::CurrentTimestamp(0) => "CURRENT_TIMESTAMP".into(),
        DefaultValue::CurrentTimestamp(digits) => format!("CURRENT_TIMESTAMP({digits})"),
    }
}

/// `CREATE TABLE` as Doris prints it; [`super::ddl::parse`] reads it back to the same table.
pub(crate) fn create_table(table: &Table) -> String {
    let column = |(i, c): (usize, &TableColumn)| {
        let in_key = i < table.key_columns;
        let null = if c.nullable { "NULL" } else { "NOT NULL" };
        let mut line = format!("  {} {} {null}", quote_name(&c.name), declared(c, in_key));
        match &c.default {
            Some(DefaultValue::Literal(text)) => line.push_str(&format!(" DEFAULT {}", quote_text(text))),
            Some(now @ DefaultValue::CurrentTimestamp(_)) => line.push_str(&format!(" DEFAULT {}", default_text(now))),
            Some(DefaultValue::Expression(_)) | None => {}
        }
        if !c.comment.is_empty() {
            line.push_str(&format!(" COMMENT {}", quote_text(&c.comment)));
        }
        line
    };
    let columns: Vec<_> = table.columns.iter().enumerate().map(column).collect();
    let key: Vec<_> = table.key().iter().map(|c| quote_name(&c.name)).collect();
    let key = key.join(", ");
    let clause = match table.model {
        Model::Unique => format!("UNIQUE KEY({key})\n"),
        Model::Duplicate => format!("DUPLICATE KEY({key})\n"),
        Model::Multiset => String::new(),
    };
    let comment = match table.comment.as_str() {
        "" => String::new(),
        text => format!("COMMENT {}\n", quote_text(text)),
    };
    let distribution = if table.model == Model::Unique { format!("HASH({key})") } else { "RANDOM".to_string() };
    format!(
        "CREATE TABLE {} (\n{}\n) ENGINE=OLAP\n{clause}{comment}DISTRIBUTED BY {distribution} BUCKETS AUTO{}",
        quote_name(&table.name.table),
        columns.join(",\n"),
        if table.model == Model::Multiset { "\nPROPERTIES (\"freshet.multiset\" = \"true\")" } else { "" },
    )
}
