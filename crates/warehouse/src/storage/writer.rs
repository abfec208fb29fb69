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
use super::manifest::{Labels, Manifest, TableFiles};
use super::merge::Moved;
use super::prepare::{NewRows, Prepared};
use super::record::{self, Entry, Place};
use super::segment::{Segment, SegmentMeta};
use super::value;
use super::version::{LayerView, SegmentView, Snapshot, TableView};
use crate::catalog::{Ddl, Edit, Model};

/// Commits that share one fsync, at most.
const GROUP: usize = 256;
const GROUP_BYTES: usize = 16 << 20;

/// What became of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Done {
    Yes,
    /// The table has changed since the write was prepared.
    Stale,
}

pub(crate) enum Work {
    Commit {
        label: Option<Label>,
        writes: Vec<Prepared>,
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

    /// An empty record says that all before it was durable: after an orderly end damage to the last transaction cannot
    /// pass for a write that was cut short.
    fn end(mut self) {
        if self.shared.poisoned().is_none() && !self.log.is_empty() {
            let mut group = Vec::new();
            self.log.frame(&mut group, &record::begin(None));
            if let Err(error) = self.log.write(&group) {
                tracing::warn!(%error, "the log could not be ended");
            }
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
            Work::Commit { label, writes } => {
                if label.as_ref().is_some_and(|l| self.known(l)) {
                    return Ok(Done::Yes);
                }
                self.commit(label, writes, group)
            }
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

    fn commit(&mut self, label: Option<Label>, writes: Vec<Prepared>, group: &mut Vec<u8>) -> Result<Done> {
        // Everything that can fail comes before the first change.
        let mut tables = HashSet::new();
        for write in &writes {
            let current = self.head.catalog.tables.get(&write.table);
            if current.is_none_or(|t| t.version != write.version) {
                return Ok(Done::Stale);
            }
            if !tables.insert(write.table) {
                return Err(Error::internal("two writes to one table in one transaction").with("table", write.table));
            }
        }
        let mut resolved = Vec::with_capacity(writes.len());
        for write in &writes {
            resolved.push(self.resolve(write)?);
        }
        let mut body = record::begin(label.as_ref().map(|l| l.0.as_str()));
        for (write, dead) in writes.into_iter().zip(resolved) {
            // Half a transaction in the newest version could not be taken back.
            let applied = self.bury(write.table, dead, &mut body).and_then(|()| self.append(write, &mut body));
            applied.map_err(|e| self.shared.poison(e))?;
        }
        self.log(group, label, &body);
        Ok(Done::Yes)
    }

    /// The live rows that have one of the write's keys.
    fn resolve(&self, write: &Prepared) -> Result<Vec<(Place, RoaringBitmap)>> {
        let mut out = Vec::new();
        let Some(view) = self.head.views.get(&write.table) else { return Ok(out) };
        let keys = &write.keys;
        let mut wanted: Vec<u32> = (0..keys.len() as u32).collect();
        for layer in view.layers.iter().rev() {
            let Some(index) = self.keys.get(&write.table).and_then(|k| k.layers.get(&layer.id)) else { continue };
            let mut dead = RoaringBitmap::new();
            wanted.retain(|k| match index.get(keys.get(*k as usize)) {
                Some(row) if !layer.dead.contains(row) => {
                    dead.insert(row);
                    false
                }
                _ => true,
            });
            if !dead.is_empty() {
                out.push((Place::Layer(layer.id), dead));
            }
        }
        for view in view.segments.iter().rev().filter(|v| v.live_rows() > 0) {
            if wanted.is_empty() {
                break;
            }
            let dead = find(view, keys, &mut wanted)?;
            if !dead.is_empty() {
                out.push((Place::Segment(view.segment.meta.id), dead));
            }
        }
        Ok(out)
    }

    /// Marks rows as deleted.
    fn bury(&mut self, table: u64, dead: Vec<(Place, RoaringBitmap)>, body: &mut Vec<u8>) -> Result<()> {
        for (place, rows) in dead {
            record::put_dead(body, table, place, &rows);
            bury(view_mut(&mut self.head, table)?, place, &rows);
        }
        Ok(())
    }

    fn append(&mut self, write: Prepared, body: &mut Vec<u8>) -> Result<()> {
        match write.rows {
            None => {}
            Some(NewRows::Segment(segment)) => {
                record::put_add(body, &segment.meta)?;
                self.kept.push(Arc::clone(&segment));
                let view = view_mut(&mut self.head, write.table)?;
                view.segments.push(SegmentView { segment, deletes: Arc::default() });
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
                record::put_rows(body, (write.table, id, layer.rows), &bytes);
                write.puts.iter().for_each(|k| index.push(write.keys.get(*k as usize)));
                layer.append(rows)?;
            }
        }
        view_mut(&mut self.head, write.table)?.recount();
        Ok(())
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
            self.retired.extend(apply_edit(&mut self.head, edit));
            if let Edit::RemoveTable(id) | Edit::ClearTable(id) = edit {
                self.keys.remove(id);
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
        let segment = meta.map(|meta| Segment::new(meta, &self.shared.segment_dir, &self.shared.cache));
        if let Some(segment) = &segment {
            record::put_add(&mut body, &segment.meta)?;
            if !late.is_empty() {
                record::put_dead(&mut body, table, Place::Segment(segment.meta.id), &late);
            }
        }
        moved.iter().for_each(|m| record::put_remove(&mut body, table, m.place));
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
        manifest.write(&self.shared.dir)?;
        self.log.forget_before(log_file)?;
        self.shared.note_log_bytes(self.log.bytes);
        Ok(())
    }
}

/// The live rows of a segment that have one of the wanted keys; those are then no longer wanted.
fn find(view: &SegmentView, keys: &Keys, wanted: &mut Vec<u32>) -> Result<RoaringBitmap> {
    let meta = &view.segment.meta;
    let from = wanted.partition_point(|k| keys.get(*k as usize) < meta.min_key.as_slice());
    let to = wanted.partition_point(|k| keys.get(*k as usize) <= meta.max_key.as_slice());
    let mut dead = RoaringBitmap::new();
    if from >= to {
        return Ok(dead);
    }
    let mut found = HashSet::new();
    view.segment.with_index(|index| {
        index.lookup(keys, &wanted[from..to], |k, row| {
            if !view.deletes.contains(row) {
                dead.insert(row);
                found.insert(k);
            }
        })
    })?;
    if !found.is_empty() {
        wanted.retain(|k| !found.contains(k));
    }
    Ok(dead)
}

fn view_mut(head: &mut Snapshot, table: u64) -> Result<&mut TableView> {
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
fn bury(view: &mut TableView, place: Place, rows: &RoaringBitmap) -> bool {
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
                let segment = Segment::new(meta, &shared.segment_dir, &shared.cache);
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
                        let segment = Segment::new(meta, &shared.segment_dir, &shared.cache);
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
            if view.table.model == Model::Duplicate {
                continue;
            }
            for layer in &view.layers {
                let index = keys.entry(*id).or_default().layers.entry(layer.id).or_default();
                for chunk in &layer.chunks {
                    let columns = view.table.key().iter().map(|c| value::column_of(c, &chunk.rows));
                    let encoded = key::encode(&columns.collect::<Result<Vec<_>>>()?)?;
                    (0..encoded.len()).for_each(|i| index.push(encoded.get(i)));
                }
            }
        }
        Ok(Writer {
            shared: Arc::clone(shared),
            log,
            head: self.head,
            keys,
            next_layer: self.next_layer,
            layer_files: self.layer_files,
            labels: HashSet::new(),
            retired: Vec::new(),
            kept: Vec::new(),
        })
    }
}
