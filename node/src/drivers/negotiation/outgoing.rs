//! The way out: messages of a tick gathered by peer and class, packed into frames, signed once each.

use crate::mesh::{MeshError, MeshHandle, StreamClass};
use crate::trace::TraceId;
use bytes::Bytes;
use consensus::envelope::{Envelope, Federation, StatementKind};
use consensus::negotiation::{Message, MessageClass, seal_frames};
use cpi::ids::MemberId;
use ed25519_dalek::SigningKey;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A frame has one trace id: up to so many are kept apart among the messages to one peer in one tick. Under more load
/// frames are shared and carry none.
const TRACES_PER_TICK: usize = 8;

/// What sends frames to peers: the mesh.
pub trait PeerSender: Send + Sync {
    /// Queues a frame; never blocks.
    ///
    /// # Errors
    /// [`MeshError`] when it cannot be queued: nothing was sent.
    fn send_frame(&self, to: MemberId, class: StreamClass, frame: Bytes) -> Result<(), MeshError>;
}

impl PeerSender for MeshHandle {
    fn send_frame(&self, to: MemberId, class: StreamClass, frame: Bytes) -> Result<(), MeshError> {
        self.send(to, class, frame)
    }
}

/// Signs batches of statements.
#[derive(Clone)]
pub struct Seal {
    key: Arc<SigningKey>,
    federation: Federation,
    sequence: Arc<AtomicU64>,
}

impl Seal {
    /// Signs with `key` in `federation`. The sequence only counts frames of this process: statements are told apart by
    /// task, fence and offer, not by it.
    pub fn new(key: Arc<SigningKey>, federation: Federation, incarnation: u64) -> Self {
        Self { key, federation, sequence: Arc::new(AtomicU64::new(incarnation << 40)) }
    }

    fn seal(&self, body: Vec<u8>) -> Vec<u8> {
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        Envelope::seal(StatementKind::ProviderStatements, self.federation, &self.key, sequence, body).to_bytes()
    }
}

/// Packs, signs and queues messages to one peer. Returns those that found no room.
pub fn send_now(peers: &dyn PeerSender, seal: &Seal, to: MemberId, messages: &[Message]) -> bool {
    let class = match messages.first().map(Message::class) {
        Some(MessageClass::RunEvent) => StreamClass::RunEvents,
        _ => StreamClass::Negotiation,
    };
    let mut sent = true;
    for frame in seal_frames(to, messages, |body| seal.seal(body)) {
        sent &= peers.send_frame(to, class, Bytes::from(frame)).is_ok();
    }
    sent
}

/// Messages of the present tick.
#[derive(Default)]
pub struct Outgoing {
    by_lane: BTreeMap<(MemberId, bool), BTreeMap<TraceId, Vec<Message>>>,
}

impl Outgoing {
    /// Adds a message about the request `trace`.
    pub fn push(&mut self, to: MemberId, trace: TraceId, message: Message) {
        let run_event = message.class() == MessageClass::RunEvent;
        let lane = self.by_lane.entry((to, run_event)).or_default();
        let room = lane.len() < TRACES_PER_TICK || lane.contains_key(&trace);
        lane.entry(if room { trace } else { TraceId::NONE }).or_default().push(message);
    }

    /// Sends everything; returns what could not be sent.
    pub fn flush(&mut self, peers: &dyn PeerSender, seal: &Seal) -> Vec<(MemberId, Vec<Message>)> {
        let mut unsent = Vec::new();
        for ((to, _), lane) in std::mem::take(&mut self.by_lane) {
            for (trace, messages) in lane {
                if !trace.sync_scope(|| send_now(peers, seal, to, &messages)) {
                    unsent.push((to, messages));
                }
            }
        }
        unsent
    }
}
