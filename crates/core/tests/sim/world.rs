//! The model of a source: a log of transactions, the state behind each of them, and how far a SELECT sees. It is plain
//! data behind a lock, so that it outlives the crashes of the engine.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::log::Id;
use arrow::array::{ArrayRef, Int8Array, Int32Array, Int64Array, RecordBatch};
use arrow::datatypes::Schema;
use fastrand::Rng;
use freshet_core::batch::{OP_DELETE, OP_MOVE, OP_UPSERT};
use freshet_core::{
    ChangeBatch, Column, ColumnPosition, DataType, DefaultValue, ForeignKey, SchemaChange, TableChange, TableName,
    TableSchema,
};

/// A row: the values of all columns in the schema's order.
pub type Row = Vec<Option<i64>>;

/// A table of source or sink.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    pub schema: TableSchema,
    /// With a key.
    pub rows: BTreeMap<i64, Row>,
    /// Without: how often each row is there.
    pub bag: BTreeMap<Row, usize>,
}

impl Table {
    pub fn new(schema: TableSchema) -> Table {
        Table { schema, rows: BTreeMap::new(), bag: BTreeMap::new() }
    }

    /// The rows in some columns, with how often each is there.
    pub fn projected(&self, columns: &[String]) -> BTreeMap<Row, usize> {
        let at: Vec<_> = columns.iter().map(|c| self.schema.index_of(c).expect("a column of both")).collect();
        let mut rows = BTreeMap::new();
        let all = self.bag.iter().map(|(row, n)| (row, *n)).chain(self.rows.values().map(|row| (row, 1)));
        for (row, n) in all {
            *rows.entry(at.iter().map(|i| row[*i]).collect()).or_default() += n;
        }
        rows
    }

    /// What must be equal, with this definition.
    pub fn shown(&self, schema: &TableSchema) -> String {
        let columns: Vec<_> = schema.columns.iter().map(shown_column).collect();
        let row = |r: &Row| format!("{r:?}").replace("Some", "");
        let rows: Vec<_> = match self.schema.has_key() {
            true => self.rows.values().map(row).collect(),
            false => self.bag.iter().map(|(r, n)| format!("{n}x{}", row(r))).collect(),
        };
        let TableSchema { key, comment, .. } = schema;
        format!("[{}] {key:?} \"{comment}\" {}", columns.join(" "), rows.join(" "))
    }

    pub fn add(&mut self, row: Row) {
        *self.bag.entry(row).or_default() += 1;
    }

    /// Removes one equal row; whether there was one.
    pub fn remove(&mut self, row: &Row) -> bool {
        let Some(n) = self.bag.get_mut(row) else { return false };
        *n -= 1;
        if *n == 0 {
            self.bag.remove(row);
        }
        true
    }

    pub fn apply(&mut self, what: &What) {
        let key = |row: &Row, schema: &TableSchema| row[schema.index_of("k").expect("k stays")].expect("not NULL");
        match what {
            What::Upsert(row, _) | What::Insert(row, _) => {
                drop(self.rows.insert(key(row, &self.schema), row.clone()));
            }
            What::Delete(key) => drop(self.rows.remove(key)),
            What::Move(from, row, _) => {
                self.rows.remove(from);
                self.rows.insert(key(row, &self.schema), row.clone());
            }
            What::Add(row, _) => self.add(row.clone()),
            What::Remove(row) => assert!(self.remove(row), "there is no such row"),
        }
    }

    /// Applies a column change to schema and rows; `fill` is what a new column gets.
    pub fn alter(&mut self, change: &TableChange, mut fill: impl FnMut() -> Option<i64>) {
        let after = self.schema.after(change).expect("the model makes valid changes").expect("not a drop");
        let old: Vec<_> = self.schema.columns.iter().map(|c| c.name.clone()).collect();
        let mut changed = |row: &Row| -> Row {
            let mut by_name: BTreeMap<String, Option<i64>> = old.iter().cloned().zip(row.iter().copied()).collect();
            match change {
                TableChange::RenameColumn { from, to } => {
                    let value = by_name.remove(from).expect("the column exists");
                    by_name.insert(to.clone(), value);
                }
                TableChange::AddColumn { column, .. } => {
                    by_name.insert(column.name.clone(), fill());
                }
                _ => {}
            }
            after.columns.iter().map(|c| by_name[&c.name]).collect()
        };
        for row in self.rows.values_mut() {
            *row = changed(row);
        }
        for (row, n) in std::mem::take(&mut self.bag) {
            for _ in 0..n {
                *self.bag.entry(changed(&row)).or_default() += 1;
            }
        }
        if matches!(change, TableChange::Truncate) {
            self.rows.clear();
            self.bag.clear();
        }
        if let TableChange::ChangeKey { key } = change {
            if key.is_empty() {
                self.bag = std::mem::take(&mut self.rows).into_values().map(|r| (r, 1)).collect();
            } else {
                let k = after.index_of("k").expect("k stays");
                let rows = std::mem::take(&mut self.bag).into_keys();
                self.rows = rows.map(|r| (r[k].expect("not NULL"), r)).collect();
            }
        }
        self.schema = after;
    }
}

pub fn default_of(column: &Column) -> Option<i64> {
    match &column.default {
        Some(DefaultValue::Literal(text)) => text.parse().ok(),
        _ => None,
    }
}

/// Everything about a column.
pub fn shown_column(column: &Column) -> String {
    let Column { name, data_type, nullable, default, comment, .. } = column;
    let default = match default {
        None => String::new(),
        Some(DefaultValue::Literal(text)) => format!("={text}"),
        Some(_) => "=now".into(),
    };
    format!("{name}:{data_type}{}{default}\"{comment}\"", if *nullable { "?" } else { "" })
}

/// Whether a value can be stored in a column.
pub fn fits(value: Option<i64>, column: &Column) -> bool {
    match value {
        None => column.nullable,
        Some(value) => column.data_type == DataType::Int64 || i32::try_from(value).is_ok(),
    }
}

/// What a table is compared by while it is copied: names and types of its columns, and its key. (What rows may be NULL
/// and what inserts leave out no SELECT sees.)
pub fn shape(schema: &TableSchema) -> (Vec<(&str, &DataType)>, &[String]) {
    (schema.columns.iter().map(|c| (c.name.as_str(), &c.data_type)).collect(), &schema.key)
}

/// One operation of a transaction.
#[derive(Debug, Clone)]
pub struct Op {
    pub table: TableName,
    pub schema: Arc<TableSchema>,
    pub what: What,
    /// A foreign key did it below the log.
    pub unseen: bool,
}

#[derive(Debug, Clone)]
pub enum What {
    /// A row by its key; `None`: all columns are said, otherwise those.
    Upsert(Row, Option<Vec<bool>>),
    /// A row that was not there, with the columns that are said: the others are their defaults.
    Insert(Row, Vec<bool>),
    Delete(i64),
    /// From another key, with the columns that are said.
    Move(i64, Row, Option<Vec<bool>>),
    /// Tables without a key, with the columns that are said.
    Add(Row, Vec<bool>),
    Remove(Row),
}

/// One entry of the log.
#[derive(Debug, Clone)]
pub enum Entry {
    Rows(Vec<Op>),
    Schema(SchemaChange),
}

impl Entry {
    /// For the trace.
    pub fn shown(&self) -> String {
        match self {
            Entry::Rows(ops) => {
                let op = |o: &Op| format!(" {}{}{:?}", if o.unseen { "unseen:" } else { "" }, o.table.table, o.what);
                ops.iter().map(op).collect::<String>().replace("Some", "").replace("None", "_")
            }
            Entry::Schema(change) => format!("{:?}", change.steps),
        }
    }
}

/// How a seed's world is: drawn from the seed, so that each stresses something else.
#[derive(Debug, Clone)]
pub struct Shape {
    pub entries: usize,
    pub ddl: f64,
    /// How many of them set defaults.
    pub defaults: f64,
    /// Some tables have no key. (With parts that become visible at once, a multiset cannot be exact.)
    pub keyless: bool,
    /// Updates and inserts may leave columns out.
    pub partial: bool,
    pub resync: f64,
    /// How often a person repairs keys of a table, or pauses the job.
    pub repair: f64,
    pub pause: f64,
    /// How often a stream cannot follow a table any more.
    pub suspend: f64,
    /// How often a transaction changes rows of some table without logging it.
    pub cascade: f64,
    /// What foreign keys change is no parent of anything, so that parents are live while children are not.
    pub flat: bool,
    pub huge: f64,
    pub keys: i64,
    pub write_ms: u64,
    pub crash: f64,
    /// The longest life of a process that does not crash.
    pub life_ms: u64,
    pub lost: f64,
    /// How often a lost request lands.
    pub late: f64,
    pub reject: f64,
    /// The same, while a request is on its way.
    pub reject_amid: f64,
    pub atomic_sink: bool,
    pub slow_ms: u64,
    /// How often the sink forgets labels, and a person lets the job begin anew or creates another, at a start.
    pub forget: f64,
    pub anew: f64,
    /// How many servers number the transactions, and how often another one is followed at a start.
    pub servers: usize,
    pub failover: f64,
}

impl Shape {
    pub fn draw(rng: &mut Rng) -> Shape {
        let mut pick = |of: &[f64]| of[rng.usize(..of.len())];
        let atomic_sink = pick(&[0.0, 1.0]) > 0.5;
        let mut shape = Shape {
            entries: pick(&[15.0, 40.0, 80.0]) as usize,
            ddl: pick(&[0.0, 0.08, 0.25]),
            defaults: pick(&[0.0, 0.7]),
            keyless: pick(&[0.0, 1.0]) > 0.5 && atomic_sink,
            partial: pick(&[0.0, 1.0]) > 0.5,
            resync: pick(&[0.0, 0.005, 0.03]),
            repair: pick(&[0.0, 0.0, 0.01, 0.05]),
            pause: pick(&[0.0, 0.0, 0.0, 0.01]),
            suspend: pick(&[0.0, 0.0, 0.0, 0.02]),
            cascade: 0.0,
            flat: false,
            huge: pick(&[0.02, 0.15, 0.4]),
            keys: pick(&[4.0, 12.0, 40.0]) as i64,
            write_ms: pick(&[1.0, 8.0, 40.0]) as u64,
            crash: pick(&[0.0, 0.01, 0.03, 0.08]),
            life_ms: 400,
            lost: pick(&[0.0, 0.05, 0.2]),
            late: 0.02,
            reject: pick(&[0.0, 0.01, 0.05]),
            reject_amid: 0.0,
            atomic_sink,
            slow_ms: pick(&[0.0, 5.0, 60.0]) as u64,
            forget: pick(&[0.0, 0.0, 0.2, 0.6]),
            anew: pick(&[0.0, 0.0, 0.05]),
            servers: pick(&[1.0, 1.0, 2.0]) as usize,
            failover: pick(&[0.3, 0.9]),
        };
        shape.reject_amid = shape.reject * 4.0;
        // A cluster that loses requests and refuses rows: what it has lost lands behind what comes next.
        if rng.u32(..6) == 0 {
            (shape.lost, shape.reject, shape.crash, shape.suspend) = (0.2, 0.0, 0.0, 0.0);
            (shape.reject_amid, shape.life_ms) = (0.7, 5000);
            (shape.keys, shape.entries, shape.ddl, shape.write_ms) = (4, 80, 0.0, 40);
            (shape.pause, shape.anew, shape.forget, shape.huge, shape.resync) = (0.0, 0.0, 0.0, 0.02, 0.0);
            (shape.atomic_sink, shape.keyless) = (false, false);
        }
        shape
    }

    /// A source whose foreign keys act again and again, and nothing much besides, so that the tables are live meanwhile.
    pub fn with_foreign_keys(self) -> Shape {
        let (crash, lost, huge) = (self.crash.min(0.004), self.lost.min(0.05), self.huge.min(0.02));
        let shape = Shape { crash, lost, huge, entries: 160, servers: 1, cascade: 0.3, ..self };
        let shape = Shape { write_ms: self.write_ms.max(8), life_ms: 3000, ..shape };
        let shape = Shape { ddl: 0.0, resync: 0.0, pause: 0.0, suspend: 0.0, ..shape };
        Shape { reject: 0.0, reject_amid: 0.0, forget: 0.0, anew: 0.0, ..shape }
    }
}

/// The source.
pub struct World {
    pub rng: Rng,
    pub shape: Shape,
    pub log: Vec<Entry>,
    /// Tables that foreign keys have changed below its entries; `None`: nobody knows by which.
    pub foreign_keys: Vec<Vec<(TableName, Option<ForeignKey>)>>,
    acted: Vec<(TableName, Option<ForeignKey>)>,
    /// So many transactions with foreign keys that act follow each other.
    burst: usize,
    /// A row that one has changed.
    changed: Option<(TableName, i64)>,
    /// What its entries are called.
    pub ids: Vec<Id>,
    /// State behind so many entries.
    pub states: Vec<BTreeMap<TableName, Table>>,
    /// So many entries does a SELECT see.
    pub visible: usize,
    /// Entries when the copy had ended.
    pub copied_at: Option<usize>,
    counter: i64,
    /// What a stream was asked for that it cannot be right about.
    pub violation: Option<String>,
}

/// A name that the job follows; `u` and `v` are in a database that it does not follow.
pub fn table_name(name: &str) -> TableName {
    TableName::new(if matches!(name, "u" | "v") { "other" } else { "shop" }, name)
}

fn new_schema(name: &TableName, keyed: bool) -> TableSchema {
    TableSchema {
        name: name.clone(),
        columns: vec![
            Column::new("k", DataType::Int64).not_null(),
            Column::new("x", DataType::Int64),
            Column::new("y", DataType::Int32),
        ],
        key: if keyed { vec!["k".into()] } else { Vec::new() },
        comment: String::new(),
        source_defaults: String::new(),
    }
}

impl World {
    pub fn new(mut rng: Rng) -> World {
        let shape = Shape::draw(&mut rng);
        let mut world = World {
            rng,
            shape,
            log: vec![],
            foreign_keys: vec![],
            acted: vec![],
            burst: 0,
            changed: None,
            ids: vec![],
            states: vec![],
            visible: 0,
            copied_at: None,
            counter: 0,
            violation: None,
        };
        let mut tables = BTreeMap::new();
        for name in ["a", "b", "c"] {
            let keyed = name != "c" || !world.shape.keyless;
            let name = table_name(name);
            let mut table = Table::new(new_schema(&name, keyed));
            for key in 0..world.shape.keys {
                if world.rng.bool() {
                    let row = world.row(&table.schema, key);
                    match keyed {
                        true => drop(table.rows.insert(key, row)),
                        false => table.add(row),
                    }
                }
            }
            tables.insert(name, table);
        }
        world.states.push(tables);
        world
    }

    fn value(&mut self, schema: &TableSchema, column: &Column) -> Option<i64> {
        self.counter += 1;
        if self.shape.cascade > 0.0 && self.rng.bool() {
            return Some(self.rng.i64(0..self.shape.keys));
        }
        let large = column.data_type == DataType::Int64 && self.rng.u32(..24) == 0;
        let large = if large { 1 << 40 } else { 0 };
        match schema.has_key() {
            _ if column.nullable && self.rng.f64() < 0.1 => None,
            true => Some(self.counter + large),
            // Equal rows are wanted.
            false => Some(self.counter % 2 + large),
        }
    }

    fn row(&mut self, schema: &TableSchema, key: i64) -> Row {
        let key = if schema.has_key() { key } else { key % 3 };
        schema.columns.iter().map(|c| if c.name == "k" { Some(key) } else { self.value(schema, c) }).collect()
    }

    /// A row of which not everything is said, and what is.
    fn inserted(&mut self, schema: &TableSchema, key: i64) -> (Row, Vec<bool>) {
        let mut row = self.row(schema, key);
        let mut said = vec![true; row.len()];
        for (i, column) in schema.columns.iter().enumerate().filter(|(_, c)| c.name != "k") {
            let known = match &column.default {
                None => column.nullable,
                default => matches!(default, Some(DefaultValue::Literal(_))),
            };
            if self.shape.partial && known && self.rng.u32(..3) == 0 {
                (row[i], said[i]) = (default_of(column), false);
            }
        }
        (row, said)
    }

    pub fn is_finished(&self) -> bool {
        self.copied_at.is_some_and(|at| self.log.len() >= self.shape.entries.max(at + self.shape.entries / 2))
            || self.log.len() > self.shape.entries * 5
    }

    /// Commits one more entry.
    pub fn write(&mut self) {
        let mut state = self.states.last().expect("never empty").clone();
        let server = self.rng.usize(..self.shape.servers);
        let entry = match self.rng.f64() < self.shape.ddl {
            true => self.schema_change(&mut state).map(Entry::Schema),
            false => None,
        };
        let entry = entry.unwrap_or_else(|| Entry::Rows(self.transaction(server, &mut state)));
        let number = self.end().0[server] + 1;
        // CREATE TABLE … SELECT, say: a schema change and rows in one transaction.
        let goes_on = self.shape.servers == 1 && matches!(entry, Entry::Schema(_)) && self.rng.u32(..4) == 0;
        self.ids.push(Id { server, number, event: goes_on.into() });
        self.log.push(entry);
        self.foreign_keys.push(std::mem::take(&mut self.acted));
        self.states.push(state.clone());
        if goes_on {
            let rows = self.transaction(server, &mut state);
            self.ids.push(Id { server, number, event: 0 });
            self.log.push(Entry::Rows(rows));
            self.foreign_keys.push(std::mem::take(&mut self.acted));
            self.states.push(state);
        }
        // So soon that what is read again because of the first is behind the second.
        if self.changed.is_some() && self.shape.cascade > 0.1 && self.rng.bool() {
            self.burst = self.burst.max(1);
            self.write();
        }
    }

    /// A SELECT sees so many more entries; of a transaction all or nothing.
    pub fn show(&mut self, more: usize) {
        self.visible += more;
        while self.visible > 0 && self.ids[self.visible - 1].event > 0 {
            self.visible += 1;
        }
    }

    /// With two servers each has its own tables.
    fn transaction(&mut self, server: usize, state: &mut BTreeMap<TableName, Table>) -> Vec<Op> {
        let of_server = |n: &&TableName| n.table.as_bytes()[0] as usize % self.shape.servers == server;
        let names: Vec<_> = state.keys().filter(of_server).cloned().collect();
        if names.is_empty() {
            return Vec::new();
        }
        let operations = if self.rng.f64() < self.shape.huge { self.rng.usize(15..60) } else { self.rng.usize(1..5) };
        // Several at once. Where that is often, not while the first copy is under way, which would have no end.
        let early = self.shape.cascade < 0.1 || self.copied_at.is_some() || self.shape.flat;
        if self.shape.cascade > 0.0 && self.burst == 0 && early && self.rng.f64() < self.shape.cascade {
            self.burst = self.rng.usize(1..6);
        }
        let cascades = self.burst > 0;
        self.burst -= usize::from(cascades);
        let at = cascades.then(|| self.rng.usize(..=operations));
        let mut ops = Vec::new();
        for number in 0..=operations {
            if at == Some(number) {
                self.cascade(&names, state, &mut ops);
            }
            if number == operations {
                break;
            }
            let name = names[self.rng.usize(..names.len())].clone();
            let table = state.get_mut(&name).expect("just listed");
            let schema = Arc::new(table.schema.clone());
            let what = if schema.has_key() { self.keyed(table) } else { self.keyless(table) };
            ops.extend(what.map(|what| Op { table: name, schema, what, unseen: false }));
        }
        ops
    }

    /// A row changes, and with it, below the log, those that refer to it, and those that refer to these.
    fn cascade(&mut self, names: &[TableName], state: &mut BTreeMap<TableName, Table>, ops: &mut Vec<Op>) {
        let keyed: Vec<_> = names.iter().filter(|n| state[*n].schema.has_key()).cloned().collect();
        let flat = self.shape.flat;
        let is_root = |name: &TableName| name.table.as_str() < "c";
        let parents: Vec<_> = keyed.iter().filter(|n| !flat || is_root(n)).cloned().collect();
        if parents.is_empty() {
            return;
        }
        // The same row twice: behind the first time it may be ahead of the log.
        let mut aimed = self.changed.take().filter(|_| self.rng.u32(..4) > 0).and_then(|(child, key)| {
            let row = state.get(&child)?.rows.get(&key)?;
            let values = row.iter().enumerate().filter(|(at, _)| state[&child].schema.columns[*at].name != "k");
            let mut parents = values.filter_map(|(at, v)| {
                let parent = parents.iter().find(|n| v.is_some_and(|v| state[*n].rows.contains_key(&v)))?;
                Some((parent.clone(), (*v)?, child.clone(), at))
            });
            parents.next_back()
        });
        let drawn = || parents[self.rng.usize(..parents.len())].clone();
        let parent = aimed.as_ref().map_or_else(drawn, |(parent, ..)| parent.clone());
        if aimed.is_none() && self.shape.cascade < 0.1 && self.rng.u32(..4) == 0 {
            self.acted.push((parent.clone(), None));
            let table = state.get_mut(&parent).expect("just listed");
            let schema = Arc::new(table.schema.clone());
            for _ in 0..self.rng.usize(1..4) {
                let what = self.cascaded(table);
                let op = |what| Op { table: parent.clone(), schema: Arc::clone(&schema), what, unseen: true };
                ops.extend(what.map(op));
            }
            return;
        }
        let table = state.get_mut(&parent).expect("just listed");
        let schema = Arc::new(table.schema.clone());
        let drawn = || table.rows.keys().nth(self.rng.usize(..table.rows.len().max(1))).copied();
        let Some(key) = aimed.as_ref().map_or_else(drawn, |(_, key, ..)| Some(*key)) else { return };
        let old = table.rows[&key].clone();
        let place = if aimed.is_some() || self.rng.u32(..8) > 0 { schema.index_of("k") } else { None };
        let place = place.unwrap_or_else(|| self.rng.usize(..schema.columns.len()));
        let what = match self.rng.u32(..3) {
            0 if aimed.is_none() => {
                let to = if schema.columns[place].name == "k" { self.rng.i64(0..self.shape.keys) } else { key };
                if to != key && table.rows.contains_key(&to) {
                    return;
                }
                let (row, said) = self.updated(&schema, &old, to);
                if to == key { What::Upsert(row, said) } else { What::Move(key, row, said) }
            }
            _ => What::Delete(key),
        };
        table.apply(&what);
        let new = match &what {
            What::Upsert(row, _) | What::Move(_, row, _) => Some(row[place]),
            _ => None,
        };
        ops.push(Op { table: parent.clone(), schema: Arc::clone(&schema), what, unseen: false });
        let mut changes = vec![(parent, schema.columns[place].name.clone(), old[place], new)];
        let mut depth = 0;
        while let Some((parent, reference, old, new)) = changes.pop() {
            let columns = |n: &TableName| {
                let columns = state[n].schema.columns.iter().enumerate().filter(|(_, c)| c.name != "k");
                columns.map(|(at, _)| (n.clone(), at)).collect::<Vec<_>>()
            };
            let all: Vec<_> = keyed.iter().filter(|n| !flat || !is_root(n)).flat_map(columns).collect();
            let refers = |(n, at): &&(TableName, usize)| state[n].rows.values().any(|row| row[*at] == old);
            let referring: Vec<_> = all.iter().filter(refers).cloned().collect();
            let drawn = if referring.is_empty() || self.rng.u32(..4) == 0 { all } else { referring };
            if drawn.is_empty() || depth > if flat { 0 } else { 4 } {
                continue;
            }
            let (child, at) = match aimed.take() {
                Some((_, _, child, at)) => (child, at),
                None => drawn[self.rng.usize(..drawn.len())].clone(),
            };
            let table = state.get_mut(&child).expect("just listed");
            let schema = Arc::new(table.schema.clone());
            let column = &schema.columns[at];
            // What a child gets: nothing any more, NULL, or the parent's new value.
            let to = match new {
                None if self.rng.bool() || !column.nullable => None,
                Some(new) if self.rng.bool() && fits(new, column) => Some(new),
                _ if column.nullable => Some(None),
                _ => continue,
            };
            let (columns, references) = (vec![column.name.clone()], vec![reference]);
            let moves = to.flatten().is_some();
            let by = ForeignKey { child: child.clone(), columns, parent, references, moves };
            self.acted.push((child.clone(), Some(by)));
            if old.is_none() || new == Some(old) {
                continue;
            }
            let children: Vec<_> =
                table.rows.iter().filter(|(_, row)| row[at] == old).map(|(k, row)| (*k, row.clone())).collect();
            for (key, row) in children {
                let what = match to {
                    None => What::Delete(key),
                    Some(value) => {
                        let mut row = row.clone();
                        row[at] = value;
                        What::Upsert(row, None)
                    }
                };
                table.apply(&what);
                self.changed = to.map(|_| (child.clone(), key));
                ops.push(Op { table: child.clone(), schema: Arc::clone(&schema), what, unseen: true });
                // What refers to it, to its key or to the column that has changed.
                match to {
                    None if self.rng.u32(..8) > 0 => changes.push((child.clone(), "k".into(), Some(key), None)),
                    None => changes.push((child.clone(), column.name.clone(), row[at], None)),
                    Some(value) => changes.push((child.clone(), column.name.clone(), row[at], Some(value))),
                }
                depth += 1;
            }
        }
    }

    /// What a foreign key does to a row: CASCADE and SET NULL, of deletes and updates.
    fn cascaded(&mut self, table: &mut Table) -> Option<What> {
        let key = *table.rows.keys().nth(self.rng.usize(..table.rows.len().max(1)))?;
        let old = table.rows[&key].clone();
        let to = self.rng.i64(0..self.shape.keys);
        let what = match self.rng.u32(..3) {
            0 => What::Delete(key),
            1 if !table.rows.contains_key(&to) => What::Move(key, self.row(&table.schema.clone(), to), None),
            _ => {
                let column = |(c, old): (&Column, &Option<i64>)| if c.nullable { None } else { *old };
                What::Upsert(table.schema.columns.iter().zip(&old).map(column).collect(), None)
            }
        };
        table.apply(&what);
        Some(what)
    }

    fn keyless(&mut self, table: &mut Table) -> Option<What> {
        if table.bag.is_empty() || self.rng.u32(0..10) < 6 {
            let key = self.rng.i64(0..3);
            let (row, said) = self.inserted(&table.schema.clone(), key);
            table.add(row.clone());
            return Some(What::Add(row, said));
        }
        let row = table.bag.keys().nth(self.rng.usize(..table.bag.len()))?.clone();
        table.remove(&row);
        Some(What::Remove(row))
    }

    fn keyed(&mut self, table: &mut Table) -> Option<What> {
        let schema = table.schema.clone();
        let key = self.rng.i64(0..self.shape.keys);
        let old = table.rows.get(&key).cloned();
        match (self.rng.u32(0..10), old) {
            (6..=7, Some(_)) => {
                table.rows.remove(&key);
                Some(What::Delete(key))
            }
            (8..=9, Some(old)) => {
                let to = self.rng.i64(0..self.shape.keys);
                if table.rows.contains_key(&to) {
                    return None;
                }
                table.rows.remove(&key);
                let (row, said) = self.updated(&schema, &old, to);
                table.rows.insert(to, row.clone());
                Some(What::Move(key, row, said))
            }
            (_, Some(old)) => {
                let (row, said) = self.updated(&schema, &old, key);
                table.rows.insert(key, row.clone());
                Some(What::Upsert(row, said))
            }
            (_, None) => {
                let (row, said) = self.inserted(&schema, key);
                table.rows.insert(key, row.clone());
                Some(What::Insert(row, said))
            }
        }
    }

    /// A changed row, and the columns that the log says; the others stay as they were.
    fn updated(&mut self, schema: &TableSchema, old: &Row, key: i64) -> (Row, Option<Vec<bool>>) {
        let new = self.row(schema, key);
        if !self.shape.partial || self.rng.bool() {
            return (new, None);
        }
        let said: Vec<bool> = schema.columns.iter().map(|c| c.name == "k" || self.rng.bool()).collect();
        let row = said.iter().zip(new.iter().zip(old)).map(|(said, (n, o))| if *said { *n } else { *o }).collect();
        (row, Some(said).filter(|s| s.iter().any(|s| !s)))
    }

    fn schema_change(&mut self, state: &mut BTreeMap<TableName, Table>) -> Option<SchemaChange> {
        let names: Vec<_> = state.keys().cloned().collect();
        let free: Vec<_> =
            ["a", "b", "c", "d", "e", "u"].map(table_name).into_iter().filter(|n| !state.contains_key(n)).collect();
        let mut pick = |of: &[TableName]| (!of.is_empty()).then(|| of[self.rng.usize(..of.len())].clone());
        let (some, unused) = (pick(&names), pick(&free));
        let kind = if self.rng.f64() < self.shape.defaults { 12 } else { self.rng.u32(0..12) };
        // A job without any table does not begin.
        let followed = |n: &&TableName| n.database == "shop";
        let last = |n: &TableName| followed(&n) && names.iter().filter(followed).count() == 1;
        let (name, change) = match (kind, some, unused) {
            (0, _, Some(new)) => {
                let keyed = !self.shape.keyless || self.rng.u32(0..4) > 0;
                let schema = new_schema(&new, keyed);
                state.insert(new.clone(), Table::new(schema.clone()));
                return Some(one(new, TableChange::CreateTable(schema)));
            }
            (1, Some(name), _) if !last(&name) => {
                state.remove(&name);
                return Some(one(name, TableChange::DropTable));
            }
            (2, Some(name), Some(to)) if !last(&name) || followed(&&to) => {
                rename(state, &name, &to);
                return Some(one(name, TableChange::RenameTable { to }));
            }
            (3 | 11, Some(name), Some(unused)) if names.len() > 1 => {
                // RENAME TABLE a TO t, b TO a, t TO b
                let other = names.iter().find(|n| **n != name)?.clone();
                let steps = [(&name, &unused), (&other, &name), (&unused, &other)];
                for (from, to) in steps {
                    rename(state, from, to);
                }
                let steps = steps.map(|(from, to)| (from.clone(), TableChange::RenameTable { to: to.clone() }));
                return Some(SchemaChange { statement: "swap".into(), steps: steps.to_vec() });
            }
            (4, Some(name), _) => (name, TableChange::Truncate),
            (5, Some(name), _) if self.shape.keyless => {
                let table = &state[&name];
                let unique = table.bag.values().all(|n| *n == 1) && {
                    let k = table.schema.index_of("k").expect("k stays");
                    let keys: BTreeSet<_> = table.bag.keys().map(|r| r[k]).collect();
                    keys.len() == table.bag.len()
                };
                let key = match table.schema.has_key() {
                    true => Vec::new(),
                    false if unique => vec!["k".to_string()],
                    false => return None,
                };
                (name, TableChange::ChangeKey { key })
            }
            (_, Some(name), _) => {
                let change = self.column_change(&state[&name], kind > 11)?;
                (name, change)
            }
            _ => return None,
        };
        let per_row = matches!(&change, TableChange::AddColumn { column, .. }
            if matches!(column.default, Some(DefaultValue::CurrentTimestamp(_))));
        let counter = &mut self.counter;
        let constant = if let TableChange::AddColumn { column, .. } = &change { default_of(column) } else { None };
        let fill = || {
            *counter += 1;
            if per_row { Some(*counter) } else { constant }
        };
        state.get_mut(&name)?.alter(&change, fill);
        let mut steps = vec![(name.clone(), change)];
        if per_row {
            let columns = match &steps[0].1 {
                TableChange::AddColumn { column, .. } => vec![column.name.clone()],
                _ => Vec::new(),
            };
            steps.push((name, TableChange::Rewrite { reason: "a default computed for each row".into(), columns }));
        }
        Some(SchemaChange { statement: format!("{:?}", steps[0].1), steps })
    }

    fn column_change(&mut self, table: &Table, default: bool) -> Option<TableChange> {
        let schema = &table.schema;
        let all: Vec<_> = schema.columns.iter().map(|c| c.name.clone()).collect();
        let values: Vec<_> = all.iter().filter(|n| *n != "k").cloned().collect();
        let free: Vec<_> = ["x", "y", "z", "w"].into_iter().filter(|n| schema.column(n).is_none()).collect();
        let any = all[self.rng.usize(..all.len())].clone();
        let some = (!values.is_empty()).then(|| values[self.rng.usize(..values.len())].clone());
        let unused = (!free.is_empty()).then(|| free[self.rng.usize(..free.len())].to_string());
        let fit = |column: &Column| {
            let place = schema.index_of(&column.name).expect("a column of the table");
            table.rows.values().chain(table.bag.keys()).all(|row| fits(row[place], column))
        };
        self.counter += 1;
        let comment = format!("c{}", self.counter);
        let literal = DefaultValue::Literal((self.counter % 5).to_string());
        match (if default { 4 } else { self.rng.u32(0..12) }, some, unused) {
            (0 | 3, _, Some(name)) => {
                let types = [DataType::Int64, DataType::Int32];
                let mut column = Column::new(name, types[self.rng.usize(..2)].clone());
                (column.default, column.nullable) = match self.rng.u32(0..4) {
                    0 => (None, true),
                    1 => (Some(DefaultValue::Literal("7".into())), true),
                    2 => (Some(DefaultValue::Literal("8".into())), false),
                    _ => (Some(DefaultValue::CurrentTimestamp(0)), true),
                };
                let positions = [ColumnPosition::Last, ColumnPosition::First, ColumnPosition::After("k".into())];
                Some(TableChange::AddColumn { column, position: positions[self.rng.usize(..3)].clone() })
            }
            (1, Some(name), _) if values.len() > 1 => Some(TableChange::DropColumn { name }),
            (2, Some(from), Some(to)) => Some(TableChange::RenameColumn { from, to }),
            (4 | 5, Some(name), _) => {
                let default = if self.rng.u32(..3) == 0 { None } else { Some(literal) };
                Some(TableChange::SetDefault { name, default })
            }
            (6 | 7, Some(name), _) => {
                let from = schema.column(&name)?.data_type.clone();
                let to = if from == DataType::Int32 { DataType::Int64 } else { DataType::Int32 };
                let column = Column { data_type: to.clone(), nullable: true, ..schema.column(&name)?.clone() };
                fit(&column).then(|| TableChange::ChangeType { name, from, to, source_type: String::new() })
            }
            (8, Some(name), _) => {
                let nullable = !schema.column(&name)?.nullable;
                let column = Column { data_type: DataType::Int64, nullable, ..schema.column(&name)?.clone() };
                fit(&column).then_some(TableChange::SetNullable { name, nullable })
            }
            (9, _, _) => {
                let others: Vec<_> = all.iter().filter(|n| **n != any).collect();
                let position = match self.rng.usize(..3) {
                    0 => ColumnPosition::First,
                    1 => ColumnPosition::Last,
                    _ => ColumnPosition::After((*others.get(self.rng.usize(..others.len().max(1)))?).clone()),
                };
                Some(TableChange::MoveColumn { name: any, position })
            }
            (10, _, _) => Some(TableChange::SetColumnComment { name: any, comment }),
            (11, _, _) => Some(TableChange::SetTableComment { comment }),
            _ => None,
        }
    }

    /// Columns of any table that a schema change has touched.
    pub fn touched(&self) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        for entry in &self.log {
            let Entry::Schema(change) = entry else { continue };
            for (_, step) in &change.steps {
                match step {
                    TableChange::AddColumn { column, .. } => names.extend([column.name.clone()]),
                    TableChange::DropColumn { name } => names.extend([name.clone()]),
                    TableChange::RenameColumn { from, to } => names.extend([from.clone(), to.clone()]),
                    _ => {}
                }
            }
        }
        names
    }

    /// The rows of entries as a stream decodes them that takes the tables to be defined so: per table in order, a batch
    /// per set of columns.
    pub fn batches(&mut self, entries: &[usize], known: &BTreeMap<TableName, Arc<TableSchema>>) -> Vec<ChangeBatch> {
        let mut by_table: BTreeMap<&TableName, Vec<&Op>> = BTreeMap::new();
        for entry in entries {
            if let Entry::Rows(ops) = &self.log[*entry] {
                for op in ops.iter().filter(|op| !op.unseen && known.contains_key(&op.table)) {
                    by_table.entry(&op.table).or_default().push(op);
                }
            }
        }
        let mut out = Vec::new();
        for (name, ops) in by_table {
            let taken_for = &known[name];
            if let Some(op) = ops.iter().find(|op| shape(&op.schema) != shape(taken_for)) {
                self.violation = Some(format!("rows of {:?} are decoded as {taken_for:?}", op.schema));
                continue;
            }
            for run in ops.chunk_by(|a, b| said(a) == said(b)) {
                out.push(batch(run, taken_for));
            }
        }
        out
    }
}

fn one(name: TableName, change: TableChange) -> SchemaChange {
    SchemaChange { statement: format!("{change:?}"), steps: vec![(name, change)] }
}

/// Gives a table another name.
pub fn rename(state: &mut BTreeMap<TableName, Table>, from: &TableName, to: &TableName) {
    let mut table = state.remove(from).expect("the model renames what exists");
    table.schema.name = to.clone();
    assert!(state.insert(to.clone(), table).is_none(), "rename onto an existing table {to}");
}

/// The columns that an update says.
fn said(op: &Op) -> Option<&Vec<bool>> {
    match &op.what {
        What::Upsert(_, said) | What::Move(_, _, said) => said.as_ref(),
        _ => None,
    }
}

fn batch(ops: &[&Op], schema: &Arc<TableSchema>) -> ChangeBatch {
    let k = schema.index_of("k").expect("k stays");
    let said = said(ops[0]).cloned().unwrap_or_else(|| vec![true; schema.columns.len()]);
    let whole = said.iter().all(|s| *s);
    let key_only = |key: i64| -> Row { (0..said.len()).map(|i| (i == k).then_some(key)).collect() };
    let filled = |row: &Row, said: &[bool]| -> Row {
        let value = |i: usize| if said[i] { row[i] } else { default_of(&schema.columns[i]) };
        (0..row.len()).map(value).collect()
    };
    let mut rows: Vec<(i8, Row)> = Vec::new();
    for op in ops {
        match &op.what {
            What::Upsert(row, _) => rows.push((OP_UPSERT, row.clone())),
            What::Insert(row, said) | What::Add(row, said) => rows.push((OP_UPSERT, filled(row, said))),
            What::Delete(key) => rows.push((OP_DELETE, key_only(*key))),
            What::Remove(row) => rows.push((OP_DELETE, row.clone())),
            What::Move(from, row, _) => {
                rows.push((if whole { OP_DELETE } else { OP_MOVE }, key_only(*from)));
                rows.push((OP_UPSERT, row.clone()));
            }
        }
    }
    let present: Vec<usize> = (0..said.len()).filter(|i| said[*i]).collect();
    let columns = present.iter().map(|i| array(&schema.columns[*i], rows.iter().map(|(_, r)| r[*i]))).collect();
    let kinds: Int8Array = rows.iter().map(|(op, _)| *op).collect();
    ChangeBatch::partial(Arc::clone(schema), &present, columns, kinds).expect("columns fit")
}

/// Rows of a copy.
pub fn copy_batch(schema: &TableSchema, rows: &[Row]) -> RecordBatch {
    let column = |i: usize| array(&schema.columns[i], rows.iter().map(|r| r[i]));
    let columns = (0..schema.columns.len()).map(column).collect();
    RecordBatch::try_new(Arc::new(Schema::new(schema.arrow_fields())), columns).expect("columns fit")
}

/// Keys to be repaired.
pub fn key_batch(keys: Vec<i64>) -> RecordBatch {
    let schema = Schema::new(vec![arrow::datatypes::Field::new("k", arrow::datatypes::DataType::Int64, true)]);
    RecordBatch::try_new(Arc::new(schema), vec![Arc::new(Int64Array::from(keys))]).expect("one column")
}

fn array(column: &Column, values: impl Iterator<Item = Option<i64>>) -> ArrayRef {
    match column.data_type {
        DataType::Int32 => {
            let narrow = |v: i64| i32::try_from(v).expect("the model's values fit their columns");
            Arc::new(values.map(|v| v.map(narrow)).collect::<Int32Array>())
        }
        _ => Arc::new(values.collect::<Int64Array>()),
    }
}
