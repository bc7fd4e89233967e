//! What runs, is held or is leased of firm pools never exceeds what the servers have, in the machine's book and in truth.

use super::{Fact, Invariant};
use consensus::negotiation::Attempt;
use cpi::resource::Quantity;
use std::collections::BTreeMap;

type Place = (usize, String, String);

/// See the file.
#[derive(Default)]
pub struct NoOvercommit {
    running: BTreeMap<(usize, Attempt), (Place, Quantity)>,
    sums: BTreeMap<Place, Quantity>,
}

impl Invariant for NoOvercommit {
    fn name(&self) -> &'static str {
        "no_overcommit"
    }

    fn observe(&mut self, _: u64, fact: &Fact<'_>) -> Result<(), String> {
        match fact {
            Fact::Step { node, machine, .. } if !machine.provider().is_sound() => {
                Err(format!("the book of region {node} does not add up"))
            }
            Fact::RunStarted { node, attempt, taken, total, place, .. } => {
                let place = (*node, place.0.to_owned(), place.1.to_owned());
                let sum = self.sums.entry(place.clone()).or_default();
                *sum = sum.saturating_add(taken);
                let sum = *sum;
                self.running.insert((*node, *attempt), (place, *taken));
                if total.fits(&sum) {
                    Ok(())
                } else {
                    Err(format!("runs of region {node} take {sum:?} of {total:?} with task {}", attempt.task))
                }
            }
            Fact::RunStopped { node, attempt } => {
                if let Some((place, taken)) = self.running.remove(&(*node, *attempt))
                    && let Some(sum) = self.sums.get_mut(&place)
                {
                    *sum = sum.checked_sub(&taken).unwrap_or_default();
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
