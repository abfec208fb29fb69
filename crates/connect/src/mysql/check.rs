//! Whether a server can be a source: settings of its log, grants, tables. Every finding comes with the statement that
//! mends it, as this server understands it.

use std::collections::HashMap;

use async_trait::async_trait;
use freshet_core::schema::quote_name;
use freshet_core::{Check, Discovered, Error, ErrorKind, Finding, Result, TableName, TablePattern, Verdict};

use super::MySql;
use super::discover::log_status;
use super::side_effects::SideEffects;
use super::wire::{Connection, Flavour, Row};

/// Log that is kept for less than this is likely to be gone when a stopped job goes on.
const RETENTION_SECONDS: u64 = 86_400;
const RETENTION_WANTED: u64 = 259_200;
/// Tables whose readability is tried one by one.
const TABLES_TRIED: usize = 2000;

#[async_trait]
impl Check for MySql {
    async fn check(&self, tables: &TablePattern) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut c = match self.session().await {
            Ok(c) => c,
            Err(e) => return vec![failure("connection", &e)],
        };
        findings.push(version(&c));
        match Server::ask(&mut c).await {
            Ok(server) => server.settings(&mut findings),
            Err(e) => findings.push(failure("settings", &e)),
        }
        let granted = Grants::ask(&mut c).await;
        match &granted {
            Ok(granted) => findings.extend(grants(&c, granted)),
            Err(e) => findings.push(failure("grants", e)),
        }
        match self.discover(tables).await {
            Err(e) => findings.push(failure("tables", &e)),
            Ok(found) => {
                match replica(&mut c, &found).await {
                    Ok(finding) => findings.extend(finding),
                    Err(e) => findings.push(failure("replica", &e)),
                }
                match foreign_keys(&mut c, &found, self.address.read_cascades).await {
                    Ok(keys) => findings.extend(keys),
                    Err(e) => findings.push(failure("foreign keys", &e)),
                }
                match filters(&mut c, &found).await {
                    Ok(filtered) => findings.push(filtered),
                    Err(e) => findings.push(failure("log filters", &e)),
                }
                findings.extend(look_at(&mut c, tables, &found, granted.as_ref().ok()).await);
            }
        }
        findings
    }
}

/// An error as a finding: it could not be looked at.
fn failure(name: &str, error: &Error) -> Finding {
    let finding = Finding::new(name, Verdict::Failed, error.line());
    match &error.hint {
        Some(hint) => finding.fix(hint.clone()),
        None => finding,
    }
}

fn version(c: &Connection) -> Finding {
    let (oldest, name) = match c.server.flavour {
        Flavour::MySql => ((5, 7, 0), "MySQL"),
        Flavour::MariaDb => ((10, 3, 0), "MariaDB"),
    };
    let text = format!("{name} {}", c.server.text);
    match c.server.version >= oldest {
        true => Finding::new("server", Verdict::Ok, text),
        false => Finding::new("server", Verdict::Warning, format!("{text} is older than what Freshet is tested with"))
            .fix(format!("upgrade to {name} {}.{} or newer", oldest.0, oldest.1)),
    }
}

/// The server's settings.
struct Server {
    mariadb: bool,
    /// MySQL 8: a setting can be made to survive a restart.
    persists: bool,
    variables: HashMap<String, String>,
}

impl Server {
    async fn ask(c: &mut Connection) -> Result<Self> {
        let rows = c.query("SHOW GLOBAL VARIABLES").await?;
        let pair = |r: &Row| Some((r.get_str(0)?.to_ascii_lowercase(), r.get_str(1)?.to_string()));
        let mariadb = c.server.flavour == Flavour::MariaDb;
        Ok(Server {
            mariadb,
            persists: !mariadb && c.server.version >= (8, 0, 0),
            variables: rows.iter().filter_map(pair).collect(),
        })
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    fn set(&self, name: &str, value: &str) -> String {
        format!("SET {} {name} = {value};", if self.persists { "PERSIST" } else { "GLOBAL" })
    }

    fn settings(&self, out: &mut Vec<Finding>) {
        let on = |value: Option<&str>| value.is_some_and(|v| v.eq_ignore_ascii_case("ON") || v == "1");
        if !on(self.value("log_bin")) {
            let message = "the server writes no binary log, so there are no changes to follow";
            let fix = "put `log_bin = mysql-bin` and `server_id = 1` under [mysqld] in the server's configuration, and restart it";
            out.push(Finding::new("binary log", Verdict::Failed, message).fix(fix));
            return;
        }
        out.push(Finding::new("binary log", Verdict::Ok, "on"));
        self.expect(out, "binlog format", "binlog_format", "ROW", "changes are logged as statements, not as rows");
        self.row_image(out);
        self.expect(
            out,
            "row values",
            "binlog_row_value_options",
            "",
            "the log holds changed pieces of JSON documents only",
        );
        if self.mariadb {
            let why = "an ALTER TABLE is logged in two parts, which are not read yet";
            self.expect(out, "alter in two phases", "binlog_alter_two_phase", "OFF", why);
        }
        match self.value("server_id").and_then(|v| v.parse::<u32>().ok()) {
            Some(0) | None => out.push(
                Finding::new("server id", Verdict::Failed, "it is 0: the server refuses replicas")
                    .fix(self.set("server_id", "1")),
            ),
            Some(id) => out.push(Finding::new("server id", Verdict::Ok, id.to_string())),
        }
        self.retention(out);
        self.durability(out);
        self.transaction_ids(out);
        let zone = self.value("time_zone").unwrap_or_default();
        let zone = if zone == "SYSTEM" { self.value("system_time_zone").unwrap_or(zone) } else { zone };
        out.push(Finding::new("time zone", Verdict::Ok, format!("{zone}; Freshet's sessions use UTC, whatever it is")));
    }

    fn expect(&self, out: &mut Vec<Finding>, name: &str, variable: &str, wanted: &str, why: &str) {
        // A server that does not know the variable knows nothing else than what we want.
        let Some(value) = self.value(variable) else { return };
        out.push(match value.eq_ignore_ascii_case(wanted) {
            true => Finding::new(name, Verdict::Ok, if wanted.is_empty() { "whole" } else { value }),
            false => Finding::new(name, Verdict::Failed, format!("{variable} is {value}: {why}"))
                .fix(self.set(variable, &format!("'{wanted}'"))),
        });
    }

    /// MySQL logs all that a part of a row needs. MariaDB leaves out what it computes, and what a REPLACE sets back to
    /// its default, which its own replicas lose; the statement's text beside the rows tells.
    fn row_image(&self, out: &mut Vec<Finding>) {
        let Some(value) = self.value("binlog_row_image") else { return };
        out.push(match value.eq_ignore_ascii_case("FULL") || !self.mariadb {
            true => Finding::new("row image", Verdict::Ok, value),
            false => {
                let message = format!(
                    "binlog_row_image is {value}: MariaDB then does not log virtual columns, whose tables are suspended, \
                     nor what a REPLACE sets back to its default, which is read from its text \
                     (binlog_annotate_row_events = ON) unless a trigger does it"
                );
                Finding::new("row image", Verdict::Warning, message).fix(self.set("binlog_row_image", "'FULL'"))
            }
        });
    }

    fn retention(&self, out: &mut Vec<Finding>) {
        let number = |name| self.value(name).and_then(|v| v.parse::<f64>().ok()).unwrap_or(0.0);
        let seconds = match number("binlog_expire_logs_seconds") as u64 {
            0 => (number("expire_logs_days") * 86_400.0) as u64,
            n => n,
        };
        let variable = match self.value("binlog_expire_logs_seconds") {
            Some(_) => self.set("binlog_expire_logs_seconds", &RETENTION_WANTED.to_string()),
            None => self.set("expire_logs_days", &(RETENTION_WANTED / 86_400).to_string()),
        };
        out.push(match seconds {
            0 => Finding::new("log retention", Verdict::Ok, "until it is purged by hand"),
            n if n >= RETENTION_SECONDS => {
                Finding::new("log retention", Verdict::Ok, format!("{:.1} days", n as f64 / 86_400.0))
            }
            n => {
                let message = format!(
                    "the log is kept for {n} s: a job that is stopped for longer has to begin anew, and a copy that takes \
                     longer needs its local spool of the log (sync --spool, 4GB by default)"
                );
                Finding::new("log retention", Verdict::Warning, message).fix(variable)
            }
        });
        if let Some(size) = self.value("max_binlog_total_size").filter(|v| *v != "0") {
            let message = format!(
                "the log is cut at {size} bytes in total, however young it is: what is logged during a copy has to fit into \
                 its local spool of the log (sync --spool, 4GB by default)"
            );
            out.push(Finding::new("log size", Verdict::Warning, message).fix(self.set("max_binlog_total_size", "0")));
        }
    }

    fn durability(&self, out: &mut Vec<Finding>) {
        match self.value("sync_binlog") {
            None | Some("1") => out.push(Finding::new("log durability", Verdict::Ok, "each commit is synced")),
            Some(n) => {
                let message = format!(
                    "sync_binlog is {n}: when the server's machine crashes, the end of its log is lost, and a job that has \
                     read it stops and has to copy its tables anew"
                );
                out.push(Finding::new("log durability", Verdict::Warning, message).fix(self.set("sync_binlog", "1")));
            }
        }
    }

    fn transaction_ids(&self, out: &mut Vec<Finding>) {
        if self.mariadb {
            return out.push(Finding::new("transaction ids", Verdict::Ok, "MariaDB's"));
        }
        out.push(match self.value("gtid_mode") {
            Some(mode) if mode.eq_ignore_ascii_case("ON") => Finding::new("transaction ids", Verdict::Ok, "on"),
            _ => Finding::new(
                "transaction ids",
                Verdict::Warning,
                "off: each read of a copy takes a brief LOCK TABLES … READ, and a job cannot follow to another server",
            )
            .fix(
                "SET GLOBAL enforce_gtid_consistency = ON; SET GLOBAL gtid_mode = OFF_PERMISSIVE; \
                 SET GLOBAL gtid_mode = ON_PERMISSIVE; SET GLOBAL gtid_mode = ON;",
            ),
        });
    }
}

/// What the server lets the user do, as far as it lists it.
struct Grants {
    user: String,
    /// `SHOW GRANTS` in upper case.
    lines: Vec<String>,
    /// Some come by roles, whose grants are not listed.
    roles: bool,
}

impl Grants {
    async fn ask(c: &mut Connection) -> Result<Grants> {
        let user = c.query("SELECT CURRENT_USER()").await?;
        let user = user.first().and_then(|r| r.get_str(0)).unwrap_or_default().to_string();
        let user = match user.rsplit_once('@') {
            Some((name, host)) => format!("{}@{}", quote_name(name), quote_name(host)),
            None => user,
        };
        let rows = c.query("SHOW GRANTS FOR CURRENT_USER()").await?;
        let lines: Vec<String> = rows.iter().filter_map(|r| r.get_str(0)).map(str::to_ascii_uppercase).collect();
        // A line without ON gives a role.
        let roles = lines.iter().any(|l| !l.contains(" ON "));
        Ok(Grants { user, lines, roles })
    }

    /// Whether one of these is granted everywhere, or in this database by its name (`_` may be escaped in it).
    fn has(&self, privileges: &[&str], database: Option<&str>) -> bool {
        let name = database.map(|d| quote_name(d).to_ascii_uppercase());
        let there = |line: &&String| {
            let in_database = |name: &String| line.replace("\\_", "_").contains(&format!(" ON {name}.* "));
            line.contains(" ON *.* ") || name.as_ref().is_some_and(in_database)
        };
        let any = |line: &String| line.contains("ALL PRIVILEGES") || privileges.iter().any(|p| line.contains(p));
        self.lines.iter().filter(there).any(any)
    }
}

/// What the user may do at the server.
fn grants(c: &Connection, granted: &Grants) -> Vec<Finding> {
    let Grants { user, roles, .. } = granted;
    let mariadb_monitor = c.server.flavour == Flavour::MariaDb && c.server.version >= (10, 5, 0);
    let monitor = if mariadb_monitor { "BINLOG MONITOR" } else { "REPLICATION CLIENT" };
    let mut out = Vec::new();
    for (name, privilege, other, what) in [
        ("grant to stream", "REPLICATION SLAVE", "REPLICATION REPLICA", "read the log"),
        ("grant to look", monitor, "REPLICATION CLIENT", "see the log's end"),
    ] {
        out.push(match granted.has(&[privilege, other], None) {
            true => Finding::new(name, Verdict::Ok, privilege),
            false => {
                let verdict = if *roles { Verdict::Warning } else { Verdict::Failed };
                let message = match *roles {
                    true => format!("{user} has {privilege} (to {what}) only if one of its roles has it"),
                    false => format!("{user} may not {what}: {privilege} is missing"),
                };
                Finding::new(name, verdict, message).fix(format!("GRANT {privilege} ON *.* TO {user};"))
            }
        });
    }
    out
}

/// Names of the databases that tables are in.
fn databases<'t>(tables: impl Iterator<Item = &'t TableName>) -> Vec<&'t str> {
    let mut names: Vec<&str> = tables.map(|t| t.database.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// The setting by which a replica keeps what it receives out of its own log, if this server does so.
async fn unlogged_updates(c: &mut Connection) -> Result<Option<Unlogged>> {
    let mariadb = c.server.flavour == Flavour::MariaDb;
    let renamed = !mariadb && c.server.version >= (8, 0, 22);
    let rows = match c.query(if renamed { "SHOW REPLICA STATUS" } else { "SHOW SLAVE STATUS" }).await {
        Ok(rows) => rows,
        // That is another grant, which nothing else needs.
        Err(e) if e.kind == ErrorKind::Permission => return Ok(None),
        Err(e) => return Err(e),
    };
    if rows.is_empty() {
        return Ok(None);
    }
    let name = if renamed && c.server.version >= (8, 0, 26) { "log_replica_updates" } else { "log_slave_updates" };
    let logged = c.query(&format!("SELECT @@global.{name}")).await?;
    Ok(Some(Unlogged { name, on: logged.first().and_then(|r| r.number::<u8>(0)) == Some(1) }))
}

/// A replica's setting.
struct Unlogged {
    name: &'static str,
    on: bool,
}

impl Unlogged {
    fn message(&self) -> String {
        format!(
            "the server is a replica with {} = OFF: what it receives from its source is not in its own log",
            self.name
        )
    }

    fn fix(&self) -> String {
        format!("put `{} = ON` under [mysqld] in the server's configuration, and restart it", self.name)
    }
}

/// A replica that does not log what it receives.
async fn replica(c: &mut Connection, found: &[Discovered]) -> Result<Option<Finding>> {
    let Some(updates) = unlogged_updates(c).await? else { return Ok(None) };
    if updates.on {
        return Ok(Some(Finding::new("replica", Verdict::Ok, format!("{} is on", updates.name))));
    }
    let concerned = databases(found.iter().map(|t| &t.name)).join(", ");
    let message = format!("{}; databases concerned: {concerned}", updates.message());
    Ok(Some(Finding::new("replica", Verdict::Failed, message).fix(updates.fix())))
}

/// Foreign keys that change rows of the job's tables without a trace in the log.
async fn foreign_keys(c: &mut Connection, found: &[Discovered], read_again: bool) -> Result<Vec<Finding>> {
    let effects = SideEffects::ask(c).await?;
    if effects.cascades_are_logged {
        return Ok(vec![Finding::new("foreign keys", Verdict::Ok, "the log holds what they change")]);
    }
    let concerned = effects.cascades.iter().filter(|k| found.iter().any(|t| t.name == k.child));
    let findings: Vec<_> = concerned
        .map(|k| {
            let message = format!(
                "this server does not log what {} ({}) changes here: {} when rows of {} are deleted or get another key",
                quote_name(&k.name),
                k.rules(),
                if read_again { "these rows are read again" } else { "the table is suspended" },
                k.parent
            );
            let (verdict, fix) = match read_again {
                true => (Verdict::Warning, k.remedy()),
                false => (
                    Verdict::Failed,
                    format!(
                        "{}; or put ?cascades=resync into the source's URL: these rows are read again then",
                        k.remedy()
                    ),
                ),
            };
            Finding::new("foreign keys", verdict, message).about(&k.child).fix(fix)
        })
        .collect();
    Ok(match findings.is_empty() {
        true => vec![Finding::new("foreign keys", Verdict::Ok, "none that changes rows unseen")],
        false => findings,
    })
}

const FILTERED: &str = "remove binlog_do_db and binlog_ignore_db from the server's configuration, and restart it";

/// Which of these databases the server leaves out of its log; `None` when it leaves out none of all.
async fn left_out<'d>(c: &mut Connection, databases: &[&'d str]) -> Result<Option<Vec<&'d str>>> {
    let rows = log_status(c).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let list = |name: &str| -> Vec<String> {
        row.named(name).unwrap_or_default().split(',').filter(|d| !d.is_empty()).map(str::to_string).collect()
    };
    let (only, never) = (list("Binlog_Do_DB"), list("Binlog_Ignore_DB"));
    if only.is_empty() && never.is_empty() {
        return Ok(None);
    }
    let left_out = |d: &str| (!only.is_empty() && !only.iter().any(|o| o == d)) || never.iter().any(|n| n == d);
    Ok(Some(databases.iter().copied().filter(|d| left_out(d)).collect()))
}

/// Databases that the server leaves out of its log.
async fn filters(c: &mut Connection, found: &[Discovered]) -> Result<Finding> {
    Ok(match left_out(c, &databases(found.iter().map(|t| &t.name))).await? {
        None => Finding::new("log filters", Verdict::Ok, "none"),
        Some(none) if none.is_empty() => {
            Finding::new("log filters", Verdict::Ok, "the databases of the job are in the log")
        }
        Some(some) => {
            Finding::new("log filters", Verdict::Failed, format!("not in the log: {}", some.join(", "))).fix(FILTERED)
        }
    })
}

/// Refuses a server that keeps changes of these tables out of its log. The settings may come with any restart, and with
/// any server that takes over.
///
/// # Errors
/// `SourceState`, with the setting; when the server cannot be asked.
pub(super) async fn logs_all_of<'t>(c: &mut Connection, tables: impl Iterator<Item = &'t TableName>) -> Result<()> {
    let databases = databases(tables);
    let then = "then copy again what was changed meanwhile, which its log does not hold: freshet resync JOB";
    if let Some(updates) = unlogged_updates(c).await?.filter(|u| !u.on) {
        return Err(Error::source_state(updates.message()).hint(format!("{}; {then}", updates.fix())));
    }
    match left_out(c, &databases).await {
        Ok(Some(some)) if !some.is_empty() => {
            Err(Error::source_state(format!("the server leaves databases out of its log: {}", some.join(", ")))
                .hint(format!("{FILTERED}; {then}")))
        }
        // The user may not see it; `check` asks for that grant.
        Err(e) if e.kind != ErrorKind::Permission => Err(e),
        _ => Ok(()),
    }
}

/// Tables: that there are some, and that each can be read and followed.
async fn look_at(
    c: &mut Connection,
    wanted: &TablePattern,
    found: &[Discovered],
    granted: Option<&Grants>,
) -> Vec<Finding> {
    if found.is_empty() {
        return vec![
            Finding::new("tables", Verdict::Failed, format!("no table that the user may see matches {wanted}"))
                .fix("check the names, or GRANT SELECT on the database to the user"),
        ];
    }
    let mut out = Vec::new();
    let mut sound = 0;
    let locks = granted.filter(|_| c.server.flavour == Flavour::MySql);
    for (i, table) in found.iter().enumerate() {
        let schema = match &table.schema {
            Err(e) => {
                out.push(failure("table", e).about(&table.name));
                continue;
            }
            Ok(schema) => schema,
        };
        if !schema.has_key() {
            out.push(
                Finding::new(
                    "key",
                    Verdict::Warning,
                    "the table has no primary key and no unique key over NOT NULL columns: it is copied in one piece, \
                     and each change is found by all of its columns",
                )
                .about(&table.name)
                .fix(format!("ALTER TABLE {} ADD PRIMARY KEY (…);", table.name.quoted())),
            );
        }
        let database = &table.name.database;
        if let Some(grants) = locks.filter(|g| !schema.has_key() && !g.has(&["LOCK TABLES"], Some(database))) {
            let message = format!(
                "without a key the table is copied behind a LOCK TABLES … READ of a moment, and {} may not do that, unless \
                 by a role or a pattern",
                grants.user
            );
            let fix = format!("GRANT LOCK TABLES ON {}.* TO {};", quote_name(database), grants.user);
            out.push(Finding::new("grant to lock", Verdict::Warning, message).about(&table.name).fix(fix));
        }
        if i >= TABLES_TRIED {
            sound += 1;
            continue;
        }
        match c.execute(&format!("SELECT 1 FROM {} LIMIT 0", table.name.quoted())).await {
            Ok(()) => sound += 1,
            Err(e) if e.kind == ErrorKind::Permission => out.push(
                Finding::new("grant to read", Verdict::Failed, e.line())
                    .about(&table.name)
                    .fix(format!("GRANT SELECT ON {}.* TO CURRENT_USER();", quote_name(database))),
            ),
            Err(e) => out.push(failure("table", &e).about(&table.name)),
        }
    }
    out.push(Finding::new("tables", Verdict::Ok, format!("{sound} of {} can be copied and followed", found.len())));
    out
}
