//! What two nodes say to each other about one task. Durations only, never instants.
//!
//! Offers, declines, acceptances and ends are *statements*: the driver signs them (see [`super::frame`]). What an origin
//! says binds nobody but itself and is authenticated by the mesh's stream.

use super::counter::{Counter, ROUNDS_MAX};
use super::need::{ChipNeed, DOCUMENT_BYTES_MAX, Need, VARIANTS_MAX};
use super::outcome::RunOutcome;
use bytes::Bytes;
use cpi::ids::{ContentDigest, Epoch, Fence, LeaseId, MemberId, OfferId, TaskId};
use cpi::reason::Reason;
use cpi::resource::{Firmness, Quantity};
use serde::{Deserialize, Serialize};

/// The most places that one ask names.
pub const TARGETS_MAX: usize = 16;

/// A place in a region for one way to run a task.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Target {
    /// Index into [`Need::variants`].
    pub variant: u16,
    /// Pool by name.
    pub pool: String,
    /// Server class by name.
    pub class: String,
}

/// What an origin wants of an ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AskMode {
    /// An offer without anything set aside.
    Quote,
    /// An offer with capacity set aside for so long, clamped by the provider.
    Hold {
        /// Milliseconds from receiving.
        ttl_ms: u64,
    },
    /// Commit at once if the limits hold.
    CommitIf,
}

/// Bounds within which a provider may commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Limits {
    /// The most per hour, in millionths of the provider's currency.
    pub price_hour_micro_max: Option<u64>,
    /// The latest start from receiving.
    pub start_in_ms_max: Option<u64>,
}

/// Origin to provider: can you take it?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// The task.
    pub task: TaskId,
    /// The attempt.
    pub fence: Fence,
    /// What it needs.
    pub need: Need,
    /// Where in the region, best first; the provider takes the first that fits.
    pub targets: Vec<Target>,
    /// Bounds.
    pub limits: Limits,
    /// What is wanted.
    pub mode: AskMode,
    /// How long the origin waits for the answer, from sending; older asks are dropped.
    pub ttl_ms: u64,
    /// 1, and one more for every proposal of the region that the origin came back to.
    pub round: u8,
    /// The task document as JSON text, where the provider may commit.
    pub document: Option<Bytes>,
    /// Who may adopt the task and so take over the lease; empty where nothing is committed.
    pub custodians: Vec<MemberId>,
}

/// Provider to origin: yes, on these terms. Signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The task.
    pub task: TaskId,
    /// The attempt.
    pub fence: Fence,
    /// The offer.
    pub offer: OfferId,
    /// Who asked: an offer to one is none to another.
    pub origin: MemberId,
    /// Digest of the need it answers.
    pub need: ContentDigest,
    /// Where.
    pub target: Target,
    /// What is set aside or would be.
    pub quantity: Quantity,
    /// Per hour, in millionths of the currency.
    pub price_hour_micro: u64,
    /// ISO 4217.
    pub currency: String,
    /// Expected start from the award.
    pub start_in_ms: u64,
    /// How sure it is.
    pub firmness: Firmness,
    /// How long it holds from receiving the ask; 0 for a quote.
    pub hold_ms: u64,
    /// Thousandths of chips that the region's mean ask of late could use before and not after; negative where the task
    /// uses up what nobody could.
    pub fragmentation_milli: i64,
    /// Grams of CO2 per kWh, where known.
    pub carbon_g_per_kwh: Option<u32>,
    /// The provider's incarnation: an award of an older one is checked anew.
    pub incarnation: u64,
}

/// Provider to origin: no, and why. Signed; never silence. Also the answer to an award that came too late.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decline {
    /// The task.
    pub task: TaskId,
    /// The attempt.
    pub fence: Fence,
    /// Who asked.
    pub origin: MemberId,
    /// Why.
    pub reason: Reason,
    /// When asking again makes sense; 0 for never under these conditions.
    pub retry_after_ms: u64,
    /// How the asked places stand now.
    pub status: Vec<ClassUpdate>,
    /// What it proposes instead.
    pub counter: Option<Counter>,
}

/// Fresh figures of a server class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassUpdate {
    /// Pool.
    pub pool: String,
    /// Class.
    pub class: String,
    /// Sum of what is free.
    pub free: Quantity,
    /// The most for one task on one server.
    pub largest_fit: Quantity,
}

/// Origin to provider: the offer is taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Award {
    /// The task.
    pub task: TaskId,
    /// The attempt.
    pub fence: Fence,
    /// The offer.
    pub offer: OfferId,
    /// The offer's incarnation.
    pub incarnation: u64,
    /// The offer's place, for a provider that lost the hold and checks anew.
    pub target: Target,
    /// What it needs, likewise.
    pub need: Need,
    /// The most per hour: the offered price.
    pub limits: Limits,
    /// The task document as JSON text.
    pub document: Bytes,
    /// Who may adopt the task and so take over the lease.
    pub custodians: Vec<MemberId>,
}

/// Whoever decides for the task to provider: the run is bound, and answers to me from here on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adopt {
    /// The bound attempt.
    pub attempt: Attempt,
    /// The sender's epoch: a higher one than the lease has takes it over.
    pub epoch: Epoch,
    /// Who may adopt the task now.
    pub custodians: Vec<MemberId>,
    /// Whether the run shall end.
    pub stop: bool,
}

/// Provider to origin: committed. Signed, sent once the lease is on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// The task.
    pub task: TaskId,
    /// The attempt.
    pub fence: Fence,
    /// Who asked.
    pub origin: MemberId,
    /// The lease.
    pub lease: LeaseId,
    /// Digest of the need.
    pub need: ContentDigest,
    /// Where.
    pub target: Target,
    /// What is taken.
    pub quantity: Quantity,
    /// Per hour, in millionths of the currency.
    pub price_hour_micro: u64,
    /// ISO 4217.
    pub currency: String,
    /// How sure it is.
    pub firmness: Firmness,
    /// The lease's time to live; renewed by the provider.
    pub lease_ttl_ms: u64,
    /// The provider's incarnation.
    pub incarnation: u64,
}

/// Names one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Attempt {
    /// The task.
    pub task: TaskId,
    /// The fence.
    pub fence: Fence,
}

/// Where a run stands, told by the provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Progress {
    /// The inputs are there.
    Staged,
    /// The program runs; milliseconds since it began.
    Started {
        /// Milliseconds from the start to this message.
        since_ms: u64,
    },
    /// The run lost its lease and is frozen.
    Frozen,
}

/// Provider to origin: the run is over. Signed, on disk before it is sent, sent again until acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// The task.
    pub task: TaskId,
    /// The attempt.
    pub fence: Fence,
    /// Who asked.
    pub origin: MemberId,
    /// How it ended.
    pub outcome: RunOutcome,
}

/// Provider to origin: these runs of yours are alive. One message per node pair and period.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renew {
    /// Counts up; the answer repeats it, and the provider counts its lease from when it sent it.
    pub round: u64,
    /// The provider's incarnation.
    pub incarnation: u64,
    /// At most `RENEW_ITEMS_MAX`.
    pub runs: Vec<Attempt>,
    /// Whether this is the whole list of the provider's runs for this origin.
    pub complete: bool,
}

/// The most runs in one renewal; longer lists take several messages.
pub const RENEW_ITEMS_MAX: usize = 4096;

/// Origin to provider: the runs of that round go on, but for these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewed {
    /// The round that is answered.
    pub round: u64,
    /// Runs that are superseded, ended or unknown: stop them.
    pub superseded: Vec<Attempt>,
    /// Runs of tasks that the sender keeps and does not decide for: it neither renews nor ends them.
    pub unanswered: Vec<Attempt>,
}

/// The longest name, code or currency in a message, in bytes.
const NAME_BYTES_MAX: usize = 128;
/// The most countries that residency names, and the most chip models of one way to run a task.
const LIST_MAX: usize = 256;
/// The most figures of classes in one decline.
const STATUS_MAX: usize = 16;
/// The most custodians of a task.
const CUSTODIANS_MAX: usize = 8;

impl Target {
    fn is_bounded(&self) -> bool {
        self.pool.len() <= NAME_BYTES_MAX && self.class.len() <= NAME_BYTES_MAX
    }
}

impl Need {
    /// Whether it keeps the bounds of what comes from elsewhere.
    pub fn is_bounded(&self) -> bool {
        let chips = |chips: &ChipNeed| match chips {
            ChipNeed::None => true,
            ChipNeed::Milli { model, .. } => model.as_ref().is_none_or(|m| m.len() <= NAME_BYTES_MAX),
            ChipNeed::AnyOf(options) => {
                options.len() <= LIST_MAX && options.iter().all(|(model, _)| model.len() <= NAME_BYTES_MAX)
            }
        };
        (1..=VARIANTS_MAX).contains(&self.variants.len())
            && self.variants.iter().all(|v| v.base.chip_milli == 0 && chips(&v.chips))
            && self.residency.len() <= LIST_MAX
            && self.residency.iter().all(|c| c.len() <= NAME_BYTES_MAX)
    }
}

/// All that two nodes say to each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Origin asks.
    Ask(Box<Ask>),
    /// Provider offers.
    Offer(Box<Offer>),
    /// Provider declines.
    Decline(Box<Decline>),
    /// Origin takes the offer.
    Award(Box<Award>),
    /// Provider committed.
    Accepted(Box<Accepted>),
    /// Origin needs it no longer: hold or unbound lease. Leaves a tombstone.
    Release(Attempt),
    /// Origin's custodians bound the provider: the run may start.
    Bound(Attempt),
    /// A custodian decides for the task now.
    Adopt(Adopt),
    /// Origin wants the run ended.
    Cancel(Attempt),
    /// Provider tells where the run stands.
    Progress(Attempt, Progress),
    /// Provider tells the end.
    Ended(Box<Ended>),
    /// Origin has the end on its custodians' disks.
    EndAck(Attempt),
    /// Provider knows no such lease (any more).
    Gone(Attempt, Reason),
    /// Provider renews.
    Renew(Renew),
    /// Origin renewed.
    Renewed(Renewed),
}

/// Which stream a message takes, and what is shed first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum MessageClass {
    /// New work: shed first.
    Question,
    /// Everything that moves or ends work in hand.
    Contract,
    /// Ends and progress of runs.
    RunEvent,
}

impl Message {
    /// Its stream.
    pub fn class(&self) -> MessageClass {
        match self {
            Self::Ask(_) => MessageClass::Question,
            Self::Progress(..) | Self::Ended(_) | Self::EndAck(_) | Self::Gone(..) => MessageClass::RunEvent,
            _ => MessageClass::Contract,
        }
    }

    /// Whether it keeps the bounds of what comes from elsewhere.
    pub fn is_bounded(&self) -> bool {
        let text = |text: &str| text.len() <= NAME_BYTES_MAX;
        let reason = |reason: &Reason| reason.detail.len() <= 4 * Reason::DETAIL_CHARS_MAX;
        match self {
            Self::Ask(m) => {
                m.need.is_bounded()
                    && (1..=ROUNDS_MAX).contains(&m.round)
                    && m.targets.len() <= TARGETS_MAX
                    && m.targets.iter().all(Target::is_bounded)
                    && m.document.as_ref().is_none_or(|d| d.len() <= DOCUMENT_BYTES_MAX)
                    && m.custodians.len() <= CUSTODIANS_MAX
            }
            Self::Award(m) => {
                m.need.is_bounded()
                    && m.target.is_bounded()
                    && m.document.len() <= DOCUMENT_BYTES_MAX
                    && m.custodians.len() <= CUSTODIANS_MAX
            }
            Self::Adopt(m) => m.custodians.len() <= CUSTODIANS_MAX,
            Self::Offer(m) => m.target.is_bounded() && text(&m.currency),
            Self::Accepted(m) => m.target.is_bounded() && text(&m.currency),
            Self::Decline(m) => {
                reason(&m.reason)
                    && m.status.len() <= STATUS_MAX
                    && m.status.iter().all(|s| text(&s.pool) && text(&s.class))
                    && match &m.counter {
                        Some(Counter::Less { target }) => target.is_bounded(),
                        _ => true,
                    }
            }
            Self::Ended(m) => m.outcome.is_bounded(),
            Self::Gone(_, why) => reason(why),
            Self::Renew(m) => m.runs.len() <= RENEW_ITEMS_MAX,
            Self::Renewed(m) => m.superseded.len() + m.unanswered.len() <= RENEW_ITEMS_MAX,
            Self::Release(_) | Self::Bound(_) | Self::Cancel(_) | Self::Progress(..) | Self::EndAck(_) => true,
        }
    }

    /// Whether the sender stands for it with its signature.
    pub fn is_statement(&self) -> bool {
        matches!(self, Self::Offer(_) | Self::Decline(_) | Self::Accepted(_) | Self::Ended(_))
    }

    /// For whom a statement was made.
    pub fn addressee(&self) -> Option<MemberId> {
        match self {
            Self::Offer(m) => Some(m.origin),
            Self::Decline(m) => Some(m.origin),
            Self::Accepted(m) => Some(m.origin),
            Self::Ended(m) => Some(m.origin),
            _ => None,
        }
    }

    /// The attempt it is about, where it is about one.
    pub fn attempt(&self) -> Option<Attempt> {
        let of = |task, fence| Some(Attempt { task, fence });
        match self {
            Self::Ask(m) => of(m.task, m.fence),
            Self::Offer(m) => of(m.task, m.fence),
            Self::Decline(m) => of(m.task, m.fence),
            Self::Award(m) => of(m.task, m.fence),
            Self::Accepted(m) => of(m.task, m.fence),
            Self::Ended(m) => of(m.task, m.fence),
            Self::Release(a)
            | Self::Bound(a)
            | Self::Cancel(a)
            | Self::Progress(a, _)
            | Self::EndAck(a)
            | Self::Gone(a, _) => Some(*a),
            Self::Adopt(m) => Some(m.attempt),
            Self::Renew(_) | Self::Renewed(_) => None,
        }
    }
}
