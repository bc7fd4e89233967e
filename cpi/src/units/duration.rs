//! Durations in milliseconds.

use super::{Decimal, ParseAmountError, number_or_text, refuse};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// A duration of whole milliseconds. Reads seconds, or numbers with units from large to small: `90`, `2h`, `1h30m`, `250ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DurationText {
    /// Milliseconds.
    pub ms: u64,
}

const DURATION_EXPECTED: &str = "seconds, or numbers with d, h, m, s or ms from large to small, as in 1h30m";
const DURATION_UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

impl DurationText {
    /// `secs` seconds.
    pub const fn from_secs(secs: u64) -> Self {
        Self { ms: secs * 1000 }
    }
}

fn duration_ms(text: &str) -> Option<u64> {
    let mut rest = text.trim();
    if let Some(seconds) = Decimal::parse(rest) {
        return seconds.times(1000);
    }
    let (mut sum, mut smaller) = (0u64, 0);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').filter(|&at| at > 0)?;
        let number = Decimal::parse(&rest[..digits])?;
        rest = rest[digits..].trim_start();
        let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let at = DURATION_UNITS.iter().position(|(name, _)| *name == &rest[..letters]).filter(|&at| at >= smaller)?;
        smaller = at + 1;
        sum = sum.checked_add(number.times(u128::from(DURATION_UNITS[at].1))?)?;
        rest = rest[letters..].trim_start();
    }
    (smaller > 0).then_some(sum)
}

impl FromStr for DurationText {
    type Err = ParseAmountError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        duration_ms(text).map(|ms| Self { ms }).ok_or_else(|| refuse("a duration", text, DURATION_EXPECTED))
    }
}

impl fmt::Display for DurationText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.ms;
        if rest == 0 {
            return f.write_str("0s");
        }
        for (name, unit_ms) in DURATION_UNITS {
            if rest >= unit_ms {
                write!(f, "{}{name}", rest / unit_ms)?;
                rest %= unit_ms;
            }
        }
        Ok(())
    }
}

impl Serialize for DurationText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if !serializer.is_human_readable() {
            serializer.serialize_u64(self.ms)
        } else if self.ms.is_multiple_of(1000) {
            serializer.serialize_u64(self.ms / 1000)
        } else {
            serializer.collect_str(self)
        }
    }
}

impl<'de> Deserialize<'de> for DurationText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            number_or_text(deserializer, DURATION_EXPECTED)
        } else {
            u64::deserialize(deserializer).map(|ms| Self { ms })
        }
    }
}

impl JsonSchema for DurationText {
    fn schema_name() -> Cow<'static, str> {
        "DurationText".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A duration: seconds, or numbers with d, h, m, s, ms from large to small, for example 90 or \"1h30m\".",
            "anyOf": [
                { "type": "number", "minimum": 0 },
                { "type": "string", "pattern": "^[0-9]+(\\.[0-9]{1,9})?$|^([0-9.]+ ?(d|h|ms|m|s) ?)+$" },
            ],
        })
    }
}
