//! All that can come in to the machine.

use super::action::PersistId;
use super::digest::Digest;
use super::message::{Attempt, Message};
use super::need::{Need, Wishes};
use super::outcome::RunOutcome;
use super::provider::OwnPool;
use bytes::Bytes;
use cpi::dictionary::Dictionary;
use cpi::identifier::Cpi;
use cpi::ids::{MemberId, PlanId, StableKey, TaskId};
use cpi::reason::Reason;
use cpi::resource::RegionPlace;
use cpi::task::Retry;
use std::sync::Arc;

/// A task handed in here.
#[derive(Debug, Clone)]
pub struct Submission {
    /// Its id, allotted by the driver.
    pub task: TaskId,
    /// Who hands it in.
    pub principal: String,
    /// The client's key.
    pub idempotency_key: Option<String>,
    /// The document as JSON text.
    pub document: Bytes,
    /// What it needs.
    pub need: Need,
    /// Where it may go.
    pub wishes: Wishes,
    /// From submission; `None` for no deadline.
    pub deadline_ms: Option<u64>,
    /// What to do after a failed run.
    pub retry: Retry,
    /// Exactly this plan's placement, or an end with `plan_changed`.
    pub plan: Option<PlanId>,
}

/// A question without a task.
#[derive(Debug, Clone)]
pub struct PlanRequest {
    /// Its id; the task made from it takes the same 128 bits.
    pub plan: PlanId,
    /// What would be submitted.
    pub document: Bytes,
    /// What it needs.
    pub need: Need,
    /// Where it may go.
    pub wishes: Wishes,
    /// From submission.
    pub deadline_ms: Option<u64>,
    /// Whether to hold the first choice for a while.
    pub hold: bool,
}

/// What the executor reports of a run.
#[derive(Debug, Clone)]
pub enum RunNotice {
    /// The inputs are there and verified.
    Staged,
    /// Staging or starting failed, before the program ran.
    Failed(Reason),
    /// The program runs.
    Started,
    /// The run is frozen since its lease lapsed.
    Frozen,
    /// It is over; outputs and logs lie in the artifact store.
    Ended(Box<RunOutcome>),
    /// The executor cannot find it (any more), and it will not come back.
    Lost(Reason),
}

/// Something that happened.
#[derive(Debug, Clone)]
pub enum Input {
    /// A task is handed in.
    Submit(Box<Submission>),
    /// A plan is asked for.
    Plan(Box<PlanRequest>),
    /// A task of this origin shall end.
    Cancel {
        /// The task.
        task: TaskId,
        /// Who wants it.
        principal: String,
    },
    /// A peer (or this node itself) says something; statements are verified already.
    Message {
        /// Who.
        from: MemberId,
        /// What.
        message: Message,
    },
    /// A custodian says something.
    Custody {
        /// Who.
        from: MemberId,
        /// What.
        message: Box<crate::custody::Message>,
    },
    /// The answer to [`super::Action::Load`].
    Loaded {
        /// The task.
        task: TaskId,
        /// What the disk has of it.
        found: Option<crate::custody::Found>,
    },
    /// All persists up to this one are on disk.
    Persisted {
        /// The newest.
        up_to: PersistId,
    },
    /// A member's place and standing, from the registry.
    Member {
        /// Who.
        member: MemberId,
        /// Where.
        place: RegionPlace,
        /// Whether its membership is in force.
        active: bool,
    },
    /// A member left.
    MemberGone(MemberId),
    /// A capacity digest, verified.
    Digest(Arc<Digest>),
    /// A measured round trip; `None` when the peer is not connected.
    Rtt {
        /// To whom.
        member: MemberId,
        /// Milliseconds.
        rtt_ms: Option<u32>,
    },
    /// Bytes were moved between here and a region: how fast its line is.
    Moved {
        /// Which region.
        member: MemberId,
        /// How many bytes.
        bytes: u64,
        /// In how many ms.
        ms: u64,
    },
    /// Descriptions of identifiers that digests name, for filters and prefixes.
    Identifiers {
        /// Whose.
        member: MemberId,
        /// Key and canonical text.
        identifiers: Vec<(StableKey, Cpi)>,
    },
    /// A newer dictionary is in force.
    Dictionary(Arc<Dictionary>),
    /// This region's own pools, as configured or as its adapters report.
    Pools(Vec<OwnPool>),
    /// A pool of this region takes no new work (or does again).
    Cordon {
        /// The pool.
        pool: String,
        /// Whether it is closed.
        cordoned: bool,
    },
    /// The backend of a pool of this region does not answer (or does again).
    PoolDown {
        /// The pool.
        pool: String,
        /// What is wrong; `None` where it works.
        why: Option<String>,
    },
    /// This region takes no new work (or does again).
    Draining(bool),
    /// The executor reports.
    Run(Attempt, RunNotice),
    /// The results of a run were brought here, or could not be.
    Fetched {
        /// Which run.
        attempt: Attempt,
        /// Why not.
        result: Result<(), Reason>,
    },
    /// The mesh could not take a message for this peer.
    PeerBusy {
        /// The peer.
        member: MemberId,
        /// The message's attempt, where it had one.
        attempt: Option<Attempt>,
        /// Whether it was an ask: the peer counts as silent for it.
        question: bool,
    },
}
