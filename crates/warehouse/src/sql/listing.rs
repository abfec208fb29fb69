//! Small tables built row by row: what SHOW and `information_schema` answer.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use freshet_core::{Error, Result};

/// Rows of texts and whole numbers under fixed names.
#[derive(Debug, Clone)]
pub(crate) struct Listing {
    columns: Vec<(String, bool)>,
    rows: Vec<Vec<Option<String>>>,
}

impl Listing {
    /// Without rows yet; a name that ends in `#` is a column of whole numbers (the sign is no part of the name).
    pub(crate) fn new<S: AsRef<str>>(columns: &[S]) -> Self {
        let columns = columns
            .iter()
            .map(|c| match c.as_ref().strip_suffix('#') {
                Some(name) => (name.to_string(), true),
                None => (c.as_ref().to_string(), false),
            })
            .collect();
        Listing { columns, rows: Vec::new() }
    }

    /// Adds a row; missing values at its end are NULL.
    pub(crate) fn row(&mut self, values: Vec<Option<String>>) {
        let mut values = values;
        values.resize(self.columns.len(), None);
        self.rows.push(values);
    }

    /// Adds a row without NULLs.
    pub(crate) fn texts<S: AsRef<str>>(&mut self, values: &[S]) {
        self.row(values.iter().map(|v| Some(v.as_ref().to_string())).collect());
    }

    /// Keeps the rows whose value in that column fits a `LIKE` pattern.
    pub(crate) fn keep_like(&mut self, column: usize, pattern: &str) {
        self.rows.retain(|r| r[column].as_deref().is_some_and(|v| is_like(v, pattern)));
    }

    /// Sorts by the first column.
    pub(crate) fn sort(&mut self) {
        self.rows.sort_by(|a, b| a.first().cmp(&b.first()));
    }

    /// Names and types.
    pub(crate) fn schema(&self) -> SchemaRef {
        let fields: Vec<_> = self
            .columns
            .iter()
            .map(|(name, number)| Field::new(name, if *number { DataType::Int64 } else { DataType::Utf8 }, true))
            .collect();
        Arc::new(Schema::new(fields))
    }

    /// As a batch.
    ///
    /// # Errors
    /// `Internal` when a value is not of its column's type.
    pub(crate) fn batch(&self) -> Result<RecordBatch> {
        let column = |i: usize| -> ArrayRef {
            let values = self.rows.iter().map(|r| r[i].as_deref());
            match self.columns[i].1 {
                true => Arc::new(values.map(|v| v.and_then(|v| v.parse().ok())).collect::<Int64Array>()),
                false => Arc::new(values.collect::<StringArray>()),
            }
        };
        let arrays = (0..self.columns.len()).map(column).collect();
        RecordBatch::try_new(self.schema(), arrays).map_err(|e| Error::internal("cannot build a listing").because(e))
    }
}

/// MySQL's `LIKE` without case: `%` any text, `_` any character, `\` escapes.
pub(crate) fn is_like(text: &str, pattern: &str) -> bool {
    let text: Vec<char> = text.to_lowercase().chars().collect();
    let mut parts = Vec::new();
    let mut chars = pattern.chars().flat_map(char::to_lowercase);
    while let Some(c) = chars.next() {
        parts.push(match c {
            '%' => Part::Any,
            '_' => Part::One,
            '\\' => Part::Just(chars.next().unwrap_or('\\')),
            c => Part::Just(c),
        });
    }
    // Greedy with one place to come back to: the last `%` and where it was tried.
    let (mut t, mut p, mut back) = (0, 0, None);
    while t < text.len() {
        match parts.get(p) {
            Some(Part::Any) => {
                back = Some((p, t));
                p += 1;
            }
            Some(Part::One) => (t, p) = (t + 1, p + 1),
            Some(Part::Just(c)) if *c == text[t] => (t, p) = (t + 1, p + 1),
            _ => match back {
                Some((any, from)) => {
                    back = Some((any, from + 1));
                    (t, p) = (from + 1, any + 1);
                }
                None => return false,
            },
        }
    }
    parts[p..].iter().all(|part| matches!(part, Part::Any))
}

enum Part {
    Any,
    One,
    Just(char),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn like() {
        for (text, pattern, fits) in [
            ("orders", "ord%", true),
            ("orders", "ORD__S", true),
            ("orders", "%d%s", true),
            ("orders", "d%", false),
            ("a_b", "a\\_b", true),
            ("axb", "a\\_b", false),
            ("", "%", true),
            ("", "_", false),
            ("aab", "%ab", true),
        ] {
            assert_eq!(is_like(text, pattern), fits, "{text} like {pattern}");
        }
    }
}
