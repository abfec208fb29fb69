//! One query from text to batches: parse, gather the tables it reads from one snapshot, rewrite MySQL's ways, plan and
//! run in DataFusion, and name the answer's columns as MySQL would.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion::common::DataFusionError;
use datafusion::datasource::{MemTable, provider_as_source};
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::MemoryPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::{SendableRecordBatchStream, SessionState, SessionStateBuilder};
use datafusion::logical_expr::{LogicalPlan, TableSource};
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::sql::planner::{ParserOptions, SqlToRel};
use datafusion::sql::sqlparser::ast::Statement;
use datafusion::sql::sqlparser::parser::Parser;
use freshet_core::{Error, Result, TableName};
use futures::StreamExt;

use super::dialect::DorisDialect;
use super::error::from_datafusion;
use super::lexer::{Lexed, Token, lex, syntax_error};
use super::planner::{Planning, Types};
use super::rewrite::{self, Spellings, Surroundings};
use super::scan::SnapshotTable;
use super::threads::Threads;
use super::{Outcome, RowStream, Session, information_schema};
use crate::Snapshot;

/// Brackets and operators nested deeper than this are refused instead of exhausting the stack.
const DEPTH: usize = 100;

/// A query ready to run.
pub(crate) struct Planned {
    state: SessionState,
    plan: LogicalPlan,
    names: Vec<Option<String>>,
    spellings: Spellings,
}

/// Parses one statement in our dialect.
///
/// # Errors
/// A syntax error with the place.
pub(crate) fn parse(sql: &str) -> Result<Statement> {
    let error = |e: datafusion::sql::sqlparser::parser::ParserError| {
        let text = e.to_string();
        let text = text.strip_prefix("sql parser error: ").unwrap_or(&text);
        let (what, place) = text.rsplit_once(" at Line: ").unwrap_or((text, ""));
        let at = place.split_once(", Column: ").and_then(|(line, column)| {
            let (line, column): (usize, usize) = (line.parse().ok()?, column.trim().parse().ok()?);
            let start: usize = sql.split_inclusive('\n').take(line.checked_sub(1)?).map(str::len).sum();
            let rest = &sql[start..];
            Some(start + rest.char_indices().nth(column.checked_sub(1)?).map_or(rest.len(), |(i, _)| i))
        });
        syntax_error(sql, at.unwrap_or(if what.contains("EOF") { sql.len() } else { 0 }), lower_first(what))
    };
    let dialect = DorisDialect::default();
    let mut parser = Parser::new(&dialect).with_recursion_limit(DEPTH).try_with_sql(sql).map_err(error)?;
    let statement = parser.parse_statement().map_err(error)?;
    let next = parser.peek_token();
    if next.token != datafusion::sql::sqlparser::tokenizer::Token::EOF {
        return Err(error(datafusion::sql::sqlparser::parser::ParserError::ParserError(format!(
            "the statement should end here{}",
            next.span.start
        ))));
    }
    Ok(statement)
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |c| c.to_lowercase().chain(chars).collect())
}

impl Session {
    /// Plans a query against a snapshot; `extra` are tables that only this statement sees, by bare name.
    ///
    /// # Errors
    /// Syntax errors, unknown tables, columns, functions, and what cannot be planned.
    pub(crate) async fn plan(
        &self,
        sql: &str,
        snapshot: &Arc<Snapshot>,
        extra: Vec<(String, RecordBatch)>,
    ) -> Result<Planned> {
        let statement = parse(sql)?;
        Box::pin(self.plan_statement(statement, answer_names(sql), snapshot, extra)).await
    }

    /// [`Self::plan`] of a statement that is parsed already; `names` are the answer's columns.
    ///
    /// # Errors
    /// As [`Self::plan`].
    pub(crate) async fn plan_statement(
        &self,
        mut statement: Statement,
        names: Vec<Option<String>>,
        snapshot: &Arc<Snapshot>,
        extra: Vec<(String, RecordBatch)>,
    ) -> Result<Planned> {
        let mut spellings = Spellings::default();
        let tables = self.tables_of(&mut statement, snapshot, extra, &mut spellings).await?;
        rewrite::add_aliases(&mut statement, &mut spellings);
        let zone = self.variables.zone();
        let state = self.sql.state(&zone);
        let now = super::now_micros();
        let around = Surroundings {
            variables: &self.variables,
            database: self.database.as_deref(),
            user: &self.user,
            connection: self.id,
            now,
            local_now: super::variables::local_micros(now, &zone)?,
            zone: &zone,
            aggregate: &|name| state.aggregate_functions().contains_key(name),
        };
        rewrite::rewrite(&mut statement, &around, &spellings)?;
        let planning = Planning { state: &state, tables, types: Arc::new(Types) };
        let options = ParserOptions::default()
            .with_enable_ident_normalization(false)
            .with_parse_float_as_decimal(true)
            .with_map_string_types_to_utf8view(false);
        let plan = SqlToRel::new_with_options(&planning, options)
            .sql_statement_to_plan(statement)
            .map_err(|e| from_datafusion(e, spellings.names()))?;
        Ok(Planned { state, plan, names, spellings })
    }

    /// Runs a query.
    ///
    /// # Errors
    /// As [`Self::plan`]; later errors come in the stream.
    pub(crate) async fn query(&self, sql: &str) -> Result<Outcome> {
        let snapshot = self.sql.warehouse.snapshot();
        let planned = Box::pin(self.plan(sql, &snapshot, Vec::new())).await?;
        Box::pin(planned.run(&self.sql.threads)).await
    }

    /// Runs a query over tables given here and collects its rows.
    ///
    /// # Errors
    /// As [`Self::query`].
    pub(crate) async fn collect(&self, sql: &str, extra: Vec<(String, RecordBatch)>) -> Result<Vec<RecordBatch>> {
        let snapshot = self.sql.warehouse.snapshot();
        let planned = Box::pin(self.plan(sql, &snapshot, extra)).await?;
        match Box::pin(planned.run(&self.sql.threads)).await? {
            Outcome::Rows { mut stream, .. } => {
                let mut batches = Vec::new();
                while let Some(batch) = stream.next().await {
                    batches.push(batch?);
                }
                Ok(batches)
            }
            Outcome::Done { .. } => Ok(Vec::new()),
        }
    }

    /// The tables that a statement names, with the spellings of their columns. Names that are not tables are left to
    /// the planner: they may be common table expressions.
    async fn tables_of(
        &self,
        statement: &mut Statement,
        snapshot: &Arc<Snapshot>,
        extra: Vec<(String, RecordBatch)>,
        spellings: &mut Spellings,
    ) -> Result<HashMap<(String, String), Arc<dyn TableSource>>> {
        let mut tables: HashMap<(String, String), Arc<dyn TableSource>> = HashMap::new();
        let mut add = |key, source: Arc<dyn TableSource>| {
            source.schema().fields().iter().for_each(|f| spellings.add(f.name()));
            tables.insert(key, source);
        };
        let mut done = HashSet::new();
        let extra: HashMap<_, _> = extra.into_iter().collect();
        let common = common_tables(statement);
        for path in rewrite::relations(statement) {
            let (written, name) = match path.as_slice() {
                [table] if common.contains(table) => continue,
                [table] => (String::new(), table.clone()),
                [.., database, table] => (database.clone(), table.clone()),
                [] => continue,
            };
            if !done.insert((written.clone(), name.clone())) {
                continue;
            }
            if let Some(batch) = extra.get(&name).filter(|_| written.is_empty()) {
                add((written, name), memory_table(batch.clone())?);
                continue;
            }
            if written.is_empty() && name.eq_ignore_ascii_case("dual") {
                continue;
            }
            let database = match written.as_str() {
                "" => self.need_database()?.to_string(),
                _ => written.clone(),
            };
            let source: Arc<dyn TableSource> = if information_schema::is_database(&database) {
                memory_table(information_schema::table(self, snapshot, &name).await?)?
            } else {
                let table = TableName::new(database, &name);
                let view = super::find_table(snapshot, &table)?;
                provider_as_source(Arc::new(SnapshotTable::new(view, &self.variables.zone())))
            };
            add((written, name), source);
        }
        Ok(tables)
    }
}

/// Names of the common table expressions anywhere in a statement.
fn common_tables(statement: &mut Statement) -> HashSet<String> {
    use datafusion::sql::sqlparser::ast::{Query, VisitMut, VisitorMut};
    use std::ops::ControlFlow;
    #[derive(Default)]
    struct Names(HashSet<String>);
    impl VisitorMut for Names {
        type Break = ();
        fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
            let tables = query.with.iter().flat_map(|w| &w.cte_tables);
            self.0.extend(tables.map(|t| t.alias.name.value.clone()));
            ControlFlow::Continue(())
        }
    }
    let mut names = Names::default();
    let _ = VisitMut::visit(statement, &mut names);
    names.0
}

fn memory_table(batch: RecordBatch) -> Result<Arc<dyn TableSource>> {
    let table =
        MemTable::try_new(batch.schema(), vec![vec![batch]]).map_err(|e| from_datafusion(e, std::iter::empty()))?;
    Ok(provider_as_source(Arc::new(table)))
}

impl Planned {
    /// What queries may take.
    pub(crate) fn memory(&self) -> &Arc<dyn MemoryPool> {
        &self.state.runtime_env().memory_pool
    }

    /// Optimises and runs the query on the queries' threads.
    ///
    /// # Errors
    /// When it cannot be planned; later errors come in the stream.
    pub(crate) async fn run(self, threads: &Threads) -> Result<Outcome> {
        let (schema, stream) = threads.run(self.start()).await?;
        Ok(Outcome::Rows { schema, stream })
    }

    async fn start(self) -> Result<(SchemaRef, RowStream)> {
        let Planned { mut state, plan, names, spellings } = self;
        let wrong = |e| from_datafusion(e, spellings.names());
        let physical = state.create_physical_plan(&plan).await.map_err(wrong)?;
        let joins = contains(&physical, "HashJoinExec");
        let mut stream = execute(physical, &state).map_err(wrong)?;
        let mut first = stream.next().await;
        if let Some(Err(e)) = &first
            && joins
            && matches!(e.find_root(), DataFusionError::ResourcesExhausted(_))
        {
            // Hash tables of joins cannot spill. Sorting both sides is slower, but can.
            drop((stream, first));
            state.config_mut().options_mut().optimizer.prefer_hash_join = false;
            let physical = state.create_physical_plan(&plan).await.map_err(wrong)?;
            stream = execute(physical, &state).map_err(wrong)?;
            first = stream.next().await;
        }
        let schema = renamed(&stream.schema(), &names);
        let to = Arc::clone(&schema);
        let stream: RowStream = futures::stream::iter(first)
            .chain(stream)
            .map(move |batch| {
                let batch = batch.map_err(|e| from_datafusion(e, std::iter::empty()))?;
                let options = arrow::record_batch::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
                RecordBatch::try_new_with_options(Arc::clone(&to), batch.columns().to_vec(), &options)
                    .map_err(|e| Error::internal("an answer does not fit its schema").because(e))
            })
            .boxed();
        Ok((schema, stream))
    }
}

fn contains(plan: &Arc<dyn ExecutionPlan>, operator: &str) -> bool {
    plan.name() == operator || plan.children().into_iter().any(|child| contains(child, operator))
}

fn execute(plan: Arc<dyn ExecutionPlan>, state: &SessionState) -> Result<SendableRecordBatchStream, DataFusionError> {
    if !contains(&plan, "NestedLoopJoinExec") {
        return execute_stream(plan, state.task_ctx());
    }
    // DataFusion 55 lets this join spill by running its left side again from where it was: rows can be missing. Without
    // files it fails instead.
    let disk = DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled);
    let runtime = RuntimeEnvBuilder::from_runtime_env(state.runtime_env()).with_disk_manager_builder(disk);
    let state = SessionStateBuilder::new_from_existing(state.clone()).with_runtime_env(runtime.build_arc()?).build();
    execute_stream(plan, state.task_ctx())
}

/// The answer's schema with MySQL's names. A wildcard stands for as many columns as the others leave.
fn renamed(schema: &SchemaRef, names: &[Option<String>]) -> SchemaRef {
    let wildcards = names.iter().filter(|n| n.is_none()).count();
    let total = schema.fields().len();
    if names.is_empty() || wildcards > 1 || (wildcards == 0 && names.len() != total) || names.len() > total + wildcards
    {
        return Arc::clone(schema);
    }
    let wild = total + wildcards - names.len();
    let mut fields: Vec<Field> = schema.fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect();
    let mut at = 0;
    for name in names {
        match name {
            Some(name) => {
                fields[at].set_name(name);
                at += 1;
            }
            None => at += wild,
        }
    }
    Arc::new(Schema::new(fields))
}

/// What MySQL would call the columns of a query: the alias, the column's name, or the expression as it was written;
/// `None` for a wildcard. Empty when the text has no SELECT on its outermost level.
fn answer_names(sql: &str) -> Vec<Option<String>> {
    let Ok(tokens) = lex(sql) else { return Vec::new() };
    let word = |t: &Lexed<'_>, words: &[&str]| match t.token {
        Token::Word(w) => words.iter().any(|x| w.eq_ignore_ascii_case(x)),
        _ => false,
    };
    let mut depth = 0_i32;
    let mut items: Vec<Vec<&Lexed<'_>>> = Vec::new();
    let mut inside = false;
    for t in &tokens {
        match t.token {
            Token::Symbol("(") => depth += 1,
            Token::Symbol(")") => depth -= 1,
            _ => {}
        }
        let top = depth == 0 && t.token != Token::Symbol(")");
        if !inside {
            inside = top && word(t, &["SELECT"]);
            if inside {
                items.push(Vec::new());
            } else if top && word(t, &["EXPLAIN", "DESC", "DESCRIBE"]) {
                return Vec::new();
            }
            continue;
        }
        const ENDS: [&str; 13] = [
            "FROM",
            "WHERE",
            "GROUP",
            "HAVING",
            "ORDER",
            "LIMIT",
            "UNION",
            "EXCEPT",
            "INTERSECT",
            "INTO",
            "WINDOW",
            "FOR",
            "MINUS",
        ];
        let except = word(t, &["EXCEPT"])
            && items.last().is_some_and(|i| i.last().is_some_and(|t| t.token == Token::Symbol("*")));
        if top && word(t, &ENDS) && !except {
            break;
        }
        if top && t.token == Token::Symbol(",") {
            items.push(Vec::new());
        } else if let Some(item) = items.last_mut() {
            let modifier =
                item.is_empty() && items_first(t) && word(t, &["DISTINCT", "ALL", "SQL_NO_CACHE", "SQL_CACHE"]);
            if !modifier {
                item.push(t);
            }
        }
    }
    items.iter().map(|item| item_name(sql, item)).collect()
}

fn items_first(t: &Lexed<'_>) -> bool {
    matches!(t.token, Token::Word(_))
}

fn item_name(sql: &str, item: &[&Lexed<'_>]) -> Option<String> {
    let named = |t: &Token<'_>| match t {
        Token::Word(w) => Some((*w).to_string()),
        Token::Name(n) | Token::Text(n) => Some(n.clone()),
        _ => None,
    };
    let plain = |t: &Token<'_>| matches!(t, Token::Word(_) | Token::Name(_));
    match item {
        [] => Some(String::new()),
        [.., last]
            if last.token == Token::Symbol("*")
                && item.len() != 2
                && item.iter().rev().nth(1).is_none_or(|t| t.token == Token::Symbol(".")) =>
        {
            None
        }
        [only] => named(&only.token).or_else(|| Some(sql[only.start..only.end].to_string())),
        [.., dot, last] if dot.token == Token::Symbol(".") && item.iter().step_by(2).all(|t| plain(&t.token)) => {
            named(&last.token)
        }
        [.., as_word, alias] if matches!(as_word.token, Token::Word(w) if w.eq_ignore_ascii_case("AS")) => {
            named(&alias.token)
        }
        [first, .., last] => {
            let end = match item.iter().position(|t| t.token == Token::Symbol("*")) {
                Some(0) => return None,
                _ => last,
            };
            let before = &item[item.len() - 2].token;
            let implicit = matches!(last.token, Token::Name(_))
                || matches!(last.token, Token::Word(w) if !w.eq_ignore_ascii_case("END") && !w.eq_ignore_ascii_case("NULL") && !w.eq_ignore_ascii_case("TRUE") && !w.eq_ignore_ascii_case("FALSE"));
            let value = match before {
                Token::Word(w) => {
                    !["NOT", "AND", "OR", "DIV", "MOD", "IS", "LIKE", "XOR", "BINARY", "RLIKE", "REGEXP", "INTERVAL"]
                        .iter()
                        .any(|x| w.eq_ignore_ascii_case(x))
                        || w.eq_ignore_ascii_case("END")
                }
                Token::Name(_) | Token::Text(_) | Token::Number(_) | Token::Variable(_) => true,
                Token::Symbol(s) => *s == ")" || *s == "*" && item.len() == 2,
            };
            if implicit && value { named(&last.token) } else { Some(sql[first.start..end.end].to_string()) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(sql: &str) -> Vec<String> {
        answer_names(sql).into_iter().map(|n| n.unwrap_or("*".into())).collect()
    }

    #[test]
    fn columns_are_named_as_mysql_does() {
        let sql = "select distinct Id, t.`na me`, count(*), a+ 1, x as `y z`, max(b) m, 'txt', *, t.*, \
                   if(a, b, c), @@session.x, case when a then b end, (select 1 from u) q from t where z";
        assert_eq!(
            names(sql),
            [
                "Id",
                "na me",
                "count(*)",
                "a+ 1",
                "y z",
                "m",
                "txt",
                "*",
                "*",
                "if(a, b, c)",
                "@@session.x",
                "case when a then b end",
                "q"
            ]
        );
        assert_eq!(names("with a as (select 1 x) select x, 2 from a union select 3, 4"), ["x", "2"]);
        assert_eq!(names("(select 1)"), Vec::<String>::new());
        assert_eq!(names("select 5 - 3, -1, a is null, b.c d"), ["5 - 3", "-1", "a is null", "d"]);
    }

    #[test]
    fn syntax_errors_say_where() {
        let e = parse("select 1\nfrom t where").unwrap_err();
        assert!(e.line().contains("line 2"), "{}", e.line());
        assert!(parse("select 1 2").unwrap_err().line().contains("'2'"), "{}", parse("select 1 2").unwrap_err());
        let deep = format!("select {}1{}", "(".repeat(5000), ")".repeat(5000));
        assert!(parse(&deep).is_err());
    }
}
