//! The fake backend as a plugin: what it is told.

use super::{FakeAdapter, FakeScript};
use crate::contract::{Adapter, AdapterError};
use crate::plugin::Backend;
use async_trait::async_trait;
use cpi::reason::ReasonCode;
use cpi::resource::PoolSpec;
use serde::Deserialize;
use std::path::PathBuf;
use std::sync::Arc;

/// Makes [`FakeAdapter`]s in a plugin's process.
#[derive(Debug, Clone)]
pub struct FakeBackend {
    /// The protocol numbers that it speaks.
    pub protocols: (u32, u32),
}

impl Default for FakeBackend {
    fn default() -> Self {
        Self { protocols: (crate::wire::PROTOCOL_MIN, crate::wire::PROTOCOL_MAX) }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Config {
    /// What runs do that bring no script.
    script: FakeScript,
    /// Where files of scripts are written.
    files_dir: Option<PathBuf>,
    /// Whether every verb fails.
    down: bool,
    /// The credential without which nothing is opened.
    credential: Option<String>,
}

#[async_trait]
impl Backend for FakeBackend {
    fn kind(&self) -> String {
        "fake".to_owned()
    }

    fn protocols(&self) -> (u32, u32) {
        self.protocols
    }

    fn config_schema(&self) -> serde_json::Value {
        serde_json::json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "additionalProperties": false,
            "properties": {
                "script": { "type": "object", "description": "What runs do that bring no script of their own." },
                "files_dir": { "type": "string", "description": "Where files of scripts are written." },
                "down": { "type": "boolean", "default": false, "description": "Every verb fails." },
                "credential": { "type": "string", "description": "A credential without which nothing is opened." }
            }
        })
    }

    async fn open(&self, config: serde_json::Value, pools: Vec<PoolSpec>) -> Result<Arc<dyn Adapter>, AdapterError> {
        let config: Config = serde_json::from_value(config)
            .map_err(|error| AdapterError::fatal(ReasonCode::InvalidTask, format!("config: {error}")))?;
        if let Some(name) = &config.credential
            && crate::plugin::credential(name).is_none()
        {
            let why = format!("config.credential: the call did not bring {name:?}");
            return Err(AdapterError::fatal(ReasonCode::NotPermitted, why));
        }
        let adapter = FakeAdapter::with_files(pools, config.files_dir);
        adapter.script_all(config.script);
        adapter.set_down(config.down);
        Ok(Arc::new(adapter))
    }
}
