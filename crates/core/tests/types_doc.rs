//! `docs/types.md` says what the code does: it is generated from the mapping functions. `FRESHET_WRITE_DOCS=1` writes
//! it anew.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // test code, though not marked as such

use freshet_core::DataType;
use freshet_core::datatype::Doris;

#[test]
fn types_page_is_up_to_date() {
    use DataType::*;
    let types = [
        Boolean,
        Int8,
        Int16,
        Int32,
        Int64,
        Int128,
        UInt8,
        UInt16,
        UInt32,
        UInt64,
        UInt128,
        Decimal { precision: 10, scale: 2 },
        Decimal { precision: 65, scale: 30 },
        Float32,
        Float64,
        Date,
        DateTime { digits: 6 },
        Timestamp { digits: 3 },
        Time { digits: 6 },
        String { chars: Some(20) },
        String { chars: Some(60_000) },
        String { chars: None },
        Bytes { length: Some(16) },
        Json,
        Array(Box::new(Int32)),
    ];
    let mut page = std::string::String::from(
        "# Types\n\nGenerated from `crates/core/src/datatype.rs` by its test; do not edit.\n\n\
         | Freshet | Arrow | embedded warehouse | Apache Doris | StarRocks |\n| --- | --- | --- | --- | --- |\n",
    );
    for t in types {
        page.push_str(&format!(
            "| {t} | {} | {} | {} | {} |\n",
            t.to_arrow(),
            t.to_doris(Doris::Embedded, false),
            t.to_doris(Doris::Cluster, false),
            t.to_starrocks()
        ));
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/types.md");
    if std::env::var_os("FRESHET_WRITE_DOCS").is_some() {
        std::fs::write(path, &page).unwrap();
    }
    let found = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(found, page, "run FRESHET_WRITE_DOCS=1 cargo test -p freshet-core --test types_doc");
}
