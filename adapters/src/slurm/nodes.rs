//! What there is: partitions as pools, nodes as servers, nodes of one shape as classes.

use super::config::SlurmConfig;
use super::convert::Converter;
use super::rest::{Node, Rest};
use crate::contract::AdapterError;
use crate::host::lock;
use crate::resources::{InventoryEvent, Server};
use cpi::resource::{ComputeClass, Firmness, PoolSpec, PriceList, Quantity, ServerClass};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Notes kept of what is left out.
const NOTES_MAX: usize = 8;
/// Servers under way to somebody who reads slowly.
const QUEUE: usize = 64;

/// The cluster at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Cluster {
    pub pools: Vec<PoolSpec>,
    pub servers: BTreeMap<String, Server>,
    /// Classes, by pool and name, all of whose nodes carry a feature of that name.
    pub features: BTreeSet<(String, String)>,
    pub notes: Vec<String>,
}

pub(super) struct Nodes {
    rest: Arc<Rest>,
    converter: Arc<Converter>,
    config: SlurmConfig,
    declared: Vec<PoolSpec>,
    look: tokio::sync::Mutex<Option<(Instant, Arc<Cluster>)>>,
    notes: Mutex<Vec<String>>,
}

impl Nodes {
    pub fn new(rest: Arc<Rest>, converter: Arc<Converter>, config: SlurmConfig, declared: Vec<PoolSpec>) -> Self {
        Self { rest, converter, config, declared, look: tokio::sync::Mutex::default(), notes: Mutex::default() }
    }

    /// The partition of a pool.
    pub fn partition<'a>(&'a self, pool: &'a str) -> &'a str {
        self.config.partitions.get(pool).map_or(pool, String::as_str)
    }

    /// The cluster as of at most `age` ago.
    pub async fn cluster(&self, age: Duration) -> Result<Arc<Cluster>, AdapterError> {
        let asked = Instant::now();
        let mut look = self.look.lock().await;
        if let Some((began, cluster)) = look.as_ref()
            && asked.saturating_duration_since(*began) <= age
        {
            return Ok(Arc::clone(cluster));
        }
        let began = Instant::now();
        let (nodes, partitions) = tokio::join!(self.rest.nodes(), self.rest.partitions());
        let (nodes, partitions) = (nodes?, partitions?);
        let up: BTreeMap<String, bool> =
            partitions.into_iter().map(|partition| (partition.name, partition.state == "UP")).collect();
        let cluster = Arc::new(self.arrange(&nodes, &up)?);
        lock(&self.notes).clone_from(&cluster.notes);
        *look = Some((began, Arc::clone(&cluster)));
        Ok(cluster)
    }

    /// What the newest look left out.
    pub fn notes(&self) -> Vec<String> {
        lock(&self.notes).clone()
    }

    fn arrange(&self, nodes: &[Node], partitions: &BTreeMap<String, bool>) -> Result<Cluster, AdapterError> {
        let mut cluster = Cluster::default();
        let discovered = self.declared.is_empty();
        let pools: Vec<PoolSpec> = if discovered {
            partitions.keys().map(|name| discovered_pool(name)).collect()
        } else {
            self.declared.clone()
        };
        for mut pool in pools {
            let partition = self.partition(&pool.name).to_owned();
            match partitions.get(&partition) {
                Some(up) => pool.cordoned |= !up,
                None => {
                    cluster.notes.push(format!("pool {}: there is no partition {partition:?}", pool.name));
                    pool.cordoned = true;
                }
            }
            self.fill(&mut cluster, &mut pool, nodes.iter().filter(|node| node.partitions.contains(&partition)))?;
            cluster.pools.push(pool);
        }
        cluster.notes.sort();
        cluster.notes.dedup();
        cluster.notes.truncate(NOTES_MAX);
        Ok(cluster)
    }

    /// Puts the nodes of a partition into the classes of its pool.
    fn fill<'a>(
        &self,
        cluster: &mut Cluster,
        pool: &mut PoolSpec,
        nodes: impl Iterator<Item = &'a Node>,
    ) -> Result<(), AdapterError> {
        let fixed = !pool.classes.is_empty();
        let mut counts: BTreeMap<String, u32> = BTreeMap::new();
        let mut plain: BTreeSet<String> = BTreeSet::new();
        for node in nodes {
            let (mut server, notes) = self.converter.server(&pool.name, node)?;
            cluster.notes.extend(notes);
            if server.total.storage_bytes == 0 {
                server.total.storage_bytes = self.config.scratch_bytes;
                server.free.storage_bytes = self.config.scratch_bytes;
            }
            let features: Vec<&str> = node.features.split(',').collect();
            let class = class_for(&pool.classes, &server, &features).map(|class| class.name.clone());
            server.class = match class {
                Some(name) => name,
                None if fixed => {
                    cluster
                        .notes
                        .push(format!("{}: no class of pool {} has its shape: it is left out", node.name, pool.name));
                    continue;
                }
                None => {
                    let class = discovered_class(&pool.classes, &server, &self.config.cpu_model);
                    let name = class.name.clone();
                    pool.classes.push(class);
                    name
                }
            };
            *counts.entry(server.class.clone()).or_default() += 1;
            if !features.contains(&server.class.as_str()) {
                plain.insert(server.class.clone());
            }
            // a node in two partitions is told once for each pool
            let id = if cluster.servers.contains_key(&server.id) {
                format!("{}/{}", pool.name, server.id)
            } else {
                server.id.clone()
            };
            server.id.clone_from(&id);
            cluster.servers.insert(id, server);
        }
        for class in &mut pool.classes {
            class.servers = counts.get(&class.name).copied().unwrap_or(0);
            if class.servers > 0 && !plain.contains(&class.name) {
                cluster.features.insert((pool.name.clone(), class.name.clone()));
            }
        }
        if pool.classes.iter().any(|class| class.chip.is_some()) && !fixed {
            pool.class = ComputeClass::Intelligent;
        }
        Ok(())
    }

    /// All servers, then, with `follow`, what changes.
    pub async fn stream(self: &Arc<Self>, follow: bool) -> Result<mpsc::Receiver<InventoryEvent>, AdapterError> {
        let mut told = self.cluster(Duration::ZERO).await?;
        let (sender, receiver) = mpsc::channel(QUEUE);
        let this = Arc::clone(self);
        let every = Duration::from_millis(self.config.poll_ms);
        tokio::spawn(async move {
            for server in told.servers.values() {
                if sender.send(InventoryEvent::Server(server.clone())).await.is_err() {
                    return;
                }
            }
            if sender.send(InventoryEvent::Synced).await.is_err() || !follow {
                return;
            }
            loop {
                tokio::select! {
                    () = tokio::time::sleep(every) => {}
                    () = sender.closed() => return,
                }
                // a controller that does not answer has not lost its nodes
                let Ok(now) = this.cluster(every / 2).await else { continue };
                for event in changes(&told, &now) {
                    if sender.send(event).await.is_err() {
                        return;
                    }
                }
                told = now;
            }
        });
        Ok(receiver)
    }
}

fn changes(before: &Cluster, now: &Cluster) -> Vec<InventoryEvent> {
    let gone = before.servers.keys().filter(|id| !now.servers.contains_key(*id)).cloned().map(InventoryEvent::Gone);
    let new = now.servers.iter().filter(|(id, server)| before.servers.get(*id) != Some(*server));
    gone.chain(new.map(|(_, server)| InventoryEvent::Server(server.clone()))).collect()
}

/// The class of a server: the one whose name it carries as a feature, else the largest of its chips that it can hold.
fn class_for<'a>(classes: &'a [ServerClass], server: &Server, features: &[&str]) -> Option<&'a ServerClass> {
    let by_feature = classes.iter().find(|class| features.contains(&class.name.as_str()));
    by_feature.or_else(|| {
        let same = classes.iter().filter(|class| class.chip == server.chip);
        same.filter(|class| holds(&server.total, &class.per_server)).max_by_key(|class| {
            let shape = &class.per_server;
            (shape.chip_milli, shape.cpu_milli, shape.memory_bytes)
        })
    })
}

fn holds(total: &Quantity, shape: &Quantity) -> bool {
    // scratch space is not counted by Slurm
    total.chip_milli >= shape.chip_milli
        && total.cpu_milli >= shape.cpu_milli
        && total.memory_bytes >= shape.memory_bytes
}

fn discovered_pool(partition: &str) -> PoolSpec {
    PoolSpec {
        name: partition.to_owned(),
        backend: "slurm".to_owned(),
        class: ComputeClass::General,
        identifiers: Vec::new(),
        classes: Vec::new(),
        firmness: Firmness::Estimate,
        price: PriceList::default(),
        carbon_g_per_kwh: None,
        cordoned: false,
    }
}

/// A class for nodes of this shape: `nva100s80-8`, `cpu-64`, and with the memory in GiB where that name is taken.
fn discovered_class(classes: &[ServerClass], server: &Server, cpu_model: &str) -> ServerClass {
    let short = match &server.chip {
        Some(chip) => format!("{}-{}", chip.model.to_lowercase(), server.total.chip_milli / 1000),
        None => format!("cpu-{}", server.total.cpu_milli / 1000),
    };
    let taken = |name: &String| classes.iter().any(|class| class.name == *name);
    let with_memory = format!("{short}-{}g", server.total.memory_bytes >> 30);
    let name = if !taken(&short) {
        short
    } else if !taken(&with_memory) {
        with_memory
    } else {
        format!("{with_memory}-{}c", server.total.cpu_milli / 1000)
    };
    ServerClass {
        name,
        cpu_model: cpu_model.to_owned(),
        per_server: server.total,
        servers: 0,
        chip: server.chip.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cpi::resource::{ChipKind, ChipModel};

    fn server(cpus: u64, chips: u64) -> Server {
        let total =
            Quantity { cpu_milli: cpus * 1000, memory_bytes: 64 << 30, storage_bytes: 0, chip_milli: chips * 1000 };
        Server {
            id: "n".into(),
            pool: "p".into(),
            class: String::new(),
            total,
            free: total,
            chip: (chips > 0).then(|| ChipModel { model: "NVA100S80".into(), kind: ChipKind::Gpu }),
            partitions: Vec::new(),
            topology: Vec::new(),
            schedulable: true,
            note: String::new(),
        }
    }

    #[test]
    fn classes_are_found_by_feature_then_by_shape() {
        let small = discovered_class(&[], &server(16, 0), "");
        let gpu = discovered_class(&[], &server(64, 8), "");
        let half = discovered_class(&[], &server(64, 4), "");
        assert_eq!([&small.name, &gpu.name, &half.name], ["cpu-16", "nva100s80-8", "nva100s80-4"]);
        let classes = [small, half, gpu];
        let of =
            |server: &Server, features: &[&str]| class_for(&classes, server, features).map(|class| class.name.as_str());
        assert_eq!(of(&server(64, 8), &[""]), Some("nva100s80-8"));
        assert_eq!(of(&server(64, 8), &["nva100s80-4"]), Some("nva100s80-4"));
        assert_eq!(of(&server(64, 6), &[]), Some("nva100s80-4"));
        assert_eq!((of(&server(8, 0), &[]), of(&server(64, 0), &[])), (None, Some("cpu-16")));
        let again = discovered_class(&classes, &server(16, 0), "");
        assert_eq!(again.name, "cpu-16-64g");
    }

    #[test]
    fn only_what_changed_is_told() {
        let mut before = Cluster::default();
        before.servers.insert("a".into(), server(1, 0));
        before.servers.insert("b".into(), server(2, 0));
        let mut now = before.clone();
        now.servers.remove("a");
        now.servers.get_mut("b").unwrap().free.cpu_milli = 0;
        let told = changes(&before, &now);
        assert!(matches!(&told[..], [InventoryEvent::Gone(id), InventoryEvent::Server(_)] if id == "a"), "{told:?}");
        assert!(changes(&now, &now).is_empty());
    }
}
