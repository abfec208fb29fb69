//! `INSERT`, `DELETE` and `UPDATE`: the rows they are about are found by a query, and written as one commit of the
//! warehouse, as a sink would write them.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int8Array, RecordBatch, StringArray, new_null_array};
use arrow::compute::concat_batches;
use arrow::datatypes::Schema;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::sql::sqlparser::ast::{
    self, AssignmentTarget, Expr, FromTable, Ident, ObjectName, Query, SelectItem, SetExpr, Statement, TableFactor,
    TableObject, TableWithJoins,
};
use freshet_core::batch::{OP_DELETE, OP_UPSERT};
use freshet_core::{Column, DefaultValue, Error, ErrorKind, Result, TableName, TableSchema, text};
use futures::StreamExt;

use super::error::from_datafusion;
use super::fit::{check, check_null, fit};
use super::query::parse;
use super::rewrite::parts;
use super::{Outcome, Session, find_table, information_schema};
use crate::catalog::{Model, Table, TableColumn};
use crate::storage::stage::Stage;
use crate::{Snapshot, TableWrite};

impl Session {
    /// `INSERT`, `REPLACE`, `DELETE`, `UPDATE`.
    ///
    /// # Errors
    /// Syntax errors, unknown tables and columns, values that do not fit their column.
    pub(crate) async fn change(&mut self, sql: &str) -> Result<Outcome> {
        let statement = parse(sql)?;
        // One statement at a time.
        let _statement = self.sql.writing.lock().await;
        let warehouse = Arc::clone(&self.sql.warehouse);
        let snapshot = warehouse.snapshot();
        let changed = match &statement {
            Statement::Insert(insert) => {
                let change = Box::pin(self.insert(insert.clone(), &snapshot)).await?;
                let (affected, write) = write(&change, OP_UPSERT)?;
                warehouse.commit(None, write.into_iter().collect()).await?;
                return Ok(Outcome::Done { affected, info: String::new() });
            }
            Statement::Delete(delete) => self.one_table(tables_of(delete), &snapshot)?,
            Statement::Update(update) => self.one_table(std::slice::from_ref(&update.table), &snapshot)?,
            _ => return Err(Error::unsupported("this statement")),
        };
        // Nobody else writes to the table between what this reads and what it writes; a change of its definition or a
        // truncation is noticed.
        let _turn = warehouse.turn(&changed.name).await;
        for attempt in 1.. {
            let snapshot = warehouse.snapshot();
            let seen = snapshot.table(&changed.name).map(|v| v.seen());
            let (change, op) = match statement.clone() {
                Statement::Update(update) => (Box::pin(self.update(update, &snapshot)).await?, OP_UPSERT),
                Statement::Delete(delete) => (Box::pin(self.delete(delete, &snapshot)).await?, OP_DELETE),
                _ => return Err(Error::internal("neither UPDATE nor DELETE")),
            };
            let (affected, write) = write(&change, op)?;
            let Some(write) = write else { return Ok(Outcome::Done { affected, info: String::new() }) };
            match warehouse.commit_in_turn(None, vec![TableWrite { seen, ..write }], Stage::Whole).await {
                Err(e) if e.kind == ErrorKind::SinkUnavailable && attempt < ATTEMPTS => {}
                done => return done.map(|()| Outcome::Done { affected, info: String::new() }),
            }
        }
        Err(Error::internal("a statement was tried too often"))
    }

    fn target(&self, name: &ObjectName, snapshot: &Snapshot) -> Result<Arc<Table>> {
        let name = match parts(name).as_slice() {
            [.., database, table] => TableName::new(database, table),
            [table] => TableName::new(self.need_database()?, table),
            [] => return Err(Error::config("a table is missing").with("near", "the name")),
        };
        if information_schema::is_database(&name.database) {
            return Err(Error::unsupported(format!("{name} can only be read")));
        }
        Ok(Arc::clone(&find_table(snapshot, &name)?.table))
    }

    async fn insert(&self, insert: ast::Insert, snapshot: &Arc<Snapshot>) -> Result<Change> {
        let TableObject::TableName(name) = &insert.table else {
            return Err(Error::unsupported("INSERT into something that is no table"));
        };
        let table = self.target(name, snapshot)?;
        if insert.overwrite || insert.on.is_some() || insert.partitioned.is_some() {
            return Err(Error::unsupported("INSERT OVERWRITE, ON DUPLICATE KEY and PARTITION")
                .hint("an INSERT into a Unique Key table replaces rows with the same key"));
        }
        let columns = match insert.columns.as_slice() {
            [] => (0..table.columns.len()).collect(),
            names => names
                .iter()
                .map(|n| column_index(&table, parts(n).last().map_or("", String::as_str)))
                .collect::<Result<Vec<_>>>()?,
        };
        let mut source = insert.source.ok_or_else(|| Error::unsupported("INSERT without VALUES or SELECT"))?;
        for_defaults(&mut source, &table, &columns)?;
        alone(&mut source);
        let (batch, held) = Box::pin(self.rows(Statement::Query(source), snapshot)).await?;
        if batch.num_columns() != columns.len() {
            return Err(Error::config(format!(
                "{} columns are to be filled, but there are {} values a row",
                columns.len(),
                batch.num_columns()
            ))
            .with("near", "VALUES"));
        }
        let mut arrays = Vec::with_capacity(table.columns.len());
        for (i, column) in table.columns.iter().enumerate() {
            let array = match columns.iter().position(|c| *c == i) {
                Some(at) => fit(batch.column(at), column)?,
                None => default_array(column, batch.num_rows())?,
            };
            check_null(&array, column)?;
            check(&array, column)?;
            arrays.push(array);
        }
        let rows = rows_of(&table, arrays)?;
        Ok(Change { table, rows, _held: held })
    }

    async fn delete(&self, delete: ast::Delete, snapshot: &Arc<Snapshot>) -> Result<Change> {
        let from = tables_of(&delete).to_vec();
        if !delete.order_by.is_empty() || delete.limit.is_some() || delete.using.is_some() {
            return Err(Error::unsupported("DELETE with ORDER BY, LIMIT or USING"));
        }
        let table = self.one_table(&from, snapshot)?;
        if table.model == Model::Duplicate {
            return Err(Error::unsupported(format!("{} has no unique key: single rows cannot be deleted", table.name))
                .hint("TRUNCATE TABLE removes all rows"));
        }
        let everything = table.columns.iter().map(|c| SelectItem::UnnamedExpr(identifier(&c.name))).collect();
        let (batch, held) = Box::pin(self.rows(select(everything, from, delete.selection)?, snapshot)).await?;
        let arrays = table.columns.iter().zip(batch.columns()).map(|(c, a)| fit(a, c)).collect::<Result<Vec<_>>>()?;
        let rows = rows_of(&table, arrays)?;
        Ok(Change { table, rows, _held: held })
    }

    async fn update(&self, update: ast::Update, snapshot: &Arc<Snapshot>) -> Result<Change> {
        if !update.order_by.is_empty() || update.limit.is_some() || update.from.is_some() {
            return Err(Error::unsupported("UPDATE with FROM, ORDER BY or LIMIT"));
        }
        let from = vec![update.table];
        let table = self.one_table(&from, snapshot)?;
        if table.model != Model::Unique {
            return Err(Error::unsupported(format!("{} has no unique key: its rows cannot be updated", table.name))
                .hint("DELETE the rows and INSERT them again"));
        }
        let mut assigned = HashSet::new();
        let mut values: Vec<Expr> = table.columns.iter().map(|c| identifier(&c.name)).collect();
        for assignment in update.assignments {
            let AssignmentTarget::ColumnName(name) = &assignment.target else {
                return Err(Error::unsupported("assignments to several columns at once"));
            };
            let at = column_index(&table, parts(name).last().map_or("", String::as_str))?;
            if at < table.key_columns {
                return Err(Error::unsupported(format!(
                    "column {} is of the key and cannot be updated",
                    table.columns[at].name
                ))
                .hint("INSERT the row under its new key and DELETE the old one"));
            }
            values[at] = assignment.value;
            assigned.insert(at);
        }
        let items = values
            .into_iter()
            .enumerate()
            .map(|(i, expr)| SelectItem::ExprWithAlias { expr, alias: Ident::new(format!("__value_{i}")) });
        let statement = select(items.collect(), from, update.selection)?;
        let (batch, held) = Box::pin(self.rows(statement, snapshot)).await?;
        let mut arrays = Vec::with_capacity(table.columns.len());
        for (i, column) in table.columns.iter().enumerate() {
            let array = fit(batch.column(i), column)?;
            check_null(&array, column)?;
            // What the row has in other columns may be from a time before a limit, or from a job.
            if assigned.contains(&i) {
                check(&array, column)?;
            }
            arrays.push(array);
        }
        let rows = rows_of(&table, arrays)?;
        Ok(Change { table, rows, _held: held })
    }

    fn one_table(&self, from: &[TableWithJoins], snapshot: &Snapshot) -> Result<Arc<Table>> {
        match from {
            [TableWithJoins { relation: TableFactor::Table { name, .. }, joins }] if joins.is_empty() => {
                self.target(name, snapshot)
            }
            _ => Err(Error::unsupported("changing several tables in one statement")),
        }
    }

    /// All rows of a query as one batch, and the memory of queries that it takes.
    async fn rows(&self, statement: Statement, snapshot: &Arc<Snapshot>) -> Result<(RecordBatch, MemoryReservation)> {
        let planned = Box::pin(self.plan_statement(statement, Vec::new(), snapshot, Vec::new())).await?;
        let held = MemoryConsumer::new("rows that a statement changes").register(planned.memory());
        match Box::pin(planned.run(&self.sql.threads)).await? {
            Outcome::Rows { schema, mut stream } => {
                let mut batches = Vec::new();
                while let Some(batch) = stream.next().await {
                    let batch = batch?;
                    // Twice: they are joined, and encoded.
                    let bytes = 2 * batch.columns().iter().map(size).sum::<usize>();
                    held.try_grow(bytes).map_err(|e| from_datafusion(e, std::iter::empty()))?;
                    batches.push(batch);
                }
                let all = concat_batches(&schema, &batches);
                Ok((all.map_err(|e| Error::internal("cannot join batches").because(e))?, held))
            }
            Outcome::Done { .. } => Err(Error::internal("a query without rows")),
        }
    }
}

/// Rows that a statement has found.
struct Change {
    table: Arc<Table>,
    rows: RecordBatch,
    /// Until they are written.
    _held: MemoryReservation,
}

/// Bytes of the values alone: a slice may share its buffers with others.
fn size(array: &ArrayRef) -> usize {
    array.to_data().get_slice_memory_size().unwrap_or_else(|_| array.get_array_memory_size())
}

/// Times that a statement is evaluated again because its table changed meanwhile.
const ATTEMPTS: usize = 5;

fn tables_of(delete: &ast::Delete) -> &[TableWithJoins] {
    let (FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from)) = &delete.from;
    from
}

/// The number of rows, and what is to be written if there are any.
fn write(change: &Change, op: i8) -> Result<(u64, Option<TableWrite>)> {
    let Change { table, rows, .. } = change;
    let n = rows.num_rows();
    let ops = Int8Array::from(vec![op; n]);
    let rows = RecordBatch::try_new(table.arrow_schema(), rows.columns().to_vec())
        .map_err(|e| Error::data("the rows do not fit the table").with("table", &table.name).because(e))?;
    Ok((n as u64, (n > 0).then(|| TableWrite::new(table.name.clone(), rows, Some(ops)))))
}

fn column_index(table: &Table, name: &str) -> Result<usize> {
    table.index_of(name).ok_or_else(|| {
        let e = Error::not_found(format!("unknown column '{name}'")).with("column", name).with("table", &table.name);
        match super::nearest(name, table.columns.iter().map(|c| c.name.as_str())) {
            Some(near) => e.hint(format!("did you mean {near}?")),
            None => e,
        }
    })
}

fn identifier(name: &str) -> Expr {
    Expr::Identifier(Ident::with_quote('`', name))
}

/// `SELECT items FROM from WHERE selection`.
fn select(items: Vec<SelectItem>, from: Vec<TableWithJoins>, selection: Option<Expr>) -> Result<Statement> {
    let mut statement = parse("SELECT 1")?;
    if let Statement::Query(query) = &mut statement
        && let SetExpr::Select(select) = query.body.as_mut()
    {
        select.projection = items;
        select.from = from;
        select.selection = selection;
    }
    Ok(statement)
}

/// `DEFAULT` in `VALUES` becomes the column's default.
fn for_defaults(source: &mut Query, table: &Table, columns: &[usize]) -> Result<()> {
    let SetExpr::Values(values) = source.body.as_mut() else { return Ok(()) };
    for row in &mut values.rows {
        for (value, column) in row.content.iter_mut().zip(columns) {
            let is_default = matches!(value, Expr::Identifier(i) if i.quote_style.is_none() && i.value.eq_ignore_ascii_case("DEFAULT"));
            if !is_default {
                continue;
            }
            let column = &table.columns[*column];
            *value = match default_text(column)? {
                Some(text) => Expr::Value(ast::Value::SingleQuotedString(text).into()),
                None => Expr::Value(ast::Value::Null.into()),
            };
        }
    }
    Ok(())
}

/// Literals of several kinds in one column of `VALUES` become texts: DataFusion would give all rows one type, and cast
/// `'1.25'` to the digits of `1.5`; here each is to become a value of the table's column by itself.
fn alone(source: &mut Query) {
    let SetExpr::Values(values) = source.body.as_mut() else { return };
    for column in 0..values.rows.iter().map(|r| r.content.len()).max().unwrap_or(0) {
        let kinds = values.rows.iter().filter_map(|r| r.content.get(column)).filter_map(literal);
        if kinds.map(|(kind, _)| kind).collect::<HashSet<_>>().len() < 2 {
            continue;
        }
        for value in values.rows.iter_mut().filter_map(|r| r.content.get_mut(column)) {
            if let Some((_, text)) = literal(value) {
                *value = Expr::Value(ast::Value::SingleQuotedString(text).into());
            }
        }
    }
}

/// The kind of a literal, and its text.
fn literal(expr: &Expr) -> Option<(Literal, String)> {
    match expr {
        Expr::Value(v) => match &v.value {
            ast::Value::Number(digits, _) if digits.contains(['e', 'E']) => Some((Literal::Double, digits.clone())),
            ast::Value::Number(digits, _) => Some((Literal::Exact, digits.clone())),
            ast::Value::SingleQuotedString(text) | ast::Value::DoubleQuotedString(text) => {
                Some((Literal::Text, text.clone()))
            }
            _ => None,
        },
        Expr::UnaryOp { op: ast::UnaryOperator::Minus, expr } => match literal(expr)? {
            (Literal::Text, _) => None,
            (kind, digits) => Some((kind, format!("-{digits}"))),
        },
        _ => None,
    }
}

#[derive(PartialEq, Eq, Hash)]
enum Literal {
    Exact,
    Double,
    Text,
}

/// What a row holds that does not say, as text; `None`: NULL.
fn default_text(column: &TableColumn) -> Result<Option<String>> {
    match &column.default {
        Some(DefaultValue::Literal(literal)) => Ok(Some(literal.clone())),
        Some(DefaultValue::CurrentTimestamp(digits)) => {
            let mut out = String::new();
            let now = super::now_micros();
            text::date_time(now - now.rem_euclid(10_i64.pow(6 - u32::from(*digits.min(&6)))), *digits, &mut out);
            Ok(Some(out))
        }
        Some(DefaultValue::Expression(e)) => {
            Err(Error::unsupported(format!("the default {e} of column {}", column.name)))
        }
        None => Ok(None),
    }
}

fn default_array(column: &TableColumn, rows: usize) -> Result<ArrayRef> {
    match default_text(column)? {
        Some(text) => fit(&(Arc::new(StringArray::from(vec![text; rows])) as ArrayRef), column),
        None => Ok(new_null_array(&column.data_type.to_arrow(), rows)),
    }
}

fn rows_of(table: &Table, arrays: Vec<ArrayRef>) -> Result<RecordBatch> {
    let schema = Arc::new(Schema::new(table_schema(table).arrow_fields()));
    RecordBatch::try_new(schema, arrays).map_err(|e| Error::internal("rows do not fit their table").because(e))
}

/// The table as writers see it.
fn table_schema(table: &Table) -> TableSchema {
    let columns = table.columns.iter().map(|c| Column {
        name: c.name.clone(),
        data_type: c.data_type.clone(),
        nullable: c.nullable,
        default: c.default.clone(),
        comment: c.comment.clone(),
        source_type: String::new(),
    });
    let key = match table.model {
        Model::Unique => table.key().iter().map(|c| c.name.clone()).collect(),
        Model::Duplicate | Model::Multiset => Vec::new(),
    };
    TableSchema {
        name: table.name.clone(),
        columns: columns.collect(),
        key,
        comment: table.comment.clone(),
        source_defaults: String::new(),
    }
}
