//! Which of several candidates as good as the best goes first, so that origins with the same digests do not all run to
//! one region, and so that the tasks of a lost region spread over all that can take them.

use super::rank::Ranked;
use cpi::ids::MemberId;
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;

/// Differences in fullness below this many permille do not count: digests are older than that.
const FULLNESS_STEP: u32 = 50;
/// The most slots that count for a candidate's weight: beyond, a digest says "plenty".
const SLOTS_MAX: u32 = 100_000;
/// A step of a candidate of weight 1 in proportional spreading.
const STRIDE: u64 = 1 << 40;

/// Draws among candidates by what they have free. One per origin: its memory evens out what one origin sends where.
#[derive(Debug, Default)]
pub struct Spreader {
    passes: BTreeMap<MemberId, u64>,
    clock: u64,
}

impl Spreader {
    /// Puts the candidate that shall be asked first in front. `tie` is how far a score may lie behind the best; the own
    /// region `me` weighs `own_permille` of what it has free, so that it is left to tasks that can go nowhere else.
    ///
    /// Two are drawn by weight, and the clearly emptier goes first.
    ///
    /// Source: Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001.
    pub fn choose_of_two(candidates: &mut [Ranked], tie: u32, me: MemberId, own_permille: u32, rng: &mut ChaCha8Rng) {
        // Whoever allows no tie wants the very best, also where others run there too.
        let Some(best) = candidates.first().map(|c| c.score).filter(|_| tie > 0) else { return };
        let equal = candidates.iter().take_while(|c| c.score <= best.saturating_add(tie)).count();
        if equal < 2 {
            return;
        }
        let weight = |c: &Ranked| weight_of(c, me, own_permille);
        let sum: u64 = candidates[..equal].iter().map(weight).sum();
        let mut draw = || {
            let mut point = rng.random_range(0..sum);
            let drawn = candidates[..equal].iter().position(|c| {
                let here = point < weight(c);
                point = point.saturating_sub(weight(c));
                here
            });
            drawn.unwrap_or(0)
        };
        let (one, two) = (draw(), draw());
        let fullness = |i: usize| candidates[i].terms.start / FULLNESS_STEP;
        let chosen = if fullness(two) < fullness(one) { two } else { one };
        candidates[..=chosen].rotate_right(1);
    }

    /// Puts the candidate in front whose turn it is when this origin's tasks go everywhere in proportion to what is free.
    ///
    /// Stride scheduling with a random start for each candidate: over many tasks of one origin the shares are exact to
    /// one task, and many origins with a task each do not begin at the same candidate.
    ///
    /// Source: Waldspurger & Weihl, "Stride Scheduling", MIT/LCS/TM-528, 1995.
    pub fn in_proportion(&mut self, candidates: &mut [Ranked], me: MemberId, own_permille: u32, rng: &mut ChaCha8Rng) {
        let clock = self.clock;
        let mut first: Option<(u64, usize)> = None;
        for (index, candidate) in candidates.iter().enumerate() {
            let stride = STRIDE / weight_of(candidate, me, own_permille);
            // New, or not a candidate for a while: it joins at a random point of its stride.
            let known = self.passes.get(&candidate.member).copied().filter(|pass| *pass >= clock);
            let pass = known.unwrap_or_else(|| clock + rng.random_range(0..=stride));
            self.passes.insert(candidate.member, pass);
            if first.is_none_or(|(least, _)| pass < least) {
                first = Some((pass, index));
            }
        }
        let Some((pass, chosen)) = first else { return };
        let stride = STRIDE / weight_of(&candidates[chosen], me, own_permille);
        self.clock = pass;
        self.passes.insert(candidates[chosen].member, pass.saturating_add(stride));
        candidates[..=chosen].rotate_right(1);
    }

    /// Forgets a member that left.
    pub fn forget(&mut self, member: MemberId) {
        self.passes.remove(&member);
    }
}

/// What a candidate has free, in tasks like this one; at least 1.
fn weight_of(candidate: &Ranked, me: MemberId, own_permille: u32) -> u64 {
    let slots = u64::from(candidate.slots.clamp(1, SLOTS_MAX)) * 1000;
    let share = if candidate.member == me { u64::from(own_permille.clamp(1, 1000)) } else { 1000 };
    slots * share / 1000
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::negotiation::rank::{Answer, Terms};
    use cpi::resource::{Firmness, Quantity};
    use rand::SeedableRng as _;

    fn candidate(member: u64, slots: u32, score: u32) -> Ranked {
        Ranked {
            member: MemberId(member),
            targets: Vec::new(),
            quantity: Quantity::default(),
            score,
            terms: Terms::default(),
            left: 0,
            price_hour_micro: 0,
            currency: String::new(),
            rtt_ms: 0,
            firmness: Firmness::Held,
            slots,
            total_micro: 0,
            answer: Answer::NotAsked,
        }
    }

    fn shares(
        draws: usize,
        mut first: impl FnMut(&mut Vec<Ranked>) -> MemberId,
        fresh: &[Ranked],
    ) -> BTreeMap<u64, f64> {
        let mut counts = BTreeMap::new();
        for _ in 0..draws {
            let mut candidates = fresh.to_vec();
            *counts.entry(first(&mut candidates).0).or_insert(0.0) += 1.0 / draws as f64;
        }
        counts
    }

    #[test]
    fn equal_pools_elsewhere_get_four_fifths_of_three_regions() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        // The own region has no round trip and so the best score, as in a real ring.
        let fresh = vec![candidate(1, 512, 100), candidate(2, 512, 102), candidate(3, 512, 102)];
        let shares = shares(
            20_000,
            |c| {
                Spreader::choose_of_two(c, 200, MemberId(1), 400, &mut rng);
                c[0].member
            },
            &fresh,
        );
        assert!(shares[&2] + shares[&3] > 0.8, "{shares:?}");
        assert!((shares[&2] - shares[&3]).abs() < 0.02, "{shares:?}");
    }

    #[test]
    fn the_clearly_emptier_of_two_goes_first_and_the_clearly_worse_is_never_drawn() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let mut full = candidate(2, 100, 100);
        full.terms.start = 900;
        let fresh = vec![full, candidate(3, 100, 110), candidate(4, 100, 1_000)];
        let shares = shares(
            10_000,
            |c| {
                Spreader::choose_of_two(c, 200, MemberId(1), 1000, &mut rng);
                c[0].member
            },
            &fresh,
        );
        assert!((shares[&3] - 0.75).abs() < 0.02, "{shares:?}");
        assert!(!shares.contains_key(&4));
    }

    #[test]
    fn a_lost_regions_tasks_go_everywhere_in_proportion() {
        let fresh: Vec<Ranked> = (1..=34).map(|n| candidate(n, 50 * n as u32, 10 * n as u32)).collect();
        let whole: u32 = fresh.iter().map(|c| c.slots).sum();
        let mut counts: BTreeMap<u64, f64> = BTreeMap::new();
        // Forty origins with 25 tasks each, none of which knows of the others.
        for origin in 0..40 {
            let mut rng = ChaCha8Rng::seed_from_u64(origin);
            let mut spreader = Spreader::default();
            for _ in 0..25 {
                let mut candidates = fresh.clone();
                spreader.in_proportion(&mut candidates, MemberId(99), 1000, &mut rng);
                *counts.entry(candidates[0].member.0).or_default() += 1.0;
            }
        }
        let (mut off, mut expected_sum) = (0.0, 0.0);
        for c in &fresh {
            let expected = 1000.0 * f64::from(c.slots) / f64::from(whole);
            if expected >= 25.0 {
                off += (counts.get(&c.member.0).copied().unwrap_or(0.0) - expected).abs();
                expected_sum += expected;
            }
        }
        assert!(off / expected_sum < 0.10, "{}", off / expected_sum);
    }

    #[test]
    fn a_region_that_comes_back_does_not_catch_up_at_once() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let mut spreader = Spreader::default();
        let (two, three) = (candidate(2, 100, 0), candidate(3, 100, 0));
        for _ in 0..1000 {
            spreader.in_proportion(&mut [two.clone()], MemberId(1), 1000, &mut rng);
        }
        let mut to_three = 0;
        for _ in 0..100 {
            let mut both = [two.clone(), three.clone()];
            spreader.in_proportion(&mut both, MemberId(1), 1000, &mut rng);
            to_three += u32::from(both[0].member == MemberId(3));
        }
        assert!((45..=55).contains(&to_three), "{to_three}");
    }
}
