//! The one error type. A message says what happened, the context says where, the source why, and the hint what to
//! do. The kind alone decides what the engine does next ([`ErrorKind::retry`]), the exit code of the command line and
//! the error number of the MySQL protocol, so that a failure reads the same wherever a person meets it.

use std::fmt;

/// What sort of failure it is; closed, so that every decision below is made once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// An option, URL, pattern or statement of the user is wrong.
    Config,
    /// Understood, but Freshet cannot do it.
    Unsupported,
    /// A job, table, column or file that does not exist.
    NotFound,
    /// It exists already.
    AlreadyExists,
    /// Wrong password, no grant, refused by the other side.
    Permission,
    /// The source does not answer, or the connection broke.
    SourceUnavailable,
    /// The sink does not answer, or the connection broke.
    SinkUnavailable,
    /// The source no longer has what is needed: purged log, reset, another server.
    SourceState,
    /// Schema of source and target, or of rows and schema, disagree.
    Schema,
    /// A value that cannot be stored exactly, or bytes that are not what the protocol says.
    Data,
    /// Stored bytes fail their checksum or cannot be read: never guessed at, never skipped.
    Corrupt,
    /// Disk full, or an input/output error of this machine.
    Io,
    /// A defect of Freshet.
    Internal,
}

/// What the engine does after an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Try again with growing pauses; it may pass by itself.
    Backoff,
    /// Stop and wait until a person has acted and resumes.
    Person,
}

impl ErrorKind {
    /// Whether trying again can help.
    pub fn retry(self) -> Retry {
        match self {
            ErrorKind::SourceUnavailable | ErrorKind::SinkUnavailable => Retry::Backoff,
            _ => Retry::Person,
        }
    }

    /// Whether a failed write or read of a table's rows says something about that table, so that the others can go on
    /// without it; not so when the machine, the source's log or Freshet itself is to blame.
    pub fn is_about_a_table(self) -> bool {
        !matches!(
            self,
            ErrorKind::Io | ErrorKind::SourceState | ErrorKind::SourceUnavailable | ErrorKind::SinkUnavailable
        )
    }

    /// Exit code of the command line: 1 it failed while running, 2 the request was wrong, 3 the surroundings were.
    pub fn exit_code(self) -> i32 {
        match self {
            ErrorKind::Config | ErrorKind::Unsupported | ErrorKind::NotFound | ErrorKind::AlreadyExists => 2,
            ErrorKind::Permission
            | ErrorKind::SourceUnavailable
            | ErrorKind::SinkUnavailable
            | ErrorKind::SourceState
            | ErrorKind::Io => 3,
            ErrorKind::Schema | ErrorKind::Data | ErrorKind::Corrupt | ErrorKind::Internal => 1,
        }
    }
}

/// An error with everything a person needs. Cheap to clone, because the engine stores it as the reason of a state.
#[derive(Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Error {
    /// What sort of failure.
    pub kind: ErrorKind,
    /// What happened, in one lower-case sentence without a final stop.
    pub message: String,
    /// Where: names and values, outermost last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub context: Vec<(String, String)>,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Why: the text of the error underneath.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
}

/// Result with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of this kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error { kind, message: message.into(), context: Vec::new(), hint: None, cause: None }
    }

    /// Adds where it happened.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl fmt::Display) -> Self {
        self.context.push((name.to_string(), value.to_string()));
        self
    }

    /// Adds what to do; the innermost hint stays, because it knows most.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint.get_or_insert_with(|| hint.into());
        self
    }

    /// Adds why.
    #[must_use]
    pub fn because(mut self, cause: impl fmt::Display) -> Self {
        self.cause = Some(cause.to_string());
        self
    }

    /// What, where and why in one line, without the hint.
    pub fn line(&self) -> String {
        let mut out = self.message.clone();
        if !self.context.is_empty() {
            let at: Vec<_> = self.context.iter().map(|(k, v)| format!("{k}: {v}")).collect();
            out.push_str(&format!(" ({})", at.join(", ")));
        }
        if let Some(cause) = &self.cause {
            out.push_str(&format!(": {cause}"));
        }
        out
    }
}

/// A constructor for each kind that is often used, so that call sites stay one line.
macro_rules! constructors {
    ($($name:ident => $kind:ident),* $(,)?) => {
        impl Error { $(
            #[doc = concat!("An error of kind [`ErrorKind::", stringify!($kind), "`].")]
            pub fn $name(message: impl Into<String>) -> Self { Error::new(ErrorKind::$kind, message) }
        )* }
    };
}
constructors! {
    config => Config, unsupported => Unsupported, not_found => NotFound, already_exists => AlreadyExists,
    permission => Permission, source_unavailable => SourceUnavailable, sink_unavailable => SinkUnavailable,
    source_state => SourceState, schema => Schema, data => Data, corrupt => Corrupt, io => Io, internal => Internal,
}

/// What, where, why on one line, then the hint on its own.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.line())?;
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.kind)
    }
}

impl std::error::Error for Error {}

/// An input/output error, with the path it happened on.
pub fn io_error(path: &std::path::Path, doing: &str, error: std::io::Error) -> Error {
    let e = Error::io(format!("cannot {doing}")).with("path", path.display()).because(&error);
    match error.kind() {
        std::io::ErrorKind::StorageFull => e.hint("free some disk space, then resume; nothing acknowledged is lost"),
        std::io::ErrorKind::PermissionDenied => e.hint("run Freshet as a user who may write there"),
        _ if error.raw_os_error() == Some(libc::EIO) => {
            e.hint("the disk reports errors: look into the system's log; nothing acknowledged is lost")
        }
        _ => e,
    }
}
