//! The policies for schema changes: the same changes at the source, with a kill among them, and what each policy makes
//! of the targets, of `status` and of `verify`.

use freshet_tests::compare::assert_table;
use freshet_tests::freshet::{Output, Sync, prepare_mark};
use freshet_tests::source::Source;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row, Value};
use serde_json::Value as Json;

/// A job with this policy over `t`, `other` and `dropped`.
async fn start(source: &Source, name: &str, policy: &str) -> (String, Sync) {
    let db = source.database(name).await;
    prepare_mark(source, &db).await;
    source
        .run(&format!(
            "USE {db};\n\
             CREATE TABLE t (id INT PRIMARY KEY, a VARCHAR(20), n INT, gone INT NOT NULL DEFAULT 0);\n\
             INSERT INTO t VALUES (1, 'x', 1, 10), (2, 'y', 2, 20);\n\
             CREATE TABLE other (id INT PRIMARY KEY, v VARCHAR(5));\nINSERT INTO other VALUES (1, 'o'), (2, 'p');\n\
             CREATE TABLE dropped (id INT PRIMARY KEY);\nINSERT INTO dropped VALUES (9)"
        ))
        .await;
    let tables = format!("{db}.t,{db}.other,{db}.dropped,{db}.zz_mark");
    let mut sync = Sync::new(&source.url, &tables, &["--schema-changes", policy]);
    sync.spawn();
    sync.caught_up(source, &db).await;
    (db, sync)
}

/// Columns are added, dropped and renamed, with rows around it and a kill in the middle; a table is emptied, one dropped.
async fn change(source: &Source, sync: &mut Sync, db: &str) {
    let run = async |statements: &str| source.run(&format!("USE {db};\n{statements}")).await;
    run("ALTER TABLE t ADD COLUMN more INT NOT NULL DEFAULT 5 FIRST;\nINSERT INTO t (id, a, n, gone) VALUES (3, 'z', 3, 30)")
        .await;
    sync.caught_up(source, db).await;
    sync.kill();
    run("ALTER TABLE t DROP COLUMN gone;\nINSERT INTO t (id, a, n) VALUES (4, 'w', 4);\nUPDATE t SET n = 11 WHERE id = 1;\n\
         ALTER TABLE t RENAME COLUMN a TO b;\nINSERT INTO t (id, b, n) VALUES (5, 'v', 5);\n\
         TRUNCATE TABLE other;\nINSERT INTO other VALUES (2, 'q');\nDROP TABLE dropped")
    .await;
    sync.spawn();
    sync.caught_up(source, db).await;
}

/// Rows as texts.
async fn rows(conn: &mut Conn, sql: &str) -> Vec<String> {
    let rows: Vec<Row> = conn.query(sql).await.unwrap_or_else(|e| panic!("{e}\nin: {sql}"));
    let text = |value: Value| match value {
        Value::NULL => "-".to_string(),
        Value::Bytes(bytes) => String::from_utf8(bytes).unwrap(),
        other => other.as_sql(true),
    };
    rows.into_iter().map(|r| r.unwrap().into_iter().map(text).collect::<Vec<_>>().join(" ")).collect()
}

async fn columns(conn: &mut Conn, db: &str) -> String {
    let columns: Vec<Row> = conn.query(format!("SHOW COLUMNS FROM {db}.t")).await.unwrap();
    columns.iter().map(|row| row.get::<String, _>(0).unwrap()).collect::<Vec<_>>().join(" ")
}

/// What `status` says of the job and of one of its tables.
fn status(sync: &Sync, table: &str) -> (Json, Json) {
    let job = sync.command(&["status", "job", "--json"]).json()["result"]["jobs"][0].clone();
    let is = |t: &&Json| t["name"]["table"] == table;
    let found = job["tables"].as_array().unwrap().iter().find(is).cloned().unwrap_or_default();
    (job, found)
}

fn verified(sync: &Sync, table: &str) -> (Output, Json) {
    let out = sync.command(&["verify", "job", "--json"]);
    let is = |t: &&Json| t["name"]["table"] == table;
    let found = out.json()["result"]["tables"].as_array().unwrap().iter().find(is).cloned().unwrap_or_default();
    (out, found)
}

/// Nothing is taken from the targets.
pub(crate) async fn lenient(source: Source) {
    let _turn = source.shared().await;
    let (db, mut sync) = start(&source, "lenient", "lenient").await;
    change(&source, &mut sync, &db).await;
    source
        .run(&format!(
            "USE {db};\nALTER TABLE t MODIFY n BIGINT;\nINSERT INTO t (id, b, n) VALUES (6, 'u', 5000000000)"
        ))
        .await;
    sync.caught_up(&source, &db).await;
    let mut ours = sync.connect().await;
    assert_eq!(columns(&mut ours, &db).await, "id a n gone more b");
    assert_eq!(
        rows(&mut ours, &format!("SELECT id, a, n, gone, more, b FROM {db}.t ORDER BY id")).await,
        ["1 x 11 - 5 -", "2 y 2 20 5 -", "3 z 3 30 5 -", "4 w 4 - 5 -", "5 - 5 - 5 v", "6 - 5000000000 - 5 u"]
    );
    assert_eq!(rows(&mut ours, &format!("SELECT id, v FROM {db}.other ORDER BY id")).await, ["1 o", "2 q"]);
    assert_eq!(rows(&mut ours, &format!("SELECT id FROM {db}.dropped")).await, ["9"]);
    let (job, table) = status(&sync, "t");
    assert_eq!((&job["schema_changes"], &table["state"]), (&"lenient".into(), &"live".into()), "{table}");
    assert!(job["left_out"][0].as_str().unwrap().contains("dropped was dropped"), "{job}");
    let notes = table["left_out"].to_string();
    assert!(notes.contains("column gone was dropped") && notes.contains("a was renamed to b"), "{notes}");
    let told =
        rows(&mut ours, "SELECT left_out FROM information_schema.freshet_tables WHERE source LIKE '%.other'").await;
    assert!(told[0].contains("keeps the rows of before (TRUNCATE TABLE other)"), "{told:?}");
    let (out, table) = verified(&sync, "t");
    assert_eq!((out.code, &table["left_out"][0]), (0, &"columns a, b, gone".into()), "{out:?}");
    // A person takes the source's definition over; nothing is left out then.
    sync.resync(Some(&format!("{db}.t"))).await;
    sync.caught_up(&source, &db).await;
    assert_eq!(assert_table(&mut source.connect().await, &mut ours, &db, "t").await, 6);
    assert!(status(&sync, "t").1["left_out"].is_null());
}

/// The targets stay as they are; what does not fit waits for a person, and goes on from there.
pub(crate) async fn ignore(source: Source) {
    let _turn = source.shared().await;
    let (db, mut sync) = start(&source, "ignored", "ignore").await;
    change(&source, &mut sync, &db).await;
    source
        .run(&format!("USE {db};\nALTER TABLE t MODIFY n BIGINT;\nINSERT INTO t (id, b, n) VALUES (6, 'u', 6)"))
        .await;
    sync.caught_up(&source, &db).await;
    let mut ours = sync.connect().await;
    assert_eq!(columns(&mut ours, &db).await, "id a n gone");
    let all = format!("SELECT id, a, n, gone FROM {db}.t ORDER BY id");
    let before = ["1 x 11 0", "2 y 2 20", "3 z 3 30", "4 w 4 0", "5 - 5 0", "6 - 6 0"];
    assert_eq!(rows(&mut ours, &all).await, before);
    assert_eq!(rows(&mut ours, &format!("SELECT id, v FROM {db}.other ORDER BY id")).await, ["1 o", "2 q"]);
    let (out, table) = verified(&sync, "t");
    assert_eq!((out.code, &table["left_out"][0]), (0, &"columns a, b, gone, more".into()), "{out:?}");

    source
        .run(&format!("USE {db};\nINSERT INTO t (id, b, n) VALUES (7, 't', 5000000000);\nDELETE FROM t WHERE id = 2"))
        .await;
    sync.caught_up(&source, &db).await;
    let (_, table) = status(&sync, "t");
    assert_eq!(table["state"], "suspended", "{table}");
    assert_eq!(rows(&mut ours, &all).await, before, "it stays where it stood");
    // While it waits, a kill does it no harm.
    sync.kill();
    sync.spawn();
    sync.caught_up(&source, &db).await;
    let mut ours = sync.connect().await;
    ours.query_drop(format!("ALTER TABLE {db}.t MODIFY COLUMN n BIGINT NULL")).await.unwrap();
    let resumed = sync.command(&["resume", "job", &format!("{db}.t")]);
    assert_eq!(resumed.code, 0, "{resumed:?}");
    sync.caught_up(&source, &db).await;
    assert_eq!(status(&sync, "t").1["state"], "live");
    let behind = ["1 x 11 0", "3 z 3 30", "4 w 4 0", "5 - 5 0", "6 - 6 0", "7 - 5000000000 0"];
    assert_eq!(rows(&mut ours, &all).await, behind);
    assert_eq!(verified(&sync, "t").0.code, 0);
}

/// The targets do the same as far as they can, and go on where they cannot.
pub(crate) async fn try_evolve(source: Source) {
    let _turn = source.shared().await;
    let (db, mut sync) = start(&source, "tried", "try_evolve").await;
    change(&source, &mut sync, &db).await;
    let (mut theirs, mut ours) = (source.connect().await, sync.connect().await);
    assert_eq!(assert_table(&mut theirs, &mut ours, &db, "t").await, 5);
    assert_eq!(assert_table(&mut theirs, &mut ours, &db, "other").await, 1);
    assert!(ours.query_drop(format!("SELECT * FROM {db}.dropped")).await.is_err());
    assert!(status(&sync, "t").1["left_out"].is_null());
    // The warehouse does not narrow columns in place.
    source
        .run(&format!(
            "USE {db};\nALTER TABLE t MODIFY n SMALLINT, ADD COLUMN late INT;\nINSERT INTO t (id, n, late) VALUES (6, 6, 7)"
        ))
        .await;
    sync.caught_up(&source, &db).await;
    let (_, table) = status(&sync, "t");
    let note = table["left_out"][0].as_str().unwrap_or_else(|| panic!("{table}"));
    assert!(table["state"] == "live" && note.contains("because the target refused"), "{table}");
    assert_eq!(
        rows(&mut ours, &format!("SELECT id, n FROM {db}.t ORDER BY id")).await,
        ["1 11", "2 2", "3 3", "4 4", "5 5", "6 6"]
    );
    assert_eq!(verified(&sync, "t").0.code, 0);
}

/// What a target cannot do suspends its table; the others go on.
pub(crate) async fn evolve(source: Source) {
    let _turn = source.shared().await;
    let (db, mut sync) = start(&source, "evolved", "evolve").await;
    change(&source, &mut sync, &db).await;
    source.run(&format!("USE {db};\nALTER TABLE t MODIFY n SMALLINT;\nINSERT INTO other VALUES (7, 'r')")).await;
    sync.caught_up(&source, &db).await;
    let (mut theirs, mut ours) = (source.connect().await, sync.connect().await);
    assert_eq!(assert_table(&mut theirs, &mut ours, &db, "other").await, 2);
    let (_, table) = status(&sync, "t");
    assert!(
        table["state"] == "suspended" && table["error"]["message"].as_str().unwrap().contains("in place"),
        "{table}"
    );
    sync.resync(Some(&format!("{db}.t"))).await;
    sync.caught_up(&source, &db).await;
    assert_eq!(assert_table(&mut theirs, &mut ours, &db, "t").await, 5);
}

/// The first change suspends the table, with words on how to go on; the others go on.
pub(crate) async fn exception(source: Source) {
    let _turn = source.shared().await;
    let (db, mut sync) = start(&source, "refused", "exception").await;
    source
        .run(&format!(
            "USE {db};\nALTER TABLE t COMMENT = 'nothing';\nINSERT INTO t VALUES (3, 'z', 3, 30);\n\
             ALTER TABLE t ADD COLUMN more INT;\nINSERT INTO t (id, more) VALUES (4, 4);\n\
             INSERT INTO other VALUES (3, 'q');\nDROP TABLE dropped"
        ))
        .await;
    sync.caught_up(&source, &db).await;
    let (mut theirs, mut ours) = (source.connect().await, sync.connect().await);
    assert_eq!(assert_table(&mut theirs, &mut ours, &db, "other").await, 3);
    assert_eq!(rows(&mut ours, &format!("SELECT id FROM {db}.t ORDER BY id")).await, ["1", "2", "3"]);
    assert_eq!(rows(&mut ours, &format!("SELECT id FROM {db}.dropped")).await, ["9"]);
    for (name, words) in [("t", format!("freshet resync job {db}.t")), ("dropped", "its target keeps".into())] {
        let (_, table) = status(&sync, name);
        assert_eq!(table["state"], "suspended", "{table}");
        assert!(table["error"]["message"].as_str().unwrap().contains("exception"), "{table}");
        assert!(table["error"]["hint"].as_str().unwrap().contains(&words), "{table}");
    }
    // There is nothing to go on with: the definition has to be taken over.
    let resumed = sync.command(&["resume", "job", &format!("{db}.t")]);
    assert!(resumed.code != 0 && resumed.stderr.contains("freshet resync"), "{resumed:?}");
    let resync = sync.command(&["resync", "job", &format!("{db}.t")]);
    assert_eq!(resync.code, 0, "{resync:?}");
    sync.caught_up(&source, &db).await;
    assert_eq!(assert_table(&mut theirs, &mut ours, &db, "t").await, 4);
    // The same command goes on; one with another policy is another job.
    assert_eq!(sync.terminate(), Some(0));
    let other = sync.command(&["sync", &source.url, "--tables", &format!("{db}.t"), "--name", "job"]);
    assert_eq!(other.code, 2, "{other:?}");
}
