//! Servers that are reset, purged, killed, restarted with other settings, replaced by their replica: each of these tests
//! has the second server of its flavour (`FRESHET_TEST_MARIADB2`, `FRESHET_TEST_MYSQL2`) for itself.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // test code, though not marked as such

mod support;

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use freshet_connect::mysql::wire::Connection;
use freshet_connect::mysql::{Address, MySql};
use freshet_core::{
    ChangeStream, ChangesRequest, Check, Commit, ErrorKind, Event, Position, Source, Spool, Spooling, Verdict,
};
use support::{Bench, Job, connect, prepare, run, server};
use tokio::sync::{Mutex, MutexGuard, watch};

static TURN: Mutex<()> = Mutex::const_new(());

/// A second server, for one test at a time.
struct Second {
    url: String,
    ctl: PathBuf,
    mysql: bool,
    _turn: MutexGuard<'static, ()>,
}

impl Second {
    /// A server that has just been started without a log of before.
    async fn of(name: &str, test: &str) -> Option<Second> {
        let url = server(name, test)?;
        let ctl = std::env::var(format!("FRESHET_TEST_{name}_CTL")).unwrap().into();
        let mut second = Second { url, ctl, mysql: name.starts_with("MYSQL"), _turn: TURN.lock().await };
        second.restart(&[]).await;
        let mut c = second.connect().await;
        let stop = if second.mysql { "STOP REPLICA" } else { "STOP SLAVE" };
        let forget = if second.mysql { "RESET REPLICA ALL" } else { "RESET SLAVE ALL" };
        run(&mut c, &[stop, forget]).await;
        // What a failed run has left prepared holds locks.
        for row in c.query("XA RECOVER").await.unwrap() {
            run(&mut c, &[&format!("XA ROLLBACK '{}'", row.get_str(3).unwrap())]).await;
        }
        second.reset().await;
        Some(second)
    }

    async fn both(test: &str) -> Vec<&'static str> {
        ["MARIADB2", "MYSQL2"].into_iter().filter(|name| server(name, test).is_some()).collect()
    }

    async fn connect(&self) -> Connection {
        connect(&self.url).await
    }

    fn control(&self, args: &[&str]) {
        let out = Command::new(&self.ctl).args(args).output().unwrap();
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    }

    fn kill(&self) {
        self.control(&["kill"]);
    }

    fn start(&self, extra: &[&str]) {
        self.control(&[&["start"], extra].concat());
    }

    async fn restart(&mut self, extra: &[&str]) {
        self.kill();
        self.start(extra);
    }

    async fn reset(&self) {
        let sql = if self.mysql { "RESET BINARY LOGS AND GTIDS" } else { "RESET MASTER" };
        run(&mut self.connect().await, &[sql]).await;
    }

    /// Purges all of the log but its last file. A server spares files that it is sending, and MariaDB those that its
    /// engine may need after a crash.
    async fn purge(&self, c: &mut Connection) {
        for _ in 0..100 {
            for row in c.query("SHOW PROCESSLIST").await.unwrap() {
                if row.named("Command").is_some_and(|c| c.starts_with("Binlog Dump")) {
                    let _ = c.execute(&format!("KILL {}", row.get_str(0).unwrap())).await;
                }
            }
            let logs = c.query("SHOW BINARY LOGS").await.unwrap();
            if logs.len() == 1 {
                return;
            }
            let last = logs.last().unwrap().get_str(0).unwrap().to_string();
            run(c, &[&format!("PURGE BINARY LOGS TO '{last}'")]).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("the log is not purged");
    }

    /// A file of the server's log.
    fn log_file(&self, name: &str) -> PathBuf {
        self.ctl.with_file_name("data").join(name)
    }
}

/// The error of catching up.
async fn refused(job: &Job, b: &Bench) -> freshet_core::Error {
    let mut job = job.clone();
    match job.try_catch_up(&b.source, b.pattern()).await {
        Ok(()) => panic!("{} was read on", job.at),
        Err(e) => e,
    }
}

fn says(error: &freshet_core::Error, kind: ErrorKind, parts: &[&str]) {
    let text = error.to_string();
    assert_eq!(error.kind, kind, "{text}");
    for part in parts {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
}

#[tokio::test]
async fn logs_that_are_gone() {
    for name in Second::both("logs_that_are_gone").await {
        let second = Second::of(name, "logs_that_are_gone").await.unwrap();
        let mut b = Bench::new(&second.url, "gone").await;
        b.run(&["CREATE TABLE t (id INT PRIMARY KEY, v INT)", "INSERT INTO t VALUES (1,1)"]).await;
        let mut job = b.begin().await;
        b.run(&["INSERT INTO t VALUES (2,2)"]).await;
        prepare(&b, "'gone'", &["INSERT INTO t VALUES (3,3)"]).await;
        let early = job.clone();
        job.catch_up(&b).await;
        b.run(&["FLUSH BINARY LOGS", "INSERT INTO t VALUES (4,4)", "FLUSH BINARY LOGS"]).await;
        job.catch_up(&b).await;
        second.purge(&mut b.c).await;
        says(
            &refused(&early, &b).await,
            ErrorKind::SourceState,
            &["purged", "freshet resync", "binlog_expire_logs_seconds"],
        );

        // A prepared transaction whose rows were purged.
        b.run(&["XA COMMIT 'gone'"]).await;
        job.catch_up(&b).await;
        says(&job.suspended["t"], ErrorKind::SourceState, &["XA", "no longer in the server's log", "freshet resync"]);

        let job = b.begin().await;
        second.reset().await;
        b.run(&["INSERT INTO t VALUES (10,1)"]).await;
        says(&refused(&job, &b).await, ErrorKind::SourceState, &["reset", "freshet resync"]);
    }
}

#[tokio::test]
async fn the_end_of_the_log_is_lost_in_a_crash() {
    for name in Second::both("the_end_of_the_log_is_lost_in_a_crash").await {
        let second = Second::of(name, "the_end_of_the_log_is_lost_in_a_crash").await.unwrap();
        let mut b = Bench::new(&second.url, "tail").await;
        b.run(&["CREATE TABLE t (id INT PRIMARY KEY, v INT)"]).await;
        let mut job = b.begin().await;
        let place = |job: &Job| {
            let (file, rest) = job.at.commit.split_once(':').unwrap();
            (file.to_string(), rest.split(' ').next().unwrap().parse::<u64>().unwrap())
        };
        let (_, kept) = place(&job);
        b.run(&["INSERT INTO t VALUES (1,1)"]).await;
        job.catch_up(&b).await;
        let (file, _) = place(&job);
        second.kill();
        // The job notices that the server is away, and that this may pass.
        assert_eq!(refused(&job, &b).await.kind, ErrorKind::SourceUnavailable);
        std::fs::File::options().write(true).open(second.log_file(&file)).unwrap().set_len(kept).unwrap();
        second.start(&[]);
        b.c = b.session().await;
        // As many transactions as were lost, and more: numbers alone do not show it.
        b.run(&["INSERT INTO t VALUES (5,1)", "INSERT INTO t VALUES (6,1)", "INSERT INTO t VALUES (7,1)"]).await;
        says(&refused(&job, &b).await, ErrorKind::SourceState, &["lost the end of its log", "sync_binlog"]);
    }
}

#[tokio::test]
async fn a_replica_takes_over() {
    for name in Second::both("a_replica_takes_over").await {
        let test = "a_replica_takes_over";
        let Some(primary) = server(name.trim_end_matches('2'), test) else { continue };
        let second = Second::of(name, test).await.unwrap();
        let mut b = Bench::new(&primary, "failover").await;
        b.run(&["CREATE TABLE t (id INT PRIMARY KEY, v INT)", "INSERT INTO t VALUES (1,1)"]).await;
        let mut job = b.begin().await;
        b.run(&["INSERT INTO t VALUES (2,2)"]).await;

        // The replica begins where the job does, with the table as it is there.
        let mut c = second.connect().await;
        let gtids = job.at.commit.split(" gtid=").nth(1).unwrap().split(' ').next().unwrap().to_string();
        let o = Address::parse(&primary).unwrap().connect;
        run(
            &mut c,
            &[
                "SET sql_log_bin = 0",
                "DROP DATABASE IF EXISTS failover",
                "CREATE DATABASE failover",
                "CREATE TABLE failover.t (id INT PRIMARY KEY, v INT)",
                "INSERT INTO failover.t VALUES (1,1)",
                "SET sql_log_bin = 1",
            ],
        )
        .await;
        let (start, stop) = match second.mysql {
            true => {
                run(&mut c, &[
                    &format!("SET GLOBAL gtid_purged = '{gtids}'"),
                    &format!("CHANGE REPLICATION SOURCE TO SOURCE_HOST='127.0.0.1', SOURCE_PORT={}, SOURCE_USER='root', SOURCE_PASSWORD='{}', SOURCE_AUTO_POSITION=1, GET_SOURCE_PUBLIC_KEY=1", o.port, o.password.reveal()),
                    "CHANGE REPLICATION FILTER REPLICATE_DO_DB = (failover)",
                ]).await;
                ("START REPLICA", "STOP REPLICA SQL_THREAD")
            }
            false => {
                run(&mut c, &[
                    "SET GLOBAL gtid_strict_mode = 0",
                    &format!("SET GLOBAL gtid_slave_pos = '{gtids}'"),
                    "SET GLOBAL replicate_do_db = 'failover'",
                    &format!("CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={}, MASTER_USER='root', MASTER_PASSWORD='{}', MASTER_USE_GTID=slave_pos", o.port, o.password.reveal()),
                ]).await;
                ("START SLAVE", "STOP SLAVE SQL_THREAD")
            }
        };
        run(&mut c, &[start]).await;
        let arrived = async |c: &mut Connection, id: u32| {
            for _ in 0..200 {
                let rows = c.query(&format!("SELECT 1 FROM failover.t WHERE id = {id}")).await.unwrap();
                if !rows.is_empty() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            let status = c.query("SHOW SLAVE STATUS").await.or(c.query("SHOW REPLICA STATUS").await).unwrap();
            panic!("row {id} does not arrive: {status:?}");
        };
        arrived(&mut c, 2).await;
        job.catch_up(&b).await;

        // Behind: it may catch up.
        run(&mut c, &[stop]).await;
        b.run(&["INSERT INTO t VALUES (3,3)"]).await;
        job.catch_up(&b).await;
        let replica = Bench::at(&second.url, "failover").await;
        says(&refused(&job, &replica).await, ErrorKind::SourceUnavailable, &["lags"]);
        run(&mut c, &[start]).await;
        arrived(&mut c, 3).await;

        // Promoted.
        b.run(&["INSERT INTO t VALUES (4,4)"]).await;
        arrived(&mut c, 4).await;
        run(
            &mut c,
            &[if second.mysql { "STOP REPLICA" } else { "STOP SLAVE" }, "INSERT INTO failover.t VALUES (100,1)"],
        )
        .await;
        job.catch_up(&replica).await;
        replica.must_equal(&job, "after the failover").await;
        assert_eq!(job.rows["t"].len(), 5);
        // Back: the old primary has not what the new one wrote.
        b.run(&["INSERT INTO t VALUES (200,1)"]).await;
        says(&refused(&job, &b).await, ErrorKind::SourceState, &["each read", "freshet resync"]);
        // A copy stays with its server.
        let low = b.source.begin(&b.pattern()).await.unwrap();
        let schema = Arc::new(low.tables[0].schema.clone().unwrap());
        let splits = replica.source.splits(&schema, 10).await.unwrap();
        let error = replica.source.read(&schema, &splits[0], &low.low).await.err().unwrap();
        says(&error, ErrorKind::SourceState, &["another server answers"]);
    }
}

#[tokio::test]
async fn mysql_without_transaction_ids() {
    let test = "mysql_without_transaction_ids";
    let Some(mut second) = Second::of("MYSQL2", test).await else { return };
    let off = ["--gtid-mode=OFF", "--enforce-gtid-consistency=OFF"];
    second.restart(&off).await;
    let mut b = Bench::new(&second.url, "plain").await;
    b.run(&[
        "CREATE TABLE t (id INT PRIMARY KEY, v INT)",
        "CREATE TABLE m (id INT PRIMARY KEY, v INT) ENGINE=MyISAM",
        "INSERT INTO t VALUES (1,1),(2,2)",
    ])
    .await;
    let mut job = b.begin().await;
    assert!(!job.at.commit.contains("gtid="), "{}", job.at);
    b.must_equal(&job, "copied").await;
    b.run(&["INSERT INTO t VALUES (3,3)", "FLUSH BINARY LOGS", "UPDATE t SET v = 7 WHERE id = 1"]).await;
    job.catch_up(&b).await;
    b.must_equal(&job, "rotated").await;
    for statements in [
        &[
            "BEGIN",
            "INSERT INTO t VALUES (10,1)",
            "SAVEPOINT a",
            "INSERT INTO t VALUES (11,1)",
            "INSERT INTO m VALUES (11,1)",
            "ROLLBACK TO a",
            "COMMIT",
        ][..],
        &["BEGIN", "INSERT INTO t VALUES (12,1)", "INSERT INTO m VALUES (12,1)", "ROLLBACK"],
        &[
            "BEGIN",
            "INSERT INTO t VALUES (13,1)",
            "CREATE TEMPORARY TABLE tt (a INT)",
            "DROP TEMPORARY TABLE tt",
            "ROLLBACK",
        ],
        &[
            "INSERT INTO t VALUES (20,1)",
            "INSERT INTO m VALUES (20,1)",
            "UPDATE t, m SET t.v = 9, m.v = 9 WHERE t.id = m.id",
        ],
        &["XA START 'p'", "INSERT INTO t VALUES (30,1)", "XA END 'p'", "XA PREPARE 'p'"],
    ] {
        b.run(statements).await;
        job.catch_up(&b).await;
    }
    assert!(job.at.commit.contains(" xa="), "{}", job.at);
    // Restarted in between, killed.
    second.restart(&off).await;
    b.c = b.session().await;
    b.run(&["INSERT INTO t VALUES (31,1)", "XA COMMIT 'p'"]).await;
    job.catch_up(&b).await;
    b.must_equal(&job, "restarted").await;
    assert!(job.suspended.is_empty(), "{:?}", job.suspended);

    // Another server, whose files have the same names.
    if let Some(other) = server("MYSQL", test) {
        let mut b = Bench::new(&other, "plain").await;
        b.run(&["CREATE TABLE t (id INT PRIMARY KEY, v INT)"]).await;
        says(
            &refused(&job, &b).await,
            ErrorKind::SourceState,
            &["another server answers", "freshet resume", "freshet resync"],
        );
    }
    // Ids are switched on while the job runs.
    second.restart(&["--gtid-mode=ON_PERMISSIVE", "--enforce-gtid-consistency=ON"]).await;
    b.c = b.session().await;
    b.run(&["INSERT INTO t VALUES (40,1)", "SET GLOBAL gtid_mode = ON", "INSERT INTO t VALUES (41,1)"]).await;
    job.catch_up(&b).await;
    b.run(&["FLUSH BINARY LOGS", "INSERT INTO t VALUES (42,1)"]).await;
    job.catch_up(&b).await;
    assert!(job.at.commit.contains("gtid="), "{}", job.at);
    b.run(&["INSERT INTO t VALUES (43,1)"]).await;
    job.catch_up(&b).await;
    b.must_equal(&job, "with transaction ids").await;
    second.restart(&[]).await;
}

#[tokio::test]
async fn logs_without_checksums() {
    for name in Second::both("logs_without_checksums").await {
        let second = Second::of(name, "logs_without_checksums").await.unwrap();
        let mut b = Bench::new(&second.url, "sums").await;
        b.run(&["CREATE TABLE t (id INT PRIMARY KEY, v INT)"]).await;
        let mut job = b.begin().await;
        let before = job.clone();
        b.run(&["INSERT INTO t VALUES (1,1)", "SET GLOBAL binlog_checksum = NONE", "INSERT INTO t VALUES (2,2)"]).await;
        prepare(&b, "'s'", &["INSERT INTO t VALUES (3,3)"]).await;
        job.catch_up(&b).await;
        b.run(&["SET GLOBAL binlog_checksum = CRC32", "XA COMMIT 's'", "INSERT INTO t VALUES (4,4)"]).await;
        for mut job in [job, before] {
            job.catch_up(&b).await;
            b.must_equal(&job, "checksums off and on").await;
            assert!(job.suspended.is_empty(), "{:?}", job.suspended);
        }
    }
}

#[tokio::test]
async fn tls_is_verified_as_asked() {
    for name in Second::both("tls_is_verified_as_asked").await {
        let mut second = Second::of(name, "tls_is_verified_as_asked").await.unwrap();
        // MariaDB's certificate of the tests: for localhost and 127.0.0.1, signed by itself.
        let Some(mariadb) = server("MARIADB2", "tls_is_verified_as_asked") else { continue };
        let mut c = connect(&mariadb).await;
        let pair = c.query("SELECT @@ssl_cert, @@ssl_key").await.unwrap();
        let (cert, key) = (pair[0].get_str(0).unwrap().to_string(), pair[0].get_str(1).unwrap().to_string());
        drop(c);
        let files = [
            format!("--ssl-cert={cert}"),
            format!("--ssl-key={key}"),
            format!("--ssl-ca={cert}"),
            "--bind-address=*".into(),
        ];
        let args: Vec<&str> = files.iter().map(String::as_str).collect();
        second.restart(&args).await;
        let elsewhere = second.url.replace("127.0.0.1", "127.0.0.2");
        let dir = tempfile::tempdir().unwrap();
        let (wrong, none) = (dir.path().join("wrong.pem"), dir.path().join("none.pem"));
        std::fs::write(&wrong, OTHER_AUTHORITY).unwrap();
        std::fs::write(&none, "no certificate").unwrap();
        let (wrong, none) = (wrong.display(), none.display());
        let reach = async |url: &str, options: &str| {
            let o = Address::parse(&format!("{url}/?{options}")).unwrap().connect;
            match Connection::connect(&o).await {
                Ok(c) => Ok(c.is_encrypted()),
                Err(e) => Err(e),
            }
        };
        for (url, options, encrypted) in [
            (&second.url, "tls=disabled".to_string(), false),
            (&second.url, "tls=required".into(), true),
            (&second.url, format!("ssl-mode=VERIFY_CA&ssl-ca={cert}"), true),
            (&second.url, format!("tls=verify-identity&tls_ca={cert}"), true),
            (&elsewhere, format!("tls=verify-ca&tls_ca={cert}"), true),
        ] {
            assert_eq!(reach(url, &options).await, Ok(encrypted), "{options}");
        }
        for (url, options, kind, part) in [
            (&elsewhere, format!("tls=verify-identity&tls_ca={cert}"), ErrorKind::Permission, "not valid for name"),
            (&second.url, format!("tls=verify-ca&tls_ca={wrong}"), ErrorKind::Permission, "UnknownIssuer"),
            (&second.url, "tls=verify-ca".into(), ErrorKind::Permission, "tls_ca=FILE"),
            (&second.url, format!("tls=verify-ca&tls_ca={none}"), ErrorKind::Config, "no certificate"),
            (&second.url, "tls=verify-ca&tls_ca=/nowhere.pem".into(), ErrorKind::Config, "/nowhere.pem"),
        ] {
            says(&reach(url, &options).await.unwrap_err(), kind, &[part]);
        }
        second.restart(&[if second.mysql { "--tls-version=" } else { "--skip-ssl" }]).await;
        assert_eq!(reach(&second.url, "tls=preferred").await, Ok(false));
        says(&reach(&second.url, "tls=required").await.unwrap_err(), ErrorKind::Permission, &["does not offer TLS"]);
        // Without TLS a password that the server has not cached goes encrypted by the server's key.
        if second.mysql {
            run(
                &mut second.connect().await,
                &[
                    "DROP USER IF EXISTS fresh@'%'",
                    "CREATE USER fresh@'%' IDENTIFIED WITH caching_sha2_password BY 'pässword'",
                ],
            )
            .await;
            let address = Address::parse(&second.url).unwrap().connect;
            let fresh = |password: &str| format!("mysql://fresh:{password}@127.0.0.1:{}", address.port);
            for _ in 0..2 {
                assert_eq!(reach(&fresh("p%C3%A4ssword"), "tls=disabled").await, Ok(false));
            }
            says(&reach(&fresh("wrong"), "tls=disabled").await.unwrap_err(), ErrorKind::Permission, &["password"]);
        }
        second.restart(&[]).await;
    }
}

/// A certificate that has signed nothing.
const OTHER_AUTHORITY: &str = include_str!("support/other-authority.pem");

#[tokio::test]
async fn credentials_change_and_functions_write() {
    for name in Second::both("credentials_change_and_functions_write").await {
        let second = Second::of(name, "credentials_change_and_functions_write").await.unwrap();
        let mut b = Bench::new(&second.url, "creds").await;
        b.run(&[
            "CREATE TABLE t (id INT PRIMARY KEY, v INT)",
            "DROP USER IF EXISTS freshet@'%'",
            "CREATE USER freshet@'%' IDENTIFIED BY 'one'",
            "GRANT SELECT, REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO freshet@'%'",
        ])
        .await;
        let port = Address::parse(&second.url).unwrap().connect.port;
        let source = |password: &str| MySql::new(&format!("mysql://freshet:{password}@127.0.0.1:{port}/")).unwrap();
        let mut job = b.begin().await;
        b.run(&["INSERT INTO t VALUES (1,1)"]).await;
        job.try_catch_up(&source("one"), b.pattern()).await.unwrap();
        b.must_equal(&job, "as a user with few rights").await;
        b.run(&["ALTER USER freshet@'%' IDENTIFIED BY 'two'", "INSERT INTO t VALUES (2,1)"]).await;
        let error = job.clone().try_catch_up(&source("one"), b.pattern()).await.unwrap_err();
        says(&error, ErrorKind::Permission, &["check user and password"]);
        b.run(&["REVOKE REPLICATION SLAVE ON *.* FROM freshet@'%'"]).await;
        let error = job.clone().try_catch_up(&source("two"), b.pattern()).await.unwrap_err();
        says(&error, ErrorKind::Permission, &["freshet check"]);
        b.run(&["GRANT REPLICATION SLAVE ON *.* TO freshet@'%'"]).await;
        job.try_catch_up(&source("two"), b.pattern()).await.unwrap();
        b.must_equal(&job, "with its rights again").await;

        // A function that is called in statement format: nobody knows what it changed.
        b.run(&[
            "SET GLOBAL log_bin_trust_function_creators = 1",
            "CREATE FUNCTION f() RETURNS INT MODIFIES SQL DATA BEGIN UPDATE t SET v = 1; RETURN 1; END",
            "SET SESSION binlog_format = STATEMENT",
            "SELECT f()",
        ])
        .await;
        job.catch_up(&b).await;
        assert!(job.tables.is_empty(), "{:?}", job.tables);
        says(&job.suspended["t"], ErrorKind::Unsupported, &["`f`()", "as a statement"]);
    }
}

/// A copy must see everything before its low position, while commits wait for others between log and engine.
#[tokio::test]
async fn copies_amid_group_commits() {
    for name in Second::both("copies_amid_group_commits").await {
        let second = Second::of(name, "copies_amid_group_commits").await.unwrap();
        let mut b = Bench::new(&second.url, "groups").await;
        b.run(&["CREATE TABLE t (id INT AUTO_INCREMENT PRIMARY KEY, v INT)", "SET GLOBAL sync_binlog = 1"]).await;
        match second.mysql {
            true => b.run(&["SET GLOBAL binlog_group_commit_sync_delay = 3000"]).await,
            false => b.run(&["SET GLOBAL binlog_commit_wait_count = 6, GLOBAL binlog_commit_wait_usec = 3000"]).await,
        }
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let mut writers = Vec::new();
        for n in 0..8 {
            let (stop, mut c) = (Arc::clone(&stop), b.session().await);
            writers.push(tokio::spawn(async move {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    run(
                        &mut c,
                        &[
                            &format!("INSERT INTO t (v) VALUES ({n}), ({n})"),
                            "UPDATE t SET v = v + 10 WHERE id = LAST_INSERT_ID()",
                        ],
                    )
                    .await;
                }
            }));
        }
        let mut jobs = Vec::new();
        for _ in 0..25 {
            jobs.push(b.begin().await);
            tokio::time::sleep(Duration::from_millis(40)).await;
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        for writer in writers {
            writer.await.unwrap();
        }
        for mut job in jobs {
            job.catch_up(&b).await;
            b.must_equal(&job, "copied amid commits").await;
        }
    }
}

#[tokio::test]
async fn a_server_restarts_amid_a_stream() {
    for name in Second::both("a_server_restarts_amid_a_stream").await {
        let second = Second::of(name, "a_server_restarts_amid_a_stream").await.unwrap();
        let mut b = Bench::new(&second.url, "amid").await;
        b.run(&["CREATE TABLE t (id INT PRIMARY KEY, v INT)"]).await;
        let mut job = b.begin().await;
        b.run(&["INSERT INTO t VALUES (1,1)"]).await;
        let request = ChangesRequest {
            tables: job.tables.values().cloned().collect(),
            pattern: b.pattern(),
            from: job.at.clone(),
            stop: None,
            spool: None,
            lane: 0,
            watched: Vec::new(),
        };
        let mut stream = b.source.changes(request).await.unwrap();
        // Rows and their commit, then nothing, then the server is gone.
        for _ in 0..2 {
            stream.next().await.unwrap();
        }
        second.kill();
        assert_eq!(stream.next().await.unwrap_err().kind, ErrorKind::SourceUnavailable);
        second.start(&[]);
        b.c = b.session().await;
        b.run(&["INSERT INTO t VALUES (2,2)", "FLUSH BINARY LOGS", "INSERT INTO t VALUES (3,3)"]).await;
        job.catch_up(&b).await;
        b.must_equal(&job, "after the restart").await;
    }
}

fn from(b: &Bench, job: &Job, from: &Position, lane: u32, spool: Option<Spooling>) -> ChangesRequest {
    ChangesRequest {
        tables: job.tables.values().cloned().collect(),
        pattern: b.pattern(),
        from: from.clone(),
        stop: None,
        spool,
        lane,
        watched: Vec::new(),
    }
}

/// The next commit, and the rows before it.
async fn next_commit(stream: &mut dyn ChangeStream) -> (Commit, usize) {
    let mut rows = 0;
    loop {
        let next = tokio::time::timeout(Duration::from_secs(4), stream.next());
        match next.await.expect("nothing comes").unwrap() {
            Event::Rows(batch) => rows += batch.rows.num_rows(),
            Event::Commit(commit) => return (commit, rows),
            other => panic!("unexpected {other:?}"),
        }
    }
}

/// A stream that is told to keep the log while it is idle does so at once, and says where; amid a transaction it waits for
/// its end. From there on it is all there, whatever the server purges.
#[tokio::test]
async fn the_log_is_kept_from_between_two_transactions() {
    for name in Second::both("the_log_is_kept_from_between_two_transactions").await {
        let second = Second::of(name, "the_log_is_kept_from_between_two_transactions").await.unwrap();
        let mut b = Bench::new(&second.url, "kept").await;
        b.run(&["CREATE TABLE t (id INT AUTO_INCREMENT PRIMARY KEY, v INT)", "INSERT INTO t (v) VALUES (1), (2)"])
            .await;
        let job = b.begin().await;
        let dir = tempfile::tempdir().unwrap();
        let spool = |number: u32| Arc::new(Spool::new(dir.path().join(number.to_string()), 1 << 30));
        let (keep, told) = watch::channel(None);
        let mut stream = b.source.changes(from(&b, &job, &job.at, 0, Some(Spooling::Keep(told)))).await.unwrap();
        // A reading that is not told has to be under way.
        b.run(&["INSERT INTO t (v) VALUES (3), (4)"]).await;
        assert_eq!(next_commit(&mut *stream).await.1, 2);

        // Nothing happens at the server, in its file or at the begin of a new one.
        for (number, statement) in [(0, "DO 0"), (1, "FLUSH BINARY LOGS")] {
            b.run(&[statement]).await;
            if number == 1 {
                next_commit(&mut *stream).await; // the new file
            }
            let spool = spool(number);
            keep.send_replace(Some(Arc::clone(&spool)));
            let (commit, rows) = next_commit(&mut *stream).await;
            assert_eq!((spool.begun(), rows), (Some(commit.position), 0), "{name} {statement}");
            keep.send_replace(None);
        }

        // Rows of a transaction that is larger than what is handed out at once.
        b.run(&["BEGIN", "INSERT INTO t (v) VALUES (5), (6), (7), (8)"]).await;
        for _ in 0..15 {
            b.run(&["INSERT INTO t (v) SELECT v FROM t"]).await;
        }
        b.run(&["COMMIT"]).await;
        let Event::Rows(part) = stream.next().await.unwrap() else { panic!("no rows") };
        let spool = spool(2);
        keep.send_replace(Some(Arc::clone(&spool)));
        let (commit, rows) = next_commit(&mut *stream).await;
        assert_eq!(part.rows.num_rows() + rows, 4 + 8 * 32767, "{name}");
        // The transaction's own, or one more.
        let behind = if spool.begun().is_some() { commit } else { next_commit(&mut *stream).await.0 };
        assert!(rows > 0 && spool.begun() == Some(behind.position), "{name} {:?}", spool.begun());

        for _ in 0..10 {
            b.run(&["INSERT INTO t (v) VALUES (9)", "FLUSH BINARY LOGS"]).await;
        }
        let (mut rows, mut last) = (0, None);
        while rows < 10 {
            let (commit, more) = next_commit(&mut *stream).await;
            (rows, last) = (rows + more, Some(commit.position));
        }
        let begun = spool.begun().unwrap();
        let logs = b.c.query("SHOW BINARY LOGS").await.unwrap();
        let newest = logs.last().unwrap().get_str(0).unwrap().to_string();
        drop(stream);
        loop {
            // The server keeps a file as long as it sends it to somebody.
            b.run(&[&format!("PURGE BINARY LOGS TO '{newest}'")]).await;
            if b.c.query("SHOW BINARY LOGS").await.unwrap().len() == 1 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let lost = match b.source.changes(from(&b, &job, &begun, 1, None)).await {
            Ok(mut stream) => stream.next().await.unwrap_err(),
            Err(error) => error,
        };
        assert_eq!(lost.kind, ErrorKind::SourceState, "{lost:?}");
        let mut stream = b.source.changes(from(&b, &job, &begun, 1, Some(Spooling::Take(spool)))).await.unwrap();
        let mut taken = 0;
        loop {
            let (commit, more) = next_commit(&mut *stream).await;
            taken += more;
            if last.as_ref().is_some_and(|last| b.source.compare(&commit.position, last).is_some_and(|o| o.is_ge())) {
                break;
            }
        }
        assert_eq!(taken, 10, "{name}");
    }
}

#[tokio::test]
async fn settings_that_hide_changes() {
    for name in Second::both("settings_that_hide_changes").await {
        let mut second = Second::of(name, "settings_that_hide_changes").await.unwrap();
        let (updates, source) = match second.mysql {
            true => {
                ("--log-replica-updates=OFF", "CHANGE REPLICATION SOURCE TO SOURCE_HOST='127.0.0.1', SOURCE_PORT=1")
            }
            false => ("--log-slave-updates=OFF", "CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT=1"),
        };
        let mut b = Bench::new(&second.url, "hidden").await;
        b.run(&["CREATE TABLE t (id INT PRIMARY KEY)"]).await;
        let job = b.begin().await;
        // A job that runs finds out at its next connection.
        second.restart(&["--binlog-do-db=elsewhere", "--skip-slave-start"]).await;
        let mut b = Bench::at(&second.url, "hidden").await;
        b.run(&[
            "DROP DATABASE IF EXISTS elsewhere",
            "CREATE DATABASE elsewhere",
            "USE elsewhere",
            "CREATE TABLE t (id INT)",
            "INSERT INTO t VALUES (1)",
        ])
        .await;
        let filtered = refused(&job, &b).await;
        says(&filtered, ErrorKind::SourceState, &["out of its log: hidden", "binlog_do_db", "freshet resync"]);
        second.restart(&[updates, "--binlog-do-db=elsewhere", "--skip-slave-start"]).await;
        let mut b = Bench::at(&second.url, "hidden").await;
        b.run(&[source]).await;
        says(&refused(&job, &b).await, ErrorKind::SourceState, &["is a replica", "updates = ON", "freshet resync"]);
        let findings = b.source.check(&b.pattern()).await;
        let of =
            |name: &str| findings.iter().find(|f| f.name == name).unwrap_or_else(|| panic!("{name}: {findings:#?}"));
        for (name, verdict, part) in [
            ("replica", Verdict::Failed, "databases concerned: hidden"),
            ("log filters", Verdict::Failed, "not in the log: hidden"),
            ("log durability", Verdict::Warning, "sync_binlog is 0"),
            ("foreign keys", Verdict::Ok, ""),
        ] {
            let finding = of(name);
            assert!(finding.verdict == verdict && finding.message.contains(part), "{finding:#?}");
            assert!(verdict == Verdict::Ok || finding.fix.is_some(), "{finding:#?}");
        }
        second.restart(&[]).await;
    }
}
