//! Statements that change rows, of which a log in statement format holds nothing but their text: the tables that they
//! change, as far as the text says. And foreign keys, by which a server changes rows of other tables.

use freshet_core::{Result, TableName};

use super::Context;
use super::cursor::Cursor;
use super::lexer::{self, Token};

/// What a statement changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::mysql) enum Written {
    /// Rows of these tables (it may be one too many), and what triggers, views and foreign keys make of that.
    Tables(Vec<TableName>),
    /// The text does not say: a procedure or function is called, or it is not understood.
    Unknown,
}

/// What a foreign key does to the rows of its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::mysql) enum Rule {
    /// As to the parent's: they are deleted, or their columns changed.
    Cascade,
    SetNull,
}

/// A foreign key that changes rows of its table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::mysql) struct Cascade {
    pub(in crate::mysql) name: String,
    pub(in crate::mysql) child: TableName,
    /// Its columns; none: they are not known.
    pub(in crate::mysql) columns: Vec<String>,
    pub(in crate::mysql) parent: TableName,
    /// The parent's columns that it refers to.
    pub(in crate::mysql) references: Vec<String>,
    pub(in crate::mysql) on_delete: Option<Rule>,
    pub(in crate::mysql) on_update: Option<Rule>,
}

impl Rule {
    /// From the words of `information_schema` or a statement.
    pub(in crate::mysql) fn parse(words: &str) -> Option<Self> {
        match words.to_ascii_uppercase().as_str() {
            "CASCADE" => Some(Rule::Cascade),
            "SET NULL" => Some(Rule::SetNull),
            _ => None,
        }
    }
}

/// The tables whose rows a statement changes.
pub(in crate::mysql) fn written(sql: &str, context: &Context<'_>) -> Written {
    let tokens = lexer::tokens(sql, context);
    match target(Cursor::new(sql, &tokens), context) {
        Ok(Some(tables)) => Written::Tables(tables),
        _ => Written::Unknown,
    }
}

fn target(mut c: Cursor<'_>, context: &Context<'_>) -> Result<Option<Vec<TableName>>> {
    if c.eat("SET STATEMENT") {
        while !c.is_end() && !c.eat("FOR") {
            c.advance();
        }
    }
    let Some(verb) = c.eat_one(&["INSERT", "REPLACE", "UPDATE", "DELETE", "LOAD", "WITH"]) else { return Ok(None) };
    while c.eat_one(&["LOW_PRIORITY", "HIGH_PRIORITY", "DELAYED", "QUICK", "IGNORE"]).is_some() {}
    Ok(Some(match verb {
        "INSERT" | "REPLACE" => {
            c.eat("INTO");
            vec![c.table_name(context)?]
        }
        "LOAD" => {
            while !c.eat("INTO TABLE") {
                if c.advance().is_none() {
                    return Ok(None);
                }
            }
            vec![c.table_name(context)?]
        }
        "DELETE" if c.eat("FROM") => {
            let name = c.table_name(context)?;
            match c.peek() {
                Some(Token::Symbol(',' | '.')) => return named(c, context, vec![name]),
                _ if c.sees("USING") => return named(c, context, vec![name]),
                _ => vec![name],
            }
        }
        "UPDATE" => {
            let first = c.table_name(context)?;
            if c.eat("SET") {
                return Ok(Some(vec![first]));
            }
            return named(c, context, vec![first]);
        }
        _ => return named(c, context, Vec::new()),
    }))
}

/// All names where a table may stand: aliases are among them, which are nobody's tables.
fn named(mut c: Cursor<'_>, context: &Context<'_>, mut tables: Vec<TableName>) -> Result<Option<Vec<TableName>>> {
    while !c.is_end() {
        match c.peek() {
            Some(Token::Word(_) | Token::Name(_)) => match c.clone().table_name(context) {
                Ok(name) => {
                    tables.push(name);
                    c.advance();
                }
                Err(_) => _ = c.advance(),
            },
            _ => _ = c.advance(),
        }
    }
    Ok(Some(tables))
}

/// Foreign keys with effects that a CREATE or ALTER TABLE makes.
pub(in crate::mysql) fn cascades(sql: &str, context: &Context<'_>) -> Vec<Cascade> {
    let tokens = lexer::tokens(sql, context);
    read_cascades(Cursor::new(sql, &tokens), context).unwrap_or_default()
}

fn read_cascades(mut c: Cursor<'_>, context: &Context<'_>) -> Result<Vec<Cascade>> {
    while !c.eat("TABLE") {
        if c.advance().is_none() {
            return Ok(Vec::new());
        }
    }
    let _ = c.eat("IF NOT EXISTS") || c.eat("IF EXISTS");
    let child = c.table_name(context)?;
    let mut found = Vec::new();
    let mut columns = Vec::new();
    while c.peek().is_some() {
        if c.eat("FOREIGN KEY") {
            while !c.is_end() && !matches!(c.peek(), Some(Token::Symbol('('))) {
                c.advance();
            }
            columns = names(&mut c);
        }
        if !c.eat("REFERENCES") {
            c.advance();
            continue;
        }
        // Without a database the child's is meant.
        let context = Context { default_database: &child.database, ..*context };
        let parent = c.table_name(&context)?;
        let references = names(&mut c);
        let columns = std::mem::take(&mut columns);
        let (mut on_delete, mut on_update) = (None, None);
        loop {
            if c.eat("MATCH") {
                c.advance();
            } else if c.eat("ON DELETE") {
                on_delete = rule(&mut c);
            } else if c.eat("ON UPDATE") {
                on_update = rule(&mut c);
            } else {
                break;
            }
        }
        if on_delete.is_some() || on_update.is_some() {
            let (name, child) = (String::new(), child.clone());
            found.push(Cascade { name, child, columns, parent, references, on_delete, on_update });
        }
    }
    Ok(found)
}

/// Names in parentheses, if there are some.
fn names(c: &mut Cursor<'_>) -> Vec<String> {
    let mut names = Vec::new();
    if c.eat_symbol('(') {
        while !c.is_end() && !c.eat_symbol(')') {
            if let Ok(name) = c.name() {
                names.push(name);
            } else {
                c.advance();
            }
            c.eat_symbol(',');
        }
    }
    names
}

fn rule(c: &mut Cursor<'_>) -> Option<Rule> {
    match c.eat_one(&["CASCADE", "SET NULL", "SET DEFAULT", "NO ACTION", "RESTRICT"]) {
        Some(words) => Rule::parse(words),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mysql::types::Charsets;

    fn in_context<T>(f: impl Fn(&Context<'_>) -> T) -> T {
        f(&Context {
            default_database: "d",
            ansi_quotes: false,
            no_backslash_escapes: false,
            charsets: &Charsets::default(),
            mariadb: true,
            lower_case_names: false,
            strict: true,
            zone: crate::mysql::ddl::Zone::UTC,
        })
    }

    #[test]
    fn targets() {
        let of = |sql: &str| match in_context(|c| written(sql, c)) {
            Written::Tables(tables) => Some(tables.iter().map(ToString::to_string).collect::<Vec<_>>()),
            Written::Unknown => None,
        };
        let one = |name: &str| Some(vec![name.to_string()]);
        assert_eq!(of("INSERT LOW_PRIORITY IGNORE INTO `a b`.t VALUES ('orders')"), one("a b.t"));
        assert_eq!(of("/* x */ replace t SELECT * FROM orders"), one("d.t"));
        assert_eq!(of("UPDATE t SET a = (SELECT 1 FROM orders)"), one("d.t"));
        assert_eq!(of("DELETE QUICK FROM t WHERE id IN (SELECT 1 FROM orders)"), one("d.t"));
        assert_eq!(of("LOAD DATA INFILE 'x' REPLACE INTO TABLE `t` FIELDS TERMINATED BY ','"), one("d.t"));
        for sql in [
            "UPDATE t AS x JOIN e.u ON x.a = u.a SET u.b = 1",
            "DELETE t, u FROM t JOIN e.u",
            "WITH c AS (SELECT 1) DELETE FROM e.u",
            "DELETE FROM t, e.u USING t, e.u",
        ] {
            assert!(of(sql).is_some_and(|t| t.contains(&"e.u".to_string())), "{sql}: {:?}", of(sql));
        }
        for sql in ["SELECT `d`.`f`()", "CALL p()", "DO f()", "INSERT INTO 'x", "LOAD DATA", ""] {
            assert_eq!(of(sql), None, "{sql}");
        }
    }

    #[test]
    fn foreign_keys() {
        let of = |sql: &str| in_context(|c| cascades(sql, c));
        let key = |child: &str, columns: &[&str], parent: &str, on_delete, on_update| {
            let name = |full: &str| full.split_once('.').map(|(d, t)| TableName::new(d, t)).unwrap();
            let columns = columns.iter().map(|c| (*c).to_string()).collect();
            let references = vec!["id".to_string()];
            let (child, parent) = (name(child), name(parent));
            Cascade { name: String::new(), child, columns, parent, references, on_delete, on_update }
        };
        let (cascade, null) = (Some(Rule::Cascade), Some(Rule::SetNull));
        assert_eq!(
            of(
                "CREATE TABLE IF NOT EXISTS e.c (a INT REFERENCES p (id) ON UPDATE SET NULL ON DELETE CASCADE, b INT, FOREIGN KEY (b) REFERENCES f.q (`id`) ON DELETE RESTRICT)"
            ),
            [key("e.c", &[], "e.p", cascade, null)]
        );
        assert_eq!(
            of("ALTER TABLE c ADD CONSTRAINT x FOREIGN KEY IF NOT EXISTS k (a) REFERENCES p (id) ON DELETE SET NULL"),
            [key("d.c", &["a"], "d.p", null, None)]
        );
        assert_eq!(
            of(
                "CREATE TABLE c (a INT, FOREIGN KEY `k`(`a`) REFERENCES p (id), FOREIGN KEY (b) REFERENCES q (id) ON UPDATE CASCADE)"
            ),
            [key("d.c", &["b"], "d.q", None, cascade)]
        );
        assert_eq!(of("CREATE TABLE c (a INT)"), []);
    }

    proptest! {
        #[test]
        fn any_text(text in ".{0,80}") {
            let _ = in_context(|c| (written(&text, c), cascades(&text, c)));
        }
    }
}
