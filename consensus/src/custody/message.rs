//! What custodians say to each other about a task. Durations never, instants for people only.
//!
//! Messages travel on the mesh's authenticated streams; who sent one is known. All of them may be lost, doubled and
//! overtake each other.

use super::record::CustodyRecord;
use crate::negotiation::{DOCUMENT_BYTES_MAX, TaskEvent, TaskRecord};
use cpi::ids::{Epoch, Fence, MemberId, TaskId};
use serde::{Deserialize, Serialize};

/// The most lines of history in one message.
pub const EVENTS_MAX: usize = 64;
/// The most members that keep one task, while the set changes.
const SEATS_MAX: usize = 7;
/// The longest principal, name or idempotency key, in bytes.
const NAME_BYTES_MAX: usize = 1024;

/// All that custodians say to each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// I live. `boot` changes with every start of the sender.
    Beat {
        /// The sender's life.
        boot: u64,
    },
    /// Holder to custodian: keep this state.
    Write(Box<Write>),
    /// Custodian to holder: this is on my disk.
    Written {
        /// The task.
        task: TaskId,
        /// The epoch of the state on disk.
        written: Epoch,
        /// Its revision.
        revision: u64,
        /// The newest event on disk.
        events: u32,
    },
    /// I have no document of this task: send it with the next message.
    Lacks {
        /// The task.
        task: TaskId,
    },
    /// I promised a higher epoch.
    Refused {
        /// The task.
        task: TaskId,
        /// What I promised.
        promised: Epoch,
    },
    /// Claimant to custodian: promise me this epoch.
    Claim(Box<Claim>),
    /// Custodian to claimant: promised, and on my disk; this is the newest state that I have.
    Promise {
        /// The task.
        task: TaskId,
        /// The promised epoch.
        epoch: Epoch,
        /// What I have.
        record: Box<CustodyRecord>,
    },
    /// What I have of a task that you should not ask for: it is closed, or you keep it no longer.
    Told {
        /// What I have.
        record: Box<CustodyRecord>,
    },
    /// Holder to origin: you are back, claim your task.
    Return {
        /// The task.
        task: TaskId,
        /// The holder's epoch.
        epoch: Epoch,
    },
    /// Custodian to holder: does it go on?
    Enquire {
        /// The task.
        task: TaskId,
    },
    /// Holder to custodian: I have no such task.
    Unknown {
        /// The task.
        task: TaskId,
    },
    /// New custodian to another: did you promise this epoch?
    Vouch {
        /// The task.
        task: TaskId,
        /// The epoch of a state that came to me.
        epoch: Epoch,
    },
    /// The answer: I did.
    Vouched {
        /// The task.
        task: TaskId,
        /// The epoch.
        epoch: Epoch,
    },
    /// Custodian to holder: somebody wants this task ended.
    Cancel {
        /// The task.
        task: TaskId,
        /// Who.
        principal: String,
    },
}

/// A state to keep.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    /// The holder's life.
    pub boot: u64,
    /// The state.
    pub record: CustodyRecord,
    /// The task as it was handed in, until the custodian has it. No secrets: those are sealed to the executor.
    pub task: Option<TaskRecord>,
    /// History that the custodian may not have.
    pub events: Vec<TaskEvent>,
}

/// A request for a promise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The claimant's life.
    pub boot: u64,
    /// The claimed epoch.
    pub epoch: Epoch,
    /// What the claimant has, for a custodian that never heard of the task.
    pub record: CustodyRecord,
    /// The task as it was handed in, after [`Message::Lacks`].
    pub task: Option<TaskRecord>,
}

/// Epochs and revisions beyond are nobody's: they grow by one with each adoption or step, and must have room to.
const COUNTER_MAX: u64 = 1 << 48;
/// The same for runs, attempts and lines of history.
const COUNTER_MAX_SHORT: u32 = 1 << 30;

fn is_epoch_bounded(epoch: Epoch) -> bool {
    epoch.counter <= COUNTER_MAX
}

fn is_fence_bounded(fence: Fence) -> bool {
    is_epoch_bounded(fence.epoch) && fence.attempt <= COUNTER_MAX_SHORT
}

fn is_counted_well(record: &CustodyRecord) -> bool {
    is_epoch_bounded(record.promised)
        && is_epoch_bounded(record.written)
        && record.revision <= COUNTER_MAX
        && record.events <= COUNTER_MAX_SHORT
        && record.runs <= COUNTER_MAX_SHORT
        && is_fence_bounded(record.fence)
        && record.binding.as_ref().is_none_or(|b| is_fence_bounded(b.fence))
        && record.end.as_ref().and_then(|e| e.fence).is_none_or(is_fence_bounded)
}

fn is_bounded(record: &CustodyRecord) -> bool {
    let outcome = record.end.as_ref().and_then(|e| e.outcome.as_ref());
    is_counted_well(record)
        && record.seats().count() <= SEATS_MAX
        && record.custodians.len() <= SEATS_MAX
        && record.binding.as_ref().is_none_or(|b| {
            b.currency.len() <= 8 && b.target.pool.len() <= NAME_BYTES_MAX && b.target.class.len() <= NAME_BYTES_MAX
        })
        && record.cancel.as_ref().is_none_or(|c| c.principal.len() <= NAME_BYTES_MAX)
        && outcome.is_none_or(crate::negotiation::RunOutcome::is_bounded)
}

fn is_task_bounded(task: &TaskRecord) -> bool {
    task.document.len() <= DOCUMENT_BYTES_MAX
        && task.need.is_bounded()
        && task.principal.len() <= NAME_BYTES_MAX
        && task.idempotency_key.as_ref().is_none_or(|key| key.len() <= NAME_BYTES_MAX)
}

impl Message {
    /// Its name in traces and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Beat { .. } => "beat",
            Self::Write(_) => "write",
            Self::Written { .. } => "written",
            Self::Lacks { .. } => "lacks",
            Self::Refused { .. } => "refused",
            Self::Claim(_) => "claim",
            Self::Promise { .. } => "promise",
            Self::Told { .. } => "told",
            Self::Return { .. } => "return",
            Self::Enquire { .. } => "enquire",
            Self::Unknown { .. } => "unknown",
            Self::Vouch { .. } => "vouch",
            Self::Vouched { .. } => "vouched",
            Self::Cancel { .. } => "custody_cancel",
        }
    }

    /// The task it is about.
    pub fn task(&self) -> Option<TaskId> {
        match self {
            Self::Beat { .. } => None,
            Self::Write(write) => Some(write.record.task),
            Self::Claim(claim) => Some(claim.record.task),
            Self::Told { record } => Some(record.task),
            Self::Written { task, .. }
            | Self::Lacks { task }
            | Self::Refused { task, .. }
            | Self::Promise { task, .. }
            | Self::Return { task, .. }
            | Self::Enquire { task }
            | Self::Unknown { task }
            | Self::Vouch { task, .. }
            | Self::Vouched { task, .. }
            | Self::Cancel { task, .. } => Some(*task),
        }
    }

    /// Whether it keeps the bounds of what comes from elsewhere, and says nothing that only others may say.
    pub fn is_bounded(&self, from: MemberId) -> bool {
        match self {
            Self::Write(write) => {
                let id = write.record.task;
                is_bounded(&write.record)
                    && write.record.written.member == from
                    && write.record.is_seated(from)
                    && write.task.as_ref().is_none_or(|t| t.task == id && is_task_bounded(t))
                    && write.events.len() <= EVENTS_MAX
                    && write
                        .events
                        .iter()
                        .all(|e| e.task == id && e.detail.chars().count() <= crate::negotiation::DETAIL_CHARS_MAX)
            }
            Self::Claim(claim) => {
                let id = claim.record.task;
                is_bounded(&claim.record)
                    && claim.epoch.member == from
                    && is_epoch_bounded(claim.epoch)
                    && claim.task.as_ref().is_none_or(|t| t.task == id && is_task_bounded(t))
            }
            Self::Promise { task, epoch, record } => {
                record.task == *task && is_epoch_bounded(*epoch) && is_bounded(record)
            }
            Self::Refused { promised, .. } => is_epoch_bounded(*promised),
            Self::Told { record } => is_bounded(record),
            Self::Cancel { principal, .. } => principal.len() <= NAME_BYTES_MAX,
            _ => true,
        }
    }
}
