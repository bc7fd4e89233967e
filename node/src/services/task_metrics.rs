//! Tasks, offers and capacity for Prometheus: counted from the events as they become durable, read from the board else.

use crate::drivers::negotiation::NegotiationHandle;
use crate::metrics::{CapacityKind, Cause, Metrics, Outcome, OutcomeReason, RunOrigin, State};
use consensus::negotiation::{EventKind, TaskEvent, TaskState};
use cpi::ids::TaskId;
use cpi::resource::Quantity;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Submissions whose decision is still awaited; beyond, the oldest are not timed.
const TIMED_MAX: usize = 65_536;
/// All states, so that one without tasks shows 0.
const STATES: [TaskState; 5] =
    [TaskState::Pending, TaskState::Placing, TaskState::Staging, TaskState::Running, TaskState::Finishing];

/// Counts the node's task events and shows its capacity from now on.
pub fn watch(metrics: &Arc<Metrics>, negotiation: &NegotiationHandle, tasks: &TaskTracker, stop: CancellationToken) {
    let shown = negotiation.clone();
    metrics.on_scrape(move |metrics| show(metrics, &shown));
    let (metrics, mut events) = (Arc::clone(metrics), negotiation.board().watch());
    tasks.spawn(async move {
        let mut submitted = BTreeMap::new();
        loop {
            let next = tokio::select! {
                () = stop.cancelled() => return,
                next = events.recv() => next,
            };
            match next {
                Ok((_, event)) => count(&metrics, &mut submitted, &event),
                Err(RecvError::Lagged(missed)) => tracing::debug!(missed, "task events were not counted"),
                Err(RecvError::Closed) => return,
            }
        }
    });
}

fn count(metrics: &Metrics, submitted: &mut BTreeMap<TaskId, u64>, event: &TaskEvent) {
    let reason = event.reason.as_ref().map_or("none", |reason| reason.code.code());
    let offers = |outcome| metrics.offers.get_or_create(&OutcomeReason { outcome, reason }).inc();
    let placements = |outcome| metrics.placements.get_or_create(&OutcomeReason { outcome, reason }).inc();
    let mut decided = |outcome| {
        if let Some(since) = submitted.remove(&event.task) {
            let seconds = event.at.0.saturating_sub(since) as f64 / 1000.0;
            metrics.negotiation_duration.get_or_create(&Outcome { outcome }).observe(seconds);
        }
    };
    match event.kind {
        EventKind::Submitted => {
            if submitted.len() >= TIMED_MAX {
                submitted.pop_first();
            }
            submitted.insert(event.task, event.at.0);
        }
        EventKind::Offered => {
            offers("offered");
        }
        EventKind::Declined => {
            offers("declined");
        }
        EventKind::TimedOut => {
            offers("timed_out");
        }
        EventKind::Accepted => {
            decided("placed");
            placements("placed");
        }
        EventKind::AttemptEnded => {
            metrics.failovers.get_or_create(&Cause { cause: reason }).inc();
        }
        EventKind::Ended => {
            decided("ended");
            placements(match event.state {
                TaskState::Succeeded => "succeeded",
                TaskState::Cancelled => "cancelled",
                _ => "failed",
            });
        }
        _ => {}
    }
}

fn show(metrics: &Metrics, negotiation: &NegotiationHandle) {
    let board = negotiation.board();
    let open = board.open_states();
    for state in STATES {
        let count = open.get(state.as_str()).copied().unwrap_or(0);
        metrics.tasks.get_or_create(&State { state: state.as_str() }).set(count as i64);
    }
    let now_ms = super::tasks::now_ms();
    let age_s = board.oldest_pending().map_or(0, |since| now_ms.saturating_sub(since) / 1000);
    metrics.task_pending_age_seconds.set(age_s as i64);
    let gauges = negotiation.gauges();
    metrics.holds.get_or_create(&State { state: "held" }).set(gauges.holds as i64);
    metrics.holds.get_or_create(&State { state: "leased" }).set(gauges.leases as i64);
    for (origin, ended) in [("own", gauges.runs_ended.0), ("other", gauges.runs_ended.1)] {
        metrics.runs.get_or_create(&RunOrigin { origin }).inner().store(ended, Ordering::Relaxed);
    }
    for (class, total, free, largest_fit) in &gauges.capacity {
        for (kind, quantity) in [("total", total), ("free", free), ("largest_fit", largest_fit)] {
            for (resource, amount) in resources(quantity) {
                let labels = CapacityKind { class: class.clone(), kind, resource };
                metrics.capacity.get_or_create(&labels).set(amount);
            }
        }
    }
}

/// Amounts in the units that their names say: whole cores, bytes, whole chips.
fn resources(quantity: &Quantity) -> [(&'static str, f64); 3] {
    [
        ("cpu_cores", quantity.cpu_milli as f64 / 1000.0),
        ("memory_bytes", quantity.memory_bytes as f64),
        ("chips", quantity.chip_milli as f64 / 1000.0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capacity_is_told_in_whole_cores_and_chips() {
        let quantity = Quantity { cpu_milli: 112_500, memory_bytes: 1 << 40, storage_bytes: 0, chip_milli: 8_000 };
        let told = resources(&quantity);
        assert_eq!(told, [("cpu_cores", 112.5), ("memory_bytes", (1_u64 << 40) as f64), ("chips", 8.0)]);
    }
}
