//! The contract of Freshet and the engine that everything runs on: types, schemas, change batches, positions, errors,
//! checks; the job engine, its store and its simulation. Connectors and the warehouse know this crate; it knows none of
//! them, and no DataFusion.

pub mod batch;
pub mod check;
pub mod connector;
pub mod datatype;
pub mod ddl;
pub mod engine;
pub mod error;
pub mod failpoint;
pub mod intent;
pub mod nearest;
pub mod pattern;
pub mod position;
pub mod schema;
pub mod secret;
pub mod spool;
pub mod store;
pub mod text;

pub use batch::ChangeBatch;
pub use check::{Check, Finding, Verdict};
pub use connector::{
    BatchStream, ChangeStream, ChangesRequest, Commit, CopyStart, Cut, Discovered, Event, Flush, ForeignKey, KeyRange,
    Load, LogEnd, Purpose, Settled, Sink, Source, Split, Statement,
};
pub use datatype::DataType;
pub use error::{Error, ErrorKind, Result};
pub use intent::{Intent, Label, LoadIntent, Writer};
pub use pattern::TablePattern;
pub use position::Position;
pub use schema::{Column, ColumnPosition, DefaultValue, SchemaChange, TableChange, TableName, TableSchema};
pub use secret::Secret;
pub use spool::{Spool, Spooling};
