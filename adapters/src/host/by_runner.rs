//! Runs whose jobs execute the one runner: what the platform says and what the desk heard, made one.
//!
//! The desk has the last word on anything that the runner told: logs, outputs, how the command ended. The platform has it on
//! what a runner cannot tell: that its job is gone, and why. A run that neither knows any more is lost after a while.

use super::unit::Unit;
use crate::contract::{RunEnd, RunEvent, RunKey, RunState, RunStatus};
use crate::runner::RunDesk;
use crate::runner::desk::{DeskView, without_program};
use cpi::reason::{Reason, ReasonCode};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// How long a runner that is still connected may take to tell more after its platform said that the job is gone.
const LAST_WORDS: Duration = Duration::from_secs(45);
/// How long a platform may show a job whose runner has reported before it is told once more to end it.
const LINGERS: Duration = Duration::from_secs(15);

/// What a plugin needs of the desk.
#[derive(Clone)]
pub(super) struct DeskLink {
    pub(super) desk: Arc<RunDesk>,
    /// Takes what is to be looked into.
    pub(super) hints: mpsc::Sender<Hint>,
}

/// What a change on the platform means for the desk. It may be of an earlier job with the same tag, so it is looked into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hint {
    /// A job lives whose run is over.
    Revenant(RunKey),
    /// A job is gone whose run is not over.
    Gone(RunKey),
}

/// What both say together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Stands(RunState),
    /// It ended, and the desk does not know yet.
    Over(RunEnd),
    /// No run has this key: its submission was never acknowledged.
    Unknown,
}

/// Where a run stands of which the desk says `view` and the platform `platform`.
pub(super) fn judge(view: &DeskView, platform: Option<&RunState>, lost_after: Duration) -> Verdict {
    if matches!(view.state, RunState::Ended(_)) || view.attended {
        return Verdict::Stands(view.state.clone());
    }
    match platform {
        // an earlier job with the same tag
        Some(RunState::Ended(_)) if !view.submitted && !view.known_runner => Verdict::Unknown,
        Some(RunState::Ended(end)) => Verdict::Over(ended_by_platform(view, end)),
        Some(_) => Verdict::Stands(view.state.clone()),
        None if !view.submitted && !view.known_runner => Verdict::Unknown,
        None if view.silent_for < lost_after => Verdict::Stands(view.state.clone()),
        None => {
            let (code, detail) = if view.cancelled {
                (ReasonCode::Cancelled, "its platform does not know it any more")
            } else {
                (ReasonCode::RunLost, "its platform does not know it, and its runner does not report")
            };
            Verdict::Over(without_program(Reason::new(code, detail)))
        }
    }
}

/// How a run ended whose job is gone and whose runner told no end.
fn ended_by_platform(view: &DeskView, end: &RunEnd) -> RunEnd {
    let mut end = end.clone();
    let said = end.reason.clone();
    let detail = said.as_ref().map(|reason| reason.detail.clone()).unwrap_or_default();
    end.outputs.clear();
    end.reason = Some(match said.map(|reason| reason.code) {
        _ if view.cancelled => Reason::new(ReasonCode::Cancelled, detail),
        // only the platform can know these
        Some(
            code @ (ReasonCode::Cancelled
            | ReasonCode::TimeLimit
            | ReasonCode::Oom
            | ReasonCode::RunLost
            | ReasonCode::DeadlinePassed
            | ReasonCode::QuotaExceeded),
        ) => Reason::new(code, detail),
        _ if !view.known_runner => {
            let code = end.exit_code.map(|code| format!(" with exit code {code}")).unwrap_or_default();
            Reason::new(ReasonCode::StartFailed, format!("the job ended{code} before its runner reported {detail}"))
        }
        _ => Reason::new(ReasonCode::RunLost, format!("the job ended without a report of its runner {detail}")),
    });
    // these are the runner's, and not the command's
    (end.exit_code, end.signal) = (None, None);
    end
}

/// Passes what the desk hears on to those who watch the plugin's runs.
pub(super) async fn forward(unit: Arc<Unit>, desk: Arc<RunDesk>) {
    let mut events = desk.watch();
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            () = unit.stop.cancelled() => return,
        };
        match event {
            Ok((adapter, event)) if adapter == unit.spec().name => drop(unit.events.send(event)),
            Ok(_) => {}
            Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {
                for (key, view) in desk.list(&unit.spec().name) {
                    let _ = unit.events.send(RunEvent { key, state: view.state });
                }
            }
            Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
        }
    }
}

/// Takes in what the plugin says of a run, from its watch.
///
/// Nothing is passed on: the desk tells what counts. Jobs that ended are shown by platforms for a while, also after their
/// runs were removed.
pub(super) fn hear(unit: &Unit, link: &DeskLink, run: RunStatus) {
    let name = unit.spec().name.clone();
    let view = link.desk.view(&name, &run.key);
    if is_revenant(view.as_ref(), &run.state) {
        // where the queue is full a listing or a look at the run sees it later
        let _ = link.hints.try_send(Hint::Revenant(run.key));
        return;
    }
    if let (RunState::Ended(_), Some(view)) = (run.state, view)
        && !matches!(view.state, RunState::Ended(_))
    {
        let _ = link.hints.try_send(Hint::Gone(run.key));
    }
}

/// Whether a platform shows as alive what is over for the desk: a controller that lost its memory may start it again.
pub(super) fn is_revenant(view: Option<&DeskView>, platform: &RunState) -> bool {
    if matches!(platform, RunState::Ended(_)) {
        return false;
    }
    view.is_none_or(|view| matches!(view.state, RunState::Ended(_)) && view.silent_for > LINGERS)
}

/// Returns once nobody speaks for the run any more: it has ended, is gone from the desk, or its runner is silent.
pub(super) async fn until_parted(desk: &RunDesk, adapter: &str, key: &RunKey) {
    let deadline = tokio::time::Instant::now() + LAST_WORDS;
    loop {
        let moved = desk.moved();
        tokio::pin!(moved);
        moved.as_mut().enable();
        let attended = desk.view(adapter, key).is_some_and(|view| view.attended);
        if !attended || tokio::time::timeout_at(deadline, moved).await.is_err() {
            return;
        }
    }
}

/// Writes an end off the runtime's threads: it syncs.
pub(super) async fn write(desk: &Arc<RunDesk>, key: RunKey, end: RunEnd) -> Result<(), crate::contract::AdapterError> {
    let desk = Arc::clone(desk);
    let written = tokio::task::spawn_blocking(move || desk.settle(&key, end)).await;
    written.unwrap_or_else(|error| Err(crate::contract::AdapterError::passing(ReasonCode::Internal, error.to_string())))
}

/// Returns once the run has ended or is gone from the desk, or after `within`.
pub(super) async fn until_ended(desk: &RunDesk, adapter: &str, key: &RunKey, within: Duration) {
    let deadline = tokio::time::Instant::now() + within;
    loop {
        let moved = desk.moved();
        tokio::pin!(moved);
        moved.as_mut().enable();
        let over = desk.view(adapter, key).is_none_or(|view| matches!(view.state, RunState::Ended(_)));
        if over || tokio::time::timeout_at(deadline, moved).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOST: Duration = Duration::from_secs(60);

    fn view(state: RunState) -> DeskView {
        DeskView {
            state,
            attended: false,
            known_runner: true,
            submitted: true,
            cancelled: false,
            silent_for: Duration::ZERO,
        }
    }

    fn ended(code: Option<i32>, reason: Option<ReasonCode>) -> RunState {
        let mut end = without_program(Reason::new(ReasonCode::Internal, ""));
        (end.exit_code, end.reason) = (code, reason.map(Into::into));
        RunState::Ended(end)
    }

    fn over(view: &DeskView, platform: Option<&RunState>) -> Option<ReasonCode> {
        match judge(view, platform, LOST) {
            Verdict::Over(end) => end.reason.map(|reason| reason.code),
            _ => None,
        }
    }

    #[test]
    fn what_the_runner_told_counts() {
        let told = view(ended(Some(7), Some(ReasonCode::ExitNonzero)));
        for platform in [None, Some(RunState::Running), Some(ended(Some(0), None))] {
            assert_eq!(judge(&told, platform.as_ref(), LOST), Verdict::Stands(told.state.clone()));
        }
        let speaks = DeskView { attended: true, ..view(RunState::Frozen) };
        assert_eq!(judge(&speaks, Some(&ended(Some(0), None)), LOST), Verdict::Stands(RunState::Frozen));
    }

    #[test]
    fn what_only_the_platform_knows_counts_where_the_runner_is_silent() {
        let running = view(RunState::Running);
        for code in [ReasonCode::Oom, ReasonCode::TimeLimit, ReasonCode::Cancelled, ReasonCode::RunLost] {
            assert_eq!(over(&running, Some(&ended(None, Some(code)))), Some(code));
        }
        // a job that is said to have gone well, and no word of its runner
        assert_eq!(over(&running, Some(&ended(Some(0), None))), Some(ReasonCode::RunLost));
        let never = DeskView { known_runner: false, ..view(RunState::Starting) };
        assert_eq!(over(&never, Some(&ended(Some(127), Some(ReasonCode::ExitNonzero)))), Some(ReasonCode::StartFailed));
        let cancelled = DeskView { cancelled: true, ..view(RunState::Running) };
        assert_eq!(over(&cancelled, Some(&ended(Some(143), None))), Some(ReasonCode::Cancelled));
    }

    #[test]
    fn a_run_that_the_platform_forgot_is_lost_after_a_while() {
        let mut running = view(RunState::Running);
        assert_eq!(judge(&running, None, LOST), Verdict::Stands(RunState::Running));
        running.silent_for = LOST;
        assert_eq!(over(&running, None), Some(ReasonCode::RunLost));
        let asked = DeskView { known_runner: false, submitted: false, ..view(RunState::Starting) };
        assert_eq!(judge(&asked, None, LOST), Verdict::Unknown);
        assert_eq!(judge(&asked, Some(&ended(Some(0), None)), LOST), Verdict::Unknown);
    }

    #[test]
    fn what_came_back_from_the_dead_is_seen() {
        let mut over = view(ended(None, Some(ReasonCode::Cancelled)));
        assert!(!is_revenant(Some(&over), &RunState::Running));
        over.silent_for = LINGERS * 2;
        assert!(is_revenant(Some(&over), &RunState::Starting) && is_revenant(None, &RunState::Running));
        assert!(
            !is_revenant(Some(&over), &ended(None, None))
                && !is_revenant(Some(&view(RunState::Running)), &RunState::Running)
        );
    }
}
