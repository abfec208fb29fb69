//! Which rows foreign keys may have changed below the log, so that just these are read again. The log has the changes of
//! the parents; the children that a server deleted or emptied are at the source no more, but the target still has them.
//!
//! It is asked while it stands before the transactions in question, whose rows are in the lane's buffer. A row that a
//! foreign key changes for the first time either is one that the buffer has, or it still has the values of before, and
//! these name its parent: a row that the buffer has, or one that was found in this way. What is found is at least what
//! was changed; one row too many only costs its reading. Rows that were read again before are ahead of the lane until it
//! has passed that reading, so they may be no parents of what they were parents of: they count as changed each time.
//!
//! A table that is on its way cannot be asked. What its rows may have named is kept in mind until it joins; then it stands
//! where the main lane does, and what has changed unseen since its copy began still names that.
//!
//! Values are compared as canonical text; those of strings as a collation may, so that nothing is missed.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType as Arrow, Int64Type};

use crate::batch::{ChangeBatch, OP_DELETE, OP_MOVE};
use crate::connector::{ForeignKey, KeyRange};
use crate::datatype::DataType;
use crate::engine::job::{Job, with_retries};
use crate::engine::unseen::Unseen;
use crate::error::{Error, Result, Retry};
use crate::schema::{Column, TableName, TableSchema};
use crate::store::{Phase, TableState};
use crate::text::{render, render_value};

/// More rows of a table than this are not read one by one.
const ROWS: usize = 100_000;
/// So many times are tables looked through: children, their children, and so on.
const ROUNDS: usize = 32;

/// Values of some columns, as canonical text.
pub(crate) type Values = Vec<String>;
/// Keys of the rows of each table.
pub(crate) type Touched = BTreeMap<TableName, HashSet<Values>>;

/// Foreign keys, and the parents' values that rows named which they have changed.
pub(crate) type Owed = Vec<(ForeignKey, HashSet<Values>)>;

/// What was found out about changes that are not in the log.
#[derive(Default)]
pub(crate) struct Found {
    /// The rows that may have changed.
    pub(crate) rows: Touched,
    /// Of tables that are on their way: what to look for when they join.
    pub(crate) owed: BTreeMap<TableName, Owed>,
}

/// A foreign key and the parents' values that its rows may name.
struct Edge<'a> {
    key: &'a ForeignKey,
    /// Whether the child's columns are strings.
    strings: Vec<bool>,
    values: HashSet<Values>,
}

/// What one table is looked through for.
struct Asked {
    /// Its key, the columns of foreign keys, and what others refer to.
    shape: Arc<TableSchema>,
    /// Rows by their key.
    by_key: HashSet<Values>,
    /// There is something that was not looked for yet.
    fresh: bool,
}

struct Search<'a> {
    job: &'a Job,
    edges: Vec<Edge<'a>>,
    asked: BTreeMap<&'a TableName, Asked>,
    found: Touched,
}

/// The rows of a table that are in the buffer.
#[derive(Default)]
struct Logged {
    keys: HashSet<Values>,
    /// Those of which a row is gone, or has another key now.
    gone: HashSet<Values>,
}

/// A value as it is compared.
enum Folded {
    Null,
    Is(String),
    /// What it is equal to, only its collation knows.
    Unsure,
}

/// Why a search has no result.
enum Stop {
    /// This table has to be copied whole, or those that refer to it.
    Whole(TableName),
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Stop::Failed(error)
    }
}

impl Job {
    /// Which rows of these tables may have been changed in what is in the buffer; a table that is missing has to be copied
    /// whole. The target stands right before the buffer.
    ///
    /// # Errors
    /// When the sink cannot be asked.
    pub(crate) async fn touched(&self, unseen: &BTreeMap<TableName, Unseen>) -> Result<Found> {
        // Of a transaction in parts the buffer has only the last, and a replay is in the target already, or half of it.
        if self.main.parts > 0 || self.main.replay().is_some() {
            return Ok(Found::default());
        }
        if !self.context.rules.read_again {
            let none = |name: &TableName| (name.clone(), HashSet::new());
            return Ok(Found { rows: unseen.keys().map(none).collect(), owed: BTreeMap::new() });
        }
        let mut whole = BTreeSet::new();
        loop {
            let hopeless = |(name, u): &(&TableName, &Unseen)| {
                // Not those of tables on their way: chaos found rows missed by that (seed 20261127).
                let can_be_read = self.has_rows_to_read(name);
                !(whole.contains(*name) || can_be_read && self.knows_parents(u, unseen, &whole))
            };
            if let Some(name) = unseen.iter().find(hopeless).map(|(name, _)| name.clone()) {
                whole.insert(name);
                continue;
            }
            let mut search = Search::new(self);
            match search.run(unseen.iter().filter(|(name, _)| !whole.contains(*name))).await {
                Ok(()) => return Ok(search.result()),
                Err(Stop::Whole(name)) => drop(whole.insert(name)),
                Err(Stop::Failed(error)) => return Err(error),
            }
        }
    }

    /// Which rows of a table that has just joined, where nothing of the main lane is under way, may have changed unseen on
    /// its way; `None`: it has to be copied whole.
    ///
    /// # Errors
    /// When the sink cannot be asked.
    pub(crate) async fn named(&self, name: &TableName, owed: &Owed) -> Result<Option<HashSet<Values>>> {
        let Some((_, schema)) = self.schemas.get(name) else { return Ok(None) };
        if !owed.iter().all(|(key, _)| key.columns.iter().all(|c| schema.index_of(c).is_some())) {
            return Ok(None);
        }
        let mut search = Search::new(self);
        for (key, values) in owed {
            search.begin(key, schema, values.clone());
        }
        search.found.insert(name.clone(), HashSet::new());
        search.prepare(name);
        match search.look_through(name).await {
            Ok(()) => Ok(search.found.remove(name)),
            Err(Stop::Whole(_)) => Ok(None),
            Err(Stop::Failed(error)) => Err(error),
        }
    }

    /// Whether the table is being copied, or waits for that.
    fn is_on_its_way(&self, name: &TableName) -> bool {
        let (Some(record), Some((_, schema))) = (self.tables.get(name), self.schemas.get(name)) else { return false };
        let copied = record.copy.as_ref().is_some_and(|c| c.phase != Phase::Found);
        copied && !matches!(record.state, TableState::Suspended { .. }) && schema.has_key()
    }

    /// Whether single rows of the table can be read again: it is in the main lane alone, and defined as its source.
    fn has_rows_to_read(&self, name: &TableName) -> bool {
        let (Some(record), Some((_, schema))) = (self.tables.get(name), self.schemas.get(name)) else { return false };
        let in_main = matches!(record.state, TableState::Live | TableState::CatchingUp { .. });
        in_main && record.copy.is_none() && record.apart.is_none() && record.unseen.is_none() && schema.has_key()
    }

    /// Whether buffer and target together know all parents of the rows that these foreign keys may have changed.
    fn knows_parents(&self, of: &Unseen, unseen: &BTreeMap<TableName, Unseen>, whole: &BTreeSet<TableName>) -> bool {
        let exact = |name: &TableName| self.tables.get(name).is_some_and(|t| t.state == TableState::Live);
        let known = |key: &ForeignKey| {
            let ForeignKey { child, parent, columns, references, moves } = key;
            let (Some((_, c)), Some((_, p))) = (self.schemas.get(child), self.schemas.get(parent)) else {
                return false;
            };
            let has = |schema: &TableSchema, names: &[String]| names.iter().all(|n| schema.index_of(n).is_some());
            if columns.is_empty() || columns.len() != references.len() || !has(c, columns) || !has(p, references) {
                return false;
            }
            // Under its new key only the source has such a row.
            if *moves && columns.iter().any(|column| c.key.contains(column)) {
                return false;
            }
            // Which rows of a table on its way have changed unseen is known only when it joins.
            let later = unseen.contains_key(parent) && self.is_on_its_way(parent);
            if !p.has_key() || later || whole.contains(parent) {
                return false;
            }
            let keys = references.iter().all(|r| p.key.contains(r));
            if !self.main.routes.contains_key(parent) {
                // Of rows that are gone the log says the key.
                return self.is_on_its_way(child)
                    && keys
                    && columns.len() == 1
                    && !unseen.contains_key(parent)
                    && self.main.has_passed_over(parent);
            }
            if self.tables.get(parent).is_none_or(|t| t.apart.is_some()) {
                return false;
            }
            // Of parents that may be ahead of the lane only the keys are sure, and only if it is known which these are.
            let which = !unseen.contains_key(parent) || self.ahead.contains_key(parent);
            let parents = exact(parent) || which && keys;
            // A child that is ahead may have one column of before and one of behind.
            let tell = self.ahead.contains_key(child) && !self.is_on_its_way(child);
            parents && (exact(child) && !self.is_on_its_way(child) || columns.len() == 1 || tell)
        };
        of.by.as_ref().is_some_and(|keys| keys.iter().all(known))
    }
}

impl<'a> Search<'a> {
    fn new(job: &'a Job) -> Self {
        Search { job, edges: Vec::new(), asked: BTreeMap::new(), found: Touched::new() }
    }

    fn begin(&mut self, key: &'a ForeignKey, schema: &TableSchema, values: HashSet<Values>) {
        let is_string = |c: &String| schema.column(c).is_none_or(|c| matches!(c.data_type, DataType::String { .. }));
        self.edges.push(Edge { key, strings: key.columns.iter().map(is_string).collect(), values });
    }

    fn result(self) -> Found {
        let Search { edges, found: rows, .. } = self;
        let mut owed: BTreeMap<TableName, Owed> = BTreeMap::new();
        for Edge { key, values, .. } in edges {
            if !rows.contains_key(&key.child) {
                owed.entry(key.child.clone()).or_default().push((key.clone(), values));
            }
        }
        Found { rows, owed }
    }

    async fn run(
        &mut self,
        unseen: impl Iterator<Item = (&'a TableName, &'a Unseen)>,
    ) -> std::result::Result<(), Stop> {
        let mut later = BTreeSet::new();
        for (name, Unseen { by, .. }) in unseen {
            let Some((_, schema)) = self.job.schemas.get(name) else { return Err(Stop::Whole(name.clone())) };
            match self.job.is_on_its_way(name) {
                true => drop(later.insert(name)),
                false => drop(self.found.insert(name.clone(), HashSet::new())),
            }
            for key in by.iter().flatten() {
                self.begin(key, schema, HashSet::new());
            }
        }
        let names = self.edges.iter().flat_map(|e| [&e.key.child, &e.key.parent]);
        let names: BTreeSet<_> = names.filter(|name| !later.contains(name)).collect();
        for name in &names {
            self.prepare(name);
        }
        for name in &names {
            self.begin_with_the_buffer(name)?;
        }
        for _ in 0..ROUNDS {
            let Some(name) = self.asked.iter().find(|(_, a)| a.fresh).map(|(name, _)| *name) else { return Ok(()) };
            self.look_through(name).await?;
        }
        let fresh = self.asked.iter().find(|(_, a)| a.fresh);
        fresh.map_or(Ok(()), |(name, _)| Err(Stop::Whole((*name).clone())))
    }

    fn prepare(&mut self, name: &'a TableName) {
        let Some((_, schema)) = self.job.schemas.get(name) else { return };
        let mut shape = (**schema).clone();
        let of = |e: &Edge<'_>, column: &String| {
            e.key.child == *name && e.key.columns.contains(column)
                || e.key.parent == *name && e.key.references.contains(column)
        };
        shape.columns.retain(|c| schema.key.contains(&c.name) || self.edges.iter().any(|e| of(e, &c.name)));
        self.asked.insert(name, Asked { shape: Arc::new(shape), by_key: HashSet::new(), fresh: false });
    }

    /// Takes the rows that the buffer has of a table, and those that are ahead of it.
    fn begin_with_the_buffer(&mut self, name: &'a TableName) -> std::result::Result<(), Stop> {
        let (job, rules) = (self.job, self.job.context.rules);
        let Some((_, schema)) = job.schemas.get(name) else { return Ok(()) };
        let batches = || job.main.open_rows().filter(|b| b.schema.name == *name);
        let mut logged = Logged::default();
        for batch in batches() {
            logged.add(schema, batch)?;
        }
        let ahead = || job.ahead.get(name).into_iter().flatten().filter(|_| rules.ahead_again).cloned();
        let several = self.edges.iter().any(|e| e.key.child == *name && e.key.columns.len() > 1);
        let own = self.found.get_mut(name).map(|found| {
            found.extend(logged.keys.iter().filter(|_| rules.logged_again).cloned());
            let parents = found.iter().cloned().chain(ahead()).collect::<HashSet<_>>();
            if several {
                found.extend(ahead());
            }
            parents
        });
        let parents = own.as_ref().unwrap_or(&logged.gone);
        for at in 0..self.edges.len() {
            let key = self.edges[at].key;
            if key.parent != *name {
                continue;
            }
            let places = key.references.iter().map(|r| schema.key.iter().position(|k| k == r));
            if let Some(places) = places.collect::<Option<Vec<_>>>() {
                for parent in parents {
                    self.add(at, places.iter().map(|p| Some(parent[*p].as_str())))?;
                }
                continue;
            }
            for batch in batches().filter(|b| key.references.iter().all(|r| b.rows.column_by_name(r).is_some())) {
                let columns = texts(schema, &batch.rows, &key.references)?;
                for row in 0..batch.rows.num_rows() {
                    self.add(at, columns.iter().map(|c| c.is_valid(row).then(|| c.value(row))))?;
                }
            }
            if let Some(asked) = self.asked.get_mut(name) {
                asked.by_key.extend(own.as_ref().unwrap_or(&logged.keys).iter().cloned());
                asked.fresh |= !asked.by_key.is_empty();
            }
        }
        Ok(())
    }

    /// Children may name these values.
    fn add<'v>(&mut self, edge: usize, values: impl Iterator<Item = Option<&'v str>>) -> std::result::Result<(), Stop> {
        let Edge { key, strings, values: all } = &mut self.edges[edge];
        let mut folded = Vec::with_capacity(strings.len());
        for (value, string) in values.zip(strings.iter()) {
            match fold(value, *string) {
                Folded::Null => return Ok(()),
                Folded::Is(value) => folded.push(value),
                Folded::Unsure => return Err(Stop::Whole(key.child.clone())),
            }
        }
        if all.insert(folded)
            && let Some(asked) = self.asked.get_mut(&key.child)
        {
            asked.fresh = true;
        }
        Ok(())
    }

    /// Looks for the children in a table of the target; they may be parents in turn.
    async fn look_through(&mut self, name: &'a TableName) -> std::result::Result<(), Stop> {
        let job = self.job;
        let (Some(record), Some(asked)) = (job.tables.get(name), self.asked.get_mut(name)) else { return Ok(()) };
        asked.fresh = false;
        let (shape, by_key) = (Arc::clone(&asked.shape), std::mem::take(&mut asked.by_key));
        let failed = |e: Error| match e.kind.is_about_a_table() && e.kind.retry() != Retry::Backoff {
            true => Stop::Whole(name.clone()),
            false => Stop::Failed(e),
        };
        let all_rows = KeyRange::default();
        let open = || job.context.sink.rows(&record.target, &shape, &all_rows);
        let mut rows = with_retries(open, |e, pause| job.retrying(e, pause)).await.map_err(failed)?;
        let places = |names: &[String]| names.iter().filter_map(|n| shape.index_of(n)).collect::<Vec<_>>();
        let key = places(&shape.key);
        let mine: Vec<Sought> = self.edges.iter().filter(|e| e.key.child == *name).map(|e| e.sought(&shape)).collect();
        let children = self.edges.iter().enumerate().filter(|(_, e)| e.key.parent == *name);
        let children: Vec<_> = children.map(|(at, e)| (at, places(&e.key.references))).collect();
        let mut found = self.found.remove(name);
        let mut parents = Vec::new();
        while let Some(batch) = rows.next().await.map_err(failed)? {
            let batch = Batch { schema: &shape, columns: columns(&shape, &batch)? };
            let mut changed = vec![false; batch.columns[0].len()];
            for sought in &mine {
                sought.mark(&batch, &mut changed)?;
            }
            for (row, changed) in changed.into_iter().enumerate() {
                if !changed && by_key.is_empty() {
                    continue;
                }
                let own: Values = batch.texts(&key, row)?.into_iter().map(Option::unwrap_or_default).collect();
                if !changed && !by_key.contains(&own) {
                    continue;
                }
                for (at, places) in &children {
                    parents.push((*at, batch.texts(places, row)?));
                }
                if let Some(found) = found.as_mut().filter(|_| changed) {
                    found.insert(own);
                    if found.len() > ROWS {
                        return Err(Stop::Whole(name.clone()));
                    }
                }
            }
        }
        self.found.extend(found.map(|found| (name.clone(), found)));
        for (edge, values) in parents {
            self.add(edge, values.iter().map(Option::as_deref))?;
        }
        Ok(())
    }
}

impl Edge<'_> {
    fn sought(&self, shape: &TableSchema) -> Sought<'_> {
        let number = |v: &Values| match v.as_slice() {
            [one] => one.parse().ok(),
            _ => None,
        };
        let strings = self.strings.contains(&true);
        Sought {
            places: self.key.columns.iter().filter_map(|c| shape.index_of(c)).collect(),
            strings: &self.strings,
            values: &self.values,
            numbers: self.values.iter().filter(|_| !strings).map(number).collect(),
        }
    }
}

/// What the rows of one foreign key are looked through for.
struct Sought<'a> {
    places: Vec<usize>,
    strings: &'a [bool],
    values: &'a HashSet<Values>,
    /// The same, if they are numbers of one column.
    numbers: Option<HashSet<i64>>,
}

impl Sought<'_> {
    /// Marks the rows that may refer to one of the values.
    fn mark(&self, batch: &Batch<'_>, marked: &mut [bool]) -> Result<()> {
        if self.values.is_empty() {
            return Ok(());
        }
        if let (Some(numbers), [place]) = (&self.numbers, self.places.as_slice())
            && let Some(column) = numbers_of(&batch.columns[*place])
        {
            for (value, marked) in column.iter().zip(marked) {
                *marked |= value.is_some_and(|v| numbers.contains(&v));
            }
            return Ok(());
        }
        for (row, marked) in marked.iter_mut().enumerate() {
            *marked |= self.may_name(&batch.texts(&self.places, row)?);
        }
        Ok(())
    }

    fn may_name(&self, row: &[Option<String>]) -> bool {
        let mut folded = Vec::with_capacity(row.len());
        for (value, string) in row.iter().zip(self.strings) {
            match fold(value.as_deref(), *string) {
                Folded::Null => return false,
                Folded::Is(value) => folded.push(value),
                Folded::Unsure => return true,
            }
        }
        self.values.contains(&folded)
    }
}

/// Whole numbers that fit; their text is that of every whole number.
fn numbers_of(column: &ArrayRef) -> Option<Int64Array> {
    let fits = column.data_type().is_integer() && *column.data_type() != Arrow::UInt64;
    let cast = fits.then(|| arrow::compute::cast(column, &Arrow::Int64).ok())??;
    cast.as_primitive_opt::<Int64Type>().cloned()
}

/// Rows of a table in some columns.
struct Batch<'a> {
    schema: &'a TableSchema,
    columns: Vec<ArrayRef>,
}

impl Batch<'_> {
    fn texts(&self, places: &[usize], row: usize) -> Result<Vec<Option<String>>> {
        let text = |place: &usize| -> Result<Option<String>> {
            let column = &self.columns[*place];
            if column.is_null(row) {
                return Ok(None);
            }
            if *column.data_type() == Arrow::Utf8 {
                return Ok(Some(column.as_string::<i32>().value(row).to_string()));
            }
            let mut text = String::new();
            render_value(column, row, &self.schema.columns[*place].data_type, &mut text)?;
            Ok(Some(text))
        };
        places.iter().map(text).collect()
    }
}

impl Logged {
    fn add(&mut self, schema: &TableSchema, batch: &ChangeBatch) -> Result<()> {
        let columns = texts(schema, &batch.rows, &schema.key)?;
        for (row, op) in batch.ops().values().iter().enumerate() {
            let key: Values = columns.iter().map(|c| c.value(row).to_string()).collect();
            if [OP_DELETE, OP_MOVE].contains(op) {
                self.gone.insert(key.clone());
            }
            self.keys.insert(key);
        }
        Ok(())
    }
}

/// A string of which it is not certain what its collation takes for equal is unsure: anything but printable ASCII. Of that
/// collations ignore case and spaces at the end, at most.
fn fold(value: Option<&str>, string: bool) -> Folded {
    match value {
        None => Folded::Null,
        Some(value) if !string => Folded::Is(value.to_string()),
        Some(value) if value.bytes().all(|b| (b' '..=b'~').contains(&b)) => {
            Folded::Is(value.trim_end_matches(' ').to_ascii_lowercase())
        }
        Some(_) => Folded::Unsure,
    }
}

/// The schema's columns.
fn columns(schema: &TableSchema, rows: &RecordBatch) -> Result<Vec<ArrayRef>> {
    let column = |c: &Column| {
        let missing = || Error::internal(format!("column {} is missing", c.name)).with("table", &schema.name);
        rows.column_by_name(&c.name).cloned().ok_or_else(missing)
    };
    schema.columns.iter().map(column).collect()
}

/// Some columns of logged rows as canonical text.
fn texts(schema: &TableSchema, rows: &RecordBatch, names: &[String]) -> Result<Vec<StringArray>> {
    let text = |name: &String| {
        let missing = || Error::internal(format!("column {name} is missing")).with("table", &schema.name);
        let column = schema.column(name).ok_or_else(missing)?;
        render(rows.column_by_name(name).ok_or_else(missing)?, &column.data_type)
    };
    names.iter().map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_compared_as_any_collation_might() {
        let shown = |value: Option<&str>, string| match fold(value, string) {
            Folded::Null => "null".to_string(),
            Folded::Is(text) => format!("is {text}"),
            Folded::Unsure => "unsure".to_string(),
        };
        for (value, string, expected) in [
            (Some("Ab c  "), true, "is ab c"),
            (Some("Ab "), false, "is Ab "),
            (Some("é"), true, "unsure"),
            (Some("a\0"), true, "unsure"),
            (Some(""), true, "is "),
            (None, true, "null"),
        ] {
            assert_eq!(shown(value, string), expected);
        }
    }
}
