//! Queues are bounded: what waits for a machine, its unsynced persists, its rounds at the same time, its open tasks.

use super::{Fact, Invariant};
use crate::node::{BACKLOG_MAX, UNSYNCED_MAX};
use consensus::negotiation::NegotiationConfig;

/// Persists that one input may cause beyond the bound at which new work waits.
const OVERSHOOT: usize = 4_096;

/// See the file.
pub struct QueuesBounded;

impl Invariant for QueuesBounded {
    fn name(&self) -> &'static str {
        "queues_bounded"
    }

    fn observe(&mut self, _: u64, fact: &Fact<'_>) -> Result<(), String> {
        let Fact::Step { node, machine, backlog, unsynced } = fact else { return Ok(()) };
        let bounds = NegotiationConfig::default();
        let stats = machine.origin_stats();
        for (what, have, most) in [
            ("inputs waiting", *backlog, BACKLOG_MAX),
            ("unsynced persists", *unsynced, UNSYNCED_MAX + OVERSHOOT),
            ("rounds", stats.placing, bounds.placing_max.max(1024)),
            ("open tasks", stats.open, bounds.tasks_max),
        ] {
            if have > most {
                return Err(format!("region {node} has {have} {what}, at most {most} are allowed"));
            }
        }
        Ok(())
    }
}
