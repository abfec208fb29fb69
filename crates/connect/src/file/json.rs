//! Changes as lines of JSON. Numbers that every reader holds exactly (64 bits, floats) are JSON numbers, documents stay
//! documents, everything else is its canonical text.

use arrow::array::Array;
use freshet_core::batch::OP_DELETE;
use freshet_core::text::render_value;
use freshet_core::{ChangeBatch, DataType, Label, Result, Statement, TableName, TableSchema};
use serde::de::IgnoredAny;

/// Appends `{"op":…,"table":…,"key":{…},"row":{…},"label":…}` and a line's end for every change.
pub(super) fn changes(target: &TableName, batch: &ChangeBatch, label: &Label, out: &mut String) -> Result<()> {
    let schema = &batch.schema;
    let fields = batch.rows.schema();
    let columns: Vec<usize> = (0..batch.rows.num_columns() - 1).collect();
    let key: Vec<usize> = schema.key.iter().filter_map(|k| fields.index_of(k).ok()).collect();
    let (table, label) = (string(&target.to_string()), string(&label.0));
    let ops = batch.ops();
    for row in 0..batch.rows.num_rows() {
        let delete = ops.value(row) == OP_DELETE;
        out.push_str(&format!("{{\"op\":\"{}\",\"table\":{table}", if delete { "delete" } else { "upsert" }));
        if !key.is_empty() {
            out.push_str(",\"key\":");
            object(schema, batch, &key, row, out)?;
        }
        if !delete || key.is_empty() {
            out.push_str(",\"row\":");
            object(schema, batch, &columns, row, out)?;
        }
        out.push_str(&format!(",\"label\":{label}}}\n"));
    }
    Ok(())
}

/// `{"op":"statement","statement":…,"label":…}` and a line's end.
pub(super) fn statement(statement: &Statement, label: &Label) -> String {
    format!("{{\"op\":\"statement\",\"statement\":{},\"label\":{}}}\n", string(&statement.0), string(&label.0))
}

fn object(schema: &TableSchema, batch: &ChangeBatch, columns: &[usize], row: usize, out: &mut String) -> Result<()> {
    let fields = batch.rows.schema();
    out.push('{');
    for (i, column) in columns.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        let name = fields.field(*column).name();
        out.push_str(&string(name));
        out.push(':');
        let data_type = schema.column(name).map_or(DataType::TEXT, |c| c.data_type.clone());
        value(batch.rows.column(*column).as_ref(), row, &data_type, out)?;
    }
    out.push('}');
    Ok(())
}

fn value(array: &dyn Array, row: usize, data_type: &DataType, out: &mut String) -> Result<()> {
    if array.is_null(row) {
        out.push_str("null");
        return Ok(());
    }
    let mut text = String::new();
    render_value(array, row, data_type, &mut text)?;
    match data_type {
        DataType::Boolean => out.push_str(if text == "1" { "true" } else { "false" }),
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => out.push_str(&text),
        DataType::UInt8 | DataType::UInt16 | DataType::UInt32 | DataType::UInt64 => out.push_str(&text),
        DataType::Float32 | DataType::Float64 | DataType::Json if is_json(&text) => out.push_str(&text),
        _ => out.push_str(&string(&text)),
    }
    Ok(())
}

/// Whether the text is one JSON value without line ends (NaN and infinity are not).
fn is_json(text: &str) -> bool {
    !text.contains(['\n', '\r']) && serde_json::from_str::<IgnoredAny>(text).is_ok()
}

fn string(text: &str) -> String {
    serde_json::Value::String(text.into()).to_string()
}
