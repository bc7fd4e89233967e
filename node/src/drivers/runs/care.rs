//! What the executor does besides orders: hears its backends, asks after silent runs, clears away what nobody wants.

use super::executor::RunExecutor;
use super::job::{Done, Phase};
use crate::drivers::backends::Backends;
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
    /// As [`Self::forget`] of a run whose backend is not known any more.
    pub(super) fn forget_everywhere(&mut self, key: RunKey) {
        let adapters = self.backends.all().into_iter().map(|(_, adapter)| adapter).collect();
        self.forget(key, adapters);
    }

    /// Removes the run from its backend and lets go of its contents.
    pub(super) fn forget(&mut self, key: RunKey, adapters: Vec<Arc<dyn Adapter>>) {
        self.table.remove(&key);
        let (store, grace_ms) = (self.fetcher.store().clone(), self.cancel_grace_ms);
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
        let backends = self.backends.clone();
        tokio::spawn(async move {
            for (_, adapter) in backends.all() {
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

/// Hears every backend, also those that come later.
pub(super) async fn listen_to_all(backends: Backends, heard: mpsc::Sender<Heard>, stop: CancellationToken) {
    let mut changes = backends.changes();
    let mut listened: BTreeMap<String, (Arc<dyn Adapter>, tokio::task::JoinHandle<()>)> = BTreeMap::new();
    loop {
        changes.mark_unchanged();
        let now: BTreeMap<String, Arc<dyn Adapter>> = backends.all().into_iter().collect();
        listened.retain(|name, (adapter, listening)| {
            let same = now.get(name).is_some_and(|now| Arc::ptr_eq(now, adapter));
            if !same {
                listening.abort();
            }
            same
        });
        for (name, adapter) in now {
            listened.entry(name).or_insert_with(|| {
                let listening = tokio::spawn(listen(adapter.watch(), heard.clone(), stop.clone()));
                (adapter, listening)
            });
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = changes.changed() => if changed.is_err() { return },
        }
    }
}

async fn listen(mut events: broadcast::Receiver<RunEvent>, heard: mpsc::Sender<Heard>, stop: CancellationToken) {
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
