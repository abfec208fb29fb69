//! `cargo xtask bench`: builds the binary with optimisation, starts a MariaDB and a replica, and runs the measurements
//! (`tests/bench`). The table goes to the terminal, the figures to `target/xtask/bench.json`.

use crate::Result;
use crate::run::{cargo, stream};
use crate::servers::{Flavour, Servers, Size};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// A tenth of the size, to try it out
    #[arg(long)]
    quick: bool,
    /// Measure only this
    #[arg(long, value_parser = ["catch-up", "copy", "latency", "memory", "resync", "lanes", "keyless", "transaction"])]
    only: Option<String>,
    /// Measure this binary in place of building one
    #[arg(long, value_name = "PATH")]
    binary: Option<std::path::PathBuf>,
}

/// A replica as the package configures it: durable commits, no log of its own, one thread that applies.
const REPLICA: [&str; 3] = ["--skip-log-bin", "--skip-log-slave-updates", "--innodb-flush-log-at-trx-commit=1"];
const REPLICA_SIZE: Size = Size { buffer_pool: 128, redo_log: 96 };

/// `cargo xtask bench`.
///
/// # Errors
/// When something does not build or start, or a measurement fails; a missed target is not an error.
pub(crate) fn bench(options: &Options) -> Result<()> {
    let output = crate::output_dir()?;
    let step = |name: &str, args: &[&str]| -> Result<()> {
        let stage = stream(name, &mut cargo(args), &output.join(format!("bench-{name}.log")), |_| ())?;
        if stage.ok { Ok(()) } else { Err(format!("{name} failed")) }
    };
    let binary = match &options.binary {
        Some(binary) => binary.clone(),
        None => {
            step("build", &["build", "--release", "--package", "freshet"])?;
            crate::root().join("target/release/freshet")
        }
    };
    step("driver", &["build", "--package", "freshet-tests", "--bin", "freshet-bench"])?;

    let mut servers = Servers::start(&[Flavour::Mariadb], Size::BENCH)?;
    servers.add_replica(REPLICA_SIZE, &REPLICA)?;
    println!(
        "source: innodb_flush_log_at_trx_commit=2, sync_binlog=0, buffer pool {} MiB; replica: defaults ({})",
        Size::BENCH.buffer_pool,
        REPLICA.join(" ")
    );
    let mut driver = std::process::Command::new(crate::root().join("target/debug/freshet-bench"));
    driver.arg("--output").arg(output.join("bench.json")).env("FRESHET_BIN", binary).envs(servers.variables());
    if options.quick {
        driver.arg("--quick");
    }
    if let Some(only) = &options.only {
        driver.args(["--only", only]);
    }
    let stage = stream("bench", &mut driver, &output.join("bench.log"), |_| ())?;
    if stage.ok { Ok(()) } else { Err("a measurement failed (log in target/xtask/bench.log)".into()) }
}
