//! The `rest` backend as a plugin: what it is told.

use super::adapter::{RestAdapter, RuleSource};
use super::api::Api;
use super::client::Client;
use super::files::{self, Files};
use super::runs::Runs;
use crate::contract::{Adapter, AdapterError};
use crate::plugin::Backend;
use crate::southbound::{Endpoint, EndpointConfig};
use async_trait::async_trait;
use cpi::reason::ReasonCode;
use cpi::resource::PoolSpec;
use serde::Deserialize;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Opens any HTTP API that a rule file describes.
#[derive(Debug, Clone, Copy, Default)]
pub struct RestBackend;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The rule file.
    rules: PathBuf,
    /// Where outputs of runs are kept until they are removed.
    files_dir: PathBuf,
    /// The API's address, instead of the file's own.
    url: Option<String>,
    /// PEM file with the only certificates that are trusted.
    ca_file: Option<PathBuf>,
    /// Allows plain HTTP.
    #[serde(default)]
    insecure: bool,
}

#[async_trait]
impl Backend for RestBackend {
    fn kind(&self) -> String {
        "rest".to_owned()
    }

    fn config_schema(&self) -> serde_json::Value {
        serde_json::json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "additionalProperties": false,
            "required": ["rules", "files_dir"],
            "properties": {
                "rules": { "type": "string", "description": "The rule file that describes the API; read again when it changes." },
                "files_dir": { "type": "string", "description": "Where outputs of runs lie until they are removed; made with mode 0700." },
                "url": { "type": "string", "description": "The API's address, instead of the rule file's base_url." },
                "ca_file": { "type": "string", "description": "PEM file with the only certificates that are trusted; without it those of the system." },
                "insecure": { "type": "boolean", "default": false, "description": "Allows plain HTTP, and is warned about." }
            }
        })
    }

    async fn open(&self, config: serde_json::Value, pools: Vec<PoolSpec>) -> Result<Arc<dyn Adapter>, AdapterError> {
        let wrong = |why: String| AdapterError::fatal(ReasonCode::InvalidTask, format!("config: {why}"));
        let config: Config = serde_json::from_value(config).map_err(|error| wrong(error.to_string()))?;
        let source = RuleSource { path: config.rules, seen: Mutex::default(), trouble: Mutex::default() };
        *source.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = source.stamp();
        let api = Arc::new(Api::read(&source.path).map_err(|error| wrong(format!("rules: {error}")))?);
        let url = config.url.or_else(|| api.base_url.clone());
        let url = url.ok_or_else(|| wrong("url: needed, as the rules have no base_url".to_owned()))?;
        let endpoint = EndpointConfig { url, ca_file: config.ca_file, insecure: config.insecure };
        let endpoint = Endpoint::new(&endpoint, Duration::from_millis(api.patience.request_ms))?;
        files::prepare(&config.files_dir)
            .map_err(|error| wrong(format!("files_dir {}: {error}", config.files_dir.display())))?;
        let client = Arc::new(Client::new(endpoint, api.patience.requests_max));
        // what polls has no call of its own: it uses what this one brought
        client.remember(&api);
        let runs = Arc::new(Runs::new(client, api, Arc::new(Files::new(config.files_dir))));
        let poller = tokio::spawn(Arc::clone(&runs).poll());
        Ok(Arc::new(RestAdapter { runs, pools, source, submitting: Mutex::default(), poller }))
    }
}
