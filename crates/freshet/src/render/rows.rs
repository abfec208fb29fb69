//! Results of queries as text: what `sql` and `demo` print, and what goes over the control socket.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType as Arrow, Field, Float32Type, Float64Type, Schema};
use freshet_core::text::render_value;
use freshet_core::{DataType, Result};
use freshet_warehouse::sql::TYPE_KEY;
use serde::{Deserialize, Serialize};

use super::count;
use super::table::table;

/// The answer to one statement.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ResultSet {
    /// Names of the columns; none for a statement that answers no rows.
    pub(crate) columns: Vec<String>,
    /// The rows; every value as text.
    pub(crate) rows: Vec<Vec<Option<String>>>,
    /// Whether rows were left out.
    #[serde(default)]
    pub(crate) truncated: bool,
    /// Rows that a statement changed.
    #[serde(default)]
    pub(crate) affected: u64,
    /// A word for people.
    #[serde(default)]
    pub(crate) info: String,
    /// Which columns hold numbers.
    #[serde(default)]
    numeric: Vec<bool>,
    /// Digits of fractions of seconds, by column.
    #[serde(skip)]
    digits: Vec<u8>,
}

impl ResultSet {
    /// An empty one with these columns.
    pub(crate) fn new(schema: &Schema) -> ResultSet {
        let fields = || schema.fields().iter();
        ResultSet {
            columns: fields().map(|f| f.name().clone()).collect(),
            numeric: fields().map(|f| f.data_type().is_numeric()).collect(),
            digits: fields().map(|f| digits(f)).collect(),
            ..ResultSet::default()
        }
    }

    /// Of a statement without rows.
    pub(crate) fn done(affected: u64, info: String) -> ResultSet {
        ResultSet { affected, info, ..ResultSet::default() }
    }
}

/// Fractional digits of a column of times: those of its Doris type, six when it says nothing.
fn digits(field: &Field) -> u8 {
    let named = field.metadata().get(TYPE_KEY).map(String::as_str).unwrap_or_default();
    let Some((name, rest)) = named.split_once('(') else { return if named.starts_with("datetime") { 0 } else { 6 } };
    if !(name.starts_with("datetime") || name.starts_with("timestamp")) {
        return 6;
    }
    rest.trim_end_matches(')').parse().unwrap_or(6)
}

/// Appends a batch, up to `limit` rows in all.
///
/// # Errors
/// `Internal` for a type that has no text.
pub(crate) fn append(set: &mut ResultSet, batch: &RecordBatch, limit: usize) -> Result<()> {
    for row in 0..batch.num_rows() {
        if set.rows.len() == limit {
            set.truncated = true;
            return Ok(());
        }
        let values = batch.columns().iter().zip(&set.digits);
        let values = values.map(|(column, digits)| value(column.as_ref(), row, *digits)).collect::<Result<_>>()?;
        set.rows.push(values);
    }
    Ok(())
}

fn value(array: &dyn Array, row: usize, digits: u8) -> Result<Option<String>> {
    if array.is_null(row) {
        return Ok(None);
    }
    let mut out = String::new();
    match array.data_type() {
        Arrow::Null => return Ok(None),
        Arrow::Float32 => out = array.as_primitive::<Float32Type>().value(row).to_string(),
        Arrow::Float64 => out = array.as_primitive::<Float64Type>().value(row).to_string(),
        Arrow::LargeUtf8 => out.push_str(array.as_string::<i64>().value(row)),
        Arrow::Timestamp(..) => render_value(array, row, &DataType::DateTime { digits }, &mut out)?,
        _ => render_value(array, row, &DataType::TEXT, &mut out)?,
    }
    Ok(Some(out))
}

/// For people at a terminal: a table and the number of rows.
pub(crate) fn as_table(set: &ResultSet) -> String {
    if set.columns.is_empty() {
        let rows = if set.affected == 1 { "row" } else { "rows" };
        return format!("done, {} {rows} affected {}\n", count(set.affected), set.info).replace(" \n", "\n");
    }
    let head: Vec<&str> = set.columns.iter().map(String::as_str).collect();
    let numbers: Vec<&str> = head.iter().zip(&set.numeric).filter(|(_, n)| **n).map(|(h, _)| *h).collect();
    let rows = set.rows.iter().map(|r| r.iter().map(|v| v.clone().unwrap_or_else(|| "NULL".into())).collect());
    format!("{}{}\n", table(&head, &numbers, rows), summary(set))
}

fn summary(set: &ResultSet) -> String {
    let rows = if set.rows.len() == 1 { "row" } else { "rows" };
    let more = if set.truncated { ", and more; a MySQL client shows all" } else { "" };
    format!("{} {rows}{more}", count(set.rows.len() as u64))
}

/// For programs: a head and rows, separated by tabs; tabs and line ends inside values are escaped.
pub(crate) fn as_lines(set: &ResultSet) -> String {
    if set.columns.is_empty() {
        return String::new();
    }
    let escape = |v: &str| v.replace('\\', "\\\\").replace('\t', "\\t").replace('\n', "\\n");
    let mut out = set.columns.iter().map(|c| escape(c)).collect::<Vec<_>>().join("\t");
    out.push('\n');
    for row in &set.rows {
        let values: Vec<String> = row.iter().map(|v| v.as_deref().map_or("NULL".into(), escape)).collect();
        out.push_str(&values.join("\t"));
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray};
    use std::sync::Arc;

    #[test]
    fn both_forms() {
        let fields = vec![
            Field::new("n", Arrow::Int64, true),
            Field::new("t", Arrow::Utf8, true),
            Field::new("f", Arrow::Float64, true),
            Field::new("at", Arrow::Timestamp(arrow::datatypes::TimeUnit::Microsecond, None), true)
                .with_metadata([(TYPE_KEY.to_string(), "datetime(3)".to_string())].into()),
        ];
        let schema = Arc::new(Schema::new(fields));
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(vec![1, 1000])),
            Arc::new(StringArray::from(vec![Some("a\tb"), None])),
            Arc::new(Float64Array::from(vec![1.5, 2.0])),
            Arc::new(TimestampMicrosecondArray::from(vec![0, 1_500_000])),
        ];
        let mut set = ResultSet::new(&schema);
        append(&mut set, &RecordBatch::try_new(schema, columns).unwrap(), 100).unwrap();
        assert_eq!(
            as_lines(&set),
            "n\tt\tf\tat\n1\ta\\tb\t1.5\t1970-01-01 00:00:00.000\n1000\tNULL\t2\t1970-01-01 00:00:01.500\n"
        );
        assert!(as_table(&set).ends_with("2 rows\n"));
        assert_eq!(as_table(&ResultSet::done(1, String::new())), "done, 1 row affected\n");
        let copy: ResultSet = serde_json::from_value(serde_json::to_value(&set).unwrap()).unwrap();
        assert_eq!(copy.rows, set.rows);
    }
}
