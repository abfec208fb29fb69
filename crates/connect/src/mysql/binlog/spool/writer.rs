//! Keeping what is read.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use freshet_core::error::io_error;
use freshet_core::{Result, Spool};

use super::super::event::{Header, kind};
use super::super::position::LogPosition;
use super::{MAGIC, MARK, SEGMENT_BYTES, record_head, segments};

/// Bytes that are written at a time.
const CHUNK: usize = 1 << 20;

/// Appends to the spool. When the limit is reached, or the disk does not take it, it says so in the spool and ends.
pub(in super::super) struct SpoolWriter {
    spool: Arc<Spool>,
    open: Option<Open>,
    segment_bytes: u64,
}

struct Open {
    file: File,
    path: PathBuf,
    number: u64,
    /// Bytes of this segment, and of those before.
    bytes: u64,
    before: u64,
    pending: Vec<u8>,
    /// Nothing has come since the last mark.
    marked: bool,
}

impl SpoolWriter {
    /// A new segment that begins at `from`. `checksums`: whether events carry the server's own.
    pub(in super::super) fn begin(spool: Arc<Spool>, from: &LogPosition, checksums: bool) -> Self {
        let mut writer = SpoolWriter { spool, open: None, segment_bytes: SEGMENT_BYTES };
        writer.spool.set_stopped(None);
        let begun = writer.segment(from, checksums);
        writer.guard(begun);
        writer
    }

    #[cfg(test)]
    pub(super) fn with_segments_of(self, segment_bytes: u64) -> Self {
        SpoolWriter { segment_bytes, ..self }
    }

    /// Keeps an event.
    pub(in super::super) fn event(&mut self, event: &[u8]) {
        let Some(open) = &mut self.open else { return };
        if Header::parse(event).is_none_or(|h| matches!(h.kind, kind::HEARTBEAT | kind::HEARTBEAT_V2)) {
            return;
        }
        open.pending.extend_from_slice(&record_head(event));
        open.pending.extend_from_slice(event);
        open.marked = false;
        if open.pending.len() >= CHUNK {
            let written = self.write_out();
            self.guard(written);
        }
    }

    /// What was kept is a whole number of transactions, up to that position.
    pub(in super::super) fn mark(&mut self, at: &LogPosition, checksums: bool) {
        let Some(open) = self.open.as_mut().filter(|o| !o.marked) else { return };
        open.pending.extend_from_slice(&0_u32.to_le_bytes());
        open.pending.extend_from_slice(&MARK.to_le_bytes());
        open.marked = true;
        if open.bytes + open.pending.len() as u64 >= self.segment_bytes {
            let written = self.write_out().and_then(|()| self.segment(at, checksums));
            self.guard(written);
        }
    }

    /// What was kept is in the files on return, for the other lane to find.
    pub(in super::super) fn flush(&mut self) {
        if self.open.as_ref().is_some_and(|o| !o.pending.is_empty()) {
            let written = self.write_out();
            self.guard(written);
        }
    }

    /// Begins a segment, and removes those that nobody needs.
    fn segment(&mut self, from: &LogPosition, checksums: bool) -> Result<()> {
        self.open = None;
        if self.spool.is_discarded() {
            return Ok(());
        }
        let directory = self.spool.directory();
        std::fs::create_dir_all(directory).map_err(|e| io_error(directory, "create the spool", e))?;
        let mut there = segments(directory)?;
        let needed = self.spool.needed_from().and_then(|p| LogPosition::parse(&p).ok());
        while let (Some(needed), [_, next, ..]) = (&needed, &there[..])
            && next.start.compare(needed).is_some_and(|o| o.is_le())
        {
            let old = there.remove(0);
            std::fs::remove_file(&old.path).map_err(|e| io_error(&old.path, "remove a part of the spool", e))?;
        }
        let number = there.last().map_or(0, |s| s.number) + 1;
        let before = there.iter().map(|s| s.bytes).sum();
        let path = directory.join(format!("{number:08}.log"));
        let fail = |e| io_error(&path, "write the spool", e);
        // What is there under this name was cut off in its head.
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&path).map_err(fail)?;
        let payload = [&[u8::from(checksums)], from.to_string().as_bytes()].concat();
        let head = [&MAGIC[..], &record_head(&payload), &payload].concat();
        file.write_all(&head).map_err(fail)?;
        let bytes = head.len() as u64;
        self.open = Some(Open { file, path, number, bytes, before, pending: Vec::new(), marked: true });
        Ok(())
    }

    fn write_out(&mut self) -> Result<()> {
        let Some(open) = self.open.as_mut().filter(|_| !self.spool.is_discarded()) else { return Ok(()) };
        open.bytes += open.pending.len() as u64;
        if open.before + open.bytes > self.spool.limit() {
            return Err(freshet_core::Error::io(format!("its limit of {} bytes is reached", self.spool.limit())));
        }
        open.file.write_all(&open.pending).map_err(|e| io_error(&open.path, "write the spool", e))?;
        open.pending.clear();
        self.spool.set_bytes(open.before + open.bytes);
        Ok(())
    }

    /// After an error nothing more is kept; what is there stays.
    fn guard(&mut self, result: Result<()>) {
        if self.spool.is_discarded() {
            self.open = None;
        } else if let Err(error) = result {
            let number = self.open.take().map_or(0, |o| o.number);
            tracing::warn!(segment = number, "the log is no longer spooled: {}", error.line());
            self.spool.set_stopped(Some(error.line()));
        }
    }
}
