//! The comparison that all other tests rely on sees what it should: two real servers stand for source and target.

use freshet_tests::compare::compare_table;
use freshet_tests::quote;
use freshet_tests::source::{Flavour, Source};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn comparison_sees_differences() {
    let Some(mariadb) = Source::find_or_skip(Flavour::MariaDb, "mariadb::comparison_sees_differences") else { return };
    let Some(mysql) = Source::find_or_skip(Flavour::MySql, "mysql::comparison_sees_differences") else { return };
    let _turns = (mariadb.shared().await, mysql.shared().await);
    let db = mariadb.database("comparison").await;
    mysql.run(&format!("CREATE DATABASE {}", quote(&db))).await;
    let table = format!(
        "USE {db};\nCREATE TABLE t (id INT, k VARCHAR(5), f DOUBLE, d DECIMAL(10,3), b VARBINARY(9), at TIMESTAMP(3) NULL, \
         PRIMARY KEY (id, k));\nINSERT INTO t VALUES (1, 'a', 0.1, 1.5, x'00FF', '2024-01-01 00:00:00.5'), (2, 'b', NULL, NULL, NULL, NULL)"
    );
    mariadb.run(&table).await;
    mysql.run(&table).await;
    assert_eq!(compare(&mariadb, &mysql, &db).await, Ok(2));
    for (change, back, expected) in [
        ("UPDATE t SET b = x'00FE' WHERE id = 1", "UPDATE t SET b = x'00FF' WHERE id = 1", "b varbinary(9)"),
        (
            "UPDATE t SET d = 0 WHERE id = 2",
            "UPDATE t SET d = NULL WHERE id = 2",
            "source None, target Some(\"0.000\")",
        ),
        (
            "UPDATE t SET at = '2024-01-01 00:00:01.5' WHERE id = 1",
            "UPDATE t SET at = '2024-01-01 00:00:00.5' WHERE id = 1",
            "at timestamp(3)",
        ),
        ("INSERT INTO t (id, k) VALUES (3, 'c')", "DELETE FROM t WHERE id = 3", "(3, c) is in the target only"),
        ("UPDATE t SET id = 4 WHERE id = 2", "UPDATE t SET id = 2 WHERE id = 4", "(2, b) is missing in the target"),
        ("ALTER TABLE t ADD COLUMN more INT", "ALTER TABLE t DROP COLUMN more", "in place of"),
    ] {
        mysql.run(&format!("USE {db};\n{change}")).await;
        let said = compare(&mariadb, &mysql, &db).await.unwrap_err();
        assert!(said.contains(expected), "{expected:?} is not in {said}");
        mysql.run(&format!("USE {db};\n{back}")).await;
    }
    assert_eq!(compare(&mariadb, &mysql, &db).await, Ok(2));
}

async fn compare(source: &Source, target: &Source, database: &str) -> Result<usize, String> {
    compare_table(&mut source.connect().await, &mut target.connect().await, database, "t").await
}
