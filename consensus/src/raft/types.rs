//! The types that openraft is told to work with.

use crate::registry::Response;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A log entry's content: bytes of [`crate::registry::Entry`], as signed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal(pub Bytes);

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proposal({} bytes)", self.0.len())
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// What applying an entry gave. `None` for entries of Raft itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome(pub Option<Response>);

/// A replica in Raft's membership: whose it is. Addresses are the roster's affair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Peer {
    /// The member's number.
    pub member: u64,
}

openraft::declare_raft_types!(
    /// Plain Raft: at most one leader per term.
    pub Types:
        D = Proposal,
        R = Outcome,
        NodeId = u64,
        Node = Peer,
        Term = u64,
        LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>,
);

pub type LogId = openraft::alias::LogIdOf<Types>;
pub type Vote = openraft::alias::VoteOf<Types>;
pub type Entry = openraft::alias::EntryOf<Types>;
pub type StoredMembership = openraft::alias::StoredMembershipOf<Types>;
pub type SnapshotMeta = openraft::alias::SnapshotMetaOf<Types>;
pub type Raft = openraft::Raft<Types, super::state_machine::StateMachine>;
