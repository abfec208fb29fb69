//! What the log's events amount to: transactions, positions, schema changes, rows gathered per table. Everything here is
//! a function of the bytes read, so that recorded logs test it.
//!
//! Rows of several transactions are gathered into one batch per table. They are handed out with a [`Commit`] when
//! nothing more has arrived, when enough is gathered, before a schema change, and at the place where the engine wants
//! one; a transaction that is larger than the limit is handed out in parts.

mod statements;

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use freshet_core::{ChangesRequest, Commit, Error, Event, Position, Result, TableName, TablePattern, TableSchema};

use super::super::ddl::Cascade;
use super::super::wire::{Cursor, shortened};
use super::compressed::Payload;
use super::event::{self, HEADER, Header, MariaDbGtid, MySqlGtid, Query, kind};
use super::gtid::Uuid;
use super::position::LogPosition;
use super::register::StreamOptions;
use super::rows::{Change, TableDecoder};
use super::statement::{self, Kind};
use super::survey::{Ending, Survey};
use super::table_map::TableMap;
use super::xa::{Gathered, Kept, Origin, Place, Xid};

/// Table maps that are remembered from one transaction to the next.
const MAPS: usize = 10_000;
/// The number of a table map that MySQL uses for "no rows".
const NO_TABLE: u64 = 0xFF_FFFF;

/// Tables with the schemas in force at a position.
type Schemas = HashMap<TableName, Arc<TableSchema>>;

/// A table map as it was last read.
struct Mapped {
    body: Vec<u8>,
    /// The decoder of a followed table.
    decoder: Option<usize>,
    /// The table, if its changes change others that are not logged.
    parent: Option<TableName>,
}

/// A transaction id that counts with the coming commit.
#[derive(Clone, Copy)]
enum Pending {
    MySql(Uuid, u64),
    MariaDb(u32, u32, u64),
}

/// What is needed before reading can go on; the stream fetches it over a second connection.
#[derive(Debug, Clone)]
pub(super) enum Wanted {
    /// How the transaction at this place ends.
    Ending { place: Place },
    /// Where the XA transaction begins that was prepared before `before`, probably at `place`.
    Prepared { xid: Xid, place: Option<Place>, before: Place },
    /// The events of the transaction at this place, those before an offset.
    Rows { place: Place, until: u64 },
}

/// The state of reading a log.
pub(super) struct Log {
    options: StreamOptions,
    mariadb: bool,
    pattern: TablePattern,
    /// The followed and the watched tables with the schemas in force here.
    schemas: Schemas,
    /// Those of them whose rows are left out.
    watched: HashSet<TableName>,
    maps: HashMap<u64, Mapped>,
    decoders: Vec<TableDecoder>,
    by_name: HashMap<TableName, usize>,
    checksums: bool,
    /// Behind the last commit.
    position: LogPosition,
    /// Behind the last event, in the position's file.
    here: u64,
    in_transaction: bool,
    /// No event behind the last commit belongs to a transaction.
    whole: bool,
    /// Schema changes in this transaction so far.
    schema_changes: u64,
    /// Schema changes of the first transaction that were done before.
    skip: u64,
    /// The statement whose rows come is a REPLACE: columns that its updates do not hold take their defaults.
    replaces: bool,
    /// Parts of this transaction have been handed out already.
    split: bool,
    /// Where the transaction begins in its file.
    begin: u64,
    /// Where the event that is being read begins.
    at: u64,
    /// Names of savepoints, and how many rows each table had then.
    savepoints: Vec<(String, HashMap<TableName, usize>)>,
    /// Events of the first file that end here or before were done before.
    done: u64,
    /// It is known how the transaction ends.
    surveyed: bool,
    /// Events of the transaction that were taken back, by where they begin.
    void: Vec<Range<u64>>,
    /// An XA transaction that is being read.
    xa: Option<Gathered>,
    kept: Kept,
    /// With the head of the event that commits the transaction once it is fetched.
    wanted: Option<(Wanted, Option<Header>)>,
    gtid: Option<Pending>,
    gtid_time_ms: Option<i64>,
    /// The position has moved since the last commit handed out.
    moved: bool,
    transactions: u64,
    time_ms: Option<i64>,
    rows: usize,
    bytes: usize,
    stop: Option<(Position, LogPosition)>,
    /// Foreign keys that have changed rows since the last commit handed out, and whether to values other than NULL.
    unseen: Vec<(Cascade, bool)>,
    output: VecDeque<Event>,
    inflated: Vec<u8>,
}

impl Log {
    pub(super) fn new(
        from: LogPosition,
        request: &ChangesRequest,
        mariadb: bool,
        checksums: bool,
        options: StreamOptions,
    ) -> Result<Self> {
        let stop = match &request.stop {
            Some(stop) => Some((stop.clone(), LogPosition::parse(stop)?)),
            None => None,
        };
        Ok(Log {
            options,
            mariadb,
            pattern: request.pattern.clone(),
            schemas: request.tables.iter().chain(&request.watched).map(|t| (t.name.clone(), Arc::clone(t))).collect(),
            watched: request.watched.iter().map(|t| t.name.clone()).collect(),
            maps: HashMap::new(),
            decoders: Vec::new(),
            by_name: HashMap::new(),
            checksums,
            here: from.offset,
            position: from,
            in_transaction: false,
            whole: true,
            schema_changes: 0,
            skip: request.from.event,
            replaces: false,
            split: false,
            done: 0,
            begin: 4,
            at: 4,
            savepoints: Vec::new(),
            surveyed: false,
            void: Vec::new(),
            xa: None,
            kept: Kept::default(),
            wanted: None,
            gtid: None,
            gtid_time_ms: None,
            moved: false,
            transactions: 0,
            time_ms: None,
            rows: 0,
            bytes: 0,
            stop,
            unseen: Vec::new(),
            output: VecDeque::new(),
            inflated: Vec::new(),
        })
    }

    /// The server sends from the position on; `whole_file`: from its file's beginning, because it cannot be asked for the
    /// place.
    pub(super) fn server_sends(&mut self, checksums: bool, whole_file: bool) {
        (self.checksums, self.whole) = (checksums, true);
        if whole_file {
            (self.done, self.here) = (self.position.offset, 4);
        }
    }

    /// Goes on at another place of the log, between transactions. `checksums`: whether events carry some from there on.
    pub(super) fn go_on_at(&mut self, file: &str, offset: u64, checksums: bool) {
        (self.here, self.done, self.checksums) = (offset, 0, checksums);
        if self.position.file != file {
            (self.position.file, self.position.offset) = (file.to_string(), offset);
        }
    }

    /// Passes over an event that is known already.
    pub(super) fn pass_over(&mut self, event: &[u8]) {
        if let Some(header) = Header::parse(event) {
            self.advance(&header);
        }
    }

    /// Behind the last commit; the file and place of what comes next; and whether events carry checksums there.
    pub(super) fn whereabouts(&self) -> (&LogPosition, u64, bool) {
        (&self.position, self.here, self.checksums)
    }

    /// Whether the reading stands between two transactions.
    pub(super) fn is_whole(&self) -> bool {
        self.whole && self.wanted.is_none() && self.done == 0
    }

    /// The next thing to hand out.
    pub(super) fn output(&mut self) -> Option<Event> {
        self.output.pop_front()
    }

    pub(super) fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// Whether something is gathered that could be handed out now.
    pub(super) fn is_waiting(&self) -> bool {
        self.moved && (!self.in_transaction || self.decoders.iter().all(|d| d.uncommitted() == 0))
    }

    /// What has to be fetched before the next event is read.
    pub(super) fn wanted(&self) -> Option<&Wanted> {
        self.wanted.as_ref().map(|(wanted, _)| wanted)
    }

    /// Hands out what is gathered, if that is a whole number of transactions.
    pub(super) fn hand_out_if_complete(&mut self) -> Result<()> {
        if self.is_waiting() { self.hand_out() } else { Ok(()) }
    }

    /// Where the last event ended, for people.
    pub(super) fn place(&self) -> String {
        format!("{}:{}", self.position.file, self.here)
    }

    /// Takes an event in.
    ///
    /// # Errors
    /// `Corrupt` when it fails its checksum or cannot be read; `Unsupported` for events that we don't know;
    /// `SourceState` when the server says that its log is incomplete.
    pub(super) fn read(&mut self, event: &[u8]) -> Result<()> {
        let header = Header::parse(event).ok_or_else(|| self.corrupt("an event of the log is too short"))?;
        if header.kind == kind::FORMAT_DESCRIPTION {
            self.checksums = event::format_has_checksums(event)
                .ok_or_else(|| Error::unsupported("the log's checksums are of an unknown sort"))?;
        }
        let event = match self.checksums {
            true if event::checksum_is_right(event) => event::without_checksum(event),
            // Servers differ in whether what they make up before the first event of a file carries a checksum.
            true if header.kind == kind::ROTATE && header.is_artificial() => event,
            true => return Err(self.corrupt("an event of the log fails its checksum")),
            false => event,
        };
        let body = event.get(HEADER..).ok_or_else(|| self.corrupt("an event of the log is too short"))?;
        self.advance(&header);
        if self.done > 0 && header.kind != kind::ROTATE {
            if self.here <= self.done {
                return Ok(());
            }
            self.done = 0;
        }
        self.dispatch(&header, body)?;
        self.whole = match header.kind {
            // What had begun before is thrown away.
            kind::ROTATE => true,
            kind::FORMAT_DESCRIPTION => self.whole || !header.is_artificial(),
            kind::PREVIOUS_GTIDS
            | kind::MARIADB_GTID_LIST
            | kind::MARIADB_BINLOG_CHECKPOINT
            | kind::MARIADB_START_ENCRYPTION
            | kind::STOP
            | kind::HEARTBEAT
            | kind::HEARTBEAT_V2 => self.whole,
            _ => !self.in_transaction && self.here == self.position.offset,
        };
        Ok(())
    }

    /// Follows the offset in the file. Headers hold its lower 32 bits only.
    fn advance(&mut self, header: &Header) {
        let in_file = !matches!(header.kind, kind::HEARTBEAT | kind::HEARTBEAT_V2);
        if header.is_artificial() || !in_file {
            return;
        }
        self.here = header.end(self.here);
        self.at = self.here.saturating_sub(u64::from(header.size));
    }

    fn dispatch(&mut self, header: &Header, body: &[u8]) -> Result<()> {
        if self.xa.is_some() && is_content(header.kind) {
            return self.gather(header, body);
        }
        if is_rows(header.kind) && self.void.iter().any(|v| v.contains(&self.at)) {
            return Ok(());
        }
        match header.kind {
            kind::TABLE_MAP => self.table_map(body),
            kind::WRITE_ROWS_V1 | kind::WRITE_ROWS => self.rows_event(header, Change::Insert, body),
            kind::UPDATE_ROWS_V1 | kind::UPDATE_ROWS => self.rows_event(header, Change::Update, body),
            kind::DELETE_ROWS_V1 | kind::DELETE_ROWS => self.rows_event(header, Change::Delete, body),
            kind::MARIADB_WRITE_ROWS_COMPRESSED_V1..=kind::MARIADB_DELETE_ROWS_COMPRESSED => {
                self.compressed_rows(header, body)
            }
            kind::XID => self.commit(header),
            kind::GTID | kind::ANONYMOUS_GTID => self.mysql_gtid(header.kind, body),
            kind::GTID_TAGGED => {
                self.begin = self.at;
                self.unnumbered();
                Ok(())
            }
            kind::MARIADB_GTID_LIST => self.gtid_list(header, body),
            kind::PREVIOUS_GTIDS => {
                // From a server without ids, or from one that had numbered nothing yet.
                if self.position.gtids.is_none() && !header.is_artificial() {
                    self.position.gtids = event::previous_gtids(body);
                }
                Ok(())
            }
            kind::MARIADB_GTID => self.mariadb_gtid(header, body),
            kind::QUERY | kind::EXECUTE_LOAD_QUERY => {
                let extra = if header.kind == kind::QUERY { 0 } else { 13 };
                let query = Query::parse(body, extra).ok_or_else(|| self.malformed(header))?;
                self.query(header, &query)
            }
            kind::MARIADB_QUERY_COMPRESSED => {
                let mut scratch = std::mem::take(&mut self.inflated);
                let done = match Query::parse_compressed(body, &mut scratch) {
                    Some(query) => self.query(header, &query),
                    None => Err(self.malformed(header)),
                };
                self.inflated = scratch;
                done
            }
            kind::MARIADB_ANNOTATE_ROWS => {
                self.replaces = statement::replaces(&String::from_utf8_lossy(body));
                Ok(())
            }
            kind::ROTATE => self.rotate(header, body),
            kind::XA_PREPARE => self.xa_prepare(header, body),
            kind::FORMAT_DESCRIPTION if !header.is_artificial() => self.roll_back(),
            kind::INCIDENT => {
                Err(Error::source_state("the server says that changes are missing in its log (incident)")
                    .hint("drop the job and create it again"))
            }
            kind::TRANSACTION_PAYLOAD => self.payload(header, body),
            kind::PARTIAL_UPDATE_ROWS => self.partial_update(body),
            kind::FORMAT_DESCRIPTION
            | kind::STOP
            | kind::INTVAR
            | kind::APPEND_BLOCK
            | kind::DELETE_FILE
            | kind::RAND
            | kind::USER_VAR
            | kind::BEGIN_LOAD_QUERY
            | kind::HEARTBEAT
            | kind::HEARTBEAT_V2
            | kind::IGNORABLE
            | kind::ROWS_QUERY
            | kind::TRANSACTION_CONTEXT
            | kind::VIEW_CHANGE
            | kind::MARIADB_BINLOG_CHECKPOINT
            | kind::MARIADB_START_ENCRYPTION => Ok(()),
            _ if header.is_ignorable() => Ok(()),
            other => Err(Error::unsupported(format!("the log holds an event of the unknown type {other}"))
                .hint("this server is newer than this version of Freshet: look for a newer one")),
        }
    }

    /// The events of a compressed transaction; they have no place of their own in the file.
    fn payload(&mut self, header: &Header, body: &[u8]) -> Result<()> {
        let mut payload = Payload::parse(body).ok_or_else(|| self.malformed(header))?;
        let mut event = Vec::new();
        while payload.next(&mut event).ok_or_else(|| self.malformed(header))? {
            let inner = Header::parse(&event).ok_or_else(|| self.malformed(header))?;
            if inner.kind == kind::TRANSACTION_PAYLOAD {
                return Err(self.malformed(header));
            }
            self.dispatch(&inner, &event[HEADER..])?;
        }
        Ok(())
    }

    // Rows.

    fn table_map(&mut self, body: &[u8]) -> Result<()> {
        let id = TableMap::id(body).ok_or_else(|| self.corrupt("a table map is malformed"))?;
        if self.maps.get(&id).is_some_and(|m| m.body == body) {
            return Ok(());
        }
        let decoder = self.decoder_of(body)?;
        let parent = TableMap::name(body).filter(|name| self.options.side_effects.is_parent(name));
        self.maps.insert(id, Mapped { body: body.to_vec(), decoder, parent });
        Ok(())
    }

    /// The decoder for rows behind a table map, if its table is followed.
    fn decoder_of(&mut self, body: &[u8]) -> Result<Option<usize>> {
        if !self.watched.is_empty() && TableMap::name(body).is_some_and(|name| self.watched.contains(&name)) {
            return Ok(None);
        }
        let Some(map) = TableMap::parse(body) else {
            // Perhaps a type that we don't know: that matters only if the table is followed.
            let Some(name) = TableMap::name(body) else { return Err(self.corrupt("a table map is malformed")) };
            if self.schemas.contains_key(&name) {
                let error = Error::unsupported("the table has a column of an unknown type").with("table", &name);
                self.suspend(&name, error.hint("leave the table out of the job"));
            }
            return Ok(None);
        };
        let Some(schema) = self.schemas.get(&map.name) else { return Ok(None) };
        if let Some(&at) = self.by_name.get(&map.name)
            && self.decoders[at].fits(&map)
        {
            return Ok(Some(at));
        }
        match TableDecoder::new(schema, &map, self.options.decode, self.mariadb) {
            Ok(decoder) => {
                // One decoder a table: rows of a map that differs, with the same schema, cannot be.
                let at = *self.by_name.entry(map.name).or_insert(self.decoders.len());
                if at == self.decoders.len() {
                    self.decoders.push(decoder);
                } else {
                    let old = std::mem::replace(&mut self.decoders[at], decoder).take()?;
                    self.output.extend(old.into_iter().map(Event::Rows));
                }
                Ok(Some(at))
            }
            Err(error) => {
                self.suspend(&map.name, error);
                Ok(None)
            }
        }
    }

    fn rows_event(&mut self, header: &Header, change: Change, body: &[u8]) -> Result<()> {
        let rows = RowsHead::parse(header.kind, body).ok_or_else(|| self.malformed(header))?;
        self.apply(rows, change)
    }

    fn compressed_rows(&mut self, header: &Header, body: &[u8]) -> Result<()> {
        let (change, plain) = match header.kind - kind::MARIADB_WRITE_ROWS_COMPRESSED_V1 {
            0 => (Change::Insert, kind::WRITE_ROWS_V1),
            1 => (Change::Update, kind::UPDATE_ROWS_V1),
            2 => (Change::Delete, kind::DELETE_ROWS_V1),
            3 => (Change::Insert, kind::WRITE_ROWS),
            4 => (Change::Update, kind::UPDATE_ROWS),
            _ => (Change::Delete, kind::DELETE_ROWS),
        };
        let head = RowsHead::parse(plain, body).ok_or_else(|| self.malformed(header))?;
        let mut scratch = std::mem::take(&mut self.inflated);
        let done = match head.inflate(change, &mut scratch) {
            Some(rows) => self.apply(rows, change),
            None => Err(self.malformed(header)),
        };
        self.inflated = scratch;
        done
    }

    fn apply(&mut self, rows: RowsHead<'_>, change: Change) -> Result<()> {
        let Some(map) = self.maps.get(&rows.table) else {
            let dummy = rows.table == NO_TABLE;
            return if dummy { Ok(()) } else { Err(self.corrupt("rows of a table that no table map names")) };
        };
        let (decoder, parent) = (map.decoder, map.parent.clone().filter(|_| rows.foreign_keys_act));
        let Some(at) = decoder else {
            if let Some(parent) = parent {
                self.cascade(&parent, change, None);
            }
            return Ok(());
        };
        let key_changes = self.decoders[at].key_changes;
        match self.decoders[at].apply(change, rows.body, self.replaces) {
            Ok(n) => {
                if let Some(parent) = parent {
                    let key_changed = self.decoders[at].key_changes != key_changes;
                    self.cascade(&parent, change, Some(key_changed));
                }
                self.rows += n;
                self.bytes += rows.body.len();
                match self.is_full() {
                    true if self.surveyed || !self.options.look_ahead => self.hand_out_part(),
                    true => {
                        let place = Place { file: self.position.file.clone(), offset: self.begin };
                        self.wanted = Some((Wanted::Ending { place }, None));
                        Ok(())
                    }
                    false => Ok(()),
                }
            }
            Err(error) => {
                let name = self.decoders[at].schema().name.clone();
                self.suspend(&name, error.with("log position", self.place()));
                Ok(())
            }
        }
    }

    /// Says which tables foreign keys have changed along with this one, unseen by the log, or suspends them. `key_changed`: whether
    /// an update changed the key, if the table is followed.
    fn cascade(&mut self, parent: &TableName, change: Change, key_changed: Option<bool>) {
        if change == Change::Insert {
            return;
        }
        let key = self.schemas.get(parent).map(|s| s.key.clone()).unwrap_or_default();
        let effects = &self.options.side_effects;
        let of = effects.of(parent, change == Change::Delete, key_changed.map(|changed| (changed, &*key)));
        for (cascade, moves) in of {
            if self.options.unseen {
                // Those in the other lane as well: what is copied of them now may be of before.
                if self.schemas.contains_key(&cascade.child) || self.pattern.matches(&cascade.child) {
                    match self.unseen.iter_mut().find(|(known, _)| *known == cascade) {
                        Some((_, known)) => *known |= moves,
                        None => self.unseen.push((cascade, moves)),
                    }
                }
            } else if self.schemas.contains_key(&cascade.child) && !self.watched.contains(&cascade.child) {
                let error = cascade.error();
                self.suspend(&cascade.child, error.with("log position", self.place()));
            }
        }
    }

    fn partial_update(&mut self, body: &[u8]) -> Result<()> {
        let at = TableMap::id(body).and_then(|id| self.maps.get(&id)).and_then(|m| m.decoder);
        if let Some(at) = at {
            let name = self.decoders[at].schema().name.clone();
            let error = Error::unsupported("the log holds parts of JSON documents only").with("table", &name);
            self.suspend(&name, error.hint("SET GLOBAL binlog_row_value_options = '', and sync the table anew"));
        }
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.rows >= self.options.batch_rows || self.bytes >= self.options.batch_bytes
    }

    // Transactions.

    fn mysql_gtid(&mut self, event: u8, body: &[u8]) -> Result<()> {
        let gtid = MySqlGtid::parse(body).ok_or_else(|| self.corrupt("the begin of a transaction is malformed"))?;
        self.begin = self.at;
        self.gtid_time_ms = gtid.commit_micros.and_then(|t| i64::try_from(t / 1000).ok());
        if event == kind::GTID {
            self.gtid = Some(Pending::MySql(gtid.uuid, gtid.number));
        } else {
            self.unnumbered();
        }
        Ok(())
    }

    /// A transaction without an id, or with one that we don't read: from here on file and offset count.
    fn unnumbered(&mut self) {
        (self.gtid, self.position.gtids) = (None, None);
    }

    /// What MariaDB has numbered before a file begins.
    fn gtid_list(&mut self, header: &Header, body: &[u8]) -> Result<()> {
        if self.position.gtids.is_none() && !header.is_artificial() && !self.in_transaction {
            self.position.gtids = Some(event::gtid_list(body).ok_or_else(|| self.malformed(header))?);
        }
        Ok(())
    }

    fn mariadb_gtid(&mut self, header: &Header, body: &[u8]) -> Result<()> {
        let gtid = MariaDbGtid::parse(body).ok_or_else(|| self.malformed(header))?;
        self.gtid = Some(Pending::MariaDb(gtid.domain, header.server_id, gtid.sequence));
        self.gtid_time_ms = None;
        self.begin = self.at;
        self.xa = gtid.is_xa().then(|| Gathered::from(self.at));
        self.in_transaction = !gtid.is_standalone();
        self.replaces = false;
        Ok(())
    }

    /// A transaction is complete.
    fn commit(&mut self, header: &Header) -> Result<()> {
        let gtids = &mut self.position.gtids;
        match self.gtid.take() {
            Some(Pending::MySql(uuid, number)) => {
                if let Some(gtids) = gtids {
                    gtids.add_mysql(uuid, number);
                }
            }
            Some(Pending::MariaDb(domain, server, sequence)) => {
                if let Some(gtids) = gtids {
                    gtids.add_mariadb(domain, server, sequence);
                }
            }
            None => {}
        }
        self.position.offset = self.here;
        self.in_transaction = false;
        (self.schema_changes, self.skip, self.split, self.surveyed) = (0, 0, false, false);
        (self.xa, self.wanted) = (None, None);
        self.savepoints.clear();
        self.void.clear();
        self.time_ms = self.gtid_time_ms.take().or(Some(i64::from(header.time) * 1000).filter(|t| *t > 0));
        self.transactions += 1;
        self.moved = true;
        for decoder in &mut self.decoders {
            decoder.commit();
        }
        if self.maps.len() > MAPS {
            self.maps.clear();
        }
        if self.is_full() || self.is_at_stop() { self.hand_out() } else { Ok(()) }
    }

    /// Throws the rows of the transaction away that was begun.
    fn roll_back(&mut self) -> Result<()> {
        self.in_transaction = false;
        self.xa = None;
        if self.split {
            return Err(Error::source_state(
                "a large transaction was rolled back in the log after a part of it was read",
            )
            .hint("`freshet resync` the job: what was rolled back may be at its target"));
        }
        self.decoders.iter_mut().for_each(|d| d.discard_from(0));
        Ok(())
    }

    fn set_savepoint(&mut self, text: &str) {
        let name = statement::savepoint(text);
        let rows = self.decoders.iter().map(|d| (d.schema().name.clone(), d.rows())).collect();
        self.savepoints.retain(|(n, _)| *n != name);
        self.savepoints.push((name, rows));
    }

    /// Throws away what came behind a savepoint, unless that was left out from the beginning.
    fn roll_back_to(&mut self, text: &str) -> Result<()> {
        if self.surveyed {
            return Ok(());
        }
        let name = statement::savepoint(text);
        let Some(at) = self.savepoints.iter().position(|(n, _)| *n == name).filter(|_| !self.split) else {
            return Err(Error::source_state("a transaction was rolled back to a savepoint that is not known")
                .with("statement", shortened(text))
                .hint("`freshet resync` the job: what was rolled back may be at its target"));
        };
        self.savepoints.truncate(at + 1);
        for decoder in &mut self.decoders {
            // A table without a mark had no rows then.
            decoder.discard_from(self.savepoints[at].1.get(&decoder.schema().name).copied().unwrap_or(0));
        }
        Ok(())
    }

    // XA transactions, and what has to be read again.

    /// Keeps an event of an XA transaction until its fate is known.
    fn gather(&mut self, header: &Header, body: &[u8]) -> Result<()> {
        if header.kind == kind::QUERY
            && let Some(query) = Query::parse(body, 0)
            && matches!(
                Kind::of(&statement::decoded(query.text, query.collation).0),
                Kind::XaCommit | Kind::XaRollback | Kind::Commit | Kind::Rollback
            )
        {
            return self.query(header, &query);
        }
        let (xa, schemas) = (&mut self.xa, &self.schemas);
        xa.iter_mut().for_each(|xa| xa.add(header, body, |table| schemas.contains_key(table)));
        Ok(())
    }

    fn xa_prepare(&mut self, header: &Header, body: &[u8]) -> Result<()> {
        let (xid, one_phase) = Xid::of_prepare(body).ok_or_else(|| self.malformed(header))?;
        let Some(gathered) = self.xa.take() else { return self.commit(header) };
        let place = Place { file: self.position.file.clone(), offset: gathered.start };
        if one_phase {
            let tables = gathered.tables();
            return self.xa_commit(header, xid, Some(gathered), Some(Origin { place, tables }));
        }
        self.position.prepared.0.insert(xid.clone(), Origin { place, tables: gathered.tables() });
        self.kept.keep(xid, gathered);
        self.commit(header)
    }

    /// The transaction's rows count from here on: those kept in memory, or else they are read again.
    fn xa_commit(
        &mut self,
        header: &Header,
        xid: Xid,
        gathered: Option<Gathered>,
        origin: Option<Origin>,
    ) -> Result<()> {
        let tables = origin.as_ref().and_then(|o| o.tables.as_ref());
        if self.schemas.is_empty() || tables.is_some_and(|t| !t.iter().any(|t| self.schemas.contains_key(t))) {
            return self.commit(header);
        }
        if let Some(gathered) = gathered.filter(|g| !g.incomplete) {
            (self.void, self.surveyed, self.in_transaction) = (gathered.void(), true, true);
            for (i, (header, body)) in gathered.events.iter().enumerate() {
                self.content(header, i as u64, body)?;
            }
            return self.commit(header);
        }
        let before = Place { file: self.position.file.clone(), offset: self.at };
        self.wanted = Some((Wanted::Prepared { xid, place: origin.map(|o| o.place), before }, Some(*header)));
        Ok(())
    }

    /// Table maps, rows and statements of a transaction that is read for the second time.
    fn content(&mut self, header: &Header, at: u64, body: &[u8]) -> Result<()> {
        let here = std::mem::replace(&mut self.at, at);
        let done = match header.kind {
            kind::QUERY | kind::MARIADB_QUERY_COMPRESSED => self.statement_again(header, body),
            kind if is_content(kind) => self.dispatch(header, body),
            _ => Ok(()),
        };
        self.at = here;
        done
    }

    fn statement_again(&mut self, header: &Header, body: &[u8]) -> Result<()> {
        let mut scratch = Vec::new();
        let query = match header.kind {
            kind::QUERY => Query::parse(body, 0),
            _ => Query::parse_compressed(body, &mut scratch),
        };
        let query = query.ok_or_else(|| self.malformed(header))?;
        let (text, _) = statement::decoded(query.text, query.collation);
        if Kind::of(&text) == Kind::Rows {
            self.rows_by_statement(&query, &text);
        }
        Ok(())
    }

    /// Takes what was wanted of a transaction; `None`: it is not in the log any more.
    ///
    /// # Errors
    /// As [`Log::read`].
    pub(super) fn found(&mut self, found: Option<(Place, Survey)>) -> Result<()> {
        let Some((wanted, header)) = self.wanted.take() else { return Ok(()) };
        match (wanted, found, header) {
            (Wanted::Prepared { xid, .. }, None, Some(header)) => {
                let error = Error::source_state(
                    "a prepared XA transaction was committed whose rows are no longer in the server's log",
                )
                .with("transaction", xid)
                .with("log position", self.place())
                .hint("`freshet resync JOB TABLE` copies the table anew");
                let followed = self.schemas.keys().filter(|t| !self.watched.contains(*t));
                let tables: Vec<_> = followed.cloned().collect();
                tables.iter().for_each(|table| self.suspend(table, error.clone()));
                self.commit(&header)
            }
            (Wanted::Prepared { .. }, Some((place, survey)), header) => {
                (self.void, self.surveyed, self.in_transaction) = (survey.void, true, true);
                self.wanted = Some((Wanted::Rows { place, until: u64::MAX }, header));
                Ok(())
            }
            (_, Some((place, survey)), _) => {
                self.surveyed = true;
                match survey.ending {
                    Some(Ending::Rollback) => self.void = std::iter::once(0..u64::MAX).collect(),
                    _ => self.void = survey.void,
                }
                if self.void.is_empty() {
                    return self.hand_out_part();
                }
                self.decoders.iter_mut().for_each(|d| d.discard_from(0));
                (self.rows, self.bytes) = (0, 0);
                self.wanted = Some((Wanted::Rows { place, until: self.here }, None));
                Ok(())
            }
            // Then a rollback is found out too late, and said.
            (_, None, _) => {
                self.surveyed = true;
                self.hand_out_part()
            }
        }
    }

    /// Takes an event of the transaction that is wanted; whether it was the last one.
    ///
    /// # Errors
    /// As [`Log::read`].
    pub(super) fn replay(&mut self, header: &Header, start: u64, body: &[u8]) -> Result<bool> {
        let Some((Wanted::Rows { until, .. }, commit)) = &self.wanted else { return Ok(true) };
        let commit = *commit;
        if start < *until && !matches!(header.kind, kind::XA_PREPARE | kind::XID) {
            self.content(header, start, body)?;
            return Ok(false);
        }
        self.wanted = None;
        if let Some(header) = commit {
            self.commit(&header)?;
        }
        Ok(true)
    }

    fn rotate(&mut self, header: &Header, body: &[u8]) -> Result<()> {
        let (offset, file) = event::rotate(body).ok_or_else(|| self.malformed(header))?;
        self.roll_back()?;
        self.here = offset;
        if self.position.file != file {
            self.done = 0;
            (self.position.file, self.position.offset) = (file, offset);
            // What the server makes up at the begin only says where it begins.
            self.moved |= !header.is_artificial();
            if self.moved && self.is_at_stop() {
                self.hand_out()?;
            }
        }
        Ok(())
    }

    // Handing out.

    fn is_at_stop(&self) -> bool {
        self.stop.as_ref().is_some_and(|(_, stop)| self.position.compare(stop) != Some(Ordering::Less))
    }

    /// Hands everything out with the commit behind it. Between transactions only.
    pub(super) fn hand_out(&mut self) -> Result<()> {
        self.hand_out_rows()?;
        for (cascade, moves) in std::mem::take(&mut self.unseen) {
            let by = cascade.key(moves, |table| self.schemas.get(table).cloned());
            self.output.push_back(Event::Unseen { reason: cascade.reason(), table: cascade.child, by });
        }
        let mut position = self.position.position();
        if self.is_at_stop()
            && let Some((text, stop)) = self.stop.take()
            && self.position.compare(&stop) == Some(Ordering::Equal)
        {
            position = text;
        }
        self.output.push_back(Event::Commit(Commit {
            position,
            time_ms: self.time_ms.take(),
            transactions: std::mem::take(&mut self.transactions),
        }));
        self.moved = false;
        Ok(())
    }

    /// Hands out what is gathered inside a transaction that is larger than the limit.
    fn hand_out_part(&mut self) -> Result<()> {
        self.split = true;
        self.hand_out_rows()
    }

    fn hand_out_rows(&mut self) -> Result<()> {
        (self.rows, self.bytes) = (0, 0);
        for decoder in &mut self.decoders {
            self.output.extend(decoder.take()?.into_iter().map(Event::Rows));
        }
        Ok(())
    }

    /// The table is no longer followed, only watched. What is gathered of it is dropped: it is parked at the last commit.
    fn suspend(&mut self, table: &TableName, error: Error) {
        if self.schemas.contains_key(table) {
            self.watched.insert(table.clone());
        }
        self.forget_decoder(table);
        self.output.push_back(Event::Suspend { table: table.clone(), error });
    }

    fn forget_decoder(&mut self, table: &TableName) {
        let Some(at) = self.by_name.remove(table) else { return };
        let rows = self.decoders[at].rows();
        self.rows = self.rows.saturating_sub(rows);
        self.decoders.remove(at);
        self.by_name.values_mut().filter(|place| **place > at).for_each(|place| *place -= 1);
        for map in self.maps.values_mut() {
            map.decoder = match map.decoder {
                Some(place) if place == at => None,
                Some(place) if place > at => Some(place - 1),
                other => other,
            };
        }
    }

    // Errors.

    fn corrupt(&self, what: &str) -> Error {
        Error::corrupt(what).with("behind", self.place())
    }

    fn malformed(&self, header: &Header) -> Error {
        self.corrupt(&format!("an event of type {} is malformed", header.kind))
    }
}

/// Whether an event holds rows, or a part of them.
fn is_rows(event: u8) -> bool {
    matches!(
        event,
        kind::WRITE_ROWS_V1..=kind::DELETE_ROWS_V1
            | kind::WRITE_ROWS..=kind::DELETE_ROWS
            | kind::PARTIAL_UPDATE_ROWS
            | kind::MARIADB_WRITE_ROWS_COMPRESSED_V1..=kind::MARIADB_DELETE_ROWS_COMPRESSED
    )
}

/// Whether an event is what a transaction consists of.
fn is_content(event: u8) -> bool {
    is_rows(event) || matches!(event, kind::TABLE_MAP | kind::QUERY | kind::MARIADB_QUERY_COMPRESSED)
}

/// The head of a row event: the number of its table map, and what is behind the post-header.
struct RowsHead<'a> {
    table: u64,
    /// Not switched off by the session (`foreign_key_checks`).
    foreign_keys_act: bool,
    body: &'a [u8],
}

impl<'a> RowsHead<'a> {
    fn parse(event: u8, body: &'a [u8]) -> Option<Self> {
        let mut c = Cursor::new(body);
        let table = c.u48()?;
        let foreign_keys_act = c.u16()? & 2 == 0;
        if event >= kind::WRITE_ROWS {
            let extra = usize::from(c.u16()?);
            c.take(extra.checked_sub(2)?)?;
        }
        Some(RowsHead { table, foreign_keys_act, body: c.rest() })
    }

    /// With the rows inflated into `out`; number of columns and bitmaps are never compressed.
    fn inflate(self, change: Change, out: &mut Vec<u8>) -> Option<RowsHead<'_>> {
        let mut c = Cursor::new(self.body);
        let columns = usize::try_from(c.length()?).ok()?;
        let bitmaps = if change == Change::Update { 2 } else { 1 };
        c.take(columns.div_ceil(8).checked_mul(bitmaps)?)?;
        let head = &self.body[..self.body.len() - c.rest().len()];
        super::compressed::inflate(c.rest(), out)?;
        out.splice(0..0, head.iter().copied());
        Some(RowsHead { body: out, ..self })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An event as a server writes it, but for its size: what is not there is not read.
    fn event(kind: u8, size: u32, next: u64, body: &[u8]) -> Vec<u8> {
        let mut event = vec![1, 0, 0, 0, kind, 1, 0, 0, 0];
        event.extend_from_slice(&size.to_le_bytes());
        event.extend_from_slice(&(next as u32).to_le_bytes());
        event.extend_from_slice(&[0, 0]);
        event.extend_from_slice(body);
        event
    }

    fn log(from: &str) -> Log {
        let request = ChangesRequest {
            tables: Vec::new(),
            watched: Vec::new(),
            pattern: TablePattern::database("d"),
            from: Position::at(from),
            stop: None,
            spool: None,
            lane: 0,
        };
        Log::new(LogPosition::parse(&request.from).unwrap(), &request, false, false, StreamOptions::new(1)).unwrap()
    }

    fn begin() -> Vec<u8> {
        [&[0; 13][..], b"\0BEGIN"].concat()
    }

    fn commits(log: &mut Log) -> Vec<String> {
        log.hand_out_if_complete().unwrap();
        std::iter::from_fn(|| log.output())
            .filter_map(|e| match e {
                Event::Commit(commit) => Some(commit.position.commit),
                _ => None,
            })
            .collect()
    }

    const GB: u64 = 1_000_000_000;

    #[test]
    fn files_beyond_4_gib() {
        let mut log = log("b.000001:3000000000");
        let mut at = 3 * GB;
        for (size, next) in [(2 * GB, 5 * GB), (3 * GB, 8 * GB), (1_900_000_000, 9_900_000_000)] {
            log.read(&event(kind::QUERY, 100, at + 100, &begin())).unwrap();
            log.read(&event(kind::XID, (size - 100) as u32, next, &[0; 8])).unwrap();
            assert_eq!(commits(&mut log), [format!("b.000001:{next}")]);
            at = next;
        }
    }

    #[test]
    fn a_position_beyond_4_gib_is_found_from_the_beginning() {
        let mut log = log("b.000001:5000000000");
        log.server_sends(false, true);
        let rotate = [&4_u64.to_le_bytes()[..], b"b.000001"].concat();
        log.read(&event(kind::ROTATE, 0, 0, &rotate)).unwrap();
        let mut at = 4;
        for (size, next) in [(3 * GB - 4, 3 * GB), (2 * GB, 5 * GB)] {
            log.read(&event(kind::QUERY, 100, at + 100, &begin())).unwrap();
            log.read(&event(kind::XID, (size - 100) as u32, next, &[0; 8])).unwrap();
            assert_eq!(commits(&mut log), [""; 0]);
            at = next;
        }
        log.read(&event(kind::QUERY, 100, at + 100, &begin())).unwrap();
        log.read(&event(kind::XID, 31, at + 131, &[0; 8])).unwrap();
        assert_eq!(commits(&mut log), ["b.000001:5000000131"]);
    }
}
