//! A table's key in statements: ranges of it as predicates that its index serves, values as literals that no character
//! set, collation or escape can bend. Values are [canonical text](freshet_core::text).

use std::fmt::Write;

use arrow::array::{Array, RecordBatch, StringArray};
use freshet_core::schema::quote_name;
use freshet_core::{Error, KeyRange, Result, TableSchema, text};

use super::types::MysqlType;

/// Keys, and bytes of their literals, at which a statement that reads rows back takes no more.
const KEYS_MAX: usize = 500;
const KEYS_BYTES: usize = 128 << 10;

/// The key of a table.
pub(super) struct Key {
    table: String,
    /// Columns as they are written in statements, with their types.
    columns: Vec<(String, MysqlType)>,
    /// Its index.
    index: Option<String>,
}

impl Key {
    /// # Errors
    /// `Unsupported` when the table has no key.
    pub(super) fn of(table: &TableSchema, index: Option<&str>) -> Result<Self> {
        let mut columns = Vec::with_capacity(table.key.len());
        for place in table.key_indexes() {
            let column = &table.columns[place];
            let of = MysqlType::parse(&column.source_type)
                .map_err(|e| e.with("column", &column.name).with("table", &table.name))?;
            columns.push((format!("t.{}", quote_name(&column.name)), of));
        }
        if columns.is_empty() {
            return Err(Error::unsupported("the table has no primary key and no unique key over NOT NULL columns")
                .with("table", &table.name)
                .hint(format!(
                    "give it one (ALTER TABLE {} ADD PRIMARY KEY …), or leave it out of the job",
                    table.name.quoted()
                )));
        }
        Ok(Key { table: table.name.quoted(), columns, index: index.map(str::to_string) })
    }

    /// The table's name as statements write it.
    pub(super) fn table(&self) -> &str {
        &self.table
    }

    /// The key's only column, when that is an integer.
    pub(super) fn integer(&self) -> Option<&str> {
        use MysqlType::*;
        match self.columns.as_slice() {
            [(name, TinyInt { .. } | SmallInt { .. } | MediumInt { .. } | Int { .. } | BigInt { .. })] => Some(name),
            _ => None,
        }
    }

    /// Whether ranges of it are ranges of its index with exact bounds: not so for floating point numbers, for texts and
    /// bytes of which an index holds the beginning only, and with an ENUM or SET in front, for which servers scan.
    pub(super) fn is_ordered(&self) -> bool {
        use MysqlType::*;
        let scanned = matches!(self.columns.first(), Some((_, Enum { .. } | Set { .. })));
        !scanned && !self.columns.iter().any(|(_, of)| matches!(of, Float | Double | Text { .. } | Blob { .. } | Json))
    }

    /// The key's columns as expressions for canonical text.
    pub(super) fn texts(&self) -> String {
        let texts: Vec<_> = self.columns.iter().map(|(name, of)| text_expression(name, of)).collect();
        texts.join(", ")
    }

    /// `SELECT columns FROM the table WHERE the range ORDER BY the key`; the table is called `t`.
    ///
    /// # Errors
    /// `Data` when a bound is no value of its column.
    pub(super) fn select(&self, columns: &str, range: &KeyRange) -> Result<String> {
        let mut sql = format!("SELECT {columns} FROM {} AS t", self.table);
        if let Some(index) = &self.index {
            let _ = write!(sql, " FORCE INDEX ({})", quote_name(index));
        }
        let bounds = [(&range.from, '>'), (&range.to, '<')];
        for (i, (bound, side)) in bounds.iter().filter_map(|(b, side)| Some((b.as_ref()?, side))).enumerate() {
            let _ = write!(sql, "{} {}", if i == 0 { " WHERE" } else { " AND" }, self.predicate(bound, *side)?);
        }
        let names: Vec<_> = self.columns.iter().map(|(name, _)| name.as_str()).collect();
        let _ = write!(sql, " ORDER BY {}", names.join(", "));
        Ok(sql)
    }

    /// `SELECT columns FROM the table WHERE the key is one of these`, in as many statements as it takes. `keys` has the
    /// key's columns in the key's order.
    ///
    /// # Errors
    /// `Internal` when the columns are not the key's; `Data` when a value is none of its column.
    pub(super) fn select_each(&self, columns: &str, table: &TableSchema, keys: &RecordBatch) -> Result<Vec<String>> {
        let places = table.key_indexes();
        if keys.num_columns() != places.len() {
            return Err(Error::internal("keys have other columns than the table's key").with("table", &table.name));
        }
        let texts = places
            .iter()
            .zip(keys.columns())
            .map(|(place, values)| text::render(values, &table.columns[*place].data_type))
            .collect::<Result<Vec<StringArray>>>()?;
        let select = format!("SELECT {columns} FROM {} AS t WHERE ", self.table);
        let (mut statements, mut open) = (Vec::<String>::new(), 0);
        for row in 0..keys.num_rows() {
            let one = self.equals(&texts, row)?;
            match statements.last_mut() {
                Some(sql) if open < KEYS_MAX && sql.len() + one.len() < KEYS_BYTES => {
                    let _ = write!(sql, " OR {one}");
                    open += 1;
                }
                _ => {
                    statements.push(format!("{select}{one}"));
                    open = 1;
                }
            }
        }
        Ok(statements)
    }

    /// That the key is the one of this row; equalities joined by AND and OR are what every server makes ranges of.
    fn equals(&self, texts: &[StringArray], row: usize) -> Result<String> {
        let mut parts = Vec::with_capacity(self.columns.len());
        for ((name, of), values) in self.columns.iter().zip(texts) {
            let value = (!values.is_null(row)).then(|| values.value(row));
            let literal = value.and_then(|text| literal(of, text));
            let literal = literal.ok_or_else(|| Error::data(format!("{value:?} is no value of the key's {name}")))?;
            parts.push(format!("{name} = {literal}"));
        }
        Ok(format!("({})", parts.join(" AND ")))
    }

    /// Keys at or above (`>`), or below (`<`) a bound, which may have values of the first columns only. The comparison of
    /// several columns is written out, because row constructors don't use an index, with the first column's bound in
    /// front, from which the index's range is seen.
    fn predicate(&self, bound: &[String], side: char) -> Result<String> {
        if bound.is_empty() || bound.len() > self.columns.len() {
            return Err(Error::data("a bound has no value, or more of them than the key has columns"));
        }
        let mut literals = Vec::with_capacity(bound.len());
        for ((name, of), text) in self.columns.iter().zip(bound) {
            literals
                .push((name, literal(of, text).ok_or_else(|| Error::data(format!("'{text}' is no bound of {name}")))?));
        }
        let mut out = String::new();
        for (name, literal) in literals.iter().rev() {
            out = match (out.is_empty(), side) {
                (true, '>') => format!("{name} >= {literal}"),
                (true, _) => format!("{name} < {literal}"),
                (false, _) => format!("({name} {side} {literal} OR ({name} = {literal} AND {out}))"),
            };
        }
        match literals.as_slice() {
            [(name, literal), _, ..] => Ok(format!("({name} {side}= {literal} AND {out})")),
            _ => Ok(out),
        }
    }
}

/// The expression whose text [`super::text_values::Canonical`] makes canonical text of.
pub(super) fn text_expression(column: &str, of: &MysqlType) -> String {
    match of {
        MysqlType::Binary { .. } | MysqlType::VarBinary { .. } | MysqlType::Blob { .. } => format!("HEX({column})"),
        other => super::text_values::expression(column, other),
    }
}

/// A value as a literal; `None` when the text is no value of that type.
fn literal(of: &MysqlType, text: &str) -> Option<String> {
    use MysqlType::*;
    let safe =
        |allowed: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || allowed.as_bytes().contains(&b));
    Some(match of {
        TinyInt { .. } | SmallInt { .. } | MediumInt { .. } | Int { .. } | BigInt { .. } | Bit { .. } | Year => {
            safe("-").then(|| text.to_string())?
        }
        Decimal { .. } | Float | Double => safe("-.e").then(|| text.to_string())?,
        Date => safe("-").then(|| format!("DATE'{text}'"))?,
        DateTime { .. } | Timestamp { .. } => safe("-: .").then(|| format!("TIMESTAMP'{text}'"))?,
        Time { .. } => safe("-:.").then(|| format!("TIME'{text}'"))?,
        Char { .. } | VarChar { .. } | Text { .. } | Json => format!("_utf8mb4 X'{}'", hex(text.as_bytes())),
        Binary { .. } | VarBinary { .. } | Blob { .. } => {
            text.bytes().all(|b| b.is_ascii_hexdigit()).then(|| format!("X'{text}'"))?
        }
        // They are ordered by their number, not by their text.
        Enum { members } if text.is_empty() && !members.iter().any(String::is_empty) => "0".to_string(),
        Enum { members } => (members.iter().position(|m| m == text)? + 1).to_string(),
        Set { members } => {
            let mut bits = 0_u64;
            for member in text.split(',').filter(|m| !m.is_empty()) {
                bits |= 1_u64.checked_shl(members.iter().position(|m| m == member)? as u32)?;
            }
            bits.to_string()
        }
    })
}

fn hex(bytes: &[u8]) -> String {
    let mut out = String::new();
    freshet_core::text::hex(bytes, &mut out);
    out
}

#[cfg(test)]
mod tests {
    use freshet_core::{Column, DataType, TableName};

    use super::*;

    fn table(columns: &[(&str, &str)]) -> TableSchema {
        let column = |(name, of): &(&str, &str)| Column {
            source_type: (*of).to_string(),
            ..Column::new(*name, DataType::Int32).not_null()
        };
        TableSchema {
            name: TableName::new("d", "t`1"),
            columns: columns.iter().map(column).collect(),
            key: columns.iter().map(|(name, _)| (*name).to_string()).collect(),
            comment: String::new(),
            source_defaults: String::new(),
        }
    }

    fn range(from: Option<&[&str]>, to: Option<&[&str]>) -> KeyRange {
        let own = |b: Option<&[&str]>| b.map(|b| b.iter().map(|s| (*s).to_string()).collect());
        KeyRange { from: own(from), to: own(to) }
    }

    #[test]
    fn statements() {
        let one = Key::of(&table(&[("a", "int")]), Some("PRIMARY")).unwrap();
        assert_eq!(one.integer(), Some("t.`a`"));
        assert_eq!(
            one.select("*", &range(Some(&["5"]), Some(&["-9"]))).unwrap(),
            "SELECT * FROM `d`.`t``1` AS t FORCE INDEX (`PRIMARY`) WHERE t.`a` >= 5 AND t.`a` < -9 ORDER BY t.`a`"
        );
        let two =
            Key::of(&table(&[("a", "int"), ("b", "varchar(3) character set latin1"), ("c", "date")]), None).unwrap();
        assert_eq!(
            two.select("*", &range(Some(&["1", "é'", "2024-01-01"]), None)).unwrap(),
            "SELECT * FROM `d`.`t``1` AS t WHERE (t.`a` >= 1 AND (t.`a` > 1 OR (t.`a` = 1 AND (t.`b` > _utf8mb4 X'C3A927' \
             OR (t.`b` = _utf8mb4 X'C3A927' AND t.`c` >= DATE'2024-01-01'))))) ORDER BY t.`a`, t.`b`, t.`c`"
        );
        assert_eq!(
            two.select("*", &range(Some(&["1"]), Some(&["2", "é"]))).unwrap(),
            "SELECT * FROM `d`.`t``1` AS t WHERE t.`a` >= 1 AND (t.`a` <= 2 AND (t.`a` < 2 OR (t.`a` = 2 AND \
             t.`b` < _utf8mb4 X'C3A9'))) ORDER BY t.`a`, t.`b`, t.`c`"
        );
        assert!(two.select("*", &range(Some(&[]), None)).is_err());
        assert!(two.select("*", &range(Some(&["1", "", "2024-01-01", "1"]), None)).is_err());
        assert!(two.select("*", &range(Some(&["1 OR 1=1", "", "2024-01-01"]), None)).is_err());
        let none = TableSchema { key: Vec::new(), ..table(&[("a", "int")]) };
        assert!(Key::of(&none, None).is_err_and(|e| e.message.contains("has no primary key")));
    }

    #[test]
    fn literals() {
        for (of, text, want) in [
            ("bigint unsigned", "18446744073709551615", Some("18446744073709551615")),
            ("int", "x", None),
            ("decimal(5,2)", "-1.50", Some("-1.50")),
            ("datetime(3)", "2024-01-01 00:00:00.123", Some("TIMESTAMP'2024-01-01 00:00:00.123'")),
            ("time", "-01:00:00", Some("TIME'-01:00:00'")),
            ("binary(2)", "00FF", Some("X'00FF'")),
            ("binary(2)", "00FF'", None),
            ("enum('x','y')", "y", Some("2")),
            ("enum('x','y')", "", Some("0")),
            ("enum('x','y')", "z", None),
            ("set('x','y','z')", "x,z", Some("5")),
        ] {
            assert_eq!(literal(&MysqlType::parse(of).unwrap(), text).as_deref(), want, "{of} {text}");
        }
    }
}
