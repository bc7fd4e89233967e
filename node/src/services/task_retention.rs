//! What ended tasks leave behind goes after a while: first their inputs, outputs and logs, later the tasks themselves.

use super::artifacts::{ArtifactStore, PinOwner};
use super::tasks::now_ms;
use crate::drivers::custody::TaskRecordsError;
use crate::drivers::negotiation::TaskBoard;
use consensus::negotiation::TaskState;
use consensus::time::Timestamp;
use cpi::ids::TaskId;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Between two sweeps.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// Tasks removed with one write.
const REMOVED_AT_ONCE: usize = 256;

/// How long ended tasks are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskRetention {
    /// Their inputs, outputs and logs, in ms after the end.
    pub results_ms: u64,
    /// The tasks with their history, in ms after the end.
    pub tasks_ms: u64,
    /// Ended tasks at most; beyond, those that were submitted first go before their time.
    pub tasks_max: usize,
    /// Idempotency keys, in ms after their first use; they stay when their task goes before.
    pub keys_ms: u64,
}

/// Why a sweep broke off; the next one goes on.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// The rows cannot be used.
    #[error(transparent)]
    Records(#[from] TaskRecordsError),
    /// The artifacts cannot be used.
    #[error("a pin cannot be removed")]
    Pins(#[from] std::io::Error),
}

/// What a sweep removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// Tasks whose files are kept no longer.
    pub unpinned: usize,
    /// Tasks that are kept no longer.
    pub removed: usize,
}

/// Sweeps now and then until `stop`.
pub async fn keep_swept(
    board: Arc<TaskBoard>,
    store: ArtifactStore,
    retention: TaskRetention,
    stop: CancellationToken,
) {
    let mut timer = tokio::time::interval(SWEEP_EVERY);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = timer.tick() => {}
        }
        let (board, store) = (Arc::clone(&board), store.clone());
        match tokio::task::spawn_blocking(move || sweep(&board, &store, retention, now_ms())).await {
            Ok(Ok(swept)) if swept == Swept::default() => {}
            Ok(Ok(Swept { unpinned, removed })) => tracing::info!(unpinned, removed, "ended tasks were cleared away"),
            Ok(Err(error)) => tracing::warn!(%error, "ended tasks cannot be cleared away"),
            Err(error) => tracing::error!(%error, "clearing ended tasks away ended badly"),
        }
    }
}

/// Removes what is older than `retention` allows at `now_ms` of the wall clock. Blocking.
///
/// # Errors
/// [`SweepError`]; what was removed until then is gone.
pub fn sweep(
    board: &TaskBoard,
    store: &ArtifactStore,
    retention: TaskRetention,
    now_ms: u64,
) -> Result<Swept, SweepError> {
    let mut swept = Swept::default();
    let results_before = now_ms.saturating_sub(retention.results_ms);
    for id in store.tasks_pinned_before(results_before) {
        let over = match board.task(id)? {
            // refused after its inputs were pinned, or removed
            None => true,
            Some(task) => task.summary.ended.is_some_and(|at| at.0 <= results_before),
        };
        if over {
            store.unpin(PinOwner::Task(id))?;
            swept.unpinned += 1;
        }
    }

    let keys_before = Timestamp(now_ms.saturating_sub(retention.keys_ms));
    board.records().forget_keys(keys_before)?;
    board.records().forget_gone(now_ms)?;
    let tasks_before = now_ms.saturating_sub(retention.tasks_ms);
    let mut too_many = board.count(TaskState::is_ended).saturating_sub(retention.tasks_max);
    let mut after = None;
    loop {
        let ids = board.oldest_ended(after, REMOVED_AT_ONCE);
        let Some(last) = ids.last().copied() else { return Ok(swept) };
        let mut over = Vec::new();
        for id in ids {
            let Some(task) = board.task(id)? else { continue };
            // one that is too new to go stays although a later one may go: it ran for longer
            let old = task.summary.ended.is_some_and(|at| at.0 <= tasks_before);
            // one that other members may still ask about as open is not over here
            if task.custody.closed && (old || too_many > 0) {
                too_many = too_many.saturating_sub(1);
                over.push(task);
            }
        }
        for task in &over {
            // the files first: a crash in between leaves a task without them, never files without a task
            store.unpin(PinOwner::Task(task.record.task))?;
        }
        if !over.is_empty() {
            board.forget(&over, keys_before)?;
            swept.removed += over.len();
        }
        if too_many == 0 && submitted_ms(last) > tasks_before {
            return Ok(swept);
        }
        after = Some(last);
    }
}

/// When a task was submitted: its id begins with the time.
fn submitted_ms(id: TaskId) -> u64 {
    let mut time = [0; 8];
    time[2..].copy_from_slice(&id.0[..6]);
    u64::from_be_bytes(time)
}
