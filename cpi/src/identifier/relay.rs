//! Identifiers that this version cannot fully decode, kept octet for octet and passed on.
//!
//! A later version, or later content of this version, still begins with `cpi:`, uses the same characters, is at most 512
//! octets long and ends with the CRC-32C of what stands before. That much is checked before anything is stored or relayed.

use super::cpi::Cpi;
use super::error::{CpiError, CpiErrorKind};
use super::field::CpiField;
use super::{check, parse};
use std::fmt;

/// An identifier as a relay sees it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Relayed {
    /// Fully decoded.
    Known(Cpi),
    /// Newer than this version; its octets hold their check.
    Newer(NewerCpi),
}

/// A text of a later grammar, exactly as it came.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NewerCpi {
    text: Box<str>,
}

impl Relayed {
    /// Reads what can be read and keeps the rest.
    ///
    /// # Errors
    /// [`CpiError`] if the text is wrong rather than newer: its check does not hold, or what this version knows is violated.
    pub fn parse(text: &str) -> Result<Self, CpiError> {
        match Cpi::parse(text) {
            Ok(cpi) => Ok(Self::Known(cpi)),
            Err(error) if matches!(error.kind, CpiErrorKind::Newer | CpiErrorKind::Syntax) => {
                NewerCpi::parse(text).map(Self::Newer).map_err(|_| error)
            }
            Err(error) => Err(error),
        }
    }

    /// The text to store and relay: canonical where it is known, untouched where it is newer.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Known(cpi) => cpi.as_str(),
            Self::Newer(newer) => newer.as_str(),
        }
    }
}

impl NewerCpi {
    /// Checks the envelope: scheme, version letter, characters, length and CRC-32C.
    ///
    /// # Errors
    /// [`CpiError`] if one of them does not hold.
    pub fn parse(text: &str) -> Result<Self, CpiError> {
        let octets = text.as_bytes();
        let wrong = |kind, field, offset: usize, expected: &'static str| {
            CpiError::new(kind, field, offset, expected, octets.get(offset..).unwrap_or_default())
        };
        if octets.len() > parse::TEXT_BYTES_MAX {
            return Err(wrong(CpiErrorKind::TooLong, CpiField::Text, parse::TEXT_BYTES_MAX, "at most 512 octets"));
        }
        if !octets.starts_with(b"cpi:") {
            return Err(wrong(CpiErrorKind::Syntax, CpiField::Scheme, 0, "cpi:"));
        }
        let version = octets.get(4).copied().unwrap_or(0);
        if !matches!(version, b'1'..=b'9' | b'A'..=b'Z') || octets.get(5) != Some(&b':') {
            return Err(wrong(CpiErrorKind::Syntax, CpiField::Version, 4, "a version, 1 to 9 or A to Z, and :"));
        }
        let unreserved = |octet: &u8| octet.is_ascii_alphanumeric() || b"-._~:/".contains(octet);
        if let Some(at) = octets.iter().position(|octet| !unreserved(octet)) {
            return Err(wrong(CpiErrorKind::Syntax, CpiField::Text, at, "letters, digits and - . _ ~ : /"));
        }
        let at = parse::check_at(octets)?;
        let computed = check::check_text(&octets[..at]);
        if octets[at + 1..] != computed {
            let expected = format!("check {} (CRC-32C)", String::from_utf8_lossy(&computed));
            return Err(CpiError::new(CpiErrorKind::Checksum, CpiField::Check, at + 1, expected, &octets[at + 1..]));
        }
        Ok(Self { text: Box::from(text) })
    }

    /// The text, octet for octet.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The version letter.
    pub fn version(&self) -> char {
        char::from(self.text.as_bytes()[4])
    }
}

impl fmt::Display for Relayed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
