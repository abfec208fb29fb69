//! Session variables: the ones that MySQL clients ask for and set when they connect, with the values that Doris gives
//! them. A variable of MySQL that we do not know can be set (it does nothing), but not read.

use std::collections::BTreeMap;

use arrow::array::timezone::Tz;
use chrono::{DateTime, Offset, TimeZone};
use freshet_core::{Error, Result};

/// The version that the server reports; Doris says the same, and tools decide by it what to send.
pub const SERVER_VERSION: &str = "5.7.99";
/// `@@version_comment`: tools look for "Doris version".
pub const VERSION_COMMENT: &str = concat!("Doris version doris-4.1.0-freshet-", env!("CARGO_PKG_VERSION"));

/// The value of a variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    /// Text.
    Text(String),
    /// A whole number.
    Number(i64),
    /// NULL.
    Null,
}

impl Value {
    /// As `SHOW VARIABLES` prints it; NULL as the empty text.
    pub(crate) fn text(&self) -> String {
        match self {
            Value::Text(t) => t.clone(),
            Value::Number(n) => n.to_string(),
            Value::Null => String::new(),
        }
    }

    fn parse(text: &str) -> Value {
        text.parse().map_or_else(|_| Value::Text(text.to_string()), Value::Number)
    }
}

/// Names and defaults, sorted by name.
const DEFAULTS: &[(&str, &str)] = &[
    ("auto_increment_increment", "1"),
    ("auto_increment_offset", "1"),
    ("autocommit", "1"),
    ("big_tables", "0"),
    ("bind_address", "127.0.0.1"),
    ("character_set_client", "utf8mb4"),
    ("character_set_connection", "utf8mb4"),
    ("character_set_database", "utf8mb4"),
    ("character_set_results", "utf8mb4"),
    ("character_set_server", "utf8mb4"),
    ("character_set_system", "utf8mb3"),
    ("collation_connection", "utf8mb4_0900_bin"),
    ("collation_database", "utf8mb4_0900_bin"),
    ("collation_server", "utf8mb4_0900_bin"),
    ("default_storage_engine", "OLAP"),
    ("default_week_format", "0"),
    ("div_precision_increment", "4"),
    ("event_scheduler", "OFF"),
    ("explicit_defaults_for_timestamp", "1"),
    ("foreign_key_checks", "1"),
    ("group_concat_max_len", "2147483646"),
    ("gtid_mode", "OFF"),
    ("have_openssl", "DISABLED"),
    ("have_query_cache", "NO"),
    ("have_ssl", "DISABLED"),
    ("hostname", "localhost"),
    ("init_connect", ""),
    ("innodb_lock_wait_timeout", "50"),
    ("innodb_version", SERVER_VERSION),
    ("interactive_timeout", "28800"),
    ("language", "/"),
    ("last_insert_id", "0"),
    ("license", "Apache License, Version 2.0"),
    ("local_infile", "0"),
    ("lock_wait_timeout", "31536000"),
    ("log_bin", "0"),
    ("lower_case_file_system", "0"),
    ("lower_case_table_names", "0"),
    ("max_allowed_packet", "67108864"),
    ("max_connections", "1024"),
    ("max_execution_time", "0"),
    ("max_user_connections", "0"),
    ("net_buffer_length", "16384"),
    ("net_read_timeout", "600"),
    ("net_write_timeout", "600"),
    ("old_passwords", "0"),
    ("optimizer_switch", ""),
    ("performance_schema", "OFF"),
    ("port", "9030"),
    ("profiling", "0"),
    ("protocol_version", "10"),
    ("query_cache_size", "1048576"),
    ("query_cache_type", "0"),
    ("query_timeout", "900"),
    ("read_only", "0"),
    ("server_id", "1"),
    ("session_track_schema", "1"),
    ("session_track_system_variables", ""),
    ("session_track_transaction_info", "OFF"),
    ("skip_name_resolve", "1"),
    ("socket", ""),
    ("sql_auto_is_null", "0"),
    ("sql_log_bin", "0"),
    ("sql_mode", "ONLY_FULL_GROUP_BY"),
    ("sql_notes", "1"),
    ("sql_quote_show_create", "1"),
    ("sql_safe_updates", "0"),
    ("sql_select_limit", "9223372036854775807"),
    ("sql_warnings", "0"),
    ("storage_engine", "OLAP"),
    ("super_read_only", "0"),
    ("system_time_zone", "UTC"),
    ("table_type", "OLAP"),
    ("thread_handling", "one-thread-per-connection"),
    ("time_zone", "+00:00"),
    ("transaction_isolation", "READ-COMMITTED"),
    ("transaction_read_only", "0"),
    ("tx_isolation", "READ-COMMITTED"),
    ("tx_read_only", "0"),
    ("unique_checks", "1"),
    ("version", SERVER_VERSION),
    ("version_comment", VERSION_COMMENT),
    ("version_compile_machine", std::env::consts::ARCH),
    ("version_compile_os", std::env::consts::OS),
    ("wait_timeout", "28800"),
    ("workload_group", ""),
];

/// Variables that cannot be set.
const READ_ONLY: [&str; 4] = ["version", "version_comment", "protocol_version", "license"];

/// The variables of one session.
#[derive(Debug, Clone, Default)]
pub(crate) struct Variables {
    set: BTreeMap<String, Value>,
    user: BTreeMap<String, Value>,
}

impl Variables {
    /// The value of a variable of the system; `None` when there is no such variable.
    pub(crate) fn get(&self, name: &str) -> Option<Value> {
        let name = name.to_lowercase();
        if let Some(value) = self.set.get(&name) {
            return Some(value.clone());
        }
        let at = DEFAULTS.binary_search_by(|(n, _)| n.cmp(&name.as_str())).ok()?;
        Some(Value::parse(DEFAULTS[at].1))
    }

    /// The value of a variable as a statement writes it: `@@name`, `@@session.name`, `@@global.name`, `@name`.
    ///
    /// # Errors
    /// `NotFound` for an unknown one.
    pub(crate) fn lookup(&self, written: &str) -> Result<Value> {
        let written = written.replace('`', "");
        let Some(name) = written.strip_prefix("@@") else {
            let name = written.trim_start_matches('@').to_lowercase();
            return Ok(self.user.get(&name).cloned().unwrap_or(Value::Null));
        };
        let name = without_scope(name);
        self.get(name).ok_or_else(|| {
            let e = Error::not_found(format!("unknown system variable '{name}'")).with("variable", name);
            match super::nearest(name, DEFAULTS.iter().map(|(n, _)| *n)) {
                Some(near) => e.hint(format!("did you mean @@{near}?")),
                None => e,
            }
        })
    }

    /// Sets a variable of the system (a name we don't know is kept as well) or, with `@` in front, of the user.
    ///
    /// # Errors
    /// `Config` for a variable that is read-only, or an unknown time zone.
    pub(crate) fn set(&mut self, written: &str, value: Value) -> Result<()> {
        if let Some(user) = written.strip_prefix('@').filter(|n| !n.starts_with('@')) {
            self.user.insert(user.to_lowercase(), value);
            return Ok(());
        }
        let name = without_scope(written.trim_start_matches('@')).to_lowercase();
        if READ_ONLY.contains(&name.as_str()) {
            return Err(Error::config(format!("variable '{name}' is read-only")).with("variable", &name));
        }
        if name == "time_zone" {
            arrow_zone(&value.text())?;
        }
        let value = match value {
            Value::Text(t) if matches!(t.to_lowercase().as_str(), "on" | "true") => Value::Number(1),
            Value::Text(t) if matches!(t.to_lowercase().as_str(), "off" | "false") => Value::Number(0),
            other => other,
        };
        self.set.insert(name, value);
        Ok(())
    }

    /// Sets a variable back to its default.
    pub(crate) fn reset(&mut self, written: &str) {
        self.set.remove(&without_scope(written.trim_start_matches('@')).to_lowercase());
    }

    /// Name, value and default of all variables, sorted by name.
    pub(crate) fn all(&self) -> Vec<(String, String, String)> {
        let mut names: Vec<&str> = DEFAULTS.iter().map(|(n, _)| *n).collect();
        names.extend(self.set.keys().map(String::as_str).filter(|n| !DEFAULTS.iter().any(|(d, _)| d == n)));
        names.sort_unstable();
        let default = |name: &str| DEFAULTS.iter().find(|(n, _)| *n == name).map_or("", |(_, v)| *v).to_string();
        names
            .into_iter()
            .map(|n| (n.to_string(), self.get(n).map(|v| v.text()).unwrap_or_default(), default(n)))
            .collect()
    }

    /// The session's time zone as Arrow writes it; `UTC` for UTC under any name.
    pub(crate) fn zone(&self) -> String {
        let written = self.get("time_zone").map(|v| v.text()).unwrap_or_default();
        arrow_zone(&written).unwrap_or_else(|_| "UTC".to_string())
    }

    /// Whether `||` joins texts instead of meaning OR.
    pub(crate) fn pipes_concat(&self) -> bool {
        self.get("sql_mode").is_some_and(|m| {
            let mode = m.text().to_uppercase();
            mode.contains("PIPES_AS_CONCAT") || mode.contains("ANSI")
        })
    }
}

fn without_scope(name: &str) -> &str {
    let lower = name.to_ascii_lowercase();
    for scope in ["session.", "global.", "local.", "persist."] {
        if lower.starts_with(scope) {
            return &name[scope.len()..];
        }
    }
    name
}

/// Arrow's name of a time zone as MySQL writes it (`+08:00`, `SYSTEM`, `UTC`, `Europe/Berlin`).
fn arrow_zone(written: &str) -> Result<String> {
    let upper = written.trim().to_uppercase();
    if matches!(upper.as_str(), "" | "SYSTEM" | "UTC" | "GMT" | "Z" | "+00:00" | "-00:00" | "+0:00") {
        return Ok("UTC".to_string());
    }
    let zone = match upper.split_once(':') {
        Some((hours, minutes)) if upper.starts_with(['+', '-']) => {
            format!("{}{:0>2}:{minutes}", &upper[..1], &hours[1..])
        }
        _ => written.trim().to_string(),
    };
    local_micros(0, &zone).map_err(|_| {
        Error::config(format!("unknown time zone '{written}'"))
            .with("variable", "time_zone")
            .hint("use an offset like '+08:00' or a name like 'Europe/Berlin'")
    })?;
    Ok(zone)
}

/// The wall clock of a zone at an instant, in microseconds.
///
/// # Errors
/// `Config` when there is no such zone.
pub(crate) fn local_micros(utc: i64, zone: &str) -> Result<i64> {
    let tz: Tz = zone.parse().map_err(|e| Error::config(format!("unknown time zone '{zone}'")).because(e))?;
    Ok(to_local(utc, &tz))
}

/// The wall clock at an instant.
pub(crate) fn to_local(utc: i64, zone: &Tz) -> i64 {
    let offset = DateTime::from_timestamp_micros(utc).map(|t| zone.offset_from_utc_datetime(&t.naive_utc()).fix());
    utc.saturating_add(offset.map_or(0, |o| i64::from(o.local_minus_utc()) * 1_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_sorted() {
        assert!(DEFAULTS.is_sorted_by(|a, b| a.0 < b.0));
    }

    #[test]
    fn reading_and_setting() {
        let mut v = Variables::default();
        assert_eq!(v.lookup("@@session.auto_increment_increment").unwrap(), Value::Number(1));
        assert_eq!(v.lookup("@@VERSION").unwrap(), Value::Text("5.7.99".into()));
        let e = v.lookup("@@wait_timout").unwrap_err();
        assert_eq!(e.hint.as_deref(), Some("did you mean @@wait_timeout?"));
        v.set("@@session.autocommit", Value::Text("off".into())).unwrap();
        assert_eq!(v.get("autocommit"), Some(Value::Number(0)));
        v.set("@x", Value::Number(3)).unwrap();
        assert_eq!(v.lookup("@X").unwrap(), Value::Number(3));
        v.set("some_tool_sets_this", Value::Number(3)).unwrap();
        assert!(v.set("version", Value::Null).is_err());
    }

    #[test]
    fn time_zones() {
        let mut v = Variables::default();
        assert_eq!(v.zone(), "UTC");
        v.set("time_zone", Value::Text("+8:00".into())).unwrap();
        assert_eq!(v.zone(), "+08:00");
        assert_eq!(local_micros(0, "+08:00").unwrap(), 8 * 3_600_000_000);
        v.set("time_zone", Value::Text("Europe/Berlin".into())).unwrap();
        assert_eq!(local_micros(0, &v.zone()).unwrap(), 3_600_000_000);
        assert!(v.set("time_zone", Value::Text("Mars/Olympus".into())).is_err());
        assert_eq!(v.zone(), "Europe/Berlin");
    }
}
