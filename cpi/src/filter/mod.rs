//! The one filter language: over identifier fields, measures and status; for search, watch, placement and policy.
//!
//! `filter.pest` is the published grammar, `docs/filter.md` the reference. A filter is bounded when it is read, so that
//! asking it costs a bounded time. It says which of its clauses refused, and what an index can make of it.

mod ast;
mod error;
mod field;
mod hints;
mod parse;
mod source;

pub use error::FilterError;
pub use field::{FieldKind, FilterField, NumberKind};
pub use hints::Hint;
pub use parse::{FILTER_BYTES_MAX, FILTER_CLAUSES_MAX, FILTER_DEPTH_MAX, FILTER_LIST_MAX};
pub use source::{FieldSource, IdentifierSource, StatusSource, Value};

use ast::Node;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The grammar, as published.
pub const GRAMMAR: &str = include_str!("filter.pest");

/// A filter that was read and checked. Prints as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    text: String,
    /// The clauses that all have to hold: the parts of the outermost `and`, with their texts.
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    text: String,
    node: Node,
}

impl Filter {
    /// Reads a filter.
    ///
    /// # Errors
    /// [`FilterError`] with the offset, what was expected, and the nearest name for an unknown field.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        let (nodes, texts) = parse::parse(text)?;
        let parts = nodes.into_iter().zip(texts).map(|(node, text)| Part { text, node }).collect();
        Ok(Self { text: text.to_owned(), parts })
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether everything holds for `source`.
    pub fn matches(&self, source: &(impl FieldSource + ?Sized)) -> bool {
        self.parts.iter().all(|part| part.node.matches(source))
    }

    /// Texts of the clauses that all have to hold: the parts of the outermost `and`.
    pub fn clauses(&self) -> impl ExactSizeIterator<Item = &str> {
        self.parts.iter().map(|part| part.text.as_str())
    }

    /// Indices of the clauses that do not hold for `source`; none if it matches.
    pub fn refusing<'s>(&'s self, source: &'s (impl FieldSource + ?Sized)) -> impl Iterator<Item = usize> + 's {
        self.parts.iter().enumerate().filter(|(_, part)| !part.node.matches(source)).map(|(index, _)| index)
    }

    /// Constraints that every match satisfies, for indexes.
    pub fn hints(&self) -> Vec<Hint> {
        self.parts.iter().flat_map(|part| hints::hints(&part.node)).collect()
    }

    /// Whether some clause needs the status of a pool, which an identifier alone does not have.
    pub fn needs_status(&self) -> bool {
        let mut needs = false;
        for part in &self.parts {
            part.node.fields(&mut |field| needs |= field.is_status());
        }
        needs
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Filter {
    type Err = FilterError;
    fn from_str(text: &str) -> Result<Self, FilterError> {
        Self::parse(text)
    }
}

/// How many sources each clause refused: what `explain` shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RejectCounts {
    /// How many were asked.
    pub asked: u64,
    /// How many matched.
    pub matched: u64,
    /// Per clause of the filter, in order. A source refused by two clauses counts at both.
    pub clauses: Vec<ClauseRejects>,
}

/// One clause and how many it refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ClauseRejects {
    /// The clause as written.
    pub clause: String,
    /// How many it refused.
    pub rejected: u64,
}

impl RejectCounts {
    /// Zeroes for every clause of `filter`.
    pub fn new(filter: &Filter) -> Self {
        let clauses = filter.clauses().map(|clause| ClauseRejects { clause: clause.to_owned(), rejected: 0 }).collect();
        Self { asked: 0, matched: 0, clauses }
    }

    /// Asks `filter` about one more source and counts; whether it matched. `filter` is the one this was made for.
    pub fn observe(&mut self, filter: &Filter, source: &(impl FieldSource + ?Sized)) -> bool {
        self.asked += 1;
        let mut matched = true;
        for index in filter.refusing(source) {
            matched = false;
            if let Some(clause) = self.clauses.get_mut(index) {
                clause.rejected += 1;
            }
        }
        self.matched += u64::from(matched);
        matched
    }
}

#[cfg(test)]
mod tests;
