//! The whole process: exit code, standard output and standard error of the real binary, as a person or a script meets
//! them. `INSTA_UPDATE=always cargo test -p freshet --test cli` writes the snapshots anew.

#![allow(clippy::unwrap_used)] // a failing helper is a failing test

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use insta::assert_snapshot;
use serde_json::Value;
use tempfile::TempDir;

/// How long a process may take.
const PATIENCE: Duration = Duration::from_secs(60);

fn freshet(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_freshet"));
    command.args(args).env("NO_COLOR", "1").env_remove("FRESHET_DATA").stdin(Stdio::null());
    command
}

/// Exit code and both outputs in one text.
fn shown(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!(
        "exit code: {}\n--- stdout\n{}--- stderr\n{}",
        output.status.code().unwrap_or(-1),
        text(&output.stdout),
        text(&output.stderr)
    )
}

fn run(args: &[&str]) -> String {
    shown(&freshet(args).output().unwrap())
}

fn run_in(data: &Path, args: &[&str]) -> Output {
    freshet(args).env("FRESHET_DATA", data).output().unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("not JSON ({e}): {}", shown(output)))
}

/// A process that is ended with the test.
struct Running {
    child: Child,
    dir: TempDir,
}

impl Running {
    fn start(args: &[&str]) -> Running {
        Running::start_in(tempfile::tempdir().unwrap(), args)
    }

    fn start_in(dir: TempDir, args: &[&str]) -> Running {
        let log = std::fs::File::options().create(true).append(true).open(dir.path().join("log")).unwrap();
        let child = freshet(args)
            .args(["--listen", "127.0.0.1:0"])
            .env("FRESHET_DATA", dir.path().join("data"))
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Running { child, dir }
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    /// Asks for the status until it is as wanted.
    fn until(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let output = run_in(&self.data(), &["status", "--json"]);
            if output.status.success() {
                let job = json(&output)["result"]["jobs"][0].clone();
                if wanted(&job) {
                    return job;
                }
            }
            assert!(self.child.try_wait().unwrap().is_none(), "it ended: {}", self.log());
            assert!(begun.elapsed() < PATIENCE, "{}\n{}", shown(&output), self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// SIGTERM; the exit code.
    fn terminate(mut self) -> (Option<i32>, String, TempDir) {
        self.signal("TERM");
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait().unwrap() {
                let log = self.log();
                let dir = std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap());
                return (status.code(), log, dir);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("it does not end: {}", self.log());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn help() {
    assert_snapshot!("help", run(&["--help"]));
    assert_snapshot!("help_sync", run(&["sync", "--help"]));
}

#[test]
fn wrong_requests() {
    let data = tempfile::tempdir().unwrap();
    let nowhere = data.path().join("nothing").display().to_string();
    let cases: &[(&str, &[&str])] = &[
        ("unknown_command", &["synk"]),
        ("unknown_option", &["status", "--wach"]),
        ("unknown_scheme", &["check", "mysqll://root:sesame@db/shop"]),
        ("no_url", &["tables", "shop"]),
        ("unknown_option_of_url", &["tables", "generator://shop?speed=1"]),
        ("unknown_table", &["plan", "generator://shop", "--tables", "shop.odrers"]),
        ("bad_pattern", &["tables", "generator://shop", "--tables", "a.b.c"]),
        ("no_database", &["check", "mysql://root:sesame@127.0.0.1:1/"]),
        ("missing_variable", &["check", "mysql://root:${FRESHET_NO_SUCH}@127.0.0.1:1/shop"]),
        ("json", &["check", "mysqll://root:sesame@db/shop", "--json"]),
        ("json_usage", &["synk", "--json"]),
    ];
    for (name, args) in cases {
        let text = run(args);
        assert!(!text.contains("sesame"), "{text}");
        assert_snapshot!(*name, text);
    }
    let text = run(&["status", "--data", &nowhere]).replace(&nowhere, "DATA");
    assert_snapshot!("no_data", text);
}

#[test]
fn without_a_job() {
    assert_snapshot!("tables", run(&["tables", "generator://shop?rows=1000"]));
    assert_snapshot!("tables_json", run(&["tables", "generator://shop?rows=1000", "--json", "--tables", "orders"]));
    assert_snapshot!("check", run(&["check", "generator://shop?rows=1000"]));
    assert_snapshot!("check_failed", run(&["check", "generator://shop?rows=1000", "-", "--tables", "nothing.*"]));
    assert_snapshot!(
        "plan",
        run(&["plan", "generator://shop?rows=1000", "--tables", "order*", "--target-database", "dw"])
    );
    for shell in ["bash", "zsh", "fish"] {
        let output = freshet(&["completions", shell]).output().unwrap();
        assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("freshet"));
    }
}

/// The generator into the warehouse: copied, followed, asked from other processes, ended, and gone on with.
#[test]
fn a_job_from_beginning_to_end() {
    let source = "generator://shop?rows=2000&rate=500&alter=200&transactions=1000";
    let mut sync = Running::start(&["sync", source]);
    let live = |job: &Value| {
        let tables = job["tables"].as_array();
        job["position"] == "tx:1555" && tables.is_some_and(|t| t.len() == 4 && t.iter().all(|t| t["state"] == "live"))
    };
    let job = sync.until(live);
    assert_eq!(job["source"], source);
    let query = "SELECT COUNT(*) AS n, COUNT(DISTINCT channel) AS channels FROM shop.orders";
    let asked = run_in(&sync.data(), &["sql", query, "--json"]);
    let rows = json(&asked)["result"]["results"][0]["rows"].clone();
    assert_eq!(rows[0][1], "4", "{}", shown(&asked));
    let lines = run_in(&sync.data(), &["sql", "SHOW TABLES FROM shop"]);
    assert_eq!(String::from_utf8_lossy(&lines.stdout).lines().count(), 5, "{}", shown(&lines));

    // Another process on the same folder, and a job that does not exist.
    let second = run_in(&sync.data(), &["serve", "--listen", "127.0.0.1:0"]);
    let data = sync.data().display().to_string();
    assert_snapshot!("second_process", shown(&second).replace(&data, "DATA"));
    assert_snapshot!("unknown_job", shown(&run_in(&sync.data(), &["pause", "shpo"])));
    let verified = run_in(&sync.data(), &["verify", "shop"]);
    assert_snapshot!("verify", shown(&verified));

    // Paused and resumed.
    assert_snapshot!("pause", shown(&run_in(&sync.data(), &["pause", "shop"])));
    sync.until(|job| job["state"] == "paused");
    assert_snapshot!("resume", shown(&run_in(&sync.data(), &["resume", "shop"])));
    sync.until(|job| job["state"] == "streaming");

    let (code, log, dir) = sync.terminate();
    assert_eq!(code, Some(0), "{log}");
    let data = dir.path().join("data");
    let offline = run_in(&data, &["status"]);
    // How much was copied and how much streamed depends on when the copy began.
    let numberless = shown(&offline).replace(|c: char| c.is_ascii_digit() || c == ',', "");
    let words: Vec<String> = numberless.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_snapshot!("status_offline", words.join("\n"));
    let asked = run_in(&data, &["sql", query, "--json"]);
    assert_eq!(json(&asked)["result"]["results"][0]["rows"], rows, "{}", shown(&asked));

    // The same command goes on; another one under the same name is refused.
    let changed = run_in(&data, &["sync", source, "--tables", "orders", "--listen", "127.0.0.1:0"]);
    assert_snapshot!("other_job_of_that_name", shown(&changed));
    let mut again = Running::start_in(dir, &["sync", source]);
    again.until(|job| job["state"] == "streaming");
    let (code, log, dir) = again.terminate();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("goes on where it stood"), "{log}");
    assert_snapshot!("drop", shown(&run_in(&dir.path().join("data"), &["drop", "shop"])));
    assert_snapshot!("no_jobs", shown(&run_in(&dir.path().join("data"), &["status"])));
}

/// Changes as lines of JSON.
#[test]
fn into_files() {
    let files = tempfile::tempdir().unwrap();
    let sink = format!("file://{}", files.path().display());
    let mut sync = Running::start(&["sync", "generator://shop?rows=500&rate=500&transactions=200&alter=100", &sink]);
    sync.until(|job| job["position"] == "tx:338");
    let (code, log, _dir) = sync.terminate();
    assert_eq!(code, Some(0), "{log}");
    let orders = std::fs::read_to_string(files.path().join("shop.orders.jsonl")).unwrap();
    let lines: Vec<Value> = orders.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert!(lines.iter().any(|l| l["op"] == "delete") && lines.iter().any(|l| l["row"]["channel"] == "app"));
    assert!(std::fs::read_to_string(files.path().join("_ddl.sql")).unwrap().contains("ADD COLUMN `channel`"));
}

#[test]
fn the_demo_ends_by_itself() {
    let data = tempfile::tempdir().unwrap();
    let output = freshet(&["demo", "--seconds", "12", "--rows", "1000", "--listen", "127.0.0.1:0", "--json", "--data"])
        .arg(data.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", shown(&output));
    let result = json(&output)["result"].clone();
    assert_eq!(result["answer"]["columns"][0], "channel", "{result}");
    assert_eq!(result["verify"]["equal"], true, "{result}");
}

#[test]
fn the_second_signal_ends_at_once() {
    let mut sync = Running::start(&["sync", "generator://shop?rows=100000&rate=1000"]);
    sync.until(|job| !job["state"].is_null());
    sync.signal("TERM");
    sync.signal("TERM");
    let begun = Instant::now();
    let code = loop {
        if let Some(status) = sync.child.try_wait().unwrap() {
            break status.code();
        }
        assert!(begun.elapsed() < PATIENCE, "{}", sync.log());
        std::thread::sleep(Duration::from_millis(5));
    };
    // The graceful end may have been faster than the second signal.
    assert!([Some(0), Some(143)].contains(&code), "{code:?}");
}

/// What a terminal of this many columns shows after these bytes: lines, cursor movements, erasing, cutting and wrapping.
fn screen(bytes: &str, columns: usize) -> Vec<String> {
    let mut lines: Vec<Vec<char>> = vec![Vec::new()];
    let (mut row, mut column, mut wrap) = (0, 0, true);
    let mut chars = bytes.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\r' => column = 0,
            '\n' => {
                row += 1;
                lines.resize(lines.len().max(row + 1), Vec::new());
            }
            '\x1b' => {
                assert_eq!(chars.next(), Some('['), "an unknown sequence");
                let mut number = String::new();
                let end = loop {
                    match chars.next().expect("a whole sequence") {
                        c if c.is_ascii_alphabetic() => break c,
                        c => number.push(c),
                    }
                };
                match end {
                    'A' => row = row.saturating_sub(number.parse().unwrap_or(1)),
                    'J' => {
                        lines.truncate(row + 1);
                        lines[row].truncate(column);
                    }
                    'K' => lines[row].truncate(column),
                    'l' | 'h' if number == "?7" => wrap = end == 'h',
                    'm' => {}
                    other => panic!("an unknown sequence: {number}{other}"),
                }
            }
            c => {
                if column == columns {
                    if wrap {
                        (row, column) = (row + 1, 0);
                        lines.resize(lines.len().max(row + 1), Vec::new());
                    } else {
                        column = columns - 1;
                    }
                }
                let line = &mut lines[row];
                line.resize(line.len().max(column + 1), ' ');
                line[column] = c;
                column += 1;
            }
        }
    }
    lines.into_iter().map(|l| l.into_iter().collect::<String>().trim_end().to_string()).collect()
}

/// On a terminal progress is redrawn in place and gone at the end; lines that are too long do not break it.
#[test]
fn progress_on_a_terminal() {
    for columns in [132, 48] {
        let data = tempfile::tempdir().unwrap();
        let demo = format!(
            "stty cols {columns} rows 40; exec '{}' demo --seconds 5 --rows 60000 --listen 127.0.0.1:0 --data '{}'",
            env!("CARGO_BIN_EXE_freshet"),
            data.path().display()
        );
        let output = Command::new("script")
            .args(["--quiet", "--return", "--flush", "--command", &demo, "/dev/null"])
            .env("TERM", "xterm")
            .env_remove("NO_COLOR")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", shown(&output));
        let raw = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(raw.matches("A\x1b[J").count() >= 5, "nothing is redrawn: {raw}");
        assert!(raw.contains("tables live") && raw.contains("\x1b[1m"), "no progress, or no colours: {raw}");
        let shows = screen(&raw, columns);
        let lines = |what: &str| shows.iter().filter(|l| l.contains(what)).count();
        assert_eq!(lines("rows/s") + lines("tables live"), 0, "progress is left over: {shows:#?}");
        assert_eq!(lines("equal: source and target hold"), 1, "{shows:#?}");
        assert_eq!(lines("shop.customers is live"), 1, "{shows:#?}");
    }
}
