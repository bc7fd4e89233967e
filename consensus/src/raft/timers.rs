//! Raft's timers from the voters' round trip, and when timers that run no longer fit it.

/// The smallest timers, however near the voters are: below them a busy machine would look like a dead one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimerFloor {
    /// Between two heartbeats, in ms.
    pub heartbeat_ms: u64,
    /// The shortest election time-out, in ms.
    pub election_ms: u64,
}

/// Timers in ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timers {
    /// Between two heartbeats; a heartbeat that takes longer counts as lost.
    pub heartbeat_ms: u64,
    /// The shortest election time-out.
    pub election_ms_min: u64,
    /// The longest, and for how long a leader is trusted after its last heartbeat.
    pub election_ms_max: u64,
}

/// Round trips beyond this are those of a broken line, and no timers are made for them.
const ROUND_TRIP_MS_MAX: u64 = 5_000;
/// Looks in a row that must find timers too short before they are changed.
const LOOKS_TOO_SHORT: u32 = 6;
/// Looks in a row that must find timers much too long: shrinking is never urgent.
const LOOKS_TOO_LONG: u32 = 1_200;

impl Timers {
    /// Heartbeat 2 R, election 6 R to 7.5 R, where R is the voters' p99 round trip, and never below `floor`.
    pub fn of(round_trip_ms: u64, floor: TimerFloor) -> Self {
        let round_trip = round_trip_ms.min(ROUND_TRIP_MS_MAX);
        let heartbeat_ms = (2 * round_trip).max(floor.heartbeat_ms);
        let election_ms_min = (6 * round_trip).max(floor.election_ms).max(3 * heartbeat_ms);
        Self { heartbeat_ms, election_ms_min, election_ms_max: election_ms_min * 5 / 4 }
    }

    /// Whether heartbeats over this round trip are acknowledged in time.
    pub fn bear(self, round_trip_ms: u64) -> bool {
        round_trip_ms < self.heartbeat_ms
    }
}

/// Watches running timers; one look every half second.
#[derive(Debug, Default)]
pub struct Drift {
    too_short: u32,
    too_long: u32,
}

impl Drift {
    /// Whether `running` is to give way to `wanted`: after some seconds where it is a fifth too short, after ten minutes
    /// where it is twice as long as needed.
    pub fn look(&mut self, running: Timers, wanted: Timers) -> bool {
        let short = wanted.heartbeat_ms * 4 > running.heartbeat_ms * 5;
        let long = wanted.heartbeat_ms * 2 < running.heartbeat_ms;
        self.too_short = if short { self.too_short + 1 } else { 0 };
        self.too_long = if long { self.too_long + 1 } else { 0 };
        let change = self.too_short >= LOOKS_TOO_SHORT || self.too_long >= LOOKS_TOO_LONG;
        if change {
            *self = Self::default();
        }
        change
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOOR: TimerFloor = TimerFloor { heartbeat_ms: 160, election_ms: 480 };

    #[test]
    fn timers_follow_the_round_trip_above_their_floor() {
        let far = Timers::of(200, FLOOR);
        assert_eq!((far.heartbeat_ms, far.election_ms_min, far.election_ms_max), (400, 1200, 1500));
        let near = Timers::of(1, FLOOR);
        assert_eq!((near.heartbeat_ms, near.election_ms_min, near.election_ms_max), (160, 480, 600));
        let broken = Timers::of(u64::MAX, FLOOR);
        assert_eq!(broken.heartbeat_ms, 10_000);
        let slow = TimerFloor { heartbeat_ms: 1_000, election_ms: 1_000 };
        assert_eq!(Timers::of(0, slow).election_ms_min, 3_000, "an election takes three missed heartbeats at least");
    }

    #[test]
    fn short_timers_are_mended_soon_and_long_ones_late_and_a_moment_changes_nothing() {
        let (near, far) = (Timers::of(1, FLOOR), Timers::of(200, FLOOR));
        let mut drift = Drift::default();
        for _ in 0..100 {
            assert!(!(1..LOOKS_TOO_SHORT).any(|_| drift.look(near, far)), "it was not short for long");
            assert!(!drift.look(near, near));
        }
        assert!((0..LOOKS_TOO_SHORT).any(|_| drift.look(near, far)));
        assert!(!(1..LOOKS_TOO_LONG).any(|_| drift.look(far, near)));
        assert!(drift.look(far, near));
    }
}
