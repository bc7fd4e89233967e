//! The network between regions: one-way times from a matrix or from coordinates, jitter, loss, doubling, reordering, cuts.
//!
//! Streams keep their order unless a scenario asks for reordering: a later message of one pair never arrives before an
//! earlier one. A lost message is lost for good, as when its stream is reset; nothing here sends it again.

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet};

/// Kilometres that light in fibre takes a millisecond for.
const FIBRE_KM_PER_MS: f64 = 200.0;
const EARTH_RADIUS_KM: f64 = 6_371.0;

/// Where one-way times come from.
#[derive(Debug, Clone)]
enum Base {
    /// Row by row, from then to, in microseconds.
    Matrix { width: usize, us: Vec<u32> },
    /// Latitude and longitude in degrees; great circle times `detour` at the speed of light in fibre, plus `floor_us`.
    Coordinates { points: Vec<[f64; 2]>, detour: f64, floor_us: u64 },
}

/// A virtual WAN.
#[derive(Debug, Clone)]
pub struct Wan {
    base: Base,
    /// Of 1,000 messages so many are lost.
    pub loss_permille: u32,
    /// Of 1,000 messages so many arrive twice.
    pub double_permille: u32,
    /// Of 1,000 messages so many overtake or fall behind others of their pair by up to 200 ms.
    pub reorder_permille: u32,
    /// Up to so much of the one-way time is added to each message, drawn anew each time, in thousandths.
    pub jitter_permille: u32,
    /// Of 1,000 digests so many do not reach one peer.
    pub gossip_loss_permille: u32,
    cut: BTreeSet<(usize, usize)>,
    slow_us: BTreeMap<(usize, usize), u64>,
    last_us: BTreeMap<(usize, usize), u64>,
}

impl Wan {
    fn of(base: Base) -> Self {
        Self {
            base,
            loss_permille: 0,
            double_permille: 0,
            reorder_permille: 0,
            jitter_permille: 0,
            gossip_loss_permille: 0,
            cut: BTreeSet::new(),
            slow_us: BTreeMap::new(),
            last_us: BTreeMap::new(),
        }
    }

    /// `regions` regions, each `latency_ms` one way from every other.
    pub fn uniform(regions: usize, latency_ms: u64) -> Self {
        let us = (latency_ms * 1000).min(u64::from(u32::MAX)) as u32;
        let all = (0..regions * regions).map(|i| if i / regions == i % regions { 0 } else { us });
        Self::of(Base::Matrix { width: regions, us: all.collect() })
    }

    /// Random one-way times between 1 and `most_ms`, the same both ways.
    pub fn random(regions: usize, most_ms: u64, rng: &mut ChaCha8Rng) -> Self {
        let mut rtt_ms = vec![vec![0.0; regions]; regions];
        for (a, b) in (0..regions).flat_map(|a| (0..a).map(move |b| (a, b))) {
            let ms = 2.0 * rng.random_range(1..=most_ms) as f64;
            rtt_ms[a][b] = ms;
            rtt_ms[b][a] = ms;
        }
        Self::measured(&rtt_ms)
    }

    /// From round trips in ms, row by row; one way is half of them.
    pub fn measured(rtt_ms: &[Vec<f64>]) -> Self {
        let us = rtt_ms.iter().flatten().map(|ms| (ms * 500.0).round().clamp(0.0, 4e9) as u32).collect();
        Self::of(Base::Matrix { width: rtt_ms.len(), us })
    }

    /// From latitudes and longitudes in degrees: great circle x `detour`, and a floor for what the last mile takes.
    pub fn from_coordinates(points: Vec<[f64; 2]>, detour: f64, floor_us: u64) -> Self {
        Self::of(Base::Coordinates { points, detour, floor_us })
    }

    /// One-way time in microseconds, without jitter.
    pub fn one_way_us(&self, from: usize, to: usize) -> u64 {
        if from == to {
            return 0;
        }
        let base = match &self.base {
            Base::Matrix { width, us } => u64::from(us[from * width + to]),
            Base::Coordinates { points, detour, floor_us } => {
                let km = great_circle_km(points[from], points[to]) * detour;
                floor_us + (km / FIBRE_KM_PER_MS * 1000.0) as u64
            }
        };
        base + self.slow_us.get(&(from, to)).copied().unwrap_or(0)
    }

    /// Round trip in microseconds, without jitter.
    pub fn rtt_us(&self, a: usize, b: usize) -> u64 {
        self.one_way_us(a, b) + self.one_way_us(b, a)
    }

    /// One-way time in whole milliseconds.
    pub fn latency_ms(&self, from: usize, to: usize) -> u64 {
        self.one_way_us(from, to) / 1000
    }

    /// Cuts both ways between two groups.
    pub fn partition(&mut self, one: &[usize], other: &[usize]) {
        for &a in one {
            for &b in other.iter().filter(|b| **b != a) {
                self.cut.insert((a, b));
                self.cut.insert((b, a));
            }
        }
    }

    /// Cuts one way: what `from` says to `to` is lost, answers pass.
    pub fn cut_one_way(&mut self, from: usize, to: usize) {
        if from != to {
            self.cut.insert((from, to));
        }
    }

    /// Adds to the one-way time of a pair, both ways.
    pub fn slow(&mut self, a: usize, b: usize, ms: u64) {
        self.slow_us.insert((a, b), ms * 1000);
        self.slow_us.insert((b, a), ms * 1000);
    }

    /// Ends all cuts and slow links.
    pub fn heal(&mut self) {
        self.cut.clear();
        self.slow_us.clear();
    }

    /// Whether anything is cut.
    pub fn is_cut(&self) -> bool {
        !self.cut.is_empty()
    }

    /// Whether messages pass.
    pub fn is_open(&self, from: usize, to: usize) -> bool {
        self.cut.is_empty() || !self.cut.contains(&(from, to))
    }

    fn with_jitter(&self, us: u64, rng: &mut ChaCha8Rng) -> u64 {
        let most = us * u64::from(self.jitter_permille) / 1000;
        if most == 0 { us } else { us + rng.random_range(0..=most) }
    }

    /// When copies of a message said at `now_us` arrive; none if it is lost.
    pub fn arrivals(&mut self, from: usize, to: usize, now_us: u64, rng: &mut ChaCha8Rng) -> [Option<u64>; 2] {
        if from == to {
            return [Some(now_us), None];
        }
        if !self.is_open(from, to) || rng.random_range(0..1000) < self.loss_permille {
            return [None, None];
        }
        let base = self.one_way_us(from, to);
        let mut at = now_us + self.with_jitter(base, rng);
        if self.reorder_permille > 0 && rng.random_range(0..1000) < self.reorder_permille {
            at = now_us + base / 2 + rng.random_range(0..200_000);
        } else if self.jitter_permille > 0 {
            let last = self.last_us.entry((from, to)).or_default();
            at = at.max(*last);
            *last = at;
        }
        // A repeated copy comes later, never before.
        let again = self.double_permille > 0 && rng.random_range(0..1000) < self.double_permille;
        [Some(at), again.then(|| at + rng.random_range(0..50_000))]
    }

    /// When a digest published at `now_us` reaches a peer: over one to three hops, or not at all.
    ///
    /// Gossip is a model of a lossy, doubling broadcast: the peers forward it at once, so it takes the one-way time and up
    /// to as much again for the detour over others.
    pub fn gossip_arrival(&self, from: usize, to: usize, now_us: u64, rng: &mut ChaCha8Rng) -> Option<u64> {
        if !self.is_open(from, to) || rng.random_range(0..1000) < self.gossip_loss_permille {
            return None;
        }
        let us = self.one_way_us(from, to);
        Some(now_us + us + rng.random_range(0..=us.max(1)))
    }
}

/// The distance of two points, each latitude and longitude in degrees.
pub fn great_circle_km(a: [f64; 2], b: [f64; 2]) -> f64 {
    let [lat_a, lon_a] = a.map(f64::to_radians);
    let [lat_b, lon_b] = b.map(f64::to_radians);
    let half = |x: f64| (x / 2.0).sin().powi(2);
    let h = half(lat_b - lat_a) + lat_a.cos() * lat_b.cos() * half(lon_b - lon_a);
    2.0 * EARTH_RADIUS_KM * h.sqrt().min(1.0).asin()
}
