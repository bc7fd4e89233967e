//! What was last seen of the cluster, kept by watching: answers without a question to the API server each time.

use super::facts::{ClaimFacts, JobFacts, NodeFacts, PodFacts, QuotaFacts, source};
use crate::contract::{RunEnd, RunEvent, RunKey, RunState, RunStatus, Usage};
use crate::rules::{Direction, Rules};
use cpi::reason::{Reason, ReasonCode};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::{broadcast, watch};

/// Changes that a slow subscriber may be behind.
const EVENTS_KEPT: usize = 65_536;

/// Objects of one kind, and those that are being listed anew.
#[derive(Debug)]
pub(super) struct Kind<T> {
    pub all: BTreeMap<String, T>,
    /// Names that the listing under way has told; `None` outside of one.
    listed: Option<BTreeSet<String>>,
    pub synced: bool,
}

impl<T> Default for Kind<T> {
    fn default() -> Self {
        Self { all: BTreeMap::new(), listed: None, synced: false }
    }
}

/// A change of an object.
pub(super) enum Change<T> {
    Begin,
    Is(String, Option<T>),
    Gone(String),
    Complete,
}

impl<T: PartialEq> Kind<T> {
    /// The names that changed.
    fn take(&mut self, change: Change<T>) -> Vec<String> {
        match change {
            Change::Begin => {
                self.listed = Some(BTreeSet::new());
                Vec::new()
            }
            Change::Is(name, Some(now)) => {
                if let Some(listed) = &mut self.listed {
                    listed.insert(name.clone());
                }
                if self.all.get(&name) == Some(&now) {
                    return Vec::new();
                }
                self.all.insert(name.clone(), now);
                vec![name]
            }
            Change::Is(name, None) | Change::Gone(name) => {
                if self.all.remove(&name).is_some() {
                    vec![name]
                } else {
                    Vec::new()
                }
            }
            Change::Complete => {
                self.synced = true;
                let listed = self.listed.take().unwrap_or_default();
                let gone: Vec<String> = self.all.keys().filter(|name| !listed.contains(*name)).cloned().collect();
                self.all.retain(|name, _| listed.contains(name));
                gone
            }
        }
    }
}

/// A run as its Job and pod show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Run {
    pub status: RunStatus,
    /// Why it does not run yet.
    pub pending: Option<Reason>,
}

/// All that was seen. Locked for short, never over an await.
pub(super) struct Seen {
    pub jobs: Kind<JobFacts>,
    pub pods: Kind<PodFacts>,
    pub nodes: Kind<NodeFacts>,
    pub claims: Kind<ClaimFacts>,
    pub quotas: Kind<QuotaFacts>,
    /// Pods by the Job that made them.
    pods_of: BTreeMap<String, BTreeSet<String>>,
    /// Jobs by key.
    named: BTreeMap<RunKey, String>,
    /// Jobs (uid) that were removed, until the watch says so too.
    removed: BTreeSet<String>,
    /// Ends that were told; they do not change any more.
    ended: BTreeMap<String, RunEnd>,
    /// Why a Job's pods cannot be made, by Job.
    created: BTreeMap<String, (String, String)>,
    told: BTreeMap<RunKey, RunState>,
    pub rules: Arc<Rules>,
    events: broadcast::Sender<RunEvent>,
    /// Counts changes of nodes, pods and claims.
    pub drift: watch::Sender<u64>,
}

impl Seen {
    pub fn new(rules: Arc<Rules>) -> Self {
        Self {
            jobs: Kind::default(),
            pods: Kind::default(),
            nodes: Kind::default(),
            claims: Kind::default(),
            quotas: Kind::default(),
            pods_of: BTreeMap::new(),
            named: BTreeMap::new(),
            removed: BTreeSet::new(),
            ended: BTreeMap::new(),
            created: BTreeMap::new(),
            told: BTreeMap::new(),
            rules,
            events: broadcast::channel(EVENTS_KEPT).0,
            drift: watch::channel(0).0,
        }
    }

    pub fn subscribe(&self) -> broadcast::Receiver<RunEvent> {
        self.events.subscribe()
    }

    fn drifted(&self) {
        self.drift.send_modify(|count| *count += 1);
    }

    pub fn node(&mut self, change: Change<NodeFacts>) {
        if !self.nodes.take(change).is_empty() {
            self.drifted();
        }
    }

    pub fn claim(&mut self, change: Change<ClaimFacts>) {
        if !self.claims.take(change).is_empty() {
            self.drifted();
        }
    }

    pub fn quota(&mut self, change: Change<QuotaFacts>) {
        self.quotas.take(change);
    }

    pub fn job(&mut self, change: Change<JobFacts>) {
        if let Change::Is(_, Some(job)) = &change
            && self.removed.contains(&job.uid)
        {
            return;
        }
        let complete = matches!(change, Change::Complete);
        for name in self.jobs.take(change) {
            self.index(&name);
        }
        if complete {
            self.removed.clear();
        }
    }

    /// A Job's deletion; one of that name that came after it stays.
    pub fn job_gone(&mut self, name: &str, uid: &str) {
        self.removed.remove(uid);
        if self.jobs.all.get(name).is_some_and(|job| job.uid == uid) {
            self.jobs.take(Change::Gone(name.to_owned()));
            self.index(name);
        }
    }

    /// What the answer to a create or change says; the watch may be further already.
    pub fn answered(&mut self, name: &str, job: JobFacts) {
        if self
            .jobs
            .all
            .get(name)
            .is_none_or(|there| there.uid != job.uid || (there.stop.is_none() && job.stop.is_some()))
        {
            self.job(Change::Is(name.to_owned(), Some(job)));
        }
    }

    /// Forgets a Job that was removed.
    pub fn forget(&mut self, name: &str) {
        if let Some(job) = self.jobs.all.remove(name) {
            self.removed.insert(job.uid);
            self.index(name);
        }
    }

    fn index(&mut self, name: &str) {
        match self.jobs.all.get(name) {
            Some(job) => {
                let (key, uid) = (job.key, job.uid.clone());
                self.named.insert(key, name.to_owned());
                self.tell(&uid, name);
            }
            None => {
                if let Some(key) = self.named.iter().find(|(_, named)| *named == name).map(|(key, _)| *key) {
                    self.named.remove(&key);
                    self.told.remove(&key);
                }
                let there: BTreeSet<&String> = self.jobs.all.values().map(|job| &job.uid).collect();
                self.ended.retain(|uid, _| there.contains(uid));
                self.created.retain(|uid, _| there.contains(uid));
            }
        }
    }

    pub fn pod(&mut self, change: Change<PodFacts>) {
        // pods that go away still belong to their Jobs
        let before = match &change {
            Change::Gone(name) | Change::Is(name, None) => self.pods.all.get(name).and_then(|pod| pod.job.clone()),
            _ => None,
        };
        let complete = matches!(change, Change::Complete);
        let changed = self.pods.take(change);
        if changed.is_empty() {
            return;
        }
        let mut jobs: BTreeSet<String> = before.into_iter().collect();
        for name in &changed {
            match self.pods.all.get(name) {
                Some(pod) => {
                    if let Some(job) = &pod.job {
                        self.pods_of.entry(job.clone()).or_default().insert(name.clone());
                        jobs.insert(job.clone());
                    }
                }
                None => self.pods_of.retain(|job, names| {
                    if names.remove(name) {
                        jobs.insert(job.clone());
                    }
                    !names.is_empty()
                }),
            }
        }
        if complete {
            jobs.extend(self.jobs.all.values().map(|job| job.uid.clone()));
        }
        for uid in jobs {
            let name = self.jobs.all.iter().find(|(_, job)| job.uid == uid).map(|(name, _)| name.clone());
            if let Some(name) = name {
                self.tell(&uid, &name);
            }
        }
        self.drifted();
    }

    /// Why the pods of a Job are not made.
    pub fn not_created(&mut self, name: &str, uid: &str, why: (String, String)) {
        self.created.insert(uid.to_owned(), why);
        self.tell(uid, name);
    }

    /// Tells a run's state where it is another one than before.
    fn tell(&mut self, uid: &str, name: &str) {
        let Some(run) = self.run_named(name) else { return };
        let RunStatus { key, state } = run.status;
        if let RunState::Ended(end) = &state {
            self.ended.entry(uid.to_owned()).or_insert_with(|| end.clone());
        }
        if self.told.get(&key) != Some(&state) {
            self.told.insert(key, state.clone());
            let _ = self.events.send(RunEvent { key, state });
        }
    }

    /// The newest pod of a Job; one that is over counts only where no other is.
    pub fn pod_of(&self, job: &JobFacts) -> Option<&PodFacts> {
        let names = self.pods_of.get(&job.uid)?;
        names.iter().filter_map(|name| self.pods.all.get(name)).max_by_key(|pod| (!pod.over(), pod.created_ms))
    }

    pub fn name_of(&self, key: &RunKey) -> Option<&String> {
        self.named.get(key)
    }

    pub fn run(&self, key: &RunKey) -> Option<Run> {
        self.run_named(self.named.get(key)?)
    }

    pub fn run_named(&self, name: &str) -> Option<Run> {
        let job = self.jobs.all.get(name)?;
        if let Some(end) = self.ended.get(&job.uid) {
            let status = RunStatus { key: job.key, state: RunState::Ended(end.clone()) };
            return Some(Run { status, pending: None });
        }
        Some(run_of(&self.rules, job, self.pod_of(job), self.created.get(&job.uid)))
    }
}

/// A run's state by the rules.
fn run_of(rules: &Rules, job: &JobFacts, pod: Option<&PodFacts>, created: Option<&(String, String)>) -> Run {
    let key = job.key;
    let said = match rules.convert(Direction::North, "state", &source(job, pod, created)) {
        Ok(said) => said,
        Err(error) => {
            // it stands where it stood; the operator reads which rule is missing
            let pending = Some(Reason::new(ReasonCode::Internal, error.to_string()));
            return Run { status: RunStatus { key, state: RunState::Starting }, pending };
        }
    };
    let reason = |of: &Value| {
        let code: ReasonCode = serde_json::from_value(of.get("code")?.clone()).unwrap_or(ReasonCode::Internal);
        Some(Reason::new(code, of["detail"].as_str().unwrap_or_default()))
    };
    let number = |of: &Value| of.as_i64().and_then(|number| i32::try_from(number).ok());
    let state = match said["state"].as_str() {
        Some("running") => RunState::Running,
        Some("ended") => RunState::Ended(RunEnd {
            exit_code: number(&said["exit_code"]),
            signal: number(&said["signal"]),
            reason: reason(&said["reason"]),
            usage: usage(pod),
            outputs: Vec::new(),
        }),
        _ => RunState::Starting,
    };
    Run { status: RunStatus { key, state }, pending: reason(&said["pending"]) }
}

/// Kubernetes tells times in whole seconds, and neither processor time nor the most memory.
fn usage(pod: Option<&PodFacts>) -> Usage {
    let times = pod.and_then(|pod| Some((pod.container.started_ms?, pod.container.finished_ms?)));
    let wall_ms = times.map_or(0, |(from, to)| u64::try_from(to - from).unwrap_or(0));
    Usage { wall_ms, cpu_ms: 0, memory_peak_bytes: 0 }
}
