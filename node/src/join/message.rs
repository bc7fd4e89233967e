//! What joiner and member say to one another. Format version 1.

use super::RosterSeed;
use consensus::codec::{self, CodecError};
use consensus::registry::Genesis;
use cpi::ids::MemberId;
use serde::{Deserialize, Serialize};

const VERSION: u8 = 1;
/// The largest question: two envelopes.
pub(super) const ASK_BYTES_MAX: usize = 32 << 10;
/// The largest answer: a roster.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// The joiner's question, asked until it is answered by something else than `Waiting`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ask {
    /// The invitation's envelope.
    pub invitation: Vec<u8>,
    /// The envelope of [`consensus::registry::command::JoinRequest`], by the joiner's signing key.
    pub request: Vec<u8>,
}

/// The member's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Answer {
    /// It is in.
    Admitted { member: MemberId, raft_id: u64, epoch: u64, genesis: Box<Genesis>, roster: Vec<RosterSeed> },
    /// More members must approve.
    Waiting { have: u32, need: u32 },
    /// The registry cannot commit just now.
    Unavailable { reason: String },
    /// It stays out.
    Refused { reason: String },
}

impl Ask {
    pub fn to_bytes(&self) -> Vec<u8> {
        codec::encode(VERSION, self).expect("a question has only plain fields")
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode(VERSION, bytes, ASK_BYTES_MAX)
    }
}

impl Answer {
    pub fn to_bytes(&self) -> Vec<u8> {
        codec::encode(VERSION, self).expect("an answer has only plain fields")
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode(VERSION, bytes, ANSWER_BYTES_MAX)
    }
}
