//! A custodian's epochs of a task never go back, nor does its fence within an epoch.
//!
//! Across epochs a fence may: one that only its origin's disk had, while that was cut off, never counted.

use super::{Fact, Invariant};
use consensus::negotiation::Record;
use cpi::ids::{Epoch, Fence, TaskId};
use std::collections::BTreeMap;

/// See the file.
#[derive(Default)]
pub struct FencesGrow {
    newest: BTreeMap<(usize, TaskId), (Fence, Epoch, Epoch)>,
}

impl Invariant for FencesGrow {
    fn name(&self) -> &'static str {
        "fences_grow"
    }

    fn observe(&mut self, _: u64, fact: &Fact<'_>) -> Result<(), String> {
        let Fact::Synced { node, record: Record::Custody(custody) } = fact else { return Ok(()) };
        let now = (custody.fence, custody.promised, custody.written);
        match self.newest.insert((*node, custody.task), now) {
            Some((fence, promised, written))
                if custody.promised < promised
                    || custody.written < written
                    || (custody.written == written && custody.fence < fence) =>
            {
                Err(format!("region {node} went back from fence {fence} to {} for {}", custody.fence, custody.task))
            }
            _ => Ok(()),
        }
    }
}
