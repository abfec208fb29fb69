//! Table maps: what the log says about a table before its rows.

use freshet_core::TableName;

use super::super::wire::Cursor;
use super::columns::wire_type::*;

/// A table as the log has it at some rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TableMap {
    pub(super) name: TableName,
    pub(super) columns: Vec<WireColumn>,
}

/// A column as the log has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct WireColumn {
    /// The real type: ENUM and SET are not hidden behind STRING.
    pub(super) kind: u8,
    /// What the type needs to know, as [`super::columns::width`] reads it.
    pub(super) meta: u16,
    /// For numbers, if the server says so.
    pub(super) unsigned: Option<bool>,
    /// Name, if the server says so (`binlog_row_metadata=FULL`).
    pub(super) name: Option<String>,
    /// Number of the collation, of a text, if the server says so. 63: bytes.
    pub(super) collation: Option<u16>,
}

impl TableMap {
    /// The number under which rows refer to a table map.
    pub(super) fn id(body: &[u8]) -> Option<u64> {
        Cursor::new(body).u48()
    }

    /// The table's name, which can be read even when a column cannot.
    pub(super) fn name(body: &[u8]) -> Option<TableName> {
        let mut c = Cursor::new(body);
        c.take(8)?;
        Self::read_name(&mut c)
    }

    fn read_name(c: &mut Cursor<'_>) -> Option<TableName> {
        let mut text = || {
            let n = usize::from(c.u8()?);
            let text = String::from_utf8(c.take(n)?.to_vec()).ok()?;
            c.take(1)?;
            Some(text)
        };
        Some(TableName::new(text()?, text()?))
    }

    /// Reads the body behind the header, without checksum. `None`: malformed, or a type that we don't know.
    pub(super) fn parse(body: &[u8]) -> Option<Self> {
        let mut c = Cursor::new(body);
        c.take(8)?;
        let name = Self::read_name(&mut c)?;
        let count = usize::try_from(c.length()?).ok()?;
        let kinds = c.take(count)?;
        let mut metas = Cursor::new(c.counted()?);
        let columns: Option<Vec<_>> = kinds.iter().map(|kind| WireColumn::parse(*kind, &mut metas)).collect();
        let mut columns = columns?;
        c.take(count.div_ceil(8))?;
        optional(c, &mut columns)?;
        Some(TableMap { name, columns })
    }
}

impl WireColumn {
    fn parse(kind: u8, metas: &mut Cursor<'_>) -> Option<Self> {
        let (kind, meta) = match kind {
            STRING => {
                let [low, high] = metas.u16()?.to_le_bytes();
                match low {
                    ENUM | SET => (low, u16::from_le_bytes([low, high])),
                    // Lengths beyond 255 take two bits, inverted, of the type.
                    _ => (low | 0x30, u16::from(high) | u16::from((low & 0x30) ^ 0x30) << 4),
                }
            }
            VARCHAR | VARCHAR_COMPRESSED | VAR_STRING | BIT | NEWDECIMAL | ENUM | SET => (kind, metas.u16()?),
            FLOAT | DOUBLE | TIMESTAMP2 | DATETIME2 | TIME2 | JSON | TINY_BLOB | MEDIUM_BLOB | LONG_BLOB | BLOB
            | BLOB_COMPRESSED | GEOMETRY | VECTOR => (kind, u16::from(metas.u8()?)),
            TINY | SHORT | LONG | LONGLONG | INT24 | TIMESTAMP | DATE | NEWDATE | TIME | DATETIME | YEAR => (kind, 0),
            _ => return None,
        };
        Some(WireColumn { kind, meta, ..WireColumn::default() })
    }

    fn is_number(&self) -> bool {
        matches!(self.kind, TINY | SHORT | INT24 | LONG | LONGLONG | FLOAT | DOUBLE | NEWDECIMAL)
    }

    fn is_text(&self) -> bool {
        matches!(self.kind, VARCHAR | VAR_STRING | STRING | TINY_BLOB | MEDIUM_BLOB | LONG_BLOB | BLOB)
    }
}

/// What a server adds voluntarily; later sorts are skipped.
fn optional(mut c: Cursor<'_>, columns: &mut [WireColumn]) -> Option<()> {
    while !c.is_empty() {
        let kind = c.u8()?;
        let mut content = Cursor::new(c.counted()?);
        match kind {
            1 => signedness(content.rest(), columns),
            2 => {
                let default = content.length()?;
                let mut exceptions = Vec::new();
                while !content.is_empty() {
                    exceptions.push((content.length()?, content.length()?));
                }
                for (i, column) in (0..).zip(columns.iter_mut().filter(|c| c.is_text())) {
                    let own = exceptions.iter().find(|(place, _)| *place == i).map_or(default, |(_, own)| *own);
                    column.collation = u16::try_from(own).ok();
                }
            }
            3 => {
                for column in columns.iter_mut().filter(|c| c.is_text()) {
                    column.collation = u16::try_from(content.length()?).ok();
                }
            }
            4 => {
                for column in columns.iter_mut() {
                    column.name = Some(String::from_utf8(content.counted()?.to_vec()).ok()?);
                }
            }
            _ => {}
        }
    }
    Some(())
}

/// Servers differ in whether YEAR counts as a number here, so that tables with one are left as they are.
fn signedness(bits: &[u8], columns: &mut [WireColumn]) {
    if columns.iter().any(|c| c.kind == YEAR) {
        return;
    }
    for (i, column) in columns.iter_mut().filter(|c| c.is_number()).enumerate() {
        column.unsigned = bits.get(i / 8).map(|b| b >> (7 - i % 8) & 1 == 1);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> Vec<u8> {
        let mut body = vec![7, 0, 0, 0, 0, 0, 1, 0];
        body.extend_from_slice(b"\x04shop\0\x01t\0");
        body.extend_from_slice(&[4, LONG, VARCHAR, STRING, STRING]);
        body.extend_from_slice(&[6, 80, 0, ENUM, 1, 0xEE, 0x2C]);
        body.push(0b1110);
        body.extend_from_slice(&[1, 1, 0x80]);
        body.extend_from_slice(b"\x04\x0a\x02id\x01a\x01b\x02cc");
        body.extend_from_slice(&[3, 2, 45, 8]);
        body
    }

    #[test]
    fn reads() {
        let map = TableMap::parse(&sample()).unwrap();
        assert_eq!(map.name, TableName::new("shop", "t"));
        assert_eq!(map.columns.iter().map(|c| c.kind).collect::<Vec<_>>(), [LONG, VARCHAR, ENUM, STRING]);
        assert_eq!(map.columns[3].meta, 0x12C);
        assert_eq!(map.columns[0].unsigned, Some(true));
        assert_eq!(map.columns[3].name.as_deref(), Some("cc"));
        assert_eq!((map.columns[1].collation, map.columns[3].collation), (Some(45), Some(8)));
    }

    proptest! {
        #[test]
        fn bad_bytes_never_panic(at in 0usize..60, new: u8, cut in 0usize..60, noise in proptest::collection::vec(any::<u8>(), 0..80)) {
            let mut body = sample();
            if let Some(b) = body.get_mut(at) { *b = new; }
            body.truncate(cut.max(1));
            let _ = TableMap::parse(&body);
            let _ = TableMap::parse(&noise);
        }
    }
}
