//! Keys as bytes that compare like the values: what segments are sorted by and index files hold. The encoding does not
//! depend on the width of an integer or the precision of a decimal, so that a widened key column finds its old rows.
//! It is part of the file format (`docs/storage.md`, "Keys").

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::*;
use freshet_core::{Error, Result};
use xxhash_rust::xxh3::xxh3_128;

use crate::catalog::{Model, Table};

/// NULL sorts first.
const NULL: u8 = 0x01;
/// In front of text, bytes and floats.
const PLAIN: u8 = 0x02;
/// Zero; with `n` bytes of magnitude behind it the tag is `n` higher (positive) or `n + 1` lower (negative).
const ZERO: u8 = 0x80;

/// Encoded keys, one behind the other.
#[derive(Debug, Clone, Default)]
pub(crate) struct Keys {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Keys {
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn get(&self, i: usize) -> &[u8] {
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        &self.bytes[start..self.ends[i]]
    }

    pub(crate) fn push(&mut self, key: &[u8]) {
        self.bytes.extend_from_slice(key);
        self.ends.push(self.bytes.len());
    }

    pub(crate) fn memory(&self) -> usize {
        self.bytes.capacity() + self.ends.capacity() * size_of::<usize>()
    }
}

/// Encodes the key of every row.
///
/// # Errors
/// `Unsupported` for a type without an order.
pub(crate) fn encode(columns: &[ArrayRef]) -> Result<Keys> {
    let rows = columns.first().map_or(0, |c| c.len());
    let mut keys = Keys { bytes: Vec::with_capacity(rows * 8 * columns.len()), ends: Vec::with_capacity(rows) };
    let encoders = columns.iter().map(|c| encoder(c, false)).collect::<Result<Vec<_>>>()?;
    for row in 0..rows {
        for encode in &encoders {
            encode(row, &mut keys.bytes);
        }
        keys.ends.push(keys.bytes.len());
    }
    Ok(keys)
}

/// What a table's rows are found by: their keys, or of a multiset the hash of all values. `columns` are the table's.
///
/// # Errors
/// `Unsupported` for a type that has no encoding.
pub(crate) fn of_rows(table: &Table, columns: &[ArrayRef]) -> Result<Keys> {
    if table.model != Model::Multiset {
        return encode(&columns[..table.key_columns]);
    }
    let mut order: Vec<usize> = (0..columns.len()).collect();
    order.sort_by_key(|i| table.columns[*i].root());
    let rows = columns.first().map_or(0, |c| c.len());
    let encoders = order.iter().map(|i| encoder(&columns[*i], true)).collect::<Result<Vec<_>>>()?;
    let mut keys = Keys { bytes: Vec::with_capacity(rows * HASH), ends: Vec::with_capacity(rows) };
    let mut one = Vec::new();
    for row in 0..rows {
        one.clear();
        encoders.iter().for_each(|encode| encode(row, &mut one));
        keys.push(&xxh3_128(&one).to_be_bytes());
    }
    Ok(keys)
}

/// Bytes of the hash of a multiset's row.
pub(crate) const HASH: usize = 16;

type Encoder<'a> = Box<dyn Fn(usize, &mut Vec<u8>) + 'a>;

/// `exact`: for hashes, where nothing needs an order, but values are equal only if all their bits are.
fn encoder(column: &ArrayRef, exact: bool) -> Result<Encoder<'_>> {
    use arrow::datatypes::DataType as Arrow;
    macro_rules! int {
        ($t:ty) => {{
            let a = column.as_primitive::<$t>();
            Box::new(
                move |i, out: &mut Vec<u8>| {
                    if a.is_null(i) { out.push(NULL) } else { int64(out, i64::from(a.value(i))) }
                },
            )
        }};
    }
    macro_rules! plain {
        ($a:expr, $put:expr) => {{
            let a = $a;
            let put = $put;
            Box::new(move |i, out: &mut Vec<u8>| if a.is_null(i) { out.push(NULL) } else { put(out, a.value(i)) })
        }};
    }
    Ok(match column.data_type() {
        Arrow::Boolean => plain!(column.as_boolean(), |out: &mut Vec<u8>, v: bool| int64(out, i64::from(v))),
        Arrow::Int8 => int!(Int8Type),
        Arrow::Int16 => int!(Int16Type),
        Arrow::Int32 => int!(Int32Type),
        Arrow::Int64 => int!(Int64Type),
        Arrow::Date32 => int!(Date32Type),
        Arrow::Timestamp(TimeUnit::Microsecond, _) => int!(TimestampMicrosecondType),
        Arrow::Decimal128(..) => plain!(column.as_primitive::<Decimal128Type>(), |out: &mut Vec<u8>, v: i128| {
            integer(out, &v.to_be_bytes());
        }),
        Arrow::Decimal256(..) => {
            plain!(column.as_primitive::<Decimal256Type>(), |out: &mut Vec<u8>, v: arrow::datatypes::i256| {
                integer(out, &v.to_be_bytes());
            })
        }
        Arrow::Float32 if exact => {
            plain!(column.as_primitive::<Float32Type>(), |out: &mut Vec<u8>, v: f32| bits(out, f64::from(v)))
        }
        Arrow::Float64 if exact => plain!(column.as_primitive::<Float64Type>(), bits),
        Arrow::Duration(TimeUnit::Microsecond) if exact => int!(DurationMicrosecondType),
        Arrow::List(_) if exact => {
            let list = column.as_list::<i32>();
            let item = encoder(list.values(), true)?;
            Box::new(move |i, out: &mut Vec<u8>| {
                if list.is_null(i) {
                    return out.push(NULL);
                }
                let (from, to) = (list.value_offsets()[i] as usize, list.value_offsets()[i + 1] as usize);
                int64(out, (to - from) as i64);
                (from..to).for_each(|at| item(at, out));
            })
        }
        Arrow::Float32 => {
            plain!(column.as_primitive::<Float32Type>(), |out: &mut Vec<u8>, v: f32| float(out, f64::from(v)))
        }
        Arrow::Float64 => plain!(column.as_primitive::<Float64Type>(), float),
        Arrow::Utf8 => plain!(column.as_string::<i32>(), |out: &mut Vec<u8>, v: &str| escaped(out, v.as_bytes())),
        Arrow::Binary => plain!(column.as_binary::<i32>(), escaped),
        other => return Err(Error::unsupported(format!("{other} cannot be part of a key"))),
    })
}

fn int64(out: &mut Vec<u8>, v: i64) {
    let magnitude = if v < 0 { !v } else { v } as u64;
    let n = 8 - magnitude.leading_zeros() as usize / 8;
    let bytes = v.to_be_bytes();
    out.push(if v < 0 { ZERO - 1 - n as u8 } else { ZERO + n as u8 });
    out.extend_from_slice(&bytes[8 - n..]);
}

/// A big-endian two's complement integer: a tag with sign and length, then its significant bytes.
fn integer(out: &mut Vec<u8>, bytes: &[u8]) {
    let negative = bytes[0] & 0x80 != 0;
    let filler = if negative { 0xFF } else { 0 };
    let skip = bytes.iter().take_while(|b| **b == filler).count();
    let n = bytes.len() - skip;
    out.push(if negative { ZERO - 1 - n as u8 } else { ZERO + n as u8 });
    out.extend_from_slice(&bytes[skip..]);
}

/// IEEE 754 bits, the sign flipped for positive and all bits for negative numbers; one zero, one NaN (the greatest).
fn float(out: &mut Vec<u8>, v: f64) {
    let v = if v == 0.0 {
        0.0
    } else if v.is_nan() {
        f64::NAN
    } else {
        v
    };
    let bits = v.to_bits();
    let ordered = if bits >> 63 == 1 { !bits } else { bits | 1 << 63 };
    out.push(PLAIN);
    out.extend_from_slice(&ordered.to_be_bytes());
}

fn bits(out: &mut Vec<u8>, v: f64) {
    out.push(PLAIN);
    out.extend_from_slice(&v.to_bits().to_be_bytes());
}

/// The bytes with each 00 as 00 FF, then 00 00.
fn escaped(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(PLAIN);
    for (i, part) in bytes.split(|b| *b == 0).enumerate() {
        if i > 0 {
            out.extend_from_slice(&[0, 0xFF]);
        }
        out.extend_from_slice(part);
    }
    out.extend_from_slice(&[0, 0]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Decimal128Array, Float64Array, Int64Array, StringArray};
    use std::sync::Arc;

    fn keys(column: impl Array + 'static) -> Vec<Vec<u8>> {
        let keys = encode(&[Arc::new(column)]).unwrap();
        (0..keys.len()).map(|i| keys.get(i).to_vec()).collect()
    }

    #[test]
    fn integers_of_any_width_compare_like_numbers() {
        let mut values = vec![0, 1, -1, 127, 128, -128, -129, 255, 256, -256, -257, 65535, 65536, i64::MIN, i64::MAX];
        values.sort_unstable();
        let narrow = keys(Int64Array::from(values.clone()));
        assert!(narrow.windows(2).all(|w| w[0] < w[1]), "{narrow:02x?}");
        let wide = Decimal128Array::from(values.iter().map(|v| i128::from(*v)).collect::<Vec<_>>());
        assert_eq!(narrow, keys(wide.with_precision_and_scale(38, 0).unwrap()));
    }

    #[test]
    fn text_null_and_floats_compare_like_values() {
        let text = [
            None,
            Some(""),
            Some("\0"),
            Some("\0\0"),
            Some("\0a"),
            Some("a"),
            Some("a\0"),
            Some("a\u{1}"),
            Some("aa"),
            Some("b"),
        ];
        let text = keys(StringArray::from(text.to_vec()));
        assert!(text.windows(2).all(|w| w[0] < w[1]), "{text:02x?}");
        let floats =
            keys(Float64Array::from(vec![f64::NEG_INFINITY, -1.5, -0.0, 1e-300, 2.0, f64::INFINITY, f64::NAN]));
        assert!(floats.windows(2).all(|w| w[0] < w[1]));
        assert_eq!(keys(Float64Array::from(vec![0.0])), keys(Float64Array::from(vec![-0.0])));
    }

    #[test]
    fn composite_keys_do_not_run_into_each_other() {
        let a = encode(&[Arc::new(StringArray::from(vec!["a", "ab"])), Arc::new(StringArray::from(vec!["b", ""]))])
            .unwrap();
        assert_ne!(a.get(0), a.get(1));
        assert!(a.get(0) < a.get(1));
    }
}
