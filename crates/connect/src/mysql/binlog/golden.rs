//! Golden captures: log files that real servers wrote, replayed through the decoder and compared with what those servers
//! printed for the same tables. `golden/FLAVOUR.binlog` is the file, `golden/FLAVOUR.json` the printed contents; with
//! `-parts` behind it, of rows without all of their columns and of compressed transactions.
//! `cargo test -p freshet-connect capture -- --ignored` records them anew from the servers that the
//! environment names.

use std::collections::BTreeMap;
use std::path::PathBuf;

use freshet_core::{ChangesRequest, Position, TablePattern};

use super::super::MySql;
use super::super::live::{Bench, PARTIAL, Replica};
use super::super::wire::{Connection, Flavour, live::servers};
use super::live::{CHANGES, JSON, JSON_OPAQUE, Rows, SETUP, apply, printed, run};
use super::log::Log;
use super::position::LogPosition;
use super::*;

type Tables = BTreeMap<String, Rows>;

fn file(flavour: &str, ending: &str) -> PathBuf {
    PathBuf::from(format!("{}/src/mysql/binlog/golden/{flavour}.{ending}", env!("CARGO_MANIFEST_DIR")))
}

/// The tables that a log file amounts to.
fn replay(bytes: &[u8], mariadb: bool) -> Tables {
    let mut tables = Tables::new();
    each_event(bytes, mariadb, "fr_types.*", |event| apply(&mut tables, event));
    tables
}

/// Hands every event of a log file about these tables on.
fn each_event(bytes: &[u8], mariadb: bool, pattern: &str, mut with: impl FnMut(&freshet_core::Event)) {
    let pattern = TablePattern::parse(pattern, None).unwrap();
    let request = ChangesRequest {
        tables: Vec::new(),
        pattern,
        from: Position::at("golden.000001:4"),
        stop: None,
        spool: None,
        lane: 0,
        watched: Vec::new(),
    };
    let from = LogPosition::parse(&request.from).unwrap();
    let mut log = Log::new(from, &request, mariadb, true, StreamOptions::new(1)).unwrap();
    let mut at = 4;
    while at < bytes.len() {
        let size = u32::from_le_bytes(bytes[at + 9..at + 13].try_into().unwrap()) as usize;
        log.read(&bytes[at..at + size]).unwrap();
        at += size;
        log.hand_out_if_complete().unwrap();
        while let Some(event) = log.output() {
            with(&event);
        }
    }
}

fn in_json(tables: &Tables) -> String {
    let rows = |rows: &Rows| rows.values().cloned().collect::<Vec<_>>();
    let plain: BTreeMap<&String, Vec<Vec<Option<String>>>> = tables.iter().map(|(t, r)| (t, rows(r))).collect();
    serde_json::to_string_pretty(&plain).unwrap() + "\n"
}

#[test]
fn captures_decode_to_what_the_server_printed() {
    for flavour in ["mariadb", "mysql"] {
        let bytes = std::fs::read(file(flavour, "binlog")).unwrap();
        let expected = std::fs::read_to_string(file(flavour, "json")).unwrap();
        assert!(in_json(&replay(&bytes, flavour == "mariadb")) == expected, "{flavour}: decoded values differ");
    }
}

/// Every flipped bit of a capture is found by the events' checksums, or lies where it does not matter.
#[test]
fn damaged_captures_never_give_other_rows() {
    for flavour in ["mariadb", "mysql"] {
        let good = std::fs::read(file(flavour, "binlog")).unwrap();
        let right = replay(&good, flavour == "mariadb");
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..300 {
            let mut bad = good.clone();
            // Behind the headers' sizes: those are the connection's business, not the checksum's.
            let at = random.usize(4..bad.len());
            bad[at] ^= 1 << random.u8(0..8);
            let outcome = std::panic::catch_unwind(|| replay(&bad, flavour == "mariadb"));
            assert!(outcome.is_err() || outcome.is_ok_and(|tables| tables == right), "{flavour}: byte {at}");
        }
    }
}

/// The events of a log file, without checksums.
fn events(bytes: &[u8]) -> Vec<Vec<u8>> {
    let (mut events, mut at) = (Vec::new(), 4);
    while at < bytes.len() {
        let size = u32::from_le_bytes(bytes[at + 9..at + 13].try_into().unwrap()) as usize;
        let mut event = bytes[at..at + size].to_vec();
        match event[4] {
            // The head of a file says itself that there are none.
            15 => event[size - 5] = 0,
            _ => event.truncate(size - 4),
        }
        events.push(event);
        at += size;
    }
    events
}

/// Events that no checksum protects and that someone has tampered with: read or refused, but never a panic, and never
/// more memory than a log of that size can ask for.
#[test]
fn forged_events_are_read_or_refused() {
    let resident = || {
        let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
        text.split(' ').nth(1).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) * 4096
    };
    let before = resident();
    let (mut refused, mut read) = (0, 0);
    for flavour in ["mariadb", "mysql"] {
        let good = events(&std::fs::read(file(flavour, "binlog")).unwrap());
        let pattern = TablePattern::parse("fr_types.*", None).unwrap();
        let tables = Vec::new();
        let from = Position::at("golden.000001:4");
        let request = ChangesRequest { tables, pattern, from, stop: None, spool: None, lane: 0, watched: Vec::new() };
        for seed in 0..2000 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut bad = good.clone();
            for _ in 0..random.usize(1..4) {
                let at = random.usize(0..bad.len());
                let event = &mut bad[at];
                // Mostly behind the header.
                let place = if random.u8(0..8) > 0 {
                    random.usize(event.len().min(19)..=event.len())
                } else {
                    random.usize(0..=event.len())
                };
                match random.u8(0..7) {
                    0 => event.truncate(place),
                    1 => event.splice(place..place, (0..random.usize(1..20)).map(|_| random.u8(..))).for_each(drop),
                    2 => event.iter_mut().skip(place).take(8).for_each(|b| *b = 0xFF),
                    3 => event.iter_mut().skip(place).take(random.usize(1..5)).for_each(|b| *b = random.u8(..)),
                    4 if !event.is_empty() => event[4.min(place)] = random.u8(..),
                    5 => bad.swap(at, random.usize(0..good.len())),
                    _ => event.iter_mut().skip(place).take(1).for_each(|b| *b ^= 1 << random.u8(0..8)),
                }
            }
            let from = LogPosition::parse(&request.from).unwrap();
            let mut log = Log::new(from, &request, flavour == "mariadb", false, StreamOptions::new(1)).unwrap();
            let outcome = bad.iter().try_for_each(|event| {
                log.read(event)?;
                // What only a server could answer.
                if log.wanted().is_some() {
                    log.found(None)?;
                }
                log.hand_out_if_complete()?;
                while log.output().is_some() {}
                Ok::<_, freshet_core::Error>(())
            });
            match outcome {
                Ok(()) => read += 1,
                Err(_) => refused += 1,
            }
        }
    }
    assert!(read > 100 && refused > 100, "{read} read, {refused} refused");
    let grown = resident().saturating_sub(before) >> 20;
    assert!(grown < 400, "{grown} MiB more than before");
}

#[tokio::test]
#[ignore = "records the captures anew"]
async fn capture() {
    for o in servers("capture") {
        let mut c = Connection::connect(&o).await.unwrap();
        let binary = c.server.flavour == Flavour::MySql;
        let flavour = if binary { "mysql" } else { "mariadb" };
        run(&mut c, "SET time_zone = '+00:00'").await;
        run(&mut c, "FLUSH BINARY LOGS").await;
        let setup = SETUP.replace("70000", "700");
        for sql in setup.split(';').map(str::trim).filter(|s| !s.is_empty()) {
            run(&mut c, sql).await;
        }
        for (i, json) in JSON.iter().chain(JSON_OPAQUE.iter().filter(|_| binary)).enumerate() {
            let json = json.replace("30000", "300");
            run(&mut c, &format!("INSERT INTO fr_types.t (id, j) VALUES ({}, {json})", 10 + i)).await;
        }
        for sql in CHANGES {
            run(&mut c, sql).await;
        }
        let name = c.query("SELECT @@log_bin_basename").await.unwrap();
        let logs = c.query("SHOW BINARY LOGS").await.unwrap();
        let last = logs.last().unwrap().get_str(0).unwrap().to_string();
        run(&mut c, "FLUSH BINARY LOGS").await;
        let path = PathBuf::from(name[0].get_str(0).unwrap()).with_file_name(last);
        std::fs::copy(path, file(flavour, "binlog")).unwrap();
        let url = format!("mysql://{}:{}@{}:{}/fr_types", o.user, o.password.reveal(), o.host, o.port);
        let pattern = TablePattern::parse("fr_types.*", None).unwrap();
        let tables = printed(&MySql::new(&url).unwrap(), &pattern).await;
        let tables = tables.into_iter().map(|(schema, rows)| (schema.name.table, rows)).collect();
        std::fs::write(file(flavour, "json"), in_json(&tables)).unwrap();
    }
}

/// The tables of a capture as they are printed, by name.
type Printed = BTreeMap<String, Vec<Vec<Option<String>>>>;

#[test]
fn captures_of_parts_decode_to_what_the_server_printed() {
    for flavour in ["mariadb", "mysql"] {
        let bytes = std::fs::read(file(&format!("{flavour}-parts"), "binlog")).unwrap();
        let expected = std::fs::read_to_string(file(&format!("{flavour}-parts"), "json")).unwrap();
        let expected: Printed = serde_json::from_str(&expected).unwrap();
        let (mut replica, mut partial) = (Replica::default(), 0);
        each_event(&bytes, flavour == "mariadb", "fr_golden.*", |event| {
            partial += usize::from(matches!(event, freshet_core::Event::Rows(batch) if batch.is_partial()));
            replica.apply(event);
        });
        assert!(replica.suspended.is_empty(), "{flavour}: {:?}", replica.suspended);
        assert!(partial > 5, "{flavour}: {partial}");
        let got: Printed = replica.tables.iter().map(|(name, copy)| (name.table.clone(), copy.sorted())).collect();
        assert!(got == expected, "{flavour}: {got:#?}");
    }
}

#[tokio::test]
#[ignore = "records the captures anew"]
async fn capture_parts() {
    for o in servers("capture_parts") {
        let mut b = Bench::new(&o, "fr_golden").await;
        let flavour = if b.mysql { "mysql-parts" } else { "mariadb-parts" };
        b.run("FLUSH BINARY LOGS").await;
        for sql in PARTIAL {
            b.run(sql).await;
        }
        for (i, image) in ["MINIMAL", "NOBLOB", "FULL", "MINIMAL"].into_iter().enumerate() {
            b.run(&format!("SET SESSION binlog_row_image = '{image}'")).await;
            if i == 3 {
                let on = if b.mysql { "SESSION binlog_transaction_compression" } else { "GLOBAL log_bin_compress" };
                b.run(&format!("SET {on} = 1")).await;
                if !b.mysql {
                    b.run("SET GLOBAL log_bin_compress_min_len = 10").await;
                }
            }
            for sql in [
                format!("INSERT INTO one (id) VALUES ({i}), (1{i})"),
                format!("INSERT INTO one (id, v, b) VALUES (2{i}, NULL, REPEAT('blob', 50))"),
                format!("UPDATE one SET a = {i}, t = 't' WHERE id > 1"),
                format!("UPDATE one SET id = 3{i} WHERE id = 2{i}"),
                format!("DELETE FROM one WHERE id = 1{i}"),
                format!("INSERT INTO two (a, b) VALUES ({i}, 'k')"),
                format!("UPDATE two SET b = 'l{i}', x = 4 WHERE a = {i}"),
                format!("INSERT INTO uni (b, a) VALUES ({i}, 5)"),
                format!("UPDATE uni SET b = b + 10 WHERE b = {i}"),
                format!("INSERT INTO bag (v) VALUES ('{i}'), ('{i}')"),
                format!("UPDATE bag SET a = 1 WHERE v = '{i}' LIMIT 1"),
                "DELETE FROM bag WHERE a = 1 LIMIT 1".into(),
                format!("INSERT INTO gen (id, a) VALUES ({i}, 2)"),
                "UPDATE gen SET a = a + 1".into(),
                format!("INSERT INTO kinds (id) VALUES ({i})"),
            ] {
                b.run(&sql).await;
            }
        }
        if !b.mysql {
            b.run("SET GLOBAL log_bin_compress = 0, log_bin_compress_min_len = 256").await;
        }
        let name = b.c.query("SELECT @@log_bin_basename").await.unwrap();
        let logs = b.c.query("SHOW BINARY LOGS").await.unwrap();
        let last = logs.last().unwrap().get_str(0).unwrap().to_string();
        b.run("FLUSH BINARY LOGS").await;
        let path = PathBuf::from(name[0].get_str(0).unwrap()).with_file_name(last);
        std::fs::copy(path, file(flavour, "binlog")).unwrap();
        let mut printed = Printed::new();
        for table in ["one", "two", "uni", "bag", "gen", "kinds"] {
            printed.insert(table.into(), b.printed(&b.schema(table).await).await);
        }
        std::fs::write(file(flavour, "json"), serde_json::to_string_pretty(&printed).unwrap() + "\n").unwrap();
    }
}
