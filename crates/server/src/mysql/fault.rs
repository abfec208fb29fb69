//! Errors as MySQL's clients know them: a number, an SQL state, a message. Those of the protocol itself have their
//! numbers here; everything else is a [`freshet_core::Error`].

use freshet_core::Error;

use crate::backend::mysql_error;

/// What an error packet says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) code: u16,
    pub(super) state: &'static str,
    pub(super) message: String,
    /// Whether the connection ends with it.
    pub(super) ends: bool,
}

/// Why reading or writing stopped.
#[derive(Debug)]
pub(super) enum Lost {
    /// The other side is gone.
    Closed,
    /// What it sent cannot be taken; say so and close.
    Refused(Fault),
}

impl From<std::io::Error> for Lost {
    fn from(_: std::io::Error) -> Self {
        Lost::Closed
    }
}

impl From<Fault> for Lost {
    fn from(fault: Fault) -> Self {
        Lost::Refused(fault)
    }
}

impl Fault {
    fn new(code: u16, state: &'static str, message: impl Into<String>) -> Self {
        Fault { code, state, message: message.into(), ends: false }
    }

    fn ending(self) -> Self {
        Fault { ends: true, ..self }
    }

    pub(super) fn too_many_connections(limit: usize) -> Self {
        Fault::new(1040, "08004", format!("Too many connections: the limit is {limit}"))
    }

    pub(super) fn handshake() -> Self {
        Fault::new(1043, "08S01", "Bad handshake: the client must speak MySQL's protocol of version 4.1 or later")
    }

    pub(super) fn access_denied(user: &str, host: &str, with_password: bool) -> Self {
        let used = if with_password { "YES" } else { "NO" };
        Fault::new(1045, "28000", format!("Access denied for user '{user}'@'{host}' (using password: {used})")).ending()
    }

    pub(super) fn unknown_command(command: u8) -> Self {
        Fault::new(1047, "08S01", format!("Unknown command {command}: Freshet does not offer it"))
    }

    pub(super) fn shutdown() -> Self {
        Fault::new(1053, "08S01", "Server shutdown in progress").ending()
    }

    pub(super) fn several_statements() -> Self {
        Fault::new(1064, "42000", "several statements in one query, but the client did not ask for multi-statements")
    }

    pub(super) fn empty_query() -> Self {
        Fault::new(1065, "42000", "Query was empty")
    }

    pub(super) fn unknown_thread(id: u64) -> Self {
        Fault::new(1094, "HY000", format!("Unknown thread id: {id}"))
    }

    pub(super) fn packet_too_large(limit: usize) -> Self {
        Fault::new(1153, "08S01", format!("Got a packet bigger than 'max_allowed_packet' bytes ({limit})")).ending()
    }

    pub(super) fn out_of_order() -> Self {
        Fault::new(1156, "08S01", "Got packets out of order").ending()
    }

    pub(super) fn malformed() -> Self {
        Fault::new(1835, "HY000", "Malformed communication packet")
    }

    pub(super) fn wrong_arguments(what: &str) -> Self {
        Fault::new(1210, "HY000", format!("Incorrect arguments to {what}"))
    }

    pub(super) fn unknown_statement(id: u32) -> Self {
        Fault::new(1243, "HY000", format!("Unknown prepared statement handler ({id})"))
    }

    pub(super) fn not_text() -> Self {
        Fault::new(1300, "HY000", "Invalid utf8mb4 character string: send statements in utf8mb4")
    }

    pub(super) fn interrupted() -> Self {
        Fault::new(1317, "70100", "Query execution was interrupted")
    }

    pub(super) fn killed() -> Self {
        Fault::new(1927, "70100", "Connection was killed").ending()
    }

    pub(super) fn too_many_placeholders() -> Self {
        Fault::new(1390, "HY000", "Prepared statement contains too many placeholders")
    }

    pub(super) fn too_many_statements(limit: usize) -> Self {
        let message = format!("Can't create more than {limit} prepared statements in a connection: close some");
        Fault::new(1461, "42000", message)
    }

    pub(super) fn no_cursor() -> Self {
        Fault::new(1421, "HY000", "The statement has no open cursor: Freshet streams rows with the answer to EXECUTE")
    }
}

/// An error of Freshet; a hint follows on a line of its own.
impl From<Error> for Fault {
    fn from(e: Error) -> Self {
        let (code, state) = mysql_error(&e);
        Fault::new(code, state, e.to_string())
    }
}
