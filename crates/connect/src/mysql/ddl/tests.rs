//! Statements and what they amount to, table by table.

use std::collections::HashMap;
use std::sync::Arc;

use freshet_core::{ColumnPosition, DefaultValue, TableChange, TableName, TablePattern, TableSchema};

use super::{Context, Parsed, Zone, database_charset, parse, timestamp_defaults};
use crate::mysql::types::Charsets;

type Tables = HashMap<TableName, Arc<TableSchema>>;

fn run(sql: &str, tables: &Tables) -> Parsed {
    run_in(Zone::UTC, sql, tables)
}

fn run_in(zone: Zone<'_>, sql: &str, tables: &Tables) -> Parsed {
    let charsets = Charsets { server: "latin1".into(), databases: [("shop".into(), "utf8mb4".into())].into() };
    let context = Context {
        default_database: "shop",
        ansi_quotes: false,
        no_backslash_escapes: false,
        charsets: &charsets,
        mariadb: true,
        lower_case_names: false,
        strict: true,
        zone,
    };
    parse(sql, &context, tables, &TablePattern::parse("shop.*,!shop.no*", None).unwrap())
}

/// A schema in one line: `c type [null] [=default] [#comment], … key(…)`.
fn show(schema: &TableSchema) -> String {
    let column = |c: &freshet_core::Column| {
        let null = if c.nullable { " null" } else { "" };
        let default = match &c.default {
            None => String::new(),
            Some(DefaultValue::Literal(text)) => format!(" ={text}"),
            Some(other) => format!(" ={other:?}"),
        };
        let comment = if c.comment.is_empty() { String::new() } else { format!(" #{}", c.comment) };
        format!("{} {}{null}{default}{comment}", c.name, c.source_type)
    };
    let columns: Vec<_> = schema.columns.iter().map(column).collect();
    let comment = if schema.comment.is_empty() { String::new() } else { format!(" #{}", schema.comment) };
    format!("{} key({}){comment}", columns.join(", "), schema.key.join(","))
}

fn show_step((name, change): &(TableName, TableChange)) -> String {
    let place = |p: &ColumnPosition| match p {
        ColumnPosition::Last => String::new(),
        ColumnPosition::First => " first".into(),
        ColumnPosition::After(a) => format!(" after {a}"),
    };
    let table = &name.table;
    match change {
        TableChange::CreateTable(s) => format!("{table}: create {}", show(s)),
        TableChange::DropTable => format!("{table}: drop"),
        TableChange::Truncate => format!("{table}: truncate"),
        TableChange::RenameTable { to } => format!("{table}: rename {to}"),
        TableChange::AddColumn { column, position } => {
            let one = TableSchema {
                name: name.clone(),
                columns: vec![column.clone()],
                key: vec![],
                comment: String::new(),
                source_defaults: String::new(),
            };
            format!("{table}: add {}{}", show(&one).trim_end_matches(" key()"), place(position))
        }
        TableChange::DropColumn { name } => format!("{table}: drop {name}"),
        TableChange::RenameColumn { from, to } => format!("{table}: rename {from} {to}"),
        TableChange::ChangeType { name, from, to, source_type } => {
            format!("{table}: type {name} {from} -> {to} {source_type}")
        }
        TableChange::MoveColumn { name, position } => format!("{table}: move {name}{}", place(position)),
        TableChange::SetDefault { name, default } => format!("{table}: default {name} {default:?}"),
        TableChange::SetNullable { name, nullable } => format!("{table}: nullable {name} {nullable}"),
        TableChange::SetColumnComment { name, comment } => format!("{table}: comment {name} {comment}"),
        TableChange::SetTableComment { comment } => format!("{table}: comment {comment}"),
        TableChange::SetSourceDefaults { source_defaults } => format!("{table}: new columns {source_defaults}"),
        TableChange::ChangeKey { key } => format!("{table}: key {}", key.join(",")),
        TableChange::Rewrite { reason, .. } => format!("{table}: rewrites rows: {reason}"),
        TableChange::ReplaceBy { shadow } => format!("{table}: replaced by {shadow}"),
    }
}

fn outcome(sql: &str, tables: &Tables) -> String {
    match run(sql, tables) {
        Parsed::Unrelated => "-".into(),
        Parsed::Changes(steps) => steps.iter().map(show_step).collect::<Vec<_>>().join("; "),
        Parsed::CannotFollow { tables, why } => {
            assert!(why.context.iter().any(|(k, _)| k == "statement"), "{why}");
            let tables: Vec<_> = tables.iter().map(ToString::to_string).collect();
            format!("! {}: {}", tables.join(" "), why.message)
        }
    }
}

/// The followed tables after these statements.
fn followed(statements: &[&str]) -> Tables {
    let mut tables = Tables::new();
    for sql in statements {
        let Parsed::Changes(steps) = run(sql, &tables) else { panic!("{sql}: {:?}", run(sql, &tables)) };
        for (name, change) in steps {
            match change {
                TableChange::CreateTable(schema) => drop(tables.insert(name, Arc::new(schema))),
                change => {
                    let schema = tables.remove(&name).unwrap();
                    if let Some(after) = schema.after(&change).unwrap() {
                        tables.insert(after.name.clone(), Arc::new(after));
                    }
                }
            }
        }
    }
    tables
}

fn check(tables: &Tables, cases: &[(&str, &str)]) {
    for (sql, want) in cases {
        assert_eq!(outcome(sql, tables), *want, "{sql}");
    }
}

#[test]
fn create() {
    let tables = followed(&["CREATE TABLE t (id INT PRIMARY KEY, a VARCHAR(5) COMMENT 'x')"]);
    check(
        &tables,
        &[
            ("CREATE TABLE u (a INT)", "u: create a int null key()"),
            ("create table if not exists shop.u (a int)", "u: create a int null key()"),
            ("CREATE TABLE IF NOT EXISTS t (a INT)", "-"),
            ("CREATE TABLE other.u (a INT)", "-"),
            ("CREATE TABLE nope (a what)", "-"),
            ("CREATE TEMPORARY TABLE u (a INT)", "-"),
            ("CREATE OR REPLACE TABLE t (a INT)", "t: drop; t: create a int null key()"),
            ("CREATE TABLE u LIKE t", "u: create id int, a varchar(5) character set utf8mb4 null #x key(id)"),
            ("CREATE TABLE u (LIKE shop.t)", "u: create id int, a varchar(5) character set utf8mb4 null #x key(id)"),
            ("CREATE TABLE u LIKE x", "! shop.u: shop.x is not followed, so the columns of shop.u are not known"),
            ("CREATE TABLE u SELECT 1", "! shop.u: CREATE TABLE … SELECT does not name its columns"),
            ("CREATE TABLE `u` (\n `x` int(1) NOT NULL\n) START TRANSACTION", "u: create x int key()"),
            (
                "CREATE TABLE u (b INT NOT NULL, a BIGINT UNSIGNED NOT NULL AUTO_INCREMENT, PRIMARY KEY (a, `B`) USING BTREE, KEY k (b)) \
                 ENGINE=InnoDB AUTO_INCREMENT=5 DEFAULT CHARSET=latin1 COLLATE=latin1_bin COMMENT='it''s' ROW_FORMAT=DYNAMIC",
                "u: create b int, a bigint unsigned key(a,b) #it's",
            ),
            (
                "CREATE TABLE u (a INT, b INT NOT NULL, c INT NOT NULL, UNIQUE (a), UNIQUE KEY z (b), UNIQUE y (c, b), UNIQUE KEY e ((b + 1)))",
                "u: create a int null, b int unique key, c int unique key key(c,b)",
            ),
            ("CREATE TABLE u (a INT NOT NULL UNIQUE, b INT UNIQUE)", "u: create a int unique key, b int null key(a)"),
            (
                "CREATE TABLE u (a CHAR, b TEXT CHARSET utf8 COLLATE utf8_bin, c VARCHAR(3) COLLATE latin1_bin) CHARSET ascii",
                "u: create a char(1) character set ascii null, b text character set utf8mb3 null, c varchar(3) character set latin1 null key()",
            ),
            (
                "CREATE TABLE u (a NATIONAL VARCHAR(3), b NCHAR(2), c CHAR VARYING(4), d CHAR(3) BYTE, e LONG VARCHAR, f DOUBLE PRECISION UNSIGNED, g DEC(5), h BOOL, i CHARACTER(2) ASCII)",
                "u: create a varchar(3) character set utf8mb3 null, b char(2) character set utf8mb3 null, c varchar(4) character set utf8mb4 null, \
              d binary(3) null, e mediumtext character set utf8mb4 null, f double null, g decimal(5,0) null, h tinyint null, i char(2) character set latin1 null key()",
            ),
            (
                "CREATE TABLE u (a ENUM('x','y''z') NOT NULL DEFAULT 'x', b SET('p', 'q ') DEFAULT 'p,q', c YEAR DEFAULT 99, d BIT(4) DEFAULT b'101', e DECIMAL(5,2) DEFAULT 1.5, f DATE DEFAULT '2020-1-1', \
              g DATETIME(3) DEFAULT '2020-01-01', h VARBINARY(4) DEFAULT x'4142', i INT DEFAULT -7, j INT DEFAULT (1+2), k TIMESTAMP NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP, l DATETIME(6) DEFAULT NOW(6), m DATE DEFAULT '0000-00-00')",
                "u: create a enum('x','y''z') =x, b set('p','q') null =p,q, c year null =1999, d bit(4) null =5, e decimal(5,2) null =1.50, f date null =2020-01-01, \
              g datetime(3) null =2020-01-01 00:00:00.000, h varbinary(4) null =4142, i int null =-7, j int null =Expression(\"(1+2)\"), k timestamp null =CurrentTimestamp(0), l datetime(6) null =CurrentTimestamp(6), m date null =Expression(\"'0000-00-00'\") key()",
            ),
            (
                "CREATE TABLE u (`j` longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin DEFAULT NULL CHECK (json_valid(`j`)), k JSON, l longtext CHECK (json_valid(k)), m int CHECK (m > 0))",
                "u: create j json null, k json null, l longtext character set utf8mb4 null, m int null key()",
            ),
            (
                "CREATE TABLE u (a INT, b INT GENERATED ALWAYS AS (a + 1) VIRTUAL, c INT AS (a*2) STORED NOT NULL, d INT REFERENCES t (id) ON DELETE SET NULL ON UPDATE CASCADE COMMENT 'c')",
                "u: create a int null, b int generated null, c int generated, d int null #c key()",
            ),
            (
                "CREATE TABLE u (id SERIAL, a INT, CONSTRAINT fk FOREIGN KEY (a) REFERENCES t (id) ON DELETE CASCADE, CONSTRAINT CHECK (a > 1), FULLTEXT KEY x (a), CONSTRAINT pk PRIMARY KEY (id)) PARTITION BY HASH(id) PARTITIONS 4",
                "u: create id bigint unsigned, a int null key(id)",
            ),
            (
                "CREATE TABLE u (`select` INT, `tablé` INT, `a``b` INT, `first` INT, 表 INT)",
                "u: create select int null, tablé int null, a`b int null, first int null, 表 int null key()",
            ),
            (
                "/* c */ CREATE /*!50000 TABLE */ u (a INT /* x ' */, -- y\n b INT) /*!50100 PARTITION BY KEY() */",
                "u: create a int null, b int null key()",
            ),
            ("CREATE TABLE u (a GEOMETRY)", "! shop.u: column type geometry is not supported"),
            ("CREATE TABLE u (a VARCHAR(3) CHARSET gbk)", "! shop.u: character set gbk is not supported"),
            ("CREATE TABLE u (a INT) WITH SYSTEM VERSIONING", "! shop.u: the table is system-versioned"),
            ("CREATE TABLE u (a INT", "! shop.u: expected ), found the end"),
            ("CREATE TABLE u (a INT FROB)", "! shop.u: expected an attribute of a column, found 'FROB)'"),
        ],
    );
}

#[test]
fn tables() {
    let tables = followed(&[
        "CREATE TABLE t (id INT PRIMARY KEY)",
        "CREATE TABLE u (id INT PRIMARY KEY)",
        "CREATE TABLE v (a INT NOT NULL UNIQUE)",
    ]);
    check(
        &tables,
        &[
            ("DROP TABLE t", "t: drop"),
            ("DROP TABLE IF EXISTS `shop`.`t`, x, u /* generated by server */", "t: drop; u: drop"),
            ("DROP TABLE other.t", "-"),
            ("DROP TEMPORARY TABLE t", "-"),
            ("DROP VIEW t", "-"),
            ("DROP DATABASE shop", "t: drop; u: drop; v: drop"),
            ("CREATE OR REPLACE DATABASE shop", "t: drop; u: drop; v: drop"),
            ("DROP DATABASE IF EXISTS other", "-"),
            ("TRUNCATE t", "t: truncate"),
            ("TRUNCATE TABLE shop.t", "t: truncate"),
            ("TRUNCATE TABLE x", "-"),
            ("RENAME TABLE t TO t2, u TO other.u", "t: rename shop.t2; u: rename other.u"),
            ("RENAME TABLE t TO tmp, u TO t, tmp TO u", "t: rename shop.tmp; u: rename shop.t; tmp: rename shop.u"),
            ("RENAME TABLE x TO y2, other.a TO other.b", "x: rename shop.y2"),
            ("RENAME TABLE t TO no_old, no_new TO t", "t: rename shop.no_old; no_new: rename shop.t"),
            ("RENAME TABLE other.a TO other.b", "-"),
            ("RENAME USER a TO b", "-"),
            ("ALTER TABLE x ADD y what is this", "-"),
            ("ALTER TABLE no_new ENGINE=InnoDB, RENAME TO t9", "no_new: rename shop.t9"),
            ("DROP INDEX i ON t", "-"),
            ("DROP INDEX `PRIMARY` ON t", "t: key "),
            (
                "DROP INDEX i ON v",
                "! shop.v: the table has no primary key, and its unique key (a) may be the index i that was dropped",
            ),
            ("CREATE UNIQUE INDEX i ON t (id)", "-"),
            ("SET STATEMENT max_statement_time=5 FOR TRUNCATE TABLE t", "t: truncate"),
            ("GRANT ALL ON shop.t TO x", "-"),
            ("FLUSH TABLES t", "-"),
            ("ANALYZE TABLE t", "-"),
            ("CREATE PROCEDURE p() BEGIN DROP TABLE t; END", "-"),
            ("CREATE DEFINER=`a`@`b` TRIGGER x BEFORE INSERT ON t FOR EACH ROW SET @a = 1", "-"),
            ("ALTER DATABASE shop CHARACTER SET latin1", "-"),
            ("BEGIN", "-"),
            ("", "-"),
            ("'", "-"),
        ],
    );
}

#[test]
fn alter() {
    let tables = followed(&[
        "CREATE TABLE t (id INT PRIMARY KEY, a VARCHAR(5) DEFAULT 'q', b DECIMAL(5,2) NOT NULL COMMENT 'c', c INT)",
    ]);
    check(
        &tables,
        &[
            ("ALTER TABLE t ADD x INT", "t: add x int null"),
            (
                "ALTER ONLINE IGNORE TABLE IF EXISTS t WAIT 5 ADD COLUMN IF NOT EXISTS x INT FIRST",
                "t: add x int null first",
            ),
            ("ALTER TABLE t ADD COLUMN IF NOT EXISTS a INT", "-"),
            (
                "ALTER TABLE t ADD (x INT, y CHAR(2) COMMENT 'z'), ADD z INT AFTER `A`",
                "t: add x int null; t: add y char(2) character set utf8mb4 null #z; t: add z int null after a",
            ),
            ("ALTER TABLE t ADD x INT NOT NULL", "t: add x int =0; t: default x None"),
            (
                "ALTER TABLE t ADD x ENUM('p','q') NOT NULL, ADD y TIME(2) NOT NULL, ADD z VARCHAR(3) NOT NULL DEFAULT 'd'",
                "t: add x enum('p','q') =p; t: default x None; t: add y time(2) =00:00:00.00; t: default y None; t: add z varchar(3) character set utf8mb4 =d",
            ),
            ("ALTER TABLE t DROP a, DROP COLUMN IF EXISTS zz, DROP COLUMN `b` CASCADE", "t: drop a; t: drop b"),
            ("ALTER TABLE t ADD a INT, DROP a", "t: drop a; t: add a int null"),
            ("ALTER TABLE t RENAME COLUMN a TO aa", "t: rename a aa"),
            (
                "ALTER TABLE t RENAME COLUMN a TO c, RENAME COLUMN c TO a",
                "t: rename a __freshet_renamed_0; t: rename c a; t: rename __freshet_renamed_0 c",
            ),
            ("ALTER TABLE t CHANGE a aa VARCHAR(5) DEFAULT 'q'", "t: rename a aa"),
            (
                "ALTER TABLE t CHANGE COLUMN a `A` varchar(9) NOT NULL COMMENT 'n' AFTER b",
                "t: rename a A; t: type A string(5) -> string(9) varchar(9) character set utf8mb4; t: nullable A false; t: default A None; t: comment A n; t: move A after b",
            ),
            ("ALTER TABLE t MODIFY a VARCHAR(5) DEFAULT 'q'", "-"),
            ("ALTER TABLE t MODIFY a VARCHAR(5) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin DEFAULT 'q' AFTER id", "-"),
            ("ALTER TABLE t MODIFY id BIGINT", "t: type id int32 -> int64 bigint"),
            (
                "ALTER TABLE t MODIFY b DECIMAL(7,2) NOT NULL COMMENT 'c' FIRST",
                "t: type b decimal(5,2) -> decimal(7,2) decimal(7,2); t: move b first",
            ),
            (
                "ALTER TABLE t MODIFY b DECIMAL(7,1)",
                "t: type b decimal(5,2) -> decimal(7,1) decimal(7,1); t: nullable b true; t: comment b ; t: rewrites rows: column b: the change of type rounds values",
            ),
            (
                "ALTER TABLE t MODIFY a VARCHAR(5) CHARSET latin1",
                "t: type a string(5) -> string(5) varchar(5) character set latin1; t: default a None",
            ),
            (
                "ALTER TABLE t ALTER c SET DEFAULT 5, ALTER COLUMN a DROP DEFAULT",
                "t: default c Some(Literal(\"5\")); t: default a None",
            ),
            ("ALTER TABLE t RENAME TO u", "t: rename shop.u"),
            ("ALTER TABLE t ADD x INT, RENAME other.u", "t: add x int null; t: rename other.u"),
            ("ALTER TABLE t DROP PRIMARY KEY", "t: key "),
            ("ALTER TABLE t DROP PRIMARY KEY, ADD PRIMARY KEY (id, c)", "t: nullable c false; t: key id,c"),
            ("ALTER TABLE t DROP PRIMARY KEY, ADD CONSTRAINT pk PRIMARY KEY (id)", "-"),
            (
                "ALTER TABLE t DROP INDEX i, DROP FOREIGN KEY f, ADD INDEX (a), ADD UNIQUE u (c), ADD CONSTRAINT f FOREIGN KEY (c) REFERENCES t(id), ADD FULLTEXT (a), DROP CONSTRAINT x",
                "-",
            ),
            (
                "ALTER TABLE t ENGINE=InnoDB, AUTO_INCREMENT = 5 ROW_FORMAT=DYNAMIC, ALGORITHM=INPLACE, LOCK=NONE, FORCE",
                "-",
            ),
            ("ALTER TABLE t COMMENT='hello', RENAME INDEX a TO b, ALTER INDEX i INVISIBLE", "t: comment hello"),
            (
                "ALTER TABLE t DEFAULT CHARSET latin1, ADD x CHAR(3)",
                "t: new columns latin1; t: add x char(3) character set latin1 null",
            ),
            (
                "ALTER TABLE t ADD CONSTRAINT x CHECK (c > 1 AND (a <> 'b,c')), ADD CHECK (c < 9), ADD y INT",
                "t: add y int null",
            ),
            (
                "ALTER TABLE t ADD x DATETIME DEFAULT CURRENT_TIMESTAMP",
                "t: add x datetime null =CurrentTimestamp(0); t: rewrites rows: column x: the values in the rows that are there are the time of the statement",
            ),
            (
                "ALTER TABLE t ADD x INT DEFAULT (rand())",
                "t: add x int null =Expression(\"(rand())\"); t: rewrites rows: column x: the values in the rows that are there are (rand())",
            ),
            (
                "ALTER TABLE t ADD x INT AS (c + 1)",
                "t: add x int generated null; t: rewrites rows: column x: the values in the rows that are there are computed by the server",
            ),
            (
                "ALTER TABLE t ADD x INT AUTO_INCREMENT UNIQUE",
                "t: add x int null; t: rewrites rows: column x: the values in the rows that are there are computed by the server",
            ),
            (
                "ALTER TABLE t ADD x DATE NOT NULL",
                "t: add x date; t: rewrites rows: column x: the values in the rows that are there are a date that does not exist",
            ),
            ("ALTER TABLE t CONVERT TO CHARACTER SET utf8mb4", "-"),
            (
                "ALTER TABLE t DROP PARTITION p0",
                "t: rewrites rows: DROP PARTITION changes rows without writing them to the log",
            ),
            ("ALTER TABLE t ADD PARTITION (PARTITION p1 VALUES LESS THAN (5))", "-"),
            ("ALTER TABLE t MODIFY zz INT", "! shop.t: column zz is not known"),
            ("ALTER TABLE t ADD a INT", "! shop.t: column a exists already"),
            ("ALTER TABLE t ADD SYSTEM VERSIONING", "! shop.t: the table is system-versioned"),
            ("ALTER TABLE t FROB x", "! shop.t: expected a clause of ALTER TABLE, found 'FROB x'"),
        ],
    );
}

#[test]
fn rewrites() {
    let tables = followed(&[
        "CREATE TABLE t (id INT PRIMARY KEY, a VARCHAR(5), b INT, c TINYTEXT CHARSET latin1)",
        "CREATE TABLE o (id INT PRIMARY KEY)",
        "CREATE TABLE k (a INT NOT NULL, b INT)",
    ]);
    let partition = "changes rows without writing them to the log";
    check(
        &tables,
        &[
            (
                "ALTER TABLE t EXCHANGE PARTITION p WITH TABLE o WITHOUT VALIDATION",
                &format!(
                    "t: rewrites rows: EXCHANGE PARTITION {partition}; o: rewrites rows: rows are exchanged with shop.t"
                ),
            ),
            (
                "ALTER TABLE t CONVERT TABLE o TO PARTITION p VALUES LESS THAN (5)",
                &format!("t: rewrites rows: CONVERT TABLE {partition}; o: drop"),
            ),
            (
                "ALTER TABLE o CONVERT PARTITION p TO TABLE n2",
                &format!(
                    "o: rewrites rows: CONVERT PARTITION {partition}; n2: create id int key(id); n2: rewrites rows: its rows were a partition of shop.o"
                ),
            ),
            ("ALTER TABLE t COALESCE PARTITION 2", "-"),
            ("ALTER TABLE t TRUNCATE PARTITION p0, p1", &format!("t: rewrites rows: TRUNCATE PARTITION {partition}")),
            ("ALTER TABLE t DISCARD TABLESPACE", &format!("t: rewrites rows: DISCARD {partition}")),
            ("ALTER TABLE t ORDER BY a DESC, b", "-"),
            (
                "ALTER TABLE t CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
                "t: type c string -> string text character set utf8mb4",
            ),
            ("ALTER IGNORE TABLE t ADD UNIQUE (a)", "t: rewrites rows: IGNORE drops rows that are there twice"),
            ("ALTER TABLE k ADD UNIQUE (b)", "-"),
            ("ALTER TABLE k ADD UNIQUE (a)", "k: type a int32 -> int32 int unique key; k: key a"),
            ("CREATE UNIQUE INDEX i ON k (a DESC)", "k: type a int32 -> int32 int unique key; k: key a"),
            (
                "ALTER TABLE t MODIFY b CHAR(9) CHARSET utf8mb4, MODIFY a INT",
                "t: type b int32 -> string(9) char(9) character set utf8mb4; t: type a string(5) -> int32 int; \
                 t: rewrites rows: column b: the change of type converts values as only the server does; \
                 column a: the change of type converts values as only the server does",
            ),
            ("ALTER TABLE t MODIFY b SMALLINT", "t: type b int32 -> int16 smallint"),
        ],
    );
}

/// MariaDB puts the time of the statement where there was NULL, in strict mode too; MySQL refuses, as both do for other
/// types.
#[test]
fn a_timestamp_that_may_not_be_null_any_more() {
    let tables = followed(&["CREATE TABLE t (id INT PRIMARY KEY, at TIMESTAMP(1) NULL, d DATETIME)"]);
    check(
        &tables,
        &[
            (
                "ALTER TABLE t MODIFY at TIMESTAMP(1) NOT NULL",
                "t: nullable at false; t: rewrites rows: column at: NULL becomes another value",
            ),
            ("ALTER TABLE t MODIFY d DATETIME NOT NULL", "t: nullable d false"),
        ],
    );
}

/// A new text has the table's character set, whatever those of its columns are.
#[test]
fn character_sets_of_tables() {
    let create = "CREATE TABLE t (id INT PRIMARY KEY, a CHAR(5) CHARSET latin1, b CHAR(5) CHARSET utf8mb4)";
    for (statements, want) in [
        (vec![create.to_string()], "utf8mb4"),
        (vec![format!("{create} DEFAULT CHARSET=ascii COLLATE=ascii_bin")], "ascii"),
        (vec![format!("{create} COLLATE latin1_bin")], "latin1"),
        (vec![format!("{create} COLLATE uca1400_ai_ci")], "utf8mb4"),
        (vec![format!("{create} CHARSET latin1 COLLATE DEFAULT")], "utf8mb4"),
        (vec![create.to_string(), "ALTER TABLE t DEFAULT CHARSET latin1".into()], "latin1"),
        (vec![create.to_string(), "ALTER TABLE t COLLATE = utf8mb3_bin".into()], "utf8mb3"),
        (vec![create.to_string(), "ALTER TABLE t CONVERT TO CHARACTER SET ascii COLLATE ascii_bin".into()], "ascii"),
        (vec![format!("{create} CHARSET ascii"), "ALTER TABLE t CHARSET DEFAULT".into()], "utf8mb4"),
        (vec![format!("{create} CHARSET ascii"), "ALTER TABLE t RENAME TO u, ADD c INT".into()], "ascii"),
        (
            vec![
                format!("{create} CHARSET ascii"),
                "CREATE TABLE u LIKE t".into(),
                "ALTER TABLE t CHARSET latin1".into(),
            ],
            "ascii",
        ),
    ] {
        let statements: Vec<&str> = statements.iter().map(String::as_str).collect();
        let tables = followed(&statements);
        let name = if tables.contains_key(&TableName::new("shop", "u")) { "u" } else { "t" };
        assert_eq!(tables[&TableName::new("shop", name)].source_defaults, want, "{statements:?}");
        let added = outcome(&format!("ALTER TABLE {name} ADD x VARCHAR(3)"), &tables);
        assert_eq!(added, format!("{name}: add x varchar(3) character set {want} null"), "{statements:?}");
    }
    let tables = followed(&[create]);
    check(
        &tables,
        &[
            ("ALTER TABLE t ADD x CHAR(3) CHARSET ascii", "t: add x char(3) character set ascii null"),
            ("ALTER TABLE t MODIFY a VARCHAR(9)", "t: type a string(5) -> string(9) varchar(9) character set utf8mb4"),
            ("ALTER TABLE t DEFAULT CHARSET gbk, ADD x INT", "t: new columns gbk; t: add x int null"),
            ("ALTER TABLE t DEFAULT CHARSET gbk, ADD x CHAR(3)", "! shop.t: character set gbk is not supported"),
        ],
    );
    // What an earlier version has stored does not say it.
    let old = |columns: &str| {
        let mut tables = followed(&[&format!("CREATE TABLE t (id INT PRIMARY KEY{columns})")]);
        for table in tables.values_mut() {
            Arc::make_mut(table).source_defaults.clear();
        }
        outcome("ALTER TABLE t ADD x CHAR(3)", &tables)
    };
    assert_eq!(old(""), "t: add x char(3) character set utf8mb4 null");
    assert_eq!(old(", a CHAR(5) CHARSET latin1"), "t: add x char(3) character set latin1 null");
    assert_eq!(
        old(", a CHAR(5) CHARSET latin1, b CHAR(5) CHARSET utf8mb4"),
        "! shop.t: type char without a character set"
    );
}

#[test]
fn character_sets_of_databases() {
    let charsets = Charsets { server: "latin1".into(), databases: [("shop".into(), "utf8mb4".into())].into() };
    let context = Context {
        default_database: "shop",
        ansi_quotes: false,
        no_backslash_escapes: false,
        charsets: &charsets,
        mariadb: true,
        lower_case_names: false,
        strict: true,
        zone: Zone::UTC,
    };
    for (sql, want) in [
        ("CREATE DATABASE d", "d latin1"),
        ("CREATE SCHEMA IF NOT EXISTS `d` /*!40100 DEFAULT CHARACTER SET ascii */", "d ascii"),
        ("CREATE DATABASE IF NOT EXISTS shop CHARSET latin1", "-"),
        ("CREATE OR REPLACE DATABASE shop", "shop latin1"),
        ("CREATE DATABASE d COLLATE = utf8mb3_bin", "d utf8mb3"),
        ("ALTER DATABASE CHARACTER SET = ascii", "shop ascii"),
        ("ALTER DATABASE d DEFAULT COLLATE utf8mb4_bin ENCRYPTION = 'Y'", "d utf8mb4"),
        ("ALTER DATABASE d CHARSET DEFAULT", "d latin1"),
        ("ALTER DATABASE d READ ONLY = 1", "-"),
        ("ALTER TABLE t CHARSET latin1", "-"),
        ("DROP DATABASE d", "-"),
    ] {
        let got = database_charset(sql, &context).map_or("-".into(), |(name, charset)| format!("{name} {charset}"));
        assert_eq!(got, want, "{sql}");
    }
}

#[test]
fn unique_keys() {
    let tables = followed(&["CREATE TABLE t (a INT NOT NULL, b INT, UNIQUE u (a))"]);
    check(
        &tables,
        &[
            ("ALTER TABLE t MODIFY a BIGINT NOT NULL", "t: type a int32 -> int64 bigint unique key"),
            ("ALTER TABLE t MODIFY a INT", "! shop.t: a column of the table's only unique key now allows NULL"),
            (
                "ALTER TABLE t DROP KEY u",
                "! shop.t: the table has no primary key, and its unique key (a) may be the index u that was dropped",
            ),
            ("ALTER TABLE t ADD PRIMARY KEY (b)", "t: nullable b false; t: key b"),
        ],
    );
}

#[test]
fn modes() {
    let charsets = Charsets { server: "utf8mb4".into(), databases: HashMap::new() };
    let context = Context {
        default_database: "shop",
        ansi_quotes: true,
        no_backslash_escapes: true,
        charsets: &charsets,
        mariadb: false,
        lower_case_names: true,
        strict: true,
        zone: Zone::UTC,
    };
    let pattern = TablePattern::parse("shop.*", None).unwrap();
    let parsed =
        parse("CREATE TABLE \"SHOP\".\"Orders\" (\"Id\" INT DEFAULT '\\')", &context, &Tables::new(), &pattern);
    let Parsed::Changes(steps) = parsed else { panic!("{parsed:?}") };
    assert_eq!(show_step(&steps[0]), "orders: create Id int null =\\ key()");
    assert_eq!(steps[0].0, TableName::new("shop", "orders"));
}

/// Literal defaults of `TIMESTAMP` columns are instants, those of `DATETIME` columns are not.
#[test]
fn time_zones() {
    for (text, zone) in [
        ("+00:00", Zone::UTC),
        ("UTC", Zone::UTC),
        ("+05:30", Zone::Offset(330)),
        ("-8:00", Zone::Offset(-480)),
        ("-00:30", Zone::Offset(-30)),
        ("SYSTEM", Zone::Named(Some("SYSTEM"))),
        ("Europe/Berlin", Zone::Named(Some("Europe/Berlin"))),
        ("+0x:00", Zone::Named(Some("+0x:00"))),
        ("", Zone::Named(Some(""))),
    ] {
        assert_eq!(Zone::parse(Some(text)), zone, "{text}");
    }
    assert_eq!(Zone::parse(None), Zone::Named(None));
    let defaults = |zone, sql: &str, tables: &Tables| {
        let Parsed::Changes(steps) = run_in(zone, sql, tables) else { panic!("{sql}") };
        let shown = |default: &Option<DefaultValue>| match default {
            Some(DefaultValue::Literal(text)) => text.clone(),
            other => format!("{other:?}"),
        };
        let mut out = Vec::new();
        for (_, step) in &steps {
            match step {
                TableChange::CreateTable(schema) => out.extend(schema.columns[1..].iter().map(|c| shown(&c.default))),
                TableChange::AddColumn { column, .. } => out.push(shown(&column.default)),
                TableChange::SetDefault { default, .. } => out.push(shown(default)),
                _ => {}
            }
        }
        out.join(", ")
    };
    let create = "CREATE TABLE t (id INT PRIMARY KEY, a TIMESTAMP(1) NULL DEFAULT '2024-03-01 04:10:59.5', \
                  b DATETIME DEFAULT '2024-03-01 04:10:59')";
    let none = Tables::new();
    assert_eq!(defaults(Zone::UTC, create, &none), "2024-03-01 04:10:59.5, 2024-03-01 04:10:59");
    assert_eq!(defaults(Zone::Offset(330), create, &none), "2024-02-29 22:40:59.5, 2024-03-01 04:10:59");
    assert_eq!(defaults(Zone::Offset(-480), create, &none), "2024-03-01 12:10:59.5, 2024-03-01 04:10:59");
    let unknown = |why: &str, of: &str| format!("Some(Expression(\"'{of}' in {why}\"))");
    let at = "2024-03-01 04:10:59.5";
    assert_eq!(
        defaults(Zone::parse(Some("SYSTEM")), create, &none),
        format!("{}, 2024-03-01 04:10:59", unknown("time zone SYSTEM", at))
    );
    assert_eq!(
        defaults(Zone::Named(None), create, &none),
        format!("{}, 2024-03-01 04:10:59", unknown("a time zone that is not known", at))
    );
    let tables = followed(&[create]);
    let (west, there) = (Zone::Offset(-480), "2024-12-31 23:00:00");
    assert_eq!(defaults(west, "CREATE TABLE u LIKE t", &tables), "2024-03-01 04:10:59.5, 2024-03-01 04:10:59");
    for (sql, want) in [
        (format!("ALTER TABLE t ADD c TIMESTAMP NULL DEFAULT '{there}'"), "2025-01-01 07:00:00"),
        (format!("ALTER TABLE t MODIFY a TIMESTAMP(1) NULL DEFAULT '{there}'"), "2025-01-01 07:00:00.0"),
        (format!("ALTER TABLE t ALTER a SET DEFAULT '{there}'"), "2025-01-01 07:00:00.0"),
        (format!("ALTER TABLE t ALTER b SET DEFAULT '{there}'"), there),
    ] {
        assert_eq!(defaults(west, &sql, &tables), want, "{sql}");
    }
    // Zero is no instant, a literal may have an offset of its own, and servers differ in how fractions are cut.
    for (zone, text) in [
        (west, "0000-00-00 00:00:00"),
        (Zone::Named(None), "0000-00-00 00:00:00"),
        (west, "2024-03-01 04:10:59+05:30"),
        (west, "2024-03-01 04:10:59-05:30"),
        (west, "2024-03-01 04:10:59.06"),
    ] {
        let sql = format!("ALTER TABLE t ALTER a SET DEFAULT '{text}'");
        assert_eq!(defaults(zone, &sql, &tables), format!("Some(Expression(\"'{text}'\"))"));
    }
}

#[test]
fn defaults_that_mysql_shows() {
    let sql = "CREATE TABLE `t``x` (\n  `id` int NOT NULL AUTO_INCREMENT,\n  `v` varchar(9) CHARACTER SET latin1 COLLATE \
               latin1_bin DEFAULT 'a,b',\n  `a b` timestamp(1) NULL DEFAULT '2024-03-01 04:10:59.5' COMMENT 'it''s',\n  \
               `n` timestamp NULL DEFAULT NULL,\n  `d` datetime DEFAULT '2024-03-01 04:10:59',\n  `i` timestamp NOT NULL DEFAULT \
               '2024-01-01 00:00:00' /*!80023 INVISIBLE */,\n  `g` int GENERATED ALWAYS AS ((`id` + 1)) STORED,\n  PRIMARY KEY (`id`),\n  \
               KEY `k` (`v`(3),(`id` + 1)),\n  CONSTRAINT `c` FOREIGN KEY (`id`) REFERENCES `o` (`id`) ON DELETE CASCADE,\n  \
               CONSTRAINT `chk` CHECK ((`id` > 0))\n) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_0900_ai_ci";
    let literal = |text: &str| Some(DefaultValue::Literal(text.into()));
    assert_eq!(
        timestamp_defaults(sql).unwrap(),
        [
            ("a b".to_string(), literal("2024-03-01 04:10:59.5")),
            ("n".to_string(), None),
            ("i".to_string(), literal("2024-01-01 00:00:00")),
        ]
    );
    assert!(timestamp_defaults("CREATE VIEW v AS SELECT 1").is_err());
}

proptest::proptest! {
    #[test]
    fn never_panics(words in proptest::collection::vec(0..40_usize, 0..25), head in 0..6_usize) {
        const WORDS: [&str; 40] = [
            "ADD", "DROP", "COLUMN", "(", ")", ",", "t", "a", "INT", "VARCHAR", "(5)", "NOT NULL", "DEFAULT", "'x'", "1",
            "PRIMARY KEY", "UNIQUE", "KEY", "CHECK", "CONSTRAINT", "FIRST", "AFTER", "CHANGE", "MODIFY", "RENAME", "TO",
            "COMMENT", "=", "CHARSET", "utf8mb4", "AS", "LIKE", "ENUM('a')", "-", ".", "IF EXISTS", "`q`", "'", ";", "TABLE",
        ];
        const HEADS: [&str; 6] = ["CREATE TABLE u", "ALTER TABLE t", "DROP TABLE", "RENAME TABLE", "TRUNCATE", "CREATE TABLE u ("];
        let tables = followed(&["CREATE TABLE t (a INT PRIMARY KEY, b VARCHAR(5))"]);
        let sql = words.iter().fold(HEADS[head].to_string(), |sql, w| sql + " " + WORDS[*w]);
        run(&sql, &tables);
    }
}
