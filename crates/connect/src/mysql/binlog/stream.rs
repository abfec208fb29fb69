//! The stream: takes events off the connection and what [`Log`] makes of them to the engine. Everything that has
//! arrived is decoded without waiting in between.

use std::sync::Arc;

use async_trait::async_trait;
use freshet_core::{ChangeStream, Error, ErrorKind, Event, Result};
use futures::future::BoxFuture;

use super::super::replica_id::ReplicaId;
use super::super::server_state::purged;
use super::super::wire::{EventPackets, server_error_number};
use super::again::Again;
use super::log::{Log, Wanted};
use super::register::{Sent, Way};
use super::spool::{Keeping, Next, SpoolReader, SpoolWriter};

/// The server's error number for everything that is wrong with a requested place in its log.
const CANNOT_READ_LOG: u16 = 1236;
/// MariaDB's for a replica whose number another one has taken.
const SAME_ID: u16 = 4052;

/// A running stream of a server's log.
pub struct BinlogStream {
    feed: Feed,
    log: Log,
    again: Again,
    replica: Option<Arc<ReplicaId>>,
    way: Way,
    /// What the server sends is kept.
    keeping: Keeping,
}

/// Where events come from.
enum Feed {
    Server(EventPackets),
    Spool(Box<SpoolReader>),
    /// The spool has ended.
    Asking(BoxFuture<'static, Result<Sent>>),
}

impl BinlogStream {
    pub(super) fn of_server(sent: Sent, log: Log, way: Way, keeping: Keeping) -> Self {
        let again = Again::new(way.server.clone());
        let feed = Feed::Server(sent.packets);
        let mut stream = BinlogStream { feed, log, again, replica: None, way, keeping };
        stream.begin(sent.checksums, sent.whole_file);
        stream
    }

    pub(super) fn of_spool(spool: SpoolReader, log: Log, way: Way, keeping: Keeping) -> Self {
        let again = Again::new(way.server.clone());
        keeping.holds(log.whereabouts().0);
        BinlogStream { feed: Feed::Spool(Box::new(spool)), log, again, replica: None, way, keeping }
    }

    /// With numbers of which another is drawn when the server says that ours is somebody else's as well.
    pub(in crate::mysql) fn with_replica(self, replica: Arc<ReplicaId>) -> Self {
        BinlogStream { replica: Some(replica), ..self }
    }

    /// From here on the server sends.
    fn begin(&mut self, checksums: bool, whole_file: bool) {
        self.keeping.begin(self.log.whereabouts().0, checksums);
        self.log.server_sends(checksums, whole_file);
    }

    /// Reads events until there is something to hand out, which is then in the spool as well.
    async fn fill(&mut self) -> Result<()> {
        while !self.log.has_output() {
            if let Some(wanted) = self.log.wanted().cloned() {
                self.read_again(&wanted).await?;
                continue;
            }
            let BinlogStream { feed, log, keeping, .. } = &mut *self;
            let packets = match feed {
                Feed::Server(packets) => packets,
                Feed::Spool(spool) => {
                    if !from_spool(spool, log)? {
                        let at = self.log.whereabouts().0.clone();
                        self.feed = Feed::Asking(Box::pin(self.way.clone().ask_anew(at)));
                    }
                    continue;
                }
                Feed::Asking(asking) => {
                    let sent = asking.await?;
                    self.feed = Feed::Server(sent.packets);
                    self.begin(sent.checksums, sent.whole_file);
                    continue;
                }
            };
            if keeping.is_told() && log.is_whole() {
                let (position, _, checksums) = log.whereabouts();
                if keeping.begin(position, checksums) {
                    // Whoever told it wants to know where that is.
                    log.hand_out()?;
                }
                continue;
            }
            if let Some(event) = packets.buffered()? {
                take_in(event, log, keeping.writer.as_mut())?;
                continue;
            }
            if log.is_waiting() && !packets.read_more()? {
                log.hand_out_if_complete()?;
                continue;
            }
            let event = tokio::select! {
                biased;
                () = keeping.until_told(), if log.is_whole() => continue,
                event = packets.next() => event?,
            };
            take_in(event, log, keeping.writer.as_mut())?;
        }
        self.keeping.writer.iter_mut().for_each(SpoolWriter::flush);
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

/// Keeps and reads an event of the server.
pub(super) fn take_in(event: &[u8], log: &mut Log, writer: Option<&mut SpoolWriter>) -> Result<()> {
    let Some(writer) = writer else { return log.read(event) };
    writer.event(event);
    log.read(event)?;
    if log.is_whole() {
        let (position, _, checksums) = log.whereabouts();
        writer.mark(position, checksums);
    }
    Ok(())
}

/// Reads the next thing of the spool; whether there was one.
pub(super) fn from_spool(spool: &mut SpoolReader, log: &mut Log) -> Result<bool> {
    let (position, here, _) = log.whereabouts();
    match spool.next(position, here)? {
        Next::Place { file, offset, checksums } => log.go_on_at(&file, offset, checksums),
        Next::Event(event) => log.read(event)?,
        Next::Held(event) => log.pass_over(event),
        Next::End if log.is_waiting() => log.hand_out_if_complete()?,
        Next::End => return Ok(false),
    }
    Ok(true)
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
