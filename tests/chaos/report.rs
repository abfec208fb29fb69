//! What happened: every event with its time in a file, and counts of each kind for the summary.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Counts by group (`ddl`) and kind (`add column`).
type Counts = BTreeMap<&'static str, BTreeMap<String, u64>>;

/// The record of one flavour's run, shared by all of its tasks.
#[derive(Clone)]
pub(crate) struct Journal(Arc<Inner>);

struct Inner {
    start: Instant,
    file: Mutex<File>,
    counts: Mutex<Counts>,
    longest: Mutex<Duration>,
}

impl Journal {
    /// A new record in this file.
    pub(crate) fn new(file: &Path) -> Journal {
        Journal(Arc::new(Inner {
            start: Instant::now(),
            file: Mutex::new(File::create(file).unwrap()),
            counts: Mutex::default(),
            longest: Mutex::default(),
        }))
    }

    /// Something happened once; `detail` goes into the file only.
    pub(crate) fn note(&self, group: &'static str, kind: &str, detail: &str) {
        self.count(group, kind, 1);
        self.write(&format!("{group}: {kind}: {detail}"));
    }

    /// So many more of a kind.
    pub(crate) fn count(&self, group: &'static str, kind: &str, n: u64) {
        *self.0.counts.lock().unwrap().entry(group).or_default().entry(kind.to_string()).or_default() += n;
    }

    /// A line in the file.
    pub(crate) fn write(&self, line: &str) {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let (second, ms) = (now.as_secs() % 86_400, now.subsec_millis());
        let clock = format!("{:02}:{:02}:{:02}.{ms:03}", second / 3600, second / 60 % 60, second % 60);
        let _ = writeln!(self.0.file.lock().unwrap(), "{clock} {line}");
    }

    /// How often something happened.
    pub(crate) fn of(&self, group: &str, kind: &str) -> u64 {
        self.0.counts.lock().unwrap().get(group).and_then(|g| g.get(kind)).copied().unwrap_or(0)
    }

    /// How often Freshet was killed, from outside or at a failpoint.
    pub(crate) fn kills(&self) -> u64 {
        self.of("kills", "Freshet") + self.of("kills", "Freshet at a failpoint")
    }

    /// A round became level after so long.
    pub(crate) fn level_after(&self, took: Duration) {
        let mut longest = self.0.longest.lock().unwrap();
        *longest = took.max(*longest);
    }

    /// Everything, for the summary's file.
    pub(crate) fn json(&self, flavour: &str, failure: Option<&str>) -> Value {
        json!({
            "flavour": flavour,
            "minutes": self.0.start.elapsed().as_secs_f64() / 60.0,
            "longest_to_level_s": self.0.longest.lock().unwrap().as_secs_f64(),
            "counts": *self.0.counts.lock().unwrap(),
            "failure": failure,
        })
    }

    /// Everything, for people.
    pub(crate) fn summary(&self, flavour: &str) -> String {
        let minutes = self.0.start.elapsed().as_secs_f64() / 60.0;
        let longest = self.0.longest.lock().unwrap().as_secs_f64();
        let mut text =
            format!("\n{flavour}: {minutes:.1} minutes, level at the latest {longest:.1} s after a quiesce\n");
        for (group, kinds) in self.0.counts.lock().unwrap().iter() {
            let kinds: Vec<String> = kinds.iter().map(|(kind, n)| format!("{kind} {n}")).collect();
            text += &format!("  {group}: {}\n", kinds.join(", "));
        }
        text
    }
}
