//! Whom to dial when: every member without a connection, with back-off, at the addresses that the roster or the
//! `dial_map` names.

use super::addresses;
use super::roster::Roster;
use cpi::ids::{MemberId, RegionName};
use libp2p::{Multiaddr, PeerId};
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

/// How long the larger member id lets the smaller one dial first.
const YIELD: Duration = Duration::from_millis(300);

struct Dial {
    at: Instant,
    backoff: Duration,
}

pub(super) struct Dialer {
    dial_map: BTreeMap<RegionName, Multiaddr>,
    /// Between two dials of a peer: from, to.
    redial: (Duration, Duration),
    waiting: HashMap<PeerId, Dial>,
}

impl Dialer {
    pub fn new(dial_map: BTreeMap<RegionName, Multiaddr>, redial: (Duration, Duration)) -> Self {
        Self { dial_map, redial, waiting: HashMap::new() }
    }

    /// Has `peer` dialled soon, unless it is going to be already.
    pub fn add(&mut self, peer: PeerId, first: bool) {
        let delay = if first { Duration::ZERO } else { YIELD };
        self.waiting.entry(peer).or_insert(Dial { at: Instant::now() + delay, backoff: self.redial.0 });
    }

    /// A connection stands.
    pub fn done(&mut self, peer: &PeerId) {
        self.waiting.remove(peer);
    }

    pub fn retain(&mut self, wanted: impl Fn(&PeerId) -> bool) {
        self.waiting.retain(|peer, _| wanted(peer));
    }

    pub fn next_at(&self) -> Option<Instant> {
        self.waiting.values().map(|dial| dial.at).min()
    }

    /// Peers to dial now. Each comes again after its back-off, until [`Self::done`].
    pub fn take_due(&mut self) -> Vec<PeerId> {
        let now = Instant::now();
        let (mut due, longest) = (Vec::new(), self.redial.1);
        for (peer, dial) in &mut self.waiting {
            if dial.at <= now {
                due.push(*peer);
                dial.at = now + dial.backoff.mul_f64(1.0 + rand::random::<f64>() / 2.0);
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
