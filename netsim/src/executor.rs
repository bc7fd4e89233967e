//! Runs of a region under supervisors that outlive the node: they stage, run for a while, freeze when their lease lapses,
//! thaw when it is renewed, end.

use consensus::negotiation::{Attempt, Target};
use cpi::resource::Quantity;
use std::collections::BTreeMap;

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunPhase {
    /// Inputs are there, nothing started.
    Staged,
    /// Runs.
    Running,
    /// Over, successfully or by cancel.
    Ended {
        /// Whether it was cancelled.
        cancelled: bool,
    },
}

/// One run.
#[derive(Debug, Clone)]
pub struct Run {
    /// Where it stands.
    pub phase: RunPhase,
    /// Milliseconds of running that are left.
    pub left_ms: u64,
    /// When it last got the processor.
    pub since_ms: u64,
    /// Until when its lease lets it run; `None` for a run that goes on.
    pub lease_until_ms: Option<u64>,
    /// What it takes.
    pub quantity: Quantity,
    /// Where in the region.
    pub target: Target,
}

impl Run {
    /// Whether it makes progress at `now_ms`.
    pub fn is_active(&self, now_ms: u64) -> bool {
        self.phase == RunPhase::Running && self.lease_until_ms.is_none_or(|until| now_ms < until)
    }

    /// Counts the time that it ran until `now_ms`; says whether it is through.
    pub fn advance(&mut self, now_ms: u64) -> bool {
        if self.phase != RunPhase::Running {
            return false;
        }
        let until = self.lease_until_ms.map_or(now_ms, |lease| lease.min(now_ms));
        self.left_ms = self.left_ms.saturating_sub(until.saturating_sub(self.since_ms));
        self.since_ms = now_ms;
        self.left_ms == 0
    }
}

/// All runs of a region.
pub type Runs = BTreeMap<Attempt, Run>;
