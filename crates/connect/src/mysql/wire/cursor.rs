//! A reader over bytes from outside: every method answers `None` instead of reading past the end, so that a truncated
//! or forged packet can neither panic nor make us allocate.

/// The bytes that are still to be read.
#[derive(Debug, Clone, Copy)]
pub(in crate::mysql) struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(in crate::mysql) fn new(bytes: &'a [u8]) -> Self {
        Cursor { rest: bytes }
    }

    pub(in crate::mysql) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(in crate::mysql) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(in crate::mysql) fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.rest.split_at_checked(n)?;
        self.rest = tail;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.rest.split_first_chunk::<N>()?;
        self.rest = tail;
        Some(*head)
    }

    pub(in crate::mysql) fn u8(&mut self) -> Option<u8> {
        self.array().map(|[b]: [u8; 1]| b)
    }

    pub(in crate::mysql) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(in crate::mysql) fn u24(&mut self) -> Option<u32> {
        self.array().map(|[a, b, c]: [u8; 3]| u32::from_le_bytes([a, b, c, 0]))
    }

    pub(in crate::mysql) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(in crate::mysql) fn u48(&mut self) -> Option<u64> {
        self.array().map(|[a, b, c, d, e, f]: [u8; 6]| u64::from_le_bytes([a, b, c, d, e, f, 0, 0]))
    }

    pub(in crate::mysql) fn u56(&mut self) -> Option<u64> {
        self.array().map(|[a, b, c, d, e, f, g]: [u8; 7]| u64::from_le_bytes([a, b, c, d, e, f, g, 0]))
    }

    pub(in crate::mysql) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// Bytes up to a zero, which is skipped.
    pub(in crate::mysql) fn until_zero(&mut self) -> Option<&'a [u8]> {
        let end = self.rest.iter().position(|b| *b == 0)?;
        let text = self.take(end)?;
        self.take(1)?;
        Some(text)
    }

    /// A length-encoded integer. The markers of NULL (251) and of an error (255) are none.
    pub(in crate::mysql) fn length(&mut self) -> Option<u64> {
        match self.u8()? {
            n @ 0..=250 => Some(u64::from(n)),
            252 => self.u16().map(u64::from),
            253 => self.u24().map(u64::from),
            254 => self.u64(),
            _ => None,
        }
    }

    /// Bytes behind their length-encoded length.
    pub(in crate::mysql) fn counted(&mut self) -> Option<&'a [u8]> {
        let n = usize::try_from(self.length()?).ok()?;
        self.take(n)
    }

    /// A field of a text row: NULL, or bytes behind their length.
    #[inline]
    pub(in crate::mysql) fn field(&mut self) -> Option<Option<&'a [u8]>> {
        match *self.rest.first()? {
            251 => {
                self.rest = &self.rest[1..];
                Some(None)
            }
            n @ 0..=250 => {
                self.rest = &self.rest[1..];
                self.take(usize::from(n)).map(Some)
            }
            _ => self.counted().map(Some),
        }
    }
}

/// Appends a length-encoded integer.
pub(in crate::mysql) fn put_length(out: &mut Vec<u8>, n: u64) {
    match n {
        0..=250 => out.push(n as u8),
        251..=0xFFFF => {
            out.push(252);
            out.extend_from_slice(&(n as u16).to_le_bytes());
        }
        0x1_0000..=0xFF_FFFF => {
            out.push(253);
            out.extend_from_slice(&(n as u32).to_le_bytes()[..3]);
        }
        _ => {
            out.push(254);
            out.extend_from_slice(&n.to_le_bytes());
        }
    }
}

/// Appends bytes behind their length.
pub(in crate::mysql) fn put_counted(out: &mut Vec<u8>, bytes: &[u8]) {
    put_length(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn lengths_round_trip(n: u64, shift in 0u32..64) {
            let n = n >> shift;
            let mut out = Vec::new();
            put_length(&mut out, n);
            let mut cursor = Cursor::new(&out);
            prop_assert_eq!(cursor.length(), Some(n));
            prop_assert!(cursor.is_empty());
        }

        #[test]
        fn never_reads_past_the_end(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mut cursor = Cursor::new(&bytes);
            while cursor.field().is_some() {}
            prop_assert!(cursor.rest().len() <= bytes.len());
            let mut cursor = Cursor::new(&bytes);
            while cursor.counted().is_some() {}
            let _ = (cursor.u24(), cursor.u48(), cursor.u56(), cursor.until_zero());
        }
    }
}
