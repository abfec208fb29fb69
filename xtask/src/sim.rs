//! `cargo xtask sim`: the simulation of the engine (`crates/core/tests/sim`) over as many seeds as wanted. A failing
//! seed prints its number; `--seed N --seeds 1` runs it again.

use crate::Result;
use crate::run::{cargo, stream};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// How many seeds
    #[arg(long, default_value_t = 10_000)]
    seeds: u64,
    /// The first seed
    #[arg(long)]
    seed: Option<u64>,
    /// Break the engine in this way on purpose, to see that the simulation finds it
    #[arg(long, value_name = "NAME")]
    mutation: Option<String>,
}

/// `cargo xtask sim`.
///
/// # Errors
/// When a seed fails.
pub(crate) fn sim(options: &Options) -> Result<()> {
    let mut command = cargo(&["test", "-p", "freshet-core", "--test", "sim", "--", "--nocapture"]);
    command.env("SIM_SEEDS", options.seeds.to_string());
    if let Some(seed) = options.seed {
        command.env("SIM_SEED", seed.to_string());
    }
    if let Some(mutation) = &options.mutation {
        command.env("SIM_MUTATION", mutation);
    }
    let stage = stream("simulation", &mut command, &crate::output_dir()?.join("sim.log"), |_| ())?;
    println!("{} seeds in {:.1} min", options.seeds, stage.took.as_secs_f64() / 60.0);
    if stage.ok { Ok(()) } else { Err("the simulation failed (log in target/xtask/sim.log)".into()) }
}
