//! MySQL's and MariaDB's column types. [`MysqlType`] holds what a decoder needs to read a value; its text form is what
//! we store as a column's `source_type`. Discovery and the DDL parser both go through it, so that the same column has
//! the same text wherever it was seen: lower case, one name per type, no display widths, no collations.

use std::collections::HashMap;
use std::fmt;

use freshet_core::{DataType, Error, Result};

/// The longest member of an ENUM, in characters.
const ENUM_MEMBER_CHARS: u32 = 255;
/// The most bytes that a VARCHAR or VARBINARY can hold; longer ones silently become TEXT or BLOB outside strict mode.
const VARCHAR_MAX_BYTES: u64 = 65_535;
/// Digits of `DECIMAL` without arguments, and the most that a server takes.
const DECIMAL_DEFAULT: u8 = 10;
const DECIMAL_MAX: u8 = 65;

/// What to do with dates that do not exist (`0000-00-00`, `2024-00-10`), which no target can store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ZeroDates {
    /// The table is suspended with the value in the message.
    #[default]
    Error,
    /// They become NULL.
    Null,
}

/// How values are decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DecodeOptions {
    /// Dates that do not exist.
    pub zero_dates: ZeroDates,
}

/// Character sets that text columns may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Charset {
    /// UTF-8, up to 4 bytes a character.
    Utf8mb4,
    /// UTF-8 without the characters of 4 bytes; `utf8` for short.
    Utf8mb3,
    /// Windows-1252, the five bytes that it leaves open being C1 controls.
    Latin1,
    /// 7 bits.
    Ascii,
}

impl Charset {
    /// The server's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Charset::Utf8mb4 => "utf8mb4",
            Charset::Utf8mb3 => "utf8mb3",
            Charset::Latin1 => "latin1",
            Charset::Ascii => "ascii",
        }
    }

    /// The most bytes of one character.
    pub fn max_bytes(self) -> u32 {
        match self {
            Charset::Utf8mb4 => 4,
            Charset::Utf8mb3 => 3,
            Charset::Latin1 | Charset::Ascii => 1,
        }
    }
}

/// The four sizes of TEXT and BLOB; they differ in the bytes of their length alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LobSize {
    /// Up to 255 bytes.
    Tiny,
    /// Up to 64 KiB.
    Normal,
    /// Up to 16 MiB.
    Medium,
    /// Up to 4 GiB.
    Long,
}

impl LobSize {
    fn prefix(self) -> &'static str {
        match self {
            LobSize::Tiny => "tiny",
            LobSize::Normal => "",
            LobSize::Medium => "medium",
            LobSize::Long => "long",
        }
    }

    /// The smallest that holds so many bytes: what a server makes of `TEXT(n)`.
    fn for_bytes(bytes: u64) -> Self {
        match bytes {
            0..=255 => LobSize::Tiny,
            256..=65_535 => LobSize::Normal,
            65_536..=16_777_215 => LobSize::Medium,
            _ => LobSize::Long,
        }
    }
}

/// The type of a column, as far as it matters for reading its values.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum MysqlType {
    /// 8 bits.
    TinyInt { unsigned: bool },
    /// 16 bits.
    SmallInt { unsigned: bool },
    /// 24 bits.
    MediumInt { unsigned: bool },
    /// 32 bits.
    Int { unsigned: bool },
    /// 64 bits.
    BigInt { unsigned: bool },
    /// 1 to 64 bits.
    Bit { bits: u8 },
    /// Exact number: `precision` digits, `scale` of them behind the point.
    Decimal { precision: u8, scale: u8 },
    /// 32 bits IEEE 754.
    Float,
    /// 64 bits IEEE 754.
    Double,
    /// A day.
    Date,
    /// Day and time, 0–6 fractional digits.
    DateTime { digits: u8 },
    /// An instant, 0–6 fractional digits.
    Timestamp { digits: u8 },
    /// A duration of up to 838:59:59 either way, 0–6 fractional digits.
    Time { digits: u8 },
    /// 1901 to 2155, and 0.
    Year,
    /// Text without trailing spaces.
    Char { chars: u32, charset: Charset },
    /// Text.
    VarChar { chars: u32, charset: Charset },
    /// Text of up to 4 GiB.
    Text { size: LobSize, charset: Charset },
    /// Bytes of exactly this length: shorter values are padded with zeros, which the binlog leaves out again.
    Binary { length: u32 },
    /// Bytes.
    VarBinary { length: u32 },
    /// Bytes of up to 4 GiB.
    Blob { size: LobSize },
    /// One of these texts; stored as its place counted from 1, 0 being the empty text of an invalid value.
    Enum { members: Vec<String> },
    /// Any of these texts; stored as bits, the first member being the lowest.
    Set { members: Vec<String> },
    /// A JSON document: MySQL's binary form, or in MariaDB a `longtext` in utf8mb4 that is checked with `json_valid`.
    /// Which of the two a row event carries its table map says.
    Json,
}

impl MysqlType {
    /// Reads a `source_type`: what [`MysqlType`] prints, or `COLUMN_TYPE` of `information_schema` with
    /// ` character set X` behind it where it applies.
    ///
    /// # Errors
    /// `Unsupported` for types and character sets that we don't know; the caller adds the column's name.
    pub fn parse(source_type: &str) -> Result<Self> {
        TypeSpec::parse(source_type).and_then(|spec| spec.resolve(None))
    }

    /// The type that values have in Freshet.
    pub fn data_type(&self) -> DataType {
        match self {
            MysqlType::TinyInt { unsigned: false } => DataType::Int8,
            MysqlType::TinyInt { unsigned: true } => DataType::UInt8,
            MysqlType::SmallInt { unsigned: false } | MysqlType::Year => DataType::Int16,
            MysqlType::SmallInt { unsigned: true } => DataType::UInt16,
            MysqlType::MediumInt { unsigned: false } | MysqlType::Int { unsigned: false } => DataType::Int32,
            MysqlType::MediumInt { unsigned: true } | MysqlType::Int { unsigned: true } => DataType::UInt32,
            MysqlType::BigInt { unsigned: false } => DataType::Int64,
            MysqlType::BigInt { unsigned: true } => DataType::UInt64,
            MysqlType::Bit { bits: 1 } => DataType::Boolean,
            MysqlType::Bit { .. } => DataType::UInt64,
            MysqlType::Decimal { precision, scale } => DataType::Decimal { precision: *precision, scale: *scale },
            MysqlType::Float => DataType::Float32,
            MysqlType::Double => DataType::Float64,
            MysqlType::Date => DataType::Date,
            MysqlType::DateTime { digits } => DataType::DateTime { digits: *digits },
            MysqlType::Timestamp { digits } => DataType::Timestamp { digits: *digits },
            MysqlType::Time { digits } => DataType::Time { digits: *digits },
            MysqlType::Char { chars, .. } | MysqlType::VarChar { chars, .. } => {
                DataType::String { chars: Some(*chars) }
            }
            MysqlType::Enum { .. } => DataType::String { chars: Some(ENUM_MEMBER_CHARS) },
            MysqlType::Text { .. } | MysqlType::Set { .. } => DataType::TEXT,
            MysqlType::Binary { length } | MysqlType::VarBinary { length } => DataType::Bytes { length: Some(*length) },
            MysqlType::Blob { .. } => DataType::Bytes { length: None },
            MysqlType::Json => DataType::Json,
        }
    }
}

/// The canonical text, which [`MysqlType::parse`] reads back.
impl fmt::Display for MysqlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let int = |f: &mut fmt::Formatter<'_>, name: &str, unsigned: &bool| {
            write!(f, "{name}{}", if *unsigned { " unsigned" } else { "" })
        };
        let digits = |f: &mut fmt::Formatter<'_>, name: &str, digits: &u8| match digits {
            0 => f.write_str(name),
            n => write!(f, "{name}({n})"),
        };
        let members = |f: &mut fmt::Formatter<'_>, name: &str, members: &[String]| {
            let quoted: Vec<_> = members.iter().map(|m| freshet_core::schema::quote_text(m)).collect();
            write!(f, "{name}({})", quoted.join(","))
        };
        match self {
            MysqlType::TinyInt { unsigned } => int(f, "tinyint", unsigned),
            MysqlType::SmallInt { unsigned } => int(f, "smallint", unsigned),
            MysqlType::MediumInt { unsigned } => int(f, "mediumint", unsigned),
            MysqlType::Int { unsigned } => int(f, "int", unsigned),
            MysqlType::BigInt { unsigned } => int(f, "bigint", unsigned),
            MysqlType::Bit { bits } => write!(f, "bit({bits})"),
            MysqlType::Decimal { precision, scale } => write!(f, "decimal({precision},{scale})"),
            MysqlType::Float => f.write_str("float"),
            MysqlType::Double => f.write_str("double"),
            MysqlType::Date => f.write_str("date"),
            MysqlType::DateTime { digits: n } => digits(f, "datetime", n),
            MysqlType::Timestamp { digits: n } => digits(f, "timestamp", n),
            MysqlType::Time { digits: n } => digits(f, "time", n),
            MysqlType::Year => f.write_str("year"),
            MysqlType::Char { chars, charset } => write!(f, "char({chars}) character set {}", charset.name()),
            MysqlType::VarChar { chars, charset } => write!(f, "varchar({chars}) character set {}", charset.name()),
            MysqlType::Text { size, charset } => write!(f, "{}text character set {}", size.prefix(), charset.name()),
            MysqlType::Binary { length } => write!(f, "binary({length})"),
            MysqlType::VarBinary { length } => write!(f, "varbinary({length})"),
            MysqlType::Blob { size } => write!(f, "{}blob", size.prefix()),
            MysqlType::Enum { members: m } => members(f, "enum", m),
            MysqlType::Set { members: m } => members(f, "set", m),
            MysqlType::Json => f.write_str("json"),
        }
    }
}

/// The default character sets of a server: what a `CREATE TABLE` without one means.
///
/// They are read when a stream is opened, and followed in the log from there on. When somebody changed a database's
/// default behind the place where a stream is opened, and had created a table without a character set there before, the
/// table is taken with the wrong one (MySQL's table maps name the character sets, so there it is noticed).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Charsets {
    /// The server's, for databases that are not listed.
    pub server: String,
    /// By database.
    pub databases: HashMap<String, String>,
}

impl Charsets {
    /// The default of a database.
    pub fn of(&self, database: &str) -> &str {
        self.databases.get(database).unwrap_or(&self.server)
    }
}

/// The character set of a collation: every one but `binary` carries its name in front (`latin1_swedish_ci`). `None` for
/// MariaDB's `uca1400_…`, which go with several, and for none.
pub(super) fn charset_of_collation(collation: &str) -> Option<String> {
    let charset = collation.split_once('_').map_or(collation, |(charset, _)| charset);
    (!matches!(charset, "" | "uca1400" | "default")).then(|| charset.to_string())
}

/// A type as it is written, before names, defaults and lengths are resolved.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct TypeSpec {
    /// Name in lower case; of names of several words only the distinguishing one (`double precision`: `double`).
    pub(super) name: String,
    /// Numbers in parentheses.
    pub(super) numbers: Vec<u64>,
    /// Texts in parentheses.
    pub(super) members: Vec<String>,
    /// `UNSIGNED` or `ZEROFILL`.
    pub(super) unsigned: bool,
    /// `CHARACTER SET`.
    pub(super) charset: Option<String>,
    /// `COLLATE`.
    pub(super) collate: Option<String>,
    /// MariaDB's `COMPRESSED`.
    pub(super) compressed: bool,
}

impl TypeSpec {
    fn parse(text: &str) -> Result<Self> {
        let bad = || Error::unsupported(format!("type '{text}' cannot be read"));
        let mut spec = TypeSpec::default();
        let mut rest = text.trim_start();
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        spec.name = rest[..end].to_ascii_lowercase();
        rest = &rest[end..];
        if let Some(inside) = rest.strip_prefix('(') {
            let after = spec.arguments(inside).ok_or_else(bad)?;
            rest = &inside[after..];
        }
        spec.compressed = rest.to_ascii_lowercase().contains("compressed");
        let mut words = rest.split_ascii_whitespace();
        while let Some(word) = words.next() {
            match word.to_ascii_lowercase().as_str() {
                "unsigned" | "zerofill" => spec.unsigned = true,
                "character" => spec.charset = words.nth(1).map(str::to_ascii_lowercase),
                "charset" => spec.charset = words.next().map(str::to_ascii_lowercase),
                "collate" => spec.collate = words.next().map(str::to_ascii_lowercase),
                _ => {}
            }
        }
        Ok(spec)
    }

    /// Reads `1,2)` or `'a','b')`; gives the place behind it.
    fn arguments(&mut self, text: &str) -> Option<usize> {
        let mut chars = text.char_indices().peekable();
        while let Some((at, c)) = chars.next() {
            match c {
                ')' => return Some(at + 1),
                '\'' => {
                    let mut member = String::new();
                    loop {
                        match chars.next()?.1 {
                            '\'' if chars.peek().is_some_and(|(_, c)| *c == '\'') => {
                                chars.next();
                                member.push('\'');
                            }
                            '\'' => break,
                            '\\' => member.push(unescape(chars.next()?.1)),
                            other => member.push(other),
                        }
                    }
                    self.members.push(member);
                }
                digit if digit.is_ascii_digit() => {
                    let mut n = u64::from(digit.to_digit(10)?);
                    while let Some(d) = chars.peek().and_then(|(_, c)| c.to_digit(10)) {
                        n = n.checked_mul(10)?.checked_add(u64::from(d))?;
                        chars.next();
                    }
                    self.numbers.push(n);
                }
                ',' | ' ' => {}
                _ => return None,
            }
        }
        None
    }

    /// The type that a server makes of it. `default_charset` counts where the type names none; without one such a
    /// text type is an error.
    ///
    /// # Errors
    /// `Unsupported` for types and character sets that we don't know.
    pub(super) fn resolve(&self, default_charset: Option<&str>) -> Result<MysqlType> {
        let unsigned = self.unsigned;
        if self.compressed {
            return Err(Error::unsupported(format!("compressed column type {} is not supported", self.name))
                .hint("remove COMPRESSED from the column, or leave the table out of the job"));
        }
        Ok(match self.name.as_str() {
            "tinyint" | "int1" | "bool" | "boolean" => MysqlType::TinyInt { unsigned },
            "smallint" | "int2" => MysqlType::SmallInt { unsigned },
            "mediumint" | "int3" | "middleint" => MysqlType::MediumInt { unsigned },
            "int" | "integer" | "int4" => MysqlType::Int { unsigned },
            "bigint" | "int8" => MysqlType::BigInt { unsigned },
            "serial" => MysqlType::BigInt { unsigned: true },
            "bit" => MysqlType::Bit { bits: self.small(0, 1)?.clamp(1, 64) },
            "decimal" | "dec" | "numeric" | "fixed" => {
                let precision = match self.small(0, DECIMAL_DEFAULT)? {
                    0 => DECIMAL_DEFAULT,
                    n => n.min(DECIMAL_MAX),
                };
                MysqlType::Decimal { precision, scale: self.small(1, 0)?.min(precision) }
            }
            "float" if self.numbers.len() == 1 && self.numbers[0] > 24 => MysqlType::Double,
            "float" | "float4" => MysqlType::Float,
            "double" | "real" | "float8" => MysqlType::Double,
            "date" => MysqlType::Date,
            "datetime" => MysqlType::DateTime { digits: self.small(0, 0)?.min(6) },
            "timestamp" => MysqlType::Timestamp { digits: self.small(0, 0)?.min(6) },
            "time" => MysqlType::Time { digits: self.small(0, 0)?.min(6) },
            "year" => MysqlType::Year,
            "enum" => MysqlType::Enum { members: self.trimmed_members() },
            "set" => MysqlType::Set { members: self.trimmed_members() },
            "json" => MysqlType::Json,
            "binary" => MysqlType::Binary { length: self.length(1)? },
            "varbinary" => self.varbinary()?,
            "tinyblob" => MysqlType::Blob { size: LobSize::Tiny },
            "blob" => {
                MysqlType::Blob { size: self.numbers.first().map_or(LobSize::Normal, |n| LobSize::for_bytes(*n)) }
            }
            "mediumblob" => MysqlType::Blob { size: LobSize::Medium },
            "longblob" => MysqlType::Blob { size: LobSize::Long },
            "char" | "varchar" | "tinytext" | "text" | "mediumtext" | "longtext" => self.text(default_charset)?,
            "" => return Err(Error::unsupported("a column without a type")),
            other => {
                return Err(Error::unsupported(format!("column type {other} is not supported"))
                    .hint("leave the table out of the job, or change the column's type"));
            }
        })
    }

    fn text(&self, default_charset: Option<&str>) -> Result<MysqlType> {
        let charset = match self.charset(default_charset)? {
            Some(charset) => charset,
            None => return self.bytes_of_text(),
        };
        Ok(match self.name.as_str() {
            "char" => MysqlType::Char { chars: self.length(1)?, charset },
            "varchar" => {
                let chars = self.length(0)?;
                match u64::from(chars) * u64::from(charset.max_bytes()) {
                    0..=VARCHAR_MAX_BYTES => MysqlType::VarChar { chars, charset },
                    bytes => MysqlType::Text { size: LobSize::for_bytes(bytes), charset },
                }
            }
            "tinytext" => MysqlType::Text { size: LobSize::Tiny, charset },
            "mediumtext" => MysqlType::Text { size: LobSize::Medium, charset },
            "longtext" => MysqlType::Text { size: LobSize::Long, charset },
            _ => {
                let bytes = self.numbers.first().map(|n| n.saturating_mul(u64::from(charset.max_bytes())));
                MysqlType::Text { size: bytes.map_or(LobSize::Normal, LobSize::for_bytes), charset }
            }
        })
    }

    /// A text type in the character set `binary` is the byte type of the same size.
    fn bytes_of_text(&self) -> Result<MysqlType> {
        Ok(match self.name.as_str() {
            "char" => MysqlType::Binary { length: self.length(1)? },
            "varchar" => self.varbinary()?,
            "tinytext" => MysqlType::Blob { size: LobSize::Tiny },
            "mediumtext" => MysqlType::Blob { size: LobSize::Medium },
            "longtext" => MysqlType::Blob { size: LobSize::Long },
            _ => MysqlType::Blob { size: self.numbers.first().map_or(LobSize::Normal, |n| LobSize::for_bytes(*n)) },
        })
    }

    fn varbinary(&self) -> Result<MysqlType> {
        let length = self.length(0)?;
        Ok(match u64::from(length) {
            0..=VARCHAR_MAX_BYTES => MysqlType::VarBinary { length },
            bytes => MysqlType::Blob { size: LobSize::for_bytes(bytes) },
        })
    }

    /// The character set, `None` being `binary`.
    fn charset(&self, default: Option<&str>) -> Result<Option<Charset>> {
        let by_collation = self.collate.as_deref().and_then(charset_of_collation);
        let Some(name) = self.charset.as_deref().or(by_collation.as_deref()).or(default) else {
            return Err(Error::unsupported(format!("type {} without a character set", self.name)));
        };
        Ok(Some(match name {
            "utf8mb4" => Charset::Utf8mb4,
            "utf8" | "utf8mb3" => Charset::Utf8mb3,
            "latin1" => Charset::Latin1,
            "ascii" => Charset::Ascii,
            "binary" => return Ok(None),
            other => {
                return Err(Error::unsupported(format!("character set {other} is not supported")).hint(
                    "supported are utf8mb4, utf8mb3, latin1, ascii and binary: convert the column, or leave the \
                     table out of the job",
                ));
            }
        }))
    }

    /// Trailing spaces of members are removed by the server when a table is created.
    fn trimmed_members(&self) -> Vec<String> {
        self.members.iter().map(|m| m.trim_end_matches(' ').to_string()).collect()
    }

    fn small(&self, place: usize, default: u8) -> Result<u8> {
        match self.numbers.get(place) {
            None => Ok(default),
            Some(n) => u8::try_from(*n).map_err(|_| self.out_of_range(*n)),
        }
    }

    fn length(&self, default: u32) -> Result<u32> {
        match self.numbers.first() {
            None => Ok(default),
            Some(n) => u32::try_from(*n).map_err(|_| self.out_of_range(*n)),
        }
    }

    fn out_of_range(&self, n: u64) -> Error {
        Error::unsupported(format!("type {}: length {n} is out of range", self.name))
    }
}

/// The character that a backslash escape in a MySQL text stands for.
pub(super) fn unescape(c: char) -> char {
    match c {
        '0' => '\0',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'b' => '\u{8}',
        'Z' => '\u{1a}',
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_text_and_type() {
        for (given, text, data_type) in [
            ("tinyint(1)", "tinyint", "int8"),
            ("TINYINT(3) unsigned zerofill", "tinyint unsigned", "uint8"),
            ("smallint(6)", "smallint", "int16"),
            ("mediumint(9)", "mediumint", "int32"),
            ("mediumint unsigned", "mediumint unsigned", "uint32"),
            ("int(10) unsigned", "int unsigned", "uint32"),
            ("bigint(20) unsigned", "bigint unsigned", "uint64"),
            ("bit(1)", "bit(1)", "boolean"),
            ("bit(64)", "bit(64)", "uint64"),
            ("decimal(10,0)", "decimal(10,0)", "decimal(10,0)"),
            ("decimal(65,30) unsigned", "decimal(65,30)", "decimal(65,30)"),
            ("float(7,4) unsigned", "float", "float32"),
            ("double", "double", "float64"),
            ("datetime(6)", "datetime(6)", "datetime(6)"),
            ("datetime /* mariadb-5.3 */", "datetime", "datetime(0)"),
            ("timestamp(3)", "timestamp(3)", "timestamp(3)"),
            ("time", "time", "time(0)"),
            ("year(4)", "year", "int16"),
            (
                "varchar(20) character set latin1 collate latin1_swedish_ci",
                "varchar(20) character set latin1",
                "string(20)",
            ),
            ("char(5) collate utf8mb3_bin", "char(5) character set utf8mb3", "string(5)"),
            ("longtext character set utf8", "longtext character set utf8mb3", "string"),
            ("varchar(9) character set binary", "varbinary(9)", "bytes(9)"),
            ("binary(16)", "binary(16)", "bytes(16)"),
            ("mediumblob", "mediumblob", "bytes"),
            (
                "enum('a','b''c','d\\\\e','ü, )') character set utf8mb4",
                "enum('a','b''c','d\\\\e','ü, )')",
                "string(255)",
            ),
            ("set('x','y')", "set('x','y')", "string"),
            ("json", "json", "json"),
        ] {
            let parsed = MysqlType::parse(given).unwrap();
            assert_eq!(parsed.to_string(), text, "{given}");
            assert_eq!(parsed.data_type().to_string(), data_type, "{given}");
            assert_eq!(MysqlType::parse(text).unwrap(), parsed, "{text}");
        }
    }

    #[test]
    fn refused() {
        for (given, why) in [
            ("geometry", "column type geometry is not supported"),
            ("vector(3)", "column type vector is not supported"),
            ("varchar(3) character set gbk", "character set gbk is not supported"),
            ("varchar(3)", "without a character set"),
            ("varchar(50) /*M!100301 COMPRESSED*/ character set utf8mb4", "compressed"),
            ("enum('a", "cannot be read"),
            ("int(99999999999999999999999)", "cannot be read"),
            ("", "without a type"),
        ] {
            let error = MysqlType::parse(given).unwrap_err();
            assert_eq!(error.kind, freshet_core::ErrorKind::Unsupported, "{given}");
            assert!(error.message.contains(why), "{given}: {error}");
        }
    }
}
