//! The log of changes of MySQL and MariaDB as a stream of events: [`open`] registers as a replica, [`BinlogStream`]
//! decodes. `event` and `table_map` read what is around rows, `rows` and `columns` the rows themselves.

mod again;
mod columns;
mod compressed;
mod event;
#[cfg(test)]
mod golden;
pub mod gtid;
#[cfg(test)]
mod live;
mod log;
pub mod position;
mod register;
mod rows;
mod statement;
mod stream;
mod survey;
mod table_map;
pub mod xa;

pub use self::register::{StreamOptions, open};
pub use self::stream::BinlogStream;
