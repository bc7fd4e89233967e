//! An identifier as registered: one revision of it.

use crate::time::Timestamp;
use cpi::ids::{MemberId, StableKey};
use serde::{Deserialize, Serialize};

/// Whether an identifier is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum IdentifierState {
    /// It is.
    Registered,
    /// It ended; it keeps resolving, to this.
    Retired {
        /// What takes its place.
        successor: Option<StableKey>,
    },
}

/// One revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentifierRecord {
    /// Its stable key.
    pub key: StableKey,
    /// From 1.
    pub revision: u64,
    /// Its text, byte for byte as signed.
    pub text: String,
    /// Whose it is.
    pub owner: MemberId,
    /// Whether it is in use.
    pub state: IdentifierState,
    /// The dictionary release that it was checked against.
    pub release: u32,
    /// Registry time of this revision.
    pub committed_at: Timestamp,
    /// Log index of this revision.
    pub index: u64,
    /// The signer's key.
    pub signer: [u8; 32],
    /// SHA-256 of the signed statement that made this revision.
    pub statement: [u8; 32],
}
