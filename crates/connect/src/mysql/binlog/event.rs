//! The log's events but for rows: headers, checksums, and the few bodies that matter.

use super::super::wire::Cursor;
use super::gtid::{GtidSet, Uuid};

/// Bytes of an event's header.
pub(super) const HEADER: usize = 19;
const CHECKSUM: usize = 4;

/// Numbers of the events' types.
pub(super) mod kind {
    pub(in super::super) const QUERY: u8 = 2;
    pub(in super::super) const STOP: u8 = 3;
    pub(in super::super) const ROTATE: u8 = 4;
    pub(in super::super) const INTVAR: u8 = 5;
    pub(in super::super) const APPEND_BLOCK: u8 = 9;
    pub(in super::super) const DELETE_FILE: u8 = 11;
    pub(in super::super) const RAND: u8 = 13;
    pub(in super::super) const USER_VAR: u8 = 14;
    pub(in super::super) const FORMAT_DESCRIPTION: u8 = 15;
    pub(in super::super) const XID: u8 = 16;
    pub(in super::super) const BEGIN_LOAD_QUERY: u8 = 17;
    pub(in super::super) const EXECUTE_LOAD_QUERY: u8 = 18;
    pub(in super::super) const TABLE_MAP: u8 = 19;
    pub(in super::super) const WRITE_ROWS_V1: u8 = 23;
    pub(in super::super) const UPDATE_ROWS_V1: u8 = 24;
    pub(in super::super) const DELETE_ROWS_V1: u8 = 25;
    pub(in super::super) const INCIDENT: u8 = 26;
    pub(in super::super) const HEARTBEAT: u8 = 27;
    pub(in super::super) const IGNORABLE: u8 = 28;
    pub(in super::super) const ROWS_QUERY: u8 = 29;
    pub(in super::super) const WRITE_ROWS: u8 = 30;
    pub(in super::super) const UPDATE_ROWS: u8 = 31;
    pub(in super::super) const DELETE_ROWS: u8 = 32;
    pub(in super::super) const GTID: u8 = 33;
    pub(in super::super) const ANONYMOUS_GTID: u8 = 34;
    pub(in super::super) const PREVIOUS_GTIDS: u8 = 35;
    pub(in super::super) const TRANSACTION_CONTEXT: u8 = 36;
    pub(in super::super) const VIEW_CHANGE: u8 = 37;
    pub(in super::super) const XA_PREPARE: u8 = 38;
    pub(in super::super) const PARTIAL_UPDATE_ROWS: u8 = 39;
    pub(in super::super) const TRANSACTION_PAYLOAD: u8 = 40;
    pub(in super::super) const HEARTBEAT_V2: u8 = 41;
    pub(in super::super) const GTID_TAGGED: u8 = 42;
    pub(in super::super) const MARIADB_ANNOTATE_ROWS: u8 = 160;
    pub(in super::super) const MARIADB_BINLOG_CHECKPOINT: u8 = 161;
    pub(in super::super) const MARIADB_GTID: u8 = 162;
    pub(in super::super) const MARIADB_GTID_LIST: u8 = 163;
    pub(in super::super) const MARIADB_START_ENCRYPTION: u8 = 164;
    pub(in super::super) const MARIADB_QUERY_COMPRESSED: u8 = 165;
    pub(in super::super) const MARIADB_WRITE_ROWS_COMPRESSED_V1: u8 = 166;
    pub(in super::super) const MARIADB_DELETE_ROWS_COMPRESSED: u8 = 171;
}

/// The head of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// Seconds since 1970.
    pub(super) time: u32,
    pub(super) kind: u8,
    pub(super) server_id: u32,
    pub(super) size: u32,
    /// Where the next event begins, modulo 2^32; 0 for events that are not in the file.
    pub(super) next: u32,
    flags: u16,
}

impl Header {
    pub(super) fn parse(event: &[u8]) -> Option<Self> {
        let mut c = Cursor::new(event);
        let (time, kind) = (c.u32()?, c.u8()?);
        Some(Header { time, kind, server_id: c.u32()?, size: c.u32()?, next: c.u32()?, flags: c.u16()? })
    }

    /// The server made it up for us: it is not in the file.
    pub(super) fn is_artificial(&self) -> bool {
        self.flags & 0x20 != 0 || self.next == 0
    }

    /// Where the next event begins, of one that begins at `start`: headers hold the lower 32 bits only.
    pub(super) fn end(&self, start: u64) -> u64 {
        let end = start.wrapping_add(u64::from(self.size));
        if end as u32 == self.next { end } else { (end & !0xFFFF_FFFF) | u64::from(self.next) }
    }

    /// Who does not know it may leave it out.
    pub(super) fn is_ignorable(&self) -> bool {
        self.flags & 0x80 != 0
    }
}

/// Whether the checksum behind an event is right.
pub(super) fn checksum_is_right(event: &[u8]) -> bool {
    let Some((body, checksum)) = event.split_last_chunk::<CHECKSUM>() else { return false };
    let stored = u32::from_le_bytes(*checksum);
    if crc32fast::hash(body) == stored {
        return true;
    }
    // The head of a file that is being written carries a flag that was not there when the sum was made.
    let Some(flag) = body.get(17).filter(|_| body.get(4) == Some(&kind::FORMAT_DESCRIPTION)) else { return false };
    let mut sum = crc32fast::Hasher::new();
    sum.update(&body[..17]);
    sum.update(&[flag & !1]);
    sum.update(&body[18..]);
    sum.finalize() == stored
}

/// An event without its checksum.
pub(super) fn without_checksum(event: &[u8]) -> &[u8] {
    &event[..event.len().saturating_sub(CHECKSUM)]
}

/// Whether the events behind a format description carry checksums; `None`: an unknown sort of checksum.
pub(super) fn format_has_checksums(event: &[u8]) -> Option<bool> {
    match event.get(event.len().checked_sub(CHECKSUM + 1)?)? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

/// The file that goes on, and where in it.
pub(super) fn rotate(body: &[u8]) -> Option<(u64, String)> {
    let mut c = Cursor::new(body);
    Some((c.u64()?, String::from_utf8(c.rest().to_vec()).ok()?))
}

/// A statement in the log.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Query<'a> {
    pub(super) database: &'a [u8],
    pub(super) text: &'a [u8],
    pub(super) sql_mode: u64,
    /// Number of the client's collation; 0: not said.
    pub(super) collation: u16,
    /// The session's `time_zone`, which servers say when the statement made use of it.
    pub(super) time_zone: Option<&'a str>,
}

impl<'a> Query<'a> {
    /// `extra`: bytes that this sort of event has behind the usual fixed part.
    pub(super) fn parse(body: &'a [u8], extra: usize) -> Option<Self> {
        let mut c = Cursor::new(body);
        c.take(8)?;
        let database = usize::from(c.u8()?);
        c.u16()?;
        let variables = usize::from(c.u16()?);
        c.take(extra)?;
        let StatusVariables { sql_mode, collation, time_zone } = StatusVariables::parse(c.take(variables)?);
        let database = c.take(database)?;
        c.take(1)?;
        Some(Query { database, text: c.rest(), sql_mode, collation, time_zone })
    }

    /// The same for a statement that MariaDB compressed; `scratch` takes the statement.
    pub(super) fn parse_compressed(body: &'a [u8], scratch: &'a mut Vec<u8>) -> Option<Self> {
        let query = Query::parse(body, 0)?;
        super::compressed::inflate(query.text, scratch)?;
        Some(Query { text: scratch, ..query })
    }

    pub(super) fn ansi_quotes(&self) -> bool {
        self.sql_mode & 0x4 != 0
    }

    /// Values that do not fit are refused, not cut off.
    pub(super) fn strict(&self) -> bool {
        self.sql_mode & 0x60_0000 != 0
    }

    pub(super) fn no_backslash_escapes(&self) -> bool {
        self.sql_mode & 0x10_0000 != 0
    }
}

/// What is used of the variables of a statement's session.
#[derive(Debug, Default, PartialEq, Eq)]
struct StatusVariables<'a> {
    sql_mode: u64,
    collation: u16,
    time_zone: Option<&'a str>,
}

impl<'a> StatusVariables<'a> {
    /// What comes behind a variable that we don't know is not read: those above come early.
    fn parse(bytes: &'a [u8]) -> Self {
        let mut c = Cursor::new(bytes);
        let mut found = StatusVariables::default();
        let mut step = || -> Option<()> {
            match c.u8()? {
                0 | 3 => c.u32().map(drop)?,
                1 => found.sql_mode = c.u64()?,
                2 => {
                    let n = usize::from(c.u8()?);
                    c.take(n + 1)?;
                }
                4 => {
                    found.collation = c.u16()?;
                    c.u32()?;
                }
                5 => {
                    let n = usize::from(c.u8()?);
                    found.time_zone = std::str::from_utf8(c.take(n)?).ok();
                }
                6 => {
                    let n = usize::from(c.u8()?);
                    c.take(n)?;
                }
                7 | 8 => c.u16().map(drop)?,
                9 => c.u64().map(drop)?,
                _ => return None,
            }
            Some(())
        };
        while step().is_some() {}
        found
    }
}

/// The begin of a transaction in MySQL.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MySqlGtid {
    pub(super) uuid: Uuid,
    pub(super) number: u64,
    /// When it was committed here, in microseconds since 1970.
    pub(super) commit_micros: Option<u64>,
}

impl MySqlGtid {
    pub(super) fn parse(body: &[u8]) -> Option<Self> {
        let mut c = Cursor::new(body);
        c.u8()?;
        let uuid = Uuid(*c.take(16)?.first_chunk()?);
        let number = c.u64()?;
        let mut times = || {
            (c.u8()? == 2).then_some(())?;
            c.take(16)?;
            // The highest bit says that the time of the original commit comes behind.
            c.u56().map(|t| t & !(1 << 55))
        };
        Some(MySqlGtid { uuid, number, commit_micros: times().filter(|t| *t > 0) })
    }
}

/// The begin of a transaction in MariaDB.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MariaDbGtid {
    pub(super) sequence: u64,
    pub(super) domain: u32,
    flags: u8,
}

impl MariaDbGtid {
    pub(super) fn parse(body: &[u8]) -> Option<Self> {
        let mut c = Cursor::new(body);
        Some(MariaDbGtid { sequence: c.u64()?, domain: c.u32()?, flags: c.u8()? })
    }

    /// One statement that commits itself follows, nothing else.
    pub(super) fn is_standalone(&self) -> bool {
        self.flags & 1 != 0
    }

    /// The rows of an XA transaction follow, up to its `XA PREPARE`.
    pub(super) fn is_xa(&self) -> bool {
        self.flags & 0x40 != 0
    }
}

/// The last transaction of each domain of MariaDB before a file.
pub(super) fn gtid_list(body: &[u8]) -> Option<GtidSet> {
    let mut c = Cursor::new(body);
    let count = c.u32()? & 0x0FFF_FFFF;
    let mut set = GtidSet::MariaDb(Default::default());
    for _ in 0..count {
        let (domain, server) = (c.u32()?, c.u32()?);
        set.add_mariadb(domain, server, c.u64()?);
    }
    Some(set)
}

/// MySQL: all transactions before a file; `None`: in a form that we don't read (tags).
pub(super) fn previous_gtids(body: &[u8]) -> Option<GtidSet> {
    let mut c = Cursor::new(body);
    let mut sources = std::collections::BTreeMap::new();
    for _ in 0..c.u64()? {
        let uuid = Uuid(*c.take(16)?.first_chunk()?);
        let mut intervals = Vec::new();
        for _ in 0..c.u64()? {
            let (from, behind) = (c.u64()?, c.u64()?);
            intervals.push((from, behind.checked_sub(1).filter(|to| *to >= from)?));
        }
        sources.insert((uuid, String::new()), intervals);
    }
    c.is_empty().then_some(GtidSet::MySql(sources))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn statement_variables() {
        let mut vars = vec![0, 1, 2, 3, 4, 1];
        vars.extend_from_slice(&(0x4_u64 | 0x10_0000).to_le_bytes());
        vars.extend_from_slice(&[6, 3, b's', b't', b'd', 4, 45, 0, 45, 0, 8, 0]);
        let mut wanted = StatusVariables { sql_mode: 0x10_0004, collation: 45, time_zone: None };
        assert_eq!(StatusVariables::parse(&vars), wanted);
        vars.extend_from_slice(b"\x05\x06-08:00\x63");
        wanted.time_zone = Some("-08:00");
        assert_eq!(StatusVariables::parse(&vars), wanted);
        let mut body = vec![0; 8];
        body.extend_from_slice(&[4, 0, 0, vars.len() as u8, 0]);
        body.extend_from_slice(&vars);
        body.extend_from_slice(b"shop\0DROP TABLE t");
        let q = Query::parse(&body, 0).unwrap();
        assert_eq!((q.database, q.text), (&b"shop"[..], &b"DROP TABLE t"[..]));
        assert!(q.ansi_quotes() && q.no_backslash_escapes());
        assert_eq!(q.time_zone, Some("-08:00"));
    }

    #[test]
    fn checksums() {
        let mut event = vec![1; 40];
        event.extend_from_slice(&crc32fast::hash(&event).to_le_bytes());
        assert!(checksum_is_right(&event));
        for i in 0..event.len() {
            let mut bad = event.clone();
            bad[i] ^= 4;
            assert!(!checksum_is_right(&bad));
        }
    }

    #[test]
    fn sets_before_a_file() {
        let set = GtidSet::parse("3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5:7").unwrap();
        let bytes = set.encoded().unwrap();
        assert_eq!(previous_gtids(&bytes), Some(set));
        assert_eq!(previous_gtids(&[0; 8]), Some(GtidSet::MySql(Default::default())));
        assert_eq!(previous_gtids(&bytes[..bytes.len() - 1]), None);
        // With tags the first bytes mean something else.
        assert_eq!(previous_gtids(&[1, 1, 0, 0, 0, 0, 0, 1]), None);
    }

    proptest! {
        #[test]
        fn bad_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = (Header::parse(&bytes), rotate(&bytes), Query::parse(&bytes, 0), Query::parse(&bytes, 13));
            let _ = (MySqlGtid::parse(&bytes), MariaDbGtid::parse(&bytes), format_has_checksums(&bytes));
            let _ = (gtid_list(&bytes), previous_gtids(&bytes), checksum_is_right(&bytes), without_checksum(&bytes));
            StatusVariables::parse(&bytes);
        }
    }
}
