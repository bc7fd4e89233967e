//! Counters of the mesh, for `/metrics` and for tests.

use super::StreamClass;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counters since start.
#[derive(Debug, Default)]
pub(super) struct Stats {
    pub refused: AtomicU64,
    pub bad_frames: AtomicU64,
    pub gossip_in: AtomicU64,
    pub gossip_ignored: AtomicU64,
    pub gossip_rejected: AtomicU64,
    pub gossip_over_budget: AtomicU64,
    pub gossip_out: AtomicU64,
    pub dials_failed: AtomicU64,
    pub classes: [ClassStats; StreamClass::ALL.len()],
}

#[derive(Debug, Default)]
pub(super) struct ClassStats {
    pub frames_out: AtomicU64,
    pub frames_in: AtomicU64,
    pub bytes_out: AtomicU64,
    pub bytes_in: AtomicU64,
    pub busy: AtomicU64,
}

/// A copy of the counters.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct MeshStats {
    /// Connections and streams refused because their peer is not admitted, expelled, or of another federation or epoch.
    pub refused: u64,
    /// Frames that were oversized, truncated or of unknown kind.
    pub bad_frames: u64,
    /// Gossip messages that came in.
    pub gossip_in: u64,
    /// Gossip messages that were not forwarded because they depend on state.
    pub gossip_ignored: u64,
    /// Gossip messages that were wrong by themselves.
    pub gossip_rejected: u64,
    /// Gossip messages beyond their author's budget.
    pub gossip_over_budget: u64,
    /// Gossip messages published here.
    pub gossip_out: u64,
    /// Dials that failed.
    pub dials_failed: u64,
    /// By class, in the order of [`StreamClass::ALL`].
    pub classes: Vec<ClassCounters>,
}

/// The counters of one class.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ClassCounters {
    /// The class's name.
    pub class: &'static str,
    /// Frames written to peers.
    pub frames_out: u64,
    /// Frames read from peers.
    pub frames_in: u64,
    /// Payload bytes written.
    pub bytes_out: u64,
    /// Payload bytes read.
    pub bytes_in: u64,
    /// Frames refused because a queue or the peer was full.
    pub busy: u64,
}

pub(super) fn add(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

impl Stats {
    pub fn class(&self, class: StreamClass) -> &ClassStats {
        &self.classes[class.index()]
    }

    pub fn copy(&self) -> MeshStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        MeshStats {
            refused: get(&self.refused),
            bad_frames: get(&self.bad_frames),
            gossip_in: get(&self.gossip_in),
            gossip_ignored: get(&self.gossip_ignored),
            gossip_rejected: get(&self.gossip_rejected),
            gossip_over_budget: get(&self.gossip_over_budget),
            gossip_out: get(&self.gossip_out),
            dials_failed: get(&self.dials_failed),
            classes: StreamClass::ALL
                .iter()
                .map(|&class| {
                    let stats = self.class(class);
                    ClassCounters {
                        class: class.name(),
                        frames_out: get(&stats.frames_out),
                        frames_in: get(&stats.frames_in),
                        bytes_out: get(&stats.bytes_out),
                        bytes_in: get(&stats.bytes_in),
                        busy: get(&stats.busy),
                    }
                })
                .collect(),
        }
    }
}
