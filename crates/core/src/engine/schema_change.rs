//! Schema changes in the main lane: barriers. The change is planned, stored as an intent with its statements, applied
//! statement by statement with each step recorded, and then position, tables and schema history move in one
//! transaction. What cannot be planned or applied suspends that table; the others go on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::engine::job::{Job, MAIN, keyless, with_retries};
use crate::engine::status::JobState;
use crate::error::{Error, Result};
use crate::position::Position;
use crate::schema::{SchemaChange, TableChange, TableName, TableSchema};
use crate::store::{Change, DdlIntent, DdlStep, SchemaRecord, TableRecord, TableState};

/// What a schema change amounts to: the statements, and the tables behind it.
#[derive(Debug, Default)]
struct Plan {
    steps: Vec<DdlStep>,
    tables: BTreeMap<TableName, TableRecord>,
    schemas: BTreeMap<TableName, (u32, Arc<TableSchema>)>,
    /// Tables that cannot follow, by their name behind the change.
    failed: BTreeMap<TableName, Error>,
}

impl Job {
    /// Applies a schema change whose position is behind everything flushed; `to` is the position behind it.
    pub(crate) async fn schema_change(&mut self, change: SchemaChange, to: Position) -> Result<()> {
        // Tables whose copy the flush before has passed are live: this change came behind their copy.
        let mut live = Change::new();
        self.note_live(&mut live);
        self.store.commit(live).await?;
        let plan = self.plan_schema_change(&change);
        let intent = DdlIntent { change, to, steps: plan.steps, done: 0 };
        self.lane.ddl = Some(intent);
        if !self.lane.ddl.as_ref().is_some_and(|d| d.steps.is_empty()) {
            self.store_lane().await?;
        }
        self.finish_schema_change().await
    }

    /// Does what is left of the schema change that has begun. Planning it again gives the same tables, because nothing
    /// of them has been stored since.
    pub(crate) async fn finish_schema_change(&mut self) -> Result<()> {
        let Some(intent) = self.lane.ddl.clone() else { return Ok(()) };
        let mut plan = self.plan_schema_change(&intent.change);
        tracing::info!(job = self.spec.name, "schema change: {}", intent.change.statement);
        let mut given_up: BTreeMap<TableName, Error> = BTreeMap::new();
        for (number, step) in intent.steps.iter().enumerate().skip(intent.done) {
            if !given_up.contains_key(&step.table) {
                let result =
                    with_retries(|| self.sink.apply(&step.label, &step.statement), |e, pause| self.retrying(e, pause))
                        .await;
                if let Err(error) = result {
                    let error = error.with("statement at the source", &intent.change.statement);
                    given_up.insert(step.table.clone(), error);
                }
            }
            if let Some(ddl) = &mut self.lane.ddl {
                ddl.done = number + 1;
            }
            // The last step is recorded together with the new tables.
            if number + 1 < intent.steps.len() && given_up.is_empty() {
                self.store_lane().await?;
            }
        }
        plan.failed.extend(given_up);
        self.store_schema_change(plan, intent.to).await
    }

    async fn store_schema_change(&mut self, mut plan: Plan, to: Position) -> Result<()> {
        let job = self.spec.name.clone();
        for (name, error) in std::mem::take(&mut plan.failed) {
            tracing::warn!(job, table = %name, "suspended: {}", error.line());
            if let Some(record) = plan.tables.get_mut(&name)
                && !matches!(record.state, TableState::Suspended { .. })
            {
                record.state = TableState::Suspended { error, at: self.lane.position.clone() };
            }
        }
        let mut change = Change::new();
        let names: BTreeSet<_> = self.tables.keys().filter(|t| !plan.tables.contains_key(t)).cloned().collect();
        for gone in &names {
            change.remove_table(&job, gone);
        }
        for (name, record) in &plan.tables {
            if self.tables.get(name) != Some(record) {
                change.table(&job, record);
            }
            if let Some((version, schema)) = plan.schemas.get(name)
                && self.schemas.get(name).map(|s| s.0) != Some(*version)
            {
                let history = SchemaRecord { version: *version, from: to.clone(), schema: schema.as_ref().clone() };
                change.schema(&job, name, &history);
            }
        }
        let mut lane = self.lane.clone();
        (lane.position, lane.ddl, lane.intent) = (to, None, None);
        change.lane(&job, MAIN, &lane);
        self.store.commit(change).await?;
        (self.lane, self.tables, self.schemas) = (lane, plan.tables, plan.schemas);
        self.progress.set_tables(self.tables.values());
        self.state(JobState::Streaming);
        let position = self.lane.position.to_string();
        self.progress.job(|s| s.position = Some(position));
        Ok(())
    }

    /// The statements and the tables behind a change. Looks at nothing but the stored tables.
    fn plan_schema_change(&self, change: &SchemaChange) -> Plan {
        let mut plan = Plan { tables: self.tables.clone(), schemas: self.schemas.clone(), ..Plan::default() };
        let from = self.lane.position.to_string();
        for (number, (name, step)) in change.steps.iter().enumerate() {
            let statements = match self.plan_step(&mut plan, name, step) {
                Ok(statements) => statements,
                Err(error) => {
                    plan.failed.insert(name.clone(), error.with("statement at the source", &change.statement));
                    continue;
                }
            };
            for (part, statement) in statements.into_iter().enumerate() {
                let label =
                    self.writer.label("ddl", &[&name.to_string(), &from, &number.to_string(), &part.to_string()]);
                plan.steps.push(DdlStep { table: plan_name(name, step), label, statement });
            }
        }
        plan
    }

    /// One step: moves the plan's tables on and returns the statements for the sink.
    fn plan_step(&self, plan: &mut Plan, name: &TableName, step: &TableChange) -> Result<Vec<crate::Statement>> {
        if let TableChange::CreateTable(schema) = step {
            return self.plan_create(plan, name, schema);
        }
        let Some(mut record) = plan.tables.get(name).cloned() else { return Ok(Vec::new()) };
        let suspended = matches!(record.state, TableState::Suspended { .. });
        let Some((version, schema)) = plan.schemas.get(name).cloned() else {
            // Suspended before its schema was ever known: only its name is followed.
            move_record(plan, name, step, &mut record, self);
            return Ok(Vec::new());
        };
        let after = schema.after(step)?;
        let mut suspended = suspended;
        if let TableState::CatchingUp { .. } = record.state
            && disturbs_a_copy(step)
        {
            // The copy may have read the table before the change, behind it, or another table of the same name.
            plan.failed.insert(plan_name(name, step), changed_while_copied(name));
            suspended = true;
        }
        let statements = match suspended && !matches!(step, TableChange::DropTable | TableChange::RenameTable { .. }) {
            true => Vec::new(),
            false => self.plan_at_sink(&record, step, after.as_ref())?,
        };
        let target = record.target.clone();
        move_record(plan, name, step, &mut record, self);
        plan.schemas.remove(name);
        if let Some(after) = after {
            let version = if after == *schema { version } else { version + 1 };
            if !after.has_key() && schema.has_key() {
                plan.failed.insert(after.name.clone(), keyless(&after.name).with("target", target));
            }
            if let Some(record) = plan.tables.get_mut(&after.name) {
                record.schema_version = version;
            }
            plan.schemas.insert(after.name.clone(), (version, Arc::new(after)));
        }
        Ok(statements)
    }

    fn plan_at_sink(
        &self,
        record: &TableRecord,
        step: &TableChange,
        after: Option<&TableSchema>,
    ) -> Result<Vec<crate::Statement>> {
        let step = match step {
            TableChange::RenameTable { to } => TableChange::RenameTable { to: self.spec.target(to) },
            other => other.clone(),
        };
        self.sink.plan(&record.target, &step, after)
    }

    /// A table that was created in the log is followed from its creation: it needs no copy.
    fn plan_create(&self, plan: &mut Plan, name: &TableName, schema: &TableSchema) -> Result<Vec<crate::Statement>> {
        if !self.spec.tables.matches(name) {
            return Ok(Vec::new());
        }
        let target = self.spec.target(name);
        let history = self.store.schemas(&self.spec.name, name)?;
        let version = history.last().map_or(0, |s| s.version) + 1;
        let record = TableRecord {
            name: name.clone(),
            target: target.clone(),
            lane: MAIN,
            schema_version: version,
            attempt: 0,
            rows_estimated: None,
            state: TableState::Live,
        };
        plan.tables.insert(name.clone(), record);
        plan.schemas.insert(name.clone(), (version, Arc::new(schema.clone())));
        if !schema.has_key() {
            return Err(keyless(name));
        }
        self.sink.plan(&target, &TableChange::CreateTable(schema.clone()), Some(schema))
    }
}

/// Whether rows that a copy has read while this happened may be of another shape, or of another table.
fn disturbs_a_copy(step: &TableChange) -> bool {
    !matches!(
        step,
        TableChange::DropTable
            | TableChange::Truncate
            | TableChange::SetDefault { .. }
            | TableChange::SetColumnComment { .. }
            | TableChange::SetTableComment { .. }
    )
}

fn changed_while_copied(table: &TableName) -> Error {
    Error::schema("the table's definition changed while it was being copied")
        .with("table", table)
        .hint("sync this table again in a job of its own: freshet sync SOURCE --tables TABLE --replace")
}

/// The name under which a failing step's table is suspended: the one behind the step.
fn plan_name(name: &TableName, step: &TableChange) -> TableName {
    match step {
        TableChange::RenameTable { to } => to.clone(),
        _ => name.clone(),
    }
}

/// Removes or renames the record as the step says.
fn move_record(plan: &mut Plan, name: &TableName, step: &TableChange, record: &mut TableRecord, job: &Job) {
    match step {
        TableChange::DropTable => {
            plan.tables.remove(name);
        }
        TableChange::RenameTable { to } => {
            plan.tables.remove(name);
            record.name = to.clone();
            record.target = job.spec.target(to);
            plan.tables.insert(to.clone(), record.clone());
            if let Some(error) = plan.failed.remove(name) {
                plan.failed.insert(to.clone(), error);
            }
        }
        _ => {}
    }
}
