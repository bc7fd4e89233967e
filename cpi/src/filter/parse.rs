//! From text to tree, with the grammar in `filter.pest`.

use super::ast::{Clause, Compare, Exact, Node, Test};
use super::error::FilterError;
use super::field::{self, FieldKind, FilterField, NamedField, NumberKind};
use crate::units::{self, Decimal};
use pest::Parser as _;
use pest::error::{ErrorVariant, InputLocation};
use pest::iterators::Pair;

/// The longest filter, in octets.
pub const FILTER_BYTES_MAX: usize = 4096;
/// The deepest nesting of parentheses.
pub const FILTER_DEPTH_MAX: usize = 16;
/// The most clauses.
pub const FILTER_CLAUSES_MAX: usize = 64;
/// The most values of one list.
pub const FILTER_LIST_MAX: usize = 256;

#[derive(pest_derive::Parser)]
#[grammar = "filter/filter.pest"]
struct Grammar;

/// Refuses what would make the recursive parser go too deep, before it runs.
fn check_bounds(text: &str) -> Result<(), FilterError> {
    if text.len() > FILTER_BYTES_MAX {
        return Err(FilterError::new("", FILTER_BYTES_MAX, format!("at most {FILTER_BYTES_MAX} octets")));
    }
    let (mut depth, mut quoted, mut escaped) = (0usize, false, false);
    for (at, octet) in text.bytes().enumerate() {
        match octet {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'(' if !quoted => {
                depth += 1;
                if depth > FILTER_DEPTH_MAX {
                    let expected = format!("at most {FILTER_DEPTH_MAX} parentheses inside each other");
                    return Err(FilterError::new(text, at, expected));
                }
            }
            b')' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

fn rule_name(rule: &Rule) -> Option<&'static str> {
    Some(match rule {
        Rule::and | Rule::or => "`and` or `or`",
        Rule::not => "`not`",
        Rule::within => "`in`",
        Rule::has => "`has`",
        Rule::field => "a field",
        Rule::operator => "one of = != < <= > >= ^=",
        Rule::value | Rule::string | Rule::quantity | Rule::word | Rule::text | Rule::number => "a value",
        Rule::unit => "a unit",
        Rule::group => "`(`",
        Rule::EOI => "the end",
        _ => return None,
    })
}

fn syntax_error(text: &str, error: &pest::error::Error<Rule>) -> FilterError {
    let offset = match error.location {
        InputLocation::Pos(at) | InputLocation::Span((at, _)) => at,
    };
    let mut expected: Vec<&str> = match &error.variant {
        ErrorVariant::ParsingError { positives, .. } => positives.iter().filter_map(rule_name).collect(),
        ErrorVariant::CustomError { .. } => Vec::new(),
    };
    expected.sort_unstable();
    expected.dedup();
    let expected = if expected.is_empty() { "a clause such as city = G110100".to_owned() } else { expected.join(", ") };
    FilterError::new(text, offset, expected)
}

/// Reads and checks `text`: the parts of the outermost `and`, and their texts.
pub(super) fn parse(text: &str) -> Result<(Vec<Node>, Vec<String>), FilterError> {
    check_bounds(text)?;
    let mut pairs = Grammar::parse(Rule::filter, text).map_err(|error| syntax_error(text, &error))?;
    let filter = pairs.next().expect("a parsed filter has its root");
    let mut disjunction = filter.into_inner().next().expect("a filter is a disjunction");
    let mut reader = Reader { text, clauses: 0 };
    // parentheses around the whole filter hide nothing from `explain`
    loop {
        let mut conjunctions = disjunction.clone().into_inner().filter(|part| part.as_rule() == Rule::conjunction);
        let (Some(conjunction), None) = (conjunctions.next(), conjunctions.next()) else { break };
        let terms: Vec<_> = conjunction.into_inner().filter(|part| part.as_rule() == Rule::term).collect();
        if let [only] = terms.as_slice()
            && let Some(group) = only.clone().into_inner().next().filter(|part| part.as_rule() == Rule::group)
        {
            disjunction = group.into_inner().next().expect("a group has its content");
            continue;
        }
        let texts = terms.iter().map(|term| term.as_str().trim().to_owned()).collect();
        let nodes = terms.into_iter().map(|term| reader.term(term)).collect::<Result<Vec<_>, _>>()?;
        return Ok((nodes, texts));
    }
    let whole = disjunction.as_str().trim().to_owned();
    Ok((vec![reader.disjunction(disjunction)?], vec![whole]))
}

struct Reader<'a> {
    text: &'a str,
    clauses: usize,
}

fn one_or(mut nodes: Vec<Node>, join: fn(Vec<Node>) -> Node) -> Node {
    if nodes.len() == 1 { nodes.remove(0) } else { join(nodes) }
}

impl Reader<'_> {
    fn disjunction(&mut self, pair: Pair<'_, Rule>) -> Result<Node, FilterError> {
        let parts = pair.into_inner().filter(|part| part.as_rule() == Rule::conjunction);
        let nodes = parts.map(|part| self.conjunction(part)).collect::<Result<Vec<_>, _>>()?;
        Ok(one_or(nodes, Node::Or))
    }

    fn conjunction(&mut self, pair: Pair<'_, Rule>) -> Result<Node, FilterError> {
        let terms = pair.into_inner().filter(|part| part.as_rule() == Rule::term);
        let nodes = terms.map(|term| self.term(term)).collect::<Result<Vec<_>, _>>()?;
        Ok(one_or(nodes, Node::And))
    }

    fn term(&mut self, pair: Pair<'_, Rule>) -> Result<Node, FilterError> {
        let inner = pair.into_inner().next().expect("a term has one part");
        match inner.as_rule() {
            Rule::negation => {
                let part = inner.into_inner().nth(1).expect("a negation has its operand");
                Ok(Node::Not(Box::new(self.primary(part)?)))
            }
            _ => self.primary(inner),
        }
    }

    fn primary(&mut self, pair: Pair<'_, Rule>) -> Result<Node, FilterError> {
        match pair.as_rule() {
            Rule::group => self.disjunction(pair.into_inner().next().expect("a group has its content")),
            _ => {
                self.clauses += 1;
                if self.clauses > FILTER_CLAUSES_MAX {
                    let expected = format!("at most {FILTER_CLAUSES_MAX} clauses");
                    return Err(FilterError::new(self.text, pair.as_span().start(), expected));
                }
                self.clause(pair.into_inner().next().expect("a clause has one form")).map(Node::Clause)
            }
        }
    }

    fn clause(&self, pair: Pair<'_, Rule>) -> Result<Clause, FilterError> {
        let rule = pair.as_rule();
        let mut parts = pair.into_inner().peekable();
        if rule == Rule::presence {
            parts.next();
        }
        let name = parts.next().expect("every clause names a field");
        let named = field::named(name.as_str()).map_err(|nearest| {
            let mut error = FilterError::new(self.text, name.as_span().start(), "a field of the filter language");
            error.nearest = nearest;
            error
        })?;
        let field = named.field;
        let test = match rule {
            Rule::presence => Test::Present,
            Rule::membership => {
                let negated = parts.peek().is_some_and(|part| part.as_rule() == Rule::not);
                let values: Vec<_> = parts.filter(|part| part.as_rule() == Rule::value).collect();
                if values.len() > FILTER_LIST_MAX {
                    let at = values[FILTER_LIST_MAX].as_span().start();
                    return Err(FilterError::new(self.text, at, format!("at most {FILTER_LIST_MAX} values in a list")));
                }
                match field.kind() {
                    FieldKind::Text => {
                        let texts = values.into_iter().map(|value| text_of(field, value)).collect();
                        Test::TextIn { texts, negated }
                    }
                    FieldKind::Number(kind) => {
                        let numbers = values
                            .into_iter()
                            .map(|value| self.number(named, kind, value))
                            .collect::<Result<_, _>>()?;
                        Test::NumberIn { numbers, negated }
                    }
                    FieldKind::Flag => {
                        let at = name.as_span().end();
                        return Err(FilterError::new(self.text, at, "= true or = false after a flag"));
                    }
                }
            }
            _ => self.comparison(named, parts.next().zip(parts.next()))?,
        };
        Ok(Clause { field, test })
    }

    fn comparison(
        &self,
        named: NamedField,
        parts: Option<(Pair<'_, Rule>, Pair<'_, Rule>)>,
    ) -> Result<Test, FilterError> {
        let (operator, value) = parts.expect("a comparison has an operator and a value");
        let at = operator.as_span().start();
        let compare = match operator.as_str() {
            "=" => Some(Compare::Equal),
            "!=" => Some(Compare::NotEqual),
            "<" => Some(Compare::Less),
            "<=" => Some(Compare::LessOrEqual),
            ">" => Some(Compare::Greater),
            ">=" => Some(Compare::GreaterOrEqual),
            _ => None,
        };
        Ok(match (named.field.kind(), compare) {
            (FieldKind::Text, None) => Test::TextPrefix(text_of(named.field, value)),
            (FieldKind::Text, Some(compare @ (Compare::Equal | Compare::NotEqual))) => {
                Test::TextIn { texts: vec![text_of(named.field, value)], negated: compare == Compare::NotEqual }
            }
            (FieldKind::Text, Some(compare)) => Test::TextOrder(compare, text_of(named.field, value)),
            (FieldKind::Number(kind), Some(compare @ (Compare::Equal | Compare::NotEqual))) => Test::NumberIn {
                numbers: vec![self.number(named, kind, value)?],
                negated: compare == Compare::NotEqual,
            },
            (FieldKind::Number(kind), Some(compare)) => Test::NumberOrder(compare, self.number(named, kind, value)?),
            (FieldKind::Number(_), None) => {
                return Err(FilterError::new(self.text, at, "one of = != < <= > >= after a number field"));
            }
            (FieldKind::Flag, Some(compare @ (Compare::Equal | Compare::NotEqual))) => {
                let flag = match value.as_str() {
                    "true" => true,
                    "false" => false,
                    _ => return Err(FilterError::new(self.text, value.as_span().start(), "true or false")),
                };
                Test::Flag(flag == (compare == Compare::Equal))
            }
            (FieldKind::Flag, _) => return Err(FilterError::new(self.text, at, "= or != after a flag")),
        })
    }

    fn number(&self, named: NamedField, kind: NumberKind, value: Pair<'_, Rule>) -> Result<Exact, FilterError> {
        let (number, unit) = units::split_unit(value.as_str());
        let wrong = |expected: &str| FilterError::new(self.text, value.as_span().start(), expected);
        let decimal = Decimal::parse(number)
            .ok_or_else(|| wrong("a number of at most 21 digits, 9 of them decimals, and a unit of the field"))?;
        let factor = match (kind, unit) {
            (NumberKind::Count, "") => Some((1, 1)),
            (NumberKind::Milli, "") => Some((1000, 1)),
            (NumberKind::Milli, "m") => Some((1, 1)),
            (NumberKind::Micro, "") => Some((1_000_000, 1)),
            (NumberKind::Bytes, unit) => units::byte_unit(unit).map(|factor| (factor, 1)),
            (NumberKind::BitRate, "Mbps" | "Mbit/s") => Some((1, 1)),
            (NumberKind::BitRate, "Gbps" | "Gbit/s") => Some((1000, 1)),
            (NumberKind::BitRate, "Tbps" | "Tbit/s") => Some((1_000_000, 1)),
            (NumberKind::Time, "" | "ms") => Some((1, 1)),
            (NumberKind::Time, "s") => Some((1000, 1)),
            (NumberKind::Compute, "") => named.unit,
            (NumberKind::Compute, unit) if named.unit.is_none() => units::compute_unit(unit),
            _ => None,
        };
        let (factor, divisor) = factor.ok_or_else(|| {
            wrong(match kind {
                NumberKind::Count | NumberKind::Micro => "a number without a unit",
                NumberKind::Milli => "a number, or thousandths as in 500m",
                NumberKind::Bytes => "bytes, or a number with kB, MB, GB, TB, PB, EB, KiB, MiB, GiB, TiB, PiB or EiB",
                NumberKind::BitRate => "a number with Mbps, Gbps or Tbps",
                NumberKind::Time => "milliseconds, or a number with ms or s",
                NumberKind::Compute if named.unit.is_some() => "a number without a unit: the field's name has it",
                NumberKind::Compute => "a number with GFLOPS, TFLOPS, PFLOPS or EFLOPS (GOPS to EOPS for int8)",
            })
        })?;
        Ok(Exact { value: decimal.digits.saturating_mul(factor), divisor: 10u128.pow(decimal.decimals) * divisor })
    }
}

fn text_of(field: FilterField, value: Pair<'_, Rule>) -> String {
    let inner = value.into_inner().next().expect("a value has one form");
    let text = if inner.as_rule() == Rule::string {
        let text = inner.into_inner().next().expect("a string has its text");
        text.as_str().replace("\\\"", "\"").replace("\\\\", "\\")
    } else {
        inner.as_str().to_owned()
    };
    if field == FilterField::Cpi {
        let upper = text.to_ascii_uppercase();
        return match upper.strip_prefix("CPI:") {
            Some(rest) => format!("cpi:{rest}"),
            None => upper,
        };
    }
    if field.is_code() { text.to_ascii_uppercase() } else { text }
}
