//! A look ahead at a transaction in the log: how it ends, and which of its events a rollback has taken back. Servers
//! write a transaction at its end, but leave rows in it that a `ROLLBACK TO` behind them takes back, and MariaDB writes
//! whole transactions that end in `ROLLBACK` (when a temporary table was made in them, or a table without transactions
//! changed). So nothing of a transaction may be handed out before that is known.

use std::ops::Range;

use super::event::{self, Header, Query, kind};
use super::statement::{self, Kind};
use super::xa::Xid;

/// How a transaction ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ending {
    Commit,
    Rollback,
    /// Prepared, or committed in one phase.
    Prepare(Xid),
    /// It is followed by another one without an end of its own: a statement that commits itself, or it was cut off.
    None,
}

/// What was found out about a transaction. Events are numbered by whoever reads them, in ascending order.
#[derive(Debug, Default)]
pub(super) struct Survey {
    begun: bool,
    savepoints: Vec<(String, u64)>,
    /// Events that do not count.
    pub(super) void: Vec<Range<u64>>,
    pub(super) ending: Option<Ending>,
}

impl Survey {
    /// Takes the next event in; afterwards `ending` says whether it was the last one.
    pub(super) fn read(&mut self, header: &Header, body: &[u8], number: u64) {
        let mut scratch = Vec::new();
        match header.kind {
            kind::XID => self.ending = Some(Ending::Commit),
            kind::XA_PREPARE => {
                self.ending = Some(Xid::of_prepare(body).map_or(Ending::None, |(xid, _)| Ending::Prepare(xid)));
            }
            kind::GTID | kind::ANONYMOUS_GTID | kind::GTID_TAGGED | kind::MARIADB_GTID => {
                self.ending = std::mem::replace(&mut self.begun, true).then_some(Ending::None);
            }
            kind::ROTATE | kind::STOP => self.ending = Some(Ending::None),
            kind::QUERY => {
                if let Some(query) = Query::parse(body, 0) {
                    self.statement(&query, number);
                }
            }
            kind::MARIADB_QUERY_COMPRESSED => {
                if let Some(query) = Query::parse_compressed(body, &mut scratch) {
                    self.statement(&query, number);
                }
            }
            _ => {}
        }
    }

    fn statement(&mut self, query: &event::Query<'_>, number: u64) {
        let (text, _) = statement::decoded(query.text, query.collation);
        match Kind::of(&text) {
            Kind::Begin | Kind::XaStart => self.begun = true,
            Kind::Commit => self.ending = Some(Ending::Commit),
            Kind::Rollback => self.ending = Some(Ending::Rollback),
            Kind::Savepoint => {
                let name = statement::savepoint(&text);
                self.savepoints.retain(|(n, _)| *n != name);
                self.savepoints.push((name, number));
            }
            Kind::RollbackToSavepoint => {
                let name = statement::savepoint(&text);
                let Some(at) = self.savepoints.iter().position(|(n, _)| *n == name) else { return };
                self.void.push(self.savepoints[at].1..number);
                self.savepoints.truncate(at + 1);
            }
            _ => {}
        }
    }
}
