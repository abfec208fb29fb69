//! The README does what it says: every command of its shell, SQL and console blocks is run by a shell, in their order,
//! with the names of its example (`db.example.com`, `shop`, port 9030) replaced by those of the test. What a console
//! block shows is compared with what comes out: exactly where nothing depends on time or server, else by its words.
//! A block or command that this file does not know is a failure, so that nothing is written there untested.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use freshet_tests::freshet::{PATIENCE, binary, connect, free_port};
use freshet_tests::source::{Flavour, Source};
use mysql_async::prelude::Queryable;

/// The table whose plan the README shows.
const ORDERS: &str = "CREATE TABLE orders (id BIGINT PRIMARY KEY, customer INT, total DECIMAL(12,2), \
    status ENUM('new','paid','sent'), channel VARCHAR(10) CHARACTER SET latin1 NOT NULL DEFAULT 'web', \
    note TEXT CHARACTER SET latin1, doc JSON);\n\
    INSERT INTO orders (id, customer, total, status) VALUES (1, 1, 10.5, 'new'), (2, 1, 3, 'paid'), (3, 2, 4, 'paid');\n\
    CREATE TABLE audit (id INT PRIMARY KEY);\nINSERT INTO audit VALUES (1)";

/// A shell with the README's surroundings.
struct Shell {
    home: tempfile::TempDir,
    port: u16,
    host: String,
    database: String,
    sync: Option<Child>,
}

impl Drop for Shell {
    fn drop(&mut self) {
        if let Some(mut child) = self.sync.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Shell {
    /// The README's names as the test's.
    fn ours(&self, line: &str) -> String {
        let d = &self.database;
        line.replace("db.example.com:3306/shop", &format!("{}/{d}", self.host))
            .replace("db.example.com/shop", &format!("{}/{d}", self.host))
            .replace("FROM shop.", &format!("FROM {d}."))
            .replace("freshet verify shop", &format!("freshet verify {d}"))
            .replace("freshet resync shop", &format!("freshet resync {d}"))
            .replace("freshet pause shop", &format!("freshet pause {d}"))
            .replace("-P 9030", &format!("-P {}", self.port))
            .replace("/tmp/changes", &self.home.path().join("changes").display().to_string())
    }

    fn command(&self, line: &str) -> Command {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(line).env("HOME", self.home.path()).env("NO_COLOR", "1").stdin(Stdio::null());
        shell.env("PATH", format!("{}:{path}", binary().parent().unwrap().display()));
        shell.env("FRESHET_DATA", self.home.path().join("data"));
        shell
    }

    /// Runs a line to its end; what it printed, in the README's names.
    fn run(&self, line: &str) -> String {
        let out = self.command(&self.ours(line)).output().unwrap();
        let said = [out.stdout, out.stderr].concat();
        let said = String::from_utf8_lossy(&said).replace(&self.database, "shop");
        // `timeout` ends what runs for ever.
        let watched = line.starts_with("timeout ") && out.status.code() == Some(124);
        assert!(out.status.success() || watched, "{line}: {said}");
        said
    }

    /// Runs a line that goes on until the test ends.
    fn spawn(&mut self, line: &str) {
        let line = format!("exec {} --listen 127.0.0.1:{}", self.ours(line), self.port);
        let log = std::fs::File::create(self.home.path().join("log")).unwrap();
        let child = self.command(&line).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        self.sync = Some(child);
    }

    async fn live(&self) {
        let start = Instant::now();
        // The demo has left its job in the same directory.
        let job = &self.database;
        let sql =
            format!("SELECT COUNT(*) FROM information_schema.freshet_tables WHERE state = 'live' AND job = '{job}'");
        loop {
            let said = match connect(self.port).await {
                Ok(mut conn) => format!("{:?}", conn.query_first::<u64, _>(sql.as_str()).await),
                Err(e) => e.to_string(),
            };
            if said == "Ok(Some(2))" {
                return;
            }
            let log = || std::fs::read_to_string(self.home.path().join("log")).unwrap_or_default();
            assert!(start.elapsed() < PATIENCE / 3, "never live ({said}): {}", log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// The blocks with their languages.
fn blocks(text: &str) -> Vec<(&str, &str)> {
    text.split("```").skip(1).step_by(2).map(|b| b.split_once('\n').unwrap()).collect()
}

/// A line as words: numbers are `0`, rules and blanks are gone.
fn words(line: &str) -> String {
    let mut out = String::new();
    for c in line.chars().filter(|c| !"─- \t,.".contains(*c)) {
        let c = if c.is_ascii_digit() { '0' } else { c };
        if c != '0' || !out.ends_with('0') {
            out.push(c);
        }
    }
    out
}

/// The share of the README's lines that came out too, in percent.
fn alike(wanted: &str, got: &str) -> usize {
    let got: Vec<String> = got.lines().map(words).collect();
    let lines: Vec<String> = wanted.lines().map(words).filter(|l| !l.is_empty() && !l.contains("/tmp/")).collect();
    lines.iter().filter(|l| got.contains(l)).count() * 100 / lines.len().max(1)
}

pub(crate) async fn readme(source: Source) {
    let _turn = source.shared().await;
    let database = source.database("readme").await;
    source.run(&format!("USE {database};\n{ORDERS}")).await;
    let host = source.url.rsplit_once('@').unwrap().1.trim_end_matches('/').to_string();
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join(".freshet-password"), "a password\n").unwrap();
    let mut shell = Shell { home, port: free_port(), host, database, sync: None };
    let text =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("README.md")).unwrap();
    for (language, block) in blocks(&text) {
        match language {
            "text" => {}
            "sql" => accounts(&source, block).await,
            "sh" => {
                for line in block.lines().filter(|l| !l.trim().is_empty()) {
                    line_of_shell(&mut shell, line).await;
                }
            }
            "console" => {
                for part in block.split("$ freshet ").skip(1) {
                    let (command, wanted) = part.split_once('\n').unwrap_or((part, ""));
                    console(&shell, source.flavour, command, wanted);
                }
            }
            other => panic!("a block of {other} that nothing tests"),
        }
    }
    source.run("DROP USER freshet").await;
}

/// The account of the README; on MariaDB with what the comment adds.
async fn accounts(source: &Source, block: &str) {
    source.run("DROP USER IF EXISTS freshet").await;
    for line in block.lines() {
        let (statement, comment) = line.split_once("--").unwrap_or((line, ""));
        source.run(statement.trim()).await;
        if let Some(more) = comment.trim().strip_prefix("MariaDB: also ").filter(|_| source.flavour == Flavour::MariaDb)
        {
            source.run(&format!("GRANT {more} ON *.* TO freshet")).await;
        }
    }
}

async fn line_of_shell(shell: &mut Shell, line: &str) {
    let command = line.split(" #").next().unwrap_or(line).trim();
    match command {
        "cargo run --release -- demo" => {
            let said = shell.run("freshet demo --seconds 3 --listen 127.0.0.1:0");
            assert!(said.contains("equal: source and target hold the same rows"), "{said}");
        }
        // What runs this test.
        "cargo xtask test" => assert!(std::env::var_os("FRESHET_TEST_MARIADB").is_some()),
        _ if command.starts_with("freshet check mysql://") => {
            let said = shell.run(line);
            assert!(said.contains("log_bin") || said.contains("binary log"), "{said}");
        }
        _ if command.starts_with("freshet sync mysql://") => {
            shell.spawn(command);
            shell.live().await;
        }
        _ if command.starts_with("mariadb -h 127.0.0.1") => {
            let said = shell.run(line);
            assert!(said.contains("new\t1") && said.contains("paid\t2"), "{said}");
        }
        "freshet sql 'SHOW JOBS'" => assert!(shell.run(line).contains("streaming")),
        "freshet status --watch" => {
            let said = shell.run(&format!("timeout 3 {line}"));
            assert!(said.contains("shop.orders") && said.contains("live"), "{said}");
        }
        "freshet verify shop" => assert!(shell.run(line).contains("equal")),
        "freshet resync shop orders" => {
            assert!(shell.run(line).contains("copying orders of shop again"));
            shell.live().await;
        }
        "freshet pause shop" => assert!(shell.run(line).contains("paus")),
        other => panic!("the README says `{other}`, which nothing tests"),
    }
}

fn console(shell: &Shell, flavour: Flavour, command: &str, wanted: &str) {
    let line = format!("freshet {command}");
    if command.starts_with("sync 'generator://") {
        // Runs until it is ended.
        let end = "--listen 127.0.0.1:0 --data \"$HOME/files\"";
        shell.run(&format!("timeout --signal=INT 6 {line} {end}"));
        let orders = std::fs::read_to_string(shell.home.path().join("changes/shop.orders.jsonl")).unwrap();
        assert!(orders.lines().count() > 100 && orders.starts_with('{'), "{orders}");
    } else if command.starts_with("demo") {
        let said = shell.run(&format!("{line} --listen 127.0.0.1:0"));
        let share = alike(wanted, &said);
        assert!(share >= 75, "{share} % of the README's lines are in {said}");
        assert!(said.contains("equal: source and target hold the same rows"), "{said}");
    } else if command.starts_with("plan mysql://") {
        // MariaDB writes integer types with a width, and has no type JSON.
        let said = shell.run(&line);
        match flavour {
            Flavour::MySql => assert_eq!(said.trim(), wanted.trim(), "{line}"),
            Flavour::MariaDb => assert!(alike(wanted, &said) >= 70, "{said}"),
        }
    } else {
        assert!(command.contains("generator://"), "the README says `{line}`, which nothing tests");
        assert_eq!(shell.run(&line).trim(), wanted.trim(), "{line}");
    }
}
