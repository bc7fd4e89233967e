//! At most one provider is bound per fence.

use super::{Fact, Invariant};
use consensus::negotiation::Record;
use cpi::ids::{Fence, MemberId, TaskId};
use std::collections::BTreeMap;

/// See the file.
#[derive(Default)]
pub struct OneBinding {
    bound: BTreeMap<(TaskId, Fence), MemberId>,
}

impl Invariant for OneBinding {
    fn name(&self) -> &'static str {
        "one_binding"
    }

    fn observe(&mut self, _: u64, fact: &Fact<'_>) -> Result<(), String> {
        let Fact::Synced { record: Record::Custody(custody), .. } = fact else { return Ok(()) };
        let Some(binding) = &custody.binding else { return Ok(()) };
        let holder = *self.bound.entry((custody.task, binding.fence)).or_insert(binding.provider);
        if holder == binding.provider {
            Ok(())
        } else {
            Err(format!("{} has {holder} and {} under fence {}", custody.task, binding.provider, binding.fence))
        }
    }
}
