//! The binary form: dictionary indices where the dictionary knows a code, packed characters where it does not, no more
//! than about half of the text. It carries the dictionary release it was written with and the text's own CRC-32C.
//!
//! Layout, all integers most significant bit first: one octet form version, the release (groups of 7 bits, the high bit
//! says that another follows), then a bit stream of the fields in the order of the text, padded with zero bits, then 4
//! octets of the text's CRC-32C. Indices are append-only, so a later release reads what an earlier one wrote.

mod reader;
mod writer;

use super::cpi::FIELDS;

/// The form's version.
const FORM: u8 = 1;
/// The longest binary form that is read, in octets.
pub const BINARY_BYTES_MAX: usize = 512;

/// Why a binary form was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BinaryError {
    /// Longer than [`BINARY_BYTES_MAX`].
    #[error("the binary form has {octets} octets; at most {BINARY_BYTES_MAX} are read")]
    TooLong {
        /// What was given.
        octets: usize,
    },
    /// It ends too early.
    #[error("the binary form ends in the middle of {what}")]
    Truncated {
        /// What was being read.
        what: &'static str,
    },
    /// Another form version.
    #[error("form version {found} is not known here: expected {FORM}")]
    Form {
        /// The version octet.
        found: u8,
    },
    /// It was written with a later release, and uses an index that this release does not have.
    #[error("{what} has index {index}, which dictionary release {release} does not have: fetch release {written_with}")]
    Index {
        /// Which field.
        what: &'static str,
        /// The index.
        index: u32,
        /// The release consulted.
        release: u32,
        /// The release it was written with.
        written_with: u32,
    },
    /// The bits are no identifier, or do not hold their check.
    #[error("the binary form is damaged: {what}")]
    Damaged {
        /// What is wrong.
        what: &'static str,
    },
}

/// Bits that hold every text of `count` characters of an alphabet of `base`.
fn packed_bits(base: u128, count: usize) -> u32 {
    let largest = (0..count).fold(1u128, |product, _| product * base) - 1;
    128 - largest.leading_zeros()
}

const UNITS_BYTES: &[u8] = b"GTPE";
const UNITS_NET: &[u8] = b"MGT";
const TYPES: [&str; 5] = ["GC", "IC", "SC", "EC", "HC"];
const CHIP_TYPES: [&str; 10] = ["CPU", "GPU", "NPU", "TPU", "DCU", "DPU", "FPG", "ASC", "QPU", "ANY"];

const _: () = assert!(FIELDS == 20, "the bit stream names 20 fields");
