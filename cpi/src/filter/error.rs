//! Why a filter was refused.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Where a filter is wrong and what would have been accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FilterError {
    /// Octets from the beginning of the filter.
    pub offset: u32,
    /// What would have been accepted.
    pub expected: String,
    /// What stood there, at most 40 characters; empty at the end.
    pub found: String,
    /// The most similar name there is.
    pub nearest: Option<String>,
}

impl FilterError {
    pub(super) fn new(text: &str, offset: usize, expected: impl Into<String>) -> Self {
        let rest = text.get(offset..).unwrap_or_default();
        let found = rest.split_whitespace().next().unwrap_or_default().chars().take(40).collect();
        Self { offset: u32::try_from(offset).unwrap_or(u32::MAX), expected: expected.into(), found, nearest: None }
    }
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "filter at offset {}: expected {}", self.offset, self.expected)?;
        if self.found.is_empty() {
            f.write_str(", found its end")?;
        } else {
            write!(f, ", found {:?}", self.found)?;
        }
        match &self.nearest {
            Some(nearest) => write!(f, "; did you mean {nearest}?"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for FilterError {}
