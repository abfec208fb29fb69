//! `cargo xtask chaos`: builds the binary, starts a MariaDB and a MySQL, and runs the driver (`tests/chaos`), which kills,
//! cuts, changes and writes at random and compares at each quiesce. What a failing run leaves is kept in
//! `target/xtask/chaos-FLAVOUR-SEED`, the summary in `target/xtask/chaos.json`.

use std::path::PathBuf;
use std::process::Command;

use crate::Result;
use crate::run::{cargo, stream};
use crate::servers::{Flavour, Servers, Size};

#[derive(clap::Args, Default)]
pub(crate) struct Options {
    /// How long, both flavours together
    #[arg(long, default_value_t = 3.0)]
    pub(crate) minutes: f64,
    /// Go on until Freshet was killed so often with each flavour
    #[arg(long, default_value_t = 0)]
    pub(crate) kills: u64,
    /// Only this server
    #[arg(long)]
    pub(crate) flavour: Option<Flavour>,
    /// The random choices of an earlier run
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Leave out this kind of statement, as the summary calls it, to get past a known defect
    #[arg(long, value_name = "KIND")]
    pub(crate) without: Vec<String>,
    /// Try this binary in place of building one
    #[arg(long, value_name = "PATH")]
    pub(crate) binary: Option<PathBuf>,
}

/// `cargo xtask chaos`.
///
/// # Errors
/// When something does not build or start, or source and target differ.
pub(crate) fn chaos(options: &Options) -> Result<()> {
    let output = crate::output_dir()?;
    let build: &[&str] = match options.binary {
        Some(_) => &["build", "--package", "freshet-tests", "--bin", "freshet-chaos"],
        None => &["build", "--workspace", "--all-targets"],
    };
    if !stream("build", &mut cargo(build), &output.join("chaos-build.log"), |_| ())?.ok {
        return Err("the build failed".into());
    }
    let built = crate::docs::own_path()?;
    let binary = options.binary.clone().unwrap_or_else(|| built.with_file_name("freshet"));

    let flavours = options.flavour.map_or(Flavour::ALL.to_vec(), |only| vec![only]);
    let servers = Servers::start(&flavours, Size::TEST)?;
    let mut driver = Command::new(built.with_file_name("freshet-chaos"));
    driver.args(["--minutes", &options.minutes.to_string(), "--kills", &options.kills.to_string()]);
    driver.arg("--output").arg(&output).env("FRESHET_BIN", binary).envs(servers.variables());
    if let Some(seed) = options.seed {
        driver.args(["--seed", &seed.to_string()]);
    }
    for kind in &options.without {
        driver.args(["--without", kind]);
    }
    if stream("chaos", &mut driver, &output.join("chaos.log"), |_| ())?.ok {
        return Ok(());
    }
    Err("chaos found something (log in target/xtask/chaos.log)".into())
}
