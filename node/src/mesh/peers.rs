//! What is known of each peer: whether it is connected, where, and how long a round trip takes.

use cpi::ids::{MemberId, RegionName};
use serde::Serialize;
use std::collections::VecDeque;
use std::time::Duration;

/// Round trips kept per peer: at the default ping interval about four minutes.
const WINDOW: usize = 128;
/// Weight of a new round trip in the average, as 1/8 (the smoothing of RFC 6298).
const SMOOTHING: i64 = 8;

/// One peer as the node sees it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PeerView {
    /// Who it is.
    pub member: MemberId,
    /// Its region.
    pub region: RegionName,
    /// Whether there is a connection now.
    pub connected: bool,
    /// The smoothed round trip in milliseconds, when one was measured.
    pub rtt_ms: Option<f64>,
    /// The 99th percentile of the last round trips, in milliseconds.
    pub rtt_p99_ms: Option<f64>,
    /// Milliseconds since it last answered a ping, connected or disconnected.
    pub last_seen_ms: Option<u64>,
    /// The address of the connection in use, as a multiaddr.
    pub address: Option<String>,
    /// `causeway/<version>` as the peer says.
    pub agent: Option<String>,
    /// Its gossip score; below zero it has misbehaved.
    pub score: f64,
}

/// A change of a peer's connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PeerEvent {
    /// A new connection stands. It may replace another that nobody saw break: then the peer has likely restarted, and
    /// what was said to it before may be lost.
    Connected(MemberId),
    /// The connection is gone.
    Disconnected(MemberId),
}

/// The last round trips to one peer.
#[derive(Clone, Debug, Default)]
pub(super) struct RoundTrips {
    recent_us: VecDeque<u64>,
    smoothed_us: Option<u64>,
}

impl RoundTrips {
    pub fn record(&mut self, rtt: Duration) {
        let us = u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX).min(60_000_000);
        if self.recent_us.len() == WINDOW {
            self.recent_us.pop_front();
        }
        self.recent_us.push_back(us);
        self.smoothed_us = Some(match self.smoothed_us {
            None => us,
            Some(old) => old.saturating_add_signed((us as i64 - old as i64) / SMOOTHING),
        });
    }

    pub fn smoothed(&self) -> Option<Duration> {
        self.smoothed_us.map(Duration::from_micros)
    }

    pub fn p99(&self) -> Option<Duration> {
        let mut sorted: Vec<u64> = self.recent_us.iter().copied().collect();
        sorted.sort_unstable();
        let at = (sorted.len() * 99).div_ceil(100).checked_sub(1)?;
        sorted.get(at).copied().map(Duration::from_micros)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_are_smoothed_and_the_slow_ones_kept() {
        let mut trips = RoundTrips::default();
        assert_eq!((trips.smoothed(), trips.p99()), (None, None));
        trips.record(Duration::from_millis(40));
        assert_eq!(trips.smoothed(), Some(Duration::from_millis(40)));
        trips.record(Duration::from_millis(120));
        assert_eq!(trips.smoothed(), Some(Duration::from_millis(50)));
        assert_eq!(trips.p99(), Some(Duration::from_millis(120)));
        for _ in 0..WINDOW {
            trips.record(Duration::from_millis(10));
        }
        assert_eq!(trips.p99(), Some(Duration::from_millis(10)), "old round trips leave the window");
    }
}
