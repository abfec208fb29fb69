//! Values of generated rows, their Arrow columns and, written independently of those, their canonical text.

use std::sync::Arc;

use arrow::array::*;
use freshet_core::{DataType, Error, Result, TableSchema, text};

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Null,
    /// Any integer.
    Int(i64),
    /// Hundredths.
    Cents(i64),
    Double(f64),
    /// Days since 1970.
    Day(i64),
    /// Microseconds since 1970.
    Micros(i64),
    Bool(bool),
    Text(String),
}

impl Value {
    /// The integer; 0 for anything else.
    pub(super) fn int(&self) -> i64 {
        match self {
            Value::Int(n) => *n,
            _ => 0,
        }
    }

    /// The canonical text.
    pub(super) fn text(&self, data_type: &DataType) -> Option<String> {
        let mut out = String::new();
        match self {
            Value::Null => return None,
            Value::Int(n) => out = n.to_string(),
            Value::Cents(n) => {
                let sign = if *n < 0 { "-" } else { "" };
                out = format!("{sign}{}.{:02}", n.abs() / 100, n.abs() % 100);
            }
            Value::Double(n) => out = format!("{n:e}"),
            Value::Bool(b) => out.push(if *b { '1' } else { '0' }),
            Value::Day(day) => text::date(*day, &mut out),
            Value::Micros(micros) => {
                let digits = match data_type {
                    DataType::DateTime { digits } | DataType::Timestamp { digits } => *digits,
                    _ => 6,
                };
                text::date_time(*micros, digits, &mut out);
            }
            Value::Text(text) => out.clone_from(text),
        }
        Some(out)
    }
}

/// The columns of a batch while they are built. The values' types are those of the schema; another one becomes NULL,
/// which the tests would see.
pub(super) struct Columns(Vec<Column>);

enum Column {
    Int16(Int16Builder),
    Int32(Int32Builder),
    Int64(Int64Builder),
    UInt8(UInt8Builder),
    Decimal(Decimal128Builder),
    Double(Float64Builder),
    Date(Date32Builder),
    Micros(TimestampMicrosecondBuilder),
    Bool(BooleanBuilder),
    Text(StringBuilder),
}

impl Columns {
    /// Empty columns of that table.
    pub(super) fn new(schema: &TableSchema) -> Columns {
        let column = |data_type: &DataType| match data_type {
            DataType::Int16 => Column::Int16(Int16Builder::new()),
            DataType::Int32 => Column::Int32(Int32Builder::new()),
            DataType::Int64 => Column::Int64(Int64Builder::new()),
            DataType::UInt8 => Column::UInt8(UInt8Builder::new()),
            DataType::Decimal { .. } => Column::Decimal(Decimal128Builder::new().with_data_type(data_type.to_arrow())),
            DataType::Float64 => Column::Double(Float64Builder::new()),
            DataType::Date => Column::Date(Date32Builder::new()),
            DataType::DateTime { .. } | DataType::Timestamp { .. } => {
                Column::Micros(TimestampMicrosecondBuilder::new().with_data_type(data_type.to_arrow()))
            }
            DataType::Boolean => Column::Bool(BooleanBuilder::new()),
            _ => Column::Text(StringBuilder::new()),
        };
        Columns(schema.columns.iter().map(|c| column(&c.data_type)).collect())
    }

    /// Appends a row.
    pub(super) fn push(&mut self, row: Vec<Value>) {
        for (column, value) in self.0.iter_mut().zip(row) {
            match (column, value) {
                (Column::Int16(b), Value::Int(n)) => b.append_option(i16::try_from(n).ok()),
                (Column::Int32(b), Value::Int(n)) => b.append_option(i32::try_from(n).ok()),
                (Column::Int64(b), Value::Int(n)) => b.append_value(n),
                (Column::UInt8(b), Value::Int(n)) => b.append_option(u8::try_from(n).ok()),
                (Column::Decimal(b), Value::Cents(n)) => b.append_value(i128::from(n)),
                (Column::Double(b), Value::Double(n)) => b.append_value(n),
                (Column::Date(b), Value::Day(n)) => b.append_option(i32::try_from(n).ok()),
                (Column::Micros(b), Value::Micros(n)) => b.append_value(n),
                (Column::Bool(b), Value::Bool(v)) => b.append_value(v),
                (Column::Text(b), Value::Text(t)) => b.append_value(t),
                (column, _) => column.append_null(),
            }
        }
    }

    /// The arrays.
    ///
    /// # Errors
    /// `Internal` when a decimal has more digits than its type.
    pub(super) fn finish(self) -> Result<Vec<ArrayRef>> {
        self.0.into_iter().map(Column::finish).collect()
    }
}

/// The same for every kind of builder.
macro_rules! each {
    ($column:expr, $b:ident => $body:expr) => {
        match $column {
            Column::Int16($b) => $body,
            Column::Int32($b) => $body,
            Column::Int64($b) => $body,
            Column::UInt8($b) => $body,
            Column::Decimal($b) => $body,
            Column::Double($b) => $body,
            Column::Date($b) => $body,
            Column::Micros($b) => $body,
            Column::Bool($b) => $body,
            Column::Text($b) => $body,
        }
    };
}

impl Column {
    fn append_null(&mut self) {
        each!(self, b => b.append_null());
    }

    fn finish(self) -> Result<ArrayRef> {
        if let Column::Decimal(mut b) = self {
            let array = b.finish();
            array
                .validate_decimal_precision(array.precision())
                .map_err(|e| Error::internal("a generated number does not fit its type").because(e))?;
            return Ok(Arc::new(array));
        }
        Ok(each!(self, mut_b => { let mut b = mut_b; Arc::new(b.finish()) as ArrayRef }))
    }
}
