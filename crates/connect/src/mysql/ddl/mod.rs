//! Data definition statements of MySQL and MariaDB, as a binlog carries them, turned into the table changes that they
//! amount to. A tokenizer and a recursive descent by hand: what matters is a small part of the grammar, but that part
//! must be right, and what is not understood must be noticed when it touches a followed table and must not disturb
//! when it does not.
//!
//! Rules that the log alone does not settle:
//! - A text column without a character set has its table's, which is kept with its schema; a table's is what
//!   `CREATE TABLE` says, else its database's ([`Charsets`]), which the log may change as well ([`database_charset`]).
//! - A table without a primary key has the unique key over NOT NULL columns whose name comes first as its key.
//! - `TIMESTAMP` columns are taken as with `explicit_defaults_for_timestamp=ON`, every server's default today.
//! - A literal default of a `TIMESTAMP` column is in the time zone of the session ([`Zone`]).

mod alter;
mod column;
mod create;
mod cursor;
mod database;
mod dml;
mod lexer;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use freshet_core::{Error, Result, TableChange, TableName, TablePattern, TableSchema};

use self::cursor::Cursor;
use super::types::Charsets;

pub(super) use self::alter::implicit_default;
pub use self::column::Zone;
pub(super) use self::column::{GENERATED_MARK, UNIQUE_KEY_MARK, choose_key, default_of_sql, default_of_text};
pub(super) use self::create::timestamp_defaults;
pub(super) use self::database::database_charset;
pub(super) use self::dml::{Cascade, Rule, Written, cascades, written};

/// What the log's event says around a statement.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// Where names without a database are looked for.
    pub default_database: &'a str,
    /// `sql_mode` holds ANSI_QUOTES: `"a"` is a name.
    pub ansi_quotes: bool,
    /// `sql_mode` holds NO_BACKSLASH_ESCAPES.
    pub no_backslash_escapes: bool,
    /// Character sets of tables that don't name theirs.
    pub charsets: &'a Charsets,
    /// The server is a MariaDB.
    pub mariadb: bool,
    /// `lower_case_table_names` is 1: names of databases and tables are lower case, however they are written.
    pub lower_case_names: bool,
    /// `sql_mode` is strict: a change of type fails rather than cutting off what does not fit.
    pub strict: bool,
    /// The session's time zone.
    pub zone: Zone<'a>,
}

/// What a statement means.
#[derive(Debug, Clone, PartialEq)]
pub enum Parsed {
    /// Nothing for us.
    Unrelated,
    /// Changes of followed tables, or new tables to follow: each with the table's name before that step.
    Changes(Vec<(TableName, TableChange)>),
    /// It touches these tables in a way that we cannot follow: they have to be suspended. The other tables of the
    /// statement are named as well, because its steps belong together.
    CannotFollow {
        /// The followed tables, and those that now match and are not known.
        tables: Vec<TableName>,
        /// Why, with the statement.
        why: Error,
    },
}

/// Steps, each with its table's name before it.
type Steps = Vec<(TableName, TableChange)>;

/// The longest piece of a statement that a message shows, in characters.
const SHOWN: usize = 300;

/// Reads a statement. `tables` are the followed tables as they are before it, `pattern` says which new ones are to be
/// followed.
///
/// A statement about other tables is [`Parsed::Unrelated`] even when it cannot be read. A table that is renamed stays
/// followed under its new name, whether that matches or not; one that is renamed to a matching name without having been
/// followed is a [`TableChange::RenameTable`] of a table that is not in `tables`: its columns are not known here. `CREATE TABLE IF NOT EXISTS` of a table that is not
/// in `tables` is a new table: a table that exists but is suspended the caller has to know.
pub fn parse(
    sql: &str,
    context: &Context<'_>,
    tables: &HashMap<TableName, Arc<TableSchema>>,
    pattern: &TablePattern,
) -> Parsed {
    let tokens = lexer::tokens(sql, context);
    let statement = Statement { sql, context, tables, pattern };
    statement.parse(Cursor::new(sql, &tokens)).unwrap_or(Parsed::Unrelated)
}

/// A statement and what it is read against.
struct Statement<'a> {
    sql: &'a str,
    context: &'a Context<'a>,
    tables: &'a HashMap<TableName, Arc<TableSchema>>,
    pattern: &'a TablePattern,
}

impl Statement<'_> {
    /// Errors are those of reading up to the tables' names: without a name nothing followed is touched.
    fn parse(&self, mut c: Cursor<'_>) -> Result<Parsed> {
        if c.eat("SET STATEMENT") {
            while !c.is_end() && !c.eat("FOR") {
                c.advance();
            }
        }
        if c.eat("CREATE") {
            let replace = c.eat("OR REPLACE");
            if c.eat("TABLE") {
                return self.create_table(&mut c, replace);
            }
            if c.eat("UNIQUE INDEX") {
                return self.create_unique_index(&mut c);
            }
            if replace && (c.eat("DATABASE") || c.eat("SCHEMA")) {
                return self.drop_database(&mut c);
            }
            return Ok(Parsed::Unrelated);
        }
        if c.eat("ALTER") {
            let mut ignore = false;
            while let Some(word) = c.eat_one(&["ONLINE", "IGNORE"]) {
                ignore |= word == "IGNORE";
            }
            return if c.eat("TABLE") { self.alter_table(&mut c, ignore) } else { Ok(Parsed::Unrelated) };
        }
        if c.eat("DROP") {
            return match c.eat_one(&["TABLES", "TABLE", "DATABASE", "SCHEMA", "INDEX"]) {
                Some("TABLES" | "TABLE") => self.drop_tables(&mut c),
                Some("DATABASE" | "SCHEMA") => self.drop_database(&mut c),
                Some(_) => self.drop_index(&mut c),
                None => Ok(Parsed::Unrelated),
            };
        }
        if c.eat("RENAME TABLE") || c.eat("RENAME TABLES") {
            return self.rename_tables(&mut c);
        }
        if c.eat("TRUNCATE") {
            c.eat("TABLE");
            let name = c.table_name(self.context)?;
            let steps = self.tables.contains_key(&name).then_some((name, TableChange::Truncate));
            return Ok(self.done(Vec::new(), Ok(steps.into_iter().collect())));
        }
        Ok(Parsed::Unrelated)
    }

    /// The outcome of a statement about these tables.
    fn done(&self, tables: Vec<TableName>, steps: Result<Steps>) -> Parsed {
        match steps {
            Ok(steps) if steps.is_empty() => Parsed::Unrelated,
            Ok(steps) => Parsed::Changes(steps),
            Err(why) => {
                let mut shown: String = self.sql.trim().chars().take(SHOWN).collect();
                if shown.len() < self.sql.trim().len() {
                    shown.push('…');
                }
                let names: Vec<_> = tables.iter().map(ToString::to_string).collect();
                let why = why.with("table", names.join(", ")).with("statement", shown).hint(
                    "the table is suspended because its copy can no longer follow; copy it again: freshet resync JOB TABLE",
                );
                Parsed::CannotFollow { tables, why }
            }
        }
    }

    fn drop_tables(&self, c: &mut Cursor<'_>) -> Result<Parsed> {
        c.eat("IF EXISTS");
        let mut steps = Steps::new();
        loop {
            let name = c.table_name(self.context)?;
            if self.tables.contains_key(&name) {
                steps.push((name, TableChange::DropTable));
            }
            if !c.eat_symbol(',') {
                return Ok(self.done(Vec::new(), Ok(steps)));
            }
        }
    }

    fn drop_database(&self, c: &mut Cursor<'_>) -> Result<Parsed> {
        let _ = c.eat("IF EXISTS") || c.eat("IF NOT EXISTS");
        let mut name = c.name()?;
        if self.context.lower_case_names {
            name = name.to_lowercase();
        }
        let mut gone: Vec<_> = self.tables.keys().filter(|t| t.database == name).cloned().collect();
        gone.sort();
        Ok(self.done(Vec::new(), Ok(gone.into_iter().map(|t| (t, TableChange::DropTable)).collect())))
    }

    fn drop_index(&self, c: &mut Cursor<'_>) -> Result<Parsed> {
        c.eat("IF EXISTS");
        let index = c.name()?;
        c.expect("ON")?;
        let name = c.table_name(self.context)?;
        let Some(schema) = self.tables.get(&name) else { return Ok(Parsed::Unrelated) };
        let steps = alter::index_dropped(schema, &index).map(|key_gone| match key_gone {
            true => vec![(name.clone(), TableChange::ChangeKey { key: Vec::new() })],
            false => Vec::new(),
        });
        Ok(self.done(vec![name], steps))
    }

    /// A unique index is the key of a table that had none.
    fn create_unique_index(&self, c: &mut Cursor<'_>) -> Result<Parsed> {
        c.eat("IF NOT EXISTS");
        c.name()?;
        if c.eat("USING") {
            c.name()?;
        }
        c.expect("ON")?;
        let name = c.table_name(self.context)?;
        let Some(schema) = self.tables.get(&name) else { return Ok(Parsed::Unrelated) };
        let steps = create::key_columns(c).and_then(|(_, columns)| alter::unique_added(schema, columns));
        Ok(self.done(vec![name], steps))
    }

    fn rename_tables(&self, c: &mut Cursor<'_>) -> Result<Parsed> {
        c.eat("IF EXISTS");
        let mut present: HashSet<TableName> = self.tables.keys().cloned().collect();
        let mut steps = Steps::new();
        loop {
            let from = c.table_name(self.context)?;
            skip_wait(c);
            c.expect("TO")?;
            let to = c.table_name(self.context)?;
            if present.remove(&from) {
                present.insert(to.clone());
                steps.push((from, TableChange::RenameTable { to }));
            } else if self.pattern.matches(&to) {
                // Its columns are not known: whoever gets this step copies the table.
                steps.push((from, TableChange::RenameTable { to }));
            }
            if !c.eat_symbol(',') {
                return Ok(self.done(Vec::new(), Ok(steps)));
            }
        }
    }
}

/// MariaDB's `WAIT 10` and `NOWAIT`.
fn skip_wait(c: &mut Cursor<'_>) {
    if c.eat("WAIT") {
        c.advance();
    } else {
        c.eat("NOWAIT");
    }
}
