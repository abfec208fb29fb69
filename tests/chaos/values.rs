//! Random values as SQL literals, by the type that the server says a column has.

use fastrand::Rng;
use freshet_tests::shape::Column;

/// Keys are drawn from so many, so that they are hit again and again.
const KEYS: i32 = 3_000;

/// A value for this column; NULL only where that is allowed.
pub(crate) fn value(column: &Column, rng: &mut Rng) -> String {
    if column.in_key.is_some() {
        return key(column, rng);
    }
    if column.nullable && rng.u8(0..12) == 0 {
        return "NULL".into();
    }
    let unsigned = column.column_type.contains("unsigned");
    let integer = |bits: u32, rng: &mut Rng| match (unsigned, rng.u8(0..4)) {
        (_, 0..3) => rng.u32(0..100).to_string(),
        (true, _) => (rng.u64(..) >> (64 - bits)).to_string(),
        (false, _) => (rng.i64(..) >> (64 - bits)).to_string(),
    };
    match column.data_type.as_str() {
        "tinyint" => integer(8, rng),
        "smallint" => integer(16, rng),
        "mediumint" => integer(24, rng),
        "int" => integer(32, rng),
        "bigint" => integer(64, rng),
        "decimal" => decimal(&column.column_type, unsigned, rng),
        "double" => format!("{:e}", (rng.f64() - 0.5) * 10f64.powi(rng.i32(-30..30))),
        "float" => format!("{}", rng.i32(-30_000..30_000)),
        "bit" => format!("b'{:b}'", rng.u8(0..2)),
        "year" => rng.u16(1901..2155).to_string(),
        "date" => format!("'{}'", date(rng)),
        "datetime" => format!("'{} {}'", date(rng), clock(rng)),
        "timestamp" => format!("'{}-{:02}-{:02} {}'", rng.u16(1971..2037), rng.u8(1..13), rng.u8(1..29), clock(rng)),
        "time" => format!("'{}{}'", if rng.bool() { "-" } else { "" }, clock(rng)),
        "enum" => one_of(&column.column_type, rng),
        "set" => one_of(&column.column_type, rng),
        "json" => json(rng),
        "longtext" if column.name.starts_with('j') => json(rng), // MariaDB's JSON
        "char" | "varchar" | "tinytext" | "text" | "mediumtext" | "longtext" => text(length(&column.column_type), rng),
        "binary" | "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" => {
            let most = length(&column.column_type).min(200);
            let bytes = rng.usize(0..most + 1);
            format!("x'{}'", (0..bytes).map(|_| format!("{:02x}", rng.u8(..))).collect::<String>())
        }
        other => panic!("no values of type {other} ({})", column.column_type),
    }
}

fn key(column: &Column, rng: &mut Rng) -> String {
    match column.data_type.as_str() {
        "tinyint" => rng.u8(0..100).to_string(),
        "char" | "varchar" => {
            // Equal by the column's collation and yet different: case, accents, trailing spaces.
            const WORDS: [&str; 8] = ["a", "A", "é", "E", "k ey", "日", "ss", "ß"];
            let most = length(&column.column_type);
            let word = format!("{}{}", WORDS[rng.usize(..WORDS.len())], rng.u16(0..300));
            let word: String = word.chars().take(most).collect();
            format!("'{word}{}'", if rng.u8(0..10) == 0 && word.chars().count() < most { " " } else { "" })
        }
        "binary" | "varbinary" => format!("x'{:04x}'", rng.u16(0..1000)),
        "datetime" => format!("'2024-01-01 00:{:02}:{:02}.{}'", rng.u8(0..60), rng.u8(0..60), rng.u8(0..10)),
        "date" => format!("'{}'", date(rng)),
        _ if column.name == "big_id" => rng.i32(0..60_000).to_string(),
        _ => rng.i32(0..KEYS).to_string(),
    }
}

fn decimal(column_type: &str, unsigned: bool, rng: &mut Rng) -> String {
    let mut digits = column_type.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse::<usize>().ok());
    let (precision, scale) = (digits.next().unwrap_or(10), digits.next().unwrap_or(0));
    let mut number =
        |most: usize| (0..rng.usize(0..most.min(20) + 1)).map(|_| char::from(b'0' + rng.u8(0..10))).collect();
    let (whole, part): (String, String) = (number(precision - scale), number(scale));
    format!("{}0{whole}.{part}0", if unsigned || rng.bool() { "" } else { "-" })
}

fn date(rng: &mut Rng) -> String {
    format!("{}-{:02}-{:02}", rng.u16(1000..9999), rng.u8(1..13), rng.u8(1..29))
}

fn clock(rng: &mut Rng) -> String {
    format!("{:02}:{:02}:{:02}.{:06}", rng.u8(0..24), rng.u8(0..60), rng.u8(0..60), rng.u32(0..1_000_000))
}

fn json(rng: &mut Rng) -> String {
    let n = rng.i32(-1000..1000);
    match rng.u8(0..4) {
        0 => format!("'{n}'"),
        1 => "'{\"a\": null}'".into(),
        2 => format!("'[{n}, \"é\", {{\"b\": {}}}]'", rng.bool()),
        _ => format!("'{{\"n\": {n}, \"text\": \"it is {}\"}}'", rng.u32(..)),
    }
}

/// A text of at most so many characters.
fn text(most: usize, rng: &mut Rng) -> String {
    const WORDS: [&str; 9] =
        ["", "plain", "it''s", "naïve", "日本語", "🦀 crab", "back\\\\slash", "tab\\tnew\\nline", "NULL"];
    let word = WORDS[rng.usize(..WORDS.len())];
    if most < 20 {
        return format!("'{:.most$}'", format!("{:x}", rng.u32(0..4000)));
    }
    match rng.u8(0..20) {
        0 if most > 3000 => format!("concat('{word}', repeat('{}', {}))", rng.u8(0..10), rng.u16(0..3000)),
        _ => format!("'{word}{:x}'", rng.u16(..)),
    }
}

/// The length in a type's parentheses.
fn length(column_type: &str) -> usize {
    let inside = column_type.split_once('(').and_then(|(_, rest)| rest.split_once(')'));
    inside.and_then(|(n, _)| n.parse().ok()).unwrap_or(10_000)
}

/// One of the words of an ENUM or SET.
fn one_of(column_type: &str, rng: &mut Rng) -> String {
    let inside = column_type.split_once('(').map_or("", |(_, rest)| rest.trim_end_matches(')'));
    let words: Vec<&str> = inside.split(',').collect();
    words[rng.usize(..words.len())].into()
}
