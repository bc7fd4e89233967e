//! What every handler shares: the services, the key, the limits and the counters.

use super::auth::ApiKey;
use super::ports::{
    AdapterPort, ArtifactPort, DictionaryPort, IdentifierPort, MemberPort, OperationPort, PoolPort, RegistryPort,
    TaskPort,
};
use super::problem::{ApiError, Code};
use super::repeat::Repeats;
use super::system::Check;
use crate::config::HttpConfig;
use crate::metrics::Metrics;
use crate::services::disk::DiskRoom;
use axum::http::HeaderValue;
use consensus::store::{Records, StoreError};
use cpi::dictionary::Dictionary;
use cpi::ids::RegionName;
use governor::{DefaultDirectRateLimiter, Quota};
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The services behind the routes. A part that a node does not run (yet) is absent, and its routes answer 503.
#[derive(Clone, Default)]
pub struct Services {
    /// Identifiers.
    pub identifiers: Option<Arc<dyn IdentifierPort>>,
    /// The dictionary; without one the first release serves.
    pub dictionary: Option<Arc<dyn DictionaryPort>>,
    /// The registry.
    pub registry: Option<Arc<dyn RegistryPort>>,
    /// Members.
    pub members: Option<Arc<dyn MemberPort>>,
    /// Artifacts.
    pub artifacts: Option<Arc<dyn ArtifactPort>>,
    /// Pools.
    pub pools: Option<Arc<dyn PoolPort>>,
    /// Adapters.
    pub adapters: Option<Arc<dyn AdapterPort>>,
    /// Operations on machines.
    pub operations: Option<Arc<dyn OperationPort>>,
    /// Tasks.
    pub tasks: Option<Arc<dyn TaskPort>>,
    /// Where answers to idempotency keys are kept; without it in memory only.
    pub records: Option<Records>,
    /// What must hold for the node to be ready.
    pub readiness: Vec<Arc<dyn ReadinessCheck>>,
    /// The disk that writes go to.
    pub disk: Option<DiskRoom>,
}

/// One thing that must hold for the node to be ready; it must answer at once.
#[async_trait::async_trait]
pub trait ReadinessCheck: Send + Sync {
    /// Looks.
    async fn check(&self) -> Check;
}

macro_rules! accessor {
    ($name:ident, $port:ident, $what:literal) => {
        /// The service, or a problem that says that it is absent.
        ///
        /// # Errors
        /// [`Code::NotJoined`]: the part starts once the node belongs to a federation.
        pub fn $name(&self) -> Result<&Arc<dyn $port>, ApiError> {
            self.$name
                .as_ref()
                .ok_or_else(|| ApiError::new(Code::NotJoined, concat!($what, " start once the node joined")))
        }
    };
}

impl Services {
    accessor!(identifiers, IdentifierPort, "identifiers");
    accessor!(registry, RegistryPort, "the registry's answers");
    accessor!(members, MemberPort, "members");
    accessor!(artifacts, ArtifactPort, "artifacts");
    accessor!(pools, PoolPort, "pools");
    accessor!(adapters, AdapterPort, "adapters");
    accessor!(operations, OperationPort, "operations");
    accessor!(tasks, TaskPort, "tasks");

    /// Refuses a write that would add to a disk which is full.
    ///
    /// # Errors
    /// [`Code::DiskFull`].
    pub fn room(&self) -> Result<(), ApiError> {
        Ok(self.disk.as_ref().map_or(Ok(()), DiskRoom::check)?)
    }

    /// The dictionary release in force.
    pub fn current_dictionary(&self) -> Arc<Dictionary> {
        self.dictionary.as_ref().map_or_else(Dictionary::first, |port| port.current())
    }
}

/// Shared by all handlers; cheap to clone.
#[derive(Clone)]
pub struct AppState(Arc<Inner>);

struct Inner {
    region: RegionName,
    source_node: HeaderValue,
    key: ApiKey,
    limits: HttpConfig,
    metrics: Arc<Metrics>,
    services: Services,
    in_flight: AtomicUsize,
    streams: Arc<Semaphore>,
    repeats: Repeats,
    writes: DefaultDirectRateLimiter,
    routes: OnceLock<BTreeMap<String, Arc<String>>>,
    document: OnceLock<String>,
    unmatched: Arc<String>,
}

impl AppState {
    /// A state for the node of `region`; `node` names the process in `X-Source-Node`.
    ///
    /// # Errors
    /// [`StoreError`]: the answers to idempotency keys cannot be read.
    pub fn new(
        region: RegionName,
        node: &str,
        key: ApiKey,
        limits: HttpConfig,
        metrics: Arc<Metrics>,
        services: Services,
    ) -> Result<Self, StoreError> {
        let rate = NonZeroU32::new(limits.writes_per_second.max(1)).expect("at least one");
        let streams = limits.streams_max;
        let repeats = Repeats::open(Duration::from_secs(limits.idempotency_ttl_s), services.records.clone())?;
        Ok(Self(Arc::new(Inner {
            source_node: HeaderValue::from_str(node).unwrap_or_else(|_| HeaderValue::from_static("node")),
            region,
            key,
            limits,
            metrics,
            services,
            in_flight: AtomicUsize::new(0),
            streams: Arc::new(Semaphore::new(streams)),
            repeats,
            writes: DefaultDirectRateLimiter::direct(Quota::per_second(rate)),
            routes: OnceLock::new(),
            document: OnceLock::new(),
            unmatched: Arc::new("unmatched".to_owned()),
        })))
    }

    /// The region that answers.
    pub fn region(&self) -> &RegionName {
        &self.0.region
    }

    /// The value of `X-Source-Node`.
    pub fn source_node(&self) -> HeaderValue {
        self.0.source_node.clone()
    }

    /// The node's API key.
    pub fn key(&self) -> &ApiKey {
        &self.0.key
    }

    /// The limits of the interface.
    pub fn limits(&self) -> &HttpConfig {
        &self.0.limits
    }

    /// The counters.
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// The services.
    pub fn services(&self) -> &Services {
        &self.0.services
    }

    /// How many requests are being served.
    pub fn in_flight(&self) -> &AtomicUsize {
        &self.0.in_flight
    }

    /// Whether one more write fits into this second.
    pub fn may_write(&self) -> bool {
        self.0.writes.check().is_ok()
    }

    /// Takes the document once: it is served as written, and names all routes, so that counting a request allocates nothing.
    pub(super) fn set_document(&self, document: &serde_json::Value) {
        let templates = document["paths"].as_object().into_iter().flat_map(|paths| paths.keys());
        let _ = self.0.routes.set(templates.map(|name| (name.clone(), Arc::new(name.clone()))).collect());
        let _ = self.0.document.set(document.to_string());
    }

    /// The OpenAPI document.
    pub fn openapi(&self) -> String {
        self.0.document.get().cloned().unwrap_or_default()
    }

    /// What must hold for the node to be ready.
    pub async fn readiness(&self) -> Vec<Check> {
        let checks = self.0.services.readiness.iter().map(|one| one.check());
        futures::future::join_all(checks).await
    }

    /// A permit for one open stream.
    ///
    /// # Errors
    /// [`Code::RateLimited`] beyond `http.streams_max`.
    pub fn stream_permit(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        let permit = Arc::clone(&self.0.streams).try_acquire_owned();
        permit.map_err(|_| ApiError::new(Code::RateLimited, "more streams than `http.streams_max` are open"))
    }

    /// Answers that were given to idempotency keys.
    pub(super) fn repeats(&self) -> &Repeats {
        &self.0.repeats
    }

    /// The label of a route's template.
    pub fn route_label(&self, template: &str) -> Arc<String> {
        let known = self.0.routes.get().and_then(|routes| routes.get(template));
        Arc::clone(known.unwrap_or(&self.0.unmatched))
    }
}
