//! What callers of the registry get: outcomes, errors, and how fresh answers are.

use crate::registry::Response;
use crate::time::Timestamp;
use cpi::ids::MemberId;

/// A committed command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// Its log index.
    pub index: u64,
    /// What it came to; may be a refusal.
    pub response: Response,
}

/// Why a command is not known to be committed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ProposeError {
    /// The envelope does not hold; nobody was asked.
    #[error("the command does not hold: {0}")]
    Rejected(String),
    /// No leader, or no quorum, until the deadline. The command may still be committed: send the same bytes again.
    #[error("the registry has no quorum at the moment; the command may still be committed")]
    NoQuorum,
    /// This node is stopping.
    #[error("the registry is stopping")]
    Stopped,
}

/// Why a linearizable read was not possible.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the registry has no quorum at the moment, so this answer could be stale")]
pub struct ReadError;

/// Why there is no snapshot.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the snapshot could not be made: {0}")]
pub struct SnapshotError(pub(super) String);

/// What this replica is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Orders the writes.
    Leader,
    /// Votes.
    Voter,
    /// Stands by.
    Learner,
    /// Is not in Raft's membership (yet).
    Follower,
}

/// How fresh answers of this replica are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    /// Newest applied log index.
    pub applied_index: u64,
    /// The newest beacon of a quorum-confirmed leader that is applied here.
    pub as_of: Option<Timestamp>,
    /// How long ago it was heard.
    pub age_ms: Option<u64>,
    /// Raft's term.
    pub term: u64,
    /// Who leads, as far as known here.
    pub leader: Option<MemberId>,
    /// What this replica is.
    pub role: Role,
}

/// The registry as operators look at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryStatus {
    /// How fresh.
    pub freshness: Freshness,
    /// Newest log index here.
    pub last_log_index: u64,
    /// Newest committed index as far as known.
    pub committed_index: u64,
    /// Index of the newest snapshot.
    pub snapshot_index: u64,
    /// Voters: Raft id and member.
    pub voters: Vec<(u64, MemberId)>,
    /// Learners: Raft id and member.
    pub learners: Vec<(u64, MemberId)>,
    /// Heartbeat interval and election time-outs, in ms.
    pub timers_ms: (u64, u64, u64),
    /// The index at which this replica was found to differ from the leader.
    pub diverged_at: Option<u64>,
    /// Why Raft does not run at the moment, where it should. It is started again with longer and longer pauses.
    pub stopped: Option<String>,
}
