//! Whom to dial when: every member without a connection, with back-off, at the addresses that the roster or the
//! `dial_map` names.

use super::addresses;
use super::roster::Roster;
use cpi::ids::{MemberId, RegionName};
use libp2p::{Multiaddr, PeerId};
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

/// A connection that stood for this long was a good one: its end is no failed dial.
const STEADY: Duration = Duration::from_secs(5);
/// How long the larger member id lets the smaller one dial first.
const YIELD: Duration = Duration::from_millis(300);

struct Dial {
    /// When to dial; `None` while a connection stands.
    at: Option<Instant>,
    connected: Instant,
    backoff: Duration,
}

pub(super) struct Dialer {
    dial_map: BTreeMap<RegionName, Multiaddr>,
    /// Between two dials of a peer: from, to.
    redial: (Duration, Duration),
    peers: HashMap<PeerId, Dial>,
}

impl Dialer {
    pub fn new(dial_map: BTreeMap<RegionName, Multiaddr>, redial: (Duration, Duration)) -> Self {
        Self { dial_map, redial, peers: HashMap::new() }
    }

    /// Has `peer` dialled soon, unless it is going to be already. A peer that closes what it just accepted (it is starting,
    /// or does not know this node as a member) is dialled with back-off, as one that does not answer.
    pub fn add(&mut self, now: Instant, peer: PeerId, first: bool) {
        let delay = if first { Duration::ZERO } else { YIELD };
        let (shortest, longest) = self.redial;
        let fresh = Dial { at: Some(now + delay), connected: now, backoff: shortest };
        let dial = self.peers.entry(peer).or_insert(fresh);
        if dial.at.is_some() {
            return;
        }
        if now.saturating_duration_since(dial.connected) >= STEADY {
            (dial.at, dial.backoff) = (Some(now + delay), shortest);
        } else {
            dial.at = Some(now + jittered(dial.backoff));
            dial.backoff = (dial.backoff * 2).min(longest);
        }
    }

    /// A connection stands.
    pub fn done(&mut self, now: Instant, peer: &PeerId) {
        let backoff = self.redial.0;
        let dial = self.peers.entry(*peer).or_insert(Dial { at: None, connected: now, backoff });
        (dial.at, dial.connected) = (None, now);
    }

    pub fn retain(&mut self, wanted: impl Fn(&PeerId) -> bool) {
        self.peers.retain(|peer, _| wanted(peer));
    }

    pub fn next_at(&self) -> Option<Instant> {
        self.peers.values().filter_map(|dial| dial.at).min()
    }

    /// Peers to dial now. Each comes again after its back-off, until [`Self::done`].
    pub fn take_due(&mut self, now: Instant) -> Vec<PeerId> {
        let (mut due, longest) = (Vec::new(), self.redial.1);
        for (peer, dial) in &mut self.peers {
            if dial.at.is_some_and(|at| at <= now) {
                due.push(*peer);
                dial.at = Some(now + jittered(dial.backoff));
                dial.backoff = (dial.backoff * 2).min(longest);
            }
        }
        due
    }

    /// Where to dial a member.
    pub fn addresses(&self, roster: &Roster, member: MemberId) -> Vec<Multiaddr> {
        let Some(entry) = roster.members.get(&member) else { return Vec::new() };
        match self.dial_map.get(&entry.region) {
            Some(address) => vec![address.clone()],
            None => addresses::parse_known(&entry.addresses),
        }
    }
}

/// Up to half as long again, so that two nodes do not dial in step.
fn jittered(backoff: Duration) -> Duration {
    backoff.mul_f64(1.0 + rand::random::<f64>() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_hangs_up_at_once_is_not_dialled_in_a_loop() {
        let redial = (Duration::from_millis(200), Duration::from_secs(10));
        let mut dialer = Dialer::new(BTreeMap::new(), redial);
        let peer = PeerId::random();
        let mut now = Instant::now();
        dialer.add(now, peer, true);
        let mut dials = 0;
        let end = now + Duration::from_secs(60);
        while let Some(at) = dialer.next_at().filter(|at| *at < end) {
            now = at;
            assert_eq!(dialer.take_due(now), [peer]);
            dials += 1;
            dialer.done(now, &peer);
            dialer.add(now, peer, true);
        }
        assert!((5..=15).contains(&dials), "{dials} dials in a minute");
        // After a connection that stood, the next dial is due at once.
        dialer.done(now, &peer);
        now += STEADY;
        dialer.add(now, peer, true);
        assert_eq!(dialer.take_due(now), [peer]);
    }
}
