//! The contract's verbs on a Slurm cluster.

use super::config::SlurmConfig;
use super::convert::Converter;
use super::jobs::{Jobs, is_live};
use super::nodes::{Cluster, Nodes};
use super::rest::Rest;
use crate::contract::{
    Adapter, AdapterDescription, AdapterError, AdapterHealth, LogChunk, LogStream, RunEvent, RunKey, RunRequest,
    RunState, RunStatus,
};
use crate::host::lock;
use crate::resources::{Capabilities, InventoryEvent, Reservation, ReserveRequest};
use crate::runner::{DIR_VARIABLE, DeskTicket, name_of};
use async_trait::async_trait;
use cpi::reason::{Reason, ReasonCode};
use cpi::resource::{Firmness, PoolSpec, Quantity};
use serde_json::json;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};
use tokio::sync::{broadcast, mpsc};

/// How old a look may be for what must be right now; several callers share one.
const NOW: Duration = Duration::from_millis(150);
/// How long a reservation may take to stand, and to be gone.
const HOLD_WITHIN: Duration = Duration::from_secs(7);
/// Where programs are looked for in a job.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// A Slurm cluster.
pub struct SlurmAdapter {
    config: SlurmConfig,
    rest: Arc<Rest>,
    converter: Arc<Converter>,
    jobs: Arc<Jobs>,
    nodes: Arc<Nodes>,
    /// What is wrong with rule files.
    rule_notes: Arc<Mutex<Vec<String>>>,
}

impl SlurmAdapter {
    /// Connects to slurmrestd and looks once.
    ///
    /// # Errors
    /// What is wrong with `config`, or why Slurm cannot be reached.
    pub async fn open(config: SlurmConfig, pools: Vec<PoolSpec>) -> Result<Arc<Self>, AdapterError> {
        let (converter, problems) = Converter::open(config.rules_dir.as_deref())?;
        let converter = Arc::new(converter);
        let rest = Arc::new(Rest::open(&config, Arc::clone(&converter)).await?);
        let jobs = Arc::new(Jobs::new(Arc::clone(&rest), Arc::clone(&converter), &config.owner));
        let nodes = Arc::new(Nodes::new(Arc::clone(&rest), Arc::clone(&converter), config.clone(), pools));
        // what was submitted before this process is known before it submits anything
        jobs.look(Duration::ZERO).await?;
        nodes.cluster(Duration::ZERO).await?;
        let rule_notes =
            problems.iter().map(|problem| format!("{}: {}", problem.path.display(), problem.why)).collect();
        let rule_notes = Arc::new(Mutex::new(rule_notes));
        let adapter = Arc::new(Self { config, rest, converter, jobs, nodes, rule_notes });
        tokio::spawn(look_on(Arc::downgrade(&adapter)));
        Ok(adapter)
    }

    fn poll(&self) -> Duration {
        Duration::from_millis(self.config.poll_ms)
    }

    /// The largest server of a class, and whether the class is chosen by a feature.
    fn largest(cluster: &Cluster, pool: &str, class: &str) -> Result<(Quantity, bool), AdapterError> {
        let invalid = |why: String| AdapterError::fatal(ReasonCode::InvalidTask, why);
        let spec = cluster.pools.iter().find(|spec| spec.name == pool);
        let spec = spec.ok_or_else(|| invalid(format!("pool: there is no pool {pool:?}")))?;
        if !spec.classes.iter().any(|known| known.name == class) {
            return Err(invalid(format!("class: pool {pool} has no class {class:?}")));
        }
        let of_class = cluster.servers.values().filter(|server| server.pool == pool && server.class == class);
        let largest = of_class.map(|server| server.total).reduce(|a, b| Quantity {
            cpu_milli: a.cpu_milli.max(b.cpu_milli),
            memory_bytes: a.memory_bytes.max(b.memory_bytes),
            storage_bytes: a.storage_bytes.max(b.storage_bytes),
            chip_milli: a.chip_milli.max(b.chip_milli),
        });
        let named = cluster.features.contains(&(pool.to_owned(), class.to_owned()));
        Ok((largest.unwrap_or_default(), named))
    }

    /// What is sent for a job that runs `program` with `need` in a class.
    async fn document(&self, wanted: &Wanted<'_>) -> Result<serde_json::Value, AdapterError> {
        let cluster = self.nodes.cluster(self.poll() * 5).await?;
        let (largest, by_feature) = Self::largest(&cluster, wanted.pool, wanted.class)?;
        let need = wanted.need;
        if !need.chip_milli.is_multiple_of(1000) {
            let why = format!("{} thousandths of a chip: Slurm gives whole ones", need.chip_milli);
            return Err(AdapterError::fatal(ReasonCode::BackendUnsupported, why));
        }
        if !(largest.cpu_milli >= need.cpu_milli
            && largest.memory_bytes >= need.memory_bytes
            && largest.chip_milli >= need.chip_milli)
        {
            let why = format!("the largest server of class {} has {} cores", wanted.class, largest.cpu_milli / 1000);
            return Err(AdapterError::fatal(ReasonCode::ShapeTooLarge, why));
        }
        let class = cluster
            .pools
            .iter()
            .filter(|pool| pool.name == wanted.pool)
            .flat_map(|pool| &pool.classes)
            .find(|class| class.name == wanted.class);
        let chip = class.and_then(|class| class.chip.as_ref());
        let source = json!({
            "tag": wanted.tag,
            "owner": self.config.owner,
            "partition": self.nodes.partition(wanted.pool),
            "account": self.config.account,
            "qos": self.config.qos,
            "class": wanted.class,
            "feature": by_feature.then_some(wanted.class),
            "need": need,
            "chip": chip.filter(|_| need.chip_milli > 0),
            "program": wanted.program,
            "env": wanted.env,
            "max_runtime_ms": wanted.max_runtime_ms,
            "linger_ms": wanted.linger_ms,
            "folder": self.config.run_dir,
            "output": self.config.job_output,
        });
        self.converter.submission(wanted.pool, &source)
    }

    /// Waits until the hold of `name` is as wanted.
    async fn until_hold(&self, name: &str, wanted: impl Fn(&[String]) -> bool) -> Result<bool, AdapterError> {
        let deadline = Instant::now() + HOLD_WITHIN;
        loop {
            let jobs = self.jobs.named(name, Duration::ZERO).await?;
            let states: Vec<String> = jobs.values().map(|job| job.job_state.clone()).collect();
            if wanted(&states) {
                return Ok(true);
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
            tokio::time::sleep(NOW).await;
        }
    }
}

/// A job that is wanted.
struct Wanted<'a> {
    tag: &'a str,
    pool: &'a str,
    class: &'a str,
    need: &'a Quantity,
    program: &'a [String],
    env: std::collections::BTreeMap<String, String>,
    max_runtime_ms: u64,
    linger_ms: u64,
}

/// The name of the job that keeps capacity for a run. No tag, so that it is no run.
fn hold_name(key: &RunKey) -> String {
    format!("hold-{}", name_of(key))
}

/// Looks at the jobs until the adapter is gone.
async fn look_on(adapter: Weak<SlurmAdapter>) {
    loop {
        let Some(this) = adapter.upgrade() else { return };
        let every = this.poll();
        // what goes wrong is in the health
        let _ = this.jobs.look(every / 2).await;
        let problems = this.converter.reload();
        if !problems.is_empty() {
            let notes = problems.iter().map(|problem| format!("{}: {}", problem.path.display(), problem.why));
            *lock(&this.rule_notes) = notes.collect();
        }
        drop(this);
        tokio::time::sleep(every).await;
    }
}

#[async_trait]
impl Adapter for SlurmAdapter {
    fn describe(&self) -> AdapterDescription {
        AdapterDescription {
            backend: "slurm".to_owned(),
            version: format!("{} ({})", env!("CARGO_PKG_VERSION"), self.rest.version()),
            runs_commands: true,
            runs_images: false,
            stops_on_lapse: true,
            // others submit to the same queue
            firmness: Firmness::Estimate,
        }
    }

    /// By the newest look: asking Slurm itself may take longer than a heartbeat.
    async fn health(&self) -> AdapterHealth {
        let trouble = self.jobs.trouble();
        let ready = trouble.is_none();
        let mut notes: Vec<String> = trouble.into_iter().collect();
        notes.extend(self.nodes.notes());
        notes.extend(lock(&self.rule_notes).iter().cloned());
        AdapterHealth { ready, notes }
    }

    async fn inventory(&self) -> Result<Vec<PoolSpec>, AdapterError> {
        let mut pools = self.nodes.cluster(self.poll()).await?.pools.clone();
        for pool in &mut pools {
            "slurm".clone_into(&mut pool.backend);
        }
        Ok(pools)
    }

    async fn submit(&self, _: RunRequest) -> Result<RunStatus, AdapterError> {
        let why = "Slurm's jobs execute causeway-runner, which needs the node's run desk: configure one";
        Err(AdapterError::fatal(ReasonCode::BackendUnsupported, why))
    }

    async fn submit_by_runner(&self, request: RunRequest, desk: DeskTicket) -> Result<RunStatus, AdapterError> {
        if request.command.first().is_none_or(String::is_empty) {
            return Err(AdapterError::fatal(ReasonCode::InvalidTask, "command: expected a program"));
        }
        if request.image.is_some() {
            return Err(AdapterError::fatal(ReasonCode::BackendUnsupported, "Slurm runs commands, not images"));
        }
        let name = name_of(&request.key);
        let mut env: std::collections::BTreeMap<String, String> = desk.variables().into_iter().collect();
        env.insert(DIR_VARIABLE.to_owned(), self.config.run_dir.clone());
        env.insert("PATH".to_owned(), PATH.to_owned());
        let document = self
            .document(&Wanted {
                tag: &name,
                pool: &request.pool,
                class: &request.class,
                need: &request.need,
                program: std::slice::from_ref(&self.config.runner),
                env,
                max_runtime_ms: request.max_runtime_ms,
                linger_ms: desk.linger_ms,
            })
            .await?;
        // what was kept for it is its own now
        let hold = hold_name(&request.key);
        if self.jobs.named(&hold, self.poll() * 2).await?.values().any(is_live) {
            self.jobs.cancel(&hold).await?;
        }
        self.jobs.submit(&name, &document, self.poll() * 2).await?;
        Ok(RunStatus { key: request.key, state: RunState::Starting })
    }

    async fn status(&self, key: RunKey) -> Result<Option<RunStatus>, AdapterError> {
        let told = self.jobs.told(&name_of(&key), NOW).await?;
        Ok(told.map(|told| RunStatus { key, state: told.state }))
    }

    async fn waiting(&self, key: RunKey) -> Result<Option<Reason>, AdapterError> {
        Ok(self.jobs.told(&name_of(&key), self.poll()).await?.and_then(|told| told.pending))
    }

    async fn list(&self) -> Result<Vec<RunStatus>, AdapterError> {
        let all = self.jobs.list(NOW).await?;
        Ok(all.into_iter().map(|told| RunStatus { key: told.key, state: told.state }).collect())
    }

    fn watch(&self) -> broadcast::Receiver<RunEvent> {
        self.jobs.events.subscribe()
    }

    async fn logs(&self, _: RunKey, _: LogStream, _: u64, _: usize) -> Result<LogChunk, AdapterError> {
        Err(AdapterError::unsupported("tell logs: its runs' runners bring them to the run desk"))
    }

    async fn renew(&self, _: RunKey, _: u64) -> Result<(), AdapterError> {
        Err(AdapterError::unsupported("renew leases: its runs' runners keep them"))
    }

    async fn cancel(&self, key: RunKey, _: u64) -> Result<(), AdapterError> {
        self.jobs.cancel(&name_of(&key)).await
    }

    async fn remove(&self, key: RunKey) -> Result<(), AdapterError> {
        // Slurm forgets its jobs by itself; a run that lives is the desk's to refuse
        self.jobs.forget(&name_of(&key), self.poll()).await
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { reserves: true, streams_inventory: true, by_runner: true, ..Capabilities::default() }
    }

    async fn servers(&self, follow: bool) -> Result<mpsc::Receiver<InventoryEvent>, AdapterError> {
        self.nodes.stream(follow).await
    }

    /// A job that only sleeps: reservations proper need an operator's rights and are not in this API. It ends by itself after
    /// `ttl_ms`, and is not prolonged: what is told is what is left.
    async fn reserve(&self, request: ReserveRequest) -> Result<Reservation, AdapterError> {
        let name = hold_name(&request.key);
        let seconds = format!("{}.{:03}", request.ttl_ms / 1000, request.ttl_ms % 1000);
        let document = self
            .document(&Wanted {
                tag: &name,
                pool: &request.pool,
                class: &request.class,
                need: &request.need,
                program: &["/bin/sleep".to_owned(), seconds],
                env: std::collections::BTreeMap::from([("PATH".to_owned(), PATH.to_owned())]),
                max_runtime_ms: request.ttl_ms,
                linger_ms: 0,
            })
            .await?;
        self.jobs.submit(&name, &document, Duration::ZERO).await?;
        let stands = self
            .until_hold(&name, |states| states.iter().any(|state| state != "PENDING" && state != "CONFIGURING"))
            .await?;
        if !stands {
            self.jobs.cancel(&name).await?;
            let why = "Slurm did not start the job that keeps it";
            return Err(AdapterError::passing(ReasonCode::NoCapacityNow, why));
        }
        Ok(Reservation { key: request.key, firmness: Firmness::Reserved, ttl_ms: request.ttl_ms })
    }

    async fn unreserve(&self, key: RunKey) -> Result<(), AdapterError> {
        let name = hold_name(&key);
        self.jobs.cancel(&name).await?;
        let ended = |states: &[String]| {
            !states.iter().any(|state| matches!(state.as_str(), "PENDING" | "CONFIGURING" | "RUNNING" | "COMPLETING"))
        };
        self.until_hold(&name, ended).await.map(drop)
    }
}
