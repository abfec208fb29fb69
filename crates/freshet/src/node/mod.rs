//! A running Freshet: engine, warehouse, SQL, the listener for MySQL clients and the control socket, all over one data
//! directory. `sync`, `serve` and `demo` are this with different beginnings.

mod control;
mod system;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use freshet_core::engine::Engine;
use freshet_core::error::io_error;
use freshet_core::store::Store;
use freshet_core::{Error, ErrorKind, Result, Secret};
use freshet_server::auth::Users;
use freshet_server::{mysql, tls};
use freshet_warehouse::Warehouse;
use freshet_warehouse::sql::{Sql, SqlOptions};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::cli::args::{Limits, Listen};
use crate::connectors::{connectors, read_secret};

pub(crate) use control::{About, Asked, run_sql, unknown_job};

/// The address when none is given: Doris's port for MySQL clients, this machine only.
const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9030);

/// How often, and how far apart, a directory that is in use is tried again.
const TRIES: u32 = 10;
const TRY_AGAIN: Duration = Duration::from_millis(100);

/// A running Freshet.
pub(crate) struct Node {
    pub(crate) engine: Arc<Engine>,
    pub(crate) sql: Arc<Sql>,
    warehouse: Arc<Warehouse>,
    shutdown: watch::Sender<bool>,
    serving: Vec<JoinHandle<()>>,
}

impl Node {
    /// Opens a data directory without serving it.
    ///
    /// # Errors
    /// `Io` when another process has it, `Corrupt`, or whatever the disk says.
    pub(crate) async fn open(data: &Path, limits: &Limits) -> Result<Node> {
        create_private(data).map_err(|e| io_error(data, "create the data directory", e))?;
        // The store comes first: it is what a second process finds locked.
        let store = open_store(data).await.map_err(|e| in_use(e, data))?;
        let mut options = freshet_warehouse::Options::default();
        options.staged_bytes = limits.transaction_disk.map_or(options.staged_bytes, |b| b as u64);
        let warehouse = Warehouse::open(&data.join("warehouse"), options).await.map_err(|e| in_use(e, data))?;
        let engine = Engine::in_directory(data, store, connectors(Arc::clone(&warehouse)))?;
        engine.finish_drops().await?;
        let system = Arc::new(system::Jobs(Arc::clone(&engine)));
        let defaults = SqlOptions::default();
        let queries = SqlOptions { memory: limits.query_memory.unwrap_or(defaults.memory), ..defaults };
        let sql = Sql::new(Arc::clone(&warehouse), queries, system);
        Ok(Node { engine, sql, warehouse, shutdown: watch::Sender::new(false), serving: Vec::new() })
    }

    /// Listens for MySQL clients and at the control socket; answers the address.
    ///
    /// # Errors
    /// `Io` when the port is in use, `Config` for an open door to other machines.
    pub(crate) async fn serve(&mut self, data: &Path, listen: &Listen) -> Result<SocketAddr> {
        let address = listen.listen.unwrap_or(LISTEN);
        let mut users = Users::root_without_password();
        if let Some(file) = &listen.root_password_file {
            users = users.with("root", &Secret::new(read_secret(file)?));
        }
        let certificate = tls::Certificate::SelfSigned { directory: data.to_path_buf() };
        let options = mysql::Options {
            listen: address,
            users,
            tls: Some(tls::server_config(&certificate)?),
            ..mysql::Options::loopback()
        };
        let server = mysql::Server::bind(options, Arc::new(Arc::clone(&self.sql))).await.map_err(|e| match e.kind {
            ErrorKind::AlreadyExists => Error { kind: ErrorKind::Io, hint: None, ..e }
                .hint("another Freshet or Doris may be running here: end it, or choose another port with --listen"),
            ErrorKind::Config => {
                Error { hint: None, ..e }.hint("set one with --root-password-file FILE, or --listen on 127.0.0.1")
            }
            _ => e,
        })?;
        let bound = server.local_addr()?;
        self.serving.push(tokio::spawn(server.run(self.shutdown.subscribe())));
        let handler = Arc::new(control::Control { engine: Arc::clone(&self.engine), sql: Arc::clone(&self.sql) });
        let (socket, stop) = (control_socket(data), self.shutdown.subscribe());
        self.serving.push(tokio::spawn(async move {
            if let Err(e) = freshet_server::control::serve(&socket, handler, stop).await {
                tracing::error!("commands cannot reach this process: {}", e.line());
            }
        }));
        Ok(bound)
    }

    /// The graceful end: jobs flush and store their positions, clients are told, the warehouse is closed.
    ///
    /// # Errors
    /// When the warehouse cannot be closed; what was acknowledged is safe all the same.
    pub(crate) async fn close(self) -> Result<()> {
        self.engine.shutdown().await;
        self.shutdown.send_replace(true);
        for task in self.serving {
            let _ = task.await;
        }
        self.warehouse.close().await
    }
}

/// Makes the data directory, for its owner alone: it holds the sources' passwords and rows. What is there already keeps
/// its mode.
fn create_private(data: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    if data.is_dir() {
        return Ok(());
    }
    if let Some(parent) = data.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match std::fs::DirBuilder::new().mode(0o700).create(data) {
        // Another process was faster.
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists && data.is_dir() => Ok(()),
        done => done,
    }
}

/// Opens the store. A command such as `status` may hold it for a moment when no process serves the directory.
async fn open_store(data: &Path) -> Result<Store> {
    let file = data.join("jobs.redb");
    for _ in 0..TRIES {
        match Store::open(&file) {
            Err(e) if e.kind == ErrorKind::AlreadyExists => tokio::time::sleep(TRY_AGAIN).await,
            other => return other,
        }
    }
    Store::open(&file)
}

/// Where the control socket of a data directory is.
pub(crate) fn control_socket(data: &Path) -> PathBuf {
    data.join(freshet_server::control::SOCKET)
}

fn in_use(error: Error, data: &Path) -> Error {
    if error.kind != ErrorKind::AlreadyExists {
        return error;
    }
    Error::io("another process is using this data directory")
        .with("data", data.display())
        .hint("`freshet status` with the same --data asks it; end it, or choose another folder with --data")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_data_directory_is_its_owners() {
        let mode = |path: &Path| std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
        let base = tempfile::tempdir().expect("a directory");
        let data = base.path().join("a/b/data");
        create_private(&data).expect("made");
        assert_eq!(mode(&data), 0o700);
        // An existing one is left as it is.
        std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o755)).expect("changed");
        create_private(&data).expect("there");
        assert_eq!(mode(&data), 0o755);
        std::fs::write(base.path().join("file"), "").expect("written");
        assert!(create_private(&base.path().join("file")).is_err());
    }
}
