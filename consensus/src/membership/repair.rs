//! Anti-entropy of votes between two members, in bounded frames. Format version 1.
//!
//! ```text
//! A: Have{ids}   ->  B: Missing{what A lacks, what B wants}
//! A: Give{items} ->  B: Taken
//! ```
//! What does not fit into one frame follows with the next repair.

use super::table::{VOTES_ALL_MAX, VoteId, VoteTable};
use crate::codec::{self, CodecError};
use serde::{Deserialize, Serialize};

const VERSION: u8 = 1;
/// Votes in one frame.
const ITEMS_MAX: usize = 256;
/// The largest frame: its votes, and the ids of a full table.
const FRAME_BYTES_MAX: usize = 1 << 20;

/// A question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum VoteQuestion {
    /// These votes are here.
    Have {
        /// All of them.
        ids: Vec<VoteId>,
    },
    /// What you wanted.
    Give {
        /// The votes.
        items: Vec<Vec<u8>>,
    },
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum VoteAnswer {
    /// What the asker lacks, and what it has that is not here.
    Missing {
        /// As many as fit.
        items: Vec<Vec<u8>>,
        /// Ids that the asker should give.
        wanted: Vec<VoteId>,
    },
    /// What was given was looked at.
    Taken,
}

impl VoteQuestion {
    /// The bytes that travel.
    pub fn to_bytes(&self) -> Vec<u8> {
        codec::encode(VERSION, self).expect("plain fields")
    }

    /// Reads the bytes that travelled.
    ///
    /// # Errors
    /// [`CodecError`]; `TooLarge` also for more ids or votes than a table or a frame holds.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CodecError> {
        let question = codec::decode(VERSION, bytes, FRAME_BYTES_MAX)?;
        let (found, most) = match &question {
            Self::Have { ids } => (ids.len(), VOTES_ALL_MAX),
            Self::Give { items } => (items.len(), ITEMS_MAX),
        };
        if found > most { Err(CodecError::TooLarge { bytes: found, bytes_max: most }) } else { Ok(question) }
    }
}

impl VoteAnswer {
    /// The bytes that travel.
    pub fn to_bytes(&self) -> Vec<u8> {
        codec::encode(VERSION, self).expect("plain fields")
    }

    /// Reads the bytes that travelled.
    ///
    /// # Errors
    /// [`CodecError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode(VERSION, bytes, FRAME_BYTES_MAX)
    }
}

impl VoteTable {
    /// Answers a peer that has `theirs`: the votes it lacks, and the ids that are news here.
    pub fn missing(&self, theirs: &[VoteId]) -> VoteAnswer {
        let theirs: std::collections::BTreeSet<VoteId> = theirs.iter().copied().collect();
        let lacking: Vec<VoteId> = self.ids().filter(|id| !theirs.contains(id)).collect();
        let wanted = theirs.into_iter().filter(|id| !self.has(id)).take(ITEMS_MAX).collect();
        VoteAnswer::Missing { items: self.items(&lacking), wanted }
    }

    /// The votes of `ids` that are here, as many as fit into one frame.
    pub fn items(&self, ids: &[VoteId]) -> Vec<Vec<u8>> {
        ids.iter().filter_map(|id| self.envelope(id)).take(ITEMS_MAX).map(<[u8]>::to_vec).collect()
    }
}
