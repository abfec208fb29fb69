//! Cuts a statement into tokens: quoted and plain names, texts, numbers, symbols. Comments go, but for those that the
//! server executes (`/*!50000 … */`; `/*M!100000 … */` in MariaDB), whose contents stay. A server blanks the ones that
//! its own version skips before it writes the statement into its log, so versions need not be compared here.

use super::Context;
use crate::mysql::types::unescape;

/// A token. Keywords are words: which of them is one depends on the place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    /// A name or keyword without quotes.
    Word(String),
    /// A name in quotes.
    Name(String),
    /// A text.
    Text(String),
    /// A number, without sign.
    Number(String),
    /// `x'4142'`, `0x4142`, `b'101'`, `0b101`: big-endian bytes.
    Bytes(Vec<u8>),
    /// Any other character.
    Symbol(char),
}

/// A token and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Spanned {
    pub(super) token: Token,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// The tokens of a statement. At a text or comment without an end it stops: what comes before is given back, and the
/// parser will miss the rest.
pub(super) fn tokens(sql: &str, context: &Context<'_>) -> Vec<Spanned> {
    let mut lexer = Lexer { sql, at: 0, context, executable: 0, out: Vec::new() };
    while lexer.step().is_some() {}
    lexer.out
}

struct Lexer<'a> {
    sql: &'a str,
    at: usize,
    context: &'a Context<'a>,
    /// Executable comments that are open.
    executable: u32,
    out: Vec<Spanned>,
}

impl Lexer<'_> {
    fn rest(&self) -> &str {
        &self.sql[self.at..]
    }

    fn push(&mut self, token: Token, start: usize) -> Option<()> {
        self.out.push(Spanned { token, start, end: self.at });
        Some(())
    }

    /// Reads one token, or skips one piece of space; `None` at the end.
    fn step(&mut self) -> Option<()> {
        let start = self.at;
        let mut chars = self.rest().chars();
        let (c, next) = (chars.next()?, chars.next());
        match (c, next) {
            (c, _) if c.is_whitespace() || c == '\0' => self.at += c.len_utf8(),
            ('#', _) => self.skip_line(),
            ('-', Some('-')) if chars.next().is_none_or(|c| c.is_whitespace() || c.is_control()) => self.skip_line(),
            ('/', Some('*')) => return self.comment(),
            ('*', Some('/')) if self.executable > 0 => {
                self.executable -= 1;
                self.at += 2;
            }
            ('`', _) => {
                let name = self.quoted('`', false)?;
                return self.push(Token::Name(name), start);
            }
            ('"', _) if self.context.ansi_quotes => {
                let name = self.quoted('"', false)?;
                return self.push(Token::Name(name), start);
            }
            ('\'' | '"', _) => {
                let text = self.quoted(c, !self.context.no_backslash_escapes)?;
                return self.push(Token::Text(text), start);
            }
            ('x' | 'X' | 'b' | 'B', Some('\'')) => {
                self.at += 1;
                let digits = self.quoted('\'', false)?;
                let bytes = radix(&digits, if c.eq_ignore_ascii_case(&'x') { 4 } else { 1 })?;
                return self.push(Token::Bytes(bytes), start);
            }
            ('n' | 'N', Some('\'')) => {
                self.at += 1;
                let text = self.quoted('\'', !self.context.no_backslash_escapes)?;
                return self.push(Token::Text(text), start);
            }
            (c, next) if c.is_ascii_digit() || (c == '.' && next.is_some_and(|n| n.is_ascii_digit())) => {
                return self.number_or_word();
            }
            (c, _) if is_word(c) => return self.word(),
            (c, _) => {
                self.at += c.len_utf8();
                return self.push(Token::Symbol(c), start);
            }
        }
        Some(())
    }

    fn skip_line(&mut self) {
        self.at += self.rest().find('\n').map_or(self.rest().len(), |n| n + 1);
    }

    fn comment(&mut self) -> Option<()> {
        let inside = &self.rest()[2..];
        let executable = match inside.strip_prefix("M!") {
            Some(rest) => self.context.mariadb.then_some(rest),
            None => inside.strip_prefix('!'),
        };
        match executable {
            Some(rest) => {
                let version = rest.bytes().take(6).take_while(u8::is_ascii_digit).count();
                // A version has five or six digits; fewer are the beginning of the contents.
                let skip = if version >= 5 { version } else { 0 };
                self.at = self.sql.len() - rest.len() + skip;
                self.executable += 1;
            }
            None => self.at += 4 + inside.find("*/")?,
        }
        Some(())
    }

    /// Reads up to the closing quote; two of them stand for one.
    fn quoted(&mut self, quote: char, escapes: bool) -> Option<String> {
        let mut text = String::new();
        let mut chars = self.sql[self.at + 1..].char_indices().peekable();
        loop {
            let (offset, c) = chars.next()?;
            if c == quote {
                if chars.peek().is_some_and(|(_, c)| *c == quote) {
                    chars.next();
                    text.push(quote);
                } else {
                    self.at += 1 + offset + quote.len_utf8();
                    return Some(text);
                }
            } else if c == '\\' && escapes {
                text.push(unescape(chars.next()?.1));
            } else {
                text.push(c);
            }
        }
    }

    fn word(&mut self) -> Option<()> {
        let start = self.at;
        let length = self.rest().find(|c| !is_word(c)).unwrap_or(self.rest().len());
        self.at += length;
        self.push(Token::Word(self.sql[start..self.at].to_string()), start)
    }

    /// A number, or a name that begins with a digit: `1a`, and anything behind the point of `db.1`.
    fn number_or_word(&mut self) -> Option<()> {
        let start = self.at;
        let after_point =
            matches!(self.out.last(), Some(Spanned { token: Token::Symbol('.'), end, .. }) if *end == start);
        let behind_name = matches!(
            self.out.last(), Some(Spanned { token: Token::Word(_) | Token::Name(_), end, .. }) if *end == start);
        if self.rest().starts_with('.') && behind_name {
            self.at += 1;
            return self.push(Token::Symbol('.'), start);
        }
        if after_point {
            return self.word();
        }
        let rest = self.rest().as_bytes();
        let run = rest.iter().take_while(|b| b.is_ascii_alphanumeric()).count();
        let prefix = rest.get(..2);
        for (mark, bits) in [(b"0x", 4), (b"0b", 1)] {
            if prefix == Some(mark)
                && run > 2
                && let Some(bytes) = radix(&self.rest()[2..run], bits)
            {
                self.at += run;
                return self.push(Token::Bytes(bytes), start);
            }
        }
        let digits = |from: usize| rest[from..].iter().take_while(|b| b.is_ascii_digit()).count();
        let mut length = digits(0);
        if rest.get(length) == Some(&b'.') {
            length += 1;
            length += digits(length);
        }
        if matches!(rest.get(length), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(rest.get(length + 1), Some(b'+' | b'-')));
            let exponent = digits((length + 1 + sign).min(rest.len()));
            if exponent > 0 {
                length += 1 + sign + exponent;
            }
        }
        let ends = self.rest()[length..].chars().next().is_none_or(|c| !is_word(c));
        if !ends && rest[..length].iter().all(u8::is_ascii_digit) {
            return self.word();
        }
        self.at += length;
        self.push(Token::Number(self.sql[start..self.at].to_string()), start)
    }
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '$' || !c.is_ascii()
}

/// Digits of 4 or 1 bits each as big-endian bytes; a few thousand at most, because no default is longer.
fn radix(digits: &str, bits: u32) -> Option<Vec<u8>> {
    const LIMIT: usize = 1 << 17;
    if digits.len() > LIMIT {
        return None;
    }
    let per_byte = (8 / bits) as usize;
    let mut out = Vec::with_capacity(digits.len() / per_byte + 1);
    for chunk in digits.as_bytes().rchunks(per_byte).rev() {
        let mut byte = 0u8;
        for c in chunk {
            byte = byte << bits | u8::try_from(char::from(*c).to_digit(1 << bits)?).ok()?;
        }
        out.push(byte);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mysql::types::Charsets;

    fn show(sql: &str, ansi_quotes: bool, no_backslash_escapes: bool, mariadb: bool) -> String {
        let charsets = Charsets::default();
        let context = Context {
            default_database: "d",
            ansi_quotes,
            no_backslash_escapes,
            charsets: &charsets,
            mariadb,
            lower_case_names: false,
            strict: true,
            zone: crate::mysql::ddl::Zone::UTC,
        };
        let all = tokens(sql, &context);
        for t in &all {
            assert!(sql.get(t.start..t.end).is_some());
        }
        let text = |t: &Spanned| match &t.token {
            Token::Word(w) => w.clone(),
            Token::Name(n) => format!("`{n}`"),
            Token::Text(t) => format!("'{t}'"),
            Token::Number(n) => format!("#{n}"),
            Token::Bytes(b) => format!("{b:x?}"),
            Token::Symbol(c) => c.to_string(),
        };
        all.iter().map(text).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn cut() {
        for (sql, want) in [
            ("ALTER TABLE `a``b`.c -- x\n ADD d", "ALTER TABLE `a`b` . c ADD d"),
            ("a--b", "a - - b"),
            ("a # x\r\nb /* c ' */ d", "a b d"),
            ("/*!50100 a /* in */ b */ c", "a b c"),
            ("/*!a*/ /*! b*/ /*!999999x*/", "a b x"),
            ("/*M!100203 a */ b", "a b"),
            ("'it''s \\'x\\' \\n' \"q\"", "'it's 'x' \n' 'q'"),
            ("1 1.5 .5 1e3 1.e-2 1a 1e t.1 t.1a `t`.2", "#1 #1.5 #.5 #1e3 #1.e-2 1a 1e t . 1 t . 1a `t` . 2"),
            ("x'4142' 0x0f b'101' 0b1 X'' N'n' 0xzz", "[41, 42] [f] [5] [1] [] 'n' 0xzz"),
            ("tablé 表 \u{1F600}x", "tablé 表 \u{1F600}x"),
            ("decimal(10,2)", "decimal ( #10 , #2 )"),
            ("a 'no end", "a"),
            ("a /* no end", "a"),
        ] {
            assert_eq!(show(sql, false, false, true), want, "{sql}");
        }
        assert_eq!(show("\"a\"\"b\" 'x\\' y", true, true, false), "`a\"b` 'x\\' y");
        assert_eq!(show("/*M! a */ b", false, false, false), "b");
    }

    proptest::proptest! {
        #[test]
        fn never_panics(sql in "[-a-z0-9'\"`/*!#.\\\\ éx\n]{0,40}") {
            for flags in 0..8 {
                show(&sql, flags & 1 > 0, flags & 2 > 0, flags & 4 > 0);
            }
        }
    }
}
