//! What an origin learned of one region by asking it: how long its answers take, whether it is silent, how fast bytes
//! reach it, how long tasks wait there and how often they fail.
//!
//! Integers only. Estimates know how sure they are; what was never tried counts as worth a try.

use crate::time::Monotonic;

/// Silences in a row that open the breaker.
const MISSES_MAX: u32 = 3;
/// The first pause of an open breaker, in ms; doubles with every further silence.
const PAUSE_MS_MIN: u64 = 1_000;
/// The longest pause.
const PAUSE_MS_MAX: u64 = 60_000;
/// Bytes per ms to a region that nothing was moved to yet: 100 Mbit/s.
const BYTES_PER_MS: u64 = 12_500;

/// Smoothed answer time and its spread, as TCP keeps them for its retransmission timer.
///
/// Source: RFC 6298.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AnswerTimes {
    mean_ms: u32,
    spread_ms: u32,
    measured: u32,
}

impl AnswerTimes {
    /// Counts one answer.
    pub fn measured(&mut self, ms: u64) {
        let ms = ms.min(60_000) as u32;
        if self.measured > 0 {
            let off = self.mean_ms.abs_diff(ms);
            self.spread_ms = (3 * self.spread_ms + off) / 4;
            self.mean_ms = (7 * self.mean_ms + ms) / 8;
        } else {
            (self.mean_ms, self.spread_ms) = (ms, ms / 2);
        }
        self.measured = self.measured.saturating_add(1);
    }

    /// The mean, 0 before the first.
    pub fn mean_ms(&self) -> u64 {
        u64::from(self.mean_ms)
    }

    /// How long to wait for the next answer: mean and four spreads cover about 99 of 100.
    pub fn patience_ms(&self, rtt_ms: Option<u32>) -> u64 {
        let measured = u64::from(self.mean_ms) + 4 * u64::from(self.spread_ms);
        measured.max(2 * u64::from(rtt_ms.unwrap_or(0)))
    }
}

/// Keeps a silent region from being asked for a while; then one ask tries it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Breaker {
    misses: u32,
    open_until: Monotonic,
}

impl Breaker {
    /// It did not answer in time.
    pub fn miss(&mut self, now: Monotonic) {
        self.misses = self.misses.saturating_add(1);
        if self.misses >= MISSES_MAX {
            let doubled = PAUSE_MS_MIN << (self.misses - MISSES_MAX).min(6);
            self.open_until = now.plus_ms(doubled.min(PAUSE_MS_MAX));
        }
    }

    /// It answered, whatever it said.
    pub fn hear(&mut self) {
        *self = Self::default();
    }

    /// Milliseconds for which it is not to be asked.
    pub fn left_ms(&self, now: Monotonic) -> u64 {
        self.open_until.since_ms(now)
    }

    /// Silences in a row.
    pub fn misses(&self) -> u32 {
        self.misses
    }
}

/// The most that one value may weigh: 34 years in ms, a petabyte in bytes.
const LEARNED_MAX: u64 = 1 << 50;

/// A mean with its uncertainty, learned one value at a time.
///
/// The newest 16 or so count; the spread is the mean distance from the mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Estimate {
    mean: u64,
    spread: u64,
    count: u32,
}

impl Estimate {
    /// Learns a value; those above [`LEARNED_MAX`] count as that, since they come from peers.
    pub fn learn(&mut self, value: u64) {
        let value = value.min(LEARNED_MAX);
        let weight = u64::from(self.count.min(15));
        let off = self.mean.abs_diff(value);
        self.spread = if self.count == 0 { value / 2 } else { (self.spread * weight + off) / (weight + 1) };
        self.mean = (self.mean * weight + value) / (weight + 1);
        self.count = self.count.saturating_add(1);
    }

    /// The mean; `None` before the first value.
    pub fn mean(&self) -> Option<u64> {
        (self.count > 0).then_some(self.mean)
    }

    /// The mean less what it may be wrong by, so that what is little known looks worth a try: the lower confidence bound of
    /// a bandit. 0 before the first value.
    ///
    /// Source: Auer, Cesa-Bianchi & Fischer, "Finite-time Analysis of the Multiarmed Bandit Problem", 2002.
    pub fn hopeful(&self) -> u64 {
        self.mean.saturating_sub(2 * self.spread / u64::from(self.count.max(1)).isqrt())
    }

    /// Where most values lie.
    pub fn interval(&self) -> (u64, u64) {
        (self.mean.saturating_sub(self.spread), self.mean.saturating_add(2 * self.spread))
    }
}

/// Odds of failure: a Beta distribution over successes and failures, begun with one failure in twenty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Odds {
    good: u32,
    bad: u32,
}

impl Odds {
    /// Counts an end.
    pub fn learn(&mut self, good: bool) {
        if good {
            self.good += 1;
        } else {
            self.bad += 1;
        }
        if self.good + self.bad > 1_000 {
            self.good /= 2;
            self.bad /= 2;
        }
    }

    /// The mean of the posterior, in permille.
    pub fn failure_permille(&self) -> u32 {
        (self.bad + 1) * 1000 / (self.good + self.bad + 20)
    }
}

/// All that was learned of a region's work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Learned {
    /// From the binding to the program's start, in ms.
    pub wait_ms: Estimate,
    /// How long runs took, in ms.
    pub run_ms: Estimate,
    /// How they ended.
    pub failure: Odds,
    bytes_per_ms: Estimate,
}

impl Learned {
    /// Bytes moved between here and there.
    pub fn moved(&mut self, bytes: u64, ms: u64) {
        // Small transfers measure the round trip, not the line.
        if bytes >= 1 << 20 {
            self.bytes_per_ms.learn((bytes / ms.max(1)).max(1));
        }
    }

    /// How long `bytes` take.
    pub fn transfer_ms(&self, bytes: u64) -> u64 {
        bytes / self.bytes_per_ms.mean().unwrap_or(BYTES_PER_MS).max(1)
    }

    /// 0 to 1,000: how long tasks wait there, a minute and more counting in full.
    pub fn waiting_term(&self) -> u32 {
        (self.wait_ms.hopeful() / 60).min(1000) as u32
    }

    /// 0 to 1,000: how often runs fail there.
    pub fn failure_term(&self) -> u32 {
        self.failure.failure_permille().min(1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_follows_a_slow_peer_and_covers_its_spread() {
        let mut times = AnswerTimes::default();
        assert_eq!(times.patience_ms(Some(80)), 160);
        for _ in 0..50 {
            times.measured(100);
        }
        assert!((100..=110).contains(&times.patience_ms(Some(10))), "{}", times.patience_ms(Some(10)));
        for ms in [100, 160, 100, 150, 100, 170].into_iter().cycle().take(60) {
            times.measured(ms);
        }
        assert!(times.patience_ms(Some(10)) >= 170);
    }

    #[test]
    fn a_silent_peer_is_left_alone_for_longer_and_longer_and_one_answer_heals() {
        let mut breaker = Breaker::default();
        let now = Monotonic(10_000);
        breaker.miss(now);
        breaker.miss(now);
        assert_eq!(breaker.left_ms(now), 0);
        breaker.miss(now);
        assert_eq!(breaker.left_ms(now), 1_000);
        breaker.miss(now.plus_ms(1_000));
        assert_eq!(breaker.left_ms(now.plus_ms(1_000)), 2_000);
        for _ in 0..100 {
            breaker.miss(now);
        }
        assert_eq!(breaker.left_ms(now), 60_000);
        breaker.hear();
        assert_eq!(breaker.left_ms(now), 0);
    }

    #[test]
    fn an_estimate_grows_surer_with_what_it_sees() {
        let mut estimate = Estimate::default();
        assert_eq!((estimate.mean(), estimate.hopeful()), (None, 0));
        estimate.learn(1_000);
        let first = estimate.hopeful();
        for _ in 0..100 {
            estimate.learn(1_000);
        }
        assert_eq!(estimate.mean(), Some(1_000));
        assert!(estimate.hopeful() > first);
        let (low, high) = estimate.interval();
        assert!(low <= 1_000 && high >= 1_000);
    }

    #[test]
    fn failures_are_learned_and_forgiven() {
        let mut odds = Odds::default();
        assert_eq!(odds.failure_permille(), 50);
        for _ in 0..100 {
            odds.learn(false);
        }
        assert!(odds.failure_permille() > 800);
        for _ in 0..900 {
            odds.learn(true);
        }
        assert!(odds.failure_permille() < 150);
    }

    #[test]
    fn transfers_are_estimated_by_what_was_measured() {
        let mut learned = Learned::default();
        assert_eq!(learned.transfer_ms(12_500_000), 1_000);
        learned.moved(100 << 20, 1_000);
        assert!(learned.transfer_ms(100 << 20) <= 1_001);
        learned.moved(10, 1_000);
        assert!(learned.transfer_ms(100 << 20) <= 1_001);
    }
}
