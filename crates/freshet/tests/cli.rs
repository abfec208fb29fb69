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
        Running::start_with(dir, args, |_| {})
    }

    fn start_with(dir: TempDir, args: &[&str], more: impl FnOnce(&mut Command)) -> Running {
        let log = std::fs::File::options().create(true).append(true).open(dir.path().join("log")).unwrap();
        let mut command = freshet(args);
        command.args(["--listen", "127.0.0.1:0"]).env("FRESHET_DATA", dir.path().join("data"));
        command.stdout(log.try_clone().unwrap()).stderr(log);
        more(&mut command);
        Running { child: command.spawn().unwrap(), dir }
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
        ("json_usage_of_a_command", &["status", "--wach", "--json"]),
        // A URL that is mistyped, or stands where something else should, takes its password nowhere.
        ("no_scheme", &["check", "root:sesame@db/shop"]),
        ("no_slashes", &["check", "mysql:root:sesame@db/shop"]),
        ("no_host", &["check", "mysql://root:sesame/shop"]),
        ("password_as_parameter", &["check", "mysql://root@db/shop?password=sesame"]),
        ("no_command", &["mysql://root:sesame@db/shop"]),
        ("no_command_json", &["mysql://root:sesame@db/shop", "--json"]),
        ("url_as_sink", &["plan", "generator://shop", "mysql://root:sesame@db/shop"]),
        ("url_as_name", &["sync", "generator://shop", "--data", &nowhere, "--name", "mysql://root:sesame@db/shop"]),
        ("url_as_pattern", &["tables", "generator://shop", "--tables", "mysql://root:sesame@db.example/shop"]),
        ("url_as_statement", &["sql", "mysql://root:sesame@db/shop"]),
        ("url_as_address", &["serve", "--listen", "mysql://root:sesame@db/shop"]),
        ("url_as_folder", &["status", "--data", "mysql://root:sesame@db/shop"]),
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
    for command in ["status", "verify", "pause", "resume", "resync", "drop"] {
        let text = shown(&run_in(&sync.data(), &[command, "mysql://root:sesame@db/shop"]));
        assert!(text.contains("there is no job named mysql://root:***@db/shop") && !text.contains("sesame"), "{text}");
    }
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

/// Whether it is the one envelope, of this command: one line, the same names always; of a failure its kind, what is wrong
/// and what to do.
fn assert_envelope(output: &Output, command: Option<&str>, code: i32) -> Value {
    let envelope = json(output);
    let names = |value: &Value| value.as_object().map(|o| o.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
    assert_eq!(names(&envelope), ["command", "error", "ok", "result"], "{}", shown(output));
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 1, "{}", shown(output));
    assert!(output.stderr.is_empty(), "{}", shown(output));
    assert_eq!(output.status.code(), Some(code), "{}", shown(output));
    assert_eq!(envelope["command"].as_str(), command, "{envelope}");
    assert_eq!(envelope["ok"], code == 0, "{envelope}");
    if code == 0 {
        assert!(envelope["error"].is_null() && !envelope["result"].is_null(), "{envelope}");
        return envelope;
    }
    let error = &envelope["error"];
    assert_eq!(names(error), ["cause", "context", "hint", "kind", "message"], "{envelope}");
    for name in ["kind", "message", "hint"] {
        assert!(error[name].as_str().is_some_and(|text| !text.is_empty()), "no {name}: {envelope}");
    }
    envelope
}

const COMMANDS: [&str; 14] = [
    "demo",
    "sync",
    "serve",
    "check",
    "plan",
    "tables",
    "status",
    "verify",
    "pause",
    "resume",
    "resync",
    "drop",
    "sql",
    "completions",
];

#[test]
fn help_and_completions_name_every_command() {
    let said = |args: &[&str]| {
        let output = freshet(args).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", shown(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let (help, completions) = (said(&["--help"]), said(&["completions", "bash"]));
    for command in COMMANDS {
        assert!(help.contains(&format!("  {command} ")), "{command} is not in {help}");
        assert!(completions.contains(command));
        let own = said(&[command, "--help"]);
        assert!(own.contains("--json") && !own.contains('\u{1b}'), "{own}");
    }
    assert!(said(&["--version"]).starts_with("freshet "));
}

#[test]
fn one_envelope_for_every_failure() {
    let data = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| run_in(data.path(), &[args, &["--json"]].concat());
    for command in COMMANDS {
        let wrong = assert_envelope(&run(&[command, "--no-such-option"]), Some(command), 2);
        assert_eq!(wrong["error"]["kind"], "config");
    }
    assert_envelope(&run(&[]), None, 2);
    let no_file = "/no/such/file";
    let cases: &[(&[&str], i32, &str)] = &[
        (&["demo", "--root-password-file", no_file, "--listen", "127.0.0.1:0"], 3, "io"),
        (&["sync", "generator://shop", "--root-password-file", no_file], 3, "io"),
        (&["serve", "--root-password-file", no_file], 3, "io"),
        (&["sync", "mysqll://db/shop"], 2, "config"),
        (&["check", "mysql://root:sesame@127.0.0.1:1/shop"], 3, "source_state"),
        (&["plan", "generator://shop", "--tables", "shop.odrers"], 2, "not_found"),
        (&["tables", "shop"], 2, "config"),
        (&["status", "nothing"], 2, "not_found"),
        (&["verify", "nothing"], 2, "not_found"),
        (&["pause", "nothing"], 2, "not_found"),
        (&["resume", "nothing"], 2, "not_found"),
        (&["resync", "nothing"], 2, "not_found"),
        (&["drop", "nothing"], 2, "not_found"),
        (&["sql", "SELEC"], 2, "config"),
        (&["completions", "tcsh"], 2, "config"),
    ];
    for (args, code, kind) in cases {
        let failed = assert_envelope(&run(args), Some(args[0]), *code);
        assert_eq!(failed["error"]["kind"], *kind, "{failed}");
    }
    // What was found is said beside the failure.
    let checked = json(&run(&["check", "mysql://root:sesame@127.0.0.1:1/shop"]));
    assert_eq!(checked["result"]["findings"][0]["verdict"], "failed", "{checked}");
}

#[test]
fn one_envelope_for_every_answer() {
    let source = "generator://shop?rows=500&rate=500&transactions=100";
    let mut sync = Running::start(&["sync", source, "--json"]);
    let live = |job: &Value| {
        let tables = job["tables"].as_array();
        tables.is_some_and(|t| t.len() == 4 && t.iter().all(|t| t["state"] == "live" && t["resync"].is_null()))
    };
    sync.until(live);
    let mut seen = vec!["sync", "serve"];
    let mut good = |data: &Path, args: &[&'static str]| {
        let answer = assert_envelope(&run_in(data, &[args, &["--json"]].concat()), Some(args[0]), 0);
        seen.push(args[0]);
        answer["result"].clone()
    };
    let data = sync.data();
    assert_eq!(good(&data, &["status"])["jobs"][0]["name"], "shop");
    assert_eq!(good(&data, &["verify", "shop"])["equal"], true);
    assert_eq!(good(&data, &["sql", "SELECT 1; SELECT 2"])["results"][1]["rows"][0][0], "2");
    assert_eq!(good(&data, &["pause", "shop"])["job"]["state"], "paused");
    good(&data, &["resume", "shop"]);
    sync.until(|job| job["state"] == "streaming");
    good(&data, &["resync", "shop"]);
    sync.until(live);
    let ended = |running: Running, command: &str| {
        let (code, log, dir) = running.terminate();
        assert_eq!(code, Some(0), "{log}");
        let envelope: Value = serde_json::from_str(&log).unwrap_or_else(|e| panic!("not only JSON ({e}): {log}"));
        assert_eq!((&envelope["command"], &envelope["ok"]), (&command.into(), &true.into()), "{log}");
        assert!(envelope["error"].is_null() && envelope["result"].is_object(), "{log}");
        dir
    };
    let dir = ended(sync, "sync");
    let mut serve = Running::start_in(dir, &["serve", "--json"]);
    serve.until(|job| job["state"] == "streaming");
    std::fs::write(serve.dir.path().join("log"), "").unwrap(); // what `sync` said
    let dir = ended(serve, "serve");
    let data = dir.path().join("data");
    assert_eq!(good(&data, &["drop", "shop"])["job"]["name"], "shop");
    good(&data, &["check", "generator://shop"]);
    good(&data, &["plan", "generator://shop"]);
    good(&data, &["tables", "generator://shop"]);
    assert!(good(&data, &["completions", "bash"]).as_str().is_some_and(|script| script.contains("freshet")));
    let other = tempfile::tempdir().unwrap();
    good(other.path(), &["demo", "--seconds", "2", "--rows", "100", "--listen", "127.0.0.1:0"]);
    let missing: Vec<_> = COMMANDS.iter().filter(|c| !seen.contains(c)).collect();
    assert!(missing.is_empty(), "not tried: {missing:?}");
}

/// A stored job takes over what a later command says about how it is done.
#[test]
fn the_same_command_with_other_limits() {
    let source = "generator://shop?rows=100&transactions=10";
    let options = |data: &Path| {
        let stored = freshet_core::store::Store::open(&data.join("jobs.redb")).unwrap().job("shop").unwrap().unwrap();
        let o = stored.spec.options;
        (o.copy_connections, o.spool_bytes, o.replace)
    };
    let run = |dir: TempDir, more: &[&str]| {
        let mut sync = Running::start_in(dir, &[&["sync", source], more].concat());
        sync.until(|job| job["state"] == "streaming");
        let (code, log, dir) = sync.terminate();
        assert_eq!(code, Some(0), "{log}");
        (log, dir)
    };
    let (_, dir) = run(tempfile::tempdir().unwrap(), &["--connections", "3"]);
    let data = dir.path().join("data");
    assert_eq!(options(&data), (3, 4 << 30, false));
    let (log, dir) = run(dir, &["--connections", "5", "--spool", "0", "--replace"]);
    let said = "job shop from now on replaces targets that exist, copies over 5 connections, spools up to 0 B of the \
                source's log";
    assert!(log.contains(said), "{log}");
    assert_eq!(options(&data), (5, 0, true));
    // Without them it stays as it is.
    let (log, _dir) = run(dir, &[]);
    assert_eq!(log.matches("from now on").count(), 1, "{log}");
    assert_eq!(options(&data), (5, 0, true));
    let wrong = run_in(&data, &["sync", source, "--connections", "0", "--listen", "127.0.0.1:0"]);
    assert_eq!(wrong.status.code(), Some(2), "{}", shown(&wrong));
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
    for (name, expected) in [("TERM", 143), ("INT", 130)] {
        // A step of the flush never ends, so the graceful end does not either.
        let hang = |command: &mut Command| {
            command.env("FRESHET_FAILPOINTS", "flush.write=hang@3");
        };
        let args = ["sync", "generator://shop?rows=1000&rate=1000"];
        let mut sync = Running::start_with(tempfile::tempdir().unwrap(), &args, hang);
        sync.until(|job| job["flushes"].as_u64() >= Some(2));
        std::thread::sleep(Duration::from_secs(1));
        sync.signal(name);
        std::thread::sleep(Duration::from_secs(1));
        assert!(sync.child.try_wait().unwrap().is_none(), "the first signal waits for what is under way");
        sync.signal(name);
        let begun = Instant::now();
        let code = loop {
            if let Some(status) = sync.child.try_wait().unwrap() {
                break status.code();
            }
            assert!(begun.elapsed() < Duration::from_secs(10), "the second signal does nothing: {}", sync.log());
            std::thread::sleep(Duration::from_millis(5));
        };
        assert_eq!(code, Some(expected));
    }
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

/// What the command prints on a terminal of this many columns.
fn on_a_terminal(columns: usize, command: &str, no_color: &str, failpoints: &str) -> Output {
    let command = format!("stty cols {columns} rows 40; exec '{}' {command}", env!("CARGO_BIN_EXE_freshet"));
    Command::new("script")
        .args(["--quiet", "--return", "--flush", "--command", &command, "/dev/null"])
        .env("TERM", "xterm")
        .env("NO_COLOR", no_color)
        .env("FRESHET_FAILPOINTS", failpoints)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Whether any sequence chooses a colour or a face: `ESC [ … m`.
fn has_colors(raw: &str) -> bool {
    let mut sequences = raw.split("\x1b[").skip(1);
    sequences.any(|s| s.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';').starts_with('m'))
}

/// Help and errors have colours on a terminal, unless they are not wanted.
#[test]
fn colors_of_messages() {
    for command in ["--help", "synk", "status --wach", "check mysqll://db/shop"] {
        for (option, no_color, colored) in [("", "", true), ("--no-color", "", false), ("", "1", false)] {
            let output = on_a_terminal(100, &format!("{command} {option}"), no_color, "");
            let raw = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(raw.len() > 20, "{}", shown(&output));
            assert_eq!(has_colors(&raw), colored, "{command} {option} NO_COLOR={no_color}: {raw}");
        }
    }
}

/// On a terminal progress is redrawn in place and gone at the end; lines that are too long do not break it.
#[test]
fn progress_on_a_terminal() {
    for (columns, option, no_color) in [(132, "", ""), (48, "", ""), (132, "--no-color", ""), (132, "", "1")] {
        let data = tempfile::tempdir().unwrap();
        let demo =
            format!("demo --seconds 5 --rows 60000 --listen 127.0.0.1:0 {option} --data '{}'", data.path().display());
        // However fast the machine is, the copy takes so long that it is seen.
        let output = on_a_terminal(columns, &demo, no_color, "copy.write=slow");
        assert!(output.status.success(), "{}", shown(&output));
        let raw = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(raw.matches("A\x1b[J").count() >= 5, "nothing is redrawn: {raw}");
        assert!(raw.contains("tables live"), "no progress: {raw}");
        // What is drawn while tables are copied: percent, rate and time left.
        let copying: Vec<&str> = raw.lines().filter(|l| l.contains("demo: copying")).collect();
        for what in ["%", "rows/s", "ETA "] {
            assert!(copying.iter().any(|l| l.contains(what)), "no {what} while tables are copied: {raw}");
        }
        let colored = option.is_empty() && no_color.is_empty();
        assert_eq!(raw.contains("\x1b[1m"), colored, "{option} {no_color}: {raw}");
        assert_eq!(has_colors(&raw), colored, "{option} {no_color}: {raw}");
        let shows = screen(&raw, columns);
        let lines = |what: &str| shows.iter().filter(|l| l.contains(what)).count();
        assert_eq!(lines("rows/s") + lines("tables live"), 0, "progress is left over: {shows:#?}");
        assert_eq!(lines("equal: source and target hold"), 1, "{shows:#?}");
        assert_eq!(lines("shop.customers is live"), 1, "{shows:#?}");
    }
}
