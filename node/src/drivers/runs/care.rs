//! What the executor does besides orders: hears its backends, asks after silent runs, clears away what nobody wants.

use super::executor::RunExecutor;
use super::job::{Done, Phase};
use crate::services::artifacts::PinOwner;
use adapters::contract::{Adapter, RunEvent, RunKey, RunState, RunStatus};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;

/// Runs of an earlier process that nobody has claimed after this time are ended and forgotten.
const UNCLAIMED_KEPT: Duration = Duration::from_secs(600);

/// What comes in from the backends' event streams.
pub(super) enum Heard {
    Event(RunEvent),
    /// Events were lost: look at everything.
    Gap,
}

impl RunExecutor {
    /// Removes the run from its backend and lets go of its contents.
    pub(super) fn forget(&mut self, key: RunKey) {
        self.table.remove(&key);
        let (adapters, store, grace_ms) = (self.adapters.clone(), self.fetcher.store().clone(), self.cancel_grace_ms);
        tokio::spawn(async move {
            for adapter in adapters {
                match adapter.status(key).await {
                    Ok(None) => continue,
                    Ok(Some(RunStatus { state: RunState::Ended(_), .. })) => {}
                    Ok(Some(_)) => {
                        let _ = adapter.cancel(key, grace_ms).await;
                        continue;
                    }
                    Err(_) => {}
                }
                if let Err(error) = adapter.remove(key).await {
                    tracing::warn!(task_id = %key.task, fence = %key.fence, %error, "an ended run cannot be removed from its backend");
                }
            }
            let unpinned = tokio::task::spawn_blocking(move || store.unpin(PinOwner::Run(key))).await;
            if let Ok(Err(error)) = unpinned {
                tracing::warn!(task_id = %key.task, fence = %key.fence, %error, "an ended run's contents stay pinned");
            }
        });
    }

    /// Asks after runs whose events may have been lost, and sends cancels again that had no effect yet.
    pub(super) fn look(&self) {
        for (key, job) in &self.jobs {
            match job.phase {
                Phase::Running | Phase::Frozen => self.find(*key),
                // a submit of ours is under way and will be heard of; one found again may have been silent
                Phase::Starting => self.find_if_there(*key),
                _ => continue,
            }
            if job.cancel {
                self.cancel_run(*key);
            }
        }
    }

    /// As [`Self::find`], but not finding it means nothing: it may be on its way.
    fn find_if_there(&self, key: RunKey) {
        let Some(job) = self.jobs.get(&key) else { return };
        let (adapter, done) = (Arc::clone(&job.adapter), self.done.clone());
        tokio::spawn(async move {
            if let Ok(Some(status)) = adapter.status(key).await {
                let _ = done.send(Done::Found(key, Ok(Some(status.state))));
            }
        });
    }

    /// Once, some time after the start: runs that the backends have and nobody claimed are ended and forgotten.
    pub(super) fn sweep(&mut self) {
        if self.swept || self.begun.elapsed() < UNCLAIMED_KEPT {
            return;
        }
        self.swept = true;
        let known: std::collections::BTreeSet<RunKey> = self.jobs.keys().copied().collect();
        let adapters = self.adapters.clone();
        tokio::spawn(async move {
            for adapter in adapters {
                let Ok(runs) = adapter.list().await else { continue };
                for run in runs.into_iter().filter(|run| !known.contains(&run.key)) {
                    tracing::info!(task_id = %run.key.task, fence = %run.key.fence, "a run that nobody claimed is ended");
                    let _ = match run.state {
                        RunState::Ended(_) => adapter.remove(run.key).await,
                        _ => adapter.cancel(run.key, 0).await,
                    };
                }
            }
        });
    }
}

pub(super) async fn pools_of(adapters: &[Arc<dyn Adapter>]) -> BTreeMap<String, Arc<dyn Adapter>> {
    let mut pools = BTreeMap::new();
    for adapter in adapters {
        match adapter.inventory().await {
            Ok(specs) => pools.extend(specs.into_iter().map(|pool| (pool.name, Arc::clone(adapter)))),
            Err(error) => {
                tracing::warn!(backend = adapter.describe().backend, %error, "a backend does not list its pools")
            }
        }
    }
    pools
}

pub(super) async fn listen(
    mut events: broadcast::Receiver<RunEvent>,
    heard: mpsc::Sender<Heard>,
    stop: CancellationToken,
) {
    loop {
        let received = tokio::select! {
            () = stop.cancelled() => return,
            received = events.recv() => received,
        };
        let sent = match received {
            Ok(event) => heard.send(Heard::Event(event)).await,
            Err(broadcast::error::RecvError::Lagged(_)) => heard.send(Heard::Gap).await,
            Err(broadcast::error::RecvError::Closed) => return,
        };
        if sent.is_err() {
            return;
        }
    }
}
