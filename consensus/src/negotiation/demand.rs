//! Which shapes the federation asks for lately: own tasks, and what other regions' digests say that theirs asked.
//!
//! Fragmentation is measured against it, so all regions come to measure by nearly the same demand, also those that are
//! seldom asked themselves.

use super::need::Need;
use super::shape::{SHAPES_MAX, Shape, ShapeDigest};
use crate::time::Monotonic;
use std::collections::BTreeMap;

/// Once so many own asks were counted, all counts are halved: old demand fades.
const OWN_MAX: u32 = 1_024;
/// The most shapes of others that are counted; further ones are left out.
const OTHERS_MAX: usize = 4_096;
/// The shortest and the longest time between two readings, in ms.
const FRESH_MS_MIN: u64 = 1_000;
const FRESH_MS_MAX: u64 = 60_000;

/// Counts of shapes.
#[derive(Debug, Clone, Default)]
pub struct Demand {
    own: BTreeMap<Shape, u16>,
    own_sum: u32,
    others: BTreeMap<Shape, u64>,
    sum: u64,
    read_sum: u64,
    read_at: Option<Monotonic>,
    changed: bool,
}

impl Demand {
    /// A task of this region asks for one of these ways.
    pub fn count(&mut self, need: &Need) {
        for shape in need.variants.iter().flat_map(Shape::of_way) {
            if !self.own.contains_key(&shape) && self.own.len() >= SHAPES_MAX {
                let rarest = self.own.iter().min_by_key(|(_, count)| **count).map(|(shape, _)| shape.clone());
                if let Some(count) = rarest.and_then(|rarest| self.own.remove(&rarest)) {
                    self.own_sum -= u32::from(count);
                    self.sum = self.sum.saturating_sub(u64::from(count));
                }
            }
            *self.own.entry(shape).or_default() += 1;
            self.own_sum += 1;
            self.sum += 1;
            self.changed = true;
        }
        if self.own_sum >= OWN_MAX {
            self.sum = self.sum.saturating_sub(u64::from(self.own_sum));
            self.own.retain(|_, count| {
                *count /= 2;
                *count > 0
            });
            self.own_sum = self.own.values().map(|count| u32::from(*count)).sum();
            self.sum += u64::from(self.own_sum);
        }
    }

    /// How often own tasks asked for a shape lately.
    pub fn own(&self, shape: &Shape) -> u16 {
        self.own.get(shape).copied().unwrap_or(0)
    }

    /// Another region says what its tasks asked, after it said `before`.
    pub fn replace(&mut self, before: &[ShapeDigest], after: &[ShapeDigest]) {
        for told in before.iter().filter(|told| told.asked > 0) {
            if let Some(count) = self.others.get_mut(&told.shape) {
                let less = u64::from(told.asked).min(*count);
                *count -= less;
                self.sum -= less;
                if *count == 0 {
                    self.others.remove(&told.shape);
                }
                self.changed = true;
            }
        }
        for told in after.iter().filter(|told| told.asked > 0) {
            if self.others.len() < OTHERS_MAX || self.others.contains_key(&told.shape) {
                *self.others.entry(told.shape.clone()).or_default() += u64::from(told.asked);
                self.sum += u64::from(told.asked);
                self.changed = true;
            }
        }
    }

    /// The shapes asked most, with their counts, where they changed by more than an eighth since the last reading or that
    /// is a minute ago; at most once a second.
    pub fn fresh(&mut self, now: Monotonic) -> Option<Vec<(Shape, u64)>> {
        if !self.changed {
            return None;
        }
        let age_ms = self.read_at.map_or(u64::MAX, |at| now.since_ms(at));
        let moved = self.sum.abs_diff(self.read_sum) * 8 > self.read_sum;
        if age_ms < FRESH_MS_MIN || (!moved && age_ms < FRESH_MS_MAX) {
            return None;
        }
        (self.read_at, self.read_sum, self.changed) = (Some(now), self.sum, false);
        Some(self.most_asked())
    }

    fn most_asked(&self) -> Vec<(Shape, u64)> {
        let mut all = self.others.clone();
        for (shape, count) in &self.own {
            *all.entry(shape.clone()).or_default() += u64::from(*count);
        }
        let mut all: Vec<(Shape, u64)> = all.into_iter().collect();
        all.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        all.truncate(SHAPES_MAX);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cpi::resource::Quantity;

    fn shape(chip_milli: u64) -> Shape {
        Shape::of(&Quantity { cpu_milli: 1_000, memory_bytes: 1 << 30, storage_bytes: 0, chip_milli })
    }

    fn told(chip_milli: u64, asked: u16) -> ShapeDigest {
        ShapeDigest { shape: shape(chip_milli), asked, best: None }
    }

    #[test]
    fn what_a_region_said_before_is_taken_back() {
        let mut demand = Demand::default();
        let first = vec![told(500, 3), told(1_000, 5)];
        demand.replace(&[], &first);
        assert_eq!(demand.fresh(Monotonic(0)), Some(vec![(shape(1_000), 5), (shape(500), 3)]));
        let second = vec![told(500, 12)];
        demand.replace(&first, &second);
        assert_eq!(demand.fresh(Monotonic(500)), None);
        assert_eq!(demand.fresh(Monotonic(1_000)), Some(vec![(shape(500), 12)]));
        demand.replace(&second, &[]);
        assert_eq!(demand.fresh(Monotonic(2_000)), Some(Vec::new()));
        assert_eq!(demand.fresh(Monotonic(500_000)), None);
    }

    #[test]
    fn shapes_are_bounded_and_the_most_asked_stay() {
        let mut demand = Demand::default();
        for region in 0..100u64 {
            let many: Vec<ShapeDigest> = (0..64).map(|n| told(10_000 + region * 64 + n, 1)).collect();
            demand.replace(&[], &many);
            demand.replace(&[], &[told(1_000, 10)]);
        }
        assert!(demand.others.len() <= OTHERS_MAX + 1);
        let most = demand.fresh(Monotonic(0)).unwrap();
        assert_eq!((most.len(), most[0].clone()), (SHAPES_MAX, (shape(1_000), 1_000)));
    }
}
