//! MySQL's protocol over the embedded warehouse: a listener, the login, and a task for each connection. Everything that
//! comes in is bounded: connections, the length of a message, the time that a login may take, the pace of wrong guesses.

mod columns;
mod connection;
mod fault;
mod handshake;
mod packet;
mod registry;
mod rows;
mod statement;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use freshet_core::{Error, Result};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::auth::Users;
use crate::backend::{Backend, SERVER_VERSION};
use connection::{Connection, Peer};
use fault::{Fault, Lost};
use handshake::Login;
use packet::{Channel, Socket};
use registry::{Place, Registry};

/// The longest message before the login, in bytes.
const LOGIN_PACKET: usize = 64 * 1024;
/// How long a login may take.
const LOGIN_TIME: Duration = Duration::from_secs(10);
/// How long a wrong password takes to be refused.
const WRONG_PASSWORD: Duration = Duration::from_millis(500);
/// How long the connections may take to say goodbye when the server ends.
const GOODBYE: Duration = Duration::from_secs(5);
/// Pause after a connection could not be accepted (no more file handles).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How to listen.
#[derive(Clone)]
pub struct Options {
    /// Where; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Who may come in.
    pub users: Users,
    /// TLS for the clients that ask for it.
    pub tls: Option<Arc<ServerConfig>>,
    /// Connections at a time; the next one is refused.
    pub max_connections: usize,
    /// The longest statement, and all prepared statements of a connection together, in bytes.
    pub max_packet: usize,
    /// A connection that is silent for so long is closed.
    pub idle: Duration,
}

impl Options {
    /// Doris's port on loopback, `root` without a password, no TLS, 1,024 connections, messages of 64 MB, 8 hours.
    pub fn loopback() -> Self {
        Options {
            listen: SocketAddr::from(([127, 0, 0, 1], 9030)),
            users: Users::root_without_password(),
            tls: None,
            max_connections: 1024,
            max_packet: 64 << 20,
            idle: Duration::from_secs(8 * 3600),
        }
    }
}

/// A listener that is bound, but does not answer yet.
pub struct Server {
    listener: TcpListener,
    shared: Arc<Shared>,
    tls: Option<TlsAcceptor>,
    max_connections: usize,
}

/// What all connections share.
pub(crate) struct Shared {
    users: Users,
    backend: Arc<dyn Backend>,
    registry: Arc<Registry>,
    max_packet: usize,
    idle: Duration,
    started: Instant,
    connections: AtomicU64,
}

impl Server {
    /// Binds the address.
    ///
    /// # Errors
    /// `Config` for an open door to other machines, `AlreadyExists` for a port in use, `Io` for any other reason.
    pub async fn bind(options: Options, backend: Arc<dyn Backend>) -> Result<Server> {
        options.users.check_listen(options.listen)?;
        let listener = TcpListener::bind(options.listen).await.map_err(|e| {
            let at = options.listen;
            if e.kind() == std::io::ErrorKind::AddrInUse {
                Error::already_exists("the port for MySQL clients is in use")
                    .with("address", at)
                    .because(e)
                    .hint("another Freshet or Doris may be running here: stop it, or choose another port")
            } else {
                Error::io("cannot listen for MySQL clients").with("address", at).because(e)
            }
        })?;
        let shared = Shared {
            users: options.users,
            backend,
            registry: Arc::new(Registry::default()),
            max_packet: options.max_packet,
            idle: options.idle,
            started: Instant::now(),
            connections: AtomicU64::new(0),
        };
        let tls = options.tls.map(TlsAcceptor::from);
        Ok(Server { listener, shared: Arc::new(shared), tls, max_connections: options.max_connections })
    }

    /// The address, with the port that was taken.
    ///
    /// # Errors
    /// `Io` when the system does not tell it.
    pub fn local_addr(&self) -> Result<SocketAddr> {
        self.listener.local_addr().map_err(|e| Error::io("cannot tell the address of the listener").because(e))
    }

    /// Serves until `shutdown` becomes true or its sender is dropped. Running statements are cancelled, the clients
    /// told, and the connections closed, within seconds.
    pub async fn run(self, mut shutdown: watch::Receiver<bool>) {
        let mut tasks = JoinSet::new();
        let ids = AtomicU32::new(1);
        loop {
            let accepted = tokio::select! {
                biased;
                () = crate::stopped(&mut shutdown) => break,
                Some(_) = tasks.join_next() => continue,
                accepted = self.listener.accept() => accepted,
            };
            let (socket, from) = match accepted {
                Ok(accepted) => accepted,
                Err(e) => {
                    tracing::warn!("cannot accept a connection: {e}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            self.shared.connections.fetch_add(1, Ordering::Relaxed);
            let id = ids.fetch_add(1, Ordering::Relaxed);
            match self.shared.registry.enter(id, from.to_string(), self.max_connections) {
                Some(place) => {
                    let (shared, tls, shutdown) = (Arc::clone(&self.shared), self.tls.clone(), shutdown.clone());
                    tasks.spawn(serve_socket(shared, tls, socket, from.ip().to_string(), place, shutdown));
                }
                None => refuse(socket, &Fault::too_many_connections(self.max_connections)),
            }
        }
        drop(self.listener);
        let goodbye = async { while tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(GOODBYE, goodbye).await;
    }
}

impl Shared {
    /// The answer to a wrong password, after a while.
    async fn deny(&self, login: &Login, host: &str) -> Fault {
        tracing::warn!(user = login.user, host, "wrong password, or no such user");
        tokio::time::sleep(WRONG_PASSWORD).await;
        Fault::access_denied(&login.user, host, login.with_password())
    }

    /// One line for `mysqladmin status`.
    fn statistics(&self) -> String {
        format!(
            "Uptime: {}  Threads: {}  Connections: {}",
            self.started.elapsed().as_secs(),
            self.registry.len(),
            self.connections.load(Ordering::Relaxed)
        )
    }
}

/// Says why and closes, as far as that goes without waiting.
fn refuse(socket: TcpStream, fault: &Fault) {
    let mut payload = Vec::new();
    handshake::put_fault(&mut payload, fault);
    let mut packet = (payload.len() as u32).to_le_bytes().to_vec();
    packet.extend_from_slice(&payload);
    let _ = socket.try_write(&packet);
}

/// A connection from its greeting to its end.
async fn serve_socket(
    shared: Arc<Shared>,
    tls: Option<TlsAcceptor>,
    socket: TcpStream,
    host: String,
    place: Place,
    shutdown: watch::Receiver<bool>,
) {
    let _ = socket.set_nodelay(true);
    serve(shared, tls, socket, host, place, shutdown).await;
}

/// As [`serve_socket`], on anything that reads and writes.
async fn serve<S: Socket>(
    shared: Arc<Shared>,
    tls: Option<TlsAcceptor>,
    socket: S,
    host: String,
    place: Place,
    shutdown: watch::Receiver<bool>,
) {
    let Ok(nonce) = handshake::nonce() else { return };
    let mut channel = Channel::new(socket, LOGIN_PACKET);
    handshake::put_greeting(channel.begin(), SERVER_VERSION, place.id, &nonce, tls.is_some());
    channel.end();
    let deadline = tokio::time::Instant::now() + LOGIN_TIME;
    let first = tokio::time::timeout_at(deadline, async {
        channel.flush().await?;
        channel.read().await
    });
    let first = match first.await {
        Ok(Ok(message)) => message,
        Ok(Err(lost)) => return say(channel, lost).await,
        Err(_) => return,
    };
    let peer = Peer { host, place, shutdown, nonce, encrypted: false };
    match tls {
        Some(acceptor) if handshake::wants_tls(&first) => {
            let (socket, sequence) = channel.into_socket();
            let Ok(Ok(encrypted)) = tokio::time::timeout_at(deadline, acceptor.accept(socket)).await else { return };
            let mut channel = Channel::new(encrypted, LOGIN_PACKET);
            channel.restart_at(sequence);
            let Ok(message) = tokio::time::timeout_at(deadline, channel.read()).await else { return };
            match message {
                Ok(message) => {
                    log_in(channel, shared, Peer { encrypted: true, ..peer }, &message, true, deadline).await
                }
                Err(lost) => say(channel, lost).await,
            }
        }
        tls => log_in(channel, shared, peer, &first, tls.is_some(), deadline).await,
    }
}

async fn log_in<S: Socket>(
    mut channel: Channel<S>,
    shared: Arc<Shared>,
    peer: Peer,
    message: &[u8],
    tls: bool,
    deadline: tokio::time::Instant,
) {
    let mut login = match Login::read(message, tls) {
        Ok(login) => login,
        Err(fault) => return say(channel, fault.into()).await,
    };
    let opened = tokio::time::timeout_at(deadline, connection::log_in(&mut channel, &shared, &peer, &mut login)).await;
    match opened {
        Ok(Ok(session)) => Connection::new(channel, shared, peer, login, session).serve().await,
        Ok(Err(lost)) => say(channel, lost).await,
        Err(_) => {}
    }
}

/// The last word of a connection that did not get anywhere.
async fn say<S: Socket>(mut channel: Channel<S>, lost: Lost) {
    if let Lost::Refused(fault) = lost {
        handshake::put_fault(channel.begin(), &fault);
        channel.end();
        let _ = tokio::time::timeout(GOODBYE, channel.flush()).await;
    }
}
