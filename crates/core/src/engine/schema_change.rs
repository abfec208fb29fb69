//! Schema changes: only the main lane applies them, as barriers. The change is planned, stored as an intent with its
//! statements, applied as one transaction where the sink has such, else statement by statement with each step recorded,
//! and then position, tables and schema history move in one transaction. A table that is being copied meanwhile is copied again, from behind the change. What cannot
//! be planned or applied suspends that table; the others go on. What a target does that the job's policy keeps from
//! following in any case, `policy.rs` decides. The end of a round of the catch-up lane, where shadows take their tables'
//! places, goes the same way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::connector::Statement;
use crate::engine::job::{Job, give_up_copy, queued, with_retries};
use crate::engine::lane::MAIN;
use crate::engine::policy::{NOTES, SchemaPolicy, decide, refused_by_policy};
use crate::engine::status::JobState;
use crate::error::{Error, Result};
use crate::failpoint::step as at;
use crate::position::Position;
use crate::schema::{SchemaChange, TableChange, TableName, TableSchema};
use crate::store::{
    Apart, Change, CopyRecord, DdlIntent, DdlStep, Ledger, LeftOut, Phase, SchemaRecord, TableRecord, TableState,
};

/// What a schema change amounts to: the statements, and the tables behind it.
#[derive(Debug, Default)]
struct Plan {
    steps: Vec<DdlStep>,
    /// For each of them, which step of the change it belongs to.
    numbers: Vec<usize>,
    /// For each of them, whether it is about what a copy fills.
    of_copies: Vec<bool>,
    tables: BTreeMap<TableName, TableRecord>,
    schemas: BTreeMap<TableName, (u32, Arc<TableSchema>)>,
    ledger: Ledger,
    /// Tables that are copied again behind this change: nothing has to be done to their targets.
    replaced: BTreeSet<TableName>,
    /// Tables whose targets are created.
    creates: BTreeSet<TableName>,
    /// Tables that cannot follow, by their name behind the change.
    failed: BTreeMap<TableName, Error>,
    refused: Refused,
}

/// What a sink has refused.
#[derive(Debug, Default)]
struct Refused {
    /// Steps that are left out: of each table from this one on, and why.
    steps: BTreeMap<TableName, (usize, Error)>,
    /// Tables whose copies cannot follow: they begin anew.
    copies: BTreeSet<TableName>,
}

/// The statements of one step.
#[derive(Debug, Default)]
struct Statements {
    at_target: Vec<Statement>,
    at_copy: Vec<Statement>,
}

impl From<Vec<Statement>> for Statements {
    fn from(at_target: Vec<Statement>) -> Statements {
        Statements { at_target, at_copy: Vec::new() }
    }
}

impl Plan {
    /// The source's definition of a table whose target cannot follow: later changes build on it.
    fn follow_source(&mut self, name: &TableName, step: &TableChange) {
        let (Some(record), Some((version, schema))) = (self.tables.get_mut(name), self.schemas.get_mut(name)) else {
            return;
        };
        if !is_about_the_whole(step)
            && let Ok(Some(after)) = schema.after(step)
        {
            (*version, *schema) = (*version + 1, Arc::new(after));
            record.schema_version = *version;
        }
    }
}

impl Job {
    /// Applies a schema change whose position is behind everything flushed; `to` is the position behind it. `joined`
    /// are tables that come into the main lane with it.
    pub(crate) async fn schema_change(
        &mut self,
        change: SchemaChange,
        to: Position,
        joined: Vec<TableName>,
    ) -> Result<()> {
        if joined.is_empty() {
            // Tables that have passed their copy with the flush before are live: this change came behind it.
            self.store_position().await?;
            for (name, step) in &change.steps {
                if is_about_the_whole(step) {
                    self.main.followed.remove(name);
                }
                if let TableChange::RenameTable { to } = step {
                    self.main.followed.remove(to);
                }
                if disturbs_a_copy(step) && (self.context.rules.copy_again || takes_the_name(step)) {
                    self.leave_copy(name).await?;
                }
            }
        }
        let plan = self.plan_schema_change(&change, Refused::default())?;
        let rules = &self.context.rules;
        let intended = if joined.is_empty() { rules.ddl_intent } else { rules.join_intent };
        let only_recorded = plan.steps.is_empty() || !intended;
        self.main.ddl = Some(DdlIntent { change, to, steps: plan.steps, done: 0, one_by_one: false, joined });
        if !only_recorded {
            let context = Arc::clone(&self.context);
            at("ddl.intent")?;
            self.main.store(&context, Change::new()).await?;
        }
        self.finish_schema_change().await
    }

    /// Does what is left of the schema change that has begun. Planning it again gives the same tables, because nothing
    /// of them has been stored since.
    pub(crate) async fn finish_schema_change(&mut self) -> Result<()> {
        if self.main.ddl.is_none() {
            return Ok(());
        }
        self.apply_together().await?;
        let Some(intent) = self.main.ddl.clone() else { return Ok(()) };
        let context = Arc::clone(&self.context);
        let mut plan = self.plan_schema_change(&intent.change, Refused::default())?;
        tracing::info!(job = self.name(), "schema change: {}", intent.change.statement);
        let (mut given_up, mut refused): (BTreeMap<TableName, Error>, Refused) = Default::default();
        for (number, step) in intent.steps.iter().enumerate().skip(intent.done) {
            let of_copy = plan.of_copies.get(number).is_some_and(|of_copy| *of_copy);
            let left_out = match of_copy {
                true => refused.copies.contains(&step.table),
                false => refused.steps.contains_key(&step.table),
            };
            if !given_up.contains_key(&step.table) && !left_out {
                let sink = &context.sink;
                at("ddl.apply")?;
                let failed = |e: &Error, pause| self.retrying(e, pause);
                let result = with_retries(|| sink.apply(&step.label, &step.statement), failed).await;
                if let Err(error) = context.unless_done(result, &step.label, failed).await {
                    if !error.kind.is_about_a_table() {
                        return Err(error);
                    }
                    let at = plan.numbers.get(number).copied().unwrap_or_default();
                    if of_copy {
                        refused.copies.insert(step.table.clone());
                    } else if self.may_be_left_out(&intent.change, at) {
                        refused.steps.insert(step.table.clone(), (at, error));
                    } else {
                        let error = error.with("statement at the source", &intent.change.statement);
                        given_up.insert(step.table.clone(), error);
                    }
                }
            }
            at("ddl.applied")?;
            if let Some(ddl) = &mut self.main.ddl {
                ddl.done = number + 1;
            }
            // The last step is recorded together with the new tables.
            let rules = &context.rules;
            let recorded =
                rules.ddl_steps && if intent.joined.is_empty() { rules.ddl_intent } else { rules.join_intent };
            let all_done = given_up.is_empty() && refused.steps.is_empty() && refused.copies.is_empty();
            if number + 1 < intent.steps.len() && all_done && recorded {
                self.main.store(&context, Change::new()).await?;
            }
        }
        for name in &refused.copies {
            self.leave_copy(name).await?;
        }
        if !refused.steps.is_empty() || !refused.copies.is_empty() {
            plan = self.plan_schema_change(&intent.change, refused)?;
        }
        plan.failed.extend(given_up);
        self.store_schema_change(plan, intent.to, intent.joined).await
    }

    /// Applies all statements of the schema change that has begun as one transaction, so that no reader sees a part of
    /// it. What a sink refuses as a whole goes one by one, which shows whose table it is about.
    async fn apply_together(&mut self) -> Result<()> {
        let context = Arc::clone(&self.context);
        let Some(ddl) = self.main.ddl.as_ref().filter(|d| d.done == 0 && !d.one_by_one && d.steps.len() > 1) else {
            return Ok(());
        };
        let label = ddl.together(&self.main.writer);
        let statements: Vec<_> = ddl.steps.iter().map(|s| &s.statement).collect();
        let failed = |e: &Error, pause| self.retrying(e, pause);
        at("ddl.apply")?;
        // What is refused and yet done was done by an earlier try.
        let mut together = true;
        let result = with_retries(|| context.sink.apply_together(&label, &statements), failed).await;
        let result = result.map(|done| together = done);
        let refused = match context.unless_done(result, &label, failed).await {
            Ok(()) => false,
            Err(error) if error.kind.is_about_a_table() => true,
            Err(error) => return Err(error),
        };
        at("ddl.applied")?;
        let Some(ddl) = &mut self.main.ddl else { return Ok(()) };
        if refused {
            ddl.one_by_one = true;
            self.main.store(&context, Change::new()).await?;
        } else if together {
            ddl.done = ddl.steps.len();
        }
        Ok(())
    }

    async fn store_schema_change(&mut self, mut plan: Plan, to: Position, joined: Vec<TableName>) -> Result<()> {
        let job = self.name().to_string();
        for (name, error) in std::mem::take(&mut plan.failed) {
            tracing::warn!(job, table = %name, "suspended: {}", error.line());
            let Some(record) = plan.tables.get_mut(&name) else { continue };
            give_up_copy(record, &mut plan.ledger);
            // A target that could not be created is somebody else's.
            record.created &= !plan.creates.contains(&name);
            if !matches!(record.state, TableState::Suspended { .. }) {
                record.state = TableState::Suspended { error, at: None };
            }
        }
        let mut change = Change::new();
        let gone: BTreeSet<_> = self.tables.keys().filter(|t| !plan.tables.contains_key(t)).cloned().collect();
        for gone in &gone {
            change.remove_table(&job, gone);
        }
        for (name, record) in &plan.tables {
            if self.tables.get(name) != Some(record) {
                change.table(&job, record);
                if record.copy.as_ref().is_some_and(|c| c.phase == Phase::Queued) {
                    change.remove_splits(&job, name);
                }
            }
            if let Some((version, schema)) = plan.schemas.get(name)
                && self.schemas.get(name).map(|s| s.0) != Some(*version)
            {
                let history = SchemaRecord { version: *version, from: to.clone(), schema: schema.as_ref().clone() };
                change.schema(&job, name, &history);
            }
        }
        let (tables, schemas) = (std::mem::take(&mut plan.tables), std::mem::take(&mut plan.schemas));
        (self.tables, self.schemas, self.ledger) = (tables, schemas, plan.ledger);
        (self.main.position, self.main.ddl) = (to.clone(), None);
        if joined.is_empty() {
            change.ledger(&job, &self.ledger);
        } else {
            self.join_in(&joined, &mut change);
        }
        change.lane(&job, MAIN, &self.main.record());
        at("ddl.finish")?;
        self.context.store.commit(change).await?;
        at("ddl.finished")?;
        (self.main.stored, self.main.unstored) = (to, None);
        self.route_main();
        self.context.progress.set_tables(self.tables.values());
        self.state(JobState::Streaming);
        let position = self.main.position.to_string();
        let left_out = self.ledger.left_out.iter().map(ToString::to_string).collect();
        self.context.progress.job(|s| (s.position, s.left_out) = (Some(position), left_out));
        if !joined.is_empty() {
            self.after_round(&joined).await?;
        }
        Ok(())
    }

    /// Whether the table goes on without a step that its sink has refused.
    fn may_be_left_out(&self, change: &SchemaChange, number: usize) -> bool {
        self.policy() == SchemaPolicy::TryEvolve
            && change.steps.get(number).is_some_and(|(_, step)| !is_about_the_whole(step))
    }

    fn policy(&self) -> SchemaPolicy {
        self.context.spec.options.schema_changes
    }

    /// The statements and the tables behind a change. Looks at nothing but the stored tables.
    fn plan_schema_change(&self, change: &SchemaChange, refused: Refused) -> Result<Plan> {
        let copied = |(name, step): &&(TableName, TableChange)| self.needs_copy(step) && self.copies_for(change, name);
        let mut plan = Plan {
            tables: self.tables.clone(),
            schemas: self.schemas.clone(),
            ledger: self.ledger.clone(),
            replaced: change.steps.iter().filter(copied).map(|(name, _)| name.clone()).collect(),
            refused,
            ..Plan::default()
        };
        let from = self.main.position.to_string();
        for (number, (name, step)) in change.steps.iter().enumerate() {
            if plan.failed.contains_key(name) && !is_about_the_whole(step) {
                plan.follow_source(name, step);
                continue;
            }
            let statements = match self.plan_step(&mut plan, change, number) {
                Ok(statements) => statements,
                Err(error) => {
                    plan.failed.insert(name.clone(), error.with("statement at the source", &change.statement));
                    plan.follow_source(name, step);
                    continue;
                }
            };
            let at_target = statements.at_target.len();
            for (part, statement) in statements.at_target.into_iter().chain(statements.at_copy).enumerate() {
                let label = self
                    .main
                    .writer
                    .label("ddl", &[&name.to_string(), &from, &number.to_string(), &part.to_string(), &statement.0]);
                plan.steps.push(DdlStep { table: plan_name(name, step), label, statement });
                plan.numbers.push(number);
                plan.of_copies.push(part >= at_target);
            }
        }
        Ok(plan)
    }

    /// One step: moves the plan's tables on and returns the statements for the sink.
    fn plan_step(&self, plan: &mut Plan, change: &SchemaChange, number: usize) -> Result<Statements> {
        let (name, step) = &change.steps[number];
        if let TableChange::CreateTable(schema) = step {
            return Ok(self.plan_create(plan, name, schema)?.into());
        }
        let Some(mut record) = plan.tables.get(name).cloned() else {
            if let TableChange::RenameTable { to } = step {
                self.plan_arrival(plan, to);
            }
            return Ok(Statements::default());
        };
        let schema = plan.schemas.get(name).cloned();
        let after = schema.as_ref().map(|(_, s)| s.after(step)).transpose()?.flatten();
        let statements = match step {
            TableChange::DropTable if record.created && self.policy() == SchemaPolicy::Exception => {
                // Another table may come by this name: nothing that the log says of it is about this one.
                plan.schemas.remove(name);
                record.schema_version = 0;
                if let TableState::Suspended { at, .. } = &mut record.state {
                    *at = None;
                }
                plan.tables.insert(name.clone(), record.clone());
                let drop = format!("freshet sql 'DROP TABLE {}'", record.target.quoted());
                return Err(refused_by_policy().hint(format!(
                    "the table is gone at the source, its target keeps what it had: when nobody needs it, {drop}"
                )));
            }
            TableChange::DropTable => {
                plan.tables.remove(name);
                plan.schemas.remove(name);
                give_up_copy(&mut record.clone(), &mut plan.ledger);
                return match (record.created, self.policy().keeps()) {
                    (false, _) => Ok(Statements::default()),
                    (true, false) => Ok(self.context.sink.plan(&record.target, step, None)?.into()),
                    (true, true) => {
                        let what = format!("{name} was dropped: its target {} stays", record.target);
                        plan.ledger.left_out.push(LeftOut::new(what, &change.statement));
                        let too_many = plan.ledger.left_out.len().saturating_sub(NOTES);
                        plan.ledger.left_out.drain(..too_many);
                        plan.ledger.left.push(record.target);
                        Ok(Statements::default())
                    }
                };
            }
            TableChange::RenameTable { to } => return Ok(self.plan_rename(plan, record, schema, to)?.into()),
            TableChange::ReplaceBy { .. } => return Ok(self.context.sink.plan(&record.target, step, None)?.into()),
            _ if plan.replaced.contains(name) => Statements::default(),
            _ => {
                let refused = plan.refused.steps.get(name).filter(|(from, _)| number >= *from).map(|(_, error)| error);
                let goes_on = goes_on_apart(&record) && !disturbs_a_copy(step);
                let at_target = match (&schema, &after) {
                    (Some((_, before)), Some(after))
                        if self.policy() != SchemaPolicy::Evolve && (is_written(&record) || goes_on) =>
                    {
                        let (statements, apart) = self.follow(&record, before, after, (step, change), refused)?;
                        record.apart = apart;
                        statements
                    }
                    _ => self.plan_at_target(&record, step, after.as_ref())?,
                };
                let at_copy = if goes_on { Vec::new() } else { self.plan_at_copy(&record, step, after.as_ref())? };
                Statements { at_target, at_copy }
            }
        };
        if let (Some((version, before)), Some(after)) = (schema, after) {
            record.schema_version = if after == *before { version } else { version + 1 };
            plan.schemas.insert(name.clone(), (record.schema_version, Arc::new(after)));
        }
        let needs_copy = self.needs_copy(step) && plan.replaced.contains(name);
        let disturbed = disturbs_a_copy(step) && self.context.rules.copy_again || plan.refused.copies.contains(name);
        self.copy_again(&mut record, step, (needs_copy, disturbed), &mut plan.ledger);
        plan.tables.insert(name.clone(), record);
        Ok(statements)
    }

    /// Whether a table is not equal to the source behind this, until it has been copied again.
    fn needs_copy(&self, step: &TableChange) -> bool {
        match step {
            TableChange::Rewrite { .. } => self.context.rules.rewrite,
            TableChange::ChangeKey { .. } => true,
            _ => false,
        }
    }

    /// Whether the job's policy lets a table be copied again because of this change. A new copy has the source's
    /// definition and rows: what a target has kept would be lost.
    fn copies_for(&self, change: &SchemaChange, name: &TableName) -> bool {
        let Some(record) = self.tables.get(name).filter(|t| is_written(t)) else { return true };
        let takes = |step: &TableChange| {
            matches!(step, TableChange::DropColumn { .. } | TableChange::RenameColumn { .. } | TableChange::Truncate)
        };
        match self.policy() {
            SchemaPolicy::Evolve | SchemaPolicy::TryEvolve => true,
            SchemaPolicy::Lenient => {
                record.apart.is_none() && !change.steps.iter().any(|(of, step)| of == name && takes(step))
            }
            SchemaPolicy::Ignore | SchemaPolicy::Exception => false,
        }
    }

    /// What a step becomes at a target under a policy that need not follow: its statements, and how the target stands to
    /// its source then.
    fn follow(
        &self,
        record: &TableRecord,
        before: &TableSchema,
        after: &TableSchema,
        (step, change): (&TableChange, &SchemaChange),
        refused: Option<&Error>,
    ) -> Result<(Vec<Statement>, Option<Apart>)> {
        use SchemaPolicy::{Ignore, Lenient, TryEvolve};
        let own = [self.policy()];
        let policies: &[SchemaPolicy] = match (own, refused) {
            (_, Some(_)) => &[Ignore],
            ([TryEvolve], None) => &[TryEvolve, Lenient, Ignore],
            _ => &own,
        };
        let mut why = refused.cloned();
        for policy in policies {
            let apart = Apart::of(record, before);
            let mut target = apart.schema(before);
            let done = decide(*policy, before, &target, step).and_then(|decision| {
                let mut statements = Vec::new();
                for change in &decision.does {
                    target = target.after(change)?.unwrap_or(target.clone());
                    statements.extend(self.context.sink.plan(&record.target, change, Some(&target))?);
                }
                Ok((statements, decision))
            });
            match done {
                Ok((statements, mut decision)) => {
                    if let (Some(what), Some(why)) = (&mut decision.left_out, &why) {
                        *what = format!("{what}, because the target refused: {}", why.line());
                    }
                    return Ok((statements, apart.after(decision, target, after, &change.statement)));
                }
                Err(error) => why = why.or(Some(error)),
            }
        }
        let (job, table) = (self.name(), &record.name);
        Err(why.unwrap_or_else(refused_by_policy).hint(format!(
            "freshet resync {job} {table} copies it with its definition of now; until then the target stays as it is"
        )))
    }

    /// What a step makes of a table's copy: whether the table needs one, and whether it disturbs one that there is.
    fn copy_again(
        &self,
        record: &mut TableRecord,
        step: &TableChange,
        (needs_copy, disturbed): (bool, bool),
        ledger: &mut Ledger,
    ) {
        let version = record.schema_version;
        if let TableState::Suspended { at, .. } = &mut record.state {
            // Its target has not followed, and it would go on from before this.
            if self.context.rules.parked || disturbs_a_copy(step) {
                *at = None;
            }
            return;
        }
        if needs_copy {
            record.state = TableState::Away;
        }
        match &mut record.copy {
            Some(copy) if matches!(copy.phase, Phase::Queued | Phase::Found) => copy.schema_version = version,
            // It goes on with the schema that it began with, and in the catch-up lane with what is in force there.
            Some(_) if !disturbed => {}
            None if !needs_copy => {}
            _ => {
                give_up_copy(record, ledger);
                record.copy = Some(queued(&record.target, &self.main.position, version));
            }
        }
    }

    fn plan_at_target(
        &self,
        record: &TableRecord,
        step: &TableChange,
        after: Option<&TableSchema>,
    ) -> Result<Vec<Statement>> {
        if !is_written(record) || is_for_a_copy(step) {
            return Ok(Vec::new());
        }
        self.context.sink.plan(&record.target, step, after)
    }

    /// A copy has the source's definition, whatever the policy.
    fn plan_at_copy(
        &self,
        record: &TableRecord,
        step: &TableChange,
        after: Option<&TableSchema>,
    ) -> Result<Vec<Statement>> {
        if let Some(CopyRecord { into, phase, .. }) = &record.copy
            && !matches!(phase, Phase::Queued | Phase::Found)
            && !(disturbs_a_copy(step) && self.context.rules.copy_again)
            && !matches!(record.state, TableState::Suspended { .. })
            && !is_for_a_copy(step)
        {
            return self.context.sink.plan(into, step, after);
        }
        Ok(Vec::new())
    }

    /// A table gets another name. One that the job does not follow under it leaves the job; its target stays. Where the
    /// sink cannot rename (into another database), the table is copied to its new place.
    fn plan_rename(
        &self,
        plan: &mut Plan,
        mut record: TableRecord,
        schema: Option<(u32, Arc<TableSchema>)>,
        to: &TableName,
    ) -> Result<Vec<Statement>> {
        let name = record.name.clone();
        let stays = self.policy() == SchemaPolicy::Exception;
        let refused = stays && is_written(&record);
        plan.tables.remove(&name);
        plan.schemas.remove(&name);
        give_up_copy(&mut record, &mut plan.ledger);
        // What was read of it ahead may be of another table, which has this name by now.
        if matches!(record.state, TableState::CatchingUp { .. }) {
            record.state = TableState::Away;
        }
        if !self.context.spec.tables.matches(to) {
            plan.ledger.left.extend(record.created.then_some(record.target));
            return Ok(Vec::new());
        }
        let target = self.context.spec.target(to);
        let mut statements = Vec::new();
        // One that was dropped, and that the policy has suspended.
        if let Some(mut old) = plan.tables.remove(to) {
            give_up_copy(&mut old, &mut plan.ledger);
            plan.ledger.left.extend(old.created.then_some(old.target));
        }
        if record.created {
            // The target of a table that has left under this name gives way.
            let planned = match plan.ledger.left.contains(&target) && target.database == record.target.database {
                true => {
                    self.context.sink.plan(&target, &TableChange::ReplaceBy { shadow: record.target.clone() }, None)
                }
                false => {
                    let change = TableChange::RenameTable { to: target.clone() };
                    self.context.sink.plan(&record.target, &change, None)
                }
            };
            match planned {
                Ok(planned) if !stays => {
                    come_back(&mut plan.ledger, &target);
                    statements = planned;
                }
                _ => {
                    plan.ledger.left.push(record.target.clone());
                    record.created = come_back(&mut plan.ledger, &target);
                    if !matches!(record.state, TableState::Suspended { .. }) {
                        record.state = TableState::Away;
                    }
                }
            }
        } else {
            record.created = come_back(&mut plan.ledger, &target);
        }
        (record.name, record.target) = (to.clone(), target);
        if let TableState::Suspended { at, .. } = &mut record.state {
            *at = None;
        }
        match schema {
            Some((version, schema)) => {
                let after = TableSchema { name: to.clone(), ..schema.as_ref().clone() };
                let known = self.next_version(to)?;
                record.schema_version = known.max(version + 1);
                plan.schemas.insert(to.clone(), (record.schema_version, Arc::new(after)));
            }
            None => record.schema_version = 0,
        }
        if record.state == TableState::Away {
            let mut copy = queued(&record.target, &self.main.position, record.schema_version);
            if record.schema_version == 0 {
                copy.phase = Phase::Found;
            }
            record.copy = Some(copy);
        } else if was_resynced(&self.tables, &name) {
            record.copy = Some(queued(&record.target, &self.main.position, record.schema_version));
        }
        let failed = plan.failed.remove(&name).or_else(|| {
            let how = format!("freshet resync {} {to} copies it to {}", self.name(), record.target);
            refused.then(|| refused_by_policy().with("renamed from", &name).hint(how))
        });
        plan.failed.extend(failed.map(|error| (to.clone(), error)));
        plan.tables.insert(to.clone(), record);
        Ok(statements)
    }

    /// A table that the job did not follow gets a name that it follows: its schema has to be looked up, and it has to be
    /// copied.
    fn plan_arrival(&self, plan: &mut Plan, name: &TableName) {
        if !self.context.spec.tables.matches(name) {
            return;
        }
        let target = self.context.spec.target(name);
        let mut copy = queued(&target, &self.main.position, 0);
        copy.phase = Phase::Found;
        let record = TableRecord {
            name: name.clone(),
            created: come_back(&mut plan.ledger, &target) || replaced(plan, name),
            target,
            schema_version: 0,
            rows_estimated: None,
            unseen: None,
            state: TableState::Away,
            copy: Some(copy),
            apart: None,
        };
        plan.schemas.remove(name);
        plan.tables.insert(name.clone(), record);
    }

    /// A table that was created in the log is followed from its creation: it needs no copy, unless its target stands
    /// full of the rows of one that has left.
    fn plan_create(&self, plan: &mut Plan, name: &TableName, schema: &TableSchema) -> Result<Vec<Statement>> {
        if !self.context.spec.tables.matches(name) {
            return Ok(Vec::new());
        }
        let target = self.context.spec.target(name);
        let version = self.next_version(name)?.max(plan.schemas.get(name).map_or(0, |s| s.0 + 1));
        let created = come_back(&mut plan.ledger, &target) || replaced(plan, name);
        let record = TableRecord {
            name: name.clone(),
            target: target.clone(),
            schema_version: version,
            created: true,
            rows_estimated: None,
            unseen: None,
            state: if created { TableState::Away } else { TableState::Live },
            copy: created.then(|| queued(&target, &self.main.position, version)),
            apart: None,
        };
        plan.tables.insert(name.clone(), record);
        plan.schemas.insert(name.clone(), (version, Arc::new(schema.clone())));
        if created {
            return Ok(Vec::new());
        }
        plan.creates.insert(name.clone());
        self.context.sink.plan(&target, &TableChange::CreateTable(schema.clone()), Some(schema))
    }
}

/// Whether the job has created this target before; it is its own again then.
pub(crate) fn come_back(ledger: &mut Ledger, target: &TableName) -> bool {
    let before = ledger.left.len();
    ledger.left.retain(|t| t != target);
    ledger.left.len() < before
}

/// Whether the job has created the target of a table whose place under this name another one takes: of its going the log
/// has said nothing.
fn replaced(plan: &mut Plan, name: &TableName) -> bool {
    let Some(mut record) = plan.tables.remove(name) else { return false };
    give_up_copy(&mut record, &mut plan.ledger);
    record.created
}

/// Whether a live table was being copied again under that name.
fn was_resynced(tables: &BTreeMap<TableName, TableRecord>, name: &TableName) -> bool {
    tables.get(name).is_some_and(|t| t.copy.is_some() && !matches!(t.state, TableState::Suspended { .. }))
}

/// Whether the main lane writes the target.
fn is_written(record: &TableRecord) -> bool {
    matches!(record.state, TableState::Live | TableState::CatchingUp { .. })
}

/// Whether a table that goes on where it stood has a target that has not followed every schema change.
fn goes_on_apart(record: &TableRecord) -> bool {
    let goes_on = |c: &CopyRecord| c.into == record.target && !matches!(c.phase, Phase::Queued | Phase::Found);
    record.apart.is_some() && record.copy.as_ref().is_some_and(goes_on)
}

/// Whether a step asks nothing of a target but a new copy.
fn is_for_a_copy(step: &TableChange) -> bool {
    matches!(step, TableChange::ChangeKey { .. } | TableChange::Rewrite { .. })
}

/// Whether rows that a copy has read while this happened may be of another shape, or of another table.
fn disturbs_a_copy(step: &TableChange) -> bool {
    !matches!(
        step,
        TableChange::SetDefault { .. }
            | TableChange::SetColumnComment { .. }
            | TableChange::SetTableComment { .. }
            | TableChange::SetSourceDefaults { .. }
    )
}

/// Whether a step is about a table as such, not about its columns, rows or options.
fn is_about_the_whole(step: &TableChange) -> bool {
    matches!(step, TableChange::CreateTable(_) | TableChange::ReplaceBy { .. }) || takes_the_name(step)
}

/// Whether the table is not there any more under its name.
fn takes_the_name(step: &TableChange) -> bool {
    matches!(step, TableChange::DropTable | TableChange::RenameTable { .. })
}

/// The name under which a failing step's table is suspended: the one behind the step.
fn plan_name(name: &TableName, step: &TableChange) -> TableName {
    match step {
        TableChange::RenameTable { to } => to.clone(),
        _ => name.clone(),
    }
}
