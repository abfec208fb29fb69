//! Transactions larger than the engine's buffer come in parts. A part is put aside: its new rows are segments that no
//! version names, and the rows that it deletes are only noted; the flush that completes the transaction publishes all of
//! them at once. What is put aside is not durable: after a restart the transaction is written again from its beginning,
//! and left-over files are removed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use freshet_core::{Error, ErrorKind, Result, Writer};
use roaring::RoaringBitmap;

use super::merge::Moved;
use super::prepare::{NewRows, Prepared, Puts};
use super::record::{self, Place};
use super::segment::Segment;
use super::version::{SegmentView, Snapshot, TableView};
use super::writer::{Dead, bury, view_mut};
use crate::catalog::Model;

/// What a write is of its transaction.
#[derive(Debug, Clone)]
pub enum Stage {
    /// All of it.
    Whole,
    /// A part; it becomes visible with the last one.
    Part(Part),
    /// The end of one of which so many parts have been put aside; with 0, whatever else the writer has put aside is dropped.
    Last {
        /// Who writes.
        writer: Writer,
        /// How many parts came before.
        parts: u32,
    },
}

/// A part of a transaction.
#[derive(Debug, Clone)]
pub struct Part {
    /// Who writes.
    pub writer: Writer,
    /// Ordinal; number 0 drops what the writer had put aside before.
    pub number: u32,
}

impl Stage {
    /// The writer whose earlier parts count as written, and how many there are.
    fn behind(&self) -> Option<(&Writer, u32)> {
        match self {
            Stage::Part(Part { writer, number: n }) | Stage::Last { writer, parts: n } if *n > 0 => Some((writer, *n)),
            _ => None,
        }
    }

    fn writer(&self) -> Option<Lane> {
        match self {
            Stage::Whole => None,
            Stage::Part(Part { writer, .. }) | Stage::Last { writer, .. } => Some(lane(writer)),
        }
    }
}

/// Job and lane.
type Lane = (String, u32);

fn lane(writer: &Writer) -> Lane {
    (writer.job.clone(), writer.lane)
}

/// All that is put aside.
#[derive(Default)]
pub(crate) struct Staged {
    transactions: HashMap<Lane, Transaction>,
}

struct Transaction {
    incarnation: u64,
    parts: u32,
    tables: BTreeMap<u64, Aside>,
}

/// Of one table: new rows, and rows of the newest version that are to die.
#[derive(Default)]
struct Aside {
    segments: Vec<SegmentView>,
    dead: BTreeMap<Place, RoaringBitmap>,
}

/// Of the new rows of a write, those whose keys the transaction of a lane replaces or deletes.
pub(crate) type Claims = Vec<(Lane, Vec<u32>)>;

impl Staged {
    fn transaction(&self, stage: &Stage) -> Result<Option<&Transaction>> {
        let Some((writer, parts)) = stage.behind() else { return Ok(None) };
        // A part that is here already may come again.
        let again = matches!(stage, Stage::Part(_));
        match self.transactions.get(&lane(writer)).filter(|t| t.incarnation == writer.incarnation) {
            Some(t) if t.parts == parts || again && t.parts > parts => Ok(Some(t)),
            other => Err(Error::internal(format!(
                "a transaction goes on behind its part {parts}, but {} parts of it are here",
                other.map_or(0, |t| t.parts)
            ))
            .with("job", &writer.job)
            .hint("resume the job: it reads the transaction again")),
        }
    }

    /// A table as the next rows of this transaction find it.
    pub(crate) fn upon(&self, base: &Arc<TableView>, stage: &Stage) -> Result<Arc<TableView>> {
        let Some(aside) = self.transaction(stage)?.and_then(|t| t.tables.get(&base.table.id)) else {
            return Ok(Arc::clone(base));
        };
        let mut view = base.as_ref().clone();
        for (place, rows) in &aside.dead {
            bury(&mut view, *place, rows);
        }
        view.segments.extend(aside.segments.iter().cloned());
        Ok(Arc::new(view))
    }

    /// Begins to put a part aside; false when it is there already.
    pub(crate) fn begin(&mut self, part: &Part) -> Result<bool> {
        if part.number == 0 {
            let fresh = Transaction { incarnation: part.writer.incarnation, parts: 0, tables: BTreeMap::new() };
            self.transactions.insert(lane(&part.writer), fresh);
            return Ok(true);
        }
        let there = self.transactions.get(&lane(&part.writer));
        if there.is_some_and(|t| t.incarnation == part.writer.incarnation && t.parts > part.number) {
            return Ok(false);
        }
        self.transaction(&Stage::Part(part.clone())).map(|_| true)
    }

    /// Two transactions in parts on one table would not know of each other's rows.
    ///
    /// # Errors
    /// `SinkUnavailable` when another has put rows aside for the write's table.
    pub(crate) fn check_alone(&self, write: &Prepared, part: &Part) -> Result<()> {
        match self.others(write, &Stage::Part(part.clone())).next() {
            None => Ok(()),
            Some(((job, _), _)) => Err(Error::new(
                ErrorKind::SinkUnavailable,
                format!("job {job} is writing a large transaction to this table"),
            )
            .hint("let only one job write to a table")),
        }
    }

    /// Puts a write aside, with the rows that die by it.
    pub(crate) fn add(&mut self, part: &Part, write: Prepared, dead: Dead) {
        let Some(transaction) = self.transactions.get_mut(&lane(&part.writer)) else { return };
        let aside = transaction.tables.entry(write.table).or_default();
        for (place, rows) in dead {
            match aside.segments.iter_mut().find(|s| Place::Segment(s.segment.meta.id) == place) {
                Some(mine) => *Arc::make_mut(&mut mine.deletes) |= rows,
                None => *aside.dead.entry(place).or_default() |= rows,
            }
        }
        if let Some(NewRows::Segment(segment)) = write.rows {
            aside.segments.push(SegmentView { segment, deletes: Arc::default() });
        }
    }

    /// Bytes of the files that are put aside.
    fn bytes(&self) -> u64 {
        let asides = self.transactions.values().flat_map(|t| t.tables.values());
        asides.flat_map(|a| &a.segments).map(|s| s.segment.meta.data_len).sum()
    }

    /// Drops a transaction whose next part would take more of the disk than all may.
    ///
    /// # Errors
    /// `Io` then.
    pub(crate) fn check_room(&mut self, part: &Part, writes: &[Prepared], limit: u64) -> Result<()> {
        let new = writes.iter().map(|w| if let Some(NewRows::Segment(s)) = &w.rows { s.meta.data_len } else { 0 });
        let needed = self.bytes() + new.sum::<u64>();
        if needed <= limit {
            return Ok(());
        }
        self.transactions.remove(&lane(&part.writer));
        Err(Error::io(format!("a transaction takes {} MB of the disk before its end, more than it may", needed >> 20))
            .with("job", &part.writer.job)
            .with("limit", format!("{} MB", limit >> 20))
            .hint("give more with --transaction-disk SIZE and resume the job: it reads the transaction again"))
    }

    pub(crate) fn end(&mut self, part: &Part) {
        if let Some(transaction) = self.transactions.get_mut(&lane(&part.writer)) {
            transaction.parts += 1;
        }
    }

    /// Makes what was put aside for the transaction that ends here a part of `head` and of the record.
    pub(crate) fn publish(
        &self,
        stage: &Stage,
        head: &mut Snapshot,
        body: &mut Vec<u8>,
        kept: &mut Vec<Arc<Segment>>,
    ) -> Result<()> {
        let Some(transaction) = self.transaction(stage)? else { return Ok(()) };
        for (table, aside) in &transaction.tables {
            let written = head.version;
            let view = view_mut(head, *table)?;
            for (place, rows) in &aside.dead {
                record::put_dead(body, *table, *place, rows);
                bury(view, *place, rows);
            }
            for mine in &aside.segments {
                record::put_add(body, &mine.segment.meta)?;
                if !mine.deletes.is_empty() {
                    record::put_dead(body, *table, Place::Segment(mine.segment.meta.id), &mine.deletes);
                }
                kept.push(Arc::clone(&mine.segment));
                view.segments.push(mine.clone());
            }
            view.written = written;
            view.recount();
        }
        Ok(())
    }

    /// The writer has completed what it had put aside, or begun it again.
    pub(crate) fn finish(&mut self, stage: &Stage) {
        if let Stage::Last { writer, .. } = stage {
            self.transactions.remove(&lane(writer));
        }
    }

    /// The table's rows are gone.
    pub(crate) fn forget(&mut self, table: u64) {
        for transaction in self.transactions.values_mut() {
            transaction.tables.remove(&table);
        }
    }

    /// Rows have gone from these places into a new segment.
    pub(crate) fn moved(&mut self, table: u64, moved: &[Moved], to: Option<u64>) {
        for aside in self.transactions.values_mut().filter_map(|t| t.tables.get_mut(&table)) {
            for m in moved {
                let Some(rows) = aside.dead.remove(&m.place) else { continue };
                if let Some(to) = to {
                    let new = aside.dead.entry(Place::Segment(to)).or_default();
                    new.extend(rows.iter().filter_map(|row| m.new_row(row)));
                }
            }
        }
    }

    /// What others than this write's transaction have put aside for its table.
    fn others(&self, write: &Prepared, stage: &Stage) -> impl Iterator<Item = (&Lane, &Aside)> {
        let (mine, table) = (stage.writer(), write.table);
        let others = self.transactions.iter().filter(move |(lane, _)| Some(*lane) != mine.as_ref());
        others.filter_map(move |(lane, t)| Some((lane, t.tables.get(&table)?)))
    }

    /// A multiset as a write finds it: rows that others have noted as deleted are no longer there to be deleted.
    pub(crate) fn without_dead(&self, write: &Prepared, view: &Arc<TableView>, stage: &Stage) -> Arc<TableView> {
        let mut out = Arc::clone(view);
        if view.table.model == Model::Multiset {
            for (_, aside) in self.others(write, stage) {
                let out = Arc::make_mut(&mut out);
                for (place, rows) in &aside.dead {
                    bury(out, *place, rows);
                }
            }
        }
        out
    }

    /// The new rows of a write that others will replace or delete when they publish: as if those came behind it.
    pub(crate) fn claimed(
        &self,
        write: &Prepared,
        view: &TableView,
        stage: &Stage,
        locate: impl Fn(&TableView, &mut dyn FnMut(u32, Place, u32)) -> Result<()>,
    ) -> Result<Claims> {
        let Puts::Keyed(puts) = &write.puts else { return Ok(Vec::new()) };
        let mut out = Claims::new();
        for (lane, aside) in self.others(write, stage) {
            let mut keys = HashSet::new();
            locate(view, &mut |k, place, row| {
                if aside.dead.get(&place).is_some_and(|rows| rows.contains(row)) {
                    keys.insert(k);
                }
            })?;
            let mut new = TableView::new(Arc::clone(&view.table));
            new.segments.clone_from(&aside.segments);
            locate(&new, &mut |k, _, _| {
                keys.insert(k);
            })?;
            let rows = puts.iter().zip(0..).filter(|(k, _)| keys.contains(k)).map(|(_, row)| row);
            out.push((lane.clone(), rows.collect()));
        }
        Ok(out)
    }

    /// Notes claimed rows, the first of the write's being at `place` with number `first`.
    pub(crate) fn claim(&mut self, table: u64, claims: Claims, place: Place, first: u32) {
        for (lane, rows) in claims {
            if let Some(aside) = self.transactions.get_mut(&lane).and_then(|t| t.tables.get_mut(&table)) {
                aside.dead.entry(place).or_default().extend(rows.iter().map(|row| first + row));
            }
        }
    }
}
