//! The capacity book of a region: what each server has free, what is held and what is leased. Never overcommits.
//!
//! Servers with equal free amounts stand in one group, so that a class of thousands of servers is searched by its few
//! distinct shapes. Among the servers that fit, the one is taken that leaves the least behind, chips first: best fit
//! with a penalty for chips that no cores or memory are left for.
//!
//! Source of the aim: Weng et al., "Beware of Fragmentation: Scheduling GPU-Sharing Workloads with Fragmentation
//! Gradient Descent", USENIX ATC 2023; the measure here is a simpler one over integers.

use super::message::{ClassUpdate, Target};
use cpi::resource::{PoolSpec, Quantity};
use std::collections::{BTreeMap, BTreeSet};

/// Where a quantity was taken: give exactly this back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot {
    /// Position of the pool in the book.
    pub pool: u16,
    /// Position of the class in the pool.
    pub class: u16,
    /// The server.
    pub server: u32,
}

#[derive(Debug, Clone)]
struct ClassBook {
    free: Vec<Quantity>,
    groups: BTreeMap<Quantity, BTreeSet<u32>>,
    sum: Quantity,
}

impl ClassBook {
    fn empty(per_server: Quantity, servers: u32) -> Self {
        let mut groups = BTreeMap::new();
        if servers > 0 {
            groups.insert(per_server, (0..servers).collect());
        }
        let times = |each: u64| each.saturating_mul(u64::from(servers));
        Self {
            free: vec![per_server; servers as usize],
            groups,
            sum: Quantity {
                cpu_milli: times(per_server.cpu_milli),
                memory_bytes: times(per_server.memory_bytes),
                storage_bytes: times(per_server.storage_bytes),
                chip_milli: times(per_server.chip_milli),
            },
        }
    }

    fn regroup(&mut self, server: u32, old: Quantity, new: Quantity) {
        if let Some(group) = self.groups.get_mut(&old) {
            group.remove(&server);
            if group.is_empty() {
                self.groups.remove(&old);
            }
        }
        self.groups.entry(new).or_default().insert(server);
        self.free[server as usize] = new;
    }

    fn best(&self, per_server: &Quantity, need: &Quantity) -> Option<u32> {
        self.groups
            .iter()
            .filter(|(free, _)| free.fits(need))
            .min_by_key(|(free, _)| left_behind(per_server, free, need))
            .and_then(|(_, servers)| servers.first().copied())
    }

    /// The freest server, chips before cores before memory.
    fn largest(&self) -> Quantity {
        self.groups.keys().max_by_key(|q| (q.chip_milli, q.cpu_milli, q.memory_bytes)).copied().unwrap_or_default()
    }
}

/// How bad what remains on a server is: chips left without cores or memory, then the remainder itself.
fn left_behind(server: &Quantity, free: &Quantity, need: &Quantity) -> (u64, u64) {
    let Some(left) = free.checked_sub(need) else { return (u64::MAX, u64::MAX) };
    let share =
        |part: u64, whole: u64| if whole == 0 { 0 } else { (u128::from(part) * 1000 / u128::from(whole)) as u64 };
    let chips = share(left.chip_milli, server.chip_milli);
    let cpu = share(left.cpu_milli, server.cpu_milli);
    let memory = share(left.memory_bytes, server.memory_bytes);
    (chips.saturating_sub(cpu.min(memory)), 2 * chips + cpu + memory)
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
}

impl CapacityBook {
    /// A book of empty pools.
    pub fn new(pools: Vec<PoolSpec>) -> Self {
        let pools = pools.into_iter().map(|spec| {
            let classes = spec.classes.iter().map(|c| ClassBook::empty(c.per_server, c.servers)).collect();
            PoolBook { spec, classes }
        });
        Self { pools: pools.collect() }
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

    /// Sum of what is free in a class.
    pub fn free(&self, pool: u16, class: u16) -> Quantity {
        self.pools[pool as usize].classes[class as usize].sum
    }

    /// The most for one task on one server of a class.
    pub fn largest_fit(&self, pool: u16, class: u16) -> Quantity {
        self.pools[pool as usize].classes[class as usize].largest()
    }

    /// The server that would be taken for `need`.
    pub fn would_take(&self, pool: u16, class: u16, need: &Quantity) -> Option<Slot> {
        let book = &self.pools[pool as usize].classes[class as usize];
        book.best(self.per_server(pool, class), need).map(|server| Slot { pool, class, server })
    }

    /// Takes `need` on the best server; `None` if it fits nowhere.
    pub fn take(&mut self, pool: u16, class: u16, need: &Quantity) -> Option<Slot> {
        let slot = self.would_take(pool, class, need)?;
        self.take_at(slot, need).then_some(slot)
    }

    /// Takes `need` on one server, as after a restart. False if it does not fit or the server is not there (any more).
    pub fn take_at(&mut self, slot: Slot, need: &Quantity) -> bool {
        let Some(book) = self.pools.get_mut(slot.pool as usize).and_then(|p| p.classes.get_mut(slot.class as usize))
        else {
            return false;
        };
        let Some(&old) = book.free.get(slot.server as usize) else { return false };
        let Some(new) = old.checked_sub(need) else { return false };
        book.sum = book.sum.checked_sub(need).expect("the sum of all servers covers each of them");
        book.regroup(slot.server, old, new);
        true
    }

    /// Gives back what was taken at `slot`.
    pub fn give_back(&mut self, slot: Slot, quantity: &Quantity) {
        let Some(pool) = self.pools.get_mut(slot.pool as usize) else { return };
        let Some(book) = pool.classes.get_mut(slot.class as usize) else { return };
        let Some(&old) = book.free.get(slot.server as usize) else { return };
        book.sum = book.sum.saturating_add(quantity);
        book.regroup(slot.server, old, old.saturating_add(quantity));
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
        self.pools.iter().all(|pool| {
            pool.classes.iter().zip(&pool.spec.classes).all(|(book, class)| {
                let sum = book.free.iter().fold(Quantity::default(), |sum, free| sum.saturating_add(free));
                sum == book.sum && book.free.iter().all(|free| class.per_server.fits(free))
            })
        })
    }
}
