//! Chaos: writers with every trick, random changes of definitions, a network that misbehaves, requests, and `kill -9`
//! of Freshet and of the source, all at random instants from one seed. It comes in rounds; after each everything is
//! quiet, Freshet becomes level, and contents and columns of every table are compared by independent reading.
//! `cargo xtask chaos` starts the servers and this.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // a driver that ends with a panic, and prints what it does

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use freshet_tests::Conn;
use freshet_tests::source::{Flavour, Source};
use mysql_async::prelude::Queryable;
use tokio::sync::RwLock;

mod ddl;
mod proxy;
mod quiesce;
mod report;
mod requests;
mod round;
mod values;
mod writers;

use report::Journal;
use round::Run;

/// What all tasks of a flavour's run share.
#[derive(Clone)]
pub(crate) struct Scene {
    pub(crate) source: Source,
    /// The database, whose name needs no quotes.
    pub(crate) db: String,
    pub(crate) journal: Journal,
    /// Held for reading in statements in whose middle the server may not be killed.
    pub(crate) gate: Arc<RwLock<()>>,
    /// Tables that were renamed to a name that is not followed: what they had stays in the warehouse.
    pub(crate) left: Arc<Mutex<BTreeSet<String>>>,
    /// Kinds of statements that are left out, to get past a defect that is known.
    without: Arc<Vec<String>>,
    /// Whether the tasks of the round should end.
    over: Arc<AtomicBool>,
}

impl Scene {
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    pub(crate) fn leaves_out(&self, kind: &str) -> bool {
        self.without.iter().any(|left_out| left_out == kind)
    }

    /// A connection past the proxy, in the database, that waits only shortly for locks.
    pub(crate) async fn connect(&self) -> mysql_async::Result<Conn> {
        let mut conn = self.source.try_connect().await?;
        conn.query_drop("SET SESSION innodb_lock_wait_timeout = 2, lock_wait_timeout = 5").await?;
        conn.query_drop(format!("USE {}", self.db)).await?;
        Ok(conn)
    }
}

/// How long to go on.
#[derive(Clone, Copy)]
pub(crate) struct Goal {
    pub(crate) time: Duration,
    /// And until Freshet was killed so often.
    pub(crate) kills: u64,
}

struct Arguments {
    minutes: f64,
    kills: u64,
    seed: u64,
    flavours: Vec<Flavour>,
    output: PathBuf,
    without: Vec<String>,
}

fn arguments() -> Arguments {
    let mut parsed = Arguments {
        minutes: 3.0,
        kills: 0,
        seed: fastrand::u64(0..1 << 32),
        flavours: vec![Flavour::MariaDb, Flavour::MySql],
        output: PathBuf::from("target/xtask"),
        without: Vec::new(),
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let value = args.next().unwrap_or_else(|| panic!("{arg} needs a value"));
        match arg.as_str() {
            "--minutes" => parsed.minutes = value.parse().unwrap(),
            "--kills" => parsed.kills = value.parse().unwrap(),
            "--seed" => parsed.seed = value.parse().unwrap(),
            "--flavour" if value == "mariadb" => parsed.flavours = vec![Flavour::MariaDb],
            "--flavour" if value == "mysql" => parsed.flavours = vec![Flavour::MySql],
            "--without" => parsed.without.push(value),
            "--output" => parsed.output = value.into(),
            _ => panic!("unknown argument {arg} {value}"),
        }
    }
    parsed
}

#[tokio::main]
async fn main() {
    let arguments = arguments();
    println!("seed {} (the same again: cargo xtask chaos --seed {0})", arguments.seed);
    let sources: Vec<Source> = arguments.flavours.iter().filter_map(|flavour| Source::find(*flavour)).collect();
    assert!(!sources.is_empty(), "run `cargo xtask chaos`");
    let time = Duration::from_secs_f64(arguments.minutes * 60.0 / sources.len() as f64);
    let (mut summaries, mut failures, mut results) = (String::new(), Vec::new(), Vec::new());
    for source in sources {
        let flavour = format!("{:?}", source.flavour).to_lowercase();
        println!("\n== {flavour}");
        let folder = arguments.output.join(format!("chaos-{flavour}-{}", arguments.seed));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        let journal = Journal::new(&folder.join("events.log"));
        let rng = Rng::with_seed(arguments.seed);
        let goal = Goal { time, kills: arguments.kills };
        let failure = Run::new(source, journal.clone(), folder.clone(), rng, arguments.without.clone())
            .await
            .reach(goal)
            .await
            .err();
        results.push(journal.json(&flavour, failure.as_deref()));
        summaries += &journal.summary(&flavour);
        match failure {
            None => drop(std::fs::remove_dir_all(&folder)),
            Some(why) => {
                println!("\nFAILED: {why}");
                failures.push(format!("{flavour}: {why}\n  kept: {}", folder.display()));
            }
        }
    }
    println!("{summaries}");
    let output = arguments.output.join("chaos.json");
    let json = serde_json::json!({ "seed": arguments.seed, "flavours": results });
    std::fs::write(&output, json.to_string()).unwrap();
    println!("written to {}", output.display());
    if !failures.is_empty() {
        println!("\nFAILED with seed {}\n{}", arguments.seed, failures.join("\n"));
        std::process::exit(1);
    }
}
