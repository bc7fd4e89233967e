//! The plugin's side of the protocol: serves any [`Adapter`] on the socket that the node named.
//!
//! A plugin in Rust is a [`Backend`] and one line, `plugin::main(MyBackend)`. Plugins in other languages need the proto file
//! only.

mod credentials;
mod serve;
mod service;

pub use credentials::credential;
pub use serve::{ServePluginError, main, serve, service};

use crate::contract::{Adapter, AdapterError};
use async_trait::async_trait;
use cpi::resource::PoolSpec;
use std::sync::Arc;

/// What a plugin is made of.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// The backend's kind, for example `slurm`.
    fn kind(&self) -> String;

    /// Its version.
    fn version(&self) -> String {
        env!("CARGO_PKG_VERSION").to_owned()
    }

    /// Whether at most one process may have it open at a time.
    fn exclusive(&self) -> bool {
        false
    }

    /// The protocol numbers that it speaks.
    fn protocols(&self) -> (u32, u32) {
        (crate::wire::PROTOCOL_MIN, crate::wire::PROTOCOL_MAX)
    }

    /// JSON Schema of its configuration.
    fn config_schema(&self) -> serde_json::Value;

    /// Opens the backend.
    ///
    /// # Errors
    /// What is wrong with `config`, or why the platform cannot be reached.
    async fn open(&self, config: serde_json::Value, pools: Vec<PoolSpec>) -> Result<Arc<dyn Adapter>, AdapterError>;
}
