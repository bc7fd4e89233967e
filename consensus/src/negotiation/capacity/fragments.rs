//! How much of what is free nobody could use: the fragmentation of a server against the shapes that were asked lately,
//! and what a placement would add to it.
//!
//! Source: Weng et al., "Beware of Fragmentation: Scheduling GPU-Sharing Workloads with Fragmentation Gradient Descent",
//! USENIX ATC 2023. Shapes weigh by how often they were asked; the unit is thousandths of a chip.

use super::super::shape::Shape;
use super::chips::{ServerFree, WHOLE};
use cpi::resource::{ChipModel, Quantity};

/// Shapes asked lately, with how often.
#[derive(Debug, Clone, Default)]
pub struct Shapes {
    seen: Vec<Seen>,
    counted: u64,
}

#[derive(Debug, Clone)]
struct Seen {
    shape: Shape,
    quantity: Quantity,
    count: u64,
}

impl Shapes {
    /// Takes over what is asked lately, most asked first.
    pub fn new(asked: Vec<(Shape, u64)>) -> Self {
        // Shapes without chips strand none: they are told of, but do not weigh.
        let counted = asked.iter().filter(|(shape, _)| shape.chip_milli > 0).map(|(_, count)| count).sum();
        let seen = asked.into_iter().map(|(shape, count)| Seen { quantity: shape.quantity(), shape, count });
        Self { seen: seen.collect(), counted }
    }

    /// Whether no chips were asked for yet.
    pub fn is_empty(&self) -> bool {
        self.counted == 0
    }

    /// The shapes, most asked first.
    pub fn iter(&self) -> impl Iterator<Item = (&Shape, &Quantity)> {
        self.seen.iter().map(|seen| (&seen.shape, &seen.quantity))
    }

    /// Free thousandths of chips on a server that the shapes could not use, summed over asks.
    pub fn unusable(&self, free: &ServerFree, chip: Option<&ChipModel>) -> u64 {
        if free.sum.chip_milli == 0 {
            return 0;
        }
        let largest = free.largest();
        let of = |seen: &Seen| {
            let shape = &seen.quantity;
            if !largest.fits(shape) || !seen.shape.runs_on(chip) {
                free.sum.chip_milli
            } else if free.chips.is_empty() {
                0
            } else {
                let least = shape.chip_milli.min(u64::from(WHOLE));
                free.chips.iter().map(|chip| u64::from(*chip)).filter(|chip| *chip < least).sum()
            }
        };
        self.seen.iter().filter(|seen| seen.quantity.chip_milli > 0).map(|seen| seen.count * of(seen)).sum()
    }

    /// From two sums of [`Self::unusable`]: by how many thousandths of a chip the later is more fragmented, for the mean
    /// ask. Negative where it is less. In 1,024ths, so that close choices differ.
    pub fn added(&self, before: u64, after: u64) -> i64 {
        if self.counted == 0 {
            return 0;
        }
        ((i128::from(after) - i128::from(before)) * 1024 / i128::from(self.counted)) as i64
    }
}
