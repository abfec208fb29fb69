//! Rows as bytes for the log: columns by id, each self-describing, buffers as Arrow holds them. Smaller and quicker than
//! Arrow IPC for the few rows of a small commit.

use std::sync::Arc;

use arrow::array::{Array, ArrayData, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, make_array};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType as Arrow, Field, Schema, TimeUnit};
use freshet_core::{Error, Result};

use super::codec::{Put, Take};

/// Lists in lists in lists end here.
const MAX_DEPTH: usize = 8;

/// Appends rows whose columns are named `c<id>`.
///
/// # Errors
/// `Internal` for a type that is never stored.
pub(crate) fn encode(rows: &RecordBatch, out: &mut Vec<u8>) -> Result<()> {
    out.put_u32(rows.num_rows() as u32);
    out.put_u32(rows.num_columns() as u32);
    for (field, column) in rows.schema_ref().fields().iter().zip(rows.columns()) {
        let id = field.name().strip_prefix('c').and_then(|n| n.parse().ok());
        out.put_u32(id.ok_or_else(|| Error::internal(format!("{} is no column id", field.name())))?);
        encode_type(column.data_type(), out)?;
        encode_array(column.as_ref(), out)?;
    }
    Ok(())
}

/// Reads rows that [`encode`] wrote.
///
/// # Errors
/// `Corrupt` when the bytes are no rows.
pub(crate) fn decode(input: &mut Take<'_>) -> Result<RecordBatch> {
    let rows = input.u32()? as usize;
    let n = input.u32()? as usize;
    let (mut fields, mut columns) = (Vec::new(), Vec::new());
    for _ in 0..n {
        let id = input.u32()?;
        let data_type = decode_type(input, 0)?;
        columns.push(make_array(decode_array(input, &data_type, rows)?));
        fields.push(Field::new(format!("c{id}"), data_type, true));
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options).map_err(bad)
}

fn bad(e: impl std::fmt::Display) -> Error {
    Error::corrupt("stored rows cannot be read").because(e)
}

fn encode_type(data_type: &Arrow, out: &mut Vec<u8>) -> Result<()> {
    match data_type {
        Arrow::Boolean => out.push(1),
        Arrow::Int8 => out.push(2),
        Arrow::Int16 => out.push(3),
        Arrow::Int32 => out.push(4),
        Arrow::Int64 => out.push(5),
        Arrow::Float32 => out.push(6),
        Arrow::Float64 => out.push(7),
        Arrow::Decimal128(p, s) => out.extend_from_slice(&[8, *p, *s as u8]),
        Arrow::Decimal256(p, s) => out.extend_from_slice(&[9, *p, *s as u8]),
        Arrow::Date32 => out.push(10),
        Arrow::Timestamp(TimeUnit::Microsecond, None) => out.push(11),
        Arrow::Timestamp(TimeUnit::Microsecond, Some(_)) => out.push(12),
        Arrow::Utf8 => out.push(13),
        Arrow::Binary => out.push(14),
        Arrow::List(item) => {
            out.push(15);
            encode_type(item.data_type(), out)?;
        }
        other => return Err(Error::internal(format!("{other} is never stored"))),
    }
    Ok(())
}

fn decode_type(input: &mut Take<'_>, depth: usize) -> Result<Arrow> {
    Ok(match input.u8()? {
        1 => Arrow::Boolean,
        2 => Arrow::Int8,
        3 => Arrow::Int16,
        4 => Arrow::Int32,
        5 => Arrow::Int64,
        6 => Arrow::Float32,
        7 => Arrow::Float64,
        8 => Arrow::Decimal128(input.u8()?, input.u8()? as i8),
        9 => Arrow::Decimal256(input.u8()?, input.u8()? as i8),
        10 => Arrow::Date32,
        11 => Arrow::Timestamp(TimeUnit::Microsecond, None),
        12 => Arrow::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        13 => Arrow::Utf8,
        14 => Arrow::Binary,
        15 if depth < MAX_DEPTH => Arrow::List(Arc::new(Field::new("item", decode_type(input, depth + 1)?, true))),
        other => return Err(bad(format!("unknown type {other}"))),
    })
}

fn encode_array(array: &dyn Array, out: &mut Vec<u8>) -> Result<()> {
    match array.nulls().filter(|n| n.null_count() > 0) {
        None => out.push(0),
        Some(nulls) => {
            out.push(1);
            out.extend_from_slice(&nulls.inner().sliced()[..array.len().div_ceil(8)]);
        }
    }
    match array.data_type() {
        Arrow::Boolean => out.extend_from_slice(&array.as_boolean().values().sliced()[..array.len().div_ceil(8)]),
        Arrow::Utf8 => {
            let a = array.as_string::<i32>();
            encode_offsets(a.value_offsets(), out);
            put_values(a.value_offsets(), a.value_data(), out);
        }
        Arrow::Binary => {
            let a = array.as_binary::<i32>();
            encode_offsets(a.value_offsets(), out);
            put_values(a.value_offsets(), a.value_data(), out);
        }
        Arrow::List(_) => {
            let a = array.as_list::<i32>();
            let offsets = a.value_offsets();
            encode_offsets(offsets, out);
            let (from, to) = (offsets[0] as usize, offsets[offsets.len() - 1] as usize);
            let items: ArrayRef = a.values().slice(from, to - from);
            encode_array(items.as_ref(), out)?;
        }
        fixed => {
            let width = fixed.primitive_width().ok_or_else(|| Error::internal(format!("{fixed} is never stored")))?;
            let data = array.to_data();
            let (from, n) = (data.offset() * width, array.len() * width);
            out.extend_from_slice(&data.buffers()[0].as_slice()[from..from + n]);
        }
    }
    Ok(())
}

fn encode_offsets(offsets: &[i32], out: &mut Vec<u8>) {
    for o in offsets {
        out.extend_from_slice(&(o - offsets[0]).to_le_bytes());
    }
}

fn put_values(offsets: &[i32], values: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&values[offsets[0] as usize..offsets[offsets.len() - 1] as usize]);
}

fn decode_array(input: &mut Take<'_>, data_type: &Arrow, rows: usize) -> Result<ArrayData> {
    let nulls = match input.u8()? {
        0 => None,
        _ => Some(Buffer::from(input.raw(rows.div_ceil(8))?)),
    };
    let builder = ArrayData::builder(data_type.clone()).len(rows).null_bit_buffer(nulls);
    let builder = match data_type {
        Arrow::Boolean => builder.add_buffer(Buffer::from(input.raw(rows.div_ceil(8))?)),
        Arrow::Utf8 | Arrow::Binary | Arrow::List(_) => {
            let offsets = input.raw((rows + 1) * 4)?;
            let mut last = [0; 4];
            last.copy_from_slice(&offsets[rows * 4..]);
            let n = usize::try_from(i32::from_le_bytes(last)).map_err(bad)?;
            let builder = builder.add_buffer(Buffer::from(offsets));
            match data_type {
                Arrow::List(item) => builder.add_child_data(decode_array(input, item.data_type(), n)?),
                _ => builder.add_buffer(Buffer::from(input.raw(n)?)),
            }
        }
        fixed => {
            let width = fixed.primitive_width().ok_or_else(|| bad("unknown width"))?;
            builder.add_buffer(Buffer::from(input.raw(rows.checked_mul(width).ok_or_else(|| bad("too long"))?)?))
        }
    };
    builder.build().map_err(bad)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{BooleanArray, Decimal128Array, Int32Array, ListArray, StringArray};
    use arrow::datatypes::Int32Type;

    #[test]
    fn rows_come_back_even_from_slices() {
        let list = ListArray::from_iter_primitive::<Int32Type, _, _>([
            Some(vec![Some(1), None]),
            None,
            Some(vec![]),
            Some(vec![Some(7)]),
        ]);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int32Array::from(vec![Some(1), None, Some(-3), Some(4)])),
            Arc::new(StringArray::from(vec![Some("a"), Some(""), None, Some("жук")])),
            Arc::new(BooleanArray::from(vec![Some(true), None, Some(false), Some(true)])),
            Arc::new(Decimal128Array::from(vec![1, 2, 3, i128::MAX / 10])),
            Arc::new(list),
        ];
        let fields: Vec<_> =
            columns.iter().enumerate().map(|(i, c)| Field::new(format!("c{i}"), c.data_type().clone(), true)).collect();
        let rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
        for (from, n) in [(0, 4), (1, 3), (2, 1), (4, 0)] {
            let part = rows.slice(from, n);
            let mut bytes = Vec::new();
            encode(&part, &mut bytes).unwrap();
            let mut input = Take::new(&bytes);
            assert_eq!(decode(&mut input).unwrap(), part);
            assert!(input.is_empty());
            for cut in 0..bytes.len() {
                assert!(decode(&mut Take::new(&bytes[..cut])).is_err(), "cut at {cut}");
            }
        }
    }
}
