//! Small parts of the assembly: signals, the wall clock, readiness, and keeping our own record in the registry true.

use crate::config::NodeConfig;
use crate::drivers::pending::PendingDesk;
use crate::drivers::raft::MeshTransport;
use crate::drivers::registry::LiveRegistry;
use crate::drivers::roster::Members;
use crate::http::adapter_glue::Adapters;
use crate::http::{Check, ReadinessCheck};
use crate::identity::Signer;
use crate::join::{Membership, RosterSeed};
use crate::mesh::MeshHandle;
use crate::metrics::{AdapterBackend, Metrics, RefusedReason, State};
use crate::services::dictionary::DictionaryService;
use crate::services::registry::Registry as _;
use async_trait::async_trait;
use consensus::raft::{ProposeError, RegistryHandle, RegistryStatus};
use consensus::registry::Command;
use consensus::registry::command::MemberUpdate;
use consensus::time::Timestamp;
use cpi::ids::MemberId;
use prometheus_client::metrics::gauge::Gauge;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Between two tries to tell the registry where this node listens.
const ANNOUNCE_PAUSE: Duration = Duration::from_secs(2);
/// Between two looks at the adapters' health.
const ADAPTERS_EVERY: Duration = Duration::from_secs(5);
/// Wait for one such commit.
const ANNOUNCE_WAIT: Duration = Duration::from_secs(10);

/// The wall clock.
pub(super) fn wall() -> Timestamp {
    Timestamp(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64))
}

/// The signals that end a node.
pub(super) struct Told {
    terminate: Signal,
    interrupt: Signal,
}

impl Told {
    pub fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    pub async fn stopped_by(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Whether a multiaddr is of this machine only.
pub(super) fn is_loopback(address: &str) -> bool {
    address.starts_with("/ip4/127.") || address.starts_with("/ip6/::1/")
}

/// Has the registry name the addresses that this node announces, whenever they differ.
pub(super) async fn announce(
    me: MemberId,
    addresses: Vec<String>,
    registry: RegistryHandle,
    signer: Signer,
    mut members: Members,
    stop: CancellationToken,
) {
    let keep = async {
        loop {
            let differs = {
                let records = members.borrow_and_update();
                let own = records.iter().find(|record| record.member == me);
                own.filter(|own| own.addresses != addresses).map(|own| own.revision)
            };
            match differs {
                None => {
                    if members.changed().await.is_err() {
                        return;
                    }
                }
                Some(expected_revision) => {
                    let update = MemberUpdate {
                        expected_revision,
                        addresses: Some(addresses.clone()),
                        transport_key: None,
                        signing_key: None,
                    };
                    match signer.seal_command(Command::UpdateMember(update).to_bytes()) {
                        Ok(envelope) => match registry.propose(envelope.to_bytes(), ANNOUNCE_WAIT).await {
                            Ok(committed) => match committed.response.refusal() {
                                None => tracing::info!(?addresses, "the registry knows where this node listens"),
                                Some(refusal) => tracing::warn!(%refusal, "our addresses were refused"),
                            },
                            Err(error) => tracing::debug!(%error, "our addresses are not committed yet"),
                        },
                        Err(error) => tracing::error!(%error, "our addresses cannot be signed"),
                    }
                    tokio::time::sleep(ANNOUNCE_PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = keep => {}
    }
}

/// Asks the other members for a new Raft id until one of them had it committed. The lost id never votes again.
///
/// # Errors
/// Nobody else is known, or the registry refuses.
pub(super) async fn renew_raft_id(
    config: &NodeConfig,
    signer: &Signer,
    membership: &Membership,
    mesh: &MeshHandle,
    transport: &MeshTransport,
) -> anyhow::Result<u64> {
    let left = RegistryHandle::last_roster(&config.registry_dir());
    let seeds: Vec<RosterSeed> = match left.iter().filter_map(RosterSeed::of).collect::<Vec<_>>() {
        none if none.is_empty() => membership.roster.clone(),
        some => some,
    };
    let others: Vec<MemberId> =
        seeds.iter().map(|seed| seed.member).filter(|member| *member != membership.member).collect();
    if others.is_empty() {
        anyhow::bail!(
            "replica {} must not vote without its log, and no other member is known to ask for a new Raft id: restore \
             the data folder",
            membership.raft_id
        );
    }
    mesh.set_roster(seeds.into_iter().map(Into::into).collect());
    let command = Command::RenewRaftId { lost: membership.raft_id };
    let envelope = signer.seal_command(command.to_bytes())?.to_bytes();
    loop {
        match RegistryHandle::renew(transport, &others, &envelope, ANNOUNCE_WAIT).await {
            Ok(raft_id) => return Ok(raft_id),
            Err(ProposeError::Rejected(error)) => anyhow::bail!("no new Raft id was given: {error}"),
            Err(error) => tracing::info!(%error, "no member could have a new Raft id committed yet; asking again"),
        }
        tokio::time::sleep(ANNOUNCE_PAUSE).await;
    }
}

/// The registry is ready once this node's own record is applied here and a leader is known.
pub(super) struct RegistryReady {
    pub registry: RegistryHandle,
    pub me: MemberId,
}

#[async_trait]
impl ReadinessCheck for RegistryReady {
    async fn check(&self) -> Check {
        let status = self.registry.status();
        let freshness = status.freshness;
        let trouble = trouble(&status);
        let known = self.registry.reader().member(self.me).is_some();
        let leader = freshness.leader.map_or_else(|| "none".to_owned(), |leader| leader.to_string());
        Check {
            name: "registry".to_owned(),
            ok: known && freshness.leader.is_some() && trouble.is_none(),
            detail: trouble
                .unwrap_or_else(|| format!("applied {}, leader {leader}, own record {known}", freshness.applied_index)),
        }
    }
}

/// What is wrong with the replica itself, and what to do about it.
fn trouble(status: &RegistryStatus) -> Option<String> {
    if let Some(index) = status.diverged_at {
        return Some(format!(
            "this replica's state differs from the leader's at index {index}, so its answers must not be believed: stop the \
             node, move `registry/` in its data folder aside, and start it again; it takes a copy from the others"
        ));
    }
    let why = status.stopped.as_ref()?;
    Some(format!("Raft is stopped and is started again by itself: {why}"))
}

/// Shows the mesh's counters to Prometheus.
pub(super) fn watch_mesh(metrics: &Arc<Metrics>, mesh: &MeshHandle) {
    let mesh = mesh.clone();
    metrics.on_scrape(move |metrics| {
        let peers = mesh.peers();
        let connected = peers.iter().filter(|peer| peer.connected).count();
        let set = |state, count: usize| metrics.peers.get_or_create(&State { state }).set(count as i64);
        set("connected", connected);
        set("away", peers.len() - connected);
    });
}

/// Shows which adapters are ready to Prometheus. Health is asked now and then: a backend may take its time to answer.
pub(super) async fn watch_adapters(metrics: Arc<Metrics>, adapters: Arc<Adapters>, stop: CancellationToken) {
    let mut timer = tokio::time::interval(ADAPTERS_EVERY);
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = timer.tick() => {}
        }
        for (name, backend, ready) in adapters.standing().await {
            let labels = AdapterBackend { adapter: name, backend };
            metrics.adapter_up.get_or_create(&labels).set(i64::from(ready));
        }
    }
}

/// Shows where the registry stands to Prometheus.
pub(super) fn watch_registry(metrics: &Arc<Metrics>, registry: LiveRegistry, pending: PendingDesk) {
    metrics.on_scrape(move |metrics| {
        let status = registry.status();
        let set = |gauge: &Gauge, value: u64| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        set(&metrics.raft_term, status.term);
        set(&metrics.raft_commit_index, status.commit_index);
        set(&metrics.raft_applied_index, status.applied_index);
        set(&metrics.registry_ids.get_or_create(&State { state: "active" }), status.identifiers);
        set(&metrics.registry_ids.get_or_create(&State { state: "pending" }), pending.claims() as u64);
    });
}

/// Counts commands of peers that the registry refuses here, and names the peer.
pub(super) fn watch_refusals(metrics: &Arc<Metrics>, registry: &RegistryHandle) {
    let metrics = metrics.clone();
    registry.watch_refusals(Arc::new(move |from, reason, sentence| {
        metrics.registry_refused.get_or_create(&RefusedReason { reason }).inc();
        match reason {
            // the owner sends again until it has an answer
            "replayed" | "needs_approvals" => {
                tracing::debug!(member = %from, reason, sentence, "a command was refused")
            }
            _ => tracing::warn!(member = %from, reason, sentence, "a command was refused"),
        }
    }));
}

/// Loads each dictionary release that the registry puts in force.
pub(super) async fn follow_dictionary(
    dictionary: DictionaryService,
    registry: RegistryHandle,
    stop: CancellationToken,
) {
    let mut applied = registry.watch_applied();
    loop {
        match dictionary.follow(&registry.reader()) {
            Ok(None) => {}
            Ok(Some(release)) => tracing::info!(release, "another dictionary release is in force"),
            Err(error) => tracing::error!(%error, "the dictionary release in force cannot be read"),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = applied.changed() => if changed.is_err() { return },
        }
        // a burst of entries is looked at once
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use consensus::raft::{Freshness, Role};

    #[test]
    fn a_replica_that_differs_or_stands_still_is_not_ready_and_says_what_to_do() {
        let freshness =
            Freshness { applied_index: 7, as_of: None, age_ms: None, term: 1, leader: None, role: Role::Voter };
        let mut status = RegistryStatus {
            freshness,
            last_log_index: 7,
            committed_index: 7,
            snapshot_index: 0,
            voters: Vec::new(),
            learners: Vec::new(),
            timers_ms: (1, 2, 3),
            diverged_at: None,
            stopped: None,
        };
        assert_eq!(trouble(&status), None);
        status.stopped = Some("no space".to_owned());
        assert!(trouble(&status).is_some_and(|said| said.contains("no space") && said.contains("by itself")));
        status.diverged_at = Some(5);
        assert!(trouble(&status).is_some_and(|said| said.contains("index 5") && said.contains("move `registry/`")));
    }
}
