//! What a job is asked to do. One structure, whatever syntax it came from.

use serde::{Deserialize, Serialize};

use crate::engine::policy::SchemaPolicy;
use crate::error::{Error, Result};
use crate::pattern::TablePattern;
use crate::schema::TableName;
use crate::secret::redact_url;

/// A job as wanted.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSpec {
    /// Its name, unique in a data directory.
    pub name: String,
    /// The source's URL, with its password: print it only through [`JobSpec::source_redacted`].
    pub source: String,
    /// The sink's URL, likewise.
    pub sink: String,
    /// Which tables.
    pub tables: TablePattern,
    /// The database that all tables go to; `None`: the one of the same name as the source's.
    pub target_database: Option<String>,
    /// The rest.
    #[serde(default)]
    pub options: JobOptions,
}

/// Limits of a job. The defaults suit the embedded warehouse.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct JobOptions {
    /// Rows that are gathered before a flush.
    pub max_rows: usize,
    /// Bytes that are gathered before a flush; the next flush gathers as many while one is being written.
    pub max_bytes: usize,
    /// The longest that a committed row waits for company, in milliseconds.
    pub max_age_ms: u64,
    /// Connections that copy at the same time.
    pub copy_connections: usize,
    /// Rows of a split.
    pub split_rows: u64,
    /// Existing target tables are replaced; otherwise they are refused.
    pub replace: bool,
    /// Bytes of the source's log that are kept in the data directory while tables are on their way, for the case that the
    /// source purges it meanwhile; 0: none.
    pub spool_bytes: u64,
    /// What is done when a table's definition changes.
    pub schema_changes: SchemaPolicy,
}

impl Default for JobOptions {
    fn default() -> Self {
        JobOptions {
            max_rows: 200_000,
            max_bytes: 32 << 20,
            max_age_ms: 5,
            copy_connections: 2,
            split_rows: 100_000,
            replace: false,
            spool_bytes: 4 << 30,
            schema_changes: SchemaPolicy::Evolve,
        }
    }
}

impl JobSpec {
    /// Looks whether name and limits make sense.
    ///
    /// # Errors
    /// `Config`.
    pub fn validate(&self) -> Result<()> {
        let legal = |c: char| c.is_alphanumeric() || "-_.".contains(c);
        if self.name.is_empty() || self.name.len() > 64 || !self.name.chars().all(legal) {
            return Err(Error::config(format!("'{}' is not a name for a job", redact_url(&self.name)))
                .hint("use 1 to 64 letters, digits, '-', '_' and '.'"));
        }
        let o = &self.options;
        if o.max_rows == 0 || o.max_bytes == 0 || o.copy_connections == 0 || o.split_rows == 0 {
            return Err(Error::config("limits of a job must be above zero").with("job", &self.name));
        }
        Ok(())
    }

    /// Where a source table goes.
    pub fn target(&self, source: &TableName) -> TableName {
        let database = self.target_database.as_ref().unwrap_or(&source.database);
        TableName::new(database.clone(), source.table.clone())
    }

    /// A number that changes with everything that decides what is written where.
    pub fn hash(&self) -> u64 {
        let text = format!("{}\0{}\0{:?}", self.name, self.tables, self.target_database);
        xxhash_rust::xxh3::xxh3_64(text.as_bytes())
    }

    /// The source's URL for people.
    pub fn source_redacted(&self) -> String {
        redact_url(&self.source)
    }

    /// The sink's URL for people.
    pub fn sink_redacted(&self) -> String {
        redact_url(&self.sink)
    }
}

impl std::fmt::Debug for JobSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "JobSpec({}: {} -> {})", self.name, self.source_redacted(), self.sink_redacted())
    }
}
