//! What end-to-end tests and benchmarks share: the database servers that `cargo xtask` started ([`source`]), the real
//! binary as a process ([`freshet`]), what a process takes ([`usage`]), writers that keep a source busy ([`writer`]), what its tables look
//! like ([`shape`]), and a comparison of source and target that shares no code with the product ([`compare`]).
//! Everything here panics when something goes wrong: that is how a test fails.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // as in tests

pub mod compare;
pub mod freshet;
pub mod shape;
pub mod source;
pub mod usage;
pub mod writer;

/// A connection of the MySQL protocol.
pub type Conn = mysql_async::Conn;

/// A name as an SQL identifier.
pub fn quote(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}
