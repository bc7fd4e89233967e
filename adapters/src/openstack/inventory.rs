//! The cloud's hosts as servers and classes, read from Placement.
//!
//! Three requests tell everything in the common case: all providers, and the candidates for one processor (shared, then
//! pinned), whose summaries have capacity and use of each whole tree. Hosts without a free processor are in no candidate:
//! they are asked one by one, and again only when their generation changed, which it does with every allocation.

use super::cloud::{Cloud, CloudError};
use super::keystone::Service;
use super::parts::Parts;
use crate::resources::{InventoryEvent, Server, Volume};
use cpi::resource::{ChipModel, ComputeClass, Firmness, PoolSpec, PriceList, Quantity, ServerClass};
use futures::stream::{StreamExt as _, TryStreamExt as _};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Requests at once for hosts that are full.
const FULL_AT_ONCE: usize = 8;
/// The trait of hosts whose compute service was disabled.
const DISABLED: &str = "COMPUTE_STATUS_DISABLED";
/// Candidates to tell; a host is one.
const CANDIDATES_MAX: usize = 100_000;

#[derive(Deserialize)]
struct Providers {
    resource_providers: Vec<Provider>,
}

#[derive(Deserialize)]
struct Provider {
    uuid: String,
    name: String,
    generation: u64,
    root_provider_uuid: Option<String>,
}

#[derive(Deserialize)]
struct Candidates {
    provider_summaries: BTreeMap<String, Summary>,
}

/// What one provider has and what of it is used.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Summary {
    resources: BTreeMap<String, Use>,
    #[serde(default)]
    traits: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
struct Use {
    capacity: u64,
    used: u64,
}

#[derive(Deserialize)]
struct Inventories {
    inventories: BTreeMap<String, InventoryOf>,
}

#[derive(Deserialize)]
struct InventoryOf {
    total: u64,
    reserved: u64,
    allocation_ratio: f64,
}

#[derive(Deserialize)]
struct Usages {
    usages: BTreeMap<String, u64>,
}

#[derive(Deserialize)]
struct Traits {
    traits: Vec<String>,
}

#[derive(Deserialize)]
struct VolumePools {
    pools: Vec<VolumePool>,
}

#[derive(Deserialize)]
struct VolumePool {
    name: String,
    #[serde(default)]
    capabilities: BTreeMap<String, serde_json::Value>,
}

/// The hosts at one moment.
#[derive(Default)]
pub(super) struct Hosts {
    pub(super) servers: BTreeMap<String, Server>,
    pub(super) volumes: BTreeMap<String, Volume>,
    pub(super) pools: Vec<PoolSpec>,
    /// What cannot be told, and why.
    pub(super) notes: Vec<String>,
}

/// What is kept between two readings; all of it can be read again.
#[derive(Default)]
struct Kept {
    /// Providers in no candidate, by id, with the generation at which they were asked.
    full: BTreeMap<String, (u64, Arc<Summary>)>,
    last: Option<(Instant, Arc<Hosts>)>,
}

/// Reads the hosts of a cloud.
pub(super) struct Inventory {
    cloud: Arc<Cloud>,
    declared: Vec<PoolSpec>,
    kept: Mutex<Kept>,
    reading: tokio::sync::Mutex<()>,
}

impl Inventory {
    pub(super) fn new(cloud: Arc<Cloud>, declared: Vec<PoolSpec>) -> Self {
        Self { cloud, declared, kept: Mutex::default(), reading: tokio::sync::Mutex::default() }
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The hosts, read at most `age` ago.
    pub(super) async fn hosts(&self, age: Duration) -> Result<Arc<Hosts>, CloudError> {
        let asked = Instant::now();
        let _one_at_a_time = self.reading.lock().await;
        // what was read while this call waited is as fresh as what it would read
        let fresh = |at: Instant| at >= asked || at.elapsed() < age;
        if let Some((at, hosts)) = &self.kept().last
            && fresh(*at)
        {
            return Ok(Arc::clone(hosts));
        }
        let at = Instant::now();
        let hosts = Arc::new(self.read().await?);
        self.kept().last = Some((at, Arc::clone(&hosts)));
        Ok(hosts)
    }

    /// What could not be told when the hosts were read last.
    pub(super) fn notes(&self) -> Vec<String> {
        self.kept().last.as_ref().map(|(_, hosts)| hosts.notes.clone()).unwrap_or_default()
    }

    async fn read(&self) -> Result<Hosts, CloudError> {
        let listed: Providers = self.cloud.get(Service::Placement, "/resource_providers").await?;
        let mut known: BTreeMap<String, Arc<Summary>> = BTreeMap::new();
        for class in ["VCPU", "PCPU"] {
            let path = format!("/allocation_candidates?resources={class}:1&limit={CANDIDATES_MAX}");
            match self.cloud.get::<Candidates>(Service::Placement, &path).await {
                Ok(told) => {
                    known.extend(told.provider_summaries.into_iter().map(|(id, one)| (id, Arc::new(one))));
                }
                // a cloud without such a class says that the query is wrong
                Err(error) if error.is_status(400) => {}
                Err(error) => return Err(error),
            }
        }
        let old = std::mem::take(&mut self.kept().full);
        let full: Vec<(String, u64, Option<Arc<Summary>>)> = listed
            .resource_providers
            .iter()
            .filter(|provider| !known.contains_key(&provider.uuid))
            .map(|provider| {
                let kept = old.get(&provider.uuid).filter(|(generation, _)| *generation == provider.generation);
                (provider.uuid.clone(), provider.generation, kept.map(|(_, summary)| Arc::clone(summary)))
            })
            .collect();
        let full: Vec<(String, u64, Arc<Summary>)> = futures::stream::iter(full)
            .map(|(id, generation, kept)| async move {
                let summary = match kept {
                    Some(summary) => summary,
                    None => Arc::new(self.summary(&id).await?),
                };
                Ok::<_, CloudError>((id, generation, summary))
            })
            .buffer_unordered(FULL_AT_ONCE)
            .try_collect()
            .await?;
        for (id, generation, summary) in full {
            self.kept().full.insert(id.clone(), (generation, Arc::clone(&summary)));
            known.insert(id, summary);
        }
        let mut hosts = self.told(&listed.resource_providers, &known);
        self.volumes(&mut hosts).await;
        Ok(hosts)
    }

    /// One provider that is in no candidate. One that went away in the meantime has nothing.
    async fn summary(&self, id: &str) -> Result<Summary, CloudError> {
        let at = format!("/resource_providers/{id}");
        let inventories = self.cloud.find::<Inventories>(Service::Placement, &format!("{at}/inventories")).await?;
        let usages = self.cloud.find::<Usages>(Service::Placement, &format!("{at}/usages")).await?;
        let traits = self.cloud.find::<Traits>(Service::Placement, &format!("{at}/traits")).await?;
        let usages = usages.map(|told| told.usages).unwrap_or_default();
        let resources = inventories.map(|told| told.inventories).unwrap_or_default().into_iter().map(|(class, of)| {
            let used = usages.get(&class).copied().unwrap_or(0);
            // Placement's own formula, which cuts the fraction off
            let capacity = (of.total.saturating_sub(of.reserved) as f64 * of.allocation_ratio) as u64;
            (class, Use { capacity, used })
        });
        Ok(Summary { resources: resources.collect(), traits: traits.map(|told| told.traits).unwrap_or_default() })
    }

    fn told(&self, providers: &[Provider], known: &BTreeMap<String, Arc<Summary>>) -> Hosts {
        let mut trees: BTreeMap<&str, Vec<&Provider>> = BTreeMap::new();
        for provider in providers {
            trees.entry(provider.root_provider_uuid.as_deref().unwrap_or(&provider.uuid)).or_default().push(provider);
        }
        let mut hosts = Hosts { pools: self.declared.clone(), ..Hosts::default() };
        for pool in &mut hosts.pools {
            pool.classes.iter_mut().for_each(|class| class.servers = 0);
        }
        if hosts.pools.is_empty() {
            hosts.pools.push(self.default_pool());
        }
        let mut notes = BTreeSet::new();
        for (root, tree) in trees {
            let Some(name) = tree.iter().find(|provider| provider.uuid == root).map(|provider| &provider.name) else {
                continue;
            };
            let summaries: Vec<&Summary> =
                tree.iter().filter_map(|one| known.get(&one.uuid).map(Arc::as_ref)).collect();
            // pools of storage or of addresses that are shared are providers as well
            if !summaries.iter().any(|one| one.resources.contains_key("VCPU") || one.resources.contains_key("PCPU")) {
                continue;
            }
            match self.host(name, &summaries) {
                Ok((total, free, chip, disabled)) => self.place(&mut hosts, name, total, free, chip, disabled),
                Err(why) => drop(notes.insert(format!("host {name} is left out: {why}"))),
            }
        }
        hosts.notes = notes.into_iter().collect();
        hosts
    }

    fn host(&self, name: &str, tree: &[&Summary]) -> Result<(Quantity, Quantity, Option<ChipModel>, bool), String> {
        let (mut total, mut used) = (Parts::default(), Parts::default());
        for one in tree {
            let part = |of: fn(&Use) -> u64| {
                let resources = one.resources.iter().map(|(class, amount)| (class.clone(), of(amount))).collect();
                Parts::of_resources(&self.cloud.rules, &resources, &one.traits).map_err(|error| error.to_string())
            };
            total.add(&part(|amount| amount.capacity)?);
            used.add(&part(|amount| amount.used)?);
        }
        let accelerators = total.accelerators().map_err(|error| error.to_string())?;
        let chip = match &accelerators {
            None => None,
            Some(found) => Some(found.chip().ok_or_else(|| {
                format!("its {} have no model: expected a trait as the rules name it", found.kind.code())
            })?),
        };
        let (total, used) = (total.quantity(), used.quantity());
        let free = Quantity {
            cpu_milli: total.cpu_milli.saturating_sub(used.cpu_milli),
            memory_bytes: total.memory_bytes.saturating_sub(used.memory_bytes),
            storage_bytes: total.storage_bytes.saturating_sub(used.storage_bytes),
            chip_milli: total.chip_milli.saturating_sub(used.chip_milli),
        };
        tracing::trace!(name, ?total, ?free, "host");
        Ok((total, free, chip, tree.iter().any(|one| one.traits.iter().any(|name| name == DISABLED))))
    }

    /// Puts a host into the declared class that is like it, or into one of its own in the first pool.
    fn place(
        &self,
        hosts: &mut Hosts,
        name: &str,
        total: Quantity,
        free: Quantity,
        chip: Option<ChipModel>,
        disabled: bool,
    ) {
        let like = |class: &ServerClass| class.per_server == total && class.chip == chip;
        let found = hosts.pools.iter().position(|pool| pool.classes.iter().any(like));
        let pool = &mut hosts.pools[found.unwrap_or(0)];
        if found.is_none() {
            pool.classes.push(ServerClass {
                name: class_name(&total, chip.as_ref()),
                cpu_model: self.cloud.config.cpu_model.clone(),
                chip: chip.clone(),
                per_server: total,
                servers: 0,
            });
        }
        let Some(class) = pool.classes.iter_mut().find(|class| like(class)) else { return };
        class.servers = class.servers.saturating_add(1);
        let note = match (disabled, pool.cordoned) {
            (true, _) => "its compute service is disabled",
            (false, true) => "the pool is cordoned",
            (false, false) => "",
        };
        let server = Server {
            id: name.to_owned(),
            pool: pool.name.clone(),
            class: class.name.clone(),
            total,
            free,
            chip,
            partitions: Vec::new(),
            topology: Vec::new(),
            schedulable: note.is_empty(),
            note: note.to_owned(),
        };
        hosts.servers.insert(name.to_owned(), server);
    }

    fn default_pool(&self) -> PoolSpec {
        PoolSpec {
            name: self.cloud.config.site.clone(),
            backend: super::backend::KIND.to_owned(),
            class: ComputeClass::General,
            identifiers: Vec::new(),
            classes: Vec::new(),
            firmness: Firmness::Estimate,
            price: PriceList::default(),
            carbon_g_per_kwh: None,
            cordoned: false,
        }
    }

    /// Cinder's pools, where there is Cinder and the credential may ask.
    async fn volumes(&self, hosts: &mut Hosts) {
        match self.cloud.get::<VolumePools>(Service::Volume, "/scheduler-stats/get_pools?detail=true").await {
            Ok(told) => {
                for pool in told.pools {
                    // a backend without bounds says "infinite", one that does not know "unknown"
                    let gib = |name: &str| {
                        pool.capabilities.get(name).and_then(serde_json::Value::as_f64).unwrap_or(0.0).max(0.0)
                    };
                    let bytes = |name: &str| (gib(name) * 1_073_741_824.0) as u64;
                    let class = pool.capabilities.get("volume_backend_name").and_then(|name| name.as_str());
                    let volume = Volume {
                        id: pool.name.clone(),
                        pool: hosts.pools[0].name.clone(),
                        class: class.unwrap_or_default().to_owned(),
                        size_bytes: bytes("total_capacity_gb"),
                        free_bytes: bytes("free_capacity_gb"),
                    };
                    hosts.volumes.insert(pool.name, volume);
                }
            }
            Err(CloudError::NoService(_)) => {}
            Err(error) => hosts.notes.push(format!("volumes are not told: {error}")),
        }
    }

    /// Tells all servers and volumes, then with `follow` each change, until nobody listens.
    pub(super) fn tell(self: Arc<Self>, first: Arc<Hosts>, follow: bool) -> mpsc::Receiver<InventoryEvent> {
        let (sender, receiver) = mpsc::channel(64);
        tokio::spawn(async move {
            let every = Duration::from_millis(self.cloud.config.poll_ms);
            let (mut told, mut now) = (Arc::new(Hosts::default()), first);
            let mut synced = false;
            loop {
                for event in changes(&told, &now) {
                    if sender.send(event).await.is_err() {
                        return;
                    }
                }
                told = now;
                if !std::mem::replace(&mut synced, true) && sender.send(InventoryEvent::Synced).await.is_err() {
                    return;
                }
                if !follow {
                    return;
                }
                now = loop {
                    tokio::select! {
                        () = tokio::time::sleep(every) => {}
                        () = sender.closed() => return,
                    }
                    match self.hosts(every / 2).await {
                        Ok(hosts) => break hosts,
                        Err(error) => tracing::warn!(%error, "the inventory cannot be read; it is tried again"),
                    }
                };
            }
        });
        receiver
    }
}

/// What is new or different in `now`, and what is no more.
fn changes<'a>(told: &'a Hosts, now: &'a Hosts) -> impl Iterator<Item = InventoryEvent> + 'a {
    let servers = now.servers.iter().filter(|(id, server)| told.servers.get(*id) != Some(server));
    let volumes = now.volumes.iter().filter(|(id, volume)| told.volumes.get(*id) != Some(volume));
    let gone = told.servers.keys().filter(|id| !now.servers.contains_key(*id));
    let gone = gone.chain(told.volumes.keys().filter(|id| !now.volumes.contains_key(*id)));
    servers
        .map(|(_, server)| InventoryEvent::Server(server.clone()))
        .chain(volumes.map(|(_, volume)| InventoryEvent::Volume(volume.clone())))
        .chain(gone.map(|id| InventoryEvent::Gone(id.clone())))
}

/// For example `c256-m63-d4096-8xNVA100S80`: cores, GiB of memory and of disk, chips.
fn class_name(total: &Quantity, chip: Option<&ChipModel>) -> String {
    let gib = |bytes: u64| bytes >> 30;
    let mut name = format!("c{}-m{}-d{}", total.cpu_milli / 1000, gib(total.memory_bytes), gib(total.storage_bytes));
    if let Some(chip) = chip {
        name.push_str(&format!("-{}x{}", total.chip_milli / 1000, chip.model));
    }
    name
}
