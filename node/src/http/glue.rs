//! The services behind the ports: thin, and the only place where both are known.

use super::page::{Page, PageRequest};
use super::ports::{ArtifactPort, DictionaryPort, IdentifierPort, RegistryPort, Search, Selector, Written};
use super::problem::{ApiError, Code};
use crate::services::artifacts::{ArtifactStore, PutError};
use crate::services::dictionary::{DictionaryService, PublishError};
use crate::services::disk::DiskFullError;
use crate::services::identifier_views::{
    FreshnessView, IdentifierView, RegistryStatusView, ReleaseView, ResolvedView, RevisionView, StatisticsRow,
};
use crate::services::identifiers::{FindIdentifiers, IdentifierError, IdentifierService, WrittenIdentifier};
use crate::services::registry::{Registry, RegistryError};
use async_trait::async_trait;
use bytes::Bytes;
use cpi::dictionary::Dictionary;
use cpi::ids::{ContentDigest, StableKey};
use cpi::reason::ReasonCode;
use futures::stream::BoxStream;
use std::sync::Arc;
use tokio::sync::watch;

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

impl From<DiskFullError> for ApiError {
    fn from(error: DiskFullError) -> Self {
        Self::new(Code::DiskFull, error.to_string()).reason(ReasonCode::DiskFull)
    }
}

impl From<PutError> for ApiError {
    fn from(error: PutError) -> Self {
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

impl From<RegistryError> for ApiError {
    fn from(error: RegistryError) -> Self {
        let detail = error.to_string();
        match error {
            RegistryError::NoQuorum => Self::new(Code::Unavailable, detail).reason(ReasonCode::NoQuorum),
            RegistryError::Timeout { .. } => Self::new(Code::Timeout, detail),
            RegistryError::Busy => Self::new(Code::Busy, detail).reason(ReasonCode::Busy),
            RegistryError::Failed(_) => Self::new(Code::Internal, detail),
        }
    }
}

impl From<IdentifierError> for ApiError {
    fn from(error: IdentifierError) -> Self {
        let detail = error.to_string();
        match error {
            IdentifierError::Cpi(error) => error.into(),
            IdentifierError::Filter(error) => error.into(),
            IdentifierError::NotFound { .. } => Self::new(Code::NotFound, detail),
            IdentifierError::Dimension { .. } => Self::parameter("group_by", detail),
            IdentifierError::TooMany { .. } => Self::parameter("filter", detail),
            IdentifierError::TooMuch { .. } => Self::new(Code::TooLarge, detail),
            IdentifierError::Refused(refusal) => refusal.into(),
            IdentifierError::Registry(error) => error.into(),
        }
    }
}

impl From<PublishError> for ApiError {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Load(error) => Self::field(super::FieldError::new("release", error.to_string())),
            PublishError::Refused(refusal) => refusal.into(),
            PublishError::Registry(error) => error.into(),
        }
    }
}

#[async_trait]
impl IdentifierPort for IdentifierService {
    fn freshness(&self) -> FreshnessView {
        self.registry().freshness()
    }

    async fn catch_up(&self) -> Result<(), ApiError> {
        Ok(self.registry().catch_up().await?)
    }

    fn resolve(&self, selector: &Selector, at_ms: Option<u64>) -> Result<ResolvedView, ApiError> {
        let key = match selector {
            Selector::Key(key) => *key,
            Selector::Text(text) => cpi::identifier::Cpi::parse(text)?.stable_key(),
        };
        Ok(IdentifierService::resolve(self, key, at_ms)?)
    }

    fn get(&self, key: StableKey, at_ms: Option<u64>) -> Result<IdentifierView, ApiError> {
        Ok(IdentifierService::get(self, key, at_ms)?)
    }

    fn get_or_pending(&self, key: StableKey) -> Result<IdentifierView, ApiError> {
        Ok(IdentifierService::get_or_pending(self, key)?)
    }

    fn search(&self, search: &Search, page: &PageRequest) -> Result<Page<IdentifierView>, ApiError> {
        let state = search.state.as_deref().unwrap_or("active");
        let find = FindIdentifiers {
            prefix: search.prefix.clone(),
            filter: search.filter.clone(),
            retired: state == "all",
            only_retired: state == "retired",
            limit: page.limit,
            after: page.after.clone(),
        };
        if state == "pending" {
            let place = |view: &IdentifierView| format!("{}\n{}\n{:020}", view.cpi, view.owner, view.revision);
            let mut all = self.waiting(&find)?;
            all.sort_by_key(place);
            return Ok(page.cut(all, place));
        }
        let (items, next) = IdentifierService::search(self, &find)?;
        Ok(Page { items, next_page_token: next.map(|place| page.token(&place)), total: None })
    }

    fn history(&self, key: StableKey, page: &PageRequest) -> Result<Page<RevisionView>, ApiError> {
        let all = IdentifierService::history(self, key)?;
        Ok(page.cut(all, |revision| format!("{:020}", revision.revision)))
    }

    fn statistics(&self, group_by: &[String], filter: Option<&str>) -> Result<Vec<StatisticsRow>, ApiError> {
        Ok(IdentifierService::statistics(self, group_by, filter)?)
    }

    async fn register(&self, text: &str) -> Result<Written, ApiError> {
        let written = IdentifierService::register(self, text).await?;
        Ok(Written { view: written.view, committed: written.committed })
    }

    async fn register_many(&self, texts: &[String]) -> Result<Vec<Result<Written, ApiError>>, ApiError> {
        let answers = IdentifierService::register_many(self, texts).await?;
        let one = |written: WrittenIdentifier| Written { view: written.view, committed: written.committed };
        Ok(answers.into_iter().map(|answer| answer.map(one).map_err(ApiError::from)).collect())
    }

    async fn revise(&self, key: StableKey, text: &str, expected_revision: u64) -> Result<Written, ApiError> {
        let written = IdentifierService::revise(self, key, text, expected_revision).await?;
        Ok(Written { view: written.view, committed: written.committed })
    }

    async fn retire(&self, key: StableKey, expected_revision: u64) -> Result<Written, ApiError> {
        let written = IdentifierService::retire(self, key, expected_revision).await?;
        Ok(Written { view: written.view, committed: written.committed })
    }
}

/// The dictionary with the registry that its releases come from.
pub struct Dictionaries {
    /// The service.
    pub service: DictionaryService,
    /// Where releases are.
    pub registry: Arc<dyn Registry>,
}

#[async_trait]
impl DictionaryPort for Dictionaries {
    fn current(&self) -> Arc<Dictionary> {
        self.service.current()
    }

    fn releases(&self) -> Vec<ReleaseView> {
        self.service.releases(&self.registry.reader())
    }

    async fn publish(&self, document: &[u8]) -> Result<ReleaseView, ApiError> {
        Ok(self.service.publish(&self.registry, document).await?)
    }
}

/// The registry's own status.
pub struct RegistryDoor(pub Arc<dyn Registry>);

#[async_trait]
impl RegistryPort for RegistryDoor {
    fn status(&self) -> RegistryStatusView {
        self.0.status()
    }

    async fn snapshot(&self) -> Result<(String, u64), ApiError> {
        let (path, index) = self.0.snapshot().await?;
        Ok((path.display().to_string(), index))
    }

    fn watch_applied(&self) -> watch::Receiver<u64> {
        self.0.watch_applied()
    }
}
