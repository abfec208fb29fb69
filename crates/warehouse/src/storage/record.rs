//! What a log record says. Everything is resolved before it is logged: which rows die, where new rows go. So replay
//! looks nothing up, and gives the same version however often it runs.

use freshet_core::{Error, Result};
use roaring::RoaringBitmap;

use super::block;
use super::codec::{Put, Take};
use super::segment::SegmentMeta;
use crate::catalog::Edit;
use arrow::array::RecordBatch;

/// Where rows are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Place {
    Layer(u64),
    Segment(u64),
}

/// A part of a transaction.
#[derive(Debug)]
pub(crate) enum Entry {
    /// Data definition.
    Edit(Edit),
    /// Rows are appended to a layer of the delta, the first with this ordinal.
    Rows { table: u64, layer: u64, first: u32, rows: RecordBatch },
    /// Rows are deleted.
    Dead { table: u64, place: Place, rows: RoaringBitmap },
    /// A segment is added.
    Add(SegmentMeta),
    /// A layer or segment is gone; its rows are in a segment that the same record adds.
    Remove { table: u64, place: Place },
}

/// Starts a record.
pub(crate) fn begin(label: Option<&str>) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    out.put_bytes(label.unwrap_or_default().as_bytes());
    out
}

pub(crate) fn put_edit(out: &mut Vec<u8>, edit: &Edit) -> Result<()> {
    out.push(1);
    out.put_bytes(&json(edit)?);
    Ok(())
}

/// `block`: as [`block::encode`] wrote it.
pub(crate) fn put_rows(out: &mut Vec<u8>, (table, layer, first): (u64, u64, u32), block: &[u8]) {
    out.push(2);
    out.put_u64(table);
    out.put_u64(layer);
    out.put_u32(first);
    out.put_bytes(block);
}

pub(crate) fn put_dead(out: &mut Vec<u8>, table: u64, place: Place, rows: &RoaringBitmap) {
    out.push(3);
    put_place(out, table, place);
    put_bitmap(out, rows);
}

pub(crate) fn put_add(out: &mut Vec<u8>, meta: &SegmentMeta) -> Result<()> {
    out.push(4);
    out.put_bytes(&json(meta)?);
    Ok(())
}

pub(crate) fn put_remove(out: &mut Vec<u8>, table: u64, place: Place) {
    out.push(5);
    put_place(out, table, place);
}

fn put_place(out: &mut Vec<u8>, table: u64, place: Place) {
    let (kind, id) = match place {
        Place::Layer(id) => (1, id),
        Place::Segment(id) => (2, id),
    };
    out.put_u64(table);
    out.push(kind);
    out.put_u64(id);
}

pub(crate) fn put_bitmap(out: &mut Vec<u8>, rows: &RoaringBitmap) {
    out.put_u32(rows.serialized_size() as u32);
    // Writing to memory does not fail.
    let _ = rows.serialize_into(&mut *out);
}

pub(crate) fn take_bitmap(input: &mut Take<'_>) -> Result<RoaringBitmap> {
    RoaringBitmap::deserialize_from(input.bytes()?)
        .map_err(|e| Error::corrupt("a delete bitmap cannot be read").because(e))
}

pub(crate) fn json<T: serde::Serialize>(value: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| Error::internal("cannot write a record").because(e))
}

pub(crate) fn from_json<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| Error::corrupt("a record cannot be read").because(e))
}

/// Label and parts of a record.
///
/// # Errors
/// `Corrupt` when the bytes are no record.
pub(crate) fn decode(body: &[u8]) -> Result<(Option<&str>, Vec<Entry>)> {
    let mut input = Take::new(body);
    let label = input.text()?;
    let mut entries = Vec::new();
    while !input.is_empty() {
        entries.push(match input.u8()? {
            1 => Entry::Edit(from_json(input.bytes()?)?),
            2 => {
                let (table, layer, first) = (input.u64()?, input.u64()?, input.u32()?);
                let rows = block::decode(&mut Take::new(input.bytes()?))?;
                Entry::Rows { table, layer, first, rows }
            }
            3 => {
                let (table, place) = take_place(&mut input)?;
                Entry::Dead { table, place, rows: take_bitmap(&mut input)? }
            }
            4 => Entry::Add(from_json(input.bytes()?)?),
            5 => {
                let (table, place) = take_place(&mut input)?;
                Entry::Remove { table, place }
            }
            other => return Err(Error::corrupt(format!("a record has an unknown part {other}"))),
        });
    }
    Ok(((!label.is_empty()).then_some(label), entries))
}

fn take_place(input: &mut Take<'_>) -> Result<(u64, Place)> {
    let table = input.u64()?;
    match (input.u8()?, input.u64()?) {
        (1, id) => Ok((table, Place::Layer(id))),
        (2, id) => Ok((table, Place::Segment(id))),
        (other, _) => Err(Error::corrupt(format!("a record names an unknown place {other}"))),
    }
}
