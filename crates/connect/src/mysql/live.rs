//! The source as a whole against real servers (see `wire::live`): a replica in memory follows what copy and stream give,
//! and is compared with what the server itself prints.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering as Memory};
use std::time::Duration;

use arrow::array::{Array, RecordBatch};
use freshet_core::batch::{OP_COLUMN, OP_DELETE, OP_MOVE, OP_UPSERT};
use freshet_core::{
    BatchStream, ChangeBatch, ChangesRequest, Check, DefaultValue, ErrorKind, Event, KeyRange, Position, Source,
    TableChange, TableName, TablePattern, TableSchema, text,
};

use super::MySql;
use super::binlog::gtid::GtidSet;
use super::discover::{end_of_log, gtids_at};
use super::wire::{Connection, Flavour, Options, live::servers};

/// A row as canonical text.
type Line = Vec<Option<String>>;

/// A database of its own.
pub(super) struct Bench {
    pub(super) c: Connection,
    pub(super) source: MySql,
    pub(super) mysql: bool,
    options: Options,
    pattern: TablePattern,
    database: String,
}

impl Bench {
    pub(super) async fn new(o: &Options, database: &str) -> Bench {
        let mut c = Connection::connect(o).await.unwrap();
        for sql in [
            "SET NAMES utf8mb4, sql_mode = '', time_zone = '+00:00'".to_string(),
            format!("DROP DATABASE IF EXISTS {database}"),
            format!("CREATE DATABASE {database} CHARACTER SET utf8mb4"),
            format!("USE {database}"),
        ] {
            c.execute(&sql).await.unwrap();
        }
        let source = MySql::new(&format!("mysql://{}:{}@{}:{}/", o.user, o.password.reveal(), o.host, o.port)).unwrap();
        let mysql = c.server.flavour == Flavour::MySql;
        let pattern = TablePattern::database(database);
        Bench { c, source, mysql, options: o.clone(), pattern, database: database.to_string() }
    }

    pub(super) async fn run(&mut self, sql: &str) {
        self.c.execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    }

    fn url(&self) -> String {
        let o = &self.options;
        format!("mysql://{}:{}@{}:{}/", o.user, o.password.reveal(), o.host, o.port)
    }

    async fn another(&self) -> Connection {
        let mut c = Connection::connect(&self.options).await.unwrap();
        c.execute(&format!("USE {}", self.database)).await.unwrap();
        c
    }

    pub(super) async fn begin(&self) -> (Position, Vec<Arc<TableSchema>>) {
        let start = self.source.begin(&self.pattern).await.unwrap();
        (start.low, start.tables.into_iter().map(|t| Arc::new(t.schema.unwrap())).collect())
    }

    pub(super) fn request(&self, from: &Position, tables: &[Arc<TableSchema>]) -> ChangesRequest {
        ChangesRequest {
            tables: tables.to_vec(),
            watched: Vec::new(),
            pattern: self.pattern.clone(),
            from: from.clone(),
            stop: None,
            spool: None,
            lane: 0,
        }
    }

    /// The events from `request` on to the log's end as it is now.
    pub(super) async fn events(&self, request: ChangesRequest) -> Vec<Event> {
        let end = self.source.end(None).await.unwrap().position;
        let mut stream = self.source.changes(request).await.unwrap();
        let mut events = Vec::new();
        loop {
            let event = tokio::time::timeout(Duration::from_secs(30), stream.next()).await.expect("the stream hangs");
            events.push(event.unwrap());
            if let Some(Event::Commit(commit)) = events.last()
                && self.source.compare(&commit.position, &end).is_none_or(|o| o.is_ge())
            {
                return events;
            }
        }
    }

    /// The table's rows as the server prints them, sorted.
    pub(super) async fn printed(&self, schema: &Arc<TableSchema>) -> Vec<Line> {
        let mut out = Vec::new();
        let mut rows = self.source.text(schema, &KeyRange::default()).await.unwrap();
        while let Some(batch) = rows.next().await.unwrap() {
            out.extend(lines(&batch, None));
        }
        out.sort();
        out
    }

    pub(super) async fn schema(&self, table: &str) -> Arc<TableSchema> {
        let name = TableName::new(&self.database, table);
        let found = self.source.tables(&self.pattern).await.unwrap().into_iter().find(|t| t.name == name);
        Arc::new(found.unwrap().schema.unwrap())
    }
}

/// Rows as canonical text; without a schema they are that already.
fn lines(batch: &RecordBatch, schema: Option<&TableSchema>) -> Vec<Line> {
    let columns: Vec<_> = batch
        .columns()
        .iter()
        .zip(batch.schema().fields())
        .filter(|(_, field)| field.name() != OP_COLUMN)
        .map(|(array, field)| match schema {
            Some(schema) => text::render(array, &schema.column(field.name()).unwrap().data_type).unwrap(),
            None => text::render(array, &freshet_core::DataType::TEXT).unwrap(),
        })
        .collect();
    let cell = |c: &arrow::array::StringArray, row| (!c.is_null(row)).then(|| c.value(row).to_string());
    (0..batch.num_rows()).map(|row| columns.iter().map(|c| cell(c, row)).collect()).collect()
}

async fn all_lines(mut rows: Box<dyn BatchStream>, schema: &TableSchema) -> Vec<Line> {
    let mut out = Vec::new();
    while let Some(batch) = rows.next().await.unwrap() {
        out.extend(lines(&batch, Some(schema)));
    }
    out
}

/// A table as the events leave it.
#[derive(Clone, Debug)]
pub(super) struct Copy {
    pub(super) schema: Arc<TableSchema>,
    rows: Vec<Line>,
    /// Rewritten past the log: to be copied again.
    pub(super) rewritten: bool,
}

impl Copy {
    pub(super) fn new(schema: Arc<TableSchema>, rows: Vec<Line>) -> Self {
        Copy { schema, rows, rewritten: false }
    }

    pub(super) fn sorted(&self) -> Vec<Line> {
        let mut rows = self.rows.clone();
        rows.sort();
        rows
    }

    fn apply(&mut self, batch: &ChangeBatch) {
        let schema = Arc::clone(&batch.schema);
        assert_eq!(schema, self.schema, "rows in another schema");
        let names: Vec<_> = batch.rows.schema().fields().iter().map(|f| schema.index_of(f.name())).collect();
        let places: Vec<usize> = names.into_iter().flatten().collect();
        assert_eq!(batch.is_partial(), places.len() < schema.columns.len());
        let keys = schema.key_indexes();
        assert!(keys.iter().all(|k| places.contains(k)), "{}: the key is absent", schema.name);
        let mut moved: Option<Line> = None;
        for (cells, op) in lines(&batch.rows, Some(&schema)).into_iter().zip(batch.ops().values()) {
            let mut row: Line = vec![None; schema.columns.len()];
            for (place, cell) in places.iter().zip(cells) {
                row[*place] = cell;
            }
            let same = |other: &Line| match keys.is_empty() {
                true => *other == row,
                false => keys.iter().all(|k| other[*k] == row[*k]),
            };
            let at = self.rows.iter().position(same);
            match *op {
                OP_DELETE => {
                    assert!(at.is_some() || schema.has_key(), "{}: no row {row:?} to delete", schema.name);
                    at.map(|at| self.rows.swap_remove(at));
                }
                OP_MOVE => moved = Some(self.rows.swap_remove(at.expect("no row to move"))),
                OP_UPSERT if !batch.is_partial() => match at.filter(|_| schema.has_key()) {
                    Some(at) => self.rows[at] = row,
                    None => self.rows.push(row),
                },
                OP_UPSERT => {
                    let mut base = match moved.take() {
                        Some(base) => base,
                        None => self.rows.swap_remove(at.unwrap_or_else(|| panic!("no row for {row:?}"))),
                    };
                    for place in &places {
                        base[*place].clone_from(&row[*place]);
                    }
                    self.rows.push(base);
                }
                other => panic!("operation {other}"),
            }
        }
        assert!(moved.is_none(), "a move without its upsert");
    }

    fn change(&mut self, step: &TableChange) {
        match step {
            TableChange::AddColumn { column, .. } => {
                let value = match &column.default {
                    Some(DefaultValue::Literal(value)) => Some(value.clone()),
                    _ => None,
                };
                let after = self.schema.after(step).unwrap().unwrap();
                let at = after.index_of(&column.name).unwrap();
                self.rows.iter_mut().for_each(|r| r.insert(at, value.clone()));
            }
            TableChange::DropColumn { name } => {
                let at = self.schema.index_of(name).unwrap();
                self.rows.iter_mut().for_each(|r| drop(r.remove(at)));
            }
            TableChange::MoveColumn { name, .. } => {
                let from = self.schema.index_of(name).unwrap();
                let to = self.schema.after(step).unwrap().unwrap().index_of(name).unwrap();
                self.rows.iter_mut().for_each(|r| {
                    let cell = r.remove(from);
                    r.insert(to, cell);
                });
            }
            TableChange::Truncate => self.rows.clear(),
            TableChange::Rewrite { .. } => self.rewritten = true,
            _ => {}
        }
        self.schema = Arc::new(self.schema.after(step).unwrap().unwrap());
    }
}

/// Tables as the events leave them.
#[derive(Default)]
pub(super) struct Replica {
    pub(super) tables: BTreeMap<TableName, Copy>,
    pub(super) suspended: BTreeMap<TableName, freshet_core::Error>,
    /// Tables that got a followed name.
    pub(super) strangers: Vec<TableName>,
}

impl Replica {
    pub(super) fn apply(&mut self, event: &Event) {
        match event {
            Event::Rows(batch) => self.tables.get_mut(&batch.schema.name).expect("rows of no table").apply(batch),
            Event::Schema(change) => {
                for (table, step) in &change.steps {
                    match step {
                        TableChange::CreateTable(schema) => {
                            self.tables.insert(schema.name.clone(), Copy::new(Arc::new(schema.clone()), Vec::new()));
                        }
                        TableChange::DropTable => drop(self.tables.remove(table)),
                        TableChange::RenameTable { to } => match self.tables.remove(table) {
                            Some(mut copy) => {
                                copy.change(step);
                                self.tables.insert(to.clone(), copy);
                            }
                            None => self.strangers.push(to.clone()),
                        },
                        step => self.tables.get_mut(table).expect("a change of no table").change(step),
                    }
                }
            }
            Event::Suspend { table, error } => {
                self.tables.remove(table);
                self.suspended.insert(table.clone(), error.clone());
            }
            Event::Commit(_) | Event::Unseen { .. } => {}
        }
    }
}

/// Says where two tables differ.
pub(super) fn assert_same(schema: &TableSchema, streamed: &[Line], printed: &[Line]) {
    for (a, b) in streamed.iter().zip(printed) {
        for ((x, y), column) in a.iter().zip(b).zip(&schema.columns) {
            assert_eq!(x, y, "{}.{} ({}): streamed, printed; {a:?}", schema.name, column.name, column.source_type);
        }
    }
    assert_eq!(streamed.len(), printed.len(), "{}: rows", schema.name);
}

/// Writers change a table without a key while it is cut again and again: the rows of the cut and the changes behind it
/// are the table, every row as often as it is there.
#[tokio::test]
async fn a_cut_and_the_stream_behind_it_are_the_table() {
    for o in servers("a_cut_and_the_stream_behind_it_are_the_table") {
        let mut b = Bench::new(&o, "fr_cut").await;
        b.run("CREATE TABLE k (a INT, b VARCHAR(20), c TIMESTAMP(3) NULL) ENGINE=InnoDB").await;
        b.run("CREATE TABLE other (id INT AUTO_INCREMENT PRIMARY KEY, x INT) ENGINE=InnoDB").await;
        b.run("CREATE TABLE m (a INT, b INT) ENGINE=MyISAM").await;
        b.run("INSERT INTO k VALUES (1, 'one', NULL), (1, 'one', NULL), (2, 'two', '2024-01-01 00:00:00.123')").await;
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut writers = Vec::new();
        for writer in 0..4_u64 {
            let (mut c, stop, done) = (b.another().await, Arc::clone(&stop), Arc::clone(&done));
            writers.push(tokio::spawn(async move {
                let mut r = fastrand::Rng::with_seed(writer);
                while !stop.load(Memory::Relaxed) {
                    let n = r.u32(0..20);
                    let statements: &[String] = &match r.u8(0..6) {
                        0 | 1 => vec![format!("INSERT INTO k VALUES ({n}, 'w{n}', NULL), ({n}, 'w{n}', NULL)")],
                        2 => vec![format!("UPDATE k SET a = a + 1 WHERE a = {n} LIMIT 3")],
                        3 => vec![format!("DELETE FROM k WHERE a = {n} LIMIT 2"), "INSERT INTO m VALUES (1, 1)".into()],
                        4 => vec!["INSERT INTO other (x) VALUES (1)".into()],
                        _ => vec![
                            "BEGIN".into(),
                            format!("INSERT INTO k VALUES ({n}, 't', NULL)"),
                            format!("DELETE FROM k WHERE a = {} LIMIT 1", n + 1),
                            "COMMIT".into(),
                        ],
                    };
                    for sql in statements {
                        // Deadlocks are the writers' own affair.
                        let _ = c.execute(sql).await;
                        done.fetch_add(1, Memory::Relaxed);
                    }
                }
            }));
        }
        let schema = b.schema("k").await;
        let flat = b.schema("m").await;
        let mut cuts = Vec::new();
        for _ in 0..40 {
            let low = b.source.end(None).await.unwrap().position;
            let cut = b.source.cut(&schema, &low).await.unwrap();
            assert!(b.source.compare(&cut.at, &low).is_some_and(|o| o.is_ge()), "{} before {low}", cut.at);
            cuts.push((cut.at, all_lines(cut.rows, &schema).await));
        }
        let low = b.source.end(None).await.unwrap().position;
        let cut = b.source.cut(&flat, &low).await.unwrap();
        let flat_cut = (cut.at, all_lines(cut.rows, &flat).await);
        stop.store(true, Memory::Relaxed);
        for writer in writers {
            writer.await.unwrap();
        }
        assert!(done.load(Memory::Relaxed) > 100);
        for (schema, at, rows) in
            cuts.into_iter().map(|(at, rows)| (&schema, at, rows)).chain([(&flat, flat_cut.0, flat_cut.1)])
        {
            let mut replica = Replica::default();
            replica.tables.insert(schema.name.clone(), Copy::new(Arc::clone(schema), rows));
            let mut request = b.request(&at, std::slice::from_ref(schema));
            request.pattern = TablePattern::parse("fr_nothing.x", None).unwrap();
            b.events(request).await.iter().for_each(|e| replica.apply(e));
            assert_same(schema, &replica.tables[&schema.name].sorted(), &b.printed(schema).await);
        }
    }
}

/// MariaDB tells the end of its log and its transactions apart; what we put together is what it reads in the log.
#[tokio::test]
async fn the_end_of_the_log_has_its_transactions() {
    for o in servers("the_end_of_the_log_has_its_transactions") {
        let mut b = Bench::new(&o, "ends").await;
        if b.mysql {
            continue;
        }
        b.run("CREATE TABLE t (id INT PRIMARY KEY, v INT)").await;
        b.run("FLUSH BINARY LOGS").await;
        let stop = Arc::new(AtomicBool::new(false));
        let mut writers = Vec::new();
        for writer in 0..2 {
            let (mut c, stop) = (b.another().await, Arc::clone(&stop));
            writers.push(tokio::spawn(async move {
                let mut n = 0;
                while !stop.load(Memory::Relaxed) {
                    n += 1;
                    c.execute(&format!("REPLACE INTO t VALUES ({writer}, {n})")).await.unwrap();
                    if n % 50 == 0 {
                        c.execute("FLUSH BINARY LOGS").await.unwrap();
                    }
                    tokio::time::sleep(Duration::from_micros(n % 7 * 300)).await;
                }
            }));
        }
        let mut told = 0;
        for _ in 0..100 {
            let ((file, offset), gtids) = end_of_log(&mut b.c).await.unwrap();
            let Some(gtids) = gtids else { continue };
            told += 1;
            let rows = b.c.query(&format!("SELECT BINLOG_GTID_POS('{file}', {offset})")).await.unwrap();
            let read = rows[0].get_str(0).and_then(GtidSet::parse);
            assert_eq!(GtidSet::parse(&gtids), read, "{file}:{offset}");
            let again = gtids_at(&mut b.c, &file, offset).await.unwrap();
            assert_eq!(again, read, "{file}:{offset}, when it may no longer be the end");
        }
        stop.store(true, Memory::Relaxed);
        for writer in writers {
            writer.await.unwrap();
        }
        assert!(told > 20, "only {told} times of 100");
    }
}

#[tokio::test]
async fn a_cut_without_the_grant_says_which() {
    for o in servers("a_cut_without_the_grant_says_which") {
        let mut b = Bench::new(&o, "fr_cut_grant").await;
        b.run("CREATE TABLE k (a INT) ENGINE=MyISAM").await;
        b.run("DROP USER IF EXISTS fr_cutter@'%'").await;
        b.run("CREATE USER fr_cutter@'%' IDENTIFIED BY 'pw'").await;
        b.run("GRANT SELECT ON fr_cut_grant.* TO fr_cutter@'%'").await;
        b.run("GRANT REPLICATION CLIENT, REPLICATION SLAVE ON *.* TO fr_cutter@'%'").await;
        let poor = MySql::new(&format!("mysql://fr_cutter:pw@{}:{}/", o.host, o.port)).unwrap();
        let low = b.source.end(None).await.unwrap().position;
        let e = poor.cut(&b.schema("k").await, &low).await.err().unwrap();
        assert_eq!(e.kind, ErrorKind::Permission, "{e}");
        assert!(e.hint.as_deref().is_some_and(|h| h.contains("GRANT SELECT, LOCK TABLES ON `fr_cut_grant`.*")), "{e}");
        // MySQL needs it for every table without a key, and `check` says so beforehand.
        let lacks = async || {
            let findings = poor.check(&b.pattern).await;
            let fix = findings.iter().find(|f| f.name == "grant to lock").and_then(|f| f.fix.clone());
            fix.map(|fix| fix.contains("GRANT LOCK TABLES ON `fr_cut_grant`.* TO `fr_cutter`@`%`"))
        };
        assert_eq!(lacks().await, b.mysql.then_some(true));
        let grant = "GRANT LOCK TABLES ON `fr\\_cut\\_grant`.* TO fr_cutter@'%'";
        b.another().await.execute(grant).await.unwrap();
        assert_eq!(lacks().await, None);
        b.run("DROP USER fr_cutter@'%'").await;
    }
}

#[tokio::test]
async fn rows_are_read_back_by_their_keys() {
    for o in servers("rows_are_read_back_by_their_keys") {
        let mut b = Bench::new(&o, "fr_rows_of").await;
        b.run(
            "CREATE TABLE t (a INT, b VARCHAR(20), c DATETIME(3), d DECIMAL(9,2), e ENUM('x','y'), f VARBINARY(9), \
             g FLOAT, h DOUBLE, i TIME(2), v TEXT, PRIMARY KEY (b, a, c, d, e, f, g, h, i))",
        )
        .await;
        for n in 0..1200 {
            b.run(&format!(
                "INSERT INTO t VALUES ({n}, 'k''\\\\{n} é', '2024-01-01 00:00:00.{:03}', {n}.5, 'y', x'00{n:06}', 0.1, \
                 1e-300, '-00:00:01.25', REPEAT('v', {n}))",
                n % 1000
            ))
            .await;
        }
        let (low, tables) = b.begin().await;
        let schema = Arc::clone(&tables[0]);
        let split = freshet_core::Split { number: 0, range: KeyRange::default(), rows: 1 };
        let mut batches = Vec::new();
        let mut rows = b.source.read(&schema, &split, &low).await.unwrap();
        while let Some(batch) = rows.next().await.unwrap() {
            batches.push(batch);
        }
        let all = arrow::compute::concat_batches(&batches[0].schema(), &batches).unwrap();
        b.run("DELETE FROM t WHERE a < 100").await;
        b.run("UPDATE t SET v = 'changed' WHERE a = 100").await;
        let low = b.source.end(None).await.unwrap().position;
        let keys = all.project(&schema.key_indexes()).unwrap();
        let found = b.source.rows_of(&schema, &keys, &low).await.unwrap();
        let mut found = lines(&found, Some(&schema));
        found.sort();
        assert_eq!(found.len(), 1100);
        assert_same(&schema, &found, &b.printed(&schema).await);
        assert_eq!(b.source.rows_of(&schema, &keys.slice(0, 0), &low).await.unwrap().num_rows(), 0);
    }
}

/// A watched table's rows are left out; its schema changes come, under its new name as well.
#[tokio::test]
async fn watched_tables_send_their_schema_changes_only() {
    for o in servers("watched_tables_send_their_schema_changes_only") {
        let mut b = Bench::new(&o, "fr_watched").await;
        b.run("CREATE TABLE f (id INT PRIMARY KEY)").await;
        b.run("CREATE TABLE w (id INT PRIMARY KEY)").await;
        let (low, tables) = b.begin().await;
        for sql in [
            "INSERT INTO w VALUES (1)",
            "INSERT INTO f VALUES (1)",
            "ALTER TABLE w ADD x INT",
            "INSERT INTO w VALUES (2, 3)",
            "RENAME TABLE w TO v",
            "INSERT INTO v VALUES (3, 4)",
            "INSERT INTO f VALUES (2)",
        ] {
            b.run(sql).await;
        }
        let mut request = b.request(&low, &tables[..1]);
        request.watched = tables[1..].to_vec();
        let (mut rows, mut steps) = (0, Vec::new());
        for event in b.events(request).await {
            match event {
                Event::Rows(batch) => {
                    assert_eq!(batch.schema.name.table, "f");
                    rows += batch.rows.num_rows();
                }
                Event::Schema(change) => steps.extend(change.steps),
                Event::Suspend { table, error } => panic!("{table}: {error}"),
                Event::Unseen { table, reason, .. } => panic!("{table}: {reason}"),
                Event::Commit(_) => {}
            }
        }
        assert_eq!((rows, steps.len()), (2, 2), "{steps:?}");
        assert!(matches!(&steps[1], (from, TableChange::RenameTable { to }) if from.table == "w" && to.table == "v"));
    }
}

/// Two streams of one process at once, and a third with the number of the first: that one is cut off and comes back.
#[tokio::test]
async fn every_lane_has_a_number_of_its_own() {
    for o in servers("every_lane_has_a_number_of_its_own") {
        let b = Bench::new(&o, "fr_lanes").await;
        let (low, tables) = b.begin().await;
        let open = |source: &MySql, lane| {
            let request = ChangesRequest { lane, ..b.request(&low, &tables) };
            let source = MySql { replica: Arc::clone(&source.replica), ..MySql::new(&b.url()).unwrap() };
            async move { source.changes(request).await.unwrap() }
        };
        let mut first = open(&b.source, 0).await;
        let mut second = open(&b.source, 1).await;
        // Others write to the server meanwhile.
        let lost = async |stream: &mut Box<dyn freshet_core::ChangeStream>, seconds| {
            let error = async {
                loop {
                    if let Err(e) = stream.next().await {
                        return e;
                    }
                }
            };
            tokio::time::timeout(Duration::from_secs(seconds), error).await.ok()
        };
        let both = (lost(&mut first, 1).await, lost(&mut second, 1).await);
        assert!(both.0.is_none() && both.1.is_none(), "a lane was cut off: {both:?}");
        let thief = MySql::new(&format!("{}?server_id={}", b.url(), b.source.replica.now())).unwrap();
        let _third = thief.changes(b.request(&low, &tables)).await.unwrap();
        let cut = lost(&mut first, 8).await;
        if b.mysql {
            assert!(cut.is_none(), "MySQL goes by the uuid");
            continue;
        }
        let before = thief.replica.now();
        let e = cut.expect("not cut off");
        assert_eq!(e.kind, ErrorKind::SourceUnavailable, "{e}");
        assert_ne!(b.source.replica.now(), before);
    }
}

/// Tables for partial row images: every way to be identified, every type.
pub(super) const PARTIAL: [&str; 6] = [
    "CREATE TABLE one (id INT PRIMARY KEY, a INT DEFAULT 5, v VARCHAR(20) DEFAULT 'dé', b BLOB, t TEXT NOT NULL, n INT NOT NULL)",
    "CREATE TABLE two (x INT, a INT NOT NULL, b VARCHAR(9) NOT NULL, c TEXT, d INT DEFAULT 7, PRIMARY KEY (b, a))",
    "CREATE TABLE uni (x INT DEFAULT 1, b INT NOT NULL, a INT NOT NULL, c TEXT, UNIQUE KEY zz (b))",
    "CREATE TABLE bag (a INT DEFAULT 9, v VARCHAR(20), b BLOB, t TEXT)",
    "CREATE TABLE gen (id INT PRIMARY KEY, a INT, g INT AS (a + 1) STORED, ts TIMESTAMP(3) NOT NULL DEFAULT \
     CURRENT_TIMESTAMP(3) ON UPDATE CURRENT_TIMESTAMP(3), e VARCHAR(20) DEFAULT (CONCAT('x', 1)), b BLOB)",
    "CREATE TABLE kinds (id INT PRIMARY KEY, z INT, ti TINYINT UNSIGNED DEFAULT 200, bi BIGINT UNSIGNED DEFAULT 18446744073709551615, \
     b1 BIT(1) DEFAULT b'1', b9 BIT(9) DEFAULT b'101', de DECIMAL(9,3) DEFAULT -1.5, dz DECIMAL(40,2) DEFAULT 0.25, f FLOAT DEFAULT 0.1, d DOUBLE DEFAULT -1e-300, \
     da DATE DEFAULT '2020-1-2', dt DATETIME(2) DEFAULT '2020-01-02 03:04:05.67', ts TIMESTAMP NULL DEFAULT '2020-01-02 03:04:05', ti3 TIME(3) DEFAULT '-10:11:12.5', y YEAR DEFAULT 1999, \
     c CHAR(5) DEFAULT 'c', cl CHAR(5) CHARACTER SET latin1 DEFAULT 'é', bn BINARY(4) DEFAULT 'ab', vb VARBINARY(4) DEFAULT 'xy', e ENUM('p','q') DEFAULT 'q', \
     s SET('u','v','w') DEFAULT 'u,w', en ENUM('first','other') NOT NULL, nn VARCHAR(5) NOT NULL, ni BIGINT NOT NULL, j JSON)",
];

#[tokio::test]
async fn rows_without_all_of_their_columns() {
    for o in servers("rows_without_all_of_their_columns") {
        let mut b = Bench::new(&o, "fr_partial").await;
        for sql in PARTIAL {
            b.run(sql).await;
        }
        let (low, tables) = b.begin().await;
        let mut r = fastrand::Rng::with_seed(5);
        let mut open = false;
        for i in 0..900 {
            if i % 5 == 0 {
                let image = ["MINIMAL", "NOBLOB", "FULL"][r.usize(0..3)];
                if open {
                    b.run("COMMIT").await;
                }
                b.run(&format!("SET SESSION binlog_row_image = '{image}'")).await;
                open = r.bool();
                if open {
                    b.run("BEGIN").await;
                }
            }
            let (n, m) = (r.u32(0..12), r.u32(0..12));
            let sql = match r.u8(0..18) {
                0 => format!("INSERT IGNORE INTO one (id) VALUES ({n})"),
                1 => format!("INSERT IGNORE INTO one (id, v, b) VALUES ({n}, NULL, 'blob{i}'), ({m}, 'v', NULL)"),
                2 => format!("UPDATE one SET a = {i} WHERE id IN ({n}, {m})"),
                3 => format!("UPDATE IGNORE one SET id = {m}, t = 't{i}' WHERE id = {n}"),
                4 => format!("DELETE FROM one WHERE id = {n} OR a = {m}"),
                5 => format!("INSERT INTO one (id, n) VALUES ({n}, {m}) ON DUPLICATE KEY UPDATE v = 'dup{i}'"),
                6 => format!("INSERT IGNORE INTO two (a, b) VALUES ({n}, 'k{m}')"),
                7 => format!("UPDATE IGNORE two SET b = 'k{m}', x = {i} WHERE a = {n}"),
                8 => format!("UPDATE two SET c = REPEAT('c', {n}) WHERE a < {m}"),
                9 => format!("INSERT IGNORE INTO uni (b, c) VALUES ({n}, 'u{i}')"),
                10 => format!("UPDATE IGNORE uni SET b = {m} WHERE b = {n}"),
                11 => format!("UPDATE uni SET x = {i} WHERE b = {n}"),
                12 => format!("INSERT INTO bag (v, t) VALUES ('v{n}', NULL), ('v{n}', NULL), (NULL, 't')"),
                13 => format!("UPDATE bag SET a = {m} WHERE v = 'v{n}' LIMIT 1"),
                14 => format!("DELETE FROM bag WHERE v = 'v{n}' LIMIT 1"),
                15 => format!("INSERT IGNORE INTO gen (id, a) VALUES ({n}, {m})"),
                16 => format!("UPDATE gen SET {} WHERE id = {n}", ["a = a + 1", "b = 'b'", "e = 'e'"][r.usize(0..3)]),
                _ => format!("INSERT INTO kinds (id, z) VALUES ({n}, {i}) ON DUPLICATE KEY UPDATE z = {i}"),
            };
            b.run(&sql).await;
        }
        if open {
            b.run("COMMIT").await;
        }
        let mut replica = Replica::default();
        for table in &tables {
            replica.tables.insert(table.name.clone(), Copy::new(Arc::clone(table), Vec::new()));
        }
        let events = b.events(b.request(&low, &tables)).await;
        let partial = events.iter().filter(|e| matches!(e, Event::Rows(batch) if batch.is_partial())).count();
        let moves = |e: &&Event| matches!(e, Event::Rows(batch) if batch.ops().values().contains(&OP_MOVE));
        assert!(partial > 20 && events.iter().any(|e| moves(&e)), "{partial} batches");
        events.iter().for_each(|e| replica.apply(e));
        assert!(replica.suspended.is_empty(), "{:?}", replica.suspended);
        for table in &tables {
            let printed = b.printed(table).await;
            assert!(!printed.is_empty(), "{}", table.name);
            assert_same(table, &replica.tables[&table.name].sorted(), &printed);
        }
    }
}

/// Literal defaults of `TIMESTAMP` columns are instants, whatever the time zone of the session that declared them. Where
/// the log does not tell the instant, a row that needs it suspends its table.
#[tokio::test]
async fn instants_as_defaults() {
    const ZONES: [&str; 4] = ["-08:00", "+05:30", "+00:00", "SYSTEM"];
    const KINDS: [&str; 5] = ["create", "like", "add", "set", "select"];
    const AT: &str = "2024-03-01 04:10:59.5";
    for o in servers("instants_as_defaults") {
        let mut b = Bench::new(&o, "fr_instants").await;
        b.run("SET SESSION binlog_row_image = 'MINIMAL', time_zone = '-08:00'").await;
        b.run(&format!("CREATE TABLE base (id INT PRIMARY KEY, ts TIMESTAMP(1) NULL DEFAULT '{AT}')")).await;
        let statements = |when: &str| {
            let mut out = Vec::new();
            for (i, zone) in ZONES.iter().enumerate() {
                let name = |kind: &str| format!("{when}_{kind}_{i}");
                out.push(format!("SET SESSION time_zone = '{zone}'"));
                out.push(format!(
                    "CREATE TABLE {} (id INT PRIMARY KEY, ts TIMESTAMP(1) NULL DEFAULT '{AT}', d DATETIME(1) DEFAULT '{AT}', \
                     n TIMESTAMP NOT NULL DEFAULT '2024-12-31 23:00:00')",
                    name("create")
                ));
                out.push(format!("CREATE TABLE {} LIKE base", name("like")));
                out.push(format!("CREATE TABLE {} (id INT PRIMARY KEY)", name("add")));
                out.push(format!("ALTER TABLE {} ADD COLUMN ts TIMESTAMP(1) NULL DEFAULT '{AT}'", name("add")));
                out.push(format!("CREATE TABLE {} (id INT PRIMARY KEY, ts TIMESTAMP(1) NULL)", name("set")));
                out.push(format!("ALTER TABLE {} ALTER ts SET DEFAULT '{AT}'", name("set")));
                out.push(format!("CREATE TABLE {} (PRIMARY KEY (id)) AS SELECT * FROM base", name("select")));
            }
            out
        };
        for sql in statements("before") {
            b.run(&sql).await;
        }
        let (low, tables) = b.begin().await;
        for sql in statements("after") {
            b.run(&sql).await;
        }
        let names: Vec<String> = ["before", "after"]
            .iter()
            .flat_map(|when| KINDS.iter().map(move |kind| format!("{when}_{kind}")))
            .flat_map(|name| (0..ZONES.len()).map(move |i| format!("{name}_{i}")))
            .collect();
        for name in &names {
            b.run(&format!("INSERT INTO {name} (id) VALUES (1)")).await;
        }
        let mut replica = Replica::default();
        for table in &tables {
            replica.tables.insert(table.name.clone(), Copy::new(Arc::clone(table), Vec::new()));
        }
        b.events(b.request(&low, &tables)).await.iter().for_each(|e| replica.apply(e));
        let suspended: Vec<&str> = replica.suspended.keys().map(|t| t.table.as_str()).collect();
        assert_eq!(suspended, ["after_add_3", "after_create_3", "after_select_3", "after_set_3"]);
        for error in replica.suspended.values() {
            assert!(error.message.contains("' in time zone SYSTEM"), "{error}");
        }
        for name in names.iter().filter(|n| !suspended.contains(&n.as_str())) {
            let now = b.schema(name).await;
            let copy = &replica.tables[&now.name];
            assert_eq!(copy.schema.columns, now.columns, "{name}");
            assert_same(&now, &copy.sorted(), &b.printed(&now).await);
        }
        let line = replica.tables[&TableName::new("fr_instants", "after_create_1")].sorted();
        let cells = ["1", "2024-02-29 22:40:59.5", AT, "2024-12-31 17:30:00"];
        assert_eq!(line, [cells.map(|cell| Some(cell.to_string())).to_vec()]);
    }
}

/// Where a server leaves out what only it knows, the table is suspended and says why.
#[tokio::test]
async fn computed_columns_that_are_not_logged_suspend_their_table() {
    for o in servers("computed_columns_that_are_not_logged_suspend_their_table") {
        let mut b = Bench::new(&o, "fr_virtual").await;
        b.run("CREATE TABLE v (id INT PRIMARY KEY, a INT, g INT AS (a + 1) VIRTUAL)").await;
        let (low, tables) = b.begin().await;
        b.run("SET SESSION binlog_row_image = 'MINIMAL'").await;
        b.run("INSERT INTO v (id, a) VALUES (1, 2)").await;
        b.run("UPDATE v SET a = 5").await;
        let mut replica = Replica::default();
        replica.tables.insert(tables[0].name.clone(), Copy::new(Arc::clone(&tables[0]), Vec::new()));
        b.events(b.request(&low, &tables)).await.iter().for_each(|e| replica.apply(e));
        match replica.suspended.get(&tables[0].name) {
            None => assert_same(&tables[0], &replica.tables[&tables[0].name].sorted(), &b.printed(&tables[0]).await),
            Some(why) => assert!(!b.mysql && why.message.contains("without the column g"), "{why}"),
        }
    }
}

/// Migrations of tables with rows: what follows is the table, or the table is said to be rewritten.
#[tokio::test]
async fn definitions_change_under_rows() {
    for o in servers("definitions_change_under_rows") {
        let mut b = Bench::new(&o, "fr_ddl").await;
        b.run("SET SESSION time_zone = '-08:00'").await;
        let mut exact = 0;
        for (i, (create, alter, rewritten)) in [
            (
                "id INT PRIMARY KEY, a INT",
                "ADD c VARCHAR(5) NOT NULL DEFAULT 'x' FIRST, ADD d DECIMAL(5,2) DEFAULT 1.5",
                false,
            ),
            (
                "id INT PRIMARY KEY, a INT",
                "ADD c TIMESTAMP(2) NULL DEFAULT '2024-03-01 04:10:59.5', ADD d TIMESTAMP NOT NULL DEFAULT '2024-12-31 23:00:00'",
                false,
            ),
            ("id INT PRIMARY KEY, a INT", "ADD c DATETIME DEFAULT CURRENT_TIMESTAMP", true),
            ("id INT PRIMARY KEY, a INT", "ADD c INT AS (a + 1) STORED", true),
            ("id INT PRIMARY KEY, a INT", "ADD c INT DEFAULT (1 + 1)", true),
            ("id INT PRIMARY KEY, a INT", "ADD c INT NOT NULL AUTO_INCREMENT UNIQUE", true),
            ("id INT PRIMARY KEY, a TEXT, b VARCHAR(9), c CHAR(3)", "CONVERT TO CHARACTER SET utf8mb3", true),
            (
                "id INT PRIMARY KEY, a TEXT CHARACTER SET latin1, b VARCHAR(20000) CHARACTER SET latin1",
                "CONVERT TO CHARACTER SET utf8mb4",
                false,
            ),
            ("id INT PRIMARY KEY, a BIGINT", "MODIFY a INT", true),
            ("id INT PRIMARY KEY, a INT", "MODIFY a BIGINT", false),
            ("id INT PRIMARY KEY, a INT", "MODIFY a INT UNSIGNED", true),
            ("id INT PRIMARY KEY, a VARCHAR(20)", "MODIFY a INT", true),
            ("id INT PRIMARY KEY, a INT", "MODIFY a VARCHAR(20)", true),
            ("id INT PRIMARY KEY, a VARCHAR(20)", "MODIFY a VARCHAR(3)", true),
            ("id INT PRIMARY KEY, a VARCHAR(20)", "MODIFY a VARCHAR(30), ORDER BY a", false),
            ("id INT PRIMARY KEY, a INT, b INT", "RENAME COLUMN a TO b, RENAME COLUMN b TO a", false),
            ("id INT PRIMARY KEY, a INT, b INT", "CHANGE a b INT, CHANGE b a INT", false),
            ("id INT PRIMARY KEY, a INT, b INT", "MODIFY b INT FIRST, DROP COLUMN a", false),
            ("id INT PRIMARY KEY, a INT NOT NULL DEFAULT 0", "DROP PRIMARY KEY, ADD PRIMARY KEY (a, id)", false),
            ("id INT, a INT NOT NULL DEFAULT 0", "ADD UNIQUE u (a, id)", false),
            ("id INT NOT NULL, a INT NOT NULL DEFAULT 0", "ADD UNIQUE u (a, id)", false),
        ]
        .into_iter()
        .enumerate()
        {
            let table = format!("t{i}");
            b.run(&format!("CREATE TABLE {table} ({create})")).await;
            let schema = b.schema(&table).await;
            let low = b.source.end(None).await.unwrap().position;
            b.run(&format!("INSERT INTO {table} (id) VALUES (1), (2)")).await;
            b.run(&format!("ALTER TABLE {table} {alter}")).await;
            b.run(&format!("INSERT INTO {table} (id) VALUES (3)")).await;
            let mut replica = Replica::default();
            replica.tables.insert(schema.name.clone(), Copy::new(Arc::clone(&schema), Vec::new()));
            for event in b.events(b.request(&low, &[Arc::clone(&schema)])).await {
                replica.apply(&event);
            }
            assert!(replica.suspended.is_empty(), "{alter}: {:?}", replica.suspended);
            let now = b.schema(&table).await;
            let copy = &replica.tables[&schema.name];
            assert_eq!(*copy.schema, *now, "{alter}");
            assert_eq!(copy.rewritten, rewritten, "{alter}");
            if !rewritten {
                assert_same(&now, &copy.sorted(), &b.printed(&now).await);
                exact += 1;
            }
        }
        assert!(exact >= 10);
    }
}

/// Texts without a character set of their own have the table's, which is another one than its columns' or its database's:
/// found, or followed in the log.
#[tokio::test]
async fn texts_have_their_tables_character_set() {
    const COLUMNS: &str = "id INT PRIMARY KEY, a VARCHAR(9) CHARACTER SET latin1, b VARCHAR(9) CHARACTER SET utf8mb4";
    for o in servers("texts_have_their_tables_character_set") {
        let mut b = Bench::new(&o, "fr_charset").await;
        b.run(&format!("CREATE TABLE plain ({COLUMNS})")).await;
        b.run(&format!("CREATE TABLE latin ({COLUMNS}) DEFAULT CHARSET latin1")).await;
        b.run(&format!("CREATE TABLE uca ({COLUMNS}) COLLATE utf8mb3_bin")).await;
        let (low, tables) = b.begin().await;
        let mut names: Vec<String> =
            ["plain", "latin", "uca", "liked", "later", "given", "converted"].map(String::from).into();
        b.run("ALTER DATABASE fr_charset CHARACTER SET latin1").await;
        b.run("CREATE TABLE liked LIKE uca").await;
        b.run(&format!("CREATE TABLE later ({COLUMNS})")).await;
        b.run(&format!("CREATE TABLE given ({COLUMNS})")).await;
        b.run("ALTER TABLE given DEFAULT CHARSET utf8mb4").await;
        b.run(&format!("CREATE TABLE converted ({COLUMNS})")).await;
        b.run("ALTER TABLE converted CONVERT TO CHARACTER SET utf8mb3").await;
        b.run("ALTER DATABASE CHARACTER SET utf8mb4").await;
        b.run(&format!("CREATE TABLE back ({COLUMNS})")).await;
        names.push("back".into());
        for name in &names {
            b.run(&format!("INSERT INTO {name} VALUES (1, 'é', 'ü')")).await;
            b.run(&format!("ALTER TABLE {name} ADD c VARCHAR(9), MODIFY a VARCHAR(30), CHANGE b d TEXT")).await;
            b.run(&format!("INSERT INTO {name} VALUES (2, 'à', 'ö', 'ñ')")).await;
        }
        let mut replica = Replica::default();
        for table in &tables {
            replica.tables.insert(table.name.clone(), Copy::new(Arc::clone(table), Vec::new()));
        }
        b.events(b.request(&low, &tables)).await.iter().for_each(|e| replica.apply(e));
        assert!(replica.suspended.is_empty(), "{:?}", replica.suspended);
        for name in &names {
            let now = b.schema(name).await;
            let copy = &replica.tables[&now.name];
            assert_eq!(*copy.schema, *now, "{name}");
            if !copy.rewritten {
                assert_same(&now, &copy.sorted(), &b.printed(&now).await);
            }
        }
    }
}

/// Names go round, and a table that was not followed takes the name of one that was.
#[tokio::test]
async fn names_change_under_rows() {
    for o in servers("names_change_under_rows") {
        let mut b = Bench::new(&o, "fr_names").await;
        b.pattern = TablePattern::parse("fr_names.*,!fr_names.no*", None).unwrap();
        for (table, n) in [("a", 1), ("b", 2), ("c", 3), ("no_new", 4), ("no_like", 5)] {
            b.run(&format!("CREATE TABLE {table} (id INT PRIMARY KEY, {table} INT)")).await;
            b.run(&format!("INSERT INTO {table} VALUES ({n}, {n})")).await;
        }
        let (low, tables) = b.begin().await;
        assert_eq!(tables.len(), 3);
        for sql in [
            "RENAME TABLE a TO x, b TO a, x TO b",
            "INSERT INTO a (id) VALUES (10)",
            "RENAME TABLE a TO x, b TO a, c TO b, x TO c",
            "INSERT INTO b (id) VALUES (20)",
            "CREATE TABLE l LIKE a",
            "INSERT INTO l (id) VALUES (30)",
            "CREATE TABLE s AS SELECT id, a FROM a",
            "RENAME TABLE a TO a_old, no_new TO a",
            "INSERT INTO a (id) VALUES (40)",
            "INSERT INTO a_old (id) VALUES (50)",
            "SET SESSION sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES'",
            "CREATE TABLE IF NOT EXISTS \"q\" (\"id\" INT PRIMARY KEY, \"it's\" VARCHAR(9) DEFAULT '\\')",
            "INSERT INTO q (id) VALUES (1)",
            "DROP TABLE IF EXISTS nothing, l",
        ] {
            b.run(sql).await;
        }
        let mut replica = Replica::default();
        for table in &tables {
            let mut rows = vec![vec![Some("1".into()), Some("1".into())]];
            rows[0].fill(Some(
                match table.name.table.as_str() {
                    "a" => "1",
                    "b" => "2",
                    _ => "3",
                }
                .to_string(),
            ));
            replica.tables.insert(table.name.clone(), Copy::new(Arc::clone(table), rows));
        }
        b.events(b.request(&low, &tables)).await.iter().for_each(|e| replica.apply(e));
        assert!(replica.suspended.is_empty(), "{:?}", replica.suspended);
        assert_eq!(replica.strangers, [TableName::new("fr_names", "a")]);
        let names: Vec<&str> = replica.tables.keys().map(|t| t.table.as_str()).collect();
        assert_eq!(names, ["a_old", "b", "c", "q", "s"]);
        for (name, copy) in &replica.tables {
            let now = b.schema(&name.table).await;
            assert_eq!(*copy.schema, *now);
            assert_same(&now, &copy.sorted(), &b.printed(&now).await);
        }
    }
}

/// Compressed logs of both servers, with statements large and small, in transactions and alone.
#[tokio::test]
async fn compressed_logs() {
    for o in servers("compressed_logs") {
        let mut b = Bench::new(&o, "fr_zip").await;
        b.run("CREATE TABLE z (id INT PRIMARY KEY, t LONGTEXT)").await;
        let (low, tables) = b.begin().await;
        let on =
            if b.mysql { "SET SESSION binlog_transaction_compression = ON" } else { "SET GLOBAL log_bin_compress = 1" };
        b.run(on).await;
        let mut sql = vec!["BEGIN".to_string()];
        sql.extend((0..200).map(|n| format!("INSERT INTO z VALUES ({n}, REPEAT('text{n} ', 2000))")));
        sql.push("COMMIT".into());
        sql.extend((0..50).map(|n| format!("UPDATE z SET t = CONCAT(t, '!') WHERE id = {n}")));
        sql.push("ALTER TABLE z ADD x VARCHAR(5) DEFAULT 'x'".into());
        sql.push("DELETE FROM z WHERE id > 150".into());
        for sql in &sql {
            b.run(sql).await;
        }
        if !b.mysql {
            b.run("SET GLOBAL log_bin_compress = 0").await;
        }
        let mut replica = Replica::default();
        replica.tables.insert(tables[0].name.clone(), Copy::new(Arc::clone(&tables[0]), Vec::new()));
        b.events(b.request(&low, &tables)).await.iter().for_each(|e| replica.apply(e));
        assert!(replica.suspended.is_empty(), "{:?}", replica.suspended);
        let now = b.schema("z").await;
        assert_same(&now, &replica.tables[&now.name].sorted(), &b.printed(&now).await);
    }
}

/// A transaction that is larger than a batch comes in several, each of them bounded, before its commit.
#[tokio::test]
async fn large_transactions_come_in_parts() {
    for o in servers("large_transactions_come_in_parts") {
        let mut b = Bench::new(&o, "fr_large").await;
        b.run("CREATE TABLE s (id INT PRIMARY KEY, t VARCHAR(200)) ENGINE=InnoDB").await;
        b.run("CREATE TABLE l (id INT AUTO_INCREMENT PRIMARY KEY, t VARCHAR(200)) ENGINE=InnoDB").await;
        let values = (0..500).map(|n| format!("({n}, REPEAT('x', 150))")).collect::<Vec<_>>().join(", ");
        b.run(&format!("INSERT INTO s VALUES {values}")).await;
        let (low, tables) = b.begin().await;
        b.run("BEGIN").await;
        for n in 0..5 {
            b.run(&format!("INSERT INTO l (t) SELECT a.t FROM s AS a, (SELECT id FROM s LIMIT {}) AS b", 80 + n)).await;
        }
        b.run("COMMIT").await;
        let (mut parts, mut rows, mut together) = (0, 0, 0);
        for event in b.events(b.request(&low, &tables)).await {
            match event {
                Event::Rows(batch) => {
                    parts += 1;
                    rows += batch.rows.num_rows();
                    together = together.max(parts);
                    assert!(batch.rows.num_rows() < 70_000 && batch.bytes() < 40 << 20, "{}", batch.bytes());
                }
                Event::Commit(_) => parts = 0,
                _ => panic!("{event:?}"),
            }
        }
        assert_eq!(rows, 500 * (80 + 81 + 82 + 83 + 84));
        assert!(together >= 3, "{together} batches");
    }
}

/// MariaDB logs a REPLACE as an update without the columns that it sets back to their defaults; the statement's text says
/// what they are.
#[tokio::test]
async fn replaced_rows_take_their_defaults() {
    for o in servers("replaced_rows_take_their_defaults") {
        let mut b = Bench::new(&o, "fr_replace").await;
        b.run("CREATE TABLE r (id INT PRIMARY KEY, a INT DEFAULT 3, t TEXT, u INT NOT NULL DEFAULT 0, UNIQUE (u))")
            .await;
        let (low, tables) = b.begin().await;
        for (i, image) in ["MINIMAL", "NOBLOB"].into_iter().enumerate() {
            b.run(&format!("SET SESSION binlog_row_image = '{image}'")).await;
            b.run(&format!("INSERT INTO r VALUES ({i}, 9, 'text', {i}), (1{i}, 9, 'text', 1{i})")).await;
            b.run(&format!("REPLACE INTO r (id, u) VALUES ({i}, {i})")).await;
            b.run(&format!("REPLACE INTO r (id, u) VALUES (2{i}, 1{i})")).await;
        }
        let end = b.source.end(None).await.unwrap().position;
        let mut options = super::binlog::StreamOptions::new(fastrand::u32(1 << 24..1 << 31));
        options.statements = true;
        let c = Connection::connect(&o).await.unwrap();
        let mut stream = super::binlog::open(c, &o, &b.request(&low, &tables), options).await.unwrap();
        let mut replica = Replica::default();
        replica.tables.insert(tables[0].name.clone(), Copy::new(Arc::clone(&tables[0]), Vec::new()));
        loop {
            let event = tokio::time::timeout(Duration::from_secs(20), freshet_core::ChangeStream::next(&mut stream));
            let event = event.await.expect("the stream hangs").unwrap();
            replica.apply(&event);
            if matches!(&event, Event::Commit(c) if b.source.compare(&c.position, &end).is_none_or(|o| o.is_ge())) {
                break;
            }
        }
        assert!(replica.suspended.is_empty(), "{:?}", replica.suspended);
        assert_same(&tables[0], &replica.tables[&tables[0].name].sorted(), &b.printed(&tables[0]).await);
    }
}
