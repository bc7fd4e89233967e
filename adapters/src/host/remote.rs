//! A plugin as the node sees it: one [`Adapter`] for all of its processes, whichever takes the call.

use super::by_runner::{self, Hint, Verdict, is_revenant, judge};
use super::instance::{Client, breaks_protocol, status_text};
use super::keeper::runs_max;
use super::unit::Unit;
use crate::contract::{
    Adapter, AdapterDescription, AdapterError, AdapterHealth, LogChunk, LogStream, RunEvent, RunKey, RunRequest,
    RunState, RunStatus,
};
use crate::resources::{
    Capabilities, InventoryEvent, PowerAction, ProvisionRequest, Reservation, ReserveRequest, Resource, ResourceTag,
};
use crate::runner::RunDesk;
use crate::runner::desk::DeskView;
use crate::vault::Vault;
use crate::wire::{CREDENTIALS_HEADER, LOG_CHUNK_BYTES_MAX, WireError, fault_of, proto, reason_from_wire};
use async_trait::async_trait;
use cpi::reason::{Reason, ReasonCode};
use cpi::resource::{ChipModel, Firmness, PoolSpec, Quantity};
use prost::Message as _;
use std::collections::BTreeMap;
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
/// How long beyond the grace a connected runner may take to end its command before its platform is asked to.
const RUNNER_ENDS_WITHIN: Duration = Duration::from_secs(5);
/// The version in the description of a plugin that was never up.
pub const NOT_STARTED: &str = "not started yet";
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
                version: NOT_STARTED.to_owned(),
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
        // only one that was up once has said how its jobs report
        if self.unit.about().is_none() {
            drop(self.unit.take(None).await?);
        }
        if self.capabilities().by_runner {
            return self.submit_by_desk(request).await;
        }
        let status = self.call("submit", proto::SubmitRequest::from(request), send!(submit)).await?;
        let status: RunStatus = self.checked("submit", status)?;
        if status.key != key {
            return Err(self.broken("submit", &WireError { field: "key", expected: "the key of the request" }));
        }
        Ok(status)
    }

    async fn status(&self, key: RunKey) -> Result<Option<RunStatus>, AdapterError> {
        if let Some((desk, view)) = self.at_desk(&key) {
            return self.status_by_desk(key, &desk, view).await;
        }
        let status = self.platform_status(key).await?;
        // a platform shows jobs for a while whose runs were removed
        Ok(status.filter(|_| self.unit.runners().is_none()))
    }

    async fn waiting(&self, key: RunKey) -> Result<Option<Reason>, AdapterError> {
        // an older protocol has no word for it, nor for these
        let can = self.capabilities();
        if !(can.by_runner || can.streams_inventory || can.reserves || can.provisions) {
            return Ok(None);
        }
        let reply = self.call("get_waiting", proto::RunKey::from(key), send!(get_waiting)).await?;
        Ok(reply.reason.map(reason_from_wire))
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
        let runs: Result<Vec<RunStatus>, _> = runs.into_iter().map(|run| self.checked("list_runs", run)).collect();
        match self.unit.runners() {
            Some(link) => self.list_by_desk(&link.desk, runs?).await,
            None => runs,
        }
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
        if let Some((desk, _)) = self.at_desk(&key) {
            return desk.logs(&key, stream, offset, bytes_max.min(LOG_CHUNK_BYTES_MAX));
        }
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
        if let Some((desk, _)) = self.at_desk(&key) {
            desk.renew(&key, ttl_ms);
            return Ok(());
        }
        let request = proto::RenewRequest { key: Some(key.into()), ttl_ms };
        self.call("renew", request, send!(renew)).await.map(drop)
    }

    async fn cancel(&self, key: RunKey, grace_ms: u64) -> Result<(), AdapterError> {
        if let Some((desk, view)) = self.at_desk(&key) {
            return self.cancel_by_desk(key, grace_ms, &desk, &view).await;
        }
        self.platform_cancel(key, grace_ms).await
    }

    async fn remove(&self, key: RunKey) -> Result<(), AdapterError> {
        if let Some((desk, view)) = self.at_desk(&key) {
            if let Some(RunStatus { state, .. }) = self.status_by_desk(key, &desk, view).await?
                && !matches!(state, RunState::Ended(_))
            {
                return Err(AdapterError::fatal(ReasonCode::InvalidTask, "the run has not ended: cancel it first"));
            }
            self.call("remove", proto::RunKey::from(key), send!(remove)).await?;
            return desk.remove(&key);
        }
        self.call("remove", proto::RunKey::from(key), send!(remove)).await.map(drop)
    }

    fn capabilities(&self) -> Capabilities {
        self.unit.about().map(|(_, can)| can).unwrap_or_default()
    }

    async fn servers(&self, follow: bool) -> Result<mpsc::Receiver<InventoryEvent>, AdapterError> {
        if !self.can().await?.streams_inventory {
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
        if !self.can().await?.reserves {
            return Err(AdapterError::unsupported("reserve capacity"));
        }
        self.checked("reserve", self.call("reserve", proto::ReserveRequest::from(request), send!(reserve)).await?)
    }

    async fn unreserve(&self, key: RunKey) -> Result<(), AdapterError> {
        if !self.can().await?.reserves {
            return Err(AdapterError::unsupported("reserve capacity"));
        }
        self.call("unreserve", proto::RunKey::from(key), send!(unreserve)).await.map(drop)
    }

    async fn provision(&self, request: ProvisionRequest) -> Result<Resource, AdapterError> {
        self.provisions().await?;
        let request = proto::ProvisionRequest::from(request);
        self.checked("provision", self.call("provision", request, send!(provision)).await?)
    }

    async fn modify(&self, tag: ResourceTag, need: Quantity) -> Result<Resource, AdapterError> {
        self.provisions().await?;
        let request = proto::ModifyRequest { tag: Some(tag.into()), need: Some(need.into()) };
        self.checked("modify", self.call("modify", request, send!(modify)).await?)
    }

    async fn power(&self, tag: ResourceTag, action: PowerAction) -> Result<Resource, AdapterError> {
        self.provisions().await?;
        let action = proto::PowerAction::from(action).into();
        let request = proto::PowerRequest { tag: Some(tag.into()), action };
        self.checked("power", self.call("power", request, send!(power)).await?)
    }

    async fn release(&self, tag: ResourceTag) -> Result<Resource, AdapterError> {
        self.provisions().await?;
        self.checked("release", self.call("release", proto::ResourceTag::from(tag), send!(release)).await?)
    }

    async fn resource(&self, tag: ResourceTag) -> Result<Option<Resource>, AdapterError> {
        self.provisions().await?;
        let reply = self.call("get_resource", proto::ResourceTag::from(tag), send!(get_resource)).await?;
        reply.resource.map(|resource| self.checked("get_resource", resource)).transpose()
    }
}

/// Runs whose jobs execute the runner.
impl PluginAdapter {
    /// The desk's view of a run, where the desk has it.
    fn at_desk(&self, key: &RunKey) -> Option<(Arc<RunDesk>, DeskView)> {
        let desk = &self.unit.setting.desk.as_ref()?.desk;
        desk.view(&self.unit.spec().name, key).map(|view| (Arc::clone(desk), view))
    }

    async fn platform_status(&self, key: RunKey) -> Result<Option<RunStatus>, AdapterError> {
        let reply = self.call("get_run", proto::RunKey::from(key), send!(get_run)).await?;
        let Some(run) = reply.run else { return Ok(None) };
        let status: RunStatus = self.checked("get_run", run)?;
        if status.key != key {
            return Err(self.broken("get_run", &WireError { field: "key", expected: "the key of the request" }));
        }
        Ok(Some(status))
    }

    /// Passes on what the desk hears, and looks into what changed on the platform.
    pub(super) async fn attend_desk(self, desk: Arc<RunDesk>, mut hints: mpsc::Receiver<Hint>) {
        let forwarding = by_runner::forward(Arc::clone(&self.unit), Arc::clone(&desk));
        let looking = async {
            while let Some(hint) = hints.recv().await {
                tokio::spawn(self.clone().look_into(Arc::clone(&desk), hint));
            }
        };
        tokio::join!(forwarding, looking);
    }

    async fn look_into(self, desk: Arc<RunDesk>, hint: Hint) {
        let adapter = &self.unit.spec().name;
        let done = match hint {
            Hint::Revenant(key) => {
                tracing::warn!(%adapter, task = %key.task, "its platform runs what is over: it is cancelled again");
                self.platform_cancel(key, 0).await
            }
            Hint::Gone(key) => {
                by_runner::until_parted(&desk, adapter, &key).await;
                match self.at_desk(&key) {
                    Some((desk, view)) => self.status_by_desk(key, &desk, view).await.map(drop),
                    None => Ok(()),
                }
            }
        };
        if let Err(error) = done {
            tracing::warn!(%adapter, %error, "a change on its platform cannot be looked into");
        }
    }

    async fn platform_cancel(&self, key: RunKey, grace_ms: u64) -> Result<(), AdapterError> {
        let request = proto::CancelRequest { key: Some(key.into()), grace_ms };
        self.call("cancel", request, send!(cancel)).await.map(drop)
    }

    async fn submit_by_desk(&self, request: RunRequest) -> Result<RunStatus, AdapterError> {
        let key = request.key;
        let Some(desk) = self.unit.setting.desk.as_ref().map(|link| Arc::clone(&link.desk)) else {
            let why = "its jobs report to a run desk, and the node has none: configure one";
            return Err(AdapterError::fatal(ReasonCode::BackendUnsupported, why));
        };
        desk.accept(&self.unit.spec().name, &request)?;
        let (_, view) =
            self.at_desk(&key).ok_or_else(|| AdapterError::passing(ReasonCode::Fenced, "it was removed"))?;
        if matches!(view.state, RunState::Ended(_)) || view.known_runner {
            return Ok(RunStatus { key, state: view.state });
        }
        let mut wire = proto::SubmitRequest::from(request);
        wire.desk = Some(desk.ticket(&key).into());
        let said = self.call("submit", wire, send!(submit)).await;
        if let Err(refused) = &said
            && !refused.retryable
            && self.at_desk(&key).is_some_and(|(_, view)| !view.known_runner && !view.submitted)
        {
            desk.remove(&key)?;
        }
        let status: RunStatus = self.checked("submit", said?)?;
        if status.key != key {
            return Err(self.broken("submit", &WireError { field: "key", expected: "the key of the request" }));
        }
        desk.submitted(&key)?;
        let now = self.at_desk(&key).map(|(_, view)| view);
        // cancelled meanwhile: the job is nobody's
        if now.as_ref().is_none_or(|view| matches!(view.state, RunState::Ended(_)) && !view.known_runner) {
            self.platform_cancel(key, 0).await?;
        }
        Ok(RunStatus { key, state: now.map_or(RunState::Starting, |view| view.state) })
    }

    async fn status_by_desk(
        &self,
        key: RunKey,
        desk: &Arc<RunDesk>,
        view: DeskView,
    ) -> Result<Option<RunStatus>, AdapterError> {
        let told = matches!(view.state, RunState::Ended(_)) || view.attended;
        let platform = if told { None } else { self.platform_status(key).await?.map(|status| status.state) };
        // it may have ended while the platform was asked
        let view = if told { Some(view) } else { desk.view(&self.unit.spec().name, &key) };
        let Some(view) = view else { return Ok(None) };
        Ok(match judge(&view, platform.as_ref(), desk.lost_after()) {
            Verdict::Stands(state) => Some(RunStatus { key, state }),
            Verdict::Unknown => None,
            Verdict::Over(end) => {
                by_runner::write(desk, key, end).await?;
                desk.view(&self.unit.spec().name, &key).map(|view| RunStatus { key, state: view.state })
            }
        })
    }

    async fn list_by_desk(
        &self,
        desk: &Arc<RunDesk>,
        platform: Vec<RunStatus>,
    ) -> Result<Vec<RunStatus>, AdapterError> {
        let name = &self.unit.spec().name;
        let platform: BTreeMap<RunKey, RunState> = platform.into_iter().map(|run| (run.key, run.state)).collect();
        let at_desk: BTreeMap<RunKey, DeskView> = desk.list(name).into_iter().collect();
        for (key, state) in &platform {
            if is_revenant(at_desk.get(key), state) {
                tracing::warn!(adapter = %name, task = %key.task, "its platform runs what is over: it is cancelled again");
                self.platform_cancel(*key, 0).await?;
            }
        }
        let mut runs = Vec::with_capacity(at_desk.len());
        for (key, view) in at_desk {
            match judge(&view, platform.get(&key), desk.lost_after()) {
                Verdict::Stands(state) => runs.push(RunStatus { key, state }),
                Verdict::Unknown => {}
                Verdict::Over(end) => {
                    by_runner::write(desk, key, end).await?;
                    runs.extend(desk.view(name, &key).map(|view| RunStatus { key, state: view.state }));
                }
            }
        }
        Ok(runs)
    }

    async fn cancel_by_desk(
        &self,
        key: RunKey,
        grace_ms: u64,
        desk: &Arc<RunDesk>,
        view: &DeskView,
    ) -> Result<(), AdapterError> {
        if matches!(view.state, RunState::Ended(_)) && view.known_runner {
            return Ok(());
        }
        desk.cancel(&key, grace_ms)?;
        if !view.attended {
            return self.platform_cancel(key, grace_ms).await;
        }
        // its runner ends it and tells how; the platform is asked where it does not
        let (this, desk) = (self.clone(), Arc::clone(desk));
        tokio::spawn(async move {
            let within = Duration::from_millis(grace_ms).saturating_add(RUNNER_ENDS_WITHIN);
            by_runner::until_ended(&desk, &this.unit.spec().name, &key, within).await;
            let over = this.at_desk(&key).is_none_or(|(_, view)| matches!(view.state, RunState::Ended(_)));
            if !over && let Err(error) = this.platform_cancel(key, 0).await {
                tracing::warn!(adapter = %this.unit.spec().name, %error, "a cancel cannot be passed on");
            }
        });
        Ok(())
    }
}

impl PluginAdapter {
    /// What it can; one that was never up is waited for, as it has told nothing yet.
    async fn can(&self) -> Result<Capabilities, AdapterError> {
        if let Some((_, can)) = self.unit.about() {
            return Ok(can);
        }
        drop(self.unit.take(None).await?);
        Ok(self.capabilities())
    }

    async fn provisions(&self) -> Result<(), AdapterError> {
        if self.can().await?.provisions { Ok(()) } else { Err(AdapterError::unsupported("make machines")) }
    }
}
