//! Values as the text protocol gives them, straight into Arrow builders: what a copy reads. They are the same values
//! that the binlog's decoder makes of the same columns.

use std::sync::Arc;

use arrow::array::builder::{
    BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, Decimal256Builder, DurationMicrosecondBuilder,
    PrimitiveBuilder, StringBuilder, TimestampMicrosecondBuilder,
};
use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow::datatypes::*;
use async_trait::async_trait;
use freshet_core::text::{civil_from_days, days_from_civil, unhex};
use freshet_core::{BatchStream, Error, Result, TableSchema};

use super::types::{DecodeOptions, MysqlType, ZeroDates};
use super::wire::{Connection, Fields, TextRows, server_error_number};

/// Rows and bytes at which a batch is full.
const BATCH_ROWS: usize = 32 * 1024;
const BATCH_BYTES: usize = 8 << 20;
/// Characters of a bad value that an error shows.
const VALUE_SHOWN: usize = 60;
const DAY_MICROS: i64 = 86_400_000_000;

/// The expression that selects a column so that its text holds the whole value.
pub(super) fn expression(column: &str, of: &MysqlType) -> String {
    match of {
        // Printed as FLOAT a value keeps 6 digits; as DOUBLE all of its bits. Adding 0 would lose the sign of -0.
        MysqlType::Float => format!("{column} * 1e0"),
        MysqlType::Bit { .. } => format!("{column} + 0"),
        _ => column.to_string(),
    }
}

/// Builders of one column, by type.
enum Values {
    Boolean(BooleanBuilder),
    Int8(PrimitiveBuilder<Int8Type>),
    Int16(PrimitiveBuilder<Int16Type>),
    Int32(PrimitiveBuilder<Int32Type>),
    Int64(PrimitiveBuilder<Int64Type>),
    UInt8(PrimitiveBuilder<UInt8Type>),
    UInt16(PrimitiveBuilder<UInt16Type>),
    UInt32(PrimitiveBuilder<UInt32Type>),
    UInt64(PrimitiveBuilder<UInt64Type>),
    Float32(PrimitiveBuilder<Float32Type>),
    Float64(PrimitiveBuilder<Float64Type>),
    Decimal128(Decimal128Builder, u8),
    Decimal256(Decimal256Builder, u8),
    Date(Date32Builder),
    DateTime(TimestampMicrosecondBuilder),
    Time(DurationMicrosecondBuilder),
    Text(StringBuilder),
    Bytes(BinaryBuilder),
    Canonical(StringBuilder, Canonical),
}

/// How a server's text becomes canonical text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Canonical {
    /// As it is.
    Same,
    /// Without the zeros that `ZEROFILL` puts in front.
    Number,
    /// A floating point number.
    Float,
    /// A date or date and time, which may be one that does not exist.
    Date,
}

impl Values {
    fn new(data_type: &DataType) -> Result<Self> {
        Ok(match data_type {
            DataType::Boolean => Values::Boolean(BooleanBuilder::with_capacity(BATCH_ROWS)),
            DataType::Int8 => Values::Int8(PrimitiveBuilder::with_capacity(BATCH_ROWS)),
            DataType::Int16 => Values::Int16(PrimitiveBuilder::with_capacity(BATCH_ROWS)),
            DataType::Int32 => Values::Int32(PrimitiveBuilder::with_capacity(BATCH_ROWS)),
            DataType::Int64 => Values::Int64(PrimitiveBuilder::with_capacity(BATCH_ROWS)),
            DataType::UInt8 => Values::UInt8(PrimitiveBuilder::with_capacity(BATCH_ROWS)),
            DataType::UInt16 => Values::UInt16(PrimitiveBuilder::with_capacity(BATCH_ROWS)),
            DataType::UInt32 => Values::UInt32(PrimitiveBuilder::with_capacity(BATCH_ROWS)),
            DataType::UInt64 => Values::UInt64(PrimitiveBuilder::with_capacity(BATCH_ROWS)),
            DataType::Float32 => Values::Float32(PrimitiveBuilder::with_capacity(BATCH_ROWS)),
            DataType::Float64 => Values::Float64(PrimitiveBuilder::with_capacity(BATCH_ROWS)),
            DataType::Decimal128(_, scale) => {
                let builder = Decimal128Builder::with_capacity(BATCH_ROWS).with_data_type(data_type.clone());
                Values::Decimal128(builder, scale.unsigned_abs())
            }
            DataType::Decimal256(_, scale) => {
                let builder = Decimal256Builder::with_capacity(BATCH_ROWS).with_data_type(data_type.clone());
                Values::Decimal256(builder, scale.unsigned_abs())
            }
            DataType::Date32 => Values::Date(Date32Builder::with_capacity(BATCH_ROWS)),
            DataType::Timestamp(TimeUnit::Microsecond, _) => {
                let builder = TimestampMicrosecondBuilder::with_capacity(BATCH_ROWS);
                Values::DateTime(builder.with_data_type(data_type.clone()))
            }
            DataType::Duration(TimeUnit::Microsecond) => {
                Values::Time(DurationMicrosecondBuilder::with_capacity(BATCH_ROWS))
            }
            DataType::Utf8 => Values::Text(StringBuilder::new()),
            DataType::Binary => Values::Bytes(BinaryBuilder::new()),
            other => return Err(Error::internal(format!("no text decoder for {other}"))),
        })
    }

    /// Appends a field; `None`: it is not a value of this type.
    #[inline]
    fn append(&mut self, field: Option<&[u8]>, options: DecodeOptions) -> Option<()> {
        macro_rules! each {
            ($($name:ident $read:expr),* $(,)?) => {
                match self {
                    $( Values::$name(b) => match field {
                        None => b.append_null(),
                        Some(text) => b.append_value($read(text)?),
                    }, )*
                    Values::Decimal128(b, scale) => match field {
                        None => b.append_null(),
                        Some(text) => b.append_value(decimal128(text, *scale)?),
                    },
                    Values::Decimal256(b, scale) => match field {
                        None => b.append_null(),
                        Some(text) => b.append_value(decimal256(text, *scale)?),
                    },
                    Values::Date(b) => b.append_option(existing(field.map(date), options)?),
                    Values::DateTime(b) => b.append_option(existing(field.map(date_time), options)?),
                    Values::Canonical(b, how) => canonical(b, *how, field, options)?,
                }
            };
        }
        each! {
            Boolean |t| unsigned(t).filter(|n| *n <= 1).map(|n| n == 1),
            Int8 |t| signed(t).and_then(|n| i8::try_from(n).ok()),
            Int16 |t| signed(t).and_then(|n| i16::try_from(n).ok()),
            Int32 |t| signed(t).and_then(|n| i32::try_from(n).ok()),
            Int64 signed,
            UInt8 |t| unsigned(t).and_then(|n| u8::try_from(n).ok()),
            UInt16 |t| unsigned(t).and_then(|n| u16::try_from(n).ok()),
            UInt32 |t| unsigned(t).and_then(|n| u32::try_from(n).ok()),
            UInt64 unsigned,
            Float32 |t| float(t).map(|n| n as f32),
            Float64 float,
            Time time,
            Text |t| std::str::from_utf8(t).ok(),
            Bytes Some,
        }
        Some(())
    }

    fn finish(&mut self, bytes: usize) -> ArrayRef {
        macro_rules! done {
            ($($name:ident),*) => {
                match self {
                    $( Values::$name(b) => Arc::new(b.finish()), )*
                    Values::Decimal128(b, _) => Arc::new(b.finish()),
                    Values::Decimal256(b, _) => Arc::new(b.finish()),
                    // The next batch will be about as large as this one.
                    Values::Text(b) | Values::Canonical(b, _) => {
                        Arc::new(std::mem::replace(b, StringBuilder::with_capacity(BATCH_ROWS, bytes)).finish())
                    }
                    Values::Bytes(b) => {
                        Arc::new(std::mem::replace(b, BinaryBuilder::with_capacity(BATCH_ROWS, bytes)).finish())
                    }
                }
            };
        }
        done!(Boolean, Int8, Int16, Int32, Int64, UInt8, UInt16, UInt32, UInt64, Float32, Float64, Date, DateTime, Time)
    }
}

/// A value that a server printed, as the only one of an array; `None`: it is none of that type. Bytes are hexadecimal
/// digits.
pub(super) fn constant(of: &MysqlType, printed: &str, options: DecodeOptions) -> Option<ArrayRef> {
    let mut values = Values::new(&of.data_type().to_arrow()).ok()?;
    match of {
        MysqlType::Binary { .. } | MysqlType::VarBinary { .. } | MysqlType::Blob { .. } => {
            values.append(Some(&unhex(printed)?), options)?;
        }
        _ => values.append(Some(printed.as_bytes()), options)?,
    }
    // Copied out of buffers that have room for a whole batch.
    arrow::compute::take(&values.finish(0), &UInt32Array::from(vec![0]), None).ok()
}

/// Makes batches of rows in the text protocol.
pub(super) struct RowDecoder {
    schema: SchemaRef,
    columns: Vec<Values>,
    /// Bytes of each column's values in this batch.
    widths: Vec<usize>,
    options: DecodeOptions,
    rows: usize,
    bytes: usize,
}

impl RowDecoder {
    /// For all columns of a table, selected by [`expression`].
    ///
    /// # Errors
    /// `Internal` for a type that MySQL does not have.
    pub(super) fn new(table: &TableSchema, options: DecodeOptions) -> Result<Self> {
        let fields = table.arrow_fields();
        let columns = fields.iter().map(|f| Values::new(f.data_type())).collect::<Result<Vec<_>>>()?;
        Ok(Self::with_columns(fields, columns, options))
    }

    /// For canonical text.
    pub(super) fn canonical(table: &TableSchema, how: Vec<Canonical>, options: DecodeOptions) -> Self {
        let fields = table.columns.iter().map(|c| Field::new(&c.name, DataType::Utf8, true)).collect();
        let columns = how.into_iter().map(|how| Values::Canonical(StringBuilder::new(), how)).collect();
        Self::with_columns(fields, columns, options)
    }

    fn with_columns(fields: Vec<Field>, columns: Vec<Values>, options: DecodeOptions) -> Self {
        let widths = vec![0; columns.len()];
        RowDecoder { schema: Arc::new(Schema::new(fields)), columns, widths, options, rows: 0, bytes: 0 }
    }

    #[inline]
    fn append(&mut self, payload: &[u8]) -> Result<()> {
        let mut fields = Fields::of(payload);
        for (i, column) in self.columns.iter_mut().enumerate() {
            let Some(field) = fields.next() else { return Err(Error::data("a row of the result is malformed")) };
            if column.append(field, self.options).is_none() {
                return Err(bad_value(self.schema.field(i), field.unwrap_or_default()));
            }
            self.widths[i] += field.map_or(0, <[u8]>::len);
        }
        self.rows += 1;
        self.bytes += payload.len();
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.rows >= BATCH_ROWS || self.bytes >= BATCH_BYTES
    }

    /// The next batch of a result, `None` at its end.
    ///
    /// # Errors
    /// The server's; `Data` for values that do not fit.
    pub(super) async fn fill(
        &mut self,
        rows: &mut TextRows<Connection>,
        table: &TableSchema,
    ) -> Result<Option<RecordBatch>> {
        let context = |e: Error| table_changed(e).with("table", &table.name);
        while !self.is_full() {
            while let Some(payload) = rows.buffered().map_err(context)? {
                self.append(payload).map_err(context)?;
                if self.is_full() {
                    break;
                }
            }
            if self.is_full() {
                break;
            }
            match rows.next().await.map_err(context)? {
                Some(payload) => self.append(payload).map_err(context)?,
                None => break,
            }
        }
        if self.rows == 0 { Ok(None) } else { self.finish().map(Some) }
    }

    fn finish(&mut self) -> Result<RecordBatch> {
        let mut columns: Vec<_> =
            self.columns.iter_mut().zip(&self.widths).map(|(c, bytes)| c.finish(*bytes)).collect();
        if self.rows < BATCH_ROWS / 2 {
            // Whoever keeps a table of few rows must not keep the room for many.
            columns.iter_mut().for_each(Array::shrink_to_fit);
        }
        self.widths.fill(0);
        (self.rows, self.bytes) = (0, 0);
        RecordBatch::try_new(Arc::clone(&self.schema), columns)
            .map_err(|e| Error::internal("decoded columns do not fit the table").because(e))
    }
}

fn bad_value(field: &Field, value: &[u8]) -> Error {
    let shown: String = String::from_utf8_lossy(value).chars().take(VALUE_SHOWN).collect();
    let error = match field.data_type() {
        DataType::Date32 | DataType::Timestamp(..) => no_such_date(&shown),
        other => Error::data(format!("'{shown}' cannot be stored as {other}")),
    };
    error.with("column", field.name())
}

/// A day that only MySQL has.
pub(super) fn no_such_date(text: &str) -> Error {
    Error::data(format!("the date {text} does not exist, so no target can store it"))
        .hint("correct the value at the source, or set zero_dates=null in its URL")
}

/// A result that becomes batches as it arrives.
pub(super) struct TextBatches {
    pub(super) rows: TextRows<Connection>,
    pub(super) decoder: RowDecoder,
    pub(super) table: Arc<TableSchema>,
}

#[async_trait]
impl BatchStream for TextBatches {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        let TextBatches { rows, decoder, table } = self;
        decoder.fill(rows, table).await
    }
}

/// Says it as an error of kind `Schema` when the server reports that a table is not what it was.
pub(super) fn table_changed(error: Error) -> Error {
    match server_error_number(&error) {
        // No such table, no such column, changed since the snapshot.
        Some(1146 | 1054 | 1412) => {
            Error::schema("the table is no longer as it was when its copy began").because(error)
        }
        _ => error,
    }
}

/// Digits, of which there are not too many.
#[inline]
fn unsigned(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    let mut n = 0_u64;
    if text.len() <= 19 {
        for b in text {
            let digit = b.wrapping_sub(b'0');
            if digit > 9 {
                return None;
            }
            n = n * 10 + u64::from(digit);
        }
        return Some(n);
    }
    for b in text {
        let digit = b.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        n = n.checked_mul(10)?.checked_add(u64::from(digit))?;
    }
    Some(n)
}

#[inline]
fn signed(text: &[u8]) -> Option<i64> {
    match text {
        [b'-', digits @ ..] => 0_i64.checked_sub_unsigned(unsigned(digits)?),
        digits => i64::try_from(unsigned(digits)?).ok(),
    }
}

fn float(text: &[u8]) -> Option<f64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Sign, digits in front of the point, digits behind it.
fn decimal_parts(text: &[u8], scale: u8) -> Option<(bool, &[u8], &[u8])> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    let point = digits.iter().position(|b| *b == b'.');
    let (whole, fraction) = match point {
        Some(at) => (&digits[..at], &digits[at + 1..]),
        None => (digits, &[][..]),
    };
    (fraction.len() == usize::from(scale)).then_some((negative, whole, fraction))
}

fn decimal128(text: &[u8], scale: u8) -> Option<i128> {
    let (negative, whole, fraction) = decimal_parts(text, scale)?;
    if whole.len() + fraction.len() <= 19 {
        let mut n = 0_i128;
        for b in whole.iter().chain(fraction) {
            let digit = b.wrapping_sub(b'0');
            if digit > 9 {
                return None;
            }
            n = n * 10 + i128::from(digit);
        }
        return Some(if negative { -n } else { n });
    }
    let mut n = 0_i128;
    for b in whole.iter().chain(fraction) {
        let digit = char::from(*b).to_digit(10)?;
        n = n.checked_mul(10)?.checked_add(i128::from(digit))?;
    }
    Some(if negative { -n } else { n })
}

fn decimal256(text: &[u8], scale: u8) -> Option<i256> {
    let (negative, whole, fraction) = decimal_parts(text, scale)?;
    let mut n = i256::ZERO;
    let digits: Vec<u8> = whole.iter().chain(fraction).copied().collect();
    for chunk in digits.chunks(18) {
        let part = i256::from_i128(i128::from(unsigned(chunk)?));
        n = n.checked_mul(i256::from_i128(10_i128.pow(chunk.len() as u32)))?.checked_add(part)?;
    }
    Some(if negative { n.wrapping_neg() } else { n })
}

/// A date that is read, with the outer `None` for text that is none and the inner for a day that does not exist.
type Day<T> = Option<Option<T>>;

/// What becomes of a field that may be such a day.
#[inline]
fn existing<T>(field: Option<Day<T>>, options: DecodeOptions) -> Option<Option<T>> {
    match field {
        None => Some(None),
        Some(None) => None,
        Some(Some(None)) if options.zero_dates == ZeroDates::Null => Some(None),
        Some(Some(None)) => None,
        Some(Some(value)) => Some(value),
    }
}

/// `2024-02-29`, as a day counted from 1970.
#[inline]
fn date(text: &[u8]) -> Day<i32> {
    let [y @ .., b'-', m1, m2, b'-', d1, d2] = text else { return None };
    let (year, month, day) = (unsigned(y)? as i64, two(*m1, *m2)?, two(*d1, *d2)?);
    if y.len() != 4 {
        return None;
    }
    if !(1..=12).contains(&month) || day == 0 || day > 31 {
        return Some(None);
    }
    let days = days_from_civil(year, month, day);
    if day > 28 && civil_from_days(days).1 != month {
        return Some(None);
    }
    Some(Some(days as i32))
}

/// `2024-02-29 23:59:59.000001`, in microseconds from 1970.
#[inline]
fn date_time(text: &[u8]) -> Day<i64> {
    let (day, clock) = text.split_at_checked(10)?;
    let [b' ', h1, h2, b':', m1, m2, b':', s1, s2, fraction @ ..] = clock else { return None };
    let (hours, minutes, seconds) = (two(*h1, *h2)?, two(*m1, *m2)?, two(*s1, *s2)?);
    let micros =
        micros(fraction)? + (i64::from(hours) * 3600 + i64::from(minutes) * 60 + i64::from(seconds)) * 1_000_000;
    Some(date(day)?.map(|day| i64::from(day) * DAY_MICROS + micros))
}

/// `-838:59:59.000001`, in microseconds.
fn time(text: &[u8]) -> Option<i64> {
    let (negative, text) = match text {
        [b'-', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let colon = text.iter().position(|b| *b == b':')?;
    let [b':', m1, m2, b':', s1, s2, fraction @ ..] = &text[colon..] else { return None };
    let hours = unsigned(&text[..colon]).filter(|h| *h < 1000)? as i64;
    let seconds = hours * 3600 + i64::from(two(*m1, *m2)?) * 60 + i64::from(two(*s1, *s2)?);
    let value = seconds * 1_000_000 + micros(fraction)?;
    Some(if negative { -value } else { value })
}

/// `.000001`, or nothing.
#[inline]
fn micros(text: &[u8]) -> Option<i64> {
    match text {
        [] => Some(0),
        [b'.', digits @ ..] if (1..=6).contains(&digits.len()) => {
            Some(unsigned(digits)? as i64 * 10_i64.pow(6 - digits.len() as u32))
        }
        _ => None,
    }
}

#[inline]
fn two(a: u8, b: u8) -> Option<u32> {
    let (a, b) = (a.wrapping_sub(b'0'), b.wrapping_sub(b'0'));
    (a <= 9 && b <= 9).then(|| u32::from(a) * 10 + u32::from(b))
}

/// Appends a field as canonical text.
fn canonical(b: &mut StringBuilder, how: Canonical, field: Option<&[u8]>, options: DecodeOptions) -> Option<()> {
    let Some(field) = field else {
        b.append_null();
        return Some(());
    };
    let text = std::str::from_utf8(field).ok()?;
    match how {
        Canonical::Same => b.append_value(text),
        Canonical::Number => {
            let (sign, digits) = text.strip_prefix('-').map_or(("", text), |d| ("-", d));
            let zeros = digits.bytes().take_while(|b| *b == b'0').count();
            // A zero stays before the point or at the end.
            let keep =
                if digits[zeros..].starts_with(|c: char| c.is_ascii_digit()) { zeros } else { zeros.saturating_sub(1) };
            b.append_value(format!("{sign}{}", &digits[keep..]));
        }
        Canonical::Float => b.append_value(format!("{:e}", float(field)?)),
        Canonical::Date => {
            let exists = if field.len() > 10 { date_time(field)?.is_some() } else { date(field)?.is_some() };
            match exists || options.zero_dates == ZeroDates::Error {
                true => b.append_value(text),
                false => b.append_null(),
            }
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_value_that_does_not_fit_is_named() {
        let date = bad_value(&Field::new("born", DataType::Date32, true), b"0000-00-00");
        assert_eq!(date.message, "the date 0000-00-00 does not exist, so no target can store it");
        assert!(date.hint.as_ref().is_some_and(|h| h.contains("zero_dates=null")), "{date}");
        let number = bad_value(&Field::new("n", DataType::Int8, true), b"300");
        assert!(number.to_string().contains("'300'") && number.to_string().contains("column: n"), "{number}");
    }

    #[test]
    fn values() {
        assert_eq!(unsigned(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(unsigned(b"18446744073709551616"), None);
        assert_eq!(unsigned(b"0000000000000000000000000005"), Some(5));
        assert_eq!(signed(b"-9223372036854775808"), Some(i64::MIN));
        assert_eq!(signed(b"9223372036854775808"), None);
        assert_eq!(decimal128(b"-0.05", 2), Some(-5));
        assert_eq!(decimal128(b"99999999999999999999999999999999999999", 0), Some(10_i128.pow(38) - 1));
        assert_eq!(decimal128(b"1.5", 2), None);
        assert_eq!(
            decimal256(b"-12345678901234567890123456789012345678901234567890.12", 2).map(|n| n.to_string()),
            Some("-1234567890123456789012345678901234567890123456789012".into())
        );
        assert_eq!(date(b"1970-01-02"), Some(Some(1)));
        assert_eq!(date(b"0000-00-00"), Some(None));
        assert_eq!(date(b"2023-02-29"), Some(None));
        assert_eq!(date(b"2024-02-29").flatten(), Some(19_782));
        assert_eq!(date(b"02024-02-29"), None);
        assert_eq!(date_time(b"1969-12-31 23:59:59.5"), Some(Some(-500_000)));
        assert_eq!(date_time(b"0000-00-00 00:00:00"), Some(None));
        assert_eq!(time(b"-838:59:59.000001"), Some(-3_020_399_000_001));
        assert_eq!(time(b"00:00:01"), Some(1_000_000));
        assert_eq!(time(b"1:2:3"), None);
    }

    #[test]
    fn canonical_text() {
        let show = |how, text: &str, zero_dates| {
            let mut b = StringBuilder::new();
            canonical(&mut b, how, Some(text.as_bytes()), DecodeOptions { zero_dates }).map(|()| {
                let array = b.finish();
                array.iter().next().flatten().map(str::to_string)
            })
        };
        for (how, text, want) in [
            (Canonical::Number, "00012.30", Some("12.30")),
            (Canonical::Number, "000.30", Some("0.30")),
            (Canonical::Number, "000", Some("0")),
            (Canonical::Number, "-7", Some("-7")),
            (Canonical::Float, "1.5", Some("1.5e0")),
            (Canonical::Float, "1e300", Some("1e300")),
            (Canonical::Date, "0000-00-00", None),
            (Canonical::Date, "2024-01-01 00:00:00", Some("2024-01-01 00:00:00")),
        ] {
            assert_eq!(show(how, text, ZeroDates::Null), Some(want.map(str::to_string)), "{text}");
        }
        assert_eq!(show(Canonical::Date, "0000-00-00", ZeroDates::Error), Some(Some("0000-00-00".into())));
    }

    proptest! {
        #[test]
        fn never_panics(text in proptest::collection::vec(any::<u8>(), 0..30)) {
            let _ = (unsigned(&text), signed(&text), float(&text), decimal128(&text, 3), decimal256(&text, 3));
            let _ = (date(&text), date_time(&text), time(&text));
        }

        #[test]
        fn dates_round_trip(micros in -62_135_596_800_000_000_i64..253_402_300_800_000_000) {
            let mut text = String::new();
            freshet_core::text::date_time(micros, 6, &mut text);
            prop_assert_eq!(date_time(text.as_bytes()), Some(Some(micros)));
            let mut text = String::new();
            freshet_core::text::duration(micros % 3_020_399_000_000, 6, &mut text);
            prop_assert_eq!(time(text.as_bytes()), Some(micros % 3_020_399_000_000));
        }
    }
}
