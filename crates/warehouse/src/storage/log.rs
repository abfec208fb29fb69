//! The log: append-only files of checksummed records, one record per transaction, made durable in groups. Reading tells
//! a torn tail (the last write before a kill, never acknowledged: cut off) from a damaged record (an error).

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::path::{Path, PathBuf};

use freshet_core::error::io_error;
use freshet_core::failpoint::{self, failpoint};
use freshet_core::{Error, Result};

use super::codec::{self, CORRUPT_HINT, Put, Take, crc};
use super::segment::sync_dir;

const MAGIC: &[u8; 8] = b"FRSHLOG\n";
const RECORD_MAGIC: u32 = 0x4352_4652;
const HEADER: usize = 32;
const RECORD_HEADER: usize = 32;
/// A new file begins when one is this long, so that old ones can go.
const FILE_BYTES: u64 = 8 << 20;
/// The unit in which a disk loses writes.
const SECTOR: usize = 512;

/// The log, open for appending.
pub(crate) struct Log {
    dir: PathBuf,
    path: PathBuf,
    file: File,
    /// The open file's number.
    pub(crate) number: u64,
    len: u64,
    /// Number of the next record.
    pub(crate) next: u64,
    /// Bytes since the last checkpoint, about.
    pub(crate) bytes: u64,
}

fn file_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("log-{number:08}"))
}

/// Numbers of the log files that are there, ascending.
fn numbers(dir: &Path) -> Result<Vec<u64>> {
    let entries = std::fs::read_dir(dir).map_err(|e| io_error(dir, "list the log files", e))?;
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| io_error(dir, "list the log files", e))?;
        found.extend(entry.file_name().to_str().and_then(|n| n.strip_prefix("log-")?.parse::<u64>().ok()));
    }
    found.sort_unstable();
    Ok(found)
}

impl Log {
    /// Begins file `number` with record `next`.
    pub(crate) fn create(dir: &Path, number: u64, next: u64) -> Result<Log> {
        let path = file_path(dir, number);
        let create = || -> std::io::Result<File> {
            failpoint("log.create", &path)?;
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&path)?;
            let mut header = MAGIC.to_vec();
            header.put_u32(codec::FORMAT);
            header.put_u64(number);
            header.put_u64(next);
            codec::seal(&mut header, 0);
            failpoint::write_all("log.header", &path, &mut file, &header)?;
            failpoint("log.header-sync", &path)?;
            file.sync_all()?;
            Ok(file)
        };
        let file = create().map_err(|e| io_error(&path, "create a log file", e))?;
        sync_dir("log.dir-sync", dir)?;
        Ok(Log { dir: dir.to_path_buf(), path, file, number, len: HEADER as u64, next, bytes: 0 })
    }

    /// Whether the open file holds no record.
    pub(crate) fn is_empty(&self) -> bool {
        self.len == HEADER as u64
    }

    /// Frames a record behind those that `group` holds already.
    pub(crate) fn frame(&mut self, group: &mut Vec<u8>, body: &[u8]) {
        let start = group.len();
        group.put_u32(RECORD_MAGIC);
        group.put_u32(body.len() as u32);
        group.put_u64(self.next);
        group.put_u64(self.len);
        group.put_u32(crc(body));
        codec::seal(group, start);
        group.extend_from_slice(body);
        self.next += 1;
    }

    /// Appends a group of framed records and makes it durable; begins a new file when this one is long. After an error
    /// nothing may be written any more: what the disk holds behind the last durable record is not known.
    pub(crate) fn write(&mut self, group: &[u8]) -> Result<()> {
        let path = &self.path;
        let written = failpoint::write_all("log.write", path, &mut self.file, group)
            .map_err(|e| io_error(path, "write the log", e))
            .and_then(|()| {
                failpoint("log.sync", path)
                    .and_then(|()| self.file.sync_data())
                    .map_err(|e| io_error(path, "make the log durable", e))
            });
        if let Err(e) = written {
            // Nobody was told that it is done, so it had better not be found at the next start.
            let _ = self.file.set_len(self.len).and_then(|()| self.file.sync_all());
            return Err(e);
        }
        failpoint("log.synced", path).map_err(|e| io_error(path, "make the log durable", e))?;
        self.len += group.len() as u64;
        self.bytes += group.len() as u64;
        if self.len > FILE_BYTES { self.roll() } else { Ok(()) }
    }

    /// Begins a new file.
    pub(crate) fn roll(&mut self) -> Result<()> {
        let bytes = self.bytes;
        *self = Log::create(&self.dir, self.number + 1, self.next)?;
        self.bytes = bytes;
        Ok(())
    }

    /// Removes the files before `number`.
    pub(crate) fn forget_before(&mut self, number: u64) -> Result<()> {
        for old in numbers(&self.dir)?.into_iter().filter(|n| *n < number.min(self.number)) {
            let path = file_path(&self.dir, old);
            failpoint("log.remove", &path)
                .and_then(|()| std::fs::remove_file(&path))
                .map_err(|e| io_error(&path, "remove an old log file", e))?;
        }
        self.bytes = self.len;
        Ok(())
    }
}

/// Reads all records from file `from` on, cuts off a torn tail, and opens a new file behind. All records before `next`
/// were durable once.
///
/// # Errors
/// `Corrupt`, with the file, when a record was damaged or is missing, or a file is; those of `apply`.
pub(crate) fn replay(
    dir: &Path,
    from: u64,
    next: u64,
    mut apply: impl FnMut(u64, u64, &[u8]) -> Result<()>,
) -> Result<Log> {
    let all = numbers(dir)?;
    let files: Vec<u64> = all.iter().copied().filter(|n| *n >= from).collect();
    let (mut expected, mut last, mut bytes) = (None, from.saturating_sub(1), 0);
    let whole = |end: u64| match end < next {
        true => Err(Error::corrupt(format!("the log is cut short: it ends before record {end}, of {}", next - 1))
            .hint(CORRUPT_HINT)),
        false => Ok(()),
    };
    for (i, number) in files.iter().enumerate() {
        let path = file_path(dir, *number);
        let at_file = |e: Error| e.with("file", path.display());
        if *number != from + i as u64 {
            return Err(Error::corrupt(format!("log file {} is missing", from + i as u64)).hint(CORRUPT_HINT));
        }
        let mut content = Vec::new();
        File::open(&path)
            .and_then(|mut f| f.read_to_end(&mut content))
            .map_err(|e| io_error(&path, "read the log", e))?;
        let is_last = i + 1 == files.len();
        if is_last && content.len() < HEADER {
            whole(expected.unwrap_or(1)).map_err(at_file)?;
            std::fs::remove_file(&path).map_err(|e| io_error(&path, "remove an unfinished log file", e))?;
            break;
        }
        let first = header(&content, *number).map_err(at_file)?;
        if expected.is_some_and(|e| e != first) {
            return Err(at_file(Error::corrupt("a log file does not follow its predecessor").hint(CORRUPT_HINT)));
        }
        let mut lsn = first;
        let end = records(&content, is_last, |n, body| {
            if n != lsn {
                return Err(Error::corrupt(format!("record {lsn} of the log is missing")).hint(CORRUPT_HINT));
            }
            lsn += 1;
            apply(*number, n, body)
        })
        .map_err(at_file)?;
        if is_last {
            whole(lsn).map_err(at_file)?;
        }
        if end < content.len() {
            let cut = || {
                failpoint("log.cut", &path)?;
                OpenOptions::new().write(true).open(&path).and_then(|f| {
                    f.set_len(end as u64)?;
                    f.sync_all()
                })
            };
            cut().map_err(|e| io_error(&path, "cut a torn record off the log", e))?;
        }
        (expected, last) = (Some(lsn), *number);
        bytes += end as u64;
    }
    if files.is_empty() && next > 1 {
        return Err(Error::corrupt(format!("log file {from} is missing"))
            .with("path", dir.display())
            .hint(CORRUPT_HINT));
    }
    let mut log = Log::create(dir, last + 1, expected.unwrap_or(next))?;
    for old in all.into_iter().filter(|n| *n < from) {
        let _ = std::fs::remove_file(file_path(dir, old));
    }
    log.bytes = bytes;
    Ok(log)
}

/// The number of the file's first record.
fn header(content: &[u8], number: u64) -> Result<u64> {
    let header = content.get(..HEADER).ok_or_else(|| Error::corrupt("a log file is cut short").hint(CORRUPT_HINT))?;
    let mut input = Take::new(codec::unseal(header, "the header of a log file")?);
    if input.raw(8)? != MAGIC {
        return Err(Error::corrupt("this is no log file").hint(CORRUPT_HINT));
    }
    codec::check_format(input.u32()?)?;
    if input.u64()? != number {
        return Err(Error::corrupt("a log file was renamed").hint(CORRUPT_HINT));
    }
    input.u64()
}

struct Frame {
    lsn: u64,
    durable: u64,
    len: usize,
    crc: u32,
}

/// The record header at the start of `bytes`, if it is whole and right.
fn frame(bytes: &[u8]) -> Option<Frame> {
    let header = bytes.get(..RECORD_HEADER)?;
    let mut input = Take::new(codec::unseal(header, "").ok()?);
    if input.u32().ok()? != RECORD_MAGIC {
        return None;
    }
    let len = input.u32().ok()? as usize;
    Some(Frame { len, lsn: input.u64().ok()?, durable: input.u64().ok()?, crc: input.u32().ok()? })
}

/// Calls `apply` for each whole record and returns where they end.
fn records(content: &[u8], is_last: bool, mut apply: impl FnMut(u64, &[u8]) -> Result<()>) -> Result<usize> {
    let mut at = HEADER;
    while at < content.len() {
        let rest = &content[at..];
        let frame = frame(rest);
        let body = frame.as_ref().and_then(|f| rest.get(RECORD_HEADER..)?.get(..f.len));
        match (&frame, body) {
            (Some(f), Some(body)) if crc(body) == f.crc => {
                apply(f.lsn, body)?;
                at += RECORD_HEADER + f.len;
            }
            _ if is_last && torn(content, at, frame.is_some(), body.is_some()) => return Ok(at),
            _ => {
                return Err(Error::corrupt(format!("the log is damaged at byte {at}")).hint(CORRUPT_HINT));
            }
        }
    }
    Ok(at)
}

/// Whether the bad record at `at` is the end of a write that never finished: the file ends inside of it, or the disk
/// has not written one of its sectors; and no later record was written after this one had become durable.
fn torn(content: &[u8], at: usize, header_good: bool, body_there: bool) -> bool {
    let rest = &content[at..];
    let ends_early = rest.len() < RECORD_HEADER || header_good && !body_there;
    let first_sector = at.next_multiple_of(SECTOR).min(content.len());
    let blank = |s: &[u8]| !s.is_empty() && s.iter().all(|b| *b == 0);
    let lost_sector = blank(&content[at..first_sector]) || content[first_sector..].chunks(SECTOR).any(blank);
    (ends_early || lost_sector) && !acknowledged(content, at)
}

/// Whether a record behind `at` says that the file was durable beyond `at` when it was written.
fn acknowledged(content: &[u8], at: usize) -> bool {
    let magic = RECORD_MAGIC.to_le_bytes();
    (at + 1..content.len().saturating_sub(RECORD_HEADER - 1))
        .filter(|i| content[*i..*i + 4] == magic)
        .any(|i| frame(&content[i..]).is_some_and(|f| f.durable > at as u64))
}
