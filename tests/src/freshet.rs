//! The real binary as a process: with a data directory of its own on a free port, to be started, killed and asked.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder};
use serde_json::Value;
use tempfile::TempDir;

use crate::quote;
use crate::source::Source;

/// How long anything may take until a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// What a finished command said.
#[derive(Debug)]
pub struct Output {
    /// Exit code; -1 if a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Error output.
    pub stderr: String,
}

impl Output {
    fn new(of: &std::process::Output) -> Output {
        Output {
            code: of.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&of.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&of.stderr).into_owned(),
        }
    }

    /// The standard output as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("not JSON ({e}): {self:?}"))
    }
}

/// The binary: `FRESHET_BIN`, or the one that cargo built last.
pub fn binary() -> PathBuf {
    std::env::var_os("FRESHET_BIN")
        .map(PathBuf::from)
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("target/debug/freshet"))
}

/// Runs a command to its end.
pub fn freshet(args: &[&str]) -> Output {
    let out = Command::new(binary())
        .args(args)
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("cannot run {}: {e}", binary().display()));
    Output::new(&out)
}

/// A port of 127.0.0.1 that is free now.
pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// `freshet sync` as a process. Killed when dropped; a failing test then shows the end of its output.
pub struct Sync {
    /// Of its data and its output, unless they are kept elsewhere.
    _dir: TempDir,
    data: PathBuf,
    output: PathBuf,
    /// Port of the warehouse.
    pub port: u16,
    args: Vec<String>,
    child: Option<Child>,
}

impl Sync {
    /// A job over these tables, not started yet. `extra`: more arguments of `freshet sync`.
    pub fn new(source_url: &str, tables: &str, extra: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("freshet-test-").tempdir().unwrap();
        let port = free_port();
        let data = dir.path().join("data");
        let output = dir.path().join("log");
        let listen = format!("127.0.0.1:{port}");
        let args = ["sync", source_url, "--tables", tables, "--name", "job", "--listen", &listen];
        let args = args.iter().chain(extra).map(ToString::to_string).collect();
        Sync { _dir: dir, data, output, port, args, child: None }
    }

    /// A running job over all tables of a database.
    pub fn start(source: &Source, database: &str) -> Self {
        let mut sync = Sync::new(&source.url, &format!("{}.*", escape(database)), &[]);
        sync.spawn();
        sync
    }

    /// The same job with its data directory elsewhere.
    pub fn in_directory(mut self, data: PathBuf) -> Self {
        self.data = data;
        self
    }

    /// The same job with data and output in this folder, which stays.
    pub fn kept_in(mut self, folder: &Path) -> Self {
        self.data = folder.join("data");
        self.output = folder.join("freshet.log");
        self
    }

    /// The data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Starts the process.
    pub fn spawn(&mut self) {
        self.spawn_with_failpoints("");
    }

    /// Starts the process with these failpoints armed (`docs/reliability.md`).
    pub fn spawn_with_failpoints(&mut self, failpoints: &str) {
        let log = std::fs::File::options().create(true).append(true).open(&self.output).unwrap();
        let child = Command::new(binary())
            .args(&self.args)
            .arg("--data")
            .arg(&self.data)
            .env("NO_COLOR", "1")
            .env("FRESHET_FAILPOINTS", failpoints)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|e| panic!("cannot run {}: {e}", binary().display()));
        self.child = Some(child);
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM; the exit code.
    pub fn terminate(&mut self) -> Option<i32> {
        let mut child = self.child.take().expect("it runs");
        let killed = Command::new("kill").arg(child.id().to_string()).status().unwrap();
        assert!(killed.success());
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(30) {
            if let Some(status) = child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        panic!("SIGTERM did not end it within 30 s:\n{}", self.log());
    }

    /// SIGTERM without giving up: the exit code (-1 if a signal ended it), or `None` and `kill -9` when that took too long.
    pub async fn try_terminate(&mut self, patience: Duration) -> Option<i32> {
        let mut child = self.child.take().expect("it runs");
        let _ = Command::new("kill").arg(child.id().to_string()).status().unwrap();
        let start = Instant::now();
        while start.elapsed() < patience {
            if let Some(status) = child.try_wait().unwrap() {
                return Some(status.code().unwrap_or(-1));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        None
    }

    /// Whether it was started, and not ended by us since.
    pub fn has_started(&self) -> bool {
        self.child.is_some()
    }

    /// Process id, while it runs.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Whether the process is still there.
    pub fn runs(&mut self) -> bool {
        self.child.as_mut().is_some_and(|c| c.try_wait().unwrap().is_none())
    }

    /// Waits until the process has ended by itself; `what` has to end it.
    pub async fn ended(&mut self, patience: Duration, what: &str) {
        let start = Instant::now();
        while self.runs() {
            assert!(start.elapsed() < patience, "{what} does not end it:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Everything it printed.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.output).unwrap_or_default()
    }

    /// A command on the same data directory.
    pub fn command(&self, command: &[&str]) -> Output {
        let data = self.data.display().to_string();
        freshet(&[command, &["--data", &data]].concat())
    }

    /// The way to ask this job while others kill and start it.
    pub fn request(&self) -> Request {
        Request { data: self.data.clone() }
    }

    /// A connection to the warehouse, as soon as it answers.
    pub async fn connect(&mut self) -> Conn {
        let start = Instant::now();
        loop {
            match connect(self.port).await {
                Ok(conn) => return conn,
                Err(e) if start.elapsed() > PATIENCE => panic!("the warehouse does not answer: {e}\n{}", self.log()),
                Err(_) => assert!(self.runs(), "it ended:\n{}", self.log()),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Whether every table is known and copied.
    pub async fn is_copied(&mut self) -> bool {
        let sql = "SELECT COUNT(*) > 0 AND COUNT(*) = COUNT(CASE WHEN state = 'live' THEN 1 END) \
                   FROM information_schema.freshet_tables";
        self.connect().await.query_first::<bool, _>(sql).await.unwrap().unwrap()
    }

    /// Copies tables of the job again (all, without `tables`: a pattern), and waits until the new copies are in place.
    pub async fn resync(&self, tables: Option<&str>) {
        let command: Vec<&str> = ["resync", "job"].into_iter().chain(tables).collect();
        let answer = tokio::task::block_in_place(|| self.command(&command));
        assert_eq!(answer.code, 0, "{answer:?}");
        self.all_live(PATIENCE * 5).await;
    }

    /// Waits until the job has tables, all are live, and none is copied again. Asks seldom enough not to be in the way
    /// where there are many tables.
    pub async fn all_live(&self, patience: Duration) {
        let start = Instant::now();
        loop {
            let asked = Instant::now();
            let status = tokio::task::block_in_place(|| self.command(&["status", "job", "--json"])).json();
            let pause = (asked.elapsed() * 10).max(Duration::from_millis(50));
            let tables = status["result"]["jobs"][0]["tables"].as_array().cloned().unwrap_or_default();
            let live = tables.iter().filter(|t| t["resync"].is_null() && t["state"] == "live").count();
            if live > 0 && live == tables.len() {
                return;
            }
            assert!(start.elapsed() < patience, "{live} of {} tables are live after {patience:?}", tables.len());
            tokio::time::sleep(pause).await;
        }
    }

    /// Waits until every table is copied and the warehouse holds everything that the source had when this was called:
    /// writes a mark there, and waits for it.
    pub async fn caught_up(&mut self, source: &Source, database: &str) {
        let number: u64 = fastrand::u64(1..1 << 50);
        let table = format!("{}.zz_mark", quote(database));
        source.run(&format!("REPLACE INTO {table} VALUES (1, {number})")).await;
        let query = format!(
            "SELECT n FROM {table} WHERE id = 1 AND 0 = (SELECT COUNT(*) FROM information_schema.freshet_tables \
             WHERE state IN ('pending', 'copying', 'catching_up'))"
        );
        let start = Instant::now();
        let mut conn = self.connect().await;
        loop {
            match conn.query_first::<u64, _>(query.as_str()).await {
                Ok(Some(n)) if n == number => return,
                Ok(_) | Err(mysql_async::Error::Server(_)) => {} // the table may not be there yet
                Err(_) => conn = self.connect().await,
            }
            assert!(self.runs(), "it ended:\n{}", self.log());
            if start.elapsed() > PATIENCE {
                panic!("not caught up after {PATIENCE:?}: {:?}\n{}", self.command(&["status"]), self.log());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Sync {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            println!("--- end of freshet's output\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
        }
    }
}

/// Commands on a data directory.
#[derive(Debug, Clone)]
pub struct Request {
    data: PathBuf,
}

impl Request {
    /// Runs one to its end; it ends too when this is dropped.
    pub async fn run(&self, command: &[&str]) -> Output {
        let output = tokio::process::Command::new(binary())
            .args(command)
            .arg("--data")
            .arg(&self.data)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await;
        let output = output.unwrap_or_else(|e| panic!("cannot run {}: {e}", binary().display()));
        Output::new(&output)
    }
}

/// A connection to a warehouse on this port.
///
/// # Errors
/// When nothing answers there.
pub async fn connect(port: u16) -> mysql_async::Result<Conn> {
    let opts = OptsBuilder::default().ip_or_hostname("127.0.0.1").tcp_port(port).user(Some("root"));
    Conn::new(opts.prefer_socket(false)).await
}

/// Creates the table by which [`Sync::caught_up`] sees how far the target is.
pub async fn prepare_mark(source: &Source, database: &str) {
    let table = format!("{}.zz_mark", quote(database));
    source.run(&format!("CREATE TABLE {table} (id INT PRIMARY KEY, n BIGINT NOT NULL)")).await;
}

/// A name as a literal in a table pattern.
pub fn escape(name: &str) -> String {
    name.chars().flat_map(|c| (!c.is_alphanumeric() && c != '_').then_some('\\').into_iter().chain([c])).collect()
}
