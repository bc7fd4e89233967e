//! Everything that places and runs tasks, put together: adapters, executor, artifacts, negotiation, digests, services.
//!
//! [`Placement::start`] needs a mesh that runs, the registry's handle and the members as they change; it gives back the
//! ports for HTTP and the handlers that the mesh serves: `frames` for the classes `Negotiation` and `RunEvents`, `logs`
//! for `Logs`, `bulk` for bulk streams, `digests` for `Digests` and gossip.

use super::backends::{Backends, Plugins, PluginsError};
use super::custody::{TaskRecords, TaskRecordsError};
use super::digests::{self, DigestGate, DigestParts, IdentifierLookup};
use super::members::{KnownMember, KnownMembers};
use super::negotiation::{self, Inbox, NegotiationHandle, NegotiationParts};
use super::operations::{self, OperationParts, OperationRows, OperationRowsError};
use super::runs::{ExecutorParts, RunExecutor, RunTable};
use crate::config::{AwardMode, NegotiationSection, NodeConfig};
use crate::http::adapter_glue::Adapters;
use crate::http::glue::Artifacts;
use crate::http::operation_glue::OperationsDoor;
use crate::http::task_glue::Tasks;
use crate::mesh::MeshHandle;
use crate::services::artifacts::{ArtifactFetcher, ArtifactServer, ArtifactStore, OpenStoreError, Retention};
use crate::services::logs::LogService;
use crate::services::pools::PoolService;
use crate::services::task_retention::{TaskRetention, keep_swept};
use crate::services::tasks::{TaskParts, TaskService};
use adapters::fake::{FakeAdapter, FakeScript};
use adapters::local::{LocalAdapter, OpenLocalError};
use consensus::custody::CustodyConfig;
use consensus::envelope::Federation;
use consensus::negotiation::{Input, NegotiationConfig, ProviderPolicy};
use consensus::operation::OperationConfig;
use consensus::raft::RegistryHandle;
use consensus::registry::{MemberRecord, Standing};
use consensus::store::Records;
use cpi::dictionary::Dictionary;
use cpi::identifier::Cpi;
use cpi::ids::{MemberId, StableKey};
use ed25519_dalek::SigningKey;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Orders and reports that may wait between negotiation and executor.
const RUNS_WAITING_MAX: usize = 4_096;
/// Between two collections of artifacts that nobody keeps.
const COLLECT_EVERY: Duration = Duration::from_secs(600);

/// Why the parts could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartPlacementError {
    /// The rows of tasks cannot be read.
    #[error("the rows of tasks cannot be read")]
    Records(#[from] TaskRecordsError),
    /// The artifacts cannot be opened.
    #[error("the artifacts cannot be opened")]
    Artifacts(#[from] OpenStoreError),
    /// The `local` backend cannot be opened.
    #[error("the local backend cannot be opened")]
    Local(#[from] OpenLocalError),
    /// The plugins cannot be set up.
    #[error(transparent)]
    Plugins(#[from] PluginsError),
    /// The rows of operations cannot be read.
    #[error("the rows of operations cannot be read")]
    Operations(#[from] OperationRowsError),
}

/// What the parts are made of.
pub struct PlacementParts {
    /// The node's configuration.
    pub config: NodeConfig,
    /// This member.
    pub me: MemberId,
    /// Its federation.
    pub federation: Federation,
    /// Signs statements and digests.
    pub signing_key: Arc<SigningKey>,
    /// The node's records.
    pub records: Records,
    /// The mesh, running.
    pub mesh: MeshHandle,
    /// The registry.
    pub registry: RegistryHandle,
    /// The members as the registry has them.
    pub members: watch::Receiver<Arc<Vec<MemberRecord>>>,
    /// The dictionary in force.
    pub dictionary: Arc<dyn Fn() -> Arc<Dictionary> + Send + Sync>,
    /// This program, which is also the runs' supervisor.
    pub supervisor_exe: PathBuf,
    /// Stops everything.
    pub stop: CancellationToken,
    /// Where the tasks are counted.
    pub tasks: TaskTracker,
}

/// The parts, running.
pub struct Placement {
    /// Port for HTTP.
    pub tasks: Arc<Tasks>,
    /// Port for HTTP.
    pub pools: Arc<PoolService>,
    /// Port for HTTP.
    pub adapters: Arc<Adapters>,
    /// Port for HTTP.
    pub artifacts: Arc<Artifacts>,
    /// Serves `Negotiation` and `RunEvents`.
    pub frames: Arc<Inbox>,
    /// Serves `Logs`.
    pub logs: Arc<LogService>,
    /// Serves bulk streams.
    pub bulk: Arc<ArtifactServer>,
    /// Judges digests, gossiped ones and those of the class `Digests`.
    pub digests: Arc<DigestGate>,
    /// Port for HTTP.
    pub operations: Arc<OperationsDoor>,
    /// The plugins; stopped after everything that calls them.
    pub plugins: Arc<Plugins>,
    /// For metrics and readiness.
    pub negotiation: NegotiationHandle,
    /// The members in force.
    pub members: KnownMembers,
}

impl Placement {
    /// Starts all parts.
    ///
    /// # Errors
    /// [`StartPlacementError`].
    pub async fn start(parts: PlacementParts) -> Result<Self, StartPlacementError> {
        let PlacementParts { config, me, mesh, stop, tasks, .. } = &parts;
        let backends = Backends::new(config.pools.clone());
        start_builtin(config, &parts.supervisor_exe, &backends).await?;
        let plugins =
            Plugins::open(config, parts.records.clone(), Arc::clone(&parts.dictionary), backends.clone()).await?;
        let store = ArtifactStore::open(config.artifacts_dir(), config.data.free_bytes_min)?;
        let fetcher = ArtifactFetcher::new(*me, store.clone(), Arc::new(mesh.clone()));
        let table = RunTable::default();
        let logs = LogService::new(table.clone());
        let members = follow_members(&parts);

        let (frames, queues) = negotiation::inbox(*me, parts.federation, members.clone());
        let (runs, runs_in) = mpsc::channel(RUNS_WAITING_MAX);
        let (reports, reports_in) = mpsc::channel(RUNS_WAITING_MAX);
        let section = &config.negotiation;
        let (negotiation, own_digests, driver) = negotiation::start(NegotiationParts {
            me: *me,
            federation: parts.federation,
            signing_key: Arc::clone(&parts.signing_key),
            config: negotiation_config(section),
            dictionary: (parts.dictionary)(),
            records: TaskRecords::new(parts.records.clone()),
            members: members.clone(),
            peers: Arc::new(mesh.clone()),
            queues,
            runs,
            reports: reports_in,
            results: Arc::new(fetcher.clone()),
            pools: plugins.own_pools(),
            digest_ttl_ms: section.digest_ttl_ms,
            seed: rand::random(),
            stop: stop.clone(),
        })?;
        let (operations, operations_driver) = operations::start(OperationParts {
            rows: OperationRows::new(parts.records.clone()),
            backends: backends.clone(),
            vault: Arc::clone(plugins.vault()),
            config: OperationConfig::default(),
            stop: stop.clone(),
        })?;
        let executor = RunExecutor::spawn(ExecutorParts {
            backends,
            fetcher,
            table,
            commands: runs_in,
            reports,
            cancel_grace_ms: config.adapters.local.cancel_grace_ms,
            stop: stop.clone(),
        });
        let (gate, received) = digests::gate(parts.federation, members.clone());
        let digests_driver = digests::start(DigestParts {
            me: *me,
            federation: parts.federation,
            signing_key: Arc::clone(&parts.signing_key),
            mesh: mesh.clone(),
            members: members.clone(),
            news: Arc::new(negotiation.clone()),
            own: own_digests,
            gate: Arc::clone(&gate),
            received,
            identifiers: Arc::new(Lookup::new(config, parts.registry.clone())),
            applied: parts.registry.watch_applied(),
            interval_ms: section.digest_interval_ms,
            ttl_ms: section.digest_ttl_ms,
            stop: stop.clone(),
        });
        let watching = tokio::spawn(Arc::clone(&plugins).run(negotiation.clone(), stop.clone()));
        for task in [driver, executor, digests_driver, watching, operations_driver] {
            let stop = stop.clone();
            tasks.spawn(async move {
                if let Err(error) = task.await {
                    // A node without its driver would keep its leases and place nothing: its supervisor starts it anew.
                    tracing::error!(%error, "a driver ended badly: the node stops");
                    stop.cancel();
                }
            });
        }
        let retention = Retention {
            unpinned: Duration::from_secs(config.artifacts.unused_ttl_s),
            results: Duration::from_secs(config.artifacts.result_ttl_s),
        };
        tasks.spawn(collect_artifacts(store.clone(), retention, stop.clone()));
        let kept = TaskRetention {
            results_ms: config.artifacts.result_ttl_s.saturating_mul(1000),
            tasks_ms: config.data.task_ttl_s.saturating_mul(1000),
            tasks_max: config.data.ended_tasks_max,
            keys_ms: config.http.idempotency_ttl_s.saturating_mul(1000),
        };
        tasks.spawn(keep_swept(Arc::clone(negotiation.board()), store.clone(), kept, stop.clone()));
        tasks.spawn(follow_dictionary(Arc::clone(&parts.dictionary), negotiation.clone(), stop.clone()));

        let board = Arc::clone(negotiation.board());
        let bulk = ArtifactServer::new(store.clone(), move |member, task| board.takes_part(member, task));
        let service = TaskService::new(TaskParts {
            negotiation: negotiation.clone(),
            members: members.clone(),
            mesh: mesh.clone(),
            logs: logs.clone(),
            store: store.clone(),
            dictionary: Arc::clone(&parts.dictionary),
            idempotency_ttl_ms: config.http.idempotency_ttl_s.saturating_mul(1000),
            submits_max: config.http.concurrency_max,
        });
        Ok(Self {
            tasks: Arc::new(Tasks::start(Arc::new(service), stop.clone())),
            pools: Arc::new(PoolService::new(*me, negotiation.clone(), members.clone())),
            adapters: Arc::new(Adapters::new(Arc::clone(&plugins), negotiation.clone())),
            artifacts: Arc::new(Artifacts {
                store,
                object_bytes_max: config.artifacts.object_bytes_max,
                total_bytes_max: config.artifacts.total_bytes_max,
            }),
            frames,
            logs: Arc::new(logs),
            bulk: Arc::new(bulk),
            digests: gate,
            operations: Arc::new(OperationsDoor { handle: operations, plugins: Arc::clone(&plugins) }),
            plugins,
            negotiation,
            members,
        })
    }
}

/// What the operator's section means to the machine.
fn negotiation_config(section: &NegotiationSection) -> NegotiationConfig {
    let defaults = NegotiationConfig::default();
    NegotiationConfig {
        wave_size: section.wave_size,
        ask_deadline_ms_min: defaults.ask_deadline_ms_min.min(section.ask_timeout_ms),
        ask_deadline_ms_max: section.ask_timeout_ms,
        hold_ttl_ms: section.hold_ttl_ms,
        plan_ttl_ms: section.plan_hold_ttl_ms,
        lease_ttl_ms: section.lease_ttl_ms,
        renew_every_ms: section.lease_renew_ms,
        backoff_ms_min: section.retry_ms_min,
        backoff_ms_max: section.retry_ms_max,
        tasks_max: section.tasks_open_max,
        commit_if: section.mode == AwardMode::CommitIf,
        own_permille: section.own_share_permille,
        dearer_permille_max: section.dearer_permille_max,
        egress_gib_micro: section.egress_gib_micro,
        digest_age_ms_max: section.digest_ttl_ms,
        custody: CustodyConfig {
            durability: section.durability,
            beat_every_ms: (section.custody_orphan_after_ms / 7).min(2_000),
            orphan_after_ms: section.custody_orphan_after_ms,
            return_after_ms: section.custody_return_after_ms,
            replace_after_ms: section.custody_replace_after_ms,
            ..defaults.custody.clone()
        },
        provider: ProviderPolicy {
            accept_countries: section.accept_countries.clone(),
            holds_per_origin_max: u32::try_from(section.holds_per_origin_max).unwrap_or(u32::MAX),
            leases_per_origin_max: u32::try_from(section.leases_per_origin_max).unwrap_or(u32::MAX),
            discount_permille_max: section.discount_permille_max,
            ..defaults.provider.clone()
        },
        ..defaults
    }
}

async fn start_builtin(
    config: &NodeConfig,
    supervisor_exe: &std::path::Path,
    backends: &Backends,
) -> Result<(), StartPlacementError> {
    if config.adapters.local.enabled && !config.pools_of("local").is_empty() {
        backends.insert("local", Arc::new(LocalAdapter::new(config.local_backend(supervisor_exe)).await?));
    }
    if config.adapters.fake.enabled {
        let fake = FakeAdapter::new(config.pools_of("fake"));
        fake.script_all(FakeScript { run_ms: config.adapters.fake.run_ms, ..FakeScript::default() });
        backends.insert("fake", Arc::new(fake));
    }
    Ok(())
}

/// Keeps the drivers' snapshot of the members true.
fn follow_members(parts: &PlacementParts) -> KnownMembers {
    let known = KnownMembers::default();
    let mut members = parts.members.clone();
    known.set(snapshot(&members.borrow_and_update()));
    let (follower, stop) = (known.clone(), parts.stop.clone());
    parts.tasks.spawn(async move {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                changed = members.changed() => if changed.is_err() { return },
            }
            follower.set(snapshot(&members.borrow_and_update()));
        }
    });
    known
}

fn snapshot(records: &[MemberRecord]) -> BTreeMap<MemberId, KnownMember> {
    let in_ring = records.iter().filter(|record| record.standing != Standing::Expelled);
    let known = in_ring.map(|record| {
        let keys = record.signing_keys.iter().filter(|span| span.until.is_none()).map(|span| span.key);
        let active = record.standing == Standing::Active;
        (record.member, KnownMember { place: record.place.clone(), active, signing_keys: keys.collect() })
    });
    known.collect()
}

/// Tells the machine of a newer dictionary.
async fn follow_dictionary(
    dictionary: Arc<dyn Fn() -> Arc<Dictionary> + Send + Sync>,
    negotiation: NegotiationHandle,
    stop: CancellationToken,
) {
    let mut release = dictionary().release();
    let mut look = tokio::time::interval(Duration::from_secs(5));
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = look.tick() => {}
        }
        let current = dictionary();
        if current.release() != release {
            release = current.release();
            if negotiation.feed(Input::Dictionary(current)).await.is_err() {
                return;
            }
        }
    }
}

/// Removes artifacts that nobody keeps, now and then.
async fn collect_artifacts(store: ArtifactStore, retention: Retention, stop: CancellationToken) {
    let mut timer = tokio::time::interval(COLLECT_EVERY);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = timer.tick() => {}
        }
        let store = store.clone();
        match tokio::task::spawn_blocking(move || store.collect(SystemTime::now(), retention)).await {
            Ok(Ok(0)) => {}
            Ok(Ok(removed)) => tracing::info!(removed, "artifacts that nobody keeps are gone"),
            Ok(Err(error)) => tracing::warn!(%error, "artifacts cannot be collected"),
            Err(error) => tracing::error!(%error, "collecting artifacts ended badly"),
        }
    }
}

/// Finds identifiers: own ones by the configuration, all by the replica.
struct Lookup {
    own: BTreeMap<StableKey, Cpi>,
    registry: RegistryHandle,
}

impl Lookup {
    fn new(config: &NodeConfig, registry: RegistryHandle) -> Self {
        let texts = config.pools.iter().flat_map(|pool| &pool.identifiers);
        let own = texts.filter_map(|text| Cpi::parse(text).ok()).map(|cpi| (cpi.stable_key(), cpi)).collect();
        Self { own, registry }
    }
}

impl IdentifierLookup for Lookup {
    fn identifier(&self, key: StableKey) -> Option<Cpi> {
        let registered = self.registry.reader().identifier(&key).and_then(|record| Cpi::parse(&record.text).ok());
        registered.or_else(|| self.own.get(&key).cloned())
    }
}
