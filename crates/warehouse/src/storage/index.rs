//! The index file beside a segment: its sorted keys, prefix-compressed in pages of about 16 KB, a directory of the pages,
//! a bloom filter, and the checksums of the Parquet file's blocks. The i-th key is the key of row i. Keys are looked up
//! many at a time in sorted order, by merging, so that each page is read at most once. Of a multiset the entries are
//! hashes of rows, each with its row's number behind it, and the rows are not in their order.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use freshet_core::error::io_error;
use freshet_core::failpoint::{self, failpoint};
use freshet_core::{Error, Result};
use xxhash_rust::xxh3::xxh3_64;

use super::cache::Cache;
use super::codec::{self, Put, Take, crc};
use super::key::{HASH, Keys};

const MAGIC: &[u8; 8] = b"FRSHIDX\n";
const HEADER: usize = 16;
const FOOTER: usize = 60;
const PAGE_BYTES: usize = 16 << 10;
/// Keys of one page from which on a lookup goes through it like a scan, which would only drive others out of the cache.
const MANY_KEYS: usize = 128;
/// Every so many entries a key stands whole, for binary search.
const RESTART: u32 = 16;
/// Bytes of a bloom block: one cache line.
const BLOOM_BLOCK: usize = 64;
const BLOOM_BITS_PER_KEY: usize = 10;
const BLOOM_PROBES: u32 = 6;
/// Bytes of a multiset's entry: hash, number of the row (big-endian).
pub(crate) const ROW_ENTRY: usize = HASH + 4;
/// Bytes of a Parquet file under one checksum.
pub(crate) const SUM_BLOCK: usize = 64 << 10;

/// Writes an index file; keys come in ascending order.
pub(crate) struct IndexWriter {
    path: PathBuf,
    out: BufWriter<File>,
    written: u64,
    page: Vec<u8>,
    restarts: Vec<u32>,
    in_page: u32,
    last: Vec<u8>,
    rows: u32,
    directory: Vec<u8>,
    pages: u32,
    bloom: Vec<u8>,
}

impl IndexWriter {
    /// `expected`: an upper bound of the number of keys, 0 when there will be none.
    pub(crate) fn create(path: &Path, expected: usize) -> Result<Self> {
        let file = failpoint("index.create", path).and_then(|()| File::create(path));
        let file = file.map_err(|e| io_error(path, "create an index file", e))?;
        let blocks = (expected * BLOOM_BITS_PER_KEY).div_ceil(BLOOM_BLOCK * 8);
        let mut header = MAGIC.to_vec();
        header.put_u32(codec::FORMAT);
        codec::seal(&mut header, 0);
        let mut out = BufWriter::with_capacity(128 << 10, file);
        out.write_all(&header).map_err(|e| io_error(path, "write an index file", e))?;
        Ok(IndexWriter {
            path: path.to_path_buf(),
            out,
            written: HEADER as u64,
            page: Vec::with_capacity(PAGE_BYTES + 1024),
            restarts: Vec::new(),
            in_page: 0,
            last: Vec::new(),
            rows: 0,
            directory: Vec::new(),
            pages: 0,
            bloom: vec![0; blocks * BLOOM_BLOCK],
        })
    }

    /// The key of the next row.
    pub(crate) fn push(&mut self, key: &[u8]) -> std::io::Result<()> {
        self.entry(key, key)
    }

    /// The next hash with the number of its row, in ascending order.
    pub(crate) fn push_row(&mut self, entry: &[u8; ROW_ENTRY]) -> std::io::Result<()> {
        self.entry(entry, &entry[..HASH])
    }

    fn entry(&mut self, key: &[u8], bloomed: &[u8]) -> std::io::Result<()> {
        if self.page.len() >= PAGE_BYTES {
            self.end_page()?;
        }
        if self.in_page == 0 {
            self.directory.put_u64(self.written);
            self.directory.put_u32(self.rows);
            self.directory.put_bytes(key);
        }
        let shared = if self.in_page.is_multiple_of(RESTART) {
            self.restarts.push(self.page.len() as u32);
            0
        } else {
            self.last.iter().zip(key).take_while(|(a, b)| a == b).count()
        };
        put_varint(&mut self.page, shared as u32);
        put_varint(&mut self.page, (key.len() - shared) as u32);
        self.page.extend_from_slice(&key[shared..]);
        self.last.clear();
        self.last.extend_from_slice(key);
        self.in_page += 1;
        self.rows += 1;
        let hash = xxh3_64(bloomed);
        if let Some(block) = bloom_block(&self.bloom, hash) {
            for bit in bloom_bits(hash) {
                self.bloom[block + bit / 8] |= 1 << (bit % 8);
            }
        }
        Ok(())
    }

    fn end_page(&mut self) -> std::io::Result<()> {
        for r in &self.restarts {
            self.page.extend_from_slice(&r.to_le_bytes());
        }
        self.page.put_u32(self.restarts.len() as u32);
        self.page.put_u32(self.in_page);
        codec::seal(&mut self.page, 0);
        failpoint::write_all("index.write", &self.path, &mut self.out, &self.page)?;
        self.written += self.page.len() as u64;
        self.pages += 1;
        self.page.clear();
        self.restarts.clear();
        self.in_page = 0;
        Ok(())
    }

    /// Writes directory, bloom filter, the data file's checksums and the footer, and makes it durable. Returns the
    /// file's length.
    pub(crate) fn finish(mut self, data_len: u64, sums: &[u32]) -> std::io::Result<u64> {
        if self.in_page > 0 {
            self.end_page()?;
        }
        let pages_end = self.written;
        let mut directory = Vec::with_capacity(self.directory.len() + 16);
        directory.put_u32(self.pages);
        directory.put_u64(pages_end);
        directory.append(&mut self.directory);
        codec::seal(&mut directory, 0);
        codec::seal(&mut self.bloom, 0);
        let mut checks = Vec::with_capacity(sums.len() * 4 + 20);
        checks.put_u32(SUM_BLOCK as u32);
        checks.put_u64(data_len);
        checks.put_u32(sums.len() as u32);
        sums.iter().for_each(|s| checks.put_u32(*s));
        codec::seal(&mut checks, 0);
        let mut footer = Vec::with_capacity(FOOTER);
        let mut at = pages_end;
        for section in [&directory, &self.bloom, &checks] {
            failpoint::write_all("index.write", &self.path, &mut self.out, section)?;
            footer.put_u64(at);
            footer.put_u32(section.len() as u32);
            at += section.len() as u64;
        }
        footer.put_u32(self.rows);
        footer.put_u32(codec::FORMAT);
        footer.put_u64(0);
        codec::seal(&mut footer, 0);
        footer.extend_from_slice(&MAGIC[..4]);
        self.out.write_all(&footer)?;
        let file = self.out.into_inner().map_err(std::io::IntoInnerError::into_error)?;
        failpoint("index.sync", &self.path).and_then(|()| file.sync_all())?;
        Ok(at + FOOTER as u64)
    }
}

/// What of an index file is needed for every lookup.
pub(crate) struct Directory {
    pages: Vec<(u64, u32)>,
    first_keys: Keys,
    pages_end: u64,
    bloom: (u64, u32),
    /// Checksums of the data file's blocks.
    pub(crate) sums: Vec<u32>,
    pub(crate) data_len: u64,
}

/// An index file, for lookups. Everything it reads is checked and cached.
pub(crate) struct IndexReader<'a> {
    pub(crate) path: &'a Path,
    pub(crate) segment: u64,
    pub(crate) cache: &'a Cache,
}

const DIRECTORY: u64 = u64::MAX;
const BLOOM: u64 = u64::MAX - 1;

impl IndexReader<'_> {
    fn read(&self, at: u64, n: usize, what: &str) -> Result<Vec<u8>> {
        let file = File::open(self.path).map_err(|e| io_error(self.path, "open an index file", e))?;
        read_at(&file, self.path, at, n, what)
    }

    /// A part of the file in front of its checksum.
    fn section(&self, (at, n): (u64, u32), what: &str) -> Result<Vec<u8>> {
        let mut bytes = self.read(at, n as usize, what)?;
        codec::unseal(&bytes, what).map_err(|e| e.with("file", self.path.display()))?;
        bytes.truncate(bytes.len() - 4);
        Ok(bytes)
    }

    pub(crate) fn directory(&self) -> Result<Arc<Directory>> {
        self.cache.get((self.segment, DIRECTORY), || {
            let directory = self.load_directory().map_err(|e| match e.context.is_empty() {
                true => e.with("file", self.path.display()),
                false => e,
            })?;
            let bytes = directory.first_keys.memory() + directory.pages.len() * 16 + directory.sums.len() * 4;
            Ok((Arc::new(directory), bytes))
        })
    }

    fn load_directory(&self) -> Result<Directory> {
        let len = std::fs::metadata(self.path).map_err(|e| io_error(self.path, "read an index file", e))?.len();
        if len < (HEADER + FOOTER) as u64 {
            return Err(Error::corrupt("an index file is cut short").hint(codec::CORRUPT_HINT));
        }
        let header = self.section((0, HEADER as u32), "the header of an index file")?;
        let footer = self.read(len - FOOTER as u64, FOOTER, "the footer of an index file")?;
        // Of a newer file nothing but the header can be relied on.
        let mut input = Take::new(&header);
        if input.raw(8)? == MAGIC {
            codec::check_format(input.u32()?)?;
        }
        if header[..8] != MAGIC[..] || footer[FOOTER - 4..] != MAGIC[..4] {
            return Err(Error::corrupt("this is no whole index file").hint(codec::CORRUPT_HINT));
        }
        let mut input = Take::new(codec::unseal(&footer[..FOOTER - 4], "the footer of an index file")?);
        let mut section = || -> Result<(u64, u32)> {
            let (at, n) = (input.u64()?, input.u32()?);
            match at.checked_add(u64::from(n)).is_some_and(|end| end <= len) {
                true => Ok((at, n)),
                false => Err(Error::corrupt("the footer of an index file points outside of it")),
            }
        };
        let (directory, bloom, checks) = (section()?, section()?, section()?);
        // The number of keys, for people.
        input.u32()?;
        codec::check_format(input.u32()?)?;

        let bytes = self.section(directory, "the directory of an index file")?;
        let mut input = Take::new(&bytes);
        let n = input.u32()?;
        let pages_end = input.u64()?;
        let (mut pages, mut first_keys) = (Vec::new(), Keys::default());
        for _ in 0..n {
            pages.push((input.u64()?, input.u32()?));
            first_keys.push(input.bytes()?);
        }
        let bytes = self.section(checks, "the checksums in an index file")?;
        let mut input = Take::new(&bytes);
        let block = input.u32()?;
        let data_len = input.u64()?;
        let sums = (0..input.u32()?).map(|_| input.u32()).collect::<Result<Vec<_>>>()?;
        if block as usize != SUM_BLOCK || sums.len() as u64 != data_len.div_ceil(SUM_BLOCK as u64) {
            return Err(Error::corrupt("the checksums in an index file do not fit the data file"));
        }
        Ok(Directory { pages, first_keys, pages_end, bloom, sums, data_len })
    }

    /// A page of keys; one in which so many keys are looked up at once is not kept.
    fn page(&self, directory: &Directory, n: usize, keys: usize) -> Result<Arc<Vec<u8>>> {
        let at = directory.pages[n].0;
        let end = directory.pages.get(n + 1).map_or(directory.pages_end, |p| p.0);
        let load = || {
            let page = self.section((at, end.saturating_sub(at) as u32), "a page of an index file")?;
            let bytes = page.len();
            Ok((Arc::new(page), bytes))
        };
        match keys < MANY_KEYS {
            true => self.cache.get((self.segment, at), load),
            false => self.cache.pass((self.segment, at), load),
        }
    }

    /// Finds those of the keys at `wanted` (ascending) that are here: calls `found(place in keys, row)`.
    ///
    /// # Errors
    /// `Corrupt` when the file fails a checksum.
    pub(crate) fn lookup(&self, keys: &Keys, wanted: &[u32], mut found: impl FnMut(u32, u32)) -> Result<()> {
        let directory = self.directory()?;
        // Asking about a key costs much less than passing by the keys of a page.
        let bloom = self.bloom(&directory)?;
        let mut rest = wanted;
        let mut likely = Vec::new();
        while let Some(first) = rest.first() {
            let page = page_of(&directory, keys.get(*first as usize));
            let Some(page) = page else {
                rest = &rest[1..];
                continue;
            };
            let here = match page + 1 < directory.first_keys.len() {
                true => {
                    let next = directory.first_keys.get(page + 1);
                    rest.partition_point(|k| keys.get(*k as usize) < next)
                }
                false => rest.len(),
            };
            let (mine, behind) = rest.split_at(here);
            rest = behind;
            likely.clear();
            likely.extend_from_slice(mine);
            likely.retain(|k| maybe(&bloom, keys.get(*k as usize)));
            if !likely.is_empty() {
                let bytes = self.page(&directory, page, likely.len())?;
                let mut cursor = Cursor::new(&bytes).map_err(|e| e.with("file", self.path.display()))?;
                for k in &likely {
                    if let Some(entry) = cursor.seek(keys.get(*k as usize))?.filter(|(_, equal)| *equal) {
                        found(*k, directory.pages[page].1 + entry.0);
                    }
                }
            }
        }
        Ok(())
    }

    /// In a multiset's index, the rows of each of the hashes at `wanted`: calls `found(place in keys, row)` until that
    /// says that it has enough of this one.
    ///
    /// # Errors
    /// `Corrupt` when the file fails a checksum.
    pub(crate) fn lookup_rows(
        &self,
        keys: &Keys,
        wanted: &[u32],
        mut found: impl FnMut(u32, u32) -> bool,
    ) -> Result<()> {
        let at_file = |e: Error| e.with("file", self.path.display());
        let directory = self.directory()?;
        let bloom = self.bloom(&directory)?;
        for k in wanted {
            let hash = keys.get(*k as usize);
            // Entries are longer than the hash: equal ones begin in the last page that begins before it, or in the next.
            let first = page_of(&directory, hash).unwrap_or(0);
            let mut more = maybe(&bloom, hash);
            for page in first..directory.pages.len() {
                if !more {
                    break;
                }
                let bytes = self.page(&directory, page, 1)?;
                let mut cursor = Cursor::new(&bytes).map_err(at_file)?;
                let mut there = cursor.seek(hash).map_err(at_file)?.is_some();
                while there && more {
                    let row = cursor.key.strip_prefix(hash).and_then(|row| row.try_into().ok());
                    more = row.is_some_and(|row| found(*k, u32::from_be_bytes(row)));
                    there = cursor.next < cursor.count;
                    if there && more {
                        cursor.advance().map_err(at_file)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn bloom(&self, directory: &Directory) -> Result<Arc<Vec<u8>>> {
        self.cache.get((self.segment, BLOOM), || {
            let bytes = self.section(directory.bloom, "the bloom filter of an index file")?;
            let n = bytes.len();
            Ok((Arc::new(bytes), n))
        })
    }
}

/// The page that holds the key if any does.
fn page_of(directory: &Directory, key: &[u8]) -> Option<usize> {
    let (mut low, mut high) = (0, directory.first_keys.len());
    while low < high {
        let mid = (low + high) / 2;
        if directory.first_keys.get(mid) <= key {
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    low.checked_sub(1)
}

pub(crate) fn read_at(file: &File, path: &Path, at: u64, n: usize, what: &str) -> Result<Vec<u8>> {
    let mut bytes = vec![0; n];
    file.read_exact_at(&mut bytes, at).map_err(|e| match e.kind() {
        std::io::ErrorKind::UnexpectedEof => {
            Error::corrupt(format!("{what} ends early")).with("file", path.display()).hint(codec::CORRUPT_HINT)
        }
        _ => io_error(path, &format!("read {what}"), e),
    })?;
    Ok(bytes)
}

/// Reads the entries of a page in order.
struct Cursor<'a> {
    entries: &'a [u8],
    restarts: &'a [u8],
    count: u32,
    /// Where the next entry starts, and its ordinal.
    at: usize,
    next: u32,
    key: Vec<u8>,
}

impl<'a> Cursor<'a> {
    fn new(page: &'a [u8]) -> Result<Self> {
        let short = || Error::corrupt("a page of an index file is too short");
        let tail = page.len().checked_sub(8).ok_or_else(short)?;
        let mut input = Take::new(&page[tail..]);
        let (restarts, count) = (input.u32()? as usize, input.u32()?);
        let from = restarts.checked_mul(4).and_then(|n| tail.checked_sub(n)).ok_or_else(short)?;
        Ok(Cursor { entries: &page[..from], restarts: &page[from..tail], count, at: 0, next: 0, key: Vec::new() })
    }

    fn advance(&mut self) -> Result<()> {
        let broken = || Error::corrupt("a page of an index file cannot be read");
        let shared = take_varint(self.entries, &mut self.at).ok_or_else(broken)? as usize;
        let n = take_varint(self.entries, &mut self.at).ok_or_else(broken)? as usize;
        let bytes = self.entries.get(self.at..).and_then(|r| r.get(..n)).ok_or_else(broken)?;
        if shared > self.key.len() {
            return Err(broken());
        }
        self.key.truncate(shared);
        self.key.extend_from_slice(bytes);
        self.at += n;
        self.next += 1;
        Ok(())
    }

    fn restart(&self, n: usize) -> Option<(usize, &'a [u8])> {
        let offset = self.restarts.get(n * 4..n * 4 + 4)?;
        let at = u32::from_le_bytes(offset.try_into().ok()?) as usize;
        let mut inside = at;
        take_varint(self.entries, &mut inside)?;
        let n = take_varint(self.entries, &mut inside)? as usize;
        Some((at, self.entries.get(inside..)?.get(..n)?))
    }

    /// The first entry at or behind `wanted`, and whether it is equal. Calls come with ascending keys.
    fn seek(&mut self, wanted: &[u8]) -> Result<Option<(u32, bool)>> {
        let passed = self.next.div_ceil(RESTART) as usize;
        let (mut low, mut high) = (passed, self.restarts.len() / 4);
        while low < high {
            let mid = (low + high) / 2;
            match self.restart(mid) {
                Some((_, key)) if key <= wanted => low = mid + 1,
                Some(_) => high = mid,
                None => return Err(Error::corrupt("a page of an index file cannot be read")),
            }
        }
        if low > passed
            && let Some((at, _)) = self.restart(low - 1)
        {
            self.at = at;
            self.next = (low as u32 - 1) * RESTART;
            self.key.clear();
        } else if self.next > 0 && self.key.as_slice() >= wanted {
            return Ok(Some((self.next - 1, self.key == wanted)));
        }
        while self.next < self.count {
            self.advance()?;
            if self.key.as_slice() >= wanted {
                return Ok(Some((self.next - 1, self.key == wanted)));
            }
        }
        Ok(None)
    }
}

fn put_varint(out: &mut Vec<u8>, mut v: u32) {
    while v >= 0x80 {
        out.push(v as u8 | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
}

fn take_varint(bytes: &[u8], at: &mut usize) -> Option<u32> {
    let mut v = 0;
    for shift in (0..35).step_by(7) {
        let b = *bytes.get(*at)?;
        *at += 1;
        v |= u32::from(b & 0x7F).checked_shl(shift)?;
        if b < 0x80 {
            return Some(v);
        }
    }
    None
}

fn bloom_block(bloom: &[u8], hash: u64) -> Option<usize> {
    let blocks = bloom.len() / BLOOM_BLOCK;
    (blocks > 0).then(|| (((hash >> 32) * blocks as u64) >> 32) as usize * BLOOM_BLOCK)
}

fn bloom_bits(hash: u64) -> impl Iterator<Item = usize> {
    let (a, b) = (hash as u32, (hash >> 16) as u32 | 1);
    (0..BLOOM_PROBES).map(move |i| (a.wrapping_add(b.wrapping_mul(i)) % (BLOOM_BLOCK as u32 * 8)) as usize)
}

fn maybe(bloom: &[u8], key: &[u8]) -> bool {
    let hash = xxh3_64(key);
    match bloom_block(bloom, hash) {
        Some(block) => bloom_bits(hash).all(|bit| bloom[block + bit / 8] & 1 << (bit % 8) != 0),
        None => true,
    }
}

/// The checksum of a block of the data file.
pub(crate) fn block_sum(bytes: &[u8]) -> u32 {
    crc(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_exactly_the_keys_that_are_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.idx");
        let mut w = IndexWriter::create(&path, 30_000).unwrap();
        let key = |i: u32| format!("key-{:08}", i).into_bytes();
        for i in 0..30_000 {
            w.push(&key(i * 2)).unwrap();
        }
        w.finish(0, &[]).unwrap();
        let cache = Cache::new(1 << 20);
        let reader = IndexReader { path: &path, segment: 1, cache: &cache };
        for step in [1, 7, 501, 20_011] {
            let mut keys = Keys::default();
            let wanted: Vec<u32> = (0..60_010).step_by(step).collect();
            wanted.iter().for_each(|i| keys.push(&key(*i)));
            let places: Vec<u32> = (0..wanted.len() as u32).collect();
            let mut found = Vec::new();
            reader.lookup(&keys, &places, |k, row| found.push((k, row))).unwrap();
            let expected: Vec<_> =
                (0u32..).zip(&wanted).filter(|(_, i)| **i % 2 == 0 && **i < 60_000).map(|(k, i)| (k, i / 2)).collect();
            assert_eq!(found, expected, "step {step}");
        }
    }

    #[test]
    fn a_flipped_byte_anywhere_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.idx");
        let mut w = IndexWriter::create(&path, 300).unwrap();
        let mut keys = Keys::default();
        for i in 0..300u32 {
            w.push(&i.to_be_bytes()).unwrap();
            keys.push(&i.to_be_bytes());
        }
        w.finish(100, &[7]).unwrap();
        let good = std::fs::read(&path).unwrap();
        let places: Vec<u32> = (0..300).collect();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            std::fs::write(&path, &bad).unwrap();
            let cache = Cache::new(1 << 20);
            let reader = IndexReader { path: &path, segment: 1, cache: &cache };
            let result =
                reader.lookup(&keys, &places, |_, _| {}).and_then(|()| reader.lookup(&keys, &places[..3], |_, _| {}));
            let error = result.expect_err(&format!("byte {at} of {}", good.len()));
            assert!(error.context.iter().any(|(k, _)| k == "file"), "{error}");
        }
    }
}
