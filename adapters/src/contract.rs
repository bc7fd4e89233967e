//! The northbound contract: what every backend offers to the node, whatever its platform is.
//!
//! The node holds intent and outcome on disk; a backend holds nothing that it cannot find again by its platform and our
//! tag. Every verb may be repeated: `submit` with the same [`RunKey`] finds the run that is there.

use crate::resources::{
    Capabilities, InventoryEvent, PowerAction, ProvisionRequest, Reservation, ReserveRequest, Resource, ResourceTag,
};
use crate::runner::DeskTicket;
use async_trait::async_trait;
use cpi::ids::{ContentDigest, Fence, TaskId};
use cpi::reason::{Reason, ReasonCode};
use cpi::resource::{Firmness, PoolSpec, Quantity};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What a run is known by, here and on the platform: its tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RunKey {
    /// The task.
    pub task: TaskId,
    /// The attempt.
    pub fence: Fence,
}

/// Everything a backend needs to start a run. Inputs are files on the node's disk, verified against their digests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRequest {
    /// The run's tag.
    pub key: RunKey,
    /// The pool it runs in.
    pub pool: String,
    /// The server class chosen in the pool.
    pub class: String,
    /// What it may use.
    pub need: Quantity,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Container image, where given.
    pub image: Option<String>,
    /// Environment; the backend adds `CAUSEWAY_TASK`, `CAUSEWAY_FENCE` and `CAUSEWAY_CHIPS`.
    pub env: BTreeMap<String, String>,
    /// Files to put into the run's folder.
    pub inputs: Vec<RunInput>,
    /// Files to keep after the end.
    pub outputs: Vec<RunOutput>,
    /// The run is ended with [`ReasonCode::TimeLimit`] after this time.
    pub max_runtime_ms: u64,
    /// The lease: without a renewal for this time the run freezes (`freeze_on_lapse`) until renewed or cancelled.
    pub lease_ttl_ms: u64,
    /// Whether a lapse freezes the run (`on_partition = stop`) or leaves it running (`finish`).
    pub freeze_on_lapse: bool,
}

/// An input of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunInput {
    /// Relative path in the run's folder.
    pub path: String,
    /// Where the content lies on the node's disk.
    pub source: PathBuf,
    /// What it must hash to.
    pub digest: ContentDigest,
    /// Whether it is a program.
    pub executable: bool,
}

/// An output of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunOutput {
    /// Relative path in the run's folder.
    pub path: String,
    /// Whether its absence is no failure.
    pub optional: bool,
}

/// Where a run stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum RunState {
    /// Accepted by the backend, not running yet.
    Starting,
    /// Running.
    Running,
    /// The lease lapsed and the run is stopped until it is renewed.
    Frozen,
    /// Over.
    Ended(RunEnd),
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunEnd {
    /// The exit code, where the program exited.
    pub exit_code: Option<i32>,
    /// The signal, where it was ended by one.
    pub signal: Option<i32>,
    /// `None` for exit code 0 with all outputs there.
    pub reason: Option<Reason>,
    /// What it used.
    pub usage: Usage,
    /// Outputs found in the run's folder: path, where the file lies, digest and length.
    pub outputs: Vec<OutputFound>,
}

/// An output file after the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputFound {
    /// Relative path in the run's folder, as declared.
    pub path: String,
    /// Where the file lies on the node's disk.
    pub source: PathBuf,
    /// SHA-256 of the content.
    pub digest: ContentDigest,
    /// Its length.
    pub size_bytes: u64,
}

/// What a run used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Elapsed time.
    pub wall_ms: u64,
    /// Processor time, user and system.
    pub cpu_ms: u64,
    /// The most memory held at once.
    pub memory_peak_bytes: u64,
}

/// A run as the backend knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunStatus {
    /// Its tag.
    pub key: RunKey,
    /// Where it stands.
    pub state: RunState,
}

/// A change of a run. Late, duplicate and reordered events are allowed; `status` tells the truth.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunEvent {
    /// Which run.
    pub key: RunKey,
    /// Its new state.
    pub state: RunState,
}

/// Which of a run's two streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A piece of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogChunk {
    /// Offset of the first byte in the stream.
    pub offset: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Whether the run ended and nothing follows.
    pub end: bool,
}

/// What a backend says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdapterDescription {
    /// Backend kind, for example `local`.
    pub backend: String,
    /// Its version.
    pub version: String,
    /// Whether it runs commands.
    pub runs_commands: bool,
    /// Whether it runs container images.
    pub runs_images: bool,
    /// Whether a run stops by itself once its lease lapsed.
    pub stops_on_lapse: bool,
    /// How sure its capacity is.
    pub firmness: Firmness,
}

/// Whether a backend works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdapterHealth {
    /// Whether new runs can be started.
    pub ready: bool,
    /// What is wrong, or what is limited (for example `limits by rlimits: no cgroup is writable`).
    pub notes: Vec<String>,
}

/// Why a verb failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{reason}")]
pub struct AdapterError {
    /// Whether the same call may succeed later.
    pub retryable: bool,
    /// What a person will see.
    pub reason: Reason,
}

impl AdapterError {
    /// An error that asking again will not cure.
    pub fn fatal(code: ReasonCode, detail: impl Into<String>) -> Self {
        Self { retryable: false, reason: Reason::new(code, detail) }
    }

    /// An error that may pass.
    pub fn passing(code: ReasonCode, detail: impl Into<String>) -> Self {
        Self { retryable: true, reason: Reason::new(code, detail) }
    }

    /// A verb that the backend has not got.
    pub fn unsupported(verb: &str) -> Self {
        Self::fatal(ReasonCode::BackendUnsupported, format!("the backend cannot {verb}"))
    }
}

/// Refuses what no server of the run's class has cores or memory for, even empty. A class that is not among `pools` is left to
/// the caller.
pub(crate) fn fits_class(pools: &[PoolSpec], request: &RunRequest) -> Result<(), AdapterError> {
    let classes = pools.iter().filter(|pool| pool.name == request.pool).flat_map(|pool| &pool.classes);
    let Some(class) = classes.into_iter().find(|class| class.name == request.class) else { return Ok(()) };
    let (has, need) = (&class.per_server, &request.need);
    if need.cpu_milli > has.cpu_milli || need.memory_bytes > has.memory_bytes {
        let why = format!("a server of class {} has {} thousandths of a core", class.name, has.cpu_milli);
        return Err(AdapterError::fatal(ReasonCode::ShapeTooLarge, why));
    }
    Ok(())
}

/// A backend.
#[async_trait]
pub trait Adapter: Send + Sync + 'static {
    /// What it is and can.
    fn describe(&self) -> AdapterDescription;

    /// Whether it works now.
    async fn health(&self) -> AdapterHealth;

    /// The pools it drives, as configured or discovered.
    async fn inventory(&self) -> Result<Vec<PoolSpec>, AdapterError>;

    /// Starts a run, or finds the one that has this key. Returns once the intent is on disk and the run is starting.
    async fn submit(&self, request: RunRequest) -> Result<RunStatus, AdapterError>;

    /// Likewise, for backends whose capabilities say `by_runner`: the job executes `causeway-runner` with this ticket.
    async fn submit_by_runner(&self, request: RunRequest, desk: DeskTicket) -> Result<RunStatus, AdapterError> {
        let _ = (request, desk);
        Err(AdapterError::unsupported("start the runner"))
    }

    /// Where a run stands; `None` if no run has this key.
    async fn status(&self, key: RunKey) -> Result<Option<RunStatus>, AdapterError>;

    /// Why a run that was accepted does not run yet, where its platform says so; `None` where it runs, ended, or nothing is said.
    async fn waiting(&self, key: RunKey) -> Result<Option<Reason>, AdapterError> {
        let _ = key;
        Ok(None)
    }

    /// All runs that are still known, ended ones too: what a restarted node re-attaches to.
    async fn list(&self) -> Result<Vec<RunStatus>, AdapterError>;

    /// A subscription to changes of all runs.
    fn watch(&self) -> tokio::sync::broadcast::Receiver<RunEvent>;

    /// At most `bytes_max` bytes of a log from `offset`. Empty and not `end` while the run has not written more.
    async fn logs(
        &self,
        key: RunKey,
        stream: LogStream,
        offset: u64,
        bytes_max: usize,
    ) -> Result<LogChunk, AdapterError>;

    /// Extends the lease of a run to `ttl_ms` from now, and thaws it.
    async fn renew(&self, key: RunKey, ttl_ms: u64) -> Result<(), AdapterError>;

    /// Ends a run: a polite signal, and after `grace_ms` a kill of everything it started. Idempotent.
    async fn cancel(&self, key: RunKey, grace_ms: u64) -> Result<(), AdapterError>;

    /// Forgets an ended run and removes its folder. Idempotent.
    async fn remove(&self, key: RunKey) -> Result<(), AdapterError>;

    // ---- machines: only for backends whose `capabilities` say so ----

    /// What it can beyond running tasks.
    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    /// All servers and volumes, then [`InventoryEvent::Synced`], then with `follow` each change until the receiver is
    /// dropped. A receiver that reads slowly slows the backend down; nothing is dropped.
    async fn servers(&self, follow: bool) -> Result<tokio::sync::mpsc::Receiver<InventoryEvent>, AdapterError> {
        let _ = follow;
        Err(AdapterError::unsupported("tell its servers one by one"))
    }

    /// Sets capacity aside on the platform, or prolongs what is set aside for this key.
    async fn reserve(&self, request: ReserveRequest) -> Result<Reservation, AdapterError> {
        let _ = request;
        Err(AdapterError::unsupported("reserve capacity"))
    }

    /// Gives a reservation back. Idempotent.
    async fn unreserve(&self, key: RunKey) -> Result<(), AdapterError> {
        let _ = key;
        Err(AdapterError::unsupported("reserve capacity"))
    }

    /// Begins to make a machine, or finds the one that has this tag.
    async fn provision(&self, request: ProvisionRequest) -> Result<Resource, AdapterError> {
        let _ = request;
        Err(AdapterError::unsupported("make machines"))
    }

    /// Changes what a machine has.
    async fn modify(&self, tag: ResourceTag, need: Quantity) -> Result<Resource, AdapterError> {
        let _ = (tag, need);
        Err(AdapterError::unsupported("change machines"))
    }

    /// Switches a machine on or off.
    async fn power(&self, tag: ResourceTag, action: PowerAction) -> Result<Resource, AdapterError> {
        let _ = (tag, action);
        Err(AdapterError::unsupported("switch machines"))
    }

    /// Deletes a machine. Idempotent.
    async fn release(&self, tag: ResourceTag) -> Result<Resource, AdapterError> {
        let _ = tag;
        Err(AdapterError::unsupported("delete machines"))
    }

    /// Where a machine stands; `None` if none has this tag.
    async fn resource(&self, tag: ResourceTag) -> Result<Option<Resource>, AdapterError> {
        let _ = tag;
        Err(AdapterError::unsupported("make machines"))
    }
}
