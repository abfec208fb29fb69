//! Changes, columnar. A [`ChangeBatch`] is what a source decodes its wire format into and what a sink writes; there is
//! no row object in between.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int8Array, RecordBatch};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{DataType as Arrow, Field, Schema};

use crate::error::{Error, Result};
use crate::schema::TableSchema;

/// Name of the operation column, the last one of every change batch.
pub const OP_COLUMN: &str = "__op";
/// The row is there with these values.
pub const OP_UPSERT: i8 = 0;
/// The row with this key is gone (table without a key: one row with these values).
pub const OP_DELETE: i8 = 1;
/// Tables with a key: the row with this key moves to the key of the very next row of the batch, an upsert, which takes
/// the values of the columns that the batch lacks from it. Only in batches with absent columns; the engine's buffer
/// resolves it, sinks never see it.
pub const OP_MOVE: i8 = 2;
/// Begin of the names of the columns in which a load with absent columns says where their values come from: one per
/// column of the key, between the data and [`OP_COLUMN`]. Without them each row takes them from its own key.
pub const BASE_PREFIX: &str = "__base.";

/// Rows of one table in one schema version, in the source's order.
///
/// `rows` holds a subset of the table's columns (all of them but for partial row images), in the table's order, every
/// field nullable, then [`OP_COLUMN`] as `Int8`. A column that the source did not send is absent from the batch, never
/// filled with a guess: the upserts of a batch with absent columns are updates of rows that exist and leave those
/// columns as they are. (What an *insert* did not say is the column's default, and the source fills it in.) The key's
/// columns are always there. In a delete from a table with a key only the key's columns mean something; a table without
/// a key is a multiset, its batches have all columns, and a delete removes exactly one row with these values.
#[derive(Debug, Clone)]
pub struct ChangeBatch {
    /// The table's schema in force at these rows.
    pub schema: Arc<TableSchema>,
    /// The rows.
    pub rows: RecordBatch,
}

impl ChangeBatch {
    /// From data columns in the table's order and the operations.
    ///
    /// # Errors
    /// `Internal` when columns and schema don't fit.
    pub fn new(schema: Arc<TableSchema>, mut columns: Vec<ArrayRef>, ops: Int8Array) -> Result<Self> {
        columns.push(Arc::new(ops));
        let rows = RecordBatch::try_new(Arc::new(arrow_schema(&schema)), columns).map_err(|e| {
            Error::internal("decoded columns do not fit the table").with("table", &schema.name).because(e)
        })?;
        Ok(ChangeBatch { schema, rows })
    }

    /// Of a part of the table's columns: `present` are their ordinals, in the table's order.
    ///
    /// # Errors
    /// `Internal` when columns and schema don't fit.
    pub fn partial(
        schema: Arc<TableSchema>,
        present: &[usize],
        mut columns: Vec<ArrayRef>,
        ops: Int8Array,
    ) -> Result<Self> {
        let all = schema.arrow_fields();
        let mut fields: Vec<Field> = present.iter().filter_map(|i| all.get(*i).cloned()).collect();
        fields.push(Field::new(OP_COLUMN, Arrow::Int8, false));
        columns.push(Arc::new(ops));
        let rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(|e| {
            Error::internal("decoded columns do not fit the table").with("table", &schema.name).because(e)
        })?;
        Ok(ChangeBatch { schema, rows })
    }

    /// Whether columns of the table are absent.
    pub fn is_partial(&self) -> bool {
        self.schema.columns.iter().any(|c| self.rows.schema_ref().index_of(&c.name).is_err())
    }

    /// The operations.
    pub fn ops(&self) -> &Int8Array {
        let last = self.rows.num_columns() - 1;
        self.rows.column(last).as_any().downcast_ref::<Int8Array>().expect("the last column is the operation")
    }

    /// Bytes that the batch holds in memory.
    pub fn bytes(&self) -> usize {
        self.rows.columns().iter().map(|c| c.get_array_memory_size()).sum()
    }
}

/// The Arrow schema of a full change batch of this table.
pub fn arrow_schema(table: &TableSchema) -> Schema {
    let mut fields = table.arrow_fields();
    fields.push(Field::new(OP_COLUMN, Arrow::Int8, false));
    Schema::new(fields)
}

/// One batch of batches with the same columns, in order.
///
/// # Errors
/// `Internal` when they differ in schema.
pub fn concat(batches: &[ChangeBatch]) -> Result<ChangeBatch> {
    let first = batches.first().ok_or_else(|| Error::internal("no batches to concatenate"))?;
    if batches.len() == 1 {
        return Ok(first.clone());
    }
    let rows = concat_batches(&first.rows.schema(), batches.iter().map(|b| &b.rows))
        .map_err(|e| Error::internal("change batches differ in schema").with("table", &first.schema.name).because(e))?;
    Ok(ChangeBatch { schema: Arc::clone(&first.schema), rows })
}

/// The rows at these places.
///
/// # Errors
/// `Internal` when a place is out of range.
pub fn take(batch: &RecordBatch, places: &arrow::array::UInt32Array) -> Result<RecordBatch> {
    take_record_batch(batch, places).map_err(|e| Error::internal("cannot take rows of a batch").because(e))
}
