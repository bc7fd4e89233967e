//! What must hold at every step, one file each.

mod acknowledged_kept;
mod no_overcommit;
mod one_active;
mod one_binding;
mod one_result;
mod start_after_bind;

use acknowledged_kept::AcknowledgedKept;
use consensus::negotiation::{Attempt, Negotiator, Record};
use cpi::ids::TaskId;
use no_overcommit::NoOvercommit;
use one_active::OneActive;
use one_binding::OneBinding;
use one_result::OneResult;
use start_after_bind::StartAfterBind;

/// Something that was observed.
pub enum Fact<'a> {
    /// A machine took a step.
    Step {
        /// Where.
        node: usize,
        /// The machine.
        machine: &'a Negotiator,
    },
    /// A record is safe on disk.
    Synced {
        /// Where.
        node: usize,
        /// What.
        record: &'a Record,
    },
    /// A submitter was told that its task is safe.
    Acknowledged {
        /// By whom.
        node: usize,
        /// Which.
        task: TaskId,
    },
    /// A run began.
    RunStarted {
        /// Where.
        node: usize,
        /// Which.
        attempt: Attempt,
        /// Whether a custodian's disk has bound it there.
        bound: bool,
        /// Other runs of the same task that make progress at this moment.
        active: usize,
    },
    /// A run stopped for good.
    RunStopped {
        /// Where.
        node: usize,
        /// Which.
        attempt: Attempt,
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
    fn observe(&mut self, fact: &Fact<'_>) -> Result<(), String>;
}

/// All of them, and what they found.
pub struct Invariants {
    all: Vec<Box<dyn Invariant>>,
    violations: Vec<String>,
}

impl Default for Invariants {
    fn default() -> Self {
        Self {
            all: vec![
                Box::new(NoOvercommit),
                Box::new(OneBinding::default()),
                Box::new(OneResult::default()),
                Box::new(StartAfterBind),
                Box::new(OneActive),
                Box::new(AcknowledgedKept::default()),
            ],
            violations: Vec::new(),
        }
    }
}

impl Invariants {
    /// Shows a fact to all.
    pub fn observe(&mut self, fact: &Fact<'_>) {
        for invariant in &mut self.all {
            if let Err(what) = invariant.observe(fact) {
                self.violations.push(format!("{}: {what}", invariant.name()));
            }
        }
    }

    /// What was violated.
    pub fn violations(&self) -> &[String] {
        &self.violations
    }
}
