//! A network that misbehaves: a TCP proxy between Freshet and the source, whose connections are cut, stalled, slowed,
//! made deaf on one side, or refused.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// How long the open end of a half-open connection is held, if nobody closes it.
const DEAF: Duration = Duration::from_secs(120);

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    ToFreshet,
    ToSource,
}

/// What is wrong with a connection.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    Nothing,
    /// Nothing passes until then, in this direction or in both.
    Stalled(Instant, Option<Way>),
    /// So many bytes a second pass until then.
    Slow(Instant, u32),
    /// Both ends are closed, by a reset or in order.
    Cut {
        reset: bool,
    },
    /// The end of this side is closed; the other one is held open, and silent.
    Dropped(Way),
}

/// What happens to new connections.
#[derive(Debug, Clone, Copy)]
enum Door {
    Open,
    /// Reset at once.
    Refusing(Instant),
    /// Accepted and never answered.
    Silent(Instant),
}

struct Shared {
    door: Door,
    connections: Vec<watch::Sender<Fault>>,
}

/// A running proxy. Its task ends with the runtime.
#[derive(Clone)]
pub(crate) struct Proxy {
    shared: Arc<Mutex<Shared>>,
    /// Where it listens on 127.0.0.1.
    pub(crate) port: u16,
}

impl Proxy {
    /// Passes connections on to this port of 127.0.0.1.
    pub(crate) async fn start(to: u16) -> Proxy {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Mutex::new(Shared { door: Door::Open, connections: Vec::new() }));
        tokio::spawn(accept(listener, SocketAddr::from((Ipv4Addr::LOCALHOST, to)), Arc::clone(&shared)));
        Proxy { shared, port }
    }

    /// Does something bad to one connection or to all of them; says what.
    pub(crate) fn misbehave(&self, rng: &mut Rng) -> (&'static str, String) {
        let now = Instant::now();
        let for_a_while = |rng: &mut Rng, most: f64| Duration::from_secs_f64(0.1 + rng.f64() * rng.f64() * most);
        let (kind, fault, detail) = match rng.u8(0..20) {
            0..4 => ("reset", Fault::Cut { reset: true }, String::new()),
            4..7 => ("closed", Fault::Cut { reset: false }, String::new()),
            7..11 => {
                let lasting = for_a_while(rng, 20.0);
                let way = [None, None, Some(Way::ToFreshet), Some(Way::ToSource)][rng.usize(..4)];
                ("stalled", Fault::Stalled(now + lasting, way), format!("{lasting:.1?} {way:?}"))
            }
            11..14 => {
                let lasting = for_a_while(rng, 8.0);
                let rate = rng.u32(1000..20_000);
                ("slowed", Fault::Slow(now + lasting, rate), format!("{lasting:.1?}, {rate} bytes a second"))
            }
            14..16 => ("half-open, source gone", Fault::Dropped(Way::ToSource), String::new()),
            16 => ("half-open, Freshet gone", Fault::Dropped(Way::ToFreshet), String::new()),
            other => {
                let lasting = for_a_while(rng, 4.0);
                let (kind, door) = match other {
                    17..19 => ("refusing", Door::Refusing(now + lasting)),
                    _ => ("silent to new ones", Door::Silent(now + lasting)),
                };
                self.lock().door = door;
                if rng.bool() {
                    self.apply(Fault::Cut { reset: true }, None);
                }
                return (kind, format!("{lasting:.1?}"));
            }
        };
        let only = (rng.u8(0..3) > 0).then(|| rng.usize(..));
        let hit = self.apply(fault, only);
        (kind, format!("{hit} connections {detail}"))
    }

    /// Ends every fault; connections that are half open are closed when this is said, and else stay what they are.
    pub(crate) fn heal(&self, close_half_open: bool) {
        let mut shared = self.lock();
        shared.door = Door::Open;
        for connection in &shared.connections {
            let fault = *connection.borrow();
            match fault {
                Fault::Dropped(_) if close_half_open => drop(connection.send(Fault::Cut { reset: true })),
                Fault::Stalled(..) | Fault::Slow(..) => drop(connection.send(Fault::Nothing)),
                _ => {}
            }
        }
    }

    fn apply(&self, fault: Fault, only: Option<usize>) -> usize {
        let mut shared = self.lock();
        shared.connections.retain(|c| !c.is_closed());
        let healthy: Vec<&watch::Sender<Fault>> =
            shared.connections.iter().filter(|c| !matches!(*c.borrow(), Fault::Dropped(_))).collect();
        let hit: Vec<_> = match only {
            Some(n) if !healthy.is_empty() => vec![healthy[n % healthy.len()]],
            _ => healthy,
        };
        for connection in &hit {
            let _ = connection.send(fault);
        }
        hit.len()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Shared> {
        self.shared.lock().unwrap()
    }
}

async fn accept(listener: TcpListener, to: SocketAddr, shared: Arc<Mutex<Shared>>) {
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        let door = shared.lock().unwrap().door;
        match door {
            Door::Refusing(until) if Instant::now() < until => reset(client),
            Door::Silent(until) if Instant::now() < until => {
                tokio::spawn(hold(client, DEAF));
            }
            _ => {
                let (sender, fault) = watch::channel(Fault::Nothing);
                shared.lock().unwrap().connections.push(sender);
                tokio::spawn(carry(client, to, fault));
            }
        }
    }
}

/// One connection, to its end.
async fn carry(client: TcpStream, to: SocketAddr, fault: watch::Receiver<Fault>) {
    let Ok(server) = TcpStream::connect(to).await else { return reset(client) };
    let (_, _) = (client.set_nodelay(true), server.set_nodelay(true));
    let (mut client, mut server) = (client, server);
    let end = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let mut seen = fault.clone();
        tokio::select! {
            () = pass(from_client, to_server, Way::ToSource, fault.clone()) => None,
            () = pass(from_server, to_client, Way::ToFreshet, fault.clone()) => None,
            end = seen.wait_for(|f| matches!(f, Fault::Cut { .. } | Fault::Dropped(_))) => end.ok().map(|f| *f),
        }
    };
    match end {
        Some(Fault::Cut { reset: true }) => {
            reset(client);
            reset(server);
        }
        Some(Fault::Dropped(side)) => {
            let held = match side {
                Way::ToSource => client,
                Way::ToFreshet => server,
            };
            let mut fault = fault;
            tokio::select! {
                () = hold(held, DEAF) => {}
                _ = fault.wait_for(|f| matches!(f, Fault::Cut { .. })) => {}
            }
        }
        _ => {}
    }
}

/// Passes bytes on in one direction, as far and as fast as the fault allows, until the connection ends.
async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    way: Way,
    mut fault: watch::Receiver<Fault>,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        let mut rest = &buffer[..read];
        while !rest.is_empty() {
            let now = Instant::now();
            let current = *fault.borrow_and_update();
            let part = match current {
                Fault::Stalled(until, only) if now < until && only.is_none_or(|only| only == way) => {
                    let _ = timeout(until - now, fault.changed()).await;
                    continue;
                }
                Fault::Slow(until, rate) if now < until => {
                    sleep(Duration::from_millis(50)).await;
                    rest.len().min(rate as usize / 20 + 1)
                }
                _ => rest.len(),
            };
            if to.write_all(&rest[..part]).await.is_err() {
                return;
            }
            rest = &rest[part..];
        }
    }
}

/// Takes what comes and answers nothing.
async fn hold(mut stream: TcpStream, lasting: Duration) {
    let end = Instant::now() + lasting;
    let mut buffer = [0; 4096];
    loop {
        tokio::select! {
            read = stream.read(&mut buffer) => if !matches!(read, Ok(1..)) { return },
            () = sleep_until(end) => return,
        }
    }
}

fn reset(stream: TcpStream) {
    let _ = stream.set_zero_linger();
}
