//! A table of one snapshot for DataFusion: a Parquet scan over its segments, with what is deleted as row selections
//! inside the scan (so that page indexes, bloom filters and late materialisation go on working), and the delta from
//! memory. Segments name their columns by id: an adapter fills the defaults of columns that a segment is too old to
//! have, and widens types. Statistics say only what is certainly true.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::compute::cast;
use arrow::datatypes::{DataType as Arrow, Field, Schema, SchemaRef, TimeUnit};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::config::ConfigOptions;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{DataFusionError, Result, ScalarValue, Statistics};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::object_store::ObjectStoreUrl;
use datafusion::datasource::physical_plan::parquet::{ParquetAccessPlan, RowGroupAccess};
use datafusion::datasource::physical_plan::{
    FileGroup, FileScanConfigBuilder, ParquetFileReaderFactory, ParquetSource,
};
use datafusion::datasource::source::DataSourceExec;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TableProviderFilterPushDown,
    TableType, Volatility,
};
use datafusion::physical_expr::ScalarFunctionExpr;
use datafusion::physical_expr::expressions::{CastExpr, Column, lit};
use datafusion::physical_expr_adapter::{PhysicalExprAdapter, PhysicalExprAdapterFactory};
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};
use freshet_core::DataType;
use parquet::arrow::arrow_reader::RowSelection;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::file::metadata::ParquetMetaData;

use super::TYPE_KEY;
use super::prune::{self, Chosen};
use super::types::declared;
use crate::catalog::{Table, TableColumn};
use crate::storage::value::{self, Stored};
use crate::{SegmentReader, SegmentView, TableView};

/// A table as a statement sees it.
pub(crate) struct SnapshotTable {
    view: Arc<TableView>,
    /// The user's names.
    schema: SchemaRef,
    /// The same under the names that segments use.
    stored: SchemaRef,
    zone: String,
}

impl fmt::Debug for SnapshotTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SnapshotTable({})", self.view.table.name)
    }
}

impl SnapshotTable {
    /// A table for a session in this time zone: instants have it in their type.
    pub(crate) fn new(view: &Arc<TableView>, zone: &str) -> Self {
        let (mut named, mut stored) = (Vec::new(), Vec::new());
        for (i, column) in view.table.columns.iter().enumerate() {
            let in_key = i < view.table.key_columns;
            let metadata = HashMap::from([(TYPE_KEY.to_string(), declared(column, in_key))]);
            let field = Field::new(&column.name, query_type(&column.data_type, zone), !in_key || column.nullable);
            let field = field.with_metadata(metadata);
            stored.push(field.clone().with_name(column.stored_name()));
            named.push(field);
        }
        SnapshotTable {
            view: Arc::clone(view),
            schema: Arc::new(Schema::new(named)),
            stored: Arc::new(Schema::new(stored)),
            zone: zone.to_string(),
        }
    }
}

/// The Arrow type of a column in a query.
fn query_type(data_type: &DataType, zone: &str) -> Arrow {
    match data_type.to_arrow() {
        Arrow::Timestamp(TimeUnit::Microsecond, Some(_)) => Arrow::Timestamp(TimeUnit::Microsecond, Some(zone.into())),
        other => other,
    }
}

#[async_trait]
impl TableProvider for SnapshotTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        // DataFusion pushes them into the Parquet scan itself, and keeps them above the delta.
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let columns: Vec<usize> = projection.cloned().unwrap_or_else(|| (0..self.schema.fields().len()).collect());
        let mut parts: Vec<Arc<dyn ExecutionPlan>> = Vec::new();
        let wanted = prune::wanted(&self.view.table, filters, |t| query_type(t, &self.zone));
        let segments = prune::choose(&self.view, wanted.as_ref()).map_err(external)?;
        if !segments.is_empty() {
            parts.push(self.segments(segments, state.config().target_partitions(), &columns, limit)?);
        }
        let delta = self.view.delta().map_err(external)?;
        if !delta.is_empty() {
            parts.push(self.delta(&delta, &columns)?);
        }
        match parts.len() {
            0 => Ok(Arc::new(EmptyExec::new(Arc::new(self.schema.project(&columns)?)))),
            1 => Ok(parts.remove(0)),
            _ => UnionExec::try_new(parts),
        }
    }
}

fn external(error: freshet_core::Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

impl SnapshotTable {
    fn segments(
        &self,
        mut segments: Vec<Chosen<'_>>,
        partitions: usize,
        columns: &[usize],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let n = partitions.clamp(1, segments.len());
        let mut groups: Vec<Vec<PartitionedFile>> = vec![Vec::new(); n];
        let rows = |c: &Chosen<'_>| c.rows.as_ref().map_or(c.segment.live_rows(), |rows| rows.len() as u64);
        let total = usize::try_from(segments.iter().map(rows).sum::<u64>()).unwrap_or(usize::MAX);
        let all = self.view.segments.iter().map(SegmentView::live_rows).sum::<u64>();
        // Exact only as the live rows of the whole: COUNT(*) is answered from it.
        let num_rows = if total as u64 == all { Precision::Exact(total) } else { Precision::Inexact(total) };
        // The largest first, so that the groups end up about equal.
        segments.sort_by_key(|c| std::cmp::Reverse(rows(c)));
        for (i, chosen) in segments.iter().enumerate() {
            groups[i % n].push(partitioned_file(chosen)?);
        }
        let statistics = Statistics { num_rows, ..Statistics::new_unknown(&self.stored) };
        let source = ParquetSource::new(Arc::clone(&self.stored))
            .with_parquet_file_reader_factory(Arc::new(SegmentReaders))
            .with_pushdown_filters(true)
            .with_reorder_filters(true)
            .with_enable_page_index(true)
            .with_bloom_filter_on_read(true);
        let config = FileScanConfigBuilder::new(ObjectStoreUrl::local_filesystem(), Arc::new(source))
            .with_file_groups(groups.into_iter().map(FileGroup::new).collect())
            .with_statistics(statistics)
            .with_projection_indices(Some(columns.to_vec()))?
            .with_limit(limit)
            .with_expr_adapter(Some(Arc::new(SegmentAdapters { table: Arc::clone(&self.view.table) })))
            .build();
        let scan: Arc<dyn ExecutionPlan> = DataSourceExec::from_data_source(config);
        // Back to the user's names; the optimiser merges this into the scan.
        let renamed = columns.iter().enumerate().map(|(to, from)| {
            let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(self.stored.field(*from).name(), to));
            (column, self.schema.field(*from).name().clone())
        });
        Ok(Arc::new(ProjectionExec::try_new(renamed.collect::<Vec<_>>(), scan)?))
    }

    fn delta(&self, delta: &[RecordBatch], columns: &[usize]) -> Result<Arc<dyn ExecutionPlan>> {
        let schema: SchemaRef = Arc::new(self.schema.project(columns)?);
        let mut batches = Vec::with_capacity(delta.len());
        for batch in delta {
            let column = |(to, from): (usize, &usize)| -> Result<ArrayRef> {
                let (array, wanted) = (batch.column(*from), schema.field(to).data_type());
                // Only the zone of an instant can differ.
                if array.data_type() == wanted { Ok(Arc::clone(array)) } else { Ok(cast(array, wanted)?) }
            };
            let arrays = columns.iter().enumerate().map(column).collect::<Result<Vec<_>>>()?;
            let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
            batches.push(RecordBatch::try_new_with_options(Arc::clone(&schema), arrays, &options)?);
        }
        Ok(MemorySourceConfig::try_new_exec(&[batches], schema, None)?)
    }
}

/// A segment as a file of a scan: where it is, how it is read, what of it is live.
fn partitioned_file(chosen: &Chosen<'_>) -> Result<PartitionedFile> {
    let segment = chosen.segment;
    let reader = segment.open().map_err(external)?;
    // The path is only a name for people here: the reader has the file open.
    let path = segment.segment.data_path();
    let mut file = PartitionedFile::new(path.to_string_lossy().trim_start_matches('/'), reader.bytes());
    if chosen.rows.is_some() || !segment.deletes.is_empty() {
        let metadata = reader.metadata().map_err(external)?;
        file = file.with_extension(match &chosen.rows {
            Some(rows) => access_rows(rows, &metadata),
            None => access_live(segment, &metadata),
        });
    }
    Ok(file.with_extension(reader))
}

/// These rows, ascending.
fn access_rows(rows: &[u32], metadata: &ParquetMetaData) -> ParquetAccessPlan {
    let (mut rest, mut first) = (rows, 0_u32);
    let groups = metadata.row_groups().iter().map(|group| {
        let size = u32::try_from(group.num_rows()).unwrap_or(u32::MAX);
        let (here, behind) = rest.split_at(rest.partition_point(|r| *r < first.saturating_add(size)));
        let ranges = here.iter().map(|r| (r - first) as usize..(r - first) as usize + 1);
        let selection = RowSelection::from_consecutive_ranges(ranges, size as usize);
        (rest, first) = (behind, first.saturating_add(size));
        if here.is_empty() { RowGroupAccess::Skip } else { RowGroupAccess::Selection(selection) }
    });
    ParquetAccessPlan::new(groups.collect())
}

/// The rows of each row group that are not deleted.
fn access_live(segment: &SegmentView, metadata: &ParquetMetaData) -> ParquetAccessPlan {
    let mut first = 0_u32;
    let groups = metadata.row_groups().iter().map(|group| {
        let rows = u32::try_from(group.num_rows()).unwrap_or(u32::MAX);
        let end = first.saturating_add(rows);
        let gone = segment.deletes.range_cardinality(first..end);
        let access = match gone {
            0 => RowGroupAccess::Scan,
            n if n == u64::from(rows) => RowGroupAccess::Skip,
            _ => RowGroupAccess::Selection(live_selection(segment, first, end)),
        };
        first = end;
        access
    });
    ParquetAccessPlan::new(groups.collect())
}

fn live_selection(segment: &SegmentView, first: u32, end: u32) -> RowSelection {
    let mut ranges: Vec<Range<usize>> = Vec::new();
    let mut at = first;
    for gone in segment.deletes.range(first..end) {
        if gone > at {
            ranges.push((at - first) as usize..(gone - first) as usize);
        }
        at = gone + 1;
    }
    if at < end {
        ranges.push((at - first) as usize..(end - first) as usize);
    }
    RowSelection::from_consecutive_ranges(ranges.into_iter(), (end - first) as usize)
}

/// Opens segments: the scan's files carry their readers.
#[derive(Debug)]
struct SegmentReaders;

impl ParquetFileReaderFactory for SegmentReaders {
    fn create_reader(
        &self,
        _partition: usize,
        file: PartitionedFile,
        _hint: Option<usize>,
        _metrics: &ExecutionPlanMetricsSet,
    ) -> Result<Box<dyn AsyncFileReader + Send>> {
        let reader = file.extension::<SegmentReader>();
        let reader = reader.ok_or_else(|| DataFusionError::Internal("a scanned file is not a segment".into()))?;
        Ok(Box::new(reader.clone()))
    }
}

/// Fits expressions over the table to a segment: columns that came later hold what they were filled with, columns whose
/// type changed are converted.
#[derive(Debug)]
struct SegmentAdapters {
    table: Arc<Table>,
}

impl PhysicalExprAdapterFactory for SegmentAdapters {
    fn create(&self, table: SchemaRef, segment: SchemaRef) -> Result<Arc<dyn PhysicalExprAdapter>> {
        let mut columns = HashMap::new();
        for column in &self.table.columns {
            let name = column.stored_name();
            if let Ok(field) = table.field_with_name(&name) {
                columns.insert(name, stored_expression(column, field.data_type(), &segment)?);
            }
        }
        Ok(Arc::new(SegmentAdapter { columns }))
    }
}

/// A column of the table in terms of a segment's columns.
fn stored_expression(column: &TableColumn, to: &Arrow, segment: &SchemaRef) -> Result<Arc<dyn PhysicalExpr>> {
    let name = |id: u32| format!("c{id}");
    let read =
        |id: u32| -> Result<Arc<dyn PhysicalExpr>> { Ok(Arc::new(Column::new_with_schema(&name(id), segment)?)) };
    let stored = value::stored_as(column, |id| segment.index_of(&name(id)).is_ok());
    let expr = match stored {
        Stored::AsIs(id) => read(id)?,
        Stored::Converted(id, from) => converted(read(id)?, from, &column.data_type, segment)?,
        Stored::Filled => {
            let filled = value::filled(column, 1).map_err(external)?;
            lit(ScalarValue::try_from_array(&cast(&filled, to)?, 0)?)
        }
    };
    if expr.data_type(segment)? == *to { Ok(expr) } else { Ok(Arc::new(CastExpr::new(expr, to.clone(), None))) }
}

/// Numbers widen by a cast, which DataFusion can prune through; what becomes text is rendered.
fn converted(
    expr: Arc<dyn PhysicalExpr>,
    from: &DataType,
    to: &DataType,
    segment: &SchemaRef,
) -> Result<Arc<dyn PhysicalExpr>> {
    let text = |t: &DataType| matches!(t, DataType::String { .. } | DataType::Json);
    if !text(to) || text(from) {
        return Ok(Arc::new(CastExpr::new(expr, to.to_arrow(), None)));
    }
    let function = ScalarUDF::from(Convert::new(from.clone(), to.clone()));
    let config = Arc::new(ConfigOptions::default());
    Ok(Arc::new(ScalarFunctionExpr::try_new(Arc::new(function), vec![expr], segment, config)?))
}

#[derive(Debug)]
struct SegmentAdapter {
    columns: HashMap<String, Arc<dyn PhysicalExpr>>,
}

impl PhysicalExprAdapter for SegmentAdapter {
    fn rewrite(&self, expr: Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>> {
        // Downwards, and what was put in is not looked at again: its columns are the segment's.
        expr.transform_down(|e| match e.downcast_ref::<Column>().and_then(|c| self.columns.get(c.name())) {
            Some(stored) => {
                Ok(Transformed::new(Arc::clone(stored), true, datafusion::common::tree_node::TreeNodeRecursion::Jump))
            }
            None => Ok(Transformed::no(e)),
        })
        .data()
    }
}

/// The conversion of a column whose type changed, as a function for DataFusion.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Convert {
    from: DataType,
    to: DataType,
    signature: Signature,
}

impl Convert {
    fn new(from: DataType, to: DataType) -> Self {
        Convert { from, to, signature: Signature::any(1, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for Convert {
    fn name(&self) -> &str {
        "freshet_convert"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[Arrow]) -> Result<Arrow> {
        Ok(self.to.to_arrow())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let array = args.args[0].to_array(args.number_rows)?;
        Ok(ColumnarValue::Array(value::convert(&array, &self.from, &self.to).map_err(external)?))
    }
}
