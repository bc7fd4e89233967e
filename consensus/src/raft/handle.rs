//! The door to the replicated registry: propose, read, and serve other replicas. Cheap to clone.

use super::beacon::Proof;
use super::lead::beat;
use super::log_store::LogStore;
use super::network::Network;
use super::snapshots::Incoming;
use super::state_machine::{Shared, StateMachine};
use super::status::{Committed, Freshness, ProposeError, ReadError, RegistryStatus, Role, SnapshotError};
use super::transport::{RaftClass, RaftTransport, TransportError};
use super::types::{Outcome, Peer, Proposal, Raft};
use super::wire::{self, Answer, Question};
use crate::envelope::Federation;
use crate::registry::command::{genesis_entry, statement_entry};
use crate::registry::{Genesis, RegistryReader, Statement, command};
use crate::store::{LogDb, StateDb, StoreError};
use crate::time::Timestamp;
use bytes::Bytes;
use cpi::ids::MemberId;
use ed25519_dalek::SigningKey;
use openraft::async_runtime::{Instant as _, WatchReceiver as _};
use openraft::errors::{ClientWriteError, RaftError};
use openraft::raft::ReadPolicy;
use openraft::{Config, ServerState, SnapshotPolicy};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The smallest round trip that timers are made for, in ms: below it a busy machine would look like a dead one.
const ROUND_TRIP_MS_MIN: u64 = 80;
/// A proposal passes on at most so often.
const HOPS_MAX: u8 = 2;
/// How long a write waits until it is applied here, after it was committed.
const APPLIED_HERE: Duration = Duration::from_secs(1);
/// Log entries between two snapshots.
const SNAPSHOT_ENTRIES: u64 = 50_000;

/// Raft's view of itself.
pub(super) type Metrics = openraft::RaftMetrics<super::types::Types>;

/// How to start.
pub struct RegistryOptions {
    /// Folder of the registry; `log` and `state` are made in it.
    pub dir: PathBuf,
    /// Whose replica this is.
    pub member: MemberId,
    /// Its id in Raft, allotted at admission.
    pub raft_id: u64,
    /// Which federation.
    pub federation: Federation,
    /// Signs beacons.
    pub signing_key: SigningKey,
    /// The voters' p99 round trip, as measured; timers are made from it.
    pub round_trip_ms: u64,
    /// Founds the federation, if this replica's log is empty. Only `causeway init` gives one.
    pub found: Option<Genesis>,
}

/// Why the replica did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The folder once held a log of this Raft id, and it is gone. Voting without it could undo what was committed.
    #[error(
        "the log of replica {raft_id} under {dir} is gone: it must not vote without it. Remove the folder and rejoin with a new invitation"
    )]
    LogLost {
        /// The id.
        raft_id: u64,
        /// Where the log was.
        dir: PathBuf,
    },
    /// Raft itself.
    #[error("the registry could not be started: {0}")]
    Raft(String),
}

/// The replicated registry.
#[derive(Clone)]
pub struct RegistryHandle {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub member: MemberId,
    pub raft_id: u64,
    pub raft: Raft,
    pub state: StateDb,
    pub shared: Arc<Shared>,
    pub transport: Arc<dyn RaftTransport>,
    pub signing_key: SigningKey,
    pub proof: Mutex<Proof>,
    pub incoming: tokio::sync::Mutex<Option<Incoming>>,
    pub timers_ms: (u64, u64, u64),
    pub beat: Mutex<Option<JoinHandle<()>>>,
}

pub(super) fn wall() -> Timestamp {
    Timestamp(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64))
}

fn config(round_trip_ms: u64, federation: &Federation) -> Result<Config, StartError> {
    let round_trip = round_trip_ms.max(ROUND_TRIP_MS_MIN);
    let (min, max) = (6 * round_trip, 15 * round_trip / 2);
    Config {
        cluster_name: data_encoding::HEXLOWER.encode(&federation.id[..8]),
        heartbeat_interval: 2 * round_trip,
        election_timeout_min: min,
        election_timeout_max: max,
        max_payload_entries: 2048,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_ENTRIES),
        max_in_snapshot_log_to_keep: 5_000,
        install_snapshot_timeout: 60_000,
        enable_pre_vote: Some(true),
        enable_leader_restore: Some(false),
        quorum_loss_probe_interval: Some(2 * max),
        ..Config::default()
    }
    .validate()
    .map_err(|error| StartError::Raft(error.to_string()))
}

impl RegistryHandle {
    /// Opens the databases and joins Raft with what they hold.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(options: RegistryOptions, transport: Arc<dyn RaftTransport>) -> Result<Self, StartError> {
        let log = LogStore::new(LogDb::open(&options.dir.join("log"))?);
        let state = StateDb::open(&options.dir.join("state"))?;
        let seat = options.dir.join("seat");
        let pristine = log.is_pristine().map_err(|error| StartError::Raft(error.to_string()))?;
        let seated = std::fs::read_to_string(&seat).ok().and_then(|text| text.trim().parse::<u64>().ok());
        if pristine && seated == Some(options.raft_id) {
            return Err(StartError::LogLost { raft_id: options.raft_id, dir: options.dir });
        }
        let shared = Arc::new(Shared {
            federation: options.federation,
            applied: watch::Sender::new(0),
            hashes: Mutex::new(VecDeque::new()),
            verified: Mutex::new(BTreeSet::new()),
            refusals: std::sync::OnceLock::new(),
        });
        let machine = StateMachine::open(state.clone(), Arc::clone(&shared))
            .map_err(|error| StartError::Raft(error.to_string()))?;
        let config = config(options.round_trip_ms, &options.federation)?;
        let timers_ms = (config.heartbeat_interval, config.election_timeout_min, config.election_timeout_max);
        let network = Network { transport: Arc::clone(&transport) };
        let raft = Raft::new(options.raft_id, Arc::new(config), network, log, machine)
            .await
            .map_err(|error| StartError::Raft(error.to_string()))?;
        let handle = Self {
            inner: Arc::new(Inner {
                member: options.member,
                raft_id: options.raft_id,
                raft,
                state,
                shared,
                transport,
                signing_key: options.signing_key,
                proof: Mutex::default(),
                incoming: tokio::sync::Mutex::new(None),
                timers_ms,
                beat: Mutex::new(None),
            }),
        };
        if let Some(genesis) = options.found
            && pristine
        {
            handle.found(&genesis).await?;
        }
        handle.watch_seat(seat);
        let beat = tokio::spawn(beat(Arc::downgrade(&handle.inner)));
        *handle.inner.beat.lock().expect("never poisoned") = Some(beat);
        Ok(handle)
    }

    async fn found(&self, genesis: &Genesis) -> Result<(), StartError> {
        let failed = |error: String| StartError::Raft(error);
        let peer = Peer { member: self.inner.member.0 };
        let nodes = BTreeMap::from([(self.inner.raft_id, peer)]);
        self.inner.raft.initialize(nodes).await.map_err(|error| failed(error.to_string()))?;
        let entry = Proposal(genesis_entry(wall(), genesis).into());
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match self.inner.raft.client_write(entry.clone()).await {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(failed(error.to_string())),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// Marks the folder once the log has begun, so that a lost log is noticed.
    fn watch_seat(&self, seat: PathBuf) {
        let raft_id = self.inner.raft_id;
        let mut applied = self.inner.shared.applied.subscribe();
        tokio::spawn(async move {
            if applied.wait_for(|index| *index > 0).await.is_ok()
                && let Err(error) = std::fs::write(&seat, format!("{raft_id}\n"))
            {
                tracing::warn!(%error, "the mark of this replica's log could not be written");
            }
        });
    }

    /// One consistent view.
    pub fn reader(&self) -> RegistryReader {
        RegistryReader::new(Arc::new(self.inner.state.reader()))
    }

    /// The federation and its epoch.
    pub fn federation(&self) -> Federation {
        self.reader().summary().map_or(self.inner.shared.federation, |summary| summary.federation)
    }

    /// Commits a signed command: here if this node leads, else through the leader. Returns once it is applied here (or
    /// a second later, with the index to wait for).
    ///
    /// # Errors
    /// [`ProposeError`]; sending the same bytes again is safe, and gives the first outcome.
    pub async fn propose(&self, envelope: Vec<u8>, deadline: Duration) -> Result<Committed, ProposeError> {
        let federation = self.federation();
        let statement =
            Statement::open(envelope, &federation).map_err(|error| ProposeError::Rejected(error.to_string()))?;
        let until = Instant::now() + deadline;
        let envelope = Bytes::from(statement.envelope);
        let committed = self.propose_until(envelope, statement.digest, until, 0).await?;
        let mut applied = self.inner.shared.applied.subscribe();
        let _ = tokio::time::timeout(APPLIED_HERE, applied.wait_for(|index| *index >= committed.index)).await;
        Ok(committed)
    }

    pub(super) async fn propose_until(
        &self,
        envelope: Bytes,
        digest: [u8; 32],
        until: Instant,
        hops: u8,
    ) -> Result<Committed, ProposeError> {
        let mut wait = Duration::from_millis(10);
        loop {
            match self.propose_once(&envelope, digest, until, hops).await {
                Ok(committed) => return Ok(committed),
                Err(Some(error)) => return Err(error),
                Err(None) if Instant::now() + wait >= until => return Err(ProposeError::NoQuorum),
                Err(None) => tokio::time::sleep(wait).await,
            }
            wait = (wait * 2).min(Duration::from_millis(200));
        }
    }

    /// One try; `Err(None)` asks for another.
    async fn propose_once(
        &self,
        envelope: &Bytes,
        digest: [u8; 32],
        until: Instant,
        hops: u8,
    ) -> Result<Committed, Option<ProposeError>> {
        let left = until.saturating_duration_since(Instant::now());
        let leader = self.inner.raft.current_leader().await;
        if leader == Some(self.inner.raft_id) {
            self.inner.shared.verified.lock().expect("never poisoned").insert(digest);
            let entry = Proposal(statement_entry(wall(), envelope).into());
            let written = tokio::time::timeout(left, self.inner.raft.client_write(entry)).await;
            self.inner.shared.verified.lock().expect("never poisoned").remove(&digest);
            return match written {
                Ok(Ok(written)) => match written.data {
                    Outcome(Some(response)) => Ok(Committed { index: written.log_id.index(), response }),
                    Outcome(None) => Err(None),
                },
                Ok(Err(RaftError::Fatal(_))) => Err(Some(ProposeError::Stopped)),
                Ok(Err(RaftError::APIError(
                    ClientWriteError::ForwardToLeader(_) | ClientWriteError::LogEntryDiscarded(_),
                ))) => Err(None),
                Ok(Err(error)) => Err(Some(ProposeError::Rejected(error.to_string()))),
                Err(_) => Err(Some(ProposeError::NoQuorum)),
            };
        }
        if hops >= HOPS_MAX {
            return Err(None);
        }
        let to = self.leader_or_any(leader).ok_or(None)?;
        let question = Question::Propose { envelope: envelope.clone(), hops: hops + 1 };
        match self.ask(to, &question, left).await {
            Ok(Answer::Committed { index, response }) => Ok(Committed { index, response }),
            Ok(Answer::Failed(message)) => Err(Some(ProposeError::Rejected(message))),
            Ok(_) | Err(_) => Err(None),
        }
    }

    /// The leader's member; while this node knows none, any reachable voter (who may know).
    fn leader_or_any(&self, leader: Option<u64>) -> Option<MemberId> {
        let metrics = self.inner.raft.metrics().borrow_watched().clone();
        let membership = metrics.membership_config.membership();
        if let Some(peer) = leader.and_then(|id| membership.get_node(&id)) {
            return Some(MemberId(peer.member));
        }
        let voters: Vec<MemberId> = if membership.voter_ids().next().is_some() {
            membership.voter_ids().filter_map(|id| membership.get_node(&id)).map(|peer| MemberId(peer.member)).collect()
        } else {
            self.reader().roster().iter().map(|record| record.member).collect()
        };
        voters
            .into_iter()
            .filter(|member| *member != self.inner.member)
            .filter_map(|member| Some((self.inner.transport.rtt_ms(member)?, member)))
            .min()
            .map(|(_, member)| member)
    }

    pub(super) async fn ask(
        &self,
        to: MemberId,
        question: &Question,
        deadline: Duration,
    ) -> Result<Answer, TransportError> {
        let frame = wire::encode(question).into();
        let bytes = self.inner.transport.call(to, RaftClass::Forward, frame, deadline).await?;
        wire::decode(&bytes).map_err(|error| TransportError::Refused { member: to, message: error.to_string() })
    }

    /// Waits until everything that was committed before this call is applied here.
    ///
    /// # Errors
    /// [`ReadError`] without a quorum-confirmed leader until the deadline.
    pub async fn linearizable(&self, deadline: Duration) -> Result<(), ReadError> {
        let until = Instant::now() + deadline;
        let index = loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ReadError);
            }
            if let Some(index) = self.read_index(left).await {
                break index;
            }
            tokio::time::sleep(Duration::from_millis(20).min(left)).await;
        };
        let mut applied = self.inner.shared.applied.subscribe();
        let left = until.saturating_duration_since(Instant::now());
        match tokio::time::timeout(left, applied.wait_for(|at| *at >= index)).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(ReadError),
        }
    }

    async fn read_index(&self, deadline: Duration) -> Option<u64> {
        let leader = self.inner.raft.current_leader().await;
        if leader == Some(self.inner.raft_id) {
            let asked = self.inner.raft.get_read_log_id(ReadPolicy::ReadIndex);
            let (id, _) = tokio::time::timeout(deadline, asked).await.ok()?.ok()?;
            return Some(id.index());
        }
        match self.ask(self.leader_or_any(leader)?, &Question::ReadIndex, deadline).await {
            Ok(Answer::Index(index)) => Some(index),
            _ => None,
        }
    }

    /// How fresh answers are.
    pub fn freshness(&self) -> Freshness {
        let metrics = self.inner.raft.metrics().borrow_watched().clone();
        let membership = metrics.membership_config.membership();
        let me = self.inner.raft_id;
        let role = if metrics.state == ServerState::Leader {
            Role::Leader
        } else if membership.voter_ids().any(|id| id == me) {
            Role::Voter
        } else if membership.get_node(&me).is_some() {
            Role::Learner
        } else {
            Role::Follower
        };
        let held = self.inner.proof.lock().expect("never poisoned").held;
        let leads = role == Role::Leader && self.quorum_confirmed(&metrics);
        Freshness {
            applied_index: *self.inner.shared.applied.borrow(),
            as_of: if leads { Some(wall()) } else { held.map(|(beacon, _)| beacon.at) },
            age_ms: if leads { Some(0) } else { held.map(|(_, heard)| heard.elapsed().as_millis() as u64) },
            term: metrics.current_term,
            leader: metrics.current_leader.and_then(|id| membership.get_node(&id)).map(|peer| MemberId(peer.member)),
            role,
        }
    }

    pub(super) fn quorum_confirmed(&self, metrics: &Metrics) -> bool {
        // Alone, this replica is the quorum. Raft reports times only when something happens, so an idle one looks stale.
        let mut voters = metrics.membership_config.membership().voter_ids();
        if voters.next() == Some(self.inner.raft_id) && voters.next().is_none() {
            return true;
        }
        metrics.last_quorum_acked.is_some_and(|at| at.elapsed().as_millis() < u128::from(self.inner.timers_ms.2))
    }

    /// The applied index, as it grows.
    pub fn watch_applied(&self) -> watch::Receiver<u64> {
        self.inner.shared.applied.subscribe()
    }

    /// The registry as operators look at it.
    pub fn status(&self) -> RegistryStatus {
        let metrics = self.inner.raft.metrics().borrow_watched().clone();
        let membership = metrics.membership_config.membership();
        let seats = |ids: Vec<u64>| {
            ids.into_iter().map(|id| (id, MemberId(membership.get_node(&id).map_or(0, |peer| peer.member)))).collect()
        };
        RegistryStatus {
            freshness: self.freshness(),
            last_log_index: metrics.last_log_index.unwrap_or(0),
            committed_index: metrics.cluster_committed.or(metrics.local_committed).map_or(0, |id| id.index()),
            snapshot_index: metrics.snapshot.map_or(0, |id| id.index()),
            voters: seats(membership.voter_ids().collect()),
            learners: seats(membership.learner_ids().collect()),
            timers_ms: self.inner.timers_ms,
            diverged_at: self.inner.proof.lock().expect("never poisoned").diverged_at,
        }
    }

    /// Makes a snapshot now; its folder and the log index that it holds.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub async fn snapshot(&self) -> Result<(PathBuf, u64), SnapshotError> {
        let state = self.inner.state.clone();
        let applied = *self.inner.shared.applied.borrow();
        let checkpoint = tokio::task::spawn_blocking(move || state.checkpoint(&format!("{applied:020}")))
            .await
            .map_err(|error| SnapshotError(error.to_string()))?
            .map_err(|error| SnapshotError(error.to_string()))?;
        let index = checkpoint
            .read()
            .map_err(|error| SnapshotError(error.to_string()))
            .map(|reader| RegistryReader::new(Arc::new(reader)).summary().map_or(0, |summary| summary.applied))?;
        Ok((checkpoint.path, index))
    }

    #[cfg(test)]
    pub(super) fn inner_raft(&self) -> Raft {
        self.inner.raft.clone()
    }

    /// Leaves Raft in order; the databases close with the last clone.
    pub async fn shutdown(&self) {
        if let Some(beat) = self.inner.beat.lock().expect("never poisoned").take() {
            beat.abort();
        }
        if let Err(error) = self.inner.raft.shutdown().await {
            tracing::warn!(%error, "the registry's task ended badly");
        }
    }
}

/// The largest envelope that is ever proposed.
const _: () = assert!(command::COMMAND_BYTES_MAX <= crate::envelope::BODY_BYTES_MAX);
