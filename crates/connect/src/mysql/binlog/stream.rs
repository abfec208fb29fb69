//! The stream: takes events off the connection and what [`Log`] makes of them to the engine. Everything that has
//! arrived is decoded without waiting in between.

use std::sync::Arc;

use async_trait::async_trait;
use freshet_core::{ChangeStream, Error, ErrorKind, Event, Result};

use super::super::replica_id::ReplicaId;
use super::super::server_state::purged;
use super::super::wire::{EventPackets, server_error_number};
use super::again::Again;
use super::log::{Log, Wanted};

/// The server's error number for everything that is wrong with a requested place in its log.
const CANNOT_READ_LOG: u16 = 1236;
/// MariaDB's for a replica whose number another one has taken.
const SAME_ID: u16 = 4052;

/// A running stream of a server's log.
pub struct BinlogStream {
    packets: EventPackets,
    log: Log,
    again: Again,
    replica: Option<Arc<ReplicaId>>,
}

impl BinlogStream {
    pub(super) fn new(packets: EventPackets, log: Log, again: Again) -> Self {
        BinlogStream { packets, log, again, replica: None }
    }

    /// With numbers of which another is drawn when the server says that ours is somebody else's as well.
    pub(in crate::mysql) fn with_replica(self, replica: Arc<ReplicaId>) -> Self {
        BinlogStream { replica: Some(replica), ..self }
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
                return Err(explained(error, &self.log, self.replica.as_deref()));
            }
        }
    }
}

/// Adds where in the log, and what to do.
fn explained(error: Error, log: &Log, replica: Option<&ReplicaId>) -> Error {
    let mut error = error.with("log position", log.place());
    if !matches!(server_error_number(&error), Some(CANNOT_READ_LOG | SAME_ID)) {
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
        if replica.is_some_and(ReplicaId::draw) {
            error.kind = ErrorKind::SourceUnavailable;
            return error.hint("the next attempt takes another one");
        }
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
