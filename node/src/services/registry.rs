//! What services need of the replicated registry: reads of this replica, its freshness, and a door for signed commands.
//!
//! The driver implements it on the registry's handle and the node's signing key; tests on a state in memory.

use super::identifier_views::{FreshnessView, RegistryStatusView};
use crate::drivers::refused::RefusedClaim;
use async_trait::async_trait;
use consensus::registry::pending::PendingView;
use consensus::registry::{Command, RegistryReader, Response};
use cpi::ids::{MemberId, StableKey};
use std::path::PathBuf;
use tokio::sync::watch;

/// Why the registry did not do what was asked. Nothing was changed, unless `Timeout` says that it may come.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// No quorum can be reached.
    #[error("the registry has no quorum at the moment")]
    NoQuorum,
    /// It took too long; the command may still be committed.
    #[error("the registry did not answer in {ms} ms; the command may still be committed")]
    Timeout {
        /// How long was waited.
        ms: u64,
    },
    /// The registry is overloaded.
    #[error("the registry is overloaded")]
    Busy,
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

/// What came of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A quorum has it, and it is applied here.
    Committed {
        /// Its place in the log.
        index: u64,
        /// What it came to.
        response: Response,
    },
    /// It is durable here and will be sent until a quorum has it.
    Pending,
}

/// The registry as services see it.
#[async_trait]
pub trait Registry: Send + Sync {
    /// Who this node is.
    fn me(&self) -> MemberId;
    /// A consistent view of the replica here.
    fn reader(&self) -> RegistryReader;
    /// How fresh it is.
    fn freshness(&self) -> FreshnessView;
    /// Leader, term, indexes.
    fn status(&self) -> RegistryStatusView;
    /// The applied index, as it grows.
    fn watch_applied(&self) -> watch::Receiver<u64>;
    /// Waits until everything committed before the call is applied here.
    async fn catch_up(&self) -> Result<(), RegistryError>;
    /// Signs a command as this node and brings it to the leader.
    async fn submit(&self, command: Command) -> Result<Outcome, RegistryError>;
    /// Claims on identifiers that wait for a quorum, of all members as far as heard here.
    fn pending(&self) -> Vec<PendingView>;
    /// Those on one identifier.
    fn pending_of(&self, key: &StableKey) -> Vec<PendingView>;
    /// What was refused of an identifier after it was acknowledged as pending here.
    fn refused_of(&self, key: &StableKey) -> Option<RefusedClaim>;
    /// What a member's replica is: `leader`, `voter`, `learner`, `follower`.
    fn role_of(&self, member: MemberId) -> &'static str;
    /// Makes a snapshot; its folder and the last index in it.
    async fn snapshot(&self) -> Result<(PathBuf, u64), RegistryError>;
}

/// An instant of the registry as people read it.
pub fn rfc3339(at: consensus::time::Timestamp) -> String {
    let ms = i64::try_from(at.0).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(ms).map_or_else(|_| format!("{ms} ms"), |at| at.to_string())
}
