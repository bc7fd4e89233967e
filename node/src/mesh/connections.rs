//! Which connections stand, and which one of two to the same peer is kept.

use libp2p::PeerId;
use libp2p::swarm::ConnectionId;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Two connections in opposite directions within this time came from a simultaneous dial, and both ends must keep the same
/// one. Later, a new connection means that the peer lost the old one.
const SIMULTANEOUS: Duration = Duration::from_secs(3);

struct Open {
    id: ConnectionId,
    dialled: bool,
    since: Instant,
}

#[derive(Default)]
pub(super) struct Connections {
    members: HashMap<PeerId, Vec<Open>>,
    strangers: HashMap<PeerId, Vec<ConnectionId>>,
}

impl Connections {
    /// Whether a member's connection to `peer` stands.
    pub fn is_member(&self, peer: &PeerId) -> bool {
        self.members.contains_key(peer)
    }

    /// The stranger's connections to `peer` that stand.
    pub fn strangers_of(&self, peer: &PeerId) -> Vec<ConnectionId> {
        self.strangers.get(peer).cloned().unwrap_or_default()
    }

    pub fn add_stranger(&mut self, peer: PeerId, id: ConnectionId) {
        self.strangers.entry(peer).or_default().push(id);
    }

    /// Adds a member's connection; returns those to close, so that one is left.
    pub fn add_member(&mut self, me: PeerId, peer: PeerId, id: ConnectionId, dialled: bool) -> Vec<ConnectionId> {
        let open = self.members.entry(peer).or_default();
        let mut surplus = Vec::new();
        let mut keep_new = true;
        for other in open.iter() {
            let simultaneous = other.dialled != dialled && other.since.elapsed() < SIMULTANEOUS;
            // Of a simultaneous pair, the one that the smaller peer id dialled is kept.
            if simultaneous && dialled != (me < peer) {
                keep_new = false;
            } else {
                surplus.push(other.id);
            }
        }
        if !keep_new {
            surplus.push(id);
        }
        open.push(Open { id, dialled, since: Instant::now() });
        surplus
    }

    /// Removes a connection; returns whether another of the peer's still stands, or it was a stranger's.
    pub fn remove(&mut self, peer: &PeerId, id: ConnectionId) -> bool {
        if let Some(strangers) = self.strangers.get_mut(peer) {
            let before = strangers.len();
            strangers.retain(|open| *open != id);
            let removed = strangers.len() < before;
            if strangers.is_empty() {
                self.strangers.remove(peer);
            }
            if removed && self.members.contains_key(peer) {
                return true;
            }
        }
        let Some(open) = self.members.get_mut(peer) else { return false };
        open.retain(|open| open.id != id);
        let left = !open.is_empty();
        if !left {
            self.members.remove(peer);
        }
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_of_a_simultaneous_dial_keep_the_same_connection() {
        let (a, b) = (PeerId::random(), PeerId::random());
        let (from_a, from_b) = (ConnectionId::new_unchecked(1), ConnectionId::new_unchecked(2));
        for a_sees_own_first in [true, false] {
            for b_sees_own_first in [true, false] {
                let survivor = |me, peer, own, other, own_first| {
                    let mut connections = Connections::default();
                    let order = if own_first { [(own, true), (other, false)] } else { [(other, false), (own, true)] };
                    let mut left = vec![from_a, from_b];
                    for (id, dialled) in order {
                        for closed in connections.add_member(me, peer, id, dialled) {
                            left.retain(|open| *open != closed);
                        }
                    }
                    left
                };
                let at_a = survivor(a, b, from_a, from_b, a_sees_own_first);
                let at_b = survivor(b, a, from_b, from_a, b_sees_own_first);
                assert_eq!((at_a.len(), &at_a), (1, &at_b));
            }
        }
    }

    #[test]
    fn a_peer_that_dials_again_replaces_its_connection() {
        let (me, peer) = (PeerId::random(), PeerId::random());
        let mut connections = Connections::default();
        let (old, new) = (ConnectionId::new_unchecked(1), ConnectionId::new_unchecked(2));
        assert!(connections.add_member(me, peer, old, false).is_empty());
        assert_eq!(connections.add_member(me, peer, new, false), [old]);
        assert!(connections.remove(&peer, old), "the new one still stands");
        assert!(!connections.remove(&peer, new));
        assert!(!connections.is_member(&peer));
    }
}
