//! A run starts only after enough custodians bound it on their disks.

use super::{Fact, Invariant};

/// See the file.
pub struct StartAfterBind;

impl Invariant for StartAfterBind {
    fn name(&self) -> &'static str {
        "start_after_bind"
    }

    fn observe(&mut self, _: u64, fact: &Fact<'_>) -> Result<(), String> {
        match fact {
            Fact::RunStarted { node, attempt, bound: false, .. } => {
                Err(format!("region {node} started {} under {} unbound", attempt.task, attempt.fence))
            }
            _ => Ok(()),
        }
    }
}
