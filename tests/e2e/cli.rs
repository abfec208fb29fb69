//! The command line as a whole process: what every command prints, its JSON envelope and exit code. Only what needs a
//! database runs against one; the rest uses the built-in generator.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use freshet_tests::compare::{assert_equal, count};
use freshet_tests::freshet::{Output, Sync, binary, connect, free_port, freshet, prepare_mark};
use freshet_tests::source::Source;
use mysql_async::prelude::Queryable;

fn envelope(out: &Output, command: &str) -> serde_json::Value {
    let json = out.json();
    assert_eq!(json["command"], command, "{out:?}");
    assert_eq!(json["ok"], out.code == 0, "{out:?}");
    assert_eq!(out.stdout.trim().lines().count(), 1, "one line: {out:?}");
    json
}

#[test]
fn suggests_what_was_meant() {
    for (args, expected) in [
        (vec!["snyc"], "sync"),
        (vec!["sync", "generator://shop", "--tabels", "x"], "--tables"),
        (vec!["check", "msql://h/x"], "mysql"),
        (vec!["sync", "generator://shop", "--schema-changes", "leniant"], "did you mean lenient?"),
    ] {
        let out = freshet(&args);
        assert_eq!((out.code, out.stdout.as_str()), (2, ""), "{out:?}");
        assert!(out.stderr.contains(expected), "{out:?}");
    }
    assert_eq!(freshet(&["sync"]).code, 2);
}

#[test]
fn errors_in_the_envelope() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().display().to_string();
    for args in [
        vec!["verify", "nothing"],
        vec!["pause", "nothing"],
        vec!["resume", "nothing"],
        vec!["drop", "nothing"],
        vec!["status", "nothing"],
        vec!["check", "mysqll://h/x"],
    ] {
        let out = freshet(&[&args[..], &["--json", "--data", &data]].concat());
        let json = envelope(&out, args[0]);
        assert_eq!(out.code, 2, "{out:?}");
        assert!(json["error"]["message"].is_string() && json["error"]["kind"].is_string(), "{out:?}");
    }
}

#[test]
fn plan_and_tables_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let data_text = data.display().to_string();
    let plan = freshet(&["plan", "generator://shop", "--data", &data_text]);
    assert_eq!(plan.code, 0, "{plan:?}");
    assert!(plan.stdout.contains("CREATE TABLE") && plan.stdout.contains("UNIQUE KEY"), "{}", plan.stdout);
    for command in ["plan", "tables", "check"] {
        let out = freshet(&[command, "generator://shop", "--json", "--data", &data_text]);
        assert_eq!(out.code, 0, "{out:?}");
        envelope(&out, command);
    }
    assert!(!data.exists(), "a command that only looks has made {data_text}");
}

/// The demo fills the warehouse, its numbers change, and the shop gets its new column on the way.
#[tokio::test]
async fn demo() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let mut child = Command::new(binary())
        .args(["demo", "--rows", "2000", "--seconds", "12", "--listen", &format!("127.0.0.1:{port}"), "--data"])
        .arg(dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let start = Instant::now();
    let mut conn = loop {
        match connect(port).await {
            Ok(conn) => break conn,
            Err(e) => assert!(start.elapsed() < Duration::from_secs(10), "{e}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let mut seen = std::collections::BTreeSet::new();
    while child.try_wait().unwrap().is_none() {
        if let Ok(Some(n)) = conn.query_first::<u64, _>("SELECT COUNT(*) FROM shop.orders").await {
            seen.insert(n);
        }
        assert!(start.elapsed() < Duration::from_secs(60), "--seconds did not end it");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "{out:?}");
    assert!(seen.len() > 3, "the demo's orders did not change: {seen:?}");
    let said = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(said.contains(&port.to_string()), "does not say how to connect: {said}");
}

/// Statements from the argument and from the standard input, with and without a running process.
#[tokio::test]
async fn sql() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data").display().to_string();
    let out = freshet(&["sql", "SELECT 1", "--data", &data]);
    assert!(out.code == 2 && out.stderr.contains("hint: name the folder"), "{out:?}");
    std::fs::create_dir(dir.path().join("data")).unwrap();
    let out = freshet(&["demo", "--rows", "10", "--seconds", "1", "--listen", "127.0.0.1:0", "--data", &data]);
    assert_eq!(out.code, 0, "{out:?}");
    let out = freshet(&["sql", "SELECT 1 + 1 AS two, 'x' AS letter", "--data", &data]);
    assert_eq!(out.code, 0, "{out:?}");
    assert!(out.stdout.contains("two") && out.stdout.contains('2'), "{out:?}");
    let out = freshet(&["sql", "SELECT 1 + 1 AS two", "--json", "--data", &data]);
    envelope(&out, "sql");
    let out = freshet(&["sql", "SELEC", "--data", &data]);
    assert_eq!(out.code, 2, "{out:?}");
}

/// The life of a job: status, pause, resume, drop; the source's password nowhere.
pub(crate) async fn jobs(source: Source) {
    let _turn = source.shared().await;
    let db = source.database("jobs").await;
    prepare_mark(&source, &db).await;
    source.run(&format!("CREATE TABLE {db}.t (id INT PRIMARY KEY);\nINSERT INTO {db}.t VALUES (1)")).await;
    let mut sync = Sync::start(&source, &db);
    sync.caught_up(&source, &db).await;

    let status = sync.command(&["status", "job", "--json"]);
    assert_eq!(status.code, 0, "{status:?}");
    envelope(&status, "status");
    let status_text = sync.command(&["status"]);
    assert!(status_text.stdout.contains("streaming") && status_text.stdout.contains("live"), "{status_text:?}");

    let paused = sync.command(&["pause", "job", "--json"]);
    assert_eq!(paused.code, 0, "{paused:?}");
    source.run(&format!("INSERT INTO {db}.t VALUES (2), (3)")).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut ours = sync.connect().await;
    assert_eq!(count(&mut ours, &db, "t").await, 1, "a paused job goes on");
    assert!(sync.command(&["status"]).stdout.contains("paused"));
    // A pause survives the process.
    sync.kill();
    sync.spawn();
    let mut ours = sync.connect().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let resumed_by_sync = count(&mut ours, &db, "t").await == 3;
    if !resumed_by_sync {
        assert_eq!(sync.command(&["resume", "job"]).code, 0);
    }
    sync.caught_up(&source, &db).await;
    assert_equal(&mut source.connect().await, &mut ours, &db).await;

    let password = source.url.split([':', '@']).nth(2).unwrap();
    for said in [sync.log(), status.stdout, status_text.stdout] {
        assert!(!said.contains(password), "the password is shown: {said}");
    }
    assert_eq!(sync.command(&["drop", "job"]).code, 0);
    assert_eq!(count(&mut ours, &db, "t").await, 3, "dropping a job keeps its tables");
}

/// A target that exists is refused with what to do, and replaced when that is asked for; the copy goes over as many
/// connections as are named.
pub(crate) async fn replace(source: Source) {
    let _turn = source.shared().await;
    let db = source.database("replaced").await;
    prepare_mark(&source, &db).await;
    let rows: Vec<String> = (0..2000).map(|id| format!("({id}, 'row {id}')")).collect();
    source
        .run(&format!(
            "USE {db};\nCREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(20));\nINSERT INTO t VALUES {}",
            rows.join(", ")
        ))
        .await;
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let data_text = data.display().to_string();
    let made = freshet(&["demo", "--rows", "10", "--seconds", "1", "--listen", "127.0.0.1:0", "--data", &data_text]);
    assert_eq!(made.code, 0, "{made:?}");
    let own = format!(
        "CREATE DATABASE {db}; CREATE TABLE {db}.t (id INT, w TEXT) DUPLICATE KEY (id); INSERT INTO {db}.t VALUES (7, 'own')"
    );
    let made = freshet(&["sql", &own, "--data", &data_text]);
    assert_eq!(made.code, 0, "{made:?}");

    // Refused: the table waits, what it held is untouched, the others go on.
    let mut sync = Sync::new(&source.url, &format!("{db}.*"), &["--connections", "3"]).in_directory(data.clone());
    sync.spawn();
    sync.caught_up(&source, &db).await;
    let mut ours = sync.connect().await;
    let status = sync.command(&["status", "job", "--json"]).json();
    let tables = status["result"]["jobs"][0]["tables"].as_array().unwrap();
    let of = |name: &str| tables.iter().find(|t| t["name"]["table"] == name).unwrap_or_else(|| panic!("{status}"));
    assert_eq!((&of("t")["state"], &of("zz_mark")["state"]), (&"suspended".into(), &"live".into()), "{status}");
    let error = &of("t")["error"];
    assert_eq!(error["kind"], "already_exists", "{error}");
    assert!(error["hint"].as_str().unwrap().contains("--replace"), "{error}");
    let kept: Vec<(i32, String)> = ours.query(format!("SELECT id, w FROM {db}.t")).await.unwrap();
    assert_eq!(kept, [(7, "own".to_string())]);

    // The same command with --replace, which the stored job takes over.
    assert_eq!(sync.terminate(), Some(0));
    let mut sync = Sync::new(&source.url, &format!("{db}.*"), &["--replace"]).in_directory(data);
    sync.spawn();
    sync.connect().await;
    let resumed = sync.command(&["resync", "job", &format!("{db}.t")]);
    assert_eq!(resumed.code, 0, "{resumed:?}");
    sync.caught_up(&source, &db).await;
    sync.all_live(freshet_tests::freshet::PATIENCE).await;
    assert!(sync.log().contains("job job from now on replaces targets that exist"), "{}", sync.log());
    assert_equal(&mut source.connect().await, &mut sync.connect().await, &db).await;
}

/// A job that writes changes to files, for looking at them.
pub(crate) async fn file_sink(source: Source) {
    let _turn = source.shared().await;
    let db = source.database("files").await;
    source
        .run(&format!(
            "CREATE TABLE {db}.t (id INT PRIMARY KEY, v VARCHAR(20));\nINSERT INTO {db}.t VALUES (1, 'copied')"
        ))
        .await;
    let dir = tempfile::tempdir().unwrap();
    let sink = format!("file://{}", dir.path().join("out").display());
    let mut sync = Sync::new(&source.url, &format!("{db}.*"), &[&sink]);
    sync.spawn();
    let start = Instant::now();
    let (mut wrote, mut deleted) = (false, false);
    loop {
        let text = contents(&dir.path().join("out"));
        if text.contains("copied") && !wrote {
            source.run(&format!("UPDATE {db}.t SET v = 'streamed'")).await;
            wrote = true;
        }
        if text.contains("streamed") && !deleted {
            source.run(&format!("DELETE FROM {db}.t")).await;
            deleted = true;
        }
        if wrote && text.contains("streamed") && text.contains("delete") {
            break;
        }
        assert!(sync.runs() && start.elapsed() < Duration::from_secs(30), "{text}\n{}", sync.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Files cannot hold back what has not ended; status says so.
    let numbers: Vec<String> = (0..20_000).map(|i| format!("({i}, 'x')")).collect();
    let mut statements = vec![format!("USE {db};\nALTER TABLE t MODIFY v VARCHAR(2000);\nBEGIN")];
    statements.push(format!("INSERT INTO t VALUES {}", numbers.join(",")));
    for from in (20_000..120_000).step_by(20_000) {
        statements.push(format!("INSERT INTO t SELECT id + {from}, repeat('y', 1000) FROM t WHERE id < 20000"));
    }
    statements.push("COMMIT".into());
    source.run(&statements.join(";\n")).await;
    let start = Instant::now();
    loop {
        let status = sync.command(&["status", "job"]).stdout;
        if status.contains("shown in parts") {
            break;
        }
        assert!(sync.runs() && start.elapsed() < Duration::from_secs(60), "{status}\n{}", sync.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn contents(dir: &std::path::Path) -> String {
    let Ok(entries) = std::fs::read_dir(dir) else { return String::new() };
    let read = |path: std::path::PathBuf| {
        if path.is_dir() { contents(&path) } else { std::fs::read_to_string(path).unwrap_or_default() }
    };
    entries.flatten().map(|e| read(e.path())).collect()
}
