//! Jobs as SQL: the tables and statements by which a MySQL client sees and steers them, over a real job.

use std::time::{Duration, Instant};

use freshet_tests::compare::{assert_equal, count};
use freshet_tests::freshet::{PATIENCE, Sync, prepare_mark};
use freshet_tests::source::Source;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};

/// The names of the columns, and the rows as texts (NULL: `-`), in order.
async fn ask(conn: &mut Conn, sql: &str) -> (Vec<String>, Vec<Vec<String>>) {
    let mut result = conn.query_iter(sql).await.unwrap_or_else(|e| panic!("{e}\nin: {sql}"));
    let names = result.columns_ref().iter().map(|c| c.name_str().into_owned()).collect();
    let rows: Vec<Row> = result.collect().await.unwrap();
    let text = |row: Row| row.unwrap().into_iter().map(mysql_async::from_value::<Option<String>>);
    (names, rows.into_iter().map(|r| text(r).map(|v| v.unwrap_or_else(|| "-".into())).collect()).collect())
}

/// One column of one row.
async fn value(conn: &mut Conn, sql: &str) -> String {
    let (_, rows) = ask(conn, sql).await;
    assert_eq!((rows.len(), rows.first().map(Vec::len)), (1, Some(1)), "{sql}: {rows:?}");
    rows[0][0].clone()
}

/// Waits until a query gives this value.
async fn until(conn: &mut Conn, sql: &str, wanted: impl Fn(&str) -> bool) -> String {
    let start = Instant::now();
    loop {
        let found = value(conn, sql).await;
        if wanted(&found) {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "{sql}: {found}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// What `SHOW JOBS` and its like say of a job with a suspended table; a pause, going on, and the end of the job.
pub(crate) async fn jobs_as_sql(source: Source) {
    let _turn = source.shared().await;
    let db = source.database("jobs_sql").await;
    prepare_mark(&source, &db).await;
    source
        .run(&format!(
            "USE {db};\nCREATE TABLE t (id INT PRIMARY KEY);\nINSERT INTO t VALUES (1), (2);\n\
             CREATE TABLE places (id INT PRIMARY KEY, at POINT);\nINSERT INTO places (id) VALUES (1)"
        ))
        .await;
    let mut sync = Sync::start(&source, &db);
    sync.caught_up(&source, &db).await;
    let mut ours = sync.connect().await;

    let (names, rows) = ask(&mut ours, "SHOW JOBS").await;
    let expected = "name state source sink position lag_seconds lag_bytes tables rows_copied changes flushes \
                    schema_changes left_out reason fix";
    assert_eq!(names.join(" "), expected);
    assert_eq!((rows.len(), rows[0][0].as_str(), rows[0][1].as_str()), (1, "job", "streaming"), "{rows:?}");
    assert!(rows[0][2].contains(":***@") && rows[0][7] == "3" && rows[0][13] == "-", "{rows:?}");
    let (_, same) = ask(&mut ours, "SELECT name, tables FROM information_schema.freshet_jobs WHERE name = 'job'").await;
    assert_eq!(same, [["job", "3"]]);

    let (names, rows) = ask(&mut ours, "SHOW JOB TABLES").await;
    let expected = "job source target state rows_estimated rows_copied splits_done splits changes left_out reason fix";
    assert_eq!(names.join(" "), expected);
    let mut states: Vec<(&str, &str)> = rows.iter().map(|r| (r[1].as_str(), r[3].as_str())).collect();
    states.sort_unstable();
    let name = |table: &str| format!("{db}.{table}");
    let (places, t, mark) = (name("places"), name("t"), name("zz_mark"));
    assert_eq!(states, [(places.as_str(), "suspended"), (t.as_str(), "live"), (mark.as_str(), "live")]);
    let (_, of_job) = ask(&mut ours, "SHOW JOB TABLES FOR job").await;
    assert_eq!(of_job.len(), 3);
    let (_, of_other) = ask(&mut ours, "SHOW JOB TABLES FOR 'other'").await;
    assert!(of_other.is_empty(), "{of_other:?}");

    let (names, rows) = ask(&mut ours, "SHOW JOB ERRORS FOR job").await;
    assert_eq!(names, ["job", "source_table", "kind", "reason", "fix"]);
    assert_eq!((rows.len(), rows[0][0].as_str(), rows[0][1].as_str()), (1, "job", places.as_str()), "{rows:?}");
    assert_eq!(rows[0][2], "unsupported", "{rows:?}");
    assert!(rows[0][3].contains("point") && rows[0][3].contains("at") && rows[0][4].len() > 10, "{rows:?}");
    let filtered = format!("SELECT kind FROM information_schema.freshet_errors WHERE source_table = '{places}'");
    assert_eq!(value(&mut ours, &filtered).await, "unsupported");
    let (_, all) = ask(&mut ours, "SHOW JOB ERRORS").await;
    assert_eq!(all, rows);

    // Paused it stands still, resumed it goes on.
    let state = "SELECT state FROM information_schema.freshet_jobs";
    ours.query_drop("PAUSE JOB WHERE jobname = 'job'").await.unwrap();
    assert_eq!(value(&mut ours, state).await, "paused");
    source.run(&format!("INSERT INTO {t} VALUES (3)")).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(count(&mut ours, &db, "t").await, 2);
    ours.query_drop("RESUME JOB WHERE jobname = 'job'").await.unwrap();
    sync.caught_up(&source, &db).await;
    assert_eq!(value(&mut ours, state).await, "streaming");
    source.run(&format!("DROP TABLE {places}")).await;
    sync.caught_up(&source, &db).await;
    assert_equal(&mut source.connect().await, &mut ours, &db).await;

    for statement in ["PAUSE JOB WHERE jobname = 'jbo'", "DROP JOB WHERE jobname = 'jbo'"] {
        let said = ours.query_drop(statement).await.unwrap_err().to_string();
        assert!(said.contains("no job named jbo") && said.contains("did you mean job?"), "{said}");
    }
    ours.query_drop("DROP JOB IF EXISTS WHERE jobname = 'jbo'").await.unwrap();
    ours.query_drop("DROP JOB WHERE jobname = 'job'").await.unwrap();
    for statement in ["SHOW JOBS", "SHOW JOB TABLES", "SHOW JOB ERRORS"] {
        assert!(ask(&mut ours, statement).await.1.is_empty(), "{statement}");
    }
    assert_eq!(count(&mut ours, &db, "t").await, 3, "dropping a job keeps its tables");
}

/// A job that stands still while its source goes on says how far it is behind, in bytes and in seconds; level, that it is
/// not.
pub(crate) async fn lag(source: Source) {
    let _turn = source.shared().await;
    let db = source.database("lag").await;
    prepare_mark(&source, &db).await;
    source.run(&format!("CREATE TABLE {db}.t (id INT PRIMARY KEY, v VARCHAR(200))")).await;
    let mut sync = Sync::new(&source.url, &format!("{db}.*"), &[]);
    sync.spawn_with_failpoints("ddl.intent=hang");
    sync.caught_up(&source, &db).await;
    let mut ours = sync.connect().await;
    // The schema change never ends.
    let rows: Vec<String> = (0..1000).map(|id| format!("({id}, REPEAT('x', 200))")).collect();
    source
        .run(&format!("USE {db};\nALTER TABLE t ADD COLUMN w INT;\nINSERT INTO t (id, v) VALUES {}", rows.join(", ")))
        .await;
    let (bytes, seconds) = (
        "SELECT lag_bytes FROM information_schema.freshet_jobs",
        "SELECT lag_seconds FROM information_schema.freshet_jobs",
    );
    let number = |text: &str| text.parse::<f64>().unwrap_or(0.0);
    until(&mut ours, bytes, |n| number(n) > 200_000.0).await;
    let at_first = number(&until(&mut ours, seconds, |n| number(n) > 1.0).await);
    until(&mut ours, seconds, |n| number(n) > at_first + 1.0).await;
    sync.kill();
    sync.spawn();
    sync.caught_up(&source, &db).await;
    let mut ours = sync.connect().await;
    until(&mut ours, bytes, |n| n == "0").await;
    until(&mut ours, seconds, |n| number(n) < 1.0).await;
    assert_eq!(count(&mut ours, &db, "t").await, 1000);
}
