//! A run request as a Job, by the rules; and whether the namespace's quotas leave room for it.

use super::facts::QuotaFacts;
use super::inventory::Class;
use super::{quantity, tag};
use crate::contract::{AdapterError, RunRequest};
use crate::rules::{Direction, Rules};
use crate::runner::DeskTicket;
use cpi::reason::{Reason, ReasonCode};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What a Job is made with beside the request.
pub(super) struct Making<'a> {
    pub rules: &'a Rules,
    pub namespace: &'a str,
    pub class: Option<&'a Class>,
    /// For requests without an image.
    pub image: Option<&'a str>,
    /// The server's version, `20` of 1.20.
    pub minor: u32,
    pub tolerations: &'a [Value],
    /// Volumes and mounts that every pod gets.
    pub work: &'a Work,
    /// The ticket, and where the runner lies in the pod.
    pub runner: Option<(&'a DeskTicket, &'a str)>,
}

/// What every pod is given beside its command, as Kubernetes writes it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Work {
    volumes: Vec<Value>,
    mounts: Vec<Value>,
    /// Working directory.
    path: Option<String>,
}

/// How many devices of which profile carry `chip_milli` thousandths.
fn devices(class: &Class, chip_milli: u64) -> Option<(u64, Option<&str>)> {
    if class.parts.is_empty() {
        return chip_milli.is_multiple_of(1000).then_some((chip_milli / 1000, None));
    }
    // the fewest parts that are exactly as much
    let exact = class.parts.iter().filter(|(_, each)| **each > 0 && chip_milli.is_multiple_of(u64::from(**each)));
    let (profile, each) = exact.max_by_key(|(_, each)| **each)?;
    Some((chip_milli / u64::from(*each), Some(profile)))
}

/// The Job of a run.
///
/// # Errors
/// What the cluster cannot give, or what the rules do not map.
pub(super) fn job(request: &RunRequest, making: &Making<'_>) -> Result<Value, AdapterError> {
    let program = request.command.first();
    if program.is_some_and(String::is_empty) || (program.is_none() && request.image.is_none()) {
        return Err(AdapterError::fatal(ReasonCode::InvalidTask, "command: expected a program"));
    }
    let image = request.image.as_deref().or(making.image).ok_or_else(|| {
        AdapterError::fatal(ReasonCode::InvalidTask, "image: the pool has no image for tasks that name none")
    })?;
    let mut env = request.env.clone();
    env.insert("CAUSEWAY_TASK".to_owned(), request.key.task.to_string());
    env.insert("CAUSEWAY_FENCE".to_owned(), request.key.fence.to_string());
    let mut command = &request.command;
    let runner;
    if let Some((desk, program)) = making.runner {
        env.extend(desk.variables());
        // the command itself travels with the order
        runner = vec![program.to_owned()];
        command = &runner;
    }
    let mut source = json!({
        "tag": tag::tag(&request.key),
        "task": request.key.task.to_string(),
        "fence": request.key.fence.to_string(),
        "namespace": making.namespace,
        "pool": request.pool,
        "class": request.class,
        "class_labelled": making.class.is_some_and(|class| class.labelled),
        "image": image,
        "command": command,
        "need": request.need,
        "max_runtime_ms": request.max_runtime_ms,
        "server": { "minor": making.minor },
        "tolerations": making.tolerations,
    });
    if !making.work.volumes.is_empty() || making.work.path.is_some() {
        let Work { volumes, mounts, path } = making.work;
        source["work"] = json!({ "volumes": volumes, "mounts": mounts, "path": path });
    }
    if request.need.chip_milli > 0 {
        let class = making.class.ok_or_else(|| {
            let why = format!("class {} of pool {} has no node now", request.class, request.pool);
            AdapterError::passing(ReasonCode::NoCapacityNow, why)
        })?;
        let chip = class.chip.as_ref().ok_or_else(|| {
            let why = format!("class {} of pool {} has no chips", request.class, request.pool);
            AdapterError::fatal(ReasonCode::ChipUnavailable, why)
        })?;
        let (count, profile) = devices(class, request.need.chip_milli).ok_or_else(|| {
            let parts: Vec<String> = class.parts.iter().map(|(name, each)| format!("{name} ({each})")).collect();
            let has = if parts.is_empty() { "whole chips only".to_owned() } else { parts.join(", ") };
            let why = format!("{} thousandths of a chip: class {} has {has}", request.need.chip_milli, request.class);
            AdapterError::fatal(ReasonCode::BackendUnsupported, why)
        })?;
        env.insert("CAUSEWAY_CHIPS".to_owned(), request.need.chip_milli.to_string());
        source["device"] = json!({ "model": chip.model, "count": count });
        if let Some(profile) = profile {
            source["device"]["profile"] = json!(profile);
        }
    }
    source["env"] = json!(env);
    making
        .rules
        .convert(Direction::South, "submit", &source)
        .map_err(|error| AdapterError::fatal(ReasonCode::InvalidTask, error.to_string()))
}

/// What a Job asks of each quota name.
fn asked(job: &Value) -> BTreeMap<String, u64> {
    let mut asked = BTreeMap::from([
        ("pods".to_owned(), 1000),
        ("count/pods".to_owned(), 1000),
        ("count/jobs.batch".to_owned(), 1000),
    ]);
    let containers = job["spec"]["template"]["spec"]["containers"].as_array();
    for container in containers.into_iter().flatten() {
        for kind in ["limits", "requests"] {
            for (name, text) in container["resources"][kind].as_object().into_iter().flatten() {
                let Some(milli) = text.as_str().and_then(quantity::milli) else { continue };
                *asked.entry(format!("{kind}.{name}")).or_default() += milli;
                if kind == "requests" {
                    *asked.entry(name.clone()).or_default() += milli;
                } else if name.contains('/') {
                    // extended resources are asked for by their limits
                    *asked.entry(format!("requests.{name}")).or_default() += milli;
                }
            }
        }
    }
    asked
}

/// Whether the namespace's quotas leave room.
///
/// # Errors
/// The first quota that does not: retryable where it would with nothing used.
pub(super) fn room(job: &Value, quotas: &BTreeMap<String, QuotaFacts>) -> Result<(), AdapterError> {
    let asked = asked(job);
    for (quota, facts) in quotas.iter().filter(|(_, facts)| !facts.scoped) {
        for (name, hard) in &facts.hard {
            let (Some(hard_milli), Some(asked)) = (quantity::milli(hard), asked.get(name)) else { continue };
            let used = facts.used.get(name).map_or("0", String::as_str);
            let after = quantity::milli(used).unwrap_or(0).saturating_add(*asked);
            if after > hard_milli {
                let why = format!("quota {quota}: {name}: {used} of {hard} used, {} more asked", asked.div_ceil(1000));
                let reason = Reason::new(ReasonCode::QuotaExceeded, why);
                return Err(AdapterError { retryable: *asked <= hard_milli, reason });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use cpi::resource::{ChipKind, ChipModel, Quantity, ServerClass};

    fn class(parts: &[(&str, u32)]) -> Class {
        let chip = ChipModel { model: "NVA100S80".to_owned(), kind: ChipKind::Gpu };
        Class {
            chip: Some(chip.clone()),
            parts: parts.iter().map(|(name, each)| ((*name).to_owned(), *each)).collect(),
            labelled: false,
            spec: ServerClass {
                name: "c".to_owned(),
                cpu_model: String::new(),
                chip: Some(chip),
                per_server: Quantity::default(),
                servers: 1,
            },
        }
    }

    #[test]
    fn thousandths_become_whole_devices_or_exact_parts() {
        assert_eq!(devices(&class(&[]), 3000), Some((3, None)));
        assert_eq!(devices(&class(&[]), 143), None);
        let divided = class(&[("1g.10gb", 143), ("2g.20gb", 286)]);
        assert_eq!(devices(&divided, 286), Some((1, Some("2g.20gb"))));
        assert_eq!(devices(&divided, 143), Some((1, Some("1g.10gb"))));
        assert_eq!(devices(&divided, 429), Some((3, Some("1g.10gb"))));
        assert_eq!(devices(&divided, 1000), None);
    }

    #[test]
    fn a_quota_that_is_used_up_is_named() {
        let job = json!({ "spec": { "template": { "spec": { "containers": [{ "resources": {
            "requests": { "cpu": "1500m", "memory": "1048576" },
            "limits": { "memory": "1048576", "nvidia.com/gpu": "2" }
        } }] } } } });
        let quota = |hard: &[(&str, &str)], used: &[(&str, &str)]| {
            let texts =
                |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
            BTreeMap::from([("q".to_owned(), QuotaFacts { hard: texts(hard), used: texts(used), scoped: false })])
        };
        room(&job, &quota(&[("requests.cpu", "2"), ("requests.nvidia.com/gpu", "2")], &[("requests.cpu", "500m")]))
            .unwrap();
        let full = room(&job, &quota(&[("requests.cpu", "2")], &[("requests.cpu", "501m")])).unwrap_err();
        assert!(full.retryable && full.reason.code == ReasonCode::QuotaExceeded, "{full:?}");
        let never = room(&job, &quota(&[("requests.nvidia.com/gpu", "1")], &[])).unwrap_err();
        assert!(!never.retryable && never.reason.detail.contains("requests.nvidia.com/gpu: 0 of 1"), "{never:?}");
        assert!(room(&job, &quota(&[("count/jobs.batch", "5")], &[("count/jobs.batch", "5")])).is_err());
        room(&job, &quota(&[("services", "0")], &[])).unwrap();
    }
}
