//! `sync` and `serve`: the running process.

use std::net::SocketAddr;
use std::path::Path;

use freshet_core::engine::{JobOptions, JobSpec, JobState, JobStatus, SchemaPolicy};
use freshet_core::secret::redact_url;
use freshet_core::store::JobRecord;
use freshet_core::{Error, Result};
use serde_json::json;

use super::args::{Serve, Sync};
use super::check::{preflight, source_url};
use super::tables::discover;
use super::view::View;
use crate::connectors::{EMBEDDED, Sources, database_of, pattern};
use crate::node::Node;
use crate::render::{Printer, Reply, bytes, status};
use crate::signals::Signals;

pub(super) async fn run(args: Sync, data: &Path, printer: &Printer) -> Result<Reply> {
    let spec = spec(&args)?;
    let mut signals = Signals::new()?;
    let mut node = Node::open(data, &args.listen.limits).await?;
    let begun = tokio::select! {
        begun = begin(&mut node, &spec, data, &args, printer) => begun,
        _ = signals.next() => Ok(Some(Reply::default())),
    };
    let outcome = match begun {
        Ok(Some(ended)) => Ok(ended),
        Ok(None) => follow(&node, &spec, &mut signals, printer).await,
        Err(e) => Err(e),
    };
    signals.unless_again(node.close()).await?;
    if matches!(outcome, Ok(Reply { failed: None, .. })) {
        printer.note("stored; the same command goes on from here");
    }
    outcome
}

/// What the command asks for, as a job.
fn spec(args: &Sync) -> Result<JobSpec> {
    let source = source_url(&args.from.source, args.from.select.password_file.as_deref())?;
    let tables = pattern(&source, args.from.select.tables.as_deref())?;
    let name = args.name.clone().or_else(|| database_of(&source)).unwrap_or_else(|| "main".into());
    let legal = |c: char| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    let name = if args.name.is_some() { name } else { name.chars().map(legal).take(64).collect() };
    let mut options = JobOptions { replace: args.replace, ..JobOptions::default() };
    options.copy_connections = args.connections.unwrap_or(options.copy_connections);
    options.spool_bytes = args.spool.unwrap_or(options.spool_bytes);
    options.schema_changes = args.changes.schema_changes.unwrap_or_default();
    let spec = JobSpec {
        name,
        source,
        sink: args.from.sink.clone().unwrap_or_else(|| EMBEDDED.into()),
        tables,
        target_database: args.from.select.target_database.clone(),
        options,
    };
    spec.validate()?;
    Ok(spec)
}

/// Serves, and makes the job or lets the stored one go on. `Some` when the check before the first start failed.
async fn begin(node: &mut Node, spec: &JobSpec, data: &Path, args: &Sync, printer: &Printer) -> Result<Option<Reply>> {
    let stored = node.engine.stored(&spec.name)?;
    match &stored {
        Some(record) => {
            must_be_same(record, spec, args.changes.schema_changes)?;
            set_limits(node, record, args, printer).await?;
        }
        None => {
            let source = Sources::default().open(&spec.source)?;
            discover(source.as_ref(), &spec.tables, &spec.source).await?;
            let title = format!("Source  {}", redact_url(&args.from.source));
            if let Some(failed) = preflight(source.as_ref(), &spec.tables, &title, printer).await {
                return Ok(Some(failed));
            }
        }
    }
    let address = node.serve(data, &args.listen).await?;
    announce(address, printer);
    match stored {
        Some(_) => {
            printer.note(&format!("job {} goes on where it stood", printer.style.bold(&spec.name)));
            node.engine.mark_resumed(&spec.name, None).await?;
        }
        None => node.engine.create(spec.clone()).await?,
    }
    node.engine.start_all().await?;
    Ok(None)
}

/// The command is repeated to let a job go on; it does not change one.
fn must_be_same(record: &JobRecord, wanted: &JobSpec, policy: Option<SchemaPolicy>) -> Result<()> {
    let stored = &record.spec;
    let mut elsewhere = String::new();
    let differs = if stored.source != wanted.source {
        elsewhere =
            format!("when it is the same data at another address: freshet resume {} --source URL; else ", stored.name);
        format!("its source is {}", stored.source_redacted())
    } else if stored.sink != wanted.sink {
        format!("its sink is {}", stored.sink_redacted())
    } else if stored.tables != wanted.tables {
        format!("its tables are {}", stored.tables)
    } else if stored.target_database != wanted.target_database {
        format!("its target database is {}", stored.target_database.as_deref().unwrap_or("the source's"))
    } else if policy.is_some_and(|p| p != stored.options.schema_changes) {
        format!("its policy for schema changes is {}", stored.options.schema_changes)
    } else {
        return Ok(());
    };
    Err(Error::already_exists(format!("there is a job named {} that does something else: {differs}", stored.name))
        .hint(format!("{elsewhere}give this one another --name, or forget that one: freshet drop {}", stored.name)))
}

/// What the command says about how a job is done, and not about what, holds for the stored one too.
async fn set_limits(node: &Node, record: &JobRecord, args: &Sync, printer: &Printer) -> Result<()> {
    let stored = &record.spec.options;
    let wanted = JobOptions {
        replace: stored.replace || args.replace,
        copy_connections: args.connections.unwrap_or(stored.copy_connections),
        spool_bytes: args.spool.unwrap_or(stored.spool_bytes),
        ..stored.clone()
    };
    if wanted == *stored {
        return Ok(());
    }
    let mut news = Vec::new();
    if wanted.replace != stored.replace {
        news.push("replaces targets that exist".to_string());
    }
    if wanted.copy_connections != stored.copy_connections {
        news.push(format!("copies over {} connections", wanted.copy_connections));
    }
    if wanted.spool_bytes != stored.spool_bytes {
        news.push(format!("spools up to {} of the source's log", bytes(wanted.spool_bytes)));
    }
    node.engine.set_options(&record.spec.name, wanted).await?;
    printer.note(&format!("job {} from now on {}", printer.style.bold(&record.spec.name), news.join(", ")));
    Ok(())
}

/// How to get at the warehouse.
pub(super) fn announce(address: SocketAddr, printer: &Printer) {
    let host = if address.ip().is_unspecified() { "127.0.0.1".to_string() } else { address.ip().to_string() };
    let command = format!("mariadb -h {host} -P {} -u root", address.port());
    printer.note(&format!("query it while it runs: {}", printer.style.cyan(&command)));
}

/// Shows the job until a signal comes or it fails.
async fn follow(node: &Node, spec: &JobSpec, signals: &mut Signals, printer: &Printer) -> Result<Reply> {
    let (mut view, job) = (View::new(printer), spec.name.as_str());
    loop {
        let status = node.engine.job(job)?;
        view.show(&status, "");
        if status.state == JobState::Failed {
            view.clear();
            return Err(failure(status));
        }
        tokio::select! {
            _ = signals.next() => break,
            () = tokio::time::sleep(view.interval()) => {}
        }
    }
    view.clear();
    let last = signals.unless_again(stop(node, job)).await?;
    let summary = status::tables(&last);
    // With `-` the standard output is for the changes.
    if spec.sink == "-" {
        printer.note(summary.trim_end())
    } else {
        printer.data(&summary)
    }
    Ok(Reply::of(json!({ "job": last })))
}

/// Why it failed.
fn failure(status: JobStatus) -> Error {
    status.error.unwrap_or_else(|| Error::internal("the job failed")).with("job", &status.name).hint(format!(
        "mend that, then run the same command again, or `freshet resume {}` in a process that serves",
        status.name
    ))
}

/// Lets all jobs flush and end; how the job stood then.
async fn stop(node: &Node, job: &str) -> Result<JobStatus> {
    let before = node.engine.job(job)?;
    node.engine.shutdown().await;
    let after = node.engine.job(job)?;
    // The counters of this run are the running job's, the position is the stored one.
    Ok(JobStatus { state: after.state, position: after.position, error: after.error, ..before })
}

/// `serve`.
pub(super) async fn serve(args: &Serve, data: &Path, printer: &Printer) -> Result<Reply> {
    let mut signals = Signals::new()?;
    let mut node = Node::open(data, &args.listen.limits).await?;
    let outcome = match node.serve(data, &args.listen).await {
        Ok(address) => {
            announce(address, printer);
            run_jobs(&node, &mut signals, printer).await
        }
        Err(e) => Err(e),
    };
    signals.unless_again(node.close()).await?;
    outcome
}

/// Runs the stored jobs until a signal comes; says what happens to them.
async fn run_jobs(node: &Node, signals: &mut Signals, printer: &Printer) -> Result<Reply> {
    node.engine.start_all().await?;
    let plain = Printer { terminal: false, ..printer.clone() };
    let mut views = std::collections::BTreeMap::new();
    loop {
        for job in node.engine.status()? {
            views.entry(job.name.clone()).or_insert_with(|| View::new(&plain)).show(&job, "");
        }
        tokio::select! {
            _ = signals.next() => break,
            () = tokio::time::sleep(std::time::Duration::from_millis(500)) => {}
        }
    }
    Ok(Reply::of(json!({ "jobs": node.engine.status()? })))
}
