//! One connection: from the login through command after command to the end. While a statement runs the socket is
//! watched, so that a client that goes away, a `KILL` and the end of the server cancel it.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use freshet_core::Result;
use futures::StreamExt;
use futures::stream::BoxStream;
use mysql_common::constants::{CapabilityFlags as Flags, Command, StatusFlags};
use tokio::sync::watch;

use super::Shared;
use super::columns::Column;
use super::fault::{Fault, Lost};
use super::handshake::{Login, put_fault, put_ok};
use super::packet::{Channel, FLUSH, Reader, Socket, put_length};
use super::registry::{Kill, Place};
use super::rows::{Protocol, Rows};
use super::statement::{Statement, as_text};
use crate::backend::{Outcome, Session};
use crate::stopped;

/// Prepared statements of one connection.
const STATEMENTS: usize = 4096;

/// A connection that has logged in.
pub(super) struct Connection<S> {
    channel: Channel<S>,
    shared: Arc<Shared>,
    peer: Peer,
    flags: Flags,
    user: String,
    session: Box<dyn Session>,
    statements: BTreeMap<u32, Statement>,
    next_statement: u32,
}

/// Who is at the other end.
pub(super) struct Peer {
    pub(super) host: String,
    pub(super) place: Place,
    pub(super) shutdown: watch::Receiver<bool>,
    pub(super) nonce: [u8; 20],
    pub(super) encrypted: bool,
}

/// Proves the password, opens the session and says so.
pub(super) async fn log_in<S: Socket>(
    channel: &mut Channel<S>,
    shared: &Shared,
    peer: &Peer,
    login: &mut Login,
) -> Result<Box<dyn Session>, Lost> {
    if !login.prove(channel, &shared.users, &peer.nonce, peer.encrypted).await? {
        return Err(shared.deny(login, &peer.host).await.into());
    }
    let mut session = shared.backend.open(&login.user);
    if let Some(database) = &login.database {
        session.use_database(database).map_err(Fault::from)?;
    }
    put_ok(channel.begin(), 0, 0, status(false), "");
    channel.end();
    channel.flush().await?;
    Ok(session)
}

impl<S: Socket> Connection<S> {
    /// Goes on behind the login.
    pub(super) fn new(
        mut channel: Channel<S>,
        shared: Arc<Shared>,
        peer: Peer,
        login: Login,
        session: Box<dyn Session>,
    ) -> Self {
        channel.open_up(shared.max_packet);
        let connection = Connection {
            channel,
            shared,
            peer,
            flags: login.flags,
            user: login.user.clone(),
            session,
            statements: BTreeMap::new(),
            next_statement: 1,
        };
        connection.present(&login);
        connection
    }

    fn present(&self, login: &Login) {
        let program = login.attributes.iter().find(|(name, _)| name == "program_name");
        self.peer.place.login(&login.user, program.map_or("", |(_, value)| value.as_str()));
        self.peer.place.finish(self.session.database());
    }

    /// Serves commands until the client, a `KILL` or the server ends it. What is to be said at the end has been sent.
    pub(super) async fn serve(mut self) {
        if let Err(Lost::Refused(fault)) = self.commands().await {
            self.channel.abandon();
            put_fault(self.channel.begin(), &fault);
            self.channel.end();
            let _ = self.channel.flush().await;
        }
    }

    async fn commands(&mut self) -> Result<(), Lost> {
        loop {
            self.channel.restart_at(0);
            let message = tokio::select! {
                biased;
                () = stopped(&mut self.peer.shutdown) => return Err(Fault::shutdown().into()),
                () = killed(&mut self.peer.place.kill) => return Err(Fault::interrupted().into()),
                read = tokio::time::timeout(self.shared.idle, self.channel.read()) => match read {
                    Ok(message) => message?,
                    Err(_) => return Ok(()),
                },
            };
            let Some((command, body)) = message.split_first() else { return Err(Fault::malformed().into()) };
            if *command == Command::COM_QUIT as u8 {
                return Ok(());
            }
            match self.command(*command, body).await {
                Ok(()) => {}
                Err(Lost::Refused(fault)) if fault.ends => return Err(fault.into()),
                Err(Lost::Refused(fault)) => {
                    put_fault(self.channel.begin(), &fault);
                    self.channel.end();
                }
                Err(Lost::Closed) => return Err(Lost::Closed),
            }
            self.peer.place.finish(self.session.database());
            self.channel.flush().await?;
        }
    }

    async fn command(&mut self, command: u8, body: &[u8]) -> Result<(), Lost> {
        const QUERY: u8 = Command::COM_QUERY as u8;
        const INIT_DB: u8 = Command::COM_INIT_DB as u8;
        const FIELD_LIST: u8 = Command::COM_FIELD_LIST as u8;
        const STATISTICS: u8 = Command::COM_STATISTICS as u8;
        const PROCESS_INFO: u8 = Command::COM_PROCESS_INFO as u8;
        const PROCESS_KILL: u8 = Command::COM_PROCESS_KILL as u8;
        const PING: u8 = Command::COM_PING as u8;
        const CHANGE_USER: u8 = Command::COM_CHANGE_USER as u8;
        const SET_OPTION: u8 = Command::COM_SET_OPTION as u8;
        const RESET: u8 = Command::COM_RESET_CONNECTION as u8;
        const PREPARE: u8 = Command::COM_STMT_PREPARE as u8;
        const EXECUTE: u8 = Command::COM_STMT_EXECUTE as u8;
        const LONG_DATA: u8 = Command::COM_STMT_SEND_LONG_DATA as u8;
        const CLOSE: u8 = Command::COM_STMT_CLOSE as u8;
        const STATEMENT_RESET: u8 = Command::COM_STMT_RESET as u8;
        const FETCH: u8 = Command::COM_STMT_FETCH as u8;
        match command {
            QUERY => self.query(&as_text(body)?).await?,
            INIT_DB => {
                self.session.use_database(text(body)?).map_err(Fault::from)?;
                self.ok(0, "", false);
            }
            FIELD_LIST => self.field_list(body).await?,
            STATISTICS => {
                let line = self.shared.statistics();
                self.channel.begin().extend_from_slice(line.as_bytes());
                self.channel.end();
            }
            PROCESS_INFO => self.process_list(false, false).await?,
            PROCESS_KILL => {
                let id = Reader(body).u32().map_err(Fault::from)?;
                self.kill(u64::from(id), Kill::Connection)?;
                self.ok(0, "", false);
            }
            PING => self.ok(0, "", false),
            CHANGE_USER => self.change_user(body).await?,
            SET_OPTION => {
                let option = Reader(body).u16().map_err(Fault::from)?;
                if option > 1 {
                    return Err(Fault::wrong_arguments("COM_SET_OPTION").into());
                }
                self.flags.set(Flags::CLIENT_MULTI_STATEMENTS, option == 0);
                self.end_of_rows(false);
            }
            RESET => {
                self.reset()?;
                self.ok(0, "", false);
            }
            PREPARE => self.prepare(&as_text(body)?)?,
            EXECUTE => self.execute_prepared(body).await?,
            LONG_DATA => self.long_data(body)?,
            CLOSE => {
                let id = Reader(body).u32().map_err(Fault::from)?;
                self.statements.remove(&id);
            }
            STATEMENT_RESET => {
                let id = Reader(body).u32().map_err(Fault::from)?;
                self.statements.get_mut(&id).ok_or_else(|| Fault::unknown_statement(id))?.reset();
                self.ok(0, "", false);
            }
            FETCH => return Err(Fault::no_cursor().into()),
            other => return Err(Fault::unknown_command(other).into()),
        }
        Ok(())
    }

    /// COM_QUERY: one statement, or several if the client wants to send such.
    async fn query(&mut self, sql: &str) -> Result<(), Lost> {
        let statements = self.session.split(sql);
        let count = statements.len();
        if count == 0 {
            return Err(Fault::empty_query().into());
        }
        if count > 1 && !self.flags.contains(Flags::CLIENT_MULTI_STATEMENTS) {
            return Err(Fault::several_statements().into());
        }
        for (i, statement) in statements.into_iter().enumerate() {
            self.statement(statement, Protocol::Text, i + 1 < count).await?;
        }
        Ok(())
    }

    /// Executes a statement and answers it; `more`: another answer follows.
    async fn statement(&mut self, sql: &str, protocol: Protocol, more: bool) -> Result<(), Lost> {
        match OwnStatement::parse(sql) {
            Some(OwnStatement::Kill(id, what)) => {
                self.kill(id, what)?;
                self.ok(0, "", more);
                return Ok(());
            }
            Some(OwnStatement::ProcessList { full }) if protocol == Protocol::Text => {
                return self.process_list(full, more).await;
            }
            _ => {}
        }
        self.peer.place.start(sql);
        // A KILL QUERY that came before the statement is not meant for it.
        self.peer.place.kill.mark_unchanged();
        let mut watcher = Watcher { kill: &mut self.peer.place.kill, shutdown: &mut self.peer.shutdown };
        let outcome = watcher.run(&mut self.channel, self.session.execute(sql)).await?;
        match outcome.map_err(Fault::from)? {
            Outcome::Done { affected, info } => self.ok(affected, &info, more),
            Outcome::Rows { schema, stream } => self.result_set(&schema, stream, protocol, more).await?,
        }
        Ok(())
    }

    /// Streams rows. The first batch is awaited before the columns are described, so that most failures come as a
    /// plain error.
    async fn result_set(
        &mut self,
        schema: &SchemaRef,
        mut rows: BoxStream<'static, Result<RecordBatch>>,
        protocol: Protocol,
        more: bool,
    ) -> Result<(), Lost> {
        let zone = zone_micros(self.session.variable("time_zone").as_deref());
        let columns: Vec<_> = schema.fields().iter().map(|f| Column::of(f)).collect();
        let mut watcher = Watcher { kill: &mut self.peer.place.kill, shutdown: &mut self.peer.shutdown };
        let mut next = watcher.run(&mut self.channel, rows.next()).await?.transpose().map_err(Fault::from)?;
        put_length(self.channel.begin(), columns.len() as u64);
        self.channel.end();
        for column in &columns {
            column.put(self.channel.begin());
            self.channel.end();
        }
        if !self.flags.contains(Flags::CLIENT_DEPRECATE_EOF) {
            self.end_of_rows(more);
        }
        while let Some(batch) = next {
            let cells = Rows::new(&batch, &columns, protocol, zone).map_err(Fault::from)?;
            for row in 0..batch.num_rows() {
                if let Err(error) = cells.put(row, self.channel.begin()) {
                    self.channel.abandon();
                    return Err(Fault::from(error).into());
                }
                self.channel.end();
                if self.channel.waiting() >= FLUSH {
                    self.channel.flush().await?;
                }
            }
            let mut watcher = Watcher { kill: &mut self.peer.place.kill, shutdown: &mut self.peer.shutdown };
            next = watcher.run(&mut self.channel, rows.next()).await?.transpose().map_err(Fault::from)?;
        }
        self.end_of_rows(more);
        Ok(())
    }

    /// COM_FIELD_LIST: the columns of a table, for completion in the command line.
    async fn field_list(&mut self, body: &[u8]) -> Result<(), Lost> {
        let mut body = Reader(body);
        let table = text(body.until_zero())?.replace('`', "``");
        let mut watcher = Watcher { kill: &mut self.peer.place.kill, shutdown: &mut self.peer.shutdown };
        let sql = format!("SELECT * FROM `{table}` LIMIT 0");
        let outcome = watcher.run(&mut self.channel, self.session.execute(&sql)).await?;
        if let Outcome::Rows { schema, .. } = outcome.map_err(Fault::from)? {
            for field in schema.fields() {
                let out = self.channel.begin();
                Column::of(field).put(out);
                // The default value: NULL, as we do not tell it here.
                out.push(0xFB);
                self.channel.end();
            }
        }
        self.end_of_rows(false);
        Ok(())
    }

    async fn process_list(&mut self, full: bool, more: bool) -> Result<(), Lost> {
        let list = self.shared.registry.list(full).map_err(Fault::from)?;
        let schema = list.schema();
        let rows = futures::stream::once(async move { Ok(list) }).boxed();
        self.result_set(&schema, rows, Protocol::Text, more).await
    }

    fn kill(&self, id: u64, what: Kill) -> Result<(), Fault> {
        if self.shared.registry.kill(id, what) { Ok(()) } else { Err(Fault::unknown_thread(id)) }
    }

    /// COM_CHANGE_USER: a login within the connection.
    async fn change_user(&mut self, body: &[u8]) -> Result<(), Lost> {
        let mut login = Login::read_change(body, self.flags)?;
        let proved = login.prove(&mut self.channel, &self.shared.users, &self.peer.nonce, self.peer.encrypted).await?;
        if !proved {
            let fault = self.shared.deny(&login, &self.peer.host).await;
            return Err(fault.into());
        }
        self.user.clone_from(&login.user);
        self.session = self.shared.backend.open(&login.user);
        self.statements.clear();
        if let Some(database) = &login.database {
            self.session.use_database(database).map_err(Fault::from)?;
        }
        self.present(&login);
        self.ok(0, "", false);
        Ok(())
    }

    /// COM_RESET_CONNECTION: a new session in the same database.
    fn reset(&mut self) -> Result<(), Fault> {
        let mut session = self.shared.backend.open(&self.user);
        if let Some(database) = self.session.database() {
            session.use_database(database)?;
        }
        self.session = session;
        self.statements.clear();
        Ok(())
    }

    fn prepare(&mut self, sql: &str) -> Result<(), Fault> {
        match self.session.split(sql).as_slice() {
            [] => return Err(Fault::empty_query()),
            [_] => {}
            _ => return Err(Fault::several_statements()),
        }
        if self.statements.len() >= STATEMENTS {
            return Err(Fault::too_many_statements(STATEMENTS));
        }
        let statement = Statement::new(sql)?;
        self.check_memory(statement.bytes())?;
        let (id, parameters) = (self.next_statement, statement.parameters());
        self.next_statement = self.next_statement.wrapping_add(1).max(1);
        self.statements.insert(id, statement);
        let out = self.channel.begin();
        out.push(0);
        out.extend_from_slice(&id.to_le_bytes());
        // The columns are described with each execution's answer: none here.
        out.extend_from_slice(&0_u16.to_le_bytes());
        out.extend_from_slice(&(parameters as u16).to_le_bytes());
        out.extend_from_slice(&[0, 0, 0]);
        self.channel.end();
        for _ in 0..parameters {
            Column::put_parameter(self.channel.begin());
            self.channel.end();
        }
        if parameters > 0 && !self.flags.contains(Flags::CLIENT_DEPRECATE_EOF) {
            self.end_of_rows(false);
        }
        Ok(())
    }

    async fn execute_prepared(&mut self, body: &[u8]) -> Result<(), Lost> {
        let mut body = Reader(body);
        let id = body.u32().map_err(Fault::from)?;
        let statement = self.statements.get_mut(&id).ok_or_else(|| Fault::unknown_statement(id))?;
        let sql = statement.bind(&mut body).map_err(Fault::from)?;
        self.statement(&sql, Protocol::Binary, false).await
    }

    /// COM_STMT_SEND_LONG_DATA, which has no answer; but a client that sends too much is sent away.
    fn long_data(&mut self, body: &[u8]) -> Result<(), Fault> {
        let mut body = Reader(body);
        let (id, parameter) = (body.u32()?, body.u16()?);
        let data = body.rest();
        self.check_memory(data.len())?;
        if let Some(statement) = self.statements.get_mut(&id) {
            statement.append(usize::from(parameter), data);
        }
        Ok(())
    }

    /// Whether so many bytes more of prepared statements and long values may be kept.
    fn check_memory(&self, more: usize) -> Result<(), Fault> {
        let held: usize = self.statements.values().map(Statement::bytes).sum();
        if held + more > self.shared.max_packet {
            return Err(Fault::packet_too_large(self.shared.max_packet));
        }
        Ok(())
    }

    fn ok(&mut self, affected: u64, info: &str, more: bool) {
        put_ok(self.channel.begin(), 0, affected, status(more), info);
        self.channel.end();
    }

    /// The packet behind rows or column definitions.
    fn end_of_rows(&mut self, more: bool) {
        let deprecated = self.flags.contains(Flags::CLIENT_DEPRECATE_EOF);
        let out = self.channel.begin();
        if deprecated {
            put_ok(out, 0xFE, 0, status(more), "");
        } else {
            out.extend_from_slice(&[0xFE, 0, 0]);
            out.extend_from_slice(&status(more).to_le_bytes());
        }
        self.channel.end();
    }
}

fn status(more: bool) -> u16 {
    let mut status = StatusFlags::SERVER_STATUS_AUTOCOMMIT;
    status.set(StatusFlags::SERVER_MORE_RESULTS_EXISTS, more);
    status.bits()
}

fn text(bytes: &[u8]) -> Result<&str, Fault> {
    std::str::from_utf8(bytes).map_err(|_| Fault::not_text())
}

/// What can end a statement from outside.
struct Watcher<'a> {
    kill: &'a mut watch::Receiver<Kill>,
    shutdown: &'a mut watch::Receiver<bool>,
}

impl Watcher<'_> {
    /// Runs a statement's work; drops it when the client goes away, on a `KILL`, and at the server's end.
    async fn run<S: Socket, T>(&mut self, channel: &mut Channel<S>, work: impl Future<Output = T>) -> Result<T, Lost> {
        tokio::select! {
            biased;
            done = work => Ok(done),
            () = channel.closed() => Err(Lost::Closed),
            changed = self.kill.changed() => match changed {
                Ok(()) if *self.kill.borrow() == Kill::Connection => Err(Lost::Refused(Fault::killed())),
                _ => Err(Lost::Refused(Fault::interrupted())),
            },
            () = stopped(self.shutdown) => Err(Lost::Refused(Fault::shutdown())),
        }
    }
}

/// Waits until the connection is to end.
async fn killed(kill: &mut watch::Receiver<Kill>) {
    if kill.wait_for(|k| *k == Kill::Connection).await.is_err() {
        std::future::pending().await
    }
}

/// Statements about connections, which the server answers itself.
#[derive(Debug, PartialEq, Eq)]
enum OwnStatement {
    Kill(u64, Kill),
    ProcessList { full: bool },
}

impl OwnStatement {
    fn parse(sql: &str) -> Option<Self> {
        let lower = sql.get(..64).unwrap_or(sql).trim().trim_end_matches(';').to_ascii_lowercase();
        if sql.len() > 64 || !(lower.starts_with("kill") || lower.starts_with("show")) {
            return None;
        }
        let words: Vec<_> = lower.split_ascii_whitespace().collect();
        match words.as_slice() {
            ["kill", id] | ["kill", "connection", id] => Some(Self::Kill(id.parse().ok()?, Kill::Connection)),
            ["kill", "query", id] => Some(Self::Kill(id.trim_matches(['\'', '"']).parse().ok()?, Kill::Query)),
            ["show", "processlist"] => Some(Self::ProcessList { full: false }),
            ["show", "full", "processlist"] => Some(Self::ProcessList { full: true }),
            _ => None,
        }
    }
}

/// The distance of a session's time zone from UTC: `+08:00`; UTC for everything that is not a plain distance.
fn zone_micros(zone: Option<&str>) -> i64 {
    let distance = |zone: &str| {
        let (sign, rest) = match zone.as_bytes().first()? {
            b'+' => (1, &zone[1..]),
            b'-' => (-1, &zone[1..]),
            _ => return None,
        };
        let (hours, minutes) = rest.split_once(':')?;
        let (hours, minutes): (u8, u8) = (hours.parse().ok()?, minutes.parse().ok()?);
        (hours <= 14 && minutes < 60).then(|| sign * (i64::from(hours) * 60 + i64::from(minutes)) * 60_000_000)
    };
    zone.and_then(distance).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_statements() {
        assert_eq!(OwnStatement::parse("KILL  7;"), Some(OwnStatement::Kill(7, Kill::Connection)));
        assert_eq!(OwnStatement::parse("kill query '7'"), Some(OwnStatement::Kill(7, Kill::Query)));
        assert_eq!(OwnStatement::parse("Show Full Processlist"), Some(OwnStatement::ProcessList { full: true }));
        for other in ["kill", "show tables", "kill -1", "ü", "select 'kill 7'"] {
            assert_eq!(OwnStatement::parse(other), None);
        }
    }

    #[test]
    fn zones() {
        assert_eq!(zone_micros(Some("+08:00")), 8 * 3_600_000_000);
        assert_eq!(zone_micros(Some("-03:30")), -(3 * 60 + 30) * 60_000_000);
        for utc in [None, Some("SYSTEM"), Some("UTC"), Some(""), Some("+"), Some("+99:00"), Some("ü")] {
            assert_eq!(zone_micros(utc), 0);
        }
    }
}
