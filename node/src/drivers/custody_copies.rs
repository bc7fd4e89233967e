//! Contents that a custodian keeps beside a task's record: its inputs while it is open, its results once it is closed.
//!
//! Copies are best effort and never hold a task up. A task whose contents are larger than [`COPIED_BYTES_MAX`] has them
//! at its origin (inputs) or at whoever decided for it (results) alone; a submitter is told so.

use crate::drivers::negotiation::{ResultFetcher, TaskBoard};
use consensus::negotiation::{FileRef, Record, TaskRecord};
use cpi::ids::{MemberId, TaskId};
use cpi::task::TaskSpec;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Inputs or results of one task up to this sum are copied to its custodians.
pub const COPIED_BYTES_MAX: u64 = 64 << 20;
/// Tasks whose contents are on their way at once.
const COPIES_AT_ONCE: usize = 8;
/// How often a copy is tried, with the first pause between; it doubles.
const TRIES: u32 = 8;
const PAUSE: Duration = Duration::from_secs(1);

/// Brings contents of kept tasks here.
pub struct Copies {
    me: MemberId,
    fetcher: Arc<dyn ResultFetcher>,
    slots: Arc<Semaphore>,
}

/// The inputs of a task as it was handed in; `None` where they are too large together, or one of them has no digest.
pub fn inputs_to_copy(record: &TaskRecord) -> Option<Vec<FileRef>> {
    let spec: TaskSpec = serde_json::from_slice(&record.document).ok()?;
    if record.need.input_bytes > COPIED_BYTES_MAX {
        return None;
    }
    let file = |input: &cpi::task::InputFile| {
        let size_bytes = input.size_bytes.unwrap_or_default();
        Some(FileRef { path: input.path.clone(), digest: input.digest?, size_bytes })
    };
    spec.inputs.iter().map(file).collect()
}

impl Copies {
    /// Copies for `me`, brought by `fetcher`.
    pub fn new(me: MemberId, fetcher: Arc<dyn ResultFetcher>) -> Self {
        Self { me, fetcher, slots: Arc::new(Semaphore::new(COPIES_AT_ONCE)) }
    }

    /// Looks at records that are on disk now: a task that this node begins to keep, or one that closed elsewhere.
    pub fn look(&self, records: &[Record], board: &TaskBoard) {
        for record in records {
            let Record::Custody(custody) = record else { continue };
            let holder = custody.written.member;
            if holder == self.me || !custody.is_seated(self.me) {
                continue;
            }
            let kept = records.iter().find_map(|r| match r {
                Record::Kept(kept) if kept.task == custody.task => Some(kept),
                _ => None,
            });
            if let Some(files) = kept.and_then(|kept| inputs_to_copy(kept)) {
                self.copy(custody.task, holder, files);
            }
            let outcome = custody.end.as_ref().filter(|_| custody.closed).and_then(|end| end.outcome.as_ref());
            if let Some(outcome) = outcome {
                let files: Vec<FileRef> = outcome.outputs.iter().chain(&outcome.logs).cloned().collect();
                let bytes = files.iter().fold(0_u64, |sum, file| sum.saturating_add(file.size_bytes));
                if bytes <= COPIED_BYTES_MAX {
                    self.copy(custody.task, holder, files);
                } else if board.task(custody.task).is_ok_and(|t| t.is_some()) {
                    tracing::info!(task_id = %custody.task, bytes, "results are too large to be copied");
                }
            }
        }
    }

    fn copy(&self, task: TaskId, from: MemberId, files: Vec<FileRef>) {
        if files.is_empty() {
            return;
        }
        let (fetcher, slots) = (Arc::clone(&self.fetcher), Arc::clone(&self.slots));
        tokio::spawn(async move {
            let Ok(_slot) = slots.acquire().await else { return };
            let mut pause = PAUSE;
            for attempt in 1..=TRIES {
                match fetcher.fetch_results(task, from, files.clone()).await {
                    Ok(()) => return,
                    Err(reason) => {
                        tracing::debug!(task_id = %task, member = %from, attempt, %reason, "contents are not copied yet");
                    }
                }
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            tracing::warn!(task_id = %task, member = %from, "contents of a kept task could not be copied");
        });
    }
}
