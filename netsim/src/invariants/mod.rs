//! What must hold at every step, one file each. Each is shown to be able to fail by a planted bug: see [`crate::bug`].

mod acknowledged_kept;
mod all_end;
mod duplicates_stop;
mod fences_grow;
mod fresh_is_fresh;
mod holds_end;
mod no_overcommit;
mod one_binding;
mod one_owner;
mod one_result;
mod queues_bounded;
mod reasons_given;
mod start_after_bind;

use consensus::negotiation::{Attempt, Message, Negotiator, Record};
use cpi::ids::{MemberId, StableKey, TaskId};
use cpi::resource::Quantity;

/// Something that was observed.
pub enum Fact<'a> {
    /// A machine took a step.
    Step {
        /// Where.
        node: usize,
        /// The machine.
        machine: &'a Negotiator,
        /// Inputs that wait for it.
        backlog: usize,
        /// Persists on their way to its disk.
        unsynced: usize,
    },
    /// Records were handed to the disk.
    Told {
        /// Where.
        node: usize,
        /// What.
        record: &'a Record,
    },
    /// A record is safe on disk.
    Synced {
        /// Where.
        node: usize,
        /// What.
        record: &'a Record,
    },
    /// A message left a machine.
    Said {
        /// Whose.
        node: usize,
        /// To whom.
        to: MemberId,
        /// What.
        message: &'a Message,
    },
    /// A submitter was told that its task is safe.
    Acknowledged {
        /// By whom.
        node: usize,
        /// Which.
        task: TaskId,
        /// How many disks have it, by the answer.
        disks: usize,
    },
    /// A run began.
    RunStarted {
        /// Where.
        node: usize,
        /// Which.
        attempt: Attempt,
        /// Whether enough custodians' disks have bound it there.
        bound: bool,
        /// What it takes, and what its class of servers has in all.
        taken: Quantity,
        /// See `taken`.
        total: Quantity,
        /// Pool and class by name.
        place: (&'a str, &'a str),
    },
    /// A run goes on, again after a pause or since its start: asked after each start and renewal.
    Active {
        /// Runs of one task that make progress at this moment.
        task: TaskId,
        /// How many.
        runs: usize,
    },
    /// A run stopped for good.
    RunStopped {
        /// Where.
        node: usize,
        /// Which.
        attempt: Attempt,
    },
    /// Regions were cut off from each other.
    Parted,
    /// Cuts ended or nodes came back.
    Healed,
    /// A replica of the registry answered a read.
    Read {
        /// Which replica.
        node: usize,
        /// Up to when it claims to have everything, in ms.
        as_of_ms: u64,
        /// How many entries it has applied.
        applied: u64,
        /// How many entries were committed by that moment.
        committed: u64,
    },
    /// A replica of the registry shows the owner of an identifier.
    Owned {
        /// Which replica.
        node: usize,
        /// The identifier.
        key: StableKey,
        /// Who owns it there.
        owner: MemberId,
    },
    /// The scenario is over and everything was healed long ago.
    Over {
        /// Acknowledged tasks that have not ended.
        open: &'a [TaskId],
        /// Acknowledged tasks of which no disk knows.
        lost: &'a [TaskId],
        /// Leases that were never settled.
        leases: usize,
    },
}

/// One thing that must hold.
pub trait Invariant {
    /// Its name.
    fn name(&self) -> &'static str;

    /// Looks at a fact.
    ///
    /// # Errors
    /// What was violated.
    fn observe(&mut self, now_ms: u64, fact: &Fact<'_>) -> Result<(), String>;
}

/// The most violations that are kept.
const KEPT_MAX: usize = 100;

/// All of them, and what they found.
pub struct Invariants {
    all: Vec<Box<dyn Invariant>>,
    violations: Vec<String>,
    /// Of so many steps one is looked at closely; 1 for every step, 0 for none.
    pub every: u64,
    seen: u64,
}

impl Default for Invariants {
    fn default() -> Self {
        Self {
            all: vec![
                Box::new(no_overcommit::NoOvercommit::default()),
                Box::new(one_binding::OneBinding::default()),
                Box::new(one_result::OneResult::default()),
                Box::new(duplicates_stop::DuplicatesStop::default()),
                Box::new(acknowledged_kept::AcknowledgedKept::default()),
                Box::new(holds_end::HoldsEnd::default()),
                Box::new(reasons_given::ReasonsGiven),
                Box::new(fences_grow::FencesGrow::default()),
                Box::new(fresh_is_fresh::FreshIsFresh),
                Box::new(one_owner::OneOwner::default()),
                Box::new(queues_bounded::QueuesBounded),
                Box::new(all_end::AllEnd),
                Box::new(start_after_bind::StartAfterBind),
            ],
            violations: Vec::new(),
            every: 1,
            seen: 0,
        }
    }
}

impl Invariants {
    /// Their names.
    pub fn names(&self) -> Vec<&'static str> {
        self.all.iter().map(|invariant| invariant.name()).collect()
    }

    /// Shows a fact to all.
    pub fn observe(&mut self, now_ms: u64, fact: &Fact<'_>) {
        if self.every == 0 {
            return;
        }
        if matches!(fact, Fact::Step { .. }) {
            self.seen += 1;
            if !self.seen.is_multiple_of(self.every) {
                return;
            }
        }
        for invariant in &mut self.all {
            if let Err(what) = invariant.observe(now_ms, fact)
                && self.violations.len() < KEPT_MAX
            {
                self.violations.push(format!("{}: {what}", invariant.name()));
            }
        }
    }

    /// What was violated.
    pub fn violations(&self) -> &[String] {
        &self.violations
    }
}
