//! What a node must find again after it died: small records, written before anything is said that rests on them.

use super::capacity::ChipSet;
use super::event::{TaskEvent, TaskState};
use super::message::{Attempt, Target};
use super::need::Need;
use super::outcome::RunOutcome;
use super::rank::Decision;
use crate::custody::CustodyRecord;
use crate::time::Timestamp;
use bytes::Bytes;
use cpi::ids::{Epoch, Fence, LeaseId, MemberId, TaskId};
use cpi::resource::{Firmness, Quantity};
use serde::{Deserialize, Serialize};

/// A task as it was handed in. Written once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskRecord {
    /// The task.
    pub task: TaskId,
    /// Who handed it in.
    pub principal: String,
    /// The client's key for repeating the call.
    pub idempotency_key: Option<String>,
    /// The document as JSON text.
    pub document: Bytes,
    /// The need, resolved with the dictionary of that day.
    pub need: Need,
    /// When.
    pub submitted: Timestamp,
}

/// A lease at its provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRecord {
    /// The attempt it serves.
    pub attempt: Attempt,
    /// The lease.
    pub lease: LeaseId,
    /// Who decides for the task: its origin, or the custodian that adopted it.
    pub origin: MemberId,
    /// Where.
    pub target: Target,
    /// Which server of the class.
    pub server: u32,
    /// Which of its chips.
    pub chips: ChipSet,
    /// What it takes there.
    pub quantity: Quantity,
    /// How sure.
    pub firmness: Firmness,
    /// Price per hour in millionths.
    pub price_hour_micro: u64,
    /// ISO 4217.
    pub currency: String,
    /// Digest of the need that was asked, for repeating the acceptance.
    pub need: cpi::ids::ContentDigest,
    /// Whether the run goes on when the lease lapses.
    pub finish_on_partition: bool,
    /// Who may adopt the task; one that does becomes `origin` here.
    pub custodians: Vec<MemberId>,
    /// The epoch of whoever decides for the task.
    pub epoch: Epoch,
    /// The document as JSON text.
    pub document: Bytes,
    /// How far it came.
    pub phase: LeasePhase,
    /// Set at the end, kept until the origin has it.
    pub outcome: Option<RunOutcome>,
}

/// How far a lease came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum LeasePhase {
    /// Committed; the origin has not bound it yet.
    Accepted,
    /// Bound: the run may start.
    Bound,
    /// The executor was told to start: it is never started afresh, only found again.
    Started,
    /// Over; the outcome waits for the origin.
    Ended,
}

/// One row of a node's durable records, written whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// A task.
    Task(Box<TaskRecord>),
    /// A task of another origin that this node keeps.
    Kept(Box<TaskRecord>),
    /// A custodian's record of a task.
    Custody(Box<CustodyRecord>),
    /// A line of a task's history.
    Event(TaskEvent),
    /// How an attempt was decided.
    Decision(Box<Decision>),
    /// A lease at this provider.
    Lease(Box<LeaseRecord>),
    /// The lease of an attempt is settled: delete its row.
    LeaseSettled(Attempt),
}

/// What a machine is given after a restart.
#[derive(Debug, Clone, Default)]
pub struct Restored {
    /// Tasks of this origin that have not ended.
    pub tasks: Vec<RestoredTask>,
    /// Leases of this provider that are not settled.
    pub leases: Vec<LeaseRecord>,
}

/// A task as found on disk.
#[derive(Debug, Clone)]
pub struct RestoredTask {
    /// As it was handed in.
    pub record: TaskRecord,
    /// The custodian's record.
    pub custody: CustodyRecord,
    /// Events on disk.
    pub events: u32,
    /// Where the newest event left it.
    pub state: TaskState,
}

/// The run that a provider's executor should carry out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunGrant {
    /// The attempt: the run's tag.
    pub attempt: Attempt,
    /// The lease it runs under.
    pub lease: LeaseId,
    /// Whose task: inputs are fetched from there.
    pub origin: MemberId,
    /// Who keeps it: inputs may be fetched there, too, and results by them.
    pub custodians: Vec<MemberId>,
    /// Where.
    pub target: Target,
    /// What it may use.
    pub quantity: Quantity,
    /// The document as JSON text.
    pub document: Bytes,
    /// Time to live of the lease.
    pub lease_ttl_ms: u64,
    /// Whether a lapse freezes the run.
    pub freeze_on_lapse: bool,
}

impl LeaseRecord {
    /// The executor's view of this lease.
    pub fn grant(&self, lease_ttl_ms: u64) -> RunGrant {
        RunGrant {
            attempt: self.attempt,
            lease: self.lease,
            origin: self.origin,
            custodians: self.custodians.clone(),
            target: self.target.clone(),
            quantity: self.quantity,
            document: self.document.clone(),
            lease_ttl_ms,
            freeze_on_lapse: !self.finish_on_partition,
        }
    }

    /// The fence of its attempt.
    pub fn fence(&self) -> Fence {
        self.attempt.fence
    }
}
