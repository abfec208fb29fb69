//! Numbers: integers, floats, bits, decimals.

use arrow::datatypes::i256;

use super::{Bad, Builder, Params, append};

fn fixed<const N: usize>(bytes: &[u8]) -> Result<[u8; N], Bad> {
    bytes.try_into().map_err(|_| Bad::Malformed)
}

macro_rules! plain {
    ($($name:ident: $type:ty => $builder:ident),* $(,)?) => { $(
        pub(super) fn $name(bytes: &[u8], _: &Params, out: &mut Builder) -> Result<(), Bad> {
            append!(out, $builder, <$type>::from_le_bytes(fixed(bytes)?))
        }
    )* };
}
plain!(
    int8: i8 => Int8, uint8: u8 => UInt8, int16: i16 => Int16, uint16: u16 => UInt16, int32: i32 => Int32,
    uint32: u32 => UInt32, int64: i64 => Int64, uint64: u64 => UInt64, float: f32 => Float32, double: f64 => Float64,
);

pub(super) fn int24(bytes: &[u8], _: &Params, out: &mut Builder) -> Result<(), Bad> {
    let [a, b, c] = fixed(bytes)?;
    append!(out, Int32, i32::from_le_bytes([0, a, b, c]) >> 8)
}

pub(super) fn uint24(bytes: &[u8], _: &Params, out: &mut Builder) -> Result<(), Bad> {
    let [a, b, c] = fixed(bytes)?;
    append!(out, UInt32, u32::from_le_bytes([a, b, c, 0]))
}

pub(super) fn bit(bytes: &[u8], _: &Params, out: &mut Builder) -> Result<(), Bad> {
    let [b] = fixed(bytes)?;
    append!(out, Boolean, b != 0)
}

pub(super) fn bits(bytes: &[u8], _: &Params, out: &mut Builder) -> Result<(), Bad> {
    if bytes.len() > 8 {
        return Err(Bad::Malformed);
    }
    append!(out, UInt64, bytes.iter().fold(0_u64, |sum, b| sum << 8 | u64::from(*b)))
}

/// Digits that four bytes hold.
const GROUP: u8 = 9;
/// Bytes that so many digits take.
const BYTES: [usize; 10] = [0, 1, 1, 2, 2, 3, 3, 4, 4, 4];

/// Bytes of a decimal; `None` for digits that no decimal has.
pub(super) fn decimal_bytes(precision: u8, scale: u8) -> Option<usize> {
    let part = |digits: u8| usize::from(digits / GROUP) * 4 + BYTES[usize::from(digits % GROUP)];
    (precision <= 65 && scale <= precision).then(|| part(precision - scale) + part(scale))
}

/// Reads a decimal group by group: `add(digits of the group, their value)`. Gives whether it is negative.
pub(super) fn decimal_groups(
    bytes: &[u8],
    precision: u8,
    scale: u8,
    mut add: impl FnMut(u8, u32),
) -> Result<bool, Bad> {
    if decimal_bytes(precision, scale) != Some(bytes.len()) {
        return Err(Bad::Malformed);
    }
    let Some(first) = bytes.first() else { return Ok(false) };
    // The highest bit is the sign, inverted, so that bytes compare as numbers; negative numbers are inverted as a whole.
    let negative = first & 0x80 == 0;
    let mask = if negative { 0xFF } else { 0 };
    let mut at = 0;
    let mut group = |digits: u8| {
        let size = BYTES[usize::from(digits)];
        let value = bytes[at..at + size].iter().enumerate().fold(0_u32, |sum, (i, b)| {
            let sign = if at + i == 0 { 0x80 } else { 0 };
            sum << 8 | u32::from(b ^ sign ^ mask)
        });
        at += size;
        if digits > 0 {
            add(digits, value);
        }
        value
    };
    let whole = precision - scale;
    let mut highest = group(whole % GROUP);
    for _ in 0..whole / GROUP {
        highest = highest.max(group(GROUP));
    }
    for _ in 0..scale / GROUP {
        highest = highest.max(group(GROUP));
    }
    group(scale % GROUP);
    if highest >= 1_000_000_000 { Err(Bad::Malformed) } else { Ok(negative) }
}

const POWERS: [u32; 10] = [1, 10, 100, 1000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000];

pub(super) fn decimal128(bytes: &[u8], params: &Params, out: &mut Builder) -> Result<(), Bad> {
    let (precision, scale) = digits(params)?;
    let mut sum = 0_u128;
    let negative = decimal_groups(bytes, precision, scale, |digits, value| {
        sum = sum.wrapping_mul(u128::from(POWERS[usize::from(digits)])).wrapping_add(u128::from(value));
    })?;
    let sum = i128::try_from(sum).map_err(|_| Bad::Malformed)?;
    append!(out, Decimal128, if negative { -sum } else { sum })
}

pub(super) fn decimal256(bytes: &[u8], params: &Params, out: &mut Builder) -> Result<(), Bad> {
    let (precision, scale) = digits(params)?;
    let mut sum = i256::ZERO;
    let negative = decimal_groups(bytes, precision, scale, |digits, value| {
        let power = i256::from_i128(i128::from(POWERS[usize::from(digits)]));
        sum = sum.wrapping_mul(power).wrapping_add(i256::from_i128(i128::from(value)));
    })?;
    append!(out, Decimal256, if negative { sum.wrapping_neg() } else { sum })
}

fn digits(params: &Params) -> Result<(u8, u8), Bad> {
    match params.wanted {
        super::MysqlType::Decimal { precision, scale } => Ok((precision, scale)),
        _ => Err(Bad::Malformed),
    }
}

/// Appends a decimal as the server prints it.
pub(super) fn decimal_text(bytes: &[u8], precision: u8, scale: u8, out: &mut String) -> Result<(), Bad> {
    let mut all = String::new();
    let negative = decimal_groups(bytes, precision, scale, |digits, value| {
        let _ = std::fmt::Write::write_fmt(&mut all, format_args!("{value:0width$}", width = usize::from(digits)));
    })?;
    if all.len() != usize::from(precision) {
        return Err(Bad::Malformed);
    }
    let (whole, fraction) = all.split_at(usize::from(precision - scale));
    if negative {
        out.push('-');
    }
    let whole = whole.trim_start_matches('0');
    out.push_str(if whole.is_empty() { "0" } else { whole });
    if scale > 0 {
        out.push('.');
        out.push_str(fraction);
    }
    Ok(())
}
