//! What happened to a task, for people: every change of state with who caused it and why.

use super::message::Target;
use crate::time::Timestamp;
use cpi::ids::{Fence, MemberId, TaskId};
use cpi::reason::Reason;
use serde::{Deserialize, Serialize};

/// The longest detail of an event, in characters.
pub const DETAIL_CHARS_MAX: usize = 400;

/// Who caused a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Actor {
    /// A person or program, by its principal.
    Principal(String),
    /// The origin's node by its own rules.
    Origin(MemberId),
    /// A providing region.
    Provider(MemberId),
}

/// Where a task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// Waits for its turn or for capacity.
    Pending,
    /// Regions are being asked.
    Placing,
    /// Bound; inputs are on their way.
    Staging,
    /// The program runs.
    Running,
    /// The program ended; results are on their way.
    Finishing,
    /// Ended well.
    Succeeded,
    /// Ended otherwise, with its reason.
    Failed,
    /// Ended on request.
    Cancelled,
}

impl TaskState {
    /// Whether nothing more will happen.
    pub fn is_ended(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }

    /// The stable text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Placing => "placing",
            Self::Staging => "staging",
            Self::Running => "running",
            Self::Finishing => "finishing",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// The task was handed in.
    Submitted,
    /// It waits, for the reason given.
    Waiting,
    /// A region was asked.
    Asked,
    /// A region offered.
    Offered,
    /// A region declined.
    Declined,
    /// A region did not answer in time.
    TimedOut,
    /// An offer was taken.
    Awarded,
    /// The region committed.
    Accepted,
    /// The custodians bound the region.
    Bound,
    /// The inputs are in the region.
    Staged,
    /// The program runs.
    Started,
    /// The run lost its lease and is frozen.
    Frozen,
    /// The program ended.
    RunEnded,
    /// The results are at the origin.
    Collected,
    /// The run was lost, or failed in a way that another attempt may cure.
    AttemptEnded,
    /// Somebody wants it ended.
    CancelRequested,
    /// The origin's node was restarted and took the task up again.
    Resumed,
    /// Over.
    Ended,
}

/// One line of a task's history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskEvent {
    /// The task.
    pub task: TaskId,
    /// Counts from 1 in the task.
    pub seq: u32,
    /// When, by the origin's clock.
    pub at: Timestamp,
    /// Who caused it.
    pub actor: Actor,
    /// What happened.
    pub kind: EventKind,
    /// Where the task stands since.
    pub state: TaskState,
    /// Why.
    pub reason: Option<Reason>,
    /// Under which fence.
    pub fence: Option<Fence>,
    /// Which region it is about.
    pub member: Option<MemberId>,
    /// Where in the region.
    pub target: Option<Target>,
    /// Facts for people, at most `DETAIL_CHARS_MAX` characters.
    pub detail: String,
}
