//! Amounts as people write them: `8 GiB`, `500m`, `2h`, `5 PFLOPS FP16`. Exact decimals, no floats.
//!
//! Each type reads a number or a text, says what it expected when it refuses, and prints its canonical text. In documents
//! (JSON, YAML) a bare number is bytes, cores or seconds; in binary records each type is its one integer.

use crate::measures::{Measures, Precision};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// Why an amount was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {what}: expected {expected}")]
pub struct ParseAmountError {
    /// What was wanted, for example `an amount of bytes`.
    pub what: &'static str,
    /// The text as given, at most 40 characters of it.
    pub text: String,
    /// What would have been accepted.
    pub expected: &'static str,
}

/// A number with at most 9 decimals, exactly: `digits / 10^decimals`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Decimal {
    pub(crate) digits: u128,
    pub(crate) decimals: u32,
}

impl Decimal {
    /// Reads up to 21 digits with at most 9 of them behind the point.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (whole, part) = text.split_once('.').unwrap_or((text, ""));
        let shaped = !whole.is_empty()
            && whole.len() + part.len() <= 21
            && part.len() <= 9
            && (!text.contains('.') || !part.is_empty())
            && whole.bytes().chain(part.bytes()).all(|octet| octet.is_ascii_digit());
        if !shaped {
            return None;
        }
        let digits = whole.bytes().chain(part.bytes()).fold(0, |sum, digit| sum * 10 + u128::from(digit - b'0'));
        Some(Self { digits, decimals: part.len() as u32 })
    }

    /// `self * factor` where that is a whole number that fits.
    pub(crate) fn times(self, factor: u128) -> Option<u64> {
        let product = self.digits.checked_mul(factor)?;
        let divisor = 10u128.pow(self.decimals);
        if product.is_multiple_of(divisor) { u64::try_from(product / divisor).ok() } else { None }
    }
}

/// Splits `1.5 GiB` into its number and its unit.
pub(crate) fn split_unit(text: &str) -> (&str, &str) {
    let text = text.trim();
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    (&text[..at], text[at..].trim_start())
}

fn refuse(what: &'static str, text: &str, expected: &'static str) -> ParseAmountError {
    ParseAmountError { what, text: text.chars().take(40).collect(), expected }
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

/// Reads a number or a text by `FromStr`; numbers are handed on as their shortest decimal text.
struct NumberOrText<T> {
    expected: &'static str,
    value: std::marker::PhantomData<T>,
}

impl<T: FromStr<Err = ParseAmountError>> de::Visitor<'_> for NumberOrText<T> {
    type Value = T;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }
    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        number.to_string().parse().map_err(E::custom)
    }
    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        number.to_string().parse().map_err(E::custom)
    }
    fn visit_f64<E: de::Error>(self, number: f64) -> Result<T, E> {
        number.to_string().parse().map_err(E::custom)
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

fn number_or_text<'de, T: FromStr<Err = ParseAmountError>, D: Deserializer<'de>>(
    deserializer: D,
    expected: &'static str,
) -> Result<T, D::Error> {
    deserializer.deserialize_any(NumberOrText { expected, value: std::marker::PhantomData })
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_exactly_and_printed_canonically() {
        for (text, bytes, printed) in [
            ("8 GiB", 8 << 30, "8 GiB"),
            ("1.5TB", 1_500_000_000_000, "1500 GB"),
            ("1024", 1024, "1 KiB"),
            ("0", 0, "0 B"),
            ("999", 999, "999 B"),
            ("20 PB", 20_000_000_000_000_000, "20 PB"),
        ] {
            let size: ByteSize = text.parse().unwrap();
            assert_eq!(size, ByteSize(bytes), "{text}");
            assert_eq!(size.to_string(), printed);
            assert_eq!(printed.parse::<ByteSize>().unwrap(), size);
        }
        for text in ["", "GiB", "1.2.3 GB", "-1", "1 gib", "0.5", "99999999999 EB", "1. GB"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn cores_durations_and_compute() {
        assert_eq!("500m".parse::<CpuAmount>().unwrap().milli, 500);
        assert_eq!("0.5".parse::<CpuAmount>().unwrap().to_string(), "500m");
        assert!("0.0005".parse::<CpuAmount>().is_err());
        assert_eq!("1h30m".parse::<DurationText>().unwrap().ms, 5_400_000);
        assert_eq!("5400".parse::<DurationText>().unwrap().to_string(), "1h30m");
        assert_eq!("250ms".parse::<DurationText>().unwrap().to_string(), "250ms");
        for text in ["", "h", "1m1h", "2 weeks", "1h2h", "-3"] {
            assert!(text.parse::<DurationText>().is_err(), "{text}");
        }
        let amount: ComputeAmount = "5 PFLOPS FP16".parse().unwrap();
        assert_eq!(amount, ComputeAmount { gflops: 5_000_000, precision: Precision::Fp16 });
        assert_eq!(amount.to_string(), "5 PFLOPS FP16");
        let h800 = Measures { fp16: Some(989_000), ..Measures::default() };
        assert_eq!(amount.chips(&h800), Some(6));
        assert_eq!(amount.chip_milli(&h800), Some(5056));
        assert_eq!(amount.chips(&Measures::default()), None, "a missing peak is not 0");
        for text in ["5 PFLOPS", "5 PFLOPS INT8", "5 POPS FP16", "0 PFLOPS FP16", "FP16", "5 XFLOPS FP16"] {
            assert!(text.parse::<ComputeAmount>().is_err(), "{text}");
        }
    }

    #[test]
    fn documents_hold_numbers_or_texts() {
        let sizes: Vec<ByteSize> = serde_json::from_str(r#"[1024, "1 KiB"]"#).unwrap();
        assert_eq!(sizes[0], sizes[1]);
        assert_eq!(serde_json::to_string(&sizes).unwrap(), "[1024,1024]");
        let cores: Vec<CpuAmount> = serde_json::from_str(r#"[2, 0.5, "250m"]"#).unwrap();
        assert_eq!(serde_json::to_string(&cores).unwrap(), r#"[2,"500m","250m"]"#);
        let error = serde_json::from_str::<ByteSize>(r#""8 gigs""#).unwrap_err().to_string();
        assert!(error.contains("8 gigs") && error.contains("GiB"), "{error}");
    }
}
