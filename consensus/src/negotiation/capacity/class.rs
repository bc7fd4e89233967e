//! One class of equal servers: what each has free, grouped by shape, so that thousands are searched by their few shapes.

use super::super::shape::steps;
use super::chips::{ChipSet, ServerFree, WHOLE};
use super::fragments::Shapes;
use cpi::resource::{ChipModel, Quantity};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

/// The servers of a class.
#[derive(Debug, Clone)]
pub struct ClassBook {
    per_server: Quantity,
    chip: Option<ChipModel>,
    servers: Vec<ServerFree>,
    groups: BTreeMap<ServerFree, Group>,
    sum: Quantity,
}

/// Servers that have the same free, and what was worked out about them for the shapes in force.
#[derive(Debug, Clone, Default)]
struct Group {
    servers: BTreeSet<u32>,
    unusable: OnceLock<u64>,
    costs: OnceLock<Vec<Option<Cost>>>,
}

/// Where a need would go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pick {
    /// The server.
    pub server: u32,
    /// Its chips.
    pub chips: ChipSet,
    /// What it adds to the fragmentation, in 1,024ths of a thousandth of a chip.
    pub fragmentation: i64,
    /// What places are compared by.
    pub cost: Cost,
}

/// Less is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cost {
    /// Fragmentation that is added, in steps.
    pub steps: i64,
    /// What is left behind on the server, in permille of it: twice the chips, cores, memory.
    pub left: u64,
}

impl ClassBook {
    /// `servers` empty servers with this chip.
    pub fn empty(per_server: Quantity, servers: u32, chip: Option<ChipModel>) -> Self {
        let free = ServerFree::empty(&per_server);
        let mut groups = BTreeMap::new();
        if servers > 0 {
            groups.insert(free.shape(), Group { servers: (0..servers).collect(), ..Group::default() });
        }
        Self {
            per_server,
            chip,
            servers: vec![free; servers as usize],
            groups,
            sum: super::super::digest::total_of(&per_server, servers),
        }
    }

    /// Sum of what is free.
    pub fn sum(&self) -> Quantity {
        self.sum
    }

    /// The freest server, chips before cores before memory.
    pub fn largest(&self) -> Quantity {
        let largest = self.groups.keys().map(ServerFree::largest);
        largest.max_by_key(|q| (q.chip_milli, q.cpu_milli, q.memory_bytes)).unwrap_or_default()
    }

    /// Which counts of whole free chips servers have (bit n: n chips, 31 for more), and which tenths of a chip are free
    /// somewhere (bit n: n tenths and less than one more).
    pub fn chips_free(&self) -> (u32, u16) {
        let (mut wholes, mut parts) = (0, 0);
        for shape in self.groups.keys().filter(|shape| shape.sum.cpu_milli > 0 && shape.sum.memory_bytes > 0) {
            let whole = shape.chips.iter().filter(|free| **free == WHOLE).count();
            wholes |= 1 << whole.min(31);
            for part in shape.chips.iter().filter(|free| (1..WHOLE).contains(*free)) {
                parts |= 1 << (part / 100);
            }
        }
        (wholes, parts)
    }

    /// The place for `need` that adds the least fragmentation for `shapes`, and between equals the one that leaves the
    /// least behind.
    pub fn best(&self, need: &Quantity, shapes: &Shapes) -> Option<Pick> {
        let mut best: Option<(Cost, i64, &Group, Option<u16>)> = None;
        for (shape, group) in &self.groups {
            if let Some((cost, added, part)) = self.cost(shape, group, need, shapes)
                && best.as_ref().is_none_or(|(least, ..)| cost < *least)
            {
                best = Some((cost, added, group, part));
            }
        }
        let (cost, fragmentation, group, part) = best?;
        let server = *group.servers.first()?;
        let free = &self.servers[server as usize];
        let at = part.and_then(|part| free.chips.iter().position(|chip| *chip == part));
        Some(Pick { server, chips: free.choose(need.chip_milli, at)?, fragmentation, cost })
    }

    /// What the best place for each of `shapes` costs, in their order. Servers that did not change since the last time
    /// are not looked at again; [`Self::forget_costs`] must be called when the shapes change.
    pub fn costs(&self, shapes: &Shapes) -> Vec<Option<Cost>> {
        let mut least: Vec<Option<Cost>> = shapes.iter().map(|_| None).collect();
        for (free, group) in &self.groups {
            let costs = group.costs.get_or_init(|| {
                let cost = |(shape, need): (&super::super::shape::Shape, &Quantity)| {
                    let (cost, ..) = self.cost(free, group, need, shapes)?;
                    shape.runs_on(self.chip.as_ref()).then_some(cost)
                };
                shapes.iter().map(cost).collect()
            });
            for (least, cost) in least.iter_mut().zip(costs) {
                *least = match (*least, *cost) {
                    (Some(a), Some(b)) => Some(a.min(b)),
                    (a, b) => a.or(b),
                };
            }
        }
        least
    }

    /// The shapes in force changed.
    pub fn forget_costs(&mut self) {
        for group in self.groups.values_mut() {
            group.costs = OnceLock::new();
            group.unusable = OnceLock::new();
        }
    }

    /// What `need` costs on a server of this group, with the fragmentation in full and the free part of the chip that it
    /// breaks; `None` if it does not fit.
    fn cost(
        &self,
        free: &ServerFree,
        group: &Group,
        need: &Quantity,
        shapes: &Shapes,
    ) -> Option<(Cost, i64, Option<u16>)> {
        if !free.largest().fits(need) {
            return None;
        }
        let (stranded, left) = left_behind(&self.per_server, &free.sum, need);
        if self.per_server.chip_milli == 0 || shapes.is_empty() {
            // Without shapes, chips without cores or memory are what nobody can use.
            let part = parts_to_try(free, need).pop()?;
            let at = part.and_then(|part| free.chips.iter().position(|chip| *chip == part));
            free.choose(need.chip_milli, at)?;
            return Some((Cost { steps: 0, left: stranded * 10_000 + left }, 0, part));
        }
        let before = *group.unusable.get_or_init(|| shapes.unusable(free, self.chip.as_ref()));
        let mut best: Option<(i64, Option<u16>)> = None;
        for part in parts_to_try(free, need) {
            let at = part.and_then(|part| free.chips.iter().position(|chip| *chip == part));
            let Some(chips) = free.choose(need.chip_milli, at) else { continue };
            let mut after = free.clone();
            if !after.take(need, chips) {
                continue;
            }
            let added = shapes.added(before, shapes.unusable(&after, self.chip.as_ref()));
            if best.is_none_or(|(least, _)| added < least) {
                best = Some((added, part));
            }
        }
        let (added, part) = best?;
        Some((Cost { steps: steps(added), left }, added, part))
    }

    /// Takes `need` on a server. False if it does not fit or the server is not there (any more).
    pub fn take(&mut self, server: u32, need: &Quantity, chips: ChipSet) -> bool {
        self.change(server, |free| free.take(need, chips))
    }

    /// Gives back what was taken.
    pub fn give_back(&mut self, server: u32, need: &Quantity, chips: ChipSet) {
        self.change(server, |free| {
            free.give_back(need, chips);
            true
        });
    }

    fn change(&mut self, server: u32, change: impl FnOnce(&mut ServerFree) -> bool) -> bool {
        let Some(free) = self.servers.get_mut(server as usize) else { return false };
        let (old, before) = (free.shape(), free.sum);
        if !change(free) {
            return false;
        }
        let (new, after) = (free.shape(), free.sum);
        let without = self.sum.checked_sub(&before).expect("the sum of all servers covers each of them");
        self.sum = without.saturating_add(&after);
        if let Some(group) = self.groups.get_mut(&old) {
            group.servers.remove(&server);
            if group.servers.is_empty() {
                self.groups.remove(&old);
            }
        }
        self.groups.entry(new).or_default().servers.insert(server);
        true
    }

    /// Whether no server gives more than it has and the sums agree: the invariant.
    pub fn is_sound(&self) -> bool {
        let sum = self.servers.iter().fold(Quantity::default(), |sum, free| sum.saturating_add(&free.sum));
        let chips = |free: &ServerFree| free.chips.iter().map(|chip| u64::from(*chip)).sum::<u64>();
        sum == self.sum
            && self.servers.iter().all(|free| {
                self.per_server.fits(&free.sum) && (free.chips.is_empty() || chips(free) == free.sum.chip_milli)
            })
    }
}

/// Which free parts of chips are worth a try for the part of a chip in `need`: each distinct one once.
fn parts_to_try(shape: &ServerFree, need: &Quantity) -> Vec<Option<u16>> {
    let rest = (need.chip_milli % u64::from(WHOLE)) as u16;
    if rest == 0 || shape.chips.is_empty() {
        return vec![None];
    }
    let mut parts: Vec<Option<u16>> =
        shape.chips.iter().filter(|free| **free >= rest).map(|free| Some(*free)).collect();
    parts.dedup();
    parts
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
