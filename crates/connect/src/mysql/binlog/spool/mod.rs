//! The log as it was read, kept in local files for the catch-up lane: a server may purge it before that lane has come
//! to it. A *segment* is a file with the position where it begins and then the server's events as they came, each with
//! a checksum; a *mark* says that everything before it is a whole number of transactions. Nothing is synced: what a
//! crash of the machine tears off, or what was never kept, is asked of the server
//! (`docs/decisions/0006-spooling-the-log.md` has the format).
//!
//! Segments may overlap, because a reading that begins anew begins at the lane's position, which is behind what was
//! read before. Whoever reads takes the last segment that begins at or before its place, and changes to the next one
//! where that begins.

mod reader;
#[cfg(test)]
mod tests;
mod writer;

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use freshet_core::error::io_error;
use freshet_core::{Position, Result, Spool};
use tokio::sync::watch;

use super::position::LogPosition;

pub(super) use self::reader::Next;
pub(in crate::mysql) use self::reader::SpoolReader;
pub(super) use self::writer::SpoolWriter;

/// The first bytes of a segment.
const MAGIC: &[u8; 8] = b"frspool1";
/// Where the checksum of a record would be, behind a length of 0: a mark.
const MARK: u32 = 0x6B72_616D;
/// Bytes in front of a record: length and checksum.
const HEAD: usize = 8;
/// A segment is ended at the first mark behind so many bytes.
const SEGMENT_BYTES: u64 = 64 << 20;
/// Longer than any event.
const RECORD_BYTES: u32 = 1 << 30;

/// A file of the spool.
#[derive(Debug)]
struct Segment {
    number: u64,
    path: PathBuf,
    bytes: u64,
    start: LogPosition,
    /// Whether events carry checksums of the server's own, as long as no format description says otherwise.
    checksums: bool,
    /// Bytes up to the first record.
    head: u64,
}

/// Keeps what a stream reads, as long as it is told to.
pub(super) struct Keeping {
    told: Option<watch::Receiver<Option<Arc<Spool>>>>,
    pub(super) writer: Option<SpoolWriter>,
}

impl Keeping {
    /// `told`: where a spool is when something is to be kept; `None`: nothing ever is.
    pub(super) fn new(told: Option<watch::Receiver<Option<Arc<Spool>>>>) -> Self {
        Keeping { told, writer: None }
    }

    /// What follows a position is in the spool already.
    pub(super) fn holds(&self, from: &LogPosition) {
        if let Some(spool) = self.told.as_ref().and_then(|told| told.borrow().clone()) {
            spool.set_begun(from.position());
        }
    }

    /// Does as it is told with what comes behind a position. Returns whether something is kept.
    pub(super) fn begin(&mut self, from: &LogPosition, checksums: bool) -> bool {
        let spool = self.told.as_mut().and_then(|told| told.borrow_and_update().clone());
        self.writer = spool.map(|spool| {
            spool.set_begun(from.position());
            SpoolWriter::begin(spool, from, checksums)
        });
        self.writer.is_some()
    }

    /// Whether it was told something since it began.
    pub(super) fn is_told(&self) -> bool {
        self.told.as_ref().is_some_and(|told| told.has_changed().unwrap_or(false))
    }

    /// Waits until [`Keeping::is_told`]. Cancel-safe.
    pub(super) async fn until_told(&mut self) {
        if let Some(told) = &mut self.told
            && told.changed().await.is_ok()
        {
            // It is not done yet.
            return told.mark_changed();
        }
        // Nobody tells anything any more.
        std::future::pending().await
    }
}

/// The segments in a folder, in order; what is not one, or is cut off in its head, is left out.
fn segments(directory: &Path) -> Result<Vec<Segment>> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(io_error(directory, "look into the spool", e)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| io_error(directory, "look into the spool", e))?.path();
        let number = path.file_stem().and_then(|s| s.to_str()).and_then(|s| s.parse().ok());
        if let Some(number) = number.filter(|_| path.extension().is_some_and(|e| e == "log")) {
            found.extend(Segment::open(&path, number).map_err(|e| io_error(&path, "read the spool", e))?);
        }
    }
    found.sort_by_key(|s| s.number);
    Ok(found)
}

impl Segment {
    fn open(path: &Path, number: u64) -> std::io::Result<Option<Segment>> {
        let file = File::open(path)?;
        let bytes = file.metadata()?.len();
        let mut file = BufReader::new(file);
        let mut magic = [0; 8];
        let mut record = Vec::new();
        if file.read_exact(&mut magic).is_err()
            || magic != *MAGIC
            || read_record(&mut file, &mut record)? != Record::Event
        {
            return Ok(None);
        }
        let Some((checksums, start)) = record.split_first() else { return Ok(None) };
        let start = std::str::from_utf8(start).ok().and_then(|t| LogPosition::parse(&Position::at(t)).ok());
        let head = (MAGIC.len() + HEAD + record.len()) as u64;
        Ok(start.map(|start| Segment { number, path: path.into(), bytes, start, checksums: *checksums == 1, head }))
    }
}

/// What was read from a segment.
#[derive(Debug, PartialEq, Eq)]
enum Record {
    Event,
    Mark,
    /// The end, or what a crash has torn.
    Nothing,
}

/// Reads a record into `event`.
fn read_record(file: &mut impl Read, event: &mut Vec<u8>) -> std::io::Result<Record> {
    let mut head = [0; HEAD];
    if !filled(file, &mut head)? {
        return Ok(Record::Nothing);
    }
    let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let (length, sum) = (number(0), number(4));
    match length {
        0 if sum == MARK => return Ok(Record::Mark),
        0 => return Ok(Record::Nothing),
        n if n > RECORD_BYTES => return Ok(Record::Nothing),
        _ => {}
    }
    event.clear();
    // Not allocated at once: a torn length may be any number.
    let read = file.take(u64::from(length)).read_to_end(event)?;
    Ok(match read == length as usize && crc32fast::hash(event) == sum {
        true => Record::Event,
        false => Record::Nothing,
    })
}

/// Fills `out`, unless the file ends before.
fn filled(file: &mut impl Read, out: &mut [u8]) -> std::io::Result<bool> {
    match file.read_exact(out) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
        Err(e) => Err(e),
    }
}

fn record_head(payload: &[u8]) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[..4].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    head[4..].copy_from_slice(&crc32fast::hash(payload).to_le_bytes());
    head
}
