//! A run starts only after a custodian's disk has bound it.

use super::{Fact, Invariant};

/// See the file.
pub struct StartAfterBind;

impl Invariant for StartAfterBind {
    fn name(&self) -> &'static str {
        "start_after_bind"
    }

    fn observe(&mut self, fact: &Fact<'_>) -> Result<(), String> {
        match fact {
            Fact::RunStarted { node, attempt, bound: false, .. } => {
                Err(format!("region {node} started {} under {} unbound", attempt.task, attempt.fence))
            }
            _ => Ok(()),
        }
    }
}
