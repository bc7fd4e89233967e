//! Amounts as people write them: `8 GiB`, `500m`, `2h`, `5 PFLOPS FP16`. Exact decimals, no floats.
//!
//! Each type reads a number or a text, says what it expected when it refuses, and prints its canonical text.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Bytes. Reads a whole number of bytes or a text with a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct ByteSize(pub u64);

/// Thousandths of a core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct CpuAmount {
    /// Thousandths of a core.
    pub milli: u64,
}

impl Default for CpuAmount {
    fn default() -> Self {
        Self { milli: 1000 }
    }
}

/// A duration of whole milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct DurationText {
    /// Milliseconds.
    pub ms: u64,
}

impl DurationText {
    /// `secs` seconds.
    pub const fn from_secs(secs: u64) -> Self {
        Self { ms: secs * 1000 }
    }
}

/// Compute asked by dense peak at one precision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct ComputeAmount(pub String);
