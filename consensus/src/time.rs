//! The two times that a pure machine is told: one that only goes forward here, one for people.
//!
//! Durations cross the wire, never instants. `Monotonic` means nothing on another machine or after a restart.

use serde::{Deserialize, Serialize};

/// Milliseconds since this process began; never goes back, says nothing on other machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Monotonic(pub u64);

impl Monotonic {
    /// `ms` milliseconds later.
    #[must_use]
    pub fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` to `self`, 0 if it lies after.
    pub fn since_ms(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Wall-clock milliseconds since 1970-01-01T00:00:00Z. For people and for validity dates, never for order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

/// Both times of one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// For every timer.
    pub mono: Monotonic,
    /// For people.
    pub wall: Timestamp,
}
