//! The stream: takes events off the connection and what [`Log`] makes of them to the engine. Everything that has
//! arrived is decoded without waiting in between.

use async_trait::async_trait;
use freshet_core::{ChangeStream, Error, ErrorKind, Event, Result};

use super::super::server_state::purged;
use super::super::wire::{EventPackets, server_error_number};
use super::again::Again;
use super::log::{Log, Wanted};

/// The server's error number for everything that is wrong with a requested place in its log.
const CANNOT_READ_LOG: u16 = 1236;

/// A running stream of a server's log.
pub struct BinlogStream {
    packets: EventPackets,
    log: Log,
    again: Again,
}

impl BinlogStream {
    pub(super) fn new(packets: EventPackets, log: Log, again: Again) -> Self {
        BinlogStream { packets, log, again }
    }

    /// Reads events until there is something to hand out.
    async fn fill(&mut self) -> Result<()> {
        while !self.log.has_output() {
            if let Some(wanted) = self.log.wanted().cloned() {
                self.read_again(&wanted).await?;
                continue;
            }
            if let Some(event) = self.packets.buffered()? {
                self.log.read(event)?;
                continue;
            }
            if self.log.is_waiting() && !self.packets.read_more()? {
                self.log.hand_out_if_complete()?;
                continue;
            }
            let event = self.packets.next().await?;
            self.log.read(event)?;
        }
        Ok(())
    }

    /// Fetches what the log cannot go on without, or a part of it.
    async fn read_again(&mut self, wanted: &Wanted) -> Result<()> {
        let Wanted::Rows { place, .. } = wanted else {
            let found = self.again.find(wanted).await?;
            return self.log.found(found);
        };
        let event = self.again.next(place).await?;
        if self.log.replay(&event.header, event.start, &event.body)? {
            self.again.close();
        }
        Ok(())
    }
}

#[async_trait]
impl ChangeStream for BinlogStream {
    async fn next(&mut self) -> Result<Event> {
        loop {
            if let Some(event) = self.log.output() {
                return Ok(event);
            }
            if let Err(error) = self.fill().await {
                return Err(explained(error, &self.log));
            }
        }
    }
}

/// Adds where in the log, and what to do.
fn explained(error: Error, log: &Log) -> Error {
    let mut error = error.with("log position", log.place());
    if server_error_number(&error) != Some(CANNOT_READ_LOG) {
        return error;
    }
    let why = error.cause.clone().unwrap_or_default();
    error.kind = ErrorKind::SourceState;
    error.message = "the server cannot give its log from the job's position on".into();
    if why.contains("max_allowed_packet") {
        return error.hint("raise max_allowed_packet at the server");
    }
    if why.contains("same server_uuid/server_id") || why.contains("same server id") {
        error.message = "another replica uses the same server id".into();
        return error.hint("give each job and replica its own: set server_id in the source's URL");
    }
    if why.contains("purged") {
        let purged = purged();
        error.message = purged.message;
        return error.hint(purged.hint.unwrap_or_default());
    }
    error.hint(
        "the server has purged that part of its log, was reset, or is another server: `freshet resync JOB` copies the \
         tables anew; to keep the log longer, raise binlog_expire_logs_seconds",
    )
}
