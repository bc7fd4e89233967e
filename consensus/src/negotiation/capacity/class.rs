//! One class of equal servers: what each has free, grouped by shape, so that thousands are searched by their few shapes.

use super::chips::{ChipSet, ServerFree, WHOLE};
use super::fragments::Shapes;
use cpi::resource::Quantity;
use std::collections::{BTreeMap, BTreeSet};

/// The servers of a class.
#[derive(Debug, Clone)]
pub struct ClassBook {
    per_server: Quantity,
    servers: Vec<ServerFree>,
    groups: BTreeMap<ServerFree, BTreeSet<u32>>,
    sum: Quantity,
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
}

/// Fragmentation that is added, then what is left behind: less is better.
type Cost = (i64, (u64, u64));

impl ClassBook {
    /// `servers` empty servers.
    pub fn empty(per_server: Quantity, servers: u32) -> Self {
        let free = ServerFree::empty(&per_server);
        let mut groups = BTreeMap::new();
        if servers > 0 {
            groups.insert(free.shape(), (0..servers).collect());
        }
        Self {
            per_server,
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

    /// The place for `need` that adds the least fragmentation for `shapes`; without shapes, and between equals, the one
    /// that leaves the least behind, chips first.
    pub fn best(&self, need: &Quantity, shapes: &Shapes) -> Option<Pick> {
        let mut best: Option<(Cost, &BTreeSet<u32>, Option<u16>)> = None;
        for (shape, servers) in self.groups.iter().filter(|(shape, _)| shape.largest().fits(need)) {
            let left = left_behind(&self.per_server, &shape.sum, need);
            for part in parts_to_try(shape, need) {
                let at = part.and_then(|free| shape.chips.iter().position(|chip| *chip == free));
                let Some(chips) = shape.choose(need.chip_milli, at) else { continue };
                let added = if self.per_server.chip_milli == 0 || shapes.is_empty() {
                    0
                } else {
                    let mut after = shape.clone();
                    if !after.take(need, chips) {
                        continue;
                    }
                    shapes.added(shape, &after)
                };
                let key = (added, left);
                if best.as_ref().is_none_or(|(least, ..)| key < *least) {
                    best = Some((key, servers, part));
                }
            }
        }
        let ((added, _), servers, part) = best?;
        let server = *servers.first()?;
        let free = &self.servers[server as usize];
        let at = part.and_then(|part| free.chips.iter().position(|chip| *chip == part));
        Some(Pick { server, chips: free.choose(need.chip_milli, at)?, fragmentation: added })
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
            group.remove(&server);
            if group.is_empty() {
                self.groups.remove(&old);
            }
        }
        self.groups.entry(new).or_default().insert(server);
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
