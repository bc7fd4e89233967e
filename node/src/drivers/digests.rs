//! Capacity digests on their way out and in: own ones are signed and gossiped when they changed, others' are verified
//! before they are forwarded and then told to the machine; round trips and identifiers go with them.

use super::members::KnownMembers;
use super::negotiation::NegotiationHandle;
use crate::mesh::{GossipVerdict, MeshHandle, Topic};
use bytes::Bytes;
use consensus::envelope::{Envelope, Federation, OpenError, StatementKind};
use consensus::negotiation::{DIGEST_BYTES_MAX, Digest, Input};
use cpi::identifier::Cpi;
use cpi::ids::{MemberId, StableKey};
use ed25519_dalek::SigningKey;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Digests that may wait for the driver; the newest of each region matters only.
const WAITING_MAX: usize = 1_024;
/// After a peer came, the own digest is repeated after so many ms each: it needs a while until gossip reaches it.
const REPEATS_MS: [u64; 5] = [100, 400, 1_000, 2_500, 5_000];
/// Between looks at the round trips.
const RTT_EVERY: Duration = Duration::from_secs(2);

/// What finds an identifier's text by its key: the registry's replica.
pub trait IdentifierLookup: Send + Sync {
    /// The identifier in force under `key`.
    fn identifier(&self, key: StableKey) -> Option<Cpi>;
}

/// The gossip handler's half: verifies a digest where it arrives.
pub struct DigestGate {
    federation: Federation,
    members: KnownMembers,
    newest: Mutex<BTreeMap<MemberId, (u64, u64)>>,
    waiting: mpsc::Sender<Digest>,
}

/// The gate and the driver's end of it.
pub fn gate(federation: Federation, members: KnownMembers) -> (Arc<DigestGate>, mpsc::Receiver<Digest>) {
    let (waiting, waiting_in) = mpsc::channel(WAITING_MAX);
    (Arc::new(DigestGate { federation, members, newest: Mutex::default(), waiting }), waiting_in)
}

impl DigestGate {
    /// Judges a digest of `author` before it is forwarded. What depends on state that may lag here is ignored; what is
    /// wrong by itself is rejected.
    pub fn on_digest(&self, author: MemberId, payload: &[u8]) -> GossipVerdict {
        if payload.len() > DIGEST_BYTES_MAX {
            return GossipVerdict::Reject;
        }
        let envelope = match Envelope::open(payload, StatementKind::Digest, &self.federation) {
            Ok(envelope) => envelope,
            // Another epoch may be news to us.
            Err(OpenError::Federation) => return GossipVerdict::Ignore,
            Err(_) => return GossipVerdict::Reject,
        };
        let Ok(digest) = Digest::from_bytes(&envelope.body) else { return GossipVerdict::Reject };
        if digest.member != author {
            return GossipVerdict::Reject;
        }
        if !self.members.may_sign(author, &envelope.key) {
            return GossipVerdict::Ignore;
        }
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let known = newest.entry(author).or_default();
        let this = (digest.incarnation, digest.sequence);
        if this <= *known {
            return GossipVerdict::Ignore;
        }
        *known = this;
        drop(newest);
        // A full queue loses a hint that the next digest repeats.
        let _ = self.waiting.try_send(digest);
        GossipVerdict::Accept
    }
}

/// What the digests' driver is made of.
pub struct DigestParts {
    /// This member.
    pub me: MemberId,
    /// Its federation.
    pub federation: Federation,
    /// Signs digests.
    pub signing_key: Arc<SigningKey>,
    /// The mesh.
    pub mesh: MeshHandle,
    /// The members.
    pub members: KnownMembers,
    /// The negotiation.
    pub negotiation: NegotiationHandle,
    /// Own digests as they change.
    pub own: watch::Receiver<Option<Digest>>,
    /// Others' digests.
    pub others: mpsc::Receiver<Digest>,
    /// Finds identifiers.
    pub identifiers: Arc<dyn IdentifierLookup>,
    /// Between own digests at least, in ms; unchanged ones go out at a third of `ttl_ms`.
    pub interval_ms: u64,
    /// How long digests may be believed, in ms.
    pub ttl_ms: u64,
    /// Stops the driver.
    pub stop: CancellationToken,
}

/// Starts the digests' driver.
pub fn start(parts: DigestParts) -> tokio::task::JoinHandle<()> {
    let driver = Driver {
        parts,
        described: BTreeMap::new(),
        told: BTreeMap::new(),
        rtts: BTreeMap::new(),
        published: None,
        sequence: 0,
        // peers that connected before this driver ran are as new to us as those that come later
        repeats: repeats_from(Instant::now()),
    };
    tokio::spawn(driver.run())
}

struct Driver {
    parts: DigestParts,
    described: BTreeMap<MemberId, BTreeSet<StableKey>>,
    told: BTreeMap<MemberId, (cpi::resource::RegionPlace, bool)>,
    rtts: BTreeMap<MemberId, Option<u32>>,
    published: Option<(Instant, Digest)>,
    sequence: u64,
    /// When the own digest goes out again whatever it says, the last first.
    repeats: Vec<Instant>,
}

/// When the own digest is repeated for somebody who came at `now`, the last first.
fn repeats_from(now: Instant) -> Vec<Instant> {
    REPEATS_MS.iter().rev().map(|ms| now + Duration::from_millis(*ms)).collect()
}

impl Driver {
    async fn run(mut self) {
        let stop = self.parts.stop.clone();
        let mut events = self.parts.mesh.events();
        let mut look = tokio::time::interval(RTT_EVERY);
        let mut tick = tokio::time::interval(Duration::from_millis(self.parts.interval_ms.clamp(100, 60_000)));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let repeat = self.repeats.last().copied();
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(digest) = self.parts.others.recv() => self.learn(digest).await,
                event = events.recv() => {
                    if matches!(event, Err(tokio::sync::broadcast::error::RecvError::Closed)) {
                        return;
                    }
                    self.look_around().await;
                    // Whoever just came has none of our digests yet.
                    if matches!(event, Ok(crate::mesh::PeerEvent::Connected(_))) {
                        self.repeats = repeats_from(Instant::now());
                    }
                }
                () = tokio::time::sleep_until(repeat.unwrap_or_else(Instant::now).into()), if repeat.is_some() => {
                    self.repeats.pop();
                    self.published = None;
                    self.publish().await;
                }
                _ = look.tick() => self.look_around().await,
                _ = tick.tick() => self.publish().await,
            }
        }
    }

    async fn feed(&self, input: Input) {
        if let Err(error) = self.parts.negotiation.feed(input).await {
            tracing::debug!(%error, "the negotiation took no news");
        }
    }

    /// Tells the machine of members and round trips that changed.
    pub async fn look_around(&mut self) {
        let members = self.parts.members.load();
        for (member, known) in members.iter() {
            let now = (known.place.clone(), known.active);
            if self.told.get(member) != Some(&now) {
                let input = Input::Member { member: *member, place: now.0.clone(), active: now.1 };
                self.told.insert(*member, now);
                self.feed(input).await;
                if *member == self.parts.me {
                    self.feed(Input::Rtt { member: *member, rtt_ms: Some(0) }).await;
                }
            }
        }
        let gone: Vec<MemberId> = self.told.keys().filter(|m| !members.contains_key(m)).copied().collect();
        for member in gone {
            self.told.remove(&member);
            self.rtts.remove(&member);
            self.described.remove(&member);
            self.feed(Input::MemberGone(member)).await;
        }
        for peer in self.parts.mesh.peers() {
            let measured = self.parts.mesh.rtt(peer.member).map_or(1, |rtt| rtt.as_millis().min(60_000) as u32);
            let rtt_ms = peer.connected.then_some(measured);
            if self.told.contains_key(&peer.member) && self.rtts.get(&peer.member) != Some(&rtt_ms) {
                self.rtts.insert(peer.member, rtt_ms);
                self.feed(Input::Rtt { member: peer.member, rtt_ms }).await;
            }
        }
    }

    /// Takes another region's digest in, with the identifiers that it names.
    async fn learn(&mut self, digest: Digest) {
        let member = digest.member;
        if !self.told.contains_key(&member) {
            self.look_around().await;
        }
        self.describe(&digest).await;
        self.feed(Input::Digest(Box::new(digest))).await;
    }

    async fn describe(&mut self, digest: &Digest) {
        let known = self.described.entry(digest.member).or_default();
        let named = digest.pools.iter().flat_map(|p| &p.identifiers);
        let mut found = Vec::new();
        for key in named.filter(|key| !known.contains(key)) {
            if let Some(cpi) = self.parts.identifiers.identifier(*key) {
                found.push((*key, cpi));
            }
        }
        if !found.is_empty() {
            known.extend(found.iter().map(|(key, _)| *key));
            self.feed(Input::Identifiers { member: digest.member, identifiers: found }).await;
        }
    }

    /// Publishes the own digest if it changed, or if the last one is getting old.
    async fn publish(&mut self) {
        let Some(mut digest) = self.parts.own.borrow_and_update().clone() else { return };
        if !self.told.contains_key(&self.parts.me) {
            self.look_around().await;
        }
        self.describe(&digest).await;
        let fresh = Duration::from_millis(self.parts.ttl_ms / 3);
        if let Some((at, last)) = &self.published {
            let same = last.pools == digest.pools && last.draining == digest.draining;
            if same && at.elapsed() < fresh {
                return;
            }
        }
        self.sequence += 1;
        digest.sequence = self.sequence;
        digest.ttl_ms = self.parts.ttl_ms;
        let body = digest.to_bytes();
        let sequence = digest.incarnation << 32 | self.sequence;
        let envelope =
            Envelope::seal(StatementKind::Digest, self.parts.federation, &self.parts.signing_key, sequence, body);
        match self.parts.mesh.publish(Topic::Digests, Bytes::from(envelope.to_bytes())) {
            Ok(()) => self.published = Some((Instant::now(), digest)),
            Err(error) => tracing::debug!(%error, "the digest was not published"),
        }
    }
}
