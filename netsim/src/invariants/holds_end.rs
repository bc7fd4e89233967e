//! Holds always end: once the longest hold that a region offered is over, it holds nothing.

use super::{Fact, Invariant};
use consensus::negotiation::Message;
use std::collections::BTreeMap;

/// Timers may be late by this much, in ms.
const LATE_MS: u64 = 1_000;

/// See the file.
#[derive(Default)]
pub struct HoldsEnd {
    until_ms: BTreeMap<usize, u64>,
}

impl Invariant for HoldsEnd {
    fn name(&self) -> &'static str {
        "holds_end"
    }

    fn observe(&mut self, now_ms: u64, fact: &Fact<'_>) -> Result<(), String> {
        match fact {
            Fact::Said { node, message: Message::Offer(offer), .. } => {
                let until = self.until_ms.entry(*node).or_default();
                *until = (*until).max(now_ms + offer.hold_ms);
                Ok(())
            }
            Fact::Step { node, machine, .. } => {
                let holds = machine.provider().holds();
                let until = self.until_ms.get(node).copied().unwrap_or(0);
                if holds > 0 && now_ms > until + LATE_MS {
                    return Err(format!("region {node} still has {holds} holds, the last was over at {until} ms"));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
