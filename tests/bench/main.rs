//! The benchmark behind the figures that we publish: `cargo xtask bench` starts the servers and this. Every figure
//! stands beside a peer or a physical limit measured in the same run; ratios are what counts, absolutes are the
//! machine's.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // a driver that ends with a panic, and prints a table

use freshet_tests::source::{Flavour, Source};

mod catch_up;
mod copy;
mod keyless;
mod lanes;
mod latency;
mod memory;
mod report;
mod resync;
mod transaction;

use report::Report;

/// How much is measured.
#[derive(Clone, Copy)]
struct Scale {
    /// Rows of the table of 200 bytes; the one of 12 mixed columns has half as many.
    rows: u64,
    /// Row changes to catch up on.
    changes: u64,
    /// Rows of the one large transaction.
    transaction: u64,
    /// Tables that are on their way together.
    tables: u64,
    /// Seconds of the latency measurement.
    latency_s: u64,
    /// Seconds of the steady stream whose memory must stay flat.
    soak_s: u64,
}

const FULL: Scale =
    Scale { rows: 2_000_000, changes: 1_000_000, transaction: 10_000_000, tables: 1_000, latency_s: 60, soak_s: 600 };
const QUICK: Scale =
    Scale { rows: 200_000, changes: 100_000, transaction: 1_000_000, tables: 100, latency_s: 10, soak_s: 20 };

#[tokio::main]
async fn main() {
    let mut scale = FULL;
    let mut only: Option<String> = None;
    let mut output = None;
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--quick" => scale = QUICK,
            "--only" => only = args.next(),
            "--output" => output = args.next(),
            other => panic!("unknown argument {other}"),
        }
    }
    let source = Source::find(Flavour::MariaDb).expect("run `cargo xtask bench`");
    let replica = Source::named(Flavour::MariaDb, "REPLICA").expect("run `cargo xtask bench`");
    let wanted = |name: &str| only.as_deref().is_none_or(|o| o == name);
    let mut report = Report::new(scale.rows, scale.changes);
    if wanted("catch-up") {
        catch_up::measure(&source, &replica, scale, &mut report).await;
    }
    replica.kill();
    if wanted("copy") {
        copy::measure(&source, scale, &mut report).await;
    }
    if wanted("latency") {
        latency::measure(&source, scale, &mut report).await;
    }
    if wanted("memory") {
        memory::measure(&source, scale, &mut report).await;
    }
    if wanted("resync") {
        resync::measure(&source, scale, &mut report).await;
    }
    if wanted("lanes") {
        lanes::measure(&source, scale, &mut report).await;
    }
    if wanted("keyless") {
        keyless::measure(&source, scale, &mut report).await;
    }
    if wanted("transaction") {
        transaction::measure(&source, scale, &mut report).await;
    }
    print!("{report}");
    if let Some(output) = output {
        std::fs::write(&output, report.json().to_string()).unwrap();
        println!("written to {output}");
    }
}
