//! Sources and sinks of Freshet: one folder per system, each implementing the traits of `freshet_core`.

pub mod file;
pub mod generator;
pub mod mysql;
