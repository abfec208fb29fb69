//! The model of a source: a log of transactions, the state behind each of them, and how far a SELECT sees. It is plain
//! data behind a lock, so that it outlives the crashes of the engine.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int8Array, Int64Array, RecordBatch};
use arrow::datatypes::Schema;
use fastrand::Rng;
use freshet_core::batch::{OP_DELETE, OP_UPSERT};
use freshet_core::{ChangeBatch, Column, ColumnPosition, DataType, SchemaChange, TableChange, TableName, TableSchema};

/// A row: the values of all columns, the key first.
pub type Row = Vec<Option<i64>>;

/// A table of source or sink.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    pub schema: TableSchema,
    pub rows: BTreeMap<i64, Row>,
}

impl Table {
    /// What must be equal: names and order of columns do not matter for rows, but for the schema they do.
    pub fn shown(&self) -> String {
        let columns: Vec<_> = self.schema.columns.iter().map(|c| format!("{}:{}", c.name, c.data_type)).collect();
        let rows: Vec<_> = self.rows.values().map(|r| format!("{r:?}").replace("Some", "")).collect();
        format!("[{}] {}", columns.join(" "), rows.join(" "))
    }

    /// Applies a column change to schema and rows.
    pub fn alter(&mut self, change: &TableChange) {
        let after = self.schema.after(change).expect("the model makes valid changes").expect("not a drop");
        let old: Vec<_> = self.schema.columns.iter().map(|c| c.name.clone()).collect();
        for row in self.rows.values_mut() {
            let mut by_name: BTreeMap<String, Option<i64>> = old.iter().cloned().zip(row.iter().copied()).collect();
            match change {
                TableChange::RenameColumn { from, to } => {
                    let value = by_name.remove(from).expect("the column exists");
                    by_name.insert(to.clone(), value);
                }
                TableChange::AddColumn { column, .. } => {
                    by_name.insert(column.name.clone(), default_of(column));
                }
                _ => {}
            }
            *row = after.columns.iter().map(|c| by_name[&c.name]).collect();
        }
        if matches!(change, TableChange::Truncate) {
            self.rows.clear();
        }
        self.schema = after;
    }
}

pub fn default_of(column: &Column) -> Option<i64> {
    match &column.default {
        Some(freshet_core::DefaultValue::Literal(text)) => text.parse().ok(),
        _ => None,
    }
}

/// One operation of a transaction.
#[derive(Debug, Clone)]
pub struct Op {
    pub table: TableName,
    pub schema: Arc<TableSchema>,
    pub key: i64,
    /// `None`: a delete.
    pub row: Option<Row>,
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
                let op = |o: &Op| format!(" {}{}{}", o.table.table, if o.row.is_some() { '+' } else { '-' }, o.key);
                ops.iter().map(op).collect()
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
    /// Schema changes happen while tables are copied, too (which suspends those).
    pub early_ddl: bool,
    pub huge: f64,
    pub keys: i64,
    pub write_ms: u64,
    pub crash: f64,
    pub lost: f64,
    pub reject: f64,
    pub atomic_sink: bool,
    pub slow_ms: u64,
}

impl Shape {
    pub fn draw(rng: &mut Rng) -> Shape {
        let mut pick = |of: &[f64]| of[rng.usize(..of.len())];
        Shape {
            entries: pick(&[15.0, 40.0, 80.0]) as usize,
            ddl: pick(&[0.0, 0.08, 0.25]),
            early_ddl: pick(&[0.0, 0.0, 1.0]) > 0.5,
            huge: pick(&[0.02, 0.15]),
            keys: pick(&[4.0, 12.0, 40.0]) as i64,
            write_ms: pick(&[1.0, 8.0, 40.0]) as u64,
            crash: pick(&[0.0, 0.01, 0.03, 0.08]),
            lost: pick(&[0.0, 0.05, 0.2]),
            reject: pick(&[0.0, 0.0, 0.01]),
            atomic_sink: pick(&[0.0, 1.0]) > 0.5,
            slow_ms: pick(&[0.0, 5.0, 60.0]) as u64,
        }
    }
}

/// The source.
pub struct World {
    pub rng: Rng,
    pub shape: Shape,
    pub log: Vec<Entry>,
    /// State behind so many entries.
    pub states: Vec<BTreeMap<TableName, Table>>,
    /// So many entries does a SELECT see.
    pub visible: usize,
    /// Entries when the copy had ended.
    pub copied_at: Option<usize>,
    counter: i64,
}

pub fn table_name(name: &str) -> TableName {
    TableName::new("shop", name)
}

fn new_schema(name: &TableName) -> TableSchema {
    TableSchema {
        name: name.clone(),
        columns: vec![
            Column::new("k", DataType::Int64).not_null(),
            Column::new("x", DataType::Int64),
            Column::new("y", DataType::Int64),
        ],
        key: vec!["k".into()],
        comment: String::new(),
    }
}

impl World {
    pub fn new(mut rng: Rng) -> World {
        let shape = Shape::draw(&mut rng);
        let mut world =
            World { rng, shape, log: Vec::new(), states: Vec::new(), visible: 0, copied_at: None, counter: 0 };
        let mut tables = BTreeMap::new();
        for name in ["a", "b", "c"] {
            let name = table_name(name);
            let mut table = Table { schema: new_schema(&name), rows: BTreeMap::new() };
            for key in 0..world.shape.keys {
                if world.rng.bool() {
                    let row = world.row(&table.schema, key);
                    table.rows.insert(key, row);
                }
            }
            tables.insert(name, table);
        }
        world.states.push(tables);
        world
    }

    fn value(&mut self) -> Option<i64> {
        self.counter += 1;
        if self.rng.f64() < 0.1 { None } else { Some(self.counter) }
    }

    fn row(&mut self, schema: &TableSchema, key: i64) -> Row {
        schema.columns.iter().map(|c| if c.name == "k" { Some(key) } else { self.value() }).collect()
    }

    pub fn is_finished(&self) -> bool {
        self.copied_at.is_some_and(|at| self.log.len() >= self.shape.entries.max(at + self.shape.entries / 2))
            || self.log.len() > self.shape.entries * 5
    }

    /// Commits one more entry.
    pub fn write(&mut self) {
        let mut state = self.states.last().expect("never empty").clone();
        let allowed = self.shape.early_ddl || self.copied_at.is_some();
        let entry = match allowed && self.rng.f64() < self.shape.ddl {
            true => self.schema_change(&mut state).map(Entry::Schema),
            false => None,
        };
        let entry = entry.unwrap_or_else(|| Entry::Rows(self.transaction(&mut state)));
        self.log.push(entry);
        self.states.push(state);
    }

    fn transaction(&mut self, state: &mut BTreeMap<TableName, Table>) -> Vec<Op> {
        let names: Vec<_> = state.keys().cloned().collect();
        if names.is_empty() {
            return Vec::new();
        }
        let operations = if self.rng.f64() < self.shape.huge { self.rng.usize(15..60) } else { self.rng.usize(1..5) };
        let mut ops = Vec::new();
        for _ in 0..operations {
            let name = names[self.rng.usize(..names.len())].clone();
            let schema = Arc::new(state[&name].schema.clone());
            let key = self.rng.i64(0..self.shape.keys);
            let op = |key, row| Op { table: name.clone(), schema: Arc::clone(&schema), key, row };
            let exists = state[&name].rows.contains_key(&key);
            let table = state.get_mut(&name).expect("just listed");
            match self.rng.u32(0..10) {
                0..=5 => {
                    let row = self.row(&schema, key);
                    table.rows.insert(key, row.clone());
                    ops.push(op(key, Some(row)));
                }
                6..=7 if exists => {
                    table.rows.remove(&key);
                    ops.push(op(key, None));
                }
                _ if exists => {
                    // A changed key: delete of the old one, upsert of the new one.
                    let to = self.rng.i64(0..self.shape.keys);
                    if table.rows.contains_key(&to) {
                        continue;
                    }
                    table.rows.remove(&key);
                    let row = self.row(&schema, to);
                    table.rows.insert(to, row.clone());
                    ops.push(op(key, None));
                    ops.push(op(to, Some(row)));
                }
                _ => {}
            }
        }
        ops
    }

    fn schema_change(&mut self, state: &mut BTreeMap<TableName, Table>) -> Option<SchemaChange> {
        let names: Vec<_> = state.keys().cloned().collect();
        let free: Vec<_> =
            ["a", "b", "c", "d", "e"].map(table_name).into_iter().filter(|n| !state.contains_key(n)).collect();
        let mut pick = |of: &[TableName]| (!of.is_empty()).then(|| of[self.rng.usize(..of.len())].clone());
        let (some, unused) = (pick(&names), pick(&free));
        let kind = self.rng.u32(0..9);
        let (name, change) = match (kind, some, unused) {
            (0, _, Some(new)) => {
                let schema = new_schema(&new);
                state.insert(new.clone(), Table { schema: schema.clone(), rows: BTreeMap::new() });
                return Some(one(new, TableChange::CreateTable(schema)));
            }
            (1, Some(name), _) if names.len() > 1 => {
                state.remove(&name);
                return Some(one(name, TableChange::DropTable));
            }
            (2, Some(name), Some(to)) => {
                rename(state, &name, &to);
                return Some(one(name, TableChange::RenameTable { to }));
            }
            (3, Some(name), Some(unused)) if names.len() > 1 => {
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
            (_, Some(name), _) => {
                let schema = &state[&name].schema;
                let change = self.column_change(schema)?;
                (name, change)
            }
            _ => return None,
        };
        state.get_mut(&name)?.alter(&change);
        Some(one(name, change))
    }

    fn column_change(&mut self, schema: &TableSchema) -> Option<TableChange> {
        let values: Vec<_> = schema.columns.iter().map(|c| c.name.clone()).filter(|n| n != "k").collect();
        let free: Vec<_> = ["x", "y", "z", "w"].into_iter().filter(|n| schema.column(n).is_none()).collect();
        let some = (!values.is_empty()).then(|| values[self.rng.usize(..values.len())].clone());
        let unused = (!free.is_empty()).then(|| free[self.rng.usize(..free.len())].to_string());
        match (self.rng.u32(0..3), some, unused) {
            (0, _, Some(name)) => {
                let mut column = Column::new(name, DataType::Int64);
                if self.rng.bool() {
                    column.default = Some(freshet_core::DefaultValue::Literal("7".into()));
                }
                let positions = [ColumnPosition::Last, ColumnPosition::First, ColumnPosition::After("k".into())];
                Some(TableChange::AddColumn { column, position: positions[self.rng.usize(..3)].clone() })
            }
            (1, Some(name), _) if values.len() > 1 => Some(TableChange::DropColumn { name }),
            (2, Some(from), Some(to)) => Some(TableChange::RenameColumn { from, to }),
            _ => None,
        }
    }

    /// The rows of entries as the source decodes them: per table in order, one batch per schema.
    pub fn batches(&self, entries: std::ops::Range<usize>) -> Vec<ChangeBatch> {
        let mut by_table: BTreeMap<TableName, Vec<&Op>> = BTreeMap::new();
        for entry in &self.log[entries] {
            if let Entry::Rows(ops) = entry {
                for op in ops {
                    by_table.entry(op.table.clone()).or_default().push(op);
                }
            }
        }
        by_table.into_values().map(|ops| batch(&ops)).collect()
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

fn batch(ops: &[&Op]) -> ChangeBatch {
    let schema = &ops[0].schema;
    let mut columns: Vec<Vec<Option<i64>>> = vec![Vec::new(); schema.columns.len()];
    for op in ops {
        for (i, column) in columns.iter_mut().enumerate() {
            let value = match &op.row {
                Some(row) => row[i],
                None if schema.columns[i].name == "k" => Some(op.key),
                None => None,
            };
            column.push(value);
        }
    }
    let columns = columns.into_iter().map(|c| Arc::new(Int64Array::from(c)) as ArrayRef).collect();
    let kinds: Int8Array = ops.iter().map(|o| if o.row.is_some() { OP_UPSERT } else { OP_DELETE }).collect();
    ChangeBatch::new(Arc::clone(schema), columns, kinds).expect("columns fit")
}

/// Rows of a copy.
pub fn copy_batch(schema: &TableSchema, rows: &[Row]) -> RecordBatch {
    let columns = (0..schema.columns.len())
        .map(|i| Arc::new(rows.iter().map(|r| r[i]).collect::<Int64Array>()) as ArrayRef)
        .collect();
    RecordBatch::try_new(Arc::new(Schema::new(schema.arrow_fields())), columns).expect("columns fit")
}
