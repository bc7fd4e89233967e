//! The watches that keep what was seen up to date. They begin again by themselves, and say what is wrong while they cannot.

use super::facts::{ClaimFacts, JobFacts, NodeFacts, PodFacts, QuotaFacts};
use super::seen::{Change, Seen};
use super::tag;
use futures::StreamExt as _;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, Pod, ResourceQuota};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt as _};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// A watch that was lost once begins again, and says nothing until something changes: only errors in a row are a problem.
const ERRORS_IN_A_ROW: u32 = 2;
/// And only while they go on; longer than the longest wait between two attempts.
const ERRORS_WITHIN: Duration = Duration::from_secs(60);

/// What is wrong with each watch, by the kind of object.
pub(super) type Problems = Arc<Mutex<Trouble>>;

/// The errors of the watches.
#[derive(Debug, Default)]
pub(super) struct Trouble(BTreeMap<&'static str, (String, u32, Option<Instant>)>);

impl Trouble {
    fn well(&mut self, kind: &'static str) {
        self.0.remove(kind);
    }

    fn wrong(&mut self, kind: &'static str, why: String, now: Instant) {
        let (last, errors, at) = self.0.entry(kind).or_default();
        (*last, *errors, *at) = (why, *errors + 1, Some(now));
    }

    /// Watches that do not come back: the kind of object and why.
    pub fn lasting(&self, now: Instant) -> Vec<(&'static str, String)> {
        let lasts = |errors: u32, at: Option<Instant>| {
            errors >= ERRORS_IN_A_ROW && at.is_some_and(|at| now.duration_since(at) < ERRORS_WITHIN)
        };
        let all = self.0.iter().filter(|(_, (_, errors, at))| lasts(*errors, *at));
        all.map(|(kind, (why, _, _))| (*kind, why.clone())).collect()
    }

    /// The last word of every watch, for one that never began.
    pub fn words(&self) -> String {
        self.0.values().map(|(why, _, _)| why.as_str()).collect::<Vec<_>>().join("; ")
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Follows one kind of object until it is cancelled.
async fn follow<K>(
    kind: &'static str,
    api: Api<K>,
    config: watcher::Config,
    problems: Problems,
    mut take: impl FnMut(Event<K>) + Send,
) where
    K: kube::Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let mut events = std::pin::pin!(watcher::watcher(api, config).default_backoff());
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                lock(&problems).well(kind);
                take(event);
            }
            Err(error) => {
                let why = error.to_string();
                tracing::debug!(kind, why, "a watch was lost; it begins again");
                lock(&problems).wrong(kind, why, Instant::now());
            }
        }
    }
}

/// An event as a change; the name is the object's key.
fn change<K: kube::Resource, T>(event: Event<K>, facts: impl Fn(&K) -> Option<T>) -> Change<T> {
    let name = |object: &K| match object.namespace() {
        // pods of all namespaces are followed
        Some(namespace) => format!("{namespace}/{}", object.name_any()),
        None => object.name_any(),
    };
    match event {
        Event::Init => Change::Begin,
        Event::InitApply(object) | Event::Apply(object) => Change::Is(name(&object), facts(&object)),
        Event::Delete(object) => Change::Gone(name(&object)),
        Event::InitDone => Change::Complete,
    }
}

/// The key under which an object of `namespace` is kept.
pub(super) fn name_in(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

/// Begins all watches. `everywhere`: pods of all namespaces count for what is free, not only ours.
pub(super) fn begin(
    client: &Client,
    namespace: &str,
    everywhere: bool,
    seen: &Arc<Mutex<Seen>>,
    problems: &Problems,
    stop: &CancellationToken,
) {
    let ours = watcher::Config::default().labels(&format!("{}={}", tag::MANAGED_BY, tag::CAUSEWAY));
    let all = watcher::Config::default;
    macro_rules! watch {
        ($kind:literal, $api:expr, $config:expr, $take:expr) => {{
            let seen = Arc::clone(seen);
            let take = $take;
            let following =
                follow($kind, $api, $config, Arc::clone(problems), move |event| take(&mut lock(&seen), event));
            tokio::spawn(stop.clone().run_until_cancelled_owned(following));
        }};
    }
    watch!("jobs", Api::<Job>::namespaced(client.clone(), namespace), ours, |seen: &mut Seen, event: Event<Job>| {
        match event {
            Event::Delete(job) => {
                let name = job.namespace().map(|namespace| name_in(&namespace, &job.name_any())).unwrap_or_default();
                seen.job_gone(&name, &job.uid().unwrap_or_default());
            }
            other => seen.job(change(other, JobFacts::of)),
        }
    });
    let pods = if everywhere { Api::<Pod>::all(client.clone()) } else { Api::namespaced(client.clone(), namespace) };
    watch!("pods", pods, all(), |seen: &mut Seen, event: Event<Pod>| seen.pod(change(event, PodFacts::of)));
    let nodes = Api::<Node>::all(client.clone());
    watch!("nodes", nodes, all(), |seen: &mut Seen, event: Event<Node>| {
        seen.node(change(event, |node| Some(NodeFacts::of(node))));
    });
    let claims = Api::<PersistentVolumeClaim>::namespaced(client.clone(), namespace);
    watch!("persistentvolumeclaims", claims, all(), |seen: &mut Seen, event: Event<PersistentVolumeClaim>| {
        seen.claim(change(event, ClaimFacts::of));
    });
    let quotas = Api::<ResourceQuota>::namespaced(client.clone(), namespace);
    watch!("resourcequotas", quotas, all(), |seen: &mut Seen, event: Event<ResourceQuota>| {
        seen.quota(change(event, |quota| Some(QuotaFacts::of(quota))));
    });
}

/// Whether pods of all namespaces may be read.
pub(super) async fn may_see_all_pods(client: &Client) -> Result<bool, kube::Error> {
    let one = kube::api::ListParams::default().limit(1);
    match super::client::within(Api::<Pod>::all(client.clone()).list(&one)).await {
        Ok(_) => Ok(true),
        Err(error) if super::client::status(&error) == Some(403) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_that_was_lost_once_is_no_problem_and_one_that_stays_lost_is() {
        let (mut trouble, now) = (Trouble::default(), Instant::now());
        trouble.wrong("pods", "the connection was reset".to_owned(), now);
        assert_eq!(trouble.lasting(now), []);
        trouble.wrong("pods", "refused".to_owned(), now);
        assert_eq!(trouble.lasting(now), [("pods", "refused".to_owned())]);
        // it came back, and nothing changed since
        assert_eq!(trouble.lasting(now + ERRORS_WITHIN), []);
        trouble.well("pods");
        assert_eq!(trouble.words(), "");
    }
}
