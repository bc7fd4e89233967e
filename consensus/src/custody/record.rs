//! One custodian's record of one task: promises, the bound provider, the end. All moves are compare-and-set and may be
//! repeated: the same move under the same fence gives the same answer.

use super::error::{BindError, CancelError, EndError, PromiseError};
use super::quorum::Quorum;
use crate::negotiation::{RunOutcome, Target, TaskState};
use crate::time::Timestamp;
use cpi::ids::{ContentDigest, Epoch, Fence, LeaseId, MemberId, TaskId};
use cpi::reason::Reason;
use serde::{Deserialize, Serialize};

/// What a custodian knows of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CustodyRecord {
    /// The task.
    pub task: TaskId,
    /// The region that took it in.
    pub origin: MemberId,
    /// Fixed at submission: the origin and two successors on the ring. One for `durability: local`, three otherwise.
    pub custodians: Vec<MemberId>,
    /// Set while the set changes: the custodians before. A step then needs most of both.
    pub former: Option<Vec<MemberId>>,
    /// The highest epoch that this custodian promised; lower ones are refused. Not part of the replicated state.
    pub promised: Epoch,
    /// The epoch whose holder wrote this state.
    pub written: Epoch,
    /// Counts the states that holders wrote. A later one holds all that an earlier one of its epoch held.
    pub revision: u64,
    /// Events told up to this state.
    pub events: u32,
    /// Where those events left the task.
    pub state: TaskState,
    /// The newest fence handed out.
    pub fence: Fence,
    /// Runs that were bound so far, the present one included.
    pub runs: u32,
    /// Who runs it now.
    pub binding: Option<Binding>,
    /// Set once the submitter wants it ended.
    pub cancel: Option<CancelMark>,
    /// Set once, at the end. It counts once most disks have it.
    pub end: Option<EndMark>,
    /// Set once the end counted: nothing more will happen, and no epoch is promised any more.
    pub closed: bool,
}

/// A provider bound to a task under a fence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// The attempt.
    pub fence: Fence,
    /// Who runs it.
    pub provider: MemberId,
    /// The provider's lease.
    pub lease: LeaseId,
    /// Pool, server class and variant.
    pub target: Target,
    /// The agreed price per hour in millionths of the currency.
    pub price_hour_micro: u64,
    /// ISO 4217.
    pub currency: String,
    /// When it was bound, by this custodian's clock, for people.
    pub at: Timestamp,
}

/// A wish to cancel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelMark {
    /// Who asked.
    pub principal: String,
    /// When, for people.
    pub at: Timestamp,
}

/// How a task ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndMark {
    /// The run whose result counts; `None` if the task ended without one.
    pub fence: Option<Fence>,
    /// Digest of the outcome: what the compare-and-set compares.
    pub digest: ContentDigest,
    /// `None` for success.
    pub reason: Option<Reason>,
    /// The run's own account.
    pub outcome: Option<RunOutcome>,
    /// When, for people.
    pub at: Timestamp,
}

impl CustodyRecord {
    /// The record of a new task: epoch 1 of the origin, no attempt yet.
    pub fn submitted(task: TaskId, custodians: Vec<MemberId>, origin: MemberId) -> Self {
        let epoch = Epoch { counter: 1, member: origin };
        Self {
            task,
            origin,
            custodians,
            former: None,
            promised: epoch,
            written: epoch,
            revision: 0,
            events: 0,
            state: TaskState::Pending,
            fence: Fence { epoch, attempt: 0 },
            runs: 0,
            binding: None,
            cancel: None,
            end: None,
            closed: false,
        }
    }

    /// Orders states: the epoch decides, then the revision.
    pub fn version(&self) -> (Epoch, u64) {
        (self.written, self.revision)
    }

    /// Who decides for the task, as far as this custodian promised.
    pub fn holder(&self) -> MemberId {
        self.promised.member
    }

    /// All who keep a copy: the custodians, and the former ones while the set changes. In order, each once.
    pub fn seats(&self) -> impl Iterator<Item = MemberId> {
        let former = self.former.iter().flatten().filter(|m| !self.custodians.contains(m));
        self.custodians.iter().chain(former).copied()
    }

    /// Whether `member` keeps a copy.
    pub fn is_seated(&self, member: MemberId) -> bool {
        self.seats().any(|seat| seat == member)
    }

    /// A count of disks for this record's custodians.
    pub fn quorum(&self) -> Quorum {
        Quorum::joint(&self.custodians, self.former.as_deref().unwrap_or_default())
    }

    /// Whether `other` says something else of the task than this, leaving aside who wrote it when and what was told.
    pub fn differs(&self, other: &Self) -> bool {
        self.custodians != other.custodians
            || self.former != other.former
            || self.written != other.written
            || self.binding != other.binding
            || self.cancel != other.cancel
            || self.end != other.end
            || self.closed != other.closed
    }

    /// What stays of a closed task once it is removed: who kept it, and that and how it ended.
    pub fn tombstone(&self) -> Self {
        let end = self.end.clone().map(|end| EndMark { outcome: None, ..end });
        Self { binding: None, cancel: None, end, ..self.clone() }
    }

    /// Promises `epoch` to its member: lower epochs are refused from here on.
    ///
    /// # Errors
    /// [`PromiseError`]; promising the same epoch again is no error.
    pub fn promise(&mut self, epoch: Epoch) -> Result<(), PromiseError> {
        if self.closed {
            return Err(PromiseError::Ended);
        }
        if epoch < self.promised {
            return Err(PromiseError::Lower { asked: epoch, promised: self.promised });
        }
        self.promised = epoch;
        Ok(())
    }

    /// The next attempt's fence under the holder's epoch. It supersedes the present binding.
    pub fn next_fence(&mut self) -> Fence {
        let attempt = if self.fence.epoch == self.written { self.fence.attempt.saturating_add(1) } else { 1 };
        self.fence = Fence { epoch: self.written, attempt };
        self.binding = None;
        self.fence
    }

    /// Binds a provider under its fence. At most one per fence.
    ///
    /// # Errors
    /// [`BindError`]; binding the same provider again under the same fence is no error.
    pub fn bind(&mut self, binding: Binding) -> Result<(), BindError> {
        if self.end.is_some() {
            return Err(BindError::Ended);
        }
        if self.cancel.is_some() {
            return Err(BindError::Cancelled);
        }
        if binding.fence < self.fence || binding.fence.epoch < self.promised {
            return Err(BindError::Fenced { asked: binding.fence, current: self.fence });
        }
        if let Some(held) = &self.binding
            && held.fence == binding.fence
        {
            return if held.provider == binding.provider {
                Ok(())
            } else {
                Err(BindError::Taken { fence: held.fence, holder: held.provider })
            };
        }
        self.fence = binding.fence;
        self.runs = self.runs.saturating_add(1);
        self.binding = Some(binding);
        Ok(())
    }

    /// Gives the present binding up: its run is lost, or failed in a way that another attempt may cure.
    pub fn unbind(&mut self) {
        self.binding = None;
    }

    /// Records the wish to cancel. Nothing is bound afterwards.
    ///
    /// # Errors
    /// [`CancelError::Ended`]; cancelling twice is no error and keeps the first mark.
    pub fn cancel(&mut self, mark: CancelMark) -> Result<(), CancelError> {
        if self.end.is_some() {
            return Err(CancelError::Ended);
        }
        self.cancel.get_or_insert(mark);
        Ok(())
    }

    /// Records the end: compare-and-set under the bound fence, or without a fence where no run's result counts.
    ///
    /// # Errors
    /// [`EndError`]; the same end again (by digest) is no error.
    pub fn end(&mut self, mark: EndMark) -> Result<(), EndError> {
        if let Some(held) = &self.end {
            return if held.digest == mark.digest && held.fence == mark.fence { Ok(()) } else { Err(EndError::Ended) };
        }
        let bound = self.binding.as_ref().map(|b| b.fence);
        if let Some(asked) = mark.fence
            && bound != Some(asked)
        {
            return Err(EndError::Fenced { asked, bound });
        }
        self.end = Some(mark);
        Ok(())
    }
}
