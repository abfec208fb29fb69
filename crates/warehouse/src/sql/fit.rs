//! Values that a statement writes: converted to their column's type as MySQL converts them, and refused when they do not
//! fit: nothing is cut, wrapped or read as something else. Jobs do not come through here: what they load has types that
//! were planned for it, and is stored exactly (`sink.rs`).

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, StringArray, TimestampMicrosecondArray};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{
    DataType as Arrow, Decimal128Type, Decimal256Type, DecimalType, Float32Type, Float64Type, TimestampMicrosecondType,
};
use arrow::error::ArrowError;
use freshet_core::{DataType, Error, Result};

use super::functions::time_text;
use super::types::declared;
use crate::catalog::TableColumn;

/// Values in the type of their column; a value that does not fit is an error, never NULL.
///
/// # Errors
/// `Data`, naming the column.
pub(super) fn fit(array: &ArrayRef, column: &TableColumn) -> Result<ArrayRef> {
    let (from, to) = (array.data_type().clone(), column.data_type.to_arrow());
    let number = |t: &Arrow| t.is_numeric();
    let time = |t: &Arrow| matches!(t, Arrow::Date32 | Arrow::Date64 | Arrow::Timestamp(..));
    if number(&from) && time(&to) || time(&from) && (number(&to) || to == Arrow::Boolean) {
        return Err(misfit(column, &from).hint("write dates as text: '2024-01-31', '2024-01-31 23:59:59'"));
    }
    let written_out;
    let array = match (&from, &to) {
        (Arrow::Utf8, to) if to.is_integer() || to.is_decimal() => {
            written_out = without_exponents(array);
            &written_out
        }
        _ => array,
    };
    let fitted = match (&from, &to) {
        (from, to) if from == to => Arc::clone(array),
        // A fraction is rounded on its way into a whole number, as MySQL does.
        (Arrow::Decimal128(p, s), t) if t.is_integer() && *s > 0 => {
            cast(&cast(array, &Arrow::Decimal128(*p, 0), column)?, &to, column)?
        }
        // A text may hold one, too.
        (Arrow::Utf8, t) if t.is_integer() => match cast(array, &to, column) {
            Ok(fitted) => fitted,
            Err(e) => {
                let decimals = cast(array, &Arrow::Decimal128(38, 10), column).map_err(|_| e)?;
                cast(&cast(&decimals, &Arrow::Decimal128(38, 0), column)?, &to, column)?
            }
        },
        (Arrow::Float32 | Arrow::Float64, t) if t.is_integer() => {
            let doubles = cast(array, &Arrow::Float64, column)?;
            let whole: Float64Array = doubles.as_primitive::<Float64Type>().unary(f64::round_ties_even);
            cast(&(Arc::new(whole) as ArrayRef), &to, column)?
        }
        (from, Arrow::Utf8) if time(from) => Arc::new(time_text(array).map_err(|e| misfit(column, from).because(e))?),
        _ => cast(array, &to, column)?,
    };
    match &column.data_type {
        DataType::DateTime { digits } | DataType::Timestamp { digits } => rounded(&fitted, *digits, column),
        DataType::Float32 | DataType::Float64 => {
            check_finite(array, &fitted, column)?;
            Ok(fitted)
        }
        _ => Ok(fitted),
    }
}

/// Refuses NULL in a column that does not allow it.
///
/// # Errors
/// `Data`, naming the column.
pub(super) fn check_null(array: &ArrayRef, column: &TableColumn) -> Result<()> {
    if !column.nullable && array.null_count() > 0 {
        return Err(Error::data(format!("column '{}' cannot be NULL", column.name)).with("value of", &column.name));
    }
    Ok(())
}

/// What the Arrow type does not say: a text's length, a decimal's digits, that JSON is JSON.
///
/// # Errors
/// `Data`, naming column and row (counted from 1).
pub(super) fn check(array: &ArrayRef, column: &TableColumn) -> Result<()> {
    if let Some(limit) = column.max_bytes() {
        let limit = limit as usize;
        let too_long = match array.data_type() {
            Arrow::Utf8 => {
                let values = array.as_string::<i32>().iter();
                first(values.map(|v| v.map(str::len)), |n| *n > limit)
            }
            Arrow::Binary => {
                let values = array.as_binary::<i32>().iter();
                first(values.map(|v| v.map(<[u8]>::len)), |n| *n > limit)
            }
            _ => None,
        };
        if let Some((row, length)) = too_long {
            let (name, kind) = (&column.name, declared(column, false));
            return Err(Error::data(format!(
                "value too long for column '{name}': {length} bytes, and {kind} holds at most {limit}"
            ))
            .with("value of", name)
            .with("row", row)
            .hint("lengths count bytes of UTF-8; ALTER TABLE … MODIFY COLUMN makes the column longer"));
        }
    }
    match (&column.data_type, array.data_type()) {
        (DataType::Json, Arrow::Utf8) => {
            let wrong = |v: &&str| serde_json::from_str::<serde::de::IgnoredAny>(v).is_err();
            match first(array.as_string::<i32>().iter(), wrong) {
                Some((row, _)) => Err(Error::data(format!("value is no JSON: column '{}'", column.name))
                    .with("value of", &column.name)
                    .with("row", row)),
                None => Ok(()),
            }
        }
        (DataType::Decimal { precision, .. }, Arrow::Decimal128(..)) => {
            let values = array.as_primitive::<Decimal128Type>().iter();
            let wrong = |v: &i128| !Decimal128Type::is_valid_decimal_precision(*v, *precision);
            first(values, wrong).map_or(Ok(()), |(row, _)| Err(out_of_range(column).with("row", row)))
        }
        (DataType::Decimal { precision, .. }, Arrow::Decimal256(..)) => {
            let values = array.as_primitive::<Decimal256Type>().iter();
            let wrong = |v: &arrow::datatypes::i256| !Decimal256Type::is_valid_decimal_precision(*v, *precision);
            first(values, wrong).map_or(Ok(()), |(row, _)| Err(out_of_range(column).with("row", row)))
        }
        _ => Ok(()),
    }
}

/// The first value of which that is true, and its row, counted from 1.
fn first<T>(values: impl Iterator<Item = Option<T>>, is: impl Fn(&T) -> bool) -> Option<(usize, T)> {
    values.zip(1..).find_map(|(value, row)| Some((row, value.filter(&is)?)))
}

/// The column in an error's words, and what it is about.
fn out_of_range(column: &TableColumn) -> Error {
    Error::data(format!("value out of range for column '{}' of type {}", column.name, declared(column, false)))
        .with("value of", &column.name)
}

fn misfit(column: &TableColumn, from: &Arrow) -> Error {
    let (name, kind) = (&column.name, declared(column, false));
    Error::data(format!("a value does not fit column '{name}' of type {kind}"))
        .with("value of", name)
        .because(format!("{from} does not become {kind}"))
}

fn cast(array: &ArrayRef, to: &Arrow, column: &TableColumn) -> Result<ArrayRef> {
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(array, to, &strict).map_err(|e| {
        let error = match (array.data_type().is_numeric(), &e) {
            (true, ArrowError::CastError(_) | ArrowError::InvalidArgumentError(_)) if to.is_numeric() => {
                out_of_range(column)
            }
            _ => misfit(column, array.data_type()),
        };
        error.because(e)
    })
}

/// Numbers in texts as Arrow reads them into exact types: `1e3` is `1000`.
fn without_exponents(array: &ArrayRef) -> ArrayRef {
    let texts = array.as_string::<i32>();
    if !texts.iter().flatten().any(|text| text.contains(['e', 'E'])) {
        return Arc::clone(array);
    }
    let plain = |text: &str| match text.contains(['e', 'E']).then(|| text.trim().parse::<f64>()) {
        Some(Ok(number)) if number.is_finite() => number.to_string(),
        _ => text.to_string(),
    };
    Arc::new(texts.iter().map(|text| text.map(plain)).collect::<StringArray>())
}

/// Moments to the column's digits, half of the last one upwards, as MySQL and Doris do.
fn rounded(array: &ArrayRef, digits: u8, column: &TableColumn) -> Result<ArrayRef> {
    let unit = 10_i64.pow(6 - u32::from(digits.min(6)));
    let moments = array.as_primitive::<TimestampMicrosecondType>();
    if moments.iter().flatten().all(|v| v % unit == 0) {
        return Ok(Arc::clone(array));
    }
    let round = |v: i64| Ok(v.checked_add(unit / 2).ok_or_else(|| out_of_range(column))?.div_euclid(unit) * unit);
    let moments: TimestampMicrosecondArray = moments.try_unary::<_, TimestampMicrosecondType, Error>(round)?;
    Ok(Arc::new(moments.with_data_type(array.data_type().clone())))
}

/// A number that becomes infinite is out of range.
fn check_finite(from: &ArrayRef, to: &ArrayRef, column: &TableColumn) -> Result<()> {
    let doubles = |a: &ArrayRef| -> Option<Vec<bool>> {
        match a.data_type() {
            Arrow::Float32 => Some(a.as_primitive::<Float32Type>().values().iter().map(|v| v.is_finite()).collect()),
            Arrow::Float64 => Some(a.as_primitive::<Float64Type>().values().iter().map(|v| v.is_finite()).collect()),
            _ => None,
        }
    };
    let Some(finite) = doubles(to).filter(|finite| finite.contains(&false)) else { return Ok(()) };
    let before = doubles(from);
    // Text that says so is meant so.
    let digits = |row: usize| match from.data_type() {
        Arrow::Utf8 => from.as_string::<i32>().value(row).contains(|c: char| c.is_ascii_digit()),
        _ => true,
    };
    let was_finite = |row: usize| before.as_ref().map_or_else(|| digits(row), |before| before[row]);
    match (0..finite.len()).find(|row| !finite[*row] && to.is_valid(*row) && was_finite(*row)) {
        Some(row) => Err(out_of_range(column).with("row", row + 1)),
        None => Ok(()),
    }
}
