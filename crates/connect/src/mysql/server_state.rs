//! Which server answers, and whether it can give its log from a job's position on: it may have purged that part, been
//! reset, lost the tail of its log in a crash, or be another server. With global transaction ids a job follows to any
//! server that has all that the job has read; without them to none.

use std::cmp::Ordering;

use freshet_core::{Error, Result};

use super::binlog::gtid::{GtidSet, Uuid};
use super::binlog::position::{LogPosition, file_number};
use super::wire::{Connection, Flavour, Row, server_error_number};

/// What to do when the log cannot be read on.
const ANEW: &str = "`freshet resync JOB` copies the tables anew and goes on from there";

/// What a server says about itself and its log.
#[derive(Debug, Clone)]
pub(super) struct ServerState {
    /// MySQL's UUID; MariaDB has none: host name, port and server id.
    pub(super) identity: String,
    /// The number under which MariaDB's own transactions are.
    server_id: u32,
    /// All transactions are numbered.
    numbers: bool,
    /// Transactions in the log, those included that are purged.
    executed: GtidSet,
    /// MariaDB: the last transaction in the log of each domain and server.
    logged: Vec<(u32, u32, u64)>,
    /// MySQL: those that are no longer in the log.
    purged: GtidSet,
    /// Log files with their sizes; `None`: the user may not see them.
    files: Option<Vec<(String, u64)>>,
}

/// Which server answers.
pub(super) async fn identity(c: &mut Connection) -> Result<String> {
    let sql = match c.server.flavour {
        Flavour::MySql => "SELECT @@server_uuid",
        Flavour::MariaDb => "SELECT CONCAT(@@hostname, ':', @@port, ':', @@server_id)",
    };
    let rows = c.query(sql).await?;
    // Positions are cut at blanks.
    Ok(rows.first().and_then(|r| r.get_str(0)).unwrap_or_default().replace(char::is_whitespace, "_"))
}

impl ServerState {
    /// Asks the server.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub(super) async fn ask(c: &mut Connection) -> Result<Self> {
        let identity = identity(c).await?;
        let mysql = c.server.flavour == Flavour::MySql;
        let rows = c
            .query(match mysql {
                true => "SELECT @@server_id, @@global.gtid_mode, @@global.gtid_executed, @@global.gtid_purged, ''",
                false => "SELECT @@server_id, 'ON', @@global.gtid_binlog_pos, '', @@global.gtid_binlog_state",
            })
            .await?;
        let text = |i: usize| rows.first().and_then(|r| r.get_str(i)).unwrap_or_default();
        let empty = match mysql {
            true => GtidSet::MySql(Default::default()),
            false => GtidSet::MariaDb(Default::default()),
        };
        let set = |i: usize| Some(text(i)).filter(|t| !t.trim().is_empty()).and_then(GtidSet::parse);
        let (server_id, numbers) = (text(0).parse().unwrap_or(0), text(1) == "ON");
        let (executed, purged) = (set(2).unwrap_or(empty.clone()), set(3).unwrap_or(empty));
        let number = |t: &str| -> Option<(u32, u32, u64)> {
            let mut parts = t.trim().splitn(3, '-');
            Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
        };
        let logged = text(4).split(',').filter_map(number).collect();
        let files = match c.query("SHOW BINARY LOGS").await {
            Ok(rows) => {
                let file = |r: &Row| Some((r.get_str(0)?.to_string(), r.number(1)?));
                Some(rows.iter().filter_map(file).collect())
            }
            Err(e) if server_error_number(&e).is_some() => None,
            Err(e) => return Err(e),
        };
        Ok(ServerState { identity, server_id, numbers, executed, logged, purged, files })
    }

    /// Whether this server's log can be read from a position on.
    ///
    /// # Errors
    /// `SourceState` when it cannot, and why; `SourceUnavailable` when the server is behind and may catch up.
    pub(super) fn admits(&self, from: &LogPosition) -> Result<()> {
        let same = from.server.as_ref().map(|server| *server == self.identity);
        let done = match from.known_gtids().filter(|_| self.numbers) {
            Some(gtids) => self.has_transactions(gtids),
            None if same == Some(false) => Err(Error::source_state(
                "another server answers than the one that is followed",
            )
            .with("server", &self.identity)
            .with("followed", from.server.as_deref().unwrap_or_default())
            .hint(format!(
                "without global transaction ids the place in its log is not known: let the source's URL lead to the \
                     server that is followed and `freshet resume` the job, or else {ANEW}"
            ))),
            None => self.has_file(from),
        };
        done.and_then(|()| if same == Some(true) { self.has_tail(from) } else { Ok(()) })
            .map_err(|e| e.with("position", LogPosition { prepared: Default::default(), ..from.clone() }))
    }

    fn has_transactions(&self, read: &GtidSet) -> Result<()> {
        match read.compare(&self.executed) {
            Some(Ordering::Less | Ordering::Equal) if self.logged_all(read) => {}
            _ if self.lost_its_own(read) => {
                return Err(Error::source_state(
                    "the server no longer has transactions of its own that the job has read",
                )
                .with("server has", &self.executed)
                .hint(format!(
                    "its log was reset, it was restored from a backup, or a crash took the end of its log (sync_binlog \
                         is not 1): what the job has may differ from it; {ANEW}"
                )));
            }
            // It has nothing that the job has not read: a replica that lags.
            Some(Ordering::Greater) => {
                return Err(Error::source_unavailable("the server does not have yet what the job has read")
                    .with("server has", &self.executed)
                    .hint("it is a replica that lags: the job goes on once it has caught up"));
            }
            _ => {
                return Err(Error::source_state("server and job have each read transactions that the other has not")
                    .with("server has", &self.executed)
                    .hint(format!("a failover has lost transactions, or it is another server's history; {ANEW}")));
            }
        }
        match self.purged.compare(read) {
            Some(Ordering::Less | Ordering::Equal) => Ok(()),
            _ => Err(purged().with("purged", &self.purged)),
        }
    }

    /// MariaDB numbers within a domain, whatever server: whether the last transactions that were read are among this
    /// server's. MySQL's sets say it themselves.
    fn logged_all(&self, read: &GtidSet) -> bool {
        let GtidSet::MariaDb(read) = read else { return true };
        let has =
            |domain: u32, server: u32, n: u64| self.logged.iter().any(|l| l.0 == domain && l.1 == server && l.2 >= n);
        self.logged.is_empty() || read.iter().all(|(domain, (server, n))| has(*domain, *server, *n))
    }

    /// Whether transactions are missing here that this server itself has numbered.
    fn lost_its_own(&self, read: &GtidSet) -> bool {
        match (read, &self.executed) {
            (GtidSet::MySql(read), GtidSet::MySql(here)) => {
                let Some(own) = Uuid::parse(&self.identity) else { return false };
                read.iter().filter(|((uuid, _), _)| *uuid == own).any(|(source, intervals)| {
                    let one = |i: &[(u64, u64)]| GtidSet::MySql([(source.clone(), i.to_vec())].into());
                    let there = here.get(source).map(Vec::as_slice).unwrap_or_default();
                    !matches!(one(intervals).compare(&one(there)), Some(Ordering::Less | Ordering::Equal))
                })
            }
            (GtidSet::MariaDb(read), GtidSet::MariaDb(here)) => read
                .iter()
                .any(|(domain, (server, n))| *server == self.server_id && here.get(domain).is_none_or(|(_, m)| m < n)),
            _ => false,
        }
    }

    fn has_file(&self, from: &LogPosition) -> Result<()> {
        let Some(files) = &self.files else { return Ok(()) };
        if files.iter().any(|(file, _)| *file == from.file) {
            return self.has_tail(from);
        }
        let oldest = files.first().and_then(|(file, _)| file_number(file));
        match (oldest, file_number(&from.file)) {
            (Some((base, oldest)), Some((wanted, number))) if base == wanted && number < oldest => Err(purged()),
            _ => Err(Error::source_state("the server does not have the log file that the job reads").hint(format!(
                "its log was reset or renamed, or it is another server: what was changed since is not known; {ANEW}"
            ))),
        }
    }

    /// Whether the server has purged the file that a position is in. With transaction ids it may be able to go on all the
    /// same.
    pub(super) fn lacks_file(&self, from: &LogPosition) -> bool {
        let oldest = self.files.iter().flatten().next().and_then(|(file, _)| file_number(file));
        let same = from.server.as_ref().is_none_or(|server| *server == self.identity);
        match (oldest, file_number(&from.file)) {
            (Some((base, oldest)), Some((wanted, number))) => same && base == wanted && number < oldest,
            _ => false,
        }
    }

    /// After a crash a server goes on in a new file, and the old one keeps the length that had reached the disk.
    fn has_tail(&self, from: &LogPosition) -> Result<()> {
        let Some(files) = &self.files else { return Ok(()) };
        match files.iter().find(|(file, _)| *file == from.file) {
            Some((_, size)) if *size < from.offset => Err(Error::source_state(
                "the server has lost the end of its log, which the job has read",
            )
            .with("the file ends at", size)
            .hint(format!(
                "it crashed while sync_binlog was not 1, or its log was reset: what the job has may differ from \
                         it; {ANEW}; SET GLOBAL sync_binlog = 1 prevents it"
            ))),
            _ => Ok(()),
        }
    }
}

/// The log does not reach back to the position.
pub(super) fn purged() -> Error {
    Error::source_state("the server has purged a part of its log that the job has not read")
        .hint(format!("{ANEW}; raise binlog_expire_logs_seconds so that a stopped job finds its log again"))
}

#[cfg(test)]
mod tests {
    use freshet_core::{ErrorKind, Position};

    use super::*;

    const U: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
    const V: &str = "4e11fa47-71ca-11e1-9e33-c80aa9429562";

    fn mysql(executed: &str, purged: &str) -> ServerState {
        let set = |t: &str| Some(t).filter(|t| !t.is_empty()).and_then(GtidSet::parse);
        let empty = || GtidSet::MySql(Default::default());
        ServerState {
            identity: U.into(),
            server_id: 1,
            numbers: true,
            executed: set(executed).unwrap_or_else(empty),
            purged: set(purged).unwrap_or_else(empty),
            logged: Vec::new(),
            files: Some(vec![("b.000003".into(), 1000), ("b.000004".into(), 500)]),
        }
    }

    fn mariadb(executed: &str) -> ServerState {
        let executed = GtidSet::parse(executed).unwrap();
        let purged = GtidSet::MariaDb(Default::default());
        ServerState { identity: "h:1:7".into(), server_id: 7, executed, purged, ..mysql("", "") }
    }

    fn verdict(state: &ServerState, from: &str) -> Option<(ErrorKind, String)> {
        let from = LogPosition::parse(&Position::at(from)).unwrap();
        state.admits(&from).err().map(|e| (e.kind, e.message))
    }

    #[test]
    fn states() {
        use ErrorKind::{SourceState, SourceUnavailable};
        let words = |state: &ServerState, from: &str, kind: ErrorKind, part: &str| {
            let (got, message) = verdict(state, from).unwrap_or_else(|| panic!("{from} is admitted"));
            assert!(got == kind && message.contains(part), "{from}: {got:?} {message}");
        };
        let state = mysql(&format!("{U}:1-50,{V}:1-5"), &format!("{U}:1-20"));
        for good in [
            format!("b.000004:400 gtid={U}:1-40 server={U}"),
            format!("x.000009:9000 gtid={U}:1-50,{V}:1-5 server={V}"),
            format!("b.000004:500 server={U}"),
            "b.000003:4".into(),
        ] {
            assert_eq!(verdict(&state, &good), None, "{good}");
        }
        words(&state, &format!("b.000004:400 gtid={U}:1-51"), SourceState, "of its own");
        words(&state, &format!("b.000004:400 gtid={U}:1-19"), SourceState, "purged");
        words(&state, &format!("b.000004:501 gtid={U}:1-50 server={U}"), SourceState, "lost the end");
        words(&state, &format!("b.000004:4 gtid={U}:1-40,{V}:1-6"), SourceState, "each read");
        words(&state, &format!("b.000004:4 gtid={U}:1-50,{V}:1-6"), SourceUnavailable, "yet");
        words(&mysql("", ""), &format!("b.000004:4 gtid={U}:1"), SourceState, "of its own");
        words(&state, &format!("b.000004:400 server={V}"), SourceState, "another server");
        words(&state, "b.000002:400", SourceState, "purged");
        words(&state, "b.000005:400", SourceState, "does not have the log file");
        words(&state, "c.000004:400", SourceState, "does not have the log file");
        words(&state, "b.000004:501", SourceState, "lost the end");

        let state = mariadb("0-7-50,1-8-5");
        assert_eq!(verdict(&state, "b.000009:9 gtid=0-6-40"), None);
        words(&state, "b.000004:4 gtid=0-7-51", SourceState, "of its own");
        let state = ServerState { logged: vec![(0, 6, 45), (0, 7, 50), (1, 8, 5)], ..state };
        assert_eq!(verdict(&state, "b.000009:9 gtid=0-6-40"), None);
        words(&state, "b.000009:9 gtid=0-6-46", SourceState, "each read");
        words(&state, "b.000009:9 gtid=0-9-46", SourceState, "each read");
        words(&state, "b.000004:4 gtid=0-7-50,1-8-6", SourceUnavailable, "yet");
        words(&state, "b.000004:4 gtid=0-7-40,1-8-6", SourceState, "each read");
        words(&state, "b.000004:501 gtid=0-7-50 server=h:1:7", SourceState, "lost the end");
    }
}
