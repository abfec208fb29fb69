//! Random changes of definitions: columns, names, keys, whole tables, migrations like those of online tools.

use std::time::Duration;

use fastrand::Rng;
use freshet_tests::quote;
use freshet_tests::shape::{Column, Table, tables};
use freshet_tests::source::Flavour;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use crate::Scene;

/// Tables whose names begin so are not followed.
pub(crate) const OUTSIDE: &str = "x_";
/// A table keeps below so many columns, and a database below so many tables.
const MOST_COLUMNS: usize = 14;
const MOST_TABLES: usize = 16;

/// Types that columns are added with: type, a default that it may have.
const TYPES: [(&str, &str); 13] = [
    ("TIMESTAMP(1) NULL", "'2024-06-01 12:00:00.5'"),
    ("INT", "7"),
    ("SMALLINT UNSIGNED", "65535"),
    ("BIGINT", "-9223372036854775808"),
    ("VARCHAR(30)", "'it''s a default'"),
    ("VARCHAR(30) CHARACTER SET latin1", "'abc'"),
    ("DECIMAL(12,3)", "-1.250"),
    ("DOUBLE", "1e-7"),
    ("DATETIME(6)", "'2024-02-29 23:59:59.000001'"),
    ("TIMESTAMP(3) NULL", "NULL"),
    ("ENUM('one','two')", "'two'"),
    ("VARBINARY(20)", "'bin'"),
    ("TINYINT", "-1"),
];

/// Settings of a session, which decide how its statements are read; and whether names are quoted with `"`.
const SESSIONS: [(&str, bool); 7] = [
    ("DO 0", false),
    ("DO 0", false),
    ("SET SESSION sql_mode = 'ANSI_QUOTES'", true),
    ("SET SESSION sql_mode = 'NO_BACKSLASH_ESCAPES,STRICT_ALL_TABLES'", false),
    ("SET SESSION sql_mode = ''", false),
    ("SET SESSION time_zone = '-08:00'", false),
    ("SET SESSION character_set_client = latin1", false),
];

/// The tables of a fresh database.
pub(crate) const TABLES: [&str; 16] = [
    "t_part (id INT NOT NULL PRIMARY KEY, v VARCHAR(50), n INT) PARTITION BY HASH (id) PARTITIONS 4",
    "t_int (id BIGINT NOT NULL PRIMARY KEY, name VARCHAR(60), amount DECIMAL(14,4), \
        at DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6), raw VARBINARY(40), ratio DOUBLE, small SMALLINT UNSIGNED)",
    "t_pair (a INT NOT NULL, b VARCHAR(10) NOT NULL, n INT UNSIGNED NOT NULL DEFAULT 5, note TEXT, f FLOAT, PRIMARY KEY (b, a))",
    "t_text (code VARCHAR(20) NOT NULL PRIMARY KEY, v INT, flag TINYINT NOT NULL DEFAULT 1, body BLOB)",
    "t_auto (id INT NOT NULL AUTO_INCREMENT PRIMARY KEY, v VARCHAR(40) NOT NULL DEFAULT 'dflt', w INT)",
    "t_types (id INT NOT NULL PRIMARY KEY, dt DATETIME(3), ts TIMESTAMP(6) NULL, d DATE, t TIME(2), y YEAR, e ENUM('a','b','cc'), \
        s SET('x','y'), j JSON, c CHAR(7), l VARCHAR(50) CHARACTER SET latin1, u BIGINT UNSIGNED, bt BIT(1))",
    "t_bag (a INT, b VARCHAR(10), c DECIMAL(8,2))",
    "t_bag2 (at DATETIME(6), v DOUBLE, w TEXT, n SMALLINT NOT NULL DEFAULT 3)",
    "t_big (big_id INT NOT NULL PRIMARY KEY, v VARCHAR(80), n INT NOT NULL DEFAULT 0)",
    "t_more (id INT NOT NULL PRIMARY KEY, v VARCHAR(100), w TEXT)",
    "`odd na``me ü.ö` (`i d` INT NOT NULL PRIMARY KEY, `sel``ect` VARCHAR(40), `naïve.x` INT)",
    "x_out (id INT NOT NULL PRIMARY KEY, v VARCHAR(20))",
    "zz_mark (id INT PRIMARY KEY, n BIGINT NOT NULL)",
    "zz_parent (id INT PRIMARY KEY, code VARCHAR(10) NOT NULL UNIQUE, v INT)",
    "zz_child (id INT PRIMARY KEY, p INT, code VARCHAR(10), v INT, \
        FOREIGN KEY (p) REFERENCES zz_parent (id) ON DELETE CASCADE ON UPDATE CASCADE, \
        FOREIGN KEY (code) REFERENCES zz_parent (code) ON DELETE SET NULL ON UPDATE CASCADE)",
    "zz_grandchild (id INT PRIMARY KEY, c INT, v INT, FOREIGN KEY (c) REFERENCES zz_child (id) ON DELETE CASCADE)",
];

/// Tables whose definitions stay.
pub(crate) fn stays(name: &str) -> bool {
    name.starts_with("zz_")
}

/// A table of 40 columns.
pub(crate) fn wide() -> String {
    let columns: Vec<String> = (0..39)
        .map(|i| match i % 4 {
            0 => format!("c{i} INT"),
            1 => format!("c{i} VARCHAR(300)"),
            2 => format!("c{i} TEXT"),
            _ => format!("c{i} DECIMAL(20,6)"),
        })
        .collect();
    format!("t_wide (id INT NOT NULL PRIMARY KEY, {})", columns.join(", "))
}

/// The table of huge transactions, which stays.
fn is_big(table: &Table) -> bool {
    table.columns.iter().any(|c| c.name == "big_id")
}

struct Changer {
    scene: Scene,
    rng: Rng,
    conn: Conn,
    /// Whether the session quotes names with `"`.
    ansi: bool,
}

/// Changes definitions until the round is over.
pub(crate) async fn change(scene: Scene, mut rng: Rng) {
    while !scene.is_over() {
        tokio::time::sleep(Duration::from_millis(rng.u64(100..1200))).await;
        let Ok(mut conn) = scene.connect().await else { continue };
        if conn.query_drop("SET SESSION lock_wait_timeout = 3").await.is_err() {
            continue;
        }
        let (setting, ansi) = SESSIONS[rng.usize(..SESSIONS.len())];
        if conn.query_drop(setting).await.is_err() {
            continue;
        }
        let mut changer = Changer { scene: scene.clone(), rng: rng.fork(), conn, ansi };
        for _ in 0..rng.u32(1..6) {
            if scene.is_over() {
                break;
            }
            match changer.one().await {
                Ok(()) => {}
                Err(mysql_async::Error::Server(e)) => {
                    scene.journal.note("errors that DDL met", &e.code.to_string(), &e.to_string())
                }
                Err(_) => break,
            }
            tokio::time::sleep(Duration::from_millis(rng.u64(100..1800))).await;
        }
    }
}

impl Changer {
    /// Runs one statement; the server is not killed in the middle of it, because MariaDB's log may then not hold what
    /// its tables are.
    async fn run(&mut self, kind: &str, statement: &str) -> mysql_async::Result<()> {
        if self.scene.leaves_out(kind) {
            return Ok(());
        }
        let mut statement = statement.to_string();
        if self.rng.bool() {
            statement = statement.replace(&format!("{}.", quote(&self.scene.db)), "");
        }
        if self.ansi && !statement.contains("``") {
            statement = statement.replace('`', "\"");
        }
        if self.rng.u8(0..8) == 0 {
            statement = format!("/* it's a comment; */ {statement}");
        }
        let _gate = self.scene.gate.read().await;
        self.scene.journal.write(&format!("ddl begins: {statement}"));
        self.conn.query_drop(&statement).await?;
        self.scene.journal.note("ddl", kind, &statement);
        Ok(())
    }

    fn name(&self, table: &str) -> String {
        format!("{}.{}", quote(&self.scene.db), quote(table))
    }

    fn new_name(&mut self, prefix: &str) -> String {
        format!("{prefix}{}", self.rng.u16(100..1000))
    }

    async fn one(&mut self) -> mysql_async::Result<()> {
        let mut all = tables(&mut self.conn, &self.scene.db, None).await?;
        all.retain(|t| !stays(&t.name));
        let (outside, inside): (Vec<Table>, Vec<Table>) = all.into_iter().partition(|t| t.name.starts_with(OUTSIDE));
        if inside.len() < 4 {
            return self.create().await;
        }
        let table = inside[self.rng.usize(..inside.len())].clone();
        let other = inside[self.rng.usize(..inside.len())].clone();
        let name = self.name(&table.name);
        match self.rng.u8(0..56) {
            0..9 => self.add_column(&table).await,
            9..11 => {
                let place = self.place(&table);
                let column = self.new_name("ct");
                let add =
                    format!("ALTER TABLE {name} ADD COLUMN {column} DATETIME(6) DEFAULT CURRENT_TIMESTAMP(6){place}");
                self.run("add column, current timestamp", &add).await
            }
            11..14 => self.drop_column(&table).await,
            14..16 => self.rename_column(&table).await,
            16..19 => self.widen(&table).await,
            19..21 => self.several(&table).await,
            21 => self.swap_columns(&table).await,
            22..24 => self.run("truncate", &format!("TRUNCATE TABLE {name}")).await,
            24..26 => {
                let to = self.new_name("t_");
                let to = self.name(&to);
                self.run("rename table", &format!("RENAME TABLE {name} TO {to}")).await
            }
            26..28 if table.name != other.name => {
                let (between, other) = (self.new_name("t_"), self.name(&other.name));
                let between = self.name(&between);
                let cycle = format!("RENAME TABLE {name} TO {between}, {other} TO {name}, {between} TO {other}");
                self.run("cyclic rename", &cycle).await
            }
            28 if !is_big(&table) => self.run("drop table", &format!("DROP TABLE {name}")).await,
            29..31 if inside.len() < MOST_TABLES => self.create().await,
            31 if !is_big(&table) => {
                let to = self.new_name(OUTSIDE);
                let to = self.name(&to);
                self.scene.left.lock().unwrap().insert(table.name);
                self.run("rename out of the followed", &format!("RENAME TABLE {name} TO {to}")).await
            }
            32 | 33 if !outside.is_empty() && inside.len() < MOST_TABLES => {
                let from = &outside[self.rng.usize(..outside.len())];
                let from = self.name(&from.name);
                let to = self.new_name("t_");
                let to = self.name(&to);
                self.run("rename into the followed", &format!("RENAME TABLE {from} TO {to}")).await
            }
            34..36 => self.migrate(&table).await,
            36 => self.index(&table).await,
            37 => self.other_key(&table).await,
            38 if inside.len() < MOST_TABLES => {
                let to = self.new_name("t_");
                let to = self.name(&to);
                self.run("create table like", &format!("CREATE TABLE {to} LIKE {name}")).await?;
                self.run("insert select", &format!("INSERT INTO {to} SELECT * FROM {name} LIMIT 500")).await
            }
            39 if inside.len() < MOST_TABLES => {
                let to = self.new_name("t_");
                let to = self.name(&to);
                self.run("create table as select", &format!("CREATE TABLE {to} AS SELECT * FROM {name} LIMIT 300"))
                    .await
            }
            40 if outside.len() > 3 => {
                let gone = self.name(&outside[0].name);
                self.run("drop table outside", &format!("DROP TABLE {gone}")).await
            }
            42..44 => self.retype(&table).await,
            44..46 => self.nullability(&table).await,
            46 => self.generated(&table).await,
            47 => {
                let charset = ["utf8mb4", "utf8mb4", "latin1"][self.rng.usize(..3)];
                let convert = format!("ALTER TABLE {name} CONVERT TO CHARACTER SET {charset}");
                self.run("convert to a character set", &convert).await
            }
            48 => {
                let charset = ["utf8mb4", "latin1"][self.rng.usize(..2)];
                let alter = format!("ALTER DATABASE {} CHARACTER SET {charset}", self.scene.db);
                self.run("default character set", &alter).await
            }
            49 | 50 => {
                let part = self.rng.u8(0..4);
                match inside.iter().find(|t| t.name == "t_part") {
                    Some(_) => {
                        let truncate = format!("ALTER TABLE {} TRUNCATE PARTITION p{part}", self.name("t_part"));
                        self.run("truncate a partition", &truncate).await
                    }
                    None => {
                        let (_, columns) = TABLES[0].split_once(' ').unwrap();
                        self.run("create table", &format!("CREATE TABLE {} {columns}", self.name("t_part"))).await
                    }
                }
            }
            51 if self.scene.source.flavour == Flavour::MariaDb && !is_big(&table) => {
                let replace =
                    format!("CREATE OR REPLACE TABLE {name} (id INT PRIMARY KEY, v VARCHAR(9) NOT NULL DEFAULT 'new')");
                self.run("create or replace table", &replace).await
            }
            52 if table.name != other.name && !is_big(&table) && !is_big(&other) => {
                let drop = format!("DROP TABLE IF EXISTS {name}, {}", self.name(&other.name));
                self.run("drop two tables", &drop).await
            }
            53 => self.trigger(&table, &other).await,
            _ => self.harmless(&name).await,
        }
    }

    async fn create(&mut self) -> mysql_async::Result<()> {
        let wide = wide();
        let followed: Vec<&str> = TABLES
            .into_iter()
            .chain([wide.as_str()])
            .filter(|t| t.starts_with("t_") && !t.starts_with("t_big"))
            .collect();
        let (_, columns) = followed[self.rng.usize(..followed.len())].split_once(' ').unwrap();
        let name = self.new_name("t_");
        let name = self.name(&name);
        self.run("create table", &format!("CREATE TABLE {name} {columns}")).await
    }

    /// Where a new column goes.
    fn place(&mut self, table: &Table) -> String {
        match self.rng.u8(0..4) {
            0 => " FIRST".into(),
            1 => format!(" AFTER {}", quote(&table.columns[self.rng.usize(..table.columns.len())].name)),
            _ => String::new(),
        }
    }

    /// Type and attributes of a new column.
    fn definition(&mut self) -> String {
        // The first one's default depends on the time zone of the session.
        let first = usize::from(self.scene.leaves_out("timestamp constant"));
        let (kind, default) = TYPES[self.rng.usize(first..TYPES.len())];
        match self.rng.u8(0..4) {
            0 => kind.into(),
            1 if !kind.ends_with("NULL") => format!("{kind} NOT NULL DEFAULT {default}"),
            2 if kind.starts_with("INT") || kind.starts_with("VARCHAR") => format!("{kind} NOT NULL"),
            _ => format!("{kind} DEFAULT {default}"),
        }
    }

    async fn add_column(&mut self, table: &Table) -> mysql_async::Result<()> {
        if table.columns.len() >= MOST_COLUMNS && table.columns.len() != 40 {
            return self.drop_column(table).await;
        }
        let (column, definition, place) = (self.new_name("c"), self.definition(), self.place(table));
        let add = format!("ALTER TABLE {} ADD COLUMN {column} {definition}{place}", self.name(&table.name));
        let kind = if place.is_empty() { "add column" } else { "add column at a place" };
        self.run(kind, &add).await
    }

    /// A column outside the key, if it has another one.
    fn free_column(&mut self, table: &Table) -> Option<Column> {
        let free: Vec<&Column> = table.columns.iter().filter(|c| c.in_key.is_none()).collect();
        (free.len() > 1).then(|| free[self.rng.usize(..free.len())].clone())
    }

    async fn drop_column(&mut self, table: &Table) -> mysql_async::Result<()> {
        let Some(column) = self.free_column(table) else { return Ok(()) };
        let drop = format!("ALTER TABLE {} DROP COLUMN {}", self.name(&table.name), quote(&column.name));
        self.run("drop column", &drop).await
    }

    async fn rename_column(&mut self, table: &Table) -> mysql_async::Result<()> {
        let column = table.columns[self.rng.usize(..table.columns.len())].clone();
        if column.data_type == "json" || column.data_type == "longtext" || column.name == "big_id" {
            return Ok(()); // their names say what may be written to them
        }
        let to = quote(&self.new_name("r é"));
        let rename = format!("ALTER TABLE {} RENAME COLUMN {} TO {to}", self.name(&table.name), quote(&column.name));
        self.run("rename column", &rename).await
    }

    async fn swap_columns(&mut self, table: &Table) -> mysql_async::Result<()> {
        let (Some(a), Some(b)) = (self.free_column(table), self.free_column(table)) else { return Ok(()) };
        if a.name == b.name || [&a, &b].iter().any(|c| c.data_type == "json" || c.data_type == "longtext") {
            return Ok(());
        }
        let (a, b) = (quote(&a.name), quote(&b.name));
        let swap = format!("ALTER TABLE {} RENAME COLUMN {a} TO {b}, RENAME COLUMN {b} TO {a}", self.name(&table.name));
        self.run("swap columns", &swap).await
    }

    /// A type that holds every value of the old one.
    fn wider(column: &Column) -> Option<String> {
        let unsigned = if column.column_type.contains("unsigned") { " UNSIGNED" } else { "" };
        let inside =
            column.column_type.split_once('(').and_then(|(_, rest)| rest.split_once(')')).map(|(inside, _)| inside);
        Some(match column.data_type.as_str() {
            "tinyint" => format!("SMALLINT{unsigned}"),
            "smallint" => format!("INT{unsigned}"),
            "int" => format!("BIGINT{unsigned}"),
            "float" => "DOUBLE".into(),
            "decimal" => {
                let (precision, scale) = inside?.split_once(',')?;
                let precision: u32 = precision.parse().ok()?;
                format!("DECIMAL({},{scale}){unsigned}", (precision + 3).min(60))
            }
            "varchar" => {
                let length: u32 = inside?.parse().ok()?;
                if length > 200 { "TEXT".into() } else { format!("VARCHAR({})", length + 37) }
            }
            "varbinary" => format!("VARBINARY({})", inside?.parse::<u32>().ok()? + 20),
            "text" => "MEDIUMTEXT".into(),
            "blob" => "MEDIUMBLOB".into(),
            _ => return None,
        })
    }

    async fn widen(&mut self, table: &Table) -> mysql_async::Result<()> {
        let column = table.columns[self.rng.usize(..table.columns.len())].clone();
        let Some(wider) = Self::wider(&column) else { return Ok(()) };
        if column.in_key.is_some() && (wider == "TEXT" || column.name == "big_id" || column.data_type == "varchar") {
            return Ok(());
        }
        let null = if column.nullable { "NULL" } else { "NOT NULL" };
        let place = self.place(table);
        let place = if place.ends_with(&quote(&column.name)) { String::new() } else { place };
        if column.generated {
            return Ok(());
        }
        let (name, column) = (self.name(&table.name), quote(&column.name));
        self.run("widen column", &format!("ALTER TABLE {name} MODIFY COLUMN {column} {wider} {null}{place}")).await
    }

    /// A column becomes one of another type, which only the server can compute.
    async fn retype(&mut self, table: &Table) -> mysql_async::Result<()> {
        let Some(column) = self.free_column(table) else { return Ok(()) };
        let to =
            ["VARCHAR(90)", "VARCHAR(4)", "DOUBLE", "BIGINT", "DATE", "TEXT", "DECIMAL(40,2)"][self.rng.usize(..7)];
        if column.data_type == "json" || column.data_type == "longtext" {
            return Ok(());
        }
        let (name, column) = (self.name(&table.name), quote(&column.name));
        self.run("other type", &format!("ALTER TABLE {name} MODIFY {column} {to}")).await
    }

    async fn nullability(&mut self, table: &Table) -> mysql_async::Result<()> {
        let Some(column) = self.free_column(table) else { return Ok(()) };
        if column.data_type == "longtext" || column.generated {
            return Ok(());
        }
        let null = if column.nullable { "NOT NULL" } else { "NULL" };
        let (name, quoted) = (self.name(&table.name), quote(&column.name));
        self.run("nullability", &format!("ALTER TABLE {name} MODIFY {quoted} {} {null}", column.column_type)).await
    }

    /// A column that is computed: stored, because MariaDB does not log virtual ones where it logs parts of rows.
    async fn generated(&mut self, table: &Table) -> mysql_async::Result<()> {
        let Some(of) = table.columns.iter().find(|c| c.data_type.ends_with("int") && !c.generated) else {
            return Ok(());
        };
        let virtual_too = self.scene.source.flavour == Flavour::MySql && self.rng.bool();
        let (column, kind) = (self.new_name("v"), if virtual_too { "VIRTUAL" } else { "STORED" });
        let add = format!(
            "ALTER TABLE {} ADD COLUMN {column} BIGINT AS ({} % 10 + 1) {kind}",
            self.name(&table.name),
            quote(&of.name)
        );
        self.run("add a generated column", &add).await
    }

    /// One trigger at a time, which writes to another table.
    async fn trigger(&mut self, table: &Table, other: &Table) -> mysql_async::Result<()> {
        self.run("drop trigger", "DROP TRIGGER IF EXISTS a_trigger").await?;
        if self.rng.bool() || table.name == other.name {
            return Ok(());
        }
        let trigger = format!(
            "CREATE TRIGGER a_trigger AFTER UPDATE ON {} FOR EACH ROW DELETE FROM {} LIMIT 1",
            self.name(&table.name),
            self.name(&other.name)
        );
        self.run("create trigger", &trigger).await
    }

    /// Several clauses in one statement.
    async fn several(&mut self, table: &Table) -> mysql_async::Result<()> {
        let Some(gone) = self.free_column(table) else { return Ok(()) };
        let (a, b) = (self.new_name("m"), self.new_name("m"));
        let (first, second) = (self.definition(), self.definition());
        let statement = format!(
            "ALTER TABLE {} DROP COLUMN {}, ADD COLUMN {a} {first} FIRST, ADD COLUMN {b} {second} AFTER {a}, COMMENT = 'changed; at once'",
            self.name(&table.name),
            quote(&gone.name)
        );
        self.run("several clauses", &statement).await
    }

    /// As online schema change tools do: a copy beside the table takes its name.
    async fn migrate(&mut self, table: &Table) -> mysql_async::Result<()> {
        let followed = self.rng.bool();
        let (ghost, old) = (self.new_name(if followed { "t_g" } else { OUTSIDE }), self.new_name(OUTSIDE));
        let (name, ghost, old) = (self.name(&table.name), self.name(&ghost), self.name(&old));
        let columns: Vec<String> = table.columns.iter().map(|c| quote(&c.name)).collect();
        let (columns, column, definition) = (columns.join(", "), self.new_name("g"), self.definition());
        self.run("migration", &format!("CREATE TABLE {ghost} LIKE {name}")).await?;
        self.run("migration", &format!("ALTER TABLE {ghost} ADD COLUMN {column} {definition}")).await?;
        self.run("migration", &format!("INSERT INTO {ghost} ({columns}) SELECT {columns} FROM {name} LIMIT 2000"))
            .await?;
        self.run("migration", &format!("RENAME TABLE {name} TO {old}, {ghost} TO {name}")).await?;
        if self.rng.bool() {
            self.run("migration", &format!("DROP TABLE {old}")).await?;
        }
        Ok(())
    }

    async fn index(&mut self, table: &Table) -> mysql_async::Result<()> {
        let name = self.name(&table.name);
        let column = &table.columns[self.rng.usize(..table.columns.len())];
        let long =
            ["text", "mediumtext", "longtext", "blob", "mediumblob", "json"].contains(&column.data_type.as_str());
        if long {
            return Ok(());
        }
        let (index, column) = (self.new_name("i"), quote(&column.name));
        self.run("add index", &format!("ALTER TABLE {name} ADD INDEX {index} ({column})")).await?;
        if self.rng.bool() {
            self.run("drop index", &format!("DROP INDEX {index} ON {name}")).await?;
        }
        Ok(())
    }

    async fn other_key(&mut self, table: &Table) -> mysql_async::Result<()> {
        let key: Vec<String> = table.key().iter().map(|c| quote(&c.name)).collect();
        let name = self.name(&table.name);
        match (key.len(), self.rng.u8(0..2)) {
            (0, _) => {
                let column = self.new_name("k");
                let add =
                    format!("ALTER TABLE {name} ADD COLUMN {column} INT NOT NULL AUTO_INCREMENT PRIMARY KEY FIRST");
                self.run("add a key", &add).await
            }
            (1, 0) => self.run("drop the key", &format!("ALTER TABLE {name} DROP PRIMARY KEY")).await,
            _ => {
                let Some(more) =
                    table.columns.iter().find(|c| c.in_key.is_none() && c.data_type == "int" && !c.nullable)
                else {
                    return Ok(());
                };
                let more = quote(&more.name);
                let change =
                    format!("ALTER TABLE {name} DROP PRIMARY KEY, ADD PRIMARY KEY ({more}, {})", key.join(", "));
                self.run("other key", &change).await
            }
        }
    }

    /// Statements that change no row and no definition that counts.
    async fn harmless(&mut self, name: &str) -> mysql_async::Result<()> {
        let statement = match self.rng.u8(0..7) {
            4 => "CREATE USER IF NOT EXISTS somebody".to_string(),
            5 | 6 => "FLUSH BINARY LOGS".to_string(),
            0 => format!("ANALYZE TABLE {name}"),
            1 => format!("OPTIMIZE TABLE {name}"),
            2 => format!("ALTER TABLE {name} COMMENT 'no; more'"),
            3 => format!("ALTER TABLE {name} ENGINE = InnoDB"),
            _ => format!("CREATE OR REPLACE VIEW {} AS SELECT * FROM {name}", self.name("a_view")),
        };
        self.run("harmless", &statement).await
    }
}
