//! Sources and sinks by URL: which scheme is whose, `${…}` in URLs, and what to say about a scheme that nobody knows.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use freshet_connect::file::FileSink;
use freshet_connect::generator::Generator;
use freshet_connect::mysql::MySql;
use freshet_core::engine::Connectors;
use freshet_core::secret::redact_url;
use freshet_core::{Error, Result, Sink, Source, TablePattern};
use freshet_warehouse::{Warehouse, WarehouseSink};

use crate::nearest::did_you_mean;

/// The URL of the warehouse inside the binary.
pub(crate) const EMBEDDED: &str = "embedded:";
const SOURCES: [&str; 3] = ["mysql", "mariadb", "generator"];
const SINKS: [&str; 2] = ["embedded", "file"];

/// Opens sources and sinks for the engine.
pub(crate) fn connectors(warehouse: Arc<Warehouse>) -> Connectors {
    let sources = Sources::default();
    Connectors {
        source: Box::new(move |url| sources.open(url)),
        sink: Box::new(move |url| match url {
            EMBEDDED => Ok(Arc::new(WarehouseSink::new(Arc::clone(&warehouse))) as Arc<dyn Sink>),
            other => open_file_sink(other),
        }),
    }
}

/// Opens sources. A generator is opened once per URL, because its log grows with its own clock.
#[derive(Default)]
pub(crate) struct Sources {
    generators: Mutex<HashMap<String, Weak<Generator>>>,
}

impl Sources {
    /// The source of that URL; connects to nothing yet.
    ///
    /// # Errors
    /// `Config` when the URL is wrong.
    pub(crate) fn open(&self, url: &str) -> Result<Arc<dyn Source>> {
        match scheme(url, &SOURCES)? {
            "generator" => {
                let mut generators = self.generators.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(open) = generators.get(url).and_then(Weak::upgrade) {
                    return Ok(open);
                }
                let opened = Arc::new(Generator::open(url)?);
                generators.insert(url.to_string(), Arc::downgrade(&opened));
                Ok(opened)
            }
            _ => Ok(Arc::new(MySql::new(&expand(url)?)?)),
        }
    }
}

/// The sink of that URL when it is not the warehouse.
///
/// # Errors
/// `Config` when the URL is wrong, or whatever opening the folder meets.
pub(crate) fn open_file_sink(url: &str) -> Result<Arc<dyn Sink>> {
    if url != "-" {
        scheme(url, &SINKS)?;
    }
    Ok(Arc::new(FileSink::open(&expand(url)?)?))
}

/// The URL's scheme, one of those.
fn scheme<'k>(url: &str, known: &[&'k str]) -> Result<&'k str> {
    let shown = redact_url(url);
    let Some((scheme, _)) = url.split_once(':') else {
        return Err(Error::config(format!("'{shown}' is not a URL"))
            .hint("write mysql://user:password@host:3306/database, or generator://shop to try it"));
    };
    known.iter().find(|k| **k == scheme).copied().ok_or_else(|| {
        Error::config(format!("unknown kind of URL '{scheme}:'")).with("url", shown).hint(
            did_you_mean(scheme, known.iter().copied()).unwrap_or_else(|| format!("known are {}", known.join(", "))),
        )
    })
}

/// Replaces `${NAME}` by a variable of the environment and `${file:/path}` by a file's contents. In front of an `@`
/// (user and password) the value is written in a URL's escapes, so that it may hold anything.
///
/// # Errors
/// `Config` when there is no such variable, `Io` when there is no such file.
pub(crate) fn expand(url: &str) -> Result<String> {
    let mut out = String::new();
    let mut rest = url;
    while let Some((before, after)) = rest.split_once("${") {
        let (name, behind) = after.split_once('}').ok_or_else(|| {
            Error::config("a ${ in a URL has no }").with("url", redact_url(url)).hint("write ${NAME} or ${file:/path}")
        })?;
        out.push_str(before);
        let value = match name.strip_prefix("file:") {
            Some(path) => read_secret(Path::new(path))?,
            None => std::env::var(name).map_err(|_| {
                Error::config(format!("the variable {name} is not set"))
                    .with("url", redact_url(url))
                    .hint(format!("export {name}, also wherever `freshet serve` runs this job later"))
            })?,
        };
        let in_credentials = out.contains("://") && behind.contains('@');
        out.push_str(&if in_credentials { escape(&value) } else { value });
        rest = behind;
    }
    out.push_str(rest);
    Ok(out)
}

/// A file's contents without the line's end.
///
/// # Errors
/// `Io`.
pub(crate) fn read_secret(path: &Path) -> Result<String> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| freshet_core::error::io_error(path, "read the password", e))
        .map_err(|e| e.hint("name a file that exists and holds nothing but the password"))?;
    Ok(text.trim_end_matches(['\n', '\r']).to_string())
}

/// The URL with `${file:…}` as its password.
///
/// # Errors
/// `Config` when the URL names no user, or a password already.
pub(crate) fn with_password_file(url: &str, file: &Path) -> Result<String> {
    let wrong =
        |why: &str| Error::config(why).with("url", redact_url(url)).hint("write mysql://user@host:3306/database");
    let file = std::path::absolute(file).map_err(|e| freshet_core::error::io_error(file, "find the file", e))?;
    let (scheme, rest) = url.split_once("://").ok_or_else(|| wrong("a password file needs a URL with a user"))?;
    let (user, host) = rest.split_once('@').ok_or_else(|| wrong("a password file needs a URL with a user"))?;
    if user.contains(':') {
        return Err(wrong("the password is in the URL and in a file"));
    }
    Ok(format!("{scheme}://{user}:${{file:{}}}@{host}", file.display()))
}

fn escape(value: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~".contains(&b);
    value.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// The database that a source's URL names, if any.
pub(crate) fn database_of(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let name = match scheme {
        "generator" => rest.split('/').next().filter(|h| !h.is_empty()).unwrap_or("shop"),
        // A password may hold a slash.
        _ => rest.rsplit_once('@').map_or(rest, |(_, host)| host).split_once('/')?.1,
    };
    let name = decode(name);
    (!name.is_empty()).then_some(name)
}

fn decode(text: &str) -> String {
    url::form_urlencoded::parse(format!("a={}", text.replace('+', "%2B")).as_bytes())
        .next()
        .map_or_else(String::new, |(_, value)| value.into_owned())
}

/// The tables that a command is about.
///
/// # Errors
/// `Config` when the pattern is wrong, or neither pattern nor URL name a database.
pub(crate) fn pattern(url: &str, tables: Option<&str>) -> Result<TablePattern> {
    let database = database_of(url);
    match (tables, &database) {
        (Some(tables), _) => TablePattern::parse(tables, database.as_deref()),
        (None, Some(database)) => Ok(TablePattern::database(database)),
        (None, None) => Err(Error::config("no tables are selected: the URL names no database")
            .with("url", redact_url(url))
            .hint("add the database to the URL, or --tables 'shop.*'")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use freshet_core::TableName;

    #[test]
    fn urls() {
        assert_eq!(database_of("mysql://u:p/w@h:3306/shop?x=1").as_deref(), Some("shop"));
        assert_eq!(database_of("mysql://u@h/odd%20name+x").as_deref(), Some("odd name+x"));
        assert_eq!(database_of("mysql://u@h"), None);
        assert_eq!(database_of("mysql://u@h/"), None);
        assert_eq!(database_of("generator://?rows=1").as_deref(), Some("shop"));
        assert!(pattern("mysql://u@h/we*ird", None).unwrap().matches(&TableName::new("we*ird", "t")));
        assert!(pattern("mysql://u@h/", None).is_err());
        let unknown = Sources::default().open("mysqll://u:sesame@h/x").err().unwrap();
        assert_eq!(unknown.hint.as_deref(), Some("did you mean mysql?"));
        assert!(!unknown.to_string().contains("sesame"), "{unknown}");
    }

    #[test]
    fn secrets_from_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        std::fs::write(&file, "p@ss/w rd\n").unwrap();
        let url = with_password_file("mysql://root@db/shop", &file).unwrap();
        assert!(!url.contains("p@ss"), "{url}");
        assert_eq!(redact_url(&url), "mysql://root:***@db/shop");
        assert_eq!(expand(&url).unwrap(), "mysql://root:p%40ss%2Fw%20rd@db/shop");
        assert!(with_password_file("mysql://root:x@db/shop", &file).is_err());
        assert!(expand("mysql://u:${FRESHET_NO_SUCH_VARIABLE}@h/d").unwrap_err().line().contains("NO_SUCH_VARIABLE"));
        assert!(expand("mysql://u:${OPEN@h/d").is_err());
        assert_eq!(expand("generator://shop").unwrap(), "generator://shop");
    }
}
