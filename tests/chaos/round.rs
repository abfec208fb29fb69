//! One flavour's run: rounds of chaos, each followed by quiet and a comparison.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use fastrand::Rng;
use freshet_tests::freshet::Sync;
use freshet_tests::source::Source;
use tokio::time::timeout;

use crate::ddl::{OUTSIDE, TABLES, change, wide};
use crate::proxy::Proxy;
use crate::report::Journal;
use crate::requests::ask;
use crate::writers::{settle, write};
use crate::{Goal, Scene};

/// Writers at the same time.
const WRITERS: usize = 3;
/// How long writers and the settling of XA may take to end behind a round.
const UNTIL_ENDED: Duration = Duration::from_secs(60);
/// Freshet may end by itself so often in a round (with a reason), before that is a failure.
const ENDINGS: u32 = 10;

/// Failpoints at which Freshet may end on the way of a flush, a compaction or a start.
const PLACES: [&str; 22] = [
    "log.create",
    "log.header",
    "log.header-sync",
    "log.dir-sync",
    "log.write",
    "log.sync",
    "log.synced",
    "log.remove",
    "segment.create",
    "segment.write",
    "segment.sync",
    "segment.dir-sync",
    "segment.finished",
    "index.write",
    "index.sync",
    "compact.merge",
    "compact.install",
    "manifest.write",
    "manifest.rename",
    "manifest.dir-sync",
    "store.commit",
    "store.committed",
];

pub(crate) struct Run {
    pub(crate) scene: Scene,
    pub(crate) sync: Sync,
    pub(crate) rng: Rng,
    proxy: Proxy,
    folder: PathBuf,
    endings: u32,
    /// The failpoint at which the running Freshet ends.
    armed: Option<&'static str>,
}

impl Run {
    /// A new database with all its tables, and a job over it that is not started yet.
    pub(crate) async fn new(
        source: Source,
        journal: Journal,
        folder: PathBuf,
        mut rng: Rng,
        without: Vec<String>,
    ) -> Run {
        let db = source.database("chaos").await;
        let wide = wide();
        for table in TABLES.into_iter().chain([wide.as_str()]) {
            source.run(&format!("CREATE TABLE {db}.{table}")).await;
        }
        fill_big(&source, &db, 20_000).await;
        let proxy = Proxy::start(source.port()).await;
        let pattern = format!("{db}.*,!{db}.{OUTSIDE}*");
        let url = format!("{}?cascades=resync", source.url_at(proxy.port));
        let sync = Sync::new(&url, &pattern, &[]).kept_in(&folder);
        println!(
            "database {db}, proxy on port {}, warehouse on port {}, all in {}",
            proxy.port,
            sync.port,
            folder.display()
        );
        let scene = Scene {
            source,
            db,
            journal,
            gate: Arc::default(),
            left: Arc::default(),
            without: Arc::new(without),
            over: Arc::default(),
        };
        // Another seed for each flavour would only make a seed harder to find again.
        let rng = rng.fork();
        Run { scene, sync, rng, proxy, folder, endings: 0, armed: None }
    }

    /// Rounds until the goal is reached.
    ///
    /// # Errors
    /// What is not as it must be.
    pub(crate) async fn reach(mut self, goal: Goal) -> Result<(), String> {
        let start = Instant::now();
        while start.elapsed() < goal.time || self.scene.journal.kills() < goal.kills {
            let left = goal.time.saturating_sub(start.elapsed()).as_secs_f64().max(15.0);
            let seconds = (15.0 + self.rng.f64() * 20.0).min(left);
            let done = async {
                self.chaos(Duration::from_secs_f64(seconds)).await?;
                self.quiesce().await
            };
            if let Err(why) = done.await {
                self.keep();
                return Err(why);
            }
        }
        self.sync.kill();
        self.scene.source.run(&format!("DROP DATABASE {}", self.scene.db)).await;
        Ok(())
    }

    /// Everything at once, for so long.
    async fn chaos(&mut self, lasting: Duration) -> Result<(), String> {
        let scene = self.scene.clone();
        scene.over.store(false, Ordering::SeqCst);
        scene.journal.note("rounds", "begun", &format!("{lasting:.1?}"));
        self.endings = 0;
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..WRITERS {
            tasks.spawn(write(scene.clone(), self.rng.fork()));
        }
        tasks.spawn(change(scene.clone(), self.rng.fork()));
        tasks.spawn(misbehave(scene.clone(), self.proxy.clone(), self.rng.fork()));
        let mut settled = tokio::spawn(settle(scene.clone(), self.rng.fork()));
        let asked = tokio::spawn(ask(scene.clone(), self.sync.request(), self.rng.fork()));
        let end = Instant::now() + lasting;
        let events = self.events(end).await;
        scene.over.store(true, Ordering::SeqCst);
        scene.journal.write("the round is over");
        let ended = async {
            while let Some(done) = tasks.join_next().await {
                done.unwrap();
            }
        };
        if timeout(UNTIL_ENDED, ended).await.is_err() {
            // A client of the driver's own that waits for a killed server.
            scene.journal.note("the driver", "writers that did not end", "");
            tasks.abort_all();
        }
        if timeout(UNTIL_ENDED, &mut settled).await.is_err() {
            scene.journal.note("the driver", "XA that was settled once more", "");
            settled.abort();
            let again = timeout(UNTIL_ENDED, settle(scene.clone(), self.rng.fork())).await;
            again.map_err(|_| "prepared transactions cannot be settled at the source".to_string())?;
        }
        events?;
        // Answers may need a network that works again, and a process that runs.
        self.proxy.heal(self.rng.u8(0..4) > 0);
        asked.await.unwrap()
    }

    /// Kills, ends and starts, one after the other.
    async fn events(&mut self, end: Instant) -> Result<(), String> {
        while Instant::now() < end {
            self.assert_runs()?;
            let pause = match self.rng.u8(0..4) {
                0 => self.rng.u64(20..500),
                1 => self.rng.u64(3000..8000),
                _ => self.rng.u64(500..4000),
            };
            self.rest(Duration::from_millis(pause), end).await?;
            let journal = self.scene.journal.clone();
            match self.rng.u8(0..16) {
                0..11 => {
                    self.sync.kill();
                    journal.note("kills", "Freshet", "");
                    self.rest_down().await;
                }
                11 | 12 => {
                    let started = Instant::now();
                    let code = self.sync.try_terminate(Duration::from_secs(60)).await;
                    journal.note(
                        "kills",
                        "Freshet by SIGTERM",
                        &format!("exit code {code:?} after {:.1?}", started.elapsed()),
                    );
                    match code {
                        Some(0) => {}
                        Some(code) => journal.count("kills", &format!("SIGTERM answered by exit code {code}"), 1),
                        None => return Err("SIGTERM did not end Freshet within 60 s".into()),
                    }
                    self.rest_down().await;
                }
                13 | 14 => {
                    let down = self.rng.u64(0..2500);
                    let (source, gate) = (self.scene.source.clone(), Arc::clone(&self.scene.gate));
                    let _gate = gate.write().await;
                    journal.note("kills", "server", &format!("down for {down} ms"));
                    tokio::task::spawn_blocking(move || {
                        source.kill();
                        std::thread::sleep(Duration::from_millis(down));
                        source.start(&[]);
                    })
                    .await
                    .unwrap();
                    journal.write("the server answers again");
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Waits, looking whether Freshet runs.
    async fn rest(&mut self, lasting: Duration, end: Instant) -> Result<(), String> {
        let until = (Instant::now() + lasting).min(end);
        while Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(50).min(until - Instant::now())).await;
            self.assert_runs()?;
        }
        Ok(())
    }

    /// A pause without Freshet, mostly a short one.
    async fn rest_down(&mut self) {
        let down = if self.rng.u8(0..4) == 0 { self.rng.u64(0..3000) } else { 0 };
        tokio::time::sleep(Duration::from_millis(down)).await;
        self.spawn();
    }

    /// Starts it, during chaos often so that it ends at one of its durable steps.
    fn spawn(&mut self) {
        self.armed = None;
        if self.scene.is_over() || self.rng.u8(0..5) < 3 {
            return self.sync.spawn();
        }
        let place = PLACES[self.rng.usize(..PLACES.len())];
        let most = if place.starts_with("store") || place.starts_with("log") { 20 } else { 3 };
        let action = if place.ends_with(".write") { "torn" } else { "kill" };
        let failpoint = format!("{place}={action}@{}", self.rng.u32(1..most));
        self.scene.journal.write(&format!("Freshet starts with {failpoint}"));
        self.armed = Some(place);
        self.sync.spawn_with_failpoints(&failpoint);
    }

    /// Starts it, when it has ended by itself, and notes why it has.
    pub(crate) fn assert_runs(&mut self) -> Result<(), String> {
        if !self.scene.source.is_up() {
            // A fault of its own; a killed one is started again before anything else is done.
            self.scene.journal.note("kills", "server ended by itself", "");
            self.scene.source.kill();
            self.scene.source.start(&[]);
        }
        if !self.sync.has_started() {
            self.spawn();
        }
        if self.sync.runs() {
            return Ok(());
        }
        if let Some(place) = self.armed
            && !self.sync.log().contains("panicked")
        {
            self.scene.journal.note("kills", "Freshet at a failpoint", place);
            self.scene.journal.count("failpoints that killed", place, 1);
            self.spawn();
            return Ok(());
        }
        let log = self.sync.log();
        let why = log.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or_default().to_string();
        self.scene.journal.note("Freshet ended by itself", &why, "");
        self.endings += 1;
        if self.endings > ENDINGS || log.lines().rev().take(40).any(|l| l.contains("panicked")) {
            return Err(format!("Freshet ended by itself {} times in this round, with: {why}", self.endings));
        }
        self.spawn();
        Ok(())
    }

    /// Keeps what explains a failure: the source's binary logs beside Freshet's data and output.
    fn keep(&mut self) {
        if self.sync.has_started() && self.sync.runs() {
            self.sync.kill();
        }
        let logs = self.folder.join("binlogs");
        let _ = std::fs::create_dir_all(&logs);
        for file in self.scene.source.binary_logs() {
            if let Some(name) = file.file_name() {
                let _ = std::fs::copy(&file, logs.join(name));
            }
        }
    }
}

/// Lets the network misbehave until the round is over.
async fn misbehave(scene: Scene, proxy: Proxy, mut rng: Rng) {
    while !scene.is_over() {
        tokio::time::sleep(Duration::from_millis(rng.u64(100..4000))).await;
        let (kind, detail) = proxy.misbehave(&mut rng);
        scene.journal.note("network", kind, &detail);
    }
    proxy.heal(false);
}

/// Rows for the table that is large enough to be caught in its copy.
async fn fill_big(source: &Source, db: &str, rows: u32) {
    for from in (0..rows).step_by(5000) {
        let rows: Vec<String> = (from..from + 5000).map(|id| format!("({id},'row {id}',{id})")).collect();
        source.run(&format!("INSERT INTO {db}.t_big VALUES {}", rows.join(","))).await;
    }
}
