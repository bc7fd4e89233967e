//! The verbs.

use super::backend::Config;
use super::facts::JobFacts;
use super::seen::{Run, Seen};
use super::watching::{self, Problems, lock, name_in};
use super::{client, inventory, job, patience, tag};
use crate::contract::{
    Adapter, AdapterDescription, AdapterError, AdapterHealth, LogChunk, LogStream, RunEvent, RunKey, RunRequest,
    RunState, RunStatus,
};
use crate::resources::{Capabilities, InventoryEvent};
use crate::rules::{RuleBook, Rules};
use crate::runner::DeskTicket;
use async_trait::async_trait;
use cpi::reason::ReasonCode;
use cpi::resource::{Firmness, PoolSpec};
use futures::AsyncReadExt as _;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, LogParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::Request;
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};

/// How long the first listing may take, below the host's patience with a start.
const SYNC_MAX: Duration = Duration::from_secs(8);
/// Changes of nodes within this time are told together.
const DRIFT_EVERY: Duration = Duration::from_millis(200);
/// Events of an inventory that wait for a slow reader.
const INVENTORY_AHEAD: usize = 64;
/// How often a deletion that met a change is tried again.
const TRIES: usize = 8;

pub(super) struct Inner {
    pub config: Config,
    pub pools: Vec<PoolSpec>,
    pub client: Client,
    token: client::Token,
    pub seen: Arc<Mutex<Seen>>,
    problems: Problems,
    book: Option<RuleBook>,
    /// `20` of 1.20.
    minor: u32,
    version: String,
    everywhere: bool,
}

/// The backend. Holds nothing that it does not find again on the cluster.
pub struct KubernetesAdapter {
    pub(super) inner: Arc<Inner>,
    _stop: DropGuard,
}

fn unknown(key: RunKey) -> AdapterError {
    AdapterError::fatal(ReasonCode::RunLost, format!("no run {} {} is here", key.task, key.fence))
}

impl KubernetesAdapter {
    /// Connects, and returns once all that is there was listed.
    ///
    /// # Errors
    /// What is wrong with the configuration or the token, or why the cluster does not answer.
    pub(super) async fn open(
        config: Config,
        pools: Vec<PoolSpec>,
        rules: Arc<Rules>,
        book: Option<RuleBook>,
    ) -> Result<Self, AdapterError> {
        let token = client::Token::default();
        if let Some(name) = &config.credential {
            let secret = crate::plugin::credential(name).ok_or_else(|| {
                let why = format!("config.credential: the call did not bring {name:?}");
                AdapterError::fatal(ReasonCode::NotPermitted, why)
            })?;
            token.set(secret);
        }
        let client = client::connect(&config.place()?, token.clone()).await?;
        let meaning = |error: kube::Error| client::meaning(&rules, &error);
        let about = client::within(client.apiserver_version()).await.map_err(meaning)?;
        let minor = about.minor.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or(0);
        let everywhere = watching::may_see_all_pods(&client).await.map_err(meaning)?;
        let seen = Arc::new(Mutex::new(Seen::new(Arc::clone(&rules))));
        let (problems, stop) = (Problems::default(), CancellationToken::new());
        watching::begin(&client, &config.namespace, everywhere, &seen, &problems, &stop);
        let inner = Arc::new(Inner {
            config,
            pools,
            client,
            token,
            seen,
            problems,
            book,
            minor,
            version: about.git_version,
            everywhere,
        });
        let guard = stop.clone().drop_guard();
        inner.synced().await?;
        tokio::spawn(stop.run_until_cancelled_owned(patience::watch_over(Arc::clone(&inner))));
        Ok(Self { inner, _stop: guard })
    }

    fn refresh(&self) {
        if let Some(name) = &self.inner.config.credential
            && let Some(secret) = crate::plugin::credential(name)
        {
            self.inner.token.set(secret);
        }
    }
}

impl Inner {
    pub fn rules(&self) -> Arc<Rules> {
        Arc::clone(&lock(&self.seen).rules)
    }

    pub fn jobs(&self) -> Api<Job> {
        Api::namespaced(self.client.clone(), &self.config.namespace)
    }

    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.config.namespace)
    }

    pub fn meaning(&self, error: &kube::Error) -> AdapterError {
        client::meaning(&self.rules(), error)
    }

    /// The key of our Job in what was seen.
    fn name(&self, key: &RunKey) -> String {
        name_in(&self.config.namespace, &tag::tag(key))
    }

    async fn synced(&self) -> Result<(), AdapterError> {
        let deadline = tokio::time::Instant::now() + SYNC_MAX;
        loop {
            let missing: Vec<&str> = {
                let seen = lock(&self.seen);
                // claims and quotas may be forbidden, and nothing needs them
                [("jobs", seen.jobs.synced), ("pods", seen.pods.synced), ("nodes", seen.nodes.synced)]
                    .into_iter()
                    .filter_map(|(kind, synced)| (!synced).then_some(kind))
                    .collect()
            };
            if missing.is_empty() {
                return Ok(());
            }
            if tokio::time::Instant::now() >= deadline {
                let why = lock(&self.problems).words();
                let why = format!("{} could not be listed within 8 s: {why}", missing.join(", "));
                return Err(AdapterError::passing(ReasonCode::AdapterDown, why));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Why what was seen may not be what is there.
    fn blind(&self) -> Option<AdapterError> {
        let lasting = lock(&self.problems).lasting(Instant::now());
        let (kind, why) = lasting.into_iter().find(|(kind, _)| matches!(*kind, "jobs" | "pods"))?;
        let why = format!("{kind} cannot be watched: {why}");
        Some(AdapterError::passing(ReasonCode::AdapterDown, why))
    }

    /// Asks the server for a run's Job, and takes the answer into what was seen.
    async fn ask(&self, key: RunKey) -> Result<Option<JobFacts>, AdapterError> {
        let name = tag::tag(&key);
        let found = client::within(self.jobs().get_opt(&name)).await.map_err(|error| self.meaning(&error))?;
        let facts = found.as_ref().and_then(JobFacts::of).filter(|facts| facts.key == key);
        if let Some(facts) = &facts {
            lock(&self.seen).answered(&self.name(&key), facts.clone());
        }
        Ok(facts)
    }

    /// A run as it is.
    async fn run(&self, key: RunKey) -> Result<Option<Run>, AdapterError> {
        let blind = self.blind();
        if let Some(run) = lock(&self.seen).run(&key)
            && (blind.is_none() || matches!(run.status.state, RunState::Ended(_)))
        {
            return Ok(Some(run));
        }
        match (self.ask(key).await?, blind) {
            (None, _) => Ok(None),
            // its Job is there; where it stands nobody knows
            (Some(_), Some(error)) => Err(error),
            (Some(_), None) => Ok(lock(&self.seen).run(&key)),
        }
    }

    /// Tells a run to stop, for `code`: no pod is made any more, and those there are end within `grace_ms`. The first
    /// code stays.
    pub async fn stop(&self, key: RunKey, code: ReasonCode, detail: &str, grace_ms: u64) -> Result<(), AdapterError> {
        let name = tag::tag(&key);
        let Some(facts) = self.ask(key).await? else { return Ok(()) };
        if facts.complete || facts.failed.is_some() {
            return Ok(());
        }
        if facts.stop.is_none() {
            let patch = json!({
                "metadata": { "uid": facts.uid, "annotations": { tag::STOP: code.code(), tag::STOP_DETAIL: detail } },
                "spec": { "parallelism": 0 },
            });
            let patched = client::within(self.jobs().patch(&name, &PatchParams::default(), &Patch::Merge(patch))).await;
            match patched {
                Ok(job) => {
                    if let Some(facts) = JobFacts::of(&job) {
                        lock(&self.seen).answered(&self.name(&key), facts);
                    }
                }
                // gone, or another one has its name
                Err(error) if matches!(client::status(&error), Some(404 | 409)) => return Ok(()),
                Err(error) => return Err(self.meaning(&error)),
            }
        }
        self.end_pods(&name, &facts.uid, grace_ms).await
    }

    /// Deletes the pods of a Job that are not over; one that ends meanwhile stays as it ended.
    async fn end_pods(&self, name: &str, job: &str, grace_ms: u64) -> Result<(), AdapterError> {
        // a grace of 0 would make the pod vanish before its processes did
        let grace = u32::try_from(grace_ms.div_ceil(1000)).unwrap_or(u32::MAX).max(1);
        let ours = ListParams::default().labels(&format!("{}={name}", tag::TAG));
        for _ in 0..TRIES {
            let pods = client::within(self.pods().list(&ours)).await.map_err(|error| self.meaning(&error))?;
            let mut again = false;
            for pod in pods {
                let mine = pod.owner_references().iter().any(|owner| owner.uid == job);
                let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
                let shorter = pod.metadata.deletion_grace_period_seconds.is_none_or(|left| left > i64::from(grace));
                if !mine || matches!(phase, Some("Succeeded" | "Failed")) || !shorter {
                    continue;
                }
                let mut how = DeleteParams::default().grace_period(grace);
                how.preconditions = Some(Preconditions { resource_version: pod.resource_version(), uid: pod.uid() });
                match client::within(self.pods().delete(&pod.name_any(), &how)).await {
                    Ok(_) => {}
                    Err(error) if client::status(&error) == Some(404) => {}
                    Err(error) if client::status(&error) == Some(409) => again = true,
                    Err(error) => return Err(self.meaning(&error)),
                }
            }
            if !again {
                return Ok(());
            }
        }
        Err(AdapterError::passing(ReasonCode::AdapterDown, "its pod changes faster than it can be deleted"))
    }

    /// Makes the Job of a run, or finds it.
    async fn submit(&self, request: RunRequest, desk: Option<&DeskTicket>) -> Result<RunStatus, AdapterError> {
        let key = request.key;
        if let Some(run) = self.run(key).await? {
            return Ok(run.status);
        }
        if !self.pools.iter().any(|pool| pool.name == request.pool) {
            return Err(AdapterError::fatal(ReasonCode::InvalidTask, format!("pool: there is no {:?}", request.pool)));
        }
        let classes = self.inventory().classes;
        let rules = self.rules();
        let making = job::Making {
            rules: &rules,
            namespace: &self.config.namespace,
            class: classes.get(&(request.pool.clone(), request.class.clone())),
            image: self.config.image.as_deref(),
            minor: self.minor,
            tolerations: &self.config.tolerations,
            work: &self.config.work,
            runner: desk.zip(self.config.runner.as_deref()),
        };
        let job = job::job(&request, &making)?;
        job::room(&job, &lock(&self.seen).quotas.all)?;
        let body = serde_json::to_vec(&job)
            .map_err(|error| AdapterError::fatal(ReasonCode::Internal, format!("the Job: {error}")))?;
        // as it stands: what a newer server knows is not lost in the types that were compiled in
        let path = <Job as kube::Resource>::url_path(&(), Some(&self.config.namespace));
        let create = Request::new(path)
            .create(&PostParams::default(), body)
            .map_err(|error| AdapterError::fatal(ReasonCode::Internal, error.to_string()))?;
        let facts = match client::within(self.client.request::<Job>(create)).await {
            Ok(job) => JobFacts::of(&job).filter(|facts| facts.key == key),
            // somebody with the same key was first
            Err(error) if client::status(&error) == Some(409) => self.ask(key).await?,
            Err(error) => return Err(self.meaning(&error)),
        };
        let facts = facts.ok_or_else(|| {
            let why = format!("a Job {} that is not ours is in the way", tag::tag(&key));
            AdapterError::fatal(ReasonCode::Internal, why)
        })?;
        let mut seen = lock(&self.seen);
        seen.answered(&self.name(&key), facts);
        Ok(seen.run(&key).map_or(RunStatus { key, state: RunState::Starting }, |run| run.status))
    }

    pub(super) fn inventory(&self) -> inventory::Inventory {
        inventory::take(&lock(&self.seen), &self.pools)
    }

    /// Takes changed rules over; a file that got worse is told in the log, and its last good state goes on.
    pub(super) fn reload_rules(&self) {
        let Some(book) = &self.book else { return };
        for problem in book.reload() {
            tracing::warn!(path = %problem.path.display(), why = problem.why, "conversion rules cannot be used");
        }
        if let Some(rules) = book.choose("kubernetes", &self.platform(), "") {
            lock(&self.seen).rules = rules;
        }
    }

    fn platform(&self) -> String {
        format!("1.{}", self.minor)
    }
}

#[async_trait]
impl Adapter for KubernetesAdapter {
    fn describe(&self) -> AdapterDescription {
        AdapterDescription {
            backend: "kubernetes".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            runs_commands: self.inner.config.image.is_some(),
            runs_images: true,
            stops_on_lapse: self.inner.config.runner.is_some(),
            firmness: Firmness::Estimate,
        }
    }

    async fn health(&self) -> AdapterHealth {
        self.refresh();
        let inner = &self.inner;
        let mut notes = vec![format!("Kubernetes {}, namespace {}", inner.version, inner.config.namespace)];
        let answers = client::within(inner.client.apiserver_version()).await;
        if let Err(error) = &answers {
            notes.push(inner.meaning(error).to_string());
        }
        for (kind, why) in lock(&inner.problems).lasting(Instant::now()) {
            notes.push(format!("{kind} cannot be watched: {why}"));
        }
        if !inner.everywhere {
            notes.push("pods of other namespaces cannot be read: what is free may be less".to_owned());
        }
        if inner.minor < 22 {
            notes.push("this server has no Indexed Jobs: no gangs".to_owned());
        }
        notes.extend(inner.inventory().notes.into_iter().take(20));
        AdapterHealth { ready: answers.is_ok() && inner.blind().is_none(), notes }
    }

    async fn inventory(&self) -> Result<Vec<PoolSpec>, AdapterError> {
        self.refresh();
        Ok(self.inner.inventory().pools(&self.inner.pools))
    }

    async fn submit(&self, request: RunRequest) -> Result<RunStatus, AdapterError> {
        self.refresh();
        if !request.inputs.is_empty() || !request.outputs.is_empty() {
            return Err(AdapterError::unsupported("bring inputs or fetch outputs without a runner"));
        }
        self.inner.submit(request, None).await
    }

    async fn submit_by_runner(&self, request: RunRequest, desk: DeskTicket) -> Result<RunStatus, AdapterError> {
        self.refresh();
        self.inner.submit(request, Some(&desk)).await
    }

    async fn status(&self, key: RunKey) -> Result<Option<RunStatus>, AdapterError> {
        self.refresh();
        Ok(self.inner.run(key).await?.map(|run| run.status))
    }

    async fn list(&self) -> Result<Vec<RunStatus>, AdapterError> {
        self.refresh();
        if let Some(error) = self.inner.blind() {
            return Err(error);
        }
        let seen = lock(&self.inner.seen);
        Ok(seen.jobs.all.keys().filter_map(|name| seen.run_named(name)).map(|run| run.status).collect())
    }

    fn watch(&self) -> broadcast::Receiver<RunEvent> {
        lock(&self.inner.seen).subscribe()
    }

    /// Kubernetes keeps one log of both streams: all of it is told as standard output, and standard error is empty.
    async fn logs(
        &self,
        key: RunKey,
        stream: LogStream,
        offset: u64,
        bytes_max: usize,
    ) -> Result<LogChunk, AdapterError> {
        self.refresh();
        let inner = &self.inner;
        // the state first: what is read after the end was all there
        let run = inner.run(key).await?.ok_or_else(|| unknown(key))?;
        let ended = matches!(run.status.state, RunState::Ended(_));
        let nothing = LogChunk { offset, bytes: Vec::new(), end: ended };
        if stream == LogStream::Stderr {
            return Ok(nothing);
        }
        let pod = {
            let seen = lock(&inner.seen);
            let job = seen.name_of(&key).and_then(|name| seen.jobs.all.get(name));
            job.and_then(|job| seen.pod_of(job)).map(|pod| pod.name.clone())
        };
        let Some(pod) = pod else { return Ok(nothing) };
        // there is no offset in the API: what comes before is read and dropped, one byte more tells the end
        let wanted = offset.saturating_add(bytes_max as u64);
        let asked = LogParams {
            container: Some("run".to_owned()),
            limit_bytes: Some(i64::try_from(wanted.saturating_add(1)).unwrap_or(i64::MAX)),
            ..LogParams::default()
        };
        let read = async {
            let mut text = std::pin::pin!(inner.pods().log_stream(&pod, &asked).await?);
            let (mut at, mut bytes, mut more) = (0_u64, Vec::new(), false);
            let mut buffer = vec![0; 64 << 10];
            loop {
                let count = text.read(&mut buffer).await.map_err(kube::Error::ReadEvents)?;
                if count == 0 {
                    break;
                }
                let from = usize::try_from(offset.saturating_sub(at)).unwrap_or(usize::MAX).min(count);
                let room = bytes_max - bytes.len();
                let to = from.saturating_add(room).min(count);
                bytes.extend_from_slice(&buffer[from..to]);
                more |= to < count;
                at += count as u64;
            }
            Ok((bytes, more))
        };
        match client::within(read).await {
            Ok((bytes, more)) => Ok(LogChunk { offset, bytes, end: ended && !more }),
            // not begun yet, or gone with its pod
            Err(error) if matches!(client::status(&error), Some(400 | 404)) => Ok(nothing),
            Err(error) => Err(inner.meaning(&error)),
        }
    }

    async fn renew(&self, key: RunKey, _ttl_ms: u64) -> Result<(), AdapterError> {
        self.refresh();
        // leases are the node's: nothing on the cluster counts them
        self.inner.run(key).await?.map(drop).ok_or_else(|| unknown(key))
    }

    async fn cancel(&self, key: RunKey, grace_ms: u64) -> Result<(), AdapterError> {
        self.refresh();
        if let Some(run) = lock(&self.inner.seen).run(&key)
            && matches!(run.status.state, RunState::Ended(_))
        {
            return Ok(());
        }
        self.inner.stop(key, ReasonCode::Cancelled, "by its owner", grace_ms).await
    }

    async fn remove(&self, key: RunKey) -> Result<(), AdapterError> {
        self.refresh();
        let inner = &self.inner;
        match inner.run(key).await? {
            None => return Ok(()),
            Some(run) if !matches!(run.status.state, RunState::Ended(_)) => {
                return Err(AdapterError::fatal(ReasonCode::Internal, "only a run that ended can be removed"));
            }
            Some(_) => {}
        }
        let uid = lock(&inner.seen).jobs.all.get(&inner.name(&key)).map(|job| job.uid.clone());
        let mut how = DeleteParams::background();
        how.preconditions = Some(Preconditions { resource_version: None, uid });
        match client::within(inner.jobs().delete(&tag::tag(&key), &how)).await {
            Ok(_) => {}
            Err(error) if matches!(client::status(&error), Some(404 | 409)) => {}
            Err(error) => return Err(inner.meaning(&error)),
        }
        lock(&inner.seen).forget(&inner.name(&key));
        Ok(())
    }

    fn capabilities(&self) -> Capabilities {
        let by_runner = self.inner.config.runner.is_some();
        Capabilities { streams_inventory: true, by_runner, ..Capabilities::default() }
    }

    async fn servers(&self, follow: bool) -> Result<mpsc::Receiver<InventoryEvent>, AdapterError> {
        self.refresh();
        let (tell, told) = mpsc::channel(INVENTORY_AHEAD);
        let inner = Arc::clone(&self.inner);
        let mut drift = lock(&inner.seen).drift.subscribe();
        tokio::spawn(async move {
            let mut before = inventory::Inventory::default();
            let mut first = true;
            loop {
                drift.borrow_and_update();
                let now = inner.inventory();
                for event in now.changes(&before) {
                    if tell.send(event).await.is_err() {
                        return;
                    }
                }
                if std::mem::take(&mut first) && tell.send(InventoryEvent::Synced).await.is_err() || !follow {
                    return;
                }
                before = now;
                tokio::select! {
                    () = tell.closed() => return,
                    changed = drift.changed() => if changed.is_err() { return },
                }
                tokio::time::sleep(DRIFT_EVERY).await;
            }
        });
        Ok(told)
    }
}
