//! Tokens of MySQL's and Doris's SQL, with their places in the text, for everything that does not go to sqlparser: the
//! dispatch by first words, data definition, SHOW and SET, the cutting of a text into statements. Comments are dropped,
//! executable ones (`/*!40101 … */`) are read as what they hold.

use freshet_core::{Error, Result};

/// One token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Token<'a> {
    /// A keyword or an unquoted name.
    Word(&'a str),
    /// A name in backquotes.
    Name(String),
    /// A string in single or double quotes, escapes resolved.
    Text(String),
    /// A number, as written.
    Number(&'a str),
    /// `@name` or `@@scope.name`, as written, quotes removed.
    Variable(String),
    /// Anything else, one or two characters.
    Symbol(&'a str),
}

/// A token and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lexed<'a> {
    /// The token.
    pub(crate) token: Token<'a>,
    /// Offset of its first byte.
    pub(crate) start: usize,
    /// Offset behind its last byte.
    pub(crate) end: usize,
}

/// The highest server version (`/*!50799`) whose executable comments are read.
const VERSION: u32 = 50_799;
/// Symbols of two characters.
const PAIRS: [&str; 10] = ["<=", ">=", "<>", "!=", ":=", "&&", "||", "<<", ">>", "->"];

/// A statement error of the user's text, with the place where it stopped making sense.
pub(crate) fn syntax_error(sql: &str, at: usize, what: impl Into<String>) -> Error {
    let at = (0..=at.min(sql.len())).rev().find(|i| sql.is_char_boundary(*i)).unwrap_or(0);
    let line = sql[..at].matches('\n').count() + 1;
    let near: String = sql[at..].chars().take(60).collect();
    let near = if near.trim().is_empty() { "end of statement".to_string() } else { format!("'{}'", near.trim_end()) };
    Error::config(what).with("near", format!("{near} at line {line}"))
}

/// All tokens of a text.
///
/// # Errors
/// A syntax error for a string, name or comment that does not end.
pub(crate) fn lex(sql: &str) -> Result<Vec<Lexed<'_>>> {
    let mut lexer = Lexer { sql, at: 0, in_executable: false };
    let mut out = Vec::with_capacity(sql.len() / 5 + 4);
    while let Some(token) = lexer.next()? {
        out.push(token);
    }
    Ok(out)
}

/// Cuts a text at its semicolons; parts without a token are left out. A text that cannot be cut is one statement.
pub(crate) fn split(sql: &str) -> Vec<&str> {
    let Ok(tokens) = lex(sql) else { return vec![sql] };
    let (mut out, mut from, mut empty) = (Vec::new(), 0, true);
    for t in &tokens {
        if t.token == Token::Symbol(";") {
            if !empty {
                out.push(sql[from..t.start].trim());
            }
            (from, empty) = (t.end, true);
        } else {
            empty = false;
        }
    }
    if !empty {
        out.push(sql[from..].trim());
    }
    out
}

/// The text without comments, executable ones unwrapped, and without a semicolon at the end.
///
/// # Errors
/// As [`lex`].
pub(crate) fn plain(sql: &str) -> Result<String> {
    let tokens = lex(sql)?;
    let mut out = String::with_capacity(sql.len());
    let mut at = 0;
    let end = tokens.iter().rposition(|t| t.token != Token::Symbol(";")).map_or(0, |i| i + 1);
    for t in &tokens[..end] {
        let gap = &sql[at..t.start];
        if gap.chars().all(char::is_whitespace) {
            out.push_str(if out.is_empty() { "" } else { gap });
        } else if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(&sql[t.start..t.end]);
        at = t.end;
    }
    Ok(out)
}

struct Lexer<'a> {
    sql: &'a str,
    at: usize,
    in_executable: bool,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.sql[self.at..]
    }

    fn next(&mut self) -> Result<Option<Lexed<'a>>> {
        self.skip_blank()?;
        let start = self.at;
        let Some(c) = self.rest().chars().next() else { return Ok(None) };
        let token = match c {
            '`' => Token::Name(self.quoted('`')?),
            '\'' | '"' => Token::Text(self.quoted(c)?),
            '@' => self.variable()?,
            '0'..='9' => self.number(),
            '.' if self.rest()[1..].starts_with(|c: char| c.is_ascii_digit()) => self.number(),
            _ if is_word(c) => {
                let length = self.rest().find(|c| !is_word(c)).unwrap_or(self.rest().len());
                self.at += length;
                Token::Word(&self.sql[start..self.at])
            }
            _ => {
                let pair = PAIRS.iter().find(|p| self.rest().starts_with(**p));
                let length = pair.map_or(c.len_utf8(), |p| p.len());
                let length = if self.rest().starts_with("<=>") || self.rest().starts_with("->>") { 3 } else { length };
                self.at += length;
                Token::Symbol(&self.sql[start..self.at])
            }
        };
        Ok(Some(Lexed { token, start, end: self.at }))
    }

    fn skip_blank(&mut self) -> Result<()> {
        loop {
            let rest = self.rest();
            let blank = rest.len() - rest.trim_start().len();
            self.at += blank;
            let rest = self.rest();
            let to_line_end = |s: &str| s.find('\n').map_or(s.len(), |n| n + 1);
            if rest.starts_with('#') || (rest.starts_with("--") && is_dash_comment(rest)) {
                self.at += to_line_end(rest);
            } else if let Some(body) = rest.strip_prefix("/*!") {
                let digits = body.find(|c: char| !c.is_ascii_digit()).unwrap_or(body.len());
                if body[..digits].parse::<u32>().is_ok_and(|v| v > VERSION) {
                    self.skip_comment()?;
                } else {
                    self.at += 3 + digits;
                    self.in_executable = true;
                }
            } else if self.in_executable && rest.starts_with("*/") {
                self.at += 2;
                self.in_executable = false;
            } else if rest.starts_with("/*") {
                self.skip_comment()?;
            } else {
                return Ok(());
            }
        }
    }

    fn skip_comment(&mut self) -> Result<()> {
        let end = self.rest().find("*/").ok_or_else(|| syntax_error(self.sql, self.at, "a comment does not end"))?;
        self.at += end + 2;
        Ok(())
    }

    /// A quoted string or name with its quotes; doubled quotes stand for one, a backslash escapes in strings.
    fn quoted(&mut self, quote: char) -> Result<String> {
        let start = self.at;
        let mut out = String::new();
        let mut chars = self.rest()[1..].char_indices().peekable();
        while let Some((i, c)) = chars.next() {
            if c == quote {
                if chars.next_if(|(_, next)| *next == quote).is_some() {
                    out.push(quote);
                    continue;
                }
                self.at = start + 1 + i + 1;
                return Ok(out);
            }
            if c == '\\' && quote != '`' {
                match chars.next() {
                    Some((_, escaped)) => push_escaped(escaped, &mut out),
                    None => break,
                }
            } else {
                out.push(c);
            }
        }
        Err(syntax_error(self.sql, start, format!("a {quote} is not closed")))
    }

    fn number(&mut self) -> Token<'a> {
        let start = self.at;
        let bytes = self.sql.as_bytes();
        let mut i = self.at;
        let digits = |mut i: usize| {
            while bytes.get(i).is_some_and(u8::is_ascii_digit) {
                i += 1;
            }
            i
        };
        i = digits(i);
        if bytes.get(i) == Some(&b'.') {
            i = digits(i + 1);
        }
        if matches!(bytes.get(i), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(bytes.get(i + 1), Some(b'+' | b'-')));
            let end = digits(i + 1 + sign);
            if end > i + 1 + sign {
                i = end;
            }
        }
        // A word that begins with digits (`2024_orders`) is a name.
        if !self.sql[start..i].contains('.') && self.sql[i..].starts_with(is_word) {
            let length = self.sql[i..].find(|c| !is_word(c)).unwrap_or(self.sql.len() - i);
            self.at = i + length;
            return Token::Word(&self.sql[start..self.at]);
        }
        self.at = i;
        Token::Number(&self.sql[start..i])
    }

    fn variable(&mut self) -> Result<Token<'a>> {
        let at_signs = if self.rest().starts_with("@@") { 2 } else { 1 };
        let mut name = self.rest()[..at_signs].to_string();
        self.at += at_signs;
        loop {
            match self.rest().chars().next() {
                Some(q @ ('`' | '\'' | '"')) => name.push_str(&self.quoted(q)?),
                _ => {
                    let length = self.rest().find(|c| !is_word(c)).unwrap_or(self.rest().len());
                    name.push_str(&self.rest()[..length]);
                    self.at += length;
                }
            }
            if at_signs == 2 && self.rest().starts_with('.') {
                name.push('.');
                self.at += 1;
            } else {
                return Ok(Token::Variable(name));
            }
        }
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}

/// MySQL takes `--` as a comment only before a blank, so that `1--1` stays arithmetic.
fn is_dash_comment(rest: &str) -> bool {
    rest[2..].chars().next().is_none_or(|c| c.is_whitespace() || c.is_control())
}

fn push_escaped(c: char, out: &mut String) {
    match c {
        'n' => out.push('\n'),
        't' => out.push('\t'),
        'r' => out.push('\r'),
        'b' => out.push('\u{8}'),
        '0' => out.push('\0'),
        'Z' => out.push('\u{1a}'),
        // In patterns these stay escaped.
        '%' | '_' => out.extend(['\\', c]),
        other => out.push(other),
    }
}

/// A reader over tokens, for parsers by recursive descent.
pub(crate) struct Cursor<'a> {
    sql: &'a str,
    tokens: Vec<Lexed<'a>>,
    at: usize,
}

impl<'a> Cursor<'a> {
    /// Over a whole text.
    ///
    /// # Errors
    /// As [`lex`].
    pub(crate) fn new(sql: &'a str) -> Result<Self> {
        let mut tokens = lex(sql)?;
        while tokens.last().is_some_and(|t| t.token == Token::Symbol(";")) {
            tokens.pop();
        }
        Ok(Cursor { sql, tokens, at: 0 })
    }

    /// The next token.
    pub(crate) fn peek(&self) -> Option<&Token<'a>> {
        self.tokens.get(self.at).map(|t| &t.token)
    }

    /// The `n`th token from here.
    pub(crate) fn peek_at(&self, n: usize) -> Option<&Token<'a>> {
        self.tokens.get(self.at + n).map(|t| &t.token)
    }

    /// Moves on, past that token.
    pub(crate) fn advance(&mut self) -> Option<Token<'a>> {
        let token = self.tokens.get(self.at).map(|t| t.token.clone());
        self.at += usize::from(token.is_some());
        token
    }

    /// Whether nothing is left.
    pub(crate) fn done(&self) -> bool {
        self.at >= self.tokens.len()
    }

    /// Offset of the next token in the text.
    pub(crate) fn offset(&self) -> usize {
        self.tokens.get(self.at).map_or(self.sql.len(), |t| t.start)
    }

    /// The text from the next token on.
    pub(crate) fn rest(&self) -> &'a str {
        &self.sql[self.offset()..]
    }

    /// The text from an [`Self::offset`] to the end of the last token that was read.
    pub(crate) fn text_since(&self, offset: usize) -> &'a str {
        let end = self.at.checked_sub(1).and_then(|i| self.tokens.get(i)).map_or(offset, |t| t.end);
        &self.sql[offset..end.max(offset)]
    }

    /// Whether the `n`th token from here is this word (ASCII case ignored).
    pub(crate) fn is_word_at(&self, n: usize, word: &str) -> bool {
        matches!(self.tokens.get(self.at + n).map(|t| &t.token), Some(Token::Word(w)) if w.eq_ignore_ascii_case(word))
    }

    /// Whether the next tokens are these words, separated by blanks.
    pub(crate) fn sees(&self, words: &str) -> bool {
        words.split(' ').enumerate().all(|(n, w)| self.is_word_at(n, w))
    }

    /// Reads these words if they are next.
    pub(crate) fn eat(&mut self, words: &str) -> bool {
        let seen = self.sees(words);
        if seen {
            self.at += words.split(' ').count();
        }
        seen
    }

    /// Reads the first of these that is next, and says which.
    pub(crate) fn eat_any<'w>(&mut self, words: &[&'w str]) -> Option<&'w str> {
        words.iter().find(|w| self.eat(w)).copied()
    }

    /// Reads these words.
    ///
    /// # Errors
    /// A syntax error when something else is next.
    pub(crate) fn expect(&mut self, words: &str) -> Result<()> {
        if self.eat(words) { Ok(()) } else { Err(self.error(format!("expected {words}"))) }
    }

    /// Reads this symbol if it is next.
    pub(crate) fn eat_symbol(&mut self, symbol: &str) -> bool {
        let seen = matches!(self.peek(), Some(Token::Symbol(s)) if *s == symbol);
        self.at += usize::from(seen);
        seen
    }

    /// Reads this symbol.
    ///
    /// # Errors
    /// As [`Self::expect`].
    pub(crate) fn expect_symbol(&mut self, symbol: &str) -> Result<()> {
        if self.eat_symbol(symbol) { Ok(()) } else { Err(self.error(format!("expected {symbol}"))) }
    }

    /// Reads the first half of a symbol of two characters, and leaves the other half for the next reader.
    pub(crate) fn eat_half(&mut self, symbol: &str, half: &str) -> bool {
        let Some(lexed) = self.tokens.get_mut(self.at) else { return false };
        if lexed.token != Token::Symbol(symbol) {
            return false;
        }
        lexed.start += half.len();
        lexed.token = Token::Symbol(&self.sql[lexed.start..lexed.end]);
        true
    }

    /// Reads a name, quoted or not.
    ///
    /// # Errors
    /// As [`Self::expect`].
    pub(crate) fn name(&mut self) -> Result<String> {
        match self.peek() {
            Some(Token::Word(w)) => {
                let name = (*w).to_string();
                self.at += 1;
                Ok(name)
            }
            Some(Token::Name(n)) => {
                let name = n.clone();
                self.at += 1;
                Ok(name)
            }
            _ => Err(self.error("expected a name")),
        }
    }

    /// Reads a string.
    ///
    /// # Errors
    /// As [`Self::expect`].
    pub(crate) fn text(&mut self) -> Result<String> {
        match self.peek() {
            Some(Token::Text(t)) => {
                let text = t.clone();
                self.at += 1;
                Ok(text)
            }
            _ => Err(self.error("expected a string in quotes")),
        }
    }

    /// Reads a whole number.
    ///
    /// # Errors
    /// As [`Self::expect`].
    pub(crate) fn integer(&mut self) -> Result<u64> {
        match self.peek() {
            Some(Token::Number(n)) => {
                let value = n.parse().map_err(|_| self.error("expected a whole number"))?;
                self.at += 1;
                Ok(value)
            }
            _ => Err(self.error("expected a whole number")),
        }
    }

    /// Skips a list in brackets, nested ones included, if one is next.
    ///
    /// # Errors
    /// A syntax error when it does not end.
    pub(crate) fn skip_brackets(&mut self) -> Result<()> {
        if !self.eat_symbol("(") {
            return Ok(());
        }
        let mut depth = 1;
        while depth > 0 {
            match self.advance() {
                Some(Token::Symbol("(")) => depth += 1,
                Some(Token::Symbol(")")) => depth -= 1,
                Some(_) => {}
                None => return Err(self.error("a bracket is not closed")),
            }
        }
        Ok(())
    }

    /// Nothing may be left.
    ///
    /// # Errors
    /// A syntax error that shows what is.
    pub(crate) fn end(&self) -> Result<()> {
        if self.done() { Ok(()) } else { Err(self.error("the statement should end here")) }
    }

    /// A syntax error at an [`Self::offset`].
    pub(crate) fn error_at(&self, offset: usize, what: impl Into<String>) -> Error {
        syntax_error(self.sql, offset, what)
    }

    /// A syntax error at the next token.
    pub(crate) fn error(&self, what: impl Into<String>) -> Error {
        syntax_error(self.sql, self.offset(), what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tokens(sql: &str) -> Vec<Token<'_>> {
        lex(sql).unwrap().into_iter().map(|t| t.token).collect()
    }

    #[test]
    fn strings_names_numbers_variables() {
        assert_eq!(
            tokens(r#"a `b``c` 'it''s \n' "x" 1.5e-3 .5 2024_x @@session.sql_mode @`u v`"#),
            vec![
                Token::Word("a"),
                Token::Name("b`c".into()),
                Token::Text("it's \n".into()),
                Token::Text("x".into()),
                Token::Number("1.5e-3"),
                Token::Number(".5"),
                Token::Word("2024_x"),
                Token::Variable("@@session.sql_mode".into()),
                Token::Variable("@u v".into()),
            ]
        );
    }

    #[test]
    fn comments_are_dropped_and_executable_ones_read() {
        let sql = "/* c */ select -- x\n 1 # y\n /*!40101 + 2 */ /*!99999 + 3 */ /*+ hint */ - -1;";
        assert_eq!(plain(sql).unwrap(), "select 1 + 2 - -1");
        assert_eq!(tokens("1--1").len(), 4);
        assert!(lex("select /* x").is_err());
    }

    #[test]
    fn statements_are_cut_outside_strings() {
        assert_eq!(split("select ';'; -- a; b\n select `;` ;;"), vec!["select ';'", "-- a; b\n select `;`"]);
        assert_eq!(split(" ; /* only a comment */ "), Vec::<&str>::new());
    }

    proptest! {
        #[test]
        fn any_text_is_lexed_without_a_panic(sql in ".{0,80}") {
            if let Ok(tokens) = lex(&sql) {
                for pair in tokens.windows(2) {
                    prop_assert!(pair[0].end <= pair[1].start);
                }
            }
            let _ = (split(&sql), plain(&sql));
        }

        #[test]
        fn quoted_text_reads_back(text in ".{0,40}") {
            let quoted = freshet_core::schema::quote_text(&text);
            prop_assert_eq!(tokens(&quoted), vec![Token::Text(text)]);
        }
    }
}
