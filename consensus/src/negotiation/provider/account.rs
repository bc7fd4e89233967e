//! What a provider knows of one origin: what it holds and runs here, and how much of what it held it used.

use super::super::message::Attempt;
use crate::time::Monotonic;
use std::collections::{BTreeSet, VecDeque};

/// What is known of one origin.
#[derive(Debug, Default)]
pub struct Account {
    pub holds: u32,
    pub leases: BTreeSet<Attempt>,
    pub holds_used: u32,
    pub holds_unused: u32,
    pub round: u64,
    pub rounds: VecDeque<(u64, Monotonic, Vec<Attempt>)>,
    pub country: Option<String>,
}

impl Account {
    /// How many holds this origin may have: fewer the less it used of those it had.
    pub fn holds_max(&self, limit: u32) -> u32 {
        let all = self.holds_used + self.holds_unused;
        if all < 16 { limit } else { (limit * (self.holds_used + 1) / (all + 1)).max(4.min(limit)) }
    }

    /// Counts a hold that ended, by an award or without one.
    pub fn count_hold(&mut self, used: bool) {
        if used {
            self.holds_used += 1;
        } else {
            self.holds_unused += 1;
        }
        if self.holds_used + self.holds_unused > 1024 {
            self.holds_used /= 2;
            self.holds_unused /= 2;
        }
    }
}
