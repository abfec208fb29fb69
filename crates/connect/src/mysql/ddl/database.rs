//! Statements about databases: of them only the default character set matters, which tables are created with.

use freshet_core::Result;

use super::Context;
use super::create::{TableOption, parse_option};
use super::cursor::Cursor;
use super::lexer;
use crate::mysql::types::Charsets;

/// The default character set that a statement gives a database; `None`: it says nothing about one.
pub(in crate::mysql) fn database_charset(sql: &str, context: &Context<'_>) -> Option<(String, String)> {
    let tokens = lexer::tokens(sql, context);
    read(Cursor::new(sql, &tokens), context).ok().flatten()
}

fn read(mut c: Cursor<'_>, context: &Context<'_>) -> Result<Option<(String, String)>> {
    let Some(verb) = c.eat_one(&["CREATE", "ALTER"]) else { return Ok(None) };
    c.eat("OR REPLACE");
    if c.eat_one(&["DATABASE", "SCHEMA"]).is_none() {
        return Ok(None);
    }
    let there_already = c.eat("IF NOT EXISTS");
    const OPTIONS: [&str; 8] =
        ["DEFAULT", "CHARACTER SET", "CHARSET", "COLLATE", "ENCRYPTION", "READ ONLY", "COMMENT", "UPGRADE"];
    let mut name = match verb == "ALTER" && OPTIONS.iter().any(|o| c.sees(o)) {
        true => context.default_database.to_string(),
        false => c.name()?,
    };
    if context.lower_case_names {
        name = name.to_lowercase();
    }
    let Charsets { server, databases } = context.charsets;
    let mut charset = match verb {
        "CREATE" if there_already && databases.contains_key(&name) => return Ok(None),
        "CREATE" => Some(server.clone()),
        _ => None,
    };
    while !c.is_end() {
        match parse_option(&mut c)? {
            Some(TableOption::Charset(Some(named))) => charset = Some(named),
            Some(TableOption::Charset(None)) => charset = Some(server.clone()),
            Some(_) => {}
            None => _ = c.advance(),
        }
    }
    Ok(charset.map(|charset| (name, charset)))
}
