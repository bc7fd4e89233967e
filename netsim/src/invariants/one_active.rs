//! No two runs of one task make progress at the same time.

use super::{Fact, Invariant};

/// See the file.
pub struct OneActive;

impl Invariant for OneActive {
    fn name(&self) -> &'static str {
        "one_active"
    }

    fn observe(&mut self, fact: &Fact<'_>) -> Result<(), String> {
        match fact {
            Fact::RunStarted { node, attempt, active, .. } if *active > 0 => {
                Err(format!("region {node} started {} while {active} other runs of it go on", attempt.task))
            }
            _ => Ok(()),
        }
    }
}
