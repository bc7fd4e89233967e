//! Slurm as a plugin.

use super::{SlurmAdapter, SlurmConfig};
use crate::contract::{Adapter, AdapterError};
use crate::plugin::Backend;
use async_trait::async_trait;
use cpi::resource::PoolSpec;
use std::sync::Arc;

/// Opens [`SlurmAdapter`]s in a plugin's process.
#[derive(Debug, Clone, Copy, Default)]
pub struct SlurmBackend;

#[async_trait]
impl Backend for SlurmBackend {
    fn kind(&self) -> String {
        "slurm".to_owned()
    }

    fn config_schema(&self) -> serde_json::Value {
        SlurmConfig::schema()
    }

    async fn open(&self, config: serde_json::Value, pools: Vec<PoolSpec>) -> Result<Arc<dyn Adapter>, AdapterError> {
        let adapter = SlurmAdapter::open(SlurmConfig::read(config)?, pools).await?;
        Ok(adapter)
    }
}
