//! Bad surroundings and bad input: each ends in a message that says what, where, why and what to do, and loses
//! nothing.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use fastrand::Rng;
use freshet_tests::compare::assert_equal;
use freshet_tests::freshet::{Output, Sync, freshet, prepare_mark};
use freshet_tests::source::Source;
use mysql_async::prelude::Queryable;

/// Panics unless the command failed with this exit code, says all of these, and hides the password.
fn assert_says(out: &Output, code: i32, words: &[&str]) {
    assert_eq!(out.code, code, "{out:?}");
    let said = format!("{}{}", out.stdout, out.stderr);
    for word in words {
        assert!(said.contains(word), "no {word:?} in: {said}");
    }
    assert!(!said.contains("sesame"), "the password is shown: {said}");
}

/// Runs `freshet sync` that has to end by itself.
fn sync_fails(url: &str, tables: &str) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data").display().to_string();
    freshet(&["sync", url, "--tables", tables, "--data", &data, "--listen", "127.0.0.1:0", "--name", "job"])
}

pub(crate) async fn wrong_password(source: Source) {
    let _turn = source.shared().await;
    let url = source.url_as("nobody", "sesame");
    assert_says(&sync_fails(&url, "x.*"), 3, &["nobody", "hint"]);
    assert_says(&freshet(&["check", &url, "--tables", "x.*"]), 3, &["nobody"]);
    // No such host, and nothing that listens there.
    assert_says(&freshet(&["check", "mysql://u:sesame@no-such-host.invalid/x"]), 3, &["no-such-host.invalid"]);
    assert_says(&sync_fails("mysql://u:sesame@127.0.0.1:1/x", "x.*"), 3, &["127.0.0.1:1"]);
    assert_says(&freshet(&["check", "mysqll://u:sesame@h/x"]), 2, &["mysql"]);
}

/// `check` names what is missing with the statement that grants it; with that statement run it is content.
pub(crate) async fn no_grant(source: Source) {
    let _turn = source.shared().await;
    let db = source.database("grants").await;
    let user = format!("u_{db}");
    source.run(&format!("CREATE TABLE {db}.t (id INT PRIMARY KEY);\nCREATE USER {user} IDENTIFIED BY 'sesame';\nGRANT SELECT ON {db}.* TO {user}")).await;
    let url = format!("{}{db}", source.url_as(&user, "sesame"));
    let out = freshet(&["check", &url, "--json"]);
    assert_says(&out, 3, &["GRANT", "REPLICATION"]);
    let grants = fixes(&out.json());
    let grants: Vec<&String> = grants.iter().filter(|sql| sql.starts_with("GRANT")).collect();
    assert!(!grants.is_empty(), "{out:?}");
    for sql in grants {
        source.run(sql).await;
    }
    let out = freshet(&["check", &url, "--json"]);
    assert_eq!(out.code, 0, "{out:?}");
}

pub(crate) async fn binlog_off(source: Source) {
    let _turn = source.alone().await;
    let db = source.database("no_log").await;
    source.run(&format!("CREATE TABLE {db}.t (id INT PRIMARY KEY)")).await;
    let normal = source.clone();
    source.kill();
    source.start(&["--skip-log-bin"]);
    let restore = Restart(normal);
    let url = format!("{}{db}", source.url);
    assert_says(&freshet(&["check", &url]), 3, &["log_bin"]);
    assert_says(&sync_fails(&source.url, &format!("{db}.*")), 3, &["log_bin"]);
    drop(restore);
}

pub(crate) async fn statement_format(source: Source) {
    let _turn = source.alone().await;
    let db = source.database("statements").await;
    source.run(&format!("CREATE TABLE {db}.t (id INT PRIMARY KEY);\nSET GLOBAL binlog_format = 'STATEMENT';\nSET GLOBAL binlog_row_image = 'MINIMAL'")).await;
    let url = format!("{}{db}", source.url);
    let out = freshet(&["check", &url, "--json"]);
    source.run("SET GLOBAL binlog_format = 'MIXED'").await;
    let fixes = fixes(&out.json());
    for sql in fixes.iter().filter(|sql| sql.contains(" binlog_")) {
        source.run(sql).await;
    }
    let mended = freshet(&["check", &url, "--json"]);
    source.run("SET GLOBAL binlog_format = 'ROW';\nSET GLOBAL binlog_row_image = 'FULL'").await;
    assert_says(&out, 3, &["binlog_format = 'ROW'"]);
    assert_eq!(mended.code, 0, "{mended:?}");
}

/// Starts the server as it was, also when the test fails.
struct Restart(Source);

impl Drop for Restart {
    fn drop(&mut self) {
        self.0.kill();
        self.0.start(&[]);
    }
}

/// Every `fix` in an envelope.
fn fixes(json: &serde_json::Value) -> Vec<String> {
    match json {
        serde_json::Value::Object(map) => {
            let own = map.get("fix").and_then(|f| f.as_str()).map(str::to_string);
            own.into_iter().chain(map.values().flat_map(fixes)).collect()
        }
        serde_json::Value::Array(items) => items.iter().flat_map(fixes).collect(),
        _ => Vec::new(),
    }
}

pub(crate) async fn unknown_table(source: Source) {
    let _turn = source.shared().await;
    let db = source.database("empty").await;
    assert_says(&sync_fails(&source.url, &format!("{db}.nothing*")), 2, &["nothing*"]);
    assert_says(&sync_fails(&source.url, "a.b.c.d"), 2, &["a.b.c.d"]);
}

pub(crate) async fn port_in_use(source: Source) {
    let _turn = source.shared().await;
    let db = source.database("port").await;
    prepare_mark(&source, &db).await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data").display().to_string();
    let listen = format!("127.0.0.1:{port}");
    let out = freshet(&["sync", &source.url, "--tables", &format!("{db}.*"), "--data", &data, "--listen", &listen]);
    assert_says(&out, 3, &[&port, "--listen"]);
}

/// One process per data directory; another may look at it, and says which one has it.
pub(crate) async fn second_process(source: Source) {
    let _turn = source.shared().await;
    let db = source.database("second").await;
    prepare_mark(&source, &db).await;
    let mut sync = Sync::start(&source, &db);
    sync.caught_up(&source, &db).await;
    let data = sync.data().display().to_string();
    let out = freshet(&["serve", "--data", &data, "--listen", "127.0.0.1:0"]);
    assert_says(&out, 3, &["another process", &data]);
    let status = sync.command(&["status", "--json"]);
    assert_eq!(status.code, 0, "{status:?}");
    sync.caught_up(&source, &db).await;
}

/// A byte flipped anywhere in the stored files: the answer is right, or an error that names the file.
pub(crate) async fn flipped_bytes(source: Source) {
    let _turn = source.shared().await;
    let db = source.database("flipped").await;
    prepare_mark(&source, &db).await;
    let rows: Vec<String> = (0..5000).map(|i| format!("({i}, 'value {i}')")).collect();
    source
        .run(&format!(
            "CREATE TABLE {db}.t (id INT PRIMARY KEY, v VARCHAR(20));\nINSERT INTO {db}.t VALUES {}",
            rows.join(",")
        ))
        .await;
    let mut sync = Sync::start(&source, &db);
    sync.caught_up(&source, &db).await;
    source
        .run(&format!("UPDATE {db}.t SET v = CONCAT(v, '!') WHERE id % 50 = 0;\nDELETE FROM {db}.t WHERE id % 70 = 0"))
        .await;
    sync.caught_up(&source, &db).await;
    let sum = format!("SELECT COUNT(*), SUM(id), MIN(v), MAX(v), SUM(LENGTH(v)) FROM {db}.t");
    let mut ours = sync.connect().await;
    let right: Option<mysql_async::Row> = ours.query_first(sum.as_str()).await.unwrap();
    let right = format!("{right:?}");
    sync.kill();

    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = Rng::with_seed(seed);
    let files = files(sync.data());
    assert!(!files.is_empty());
    for file in files {
        let good = std::fs::read(&file).unwrap();
        if good.is_empty() {
            continue;
        }
        let mut bad = good.clone();
        let at = rng.usize(..bad.len());
        bad[at] ^= 1 << rng.u8(0..8);
        std::fs::write(&file, &bad).unwrap();
        let copy = tempfile::tempdir().unwrap();
        copy_tree(sync.data(), copy.path());
        std::fs::write(&file, &good).unwrap();
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let place = format!("{} byte {at} of {}", file.display(), good.len());
        serve_and_ask(copy.path(), &sum, &right, &name, &place).await;
    }
}

/// Serves the directory: it must answer right, or end or answer with an error about damage that names the file.
async fn serve_and_ask(data: &Path, query: &str, right: &str, name: &str, place: &str) {
    let port = freshet_tests::freshet::free_port();
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut child = Command::new(freshet_tests::freshet::binary())
        .args(["serve", "--listen", &format!("127.0.0.1:{port}"), "--data"])
        .arg(data)
        .stdout(log.reopen().unwrap())
        .stderr(log.reopen().unwrap())
        .spawn()
        .unwrap();
    let start = Instant::now();
    let answer = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break format!("ended {status}: {}", std::fs::read_to_string(log.path()).unwrap());
        }
        if let Ok(mut conn) = freshet_tests::freshet::connect(port).await {
            break match conn.query_first::<mysql_async::Row, _>(query).await {
                Ok(row) => format!("{row:?}"),
                Err(e) => format!("error: {e}"),
            };
        }
        assert!(start.elapsed() < Duration::from_secs(60), "no answer with {place}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let _ = child.kill();
    let _ = child.wait();
    if answer == right {
        return;
    }
    println!("{place}: {answer}");
    let words = ["corrupt", "checksum", "damaged", "certificate", "cannot be read", "this is no", "cut short"];
    let honest = words.iter().any(|w| answer.contains(w)) && answer.contains(name);
    assert!(honest, "{place}: {answer}\nright is {right}");
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    let regular = |path: PathBuf| if path.is_file() { vec![path] } else { Vec::new() };
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { regular(path) }).collect()
}

fn copy_tree(from: &Path, to: &Path) {
    for file in files(from) {
        let target = to.join(file.strip_prefix(from).unwrap());
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(&file, &target).unwrap();
    }
}

/// A data directory on a full disk: the job waits or ends with a message; with room again it goes on, nothing lost. Root
/// mounts a small disk; for anybody else every write of rows finds the disk full from the third on.
pub(crate) async fn disk_full(source: Source) {
    let disk = SmallDisk::mount();
    let _turn = source.shared().await;
    let db = source.database("full").await;
    prepare_mark(&source, &db).await;
    source
        .run(&format!("CREATE TABLE {db}.t (id INT PRIMARY KEY, v LONGBLOB);\nINSERT INTO {db}.t VALUES (1, 'x')"))
        .await;
    let mut sync = Sync::new(&source.url, &format!("{db}.*"), &[]);
    if let Some(disk) = &disk {
        sync = sync.in_directory(disk.0.path().join("data"));
    }
    sync.spawn();
    sync.caught_up(&source, &db).await;
    if disk.is_none() {
        assert_eq!(sync.terminate(), Some(0));
        sync.spawn_with_failpoints("log.write=enospc@3+; segment.write=enospc@3+");
        sync.connect().await;
    }
    // 32 MiB that do not compress.
    for id in 2..34 {
        let megabyte: String = (0..1 << 17).map(|_| format!("{:016x}", fastrand::u64(..))).collect();
        source.run(&format!("INSERT INTO {db}.t VALUES ({id}, x'{megabyte}')")).await;
    }
    let start = Instant::now();
    while sync.runs() && start.elapsed() < Duration::from_secs(60) && !sync.log().contains("space") {
        let status = sync.command(&["status"]);
        if status.stdout.contains("space") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let said = format!("{}{:?}", sync.log(), sync.command(&["status"]));
    assert!(said.contains("space"), "nothing about the full disk: {said}");
    if let Some(disk) = &disk {
        disk.grow();
    }
    if sync.runs() {
        sync.kill();
    }
    sync.spawn();
    sync.caught_up(&source, &db).await;
    assert_equal(&mut source.connect().await, &mut sync.connect().await, &db).await;
}

/// A mounted disk of 24 MiB.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<SmallDisk> {
        let folder = tempfile::tempdir().unwrap();
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"]).arg(folder.path()).output();
        mount.is_ok_and(|out| out.status.success()).then(|| SmallDisk(folder))
    }

    fn grow(&self) {
        let grown = Command::new("mount").args(["-o", "remount,size=200m"]).arg(self.0.path()).status().unwrap();
        assert!(grown.success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}
