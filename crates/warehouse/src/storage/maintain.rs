//! Work in the background, on two threads of its own, so that neither waits for the other: the delta is flushed to
//! segments and the log cut by a checkpoint; segments are compacted. Both only propose: the writer installs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use freshet_core::error::io_error;
use freshet_core::failpoint::failpoint;
use freshet_core::{Result, TableName};
use tokio::sync::{mpsc, oneshot};

use super::engine::Shared;
use super::merge::{Input, merge};
use super::segment::remove_files;
use super::version::{SegmentView, TableView};
use super::writer::{Command, Done, Work};
use crate::catalog::Model;

/// Segments of one size class that are merged together …
const FAN_IN: usize = 6;
/// … and while more keep coming: a load of many does not compete with merges of its own rows, of which the next merge
/// would rewrite the result.
const MAX_FAN_IN: usize = 24;
/// So long after its newest segment a class gets no more.
const REST: Duration = Duration::from_millis(500);
/// A segment of this many live rows is no longer merged with others.
pub(crate) const FULL_ROWS: u64 = 4 << 20;
/// … of a multiset, whose hashes are sorted in memory.
const FULL_MULTISET_ROWS: u64 = 2 << 20;
/// A merge reads at most this many bytes of files.
const MERGE_BYTES: u64 = 1 << 30;
/// From this share of deleted rows on a segment is rewritten on its own, in percent.
const DEAD_PERCENT: u64 = 30;
/// By so much the thread that merges gives way to others: a merge is for later queries.
const NICE: i32 = 10;
/// After a failure.
const PAUSE: Duration = Duration::from_secs(2);

/// Which merges are due.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Merges {
    /// Those that nothing speaks against at this moment.
    Due,
    /// All that are worth it, also where more segments may come.
    All,
}

/// What there is to merge in a table.
enum Choice {
    Nothing,
    /// After so long, unless the class grows in the meantime.
    Later(Duration),
    These(Vec<SegmentView>),
}

/// What became of a look for merges.
pub(crate) enum Compacted {
    Nothing,
    Later(Duration),
    Merged,
}

/// One of the background threads.
pub(crate) struct Maintainer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) commands: mpsc::Sender<Command>,
}

impl Maintainer {
    /// Flushes whenever the delta or the log is long, until the warehouse is closed.
    pub(crate) fn flush_loop(self) {
        while self.shared.wait_for_flush() {
            if let Err(error) = self.flush() {
                self.report("flush", &error);
            }
        }
    }

    /// Compacts whenever something has changed, until the warehouse is closed; on a thread of its own.
    pub(crate) fn compact_loop(self) {
        // On Linux that is a thread's, not the process's.
        if let Err(error) = rustix::process::nice(NICE) {
            tracing::debug!(%error, "merges run at the priority of everything else");
        }
        while self.shared.wait_for_compaction() {
            loop {
                match self.compact_once(Merges::Due) {
                    Ok(Compacted::Merged) => {}
                    Ok(Compacted::Later(time)) => {
                        self.shared.pause(time);
                        if self.shared.check_running().is_err() {
                            return;
                        }
                    }
                    Ok(Compacted::Nothing) => break,
                    Err(error) => {
                        self.report("compaction", &error);
                        break;
                    }
                }
            }
        }
    }

    fn report(&self, what: &str, error: &freshet_core::Error) {
        if self.shared.check_running().is_ok() {
            tracing::warn!(%error, "{what} failed; it will be tried again");
            self.shared.pause(PAUSE);
        }
    }

    fn ask(&self, work: Work) -> Result<Done> {
        let (reply, answer) = oneshot::channel();
        let closed = |_| super::engine::closed();
        self.commands.blocking_send(Command { work, reply }).map_err(|_| super::engine::closed())?;
        answer.blocking_recv().map_err(closed)?
    }

    /// Writes all rows of the delta as segments, then a checkpoint.
    pub(crate) fn flush(&self) -> Result<()> {
        self.ask(Work::Seal)?;
        let snapshot = self.shared.snapshot();
        for view in snapshot.tables() {
            let sealed = view.layers.iter().filter(|l| self.shared.is_sealed(l.id));
            let layers: Vec<_> = sealed.cloned().map(Input::Layer).collect();
            if !layers.is_empty() {
                self.rewrite(view, layers)?;
            }
        }
        self.ask(Work::Checkpoint)?;
        self.shared.wake_compaction();
        Ok(())
    }

    /// A checkpoint only.
    pub(crate) fn checkpoint(&self) -> Result<()> {
        self.ask(Work::Checkpoint).map(|_| ())
    }

    /// Does the most useful merge.
    pub(crate) fn compact_once(&self, merges: Merges) -> Result<Compacted> {
        let snapshot = self.shared.snapshot();
        let mut wait: Option<Duration> = None;
        for view in snapshot.tables() {
            match choose(view, merges) {
                Choice::Nothing => {}
                Choice::Later(time) => wait = Some(wait.map_or(time, |w| w.min(time))),
                Choice::These(segments) => {
                    self.rewrite(view, segments.into_iter().map(Input::Segment).collect())?;
                    return Ok(Compacted::Merged);
                }
            }
        }
        Ok(wait.map_or(Compacted::Nothing, Compacted::Later))
    }

    /// Rewrites the segments of a multiset whose rows were hashed in another shape.
    pub(crate) fn rehash(&self, table: &TableName) -> Result<()> {
        let snapshot = self.shared.snapshot();
        let Some(view) = snapshot.table(table) else { return Ok(()) };
        let old = view.segments.iter().filter(|s| s.segment.meta.shape != view.table.shape && s.live_rows() > 0);
        old.cloned().try_for_each(|segment| self.rewrite(view, vec![Input::Segment(segment)]))
    }

    fn rewrite(&self, view: &TableView, inputs: Vec<Input>) -> Result<()> {
        let dir = &self.shared.segment_dir;
        failpoint("compact.merge", dir).map_err(|e| io_error(dir, "merge rows", e))?;
        let (segment, moved) = merge(&self.shared, &view.table, &inputs)?;
        if let Err(e) = failpoint("compact.install", dir) {
            segment.iter().for_each(|s| remove_files(dir, s.id));
            return Err(io_error(dir, "install merged rows", e));
        }
        let id = segment.as_ref().map(|s| s.id);
        let table = view.table.id;
        // When the table is gone or was truncated meanwhile, so are the rows.
        if matches!(self.ask(Work::Install { table, moved, segment })?, Done::Stale)
            && let Some(id) = id
        {
            remove_files(&self.shared.segment_dir, id);
        }
        Ok(())
    }
}

/// The segments of a table that should become one: enough of about the same size, else a mostly dead one alone.
fn choose(view: &TableView, merges: Merges) -> Choice {
    let full = if view.table.model == Model::Multiset { FULL_MULTISET_ROWS } else { FULL_ROWS };
    let dead = |s: &&SegmentView| s.deletes.len() * 100 >= u64::from(s.rows()) * DEAD_PERCENT && s.rows() > 0;
    let mut classes: BTreeMap<u32, Vec<&SegmentView>> = BTreeMap::new();
    for s in view.segments.iter().filter(|s| s.live_rows() < full) {
        let megabytes = s.segment.meta.data_len >> 20;
        classes.entry(megabytes.max(1).ilog2() / 2).or_default().push(s);
    }
    let mut wait = None;
    for (_, mut class) in classes {
        if class.len() < FAN_IN {
            continue;
        }
        class.sort_by_key(|s| s.live_rows());
        let (mut rows, mut bytes) = (0, 0);
        let fits = |s: &&&SegmentView| {
            rows += s.live_rows();
            bytes += s.segment.meta.data_len;
            rows <= full && bytes <= MERGE_BYTES
        };
        let mut picked: Vec<_> = class.iter().take(MAX_FAN_IN).take_while(fits).map(|s| (*s).clone()).collect();
        if picked.len() < 2 {
            continue;
        }
        // As many as one merge takes are not waited for.
        if merges == Merges::Due && picked.len() == class.len() && class.len() < MAX_FAN_IN {
            let rested = class.iter().map(|s| s.segment.since.elapsed()).min().unwrap_or(REST);
            if rested < REST {
                wait = Some(REST - rested);
                continue;
            }
        }
        picked.sort_by_key(|s| s.segment.meta.id);
        return Choice::These(picked);
    }
    // The merge that is waited for leaves out dead rows, too.
    let alone = || view.segments.iter().find(dead).map(|s| Choice::These(vec![s.clone()]));
    wait.map(Choice::Later).or_else(alone).unwrap_or(Choice::Nothing)
}
