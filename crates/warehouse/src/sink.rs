//! The warehouse as the target of jobs. A flush is one transaction over all its tables with the flush's label; columns
//! are cast to exactly what the target column stores, and a value that does not fit is an error, never another value.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions, StringBuilder};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType as Arrow, DurationMicrosecondType, Field, Schema, TimeUnit};
use async_trait::async_trait;
use freshet_core::batch::BASE_PREFIX;
use freshet_core::connector::{BatchStream, Flush, KeyRange, Load, Purpose, Settled, Sink, Statement};
use freshet_core::datatype::Doris;
use freshet_core::{
    ChangeBatch, Check, DataType, Error, Finding, Intent, Label, Result, TableChange, TableName, TablePattern,
    TableSchema, Verdict, text,
};
use parquet::arrow::arrow_reader::RowSelection;

use crate::catalog::{Ddl, Table, TableColumn};
use crate::storage::engine::{Partial, TableWrite, Warehouse, blocking};
use crate::storage::key::{self, Keys};
use crate::storage::stage::{Part, Stage};
use crate::storage::value;
use crate::storage::version::TableView;

/// Writes changes into a [`Warehouse`].
#[derive(Debug, Clone)]
pub struct WarehouseSink {
    warehouse: Arc<Warehouse>,
}

impl WarehouseSink {
    /// Into that warehouse.
    pub fn new(warehouse: Arc<Warehouse>) -> Self {
        WarehouseSink { warehouse }
    }
}

#[async_trait]
impl Check for WarehouseSink {
    async fn check(&self, _tables: &TablePattern) -> Vec<Finding> {
        vec![Finding::new("warehouse", Verdict::Ok, format!("{} tables", self.warehouse.snapshot().tables().count()))]
    }
}

#[async_trait]
impl Sink for WarehouseSink {
    fn plan(&self, target: &TableName, change: &TableChange, after: Option<&TableSchema>) -> Result<Vec<Statement>> {
        freshet_core::ddl::doris::plan(Doris::Embedded, target, change, after)
    }

    async fn apply(&self, label: &Label, statement: &Statement) -> Result<()> {
        self.apply_together(label, &[statement]).await.map(drop)
    }

    async fn apply_together(&self, label: &Label, statements: &[&Statement]) -> Result<bool> {
        let snapshot = self.warehouse.snapshot();
        let mut all = Vec::new();
        for statement in statements {
            for step in crate::sql::ddl::parse(&statement.0)? {
                all.push(match step {
                    // A target that a person has dropped: its new copy takes the empty place.
                    Ddl::ReplaceTable { table, by, swap: false } if snapshot.table(&table).is_none() => {
                        Ddl::RenameTable { table: by, to: table.table }
                    }
                    step => step,
                });
            }
        }
        let named = || statements.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        self.warehouse.ddl(Some(label), all).await.map_err(|e| e.with("statement", named()))?;
        Ok(true)
    }

    /// All loads of a flush become visible together, and with them the parts of the transaction that it completes.
    async fn write(&self, flush: Flush) -> Result<()> {
        let (label, stage) = match flush.purpose {
            Purpose::Copy => (None, Stage::Whole),
            Purpose::Stream { writer, parts } => (Some(flush.label), Stage::Last { writer, parts }),
            Purpose::Part { writer, number } => (None, Stage::Part(Part { writer, number })),
        };
        let loads = flush.loads;
        if label.as_ref().is_some_and(|l| self.warehouse.label_state(l)) {
            return Ok(());
        }
        let snapshot = self.warehouse.snapshot();
        let writes = blocking(move || {
            let write = |load: &Load| {
                let missing = || Error::not_found(format!("table {} does not exist", load.target));
                let view = snapshot.table(&load.target).ok_or_else(missing);
                view.and_then(|v| stored(&v.table, load)).map_err(|e| e.with("table", &load.target))
            };
            loads.iter().map(write).collect::<Result<Vec<_>>>()
        })
        .await?;
        self.warehouse.commit_stage(label, writes, stage).await
    }

    fn holds_parts(&self) -> bool {
        true
    }

    async fn settle(&self, label: &Label, _intent: Option<&Intent>) -> Result<Settled> {
        Ok(if self.warehouse.label_state(label) { Settled::Done } else { Settled::NotDone })
    }

    async fn rows(
        &self,
        target: &TableName,
        schema: &Arc<TableSchema>,
        range: &KeyRange,
    ) -> Result<Box<dyn BatchStream>> {
        let snapshot = self.warehouse.snapshot();
        let view = snapshot.table(target).ok_or_else(|| Error::not_found(format!("table {target} does not exist")))?;
        let wanted = schema.columns.iter().map(|c| {
            let at = view.table.index_of(&c.name);
            at.ok_or_else(|| Error::schema(format!("column {} is not in {target}", c.name)))
        });
        let wanted = wanted.collect::<Result<Vec<_>>>()?;
        let bounds = Bounds::of(&view.table, range)?;
        Ok(Box::new(Rows::new(Arc::clone(view), wanted, bounds)))
    }
}

/// The rows with the target's columns and stored types.
fn stored(table: &Table, load: &Load) -> Result<TableWrite> {
    let (batch, rows) = (&load.rows, &load.rows.rows);
    let partial = batch.is_partial();
    let (mut fields, mut columns) = (Vec::new(), Vec::new());
    for column in &table.columns {
        let source = batch.schema.column(&column.name);
        let array = source.and_then(|s| rows.column_by_name(&s.name));
        let array = match (source, array) {
            (Some(source), Some(array)) => store(array, &source.data_type, column)?,
            // Rows that exist keep what they have in columns that only the target has.
            (_, None) if partial => continue,
            _ => default(column, rows.num_rows())?,
        };
        fields.push(Field::new(&column.name, array.data_type().clone(), true));
        columns.push(array);
    }
    if let Some(extra) = batch.schema.columns.iter().find(|c| table.index_of(&c.name).is_none()) {
        return Err(Error::schema(format!("the target has no column {}", extra.name)).with("column", &extra.name));
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    let stored = RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)
        .map_err(|e| Error::internal("stored columns differ in length").because(e))?;
    let partial = match partial {
        true => Some(Partial { bases: bases(table, batch)?, exact: load.exact }),
        false => None,
    };
    Ok(TableWrite { partial, ..TableWrite::new(table.name.clone(), stored, Some(batch.ops().clone())) })
}

/// The keys of the rows that absent columns come from, if the load says so.
fn bases(table: &Table, batch: &ChangeBatch) -> Result<Option<Vec<ArrayRef>>> {
    let base = |column: &TableColumn| {
        let source = batch.schema.column(&column.name)?;
        let array = batch.rows.column_by_name(&format!("{BASE_PREFIX}{}", source.name))?;
        Some(store(array, &source.data_type, column))
    };
    let bases: Vec<_> = table.key().iter().filter_map(base).collect::<Result<_>>()?;
    match bases.len() {
        0 => Ok(None),
        n if n == table.key_columns => Ok(Some(bases)),
        _ => Err(Error::internal("a load names a part of its base keys only")),
    }
}

/// A column that only the target has.
fn default(column: &TableColumn, rows: usize) -> Result<ArrayRef> {
    match &column.default {
        Some(freshet_core::DefaultValue::Literal(text)) => value::repeat(&value::parse(text, &column.data_type)?, rows),
        _ => Ok(arrow::array::new_null_array(&column.data_type.to_arrow(), rows)),
    }
}

/// Values of a source's column as the target column stores them.
fn store(array: &ArrayRef, source: &DataType, column: &TableColumn) -> Result<ArrayRef> {
    let target = column.data_type.to_arrow();
    if *array.data_type() == target && !narrower(source, &column.data_type) {
        return Ok(Arc::clone(array));
    }
    let refuse = || {
        Err(Error::schema(format!(
            "{source} cannot be stored exactly in column {} ({})",
            column.name, column.data_type
        ))
        .with("column", &column.name))
    };
    match (array.data_type(), &target) {
        (Arrow::Duration(TimeUnit::Microsecond), Arrow::Utf8) => {
            let digits = if let DataType::Time { digits } = source { *digits } else { 6 };
            let durations = array.as_primitive::<DurationMicrosecondType>();
            let (mut out, mut one) = (StringBuilder::new(), String::new());
            for value in durations {
                one.clear();
                value.into_iter().for_each(|micros| text::duration(micros, digits, &mut one));
                out.append_option(value.map(|_| one.as_str()));
            }
            Ok(Arc::new(out.finish()))
        }
        (Arrow::Decimal256(..), Arrow::Utf8) => text::render_ref(array, source),
        (Arrow::UInt64, Arrow::Decimal128(38, 0)) => {
            let values = array.as_primitive::<arrow::datatypes::UInt64Type>();
            let wide: arrow::array::Decimal128Array = values.iter().map(|v| v.map(i128::from)).collect();
            Ok(Arc::new(wide.with_data_type(target)))
        }
        (from, to) if widens(from, to) => value::cast(array, to).map_err(|e| e.with("column", &column.name)),
        (Arrow::Timestamp(..), Arrow::Timestamp(..)) => refuse(),
        // Whole numbers into a narrower column: fine for those that fit.
        (from, to) if from.is_integer() && to.is_integer() => {
            value::cast(array, to).map_err(|e| e.with("column", &column.name))
        }
        _ => refuse(),
    }
}

/// Whether equal Arrow types still lose digits.
fn narrower(source: &DataType, target: &DataType) -> bool {
    match (source, target) {
        (DataType::DateTime { digits: a }, DataType::DateTime { digits: b })
        | (DataType::Timestamp { digits: a }, DataType::Timestamp { digits: b }) => a > b,
        _ => false,
    }
}

/// Whether every value of one Arrow type is exactly a value of the other.
fn widens(from: &Arrow, to: &Arrow) -> bool {
    let bits = |t: &Arrow| -> Option<(bool, usize)> {
        let signed = t.is_signed_integer();
        (t.is_integer()).then(|| (signed, t.primitive_width().unwrap_or(0) * 8))
    };
    match (from, to) {
        (Arrow::Float32, Arrow::Float64) => true,
        (Arrow::Decimal128(p, s) | Arrow::Decimal256(p, s), Arrow::Decimal128(q, t) | Arrow::Decimal256(q, t)) => {
            t >= s && i16::from(*q) - i16::from(*t) >= i16::from(*p) - i16::from(*s)
        }
        (from, Arrow::Decimal128(p, 0)) if from.is_integer() => *p >= 20,
        (Arrow::Boolean, to) => to.is_integer(),
        _ => match (bits(from), bits(to)) {
            (Some((true, a)), Some((true, b))) => a <= b,
            (Some((false, a)), Some((true, b))) => a < b,
            _ => false,
        },
    }
}

/// Encoded bounds of the keys, upper one excluded; as far as the key's leading columns order here as at the source.
struct Bounds {
    from: Option<Vec<u8>>,
    to: Option<Vec<u8>>,
}

impl Bounds {
    fn of(table: &Table, range: &KeyRange) -> Result<Bounds> {
        let bound = |values: &Option<Vec<String>>| -> Result<Option<(Vec<u8>, bool)>> {
            let Some(values) = values else { return Ok(None) };
            let mut columns = Vec::new();
            for (column, text) in table.key().iter().zip(values) {
                if !comparable(&column.data_type) {
                    break;
                }
                columns.push(value::parse(text, &column.data_type).map_err(|e| e.with("column", &column.name))?);
            }
            if columns.is_empty() {
                return Ok(None);
            }
            let whole = columns.len() == values.len();
            Ok(Some((key::encode(&columns)?.get(0).to_vec(), whole)))
        };
        let from = bound(&range.from)?.map(|(key, _)| key);
        // Of a bound that is cut short all keys that begin like it belong to the range.
        let to = bound(&range.to)?.map(|(mut key, whole)| {
            if !whole {
                key.push(0xFF);
            }
            key
        });
        Ok(Bounds { from, to })
    }

    fn holds(&self, key: &[u8]) -> bool {
        self.from.as_ref().is_none_or(|f| key >= f.as_slice()) && self.to.as_ref().is_none_or(|t| key < t.as_slice())
    }
}

/// Types that every source orders like their encoded keys.
fn comparable(data_type: &DataType) -> bool {
    use DataType as T;
    matches!(
        data_type,
        T::Int8 | T::Int16 | T::Int32 | T::Int64 | T::Int128 | T::Decimal { .. } | T::Date | T::DateTime { .. }
    )
}

/// Live rows of a table in some columns, segment by segment, then the delta.
struct Rows {
    view: Arc<TableView>,
    wanted: Vec<usize>,
    bounds: Bounds,
    segment: usize,
    batches: Option<crate::storage::reader::Batches>,
    delta: Option<Vec<RecordBatch>>,
}

const BATCH_ROWS: usize = 8192;

impl Rows {
    fn new(view: Arc<TableView>, wanted: Vec<usize>, bounds: Bounds) -> Self {
        Rows { view, wanted, bounds, segment: 0, batches: None, delta: None }
    }

    fn next_blocking(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            if let Some(batches) = &mut self.batches {
                match batches.next().transpose()? {
                    Some(batch) => {
                        let column = |at: usize| value::column_of(&self.view.table.columns[at], &batch);
                        let batch = self.select(batch.num_rows(), column)?;
                        if batch.num_rows() > 0 {
                            return Ok(Some(batch));
                        }
                    }
                    None => self.batches = None,
                }
                continue;
            }
            if let Some(view) = self.view.segments.get(self.segment) {
                self.segment += 1;
                let meta = &view.segment.meta;
                let past = |bound: &Option<Vec<u8>>, key: &[u8]| bound.as_ref().is_some_and(|b| b.as_slice() <= key);
                let before = self.bounds.from.as_ref().is_some_and(|f| f.as_slice() > meta.max_key.as_slice());
                if view.live_rows() > 0 && !before && !past(&self.bounds.to, &meta.min_key) {
                    let selection = (!view.deletes.is_empty()).then(|| RowSelection::from_boolean_buffer(view.live()));
                    let columns = self.wanted.iter().copied().chain(0..self.view.table.key_columns);
                    let columns = columns.map(|at| &self.view.table.columns[at]);
                    let ids = value::stored_ids(columns, |id| view.has_column(id));
                    let ids = (!ids.is_empty()).then_some(ids.as_slice());
                    self.batches = Some(view.open()?.batches_of(ids, selection, BATCH_ROWS)?);
                }
                continue;
            }
            let delta = match &mut self.delta {
                Some(delta) => delta,
                None => self.delta.insert(self.view.delta()?),
            };
            let Some(batch) = delta.pop() else { return Ok(None) };
            let batch = self.select(batch.num_rows(), |at| Ok(Arc::clone(batch.column(at))))?;
            if batch.num_rows() > 0 {
                return Ok(Some(batch));
            }
        }
    }

    /// The rows within the bounds in the wanted columns.
    fn select(&self, rows: usize, column: impl Fn(usize) -> Result<ArrayRef>) -> Result<RecordBatch> {
        let fail = |e| Error::internal("cannot select rows").because(e);
        let schema = self.view.table.arrow_schema().project(&self.wanted).map_err(fail)?;
        let columns = self.wanted.iter().map(|at| column(*at)).collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let wanted = RecordBatch::try_new_with_options(Arc::new(schema), columns, &options).map_err(fail)?;
        if self.bounds.from.is_none() && self.bounds.to.is_none() {
            return Ok(wanted);
        }
        let keys: Keys = key::encode(&(0..self.view.table.key_columns).map(column).collect::<Result<Vec<_>>>()?)?;
        let inside: BooleanArray = (0..keys.len()).map(|i| Some(self.bounds.holds(keys.get(i)))).collect();
        filter_record_batch(&wanted, &inside).map_err(fail)
    }
}

#[async_trait]
impl BatchStream for Rows {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        let empty = Bounds { from: None, to: None };
        let mine = Rows::new(Arc::clone(&self.view), Vec::new(), empty);
        let mut moved = std::mem::replace(self, mine);
        let (moved, batch) = blocking(move || {
            let batch = moved.next_blocking()?;
            Ok((moved, batch))
        })
        .await?;
        *self = moved;
        Ok(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{
        DurationMicrosecondArray, Int8Array, Int32Array, TimestampMicrosecondArray, UInt8Array, UInt64Array,
    };
    use arrow::datatypes::Int32Type;
    use freshet_core::{Column, ErrorKind, Writer};

    use crate::catalog::{ColumnDef, Ddl, Model, TableDef};
    use crate::storage::engine::Options;

    fn target(types: &[(&str, DataType)]) -> Vec<Ddl> {
        let column = |(name, data_type): &(&str, DataType)| ColumnDef {
            name: (*name).into(),
            data_type: data_type.clone(),
            nullable: *name != "k",
            default: None,
            comment: String::new(),
            bytes: None,
        };
        let table = TableDef {
            name: TableName::new("d", "t"),
            columns: types.iter().map(column).collect(),
            model: Model::Unique,
            key: vec!["k".into()],
            comment: String::new(),
        };
        vec![
            Ddl::CreateDatabase { name: "d".into(), if_not_exists: false },
            Ddl::CreateTable { table, if_not_exists: false },
        ]
    }

    fn flush(label: &str, columns: Vec<(&str, DataType, ArrayRef)>, purpose: Purpose) -> Flush {
        let n = columns[0].2.len();
        let schema = TableSchema {
            name: TableName::new("s", "t"),
            columns: columns.iter().map(|(n, t, _)| Column::new(*n, t.clone())).collect(),
            key: vec!["k".into()],
            comment: String::new(),
            source_defaults: String::new(),
        };
        let arrays = columns.into_iter().map(|(_, _, a)| a).collect();
        let rows = ChangeBatch::new(Arc::new(schema), arrays, Int8Array::from(vec![0; n])).unwrap();
        let load = Load { target: TableName::new("d", "t"), label: Label(label.into()), rows, exact: true };
        Flush { label: Label(label.into()), loads: vec![load], purpose }
    }

    fn stream() -> Purpose {
        Purpose::Stream { writer: Writer { job: "j".into(), incarnation: 1, lane: 0 }, parts: 0 }
    }

    async fn sink(types: &[(&str, DataType)]) -> (tempfile::TempDir, WarehouseSink) {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { background: false, ..Options::default() };
        let warehouse = Warehouse::open(dir.path(), options).await.unwrap();
        warehouse.ddl(None, target(types)).await.unwrap();
        (dir, WarehouseSink::new(warehouse))
    }

    #[tokio::test]
    async fn values_are_stored_exactly_and_come_back() {
        let (_dir, sink) = sink(&[("k", DataType::Int16), ("big", DataType::Int128), ("t", DataType::TEXT)]).await;
        let columns = || -> Vec<(&str, DataType, ArrayRef)> {
            vec![
                ("k", DataType::UInt8, Arc::new(UInt8Array::from(vec![1, 255]))),
                ("big", DataType::UInt64, Arc::new(UInt64Array::from(vec![Some(u64::MAX), None]))),
                ("t", DataType::Time { digits: 1 }, Arc::new(DurationMicrosecondArray::from(vec![-3_600_100_000, 0]))),
            ]
        };
        sink.write(flush("a", columns(), stream())).await.unwrap();
        sink.write(flush("a", columns(), stream())).await.unwrap();
        assert_eq!(sink.settle(&Label("a".into()), None).await.unwrap(), Settled::Done);
        assert_eq!(sink.settle(&Label("b".into()), None).await.unwrap(), Settled::NotDone);

        let schema = flush("x", columns(), Purpose::Copy).loads[0].rows.schema.clone();
        let range = KeyRange { from: Some(vec!["1".into()]), to: Some(vec!["255".into()]) };
        let mut rows = sink.rows(&TableName::new("d", "t"), &schema, &range).await.unwrap();
        let batch = rows.next().await.unwrap().unwrap();
        assert!(rows.next().await.unwrap().is_none());
        let text = |i: usize| text::render(batch.column(i), &schema.columns[i].data_type).unwrap().value(0).to_string();
        assert_eq!(
            (batch.num_rows(), text(0), text(1), text(2)),
            (1, "1".into(), u64::MAX.to_string(), "-01:00:00.1".into())
        );
    }

    /// Segments of before hold columns under former ids, or not at all.
    #[tokio::test]
    async fn a_part_of_the_columns_over_changed_definitions() {
        let (_dir, sink) = sink(&[("k", DataType::Int32), ("v", DataType::Int32), ("w", DataType::TEXT)]).await;
        let numbers = |of: [i32; 2]| -> ArrayRef { Arc::new(Int32Array::from(of.to_vec())) };
        let columns = vec![
            ("k", DataType::Int32, numbers([1, 2])),
            ("v", DataType::Int32, numbers([10, 20])),
            ("w", DataType::TEXT, Arc::new(arrow::array::StringArray::from(vec!["a", "b"])) as ArrayRef),
        ];
        sink.write(flush("a", columns, stream())).await.unwrap();
        sink.warehouse.flush().await.unwrap();
        let table = TableName::new("d", "t");
        let after = |name: &str, data_type: DataType| ColumnDef {
            name: name.into(),
            data_type,
            nullable: name != "k",
            default: None,
            comment: String::new(),
            bytes: None,
        };
        let modify = |name: &str| Ddl::ModifyColumn {
            table: table.clone(),
            column: after(name, DataType::Int64),
            position: None,
        };
        let add = Ddl::AddColumn {
            table: table.clone(),
            column: after("n", DataType::Int32),
            position: freshet_core::ColumnPosition::Last,
        };
        sink.warehouse.ddl(None, vec![modify("k"), modify("v"), add]).await.unwrap();
        for (wanted, expected) in
            [(vec!["k"], "1;2"), (vec!["v", "k"], "10,1;20,2"), (vec!["n"], "_;_"), (vec!["w", "n"], "a,_;b,_")]
        {
            for from in [None, Some(vec!["2".to_string()])] {
                let types =
                    [("k", DataType::Int64), ("v", DataType::Int64), ("w", DataType::TEXT), ("n", DataType::Int32)];
                let column = |name: &&str| {
                    let (name, data_type) = types.iter().find(|(n, _)| n == name).unwrap();
                    Column::new(*name, data_type.clone())
                };
                let schema = TableSchema {
                    name: table.clone(),
                    columns: wanted.iter().map(column).collect(),
                    key: vec!["k".into()],
                    comment: String::new(),
                    source_defaults: String::new(),
                };
                let schema = Arc::new(schema);
                let range = KeyRange { from: from.clone(), to: None };
                let mut rows = sink.rows(&table, &schema, &range).await.unwrap();
                let mut found = Vec::new();
                while let Some(batch) = rows.next().await.unwrap() {
                    let texts: Vec<_> = batch
                        .columns()
                        .iter()
                        .zip(&schema.columns)
                        .map(|(array, c)| text::render(array, &c.data_type).unwrap())
                        .collect();
                    found.extend((0..batch.num_rows()).map(|row| {
                        let value =
                            |t: &arrow::array::StringArray| if t.is_null(row) { "_" } else { t.value(row) }.to_string();
                        texts.iter().map(value).collect::<Vec<_>>().join(",")
                    }));
                }
                let expected = if from.is_some() { expected.split_once(';').unwrap().1 } else { expected };
                assert_eq!(found.join(";"), expected, "{wanted:?}");
            }
        }
    }

    #[tokio::test]
    async fn what_does_not_fit_is_an_error_that_names_table_and_column() {
        let (_dir, sink) = sink(&[("k", DataType::Int8), ("at", DataType::DateTime { digits: 0 })]).await;
        let fine: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![0]));
        let key = |k: u8| -> ArrayRef { Arc::new(UInt8Array::from(vec![k])) };
        let at = |digits| ("at", DataType::DateTime { digits }, Arc::clone(&fine));
        for (columns, kind) in [
            (vec![("k", DataType::UInt8, key(200)), at(0)], ErrorKind::Data),
            (vec![("k", DataType::UInt8, key(1)), at(6)], ErrorKind::Schema),
            (vec![("k", DataType::UInt8, key(1)), at(0), ("x", DataType::UInt8, key(1))], ErrorKind::Schema),
        ] {
            let error = sink.write(flush("a", columns, stream())).await.unwrap_err();
            assert_eq!(error.kind, kind, "{error}");
            let names: Vec<_> = error.context.iter().map(|(k, _)| k.as_str()).collect();
            assert!(names.contains(&"table") && names.contains(&"column"), "{error}");
        }
        sink.write(flush("a", vec![("k", DataType::UInt8, key(7)), at(0)], stream())).await.unwrap();
    }

    fn int_schema(columns: &[&str], key: &[&str]) -> Arc<TableSchema> {
        Arc::new(TableSchema {
            name: TableName::new("s", "t"),
            columns: columns.iter().map(|c| Column::new(*c, DataType::Int32)).collect(),
            key: key.iter().map(|k| (*k).to_string()).collect(),
            comment: String::new(),
            source_defaults: String::new(),
        })
    }

    /// Rows of some columns, the operation in front.
    fn load(schema: &Arc<TableSchema>, names: &[&str], rows: &[(i8, &[i32])]) -> Load {
        let column = |i: usize| -> ArrayRef { Arc::new(rows.iter().map(|r| r.1[i]).collect::<Int32Array>()) };
        let mut fields: Vec<_> = names.iter().map(|n| Field::new(*n, Arrow::Int32, true)).collect();
        fields.push(Field::new(freshet_core::batch::OP_COLUMN, Arrow::Int8, false));
        let mut columns: Vec<ArrayRef> = (0..names.len()).map(column).collect();
        columns.push(Arc::new(rows.iter().map(|r| r.0).collect::<Int8Array>()));
        let rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
        let rows = ChangeBatch { schema: Arc::clone(schema), rows };
        Load { target: TableName::new("d", "t"), label: Label("l".into()), rows, exact: true }
    }

    async fn contents(sink: &WarehouseSink, schema: &Arc<TableSchema>) -> Vec<Vec<i32>> {
        let mut stream = sink.rows(&TableName::new("d", "t"), schema, &KeyRange::default()).await.unwrap();
        let mut out = Vec::new();
        while let Some(batch) = stream.next().await.unwrap() {
            let value = |c: usize, row| batch.column(c).as_primitive::<Int32Type>().value(row);
            out.extend((0..batch.num_rows()).map(|row| (0..batch.num_columns()).map(|c| value(c, row)).collect()));
        }
        out.sort();
        out
    }

    #[tokio::test]
    async fn absent_columns_come_from_their_bases_and_parts_appear_at_the_end() {
        let (_dir, sink) = sink(&[("k", DataType::Int32), ("a", DataType::Int32), ("b", DataType::Int32)]).await;
        let schema = int_schema(&["k", "a", "b"], &["k"]);
        let write = |label: &str, loads, purpose| {
            let flush = Flush { label: Label(label.into()), loads, purpose };
            sink.write(flush)
        };
        let rows: &[(i8, &[i32])] = &[(0, &[1, 10, 100]), (0, &[2, 20, 200]), (0, &[3, 30, 300])];
        write("1", vec![load(&schema, &["k", "a", "b"], rows)], stream()).await.unwrap();
        // 1 and 2 swap their keys, 3 moves to 4, and each has one column changed.
        let loads = vec![
            load(&schema, &["k", "a", "__base.k"], &[(0, &[2, 11, 1]), (0, &[4, 31, 3])]),
            load(&schema, &["k", "b", "__base.k"], &[(0, &[1, 201, 2])]),
            load(&schema, &["k"], &[(1, &[3])]),
        ];
        write("2", loads, stream()).await.unwrap();
        let all = contents(&sink, &schema).await;
        assert_eq!(all, [[1, 20, 201], [2, 11, 100], [4, 31, 300]]);

        let writer = Writer { job: "j".into(), incarnation: 1, lane: 0 };
        let part = |number| Purpose::Part { writer: writer.clone(), number };
        write("3", vec![load(&schema, &["k", "a", "b"], &[(0, &[9, 90, 900]), (1, &[1, 0, 0])])], part(0))
            .await
            .unwrap();
        write("4", vec![load(&schema, &["k", "a"], &[(0, &[9, 91])])], part(1)).await.unwrap();
        assert_eq!(contents(&sink, &schema).await, all);
        let end = Purpose::Stream { writer: writer.clone(), parts: 2 };
        write("5", vec![load(&schema, &["k", "b"], &[(0, &[9, 901]), (0, &[2, 101])])], end).await.unwrap();
        assert_eq!(contents(&sink, &schema).await, [[2, 11, 101], [4, 31, 300], [9, 91, 901]]);

        // What a transaction that is begun again had put aside is dropped.
        write("6", vec![load(&schema, &["k"], &[(1, &[2])])], part(0)).await.unwrap();
        write("7", vec![load(&schema, &["k"], &[(1, &[4])])], stream()).await.unwrap();
        assert_eq!(contents(&sink, &schema).await, [[2, 11, 101], [9, 91, 901]]);
    }

    #[tokio::test]
    async fn a_table_without_a_key_is_a_multiset() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { background: false, ..Options::default() };
        let sink = WarehouseSink::new(Warehouse::open(dir.path(), options).await.unwrap());
        let schema = int_schema(&["a", "b"], &[]);
        let target = TableName::new("d", "t");
        let apply = async |label: &str, change: TableChange, after: &TableSchema| {
            for (i, statement) in sink.plan(&target, &change, Some(after)).unwrap().iter().enumerate() {
                sink.apply(&Label(format!("{label}{i}")), statement).await.unwrap();
            }
        };
        apply("create", TableChange::CreateTable(schema.as_ref().clone()), &schema).await;
        let write = |label: &str, schema: &Arc<TableSchema>, names: &[&str], rows: &[(i8, &[i32])]| {
            let loads = vec![load(schema, names, rows)];
            sink.write(Flush { label: Label(label.into()), loads, purpose: stream() })
        };
        let all = ["a", "b"];
        write("1", &schema, &all, &[(0, &[1, 1]), (0, &[1, 1]), (0, &[1, 1]), (1, &[1, 1]), (0, &[2, 2])])
            .await
            .unwrap();
        assert_eq!(contents(&sink, &schema).await, [[1, 1], [1, 1], [2, 2]]);
        write("2", &schema, &all, &[(1, &[1, 1])]).await.unwrap();
        let error = write("3", &schema, &all, &[(1, &[2, 2]), (1, &[1, 1]), (1, &[1, 1])]).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Data);
        assert!(error.context.iter().any(|(k, v)| k == "table" && v == "d.t"), "{error}");
        assert_eq!(contents(&sink, &schema).await, [[1, 1], [2, 2]]);
        let (drop, left) = (TableChange::DropColumn { name: "a".into() }, int_schema(&["b"], &[]));
        apply("drop", drop, &left).await;
        write("4", &left, &["b"], &[(0, &[1]), (1, &[1]), (1, &[1])]).await.unwrap();
        assert_eq!(contents(&sink, &left).await, [[2]]);
    }
}
