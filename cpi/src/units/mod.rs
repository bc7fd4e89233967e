//! Amounts as people write them: `8 GiB`, `500m`, `2h`, `5 PFLOPS FP16`. Exact decimals, no floats.
//!
//! Each type reads a number or a text, says what it expected when it refuses, and prints its canonical text. In documents
//! (JSON, YAML) a bare number is bytes, cores or seconds; in binary records each type is its one integer.

mod bytes;
mod compute;
mod cpu;
mod duration;

pub use bytes::ByteSize;
pub(crate) use bytes::byte_unit;
pub use compute::ComputeAmount;
pub(crate) use compute::compute_unit;
pub use cpu::CpuAmount;
pub use duration::DurationText;

use serde::{Deserializer, de};
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

#[cfg(test)]
mod tests;
