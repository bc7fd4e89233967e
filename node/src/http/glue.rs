//! The services behind the ports: thin, and the only place where both are known.

use super::ports::{AdapterPort, ArtifactPort};
use super::problem::{ApiError, Code};
use crate::services::artifacts::{ArtifactStore, PutError};
use crate::services::member_views::AdapterView;
use adapters::contract::Adapter;
use async_trait::async_trait;
use bytes::Bytes;
use cpi::ids::ContentDigest;
use cpi::resource::{Firmness, PoolSpec};
use futures::stream::BoxStream;
use std::sync::Arc;

/// The artifact store with the bound of one upload.
pub struct Artifacts {
    /// The store.
    pub store: ArtifactStore,
    /// Bytes of one content at most.
    pub object_bytes_max: u64,
    /// Bytes of all contents at most.
    pub total_bytes_max: u64,
}

#[async_trait]
impl ArtifactPort for Artifacts {
    async fn put(
        &self,
        content: BoxStream<'static, std::io::Result<Bytes>>,
        expected: Option<ContentDigest>,
    ) -> Result<(ContentDigest, u64), ApiError> {
        let left = self.total_bytes_max.saturating_sub(self.store.stats().bytes);
        if left == 0 {
            return Err(ApiError::new(Code::DiskFull, "the artifacts have reached `artifacts.total_bytes_max`"));
        }
        let stored = self.store.put(content, expected, self.object_bytes_max.min(left)).await?;
        Ok((stored.digest, stored.size_bytes))
    }

    fn size(&self, digest: &ContentDigest) -> Option<u64> {
        self.store.size(digest)
    }

    async fn open(&self, digest: &ContentDigest) -> Result<Option<tokio::fs::File>, ApiError> {
        let failed = |error: std::io::Error| ApiError::new(Code::Internal, format!("reading {digest}: {error}"));
        self.store.open_content(digest).await.map_err(failed)
    }
}

impl From<PutError> for ApiError {
    fn from(error: PutError) -> Self {
        use cpi::reason::ReasonCode;
        let detail = error.to_string();
        match error {
            PutError::DiskFull { .. } => Self::new(Code::DiskFull, detail).reason(ReasonCode::DiskFull),
            PutError::TooLarge { .. } => Self::new(Code::TooLarge, detail),
            PutError::Mismatch { .. } => Self::new(Code::Invalid, detail).reason(ReasonCode::InputCorrupt),
            PutError::Source(_) => Self::new(Code::MalformedBody, detail),
            PutError::Disk(_) => Self::new(Code::DiskFull, detail).reason(ReasonCode::DiskFull),
        }
    }
}

/// The adapters of this node with the pools they drive.
pub struct Adapters {
    /// All of them.
    pub adapters: Vec<Arc<dyn Adapter>>,
    /// The pools of the configuration.
    pub pools: Vec<PoolSpec>,
}

#[async_trait]
impl AdapterPort for Adapters {
    async fn list(&self) -> Vec<AdapterView> {
        let mut out = Vec::with_capacity(self.adapters.len());
        for adapter in &self.adapters {
            let (about, health) = (adapter.describe(), adapter.health().await);
            let pools = self.pools.iter().filter(|pool| pool.backend == about.backend);
            out.push(AdapterView {
                name: about.backend.clone(),
                pools: pools.map(|pool| pool.name.clone()).collect(),
                backend: about.backend,
                version: about.version,
                ready: health.ready,
                runs_commands: about.runs_commands,
                runs_images: about.runs_images,
                stops_on_lapse: about.stops_on_lapse,
                firmness: firmness(about.firmness).to_owned(),
                notes: health.notes,
            });
        }
        out
    }
}

fn firmness(firmness: Firmness) -> &'static str {
    match firmness {
        Firmness::Held => "held",
        Firmness::Reserved => "reserved",
        Firmness::Estimate => "estimate",
    }
}
