//! `cargo xtask test`: builds everything once, starts the real servers, runs every test of the workspace against them,
//! ends them, and says what took how long and what was skipped. With `--ci` formatting, lints and the documentation
//! are checked as well, and a skip that `.ci/expected-skips` does not name is a failure. Logs: `target/xtask/*.log`.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::Result;
use crate::run::{Stage, cargo, stream};
use crate::servers::{Flavour, Servers, Size, clients, wait_for_ctrl_c};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Run only tests whose name contains this
    #[arg(long, value_name = "FILTER")]
    only: Option<String>,
    /// Leave the servers running behind the tests, until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// Check formatting, lints and documentation too, and fail on unexpected skips
    #[arg(long, conflicts_with_all = ["only", "keep"])]
    ci: bool,
}

/// How long chaos reigns in CI, both flavours together.
const CHAOS_MINUTES: f64 = 3.0;

/// What the tests said, gathered while they run.
#[derive(Default)]
struct Said {
    passed: u64,
    failed: u64,
    skipped: Vec<String>,
    failures: Vec<String>,
}

/// `cargo xtask test`.
///
/// # Errors
/// When a stage fails.
pub(crate) fn test(options: &Options) -> Result<()> {
    let mut run = Run { stages: Vec::new(), said: Arc::default() };
    if options.ci {
        run.stage("format", &["fmt", "--all", "--check"], &[])?;
    }
    if run.stage("build", &["build", "--workspace", "--all-targets"], &[])? {
        let start = Instant::now();
        let mut servers = Servers::start(&Flavour::ALL, Size::TEST)?;
        servers.add_seconds(Size::TEST)?;
        run.note("servers", start.elapsed(), true);
        let (clients, missing) = clients::install();
        let skipped = servers.skipped.iter().cloned().chain(missing);
        run.said.lock().map_err(|_| "a reader of the output died")?.skipped.extend(skipped);
        run.tests(options.only.as_deref(), servers.variables().into_iter().chain(clients).collect())?;
        if options.keep {
            run.summary();
            return wait_for_ctrl_c(&servers);
        }
    }
    if options.ci {
        run.task("chaos", || {
            crate::chaos::chaos(&crate::chaos::Options { minutes: CHAOS_MINUTES, ..Default::default() })
        });
        run.stage("lints", &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"], &[])?;
        run.task("docs", crate::docs::docs);
        run.deny()?;
    }
    run.summary();
    run.verdict(options.ci)
}

struct Run {
    stages: Vec<Stage>,
    said: Arc<Mutex<Said>>,
}

impl Run {
    /// Runs cargo as one stage; whether it succeeded.
    fn stage(&mut self, name: &str, args: &[&str], variables: &[(String, String)]) -> Result<bool> {
        let log = crate::output_dir()?.join(format!("{name}.log"));
        let said = Arc::clone(&self.said);
        let stage = stream(name, cargo(args).envs(variables.iter().cloned()), &log, move |line| {
            if let Ok(mut said) = said.lock() {
                said.hear(line);
            }
        })?;
        let ok = stage.ok;
        self.stages.push(stage);
        Ok(ok)
    }

    fn tests(&mut self, only: Option<&str>, mut variables: Vec<(String, String)>) -> Result<()> {
        let binary = crate::root().join("target/debug/freshet");
        variables.push(("FRESHET_BIN".into(), binary.display().to_string()));
        let mut args = vec!["test", "--workspace", "--no-fail-fast"];
        args.extend(only);
        self.stage("tests", &args, &variables).map(drop)
    }

    /// What the tree is made of, against `deny.toml`, where the tool for that is installed. Advisories are not looked at:
    /// they change from day to day, and have to be fetched.
    fn deny(&mut self) -> Result<()> {
        let found = cargo(&["deny", "--version"]).output().is_ok_and(|out| out.status.success());
        if found {
            return self.stage("deny", &["deny", "check", "licenses", "bans", "sources"], &[]).map(drop);
        }
        let skipped = "SKIPPED deny: there is no cargo-deny here (`cargo install cargo-deny`)".to_string();
        self.said.lock().map_err(|_| "a reader of the output died")?.skipped.push(skipped);
        Ok(())
    }

    /// Runs another of these tasks as one stage.
    fn task(&mut self, name: &str, task: impl FnOnce() -> Result<()>) {
        let start = Instant::now();
        let done = task();
        if let Err(why) = &done {
            eprintln!("{why}");
        }
        self.note(name, start.elapsed(), done.is_ok());
    }

    fn note(&mut self, name: &str, took: Duration, ok: bool) {
        self.stages.push(Stage { name: name.into(), took, ok });
    }

    fn summary(&self) {
        let Ok(said) = self.said.lock() else { return };
        println!("\n== summary");
        for stage in &self.stages {
            let minutes = stage.took.as_secs_f64() / 60.0;
            println!("{:<10} {minutes:>5.1} min  {}", stage.name, if stage.ok { "ok" } else { "FAILED" });
        }
        let total: Duration = self.stages.iter().map(|s| s.took).sum();
        println!("{:<10} {:>5.1} min", "total", total.as_secs_f64() / 60.0);
        println!("{} tests passed, {} failed, {} skipped", said.passed, said.failed, said.skipped.len());
        for line in said.failures.iter().chain(&said.skipped) {
            println!("{line}");
        }
    }

    fn verdict(&self, ci: bool) -> Result<()> {
        let failed: Vec<&str> = self.stages.iter().filter(|s| !s.ok).map(|s| s.name.as_str()).collect();
        if !failed.is_empty() {
            return Err(format!("failed: {} (logs in target/xtask)", failed.join(", ")));
        }
        let said = self.said.lock().map_err(|_| "a reader of the output died")?;
        let expected = expected_skips(&crate::root().join(".ci/expected-skips"));
        match said.skipped.iter().find(|line| !expected.iter().any(|e| line.starts_with(e.as_str()))) {
            Some(line) if ci => Err(format!("skipped, and .ci/expected-skips does not name it: {line}")),
            _ => Ok(()),
        }
    }
}

impl Said {
    fn hear(&mut self, line: &str) {
        if line.starts_with("SKIPPED ") {
            self.skipped.push(line.into());
        } else if line.starts_with("test ") && line.ends_with("FAILED") {
            self.failures.push(line.into());
        } else if let Some(counts) = line.strip_prefix("test result: ") {
            let count = |what: &str| -> u64 {
                let number = counts.split([';', '.']).find_map(|part| part.trim().strip_suffix(what));
                number.and_then(|n| n.trim().parse().ok()).unwrap_or(0)
            };
            self.passed += count(" passed");
            self.failed += count(" failed");
        }
    }
}

fn expected_skips(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')).map(str::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hears_results() {
        let mut said = Said::default();
        for line in [
            "test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "test a::b ... FAILED",
            "test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "SKIPPED server mysql: no unstable suite",
        ] {
            said.hear(line);
        }
        assert_eq!((said.passed, said.failed), (15, 1));
        assert_eq!(said.failures, ["test a::b ... FAILED"]);
        assert_eq!(said.skipped, ["SKIPPED server mysql: no unstable suite"]);
    }
}
