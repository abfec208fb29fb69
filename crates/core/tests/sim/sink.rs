//! A model of a sink that remembers labels, loses requests and replies, and may carry out a lost request later. It is
//! either atomic over a flush, as the embedded warehouse, or writes table by table, as a cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use arrow::array::{Array, AsArray};
use arrow::datatypes::Int64Type;
use async_trait::async_trait;
use freshet_core::batch::OP_DELETE;
use freshet_core::{
    BatchStream, Check, Error, Finding, Flush, Intent, KeyRange, Label, Load, Result, Settled, Sink, Statement,
    TableChange, TableName, TablePattern, TableSchema,
};

use crate::faults::{Faults, lost};
use crate::world::{Table, rename};

#[derive(Default)]
pub struct State {
    pub tables: BTreeMap<TableName, Table>,
    labels: BTreeSet<Label>,
    /// Calls whose fate is open: they may still land until they are settled.
    late: Vec<Late>,
    /// What the sink found wrong with the protocol itself.
    pub violation: Option<String>,
}

#[derive(Clone)]
enum Late {
    Loads(Label, Vec<Load>),
    Statement(Label, Statement),
}

#[derive(Clone)]
pub struct ModelSink {
    pub state: Arc<Mutex<State>>,
    pub faults: Faults,
    pub atomic: bool,
    /// Tables whose loads are refused for good.
    pub rejected: Arc<Mutex<BTreeSet<TableName>>>,
}

fn shown(load: &Load) -> String {
    let keys = load.rows.rows.column_by_name("k").expect("the key").as_primitive::<Int64Type>();
    let row = |i: usize| format!(" {}{}", ["+", "-"][load.rows.ops().value(i) as usize], keys.value(i));
    format!("{}:{} ", load.target, (0..keys.len()).map(row).collect::<String>())
}

impl State {
    fn load(&mut self, load: &Load, faults: &Faults) -> Result<()> {
        let Some(table) = self.tables.get_mut(&load.target) else {
            return Err(Error::not_found("no such table").with("table", &load.target));
        };
        let rows = &load.rows.rows;
        let names: Vec<String> = rows.schema().fields().iter().map(|f| f.name().clone()).collect();
        let columns: Vec<_> = table.schema.columns.iter().map(|c| c.name.clone()).collect();
        let mut sorted = (names[..names.len() - 1].to_vec(), columns.clone());
        sorted.0.sort();
        sorted.1.sort();
        if sorted.0 != sorted.1 {
            self.violation = Some(format!("rows of {} have columns {names:?}, the table has {columns:?}", load.target));
            return Ok(());
        }
        let value = |name: &str, row: usize| {
            let array = rows.column_by_name(name).expect("compared").as_primitive::<Int64Type>();
            (!array.is_null(row)).then(|| array.value(row))
        };
        // The order of rows inside a load means nothing to a sink.
        let mut order: Vec<_> = (0..rows.num_rows()).collect();
        let keys: BTreeSet<_> = order.iter().map(|r| value("k", *r)).collect();
        if keys.len() < order.len() {
            for i in (1..order.len()).rev() {
                order.swap(i, faults.number(i + 1));
            }
        }
        for row in order {
            let key = value("k", row).expect("keys are not NULL");
            if load.rows.ops().value(row) == OP_DELETE {
                table.rows.remove(&key);
            } else {
                table.rows.insert(key, columns.iter().map(|c| value(c, row)).collect());
            }
        }
        Ok(())
    }

    fn loads(&mut self, label: &Label, loads: &[Load], atomic: bool, faults: &Faults) -> Result<()> {
        if atomic {
            if self.labels.contains(label) {
                return Ok(());
            }
            for load in loads {
                self.load(load, faults)?;
            }
            self.labels.insert(label.clone());
            return Ok(());
        }
        for load in loads {
            if !self.labels.contains(&load.label) {
                self.load(load, faults)?;
                self.labels.insert(load.label.clone());
            }
        }
        Ok(())
    }

    fn statement(&mut self, label: &Label, statement: &Statement) -> Result<()> {
        if !self.labels.insert(label.clone()) {
            return Ok(());
        }
        let (name, change): (TableName, TableChange) = serde_json::from_str(&statement.0).expect("its own plan");
        match &change {
            TableChange::CreateTable(schema) => {
                let table =
                    Table { schema: TableSchema { name: name.clone(), ..schema.clone() }, rows: BTreeMap::new() };
                if self.tables.insert(name.clone(), table).is_some() {
                    self.violation = Some(format!("{name} is created although it exists"));
                }
            }
            TableChange::DropTable => {
                self.tables.remove(&name);
            }
            TableChange::RenameTable { to } if self.tables.contains_key(&name) && !self.tables.contains_key(to) => {
                rename(&mut self.tables, &name, to);
            }
            TableChange::RenameTable { to } => {
                self.violation = Some(format!("{name} cannot be renamed to {to}"));
            }
            other => match self.tables.get_mut(&name) {
                Some(table) if table.schema.after(other).is_ok() => table.alter(other),
                _ => self.violation = Some(format!("{other:?} does not fit {name}")),
            },
        }
        Ok(())
    }

    fn land(&mut self, late: Late, atomic: bool, faults: &Faults) {
        faults.log(|| match &late {
            Late::Loads(l, _) => format!("LANDS LATE {l}"),
            Late::Statement(l, _) => format!("LANDS LATE {l}"),
        });
        let _ = match late {
            Late::Loads(label, loads) => self.loads(&label, &loads, atomic, faults),
            Late::Statement(label, statement) => self.statement(&label, &statement),
        };
    }
}

impl ModelSink {
    /// A call: it may die before or after, or its request or reply may get lost.
    async fn call(&self, name: &str, late: Late, act: impl Fn(&mut State) -> Result<()>) -> Result<()> {
        // Until it has happened, the request is on its way: a crash does not take it back.
        let waiting = {
            let mut state = self.state.lock().unwrap();
            state.late.push(late);
            state.late.len()
        };
        self.faults.log(|| match self.state.lock().unwrap().late.last() {
            Some(Late::Loads(label, loads)) => {
                format!("asked {label}: {}", loads.iter().map(shown).collect::<String>())
            }
            _ => format!("asked {name}"),
        });
        self.faults.point(name).await;
        let result = {
            let mut state = self.state.lock().unwrap();
            if self.faults.loses() {
                self.faults.log(|| format!("request lost: {name}"));
                return lost();
            }
            debug_assert!(waiting > 0);
            let result = act(&mut state);
            self.faults.log(|| format!("{name}: {result:?}"));
            result
        };
        self.faults.point(name).await;
        if self.faults.loses() {
            self.faults.log(|| format!("reply lost: {name}"));
            return lost();
        }
        result
    }

    /// Lets a call land whose fate is open.
    pub fn land_one(&self) {
        let mut state = self.state.lock().unwrap();
        if !state.late.is_empty() {
            let at = self.faults.number(state.late.len());
            let late = state.late.remove(at);
            state.land(late, self.atomic, &self.faults);
        }
    }
}

#[async_trait]
impl Check for ModelSink {
    async fn check(&self, _: &TablePattern) -> Vec<Finding> {
        Vec::new()
    }
}

#[async_trait]
impl Sink for ModelSink {
    fn plan(&self, target: &TableName, change: &TableChange, _: Option<&TableSchema>) -> Result<Vec<Statement>> {
        Ok(vec![Statement(serde_json::to_string(&(target, change)).expect("plain data"))])
    }

    async fn apply(&self, label: &Label, statement: &Statement) -> Result<()> {
        let late = Late::Statement(label.clone(), statement.clone());
        self.call(&format!("apply {label} {statement}"), late, |s| s.statement(label, statement)).await
    }

    async fn write(&self, flush: Flush) -> Result<()> {
        let rejected = self.rejected.lock().unwrap().clone();
        if let Some(load) = flush.loads.iter().find(|l| rejected.contains(&l.target)) {
            return Err(Error::data("a value does not fit").with("table", &load.target));
        }
        let Flush { label, loads, .. } = flush;
        let late = Late::Loads(label.clone(), loads.clone());
        let name = format!("write {label}");
        if self.atomic {
            return self.call(&name, late, |s| s.loads(&label, &loads, true, &self.faults)).await;
        }
        for load in loads {
            let one = vec![load.clone()];
            let late = Late::Loads(load.label.clone(), one.clone());
            let name = format!("write {}", load.label);
            self.call(&name, late, |s| s.loads(&load.label, &one, false, &self.faults)).await?;
        }
        Ok(())
    }

    async fn settle(&self, label: &Label, intent: Option<&Intent>) -> Result<Settled> {
        self.faults.point("settle").await;
        let mut state = self.state.lock().unwrap();
        let mine = |l: &Late| match l {
            Late::Loads(l, _) | Late::Statement(l, _) => {
                l == label || intent.is_some_and(|i| i.loads.iter().any(|x| x.label == *l))
            }
        };
        let (settled, open) = std::mem::take(&mut state.late).into_iter().partition(mine);
        state.late = open;
        for late in settled {
            if self.faults.chance(0.5) {
                state.land(late, self.atomic, &self.faults);
            }
        }
        let done = match intent {
            Some(intent) if !self.atomic => intent.loads.iter().all(|l| state.labels.contains(&l.label)),
            _ => state.labels.contains(label),
        };
        self.faults.log(|| format!("settle {label}: {done}"));
        Ok(if done { Settled::Done } else { Settled::NotDone })
    }

    async fn rows(&self, _: &TableName, _: &Arc<TableSchema>, _: &KeyRange) -> Result<Box<dyn BatchStream>> {
        Err(Error::unsupported("the simulation compares by itself"))
    }
}
