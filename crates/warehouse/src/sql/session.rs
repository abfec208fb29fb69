//! One connection's session: its current database and variables, and the dispatch of a statement by its first words.

use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use freshet_core::{Error, Result};
use futures::StreamExt;

use super::lexer::{self, Cursor};
use super::listing::Listing;
use super::variables::Variables;
use super::{JobCommand, Outcome, Sql, ddl, information_schema, unknown_database};

/// One per connection.
pub struct Session {
    pub(crate) sql: Arc<Sql>,
    pub(crate) user: String,
    pub(crate) id: u64,
    pub(crate) database: Option<String>,
    pub(crate) variables: Variables,
}

/// The first words of the statements that there are, for "did you mean".
const STATEMENTS: [&str; 26] = [
    "SELECT", "WITH", "SHOW", "DESC", "DESCRIBE", "EXPLAIN", "SET", "USE", "CREATE", "DROP", "ALTER", "TRUNCATE",
    "INSERT", "UPDATE", "DELETE", "BEGIN", "START", "COMMIT", "ROLLBACK", "KILL", "PAUSE", "RESUME", "VALUES", "LOCK",
    "UNLOCK", "FLUSH",
];

impl Session {
    pub(crate) fn new(sql: Arc<Sql>, user: &str, id: u64) -> Session {
        Session { sql, user: user.to_string(), id, database: None, variables: Variables::default() }
    }

    /// Number of this session; unique in the process.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Executes one statement. Comments before it and a semicolon behind it are allowed; executable comments
    /// (`/*!40101 … */`) are read as what they hold. A text without a statement does nothing.
    ///
    /// # Errors
    /// What is wrong with the statement; [`super::mysql_error`] has MySQL's number for it.
    pub async fn execute(&mut self, sql: &str) -> Result<Outcome> {
        let sql = lexer::plain(sql)?;
        let mut c = Cursor::new(&sql)?;
        if c.done() {
            return Ok(done());
        }
        const QUERIES: [&str; 3] = ["SELECT", "WITH", "VALUES"];
        if QUERIES.iter().any(|w| c.sees(w)) || sql.starts_with('(') {
            return Box::pin(self.query(&sql)).await;
        }
        match c.eat_any(&["EXPLAIN", "DESCRIBE", "DESC"]) {
            Some(_) if QUERIES.iter().chain(&["VERBOSE", "ANALYZE", "FORMAT", "TREE"]).any(|w| c.sees(w)) => {
                let rest = c.rest();
                return Box::pin(self.query(&format!("EXPLAIN {rest}"))).await;
            }
            Some(_) => return self.describe(&mut c),
            None => {}
        }
        if c.eat("SHOW") {
            return Box::pin(self.show(&mut c)).await;
        }
        if c.eat("SET") {
            return Box::pin(self.set(&mut c)).await;
        }
        if c.eat("USE") {
            let name = c.name()?;
            c.end()?;
            self.use_database(&name)?;
            return Ok(done());
        }
        if let Some(command) = job_command(&mut c)? {
            self.sql.system.control(command).await?;
            return Ok(done());
        }
        if ["CREATE", "DROP", "ALTER", "TRUNCATE", "RENAME"].iter().any(|w| c.sees(w)) {
            let steps = ddl::parse_in(&sql, self.database.as_deref())?;
            self.sql.warehouse.ddl(None, steps).await?;
            return Ok(done());
        }
        if ["INSERT", "REPLACE", "DELETE", "UPDATE"].iter().any(|w| c.sees(w)) {
            return Box::pin(self.change(&sql)).await;
        }
        // Reads see committed data anyway, and every write is a transaction of its own.
        const NOTHING: [&str; 11] = [
            "BEGIN",
            "START TRANSACTION",
            "COMMIT",
            "ROLLBACK",
            "SAVEPOINT",
            "RELEASE SAVEPOINT",
            "LOCK TABLES",
            "UNLOCK TABLES",
            "FLUSH",
            "KILL",
            "ANALYZE",
        ];
        if NOTHING.iter().any(|w| c.sees(w)) {
            return Ok(done());
        }
        let word = c.rest().split(|ch: char| !ch.is_alphanumeric()).next().unwrap_or_default().to_uppercase();
        let e = c.error("this is not the beginning of a statement");
        Err(match super::nearest(&word, STATEMENTS.into_iter()) {
            Some(near) => e.hint(format!("did you mean {near}?")),
            None => e,
        })
    }

    /// The statements of a text, cut at semicolons outside strings and comments.
    pub fn split(sql: &str) -> Vec<&str> {
        lexer::split(sql)
    }

    /// Makes a database the current one.
    ///
    /// # Errors
    /// `NotFound` when there is none of that name.
    pub fn use_database(&mut self, name: &str) -> Result<()> {
        let snapshot = self.sql.warehouse.snapshot();
        let known = information_schema::is_database(name) || snapshot.databases().any(|d| d == name);
        if !known {
            return Err(unknown_database(&snapshot, name));
        }
        self.database = Some(name.to_string());
        Ok(())
    }

    /// The current database.
    pub fn database(&self) -> Option<&str> {
        self.database.as_deref()
    }

    /// The value of a session variable (without `@@`), as text.
    pub fn variable(&self, name: &str) -> Option<String> {
        self.variables.get(name).map(|v| v.text())
    }

    /// The session's time zone as Arrow writes it; `UTC` for UTC under any name.
    pub fn time_zone(&self) -> String {
        self.variables.zone()
    }

    pub(crate) fn need_database(&self) -> Result<&str> {
        self.database.as_deref().ok_or_else(|| {
            Error::config("no database selected")
                .with("no database", "selected")
                .hint("say USE <database>, or write <database>.<table>")
        })
    }

    /// A listing as an answer; `condition` is the text behind `WHERE`.
    pub(crate) async fn answer(&self, listing: Listing, condition: Option<&str>) -> Result<Outcome> {
        let (schema, batch) = (listing.schema(), listing.batch()?);
        let batches: Vec<RecordBatch> = match condition {
            None => vec![batch],
            Some(condition) => {
                let sql = format!("SELECT * FROM __listing WHERE {condition}");
                Box::pin(self.collect(&sql, vec![("__listing".to_string(), batch)])).await?
            }
        };
        Ok(Outcome::Rows { schema, stream: futures::stream::iter(batches.into_iter().map(Ok)).boxed() })
    }
}

/// Nothing to say.
pub(crate) fn done() -> Outcome {
    Outcome::Done { affected: 0, info: String::new() }
}

/// `PAUSE|RESUME JOB WHERE jobname = 'x'`, `DROP JOB [IF EXISTS] WHERE jobname = 'x'`.
fn job_command(c: &mut Cursor<'_>) -> Result<Option<JobCommand>> {
    let Some(verb) = c.eat_any(&["PAUSE JOB", "RESUME JOB", "DROP JOB"]) else { return Ok(None) };
    let if_exists = verb == "DROP JOB" && c.eat("IF EXISTS");
    c.expect("WHERE")?;
    let key = c.name()?;
    if !key.eq_ignore_ascii_case("jobname") {
        return Err(c.error(format!("expected jobname, not {key}")));
    }
    c.expect_symbol("=")?;
    let name = c.text()?;
    c.end()?;
    Ok(Some(match verb {
        "PAUSE JOB" => JobCommand::Pause { name },
        "RESUME JOB" => JobCommand::Resume { name },
        _ => JobCommand::Drop { name, if_exists },
    }))
}
