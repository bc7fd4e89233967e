//! The classes of streams between two members, and what each may carry. One class never waits behind another.

use libp2p::StreamProtocol;

/// What a stream carries. Between two members there is one long-lived stream per class and direction, except
/// [`StreamClass::Bulk`], where each transfer has a stream of its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum StreamClass {
    /// Votes, heartbeats, read indexes: small, first.
    RaftControl,
    /// Log entries on their way to replicas.
    RaftLog,
    /// Chunks of a registry snapshot.
    RaftSnapshot,
    /// Forwarded commands, pulled entries, anti-entropy, forwarded reads.
    Registry,
    /// Asks, offers, awards.
    Negotiation,
    /// States of tasks on their way to their custodians, promises, signs of life.
    Custody,
    /// What happened to runs, and lease renewals.
    RunEvents,
    /// Live log lines of runs.
    Logs,
    /// Capacity digests asked for, where gossip may not have brought them.
    Digests,
    /// Artifacts and other large contents.
    Bulk,
}

/// The bounds of one class.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClassLimits {
    /// The largest payload of a frame, in bytes.
    pub frame_bytes_max: usize,
    /// Frames that may wait for one peer; one more is answered `Busy`.
    pub queue_frames_max: usize,
    /// Bytes that may wait for one peer.
    pub queue_bytes_max: usize,
    /// Requests of one peer that are served at the same time; one more is answered `Busy`.
    pub serving_max: usize,
}

impl StreamClass {
    /// All classes, in the order of their priority.
    pub const ALL: [Self; 10] = [
        Self::RaftControl,
        Self::RaftLog,
        Self::RaftSnapshot,
        Self::Registry,
        Self::Negotiation,
        Self::Custody,
        Self::RunEvents,
        Self::Logs,
        Self::Digests,
        Self::Bulk,
    ];
    /// The classes that carry frames: all but `Bulk`.
    pub(super) const FRAMED: [Self; 9] = [
        Self::RaftControl,
        Self::RaftLog,
        Self::RaftSnapshot,
        Self::Registry,
        Self::Negotiation,
        Self::Custody,
        Self::RunEvents,
        Self::Logs,
        Self::Digests,
    ];

    /// The class's name in protocol names, logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::RaftControl => "raft_control",
            Self::RaftLog => "raft_log",
            Self::RaftSnapshot => "raft_snapshot",
            Self::Registry => "registry",
            Self::Negotiation => "negotiation",
            Self::Custody => "custody",
            Self::RunEvents => "run_events",
            Self::Logs => "logs",
            Self::Digests => "digests",
            Self::Bulk => "bulk",
        }
    }

    /// The class's bounds. Chosen so that one peer's queues hold at most about 100 MiB, and so that a class holds about
    /// one second of its heaviest expected traffic.
    pub const fn limits(self) -> ClassLimits {
        const KIB: usize = 1 << 10;
        const MIB: usize = 1 << 20;
        let (frame_bytes_max, queue_frames_max, queue_bytes_max, serving_max) = match self {
            Self::RaftControl => (64 * KIB, 256, MIB, 64),
            Self::RaftLog => (2 * MIB, 512, 32 * MIB, 64),
            Self::RaftSnapshot => (2 * MIB, 16, 16 * MIB, 8),
            Self::Registry => (2 * MIB, 4096, 16 * MIB, 1024),
            Self::Negotiation => (256 * KIB, 16_384, 16 * MIB, 4096),
            Self::Custody => (MIB, 16_384, 16 * MIB, 64),
            Self::RunEvents => (256 * KIB, 16_384, 16 * MIB, 4096),
            Self::Logs => (256 * KIB, 1024, 8 * MIB, 64),
            Self::Digests => (4 * KIB, 16, 64 * KIB, 4),
            Self::Bulk => (64 * KIB, 0, 0, 8),
        };
        ClassLimits { frame_bytes_max, queue_frames_max, queue_bytes_max, serving_max }
    }

    pub(super) fn protocol(self) -> StreamProtocol {
        StreamProtocol::new(match self {
            Self::RaftControl => "/causeway/raft_control/1.0.0",
            Self::RaftLog => "/causeway/raft_log/1.0.0",
            Self::RaftSnapshot => "/causeway/raft_snapshot/1.0.0",
            Self::Registry => "/causeway/registry/1.0.0",
            Self::Negotiation => "/causeway/negotiation/1.0.0",
            Self::Custody => "/causeway/custody/1.0.0",
            Self::RunEvents => "/causeway/run_events/1.0.0",
            Self::Logs => "/causeway/logs/1.0.0",
            Self::Digests => "/causeway/digests/1.0.0",
            Self::Bulk => "/causeway/bulk/1.0.0",
        })
    }

    pub(super) const fn index(self) -> usize {
        self as usize
    }
}
