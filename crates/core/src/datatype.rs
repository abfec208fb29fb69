//! The types that values have between source and sink, with total functions to Arrow, to Doris's and to StarRocks's
//! DDL. The tables in `docs/types.md` are generated from here. A new source type is a new mapping *to* one of these;
//! a new variant here is rare and touches every sink.

use arrow::datatypes::{DataType as Arrow, Field, TimeUnit};
use std::fmt;
use std::sync::Arc;

/// The type of a column's values.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DataType {
    /// True or false.
    Boolean,
    /// 8 bits, signed.
    Int8,
    /// 16 bits, signed.
    Int16,
    /// 32 bits, signed.
    Int32,
    /// 64 bits, signed.
    Int64,
    /// 128 bits, signed.
    Int128,
    /// 8 bits, unsigned.
    UInt8,
    /// 16 bits, unsigned.
    UInt16,
    /// 32 bits, unsigned.
    UInt32,
    /// 64 bits, unsigned.
    UInt64,
    /// 128 bits, unsigned.
    UInt128,
    /// Exact number: at most 76 digits, `scale` of them behind the point.
    Decimal { precision: u8, scale: u8 },
    /// IEEE 754, 32 bits.
    Float32,
    /// IEEE 754, 64 bits.
    Float64,
    /// A day of the proleptic Gregorian calendar.
    Date,
    /// Day and time of day without a zone, with 0–6 fractional digits.
    DateTime { digits: u8 },
    /// An instant, with 0–6 fractional digits; held in UTC.
    Timestamp { digits: u8 },
    /// A signed duration (MySQL's TIME, -838:59:59 to 838:59:59), with 0–6 fractional digits.
    Time { digits: u8 },
    /// Unicode text; at most so many characters, `None`: no limit known.
    String { chars: Option<u32> },
    /// Bytes; at most so many, `None`: no limit known.
    Bytes { length: Option<u32> },
    /// A JSON document, as text.
    Json,
    /// A list.
    Array(Box<DataType>),
}

/// Which Doris a statement is for. The embedded warehouse stores two types that a cluster cannot: bytes and instants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doris {
    /// An Apache Doris cluster.
    Cluster,
    /// The warehouse inside the binary.
    Embedded,
}

/// Bytes that Doris reserves for a character: utf8mb4 takes up to 4.
const BYTES_PER_CHAR: u32 = 4;
/// The longest VARCHAR of Doris, in bytes.
const DORIS_VARCHAR_MAX: u32 = 65533;
/// The longest VARCHAR of StarRocks, in bytes.
const STARROCKS_VARCHAR_MAX: u32 = 1_048_576;

impl DataType {
    /// Text without a limit.
    pub const TEXT: DataType = DataType::String { chars: None };

    /// The Arrow type of this column in a change batch.
    ///
    /// `Int128` uses `Decimal128(38, 0)` as 128 plain bits: values of 39 digits are kept, too. `Time` is
    /// `Duration(µs)`, because Arrow's time of day can be neither negative nor beyond a day.
    pub fn to_arrow(&self) -> Arrow {
        match self {
            DataType::Boolean => Arrow::Boolean,
            DataType::Int8 => Arrow::Int8,
            DataType::Int16 => Arrow::Int16,
            DataType::Int32 => Arrow::Int32,
            DataType::Int64 => Arrow::Int64,
            DataType::Int128 => Arrow::Decimal128(38, 0),
            DataType::UInt8 => Arrow::UInt8,
            DataType::UInt16 => Arrow::UInt16,
            DataType::UInt32 => Arrow::UInt32,
            DataType::UInt64 => Arrow::UInt64,
            DataType::UInt128 => Arrow::Decimal256(39, 0),
            DataType::Decimal { precision, scale } if *precision <= 38 => Arrow::Decimal128(*precision, *scale as i8),
            DataType::Decimal { precision, scale } => Arrow::Decimal256(*precision, *scale as i8),
            DataType::Float32 => Arrow::Float32,
            DataType::Float64 => Arrow::Float64,
            DataType::Date => Arrow::Date32,
            DataType::DateTime { .. } => Arrow::Timestamp(TimeUnit::Microsecond, None),
            DataType::Timestamp { .. } => Arrow::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            DataType::Time { .. } => Arrow::Duration(TimeUnit::Microsecond),
            DataType::String { .. } | DataType::Json => Arrow::Utf8,
            DataType::Bytes { .. } => Arrow::Binary,
            DataType::Array(item) => Arrow::List(Arc::new(Field::new("item", item.to_arrow(), true))),
        }
    }

    /// The type in Doris's DDL. Unsigned integers take the next wider signed type; what Doris cannot hold exactly
    /// becomes text. `in_key`: a STRING cannot be a key column there, so it becomes the longest VARCHAR.
    pub fn to_doris(&self, which: Doris, in_key: bool) -> String {
        match self {
            DataType::Boolean => "BOOLEAN".into(),
            DataType::Int8 => "TINYINT".into(),
            DataType::Int16 | DataType::UInt8 => "SMALLINT".into(),
            DataType::Int32 | DataType::UInt16 => "INT".into(),
            DataType::Int64 | DataType::UInt32 => "BIGINT".into(),
            DataType::Int128 | DataType::UInt64 => "LARGEINT".into(),
            DataType::UInt128 => "VARCHAR(39)".into(),
            DataType::Decimal { precision, scale } if *precision <= 38 => format!("DECIMAL({precision},{scale})"),
            DataType::Decimal { precision, scale } if which == Doris::Embedded => {
                format!("DECIMAL({precision},{scale})")
            }
            DataType::Decimal { .. } => "VARCHAR(80)".into(),
            DataType::Float32 => "FLOAT".into(),
            DataType::Float64 => "DOUBLE".into(),
            DataType::Date => "DATE".into(),
            DataType::DateTime { digits } => format!("DATETIME({digits})"),
            DataType::Timestamp { digits } if which == Doris::Embedded => format!("TIMESTAMPTZ({digits})"),
            DataType::Timestamp { digits } => format!("DATETIME({digits})"),
            DataType::Time { .. } => "VARCHAR(17)".into(),
            DataType::String { chars } => {
                let bytes = chars.map(|n| u64::from(n.max(1)) * u64::from(BYTES_PER_CHAR));
                match bytes {
                    Some(n) if n <= u64::from(DORIS_VARCHAR_MAX) => format!("VARCHAR({n})"),
                    _ if in_key => format!("VARCHAR({DORIS_VARCHAR_MAX})"),
                    _ => "STRING".into(),
                }
            }
            DataType::Bytes { .. } if which == Doris::Embedded => "VARBINARY".into(),
            DataType::Bytes { .. } if in_key => format!("VARCHAR({DORIS_VARCHAR_MAX})"),
            DataType::Bytes { .. } => "STRING".into(),
            DataType::Json => "JSON".into(),
            DataType::Array(item) => format!("ARRAY<{}>", item.to_doris(which, false)),
        }
    }

    /// The type in StarRocks's DDL.
    pub fn to_starrocks(&self) -> String {
        match self {
            DataType::Decimal { precision, .. } if *precision > 38 => "VARCHAR(80)".into(),
            DataType::DateTime { .. } | DataType::Timestamp { .. } => "DATETIME".into(),
            DataType::String { chars } => {
                let bytes = chars.map_or(u64::MAX, |n| u64::from(n.max(1)) * u64::from(BYTES_PER_CHAR));
                format!("VARCHAR({})", bytes.min(u64::from(STARROCKS_VARCHAR_MAX)))
            }
            DataType::Bytes { .. } => "VARBINARY".into(),
            DataType::Array(item) => format!("ARRAY<{}>", item.to_starrocks()),
            other => other.to_doris(Doris::Cluster, false),
        }
    }
}

/// As people write it: `decimal(10,2)`, `datetime(6)`, `array<string>`.
impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DataType::Decimal { precision, scale } => write!(f, "decimal({precision},{scale})"),
            DataType::DateTime { digits } => write!(f, "datetime({digits})"),
            DataType::Timestamp { digits } => write!(f, "timestamp({digits})"),
            DataType::Time { digits } => write!(f, "time({digits})"),
            DataType::String { chars: Some(n) } => write!(f, "string({n})"),
            DataType::String { chars: None } => write!(f, "string"),
            DataType::Bytes { length: Some(n) } => write!(f, "bytes({n})"),
            DataType::Bytes { length: None } => write!(f, "bytes"),
            DataType::Array(item) => write!(f, "array<{item}>"),
            plain => write!(f, "{}", format!("{plain:?}").to_lowercase()),
        }
    }
}
