//! Developer tasks, run as `cargo xtask TASK`: real servers for tests, the whole test run, simulation, chaos,
//! benchmarks and checks of the documentation. Everything they make lies under `target/xtask`, in temporary folders, or
//! in the cache folder of downloads (`servers/cache.rs`).

#![allow(clippy::print_stdout, clippy::print_stderr)] // a tool for people at a terminal

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
mod chaos;
mod docs;
mod run;
mod servers;
mod sim;
mod test;

/// What went wrong, for people.
type Result<T> = std::result::Result<T, String>;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Developer tasks of Freshet", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Start MariaDB and MySQL in temporary folders, print their URLs, end them at Ctrl-C
    Servers(servers::Options),
    /// Run every test against real servers
    Test(test::Options),
    /// Run the engine's simulation
    Sim(sim::Options),
    /// Measure speed and memory beside peers, print the table
    Bench(bench::Options),
    /// Kill, cut, change and write at random for minutes; compare at each quiesce
    Chaos(chaos::Options),
    /// Check that the documentation names only what exists
    Docs,
}

fn main() -> ExitCode {
    let done = match Cli::parse().task {
        Task::Servers(options) => servers::serve(&options),
        Task::Test(options) => test::test(&options),
        Task::Sim(options) => sim::sim(&options),
        Task::Bench(options) => bench::bench(&options),
        Task::Chaos(options) => chaos::chaos(&options),
        Task::Docs => docs::docs(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

/// The workspace's root folder.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// The folder of logs and results, created.
fn output_dir() -> Result<PathBuf> {
    let dir = root().join("target/xtask");
    std::fs::create_dir_all(&dir).map_err(|e| format!("cannot create {}: {e}", dir.display()))?;
    Ok(dir)
}
