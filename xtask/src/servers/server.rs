//! One running server: its command line, a thread that watches it, and the small script `ctl` with which tests kill
//! and start it. Thread and script speak through files in the server's folder: `pid` and `up` while it runs and
//! answers, `down` when a test wants it dead, `args` with extra arguments of the next start, `failed` with the reason
//! when a start did not succeed.

use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{Installed, account};
use crate::Result;
use crate::run::{capture, tail};

const START_LIMIT: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(20);

const CTL: &str = r#"#!/bin/sh
# Kills or starts this test server: ctl kill | ctl start [EXTRA SERVER ARGUMENTS…]
cd "$(dirname "$0")" || exit 1
case "$1" in
kill)
    : >down
    [ -e pid ] && kill -9 "$(cat pid)"
    while [ -e pid ]; do sleep 0.02; done ;;
start)
    shift
    printf '%s\n' "$@" >args
    rm -f down failed
    until [ -e up ]; do
        [ -e failed ] && { cat failed >&2; exit 1; }
        sleep 0.02
    done ;;
*) echo "usage: ctl kill | ctl start [ARGUMENTS…]" >&2; exit 2 ;;
esac
"#;

/// How much a server may take.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    /// InnoDB's buffer pool, in MiB.
    pub(crate) buffer_pool: u32,
    /// InnoDB's redo log, in MiB.
    pub(crate) redo_log: u32,
}

impl Size {
    /// For tests: small.
    pub(crate) const TEST: Size = Size { buffer_pool: 64, redo_log: 32 };
    /// For benchmarks: enough that the server is not what is measured.
    pub(crate) const BENCH: Size = Size { buffer_pool: 256, redo_log: 256 };
}

/// A running server; ends when dropped.
pub(crate) struct Server {
    /// `mariadb` or `mysql`, with a suffix where there are several.
    pub(crate) name: String,
    /// Name and version for people.
    pub(crate) title: String,
    /// Port of 127.0.0.1.
    pub(crate) port: u16,
    password: String,
    dir: PathBuf,
    stop: Arc<AtomicBool>,
    watcher: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts one in a folder of its own below `run_dir`, waits until it answers.
    ///
    /// # Errors
    /// With the end of the server's log.
    pub(crate) fn start(
        installed: &Installed,
        run_dir: &Path,
        name: &str,
        server_id: u32,
        size: Size,
        extra: &[&str],
    ) -> Result<Self> {
        let dir = run_dir.join(name);
        fs::create_dir(&dir).map_err(|e| format!("cannot create {}: {e}", dir.display()))?;
        let data = dir.join("data");
        capture(Command::new("cp").args(["-r", "--reflink=auto"]).arg(&installed.template).arg(&data))?;
        let password = random_hex()?;
        write(&dir, "init.sql", &init_sql(&password, installed.forget_accounts))?;
        write(&dir, "args", "")?;
        let ctl = write(&dir, "ctl", CTL)?;
        fs::set_permissions(&ctl, fs::Permissions::from_mode(0o755)).map_err(|e| format!("cannot chmod ctl: {e}"))?;

        // Between choosing a free port and the server's taking it another program may: then once more.
        for attempt in 1.. {
            let port = free_port()?;
            let mut args = command_line(installed, &dir, port, server_id, size);
            args.extend(extra.iter().map(OsString::from));
            let stop = Arc::new(AtomicBool::new(false));
            let watcher = {
                let (dir, stop) = (dir.clone(), Arc::clone(&stop));
                std::thread::spawn(move || watch(&dir, &args, port, &stop))
            };
            let (name, title, password) = (name.to_string(), installed.title.clone(), password.clone());
            let server = Server { name, title, port, password, dir: dir.clone(), stop, watcher: Some(watcher) };
            match server.wait() {
                Ok(()) => return Ok(server),
                Err(why) if attempt < 3 && why.contains("Address already in use") => drop(server),
                Err(why) => return Err(why),
            }
            let _ = fs::remove_file(dir.join("failed"));
        }
        Err("no free port".into())
    }

    /// Where a client connects, `root` with its password included.
    pub(crate) fn url(&self) -> String {
        format!("mysql://root:{}@127.0.0.1:{}/", self.password, self.port)
    }

    /// The script with which tests kill and start it.
    pub(crate) fn ctl(&self) -> PathBuf {
        self.dir.join("ctl")
    }

    fn wait(&self) -> Result<()> {
        loop {
            if self.dir.join("up").exists() {
                return Ok(());
            }
            if let Ok(why) = fs::read_to_string(self.dir.join("failed")) {
                return Err(why);
            }
            std::thread::sleep(PAUSE);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(watcher) = self.watcher.take() {
            let _ = watcher.join();
        }
    }
}

/// What both flavours get. Durability is that of a test: a crash of the machine may lose commits, one of the server
/// may not. The time zone is an odd one, so that nothing is right by accident.
fn command_line(installed: &Installed, dir: &Path, port: u16, server_id: u32, size: Size) -> Vec<OsString> {
    let dir = dir.display();
    let mut args = installed.program.clone();
    args.extend(account().map(OsString::from));
    args.extend(
        [
            format!("--datadir={dir}/data"),
            // A server that starts removes the temporary tables it finds there, be they another one's.
            format!("--tmpdir={dir}"),
            format!("--socket={dir}/socket"),
            format!("--pid-file={dir}/server.pid"),
            format!("--log-error={dir}/error.log"),
            format!("--init-file={dir}/init.sql"),
            format!("--port={port}"),
            format!("--server-id={server_id}"),
            format!("--innodb-buffer-pool-size={}M", size.buffer_pool),
            match installed.name {
                "mysql" => format!("--innodb-redo-log-capacity={}M", size.redo_log),
                _ => format!("--innodb-log-file-size={}M", size.redo_log),
            },
        ]
        .map(OsString::from),
    );
    args.extend(
        [
            "--bind-address=127.0.0.1",
            "--skip-name-resolve",
            "--max-connections=400",
            "--max-connect-errors=1000000",
            "--max-allowed-packet=64M",
            "--character-set-server=utf8mb4",
            "--default-time-zone=+05:30",
            "--log-bin=binlog",
            "--binlog-format=ROW",
            "--binlog-row-image=FULL",
            "--binlog-row-metadata=FULL",
            "--sync-binlog=0",
            "--innodb-flush-log-at-trx-commit=2",
        ]
        .map(OsString::from),
    );
    args.extend(installed.flags.iter().cloned());
    args
}

fn init_sql(password: &str, forget_accounts: &str) -> String {
    format!(
        "SET sql_log_bin = 0;\n{forget_accounts};\nALTER USER 'root'@'localhost' IDENTIFIED BY '{password}';\n\
         CREATE USER IF NOT EXISTS 'root'@'%' IDENTIFIED BY '{password}';\n\
         GRANT ALL PRIVILEGES ON *.* TO 'root'@'%' WITH GRANT OPTION;\n"
    )
}

/// Keeps one server running until `stop`, down while a test wants that.
fn watch(dir: &Path, args: &[OsString], port: u16, stop: &AtomicBool) {
    let stopped = || stop.load(Ordering::SeqCst);
    let down = || dir.join("down").exists();
    while !stopped() {
        if down() || dir.join("failed").exists() {
            std::thread::sleep(PAUSE);
            continue;
        }
        match spawn(dir, args) {
            Ok(mut child) => {
                let _ = fs::write(dir.join("pid"), child.id().to_string());
                match answers(&mut child, port, stop) {
                    Ok(()) => {
                        let _ = fs::write(dir.join("up"), "");
                        while !stopped() && child.try_wait().is_ok_and(|ended| ended.is_none()) {
                            std::thread::sleep(PAUSE);
                        }
                    }
                    Err(why) => fail(dir, &why),
                }
                let _ = child.kill();
                let status = child.wait();
                let _ = fs::remove_file(dir.join("up"));
                if !stopped() && !down() && !dir.join("failed").exists() {
                    fail(
                        dir,
                        &format!(
                            "the server ended by itself ({})",
                            status.map_or_else(|e| e.to_string(), |s| s.to_string())
                        ),
                    );
                    eprintln!("{}", fs::read_to_string(dir.join("failed")).unwrap_or_default());
                }
                let _ = fs::remove_file(dir.join("pid"));
            }
            Err(e) => fail(dir, &format!("cannot run {:?}: {e}", args[0])),
        }
    }
}

fn spawn(dir: &Path, args: &[OsString]) -> std::io::Result<Child> {
    let extra = fs::read_to_string(dir.join("args")).unwrap_or_default();
    let output = fs::File::options().create(true).append(true).open(dir.join("output.log"))?;
    Command::new(&args[0])
        .args(&args[1..])
        .args(extra.lines().filter(|line| !line.is_empty()))
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .process_group(0) // Ctrl-C at the terminal ends us, and the janitor them
        .spawn()
}

/// Waits for the first byte of a greeting.
fn answers(child: &mut Child, port: u16, stop: &AtomicBool) -> Result<()> {
    let start = Instant::now();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    while start.elapsed() < START_LIMIT && !stop.load(Ordering::SeqCst) {
        if let Ok(Some(status)) = child.try_wait() {
            return Err(format!("the server ended while starting ({status})"));
        }
        if let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(1)) {
            let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
            if stream.read_exact(&mut [0]).is_ok() {
                return Ok(());
            }
        }
        std::thread::sleep(PAUSE);
    }
    Err(format!("the server did not answer within {} s", START_LIMIT.as_secs()))
}

fn fail(dir: &Path, why: &str) {
    let log = |name| fs::read_to_string(dir.join(name)).map(|text| tail(&text, 25)).unwrap_or_default();
    let _ = fs::write(dir.join("failed"), format!("{why}\n{}\n{}\n", log("error.log"), log("output.log")));
}

fn write(dir: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let path = dir.join(name);
    fs::write(&path, text).map(|()| path).map_err(|e| format!("cannot write {name} in {}: {e}", dir.display()))
}

fn free_port() -> Result<u16> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|e| format!("no free port on 127.0.0.1: {e}"))
}

fn random_hex() -> Result<String> {
    let mut bytes = [0_u8; 12];
    fs::File::open("/dev/urandom")
        .and_then(|mut f| f.read_exact(&mut bytes))
        .map_err(|e| format!("cannot read /dev/urandom: {e}"))?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}
