//! An all-knowing look at the live regions: is there room for a task at this moment? No part of any decision.

use crate::world::World;
use consensus::negotiation::{Need, Wishes};

/// Whether some live region that the task may go to has a server with room for it. Filters and prefixes are not looked at.
pub fn has_room(world: &World, need: &Need, wishes: &Wishes) -> bool {
    world.nodes.iter().any(|node| {
        let Some(machine) = &node.machine else { return false };
        let place = &node.place;
        let allowed = (need.residency.is_empty() || need.residency.contains(&place.country))
            && (wishes.regions.is_empty() || wishes.regions.contains(&place.region))
            && !wishes.exclude_regions.contains(&place.region)
            && (wishes.cities.is_empty() || wishes.cities.contains(&place.city));
        if !allowed || machine.provider().is_draining() {
            return false;
        }
        let provider = machine.provider();
        let book = provider.book();
        book.specs().enumerate().any(|(pool, spec)| {
            let (commands, images) = provider.payloads()[pool];
            !spec.cordoned
                && spec.classes.iter().enumerate().any(|(class, declared)| {
                    need.variants.iter().any(|way| {
                        let runs = if way.image { images } else { commands };
                        runs && way.on(declared.chip.as_ref()).is_some_and(|quantity| {
                            let micro = spec.price.hour_micro(&quantity);
                            let affordable = wishes.budget.as_ref().is_none_or(|budget| {
                                let cost = u128::from(micro) * u128::from(need.max_runtime_ms) / 3_600_000;
                                budget.currency == spec.price.currency
                                    && cost <= u128::from(budget.amount_minor) * 10_000
                            });
                            affordable && book.would_take(pool as u16, class as u16, &quantity).is_some()
                        })
                    })
                })
        })
    })
}
