//! Findings of a preflight check: what was looked at, how it stands, and the exact statement that mends it.

use crate::pattern::TablePattern;

/// How a finding stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It works, but a person should know.
    Warning,
    /// It cannot work.
    Failed,
}

/// One thing that was checked.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Finding {
    /// What was looked at, two or three words (`binlog format`).
    pub name: String,
    /// The table it is about, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// How it stands.
    pub verdict: Verdict,
    /// What was found.
    pub message: String,
    /// The statement or command that mends it, to copy as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Finding {
    /// A finding about the whole.
    pub fn new(name: &str, verdict: Verdict, message: impl Into<String>) -> Self {
        Finding { name: name.into(), table: None, verdict, message: message.into(), fix: None }
    }

    /// With the statement that mends it.
    #[must_use]
    pub fn fix(mut self, statement: impl Into<String>) -> Self {
        self.fix = Some(statement.into());
        self
    }

    /// About one table.
    #[must_use]
    pub fn about(mut self, table: impl std::fmt::Display) -> Self {
        self.table = Some(table.to_string());
        self
    }
}

/// Looks whether a job over these tables can work, changing nothing.
#[async_trait::async_trait]
pub trait Check: Send + Sync {
    /// Everything that was looked at. Failing to look is a finding as well, never an error.
    async fn check(&self, tables: &TablePattern) -> Vec<Finding>;
}
