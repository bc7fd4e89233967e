//! Cores in thousandths.

use super::{Decimal, ParseAmountError, number_or_text, refuse, split_unit};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// Thousandths of a core. Reads a number of cores or thousandths with `m`, for example `4`, `0.5` or `500m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuAmount {
    /// Thousandths of a core.
    pub milli: u64,
}

const CPU_EXPECTED: &str = "cores with at most 3 decimals, or thousandths of a core as in 500m";

impl Default for CpuAmount {
    fn default() -> Self {
        Self { milli: 1000 }
    }
}

impl FromStr for CpuAmount {
    type Err = ParseAmountError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (number, unit) = split_unit(text);
        let factor = match unit {
            "" | "core" | "cores" => Some(1000),
            "m" => Some(1),
            _ => None,
        };
        Decimal::parse(number)
            .zip(factor)
            .and_then(|(number, factor)| number.times(factor))
            .map(|milli| Self { milli })
            .ok_or_else(|| refuse("an amount of cores", text, CPU_EXPECTED))
    }
}

impl fmt::Display for CpuAmount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.milli.is_multiple_of(1000) { write!(f, "{}", self.milli / 1000) } else { write!(f, "{}m", self.milli) }
    }
}

impl Serialize for CpuAmount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if !serializer.is_human_readable() {
            serializer.serialize_u64(self.milli)
        } else if self.milli.is_multiple_of(1000) {
            serializer.serialize_u64(self.milli / 1000)
        } else {
            serializer.collect_str(self)
        }
    }
}

impl<'de> Deserialize<'de> for CpuAmount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            number_or_text(deserializer, CPU_EXPECTED)
        } else {
            u64::deserialize(deserializer).map(|milli| Self { milli })
        }
    }
}

impl JsonSchema for CpuAmount {
    fn schema_name() -> Cow<'static, str> {
        "CpuAmount".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Cores: a number with at most 3 decimals, or thousandths, for example 4, 0.5 or \"500m\".",
            "anyOf": [
                { "type": "number", "minimum": 0 },
                { "type": "string", "pattern": "^[0-9]+(\\.[0-9]{1,3})? ?(m|cores?)?$" },
            ],
        })
    }
}
