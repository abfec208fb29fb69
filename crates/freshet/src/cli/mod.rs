//! From the command line to an exit code: 0 done, 1 it failed while running, 2 the request was wrong, 3 the
//! surroundings were.

pub(crate) mod args;
mod check;
mod demo;
mod jobs;
mod plan;
mod sql;
mod sync;
mod tables;
mod usage;
pub(crate) mod verify;
mod view;

use std::path::PathBuf;

use clap::{CommandFactory, Parser};
use freshet_core::{Error, Result};

use crate::node::{About, Asked};
use crate::render::{Printer, Reply};
use args::{Cli, Command, Common};

/// The data directory when none is given.
const DATA: &str = "./freshet-data";

/// Runs the program.
pub(crate) fn main() -> u8 {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return usage::answer(&e),
    };
    let common = cli.common;
    let printer = Printer::new(cli.command.name(), common.json, common.quiet, common.no_color);
    log(&common, &printer);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => {
            let outcome = runtime.block_on(Box::pin(run(cli.command, &common, &printer)));
            // A read that hangs (standard input) must not hold up the end.
            runtime.shutdown_background();
            outcome
        }
        Err(e) => Err(Error::io("cannot start threads").because(e)),
    };
    u8::try_from(printer.finish(outcome)).unwrap_or(1)
}

async fn run(command: Command, common: &Common, printer: &Printer) -> Result<Reply> {
    freshet_core::failpoint::arm_from_environment()?;
    let data = common.data.clone().unwrap_or_else(|| PathBuf::from(DATA));
    let asked = Asked { data: &data };
    match command {
        Command::Demo(args) => demo::run(args, common.data.as_deref(), printer).await,
        Command::Sync(args) => sync::run(args, &data, printer).await,
        Command::Serve(args) => sync::serve(&args, &data, printer).await,
        Command::Check(from) => check::run(&from, printer).await,
        Command::Plan(args) => plan::run(&args.from, args.changes.schema_changes, printer).await,
        Command::Tables(args) => tables::run(&args, printer).await,
        Command::Status(args) => jobs::status(&args, &asked, printer).await,
        Command::Verify(args) => verify::run(&args, &asked, printer).await,
        Command::Pause(args) => jobs::act("pause", About { job: &args.job, ..About::default() }, &asked, printer).await,
        Command::Resume(args) => jobs::resume(&args, &asked, printer).await,
        Command::Resync(args) => {
            let about = About { job: &args.job, tables: args.tables.as_deref(), source: None };
            jobs::act("resync", about, &asked, printer).await
        }
        Command::Drop(args) => jobs::act("drop", About { job: &args.job, ..About::default() }, &asked, printer).await,
        Command::Sql(args) => sql::run(&args, &asked, printer).await,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "freshet", &mut script);
            printer.data(&String::from_utf8_lossy(&script));
            Ok(Reply::of(String::from_utf8_lossy(&script)))
        }
    }
}

/// Logs go to the standard error: warnings, with `-v` what happens, with `-vv` everything.
fn log(common: &Common, printer: &Printer) {
    let level = match (common.quiet, common.verbose) {
        (true, _) => "error",
        (_, 0) => "error",
        (_, 1) => "info,datafusion=warn",
        _ => "debug,datafusion=info",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("FRESHET_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    let log = tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(filter);
    let _ = log.with_ansi(printer.style.color).with_target(common.verbose > 1).try_init();
}
