//! Results of statements in the text protocol.

use std::sync::Arc;

use freshet_core::{Error, Result};

use super::cursor::Cursor;
use super::{Connection, Lent, server_error, shortened};

/// The most columns of a result that we read; servers have at most 4096.
const COLUMNS_MAX: u64 = 8192;

/// A column of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnInfo {
    /// Name.
    pub name: String,
    /// Number of its type in the protocol.
    pub kind: u8,
    /// Number of its collation; 63: bytes.
    pub collation: u16,
    /// Flags as the protocol has them.
    pub flags: u16,
    /// Fractional digits.
    pub decimals: u8,
}

impl ColumnInfo {
    fn parse(payload: &[u8]) -> Option<Self> {
        let mut c = Cursor::new(payload);
        for _ in 0..4 {
            c.counted()?;
        }
        let name = String::from_utf8_lossy(c.counted()?).into_owned();
        c.counted()?;
        c.length()?;
        let collation = c.u16()?;
        c.u32()?;
        Some(ColumnInfo { name, collation, kind: c.u8()?, flags: c.u16()?, decimals: c.u8()? })
    }
}

/// A row of a small result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    names: Arc<[String]>,
    /// The values as text in UTF-8 (or bytes); `None`: NULL.
    pub values: Vec<Option<Vec<u8>>>,
}

impl Row {
    pub(super) fn parse(names: &Arc<[String]>, payload: &[u8]) -> Option<Self> {
        let mut c = Cursor::new(payload);
        let mut values = Vec::with_capacity(names.len());
        for _ in 0..names.len() {
            values.push(c.field()?.map(<[u8]>::to_vec));
        }
        Some(Row { names: Arc::clone(names), values })
    }

    /// The value of a column, counted from 0, as text; `None` when it is NULL, not UTF-8, or there is no such column.
    pub fn get_str(&self, column: usize) -> Option<&str> {
        self.values.get(column)?.as_deref().and_then(|v| std::str::from_utf8(v).ok())
    }

    /// The value of the column of that name (compared without case); `None` as [`Row::get_str`].
    pub fn named(&self, name: &str) -> Option<&str> {
        self.get_str(self.names.iter().position(|n| n.eq_ignore_ascii_case(name))?)
    }

    /// A column's number; `None` as [`Row::get_str`], or when it is no number.
    pub fn number<T: std::str::FromStr>(&self, column: usize) -> Option<T> {
        self.get_str(column)?.parse().ok()
    }
}

/// The fields of a row in the text protocol, in order; ends early when the row is malformed.
#[derive(Debug, Clone)]
pub struct Fields<'a> {
    rest: Cursor<'a>,
}

impl<'a> Fields<'a> {
    /// Over the payload that [`TextRows`] gave.
    pub fn of(payload: &'a [u8]) -> Self {
        Fields { rest: Cursor::new(payload) }
    }

    /// Whether everything was read.
    pub fn is_done(&self) -> bool {
        self.rest.is_empty()
    }
}

/// `None` inside: NULL.
impl<'a> Iterator for Fields<'a> {
    type Item = Option<&'a [u8]>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.rest.field()
    }
}

/// A result that is read as it arrives. When it is dropped before its end, its connection can only be closed.
pub struct TextRows<C: Lent> {
    connection: C,
    columns: Vec<ColumnInfo>,
    statement: String,
    done: bool,
}

impl<C: Lent> TextRows<C> {
    pub(super) async fn start(mut connection: C, sql: &str) -> Result<Self> {
        let c = connection.borrow_mut();
        c.ready()?;
        let mut command = Vec::with_capacity(sql.len() + 1);
        command.push(0x03);
        command.extend_from_slice(sql.as_bytes());
        c.busy = true;
        c.packets.command(&command).await?;
        let columns = Self::header(c, sql).await?;
        let done = columns.is_empty();
        c.busy = !done;
        Ok(TextRows { connection, columns, statement: shortened(sql), done })
    }

    async fn header(c: &mut Connection, sql: &str) -> Result<Vec<ColumnInfo>> {
        let count = match c.packets.next().await? {
            [0x00, ..] => return Ok(Vec::new()),
            payload @ [0xFF, ..] => {
                let error = server_error(payload, Some(sql));
                c.busy = false;
                return Err(error);
            }
            payload => Cursor::new(payload).length().filter(|n| (1..=COLUMNS_MAX).contains(n)),
        };
        let malformed = || Error::data("the head of a result is malformed").with("statement", shortened(sql));
        let count = count.ok_or_else(malformed)?;
        let mut columns = Vec::new();
        for _ in 0..count {
            columns.push(ColumnInfo::parse(c.packets.next().await?).ok_or_else(malformed)?);
        }
        if !c.deprecate_eof && c.packets.next().await?.first() != Some(&0xFE) {
            return Err(malformed());
        }
        Ok(columns)
    }

    /// The result's columns; none for statements without a result.
    pub fn columns(&self) -> &[ColumnInfo] {
        &self.columns
    }

    pub(super) fn names(&self) -> Arc<[String]> {
        self.columns.iter().map(|c| c.name.clone()).collect()
    }

    /// The payload of the next row, `None` at the end; waits for it. Cancel-safe. [`Fields`] cuts it.
    ///
    /// # Errors
    /// The server's; `SourceUnavailable` when the connection is lost or silent for longer than the read timeout.
    pub async fn next(&mut self) -> Result<Option<&[u8]>> {
        if self.done {
            return Ok(None);
        }
        let Connection { packets, busy, deprecate_eof, .. } = self.connection.borrow_mut();
        let part = Self::part(packets.next().await?, *deprecate_eof, &self.statement, &mut self.done);
        *busy = !self.done;
        part
    }

    /// The next row if it has arrived already; `None` when it has not, or at the end. Never waits.
    ///
    /// # Errors
    /// As [`TextRows::next`].
    #[inline]
    pub fn buffered(&mut self) -> Result<Option<&[u8]>> {
        if self.done {
            return Ok(None);
        }
        let Connection { packets, busy, deprecate_eof, .. } = self.connection.borrow_mut();
        let Some(payload) = packets.buffered()? else { return Ok(None) };
        let part = Self::part(payload, *deprecate_eof, &self.statement, &mut self.done);
        *busy = !self.done;
        part
    }

    /// The row that a payload is, `None` if it is the end.
    #[inline]
    fn part<'p>(payload: &'p [u8], deprecate_eof: bool, sql: &str, done: &mut bool) -> Result<Option<&'p [u8]>> {
        let end_below = if deprecate_eof { 0xFF_FFFF } else { 9 };
        match payload.first() {
            Some(0xFE) if payload.len() < end_below => {
                *done = true;
                Ok(None)
            }
            Some(0xFF) => {
                *done = true;
                Err(server_error(payload, Some(sql)))
            }
            _ => Ok(Some(payload)),
        }
    }
}

impl TextRows<Connection> {
    /// Gives the connection back, which is of use only behind the result's end.
    pub fn into_connection(self) -> Connection {
        self.connection
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fields() {
        let all: Vec<_> = Fields::of(b"\x03abc\xfb\x00").collect();
        assert_eq!(all, [Some(&b"abc"[..]), None, Some(&b""[..])]);
        let mut cut = Fields::of(b"\x03ab");
        assert_eq!(cut.next(), None);
        assert!(!cut.is_done());
    }

    proptest! {
        #[test]
        fn bad_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = ColumnInfo::parse(&bytes);
            let names: Arc<[String]> = vec!["a".to_string(), "b".to_string()].into();
            let _ = Row::parse(&names, &bytes);
            let _ = Fields::of(&bytes).count();
        }
    }
}
