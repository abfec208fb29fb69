//! What people see. Everything here makes text out of plain values and is tested without a terminal; [`Printer`] is
//! the only place that writes: data to the standard output, everything else to the standard error.

pub(crate) mod checks;
pub(crate) mod progress;
pub(crate) mod rows;
pub(crate) mod status;
pub(crate) mod table;
pub(crate) mod verify;

use std::ffi::OsString;
use std::io::{IsTerminal, Write};

use freshet_core::secret::redact_arguments;
use freshet_core::{Error, ErrorKind};
use serde_json::{Value, json};

/// Colours, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Style {
    /// Whether to colour.
    pub(crate) color: bool,
}

impl Style {
    fn paint(self, code: &str, text: &str) -> String {
        if self.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }

    /// Good.
    pub(crate) fn green(self, text: &str) -> String {
        self.paint("32", text)
    }

    /// Bad.
    pub(crate) fn red(self, text: &str) -> String {
        self.paint("31", text)
    }

    /// To be noticed.
    pub(crate) fn yellow(self, text: &str) -> String {
        self.paint("33", text)
    }

    /// What to do.
    pub(crate) fn cyan(self, text: &str) -> String {
        self.paint("36", text)
    }

    /// Names.
    pub(crate) fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    /// Beside the point.
    pub(crate) fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }
}

/// What to do about a defect.
const DEFECT: &str = "this is a defect of Freshet: report it with what -vv logs; what was acknowledged is stored";

/// What a command answers.
#[derive(Debug, Default)]
pub(crate) struct Reply {
    /// For `--json`.
    pub(crate) result: Value,
    /// Why the command failed although it has a result.
    pub(crate) failed: Option<Error>,
}

impl Reply {
    /// A good result.
    pub(crate) fn of(result: impl serde::Serialize) -> Reply {
        Reply { result: serde_json::to_value(result).unwrap_or(Value::Null), failed: None }
    }
}

/// Where the output goes.
#[derive(Debug, Clone)]
pub(crate) struct Printer {
    /// Name of the command.
    pub(crate) command: &'static str,
    /// One JSON object instead of text.
    pub(crate) json: bool,
    /// Nothing but data and errors.
    pub(crate) quiet: bool,
    /// Colours on the standard error.
    pub(crate) style: Style,
    /// Colours on the standard output.
    pub(crate) data_style: Style,
    /// Whether progress may be redrawn.
    pub(crate) terminal: bool,
}

impl Printer {
    /// For this process.
    pub(crate) fn new(command: &'static str, json: bool, quiet: bool, no_color: bool) -> Printer {
        let plain = is_plain(no_color);
        let (out, err) = (std::io::stdout().is_terminal(), std::io::stderr().is_terminal());
        Printer {
            command,
            json,
            quiet,
            style: Style { color: err && !plain },
            data_style: Style { color: out && !plain },
            terminal: err && !json && !quiet,
        }
    }

    /// Data for the standard output; nothing with `--json`. A reader that has gone away is no error.
    pub(crate) fn data(&self, text: &str) {
        if !self.json {
            let _ = std::io::stdout().lock().write_all(text.as_bytes());
        }
    }

    /// A line for people.
    pub(crate) fn note(&self, line: &str) {
        if !self.json && !self.quiet {
            self.error_text(&format!("{line}\n"));
        }
    }

    /// Text for the standard error, as it is.
    pub(crate) fn error_text(&self, text: &str) {
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
    }

    /// The end of a command: prints the envelope or the error, and answers the exit code.
    pub(crate) fn finish(&self, outcome: Result<Reply, Error>) -> i32 {
        let outcome = outcome.map_err(|e| without_passwords(e, || std::env::args_os().skip(1)));
        let failed = match &outcome {
            Ok(reply) => reply.failed.as_ref(),
            Err(e) => Some(e),
        };
        if self.json {
            let text = format!("{}\n", envelope(Some(self.command), &outcome));
            let _ = std::io::stdout().lock().write_all(text.as_bytes());
        } else if let Some(e) = failed {
            self.error_text(&error(e, self.style));
        }
        failed.map_or(0, |e| e.kind.exit_code())
    }
}

/// Whether there are to be no colours even on a terminal.
pub(crate) fn is_plain(no_color: bool) -> bool {
    no_color || std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty())
}

/// The error without the passwords of the command's arguments: a URL may stand where something else should, which a
/// message then quotes.
fn without_passwords<A: Iterator<Item = OsString>>(e: Error, arguments: impl Fn() -> A) -> Error {
    let hide = |text: String| redact_arguments(&text, arguments().map(|a| a.to_string_lossy().into_owned()));
    Error {
        kind: e.kind,
        message: hide(e.message),
        context: e.context.into_iter().map(|(name, value)| (name, hide(value))).collect(),
        hint: e.hint.map(hide),
        cause: e.cause.map(hide),
    }
}

/// The one envelope of `--json`; no command: what was typed names none.
pub(crate) fn envelope(command: Option<&str>, outcome: &Result<Reply, Error>) -> Value {
    let (result, failed) = match outcome {
        Ok(reply) => (&reply.result, reply.failed.as_ref()),
        Err(e) => (&Value::Null, Some(e)),
    };
    let error = failed.map(|e| {
        let hint = e.hint.clone().or_else(|| (e.kind == ErrorKind::Internal).then(|| DEFECT.to_string()));
        json!({"kind": e.kind, "message": e.message, "context": e.context, "cause": e.cause, "hint": hint})
    });
    json!({"command": command, "ok": error.is_none(), "result": result, "error": error})
}

/// What and why, where on lines of their own, then what to do.
pub(crate) fn error(e: &Error, style: Style) -> String {
    let mut out = format!("{} {}", style.red("error:"), e.message);
    if let Some(cause) = &e.cause {
        out.push_str(&format!(": {cause}"));
    }
    out.push('\n');
    for (name, value) in &e.context {
        out.push_str(&format!("  {name}: {value}\n"));
    }
    if let Some(hint) = &e.hint {
        out.push_str(&format!("\n{} {hint}\n", style.cyan("hint:")));
    }
    out
}

/// `1234567` as `1,234,567`.
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// `1.5 KB`, `23 MB`.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KB", "MB", "GB", "TB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 || value >= 9.95 {
        format!("{value:.0} {}", UNITS[unit])
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// `0:07`, `12:34`, `1:02:03`.
pub(crate) fn clock(seconds: u64) -> String {
    let (h, m, s) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if h > 0 { format!("{h}:{m:02}:{s:02}") } else { format!("{m}:{s:02}") }
}

/// `0 ms`, `250 ms`, `3.2 s`, `2:05:00`.
pub(crate) fn lag(ms: i64) -> String {
    match ms.max(0).unsigned_abs() {
        ms @ 0..1000 => format!("{ms} ms"),
        ms @ 1000..120_000 => format!("{:.1} s", ms as f64 / 1000.0),
        ms => clock(ms / 1000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Style = Style { color: false };

    #[test]
    fn errors() {
        let e = Error::source_unavailable("cannot connect")
            .with("address", "db:3306")
            .because("connection refused")
            .hint("is the server running?");
        assert_eq!(
            error(&e, PLAIN),
            "error: cannot connect: connection refused\n  address: db:3306\n\nhint: is the server running?\n"
        );
        assert!(error(&e, Style { color: true }).starts_with("\x1b[31merror:\x1b[0m cannot"));
        let failed = envelope(Some("check"), &Err(e));
        assert_eq!(failed["error"]["kind"], "source_unavailable");
        assert_eq!(failed["error"]["hint"], "is the server running?");
        assert_eq!(failed["ok"], false);
        let ok = envelope(Some("status"), &Ok(Reply::of([1, 2])));
        assert_eq!(ok.to_string(), r#"{"command":"status","error":null,"ok":true,"result":[1,2]}"#);
        let half = Reply { result: json!([]), failed: Some(Error::source_state("1 failed")) };
        let half = envelope(Some("check"), &Ok(half));
        assert_eq!((&half["error"]["message"], &half["error"]["kind"]), (&json!("1 failed"), &json!("source_state")));
        assert!(half["error"].as_object().unwrap().contains_key("hint") && half["result"].is_array());
    }

    #[test]
    fn no_error_quotes_a_password() {
        let arguments = || ["status", "root:sesame@db"].map(OsString::from).into_iter();
        let quote = |text: &str| format!("{text} root:sesame@db");
        let e = Error::io(quote("a")).with("path", quote("b")).because(quote("c")).hint(quote("d"));
        let shown = without_passwords(e, arguments).to_string();
        assert_eq!(shown, "a root:***@db (path: b root:***@db): c root:***@db\nhint: d root:***@db");
    }

    #[test]
    fn numbers() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([0, 999, 1000, 9_960_000, 23_400_000].map(bytes), ["0 B", "999 B", "1.0 KB", "10 MB", "23 MB"]);
        assert_eq!([7, 754, 3723].map(clock), ["0:07", "12:34", "1:02:03"]);
        assert_eq!([-5, 250, 3200, 7_500_000].map(lag), ["0 ms", "250 ms", "3.2 s", "2:05:00"]);
    }
}
