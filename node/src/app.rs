//! The node assembled: builds its parts in order, says when it is ready, and stops them in reverse.
//!
//! ```text
//! data folder + lock -> keys, membership -> records -> signer -> mesh (gate closed) -> registry -> roster (gate opens)
//!   -> admission desk -> services -> HTTP -> node.json                                         SIGTERM: all of it backwards
//! ```

mod ballast;
mod folder;
mod parts;
mod trace;

pub use folder::{DataFolder, FolderError};
pub use trace::start_tracing;

use self::ballast::Ballast;
use crate::config::NodeConfig;
use crate::drivers::backends::Plugins;
use crate::drivers::gossip::GossipDoor;
use crate::drivers::motions::{MotionDesk, MotionParts, VoteRepair};
use crate::drivers::pending::{PendingDesk, PendingParts, RepairDesk};
use crate::drivers::placement::{Placement, PlacementParts};
use crate::drivers::pool_watch::{DiskReady, PlacementReady, PoolWatch};
use crate::drivers::raft::{MeshTransport, RegistryFrames};
use crate::drivers::registry::LiveRegistry;
use crate::drivers::roster::{self, Members};
use crate::http::auth::ApiKey;
use crate::http::glue::{Dictionaries, RegistryDoor};
use crate::http::{AppState, HttpServer, NodeFile, Published, Services, serve};
use crate::identity::{Identity, Signer};
use crate::join::{AdmissionDesk, Approvals, Membership};
use crate::mesh::{
    BulkHandler, FrameHandler, GossipHandler, Handlers, JoinHandler, Late, Mesh, MeshConfig, MeshHandle, MeshSettings,
    StreamClass,
};
use crate::metrics::Metrics;
use crate::services::dictionary::DictionaryService;
use crate::services::disk::DiskRoom;
use crate::services::identifiers::IdentifierService;
use crate::services::members::MemberService;
use crate::services::registry::Registry;
use crate::services::task_metrics;
use anyhow::Context as _;
use consensus::raft::{RegistryHandle, RegistryOptions, StartError, TimerFloor};
use consensus::registry::genesis::FOUNDER_RAFT_ID;
use consensus::store::Records;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A running node.
pub struct Node {
    config: NodeConfig,
    mesh: MeshHandle,
    registry: RegistryHandle,
    http: HttpServer,
    published: Published,
    plugins: Arc<Plugins>,
    stop: CancellationToken,
    tasks: TaskTracker,
    /// Held until the process ends: no second process may open this folder.
    _folder: DataFolder,
}

/// Handlers that are put in place once their drivers run.
#[derive(Default)]
struct LateHandlers {
    registry: Arc<RegistryFrames>,
    negotiation: Arc<Late<dyn FrameHandler>>,
    logs: Arc<Late<dyn FrameHandler>>,
    digests: Arc<Late<dyn FrameHandler>>,
    bulk: Arc<Late<dyn BulkHandler>>,
    gossip: Arc<Late<dyn GossipHandler>>,
    join: Arc<Late<dyn JoinHandler>>,
}

impl LateHandlers {
    fn handlers(&self) -> Handlers {
        let mut frames: BTreeMap<StreamClass, Arc<dyn FrameHandler>> = BTreeMap::new();
        for class in [StreamClass::RaftControl, StreamClass::RaftLog, StreamClass::RaftSnapshot, StreamClass::Registry]
        {
            frames.insert(class, self.registry.clone());
        }
        frames.insert(StreamClass::Negotiation, self.negotiation.clone());
        frames.insert(StreamClass::Custody, self.negotiation.clone());
        frames.insert(StreamClass::RunEvents, self.negotiation.clone());
        frames.insert(StreamClass::Logs, self.logs.clone());
        frames.insert(StreamClass::Digests, self.digests.clone());
        Handlers {
            frames,
            bulk: Some(self.bulk.clone()),
            gossip: Some(self.gossip.clone()),
            join: Some(self.join.clone()),
        }
    }
}

impl Node {
    /// Starts all parts. What was started is stopped again if a later part cannot start.
    ///
    /// # Errors
    /// The part that failed, and why.
    pub async fn start(config: NodeConfig) -> anyhow::Result<Self> {
        let began = Instant::now();
        let room = DiskRoom::new(&config.data.dir, config.data.free_bytes_min);
        let ballast = Ballast::new(&config.data.dir, config.data.ballast_bytes, room.clone());
        // a node whose disk is full starts on what its ballast held
        ballast.look();
        let folder = DataFolder::open(&config.data.dir)?;
        let mut membership = Membership::load(folder.path())?;
        let identity = Identity::load(&config.keys_dir())?;
        let records = Records::open(&config.records_dir()).context("opening the node's records")?;
        let signer = Signer::open(&identity, membership.federation, records.clone())?;
        let late = LateHandlers::default();
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        tasks.spawn(ballast.keep(stop.clone()));

        let mesh = start_mesh(&config, &identity, &membership, &late).await?;
        let registry = start_registry(&config, &identity, &signer, &mut membership, &mesh).await?;
        late.registry.serve_registry(registry.clone());
        let metrics = Arc::new(Metrics::new());
        let motions = MotionDesk::open(MotionParts {
            registry: registry.clone(),
            mesh: mesh.clone(),
            signer: signer.clone(),
            records: records.clone(),
            metrics: metrics.clone(),
        })
        .context("reading the votes of members")?;
        late.registry.serve_votes(Arc::new(VoteRepair::new(motions.clone())));
        tasks.spawn(motions.clone().run(stop.clone()));
        let members = follow_members(&registry, &mesh, &motions, &membership, &stop, &tasks);
        tasks.spawn(parts::announce(
            membership.member,
            announced(&config, &mesh.listening()),
            registry.clone(),
            signer.clone(),
            members.clone(),
            stop.clone(),
        ));

        let desk = Arc::new(AdmissionDesk::new(
            membership.member,
            membership.genesis.clone(),
            identity.transport_key(),
            signer.clone(),
            Arc::new(registry.clone()),
            parts::wall,
        ));
        late.join.set(desk.clone());
        let approvals = Arc::new(Approvals::new(desk, mesh.clone()));
        late.registry.serve_admission(approvals.clone());
        tasks.spawn(approvals.clone().run(stop.clone()));

        parts::watch_mesh(&metrics, &mesh);
        let commit_wait = Duration::from_millis(config.registry.commit_wait_ms);
        let pending = PendingDesk::open(PendingParts {
            me: membership.member,
            registry: registry.clone(),
            mesh: mesh.clone(),
            records: records.clone(),
            metrics: metrics.clone(),
        })
        .context("reading what is pending")?;
        late.registry.serve_repair(Arc::new(RepairDesk::new(pending.clone())));
        parts::watch_refusals(&metrics, &registry);
        tasks.spawn(pending.clone().run(stop.clone()));
        let door = LiveRegistry::new(
            membership.member,
            registry.clone(),
            signer.clone(),
            records.clone(),
            pending.clone(),
            commit_wait,
        );
        tasks.spawn(door.clone().resend(stop.clone()));
        let dictionary = DictionaryService::default();
        tasks.spawn(parts::follow_dictionary(dictionary.clone(), registry.clone(), stop.clone()));
        parts::watch_registry(&metrics, door.clone(), pending.clone());
        let door: Arc<dyn Registry> = Arc::new(door);
        let in_force = dictionary.clone();
        let placement = Placement::start(PlacementParts {
            config: config.clone(),
            me: membership.member,
            federation: membership.federation,
            signing_key: Arc::new(identity.signing_key().clone()),
            records: records.clone(),
            mesh: mesh.clone(),
            registry: registry.clone(),
            members,
            dictionary: Arc::new(move || in_force.current()),
            supervisor_exe: std::env::current_exe().context("finding this program's own path")?,
            stop: stop.clone(),
            tasks: tasks.clone(),
        })
        .await
        .context("starting what places and runs tasks")?;
        tasks.spawn(parts::watch_adapters(Arc::clone(&metrics), placement.adapters.clone(), stop.clone()));
        task_metrics::watch(&metrics, &placement.negotiation, &tasks, stop.clone());
        late.negotiation.set(placement.frames.clone());
        late.logs.set(placement.logs.clone());
        late.digests.set(placement.digests.clone());
        late.bulk.set(placement.bulk.clone());
        late.gossip.set(Arc::new(GossipDoor {
            digests: placement.digests.clone(),
            registrations: pending,
            votes: motions.clone(),
        }));
        let plugins = Arc::clone(&placement.plugins);
        let pools = PoolWatch::default();
        let seen = pools.clone();
        tasks.spawn(pools.run(placement.negotiation.clone(), placement.members.clone(), stop.clone()));
        let services = Services {
            artifacts: Some(placement.artifacts.clone()),
            pools: Some(placement.pools.clone()),
            adapters: Some(placement.adapters.clone()),
            operations: Some(placement.operations.clone()),
            tasks: Some(placement.tasks.clone()),
            identifiers: Some(Arc::new(IdentifierService::new(door.clone(), dictionary.clone(), Some(Arc::new(seen))))),
            dictionary: Some(Arc::new(Dictionaries { service: dictionary, registry: door.clone() })),
            registry: Some(Arc::new(RegistryDoor(door))),
            members: Some(Arc::new(MemberService::new(
                membership.member,
                registry.clone(),
                mesh.clone(),
                motions,
                approvals,
            ))),
            records: Some(records),
            readiness: vec![
                Arc::new(parts::RegistryReady { registry: registry.clone(), me: membership.member }),
                Arc::new(PlacementReady(placement.negotiation.clone())),
                Arc::new(DiskReady(room.clone())),
            ],
            disk: Some(room),
        };
        let key = ApiKey::open_or_create(&config.api_key_file())?;
        let region = config.region.name.clone();
        let state = AppState::new(region.clone(), region.as_str(), key, config.http.clone(), metrics, services)
            .context("reading the answers to idempotency keys")?;
        let http = serve(state).await?;
        let published = publish(&config, &http, &mesh)?;
        tracing::info!(
            %region, member = %membership.member, federation = membership.genesis.name, http = http.url(),
            elapsed_ms = began.elapsed().as_millis() as u64, "the node is up"
        );
        Ok(Self { config, mesh, registry, http, published, plugins, stop, tasks, _folder: folder })
    }

    /// Where the HTTP interface is.
    pub fn url(&self) -> String {
        self.http.url()
    }

    /// Stops all parts in reverse. Runs go on under their supervisors.
    pub async fn stop(self) {
        let began = Instant::now();
        drop(self.published);
        self.http.stop(Duration::from_millis(self.config.node.shutdown_grace_ms)).await;
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.plugins.host().stop().await;
        self.registry.shutdown().await;
        self.mesh.stop().await;
        tracing::info!(elapsed_ms = began.elapsed().as_millis() as u64, "the node has stopped");
    }
}

async fn start_mesh(
    config: &NodeConfig,
    identity: &Identity,
    membership: &Membership,
    late: &LateHandlers,
) -> anyhow::Result<MeshHandle> {
    let mesh = MeshConfig {
        me: membership.member,
        federation: membership.federation,
        settings: MeshSettings::try_from(&config.mesh)?,
    };
    Ok(Mesh::start(&identity.transport_seed(), mesh, late.handlers()).await?)
}

async fn start_registry(
    config: &NodeConfig,
    identity: &Identity,
    signer: &Signer,
    membership: &mut Membership,
    mesh: &MeshHandle,
) -> anyhow::Result<RegistryHandle> {
    let transport = Arc::new(MeshTransport::new(mesh.clone()));
    let options = |membership: &Membership| RegistryOptions {
        dir: config.registry_dir(),
        seat: config.data.dir.join("seat"),
        member: membership.member,
        raft_id: membership.raft_id,
        federation: membership.federation,
        signing_key: identity.signing_key().clone(),
        floor: TimerFloor {
            heartbeat_ms: config.registry.heartbeat_ms_min,
            election_ms: config.registry.election_ms_min,
        },
        snapshot_log_bytes: config.registry.snapshot_log_bytes,
        log_entries_kept: config.registry.log_entries_kept,
        cache_bytes: usize::try_from(config.registry.cache_mib << 20).unwrap_or(usize::MAX),
        // under a later id, a founder that lost its log learns like everybody else
        found: (membership.is_founder() && membership.raft_id == FOUNDER_RAFT_ID).then(|| membership.genesis.clone()),
    };
    let started = match RegistryHandle::start(options(membership), transport.clone()).await {
        Err(StartError::LogLost { raft_id, dir }) => {
            tracing::warn!(raft_id, dir = %dir.display(), "the log is gone: this member asks for another Raft id");
            membership.raft_id = parts::renew_raft_id(config, signer, membership, mesh, &transport).await?;
            membership.store(&config.data.dir)?;
            tracing::info!(raft_id = membership.raft_id, "this member's replica begins anew under another Raft id");
            RegistryHandle::start(options(membership), transport).await
        }
        other => other,
    };
    started.context("starting the registry")
}

/// Opens the gate: to those that the registry knows, or to those that were there when this node was admitted.
fn follow_members(
    registry: &RegistryHandle,
    mesh: &MeshHandle,
    motions: &MotionDesk,
    membership: &Membership,
    stop: &CancellationToken,
    tasks: &TaskTracker,
) -> Members {
    if registry.reader().summary().is_none() {
        mesh.set_roster(membership.roster.iter().cloned().map(Into::into).collect());
    }
    let (members, task) = roster::follow(registry.clone(), mesh.clone(), motions.standings(), stop.clone());
    tasks.spawn(async move { drop(task.await) });
    members
}

/// The addresses that other members dial: those configured, else those listened on that others can reach.
fn announced(config: &NodeConfig, listening: &[String]) -> Vec<String> {
    if !config.mesh.announce.is_empty() {
        return config.mesh.announce.clone();
    }
    let beyond: Vec<String> = listening.iter().filter(|address| !parts::is_loopback(address)).cloned().collect();
    if beyond.is_empty() { listening.to_vec() } else { beyond }
}

fn publish(config: &NodeConfig, http: &HttpServer, mesh: &MeshHandle) -> anyhow::Result<Published> {
    let (vault, vault_key) = config.vault_files();
    let file = NodeFile {
        region: config.region.name.to_string(),
        pid: std::process::id(),
        started_at: jiff::Timestamp::now().to_string(),
        url: http.url(),
        api_key_file: std::path::absolute(config.api_key_file())?,
        ca_file: config.http.tls().then(|| config.http.tls_cert.clone()),
        mesh: mesh.listening(),
        data_dir: std::path::absolute(&config.data.dir)?,
        vault: std::path::absolute(vault)?,
        vault_key: std::path::absolute(vault_key)?,
    };
    file.publish().context("writing node.json")
}

/// Runs a node until it is told to stop by SIGTERM or SIGINT.
///
/// # Errors
/// A part that cannot start.
pub async fn run(config: NodeConfig) -> anyhow::Result<()> {
    let mut told = parts::Told::new()?;
    let node = tokio::select! {
        node = Node::start(config) => node?,
        signal = told.stopped_by() => {
            tracing::info!(signal, "told to stop while starting");
            return Ok(());
        }
    };
    let failed = node.stop.clone();
    let signal = tokio::select! {
        signal = told.stopped_by() => signal,
        () = failed.cancelled() => {
            node.stop().await;
            anyhow::bail!("the node's records can no longer be written: it stops, and finds again what it acknowledged");
        }
    };
    tracing::info!(signal, "told to stop");
    node.stop().await;
    Ok(())
}
