//! Counting disks: when a step of a task counts.

use cpi::ids::MemberId;
use cpi::task::Durability;
use std::collections::BTreeSet;

/// What tasks with so many custodians can have.
pub fn durability_of(custodians: usize) -> Durability {
    if custodians >= 3 { Durability::Quorum } else { Durability::Local }
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
        durability_of(self.custodians.len())
    }
}
