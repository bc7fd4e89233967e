//! Which connected peer is asked for its digest, and when. Holds no clock.

use cpi::ids::MemberId;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Pause after a question that failed: from, to.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

struct Peer {
    due: Instant,
    pause: Duration,
}

/// When each connected peer is asked next.
pub(super) struct Asking {
    /// A peer that was not heard for so long is asked.
    silence: Duration,
    /// A question that has no answer after this counts as lost.
    patience: Duration,
    peers: BTreeMap<MemberId, Peer>,
}

impl Asking {
    pub fn new(silence: Duration, patience: Duration) -> Self {
        Self { silence, patience, peers: BTreeMap::new() }
    }

    /// A new connection to `member` stands: what was heard of it before may be old, and it may know nothing of us.
    pub fn connected(&mut self, member: MemberId, now: Instant) {
        self.peers.insert(member, Peer { due: now, pause: PAUSE.0 });
    }

    /// Brings the peers in line with those that are connected.
    pub fn keep(&mut self, connected: impl Iterator<Item = MemberId>, now: Instant) {
        let mut before = std::mem::take(&mut self.peers);
        for member in connected {
            let peer = before.remove(&member).unwrap_or(Peer { due: now, pause: PAUSE.0 });
            self.peers.insert(member, peer);
        }
    }

    /// A digest of `member` arrived, by whatever way, or it has none that is newer.
    pub fn heard(&mut self, member: MemberId, now: Instant) {
        if let Some(peer) = self.peers.get_mut(&member) {
            *peer = Peer { due: now + self.silence, pause: PAUSE.0 };
        }
    }

    /// A question to `member` brought nothing.
    pub fn failed(&mut self, member: MemberId, now: Instant) {
        if let Some(peer) = self.peers.get_mut(&member) {
            *peer = Peer { due: now + peer.pause, pause: (peer.pause * 2).min(PAUSE.1) };
        }
    }

    /// When the next peer is to be asked.
    pub fn next_at(&self) -> Option<Instant> {
        self.peers.values().map(|peer| peer.due).min()
    }

    /// At most `room` peers to ask now.
    pub fn take_due(&mut self, room: usize, now: Instant) -> Vec<MemberId> {
        let due = self.peers.iter_mut().filter(|(_, peer)| peer.due <= now).take(room);
        due.map(|(member, peer)| {
            peer.due = now + self.patience;
            *member
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: MemberId = MemberId(1);
    const SILENCE: Duration = Duration::from_secs(15);
    const LOST: Duration = Duration::from_secs(4);

    #[test]
    fn whoever_connects_is_asked_until_heard_and_again_after_silence() {
        let (mut asking, start) = (Asking::new(SILENCE, LOST), Instant::now());
        assert_eq!(asking.next_at(), None);
        asking.connected(ONE, start);
        assert_eq!(asking.take_due(8, start), [ONE]);
        assert!(asking.take_due(8, start).is_empty(), "one question at a time");
        asking.failed(ONE, start);
        assert_eq!(asking.take_due(8, start + PAUSE.0), [ONE]);
        asking.failed(ONE, start);
        assert!(asking.take_due(8, start + PAUSE.0).is_empty(), "the pauses grow");
        assert_eq!(asking.next_at(), Some(start + 2 * PAUSE.0));
        asking.heard(ONE, start);
        assert_eq!(asking.next_at(), Some(start + SILENCE));
        assert_eq!(asking.take_due(8, start + SILENCE), [ONE]);
        assert_eq!(asking.next_at(), Some(start + SILENCE + LOST), "an answer that never comes is not waited for");
        asking.heard(ONE, start + SILENCE);
        asking.connected(ONE, start + SILENCE);
        assert_eq!(asking.next_at(), Some(start + SILENCE), "a new connection is news whatever was heard before");
    }

    #[test]
    fn who_is_gone_is_not_asked_and_who_was_missed_is() {
        let (mut asking, start) = (Asking::new(SILENCE, LOST), Instant::now());
        asking.connected(ONE, start);
        asking.heard(ONE, start);
        asking.keep([ONE, MemberId(2)].into_iter(), start);
        assert_eq!(asking.take_due(8, start), [MemberId(2)]);
        asking.keep(std::iter::empty(), start);
        asking.heard(ONE, start);
        assert_eq!(asking.next_at(), None);
        for member in 0..20 {
            asking.connected(MemberId(member), start);
        }
        assert_eq!(asking.take_due(8, start).len(), 8, "no more at once than there is room");
    }
}
