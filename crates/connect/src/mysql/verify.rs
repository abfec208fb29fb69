//! Rows as text that the server renders, for `verify`: a way to the values that shares no decoder with copy and stream.

use std::sync::Arc;

use freshet_core::schema::quote_name;
use freshet_core::{BatchStream, Error, KeyRange, Result, TableSchema};

use super::MySql;
use super::discover::definition;
use super::key::{Key, text_expression};
use super::text_values::{Canonical, RowDecoder, TextBatches, table_changed};
use super::types::MysqlType;

impl MySql {
    pub(super) async fn canonical_rows(
        &self,
        table: &Arc<TableSchema>,
        range: &KeyRange,
    ) -> Result<Box<dyn BatchStream>> {
        let mut c = self.session().await?;
        let context = |e: Error| table_changed(e).with("table", &table.name);
        let (mut columns, mut how) = (Vec::new(), Vec::new());
        for column in &table.columns {
            let of = MysqlType::parse(&column.source_type).map_err(|e| context(e.with("column", &column.name)))?;
            columns.push(text_expression(&format!("t.{}", quote_name(&column.name)), &of));
            how.push(rendering(&of));
        }
        let columns = columns.join(", ");
        let sql = match table.has_key() {
            true => {
                let index = definition(&mut c, &table.name).await?.and_then(|d| d.key_index);
                Key::of(table, index.as_deref())?.select(&columns, range)?
            }
            // A multiset: the order means nothing, and there are no ranges.
            false => format!("SELECT {columns} FROM {} AS t", table.name.quoted()),
        };
        let rows = c.into_stream(&sql).await.map_err(context)?;
        let decoder = RowDecoder::canonical(table, how, self.address.decode);
        Ok(Box::new(TextBatches { rows, decoder, table: Arc::clone(table) }))
    }
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
