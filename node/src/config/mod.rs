//! The node's configuration: one TOML file, `CAUSEWAY_SECTION__KEY` over it, flags over both, defaults below all.
//!
//! A key that is not known is an error that names the place and the nearest key. What was loaded is validated once, here;
//! every other room receives its typed section. It leaves the meaning of the values to the rooms that own them.

mod adapters;
mod error;
mod keys;
mod load;
mod print;
mod section;
mod sections;
#[cfg(test)]
mod tests;
mod validate;

pub use error::{ConfigError, ConfigProblem};
pub use load::{ConfigInput, ConfigLoader, LoadedConfig};
pub use print::{Detail, print};
pub use section::{KeyDoc, Section};
pub use sections::{
    AdaptersConfig, ArtifactsConfig, AwardMode, DataConfig, DeskSection, FakeConfig, HostSection, HttpConfig,
    Isolation, LocalConfig, LogConfig, LogFormat, MeshConfig, NegotiationSection, NodeSection, PluginSection,
    RegionConfig, RegistryConfig,
};
pub(crate) use validate::validate;

use cpi::resource::PoolSpec;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Everything that a node is told by its operator.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodeConfig {
    /// Where this node stands.
    pub region: RegionConfig,
    /// The process.
    pub node: NodeSection,
    /// What is kept on disk.
    pub data: DataConfig,
    /// The HTTP interface.
    pub http: HttpConfig,
    /// The peer-to-peer side.
    pub mesh: MeshConfig,
    /// The replicated registry.
    pub registry: RegistryConfig,
    /// How tasks are placed.
    pub negotiation: NegotiationSection,
    /// The backends.
    pub adapters: AdaptersConfig,
    /// Inputs and outputs of tasks.
    pub artifacts: ArtifactsConfig,
    /// The node's own log.
    pub log: LogConfig,
    /// What this region shares.
    pub pools: Vec<PoolSpec>,
}

impl NodeConfig {
    /// The folder of keys; only its owner may enter it.
    pub fn keys_dir(&self) -> PathBuf {
        self.data.dir.join("keys")
    }

    /// The file with the API key.
    pub fn api_key_file(&self) -> PathBuf {
        self.data.dir.join("api.key")
    }

    /// The file that names the addresses of the running node.
    pub fn node_file(&self) -> PathBuf {
        self.data.dir.join("node.json")
    }

    /// The folder of the registry: `log`, `state/<generation>`.
    pub fn registry_dir(&self) -> PathBuf {
        self.data.dir.join("registry")
    }

    /// The folder of the node's durable records.
    pub fn records_dir(&self) -> PathBuf {
        self.data.dir.join("records")
    }

    /// The folder of artifacts.
    pub fn artifacts_dir(&self) -> PathBuf {
        self.data.dir.join("artifacts")
    }

    /// The plugins' folder: copies of their programs, and their logs.
    pub fn plugins_dir(&self) -> PathBuf {
        self.data.dir.join("plugins")
    }

    /// The vault, and the file of its key.
    pub fn vault_files(&self) -> (PathBuf, PathBuf) {
        let host = &self.adapters.host;
        let or = |set: &PathBuf, other: PathBuf| if set.as_os_str().is_empty() { other } else { set.clone() };
        (or(&host.vault, self.data.dir.join("vault")), or(&host.vault_key, self.keys_dir().join("vault.key")))
    }

    /// The folder of runs.
    pub fn runs_dir(&self) -> PathBuf {
        self.data.dir.join("runs")
    }
}
