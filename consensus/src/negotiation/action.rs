//! All that the machine can ask its driver for.

use super::message::{Attempt, Message};
use super::plan::PlanResult;
use super::record::{Record, RunGrant};
use crate::time::Monotonic;
use cpi::ids::{MemberId, TaskId};
use cpi::reason::Reason;

/// Numbers persists in the order in which they were asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PersistId(pub u64);

/// Something to do.
#[derive(Debug, Clone)]
pub enum Action {
    /// Put these records on disk, in order, then report [`super::Input::Persisted`]. Drivers batch syncs.
    Persist {
        /// Its number.
        id: PersistId,
        /// What.
        records: Vec<Record>,
    },
    /// Say this to a member (this one included), but not before that persist is on disk.
    Send {
        /// To whom.
        to: MemberId,
        /// What.
        message: Message,
        /// After which persist.
        after: Option<PersistId>,
    },
    /// Say this to another custodian, but not before that persist is on disk.
    Custody {
        /// To whom.
        to: MemberId,
        /// What.
        message: Box<crate::custody::Message>,
        /// After which persist.
        after: Option<PersistId>,
    },
    /// Look for a task among the rows on disk, then report [`super::Input::Loaded`].
    Load {
        /// The task.
        task: TaskId,
    },
    /// What the answer to a submission is worth now: told once a second disk has it, or none could be had in time.
    Durable {
        /// The task.
        task: TaskId,
        /// What it is worth.
        durability: crate::custody::Durability,
    },
    /// The submission was taken in, and is on this disk with that persist.
    Admitted {
        /// The task.
        task: TaskId,
        /// The persist that holds it, or why it was refused.
        result: Result<PersistId, Reason>,
    },
    /// A plan is ready.
    Planned(Box<PlanResult>),
    /// An order to this region's executor, but not before that persist is on disk.
    Run {
        /// What.
        order: RunOrder,
        /// After which persist.
        after: Option<PersistId>,
    },
    /// Bring the outputs and logs of this run from its provider, then report [`super::Input::Fetched`].
    Fetch {
        /// The run.
        attempt: Attempt,
        /// Where they are.
        from: MemberId,
        /// What.
        files: Vec<super::outcome::FileRef>,
    },
}

/// An order to the executor. Orders may be repeated; the attempt is the run's tag.
#[derive(Debug, Clone)]
pub enum RunOrder {
    /// Fetch and verify the inputs; report `Staged`. Nothing runs yet.
    Prepare(Box<RunGrant>),
    /// Start it once it is staged (the executor waits for that); report `Started`, then `Ended`.
    Start {
        /// Which run.
        attempt: Attempt,
        /// Until when its lease lets it run.
        until: Monotonic,
    },
    /// After a restart: find the run again, do not start it; report what it is, or `Lost`.
    Reattach(Box<RunGrant>),
    /// Leases go on. An instant, so that an order that waits does not lengthen a run: drivers work out what is left when
    /// they hand it on.
    Renew {
        /// Which runs.
        runs: Vec<Attempt>,
        /// Until when they may run.
        until: Monotonic,
    },
    /// End it; report `Ended` (or nothing if it never started).
    Cancel(Attempt),
    /// The origin has everything: forget the run and what it left.
    Release(Attempt),
}

impl RunOrder {
    /// The runs that it is about.
    pub fn attempts(&self) -> &[Attempt] {
        match self {
            Self::Prepare(grant) | Self::Reattach(grant) => std::slice::from_ref(&grant.attempt),
            Self::Start { attempt, .. } | Self::Cancel(attempt) | Self::Release(attempt) => {
                std::slice::from_ref(attempt)
            }
            Self::Renew { runs, .. } => runs,
        }
    }
}
