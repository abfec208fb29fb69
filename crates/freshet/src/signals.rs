//! SIGINT and SIGTERM: the first asks for a graceful end, the second ends the process at once.

use freshet_core::{Error, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Exit codes of a forced end, as shells expect them.
const INTERRUPTED: i32 = 130;
const TERMINATED: i32 = 143;

/// The two signals.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Begins to listen.
    ///
    /// # Errors
    /// `Io` when the system refuses.
    pub(crate) fn new() -> Result<Signals> {
        let listen = |kind| signal(kind).map_err(|e| Error::io("cannot listen for signals").because(e));
        Ok(Signals { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    /// Waits for one. Cancel-safe.
    pub(crate) async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.interrupt.recv() => INTERRUPTED,
            _ = self.terminate.recv() => TERMINATED,
        }
    }

    /// Runs the graceful end; another signal ends the process at once.
    pub(crate) async fn unless_again<T>(&mut self, ending: impl Future<Output = T>) -> T {
        tokio::select! {
            done = ending => done,
            code = self.next() => std::process::exit(code),
        }
    }
}
