//! Knobs of custody, each with unit, default and consequence.

use cpi::task::Durability;
use serde::{Deserialize, Serialize};

/// How this node keeps tasks with two other members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CustodyConfig {
    /// How tasks of this origin are kept that do not say it themselves. Default `quorum`: with two other members where they
    /// can be had. `local` keeps them on this node's disk alone, and none of them is adopted when the node is lost.
    pub durability: Durability,
    /// Between signs of life to members that keep tasks with this one, in ms. Default 2,000.
    pub beat_every_ms: u64,
    /// How long the member that decides for a task may be silent before another custodian adopts it, in ms. Default 15,000:
    /// less than a lease, so that a live run goes on without a break. The third custodian waits half as long again.
    pub orphan_after_ms: u64,
    /// How long the origin of an adopted task must be heard again before the task is handed back, in ms. Default 10,000.
    pub return_after_ms: u64,
    /// How long a custodian may be silent before another member takes its place, in ms. Default 600,000.
    pub replace_after_ms: u64,
    /// Between repeats of what was not acknowledged, in ms. Default 1,000; doubles up to 16 times that.
    pub resend_every_ms: u64,
    /// How long what changes nothing but the history may wait before it is sent to the custodians, in ms. Default 1,000.
    pub history_every_ms: u64,
    /// How long a submission waits for a second disk before it is answered as `local`, in ms. Default 2,000.
    pub answer_after_ms: u64,
    /// Adoptions that are under way at the same time. Default 64; the others wait.
    pub claims_max: usize,
    /// Tasks kept for one other member; beyond, its new tasks get no copy here. Default 100,000.
    pub kept_per_member_max: usize,
}

impl Default for CustodyConfig {
    fn default() -> Self {
        Self {
            durability: Durability::Quorum,
            beat_every_ms: 2_000,
            orphan_after_ms: 15_000,
            return_after_ms: 10_000,
            replace_after_ms: 600_000,
            resend_every_ms: 1_000,
            history_every_ms: 1_000,
            answer_after_ms: 2_000,
            claims_max: 64,
            kept_per_member_max: 100_000,
        }
    }
}
