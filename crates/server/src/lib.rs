//! The protocols of Freshet: MySQL's over the embedded warehouse, and the control socket on which the command line asks
//! a process that runs on the same machine; with what they share, users and certificates.

pub mod auth;
pub mod backend;
pub mod control;
pub mod mysql;
pub mod tls;

/// Waits for the end of the process: `true`, or a sender that is gone.
pub(crate) async fn stopped(shutdown: &mut tokio::sync::watch::Receiver<bool>) {
    let _ = shutdown.wait_for(|stop| *stop).await;
}
