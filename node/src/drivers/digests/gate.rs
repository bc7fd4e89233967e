//! Where digests come in: verified before they are forwarded, and given to whoever asks.

use crate::drivers::members::KnownMembers;
use crate::mesh::{FrameHandler, GossipVerdict, StreamClass};
use async_trait::async_trait;
use bytes::Bytes;
use consensus::envelope::{Envelope, Federation, OpenError, StatementKind};
use consensus::negotiation::{DIGEST_BYTES_MAX, Digest};
use cpi::ids::MemberId;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{mpsc, watch};

/// Digests that may wait for the driver; the newest of each region matters only.
const WAITING_MAX: usize = 1_024;

/// What a digest is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// Newer than what was known: the driver has it.
    New,
    /// Nothing newer than what was known.
    Known,
    /// It depends on what this node does not know (yet): its signer or its epoch.
    NotYet,
    /// Wrong by itself.
    Wrong,
}

/// The driver's end of the gate.
pub struct Received {
    /// Others' digests.
    pub(super) digests: mpsc::Receiver<Digest>,
    /// The own digest in its envelope, for those who ask.
    pub(super) own: watch::Sender<Option<Bytes>>,
}

/// Verifies digests where they arrive, and answers those who ask for the own one.
pub struct DigestGate {
    federation: Federation,
    members: KnownMembers,
    newest: Mutex<BTreeMap<MemberId, (u64, u64)>>,
    waiting: mpsc::Sender<Digest>,
    own: watch::Receiver<Option<Bytes>>,
}

/// The gate and the driver's end of it.
pub fn gate(federation: Federation, members: KnownMembers) -> (Arc<DigestGate>, Received) {
    let (waiting, digests) = mpsc::channel(WAITING_MAX);
    let (own, own_out) = watch::channel(None);
    let gate = DigestGate { federation, members, newest: Mutex::default(), waiting, own: own_out };
    (Arc::new(gate), Received { digests, own })
}

impl DigestGate {
    /// Judges a digest that claims to be of `author`, and takes it in if it is new.
    pub fn take(&self, author: MemberId, payload: &[u8]) -> Judgement {
        if payload.len() > DIGEST_BYTES_MAX {
            return Judgement::Wrong;
        }
        let envelope = match Envelope::open(payload, StatementKind::Digest, &self.federation) {
            Ok(envelope) => envelope,
            // Another epoch may be news to us.
            Err(OpenError::Federation) => return Judgement::NotYet,
            Err(_) => return Judgement::Wrong,
        };
        let Ok(digest) = Digest::from_bytes(&envelope.body) else { return Judgement::Wrong };
        if digest.member != author {
            return Judgement::Wrong;
        }
        if !self.members.may_sign(author, &envelope.key) {
            return Judgement::NotYet;
        }
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let known = newest.entry(author).or_default();
        let this = (digest.incarnation, digest.sequence);
        if this <= *known {
            return Judgement::Known;
        }
        // A full queue loses a hint: the next digest repeats it, or its author is asked.
        if self.waiting.try_send(digest).is_err() {
            return Judgement::NotYet;
        }
        *known = this;
        Judgement::New
    }

    /// Judges a gossiped digest of `author` before it is forwarded. What depends on state that may lag here is ignored; what
    /// is wrong by itself is rejected.
    pub fn on_digest(&self, author: MemberId, payload: &[u8]) -> GossipVerdict {
        match self.take(author, payload) {
            Judgement::New => GossipVerdict::Accept,
            Judgement::Known | Judgement::NotYet => GossipVerdict::Ignore,
            Judgement::Wrong => GossipVerdict::Reject,
        }
    }
}

/// A question carries the asker's own digest, or nothing if it has none yet; the answer is this node's, in its envelope.
#[async_trait]
impl FrameHandler for DigestGate {
    async fn on_request(&self, from: MemberId, _: StreamClass, frame: Bytes) -> Result<Bytes, String> {
        if !frame.is_empty() && self.take(from, &frame) == Judgement::Wrong {
            tracing::warn!(member = %from, "a digest was wrong by itself");
            return Err("the digest in the question is wrong".to_owned());
        }
        let mut own = self.own.clone();
        let known = own.wait_for(Option::is_some).await.map_err(|_| "the node is stopping".to_owned())?;
        Ok(known.clone().unwrap_or_default())
    }

    fn on_frame(&self, from: MemberId, _: StreamClass, frame: Bytes) {
        tracing::debug!(member = %from, bytes = frame.len(), "a digest without a question is not awaited");
    }
}
