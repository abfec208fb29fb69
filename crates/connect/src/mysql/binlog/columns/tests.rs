//! Property tests of the value decoders: what a writer of the format makes is read back, and no bytes make them panic.

use proptest::prelude::*;

use super::super::super::types::Charset;
use super::*;

fn decode(kind: u8, meta: u16, wanted: &MysqlType, bytes: &[u8]) -> Result<ArrayRef, Bad> {
    let plan = plan(kind, meta, wanted, ZeroDates::Error).unwrap();
    let mut builder = Builder::new(wanted).unwrap();
    (plan.decode)(bytes, &plan.params, &mut builder)?;
    Ok(builder.finish())
}

/// Writes a decimal of these digits.
fn decimal(negative: bool, whole: &str, fraction: &str) -> Vec<u8> {
    const BYTES: [usize; 10] = [0, 1, 1, 2, 2, 3, 3, 4, 4, 4];
    let mut out = Vec::new();
    let mut group = |digits: &str| {
        let n: u32 = digits.parse().unwrap_or(0);
        out.extend_from_slice(&n.to_be_bytes()[4 - BYTES[digits.len()]..]);
    };
    let (head, groups) = whole.split_at(whole.len() % 9);
    group(head);
    groups.as_bytes().chunks(9).for_each(|g| group(std::str::from_utf8(g).unwrap()));
    fraction.as_bytes().chunks(9).for_each(|g| group(std::str::from_utf8(g).unwrap()));
    out[0] ^= 0x80;
    if negative {
        out.iter_mut().for_each(|b| *b ^= 0xFF);
    }
    out
}

#[test]
fn what_does_not_fit_is_refused() {
    let none = ZeroDates::Error;
    assert!(plan(LONG, 0, &MysqlType::BigInt { unsigned: false }, none).is_err());
    assert!(
        plan(NEWDECIMAL, u16::from_le_bytes([10, 2]), &MysqlType::Decimal { precision: 10, scale: 3 }, none).is_err()
    );
    assert!(plan(VARCHAR, 40, &MysqlType::VarChar { chars: 40, charset: Charset::Utf8mb4 }, none).is_err());
    assert!(plan(DATETIME2, 3, &MysqlType::DateTime { digits: 6 }, none).is_err());
    assert!(plan(99, 0, &MysqlType::Date, none).is_err());
}

#[test]
fn zero_dates() {
    assert_eq!(decode(DATE, 0, &MysqlType::Date, &[0, 0, 0]).unwrap_err(), Bad::NoSuchDate("0000-00-00".into()));
    let plan = plan(DATE, 0, &MysqlType::Date, ZeroDates::Null).unwrap();
    let mut builder = Builder::new(&MysqlType::Date).unwrap();
    (plan.decode)(&[0, 0, 0], &plan.params, &mut builder).unwrap();
    assert!(builder.finish().is_null(0));
}

#[test]
fn members() {
    let members: Vec<String> = ["a", "b", "c"].map(String::from).to_vec();
    let one = |wanted: &MysqlType, kind, bytes: &[u8]| {
        decode(kind, u16::from_le_bytes([0, 1]), wanted, bytes).map(|a| a.as_string::<i32>().value(0).to_string())
    };
    let e = MysqlType::Enum { members: members.clone() };
    assert_eq!(one(&e, ENUM, &[0]).unwrap(), "");
    assert_eq!(one(&e, ENUM, &[3]).unwrap(), "c");
    assert_eq!(one(&e, ENUM, &[4]), Err(Bad::Malformed));
    let s = MysqlType::Set { members };
    assert_eq!(one(&s, SET, &[0]).unwrap(), "");
    assert_eq!(one(&s, SET, &[5]).unwrap(), "a,c");
    assert_eq!(one(&s, SET, &[8]), Err(Bad::Malformed));
}

proptest! {
    #[test]
    fn decimals(negative: bool, digits in "[0-9]{1,65}", scale in 0usize..40) {
        let scale = scale.min(digits.len());
        let (whole, fraction) = digits.split_at(digits.len() - scale);
        let bytes = decimal(negative, whole, fraction);
        let (precision, scale) = (digits.len() as u8, scale as u8);
        let wanted = MysqlType::Decimal { precision, scale };
        let array = decode(NEWDECIMAL, u16::from_le_bytes([precision, scale]), &wanted, &bytes).unwrap();
        let text = freshet_core::text::render(&array, &wanted.data_type()).unwrap();
        let mut expected = String::new();
        number::decimal_text(&bytes, precision, scale, &mut expected).unwrap();
        let zero = digits.bytes().all(|b| b == b'0');
        prop_assert_eq!(text.value(0), if zero { expected.trim_start_matches('-') } else { &expected });
        let plain = expected.replace(['-', '.'], "");
        prop_assert_eq!(plain.trim_start_matches('0'), digits.trim_start_matches('0'));
    }

    #[test]
    fn durations(micros in -3_020_399_999_999_i64..=3_020_399_999_999, digits in 0u8..=6) {
        let unit = 10_i64.pow(6 - u32::from(digits));
        let micros = micros / unit * unit;
        let (s, frac) = (micros.abs() / 1_000_000, micros.abs() % 1_000_000);
        let whole = ((s / 3600) << 12) | ((s / 60 % 60) << 6) | (s % 60);
        let size = usize::from(digits).div_ceil(2);
        let mut number = (whole << (8 * size)) | (frac / [1, 10_000, 100, 1][size]);
        if micros < 0 { number = -number; }
        let stored = number + (0x80_0000 << (8 * size));
        let bytes = &stored.to_be_bytes()[8 - 3 - size..];
        let array = decode(TIME2, u16::from(digits), &MysqlType::Time { digits }, bytes).unwrap();
        prop_assert_eq!(array.as_primitive::<arrow::datatypes::DurationMicrosecondType>().value(0), micros);
    }

    #[test]
    fn datetimes(days in -719_162_i64..=2_932_896, micros in 0..86_400_000_000_i64, digits in 0u8..=6) {
        let unit = 10_i64.pow(6 - u32::from(digits));
        let micros = micros / unit * unit;
        let (y, m, d) = freshet_core::text::civil_from_days(days);
        let s = micros / 1_000_000;
        let packed = ((y * 13 + i64::from(m)) << 22) | (i64::from(d) << 17) | ((s / 3600) << 12) | ((s / 60 % 60) << 6) | (s % 60);
        let size = usize::from(digits).div_ceil(2);
        let mut bytes = (packed + 0x80_0000_0000).to_be_bytes()[3..].to_vec();
        bytes.extend_from_slice(&(micros % 1_000_000 / [1, 10_000, 100, 1][size]).to_be_bytes()[8 - size..]);
        let array = decode(DATETIME2, u16::from(digits), &MysqlType::DateTime { digits }, &bytes).unwrap();
        let value = array.as_primitive::<arrow::datatypes::TimestampMicrosecondType>().value(0);
        prop_assert_eq!(value, days * 86_400_000_000 + micros);
    }

    #[test]
    fn bad_bytes_never_panic(kind: u8, meta: u16, which in 0usize..40, bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
        let text = |s: &str| MysqlType::parse(s).unwrap();
        let wanted = [
            "tinyint", "smallint unsigned", "mediumint", "int", "bigint unsigned", "bit(1)", "bit(9)", "decimal(10,2)",
            "decimal(60,30)", "float", "double", "date", "datetime(3)", "timestamp(6)", "time(2)", "year",
            "datetime", "timestamp", "time", "char(5) character set latin1", "varchar(9) character set ascii",
            "text character set utf8mb4", "binary(4)", "blob", "enum('a','b')", "set('a','b')", "json",
        ];
        let wanted = text(wanted[which % wanted.len()]);
        let _ = width(kind, meta).map(|w| w.cut(&mut Cursor::new(&bytes)));
        for kind in 0..=255 {
            for meta in [meta, 0, 1, 2, 3, 6, u16::from_le_bytes([10, 2]), u16::from_le_bytes([1, 1]), 9, 5, 4] {
                if let Ok(plan) = plan(kind, meta, &wanted, ZeroDates::Error) {
                    let mut builder = Builder::new(&wanted).unwrap();
                    let _ = (plan.decode)(&bytes, &plan.params, &mut builder);
                }
            }
        }
    }
}
