//! The copy of a table without a key: all of its rows in one snapshot whose place in the log is known exactly, so that
//! every change is either in the rows or behind that place, never both.
//!
//! MariaDB tells the place itself: a consistent snapshot is taken between two commits, and `binlog_snapshot_position`
//! says which. MySQL does not, so the table is locked against writers for a moment: the lock is granted when all who
//! wrote to the table have committed, in the log and in the engine, and while it is held nobody else can; the snapshot
//! is opened and the place is noted meanwhile. What other tables commit in that moment may be before or behind the
//! place, which makes no difference to this table. A table whose engine has no snapshots is locked until it is read.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Duration;

use freshet_core::schema::{quote_name, quote_text};
use freshet_core::{Cut, Error, ErrorKind, Position, Result, TableSchema};

use super::MySql;
use super::binlog::position::LogPosition;
use super::copy::{columns_of, hold, snapshot_at};
use super::discover::{numbered, written_position};
use super::text_values::table_changed;
use super::wire::{Connection, Flavour, server_error_number};

/// Seconds for which writers of the table may have to wait behind us while a long transaction on it goes on.
const LOCK_SECONDS: u32 = 2;
/// How often the lock is asked for, and how long the writers have in between.
const LOCK_ATTEMPTS: u32 = 30;
const LOCK_PAUSE: Duration = Duration::from_secs(1);
/// Lock wait timeout exceeded.
const LOCK_TIMEOUT: u16 = 1205;

impl MySql {
    pub(super) async fn cut_whole(&self, table: &Arc<TableSchema>, low: &Position) -> Result<Cut> {
        let low = LogPosition::parse(low)?;
        let mut c = self.session_at(&low).await?;
        let at = match (has_snapshots(&mut c, table).await?, c.server.flavour) {
            (false, _) => {
                lock(&mut c, table).await?;
                hold(&mut c, table).await?;
                written_position(&mut c).await?
            }
            (true, Flavour::MariaDb) => {
                let at = snapshot_at(&mut c, &low).await.map_err(|e| e.with("table", &table.name))?;
                hold(&mut c, table).await?;
                numbered(&mut c, at).await?
            }
            (true, Flavour::MySql) => {
                let mut locker = self.session_at(&low).await?;
                lock(&mut locker, table).await?;
                let at = snapshot_under_lock(&mut c, table).await;
                // Ending the connection would unlock as well, but only when the server notices.
                locker.execute("UNLOCK TABLES").await?;
                at?
            }
        };
        if !matches!(at.compare(&low), Some(Ordering::Greater | Ordering::Equal)) {
            return Err(Error::source_state("the server's log does not go on where the copy began")
                .with("position", &low)
                .with("now", &at)
                .with("table", &table.name)
                .hint("another server answers, or its log was reset: start the copy again"));
        }
        let sql = format!("SELECT {} FROM {} AS t", columns_of(table)?, table.name.quoted());
        Ok(Cut { at: at.position(), rows: Box::new(self.batches(c, table, &sql).await?) })
    }
}

/// Opens the snapshot and notes its place while writers are locked out.
async fn snapshot_under_lock(c: &mut Connection, table: &TableSchema) -> Result<LogPosition> {
    c.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT").await?;
    hold(c, table).await?;
    written_position(c).await
}

/// Whether a transaction sees the table as it was at one instant.
async fn has_snapshots(c: &mut Connection, table: &TableSchema) -> Result<bool> {
    let sql = format!(
        "SELECT ENGINE FROM information_schema.TABLES WHERE TABLE_SCHEMA = {} AND TABLE_NAME = {}",
        quote_text(&table.name.database),
        quote_text(&table.name.table)
    );
    let rows = c.query(&sql).await?;
    let engine = rows.first().and_then(|r| r.get_str(0)).unwrap_or_default();
    Ok(["InnoDB", "ROCKSDB"].iter().any(|e| engine.eq_ignore_ascii_case(e)))
}

/// Locks writers of the table out. They queue behind a lock that waits, so it waits for short times only.
async fn lock(c: &mut Connection, table: &TableSchema) -> Result<()> {
    c.execute(&format!("SET SESSION lock_wait_timeout = {LOCK_SECONDS}")).await?;
    // A MariaDB lock would be listed under its alias, a name that columns cannot be without.
    // A table that is named like the alias is locked under it already.
    let aliased = match table.name.table.eq_ignore_ascii_case("t") {
        true => String::new(),
        false => format!(", {} AS t READ", table.name.quoted()),
    };
    let sql = format!("LOCK TABLES {} READ{aliased}", table.name.quoted());
    for _ in 0..LOCK_ATTEMPTS {
        match c.execute(&sql).await {
            Ok(()) => return Ok(()),
            Err(e) if server_error_number(&e) == Some(LOCK_TIMEOUT) => tokio::time::sleep(LOCK_PAUSE).await,
            Err(mut e) if e.kind == ErrorKind::Permission => {
                let database = quote_name(&table.name.database);
                e.hint = Some(format!("GRANT SELECT, LOCK TABLES ON {database}.* TO the user in the source's URL;"));
                return Err(e.with("table", &table.name));
            }
            Err(e) => return Err(table_changed(e).with("table", &table.name)),
        }
    }
    Err(Error::source_unavailable("a transaction keeps the table from being locked for a moment")
        .with("table", &table.name)
        .hint("a table without a key is copied behind a brief LOCK TABLES … READ: end the long transaction on it"))
}
