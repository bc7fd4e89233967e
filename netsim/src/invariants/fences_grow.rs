//! A custodian's fence of a task and its promised epoch never go back.

use super::{Fact, Invariant};
use consensus::negotiation::Record;
use cpi::ids::{Epoch, Fence, TaskId};
use std::collections::BTreeMap;

/// See the file.
#[derive(Default)]
pub struct FencesGrow {
    newest: BTreeMap<(usize, TaskId), (Fence, Epoch)>,
}

impl Invariant for FencesGrow {
    fn name(&self) -> &'static str {
        "fences_grow"
    }

    fn observe(&mut self, _: u64, fact: &Fact<'_>) -> Result<(), String> {
        let Fact::Synced { node, record: Record::Custody(custody) } = fact else { return Ok(()) };
        let now = (custody.fence, custody.promised);
        match self.newest.insert((*node, custody.task), now) {
            Some((fence, promised)) if custody.fence < fence || custody.promised < promised => {
                Err(format!("region {node} went back from fence {fence} to {} for {}", custody.fence, custody.task))
            }
            _ => Ok(()),
        }
    }
}
