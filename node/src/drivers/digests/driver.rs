//! The digests' driver: one task that tells the negotiation of members, round trips, digests and identifiers, and publishes
//! the own digest.

use super::asking::Asking;
use super::gate::{DigestGate, Judgement, Received};
use crate::drivers::members::KnownMembers;
use crate::drivers::negotiation::NegotiationHandle;
use crate::mesh::{MeshError, MeshHandle, PeerEvent, StreamClass, Topic};
use async_trait::async_trait;
use bytes::Bytes;
use consensus::envelope::{Envelope, Federation, StatementKind};
use consensus::negotiation::{Digest, Input};
use cpi::identifier::Cpi;
use cpi::ids::{MemberId, StableKey};
use ed25519_dalek::SigningKey;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Between looks at the round trips.
const RTT_EVERY: Duration = Duration::from_secs(2);
/// Between looks at the identifiers that digests name, while the registry changes.
const DESCRIBE_EVERY: Duration = Duration::from_secs(1);
/// A peer that does not answer within this is asked again later.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// Peers asked at one time.
const ASKED_MAX: usize = 16;

/// What finds an identifier's text by its key: the registry's replica.
pub trait IdentifierLookup: Send + Sync {
    /// The identifier in force under `key`.
    fn identifier(&self, key: StableKey) -> Option<Cpi>;
}

/// Who is told what the digests' driver learns.
#[async_trait]
pub trait News: Send + Sync {
    /// Whether the news was taken; else it is told again later.
    async fn tell(&self, input: Input) -> bool;
}

#[async_trait]
impl News for NegotiationHandle {
    async fn tell(&self, input: Input) -> bool {
        self.feed(input).await.inspect_err(|error| tracing::debug!(%error, "the negotiation took no news")).is_ok()
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
    pub news: Arc<dyn News>,
    /// Own digests as they change.
    pub own: watch::Receiver<Option<Digest>>,
    /// Judges digests.
    pub gate: Arc<DigestGate>,
    /// What passed the gate.
    pub received: Received,
    /// Finds identifiers.
    pub identifiers: Arc<dyn IdentifierLookup>,
    /// Changes with each entry that the registry applies.
    pub applied: watch::Receiver<u64>,
    /// Between own digests at least, in ms; unchanged ones go out at a third of `ttl_ms`.
    pub interval_ms: u64,
    /// How long digests may be believed, in ms. A peer that was not heard for half of it is asked.
    pub ttl_ms: u64,
    /// Stops the driver.
    pub stop: CancellationToken,
}

/// Starts the digests' driver.
pub fn start(parts: DigestParts) -> tokio::task::JoinHandle<()> {
    let silence = Duration::from_millis(parts.ttl_ms / 2);
    let driver = Driver {
        asking: Asking::new(silence, 2 * ASK_TIMEOUT),
        asked: JoinSet::new(),
        named: BTreeMap::new(),
        told: BTreeMap::new(),
        rtts: BTreeMap::new(),
        published: None,
        sequence: 0,
        parts,
    };
    tokio::spawn(driver.run())
}

type Answer = (MemberId, Result<Bytes, MeshError>);

struct Driver {
    parts: DigestParts,
    asking: Asking,
    asked: JoinSet<Answer>,
    /// The identifiers that each member's digest names, with the text that was told.
    named: BTreeMap<MemberId, BTreeMap<StableKey, Option<Cpi>>>,
    told: BTreeMap<MemberId, (cpi::resource::RegionPlace, bool)>,
    rtts: BTreeMap<MemberId, Option<u32>>,
    published: Option<(Instant, Digest)>,
    sequence: u64,
}

impl Driver {
    async fn run(mut self) {
        let stop = self.parts.stop.clone();
        let mut events = self.parts.mesh.events();
        let mut applied = self.parts.applied.clone();
        let mut look = tokio::time::interval(RTT_EVERY);
        let mut describe = tokio::time::interval(DESCRIBE_EVERY);
        let mut tick = tokio::time::interval(Duration::from_millis(self.parts.interval_ms.clamp(100, 60_000)));
        for timer in [&mut look, &mut describe, &mut tick] {
            timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        }
        loop {
            let ask_at = self.asking.next_at().filter(|_| self.asked.len() < ASKED_MAX);
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(digest) = self.parts.received.digests.recv() => self.learn(digest).await,
                event = events.recv() => {
                    match event {
                        Err(RecvError::Closed) => return,
                        // The peer may be one that just started: it has none of our digests, and we may have an old one.
                        Ok(PeerEvent::Connected(member)) => self.asking.connected(member, Instant::now()),
                        Ok(PeerEvent::Disconnected(_)) | Err(RecvError::Lagged(_)) => {}
                    }
                    self.look_around().await;
                }
                Some(Ok((member, answer))) = self.asked.join_next() => self.answered(member, answer),
                () = sleep_until(ask_at) => self.ask(),
                _ = look.tick() => self.look_around().await,
                _ = tick.tick() => self.publish().await,
                _ = describe.tick() => {
                    if applied.has_changed().unwrap_or(false) {
                        applied.mark_unchanged();
                        self.describe_again().await;
                    }
                }
            }
        }
    }

    /// Asks the peers whose turn it is, and gives them the own digest.
    fn ask(&mut self) {
        let room = ASKED_MAX - self.asked.len();
        for member in self.asking.take_due(room, Instant::now()) {
            let mesh = self.parts.mesh.clone();
            let own = self.parts.received.own.borrow().clone().unwrap_or_default();
            self.asked
                .spawn(async move { (member, mesh.request(member, StreamClass::Digests, own, ASK_TIMEOUT).await) });
        }
    }

    fn answered(&mut self, member: MemberId, answer: Result<Bytes, MeshError>) {
        let now = Instant::now();
        match answer.map(|payload| self.parts.gate.take(member, &payload)) {
            Ok(Judgement::New | Judgement::Known) => self.asking.heard(member, now),
            Ok(Judgement::NotYet) => self.asking.failed(member, now),
            Ok(Judgement::Wrong) => {
                tracing::warn!(%member, "a digest was wrong by itself");
                self.asking.failed(member, now);
            }
            Err(error) => {
                tracing::debug!(%member, %error, "a peer did not say its digest");
                self.asking.failed(member, now);
            }
        }
    }

    async fn tell(&self, input: Input) -> bool {
        self.parts.news.tell(input).await
    }

    /// Tells the machine of members and round trips that changed.
    pub async fn look_around(&mut self) {
        let members = self.parts.members.load();
        for (member, known) in members.iter() {
            let now = (known.place.clone(), known.active);
            if self.told.get(member) != Some(&now) {
                let input = Input::Member { member: *member, place: now.0.clone(), active: now.1 };
                if !self.tell(input).await {
                    return;
                }
                self.told.insert(*member, now);
                if *member == self.parts.me {
                    self.tell(Input::Rtt { member: *member, rtt_ms: Some(0) }).await;
                }
            }
        }
        let gone: Vec<MemberId> = self.told.keys().filter(|m| !members.contains_key(m)).copied().collect();
        for member in gone {
            if self.tell(Input::MemberGone(member)).await {
                self.told.remove(&member);
                self.rtts.remove(&member);
                self.named.remove(&member);
            }
        }
        let peers = self.parts.mesh.peers();
        self.asking.keep(peers.iter().filter(|peer| peer.connected).map(|peer| peer.member), Instant::now());
        for peer in peers {
            let measured = self.parts.mesh.rtt(peer.member).map_or(1, |rtt| rtt.as_millis().min(60_000) as u32);
            let rtt_ms = peer.connected.then_some(measured);
            let news = self.told.contains_key(&peer.member) && self.rtts.get(&peer.member) != Some(&rtt_ms);
            if news && self.tell(Input::Rtt { member: peer.member, rtt_ms }).await {
                self.rtts.insert(peer.member, rtt_ms);
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
        if self.tell(Input::Digest(Arc::new(digest))).await {
            self.asking.heard(member, Instant::now());
        }
    }

    /// Tells the texts of the identifiers that a digest names, as far as they are new.
    async fn describe(&mut self, digest: &Digest) {
        let mut before = self.named.remove(&digest.member).unwrap_or_default();
        let keys = digest.pools.iter().flat_map(|pool| &pool.identifiers);
        let now = keys.map(|key| (*key, before.remove(key).flatten())).collect();
        self.named.insert(digest.member, now);
        self.describe_member(digest.member).await;
    }

    /// Tells the texts that changed in the registry: identifiers that were revised, or registered after they were named.
    async fn describe_again(&mut self) {
        let members: Vec<MemberId> = self.named.keys().copied().collect();
        for member in members {
            self.describe_member(member).await;
        }
    }

    async fn describe_member(&mut self, member: MemberId) {
        let Some(named) = self.named.get(&member) else { return };
        let mut found = Vec::new();
        for (key, told) in named {
            let in_force = self.parts.identifiers.identifier(*key);
            if let Some(cpi) = in_force.filter(|cpi| told.as_ref() != Some(cpi)) {
                found.push((*key, cpi));
            }
        }
        if !found.is_empty() && self.tell(Input::Identifiers { member, identifiers: found.clone() }).await {
            let named = self.named.entry(member).or_default();
            named.extend(found.into_iter().map(|(key, cpi)| (key, Some(cpi))));
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
        let envelope = Bytes::from(envelope.to_bytes());
        self.parts.received.own.send_replace(Some(envelope.clone()));
        match self.parts.mesh.publish(Topic::Digests, envelope) {
            Ok(()) => self.published = Some((Instant::now(), digest)),
            Err(error) => tracing::debug!(%error, "the digest was not published"),
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
