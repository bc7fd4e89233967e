//! One cloud behind the contract.

use super::cloud::{Cloud, CloudError};
use super::flavours::{Flavour, FlavourShelf};
use super::inventory::Inventory;
use super::keystone::Service;
use crate::contract::{
    Adapter, AdapterDescription, AdapterError, AdapterHealth, LogChunk, LogStream, RunEvent, RunKey, RunRequest,
    RunState, RunStatus,
};
use crate::resources::{Capabilities, InventoryEvent, PowerAction, ProvisionRequest, Resource, ResourceTag};
use crate::runner::DeskTicket;
use async_trait::async_trait;
use cpi::reason::ReasonCode;
use cpi::resource::{Firmness, PoolSpec, Quantity};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedMutexGuard, broadcast, mpsc};

/// How long a verb waits for the platform to go on, well inside the host's limit for a call.
pub(super) const WAIT: Duration = Duration::from_secs(7);
/// How often it looks.
pub(super) const WAIT_STEP: Duration = Duration::from_millis(150);
/// Changes kept for slow subscribers.
const EVENTS_KEPT: usize = 4096;
/// For how long the id of an image or a network is used.
const NAMES_FRESH: Duration = Duration::from_secs(60);

/// Locks by name, so that two calls do not make the same thing twice. Across processes the oldest server wins.
#[derive(Default)]
pub(super) struct Locks {
    held: Mutex<BTreeMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

impl Locks {
    pub(super) async fn hold(&self, name: &str) -> OwnedMutexGuard<()> {
        let lock = {
            let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            held.retain(|_, lock| lock.strong_count() > 0);
            let there = held.get(name).and_then(Weak::upgrade);
            there.unwrap_or_else(|| {
                let made = Arc::new(tokio::sync::Mutex::new(()));
                held.insert(name.to_owned(), Arc::downgrade(&made));
                made
            })
        };
        lock.lock_owned().await
    }
}

/// What was told of runs last, so that each change is told once.
pub(super) struct Events {
    told: Mutex<BTreeMap<RunKey, RunState>>,
    sender: broadcast::Sender<RunEvent>,
}

impl Events {
    pub(super) fn observe(&self, key: RunKey, state: &RunState) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.get(&key) != Some(state) {
            told.insert(key, state.clone());
            let _ = self.sender.send(RunEvent { key, state: state.clone() });
        }
    }

    pub(super) fn forget(&self, key: RunKey) {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
    }
}

/// Names of the cloud with their ids, and when they were asked for.
type Names = Mutex<BTreeMap<(&'static str, String), (Instant, String)>>;

/// One cloud.
pub(super) struct OpenStackAdapter {
    pub(super) cloud: Arc<Cloud>,
    inventory: Arc<Inventory>,
    pub(super) flavours: FlavourShelf,
    names: Names,
    pub(super) locks: Locks,
    pub(super) events: Events,
    /// Why the last look at the runs failed, where it did.
    failing: Mutex<Option<String>>,
}

#[derive(Deserialize)]
struct Images {
    images: Vec<Named>,
}

#[derive(Deserialize)]
struct Networks {
    networks: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    id: String,
}

impl OpenStackAdapter {
    pub(super) fn open(cloud: Arc<Cloud>, declared: Vec<PoolSpec>) -> Arc<Self> {
        let (sender, _) = broadcast::channel(EVENTS_KEPT);
        let adapter = Arc::new(Self {
            inventory: Arc::new(Inventory::new(Arc::clone(&cloud), declared)),
            flavours: FlavourShelf::default(),
            names: Mutex::default(),
            locks: Locks::default(),
            events: Events { told: Mutex::default(), sender },
            failing: Mutex::default(),
            cloud,
        });
        tokio::spawn(poll(Arc::downgrade(&adapter)));
        adapter
    }

    fn refused(&self) -> impl Fn(CloudError) -> AdapterError + '_ {
        |error| self.cloud.refusal(&error)
    }

    /// How old the list of hosts may be for a question about a class.
    fn hosts_age(&self) -> Duration {
        Duration::from_millis(self.cloud.config.poll_ms).max(Duration::from_secs(30))
    }

    /// The flavour for a need in a class of a pool.
    pub(super) async fn flavour_for(&self, pool: &str, class: &str, need: &Quantity) -> Result<Flavour, AdapterError> {
        let hosts = self.inventory.hosts(self.hosts_age()).await.map_err(self.refused())?;
        let found = hosts.pools.iter().find(|known| known.name == pool);
        let found = found.and_then(|pool| pool.classes.iter().find(|known| known.name == class));
        let unknown = || AdapterError::fatal(ReasonCode::InvalidTask, format!("{pool}/{class}: no such server class"));
        let class = found.ok_or_else(unknown)?;
        if !class.per_server.fits(need) {
            let why = format!("class {} has {:?}", class.name, class.per_server);
            return Err(AdapterError::fatal(ReasonCode::ShapeTooLarge, why));
        }
        let list = self.flavours.list(&self.cloud).await.map_err(self.refused())?;
        list.choose(need, class.chip.as_ref()).cloned()
    }

    fn name(&self, kind: &'static str, name: &str) -> Option<String> {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.get(&(kind, name.to_owned())).filter(|(at, _)| at.elapsed() < NAMES_FRESH).map(|(_, id)| id.clone())
    }

    fn keep_name(&self, kind: &'static str, name: &str, id: &str) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.retain(|_, (at, _)| at.elapsed() < NAMES_FRESH);
        names.insert((kind, name.to_owned()), (Instant::now(), id.to_owned()));
    }

    /// The id of an image that can be used, by name or id.
    pub(super) async fn image(&self, asked: Option<&str>) -> Result<String, AdapterError> {
        let named = asked.or(self.cloud.config.image.as_deref());
        let missing =
            || AdapterError::fatal(ReasonCode::InvalidTask, "image: expected one, in the request or in config");
        let name = named.ok_or_else(missing)?;
        if let Some(id) = self.name("image", name) {
            return Ok(id);
        }
        let by_id = format!("/v2/images?id={}&status=active", escaped(name));
        let by_name = format!("/v2/images?name={}&status=active&limit=2", escaped(name));
        for path in [by_name, by_id] {
            let found: Images = self.cloud.get(Service::Image, &path).await.map_err(self.refused())?;
            if let Some(id) = one_of("image", name, &found.images)? {
                self.keep_name("image", name, &id);
                return Ok(id);
            }
        }
        Err(AdapterError::fatal(ReasonCode::StartFailed, format!("image {name:?} is not there or not active")))
    }

    /// `auto`, `none`, or the id of the configured network.
    pub(super) async fn network(&self) -> Result<String, AdapterError> {
        let name = self.cloud.config.network.as_str();
        if matches!(name, "auto" | "none") {
            return Ok(name.to_owned());
        }
        if let Some(id) = self.name("network", name) {
            return Ok(id);
        }
        for key in ["name", "id"] {
            let path = format!("/v2.0/networks?{key}={}&fields=id", escaped(name));
            let found: Networks = self.cloud.get(Service::Network, &path).await.map_err(self.refused())?;
            if let Some(id) = one_of("network", name, &found.networks)? {
                self.keep_name("network", name, &id);
                return Ok(id);
            }
        }
        Err(AdapterError::fatal(ReasonCode::Internal, format!("config.network: {name:?} is not there")))
    }

    /// Waits for a while until a server is gone and its capacity is back. That it is being deleted is enough after that.
    pub(super) async fn until_gone(&self, id: &str) -> Result<(), AdapterError> {
        let deadline = Instant::now() + WAIT;
        loop {
            let server = self.cloud.server(id).await.map_err(self.refused())?;
            let left = server.as_ref().is_none_or(|server| server.leaves() || server.status == "DELETED");
            let gone = server.is_none_or(|server| server.status == "DELETED");
            if gone && !self.cloud.holds_capacity(id).await.map_err(self.refused())? {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let still = || AdapterError::passing(ReasonCode::Busy, "the server is not deleted yet");
                return if left { Ok(()) } else { Err(still()) };
            }
            tokio::time::sleep(WAIT_STEP).await;
        }
    }
}

fn escaped(text: &str) -> String {
    let keep = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
    text.bytes().map(|byte| if keep(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

fn one_of(what: &str, name: &str, found: &[Named]) -> Result<Option<String>, AdapterError> {
    match found {
        [] => Ok(None),
        [one] => Ok(Some(one.id.clone())),
        _ => {
            let why = format!("{what} {name:?}: several have this name, expected an id");
            Err(AdapterError::fatal(ReasonCode::InvalidTask, why))
        }
    }
}

/// Looks at all runs again and again, as long as the adapter is there: events are made of what changed.
async fn poll(adapter: Weak<OpenStackAdapter>) {
    loop {
        let Some(adapter) = adapter.upgrade() else { return };
        let every = Duration::from_millis(adapter.cloud.config.poll_ms);
        let why = adapter.list_runs().await.err().map(|error| error.to_string());
        let before =
            std::mem::replace(&mut *adapter.failing.lock().unwrap_or_else(PoisonError::into_inner), why.clone());
        if let (None, Some(why)) = (before, why) {
            tracing::warn!(why, "runs cannot be watched; it is tried again");
        }
        drop(adapter);
        tokio::time::sleep(every).await;
    }
}

#[async_trait]
impl Adapter for Arc<OpenStackAdapter> {
    fn describe(&self) -> AdapterDescription {
        AdapterDescription {
            backend: super::backend::KIND.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            runs_commands: true,
            runs_images: false,
            // the runner counts the lease
            stops_on_lapse: self.cloud.config.runner.is_some(),
            firmness: Firmness::Estimate,
        }
    }

    async fn health(&self) -> AdapterHealth {
        self.cloud.take_credential();
        let mut notes = Vec::new();
        if self.cloud.config.insecure {
            notes.push("plain HTTP is allowed: insecure = true".to_owned());
        }
        // what the last look said: a heartbeat does not wait for a platform that hangs
        if let Some(why) = &*self.failing.lock().unwrap_or_else(PoisonError::into_inner) {
            notes.push(why.clone());
            return AdapterHealth { ready: false, notes };
        }
        notes.extend(self.inventory.notes());
        notes.extend(self.flavours.notes());
        AdapterHealth { ready: true, notes }
    }

    async fn inventory(&self) -> Result<Vec<PoolSpec>, AdapterError> {
        self.cloud.take_credential();
        Ok(self.inventory.hosts(Duration::ZERO).await.map_err(self.refused())?.pools.clone())
    }

    async fn submit(&self, request: RunRequest) -> Result<RunStatus, AdapterError> {
        self.cloud.take_credential();
        self.submit_run(request, None).await
    }

    async fn submit_by_runner(&self, request: RunRequest, desk: DeskTicket) -> Result<RunStatus, AdapterError> {
        self.cloud.take_credential();
        self.submit_run(request, Some(&desk)).await
    }

    async fn status(&self, key: RunKey) -> Result<Option<RunStatus>, AdapterError> {
        self.cloud.take_credential();
        self.run_status(key).await
    }

    async fn list(&self) -> Result<Vec<RunStatus>, AdapterError> {
        self.cloud.take_credential();
        self.list_runs().await
    }

    fn watch(&self) -> broadcast::Receiver<RunEvent> {
        self.events.sender.subscribe()
    }

    async fn logs(
        &self,
        key: RunKey,
        stream: LogStream,
        offset: u64,
        bytes_max: usize,
    ) -> Result<LogChunk, AdapterError> {
        self.cloud.take_credential();
        self.read_log(key, stream, offset, bytes_max).await
    }

    async fn renew(&self, key: RunKey, _ttl_ms: u64) -> Result<(), AdapterError> {
        self.cloud.take_credential();
        let lost = || AdapterError::fatal(ReasonCode::RunLost, format!("no run {} {} is here", key.task, key.fence));
        // a run does not stop by itself here, so there is nothing to prolong
        self.run_status(key).await?.map(drop).ok_or_else(lost)
    }

    async fn cancel(&self, key: RunKey, _grace_ms: u64) -> Result<(), AdapterError> {
        self.cloud.take_credential();
        self.cancel_run(key).await
    }

    async fn remove(&self, key: RunKey) -> Result<(), AdapterError> {
        self.cloud.take_credential();
        self.remove_run(key).await
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            provisions: true,
            streams_inventory: true,
            by_runner: self.cloud.config.runner.is_some(),
            ..Capabilities::default()
        }
    }

    async fn servers(&self, follow: bool) -> Result<mpsc::Receiver<InventoryEvent>, AdapterError> {
        self.cloud.take_credential();
        let first = self.inventory.hosts(Duration::ZERO).await.map_err(self.refused())?;
        Ok(Arc::clone(&self.inventory).tell(first, follow))
    }

    async fn provision(&self, request: ProvisionRequest) -> Result<Resource, AdapterError> {
        self.cloud.take_credential();
        self.provision_machine(request).await
    }

    async fn modify(&self, tag: ResourceTag, need: Quantity) -> Result<Resource, AdapterError> {
        self.cloud.take_credential();
        self.modify_machine(tag, need).await
    }

    async fn power(&self, tag: ResourceTag, action: PowerAction) -> Result<Resource, AdapterError> {
        self.cloud.take_credential();
        self.power_machine(tag, action).await
    }

    async fn release(&self, tag: ResourceTag) -> Result<Resource, AdapterError> {
        self.cloud.take_credential();
        self.release_machine(tag).await
    }

    async fn resource(&self, tag: ResourceTag) -> Result<Option<Resource>, AdapterError> {
        self.cloud.take_credential();
        self.find_machine(tag).await
    }
}
