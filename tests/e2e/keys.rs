//! Keys of several columns, of text and of bytes, with values that sort oddly; names that need quoting.

use freshet_tests::compare::{assert_equal, count};
use freshet_tests::freshet::{Sync, prepare_mark};
use freshet_tests::quote;
use freshet_tests::source::Source;

/// Every kind of key, with enough rows for several splits, changed in the middle of them.
pub(crate) async fn composite_and_text_keys(source: Source) {
    let _turn = source.shared().await;
    let db = source.database("keys").await;
    prepare_mark(&source, &db).await;
    source.run(&format!("USE {db};\n\
        CREATE TABLE pair (b VARCHAR(20) NOT NULL, n INT, a INT NOT NULL, PRIMARY KEY (a, b));\n\
        CREATE TABLE word (w VARCHAR(40) NOT NULL PRIMARY KEY, n INT);\n\
        CREATE TABLE bin (k VARBINARY(16) NOT NULL PRIMARY KEY, n INT);\n\
        CREATE TABLE big (k BIGINT UNSIGNED NOT NULL PRIMARY KEY, n INT);\n\
        CREATE TABLE day (d DATE NOT NULL, t TIME(3) NOT NULL, e ENUM('z','a','m') NOT NULL, n DECIMAL(20,4) NOT NULL, PRIMARY KEY (d, t, e, n));\n\
        CREATE TABLE nothing (id INT NOT NULL PRIMARY KEY);\n\
        CREATE TABLE digits (n INT);\n\
        INSERT INTO digits VALUES (0),(1),(2),(3),(4),(5),(6),(7),(8),(9);\n\
        CREATE VIEW numbers AS SELECT a.n + 10*b.n + 100*c.n + 1000*d.n AS n FROM digits a, digits b, digits c, digits d;\n\
        INSERT INTO pair SELECT CONCAT('k', n % 7), n, n DIV 7 FROM numbers;\n\
        INSERT INTO word SELECT CONCAT(ELT(n % 4 + 1, 'a', 'Z', 'é', '日'), n), n FROM numbers;\n\
        INSERT INTO bin SELECT UNHEX(LEFT(SHA2(n, 256), 32)), n FROM numbers;\n\
        INSERT INTO big SELECT 18446744073709551615 - n * 1000003, n FROM numbers;\n\
        INSERT INTO day SELECT '2024-01-01' + INTERVAL n % 50 DAY, SEC_TO_TIME(n DIV 50 - 100), n % 3 + 1, n / 8 FROM numbers;\n\
        DROP VIEW numbers;\nDROP TABLE digits")).await;
    let mut sync = Sync::start(&source, &db);
    sync.caught_up(&source, &db).await;
    let (mut theirs, mut ours) = (source.connect().await, sync.connect().await);
    assert_equal(&mut theirs, &mut ours, &db).await;
    assert_eq!(count(&mut ours, &db, "word").await, 10_000);

    source.run(&format!("USE {db};\n\
        UPDATE pair SET a = a + 100000 WHERE a % 3 = 0;\n\
        UPDATE pair SET b = CONCAT(b, 'x') WHERE a % 5 = 0;\n\
        UPDATE word SET w = CONCAT(w, '!') WHERE n % 10 = 0;\n\
        DELETE FROM word WHERE n % 11 = 0;\n\
        UPDATE word SET n = -n WHERE n % 2 = 0;\n\
        UPDATE bin SET k = REVERSE(k) WHERE n % 4 = 0;\n\
        DELETE FROM big WHERE n % 2 = 0;\n\
        INSERT INTO big VALUES (0, 0), (9223372036854775808, 1);\n\
        UPDATE day SET e = 'z', n = -n WHERE n > 100;\n\
        BEGIN;\nDELETE FROM nothing;\nINSERT INTO nothing VALUES (1),(2);\nUPDATE nothing SET id = 3 WHERE id = 1;\nUPDATE nothing SET id = 1 WHERE id = 2;\nUPDATE nothing SET id = 2 WHERE id = 3;\nCOMMIT")).await;
    sync.caught_up(&source, &db).await;
    assert_equal(&mut theirs, &mut ours, &db).await;
}

/// Databases, tables and columns whose names are SQL words, hold quotes, spaces, dots and other alphabets.
pub(crate) async fn odd_names(source: Source) {
    let _turn = source.shared().await;
    let db = source.database("odd name.é`x").await;
    prepare_mark(&source, &db).await;
    let tables = ["select", "two words", "dotted.name", "tick`tick", "naïve_日本", "UPPER", "1digit", "per%cent*"];
    let mut statements = Vec::new();
    for table in tables {
        let name = format!("{}.{}", quote(&db), quote(table));
        statements.push(format!(
            "CREATE TABLE {name} (`order` INT NOT NULL, `the ``value``` VARCHAR(20), `from.to` INT, `größe` INT, \
             PRIMARY KEY (`order`))"
        ));
        statements.push(format!("INSERT INTO {name} VALUES (1, 'a', 2, 3), (2, NULL, NULL, 4)"));
    }
    source.run(&statements.join(";\n")).await;
    let mut sync = Sync::start(&source, &db);
    sync.caught_up(&source, &db).await;
    let (mut theirs, mut ours) = (source.connect().await, sync.connect().await);
    assert_equal(&mut theirs, &mut ours, &db).await;

    let mut statements = Vec::new();
    for table in tables {
        let name = format!("{}.{}", quote(&db), quote(table));
        statements.push(format!("INSERT INTO {name} VALUES (3, 'b', 5, 6)"));
        statements.push(format!("UPDATE {name} SET `größe` = 7, `order` = 10 WHERE `order` = 1"));
        statements.push(format!("ALTER TABLE {name} ADD COLUMN `drop table` INT DEFAULT 5 AFTER `order`"));
        statements.push(format!("UPDATE {name} SET `drop table` = 6 WHERE `order` = 10"));
    }
    source.run(&statements.join(";\n")).await;
    sync.caught_up(&source, &db).await;
    assert_equal(&mut theirs, &mut ours, &db).await;
}
