//! Running other programs: with their output as text, or streamed to the terminal and into a log file at once.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::Result;

/// Runs to the end and returns the standard output.
///
/// # Errors
/// When it cannot be started or fails; the message ends with its error output.
pub(crate) fn capture(command: &mut Command) -> Result<String> {
    let shown = show(command);
    let out = command.stdin(Stdio::null()).output().map_err(|e| format!("cannot run `{shown}`: {e}"))?;
    if out.status.success() {
        return Ok(String::from_utf8_lossy(&out.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&out.stderr);
    Err(format!("`{shown}` failed ({}):\n{}", out.status, tail(said.trim_end(), 15)))
}

/// A stage of a longer task: what it was, how long it took, how it ended.
pub(crate) struct Stage {
    pub(crate) name: String,
    pub(crate) took: Duration,
    pub(crate) ok: bool,
}

/// Runs to the end, showing every line while it comes and keeping it in `log`. `watch` sees each line.
///
/// # Errors
/// When it cannot be started or the log cannot be written; a failing program is a stage that is not ok.
pub(crate) fn stream(
    name: &str,
    command: &mut Command,
    log: &Path,
    watch: impl Fn(&str) + Send + Sync + 'static,
) -> Result<Stage> {
    let start = Instant::now();
    println!("\n== {name}: {}", show(command));
    let file = File::create(log).map_err(|e| format!("cannot write {}: {e}", log.display()))?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("cannot run `{}`: {e}", show(command)))?;
    let sink = Arc::new(Mutex::new(file));
    let watch = Arc::new(watch);
    let pipes: [Option<Box<dyn Read + Send>>; 2] = [
        child.stdout.take().map(|p| Box::new(p) as Box<dyn Read + Send>),
        child.stderr.take().map(|p| Box::new(p) as Box<dyn Read + Send>),
    ];
    let readers: Vec<_> = pipes
        .into_iter()
        .flatten()
        .map(|pipe| {
            let (sink, watch) = (Arc::clone(&sink), Arc::clone(&watch));
            std::thread::spawn(move || copy_lines(pipe, &sink, watch.as_ref()))
        })
        .collect();
    let status = child.wait().map_err(|e| format!("lost `{name}`: {e}"))?;
    for reader in readers {
        let _ = reader.join();
    }
    Ok(Stage { name: name.into(), took: start.elapsed(), ok: status.success() })
}

fn copy_lines(pipe: impl Read, log: &Mutex<File>, watch: &(impl Fn(&str) + ?Sized)) {
    let mut lines = BufReader::new(pipe);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
        let text = String::from_utf8_lossy(&line);
        print!("{text}");
        let _ = std::io::stdout().flush();
        if let Ok(mut log) = log.lock() {
            let _ = log.write_all(&line);
        }
        watch(text.trim_end());
        line.clear();
    }
}

/// The last lines of a text.
pub(crate) fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// `cargo` as it runs us, in the workspace's root.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(crate::root());
    if std::io::IsTerminal::is_terminal(&std::io::stdout()) {
        command.env("CARGO_TERM_COLOR", "always");
    }
    command
}

fn show(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let args = command.get_args().map(|a| a.to_string_lossy().into_owned());
    std::iter::once(program).chain(args).collect::<Vec<_>>().join(" ")
}
