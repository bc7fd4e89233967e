//! What the routes ask of the node: one trait for each noun. The services implement them in `glue`; tests with fakes.
//!
//! Reads of the replica are synchronous: they touch memory and the local database only. What needs a peer, a commit or a
//! sync is asynchronous.

use super::page::{Page, PageRequest};
use super::problem::ApiError;
use crate::services::adapter_views::{
    AdapterDetail, AdapterLog, AdapterTestView, AdapterView, RegisterPlugin, SwapPlugin, TestPlugin,
};
use crate::services::identifier_views::{
    FreshnessView, IdentifierView, RegistryStatusView, ReleaseView, ResolvedView, RevisionView, StatisticsRow,
};
use crate::services::member_views::{InvitationView, InviteRequest, MemberView, PolicyRequest, PolicyView};
use crate::services::operation_views::{BeginOperation, OperationView};
use crate::services::pool_views::{InventoryView, PoolView};
use crate::services::task_views::{
    EventView, ExplainView, LogPiece, PlanView, Submitted, TaskPage, TaskQuery, TaskView,
};
use adapters::contract::LogStream;
use async_trait::async_trait;
use bytes::Bytes;
use consensus::operation::OperationRecord;
use cpi::dictionary::Dictionary;
use cpi::ids::ContentDigest;
use cpi::ids::{PlanId, StableKey, TaskId};
use cpi::task::TaskSpec;
use futures::stream::BoxStream;
use std::sync::Arc;
use tokio::sync::{broadcast, watch};

/// What a resolution asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// By stable key.
    Key(StableKey),
    /// By text; its key decides.
    Text(String),
}

/// What a search asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Search {
    /// Prefix of the text.
    pub prefix: Option<String>,
    /// Filter expression.
    pub filter: Option<String>,
    /// `active` (default), `retired`, `pending` or `all`.
    pub state: Option<String>,
}

/// A write and whether a quorum has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The identifier after the write.
    pub view: IdentifierView,
    /// False: durable here, waiting for a quorum.
    pub committed: bool,
}

/// Identifiers.
#[async_trait]
pub trait IdentifierPort: Send + Sync {
    /// How fresh this replica is.
    fn freshness(&self) -> FreshnessView;
    /// Waits until everything committed before the call is applied here.
    async fn catch_up(&self) -> Result<(), ApiError>;
    /// The revision that was in force at `at_ms` (now, where absent), described.
    fn resolve(&self, selector: &Selector, at_ms: Option<u64>) -> Result<ResolvedView, ApiError>;
    /// The revision that was in force at `at_ms`.
    fn get(&self, key: StableKey, at_ms: Option<u64>) -> Result<IdentifierView, ApiError>;
    /// What is committed under a key, or else what is pending on it.
    fn get_or_pending(&self, key: StableKey) -> Result<IdentifierView, ApiError>;
    /// A page in the order of the texts.
    fn search(&self, search: &Search, page: &PageRequest) -> Result<Page<IdentifierView>, ApiError>;
    /// All revisions, oldest first.
    fn history(&self, key: StableKey, page: &PageRequest) -> Result<Page<RevisionView>, ApiError>;
    /// Exact sums by dimensions.
    fn statistics(&self, group_by: &[String], filter: Option<&str>) -> Result<Vec<StatisticsRow>, ApiError>;
    /// Registers under this member.
    async fn register(&self, text: &str) -> Result<Written, ApiError>;
    /// Registers several by one command; each answer stands for itself.
    async fn register_many(&self, texts: &[String]) -> Result<Vec<Result<Written, ApiError>>, ApiError>;
    /// Writes a new revision in place of `expected_revision`.
    async fn revise(&self, key: StableKey, text: &str, expected_revision: u64) -> Result<Written, ApiError>;
    /// Retires `expected_revision`.
    async fn retire(&self, key: StableKey, expected_revision: u64) -> Result<Written, ApiError>;
}

/// The dictionary.
#[async_trait]
pub trait DictionaryPort: Send + Sync {
    /// The release in force here.
    fn current(&self) -> Arc<Dictionary>;
    /// All releases, newest first.
    fn releases(&self) -> Vec<ReleaseView>;
    /// Publishes a release document.
    async fn publish(&self, document: &[u8]) -> Result<ReleaseView, ApiError>;
}

/// The registry.
#[async_trait]
pub trait RegistryPort: Send + Sync {
    /// Leader, term, indexes.
    fn status(&self) -> RegistryStatusView;
    /// Makes a snapshot and returns its folder and index.
    async fn snapshot(&self) -> Result<(String, u64), ApiError>;
    /// The applied index, as it grows.
    fn watch_applied(&self) -> watch::Receiver<u64>;
}

/// Members.
#[async_trait]
pub trait MemberPort: Send + Sync {
    /// All members by id.
    fn list(&self) -> Vec<MemberView>;
    /// Makes an invitation.
    async fn invite(&self, request: &InviteRequest) -> Result<InvitationView, ApiError>;
    /// What all members agreed on.
    fn policy(&self) -> PolicyView;
    /// Votes for another one, which takes effect with the last vote needed.
    async fn set_policy(&self, request: &PolicyRequest) -> Result<PolicyView, ApiError>;
    /// Approves exactly this request of a region that asked to join, here or at another member; admits it with the last
    /// approval needed.
    async fn approve(&self, region: &str, request: &str) -> Result<MemberView, ApiError>;
    /// Votes to suspend.
    async fn suspend(&self, id: &str, reason: Option<&str>) -> Result<MemberView, ApiError>;
    /// Votes to end a suspension.
    async fn resume(&self, id: &str) -> Result<MemberView, ApiError>;
    /// Votes to expel for good.
    async fn expel(&self, id: &str, reason: Option<&str>) -> Result<MemberView, ApiError>;
}

/// Artifacts: content by digest.
#[async_trait]
pub trait ArtifactPort: Send + Sync {
    /// Stores a stream; with `expected` only if it is that. Returns digest and length.
    async fn put(
        &self,
        content: BoxStream<'static, std::io::Result<Bytes>>,
        expected: Option<ContentDigest>,
    ) -> Result<(ContentDigest, u64), ApiError>;
    /// The length of a content that is here.
    fn size(&self, digest: &ContentDigest) -> Option<u64>;
    /// Opens a content that is here.
    async fn open(&self, digest: &ContentDigest) -> Result<Option<tokio::fs::File>, ApiError>;
}

/// Pools.
#[async_trait]
pub trait PoolPort: Send + Sync {
    /// Own pools, and unless `own_only` those of other regions as last told.
    async fn list(&self, own_only: bool) -> Result<Vec<PoolView>, ApiError>;
    /// An own pool with its runs.
    async fn inventory(&self, pool: &str) -> Result<InventoryView, ApiError>;
    /// No new work.
    async fn cordon(&self, pool: &str) -> Result<PoolView, ApiError>;
    /// New work again.
    async fn uncordon(&self, pool: &str) -> Result<PoolView, ApiError>;
    /// No new work, and what runs is let end.
    async fn drain(&self, pool: &str) -> Result<PoolView, ApiError>;
    /// The whole region takes no new work, or does again. Returns the own pools.
    async fn cordon_region(&self, cordoned: bool) -> Result<Vec<PoolView>, ApiError>;
}

/// Adapters.
#[async_trait]
pub trait AdapterPort: Send + Sync {
    /// All adapters with their health.
    async fn list(&self) -> Vec<AdapterView>;
    /// One adapter with what its plugin does.
    async fn show(&self, name: &str) -> Result<AdapterDetail, ApiError>;
    /// Registers a plugin with its pools.
    async fn register(&self, request: RegisterPlugin) -> Result<AdapterDetail, ApiError>;
    /// Takes a registered plugin away.
    async fn remove(&self, name: &str) -> Result<(), ApiError>;
    /// Another program in place of the running one.
    async fn swap(&self, name: &str, request: SwapPlugin) -> Result<AdapterDetail, ApiError>;
    /// The program before the last swap.
    async fn rollback(&self, name: &str) -> Result<AdapterDetail, ApiError>;
    /// Ends a quarantine.
    async fn reset(&self, name: &str) -> Result<AdapterDetail, ApiError>;
    /// The newest lines that a plugin wrote.
    async fn logs(&self, name: &str, lines_max: usize) -> Result<AdapterLog, ApiError>;
    /// Begins the conformance suite in one of an adapter's pools.
    async fn begin_test(&self, name: &str, request: TestPlugin) -> Result<AdapterTestView, ApiError>;
    /// The last suite of an adapter.
    async fn test(&self, name: &str) -> Result<AdapterTestView, ApiError>;
}

/// Operations on machines.
#[async_trait]
pub trait OperationPort: Send + Sync {
    /// Begins an operation; the same key of the same principal is the same operation.
    async fn begin(
        &self,
        principal: &str,
        idempotency_key: Option<String>,
        request: BeginOperation,
    ) -> Result<OperationView, ApiError>;
    /// An operation.
    async fn get(&self, id: TaskId) -> Result<OperationView, ApiError>;
    /// A page, newest first.
    async fn list(&self, page: &PageRequest) -> Result<Page<OperationView>, ApiError>;
    /// Has the platform asked now.
    async fn look(&self, id: TaskId) -> Result<OperationView, ApiError>;
    /// Changes, each once it is on disk.
    fn subscribe(&self) -> broadcast::Receiver<Arc<OperationRecord>>;
}

/// Tasks and plans.
#[async_trait]
pub trait TaskPort: Send + Sync {
    /// Accepts a task; the same key of the same principal is the same task.
    async fn submit(
        &self,
        principal: &str,
        idempotency_key: Option<String>,
        spec: TaskSpec,
        plan: Option<PlanId>,
    ) -> Result<Submitted, ApiError>;
    /// Collects offers and refusals.
    async fn plan(&self, principal: &str, spec: TaskSpec) -> Result<PlanView, ApiError>;
    /// A task.
    async fn get(&self, id: TaskId) -> Result<TaskView, ApiError>;
    /// A page of tasks, newest first.
    async fn list(&self, query: TaskQuery) -> Result<TaskPage, ApiError>;
    /// Events of a task after `seq`, oldest first, at most `limit`.
    async fn events(&self, id: TaskId, after_seq: u32, limit: usize) -> Result<Vec<EventView>, ApiError>;
    /// Events of all tasks after `index`, oldest first, at most `limit`; `Gone` when they are no longer kept.
    async fn events_from(&self, index: u64, limit: usize) -> Result<Vec<EventView>, ApiError>;
    /// New events of all tasks.
    fn subscribe(&self) -> broadcast::Receiver<EventView>;
    /// Why a task is where it is.
    async fn explain(&self, id: TaskId) -> Result<ExplainView, ApiError>;
    /// Cancels.
    async fn cancel(&self, principal: &str, id: TaskId) -> Result<TaskView, ApiError>;
    /// A piece of a log.
    async fn logs(&self, id: TaskId, stream: LogStream, offset: u64, bytes_max: usize) -> Result<LogPiece, ApiError>;
}
