//! A filter as a tree, and how a clause decides.

use super::field::FilterField;
use super::source::{FieldSource, Value};
use std::cmp::Ordering;

/// A node of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    And(Vec<Node>),
    Or(Vec<Node>),
    Not(Box<Node>),
    Clause(Clause),
}

/// One test of one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Clause {
    pub(super) field: FilterField,
    pub(super) test: Test,
}

/// How values are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compare {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Compare {
    fn holds(self, order: Ordering) -> bool {
        match self {
            Self::Equal => order.is_eq(),
            Self::NotEqual => order.is_ne(),
            Self::Less => order.is_lt(),
            Self::LessOrEqual => order.is_le(),
            Self::Greater => order.is_gt(),
            Self::GreaterOrEqual => order.is_ge(),
        }
    }
}

/// An exact number of a field's base unit: `value / divisor`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Exact {
    pub(super) value: u128,
    pub(super) divisor: u128,
}

impl Exact {
    /// Compares a field's number with this one. Saturates far outside of any field's range.
    fn order(self, number: u64) -> Ordering {
        u128::from(number).saturating_mul(self.divisor).cmp(&self.value)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Test {
    Present,
    /// Text equal to one of these; `negated` holds if no value is.
    TextIn {
        texts: Vec<String>,
        negated: bool,
    },
    TextPrefix(String),
    TextOrder(Compare, String),
    NumberIn {
        numbers: Vec<Exact>,
        negated: bool,
    },
    NumberOrder(Compare, Exact),
    Flag(bool),
}

impl Test {
    fn one(&self, value: Value<'_>) -> bool {
        match (self, value) {
            (Self::Present, _) => true,
            (Self::TextIn { texts, .. }, Value::Text(text)) => texts.iter().any(|t| t == text),
            (Self::TextPrefix(prefix), Value::Text(text)) => text.starts_with(prefix.as_str()),
            (Self::TextOrder(compare, other), Value::Text(text)) => compare.holds(text.cmp(other.as_str())),
            (Self::NumberIn { numbers, .. }, Value::Number(number)) => {
                numbers.iter().any(|exact| exact.order(number).is_eq())
            }
            (Self::NumberOrder(compare, exact), Value::Number(number)) => compare.holds(exact.order(number)),
            (Self::Flag(expected), Value::Flag(flag)) => flag == *expected,
            _ => false,
        }
    }
}

impl Clause {
    /// Whether some value of the field passes; with `!=` and `not in`, whether there is a value and none is equal.
    pub(super) fn matches(&self, source: &(impl FieldSource + ?Sized)) -> bool {
        let negated = matches!(self.test, Test::TextIn { negated: true, .. } | Test::NumberIn { negated: true, .. });
        let (mut some, mut passed) = (false, false);
        source.values(self.field, &mut |value| {
            some = true;
            passed |= self.test.one(value);
        });
        if negated { some && !passed } else { passed }
    }
}

impl Node {
    pub(super) fn matches(&self, source: &(impl FieldSource + ?Sized)) -> bool {
        match self {
            Self::And(nodes) => nodes.iter().all(|node| node.matches(source)),
            Self::Or(nodes) => nodes.iter().any(|node| node.matches(source)),
            Self::Not(node) => !node.matches(source),
            Self::Clause(clause) => clause.matches(source),
        }
    }

    /// Calls `each` with every field the tree names.
    pub(super) fn fields(&self, each: &mut impl FnMut(FilterField)) {
        match self {
            Self::And(nodes) | Self::Or(nodes) => nodes.iter().for_each(|node| node.fields(each)),
            Self::Not(node) => node.fields(each),
            Self::Clause(clause) => each(clause.field),
        }
    }
}
