//! What a server's error numbers mean for us.

use freshet_core::{Error, ErrorKind};

use super::cursor::Cursor;

/// Characters of a statement that an error shows.
const STATEMENT_SHOWN: usize = 400;
/// The name in an error's context under which the server's error number stands.
const NUMBER: &str = "error";

/// The server's number of an error that it sent.
pub fn server_error_number(error: &Error) -> Option<u16> {
    error.context.iter().find(|(name, _)| name == NUMBER).and_then(|(_, n)| n.parse().ok())
}

/// Reads an error packet, its first byte 0xFF included.
pub(in crate::mysql) fn server_error(payload: &[u8], statement: Option<&str>) -> Error {
    let mut c = Cursor::new(payload);
    let number = c.u8().and_then(|_| c.u16()).unwrap_or(0);
    // Before the session exists there is no SQLSTATE.
    let text = match c.rest() {
        [b'#', rest @ ..] => rest.get(5..).unwrap_or_default(),
        rest => rest,
    };
    let mut error = Error::new(kind(number), message(number)).with(NUMBER, number);
    if let Some(statement) = statement {
        error = error.with("statement", shortened(statement));
    }
    if let Some(hint) = hint(number) {
        error = error.hint(hint);
    }
    error.because(String::from_utf8_lossy(text))
}

fn kind(number: u16) -> ErrorKind {
    match number {
        // Access denied in all its forms; host not allowed or blocked; account locked; password expired; TLS required.
        1044 | 1045 | 1698 | 1142 | 1143 | 1227 | 1370 | 1129 | 1130 | 1820 | 1862 | 3118 | 3159 | 4151 => {
            ErrorKind::Permission
        }
        1049 | 1051 | 1054 | 1146 => ErrorKind::NotFound,
        // Too many connections, shutting down, killed, network, lock waits, time limits: all may pass.
        1040 | 1053 | 1077 | 1152..=1161 | 1184 | 1203 | 1205 | 1213 | 1226 | 1317 | 1927 | 1969 | 3024 | 3169 => {
            ErrorKind::SourceUnavailable
        }
        1064 | 1193 | 1231 | 1235 | 1289 => ErrorKind::Unsupported,
        _ => ErrorKind::SourceState,
    }
}

fn message(number: u16) -> &'static str {
    match kind(number) {
        ErrorKind::Permission => "the server denied access",
        ErrorKind::NotFound => "the server does not have that",
        ErrorKind::SourceUnavailable => "the server cannot answer now",
        ErrorKind::Unsupported => "the server does not know that statement",
        _ => "the server refused",
    }
}

fn hint(number: u16) -> Option<&'static str> {
    Some(match number {
        1045 | 1698 => "check user and password in the source's URL, and from which hosts the user may connect",
        1044 | 1142 | 1143 | 1227 => "run `freshet check` with this source: it prints the missing GRANT",
        1049 => "check the database's name in the source's URL",
        1129 => "run `FLUSH HOSTS` at the server",
        1040 => "raise max_connections at the server, or let fewer clients connect",
        3159 => "set tls=required in the source's URL",
        _ => return None,
    })
}

/// A statement on one line, without its middle if it is long.
pub(in crate::mysql) fn shortened(statement: &str) -> String {
    let line = statement.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= STATEMENT_SHOWN {
        return line;
    }
    let half = STATEMENT_SHOWN / 2;
    let head: String = line.chars().take(half).collect();
    let tail: Vec<char> = line.chars().rev().take(half).collect();
    format!("{head} … {}", tail.into_iter().rev().collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_errors() {
        let e = server_error(b"\xFF\x15\x04#28000Access denied for user 'u'@'h'", None);
        assert_eq!(e.kind, ErrorKind::Permission);
        assert_eq!(server_error_number(&e), Some(1045));
        assert_eq!(e.cause.as_deref(), Some("Access denied for user 'u'@'h'"));
        let e = server_error(b"\xFF\x10\x04Too many connections", None);
        assert_eq!((e.kind, e.cause.as_deref()), (ErrorKind::SourceUnavailable, Some("Too many connections")));
        for n in 0..5 {
            let _ = server_error(&b"\xFF\x15\x04#2"[..n], Some("SELECT 1"));
        }
    }

    #[test]
    fn long_statements() {
        assert_eq!(shortened("SELECT\n  1"), "SELECT 1");
        assert!(shortened(&"ä ".repeat(5000)).chars().count() < 420);
    }
}
