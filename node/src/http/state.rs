//! What every handler shares: the services, the key, the limits and the counters.

use super::auth::ApiKey;
use super::system::Check;
use crate::config::HttpConfig;
use crate::metrics::Metrics;
use axum::http::HeaderValue;
use cpi::ids::RegionName;
use governor::{DefaultDirectRateLimiter, Quota};
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, OnceLock};
use tokio::sync::Semaphore;

/// The services behind the routes. A part that a node does not run (yet) is absent, and its routes answer 503.
#[derive(Clone, Default)]
pub struct Services {}

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
    writes: DefaultDirectRateLimiter,
    routes: OnceLock<BTreeMap<String, Arc<String>>>,
    document: OnceLock<String>,
    unmatched: Arc<String>,
}

impl AppState {
    /// A state for the node of `region`; `node` names the process in `X-Source-Node`.
    pub fn new(
        region: RegionName,
        node: &str,
        key: ApiKey,
        limits: HttpConfig,
        metrics: Arc<Metrics>,
        services: Services,
    ) -> Self {
        let rate = NonZeroU32::new(limits.writes_per_second.max(1)).expect("at least one");
        let streams = limits.streams_max;
        Self(Arc::new(Inner {
            source_node: HeaderValue::from_str(node).unwrap_or_else(|_| HeaderValue::from_static("node")),
            region,
            key,
            limits,
            metrics,
            services,
            in_flight: AtomicUsize::new(0),
            streams: Arc::new(Semaphore::new(streams)),
            writes: DefaultDirectRateLimiter::direct(Quota::per_second(rate)),
            routes: OnceLock::new(),
            document: OnceLock::new(),
            unmatched: Arc::new("unmatched".to_owned()),
        }))
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

    /// Permits of open streams.
    pub fn streams(&self) -> &Arc<Semaphore> {
        &self.0.streams
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
        Vec::new()
    }

    /// The label of a route's template.
    pub fn route_label(&self, template: &str) -> Arc<String> {
        let known = self.0.routes.get().and_then(|routes| routes.get(template));
        Arc::clone(known.unwrap_or(&self.0.unmatched))
    }
}
