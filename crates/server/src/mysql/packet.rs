//! MySQL's framing: packets of at most 16 MB with sequence numbers, longer messages in several of them, and the basic
//! encodings inside. Memory grows with the bytes that have come in, never with what a header announces.

use bytes::{Buf, BytesMut};
use freshet_core::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::fault::{Fault, Lost};

/// Payload of a full packet; a message of this length or more goes on in the next one.
const FULL: usize = 0xFF_FFFF;
/// Answers are sent when so many bytes wait.
pub(super) const FLUSH: usize = 64 * 1024;
/// Bytes that are read ahead while a statement runs.
const AHEAD: usize = 64 * 1024;

/// A connection's socket, encrypted or not.
pub(super) trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// Reads and writes messages on a socket.
pub(super) struct Channel<S> {
    socket: S,
    incoming: BytesMut,
    /// The parts of a message that is not complete yet.
    parts: BytesMut,
    outgoing: Vec<u8>,
    /// Where the message being written starts in `outgoing`.
    start: usize,
    sequence: u8,
    /// The longest message taken, in bytes.
    limit: usize,
    /// Read no byte behind a message: needed until the switch to TLS, whose first bytes follow at once.
    exact: bool,
}

impl<S: Socket> Channel<S> {
    /// A channel that takes messages of so many bytes.
    pub(super) fn new(socket: S, limit: usize) -> Self {
        Channel {
            socket,
            incoming: BytesMut::new(),
            parts: BytesMut::new(),
            outgoing: Vec::new(),
            start: 0,
            sequence: 0,
            limit,
            exact: true,
        }
    }

    /// Changes the limit of a message, and reads ahead from here on.
    pub(super) fn open_up(&mut self, limit: usize) {
        self.limit = limit;
        self.exact = false;
    }

    /// The socket itself, with the sequence number to go on with.
    pub(super) fn into_socket(self) -> (S, u8) {
        (self.socket, self.sequence)
    }

    /// Sets the sequence number: 0 before each command.
    pub(super) fn restart_at(&mut self, sequence: u8) {
        self.sequence = sequence;
    }

    /// The next message. Cancel-safe.
    ///
    /// # Errors
    /// [`Lost::Closed`] at the end of the connection, a fault for a message that is too long or out of order.
    pub(super) async fn read(&mut self) -> Result<BytesMut, Lost> {
        loop {
            self.fill(4).await?;
            let header = [self.incoming[0], self.incoming[1], self.incoming[2]];
            let length = usize::from(header[0]) | usize::from(header[1]) << 8 | usize::from(header[2]) << 16;
            if self.parts.len() + length > self.limit {
                return Err(Lost::Refused(Fault::packet_too_large(self.limit)));
            }
            if self.incoming[3] != self.sequence {
                return Err(Lost::Refused(Fault::out_of_order()));
            }
            self.fill(4 + length).await?;
            self.sequence = self.sequence.wrapping_add(1);
            self.incoming.advance(4);
            let part = self.incoming.split_to(length);
            if length < FULL && self.parts.is_empty() {
                return Ok(part);
            }
            self.parts.extend_from_slice(&part);
            if length < FULL {
                return Ok(std::mem::take(&mut self.parts));
            }
        }
    }

    /// Waits until so many bytes are there.
    async fn fill(&mut self, wanted: usize) -> Result<(), Lost> {
        while self.incoming.len() < wanted {
            let missing = wanted - self.incoming.len();
            let got = if self.exact {
                let mut some = (&mut self.socket).take(missing as u64);
                some.read_buf(&mut self.incoming).await?
            } else {
                self.incoming.reserve(missing.clamp(4096, AHEAD));
                self.socket.read_buf(&mut self.incoming).await?
            };
            if got == 0 {
                return Err(Lost::Closed);
            }
        }
        Ok(())
    }

    /// Waits until the other side closes the connection. Cancel-safe; what it sends meanwhile is kept for later.
    pub(super) async fn closed(&mut self) {
        loop {
            if self.incoming.len() >= AHEAD {
                return std::future::pending().await;
            }
            self.incoming.reserve(4096);
            match self.socket.read_buf(&mut self.incoming).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }

    /// Starts a message; its payload is appended to the returned buffer, up to [`Channel::end`].
    pub(super) fn begin(&mut self) -> &mut Vec<u8> {
        self.start = self.outgoing.len();
        self.outgoing.extend_from_slice(&[0; 4]);
        &mut self.outgoing
    }

    /// Ends the message that was started last, cutting it where it is too long for one packet.
    pub(super) fn end(&mut self) {
        let length = self.outgoing.len() - self.start - 4;
        if length < FULL {
            let header = self.header(length);
            self.outgoing[self.start..self.start + 4].copy_from_slice(&header);
            self.start = self.outgoing.len();
            return;
        }
        let payload = self.outgoing.split_off(self.start + 4);
        self.outgoing.truncate(self.start);
        self.outgoing.reserve(length + 4 * (length / FULL + 1));
        for part in payload.chunks(FULL) {
            let header = self.header(part.len());
            self.outgoing.extend_from_slice(&header);
            self.outgoing.extend_from_slice(part);
        }
        if length.is_multiple_of(FULL) {
            let header = self.header(0);
            self.outgoing.extend_from_slice(&header);
        }
        self.start = self.outgoing.len();
    }

    /// Forgets a message that was started and not ended.
    pub(super) fn abandon(&mut self) {
        self.outgoing.truncate(self.start);
    }

    fn header(&mut self, length: usize) -> [u8; 4] {
        let l = (length as u32).to_le_bytes();
        let sequence = self.sequence;
        self.sequence = sequence.wrapping_add(1);
        [l[0], l[1], l[2], sequence]
    }

    /// Bytes that wait to be sent.
    pub(super) fn waiting(&self) -> usize {
        self.outgoing.len()
    }

    /// Sends what waits.
    pub(super) async fn flush(&mut self) -> Result<(), Lost> {
        self.socket.write_all(&self.outgoing).await?;
        self.outgoing.clear();
        if self.outgoing.capacity() > 16 * FLUSH {
            self.outgoing = Vec::new();
        }
        self.start = 0;
        Ok(self.socket.flush().await?)
    }
}

/// A message being taken apart. Every read is checked against what is there.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

/// The message is shorter than what it says, or not what the protocol says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

impl From<Malformed> for Fault {
    fn from(_: Malformed) -> Self {
        Fault::malformed()
    }
}

impl From<Malformed> for Error {
    fn from(_: Malformed) -> Self {
        Error::data("a MySQL message is malformed")
    }
}

impl<'a> Reader<'a> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    pub(super) fn bytes(&mut self, n: usize) -> Result<&'a [u8], Malformed> {
        let (head, tail) = self.0.split_at_checked(n).ok_or(Malformed)?;
        self.0 = tail;
        Ok(head)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.bytes(N)?.try_into().map_err(|_| Malformed)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// Up to a zero byte, which is taken, or the end.
    pub(super) fn until_zero(&mut self) -> &'a [u8] {
        let end = self.0.iter().position(|b| *b == 0);
        let text = &self.0[..end.unwrap_or(self.0.len())];
        self.0 = end.map_or(&[], |end| &self.0[end + 1..]);
        text
    }

    /// An integer of 1, 3, 4 or 9 bytes.
    pub(super) fn length(&mut self) -> Result<u64, Malformed> {
        Ok(match self.u8()? {
            0xFC => u64::from(self.u16()?),
            0xFD => {
                let [a, b, c] = self.array()?;
                u64::from(u32::from_le_bytes([a, b, c, 0]))
            }
            0xFE => u64::from_le_bytes(self.array()?),
            0xFB | 0xFF => return Err(Malformed),
            small => u64::from(small),
        })
    }

    /// Bytes behind their length.
    pub(super) fn counted(&mut self) -> Result<&'a [u8], Malformed> {
        let n = usize::try_from(self.length()?).map_err(|_| Malformed)?;
        self.bytes(n)
    }
}

/// Appends an integer of 1, 3, 4 or 9 bytes.
pub(super) fn put_length(out: &mut Vec<u8>, n: u64) {
    match n {
        0..=0xFA => out.push(n as u8),
        0xFB..=0xFFFF => {
            out.push(0xFC);
            out.extend_from_slice(&(n as u16).to_le_bytes());
        }
        0x1_0000..=0xFF_FFFF => {
            out.push(0xFD);
            out.extend_from_slice(&(n as u32).to_le_bytes()[..3]);
        }
        _ => {
            out.push(0xFE);
            out.extend_from_slice(&n.to_le_bytes());
        }
    }
}

/// Appends bytes behind their length.
pub(super) fn put_counted(out: &mut Vec<u8>, bytes: &[u8]) {
    put_length(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::duplex;

    #[test]
    fn lengths() {
        for n in [0, 250, 251, 65_535, 65_536, 16_777_215, 16_777_216, u64::MAX] {
            let mut out = Vec::new();
            put_length(&mut out, n);
            let mut reader = Reader(&out);
            assert_eq!(reader.length(), Ok(n));
            assert!(reader.is_empty());
            assert_eq!(Reader(&out[..out.len() - 1]).length(), Err(Malformed));
        }
        assert_eq!(Reader(&[0xFB]).length(), Err(Malformed));
        assert_eq!(Reader(b"\x05abc").counted(), Err(Malformed));
        assert_eq!(Reader(b"abc\0d").until_zero(), b"abc");
        assert_eq!(Reader(b"abc").until_zero(), b"abc");
    }

    /// A message of this length goes over, through as many packets as it takes.
    async fn round_trip(length: usize) {
        let (a, b) = duplex(1 << 20);
        let sent: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
        let payload = sent.clone();
        let writer = tokio::spawn(async move {
            let mut channel = Channel::new(a, 0);
            channel.begin().extend_from_slice(&payload);
            channel.end();
            channel.begin().extend_from_slice(b"next");
            channel.end();
            channel.flush().await.expect("sent");
            channel.sequence
        });
        let mut channel = Channel::new(b, 1 << 27);
        channel.open_up(1 << 27);
        assert!(channel.read().await.expect("a message") == sent);
        assert_eq!(&channel.read().await.expect("a message")[..], b"next");
        assert_eq!(writer.await.expect("written"), (length / FULL + 2) as u8);
        assert!(matches!(channel.read().await, Err(Lost::Closed)));
    }

    #[tokio::test]
    async fn messages_of_several_packets() {
        for length in [0, 1, FULL - 1, FULL, FULL + 1, 2 * FULL] {
            round_trip(length).await;
        }
    }

    #[tokio::test]
    async fn limits_and_order() {
        let (mut a, b) = duplex(1024);
        let mut channel = Channel::new(b, 100);
        a.write_all(&[101, 0, 0, 0]).await.expect("sent");
        assert!(matches!(channel.read().await, Err(Lost::Refused(f)) if f.code == 1153));
        let (mut a, b) = duplex(1024);
        let mut channel = Channel::new(b, 100);
        a.write_all(&[1, 0, 0, 1, 0]).await.expect("sent");
        assert!(matches!(channel.read().await, Err(Lost::Refused(f)) if f.code == 1156));
    }

    #[tokio::test]
    async fn exact_reading_leaves_the_rest_in_the_socket() {
        let (mut a, b) = duplex(1024);
        a.write_all(b"\x02\0\0\0hiTLS").await.expect("sent");
        let mut channel = Channel::new(b, 100);
        assert_eq!(&channel.read().await.expect("a message")[..], b"hi");
        let (mut socket, sequence) = channel.into_socket();
        let mut rest = [0; 3];
        socket.read_exact(&mut rest).await.expect("the rest");
        assert_eq!((&rest, sequence), (b"TLS", 1));
    }
}
