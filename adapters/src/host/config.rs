//! What an operator says of a plugin, and how patient the host is.

use cpi::ids::ContentDigest;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// A program of a plugin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProgramSpec {
    /// The file. It is copied and the copy is run, so a script must not look for files beside itself.
    pub path: PathBuf,
    /// Arguments. No secrets: every process of the machine can read them.
    #[serde(default)]
    pub args: Vec<String>,
    /// What the file must hash to, `sha256:` and 64 digits. A program that differs is not run.
    pub sha256: ContentDigest,
}

/// A plugin as its operator wants it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PluginSpec {
    /// What pools call it in `backend`.
    pub name: String,
    /// What runs.
    pub program: ProgramSpec,
    /// Its own configuration, which its schema describes. Default: an empty object.
    #[serde(default = "empty")]
    pub config: serde_json::Value,
    /// Names of the vault's secrets that each call carries. Default: none.
    #[serde(default)]
    pub credentials: Vec<String>,
    /// How many processes share the calls, 1 to 8. Default 1; an exclusive backend allows 1.
    #[serde(default = "one")]
    pub replicas: u8,
    /// What a process of it may use.
    #[serde(default)]
    pub limits: Limits,
}

fn empty() -> serde_json::Value {
    serde_json::Value::Object(serde_json::Map::new())
}

fn one() -> u8 {
    1
}

/// What a plugin's process may use; 0 means no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Resident memory in bytes; over it the process is replaced. Default 256 MiB.
    pub memory_bytes: u64,
    /// Thousandths of a core, on average over ten heartbeats; over it the process is replaced. Default 2,000.
    pub cpu_milli: u64,
    /// Open files. Inherited by what it starts. Default 1,024.
    pub files: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { memory_bytes: 256 << 20, cpu_milli: 2000, files: 1024 }
    }
}

/// How patient the host is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timing {
    /// From the start of a process until it must be healthy, in ms. Default 10,000.
    pub start_ms: u64,
    /// For one call, in ms. Default 10,000.
    pub call_ms: u64,
    /// How long a call waits for a plugin that is being started or replaced, in ms. Default 5,000.
    pub wait_ms: u64,
    /// Between two heartbeats, in ms. Default 1,000.
    pub heartbeat_ms: u64,
    /// Heartbeats in a row that may be missed, each after `heartbeat_ms`. Default 3.
    pub heartbeats_missed_max: u32,
    /// The first wait before a restart, in ms; it doubles, with jitter. Default 200.
    pub backoff_ms_min: u64,
    /// The longest wait before a restart, in ms. Default 30,000.
    pub backoff_ms_max: u64,
    /// Failures within `flap_window_ms` after which a plugin is quarantined. Default 5.
    pub flaps_max: u32,
    /// See `flaps_max`, in ms. Default 60,000.
    pub flap_window_ms: u64,
    /// How long a quarantine lasts, in ms; a reset and a swap end it. Default 600,000.
    pub quarantine_ms: u64,
    /// How long the old process may take to finish its calls in a swap, in ms. Default 30,000.
    pub drain_ms: u64,
    /// How long after a swap a failure brings the old version back, in ms. Default 30,000.
    pub probation_ms: u64,
    /// Changes of runs that a plugin may send in one second. Default 20,000.
    pub events_per_second_max: u32,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            start_ms: 10_000,
            call_ms: 10_000,
            wait_ms: 5_000,
            heartbeat_ms: 1_000,
            heartbeats_missed_max: 3,
            backoff_ms_min: 200,
            backoff_ms_max: 30_000,
            flaps_max: 5,
            flap_window_ms: 60_000,
            quarantine_ms: 600_000,
            drain_ms: 30_000,
            probation_ms: 30_000,
            events_per_second_max: 20_000,
        }
    }
}

impl Timing {
    pub(super) fn heartbeat(&self) -> Duration {
        Duration::from_millis(self.heartbeat_ms.max(1))
    }

    pub(super) fn call(&self) -> Duration {
        Duration::from_millis(self.call_ms)
    }

    pub(super) fn start(&self) -> Duration {
        Duration::from_millis(self.start_ms)
    }
}
