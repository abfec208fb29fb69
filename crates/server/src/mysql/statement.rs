//! Prepared statements: where a statement's placeholders are, the parameters that a client sends in binary form, and the
//! statement with the parameters in it as literals. A literal is written so that no value can end it early.

use std::borrow::Cow;
use std::fmt::Write;

use freshet_core::{Error, Result};
use mysql_common::constants::ColumnType;

use super::fault::Fault;
use super::packet::{Malformed, Reader};

/// The highest server version whose executable comments (`/*!50799 … */`) hold code, as in the warehouse's SQL.
const VERSION: u32 = 50_799;

/// A statement that was prepared.
pub(super) struct Statement {
    /// The text between the placeholders: one part more than there are placeholders.
    parts: Vec<String>,
    /// Types that the client sent last, with the unsigned flag.
    types: Vec<(u8, bool)>,
    /// Values sent ahead by COM_STMT_SEND_LONG_DATA.
    long: Vec<Option<Vec<u8>>>,
}

impl Statement {
    /// Takes a statement apart.
    ///
    /// # Errors
    /// Fault 1390 for more placeholders than the protocol can count.
    pub(super) fn new(sql: &str) -> Result<Self, Fault> {
        let places = placeholders(sql);
        if places.len() > usize::from(u16::MAX) {
            return Err(Fault::too_many_placeholders());
        }
        let mut from = 0;
        let mut parts = Vec::with_capacity(places.len() + 1);
        for place in &places {
            parts.push(sql[from..*place].to_string());
            from = place + 1;
        }
        parts.push(sql[from..].to_string());
        Ok(Statement { parts, types: Vec::new(), long: vec![None; places.len()] })
    }

    /// How many parameters it takes.
    pub(super) fn parameters(&self) -> usize {
        self.parts.len() - 1
    }

    /// Bytes that it holds.
    pub(super) fn bytes(&self) -> usize {
        let long = self.long.iter().flatten().map(Vec::len).sum::<usize>();
        self.parts.iter().map(String::len).sum::<usize>() + self.parts.len() * size_of::<String>() + long
    }

    /// Takes a piece of a long value.
    pub(super) fn append(&mut self, parameter: usize, data: &[u8]) {
        if let Some(value) = self.long.get_mut(parameter) {
            value.get_or_insert_default().extend_from_slice(data);
        }
    }

    /// Forgets the long values.
    pub(super) fn reset(&mut self) {
        self.long.iter_mut().for_each(|v| *v = None);
    }

    /// The statement's text with the parameters of a COM_STMT_EXECUTE, whose statement id has been read already.
    ///
    /// # Errors
    /// `Data` for a malformed message or a value that has no literal.
    pub(super) fn bind(&mut self, message: &mut Reader<'_>) -> Result<String> {
        // The cursor type: rows are always streamed, which clients take as well. Then the count of iterations.
        message.u8()?;
        message.u32()?;
        let count = self.parameters();
        let mut sql = self.parts[0].clone();
        if count == 0 {
            return Ok(sql);
        }
        let nulls = message.bytes(count.div_ceil(8))?;
        if message.u8()? == 1 {
            let types = message.bytes(count * 2)?;
            self.types = types.chunks_exact(2).map(|t| (t[0], t[1] & 0x80 != 0)).collect();
        }
        if self.types.len() != count {
            return Err(Malformed.into());
        }
        for i in 0..count {
            let (kind, unsigned) = self.types[i];
            sql.push(' ');
            if let Some(long) = &self.long[i] {
                put_bytes(long, &mut sql);
            } else if nulls[i / 8] & (1 << (i % 8)) != 0 {
                sql.push_str("NULL");
            } else {
                put_parameter(message, kind, unsigned, &mut sql).map_err(|e| e.with("parameter", i + 1))?;
            }
            sql.push(' ');
            sql.push_str(&self.parts[i + 1]);
        }
        self.reset();
        Ok(sql)
    }
}

/// Reads one value and appends it as a literal.
fn put_parameter(message: &mut Reader<'_>, kind: u8, unsigned: bool, sql: &mut String) -> Result<()> {
    use ColumnType::*;
    let kind = ColumnType::try_from(kind).map_err(|_| Malformed)?;
    let written = match kind {
        MYSQL_TYPE_NULL => write!(sql, "NULL"),
        MYSQL_TYPE_TINY if unsigned => write!(sql, "{}", message.u8()?),
        MYSQL_TYPE_TINY => write!(sql, "{}", i8::from_le_bytes(message.array()?)),
        MYSQL_TYPE_SHORT | MYSQL_TYPE_YEAR if unsigned => write!(sql, "{}", message.u16()?),
        MYSQL_TYPE_SHORT | MYSQL_TYPE_YEAR => write!(sql, "{}", i16::from_le_bytes(message.array()?)),
        MYSQL_TYPE_LONG | MYSQL_TYPE_INT24 if unsigned => write!(sql, "{}", message.u32()?),
        MYSQL_TYPE_LONG | MYSQL_TYPE_INT24 => write!(sql, "{}", i32::from_le_bytes(message.array()?)),
        MYSQL_TYPE_LONGLONG if unsigned => write!(sql, "{}", u64::from_le_bytes(message.array()?)),
        MYSQL_TYPE_LONGLONG => write!(sql, "{}", i64::from_le_bytes(message.array()?)),
        MYSQL_TYPE_FLOAT => {
            let value = f32::from_le_bytes(message.array()?);
            finite(f64::from(value))?;
            write!(sql, "{value:e}")
        }
        MYSQL_TYPE_DOUBLE => write!(sql, "{:e}", finite(f64::from_le_bytes(message.array()?))?),
        MYSQL_TYPE_DATE | MYSQL_TYPE_DATETIME | MYSQL_TYPE_TIMESTAMP | MYSQL_TYPE_NEWDATE => {
            put_date_time(message, kind == MYSQL_TYPE_DATE, sql)?;
            Ok(())
        }
        MYSQL_TYPE_TIME => {
            put_time(message, sql)?;
            Ok(())
        }
        MYSQL_TYPE_DECIMAL | MYSQL_TYPE_NEWDECIMAL => {
            let text = message.counted()?;
            match std::str::from_utf8(text).ok().filter(|t| is_decimal(t)) {
                Some(number) => sql.push_str(number),
                None => put_bytes(text, sql),
            }
            Ok(())
        }
        _ => {
            put_bytes(message.counted()?, sql);
            Ok(())
        }
    };
    written.map_err(|e| Error::internal("cannot write a parameter").because(e))
}

fn finite(value: f64) -> Result<f64> {
    if value.is_finite() { Ok(value) } else { Err(Error::data(format!("{value} cannot be written in SQL"))) }
}

/// Digits with at most one point, a sign in front.
fn is_decimal(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    [whole, fraction].iter().all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
}

/// A string literal; bytes that are no text become a hexadecimal one.
fn put_bytes(bytes: &[u8], sql: &mut String) {
    match std::str::from_utf8(bytes) {
        Ok(text) => {
            sql.reserve(text.len() + 2);
            sql.push('\'');
            for c in text.chars() {
                match c {
                    '\'' => sql.push_str("''"),
                    '\\' => sql.push_str("\\\\"),
                    '\0' => sql.push_str("\\0"),
                    c => sql.push(c),
                }
            }
            sql.push('\'');
        }
        Err(_) => {
            sql.push_str("X'");
            freshet_core::text::hex(bytes, sql);
            sql.push('\'');
        }
    }
}

fn put_date_time(message: &mut Reader<'_>, date_only: bool, sql: &mut String) -> Result<()> {
    let value = message.counted()?;
    let mut v = Reader(value);
    let (mut year, mut month, mut day, mut clock, mut micros) = (0, 0, 0, [0; 3], 0);
    if !matches!(value.len(), 0 | 4 | 7 | 11) {
        return Err(Malformed.into());
    }
    if !v.is_empty() {
        (year, month, day) = (v.u16()?, v.u8()?, v.u8()?);
    }
    if !v.is_empty() {
        clock = v.array()?;
    }
    if !v.is_empty() {
        micros = v.u32()?;
    }
    let [hour, minute, second] = clock;
    let written = write!(sql, "'{year:04}-{month:02}-{day:02}").and_then(|()| match (date_only, micros) {
        (true, _) => write!(sql, "'"),
        (false, 0) => write!(sql, " {hour:02}:{minute:02}:{second:02}'"),
        (false, _) => write!(sql, " {hour:02}:{minute:02}:{second:02}.{micros:06}'"),
    });
    written.map_err(|e| Error::internal("cannot write a parameter").because(e))
}

fn put_time(message: &mut Reader<'_>, sql: &mut String) -> Result<()> {
    let value = message.counted()?;
    let mut v = Reader(value);
    let (mut negative, mut days, mut clock, mut micros) = (false, 0, [0; 3], 0);
    if !matches!(value.len(), 0 | 8 | 12) {
        return Err(Malformed.into());
    }
    if !v.is_empty() {
        (negative, days, clock) = (v.u8()? != 0, v.u32()?, v.array()?);
    }
    if !v.is_empty() {
        micros = v.u32()?;
    }
    let [hour, minute, second] = clock;
    let (sign, hours) = (if negative { "-" } else { "" }, u64::from(days) * 24 + u64::from(hour));
    let written = write!(sql, "'{sign}{hours:02}:{minute:02}:{second:02}").and_then(|()| match micros {
        0 => write!(sql, "'"),
        _ => write!(sql, ".{micros:06}'"),
    });
    written.map_err(|e| Error::internal("cannot write a parameter").because(e))
}

/// A statement as text. Clients put bytes into strings as they are (`_binary'…'`): a string that is not UTF-8 becomes
/// a hexadecimal one. Anything else that is not UTF-8 is a fault.
pub(super) fn as_text(sql: &[u8]) -> Result<Cow<'_, str>, Fault> {
    if let Ok(text) = std::str::from_utf8(sql) {
        return Ok(Cow::Borrowed(text));
    }
    let mut out = String::with_capacity(sql.len() * 2);
    let (mut at, mut from) = (0, 0);
    while at < sql.len() {
        let length = token(&sql[at..]);
        let string = &sql[at..at + length];
        if matches!(string[0], b'\'' | b'"') && std::str::from_utf8(string).is_err() {
            out.push_str(std::str::from_utf8(&sql[from..at]).map_err(|_| Fault::not_text())?);
            out.truncate(out.trim_end().strip_suffix("_binary").map_or(out.len(), str::len));
            out.push_str("X'");
            freshet_core::text::hex(&unquoted(string), &mut out);
            out.push('\'');
            from = at + length;
        }
        at += length;
    }
    out.push_str(std::str::from_utf8(&sql[from..]).map_err(|_| Fault::not_text())?);
    Ok(Cow::Owned(out))
}

/// What a string literal holds: MySQL's escapes resolved.
fn unquoted(literal: &[u8]) -> Vec<u8> {
    let quote = literal[0];
    let inner = literal[1..].strip_suffix(&[quote]).unwrap_or(&literal[1..]);
    let mut bytes = inner.iter();
    let mut out = Vec::with_capacity(inner.len());
    while let Some(b) = bytes.next() {
        // A quote is doubled inside, a backslash escapes what follows.
        let escaped = if *b == quote || *b == b'\\' { bytes.next().unwrap_or(b) } else { b };
        out.push(match (*b, *escaped) {
            (b'\\', b'0') => 0,
            (b'\\', b'n') => b'\n',
            (b'\\', b'r') => b'\r',
            (b'\\', b't') => b'\t',
            (b'\\', b'b') => 8,
            (b'\\', b'Z') => 26,
            (_, plain) => plain,
        });
    }
    out
}

/// The offsets of the question marks that stand outside of strings, quoted names and comments.
fn placeholders(sql: &str) -> Vec<usize> {
    let bytes = sql.as_bytes();
    let mut out = Vec::new();
    let mut at = 0;
    while let Some(b) = bytes.get(at) {
        if *b == b'?' {
            out.push(at);
        }
        at += token(&bytes[at..]);
    }
    out
}

/// Length of the string, quoted name or comment at the start, or 1 for anything else. Everything that matters is ASCII,
/// and no byte of a longer UTF-8 sequence is.
fn token(text: &[u8]) -> usize {
    let is_dash_comment = || text.get(2).is_none_or(|b| b.is_ascii_whitespace() || *b < 0x20);
    match text[0] {
        b'\'' | b'"' => quoted(text, true),
        b'`' => quoted(text, false),
        b'#' => line(text),
        b'-' if text.starts_with(b"--") && is_dash_comment() => line(text),
        b'/' if text.starts_with(b"/*") => comment(text),
        _ => 1,
    }
}

/// Length of what is quoted at the start, quotes included.
fn quoted(text: &[u8], escapes: bool) -> usize {
    let mut at = 1;
    while let Some(b) = text.get(at) {
        match b {
            b'\\' if escapes => at += 2,
            b if *b == text[0] && text.get(at + 1) == Some(&text[0]) => at += 2,
            b if *b == text[0] => return at + 1,
            _ => at += 1,
        }
    }
    text.len()
}

fn line(text: &[u8]) -> usize {
    text.iter().position(|b| *b == b'\n').map_or(text.len(), |end| end + 1)
}

/// Length of the comment at the start; of an executable one only its opening, because the rest is code.
fn comment(text: &[u8]) -> usize {
    if let Some(body) = text.strip_prefix(b"/*!") {
        let digits = body.iter().take(6).take_while(|b| b.is_ascii_digit()).count();
        let version = body[..digits].iter().fold(0, |n, d| n * 10 + u32::from(d - b'0'));
        if version <= VERSION {
            return 3 + digits;
        }
    }
    text.get(2..).and_then(|body| body.windows(2).position(|w| w == b"*/")).map_or(text.len(), |end| end + 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_found_where_they_are_code() {
        let cases = [
            ("?", 1),
            ("a = ? and b=?", 2),
            ("'?' ? \"?\" `?` ?", 2),
            (r"'it''s ?' ? 'a\'?' ?", 2),
            (r"'\\' ? `a``?` ?", 2),
            ("-- ?\n? # ?\n? /* ? */ ?", 3),
            ("1--?", 1),
            ("/*! ? */ ? /*!40101 ? */ /*!80000 ? */", 3),
            ("'open ?", 0),
            ("/* open ?", 0),
            ("'open \\", 0),
            ("größe = ? -- ü?", 1),
        ];
        for (sql, expected) in cases {
            let statement = Statement::new(sql).expect("few placeholders");
            assert_eq!(statement.parameters(), expected, "{sql}");
            assert_eq!(statement.parts.join("?"), sql);
        }
    }

    #[test]
    fn bytes_in_strings_become_hexadecimal() {
        assert!(matches!(as_text("select 'ü'".as_bytes()), Ok(Cow::Borrowed("select 'ü'"))));
        let sql = b"f( _binary'\xFF\\0\\'\\n''x', \"\xFE\"\"\", 'ok', '\xC3\xBC')";
        assert_eq!(as_text(sql).expect("text"), "f( X'FF00270A2778', X'FE22', 'ok', 'ü')");
        for bad in [&b"\xFF"[..], b"'\xFF' \xFF", b"`\xFF`", b"-- \xFF\n"] {
            assert_eq!(as_text(bad).expect_err("not text").code, 1300);
        }
        // A literal that does not end stays what it is: nonsense, but no panic.
        for open in [&b"'\xFF"[..], b"'\xFF\\", b"'\xFF''"] {
            assert!(as_text(open).is_ok());
        }
    }

    /// The message of an execution behind its statement id.
    fn message(nulls: &[u8], types: &[(ColumnType, bool)], values: &[&[u8]]) -> Vec<u8> {
        let mut out = vec![0, 1, 0, 0, 0];
        out.extend_from_slice(nulls);
        out.push(1);
        types.iter().for_each(|(t, unsigned)| out.extend_from_slice(&[*t as u8, u8::from(*unsigned) << 7]));
        values.iter().for_each(|v| out.extend_from_slice(v));
        out
    }

    fn bound(kind: ColumnType, unsigned: bool, value: &[u8]) -> Result<String> {
        let mut statement = Statement::new("?").expect("few placeholders");
        let sql = statement.bind(&mut Reader(&message(&[0], &[(kind, unsigned)], &[value])))?;
        Ok(sql.trim().to_string())
    }

    #[test]
    fn literals() {
        use ColumnType::*;
        let of = |kind, value: &[u8]| bound(kind, false, value).expect("a literal");
        assert_eq!(of(MYSQL_TYPE_TINY, &[0xFF]), "-1");
        assert_eq!(bound(MYSQL_TYPE_LONGLONG, true, &[0xFF; 8]).expect("a literal"), u64::MAX.to_string());
        assert_eq!(of(MYSQL_TYPE_DOUBLE, &1.5_f64.to_le_bytes()), "1.5e0");
        assert_eq!(of(MYSQL_TYPE_FLOAT, &0.1_f32.to_le_bytes()), "1e-1");
        assert!(bound(MYSQL_TYPE_DOUBLE, false, &f64::NAN.to_le_bytes()).is_err());
        assert_eq!(of(MYSQL_TYPE_VAR_STRING, b"\x0ait's \\ \0?;"), r"'it''s \\ \0?;'");
        assert_eq!(of(MYSQL_TYPE_BLOB, b"\x02\xFF\x00"), "X'FF00'");
        assert_eq!(of(MYSQL_TYPE_NEWDECIMAL, b"\x05-1.50"), "-1.50");
        assert_eq!(of(MYSQL_TYPE_NEWDECIMAL, b"\x081 or 1=1"), "'1 or 1=1'");
        assert_eq!(of(MYSQL_TYPE_DATE, &[4, 0xE8, 7, 2, 29]), "'2024-02-29'");
        assert_eq!(of(MYSQL_TYPE_DATETIME, &[4, 0xE8, 7, 2, 29]), "'2024-02-29 00:00:00'");
        assert_eq!(of(MYSQL_TYPE_DATETIME, &[11, 0xE8, 7, 2, 29, 1, 2, 3, 4, 0, 0, 0]), "'2024-02-29 01:02:03.000004'");
        assert_eq!(of(MYSQL_TYPE_TIME, &[8, 1, 1, 0, 0, 0, 2, 3, 4]), "'-26:03:04'");
        assert!(bound(MYSQL_TYPE_DATE, false, &[5, 0, 0, 0, 0, 0]).is_err());
    }

    #[test]
    fn binding_keeps_types_and_takes_long_data() {
        use ColumnType::*;
        let mut statement = Statement::new("select ?, ?, 5-?").expect("few placeholders");
        let types = [(MYSQL_TYPE_TINY, false), (MYSQL_TYPE_VAR_STRING, false), (MYSQL_TYPE_TINY, false)];
        statement.append(1, b"lo");
        statement.append(1, b"ng");
        statement.append(9, b"nowhere");
        let first = message(&[0b001], &types, &[&[0xFF]]);
        assert_eq!(statement.bind(&mut Reader(&first)).expect("bound"), "select  NULL ,  'long' , 5- -1 ");
        let again = [&[0, 1, 0, 0, 0, 0, 0][..], &[7], b"\x01x", &[3]].concat();
        assert_eq!(statement.bind(&mut Reader(&again)).expect("bound"), "select  7 ,  'x' , 5- 3 ");
        for short in 0..again.len() {
            assert!(statement.bind(&mut Reader(&again[..short])).is_err());
        }
    }
}
