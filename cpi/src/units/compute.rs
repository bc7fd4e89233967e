//! Compute by dense peak at one precision.

use super::{Decimal, ParseAmountError, number_or_text, refuse, split_unit};
use crate::measures::{Measures, Precision};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// Compute asked by dense peak at one precision, for example `5 PFLOPS FP16` or `200 TOPS INT8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ComputeAmount {
    /// GFLOPS, or GOPS for INT8: thousandths of a TFLOPS.
    pub gflops: u64,
    /// At which precision; capacities of different precision are never added.
    pub precision: Precision,
}

const COMPUTE_EXPECTED: &str = "a number, GFLOPS, TFLOPS, PFLOPS or EFLOPS, and FP64, FP32, TF32, FP16, BF16 or FP8; or TOPS and INT8; as in 5 PFLOPS FP16";

impl ComputeAmount {
    /// Thousandths of a chip with these `measures` that give at least this much, rounded up; `None` where the chip has no
    /// stated peak at the precision (a missing peak is not 0).
    pub fn chip_milli(&self, measures: &Measures) -> Option<u64> {
        let peak = measures.gflops(self.precision).filter(|&peak| peak > 0)?;
        u64::try_from((u128::from(self.gflops) * 1000).div_ceil(u128::from(peak))).ok()
    }

    /// Whole chips with these `measures` that give at least this much; see [`Self::chip_milli`].
    pub fn chips(&self, measures: &Measures) -> Option<u64> {
        let peak = measures.gflops(self.precision).filter(|&peak| peak > 0)?;
        Some(self.gflops.div_ceil(peak))
    }
}

impl FromStr for ComputeAmount {
    type Err = ParseAmountError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let read = || {
            let (number, rest) = split_unit(text);
            let (unit, precision) = rest.split_once(char::is_whitespace)?;
            let precision = Precision::from_name(precision.trim())?;
            let counts_operations = !unit.to_ascii_uppercase().ends_with("FLOPS");
            if counts_operations != (precision == Precision::Int8) {
                return None;
            }
            let (factor, divisor) = compute_unit(unit)?;
            let gflops = Decimal::parse(number)?.times(factor)?;
            (divisor == 1 && gflops > 0).then_some(Self { gflops, precision })
        };
        read().ok_or_else(|| refuse("an amount of compute", text, COMPUTE_EXPECTED))
    }
}

impl fmt::Display for ComputeAmount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut number, mut power) = (self.gflops, 0);
        while number != 0 && number.is_multiple_of(1000) && power < 3 {
            number /= 1000;
            power += 1;
        }
        let prefix = ["G", "T", "P", "E"][power];
        let unit = if self.precision == Precision::Int8 { "OPS" } else { "FLOPS" };
        write!(f, "{number} {prefix}{unit} {}", self.precision)
    }
}

impl Serialize for ComputeAmount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            (self.gflops, self.precision).serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for ComputeAmount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            number_or_text(deserializer, COMPUTE_EXPECTED)
        } else {
            <(u64, Precision)>::deserialize(deserializer).map(|(gflops, precision)| Self { gflops, precision })
        }
    }
}

impl JsonSchema for ComputeAmount {
    fn schema_name() -> Cow<'static, str> {
        "ComputeAmount".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Compute by dense peak at one precision, for example \"5 PFLOPS FP16\".",
            "type": "string",
            "pattern": "^[0-9]+(\\.[0-9]{1,9})? ?[GTPEgtpe]([Ff][Ll])?[Oo][Pp][Ss] +(FP64|FP32|TF32|FP16|BF16|FP8|INT8)$",
        })
    }
}

/// GFLOPS (or GOPS) of one unit of compute, by its name in any case.
pub(crate) fn compute_unit(unit: &str) -> Option<(u128, u128)> {
    let upper = unit.to_ascii_uppercase();
    let prefix = upper.strip_suffix("FLOPS").or_else(|| upper.strip_suffix("OPS"))?;
    Some(match prefix {
        "M" => (1, 1000),
        "G" => (1, 1),
        "T" => (1000, 1),
        "P" => (1_000_000, 1),
        "E" => (1_000_000_000, 1),
        _ => return None,
    })
}
