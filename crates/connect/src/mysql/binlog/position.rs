//! Places in the log as text: `mysql-bin.000003:4567`, and where the server has global transaction ids also
//! ` gtid=0-1-55` or ` gtid=uuid:1-77` behind it. The ids are what counts: they survive a change of the server; file and
//! offset are what is left without them, and tell people where to look. ` server=…` says whose file it is. ` xa=…` lists the XA transactions that are prepared
//! there (`xa.rs`); it has no part in the order of positions.

use std::cmp::Ordering;
use std::fmt;

use freshet_core::{Error, Position, Result};

use super::gtid::GtidSet;
use super::xa::Prepared;

/// A place in a server's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPosition {
    /// File name.
    pub file: String,
    /// Bytes from its begin.
    pub offset: u64,
    /// All transactions before it; `None` where the server does not number them (all).
    pub gtids: Option<GtidSet>,
    /// Whose log it is, if that is known.
    pub server: Option<String>,
    /// XA transactions that are prepared and not finished.
    pub prepared: Prepared,
}

impl LogPosition {
    /// Reads the text of a stored position.
    ///
    /// # Errors
    /// `SourceState` when it is not one of MySQL's.
    pub fn parse(position: &Position) -> Result<Self> {
        Self::from_text(&position.commit).ok_or_else(|| {
            Error::source_state("the stored position is not one of a MySQL log")
                .with("position", position)
                .hint("drop the job and create it again")
        })
    }

    fn from_text(text: &str) -> Option<Self> {
        let (text, prepared) = match text.split_once(" xa=") {
            Some((text, prepared)) => (text, Prepared::parse(prepared)?),
            None => (text, Prepared::default()),
        };
        let (text, server) = match text.split_once(" server=") {
            Some((text, server)) => (text, Some(server.to_string())),
            None => (text, None),
        };
        let (place, gtids) = match text.split_once(" gtid=") {
            Some((place, gtids)) => (place, Some(GtidSet::parse(gtids)?)),
            None => (text, None),
        };
        let (file, offset) = place.rsplit_once(':')?;
        Some(LogPosition { file: file.to_string(), offset: offset.parse().ok()?, gtids, server, prepared })
    }

    /// A place without more.
    pub fn at(file: impl Into<String>, offset: u64, gtids: Option<GtidSet>) -> Self {
        LogPosition { file: file.into(), offset, gtids, server: None, prepared: Prepared::default() }
    }

    /// In the log of this server.
    #[must_use]
    pub fn of_server(self, server: &str) -> Self {
        LogPosition { server: Some(server.to_string()), ..self }
    }

    /// As a stored position.
    pub fn position(&self) -> Position {
        Position::at(self.to_string())
    }

    /// The transaction ids, if there are any.
    pub fn known_gtids(&self) -> Option<&GtidSet> {
        self.gtids.as_ref().filter(|g| !g.is_empty())
    }

    /// The order of two places: by transaction ids where both have them, else by file and offset of the same server.
    pub fn compare(&self, other: &LogPosition) -> Option<Ordering> {
        if let (Some(a), Some(b)) = (self.known_gtids(), other.known_gtids()) {
            return a.compare(b);
        }
        if self.server.is_some() && other.server.is_some() && self.server != other.server {
            return None;
        }
        let (base, number) = file_number(&self.file)?;
        let (other_base, other_number) = file_number(&other.file)?;
        (base == other_base).then(|| (number, self.offset).cmp(&(other_number, other.offset)))
    }
}

impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.offset)?;
        if let Some(gtids) = self.known_gtids() {
            write!(f, " gtid={gtids}")?;
        }
        if let Some(server) = &self.server {
            write!(f, " server={server}")?;
        }
        match self.prepared.0.is_empty() {
            true => Ok(()),
            false => write!(f, " xa={}", self.prepared),
        }
    }
}

/// The order of two stored positions; `None` when they are not comparable.
pub fn compare(a: &Position, b: &Position) -> Option<Ordering> {
    let order = LogPosition::parse(a).ok()?.compare(&LogPosition::parse(b).ok()?)?;
    Some(order.then(a.event.cmp(&b.event)))
}

/// Base name and number of a log file.
pub fn file_number(file: &str) -> Option<(&str, u64)> {
    let (base, number) = file.rsplit_once('.')?;
    Some((base, number.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Position {
        Position::at(text)
    }

    #[test]
    fn text() {
        for text in [
            "mysql-bin.000003:4567",
            "bin:odd.000003:4 gtid=0-1-55,1-1-2",
            "b.000003:4 server=h:3306:1",
            "b.000003:4 gtid=0-1-55 server=h:3306:1 xa=1:61:@b.000002:77@d/t,1:62:@b.000002:99@*",
            "b.000003:4 xa=1:61:@b.000002:77",
        ] {
            assert_eq!(LogPosition::parse(&at(text)).unwrap().to_string(), text);
        }
        for bad in ["", "x", "x:y", "bin.1:4 gtid=x", "bin.1:-4", "bin.1:4 xa=x"] {
            assert!(LogPosition::parse(&at(bad)).is_err(), "{bad}");
        }
        assert_eq!(LogPosition::parse(&at("b.1:4 gtid=")).unwrap().to_string(), "b.1:4");
    }

    #[test]
    fn order() {
        use Ordering::*;
        let cmp = |a: &str, b: &str| compare(&at(a), &at(b));
        assert_eq!(cmp("b.000009:4", "b.000010:4"), Some(Less));
        assert_eq!(cmp("b.999999:4", "b.1000000:4"), Some(Less));
        assert_eq!(cmp("b.000009:4", "b.000009:4"), Some(Equal));
        assert_eq!(cmp("b.000009:4 xa=1:61:@b.000002:77", "b.000009:4"), Some(Equal));
        assert_eq!(cmp("b.000009:4", "c.000009:5"), None);
        assert_eq!(cmp("b.000009:4 server=a", "b.000009:5 server=a"), Some(Less));
        assert_eq!(cmp("b.000009:4 server=a", "b.000009:5 server=b"), None);
        assert_eq!(cmp("b.000009:4 gtid=0-1-7 server=a", "b.000009:4 gtid=0-1-7 server=b"), Some(Equal));
        assert_eq!(cmp("b.000009:4 gtid=0-1-7", "c.000001:5 gtid=0-2-6"), Some(Greater));
        assert_eq!(cmp("b.000009:4 gtid=0-1-7", "b.000009:5"), Some(Less));
        assert_eq!(compare(&Position { event: 1, ..at("b.1:4") }, &at("b.1:4")), Some(Greater));
    }
}
