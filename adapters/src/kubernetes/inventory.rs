//! Nodes as servers of pools and classes, with what is free on each.

use super::facts::{Amounts, NodeFacts};
use super::seen::Seen;
use crate::resources::{InventoryEvent, Partition, Server, Volume};
use crate::rules::{Direction, Rules};
use cpi::resource::{ChipModel, Firmness, PoolSpec, Quantity, ServerClass};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// A class as the cluster has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Class {
    pub chip: Option<ChipModel>,
    /// Parts that its chips are divided into: profile and thousandths; empty for whole chips.
    pub parts: BTreeMap<String, u32>,
    /// Whether all its nodes carry the class as a label.
    pub labelled: bool,
    pub spec: ServerClass,
}

/// The inventory at one moment.
#[derive(Debug, Default)]
pub(super) struct Inventory {
    pub servers: BTreeMap<String, Server>,
    pub volumes: BTreeMap<String, Volume>,
    /// By pool and class.
    pub classes: BTreeMap<(String, String), Class>,
    /// What could not be told, for the operator.
    pub notes: Vec<String>,
}

/// Devices of one node that the rules know.
#[derive(Default)]
struct Devices {
    chip: Option<ChipModel>,
    total_milli: u64,
    free_milli: u64,
    parts: Vec<Partition>,
    notes: Vec<String>,
}

fn devices(rules: &Rules, node: &NodeFacts, taken: &Amounts) -> Devices {
    let mut found = Devices::default();
    for (resource, total) in node.allocatable.iter().filter(|(name, total)| name.contains('/') && **total > 0) {
        let source = json!({ "resource": resource, "labels": node.labels });
        let said = match rules.convert(Direction::North, "device", &source) {
            Ok(said) => said,
            Err(error) => {
                found.notes.push(format!("{resource}: {error}"));
                continue;
            }
        };
        let chip: Option<ChipModel> = serde_json::from_value(said["chip"].clone()).ok();
        if chip.is_none() || found.chip.as_ref().is_some_and(|there| Some(there) != chip.as_ref()) {
            found.notes.push(format!("{resource}: a second kind of chip on one node is not told"));
            continue;
        }
        found.chip = chip;
        let each = said["chip_milli"].as_u64().unwrap_or(1000);
        let free = total.saturating_sub(taken.get(resource).copied().unwrap_or(0));
        found.total_milli = found.total_milli.saturating_add(total.saturating_mul(each));
        found.free_milli = found.free_milli.saturating_add(free.saturating_mul(each));
        if let Some(profile) = said["profile"].as_str() {
            let count = |of: u64| u32::try_from(of).unwrap_or(u32::MAX);
            found.parts.push(Partition {
                profile: profile.to_owned(),
                chip_milli: count(each),
                total: count(*total),
                free: count(free),
            });
        }
    }
    found
}

/// A node's server, and whether its class is a label. `None` where no pool wants it.
fn server(
    rules: &Rules,
    pools: &[PoolSpec],
    name: &str,
    node: &NodeFacts,
    taken: &Amounts,
) -> Result<(Server, bool, String), String> {
    // what the rules do not know is left to devices()
    let plain: BTreeMap<&String, &u64> = node.allocatable.iter().filter(|(name, _)| !name.contains('/')).collect();
    let source = json!({
        "ready": node.ready, "cordoned": node.cordoned, "taints": node.taints, "allocatable": plain, "labels": node.labels,
    });
    let said = rules.convert(Direction::North, "node", &source).map_err(|error| format!("node {name}: {error}"))?;
    let devices = devices(rules, node, taken);
    let amount = |of: &Value| of.as_u64().unwrap_or(0);
    let total = Quantity {
        cpu_milli: amount(&said["cpu_milli"]),
        memory_bytes: amount(&said["memory_bytes"]),
        storage_bytes: amount(&said["storage_bytes"]),
        chip_milli: devices.total_milli,
    };
    let left = |total: u64, resource: &str| total.saturating_sub(taken.get(resource).copied().unwrap_or(0));
    let free = Quantity {
        cpu_milli: left(total.cpu_milli, "cpu"),
        memory_bytes: left(total.memory_bytes, "memory"),
        storage_bytes: left(total.storage_bytes, "ephemeral-storage"),
        chip_milli: devices.free_milli,
    };
    let fits = |class: &ServerClass| class.chip == devices.chip && total.fits(&class.per_server);
    let wanted = said["pool"].as_str();
    let pool = match wanted {
        Some(wanted) => pools.iter().find(|pool| pool.name == wanted),
        None if pools.len() == 1 => pools.first(),
        None => pools.iter().find(|pool| pool.classes.iter().any(fits)),
    };
    let pool = pool.ok_or_else(|| format!("node {name}: no pool is for it (label causeway.network/pool)"))?;
    let labelled = said["class"].as_str();
    let class = match labelled {
        Some(class) => class.to_owned(),
        None if pool.classes.is_empty() => derived(&devices, &total),
        None => match pool.classes.iter().find(|class| fits(class)) {
            Some(class) => class.name.clone(),
            None => return Err(format!("node {name}: no class of pool {} is for it", pool.name)),
        },
    };
    let note = said["note"].as_str().unwrap_or_default();
    let mut topology: Vec<String> = serde_json::from_value(said["topology"].clone()).unwrap_or_default();
    topology.push(name.to_owned());
    let cpu_model = said["cpu_model"].as_str().unwrap_or_default().to_owned();
    let server = Server {
        id: name.to_owned(),
        pool: pool.name.clone(),
        class,
        total,
        free,
        chip: devices.chip,
        partitions: devices.parts,
        topology,
        schedulable: note.is_empty(),
        note: std::iter::once(note.to_owned())
            .filter(|note| !note.is_empty())
            .chain(devices.notes)
            .collect::<Vec<_>>()
            .join("; "),
    };
    Ok((server, labelled.is_some(), cpu_model))
}

/// The name of a class that nobody named.
fn derived(devices: &Devices, total: &Quantity) -> String {
    let shape = format!("{}c-{}g", total.cpu_milli / 1000, total.memory_bytes >> 30);
    match &devices.chip {
        Some(chip) => format!("{}-{}-{shape}", chip.model.to_lowercase(), devices.total_milli / 1000),
        None => format!("cpu-{shape}"),
    }
}

/// The inventory of what was seen.
pub(super) fn take(seen: &Seen, pools: &[PoolSpec]) -> Inventory {
    let mut taken: BTreeMap<&str, Amounts> = BTreeMap::new();
    let mut mounted: BTreeSet<&str> = BTreeSet::new();
    for pod in seen.pods.all.values().filter(|pod| !pod.over()) {
        if let Some(node) = &pod.node {
            let sum = taken.entry(node).or_default();
            for (name, amount) in &pod.requests {
                let all = sum.entry(name.clone()).or_default();
                *all = all.saturating_add(*amount);
            }
        }
        mounted.extend(pod.claims.iter().map(String::as_str));
    }
    let nothing = Amounts::new();
    let mut found = Inventory::default();
    for (name, node) in &seen.nodes.all {
        let (server, labelled, cpu_model) =
            match server(&seen.rules, pools, name, node, taken.get(name.as_str()).unwrap_or(&nothing)) {
                Ok(found) => found,
                Err(why) => {
                    found.notes.push(why);
                    continue;
                }
            };
        if !server.note.is_empty() {
            found.notes.push(format!("node {name}: {}", server.note));
        }
        let parts: BTreeMap<String, u32> =
            server.partitions.iter().map(|part| (part.profile.clone(), part.chip_milli)).collect();
        let class = found.classes.entry((server.pool.clone(), server.class.clone())).or_insert_with(|| Class {
            chip: server.chip.clone(),
            parts: parts.clone(),
            labelled: true,
            spec: ServerClass {
                name: server.class.clone(),
                cpu_model,
                chip: server.chip.clone(),
                per_server: server.total,
                servers: 0,
            },
        });
        class.labelled &= labelled;
        class.spec.servers += 1;
        // the least that each of them has
        let (least, has) = (&mut class.spec.per_server, &server.total);
        least.cpu_milli = least.cpu_milli.min(has.cpu_milli);
        least.memory_bytes = least.memory_bytes.min(has.memory_bytes);
        least.storage_bytes = least.storage_bytes.min(has.storage_bytes);
        least.chip_milli = least.chip_milli.min(has.chip_milli);
        found.servers.insert(name.clone(), server);
    }
    let pool = pools.first().map(|pool| pool.name.clone()).unwrap_or_default();
    for (name, claim) in &seen.claims.all {
        let source = json!({
            "name": name, "class": claim.class, "size_bytes": claim.size_bytes, "mounted": mounted.contains(name.as_str()),
        });
        match seen.rules.convert(Direction::North, "volume", &source) {
            Ok(said) => {
                let text = |of: &Value| of.as_str().unwrap_or_default().to_owned();
                let bytes = |of: &Value| of.as_u64().unwrap_or(0);
                let volume = Volume {
                    id: text(&said["id"]),
                    pool: pool.clone(),
                    class: text(&said["class"]),
                    size_bytes: bytes(&said["size_bytes"]),
                    free_bytes: bytes(&said["free_bytes"]),
                };
                found.volumes.insert(name.clone(), volume);
            }
            Err(error) => found.notes.push(format!("claim {name}: {error}")),
        }
    }
    found
}

impl Inventory {
    /// The pools as declared, with the classes that are there.
    pub fn pools(&self, declared: &[PoolSpec]) -> Vec<PoolSpec> {
        let with_classes = |pool: &PoolSpec| {
            let declared = |name: &str| pool.classes.iter().find(|class| class.name == name);
            let classes = self.classes.iter().filter(|((of, _), _)| *of == pool.name).map(|((_, name), class)| {
                let mut spec = class.spec.clone();
                if let Some(declared) = declared(name) {
                    spec.cpu_model.clone_from(&declared.cpu_model);
                }
                spec
            });
            PoolSpec {
                backend: "kubernetes".to_owned(),
                classes: classes.collect(),
                // others may share the cluster, and it reserves nothing
                firmness: Firmness::Estimate,
                ..pool.clone()
            }
        };
        declared.iter().map(with_classes).collect()
    }

    /// What has to be told to one who knows `before`.
    pub fn changes(&self, before: &Self) -> Vec<InventoryEvent> {
        let mut changes = Vec::new();
        for (id, server) in &self.servers {
            if before.servers.get(id) != Some(server) {
                changes.push(InventoryEvent::Server(server.clone()));
            }
        }
        for (id, volume) in &self.volumes {
            if before.volumes.get(id) != Some(volume) {
                changes.push(InventoryEvent::Volume(volume.clone()));
            }
        }
        let gone_servers = before.servers.keys().filter(|id| !self.servers.contains_key(*id));
        let gone_volumes = before.volumes.keys().filter(|id| !self.volumes.contains_key(*id));
        changes.extend(gone_servers.chain(gone_volumes).cloned().map(InventoryEvent::Gone));
        changes
    }
}
