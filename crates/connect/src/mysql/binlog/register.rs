//! Becoming a replica: the session variables that a server looks at, and from where on its log is asked for.

use std::time::Duration;

use freshet_core::{ChangesRequest, Error, Result, Spooling};

use super::super::server_state::ServerState;
use super::super::side_effects::SideEffects;
use super::super::types::{Charsets, DecodeOptions};
use super::super::wire::{Connection, Dump, EventPackets, Flavour, Options};
use super::gtid::GtidSet;
use super::log::Log;
use super::position::LogPosition;
use super::spool::{Keeping, SpoolReader};
use super::stream::BinlogStream;

/// How to stream.
#[derive(Debug, Clone)]
pub struct StreamOptions {
    /// Our server id: unique among the server's replicas, and among the lanes of a job.
    pub server_id: u32,
    /// Which server it is, for positions.
    pub server: Option<String>,
    /// How values are decoded.
    pub decode: DecodeOptions,
    /// The server's default character sets, for tables that are created in the log.
    pub charsets: Charsets,
    /// `lower_case_table_names` is 1.
    pub lower_case_names: bool,
    /// Before a transaction is handed out in parts, the log is asked for its end: it may be a rollback.
    pub look_ahead: bool,
    /// By what else than row events tables change.
    pub(in crate::mysql) side_effects: SideEffects,
    /// Tables that foreign keys change unseen are said, to be read again, rather than suspended.
    pub unseen: bool,
    /// MariaDB: whether to ask for the texts of statements, which say what a REPLACE that is logged in part means.
    pub statements: bool,
    /// Rows gathered before they are handed out.
    pub batch_rows: usize,
    /// Bytes of log gathered before they are handed out.
    pub batch_bytes: usize,
    /// How often the server gives a sign of life when nothing happens.
    pub heartbeat: Duration,
    /// After how long without any sign the connection counts as lost; several heartbeats.
    pub lost_after: Duration,
}

impl StreamOptions {
    /// With the usual limits.
    pub fn new(server_id: u32) -> Self {
        StreamOptions {
            server_id,
            server: None,
            decode: DecodeOptions::default(),
            charsets: Charsets { server: "utf8mb4".into(), ..Charsets::default() },
            lower_case_names: false,
            look_ahead: true,
            side_effects: SideEffects::default(),
            unseen: false,
            statements: false,
            batch_rows: 65_536,
            batch_bytes: 16 << 20,
            heartbeat: Duration::from_secs(5),
            lost_after: Duration::from_secs(30),
        }
    }
}

/// How to ask the server for its log.
#[derive(Debug, Clone)]
pub(super) struct Way {
    pub(super) server: Options,
    pub(super) options: StreamOptions,
}

/// A server's log as it is sent.
pub(super) struct Sent {
    pub(super) packets: EventPackets,
    /// Whether its events carry checksums.
    pub(super) checksums: bool,
    /// It comes from the file's beginning, because the server cannot be asked for the place.
    pub(super) whole_file: bool,
}

/// Streams the changes that `request` asks for, over a fresh connection to `server`.
///
/// # Errors
/// `SourceState` for a position that is not one of this server's flavour; what the server says to the position itself
/// comes with the stream's first event.
pub async fn open(
    connection: Connection,
    server: &Options,
    request: &ChangesRequest,
    options: StreamOptions,
) -> Result<BinlogStream> {
    let mariadb = connection.server.flavour == Flavour::MariaDb;
    let from = from_of(request, &options)?;
    let way = Way { server: server.clone(), options: options.clone() };
    let sent = way.ask(connection, &from).await?;
    let log = Log::new(from, request, mariadb, sent.checksums, options)?;
    Ok(BinlogStream::of_server(sent, log, way, keeping(request)))
}

/// The same from the part of the log that is kept locally; behind its end the server is asked.
///
/// # Errors
/// As [`open`].
pub(in crate::mysql) fn open_spool(
    spool: SpoolReader,
    flavour: Flavour,
    server: &Options,
    request: &ChangesRequest,
    options: StreamOptions,
) -> Result<BinlogStream> {
    let from = from_of(request, &options)?;
    let way = Way { server: server.clone(), options: options.clone() };
    let log = Log::new(from, request, flavour == Flavour::MariaDb, false, options)?;
    Ok(BinlogStream::of_spool(spool, log, way, keeping(request)))
}

fn from_of(request: &ChangesRequest, options: &StreamOptions) -> Result<LogPosition> {
    let from = LogPosition::parse(&request.from)?;
    Ok(match &options.server {
        Some(server) => from.of_server(server),
        None => from,
    })
}

fn keeping(request: &ChangesRequest) -> Keeping {
    match &request.spool {
        Some(Spooling::Keep(told)) => Keeping::new(Some(told.clone())),
        _ => Keeping::new(None),
    }
}

impl Way {
    /// Asks for the log from a position on.
    pub(super) async fn ask(&self, mut connection: Connection, from: &LogPosition) -> Result<Sent> {
        let checksums = prepare(&mut connection, &self.options).await?;
        let dump = request_of(&mut connection, from, &self.options).await?;
        connection.set_read_timeout(self.options.lost_after);
        let whole_file = matches!(&dump, Dump::Position { offset: 4, file, .. } if !file.is_empty()) && from.offset > 4;
        Ok(Sent { packets: connection.dump(&dump).await?, checksums, whole_file })
    }

    /// The same over a new connection, if the server can still give it.
    pub(super) async fn ask_anew(self, from: LogPosition) -> Result<Sent> {
        let mut connection = Box::pin(Connection::connect(&self.server)).await?;
        ServerState::ask(&mut connection).await?.admits(&from)?;
        self.ask(connection, &from).await
    }
}

/// Says what we can take, and how often we want to hear something. Gives whether events will carry checksums.
async fn prepare(connection: &mut Connection, options: &StreamOptions) -> Result<bool> {
    let period = options.heartbeat.as_nanos();
    // MySQL tells replicas apart by this rather than by their numbers, when they have one.
    connection.execute("SET @replica_uuid = UUID()").await?;
    connection.execute("SET @slave_uuid = @replica_uuid").await?;
    connection
        .execute(&format!("SET @master_heartbeat_period = {period}, @source_heartbeat_period = {period}"))
        .await?;
    announce(connection).await
}

/// Says that we know checksums and every event of MariaDB's. Gives whether the server's events will carry checksums.
pub(super) async fn announce(connection: &mut Connection) -> Result<bool> {
    connection
        .execute(
            "SET @master_binlog_checksum = @@global.binlog_checksum, \
             @source_binlog_checksum = @@global.binlog_checksum",
        )
        .await?;
    if connection.server.flavour == Flavour::MariaDb {
        connection.execute("SET @mariadb_slave_capability = 4").await?;
    }
    let rows = connection.query("SELECT @master_binlog_checksum").await?;
    Ok(rows.first().and_then(|r| r.get_str(0)).is_some_and(|c| c.eq_ignore_ascii_case("CRC32")))
}

/// By transaction ids where the position has them and the server is sure to number all of its transactions, else by
/// file and offset.
async fn request_of(connection: &mut Connection, from: &LogPosition, options: &StreamOptions) -> Result<Dump> {
    let StreamOptions { server_id, statements, .. } = *options;
    match (connection.server.flavour, from.known_gtids()) {
        (Flavour::MariaDb, Some(gtids @ GtidSet::MariaDb(_))) => {
            connection
                .execute(&format!(
                    "SET @slave_connect_state = '{gtids}', @slave_gtid_strict_mode = 0, @slave_gtid_ignore_duplicates = 0"
                ))
                .await?;
            return Ok(Dump::Position { server_id, file: String::new(), offset: 4, statements });
        }
        (Flavour::MySql, Some(gtids @ GtidSet::MySql(_))) => {
            let rows = connection.query("SELECT @@global.gtid_mode").await?;
            let on = rows.first().and_then(|r| r.get_str(0)).is_some_and(|mode| mode == "ON");
            if let Some(executed) = gtids.encoded().filter(|_| on) {
                return Ok(Dump::Gtids { server_id, executed });
            }
        }
        (_, Some(_)) => {
            return Err(Error::source_state("the stored position is of the other of MySQL and MariaDB")
                .with("position", from)
                .with("server", &connection.server.text)
                .hint("drop the job and create it again"));
        }
        (_, None) => {}
    }
    // Beyond 4 GiB a server cannot be asked to begin: then it is asked for the whole file.
    let offset = u32::try_from(from.offset.max(4)).unwrap_or(4);
    Ok(Dump::Position { server_id, file: from.file.clone(), offset, statements })
}
