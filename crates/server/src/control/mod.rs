//! The control socket: how a command line asks the Freshet process that runs on the same machine. A Unix socket in the
//! data directory that only its owner may open; one connection is one request.
//!
//! The client writes one line, `{"command": "pause", "args": {…}}`. The server answers any number of lines
//! `{"progress": …}` and then one, `{"ok": true, "result": …}` or `{"ok": false, "error": …}` with a
//! [`freshet_core::Error`]. A client that closes the connection cancels its request.

use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use freshet_core::error::io_error;
use freshet_core::{Error, Result};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// The socket's name in the data directory.
pub const SOCKET: &str = "control.sock";
/// The longest line, in bytes, either way.
const LINE: u64 = 16 << 20;
/// Lines of progress that wait for a slow client; newer ones are dropped.
const PROGRESS: usize = 1024;
/// Pause after a connection could not be accepted.
const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// Answers requests.
#[async_trait]
pub trait Handler: Send + Sync {
    /// Carries a command out. Dropping the future cancels it. `progress` never waits: what a client does not read in
    /// time is dropped, so it is for showing, not for results.
    ///
    /// # Errors
    /// Whatever the command meets; `NotFound` for a command that is not known.
    async fn handle(&self, command: &str, args: Value, progress: &mut (dyn FnMut(Value) + Send)) -> Result<Value>;
}

/// Serves requests at this path until `shutdown` becomes true or its sender is dropped; then the socket is removed.
/// A socket that a dead process left is replaced.
///
/// # Errors
/// `AlreadyExists` when a live process answers at this path, `Io` when the socket cannot be made.
pub async fn serve(path: &Path, handler: Arc<dyn Handler>, mut shutdown: watch::Receiver<bool>) -> Result<()> {
    if UnixStream::connect(path).await.is_ok() {
        return Err(Error::already_exists("another Freshet is running with this data directory")
            .with("socket", path.display())
            .hint("stop it, or use another data directory"));
    }
    let listener = listen(path)?;
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = crate::stopped(&mut shutdown) => break,
            Some(_) = tasks.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => {
                    let handler = Arc::clone(&handler);
                    tasks.spawn(async move { answer(socket, handler.as_ref()).await });
                }
                Err(e) => {
                    tracing::warn!("cannot accept a connection at the control socket: {e}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    let _ = std::fs::remove_file(path);
    tasks.shutdown().await;
    Ok(())
}

/// Makes the socket in a directory that nobody else can enter and moves it to its place, so that at no moment anybody
/// else can connect, and a socket of a dead process is replaced in one step.
fn listen(path: &Path) -> Result<UnixListener> {
    let failed = |e| io_error(path, "make the control socket", e);
    let mut draft = path.as_os_str().to_owned();
    draft.push(".d");
    let draft = Path::new(&draft);
    let _ = std::fs::remove_dir_all(draft);
    std::fs::DirBuilder::new().mode(0o700).create(draft).map_err(failed)?;
    let inside = draft.join("s");
    let listener = UnixListener::bind(&inside).map_err(|e| {
        failed(e)
            .hint("the path of a Unix socket has about 100 bytes at most: use a data directory with a shorter path")
    })?;
    std::fs::set_permissions(&inside, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    std::fs::rename(&inside, path).map_err(failed)?;
    std::fs::remove_dir(draft).map_err(failed)?;
    Ok(listener)
}

/// Answers one request. Errors of the socket mean that the client is gone.
async fn answer(mut socket: UnixStream, handler: &dyn Handler) {
    let (reader, mut writer) = socket.split();
    let mut reader = BufReader::new(reader);
    let request = match read_line(&mut reader).await {
        Ok(Some(line)) => line,
        Ok(None) => return,
        Err(error) => {
            let _ = write_line(&mut writer, &outcome(Err(error))).await;
            return;
        }
    };
    let (sender, mut waiting) = mpsc::channel(PROGRESS);
    let mut progress = move |value| drop(sender.try_send(value));
    let mut work = std::pin::pin!(async {
        let request: Value = serde_json::from_slice(&request).map_err(|e| bad_request(&e.to_string()))?;
        let command = request["command"].as_str().ok_or_else(|| bad_request("no \"command\""))?;
        handler.handle(command, request["args"].clone(), &mut progress).await
    });
    let result = loop {
        tokio::select! {
            biased;
            Some(value) = waiting.recv() => {
                if write_line(&mut writer, &json!({ "progress": value })).await.is_err() {
                    return;
                }
            }
            result = &mut work => break result,
            () = closed(&mut reader) => return,
        }
    };
    while let Ok(value) = waiting.try_recv() {
        if write_line(&mut writer, &json!({ "progress": value })).await.is_err() {
            return;
        }
    }
    let _ = write_line(&mut writer, &outcome(result)).await;
}

fn bad_request(why: &str) -> Error {
    Error::config("a request at the control socket cannot be read").because(why)
}

fn outcome(result: Result<Value>) -> Value {
    match result {
        Ok(result) => json!({ "ok": true, "result": result }),
        Err(error) => json!({ "ok": false, "error": error }),
    }
}

/// Waits until the other side closes the connection; whatever else it sends is ignored.
async fn closed(reader: &mut (impl AsyncBufReadExt + Unpin)) {
    while let Ok(more) = reader.fill_buf().await {
        let length = more.len();
        if length == 0 {
            return;
        }
        reader.consume(length);
    }
}

/// The next line without its end, `None` when the connection is closed before a whole one.
async fn read_line(reader: &mut (impl AsyncBufReadExt + Unpin)) -> Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    if reader.take(LINE).read_until(b'\n', &mut line).await.is_err() {
        return Ok(None);
    }
    match line.pop() {
        Some(b'\n') => Ok(Some(line)),
        Some(_) if line.len() as u64 + 1 >= LINE => {
            Err(Error::data("a line at the control socket is too long").with("limit", format!("{LINE} bytes")))
        }
        _ => Ok(None),
    }
}

async fn write_line(writer: &mut (impl AsyncWriteExt + Unpin), value: &Value) -> std::io::Result<()> {
    let mut line = value.to_string();
    line.push('\n');
    writer.write_all(line.as_bytes()).await?;
    writer.flush().await
}

/// Asks the process that serves this path; `on_progress` gets its lines of progress as they come.
///
/// # Errors
/// `NotFound` when no process serves the path, `Io` when the connection breaks, otherwise the command's own error.
pub async fn call(
    path: &Path,
    command: &str,
    args: Value,
    on_progress: &mut (dyn FnMut(Value) + Send),
) -> Result<Value> {
    let mut socket = UnixStream::connect(path).await.map_err(|e| not_running(path, e))?;
    let (reader, mut writer) = socket.split();
    let mut reader = BufReader::new(reader);
    let broke = || Error::io("Freshet ended before it had answered").with("socket", path.display());
    write_line(&mut writer, &json!({ "command": command, "args": args })).await.map_err(|e| broke().because(e))?;
    loop {
        let line = read_line(&mut reader).await?.ok_or_else(broke)?;
        let unreadable = || Error::data("the answer at the control socket cannot be read").with("command", command);
        let mut answer: Value = serde_json::from_slice(&line).map_err(|e| unreadable().because(e))?;
        if let Some(progress) = answer.get_mut("progress") {
            on_progress(progress.take());
        } else if answer["ok"] == Value::Bool(true) {
            return Ok(answer["result"].take());
        } else {
            return Err(serde_json::from_value(answer["error"].take()).unwrap_or_else(|e| unreadable().because(e)));
        }
    }
}

fn not_running(path: &Path, error: std::io::Error) -> Error {
    use std::io::ErrorKind::{ConnectionRefused, NotFound};
    match error.kind() {
        NotFound | ConnectionRefused => Error::not_found("no Freshet is running with this data directory")
            .with("socket", path.display())
            .hint("start it with `freshet serve`, or name its data directory"),
        _ => io_error(path, "ask the running Freshet", error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use freshet_core::ErrorKind;
    use std::path::PathBuf;
    use std::time::Duration;

    struct Echo {
        cancelled: mpsc::UnboundedSender<()>,
    }

    struct OnDrop(mpsc::UnboundedSender<()>);
    impl Drop for OnDrop {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }

    #[async_trait]
    impl Handler for Echo {
        async fn handle(&self, command: &str, args: Value, progress: &mut (dyn FnMut(Value) + Send)) -> Result<Value> {
            match command {
                "echo" => {
                    (0..3).for_each(|n| progress(json!(n)));
                    Ok(args)
                }
                "forever" => {
                    let _guard = OnDrop(self.cancelled.clone());
                    progress(json!("started"));
                    std::future::pending().await
                }
                _ => Err(Error::not_found("no such command").with("command", command).hint("try echo")),
            }
        }
    }

    struct Running {
        directory: tempfile::TempDir,
        stop: watch::Sender<bool>,
        task: tokio::task::JoinHandle<Result<()>>,
        cancelled: mpsc::UnboundedReceiver<()>,
    }

    async fn start() -> Running {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join(SOCKET);
        // A socket that a dead process left behind.
        drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket"));
        let (stop, stopped) = watch::channel(false);
        let (sender, cancelled) = mpsc::unbounded_channel();
        let at = path.clone();
        let task = tokio::spawn(async move { serve(&at, Arc::new(Echo { cancelled: sender }), stopped).await });
        while UnixStream::connect(&path).await.is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Running { directory, stop, task, cancelled }
    }

    fn path(running: &Running) -> PathBuf {
        running.directory.path().join(SOCKET)
    }

    #[tokio::test]
    async fn asks_and_answers() {
        let running = start().await;
        let path = path(&running);
        let mode = std::fs::metadata(&path).expect("the socket").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let mut seen = Vec::new();
        let answer = call(&path, "echo", json!({"a": "ü\n"}), &mut |p| seen.push(p)).await.expect("an answer");
        assert_eq!((answer, seen), (json!({"a": "ü\n"}), vec![json!(0), json!(1), json!(2)]));
        let error = call(&path, "nothing", Value::Null, &mut |_| {}).await.expect_err("an error");
        assert_eq!((error.kind, error.hint.as_deref()), (ErrorKind::NotFound, Some("try echo")));
        let (_keep, second) = watch::channel(false);
        let (sender, _) = mpsc::unbounded_channel();
        let taken = serve(&path, Arc::new(Echo { cancelled: sender }), second).await.expect_err("it is taken");
        assert_eq!(taken.kind, ErrorKind::AlreadyExists);
        running.stop.send(true).expect("it runs");
        running.task.await.expect("no panic").expect("a good end");
        let gone = call(&path, "echo", Value::Null, &mut |_| {}).await.expect_err("nobody there");
        assert_eq!(gone.kind, ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn a_client_that_goes_away_cancels() {
        let mut running = start().await;
        let path = path(&running);
        let (sender, mut started) = mpsc::unbounded_channel();
        let client = tokio::spawn(async move {
            call(&path, "forever", Value::Null, &mut |_| {
                let _ = sender.send(());
            })
            .await
        });
        started.recv().await.expect("it started");
        client.abort();
        running.cancelled.recv().await.expect("it was cancelled");
    }

    #[tokio::test]
    async fn bad_requests_are_answered() {
        let running = start().await;
        for bad in ["nonsense\n", "{}\n", "[1]\n", "\u{0}\n"] {
            let mut socket = UnixStream::connect(path(&running)).await.expect("a connection");
            socket.write_all(bad.as_bytes()).await.expect("sent");
            let mut answer = String::new();
            socket.read_to_string(&mut answer).await.expect("an answer");
            assert!(answer.starts_with(r#"{"error":"#) && answer.contains(r#""ok":false"#), "{answer}");
        }
    }
}
