//! `ALTER TABLE`. All clauses are read first, then brought into the order in which a server applies them: columns
//! dropped, columns changed in place, new and moved columns in the order of their clauses, the key, the table's own
//! name and comment.
//!
//! A clause changes the definition only; or it changes values in a way that everybody computes alike (a new column with
//! a constant, a wider type); or it changes rows in a way that only the server knows. Behind such steps comes a
//! [`TableChange::Rewrite`] with the reasons: the table has to be copied again.

use freshet_core::schema::Column;
use freshet_core::{ColumnPosition, DefaultValue, Error, Result, TableChange, TableName, TableSchema};

use super::column::{
    ColumnDef, GENERATED_MARK, Raw, UNIQUE_KEY_MARK, Zone, parse_charset, parse_check, parse_default, system_versioned,
};
use super::create::{TableOption, is_index, key_columns, parse_option};
use super::cursor::Cursor;
use super::lexer::Token;
use super::{Parsed, Statement, Steps, skip_wait};
use crate::mysql::types::{Charset, LobSize, MysqlType};

/// Clauses about how the server stores and reaches the rows, which stay what they are.
const PLAIN_CLAUSES: [&str; 22] = [
    "ALGORITHM",
    "LOCK",
    "FORCE",
    "ENABLE KEYS",
    "DISABLE KEYS",
    "WITH VALIDATION",
    "WITHOUT VALIDATION",
    "ENABLE",
    "DISABLE",
    "COALESCE PARTITION",
    "REORGANIZE PARTITION",
    "ANALYZE PARTITION",
    "CHECK PARTITION",
    "OPTIMIZE PARTITION",
    "REBUILD PARTITION",
    "REPAIR PARTITION",
    "REMOVE PARTITIONING",
    "SECONDARY_LOAD",
    "SECONDARY_UNLOAD",
    "NOWAIT",
    "WAIT",
    "ADD PARTITION",
];

/// Clauses by which rows appear or disappear without being in the log.
const ROW_CLAUSES: [&str; 7] = [
    "DROP PARTITION",
    "TRUNCATE PARTITION",
    "EXCHANGE PARTITION",
    "CONVERT PARTITION",
    "CONVERT TABLE",
    "DISCARD",
    "IMPORT",
];

/// What one clause says about columns and key.
enum Clause {
    Drop {
        name: String,
        if_exists: bool,
    },
    /// `CHANGE` and `MODIFY`.
    Change {
        from: String,
        def: ColumnDef,
        position: Option<ColumnPosition>,
        if_exists: bool,
    },
    Rename {
        from: String,
        to: String,
        if_exists: bool,
    },
    Default {
        name: String,
        default: Option<Raw>,
        if_exists: bool,
    },
    Add {
        def: ColumnDef,
        position: ColumnPosition,
        if_not_exists: bool,
    },
    Key(Option<Vec<String>>),
    /// A unique index.
    Unique(Vec<String>),
    DropIndex(String),
    Charset(Option<String>),
    /// `CONVERT TO CHARACTER SET`.
    Convert(Option<String>),
    /// The rows become others, for this reason.
    Rewrite(String),
    /// The other table of `EXCHANGE PARTITION`.
    Exchanged(TableName),
    /// A table that became a partition.
    Taken(TableName),
    /// A table that a partition became.
    Made(TableName),
    Comment(String),
    RenameTable(TableName),
}

impl Statement<'_> {
    pub(super) fn alter_table(&self, c: &mut Cursor<'_>, ignore: bool) -> Result<Parsed> {
        c.eat("IF EXISTS");
        let name = c.table_name(self.context)?;
        skip_wait(c);
        let Some(schema) = self.tables.get(&name) else {
            return Ok(match self.new_name(c) {
                Some(to) if self.pattern.matches(&to) => {
                    self.done(Vec::new(), Ok(vec![(name, TableChange::RenameTable { to })]))
                }
                _ => Parsed::Unrelated,
            });
        };
        let steps = self.clauses(c).and_then(|mut clauses| {
            for clause in &mut clauses {
                if let Clause::Add { def, .. } | Clause::Change { def, .. } = clause {
                    def.json_check &= self.context.mariadb;
                }
            }
            self.apply(schema, clauses, ignore)
        });
        Ok(self.done(vec![name], steps))
    }

    /// The new name among the clauses about a table that we don't know, as far as they can be read.
    fn new_name(&self, c: &mut Cursor<'_>) -> Option<TableName> {
        while !c.is_end() {
            if c.eat("RENAME") && !c.sees("COLUMN") && !c.sees("INDEX") && !c.sees("KEY") {
                let _ = c.eat("TO") || c.eat("AS") || c.eat_symbol('=');
                return c.table_name(self.context).ok();
            }
            c.skip_clause();
            c.eat_symbol(',');
        }
        None
    }

    fn clauses(&self, c: &mut Cursor<'_>) -> Result<Vec<Clause>> {
        let mut clauses = Vec::new();
        while !c.is_end() {
            self.clause(c, &mut clauses)?;
            // Options stand one behind the other, with or without commas.
            c.eat_symbol(',');
        }
        Ok(clauses)
    }

    fn clause(&self, c: &mut Cursor<'_>, out: &mut Vec<Clause>) -> Result<()> {
        if let Some(clause) = c.eat_one(&ROW_CLAUSES) {
            if clause == "CONVERT TABLE" {
                out.push(Clause::Taken(c.table_name(self.context)?));
            }
            // Each of them stands alone; commas are between partitions.
            while !c.is_end() {
                if c.eat("WITH TABLE") {
                    out.push(Clause::Exchanged(c.table_name(self.context)?));
                } else if c.eat("TO TABLE") {
                    out.push(Clause::Made(c.table_name(self.context)?));
                } else {
                    c.advance();
                }
            }
            out.push(Clause::Rewrite(format!("{clause} changes rows without writing them to the log")));
        } else if c.eat("CONVERT TO") {
            let charset = match parse_charset(c)? {
                Some(charset) => charset,
                None => return Err(c.unexpected("CHARACTER SET")),
            };
            if c.eat("COLLATE") {
                c.name_or_text()?;
            }
            out.push(Clause::Convert((charset != "default").then_some(charset)));
        } else if c.eat("PARTITION BY") || c.eat("ORDER BY") {
            while c.advance().is_some() {}
        } else if c.eat_one(&PLAIN_CLAUSES).is_some() {
            c.skip_clause();
        } else if c.eat("ADD") {
            add(c, out)?;
        } else if c.eat("DROP") {
            drop_clause(c, out)?;
        } else if c.eat("MODIFY") || c.sees("CHANGE") {
            let change = c.eat("CHANGE");
            c.eat("COLUMN");
            let if_exists = c.eat("IF EXISTS");
            let from = c.column_name()?;
            let name = if change { c.column_name()? } else { from.clone() };
            let def = ColumnDef::parse_after_name(c, name)?;
            out.push(Clause::Change { from, def, position: position(c)?, if_exists });
        } else if c.eat("ALTER") {
            alter_column(c, out)?;
        } else if c.eat("RENAME") {
            if c.eat_one(&["INDEX", "KEY"]).is_some() {
                c.skip_clause();
            } else if c.eat("COLUMN") {
                let if_exists = c.eat("IF EXISTS");
                let from = c.column_name()?;
                c.expect("TO")?;
                out.push(Clause::Rename { from, to: c.column_name()?, if_exists });
            } else {
                let _ = c.eat("TO") || c.eat("AS") || c.eat_symbol('=');
                out.push(Clause::RenameTable(c.table_name(self.context)?));
            }
        } else {
            match parse_option(c)? {
                Some(TableOption::Charset(charset)) => out.push(Clause::Charset(charset)),
                Some(TableOption::Comment(comment)) => out.push(Clause::Comment(comment)),
                Some(TableOption::Plain) => {}
                None => return Err(c.unexpected("a clause of ALTER TABLE")),
            }
        }
        Ok(())
    }

    fn apply(&self, schema: &TableSchema, clauses: Vec<Clause>, ignore: bool) -> Result<Steps> {
        let mut work = Work {
            schema: schema.clone(),
            steps: Steps::new(),
            charset: self.charset_of(schema),
            later: Vec::new(),
            cuts_off: ignore || !self.context.strict,
            mariadb: self.context.mariadb,
            zone: self.context.zone,
            rewrites: Vec::new(),
        };
        for clause in &clauses {
            match clause {
                Clause::Charset(charset) => {
                    let database = self.context.charsets.of(&schema.name.database);
                    work.set_charset(charset.as_deref().unwrap_or(database))?;
                }
                Clause::Convert(charset) => {
                    let database = self.context.charsets.of(&schema.name.database);
                    work.convert(charset.as_deref().unwrap_or(database))?;
                }
                Clause::Drop { name, if_exists } => {
                    if let Some(name) = work.existing(name, *if_exists)? {
                        work.push(TableChange::DropColumn { name })?;
                    }
                }
                _ => {}
            }
        }
        for clause in &clauses {
            match clause {
                Clause::Change { from, def, if_exists, .. } => work.change(from, def, *if_exists)?,
                Clause::Rename { from, to, if_exists } => {
                    if let Some(from) = work.existing(from, *if_exists)? {
                        work.rename(from, to)?;
                    }
                }
                Clause::Default { name, default, if_exists } => work.default(name, default.clone(), *if_exists)?,
                _ => {}
            }
        }
        work.finish_renames()?;
        for clause in &clauses {
            match clause {
                Clause::Add { def, position, if_not_exists } => work.add(def, position, *if_not_exists)?,
                Clause::Change { def, position: Some(position), .. } => work.move_to(&def.name, position)?,
                _ => {}
            }
        }
        work.set_key(&clauses)?;
        let mut others = Vec::new();
        for clause in &clauses {
            match clause {
                Clause::Rewrite(reason) => work.rewrites.push((None, reason.clone())),
                Clause::Key(Some(_)) | Clause::Unique(_) if ignore => {
                    work.rewrites.push((None, "IGNORE drops rows that are there twice".into()));
                }
                Clause::Exchanged(name) if self.tables.contains_key(name) => {
                    let reason = format!("rows are exchanged with {}", schema.name);
                    others.push((name.clone(), TableChange::Rewrite { reason, columns: Vec::new() }));
                }
                Clause::Taken(name) if self.tables.contains_key(name) => {
                    others.push((name.clone(), TableChange::DropTable));
                }
                Clause::Made(name) if self.pattern.matches(name) => {
                    let made = TableSchema { name: name.clone(), ..work.schema.clone() };
                    let reason = format!("its rows were a partition of {}", schema.name);
                    others.push((name.clone(), TableChange::CreateTable(made)));
                    others.push((name.clone(), TableChange::Rewrite { reason, columns: Vec::new() }));
                }
                _ => {}
            }
        }
        work.rewrites.dedup();
        if !work.rewrites.is_empty() {
            let (columns, reasons): (Vec<_>, Vec<_>) = std::mem::take(&mut work.rewrites).into_iter().unzip();
            // One that is about whole rows is about all columns.
            let columns = columns.into_iter().collect::<Option<Vec<_>>>().unwrap_or_default();
            work.push(TableChange::Rewrite { reason: reasons.join("; "), columns })?;
        }
        work.steps.extend(others);
        for clause in clauses {
            match clause {
                Clause::Comment(comment) if comment != work.schema.comment => {
                    work.push(TableChange::SetTableComment { comment })?;
                }
                Clause::RenameTable(to) if to != work.schema.name => work.push(TableChange::RenameTable { to })?,
                _ => {}
            }
        }
        Ok(work.steps)
    }

    /// The character set of new text columns of a table. Where an earlier version has not stored it: that of its others
    /// when they agree, its database's when there are none; not known otherwise.
    fn charset_of(&self, schema: &TableSchema) -> Option<String> {
        if !schema.source_defaults.is_empty() {
            return Some(schema.source_defaults.clone());
        }
        let mut charsets: Vec<Charset> = schema.columns.iter().filter_map(|c| charset(&type_of(c).ok()?)).collect();
        charsets.dedup();
        match charsets.as_slice() {
            [] => Some(self.context.charsets.of(&schema.name.database).to_string()).filter(|c| !c.is_empty()),
            [one] => Some(one.name().to_string()),
            _ => None,
        }
    }
}

/// The steps of a new unique index.
///
/// # Errors
/// When it names columns that are not known.
pub(super) fn unique_added(schema: &TableSchema, columns: Vec<String>) -> Result<Steps> {
    let mut work = Work {
        schema: schema.clone(),
        steps: Steps::new(),
        charset: None,
        later: Vec::new(),
        cuts_off: false,
        mariadb: false,
        zone: Zone::UTC,
        rewrites: Vec::new(),
    };
    work.set_key(&[Clause::Unique(columns)])?;
    Ok(work.steps)
}

/// Whether dropping this index takes the key away.
///
/// # Errors
/// When the key is a unique index and may be the one that is dropped.
pub(super) fn index_dropped(schema: &TableSchema, index: &str) -> Result<bool> {
    if index.eq_ignore_ascii_case("PRIMARY") {
        return Ok(true);
    }
    let marked = |k: &String| schema.column(k).is_some_and(|c| c.source_type.ends_with(UNIQUE_KEY_MARK));
    if schema.has_key() && schema.key.iter().all(marked) {
        return Err(Error::unsupported(format!(
            "the table has no primary key, and its unique key ({}) may be the index {index} that was dropped",
            schema.key.join(", ")
        )));
    }
    Ok(false)
}

/// Behind `ADD`.
fn add(c: &mut Cursor<'_>, out: &mut Vec<Clause>) -> Result<()> {
    if c.sees("SYSTEM VERSIONING") || c.sees("PERIOD FOR SYSTEM_TIME") {
        return Err(system_versioned());
    }
    if is_index(c) || c.sees("FOREIGN KEY") || c.sees("PERIOD FOR") || c.sees("PARTITION") {
        c.skip_clause();
        return Ok(());
    }
    let mut ahead = c.clone();
    if ahead.eat("CONSTRAINT") && !["PRIMARY", "UNIQUE", "FOREIGN", "CHECK"].iter().any(|w| ahead.sees(w)) {
        ahead.eat("IF NOT EXISTS");
        ahead.name()?;
    }
    if ahead.eat("PRIMARY KEY") {
        *c = ahead;
        out.push(Clause::Key(Some(key_columns(c)?.1)));
        return Ok(());
    }
    if ahead.sees("FOREIGN KEY") {
        c.skip_clause();
        return Ok(());
    }
    if ahead.eat("UNIQUE") {
        *c = ahead;
        c.eat_one(&["INDEX", "KEY"]);
        out.push(Clause::Unique(key_columns(c)?.1));
        c.skip_clause();
        return Ok(());
    }
    if ahead.sees("CHECK") {
        *c = ahead;
        parse_check(c)?;
        return Ok(());
    }
    c.eat("COLUMN");
    let if_not_exists = c.eat("IF NOT EXISTS");
    if c.peek() == Some(&Token::Symbol('(')) {
        let mut inside = c.parens()?;
        while inside.peek().is_some() {
            if is_index(&inside) || ["CONSTRAINT", "UNIQUE", "FOREIGN KEY", "CHECK"].iter().any(|w| inside.sees(w)) {
                inside.skip_clause();
            } else if inside.eat("PRIMARY KEY") {
                out.push(Clause::Key(Some(key_columns(&mut inside)?.1)));
            } else {
                let def = ColumnDef::parse(&mut inside)?;
                out.push(Clause::Add { def, position: ColumnPosition::Last, if_not_exists });
            }
            if inside.peek().is_some() {
                inside.expect_symbol(',')?;
            }
        }
        return Ok(());
    }
    let def = ColumnDef::parse(c)?;
    if def.primary {
        out.push(Clause::Key(Some(vec![def.name.clone()])));
    }
    let position = position(c)?.unwrap_or(ColumnPosition::Last);
    out.push(Clause::Add { def, position, if_not_exists });
    Ok(())
}

/// Behind `DROP`.
fn drop_clause(c: &mut Cursor<'_>, out: &mut Vec<Clause>) -> Result<()> {
    if c.eat("PRIMARY KEY") {
        out.push(Clause::Key(None));
    } else if c.eat_one(&["INDEX", "KEY", "CONSTRAINT"]).is_some() {
        c.eat("IF EXISTS");
        out.push(Clause::DropIndex(c.name()?));
    } else if c.sees("SYSTEM VERSIONING") {
        return Err(system_versioned());
    } else if c.eat("FOREIGN KEY") || c.eat("CHECK") || c.eat("PERIOD FOR") {
        c.skip_clause();
    } else {
        c.eat("COLUMN");
        let if_exists = c.eat("IF EXISTS");
        out.push(Clause::Drop { name: c.column_name()?, if_exists });
        c.eat_one(&["RESTRICT", "CASCADE"]);
    }
    Ok(())
}

/// Behind `ALTER`.
fn alter_column(c: &mut Cursor<'_>, out: &mut Vec<Clause>) -> Result<()> {
    if ["INDEX", "KEY", "CHECK", "CONSTRAINT"].iter().any(|w| c.sees(w)) {
        c.skip_clause();
        return Ok(());
    }
    c.eat("COLUMN");
    let if_exists = c.eat("IF EXISTS");
    let name = c.column_name()?;
    if c.eat("SET DEFAULT") {
        out.push(Clause::Default { name, default: parse_default(c)?, if_exists });
    } else if c.eat("DROP DEFAULT") {
        out.push(Clause::Default { name, default: None, if_exists });
    } else if !c.eat("SET VISIBLE") && !c.eat("SET INVISIBLE") {
        return Err(c.unexpected("SET DEFAULT or DROP DEFAULT"));
    }
    Ok(())
}

/// `FIRST`, `AFTER x` or nothing.
fn position(c: &mut Cursor<'_>) -> Result<Option<ColumnPosition>> {
    if c.eat("FIRST") {
        return Ok(Some(ColumnPosition::First));
    }
    if c.eat("AFTER") {
        return Ok(Some(ColumnPosition::After(c.column_name()?)));
    }
    Ok(None)
}

/// The table as it is after the steps so far.
struct Work<'a> {
    schema: TableSchema,
    steps: Steps,
    /// The character set of columns that don't name theirs.
    charset: Option<String>,
    /// Renames to names that another column still had, and the names that these columns have meanwhile.
    later: Vec<(String, String)>,
    /// What does not fit a new type is cut off rather than refused.
    cuts_off: bool,
    /// Of MariaDB, where JSON is a text with a check, and a TIMESTAMP that may no longer be NULL becomes the time of the
    /// statement.
    mariadb: bool,
    zone: Zone<'a>,
    /// Why rows change without being in the log, with the column when only its values do.
    rewrites: Vec<(Option<String>, String)>,
}

impl Work<'_> {
    fn push(&mut self, change: TableChange) -> Result<()> {
        let name = self.schema.name.clone();
        if let Some(after) = self.schema.after(&change)? {
            self.schema = after;
        }
        self.steps.push((name, change));
        Ok(())
    }

    /// The column's name as the table spells it; `None` when it need not exist and does not.
    fn existing(&self, name: &str, if_exists: bool) -> Result<Option<String>> {
        match self.schema.column(name) {
            Some(column) => Ok(Some(column.name.clone())),
            None if if_exists => Ok(None),
            None => Err(Error::schema(format!("column {name} is not known"))),
        }
    }

    fn column(&self, name: &str) -> Result<&Column> {
        self.schema.column(name).ok_or_else(|| Error::schema(format!("column {name} is not known")))
    }

    fn rename(&mut self, from: String, to: &str) -> Result<()> {
        if from == to {
            return Ok(());
        }
        let taken = self.schema.columns.iter().any(|c| c.name != from && c.name.to_lowercase() == to.to_lowercase());
        if !taken {
            return self.push(TableChange::RenameColumn { from, to: to.to_string() });
        }
        let meanwhile = format!("__freshet_renamed_{}", self.later.len());
        self.later.push((meanwhile.clone(), to.to_string()));
        self.push(TableChange::RenameColumn { from, to: meanwhile })
    }

    fn finish_renames(&mut self) -> Result<()> {
        for (from, to) in std::mem::take(&mut self.later) {
            self.push(TableChange::RenameColumn { from, to })?;
        }
        Ok(())
    }

    /// `CHANGE` and `MODIFY`: only what really differs becomes a step.
    fn change(&mut self, from: &str, def: &ColumnDef, if_exists: bool) -> Result<()> {
        let Some(from) = self.existing(from, if_exists)? else { return Ok(()) };
        let old = self.column(&from)?.clone();
        let renames = self.steps.len();
        self.rename(from, &def.name)?;
        let name = match self.steps.get(renames) {
            Some((_, TableChange::RenameColumn { to, .. })) => to.clone(),
            _ => old.name.clone(),
        };
        let mut new = def.column(self.charset.as_deref(), self.zone)?;
        let in_key = self.schema.key.contains(&name);
        let marked = old.source_type.ends_with(UNIQUE_KEY_MARK);
        if in_key && marked && new.nullable {
            return Err(
                Error::unsupported("a column of the table's only unique key now allows NULL").with("column", name)
            );
        }
        new.nullable &= !in_key;
        if marked {
            new.source_type.push_str(UNIQUE_KEY_MARK);
        }
        let becomes_now = self.mariadb && matches!(type_of(&old)?, MysqlType::Timestamp { .. });
        if new.source_type != old.source_type {
            if let Some(why) = rewritten(&type_of(&old)?, &type_of(&new)?, self.cuts_off) {
                self.rewrites.push((Some(name.clone()), format!("column {name}: the change of type {why}")));
            }
            let (to, source_type) = (new.data_type, new.source_type);
            self.push(TableChange::ChangeType { name: name.clone(), from: old.data_type, to, source_type })?;
        }
        if def.generated {
            self.rewrites.push((Some(name.clone()), format!("column {name}: its values are computed by the server")));
        }
        if new.nullable != old.nullable {
            if (self.cuts_off || becomes_now) && old.nullable {
                self.rewrites.push((Some(name.clone()), format!("column {name}: NULL becomes another value")));
            }
            self.push(TableChange::SetNullable { name: name.clone(), nullable: new.nullable })?;
        }
        if new.default != old.default {
            self.push(TableChange::SetDefault { name: name.clone(), default: new.default })?;
        }
        if new.comment != old.comment {
            self.push(TableChange::SetColumnComment { name, comment: new.comment })?;
        }
        Ok(())
    }

    fn default(&mut self, name: &str, default: Option<Raw>, if_exists: bool) -> Result<()> {
        let Some(name) = self.existing(name, if_exists)? else { return Ok(()) };
        let column = self.column(&name)?;
        let of = type_of(column)?;
        let default = default.map(|raw| raw.of_type(&of, self.zone));
        if default == column.default {
            return Ok(());
        }
        self.push(TableChange::SetDefault { name, default })
    }

    fn add(&mut self, def: &ColumnDef, position: &ColumnPosition, if_not_exists: bool) -> Result<()> {
        if if_not_exists && self.schema.column(&def.name).is_some() {
            return Ok(());
        }
        let mut column = def.column(self.charset.as_deref(), self.zone)?;
        let of = type_of(&column)?;
        let declared = column.default.clone();
        if declared.is_none() && !column.nullable && !def.generated && !def.auto_increment {
            // The rows that are there hold the type's own zero, although no such default is declared.
            column.default = implicit_default(&of);
        }
        let computed = match &column.default {
            _ if def.generated || def.auto_increment => Some("are computed by the server".to_string()),
            Some(DefaultValue::CurrentTimestamp(_)) => Some("are the time of the statement".into()),
            Some(DefaultValue::Expression(text)) => Some(format!("are {text}")),
            Some(_) if matches!(of, MysqlType::Json) => Some("are a JSON document".into()),
            Some(_) if matches!(column.data_type, freshet_core::DataType::Bytes { .. }) => {
                Some("are bytes, which a target cannot declare as a default".into())
            }
            None if !column.nullable => Some("are a date that does not exist".into()),
            Some(DefaultValue::Literal(_)) | None => None,
        };
        if let Some(why) = &computed {
            let reason = format!("column {}: the values in the rows that are there {why}", column.name);
            self.rewrites.push((Some(column.name.clone()), reason));
            column.default.clone_from(&declared);
        }
        let (name, only_implied) = (column.name.clone(), column.default != declared);
        let position = match position {
            ColumnPosition::After(after) => ColumnPosition::After(self.column(after)?.name.clone()),
            other => other.clone(),
        };
        self.push(TableChange::AddColumn { column, position })?;
        if only_implied {
            self.push(TableChange::SetDefault { name, default: None })?;
        }
        Ok(())
    }

    fn move_to(&mut self, name: &str, position: &ColumnPosition) -> Result<()> {
        let name = self.column(name)?.name.clone();
        let at = self.schema.index_of(&name);
        let position = match position {
            ColumnPosition::After(after) => ColumnPosition::After(self.column(after)?.name.clone()),
            other => other.clone(),
        };
        let there = match &position {
            ColumnPosition::First => at == Some(0),
            ColumnPosition::After(after) => self.schema.index_of(after).map(|i| i + 1) == at,
            ColumnPosition::Last => at.map(|i| i + 1) == Some(self.schema.columns.len()),
        };
        if there { Ok(()) } else { self.push(TableChange::MoveColumn { name, position }) }
    }

    /// The key after all clauses, if one of them touches it.
    fn set_key(&mut self, clauses: &[Clause]) -> Result<()> {
        let mut key = None;
        for clause in clauses {
            match clause {
                Clause::DropIndex(name) if index_dropped(&self.schema, name)? => {
                    key.get_or_insert_with(Vec::new);
                }
                Clause::Key(None) => drop(key.get_or_insert_with(Vec::new)),
                Clause::Key(Some(columns)) => key = Some(columns.clone()),
                _ => {}
            }
        }
        if key.as_ref().map_or(!self.schema.has_key(), Vec::is_empty) {
            // The first unique index over columns that are never NULL is the key of a table without one.
            let not_null = |k: &String| self.schema.column(k).is_some_and(|c| !c.nullable);
            let unique = clauses.iter().find_map(|clause| match clause {
                Clause::Unique(columns) if !columns.is_empty() && columns.iter().all(not_null) => Some(columns),
                _ => None,
            });
            if let Some(columns) = unique {
                return self.set_unique_key(columns);
            }
        }
        let Some(key) = key else { return Ok(()) };
        let key = key.iter().map(|k| Ok(self.column(k)?.name.clone())).collect::<Result<Vec<_>>>()?;
        for name in &key {
            if self.column(name)?.nullable {
                self.push(TableChange::SetNullable { name: name.clone(), nullable: false })?;
            }
        }
        if key == self.schema.key { Ok(()) } else { self.push(TableChange::ChangeKey { key }) }
    }
}

impl Work<'_> {
    /// The columns of a unique key are marked, because dropping any index may drop the key.
    fn set_unique_key(&mut self, columns: &[String]) -> Result<()> {
        let key = columns.iter().map(|k| Ok(self.column(k)?.name.clone())).collect::<Result<Vec<_>>>()?;
        for name in &key {
            let Column { data_type, source_type, .. } = self.column(name)?.clone();
            if !source_type.ends_with(UNIQUE_KEY_MARK) {
                let marked = format!("{source_type}{UNIQUE_KEY_MARK}");
                let (name, to) = (name.clone(), data_type.clone());
                self.push(TableChange::ChangeType { name, from: data_type, to, source_type: marked })?;
            }
        }
        self.push(TableChange::ChangeKey { key })
    }

    /// The character set of columns that don't name theirs, from here on.
    fn set_charset(&mut self, to: &str) -> Result<()> {
        self.charset = Some(to.to_string());
        if self.schema.source_defaults == to {
            return Ok(());
        }
        self.push(TableChange::SetSourceDefaults { source_defaults: to.to_string() })
    }

    /// `CONVERT TO CHARACTER SET`: a text that no longer holds as many characters as before gets the next size.
    fn convert(&mut self, to: &str) -> Result<()> {
        self.set_charset(to)?;
        for column in self.schema.columns.clone() {
            let old = type_of(&column)?;
            let old_charset = match &old {
                // MariaDB's are texts, MySQL's have no character set.
                MysqlType::Json if to == "utf8mb4" || !self.mariadb => continue,
                MysqlType::Json => Charset::Utf8mb4,
                other => match charset(other) {
                    Some(charset) => charset,
                    None => continue,
                },
            };
            let plain = match &old {
                MysqlType::Json => "longtext".to_string(),
                MysqlType::Char { chars, .. } => format!("char({chars})"),
                MysqlType::VarChar { chars, .. } => format!("varchar({chars})"),
                MysqlType::Text { size, .. } => text_name(*size).to_string(),
                _ => continue,
            };
            let mut new = MysqlType::parse(&format!("{plain} character set {to}"))?;
            if let MysqlType::Text { size, charset } = &mut new
                && matches!(old, MysqlType::Text { .. })
                && charset.max_bytes() > old_charset.max_bytes()
            {
                *size = next_size(*size);
            }
            if charset(&new).is_none() {
                return Err(Error::unsupported("a table was converted to bytes").with("column", &column.name));
            }
            if new == old {
                continue;
            }
            if let Some(why) = rewritten(&old, &new, self.cuts_off) {
                let reason = format!("column {}: the change of type {why}", column.name);
                self.rewrites.push((Some(column.name.clone()), reason));
            }
            let marks = [GENERATED_MARK, UNIQUE_KEY_MARK].iter().filter(|m| column.source_type.contains(**m));
            let source_type = marks.fold(new.to_string(), |text, mark| text + mark);
            let (name, from) = (column.name, column.data_type);
            self.push(TableChange::ChangeType { name, from, to: new.data_type(), source_type })?;
        }
        Ok(())
    }
}

fn text_name(size: LobSize) -> &'static str {
    match size {
        LobSize::Tiny => "tinytext",
        LobSize::Normal => "text",
        LobSize::Medium => "mediumtext",
        LobSize::Long => "longtext",
    }
}

fn next_size(size: LobSize) -> LobSize {
    match size {
        LobSize::Tiny => LobSize::Normal,
        LobSize::Normal => LobSize::Medium,
        LobSize::Medium | LobSize::Long => LobSize::Long,
    }
}

/// The type of a column as its source type says.
fn type_of(column: &Column) -> Result<MysqlType> {
    MysqlType::parse(&column.source_type).map_err(|e| e.with("column", &column.name))
}

fn charset(of: &MysqlType) -> Option<Charset> {
    match of {
        MysqlType::Char { charset, .. } | MysqlType::VarChar { charset, .. } | MysqlType::Text { charset, .. } => {
            Some(*charset)
        }
        _ => None,
    }
}

/// What rows that are already there get in a new NOT NULL column without a default; `None` where that is a date that
/// does not exist, or a document.
pub(in crate::mysql) fn implicit_default(of: &MysqlType) -> Option<DefaultValue> {
    let text = match of {
        MysqlType::Date | MysqlType::DateTime { .. } | MysqlType::Timestamp { .. } | MysqlType::Json => return None,
        MysqlType::Decimal { .. } => return Some(Raw::Number("0".into()).of_type(of, Zone::UTC)),
        MysqlType::Time { digits: 0 } => "00:00:00".to_string(),
        MysqlType::Time { digits } => format!("00:00:00.{:0<width$}", "", width = usize::from(*digits)),
        MysqlType::Enum { members } => members.first().cloned()?,
        MysqlType::Char { .. }
        | MysqlType::VarChar { .. }
        | MysqlType::Text { .. }
        | MysqlType::Set { .. }
        | MysqlType::Binary { .. }
        | MysqlType::VarBinary { .. }
        | MysqlType::Blob { .. } => String::new(),
        _ => "0".to_string(),
    };
    Some(DefaultValue::Literal(text))
}

/// Why values that are there cannot be converted exactly as the server did it; `None` when they can be, or when a
/// target that cannot do it says so itself. `cuts_off`: the server cuts off what does not fit; otherwise it would have
/// refused the change.
fn rewritten(old: &MysqlType, new: &MysqlType, cuts_off: bool) -> Option<&'static str> {
    use MysqlType::*;
    if old == new {
        return None;
    }
    let digits = |t: &MysqlType| match t {
        DateTime { digits } | Timestamp { digits } | Time { digits } => Some(*digits),
        _ => None,
    };
    if let (Some((low, high)), Some((new_low, new_high))) = (integers(old), integers(new)) {
        return (cuts_off && (low < new_low || high > new_high)).then_some("cuts off numbers");
    }
    if let (Some(a), Some(b)) = (text_size(old), text_size(new)) {
        let (from, to) = (charset(old), charset(new));
        return match (old, new) {
            _ if cuts_off && from != to && to != Some(Charset::Utf8mb4) && from != Some(Charset::Ascii) => {
                Some("loses characters that the new character set does not have")
            }
            // Strict servers cut spaces off as well.
            _ if b < a => Some("cuts off texts"),
            (Char { .. }, Char { .. }) => None,
            (_, Char { .. }) => Some("cuts off spaces"),
            _ => None,
        };
    }
    match (old, new) {
        (Timestamp { .. }, Timestamp { .. }) | (DateTime { .. }, DateTime { .. }) | (Time { .. }, Time { .. }) => {
            (digits(new) < digits(old)).then_some("rounds values")
        }
        (Timestamp { .. }, _) | (_, Timestamp { .. }) => Some("depends on the time zone of the session that made it"),
        (Date, DateTime { .. }) => None,
        (Decimal { precision: p, scale: a }, Decimal { precision: q, scale: b }) => match (b < a, q - b < p - a) {
            (true, _) => Some("rounds values"),
            (_, true) if cuts_off => Some("cuts off numbers"),
            _ => None,
        },
        (_, Decimal { precision, scale }) if integers(old).is_some() => {
            (cuts_off && precision - scale < 20).then_some("cuts off numbers")
        }
        (Float, Double) => None,
        (Enum { members: a }, Enum { members: b }) | (Set { members: a }, Set { members: b }) => {
            (cuts_off && !a.iter().all(|m| b.contains(m))).then_some("loses members")
        }
        (Enum { .. } | Set { .. }, VarChar { .. } | Text { .. }) => cuts_off.then_some("may cut off texts"),
        (VarBinary { length: a } | Binary { length: a }, VarBinary { length: b }) => {
            (b < a).then_some("cuts off bytes")
        }
        (Binary { .. } | VarBinary { .. } | Blob { .. }, Binary { .. }) => Some("fills bytes up with zeros"),
        (Binary { .. } | VarBinary { .. }, Blob { size }) => {
            (!matches!(size, LobSize::Medium | LobSize::Long)).then_some("may cut off bytes")
        }
        (Blob { size: a }, Blob { size: b }) => (lob_bytes(*b) < lob_bytes(*a)).then_some("cuts off bytes"),
        (Bit { bits: a }, Bit { bits: b }) if b >= a && *a > 1 => None,
        (Json, _) | (_, Json) => Some("rewrites documents"),
        (Binary { .. } | VarBinary { .. } | Blob { .. }, _) | (_, Binary { .. } | VarBinary { .. } | Blob { .. }) => {
            Some("turns bytes into something else or something else into bytes")
        }
        _ => Some("converts values as only the server does"),
    }
}

/// The least and the greatest integer of a type.
fn integers(of: &MysqlType) -> Option<(i128, i128)> {
    let (bits, unsigned) = match of {
        MysqlType::TinyInt { unsigned } => (8, unsigned),
        MysqlType::SmallInt { unsigned } => (16, unsigned),
        MysqlType::MediumInt { unsigned } => (24, unsigned),
        MysqlType::Int { unsigned } => (32, unsigned),
        MysqlType::BigInt { unsigned } => (64, unsigned),
        _ => return None,
    };
    Some(match unsigned {
        true => (0, (1 << bits) - 1),
        false => (-(1 << (bits - 1)), (1 << (bits - 1)) - 1),
    })
}

/// Characters that certainly fit in a text.
fn text_size(of: &MysqlType) -> Option<u64> {
    Some(match of {
        MysqlType::Char { chars, .. } | MysqlType::VarChar { chars, .. } => u64::from(*chars),
        MysqlType::Text { size, charset } => lob_bytes(*size) / u64::from(charset.max_bytes()),
        _ => return None,
    })
}

fn lob_bytes(size: LobSize) -> u64 {
    match size {
        LobSize::Tiny => 255,
        LobSize::Normal => 65_535,
        LobSize::Medium => 16_777_215,
        LobSize::Long => 4_294_967_295,
    }
}
