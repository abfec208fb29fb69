//! MySQL's binary JSON as the text that the server prints for it.
//!
//! A value is a byte of type and its bytes. Objects and arrays begin with their number of items and their size, then
//! the places of the keys, the values' types with their places (small ones stand there themselves), then the contents;
//! numbers and places take 2 bytes, in the large forms 4.

use std::fmt::Write;

use super::super::super::wire::Cursor;
use super::text::put;
use super::{Bad, Builder, Params, number, temporal, wire_type};

/// The server's limit.
const DEPTH: usize = 100;

const SMALL_OBJECT: u8 = 0;
const LARGE_OBJECT: u8 = 1;
const SMALL_ARRAY: u8 = 2;
const LARGE_ARRAY: u8 = 3;
const LITERAL: u8 = 4;
const INT16: u8 = 5;
const UINT16: u8 = 6;
const INT32: u8 = 7;
const UINT32: u8 = 8;
const INT64: u8 = 9;
const UINT64: u8 = 10;
const DOUBLE: u8 = 11;
const STRING: u8 = 12;
const OPAQUE: u8 = 15;

pub(super) fn json(bytes: &[u8], _: &Params, out: &mut Builder) -> Result<(), Bad> {
    let mut text = String::with_capacity(bytes.len() * 2);
    document(bytes, &mut text)?;
    put(&text, out)
}

/// Appends the text of a document.
pub(super) fn document(bytes: &[u8], out: &mut String) -> Result<(), Bad> {
    match bytes.split_first() {
        // What an invalid value became outside strict mode; the server shows it so, too.
        None => {
            out.push_str("null");
            Ok(())
        }
        Some((kind, rest)) => {
            // Places may be shared in a forged document: the work is bounded by what an honest one can hold.
            let mut budget = bytes.len();
            value(*kind, rest, 0, &mut budget, out)
        }
    }
}

fn value(kind: u8, bytes: &[u8], depth: usize, budget: &mut usize, out: &mut String) -> Result<(), Bad> {
    let mut c = Cursor::new(bytes);
    let done = match kind {
        SMALL_OBJECT | LARGE_OBJECT | SMALL_ARRAY | LARGE_ARRAY => return container(kind, bytes, depth, budget, out),
        LITERAL => match c.u8() {
            Some(0) => write!(out, "null"),
            Some(1) => write!(out, "true"),
            Some(2) => write!(out, "false"),
            _ => return Err(Bad::Malformed),
        },
        INT16 => write!(out, "{}", c.u16().ok_or(Bad::Malformed)? as i16),
        UINT16 => write!(out, "{}", c.u16().ok_or(Bad::Malformed)?),
        INT32 => write!(out, "{}", c.u32().ok_or(Bad::Malformed)? as i32),
        UINT32 => write!(out, "{}", c.u32().ok_or(Bad::Malformed)?),
        INT64 => write!(out, "{}", c.u64().ok_or(Bad::Malformed)? as i64),
        UINT64 => write!(out, "{}", c.u64().ok_or(Bad::Malformed)?),
        DOUBLE => {
            double(f64::from_bits(c.u64().ok_or(Bad::Malformed)?), out);
            Ok(())
        }
        STRING => {
            let bytes = counted(&mut c).ok_or(Bad::Malformed)?;
            spend(budget, bytes.len())?;
            string(bytes, out)?;
            Ok(())
        }
        OPAQUE => return opaque(c, budget, out),
        _ => return Err(Bad::Unknown("a JSON value of an unknown type")),
    };
    done.map_err(|_| Bad::Malformed)
}

fn spend(budget: &mut usize, bytes: usize) -> Result<(), Bad> {
    *budget = budget.checked_sub(bytes).ok_or(Bad::Malformed)?;
    Ok(())
}

/// Bytes behind a length of 7 bits a byte, low ones first.
fn counted<'a>(c: &mut Cursor<'a>) -> Option<&'a [u8]> {
    let mut length = 0_usize;
    for i in 0..5 {
        let b = c.u8()?;
        length |= usize::from(b & 0x7F) << (7 * i);
        if b & 0x80 == 0 {
            return c.take(length);
        }
    }
    None
}

fn container(kind: u8, bytes: &[u8], depth: usize, budget: &mut usize, out: &mut String) -> Result<(), Bad> {
    if depth >= DEPTH {
        return Err(Bad::Unknown("JSON nested more than 100 deep"));
    }
    let large = matches!(kind, LARGE_OBJECT | LARGE_ARRAY);
    let object = matches!(kind, SMALL_OBJECT | LARGE_OBJECT);
    let offset = |c: &mut Cursor<'_>| if large { c.u32().map(|n| n as usize) } else { c.u16().map(usize::from) };
    let mut head = Cursor::new(bytes);
    let (count, size) = offset(&mut head).zip(offset(&mut head)).ok_or(Bad::Malformed)?;
    let bytes = bytes.get(..size).ok_or(Bad::Malformed)?;
    let width = if large { 4 } else { 2 };
    let mut keys = Cursor::new(bytes.get(2 * width..).ok_or(Bad::Malformed)?);
    let mut values = keys;
    if object {
        values.take(count.checked_mul(width + 2).ok_or(Bad::Malformed)?).ok_or(Bad::Malformed)?;
    }
    out.push(if object { '{' } else { '[' });
    for i in 0..count {
        spend(budget, 1 + width)?;
        if i > 0 {
            out.push_str(", ");
        }
        if object {
            let (at, length) = offset(&mut keys).zip(keys.u16()).ok_or(Bad::Malformed)?;
            let key = bytes.get(at..).and_then(|b| b.get(..usize::from(length))).ok_or(Bad::Malformed)?;
            spend(budget, key.len())?;
            string(key, out)?;
            out.push_str(": ");
        }
        let kind = values.u8().ok_or(Bad::Malformed)?;
        let inlined = matches!(kind, LITERAL | INT16 | UINT16) || large && matches!(kind, INT32 | UINT32);
        let place = values.take(width).ok_or(Bad::Malformed)?;
        let content = if inlined {
            place
        } else {
            let at = offset(&mut Cursor::new(place)).ok_or(Bad::Malformed)?;
            bytes.get(at..).ok_or(Bad::Malformed)?
        };
        value(kind, content, depth + 1, budget, out)?;
    }
    out.push(if object { '}' } else { ']' });
    Ok(())
}

/// In quotes, escaped as the server does.
fn string(bytes: &[u8], out: &mut String) -> Result<(), Bad> {
    let text = std::str::from_utf8(bytes).map_err(|_| Bad::NotText("utf8mb4"))?;
    out.push('"');
    let mut plain = 0;
    for (i, b) in text.bytes().enumerate() {
        if b >= 0x20 && b != b'"' && b != b'\\' {
            continue;
        }
        out.push_str(&text[plain..i]);
        plain = i + 1;
        match b {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            0x08 => out.push_str("\\b"),
            b'\t' => out.push_str("\\t"),
            b'\n' => out.push_str("\\n"),
            0x0C => out.push_str("\\f"),
            b'\r' => out.push_str("\\r"),
            other => {
                let _ = write!(out, "\\u{other:04x}");
            }
        }
    }
    out.push_str(&text[plain..]);
    out.push('"');
    Ok(())
}

/// The shortest digits that read back as the same number, in the server's form: an exponent below 1e-15 and from 1e15
/// on, and `.0` behind whole numbers.
fn double(d: f64, out: &mut String) {
    let scientific = format!("{d:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |m| ("-", m));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    out.push_str(sign);
    if !(-15..15).contains(&exponent) {
        let _ = write!(out, "{mantissa}e{exponent}");
        return;
    }
    if exponent < 0 {
        out.push_str("0.");
        out.extend(std::iter::repeat_n('0', (-exponent - 1) as usize));
        out.push_str(&digits);
        return;
    }
    let whole = exponent as usize + 1;
    if digits.len() <= whole {
        out.push_str(&digits);
        out.extend(std::iter::repeat_n('0', whole - digits.len()));
        out.push_str(".0");
    } else {
        out.push_str(&digits[..whole]);
        out.push('.');
        out.push_str(&digits[whole..]);
    }
}

/// A value of one of SQL's types that JSON does not have.
fn opaque(mut c: Cursor<'_>, budget: &mut usize, out: &mut String) -> Result<(), Bad> {
    let kind = c.u8().ok_or(Bad::Malformed)?;
    let bytes = counted(&mut c).ok_or(Bad::Malformed)?;
    spend(budget, bytes.len())?;
    let packed = || bytes.try_into().map(u64::from_le_bytes).map_err(|_| Bad::Malformed);
    match kind {
        wire_type::NEWDECIMAL => {
            let [precision, scale, digits @ ..] = bytes else { return Err(Bad::Malformed) };
            return number::decimal_text(digits, *precision, *scale, out);
        }
        wire_type::DATE | wire_type::DATETIME | wire_type::TIMESTAMP => {
            out.push('"');
            temporal::json_datetime(packed()?, kind == wire_type::DATE, out);
        }
        wire_type::TIME => {
            out.push('"');
            temporal::json_time(packed()?, out);
        }
        other => {
            let _ = write!(out, "\"base64:type{other}:");
            base64(bytes, out);
        }
    }
    out.push('"');
    Ok(())
}

/// As the server does it: a line feed (escaped) after each 76 characters but not at the end.
fn base64(bytes: &[u8], out: &mut String) {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (i, chunk) in bytes.chunks(3).enumerate() {
        if i > 0 && i % 19 == 0 {
            out.push_str("\\n");
        }
        let n = chunk.iter().chain(&[0, 0]).take(3).fold(0_u32, |sum, b| sum << 8 | u32::from(*b));
        for place in 0..4 {
            match place <= chunk.len() {
                true => out.push(char::from(DIGITS[(n >> (18 - 6 * place) & 63) as usize])),
                false => out.push('='),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn doubles(d: f64) -> String {
        let mut out = String::new();
        double(d, &mut out);
        out
    }

    #[test]
    fn doubles_as_the_server_prints_them() {
        for (d, text) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (1.5, "1.5"),
            (-1234.5, "-1234.5"),
            (1e14, "100000000000000.0"),
            (1e15, "1e15"),
            (123456789012345.0, "123456789012345.0"),
            (1.5e300, "1.5e300"),
            (1e-15, "0.000000000000001"),
            (1e-16, "1e-16"),
            (0.1, "0.1"),
        ] {
            assert_eq!(doubles(d), text);
        }
    }

    #[test]
    fn strings() {
        let mut out = String::new();
        string("a\"\\\u{8}\t\n\u{c}\r\u{1}\u{1f}\u{7f}/äé😀".as_bytes(), &mut out).unwrap();
        assert_eq!(out, "\"a\\\"\\\\\\b\\t\\n\\f\\r\\u0001\\u001f\u{7f}/äé😀\"");
        assert_eq!(string(&[0xFF], &mut out), Err(Bad::NotText("utf8mb4")));
    }

    #[test]
    fn a_document() {
        // {"a": 1, "b": [true, "x"]}
        let inner = [2, 0, 12, 0, 4, 1, 0, 12, 10, 0, 1, b'x'];
        let mut bytes = vec![0, 2, 0, 32, 0, 18, 0, 1, 0, 19, 0, 1, 0, 5, 1, 0, 2, 20, 0, b'a', b'b'];
        bytes.extend_from_slice(&inner);
        let mut out = String::new();
        document(&bytes, &mut out).unwrap();
        assert_eq!(out, r#"{"a": 1, "b": [true, "x"]}"#);
        for n in 1..bytes.len() {
            assert!(document(&bytes[..n], &mut String::new()).is_err());
        }
    }

    proptest! {
        #[test]
        fn bad_bytes_never_panic(kind in 0u8..16, bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let mut all = vec![kind];
            all.extend_from_slice(&bytes);
            let mut out = String::new();
            let _ = document(&all, &mut out);
            prop_assert!(out.len() < 100_000);
        }

        #[test]
        fn doubles_read_back(bits: u64) {
            let d = f64::from_bits(bits);
            prop_assume!(d.is_finite());
            prop_assert_eq!(doubles(d).parse::<f64>().unwrap().to_bits(), d.to_bits());
        }
    }
}
