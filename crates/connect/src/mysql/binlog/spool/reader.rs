//! Taking from the spool what a server would send from a position on.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufReader, Seek, SeekFrom};

use freshet_core::error::io_error;
use freshet_core::{Result, Spool};

use super::super::event::{self, HEADER, Header, MariaDbGtid, MySqlGtid, kind};
use super::super::position::{LogPosition, file_number};
use super::{HEAD, Record, Segment, read_record, segments};

/// Bytes that are read at a time.
const CHUNK: usize = 256 << 10;

/// Reads the spool from a position on.
pub(in crate::mysql) struct SpoolReader {
    from: LogPosition,
    file: BufReader<File>,
    segment: Segment,
    /// Behind the last whole transaction of this segment, and how far it is read.
    end: u64,
    at: u64,
    later: VecDeque<Segment>,
    /// The events of a transaction go by that the position holds.
    held: bool,
    /// To be handed out first.
    lead: Option<Lead>,
    event: Vec<u8>,
}

/// What an event is preceded by: where it is in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Lead {
    file: String,
    offset: u64,
    checksums: bool,
}

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) enum Next<'a> {
    /// The following events begin here.
    Place { file: String, offset: u64, checksums: bool },
    /// An event.
    Event(&'a [u8]),
    /// An event that is before the position where the reading began: only its length matters.
    Held(&'a [u8]),
    /// The spool has no more that is certain.
    End,
}

impl SpoolReader {
    /// From a position on; `None` when the spool does not hold what follows it.
    ///
    /// # Errors
    /// `Io`.
    pub(in crate::mysql) fn open(spool: &Spool, from: &LogPosition) -> Result<Option<SpoolReader>> {
        let mut later = rising(segments(spool.directory())?);
        let before = |s: &Segment| s.start.compare(from).is_some_and(|o| o.is_le());
        let Some(last) = later.iter().rposition(before) else { return Ok(None) };
        later.drain(..last);
        let Some(segment) = later.pop_front() else { return Ok(None) };
        let (file, end) = opened(&segment)?;
        let lead =
            Some(Lead { file: segment.start.file.clone(), offset: segment.start.offset, checksums: segment.checksums });
        let at = segment.head;
        let from = from.clone();
        let mut reader = SpoolReader { from, file, segment, end, at, later, held: false, lead, event: Vec::new() };
        Ok(reader.skip()?.then_some(reader))
    }

    /// Goes to the first transaction that the position does not hold; whether there is one.
    fn skip(&mut self) -> Result<bool> {
        let Some(mut place) = self.lead.take() else { return Ok(false) };
        loop {
            if self.at >= self.end {
                // A change of files may be all that is left.
                let here = LogPosition { file: place.file.clone(), offset: place.offset, ..self.from.clone() };
                let from = self.from.clone();
                if !self.change_over(&here)? {
                    return Ok(false);
                }
                self.from = from;
                place = self.lead.take().unwrap_or(place);
            }
            let at = self.at;
            if self.record()? != Record::Event {
                continue;
            }
            let Some(header) = Header::parse(&self.event) else { return Ok(false) };
            if begins_transaction(header.kind) {
                place.offset = begin(&header, place.offset);
                if !holds(&self.from, &header, &self.event, &place) {
                    // It is read once more, as the first one.
                    let fail = |e| io_error(&self.segment.path, "read the spool", e);
                    self.file.seek(SeekFrom::Start(at)).map_err(fail)?;
                    (self.at, self.lead) = (at, Some(place));
                    return Ok(true);
                }
            }
            place.pass(&header, &self.event);
        }
    }

    /// The next thing; `whole`: behind the last whole transaction that was taken in; `here`: behind the last
    /// event, in that file.
    ///
    /// # Errors
    /// `Io`.
    pub(in super::super) fn next(&mut self, whole: &LogPosition, here: u64) -> Result<Next<'_>> {
        loop {
            if let Some(Lead { file, offset, checksums }) = self.lead.take() {
                return Ok(Next::Place { file, offset, checksums });
            }
            // What follows may be in the next segment as well, from its begin on.
            if (here == whole.offset || self.at >= self.end) && self.change_over(whole)? {
                continue;
            }
            if self.at >= self.end {
                return Ok(Next::End);
            }
            if self.record()? == Record::Mark {
                continue;
            }
            let Some(header) = Header::parse(&self.event) else { return Ok(Next::End) };
            match header.kind {
                of if begins_transaction(of) => {
                    let place = Lead { file: whole.file.clone(), offset: begin(&header, here), checksums: false };
                    self.held = holds(&self.from, &header, &self.event, &place);
                }
                kind::ROTATE | kind::FORMAT_DESCRIPTION | kind::PREVIOUS_GTIDS | kind::MARIADB_GTID_LIST => {
                    self.held = false;
                }
                _ => {}
            }
            return Ok(if self.held { Next::Held(&self.event) } else { Next::Event(&self.event) });
        }
    }

    /// Goes on in the next segment if that begins where the reading is, or before.
    fn change_over(&mut self, whole: &LogPosition) -> Result<bool> {
        let begun = self.later.front().is_some_and(|s| s.start.compare(whole).is_some_and(|o| o.is_le()));
        let Some(segment) = begun.then(|| self.later.pop_front()).flatten() else { return Ok(false) };
        let (file, end) = opened(&segment)?;
        self.lead =
            Some(Lead { file: segment.start.file.clone(), offset: segment.start.offset, checksums: segment.checksums });
        // It may begin before: what is held there is left out again.
        self.from = whole.clone();
        (self.file, self.end, self.at, self.held, self.segment) = (file, end, segment.head, false, segment);
        Ok(true)
    }

    fn record(&mut self) -> Result<Record> {
        let record = read_record(&mut self.file, &mut self.event)
            .map_err(|e| io_error(&self.segment.path, "read the spool", e))?;
        self.at += match record {
            Record::Event => (HEAD + self.event.len()) as u64,
            Record::Mark => HEAD as u64,
            // It was there when the segment was opened.
            Record::Nothing => self.end - self.at,
        };
        Ok(record)
    }
}

/// Without the segments that a later one begins before: from there on that one is read.
fn rising(segments: Vec<Segment>) -> VecDeque<Segment> {
    let mut out: VecDeque<Segment> = VecDeque::new();
    for segment in segments.into_iter().rev() {
        let covered = |next: &Segment| next.start.compare(&segment.start).is_some_and(|o| o.is_le());
        if !out.front().is_some_and(covered) {
            out.push_front(segment);
        }
    }
    out
}

/// A segment's file at its first record, and where its last whole transaction ends.
fn opened(segment: &Segment) -> Result<(BufReader<File>, u64)> {
    let fail = |e| io_error(&segment.path, "read the spool", e);
    let mut file = BufReader::with_capacity(CHUNK, File::open(&segment.path).map_err(fail)?);
    file.seek(SeekFrom::Start(segment.head)).map_err(fail)?;
    let (mut at, mut end, mut event) = (segment.head, segment.head, Vec::new());
    loop {
        match read_record(&mut file, &mut event).map_err(fail)? {
            Record::Event => at += (HEAD + event.len()) as u64,
            Record::Mark => {
                at += HEAD as u64;
                end = at;
            }
            Record::Nothing => break,
        }
    }
    file.seek(SeekFrom::Start(segment.head)).map_err(fail)?;
    Ok((file, end))
}

/// Where an event begins, `here` being the end of the last one that was sent.
fn begin(header: &Header, here: u64) -> u64 {
    header.end(here).saturating_sub(u64::from(header.size))
}

fn begins_transaction(of: u8) -> bool {
    matches!(of, kind::GTID | kind::ANONYMOUS_GTID | kind::GTID_TAGGED | kind::MARIADB_GTID)
}

/// Whether a position is behind the transaction that begins with this event at that place.
fn holds(position: &LogPosition, header: &Header, event: &[u8], place: &Lead) -> bool {
    let body = event.get(HEADER..).unwrap_or_default();
    let by_id = position.known_gtids().and_then(|gtids| match header.kind {
        kind::GTID => MySqlGtid::parse(body).map(|g| gtids.holds_mysql(g.uuid, g.number)),
        kind::MARIADB_GTID => MariaDbGtid::parse(body).map(|g| gtids.holds_mariadb(g.domain, g.sequence)),
        _ => None,
    });
    by_id.unwrap_or_else(|| {
        let number = |file: &str| file_number(file).map(|(_, n)| n);
        (number(&place.file), place.offset) < (number(&position.file), position.offset)
    })
}

impl Lead {
    /// Goes over an event.
    fn pass(&mut self, header: &Header, event: &[u8]) {
        let plain = match self.checksums && event::checksum_is_right(event) {
            true => event::without_checksum(event),
            false => event,
        };
        match header.kind {
            kind::FORMAT_DESCRIPTION => self.checksums = event::format_has_checksums(event).unwrap_or(self.checksums),
            kind::ROTATE => {
                if let Some((offset, file)) = plain.get(HEADER..).and_then(event::rotate) {
                    (self.file, self.offset) = (file, offset);
                }
                return;
            }
            _ => {}
        }
        if !header.is_artificial() {
            self.offset = header.end(self.offset);
        }
    }
}
