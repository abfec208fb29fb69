//! `SET`: variables of session and user, character sets, what clients say about transactions. Values may be any
//! expression, even a subquery; a variable that we do not know is remembered and does nothing.

use arrow::array::{Array, AsArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use freshet_core::{Error, Result};

use super::lexer::{Cursor, Token};
use super::session::done;
use super::variables::Value;
use super::{Outcome, Session};

impl Session {
    /// `SET …`, behind the word.
    ///
    /// # Errors
    /// Syntax errors, read-only variables, unknown time zones.
    pub(crate) async fn set(&mut self, c: &mut Cursor<'_>) -> Result<Outcome> {
        if c.eat("PASSWORD") || c.eat("PROPERTY") || c.eat("ROLE") || c.eat("DEFAULT ROLE") {
            return Err(Error::unsupported("users are not managed by SET").hint("see `freshet serve --help`"));
        }
        loop {
            let scope = c.eat_any(&["GLOBAL", "SESSION", "LOCAL", "PERSIST"]);
            if c.eat("TRANSACTION") {
                while !c.done() {
                    c.advance();
                }
            } else if scope.is_none() && c.eat("NAMES") {
                self.set_names(c)?;
            } else if scope.is_none() && (c.eat("CHARACTER SET") || c.eat("CHARSET")) {
                let name = charset(c)?;
                for variable in ["character_set_client", "character_set_results"] {
                    self.variables.set(variable, Value::Text(name.clone()))?;
                }
            } else {
                Box::pin(self.assign(c)).await?;
            }
            if !c.eat_symbol(",") {
                break;
            }
        }
        c.end()?;
        Ok(done())
    }

    fn set_names(&mut self, c: &mut Cursor<'_>) -> Result<()> {
        let name = charset(c)?;
        for variable in ["character_set_client", "character_set_connection", "character_set_results"] {
            self.variables.set(variable, Value::Text(name.clone()))?;
        }
        if c.eat("COLLATE") {
            let collation = charset(c)?;
            self.variables.set("collation_connection", Value::Text(collation))?;
        }
        Ok(())
    }

    async fn assign(&mut self, c: &mut Cursor<'_>) -> Result<()> {
        let mut name = match c.peek() {
            Some(Token::Variable(v)) => {
                let v = v.clone();
                c.advance();
                v
            }
            _ => c.name()?,
        };
        while c.eat_symbol(".") {
            name = format!("{name}.{}", c.name()?);
        }
        if !c.eat_symbol(":=") {
            c.expect_symbol("=")?;
        }
        let from = c.offset();
        let mut first = None;
        let (mut depth, mut tokens) = (0_i32, 0);
        loop {
            match c.peek() {
                None => break,
                Some(Token::Symbol(",")) if depth == 0 => break,
                Some(Token::Symbol("(")) => depth += 1,
                Some(Token::Symbol(")")) => depth -= 1,
                _ => {}
            }
            let token = c.advance();
            first = first.or(token);
            tokens += 1;
        }
        let Some(first) = first else { return Err(c.error("expected a value")) };
        let value = match first {
            Token::Word(w) if tokens == 1 && w.eq_ignore_ascii_case("DEFAULT") => {
                self.variables.reset(&name);
                return Ok(());
            }
            Token::Word(w) if tokens == 1 && w.eq_ignore_ascii_case("NULL") => Value::Null,
            Token::Word(w) if tokens == 1 => Value::Text(w.to_string()),
            Token::Name(n) | Token::Text(n) if tokens == 1 => Value::Text(n),
            Token::Number(n) if tokens == 1 => n.parse().map_or_else(|_| Value::Text(n.to_string()), Value::Number),
            _ => Box::pin(self.evaluate(c.text_since(from))).await?,
        };
        self.variables.set(&name, value)
    }

    /// The value of an expression.
    async fn evaluate(&self, expression: &str) -> Result<Value> {
        let batches = Box::pin(self.collect(&format!("SELECT {expression}"), Vec::new())).await?;
        let Some(column) = batches.iter().find(|b| b.num_rows() > 0 && b.num_columns() > 0).map(|b| b.column(0)) else {
            return Ok(Value::Null);
        };
        if column.is_null(0) {
            return Ok(Value::Null);
        }
        let text = cast(column, &DataType::Utf8)
            .map_err(|e| Error::config("the value of a variable must be a text or a number").because(e))?;
        let text = text.as_string::<i32>().value(0).to_string();
        Ok(text.parse().map_or(Value::Text(text), Value::Number))
    }
}

fn charset(c: &mut Cursor<'_>) -> Result<String> {
    match c.peek() {
        Some(Token::Text(_)) => c.text(),
        _ => c.name(),
    }
}
