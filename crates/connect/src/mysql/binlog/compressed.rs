//! MariaDB's compressed events (`log_bin_compress`): a byte that says how many bytes of length follow, the length, then
//! a zlib stream.

use std::io::Read;

use flate2::read::ZlibDecoder;

use super::super::wire::Cursor;

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
    }
}
