//! The capacity book of a region: what each server has free, what is held and what is leased. Never overcommits.
//!
//! `class` groups equal servers, `chips` tells a server's accelerators apart, `fragments` says what a placement spoils.

mod chips;
mod class;
mod fragments;

pub use chips::ChipSet;

use super::message::{ClassUpdate, Target};
use super::shape::{BestPlace, Shape};
use class::ClassBook;
pub use class::Cost;
use cpi::resource::{PoolSpec, Quantity};
use fragments::Shapes;

/// Where a quantity was taken: give exactly this back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot {
    /// Position of the pool in the book.
    pub pool: u16,
    /// Position of the class in the pool.
    pub class: u16,
    /// The server.
    pub server: u32,
    /// Its chips.
    pub chips: ChipSet,
}

/// Where a quantity would be taken, and what that spoils.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chance {
    /// Where.
    pub slot: Slot,
    /// Thousandths of chips that the mean ask of late could use before and not after, in 1,024ths; negative where it
    /// uses up what was spoilt.
    pub fragmentation: i64,
    /// What places are compared by: less is better.
    pub cost: Cost,
}

#[derive(Debug, Clone)]
struct PoolBook {
    spec: PoolSpec,
    classes: Vec<ClassBook>,
}

/// All pools of this region.
#[derive(Debug, Clone, Default)]
pub struct CapacityBook {
    pools: Vec<PoolBook>,
    shapes: Shapes,
}

impl CapacityBook {
    /// A book of empty pools.
    pub fn new(pools: Vec<PoolSpec>) -> Self {
        let pools = pools.into_iter().map(|spec| {
            let classes =
                spec.classes.iter().map(|c| ClassBook::empty(c.per_server, c.servers, c.chip.clone())).collect();
            PoolBook { spec, classes }
        });
        Self { pools: pools.collect(), shapes: Shapes::default() }
    }

    /// The pools as declared.
    pub fn specs(&self) -> impl Iterator<Item = &PoolSpec> {
        self.pools.iter().map(|p| &p.spec)
    }

    /// Positions of a target's pool and class.
    pub fn find(&self, target: &Target) -> Option<(u16, u16)> {
        let pool = self.pools.iter().position(|p| p.spec.name == target.pool)?;
        let class = self.pools[pool].spec.classes.iter().position(|c| c.name == target.class)?;
        Some((pool as u16, class as u16))
    }

    /// The pool at a position.
    pub fn pool(&self, pool: u16) -> &PoolSpec {
        &self.pools[pool as usize].spec
    }

    /// What one empty server of a class has.
    pub fn per_server(&self, pool: u16, class: u16) -> &Quantity {
        &self.pools[pool as usize].spec.classes[class as usize].per_server
    }

    fn class(&self, pool: u16, class: u16) -> &ClassBook {
        &self.pools[pool as usize].classes[class as usize]
    }

    /// Takes over what is asked lately, most asked first: fragmentation is measured against it.
    pub fn set_shapes(&mut self, asked: Vec<(Shape, u64)>) {
        self.shapes = Shapes::new(asked);
        for class in self.pools.iter_mut().flat_map(|pool| &mut pool.classes) {
            class.forget_costs();
        }
    }

    /// Keeps what was asked lately over a change of pools.
    pub fn remember_shapes_of(&mut self, other: &Self) {
        self.shapes = other.shapes.clone();
    }

    /// Whether any server has chips.
    pub fn has_chips(&self) -> bool {
        self.pools.iter().any(|pool| pool.spec.classes.iter().any(|class| class.per_server.chip_milli > 0))
    }

    /// The best place for each shape that is asked lately, most asked first; classes count through all pools, those
    /// of cordoned pools and beyond 256 are left out. Without chips nowhere is better than elsewhere, and none is told.
    pub fn best_places(&self) -> Vec<(Shape, Option<BestPlace>)> {
        let mut best: Vec<Option<BestPlace>> = self.shapes.iter().map(|_| None).collect();
        if !self.has_chips() {
            return self.shapes.iter().map(|(shape, _)| shape.clone()).zip(best).collect();
        }
        let classes = self.pools.iter().flat_map(|pool| pool.classes.iter().map(|class| (pool.spec.cordoned, class)));
        for (position, (_, class)) in classes.enumerate().take(256).filter(|(_, (cordoned, _))| !cordoned) {
            for (best, cost) in best.iter_mut().zip(class.costs(&self.shapes)) {
                let Some(cost) = cost else { continue };
                let place = BestPlace {
                    added: cost.steps.clamp(-127, 127) as i8,
                    left: (cost.left / 16).min(255) as u8,
                    class: position as u8,
                };
                if best.is_none_or(|least| place < least) {
                    *best = Some(place);
                }
            }
        }
        self.shapes.iter().map(|(shape, _)| shape.clone()).zip(best).collect()
    }

    /// Sum of what is free in a class.
    pub fn free(&self, pool: u16, class: u16) -> Quantity {
        self.class(pool, class).sum()
    }

    /// The most for one task on one server of a class.
    pub fn largest_fit(&self, pool: u16, class: u16) -> Quantity {
        self.class(pool, class).largest()
    }

    /// Which counts of whole chips and which tenths of chips are free on servers of a class; see [`ClassBook::chips_free`].
    pub fn chips_free(&self, pool: u16, class: u16) -> (u32, u16) {
        self.class(pool, class).chips_free()
    }

    /// The server that would be taken for `need`.
    pub fn would_take(&self, pool: u16, class: u16, need: &Quantity) -> Option<Chance> {
        let pick = self.class(pool, class).best(need, &self.shapes)?;
        let slot = Slot { pool, class, server: pick.server, chips: pick.chips };
        Some(Chance { slot, fragmentation: pick.fragmentation, cost: pick.cost })
    }

    /// Takes `need` on the best server; `None` if it fits nowhere.
    pub fn take(&mut self, pool: u16, class: u16, need: &Quantity) -> Option<Slot> {
        let slot = self.would_take(pool, class, need)?.slot;
        self.take_at(slot, need).then_some(slot)
    }

    /// Takes `need` at a place, as after a restart. False if it does not fit or the server is not there (any more).
    pub fn take_at(&mut self, slot: Slot, need: &Quantity) -> bool {
        let book = self.pools.get_mut(slot.pool as usize).and_then(|p| p.classes.get_mut(slot.class as usize));
        book.is_some_and(|book| book.take(slot.server, need, slot.chips))
    }

    /// Gives back what was taken at `slot`.
    pub fn give_back(&mut self, slot: Slot, quantity: &Quantity) {
        let book = self.pools.get_mut(slot.pool as usize).and_then(|p| p.classes.get_mut(slot.class as usize));
        if let Some(book) = book {
            book.give_back(slot.server, quantity, slot.chips);
        }
    }

    /// Stops or allows new work in a pool. False if there is no such pool.
    pub fn cordon(&mut self, pool: &str, cordoned: bool) -> bool {
        let found = self.pools.iter_mut().find(|p| p.spec.name == pool);
        found.map(|p| p.spec.cordoned = cordoned).is_some()
    }

    /// Fresh figures of a class, as a decline carries them.
    pub fn update(&self, pool: u16, class: u16) -> ClassUpdate {
        let spec = &self.pools[pool as usize].spec;
        ClassUpdate {
            pool: spec.name.clone(),
            class: spec.classes[class as usize].name.clone(),
            free: self.free(pool, class),
            largest_fit: self.largest_fit(pool, class),
        }
    }

    /// Whether no server gives more than it has and the sums agree: the invariant.
    pub fn is_sound(&self) -> bool {
        self.pools.iter().all(|pool| pool.classes.iter().all(ClassBook::is_sound))
    }
}

#[cfg(test)]
mod tests;
