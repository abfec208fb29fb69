//! Canonical text of values: the form in which `verify` compares source and target, and in which types that a target
//! does not have (durations) are stored as text.
//!
//! | Type | Text |
//! | --- | --- |
//! | boolean | `0`, `1` |
//! | integers | decimal digits, `-` in front |
//! | decimal(p,s) | exactly `s` digits behind the point |
//! | float, double | the shortest decimal that reads back as the same value (float: widened to double), as Rust's `{:e}`: `1.5e0`, `-1e300` |
//! | date | `2024-02-29` |
//! | datetime(n), timestamp(n) | `2024-02-29 23:59:59`, then a point and exactly `n` digits if n > 0; timestamps in UTC |
//! | time(n) | `-838:59:59`, hours with two digits at least, then as above |
//! | string, json | as it is |
//! | bytes | upper-case hexadecimal digits |
//! | array | `[a,b]` of the items' text, NULL as `null` |

use std::fmt::Write;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringArray, StringBuilder};
use arrow::datatypes::*;

use crate::datatype::DataType;
use crate::error::{Error, Result};

/// Renders a column as canonical text. `array` may have the type's own Arrow type or the one that a target stores it as
/// (text as it is, wider integers, decimals of scale 0).
///
/// # Errors
/// `Internal` when the array cannot hold values of that type.
pub fn render(array: &dyn Array, data_type: &DataType) -> Result<StringArray> {
    let mut out = StringBuilder::with_capacity(array.len(), array.len() * 8);
    let mut text = String::new();
    for row in 0..array.len() {
        if array.is_null(row) {
            out.append_null();
            continue;
        }
        text.clear();
        render_value(array, row, data_type, &mut text)?;
        out.append_value(&text);
    }
    Ok(out.finish())
}

/// [`render`], as an array of any type's successor.
///
/// # Errors
/// As [`render`].
pub fn render_ref(array: &ArrayRef, data_type: &DataType) -> Result<ArrayRef> {
    Ok(Arc::new(render(array.as_ref(), data_type)?))
}

/// Appends the canonical text of one value that is not NULL.
///
/// # Errors
/// As [`render`].
pub fn render_value(array: &dyn Array, row: usize, data_type: &DataType, out: &mut String) -> Result<()> {
    use arrow::datatypes::DataType as Arrow;
    macro_rules! int {
        ($t:ty) => {
            write!(out, "{}", array.as_primitive::<$t>().value(row))
        };
    }
    let digits = match data_type {
        DataType::DateTime { digits } | DataType::Timestamp { digits } | DataType::Time { digits } => *digits,
        _ => 6,
    };
    let done = match array.data_type() {
        Arrow::Boolean => write!(out, "{}", u8::from(array.as_boolean().value(row))),
        Arrow::Int8 => int!(Int8Type),
        Arrow::Int16 => int!(Int16Type),
        Arrow::Int32 => int!(Int32Type),
        Arrow::Int64 => int!(Int64Type),
        Arrow::UInt8 => int!(UInt8Type),
        Arrow::UInt16 => int!(UInt16Type),
        Arrow::UInt32 => int!(UInt32Type),
        Arrow::UInt64 => int!(UInt64Type),
        Arrow::Float32 => write!(out, "{:e}", f64::from(array.as_primitive::<Float32Type>().value(row))),
        Arrow::Float64 => write!(out, "{:e}", array.as_primitive::<Float64Type>().value(row)),
        Arrow::Decimal128(_, scale) => {
            decimal(&array.as_primitive::<Decimal128Type>().value(row).to_string(), *scale, out);
            Ok(())
        }
        Arrow::Decimal256(_, scale) => {
            decimal(&array.as_primitive::<Decimal256Type>().value(row).to_string(), *scale, out);
            Ok(())
        }
        Arrow::Date32 => {
            date(i64::from(array.as_primitive::<Date32Type>().value(row)), out);
            Ok(())
        }
        Arrow::Timestamp(TimeUnit::Microsecond, _) => {
            date_time(array.as_primitive::<TimestampMicrosecondType>().value(row), digits, out);
            Ok(())
        }
        Arrow::Duration(TimeUnit::Microsecond) => {
            duration(array.as_primitive::<DurationMicrosecondType>().value(row), digits, out);
            Ok(())
        }
        Arrow::Utf8 => {
            out.push_str(array.as_string::<i32>().value(row));
            Ok(())
        }
        Arrow::Utf8View => {
            out.push_str(array.as_string_view().value(row));
            Ok(())
        }
        Arrow::Binary => {
            hex(array.as_binary::<i32>().value(row), out);
            Ok(())
        }
        Arrow::BinaryView => {
            hex(array.as_binary_view().value(row), out);
            Ok(())
        }
        Arrow::List(_) => {
            let items = array.as_list::<i32>().value(row);
            let item_type = match data_type {
                DataType::Array(item) => item.as_ref(),
                other => other,
            };
            out.push('[');
            for i in 0..items.len() {
                if i > 0 {
                    out.push(',');
                }
                if items.is_null(i) {
                    out.push_str("null");
                } else {
                    render_value(items.as_ref(), i, item_type, out)?;
                }
            }
            out.push(']');
            Ok(())
        }
        other => return Err(Error::internal(format!("no text form of {other} as {data_type}"))),
    };
    done.map_err(|e| Error::internal("cannot render a value").because(e))
}

fn decimal(digits: &str, scale: i8, out: &mut String) {
    let scale = usize::from(scale.unsigned_abs());
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits), |d| ("-", d));
    out.push_str(sign);
    if scale == 0 {
        out.push_str(digits);
        return;
    }
    let padded = format!("{digits:0>width$}", width = scale + 1);
    let (whole, fraction) = padded.split_at(padded.len() - scale);
    let _ = write!(out, "{whole}.{fraction}");
}

/// Year, month and day of a day counted from 1970-01-01 (H. Hinnant, "chrono-Compatible Low-Level Date Algorithms").
pub fn civil_from_days(days: i64) -> (i64, u32, u32) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = (doy - (153 * mp + 2) / 5 + 1) as u32;
    let month = if mp < 10 { mp + 3 } else { mp - 9 } as u32;
    (yoe + era * 400 + i64::from(month <= 2), month, day)
}

/// Days from 1970-01-01 to that day; the inverse of [`civil_from_days`]. Does not check that the day exists.
pub fn days_from_civil(year: i64, month: u32, day: u32) -> i64 {
    let y = year - i64::from(month <= 2);
    let era = y.div_euclid(400);
    let yoe = y.rem_euclid(400);
    let mp = i64::from((month + 9) % 12);
    let doy = (153 * mp + 2) / 5 + i64::from(day) - 1;
    let doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
    era * 146_097 + doe - 719_468
}

/// Appends `2024-02-29`.
pub fn date(days: i64, out: &mut String) {
    let (y, m, d) = civil_from_days(days);
    let _ = write!(out, "{y:04}-{m:02}-{d:02}");
}

/// Appends `2024-02-29 23:59:59.000001`, with exactly `digits` fractional digits.
pub fn date_time(micros: i64, digits: u8, out: &mut String) {
    date(micros.div_euclid(86_400_000_000), out);
    out.push(' ');
    clock(micros.rem_euclid(86_400_000_000), digits, out);
}

/// Appends `-838:59:59`, with exactly `digits` fractional digits.
pub fn duration(micros: i64, digits: u8, out: &mut String) {
    if micros < 0 {
        out.push('-');
    }
    clock(micros.saturating_abs(), digits, out);
}

fn clock(micros: i64, digits: u8, out: &mut String) {
    let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
    let _ = write!(out, "{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    if digits > 0 {
        let width = usize::from(digits.min(6));
        let _ = write!(out, ".{:0width$}", fraction / 10_i64.pow(6 - width as u32));
    }
}

/// Appends upper-case hexadecimal digits.
pub fn hex(bytes: &[u8], out: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.reserve(bytes.len() * 2);
    for b in bytes {
        out.push(char::from(DIGITS[usize::from(b >> 4)]));
        out.push(char::from(DIGITS[usize::from(b & 15)]));
    }
}

/// The bytes of hexadecimal digits, of either case; `None` when these are others, or an odd number of them.
pub fn unhex(digits: &str) -> Option<Vec<u8>> {
    let digit = |b: u8| char::from(b).to_digit(16).map(|d| d as u8);
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    let bytes = pairs.iter().map(|[a, b]| Some(digit(*a)? << 4 | digit(*b)?)).collect();
    if rest.is_empty() { bytes } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_digits() {
        let mut out = String::new();
        hex(&[0, 0x1f, 0xab], &mut out);
        assert_eq!(unhex(&out), Some(vec![0, 0x1f, 0xab]));
        assert_eq!((unhex("1fAb"), unhex("")), (Some(vec![0x1f, 0xab]), Some(vec![])));
        assert_eq!((unhex("1f0"), unhex("+1"), unhex("0x"), unhex("é")), (None, None, None, None));
    }

    fn text(f: impl FnOnce(&mut String)) -> String {
        let mut s = String::new();
        f(&mut s);
        s
    }

    #[test]
    fn dates_and_times() {
        assert_eq!(text(|o| date(0, o)), "1970-01-01");
        assert_eq!(text(|o| date(days_from_civil(1, 1, 1), o)), "0001-01-01");
        assert_eq!(text(|o| date_time(-1, 6, o)), "1969-12-31 23:59:59.999999");
        assert_eq!(text(|o| date_time(-1, 0, o)), "1969-12-31 23:59:59");
        assert_eq!(text(|o| duration(-3_020_399_000_000, 0, o)), "-838:59:59");
        assert_eq!(text(|o| duration(1, 6, o)), "00:00:00.000001");
        for days in -800_000..800_000 {
            let (y, m, d) = civil_from_days(days);
            assert_eq!(days_from_civil(y, m, d), days);
        }
    }

    #[test]
    fn decimals() {
        assert_eq!(text(|o| decimal("-5", 3, o)), "-0.005");
        assert_eq!(text(|o| decimal("12345", 2, o)), "123.45");
        assert_eq!(text(|o| decimal("0", 0, o)), "0");
    }
}
