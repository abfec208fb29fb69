//! Texts and bytes, and what is stored as a number but is a text: ENUM and SET.

use encoding_rs::WINDOWS_1252;

use super::super::super::types::Charset;
use super::{Bad, Builder, Decode, MysqlType, Params};

/// The function that decodes texts in a character set.
pub(super) fn string(charset: Charset) -> Decode {
    match charset {
        Charset::Utf8mb4 | Charset::Utf8mb3 => utf8,
        Charset::Latin1 => latin1,
        Charset::Ascii => ascii,
    }
}

/// Bytes of text that one column of a batch can hold.
const COLUMN_MAX: usize = i32::MAX as usize;

/// Appends a text.
pub(super) fn put(text: &str, out: &mut Builder) -> Result<(), Bad> {
    match out {
        Builder::String(b) if b.values_slice().len() + text.len() <= COLUMN_MAX => {
            b.append_value(text);
            Ok(())
        }
        Builder::String(_) => Err(Bad::Unknown("a batch of more than 2 GiB of text in one column")),
        _ => Err(Bad::Malformed),
    }
}

fn put_bytes(bytes: &[u8], out: &mut Builder) -> Result<(), Bad> {
    match out {
        Builder::Bytes(b) if b.values_slice().len() + bytes.len() <= COLUMN_MAX => {
            b.append_value(bytes);
            Ok(())
        }
        Builder::Bytes(_) => Err(Bad::Unknown("a batch of more than 2 GiB of bytes in one column")),
        _ => Err(Bad::Malformed),
    }
}

pub(super) fn utf8(bytes: &[u8], _: &Params, out: &mut Builder) -> Result<(), Bad> {
    put(std::str::from_utf8(bytes).map_err(|_| Bad::NotText("utf8mb4"))?, out)
}

/// Windows-1252; the five bytes that it leaves open are C1 controls, for MySQL as for the web.
fn latin1(bytes: &[u8], _: &Params, out: &mut Builder) -> Result<(), Bad> {
    put(&WINDOWS_1252.decode_without_bom_handling(bytes).0, out)
}

fn ascii(bytes: &[u8], params: &Params, out: &mut Builder) -> Result<(), Bad> {
    if !bytes.is_ascii() {
        return Err(Bad::NotText("ascii"));
    }
    utf8(bytes, params, out)
}

pub(super) fn bytes(bytes: &[u8], _: &Params, out: &mut Builder) -> Result<(), Bad> {
    put_bytes(bytes, out)
}

/// BINARY(n): the log leaves zeros at the end out.
pub(super) fn padded_bytes(bytes: &[u8], params: &Params, out: &mut Builder) -> Result<(), Bad> {
    let MysqlType::Binary { length } = params.wanted else { return Err(Bad::Malformed) };
    let length = length as usize;
    if bytes.len() >= length {
        return put_bytes(bytes, out);
    }
    let mut padded = bytes.to_vec();
    padded.resize(length, 0);
    put_bytes(&padded, out)
}

fn number(bytes: &[u8]) -> Result<u64, Bad> {
    if bytes.len() > 8 {
        return Err(Bad::Malformed);
    }
    Ok(bytes.iter().rev().fold(0, |sum, b| sum << 8 | u64::from(*b)))
}

pub(super) fn enumeration(bytes: &[u8], params: &Params, out: &mut Builder) -> Result<(), Bad> {
    let MysqlType::Enum { members } = &params.wanted else { return Err(Bad::Malformed) };
    let place = usize::try_from(number(bytes)?).map_err(|_| Bad::Malformed)?;
    match place.checked_sub(1) {
        None => put("", out),
        Some(place) => put(members.get(place).ok_or(Bad::Malformed)?, out),
    }
}

pub(super) fn set(bytes: &[u8], params: &Params, out: &mut Builder) -> Result<(), Bad> {
    let MysqlType::Set { members } = &params.wanted else { return Err(Bad::Malformed) };
    let bits = number(bytes)?;
    if members.len() < 64 && bits >> members.len() != 0 {
        return Err(Bad::Malformed);
    }
    let mut text = String::new();
    for (i, member) in members.iter().enumerate().take(64) {
        if bits >> i & 1 == 1 {
            if !text.is_empty() {
                text.push(',');
            }
            text.push_str(member);
        }
    }
    put(&text, out)
}
