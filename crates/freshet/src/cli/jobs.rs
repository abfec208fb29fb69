//! `status`, `pause`, `resume`, `resync`, `drop`: asked of the running process, or done on the data directory when none runs.

use std::time::Duration;

use freshet_core::engine::{JobState, JobStatus};
use freshet_core::secret::redact_url;
use freshet_core::{Error, Result, TablePattern};
use serde_json::json;

use super::args::{Resume, Status};
use super::check::{preflight, source_url};
use crate::connectors::Sources;
use crate::node::{About, Asked};
use crate::render::{Printer, Reply, envelope, status as shown};
use crate::signals::Signals;

/// How often `--watch` looks.
const WATCH: Duration = Duration::from_secs(1);

pub(super) async fn status(args: &Status, asked: &Asked<'_>, printer: &Printer) -> Result<Reply> {
    let about = About { job: args.job.as_deref().unwrap_or_default(), ..About::default() };
    if !args.watch {
        let jobs = asked.jobs("status", about).await?;
        printer.data(&text(&jobs, printer));
        return Ok(Reply::of(json!({ "jobs": jobs })));
    }
    let mut signals = Signals::new()?;
    loop {
        let jobs = asked.jobs("status", about).await?;
        if printer.json {
            let line = envelope(Some("status"), &Ok(Reply::of(json!({ "jobs": jobs }))));
            let _ = std::io::Write::write_all(&mut std::io::stdout(), format!("{line}\n").as_bytes());
        } else {
            // Clears the terminal's screen, where there is one.
            let clear = if printer.terminal { "\x1b[H\x1b[2J" } else { "" };
            printer.data(&format!("{clear}{}\n", text(&jobs, printer)));
        }
        tokio::select! {
            _ = signals.next() => std::process::exit(0),
            () = tokio::time::sleep(WATCH) => {}
        }
    }
}

fn text(jobs: &[JobStatus], printer: &Printer) -> String {
    if jobs.is_empty() {
        return "no jobs yet; `freshet sync SOURCE` makes one\n".into();
    }
    let jobs: Vec<String> = jobs.iter().map(|j| shown::job(j, printer.data_style)).collect();
    jobs.join("\n")
}

/// `resume`; a source that takes the place of the job's is looked at first.
pub(super) async fn resume(args: &Resume, asked: &Asked<'_>, printer: &Printer) -> Result<Reply> {
    let source = args.source.as_ref().map(|url| source_url(url, args.password_file.as_deref())).transpose()?;
    if let Some(url) = &source {
        let title = format!("Source  {}", redact_url(url));
        let of_job = asked.jobs("status", About { job: &args.job, ..About::default() }).await?;
        let tables = TablePattern::tables(of_job.iter().flat_map(|j| &j.tables).map(|t| &t.name));
        if let Some(failed) = preflight(Sources::default().open(url)?.as_ref(), &tables, &title, printer).await {
            return Ok(failed);
        }
    }
    let about = About { job: &args.job, tables: args.tables.as_deref(), source: source.as_deref() };
    act("resume", about, asked, printer).await
}

/// `pause`, `resume`, `resync` or `drop`.
pub(super) async fn act(command: &str, about: About<'_>, asked: &Asked<'_>, printer: &Printer) -> Result<Reply> {
    let About { job, tables, .. } = about;
    let jobs = asked.jobs(command, about).await?;
    let status = jobs.first().ok_or_else(|| Error::internal("no answer about the job"))?;
    let green = |text: &str| printer.style.green(text);
    match (command, status.state) {
        ("drop", _) => printer.note(&format!("{} {job}; its target tables stay", green("dropped"))),
        ("pause", _) => {
            let at = status.position.as_deref().unwrap_or("the beginning");
            printer.note(&format!("{} {job} at {at}", green("paused")));
        }
        ("resync", _) => {
            let what = tables.map_or_else(|| format!("all tables of {job}"), |t| format!("{t} of {job}"));
            printer.note(&format!("{} {what} again; what is live stays readable", green("copying")));
            printer.note(&format!("`freshet status {job}` shows how far it is"));
        }
        (_, JobState::Stopped) => {
            printer.note(&format!("{} {job}; it goes on when `freshet serve` runs", green("resumed")));
        }
        _ => printer.note(&format!("{} {job}", green("resumed"))),
    }
    Ok(Reply::of(json!({ "job": status })))
}
