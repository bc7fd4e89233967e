//! Adapters and plugins as people and programs see them: the JSON shapes of `/v1/adapters`.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use utoipa::ToSchema;

/// A backend behind pools.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AdapterView {
    /// Its name: what pools say in `backend`.
    pub name: String,
    /// The kind of backend.
    pub backend: String,
    /// Its version.
    pub version: String,
    /// `built_in`, `configured` (a plugin of the configuration) or `registered` (a plugin added at run time).
    pub origin: String,
    /// Of a plugin: `idle`, `starting`, `running` or `quarantined`.
    pub state: Option<String>,
    /// Whether new runs can be started.
    pub ready: bool,
    /// Whether it runs commands.
    pub runs_commands: bool,
    /// Whether it runs container images.
    pub runs_images: bool,
    /// Whether a run stops by itself once its lease lapsed.
    pub stops_on_lapse: bool,
    /// Whether it sets capacity aside on its platform.
    pub reserves: bool,
    /// Whether it makes, changes and deletes machines.
    pub provisions: bool,
    /// `held`, `reserved`, `estimate`.
    pub firmness: String,
    /// The pools it drives.
    pub pools: Vec<String>,
    /// What is wrong or limited.
    pub notes: Vec<String>,
}

/// A backend with what its plugin does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AdapterDetail {
    /// The backend.
    pub adapter: AdapterView,
    /// Its plugin; none for those built in.
    pub plugin: Option<PluginDetail>,
}

/// A plugin.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PluginDetail {
    /// What its program hashes to.
    pub sha256: String,
    /// The same of the version that a rollback would bring back.
    pub previous_sha256: Option<String>,
    /// Its processes that take calls.
    pub processes: Vec<PluginProcess>,
    /// How often a process of it was started.
    pub starts: u64,
    /// How often one failed.
    pub failures: u64,
    /// Why it is quarantined, or why its last process failed.
    pub reason: Option<String>,
    /// What happened to it, newest last.
    pub history: Vec<String>,
    /// JSON Schema of its configuration, once one of its processes told it.
    #[schema(value_type = Option<Object>)]
    pub config_schema: Option<serde_json::Value>,
}

/// A process of a plugin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PluginProcess {
    /// Counts the plugin's processes.
    pub number: u64,
    /// Its process id.
    pub pid: u32,
    /// The plugin's version.
    pub version: String,
    /// The agreed protocol number.
    pub protocol: u32,
    /// How long it runs, in ms.
    pub up_ms: u64,
    /// Calls under way.
    pub calls: u64,
    /// Whether it said that it is ready at its last heartbeat.
    pub ready: bool,
    /// What it noted then.
    pub notes: Vec<String>,
}

/// The newest lines that a plugin wrote, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AdapterLog {
    /// Each with the number of its process and its stream in front. What its credentials hold is left out.
    pub lines: Vec<String>,
}

/// A plugin to register at run time.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RegisterPlugin {
    /// What its pools say in `backend`: 1 to 32 lower-case letters, digits and hyphens.
    #[schema(example = "slurm-east")]
    pub name: String,
    /// Its program, which lies below the node's `adapters.host.plugins_dir`. Absent: the plugin of this name there.
    #[schema(value_type = Option<String>)]
    #[serde(default)]
    pub path: Option<PathBuf>,
    /// The program's arguments. No secrets.
    #[serde(default)]
    pub args: Vec<String>,
    /// What the program must hash to.
    #[schema(example = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")]
    pub sha256: String,
    /// Its own configuration. No secrets: those are in the vault.
    #[schema(value_type = Object)]
    #[serde(default)]
    pub config: serde_json::Map<String, serde_json::Value>,
    /// Names of the vault's secrets that its calls carry.
    #[serde(default)]
    pub credentials: Vec<String>,
    /// How many processes share the calls, 1 to 8. Default 1.
    #[serde(default)]
    pub replicas: Option<u8>,
    /// What each process may use: `memory_bytes`, `cpu_milli`, `files`.
    #[schema(value_type = Object)]
    #[serde(default)]
    pub limits: adapters::host::Limits,
    /// Its pools, as the configuration would declare them.
    #[schema(value_type = Vec<Object>)]
    #[serde(default)]
    pub pools: Vec<cpi::resource::PoolSpec>,
}

/// Another program for a plugin.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SwapPlugin {
    /// The program, which lies below the node's `adapters.host.plugins_dir`.
    #[schema(value_type = String)]
    pub path: PathBuf,
    /// Its arguments.
    #[serde(default)]
    pub args: Vec<String>,
    /// What it must hash to.
    pub sha256: String,
}

/// Where the conformance suite runs.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TestPlugin {
    /// Must be true: the suite starts and ends real runs, and makes and deletes machines where the backend can.
    pub starts_runs: bool,
    /// The pool, which takes no new work and has no runs. Absent: the adapter's only one.
    #[serde(default)]
    pub pool: Option<String>,
    /// The class of servers. Absent: the pool's first without chips, or else its first.
    #[serde(default)]
    pub class: Option<String>,
}

/// A conformance suite of an adapter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AdapterTestView {
    /// The adapter.
    pub adapter: String,
    /// `running` or `done`.
    pub state: String,
    /// The pool.
    pub pool: String,
    /// The class of servers.
    pub class: String,
    /// Cases that held.
    pub passed: u32,
    /// Cases that did not.
    pub failed: u32,
    /// All cases, once it is done.
    pub cases: Vec<CaseView>,
}

/// A case of the suite.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CaseView {
    /// What it checks.
    pub case: String,
    /// The kind of accelerator, for cases about one.
    pub chip: Option<String>,
    /// What went wrong, where it did not hold.
    pub failure: Option<String>,
}
