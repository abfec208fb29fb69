//! What MySQL says differently from DataFusion, rewritten in the parsed query: variables and session functions become
//! constants, MySQL's function names and operators become DataFusion's, names of columns take the spelling that the
//! tables have (MySQL compares them without case).

use std::collections::HashMap;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::*;
use freshet_core::{Error, Result, text};

use super::variables::{Value as Setting, Variables};

/// What a statement may ask about its session.
pub(crate) struct Surroundings<'a> {
    /// The session's variables.
    pub(crate) variables: &'a Variables,
    /// The current database.
    pub(crate) database: Option<&'a str>,
    /// The user, without host.
    pub(crate) user: &'a str,
    /// Number of the connection.
    pub(crate) connection: u64,
    /// The statement's time in microseconds since 1970, UTC.
    pub(crate) now: i64,
    /// The same as the session's wall clock.
    pub(crate) local_now: i64,
    /// The session's time zone as Arrow writes it.
    pub(crate) zone: &'a str,
    /// Whether DataFusion has an aggregate function of that name.
    pub(crate) aggregate: &'a dyn Fn(&str) -> bool,
}

/// Spellings of the columns that are in reach, by their lower-case form.
#[derive(Default)]
pub(crate) struct Spellings(HashMap<String, Vec<String>>);

impl Spellings {
    /// Adds a name.
    pub(crate) fn add(&mut self, name: &str) {
        let known = self.0.entry(name.to_lowercase()).or_default();
        if !known.iter().any(|n| n == name) {
            known.push(name.to_string());
        }
    }

    /// The spelling that a name should have.
    fn of(&self, name: &str) -> Option<&str> {
        let known = self.0.get(&name.to_lowercase())?;
        if known.iter().any(|n| n == name) { None } else { known.first().map(String::as_str) }
    }

    /// All names.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.values().flatten().map(String::as_str)
    }
}

/// Names of the relations that a statement reads, as written.
pub(crate) fn relations(statement: &mut Statement) -> Vec<Vec<String>> {
    let mut out = Vec::new();
    let _ = visit_relations_mut(statement, |name| {
        out.push(parts(name));
        ControlFlow::<()>::Continue(())
    });
    out
}

/// The parts of a qualified name.
pub(crate) fn parts(name: &ObjectName) -> Vec<String> {
    name.0.iter().filter_map(|p| p.as_ident()).map(|i| i.value.clone()).collect()
}

/// Aliases that a statement defines: they are names in reach, too.
pub(crate) fn add_aliases(statement: &mut Statement, spellings: &mut Spellings) {
    struct Aliases<'a>(&'a mut Spellings);
    impl VisitorMut for Aliases<'_> {
        type Break = ();
        fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
            for item in &select.projection {
                if let SelectItem::ExprWithAlias { alias, .. } = item {
                    self.0.add(&alias.value);
                }
            }
            ControlFlow::Continue(())
        }
    }
    let _ = VisitMut::visit(statement, &mut Aliases(spellings));
}

/// Rewrites a statement in place.
///
/// # Errors
/// For an unknown variable, or a use of a function that cannot be brought over.
pub(crate) fn rewrite(statement: &mut Statement, around: &Surroundings<'_>, spellings: &Spellings) -> Result<()> {
    let mut rewriter = Rewriter { around, spellings };
    match VisitMut::visit(statement, &mut rewriter) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

struct Rewriter<'a> {
    around: &'a Surroundings<'a>,
    spellings: &'a Spellings,
}

impl VisitorMut for Rewriter<'_> {
    type Break = Error;

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Error> {
        if let [only] = select.from.as_slice()
            && only.joins.is_empty()
            && only.relation.to_string().eq_ignore_ascii_case("dual")
        {
            select.from.clear();
        }
        for condition in [&mut select.selection, &mut select.having].into_iter().flatten() {
            // `WHERE 1`: a number is a condition in MySQL.
            if matches!(condition, Expr::Value(ValueWithSpan { value: Value::Number(..), .. })) {
                *condition = binary(condition.clone(), BinaryOperator::NotEq, number("0"));
            }
        }
        ControlFlow::Continue(())
    }

    fn post_visit_select(&mut self, select: &mut Select) -> ControlFlow<Error> {
        having(select, self.around.aggregate);
        name_apart(&mut select.projection);
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<Error> {
        order_by_ordinals(query);
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Error> {
        match self.expression(expr) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    }
}

/// DataFusion wants different names for the columns of a SELECT, MySQL does not: repeated ones get an alias. (What a
/// client sees as names is made from the statement's text.)
fn name_apart(projection: &mut [SelectItem]) {
    let star = |item: &SelectItem| matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..));
    let starred = projection.iter().any(star);
    let mut seen: HashMap<String, Vec<Naming>> = HashMap::new();
    for (n, item) in projection.iter_mut().enumerate() {
        let (naming, unnamed) = match item {
            SelectItem::UnnamedExpr(e) => (Naming::of(e), true),
            SelectItem::ExprWithAlias { alias, .. } => (Naming::of(&Expr::Identifier(alias.clone())), false),
            _ => continue,
        };
        let others = seen.entry(naming.bare.clone()).or_default();
        // What a star stands for is not known here, and a subquery has the name of its column.
        let unknown = starred || matches!(item, SelectItem::UnnamedExpr(Expr::Subquery(_)));
        let repeated = unknown && unnamed || others.iter().any(|other| other.meets(&naming));
        others.push(naming);
        if !repeated {
            continue;
        }
        let alias = Ident::new(format!("__{n}"));
        *item = match item {
            SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => {
                SelectItem::ExprWithAlias { expr: expr.clone(), alias }
            }
            _ => continue,
        };
    }
}

/// The name that DataFusion makes of an expression, as far as the text tells: `a` may be `t.a`.
struct Naming {
    full: String,
    /// Without the tables' names.
    bare: String,
    /// Whether each column has its table's name.
    qualified: bool,
}

impl Naming {
    fn of(expr: &Expr) -> Naming {
        struct Bare(bool);
        impl VisitorMut for Bare {
            type Break = ();
            fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
                match expr {
                    Expr::Identifier(name) => {
                        name.quote_style = None;
                        self.0 = false;
                    }
                    Expr::CompoundIdentifier(path) => {
                        if let Some(mut name) = path.pop() {
                            name.quote_style = None;
                            *expr = Expr::Identifier(name);
                        }
                    }
                    Expr::Nested(inner) => *expr = inner.as_ref().clone(),
                    _ => {}
                }
                ControlFlow::Continue(())
            }
        }
        let (mut bare, mut visitor) = (expr.clone(), Bare(true));
        let _ = VisitMut::visit(&mut bare, &mut visitor);
        Naming { full: expr.to_string(), bare: bare.to_string(), qualified: visitor.0 }
    }

    /// Whether the two, which are equal but for the tables' names, may be one name.
    fn meets(&self, other: &Naming) -> bool {
        self.full == other.full || !self.qualified || !other.qualified
    }
}

/// `ORDER BY 2` of a grouped SELECT is given what it means, because DataFusion only finds plain columns there.
fn order_by_ordinals(query: &mut Query) {
    let SetExpr::Select(select) = query.body.as_ref() else { return };
    let grouped = matches!(&select.group_by, GroupByExpr::Expressions(by, _) if !by.is_empty());
    let Some(OrderBy { kind: OrderByKind::Expressions(order), .. }) = &mut query.order_by else { return };
    for by in order.iter_mut().filter(|_| grouped) {
        let Expr::Value(ValueWithSpan { value: Value::Number(n, _), .. }) = &by.expr else { continue };
        let Some(at) = n.parse::<usize>().ok().and_then(|n| n.checked_sub(1)) else { continue };
        let star = |item: &SelectItem| matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..));
        match select.projection.get(at) {
            _ if select.projection.iter().take(at).any(star) => {}
            Some(SelectItem::UnnamedExpr(expr)) if !matches!(expr, Expr::Value(_)) => by.expr = expr.clone(),
            Some(SelectItem::ExprWithAlias { alias, .. }) => by.expr = Expr::Identifier(alias.clone()),
            _ => {}
        }
    }
}

/// In MySQL a HAVING also filters the rows of a SELECT that does not aggregate, and knows the names that the SELECT gives.
fn having(select: &mut Select, aggregate: &dyn Fn(&str) -> bool) {
    let Some(mut condition) = select.having.take() else { return };
    let grouped = match &select.group_by {
        GroupByExpr::Expressions(by, _) => by.as_slice(),
        GroupByExpr::All(_) => return select.having = Some(condition),
    };
    let by_column = |name: &str| {
        let is = |e: &Expr| matches!(e, Expr::Identifier(i) if i.value.eq_ignore_ascii_case(name));
        grouped.iter().any(is)
    };
    let given = select.projection.iter().filter_map(|item| match item {
        SelectItem::ExprWithAlias { expr, alias } => Some((alias.value.to_lowercase(), expr.clone())),
        _ => None,
    });
    let given = given.filter(|(name, _)| !by_column(name)).collect();
    let _ = VisitMut::visit(&mut condition, &mut Given { given, aggregate, inside: 0 });

    let mut calls = Calls { aggregate, inside: 0, aggregates: false, windows: false };
    let _ = VisitMut::visit(&mut condition, &mut calls);
    let windows = calls.windows;
    let _ = VisitMut::visit(&mut select.projection, &mut calls);
    let place = match () {
        () if calls.aggregates || !grouped.is_empty() => &mut select.having,
        () if windows => &mut select.qualify,
        () => &mut select.selection,
    };
    let nested = |e| Box::new(Expr::Nested(Box::new(e)));
    *place = Some(match place.take() {
        None => condition,
        Some(other) => Expr::BinaryOp { left: nested(other), op: BinaryOperator::And, right: nested(condition) },
    });
}

/// Whether it is a call of an aggregate function.
fn aggregates(expr: &Expr, aggregate: &dyn Fn(&str) -> bool) -> bool {
    match expr {
        Expr::Function(f) if f.over.is_none() => {
            f.name.0.last().and_then(|p| p.as_ident()).is_some_and(|name| aggregate(&name.value.to_lowercase()))
        }
        _ => false,
    }
}

/// Puts expressions in the place of the names that a SELECT has given them, but for arguments of aggregates and for
/// subqueries.
struct Given<'a> {
    given: HashMap<String, Expr>,
    aggregate: &'a dyn Fn(&str) -> bool,
    inside: usize,
}

impl VisitorMut for Given<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.inside += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.inside -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        self.inside += usize::from(aggregates(expr, self.aggregate));
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if aggregates(expr, self.aggregate) {
            self.inside -= 1;
        } else if let Expr::Identifier(name) = expr
            && self.inside == 0
            && let Some(meant) = self.given.get(&name.value.to_lowercase())
        {
            *expr = Expr::Nested(Box::new(meant.clone()));
        }
        ControlFlow::Continue(())
    }
}

/// Which kinds of functions are called outside of subqueries.
struct Calls<'a> {
    aggregate: &'a dyn Fn(&str) -> bool,
    inside: usize,
    aggregates: bool,
    windows: bool,
}

impl VisitorMut for Calls<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.inside += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.inside -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if self.inside == 0 {
            self.aggregates |= aggregates(expr, self.aggregate);
            self.windows |= matches!(expr, Expr::Function(f) if f.over.is_some());
        }
        ControlFlow::Continue(())
    }
}

impl Rewriter<'_> {
    fn expression(&self, expr: &mut Expr) -> Result<()> {
        match expr {
            Expr::Identifier(name) if name.quote_style.is_none() && name.value.starts_with('@') => {
                *expr = self.variable(&name.value)?;
            }
            Expr::CompoundIdentifier(path) if path[0].value.starts_with("@@") => {
                let name: Vec<_> = path.iter().map(|i| i.value.as_str()).collect();
                *expr = self.variable(&name.join("."))?;
            }
            Expr::Identifier(name) => self.spell(name),
            Expr::CompoundIdentifier(path) => {
                if let Some(last) = path.last_mut() {
                    self.spell(last);
                }
            }
            Expr::Function(function) => {
                if let Some(other) = self.function(function)? {
                    *expr = other;
                }
            }
            Expr::BinaryOp { left, op, right } => {
                let sides = || (left.as_ref().clone(), right.as_ref().clone());
                match op {
                    BinaryOperator::Spaceship => {
                        *expr = Expr::IsNotDistinctFrom(left.clone(), right.clone());
                    }
                    BinaryOperator::Xor => *op = BinaryOperator::NotEq,
                    BinaryOperator::StringConcat if !self.around.variables.pipes_concat() => *op = BinaryOperator::Or,
                    BinaryOperator::StringConcat => {
                        let (l, r) = sides();
                        *expr = call("concat", vec![l, r]);
                    }
                    _ => {}
                }
            }
            Expr::RLike { negated, expr: text, pattern, .. } => {
                let op = if *negated { BinaryOperator::PGRegexNotMatch } else { BinaryOperator::PGRegexMatch };
                *expr = binary(text.as_ref().clone(), op, pattern.as_ref().clone());
            }
            Expr::UnaryOp { op: op @ UnaryOperator::BangNot, .. } => *op = UnaryOperator::Not,
            Expr::Convert { expr: value, data_type: Some(data_type), .. } => {
                *expr = cast(value.as_ref().clone(), data_type.clone());
            }
            Expr::Convert { expr: value, data_type: None, .. } | Expr::Collate { expr: value, .. } => {
                *expr = value.as_ref().clone();
            }
            Expr::Cast { kind: CastKind::Cast, expr: value, data_type, array: false, format: None } => {
                *expr = cast(value.as_ref().clone(), data_type.clone());
            }
            Expr::Cast { kind: kind @ CastKind::Cast, .. } => *kind = CastKind::TryCast,
            Expr::Value(ValueWithSpan { value: Value::Number(digits, _), .. }) => {
                if let Some(double) = approximate(digits)? {
                    *expr = double;
                }
            }
            // `_utf8mb4'text'`
            Expr::Prefixed { value, .. } => *expr = value.as_ref().clone(),
            _ => {}
        }
        Ok(())
    }

    fn spell(&self, name: &mut Ident) {
        if let Some(spelling) = self.spellings.of(&name.value) {
            name.value = spelling.to_string();
        }
    }

    fn variable(&self, name: &str) -> Result<Expr> {
        Ok(match self.around.variables.lookup(name)? {
            Setting::Text(text) => string(&text),
            Setting::Number(n) => number(&n.to_string()),
            Setting::Null => Expr::Value(Value::Null.into()),
        })
    }

    /// What takes the place of a function call, if anything does.
    fn function(&self, f: &mut Function) -> Result<Option<Expr>> {
        let Some(name) = f.name.0.last().and_then(|p| p.as_ident()).map(|i| i.value.to_lowercase()) else {
            return Ok(None);
        };
        if name == "group_concat" {
            return Ok(Some(group_concat(f)));
        }
        let Some(args) = plain_args(f) else { return Ok(None) };
        if let Some(value) = self.session_function(&name, &args)? {
            return Ok(Some(value));
        }
        if f.over.is_some() || f.filter.is_some() {
            rename(f, &name);
            return Ok(None);
        }
        let mut out = match (name.as_str(), args.as_slice()) {
            ("if", [condition, yes, no]) => Expr::Case {
                case_token: helpers::attached_token::AttachedToken::empty(),
                end_token: helpers::attached_token::AttachedToken::empty(),
                operand: None,
                conditions: vec![CaseWhen { condition: condition.clone(), result: yes.clone() }],
                else_result: Some(Box::new(no.clone())),
            },
            // Of whatever type.
            ("upper" | "ucase" | "lower" | "lcase", [x]) => {
                call(&name, vec![call(super::functions::TEXT_OF, vec![x.clone()])])
            }
            ("isnull", [x]) => Expr::Nested(Box::new(Expr::IsNull(Box::new(x.clone())))),
            ("locate", [part, whole]) => call("strpos", vec![whole.clone(), part.clone()]),
            ("mod", [a, b]) => Expr::Nested(Box::new(binary(a.clone(), BinaryOperator::Modulo, b.clone()))),
            ("date" | "to_date", [x]) => cast(x.clone(), DataType::Date),
            ("datediff", [a, b]) => {
                let day = |x: &Expr| cast(cast(x.clone(), DataType::Date), DataType::Int(None));
                Expr::Nested(Box::new(binary(day(a), BinaryOperator::Minus, day(b))))
            }
            ("year" | "quarter" | "month" | "week" | "day" | "hour" | "minute" | "second", [x]) => part(&name, x),
            ("dayofmonth", [x]) => part("day", x),
            ("dayofyear", [x]) => part("doy", x),
            ("dayofweek", [x]) => Expr::Nested(Box::new(binary(part("dow", x), BinaryOperator::Plus, number("1")))),
            ("weekday", [x]) => {
                let shifted = Expr::Nested(Box::new(binary(part("dow", x), BinaryOperator::Plus, number("6"))));
                Expr::Nested(Box::new(binary(shifted, BinaryOperator::Modulo, number("7"))))
            }
            ("date_add" | "adddate" | "date_sub" | "subdate", [x, interval]) => {
                let op = if name.ends_with("add") || name == "adddate" {
                    BinaryOperator::Plus
                } else {
                    BinaryOperator::Minus
                };
                let interval = match interval {
                    Expr::Interval(_) => interval.clone(),
                    days => interval_of(days.clone(), DateTimeField::Day),
                };
                let x =
                    if matches!(x, Expr::Value(_)) { cast(x.clone(), DataType::Datetime(Some(6))) } else { x.clone() };
                Expr::Nested(Box::new(binary(x, op, interval)))
            }
            ("timestampdiff", [unit, a, b]) => time_difference(unit, a, b)?,
            ("date_trunc", [x, unit @ Expr::Value(_)]) => call("date_trunc", vec![unit.clone(), x.clone()]),
            ("unix_timestamp", [x]) => call("unix_timestamp", vec![x.clone(), string(self.around.zone)]),
            ("from_unixtime", [x]) => call("from_unixtime", vec![x.clone(), string(self.around.zone)]),
            ("from_unixtime", [x, format]) => call(
                "date_format",
                vec![call("from_unixtime", vec![x.clone(), string(self.around.zone)]), format.clone()],
            ),
            _ => {
                rename(f, &name);
                return Ok(None);
            }
        };
        // The parts of what was put in are not visited again, so names inside stay as they were rewritten before.
        if let Expr::Function(f) = &mut out
            && let Some(name) = f.name.0.last().and_then(|p| p.as_ident()).map(|i| i.value.clone())
        {
            rename(f, &name);
        }
        Ok(Some(out))
    }

    /// Functions of session and clock: constants for a statement.
    fn session_function(&self, name: &str, args: &[Expr]) -> Result<Option<Expr>> {
        let digits = match args {
            [Expr::Value(v)] => v.value.to_string().parse().ok(),
            _ => None,
        };
        let stamp = |micros: i64, digits: u8| {
            let mut text = String::new();
            text::date_time(micros - micros.rem_euclid(10_i64.pow(6 - u32::from(digits))), digits, &mut text);
            cast(string(&text), DataType::Datetime(Some(6)))
        };
        let clock = match name {
            "now" | "current_timestamp" | "localtime" | "localtimestamp" | "sysdate" => Some(self.around.local_now),
            "utc_timestamp" => Some(self.around.now),
            _ => None,
        };
        if let (Some(micros), Some(digits)) = (clock, if args.is_empty() { Some(0) } else { digits }) {
            return Ok(Some(stamp(micros, digits.min(6))));
        }
        if !args.is_empty() {
            return Ok(None);
        }
        let day = |micros: i64| cast(stamp(micros, 0), DataType::Date);
        let user = format!("{}@%", self.around.user);
        Ok(Some(match name {
            "curdate" | "current_date" => day(self.around.local_now),
            "utc_date" => day(self.around.now),
            "curtime" | "current_time" => {
                let mut text = String::new();
                text::date_time(self.around.local_now, 0, &mut text);
                string(text.split_once(' ').map_or("", |(_, time)| time))
            }
            "unix_timestamp" => number(&self.around.now.div_euclid(1_000_000).to_string()),
            "database" | "schema" => self.around.database.map_or(Expr::Value(Value::Null.into()), string),
            "user" | "current_user" | "session_user" | "system_user" => string(&user),
            "version" => self.variable("@@version")?,
            "connection_id" => number(&self.around.connection.to_string()),
            "last_insert_id" | "row_count" | "found_rows" => number("0"),
            _ => return Ok(None),
        }))
    }
}

/// MySQL's names of functions that DataFusion has under another.
fn rename(f: &mut Function, name: &str) {
    let other = match name {
        "length" => "octet_length",
        "char_length" | "character_length" => "character_length",
        "ucase" => "upper",
        "lcase" => "lower",
        "mid" => "substr",
        "ceiling" => "ceil",
        "truncate" => "trunc",
        "sign" => "signum",
        "rand" => "random",
        "std" | "stddev_samp" => "stddev",
        "variance" => "var_pop",
        "any_value" => "first_value",
        "approx_count_distinct" | "ndv" => "approx_distinct",
        "regexp" => "regexp_like",
        same => same,
    };
    f.name = ObjectName::from(vec![Ident::new(other)]);
}

/// The arguments, when they are nothing but expressions.
fn plain_args(f: &Function) -> Option<Vec<Expr>> {
    match &f.args {
        FunctionArguments::None => Some(Vec::new()),
        FunctionArguments::Subquery(_) => None,
        FunctionArguments::List(list) => list
            .args
            .iter()
            .map(|a| match a {
                FunctionArg::Unnamed(FunctionArgExpr::Expr(e)) => Some(e.clone()),
                _ => None,
            })
            .collect(),
    }
}

/// `GROUP_CONCAT([DISTINCT] x [ORDER BY …] [SEPARATOR s])` is `string_agg(x, s [ORDER BY …])`.
fn group_concat(f: &Function) -> Expr {
    let mut f = f.clone();
    f.name = ObjectName::from(vec![Ident::new("string_agg")]);
    if let FunctionArguments::List(list) = &mut f.args {
        let mut separator = string(",");
        list.clauses.retain(|clause| match clause {
            FunctionArgumentClause::Separator(s) => {
                separator = Expr::Value(s.clone());
                false
            }
            _ => true,
        });
        for arg in &mut list.args {
            if let FunctionArg::Unnamed(FunctionArgExpr::Expr(e)) = arg {
                *e = cast(e.clone(), DataType::Varchar(None));
            }
        }
        list.args.push(FunctionArg::Unnamed(FunctionArgExpr::Expr(separator)));
    }
    Expr::Function(f)
}

/// `TIMESTAMPDIFF(unit, a, b)`: whole units from `a` to `b`.
fn time_difference(unit: &Expr, a: &Expr, b: &Expr) -> Result<Expr> {
    let unit = unit.to_string().to_lowercase();
    let seconds = match unit.as_str() {
        "second" => 1,
        "minute" => 60,
        "hour" => 3_600,
        "day" => 86_400,
        "week" => 604_800,
        _ => {
            return Err(Error::unsupported(format!("TIMESTAMPDIFF in {unit}"))
                .hint("second, minute, hour, day and week are there; for months use date_part"));
        }
    };
    let epoch = |x: &Expr| call("date_part", vec![string("epoch"), cast(x.clone(), DataType::Datetime(Some(6)))]);
    let difference = Expr::Nested(Box::new(binary(epoch(b), BinaryOperator::Minus, epoch(a))));
    let whole = call("trunc", vec![binary(difference, BinaryOperator::Divide, number(&seconds.to_string()))]);
    Ok(cast(whole, DataType::BigInt(None)))
}

fn call(name: &str, args: Vec<Expr>) -> Expr {
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new(name)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList {
            duplicate_treatment: None,
            args: args.into_iter().map(|e| FunctionArg::Unnamed(FunctionArgExpr::Expr(e))).collect(),
            clauses: Vec::new(),
        }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

fn part(unit: &str, x: &Expr) -> Expr {
    let x = if matches!(x, Expr::Value(_)) { cast(x.clone(), DataType::Datetime(Some(6))) } else { x.clone() };
    call("date_part", vec![string(unit), x])
}

fn interval_of(value: Expr, unit: DateTimeField) -> Expr {
    Expr::Interval(Interval {
        value: Box::new(value),
        leading_field: Some(unit),
        leading_precision: None,
        last_field: None,
        fractional_seconds_precision: None,
    })
}

/// A cast that gives NULL where MySQL would (with a warning), never an error.
fn cast(expr: Expr, data_type: DataType) -> Expr {
    use DataType as T;
    if matches!(data_type, T::Char(_) | T::Character(_) | T::Varchar(_) | T::Text | T::String(_) | T::Nvarchar(_)) {
        return call(super::functions::TEXT_OF, vec![expr]);
    }
    let constant = !names_columns(&expr);
    let name = data_type.to_string();
    let cast = Expr::Cast { kind: CastKind::TryCast, expr: Box::new(expr), data_type, array: false, format: None };
    // DataFusion names a cast like what is cast, and takes names for what is meant.
    if constant { cast } else { call(super::functions::CAST_AS, vec![cast, string(&name)]) }
}

/// Whether an expression depends on more than itself.
fn names_columns(expr: &Expr) -> bool {
    struct Columns;
    impl VisitorMut for Columns {
        type Break = ();
        fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
            match expr {
                Expr::Identifier(_) | Expr::CompoundIdentifier(_) => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        }
    }
    VisitMut::visit(&mut expr.clone(), &mut Columns).is_break()
}

/// A number with an exponent, or with more digits than a decimal has, is a DOUBLE in MySQL.
fn approximate(digits: &str) -> Result<Option<Expr>> {
    if !digits.contains(['e', 'E']) && digits.bytes().filter(u8::is_ascii_digit).count() <= 76 {
        return Ok(None);
    }
    match digits.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(Some(cast(string(digits), DataType::Double(ExactNumberInfo::None)))),
        _ => Err(Error::config("this number is out of the range of DOUBLE").with("near", format!("'{digits}'"))),
    }
}

fn binary(left: Expr, op: BinaryOperator, right: Expr) -> Expr {
    Expr::BinaryOp { left: Box::new(left), op, right: Box::new(right) }
}

fn string(text: &str) -> Expr {
    Expr::Value(Value::SingleQuotedString(text.to_string()).into())
}

fn number(digits: &str) -> Expr {
    Expr::Value(Value::Number(digits.to_string(), false).into())
}
