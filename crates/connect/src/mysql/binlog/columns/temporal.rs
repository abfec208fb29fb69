//! Dates and times. Their packed forms share one layout: 17 bits of `year * 13 + month`, 5 of day, 5 (durations: 10) of
//! hour, 6 each of minute and second, then the fraction.

use std::fmt::Write;

use freshet_core::text::days_from_civil;

use super::super::super::types::ZeroDates;
use super::{Bad, Builder, Params, append};

const SECOND: i64 = 1_000_000;
const DAY: i64 = 86_400 * SECOND;

fn big_endian(bytes: &[u8]) -> i64 {
    bytes.iter().fold(0, |sum, b| sum << 8 | i64::from(*b))
}

fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |sum, b| sum << 8 | u64::from(*b))
}

/// The fraction behind a packed date or time, in microseconds: two digits a byte. A whole second when it is malformed.
fn fraction(bytes: &[u8]) -> i64 {
    match bytes.len() {
        n @ 0..=3 => big_endian(bytes) * [0, 10_000, 100, 1][n],
        _ => SECOND,
    }
}

/// The parts of a date or time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Parts {
    pub(super) year: i64,
    pub(super) month: u32,
    pub(super) day: u32,
    pub(super) hour: i64,
    pub(super) minute: i64,
    pub(super) second: i64,
    pub(super) micros: i64,
}

impl Parts {
    /// Of the packed form without fraction.
    fn unpacked(packed: i64, micros: i64) -> Self {
        let (date, time) = (packed >> 17, packed & 0x1_FFFF);
        let (month, day) = (date >> 5, date & 31);
        Parts {
            year: month / 13,
            month: (month % 13) as u32,
            day: day as u32,
            hour: time >> 12,
            minute: time >> 6 & 63,
            second: time & 63,
            micros,
        }
    }

    /// Days since 1970; `None` when there is no such day.
    fn days(&self) -> Option<i64> {
        let leap = self.year % 4 == 0 && (self.year % 100 != 0 || self.year % 400 == 0);
        let days = match self.month {
            1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
            4 | 6 | 9 | 11 => 30,
            2 => 28 + u32::from(leap),
            _ => return None,
        };
        ((1..=days).contains(&self.day) && (0..=9999).contains(&self.year))
            .then(|| days_from_civil(self.year, self.month, self.day))
    }

    fn in_day(&self) -> Option<i64> {
        let ok = (0..24).contains(&self.hour) && self.minute < 60 && self.second < 60 && self.micros < SECOND;
        ok.then(|| ((self.hour * 60 + self.minute) * 60 + self.second) * SECOND + self.micros)
    }

    fn date_text(&self) -> String {
        format!("{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }

    fn text(&self) -> String {
        let mut out = self.date_text();
        let _ = write!(out, " {:02}:{:02}:{:02}", self.hour, self.minute, self.second);
        out
    }
}

/// A day that does not exist: NULL or an error.
fn no_such_date(text: String, params: &Params, out: &mut Builder) -> Result<(), Bad> {
    match params.zero_dates {
        ZeroDates::Error => Err(Bad::NoSuchDate(text)),
        ZeroDates::Null => {
            out.append_null();
            Ok(())
        }
    }
}

fn append_datetime(parts: Parts, params: &Params, out: &mut Builder) -> Result<(), Bad> {
    let time = parts.in_day().ok_or(Bad::Malformed)?;
    match parts.days() {
        Some(days) => append!(out, Timestamp, days * DAY + time),
        None => no_such_date(parts.text(), params, out),
    }
}

pub(super) fn year(bytes: &[u8], _: &Params, out: &mut Builder) -> Result<(), Bad> {
    match bytes {
        [0] => append!(out, Int16, 0),
        [y] => append!(out, Int16, 1900 + i16::from(*y)),
        _ => Err(Bad::Malformed),
    }
}

pub(super) fn date(bytes: &[u8], params: &Params, out: &mut Builder) -> Result<(), Bad> {
    let packed = little_endian(bytes) as i64;
    let (year, month, day) = (packed >> 9, (packed >> 5 & 15) as u32, (packed & 31) as u32);
    let parts = Parts { year, month, day, hour: 0, minute: 0, second: 0, micros: 0 };
    match parts.days() {
        Some(days) => append!(out, Date, days as i32),
        None => no_such_date(parts.date_text(), params, out),
    }
}

pub(super) fn datetime(bytes: &[u8], params: &Params, out: &mut Builder) -> Result<(), Bad> {
    let (packed, rest) = bytes.split_at_checked(5).ok_or(Bad::Malformed)?;
    let packed = big_endian(packed) - 0x80_0000_0000;
    append_datetime(Parts::unpacked(packed, fraction(rest)), params, out)
}

pub(super) fn timestamp(bytes: &[u8], params: &Params, out: &mut Builder) -> Result<(), Bad> {
    let (seconds, rest) = bytes.split_at_checked(4).ok_or(Bad::Malformed)?;
    append_timestamp(big_endian(seconds), fraction(rest), params, out)
}

fn append_timestamp(seconds: i64, micros: i64, params: &Params, out: &mut Builder) -> Result<(), Bad> {
    if micros >= SECOND {
        return Err(Bad::Malformed);
    }
    if seconds == 0 && micros == 0 {
        return no_such_date("0000-00-00 00:00:00".into(), params, out);
    }
    append!(out, Timestamp, seconds * SECOND + micros)
}

pub(super) fn time(bytes: &[u8], _: &Params, out: &mut Builder) -> Result<(), Bad> {
    if !(3..=6).contains(&bytes.len()) {
        return Err(Bad::Malformed);
    }
    // As one number with the fraction in its lowest bytes, stored with an offset; negative ones are two's complements.
    let digits = bytes.len() - 3;
    let number = big_endian(bytes) - (0x80_0000 << (8 * digits));
    let unit = 1_i64 << (8 * digits);
    let (whole, rest) = (number.abs() / unit, number.abs() % unit);
    let micros = rest * [0, 10_000, 100, 1][digits];
    let (hour, minute, second) = (whole >> 12 & 1023, whole >> 6 & 63, whole & 63);
    append_duration(number < 0, hour, minute, second, micros, out)
}

fn append_duration(negative: bool, h: i64, m: i64, s: i64, micros: i64, out: &mut Builder) -> Result<(), Bad> {
    if m > 59 || s > 59 || micros >= SECOND {
        return Err(Bad::Malformed);
    }
    let value = ((h * 60 + m) * 60 + s) * SECOND + micros;
    append!(out, Duration, if negative { -value } else { value })
}

/// MariaDB with `mysql56_temporal_format=OFF`: decimal digits `YYYYMMDDhhmmss`.
pub(super) fn old_datetime(bytes: &[u8], params: &Params, out: &mut Builder) -> Result<(), Bad> {
    let n = i64::try_from(little_endian(bytes)).map_err(|_| Bad::Malformed)?;
    let (date, time) = (n / 1_000_000, n % 1_000_000);
    let parts = Parts {
        year: date / 10_000,
        month: (date / 100 % 100) as u32,
        day: (date % 100) as u32,
        hour: time / 10_000,
        minute: time / 100 % 100,
        second: time % 100,
        micros: 0,
    };
    append_datetime(parts, params, out)
}

/// Likewise: seconds since 1970.
pub(super) fn old_timestamp(bytes: &[u8], params: &Params, out: &mut Builder) -> Result<(), Bad> {
    let seconds = bytes.first_chunk::<4>().ok_or(Bad::Malformed)?;
    append_timestamp(i64::from(u32::from_le_bytes(*seconds)), 0, params, out)
}

/// Likewise: decimal digits `hhmmss` with a sign.
pub(super) fn old_time(bytes: &[u8], _: &Params, out: &mut Builder) -> Result<(), Bad> {
    let [a, b, c] = *bytes else { return Err(Bad::Malformed) };
    let n = i64::from(i32::from_le_bytes([0, a, b, c]) >> 8);
    let digits = n.abs();
    append_duration(n < 0, digits / 10_000, digits / 100 % 100, digits % 100, 0, out)
}

/// Appends a date or date and time inside JSON as the server prints it.
pub(super) fn json_datetime(packed: u64, date_only: bool, out: &mut String) {
    let packed = (packed as i64).saturating_abs();
    let parts = Parts::unpacked(packed >> 24, packed & 0xFF_FFFF);
    if date_only {
        out.push_str(&parts.date_text());
    } else {
        let _ = write!(out, "{}.{:06}", parts.text(), parts.micros);
    }
}

/// Appends a duration inside JSON as the server prints it.
pub(super) fn json_time(packed: u64, out: &mut String) {
    let signed = packed as i64;
    let packed = signed.saturating_abs();
    let whole = packed >> 24;
    let sign = if signed < 0 { "-" } else { "" };
    let (hour, minute, second) = (whole >> 12 & 1023, whole >> 6 & 63, whole & 63);
    let _ = write!(out, "{sign}{hour:02}:{minute:02}:{second:02}.{:06}", packed & 0xFF_FFFF);
}
