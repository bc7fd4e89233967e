//! What is made of a cluster's objects, told as stories without a cluster.

use super::facts::{JobFacts, NodeFacts, PodFacts};
use super::seen::{Change, Seen};
use super::{inventory, tag};
use crate::contract::{RunKey, RunState};
use crate::rules::Rules;
use cpi::ids::{Epoch, Fence, MemberId, TaskId};
use cpi::reason::ReasonCode;
use cpi::resource::{ChipKind, ComputeClass, Firmness, PoolSpec, PriceList};
use serde_json::{Value, json};
use std::sync::Arc;

fn key() -> RunKey {
    RunKey { task: TaskId([7; 16]), fence: Fence { epoch: Epoch { counter: 1, member: MemberId(1) }, attempt: 1 } }
}

fn seen() -> Seen {
    Seen::new(Arc::new(Rules::parse(include_str!("../../../configs/rules/kubernetes.toml")).unwrap()))
}

fn merge(into: &mut Value, more: Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (name, value) in more {
                merge(into.entry(name).or_insert(Value::Null), value);
            }
        }
        (into, more) => *into = more,
    }
}

fn job(uid: &str, more: Value) -> JobFacts {
    let key = key();
    let mut job = json!({ "metadata": { "name": tag::tag(&key), "uid": uid, "annotations": {
        tag::TASK: key.task.to_string(), tag::FENCE: key.fence.to_string() } } });
    merge(&mut job, more);
    JobFacts::of(&serde_json::from_value(job).unwrap()).unwrap()
}

fn pod(name: &str, job: &str, more: Value) -> PodFacts {
    let mut pod = json!({
        "metadata": { "name": name, "uid": name, "labels": { tag::MANAGED_BY: tag::CAUSEWAY },
            "ownerReferences": [{ "apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": job }] },
        "spec": { "nodeName": "n", "containers": [{ "name": "run", "resources": {
            "requests": { "cpu": "1500m", "memory": "1Gi" }, "limits": { "cpu": "2", "nvidia.com/gpu": "2" } } }] },
        "status": { "phase": "Running" },
    });
    merge(&mut pod, more);
    PodFacts::of(&serde_json::from_value(pod).unwrap()).unwrap()
}

fn state(seen: &Seen) -> Option<RunState> {
    seen.run(&key()).map(|run| run.status.state)
}

fn reason(seen: &Seen) -> Option<ReasonCode> {
    match state(seen) {
        Some(RunState::Ended(end)) => end.reason.map(|reason| reason.code),
        _ => None,
    }
}

fn running() -> Value {
    json!({ "status": { "containerStatuses": [{ "name": "run", "image": "i", "imageID": "", "ready": true, "restartCount": 0,
        "state": { "running": {} } }] } })
}

#[test]
fn a_run_is_told_once_for_each_state_and_its_end_stays() {
    let mut seen = seen();
    let mut events = seen.subscribe();
    seen.answered("n/j", job("u1", json!({})));
    seen.answered("n/j", job("u1", json!({})));
    assert_eq!(state(&seen), Some(RunState::Starting));
    seen.pod(Change::Is("n/p".to_owned(), Some(pod("p", "u1", running()))));
    assert_eq!(state(&seen), Some(RunState::Running));
    let ended = json!({ "status": { "phase": "Failed", "containerStatuses": [{ "name": "run", "image": "i", "imageID": "",
        "ready": false, "restartCount": 0, "state": { "terminated": { "exitCode": 3, "reason": "Error",
        "startedAt": "2026-01-01T00:00:00Z", "finishedAt": "2026-01-01T00:00:02Z" } } }] } });
    seen.pod(Change::Is("n/p".to_owned(), Some(pod("p", "u1", ended))));
    assert_eq!(reason(&seen), Some(ReasonCode::ExitNonzero));
    let Some(RunState::Ended(end)) = state(&seen) else { panic!("not ended") };
    assert_eq!((end.exit_code, end.usage.wall_ms), (Some(3), 2000));
    // the pod is collected later: the end is what it was
    seen.pod(Change::Gone("n/p".to_owned()));
    assert_eq!(state(&seen), Some(RunState::Ended(end)));
    let told: Vec<RunState> = std::iter::from_fn(|| events.try_recv().ok()).map(|event| event.state).collect();
    assert!(matches!(told.as_slice(), [RunState::Starting, RunState::Running, RunState::Ended(_)]), "{told:?}");
}

#[test]
fn a_cancelled_run_ends_only_when_its_pod_is_gone() {
    let mut seen = seen();
    let stop = json!({ "metadata": { "annotations": { tag::STOP: "cancelled" } } });
    // the controller has not seen it yet: a pod may still come
    seen.answered("n/j", job("u1", stop.clone()));
    assert_eq!(state(&seen), Some(RunState::Starting));
    seen.pod(Change::Is("n/p".to_owned(), Some(pod("p", "u1", running()))));
    let mut idle = stop;
    merge(&mut idle, json!({ "status": { "startTime": "2026-01-01T00:00:00Z" } }));
    seen.job(Change::Is("n/j".to_owned(), Some(job("u1", idle))));
    assert_eq!(state(&seen), Some(RunState::Running));
    seen.pod(Change::Gone("n/p".to_owned()));
    assert_eq!(reason(&seen), Some(ReasonCode::Cancelled));
}

#[test]
fn a_removed_job_stays_removed_and_its_name_is_free() {
    let mut seen = seen();
    seen.answered("n/j", job("u1", json!({})));
    seen.forget("n/j");
    // what the watch says late
    seen.job(Change::Is("n/j".to_owned(), Some(job("u1", json!({})))));
    assert_eq!(state(&seen), None);
    seen.answered("n/j", job("u2", json!({})));
    seen.job_gone("n/j", "u1");
    assert_eq!(state(&seen), Some(RunState::Starting));
    // a pod of the first one does not count for the second
    seen.pod(Change::Is("n/p".to_owned(), Some(pod("p", "u1", running()))));
    assert_eq!(state(&seen), Some(RunState::Starting));
}

#[test]
fn what_a_new_listing_does_not_tell_is_gone() {
    let mut seen = seen();
    seen.answered("n/j", job("u1", json!({})));
    seen.job(Change::Begin);
    seen.job(Change::Complete);
    assert_eq!(state(&seen), None);
}

fn node(labels: Value, allocatable: Value) -> NodeFacts {
    let node = json!({ "metadata": { "name": "n", "labels": labels }, "status": { "allocatable": allocatable,
        "conditions": [{ "type": "Ready", "status": "True" }] } });
    NodeFacts::of(&serde_json::from_value(node).unwrap())
}

fn pool() -> PoolSpec {
    PoolSpec {
        name: "p".to_owned(),
        backend: "k".to_owned(),
        class: ComputeClass::General,
        identifiers: Vec::new(),
        classes: Vec::new(),
        firmness: Firmness::Held,
        price: PriceList::default(),
        carbon_g_per_kwh: None,
        cordoned: false,
    }
}

#[test]
fn nodes_are_servers_less_what_pods_ask_for() {
    let mut seen = seen();
    let labels = json!({ "nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB" });
    let has = json!({ "cpu": "64", "memory": "256Gi", "nvidia.com/gpu": "8", "pods": "110" });
    seen.node(Change::Is("n".to_owned(), Some(node(labels, has))));
    seen.node(Change::Is(
        "m".to_owned(),
        Some(node(json!({}), json!({ "cpu": "4", "memory": "8Gi", "example.com/odd": "1" }))),
    ));
    seen.pod(Change::Is("x/p".to_owned(), Some(pod("p", "u9", json!({})))));
    seen.pod(Change::Is("x/q".to_owned(), Some(pod("q", "u9", json!({ "status": { "phase": "Succeeded" } })))));
    let found = inventory::take(&seen, &[pool()]);
    let server = &found.servers["n"];
    assert_eq!((server.total.cpu_milli, server.free.cpu_milli), (64_000, 62_500));
    assert_eq!(server.free.memory_bytes, (256 << 30) - (1 << 30));
    assert_eq!((server.total.chip_milli, server.free.chip_milli), (8000, 6000));
    assert_eq!(server.chip.as_ref().map(|chip| (chip.model.as_str(), chip.kind)), Some(("NVA100S80", ChipKind::Gpu)));
    // a resource that no rule knows is named, and the node is told without it
    assert!(found.servers["m"].chip.is_none());
    assert!(
        found.notes.iter().any(|note| note.contains("example.com/odd") && note.contains("[tables.chips]")),
        "{:?}",
        found.notes
    );
    let pools = found.pools(&[pool()]);
    let classes: Vec<(&str, u32)> = pools[0].classes.iter().map(|class| (class.name.as_str(), class.servers)).collect();
    assert_eq!(classes, [("cpu-4c-8g", 1), ("nva100s80-8-64c-256g", 1)]);
    assert_eq!(pools[0].firmness, Firmness::Estimate);
}
