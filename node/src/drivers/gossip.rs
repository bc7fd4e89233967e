//! Hands gossip to who judges it, by topic.

use super::digests::DigestGate;
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
}

impl GossipHandler for GossipDoor {
    fn on_gossip(&self, author: MemberId, topic: Topic, payload: Bytes) -> GossipVerdict {
        match topic {
            Topic::Digests => self.digests.on_digest(author, &payload),
            Topic::Registrations => self.registrations.on_registration(author, &payload),
        }
    }
}
