//! The folder of one run's servers, and its janitor: a shell that waits for the end of our process, however it comes
//! (the pipe between us closes then), kills the servers that are still there and removes the folder.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::Result;

const JANITOR: &str = r#"cat >/dev/null
for pid in "$1"/*/pid; do [ -e "$pid" ] && kill -9 "$(cat "$pid")"; done 2>/dev/null
for try in 1 2 3 4 5; do rm -rf "$1" 2>/dev/null && break; sleep 0.2; done"#;

/// A temporary folder that does not outlive this process, nor do the servers in it.
pub(crate) struct RunDir {
    path: PathBuf,
    janitor: Child,
}

impl RunDir {
    /// A new folder with its janitor.
    ///
    /// # Errors
    /// When it cannot be created.
    pub(crate) fn new() -> Result<Self> {
        let path = tempfile::Builder::new()
            .prefix("freshet-servers-")
            .tempdir()
            .map_err(|e| format!("cannot create a temporary folder: {e}"))?
            .keep();
        let janitor = Command::new("sh")
            .args(["-c", JANITOR, "janitor"])
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0) // Ctrl-C at the terminal is for us, not for it
            .spawn()
            .map_err(|e| format!("cannot run sh: {e}"))?;
        Ok(RunDir { path, janitor })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        drop(self.janitor.stdin.take());
        let _ = self.janitor.wait();
    }
}
