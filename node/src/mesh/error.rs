//! Why a frame did not reach a peer, or its answer did not come back.

use super::StreamClass;
use cpi::ids::MemberId;

/// What a caller of the mesh can act on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MeshError {
    /// Nobody of that id is in the roster: never admitted, or expelled.
    #[error("{member} is not a member of this federation")]
    Unknown {
        /// Who was meant.
        member: MemberId,
    },
    /// There is no connection just now; the mesh keeps dialling.
    #[error("{member} cannot be reached")]
    Unreachable {
        /// Who was meant.
        member: MemberId,
    },
    /// The queue here, or the peer, is full. Try again later or shed the work.
    #[error("{member} is busy: too many {} frames wait", class.name())]
    Busy {
        /// Who was meant.
        member: MemberId,
        /// On which class.
        class: StreamClass,
    },
    /// No answer within the deadline. The peer may have acted all the same.
    #[error("{member} did not answer a {} request within {deadline_ms} ms", class.name())]
    Deadline {
        /// Who was asked.
        member: MemberId,
        /// On which class.
        class: StreamClass,
        /// The deadline that passed.
        deadline_ms: u64,
    },
    /// The stream broke before the answer. The peer may have acted all the same.
    #[error("the connection to {member} broke before it answered")]
    Disconnected {
        /// Who was asked.
        member: MemberId,
    },
    /// The frame is longer than its class allows.
    #[error("a {} frame of {bytes} bytes is longer than the {bytes_max} allowed", class.name())]
    TooLarge {
        /// On which class.
        class: StreamClass,
        /// The frame.
        bytes: usize,
        /// The bound.
        bytes_max: usize,
    },
    /// The peer refused the stream: it does not know this node as a member (yet), or lives in another federation or epoch.
    #[error("{member} refused the stream: {reason}")]
    Refused {
        /// Who refused.
        member: MemberId,
        /// In words.
        reason: &'static str,
    },
    /// The peer's handler answered with an error.
    #[error("{member} answered: {message}")]
    Remote {
        /// Who answered.
        member: MemberId,
        /// Its words.
        message: String,
    },
    /// The gossip could not be published.
    #[error("the gossip was not published: {reason}")]
    Publish {
        /// In words.
        reason: String,
    },
    /// The mesh has been stopped.
    #[error("the mesh has been stopped")]
    Stopped,
}

/// Why the mesh could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartMeshError {
    /// A configured address is no multiaddr, or of a transport that is not spoken here.
    #[error(
        "{key} = {text:?} is not an address this node can use: expected e.g. /ip4/127.0.0.1/udp/7400/quic-v1 or /ip4/127.0.0.1/tcp/7400"
    )]
    Address {
        /// The configuration key.
        key: &'static str,
        /// What it held.
        text: String,
    },
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {reason}")]
    Listen {
        /// The address.
        address: String,
        /// The operating system's words.
        reason: String,
    },
    /// The transport could not be built.
    #[error("the transport cannot be built: {0}")]
    Transport(String),
}
