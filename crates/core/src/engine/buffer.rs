//! What has been read and not yet flushed: rows by table up to the last commit, and the rows behind it whose commit is
//! still to come.

use std::collections::{BTreeMap, VecDeque};

use crate::batch::ChangeBatch;
use crate::connector::Commit;
use crate::error::Result;
use crate::schema::TableName;

/// Rows between two flushes.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    /// Complete transactions.
    complete: BTreeMap<TableName, Vec<ChangeBatch>>,
    /// Rows whose commit has not come yet.
    tail: VecDeque<ChangeBatch>,
    commit: Option<Commit>,
    rows: usize,
    bytes: usize,
    /// The complete transactions are folded already: nothing is added to them.
    folded: bool,
}

/// What one flush takes out of the buffer.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) commit: Commit,
    pub(crate) tables: BTreeMap<TableName, Vec<ChangeBatch>>,
    /// By [`Buffer::fold`].
    pub(crate) folded: bool,
}

impl Buffer {
    pub(crate) fn push(&mut self, batch: ChangeBatch) {
        self.rows += batch.rows.num_rows();
        self.bytes += batch.bytes();
        self.tail.push_back(batch);
    }

    /// Everything that was pushed is complete now.
    pub(crate) fn commit(&mut self, mut commit: Commit) {
        for batch in self.tail.drain(..) {
            self.complete.entry(batch.schema.name.clone()).or_default().push(batch);
        }
        commit.transactions += self.commit.as_ref().map_or(0, |c| c.transactions);
        self.commit = Some(commit);
    }

    /// Whether a commit waits to be flushed.
    pub(crate) fn is_ready(&self) -> bool {
        self.commit.is_some()
    }

    /// Whether rows wait whose commit has not come.
    pub(crate) fn is_open(&self) -> bool {
        !self.tail.is_empty()
    }

    /// Rows whose commit has not come.
    pub(crate) fn open(&self) -> impl Iterator<Item = &ChangeBatch> {
        self.tail.iter()
    }

    /// Whether rows wait to be flushed; a commit without rows only moves the position.
    pub(crate) fn has_rows(&self) -> bool {
        !self.complete.is_empty()
    }

    pub(crate) fn is_full(&self, rows: usize, bytes: usize) -> bool {
        self.rows >= rows || self.bytes >= bytes
    }

    /// The rows of a table that is no longer followed are of no use.
    pub(crate) fn forget(&mut self, table: &TableName) {
        self.complete.remove(table);
        self.tail.retain(|b| b.schema.name != *table);
        self.count();
    }

    /// Whether it waits as it is to be taken out.
    pub(crate) fn is_folded(&self) -> bool {
        self.folded
    }

    /// Folds the complete transactions while there is time for it. Nothing may be pushed any more until they are taken.
    ///
    /// # Errors
    /// Those of `fold`.
    pub(crate) fn fold(&mut self, fold: impl Fn(&[ChangeBatch]) -> Result<Vec<ChangeBatch>>) -> Result<()> {
        for batches in self.complete.values_mut() {
            *batches = fold(batches)?;
        }
        self.folded = true;
        self.count();
        Ok(())
    }

    /// Takes the complete transactions out.
    pub(crate) fn take(&mut self) -> Option<Taken> {
        let commit = self.commit.take()?;
        let tables = std::mem::take(&mut self.complete);
        self.count();
        Some(Taken { commit, tables, folded: std::mem::take(&mut self.folded) })
    }

    /// Takes out the rows of a transaction that has not ended.
    pub(crate) fn take_open(&mut self) -> BTreeMap<TableName, Vec<ChangeBatch>> {
        let mut tables: BTreeMap<TableName, Vec<ChangeBatch>> = BTreeMap::new();
        for batch in self.tail.drain(..) {
            tables.entry(batch.schema.name.clone()).or_default().push(batch);
        }
        self.count();
        tables
    }

    fn count(&mut self) {
        let left = || self.complete.values().flatten().chain(self.tail.iter());
        self.rows = left().map(|b| b.rows.num_rows()).sum();
        self.bytes = left().map(ChangeBatch::bytes).sum();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int8Array, Int64Array};

    use super::*;
    use crate::batch::OP_UPSERT;
    use crate::engine::fold::{Folding, fold_by};
    use crate::{Column, DataType, Position, TableSchema};

    fn rows(keys: &[i64]) -> ChangeBatch {
        let schema = TableSchema {
            name: TableName::new("d", "t"),
            columns: vec![Column::new("k", DataType::Int64).not_null()],
            key: vec!["k".into()],
            comment: String::new(),
            source_defaults: String::new(),
        };
        let column: ArrayRef = Arc::new(Int64Array::from(keys.to_vec()));
        ChangeBatch::partial(Arc::new(schema), &[0], vec![column], Int8Array::from(vec![OP_UPSERT; keys.len()]))
            .unwrap()
    }

    #[test]
    fn is_folded_ahead_of_the_rows_of_an_open_transaction() {
        let mut buffer = Buffer::default();
        buffer.push(rows(&[1, 2]));
        buffer.push(rows(&[2, 3]));
        buffer.commit(Commit { position: Position::at("1"), time_ms: None, transactions: 1 });
        buffer.push(rows(&[3, 3]));
        buffer.fold(|batches| fold_by(batches, Folding { overlay: true, moves: true })).unwrap();
        assert!(
            buffer.is_folded() && buffer.is_open() && buffer.is_full(5, usize::MAX) && !buffer.is_full(6, usize::MAX)
        );
        let taken = buffer.take().unwrap();
        let left: Vec<usize> = taken.tables.values().flatten().map(|b| b.rows.num_rows()).collect();
        assert!(taken.folded && left == [3], "{left:?}");
        assert!(!buffer.is_folded() && buffer.is_open() && buffer.is_full(2, usize::MAX));
        buffer.commit(Commit { position: Position::at("2"), time_ms: None, transactions: 1 });
        assert!(!buffer.take().unwrap().folded);
    }
}
