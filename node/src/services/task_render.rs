//! Tasks and events in the words of `/v1`.

use super::task_views::{ArtifactView, EventView, PlaceView, TaskView, UsageView};
use super::tasks::rfc3339;
use crate::drivers::custody_copies::inputs_to_copy;
use crate::drivers::members::KnownMembers;
use crate::drivers::negotiation::BoardTask;
use consensus::negotiation::{Actor, TaskEvent};
use cpi::task::TaskSpec;

/// A task as people see it.
pub fn task_view(task: &BoardTask, members: &KnownMembers) -> TaskView {
    let (record, custody, summary) = (&task.record, &task.custody, &task.summary);
    let name = serde_json::from_slice::<TaskSpec>(&record.document).map_or_else(|_| String::new(), |spec| spec.name);
    let place = custody.binding.as_ref().map(|binding| PlaceView {
        region: members.region(binding.provider),
        member: binding.provider.to_string(),
        pool: binding.target.pool.clone(),
        class: binding.target.class.clone(),
        variant: binding.target.variant,
        price_hour_micro: binding.price_hour_micro,
        currency: binding.currency.clone(),
    });
    // A result is shown once enough custodians hold its digest.
    let end = custody.end.as_ref().filter(|_| summary.state.is_ended());
    let outcome = end.and_then(|end| end.outcome.as_ref());
    let inputs = match inputs_to_copy(record) {
        Some(files) if files.is_empty() => "none",
        Some(_) if custody.custodians.len() > 1 => "copied",
        _ => "origin_only",
    };
    TaskView {
        id: record.task.to_string(),
        name,
        state: summary.state.as_str().to_owned(),
        reason: summary.reason.as_ref().map(Into::into),
        principal: record.principal.clone(),
        origin: members.region(custody.origin),
        custodians: custody.custodians.iter().map(|m| members.region(*m)).collect(),
        holder: members.region(custody.holder()),
        inputs_kept: inputs.to_owned(),
        place,
        fence: (custody.fence.attempt > 0).then(|| custody.fence.to_string()),
        runs: custody.runs,
        durability: task.durability.as_str().to_owned(),
        cancel_requested: custody.cancel.is_some(),
        submitted_at: rfc3339(record.submitted),
        started_at: summary.started.map(rfc3339),
        ended_at: summary.ended.map(rfc3339),
        decided_ms: summary.decided_ms,
        exit_code: outcome.and_then(|o| o.exit_code),
        signal: outcome.and_then(|o| o.signal),
        usage: outcome.map(|o| UsageView {
            wall_ms: o.wall_ms,
            cpu_ms: o.cpu_ms,
            memory_peak_bytes: o.memory_peak_bytes,
        }),
        artifacts: outcome.map_or_else(Vec::new, |o| {
            let view = |file: &consensus::negotiation::FileRef| ArtifactView {
                path: file.path.clone(),
                digest: file.digest.to_string(),
                size_bytes: file.size_bytes,
            };
            o.outputs.iter().map(view).collect()
        }),
    }
}

/// An event as people see it.
pub fn event_view(index: u64, event: &TaskEvent, members: &KnownMembers) -> EventView {
    let actor = match &event.actor {
        Actor::Principal(principal) => format!("principal:{principal}"),
        Actor::Origin(member) => format!("origin:{}", members.region(*member)),
        Actor::Provider(member) => format!("region:{}", members.region(*member)),
    };
    let kind = serde_json::to_value(event.kind).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default();
    EventView {
        index,
        task: event.task.to_string(),
        seq: event.seq,
        at: rfc3339(event.at),
        actor,
        kind,
        state: event.state.as_str().to_owned(),
        reason: event.reason.as_ref().map(Into::into),
        fence: event.fence.map(|fence| fence.to_string()),
        region: event.member.map(|member| members.region(member)),
        pool: event.target.as_ref().map(|target| target.pool.clone()),
        detail: event.detail.clone(),
    }
}
