//! A model of a sink that remembers labels, loses requests and replies, and may carry out a lost request later. It is
//! either atomic over a flush, as the embedded warehouse, or writes table by table, as a cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::datatypes::{Int32Type, Int64Type};
use async_trait::async_trait;
use freshet_core::batch::{OP_DELETE, OP_UPSERT};
use freshet_core::engine::SchemaPolicy;
use freshet_core::{
    BatchStream, Check, DataType, Error, Finding, Flush, Intent, KeyRange, Label, Load, Purpose, Result, Settled, Sink,
    Statement, TableChange, TableName, TablePattern, TableSchema,
};

use crate::faults::{Faults, lost};
use crate::source::Rows;
use crate::world::{Row, Table, default_of, fits, rename};

/// The tables that a statement is about.
fn names(statement: &Statement) -> Vec<TableName> {
    let (name, change): (TableName, TableChange) = serde_json::from_str(&statement.0).expect("its own plan");
    match change {
        TableChange::RenameTable { to } => vec![name, to],
        TableChange::ReplaceBy { shadow } => vec![name, shadow],
        _ => vec![name],
    }
}

#[derive(Default)]
pub struct State {
    pub tables: BTreeMap<TableName, Table>,
    labels: BTreeSet<Label>,
    statements: BTreeSet<Label>,
    /// Those that are the last ones of all tables that they name.
    last_statements: Vec<(Label, BTreeSet<TableName>)>,
    /// Labels of loads were forgotten, and no load has come since.
    forgetful: bool,
    /// Parts of transactions, by incarnation and lane.
    staged: BTreeMap<(u64, u32), Vec<Vec<Load>>>,
    /// Calls whose fate is open: they may still land until they are settled.
    late: Vec<Late>,
    /// What the sink found wrong with the protocol itself.
    pub violation: Option<String>,
}

#[derive(Clone)]
enum Late {
    Write(Box<Written>),
    Statements(Label, Vec<Statement>),
}

/// What a write asks for.
#[derive(Clone)]
struct Written {
    label: Label,
    loads: Vec<Load>,
    purpose: Purpose,
}

#[derive(Clone)]
pub struct ModelSink {
    pub state: Arc<Mutex<State>>,
    pub faults: Faults,
    pub atomic: bool,
    /// How often it begins to refuse a table while a request for it is on its way.
    pub reject: f64,
    /// Tables whose loads are refused for good.
    pub rejected: Arc<Mutex<BTreeSet<TableName>>>,
    /// The job's policy for schema changes: what it must not do to a target is a violation.
    pub policy: SchemaPolicy,
}

fn shown(load: &Load) -> String {
    let rows = &load.rows.rows;
    let row = |i: usize| {
        let value = |c| value(rows, c, i).map_or("_".into(), |v| v.to_string());
        let values: Vec<_> = (0..rows.num_columns() - 1).map(value).collect();
        format!(" {}{}", ["+", "-", ">"][load.rows.ops().value(i) as usize], values.join(","))
    };
    format!("{}:{} ", load.target, (0..rows.num_rows()).map(row).collect::<String>())
}

/// A value of a load by its column's ordinal.
fn value(rows: &RecordBatch, column: usize, row: usize) -> Option<i64> {
    let array = rows.column(column);
    if array.is_null(row) {
        return None;
    }
    Some(match array.data_type() {
        arrow::datatypes::DataType::Int32 => array.as_primitive::<Int32Type>().value(row).into(),
        _ => array.as_primitive::<Int64Type>().value(row),
    })
}

impl State {
    /// Whether all values have room in their columns.
    fn takes(&self, loads: &[Load]) -> Result<()> {
        for load in loads {
            let Some(table) = self.tables.get(&load.target) else { continue };
            let (rows, ops) = (&load.rows.rows, load.rows.ops());
            for column in &table.schema.columns {
                let Ok(place) = rows.schema_ref().index_of(&column.name) else { continue };
                let odd = |row: &usize| ops.value(*row) == OP_UPSERT && !fits(value(rows, place, *row), column);
                if (0..rows.num_rows()).any(|row| odd(&row)) {
                    return Err(
                        Error::data(format!("a value does not fit column {}", column.name)).with("table", &load.target)
                    );
                }
            }
        }
        Ok(())
    }

    /// The loads of one table, looked up as it was before and applied together.
    fn load(&mut self, loads: &[Load], faults: &Faults) -> Result<()> {
        let target = &loads[0].target;
        let Some(table) = self.tables.get_mut(target) else {
            return Err(Error::not_found("no such table").with("table", target));
        };
        let columns: Vec<_> = table.schema.columns.iter().map(|c| c.name.clone()).collect();
        let before = table.rows.clone();
        let mut seen = BTreeSet::new();
        for load in loads {
            let rows = &load.rows.rows;
            let names: BTreeSet<String> =
                rows.schema().fields().iter().map(|f| f.name().clone()).filter(|n| !n.starts_with("__")).collect();
            let partial = load.rows.is_partial();
            let known = |c: &freshet_core::Column| names.contains(&c.name) || !c.nullable && c.default.is_some();
            if !names.iter().all(|n| columns.contains(n)) || !partial && !table.schema.columns.iter().all(known) {
                self.violation = Some(format!("rows of {target} have columns {names:?}, the table has {columns:?}"));
                return Ok(());
            }
            let schema = table.schema.clone();
            let value = |name: &str, row: usize| match rows.schema_ref().index_of(name) {
                Ok(place) => value(rows, place, row),
                Err(_) => None,
            };
            let whole = |row: usize| -> Row {
                let of = |c: &freshet_core::Column| match names.contains(&c.name) {
                    true => value(&c.name, row),
                    false => default_of(c),
                };
                schema.columns.iter().map(of).collect()
            };
            let mut order: Vec<_> = (0..rows.num_rows()).collect();
            if !table.schema.has_key() {
                for row in order {
                    if load.rows.ops().value(row) != OP_DELETE {
                        table.add(whole(row));
                    } else if !table.remove(&whole(row)) {
                        self.violation = Some(format!("{target} has no row {:?} to remove", whole(row)));
                    }
                }
                continue;
            }
            // The order of rows inside a load means nothing to a sink.
            let keys: Vec<_> = order.iter().map(|r| value("k", *r)).collect();
            let again = keys.iter().any(|k| !seen.insert(*k));
            if again {
                for i in (1..order.len()).rev() {
                    order.swap(i, faults.number(i + 1));
                }
            }
            for row in order {
                let key = value("k", row).expect("keys are not NULL");
                if load.rows.ops().value(row) != OP_UPSERT {
                    // What is moved away and taken by another key of this flush.
                    table.rows.remove(&key);
                } else if partial {
                    let base = value("__base.k", row).unwrap_or(key);
                    let Some(old) = before.get(&base) else {
                        if load.exact {
                            self.violation = Some(format!("{target} has no row {base} to update"));
                        }
                        continue;
                    };
                    let new = columns.iter().zip(old);
                    let new = new.map(|(c, o)| if names.contains(c) { value(c, row) } else { *o }).collect();
                    table.rows.insert(key, new);
                } else {
                    table.rows.insert(key, whole(row));
                }
            }
        }
        Ok(())
    }

    fn by_table(loads: &[Load]) -> impl Iterator<Item = &[Load]> {
        loads.chunk_by(|a, b| a.target == b.target)
    }

    /// `late`: a call of a process that is gone.
    fn write(&mut self, flush: &Written, atomic: bool, late: bool, faults: &Faults) -> Result<()> {
        self.forgetful &= late;
        if !atomic {
            for loads in State::by_table(&flush.loads) {
                if !self.labels.contains(&loads[0].label) {
                    self.takes(loads)?;
                    self.load(loads, faults)?;
                    self.labels.insert(loads[0].label.clone());
                }
            }
            return Ok(());
        }
        if self.labels.contains(&flush.label) {
            return Ok(());
        }
        self.takes(&flush.loads)?;
        match &flush.purpose {
            Purpose::Part { writer, number } => {
                let staged = self.staged.entry((writer.incarnation, writer.lane)).or_default();
                if *number == 0 {
                    staged.clear();
                }
                if staged.len() == *number as usize {
                    staged.push(flush.loads.clone());
                } else if !late {
                    self.violation = Some(format!("part {number} of {writer:?} follows {} parts", staged.len()));
                }
            }
            Purpose::Stream { writer, parts } => {
                let staged = self.staged.remove(&(writer.incarnation, writer.lane)).unwrap_or_default();
                if *parts > 0 && staged.len() != *parts as usize {
                    if !late {
                        self.violation = Some(format!("{} of {parts} parts of {writer:?} are there", staged.len()));
                    }
                    return Ok(());
                }
                for loads in staged.iter().take(*parts as usize).chain([&flush.loads]) {
                    for loads in State::by_table(loads) {
                        self.load(loads, faults)?;
                    }
                }
            }
            Purpose::Copy => {
                for loads in State::by_table(&flush.loads) {
                    self.load(loads, faults)?;
                }
            }
        }
        self.labels.insert(flush.label.clone());
        Ok(())
    }

    /// What does not outlive the process of an embedded sink.
    pub fn restart(&mut self) {
        self.staged.clear();
    }

    /// Forgets what it has done, as if much time had passed; nothing is on its way then. Of a table's last statement a
    /// cluster can tell by looking at the table whether it is done; of those before it cannot, once others have followed.
    pub fn forget(&mut self) {
        self.late.clear();
        self.labels.clear();
        let last: BTreeSet<&Label> = self.last_statements.iter().map(|(label, _)| label).collect();
        self.statements.retain(|s| last.contains(s));
        self.forgetful = true;
    }

    /// All of them or, when they are done already, none.
    fn statements(&mut self, label: &Label, statements: &[Statement]) -> Result<()> {
        if self.statements.contains(label) {
            return Ok(());
        }
        let before = self.tables.clone();
        if let Err(error) = statements.iter().try_for_each(|s| self.statement(s)) {
            self.tables = before;
            return Err(error);
        }
        self.statements.insert(label.clone());
        let named: BTreeSet<TableName> = statements.iter().flat_map(names).collect();
        self.last_statements.retain(|(_, of)| of.is_disjoint(&named));
        self.last_statements.push((label.clone(), named));
        Ok(())
    }

    fn statement(&mut self, statement: &Statement) -> Result<()> {
        let (name, change): (TableName, TableChange) = serde_json::from_str(&statement.0).expect("its own plan");
        if matches!(change, TableChange::ChangeType { .. } | TableChange::SetNullable { .. })
            && let Some(table) = self.tables.get(&name)
            && let Ok(Some(after)) = table.schema.after(&change)
        {
            let mut rows = table.rows.values().chain(table.bag.keys());
            if rows.any(|row| !after.columns.iter().zip(row).all(|(column, value)| fits(*value, column))) {
                return Err(Error::data("values that are there do not fit the column").with("table", &name));
            }
        }
        match &change {
            TableChange::CreateTable(schema) => {
                let table = Table::new(TableSchema { name: name.clone(), ..schema.clone() });
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
            TableChange::ReplaceBy { shadow } => match self.tables.remove(shadow) {
                Some(mut table) if self.tables.contains_key(&name) => {
                    table.schema.name = name.clone();
                    self.tables.insert(name, table);
                }
                _ => self.violation = Some(format!("{name} cannot be replaced by {shadow}")),
            },
            TableChange::AddColumn { column, .. }
                if self.tables.get(&name).is_some_and(|t| t.schema.after(&change).is_ok()) =>
            {
                let fill = default_of(column);
                self.tables.get_mut(&name).expect("just looked").alter(&change, || fill);
            }
            other => match self.tables.get_mut(&name) {
                Some(table) if table.schema.after(other).is_ok() => table.alter(other, || None),
                _ => self.violation = Some(format!("{other:?} does not fit {name}")),
            },
        }
        Ok(())
    }

    fn land(&mut self, late: Late, atomic: bool, faults: &Faults) {
        faults.log(|| match &late {
            Late::Write(w) => format!("LANDS LATE {}", w.label),
            Late::Statements(l, _) => format!("LANDS LATE {l}"),
        });
        let _ = match late {
            Late::Write(written) => self.write(&written, atomic, true, faults),
            Late::Statements(label, statements) => self.statements(&label, &statements),
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
            Some(Late::Write(w)) => {
                format!("asked {} {:?}: {}", w.label, w.purpose, w.loads.iter().map(shown).collect::<String>())
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

/// What a policy forbids to be done to a target.
fn forbidden(policy: SchemaPolicy, table: &TableSchema, change: &TableChange) -> bool {
    use TableChange::{
        AddColumn, ChangeType, DropColumn, DropTable, MoveColumn, RenameColumn, RenameTable, SetNullable, Truncate,
    };
    match (policy, change) {
        (SchemaPolicy::Evolve | SchemaPolicy::TryEvolve, _) => false,
        (SchemaPolicy::Lenient, AddColumn { .. } | SetNullable { nullable: true, .. }) => false,
        (SchemaPolicy::Lenient, ChangeType { to, .. }) => *to == DataType::Int32,
        (SchemaPolicy::Lenient, RenameColumn { .. }) => table.has_key(),
        (SchemaPolicy::Exception, RenameTable { .. }) => true,
        (_, DropTable) => !table.name.table.starts_with("__freshet_"),
        (_, AddColumn { .. } | DropColumn { .. } | RenameColumn { .. } | Truncate) => true,
        (_, ChangeType { .. } | SetNullable { .. } | MoveColumn { .. }) => true,
        _ => false,
    }
}

impl ModelSink {
    /// Under `try_evolve` some statements are refused, always the same ones.
    fn refuses(&self, label: &Label, statement: &Statement) -> Result<()> {
        let (name, change): (TableName, TableChange) = serde_json::from_str(&statement.0).expect("its own plan");
        let column = !matches!(
            change,
            TableChange::CreateTable(_)
                | TableChange::DropTable
                | TableChange::RenameTable { .. }
                | TableChange::ReplaceBy { .. }
        );
        let odd = label.0.bytes().map(usize::from).sum::<usize>() % 3 == 0;
        if self.policy == SchemaPolicy::TryEvolve && column && odd {
            return Err(Error::unsupported("a statement that this sink cannot do").with("table", name));
        }
        let mut state = self.state.lock().unwrap();
        if let Some(table) = state.tables.get(&name).filter(|t| forbidden(self.policy, &t.schema, &change)) {
            state.violation = Some(format!("{change:?} is done to {} under {}", table.schema.name, self.policy));
        }
        Ok(())
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
        self.refuses(label, statement)?;
        let one = [statement.clone()];
        let late = Late::Statements(label.clone(), one.to_vec());
        self.call(&format!("apply {label} {statement}"), late, |s| s.statements(label, &one)).await
    }

    async fn apply_together(&self, label: &Label, statements: &[&Statement]) -> Result<bool> {
        if !self.atomic {
            return Ok(false);
        }
        statements.iter().try_for_each(|s| self.refuses(label, s))?;
        let all: Vec<Statement> = statements.iter().map(|s| (*s).clone()).collect();
        let late = Late::Statements(label.clone(), all.clone());
        let name = format!("apply together {label} {} statements", all.len());
        self.call(&name, late, |s| s.statements(label, &all)).await.map(|()| true)
    }

    async fn write(&self, flush: Flush) -> Result<()> {
        let targets: Vec<_> = flush.loads.iter().map(|l| l.target.clone()).collect();
        let result = self.try_write(flush).await;
        // A sink begins to refuse a table while a request for it is on its way.
        if result.is_err() && !targets.is_empty() && self.faults.chance(self.reject) {
            let unlucky = targets[self.faults.number(targets.len())].clone();
            self.faults.log(|| format!("sink rejects {unlucky}"));
            self.rejected.lock().unwrap().insert(unlucky);
        }
        result
    }

    async fn settle(&self, label: &Label, intent: Option<&Intent>) -> Result<Settled> {
        self.faults.point("settle").await;
        let mut state = self.state.lock().unwrap();
        let mine = |late: &Late| {
            let l = match late {
                Late::Write(written) => &written.label,
                Late::Statements(l, _) => l,
            };
            l == label || intent.is_some_and(|i| i.loads.iter().any(|x| x.label == *l))
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
            _ => state.labels.contains(label) || state.statements.contains(label),
        };
        if !done && state.forgetful {
            self.faults.log(|| format!("settle {label}: forgotten"));
            return Ok(Settled::Forgotten);
        }
        self.faults.log(|| format!("settle {label}: {done}"));
        Ok(if done { Settled::Done } else { Settled::NotDone })
    }

    async fn rows(&self, target: &TableName, wanted: &Arc<TableSchema>, _: &KeyRange) -> Result<Box<dyn BatchStream>> {
        self.faults.point("rows").await;
        let state = self.state.lock().unwrap();
        let table = state.tables.get(target).ok_or_else(|| Error::not_found(format!("table {target}")))?;
        let column = |c: &freshet_core::Column| {
            let at = table.schema.index_of(&c.name).ok_or_else(|| Error::schema(format!("no column {}", c.name)))?;
            let values: StringArray = table.rows.values().map(|row| row[at].map(|v| v.to_string())).collect();
            Ok((c.name.clone(), Arc::new(values) as ArrayRef))
        };
        let columns = wanted.columns.iter().map(column).collect::<Result<Vec<_>>>()?;
        let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, c)| (name, c, true)));
        Ok(Box::new(Rows { batches: [batch.expect("of one length")].into(), faults: self.faults.clone() }))
    }
}

impl ModelSink {
    async fn try_write(&self, flush: Flush) -> Result<()> {
        let rejected = self.rejected.lock().unwrap().clone();
        if let Some(load) = flush.loads.iter().find(|l| rejected.contains(&l.target)) {
            return Err(Error::data("a value does not fit").with("table", &load.target));
        }
        let Flush { label, loads, purpose } = flush;
        if self.atomic {
            let written = Written { label, loads, purpose };
            let (name, late) = (format!("write {}", written.label), Late::Write(Box::new(written.clone())));
            return self.call(&name, late, |s| s.write(&written, true, false, &self.faults)).await;
        }
        for loads in State::by_table(&loads) {
            let written = Written { label: loads[0].label.clone(), loads: loads.to_vec(), purpose: purpose.clone() };
            let (name, late) = (format!("write {}", written.label), Late::Write(Box::new(written.clone())));
            self.call(&name, late, |s| s.write(&written, false, false, &self.faults)).await?;
        }
        Ok(())
    }
}
