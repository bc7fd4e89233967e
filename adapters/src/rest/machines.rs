//! Servers, volumes, reservations and machines, for APIs that have them.

use super::api::Api;
use super::client::Answer;
use super::model::{ReasonSaid, chip_of, need};
use super::runs::Runs;
use crate::contract::{AdapterError, RunKey};
use crate::resources::{
    InventoryEvent, Partition, PowerAction, ProvisionRequest, Reservation, ReserveRequest, Resource, ResourceState,
    ResourceTag, Server, Volume,
};
use crate::southbound::tag_of;
use cpi::reason::{Reason, ReasonCode};
use cpi::resource::{ChipModel, Firmness, PoolSpec, Quantity, ServerClass};
use serde::Deserialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Events that a slow reader may be behind before the platform is asked no further.
const QUEUE: usize = 64;

#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct QuantitySaid {
    cpu_milli: u64,
    memory_bytes: u64,
    storage_bytes: u64,
    chip_milli: u64,
}

impl From<QuantitySaid> for Quantity {
    fn from(said: QuantitySaid) -> Self {
        Self {
            cpu_milli: said.cpu_milli,
            memory_bytes: said.memory_bytes,
            storage_bytes: said.storage_bytes,
            chip_milli: said.chip_milli,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ServerSaid {
    id: String,
    pool: String,
    class: String,
    total: QuantitySaid,
    free: QuantitySaid,
    #[serde(default)]
    chip: Option<ChipModel>,
    #[serde(default)]
    partitions: Vec<Partition>,
    #[serde(default)]
    topology: Vec<String>,
    #[serde(default = "yes")]
    schedulable: bool,
    #[serde(default)]
    note: String,
}

fn yes() -> bool {
    true
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClassSaid {
    pool: String,
    name: String,
    cpu_model: String,
    per_server: QuantitySaid,
    servers: u32,
    #[serde(default)]
    chip: Option<ChipModel>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReservationSaid {
    ttl_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum MachineState {
    Pending,
    Ready,
    Stopped,
    Released,
    Failed,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MachineSaid {
    tag: String,
    handle: String,
    state: MachineState,
    #[serde(default)]
    reason: Option<ReasonSaid>,
    #[serde(default)]
    has: QuantitySaid,
    #[serde(default)]
    addresses: Vec<String>,
}

impl MachineSaid {
    fn resource(self, tag: ResourceTag) -> Resource {
        let state = match self.state {
            MachineState::Pending => ResourceState::Pending,
            MachineState::Ready => ResourceState::Ready,
            MachineState::Stopped => ResourceState::Stopped,
            MachineState::Released => ResourceState::Released,
            MachineState::Failed => {
                let unsaid = || Reason::new(ReasonCode::Internal, "the platform does not say why");
                ResourceState::Failed(self.reason.map_or_else(unsaid, Reason::from))
            }
        };
        Resource { tag, state, handle: self.handle, has: self.has.into(), addresses: self.addresses }
    }
}

fn machine_tag(tag: ResourceTag) -> String {
    format!("causeway-{tag}")
}

/// The pools, with the classes that the platform tells where it does.
pub(super) async fn pools(runs: &Runs, configured: &[PoolSpec]) -> Result<Vec<PoolSpec>, AdapterError> {
    let api = runs.api();
    let mut pools = configured.to_vec();
    if !api.has("classes") {
        return Ok(pools);
    }
    let mut told: BTreeMap<String, Vec<ServerClass>> = BTreeMap::new();
    runs.pages(&api, api.verb("classes")?, &json!({}), Runs::deadline(&api), |item| {
        let said: ClassSaid = api.read_answer("class", item)?;
        told.entry(said.pool).or_default().push(ServerClass {
            name: said.name,
            cpu_model: said.cpu_model,
            chip: said.chip,
            per_server: said.per_server.into(),
            servers: said.servers,
        });
        Ok(())
    })
    .await?;
    for pool in &mut pools {
        pool.classes = told.remove(&pool.name).unwrap_or_default();
    }
    Ok(pools)
}

/// Tells all servers and volumes, then with `follow` what changed, until nobody listens.
pub(super) async fn tell(runs: Arc<Runs>, follow: bool) -> Result<mpsc::Receiver<InventoryEvent>, AdapterError> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let mut told = BTreeMap::new();
    // the first look is the caller's own, so that it hears what goes wrong
    let first = look(&runs).await?;
    tokio::spawn(async move {
        let mut now = first;
        let mut synced = false;
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
                let wait = Duration::from_millis(runs.api().patience.servers_poll_ms);
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = sender.closed() => return,
                }
                match look(&runs).await {
                    Ok(now) => break now,
                    Err(error) => tracing::warn!(%error, "the servers cannot be listed"),
                }
            };
        }
    });
    Ok(receiver)
}

async fn look(runs: &Runs) -> Result<BTreeMap<String, InventoryEvent>, AdapterError> {
    let api = runs.api();
    let mut now = BTreeMap::new();
    runs.pages(&api, api.verb("servers")?, &json!({}), Runs::deadline(&api), |item| {
        let said: ServerSaid = api.read_answer("server", item)?;
        let server = Server {
            id: said.id.clone(),
            pool: said.pool,
            class: said.class,
            total: said.total.into(),
            free: said.free.into(),
            chip: said.chip,
            partitions: said.partitions,
            topology: said.topology,
            schedulable: said.schedulable,
            note: said.note,
        };
        if !server.total.fits(&server.free) {
            let why = format!("servers: {} has more free than in all", server.id);
            return Err(AdapterError::passing(ReasonCode::AdapterDown, why));
        }
        now.insert(said.id, InventoryEvent::Server(server));
        Ok(())
    })
    .await?;
    if api.has("volumes") {
        runs.pages(&api, api.verb("volumes")?, &json!({}), Runs::deadline(&api), |item| {
            let volume: Volume = api.read_answer("volume", item)?;
            now.insert(volume.id.clone(), InventoryEvent::Volume(volume));
            Ok(())
        })
        .await?;
    }
    Ok(now)
}

pub(super) async fn reserve(
    runs: &Runs,
    pools: &[PoolSpec],
    request: ReserveRequest,
) -> Result<Reservation, AdapterError> {
    let api = runs.api();
    let (need, chip) = need(&request.need, chip_of(pools, &request.pool, &request.class));
    let what = json!({ "tag": tag_of(request.key), "pool": request.pool, "class": request.class, "need": need,
        "chip": chip, "ttl_ms": request.ttl_ms });
    let key = request.key;
    let ttl_ms = match runs.ask(&api, "reserve", &what, Runs::deadline(&api)).await? {
        Answer::Json(body) => api.read_answer::<ReservationSaid>("reservation", &body)?.ttl_ms,
        _ => return Err(AdapterError::passing(ReasonCode::AdapterDown, "reserve: it was not made")),
    };
    Ok(Reservation { key, firmness: Firmness::Reserved, ttl_ms: ttl_ms.min(request.ttl_ms) })
}

pub(super) async fn unreserve(runs: &Runs, key: RunKey) -> Result<(), AdapterError> {
    let api = runs.api();
    runs.ask(&api, "unreserve", &json!({ "tag": tag_of(key) }), Runs::deadline(&api)).await?;
    Ok(())
}

async fn find(runs: &Runs, api: &Api, tag: ResourceTag) -> Result<Option<Resource>, AdapterError> {
    let text = machine_tag(tag);
    let mut same: Vec<MachineSaid> = Vec::new();
    runs.pages(api, api.verb("machines")?, &json!({ "tag": text }), Runs::deadline(api), |item| {
        let said: MachineSaid = api.read_answer("machine", item)?;
        if said.tag == text {
            same.push(said);
        }
        Ok(())
    })
    .await?;
    // one that is there goes before those that were deleted; of several the first by handle is it
    same.sort_by(|a, b| {
        let gone = |said: &MachineSaid| said.state == MachineState::Released;
        (gone(a), &a.handle).cmp(&(gone(b), &b.handle))
    });
    Ok(same.into_iter().next().map(|said| said.resource(tag)))
}

pub(super) async fn resource(runs: &Runs, tag: ResourceTag) -> Result<Option<Resource>, AdapterError> {
    find(runs, &runs.api(), tag).await
}

async fn there(runs: &Runs, api: &Api, tag: ResourceTag) -> Result<Resource, AdapterError> {
    let found = find(runs, api, tag).await?;
    found.ok_or_else(|| AdapterError::fatal(ReasonCode::RunLost, format!("no machine {tag} is on the platform")))
}

pub(super) async fn provision(
    runs: &Runs,
    pools: &[PoolSpec],
    request: ProvisionRequest,
) -> Result<Resource, AdapterError> {
    let api = runs.api();
    let tag = request.tag;
    let alive = |found: Option<Resource>| found.filter(|found| found.state != ResourceState::Released);
    if let Some(found) = alive(find(runs, &api, tag).await?) {
        return Ok(found);
    }
    let (need, chip) = need(&request.need, chip_of(pools, &request.pool, &request.class));
    let volumes: Vec<_> = request
        .volumes
        .iter()
        .map(|volume| json!({ "name": volume.name, "class": volume.class, "size_bytes": volume.size_bytes }))
        .collect();
    let what = json!({ "tag": machine_tag(tag), "pool": request.pool, "class": request.class, "need": need,
        "chip": chip, "image": request.image, "user_data": request.user_data, "volumes": volumes });
    let deadline = Runs::deadline(&api);
    let mut tries = 0;
    loop {
        let asked = runs.ask(&api, "provision", &what, deadline).await;
        // what the platform answered or not: what counts is what is there, and it is looked at before it is asked again
        if let Some(found) = alive(find(runs, &api, tag).await?) {
            return Ok(found);
        }
        let error = match asked {
            Ok(_) => AdapterError::passing(ReasonCode::AdapterDown, "provision: accepted, and not there"),
            Err(failure) => AdapterError::from(failure),
        };
        tries += 1;
        if tries > api.patience.retries_max.min(2) || !error.retryable || error.reason.code != ReasonCode::AdapterDown {
            return Err(error);
        }
    }
}

pub(super) async fn modify(runs: &Runs, tag: ResourceTag, wanted: Quantity) -> Result<Resource, AdapterError> {
    let api = runs.api();
    let found = there(runs, &api, tag).await?;
    let (need, _) = need(&wanted, None);
    let what = json!({ "tag": machine_tag(tag), "handle": found.handle, "need": need });
    runs.ask(&api, "modify", &what, Runs::deadline(&api)).await?;
    there(runs, &api, tag).await
}

pub(super) async fn power(runs: &Runs, tag: ResourceTag, action: PowerAction) -> Result<Resource, AdapterError> {
    let api = runs.api();
    let found = there(runs, &api, tag).await?;
    let action = match action {
        PowerAction::Start => "start",
        PowerAction::Stop => "stop",
        PowerAction::Restart => "restart",
    };
    let what = json!({ "tag": machine_tag(tag), "handle": found.handle, "action": action });
    runs.ask(&api, "power", &what, Runs::deadline(&api)).await?;
    there(runs, &api, tag).await
}

pub(super) async fn release(runs: &Runs, tag: ResourceTag) -> Result<Resource, AdapterError> {
    let api = runs.api();
    let gone = |handle: String| Resource {
        tag,
        state: ResourceState::Released,
        handle,
        has: Quantity::default(),
        addresses: Vec::new(),
    };
    let Some(found) = find(runs, &api, tag).await? else { return Ok(gone(String::new())) };
    if found.state == ResourceState::Released {
        return Ok(found);
    }
    let what = json!({ "tag": machine_tag(tag), "handle": found.handle });
    runs.ask(&api, "release", &what, Runs::deadline(&api)).await?;
    Ok(find(runs, &api, tag).await?.unwrap_or_else(|| gone(found.handle)))
}
