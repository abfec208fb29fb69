//! What the protocols need of an SQL engine: sessions that execute statements. The embedded warehouse is the one that
//! people meet; the tests of the protocols bring one that answers with whatever Arrow can hold.

use std::sync::Arc;

use async_trait::async_trait;
use freshet_core::Result;
use freshet_warehouse::sql::{self, Sql};
pub use freshet_warehouse::sql::{Outcome, SERVER_VERSION, TYPE_KEY, mysql_error};

/// An SQL engine.
pub trait Backend: Send + Sync {
    /// A session of this user, in no database.
    fn open(&self, user: &str) -> Box<dyn Session>;
}

/// One client's state: database, variables.
#[async_trait]
pub trait Session: Send {
    /// Executes one statement. Dropping the future, or the stream of rows that it answers, cancels it.
    ///
    /// # Errors
    /// Whatever the statement meets.
    async fn execute(&mut self, sql: &str) -> Result<Outcome>;

    /// Cuts a text into statements; empty ones are left out.
    fn split<'a>(&self, sql: &'a str) -> Vec<&'a str>;

    /// Chooses the database.
    ///
    /// # Errors
    /// `NotFound` when there is none of this name.
    fn use_database(&mut self, name: &str) -> Result<()>;

    /// The database chosen.
    fn database(&self) -> Option<&str>;

    /// The session's value of a variable.
    fn variable(&self, name: &str) -> Option<String>;
}

impl Backend for Arc<Sql> {
    fn open(&self, user: &str) -> Box<dyn Session> {
        Box::new(self.session(user))
    }
}

#[async_trait]
impl Session for sql::Session {
    async fn execute(&mut self, text: &str) -> Result<Outcome> {
        sql::Session::execute(self, text).await
    }

    fn split<'a>(&self, text: &'a str) -> Vec<&'a str> {
        sql::Session::split(text)
    }

    fn use_database(&mut self, name: &str) -> Result<()> {
        sql::Session::use_database(self, name)
    }

    fn database(&self) -> Option<&str> {
        sql::Session::database(self)
    }

    fn variable(&self, name: &str) -> Option<String> {
        sql::Session::variable(self, name)
    }
}
