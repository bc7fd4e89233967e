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

impl Durability {
    /// What tasks with so many custodians can have.
    pub fn of(custodians: usize) -> Self {
        if custodians >= 3 { Self::Ring } else { Self::Local }
    }

    /// The stable text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Ring => "ring",
        }
    }
}

/// The custodians that have one step on disk. While the set changes, most of the new and most of the former are needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quorum {
    custodians: BTreeSet<MemberId>,
    former: BTreeSet<MemberId>,
    synced: BTreeSet<MemberId>,
}

impl Quorum {
    /// A step that no disk has yet.
    pub fn of(custodians: &[MemberId]) -> Self {
        Self::joint(custodians, &[])
    }

    /// The same while the set changes from `former`; an empty `former` for no change.
    pub fn joint(custodians: &[MemberId], former: &[MemberId]) -> Self {
        Self {
            custodians: custodians.iter().copied().collect(),
            former: former.iter().copied().collect(),
            synced: BTreeSet::new(),
        }
    }

    /// Counts a disk once; others than custodians do not count. Says whether the step counts now.
    pub fn synced_by(&mut self, member: MemberId) -> bool {
        if self.custodians.contains(&member) || self.former.contains(&member) {
            self.synced.insert(member);
        }
        self.is_reached()
    }

    /// Whether enough disks have the step: more than half of each set.
    pub fn is_reached(&self) -> bool {
        let most = |set: &BTreeSet<MemberId>| set.intersection(&self.synced).count() > set.len() / 2;
        most(&self.custodians) && (self.former.is_empty() || most(&self.former))
    }

    /// What an acknowledgement of a task with these custodians is worth.
    pub fn durability(&self) -> Durability {
        Durability::of(self.custodians.len())
    }
}
