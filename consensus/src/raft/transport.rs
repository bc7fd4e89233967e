//! What the registry needs of the mesh: a question and an answer between members, by class.

use async_trait::async_trait;
use bytes::Bytes;
use cpi::ids::MemberId;
use std::time::Duration;

/// Which stream a frame belongs on, so that bulk never delays a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RaftClass {
    /// Votes and heartbeats.
    Control,
    /// Appends.
    Log,
    /// Pieces of snapshots.
    Snapshot,
    /// Proposals and reads on their way to the leader, beacons from it, entries that followers pull.
    Forward,
}

/// Why there is no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TransportError {
    /// Nobody answers there now.
    #[error("member {0} cannot be reached")]
    Unreachable(MemberId),
    /// The deadline passed; the other side may have acted.
    #[error("member {0} did not answer in time")]
    Timeout(MemberId),
    /// The other side answered that it cannot.
    #[error("member {member} refused: {message}")]
    Refused {
        /// Who.
        member: MemberId,
        /// Its words.
        message: String,
    },
}

/// Carries frames between members.
#[async_trait]
pub trait RaftTransport: Send + Sync + 'static {
    /// Asks `to`, and waits for the answer no longer than `deadline`.
    async fn call(
        &self,
        to: MemberId,
        class: RaftClass,
        frame: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, TransportError>;

    /// Members that are known here, this one or not.
    fn members(&self) -> Vec<MemberId>;

    /// The measured round trip; `None` while `to` is not connected.
    fn rtt_ms(&self, to: MemberId) -> Option<u32>;
}
