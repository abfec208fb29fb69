//! How DataFusion plans our queries: tables come from one snapshot, names keep their spelling, arithmetic and types
//! follow MySQL and Doris (`/` is never whole-number division, dividing by zero gives NULL, `DATETIME`, `SIGNED`).

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, SchemaRef, TimeUnit};
use datafusion::catalog::cte_worktable::CteWorkTable;
use datafusion::common::config::ConfigOptions;
use datafusion::common::{DFSchema, DataFusionError, Result, TableReference};
use datafusion::datasource::provider_as_source;
use datafusion::execution::SessionState;
use datafusion::functions::core::expr_fn::nullif;
use datafusion::functions::math::expr_fn::trunc;
use datafusion::logical_expr::planner::{
    ContextProvider, ExprPlanner, PlannerResult, RawBinaryExpr, RelationPlanner, TypePlanner,
};
use datafusion::logical_expr::{
    AggregateUDF, Expr, ExprSchemable, HigherOrderUDF, Operator, ScalarUDF, TableSource, WindowUDF, binary_expr, cast,
    lit, try_cast,
};
use datafusion::sql::sqlparser::ast::{self, BinaryOperator, ExactNumberInfo};

/// What a statement is planned against.
pub(crate) struct Planning<'a> {
    /// Functions and options.
    pub(crate) state: &'a SessionState,
    /// Tables by (database, name) as the statement writes them, bare names under the empty database.
    pub(crate) tables: HashMap<(String, String), Arc<dyn TableSource>>,
    /// The MySQL way of typing.
    pub(crate) types: Arc<dyn TypePlanner>,
}

impl ContextProvider for Planning<'_> {
    fn get_table_source(&self, name: TableReference) -> Result<Arc<dyn TableSource>> {
        let key = (name.schema().unwrap_or_default().to_string(), name.table().to_string());
        self.tables.get(&key).cloned().ok_or_else(|| {
            DataFusionError::External(Box::new(
                freshet_core::Error::not_found(format!("table '{name}' does not exist")).with("table", &name),
            ))
        })
    }

    fn create_cte_work_table(&self, name: &str, schema: SchemaRef) -> Result<Arc<dyn TableSource>> {
        Ok(provider_as_source(Arc::new(CteWorkTable::new(name, schema))))
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        self.state.expr_planners()
    }

    fn get_relation_planners(&self) -> &[Arc<dyn RelationPlanner>] {
        self.state.relation_planners()
    }

    fn get_type_planner(&self) -> Option<Arc<dyn TypePlanner>> {
        Some(Arc::clone(&self.types))
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        self.state.scalar_functions().get(name).cloned()
    }

    fn get_higher_order_meta(&self, name: &str) -> Option<Arc<HigherOrderUDF>> {
        self.state.higher_order_functions().get(name).cloned()
    }

    fn get_aggregate_meta(&self, name: &str) -> Option<Arc<AggregateUDF>> {
        self.state.aggregate_functions().get(name).cloned()
    }

    fn get_window_meta(&self, name: &str) -> Option<Arc<WindowUDF>> {
        self.state.window_functions().get(name).cloned()
    }

    fn get_variable_type(&self, _: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        self.state.config_options()
    }

    fn udf_names(&self) -> Vec<String> {
        self.state.scalar_functions().keys().cloned().collect()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        self.state.higher_order_functions().keys().cloned().collect()
    }

    fn udaf_names(&self) -> Vec<String> {
        self.state.aggregate_functions().keys().cloned().collect()
    }

    fn udwf_names(&self) -> Vec<String> {
        self.state.window_functions().keys().cloned().collect()
    }
}

/// Arithmetic and comparisons as MySQL has them.
#[derive(Debug)]
pub(crate) struct Arithmetic;

impl ExprPlanner for Arithmetic {
    fn plan_binary_op(&self, expr: RawBinaryExpr, schema: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        let type_of = |e: &Expr| e.get_type(schema).unwrap_or(DataType::Null);
        let (left, right) = (type_of(&expr.left), type_of(&expr.right));
        let number = |t: &DataType| t.is_numeric() || *t == DataType::Null || t.is_string();
        let RawBinaryExpr { op, left: l, right: r } = expr;
        Ok(match op {
            BinaryOperator::Divide if number(&left) && number(&right) => {
                let exact = matches!(left, DataType::Decimal128(..)) && !right.is_floating() && !right.is_string()
                    || matches!(right, DataType::Decimal128(..)) && !left.is_floating() && !left.is_string();
                let (l, r) = if exact { (l, r) } else { (cast(l, DataType::Float64), cast(r, DataType::Float64)) };
                let zero = zero_of(&r, schema)?;
                PlannerResult::Planned(binary_expr(l, Operator::Divide, nullif(r, zero)))
            }
            BinaryOperator::Modulo if number(&left) && number(&right) => {
                let (l, r) = if left.is_string() || right.is_string() {
                    (cast(l, DataType::Float64), cast(r, DataType::Float64))
                } else {
                    (l, r)
                };
                let zero = zero_of(&r, schema)?;
                PlannerResult::Planned(binary_expr(l, Operator::Modulo, nullif(r, zero)))
            }
            BinaryOperator::MyIntegerDivide => {
                let whole = |t: &DataType| t.is_integer();
                if whole(&left) && whole(&right) {
                    let r = cast(r, DataType::Int64);
                    let quotient = binary_expr(cast(l, DataType::Int64), Operator::Divide, nullif(r, lit(0_i64)));
                    PlannerResult::Planned(quotient)
                } else {
                    let r = nullif(cast(r, DataType::Float64), lit(0_f64));
                    let quotient = binary_expr(cast(l, DataType::Float64), Operator::Divide, r);
                    PlannerResult::Planned(cast(trunc(vec![quotient]), DataType::Int64))
                }
            }
            // A text in arithmetic is the number that it holds.
            BinaryOperator::Plus | BinaryOperator::Minus | BinaryOperator::Multiply
                if left.is_string() && (right.is_numeric() || right.is_string())
                    || left.is_numeric() && right.is_string() =>
            {
                let side = |e: Expr, t: &DataType| if t.is_string() { try_cast(e, DataType::Float64) } else { e };
                PlannerResult::Original(RawBinaryExpr { op, left: side(l, &left), right: side(r, &right) })
            }
            // A truth value is a number in MySQL: `active = 1`.
            _ if left == DataType::Boolean && right.is_numeric() => {
                PlannerResult::Original(RawBinaryExpr { op, left: cast(l, DataType::Int8), right: r })
            }
            _ if right == DataType::Boolean && left.is_numeric() => {
                PlannerResult::Original(RawBinaryExpr { op, left: l, right: cast(r, DataType::Int8) })
            }
            // A number compared with a text that holds one is compared as a number, not letter by letter.
            _ if is_comparison(&op) && left.is_numeric() && right.is_string() => {
                let r = as_number(r, &left);
                PlannerResult::Original(RawBinaryExpr { op, left: l, right: r })
            }
            _ if is_comparison(&op) && left.is_string() && right.is_numeric() => {
                let l = as_number(l, &right);
                PlannerResult::Original(RawBinaryExpr { op, left: l, right: r })
            }
            _ => PlannerResult::Original(RawBinaryExpr { op, left: l, right: r }),
        })
    }
}

fn zero_of(e: &Expr, schema: &DFSchema) -> Result<Expr> {
    Ok(match e.get_type(schema)? {
        DataType::Float64 | DataType::Float32 => lit(0_f64),
        DataType::Decimal128(p, s) => cast(lit(0_i64), DataType::Decimal128(p.max((s.max(0) as u8) + 1), s)),
        DataType::Null => cast(lit(0_i64), DataType::Int64),
        other => cast(lit(0_i64), other),
    })
}

fn as_number(text: Expr, like: &DataType) -> Expr {
    let target = match like {
        // Whole numbers keep their type where the text is a literal that fits, so that pruning works.
        t if t.is_integer() => match &text {
            Expr::Literal(value, _) if value.to_string().parse::<i64>().is_ok() => DataType::Int64,
            _ => DataType::Float64,
        },
        DataType::Decimal128(..) | DataType::Decimal256(..) => like.clone(),
        _ => DataType::Float64,
    };
    try_cast(text, target)
}

fn is_comparison(op: &BinaryOperator) -> bool {
    matches!(
        op,
        BinaryOperator::Eq
            | BinaryOperator::NotEq
            | BinaryOperator::Lt
            | BinaryOperator::LtEq
            | BinaryOperator::Gt
            | BinaryOperator::GtEq
    )
}

/// The types of `CAST`, as MySQL and Doris name them.
#[derive(Debug)]
pub(crate) struct Types;

impl TypePlanner for Types {
    fn plan_type_field(&self, sql_type: &ast::DataType) -> Result<Option<FieldRef>> {
        use ast::DataType as Sql;
        let planned = match sql_type {
            Sql::Signed | Sql::SignedInteger => DataType::Int64,
            Sql::Unsigned | Sql::UnsignedInteger => DataType::UInt64,
            Sql::Datetime(_) | Sql::Timestamp(_, ast::TimezoneInfo::None) => {
                DataType::Timestamp(TimeUnit::Microsecond, None)
            }
            Sql::Char(_) | Sql::Character(_) | Sql::Varchar(_) | Sql::Text | Sql::String(_) | Sql::Nvarchar(_) => {
                DataType::Utf8
            }
            Sql::LongText | Sql::MediumText | Sql::TinyText | Sql::JSON => DataType::Utf8,
            Sql::Binary(_) | Sql::Varbinary(_) | Sql::Blob(_) => DataType::Binary,
            Sql::MediumInt(_) => DataType::Int32,
            Sql::Decimal(ExactNumberInfo::None) | Sql::Dec(ExactNumberInfo::None) => DataType::Decimal128(38, 9),
            Sql::Custom(name, _) => match name.to_string().to_uppercase().as_str() {
                "LARGEINT" => DataType::Decimal128(38, 0),
                "STRING" => DataType::Utf8,
                "DATETIMEV2" => DataType::Timestamp(TimeUnit::Microsecond, None),
                "DATEV2" => DataType::Date32,
                _ => return Ok(None),
            },
            _ => return Ok(None),
        };
        Ok(Some(Arc::new(Field::new("", planned, true))))
    }
}
