//! Walks over the tokens of a statement: keywords, names, parentheses.

use freshet_core::{Error, Result, TableName};

use super::Context;
use super::lexer::{Spanned, Token};

/// A place among the tokens of a statement. Methods that "eat" go on only when they find what they name.
#[derive(Clone)]
pub(super) struct Cursor<'a> {
    sql: &'a str,
    tokens: &'a [Spanned],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(sql: &'a str, tokens: &'a [Spanned]) -> Self {
        Cursor { sql, tokens, at: 0 }
    }

    pub(super) fn peek(&self) -> Option<&'a Token> {
        self.tokens.get(self.at).map(|t| &t.token)
    }

    pub(super) fn peek_at(&self, ahead: usize) -> Option<&'a Token> {
        self.tokens.get(self.at + ahead).map(|t| &t.token)
    }

    pub(super) fn advance(&mut self) -> Option<&'a Token> {
        let token = self.peek();
        self.at += usize::from(token.is_some());
        token
    }

    /// Whether the statement is over.
    pub(super) fn is_end(&self) -> bool {
        matches!(self.peek(), None | Some(Token::Symbol(';')))
    }

    /// Whether these keywords come next.
    pub(super) fn sees(&self, words: &str) -> bool {
        words.split(' ').enumerate().all(|(i, word)| is_keyword(self.peek_at(i), word))
    }

    /// Eats these keywords, all or none.
    pub(super) fn eat(&mut self, words: &str) -> bool {
        let found = self.sees(words);
        if found {
            self.at += words.split(' ').count();
        }
        found
    }

    /// Eats one of these keywords and says which.
    pub(super) fn eat_one<'w>(&mut self, words: &[&'w str]) -> Option<&'w str> {
        words.iter().find(|w| self.eat(w)).copied()
    }

    /// Eats this symbol.
    pub(super) fn eat_symbol(&mut self, symbol: char) -> bool {
        let found = self.peek() == Some(&Token::Symbol(symbol));
        self.at += usize::from(found);
        found
    }

    /// Eats these keywords.
    ///
    /// # Errors
    /// When something else comes.
    pub(super) fn expect(&mut self, words: &str) -> Result<()> {
        if self.eat(words) { Ok(()) } else { Err(self.unexpected(words)) }
    }

    /// Eats this symbol.
    ///
    /// # Errors
    /// When something else comes.
    pub(super) fn expect_symbol(&mut self, symbol: char) -> Result<()> {
        if self.eat_symbol(symbol) { Ok(()) } else { Err(self.unexpected(&symbol.to_string())) }
    }

    /// That something else stands here.
    pub(super) fn unexpected(&self, wanted: &str) -> Error {
        let found = match self.tokens.get(self.at) {
            None => "the end".to_string(),
            Some(t) => format!("'{}'", self.sql[t.start..].chars().take(40).collect::<String>()),
        };
        Error::unsupported(format!("expected {wanted}, found {found}"))
    }

    /// A name, in quotes or not.
    ///
    /// # Errors
    /// When something else comes.
    pub(super) fn name(&mut self) -> Result<String> {
        match self.peek() {
            Some(Token::Word(n) | Token::Name(n)) => {
                self.at += 1;
                Ok(n.clone())
            }
            _ => Err(self.unexpected("a name")),
        }
    }

    /// The name of a column, which may be written with its table's and database's: `d.t.c`.
    ///
    /// # Errors
    /// When something else comes.
    pub(super) fn column_name(&mut self) -> Result<String> {
        let mut name = self.name()?;
        while self.eat_symbol('.') {
            name = self.name()?;
        }
        Ok(name)
    }

    /// A name or a text: the value of an option.
    ///
    /// # Errors
    /// When something else comes.
    pub(super) fn name_or_text(&mut self) -> Result<String> {
        match self.peek() {
            Some(Token::Text(_)) => self.text(),
            _ => self.name(),
        }
    }

    /// A table's name, with or without its database.
    ///
    /// # Errors
    /// When something else comes.
    pub(super) fn table_name(&mut self, context: &Context<'_>) -> Result<TableName> {
        let leading_point = self.eat_symbol('.');
        let first = self.name()?;
        let (database, table) = match !leading_point && self.eat_symbol('.') {
            true => (first, self.name()?),
            false => (context.default_database.to_string(), first),
        };
        Ok(match context.lower_case_names {
            true => TableName::new(database.to_lowercase(), table.to_lowercase()),
            false => TableName::new(database, table),
        })
    }

    /// A text, or several in a row, which are one.
    ///
    /// # Errors
    /// When something else comes.
    pub(super) fn text(&mut self) -> Result<String> {
        let Some(Token::Text(first)) = self.peek() else { return Err(self.unexpected("a text")) };
        let mut text = first.clone();
        self.at += 1;
        while let Some(Token::Text(more)) = self.peek() {
            text.push_str(more);
            self.at += 1;
        }
        Ok(text)
    }

    /// The tokens inside the parentheses that open here.
    ///
    /// # Errors
    /// When none open here, or they don't close.
    pub(super) fn parens(&mut self) -> Result<Cursor<'a>> {
        let from = self.at + 1;
        self.expect_symbol('(')?;
        let mut depth = 1;
        while depth > 0 {
            match self.advance() {
                Some(Token::Symbol('(')) => depth += 1,
                Some(Token::Symbol(')')) => depth -= 1,
                Some(_) => {}
                None => return Err(self.unexpected(")")),
            }
        }
        Ok(Cursor { sql: self.sql, tokens: &self.tokens[from..self.at - 1], at: 0 })
    }

    /// Goes to the next comma outside of parentheses, or to the end.
    pub(super) fn skip_clause(&mut self) {
        let mut depth = 0_usize;
        while let Some(token) = self.peek() {
            match token {
                Token::Symbol('(') => depth += 1,
                Token::Symbol(')') => depth = depth.saturating_sub(1),
                Token::Symbol(',' | ';') if depth == 0 => return,
                _ => {}
            }
            self.at += 1;
        }
    }

    /// The statement's text from the token at `from` (as [`Cursor::mark`] gave it) up to here.
    pub(super) fn text_since(&self, from: usize) -> &'a str {
        match (self.tokens.get(from), self.at.checked_sub(1).and_then(|last| self.tokens.get(last))) {
            (Some(first), Some(last)) if first.start <= last.end => &self.sql[first.start..last.end],
            _ => "",
        }
    }

    /// This place, for [`Cursor::text_since`].
    pub(super) fn mark(&self) -> usize {
        self.at
    }
}

/// Whether the token is that keyword.
fn is_keyword(token: Option<&Token>, word: &str) -> bool {
    matches!(token, Some(Token::Word(w)) if w.eq_ignore_ascii_case(word))
}
