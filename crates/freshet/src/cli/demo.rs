//! `demo`: a made-up shop flows into the warehouse; counters, and a query whose answer changes while one looks.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use freshet_core::engine::{JobOptions, JobSpec, JobState};
use freshet_core::{Error, ErrorKind, Result, TablePattern};
use serde_json::json;

use super::args::{Demo, Listen};
use super::sync::announce;
use super::verify;
use super::view::View;
use crate::connectors::EMBEDDED;
use crate::node::{Node, run_sql};
use crate::render::rows::{ResultSet, as_table};
use crate::render::verify::report as shown;
use crate::render::{Printer, Reply, status};
use crate::signals::Signals;

const JOB: &str = "demo";
/// How often the query is asked where nothing is redrawn.
const ASK: Duration = Duration::from_secs(5);
/// The column `channel` comes in so many seconds.
const COLUMN_AFTER: u64 = 8;
/// The query, and the one for when the shop has got its new column.
const BEFORE: &str =
    "SELECT status, COUNT(*) AS orders, SUM(total) AS revenue FROM shop.orders GROUP BY status ORDER BY status";
const AFTER: &str = "SELECT channel, status, COUNT(*) AS orders, SUM(total) AS revenue FROM shop.orders GROUP BY channel, status \
     ORDER BY channel, status";

pub(super) async fn run(args: Demo, data: Option<&Path>, printer: &Printer) -> Result<Reply> {
    let own = tempfile::tempdir().map_err(|e| Error::io("cannot make a temporary folder").because(e))?;
    let data: PathBuf = data.map_or_else(|| own.path().join("data"), Path::to_path_buf);
    let mut signals = Signals::new()?;
    let mut node = Node::open(&data, &args.listen.limits).await?;
    let outcome = match begin(&mut node, &args, &data, printer).await {
        Ok(()) => show(&node, args.seconds, &mut signals, printer).await,
        Err(e) => Err(e),
    };
    signals.unless_again(node.close()).await?;
    outcome
}

async fn begin(node: &mut Node, args: &Demo, data: &Path, printer: &Printer) -> Result<()> {
    let address = match node.serve(data, &args.listen).await {
        // Doris's port is taken and nobody asked for it: any other will do.
        Err(e) if e.kind == ErrorKind::Io && args.listen.listen.is_none() => {
            let listen = Listen { listen: Some(([127, 0, 0, 1], 0).into()), ..args.listen.clone() };
            node.serve(data, &listen).await?
        }
        other => other?,
    };
    printer.note(&format!(
        "a made-up shop with {} rows and {} transactions a second flows into the warehouse in {}",
        crate::render::count(args.rows),
        crate::render::count(args.rate),
        data.display()
    ));
    announce(address, printer);
    let alter = args.rate * COLUMN_AFTER;
    let spec = JobSpec {
        name: JOB.into(),
        source: format!("generator://shop?rows={}&rate={}&seed={}&alter={alter}", args.rows, args.rate, args.seed),
        sink: EMBEDDED.into(),
        tables: TablePattern::database("shop"),
        target_database: None,
        options: JobOptions::default(),
    };
    match node.engine.stored(JOB)? {
        Some(_) => node.engine.start_all().await,
        None => node.engine.create(spec).await,
    }
}

/// Shows the shop until the time is over or a signal comes.
async fn show(node: &Node, seconds: Option<u64>, signals: &mut Signals, printer: &Printer) -> Result<Reply> {
    let begun = Instant::now();
    let mut view = View::new(printer);
    let mut answer = String::new();
    let mut asked: Option<Instant> = None;
    loop {
        let job = node.engine.job(JOB)?;
        if job.state == JobState::Failed {
            view.clear();
            return Err(job.error.unwrap_or_else(|| Error::internal("the demo failed")));
        }
        let due = printer.terminal || asked.is_none_or(|t| t.elapsed() >= ASK);
        if job.state == JobState::Streaming && due {
            // The tables may be in the making.
            answer = query(node).await.map_or_else(|e| e.line(), |set| as_table(&set));
            asked = Some(Instant::now());
            if !printer.terminal {
                printer.note(&answer);
            }
        }
        view.show(&job, &answer);
        if seconds.is_some_and(|s| begun.elapsed() >= Duration::from_secs(s)) {
            break;
        }
        tokio::select! {
            _ = signals.next() => break,
            () = tokio::time::sleep(view.interval()) => {}
        }
    }
    view.clear();
    let job = node.engine.job(JOB)?;
    let answer = query(node).await?;
    printer.data(&as_table(&answer));
    printer.data("\n");
    printer.data(&status::tables(&job));
    let report =
        signals.unless_again(verify::in_process(&node.engine, JOB, verify::Wanted::default(), &mut |_| {})).await?;
    printer.data(&format!("\n{}", shown(&report, printer.data_style)));
    let result = json!({ "job": job, "answer": answer, "verify": report });
    Ok(Reply { result, ..verify::reply(&report) })
}

/// The answer now, with the new column as soon as it is there.
async fn query(node: &Node) -> Result<ResultSet> {
    let after = run_sql(&node.sql, AFTER, None).await;
    let results = if after.is_ok() { after } else { run_sql(&node.sql, BEFORE, None).await };
    results?.pop().ok_or_else(|| Error::internal("a query has no answer"))
}
