//! The properties of one line: how late, how unevenly, and whether anything passes at all.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// The runtime's timer fires on whole milliseconds, never early: on average this much late.
const TIMER_GRAIN: Duration = Duration::from_micros(500);

/// How late a line is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LineSettings {
    /// The round trip; each way takes half of it.
    pub rtt: Duration,
    /// Up to this much more, each way, evenly spread. Order is kept.
    pub jitter: Duration,
    /// Of a thousand datagrams, so many are lost. TCP is not thinned: its kernel would not notice.
    pub loss_permille: u32,
}

#[derive(Debug)]
pub(super) struct Line {
    settings: Mutex<LineSettings>,
    cut: watch::Sender<bool>,
}

impl Line {
    pub fn new(settings: LineSettings) -> Self {
        Self { settings: Mutex::new(settings), cut: watch::channel(false).0 }
    }

    pub fn set(&self, settings: LineSettings) {
        *self.settings.lock().unwrap_or_else(PoisonError::into_inner) = settings;
    }

    pub fn settings(&self) -> LineSettings {
        *self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set_cut(&self, cut: bool) {
        self.cut.send_replace(cut);
    }

    pub fn is_cut(&self) -> bool {
        *self.cut.borrow()
    }

    /// Waits until the line is cut.
    pub async fn cut(&self) {
        let _ = self.cut.subscribe().wait_for(|cut| *cut).await;
    }

    /// When something that comes now arrives at the other end.
    pub fn due(&self) -> Instant {
        let settings = self.settings();
        let jitter = settings.jitter.mul_f64(if settings.jitter.is_zero() { 0.0 } else { rand::random() });
        Instant::now() + (settings.rtt / 2 + jitter).saturating_sub(TIMER_GRAIN)
    }

    /// Whether this datagram is lost.
    pub fn loses(&self) -> bool {
        let loss = self.settings().loss_permille;
        self.is_cut() || (loss > 0 && rand::random_range(0..1_000) < loss)
    }
}
