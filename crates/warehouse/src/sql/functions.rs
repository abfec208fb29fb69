//! Functions that MySQL has and DataFusion has not, or has with another meaning: `CONCAT` (NULL when any part is NULL),
//! `DATE_FORMAT` with MySQL's letters, `UNIX_TIMESTAMP` and `FROM_UNIXTIME` in the session's time zone. Each is a plain
//! function over columns in [`all`]'s table.

use std::fmt::Write;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::timezone::Tz;
use arrow::array::{Array, ArrayRef, AsArray, StringArray, StringBuilder, TimestampMicrosecondArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, TimeUnit, TimestampMicrosecondType};
use datafusion::common::{DataFusionError, Result, ScalarValue, exec_err};
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use freshet_core::text;

use super::variables::to_local;

/// The name of a function that gives its first argument, a cast; the second says to what. It only makes the cast appear in
/// the names that DataFusion gives expressions, and is gone before a query runs.
pub(crate) const CAST_AS: &str = "cast_as";

/// The name of a function that gives any value as text, the way MySQL writes it.
pub(crate) const TEXT_OF: &str = "text_of";

/// The functions, to be registered over DataFusion's own.
pub(crate) fn all() -> Vec<ScalarUDF> {
    let one = |name, arguments, returns, run| ScalarUDF::from(Function::new(name, arguments, returns, run));
    vec![
        one(TEXT_OF, Some(1), DataType::Utf8, text_of),
        one("concat", None, DataType::Utf8, concat),
        one("date_format", Some(2), DataType::Utf8, date_format),
        one("timediff", Some(2), DataType::Utf8, timediff),
        one("unix_timestamp", Some(2), DataType::Int64, unix_timestamp),
        one("from_unixtime", Some(2), DataType::Timestamp(TimeUnit::Microsecond, None), from_unixtime),
        ScalarUDF::from(CastAs { signature: Signature::any(2, Volatility::Immutable) }),
    ]
}

type Run = fn(&[ArrayRef], usize) -> Result<ArrayRef>;

/// A function over whole columns.
#[derive(Debug)]
struct Function {
    name: &'static str,
    signature: Signature,
    returns: DataType,
    run: Run,
}

impl Function {
    fn new(name: &'static str, arguments: Option<usize>, returns: DataType, run: Run) -> Self {
        let signature = match arguments {
            Some(n) => Signature::any(n, Volatility::Immutable),
            None => Signature::variadic_any(Volatility::Immutable),
        };
        Function { name, signature, returns, run }
    }
}

impl PartialEq for Function {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Function {}

impl Hash for Function {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl ScalarUDFImpl for Function {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.returns.clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let constant = args.args.iter().all(|a| matches!(a, ColumnarValue::Scalar(_)));
        let rows = if constant { 1 } else { args.number_rows };
        let arrays = args.args.iter().map(|a| a.to_array(rows)).collect::<Result<Vec<_>>>()?;
        let out = (self.run)(&arrays, rows)?;
        match constant {
            true => Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&out, 0)?)),
            false => Ok(ColumnarValue::Array(out)),
        }
    }

    fn simplify(&self, mut args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        match args.as_slice() {
            [text] if self.name == TEXT_OF && info.get_data_type(text)? == DataType::Utf8 => {
                Ok(ExprSimplifyResult::Simplified(args.remove(0)))
            }
            _ => Ok(ExprSimplifyResult::Original(args)),
        }
    }
}

/// See [`CAST_AS`].
#[derive(Debug, PartialEq, Eq, Hash)]
struct CastAs {
    signature: Signature,
}

impl ScalarUDFImpl for CastAs {
    fn name(&self) -> &str {
        CAST_AS
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        Ok(arguments.first().cloned().unwrap_or(DataType::Null))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match args.args.into_iter().next() {
            Some(value) => Ok(value),
            None => exec_err!("{CAST_AS} without a value"),
        }
    }

    fn simplify(&self, args: Vec<Expr>, _: &SimplifyContext) -> Result<ExprSimplifyResult> {
        match <[Expr; 2]>::try_from(args) {
            Ok([cast, _]) => Ok(ExprSimplifyResult::Simplified(cast)),
            Err(args) => Ok(ExprSimplifyResult::Original(args)),
        }
    }
}

/// Days and moments as MySQL writes them, with as many digits as they have.
pub(crate) fn time_text(array: &ArrayRef) -> Result<StringArray> {
    let (mut out, mut one) = (StringBuilder::new(), String::new());
    let days = matches!(array.data_type(), DataType::Date32 | DataType::Date64);
    for value in moments(array)?.as_primitive::<TimestampMicrosecondType>() {
        one.clear();
        match value {
            Some(micros) if days => text::date(micros.div_euclid(86_400_000_000), &mut one),
            Some(micros) => text::date_time(micros, if micros % 1_000_000 == 0 { 0 } else { 6 }, &mut one),
            None => {}
        }
        out.append_option(value.map(|_| one.as_str()));
    }
    Ok(out.finish())
}

fn texts(array: &ArrayRef) -> Result<StringArray> {
    let array = match array.data_type() {
        // Booleans are 0 and 1 in MySQL.
        DataType::Boolean => cast(array, &DataType::Int8)?,
        DataType::Date32 | DataType::Date64 | DataType::Timestamp(..) => return time_text(array),
        _ => Arc::clone(array),
    };
    Ok(cast(&array, &DataType::Utf8)?.as_string::<i32>().clone())
}

/// The wall clock in microseconds; texts are read as MySQL writes dates.
fn moments(array: &ArrayRef) -> Result<ArrayRef> {
    let wall = DataType::Timestamp(TimeUnit::Microsecond, None);
    let DataType::Timestamp(_, Some(zone)) = array.data_type() else { return Ok(cast(array, &wall)?) };
    let zone: Tz = zone.parse()?;
    let instants = cast(array, &DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())))?;
    let instants = instants.as_primitive::<TimestampMicrosecondType>();
    let local: TimestampMicrosecondArray = instants.unary(|utc| to_local(utc, &zone));
    Ok(Arc::new(local.with_timezone_opt::<Arc<str>>(None)))
}

fn text_of(args: &[ArrayRef], _: usize) -> Result<ArrayRef> {
    Ok(Arc::new(texts(&args[0])?))
}

fn concat(args: &[ArrayRef], rows: usize) -> Result<ArrayRef> {
    let parts = args.iter().map(texts).collect::<Result<Vec<_>>>()?;
    let mut out = StringBuilder::with_capacity(rows, rows * 16);
    for row in 0..rows {
        if parts.iter().any(|p| p.is_null(row)) {
            out.append_null();
            continue;
        }
        for part in &parts {
            out.write_str(part.value(row)).map_err(|e| DataFusionError::External(Box::new(e)))?;
        }
        out.append_value("");
    }
    Ok(Arc::new(out.finish()))
}

fn date_format(args: &[ArrayRef], rows: usize) -> Result<ArrayRef> {
    let (moments, formats) = (moments(&args[0])?, texts(&args[1])?);
    let moments = moments.as_primitive::<TimestampMicrosecondType>();
    let mut out = StringBuilder::with_capacity(rows, rows * 19);
    let mut line = String::new();
    for row in 0..rows {
        if moments.is_null(row) || formats.is_null(row) {
            out.append_null();
            continue;
        }
        line.clear();
        format_moment(moments.value(row), formats.value(row), &mut line)
            .map_err(|e| DataFusionError::External(Box::new(e)))?;
        out.append_value(&line);
    }
    Ok(Arc::new(out.finish()))
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const DAY: i64 = 86_400_000_000;

/// MySQL's `DATE_FORMAT` of one moment.
fn format_moment(micros: i64, format: &str, out: &mut String) -> std::fmt::Result {
    let days = micros.div_euclid(DAY);
    let in_day = micros.rem_euclid(DAY);
    let (year, month, day) = text::civil_from_days(days);
    let (hour, minute) = (in_day / 3_600_000_000, in_day / 60_000_000 % 60);
    let (second, fraction) = (in_day / 1_000_000 % 60, in_day % 1_000_000);
    let hour12 = (hour + 11) % 12 + 1;
    let half = if hour < 12 { "AM" } else { "PM" };
    let weekday = (days + 4).rem_euclid(7);
    let day_of_year = days - text::days_from_civil(year, 1, 1) + 1;
    let (day_name, month_name) = (DAYS[weekday as usize], MONTHS[month as usize - 1]);
    let mut letters = format.chars();
    while let Some(c) = letters.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        match letters.next() {
            Some('Y') => write!(out, "{year:04}")?,
            Some('y') => write!(out, "{:02}", year.rem_euclid(100))?,
            Some('m') => write!(out, "{month:02}")?,
            Some('c') => write!(out, "{month}")?,
            Some('M') => out.push_str(month_name),
            Some('b') => out.push_str(&month_name[..3]),
            Some('d') => write!(out, "{day:02}")?,
            Some('e') => write!(out, "{day}")?,
            Some('D') => write!(out, "{day}{}", ordinal(day))?,
            Some('j') => write!(out, "{day_of_year:03}")?,
            Some('W') => out.push_str(day_name),
            Some('a') => out.push_str(&day_name[..3]),
            Some('w') => write!(out, "{weekday}")?,
            Some('H') => write!(out, "{hour:02}")?,
            Some('k') => write!(out, "{hour}")?,
            Some('h' | 'I') => write!(out, "{hour12:02}")?,
            Some('l') => write!(out, "{hour12}")?,
            Some('i') => write!(out, "{minute:02}")?,
            Some('s' | 'S') => write!(out, "{second:02}")?,
            Some('f') => write!(out, "{fraction:06}")?,
            Some('p') => out.push_str(half),
            Some('T') => write!(out, "{hour:02}:{minute:02}:{second:02}")?,
            Some('r') => write!(out, "{hour12:02}:{minute:02}:{second:02} {half}")?,
            Some('v') => write!(out, "{:02}", iso_week(days).1)?,
            Some('x') => write!(out, "{:04}", iso_week(days).0)?,
            Some(other) => out.push(other),
            None => out.push('%'),
        }
    }
    Ok(())
}

fn ordinal(day: u32) -> &'static str {
    match day {
        1 | 21 | 31 => "st",
        2 | 22 => "nd",
        3 | 23 => "rd",
        _ => "th",
    }
}

/// Year and week after ISO 8601: weeks begin on Monday and belong to the year of their Thursday.
fn iso_week(days: i64) -> (i64, i64) {
    let thursday = days - (days + 3).rem_euclid(7) + 3;
    let year = text::civil_from_days(thursday).0;
    (year, (thursday - text::days_from_civil(year, 1, 1)) / 7 + 1)
}

fn zone(array: &ArrayRef) -> Result<Arc<str>> {
    let zones = texts(array)?;
    if zones.is_empty() || zones.is_null(0) { exec_err!("a time zone is missing") } else { Ok(zones.value(0).into()) }
}

fn timediff(args: &[ArrayRef], rows: usize) -> Result<ArrayRef> {
    let (a, b) = (moments(&args[0])?, moments(&args[1])?);
    let (a, b) = (a.as_primitive::<TimestampMicrosecondType>(), b.as_primitive::<TimestampMicrosecondType>());
    let mut out = StringBuilder::with_capacity(rows, rows * 9);
    let mut line = String::new();
    for row in 0..rows {
        if a.is_null(row) || b.is_null(row) {
            out.append_null();
            continue;
        }
        line.clear();
        let micros = a.value(row).saturating_sub(b.value(row));
        text::duration(micros, if micros % 1_000_000 == 0 { 0 } else { 6 }, &mut line);
        out.append_value(&line);
    }
    Ok(Arc::new(out.finish()))
}

fn unix_timestamp(args: &[ArrayRef], _: usize) -> Result<ArrayRef> {
    let instants = match args[0].data_type() {
        DataType::Timestamp(_, Some(_)) => Arc::clone(&args[0]),
        _ => cast(&moments(&args[0])?, &DataType::Timestamp(TimeUnit::Microsecond, Some(zone(&args[1])?)))?,
    };
    let seconds = cast(&instants, &DataType::Timestamp(TimeUnit::Second, Some("UTC".into())))?;
    Ok(cast(&seconds, &DataType::Int64)?)
}

fn from_unixtime(args: &[ArrayRef], _: usize) -> Result<ArrayRef> {
    let seconds = cast(&args[0], &DataType::Int64)?;
    let micros = seconds.as_primitive::<Int64Type>().unary_opt::<_, Int64Type>(|s| s.checked_mul(1_000_000));
    let micros: ArrayRef = Arc::new(micros);
    moments(&cast(&micros, &DataType::Timestamp(TimeUnit::Microsecond, Some(zone(&args[1])?)))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_as_mysql() {
        let mut micros = text::days_from_civil(2024, 2, 29) * DAY + 13 * 3_600_000_000 + 5 * 60_000_000 + 7_000_009;
        let formatted = |micros, format| {
            let mut out = String::new();
            format_moment(micros, format, &mut out).unwrap();
            out
        };
        assert_eq!(formatted(micros, "%Y-%m-%d %H:%i:%s.%f"), "2024-02-29 13:05:07.000009");
        assert_eq!(formatted(micros, "%W %D %b %y, %l:%i %p %% %j %w"), "Thursday 29th Feb 24, 1:05 PM % 060 4");
        assert_eq!(formatted(micros, "%x-%v %T|%r|%q%"), "2024-09 13:05:07|01:05:07 PM|q%");
        micros = text::days_from_civil(2021, 1, 3) * DAY;
        assert_eq!(formatted(micros, "%x-%v %h %k %c/%e %a %M"), "2020-53 12 0 1/3 Sun January");
    }
}
