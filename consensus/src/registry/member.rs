//! A member's record: its place, keys, addresses, standing, and what it may register.

use crate::time::Timestamp;
use cpi::ids::MemberId;
use cpi::resource::RegionPlace;
use serde::{Deserialize, Serialize};

/// How long an old key stays good after a rotation.
pub const KEY_OVERLAP_MS: u64 = 24 * 3600 * 1000;
/// Addresses of one member.
pub const ADDRESSES_MAX: usize = 16;
/// Enterprise codes of one member.
pub const ENTERPRISES_MAX: usize = 256;

/// Whether a member takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Standing {
    /// It does.
    Active,
    /// Not for now: it resolves, but registers nothing and gets no new work.
    Suspended,
    /// Never again under this id.
    Expelled,
}

impl Standing {
    /// The word for people and interfaces.
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Expelled => "expelled",
        }
    }
}

/// A key and the registry time until which it is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeySpan {
    /// ed25519.
    pub key: [u8; 32],
    /// `None` while it is in use.
    pub until: Option<Timestamp>,
}

/// A member as the registry knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRecord {
    /// Its id, never used again.
    pub member: MemberId,
    /// Grows by one with each change.
    pub revision: u64,
    /// Where it is.
    pub place: RegionPlace,
    /// Transport keys, the newest first.
    pub transport_keys: Vec<KeySpan>,
    /// Signing keys, the newest first.
    pub signing_keys: Vec<KeySpan>,
    /// Where it listens, as multiaddrs.
    pub addresses: Vec<String>,
    /// Enterprise codes that it may register under.
    pub enterprises: Vec<String>,
    /// Whether it takes part.
    pub standing: Standing,
    /// Why its standing is what it is; empty for active members.
    pub standing_reason: String,
    /// How often its standing changed.
    pub standing_changes: u64,
    /// Its id in Raft; another after its log was lost.
    pub raft_id: u64,
    /// When it was admitted, in registry time.
    pub admitted_at: Timestamp,
    /// Who admitted it.
    pub admitted_by: MemberId,
}

impl MemberRecord {
    /// Whether `key` signs for it at registry time `at`.
    pub fn signs_with(&self, key: &[u8; 32], at: Timestamp) -> bool {
        self.signing_keys.iter().any(|span| span.key == *key && span.until.is_none_or(|until| at < until))
    }
}
