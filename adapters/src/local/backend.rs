//! The `local` backend as a plugin: what it is told. The plugin's program is the runs' supervisor as well.

use super::{LocalAdapter, LocalConfig, UidRange};
use crate::contract::{Adapter, AdapterError};
use crate::plugin::Backend;
use async_trait::async_trait;
use cpi::reason::ReasonCode;
use cpi::resource::PoolSpec;
use serde::Deserialize;
use std::path::PathBuf;
use std::sync::Arc;

/// Opens a [`LocalAdapter`] in a plugin's process. Runs outlive the process, and the next one finds them.
#[derive(Debug, Clone, Copy, Default)]
pub struct LocalBackend;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    runs_dir: PathBuf,
    #[serde(default)]
    uid_first: u32,
    #[serde(default)]
    uid_count: u32,
    cgroup: Option<String>,
    #[serde(default)]
    readable: Vec<PathBuf>,
    #[serde(default)]
    isolation_required: bool,
    log_bytes_max: Option<u64>,
    processes_max: Option<u32>,
}

#[async_trait]
impl Backend for LocalBackend {
    fn kind(&self) -> String {
        "local".to_owned()
    }

    /// Two of them would hear each other's supervisors.
    fn exclusive(&self) -> bool {
        true
    }

    fn config_schema(&self) -> serde_json::Value {
        serde_json::json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "additionalProperties": false,
            "required": ["runs_dir"],
            "properties": {
                "runs_dir": { "type": "string", "description": "Where run folders lie; made with mode 0700." },
                "uid_first": { "type": "integer", "minimum": 0, "default": 0,
                    "description": "First user id for runs; 0 lets it choose a range." },
                "uid_count": { "type": "integer", "minimum": 0, "default": 0, "description": "How many of them." },
                "cgroup": { "type": "string", "default": "causeway", "description": "Group below which runs get theirs." },
                "readable": { "type": "array", "items": { "type": "string" },
                    "description": "Paths that runs may read beyond the usual ones." },
                "isolation_required": { "type": "boolean", "default": false },
                "log_bytes_max": { "type": "integer", "minimum": 1 },
                "processes_max": { "type": "integer", "minimum": 1 }
            }
        })
    }

    async fn open(&self, config: serde_json::Value, pools: Vec<PoolSpec>) -> Result<Arc<dyn Adapter>, AdapterError> {
        let wrong = |why: String| AdapterError::fatal(ReasonCode::InvalidTask, format!("config: {why}"));
        let config: Config = serde_json::from_value(config).map_err(|error| wrong(error.to_string()))?;
        let own = std::env::current_exe().map_err(|error| wrong(format!("this program's path: {error}")))?;
        let mut local = LocalConfig::new(config.runs_dir, own, pools);
        local.uids = (config.uid_first != 0).then_some(UidRange { first: config.uid_first, count: config.uid_count });
        local.cgroup_parent = config.cgroup.unwrap_or(local.cgroup_parent);
        local.read_paths = config.readable;
        local.isolation_required = config.isolation_required;
        local.log_bytes_max = config.log_bytes_max.unwrap_or(local.log_bytes_max);
        local.processes_max = config.processes_max.unwrap_or(local.processes_max);
        let adapter = LocalAdapter::new(local).await.map_err(|error| {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            AdapterError::passing(ReasonCode::AdapterDown, format!("{error}{cause}"))
        })?;
        Ok(Arc::new(adapter))
    }
}
