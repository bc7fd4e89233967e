//! The contract's verbs about runs, and what is shared with those about machines.

use super::config::{Class, Config};
use super::soap::{CallError, Soap};
use super::vim::{Object, extra};
use super::xml::escaped;
use crate::contract::{
    Adapter, AdapterDescription, AdapterError, AdapterHealth, LogChunk, LogStream, RunEnd, RunEvent, RunKey,
    RunRequest, RunState, RunStatus, Usage,
};
use crate::resources::{Capabilities, InventoryEvent, PowerAction, ProvisionRequest, Resource, ResourceTag};
use crate::rules::{Direction, Rules};
use crate::runner::DeskTicket;
use crate::southbound::{parse_tag, tag_of};
use async_trait::async_trait;
use cpi::reason::{Reason, ReasonCode};
use cpi::resource::{Firmness, PoolSpec, Quantity};
use data_encoding::BASE64;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, broadcast, mpsc};
use tokio::time::Instant;

/// Extra configuration: our tag.
const TAG: &str = "causeway.tag";
/// Everything is set, and the machine may be switched on.
const READY: &str = "causeway.ready";
/// When it was cloned, in ms since 1970, and how long it may run from then.
const MADE: &str = "causeway.made_ms";
const LIMIT: &str = "causeway.limit_ms";
/// The code of the reason for which it is being ended.
const STOP: &str = "causeway.stop";
/// What it has beyond processors and memory.
pub(super) const STORAGE: &str = "causeway.storage_bytes";
pub(super) const CHIPS: &str = "causeway.chip_milli";
/// What a machine gets beyond its time limit before it is switched off from outside.
const LIMIT_GRACE_MS: u64 = 60_000;
/// The largest user data, before base64.
const USER_DATA_BYTES_MAX: usize = 48 << 10;
const EVENTS_KEPT: usize = 65_536;

const PROPERTIES: [&str; 7] = [
    "name",
    "runtime.powerState",
    "runtime.host",
    "config.extraConfig",
    "config.hardware.numCPU",
    "config.hardware.memoryMB",
    "guest.ipAddress",
];

/// A machine of ours, as the vCenter has it.
#[derive(Debug, Clone)]
pub(super) struct Machine {
    pub(super) id: String,
    pub(super) on: bool,
    pub(super) extra: BTreeMap<String, String>,
    pub(super) cpus: u64,
    pub(super) memory_mb: u64,
    pub(super) address: String,
}

impl Machine {
    fn of(object: &Object) -> Self {
        let options = object.properties.get("config.extraConfig");
        let pair =
            |option: &super::xml::Element| (option.text_at("key").to_owned(), option.text_at("value").to_owned());
        Self {
            id: object.id.clone(),
            on: object.text("runtime.powerState") == "poweredOn",
            // of an option that stands twice the later one counts
            extra: options.map(|options| options.children.iter().map(pair).collect()).unwrap_or_default(),
            cpus: object.number("config.hardware.numCPU"),
            memory_mb: object.number("config.hardware.memoryMB"),
            address: object.text("guest.ipAddress").to_owned(),
        }
    }

    pub(super) fn tag(&self) -> &str {
        self.extra.get(TAG).map_or("", String::as_str)
    }

    pub(super) fn ready(&self) -> bool {
        self.extra.contains_key(READY)
    }

    pub(super) fn mark(&self, name: &str) -> u64 {
        self.extra.get(name).and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    /// Where the run stands, as far as the platform knows; how it ended is its runner's to say.
    pub(super) fn state(&self) -> RunState {
        let stopped = self.extra.get(STOP);
        match (self.on, stopped) {
            (true, _) => RunState::Running,
            (false, None) if !self.ready() => RunState::Starting,
            (false, stopped) => {
                let code = stopped.and_then(|code| ReasonCode::ALL.iter().find(|known| known.code() == code));
                let reason = match code {
                    Some(code) => Reason::new(*code, "the machine was switched off"),
                    None => Reason::new(ReasonCode::RunLost, "the machine is off"),
                };
                let usage = Usage::default();
                let outputs = Vec::new();
                RunState::Ended(RunEnd { exit_code: None, signal: None, reason: Some(reason), usage, outputs })
            }
        }
    }
}

/// What a machine is made of.
pub(super) struct Make<'a> {
    pub(super) tag: &'a str,
    pub(super) pool: &'a str,
    pub(super) class: &'a str,
    pub(super) need: Quantity,
    pub(super) template: Option<&'a str>,
    pub(super) user_data: &'a str,
    pub(super) limit_ms: Option<u64>,
}

/// A vCenter behind the contract.
pub(super) struct VmwareAdapter {
    pub(super) soap: Soap,
    pub(super) config: Config,
    pub(super) pools: Vec<PoolSpec>,
    pub(super) rules: Rules,
    events: broadcast::Sender<RunEvent>,
    told: Mutex<BTreeMap<RunKey, RunState>>,
    alone: Mutex<BTreeMap<String, Arc<AsyncMutex<()>>>>,
    /// For work that goes on after a call.
    pub(super) itself: Weak<Self>,
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// User data of a run: a script that has nothing of the run in it but the way to the node's desk.
pub(super) fn runner_script(tag: &str, runner: &str, desk: &DeskTicket) -> String {
    let mut script = format!("#!/bin/sh\n# Causeway's run {tag}. The machine switches itself off at the end.\n");
    for (name, value) in desk.variables() {
        let _ = writeln!(script, "export {name}={}", quoted(&value));
    }
    let _ = write!(
        script,
        "CAUSEWAY_RUN_DIR=$(mktemp -d) && export CAUSEWAY_RUN_DIR && cd \"$CAUSEWAY_RUN_DIR\" || exit 1\n{}\npoweroff\n",
        quoted(runner)
    );
    script
}

/// The instance UUID of a tag (version 8: made of a digest).
pub(super) fn uuid_of(tag: &str) -> String {
    let digest = Sha256::digest(format!("causeway {tag}"));
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    bytes[6] = (bytes[6] & 0x0f) | 0x80;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex = data_encoding::HEXLOWER.encode(&bytes);
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

fn now_ms() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0)
}

impl VmwareAdapter {
    pub(super) fn new(soap: Soap, config: Config, pools: Vec<PoolSpec>, rules: Rules, itself: Weak<Self>) -> Self {
        let (events, _) = broadcast::channel(EVENTS_KEPT);
        Self { soap, config, pools, rules, events, told: Mutex::default(), alone: Mutex::default(), itself }
    }

    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + Duration::from_millis(self.config.verb_ms)
    }

    /// What a failed call means.
    pub(super) fn refusal(&self, error: CallError) -> AdapterError {
        match error {
            CallError::Refused(error) => error,
            CallError::Down(why) => AdapterError::passing(ReasonCode::AdapterDown, why),
            CallError::Fault { name, text } => {
                let text: String = text.chars().take(200).map(|c| if c.is_control() { ' ' } else { c }).collect();
                let code = self.rules.convert(Direction::North, "fault", &json!({ "name": name }));
                let code = code.map_err(|error| error.to_string()).and_then(|made| {
                    serde_json::from_value::<ReasonCode>(made["code"].clone()).map_err(|error| error.to_string())
                });
                match code {
                    Ok(code) => AdapterError {
                        retryable: code.is_retryable(),
                        reason: Reason::new(code, format!("{name}: {text}")),
                    },
                    Err(why) => AdapterError::passing(ReasonCode::AdapterDown, format!("{name}: {text} ({why})")),
                }
            }
        }
    }

    pub(super) async fn hold(&self, tag: &str) -> OwnedMutexGuard<()> {
        let gate = {
            let mut alone = self.alone.lock().unwrap_or_else(PoisonError::into_inner);
            alone.retain(|_, gate| Arc::strong_count(gate) > 1);
            Arc::clone(alone.entry(tag.to_owned()).or_default())
        };
        gate.lock_owned().await
    }

    pub(super) fn class(&self, pool: &str, class: &str) -> Result<&Class, AdapterError> {
        let wrong = |why: String| AdapterError::fatal(ReasonCode::InvalidTask, why);
        if !self.pools.iter().any(|known| known.name == pool) {
            return Err(wrong(format!("pool: no pool {pool:?}")));
        }
        let found = self.config.classes.iter().find(|known| known.pool == pool && known.class == class);
        found.ok_or_else(|| wrong(format!("class: config.classes has none {class:?} of pool {pool:?}")))
    }

    /// The machine with a tag.
    pub(super) async fn find(&self, tag: &str) -> Result<Option<Machine>, AdapterError> {
        let found = async {
            let Some(id) = self.soap.by_uuid(&uuid_of(tag)).await? else { return Ok(None) };
            self.soap.one("VirtualMachine", &id, &PROPERTIES).await
        };
        let found = found.await.map_err(|error| self.refusal(error))?;
        Ok(found.map(|object| Machine::of(&object)).filter(|machine| machine.tag() == tag))
    }

    /// All machines with a tag of ours.
    pub(super) async fn machines(&self) -> Result<Vec<Machine>, AdapterError> {
        // names first: the extra configuration of a whole vCenter is large
        let named = self.soap.all("VirtualMachine", &["name"]).await.map_err(|error| self.refusal(error))?;
        let mut machines = Vec::new();
        for object in named.iter().filter(|object| object.text("name").starts_with("causeway-")) {
            let found = self.soap.one("VirtualMachine", &object.id, &PROPERTIES).await;
            if let Some(object) = found.map_err(|error| self.refusal(error))? {
                let machine = Machine::of(&object);
                if !machine.tag().is_empty() {
                    machines.push(machine);
                }
            }
        }
        Ok(machines)
    }

    async fn named(&self, kind: &str, name: &str, properties: &[&str]) -> Result<Object, AdapterError> {
        let all = self.soap.all(kind, properties).await.map_err(|error| self.refusal(error))?;
        let found = all.into_iter().find(|object| object.text("name") == name);
        found.ok_or_else(|| {
            let why = format!("config.classes: the vCenter has no {kind} called {name:?}");
            AdapterError::fatal(ReasonCode::BackendUnsupported, why)
        })
    }

    /// `numCPUs`, `memoryMB` and devices for what is needed.
    pub(super) fn size(&self, class: &Class, need: &Quantity, devices: bool) -> Result<String, AdapterError> {
        let unsupported = |why: String| AdapterError::fatal(ReasonCode::BackendUnsupported, why);
        let what = json!({ "cpu_milli": need.cpu_milli, "memory_bytes": need.memory_bytes,
            "storage_bytes": need.storage_bytes, "chip_milli": need.chip_milli });
        let size =
            self.rules.convert(Direction::South, "size", &what).map_err(|error| unsupported(error.to_string()))?;
        let mut spec = format!("<numCPUs>{}</numCPUs><memoryMB>{}</memoryMB>", size["cpus"], size["memory_mb"]);
        let count = if devices { size["devices"].as_u64().unwrap_or(0) } else { 0 };
        for number in 1..=count {
            let backing = match (&class.vgpu, class.pci) {
                (Some(profile), _) => format!(
                    r#"<backing xsi:type="VirtualPCIPassthroughVmiopBackingInfo"><vgpu>{}</vgpu></backing>"#,
                    escaped(profile)
                ),
                (None, Some(pci)) => format!(
                    r#"<backing xsi:type="VirtualPCIPassthroughDynamicBackingInfo"><deviceName></deviceName><allowedDevice><vendorId>{}</vendorId><deviceId>{}</deviceId></allowedDevice></backing>"#,
                    pci.vendor_id, pci.device_id
                ),
                (None, None) => {
                    let why = format!("class {}: config.classes names neither vgpu nor pci for its chips", class.class);
                    return Err(unsupported(why));
                }
            };
            let _ = write!(
                spec,
                r#"<deviceChange><operation>add</operation><device xsi:type="VirtualPCIPassthrough"><key>-{number}</key>{backing}</device></deviceChange>"#
            );
        }
        Ok(spec)
    }

    /// Makes a machine, or goes on where the making of it was broken off, and switches it on.
    pub(super) async fn make(&self, make: &Make<'_>) -> Result<Machine, AdapterError> {
        let class = self.class(make.pool, make.class)?;
        let deadline = self.deadline();
        let there = match self.find(make.tag).await? {
            Some(there) => there,
            None => {
                if make.user_data.len() > USER_DATA_BYTES_MAX {
                    let why = format!("user data: expected at most {USER_DATA_BYTES_MAX} bytes");
                    return Err(AdapterError::fatal(ReasonCode::InvalidTask, why));
                }
                // what cannot be sized is not cloned either
                self.size(class, &make.need, true)?;
                let cloned = self.clone_of(class, make, deadline).await;
                match (self.find(make.tag).await?, cloned) {
                    (Some(there), _) => there,
                    (None, Err(error)) => return Err(error),
                    (None, Ok(())) => {
                        return Err(AdapterError::passing(ReasonCode::AdapterDown, "cloned, and not there"));
                    }
                }
            }
        };
        if !there.ready() {
            let size = self.size(class, &make.need, true)?;
            let (storage, chips) = (make.need.storage_bytes.to_string(), make.need.chip_milli.to_string());
            let marks = extra([(STORAGE, storage.as_str()), (CHIPS, chips.as_str()), (READY, "1")]);
            let annotation = escaped(&format!("Causeway: {}", make.tag));
            self.reconfigure(&there.id, &format!("<annotation>{annotation}</annotation>{size}{marks}"), deadline)
                .await?;
        }
        if !there.on && !there.extra.contains_key(STOP) {
            match self.soap.task("PowerOnVM_Task", &there.id, "", deadline).await {
                Err(error) if !error.is("InvalidPowerState") => return Err(self.refusal(error)),
                _ => {}
            }
        }
        let lost = || AdapterError::passing(ReasonCode::RunLost, "the machine was deleted meanwhile");
        self.find(make.tag).await?.ok_or_else(lost)
    }

    async fn clone_of(&self, class: &Class, make: &Make<'_>, deadline: Instant) -> Result<(), AdapterError> {
        let cluster =
            self.named("ClusterComputeResource", &class.cluster, &["name", "resourcePool", "datastore"]).await?;
        let template = make.template.unwrap_or(&class.template);
        let template = self.named("VirtualMachine", template, &["name", "parent", "datastore"]).await?;
        let first = |object: &Object| {
            let list = object.properties.get("datastore")?;
            list.children.first().map(|store| store.text.clone())
        };
        let store = first(&template).or_else(|| first(&cluster)).unwrap_or_default();
        let made = now_ms().to_string();
        let limit = make.limit_ms.map(|limit| limit.to_string());
        let data = BASE64.encode(make.user_data.as_bytes());
        let mut marks = vec![(TAG, make.tag), (MADE, made.as_str())];
        marks.extend(limit.as_deref().map(|limit| (LIMIT, limit)));
        if !data.is_empty() {
            marks.push(("guestinfo.userdata", data.as_str()));
            marks.push(("guestinfo.userdata.encoding", "base64"));
        }
        let arguments = format!(
            r#"<folder type="Folder">{}</folder><name>{}</name><spec><location><datastore type="Datastore">{}</datastore><pool type="ResourcePool">{}</pool></location><template>false</template><config><instanceUuid>{}</instanceUuid>{}</config><powerOn>false</powerOn></spec>"#,
            escaped(template.text("parent")),
            escaped(make.tag),
            escaped(&store),
            escaped(cluster.text("resourcePool")),
            uuid_of(make.tag),
            extra(marks),
        );
        let cloned = self.soap.task("CloneVM_Task", &template.id, &arguments, deadline).await;
        cloned.map_err(|error| self.refusal(error))
    }

    pub(super) async fn reconfigure(&self, id: &str, spec: &str, deadline: Instant) -> Result<(), AdapterError> {
        let arguments = format!("<spec>{spec}</spec>");
        self.soap.task("ReconfigVM_Task", id, &arguments, deadline).await.map_err(|error| self.refusal(error))
    }

    pub(super) async fn switch_off(&self, machine: &Machine) -> Result<(), AdapterError> {
        if !machine.on {
            return Ok(());
        }
        match self.soap.task("PowerOffVM_Task", &machine.id, "", self.deadline()).await {
            Err(error) if !error.is("InvalidPowerState") && !error.is("ManagedObjectNotFound") => {
                Err(self.refusal(error))
            }
            _ => Ok(()),
        }
    }

    pub(super) async fn destroy(&self, machine: &Machine) -> Result<(), AdapterError> {
        self.switch_off(machine).await?;
        match self.soap.task("Destroy_Task", &machine.id, "", self.deadline()).await {
            Err(error) if !error.is("ManagedObjectNotFound") => Err(self.refusal(error)),
            _ => Ok(()),
        }
    }

    async fn stop(&self, machine: &Machine, code: ReasonCode) -> Result<(), AdapterError> {
        if !machine.extra.contains_key(STOP) {
            self.reconfigure(&machine.id, &extra([(STOP, code.code())]), self.deadline()).await?;
        }
        self.switch_off(machine).await
    }

    /// A run's state; ends one whose time is over and whose runner does not.
    async fn settle(&self, key: RunKey, machine: &Machine) -> Result<RunStatus, AdapterError> {
        let limit = machine.mark(LIMIT);
        let until = machine.mark(MADE).saturating_add(limit).saturating_add(LIMIT_GRACE_MS);
        let state = if machine.on && limit > 0 && now_ms() > until {
            self.stop(machine, ReasonCode::TimeLimit).await?;
            let now = self.find(machine.tag()).await?;
            now.map_or(RunState::Running, |now| now.state())
        } else {
            machine.state()
        };
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.insert(key, state.clone()).as_ref() != Some(&state) {
            let _ = self.events.send(RunEvent { key, state: state.clone() });
        }
        Ok(RunStatus { key, state })
    }

    /// Looks at all runs again and again while some are under way.
    pub(super) async fn poll(self: Arc<Self>) {
        loop {
            tokio::time::sleep(Duration::from_millis(self.config.poll_ms)).await;
            let under_way = {
                let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
                told.values().any(|state| !matches!(state, RunState::Ended(_)))
            };
            if under_way && let Err(error) = self.list().await {
                tracing::warn!(%error, "the machines cannot be listed");
            }
        }
    }
}

#[async_trait]
impl Adapter for VmwareAdapter {
    fn describe(&self) -> AdapterDescription {
        AdapterDescription {
            backend: "vmware".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            runs_commands: true,
            runs_images: false,
            stops_on_lapse: true,
            firmness: Firmness::Estimate,
        }
    }

    async fn health(&self) -> AdapterHealth {
        let mut notes = self.soap.endpoint.notes.clone();
        let ready = match self.soap.content().await {
            Ok(content) => {
                notes.push(content.about);
                true
            }
            Err(error) => {
                notes.push(self.refusal(error).to_string());
                false
            }
        };
        AdapterHealth { ready, notes }
    }

    async fn inventory(&self) -> Result<Vec<PoolSpec>, AdapterError> {
        self.discovered_pools().await
    }

    async fn submit(&self, request: RunRequest) -> Result<RunStatus, AdapterError> {
        let _ = request;
        Err(AdapterError::unsupported("run anything without the node's run desk"))
    }

    async fn submit_by_runner(&self, request: RunRequest, desk: DeskTicket) -> Result<RunStatus, AdapterError> {
        if request.image.is_some() {
            let why = "image: machines are cloned from templates, not made of container images";
            return Err(AdapterError::fatal(ReasonCode::BackendUnsupported, why));
        }
        if request.command.first().is_none_or(String::is_empty) {
            return Err(AdapterError::fatal(ReasonCode::InvalidTask, "command: expected a program"));
        }
        let tag = tag_of(request.key);
        let _alone = self.hold(&tag).await;
        let user_data = runner_script(&tag, &self.config.runner, &desk);
        let machine = self
            .make(&Make {
                tag: &tag,
                pool: &request.pool,
                class: &request.class,
                need: request.need,
                template: None,
                user_data: &user_data,
                limit_ms: Some(request.max_runtime_ms.saturating_add(desk.linger_ms)),
            })
            .await?;
        self.settle(request.key, &machine).await
    }

    async fn status(&self, key: RunKey) -> Result<Option<RunStatus>, AdapterError> {
        match self.find(&tag_of(key)).await? {
            Some(machine) => self.settle(key, &machine).await.map(Some),
            None => Ok(None),
        }
    }

    async fn list(&self) -> Result<Vec<RunStatus>, AdapterError> {
        let mut runs = BTreeMap::new();
        for machine in self.machines().await? {
            if let Some(key) = parse_tag(machine.tag())
                && !runs.contains_key(&key)
            {
                runs.insert(key, self.settle(key, &machine).await?);
            }
        }
        Ok(runs.into_values().collect())
    }

    fn watch(&self) -> broadcast::Receiver<RunEvent> {
        self.events.subscribe()
    }

    async fn logs(&self, _: RunKey, _: LogStream, _: u64, _: usize) -> Result<LogChunk, AdapterError> {
        Err(AdapterError::unsupported("tell logs: its runs report to the node's run desk"))
    }

    async fn renew(&self, _: RunKey, _: u64) -> Result<(), AdapterError> {
        Err(AdapterError::unsupported("renew leases: its runs report to the node's run desk"))
    }

    async fn cancel(&self, key: RunKey, _: u64) -> Result<(), AdapterError> {
        let tag = tag_of(key);
        // not in the middle of the making of it
        let _alone = self.hold(&tag).await;
        let Some(machine) = self.find(&tag).await? else { return Ok(()) };
        if !matches!(machine.state(), RunState::Ended(_)) {
            self.stop(&machine, ReasonCode::Cancelled).await?;
        }
        Ok(())
    }

    /// Also where the machine is still on: the runner told the node of the end before it is off.
    async fn remove(&self, key: RunKey) -> Result<(), AdapterError> {
        let tag = tag_of(key);
        let _alone = self.hold(&tag).await;
        if let Some(machine) = self.find(&tag).await? {
            self.destroy(&machine).await?;
        }
        self.told.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        Ok(())
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { reserves: false, provisions: true, streams_inventory: true, exclusive: false, by_runner: true }
    }

    async fn servers(&self, follow: bool) -> Result<mpsc::Receiver<InventoryEvent>, AdapterError> {
        self.tell(follow).await
    }

    async fn provision(&self, request: ProvisionRequest) -> Result<Resource, AdapterError> {
        self.provision_machine(request).await
    }

    async fn modify(&self, tag: ResourceTag, need: Quantity) -> Result<Resource, AdapterError> {
        self.modify_machine(tag, need).await
    }

    async fn power(&self, tag: ResourceTag, action: PowerAction) -> Result<Resource, AdapterError> {
        self.power_machine(tag, action).await
    }

    async fn release(&self, tag: ResourceTag) -> Result<Resource, AdapterError> {
        self.release_machine(tag).await
    }

    async fn resource(&self, tag: ResourceTag) -> Result<Option<Resource>, AdapterError> {
        self.machine_with(tag).await
    }
}
