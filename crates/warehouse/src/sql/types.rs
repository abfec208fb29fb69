//! Types in Doris's statements and in what clients are told: parsing `VARCHAR(20)`, naming a column's type as Doris and
//! as MySQL do, sizes and digits for `information_schema`.

use freshet_core::{DataType, Error, Result, datatype::Doris};

use super::lexer::{Cursor, Token};
use crate::catalog::TableColumn;

/// Deepest nesting of `ARRAY<…>`.
const DEPTH: usize = 8;

/// Reads a type, and the bytes that a text of it may have.
///
/// # Errors
/// A syntax error, or `Unsupported` for a type that the warehouse does not store.
pub(crate) fn parse(c: &mut Cursor<'_>) -> Result<(DataType, Option<u32>)> {
    parse_nested(c, 0)
}

fn parse_nested(c: &mut Cursor<'_>, depth: usize) -> Result<(DataType, Option<u32>)> {
    let at = c.offset();
    let mut declared = None;
    let Some(Token::Word(word)) = c.advance() else { return Err(c.error("expected a type")) };
    let word = word.to_uppercase();
    let data_type = match word.as_str() {
        "BOOLEAN" | "BOOL" => DataType::Boolean,
        "TINYINT" | "SMALLINT" | "MEDIUMINT" | "INT" | "INTEGER" | "BIGINT" | "LARGEINT" => {
            c.skip_brackets()?;
            let unsigned = c.eat("UNSIGNED");
            match (word.as_str(), unsigned) {
                ("TINYINT", false) => DataType::Int8,
                ("TINYINT", true) | ("SMALLINT", false) => DataType::Int16,
                ("SMALLINT", true) | ("MEDIUMINT" | "INT" | "INTEGER", false) => DataType::Int32,
                ("MEDIUMINT" | "INT" | "INTEGER", true) | ("BIGINT", false) => DataType::Int64,
                _ => DataType::Int128,
            }
        }
        "FLOAT" => DataType::Float32,
        "DOUBLE" => DataType::Float64,
        "DECIMAL" | "DECIMALV3" | "NUMERIC" | "DEC" => {
            let (precision, scale) = numbers(c)?;
            // Doris's own defaults.
            let (precision, scale) =
                (precision.unwrap_or(38), scale.unwrap_or(if precision.is_some() { 0 } else { 9 }));
            if precision == 0 || precision > 76 || scale > precision {
                return Err(c.error(format!("DECIMAL({precision},{scale}): at most 76 digits, the scale at most that")));
            }
            DataType::Decimal { precision: precision as u8, scale: scale as u8 }
        }
        "DATE" | "DATEV2" => DataType::Date,
        "DATETIME" | "DATETIMEV2" | "TIMESTAMP" => DataType::DateTime { digits: digits(c)? },
        "TIMESTAMPTZ" => DataType::Timestamp { digits: digits(c)? },
        "CHAR" | "CHARACTER" | "VARCHAR" => {
            c.eat("VARYING");
            let bytes = match c.eat_symbol("(") {
                false => {
                    if word == "VARCHAR" {
                        65_533
                    } else {
                        1
                    }
                }
                true if c.eat_symbol("*") => {
                    c.expect_symbol(")")?;
                    65_533
                }
                true => {
                    let n = c.integer()?;
                    c.expect_symbol(")")?;
                    n
                }
            };
            let bytes = u32::try_from(bytes).map_err(|_| c.error("this length is too big"))?;
            declared = Some(bytes);
            // Lengths are bytes in Doris and characters in our types; four bytes are enough for any character.
            DataType::String { chars: Some(bytes.div_ceil(4)) }
        }
        "STRING" | "TEXT" => DataType::TEXT,
        "VARBINARY" | "BINARY" => {
            let (length, _) = numbers(c)?;
            DataType::Bytes { length }
        }
        "JSON" | "JSONB" => DataType::Json,
        "ARRAY" if depth < DEPTH => {
            c.expect_symbol("<")?;
            let (item, _) = parse_nested(c, depth + 1)?;
            // `ARRAY<ARRAY<INT>>` ends in one token of two brackets.
            if !c.eat_half(">>", ">") {
                c.expect_symbol(">")?;
            }
            DataType::Array(Box::new(item))
        }
        "MAP" | "STRUCT" | "VARIANT" | "BITMAP" | "HLL" | "QUANTILE_STATE" | "AGG_STATE" | "IPV4" | "IPV6"
        | "TIMESTAMP_NS" | "TIME" => {
            return Err(Error::unsupported(format!("the warehouse does not store {word} yet"))
                .hint("JSON or STRING can hold such values as text"));
        }
        _ => return Err(c.error_at(at, format!("{word} is not a type"))),
    };
    Ok((data_type, declared))
}

fn numbers(c: &mut Cursor<'_>) -> Result<(Option<u32>, Option<u32>)> {
    if !c.eat_symbol("(") {
        return Ok((None, None));
    }
    let small = |c: &mut Cursor<'_>| -> Result<u32> {
        let n = c.integer()?;
        u32::try_from(n).map_err(|_| c.error("this number is too big"))
    };
    let first = small(c)?;
    let second = if c.eat_symbol(",") { Some(small(c)?) } else { None };
    c.expect_symbol(")")?;
    Ok((Some(first), second))
}

fn digits(c: &mut Cursor<'_>) -> Result<u8> {
    match numbers(c)?.0.unwrap_or(0) {
        n @ 0..=6 => Ok(n as u8),
        n => Err(c.error(format!("{n} fractional digits: at most 6"))),
    }
}

/// The type as Doris's SHOW and DESC print it, which our parser reads back: lower case, `varchar(20)`.
pub(crate) fn doris_name(data_type: &DataType, in_key: bool) -> String {
    data_type.to_doris(Doris::Embedded, in_key).to_lowercase()
}

/// A column's type as [`doris_name`], with its declared length.
pub(crate) fn declared(column: &TableColumn, in_key: bool) -> String {
    match (&column.data_type, column.max_bytes()) {
        (DataType::String { .. }, Some(n)) => format!("varchar({n})"),
        (DataType::Bytes { .. }, Some(n)) => format!("varbinary({n})"),
        (other, _) => doris_name(other, in_key),
    }
}

/// `DATA_TYPE` of `information_schema.columns`: a type that MySQL's clients know.
pub(crate) fn mysql_name(data_type: &DataType) -> &'static str {
    match data_type {
        DataType::Boolean | DataType::Int8 => "tinyint",
        DataType::Int16 | DataType::UInt8 => "smallint",
        DataType::Int32 | DataType::UInt16 => "int",
        DataType::Int64 | DataType::UInt32 => "bigint",
        DataType::Int128 | DataType::UInt64 => "bigint unsigned",
        DataType::Float32 => "float",
        DataType::Float64 => "double",
        DataType::Decimal { .. } => "decimal",
        DataType::Date => "date",
        DataType::DateTime { .. } => "datetime",
        DataType::Timestamp { .. } => "timestamptz",
        DataType::Bytes { .. } => "varbinary",
        DataType::Json => "json",
        DataType::Array(_) => "array",
        DataType::String { .. } | DataType::UInt128 | DataType::Time { .. } => "varchar",
    }
}

/// Numbers that clients are told about a type.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sizes {
    /// Characters of a text, bytes of a byte string.
    pub(crate) length: Option<u64>,
    /// Decimal digits of a number.
    pub(crate) precision: Option<u64>,
    /// Digits behind the point.
    pub(crate) scale: Option<u64>,
    /// Fractional digits of a time.
    pub(crate) digits: Option<u64>,
}

/// The numbers of a column's type.
pub(crate) fn sizes(column: &TableColumn, in_key: bool) -> Sizes {
    let none = Sizes::default();
    let number = |precision, scale| Sizes { precision: Some(precision), scale: Some(scale), ..none };
    match &column.data_type {
        DataType::Boolean => none,
        DataType::Int8 => number(3, 0),
        DataType::Int16 | DataType::UInt8 => number(5, 0),
        DataType::Int32 | DataType::UInt16 => number(10, 0),
        DataType::Int64 | DataType::UInt32 => number(19, 0),
        DataType::Int128 | DataType::UInt64 => number(39, 0),
        DataType::Float32 => number(7, 7),
        DataType::Float64 => number(15, 15),
        DataType::Decimal { precision, scale } => number(u64::from(*precision), u64::from(*scale)),
        DataType::DateTime { digits } | DataType::Timestamp { digits } => {
            Sizes { digits: Some(u64::from(*digits)), ..none }
        }
        DataType::Date | DataType::Json | DataType::Array(_) => none,
        _ => {
            let name = declared(column, in_key);
            let length = name.split_once('(').and_then(|(_, n)| n.trim_end_matches(')').parse().ok());
            Sizes { length: length.or(Some(2_147_483_643)), ..none }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<DataType> {
        let mut c = Cursor::new(text)?;
        let (t, _) = parse(&mut c)?;
        c.end()?;
        Ok(t)
    }

    #[test]
    fn what_the_sink_plans_reads_back() {
        use DataType::*;
        let types = [
            Boolean,
            Int8,
            Int16,
            Int32,
            Int64,
            Int128,
            Float32,
            Float64,
            Date,
            Json,
            Decimal { precision: 10, scale: 2 },
            Decimal { precision: 76, scale: 30 },
            DateTime { digits: 0 },
            DateTime { digits: 6 },
            Timestamp { digits: 3 },
            String { chars: Some(20) },
            DataType::TEXT,
            Bytes { length: None },
            Array(Box::new(Array(Box::new(Decimal { precision: 5, scale: 1 })))),
        ];
        for t in types {
            assert_eq!(read(&t.to_doris(Doris::Embedded, false)).unwrap(), t);
            assert_eq!(read(&doris_name(&t, false)).unwrap(), t);
        }
        assert_eq!(doris_name(&read("VARCHAR(65533)").unwrap(), true), "varchar(65533)");
    }

    #[test]
    fn other_forms_and_errors() {
        assert_eq!(read("int(11) unsigned").unwrap(), DataType::Int64);
        assert_eq!(read("decimal").unwrap(), DataType::Decimal { precision: 38, scale: 9 });
        assert_eq!(read("varchar(*)").unwrap(), DataType::String { chars: Some(16384) });
        for wrong in ["decimal(77,0)", "datetime(7)", "intt", "array<int", "varchar(-1)", "bitmap"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
