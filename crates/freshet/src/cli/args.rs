//! What can be typed. Every command shares the options of [`Common`], before or behind its own.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use freshet_core::engine::SchemaPolicy;

/// Real-time data integration in one binary.
#[derive(Debug, Parser)]
#[command(
    name = "freshet",
    version,
    about = "Keeps live, queryable copies of your MySQL and MariaDB tables",
    after_help = "Begin with `freshet demo`, or with your own database:\n  \
                  freshet check mysql://user:password@host:3306/shop\n  \
                  freshet sync  mysql://user:password@host:3306/shop",
    disable_help_subcommand = true,
    max_term_width = 100
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// Options that every command has.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Common options")]
pub(crate) struct Common {
    /// Folder that holds the warehouse and the jobs; one process at a time [default: ./freshet-data]
    #[arg(long, global = true, value_name = "DIR", env = "FRESHET_DATA", hide_env_values = true)]
    pub(crate) data: Option<PathBuf>,
    /// Print one JSON object {"command","ok","result","error"} on the standard output
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Log more; twice for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// No progress and no warnings
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// No colours (NO_COLOR does the same)
    #[arg(long, global = true)]
    pub(crate) no_color: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show it: a made-up shop flows into the warehouse, which can be queried meanwhile
    Demo(Demo),
    /// Copy tables, then follow every change of rows and schema; serves the warehouse
    Sync(Sync),
    /// Serve the warehouse and run the stored jobs
    Serve(Serve),
    /// Look whether tables can be followed, and print the statements that fix what is missing
    Check(From),
    /// Print the target tables and the mapping of types; changes nothing
    Plan(Plan),
    /// List the tables of a source
    Tables(Tables),
    /// Show jobs and their tables
    Status(Status),
    /// Prove that source and target are equal, while changes flow
    Verify(Verify),
    /// Let a job flush and stand still
    Pause(Job),
    /// Let a paused or failed job, or its suspended tables, go on
    Resume(Resume),
    /// Copy tables again; what is live stays readable and fresh until the new copy takes its place
    Resync(JobTables),
    /// Forget a job; its target tables stay
    Drop(Job),
    /// Query the warehouse
    Sql(Sql),
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

impl Command {
    /// Its name, for the JSON envelope.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Command::Demo(_) => "demo",
            Command::Sync(_) => "sync",
            Command::Serve(_) => "serve",
            Command::Check(_) => "check",
            Command::Plan(_) => "plan",
            Command::Tables(_) => "tables",
            Command::Status(_) => "status",
            Command::Verify(_) => "verify",
            Command::Pause(_) => "pause",
            Command::Resume(_) => "resume",
            Command::Resync(_) => "resync",
            Command::Drop(_) => "drop",
            Command::Sql(_) => "sql",
            Command::Completions { .. } => "completions",
        }
    }
}

/// How to listen.
#[derive(Debug, Clone, Args)]
pub(crate) struct Listen {
    /// Where MySQL clients connect; port 0 takes a free one [default: 127.0.0.1:9030]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Option<SocketAddr>,
    /// File with the password of the warehouse's user root; without one, root has none and only this machine may connect
    #[arg(long, value_name = "FILE")]
    pub(crate) root_password_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) limits: Limits,
}

/// What the warehouse may take.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Limits {
    /// Memory that all queries together may take before they spill to the disk or fail, such as 256MB or 2GB
    /// [default: 512MB]
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub(crate) query_memory: Option<usize>,
    /// Disk that transactions too large for the memory may take before they end [default: 64GB]
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub(crate) transaction_disk: Option<usize>,
}

/// A size such as `512MB` in bytes.
fn bytes(text: &str) -> Result<usize, String> {
    let upper = text.trim().to_uppercase();
    let digits = upper.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match upper[digits.len()..].trim() {
        "" | "B" => 0,
        "K" | "KB" | "KIB" => 10,
        "M" | "MB" | "MIB" => 20,
        "G" | "GB" | "GIB" => 30,
        _ => return Err("write a number with KB, MB or GB behind it".into()),
    };
    let number: usize = digits.parse().map_err(|_| "write a number with KB, MB or GB behind it")?;
    let bytes = number.checked_mul(1 << shift).ok_or("that is more than there is")?;
    if bytes < 16 << 20 { Err("the least is 16MB".into()) } else { Ok(bytes) }
}

/// The same, or 0.
fn bytes_or_none(text: &str) -> Result<u64, String> {
    if text.trim() == "0" { Ok(0) } else { bytes(text).map(|n| n as u64) }
}

/// `demo`.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Rows that the shop begins with
    #[arg(long, default_value_t = 20_000)]
    pub(crate) rows: u64,
    /// Transactions a second
    #[arg(long, default_value_t = 200)]
    pub(crate) rate: u64,
    /// Another seed makes another shop
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// End by itself after so many seconds
    #[arg(long, value_name = "N")]
    pub(crate) seconds: Option<u64>,
    #[command(flatten)]
    pub(crate) listen: Listen,
}

/// A source, and which of its tables.
#[derive(Debug, Clone, Args)]
pub(crate) struct From {
    /// mysql://user:password@host:3306/database or generator://shop; ${NAME} stands for a variable of the environment
    pub(crate) source: String,
    /// Where to: leave out for the warehouse inside, or file:///folder, or - for the standard output
    pub(crate) sink: Option<String>,
    #[command(flatten)]
    pub(crate) select: Select,
}

/// What is done when a table's definition changes.
#[derive(Debug, Clone, Args)]
pub(crate) struct Changes {
    /// When a table's definition changes: evolve (its target follows), try_evolve (as far as it can), lenient (it only
    /// gains), ignore (it stays as it is), exception (the table waits for a person) [default: evolve]
    #[arg(long, value_name = "POLICY", value_parser = policy)]
    pub(crate) schema_changes: Option<SchemaPolicy>,
}

/// A policy by its name.
fn policy(text: &str) -> Result<SchemaPolicy, String> {
    text.parse().map_err(|e: freshet_core::Error| {
        [Some(e.message), e.hint].into_iter().flatten().collect::<Vec<_>>().join(": ")
    })
}

/// `plan`.
#[derive(Debug, Args)]
pub(crate) struct Plan {
    #[command(flatten)]
    pub(crate) from: From,
    #[command(flatten)]
    pub(crate) changes: Changes,
}

/// Which tables, and how to get in.
#[derive(Debug, Clone, Args)]
pub(crate) struct Select {
    /// Tables to follow: shop.*,!shop.audit; without a database, the one of the URL [default: all of that database]
    #[arg(long, value_name = "PATTERN")]
    pub(crate) tables: Option<String>,
    /// File with the source's password, so that it is neither in the command nor in the list of processes
    #[arg(long, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
    /// Put all tables into this database [default: the source's name]
    #[arg(long, value_name = "NAME")]
    pub(crate) target_database: Option<String>,
}

/// `sync`.
#[derive(Debug, Args)]
pub(crate) struct Sync {
    #[command(flatten)]
    pub(crate) from: From,
    /// Name of the job [default: the source's database]
    #[arg(long, value_name = "JOB")]
    pub(crate) name: Option<String>,
    /// Replace target tables that exist already
    #[arg(long)]
    pub(crate) replace: bool,
    /// Connections that copy at the same time
    #[arg(long, value_name = "N")]
    pub(crate) connections: Option<usize>,
    /// How much of the source's log to keep in the data folder while tables are being copied, because the source may
    /// purge it before they are level; 0 for nothing [default: 4GB]
    #[arg(long, value_name = "SIZE", value_parser = bytes_or_none)]
    pub(crate) spool: Option<u64>,
    #[command(flatten)]
    pub(crate) changes: Changes,
    #[command(flatten)]
    pub(crate) listen: Listen,
}

/// `serve`.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    #[command(flatten)]
    pub(crate) listen: Listen,
}

/// `tables`.
#[derive(Debug, Args)]
pub(crate) struct Tables {
    /// mysql://user:password@host:3306/database or generator://shop
    pub(crate) source: String,
    #[command(flatten)]
    pub(crate) select: Select,
}

/// `status`.
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Only this job
    pub(crate) job: Option<String>,
    /// Show it again every second
    #[arg(long)]
    pub(crate) watch: bool,
}

/// `verify`.
#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// The job
    pub(crate) job: String,
    /// Only these tables: shop.orders,shop.c*
    #[arg(long, visible_alias = "table", value_name = "PATTERN")]
    pub(crate) tables: Option<String>,
    /// Compare at most so many key ranges of each table (of about 50,000 rows)
    #[arg(long, value_name = "N")]
    pub(crate) sample: Option<u64>,
    /// Write the keys that differ as the source has them now
    #[arg(long)]
    pub(crate) repair: bool,
}

/// A command about one job.
#[derive(Debug, Args)]
pub(crate) struct Job {
    /// The job
    pub(crate) job: String,
}

/// A command about a job or some of its tables.
#[derive(Debug, Args)]
pub(crate) struct JobTables {
    /// The job
    pub(crate) job: String,
    /// Only these tables: shop.orders,shop.c*
    #[arg(value_name = "TABLES")]
    pub(crate) tables: Option<String>,
}

/// `resume`.
#[derive(Debug, Args)]
pub(crate) struct Resume {
    /// The job
    pub(crate) job: String,
    /// Only these tables: shop.orders,shop.c*
    #[arg(value_name = "TABLES")]
    pub(crate) tables: Option<String>,
    /// Go on from here: the same data at another address, such as a replica that took over, or with another password
    #[arg(long, value_name = "URL", conflicts_with = "tables")]
    pub(crate) source: Option<String>,
    /// Read its password from this file
    #[arg(long, value_name = "FILE", requires = "source")]
    pub(crate) password_file: Option<PathBuf>,
}

/// `sql`.
#[derive(Debug, Args)]
pub(crate) struct Sql {
    /// The statements; without them they are read from the standard input
    pub(crate) query: Option<String>,
    /// The database to use
    #[arg(long, value_name = "NAME")]
    pub(crate) database: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_knows_its_name() {
        for command in Cli::command().get_subcommands() {
            let name = command.get_name();
            let rest: &[&str] = match name {
                "check" | "plan" | "tables" | "sync" => &["generator://shop"],
                "verify" | "pause" | "resume" | "resync" | "drop" => &["job"],
                "completions" => &["bash"],
                _ => &[],
            };
            let parsed = Cli::try_parse_from([&["freshet", name], rest].concat()).expect(name);
            assert_eq!(parsed.command.name(), name);
        }
    }

    #[test]
    fn verify_takes_one_table_as_well() {
        for option in ["--table", "--tables"] {
            let parsed = Cli::try_parse_from(["freshet", "verify", "job", option, "shop.orders"]).unwrap();
            let Command::Verify(Verify { tables, .. }) = parsed.command else { panic!("not verify") };
            assert_eq!(tables.as_deref(), Some("shop.orders"));
        }
    }
}
