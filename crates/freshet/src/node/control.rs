//! What a command line asks a running process, and what it does itself when none is running.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use freshet_core::engine::{Connectors, Engine, JobStatus};
use freshet_core::secret::redact_url;
use freshet_core::{Error, ErrorKind, Result, TableName};
use freshet_server::control::Handler;
use freshet_warehouse::sql::{Outcome, Session, Sql};
use futures::StreamExt;
use serde_json::{Value, json};

use super::{Node, control_socket};
use crate::cli::args::Limits;
use crate::nearest::did_you_mean;
use crate::render::rows::{self, ResultSet};

/// Rows of a result that are handed over at most; a MySQL client gets all of them.
const ROWS: usize = 10_000;

/// Answers the commands of other processes.
pub(crate) struct Control {
    pub(crate) engine: Arc<Engine>,
    pub(crate) sql: Arc<Sql>,
}

#[async_trait]
impl Handler for Control {
    async fn handle(&self, command: &str, args: Value, progress: &mut (dyn FnMut(Value) + Send)) -> Result<Value> {
        let job = args["job"].as_str().unwrap_or_default();
        match command {
            "sql" => {
                let (query, database) = (args["query"].as_str().unwrap_or_default(), args["database"].as_str());
                to_json(run_sql(&self.sql, query, database).await?)
            }
            "verify" => {
                let options = crate::cli::verify::Wanted {
                    tables: args["tables"].as_str(),
                    sample: args["sample"].as_u64(),
                    repair: args["repair"].as_bool().unwrap_or_default(),
                };
                to_json(crate::cli::verify::in_process(&self.engine, job, options, progress).await?)
            }
            _ => {
                let about = About { job, tables: args["tables"].as_str(), source: args["source"].as_str() };
                on_engine(&self.engine, command, about, true).await
            }
        }
    }
}

/// What a command about jobs is about.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct About<'a> {
    /// The job; all of them when empty.
    pub(crate) job: &'a str,
    /// Only tables that match.
    pub(crate) tables: Option<&'a str>,
    /// The source that takes the place of the job's.
    pub(crate) source: Option<&'a str>,
}

/// The commands that need nothing but the engine. `running`: its jobs run in this process.
async fn on_engine(engine: &Arc<Engine>, command: &str, about: About<'_>, running: bool) -> Result<Value> {
    let About { job, tables, source } = about;
    if command == "status" && job.is_empty() {
        return to_json(engine.status()?);
    }
    let status = engine.status()?;
    if !status.iter().any(|s| s.name == job) {
        return Err(unknown_job(job, &status));
    }
    match command {
        "status" => {}
        "pause" => engine.pause(job).await?,
        "resync" if !running && tables.is_none() => drop(engine.mark_resynced(job).await?),
        "resync" if !running => {
            return Err(Error::config("single tables are copied again by a running Freshet, and none runs here")
                .hint(format!("start it with `freshet serve`, or copy all of the job: freshet resync {job}")));
        }
        "resync" => engine.resync(job, named(engine, job, tables)?).await?,
        "resume" if running && tables.is_some() => {
            for table in named(engine, job, tables)? {
                engine.resume_table(job, table).await?;
            }
        }
        "resume" if running => engine.resume(job, source).await?,
        "resume" => drop(engine.mark_resumed(job, source).await?),
        "drop" => {
            let last = engine.job(job)?;
            engine.drop_job(job).await?;
            return to_json([last]);
        }
        other => return Err(Error::not_found(format!("the running Freshet knows no command {other}"))),
    }
    to_json([engine.job(job)?])
}

/// The tables of a job that match; none for no pattern.
fn named(engine: &Engine, job: &str, tables: Option<&str>) -> Result<Vec<TableName>> {
    let Some(tables) = tables else { return Ok(Vec::new()) };
    let pattern = crate::cli::verify::pattern(engine, job, tables)?;
    Ok(engine.job(job)?.tables.into_iter().map(|t| t.name).filter(|name| pattern.matches(name)).collect())
}

fn to_json(value: impl serde::Serialize) -> Result<Value> {
    serde_json::to_value(value).map_err(|e| Error::internal("an answer cannot be written").because(e))
}

/// No job of that name.
pub(crate) fn unknown_job(name: &str, jobs: &[JobStatus]) -> Error {
    let names: Vec<&str> = jobs.iter().map(|j| j.name.as_str()).collect();
    let hint = did_you_mean(name, names.iter().copied()).unwrap_or_else(|| match names.as_slice() {
        [] => "there are no jobs yet; `freshet sync SOURCE` makes one".to_string(),
        some => format!("jobs are: {}", some.join(", ")),
    });
    // A URL may stand where a job's name should.
    Error::not_found(format!("there is no job named {}", redact_url(name))).hint(hint)
}

/// Runs statements; one result for each.
///
/// # Errors
/// Of the first statement that fails.
pub(crate) async fn run_sql(sql: &Arc<Sql>, text: &str, database: Option<&str>) -> Result<Vec<ResultSet>> {
    let mut session = sql.session("root");
    if let Some(database) = database {
        session.use_database(database)?;
    }
    let mut results = Vec::new();
    for statement in Session::split(text) {
        results.push(match session.execute(statement).await? {
            Outcome::Done { affected, info } => ResultSet::done(affected, info),
            Outcome::Rows { schema, mut stream } => {
                let mut set = ResultSet::new(schema.as_ref());
                while let Some(batch) = stream.next().await {
                    rows::append(&mut set, &batch?, ROWS)?;
                    if set.truncated {
                        break;
                    }
                }
                set
            }
        });
    }
    Ok(results)
}

/// Asks whoever has the data directory: the running process, or, when there is none, the files themselves.
pub(crate) struct Asked<'a> {
    /// The data directory.
    pub(crate) data: &'a Path,
}

impl Asked<'_> {
    /// Asks the running process.
    ///
    /// # Errors
    /// `NotFound` when none is running, else the command's own.
    pub(crate) async fn running(
        &self,
        command: &str,
        args: Value,
        progress: &mut (dyn FnMut(Value) + Send),
    ) -> Result<Value> {
        freshet_server::control::call(&control_socket(self.data), command, args, progress).await
    }

    /// Whether a process serves the directory.
    pub(crate) async fn is_running(&self) -> bool {
        tokio::net::UnixStream::connect(control_socket(self.data)).await.is_ok()
    }

    /// A command about jobs.
    ///
    /// # Errors
    /// `NotFound` for an unknown job or a data directory that is not there.
    pub(crate) async fn jobs(&self, command: &str, about: About<'_>) -> Result<Vec<JobStatus>> {
        let answer = if self.is_running().await {
            let About { job, tables, source } = about;
            self.running(command, json!({ "job": job, "tables": tables, "source": source }), &mut |_| {}).await?
        } else {
            self.exists()?;
            let connectors = Connectors {
                source: Box::new(|_| Err(Error::internal("jobs are not run by this command"))),
                sink: Box::new(|_| Err(Error::internal("jobs are not run by this command"))),
            };
            on_engine(&Engine::open(self.data, connectors)?, command, about, false).await?
        };
        serde_json::from_value(answer).map_err(|e| Error::internal("an answer cannot be read").because(e))
    }

    /// Statements.
    ///
    /// # Errors
    /// Of the first statement that fails.
    pub(crate) async fn sql(&self, query: &str, database: Option<&str>) -> Result<Vec<ResultSet>> {
        if self.is_running().await {
            let args = json!({ "query": query, "database": database });
            let answer = self.running("sql", args, &mut |_| {}).await?;
            return serde_json::from_value(answer).map_err(|e| Error::internal("an answer cannot be read").because(e));
        }
        self.exists()?;
        let node = Node::open(self.data, &Limits::default()).await?;
        let result = run_sql(&node.sql, query, database).await;
        node.close().await?;
        result
    }

    fn exists(&self) -> Result<()> {
        if self.data.join("jobs.redb").exists() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::NotFound, "there is no Freshet data in this folder")
            .with("data", self.data.display())
            .hint("name the folder with --data or FRESHET_DATA; `freshet sync SOURCE` makes one"))
    }
}
