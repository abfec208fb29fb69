//! Other people's clients at the warehouse's port: the command line, prepared statements, rows of several packets.

use std::process::{Command, Stdio};

use freshet_tests::compare::assert_equal;
use freshet_tests::freshet::{Sync, prepare_mark};
use freshet_tests::source::Source;
use mysql_async::prelude::Queryable;

/// What a person types first.
pub(crate) async fn mariadb_command_line(source: Source) {
    let _turn = source.shared().await;
    let db = source.database("client").await;
    prepare_mark(&source, &db).await;
    source
        .run(&format!(
            "CREATE TABLE {db}.orders (id INT NOT NULL PRIMARY KEY, note VARCHAR(50), total DECIMAL(10,2));\n\
             INSERT INTO {db}.orders VALUES (1, 'first', 10.50), (2, NULL, 3)"
        ))
        .await;
    let mut sync = Sync::start(&source, &db);
    sync.caught_up(&source, &db).await;
    for (statement, expected) in [
        ("SHOW DATABASES".to_string(), vec![db.as_str(), "information_schema"]),
        (format!("SHOW TABLES FROM {db}"), vec!["orders"]),
        (format!("USE {db}; SHOW TABLES; SELECT DATABASE()"), vec!["orders", &db]),
        (format!("DESCRIBE {db}.orders"), vec!["id", "note", "decimal(10,2)"]),
        (format!("SHOW FULL COLUMNS FROM orders FROM {db}"), vec!["total"]),
        (format!("SHOW CREATE TABLE {db}.orders"), vec!["UNIQUE KEY(`id`)"]),
        (format!("SELECT * FROM {db}.orders ORDER BY id"), vec!["1\tfirst\t10.50", "2\tNULL\t3.00"]),
        (format!("SELECT COUNT(*), SUM(total) FROM {db}.orders"), vec!["2\t13.50"]),
        (
            format!("SELECT table_name FROM information_schema.tables WHERE table_schema = '{db}' ORDER BY 1"),
            vec!["orders\nzz_mark"],
        ),
        ("SELECT @@version_comment, @@max_allowed_packet".into(), vec!["Freshet"]),
        ("SHOW VARIABLES LIKE 'character_set_client'".into(), vec!["utf8mb4"]),
        ("SHOW JOBS".into(), vec!["job"]),
    ] {
        let said = client(sync.port, &statement).unwrap_or_else(|e| panic!("{statement}: {e}"));
        for word in expected {
            assert!(said.to_lowercase().contains(&word.to_lowercase()), "{statement}: no {word:?} in {said}");
        }
    }
    for (statement, number) in [
        (format!("SELECT * FROM {db}.nothing"), "1146"),
        (format!("SELECT missing FROM {db}.orders"), "1054"),
        ("SELEC 1".into(), "1064"),
        ("USE nowhere".into(), "1049"),
    ] {
        let said = client(sync.port, &statement).expect_err(&statement);
        assert!(said.contains(number), "{statement}: no {number} in {said}");
    }
}

/// A person's session: `USE` makes the client ask for the columns of every table (COM_FIELD_LIST), for completion.
pub(crate) async fn interactive_command_line(source: Source) {
    let _turn = source.shared().await;
    let db = source.database("interactive").await;
    prepare_mark(&source, &db).await;
    source
        .run(&format!(
            "CREATE TABLE {db}.orders (id INT NOT NULL PRIMARY KEY, note VARCHAR(50), `od``d` JSON);\n\
             CREATE TABLE {db}.`na\u{ef}ve t` (id INT NOT NULL PRIMARY KEY);\n\
             INSERT INTO {db}.orders (id, note) VALUES (1, 'first')"
        ))
        .await;
    let mut sync = Sync::start(&source, &db);
    sync.caught_up(&source, &db).await;
    let mariadb = format!("mariadb --no-defaults --host=127.0.0.1 --user=root --port={} --auto-rehash", sync.port);
    let mut child = Command::new("script")
        .args(["--quiet", "--return", "--flush", "--command", &mariadb, "/dev/null"])
        .env("TERM", "xterm")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let typed = format!("USE {db};\nSHOW TABLES;\nSELECT id, note FROM orders;\nSELECT nothing FROM orders;\nquit\n");
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), typed.as_bytes()).unwrap();
    let out = tokio::task::spawn_blocking(move || child.wait_with_output()).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    for word in ["Database changed", "na\u{ef}ve t", "zz_mark", "| first |", "1 row in set", "ERROR 1054", "Bye"] {
        assert!(said.contains(word), "no {word:?} in: {said}");
    }
    assert!(!said.contains("Didn't find any fields") && !said.contains("Lost connection"), "{said}");
}

fn client(port: u16, statement: &str) -> Result<String, String> {
    let out = Command::new("mariadb")
        .args(["--no-defaults", "--host=127.0.0.1", "--user=root", "--batch", "-N", "--raw", "-e", statement])
        .arg(format!("--port={port}"))
        .output()
        .map_err(|e| e.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if out.status.success() { Ok(text(&out.stdout)) } else { Err(text(&out.stderr)) }
}

/// Prepared statements with every kind of parameter, in the binary protocol.
pub(crate) async fn prepared_statements(source: Source) {
    let _turn = source.shared().await;
    let db = source.database("prepared").await;
    prepare_mark(&source, &db).await;
    source
        .run(&format!(
            "CREATE TABLE {db}.t (id BIGINT NOT NULL PRIMARY KEY, s VARCHAR(50), d DOUBLE, n DECIMAL(10,2), at DATETIME(6), b BLOB);\n\
             INSERT INTO {db}.t VALUES (1, 'one', 1.5, 2.25, '2024-02-29 12:34:56.789012', x'00FF'), (2, NULL, NULL, NULL, NULL, NULL)"
        ))
        .await;
    let mut sync = Sync::start(&source, &db);
    sync.caught_up(&source, &db).await;
    let (mut theirs, mut ours) = (source.connect().await, sync.connect().await);
    for (condition, parameter) in [
        ("id = ?", mysql_async::Value::Int(1)),
        ("id > ?", mysql_async::Value::Int(0)),
        ("s = ?", "one".into()),
        ("d = ?", 1.5_f64.into()),
        ("s IS NULL AND 1 = ?", mysql_async::Value::UInt(1)),
    ] {
        let sql = format!("SELECT id, s, d, n, at, b FROM {db}.t WHERE {condition} ORDER BY id");
        let expected: Vec<mysql_async::Row> = theirs.exec(&sql, (parameter.clone(),)).await.unwrap();
        let rows: Vec<mysql_async::Row> = ours.exec(&sql, (parameter,)).await.unwrap();
        let values = |rows: Vec<mysql_async::Row>| rows.into_iter().map(mysql_async::Row::unwrap).collect::<Vec<_>>();
        assert_eq!(values(rows), values(expected), "{condition}");
    }
}

/// Values of more than 16 MiB, which take several packets on either wire.
pub(crate) async fn large_values(source: Source) {
    let _turn = source.shared().await;
    let db = source.database("large_values").await;
    prepare_mark(&source, &db).await;
    source
        .run(&format!(
            "CREATE TABLE {db}.t (id INT NOT NULL PRIMARY KEY, v LONGTEXT, b LONGBLOB);\n\
             INSERT INTO {db}.t VALUES (1, REPEAT('copied ', 2500000), x'00'), (2, 'small', REPEAT(x'FF', 16777215))"
        ))
        .await;
    let mut sync = Sync::start(&source, &db);
    sync.caught_up(&source, &db).await;
    source
        .run(&format!(
            "INSERT INTO {db}.t VALUES (3, REPEAT('streamed ', 2500000), NULL);\n\
             UPDATE {db}.t SET b = REPEAT(x'01', 16777216) WHERE id = 1"
        ))
        .await;
    sync.caught_up(&source, &db).await;
    assert_equal(&mut source.connect().await, &mut sync.connect().await, &db).await;
}
