//! What a region proposes instead of what was asked: later, less, or dearer. At most three rounds, and each side only
//! ever gives way: an origin's limits grow, a region's price falls.

use super::message::Target;
use cpi::ids::MemberId;
use cpi::reason::ReasonCode;
use serde::{Deserialize, Serialize};

/// The most rounds of asking one region under one fence.
pub const ROUNDS_MAX: u8 = 3;
/// The most lines of a transcript.
pub const LINES_MAX: usize = 64;

/// A proposal that goes with a decline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Counter {
    /// Not now: its place among those that wait for such a shape here, and when it may start.
    Later {
        /// Tasks before it.
        position: u32,
        /// The start, in ms from now, if runs end as early as they often do.
        low_ms: u64,
        /// The same if they end as late as they seldom do.
        high_ms: u64,
    },
    /// Another of the task's own ways fits now.
    Less {
        /// Which, and where.
        target: Target,
    },
    /// It can be had at this price.
    Dearer {
        /// Per hour, in millionths of the region's currency.
        price_hour_micro: u64,
    },
}

/// Who says a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Side {
    /// The task's origin.
    Origin,
    /// The region.
    Provider,
}

/// One line of the transcript that is kept with a decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// With which region.
    pub member: MemberId,
    /// 1 to [`ROUNDS_MAX`].
    pub round: u8,
    /// Who says it.
    pub side: Side,
    /// Its limit or price per hour in millionths, where it names one.
    pub price_hour_micro: Option<u64>,
    /// Why a region declined.
    pub code: Option<ReasonCode>,
    /// What it proposes instead.
    pub counter: Option<Counter>,
}

/// A region's price in a round: its list price, less a growing part of the discount it may give.
pub fn price_in_round(list: u64, round: u8, discount_permille_max: u32) -> u64 {
    let steps = u64::from(round.clamp(1, ROUNDS_MAX) - 1);
    let discount = u64::from(discount_permille_max.min(1000)) * steps / u64::from(ROUNDS_MAX - 1);
    (u128::from(list) * u128::from(1000 - discount)).div_ceil(1000) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_gives_way_step_by_step_and_never_below_its_floor() {
        let prices: Vec<u64> = (0..=5).map(|round| price_in_round(1_000, round, 200)).collect();
        assert_eq!(prices, vec![1_000, 1_000, 900, 800, 800, 800]);
        assert_eq!(price_in_round(u64::MAX, 3, 0), u64::MAX);
    }
}
