//! Faults on demand: named places in front of and behind every durable step, where a test lets the process die or the
//! disk fail. Always compiled in; while nothing is armed a place costs one relaxed load. Armed by the variable
//! `FRESHET_FAILPOINTS` of the environment (the binary reads it at its start) or, for one directory, by [`arm`]:
//!
//! ```text
//! FRESHET_FAILPOINTS="log.sync=eio; segment.write=enospc@3; manifest.rename=kill"
//! ```
//!
//! An action is `kill` (the process ends at once, as by `kill -9`), `eio` (an input/output error), `enospc` (disk full),
//! `short` (half of the bytes are written, then the disk is full), `torn` (half of them are written, then the process
//! ends), `hang` (the step never ends) or `slow` (it takes half a second longer); `short` and `torn` act like `enospc` and
//! `kill` where nothing is written. `@3` means the third time only, `@3+` from the third on; without it every time.
//! `docs/reliability.md` lists the places.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::nearest::nearest;

/// The variable that arms failpoints.
pub const VARIABLE: &str = "FRESHET_FAILPOINTS";

/// Every place, and what happens there. `docs/reliability.md` shows the same list; a test compares them.
pub const PLACES: [(&str, &str); 52] = [
    ("log.create", "a log file is created"),
    ("log.header", "its header is written"),
    ("log.header-sync", "its header is made durable"),
    ("log.dir-sync", "its name is made durable"),
    ("log.write", "a group of transactions is written to the log"),
    ("log.sync", "the group is made durable"),
    ("log.synced", "the group is durable and not yet acknowledged or visible"),
    ("log.remove", "a log file that a checkpoint made superfluous is removed"),
    ("log.cut", "a torn tail is cut off at the start"),
    ("segment.create", "a segment's data file is created"),
    ("segment.write", "rows are written to it"),
    ("segment.sync", "it is made durable"),
    ("segment.dir-sync", "the names of both files are made durable"),
    ("segment.finished", "both files are durable and no record names them yet"),
    ("index.create", "a segment's index file is created"),
    ("index.write", "keys, bloom filter and checksums are written to it"),
    ("index.sync", "it is made durable"),
    ("compact.merge", "a flush or a compaction begins to merge rows"),
    ("compact.install", "the merged segment is about to take the place of what was merged"),
    ("manifest.create", "the new manifest is created"),
    ("manifest.write", "it is written"),
    ("manifest.sync", "it is made durable"),
    ("manifest.rename", "it takes the place of the old one"),
    ("manifest.dir-sync", "its name is made durable"),
    ("store.commit", "a transaction of the store of jobs is committed"),
    ("store.committed", "the transaction is durable and nobody knows yet"),
    ("settle.begin", "a job begins to settle what the last run left in doubt"),
    ("flush.intent", "the intent of a flush is stored, with the position before it"),
    ("flush.write", "the intent is durable and the sink is about to write"),
    ("flush.written", "the sink has written and nobody knows yet"),
    ("part.intent", "the intent of a part of a large transaction is stored"),
    ("part.write", "the part is about to be staged"),
    ("part.written", "it is staged and nobody knows yet"),
    ("position.store", "a position that nothing follows is stored"),
    ("position.stored", "it is durable and not acknowledged yet"),
    ("ddl.intent", "the intent of a schema change is stored"),
    ("ddl.apply", "a statement of it is applied, the swap at the end of a copy included"),
    ("ddl.applied", "the statement is applied and not recorded yet"),
    ("ddl.finish", "position, tables and schemas move behind the change"),
    ("ddl.finished", "they have moved and nobody knows yet"),
    ("copy.begin", "the number and name of a copy are stored"),
    ("copy.create", "what the copy fills is created"),
    ("copy.created", "it is created and not recorded yet"),
    ("copy.splits", "the splits of a table are stored"),
    ("copy.write", "a load of a copy is recorded and about to be written"),
    ("copy.written", "it is written and nobody knows yet"),
    ("copy.split", "a split is recorded as done"),
    ("copy.copied", "the end of a copy is stored"),
    ("lane.fork", "the catch-up lane begins with the tables that are copied"),
    ("lane.join", "the tables of the catch-up lane join the main one"),
    ("table.suspend", "a table is suspended"),
    ("table.resume", "a suspended table goes on, or a table is queued for a new copy"),
];

/// In place of a file's path for the steps of jobs.
const STEPS: &str = "jobs.redb";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Kill,
    Eio,
    Enospc,
    Short,
    Torn,
    Hang,
    Slow,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Failpoint {
    place: &'static str,
    action: Action,
    /// Which time it acts, counted from 1, and whether from then on.
    at: Option<(u64, bool)>,
    /// Only for files below this directory.
    under: Option<PathBuf>,
    times: u64,
}

static ARMED: AtomicBool = AtomicBool::new(false);
static POINTS: Mutex<Vec<Failpoint>> = Mutex::new(Vec::new());

fn points() -> MutexGuard<'static, Vec<Failpoint>> {
    POINTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Arms what the environment's variable [`VARIABLE`] says; called once at the start of a program.
///
/// # Errors
/// `Config` for an unknown place or action.
pub fn arm_from_environment() -> Result<()> {
    match std::env::var(VARIABLE) {
        Ok(text) if !text.trim().is_empty() => {
            let new = parse(&text, None)?;
            points().extend(new);
            ARMED.store(true, Ordering::Release);
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Arms failpoints for the files below a directory, until the guard is dropped.
///
/// # Errors
/// `Config` for an unknown place or action.
pub fn arm(under: &Path, text: &str) -> Result<Armed> {
    let new = parse(text, Some(under))?;
    points().extend(new);
    ARMED.store(true, Ordering::Release);
    Ok(Armed(under.to_path_buf()))
}

/// Failpoints of one directory; disarmed when dropped.
#[derive(Debug)]
#[must_use]
pub struct Armed(PathBuf);

impl Armed {
    /// How often this place has been reached.
    pub fn times(&self, place: &str) -> u64 {
        let reached = points();
        reached.iter().filter(|p| p.place == place && p.under.as_ref() == Some(&self.0)).map(|p| p.times).sum()
    }
}

impl Drop for Armed {
    fn drop(&mut self) {
        points().retain(|p| p.under.as_ref() != Some(&self.0));
    }
}

fn parse(text: &str, under: Option<&Path>) -> Result<Vec<Failpoint>> {
    let parts = text.split([';', ',']).map(str::trim).filter(|part| !part.is_empty());
    parts.map(|part| parse_one(part, under)).collect()
}

fn parse_one(part: &str, under: Option<&Path>) -> Result<Failpoint> {
    let wrong = |what: String| Error::config(what).with("variable", VARIABLE).with("part", part);
    let (name, rest) = part.split_once('=').ok_or_else(|| wrong("a failpoint is written place=action".into()))?;
    let place = PLACES.iter().map(|(p, _)| *p).find(|p| *p == name.trim()).ok_or_else(|| {
        let e = wrong(format!("there is no failpoint {}", name.trim()));
        match nearest(name.trim(), PLACES.iter().map(|(p, _)| *p)) {
            Some(near) => e.hint(format!("did you mean {near}?")),
            None => e.hint("docs/reliability.md lists them"),
        }
    })?;
    let (action, at) = rest.split_once('@').map_or((rest, None), |(action, at)| (action, Some(at)));
    let action = match action.trim() {
        "kill" => Action::Kill,
        "eio" => Action::Eio,
        "enospc" => Action::Enospc,
        "short" => Action::Short,
        "torn" => Action::Torn,
        "hang" => Action::Hang,
        "slow" => Action::Slow,
        other => {
            let e = wrong(format!("a failpoint cannot {other}"));
            return Err(e.hint("the actions are kill, eio, enospc, short, torn, hang, slow"));
        }
    };
    let at = match at.map(str::trim) {
        None => None,
        Some(at) => {
            let (digits, on) = at.strip_suffix('+').map_or((at, false), |digits| (digits, true));
            let n = digits.parse().ok().filter(|n| *n > 0);
            Some((n.ok_or_else(|| wrong(format!("{at} is no number of times")))?, on))
        }
    };
    Ok(Failpoint { place, action, at, under: under.map(Path::to_path_buf), times: 0 })
}

/// How much longer a slow step takes.
const SLOW: Duration = Duration::from_millis(500);

/// What is to happen at this place now.
fn reach(place: &'static str, path: &Path) -> Option<Action> {
    debug_assert!(PLACES.iter().any(|(p, _)| *p == place), "{place} is not listed");
    if !ARMED.load(Ordering::Relaxed) {
        return None;
    }
    let mut points = points();
    let mine = points.iter_mut().filter(|p| p.place == place && p.under.as_ref().is_none_or(|u| path.starts_with(u)));
    let mut act = None;
    for point in mine {
        point.times += 1;
        let due = match point.at {
            None => true,
            Some((n, false)) => point.times == n,
            Some((n, true)) => point.times >= n,
        };
        if due {
            act = Some(point.action);
        }
    }
    act
}

fn fail(action: Action, place: &str) -> io::Result<()> {
    let code = match action {
        Action::Kill | Action::Torn => std::process::abort(),
        Action::Slow => {
            std::thread::sleep(SLOW);
            return Ok(());
        }
        Action::Hang => loop {
            std::thread::park();
        },
        Action::Eio => libc::EIO,
        Action::Enospc | Action::Short => libc::ENOSPC,
    };
    tracing::warn!("failpoint {place}");
    Err(io::Error::from_raw_os_error(code))
}

/// A step on `path` is about to be done (or, by its name, has just been done).
///
/// # Errors
/// The one that is armed, if it is one.
#[inline]
pub fn failpoint(place: &'static str, path: &Path) -> io::Result<()> {
    match reach(place, path) {
        None => Ok(()),
        Some(action) => fail(action, place),
    }
}

/// A step of a job that is about to be done or, by its name, has just been done.
///
/// # Errors
/// `Io`, the one that is armed.
#[inline]
pub fn step(place: &'static str) -> Result<()> {
    failpoint(place, Path::new(STEPS)).map_err(|e| {
        Error::io(format!("a job cannot go on at {place}"))
            .because(e)
            .hint("resume the job; nothing acknowledged is lost")
    })
}

/// Writes bytes that belong to `path`: all of them, or with an armed failpoint none or half.
///
/// # Errors
/// The writer's, or the one that is armed.
#[inline]
pub fn write_all(place: &'static str, path: &Path, out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    match reach(place, path) {
        None => out.write_all(bytes),
        Some(action) => {
            if matches!(action, Action::Short | Action::Torn) {
                out.write_all(&bytes[..bytes.len() / 2])?;
                out.flush()?;
            }
            fail(action, place)?;
            out.write_all(bytes)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_come_when_they_are_due_and_only_there() {
        let (here, there) = (Path::new("/nowhere/fp-a/file"), Path::new("/nowhere/fp-b/file"));
        let armed = arm(Path::new("/nowhere/fp-a"), "log.sync=eio@2; log.write=short@1+,log.cut=enospc").unwrap();
        assert!(failpoint("log.sync", here).is_ok());
        assert_eq!(failpoint("log.sync", here).unwrap_err().raw_os_error(), Some(libc::EIO));
        assert!(failpoint("log.sync", here).is_ok() && failpoint("log.cut", there).is_ok());
        assert_eq!(failpoint("log.cut", here).unwrap_err().kind(), io::ErrorKind::StorageFull);
        let mut out = Vec::new();
        for _ in 0..2 {
            out.clear();
            assert!(write_all("log.write", here, &mut out, b"12345678").is_err());
            assert_eq!(out, b"1234");
        }
        assert_eq!(armed.times("log.sync"), 3);
        drop(armed);
        assert!(failpoint("log.cut", here).is_ok());
    }

    #[test]
    fn wrong_names_are_errors() {
        let said = |text: &str| parse(text, None).unwrap_err().to_string();
        assert!(said("log.snyc=eio").contains("did you mean log.sync?"));
        assert!(said("log.sync=explode").contains("kill, eio"));
        assert!(said("log.sync=eio@0").contains("number of times"));
        assert!(said("log.sync").contains("place=action"));
        assert_eq!(parse(" ; ", None).unwrap(), Vec::new());
    }

    #[test]
    fn the_documentation_lists_every_place() {
        let text = include_str!("../../../docs/reliability.md");
        for (place, what) in PLACES {
            assert!(text.contains(&format!("| `{place}` | {what} |")), "docs/reliability.md lacks {place}: {what}");
        }
    }
}
