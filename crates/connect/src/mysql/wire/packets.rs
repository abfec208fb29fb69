//! Framing: packets of at most 16 MiB with a length and a sequence number in front, several of them making one larger
//! payload. Payloads are handed out as slices of one large read buffer; only those of several packets are joined in a
//! second one.

use std::ops::Range;
use std::time::Duration;

use freshet_core::{Error, Result};
use futures::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

/// The longest packet; a payload of this length or more goes on in the next one.
const PACKET_MAX: usize = 0xFF_FFFF;
const HEADER: usize = 4;
/// Bytes of the read buffer, unless a packet is longer.
const BUFFER: usize = 512 * 1024;

/// The connection to the server.
pub(super) enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Socket {
    async fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Socket::Plain(s) => s.read(buffer).await,
            Socket::Tls(s) => s.read(buffer).await,
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Socket::Plain(s) => s.write_all(bytes).await,
            Socket::Tls(s) => {
                s.write_all(bytes).await?;
                s.flush().await
            }
        }
    }
}

/// Where a payload lies.
#[derive(Debug, Clone)]
enum Place {
    Buffer(Range<usize>),
    Joined,
}

/// The packets of one connection.
pub(super) struct Packets {
    socket: Socket,
    /// Always filled to its length; `start..end` is what was read and not yet handed out.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// The parts so far of a payload of several packets.
    joined: Vec<u8>,
    joining: bool,
    sequence: u8,
    limit: usize,
    idle: Duration,
    /// `host:port`, for messages.
    peer: String,
}

impl Packets {
    /// `limit`: the longest payload in bytes; `idle`: how long a read or write may take.
    pub(super) fn new(socket: Socket, peer: String, limit: usize, idle: Duration) -> Self {
        Packets {
            socket,
            buffer: vec![0; BUFFER],
            start: 0,
            end: 0,
            joined: Vec::new(),
            joining: false,
            sequence: 0,
            limit,
            idle,
            peer,
        }
    }

    pub(super) fn set_idle(&mut self, idle: Duration) {
        self.idle = idle;
    }

    pub(super) fn peer(&self) -> &str {
        &self.peer
    }

    pub(super) fn is_encrypted(&self) -> bool {
        matches!(self.socket, Socket::Tls(_))
    }

    /// Exchanges the socket by what `upgrade` makes of it, for TLS.
    pub(super) async fn upgrade<F>(self, upgrade: impl FnOnce(TcpStream) -> F) -> Result<Self>
    where
        F: Future<Output = Result<TlsStream<TcpStream>>>,
    {
        if self.start != self.end {
            return Err(self.broken("the server sent data before TLS was set up"));
        }
        let Packets { socket: Socket::Plain(plain), .. } = self else {
            return Err(Error::internal("the connection is encrypted already"));
        };
        Ok(Packets { socket: Socket::Tls(Box::new(upgrade(plain).await?)), ..self })
    }

    /// The next payload if it is in the buffer already; never waits.
    ///
    /// # Errors
    /// `Data` when the bytes are not the protocol's.
    #[inline]
    pub(super) fn buffered(&mut self) -> Result<Option<&[u8]>> {
        Ok(match self.advance()? {
            None => None,
            Some(place) => Some(self.at(place)),
        })
    }

    /// The next payload; waits for it. Cancel-safe.
    ///
    /// # Errors
    /// `SourceUnavailable` when the connection is lost or silent for too long, `Data` as [`Packets::buffered`].
    pub(super) async fn next(&mut self) -> Result<&[u8]> {
        let place = loop {
            if let Some(place) = self.advance()? {
                break place;
            }
            self.fill().await?;
        };
        Ok(self.at(place))
    }

    fn at(&self, place: Place) -> &[u8] {
        match place {
            Place::Buffer(range) => &self.buffer[range],
            Place::Joined => &self.joined,
        }
    }

    /// Steps over the next whole payload.
    #[inline]
    fn advance(&mut self) -> Result<Option<Place>> {
        loop {
            let Some(&[a, b, c, sequence]) = self.buffer[self.start..self.end].first_chunk::<HEADER>() else {
                return Ok(None);
            };
            let length = u32::from_le_bytes([a, b, c, 0]) as usize;
            let from = self.start + HEADER;
            if self.end - from < length {
                return Ok(None);
            }
            if sequence != self.sequence {
                return Err(self.broken("packets are out of order"));
            }
            self.sequence = sequence.wrapping_add(1);
            self.start = from + length;
            let range = from..self.start;
            if !self.joining && length < PACKET_MAX {
                return Ok(Some(Place::Buffer(range)));
            }
            if !self.joining {
                self.joined.clear();
                self.joined.shrink_to(BUFFER);
                self.joining = true;
            }
            if self.joined.len() + length > self.limit {
                return Err(self
                    .broken(format!("a packet is longer than the limit of {} MiB", self.limit >> 20))
                    .hint("a single row is that large: leave its table out of the job"));
            }
            self.joined.extend_from_slice(&self.buffer[range]);
            if length < PACKET_MAX {
                self.joining = false;
                return Ok(Some(Place::Joined));
            }
        }
    }

    /// Reads what has arrived. Cancel-safe: what was read is in the buffer.
    async fn fill(&mut self) -> Result<()> {
        self.make_room();
        let read = timeout(self.idle, self.socket.read(&mut self.buffer[self.end..])).await;
        match read {
            Ok(Ok(0)) => Err(self.lost("the server closed the connection")),
            Ok(Ok(n)) => {
                self.end += n;
                Ok(())
            }
            Ok(Err(e)) => Err(self.lost("the connection broke").because(e)),
            Err(_) => Err(self.lost(format!("no answer for {} s", self.idle.as_secs_f32()))),
        }
    }

    /// Reads what has arrived, without waiting; whether that was anything.
    ///
    /// # Errors
    /// As [`Packets::next`].
    pub(super) fn read_more(&mut self) -> Result<bool> {
        self.fill().now_or_never().transpose().map(|read| read.is_some())
    }

    /// Makes sure that the packet begun fits, and that there is room to read into.
    fn make_room(&mut self) {
        let held = self.end - self.start;
        let wanted = match self.buffer[self.start..self.end].first_chunk::<HEADER>() {
            Some(&[a, b, c, _]) => HEADER + u32::from_le_bytes([a, b, c, 0]) as usize,
            None => HEADER,
        };
        if self.start > 0 && (held == 0 || self.buffer.len() - self.end < BUFFER / 2) {
            self.buffer.copy_within(self.start..self.end, 0);
            self.start = 0;
            self.end = held;
        }
        let size = wanted.max(BUFFER).max(held);
        if self.start + wanted > self.buffer.len() {
            self.buffer.resize(self.start + size, 0);
        } else if self.start == 0 && self.buffer.len() > 4 * size {
            self.buffer.truncate(size);
            self.buffer.shrink_to_fit();
        }
    }

    /// Sends a payload as the next packets of this exchange.
    ///
    /// # Errors
    /// `SourceUnavailable` when the connection is lost or blocked for too long.
    pub(super) async fn send(&mut self, payload: &[u8]) -> Result<()> {
        let mut out = Vec::with_capacity(payload.len() + HEADER);
        let mut rest = payload;
        loop {
            let (part, tail) = rest.split_at(rest.len().min(PACKET_MAX));
            out.extend_from_slice(&(part.len() as u32).to_le_bytes()[..3]);
            out.push(self.sequence);
            out.extend_from_slice(part);
            self.sequence = self.sequence.wrapping_add(1);
            rest = tail;
            if part.len() < PACKET_MAX {
                break;
            }
        }
        match timeout(self.idle, self.socket.write(&out)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(e)) => Err(self.lost("the connection broke").because(e)),
            Err(_) => Err(self.lost(format!("the server took nothing for {} s", self.idle.as_secs_f32()))),
        }
    }

    /// Sends a command, which begins a new exchange.
    ///
    /// # Errors
    /// As [`Packets::send`].
    pub(super) async fn command(&mut self, payload: &[u8]) -> Result<()> {
        self.sequence = 0;
        self.send(payload).await
    }

    pub(super) fn lost(&self, message: impl Into<String>) -> Error {
        Error::source_unavailable(message).with("server", &self.peer)
    }

    pub(super) fn broken(&self, message: impl Into<String>) -> Error {
        Error::data(message)
            .with("server", &self.peer)
            .hint("is this really a MySQL or MariaDB server, and is the connection to it sound?")
    }
}
