//! What was kept is read back, from any position, over segments that overlap and tails that are torn.

use std::path::Path;
use std::sync::Arc;

use freshet_core::{ChangesRequest, Event, Position, Spool, TablePattern};

use super::super::event::kind;
use super::super::log::Log;
use super::super::position::LogPosition;
use super::super::register::StreamOptions;
use super::super::stream::{from_spool, take_in};
use super::*;

const UUID: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
const UUID_BYTES: [u8; 16] =
    [0x3e, 0x11, 0xfa, 0x47, 0x71, 0xca, 0x11, 0xe1, 0x9e, 0x33, 0xc8, 0x0a, 0xa9, 0x42, 0x95, 0x62];

/// A server's log: files of some transactions each.
struct Server {
    /// By file, and where its transactions begin and end.
    events: Vec<(String, u64, Vec<u8>)>,
    /// Behind each transaction.
    ends: Vec<String>,
}

fn event(of: u8, next: u32, body: &[u8]) -> Vec<u8> {
    let mut out = vec![1, 0, 0, 0, of, 1, 0, 0, 0];
    out.extend_from_slice(&(19 + body.len() as u32).to_le_bytes());
    out.extend_from_slice(&next.to_le_bytes());
    out.extend_from_slice(&[if next == 0 { 0x20 } else { 0 }, 0]);
    out.extend_from_slice(body);
    out
}

impl Server {
    fn new(transactions: u64, per_file: u64, numbered: bool) -> Server {
        let mut server = Server { events: Vec::new(), ends: Vec::new() };
        let (mut file, mut at) = (1, 4_u64);
        for n in 1..=transactions {
            let name = format!("b.{file:06}");
            let mut push = |of: u8, body: &[u8]| {
                let begin = at;
                at += 19 + body.len() as u64;
                server.events.push((name.clone(), begin, event(of, at as u32, body)));
            };
            let gtid = [&[0][..], &UUID_BYTES, &n.to_le_bytes()].concat();
            push(if numbered { kind::GTID } else { kind::ANONYMOUS_GTID }, &gtid);
            push(kind::QUERY, &[&[0; 13][..], b"\0BEGIN"].concat());
            push(kind::XID, &[0; 8]);
            let gtids = if numbered { format!(" gtid={UUID}:1-{n}") } else { String::new() };
            server.ends.push(format!("{name}:{at}{gtids} server=s"));
            if n % per_file == 0 {
                file += 1;
                let rotate = [&4_u64.to_le_bytes()[..], format!("b.{file:06}").as_bytes()].concat();
                let end = at as u32 + 19 + rotate.len() as u32;
                server.events.push((name.clone(), at, event(kind::ROTATE, end, &rotate)));
                at = 4;
            }
        }
        server
    }

    /// Behind so many transactions.
    fn position(&self, n: usize) -> LogPosition {
        let begin = "b.000001:4 server=s".to_string();
        let text = if n == 0 { &begin } else { &self.ends[n - 1] };
        LogPosition::parse(&Position::at(text.clone())).unwrap()
    }

    /// Reads and keeps what the server sends behind `from` transactions, up to `to`.
    fn keep(&self, spool: &Arc<Spool>, from: usize, to: usize, segment_bytes: u64) {
        let position = self.position(from);
        let mut log = log(&position);
        let mut writer = SpoolWriter::begin(Arc::clone(spool), &position, false).with_segments_of(segment_bytes);
        let rotate = [&position.offset.to_le_bytes()[..], position.file.as_bytes()].concat();
        take_in(&event(kind::ROTATE, 0, &rotate), &mut log, Some(&mut writer)).unwrap();
        let mut done = from;
        let from = self.events.iter().position(|e| (&e.0, e.1) == (&position.file, position.offset)).unwrap();
        for (_, _, event) in &self.events[from..] {
            if done == to {
                break;
            }
            done += usize::from(event[4] == kind::XID);
            take_in(event, &mut log, Some(&mut writer)).unwrap();
        }
        writer.flush();
    }
}

fn log(from: &LogPosition) -> Log {
    let request = ChangesRequest {
        tables: Vec::new(),
        watched: Vec::new(),
        pattern: TablePattern::database("d"),
        from: from.position(),
        stop: None,
        spool: None,
        lane: 1,
    };
    Log::new(from.clone(), &request, false, false, StreamOptions::new(1)).unwrap()
}

/// The commits that the spool gives behind a position; `None` when it does not hold what follows.
fn commits(spool: &Spool, from: &LogPosition) -> Option<Vec<String>> {
    let mut reader = SpoolReader::open(spool, from).unwrap()?;
    let mut log = log(from);
    let mut out = Vec::new();
    loop {
        let more = from_spool(&mut reader, &mut log).unwrap();
        log.hand_out_if_complete().unwrap();
        while let Some(event) = log.output() {
            if let Event::Commit(commit) = event {
                out.push(commit.position.commit);
            }
        }
        if !more {
            // A change of files moves the position as well.
            out.retain(|p| !p.contains(":4 "));
            out.dedup();
            return Some(out);
        }
    }
}

fn spool(dir: &Path, limit: u64) -> Arc<Spool> {
    Arc::new(Spool::new(dir.join("spool"), limit))
}

#[test]
fn from_any_position() {
    for numbered in [false, true] {
        for segment_bytes in [1, 300, SEGMENT_BYTES] {
            let dir = tempfile::tempdir().unwrap();
            let (spool, server) = (spool(dir.path(), 1 << 30), Server::new(9, 4, numbered));
            server.keep(&spool, 1, 9, segment_bytes);
            assert!(spool.bytes() > 0 && spool.stopped().is_none());
            let what = format!("numbered {numbered}, segments of {segment_bytes}");
            assert_eq!(commits(&spool, &server.position(0)), None, "{what}");
            for from in 1..9 {
                assert_eq!(commits(&spool, &server.position(from)), Some(server.ends[from..].to_vec()), "{what}");
            }
            assert_eq!(commits(&spool, &server.position(9)), None, "{what}");
        }
    }
}

#[test]
fn readings_that_begin_anew_overlap() {
    for numbered in [false, true] {
        for segment_bytes in [1, SEGMENT_BYTES] {
            let dir = tempfile::tempdir().unwrap();
            let (spool, server) = (spool(dir.path(), 1 << 30), Server::new(12, 5, numbered));
            for (from, to) in [(1, 6), (4, 5), (4, 9), (4, 8), (7, 12)] {
                server.keep(&spool, from, to, segment_bytes);
            }
            for from in 1..12 {
                let want = server.ends[from..].to_vec();
                assert_eq!(commits(&spool, &server.position(from)), Some(want), "{numbered} {segment_bytes} {from}");
            }
            // What was not kept in between has to come from the server.
            let spool = self::spool(&dir.path().join("gap"), 1 << 30);
            server.keep(&spool, 1, 3, segment_bytes);
            server.keep(&spool, 5, 8, segment_bytes);
            assert_eq!(commits(&spool, &server.position(1)), Some(server.ends[1..3].to_vec()));
            assert_eq!(commits(&spool, &server.position(3)), None);
            assert_eq!(commits(&spool, &server.position(6)), Some(server.ends[6..8].to_vec()));
        }
    }
}

#[test]
fn a_torn_tail_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, server) = (spool(dir.path(), 1 << 30), Server::new(5, 3, true));
    server.keep(&spool, 1, 5, SEGMENT_BYTES);
    let path = segments(spool.directory()).unwrap().pop().unwrap().path;
    let whole = std::fs::read(&path).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for length in 0..=whole.len() {
        std::fs::write(&path, &whole[..length]).unwrap();
        let got = commits(&spool, &server.position(1)).unwrap_or_default();
        assert_eq!(got, server.ends[1..1 + got.len()], "{length} bytes are left");
        seen.insert(got.len());
        // Zeros, as some file systems leave them.
        std::fs::write(&path, [&whole[..length], &[0; 64]].concat()).unwrap();
        assert_eq!(commits(&spool, &server.position(1)).unwrap_or_default(), got);
    }
    assert_eq!(seen, (0..=4).collect());
    for at in 0..whole.len() {
        let mut bad = whole.clone();
        bad[at] ^= 0x10;
        std::fs::write(&path, &bad).unwrap();
        let got = commits(&spool, &server.position(1)).unwrap_or_default();
        assert_eq!(got, server.ends[1..1 + got.len()], "byte {at} is wrong");
    }
}

#[test]
fn limits() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::new(40, 7, true);
    let spool = spool(dir.path(), 2_000);
    server.keep(&spool, 1, 40, 300);
    assert!(spool.stopped().unwrap().contains("limit of 2000 bytes"), "{:?}", spool.stopped());
    assert!(spool.bytes() <= 2_000);
    let got = commits(&spool, &server.position(1)).unwrap();
    assert!(got.len() > 3 && got.len() < 39 && got == server.ends[1..1 + got.len()], "{got:?}");
    // What nobody needs any more makes room.
    spool.set_needed_from(&server.position(got.len()).position());
    server.keep(&spool, got.len(), got.len() + 4, 300);
    assert_eq!(spool.stopped(), None);
    assert_eq!(commits(&spool, &server.position(1)), None);
    let want = server.ends[got.len()..got.len() + 4].to_vec();
    assert_eq!(commits(&spool, &server.position(got.len())), Some(want));
    spool.discard().unwrap();
    assert!(!spool.directory().exists() && spool.is_discarded());

    // Whoever still keeps something in it ends that.
    let spool = self::spool(dir.path(), 1 << 30);
    let from = server.position(1);
    let mut writer = SpoolWriter::begin(Arc::clone(&spool), &from, false).with_segments_of(1);
    spool.discard().unwrap();
    for (_, _, event) in &server.events {
        writer.event(event);
        writer.mark(&from, false);
    }
    writer.flush();
    assert!(!spool.directory().exists() && spool.stopped().is_none());
}
