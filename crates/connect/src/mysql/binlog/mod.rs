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
mod spool;
mod statement;
mod stream;
mod survey;
mod table_map;
pub mod xa;

pub(in crate::mysql) use self::register::open_spool;
pub use self::register::{StreamOptions, open};
pub(in crate::mysql) use self::spool::SpoolReader;
pub use self::stream::BinlogStream;
