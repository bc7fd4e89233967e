//! The leader's beacon: signed each second while a quorum confirms it, so that a cut-off replica knows that it is stale.

use crate::codec;
use crate::envelope::{Envelope, Federation, StatementKind};
use crate::time::Timestamp;
use ed25519_dalek::SigningKey;
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// What a beacon says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beacon {
    /// The leader's term.
    pub term: u64,
    /// The leader's Raft id.
    pub leader: u64,
    /// An index that is committed and applied at the leader.
    pub index: u64,
    /// The replica hash there.
    pub hash: [u8; 32],
    /// The leader's clock.
    pub at: Timestamp,
    /// The longest p99 round trip between the leader and a voter, in ms: all voters time by the longest that any of them
    /// sees.
    pub round_trip_ms: u32,
}

/// Format version.
const VERSION: u8 = 2;

impl Beacon {
    /// Signs it. The term and clock make it unique; sequences are the registry commands' affair.
    pub fn seal(&self, federation: Federation, key: &SigningKey) -> Vec<u8> {
        let body = codec::encode(VERSION, self).expect("plain fields");
        Envelope::seal(StatementKind::Beacon, federation, key, self.at.0, body).to_bytes()
    }

    /// Reads and verifies one; also whose key signed it.
    pub fn open(bytes: &[u8], federation: &Federation) -> Option<(Self, [u8; 32])> {
        let envelope = Envelope::open(bytes, StatementKind::Beacon, federation).ok()?;
        Some((codec::decode(VERSION, &envelope.body, 256).ok()?, envelope.key))
    }
}

/// How fresh this replica can prove to be.
#[derive(Debug, Default)]
pub struct Proof {
    /// Beacons whose index is not applied here yet, the newest only.
    waiting: Option<(Beacon, Instant)>,
    /// The newest beacon whose index is applied here.
    pub held: Option<(Beacon, Instant)>,
    /// Set once a beacon's hash differs from ours at the same index: this replica must not be believed.
    pub diverged_at: Option<u64>,
}

impl Proof {
    /// Takes a verified beacon.
    pub fn take(&mut self, beacon: Beacon, now: Instant) {
        let newest = self.waiting.or(self.held).map(|(beacon, _)| (beacon.term, beacon.at));
        if newest.is_none_or(|newest| newest < (beacon.term, beacon.at)) {
            self.waiting = Some((beacon, now));
        }
    }

    /// Moves on to `applied`; `hash_at` gives our hash at an index, if it is still known.
    pub fn advance(&mut self, applied: u64, hash_at: impl Fn(u64) -> Option<[u8; 32]>) {
        if let Some((beacon, heard)) = self.waiting
            && beacon.index <= applied
        {
            if hash_at(beacon.index).is_some_and(|hash| hash != beacon.hash) {
                self.diverged_at = Some(beacon.index);
                tracing::error!(
                    index = beacon.index,
                    "this replica's state differs from the leader's: rejoin it from a snapshot"
                );
            }
            self.held = Some((beacon, heard));
            self.waiting = None;
        }
    }
}
