//! Why an identifier was refused: the field, the octet offset, what was expected, what was found, the release consulted.

use super::field::CpiField;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;

/// What is wrong, as a stable code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CpiErrorKind {
    /// The text does not follow the grammar here.
    Syntax,
    /// The text is longer than 512 octets.
    TooLong,
    /// A version letter, resource type, precision, chip type or part that a later grammar may know and this one does not.
    Newer,
    /// The enterprise's check characters do not hold.
    CheckCharacter,
    /// The CRC-32C does not hold.
    Checksum,
    /// Something stands twice that may stand once.
    Duplicate,
    /// A number is out of range.
    OutOfRange,
    /// The dictionary release does not know the code.
    UnknownCode,
    /// The dictionary knows the code, but not at the time asked for.
    NotValidThen,
}

/// A refusal. Nothing else is ever said of a wrong identifier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CpiError {
    /// What is wrong.
    pub kind: CpiErrorKind,
    /// Where: the field.
    pub field: CpiField,
    /// Where: octets from the beginning of the text as given.
    pub offset: u32,
    /// What would have been accepted.
    pub expected: Cow<'static, str>,
    /// What stood there, at most 40 characters of it; empty at the end of the text.
    pub found: String,
    /// The dictionary release consulted, where one was.
    pub release: Option<u32>,
}

impl CpiError {
    /// The longest `found`, in characters.
    pub const FOUND_CHARS_MAX: usize = 40;

    pub(crate) fn new(
        kind: CpiErrorKind,
        field: CpiField,
        offset: usize,
        expected: impl Into<Cow<'static, str>>,
        found: &[u8],
    ) -> Self {
        let found = String::from_utf8_lossy(found).chars().take(Self::FOUND_CHARS_MAX).collect();
        Self {
            kind,
            field,
            offset: u32::try_from(offset).unwrap_or(u32::MAX),
            expected: expected.into(),
            found,
            release: None,
        }
    }

    /// The same error, naming the dictionary release that was consulted.
    #[must_use]
    pub fn with_release(mut self, release: u32) -> Self {
        self.release = Some(release);
        self
    }
}

impl fmt::Display for CpiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at offset {}: expected {}", self.field, self.offset, self.expected)?;
        if self.found.is_empty() {
            f.write_str(", found the end of the text")?;
        } else {
            write!(f, ", found {:?}", self.found)?;
        }
        match self.release {
            Some(release) => write!(f, " (dictionary release {release})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for CpiError {}
