//! What is kept of the cluster's objects: the few facts that runs and the inventory are made of.

use super::{quantity, tag};
use crate::contract::RunKey;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Container, Node, PersistentVolumeClaim, Pod, ResourceQuota};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Amounts by resource: `cpu` in thousandths, everything else in units.
pub(super) type Amounts = BTreeMap<String, u64>;

/// A Job of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct JobFacts {
    pub key: RunKey,
    pub uid: String,
    pub created_ms: i64,
    /// Why it was told to stop: code and facts.
    pub stop: Option<(String, String)>,
    /// Whether the Job controller has seen it, and counts no pod of it as active.
    pub idle: bool,
    pub complete: bool,
    /// The controller's reason and message.
    pub failed: Option<(String, String)>,
}

/// A pod: of everybody for what it takes from its node, of ours for the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PodFacts {
    pub name: String,
    pub uid: String,
    /// The Job that made it, where it is ours.
    pub job: Option<String>,
    pub node: Option<String>,
    pub requests: Amounts,
    pub claims: Vec<String>,
    pub phase: String,
    pub reason: Option<String>,
    pub message: Option<String>,
    pub deleting: bool,
    pub created_ms: i64,
    pub unschedulable: Option<String>,
    pub container: ContainerFacts,
}

/// The container of a run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct ContainerFacts {
    pub waiting: Option<(String, String)>,
    pub running: bool,
    /// Exit code, reason, message.
    pub terminated: Option<(i32, String, String)>,
    pub started_ms: Option<i64>,
    pub finished_ms: Option<i64>,
}

impl PodFacts {
    pub fn over(&self) -> bool {
        matches!(self.phase.as_str(), "Succeeded" | "Failed")
    }
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NodeFacts {
    pub labels: BTreeMap<String, String>,
    pub allocatable: Amounts,
    pub ready: bool,
    pub cordoned: bool,
    pub taints: Vec<String>,
}

/// A bound claim on storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ClaimFacts {
    pub class: Option<String>,
    pub size_bytes: u64,
}

/// A quota of the namespace: hard and used, as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct QuotaFacts {
    pub hard: BTreeMap<String, String>,
    pub used: BTreeMap<String, String>,
    /// Whether it holds for some pods only.
    pub scoped: bool,
}

fn ms(time: &Option<Time>) -> Option<i64> {
    time.as_ref().map(|time| time.0.as_millisecond())
}

fn amounts(of: Option<&BTreeMap<String, Text>>) -> Amounts {
    let read = |(name, text): (&String, &Text)| {
        let amount = if name == "cpu" { quantity::milli(&text.0) } else { quantity::units(&text.0) };
        // what cannot be read is not there
        Some((name.clone(), amount?))
    };
    of.into_iter().flatten().filter_map(read).collect()
}

fn add(to: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let sum = to.entry(name.clone()).or_default();
        *sum = sum.saturating_add(*amount);
    }
}

impl JobFacts {
    /// `None` where it is not ours.
    pub fn of(job: &Job) -> Option<Self> {
        let annotations = job.metadata.annotations.as_ref()?;
        let status = job.status.as_ref();
        let condition = |kind: &str| {
            let conditions = status.and_then(|status| status.conditions.as_ref());
            conditions.into_iter().flatten().find(|one| one.type_ == kind && one.status == "True")
        };
        let started = status.is_some_and(|status| status.start_time.is_some());
        let active = status.and_then(|status| status.active).unwrap_or(0);
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        Some(Self {
            key: tag::key_of(annotations)?,
            uid: job.metadata.uid.clone()?,
            created_ms: ms(&job.metadata.creation_timestamp).unwrap_or(0),
            stop: annotations.get(tag::STOP).map(|code| {
                let detail = annotations.get(tag::STOP_DETAIL).cloned().unwrap_or_default();
                (code.clone(), detail)
            }),
            idle: started && active == 0,
            complete: condition("Complete").is_some(),
            failed: condition("Failed").map(|one| (text(&one.reason), text(&one.message))),
        })
    }
}

impl PodFacts {
    pub fn of(pod: &Pod) -> Option<Self> {
        let spec = pod.spec.as_ref()?;
        let (meta, status) = (&pod.metadata, pod.status.as_ref());
        let ours =
            meta.labels.as_ref().and_then(|labels| labels.get(tag::MANAGED_BY)).is_some_and(|by| by == tag::CAUSEWAY);
        let job = meta.owner_references.iter().flatten().find(|owner| ours && owner.kind == "Job");
        let sum_of = |containers: &[Container]| {
            let mut sum = Amounts::new();
            for container in containers {
                let asked = container.resources.as_ref();
                let mut requests = amounts(asked.and_then(|asked| asked.limits.as_ref()));
                requests.extend(amounts(asked.and_then(|asked| asked.requests.as_ref())));
                add(&mut sum, &requests);
            }
            sum
        };
        let mut requests = sum_of(&spec.containers);
        for init in spec.init_containers.iter().flatten() {
            for (name, amount) in sum_of(std::slice::from_ref(init)) {
                let most = requests.entry(name).or_default();
                *most = amount.max(*most);
            }
        }
        add(&mut requests, &amounts(spec.overhead.as_ref()));
        let claims = spec.volumes.iter().flatten().filter_map(|volume| volume.persistent_volume_claim.as_ref());
        let unschedulable = status.and_then(|status| status.conditions.as_ref()).into_iter().flatten().find(|one| {
            one.type_ == "PodScheduled" && one.status == "False" && one.reason.as_deref() == Some("Unschedulable")
        });
        let container = status.and_then(|status| status.container_statuses.as_ref()).and_then(|all| all.first());
        Some(Self {
            name: meta.name.clone()?,
            uid: meta.uid.clone()?,
            job: job.map(|owner| owner.uid.clone()),
            node: spec.node_name.clone(),
            requests,
            claims: claims.map(|claim| claim.claim_name.clone()).collect(),
            phase: status.and_then(|status| status.phase.clone()).unwrap_or_default(),
            reason: status.and_then(|status| status.reason.clone()),
            message: status.and_then(|status| status.message.clone()),
            deleting: meta.deletion_timestamp.is_some(),
            created_ms: ms(&meta.creation_timestamp).unwrap_or(0),
            unschedulable: unschedulable.map(|one| one.message.clone().unwrap_or_default()),
            container: container.and_then(|one| one.state.as_ref()).map(ContainerFacts::of).unwrap_or_default(),
        })
    }
}

impl ContainerFacts {
    fn of(state: &k8s_openapi::api::core::v1::ContainerState) -> Self {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let ended = state.terminated.as_ref();
        let began = state.running.as_ref().and_then(|running| ms(&running.started_at));
        Self {
            waiting: state.waiting.as_ref().map(|waiting| (text(&waiting.reason), text(&waiting.message))),
            running: state.running.is_some(),
            terminated: ended.map(|ended| (ended.exit_code, text(&ended.reason), text(&ended.message))),
            started_ms: began.or_else(|| ended.and_then(|ended| ms(&ended.started_at))),
            finished_ms: ended.and_then(|ended| ms(&ended.finished_at)),
        }
    }
}

impl NodeFacts {
    pub fn of(node: &Node) -> Self {
        let (spec, status) = (node.spec.as_ref(), node.status.as_ref());
        let conditions = status.and_then(|status| status.conditions.as_ref());
        let taints = spec.and_then(|spec| spec.taints.as_ref()).into_iter().flatten();
        Self {
            labels: node.metadata.labels.clone().unwrap_or_default(),
            allocatable: amounts(status.and_then(|status| status.allocatable.as_ref())),
            ready: conditions.into_iter().flatten().any(|one| one.type_ == "Ready" && one.status == "True"),
            cordoned: spec.and_then(|spec| spec.unschedulable).unwrap_or(false),
            taints: taints
                .filter(|taint| taint.effect != "PreferNoSchedule")
                .map(|taint| format!("{}={}:{}", taint.key, taint.value.as_deref().unwrap_or(""), taint.effect))
                .collect(),
        }
    }
}

impl ClaimFacts {
    /// `None` while it is not bound.
    pub fn of(claim: &PersistentVolumeClaim) -> Option<Self> {
        let status = claim.status.as_ref().filter(|status| status.phase.as_deref() == Some("Bound"))?;
        Some(Self {
            class: claim.spec.as_ref().and_then(|spec| spec.storage_class_name.clone()),
            size_bytes: amounts(status.capacity.as_ref()).get("storage").copied()?,
        })
    }
}

impl QuotaFacts {
    pub fn of(quota: &ResourceQuota) -> Self {
        let texts = |of: Option<&BTreeMap<String, Text>>| {
            of.into_iter().flatten().map(|(name, text)| (name.clone(), text.0.clone())).collect()
        };
        let status = quota.status.as_ref();
        let spec = quota.spec.as_ref();
        Self {
            hard: texts(status.and_then(|status| status.hard.as_ref())),
            used: texts(status.and_then(|status| status.used.as_ref())),
            scoped: spec.is_some_and(|spec| spec.scopes.is_some() || spec.scope_selector.is_some()),
        }
    }
}

/// What the rules make a run's state of.
pub(super) fn source(job: &JobFacts, pod: Option<&PodFacts>, created: Option<&(String, String)>) -> Value {
    let pair = |(reason, message): &(String, String)| json!({ "reason": reason, "message": message });
    let mut source = json!({ "live": pod.is_some_and(|pod| !pod.over()), "idle": job.idle, "complete": job.complete });
    if let Some((code, detail)) = &job.stop {
        source["stop"] = json!({ "code": code, "detail": detail });
    }
    if let Some(failed) = &job.failed {
        source["failed"] = pair(failed);
    }
    if let Some(created) = created {
        source["created"] = pair(created);
    }
    let Some(pod) = pod else { return source };
    source["pod"] =
        json!({ "phase": pod.phase, "reason": pod.reason, "message": pod.message, "deleting": pod.deleting });
    source["running"] = json!(pod.container.running);
    if let Some(message) = &pod.unschedulable {
        source["unschedulable"] = json!({ "message": message });
    }
    if let Some(waiting) = &pod.container.waiting {
        source["waiting"] = pair(waiting);
    }
    if let Some((exit, reason, message)) = &pod.container.terminated {
        source["terminated"] = json!({ "exitCode": exit, "reason": reason, "message": message });
    }
    source
}
