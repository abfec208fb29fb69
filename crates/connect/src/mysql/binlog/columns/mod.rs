//! From a value's bytes in a row event to an Arrow builder. A column is a [`Width`], which says how many bytes a value
//! takes, and a plain function that decodes exactly those bytes. To add a type: give it a width in [`width`], a function
//! in the file of its family, and a line in [`plan`].

mod json;
mod number;
mod temporal;
mod text;

use std::sync::Arc;

use arrow::array::*;
use arrow::datatypes::DataType as Arrow;
use freshet_core::{Error, Result};

use super::super::text_values::no_such_date;
use super::super::types::{LobSize, MysqlType, ZeroDates};
use super::super::wire::Cursor;

/// Numbers of the types in table maps.
pub(super) mod wire_type {
    pub(in super::super) const TINY: u8 = 1;
    pub(in super::super) const SHORT: u8 = 2;
    pub(in super::super) const LONG: u8 = 3;
    pub(in super::super) const FLOAT: u8 = 4;
    pub(in super::super) const DOUBLE: u8 = 5;
    pub(in super::super) const TIMESTAMP: u8 = 7;
    pub(in super::super) const LONGLONG: u8 = 8;
    pub(in super::super) const INT24: u8 = 9;
    pub(in super::super) const DATE: u8 = 10;
    pub(in super::super) const TIME: u8 = 11;
    pub(in super::super) const DATETIME: u8 = 12;
    pub(in super::super) const YEAR: u8 = 13;
    pub(in super::super) const NEWDATE: u8 = 14;
    pub(in super::super) const VARCHAR: u8 = 15;
    pub(in super::super) const BIT: u8 = 16;
    pub(in super::super) const TIMESTAMP2: u8 = 17;
    pub(in super::super) const DATETIME2: u8 = 18;
    pub(in super::super) const TIME2: u8 = 19;
    pub(in super::super) const BLOB_COMPRESSED: u8 = 140;
    pub(in super::super) const VARCHAR_COMPRESSED: u8 = 141;
    pub(in super::super) const VECTOR: u8 = 242;
    pub(in super::super) const JSON: u8 = 245;
    pub(in super::super) const NEWDECIMAL: u8 = 246;
    pub(in super::super) const ENUM: u8 = 247;
    pub(in super::super) const SET: u8 = 248;
    pub(in super::super) const TINY_BLOB: u8 = 249;
    pub(in super::super) const MEDIUM_BLOB: u8 = 250;
    pub(in super::super) const LONG_BLOB: u8 = 251;
    pub(in super::super) const BLOB: u8 = 252;
    pub(in super::super) const VAR_STRING: u8 = 253;
    pub(in super::super) const STRING: u8 = 254;
    pub(in super::super) const GEOMETRY: u8 = 255;
}
use wire_type::*;

/// How many bytes a value takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Width {
    /// Always so many.
    Fixed(usize),
    /// A length of so many bytes in front says.
    Counted(u8),
}

impl Width {
    /// Cuts a value off.
    #[inline]
    pub(super) fn cut<'a>(self, c: &mut Cursor<'a>) -> Option<&'a [u8]> {
        let n = match self {
            Width::Fixed(n) => n,
            Width::Counted(1) => usize::from(c.u8()?),
            Width::Counted(2) => usize::from(c.u16()?),
            Width::Counted(3) => c.u24()? as usize,
            Width::Counted(_) => c.u32()? as usize,
        };
        c.take(n)
    }
}

/// The width of a type with its metadata as in the table map (low byte first); `None`: unknown type or odd metadata.
pub(super) fn width(kind: u8, meta: u16) -> Option<Width> {
    let [low, high] = meta.to_le_bytes();
    let fraction = usize::from(low).div_ceil(2);
    Some(match kind {
        TINY | YEAR => Width::Fixed(1),
        SHORT => Width::Fixed(2),
        INT24 | DATE | NEWDATE | TIME => Width::Fixed(3),
        LONG | FLOAT | TIMESTAMP => Width::Fixed(4),
        LONGLONG | DOUBLE | DATETIME => Width::Fixed(8),
        TIMESTAMP2 if low <= 6 => Width::Fixed(4 + fraction),
        DATETIME2 if low <= 6 => Width::Fixed(5 + fraction),
        TIME2 if low <= 6 => Width::Fixed(3 + fraction),
        BIT => Width::Fixed(usize::from(high) + usize::from(low > 0)),
        NEWDECIMAL => Width::Fixed(number::decimal_bytes(low, high)?),
        ENUM | SET if matches!(high, 1..=8) => Width::Fixed(usize::from(high)),
        STRING | VAR_STRING | VARCHAR | VARCHAR_COMPRESSED => Width::Counted(if meta > 255 { 2 } else { 1 }),
        TINY_BLOB | MEDIUM_BLOB | LONG_BLOB | BLOB | BLOB_COMPRESSED | JSON | GEOMETRY | VECTOR
            if matches!(low, 1..=4) =>
        {
            Width::Counted(low)
        }
        _ => return None,
    })
}

/// Why a value cannot be decoded. Small: this is the error of the hot path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Bad {
    /// The bytes end too early, or are not of the type's form.
    Malformed,
    /// Bytes that are no characters of that character set.
    NotText(&'static str),
    /// A day that does not exist.
    NoSuchDate(String),
    /// Something that we don't read.
    Unknown(&'static str),
}

impl Bad {
    pub(super) fn error(self) -> Error {
        match self {
            Bad::Malformed => Error::data("a value in the log is malformed"),
            Bad::NotText(charset) => Error::data(format!("a value is not valid in its character set {charset}"))
                .hint("repair the value at the source, or change the column's type to VARBINARY or BLOB"),
            Bad::NoSuchDate(text) => no_such_date(&text),
            Bad::Unknown(what) => Error::unsupported(format!("a value in the log cannot be read: {what}")),
        }
    }
}

/// What a decoding function needs to know about its column.
#[derive(Debug, Clone)]
pub(super) struct Params {
    pub(super) wanted: MysqlType,
    pub(super) zero_dates: ZeroDates,
}

/// Decodes a value's bytes and appends it.
pub(super) type Decode = fn(&[u8], &Params, &mut Builder) -> Result<(), Bad>;

/// How a column is decoded.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) width: Width,
    pub(super) decode: Decode,
    pub(super) params: Params,
}

/// How values of this type in the log become values of the column `wanted`.
///
/// # Errors
/// What the log has, in words, when that does not fit the column.
pub(super) fn plan(kind: u8, meta: u16, wanted: &MysqlType, zero_dates: ZeroDates) -> Result<Plan, String> {
    let mismatch = || format!("type {kind} with metadata {meta}");
    let [low, high] = meta.to_le_bytes();
    let width = width(kind, meta).ok_or_else(mismatch)?;
    let decode: Decode = match (kind, wanted) {
        (TINY, MysqlType::TinyInt { unsigned: false }) => number::int8,
        (TINY, MysqlType::TinyInt { unsigned: true }) => number::uint8,
        (SHORT, MysqlType::SmallInt { unsigned: false }) => number::int16,
        (SHORT, MysqlType::SmallInt { unsigned: true }) => number::uint16,
        (INT24, MysqlType::MediumInt { unsigned: false }) => number::int24,
        (INT24, MysqlType::MediumInt { unsigned: true }) => number::uint24,
        (LONG, MysqlType::Int { unsigned: false }) => number::int32,
        (LONG, MysqlType::Int { unsigned: true }) => number::uint32,
        (LONGLONG, MysqlType::BigInt { unsigned: false }) => number::int64,
        (LONGLONG, MysqlType::BigInt { unsigned: true }) => number::uint64,
        (FLOAT, MysqlType::Float) => number::float,
        (DOUBLE, MysqlType::Double) => number::double,
        (BIT, MysqlType::Bit { bits }) if u16::from(*bits) == u16::from(high) * 8 + u16::from(low) => match bits {
            1 => number::bit,
            _ => number::bits,
        },
        (NEWDECIMAL, MysqlType::Decimal { precision, scale }) if (low, high) == (*precision, *scale) => {
            if *precision <= 38 { number::decimal128 } else { number::decimal256 }
        }
        (YEAR, MysqlType::Year) => temporal::year,
        (DATE | NEWDATE, MysqlType::Date) => temporal::date,
        (DATETIME2, MysqlType::DateTime { digits }) if low == *digits => temporal::datetime,
        (TIMESTAMP2, MysqlType::Timestamp { digits }) if low == *digits => temporal::timestamp,
        (TIME2, MysqlType::Time { digits }) if low == *digits => temporal::time,
        (DATETIME, MysqlType::DateTime { digits: 0 }) => temporal::old_datetime,
        (TIMESTAMP, MysqlType::Timestamp { digits: 0 }) => temporal::old_timestamp,
        (TIME, MysqlType::Time { digits: 0 }) => temporal::old_time,
        (VARCHAR | VAR_STRING, MysqlType::VarChar { chars, charset })
        | (STRING, MysqlType::Char { chars, charset })
            if u32::from(meta) == chars * charset.max_bytes() =>
        {
            text::string(*charset)
        }
        (VARCHAR | VAR_STRING, MysqlType::VarBinary { length }) if u32::from(meta) == *length => text::bytes,
        (STRING, MysqlType::Binary { length }) if u32::from(meta) == *length => text::padded_bytes,
        (TINY_BLOB | MEDIUM_BLOB | LONG_BLOB | BLOB, MysqlType::Text { size, charset })
            if low == length_bytes(*size) =>
        {
            text::string(*charset)
        }
        (TINY_BLOB | MEDIUM_BLOB | LONG_BLOB | BLOB, MysqlType::Blob { size }) if low == length_bytes(*size) => {
            text::bytes
        }
        (ENUM, MysqlType::Enum { .. }) => text::enumeration,
        (SET, MysqlType::Set { .. }) => text::set,
        (JSON, MysqlType::Json) => json::json,
        (BLOB | LONG_BLOB, MysqlType::Json) => text::utf8,
        _ => return Err(mismatch()),
    };
    Ok(Plan { width, decode, params: Params { wanted: wanted.clone(), zero_dates } })
}

fn length_bytes(size: LobSize) -> u8 {
    match size {
        LobSize::Tiny => 1,
        LobSize::Normal => 2,
        LobSize::Medium => 3,
        LobSize::Long => 4,
    }
}

macro_rules! builders {
    ($($name:ident($builder:ty => $array:ty)),* $(,)?) => {
        /// The builder of a column, of the Arrow type that the column's type has.
        #[derive(Debug)]
        pub(super) enum Builder { $($name($builder)),* }

        impl Builder {
            /// Appends NULL.
            #[inline]
            pub(super) fn append_null(&mut self) {
                match self { $(Builder::$name(b) => b.append_null()),* }
            }

            /// Appends the only value of an array of the same type.
            pub(super) fn append_constant(&mut self, value: &dyn Array) -> Result<(), Bad> {
                match self { $(Builder::$name(b) => match value.as_any().downcast_ref::<$array>() {
                    Some(array) if array.len() == 1 => b.append_value(array.value(0)),
                    _ => return Err(Bad::Malformed),
                }),* }
                Ok(())
            }

            /// The column, leaving the builder empty.
            pub(super) fn finish(&mut self) -> ArrayRef {
                match self { $(Builder::$name(b) => Arc::new(b.finish())),* }
            }
        }
    };
}
builders!(
    Boolean(BooleanBuilder => BooleanArray),
    Int8(Int8Builder => Int8Array),
    Int16(Int16Builder => Int16Array),
    Int32(Int32Builder => Int32Array),
    Int64(Int64Builder => Int64Array),
    UInt8(UInt8Builder => UInt8Array),
    UInt16(UInt16Builder => UInt16Array),
    UInt32(UInt32Builder => UInt32Array),
    UInt64(UInt64Builder => UInt64Array),
    Float32(Float32Builder => Float32Array),
    Float64(Float64Builder => Float64Array),
    Decimal128(Decimal128Builder => Decimal128Array),
    Decimal256(Decimal256Builder => Decimal256Array),
    Date(Date32Builder => Date32Array),
    Timestamp(TimestampMicrosecondBuilder => TimestampMicrosecondArray),
    Duration(DurationMicrosecondBuilder => DurationMicrosecondArray),
    String(StringBuilder => StringArray),
    Bytes(BinaryBuilder => BinaryArray),
);

impl Builder {
    /// An empty builder of a column's type.
    ///
    /// # Errors
    /// `Internal` for types that no column of MySQL has.
    pub(super) fn new(wanted: &MysqlType) -> Result<Self> {
        let arrow = wanted.data_type().to_arrow();
        Ok(match &arrow {
            Arrow::Boolean => Builder::Boolean(BooleanBuilder::new()),
            Arrow::Int8 => Builder::Int8(Int8Builder::new()),
            Arrow::Int16 => Builder::Int16(Int16Builder::new()),
            Arrow::Int32 => Builder::Int32(Int32Builder::new()),
            Arrow::Int64 => Builder::Int64(Int64Builder::new()),
            Arrow::UInt8 => Builder::UInt8(UInt8Builder::new()),
            Arrow::UInt16 => Builder::UInt16(UInt16Builder::new()),
            Arrow::UInt32 => Builder::UInt32(UInt32Builder::new()),
            Arrow::UInt64 => Builder::UInt64(UInt64Builder::new()),
            Arrow::Float32 => Builder::Float32(Float32Builder::new()),
            Arrow::Float64 => Builder::Float64(Float64Builder::new()),
            Arrow::Decimal128(..) => Builder::Decimal128(Decimal128Builder::new().with_data_type(arrow)),
            Arrow::Decimal256(..) => Builder::Decimal256(Decimal256Builder::new().with_data_type(arrow)),
            Arrow::Date32 => Builder::Date(Date32Builder::new()),
            Arrow::Timestamp(..) => Builder::Timestamp(TimestampMicrosecondBuilder::new().with_data_type(arrow)),
            Arrow::Duration(_) => Builder::Duration(DurationMicrosecondBuilder::new()),
            Arrow::Utf8 => Builder::String(StringBuilder::new()),
            Arrow::Binary => Builder::Bytes(BinaryBuilder::new()),
            other => return Err(Error::internal(format!("no builder for {other}"))),
        })
    }
}

/// Appends to a builder that `plan` chose together with the decoding function.
macro_rules! append {
    ($out:expr, $kind:ident, $value:expr) => {
        match $out {
            $crate::mysql::binlog::columns::Builder::$kind(b) => {
                b.append_value($value);
                Ok(())
            }
            _ => Err($crate::mysql::binlog::columns::Bad::Malformed),
        }
    };
}
use append;

#[cfg(test)]
mod tests;
