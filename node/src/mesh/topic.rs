//! The gossip topics and the size of what each carries.

/// A gossip topic.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Topic {
    /// Signed registrations on their way to a quorum.
    Registrations,
    /// Capacity digests of regions.
    Digests,
    /// Members' votes on motions.
    Votes,
}

impl Topic {
    /// All topics.
    pub const ALL: [Self; 3] = [Self::Registrations, Self::Digests, Self::Votes];

    /// The topic's name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Registrations => "/causeway/registrations/1.0.0",
            Self::Digests => "/causeway/digests/1.0.0",
            Self::Votes => "/causeway/votes/1.0.0",
        }
    }

    /// The largest payload in bytes: a registry command in its envelope; a digest (2 KiB) or a vote in
    /// its envelope.
    pub const fn bytes_max(self) -> usize {
        match self {
            Self::Registrations => consensus::envelope::ENVELOPE_BYTES_MAX,
            Self::Digests => (2 << 10) + 256,
            Self::Votes => consensus::registry::motion::VOTE_BYTES_MAX + 256,
        }
    }

    /// Messages one author may send per second, and at once. More are dropped here and not forwarded.
    pub(super) const fn author_budget(self) -> (u32, u32) {
        match self {
            Self::Registrations => (20, 200),
            Self::Digests => (20, 100),
            Self::Votes => (2, 64),
        }
    }
}
