//! The one thread that makes new versions. It takes the commits that wait, resolves each against the newest version
//! (which rows die, where new ones go), writes one log record for each and makes all durable together, and then
//! publishes the last version by one pointer. Until then readers see nothing of it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use freshet_core::{Error, Label, Result};
use roaring::RoaringBitmap;
use tokio::sync::{mpsc, oneshot};

use super::engine::Shared;
use super::key::{self, Keys};
use super::layer::LayerKeys;
use super::log::Log;
use super::manifest::{Labels, Manifest, TableFiles, Unwritten};
use super::merge::Moved;
use super::prepare::{NewRows, Prepared, Puts};
use super::record::{self, Entry, Place};
use super::segment::{Segment, SegmentMeta};
use super::stage::{self, Stage, Staged};
use super::value;
use super::version::{LayerView, SegmentView, Snapshot, TableView};
use crate::catalog::{Ddl, Edit, Model, Table};

/// What to do about a table that does not hold what the source's changes say.
pub(crate) const RESYNC: &str =
    "the table is not as the source left it (was it changed by hand?): `freshet resync JOB TABLE` copies it again";

/// Commits that share one fsync, at most.
const GROUP: usize = 256;
const GROUP_BYTES: usize = 16 << 20;

/// What became of a command.
#[derive(Debug, Clone)]
pub(crate) enum Done {
    Yes,
    /// The table has changed since the write was prepared.
    Stale,
    Found(Found),
}

/// Where rows are, in the newest version or in what is staged upon it.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) view: Arc<TableView>,
    /// One for each key.
    pub(crate) places: Vec<Option<(Place, u32)>>,
}

pub(crate) enum Work {
    Commit {
        label: Option<Label>,
        writes: Vec<Prepared>,
        stage: Stage,
    },
    /// Looks keys of a Unique Key table up (ascending, each once).
    Find {
        table: u64,
        version: u32,
        keys: Keys,
        stage: Stage,
    },
    Ddl {
        label: Option<Label>,
        ddl: Vec<Ddl>,
        now_micros: i64,
    },
    /// New rows go into new layers, so that the present ones can be flushed.
    Seal,
    /// The rows of these layers and segments are in a new segment.
    Install {
        table: u64,
        moved: Vec<Moved>,
        segment: Option<SegmentMeta>,
    },
    Checkpoint,
}

pub(crate) struct Command {
    pub(crate) work: Work,
    pub(crate) reply: oneshot::Sender<Result<Done>>,
}

/// Rows by where they are.
pub(crate) type Dead = Vec<(Place, RoaringBitmap)>;

/// Keys of the delta's layers of one table, and the layer that grows.
#[derive(Default)]
struct TableKeys {
    layers: HashMap<u64, LayerKeys>,
    open: Option<u64>,
}

pub(crate) struct Writer {
    shared: Arc<Shared>,
    log: Log,
    head: Snapshot,
    keys: HashMap<u64, TableKeys>,
    next_layer: u64,
    /// The log file in which each live layer begins.
    layer_files: HashMap<u64, u64>,
    staged: Staged,
    /// Of this group.
    labels: HashSet<Label>,
    retired: Vec<Arc<Segment>>,
    kept: Vec<Arc<Segment>>,
}

impl Writer {
    /// What recovery has found.
    pub(crate) fn first_version(&self) -> Snapshot {
        self.head.clone()
    }

    pub(crate) fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut waiting: Option<Command> = None;
        loop {
            let Some(first) = waiting.take().or_else(|| commands.blocking_recv()) else { return self.end() };
            let mut group = Vec::new();
            let mut replies = Vec::new();
            let mut next = Some(first);
            while let Some(command) = next.take() {
                if matches!(command.work, Work::Checkpoint | Work::Seal) && !replies.is_empty() {
                    waiting = Some(command);
                    break;
                }
                let alone = matches!(command.work, Work::Checkpoint | Work::Seal);
                let done = match self.shared.poisoned() {
                    Some(error) => Err(error),
                    None => self.execute(command.work, &mut group),
                };
                replies.push((command.reply, done));
                if alone || replies.len() == GROUP || group.len() > GROUP_BYTES {
                    break;
                }
                next = commands.try_recv().ok();
            }
            let durable = self.publish(&group);
            for (reply, done) in replies {
                let done = done.and_then(|d| durable.clone().map(|()| d));
                // Whoever asked may have gone.
                let _ = reply.send(done);
            }
        }
    }

    /// An empty record says that all before it was durable, and a checkpoint that it was there: after an orderly end
    /// damage to the last transactions cannot pass for a write that was cut short.
    fn end(mut self) {
        if self.shared.poisoned().is_some() || self.log.next == 1 {
            return;
        }
        let mut ended = Ok(());
        if !self.log.is_empty() {
            let mut group = Vec::new();
            self.log.frame(&mut group, &record::begin(None));
            ended = self.log.write(&group);
        }
        if let Err(error) = ended.and_then(|()| self.checkpoint()) {
            tracing::warn!(%error, "the log could not be ended");
        }
    }

    /// Makes the group durable and then visible.
    fn publish(&mut self, group: &[u8]) -> Result<()> {
        if group.is_empty() {
            return Ok(());
        }
        self.kept.drain(..).for_each(|s| s.keep());
        if let Err(e) = self.log.write(group) {
            return Err(self.shared.poison(e));
        }
        let mut head = self.head.clone();
        head.version = self.log.next - 1;
        self.shared.publish(head, self.labels.drain());
        self.retired.drain(..).for_each(|s| s.retire());
        self.shared.note_log_bytes(self.log.bytes);
        Ok(())
    }

    fn execute(&mut self, work: Work, group: &mut Vec<u8>) -> Result<Done> {
        match work {
            Work::Commit { label, writes, stage } => {
                if label.as_ref().is_some_and(|l| self.known(l)) {
                    return Ok(Done::Yes);
                }
                match stage {
                    Stage::Part(part) => self.stage(&part, writes),
                    stage => self.commit(label, writes, &stage, group),
                }
            }
            Work::Find { table, version, keys, stage } => self.find(table, version, &keys, &stage),
            Work::Ddl { label, ddl, now_micros } => {
                if label.as_ref().is_some_and(|l| self.known(l)) {
                    return Ok(Done::Yes);
                }
                self.ddl(label, &ddl, now_micros, group)
            }
            Work::Seal => {
                self.keys.values_mut().for_each(|k| k.open = None);
                self.shared.seal_layers_below(self.next_layer);
                self.log.roll().map_err(|e| self.shared.poison(e)).map(|()| Done::Yes)
            }
            Work::Install { table, moved, segment } => self.install(table, &moved, segment, group),
            Work::Checkpoint => self.checkpoint().map(|()| Done::Yes),
        }
    }

    fn known(&self, label: &Label) -> bool {
        self.labels.contains(label) || self.shared.label_known(label)
    }

    /// Frames the record and remembers its label.
    fn log(&mut self, group: &mut Vec<u8>, label: Option<Label>, body: &[u8]) {
        self.log.frame(group, body);
        self.labels.extend(label);
    }

    /// Whether the writes were prepared for the tables as they are.
    fn current(&self, writes: &[Prepared]) -> Result<bool> {
        let mut tables = HashSet::new();
        for write in writes {
            let Some(view) = self.head.views.get(&write.table) else { return Ok(false) };
            if view.table.version != write.version || write.seen.is_some_and(|seen| seen != view.seen()) {
                return Ok(false);
            }
            if !tables.insert(write.table) {
                return Err(Error::internal("two writes to one table in one transaction").with("table", write.table));
            }
        }
        Ok(true)
    }

    fn commit(
        &mut self,
        label: Option<Label>,
        writes: Vec<Prepared>,
        stage: &Stage,
        group: &mut Vec<u8>,
    ) -> Result<Done> {
        // Everything that can fail comes before the first change.
        if !self.current(&writes)? {
            return Ok(Done::Stale);
        }
        let mut body = record::begin(label.as_ref().map(|l| l.0.as_str()));
        let mut base = self.head.clone();
        base.version = self.log.next;
        let mut kept = Vec::new();
        self.staged.publish(stage, &mut base, &mut body, &mut kept)?;
        let mut resolved = Vec::with_capacity(writes.len());
        for write in &writes {
            let Some(view) = base.views.get(&write.table) else { return Ok(Done::Stale) };
            let view = self.staged.without_dead(write, view, stage);
            let Some(dead) = self.resolve(write, &view)? else { return Ok(Done::Stale) };
            let claimed = self.staged.claimed(write, &view, stage, |view, found| self.locate(write, view, found))?;
            resolved.push((dead, claimed));
        }
        self.head = base;
        self.kept.append(&mut kept);
        for (write, (dead, claimed)) in writes.into_iter().zip(resolved) {
            let table = write.table;
            // Half a transaction in the newest version could not be taken back.
            let applied = self.bury(table, dead, &mut body).and_then(|()| self.append(write, &mut body));
            if let Some((place, first)) = applied.map_err(|e| self.shared.poison(e))? {
                self.staged.claim(table, claimed, place, first);
            }
        }
        self.staged.finish(stage);
        self.log(group, label, &body);
        Ok(Done::Yes)
    }

    /// Puts a part of a transaction aside, durable only when it is published.
    fn stage(&mut self, part: &stage::Part, writes: Vec<Prepared>) -> Result<Done> {
        if !self.current(&writes)? {
            return Ok(Done::Stale);
        }
        if !self.staged.begin(part)? {
            return Ok(Done::Yes);
        }
        let mut resolved = Vec::with_capacity(writes.len());
        for write in &writes {
            let Some(base) = self.head.views.get(&write.table) else { return Ok(Done::Stale) };
            self.staged.check_alone(write, part).map_err(|e| e.with("table", &base.table.name))?;
            let view = self.staged.upon(base, &Stage::Part(part.clone()))?;
            let Some(dead) = self.resolve(write, &view)? else { return Ok(Done::Stale) };
            resolved.push(dead);
        }
        self.staged.check_room(part, &writes, self.shared.options.staged_bytes)?;
        for (write, dead) in writes.into_iter().zip(resolved) {
            self.staged.add(part, write, dead);
        }
        self.staged.end(part);
        Ok(Done::Yes)
    }

    fn find(&self, table: u64, version: u32, keys: &Keys, stage: &Stage) -> Result<Done> {
        let Some(base) = self.head.views.get(&table).filter(|v| v.table.version == version) else {
            return Ok(Done::Stale);
        };
        let view = self.staged.upon(base, stage)?;
        let mut places = vec![None; keys.len()];
        self.locate_keys(&view, keys, |k, place, row| places[k as usize] = Some((place, row)))?;
        Ok(Done::Found(Found { view, places }))
    }

    /// The live rows of `view` that die with this write; `None` when the rows have to be hashed again first.
    fn resolve(&self, write: &Prepared, view: &TableView) -> Result<Option<Dead>> {
        let mut out: Dead = Vec::new();
        let mut found = |_, place, row| match out.last_mut() {
            Some((last, dead)) if *last == place => {
                dead.insert(row);
            }
            _ => out.push((place, RoaringBitmap::from_iter([row]))),
        };
        match &write.puts {
            Puts::Nowhere => {}
            Puts::Keyed(_) => self.locate_keys(view, &write.keys, found)?,
            Puts::Multiset { deletes, .. } if write.keys.len() > 0 => {
                let old = |s: &SegmentView| s.segment.meta.shape != view.table.shape && s.live_rows() > 0;
                if view.segments.iter().any(old) {
                    return Ok(None);
                }
                self.locate_rows(view, &write.keys, deletes, &mut found)?;
            }
            Puts::Multiset { .. } => {}
        }
        Ok(Some(out))
    }

    fn locate(&self, write: &Prepared, view: &TableView, found: &mut dyn FnMut(u32, Place, u32)) -> Result<()> {
        match &write.puts {
            Puts::Keyed(_) => self.locate_keys(view, &write.keys, found),
            Puts::Nowhere | Puts::Multiset { .. } => Ok(()),
        }
    }

    /// Finds the live row of each key.
    fn locate_keys(&self, view: &TableView, keys: &Keys, mut found: impl FnMut(u32, Place, u32)) -> Result<()> {
        let mut wanted: Vec<u32> = (0..keys.len() as u32).collect();
        for layer in view.layers.iter().rev() {
            let Some(index) = self.layer_keys(view, layer) else { continue };
            wanted.retain(|k| match index.get(keys.get(*k as usize)) {
                Some(row) if !layer.dead.contains(row) => {
                    found(*k, Place::Layer(layer.id), row);
                    false
                }
                _ => true,
            });
        }
        for view in view.segments.iter().rev().filter(|v| v.live_rows() > 0) {
            if wanted.is_empty() {
                break;
            }
            search(view, keys, &mut wanted, &mut found)?;
        }
        Ok(())
    }

    /// Finds so many live rows of each hash.
    fn locate_rows(
        &self,
        view: &TableView,
        hashes: &Keys,
        counts: &[u32],
        mut found: impl FnMut(u32, Place, u32),
    ) -> Result<()> {
        let mut left = counts.to_vec();
        let mut wanted: Vec<u32> = (0..hashes.len() as u32).collect();
        for layer in view.layers.iter().rev() {
            let Some(index) = self.layer_keys(view, layer) else { continue };
            wanted.retain(|k| {
                let left = &mut left[*k as usize];
                let live = index.all(hashes.get(*k as usize)).filter(|row| !layer.dead.contains(*row));
                for row in live.take(*left as usize) {
                    *left -= 1;
                    found(*k, Place::Layer(layer.id), row);
                }
                *left > 0
            });
        }
        for view in view.segments.iter().rev().filter(|v| v.live_rows() > 0) {
            if wanted.is_empty() {
                return Ok(());
            }
            let place = Place::Segment(view.segment.meta.id);
            view.segment.with_index(|index| {
                index.lookup_rows(hashes, &wanted, |k, row| {
                    let left = &mut left[k as usize];
                    if !view.deletes.contains(row) {
                        *left -= 1;
                        found(k, place, row);
                    }
                    *left > 0
                })
            })?;
            wanted.retain(|k| left[*k as usize] > 0);
        }
        match wanted.len() {
            0 => Ok(()),
            n => Err(Error::data(format!("{n} rows that are to be deleted are not there"))
                .with("table", &view.table.name)
                .hint(RESYNC)),
        }
    }

    fn layer_keys(&self, view: &TableView, layer: &LayerView) -> Option<&LayerKeys> {
        self.keys.get(&view.table.id)?.layers.get(&layer.id)
    }

    /// Marks rows as deleted.
    fn bury(&mut self, table: u64, dead: Vec<(Place, RoaringBitmap)>, body: &mut Vec<u8>) -> Result<()> {
        for (place, rows) in dead {
            record::put_dead(body, table, place, &rows);
            bury(view_mut(&mut self.head, table)?, place, &rows);
        }
        Ok(())
    }

    /// Returns where the new rows are: the place, and the number of the first.
    fn append(&mut self, write: Prepared, body: &mut Vec<u8>) -> Result<Option<(Place, u32)>> {
        let to = match write.rows {
            None => None,
            Some(NewRows::Segment(segment)) => {
                record::put_add(body, &segment.meta)?;
                self.kept.push(Arc::clone(&segment));
                let place = Place::Segment(segment.meta.id);
                let view = view_mut(&mut self.head, write.table)?;
                view.segments.push(SegmentView { segment, deletes: Arc::default() });
                Some((place, 0))
            }
            Some(NewRows::Delta(rows, bytes)) => {
                let keys = self.keys.entry(write.table).or_default();
                let id = *keys.open.get_or_insert_with(|| {
                    self.next_layer += 1;
                    self.layer_files.insert(self.next_layer - 1, self.log.number);
                    self.next_layer - 1
                });
                let index = keys.layers.entry(id).or_default();
                let layer = layer_mut(view_mut(&mut self.head, write.table)?, id);
                let first = layer.rows;
                record::put_rows(body, (write.table, id, first), &bytes);
                match &write.puts {
                    Puts::Nowhere => {}
                    Puts::Keyed(places) => places.iter().for_each(|k| index.push(write.keys.get(*k as usize))),
                    Puts::Multiset { hashes, .. } => (0..hashes.len()).for_each(|i| index.push_also(hashes.get(i))),
                }
                layer.append(rows)?;
                Some((Place::Layer(id), first))
            }
        };
        let written = self.log.next;
        let view = view_mut(&mut self.head, write.table)?;
        view.written = written;
        view.recount();
        Ok(to)
    }

    fn ddl(&mut self, label: Option<Label>, ddl: &[Ddl], now_micros: i64, group: &mut Vec<u8>) -> Result<Done> {
        let mut catalog = self.head.catalog.as_ref().clone();
        let mut edits = Vec::new();
        for step in ddl {
            for edit in catalog.plan(step, now_micros)? {
                catalog.apply(&edit);
                edits.push(edit);
            }
        }
        if edits.is_empty() && label.is_none() {
            return Ok(Done::Yes);
        }
        let mut body = record::begin(label.as_ref().map(|l| l.0.as_str()));
        for edit in &edits {
            record::put_edit(&mut body, edit)?;
        }
        for edit in &edits {
            let shape = |head: &Snapshot, id| head.views.get(&id).map(|v| v.table.shape);
            match edit {
                Edit::RemoveTable(id) | Edit::ClearTable(id) => {
                    self.retired.extend(apply_edit(&mut self.head, edit));
                    self.keys.remove(id);
                    self.staged.forget(*id);
                    if let Some(view) = self.head.views.get_mut(id).map(Arc::make_mut) {
                        view.written = self.log.next;
                    }
                }
                Edit::PutTable(table) if shape(&self.head, table.id).is_some_and(|s| s != table.shape) => {
                    apply_edit(&mut self.head, edit);
                    // The hash table of what is in memory is made anew at once; segments wait until a delete needs them.
                    let indexed = view_mut(&mut self.head, table.id).and_then(|view| index_layers(view));
                    let layers = indexed.map_err(|e| self.shared.poison(e))?;
                    self.keys.entry(table.id).or_default().layers = layers;
                }
                _ => drop(apply_edit(&mut self.head, edit)),
            }
        }
        self.log(group, label, &body);
        Ok(Done::Yes)
    }

    /// Puts a merged segment in the place of what was merged; the deletes that landed meanwhile go with it.
    fn install(&mut self, table: u64, moved: &[Moved], meta: Option<SegmentMeta>, group: &mut Vec<u8>) -> Result<Done> {
        let Some(view) = self.head.views.get(&table) else { return Ok(Done::Stale) };
        let mut late = RoaringBitmap::new();
        for m in moved {
            match dead_rows(view, m.place) {
                Some(dead) => late.extend(m.late(dead)),
                None => return Ok(Done::Stale),
            }
        }
        let mut body = record::begin(None);
        let segment = meta.map(|meta| Segment::new(meta, &self.shared));
        if let Some(segment) = &segment {
            record::put_add(&mut body, &segment.meta)?;
            if !late.is_empty() {
                record::put_dead(&mut body, table, Place::Segment(segment.meta.id), &late);
            }
        }
        moved.iter().for_each(|m| record::put_remove(&mut body, table, m.place));
        self.staged.moved(table, moved, segment.as_ref().map(|s| s.meta.id));
        let view = view_mut(&mut self.head, table)?;
        for m in moved {
            self.retired.extend(remove(view, m.place));
            if let (Place::Layer(id), Some(keys)) = (m.place, self.keys.get_mut(&table)) {
                keys.layers.remove(&id);
            }
        }
        if let Some(segment) = segment {
            view.segments.push(SegmentView { segment, deletes: Arc::new(late) });
        }
        view.recount();
        self.log(group, None, &body);
        Ok(Done::Yes)
    }

    /// Writes the manifest and removes the log files that it makes needless.
    fn checkpoint(&mut self) -> Result<()> {
        let live: HashSet<u64> = self.head.views.values().flat_map(|v| v.layers.iter().map(|l| l.id)).collect();
        self.layer_files.retain(|layer, _| live.contains(layer));
        let log_file = self.layer_files.values().copied().min().unwrap_or(self.log.number).min(self.log.number);
        let mut manifest = Manifest::empty();
        manifest.version = self.log.next - 1;
        manifest.log_file = log_file;
        manifest.next_segment = self.shared.peek_segment_id();
        manifest.next_layer = self.next_layer;
        manifest.catalog = self.head.catalog.as_ref().clone();
        for (id, view) in &self.head.views {
            let segments = view.segments.iter().map(|s| s.segment.meta.clone()).collect();
            let layers = view.layers.iter().map(|l| l.id).collect();
            manifest.tables.push(TableFiles { table: *id, segments, layers });
            manifest.deletes.extend(view.segments.iter().map(|s| s.deletes.as_ref().clone()));
        }
        manifest.labels = self.shared.labels();
        manifest.write(&self.shared.dir).map_err(|e| match e {
            Unwritten::Again(e) => e,
            Unwritten::Unknown(e) => self.shared.poison(e),
        })?;
        self.log.forget_before(log_file)?;
        self.shared.note_log_bytes(self.log.bytes);
        Ok(())
    }
}

/// Finds the live rows of a segment that have one of the wanted keys; those are then no longer wanted.
fn search(
    view: &SegmentView,
    keys: &Keys,
    wanted: &mut Vec<u32>,
    found: &mut impl FnMut(u32, Place, u32),
) -> Result<()> {
    let meta = &view.segment.meta;
    let from = wanted.partition_point(|k| keys.get(*k as usize) < meta.min_key.as_slice());
    let to = wanted.partition_point(|k| keys.get(*k as usize) <= meta.max_key.as_slice());
    if from >= to {
        return Ok(());
    }
    let mut here = HashSet::new();
    view.segment.with_index(|index| {
        index.lookup(keys, &wanted[from..to], |k, row| {
            if !view.deletes.contains(row) {
                here.insert(k);
                found(k, Place::Segment(meta.id), row);
            }
        })
    })?;
    if !here.is_empty() {
        wanted.retain(|k| !here.contains(k));
    }
    Ok(())
}

/// The keys of a table's layers.
fn index_layers(view: &TableView) -> Result<HashMap<u64, LayerKeys>> {
    let table: &Table = &view.table;
    let mut out = HashMap::new();
    if table.model == Model::Duplicate {
        return Ok(out);
    }
    for layer in &view.layers {
        let index: &mut LayerKeys = out.entry(layer.id).or_default();
        for chunk in &layer.chunks {
            let hashed = if table.model == Model::Multiset { &table.columns[..] } else { table.key() };
            let columns = hashed.iter().map(|c| value::column_of(c, &chunk.rows));
            let keys = key::of_rows(table, &columns.collect::<Result<Vec<_>>>()?)?;
            match table.model {
                Model::Multiset => (0..keys.len()).for_each(|i| index.push_also(keys.get(i))),
                _ => (0..keys.len()).for_each(|i| index.push(keys.get(i))),
            }
        }
    }
    Ok(out)
}

pub(crate) fn view_mut(head: &mut Snapshot, table: u64) -> Result<&mut TableView> {
    head.views
        .get_mut(&table)
        .map(Arc::make_mut)
        .ok_or_else(|| Error::internal("a table has no rows").with("table", table))
}

fn layer_mut(view: &mut TableView, id: u64) -> &mut LayerView {
    let at = view.layers.iter().position(|l| l.id == id).unwrap_or_else(|| {
        view.layers.push(LayerView::new(id));
        view.layers.len() - 1
    });
    &mut view.layers[at]
}

fn dead_rows(view: &TableView, place: Place) -> Option<&RoaringBitmap> {
    match place {
        Place::Layer(id) => view.layers.iter().find(|l| l.id == id).map(|l| l.dead.as_ref()),
        Place::Segment(id) => view.segments.iter().find(|s| s.segment.meta.id == id).map(|s| s.deletes.as_ref()),
    }
}

/// Marks rows as deleted; false when the place is not there.
pub(crate) fn bury(view: &mut TableView, place: Place, rows: &RoaringBitmap) -> bool {
    let dead = match place {
        Place::Layer(id) => view.layers.iter_mut().find(|l| l.id == id).map(|l| &mut l.dead),
        Place::Segment(id) => view.segments.iter_mut().find(|s| s.segment.meta.id == id).map(|s| &mut s.deletes),
    };
    let Some(dead) = dead.map(Arc::make_mut) else { return false };
    // A union rewrites every container that it touches; a few rows are cheaper one by one.
    match rows.len() {
        0..1024 => dead.extend(rows),
        _ => *dead |= rows,
    }
    true
}

fn remove(view: &mut TableView, place: Place) -> Option<Arc<Segment>> {
    match place {
        Place::Layer(id) => {
            view.layers.retain(|l| l.id != id);
            None
        }
        Place::Segment(id) => {
            let at = view.segments.iter().position(|s| s.segment.meta.id == id)?;
            Some(view.segments.remove(at).segment)
        }
    }
}

/// Applies data definition to a version; returns the segments that are gone.
fn apply_edit(head: &mut Snapshot, edit: &Edit) -> Vec<Arc<Segment>> {
    Arc::make_mut(&mut head.catalog).apply(edit);
    let gone = match edit {
        Edit::RemoveTable(id) => head.views.remove(id),
        Edit::ClearTable(id) => head
            .catalog
            .tables
            .get(id)
            .cloned()
            .and_then(|table| head.views.insert(*id, Arc::new(TableView::new(table)))),
        Edit::PutTable(table) => {
            let table = Arc::new(table.clone());
            let view = head.views.entry(table.id).or_insert_with(|| Arc::new(TableView::new(Arc::clone(&table))));
            Arc::make_mut(view).table = table;
            None
        }
        Edit::PutDatabase(_) | Edit::RemoveDatabase(_) => None,
    };
    let names = head.catalog.tables.values().map(|t| (t.name.clone(), t.id)).collect();
    head.names = Arc::new(names);
    gone.map(|v| v.segments.iter().map(|s| Arc::clone(&s.segment)).collect()).unwrap_or_default()
}

/// What replay builds up.
pub(crate) struct Recovery {
    pub(crate) head: Snapshot,
    pub(crate) labels: Labels,
    next_layer: u64,
    layer_files: HashMap<u64, u64>,
    /// Layers that the manifest names: their rows are in records from before it.
    listed: HashSet<u64>,
}

impl Recovery {
    pub(crate) fn new(shared: &Shared, manifest: Manifest) -> Self {
        let mut head = Snapshot { version: manifest.version, ..Snapshot::default() };
        head.names = Arc::new(manifest.catalog.tables.values().map(|t| (t.name.clone(), t.id)).collect());
        let mut deletes = manifest.deletes.into_iter();
        let mut listed = HashSet::new();
        for files in manifest.tables {
            let Some(table) = manifest.catalog.tables.get(&files.table) else { continue };
            let mut view = TableView::new(Arc::clone(table));
            for meta in files.segments {
                let segment = Segment::new(meta, shared);
                view.segments.push(SegmentView { segment, deletes: Arc::new(deletes.next().unwrap_or_default()) });
            }
            view.layers.extend(files.layers.iter().map(|id| LayerView::new(*id)));
            listed.extend(files.layers);
            head.views.insert(files.table, Arc::new(view));
        }
        head.catalog = Arc::new(manifest.catalog);
        Recovery { head, labels: manifest.labels, next_layer: manifest.next_layer, layer_files: HashMap::new(), listed }
    }

    /// Applies a record; of one that the manifest contains only the rows of layers that live on.
    pub(crate) fn apply(&mut self, shared: &Shared, file: u64, lsn: u64, body: &[u8]) -> Result<()> {
        let contained = lsn <= self.head.version;
        let (label, entries) = record::decode(body).map_err(|e| e.with("record", lsn))?;
        for entry in entries {
            match entry {
                Entry::Rows { table, layer, first, rows } => {
                    if contained && !self.listed.contains(&layer) {
                        continue;
                    }
                    let Some(view) = self.head.views.get_mut(&table).map(Arc::make_mut) else { continue };
                    let layer = layer_mut(view, layer);
                    if layer.rows != first {
                        return Err(Error::corrupt("rows of the log do not follow one another").with("record", lsn));
                    }
                    layer.append_plain(rows);
                    self.layer_files.entry(layer.id).or_insert(file);
                    self.next_layer = self.next_layer.max(layer.id + 1);
                }
                Entry::Dead { table, place, rows } => {
                    if let Some(view) = self.head.views.get_mut(&table) {
                        let there = bury(Arc::make_mut(view), place, &rows);
                        if !there && !contained {
                            return Err(Error::corrupt("the log deletes rows that are not there").with("record", lsn));
                        }
                    }
                }
                Entry::Edit(edit) if !contained => {
                    apply_edit(&mut self.head, &edit);
                }
                Entry::Add(meta) if !contained => {
                    shared.raise_segment_id(meta.id + 1);
                    if let Some(view) = self.head.views.get_mut(&meta.table) {
                        let segment = Segment::new(meta, shared);
                        Arc::make_mut(view).segments.push(SegmentView { segment, deletes: Arc::default() });
                    }
                }
                Entry::Remove { table, place } if !contained => {
                    if let Some(view) = self.head.views.get_mut(&table) {
                        remove(Arc::make_mut(view), place);
                    }
                }
                Entry::Edit(_) | Entry::Add(_) | Entry::Remove { .. } => {}
            }
        }
        if !contained {
            self.head.version = lsn;
            if let Some(label) = label {
                self.labels.insert(label);
            }
        }
        Ok(())
    }

    /// The writer that goes on from here.
    pub(crate) fn finish(mut self, shared: &Arc<Shared>, log: Log) -> Result<Writer> {
        let mut keys: HashMap<u64, TableKeys> = HashMap::new();
        for (id, view) in &mut self.head.views {
            let view = Arc::make_mut(view);
            view.layers.iter_mut().try_for_each(LayerView::coalesce)?;
            view.recount();
            keys.insert(*id, TableKeys { layers: index_layers(view)?, open: None });
        }
        Ok(Writer {
            shared: Arc::clone(shared),
            log,
            head: self.head,
            keys,
            next_layer: self.next_layer,
            layer_files: self.layer_files,
            staged: Staged::default(),
            labels: HashSet::new(),
            retired: Vec::new(),
            kept: Vec::new(),
        })
    }
}
