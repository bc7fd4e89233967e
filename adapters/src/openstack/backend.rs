//! The `openstack` backend as a plugin: what it is told, and how it opens.

use super::adapter::OpenStackAdapter;
use super::cloud::Cloud;
use super::config::Config;
use super::keystone::Service;
use crate::contract::{Adapter, AdapterError};
use crate::plugin::Backend;
use async_trait::async_trait;
use cpi::reason::ReasonCode;
use cpi::resource::PoolSpec;
use std::sync::Arc;

/// The backend's kind.
pub(super) const KIND: &str = "openstack";

/// Makes the adapter of one cloud in a plugin's process.
#[derive(Debug, Clone, Copy, Default)]
pub struct OpenStackBackend;

#[async_trait]
impl Backend for OpenStackBackend {
    fn kind(&self) -> String {
        KIND.to_owned()
    }

    fn config_schema(&self) -> serde_json::Value {
        Config::schema()
    }

    async fn open(&self, config: serde_json::Value, pools: Vec<PoolSpec>) -> Result<Arc<dyn Adapter>, AdapterError> {
        let wrong = |why: String| AdapterError::fatal(ReasonCode::InvalidTask, format!("config: {why}"));
        let config = Config::parse(config).map_err(wrong)?;
        config.check_address("url", &config.url).map_err(wrong)?;
        if config.insecure && config.url.starts_with("http:") {
            tracing::warn!(url = config.url, "credentials go over plain HTTP: insecure = true");
        }
        let cloud = Arc::new(Cloud::new(config).map_err(wrong)?);
        cloud.take_credential();
        // a wrong address, credential or version is told now and not with the first run
        cloud.version(Service::Compute).await.map_err(|error| cloud.refusal(&error))?;
        Ok(Arc::new(OpenStackAdapter::open(cloud, pools)))
    }
}
