//! Anti-entropy of pending statements between two members: who lacks what, in bounded frames. Format version 1.
//!
//! ```text
//! A: Compare{sum}  ->  B: Same | Differ
//! A: Have{ids}     ->  B: Missing{what A lacks, what B wants}
//! A: Give{items}   ->  B: Taken
//! ```
//! What does not fit into one frame follows with the next round.

use super::table::{PendingTable, StatementId};
use crate::codec::{self, CodecError};
use crate::time::Now;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Format version of questions and answers.
const VERSION: u8 = 1;
/// Bytes of statements in one frame; one statement may be longer than what is left of it, never than an envelope.
pub const REPAIR_BYTES_MAX: usize = 1 << 20;
/// The largest frame: its statements, one more envelope, and the ids of a full table.
const FRAME_BYTES_MAX: usize = 2 << 20;

/// A statement with how long it has been pending already: durations cross the wire, so that it does not begin to live anew
/// at each member that hears of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairItem {
    /// Milliseconds.
    pub age_ms: u64,
    /// The envelope as signed.
    pub envelope: Vec<u8>,
}

/// A question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RepairQuestion {
    /// Is the same pending at yours?
    Compare {
        /// SHA-256 of all ids in order.
        sum: [u8; 32],
    },
    /// This is pending here.
    Have {
        /// All of it.
        ids: Vec<StatementId>,
    },
    /// What you wanted.
    Give {
        /// The statements.
        items: Vec<RepairItem>,
    },
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RepairAnswer {
    /// Nothing differs.
    Same,
    /// Something does.
    Differ,
    /// What the asker lacks, and what it has that is not here.
    Missing {
        /// As many as fit.
        items: Vec<RepairItem>,
        /// Ids that the asker should give.
        wanted: Vec<StatementId>,
    },
    /// What was given was looked at.
    Taken {
        /// How many are pending here now that were not before.
        new: u32,
    },
}

macro_rules! wire {
    ($type:ty) => {
        impl $type {
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
    };
}
wire!(RepairQuestion);
wire!(RepairAnswer);

impl PendingTable {
    /// What stands for the whole table.
    pub fn sum(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for id in self.ids() {
            hash.update(id.0);
        }
        hash.finalize().into()
    }

    /// Answers a peer that has `theirs`: the statements it lacks, and the ids that are news here.
    pub fn missing(&self, now: Now, theirs: &[StatementId]) -> RepairAnswer {
        let theirs: std::collections::BTreeSet<StatementId> = theirs.iter().copied().collect();
        let lacking: Vec<StatementId> = self.ids().filter(|id| !theirs.contains(id)).collect();
        let wanted = theirs.into_iter().filter(|id| self.is_news(id)).collect();
        RepairAnswer::Missing { items: self.items(now, &lacking), wanted }
    }

    /// The statements of `ids` that are pending here, as many as fit into one frame.
    pub fn items(&self, now: Now, ids: &[StatementId]) -> Vec<RepairItem> {
        let mut room = REPAIR_BYTES_MAX;
        let mut items = Vec::new();
        for item in ids.iter().filter_map(|id| self.item(now, id)) {
            if item.envelope.len() > room && !items.is_empty() {
                break;
            }
            room = room.saturating_sub(item.envelope.len());
            items.push(item);
        }
        items
    }
}
