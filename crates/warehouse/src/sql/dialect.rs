//! The dialect that queries are parsed in: sqlparser's MySQL with what Doris has besides (`ARRAY<…>`, `* EXCEPT`), and
//! with the right precedence of `DIV`.

use std::any::TypeId;

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, Statement};
use datafusion::sql::sqlparser::dialect::{Dialect, MySqlDialect, Precedence};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};

/// MySQL's dialect with Doris's additions.
#[derive(Debug, Default)]
pub(crate) struct DorisDialect(MySqlDialect);

/// Methods that answer as MySQL does.
macro_rules! as_mysql {
    ($($name:ident),* $(,)?) => { $( fn $name(&self) -> bool { self.0.$name() } )* };
}

impl Dialect for DorisDialect {
    fn dialect(&self) -> TypeId {
        TypeId::of::<MySqlDialect>()
    }

    fn is_identifier_start(&self, c: char) -> bool {
        self.0.is_identifier_start(c)
    }

    fn is_identifier_part(&self, c: char) -> bool {
        self.0.is_identifier_part(c)
    }

    fn is_delimited_identifier_start(&self, c: char) -> bool {
        self.0.is_delimited_identifier_start(c)
    }

    fn identifier_quote_style(&self, name: &str) -> Option<char> {
        self.0.identifier_quote_style(name)
    }

    as_mysql!(
        supports_string_literal_backslash_escape,
        supports_string_literal_concatenation,
        ignores_wildcard_escapes,
        supports_numeric_prefix,
        supports_bitwise_shift_operators,
        require_interval_qualifier,
        supports_limit_comma,
        supports_insert_set,
        supports_table_hints,
        requires_single_line_comment_whitespace,
        supports_select_modifiers,
        supports_data_type_signed_suffix,
        supports_cross_join_constraint,
        supports_double_ampersand_operator,
        supports_binary_kw_as_cast,
        supports_comment_optimizer_hint,
    );

    fn supports_select_wildcard_except(&self) -> bool {
        true
    }

    fn supports_group_by_expr(&self) -> bool {
        true
    }

    fn supports_filter_during_aggregation(&self) -> bool {
        true
    }

    fn is_table_factor_alias(&self, explicit: bool, keyword: &Keyword, parser: &mut Parser) -> bool {
        self.0.is_table_factor_alias(explicit, keyword, parser)
    }

    fn parse_statement(&self, parser: &mut Parser) -> Option<Result<Statement, ParserError>> {
        self.0.parse_statement(parser)
    }

    fn parse_infix(&self, parser: &mut Parser, expr: &Expr, _: u8) -> Option<Result<Expr, ParserError>> {
        if !parser.parse_keyword(Keyword::DIV) {
            return None;
        }
        let precedence = self.prec_value(Precedence::MulDivModOp);
        Some(parser.parse_subexpr(precedence).map(|right| Expr::BinaryOp {
            left: Box::new(expr.clone()),
            op: BinaryOperator::MyIntegerDivide,
            right: Box::new(right),
        }))
    }
}
