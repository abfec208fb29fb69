//! Rows of a result set, written straight from Arrow's columns into the packet buffer: each column's array is looked at
//! once a batch, and a value costs no allocation of its own (but for nested ones).

use std::io::Write;

use arrow::array::*;
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::*;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use freshet_core::text::civil_from_days;
use freshet_core::{Error, Result};

use super::columns::{Column, value_type};
use super::packet::put_counted;

/// Which of the two encodings of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// Every value as text: the answer to a query.
    Text,
    /// Values by type: the answer to a prepared statement.
    Binary,
}

/// A batch being written.
pub(super) struct Rows {
    columns: Vec<Cells>,
    protocol: Protocol,
}

/// The values of a column in one batch.
struct Cells {
    nulls: Option<NullBuffer>,
    values: Values,
}

/// The typed array, chosen once a batch.
enum Values {
    Null,
    Boolean(BooleanArray),
    Int8(Int8Array),
    Int16(Int16Array),
    Int32(Int32Array),
    Int64(Int64Array),
    UInt8(UInt8Array),
    UInt16(UInt16Array),
    UInt32(UInt32Array),
    UInt64(UInt64Array),
    Float32(Float32Array),
    Float64(Float64Array),
    Decimal128(Decimal128Array, u8),
    Decimal256(Decimal256Array, u8),
    Date(Date32Array),
    /// Microseconds of the session's local time since 1970, digits behind the second.
    DateTime(TimestampMicrosecondArray, i64, u8),
    /// Microseconds, digits behind the second.
    Time(DurationMicrosecondArray, u8),
    Text(StringArray),
    LargeText(LargeStringArray),
    TextView(StringViewArray),
    Bytes(BinaryArray),
    LargeBytes(LargeBinaryArray),
    BytesView(BinaryViewArray),
    FixedBytes(FixedSizeBinaryArray),
    List(OffsetBuffer<i64>, Box<Cells>),
    Map(OffsetBuffer<i64>, Box<Cells>, Box<Cells>),
    Struct(Vec<(String, Cells)>),
    /// What has no form of its own: as Arrow shows it.
    Other(ArrayRef),
}

impl Rows {
    /// The batch's columns; `zone` is the session's distance from UTC in microseconds.
    ///
    /// # Errors
    /// `Data` when a time does not fit microseconds.
    pub(super) fn new(batch: &RecordBatch, columns: &[Column], protocol: Protocol, zone: i64) -> Result<Self> {
        let columns = batch.columns().iter().zip(columns);
        let columns = columns.map(|(array, column)| Cells::new(array, column.name(), column.decimals, zone));
        Ok(Rows { columns: columns.collect::<Result<_>>()?, protocol })
    }

    /// Appends the payload of one row.
    ///
    /// # Errors
    /// `Data` for a value that the protocol cannot carry.
    pub(super) fn put(&self, row: usize, out: &mut Vec<u8>) -> Result<()> {
        match self.protocol {
            Protocol::Text => {
                for cells in &self.columns {
                    if cells.is_null(row) {
                        out.push(0xFB);
                    } else {
                        cells.values.put_text(row, out)?;
                    }
                }
            }
            Protocol::Binary => {
                out.push(0);
                let nulls = out.len();
                out.resize(nulls + (self.columns.len() + 2).div_ceil(8), 0);
                for (i, cells) in self.columns.iter().enumerate() {
                    if cells.is_null(row) {
                        out[nulls + (i + 2) / 8] |= 1 << ((i + 2) % 8);
                    } else {
                        cells.values.put_binary(row, out)?;
                    }
                }
            }
        }
        Ok(())
    }
}

impl Cells {
    fn new(array: &ArrayRef, name: &str, decimals: u8, zone: i64) -> Result<Self> {
        let array = presentable(array)
            .map_err(|e| Error::data("a value does not fit MySQL's protocol").with("column", name).because(e))?;
        let child = |child: &ArrayRef, name: &str| {
            let column = Column::of(&Field::new(name, child.data_type().clone(), true));
            Cells::new(child, name, column.decimals, zone).map(Box::new)
        };
        let values = match array.data_type() {
            DataType::Null => Values::Null,
            DataType::Boolean => Values::Boolean(array.as_boolean().clone()),
            DataType::Int8 => Values::Int8(array.as_primitive().clone()),
            DataType::Int16 => Values::Int16(array.as_primitive().clone()),
            DataType::Int32 => Values::Int32(array.as_primitive().clone()),
            DataType::Int64 => Values::Int64(array.as_primitive().clone()),
            DataType::UInt8 => Values::UInt8(array.as_primitive().clone()),
            DataType::UInt16 => Values::UInt16(array.as_primitive().clone()),
            DataType::UInt32 => Values::UInt32(array.as_primitive().clone()),
            DataType::UInt64 => Values::UInt64(array.as_primitive().clone()),
            DataType::Float32 => Values::Float32(array.as_primitive().clone()),
            DataType::Float64 => Values::Float64(array.as_primitive().clone()),
            DataType::Decimal128(_, s) => Values::Decimal128(array.as_primitive().clone(), s.unsigned_abs()),
            DataType::Decimal256(_, s) => Values::Decimal256(array.as_primitive().clone(), s.unsigned_abs()),
            DataType::Date32 => Values::Date(array.as_primitive().clone()),
            DataType::Timestamp(_, at) => {
                let shift = if at.is_some() { zone } else { 0 };
                Values::DateTime(array.as_primitive().clone(), shift, decimals)
            }
            DataType::Duration(_) => Values::Time(array.as_primitive().clone(), decimals),
            DataType::Utf8 => Values::Text(array.as_string().clone()),
            DataType::LargeUtf8 => Values::LargeText(array.as_string().clone()),
            DataType::Utf8View => Values::TextView(array.as_string_view().clone()),
            DataType::Binary => Values::Bytes(array.as_binary().clone()),
            DataType::LargeBinary => Values::LargeBytes(array.as_binary().clone()),
            DataType::BinaryView => Values::BytesView(array.as_binary_view().clone()),
            DataType::FixedSizeBinary(_) => Values::FixedBytes(array.as_fixed_size_binary().clone()),
            DataType::LargeList(_) => {
                let list = array.as_list::<i64>();
                Values::List(list.offsets().clone(), child(list.values(), name)?)
            }
            DataType::Map(..) => {
                let map = array.as_map();
                let ends = map.offsets().iter().map(|o| i64::from(*o)).collect();
                Values::Map(OffsetBuffer::new(ends), child(map.keys(), name)?, child(map.values(), name)?)
            }
            DataType::Struct(fields) => {
                let items = array.as_struct().columns().iter().zip(fields);
                let items = items.map(|(c, f)| Ok((f.name().clone(), *child(c, f.name())?)));
                Values::Struct(items.collect::<Result<_>>()?)
            }
            _ => Values::Other(ArrayRef::clone(&array)),
        };
        Ok(Cells { nulls: array.logical_nulls(), values })
    }

    fn is_null(&self, row: usize) -> bool {
        self.nulls.as_ref().is_some_and(|n| n.is_null(row))
    }

    /// The value inside a list, struct or map: as in JSON, numbers bare, everything else quoted.
    fn put_json(&self, row: usize, out: &mut Vec<u8>) -> Result<()> {
        if self.is_null(row) {
            out.extend_from_slice(b"null");
            return Ok(());
        }
        match &self.values {
            Values::Boolean(a) => {
                out.extend_from_slice(if a.value(row) { b"true" } else { b"false" });
                Ok(())
            }
            v if v.is_bare() => v.put_plain(row, out),
            v => {
                let mut text = Vec::new();
                v.put_plain(row, &mut text)?;
                put_quoted(&text, out);
                Ok(())
            }
        }
    }
}

/// The array in one of the types of [`Values`].
fn presentable(array: &ArrayRef) -> Result<ArrayRef, arrow::error::ArrowError> {
    let exact = CastOptions { safe: false, ..CastOptions::default() };
    let through = |types: &[DataType]| {
        types.iter().try_fold(ArrayRef::clone(array), |array, to| cast_with_options(&array, to, &exact))
    };
    match array.data_type() {
        DataType::Dictionary(..) => presentable(&through(&[value_type(array.data_type()).clone()])?),
        DataType::Float16 => through(&[DataType::Float32]),
        DataType::Decimal32(p, s) | DataType::Decimal64(p, s) if *s >= 0 => through(&[DataType::Decimal128(*p, *s)]),
        DataType::Decimal32(_, s) | DataType::Decimal64(_, s) | DataType::Decimal128(_, s) if *s < 0 => {
            through(&[DataType::Decimal128(38, 0)])
        }
        DataType::Decimal256(_, s) if *s < 0 => through(&[DataType::Decimal256(76, 0)]),
        DataType::Date64 => through(&[DataType::Date32]),
        // Arrow's own cast rounds instants before 1970 up.
        DataType::Timestamp(TimeUnit::Nanosecond, zone) => {
            let nanos = array.as_primitive::<TimestampNanosecondType>();
            let micros: TimestampMicrosecondArray = nanos.unary(|n| n.div_euclid(1000));
            Ok(std::sync::Arc::new(micros.with_timezone_opt(zone.clone())))
        }
        DataType::Timestamp(_, zone) => through(&[DataType::Timestamp(TimeUnit::Microsecond, zone.clone())]),
        DataType::Duration(_) => through(&[DataType::Duration(TimeUnit::Microsecond)]),
        // A time of day becomes a duration by way of its number.
        DataType::Time32(_) | DataType::Time64(_) => through(&[
            DataType::Time64(TimeUnit::Microsecond),
            DataType::Int64,
            DataType::Duration(TimeUnit::Microsecond),
        ]),
        DataType::List(item) | DataType::FixedSizeList(item, _) => {
            through(&[DataType::LargeList(std::sync::Arc::clone(item))])
        }
        _ => Ok(ArrayRef::clone(array)),
    }
}

impl Values {
    /// The value behind its length.
    fn put_text(&self, row: usize, out: &mut Vec<u8>) -> Result<()> {
        if let Some(bytes) = self.bytes(row) {
            put_counted(out, bytes);
            return Ok(());
        }
        // Almost all are shorter than 251 bytes, whose length is one byte.
        let at = out.len();
        out.push(0);
        self.put_plain(row, out)?;
        let length = out.len() - at - 1;
        match u8::try_from(length) {
            Ok(short @ 0..=250) => out[at] = short,
            _ => {
                let text = out.split_off(at + 1);
                out.truncate(at);
                put_counted(out, &text);
            }
        }
        Ok(())
    }

    /// The bytes of texts and byte strings, which need no rendering.
    fn bytes(&self, row: usize) -> Option<&[u8]> {
        Some(match self {
            Values::Text(a) => a.value(row).as_bytes(),
            Values::LargeText(a) => a.value(row).as_bytes(),
            Values::TextView(a) => a.value(row).as_bytes(),
            Values::Bytes(a) => a.value(row),
            Values::LargeBytes(a) => a.value(row),
            Values::BytesView(a) => a.value(row),
            Values::FixedBytes(a) => a.value(row),
            _ => return None,
        })
    }

    /// Numbers and nested values, which stand in JSON without quotes.
    fn is_bare(&self) -> bool {
        use Values::*;
        let not_bare = matches!(self, Date(_) | DateTime(..) | Time(..) | Other(_)) || self.is_text();
        !not_bare
    }

    fn is_text(&self) -> bool {
        use Values::*;
        matches!(self, Text(_) | LargeText(_) | TextView(_) | Bytes(_) | LargeBytes(_) | BytesView(_) | FixedBytes(_))
    }

    /// The text alone.
    fn put_plain(&self, row: usize, out: &mut Vec<u8>) -> Result<()> {
        macro_rules! display {
            ($value:expr) => {
                // Writing into memory cannot fail.
                write!(out, "{}", $value).map_err(|e| Error::internal("cannot render a value").because(e))?
            };
        }
        match self {
            Values::Null => {}
            Values::Boolean(a) => out.push(b'0' + u8::from(a.value(row))),
            Values::Int8(a) => display!(a.value(row)),
            Values::Int16(a) => display!(a.value(row)),
            Values::Int32(a) => display!(a.value(row)),
            Values::Int64(a) => display!(a.value(row)),
            Values::UInt8(a) => display!(a.value(row)),
            Values::UInt16(a) => display!(a.value(row)),
            Values::UInt32(a) => display!(a.value(row)),
            Values::UInt64(a) => display!(a.value(row)),
            Values::Float32(a) => put_float(f64::from(a.value(row)), a.value(row), out),
            Values::Float64(a) => put_float(a.value(row), a.value(row), out),
            Values::Decimal128(a, scale) => put_scaled(out, *scale, |out| write!(out, "{}", a.value(row))),
            Values::Decimal256(a, scale) => put_scaled(out, *scale, |out| write!(out, "{}", a.value(row))),
            Values::Date(a) => put_date(i64::from(a.value(row)), out),
            Values::DateTime(a, shift, digits) => put_date_time(local(a.value(row), *shift)?, *digits, out),
            Values::Time(a, digits) => put_time(a.value(row), *digits, out),
            Values::List(offsets, items) => {
                put_list(out, b"[]", range(offsets, row), |i, out| items.put_json(i, out))?;
            }
            Values::Map(offsets, keys, values) => put_list(out, b"{}", range(offsets, row), |i, out| {
                keys.put_json(i, out)?;
                out.push(b':');
                values.put_json(i, out)
            })?,
            Values::Struct(fields) => put_list(out, b"{}", 0..fields.len(), |i, out| {
                put_quoted(fields[i].0.as_bytes(), out);
                out.push(b':');
                fields[i].1.put_json(row, out)
            })?,
            Values::Other(a) => {
                let shown = ArrayFormatter::try_new(a.as_ref(), &FormatOptions::default())
                    .and_then(|f| f.value(row).try_to_string());
                let shown = shown.map_err(|e| {
                    Error::unsupported(format!("a value of type {} has no text form", a.data_type())).because(e)
                })?;
                out.extend_from_slice(shown.as_bytes());
            }
            texts => out.extend_from_slice(texts.bytes(row).unwrap_or_default()),
        }
        Ok(())
    }

    /// The value in the form of its type.
    fn put_binary(&self, row: usize, out: &mut Vec<u8>) -> Result<()> {
        match self {
            Values::Null => {}
            Values::Boolean(a) => out.push(u8::from(a.value(row))),
            Values::Int8(a) => out.extend_from_slice(&a.value(row).to_le_bytes()),
            Values::Int16(a) => out.extend_from_slice(&a.value(row).to_le_bytes()),
            Values::Int32(a) => out.extend_from_slice(&a.value(row).to_le_bytes()),
            Values::Int64(a) => out.extend_from_slice(&a.value(row).to_le_bytes()),
            Values::UInt8(a) => out.extend_from_slice(&a.value(row).to_le_bytes()),
            Values::UInt16(a) => out.extend_from_slice(&a.value(row).to_le_bytes()),
            Values::UInt32(a) => out.extend_from_slice(&a.value(row).to_le_bytes()),
            Values::UInt64(a) => out.extend_from_slice(&a.value(row).to_le_bytes()),
            Values::Float32(a) => out.extend_from_slice(&a.value(row).to_le_bytes()),
            Values::Float64(a) => out.extend_from_slice(&a.value(row).to_le_bytes()),
            Values::Date(a) => {
                out.push(4);
                put_binary_date(i64::from(a.value(row)), out)?;
            }
            Values::DateTime(a, shift, _) => {
                let micros = local(a.value(row), *shift)?;
                out.push(11);
                put_binary_date(micros.div_euclid(DAY), out)?;
                put_binary_clock(micros.rem_euclid(DAY) as u64, out);
            }
            Values::Time(a, _) => {
                let micros = a.value(row);
                out.push(12);
                out.push(u8::from(micros < 0));
                let micros = micros.unsigned_abs();
                out.extend_from_slice(&((micros / DAY as u64) as u32).to_le_bytes());
                put_binary_clock(micros % DAY as u64, out);
            }
            other => other.put_text(row, out)?,
        }
        Ok(())
    }
}

/// Microseconds of a day.
const DAY: i64 = 86_400_000_000;

fn local(micros: i64, shift: i64) -> Result<i64> {
    micros.checked_add(shift).ok_or_else(|| Error::data("an instant is out of range in the session's time zone"))
}

fn range(offsets: &OffsetBuffer<i64>, row: usize) -> std::ops::Range<usize> {
    offsets[row] as usize..offsets[row + 1] as usize
}

/// The items between brackets, with `, ` between them, as Doris writes them.
fn put_list(
    out: &mut Vec<u8>,
    brackets: &[u8; 2],
    items: std::ops::Range<usize>,
    mut item: impl FnMut(usize, &mut Vec<u8>) -> Result<()>,
) -> Result<()> {
    out.push(brackets[0]);
    for i in items.clone() {
        if i > items.start {
            out.extend_from_slice(b", ");
        }
        item(i, out)?;
    }
    out.push(brackets[1]);
    Ok(())
}

/// A JSON string.
fn put_quoted(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for b in text {
        match b {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *b]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0..0x20 => out.extend_from_slice(&[b'\\', b'u', b'0', b'0', b'0' + (b >> 4), hex_digit(b & 15)]),
            _ => out.push(*b),
        }
    }
    out.push(b'"');
}

fn hex_digit(n: u8) -> u8 {
    b"0123456789abcdef"[usize::from(n & 15)]
}

/// The shortest text that reads back as the same value, `exact`; with an exponent where MySQL uses one.
fn put_float(value: f64, exact: impl std::fmt::Display + std::fmt::LowerExp, out: &mut Vec<u8>) {
    let magnitude = value.abs();
    // Writing into memory cannot fail.
    let _ = if value.is_nan() {
        write!(out, "NaN")
    } else if value.is_infinite() {
        write!(out, "{}", if value > 0.0 { "Infinity" } else { "-Infinity" })
    } else if value == 0.0 || (1e-5..1e15).contains(&magnitude) {
        write!(out, "{exact}")
    } else {
        write!(out, "{exact:e}")
    };
}

/// Writes the digits and puts a point before the last `scale` of them.
fn put_scaled(out: &mut Vec<u8>, scale: u8, write: impl FnOnce(&mut Vec<u8>) -> std::io::Result<()>) {
    let start = out.len();
    // Writing into memory cannot fail.
    let _ = write(out);
    let scale = usize::from(scale);
    if scale == 0 {
        return;
    }
    let digits = start + usize::from(out.get(start) == Some(&b'-'));
    let missing = (scale + 1).saturating_sub(out.len() - digits);
    out.splice(digits..digits, std::iter::repeat_n(b'0', missing));
    out.insert(out.len() - scale, b'.');
}

fn put_two(n: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(&[b'0' + (n / 10 % 10) as u8, b'0' + (n % 10) as u8]);
}

/// `2024-02-29`.
fn put_date(days: i64, out: &mut Vec<u8>) {
    let (year, month, day) = civil_from_days(days);
    match u32::try_from(year) {
        Ok(year @ 0..=9999) => {
            put_two(year / 100, out);
            put_two(year % 100, out);
        }
        // Writing into memory cannot fail.
        _ => drop(write!(out, "{year}")),
    }
    out.push(b'-');
    put_two(month, out);
    out.push(b'-');
    put_two(day, out);
}

/// `2024-02-29 23:59:59.000001`.
fn put_date_time(micros: i64, digits: u8, out: &mut Vec<u8>) {
    put_date(micros.div_euclid(DAY), out);
    out.push(b' ');
    put_clock(micros.rem_euclid(DAY) as u64, digits, out);
}

/// `-838:59:59.000001`.
fn put_time(micros: i64, digits: u8, out: &mut Vec<u8>) {
    if micros < 0 {
        out.push(b'-');
    }
    put_clock(micros.unsigned_abs(), digits, out);
}

fn put_clock(micros: u64, digits: u8, out: &mut Vec<u8>) {
    let (seconds, fraction) = (micros / 1_000_000, (micros % 1_000_000) as u32);
    let hours = seconds / 3600;
    if hours < 100 {
        put_two(hours as u32, out);
    } else {
        // Writing into memory cannot fail.
        let _ = write!(out, "{hours}");
    }
    out.push(b':');
    put_two((seconds / 60 % 60) as u32, out);
    out.push(b':');
    put_two((seconds % 60) as u32, out);
    if digits > 0 {
        out.push(b'.');
        let six = [fraction / 10_000, fraction / 100 % 100, fraction % 100];
        six.iter().for_each(|two| put_two(*two, out));
        out.truncate(out.len() - 6 + usize::from(digits.min(6)));
    }
}

fn put_binary_date(days: i64, out: &mut Vec<u8>) -> Result<()> {
    let (year, month, day) = civil_from_days(days);
    let year = u16::try_from(year).map_err(|_| {
        Error::data("a date is out of the range that MySQL's binary protocol can carry").with("year", year)
    })?;
    out.extend_from_slice(&year.to_le_bytes());
    out.extend_from_slice(&[month as u8, day as u8]);
    Ok(())
}

/// Hour, minute, second and microseconds of a day.
fn put_binary_clock(micros: u64, out: &mut Vec<u8>) {
    let seconds = micros / 1_000_000;
    out.extend_from_slice(&[(seconds / 3600) as u8, (seconds / 60 % 60) as u8, (seconds % 60) as u8]);
    out.extend_from_slice(&((micros % 1_000_000) as u32).to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    /// The values of one column as text, NULL as `None`.
    fn texts(array: ArrayRef, zone: i64) -> Vec<Option<String>> {
        let column = Column::of(&Field::new("c", array.data_type().clone(), true));
        let batch = RecordBatch::try_from_iter_with_nullable([("c", array, true)]).expect("a batch");
        let rows = Rows::new(&batch, &[column], Protocol::Text, zone).expect("columns");
        let text = |row| {
            let mut out = Vec::new();
            rows.put(row, &mut out).expect("a row");
            let mut reader = crate::mysql::packet::Reader(&out);
            (out != [0xFB]).then(|| {
                let text = String::from_utf8(reader.counted().expect("a value").to_vec()).expect("text");
                assert!(reader.is_empty());
                text
            })
        };
        (0..batch.num_rows()).map(text).collect()
    }

    fn one(array: impl Array + 'static) -> String {
        texts(Arc::new(array), 0).remove(0).expect("not NULL")
    }

    fn binary(array: impl Array + 'static) -> Vec<u8> {
        let array: ArrayRef = Arc::new(array);
        let column = Column::of(&Field::new("c", array.data_type().clone(), true));
        let batch = RecordBatch::try_from_iter_with_nullable([("c", array, true)]).expect("a batch");
        let mut out = Vec::new();
        Rows::new(&batch, &[column], Protocol::Binary, 0).expect("columns").put(0, &mut out).expect("a row");
        assert_eq!(out[..2], [0, 0]);
        out.split_off(2)
    }

    #[test]
    fn text_of_scalars() {
        assert_eq!(texts(Arc::new(BooleanArray::from(vec![Some(true), None])), 0), [Some("1".into()), None]);
        assert_eq!(one(Int8Array::from(vec![-128])), "-128");
        assert_eq!(one(UInt64Array::from(vec![u64::MAX])), "18446744073709551615");
        let decimal = Decimal128Array::from(vec![-5]).with_precision_and_scale(10, 3).expect("a decimal");
        assert_eq!(one(decimal), "-0.005");
        let decimal = Decimal128Array::from(vec![123_456]).with_precision_and_scale(10, 2).expect("a decimal");
        assert_eq!(one(decimal), "1234.56");
        assert_eq!(
            one(Decimal128Array::from(vec![i128::MIN]).with_data_type(DataType::Decimal128(38, 0))),
            i128::MIN.to_string()
        );
        assert_eq!(one(Date32Array::from(vec![-719_162])), "0001-01-01");
        assert_eq!(one(TimestampMicrosecondArray::from(vec![-1])), "1969-12-31 23:59:59.999999");
        assert_eq!(one(TimestampSecondArray::from(vec![0])), "1970-01-01 00:00:00");
        assert_eq!(one(TimestampNanosecondArray::from(vec![-1])), "1969-12-31 23:59:59.999999");
        assert_eq!(one(DurationMicrosecondArray::from(vec![-3_020_399_000_000])), "-838:59:59.000000");
        assert_eq!(one(Time32MillisecondArray::from(vec![3_661_001])), "01:01:01.001");
        assert_eq!(one(StringViewArray::from(vec!["x".repeat(300).as_str()])), "x".repeat(300));
        let fixed = FixedSizeBinaryArray::try_from_iter([b"ab"].into_iter()).expect("bytes");
        assert_eq!(one(fixed), "ab");
        assert_eq!(texts(Arc::new(NullArray::new(1)), 0), [None]);
        let dictionary: DictionaryArray<Int32Type> = vec![Some("a"), None].into_iter().collect();
        assert_eq!(texts(Arc::new(dictionary), 0), [Some("a".into()), None]);
    }

    #[test]
    fn text_of_floats() {
        let cases = [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.5, "1.5"),
            (0.1, "0.1"),
            (100_000.0, "100000"),
            (1e14, "100000000000000"),
            (1e15, "1e15"),
            (-1e300, "-1e300"),
            (0.00001, "0.00001"),
            (0.000001, "1e-6"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-Infinity"),
            (5e-324, "5e-324"),
        ];
        for (value, text) in cases {
            assert_eq!(one(Float64Array::from(vec![value])), text);
        }
        assert_eq!(one(Float32Array::from(vec![0.1])), "0.1");
    }

    #[test]
    fn instants_follow_the_session() {
        let instant = TimestampMicrosecondArray::from(vec![0]).with_timezone("UTC");
        assert_eq!(texts(Arc::new(instant), 8 * 3_600_000_000)[0].as_deref(), Some("1970-01-01 08:00:00.000000"));
        let plain = TimestampMicrosecondArray::from(vec![0]);
        assert_eq!(texts(Arc::new(plain), 8 * 3_600_000_000)[0].as_deref(), Some("1970-01-01 00:00:00.000000"));
    }

    #[test]
    fn nested_values_are_json() {
        let list = ListArray::from_iter_primitive::<Int32Type, _, _>(vec![Some(vec![Some(1), None, Some(3)]), None]);
        assert_eq!(texts(Arc::new(list), 0), [Some("[1, null, 3]".into()), None]);
        let mut names = ListBuilder::new(StringBuilder::new());
        names.append_value([Some("a\"b\\\n\u{1}ü"), Some("")]);
        assert_eq!(one(names.finish()), r#"["a\"b\\\n\u0001ü", ""]"#);
        let days: ArrayRef = Arc::new(Date32Array::from(vec![0]));
        let flags: ArrayRef = Arc::new(BooleanArray::from(vec![true]));
        let fields = StructArray::try_from(vec![("day", days), ("on", flags)]).expect("a struct");
        assert_eq!(one(fields), r#"{"day":"1970-01-01", "on":true}"#);
    }

    #[test]
    fn binary_values() {
        assert_eq!(binary(Int16Array::from(vec![-2])), [0xFE, 0xFF]);
        assert_eq!(binary(Float32Array::from(vec![1.5])), 1.5_f32.to_le_bytes());
        assert_eq!(binary(Date32Array::from(vec![0])), [4, 0xB2, 0x07, 1, 1]);
        assert_eq!(binary(TimestampMicrosecondArray::from(vec![1])), [11, 0xB2, 0x07, 1, 1, 0, 0, 0, 1, 0, 0, 0]);
        let minute_and_a_day = DurationMicrosecondArray::from(vec![-(DAY + 60_000_000)]);
        assert_eq!(binary(minute_and_a_day), [12, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0]);
        assert_eq!(binary(StringArray::from(vec!["abc"])), b"\x03abc");
        let decimal = Decimal128Array::from(vec![5]).with_precision_and_scale(3, 2).expect("a decimal");
        assert_eq!(binary(decimal), b"\x040.05");
    }

    #[test]
    fn binary_nulls_are_bits() {
        let values: Vec<(String, ArrayRef, bool)> = (0..9)
            .map(|i| (format!("c{i}"), Arc::new(Int8Array::from(vec![(i % 3 != 0).then_some(1)])) as ArrayRef, true))
            .collect();
        let batch = RecordBatch::try_from_iter_with_nullable(values).expect("a batch");
        let columns: Vec<_> = batch.schema().fields().iter().map(|f| Column::of(f)).collect();
        let mut out = Vec::new();
        Rows::new(&batch, &columns, Protocol::Binary, 0).expect("columns").put(0, &mut out).expect("a row");
        // Columns 0, 3 and 6 are NULL: bits 2, 5 and 8.
        assert_eq!(out[..3], [0, 0b0010_0100, 0b0000_0001]);
        assert_eq!(out.len(), 3 + 6);
    }
}
