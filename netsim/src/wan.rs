//! The network between regions: latency by pair, loss, doubling, partitions.

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeSet;

/// A virtual WAN.
#[derive(Debug, Clone)]
pub struct Wan {
    latency_ms: Vec<Vec<u64>>,
    /// Of 1,000 messages so many are lost.
    pub loss_permille: u32,
    /// Of 1,000 messages so many arrive twice.
    pub double_permille: u32,
    cut: BTreeSet<(usize, usize)>,
}

impl Wan {
    /// `regions` regions, each `latency_ms` one way from every other.
    pub fn uniform(regions: usize, latency_ms: u64) -> Self {
        let row = |from: usize| (0..regions).map(|to| if from == to { 0 } else { latency_ms }).collect();
        Self { latency_ms: (0..regions).map(row).collect(), loss_permille: 0, double_permille: 0, cut: BTreeSet::new() }
    }

    /// Random latencies between 1 and `most_ms`, the same both ways.
    pub fn random(regions: usize, most_ms: u64, rng: &mut ChaCha8Rng) -> Self {
        let mut wan = Self::uniform(regions, 1);
        for a in 0..regions {
            for b in 0..a {
                let ms = rng.random_range(1..=most_ms);
                wan.latency_ms[a][b] = ms;
                wan.latency_ms[b][a] = ms;
            }
        }
        wan
    }

    /// One-way latency.
    pub fn latency_ms(&self, from: usize, to: usize) -> u64 {
        self.latency_ms[from][to]
    }

    /// Cuts both ways between two groups.
    pub fn partition(&mut self, one: &[usize], other: &[usize]) {
        for &a in one {
            for &b in other {
                self.cut.insert((a, b));
                self.cut.insert((b, a));
            }
        }
    }

    /// Ends all cuts.
    pub fn heal(&mut self) {
        self.cut.clear();
    }

    /// Whether messages pass.
    pub fn is_open(&self, from: usize, to: usize) -> bool {
        !self.cut.contains(&(from, to))
    }

    /// When copies of a message arrive, in ms from now; none if it is lost.
    pub fn arrivals(&self, from: usize, to: usize, rng: &mut ChaCha8Rng) -> Vec<u64> {
        let ms = self.latency_ms(from, to);
        if from == to {
            return vec![0];
        }
        if !self.is_open(from, to) || rng.random_range(0..1000) < self.loss_permille {
            return Vec::new();
        }
        // Streams keep their order: a repeated copy comes later, never before.
        if rng.random_range(0..1000) < self.double_permille { vec![ms, ms + rng.random_range(0..50)] } else { vec![ms] }
    }
}
