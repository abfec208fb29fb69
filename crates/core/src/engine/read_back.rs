//! Rows that were moved to another key and do not say all of their columns, behind a copy: what they lack cannot be
//! looked up in the target, which may hold a later life of the old key. They are read from the source as they are now;
//! the table is then equal to the source only once the lane has passed what was read.

use std::collections::HashSet;
use std::iter::repeat_n;
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, Int8Array, RecordBatch, StringArray, UInt32Array, new_null_array};
use arrow::compute::{CastOptions, cast_with_options, concat, concat_batches};
use arrow::datatypes::{DataType as Arrow, Field, Schema};

use crate::batch::{BASE_PREFIX, ChangeBatch, OP_DELETE, OP_UPSERT, take};
use crate::engine::fold::{KeyCodec, key_columns};
use crate::engine::lane::Context;
use crate::error::{Error, Result};
use crate::position::Position;
use crate::schema::TableSchema;
use crate::text::unhex;

/// Keys that are asked for at a time.
const KEYS: usize = 1000;

/// Replaces loads that need a base by whole rows and deletes. Returns the log's end behind the reads, if there were any.
pub(crate) async fn read_back(context: &Context, loads: &mut [ChangeBatch]) -> Result<Option<Position>> {
    let mut read = false;
    for load in loads.iter_mut().filter(|l| needs_base(l)) {
        *load = rows_now(context, &load.schema, &load.rows).await?;
        read = true;
    }
    if !read {
        return Ok(None);
    }
    Ok(Some(context.source.end(None).await?.position))
}

fn needs_base(load: &ChangeBatch) -> bool {
    load.rows.schema_ref().fields().iter().any(|f| f.name().starts_with(BASE_PREFIX))
}

/// The rows of these keys as the source has them now; keys that are gone as deletes. `keys` holds at least the key's
/// columns.
pub(crate) async fn rows_now(context: &Context, schema: &Arc<TableSchema>, keys: &RecordBatch) -> Result<ChangeBatch> {
    // Everything that the log held when this was read must be visible to the SELECT.
    let low = context.source.end(None).await?.position;
    let fail = |e| Error::internal("cannot put keys together").with("table", &schema.name).because(e);
    let fields: Vec<_> = schema.key_indexes().into_iter().map(|i| schema.arrow_fields()[i].clone()).collect();
    let wanted = RecordBatch::try_new(Arc::new(Schema::new(fields)), key_columns(schema, keys)?).map_err(fail)?;
    let mut whole = Vec::new();
    for from in (0..wanted.num_rows()).step_by(KEYS) {
        let some = wanted.slice(from, KEYS.min(wanted.num_rows() - from));
        whole.push(context.source.rows_of(schema, &some, &low).await?);
    }
    let found = concat_batches(&Arc::new(Schema::new(schema.arrow_fields())), &whole)
        .map_err(|e| Error::internal("rows that were read back do not fit the table").because(e))?;
    let codec = KeyCodec::new(schema)?;
    let there = codec.encode(&key_columns(schema, &found)?)?;
    let there: HashSet<Vec<u8>> = there.iter().map(|r| r.data().to_vec()).collect();
    let gone = codec.encode(wanted.columns())?;
    let gone = gone.iter().enumerate().filter(|(_, key)| !there.contains(key.data())).map(|(place, _)| place as u32);
    let deleted = take(&wanted, &UInt32Array::from_iter_values(gone))?;
    let columns: Vec<ArrayRef> = schema
        .columns
        .iter()
        .zip(found.columns())
        .map(|(column, there)| {
            let gone = deleted.column_by_name(&column.name).cloned();
            let gone = gone.unwrap_or_else(|| new_null_array(there.data_type(), deleted.num_rows()));
            concat(&[there.as_ref(), gone.as_ref()]).map_err(fail)
        })
        .collect::<Result<_>>()?;
    let ops = repeat_n(OP_UPSERT, found.num_rows()).chain(repeat_n(OP_DELETE, deleted.num_rows()));
    ChangeBatch::new(Arc::clone(schema), columns, Int8Array::from_iter_values(ops))
}

/// Keys, given as canonical text, as the source's types.
///
/// # Errors
/// `Unsupported` when there is no key, or its text cannot be read back.
pub(crate) fn keys_of(schema: &TableSchema, keys: &[&[String]]) -> Result<RecordBatch> {
    let cannot =
        |what: &str| Error::unsupported(format!("{what} cannot be read one by one")).with("table", &schema.name);
    if !schema.has_key() {
        return Err(cannot("rows of a table without a key"));
    }
    let all = schema.arrow_fields();
    let (mut fields, mut arrays) = (Vec::<Field>::new(), Vec::<ArrayRef>::new());
    for (place, k) in schema.key_indexes().into_iter().enumerate() {
        let texts: StringArray = keys.iter().map(|key| key.get(place)).collect();
        let options = CastOptions { safe: false, ..Default::default() };
        let array: ArrayRef = match all[k].data_type() {
            Arrow::Binary => {
                let bytes: Option<Vec<_>> = texts.iter().map(|t| unhex(t?)).collect();
                Arc::new(BinaryArray::from_iter_values(bytes.ok_or_else(|| cannot("keys of this type"))?))
            }
            to => cast_with_options(&texts, to, &options).map_err(|e| cannot("keys of this type").because(e))?,
        };
        fields.push(all[k].clone());
        arrays.push(array);
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).map_err(|e| cannot("keys of this type").because(e))
}
