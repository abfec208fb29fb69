//! `cargo xtask sim`: the simulation of the engine (`crates/core/tests/sim`) over as many seeds as wanted. A failing
//! seed prints its number; `--seed N` runs it again and shows what happened.

use crate::Result;
use crate::run::{cargo, stream};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// How many seeds
    #[arg(long, default_value_t = 10_000)]
    seeds: u64,
    /// Run only this seed, with a trace of what happens
    #[arg(long, conflicts_with = "seeds")]
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
    let seeds = if options.seed.is_some() { 1 } else { options.seeds };
    println!("{seeds} seeds in {:.1} min", stage.took.as_secs_f64() / 60.0);
    if stage.ok { Ok(()) } else { Err("the simulation failed (log in target/xtask/sim.log)".into()) }
}
