//! The source goes away as a whole: its password changes, another server answers at the address, its log is reset. Each
//! ends in words that say what to do, and what they say brings the job back.

use std::time::{Duration, Instant};

use freshet_tests::compare::assert_table;
use freshet_tests::freshet::{Sync, escape, prepare_mark};
use freshet_tests::source::{Flavour, Source};
use mysql_async::prelude::Queryable;

const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until the job has failed, which ends its process, and returns what it said.
pub(crate) async fn failed(sync: &mut Sync) -> String {
    sync.ended(PATIENCE, "the job's failure").await;
    let status = sync.command(&["status", "job"]);
    assert!(status.stdout.contains("failed"), "{status:?}");
    status.stdout
}

/// The server dies, and its replica takes over by GTID: the job goes on there, and misses nothing.
pub(crate) async fn a_replica_takes_over(source: Source) {
    let name = if source.flavour == Flavour::MySql { "MYSQL2" } else { "MARIADB2" };
    let Some(replica) = Source::named_or_skip(source.flavour, name, "away::a_replica_takes_over") else { return };
    let _turn = source.alone().await;
    let db = source.database("takeover").await;
    prepare_mark(&source, &db).await;
    let tables = format!("CREATE TABLE {db}.t (id INT PRIMARY KEY, v VARCHAR(20))");
    let rows = format!("INSERT INTO {db}.t VALUES (1, 'one'), (2, 'two')");
    source.run(&format!("{tables};\n{rows}")).await;
    replica.kill();
    replica.start(&[]);
    // It begins with what the source has now.
    let setting = if source.flavour == Flavour::MySql { "@@gtid_executed" } else { "@@gtid_binlog_pos" };
    let mut theirs = source.connect().await;
    let gtids: String = theirs.query_first(format!("SELECT {setting}")).await.unwrap().unwrap();
    let (port, password) = (source.port(), source.password());
    let mut begin = match source.flavour {
        Flavour::MySql => vec!["STOP REPLICA", "RESET REPLICA ALL", "RESET BINARY LOGS AND GTIDS"],
        Flavour::MariaDb => vec!["STOP SLAVE", "RESET SLAVE ALL", "RESET MASTER"],
    };
    let mark = format!("CREATE TABLE {db}.zz_mark (id INT PRIMARY KEY, n BIGINT NOT NULL)");
    let database = format!("CREATE DATABASE {db}");
    begin.extend(["SET sql_log_bin = 0", &database, &mark, &tables, &rows, "SET sql_log_bin = 1"]);
    let (from, of, start, stop) = match source.flavour {
        Flavour::MySql => (
            format!("SET GLOBAL gtid_purged = '{}'", gtids.replace('\n', "")),
            format!(
                "CHANGE REPLICATION SOURCE TO SOURCE_HOST='127.0.0.1', SOURCE_PORT={port}, SOURCE_USER='root', \
                 SOURCE_PASSWORD='{password}', SOURCE_AUTO_POSITION=1, GET_SOURCE_PUBLIC_KEY=1"
            ),
            "START REPLICA",
            "STOP REPLICA",
        ),
        Flavour::MariaDb => (
            format!("SET GLOBAL gtid_slave_pos = '{gtids}'"),
            format!(
                "CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={port}, MASTER_USER='root', \
                 MASTER_PASSWORD='{password}', MASTER_USE_GTID=slave_pos"
            ),
            "START SLAVE",
            "STOP SLAVE",
        ),
    };
    begin.extend([&*from, &*of, start]);
    replica.run(&begin.join(";\n")).await;

    let mut sync = Sync::start(&source, &db);
    sync.caught_up(&source, &db).await;
    theirs.query_drop(format!("ALTER TABLE {db}.t ADD COLUMN w INT DEFAULT 7")).await.unwrap();
    theirs.query_drop(format!("UPDATE {db}.t SET v = 'before', w = 8 WHERE id = 1")).await.unwrap();
    sync.caught_up(&source, &db).await;
    let last = format!("SELECT n FROM {db}.zz_mark WHERE id = 1");
    let mark = theirs.query_first::<u64, _>(&last).await.unwrap();
    let mut ours = replica.connect().await;
    let begun = Instant::now();
    while ours.query_first::<u64, _>(&last).await.unwrap() != mark {
        assert!(begun.elapsed() < PATIENCE, "the replica does not follow");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    source.kill();
    replica.run(stop).await;
    for sql in [
        format!("INSERT INTO {db}.t VALUES (3, 'behind', 9)"),
        format!("ALTER TABLE {db}.t RENAME COLUMN v TO name"),
        format!("UPDATE {db}.t SET name = 'renamed' WHERE id = 2"),
    ] {
        ours.query_drop(sql).await.unwrap();
    }
    let moved = sync.command(&["resume", "job", "--source", &replica.url]);
    assert_eq!(moved.code, 0, "{moved:?}");
    sync.caught_up(&replica, &db).await;
    assert_eq!(assert_table(&mut ours, &mut sync.connect().await, &db, "t").await, 3);
    let copied: u64 = copied_rows(&mut sync, "t").await;
    assert_eq!(copied, 2, "it was not copied again");
    // The new server is the job's, also after a kill.
    sync.kill();
    ours.query_drop(format!("DELETE FROM {db}.t WHERE id = 1")).await.unwrap();
    let mut again = Sync::new(&replica.url, &format!("{}.*", escape(&db)), &[]).in_directory(sync.data().to_path_buf());
    again.spawn();
    again.caught_up(&replica, &db).await;
    assert_eq!(assert_table(&mut ours, &mut again.connect().await, &db, "t").await, 2);
    source.start(&[]);
}

async fn copied_rows(sync: &mut Sync, table: &str) -> u64 {
    let sql = format!("SELECT rows_copied FROM information_schema.freshet_tables WHERE source LIKE '%.{table}'");
    sync.connect().await.query_first(sql).await.unwrap().unwrap()
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
        other.ended(PATIENCE, "another source").await;
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
