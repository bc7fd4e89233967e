//! What people see of a plugin.

use cpi::ids::ContentDigest;
use serde::Serialize;

/// Whether a plugin works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PluginState {
    /// Nobody needed it yet.
    Idle,
    /// Being started, or waiting to be started again.
    Starting,
    /// At least one process takes calls.
    Running,
    /// It failed too often, or in a way that starting again does not cure.
    Quarantined,
}

/// A plugin.
#[derive(Debug, Clone, Serialize)]
pub struct PluginView {
    /// Its name.
    pub name: String,
    /// Whether it works.
    pub state: PluginState,
    /// What its program has to hash to.
    pub sha256: ContentDigest,
    /// The same of the version that `rollback` would bring back.
    pub previous_sha256: Option<ContentDigest>,
    /// Its processes.
    pub instances: Vec<InstanceView>,
    /// How often a process of it was started.
    pub starts: u64,
    /// How often one failed.
    pub failures: u64,
    /// Why it is quarantined, or why its last process failed.
    pub reason: Option<String>,
    /// What happened to it, newest last.
    pub history: Vec<String>,
    /// JSON Schema of its configuration, once one of its processes told it.
    pub config_schema: Option<serde_json::Value>,
}

/// A process of a plugin.
#[derive(Debug, Clone, Serialize)]
pub struct InstanceView {
    /// Counts the plugin's processes.
    pub number: u64,
    /// Its process id.
    pub pid: u32,
    /// The backend's kind.
    pub backend: String,
    /// The plugin's version.
    pub version: String,
    /// The agreed protocol number.
    pub protocol: u32,
    /// How long it runs, in ms.
    pub up_ms: u64,
    /// Calls under way.
    pub calls: usize,
    /// Whether it said that it is ready at its last heartbeat.
    pub ready: bool,
    /// What it noted then.
    pub notes: Vec<String>,
}
