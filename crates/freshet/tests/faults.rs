//! The whole program meets failing disks, its own sudden end and damaged or newer files. Damage is named with its file;
//! an end in any durable step of warehouse or store loses nothing: the restarted job ends equal to its source.

#![allow(clippy::unwrap_used)] // a failing helper is a failing test

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use freshet_core::failpoint::PLACES;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(90);
/// A shop with a column added on the way; its last transaction is [`END`].
const SOURCE: &str = "generator://shop?rows=2000&rate=2000&alter=900&transactions=1000";
const END: &str = "tx:1555";
/// A longer one without the column, and its end.
const LONG: &str = "generator://shop?rows=2000&rate=2000&alter=0&transactions=20000";
const LONG_END: &str = "tx:20555";
/// Rows of the table in [`directory`].
const ROWS: &str = "90300";

fn freshet(data: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_freshet"));
    command.args(args).env("NO_COLOR", "1").env("FRESHET_DATA", data).env_remove("FRESHET_FAILPOINTS");
    command.stdin(Stdio::null());
    command
}

fn run(data: &Path, args: &[&str]) -> Output {
    freshet(data, args).output().unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// `freshet sync`, killed with the test.
struct Sync {
    child: Child,
    data: PathBuf,
}

impl Sync {
    fn start(data: &Path, failpoints: &str) -> Sync {
        Sync::over(SOURCE, data, failpoints)
    }

    fn over(source: &str, data: &Path, failpoints: &str) -> Sync {
        let log = std::fs::File::options().create(true).append(true).open(data.with_extension("log")).unwrap();
        let child = freshet(data, &["sync", source, "--listen", "127.0.0.1:0"])
            .env("FRESHET_FAILPOINTS", failpoints)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Sync { child, data: data.to_path_buf() }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.data.with_extension("log")).unwrap_or_default()
    }

    /// Waits until the job is as wanted, or the process has ended by a signal.
    fn until(&mut self, wanted: impl Fn(&Value) -> bool) -> Result<Value, String> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Err(format!("{status}: {}", self.log()));
            }
            let output = run(&self.data, &["status", "--json"]);
            let job = serde_json::from_slice::<Value>(&output.stdout).unwrap_or_default()["result"]["jobs"][0].clone();
            if wanted(&job) {
                return Ok(job);
            }
            assert!(begun.elapsed() < PATIENCE, "{job}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    fn terminate(mut self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").arg(&pid).status().unwrap().success());
        assert!(self.child.wait().unwrap().success(), "{}", self.log());
    }
}

impl Drop for Sync {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn at_the_end(job: &Value) -> bool {
    job["position"] == END && job["tables"].as_array().is_some_and(|t| t.iter().all(|t| t["state"] == "live"))
}

/// The job goes on without faults, and source and target are equal.
fn goes_on(data: &Path, what: &str) {
    let mut sync = Sync::start(data, "");
    sync.until(at_the_end).unwrap_or_else(|e| panic!("{what}: {e}"));
    let verified = run(data, &["verify", "shop"]);
    assert!(verified.status.success() && text(&verified).contains("equal"), "{what}: {}", text(&verified));
    sync.terminate();
}

#[test]
fn it_dies_in_a_durable_step() {
    for what in [
        "store.commit=kill@4",
        "store.committed=kill@3",
        "store.commit=kill@11",
        "store.committed=kill@12",
        "log.write=torn@3",
        "log.write=torn@9",
        "log.sync=kill@7",
        "log.synced=kill@5",
        "log.synced=kill@10",
    ] {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let died = Sync::start(&data, what).until(at_the_end).expect_err(what);
        assert!(died.contains("signal"), "{what}: {died}");
        goes_on(&data, what);
    }
}

#[test]
fn the_disk_fails_under_a_job() {
    // Behind the copy: a table whose copy meets a failing disk waits for a person.
    for (what, word) in [
        ("store.commit=eio@24", "cannot write the store"),
        ("log.write=short@24", "cannot write the log"),
        ("log.sync=eio@24", "cannot make the log durable"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let mut sync = Sync::start(&data, what);
        let said = match sync.until(|job| !job["error"].is_null() || at_the_end(job)) {
            Ok(job) => format!("{}{}", job["error"], sync.log()),
            Err(ended) => ended,
        };
        assert!(said.contains(word) && said.contains("os error"), "{what}: {said}");
        assert!(said.contains("nothing acknowledged is lost"), "{what}: {said}");
        drop(sync);
        goes_on(&data, what);
    }
    let dir = tempfile::tempdir().unwrap();
    let output = freshet(dir.path(), &["status"]).env("FRESHET_FAILPOINTS", "log.snyc=eio").output().unwrap();
    assert!(output.status.code() == Some(2) && text(&output).contains("log.sync"), "{}", text(&output));
}

/// The steps of a job that come by themselves; those of tables that a person deals with, and of transactions beyond the
/// buffer, have tests of their own.
fn steps() -> impl Iterator<Item = &'static str> {
    let own = ["settle.", "flush.", "position.", "ddl.", "copy.", "lane."];
    PLACES.iter().map(|(place, _)| *place).filter(move |place| own.iter().any(|begin| place.starts_with(begin)))
}

#[test]
fn a_job_is_cut_off_in_each_of_its_steps() {
    assert_eq!(steps().count(), 21);
    for place in steps() {
        for action in ["kill", "eio", "enospc"] {
            let what = format!("{place}={action}@1");
            let dir = tempfile::tempdir().unwrap();
            let data = dir.path().join("data");
            let mut sync = Sync::start(&data, &what);
            let ended = sync.until(at_the_end).expect_err(&what);
            match action {
                "kill" => assert!(ended.contains("signal"), "{what}: {ended}"),
                _ => {
                    assert!(ended.contains(place) && ended.contains("nothing acknowledged is lost"), "{what}: {ended}")
                }
            }
            drop(sync);
            goes_on(&data, &what);
        }
    }
}

/// A target is out of the way, its table suspended and copied again; whatever is cut off in between begins once more.
#[test]
fn a_table_is_helped_on_through_faults() {
    for what in [
        "table.suspend=kill@1",
        "table.suspend=eio@1",
        "table.suspend=enospc@1",
        "table.resume=kill@1",
        "table.resume=eio@1",
        "table.resume=enospc@1",
        // Behind the first copies of four tables and their one round: those of the new copy.
        "copy.create=kill@5",
        "copy.written=kill@5",
        "copy.copied=kill@5",
        "lane.fork=kill@2",
        "lane.join=eio@2",
    ] {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let mut sync = Sync::over(LONG, &data, what);
        let all_live = |job: &Value| {
            let tables = job["tables"].as_array();
            tables.is_some_and(|t| t.len() == 4 && t.iter().all(|t| t["state"] == "live" && t["resync"].is_null()))
        };
        let products = |job: &Value| {
            let tables = job["tables"].as_array().cloned().unwrap_or_default();
            tables.iter().find(|t| t["name"]["table"] == "products").map_or(Value::Null, |t| t["state"].clone())
        };
        // Asks until it is done, and waits for what is wanted; a process that has ended is started again, without faults.
        let until = |sync: &mut Sync, wanted: &dyn Fn(&Value) -> bool, ask: &[&str]| {
            let mut said = String::new();
            for _ in 0..3 {
                let begun = Instant::now();
                while !ask.is_empty() && sync.child.try_wait().unwrap().is_none() {
                    let answer = run(&data, ask);
                    said = text(&answer);
                    if answer.status.success() {
                        break;
                    }
                    assert!(begun.elapsed() < PATIENCE, "{what}: {said}");
                    std::thread::sleep(Duration::from_millis(100));
                }
                match sync.until(wanted) {
                    Ok(_) => return,
                    Err(_) => *sync = Sync::over(LONG, &data, ""),
                }
            }
            panic!("{what}: it ends again and again: {said} {}", sync.log());
        };
        until(&mut sync, &all_live, &[]);
        let away = run(&data, &["sql", "ALTER TABLE shop.products RENAME away"]);
        // What the job then does may end the process before it has answered.
        let begun = Instant::now();
        while !away.status.success() && sync.child.try_wait().unwrap().is_none() {
            assert!(begun.elapsed() < PATIENCE, "{what}: {}", text(&away));
            std::thread::sleep(Duration::from_millis(20));
        }
        until(&mut sync, &|job| products(job) == "suspended", &[]);
        let back = run(&data, &["sql", "ALTER TABLE shop.away RENAME products"]);
        assert!(back.status.success(), "{what}: {}", text(&back));
        until(&mut sync, &|job| products(job) != "suspended", &["resync", "shop", "shop.products"]);
        until(&mut sync, &|job| all_live(job) && job["position"] == LONG_END, &[]);
        let verified = run(&data, &["verify", "shop"]);
        assert!(verified.status.success(), "{what}: {}", text(&verified));
    }
}

/// A directory with segments, a log, a manifest and a store, orderly ended.
fn directory() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut sync = Sync::start(&data, "");
    sync.until(at_the_end).unwrap();
    let rows: Vec<String> = (0..300).map(|i| format!("({i},{i})")).collect();
    // More than 50,000 rows in one statement become a segment at once.
    let make = format!(
        "CREATE DATABASE w; CREATE TABLE w.t (id INT NOT NULL, v INT) UNIQUE KEY (id); INSERT INTO w.t VALUES {}; \
         INSERT INTO w.t SELECT a.id * 300 + b.id + 1000, 1 FROM w.t a, w.t b",
        rows.join(",")
    );
    let made = run(&data, &["sql", &make]);
    assert!(made.status.success(), "{}", text(&made));
    sync.terminate();
    assert_eq!(ask(&data), ROWS);
    dir
}

/// The number of rows, or what is said instead. All columns are read, and keys are looked up all over the index.
fn ask(data: &Path) -> String {
    let keys: Vec<String> = (1000..91_000).step_by(100).map(|id| id.to_string()).collect();
    let sql = format!(
        "SELECT COUNT(*), SUM(id), SUM(v) FROM w.t WHERE v >= 0; SELECT COUNT(*) FROM w.t WHERE id IN ({})",
        keys.join(",")
    );
    let output = run(data, &["sql", &sql, "--json"]);
    let json: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    match json["result"]["results"][0]["rows"][0][0].as_str() {
        Some(count) if output.status.success() => count.to_string(),
        _ => text(&output),
    }
}

fn files(data: &Path) -> Vec<PathBuf> {
    let mut found = vec![data.join("jobs.redb"), data.join("warehouse/manifest")];
    let list = |dir: PathBuf| std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect::<Vec<_>>();
    found.extend(list(data.join("warehouse/segments")));
    let logs = list(data.join("warehouse")).into_iter().filter(|p| p.display().to_string().contains("/log-"));
    found.extend(logs);
    found
}

#[test]
fn damaged_files_are_named() {
    let dir = directory();
    let data = dir.path().join("data");
    let mut kinds = std::collections::BTreeSet::new();
    for file in files(&data) {
        let good = std::fs::read(&file).unwrap();
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        if good.len() < 100 {
            continue;
        }
        let half = good[..good.len() / 2].to_vec();
        let mut flipped = good.clone();
        // redb keeps two headers, of which the older may be damaged without harm: its magic number always matters.
        let at = if name == "jobs.redb" { 3 } else { good.len() / 2 };
        flipped[at] ^= 0x10;
        for (how, bytes) in [("flipped", flipped), ("cut", half)] {
            std::fs::write(&file, bytes).unwrap();
            let said = ask(&data);
            assert!(said.contains(&name), "{name} {how}: {said}");
            assert!(said.contains("hint") && !said.contains("panicked"), "{name} {how}: {said}");
            std::fs::write(&file, &good).unwrap();
        }
        kinds.insert(name.split(['-', '.']).next_back().unwrap_or_default().to_string());
    }
    assert!(["redb", "manifest", "parquet", "idx"].iter().all(|k| kinds.contains(*k)), "{kinds:?}");
    assert_eq!(ask(&data), ROWS);
}

/// CRC-32 (IEEE), so that a changed version passes the checksum.
fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc: u32, b| {
        (0..8).fold(crc ^ u32::from(*b), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 })
    })
}

#[test]
fn newer_files_are_refused() {
    let dir = directory();
    let data = dir.path().join("data");
    for file in files(&data) {
        let good = std::fs::read(&file).unwrap();
        let mut newer = good.clone();
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let sealed = match name.as_str() {
            "manifest" => newer.len() - 4,
            _ if name.starts_with("log-") => 28,
            _ if name.ends_with(".idx") => 12,
            _ => continue,
        };
        newer[8..12].copy_from_slice(&2_u32.to_le_bytes());
        let sum = crc(&newer[..sealed]).to_le_bytes();
        newer[sealed..sealed + 4].copy_from_slice(&sum);
        std::fs::write(&file, newer).unwrap();
        let said = ask(&data);
        assert!(said.contains("newer Freshet") && said.contains(&name) && said.contains("format 2"), "{name}: {said}");
        std::fs::write(&file, good).unwrap();
    }
    let store = redb::Database::open(data.join("jobs.redb")).unwrap();
    let change = store.begin_write().unwrap();
    change.open_table(redb::TableDefinition::<&str, &str>::new("meta")).unwrap().insert("format", "99").unwrap();
    change.commit().unwrap();
    drop(store);
    let said = text(&run(&data, &["serve", "--listen", "127.0.0.1:0"]));
    assert!(said.contains("format 99") && said.contains("jobs.redb") && said.contains("newer Freshet"), "{said}");
}

#[test]
fn a_port_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = run(dir.path(), &["serve", "--listen", &address]);
    let said = text(&output);
    assert!(output.status.code() == Some(3) && said.contains(&address) && said.contains("--listen"), "{said}");
}
