//! What is kept of an operation.

use crate::time::Timestamp;
use bytes::Bytes;
use cpi::ids::TaskId;
use cpi::reason::Reason;
use cpi::resource::Quantity;
use serde::{Deserialize, Serialize};

/// What is wanted of a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verb {
    /// It is made.
    Provision,
    /// It has this.
    Modify(Quantity),
    /// It is switched on.
    Start,
    /// It is switched off.
    Stop,
    /// It was off and is on.
    Restart,
    /// It is no more.
    Release,
}

/// Where an operation stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum OperationPhase {
    /// On disk, behind another one of its resource.
    Waiting,
    /// The platform was told, or is about to be.
    Working,
    /// What was wanted is so.
    Done,
    /// It will not come to be.
    Failed(Reason),
}

impl OperationPhase {
    /// Whether it is over.
    pub fn is_over(&self) -> bool {
        matches!(self, Self::Done | Self::Failed(_))
    }
}

/// Where a resource stands, as its platform says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SightState {
    /// Being made or changed.
    Pending,
    /// Usable.
    Ready,
    /// Switched off.
    Stopped,
    /// Deleted.
    Released,
    /// It could not be made.
    Failed(Reason),
}

/// A look at a resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sight {
    /// Where it stands.
    pub state: SightState,
    /// What it has.
    pub has: Quantity,
    /// The platform's name of it.
    pub handle: String,
    /// Where it can be reached.
    pub addresses: Vec<String>,
}

/// An operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationRecord {
    /// Its id; ids grow with time.
    pub id: TaskId,
    /// The resource's tag.
    pub resource: TaskId,
    /// The backend.
    pub adapter: String,
    /// What is wanted.
    pub verb: Verb,
    /// The request as JSON, for the backend; opaque here.
    pub request: Bytes,
    /// Who wants it.
    pub principal: String,
    /// Who is told of its changes, beside those who watch.
    pub notify: Option<String>,
    /// Where it stands.
    pub phase: OperationPhase,
    /// Calls made.
    pub calls: u32,
    /// What was seen last of the resource.
    pub sight: Option<Sight>,
    /// When it was accepted.
    pub begun: Timestamp,
    /// When it was over.
    pub ended: Option<Timestamp>,
    /// Grows with each change that is told.
    pub revision: u32,
}
