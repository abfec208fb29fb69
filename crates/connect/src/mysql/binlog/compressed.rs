//! Compressed events. MariaDB's (`log_bin_compress`): a byte that says how many bytes of length follow, the length, then
//! a zlib stream. MySQL's (`binlog_transaction_compression`): a whole transaction, events without checksums one behind
//! the other, in a zstd stream behind a few fields; it is inflated event by event, so that memory is bounded by the
//! largest event and not by the transaction.

use std::io::{BufReader, Read};

use flate2::read::ZlibDecoder;

use super::super::wire::Cursor;
use super::event::{HEADER, Header};

/// The longest content that is taken.
const LIMIT: u64 = 1 << 30;

/// Inflates into `out`, whose content it replaces; `None` when it is not of that form.
pub(super) fn inflate(bytes: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let mut c = Cursor::new(bytes);
    let head = c.u8()?;
    // The highest bit marks the form; the algorithm in the next three is zlib, 0.
    if head & 0xF0 != 0x80 {
        return None;
    }
    let length = c.take(usize::from(head & 7))?.iter().fold(0_u64, |sum, b| sum << 8 | u64::from(*b));
    if length > LIMIT {
        return None;
    }
    out.clear();
    // Memory is taken as content arrives, not as the length promises.
    ZlibDecoder::new(c.rest()).take(length + 1).read_to_end(out).ok()?;
    (out.len() as u64 == length).then_some(())
}

/// The events of a compressed transaction.
pub(super) struct Payload<'a> {
    inflated: Box<dyn Read + 'a>,
}

impl<'a> Payload<'a> {
    /// Reads the fields in front; `None` when they are malformed or of an unknown sort of compression.
    pub(super) fn parse(body: &'a [u8]) -> Option<Self> {
        let mut c = Cursor::new(body);
        let mut plain = false;
        loop {
            match c.length()? {
                0 => break,
                field => {
                    let mut value = Cursor::new(c.counted()?);
                    if field == 2 {
                        plain = match value.length()? {
                            0 => false,
                            255 => true,
                            _ => return None,
                        };
                    }
                }
            }
        }
        let inflated: Box<dyn Read + 'a> = match plain {
            true => Box::new(c.rest()),
            false => Box::new(BufReader::new(zstd::stream::read::Decoder::with_buffer(c.rest()).ok()?)),
        };
        Some(Payload { inflated })
    }

    /// The next event with its header, `Some(false)` at the end; `None` when it is malformed. Memory is taken as content
    /// arrives, not as its length promises.
    pub(super) fn next(&mut self, event: &mut Vec<u8>) -> Option<bool> {
        event.clear();
        let head = self.inflated.by_ref().take(HEADER as u64).read_to_end(event).ok()?;
        if head == 0 {
            return Some(false);
        }
        let size = u64::from(Header::parse(event)?.size).checked_sub(HEADER as u64).filter(|n| *n <= LIMIT)?;
        let body = self.inflated.by_ref().take(size).read_to_end(event).ok()?;
        (body as u64 == size).then_some(true)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::ZlibEncoder;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn round_trip(content in proptest::collection::vec(any::<u8>(), 0..600), flip in 0usize..600) {
            let mut deflated = ZlibEncoder::new(Vec::new(), Compression::fast());
            deflated.write_all(&content).unwrap();
            let mut bytes = vec![0x82];
            bytes.extend_from_slice(&(content.len() as u16).to_be_bytes());
            bytes.extend_from_slice(&deflated.finish().unwrap());
            let mut out = vec![1, 2, 3];
            prop_assert!(inflate(&bytes, &mut out).is_some());
            prop_assert_eq!(&out, &content);
            if let Some(b) = bytes.get_mut(flip) { *b ^= 8; }
            let _ = inflate(&bytes, &mut out);
        }

        #[test]
        fn payloads(content in proptest::collection::vec(any::<u8>(), 0..300), flip in 0usize..400, plain: bool) {
            let mut event = vec![0; HEADER];
            event[9..13].copy_from_slice(&((HEADER + content.len()) as u32).to_le_bytes());
            event.extend_from_slice(&content);
            let two = [event.clone(), event.clone()].concat();
            let mut body = vec![1, 3, 252, 9, 9, 2];
            body.extend_from_slice(if plain { &[3, 252, 255, 0] } else { &[1, 0] });
            body.push(0);
            if plain { body.extend_from_slice(&two) } else { body.extend_from_slice(&zstd::encode_all(&two[..], 3).unwrap()) }
            let mut payload = Payload::parse(&body).unwrap();
            let mut out = Vec::new();
            for _ in 0..2 {
                prop_assert_eq!(payload.next(&mut out), Some(true));
                prop_assert_eq!(&out, &event);
            }
            prop_assert_eq!(payload.next(&mut out), Some(false));
            drop(payload);
            if let Some(b) = body.get_mut(flip) { *b ^= 8; }
            if let Some(mut payload) = Payload::parse(&body) {
                for _ in 0..9 {
                    let _ = payload.next(&mut out);
                }
            }
        }
    }
}
