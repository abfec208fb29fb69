//! The spool of a job: from before the first table leaves the main lane until the last one is back in it, the main
//! lane's reader keeps what it reads of the source's log, and the catch-up lane's reader takes it from there.

use std::sync::Arc;

use crate::engine::job::Job;
use crate::engine::lane::MAIN;
use crate::engine::status::SpoolStatus;
use crate::error::Result;
use crate::spool::Spool;
use crate::store::Phase;

impl Job {
    /// Whether a table is on its way, or about to be.
    fn needs_log(&self) -> bool {
        self.tables.values().filter_map(|t| t.copy.as_ref()).any(|c| c.phase != Phase::Found)
    }

    /// Before the main lane is read: whether what it reads is to be kept.
    pub(crate) fn spool_or_not(&mut self) {
        self.end_spool();
        if let Some(directory) = self.context.spool.clone().filter(|_| self.spool.is_none() && self.needs_log()) {
            self.spool = Some(Arc::new(Spool::new(directory, self.context.spec.options.spool_bytes)));
        }
    }

    /// Before a copy begins: everything behind the main lane's position has to be kept, what has been read already
    /// included, so that is read again.
    pub(crate) async fn keep_log(&mut self) -> Result<()> {
        if self.context.spool.is_none() || self.spool.is_some() {
            return Ok(());
        }
        self.flush_all(MAIN).await?;
        self.open_main().await
    }

    /// What was kept goes when no table needs it any more.
    pub(crate) fn end_spool(&mut self) {
        let Some(spool) = &self.spool else { return };
        let shown = SpoolStatus { bytes: spool.bytes(), limit: spool.limit(), stopped: spool.stopped() };
        let needed = self.needs_log();
        self.context.progress.job(|s| s.spool = needed.then_some(shown));
        if needed {
            return;
        }
        if let Err(error) = spool.discard() {
            tracing::warn!(job = self.name(), "the spool is left: {}", error.line());
        }
        self.spool = None;
    }
}
