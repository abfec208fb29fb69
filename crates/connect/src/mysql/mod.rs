//! MySQL and MariaDB as a source. Which of the two it is, and which version, is found out, not configured: both go the
//! same way but for the statements that they understand.
//!
//! | To add | look at |
//! | --- | --- |
//! | a column type | `types.rs` (what it is), `text_values.rs` (copy), `binlog/columns` (stream), `key.rs` (as a key) |
//! | a statement | `ddl/` |
//! | a setting that is checked | `check.rs` |
//! | an option of the URL | `url.rs` |

pub mod binlog;
mod check;
mod copy;
mod cut;
pub mod ddl;
mod discover;
mod key;
#[cfg(test)]
mod live;
mod range;
mod replica_id;
mod server_state;
pub(in crate::mysql) mod side_effects;
mod text_values;
pub mod types;
pub mod url;
mod verify;
pub mod wire;

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use freshet_core::{
    BatchStream, ChangeStream, ChangesRequest, CopyStart, Cut, Discovered, Error, KeyRange, LogEnd, Position, Result,
    Source, Split, Spooling, TablePattern, TableSchema,
};

use binlog::position::LogPosition;
use binlog::{SpoolReader, StreamOptions};
use range::RangeStream;
use replica_id::ReplicaId;
use server_state::{ServerState, purged};
use side_effects::SideEffects;
pub use types::{Charset, Charsets, DecodeOptions, MysqlType, ZeroDates};
pub use url::Address;
use wire::{Connection, Flavour};

/// How long one SELECT of a copy is open.
const STATEMENT_LIMIT: Duration = Duration::from_secs(10);

/// A MySQL or MariaDB server. Connections are opened when they are needed.
#[derive(Clone)]
pub struct MySql {
    address: Address,
    /// Our numbers as a replica.
    replica: Arc<ReplicaId>,
    statement_limit: Duration,
}

impl MySql {
    /// From a URL, see [`Address::parse`]. Nothing is connected.
    ///
    /// # Errors
    /// `Config` when the URL is wrong.
    pub fn new(url: &str) -> Result<Self> {
        let address = Address::parse(url)?;
        let replica = Arc::new(ReplicaId::new(address.server_id));
        Ok(MySql { address, replica, statement_limit: STATEMENT_LIMIT })
    }

    /// What the URL says.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// A new session in UTC and UTF-8, in which every value is printed the same way, whatever the server's settings.
    pub(in crate::mysql) async fn session(&self) -> Result<Connection> {
        let mut c = Box::pin(Connection::connect(&self.address.connect)).await?;
        let unlimited = match c.server.flavour {
            Flavour::MySql => "max_execution_time = 0",
            Flavour::MariaDb => "max_statement_time = 0",
        };
        c.execute(&format!(
            "SET NAMES utf8mb4, SESSION time_zone = '+00:00', sql_mode = '', net_write_timeout = 600, {unlimited}"
        ))
        .await?;
        c.execute("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ").await?;
        Ok(c)
    }

    /// A session with the server whose log a position is in.
    pub(in crate::mysql) async fn session_at(&self, position: &LogPosition) -> Result<Connection> {
        let mut c = self.session().await?;
        let Some(wanted) = &position.server else { return Ok(c) };
        let now = server_state::identity(&mut c).await?;
        match now == *wanted {
            true => Ok(c),
            false => Err(Error::source_state("another server answers than the one on which the copy began")
                .with("server", now)
                .with("before", wanted)
                .hint(
                    "let the source's URL lead to one server, not to a proxy in front of several, and `freshet resume` the \
                     job; after a failover `freshet resync JOB TABLE`",
                )),
        }
    }
}

impl MySql {
    /// The local part of the log, where it is to be read instead of the server's: always by the lane that it was kept for,
    /// and by the one that keeps it when the server has purged what it had read already.
    fn spooled(&self, state: &ServerState, request: &ChangesRequest) -> Result<Option<SpoolReader>> {
        let from = LogPosition::parse(&request.from)?;
        let admitted = state.admits(&from);
        let purged = admitted.as_ref().err().is_some_and(|e| e.message == purged().message);
        let usable = purged || admitted.is_ok();
        let spool = match &request.spool {
            Some(Spooling::Take(spool)) if usable => Some(Arc::clone(spool)),
            Some(Spooling::Keep(keep)) if usable && (purged || state.lacks_file(&from)) => keep.borrow().clone(),
            _ => None,
        };
        let reader = spool.map(|spool| SpoolReader::open(&spool, &from)).transpose()?.flatten();
        if reader.is_some() { Ok(reader) } else { admitted.map(|()| None) }
    }
}

/// Whether the log can hold transactions that end in a rollback. With `enforce_gtid_consistency` MySQL refuses the
/// statements that leave such in the log.
async fn may_log_rollbacks(c: &mut Connection) -> Result<bool> {
    if c.server.flavour == Flavour::MariaDb {
        return Ok(true);
    }
    let rows = c.query("SELECT @@global.enforce_gtid_consistency").await?;
    Ok(!rows.first().and_then(|r| r.get_str(0)).is_some_and(|v| v == "ON" || v == "1"))
}

/// Whether sessions log whole rows unless they say otherwise.
async fn logs_whole_rows(c: &mut Connection) -> Result<bool> {
    let rows = c.query("SELECT @@global.binlog_row_image").await?;
    Ok(rows.first().and_then(|r| r.get_str(0)).is_none_or(|image| image.eq_ignore_ascii_case("FULL")))
}

#[async_trait]
impl Source for MySql {
    fn spools(&self) -> bool {
        true
    }

    async fn tables(&self, wanted: &TablePattern) -> Result<Vec<Discovered>> {
        self.discover(wanted).await
    }

    async fn begin(&self, wanted: &TablePattern) -> Result<CopyStart> {
        self.begin_copy(wanted).await
    }

    async fn splits(&self, table: &TableSchema, rows: u64) -> Result<Vec<Split>> {
        self.cut_into_splits(table, rows).await
    }

    async fn read(&self, table: &Arc<TableSchema>, split: &Split, low: &Position) -> Result<Box<dyn BatchStream>> {
        Ok(Box::new(RangeStream::open(self, table, &split.range, low).await?))
    }

    async fn cut(&self, table: &Arc<TableSchema>, low: &Position) -> Result<Cut> {
        self.cut_whole(table, low).await
    }

    async fn rows_of(&self, table: &Arc<TableSchema>, keys: &RecordBatch, low: &Position) -> Result<RecordBatch> {
        self.rows_of_keys(table, keys, low).await
    }

    async fn end(&self, from: Option<&Position>) -> Result<LogEnd> {
        self.log_end(from).await
    }

    async fn changes(&self, request: ChangesRequest) -> Result<Box<dyn ChangeStream>> {
        let mut c = self.session().await?;
        let state = ServerState::ask(&mut c).await?;
        check::logs_all_of(&mut c, request.tables.iter().map(|t| &t.name)).await?;
        let spool = self.spooled(&state, &request)?;
        let mut options = StreamOptions::new(self.replica.for_lane(&mut c, request.lane).await?);
        options.server = Some(state.identity);
        options.decode = self.address.decode;
        options.charsets = discover::charsets(&mut c).await?;
        let rows = c.query("SELECT @@lower_case_table_names").await?;
        options.unseen = self.address.read_cascades;
        options.side_effects = SideEffects::ask(&mut c).await?;
        options.statements = c.server.flavour == Flavour::MariaDb && !logs_whole_rows(&mut c).await?;
        options.look_ahead = may_log_rollbacks(&mut c).await?;
        options.lower_case_names = rows.first().and_then(|r| r.number(0)) == Some(1_u8);
        let stream = match spool {
            Some(spool) => binlog::open_spool(spool, c.server.flavour, &self.address.connect, &request, options)?,
            None => binlog::open(c, &self.address.connect, &request, options).await?,
        };
        Ok(Box::new(stream.with_replica(Arc::clone(&self.replica))))
    }

    /// A server keeps its log as long as its own settings say.
    async fn acknowledge(&self, _upto: &Position) -> Result<()> {
        Ok(())
    }

    fn compare(&self, a: &Position, b: &Position) -> Option<Ordering> {
        binlog::position::compare(a, b)
    }

    async fn text(&self, table: &Arc<TableSchema>, range: &KeyRange) -> Result<Box<dyn BatchStream>> {
        self.canonical_rows(table, range).await
    }
}
