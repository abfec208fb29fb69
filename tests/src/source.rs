//! The database servers of a test. `cargo xtask test` starts them and names them by variables; without those a test
//! says that it is skipped.

use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts, OptsBuilder};
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The kinds of source server that tests run against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// MariaDB 10.11.
    MariaDb,
    /// MySQL 9.7.
    MySql,
}

impl Flavour {
    /// Its server's name in `FRESHET_TEST_NAME`.
    fn variable(self) -> &'static str {
        match self {
            Flavour::MariaDb => "MARIADB",
            Flavour::MySql => "MYSQL",
        }
    }
}

static LOCKS: [RwLock<()>; 2] = [RwLock::const_new(()), RwLock::const_new(())];

/// One running server.
#[derive(Debug, Clone)]
pub struct Source {
    /// Which.
    pub flavour: Flavour,
    /// `mysql://root:password@127.0.0.1:port/`.
    pub url: String,
    ctl: PathBuf,
}

/// Holds off tests that need the server for themselves, or all others.
pub enum Turn {
    /// Others may use the server too.
    Shared(RwLockReadGuard<'static, ()>),
    /// Nobody else.
    Alone(RwLockWriteGuard<'static, ()>),
}

impl Source {
    /// The server, if this run has one.
    pub fn find(flavour: Flavour) -> Option<Source> {
        Source::named(flavour, flavour.variable())
    }

    /// The server that the variable `FRESHET_TEST_NAME` is about.
    pub fn named(flavour: Flavour, name: &str) -> Option<Source> {
        let url = std::env::var(format!("FRESHET_TEST_{name}")).ok()?;
        let ctl = std::env::var(format!("FRESHET_TEST_{name}_CTL")).unwrap_or_default();
        Some(Source { flavour, url, ctl: ctl.into() })
    }

    /// Process id of the server, while it runs.
    pub fn pid(&self) -> u32 {
        std::fs::read_to_string(self.ctl.with_file_name("pid")).unwrap().trim().parse().unwrap()
    }

    /// The server for a test, or a line that says that the test is skipped.
    pub fn find_or_skip(flavour: Flavour, test: &str) -> Option<Source> {
        Source::named_or_skip(flavour, flavour.variable(), test)
    }

    /// The server that the variable `FRESHET_TEST_NAME` is about, or a line that says that the test is skipped.
    pub fn named_or_skip(flavour: Flavour, name: &str, test: &str) -> Option<Source> {
        let found = Source::named(flavour, name);
        if found.is_none() {
            // Not `println!`, whose output the test harness keeps to itself.
            let _ = writeln!(std::io::stdout(), "SKIPPED {test}: no {name} (run `cargo xtask test`)");
        }
        found
    }

    /// Waits until the server may be used together with other tests.
    pub async fn shared(&self) -> Turn {
        Turn::Shared(LOCKS[self.flavour as usize].read().await)
    }

    /// Waits until no other test uses the server.
    pub async fn alone(&self) -> Turn {
        Turn::Alone(LOCKS[self.flavour as usize].write().await)
    }

    /// Ends the server at once, as a power failure would.
    pub fn kill(&self) {
        self.control(&["kill"]);
    }

    /// Whether it answers, as far as is known.
    pub fn is_up(&self) -> bool {
        self.ctl.with_file_name("up").exists()
    }

    /// Starts the killed server, with extra arguments until the next start.
    pub fn start(&self, extra: &[&str]) {
        self.control(&[&["start"], extra].concat());
    }

    fn control(&self, args: &[&str]) {
        let out = Command::new(&self.ctl).args(args).output().unwrap();
        assert!(out.status.success(), "{} {args:?}: {}", self.ctl.display(), String::from_utf8_lossy(&out.stderr));
    }

    /// A connection in UTC.
    pub async fn connect(&self) -> Conn {
        self.try_connect().await.unwrap()
    }

    /// A connection in UTC, if the server answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn try_connect(&self) -> mysql_async::Result<Conn> {
        let opts = OptsBuilder::from_opts(Opts::from_url(&self.url)?)
            .prefer_socket(false)
            .setup(vec!["SET time_zone = '+00:00', sql_mode = 'STRICT_ALL_TABLES,ALLOW_INVALID_DATES'".to_string()]);
        Conn::new(opts).await
    }

    /// Runs statements, each on a line of its own or ended by `;\n`.
    pub async fn run(&self, statements: &str) {
        let mut conn = self.connect().await;
        run(&mut conn, statements).await;
        conn.disconnect().await.unwrap();
    }

    /// Creates a database with a name that no other test has; it begins with `name`.
    pub async fn database(&self, name: &str) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let name = format!("{name}_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        self.run(&format!("CREATE DATABASE {}", crate::quote(&name))).await;
        name
    }

    /// The URL of another account, and without its path.
    pub fn url_as(&self, user: &str, password: &str) -> String {
        let (_, address) = self.url.rsplit_once('@').unwrap();
        format!("mysql://{user}:{password}@{address}")
    }

    /// The server's port of 127.0.0.1.
    pub fn port(&self) -> u16 {
        Opts::from_url(&self.url).unwrap().tcp_port()
    }

    /// The password of its root.
    pub fn password(&self) -> String {
        Opts::from_url(&self.url).unwrap().pass().unwrap_or_default().to_string()
    }

    /// The same URL with another port of 127.0.0.1.
    pub fn url_at(&self, port: u16) -> String {
        let (account, _) = self.url.rsplit_once('@').unwrap();
        format!("{account}@127.0.0.1:{port}/")
    }

    /// The files of its binary log.
    pub fn binary_logs(&self) -> Vec<PathBuf> {
        let files = std::fs::read_dir(self.ctl.with_file_name("data")).into_iter().flatten().flatten();
        files
            .map(|f| f.path())
            .filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("binlog.")))
            .collect()
    }

    /// Waits until the server answers again.
    pub async fn wait(&self) {
        for _ in 0..600 {
            if let Ok(conn) = self.try_connect().await {
                let _ = conn.disconnect().await;
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{:?} does not answer", self.flavour);
    }
}

/// Runs statements that are separated by `;` at the end of a line.
pub async fn run(conn: &mut Conn, statements: &str) {
    for statement in statements.split(";\n").map(|s| s.trim().trim_end_matches(';')).filter(|s| !s.is_empty()) {
        conn.query_drop(statement).await.unwrap_or_else(|e| panic!("{e}\nin: {statement}"));
    }
}
