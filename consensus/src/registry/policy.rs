//! The federation's policy: what all members agreed on beyond the rules that are built in.

use serde::{Deserialize, Serialize};

/// Knobs of the federation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FederationPolicy {
    /// Members (the proposer included) that must approve an admission. 1 to 64; default 1. No more than are active are asked.
    pub admission_approvals: u32,
    /// Voters of the registry: 1, 3, 5 or 7. Default 3. Fewer while there are fewer members.
    pub voters: u32,
    /// Learners that stand by for them, 0 to 8; default 4. All other members follow: they pull what is committed.
    pub learners: u32,
}

impl Default for FederationPolicy {
    fn default() -> Self {
        Self { admission_approvals: 1, voters: 3, learners: 4 }
    }
}

impl FederationPolicy {
    /// What is wrong with it, field and expectation.
    pub fn problem(&self) -> Option<(&'static str, &'static str)> {
        if !(1..=64).contains(&self.admission_approvals) {
            return Some(("admission_approvals", "1 to 64"));
        }
        if ![1, 3, 5, 7].contains(&self.voters) {
            return Some(("voters", "1, 3, 5 or 7"));
        }
        (self.learners > 8).then_some(("learners", "0 to 8"))
    }
}
