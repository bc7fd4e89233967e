//! One server's accelerators, chip by chip: a run takes whole chips and at most a part of one more, never parts of several.

use cpi::resource::Quantity;
use serde::{Deserialize, Serialize};

/// Thousandths of a whole chip.
pub const WHOLE: u16 = 1000;
/// The most chips of a server that are told apart; larger servers are counted by their sum.
const CHIPS_MAX: u64 = 64;

/// Which chips of a server a run takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct ChipSet {
    /// One bit per chip that is taken whole.
    pub whole: u64,
    /// The chip of which a part is taken.
    pub part: Option<u8>,
}

/// What a server has free. Chips by their free thousandths, in their order on the server.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServerFree {
    /// Sums; its `chip_milli` is that of all chips.
    pub sum: Quantity,
    /// Free thousandths of each chip; empty for servers without chips and for those with too many to tell apart.
    pub chips: Vec<u16>,
}

impl ServerFree {
    /// An empty server.
    pub fn empty(server: &Quantity) -> Self {
        let chips = server.chip_milli.div_ceil(u64::from(WHOLE));
        let told_apart = if chips <= CHIPS_MAX { chips } else { 0 };
        let of = |chip: u64| (server.chip_milli - chip * u64::from(WHOLE)).min(u64::from(WHOLE)) as u16;
        Self { sum: *server, chips: (0..told_apart).map(of).collect() }
    }

    /// The same with its chips in descending order: equal for servers that differ in numbering only.
    pub fn shape(&self) -> Self {
        let mut shape = self.clone();
        shape.chips.sort_unstable_by(|a, b| b.cmp(a));
        shape
    }

    /// The most for one run: sums, and the whole chips with the largest part beside them. A need fits if and only if it
    /// fits this.
    pub fn largest(&self) -> Quantity {
        if self.chips.is_empty() {
            return self.sum;
        }
        let whole = self.chips.iter().filter(|free| **free == WHOLE).count() as u64;
        let part = self.chips.iter().filter(|free| **free < WHOLE).max().copied().unwrap_or(0);
        Quantity { chip_milli: whole * u64::from(WHOLE) + u64::from(part), ..self.sum }
    }

    /// Chips for `chip_milli`, the part on chip `part` if that is given, else on the fullest chip that has it.
    pub fn choose(&self, chip_milli: u64, part: Option<usize>) -> Option<ChipSet> {
        if self.chips.is_empty() || chip_milli == 0 {
            return Some(ChipSet::default());
        }
        let (mut whole_left, rest) = (chip_milli / u64::from(WHOLE), (chip_milli % u64::from(WHOLE)) as u16);
        let part = if rest == 0 {
            None
        } else {
            let fitting = |chip: &usize| self.chips[*chip] >= rest;
            let fullest = || (0..self.chips.len()).filter(fitting).min_by_key(|chip| self.chips[*chip]);
            Some(part.filter(fitting).or_else(fullest)?)
        };
        let mut whole = 0;
        for (chip, free) in self.chips.iter().enumerate() {
            if whole_left > 0 && *free == WHOLE && part != Some(chip) {
                whole |= 1 << chip;
                whole_left -= 1;
            }
        }
        (whole_left == 0).then_some(ChipSet { whole, part: part.map(|chip| chip as u8) })
    }

    /// Takes `need` with these chips off what is free. False, and nothing is taken, if it is not there.
    pub fn take(&mut self, need: &Quantity, chips: ChipSet) -> bool {
        let Some(sum) = self.sum.checked_sub(need) else { return false };
        if self.chips.is_empty() {
            self.sum = sum;
            return true;
        }
        let rest = (need.chip_milli % u64::from(WHOLE)) as u16;
        let mut left = self.chips.clone();
        for (chip, free) in left.iter_mut().enumerate() {
            if chips.whole & (1 << chip) != 0 {
                if *free != WHOLE {
                    return false;
                }
                *free = 0;
            } else if chips.part == Some(chip as u8) {
                let Some(less) = free.checked_sub(rest) else { return false };
                *free = less;
            }
        }
        let taken: u64 = self.chips.iter().zip(&left).map(|(before, after)| u64::from(before - after)).sum();
        if taken != need.chip_milli {
            return false;
        }
        (self.sum, self.chips) = (sum, left);
        true
    }

    /// Gives back what was taken.
    pub fn give_back(&mut self, need: &Quantity, chips: ChipSet) {
        self.sum = self.sum.saturating_add(need);
        let rest = (need.chip_milli % u64::from(WHOLE)) as u16;
        for (chip, free) in self.chips.iter_mut().enumerate() {
            if chips.whole & (1 << chip) != 0 {
                *free = WHOLE;
            } else if chips.part == Some(chip as u8) {
                *free = free.saturating_add(rest).min(WHOLE);
            }
        }
    }
}
