//! The address of a source: `mysql://user:password@host:port/database?option=value`.

use std::path::PathBuf;

use freshet_core::nearest::nearest;
use freshet_core::secret::redact_url;
use freshet_core::{Error, Result, Secret};
use percent_encoding::percent_decode_str;

use super::types::{DecodeOptions, ZeroDates};
use super::wire::{Options, Tls, TlsMode};

/// The port of MySQL.
const PORT: u16 = 3306;
/// Connections that a copy uses at most, and how many when the URL does not say.
const CONNECTIONS_MAX: usize = 64;
const CONNECTIONS: usize = 4;

const OPTIONS: [&str; 8] =
    ["tls", "ssl-mode", "tls_ca", "ssl-ca", "server_id", "zero_dates", "cascades", "connections"];
const TLS_MODES: [(&str, TlsMode); 5] = [
    ("disabled", TlsMode::Disabled),
    ("preferred", TlsMode::Preferred),
    ("required", TlsMode::Required),
    ("verify-ca", TlsMode::VerifyCa),
    ("verify-identity", TlsMode::VerifyIdentity),
];

/// What a source's URL says.
#[derive(Debug, Clone)]
pub struct Address {
    /// How to connect.
    pub connect: Options,
    /// The number by which the server knows us as a replica; `None`: one is drawn at random.
    pub server_id: Option<u32>,
    /// How values are decoded.
    pub decode: DecodeOptions,
    /// Rows that foreign keys change without a trace in the log are read again each time, rather than refused.
    pub read_cascades: bool,
    /// Splits that are read at a time.
    pub connections: usize,
}

impl Address {
    /// Reads `mysql://user:password@host:3306/database?…` (`mariadb://` is the same). User, password and database are
    /// percent-decoded. Options:
    ///
    /// | Option | Values | Default |
    /// | --- | --- | --- |
    /// | `tls` (`ssl-mode`) | `disabled`, `preferred`, `required`, `verify-ca`, `verify-identity` | `preferred` |
    /// | `tls_ca` (`ssl-ca`) | a file of certificates of trusted authorities | the public authorities |
    /// | `server_id` | 1 to 4294967294, unique among the server's replicas | drawn at random |
    /// | `zero_dates` | `error`, `null`: dates that do not exist suspend their table, or become NULL | `error` |
    /// | `cascades` | `refuse`, `resync`: tables whose rows foreign keys change without a trace in the log are refused by `check` and suspended, or these rows are read again each time (the whole table, where it cannot be found out which) | `refuse` |
    /// | `connections` | 1 to 64 | 4 |
    ///
    /// # Errors
    /// `Config`, naming what is wrong, never with the password.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |why: &str| {
            Error::config(format!("the source's URL {why}"))
                .with("url", redact_url(text))
                .hint("write mysql://user:password@host:3306/database")
        };
        let url = url::Url::parse(text).map_err(|e| bad("cannot be read").because(e))?;
        if !matches!(url.scheme(), "mysql" | "mariadb") {
            return Err(bad("does not begin with mysql:// or mariadb://"));
        }
        let host = url.host_str().filter(|h| !h.is_empty()).ok_or_else(|| bad("names no host"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let decode = |part: &str, what: &str| {
            let decoded = percent_decode_str(part).decode_utf8().map(|t| t.into_owned());
            decoded.map_err(|_| bad(&format!("holds a {what} that is not UTF-8")))
        };
        let user = decode(url.username(), "user")?;
        if user.is_empty() {
            return Err(bad("names no user"));
        }
        let mut connect = Options::new(host, url.port().unwrap_or(PORT), user);
        connect.password = Secret::new(decode(url.password().unwrap_or_default(), "password")?);
        let path = url.path().trim_start_matches('/').trim_end_matches('/');
        if path.contains('/') {
            return Err(bad("names more than a database behind the host").hint("a / inside a name is written %2F"));
        }
        connect.database = Some(decode(path, "database")?).filter(|d| !d.is_empty());
        let mut address = Address {
            connect,
            server_id: None,
            decode: DecodeOptions::default(),
            read_cascades: false,
            connections: CONNECTIONS,
        };
        for (name, value) in url.query_pairs() {
            address.option(&name, &value).map_err(|e| e.with("url", redact_url(text)))?;
        }
        Ok(address)
    }

    fn option(&mut self, name: &str, value: &str) -> Result<()> {
        let wrong =
            |allowed: &str| Error::config(format!("option {name} of the source's URL is '{value}'")).hint(allowed);
        let Tls { mode, ca } = &mut self.connect.tls;
        match name {
            "tls" | "ssl-mode" => {
                let wanted = value.to_ascii_lowercase().replace('_', "-");
                let found = TLS_MODES.iter().find(|(n, _)| *n == wanted);
                let names = TLS_MODES.map(|(n, _)| n).join(", ");
                *mode = found.ok_or_else(|| wrong(&format!("it may be {names}")))?.1;
            }
            "tls_ca" | "ssl-ca" => *ca = Some(PathBuf::from(value)),
            "server_id" => match value.parse() {
                Ok(n @ 1..=0xFFFF_FFFE) => self.server_id = Some(n),
                _ => return Err(wrong("it is a number from 1 to 4294967294, unique among the server's replicas")),
            },
            "zero_dates" => {
                self.decode.zero_dates = match value {
                    "error" => ZeroDates::Error,
                    "null" => ZeroDates::Null,
                    _ => return Err(wrong("it may be error or null")),
                };
            }
            "cascades" => {
                self.read_cascades = match value {
                    "refuse" => false,
                    "resync" => true,
                    _ => return Err(wrong("it may be refuse or resync")),
                };
            }
            "connections" => match value.parse() {
                Ok(n @ 1..=CONNECTIONS_MAX) => self.connections = n,
                _ => return Err(wrong("it is a number from 1 to 64")),
            },
            _ => {
                let hint = match nearest(name, OPTIONS) {
                    Some(option) => format!("did you mean {option}?"),
                    None => format!("options are {}", OPTIONS.join(", ")),
                };
                return Err(Error::config(format!("option {name} of the source's URL is not known")).hint(hint));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads() {
        let a = Address::parse("mysql://ro%40ot:p%2Fs%3As@db.example:3307/sh%C3%B6p?zero_dates=null&cascades=resync&server_id=7&connections=2&tls=VERIFY_CA&tls_ca=/c.pem").unwrap();
        let c = &a.connect;
        assert_eq!(
            (c.host.as_str(), c.port, c.user.as_str(), c.password.reveal()),
            ("db.example", 3307, "ro@ot", "p/s:s")
        );
        assert_eq!(c.database.as_deref(), Some("shöp"));
        assert_eq!((a.server_id, a.connections, a.decode.zero_dates), (Some(7), 2, ZeroDates::Null));
        assert!(a.read_cascades);
        assert_eq!(c.tls, Tls { mode: TlsMode::VerifyCa, ca: Some(PathBuf::from("/c.pem")) });
        let b = Address::parse("mariadb://root@[::1]").unwrap();
        assert_eq!((b.connect.host.as_str(), b.connect.port, b.connect.database), ("::1", 3306, None));
    }

    #[test]
    fn refuses() {
        for (url, why) in [
            ("postgres://u:hunter2@h/d", "does not begin with mysql://"),
            ("mysql://u:hunter2@/d", "empty host"),
            ("mysql://h/d", "names no user"),
            ("mysql://u:hunter2@h:99999/d", "cannot be read"),
            ("mysql://u:hunter2@h/a/b", "more than a database"),
            ("mysql://u:hunter2@h/d?zero_date=null", "did you mean zero_dates?"),
            ("mysql://u:hunter2@h/d?frobnicate=1", "options are tls"),
            ("mysql://u:hunter2@h/d?connections=0", "from 1 to 64"),
            ("mysql://u:hunter2@h/d?cascades=yes", "refuse or resync"),
            ("mysql://u:hunter2@h/d?tls=maybe", "verify-ca"),
            ("nonsense", "cannot be read"),
        ] {
            let e = Address::parse(url).unwrap_err();
            assert_eq!(e.kind, freshet_core::ErrorKind::Config);
            let text = format!("{e}");
            assert!(text.contains(why), "{url}: {text}");
            assert!(!text.contains("hunter2"), "{text}");
        }
    }
}
