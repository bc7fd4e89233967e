//! The first entry of a federation: who founded it. Its hash is the federation's id. Only `causeway init` makes one.

use crate::codec;
use crate::time::Timestamp;
use cpi::ids::ContentDigest;
use cpi::resource::RegionPlace;
use serde::{Deserialize, Serialize};

/// The Raft id of the founder's first replica.
pub const FOUNDER_RAFT_ID: u64 = 1;

/// A federation's beginning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Genesis {
    /// The federation's name, for people.
    pub name: String,
    /// When it was founded.
    pub founded_at: Timestamp,
    /// Makes two federations founded alike differ.
    pub nonce: [u8; 16],
    /// The founder's place; it becomes member 1.
    pub place: RegionPlace,
    /// The founder's transport key.
    pub transport_key: [u8; 32],
    /// The founder's signing key.
    pub signing_key: [u8; 32],
    /// Where the founder listens.
    pub addresses: Vec<String>,
    /// Enterprise codes that the founder may register under.
    pub enterprises: Vec<String>,
}

impl Genesis {
    /// The federation's id: SHA-256 of the genesis as encoded.
    pub fn federation_id(&self) -> [u8; 32] {
        ContentDigest::of(&codec::encode(1, self).expect("a genesis has only plain fields")).0
    }
}
