//! What is done about runs that will not start, or whose pods were taken from them: they are ended with the reason that the
//! platform gives, instead of waiting for ever.

use super::adapter::Inner;
use super::client;
use super::watching::lock;
use crate::contract::{RunKey, RunState};
use crate::rules::Direction;
use cpi::reason::{Reason, ReasonCode};
use k8s_openapi::api::core::v1::Event;
use kube::Api;
use kube::api::ListParams;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How often all runs that do not run are looked at.
const EVERY: Duration = Duration::from_secs(1);
/// A Job without a pod for so long is asked for its events.
const NO_POD: Duration = Duration::from_secs(3);

/// A run that does not run yet.
struct Waiting {
    key: RunKey,
    name: String,
    uid: String,
    pending: Option<Reason>,
    has_pod: bool,
    /// Whether its pod is being deleted, and not by us.
    taken: bool,
}

/// Goes on until it is cancelled.
pub(super) async fn watch_over(inner: Arc<Inner>) {
    let mut since: BTreeMap<RunKey, (ReasonCode, Instant)> = BTreeMap::new();
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        inner.reload_rules();
        let waiting = waiting(&inner);
        since.retain(|key, _| waiting.iter().any(|run| run.key == *key));
        for run in waiting {
            if run.taken {
                stop(&inner, run.key, ReasonCode::RunLost, "its pod was deleted by somebody else").await;
                continue;
            }
            let reason = run.pending.clone().unwrap_or(ReasonCode::WaitingForInputs.into());
            let stands = since.entry(run.key).or_insert((reason.code, Instant::now()));
            if stands.0 != reason.code {
                *stands = (reason.code, Instant::now());
            }
            let waited = stands.1.elapsed();
            if !run.has_pod && waited >= NO_POD {
                ask_why(&inner, &run).await;
            }
            let patience_ms = match reason.code {
                ReasonCode::WaitingForInputs => 0,
                ReasonCode::NoCapacityNow => inner.config.schedule_patience_ms,
                _ => inner.config.start_patience_ms,
            };
            if patience_ms > 0 && waited >= Duration::from_millis(patience_ms) {
                stop(&inner, run.key, reason.code, &reason.detail).await;
            }
        }
    }
}

async fn stop(inner: &Inner, key: RunKey, code: ReasonCode, detail: &str) {
    if let Err(error) = inner.stop(key, code, detail, 0).await {
        tracing::debug!(task = %key.task, %error, "a run that does not start could not be ended yet");
    }
}

fn waiting(inner: &Inner) -> Vec<Waiting> {
    let seen = lock(&inner.seen);
    let jobs = seen.jobs.all.iter().filter(|(_, job)| job.stop.is_none() && !job.complete && job.failed.is_none());
    jobs.filter_map(|(name, job)| {
        let run = seen.run_named(name)?;
        let pod = seen.pod_of(job);
        let taken = pod.is_some_and(|pod| pod.deleting && !pod.over());
        if matches!(run.status.state, RunState::Ended(_)) || (run.status.state == RunState::Running && !taken) {
            return None;
        }
        Some(Waiting {
            key: job.key,
            name: name.clone(),
            uid: job.uid.clone(),
            pending: run.pending,
            has_pod: pod.is_some(),
            taken,
        })
    })
    .collect()
}

/// Why a Job has no pod: the controller says so in an event, and nowhere else.
async fn ask_why(inner: &Inner, run: &Waiting) {
    let events: Api<Event> = Api::namespaced(inner.client.clone(), &inner.config.namespace);
    let of_it = ListParams::default().fields(&format!("involvedObject.uid={},reason=FailedCreate", run.uid)).limit(5);
    let Ok(events) = client::within(events.list(&of_it)).await else { return };
    let Some(message) = events.items.iter().rev().find_map(|event| event.message.clone()) else { return };
    let source = json!({ "code": 403, "reason": "FailedCreate", "message": message });
    let Ok(said) = inner.rules().convert(Direction::North, "refusal", &source) else { return };
    if let Some(code) = said["code"].as_str() {
        lock(&inner.seen).not_created(&run.name, &run.uid, (code.to_owned(), message));
    }
}
