//! Crashes and lost replies, drawn from the seed. A crash is a call that never comes back while the harness takes the
//! whole process (its runtime with every task) away.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use freshet_core::{Error, Result};
use tokio::sync::Notify;

#[derive(Clone)]
pub struct Faults {
    inner: Arc<Mutex<Inner>>,
    pub crashed: Arc<Notify>,
}

struct Inner {
    rng: Rng,
    crash: f64,
    lost: f64,
    slow_ms: u64,
    crashes: usize,
    trace: Option<Vec<String>>,
}

impl Faults {
    pub fn new(rng: Rng, crash: f64, lost: f64, slow_ms: u64, trace: bool) -> Faults {
        let trace = trace.then(Vec::new);
        let inner = Inner { rng, crash, lost, slow_ms, crashes: 0, trace };
        Faults { inner: Arc::new(Mutex::new(inner)), crashed: Arc::new(Notify::new()) }
    }

    /// No more faults: what is left must come to its end.
    pub fn calm(&self) {
        let mut inner = self.inner.lock().unwrap();
        (inner.crash, inner.lost, inner.slow_ms) = (0.0, 0.0, 0);
    }

    pub fn crashes(&self) -> usize {
        self.inner.lock().unwrap().crashes
    }

    pub fn log(&self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.inner.lock().unwrap().trace {
            trace.push(line());
        }
    }

    pub fn trace(&self) -> String {
        self.inner.lock().unwrap().trace.clone().unwrap_or_default().join("\n")
    }

    pub fn chance(&self, p: f64) -> bool {
        self.inner.lock().unwrap().rng.f64() < p
    }

    pub fn number(&self, below: usize) -> usize {
        self.inner.lock().unwrap().rng.usize(..below)
    }

    /// A place at which the process may die.
    pub async fn point(&self, name: &str) {
        let (die, pause) = {
            let mut inner = self.inner.lock().unwrap();
            let (crash, slow) = (inner.crash, inner.slow_ms);
            let die = inner.rng.f64() < crash;
            inner.crashes += usize::from(die);
            (die, if slow > 0 { inner.rng.u64(0..=slow) } else { 0 })
        };
        if die {
            self.log(|| format!("CRASH at {name}"));
            self.crashed.notify_one();
            std::future::pending::<()>().await;
        }
        if pause > 0 {
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    /// Whether the source's connection breaks.
    pub fn disconnects(&self) -> bool {
        let mut inner = self.inner.lock().unwrap();
        let p = inner.lost / 10.0;
        inner.rng.f64() < p
    }

    /// Whether this call's request or reply is lost.
    pub fn loses(&self) -> bool {
        let mut inner = self.inner.lock().unwrap();
        let p = inner.lost;
        inner.rng.f64() < p
    }
}

pub fn lost<T>() -> Result<T> {
    Err(Error::sink_unavailable("connection lost"))
}
