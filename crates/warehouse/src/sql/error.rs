//! Errors between DataFusion, sqlparser and the MySQL protocol: what DataFusion reports becomes a Freshet error with a
//! hint, and every Freshet error has one of MySQL's numbers.

use arrow::error::ArrowError;
use datafusion::common::{DataFusionError, SchemaError};
use freshet_core::{Error, ErrorKind};

/// MySQL's error number and SQLSTATE of an error. What a context names first, or the first word of the message, decides
/// between errors of one kind.
pub fn mysql_error(error: &Error) -> (u16, &'static str) {
    let about = |name: &str| {
        error.context.first().is_some_and(|(k, _)| k == name) || error.message.starts_with(&format!("{name} "))
    };
    match error.kind {
        ErrorKind::NotFound if about("column") => (1054, "42S22"),
        ErrorKind::NotFound if about("table") => (1146, "42S02"),
        ErrorKind::NotFound if about("database") => (1049, "42000"),
        ErrorKind::NotFound if about("function") => (1305, "42000"),
        ErrorKind::NotFound if about("variable") => (1193, "HY000"),
        ErrorKind::AlreadyExists if about("column") => (1060, "42S21"),
        ErrorKind::AlreadyExists if about("table") => (1050, "42S01"),
        ErrorKind::AlreadyExists if about("database") => (1007, "HY000"),
        ErrorKind::Config if about("near") => (1064, "42000"),
        ErrorKind::Config if about("no database") => (1046, "3D000"),
        ErrorKind::Config if about("variable") => (1231, "42000"),
        ErrorKind::Config if about("the query needs more memory") => (1041, "HY000"),
        ErrorKind::Data if about("value too long") => (1406, "22001"),
        ErrorKind::Data if about("value out of range") => (1264, "22003"),
        ErrorKind::Data if about("a value does not fit") || about("value is no JSON:") => (1366, "HY000"),
        ErrorKind::Data if error.message.ends_with("cannot be NULL") => (1048, "23000"),
        ErrorKind::Permission => (1045, "28000"),
        _ => (1105, "HY000"),
    }
}

/// What DataFusion reports as an error of ours; `names` are the columns in reach, for "did you mean".
pub(crate) fn from_datafusion<'n>(error: DataFusionError, names: impl Iterator<Item = &'n str>) -> Error {
    match error {
        DataFusionError::External(inner) => match inner.downcast::<Error>() {
            Ok(ours) => *ours,
            Err(other) => match other.downcast::<DataFusionError>() {
                Ok(inner) => from_datafusion(*inner, names),
                Err(other) => Error::internal("a query failed").because(other),
            },
        },
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => from_datafusion(*inner, names),
        DataFusionError::Shared(inner) => match std::sync::Arc::try_unwrap(inner) {
            Ok(inner) => from_datafusion(inner, names),
            Err(shared) => match shared.find_root() {
                DataFusionError::ResourcesExhausted(text) => out_of_memory(text),
                root => Error::data(first_line(&root.to_string())),
            },
        },
        DataFusionError::SchemaError(inner, _) => from_schema_error(*inner, names),
        DataFusionError::Plan(text) => from_plan(&text),
        DataFusionError::NotImplemented(text) => Error::unsupported(first_line(&text)),
        DataFusionError::SQL(inner, _) => Error::config("the statement cannot be parsed").with("near", inner),
        DataFusionError::ResourcesExhausted(text) => out_of_memory(&text),
        DataFusionError::ArrowError(inner, _) => from_arrow(*inner),
        DataFusionError::ParquetError(inner) => {
            Error::corrupt("a segment cannot be read").because(inner).hint("check the disk and restore the file")
        }
        DataFusionError::ObjectStore(inner) => Error::io("a segment cannot be read").because(inner),
        DataFusionError::IoError(inner) => Error::io("a file cannot be read or written").because(inner),
        DataFusionError::Execution(text) => Error::data(first_line(&text)),
        other => Error::internal("a query failed").because(first_line(&other.to_string())),
    }
}

fn out_of_memory(text: &str) -> Error {
    let line = first_line(text);
    let cause = line.split_once(" with top memory consumers").map_or(line.as_str(), |(cause, _)| cause);
    Error::config("the query needs more memory than it may have")
        .because(cause)
        .hint("select fewer rows or columns, or start Freshet with a larger --query-memory")
}

fn from_arrow(error: ArrowError) -> Error {
    match error {
        ArrowError::ExternalError(inner) => match inner.downcast::<Error>() {
            Ok(ours) => *ours,
            Err(other) => match other.downcast::<DataFusionError>() {
                Ok(inner) => from_datafusion(*inner, std::iter::empty()),
                Err(other) => Error::internal("a query failed").because(other),
            },
        },
        ArrowError::ParquetError(text) => Error::corrupt("a segment cannot be read").because(first_line(&text)),
        other => Error::data(first_line(&other.to_string())),
    }
}

fn from_schema_error<'n>(error: SchemaError, names: impl Iterator<Item = &'n str>) -> Error {
    match error {
        SchemaError::FieldNotFound { field, valid_fields } => {
            let e = Error::not_found(format!("unknown column '{}'", field.name)).with("column", &field.name);
            let valid: Vec<&str> = valid_fields.iter().map(|c| c.name.as_str()).collect();
            let near = match valid.is_empty() {
                true => super::nearest(&field.name, names),
                false => super::nearest(&field.name, valid.iter().copied()),
            };
            match near {
                Some(near) => e.hint(format!("did you mean {near}?")),
                None if valid.is_empty() => e,
                None => e.hint(format!("the columns are {}", valid.join(", "))),
            }
        }
        SchemaError::AmbiguousReference { field } => {
            Error::config(format!("column '{}' is ambiguous", field.name)).hint("write the table's name in front of it")
        }
        other => Error::config(first_line(&other.to_string())),
    }
}

fn from_plan(text: &str) -> Error {
    if let Some(name) = text.strip_prefix("Invalid function '").and_then(|rest| rest.split('\'').next()) {
        let e = Error::not_found(format!("function {name} does not exist")).with("function", name);
        return match text.split_once("Did you mean '").and_then(|(_, rest)| rest.split('\'').next()) {
            Some(near) if freshet_core::nearest::distance(name, near) <= 2 => e.hint(format!("did you mean {near}?")),
            _ => e,
        };
    }
    Error::config(first_line(text))
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim_end_matches('.').to_string()
}
