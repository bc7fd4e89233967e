//! What was acknowledged is on as many disks at that moment as the answer says.

use super::{Fact, Invariant};
use consensus::negotiation::Record;
use cpi::ids::TaskId;
use std::collections::{BTreeMap, BTreeSet};

/// See the file.
#[derive(Default)]
pub struct AcknowledgedKept {
    safe: BTreeMap<TaskId, BTreeSet<usize>>,
}

impl Invariant for AcknowledgedKept {
    fn name(&self) -> &'static str {
        "acknowledged_kept"
    }

    fn observe(&mut self, _: u64, fact: &Fact<'_>) -> Result<(), String> {
        match fact {
            Fact::Synced { node, record: Record::Task(task) | Record::Kept(task) } => {
                self.safe.entry(task.task).or_default().insert(*node);
                Ok(())
            }
            Fact::Acknowledged { node, task, disks } => {
                let have = self.safe.get(task);
                if !have.is_some_and(|have| have.contains(node)) {
                    return Err(format!("region {node} acknowledged {task} before its disk had it"));
                }
                let have = have.map_or(0, BTreeSet::len);
                if have < *disks {
                    return Err(format!("region {node} acknowledged {task} on {disks} disks, and {have} have it"));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
