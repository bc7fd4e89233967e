//! The executor itself: one task that knows all runs of this region and starts whatever takes time beside itself.

use super::care::{Heard, listen_to_all};
use super::job::{Done, Job, Phase, never_ran, outcome_of};
use super::table::{RunSight, RunTable};
use super::{finish, stage};
use crate::drivers::backends::Backends;
use crate::drivers::run_channel::{RunCommand, RunLease, RunReport, RunReportState};
use crate::services::artifacts::ArtifactFetcher;
use adapters::contract::{AdapterError, RunEnd, RunKey, RunState};
use cpi::reason::{Reason, ReasonCode};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often a backend that is down is asked again to start a run.
const SUBMIT_TRIES: u32 = 6;
const SUBMIT_BACK_OFF: Duration = Duration::from_millis(200);
/// How often backends are asked for runs whose events may have been lost.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// What an executor works with.
pub struct ExecutorParts {
    /// The backends of this region, and the pools that they drive.
    pub backends: Backends,
    /// Fetches inputs, and leads to the store for results.
    pub fetcher: ArtifactFetcher,
    /// Shared with the log service.
    pub table: RunTable,
    /// Orders.
    pub commands: mpsc::Receiver<RunCommand>,
    /// Reports.
    pub reports: mpsc::Sender<RunReport>,
    /// The polite time that a cancelled run has to end by itself, in ms.
    pub cancel_grace_ms: u64,
    /// Ends the executor. Runs go on.
    pub stop: CancellationToken,
}

/// Milliseconds from now, at least 1.
fn millis_left(until: Instant) -> u64 {
    (until.saturating_duration_since(Instant::now()).as_millis() as u64).max(1)
}

/// The run executor.
pub struct RunExecutor {
    pub(super) backends: Backends,
    pub(super) fetcher: ArtifactFetcher,
    pub(super) table: RunTable,
    pub(super) jobs: BTreeMap<RunKey, Job>,
    pub(super) done: mpsc::UnboundedSender<Done>,
    /// Reports that the negotiation was too busy to take; in order.
    pub(super) waiting: std::collections::VecDeque<RunReport>,
    pub(super) cancel_grace_ms: u64,
    pub(super) begun: Instant,
    pub(super) swept: bool,
}

impl RunExecutor {
    /// Starts the executor as a task.
    pub fn spawn(parts: ExecutorParts) -> tokio::task::JoinHandle<()> {
        tokio::spawn(Self::run(parts))
    }

    async fn run(parts: ExecutorParts) {
        let ExecutorParts { backends, fetcher, table, mut commands, reports, cancel_grace_ms, stop } = parts;
        let (done, mut done_in) = mpsc::unbounded_channel();
        let (heard, mut heard_in) = mpsc::channel(1024);
        tokio::spawn(listen_to_all(backends.clone(), heard, stop.clone()));
        let mut executor = Self {
            backends,
            fetcher,
            table,
            jobs: BTreeMap::new(),
            done,
            waiting: std::collections::VecDeque::new(),
            cancel_grace_ms,
            begun: Instant::now(),
            swept: false,
        };
        let mut looks = tokio::time::interval_at(Instant::now() + LOOK_EVERY, LOOK_EVERY);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                permit = reports.reserve(), if !executor.waiting.is_empty() => match (permit, executor.waiting.pop_front()) {
                    (Ok(permit), Some(report)) => permit.send(report),
                    _ => return,
                },
                Some(done) = done_in.recv() => executor.take(done),
                Some(heard) = heard_in.recv() => match heard {
                    Heard::Event(event) => executor.hear(event.key, event.state),
                    Heard::Gap => executor.look(),
                },
                command = commands.recv() => match command {
                    Some(command) => executor.obey(command),
                    None => return,
                },
                _ = looks.tick() => {
                    executor.look();
                    executor.sweep();
                }
            }
        }
    }

    fn report(&mut self, key: RunKey, state: RunReportState) {
        self.waiting.push_back(RunReport { key, state });
    }

    fn obey(&mut self, command: RunCommand) {
        match command {
            RunCommand::Prepare(lease) => self.prepare(*lease),
            RunCommand::Start { key, until } => self.start(key, until),
            RunCommand::Reattach(lease) => self.reattach(*lease),
            RunCommand::Renew { keys, until } => self.renew(keys, until),
            RunCommand::Cancel(key) => self.cancel(key),
            RunCommand::Release(key) => self.release(key),
        }
    }

    /// Takes a lease in; `None` where it is known already or cannot be carried out here, which is reported.
    fn admit(&mut self, lease: RunLease, phase: Phase) -> Option<RunKey> {
        let key = lease.key;
        if self.jobs.contains_key(&key) {
            self.repeat(key);
            return None;
        }
        let failure = match (self.backends.of_pool(&lease.pool), stage::read_document(&lease)) {
            (Some(adapter), Ok(spec)) => {
                self.table.set(key, RunSight { readers: lease.readers(), adapter: Some(Arc::clone(&adapter)) });
                let job = Job {
                    adapter,
                    spec: Arc::new(spec),
                    lease_until: Instant::now() + Duration::from_millis(lease.lease_ttl_ms),
                    lease,
                    phase,
                    start: false,
                    cancel: false,
                    release: false,
                    stop: CancellationToken::new(),
                };
                self.jobs.insert(key, job);
                return Some(key);
            }
            (None, _) => Reason::new(ReasonCode::AdapterDown, format!("no backend drives pool {:?} now", lease.pool)),
            (_, Err(reason)) => reason,
        };
        self.report(key, RunReportState::Failed(failure));
        None
    }

    fn prepare(&mut self, lease: RunLease) {
        let Some(key) = self.admit(lease, Phase::Staging) else { return };
        let Some(job) = self.jobs.get_mut(&key) else { return };
        let trace = job.lease.trace;
        tracing::debug!(%trace, task_id = %key.task, fence = %key.fence, origin = %job.lease.origin, "a run is prepared");
        if job.spec.inputs.is_empty() {
            job.phase = Phase::Staged;
            self.report(key, RunReportState::Staged);
            return;
        }
        let (lease, spec, stop) = (job.lease.clone(), Arc::clone(&job.spec), job.stop.clone());
        let (fetcher, done) = (self.fetcher.clone(), self.done.clone());
        tokio::spawn(async move {
            let staging = trace.scope(stage::stage(&lease, &spec, &fetcher));
            let staged = stop.run_until_cancelled(staging).await;
            if let Some(staged) = staged {
                let _ = done.send(Done::Staged(key, staged));
            }
        });
    }

    /// Says again where a run stands.
    fn repeat(&mut self, key: RunKey) {
        let state = match self.jobs.get(&key).map(|job| &job.phase) {
            Some(Phase::Staged) => RunReportState::Staged,
            Some(Phase::Running) => RunReportState::Started,
            Some(Phase::Frozen) => RunReportState::Frozen,
            Some(Phase::Over(state)) => state.clone(),
            Some(Phase::Staging | Phase::Starting | Phase::Ending) | None => return,
        };
        self.report(key, state);
    }

    fn start(&mut self, key: RunKey, until: Instant) {
        let Some(job) = self.jobs.get_mut(&key) else {
            let reason = Reason::new(ReasonCode::RunLost, "it was to start without having been prepared here");
            return self.report(key, RunReportState::Lost(reason));
        };
        job.start = true;
        job.lease_until = job.lease_until.max(until);
        match job.phase {
            Phase::Staged => self.submit(key),
            Phase::Staging => {}
            _ => self.repeat(key),
        }
    }

    fn submit(&mut self, key: RunKey) {
        let Some(job) = self.jobs.get_mut(&key) else { return };
        // staging may have taken long: the run gets what is left of its lease, and freezes at once where nothing is
        job.lease.lease_ttl_ms = millis_left(job.lease_until);
        let request = match stage::request(&job.lease, &job.spec, self.fetcher.store()) {
            Ok(request) => request,
            Err(reason) => return self.fail(key, reason),
        };
        job.phase = Phase::Starting;
        let trace = job.lease.trace;
        tracing::info!(%trace, task_id = %key.task, fence = %key.fence, pool = job.lease.pool, "a run starts");
        let (adapter, done) = (Arc::clone(&job.adapter), self.done.clone());
        tokio::spawn(async move {
            let mut wait = SUBMIT_BACK_OFF;
            let mut tries = 1;
            let submitted = loop {
                match adapter.submit(request.clone()).await {
                    // the same key is the same run, so asking again is safe
                    Err(error) if error.retryable && tries < SUBMIT_TRIES => {
                        tries += 1;
                        tokio::time::sleep(wait).await;
                        wait *= 2;
                    }
                    other => break other,
                }
            };
            let _ = done.send(Done::Submitted(key, submitted));
        });
    }

    fn reattach(&mut self, lease: RunLease) {
        if let Some(key) = self.admit(lease, Phase::Starting) {
            self.find(key);
        }
    }

    /// Asks the backend where a run stands.
    pub(super) fn find(&self, key: RunKey) {
        let Some(job) = self.jobs.get(&key) else { return };
        let (adapter, done) = (Arc::clone(&job.adapter), self.done.clone());
        tokio::spawn(async move {
            let mut wait = SUBMIT_BACK_OFF;
            let mut tries = 1;
            let found = loop {
                match adapter.status(key).await {
                    Err(error) if error.retryable && tries < SUBMIT_TRIES => {
                        tries += 1;
                        tokio::time::sleep(wait).await;
                        wait *= 2;
                    }
                    other => break other.map(|status| status.map(|status| status.state)),
                }
            };
            let _ = done.send(Done::Found(key, found));
        });
    }

    fn renew(&mut self, keys: Vec<RunKey>, until: Instant) {
        for key in &keys {
            if let Some(job) = self.jobs.get_mut(key) {
                job.lease_until = job.lease_until.max(until);
            }
        }
        let living: Vec<_> = keys
            .into_iter()
            .filter_map(|key| self.jobs.get(&key).map(|job| (key, job)))
            .filter(|(_, job)| matches!(job.phase, Phase::Starting | Phase::Running | Phase::Frozen))
            .map(|(key, job)| (key, Arc::clone(&job.adapter)))
            .collect();
        if living.is_empty() {
            return;
        }
        tokio::spawn(async move {
            for (key, adapter) in living {
                // worked out for each: a slow backend must not lengthen the leases behind it
                if let Err(error) = adapter.renew(key, millis_left(until)).await {
                    tracing::warn!(task_id = %key.task, fence = %key.fence, %error, "a run's lease was not renewed");
                }
            }
        });
    }

    fn cancel(&mut self, key: RunKey) {
        let Some(job) = self.jobs.get_mut(&key) else {
            return self.report(key, RunReportState::Ended(Box::new(never_ran())));
        };
        job.cancel = true;
        match job.phase {
            Phase::Staging | Phase::Staged => {
                job.stop.cancel();
                self.over(key, RunReportState::Ended(Box::new(never_ran())));
            }
            Phase::Starting | Phase::Running | Phase::Frozen => self.cancel_run(key),
            Phase::Ending => {}
            Phase::Over(_) => self.repeat(key),
        }
    }

    pub(super) fn cancel_run(&self, key: RunKey) {
        let Some(job) = self.jobs.get(&key) else { return };
        let (adapter, grace_ms) = (Arc::clone(&job.adapter), self.cancel_grace_ms);
        tokio::spawn(async move {
            if let Err(error) = adapter.cancel(key, grace_ms).await {
                tracing::warn!(task_id = %key.task, fence = %key.fence, %error, "a cancel did not reach the backend and is sent again");
            }
        });
    }

    fn release(&mut self, key: RunKey) {
        match self.jobs.get_mut(&key) {
            Some(job) if matches!(job.phase, Phase::Starting | Phase::Running | Phase::Frozen | Phase::Ending) => {
                // nobody wants it any more, so it ends first
                job.release = true;
                job.cancel = true;
                self.cancel_run(key);
            }
            Some(job) => {
                job.stop.cancel();
                let adapter = Arc::clone(&job.adapter);
                self.jobs.remove(&key);
                self.forget(key, vec![adapter]);
            }
            None => self.forget_everywhere(key),
        }
    }

    fn take(&mut self, done: Done) {
        match done {
            Done::Staged(key, staged) => {
                let Some(job) = self.jobs.get_mut(&key).filter(|job| job.phase == Phase::Staging) else { return };
                match staged {
                    Ok(()) => {
                        job.phase = Phase::Staged;
                        let start = job.start;
                        self.report(key, RunReportState::Staged);
                        if start {
                            self.submit(key);
                        }
                    }
                    Err(reason) => self.fail(key, reason),
                }
            }
            Done::Submitted(key, submitted) => match submitted {
                Ok(status) => {
                    let cancel = self.jobs.get(&key).is_some_and(|job| job.cancel);
                    self.hear(key, status.state);
                    if cancel {
                        // the cancel may have come to the backend before the run did
                        self.cancel_run(key);
                    }
                }
                Err(error) => self.fail_start(key, error),
            },
            Done::Found(key, found) => match found {
                Ok(Some(RunState::Starting)) | Err(AdapterError { retryable: true, .. }) => {}
                Ok(Some(state)) => self.hear(key, state),
                Ok(None) => self.lose(key, "its backend does not know it"),
                Err(error) => self.lose(key, &error.to_string()),
            },
            Done::Finished(key, outcome) => self.over(key, RunReportState::Ended(outcome)),
        }
    }

    /// A run's state as its backend tells it. Late and repeated news are harmless.
    fn hear(&mut self, key: RunKey, state: RunState) {
        let Some(job) = self.jobs.get_mut(&key) else { return };
        if !matches!(job.phase, Phase::Starting | Phase::Running | Phase::Frozen) {
            return;
        }
        match state {
            RunState::Starting => {}
            RunState::Running if job.phase != Phase::Running => {
                job.phase = Phase::Running;
                self.report(key, RunReportState::Started);
            }
            RunState::Running => {}
            RunState::Frozen if job.phase != Phase::Frozen => {
                job.phase = Phase::Frozen;
                self.report(key, RunReportState::Frozen);
            }
            RunState::Frozen => {}
            RunState::Ended(end) => self.finish(key, end),
        }
    }

    fn finish(&mut self, key: RunKey, end: RunEnd) {
        let Some(job) = self.jobs.get_mut(&key) else { return };
        let started = job.phase == Phase::Starting && end.exit_code.is_some();
        job.phase = Phase::Ending;
        let (readers, adapter) = (job.lease.readers(), Arc::clone(&job.adapter));
        let (store, done) = (self.fetcher.store().clone(), self.done.clone());
        if started {
            // so short that nobody saw it run
            self.report(key, RunReportState::Started);
        }
        tokio::spawn(async move {
            let outcome = finish::finish(key, readers, end, adapter.as_ref(), &store).await;
            let _ = done.send(Done::Finished(key, Box::new(outcome)));
        });
    }

    /// It did not come to run.
    fn fail(&mut self, key: RunKey, reason: Reason) {
        self.over(key, RunReportState::Failed(reason));
    }

    fn fail_start(&mut self, key: RunKey, error: AdapterError) {
        if self.jobs.get(&key).is_some_and(|job| job.phase == Phase::Starting) {
            self.fail(key, error.reason);
        }
    }

    fn lose(&mut self, key: RunKey, why: &str) {
        let Some(job) = self.jobs.get(&key) else { return };
        if matches!(job.phase, Phase::Starting | Phase::Running | Phase::Frozen) {
            let state = if job.cancel {
                RunReportState::Ended(Box::new(outcome_of(Reason::new(ReasonCode::Cancelled, why))))
            } else {
                RunReportState::Lost(Reason::new(ReasonCode::RunLost, why))
            };
            self.over(key, state);
        }
    }

    fn over(&mut self, key: RunKey, state: RunReportState) {
        let Some(job) = self.jobs.get_mut(&key) else { return };
        job.phase = Phase::Over(state.clone());
        if job.release {
            let adapter = Arc::clone(&job.adapter);
            self.jobs.remove(&key);
            self.forget(key, vec![adapter]);
        } else {
            self.report(key, state);
        }
    }
}
