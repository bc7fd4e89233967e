//! What an index can make of a filter: constraints that hold for everything the filter matches.

use super::ast::{Compare, Node, Test};
use super::field::FilterField;

/// A constraint that every match satisfies. Using an index on it loses nothing; the filter is still to be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hint {
    /// The field has one of these texts.
    OneOf {
        /// Which field.
        field: FilterField,
        /// The texts, sorted, each once.
        texts: Vec<String>,
    },
    /// The field's text begins so.
    Prefix {
        /// Which field.
        field: FilterField,
        /// The beginning.
        prefix: String,
    },
    /// The field's number lies in this range of its base unit, ends included.
    Range {
        /// Which field.
        field: FilterField,
        /// At least.
        min: u64,
        /// At most.
        max: u64,
    },
}

impl Hint {
    /// Which field it constrains.
    pub fn field(&self) -> FilterField {
        match self {
            Self::OneOf { field, .. } | Self::Prefix { field, .. } | Self::Range { field, .. } => *field,
        }
    }
}

fn to_u64(value: u128) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

pub(super) fn hints(node: &Node) -> Vec<Hint> {
    match node {
        Node::And(nodes) => nodes.iter().flat_map(hints).collect(),
        Node::Or(nodes) => union(nodes).into_iter().collect(),
        Node::Not(_) => Vec::new(),
        Node::Clause(clause) => {
            let field = clause.field;
            match &clause.test {
                Test::TextIn { texts, negated: false } => {
                    let mut texts = texts.clone();
                    texts.sort();
                    texts.dedup();
                    vec![Hint::OneOf { field, texts }]
                }
                Test::TextPrefix(prefix) => vec![Hint::Prefix { field, prefix: prefix.clone() }],
                Test::NumberOrder(compare, exact) => {
                    let floor = to_u64(exact.value / exact.divisor);
                    let ceiling = to_u64(exact.value.div_ceil(exact.divisor));
                    let (min, max) = match compare {
                        Compare::Greater | Compare::GreaterOrEqual => (ceiling, u64::MAX),
                        Compare::Less | Compare::LessOrEqual => (0, floor),
                        Compare::Equal | Compare::NotEqual => (0, u64::MAX),
                    };
                    vec![Hint::Range { field, min, max }]
                }
                Test::NumberIn { numbers, negated: false } => {
                    let min = numbers.iter().map(|n| to_u64(n.value.div_ceil(n.divisor))).min().unwrap_or(0);
                    let max = numbers.iter().map(|n| to_u64(n.value / n.divisor)).max().unwrap_or(u64::MAX);
                    vec![Hint::Range { field, min, max }]
                }
                _ => Vec::new(),
            }
        }
    }
}

/// A constraint that holds for every branch: texts of one field, where every branch has such.
fn union(nodes: &[Node]) -> Option<Hint> {
    let branches: Vec<Vec<Hint>> = nodes.iter().map(hints).collect();
    let (first, rest) = branches.split_first()?;
    for hint in first {
        let Hint::OneOf { field, texts } = hint else { continue };
        let mut all = texts.clone();
        let every = rest.iter().all(|branch| {
            let found = branch.iter().find_map(|other| match other {
                Hint::OneOf { field: f, texts } if f == field => Some(texts),
                _ => None,
            });
            all.extend(found.into_iter().flatten().cloned());
            found.is_some()
        });
        if every {
            all.sort();
            all.dedup();
            return Some(Hint::OneOf { field: *field, texts: all });
        }
    }
    None
}
