//! Merge-on-write storage: small commits go to a log and an in-memory delta, large ones straight to sorted Parquet
//! segments; a write finds the rows that it replaces by their keys and marks them deleted, so that reading never merges.
//! `docs/storage.md` draws the files byte by byte and explains versions and recovery.
//!
//! From the bottom up: [`codec`] and [`block`] (bytes), [`key`] (order-preserving keys), [`value`] (conversions),
//! [`index`] and [`segment`] (files of rows), [`log`], [`record`] and [`manifest`] (durability), [`version`] (what a
//! reader sees), [`writer`] (the one thread that changes it), [`stage`] (transactions in parts), [`partial`] (updates of
//! some columns), [`maintain`] (flush, compaction, checkpoints), [`remover`] (files that nobody uses any more), and
//! [`engine`] (the whole).

pub(crate) mod block;
pub(crate) mod cache;
pub(crate) mod codec;
pub mod engine;
pub(crate) mod index;
pub(crate) mod key;
pub(crate) mod layer;
pub(crate) mod log;
pub(crate) mod maintain;
pub(crate) mod manifest;
pub(crate) mod merge;
pub(crate) mod partial;
pub(crate) mod prepare;
pub mod reader;
pub(crate) mod record;
pub(crate) mod remover;
pub(crate) mod segment;
pub mod stage;
pub mod value;
pub mod version;
pub(crate) mod writer;

#[cfg(test)]
mod faults;
#[cfg(test)]
mod tests;
