//! `CREATE TABLE`, and the options of tables that `ALTER TABLE` shares.

use freshet_core::{DefaultValue, Error, Result, TableChange, TableName, TableSchema};

use super::column::{ColumnDef, Zone, choose_key, index_name, parse_charset, parse_check, system_versioned};
use super::cursor::Cursor;
use super::lexer::{self, Token};
use super::{Context, Parsed, Statement, Steps};
use crate::mysql::types::{Charsets, charset_of_collation};

/// Options that don't change what rows look like.
const PLAIN_OPTIONS: [&str; 40] = [
    "AUTO_INCREMENT",
    "AUTOEXTEND_SIZE",
    "AVG_ROW_LENGTH",
    "CHECKSUM",
    "COMPRESSION",
    "CONNECTION",
    "DATA DIRECTORY",
    "DELAY_KEY_WRITE",
    "ENCRYPTION",
    "ENGINE",
    "ENGINE_ATTRIBUTE",
    "IETF_QUOTES",
    "INDEX DIRECTORY",
    "INSERT_METHOD",
    "KEY_BLOCK_SIZE",
    "MAX_ROWS",
    "MIN_ROWS",
    "PACK_KEYS",
    "PAGE_CHECKSUM",
    "PAGE_COMPRESSED",
    "PAGE_COMPRESSION_LEVEL",
    "PASSWORD",
    "RAID_TYPE",
    "ROW_FORMAT",
    "SECONDARY_ENGINE",
    "SECONDARY_ENGINE_ATTRIBUTE",
    "SEQUENCE",
    "STATS_AUTO_RECALC",
    "STATS_PERSISTENT",
    "STATS_SAMPLE_PAGES",
    "STORAGE",
    "TABLE_CHECKSUM",
    "TABLESPACE",
    "TRANSACTIONAL",
    "TYPE",
    "UNION",
    "ENCRYPTED",
    "ENCRYPTION_KEY_ID",
    "ITEF_QUOTES",
    "STORAGE ENGINE",
];

/// An option of a table.
pub(super) enum TableOption {
    /// The character set of columns that don't name theirs; `None`: the database's.
    Charset(Option<String>),
    /// The comment.
    Comment(String),
    /// One that does not matter.
    Plain,
}

/// Reads an option of a table; `None` when something else comes.
pub(super) fn parse_option(c: &mut Cursor<'_>) -> Result<Option<TableOption>> {
    let mut ahead = c.clone();
    ahead.eat("DEFAULT");
    if let Some(charset) = parse_charset(&mut ahead)? {
        *c = ahead;
        return Ok(Some(TableOption::Charset((charset != "default").then_some(charset))));
    }
    if ahead.eat("COLLATE") {
        ahead.eat_symbol('=');
        let collation = ahead.name_or_text()?.to_ascii_lowercase();
        *c = ahead;
        return Ok(Some(match charset_of_collation(&collation) {
            Some(charset) => TableOption::Charset(Some(charset)),
            None if collation == "default" => TableOption::Charset(None),
            // Without a character set in front it goes with whatever the table has.
            None => TableOption::Plain,
        }));
    }
    if c.eat("COMMENT") {
        c.eat_symbol('=');
        return Ok(Some(TableOption::Comment(c.text()?)));
    }
    let attribute =
        matches!(c.peek(), Some(Token::Word(_) | Token::Name(_))) && c.peek_at(1) == Some(&Token::Symbol('='));
    if c.eat_one(&PLAIN_OPTIONS).is_some() || attribute {
        if attribute && c.peek() != Some(&Token::Symbol('=')) {
            c.advance();
        }
        c.eat_symbol('=');
        match c.peek() {
            Some(Token::Symbol('(')) => {
                c.parens()?;
            }
            _ => {
                c.advance();
            }
        }
        return Ok(Some(TableOption::Plain));
    }
    Ok(None)
}

/// The body of a `CREATE TABLE`.
#[derive(Default)]
struct Body {
    columns: Vec<ColumnDef>,
    primary: Option<Vec<String>>,
    unique: Vec<(String, Vec<String>)>,
    /// What the options say: nothing, the database's, or one.
    charset: Option<String>,
    comment: String,
}

impl Statement<'_> {
    pub(super) fn create_table(&self, c: &mut Cursor<'_>, replace: bool) -> Result<Parsed> {
        let if_not_exists = c.eat("IF NOT EXISTS");
        let name = c.table_name(self.context)?;
        let followed = self.tables.contains_key(&name);
        if (!followed && !self.pattern.matches(&name)) || (followed && if_not_exists) {
            return Ok(Parsed::Unrelated);
        }
        let mut steps = Steps::new();
        if followed && replace {
            steps.push((name.clone(), TableChange::DropTable));
        }
        let created = self.created(c, &name).map(|schema| {
            steps.push((name.clone(), TableChange::CreateTable(schema)));
            steps
        });
        Ok(self.done(vec![name], created))
    }

    fn created(&self, c: &mut Cursor<'_>, name: &TableName) -> Result<TableSchema> {
        let mut ahead = c.clone();
        ahead.eat_symbol('(');
        if ahead.eat("LIKE") {
            let like = ahead.table_name(self.context)?;
            let Some(schema) = self.tables.get(&like) else {
                return Err(Error::unsupported(format!(
                    "{like} is not followed, so the columns of {name} are not known"
                ))
                .hint(format!("select {like} as well, or sync {name} again")));
            };
            return Ok(TableSchema { name: name.clone(), ..TableSchema::clone(schema) });
        }
        let mut body = Body::default();
        if c.peek() == Some(&Token::Symbol('(')) {
            let mut inside = c.parens()?;
            while inside.peek().is_some() {
                body.element(&mut inside)?;
                if inside.peek().is_some() {
                    inside.expect_symbol(',')?;
                }
            }
        }
        body.options(c)?;
        // MySQL has a JSON type of its own: a check there is only a check.
        body.columns.iter_mut().for_each(|d| d.json_check &= self.context.mariadb);
        let default = self.context.charsets.of(&name.database);
        let source_defaults = body.charset.take().unwrap_or_else(|| default.to_string());
        let charset = (!source_defaults.is_empty()).then_some(source_defaults.as_str());
        let mut columns =
            body.columns.iter().map(|d| d.column(charset, self.context.zone)).collect::<Result<Vec<_>>>()?;
        let in_key = |name: &str| body.primary.iter().flatten().any(|k| k.eq_ignore_ascii_case(name));
        for column in columns.iter_mut().filter(|c| in_key(&c.name)) {
            column.nullable = false;
        }
        let key = choose_key(&mut columns, body.primary, body.unique);
        Ok(TableSchema { name: name.clone(), columns, key, comment: body.comment, source_defaults })
    }
}

impl Body {
    /// A column, an index or a constraint.
    fn element(&mut self, c: &mut Cursor<'_>) -> Result<()> {
        let mut ahead = c.clone();
        let constraint = match ahead.eat("CONSTRAINT") {
            true if !ahead.sees("PRIMARY")
                && !ahead.sees("UNIQUE")
                && !ahead.sees("FOREIGN")
                && !ahead.sees("CHECK") =>
            {
                Some(ahead.name()?)
            }
            _ => None,
        };
        if ahead.eat("PRIMARY KEY") {
            *c = ahead;
            self.primary = Some(key_columns(c)?.1);
        } else if ahead.eat("UNIQUE") {
            *c = ahead;
            c.eat_one(&["INDEX", "KEY"]);
            let (name, columns) = key_columns(c)?;
            self.add_unique(name.or(constraint), columns);
        } else if ahead.sees("CHECK") {
            *c = ahead;
            parse_check(c)?;
        } else if ahead.sees("PERIOD FOR SYSTEM_TIME") {
            return Err(system_versioned());
        } else if is_index(&ahead) || ahead.sees("FOREIGN KEY") || ahead.sees("PERIOD FOR") {
            c.skip_clause();
        } else {
            let def = ColumnDef::parse(c)?;
            if def.primary {
                self.primary = Some(vec![def.name.clone()]);
            }
            if def.unique {
                self.add_unique(None, vec![def.name.clone()]);
            }
            self.columns.push(def);
        }
        Ok(())
    }

    fn add_unique(&mut self, name: Option<String>, columns: Vec<String>) {
        let name = name.or_else(|| columns.first().map(|first| index_name(first, &self.unique)));
        self.unique.push((name.unwrap_or_default(), columns));
    }

    fn options(&mut self, c: &mut Cursor<'_>) -> Result<()> {
        while !c.is_end() {
            c.eat_symbol(',');
            match parse_option(c)? {
                Some(TableOption::Charset(charset)) => self.charset = charset,
                Some(TableOption::Comment(comment)) => self.comment = comment,
                Some(TableOption::Plain) => {}
                None if c.eat("PARTITION BY") => while c.advance().is_some() {},
                // What MySQL puts behind the columns of a CREATE TABLE … SELECT, whose rows follow in the log.
                None if c.eat("START TRANSACTION") => {}
                None if c.sees("WITH SYSTEM VERSIONING") => return Err(system_versioned()),
                None if ["AS", "SELECT", "IGNORE", "REPLACE", "WITH", "VALUES", "TABLE"].iter().any(|w| c.sees(w)) => {
                    return Err(Error::unsupported("CREATE TABLE … SELECT does not name its columns")
                        .hint("set binlog_format=ROW for every session, then sync the table again"));
                }
                None => return Err(c.unexpected("an option of a table")),
            }
        }
        if self.columns.is_empty() {
            return Err(Error::unsupported("the statement names no columns"));
        }
        Ok(())
    }
}

/// The columns of type `TIMESTAMP` in what MySQL's `SHOW CREATE TABLE` prints to a session in UTC, with their defaults.
///
/// # Errors
/// When the statement cannot be read.
pub(in crate::mysql) fn timestamp_defaults(sql: &str) -> Result<Vec<(String, Option<DefaultValue>)>> {
    let context = Context {
        default_database: "",
        ansi_quotes: false,
        no_backslash_escapes: false,
        charsets: &Charsets::default(),
        mariadb: false,
        lower_case_names: false,
        strict: true,
        zone: Zone::UTC,
    };
    let tokens = lexer::tokens(sql, &context);
    let mut c = Cursor::new(sql, &tokens);
    c.expect("CREATE")?;
    c.expect("TABLE")?;
    c.name()?;
    let (mut body, mut inside) = (Body::default(), c.parens()?);
    while inside.peek().is_some() {
        body.element(&mut inside)?;
        if inside.peek().is_some() {
            inside.expect_symbol(',')?;
        }
    }
    let timestamps = body.columns.iter().filter(|d| d.spec.name == "timestamp");
    timestamps.map(|d| d.column(None, Zone::UTC).map(|column| (column.name, column.default))).collect()
}

/// Whether an index of the sorts that don't make rows unique is defined here.
pub(super) fn is_index(c: &Cursor<'_>) -> bool {
    ["INDEX", "KEY", "FULLTEXT", "SPATIAL", "VECTOR INDEX", "VECTOR KEY"].iter().any(|w| c.sees(w))
}

/// `[IF NOT EXISTS] [name] [USING x] (a, b(10) DESC) options…`: the index's name and its columns. Columns are empty
/// when one of its parts is an expression.
pub(super) fn key_columns(c: &mut Cursor<'_>) -> Result<(Option<String>, Vec<String>)> {
    c.eat("IF NOT EXISTS");
    let mut name = None;
    if !c.sees("USING") && !c.sees("TYPE") && c.peek() != Some(&Token::Symbol('(')) {
        name = Some(c.name()?);
    }
    if c.eat("USING") || c.eat("TYPE") {
        c.name()?;
    }
    let mut inside = c.parens()?;
    let mut columns = Vec::new();
    while inside.peek().is_some() {
        match inside.peek() {
            Some(Token::Symbol('(')) => return Ok((name, Vec::new())),
            _ => columns.push(inside.column_name()?),
        }
        inside.skip_clause();
        inside.eat_symbol(',');
    }
    // Options of the index: what follows is the next clause's only after a comma.
    while matches!(c.peek(), Some(Token::Word(_))) && c.peek().is_some() {
        let option = c.eat_one(&["USING", "KEY_BLOCK_SIZE", "COMMENT", "WITH PARSER", "ENGINE_ATTRIBUTE"]);
        if option.is_some() {
            c.eat_symbol('=');
            c.advance();
        } else if c.eat_one(&["VISIBLE", "INVISIBLE", "IGNORED", "NOT IGNORED"]).is_none() {
            break;
        }
    }
    Ok((name, columns))
}
