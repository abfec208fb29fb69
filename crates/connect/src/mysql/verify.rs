//! Rows as text that the server renders, for `verify`: a way to the values that shares no decoder with copy and stream.

use std::sync::Arc;

use freshet_core::schema::quote_name;
use freshet_core::{BatchStream, KeyRange, Result, TableSchema};

use super::MySql;
use super::discover::definition;
use super::key::{Key, text_expression};
use super::range::RangeStream;
use super::text_values::{Canonical, RowDecoder, TextBatches, table_changed};
use super::types::MysqlType;
use super::wire::Connection;

impl MySql {
    /// With a key in its order, by statements that are open for seconds only.
    pub(super) async fn canonical_rows(
        &self,
        table: &Arc<TableSchema>,
        range: &KeyRange,
    ) -> Result<Box<dyn BatchStream>> {
        Ok(match table.has_key() {
            true => Box::new(RangeStream::text(self, table, range).await?),
            // A multiset: without an order there is no place at which another statement could go on.
            false => {
                let (columns, how) = rendered(table)?;
                let sql = format!("SELECT {columns} FROM {} AS t", table.name.quoted());
                Box::new(self.rendered_batches(self.session().await?, table, &sql, how).await?)
            }
        })
    }

    /// Selects the rows of a range as text, in key order; and whether the key of any row can be the bound of a range.
    pub(super) async fn select_text(&self, table: &Arc<TableSchema>, range: &KeyRange) -> Result<(TextBatches, bool)> {
        let mut c = self.session().await?;
        let (columns, how) = rendered(table)?;
        let index = definition(&mut c, &table.name).await?.and_then(|d| d.key_index);
        let key = Key::of(table, index.as_deref())?;
        let sql = key.select(&columns, range)?;
        Ok((self.rendered_batches(c, table, &sql, how).await?, key.is_ordered()))
    }

    async fn rendered_batches(
        &self,
        c: Connection,
        table: &Arc<TableSchema>,
        sql: &str,
        how: Vec<Canonical>,
    ) -> Result<TextBatches> {
        let rows = c.into_stream(sql).await.map_err(|e| table_changed(e).with("table", &table.name))?;
        let decoder = RowDecoder::canonical(table, how, self.address.decode);
        Ok(TextBatches { rows, decoder, table: Arc::clone(table) })
    }
}

/// The table's columns as a statement selects them from `t`, and what makes canonical text of each.
fn rendered(table: &TableSchema) -> Result<(String, Vec<Canonical>)> {
    let (mut columns, mut how) = (Vec::new(), Vec::new());
    for column in &table.columns {
        let of = MysqlType::parse(&column.source_type)
            .map_err(|e| e.with("column", &column.name).with("table", &table.name))?;
        columns.push(text_expression(&format!("t.{}", quote_name(&column.name)), &of));
        how.push(rendering(&of));
    }
    Ok((columns.join(", "), how))
}

fn rendering(of: &MysqlType) -> Canonical {
    match of {
        MysqlType::TinyInt { .. }
        | MysqlType::SmallInt { .. }
        | MysqlType::MediumInt { .. }
        | MysqlType::Int { .. }
        | MysqlType::BigInt { .. }
        | MysqlType::Decimal { .. }
        | MysqlType::Year => Canonical::Number,
        MysqlType::Float | MysqlType::Double => Canonical::Float,
        MysqlType::Date | MysqlType::DateTime { .. } | MysqlType::Timestamp { .. } => Canonical::Date,
        _ => Canonical::Same,
    }
}
