//! The `vmware` backend as a plugin.

use super::adapter::VmwareAdapter;
use super::config::{Config, schema};
use super::soap::Soap;
use crate::contract::{Adapter, AdapterError};
use crate::plugin::Backend;
use crate::rules::Rules;
use crate::southbound::Endpoint;
use async_trait::async_trait;
use cpi::reason::ReasonCode;
use cpi::resource::PoolSpec;
use std::sync::Arc;
use std::time::Duration;

/// The rules that come with the product.
pub(super) const RULES: &str = include_str!("../../../configs/rules/vmware.toml");

/// Opens a vCenter.
#[derive(Debug, Clone, Copy, Default)]
pub struct VmwareBackend;

#[async_trait]
impl Backend for VmwareBackend {
    fn kind(&self) -> String {
        "vmware".to_owned()
    }

    fn config_schema(&self) -> serde_json::Value {
        schema()
    }

    async fn open(&self, config: serde_json::Value, pools: Vec<PoolSpec>) -> Result<Arc<dyn Adapter>, AdapterError> {
        let wrong = |why: String| AdapterError::fatal(ReasonCode::InvalidTask, format!("config: {why}"));
        let config: Config = serde_json::from_value(config).map_err(|error| wrong(error.to_string()))?;
        if config.classes.is_empty() {
            return Err(wrong("classes: expected at least one".to_owned()));
        }
        let endpoint = Endpoint::new(&config.endpoint(), Duration::from_millis(config.request_ms))?;
        let rules = Rules::parse(RULES).map_err(|error| wrong(format!("rules: {error}")))?;
        let soap = Soap::new(config.clone(), endpoint);
        // what polls has no call of its own: it uses what this one brought
        let _ = soap.credentials.get(&config.credential);
        let adapter = Arc::new_cyclic(|itself| VmwareAdapter::new(soap, config, pools, rules, itself.clone()));
        tokio::spawn(Arc::clone(&adapter).poll());
        Ok(adapter)
    }
}
