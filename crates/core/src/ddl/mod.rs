//! Data definition statements of the sinks.
pub mod doris;
