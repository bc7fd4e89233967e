//! A plugin as the node sees it: one [`Adapter`] for all of its processes, whichever takes the call.

use super::instance::{Client, breaks_protocol, status_text};
use super::keeper::runs_max;
use super::unit::Unit;
use crate::contract::{
    Adapter, AdapterDescription, AdapterError, AdapterHealth, LogChunk, LogStream, RunEvent, RunKey, RunRequest,
    RunStatus,
};
use crate::resources::{
    Capabilities, InventoryEvent, PowerAction, ProvisionRequest, Reservation, ReserveRequest, Resource, ResourceTag,
};
use crate::vault::Vault;
use crate::wire::{CREDENTIALS_HEADER, LOG_CHUNK_BYTES_MAX, WireError, fault_of, proto};
use async_trait::async_trait;
use cpi::reason::ReasonCode;
use cpi::resource::{ChipModel, Firmness, PoolSpec, Quantity};
use prost::Message as _;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{broadcast, mpsc};
use tonic::metadata::MetadataValue;
use tonic::{Request, Status};

/// Processes that one call tries.
const TRIES_MAX: usize = 4;
/// How long after a lost connection the end of its process is seen.
const GONE_WITHIN: Duration = Duration::from_millis(500);
/// What the secrets of one call may have in all: headers of HTTP/2 are bounded by most servers at 16 KiB.
const SECRETS_BYTES_MAX: usize = 8 << 10;
/// Pieces of an inventory under way.
const INVENTORY_QUEUE: usize = 64;
/// Servers and volumes that one plugin may tell.
const INVENTORY_MAX: usize = 1_000_000;

/// The secrets that each call of a plugin carries, read anew for each call.
#[derive(Clone)]
pub(super) struct Credentials {
    vault: Option<Arc<Vault>>,
    names: Vec<String>,
}

impl Credentials {
    pub(super) fn new(vault: Option<Arc<Vault>>, names: Vec<String>) -> Self {
        Self { vault, names }
    }

    /// The request with the secrets in its header.
    ///
    /// # Errors
    /// A name that is not in the vault, or too much.
    pub(super) fn attach<T>(&self, message: T) -> Result<Request<T>, AdapterError> {
        let mut request = Request::new(message);
        if self.names.is_empty() {
            return Ok(request);
        }
        let refuse = |why: String| AdapterError::passing(ReasonCode::AdapterDown, why);
        let mut given = proto::Credentials::default();
        let mut total = 0;
        for name in &self.names {
            let secret = self
                .vault
                .as_ref()
                .and_then(|vault| vault.get(name))
                .ok_or_else(|| refuse(format!("the credential {name:?} is not in the vault")))?;
            total += secret.expose().len();
            given.credentials.push(proto::Credential { name: name.clone(), secret: secret.expose().to_vec() });
        }
        if total > SECRETS_BYTES_MAX {
            return Err(refuse(format!("its credentials have {total} bytes in all: expected at most 8 KiB")));
        }
        let mut value = MetadataValue::from_bytes(&given.encode_to_vec());
        // never in a table that outlives the call, and never in a debug print
        value.set_sensitive(true);
        request.metadata_mut().insert_bin(CREDENTIALS_HEADER, value);
        Ok(request)
    }
}

/// The node's adapter for one plugin.
#[derive(Clone)]
pub struct PluginAdapter {
    unit: Arc<Unit>,
    knows_chip: Arc<dyn Fn(&ChipModel) -> bool + Send + Sync>,
}

impl PluginAdapter {
    pub(super) fn new(unit: Arc<Unit>, knows_chip: Arc<dyn Fn(&ChipModel) -> bool + Send + Sync>) -> Self {
        Self { unit, knows_chip }
    }

    /// Makes one call. Every verb may be repeated, so a call whose process is lost goes to the next one.
    async fn call<Q, A, F>(
        &self,
        verb: &'static str,
        message: Q,
        send: impl Fn(Client, Request<Q>) -> F,
    ) -> Result<A, AdapterError>
    where
        Q: Clone,
        F: Future<Output = Result<A, Status>>,
    {
        let (unit, timing) = (&self.unit, &self.unit.timing);
        let mut not = None;
        let mut tries = 0;
        loop {
            tries += 1;
            let (instance, _under_way) = unit.take(not).await?;
            let request = unit.setting.credentials.attach(message.clone())?;
            let sent = tokio::select! {
                sent = tokio::time::timeout(timing.call(), send(instance.client(), request)) => sent,
                // a connection may take a while to see that its other end is gone
                () = instance.gone() => Ok(Err(Status::unavailable("its process is gone"))),
            };
            let why = match sent {
                Ok(Ok(answer)) => {
                    instance.answered();
                    return Ok(answer);
                }
                Ok(Err(status)) => {
                    if let Some(refusal) = fault_of(&status) {
                        instance.answered();
                        return Err(refusal);
                    }
                    if breaks_protocol(&status) {
                        let why =
                            format!("{verb}: it answered what the protocol does not allow: {}", status_text(&status));
                        instance.strike(&why);
                        return Err(unit.down(&why));
                    }
                    format!("{verb}: {}", status_text(&status))
                }
                Err(_) => format!("{verb}: no answer within {} ms", timing.call_ms),
            };
            // a killed process is still listed for a moment: the next try is for what comes after it
            if unit.live().len() < 2 {
                let _ = tokio::time::timeout(GONE_WITHIN, instance.gone()).await;
            }
            // one that hangs is only left where there is another
            let hangs = sent_timed_out(&why) && unit.live().len() < 2;
            if tries >= TRIES_MAX || hangs {
                return Err(unit.down(&why));
            }
            not = Some(instance.number);
        }
    }

    fn broken(&self, verb: &str, error: &WireError) -> AdapterError {
        self.unit.down(&format!("{verb}: it answered what the protocol does not allow: {error}"))
    }

    fn checked<W, T: TryFrom<W, Error = WireError>>(&self, verb: &str, wire: W) -> Result<T, AdapterError> {
        T::try_from(wire).map_err(|error| self.broken(verb, &error))
    }

    /// Leaves out what the dictionary does not know, and says so.
    fn known_pools(&self, pools: Vec<PoolSpec>) -> (Vec<PoolSpec>, Vec<String>) {
        let mut notes = Vec::new();
        let pools = pools
            .into_iter()
            .map(|mut pool| {
                pool.classes.retain(|class| {
                    let known = class.chip.as_ref().is_none_or(|chip| (self.knows_chip)(chip));
                    if let (false, Some(chip)) = (known, &class.chip) {
                        notes.push(format!(
                            "pool {}: class {} has chip {} ({}), which is not in the dictionary: it is left out; publish a \
                             release with it, or map it in the plugin's rules",
                            pool.name,
                            class.name,
                            chip.model,
                            chip.kind.code()
                        ));
                    }
                    known
                });
                // pools name the plugin
                pool.backend.clone_from(&self.unit.spec().name);
                pool
            })
            .collect();
        (pools, notes)
    }
}

fn sent_timed_out(why: &str) -> bool {
    why.contains("no answer within")
}

/// Sends one message by one of the client's verbs and unwraps the answer.
macro_rules! send {
    ($verb:ident) => {
        |mut client: Client, request| async move { Ok(client.$verb(request).await?.into_inner()) }
    };
}

#[async_trait]
impl Adapter for PluginAdapter {
    /// What it said when it was last up; before that, that it can do nothing.
    fn describe(&self) -> AdapterDescription {
        self.unit.about().map_or_else(
            || AdapterDescription {
                backend: self.unit.spec().name.clone(),
                version: "not started yet".to_owned(),
                runs_commands: false,
                runs_images: false,
                stops_on_lapse: false,
                firmness: Firmness::Estimate,
            },
            |(about, _)| about,
        )
    }

    async fn health(&self) -> AdapterHealth {
        let live = self.unit.live();
        let mut notes: Vec<String> = Vec::new();
        let mut ready = false;
        for instance in &live {
            let health = instance.health();
            ready |= health.ready && instance.is_steady();
            notes.extend(health.notes);
        }
        if live.is_empty() {
            notes.push(self.unit.trouble().unwrap_or_else(|| "it is not started".to_owned()));
        } else if let Ok(reply) = self.call("list_pools", proto::ListPoolsRequest {}, send!(list_pools)).await {
            let pools: Result<Vec<PoolSpec>, _> = reply.pools.into_iter().map(TryInto::try_into).collect();
            match pools {
                Ok(pools) => notes.extend(self.known_pools(pools).1),
                Err(error) => notes.push(format!("its pools cannot be read: {error}")),
            }
        }
        notes.dedup();
        AdapterHealth { ready, notes }
    }

    async fn inventory(&self) -> Result<Vec<PoolSpec>, AdapterError> {
        let reply = self.call("list_pools", proto::ListPoolsRequest {}, send!(list_pools)).await?;
        let pools: Result<Vec<PoolSpec>, _> = reply.pools.into_iter().map(TryInto::try_into).collect();
        let (pools, notes) = self.known_pools(pools.map_err(|error| self.broken("list_pools", &error))?);
        for note in notes {
            tracing::warn!(adapter = %self.unit.spec().name, note, "part of an inventory is left out");
        }
        Ok(pools)
    }

    async fn submit(&self, request: RunRequest) -> Result<RunStatus, AdapterError> {
        if request.inputs.iter().any(|input| input.source.to_str().is_none()) {
            return Err(AdapterError::fatal(ReasonCode::Internal, "an input lies at a path that is not UTF-8"));
        }
        let key = request.key;
        let status = self.call("submit", proto::SubmitRequest::from(request), send!(submit)).await?;
        let status: RunStatus = self.checked("submit", status)?;
        if status.key != key {
            return Err(self.broken("submit", &WireError { field: "key", expected: "the key of the request" }));
        }
        Ok(status)
    }

    async fn status(&self, key: RunKey) -> Result<Option<RunStatus>, AdapterError> {
        let reply = self.call("get_run", proto::RunKey::from(key), send!(get_run)).await?;
        let Some(run) = reply.run else { return Ok(None) };
        let status: RunStatus = self.checked("get_run", run)?;
        if status.key != key {
            return Err(self.broken("get_run", &WireError { field: "key", expected: "the key of the request" }));
        }
        Ok(Some(status))
    }

    async fn list(&self) -> Result<Vec<RunStatus>, AdapterError> {
        let list = |mut client: Client, request| async move {
            let mut stream = client.list_runs(request).await?.into_inner();
            let mut runs = Vec::new();
            while let Some(run) = stream.message().await? {
                if runs.len() >= runs_max() {
                    return Err(Status::internal(format!("it lists more than {} runs", runs_max())));
                }
                runs.push(run);
            }
            Ok(runs)
        };
        let runs = self.call("list_runs", proto::ListRunsRequest {}, list).await?;
        runs.into_iter().map(|run| self.checked("list_runs", run)).collect()
    }

    fn watch(&self) -> broadcast::Receiver<RunEvent> {
        self.unit.events.subscribe()
    }

    async fn logs(
        &self,
        key: RunKey,
        stream: LogStream,
        offset: u64,
        bytes_max: usize,
    ) -> Result<LogChunk, AdapterError> {
        let bytes_max = u32::try_from(bytes_max.min(LOG_CHUNK_BYTES_MAX)).unwrap_or(u32::MAX);
        let stream = proto::LogStream::from(stream).into();
        let request = proto::ReadLogRequest { key: Some(key.into()), stream, offset, bytes_max };
        let chunk: LogChunk = self.checked("read_log", self.call("read_log", request, send!(read_log)).await?)?;
        if chunk.offset != offset || chunk.bytes.len() > bytes_max as usize {
            let error = WireError { field: "bytes", expected: "the offset and at most the length asked for" };
            return Err(self.broken("read_log", &error));
        }
        Ok(chunk)
    }

    async fn renew(&self, key: RunKey, ttl_ms: u64) -> Result<(), AdapterError> {
        let request = proto::RenewRequest { key: Some(key.into()), ttl_ms };
        self.call("renew", request, send!(renew)).await.map(drop)
    }

    async fn cancel(&self, key: RunKey, grace_ms: u64) -> Result<(), AdapterError> {
        let request = proto::CancelRequest { key: Some(key.into()), grace_ms };
        self.call("cancel", request, send!(cancel)).await.map(drop)
    }

    async fn remove(&self, key: RunKey) -> Result<(), AdapterError> {
        self.call("remove", proto::RunKey::from(key), send!(remove)).await.map(drop)
    }

    fn capabilities(&self) -> Capabilities {
        self.unit.about().map(|(_, can)| can).unwrap_or_default()
    }

    async fn servers(&self, follow: bool) -> Result<mpsc::Receiver<InventoryEvent>, AdapterError> {
        if !self.capabilities().streams_inventory {
            return Err(AdapterError::unsupported("tell its servers one by one"));
        }
        let mut stream = self.call("inventory", proto::InventoryRequest { follow }, send!(inventory)).await?;
        let (sender, receiver) = mpsc::channel(INVENTORY_QUEUE);
        let name = self.unit.spec().name.clone();
        let knows_chip = Arc::clone(&self.knows_chip);
        tokio::spawn(async move {
            let mut told = 0;
            let why = loop {
                let event = tokio::select! {
                    event = stream.message() => event,
                    () = sender.closed() => return,
                };
                let event = match event {
                    Ok(Some(event)) => InventoryEvent::try_from(event),
                    Ok(None) => return,
                    Err(status) => break status_text(&status),
                };
                told += 1;
                match event {
                    Ok(InventoryEvent::Server(server))
                        if server.chip.as_ref().is_some_and(|chip| !knows_chip(chip)) =>
                    {
                        tracing::warn!(adapter = %name, server = server.id, chip = ?server.chip, "a server with a chip \
                            that is not in the dictionary is left out");
                    }
                    Ok(_) if !follow && told > INVENTORY_MAX => break "it tells too much".to_owned(),
                    Ok(event) => {
                        if sender.send(event).await.is_err() {
                            return;
                        }
                    }
                    Err(error) => break error.to_string(),
                }
            };
            tracing::warn!(adapter = %name, why, "an inventory ended early");
        });
        Ok(receiver)
    }

    async fn reserve(&self, request: ReserveRequest) -> Result<Reservation, AdapterError> {
        if !self.capabilities().reserves {
            return Err(AdapterError::unsupported("reserve capacity"));
        }
        self.checked("reserve", self.call("reserve", proto::ReserveRequest::from(request), send!(reserve)).await?)
    }

    async fn unreserve(&self, key: RunKey) -> Result<(), AdapterError> {
        if !self.capabilities().reserves {
            return Err(AdapterError::unsupported("reserve capacity"));
        }
        self.call("unreserve", proto::RunKey::from(key), send!(unreserve)).await.map(drop)
    }

    async fn provision(&self, request: ProvisionRequest) -> Result<Resource, AdapterError> {
        self.provisions()?;
        let request = proto::ProvisionRequest::from(request);
        self.checked("provision", self.call("provision", request, send!(provision)).await?)
    }

    async fn modify(&self, tag: ResourceTag, need: Quantity) -> Result<Resource, AdapterError> {
        self.provisions()?;
        let request = proto::ModifyRequest { tag: Some(tag.into()), need: Some(need.into()) };
        self.checked("modify", self.call("modify", request, send!(modify)).await?)
    }

    async fn power(&self, tag: ResourceTag, action: PowerAction) -> Result<Resource, AdapterError> {
        self.provisions()?;
        let action = proto::PowerAction::from(action).into();
        let request = proto::PowerRequest { tag: Some(tag.into()), action };
        self.checked("power", self.call("power", request, send!(power)).await?)
    }

    async fn release(&self, tag: ResourceTag) -> Result<Resource, AdapterError> {
        self.provisions()?;
        self.checked("release", self.call("release", proto::ResourceTag::from(tag), send!(release)).await?)
    }

    async fn resource(&self, tag: ResourceTag) -> Result<Option<Resource>, AdapterError> {
        self.provisions()?;
        let reply = self.call("get_resource", proto::ResourceTag::from(tag), send!(get_resource)).await?;
        reply.resource.map(|resource| self.checked("get_resource", resource)).transpose()
    }
}

impl PluginAdapter {
    fn provisions(&self) -> Result<(), AdapterError> {
        if self.capabilities().provisions { Ok(()) } else { Err(AdapterError::unsupported("make machines")) }
    }
}
