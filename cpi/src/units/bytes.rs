//! Bytes, decimal and binary.

use super::{Decimal, ParseAmountError, number_or_text, refuse, split_unit};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// Bytes. Reads a whole number of bytes or a text with a unit, for example `8 GiB` or `1.5 TB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

const BYTES_EXPECTED: &str =
    "a whole number of bytes, or a number with B, kB, MB, GB, TB, PB, EB, KiB, MiB, GiB, TiB, PiB or EiB";

impl FromStr for ByteSize {
    type Err = ParseAmountError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (number, unit) = split_unit(text);
        Decimal::parse(number)
            .zip(byte_unit(unit))
            .and_then(|(number, factor)| number.times(factor))
            .map(Self)
            .ok_or_else(|| refuse("an amount of bytes", text, BYTES_EXPECTED))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DECIMAL: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
        const BINARY: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        let shrink = |step: u64| {
            let (mut number, mut power) = (self.0, 0);
            while number != 0 && number.is_multiple_of(step) && power < 6 {
                number /= step;
                power += 1;
            }
            (number, power)
        };
        let (decimal, binary) = (shrink(1000), shrink(1024));
        if binary.0 <= decimal.0 {
            write!(f, "{} {}", binary.0, BINARY[binary.1])
        } else {
            write!(f, "{} {}", decimal.0, DECIMAL[decimal.1])
        }
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            number_or_text(deserializer, BYTES_EXPECTED)
        } else {
            u64::deserialize(deserializer).map(Self)
        }
    }
}

impl JsonSchema for ByteSize {
    fn schema_name() -> Cow<'static, str> {
        "ByteSize".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Bytes: a whole number, or a number with a unit, for example \"8 GiB\" or \"1.5 TB\".",
            "anyOf": [
                { "type": "integer", "minimum": 0 },
                { "type": "string", "pattern": "^[0-9]+(\\.[0-9]{1,9})? ?([kKMGTPE]?B|[KMGTPE]iB?)?$" },
            ],
        })
    }
}

/// Units of bytes by their names as people write them.
pub(crate) fn byte_unit(unit: &str) -> Option<u128> {
    Some(match unit {
        "" | "B" => 1,
        "kB" | "KB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "PB" => 1_000_000_000_000_000,
        "EB" => 1_000_000_000_000_000_000,
        "KiB" | "Ki" => 1 << 10,
        "MiB" | "Mi" => 1 << 20,
        "GiB" | "Gi" => 1 << 30,
        "TiB" | "Ti" => 1 << 40,
        "PiB" | "Pi" => 1 << 50,
        "EiB" | "Ei" => 1 << 60,
        _ => return None,
    })
}
