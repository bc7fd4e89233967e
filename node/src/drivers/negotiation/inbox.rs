//! The way in: frames of peers are verified and decoded where they arrive, then queued for the driver by urgency.
//!
//! New questions are shed first: with their queue full they are declined as `busy` at once, while everything that moves
//! or ends work in hand still gets in.

use super::outgoing::{PeerSender, Seal, send_now};
use crate::drivers::members::KnownMembers;
use crate::mesh::{FrameHandler, StreamClass};
use crate::trace::TraceId;
use async_trait::async_trait;
use bytes::Bytes;
use consensus::custody;
use consensus::envelope::{Envelope, Federation, StatementKind};
use consensus::negotiation::{Decline, Message, MessageClass, open_frame};
use cpi::ids::MemberId;
use cpi::reason::ReasonCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;
use tokio::sync::mpsc;

/// Questions that may wait: about a second of the heaviest traffic; more would be older than their askers wait.
const QUESTIONS_MAX: usize = 4_096;
/// Messages about work in hand that may wait.
const CONTRACTS_MAX: usize = 65_536;
/// Messages of custodians that may wait; those that find no room come again.
const CUSTODY_MAX: usize = 16_384;
/// When a shed question may be asked again.
const SHED_RETRY_MS: u64 = 1_000;

/// A message with its sender and the moment it came.
#[derive(Debug)]
pub struct Incoming {
    /// Who says it.
    pub from: MemberId,
    /// What.
    pub message: Message,
    /// When it came.
    pub at: Instant,
    /// The request that it is about, as its sender says.
    pub trace: TraceId,
}

/// The driver's ends of the queues.
pub struct Queues {
    pub(super) questions: mpsc::Receiver<Incoming>,
    pub(super) contracts: mpsc::Receiver<Incoming>,
    pub(super) custody: mpsc::Receiver<(MemberId, custody::Message)>,
    pub(super) answer: Arc<OnceLock<Answering>>,
}

pub(super) struct Answering {
    pub(super) peers: Arc<dyn PeerSender>,
    pub(super) seal: Seal,
}

/// Counters of the way in.
#[derive(Debug, Default)]
pub struct InboxStats {
    /// Frames that were refused.
    pub refused: AtomicU64,
    /// Questions that were shed.
    pub shed: AtomicU64,
    /// Messages about work in hand that found no room.
    pub dropped: AtomicU64,
}

/// Serves the classes `Negotiation`, `Custody` and `RunEvents` of the mesh.
pub struct Inbox {
    me: MemberId,
    federation: Federation,
    members: KnownMembers,
    questions: mpsc::Sender<Incoming>,
    contracts: mpsc::Sender<Incoming>,
    custody: mpsc::Sender<(MemberId, custody::Message)>,
    answer: Arc<OnceLock<Answering>>,
    stats: InboxStats,
}

/// The way in and the driver's ends of its queues.
pub fn inbox(me: MemberId, federation: Federation, members: KnownMembers) -> (Arc<Inbox>, Queues) {
    let (questions, questions_in) = mpsc::channel(QUESTIONS_MAX);
    let (contracts, contracts_in) = mpsc::channel(CONTRACTS_MAX);
    let (custody, custody_in) = mpsc::channel(CUSTODY_MAX);
    let answer = Arc::new(OnceLock::new());
    let stats = InboxStats::default();
    let inbox = Inbox { me, federation, members, questions, contracts, custody, answer: Arc::clone(&answer), stats };
    (Arc::new(inbox), Queues { questions: questions_in, contracts: contracts_in, custody: custody_in, answer })
}

impl Inbox {
    /// Its counters.
    pub fn stats(&self) -> &InboxStats {
        &self.stats
    }

    fn verify(&self, from: MemberId, envelope: &[u8]) -> Result<Vec<u8>, String> {
        let opened = Envelope::open(envelope, StatementKind::ProviderStatements, &self.federation)
            .map_err(|error| error.to_string())?;
        if self.members.may_sign(from, &opened.key) {
            Ok(opened.body)
        } else {
            Err(format!("the key is not one of {from}'s"))
        }
    }

    fn take(&self, from: MemberId, frame: &[u8]) {
        let messages = match open_frame(self.me, frame, |envelope| self.verify(from, envelope)) {
            Ok(messages) => messages,
            Err(error) => {
                self.stats.refused.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(member = %from, %error, "a negotiation frame was refused");
                return;
            }
        };
        let (at, trace) = (Instant::now(), TraceId::current());
        for message in messages {
            let question = message.class() == MessageClass::Question;
            let queue = if question { &self.questions } else { &self.contracts };
            match queue.try_send(Incoming { from, message, at, trace }) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(incoming)) if question => self.shed(incoming),
                Err(_) => {
                    self.stats.dropped.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }

    /// Custodians speak for themselves: the stream says who they are.
    fn take_custody(&self, from: MemberId, frame: &[u8]) {
        match custody::open_frame(from, frame) {
            Ok(messages) => {
                for message in messages {
                    if self.custody.try_send((from, message)).is_err() {
                        self.stats.dropped.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
            Err(error) => {
                self.stats.refused.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(member = %from, %error, "a custody frame was refused");
            }
        }
    }

    /// Declines a question for which there is no room.
    fn shed(&self, incoming: Incoming) {
        self.stats.shed.fetch_add(1, Ordering::Relaxed);
        let (Some(answering), Message::Ask(ask)) = (self.answer.get(), incoming.message) else { return };
        let decline = Decline {
            task: ask.task,
            fence: ask.fence,
            origin: incoming.from,
            reason: ReasonCode::Busy.into(),
            retry_after_ms: SHED_RETRY_MS,
            status: Vec::new(),
            counter: None,
        };
        let message = Message::Decline(Box::new(decline));
        send_now(answering.peers.as_ref(), &answering.seal, incoming.from, &[message]);
    }
}

#[async_trait]
impl FrameHandler for Inbox {
    async fn on_request(&self, _: MemberId, _: StreamClass, _: Bytes) -> Result<Bytes, String> {
        Err("negotiation speaks in one-way frames".to_owned())
    }

    fn on_frame(&self, from: MemberId, class: StreamClass, frame: Bytes) {
        if class == StreamClass::Custody { self.take_custody(from, &frame) } else { self.take(from, &frame) }
    }
}
