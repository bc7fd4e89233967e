//! The one place that names bincode: frames and records as bytes, with a format version first and a size limit always.
//!
//! Integers are variable-length and little-endian (bincode 2 `standard`). A decoder refuses trailing bytes, so that one
//! value has one encoding where it is compared or hashed. Types that are encoded here must not skip fields
//! (`skip_serializing_if`): the encoding is not self-describing.

use bincode::config;
use serde::{Serialize, de::DeserializeOwned};

/// The largest frame or record that is ever decoded, in bytes. Snapshots and artifacts are streams, not frames.
pub const FRAME_BYTES_MAX: usize = 4 << 20;

/// Why bytes were refused or a value could not be written.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// Longer than the caller's bound.
    #[error("{bytes} bytes are more than the {bytes_max} allowed here")]
    TooLarge {
        /// What was given.
        bytes: usize,
        /// What is allowed.
        bytes_max: usize,
    },
    /// No bytes at all.
    #[error("the frame is empty: a format version was expected")]
    Empty,
    /// Another format version than the reader knows.
    #[error("format version {found} is not known here: expected {expected}")]
    Version {
        /// The version byte.
        found: u8,
        /// What the reader can read.
        expected: u8,
    },
    /// The bytes do not hold the expected shape.
    #[error("the bytes are not a valid {what}")]
    Malformed {
        /// The type that was expected.
        what: &'static str,
        /// The decoder's own words.
        #[source]
        source: bincode::error::DecodeError,
    },
    /// Bytes are left over after the value.
    #[error("{count} bytes are left over after the {what}")]
    Trailing {
        /// How many.
        count: usize,
        /// The type that was read.
        what: &'static str,
    },
    /// The value cannot be encoded.
    #[error("the value cannot be encoded")]
    Encode(#[source] bincode::error::EncodeError),
}

/// Encodes `value` after one byte of format `version`.
///
/// # Errors
/// [`CodecError::Encode`] for types that bincode cannot write.
pub fn encode<T: Serialize>(version: u8, value: &T) -> Result<Vec<u8>, CodecError> {
    let mut out = vec![version];
    bincode::serde::encode_into_std_write(value, &mut out, config::standard()).map_err(CodecError::Encode)?;
    Ok(out)
}

/// Decodes a value of format `version` from all of `bytes`, which may be `bytes_max` long at most.
///
/// # Errors
/// Every [`CodecError`] but `Encode`; nothing is allocated beyond `bytes_max`.
pub fn decode<T: DeserializeOwned>(version: u8, bytes: &[u8], bytes_max: usize) -> Result<T, CodecError> {
    let what = std::any::type_name::<T>();
    let bytes_max = bytes_max.min(FRAME_BYTES_MAX);
    if bytes.len() > bytes_max {
        return Err(CodecError::TooLarge { bytes: bytes.len(), bytes_max });
    }
    let (&found, body) = bytes.split_first().ok_or(CodecError::Empty)?;
    if found != version {
        return Err(CodecError::Version { found, expected: version });
    }
    let limits = config::standard().with_limit::<FRAME_BYTES_MAX>();
    let (value, used) =
        bincode::serde::decode_from_slice(body, limits).map_err(|source| CodecError::Malformed { what, source })?;
    if used == body.len() { Ok(value) } else { Err(CodecError::Trailing { count: body.len() - used, what }) }
}
