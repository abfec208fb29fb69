//! The source goes away as a whole: its password changes, another server answers at the address, its log is reset. Each
//! ends in words that say what to do, and what they say brings the job back.

use std::time::{Duration, Instant};

use freshet_tests::compare::assert_table;
use freshet_tests::freshet::{Sync, escape, prepare_mark};
use freshet_tests::source::{Flavour, Source};
use mysql_async::prelude::Queryable;

const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until the job has failed, which ends its process, and returns what it said.
async fn failed(sync: &mut Sync) -> String {
    let start = Instant::now();
    while sync.runs() {
        assert!(start.elapsed() < PATIENCE, "the job goes on: {}", sync.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let status = sync.command(&["status", "job"]);
    assert!(status.stdout.contains("failed"), "{status:?}");
    status.stdout
}

pub(crate) async fn and_comes_back(source: Source) {
    let _turn = source.alone().await;
    let db = source.database("away").await;
    prepare_mark(&source, &db).await;
    let mut theirs = source.connect().await;
    let user = "away";
    for sql in [
        format!("CREATE TABLE {db}.t (id INT PRIMARY KEY, v VARCHAR(20))"),
        format!("INSERT INTO {db}.t VALUES (1, 'one'), (2, 'two')"),
        format!("DROP USER IF EXISTS {user}@'%'"),
        format!("CREATE USER {user}@'%' IDENTIFIED BY 'sesame1'"),
        format!("GRANT SELECT, REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO {user}@'%'"),
    ] {
        theirs.query_drop(sql).await.unwrap();
    }
    let tables = format!("{}.*", escape(&db));
    let first = source.url_as(user, "sesame1");
    let mut sync = Sync::new(&first, &tables, &[]);
    sync.spawn();
    sync.caught_up(&source, &db).await;

    // Another password. The sessions that are open go, as with an administrator who means it.
    theirs.query_drop(format!("ALTER USER {user}@'%' IDENTIFIED BY 'sesame2'")).await.unwrap();
    let sessions = format!("SELECT id FROM information_schema.processlist WHERE user = '{user}'");
    for id in theirs.query::<u64, _>(sessions).await.unwrap() {
        let _ = theirs.query_drop(format!("KILL {id}")).await;
    }
    theirs.query_drop(format!("UPDATE {db}.t SET v = 'while away' WHERE id = 1")).await.unwrap();
    let said = failed(&mut sync).await;
    assert!(said.contains("password") && !said.contains("sesame"), "{said}");
    let wrong = sync.command(&["resume", "job", "--source", &source.url_as(user, "sesame3")]);
    assert!(wrong.code != 0 && wrong.stderr.contains("password") && !wrong.stderr.contains("sesame"), "{wrong:?}");
    let kind = sync.command(&["resume", "job", "--source", "generator://shop"]);
    assert!(kind.code != 0 && kind.stderr.contains("no table matches"), "{kind:?}");
    let refused = {
        let mut other =
            Sync::new(&source.url_as(user, "sesame2"), &tables, &[]).in_directory(sync.data().to_path_buf());
        other.spawn();
        while other.runs() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        other.log()
    };
    assert!(refused.contains("freshet resume job --source URL"), "{refused}");
    // The same server under another name, too.
    let second = source.url_as(user, "sesame2").replace("127.0.0.1", "localhost");
    let resumed = sync.command(&["resume", "job", "--source", &second]);
    assert_eq!(resumed.code, 0, "{resumed:?}");
    let mut sync = Sync::new(&second, &tables, &[]).in_directory(sync.data().to_path_buf());
    sync.spawn();
    sync.caught_up(&source, &db).await;
    assert_eq!(assert_table(&mut theirs, &mut sync.connect().await, &db, "t").await, 2);

    // A server with another history takes the place, while the job runs.
    let flavours = [Flavour::MariaDb, Flavour::MySql];
    if let Some(other) = flavours.into_iter().filter(|f| *f != source.flavour).find_map(Source::find) {
        let refused = sync.command(&["resume", "job", "--source", &other.url]);
        assert!(refused.code == 3 && refused.stderr.contains("no table"), "{refused:?}");
        // One on which tables of these names are.
        other.run(&format!("CREATE DATABASE {db};\nCREATE TABLE {db}.t (id INT PRIMARY KEY, v VARCHAR(20))")).await;
        let moved = sync.command(&["resume", "job", "--source", &other.url]);
        assert_eq!(moved.code, 0, "{moved:?}");
        let said = failed(&mut sync).await;
        assert!(said.contains("another server") || said.contains("MariaDB"), "{said}");
        let back = sync.command(&["resume", "job", "--source", &second]);
        assert_eq!(back.code, 0, "{back:?}");
        theirs.query_drop(format!("INSERT INTO {db}.t VALUES (3, 'three')")).await.unwrap();
        sync.spawn();
        sync.caught_up(&source, &db).await;
        assert_eq!(assert_table(&mut theirs, &mut sync.connect().await, &db, "t").await, 3);
    }

    // The log is gone.
    assert_eq!(sync.command(&["pause", "job"]).code, 0);
    theirs.query_drop(format!("DELETE FROM {db}.t WHERE id = 2")).await.unwrap();
    let reset = if source.flavour == Flavour::MySql { "RESET BINARY LOGS AND GTIDS" } else { "RESET MASTER" };
    theirs.query_drop(reset).await.unwrap();
    let _ = sync.command(&["resume", "job"]);
    let said = failed(&mut sync).await;
    assert!(said.contains("reset") && said.contains("freshet resync"), "{said}");
    let anew = sync.command(&["resync", "job"]);
    assert_eq!(anew.code, 0, "{anew:?}");
    sync.spawn();
    sync.caught_up(&source, &db).await;
    assert_table(&mut theirs, &mut sync.connect().await, &db, "t").await;
    theirs.query_drop(format!("DROP USER {user}@'%'")).await.unwrap();
}
