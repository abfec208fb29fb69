//! Columns as MySQL describes them: the type, character set, length and flags that a client sees for a field of an
//! Arrow schema. What Arrow's type leaves open (the digits of a time, JSON) is in the field's metadata.

use arrow::datatypes::{DataType, Field, TimeUnit};
use mysql_common::constants::{ColumnFlags, ColumnType};

use super::packet::{put_counted, put_length};
use crate::backend::TYPE_KEY;

/// utf8mb4_general_ci: every client knows it.
pub(super) const UTF8MB4: u16 = 45;
/// Numbers, times and bytes.
const BINARY: u16 = 63;
/// Bytes of a text whose type has no limit: what a client may reserve for it.
const TEXT_LENGTH: u32 = 65_533;

/// A column of a result set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Column {
    name: String,
    kind: ColumnType,
    charset: u16,
    /// Longest value, in bytes of text.
    length: u32,
    flags: ColumnFlags,
    /// Digits behind the point: of numbers and of seconds.
    pub(super) decimals: u8,
}

/// Digits behind the point that a client takes as "as many as there are".
const FLOATING: u8 = 31;

impl Column {
    /// The description of a field.
    pub(super) fn of(field: &Field) -> Self {
        use ColumnType::*;
        let declared = field.metadata().get(TYPE_KEY).map_or("", String::as_str);
        let text = (MYSQL_TYPE_VAR_STRING, TEXT_LENGTH, 0);
        let (kind, length, decimals) = match value_type(field.data_type()) {
            DataType::Null => (MYSQL_TYPE_NULL, 0, 0),
            DataType::Boolean => (MYSQL_TYPE_TINY, 1, 0),
            DataType::Int8 | DataType::UInt8 => (MYSQL_TYPE_TINY, 4, 0),
            DataType::Int16 | DataType::UInt16 => (MYSQL_TYPE_SHORT, 6, 0),
            DataType::Int32 | DataType::UInt32 => (MYSQL_TYPE_LONG, 11, 0),
            DataType::Int64 | DataType::UInt64 => (MYSQL_TYPE_LONGLONG, 20, 0),
            DataType::Float16 | DataType::Float32 => (MYSQL_TYPE_FLOAT, 12, FLOATING),
            DataType::Float64 => (MYSQL_TYPE_DOUBLE, 22, FLOATING),
            DataType::Decimal32(p, s)
            | DataType::Decimal64(p, s)
            | DataType::Decimal128(p, s)
            | DataType::Decimal256(p, s) => (MYSQL_TYPE_NEWDECIMAL, u32::from(*p) + 2, s.max(&0).unsigned_abs()),
            DataType::Date32 | DataType::Date64 => (MYSQL_TYPE_DATE, 10, 0),
            DataType::Timestamp(unit, zone) => {
                let digits = declared_digits(declared).unwrap_or_else(|| digits_of(unit));
                let kind = if zone.is_some() { MYSQL_TYPE_TIMESTAMP } else { MYSQL_TYPE_DATETIME };
                (kind, 19 + fraction(digits), digits)
            }
            DataType::Time32(unit) | DataType::Time64(unit) | DataType::Duration(unit) => {
                let digits = declared_digits(declared).unwrap_or_else(|| digits_of(unit));
                (MYSQL_TYPE_TIME, 10 + fraction(digits), digits)
            }
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
                (MYSQL_TYPE_BLOB, TEXT_LENGTH, 0)
            }
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => match declared_length(declared) {
                Some(bytes) => (MYSQL_TYPE_VAR_STRING, bytes, 0),
                None => text,
            },
            _ => text,
        };
        let is_text = kind == MYSQL_TYPE_VAR_STRING;
        let mut flags = ColumnFlags::empty();
        flags.set(ColumnFlags::NOT_NULL_FLAG, !field.is_nullable());
        flags.set(ColumnFlags::UNSIGNED_FLAG, value_type(field.data_type()).is_unsigned_integer());
        // Not for numbers: Connector/J takes a binary TINYINT(1) for bytes instead of a boolean.
        let is_binary = matches!(
            kind,
            MYSQL_TYPE_BLOB | MYSQL_TYPE_DATE | MYSQL_TYPE_TIME | MYSQL_TYPE_DATETIME | MYSQL_TYPE_TIMESTAMP
        );
        flags.set(ColumnFlags::BINARY_FLAG, is_binary);
        flags.set(ColumnFlags::BLOB_FLAG, kind == MYSQL_TYPE_BLOB);
        let charset = if is_text { UTF8MB4 } else { BINARY };
        Column { name: field.name().clone(), kind, charset, length, flags, decimals }
    }

    /// Appends the column definition.
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        put_counted(out, b"def");
        // Schema, table and the table's own name: a result's columns belong to none.
        out.extend_from_slice(&[0; 3]);
        put_counted(out, self.name.as_bytes());
        put_counted(out, self.name.as_bytes());
        put_length(out, 12);
        out.extend_from_slice(&self.charset.to_le_bytes());
        out.extend_from_slice(&self.length.to_le_bytes());
        out.push(self.kind as u8);
        out.extend_from_slice(&self.flags.bits().to_le_bytes());
        out.push(self.decimals);
        out.extend_from_slice(&[0; 2]);
    }

    /// Appends the definition that stands for one parameter of a prepared statement.
    pub(super) fn put_parameter(out: &mut Vec<u8>) {
        let parameter = Column {
            name: "?".into(),
            kind: ColumnType::MYSQL_TYPE_VAR_STRING,
            charset: BINARY,
            length: 0,
            flags: ColumnFlags::BINARY_FLAG,
            decimals: 0,
        };
        parameter.put(out);
    }

    /// The column's name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

/// The type of the values themselves, behind a dictionary.
pub(super) fn value_type(data_type: &DataType) -> &DataType {
    match data_type {
        DataType::Dictionary(_, values) => value_type(values),
        plain => plain,
    }
}

fn fraction(digits: u8) -> u32 {
    if digits == 0 { 0 } else { u32::from(digits) + 1 }
}

fn digits_of(unit: &TimeUnit) -> u8 {
    match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 3,
        TimeUnit::Microsecond | TimeUnit::Nanosecond => 6,
    }
}

/// The number in parentheses of `datetime(3)`; 0 for a plain `datetime`, as in DDL.
fn declared_digits(declared: &str) -> Option<u8> {
    let is_time = ["datetime", "timestamp", "time"].iter().any(|t| declared.starts_with(t));
    is_time.then(|| parenthesised(declared).unwrap_or(0).min(6) as u8)
}

/// The number in parentheses of `varchar(40)` and `char(40)`.
fn declared_length(declared: &str) -> Option<u32> {
    if declared.starts_with("varchar") || declared.starts_with("char") { parenthesised(declared) } else { None }
}

fn parenthesised(declared: &str) -> Option<u32> {
    let (_, rest) = declared.split_once('(')?;
    rest.split_once(')')?.0.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn of(data_type: DataType, declared: &str) -> Column {
        let metadata = HashMap::from([(TYPE_KEY.to_string(), declared.to_string())]);
        Column::of(&Field::new("c", data_type, true).with_metadata(metadata))
    }

    #[test]
    fn types() {
        use ColumnType::*;
        let micros = || DataType::Timestamp(TimeUnit::Microsecond, None);
        assert_eq!((of(micros(), "datetime(3)").decimals, of(micros(), "datetime(3)").length), (3, 23));
        assert_eq!((of(micros(), "datetime").decimals, of(micros(), "").decimals), (0, 6));
        let instant = of(DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), "timestamptz(6)");
        assert_eq!((instant.kind, instant.length), (MYSQL_TYPE_TIMESTAMP, 26));
        assert_eq!(of(DataType::Utf8, "varchar(40)").length, 40);
        assert_eq!(of(DataType::Boolean, "").flags, ColumnFlags::empty());
        assert_eq!(of(DataType::Utf8View, "string").charset, UTF8MB4);
        assert_eq!(of(DataType::Binary, "").charset, BINARY);
        assert!(of(DataType::UInt64, "").flags.contains(ColumnFlags::UNSIGNED_FLAG));
        let decimal = of(DataType::Decimal128(10, 2), "decimal(10,2)");
        assert_eq!((decimal.kind, decimal.length, decimal.decimals), (MYSQL_TYPE_NEWDECIMAL, 12, 2));
        let dictionary = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
        assert_eq!(of(dictionary, "").kind, MYSQL_TYPE_VAR_STRING);
    }
}
