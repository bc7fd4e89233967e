//! A task ends once: its recorded result never changes.

use super::{Fact, Invariant};
use consensus::negotiation::Record;
use cpi::ids::{ContentDigest, TaskId};
use std::collections::BTreeMap;

/// See the file.
#[derive(Default)]
pub struct OneResult {
    ends: BTreeMap<TaskId, ContentDigest>,
}

impl Invariant for OneResult {
    fn name(&self) -> &'static str {
        "one_result"
    }

    fn observe(&mut self, _: u64, fact: &Fact<'_>) -> Result<(), String> {
        let Fact::Synced { record: Record::Custody(custody), .. } = fact else { return Ok(()) };
        // An end that is not closed may not have counted, and a custodian may lag behind.
        match (custody.end.as_ref().filter(|_| custody.closed), self.ends.get(&custody.task)) {
            (Some(end), None) => {
                self.ends.insert(custody.task, end.digest);
                Ok(())
            }
            (Some(end), Some(before)) if end.digest == *before => Ok(()),
            (None, _) => Ok(()),
            _ => Err(format!("the end of {} changed", custody.task)),
        }
    }
}
