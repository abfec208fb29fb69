//! Rows that changed without being in the log, because foreign keys changed them below it: the table is copied again
//! from behind the commit that did it. That it has to be is durable before the position passes that commit. While a copy
//! is under way it is not begun anew, because where rows change so all the time none would ever end: it comes to its end,
//! shows its contents, and the next one follows; live is the table only behind a copy during which nothing happened.

use std::cmp::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use crate::engine::job::Job;
use crate::engine::lane::MAIN;
use crate::error::Result;
use crate::position::Position;
use crate::store::{Change, TableRecord, TableState};

/// How long a copy waits for more of the kind before it begins.
const PAUSE: Duration = Duration::from_secs(1);

impl Job {
    /// Takes in what the source has said of the transactions up to this commit, which is not in the buffer yet.
    pub(crate) async fn changed_unseen(&mut self, to: &Position) -> Result<()> {
        if self.unseen.is_empty() {
            return Ok(());
        }
        self.flush_all(MAIN).await?;
        let mut change = Change::new();
        for (name, reason) in std::mem::take(&mut self.unseen) {
            let Some(record) = self.tables.get(&name) else { continue };
            tracing::info!(job = self.name(), table = %name, "is copied again: {reason}");
            let on_its_way = record.copy.is_some();
            if !on_its_way && !matches!(record.state, TableState::Suspended { .. }) {
                self.leave_lanes(&name).await?;
                self.queue_again(&name, &mut change);
            }
            self.main.leave(&name);
            self.paused.entry(name.clone()).or_insert_with(Instant::now);
            let Some(record) = self.tables.get_mut(&name) else { continue };
            match &mut record.state {
                TableState::Suspended { at, .. } => *at = None,
                state => *state = TableState::Away,
            }
            record.unseen = Some(to.clone());
            change.table(&self.context.spec.name, record);
        }
        self.context.store.commit(change).await?;
        self.context.progress.set_tables(self.tables.values());
        Ok(())
    }

    /// Whether a table that waits for its copy waits for nothing else.
    pub(crate) fn may_begin(&self, record: &TableRecord) -> bool {
        let paused = self.paused.get(&record.name).is_some_and(|since| since.elapsed() < PAUSE);
        let before = |at: &Position| self.context.source.compare(&self.main.position, at) == Some(Ordering::Less);
        !paused && !record.unseen.as_ref().is_some_and(before)
    }

    /// Forgets the pauses that are over.
    pub(crate) fn end_pauses(&mut self) {
        self.paused.retain(|_, since| since.elapsed() < PAUSE);
    }
}
