//! Counting disks: when a step of a task counts.

use cpi::ids::MemberId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// What an acknowledgement is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// On the origin's disk alone; never adopted by others.
    Local,
    /// On the disks of most of the task's custodians.
    Ring,
}

/// The custodians that have one step on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quorum {
    custodians: BTreeSet<MemberId>,
    synced: BTreeSet<MemberId>,
}

impl Quorum {
    /// A step that no disk has yet.
    pub fn of(custodians: &[MemberId]) -> Self {
        Self { custodians: custodians.iter().copied().collect(), synced: BTreeSet::new() }
    }

    /// How many disks are needed: more than half.
    pub fn needed(&self) -> usize {
        self.custodians.len() / 2 + 1
    }

    /// Counts a disk once; others than custodians do not count. Says whether the step counts now.
    pub fn synced_by(&mut self, member: MemberId) -> bool {
        if self.custodians.contains(&member) {
            self.synced.insert(member);
        }
        self.is_reached()
    }

    /// Whether enough disks have the step.
    pub fn is_reached(&self) -> bool {
        self.synced.len() >= self.needed()
    }

    /// What an acknowledgement of a task with these custodians is worth.
    pub fn durability(&self) -> Durability {
        if self.custodians.len() >= 3 { Durability::Ring } else { Durability::Local }
    }
}
