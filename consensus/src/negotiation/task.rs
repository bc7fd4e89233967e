//! One task at its origin: what was asked for, what is on record, and where it stands.

use super::event::{Actor, DETAIL_CHARS_MAX, EventKind, TaskEvent, TaskState};
use super::message::{Adopt, Attempt, Target};
use super::need::{Need, Wishes};
use super::outcome::RunOutcome;
use super::record::Record;
use super::round::Round;
use crate::custody::CustodyRecord;
use crate::time::{Monotonic, Now};
use bytes::Bytes;
use cpi::ids::{ContentDigest, Fence, MemberId, TaskId};
use cpi::reason::{Reason, ReasonCode};
use cpi::resource::Quantity;
use cpi::task::Retry;
use std::collections::BTreeSet;

/// Where the machine is with a task.
#[derive(Debug)]
pub enum Phase {
    /// Waits for its turn.
    Ready,
    /// Waits for capacity or for its next round.
    Waiting,
    /// Asks regions.
    Placing(Box<Round>),
    /// A region accepted; the custodians are recording this revision.
    Binding(Box<Bound>, u64),
    /// A region runs it.
    Bound(Box<Bound>),
    /// The run ended; its results are being brought here.
    Collecting(Box<Bound>, Box<RunOutcome>),
    /// The end is being recorded with this revision; then that provider is told.
    Ending(u64, Option<(MemberId, Attempt)>),
}

/// A bound run as its origin sees it.
#[derive(Debug, Clone)]
pub struct Bound {
    /// Who runs it.
    pub provider: MemberId,
    /// Under which fence.
    pub fence: Fence,
    /// Where and how much, for the directory.
    pub taken: Option<(Target, Quantity)>,
    /// When it was bound, or taken up again.
    pub bound_at: Monotonic,
    /// Whether the provider has shown that it knows of the binding.
    pub acknowledged: bool,
    /// Until when its lease holds by this clock.
    pub lease_until: Monotonic,
    /// Whether the program was seen running.
    pub started: bool,
    /// Fetches that failed.
    pub fetches_failed: u32,
    /// When bound or cancel is said again, or the fetch is tried again.
    pub repeat_at: Monotonic,
}

/// One task.
#[derive(Debug)]
pub struct Task {
    /// What it needs.
    pub need: Need,
    /// Digest of that.
    pub need_digest: ContentDigest,
    /// Where it may go.
    pub wishes: Wishes,
    /// The document as JSON text.
    pub document: Bytes,
    /// After a failed run.
    pub retry: Retry,
    /// When it must have ended.
    pub deadline_at: Option<Monotonic>,
    /// What is on record.
    pub custody: CustodyRecord,
    /// Events so far.
    pub events: u32,
    /// Of those, handed over for writing.
    pub events_written: u32,
    /// Where it stands, for people.
    pub state: TaskState,
    /// The last reason shown while waiting; the same is not written again.
    pub shown: Option<ReasonCode>,
    /// The next wait.
    pub backoff_ms: u64,
    /// Regions that refused to commit without comparing.
    pub compare: BTreeSet<MemberId>,
    /// Where the machine is with it.
    pub phase: Phase,
    /// Records for the next persist.
    pub unwritten: Vec<Record>,
    /// Whether its deadline passed.
    pub expired: bool,
    /// Why the last run was lost or failed.
    pub last_failure: Option<Reason>,
    /// Whether its run was lost with its region: others of that region look for a place at the same time.
    pub displaced: bool,
    /// The placement that a plan promised, in words.
    pub promised: Option<String>,
}

impl Task {
    /// Its id.
    pub fn id(&self) -> TaskId {
        self.custody.task
    }

    /// Position in queues: priority first, then age.
    pub fn rank(&self) -> (u8, TaskId) {
        (100 - self.need.priority.min(100), self.id())
    }

    /// Adds a line to its history.
    #[allow(clippy::too_many_arguments, reason = "the fields of one event")]
    pub fn tell(
        &mut self,
        now: Now,
        actor: Actor,
        kind: EventKind,
        state: TaskState,
        reason: Option<Reason>,
        member: Option<MemberId>,
        target: Option<Target>,
        detail: String,
    ) {
        self.events += 1;
        self.state = state;
        let mut detail = detail;
        if let Some((cut, _)) = detail.char_indices().nth(DETAIL_CHARS_MAX) {
            detail.truncate(cut);
        }
        let fence = (self.custody.fence.attempt > 0).then_some(self.custody.fence);
        self.unwritten.push(Record::Event(TaskEvent {
            task: self.custody.task,
            seq: self.events,
            at: now.wall,
            actor,
            kind,
            state,
            reason,
            fence,
            member,
            target,
            detail,
        }));
    }

    /// All that waits to be written, the custody record with it as its next revision.
    pub fn take_records(&mut self) -> Vec<Record> {
        self.events_written = self.events;
        self.custody.revision += 1;
        self.custody.events = self.events;
        self.custody.state = self.state;
        let mut records = std::mem::take(&mut self.unwritten);
        records.push(Record::Custody(Box::new(self.custody.clone())));
        records
    }

    /// Forgets what was not written: a round like the one before.
    pub fn drop_unwritten(&mut self) {
        self.unwritten.clear();
        self.events = self.events_written;
    }

    /// What its provider is told when this node decides for it anew.
    pub fn adoption(&self, fence: Fence) -> Adopt {
        Adopt {
            attempt: Attempt { task: self.id(), fence },
            epoch: self.custody.written,
            custodians: self.custody.custodians.clone(),
            stop: self.custody.cancel.is_some() || self.expired,
        }
    }

    /// The bound run, if there is one.
    pub fn bound(&self) -> Option<&Bound> {
        match &self.phase {
            Phase::Binding(bound, _) | Phase::Bound(bound) | Phase::Collecting(bound, _) => Some(bound),
            _ => None,
        }
    }

    /// The bound run, to change it.
    pub fn bound_mut(&mut self) -> Option<&mut Bound> {
        match &mut self.phase {
            Phase::Binding(bound, _) | Phase::Bound(bound) | Phase::Collecting(bound, _) => Some(bound),
            _ => None,
        }
    }

    /// Whether `member` is bound under `attempt`.
    pub fn is_bound_to(&self, member: MemberId, attempt: &Attempt) -> bool {
        self.bound().is_some_and(|b| b.provider == member && b.fence == attempt.fence)
    }
}
