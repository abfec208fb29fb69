//! The warehouse's SQL: sessions that take MySQL's and Doris's statements and answer with Arrow batches. Statements are
//! dispatched by their first words; data definition and SHOW have parsers of their own, queries go through sqlparser's
//! MySQL dialect, a rewrite of what MySQL says differently, and DataFusion. One statement sees one version of the data.

pub mod ddl;
mod dialect;
mod dml;
mod error;
mod fit;
mod functions;
mod information_schema;
#[cfg(test)]
mod lab;
mod lexer;
mod listing;
mod memory;
mod planner;
mod prune;
mod query;
mod rewrite;
mod scan;
mod session;
mod set;
mod show;
mod threads;
mod types;
mod variables;

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::TrackConsumersPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::{FunctionRegistry, SessionState, SessionStateBuilder};
use datafusion::prelude::SessionConfig;
use freshet_core::{Error, Result, TableName};
use futures::stream::BoxStream;

pub use error::mysql_error;
pub use session::Session;
pub use variables::{SERVER_VERSION, VERSION_COMMENT};

use crate::{Snapshot, TableView, Warehouse};

/// Rows of an answer, in batches of its schema.
pub type RowStream = BoxStream<'static, Result<RecordBatch>>;

/// What a statement answers.
pub enum Outcome {
    /// A result set. Where Arrow's type is not enough, the field's metadata holds Doris's under [`TYPE_KEY`].
    Rows {
        /// Names and types of the columns.
        schema: SchemaRef,
        /// The rows.
        stream: RowStream,
    },
    /// No result set.
    Done {
        /// Rows that were changed.
        affected: u64,
        /// A word for people, mostly empty.
        info: String,
    },
}

/// Key of a field's metadata: the Doris type of a column in lower case (`json`, `largeint`, `timestamptz(6)`,
/// `varchar(40)`, …).
pub const TYPE_KEY: &str = "freshet.type";

/// Jobs as SQL: implemented by the binary over the engine, so that the warehouse does not know it.
#[async_trait]
pub trait SystemTables: Send + Sync {
    /// Names and schemas; they appear in `information_schema`.
    fn tables(&self) -> Vec<(&'static str, SchemaRef)>;

    /// The rows of one of them now.
    ///
    /// # Errors
    /// When the engine cannot be asked.
    async fn rows(&self, table: &str) -> Result<RecordBatch>;

    /// Executes a job statement.
    ///
    /// # Errors
    /// `NotFound` for an unknown job.
    async fn control(&self, command: JobCommand) -> Result<()>;
}

/// A job statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobCommand {
    /// `PAUSE JOB WHERE jobname = '…'`.
    Pause {
        /// The job.
        name: String,
    },
    /// `RESUME JOB WHERE jobname = '…'`.
    Resume {
        /// The job.
        name: String,
    },
    /// `DROP JOB [IF EXISTS] WHERE jobname = '…'`.
    Drop {
        /// The job.
        name: String,
        /// No error when there is none.
        if_exists: bool,
    },
}

/// Limits of queries.
#[derive(Debug, Clone)]
pub struct SqlOptions {
    /// Memory that all queries together may hold, in bytes.
    pub memory: usize,
    /// Partitions that a query is run in, and threads of all queries; as a rule the number of cores.
    pub partitions: usize,
}

impl Default for SqlOptions {
    /// 512 MB, and as many partitions as there are cores.
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        SqlOptions { memory: 512 << 20, partitions: cores }
    }
}

/// The SQL of one warehouse: what its sessions share.
pub struct Sql {
    warehouse: Arc<Warehouse>,
    system: Arc<dyn SystemTables>,
    options: SqlOptions,
    state: OnceLock<SessionState>,
    threads: threads::Threads,
    sessions: AtomicU64,
    /// Held by a statement that changes rows, so that what it reads is what it changes.
    writing: tokio::sync::Mutex<()>,
}

impl Sql {
    /// Over a warehouse. Cheap: DataFusion is set up, and its threads are started, by the first query.
    pub fn new(warehouse: Arc<Warehouse>, options: SqlOptions, system: Arc<dyn SystemTables>) -> Arc<Sql> {
        // What queries of a process that was killed have left behind.
        let _ = std::fs::remove_dir_all(warehouse.scratch());
        Arc::new(Sql {
            threads: threads::Threads::new(options.partitions),
            warehouse,
            system,
            options,
            state: OnceLock::new(),
            sessions: AtomicU64::new(0),
            writing: tokio::sync::Mutex::new(()),
        })
    }

    /// A new session of this user, without a current database.
    pub fn session(self: &Arc<Self>, user: &str) -> Session {
        let id = self.sessions.fetch_add(1, Ordering::Relaxed) + 1;
        Session::new(Arc::clone(self), user, id)
    }

    /// DataFusion's state for a session in this time zone.
    fn state(&self, zone: &str) -> SessionState {
        let mut state = self.state.get_or_init(|| new_state(&self.options, &self.warehouse.scratch())).clone();
        if zone != "UTC" {
            state.config_mut().options_mut().execution.time_zone = Some(zone.to_string());
        }
        state
    }
}

fn new_state(options: &SqlOptions, scratch: &Path) -> SessionState {
    let mut config = SessionConfig::new()
        .with_target_partitions(options.partitions.max(1))
        .with_information_schema(false)
        .with_parquet_bloom_filter_pruning(true)
        .with_parquet_page_index_pruning(true)
        .with_parquet_pruning(true);
    let parquet = &mut config.options_mut().execution.parquet;
    parquet.pushdown_filters = true;
    parquet.reorder_filters = true;
    // Segments hold plain strings, and the delta does: no conversions to views between the two.
    parquet.schema_force_view_types = false;
    // Little memory is worked with in small pieces.
    let rows = options.memory / options.partitions.max(1) / 8192;
    config = config.with_batch_size(rows.clamp(1024, 8192));
    // What each sort sets aside for merging what it has spilled: little where there is little.
    let share = options.memory / (8 * options.partitions.max(1));
    let sort = &mut config.options_mut().execution.sort_spill_reservation_bytes;
    *sort = share.min(*sort);
    let pool = TrackConsumersPool::new(memory::QueryMemory::new(options.memory), NonZeroUsize::MIN);
    let limited = RuntimeEnvBuilder::new().with_memory_pool(Arc::new(pool));
    let disk = |mode| limited.clone().with_disk_manager_builder(DiskManagerBuilder::default().with_mode(mode));
    // Without room for spilling a query has its memory and no more.
    let runtime = disk(DiskManagerMode::Directories(vec![scratch.to_path_buf()]))
        .build_arc()
        .or_else(|_| disk(DiskManagerMode::Disabled).build_arc())
        .unwrap_or_default();
    let mut state = SessionStateBuilder::new()
        .with_config(config)
        .with_runtime_env(runtime)
        .with_expr_planners(vec![Arc::new(planner::Arithmetic)])
        .with_default_features()
        .build();
    for function in functions::all() {
        if let Err(e) = state.register_udf(Arc::new(function)) {
            tracing::error!("cannot register a function: {e}");
        }
    }
    state
}

/// Microseconds since 1970.
fn now_micros() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_micros()).unwrap_or(i64::MAX)
}

/// The table of that name, or what else may have been meant.
fn find_table<'s>(snapshot: &'s Snapshot, name: &TableName) -> Result<&'s Arc<TableView>> {
    if let Some(view) = snapshot.table(name) {
        return Ok(view);
    }
    if !snapshot.databases().any(|d| d == name.database) {
        return Err(unknown_database(snapshot, &name.database));
    }
    let e = Error::not_found(format!("table '{name}' does not exist")).with("table", name);
    let near = nearest(
        &name.table,
        snapshot.tables().map(|v| &v.table.name).filter(|t| t.database == name.database).map(|t| t.table.as_str()),
    );
    Err(match near {
        Some(near) => e.hint(format!("did you mean {near}?")),
        None => e,
    })
}

fn unknown_database(snapshot: &Snapshot, name: &str) -> Error {
    let e = Error::not_found(format!("unknown database '{name}'")).with("database", name);
    match nearest(name, snapshot.databases()) {
        Some(near) => e.hint(format!("did you mean {near}?")),
        None => e,
    }
}

/// The candidate that a mistyped name most likely means.
fn nearest<'c>(name: &str, candidates: impl Iterator<Item = &'c str>) -> Option<&'c str> {
    freshet_core::nearest::nearest(name, candidates.filter(|c| *c != name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistyped_names() {
        assert_eq!(nearest("ordesr", ["users", "orders"].into_iter()), Some("orders"));
        assert_eq!(nearest("xyz", ["users", "orders"].into_iter()), None);
    }
}
