//! One run as the executor sees it.

use crate::drivers::run_channel::{RunLease, RunReportState};
use adapters::contract::{Adapter, AdapterError, RunEnd, RunKey, RunState, RunStatus};
use consensus::negotiation::RunOutcome;
use cpi::reason::{Reason, ReasonCode};
use cpi::task::TaskSpec;
use std::sync::Arc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How far a run came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Phase {
    /// Inputs are on their way.
    Staging,
    /// Inputs are here; nothing runs.
    Staged,
    /// The backend was told to start it.
    Starting,
    /// It runs.
    Running,
    /// Its lease lapsed.
    Frozen,
    /// It is over; outputs and logs are being put away.
    Ending,
    /// It is over and reported, again and again if asked.
    Over(RunReportState),
}

/// A run.
pub(super) struct Job {
    pub lease: RunLease,
    pub spec: Arc<TaskSpec>,
    pub adapter: Arc<dyn Adapter>,
    pub phase: Phase,
    /// Until when its lease lets it run.
    pub lease_until: Instant,
    /// It is to start once its inputs are here.
    pub start: bool,
    /// It is to end.
    pub cancel: bool,
    /// It is to be forgotten once it ended.
    pub release: bool,
    /// Stops what runs beside the executor for this job.
    pub stop: CancellationToken,
}

/// Something that ran beside the executor has come to its end.
pub(super) enum Done {
    /// Staging.
    Staged(RunKey, Result<(), Reason>),
    /// `Adapter::submit`.
    Submitted(RunKey, Result<RunStatus, AdapterError>),
    /// `Adapter::status`, for a run that was to be found again or that was silent.
    Found(RunKey, Result<Option<RunState>, AdapterError>),
    /// Outputs and logs were put away.
    Finished(RunKey, Box<RunOutcome>),
}

/// An end without a run.
pub(super) fn outcome_of(reason: Reason) -> RunOutcome {
    RunOutcome { reason: Some(reason), ..RunOutcome::default() }
}

/// The end of a run that was cancelled before it ran.
pub(super) fn never_ran() -> RunOutcome {
    outcome_of(Reason::new(ReasonCode::Cancelled, "before it began"))
}

/// The figures of a run's end, without its files.
pub(super) fn figures_of(end: &RunEnd) -> RunOutcome {
    RunOutcome {
        exit_code: end.exit_code,
        signal: end.signal,
        reason: end.reason.clone(),
        wall_ms: end.usage.wall_ms,
        cpu_ms: end.usage.cpu_ms,
        memory_peak_bytes: end.usage.memory_peak_bytes,
        outputs: Vec::new(),
        logs: Vec::new(),
    }
}
