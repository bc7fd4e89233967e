//! Two runs of one task make progress at the same time for at most a lease and 30 s after healing.

use super::{Fact, Invariant};
use cpi::ids::TaskId;
use std::collections::BTreeMap;

/// The default lease and 30 s, in ms.
const BOUND_MS: u64 = 60_000;

/// See the file.
#[derive(Default)]
pub struct DuplicatesStop {
    since: BTreeMap<TaskId, u64>,
    healed_ms: u64,
    parted: bool,
}

impl Invariant for DuplicatesStop {
    fn name(&self) -> &'static str {
        "duplicates_stop"
    }

    fn observe(&mut self, now_ms: u64, fact: &Fact<'_>) -> Result<(), String> {
        match fact {
            Fact::Parted => {
                self.parted = true;
                Ok(())
            }
            Fact::Healed => {
                self.parted = false;
                self.healed_ms = now_ms;
                Ok(())
            }
            Fact::Active { .. } if self.parted => Ok(()),
            Fact::Active { task, runs } if *runs > 1 => {
                let since = *self.since.entry(*task).or_insert(now_ms);
                let from = since.max(self.healed_ms);
                if now_ms > from + BOUND_MS {
                    Err(format!("{runs} runs of {task} go on, {} ms after healing", now_ms - from))
                } else {
                    Ok(())
                }
            }
            Fact::Active { task, .. } => {
                self.since.remove(task);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
