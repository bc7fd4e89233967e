//! Hosts and datastores as servers and volumes, and machines that are made for themselves.

use super::adapter::{CHIPS, Machine, Make, STORAGE, VmwareAdapter};
use super::vim::{Object, extra};
use crate::contract::AdapterError;
use crate::resources::{
    InventoryEvent, PowerAction, ProvisionRequest, Resource, ResourceState, ResourceTag, Server, Volume,
};
use cpi::reason::ReasonCode;
use cpi::resource::{ChipModel, PoolSpec, Quantity, ServerClass};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::sync::mpsc;

/// Events that a slow reader may be behind before the vCenter is asked no further.
const QUEUE: usize = 64;

fn machine_tag(tag: ResourceTag) -> String {
    format!("causeway-{tag}")
}

/// A reference in a list property.
fn references(object: &Object, name: &str) -> Vec<String> {
    object.properties.get(name).map_or_else(Vec::new, |list| list.children.iter().map(|one| one.text.clone()).collect())
}

impl VmwareAdapter {
    /// What the operator declared of a class's chips: the vCenter does not say which model a device is.
    fn declared(&self, pool: &str, class: &str) -> (Option<ChipModel>, u64, String) {
        let pool = self.pools.iter().find(|known| known.name == pool);
        let class = pool.and_then(|pool| pool.classes.iter().find(|known| known.name == class));
        class.map_or_else(
            || (None, 0, String::new()),
            |class| (class.chip.clone(), class.per_server.chip_milli, class.cpu_model.clone()),
        )
    }

    /// Servers and volumes by id.
    async fn look(&self) -> Result<BTreeMap<String, InventoryEvent>, AdapterError> {
        let failed = |error| self.refusal(error);
        let clusters = self.soap.all("ClusterComputeResource", &["name", "host", "datastore"]).await.map_err(failed)?;
        let host = [
            "name",
            "summary.hardware.numCpuCores",
            "summary.hardware.memorySize",
            "runtime.connectionState",
            "runtime.inMaintenanceMode",
        ];
        let hosts = self.soap.all("HostSystem", &host).await.map_err(failed)?;
        let machine = ["runtime.powerState", "runtime.host", "config.hardware.numCPU", "config.hardware.memoryMB"];
        let machines = self.soap.all("VirtualMachine", &machine).await.map_err(failed)?;
        let store = ["name", "summary.type", "summary.capacity", "summary.freeSpace"];
        let stores = self.soap.all("Datastore", &store).await.map_err(failed)?;
        let mut taken: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for machine in machines.iter().filter(|machine| machine.text("runtime.powerState") == "poweredOn") {
            let of = taken.entry(machine.text("runtime.host")).or_default();
            of.0 += machine.number("config.hardware.numCPU") * 1000;
            of.1 += machine.number("config.hardware.memoryMB") << 20;
        }
        let mut now = BTreeMap::new();
        for class in &self.config.classes {
            let Some(cluster) = clusters.iter().find(|cluster| cluster.text("name") == class.cluster) else { continue };
            let members: BTreeSet<String> = references(cluster, "host").into_iter().collect();
            let (chip, chip_milli, _) = self.declared(&class.pool, &class.class);
            for host in hosts.iter().filter(|host| members.contains(&host.id)) {
                let total = Quantity {
                    cpu_milli: host.number("summary.hardware.numCpuCores") * 1000,
                    memory_bytes: host.number("summary.hardware.memorySize"),
                    storage_bytes: 0,
                    chip_milli,
                };
                let (cpu, memory) = taken.get(host.id.as_str()).copied().unwrap_or_default();
                let free = Quantity {
                    cpu_milli: total.cpu_milli.saturating_sub(cpu),
                    memory_bytes: total.memory_bytes.saturating_sub(memory),
                    ..total
                };
                let connected = host.text("runtime.connectionState") == "connected";
                let maintained = host.text("runtime.inMaintenanceMode") == "true";
                let note = match (connected, maintained) {
                    (false, _) => format!("the host is {}", host.text("runtime.connectionState")),
                    (true, true) => "the host is in maintenance mode".to_owned(),
                    (true, false) => String::new(),
                };
                let server = Server {
                    id: host.id.clone(),
                    pool: class.pool.clone(),
                    class: class.class.clone(),
                    total,
                    free,
                    chip: chip.clone(),
                    partitions: Vec::new(),
                    topology: vec![class.cluster.clone(), host.text("name").to_owned()],
                    schedulable: note.is_empty(),
                    note,
                };
                now.insert(host.id.clone(), InventoryEvent::Server(server));
            }
            let shared: BTreeSet<String> = references(cluster, "datastore").into_iter().collect();
            for store in stores.iter().filter(|store| shared.contains(&store.id)) {
                let volume = Volume {
                    id: store.id.clone(),
                    pool: class.pool.clone(),
                    class: store.text("summary.type").to_owned(),
                    size_bytes: store.number("summary.capacity"),
                    free_bytes: store.number("summary.freeSpace"),
                };
                now.insert(store.id.clone(), InventoryEvent::Volume(volume));
            }
        }
        Ok(now)
    }

    /// The pools with the classes that the clusters make.
    pub(super) async fn discovered_pools(&self) -> Result<Vec<PoolSpec>, AdapterError> {
        let now = self.look().await?;
        let mut pools = self.pools.clone();
        for pool in &mut pools {
            pool.classes.clear();
            for class in self.config.classes.iter().filter(|class| class.pool == pool.name) {
                let servers: Vec<&Server> = now
                    .values()
                    .filter_map(|event| match event {
                        InventoryEvent::Server(server) => Some(server),
                        _ => None,
                    })
                    .filter(|server| server.pool == class.pool && server.class == class.class)
                    .collect();
                // hosts of a cluster may differ: what each of them has
                let Some(per_server) = servers.iter().map(|server| server.total).reduce(|a, b| Quantity {
                    cpu_milli: a.cpu_milli.min(b.cpu_milli),
                    memory_bytes: a.memory_bytes.min(b.memory_bytes),
                    storage_bytes: a.storage_bytes.min(b.storage_bytes),
                    chip_milli: a.chip_milli.min(b.chip_milli),
                }) else {
                    continue;
                };
                let (chip, _, cpu_model) = self.declared(&class.pool, &class.class);
                let servers = u32::try_from(servers.len()).unwrap_or(u32::MAX);
                pool.classes.push(ServerClass { name: class.class.clone(), cpu_model, chip, per_server, servers });
            }
        }
        Ok(pools)
    }

    pub(super) async fn tell(&self, follow: bool) -> Result<mpsc::Receiver<InventoryEvent>, AdapterError> {
        let this =
            self.itself.upgrade().ok_or_else(|| AdapterError::unsupported("tell servers: it is being closed"))?;
        let (sender, receiver) = mpsc::channel(QUEUE);
        let first = self.look().await?;
        tokio::spawn(async move {
            let (mut told, mut now, mut synced) = (BTreeMap::new(), first, false);
            loop {
                let gone: Vec<String> = told.keys().filter(|id| !now.contains_key(*id)).cloned().collect();
                for id in gone {
                    told.remove(&id);
                    if sender.send(InventoryEvent::Gone(id)).await.is_err() {
                        return;
                    }
                }
                for (id, event) in now {
                    if told.get(&id) != Some(&event) {
                        if sender.send(event.clone()).await.is_err() {
                            return;
                        }
                        told.insert(id, event);
                    }
                }
                if !synced && sender.send(InventoryEvent::Synced).await.is_err() {
                    return;
                }
                synced = true;
                if !follow {
                    return;
                }
                now = loop {
                    tokio::select! {
                        () = tokio::time::sleep(Duration::from_millis(this.config.poll_ms)) => {}
                        () = sender.closed() => return,
                    }
                    match this.look().await {
                        Ok(now) => break now,
                        Err(error) => tracing::warn!(%error, "the hosts cannot be listed"),
                    }
                };
            }
        });
        Ok(receiver)
    }

    fn resource_of(tag: ResourceTag, machine: &Machine) -> Resource {
        let state = match (machine.ready(), machine.on) {
            (false, _) => ResourceState::Pending,
            (true, true) => ResourceState::Ready,
            (true, false) => ResourceState::Stopped,
        };
        Resource {
            tag,
            state,
            handle: machine.id.clone(),
            has: Quantity {
                cpu_milli: machine.cpus * 1000,
                memory_bytes: machine.memory_mb << 20,
                storage_bytes: machine.mark(STORAGE),
                chip_milli: machine.mark(CHIPS),
            },
            addresses: Some(machine.address.clone()).filter(|address| !address.is_empty()).into_iter().collect(),
        }
    }

    pub(super) async fn machine_with(&self, tag: ResourceTag) -> Result<Option<Resource>, AdapterError> {
        Ok(self.find(&machine_tag(tag)).await?.map(|machine| Self::resource_of(tag, &machine)))
    }

    async fn there(&self, tag: ResourceTag) -> Result<Machine, AdapterError> {
        let lost = || AdapterError::fatal(ReasonCode::RunLost, format!("no machine {tag} is on the platform"));
        self.find(&machine_tag(tag)).await?.ok_or_else(lost)
    }

    pub(super) async fn provision_machine(&self, request: ProvisionRequest) -> Result<Resource, AdapterError> {
        if !request.volumes.is_empty() {
            return Err(AdapterError::unsupported("make volumes: a machine has its template's disks"));
        }
        let tag = machine_tag(request.tag);
        let _alone = self.hold(&tag).await;
        let made = self
            .make(&Make {
                tag: &tag,
                pool: &request.pool,
                class: &request.class,
                need: request.need,
                template: request.image.as_deref(),
                user_data: &request.user_data,
                limit_ms: None,
            })
            .await?;
        Ok(Self::resource_of(request.tag, &made))
    }

    pub(super) async fn modify_machine(&self, tag: ResourceTag, need: Quantity) -> Result<Resource, AdapterError> {
        let machine = self.there(tag).await?;
        if need.chip_milli != machine.mark(CHIPS) {
            return Err(AdapterError::unsupported("change the chips of a machine"));
        }
        let any = self.config.classes.first();
        let class = any.ok_or_else(|| AdapterError::unsupported("change machines without classes"))?;
        let size = self.size(class, &need, false)?;
        let storage = need.storage_bytes.to_string();
        let spec = format!("{size}{}", extra([(STORAGE, storage.as_str())]));
        self.reconfigure(&machine.id, &spec, self.deadline()).await?;
        Ok(Self::resource_of(tag, &self.there(tag).await?))
    }

    pub(super) async fn power_machine(&self, tag: ResourceTag, action: PowerAction) -> Result<Resource, AdapterError> {
        let machine = self.there(tag).await?;
        let method = match (action, machine.on) {
            (PowerAction::Stop, true) => Some("PowerOffVM_Task"),
            (PowerAction::Restart, true) => Some("ResetVM_Task"),
            (PowerAction::Start | PowerAction::Restart, false) => Some("PowerOnVM_Task"),
            (PowerAction::Stop, false) | (PowerAction::Start, true) => None,
        };
        if let Some(method) = method {
            match self.soap.task(method, &machine.id, "", self.deadline()).await {
                Err(error) if !error.is("InvalidPowerState") => return Err(self.refusal(error)),
                _ => {}
            }
        }
        Ok(Self::resource_of(tag, &self.there(tag).await?))
    }

    pub(super) async fn release_machine(&self, tag: ResourceTag) -> Result<Resource, AdapterError> {
        let text = machine_tag(tag);
        let _alone = self.hold(&text).await;
        if let Some(machine) = self.find(&text).await? {
            self.destroy(&machine).await?;
        }
        let (state, has) = (ResourceState::Released, Quantity::default());
        Ok(Resource { tag, state, handle: String::new(), has, addresses: Vec::new() })
    }
}
