//! Digests on their way: a model of gossip as a lossy, doubling broadcast, not the protocol itself.

use crate::world::{Event, World};
use consensus::negotiation::{BestPlace, Digest, Input};
use std::sync::Arc;

/// How long a digest may be believed, in ms.
const DIGEST_TTL_MS: u64 = 30_000;

impl World {
    pub(crate) fn new_digest(&mut self, index: usize) -> Option<Arc<Digest>> {
        let now_us = self.now_us;
        let node = &mut self.nodes[index];
        let machine = node.machine.as_ref()?;
        node.digests += 1;
        node.told_changes = machine.provider().changes();
        node.told_us = now_us;
        let mut digest = machine.digest(node.digests, DIGEST_TTL_MS.max(3 * self.digest_refresh_ms));
        if node.manners.praises_itself {
            for class in digest.pools.iter_mut().flat_map(|pool| &mut pool.classes) {
                class.free = class.total();
                class.largest_fit = class.per_server;
                class.whole_chips = u32::MAX;
            }
            for told in &mut digest.shapes {
                told.best = Some(BestPlace { added: i8::MIN, left: 0, class: 0 });
            }
        }
        if node.digests <= 3 || node.digests.is_multiple_of(64) {
            self.metrics.digest_bytes = self.metrics.digest_bytes.max(digest.to_bytes().len() as u64);
        }
        Some(Arc::new(digest))
    }

    pub(crate) fn tell_digest(&mut self, index: usize) {
        let node = &self.nodes[index];
        let Some(machine) = &node.machine else { return };
        let changed = machine.provider().changes() != node.told_changes;
        let due = self.now_us - node.told_us >= self.digest_refresh_ms * 1000;
        if !changed && !due {
            return;
        }
        let Some(digest) = self.new_digest(index) else { return };
        for other in self.peers_of(index) {
            if other == index {
                self.handle(index, Input::Digest(Arc::clone(&digest)));
            } else if let Some(us) = self.wan.gossip_arrival(index, other, self.now_us, &mut self.rng) {
                self.at_us(us, Event::Gossip { to: other, digest: Arc::clone(&digest) });
            }
        }
    }

    /// A region that came back is told its peers' capacity when it connects to them.
    pub(crate) fn introduce(&mut self, index: usize) {
        for other in self.peers_of(index) {
            if other == index || !self.wan.is_open(other, index) {
                continue;
            }
            if let Some(digest) = self.new_digest(other) {
                let us = self.now_us + self.wan.one_way_us(other, index);
                self.at_us(us, Event::Gossip { to: index, digest });
            }
        }
    }
}
