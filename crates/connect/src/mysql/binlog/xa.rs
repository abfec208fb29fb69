//! XA transactions: a server logs their rows at `XA PREPARE`, and whether they count at `XA COMMIT`, perhaps days, a
//! restart or another session later. Until then they are not handed out. A position names the transactions that are
//! prepared at it and where their rows are, so that they can be read again from there; as long as the stream runs, small
//! ones are also kept in memory (`docs/decisions/0004-prepared-transactions.md`).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::ops::Range;

use freshet_core::TableName;
use freshet_core::text::unhex;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::super::wire::Cursor;
use super::event::{Header, kind};
use super::survey::Survey;
use super::table_map::TableMap;

/// Bytes of row events of one prepared transaction that are kept in memory, and of all.
const KEPT: usize = 4 << 20;
const KEPT_IN_ALL: usize = 64 << 20;
/// Tables of a transaction that are named in a position at most.
const TABLES_NAMED: usize = 16;
/// What stays as it is inside a name in a position.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'.').remove(b'_').remove(b'-');

/// The name of an XA transaction.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Xid {
    format: i32,
    global: Vec<u8>,
    branch: Vec<u8>,
}

impl Xid {
    /// From the event that prepares it, and whether that event commits it as well (`ONE PHASE`).
    pub(super) fn of_prepare(body: &[u8]) -> Option<(Self, bool)> {
        let mut c = Cursor::new(body);
        let one_phase = c.u8()? == 1;
        let format = c.u32()? as i32;
        let (global, branch) = (usize::try_from(c.u32()?).ok()?, usize::try_from(c.u32()?).ok()?);
        Some((Xid { format, global: c.take(global)?.to_vec(), branch: c.take(branch)?.to_vec() }, one_phase))
    }

    /// From a statement as servers write it into their logs: `XA COMMIT X'6162',X'',1`.
    pub(super) fn of_statement(text: &str) -> Option<Self> {
        let at = text.find("X'").or_else(|| text.find("x'"))?;
        let mut parts = text[at..].splitn(3, ',');
        let mut bytes = || {
            let part = parts.next()?.trim();
            unhex(part.strip_prefix(['X', 'x'])?.strip_prefix('\'')?.strip_suffix('\'')?)
        };
        let (global, branch) = (bytes()?, bytes()?);
        let format = parts.next()?.split_whitespace().next()?.parse().ok()?;
        Some(Xid { format, global, branch })
    }
}

impl fmt::Display for Xid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.format, hex(&self.global), hex(&self.branch))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// A place in a server's log: where a transaction begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// File name.
    pub file: String,
    /// Bytes from its begin.
    pub offset: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.offset)
    }
}

/// Where the rows of a prepared transaction are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Its begin in the log of the server that was read.
    pub place: Place,
    /// Tables that it changes; `None`: more than are worth naming.
    pub tables: Option<Vec<TableName>>,
}

/// The transactions that are prepared at a position, as its text has them:
/// `FORMAT:GLOBAL:BRANCH@FILE:OFFSET@DATABASE/TABLE@…`, with commas in between. A `*` in place of tables: many.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prepared(pub(super) BTreeMap<Xid, Origin>);

impl Prepared {
    /// Reads the text of a position.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let decoded = |text: &str| percent_decode_str(text).decode_utf8().ok().map(|t| t.into_owned());
        let mut out = BTreeMap::new();
        for entry in text.split(',').filter(|e| !e.is_empty()) {
            let mut fields = entry.split('@');
            let mut id = fields.next()?.splitn(3, ':');
            let format = id.next()?.parse().ok()?;
            let xid = Xid { format, global: unhex(id.next()?)?, branch: unhex(id.next()?)? };
            let (file, offset) = fields.next()?.rsplit_once(':')?;
            let place = Place { file: decoded(file)?, offset: offset.parse().ok()? };
            let mut tables = Some(Vec::new());
            for table in fields {
                if table == "*" {
                    tables = None;
                    break;
                }
                let (database, table) = table.split_once('/')?;
                tables.iter_mut().for_each(|t| t.push((decoded(database), decoded(table))));
            }
            let named = |(database, table): (Option<String>, Option<String>)| Some(TableName::new(database?, table?));
            let tables = match tables {
                Some(tables) => Some(tables.into_iter().map(named).collect::<Option<Vec<_>>>()?),
                None => None,
            };
            out.insert(xid, Origin { place, tables });
        }
        Some(Prepared(out))
    }
}

impl fmt::Display for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |text| utf8_percent_encode(text, PLAIN);
        for (i, (xid, Origin { place, tables })) in self.0.iter().enumerate() {
            write!(f, "{}{xid}@{}:{}", if i > 0 { "," } else { "" }, plain(&place.file), place.offset)?;
            match tables {
                None => write!(f, "@*")?,
                Some(tables) => {
                    for t in tables {
                        write!(f, "@{}/{}", plain(&t.database), plain(&t.table))?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// The events of a transaction that is not handed out yet.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    /// Where the transaction begins in its file.
    pub(super) start: u64,
    /// What is needed of its events: bodies of table maps and rows of followed tables, statements.
    pub(super) events: Vec<(Header, Vec<u8>)>,
    bytes: usize,
    /// Something was too large to be kept.
    pub(super) incomplete: bool,
    tables: BTreeSet<TableName>,
    followed: HashSet<u64>,
}

impl Gathered {
    pub(super) fn from(start: u64) -> Self {
        Gathered { start, ..Gathered::default() }
    }

    /// Takes an event. `is_followed` says of which tables rows are needed.
    pub(super) fn add(&mut self, header: &Header, body: &[u8], is_followed: impl Fn(&TableName) -> bool) {
        let id = TableMap::id(body).unwrap_or_default();
        if header.kind == kind::TABLE_MAP {
            let Some(name) = TableMap::name(body) else { return };
            match is_followed(&name) {
                true => self.followed.insert(id),
                false => self.followed.remove(&id),
            };
            if self.tables.len() <= TABLES_NAMED {
                self.tables.insert(name);
            }
        }
        let is_statement = matches!(header.kind, kind::QUERY | kind::MARIADB_QUERY_COMPRESSED);
        if self.incomplete || !is_statement && !self.followed.contains(&id) {
            return;
        }
        self.bytes += body.len();
        if self.bytes > KEPT {
            (self.incomplete, self.events) = (true, Vec::new());
            return;
        }
        self.events.push((*header, body.to_vec()));
    }

    /// Tables that the transaction changes; `None`: many.
    pub(super) fn tables(&self) -> Option<Vec<TableName>> {
        (self.tables.len() <= TABLES_NAMED).then(|| self.tables.iter().cloned().collect())
    }

    /// The ordinals of events that a savepoint has taken back.
    pub(super) fn void(&self) -> Vec<Range<u64>> {
        let mut survey = Survey::default();
        for (i, (header, body)) in self.events.iter().enumerate() {
            survey.read(header, body, i as u64);
        }
        survey.void
    }
}

/// Prepared transactions that are kept in memory.
#[derive(Default)]
pub(super) struct Kept {
    transactions: HashMap<Xid, Gathered>,
    bytes: usize,
}

impl Kept {
    /// Keeps one, if it is whole and there is room.
    pub(super) fn keep(&mut self, xid: Xid, gathered: Gathered) {
        if gathered.incomplete || self.bytes + gathered.bytes > KEPT_IN_ALL {
            return;
        }
        self.bytes += gathered.bytes;
        if let Some(old) = self.transactions.insert(xid, gathered) {
            self.bytes -= old.bytes;
        }
    }

    pub(super) fn take(&mut self, xid: &Xid) -> Option<Gathered> {
        let gathered = self.transactions.remove(xid)?;
        self.bytes -= gathered.bytes;
        Some(gathered)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_of_transactions() {
        let xid = Xid { format: 7, global: b"a".to_vec(), branch: b"b".to_vec() };
        let body = [&[0, 7, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0][..], b"ab"].concat();
        assert_eq!(Xid::of_prepare(&body), Some((xid.clone(), false)));
        assert_eq!(Xid::of_statement("XA COMMIT X'61',X'62',7"), Some(xid.clone()));
        assert_eq!(Xid::of_statement("XA COMMIT X'61',X'62',7 ONE PHASE"), Some(xid));
        assert_eq!(Xid::of_statement("XA ROLLBACK X'616',X'',1"), None);
        assert_eq!(Xid::of_prepare(&body[..14]), None);
    }

    #[test]
    fn text_of_positions() {
        let origin = |tables| Origin { place: Place { file: "bin,l@g:x.000003".into(), offset: 77 }, tables };
        let xid = |n: u8| Xid { format: -1, global: vec![n, 255], branch: Vec::new() };
        let prepared = Prepared(BTreeMap::from([
            (xid(1), origin(Some(vec![TableName::new("sh op", "t/1"), TableName::new("d", "ä")]))),
            (xid(2), origin(None)),
            (xid(3), origin(Some(Vec::new()))),
        ]));
        let text = prepared.to_string();
        assert!(!text.contains(' '), "{text}");
        assert_eq!(Prepared::parse(&text), Some(prepared));
        for bad in ["x", "1:61:62", "1:61@f:1", "1:61:6@f:1", "1:61:62@f:x", "1:61:62@f:1@t"] {
            assert_eq!(Prepared::parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn bad_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60), text in ".{0,60}") {
            let _ = (Xid::of_prepare(&bytes), Xid::of_statement(&text), Prepared::parse(&text));
        }
    }
}
