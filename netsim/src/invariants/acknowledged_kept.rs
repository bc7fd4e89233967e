//! What was acknowledged is on disk at that moment.

use super::{Fact, Invariant};
use consensus::negotiation::Record;
use cpi::ids::TaskId;
use std::collections::BTreeSet;

/// See the file.
#[derive(Default)]
pub struct AcknowledgedKept {
    safe: BTreeSet<(usize, TaskId)>,
}

impl Invariant for AcknowledgedKept {
    fn name(&self) -> &'static str {
        "acknowledged_kept"
    }

    fn observe(&mut self, _: u64, fact: &Fact<'_>) -> Result<(), String> {
        match fact {
            Fact::Synced { node, record: Record::Task(task) } => {
                self.safe.insert((*node, task.task));
                Ok(())
            }
            Fact::Acknowledged { node, task } if !self.safe.contains(&(*node, *task)) => {
                Err(format!("region {node} acknowledged {task} before its disk had it"))
            }
            _ => Ok(()),
        }
    }
}
