//! The gossip topics and the size of what each carries.

/// A gossip topic.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Topic {
    /// Signed registrations on their way to a quorum.
    Registrations,
    /// Capacity digests of regions.
    Digests,
}

impl Topic {
    /// Both topics.
    pub const ALL: [Self; 2] = [Self::Registrations, Self::Digests];

    /// The topic's name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Registrations => "/causeway/registrations/1.0.0",
            Self::Digests => "/causeway/digests/1.0.0",
        }
    }

    /// The largest payload in bytes: a registry command in its envelope; a digest (2 KiB) in its envelope.
    pub const fn bytes_max(self) -> usize {
        match self {
            Self::Registrations => consensus::envelope::ENVELOPE_BYTES_MAX,
            Self::Digests => (2 << 10) + 256,
        }
    }

    /// Messages one author may send per second, and at once. More are dropped here and not forwarded.
    pub(super) const fn author_budget(self) -> (u32, u32) {
        match self {
            Self::Registrations => (20, 200),
            Self::Digests => (20, 100),
        }
    }
}
