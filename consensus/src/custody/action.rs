//! All that can come in to a custodian, and all that it can ask its driver for.

use super::message::Message;
use super::record::CustodyRecord;
use crate::negotiation::{PersistId, Record, RestoredTask, TaskEvent, TaskRecord};
use cpi::ids::{MemberId, TaskId};
use cpi::task::Durability;

/// Something that happened.
#[derive(Debug, Clone)]
pub enum Input {
    /// A task that this node holds has a new state. Whoever made it puts it on disk and then tells [`Input::Stored`].
    Step {
        /// The new state, one revision after the one before.
        record: Box<CustodyRecord>,
        /// The task as it was handed in, with its first step.
        task: Option<Box<TaskRecord>>,
        /// What was told since the step before.
        events: Vec<TaskEvent>,
    },
    /// The state of a step is on this node's disk.
    Stored {
        /// The task.
        task: TaskId,
        /// The revision.
        revision: u64,
    },
    /// All persists that the custodian asked for, up to this one, are on disk.
    Persisted {
        /// The newest.
        up_to: PersistId,
    },
    /// A custodian says something.
    Message {
        /// Who.
        from: MemberId,
        /// What.
        message: Message,
    },
    /// The answer to [`Action::Load`].
    Loaded {
        /// The task.
        task: TaskId,
        /// What the disk has of it.
        found: Option<Found>,
    },
    /// A member, its place, and whether its membership is in force.
    Member {
        /// Who.
        member: MemberId,
        /// City code.
        city: String,
        /// ISO 3166 country.
        country: String,
        /// Whether it may keep tasks.
        active: bool,
    },
    /// A member left.
    Gone(MemberId),
    /// Whether a member can be reached now.
    Reachable {
        /// Who.
        member: MemberId,
        /// Whether.
        reachable: bool,
    },
    /// Somebody wants a task ended that this node keeps but does not hold.
    Cancel {
        /// The task.
        task: TaskId,
        /// Who.
        principal: String,
    },
}

/// What a disk has of a task.
#[derive(Debug, Clone)]
pub enum Found {
    /// The whole task.
    Task(Box<RestoredTask>),
    /// It closed, and was removed after its time: so much stays that a late copy does not bring it back.
    Gone(Box<CustodyRecord>),
}

/// Something to do.
#[derive(Debug, Clone)]
pub enum Action {
    /// Put these on disk, then report [`Input::Persisted`].
    Persist {
        /// Its number; counts up.
        id: PersistId,
        /// What.
        records: Vec<Record>,
    },
    /// Say this, but not before that persist is on disk.
    Send {
        /// To whom.
        to: MemberId,
        /// What.
        message: Message,
        /// After which persist.
        after: Option<PersistId>,
    },
    /// Look on the disk for a task that is not in memory, then report [`Input::Loaded`].
    Load {
        /// The task.
        task: TaskId,
    },
    /// A submission can be answered.
    Durable {
        /// The task.
        task: TaskId,
        /// What the answer is worth.
        durability: Durability,
    },
    /// A step counts: enough disks have this revision.
    Counted {
        /// The task.
        task: TaskId,
        /// The revision.
        revision: u64,
    },
    /// This node holds the task from now on: go on with it from this state.
    Adopted(Box<RestoredTask>),
    /// Another custodian decides for the task from now on: stop deciding.
    Superseded {
        /// The task.
        task: TaskId,
        /// By whom.
        by: MemberId,
    },
    /// Make a step that names these custodians.
    Reseat {
        /// The task.
        task: TaskId,
        /// The new set.
        custodians: Vec<MemberId>,
        /// The set before, while it changes.
        former: Option<Vec<MemberId>>,
    },
    /// Make a step that ends the task on request.
    Cancel {
        /// The task.
        task: TaskId,
        /// Who wants it.
        principal: String,
    },
}
