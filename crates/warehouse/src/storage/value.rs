//! Conversions of stored values: which type changes keep every value, how an old row gets the value of a column that
//! came later, and how rows that were written with an older definition become rows of the current one.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BinaryArray, RecordBatch, RecordBatchOptions, StringArray, new_null_array};
use arrow::compute::{CastOptions, cast_with_options, take};
use freshet_core::{DataType, DefaultValue, Error, Result, text};

use crate::catalog::{ColumnDef, Former, Table, TableColumn};

/// Whether values of the type have an order, so that it can be part of a key.
pub fn orderable(data_type: &DataType) -> bool {
    !matches!(data_type, DataType::Json | DataType::Array(_) | DataType::Time { .. })
}

/// Decimal digits that every value of an integer type fits in.
fn int_digits(data_type: &DataType) -> Option<u8> {
    Some(match data_type {
        DataType::Boolean => 1,
        DataType::Int8 => 3,
        DataType::Int16 => 5,
        DataType::Int32 => 10,
        DataType::Int64 => 19,
        DataType::Int128 => 38,
        _ => return None,
    })
}

/// Whether a column can change from one type to the other with every value kept, without rewriting rows. Key columns
/// only change where the encoded key stays the same.
pub fn convertible(from: &DataType, to: &DataType, in_key: bool) -> bool {
    use DataType as T;
    let fits = |precision: &u8, scale: &u8, digits: u8| precision.saturating_sub(*scale) >= digits;
    match (from, to) {
        (T::String { .. } | T::Json, T::String { .. }) | (T::Bytes { .. }, T::Bytes { .. }) => true,
        (T::String { .. }, T::Json) => !in_key,
        (T::DateTime { digits: a }, T::DateTime { digits: b })
        | (T::Timestamp { digits: a }, T::Timestamp { digits: b }) => a <= b,
        (T::Date, T::DateTime { .. }) => !in_key,
        (T::Float32, T::Float64) => true,
        (T::Int8 | T::Int16, T::Float32) | (T::Int8 | T::Int16 | T::Int32, T::Float64) => !in_key,
        (T::Decimal { precision: p, scale: s }, T::Decimal { precision: q, scale: t }) => {
            t >= s && fits(q, t, p.saturating_sub(*s)) && (!in_key || s == t)
        }
        (from, T::Decimal { precision, scale }) if int_digits(from).is_some_and(|d| fits(precision, scale, d)) => {
            !in_key || *scale == 0
        }
        (from, to) if int_digits(from).zip(int_digits(to)).is_some_and(|(a, b)| a <= b) => true,
        (T::Bytes { .. } | T::Array(_), _) => false,
        (_, T::String { chars }) => !in_key && chars.is_none_or(|n| n >= 80),
        _ => false,
    }
}

/// Converts values of `from` to `to`, for which [`convertible`] holds.
///
/// # Errors
/// `Data` when a value does not fit.
pub fn convert(array: &ArrayRef, from: &DataType, to: &DataType) -> Result<ArrayRef> {
    if matches!(to, DataType::String { .. }) && !matches!(from, DataType::String { .. } | DataType::Json) {
        return text::render_ref(array, from);
    }
    cast(array, &to.to_arrow())
}

/// Arrow's cast, with an error for a value that does not fit.
pub(crate) fn cast(array: &ArrayRef, to: &arrow::datatypes::DataType) -> Result<ArrayRef> {
    if array.data_type() == to {
        return Ok(Arc::clone(array));
    }
    let options = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(array, to, &options)
        .map_err(|e| Error::data(format!("a value cannot be stored as {to}")).because(e))
}

/// One value from its canonical text.
///
/// # Errors
/// `Config` when the text is no value of that type.
pub fn parse(text: &str, data_type: &DataType) -> Result<ArrayRef> {
    let bad = || Error::config(format!("'{text}' is no {data_type}"));
    match data_type {
        DataType::Bytes { .. } => {
            let bytes: Option<Vec<u8>> = match text.len() % 2 {
                0 => (0..text.len()).step_by(2).map(|i| u8::from_str_radix(text.get(i..i + 2)?, 16).ok()).collect(),
                _ => None,
            };
            Ok(Arc::new(BinaryArray::from(vec![bytes.ok_or_else(bad)?.as_slice()])))
        }
        DataType::Array(_) => Err(bad()),
        _ => {
            let array: ArrayRef = Arc::new(StringArray::from(vec![text]));
            cast(&array, &data_type.to_arrow()).map_err(|e| bad().because(e.cause.unwrap_or(e.message)))
        }
    }
}

/// The value that rows written before an added column hold: its default, else NULL, else (NOT NULL) the type's zero.
pub(crate) fn fill(def: &ColumnDef, now_micros: i64) -> Result<Option<String>> {
    let value = match &def.default {
        Some(DefaultValue::Literal(text)) => text.clone(),
        Some(DefaultValue::CurrentTimestamp(digits)) => {
            let mut out = String::new();
            text::date_time(now_micros, *digits, &mut out);
            out
        }
        Some(DefaultValue::Expression(e)) => {
            return Err(Error::unsupported(format!("the default {e} cannot be computed")).with("column", &def.name));
        }
        None if def.nullable => return Ok(None),
        None => match &def.data_type {
            DataType::Date | DataType::DateTime { .. } | DataType::Timestamp { .. } | DataType::Array(_) => {
                return Err(Error::unsupported(format!("column {} needs a default: it is NOT NULL", def.name))
                    .hint("give it a DEFAULT, or allow NULL"));
            }
            DataType::Json => "null".into(),
            DataType::String { .. } | DataType::Bytes { .. } => String::new(),
            _ => "0".into(),
        },
    };
    parse(&value, &def.data_type).map_err(|e| e.with("column", &def.name))?;
    Ok(Some(value))
}

/// A [`fill`] value after its column's type changed.
pub(crate) fn convert_fill(fill: Option<String>, from: &DataType, to: &DataType) -> Result<Option<String>> {
    let Some(text) = fill else { return Ok(None) };
    let array = convert(&parse(&text, from)?, from, to)?;
    let mut out = String::new();
    text::render_value(array.as_ref(), 0, to, &mut out)?;
    Ok(Some(out))
}

/// Where a column's values come from in rows whose columns have certain ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stored<'a> {
    /// The column of this id, as it is.
    AsIs(u32),
    /// The column of this id, converted from that type.
    Converted(u32, &'a DataType),
    /// It is not there: the value is the column's [`TableColumn::fill`].
    Filled,
}

/// Where `column`'s values come from.
pub fn stored_as<'a>(column: &'a TableColumn, has: impl Fn(u32) -> bool) -> Stored<'a> {
    if has(column.id) {
        return Stored::AsIs(column.id);
    }
    let mut former: Option<&Former> = column.former.as_deref();
    while let Some(f) = former {
        if has(f.id) {
            return Stored::Converted(f.id, &f.data_type);
        }
        former = f.former.as_deref();
    }
    Stored::Filled
}

/// The ids under which these columns are stored; those that are not there are filled.
pub fn stored_ids<'a>(columns: impl IntoIterator<Item = &'a TableColumn>, has: impl Fn(u32) -> bool) -> Vec<u32> {
    let stored = |c| match stored_as(c, &has) {
        Stored::AsIs(id) | Stored::Converted(id, _) => Some(id),
        Stored::Filled => None,
    };
    columns.into_iter().filter_map(stored).collect()
}

/// The column of a table as it is in `rows`, whose columns are named by id.
///
/// # Errors
/// `Data` when a value cannot be converted.
pub fn column_of(column: &TableColumn, rows: &RecordBatch) -> Result<ArrayRef> {
    let by_id = |id: u32| rows.column_by_name(&format!("c{id}"));
    let source = stored_as(column, |id| by_id(id).is_some());
    let array = match source {
        Stored::AsIs(id) => by_id(id).map(Arc::clone),
        Stored::Converted(id, from) => {
            let array = by_id(id).ok_or_else(|| Error::internal("a column is gone"))?;
            Some(convert(array, from, &column.data_type).map_err(|e| e.with("column", &column.name))?)
        }
        Stored::Filled => None,
    };
    match array {
        Some(array) => cast(&array, &column.data_type.to_arrow()),
        None => filled(column, rows.num_rows()),
    }
}

/// A column of [`TableColumn::fill`].
///
/// # Errors
/// `Config` when the fill is no value of the type.
pub fn filled(column: &TableColumn, rows: usize) -> Result<ArrayRef> {
    match &column.fill {
        None => Ok(new_null_array(&column.data_type.to_arrow(), rows)),
        Some(text) => repeat(&parse(text, &column.data_type)?, rows),
    }
}

/// The single value of `one`, so many times.
pub(crate) fn repeat(one: &ArrayRef, rows: usize) -> Result<ArrayRef> {
    take(one, &arrow::array::UInt32Array::from(vec![0; rows]), None)
        .map_err(|e| Error::internal("cannot repeat a value").because(e))
}

/// Rows with columns by id as rows of the table's current definition, columns by name.
///
/// # Errors
/// As [`column_of`].
pub fn adapt(table: &Table, rows: &RecordBatch) -> Result<RecordBatch> {
    let columns = table.columns.iter().map(|c| column_of(c, rows)).collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    RecordBatch::try_new_with_options(table.arrow_schema(), columns, &options)
        .map_err(|e| Error::internal("stored rows do not fit their table").with("table", &table.name).because(e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversions_that_keep_every_value() {
        let decimal = |precision, scale| DataType::Decimal { precision, scale };
        for (from, to, plain, in_key) in [
            (DataType::Int32, DataType::Int64, true, true),
            (DataType::Int64, DataType::Int32, false, false),
            (DataType::Int32, decimal(10, 0), true, true),
            (DataType::Int32, decimal(10, 2), false, false),
            (decimal(10, 2), decimal(12, 2), true, true),
            (decimal(10, 2), decimal(12, 4), true, false),
            (decimal(10, 2), decimal(12, 5), false, false),
            (DataType::DateTime { digits: 3 }, DataType::TEXT, true, false),
            (DataType::DateTime { digits: 6 }, DataType::DateTime { digits: 0 }, false, false),
            (DataType::TEXT, DataType::Int32, false, false),
        ] {
            assert_eq!((convertible(&from, &to, false), convertible(&from, &to, true)), (plain, in_key), "{from} {to}");
        }
    }

    #[test]
    fn values_from_text() {
        for (text, t) in [
            ("-12", DataType::Int32),
            ("12.50", DataType::Decimal { precision: 5, scale: 2 }),
            ("2024-02-29 23:59:59.000001", DataType::DateTime { digits: 6 }),
            ("2024-02-29", DataType::Date),
            ("00FFAB", DataType::Bytes { length: None }),
            ("1", DataType::Boolean),
            ("170141183460469231", DataType::Int128),
        ] {
            let array = parse(text, &t).unwrap();
            let mut out = String::new();
            text::render_value(array.as_ref(), 0, &t, &mut out).unwrap();
            assert_eq!(out, text);
        }
        assert!(parse("x", &DataType::Int8).is_err());
        assert!(parse("300", &DataType::Int8).is_err());
    }
}
