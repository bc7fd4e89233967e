//! What Prometheus reads at `/metrics`: base units, a stable prefix, no ids as labels.
//!
//! Rooms count what happens as it happens (`counters`); what is a state is asked for when somebody reads (`on_scrape`).

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use std::fmt::Write as _;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

/// Labels of HTTP requests: the route's template, never the path itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RouteCode {
    /// The route's template, as in the OpenAPI document.
    pub route: Arc<String>,
    /// The HTTP status.
    pub code: u16,
}

/// One label with a state.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct State {
    /// The state.
    pub state: &'static str,
}

/// An outcome and its reason, from the taxonomy; `none` where there is none.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutcomeReason {
    /// What came of it.
    pub outcome: &'static str,
    /// Why.
    pub reason: &'static str,
}

/// One label with an outcome.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcome {
    /// What came of it.
    pub outcome: &'static str,
}

/// One label with a cause.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Cause {
    /// Why.
    pub cause: &'static str,
}

/// One label with the reason of a refusal.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RefusedReason {
    /// Why, in one word of a fixed set.
    pub reason: &'static str,
}

/// One label with the source of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Source {
    /// `local` for the replica here.
    pub source: &'static str,
}

/// Labels of capacity.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CapacityKind {
    /// `pool/class`; both are names of the operator's config.
    pub class: String,
    /// `total`, `free` or `largest_fit`.
    pub kind: &'static str,
    /// `cpu_cores`, `memory_bytes` or `chips`.
    pub resource: &'static str,
}

/// Whose task a run was.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RunOrigin {
    /// `own` for tasks that were submitted in this region, `other` for those of other regions.
    pub origin: &'static str,
}

/// Labels of adapters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AdapterBackend {
    /// The adapter's name.
    pub adapter: String,
    /// The kind of its backend.
    pub backend: String,
}

type Refresh = Box<dyn Fn(&Metrics) + Send + Sync>;

/// All metrics of a node. Cheap to share; every field may be used from any thread.
pub struct Metrics {
    registry: Mutex<Registry>,
    refresh: Mutex<Vec<Refresh>>,
    /// Requests answered.
    pub http_requests: Family<RouteCode, Counter>,
    /// How long requests took.
    pub http_request_duration: Histogram,
    /// Requests refused for a missing or wrong key.
    pub authz_denied: Counter,
    /// How long a resolution took at the server.
    pub resolve_duration: Family<Source, Histogram>,
    /// Peers by state: `connected`, `away`.
    pub peers: Family<State, Gauge>,
    /// Raft's term.
    pub raft_term: Gauge,
    /// Raft's commit index.
    pub raft_commit_index: Gauge,
    /// The index applied here.
    pub raft_applied_index: Gauge,
    /// Identifiers by state: `active`, `retired`, `pending`.
    pub registry_ids: Family<State, Gauge>,
    /// Statements and commands of peers that were refused, by reason.
    pub registry_refused: Family<RefusedReason, Counter>,
    /// From a submission to its acceptance by a region, or to its end without one.
    pub negotiation_duration: Family<Outcome, Histogram>,
    /// Offers and declines received, by outcome and reason.
    pub offers: Family<OutcomeReason, Counter>,
    /// Holds of this region's capacity by state.
    pub holds: Family<State, Gauge>,
    /// Tasks of this origin by state.
    pub tasks: Family<State, Gauge>,
    /// Age of the oldest task without a place.
    pub task_pending_age_seconds: Gauge,
    /// Decisions, by outcome and reason.
    pub placements: Family<OutcomeReason, Counter>,
    /// Attempts that followed a lost run.
    pub failovers: Family<Cause, Counter>,
    /// 1 where an adapter is ready.
    pub adapter_up: Family<AdapterBackend, Gauge>,
    /// What this region has: cores and chips (parts of one too), memory in bytes.
    pub capacity: Family<CapacityKind, Gauge<f64, AtomicU64>>,
    /// Runs that ended in this region, by whose task it was.
    pub runs: Family<RunOrigin, Counter>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics(..)")
    }
}

/// 50 us to 13 s in factors of 2, in seconds.
fn seconds() -> Histogram {
    Histogram::new(prometheus_client::metrics::histogram::exponential_buckets(0.000_05, 2.0, 19))
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All metrics, at zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("causeway");
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The running program", build);
        macro_rules! register {
            ($name:literal, $help:literal, $metric:expr) => {{
                let metric = $metric;
                registry.register($name, $help, metric.clone());
                metric
            }};
        }
        Self {
            http_requests: register!("http_requests", "Requests answered", Family::default()),
            http_request_duration: register!("http_request_duration_seconds", "Time to the answer", seconds()),
            authz_denied: register!("authz_denied", "Requests without a valid key", Counter::default()),
            resolve_duration: register!(
                "resolve_duration_seconds",
                "Time to resolve an identifier at the server",
                Family::new_with_constructor(seconds as fn() -> Histogram)
            ),
            peers: register!("peers", "Members of the federation by connection state", Family::default()),
            raft_term: register!("registry_raft_term", "Raft's term", Gauge::default()),
            raft_commit_index: register!("registry_raft_commit_index", "Raft's commit index", Gauge::default()),
            raft_applied_index: register!("registry_raft_applied_index", "The index applied here", Gauge::default()),
            registry_ids: register!("registry_ids", "Identifiers by state", Family::default()),
            registry_refused: register!(
                "registry_refused",
                "Statements and commands of peers that were refused, by reason",
                Family::default()
            ),
            negotiation_duration: register!(
                "negotiation_duration_seconds",
                "From submission to acceptance by a region, or to the end without one",
                Family::new_with_constructor(seconds as fn() -> Histogram)
            ),
            offers: register!("offers", "Answers of regions by outcome and reason", Family::default()),
            holds: register!("holds", "Holds of this region's capacity by state", Family::default()),
            tasks: register!("tasks", "Tasks submitted here by state", Family::default()),
            task_pending_age_seconds: register!(
                "task_pending_age_seconds",
                "Age of the oldest task without a place",
                Gauge::default()
            ),
            placements: register!("placements", "Decisions by outcome and reason", Family::default()),
            failovers: register!("failovers", "Attempts after a lost run", Family::default()),
            adapter_up: register!("adapter_up", "1 where the adapter is ready", Family::default()),
            capacity: register!("capacity", "What this region has, by class and kind", Family::default()),
            runs: register!("runs", "Runs that ended in this region, by origin", Family::default()),
            registry: Mutex::new(registry),
            refresh: Mutex::new(Vec::new()),
        }
    }

    /// Lets another library register its own metrics, once at start.
    pub fn with_registry<T>(&self, register: impl FnOnce(&mut Registry) -> T) -> T {
        register(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Adds a function that sets gauges when somebody reads. It must be fast and must not block.
    pub fn on_scrape(&self, refresh: impl Fn(&Metrics) + Send + Sync + 'static) {
        self.refresh.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(refresh));
    }

    /// The text that Prometheus reads (OpenMetrics 1.0).
    pub fn text(&self) -> String {
        for refresh in self.refresh.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            refresh(self);
        }
        let mut out = String::with_capacity(16 << 10);
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        if prometheus_client::encoding::text::encode(&mut out, &registry).is_err() {
            let _ = writeln!(out, "# EOF");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_naming_guide() {
        let metrics = Metrics::new();
        metrics.http_requests.get_or_create(&RouteCode { route: Arc::new("/livez".to_owned()), code: 200 }).inc();
        metrics.on_scrape(|metrics| {
            metrics.peers.get_or_create(&State { state: "connected" }).set(4);
        });
        let text = metrics.text();
        assert!(text.contains("causeway_http_requests_total{route=\"/livez\",code=\"200\"} 1"), "{text}");
        assert!(text.contains("causeway_peers{state=\"connected\"} 4"), "{text}");
        assert!(text.contains("causeway_build_info{version="), "{text}");
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            assert!(line.starts_with("causeway_"), "{line}");
        }
    }
}
