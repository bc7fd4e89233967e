//! Extensions: the reserved expansion of the identifier. Known keys stand once and in order; unknown ones are kept as they came.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Name of a partition of the pool (a Slurm partition, an availability group): part of the identity.
pub const PARTITION: &str = "PN";
/// Revision that the owner counts: an attribute.
pub const REVISION: &str = "RV";

/// Whether this version gives the key a meaning.
pub(super) fn is_known(key: &[u8]) -> bool {
    matches!(key, b"PN" | b"RV")
}

/// A key and its value.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Extension {
    /// Two letters. `X` and a letter is private.
    pub key: String,
    /// 1 to 16 letters and digits.
    pub value: String,
}
