//! Column definitions and default values, in a statement or as `information_schema` gives them.

use freshet_core::schema::Column;
use freshet_core::{DefaultValue, Error, Result};

use super::Context;
use super::cursor::Cursor;
use super::lexer::{self, Token};
use crate::mysql::types::{Charset, Charsets, LobSize, MysqlType, TypeSpec};

/// The time zone that literals of `TIMESTAMP` columns are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Zone<'a> {
    /// So many minutes ahead of UTC.
    Offset(i32),
    /// One whose offset depends on the server and on the day: `SYSTEM`, `Europe/Berlin`; `None`: the log does not say.
    Named(Option<&'a str>),
}

impl<'a> Zone<'a> {
    /// UTC.
    pub const UTC: Zone<'static> = Zone::Offset(0);

    /// The value of a session's `time_zone`, as far as the log says it.
    pub fn parse(text: Option<&'a str>) -> Self {
        let offset = |text: &str| {
            let (sign, rest) = match text.split_at_checked(1)? {
                ("+", rest) => (1, rest),
                ("-", rest) => (-1, rest),
                _ => return None,
            };
            let (hours, minutes) = rest.split_once(':')?;
            let number = |digits: &str| digits.parse::<u8>().ok().filter(|_| digits.len() <= 2).map(i32::from);
            Some(sign * (number(hours)? * 60 + number(minutes)?))
        };
        match text {
            Some(utc) if utc.eq_ignore_ascii_case("UTC") => Zone::UTC,
            Some(text) => offset(text).map_or(Zone::Named(Some(text)), Zone::Offset),
            None => Zone::Named(None),
        }
    }
}

/// A default as it is written, before it is brought into the form of its column's type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Raw {
    Text(String),
    Number(String),
    Bytes(Vec<u8>),
    Now(u8),
    Expression(String),
}

/// A column as a statement defines it.
#[derive(Debug, Default)]
pub(super) struct ColumnDef {
    pub(super) name: String,
    pub(super) spec: TypeSpec,
    /// `NOT NULL` was given, or follows from the type.
    pub(super) not_null: bool,
    pub(super) default: Option<Raw>,
    pub(super) comment: String,
    pub(super) auto_increment: bool,
    pub(super) generated: bool,
    pub(super) primary: bool,
    pub(super) unique: bool,
    /// `CHECK (json_valid(this column))`: how MariaDB writes a JSON column.
    pub(super) json_check: bool,
}

impl ColumnDef {
    /// Reads `name type attributes…`, and stops before `FIRST`, `AFTER`, a comma or the end.
    pub(super) fn parse(c: &mut Cursor<'_>) -> Result<Self> {
        let name = c.column_name()?;
        Self::parse_after_name(c, name)
    }

    /// The same behind the name.
    pub(super) fn parse_after_name(c: &mut Cursor<'_>, name: String) -> Result<Self> {
        let mut def = ColumnDef { name, ..ColumnDef::default() };
        def.parse_type(c)?;
        while !c.is_end() && !matches!(c.peek(), Some(Token::Symbol(',' | ')'))) && !c.sees("FIRST") && !c.sees("AFTER")
        {
            def.parse_attribute(c).map_err(|e| e.with("column", &def.name))?;
        }
        Ok(def)
    }

    fn parse_type(&mut self, c: &mut Cursor<'_>) -> Result<()> {
        let Some(Token::Word(word)) = c.advance() else { return Err(c.unexpected("a column type")) };
        let mut name = word.to_ascii_lowercase();
        match name.as_str() {
            "double" => {
                c.eat("PRECISION");
            }
            "char" | "character" => name = char_or_varchar(c).into(),
            "nchar" | "nvarchar" | "national" => {
                self.spec.charset = Some("utf8mb3".into());
                let varying = name == "nvarchar" || c.eat("VARCHAR") || c.eat("VARCHARACTER");
                if !varying {
                    c.eat_one(&["CHARACTER", "CHAR"]);
                }
                name = if c.eat("VARYING") || varying { "varchar".into() } else { "char".into() };
            }
            "varcharacter" => name = "varchar".into(),
            "long" => {
                name = "mediumtext".into();
                match c.eat_one(&["VARBINARY", "VARCHAR", "VARCHARACTER", "CHAR VARYING", "CHARACTER VARYING"]) {
                    Some("VARBINARY") => name = "mediumblob".into(),
                    _ if c.eat("BYTE") => name = "mediumblob".into(),
                    _ => {}
                }
            }
            "serial" => {
                (self.not_null, self.auto_increment, self.unique) = (true, true, true);
            }
            _ => {}
        }
        self.spec.name = name;
        if c.peek() == Some(&Token::Symbol('(')) {
            let mut inside = c.parens()?;
            while inside.peek().is_some() {
                match inside.peek() {
                    Some(Token::Number(n)) => {
                        let n = n.parse().map_err(|_| inside.unexpected("a whole number"))?;
                        self.spec.numbers.push(n);
                        inside.advance();
                    }
                    Some(Token::Text(_)) => self.spec.members.push(inside.text()?),
                    Some(Token::Bytes(bytes)) => {
                        let text =
                            String::from_utf8(bytes.clone()).map_err(|_| inside.unexpected("a text in UTF-8"))?;
                        self.spec.members.push(text);
                        inside.advance();
                    }
                    // The character set of a text: _utf8mb4'a'.
                    Some(Token::Word(w)) if w.starts_with('_') => {
                        inside.advance();
                    }
                    _ => return Err(inside.unexpected("a length or a member")),
                }
                if inside.peek().is_some() {
                    inside.expect_symbol(',')?;
                }
            }
        }
        Ok(())
    }

    fn parse_attribute(&mut self, c: &mut Cursor<'_>) -> Result<()> {
        const ALONE: [&str; 6] =
            ["SIGNED", "VISIBLE", "INVISIBLE", "WITHOUT SYSTEM VERSIONING", "ENFORCED", "NOT ENFORCED"];
        const WITH_VALUE: [&str; 6] =
            ["COLUMN_FORMAT", "STORAGE", "ENGINE_ATTRIBUTE", "SECONDARY_ENGINE_ATTRIBUTE", "SRID", "REF_SYSTEM_ID"];
        if c.eat_one(&ALONE).is_some() {
        } else if c.eat("UNSIGNED") || c.eat("ZEROFILL") {
            self.spec.unsigned = true;
        } else if c.eat("NOT NULL") {
            self.not_null = true;
        } else if c.eat("NULL") {
            self.not_null = false;
        } else if c.eat("SERIAL DEFAULT VALUE") {
            (self.not_null, self.auto_increment, self.unique) = (true, true, true);
        } else if c.eat("DEFAULT") {
            self.default = parse_default(c)?;
        } else if c.eat("ON UPDATE") {
            parse_default(c)?;
        } else if c.eat("AUTO_INCREMENT") {
            self.auto_increment = true;
        } else if c.eat("UNIQUE") {
            c.eat("KEY");
            self.unique = true;
        } else if c.eat("PRIMARY") || c.eat("KEY") {
            c.eat("KEY");
            self.primary = true;
        } else if c.eat("COMMENT") {
            self.comment = c.text()?;
        } else if c.eat("COLLATE") {
            self.spec.collate = Some(c.name_or_text()?.to_ascii_lowercase());
        } else if let Some(charset) = parse_charset(c)? {
            self.spec.charset = Some(charset);
        } else if c.eat("BINARY") {
            // The collation that compares codes.
        } else if c.eat("BYTE") {
            self.spec.charset = Some("binary".into());
        } else if c.eat("ASCII") {
            self.spec.charset = Some("latin1".into());
        } else if c.eat("UNICODE") {
            self.spec.charset = Some("ucs2".into());
        } else if c.eat("COMPRESSED") {
            self.spec.compressed = true;
            if c.eat_symbol('=') {
                c.name_or_text()?;
            }
        } else if c.eat_one(&WITH_VALUE).is_some() {
            c.eat_symbol('=');
            c.advance();
        } else if c.eat("REFERENCES") {
            skip_reference(c)?;
        } else if c.sees("CHECK") || c.sees("CONSTRAINT") {
            self.json_check |= parse_check(c)?.is_some_and(|column| column.eq_ignore_ascii_case(&self.name));
        } else if c.eat("GENERATED ALWAYS AS") || c.eat("AS") {
            if c.eat("ROW") {
                return Err(system_versioned());
            }
            c.parens()?;
            c.eat_one(&["VIRTUAL", "STORED", "PERSISTENT"]);
            self.generated = true;
        } else if c.sees("WITH SYSTEM VERSIONING") {
            return Err(system_versioned());
        } else if matches!(c.peek(), Some(Token::Word(_) | Token::Name(_))) && c.peek_at(1) == Some(&Token::Symbol('='))
        {
            // An attribute of a storage engine of MariaDB.
            c.advance();
            c.advance();
            c.advance();
        } else {
            return Err(c.unexpected("an attribute of a column"));
        }
        Ok(())
    }

    /// The type, with `charset` where the definition names none.
    pub(super) fn resolve(&self, charset: Option<&str>) -> Result<MysqlType> {
        let resolved = self.spec.resolve(charset).map_err(|e| e.with("column", &self.name))?;
        Ok(match resolved {
            MysqlType::Text { size: LobSize::Long, charset: Charset::Utf8mb4 } if self.json_check => MysqlType::Json,
            other => other,
        })
    }

    /// The column of a table, with `charset` where the definition names none.
    pub(super) fn column(&self, charset: Option<&str>, zone: Zone<'_>) -> Result<Column> {
        let resolved = self.resolve(charset)?;
        Ok(Column {
            name: self.name.clone(),
            data_type: resolved.data_type(),
            nullable: !(self.not_null || self.primary),
            default: self.default.clone().map(|raw| raw.of_type(&resolved, zone)),
            comment: self.comment.clone(),
            source_type: format!("{resolved}{}", if self.generated { GENERATED_MARK } else { "" }),
        })
    }
}

/// That a table is one of MariaDB's with history, whose row events we cannot read.
pub(super) fn system_versioned() -> Error {
    Error::unsupported("the table is system-versioned").hint("leave the table out of the job")
}

fn char_or_varchar(c: &mut Cursor<'_>) -> &'static str {
    if c.eat("VARYING") { "varchar" } else { "char" }
}

/// `CHARACTER SET x`, `CHARSET [=] x`.
pub(super) fn parse_charset(c: &mut Cursor<'_>) -> Result<Option<String>> {
    if c.eat("CHARACTER SET") || c.eat("CHARSET") || c.eat("CHAR SET") {
        c.eat_symbol('=');
        return Ok(Some(c.name_or_text()?.to_ascii_lowercase()));
    }
    Ok(None)
}

/// `[CONSTRAINT [name]] CHECK (…) [[NOT] ENFORCED]`; the column's name if the check is `json_valid(column)`.
pub(super) fn parse_check(c: &mut Cursor<'_>) -> Result<Option<String>> {
    if c.eat("CONSTRAINT") && !c.sees("CHECK") {
        c.name()?;
    }
    if !c.eat("CHECK") {
        // A constraint of another sort in front of `REFERENCES`, `UNIQUE` …: its attribute follows.
        return Ok(None);
    }
    let mut inside = c.parens()?;
    let _ = c.eat("NOT ENFORCED") || c.eat("ENFORCED");
    if !inside.eat("json_valid") {
        return Ok(None);
    }
    let mut argument = inside.parens()?;
    let name = argument.column_name()?;
    Ok((argument.is_end() && inside.is_end()).then_some(name))
}

/// `t (a) [MATCH x] [ON DELETE …] [ON UPDATE …]` behind `REFERENCES`.
fn skip_reference(c: &mut Cursor<'_>) -> Result<()> {
    c.column_name()?;
    if c.peek() == Some(&Token::Symbol('(')) {
        c.parens()?;
    }
    if c.eat("MATCH") {
        c.name()?;
    }
    while c.eat("ON DELETE") || c.eat("ON UPDATE") {
        if c.eat_one(&["SET NULL", "SET DEFAULT", "NO ACTION", "RESTRICT", "CASCADE"]).is_none() {
            return Err(c.unexpected("a reference action"));
        }
    }
    Ok(())
}

/// The value behind `DEFAULT`; `None`: NULL.
pub(super) fn parse_default(c: &mut Cursor<'_>) -> Result<Option<Raw>> {
    let from = c.mark();
    // The character set of a text: _utf8mb4'a'.
    let introduced = matches!(c.peek(), Some(Token::Word(w)) if w.starts_with('_'))
        && matches!(c.peek_at(1), Some(Token::Text(_) | Token::Bytes(_)));
    if introduced {
        c.advance();
    }
    Ok(Some(match c.peek() {
        Some(Token::Text(_)) => Raw::Text(c.text()?),
        Some(Token::Bytes(bytes)) => {
            c.advance();
            match String::from_utf8(bytes.clone()) {
                Ok(text) if introduced => Raw::Text(text),
                _ => Raw::Bytes(bytes.clone()),
            }
        }
        Some(Token::Number(n)) => {
            c.advance();
            Raw::Number(n.clone())
        }
        Some(Token::Symbol(sign @ ('-' | '+'))) => {
            c.advance();
            let Some(Token::Number(n)) = c.advance() else { return Err(c.unexpected("a number")) };
            Raw::Number(if *sign == '-' { format!("-{n}") } else { n.clone() })
        }
        Some(Token::Symbol('(')) => {
            c.parens()?;
            Raw::Expression(c.text_since(from).to_string())
        }
        Some(Token::Word(_)) => {
            if c.eat("NULL") {
                return Ok(None);
            }
            match c.eat_one(&["TRUE", "FALSE"]) {
                Some("TRUE") => return Ok(Some(Raw::Number("1".into()))),
                Some(_) => return Ok(Some(Raw::Number("0".into()))),
                None => {}
            }
            if c.eat_one(&["CURRENT_TIMESTAMP", "NOW", "LOCALTIME", "LOCALTIMESTAMP"]).is_some() {
                return Ok(Some(Raw::Now(parse_digits(c)?)));
            }
            c.eat("NEXT VALUE FOR");
            c.column_name()?;
            if c.peek() == Some(&Token::Symbol('(')) {
                c.parens()?;
            }
            Raw::Expression(c.text_since(from).to_string())
        }
        _ => return Err(c.unexpected("a default value")),
    }))
}

/// `(6)`, `()` or nothing.
fn parse_digits(c: &mut Cursor<'_>) -> Result<u8> {
    if c.peek() != Some(&Token::Symbol('(')) {
        return Ok(0);
    }
    match c.parens()?.advance() {
        Some(Token::Number(n)) => n.parse().map_err(|_| c.unexpected("a number of digits")),
        _ => Ok(0),
    }
}

/// The default that MariaDB's `information_schema` describes as a piece of a statement: `'it''s'`, `1.50`,
/// `current_timestamp(6)`, `(1 + 2)`. What cannot be read is an expression. The session that asked is in UTC.
pub(in crate::mysql) fn default_of_sql(text: &str, of: &MysqlType) -> Option<DefaultValue> {
    let charsets = Charsets::default();
    let context = Context {
        default_database: "",
        ansi_quotes: false,
        no_backslash_escapes: false,
        charsets: &charsets,
        mariadb: true,
        lower_case_names: false,
        strict: true,
        zone: Zone::UTC,
    };
    let tokens = lexer::tokens(text, &context);
    let mut c = Cursor::new(text, &tokens);
    match parse_default(&mut c) {
        Ok(raw) if c.is_end() => raw.map(|raw| raw.of_type(of, Zone::UTC)),
        _ => Some(DefaultValue::Expression(text.to_string())),
    }
}

/// The default that MySQL's `information_schema` describes as plain text; not for literals of `TIMESTAMP` columns, which
/// it shows in the time zone of the session that declared them.
pub(in crate::mysql) fn default_of_text(text: &str, of: &MysqlType) -> DefaultValue {
    let (number, bytes) =
        (matches!(of, MysqlType::Bit { .. }), matches!(of, MysqlType::Binary { .. } | MysqlType::VarBinary { .. }));
    match (number || bytes).then(|| default_of_sql(text, of)).flatten() {
        Some(value @ DefaultValue::Literal(_)) => value,
        _ => Raw::Text(text.to_string()).of_type(of, Zone::UTC),
    }
}

impl Raw {
    /// In the form of a column's type: what the source would print (instants in UTC), bytes as upper-case hexadecimal
    /// digits. Dates that do not exist are left as expressions, because no target takes them, and so are instants that
    /// are not known because it is not how far `zone` was from UTC.
    pub(super) fn of_type(self, of: &MysqlType, zone: Zone<'_>) -> DefaultValue {
        let text = match self {
            Raw::Now(digits) => return DefaultValue::CurrentTimestamp(digits),
            Raw::Expression(text) => return DefaultValue::Expression(text),
            Raw::Bytes(bytes) => return bytes_default(bytes, of),
            Raw::Text(text) if matches!(of, MysqlType::Binary { .. } | MysqlType::VarBinary { .. }) => {
                return bytes_default(text.into_bytes(), of);
            }
            Raw::Text(text) => text,
            Raw::Number(text) => text,
        };
        let literal = match of {
            MysqlType::Decimal { scale, .. } => decimal(&text, *scale),
            MysqlType::Date => calendar(&text, None, 0),
            MysqlType::DateTime { digits } => calendar(&text, Some(*digits), 0),
            MysqlType::Timestamp { digits } => match zone {
                Zone::Offset(minutes) => calendar(&text, Some(*digits), minutes),
                Zone::Named(name) if calendar(&text, Some(*digits), 0).is_some() => {
                    let zone = name.map_or("a time zone that is not known".to_string(), |n| format!("time zone {n}"));
                    return DefaultValue::Expression(format!("'{text}' in {zone}"));
                }
                Zone::Named(_) => None,
            },
            MysqlType::Year => match text.parse::<u16>() {
                Ok(y @ 1..=69) if text.len() <= 2 => Some((2000 + y).to_string()),
                Ok(y @ 70..=99) => Some((1900 + y).to_string()),
                _ => Some(text.clone()),
            },
            MysqlType::TinyInt { .. }
            | MysqlType::SmallInt { .. }
            | MysqlType::MediumInt { .. }
            | MysqlType::Int { .. }
            | MysqlType::BigInt { .. } => Some(text.trim().parse::<i128>().map_or(text.clone(), |n| n.to_string())),
            _ => Some(text.clone()),
        };
        match literal {
            Some(literal) => DefaultValue::Literal(literal),
            None => DefaultValue::Expression(format!("'{text}'")),
        }
    }
}

fn bytes_default(mut bytes: Vec<u8>, of: &MysqlType) -> DefaultValue {
    match of {
        MysqlType::Binary { .. } | MysqlType::VarBinary { .. } | MysqlType::Blob { .. } => {
            if let MysqlType::Binary { length } = of
                && *length <= 255
            {
                bytes.resize((*length as usize).max(bytes.len()), 0);
            }
            let mut out = String::new();
            freshet_core::text::hex(&bytes, &mut out);
            DefaultValue::Literal(out)
        }
        MysqlType::Char { .. } | MysqlType::VarChar { .. } | MysqlType::Enum { .. } | MysqlType::Set { .. } => {
            match String::from_utf8(bytes) {
                Ok(text) => DefaultValue::Literal(text),
                Err(e) => DefaultValue::Expression(format!("{:?}", e.into_bytes())),
            }
        }
        _ if bytes.len() <= 8 => {
            let number = bytes.iter().fold(0_u64, |n, b| n << 8 | u64::from(*b));
            Raw::Number(number.to_string()).of_type_number()
        }
        _ => DefaultValue::Expression(format!("{bytes:?}")),
    }
}

impl Raw {
    fn of_type_number(self) -> DefaultValue {
        match self {
            Raw::Number(n) => DefaultValue::Literal(n),
            other => DefaultValue::Expression(format!("{other:?}")),
        }
    }
}

/// With exactly `scale` digits behind the point, if it has no more than that.
fn decimal(text: &str, scale: u8) -> Option<String> {
    let text = text.trim();
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let (sign, digits) = whole.strip_prefix('-').map_or(("", whole), |w| ("-", w));
    let plain = digits.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit());
    if !plain || fraction.len() > usize::from(scale) {
        return Some(text.to_string());
    }
    let digits = match digits.trim_start_matches('0') {
        "" => "0",
        d => d,
    };
    Some(match scale {
        0 => format!("{sign}{digits}"),
        n => format!("{sign}{digits}.{fraction:0<width$}", width = usize::from(n)),
    })
}

/// `2020-1-1` as a date, or with `digits` as date and time, from so many minutes ahead of UTC; `None` when there is no
/// such day, or when servers differ in what it means.
fn calendar(text: &str, digits: Option<u8>, ahead: i32) -> Option<String> {
    let parts: Vec<&str> = text.split(|c: char| !c.is_ascii_digit()).filter(|p| !p.is_empty()).collect();
    let number = |i: usize| parts.get(i).map_or(Some(0), |p| p.parse::<u32>().ok());
    if parts.len() < 3 || parts[0].len() != 4 {
        // 20200101 and the like: the server prints another form, but these are not worth the code.
        return None;
    }
    let (year, month, day) = (number(0)?, number(1)?, number(2)?);
    let days = freshet_core::text::days_from_civil(i64::from(year), month, day);
    if month == 0 || day == 0 || freshet_core::text::civil_from_days(days) != (i64::from(year), month, day) {
        return None;
    }
    let date = format!("{year:04}-{month:02}-{day:02}");
    let Some(digits) = digits else { return Some(date) };
    let (fraction, rest) = match parts.get(6) {
        Some(fraction) => fraction.split_at(fraction.len().min(usize::from(digits))),
        None => ("", ""),
    };
    let signed = text.split_once(':').is_some_and(|(_, time)| time.contains(['+', '-']));
    if signed || rest.bytes().any(|b| b != b'0') {
        // An offset of its own, or a fraction that one server rounds and another cuts off.
        return None;
    }
    let minutes = days * 1440 + i64::from(number(3)?) * 60 + i64::from(number(4)?) - i64::from(ahead);
    let (year, month, day) = freshet_core::text::civil_from_days(minutes.div_euclid(1440));
    let (hour, minute) = (minutes.rem_euclid(1440) / 60, minutes.rem_euclid(60));
    let date = format!("{year:04}-{month:02}-{day:02}");
    let time = format!("{hour:02}:{minute:02}:{:02}", number(5)?);
    Some(match digits {
        0 => format!("{date} {time}"),
        n => format!("{date} {time}.{fraction:0<width$}", width = usize::from(n)),
    })
}

/// The key of a table: the columns of its primary key; without one those of the unique key over NOT NULL columns
/// whose name comes first. Marks the columns of a unique key in their source type, because dropping any index may
/// then drop the key.
pub(in crate::mysql) fn choose_key(
    columns: &mut [Column],
    primary: Option<Vec<String>>,
    unique: Vec<(String, Vec<String>)>,
) -> Vec<String> {
    let find =
        |columns: &[Column], name: &str| columns.iter().position(|c| c.name.to_lowercase() == name.to_lowercase());
    if let Some(key) = primary {
        return key.iter().filter_map(|k| find(columns, k)).map(|i| columns[i].name.clone()).collect();
    }
    let usable = |key: &Vec<String>| key.iter().all(|k| find(columns, k).is_some_and(|i| !columns[i].nullable));
    let chosen = unique
        .into_iter()
        .filter(|(_, key)| !key.is_empty() && usable(key))
        .min_by_key(|(name, _)| name.to_lowercase())
        .map_or(Vec::new(), |(_, key)| key);
    let places: Vec<usize> = chosen.iter().filter_map(|k| find(columns, k)).collect();
    for place in &places {
        columns[*place].source_type.push_str(UNIQUE_KEY_MARK);
    }
    places.into_iter().map(|i| columns[i].name.clone()).collect()
}

/// What stands behind the source type of a generated column, whose values a log may leave out.
pub(in crate::mysql) const GENERATED_MARK: &str = " generated";

/// What [`choose_key`] puts behind the source type of a column.
pub(in crate::mysql) const UNIQUE_KEY_MARK: &str = " unique key";

/// Names a new index as a server does: as its first column, with `_2`, `_3` … when that is taken.
pub(super) fn index_name(first_column: &str, taken: &[(String, Vec<String>)]) -> String {
    let free = |name: &String| !taken.iter().any(|(t, _)| t.eq_ignore_ascii_case(name));
    let base = first_column.to_string();
    if free(&base) && !base.eq_ignore_ascii_case("primary") {
        return base;
    }
    (2..=64).map(|n| format!("{base}_{n}")).find(free).unwrap_or(base)
}
