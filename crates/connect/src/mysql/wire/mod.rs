//! A thin client of our own for MySQL's and MariaDB's protocol. Rows and log events are handed out as the bytes that
//! arrived, in slices of the read buffer, so that they go straight into Arrow builders; libraries make objects of them.

mod cursor;
mod error;
mod handshake;
mod packets;
mod rows;
mod tls;

use std::borrow::BorrowMut;
use std::time::Duration;

use freshet_core::{Error, Result, Secret};
use mysql_common::constants::CapabilityFlags;
use tokio::net::TcpStream;
use tokio::time::timeout;

pub(in crate::mysql) use self::cursor::Cursor;
pub use self::error::server_error_number;
pub(in crate::mysql) use self::error::{server_error, shortened};
use self::packets::{Packets, Socket};
pub use self::rows::{ColumnInfo, Fields, Row, TextRows};
pub use self::tls::{Tls, TlsMode};

/// The longest payload that is read by default: a row or event larger than this is an error.
pub const MAX_PACKET: usize = 256 << 20;
/// Bytes that [`Connection::query`] holds at most.
const SMALL_RESULT: usize = 64 << 20;

/// How to connect.
#[derive(Debug, Clone)]
pub struct Options {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// User.
    pub user: String,
    /// Password, empty for none.
    pub password: Secret,
    /// Default database.
    pub database: Option<String>,
    /// Encryption.
    pub tls: Tls,
    /// Until the session is there.
    pub connect_timeout: Duration,
    /// How long the server may be silent in the middle of an exchange; see [`Connection::set_read_timeout`].
    pub read_timeout: Duration,
    /// The longest row or event in bytes.
    pub max_packet: usize,
}

impl Options {
    /// With the usual timeouts, TLS if the server has it, no password.
    pub fn new(host: impl Into<String>, port: u16, user: impl Into<String>) -> Self {
        Options {
            host: host.into(),
            port,
            user: user.into(),
            password: Secret::default(),
            database: None,
            tls: Tls::default(),
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(60),
            max_packet: MAX_PACKET,
        }
    }
}

/// Whose server it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Flavour {
    /// MySQL, and Percona's.
    MySql,
    /// MariaDB.
    MariaDb,
}

/// What the server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerVersion {
    /// Whose.
    pub flavour: Flavour,
    /// Major, minor, patch.
    pub version: (u16, u16, u16),
    /// As the server says it.
    pub text: String,
}

/// A session with a server. Dropping it closes the connection.
pub struct Connection {
    /// What the server is.
    pub server: ServerVersion,
    packets: Packets,
    deprecate_eof: bool,
    /// A result has not been read to its end.
    busy: bool,
}

impl Connection {
    /// Connects and logs in.
    ///
    /// # Errors
    /// `SourceUnavailable` when the server is not there, `Permission` when it denies access, `NotFound` for an unknown
    /// database, `Unsupported` for a way to authenticate that we don't know.
    pub async fn connect(o: &Options) -> Result<Self> {
        // The timer may fire in TLS's many steps; a box keeps the caller's future small.
        match timeout(o.connect_timeout, Box::pin(Self::connect_untimed(o))).await {
            Ok(result) => result,
            Err(_) => Err(unreachable(o, &format!("no answer for {} s", o.connect_timeout.as_secs_f32()))),
        }
    }

    async fn connect_untimed(o: &Options) -> Result<Self> {
        let tcp = TcpStream::connect((o.host.as_str(), o.port)).await.map_err(|e| unreachable(o, &e))?;
        tcp.set_nodelay(true).map_err(|e| unreachable(o, &e))?;
        let peer = format!("{}:{}", o.host, o.port);
        let packets = Packets::new(Socket::Plain(tcp), peer, o.max_packet, o.read_timeout);
        let (packets, greeting, can) = handshake::log_in(packets, o).await?;
        Ok(Connection {
            server: ServerVersion::parse(&greeting.version),
            packets,
            deprecate_eof: can.contains(CapabilityFlags::CLIENT_DEPRECATE_EOF),
            busy: false,
        })
    }

    /// Whether the connection is encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.packets.is_encrypted()
    }

    /// How long the server may be silent in the middle of an exchange before the connection counts as lost.
    pub fn set_read_timeout(&mut self, idle: Duration) {
        self.packets.set_idle(idle);
    }

    /// Executes a statement and throws its rows away.
    ///
    /// # Errors
    /// The server's, with number and statement; `SourceUnavailable` when the connection is lost.
    pub async fn execute(&mut self, sql: &str) -> Result<()> {
        let mut rows = self.stream(sql).await?;
        while rows.next().await?.is_some() {}
        Ok(())
    }

    /// Executes a statement with a small result.
    ///
    /// # Errors
    /// As [`Connection::execute`]; `Unsupported` when the result is large.
    pub async fn query(&mut self, sql: &str) -> Result<Vec<Row>> {
        let mut rows = self.stream(sql).await?;
        let names = rows.names();
        let (mut all, mut bytes) = (Vec::new(), 0);
        while let Some(payload) = rows.next().await? {
            bytes += payload.len();
            let row = Row::parse(&names, payload);
            all.push(row.ok_or_else(|| Error::data("a row of the result is malformed").with("statement", sql))?);
            if bytes > SMALL_RESULT {
                return Err(Error::unsupported(format!("the result is larger than {} MiB", SMALL_RESULT >> 20))
                    .with("statement", shortened(sql)));
            }
        }
        Ok(all)
    }

    /// Executes a statement and reads its result row by row, as it arrives.
    ///
    /// # Errors
    /// As [`Connection::execute`].
    pub async fn stream(&mut self, sql: &str) -> Result<TextRows<&mut Connection>> {
        TextRows::start(self, sql).await
    }

    /// The same, for a caller who keeps connection and result together; [`TextRows::into_connection`] gives it back.
    ///
    /// # Errors
    /// As [`Connection::execute`].
    pub async fn into_stream(self, sql: &str) -> Result<TextRows<Connection>> {
        TextRows::start(self, sql).await
    }

    /// Asks for the server's log from a place on.
    ///
    /// # Errors
    /// `SourceUnavailable` when the connection is lost. What the server says to it comes with the first event.
    pub async fn dump(mut self, request: &Dump) -> Result<EventPackets> {
        self.ready()?;
        self.packets.command(&request.command()).await?;
        Ok(EventPackets { packets: self.packets })
    }

    fn ready(&self) -> Result<()> {
        if self.busy {
            return Err(Error::internal("a result of this connection has not been read to its end"));
        }
        Ok(())
    }
}

fn unreachable(o: &Options, why: &dyn std::fmt::Display) -> Error {
    Error::source_unavailable("cannot connect to the server")
        .with("server", format!("{}:{}", o.host, o.port))
        .because(why)
        .hint("check host and port in the source's URL, and that the server listens there")
}

/// From where the log is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dump {
    /// A file and an offset in it.
    Position {
        /// Our server id, unique among the server's replicas.
        server_id: u32,
        /// File name.
        file: String,
        /// Bytes from its begin.
        offset: u32,
        /// MariaDB: the statements' texts before their rows as well.
        statements: bool,
    },
    /// From a file and an offset in it up to the log's present end, without becoming a replica.
    Piece {
        /// File name.
        file: String,
        /// Bytes from its begin.
        offset: u32,
    },
    /// MySQL: everything that is not in a set of GTIDs, in its binary form.
    Gtids {
        /// Our server id, unique among the server's replicas.
        server_id: u32,
        /// The set.
        executed: Vec<u8>,
    },
}

impl Dump {
    fn command(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        match self {
            Dump::Position { server_id, file, offset, statements } => {
                out.push(0x12);
                out.extend_from_slice(&offset.to_le_bytes());
                out.extend_from_slice(&(if *statements { 2_u16 } else { 0 }).to_le_bytes());
                out.extend_from_slice(&server_id.to_le_bytes());
                out.extend_from_slice(file.as_bytes());
            }
            Dump::Piece { file, offset } => {
                out.push(0x12);
                out.extend_from_slice(&offset.to_le_bytes());
                out.extend_from_slice(&1_u16.to_le_bytes());
                out.extend_from_slice(&0_u32.to_le_bytes());
                out.extend_from_slice(file.as_bytes());
            }
            Dump::Gtids { server_id, executed } => {
                out.push(0x1E);
                out.extend_from_slice(&0_u16.to_le_bytes());
                out.extend_from_slice(&server_id.to_le_bytes());
                out.extend_from_slice(&0_u32.to_le_bytes());
                out.extend_from_slice(&4_u64.to_le_bytes());
                out.extend_from_slice(&(executed.len() as u32).to_le_bytes());
                out.extend_from_slice(executed);
            }
        }
        out
    }
}

/// The log's events as bytes: header, body and checksum.
pub struct EventPackets {
    packets: Packets,
}

impl EventPackets {
    /// The next event if it has arrived already; never waits.
    ///
    /// # Errors
    /// As [`EventPackets::next`].
    #[inline]
    pub fn buffered(&mut self) -> Result<Option<&[u8]>> {
        match self.packets.buffered()? {
            None => Ok(None),
            Some(payload) => event(payload).map(Some),
        }
    }

    /// The next event; waits for it. Cancel-safe.
    ///
    /// # Errors
    /// What the server said; `SourceUnavailable` when the connection is lost, or silent for longer than the read
    /// timeout.
    pub async fn next(&mut self) -> Result<&[u8]> {
        event(self.packets.next().await?)
    }

    /// The next event, `None` at the end of a [`Dump::Piece`]. Cancel-safe.
    ///
    /// # Errors
    /// As [`EventPackets::next`].
    pub async fn next_or_end(&mut self) -> Result<Option<&[u8]>> {
        match self.packets.next().await? {
            [0xFE, ..] => Ok(None),
            payload => event(payload).map(Some),
        }
    }

    /// Reads what has arrived at the socket, without waiting; whether that was anything.
    ///
    /// # Errors
    /// `SourceUnavailable` when the connection is lost.
    pub fn read_more(&mut self) -> Result<bool> {
        self.packets.read_more()
    }

    /// Where the server is: `host:port`.
    pub fn peer(&self) -> &str {
        self.packets.peer()
    }
}

#[inline]
fn event(payload: &[u8]) -> Result<&[u8]> {
    match payload {
        [0x00, event @ ..] => Ok(event),
        [0xFF, ..] => Err(server_error(payload, None)),
        [0xFE, ..] => Err(Error::source_unavailable("the server ended the stream of its log")),
        _ => Err(Error::data("a packet of the log's stream is malformed")),
    }
}

/// Either a connection or a loan of one.
pub trait Lent: BorrowMut<Connection> + Send {}
impl<T: BorrowMut<Connection> + Send> Lent for T {}

#[cfg(test)]
pub(in crate::mysql) mod live;
