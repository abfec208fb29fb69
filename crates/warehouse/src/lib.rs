//! The embedded Doris-compatible warehouse: a catalog of databases and tables, merge-on-write storage
//! (`docs/storage.md`), SQL by DataFusion, and the [`Sink`](freshet_core::Sink) that jobs write to. [`Warehouse`] is the
//! storage engine; [`Snapshot`] is one version of everything, for readers.

pub mod catalog;
mod sink;
pub mod sql;
pub mod storage;

pub use sink::WarehouseSink;
pub use storage::engine::{Options, Partial, TableWrite, Warehouse};
pub use storage::reader::SegmentReader;
pub use storage::stage::{Part, Stage};
pub use storage::version::{SegmentView, Snapshot, TableView};
