//! Reading a piece of the log a second time, over a connection of its own, while the stream waits: the rows of an XA
//! transaction at its commit, and a look ahead at how a large transaction ends. Such a reader has no server id and ends
//! with the log.

use std::collections::{HashSet, VecDeque};

use freshet_core::{Error, ErrorKind, Result};
use futures::future::BoxFuture;

use super::super::wire::{Connection, Dump, EventPackets, Options, server_error_number};
use super::compressed::Payload;
use super::event::{self, HEADER, Header, kind};
use super::log::Wanted;
use super::register::announce;
use super::survey::{Ending, Survey};
use super::xa::{Place, Xid};

/// What is under way; kept beside the stream, so that a dropped future loses nothing.
pub(super) struct Again {
    options: Options,
    under_way: UnderWay,
}

enum UnderWay {
    Nothing,
    Finding(BoxFuture<'static, Result<Option<(Place, Survey)>>>),
    Opening(BoxFuture<'static, Result<Piece>>),
    Reading(Box<Piece>),
}

impl Again {
    pub(super) fn new(options: Options) -> Self {
        Again { options, under_way: UnderWay::Nothing }
    }

    /// Finds out how the wanted transaction ends; `None`: it is not in the log any more. Cancel-safe.
    ///
    /// # Errors
    /// `SourceUnavailable` when the connection is lost.
    pub(super) async fn find(&mut self, wanted: &Wanted) -> Result<Option<(Place, Survey)>> {
        if !matches!(self.under_way, UnderWay::Finding(_)) {
            let (options, wanted) = (self.options.clone(), wanted.clone());
            self.under_way = UnderWay::Finding(Box::pin(async move { find(&options, &wanted).await }));
        }
        let UnderWay::Finding(finding) = &mut self.under_way else { return Ok(None) };
        let found = finding.await;
        self.under_way = UnderWay::Nothing;
        found
    }

    /// The next event of the transaction that begins at a place. Cancel-safe.
    ///
    /// # Errors
    /// `SourceUnavailable` when the connection is lost; `SourceState` when the log ends.
    pub(super) async fn next(&mut self, place: &Place) -> Result<Found> {
        loop {
            match &mut self.under_way {
                UnderWay::Reading(_) => break,
                UnderWay::Opening(opening) => {
                    let opened = opening.await;
                    self.under_way = UnderWay::Nothing;
                    self.under_way = UnderWay::Reading(Box::new(opened?));
                }
                _ => {
                    let (options, place) = (self.options.clone(), place.clone());
                    self.under_way = UnderWay::Opening(Box::pin(async move { Piece::open(&options, &place).await }));
                }
            }
        }
        let UnderWay::Reading(piece) = &mut self.under_way else {
            return Err(Error::internal("a piece of the log is not open"));
        };
        piece.next().await?.ok_or_else(|| Error::source_unavailable("the log ends inside a transaction"))
    }

    /// The piece has been read.
    pub(super) fn close(&mut self) {
        self.under_way = UnderWay::Nothing;
    }
}

/// An event of the log.
pub(super) struct Found {
    pub(super) header: Header,
    /// Where it begins in its file.
    pub(super) start: u64,
    /// Behind the header, without checksum.
    pub(super) body: Vec<u8>,
}

/// A piece of one log file.
struct Piece {
    packets: EventPackets,
    checksums: bool,
    /// Behind the last event.
    here: u64,
    /// An event of the file has been read.
    inside: bool,
    /// The rest of a compressed transaction; its events are numbered on from where it begins.
    unpacked: VecDeque<Found>,
}

impl Piece {
    async fn open(options: &Options, place: &Place) -> Result<Self> {
        let mut connection = Box::pin(Connection::connect(options)).await?;
        let checksums = announce(&mut connection).await?;
        let offset = u32::try_from(place.offset).map_err(|_| beyond(place))?;
        let packets = connection.dump(&Dump::Piece { file: place.file.clone(), offset }).await?;
        Ok(Piece { packets, checksums, here: place.offset, inside: false, unpacked: VecDeque::new() })
    }

    /// The next event; `None` at the end of the file.
    async fn next(&mut self) -> Result<Option<Found>> {
        loop {
            if let Some(found) = self.unpacked.pop_front() {
                return Ok(Some(found));
            }
            let Some(event) = self.packets.next_or_end().await? else { return Ok(None) };
            let short = || Error::corrupt("an event of the log is too short");
            let header = Header::parse(event).ok_or_else(short)?;
            // Behind the first one, which the server makes up.
            if header.kind == kind::ROTATE && (self.inside || !header.is_artificial()) {
                return Ok(None);
            }
            if header.kind == kind::FORMAT_DESCRIPTION {
                self.checksums = event::format_has_checksums(event)
                    .ok_or_else(|| Error::unsupported("the log's checksums are of an unknown sort"))?;
            }
            if header.is_artificial() || matches!(header.kind, kind::HEARTBEAT | kind::HEARTBEAT_V2) {
                continue;
            }
            if self.checksums && !event::checksum_is_right(event) {
                return Err(Error::corrupt("an event of the log fails its checksum").with("behind", self.here));
            }
            let event = if self.checksums { event::without_checksum(event) } else { event };
            let body = event.get(HEADER..).ok_or_else(short)?.to_vec();
            self.here = header.end(self.here);
            self.inside = true;
            let start = self.here.saturating_sub(u64::from(header.size));
            if header.kind != kind::TRANSACTION_PAYLOAD {
                return Ok(Some(Found { header, start, body }));
            }
            self.unpacked = unpack(&body, start)
                .ok_or_else(|| Error::corrupt("a compressed transaction is malformed").with("behind", start))?;
        }
    }
}

/// The events of a compressed transaction.
fn unpack(body: &[u8], start: u64) -> Option<VecDeque<Found>> {
    let mut payload = Payload::parse(body)?;
    let (mut events, mut event) = (VecDeque::new(), Vec::new());
    while payload.next(&mut event)? {
        let header = Header::parse(&event).filter(|h| h.kind != kind::TRANSACTION_PAYLOAD)?;
        let start = start + events.len() as u64;
        events.push_back(Found { header, start, body: event.get(HEADER..)?.to_vec() });
    }
    Some(events)
}

fn beyond(place: &Place) -> Error {
    Error::source_state("a transaction begins beyond 4 GiB in its log file, where a server cannot be asked to begin")
        .with("place", place)
        .hint("lower max_binlog_size at the server, and `freshet resync` the job")
}

async fn find(options: &Options, wanted: &Wanted) -> Result<Option<(Place, Survey)>> {
    match wanted {
        Wanted::Ending { place } => Ok(survey(options, place).await?.map(|s| (place.clone(), s))),
        Wanted::Prepared { xid, place, before } => {
            if let Some(place) = place
                && let Some(found) = survey(options, place).await?
                && found.ending == Some(Ending::Prepare(xid.clone()))
            {
                return Ok(Some((place.clone(), found)));
            }
            match search(options, xid, before).await? {
                Some(place) => Ok(survey(options, &place).await?.map(|s| (place, s))),
                None => Ok(None),
            }
        }
        Wanted::Rows { .. } => Ok(None),
    }
}

/// How the transaction at a place ends; `None` when there is none at that place.
async fn survey(options: &Options, place: &Place) -> Result<Option<Survey>> {
    let mut survey = Survey::default();
    let read = async {
        let mut piece = Piece::open(options, place).await?;
        while survey.ending.is_none() {
            let Some(Found { header, start, body }) = piece.next().await? else { break };
            // What a server makes up at the begin of a file that it reads from the middle.
            if header.kind == kind::FORMAT_DESCRIPTION {
                continue;
            }
            survey.read(&header, &body, start);
        }
        Ok(())
    };
    match read.await {
        Ok(()) => Ok(Some(survey).filter(|s| s.ending.is_some())),
        // A server that does not have that place says so, or finds an event there that is none.
        Err(e) if not_there(&e) => Ok(None),
        Err(e) => Err(e),
    }
}

fn not_there(e: &Error) -> bool {
    let said_by_server = server_error_number(e).is_some() && e.kind != ErrorKind::SourceUnavailable;
    said_by_server && e.kind != ErrorKind::Permission || matches!(e.kind, ErrorKind::Corrupt | ErrorKind::SourceState)
}

/// The last transaction before a place that prepares this XA transaction. Files are read from the youngest to the
/// oldest: it is an exception, needed when the transaction was prepared before the job began.
async fn search(options: &Options, xid: &Xid, before: &Place) -> Result<Option<Place>> {
    let mut connection = Box::pin(Connection::connect(options)).await?;
    let rows = connection.query("SHOW BINARY LOGS").await?;
    let mut files: Vec<String> = rows.iter().filter_map(|r| r.get_str(0)).map(str::to_string).collect();
    drop(connection);
    if let Some(at) = files.iter().position(|f| *f == before.file) {
        files.truncate(at + 1);
    }
    let mut seen = HashSet::new();
    for file in files.into_iter().rev().filter(|f| seen.insert(f.clone())) {
        let mut found = None;
        let mut begin = 4;
        let mut piece = Piece::open(options, &Place { file: file.clone(), offset: 4 }).await?;
        loop {
            let next = match piece.next().await {
                Ok(next) => next,
                // Purged while we looked.
                Err(e) if not_there(&e) => return Ok(found),
                Err(e) => return Err(e),
            };
            let Some(Found { header, start, body }) = next else { break };
            if file == before.file && start >= before.offset {
                break;
            }
            match header.kind {
                kind::GTID | kind::ANONYMOUS_GTID | kind::GTID_TAGGED | kind::MARIADB_GTID => begin = start,
                kind::XA_PREPARE if Xid::of_prepare(&body).is_some_and(|(x, _)| x == *xid) => {
                    found = Some(Place { file: file.clone(), offset: begin });
                }
                _ => {}
            }
        }
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}
