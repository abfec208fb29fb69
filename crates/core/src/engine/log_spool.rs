//! The spool of a job: from before the first table leaves the main lane until the last one is back in it, the main
//! lane's reader keeps what it reads of the source's log, and the catch-up lane's reader takes it from there.

use std::sync::Arc;

use crate::engine::job::Job;
use crate::engine::status::SpoolStatus;
use crate::spool::Spool;
use crate::store::Phase;

impl Job {
    /// Whether a table is on its way, or about to be.
    fn needs_log(&self) -> bool {
        self.tables.values().filter_map(|t| t.copy.as_ref()).any(|c| c.phase != Phase::Found)
    }

    /// Whether a copy may begin: everything behind the main lane's position is being kept. What its reader had read
    /// ahead when it was told to keep the log is not, so the lane goes on to behind that first.
    pub(crate) fn log_is_kept(&mut self) -> bool {
        self.spool_or_not();
        let Some(spool) = &self.spool else { return true };
        spool.begun().is_some_and(|begun| self.context.reached(&self.main.position, &begun))
    }

    /// Has the log kept as long as a table needs it; what was kept goes with that.
    pub(crate) fn spool_or_not(&mut self) {
        let needed = self.needs_log();
        if let Some(spool) = &self.spool {
            let shown = SpoolStatus { bytes: spool.bytes(), limit: spool.limit(), stopped: spool.stopped() };
            self.context.progress.job(|s| s.spool = needed.then_some(shown));
            if needed {
                return;
            }
            if let Err(error) = spool.discard() {
                tracing::warn!(job = self.name(), "the spool is left: {}", error.line());
            }
            self.spool = None;
        } else if let Some(directory) = self.context.spool.clone().filter(|_| needed) {
            self.spool = Some(Arc::new(Spool::new(directory, self.context.spec.options.spool_bytes)));
        } else {
            return;
        }
        self.keep.send_replace(self.spool.clone());
    }
}
