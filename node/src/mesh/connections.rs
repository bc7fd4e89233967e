//! The one connection of each member that counts, and which of two is kept.
//!
//! A node that was killed says no goodbye: its peers keep its old connection until that falls silent, while it dials them
//! anew. Protocols that keep state per peer, gossip above all, must then see the peer leave and come, and must not send
//! into the dead connection. So of each peer one connection counts at a time.

use libp2p::PeerId;
use libp2p::core::ConnectedPoint;
use libp2p::swarm::ConnectionId;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Two connections in opposite directions within this time came from a simultaneous dial, and both ends must keep the same
/// one: they may see them in another order. Later, the new connection means that the peer lost the old one.
const SIMULTANEOUS: Duration = Duration::from_millis(1_500);

/// A connection that counts.
pub(super) struct Standing {
    pub id: ConnectionId,
    pub endpoint: ConnectedPoint,
    since: Instant,
}

/// What becomes of a new connection.
pub(super) enum Settled {
    /// It counts. The one that counted before, if there was one, no longer does.
    Counts(Option<Standing>),
    /// The one before it goes on to count.
    Surplus,
}

/// The standing connections of all peers.
pub(super) struct Connections {
    me: PeerId,
    standing: HashMap<PeerId, Standing>,
}

impl Connections {
    pub fn new(me: PeerId) -> Self {
        Self { me, standing: HashMap::new() }
    }

    /// Whether a connection to `peer` stands.
    pub fn stands(&self, peer: &PeerId) -> bool {
        self.standing.contains_key(peer)
    }

    /// Whether `connection` is the one to `peer` that counts.
    pub fn counts(&self, peer: &PeerId, connection: ConnectionId) -> bool {
        self.of(peer) == Some(connection)
    }

    /// The connection to `peer` that counts.
    pub fn of(&self, peer: &PeerId) -> Option<ConnectionId> {
        self.standing.get(peer).map(|standing| standing.id)
    }

    /// Decides on a new connection.
    pub fn settle(&mut self, peer: PeerId, id: ConnectionId, endpoint: ConnectedPoint) -> Settled {
        let dialled = endpoint.is_dialer();
        if let Some(old) = self.standing.get(&peer) {
            let simultaneous = old.endpoint.is_dialer() != dialled && old.since.elapsed() < SIMULTANEOUS;
            // Of a simultaneous pair, the one that the smaller peer id dialled is kept.
            if simultaneous && dialled != (self.me < peer) {
                return Settled::Surplus;
            }
        }
        Settled::Counts(self.standing.insert(peer, Standing { id, endpoint, since: Instant::now() }))
    }

    /// Forgets a connection that is closed; whether it was the one that counted.
    pub fn remove(&mut self, peer: &PeerId, id: ConnectionId) -> bool {
        let counted = self.counts(peer, id);
        if counted {
            self.standing.remove(peer);
        }
        counted
    }

    /// Forgets a connection that did not come about.
    pub fn withdraw(&mut self, id: ConnectionId) {
        self.standing.retain(|_, standing| standing.id != id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use libp2p::Multiaddr;
    use libp2p::core::Endpoint;
    use libp2p::core::transport::PortUse;

    fn endpoint(dialled: bool) -> ConnectedPoint {
        let address = Multiaddr::empty();
        if dialled {
            ConnectedPoint::Dialer { address, role_override: Endpoint::Dialer, port_use: PortUse::New }
        } else {
            ConnectedPoint::Listener { local_addr: address.clone(), send_back_addr: address }
        }
    }

    #[test]
    fn both_ends_of_a_simultaneous_dial_keep_the_same_connection() {
        let (a, b) = (PeerId::random(), PeerId::random());
        let (from_a, from_b) = (ConnectionId::new_unchecked(1), ConnectionId::new_unchecked(2));
        for a_sees_own_first in [true, false] {
            for b_sees_own_first in [true, false] {
                let survivor = |me, peer, own, other, own_first| {
                    let mut connections = Connections::new(me);
                    let order = if own_first { [(own, true), (other, false)] } else { [(other, false), (own, true)] };
                    for (id, dialled) in order {
                        connections.settle(peer, id, endpoint(dialled));
                    }
                    connections.of(&peer)
                };
                let at_a = survivor(a, b, from_a, from_b, a_sees_own_first);
                let at_b = survivor(b, a, from_b, from_a, b_sees_own_first);
                assert!(at_a.is_some());
                assert_eq!(at_a, at_b);
            }
        }
    }

    #[test]
    fn a_peer_that_dials_again_replaces_its_connection() {
        let peer = PeerId::random();
        let mut connections = Connections::new(PeerId::random());
        let (old, new) = (ConnectionId::new_unchecked(1), ConnectionId::new_unchecked(2));
        assert!(matches!(connections.settle(peer, old, endpoint(false)), Settled::Counts(None)));
        let Settled::Counts(Some(before)) = connections.settle(peer, new, endpoint(false)) else {
            panic!("the new one counts");
        };
        assert_eq!(before.id, old);
        assert!(!connections.remove(&peer, old), "the new one still stands");
        assert!(connections.counts(&peer, new));
        assert!(connections.remove(&peer, new));
        assert!(!connections.stands(&peer));
    }
}
