//! What a schema change at the source becomes at the target: the five policies of Flink CDC. [`decide`] says it for one
//! step, from nothing but the policy, both definitions and the step. A target that has not followed every step is
//! *apart* from its source ([`Apart`], stored with the table): its columns, which of them are not equal to the source's,
//! and what was left out. Rows are decoded with the source's definition and brought into the target's shape by name.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, new_null_array};
use arrow::datatypes::{Field, Schema};
use serde::{Deserialize, Serialize};

use crate::batch::{BASE_PREFIX, ChangeBatch, OP_COLUMN};
use crate::datatype::DataType;
use crate::error::{Error, Result};
use crate::nearest::nearest;
use crate::schema::{Column, ColumnPosition, TableChange, TableSchema};
use crate::store::{Apart, LeftOut, TableRecord};

/// What is done at the targets when a table's definition changes at the source. New tables are created and renamed ones
/// renamed under every policy, but `exception` does not rename.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SchemaPolicy {
    /// The target does the same; what it cannot do suspends the table.
    #[default]
    Evolve,
    /// The target does the same; what it cannot do it does leniently, or else leaves out.
    TryEvolve,
    /// Nothing is taken from the target: columns are added and widened, dropped ones stay, a renamed one is added under
    /// its new name; a table that is emptied or dropped keeps its rows.
    Lenient,
    /// The target stays as it is; columns that both have go on.
    Ignore,
    /// The table is suspended.
    Exception,
}

impl SchemaPolicy {
    /// All of them, by name.
    pub const ALL: [(&'static str, SchemaPolicy); 5] = [
        ("evolve", SchemaPolicy::Evolve),
        ("try_evolve", SchemaPolicy::TryEvolve),
        ("lenient", SchemaPolicy::Lenient),
        ("ignore", SchemaPolicy::Ignore),
        ("exception", SchemaPolicy::Exception),
    ];

    /// Whether a target keeps what its source drops.
    pub(crate) fn keeps(self) -> bool {
        matches!(self, SchemaPolicy::Lenient | SchemaPolicy::Ignore)
    }
}

impl fmt::Display for SchemaPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = SchemaPolicy::ALL.iter().find(|(_, policy)| policy == self).map_or("", |(name, _)| name);
        f.write_str(name)
    }
}

impl FromStr for SchemaPolicy {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wanted = text.trim().to_lowercase().replace('-', "_");
        if let Some((_, policy)) = SchemaPolicy::ALL.iter().find(|(name, _)| *name == wanted) {
            return Ok(*policy);
        }
        let names = || SchemaPolicy::ALL.iter().map(|(name, _)| *name);
        let e = Error::config(format!("there is no policy {text} for schema changes"));
        Err(match nearest(&wanted, names()) {
            Some(near) => e.hint(format!("did you mean {near}?")),
            None => e.hint(format!("the policies are {}", names().collect::<Vec<_>>().join(", "))),
        })
    }
}

/// What one step becomes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Decision {
    /// The changes of the target, in order.
    pub(crate) does: Vec<TableChange>,
    /// What is left out or done otherwise, for people.
    pub(crate) left_out: Option<String>,
    /// Columns of the target that are not equal to the source's from here on, because rows that are there are not.
    pub(crate) incomplete: Vec<String>,
    /// Rows stay that the source has no more.
    pub(crate) rows_kept: bool,
}

impl Decision {
    fn does(change: TableChange) -> Decision {
        Decision { does: vec![change], ..Decision::default() }
    }

    fn nothing() -> Decision {
        Decision::default()
    }

    fn left_out(what: String) -> Decision {
        Decision { left_out: Some(what), ..Decision::default() }
    }

    fn incomplete(mut self, columns: &[&str]) -> Decision {
        self.incomplete.extend(columns.iter().map(ToString::to_string));
        self
    }

    /// From here on the values of the source's column go into one that the target has kept of before.
    fn goes_on(self, policy: SchemaPolicy, kept: &Column, column: &Column) -> Self {
        let (from, to) = (&kept.data_type, &column.data_type);
        let mut decision = self.incomplete(&[&kept.name]);
        if policy == SchemaPolicy::Lenient && !holds(from, to) && holds(to, from) {
            let source_type = column.source_type.clone();
            let (name, from, to) = (kept.name.clone(), from.clone(), to.clone());
            decision.does.push(TableChange::ChangeType { name, from, to, source_type });
        }
        decision
    }
}

/// What one step at the source becomes at a target that is written. `source` is the source's definition before the
/// step, `target` the target's own. Tables that are created, dropped or renamed, or that are copied again because of the
/// step, are the caller's.
///
/// # Errors
/// Why the table has to be suspended.
pub(crate) fn decide(
    policy: SchemaPolicy,
    source: &TableSchema,
    target: &TableSchema,
    step: &TableChange,
) -> Result<Decision> {
    use SchemaPolicy::{Evolve, Exception, Ignore, Lenient, TryEvolve};
    if matches!(step, TableChange::SetSourceDefaults { .. }) {
        return Ok(Decision::nothing());
    }
    if policy == Exception {
        return exception(step);
    }
    let there = |name: &str| target.column(name);
    let as_it_is = || Ok(Decision::does(step.clone()));
    match step {
        TableChange::AddColumn { column, .. } => match (policy, there(&column.name)) {
            (_, Some(kept)) => {
                let name = &kept.name;
                let what = format!("column {name} was added again: it goes on in the column that the target has kept");
                Ok(Decision::left_out(what).goes_on(policy, kept, column))
            }
            (Evolve | TryEvolve, None) => as_it_is(),
            (Lenient, None) => {
                let column = Column { nullable: true, ..column.clone() };
                Ok(Decision::does(TableChange::AddColumn { column, position: ColumnPosition::Last }))
            }
            (_, None) => {
                Ok(Decision::left_out(format!("column {} was added: the target does not have it", column.name)))
            }
        },
        TableChange::DropColumn { name } => match (policy, there(name)) {
            (_, None) => Ok(Decision::nothing()),
            (Evolve | TryEvolve, Some(_)) => as_it_is(),
            (_, Some(column)) => {
                let mut decision = keep(policy, source, column, "dropped")?;
                decision.left_out = Some(format!("column {name} was dropped: the target keeps it"));
                Ok(decision)
            }
        },
        TableChange::RenameColumn { from, to } => rename(policy, source, target, from, to),
        TableChange::ChangeType { name, to, .. } => match (policy, there(name)) {
            (_, None) => Ok(Decision::nothing()),
            (Evolve | TryEvolve, Some(_)) => as_it_is(),
            (_, Some(column)) if column.data_type == *to => Ok(Decision::nothing()),
            (Lenient, Some(column)) if !holds(&column.data_type, to) => as_it_is(),
            (_, Some(column)) => Ok(Decision::left_out(format!(
                "column {name} became {to}: the target's stays {}, and what does not fit exactly suspends the table",
                column.data_type
            ))),
        },
        TableChange::SetNullable { name, nullable } => match (policy, there(name)) {
            (_, None) => Ok(Decision::nothing()),
            (_, Some(column)) if column.nullable == *nullable => Ok(Decision::nothing()),
            (Lenient, Some(_)) if !nullable => {
                Ok(Decision::left_out(format!("column {name} no longer allows NULL: the target's still does")))
            }
            (Ignore, Some(_)) => Ok(Decision::left_out(format!(
                "column {name} {} NULL: the target's stays as it was",
                if *nullable { "now allows" } else { "no longer allows" }
            ))),
            _ => as_it_is(),
        },
        TableChange::SetDefault { name, .. } | TableChange::SetColumnComment { name, .. } => {
            match (policy, there(name)) {
                (_, None) => Ok(Decision::nothing()),
                (Ignore, Some(_)) => Ok(Decision::left_out(format!(
                    "default or comment of column {name} changed: the target's stays as it was"
                ))),
                _ => as_it_is(),
            }
        }
        TableChange::MoveColumn { name, .. } => match (policy, there(name)) {
            (_, None) => Ok(Decision::nothing()),
            (Evolve | TryEvolve, Some(_)) => as_it_is(),
            (_, Some(_)) => Ok(Decision::left_out(format!("column {name} was moved: the target's stays where it is"))),
        },
        TableChange::SetTableComment { .. } => match policy {
            Ignore => Ok(Decision::left_out("the table's comment changed: the target's stays as it was".into())),
            _ => as_it_is(),
        },
        TableChange::Truncate => match policy.keeps() {
            false => as_it_is(),
            true => Ok(Decision {
                rows_kept: true,
                ..Decision::left_out("the table was emptied: the target keeps the rows of before".into())
            }),
        },
        TableChange::Rewrite { reason, columns } => rewritten(source, target, reason, columns),
        TableChange::ChangeKey { .. } => Err(Error::schema("the key of the table changed")),
        TableChange::CreateTable(_)
        | TableChange::DropTable
        | TableChange::RenameTable { .. }
        | TableChange::SetSourceDefaults { .. }
        | TableChange::ReplaceBy { .. } => as_it_is(),
    }
}

/// What neither the rows nor their shape depends on is no reason to stop.
fn exception(step: &TableChange) -> Result<Decision> {
    match step {
        TableChange::SetDefault { name, .. } | TableChange::SetColumnComment { name, .. } => {
            Ok(Decision::left_out(format!("default or comment of column {name} changed: the target's stays as it was")))
        }
        TableChange::MoveColumn { name, .. } => {
            Ok(Decision::left_out(format!("column {name} was moved: the target's stays where it is")))
        }
        TableChange::SetTableComment { .. } => {
            Ok(Decision::left_out("the table's comment changed: the target's stays as it was".into()))
        }
        _ => Err(refused_by_policy()),
    }
}

/// The words of `exception`.
pub(crate) fn refused_by_policy() -> Error {
    Error::schema("the table's definition changed, and the job's policy for schema changes is exception")
}

/// A column stays at the target though the source has it no more: rows that are written from here on have NULL there,
/// or the target's default where it does not allow NULL.
fn keep(policy: SchemaPolicy, source: &TableSchema, column: &Column, what: &str) -> Result<Decision> {
    let name = &column.name;
    if source.key.iter().any(|k| k.eq_ignore_ascii_case(name)) {
        return Err(Error::schema(format!("column {name} of the key was {what}: a target cannot keep it")));
    }
    if !source.has_key() {
        return Err(Error::schema(format!(
            "column {name} was {what}: in a table without a key a target that keeps it could not find its rows any more"
        )));
    }
    let relaxed = TableChange::SetNullable { name: name.clone(), nullable: true };
    let decision = match (column.nullable, policy) {
        (true, _) => Decision::nothing(),
        (false, SchemaPolicy::Lenient) => Decision::does(relaxed),
        (false, _) if matches!(column.default, Some(crate::DefaultValue::Literal(_))) => Decision::nothing(),
        (false, _) => {
            return Err(Error::schema(format!(
                "column {name} was {what}, and the target's allows no NULL and has no default"
            )));
        }
    };
    Ok(decision.incomplete(&[name]))
}

fn rename(policy: SchemaPolicy, source: &TableSchema, target: &TableSchema, from: &str, to: &str) -> Result<Decision> {
    let step = || TableChange::RenameColumn { from: from.to_string(), to: to.to_string() };
    let Some(old) = target.column(from) else {
        // A column that the target does not have got the name of one that it has.
        let (Some(kept), Some(now)) = (target.column(to), source.column(from)) else { return Ok(Decision::nothing()) };
        let what = format!("column {from} was renamed to {to}: it goes on in the column that the target has kept");
        return Ok(Decision::left_out(what).goes_on(policy, kept, now));
    };
    let in_key = source.key.iter().any(|k| k.eq_ignore_ascii_case(from));
    let stays_one = target.column(to).is_none_or(|c| c.name == old.name);
    let only_case = stays_one && target.column(to).is_some();
    let as_it_is = match policy {
        SchemaPolicy::TryEvolve | SchemaPolicy::Evolve => stays_one,
        // These cannot be kept beside their new name.
        SchemaPolicy::Lenient => stays_one && (in_key || !source.has_key() || only_case),
        _ => only_case,
    };
    if as_it_is {
        return Ok(Decision::does(step()));
    }
    let mut decision = keep(policy, source, old, "renamed")?;
    let now = source.column(from).unwrap_or(old);
    let said = match target.column(to) {
        Some(kept) => {
            decision = decision.goes_on(policy, kept, now);
            format!("goes on in {to}, which the target has kept")
        }
        None if policy == SchemaPolicy::Ignore => "the target does not have its new name".to_string(),
        None => {
            let column = Column { name: to.to_string(), nullable: true, default: None, ..now.clone() };
            decision.does.push(TableChange::AddColumn { column, position: ColumnPosition::Last });
            decision = decision.incomplete(&[to]);
            format!("{to} is added and is NULL in rows of before")
        }
    };
    decision.left_out = Some(format!("column {from} was renamed to {to}: the target keeps {from}, {said}"));
    Ok(decision)
}

/// Values of rows that are there changed without being in the log.
fn rewritten(source: &TableSchema, target: &TableSchema, reason: &str, columns: &[String]) -> Result<Decision> {
    let seen: Vec<&str> = columns.iter().filter_map(|c| target.column(c)).map(|c| c.name.as_str()).collect();
    let in_key = |c: &&str| source.key.iter().any(|k| k.eq_ignore_ascii_case(c));
    if columns.is_empty() || !seen.is_empty() && !source.has_key() || seen.iter().any(in_key) {
        return Err(Error::schema("rows changed at the source without being in its log").because(reason));
    }
    match seen.as_slice() {
        [] => Ok(Decision::nothing()),
        seen => {
            Ok(Decision::left_out(format!("rows of before keep the values that they had: {reason}")).incomplete(seen))
        }
    }
}

/// Whether every value of the one type is exactly one of the other, so that the target's column need not change.
fn holds(wide: &DataType, narrow: &DataType) -> bool {
    use DataType::{Bytes, DateTime, Decimal, Float32, Float64, String, Time, Timestamp};
    let limit = |wide: &Option<u32>, narrow: &Option<u32>| match (wide, narrow) {
        (None, _) => true,
        (Some(w), Some(n)) => w >= n,
        (Some(_), None) => false,
    };
    match (wide, narrow) {
        (w, n) if w == n => true,
        (String { chars: w }, String { chars: n }) | (Bytes { length: w }, Bytes { length: n }) => limit(w, n),
        (DateTime { digits: w }, DateTime { digits: n })
        | (Timestamp { digits: w }, Timestamp { digits: n })
        | (Time { digits: w }, Time { digits: n }) => w >= n,
        (Decimal { precision: p, scale: s }, Decimal { precision: q, scale: t }) => {
            s >= t && p - s >= q.saturating_sub(*t)
        }
        (Float64, Float32) => true,
        (w, n) => match (integers(w), integers(n)) {
            (Some((low, high)), Some((n_low, n_high))) => low <= n_low && high >= n_high,
            _ => false,
        },
    }
}

/// The least and the greatest integer of a type.
fn integers(of: &DataType) -> Option<(i128, i128)> {
    Some(match of {
        DataType::Int8 => (i8::MIN.into(), i8::MAX.into()),
        DataType::Int16 => (i16::MIN.into(), i16::MAX.into()),
        DataType::Int32 => (i32::MIN.into(), i32::MAX.into()),
        DataType::Int64 => (i64::MIN.into(), i64::MAX.into()),
        DataType::Int128 => (i128::MIN, i128::MAX),
        DataType::UInt8 => (0, u8::MAX.into()),
        DataType::UInt16 => (0, u16::MAX.into()),
        DataType::UInt32 => (0, u32::MAX.into()),
        DataType::UInt64 => (0, u64::MAX.into()),
        _ => return None,
    })
}

/// Notes that are kept of a table, the newest.
pub(crate) const NOTES: usize = 100;

impl LeftOut {
    pub(crate) fn new(what: String, statement: &str) -> LeftOut {
        LeftOut { what, statement: statement.chars().take(200).collect() }
    }
}

impl Apart {
    /// How the target of a table stands to its source, whose definition is `source`.
    pub(crate) fn of(record: &TableRecord, source: &TableSchema) -> Apart {
        record.apart.clone().unwrap_or_else(|| Apart {
            columns: source.columns.clone(),
            comment: None,
            incomplete: Vec::new(),
            rows_kept: false,
            left_out: Vec::new(),
        })
    }

    /// The target's own definition.
    pub(crate) fn schema(&self, source: &TableSchema) -> TableSchema {
        let comment = self.comment.as_ref().unwrap_or(&source.comment).clone();
        TableSchema { columns: self.columns.clone(), comment, ..source.clone() }
    }

    /// After a decision whose changes have made `target` of it; `after` is the source's definition then. `None`: the
    /// target is as the source again.
    pub(crate) fn after(
        mut self,
        decision: Decision,
        target: TableSchema,
        after: &TableSchema,
        statement: &str,
    ) -> Option<Apart> {
        for change in &decision.does {
            match change {
                TableChange::RenameColumn { from, to } => {
                    self.incomplete.iter_mut().filter(|c| *c == from).for_each(|c| c.clone_from(to));
                }
                TableChange::Truncate => {
                    self.rows_kept = false;
                    self.incomplete.retain(|c| after.column(c).is_none());
                }
                _ => {}
            }
        }
        self.columns = target.columns;
        self.comment = Some(target.comment).filter(|c| *c != after.comment);
        self.incomplete.extend(decision.incomplete);
        self.incomplete.sort();
        self.incomplete.dedup();
        self.incomplete.retain(|c| self.columns.iter().any(|column| column.name == *c));
        self.rows_kept |= decision.rows_kept;
        self.left_out.extend(decision.left_out.map(|what| LeftOut::new(what, statement)));
        let too_many = self.left_out.len().saturating_sub(NOTES);
        self.left_out.drain(..too_many);
        let plain =
            |c: &Column| (c.name.clone(), c.data_type.clone(), c.nullable, c.default.clone(), c.comment.clone());
        let same = self.columns.iter().map(plain).eq(after.columns.iter().map(plain));
        (!same || self.comment.is_some() || self.rows_kept || !self.incomplete.is_empty()).then_some(self)
    }

    /// Columns in which every row is equal to the source's, as the source defines them.
    pub fn equal_columns(&self, source: &TableSchema) -> Vec<Column> {
        let whole = |c: &&Column| self.columns.iter().any(|t| t.name == c.name) && !self.incomplete.contains(&c.name);
        source.columns.iter().filter(whole).cloned().collect()
    }

    /// Rows of the source in the target's columns: what the target does not have is left out, what only it has is NULL,
    /// or absent where it allows none or the rows say only some columns.
    ///
    /// # Errors
    /// `Internal`.
    pub(crate) fn rows(&self, batch: &ChangeBatch) -> Result<ChangeBatch> {
        let (partial, rows) = (batch.is_partial(), &batch.rows);
        let (mut columns, mut fields, mut arrays): (Vec<Column>, Vec<Field>, Vec<ArrayRef>) = Default::default();
        for column in &self.columns {
            match batch.schema.column(&column.name) {
                Some(source) => {
                    if let Some(array) = rows.column_by_name(&source.name) {
                        fields.push(Field::new(&source.name, array.data_type().clone(), true));
                        arrays.push(Arc::clone(array));
                    }
                    columns.push(source.clone());
                }
                None if partial => columns.push(column.clone()),
                None if column.nullable => {
                    let of = column.data_type.to_arrow();
                    arrays.push(new_null_array(&of, rows.num_rows()));
                    fields.push(Field::new(&column.name, of, true));
                    columns.push(column.clone());
                }
                None => {}
            }
        }
        for (field, array) in rows.schema_ref().fields().iter().zip(rows.columns()) {
            if field.name().starts_with(BASE_PREFIX) || field.name() == OP_COLUMN {
                fields.push(field.as_ref().clone());
                arrays.push(Arc::clone(array));
            }
        }
        let rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).map_err(|e| {
            Error::internal("rows do not fit the target's columns").with("table", &batch.schema.name).because(e)
        })?;
        let schema = TableSchema { columns, ..batch.schema.as_ref().clone() };
        Ok(ChangeBatch { schema: Arc::new(schema), rows })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DefaultValue, TableName};
    use arrow::array::{Array, AsArray, Int8Array, Int64Array};
    use arrow::datatypes::Int64Type;

    fn table(columns: &[&str], key: &[&str]) -> TableSchema {
        TableSchema {
            name: TableName::new("d", "t"),
            columns: columns.iter().map(|c| Column::new(*c, DataType::Int64)).collect(),
            key: key.iter().map(ToString::to_string).collect(),
            comment: String::new(),
            source_defaults: String::new(),
        }
    }

    fn drop(name: &str) -> TableChange {
        TableChange::DropColumn { name: name.into() }
    }

    fn rename(from: &str, to: &str) -> TableChange {
        TableChange::RenameColumn { from: from.into(), to: to.into() }
    }

    fn add(name: &str) -> TableChange {
        let column = Column::new(name, DataType::Int64).not_null();
        TableChange::AddColumn { column, position: ColumnPosition::First }
    }

    fn retype(name: &str, to: DataType) -> TableChange {
        TableChange::ChangeType { name: name.into(), from: DataType::Int64, to, source_type: String::new() }
    }

    /// What the target does, which of its columns are not equal any more, and whether something is said about it.
    fn shown(policy: SchemaPolicy, target: &TableSchema, step: &TableChange) -> String {
        let source = table(&["k", "x", "y"], &["k"]);
        let decision = match decide(policy, &source, target, step) {
            Ok(decision) => decision,
            Err(e) => return format!("suspended: {}", e.message),
        };
        let does = |change: &TableChange| match change {
            TableChange::AddColumn { column, position } => {
                format!("add {} {position:?}{}", column.name, if column.nullable { "" } else { " not null" })
            }
            TableChange::DropColumn { name } => format!("drop {name}"),
            TableChange::RenameColumn { from, to } => format!("rename {from} {to}"),
            TableChange::SetNullable { name, .. } => format!("nullable {name}"),
            TableChange::ChangeType { name, to, .. } => format!("type {name} {to}"),
            other => format!("{other:?}"),
        };
        let mut out: Vec<String> = decision.does.iter().map(does).collect();
        out.extend((!decision.incomplete.is_empty()).then(|| format!("incomplete {}", decision.incomplete.join(" "))));
        out.extend(decision.rows_kept.then(|| "rows kept".to_string()));
        out.extend(decision.left_out.map(|_| "said".to_string()));
        out.join("; ")
    }

    #[test]
    fn each_policy_decides_each_step() {
        use SchemaPolicy::{Exception, Ignore, Lenient, TryEvolve};
        let same = table(&["k", "x", "y"], &["k"]);
        let mut strict = same.clone();
        strict.columns[1].nullable = false;
        let mut filled = strict.clone();
        filled.columns[1].default = Some(DefaultValue::Literal("0".into()));
        let apart = table(&["k", "x", "y", "z"], &["k"]);
        let mut narrow = apart.clone();
        narrow.columns[3].data_type = DataType::Int32;
        let refused = format!("suspended: {}", refused_by_policy().message);
        let rewrite = |columns: &[&str]| TableChange::Rewrite {
            reason: "computed".into(),
            columns: columns.iter().map(ToString::to_string).collect(),
        };
        let cases: Vec<(SchemaPolicy, &TableSchema, TableChange, &str)> = vec![
            (TryEvolve, &same, add("z"), "add z First not null"),
            (Lenient, &same, add("z"), "add z Last"),
            (Ignore, &same, add("z"), "said"),
            (Exception, &same, add("z"), &refused),
            (Lenient, &apart, add("z"), "incomplete z; said"),
            (Ignore, &apart, add("z"), "incomplete z; said"),
            (TryEvolve, &same, drop("x"), "drop x"),
            (Lenient, &same, drop("x"), "incomplete x; said"),
            (Lenient, &strict, drop("x"), "nullable x; incomplete x; said"),
            (Ignore, &filled, drop("x"), "incomplete x; said"),
            (
                Ignore,
                &strict,
                drop("x"),
                "suspended: column x was dropped, and the target's allows no NULL and has no default",
            ),
            (Lenient, &same, drop("k"), "suspended: column k of the key was dropped: a target cannot keep it"),
            (TryEvolve, &same, rename("x", "z"), "rename x z"),
            (Lenient, &same, rename("x", "z"), "add z Last; incomplete x z; said"),
            (Lenient, &apart, rename("x", "z"), "incomplete x z; said"),
            // What the target has kept is too narrow for what goes on in it.
            (Lenient, &narrow, rename("x", "z"), "type z int64; incomplete x z; said"),
            (Lenient, &narrow, add("z"), "type z int64; incomplete z; said"),
            (Ignore, &narrow, rename("x", "z"), "incomplete x z; said"),
            (Lenient, &same, rename("k", "z"), "rename k z"),
            (Lenient, &same, rename("x", "X"), "rename x X"),
            (Ignore, &same, rename("x", "z"), "incomplete x; said"),
            (Ignore, &same, rename("k", "z"), "suspended: column k of the key was renamed: a target cannot keep it"),
            (Lenient, &same, retype("x", DataType::Int128), "type x int128"),
            (Lenient, &same, retype("x", DataType::Int16), "said"),
            (Ignore, &same, retype("x", DataType::Int128), "said"),
            (Ignore, &same, retype("x", DataType::Int64), ""),
            (TryEvolve, &same, TableChange::Truncate, "Truncate"),
            (Lenient, &same, TableChange::Truncate, "rows kept; said"),
            (Ignore, &same, TableChange::Truncate, "rows kept; said"),
            (Exception, &same, TableChange::Truncate, &refused),
            (Ignore, &same, rewrite(&["z"]), ""),
            (Ignore, &same, rewrite(&["x"]), "incomplete x; said"),
            (Ignore, &same, rewrite(&["k"]), "suspended: rows changed at the source without being in its log"),
            (Lenient, &same, rewrite(&[]), "suspended: rows changed at the source without being in its log"),
            (Ignore, &same, TableChange::ChangeKey { key: vec![] }, "suspended: the key of the table changed"),
            (Exception, &same, TableChange::SetTableComment { comment: "c".into() }, "said"),
        ];
        for (policy, target, step, expected) in cases {
            assert_eq!(shown(policy, target, &step), expected, "{policy} {step:?}");
        }
    }

    #[test]
    fn a_table_without_a_key_keeps_no_column() {
        let bag = table(&["x", "y"], &[]);
        for (policy, step) in [(SchemaPolicy::Lenient, drop("x")), (SchemaPolicy::Ignore, rename("x", "z"))] {
            let said = decide(policy, &bag, &bag, &step).unwrap_err();
            assert!(said.message.contains("could not find its rows"), "{said}");
        }
        let renamed = decide(SchemaPolicy::Lenient, &bag, &bag, &rename("x", "z")).unwrap();
        assert_eq!(renamed, Decision::does(rename("x", "z")));
    }

    #[test]
    fn policies_have_names() {
        for (name, policy) in SchemaPolicy::ALL {
            assert_eq!((name.parse::<SchemaPolicy>().unwrap(), policy.to_string()), (policy, name.to_string()));
            assert_eq!(serde_json::to_value(policy).unwrap(), name);
        }
        assert_eq!("TRY-EVOLVE".parse::<SchemaPolicy>().unwrap(), SchemaPolicy::TryEvolve);
        assert!("leniant".parse::<SchemaPolicy>().unwrap_err().to_string().contains("did you mean lenient?"));
        assert!("whatever".parse::<SchemaPolicy>().unwrap_err().to_string().contains("evolve, try_evolve"));
        // Jobs that were stored before there were policies.
        let old: crate::engine::JobOptions = serde_json::from_str(r#"{"max_rows": 1}"#).unwrap();
        assert_eq!(old.schema_changes, SchemaPolicy::Evolve);
    }

    #[test]
    fn rows_come_into_the_targets_columns() {
        let source = Arc::new(table(&["new", "k", "x"], &["k"]));
        let apart = Apart {
            columns: table(&["k", "kept", "x"], &["k"]).columns,
            comment: None,
            incomplete: vec!["kept".into()],
            rows_kept: false,
            left_out: Vec::new(),
        };
        let column = |n: i64| Arc::new(Int64Array::from(vec![n])) as ArrayRef;
        let ops = || Int8Array::from(vec![0]);
        let whole = ChangeBatch::new(Arc::clone(&source), vec![column(1), column(2), column(3)], ops()).unwrap();
        let rows = apart.rows(&whole).unwrap();
        assert!(!rows.is_partial());
        let value = |batch: &ChangeBatch, name: &str| {
            let array = batch.rows.column_by_name(name)?.as_primitive::<Int64Type>().clone();
            Some((!array.is_null(0)).then(|| array.value(0)))
        };
        let values = ["new", "k", "kept", "x"].map(|name| value(&rows, name));
        assert_eq!(values, [None, Some(Some(2)), Some(None), Some(Some(3))]);
        // Rows that say only some columns leave the kept one as it is.
        let partial = ChangeBatch::partial(Arc::clone(&source), &[0, 1], vec![column(1), column(2)], ops()).unwrap();
        let rows = apart.rows(&partial).unwrap();
        assert!(rows.is_partial());
        assert_eq!(["new", "k", "kept", "x"].map(|name| value(&rows, name)), [None, Some(Some(2)), None, None]);
        assert_eq!(rows.ops().value(0), 0);
        let equal: Vec<_> = apart.equal_columns(&source).into_iter().map(|c| c.name).collect();
        assert_eq!(equal, ["k", "x"]);
    }

    #[test]
    fn a_target_that_caught_up_is_not_apart() {
        let before = table(&["k", "x"], &["k"]);
        let step = add("z");
        let wider = before.after(&step).unwrap().unwrap();
        let decision = decide(SchemaPolicy::Ignore, &before, &before, &step).unwrap();
        let record = |apart| TableRecord {
            name: before.name.clone(),
            target: before.name.clone(),
            schema_version: 1,
            created: true,
            rows_estimated: None,
            unseen: None,
            state: crate::store::TableState::Live,
            copy: None,
            apart,
        };
        let apart = Apart::of(&record(None), &before);
        let apart = apart.after(decision, before.clone(), &wider, "ALTER").unwrap();
        assert_eq!(apart.left_out.len(), 1);
        let decision = decide(SchemaPolicy::Ignore, &wider, &apart.schema(&wider), &drop("z")).unwrap();
        assert_eq!(apart.after(decision, before.clone(), &before, "ALTER"), None);
        // A comment that was left out is said, and gone when the source has it again as the target has.
        let commented = TableSchema { comment: "c".into(), ..before.clone() };
        let step = |comment: &str| TableChange::SetTableComment { comment: comment.into() };
        let decision = decide(SchemaPolicy::Ignore, &before, &before, &step("c")).unwrap();
        let apart = Apart::of(&record(None), &before).after(decision, before.clone(), &commented, "ALTER").unwrap();
        assert_eq!((apart.comment.as_deref(), apart.left_out.len()), (Some(""), 1));
        let apart = Apart::of(&record(Some(apart)), &commented);
        let decision = decide(SchemaPolicy::Ignore, &commented, &apart.schema(&commented), &step("")).unwrap();
        assert_eq!(apart.after(decision, before.clone(), &before, "ALTER"), None);
    }
}
