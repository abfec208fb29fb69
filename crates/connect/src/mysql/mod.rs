//! MySQL and MariaDB as a source: which flavour and version it is is found out, not configured.

pub mod ddl;
pub mod types;
pub mod wire;

pub use types::{Charset, Charsets, DecodeOptions, MysqlType, ZeroDates};
