//! One replica of a plugin: keeps a process of it up, replaces it when it fails, hands over in a swap.

use super::by_runner;
use super::instance::{Instance, StartFailed, breaks_protocol, is_lost, status_text};
use super::unit::Unit;
use crate::contract::{RunEvent, RunStatus};
use crate::wire::{proto, status_of};
use backon::{BackoffBuilder as _, ExponentialBuilder};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tonic::Status;

/// Runs that one plugin may list.
const RUNS_MAX: usize = 200_000;
/// Before the changes of runs are asked for again.
const WATCH_AGAIN: Duration = Duration::from_millis(200);

/// Keeps replica `slot` of `unit` up until the unit stops. A process that comes by `handover` takes the place of what is
/// there.
pub(super) async fn keep(unit: Arc<Unit>, slot: usize, mut handover: mpsc::Receiver<Arc<Instance>>) {
    let waits = || {
        ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(unit.timing.backoff_ms_min))
            .with_max_delay(Duration::from_millis(unit.timing.backoff_ms_max))
            .with_jitter()
            .without_max_times()
            .build()
    };
    let mut wait = waits();
    loop {
        let version = unit.current();
        let started = tokio::select! {
            started = bring_up(&unit, &version) => started,
            Some(new) = handover.recv() => Ok(new),
            () = unit.stop.cancelled() => return,
        };
        let failure = match started {
            Ok(instance) => {
                let lived = Instant::now();
                let Some(why) = serve(&unit, slot, instance, &mut handover).await else { return };
                if lived.elapsed() > Duration::from_millis(unit.timing.flap_window_ms) {
                    wait = waits();
                }
                StartFailed { why, for_good: false }
            }
            Err(failure) => failure,
        };
        let quarantined = unit.note_failure(&failure);
        let pause = if quarantined {
            Duration::from_millis(unit.timing.quarantine_ms)
        } else {
            wait.next().unwrap_or(Duration::from_millis(unit.timing.backoff_ms_max))
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => unit.end_quarantine("its time is over"),
            () = unit.reset.notified() => wait = waits(),
            Some(new) = handover.recv() => {
                wait = waits();
                let Some(why) = serve(&unit, slot, new, &mut handover).await else { return };
                unit.note_failure(&StartFailed { why, for_good: false });
            }
            () = unit.stop.cancelled() => return,
        }
    }
}

async fn bring_up(unit: &Unit, version: &super::config::ProgramSpec) -> Result<Arc<Instance>, StartFailed> {
    let instance = Instance::start(&unit.setting, version, unit.next_number()).await?;
    if instance.hello.exclusive && unit.setting.spec.replicas > 1 {
        return Err(StartFailed {
            why: "its backend allows one process at a time: set replicas to 1".to_owned(),
            for_good: true,
        });
    }
    instance.open().await?;
    Ok(instance)
}

/// Lets `instance` take calls until it is gone, and says why; `None` when the unit stops.
async fn serve(
    unit: &Arc<Unit>,
    slot: usize,
    mut instance: Arc<Instance>,
    handover: &mut mpsc::Receiver<Arc<Instance>>,
) -> Option<String> {
    loop {
        unit.publish(slot, Some(&instance));
        let caring = tokio::spawn({
            let (unit, instance) = (Arc::clone(unit), Arc::clone(&instance));
            async move {
                tokio::join!(instance.care(), watch(&unit, &instance), probation(&unit, &instance));
            }
        });
        let next = tokio::select! {
            () = instance.gone() => None,
            new = handover.recv() => new,
            () = unit.stop.cancelled() => {
                caring.abort();
                unit.publish(slot, None);
                instance.stop("the node stops");
                instance.gone().await;
                return None;
            }
        };
        let Some(new) = next else {
            caring.abort();
            unit.publish(slot, None);
            return Some(instance.why());
        };
        let old = std::mem::replace(&mut instance, new);
        let drain = Duration::from_millis(unit.timing.drain_ms);
        tokio::spawn(async move {
            old.calls.close();
            if tokio::time::timeout(drain, old.calls.wait()).await.is_err() {
                tracing::warn!(pid = old.pid, "an old plugin process is ended with calls under way");
            }
            caring.abort();
            old.stop("a newer version took its place");
            old.gone().await;
        });
    }
}

/// After a swap, a process that is not ready for as many heartbeats as may be missed has failed.
async fn probation(unit: &Unit, instance: &Instance) {
    let mut looks = tokio::time::interval(unit.timing.heartbeat());
    loop {
        tokio::select! {
            _ = looks.tick() => {}
            () = instance.gone() => return,
        }
        if !unit.on_probation() {
            return;
        }
        if instance.unready() >= unit.timing.heartbeats_missed_max.max(1) {
            let notes = instance.health().notes.join("; ");
            return instance.fail(format!("it is not healthy after the swap: {notes}"));
        }
    }
}

/// Passes changes of runs on. Whenever the subscription is new, all runs are told once: what happened in between is among
/// them.
async fn watch(unit: &Unit, instance: &Instance) {
    while !instance.is_gone() {
        match subscribe(unit, instance).await {
            Ok(()) => {}
            Err(status) if is_lost(&status) || instance.is_gone() => {}
            Err(status) => {
                tracing::debug!(adapter = %unit.setting.spec.name, status = %status_text(&status), "changes ended");
                if breaks_protocol(&status) {
                    instance.strike(&format!("watch: {}", status_text(&status)));
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(WATCH_AGAIN) => {}
            () = instance.gone() => return,
        }
    }
}

async fn subscribe(unit: &Unit, instance: &Instance) -> Result<(), Status> {
    let request = unit.setting.credentials.attach(proto::WatchRunsRequest {}).map_err(|error| status_of(&error))?;
    let mut changes = instance.client().watch_runs(request).await?.into_inner();
    // the empty one says that the subscription stands
    changes.message().await?;
    let request = unit.setting.credentials.attach(proto::ListRunsRequest {}).map_err(|error| status_of(&error))?;
    let mut runs = instance.client().list_runs(request).await?.into_inner();
    let mut count = 0;
    while let Some(run) = runs.message().await? {
        count += 1;
        if count > RUNS_MAX {
            return Err(Status::internal(format!("it lists more than {RUNS_MAX} runs")));
        }
        tell(unit, run)?;
    }
    let (mut second, mut heard) = (Instant::now(), 0_u32);
    while let Some(change) = changes.message().await? {
        if second.elapsed() >= Duration::from_secs(1) {
            (second, heard) = (Instant::now(), 0);
        }
        heard += 1;
        if heard > unit.timing.events_per_second_max {
            instance.fail(format!("it floods: more than {heard} changes of runs in a second"));
            return Ok(());
        }
        tell(unit, change)?;
    }
    Ok(())
}

fn tell(unit: &Unit, run: proto::RunStatus) -> Result<(), Status> {
    let run = RunStatus::try_from(run).map_err(|error| Status::internal(error.to_string()))?;
    if let Some(link) = unit.runners() {
        by_runner::hear(unit, link, run);
        return Ok(());
    }
    // nobody listening is fine
    let _ = unit.events.send(RunEvent { key: run.key, state: run.state });
    Ok(())
}

pub(super) const fn runs_max() -> usize {
    RUNS_MAX
}
