//! The plugins of this node: started for the pools that name them, watched, registered and taken away at run time.

use super::rows::{PluginRows, PluginRowsError, Registration};
use super::table::Backends;
use crate::config::{ConfigProblem, NodeConfig, PluginSection, validate};
use crate::drivers::negotiation::NegotiationHandle;
use adapters::contract::Adapter as _;
use adapters::host::{AddPluginError, HostConfig, PluginHost, PluginSpec, ProgramSpec, Timing, discover};
use adapters::runner::{DeskConfig, DeskError, DeskTls, RunDesk};
use adapters::vault::{OpenVaultError, Vault};
use consensus::negotiation::{Input, OwnPool};
use consensus::store::{Records, StoreError};
use cpi::dictionary::Dictionary;
use cpi::resource::PoolSpec;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Between two looks at which plugins are up; asks no plugin anything.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Servers that a plugin may tell of in one pool.
const SERVERS_MAX: u64 = 1_000_000;

/// Why the plugins cannot be set up. A plugin that is down is no reason.
#[derive(Debug, thiserror::Error)]
pub enum PluginsError {
    /// The vault.
    #[error("the vault of credentials cannot be opened")]
    Vault(#[from] OpenVaultError),
    /// An entry that the host does not take.
    #[error("the plugins cannot be set up")]
    Add(#[from] AddPluginError),
    /// The desk of runners.
    #[error("the desk of runners cannot be opened")]
    Desk(#[from] DeskError),
    /// A file of the desk's certificates.
    #[error("{path} cannot be read")]
    DeskFile {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The rows of registered plugins.
    #[error("the registered plugins cannot be read")]
    Rows(#[from] PluginRowsError),
}

/// Why a plugin was not registered or not taken away.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// It would not be a valid configuration.
    #[error("the plugin or a pool of it is not valid")]
    Invalid(Vec<ConfigProblem>),
    /// The host does not take it.
    #[error(transparent)]
    Add(#[from] AddPluginError),
    /// There is none of this name.
    #[error("no plugin is called {0:?}")]
    Unknown(String),
    /// It stands in the configuration.
    #[error("plugin {0} stands in the configuration: take it out there and start the node again")]
    Configured(String),
    /// Its pools still have runs.
    #[error("pools of plugin {plugin} still have {runs} runs: drain them first ({pools})")]
    InUse {
        /// The plugin.
        plugin: String,
        /// How many.
        runs: usize,
        /// Its pools.
        pools: String,
    },
    /// The disk.
    #[error("the registration cannot be kept")]
    Store(#[from] StoreError),
    /// The node is too busy, or stops.
    #[error(transparent)]
    Negotiation(#[from] crate::drivers::negotiation::HandleError),
}

/// The plugins.
pub struct Plugins {
    host: PluginHost,
    vault: Arc<Vault>,
    backends: Backends,
    rows: PluginRows,
    /// As configured, with what was registered since.
    config: Mutex<NodeConfig>,
    /// Those of the configuration file.
    configured: BTreeSet<String>,
    seen: Mutex<Seen>,
    /// One registration at a time.
    registering: tokio::sync::Mutex<()>,
}

/// What the negotiation was told last.
#[derive(Default)]
struct Seen {
    down: BTreeMap<String, String>,
    pools: Vec<OwnPool>,
    /// The classes that plugins told, by pool.
    told: BTreeMap<String, PoolSpec>,
    inventories: BTreeMap<String, Instant>,
}

impl Plugins {
    /// Sets up the plugins of the configuration and those registered, and puts their adapters into `backends`. None is
    /// started yet.
    ///
    /// # Errors
    /// [`PluginsError`].
    pub async fn open(
        config: &NodeConfig,
        records: Records,
        dictionary: Arc<dyn Fn() -> Arc<Dictionary> + Send + Sync>,
        backends: Backends,
    ) -> Result<Arc<Self>, PluginsError> {
        let (vault, key) = config.vault_files();
        let vault = Arc::new(Vault::open(&vault, &key)?);
        let host = PluginHost::new(HostConfig {
            plugins_dir: plugins_dir(config),
            data_dir: config.plugins_dir(),
            timing: timing(config),
            node_version: env!("CARGO_PKG_VERSION").to_owned(),
            vault: Some(Arc::clone(&vault)),
            knows_chip: Arc::new(move |chip| dictionary().chips.get(&chip.model).is_some()),
        })?;
        let host = match desk_config(config)? {
            Some(desk) => {
                let insecure = desk.insecure;
                let desk = RunDesk::open(desk).await?;
                tracing::info!(address = %desk.address(), "runners report here");
                if insecure {
                    tracing::warn!(
                        "the desk of runners speaks plain HTTP: what they send and get can be read on its way"
                    );
                }
                host.with_desk(Arc::new(desk))
            }
            None => host,
        };
        let rows = PluginRows::new(records);
        let mut config = config.clone();
        let configured = config.adapters.plugin.iter().map(|plugin| plugin.name.clone()).collect();
        for registration in rows.all()? {
            let name = registration.plugin.name.clone();
            let mut with = config.clone();
            with.adapters.plugin.push(registration.plugin);
            with.pools.extend(registration.pools);
            match validate(&with).first() {
                None => config = with,
                // the configuration changed under it
                Some(problem) => tracing::error!(adapter = %name, %problem, "a registered plugin is left out"),
            }
        }
        backends.set_pools(config.pools.clone());
        for section in &config.adapters.plugin {
            let adapter = host.add(spec_of(&config, section), config.pools_of(&section.name))?;
            backends.insert(&section.name, Arc::new(adapter));
        }
        let seen = Seen { pools: own_pools(&config.pools, &backends, &Seen::default()), ..Seen::default() };
        Ok(Arc::new(Self {
            host,
            vault,
            backends,
            rows,
            config: Mutex::new(config),
            configured,
            seen: Mutex::new(seen),
            registering: tokio::sync::Mutex::default(),
        }))
    }

    /// The host.
    pub fn host(&self) -> &PluginHost {
        &self.host
    }

    /// The credentials' vault.
    pub fn vault(&self) -> &Arc<Vault> {
        &self.vault
    }

    /// The folder of plugins, where the operator set one apart.
    pub fn plugins_dir(&self) -> Option<PathBuf> {
        plugins_dir(&lock(&self.config))
    }

    /// All backends.
    pub fn backends(&self) -> &Backends {
        &self.backends
    }

    /// This region's pools as the negotiation is told at its start.
    pub fn own_pools(&self) -> Vec<OwnPool> {
        lock(&self.seen).pools.clone()
    }

    /// Whether a plugin of this name was registered at run time, and not configured.
    pub fn is_registered(&self, name: &str) -> bool {
        !self.configured.contains(name) && lock(&self.config).adapters.plugin.iter().any(|one| one.name == name)
    }

    /// Starts the plugins that pools name, and tells the negotiation what becomes of them, until `stop`.
    pub async fn run(self: Arc<Self>, negotiation: NegotiationHandle, stop: CancellationToken) {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let looked = async {
                looks.tick().await;
                self.look(&negotiation).await
            };
            tokio::select! {
                () = stop.cancelled() => return,
                looked = looked => if looked.is_err() && stop.is_cancelled() { return },
            }
        }
    }

    /// Tells the negotiation of pools that went down or came back, and of what they have now.
    async fn look(self: &Arc<Self>, negotiation: &NegotiationHandle) -> Result<(), RegisterError> {
        let config = lock(&self.config).clone();
        let standing = self.host.standing();
        let every = Duration::from_millis(config.adapters.host.inventory_ms);
        for pool in &config.pools {
            let why = match pool.backend.as_str() {
                "local" | "fake" => continue,
                name => match standing.get(name) {
                    None => {
                        Some(format!("plugin {name} has no [[adapters.plugin]] with its sha256 in the configuration"))
                    }
                    Some(standing) => {
                        self.host.want(name);
                        standing.as_ref().err().map(|why| format!("plugin {name}: {why}"))
                    }
                },
            };
            let changed = lock(&self.seen).down.get(&pool.name) != why.as_ref();
            if !changed {
                continue;
            }
            match &why {
                Some(why) => tracing::warn!(adapter = %pool.backend, pool = %pool.name, why, "a pool is down"),
                None => tracing::info!(adapter = %pool.backend, pool = %pool.name, "a pool is up"),
            }
            negotiation.feed(Input::PoolDown { pool: pool.name.clone(), why: why.clone() }).await?;
            let mut seen = lock(&self.seen);
            match why {
                Some(why) => drop(seen.down.insert(pool.name.clone(), why)),
                None => {
                    seen.down.remove(&pool.name);
                    seen.inventories.remove(&pool.backend);
                }
            }
        }
        for (name, _) in standing.iter().filter(|(_, standing)| standing.is_ok()) {
            let due = lock(&self.seen).inventories.get(name).is_none_or(|at| at.elapsed() >= every);
            if due && config.pools.iter().any(|pool| pool.backend == *name) {
                lock(&self.seen).inventories.insert(name.clone(), Instant::now());
                let (plugins, name) = (Arc::clone(self), name.clone());
                // one that is slow keeps nobody waiting
                tokio::spawn(async move { plugins.take_inventory(&name).await });
            }
        }
        self.tell_pools(negotiation).await
    }

    async fn take_inventory(&self, name: &str) {
        let Ok(adapter) = self.host.adapter(name) else { return };
        match adapter.inventory().await {
            Ok(pools) => {
                let mut seen = lock(&self.seen);
                for mut pool in pools {
                    let servers: u64 = pool.classes.iter().map(|class| u64::from(class.servers)).sum();
                    if servers > SERVERS_MAX {
                        tracing::warn!(adapter = name, pool = pool.name, servers, "a plugin tells of too many servers");
                        continue;
                    }
                    pool.classes.retain(|class| class.servers > 0);
                    seen.told.insert(pool.name.clone(), pool);
                }
            }
            Err(error) => tracing::debug!(adapter = name, %error, "a plugin does not list its pools"),
        }
    }

    async fn tell_pools(&self, negotiation: &NegotiationHandle) -> Result<(), RegisterError> {
        let declared = lock(&self.config).pools.clone();
        let told = {
            let seen = lock(&self.seen);
            let pools = own_pools(&declared, &self.backends, &seen);
            (pools != seen.pools).then_some(pools)
        };
        if let Some(pools) = told {
            tracing::info!(pools = pools.len(), "what this region's pools have has changed");
            negotiation.feed(Input::Pools(pools.clone())).await?;
            lock(&self.seen).pools = pools;
        }
        Ok(())
    }

    /// Registers a plugin with its pools, and keeps it over restarts.
    ///
    /// # Errors
    /// [`RegisterError`]; nothing is changed then.
    pub async fn register(
        &self,
        registration: Registration,
        negotiation: &NegotiationHandle,
    ) -> Result<(), RegisterError> {
        let _one = self.registering.lock().await;
        let mut with = lock(&self.config).clone();
        let name = registration.plugin.name.clone();
        with.adapters.plugin.push(registration.plugin.clone());
        with.pools.extend(registration.pools.iter().cloned());
        let mut problems = validate(&with);
        for (at, pool) in registration.pools.iter().enumerate() {
            if pool.backend != name {
                problems.push(ConfigProblem {
                    place: String::new(),
                    key: format!("pools.{at}.backend"),
                    message: format!("{:?} is another backend: expected {name:?}", pool.backend),
                    hint: None,
                });
            }
        }
        if !problems.is_empty() {
            return Err(RegisterError::Invalid(problems));
        }
        let adapter = self.host.add(spec_of(&with, &registration.plugin), registration.pools.clone())?;
        if let Err(error) = self.rows.put(&registration).await {
            let _ = self.host.remove(&name).await;
            return Err(error.into());
        }
        self.backends.set_pools(with.pools.clone());
        self.backends.insert(&name, Arc::new(adapter));
        *lock(&self.config) = with;
        self.tell_pools(negotiation).await
    }

    /// Takes away a plugin that was registered at run time, and its pools.
    ///
    /// # Errors
    /// [`RegisterError`]: one of the configuration, or one whose pools have runs.
    pub async fn deregister(&self, name: &str, negotiation: &NegotiationHandle) -> Result<(), RegisterError> {
        let _one = self.registering.lock().await;
        if self.configured.contains(name) {
            return Err(RegisterError::Configured(name.to_owned()));
        }
        if !self.is_registered(name) {
            return Err(RegisterError::Unknown(name.to_owned()));
        }
        let pools = self.backends.pools_of(name);
        let runs = negotiation.runs().await?.iter().filter(|run| pools.contains(&run.pool)).count();
        if runs > 0 {
            return Err(RegisterError::InUse { plugin: name.to_owned(), runs, pools: pools.join(", ") });
        }
        self.rows.delete(name).await?;
        let declared = {
            let mut config = lock(&self.config);
            config.adapters.plugin.retain(|plugin| plugin.name != name);
            config.pools.retain(|pool| pool.backend != name);
            config.pools.clone()
        };
        self.backends.remove(name);
        self.backends.set_pools(declared);
        {
            let mut seen = lock(&self.seen);
            seen.told.retain(|pool, _| !pools.contains(pool));
            seen.down.retain(|pool, _| !pools.contains(pool));
            seen.inventories.remove(name);
        }
        self.tell_pools(negotiation).await?;
        // it may have been gone already
        let _ = self.host.remove(name).await;
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The declared pools with what their backends run, and with the classes that plugins told of them.
fn own_pools(declared: &[PoolSpec], backends: &Backends, seen: &Seen) -> Vec<OwnPool> {
    let pools = declared.iter().map(|declared| {
        let mut spec = declared.clone();
        if let Some(told) = seen.told.get(&spec.name) {
            spec.classes.clone_from(&told.classes);
        }
        let about = backends.get(&spec.backend).map(|adapter| adapter.describe());
        // what a plugin that was never up can do will show; until then its pools are down
        let known = about.filter(|about| about.version != adapters::host::NOT_STARTED);
        let (commands, images) = known.map_or((true, true), |about| (about.runs_commands, about.runs_images));
        OwnPool { spec, commands, images }
    });
    pools.collect()
}

fn plugins_dir(config: &NodeConfig) -> Option<PathBuf> {
    let folder = &config.adapters.host.plugins_dir;
    (!folder.as_os_str().is_empty()).then(|| folder.clone())
}

/// A plugin's entry as the host takes it: one without a path lies in the plugins' folder.
fn spec_of(config: &NodeConfig, section: &PluginSection) -> PluginSpec {
    let mut args = section.args.clone();
    let path = section.path.clone().unwrap_or_else(|| {
        let folder = &config.adapters.host.plugins_dir;
        match discover(folder).0.into_iter().find(|found| found.name == section.name) {
            Some(found) => {
                if args.is_empty() {
                    args = found.args;
                }
                found.path
            }
            // not there: starting it says so, and a later restart finds it
            None => folder.join(&section.name),
        }
    });
    PluginSpec {
        name: section.name.clone(),
        program: ProgramSpec { path, args, sha256: section.sha256 },
        config: serde_json::Value::Object(section.config.clone()),
        credentials: section.credentials.clone(),
        replicas: section.replicas,
        limits: section.limits,
    }
}

/// What the desk is told, where there is one.
fn desk_config(config: &NodeConfig) -> Result<Option<DeskConfig>, PluginsError> {
    let section = &config.adapters.desk;
    let Ok(listen) = section.listen.parse() else { return Ok(None) };
    let read = |path: &PathBuf| {
        std::fs::read_to_string(path).map_err(|source| PluginsError::DeskFile { path: path.clone(), source })
    };
    let tls = if section.tls_cert.as_os_str().is_empty() {
        None
    } else {
        let (cert_pem, key_pem) = (read(&section.tls_cert)?, read(&section.tls_key)?);
        Some(DeskTls { cert_pem, key_pem, ca_pem: read(&section.tls_ca)? })
    };
    let defaults = DeskConfig::new(&config.plugins_dir().join("desk"));
    Ok(Some(DeskConfig {
        listen,
        advertise: (!section.advertise.is_empty()).then(|| section.advertise.clone()),
        tls,
        insecure: section.insecure,
        log_bytes_max: config.adapters.local.log_bytes_max,
        output_bytes_max: section.output_bytes_max,
        linger_ms: section.linger_ms,
        lost_ms: section.lost_ms,
        ..defaults
    }))
}

fn timing(config: &NodeConfig) -> Timing {
    let host = &config.adapters.host;
    Timing {
        start_ms: host.start_ms,
        call_ms: host.call_ms,
        wait_ms: host.wait_ms,
        heartbeat_ms: host.heartbeat_ms,
        heartbeats_missed_max: host.heartbeats_missed_max,
        backoff_ms_min: host.backoff_ms_min,
        backoff_ms_max: host.backoff_ms_max,
        flaps_max: host.flaps_max,
        flap_window_ms: host.flap_window_ms,
        quarantine_ms: host.quarantine_ms,
        drain_ms: host.drain_ms,
        probation_ms: host.probation_ms,
        events_per_second_max: host.events_per_second_max,
    }
}
