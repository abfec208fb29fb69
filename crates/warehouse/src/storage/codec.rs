//! Little-endian integers, length-prefixed bytes and checksums; reading never goes past the end and never allocates
//! more than is there.

use freshet_core::{Error, Result};

/// The version of every file format in this release; a file of a later one is refused.
pub(crate) const FORMAT: u32 = 1;

/// Appends fixed-size integers and length-prefixed bytes.
pub(crate) trait Put {
    fn put_u32(&mut self, value: u32);
    fn put_u64(&mut self, value: u64);
    fn put_bytes(&mut self, bytes: &[u8]);
}

impl Put for Vec<u8> {
    fn put_u32(&mut self, value: u32) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    fn put_u64(&mut self, value: u64) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    /// A `u32` length, then the bytes.
    fn put_bytes(&mut self, bytes: &[u8]) {
        self.put_u32(bytes.len() as u32);
        self.extend_from_slice(bytes);
    }
}

/// Reads what [`Put`] wrote.
pub(crate) struct Take<'a> {
    rest: &'a [u8],
}

impl<'a> Take<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Take { rest: bytes }
    }

    pub(crate) fn raw(&mut self, n: usize) -> Result<&'a [u8]> {
        match self.rest.split_at_checked(n) {
            Some((head, rest)) => {
                self.rest = rest;
                Ok(head)
            }
            None => Err(Error::corrupt(format!("ends early: {n} bytes wanted, {} left", self.rest.len()))),
        }
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.raw(N)?);
        Ok(out)
    }

    pub(crate) fn u8(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8]> {
        let n = self.u32()? as usize;
        self.raw(n)
    }

    pub(crate) fn text(&mut self) -> Result<&'a str> {
        std::str::from_utf8(self.bytes()?).map_err(|e| Error::corrupt("text is not UTF-8").because(e))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
}

/// The checksum of everything: CRC-32 (IEEE).
pub(crate) fn crc(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// Appends the checksum of the bytes from `start` on.
pub(crate) fn seal(out: &mut Vec<u8>, start: usize) {
    let sum = crc(&out[start..]);
    out.put_u32(sum);
}

/// The bytes in front of a checksum that [`seal`] appended.
///
/// # Errors
/// `Corrupt` when they disagree.
pub(crate) fn unseal<'a>(bytes: &'a [u8], what: &str) -> Result<&'a [u8]> {
    let at = bytes.len().checked_sub(4).ok_or_else(|| Error::corrupt(format!("{what} is too short")))?;
    let (body, sum) = bytes.split_at(at);
    if crc(body).to_le_bytes() != sum {
        return Err(Error::corrupt(format!("{what} fails its checksum")).hint(CORRUPT_HINT));
    }
    Ok(body)
}

/// What to do about a file that fails its checksum.
pub(crate) const CORRUPT_HINT: &str = "the file was changed outside Freshet or the disk is failing: restore the data directory from a backup, or drop the \
     table and sync it again";

/// Checks the format version in a file.
///
/// # Errors
/// `Unsupported` when the file is newer than this program.
pub(crate) fn check_format(version: u32) -> Result<()> {
    match version {
        FORMAT => Ok(()),
        newer => Err(Error::unsupported(format!(
            "the data directory was written by a newer Freshet (format {newer}, this one knows {FORMAT})"
        ))
        .hint("start the newer Freshet again, or use another data directory")),
    }
}
