//! After healing every acknowledged task comes to its end, none is lost, and every lease is settled.

use super::{Fact, Invariant};

/// See the file.
pub struct AllEnd;

impl Invariant for AllEnd {
    fn name(&self) -> &'static str {
        "all_end"
    }

    fn observe(&mut self, _: u64, fact: &Fact<'_>) -> Result<(), String> {
        let Fact::Over { open, lost, leases } = fact else { return Ok(()) };
        if let Some(task) = lost.first() {
            return Err(format!("{} acknowledged tasks are on no disk, {task} is one", lost.len()));
        }
        if let Some(task) = open.first() {
            return Err(format!("{} acknowledged tasks never ended, {task} is one", open.len()));
        }
        if *leases > 0 {
            return Err(format!("{leases} leases were never settled"));
        }
        Ok(())
    }
}
