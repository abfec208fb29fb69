//! What the conditions of a query say about keys: which segments cannot hold a wanted row (by their least and greatest
//! key), and, where they name whole keys, which rows of a segment are meant (by its key index and bloom filter). Used
//! only where the encoded order is the order that the condition means: a condition through a cast, on a floating-point
//! column or with another type than the column's says nothing here. It only ever leaves rows out that the condition
//! would; the condition itself is still evaluated.

use arrow::array::Array;
use arrow::datatypes::DataType as Arrow;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};
use freshet_core::{DataType, Result};

use crate::catalog::{Model, Table};
use crate::storage::key::{self, Keys};
use crate::{SegmentView, TableView};

/// More keys than this are not looked up one by one.
const KEYS: usize = 8192;

/// Where wanted keys are: `low` to everything that begins with `high`. Empty bounds are none.
struct Range {
    low: Vec<u8>,
    high: Vec<u8>,
}

/// What is known about the wanted keys.
pub(crate) struct Wanted {
    ranges: Vec<Range>,
    /// Whole keys, ascending, each once: there are no others.
    keys: Option<Keys>,
}

/// What the conditions say about one column, in encoded values.
#[derive(Default)]
struct Bounds {
    values: Option<Vec<Vec<u8>>>,
    low: Option<Vec<u8>>,
    high: Option<Vec<u8>>,
}

/// What these conditions (all must hold) say about a table's keys; `None`: nothing.
pub(crate) fn wanted(table: &Table, filters: &[Expr], query_type: impl Fn(&DataType) -> Arrow) -> Option<Wanted> {
    if table.key_columns == 0 || table.model == Model::Multiset {
        return None;
    }
    let mut bounds: Vec<Bounds> = (0..table.key_columns).map(|_| Bounds::default()).collect();
    let encoded = |name: &str, value: &ScalarValue| -> Option<(usize, Vec<u8>)> {
        let i = table.columns[..table.key_columns].iter().position(|c| c.name == name)?;
        let column = &table.columns[i];
        let exact = !matches!(column.data_type, DataType::Float32 | DataType::Float64);
        if !exact || value.is_null() || value.data_type() != query_type(&column.data_type) {
            return None;
        }
        // The zone of an instant is for people.
        let array = value.to_array().ok()?;
        let keys = key::encode(std::slice::from_ref(&array)).ok()?;
        (array.len() == 1).then(|| (i, keys.get(0).to_vec()))
    };
    let mut parts: Vec<&Expr> = filters.iter().collect();
    while let Some(part) = parts.pop() {
        if let Expr::BinaryExpr(BinaryExpr { left, op: Operator::And, right }) = part {
            parts.extend([left.as_ref(), right.as_ref()]);
        } else if let Some((i, values)) = equals(part, &encoded) {
            let known = &mut bounds[i].values;
            if known.as_ref().is_none_or(|k| k.len() > values.len()) {
                *known = Some(values);
            }
        } else if let Some((i, op, value)) = comparison(part, &encoded) {
            let b = &mut bounds[i];
            match op {
                Operator::Gt | Operator::GtEq if b.low.as_ref().is_none_or(|l| *l < value) => b.low = Some(value),
                Operator::Lt | Operator::LtEq if b.high.as_ref().is_none_or(|h| *h > value) => b.high = Some(value),
                _ => {}
            }
        }
    }
    combine(table, bounds)
}

/// `column op value`, in that order.
fn comparison(
    e: &Expr,
    encoded: &impl Fn(&str, &ScalarValue) -> Option<(usize, Vec<u8>)>,
) -> Option<(usize, Operator, Vec<u8>)> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = e else { return None };
    let (column, op, value) = match (left.as_ref(), right.as_ref()) {
        (Expr::Column(c), Expr::Literal(value, _)) => (c, *op, value),
        (Expr::Literal(value, _), Expr::Column(c)) => (c, op.swap()?, value),
        _ => return None,
    };
    let (i, value) = encoded(&column.name, value)?;
    Some((i, op, value))
}

/// A column that must have one of these values.
fn equals(
    e: &Expr,
    encoded: &impl Fn(&str, &ScalarValue) -> Option<(usize, Vec<u8>)>,
) -> Option<(usize, Vec<Vec<u8>>)> {
    match e {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Or, right }) => {
            let ((i, mut values), (j, more)) = (equals(left, encoded)?, equals(right, encoded)?);
            values.extend(more);
            (i == j).then_some((i, values))
        }
        Expr::InList(list) if !list.negated => {
            let Expr::Column(column) = list.expr.as_ref() else { return None };
            let value = |e: &Expr| match e {
                Expr::Literal(value, _) => encoded(&column.name, value),
                _ => None,
            };
            let values = list.list.iter().map(value).collect::<Option<Vec<_>>>()?;
            let (i, _) = values.first()?;
            Some((*i, values.iter().map(|(_, v)| v.clone()).collect()))
        }
        _ => comparison(e, encoded).filter(|(_, op, _)| *op == Operator::Eq).map(|(i, _, value)| (i, vec![value])),
    }
}

/// Column after column as long as values are known, then at most one range.
fn combine(table: &Table, bounds: Vec<Bounds>) -> Option<Wanted> {
    let mut prefixes: Vec<Vec<u8>> = vec![Vec::new()];
    let mut whole = !bounds.is_empty();
    let mut ranges = None;
    for (i, bound) in bounds.into_iter().enumerate() {
        match bound.values {
            Some(values) if prefixes.len() * values.len() <= KEYS => {
                prefixes =
                    prefixes.iter().flat_map(|p| values.iter().map(move |v| [p.as_slice(), v].concat())).collect();
            }
            _ => {
                whole = false;
                let known = bound.low.is_some() || bound.high.is_some();
                if i == 0 && !known {
                    return None;
                }
                let (low, high) = (bound.low.unwrap_or_default(), bound.high.unwrap_or_default());
                let range =
                    |p: &Vec<u8>| Range { low: [p.as_slice(), &low].concat(), high: [p.as_slice(), &high].concat() };
                ranges = Some(prefixes.iter().map(range).collect());
                break;
            }
        }
    }
    let ranges = ranges.unwrap_or_else(|| prefixes.iter().map(|p| Range { low: p.clone(), high: p.clone() }).collect());
    let keys = (whole && table.model == Model::Unique).then(|| {
        prefixes.sort_unstable();
        prefixes.dedup();
        let mut keys = Keys::default();
        prefixes.iter().for_each(|p| keys.push(p));
        keys
    });
    Some(Wanted { ranges, keys })
}

/// A segment that a query has to look into.
pub(crate) struct Chosen<'v> {
    pub(crate) segment: &'v SegmentView,
    /// These rows only, ascending; `None`: all that are live.
    pub(crate) rows: Option<Vec<u32>>,
}

/// The segments, and rows of them, that may hold what is wanted.
///
/// # Errors
/// `Corrupt` when an index file fails its checksum.
pub(crate) fn choose<'v>(view: &'v TableView, wanted: Option<&Wanted>) -> Result<Vec<Chosen<'v>>> {
    let live = view.segments.iter().filter(|s| s.live_rows() > 0);
    let Some(wanted) = wanted else { return Ok(live.map(|segment| Chosen { segment, rows: None }).collect()) };
    let touched = live.filter(|s| wanted.ranges.iter().any(|r| overlaps(s, r)));
    let Some(keys) = &wanted.keys else { return Ok(touched.map(|segment| Chosen { segment, rows: None }).collect()) };
    let mut missing: Vec<u32> = (0..keys.len() as u32).collect();
    let mut chosen = Vec::new();
    // The newest first: what was changed last is asked for most, and a key is live at most once.
    for segment in touched.rev() {
        if missing.is_empty() {
            break;
        }
        let meta = &segment.segment.meta;
        let from = missing.partition_point(|k| keys.get(*k as usize) < meta.min_key.as_slice());
        let to = missing.partition_point(|k| keys.get(*k as usize) <= meta.max_key.as_slice());
        let (mut found, mut rows) = (Vec::new(), Vec::new());
        segment.segment.with_index(|index| {
            index.lookup(keys, &missing[from..to], |key, row| {
                if !segment.deletes.contains(row) {
                    found.push(key);
                    rows.push(row);
                }
            })
        })?;
        if !rows.is_empty() {
            missing.retain(|k| found.binary_search(k).is_err());
            chosen.push(Chosen { segment, rows: Some(rows) });
        }
    }
    Ok(chosen)
}

fn overlaps(segment: &SegmentView, range: &Range) -> bool {
    let meta = &segment.segment.meta;
    let least = &meta.min_key[..meta.min_key.len().min(range.high.len())];
    meta.max_key >= range.low && least <= range.high.as_slice()
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;

    use crate::sql::lab::Lab;

    #[tokio::test]
    async fn only_segments_that_can_hold_the_keys_are_opened() {
        let mut lab = Lab::new().await;
        lab.run("CREATE TABLE t (id INT NOT NULL, v INT) UNIQUE KEY (id)").await;
        // Interleaved, so that ranges overlap and only the key index tells the segments apart.
        for part in 0..4 {
            let rows: Vec<String> = (0..50).map(|i| format!("({}, {part})", i * 4 + part)).collect();
            lab.run(&format!("INSERT INTO t VALUES {}", rows.join(","))).await;
            lab.warehouse.flush().await.unwrap();
        }
        lab.run("INSERT INTO t VALUES (1000, 9), (1010, 9)").await;
        lab.warehouse.flush().await.unwrap();
        for (condition, segments, sum) in [
            ("id = 7", 1, "3"),
            ("'7' = id", 1, "3"),
            ("id IN (7, 11, 1000)", 2, "15"),
            ("id IN (1, 2, 3, 4, 5, 6, 7) AND v >= 0", 4, "12"),
            ("id = 7 AND v = 3", 1, "3"),
            ("id = 7 OR id = 1010", 2, "12"),
            ("id = 1005", 0, "NULL"),
            ("id > 500", 1, "18"),
            ("id BETWEEN 300 AND 999", 0, "NULL"),
            ("id < 4 AND v = 0", 4, "0"),
            ("id + 0 = 7", 5, "3"),
            ("v = 3", 5, "150"),
            // No number of the column's type: nothing is left out by mistake.
            ("id = 7.5", 5, "NULL"),
            ("id = 5000000000", 5, "NULL"),
        ] {
            let sql = format!("SELECT SUM(v) FROM t WHERE {condition}");
            assert_eq!(lab.run(&sql).await, [sum], "{condition}");
            assert_eq!(lab.segments(&sql).await, segments, "{condition}");
        }
        // A key that is deleted, and one that moved to the delta.
        lab.run("DELETE FROM t WHERE id = 7").await;
        lab.run("UPDATE t SET v = 100 WHERE id = 11").await;
        assert_eq!(lab.run("SELECT SUM(v), COUNT(*) FROM t WHERE id IN (7, 11, 15)").await, ["103 2"]);
        assert_eq!(lab.segments("SELECT * FROM t WHERE id = 7").await, 0);
        assert_eq!(lab.run("SELECT COUNT(*) FROM t WHERE id = 7").await, ["0"]);
        assert_eq!(lab.run("SELECT COUNT(*) FROM t").await, ["201"]);
    }

    /// Random conditions answer the same with and without pruning (`+ 0` and `CONCAT` hide a column from it), over
    /// segments, deletes, the delta, and key columns that were widened.
    #[tokio::test]
    async fn pruned_answers_are_right() {
        let seed = fastrand::u64(..);
        let mut rng = Rng::with_seed(seed);
        let mut lab = Lab::new().await;
        lab.run("CREATE TABLE t (a SMALLINT NOT NULL, b VARCHAR(8) NOT NULL, d DATE NOT NULL, n DECIMAL(9,2) NOT NULL, v INT) UNIQUE KEY (a, b, d, n)").await;
        lab.run("CREATE TABLE m (a SMALLINT, b VARCHAR(8), d DATE, n DECIMAL(9,2), v INT) DUPLICATE KEY (a, b, d, n)")
            .await;
        let texts = ["", "a", "ab", "b", "B", "ü", "zz"];
        let a = |rng: &mut Rng| rng.i32(-3..300) * if rng.bool() { 1 } else { 100 } / 10;
        let row = |rng: &mut Rng| {
            let (a, b, d) = (a(rng), *rng.choice(&texts).unwrap_or(&""), rng.u32(1..4));
            let b = b.to_string();
            format!("({a}, '{b}', '2024-01-0{d}', {}, {})", ["-1.5", "0", "2.25"][rng.usize(..3)], rng.i32(0..9))
        };
        for round in 0..6 {
            for table in ["t", "m"] {
                let rows: Vec<String> = (0..60).map(|_| row(&mut rng)).collect();
                lab.run(&format!("INSERT INTO {table} VALUES {}", rows.join(","))).await;
            }
            lab.run(&format!("DELETE FROM t WHERE v = {}", rng.i32(0..9))).await;
            if round == 3 {
                lab.run("ALTER TABLE t MODIFY COLUMN a BIGINT KEY NOT NULL").await;
                lab.run("ALTER TABLE t MODIFY COLUMN b VARCHAR(40) KEY NOT NULL").await;
            }
            if round < 5 {
                lab.warehouse.flush().await.unwrap();
            }
        }
        let mut opened = 0;
        for _ in 0..150 {
            let column = |rng: &mut Rng| -> (&str, &str, String) {
                match rng.u8(0..4) {
                    0 => ("a", "a + 0", a(rng).to_string()),
                    1 => ("b", "CONCAT(b, '')", format!("'{}'", texts[rng.usize(..texts.len())])),
                    2 => ("d", "DATE_ADD(d, INTERVAL 0 DAY)", format!("'2024-01-0{}'", rng.u32(1..5))),
                    _ => ("n", "n + 0", ["-1.5", "0", "2.25", "3"][rng.usize(..4)].to_string()),
                }
            };
            let (mut plain, mut hidden) = (Vec::new(), Vec::new());
            for _ in 0..rng.usize(1..5) {
                let (c, h, value) = column(&mut rng);
                let condition = match rng.u8(0..4) {
                    0 => format!("= {value}"),
                    1 => format!("{} {value}", ["<", "<=", ">", ">=", "<>"][rng.usize(..5)]),
                    2 => {
                        let mut more = vec![value];
                        while more.len() < 6 {
                            let (other, _, value) = column(&mut rng);
                            if other == c {
                                more.push(value);
                            }
                        }
                        format!("{} ({})", ["IN", "IN", "NOT IN"][rng.usize(..3)], more.join(","))
                    }
                    _ => format!("= {value}"),
                };
                plain.push(format!("{c} {condition}"));
                hidden.push(format!("{h} {condition}"));
            }
            let joint = if rng.u8(0..5) == 0 { " OR " } else { " AND " };
            for table in ["t", "m"] {
                let sql = |c: &[String]| {
                    format!("SELECT a, b, d, n, v FROM {table} WHERE {} ORDER BY a, b, d, n, v", c.join(joint))
                };
                let (pruned, full) = (lab.run(&sql(&plain)).await, lab.run(&sql(&hidden)).await);
                assert_eq!(pruned, full, "seed {seed}: {}", sql(&plain));
                opened += lab.segments(&sql(&plain)).await;
            }
        }
        assert!(opened < 150 * 10, "nothing was ever left out: {opened}");
    }
}
