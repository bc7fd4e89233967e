//! How much of what is free nobody could use: the fragmentation of a server against the shapes that were asked lately,
//! and what a placement would add to it.
//!
//! Source: Weng et al., "Beware of Fragmentation: Scheduling GPU-Sharing Workloads with Fragmentation Gradient Descent",
//! USENIX ATC 2023. Shapes weigh by how often they were asked; the unit is thousandths of a chip.

use super::chips::{ServerFree, WHOLE};
use cpi::resource::Quantity;

/// The most shapes that are remembered; the rarest gives way.
const SHAPES_MAX: usize = 24;
/// Once so many asks were counted, all counts are halved: old demand fades.
const COUNTED_MAX: u64 = 4_096;

/// Shapes asked lately that want chips, with how often.
#[derive(Debug, Clone, Default)]
pub struct Shapes {
    seen: Vec<(Quantity, u64)>,
    counted: u64,
}

impl Shapes {
    /// Counts an ask for `need`; shapes without chips strand none.
    pub fn see(&mut self, need: &Quantity) {
        if need.chip_milli == 0 {
            return;
        }
        self.counted += 1;
        match self.seen.iter_mut().find(|(shape, _)| shape == need) {
            Some((_, count)) => *count += 1,
            None => {
                if self.seen.len() >= SHAPES_MAX
                    && let Some(rarest) = (0..self.seen.len()).min_by_key(|i| self.seen[*i].1)
                {
                    self.counted -= self.seen[rarest].1;
                    self.seen.swap_remove(rarest);
                }
                self.seen.push((*need, 1));
            }
        }
        if self.counted >= COUNTED_MAX {
            for (_, count) in &mut self.seen {
                *count /= 2;
            }
            self.seen.retain(|(_, count)| *count > 0);
            self.counted = self.seen.iter().map(|(_, count)| count).sum();
        }
    }

    /// Whether nothing was asked yet.
    pub fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    /// Free thousandths of chips on a server that the shapes could not use, summed over asks.
    fn unusable(&self, free: &ServerFree) -> u64 {
        let largest = free.largest();
        let of = |shape: &Quantity| {
            if !largest.fits(shape) {
                free.sum.chip_milli
            } else if free.chips.is_empty() {
                0
            } else if shape.chip_milli >= u64::from(WHOLE) {
                free.chips.iter().filter(|chip| **chip < WHOLE).map(|chip| u64::from(*chip)).sum()
            } else {
                let small = |chip: &&u16| u64::from(**chip) < shape.chip_milli;
                free.chips.iter().filter(small).map(|chip| u64::from(*chip)).sum()
            }
        };
        self.seen.iter().map(|(shape, count)| count * of(shape)).sum()
    }

    /// By how many thousandths of a chip `after` is more fragmented than `before`, for the mean ask. Negative where it
    /// is less. In 1,024ths, so that close choices differ.
    pub fn added(&self, before: &ServerFree, after: &ServerFree) -> i64 {
        if self.counted == 0 {
            return 0;
        }
        let (before, after) = (i128::from(self.unusable(before)), i128::from(self.unusable(after)));
        ((after - before) * 1024 / i128::from(self.counted)) as i64
    }
}
