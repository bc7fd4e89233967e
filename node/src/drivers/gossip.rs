//! Hands gossip to who judges it, by topic.

use super::digests::DigestGate;
use super::motions::MotionDesk;
use super::pending::PendingDesk;
use crate::mesh::{GossipHandler, GossipVerdict, Topic};
use bytes::Bytes;
use cpi::ids::MemberId;
use std::sync::Arc;

/// The judges of all topics.
pub struct GossipDoor {
    /// Judges capacity digests.
    pub digests: Arc<DigestGate>,
    /// Judges signed registrations.
    pub registrations: PendingDesk,
    /// Judges signed votes.
    pub votes: MotionDesk,
}

impl GossipHandler for GossipDoor {
    fn on_gossip(&self, author: MemberId, topic: Topic, payload: Bytes) -> GossipVerdict {
        match topic {
            Topic::Digests => self.digests.on_digest(author, &payload),
            Topic::Registrations => self.registrations.on_registration(author, &payload),
            Topic::Votes => self.votes.on_vote(author, &payload),
        }
    }
}
