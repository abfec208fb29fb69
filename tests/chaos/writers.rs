//! Writers that know no table beforehand: they look at what is there and change it with every trick that a binary log
//! has to carry.

use std::time::{Duration, Instant};

use fastrand::Rng;
use freshet_tests::quote;
use freshet_tests::shape::{Table, tables};
use freshet_tests::source::Flavour;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use crate::Scene;
use crate::ddl::stays;
use crate::values::value;

/// How old a writer's picture of the tables may be.
const PICTURE: Duration = Duration::from_millis(700);
/// Tables without a key are kept below about so many rows.
const BAG_ROWS: u64 = 3_000;

/// What the summary calls changes that the log holds as statements.
const STATEMENT: &str = "logged as a statement";

/// What one writer holds.
struct Writer {
    scene: Scene,
    rng: Rng,
    conn: Conn,
    tables: Vec<Table>,
    seen: Instant,
    /// Whether the session logs whole rows.
    full_images: bool,
}

/// Writes until the round is over, over lost connections and killed servers.
pub(crate) async fn write(scene: Scene, mut rng: Rng) {
    while !scene.is_over() {
        let result = async {
            let conn = scene.connect().await?;
            let mut writer = Writer::new(scene.clone(), rng.fork(), conn).await?;
            for _ in 0..rng.u32(20..300) {
                if scene.is_over() {
                    break;
                }
                writer.step().await?;
                tokio::time::sleep(Duration::from_millis(rng.u64(0..15))).await;
            }
            let _ = writer.conn.disconnect().await;
            mysql_async::Result::Ok(())
        };
        if result.await.is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Ends XA transactions that were left prepared, one now and then; all of them when the round is over.
pub(crate) async fn settle(scene: Scene, mut rng: Rng) {
    loop {
        let last = scene.is_over();
        if let Ok(mut conn) = scene.connect().await {
            let left = prepared(&mut conn).await.unwrap_or_default();
            for xid in &left {
                if !last && rng.bool() {
                    continue;
                }
                let _gate = scene.gate.read().await;
                let end = if rng.bool() { "COMMIT" } else { "ROLLBACK" };
                match conn.query_drop(format!("XA {end} {xid}")).await {
                    Ok(()) => scene.journal.note("transactions", &format!("XA {end} by another session"), xid),
                    Err(e) => scene.journal.write(&format!("XA {end} {xid}: {e}")),
                }
            }
            if last && left.is_empty() {
                return;
            }
        }
        tokio::time::sleep(Duration::from_millis(if last { 50 } else { rng.u64(300..2500) })).await;
    }
}

/// The ids of prepared transactions, as literals.
async fn prepared(conn: &mut Conn) -> mysql_async::Result<Vec<String>> {
    let rows: Vec<(i64, u64, u64, String)> = conn.query("XA RECOVER").await?;
    Ok(rows
        .into_iter()
        .map(|(_, global, branch, data)| {
            let (global, branch) = (global as usize, branch as usize);
            format!("'{}','{}'", &data[..global], &data[global..global + branch])
        })
        .collect())
}

/// What a session may set that shows in the log.
fn settings(flavour: Flavour) -> &'static [&'static str] {
    match flavour {
        Flavour::MariaDb => &["time_zone = '-08:00'", "sql_mode = ''", "binlog_annotate_row_events = OFF"],
        Flavour::MySql => &[
            "time_zone = '-08:00'",
            "sql_mode = ''",
            "binlog_transaction_compression = ON",
            "binlog_rows_query_log_events = ON",
        ],
    }
}

impl Writer {
    async fn new(scene: Scene, mut rng: Rng, mut conn: Conn) -> mysql_async::Result<Writer> {
        let image = ["FULL", "FULL", "MINIMAL", "NOBLOB"][rng.usize(..4)];
        conn.query_drop(format!("SET SESSION binlog_row_image = {image}")).await?;
        for setting in settings(scene.source.flavour) {
            if rng.u8(0..4) == 0 {
                conn.query_drop(format!("SET SESSION {setting}")).await?;
            }
        }
        let seen = Instant::now();
        let tables = tables(&mut conn, &scene.db, None).await?;
        Ok(Writer { scene, rng, conn, tables, seen, full_images: image == "FULL" })
    }

    /// One transaction. An error of the server that was to be expected ends only this one.
    async fn step(&mut self) -> mysql_async::Result<()> {
        if self.seen.elapsed() > PICTURE {
            self.tables = tables(&mut self.conn, &self.scene.db, None).await?;
            self.seen = Instant::now();
        }
        self.tables.retain(|t| !stays(&t.name));
        if self.tables.is_empty() {
            return Ok(());
        }
        let done = match self.rng.u8(0..40) {
            _ if self.rng.u16(0..500) == 0 && !self.scene.leaves_out(STATEMENT) => self.as_a_statement().await,
            _ if self.rng.u16(0..1000) == 0 => self.beyond_the_buffer().await,
            _ if self.rng.u8(0..15) == 0 => self.family().await,
            0..3 => self.xa().await,
            3 => self.huge().await,
            4..6 => self.temporary().await,
            6..16 => self.alone().await,
            _ => self.transaction().await,
        };
        match done {
            Err(mysql_async::Error::Server(e)) => {
                self.scene.journal.count("errors that writers met", &format!("{}", e.code), 1);
                if e.code == 1064 {
                    self.scene.journal.write(&format!("a writer's statement is wrong: {e}"));
                }
                self.seen = Instant::now() - PICTURE;
                self.conn.query_drop("ROLLBACK").await
            }
            done => done,
        }
    }

    fn count(&self, kind: &str) {
        self.scene.journal.count("transactions", kind, 1);
    }

    fn table(&mut self) -> Table {
        self.tables[self.rng.usize(..self.tables.len())].clone()
    }

    fn name(&self, table: &Table) -> String {
        format!("{}.{}", quote(&self.scene.db), quote(&table.name))
    }

    async fn run(&mut self, statement: &str) -> mysql_async::Result<()> {
        self.conn.query_drop(statement).await?;
        self.scene.journal.count("rows", "changed", self.conn.affected_rows());
        Ok(())
    }

    /// One statement that commits itself.
    async fn alone(&mut self) -> mysql_async::Result<()> {
        self.any().await?;
        self.count("of one statement");
        Ok(())
    }

    /// A statement that the log holds as its text: Freshet has to suspend the tables that it changes.
    async fn as_a_statement(&mut self) -> mysql_async::Result<()> {
        self.conn.query_drop("SET SESSION binlog_format = STATEMENT").await?;
        let done = self.any().await;
        self.conn.query_drop("SET SESSION binlog_format = ROW").await?;
        self.count(STATEMENT);
        done
    }

    /// Rows that refer to each other, whose parents go or change; MariaDB does not log what becomes of the children.
    async fn family(&mut self) -> mysql_async::Result<()> {
        let several = self.rng.bool();
        if several {
            self.conn.query_drop("BEGIN").await?;
        }
        for _ in 0..if several { self.rng.u32(2..6) } else { 1 } {
            let [a, b, c] = [(); 3].map(|()| self.rng.u32(0..60));
            let statement = match self.rng.u8(0..12) {
                0..3 => format!("INSERT IGNORE INTO zz_parent VALUES ({a}, 'c{b}', {c}), ({b}, 'C{c}', {a})"),
                3..6 => format!(
                    "INSERT IGNORE INTO zz_child SELECT {a} * 10 + n.i, p.id, p.code, {b} FROM zz_parent p \
                     JOIN (SELECT 0 i UNION SELECT 1 UNION SELECT 2) n WHERE p.id BETWEEN {b} AND {b} + 3"
                ),
                6..8 => format!(
                    "INSERT IGNORE INTO zz_grandchild SELECT c.id * 2 + {a} % 2, c.id, {b} FROM zz_child c \
                     WHERE c.id BETWEEN {c} * 10 AND {c} * 10 + 40"
                ),
                8 => format!("DELETE FROM zz_parent WHERE id BETWEEN {a} AND {a} + 2"),
                9 => format!("UPDATE IGNORE zz_parent SET id = {a}, v = {c} WHERE id = {b}"),
                10 => format!("UPDATE IGNORE zz_parent SET code = 'c{a}' WHERE id = {b}"),
                _ => format!("UPDATE zz_child SET v = {a}, code = NULL WHERE p = {b}"),
            };
            self.run(&statement).await?;
        }
        if several {
            let end = if self.rng.u8(0..4) == 0 { "ROLLBACK" } else { "COMMIT" };
            self.conn.query_drop(end).await?;
        }
        self.count("of a family");
        Ok(())
    }

    /// Several tables, savepoints, a commit or a rollback.
    async fn transaction(&mut self) -> mysql_async::Result<()> {
        self.conn.query_drop("BEGIN").await?;
        for _ in 0..self.rng.u32(1..6) {
            self.any().await?;
            if self.rng.u8(0..8) == 0 {
                self.conn.query_drop("SAVEPOINT `a savepoint`").await?;
                self.any().await?;
                self.any().await?;
                if self.rng.bool() {
                    self.conn.query_drop("ROLLBACK TO SAVEPOINT `a savepoint`").await?;
                    self.count("back to a savepoint");
                }
            }
        }
        let commit = self.rng.u8(0..7) > 0;
        self.conn.query_drop(if commit { "COMMIT" } else { "ROLLBACK" }).await?;
        self.count(if commit { "committed" } else { "rolled back" });
        Ok(())
    }

    /// Prepared; then ended here, or left for [`settle`]. The server is not killed in the middle of these statements:
    /// MariaDB's log and tables may disagree about them then, which is not what is tried here.
    async fn xa(&mut self) -> mysql_async::Result<()> {
        let xid = format!("'x{:x}','{}'", self.rng.u64(..), self.rng.u8(..));
        self.conn.query_drop(format!("XA START {xid}")).await?;
        let mut done = self.any().await;
        if done.is_ok() {
            done = self.any().await;
        }
        let gate = self.scene.gate.clone();
        let _gate = gate.read().await;
        self.conn.query_drop(format!("XA END {xid}")).await?;
        if let Err(e) = done {
            self.conn.query_drop(format!("XA ROLLBACK {xid}")).await?;
            return Err(e);
        }
        let end = match self.rng.u8(0..6) {
            0 => {
                self.conn.query_drop(format!("XA COMMIT {xid} ONE PHASE")).await?;
                self.count("XA COMMIT ONE PHASE");
                return Ok(());
            }
            1..3 => Some("COMMIT"),
            3 => Some("ROLLBACK"),
            _ => None,
        };
        self.conn.query_drop(format!("XA PREPARE {xid}")).await?;
        self.scene.journal.write(&format!("XA PREPARE {xid}"));
        let Some(end) = end else {
            self.count("XA left prepared");
            // Only the end of the session lets another one settle it.
            return Err(mysql_async::Error::Driver(mysql_async::DriverError::ConnectionClosed));
        };
        self.conn.query_drop(format!("XA {end} {xid}")).await?;
        self.count(&format!("XA {end}"));
        Ok(())
    }

    /// Tens of thousands of rows in one transaction.
    async fn huge(&mut self) -> mysql_async::Result<()> {
        let Some(table) = self.tables.iter().find(|t| t.columns.iter().any(|c| c.name == "big_id")).cloned() else {
            return Ok(());
        };
        let name = self.name(&table);
        self.conn.query_drop("BEGIN").await?;
        let from = self.rng.u32(0..40_000);
        match self.rng.u8(0..3) {
            0 => {
                self.run(&format!("DELETE FROM {name} WHERE big_id BETWEEN {from} AND {}", from + 15_000)).await?;
            }
            1 => {
                let column = &table.columns[self.rng.usize(..table.columns.len())];
                if column.in_key.is_none() {
                    let value = value(column, &mut self.rng);
                    let column = quote(&column.name);
                    self.run(&format!("UPDATE {name} SET {column} = {value} WHERE big_id > {from}")).await?;
                }
            }
            _ => {
                for part in 0..self.rng.u32(2..8) {
                    self.insert_big(&table, from + part * 2500, 2500).await?;
                }
            }
        }
        let commit = self.rng.u8(0..5) > 0;
        self.conn.query_drop(if commit { "COMMIT" } else { "ROLLBACK" }).await?;
        self.count(if commit { "huge" } else { "huge, rolled back" });
        Ok(())
    }

    /// A transaction that is larger than Freshet's buffer of 32 MB, by long texts.
    async fn beyond_the_buffer(&mut self) -> mysql_async::Result<()> {
        let long = |t: &&Table| t.columns.iter().any(|c| c.data_type == "text" && !c.generated) && !t.key().is_empty();
        let Some(table) = self.tables.iter().find(long).cloned() else { return Ok(()) };
        let Some(text) = table.columns.iter().find(|c| c.data_type == "text") else { return Ok(()) };
        let (name, text) = (self.name(&table), quote(&text.name));
        self.conn.query_drop("BEGIN").await?;
        self.run(&format!("DELETE FROM {name} WHERE length({text}) > 50000")).await?;
        for _ in 0..12 {
            let insert = self.insert(&table, "INSERT IGNORE", "");
            self.run(&insert).await?;
            let (n, filter) = (self.rng.u8(..), self.filter(&table));
            self.run(&format!("UPDATE {name} SET {text} = repeat('{n:08}', 7000) WHERE {filter} LIMIT 80")).await?;
        }
        let commit = self.rng.u8(0..4) > 0;
        self.conn.query_drop(if commit { "COMMIT" } else { "ROLLBACK" }).await?;
        self.count(if commit { "beyond the buffer" } else { "beyond the buffer, rolled back" });
        Ok(())
    }

    async fn insert_big(&mut self, table: &Table, from: u32, rows: u32) -> mysql_async::Result<()> {
        let columns: Vec<String> = table.columns.iter().map(|c| quote(&c.name)).collect();
        let rows: Vec<String> = (from..from + rows)
            .map(|id| {
                let values: Vec<String> = table
                    .columns
                    .iter()
                    .map(|c| if c.name == "big_id" { id.to_string() } else { value(c, &mut self.rng) })
                    .collect();
                format!("({})", values.join(","))
            })
            .collect();
        let statement =
            format!("INSERT IGNORE INTO {} ({}) VALUES {}", self.name(table), columns.join(","), rows.join(","));
        self.run(&statement).await
    }

    /// A temporary table, mostly with the name of one that is followed.
    async fn temporary(&mut self) -> mysql_async::Result<()> {
        let table = self.table();
        let name = if self.rng.bool() { self.name(&table) } else { format!("{}.temporary", quote(&self.scene.db)) };
        self.conn.query_drop(format!("CREATE TEMPORARY TABLE {name} (id INT PRIMARY KEY, v VARCHAR(10))")).await?;
        let within = self.rng.bool();
        let done = async {
            if within {
                self.conn.query_drop("BEGIN").await?;
            }
            self.conn.query_drop(format!("INSERT INTO {name} VALUES (1, 'a'), (2, 'b')")).await?;
            self.conn.query_drop(format!("UPDATE {name} SET v = 'c' WHERE id = 2")).await?;
            if within {
                self.conn.query_drop("COMMIT").await?;
            }
            mysql_async::Result::Ok(())
        };
        let done = done.await;
        self.conn.query_drop(format!("DROP TEMPORARY TABLE IF EXISTS {name}")).await?;
        self.count("with a temporary table");
        done
    }

    /// One statement on one table.
    async fn any(&mut self) -> mysql_async::Result<()> {
        let table = self.table();
        let name = self.name(&table);
        let keyed = !table.key().is_empty();
        // What a REPLACE does to a row that is there MariaDB logs in part only, when the session logs parts of rows.
        let replaces = self.full_images || self.scene.source.flavour == Flavour::MySql;
        let statement = match self.rng.u8(0..22) {
            20 if keyed => self.two_tables(&table),
            0..6 => self.insert(&table, "INSERT", ""),
            6 | 7 => self.insert(&table, "INSERT IGNORE", ""),
            8 | 9 if replaces => self.insert(&table, "REPLACE", ""),
            8..11 if keyed => {
                let set = self.assignments(&table, "");
                self.insert(&table, "INSERT", &format!(" ON DUPLICATE KEY UPDATE {set}"))
            }
            11 if keyed => {
                let column = table.key()[0];
                let (to, filter) = (value(column, &mut self.rng), self.filter(&table));
                format!("UPDATE {name} SET {} = {to} WHERE {filter} LIMIT 1", quote(&column.name))
            }
            12 if !keyed => self.bag(&table).await?,
            12..15 => {
                let (filter, n) = (self.filter(&table), self.rng.u8(1..8));
                format!("DELETE FROM {name} WHERE {filter} LIMIT {n}")
            }
            _ => {
                let (set, filter, n) = (self.assignments(&table, ""), self.filter(&table), self.rng.u8(1..20));
                format!("UPDATE {name} SET {set} WHERE {filter} LIMIT {n}")
            }
        };
        self.run(&statement).await
    }

    /// One statement that changes rows of two tables.
    fn two_tables(&mut self, one: &Table) -> String {
        let keyed: Vec<Table> =
            self.tables.iter().filter(|t| !t.key().is_empty() && t.name != one.name).cloned().collect();
        if keyed.is_empty() {
            return format!("DELETE FROM {} LIMIT 1", self.name(one));
        }
        let other = &keyed[self.rng.usize(..keyed.len())];
        let (a, b) = (self.name(one), self.name(other));
        let rows = |alias: &str, table: &Table, rng: &mut Rng| {
            let key = table.key()[0];
            let keys: Vec<String> = (0..40).map(|_| value(key, rng)).collect();
            format!("{alias}.{} IN ({})", quote(&key.name), keys.join(", "))
        };
        let condition = format!("{} AND {}", rows("a", one, &mut self.rng), rows("b", other, &mut self.rng));
        if self.rng.u8(0..3) == 0 {
            return format!("DELETE a, b FROM {a} a JOIN {b} b WHERE {condition}");
        }
        let (first, second) = (self.assignments(one, "a."), self.assignments(other, "b."));
        format!("UPDATE {a} a JOIN {b} b SET {first}, {second} WHERE {condition}")
    }

    /// Doubles rows of a table without a key, or thins it out.
    async fn bag(&mut self, table: &Table) -> mysql_async::Result<String> {
        let name = self.name(table);
        let rows: Option<u64> = self.conn.query_first(format!("SELECT COUNT(*) FROM {name}")).await?;
        Ok(match rows.unwrap_or(0) {
            rows if rows > BAG_ROWS => format!("DELETE FROM {name} LIMIT {}", rows / 2),
            _ => format!("INSERT INTO {name} SELECT * FROM {name} LIMIT {}", self.rng.u32(1..200)),
        })
    }

    fn insert(&mut self, table: &Table, verb: &str, tail: &str) -> String {
        let rng = &mut self.rng;
        let columns: Vec<_> =
            table.columns.iter().filter(|c| !c.generated && (!c.optional || rng.u8(0..4) > 0)).collect();
        let names: Vec<String> = columns.iter().map(|c| quote(&c.name)).collect();
        let most = if rng.u8(0..10) == 0 { 300 } else { 6 };
        let mut rows: Vec<String> = (0..rng.usize(1..most))
            .map(|_| format!("({})", columns.iter().map(|c| value(c, rng)).collect::<Vec<_>>().join(", ")))
            .collect();
        if table.key().is_empty() {
            rows.extend(rows.clone()); // duplicates
        }
        format!("{verb} INTO {} ({}) VALUES {}{tail}", self.name(table), names.join(", "), rows.join(", "))
    }

    /// New values for one or more columns outside the key; `alias` with its point.
    fn assignments(&mut self, table: &Table, alias: &str) -> String {
        let rng = &mut self.rng;
        let mut free: Vec<_> = table.columns.iter().filter(|c| c.in_key.is_none() && !c.generated).collect();
        if free.is_empty() {
            free = table.key();
        }
        rng.shuffle(&mut free);
        let some = rng.usize(1..free.len().min(3) + 1);
        let set: Vec<String> =
            free[..some].iter().map(|c| format!("{alias}{} = {}", quote(&c.name), value(c, rng))).collect();
        set.join(", ")
    }

    /// A condition that some rows meet.
    fn filter(&mut self, table: &Table) -> String {
        let column = match table.key().first() {
            Some(first) => (*first).clone(),
            None => table.columns[self.rng.usize(..table.columns.len())].clone(),
        };
        let value = value(&column, &mut self.rng);
        match (column.in_key, self.rng.u8(0..3)) {
            (None, 0) => "1 = 1".into(),
            (None, _) => format!("{} <=> {value}", quote(&column.name)),
            (Some(_), 0) => format!("{} = {value}", quote(&column.name)),
            (Some(_), _) => format!("{} >= {value}", quote(&column.name)),
        }
    }
}
