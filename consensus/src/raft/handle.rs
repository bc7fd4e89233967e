//! The door to the replicated registry: propose, read, and serve other replicas. Cheap to clone.

use super::beacon::Proof;
use super::proposer::{Proposer, WriteError};
use super::snapshots::Incoming;
use super::start::{Again, Running};
use super::state_machine::Shared;
use super::status::{Committed, Freshness, ProposeError, ReadError, RegistryStatus, Role, SnapshotError};
use super::timers::Timers;
use super::transport::{RaftClass, RaftTransport, TransportError};
use super::types::{Outcome, Proposal, Raft};
use super::wire::{self, Answer, Question};
use crate::envelope::Federation;
use crate::registry::command::statement_entry;
use crate::registry::{RegistryReader, Statement, command};
use crate::store::StateDb;
use crate::time::Timestamp;
use bytes::Bytes;
use cpi::ids::MemberId;
use ed25519_dalek::SigningKey;
use openraft::ServerState;
use openraft::async_runtime::{Instant as _, WatchReceiver as _};
use openraft::raft::ReadPolicy;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A proposal passes on at most so often.
const HOPS_MAX: u8 = 2;
/// How long a write waits until it is applied here, after it was committed.
const APPLIED_HERE: Duration = Duration::from_secs(1);

/// Raft's view of itself.
pub(super) type Metrics = openraft::RaftMetrics<super::types::Types>;

/// The replicated registry.
#[derive(Clone)]
pub struct RegistryHandle {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub member: MemberId,
    pub raft_id: u64,
    pub running: RwLock<Running>,
    pub again: Again,
    pub stopping: AtomicBool,
    /// Why Raft is stopped, while it is and should not be.
    pub stopped: Mutex<Option<String>>,
    pub state: StateDb,
    pub shared: Arc<Shared>,
    pub transport: Arc<dyn RaftTransport>,
    pub signing_key: SigningKey,
    pub proof: Mutex<Proof>,
    /// When a voter was last heard as leader.
    pub heard: Mutex<Instant>,
    pub incoming: tokio::sync::Mutex<Option<Incoming>>,
    /// The newest beacon that was sealed or heard here, and when: followers are given it with entries.
    pub beacon: Mutex<Option<(Bytes, Instant)>>,
    /// Followers that are served here, and when each asked last.
    pub followers: Mutex<BTreeMap<MemberId, Instant>>,
    pub tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Inner {
    /// Raft as it runs now.
    pub fn raft(&self) -> Raft {
        self.running.read().unwrap_or_else(PoisonError::into_inner).raft.clone()
    }

    /// The queue before Raft as it runs now.
    pub fn proposer(&self) -> Proposer {
        self.running.read().unwrap_or_else(PoisonError::into_inner).proposer.clone()
    }

    /// The timers that it runs by.
    pub fn timers(&self) -> Timers {
        self.running.read().unwrap_or_else(PoisonError::into_inner).timers
    }
}

pub(super) fn wall() -> Timestamp {
    Timestamp(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64))
}

impl RegistryHandle {
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
        // it comes back with the log, and need not be verified again then
        let shared = &self.inner.shared;
        shared.known_to_hold(statement.digest);
        let committed = self.propose_until(envelope, statement.digest, until, 0).await;
        if let Ok(committed) = &committed {
            let mut applied = shared.applied.subscribe();
            let _ = tokio::time::timeout(APPLIED_HERE, applied.wait_for(|index| *index >= committed.index)).await;
        }
        shared.forget(&statement.digest);
        committed
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
        let leader = self.inner.raft().current_leader().await;
        if leader == Some(self.inner.raft_id) {
            self.inner.shared.known_to_hold(digest);
            let entry = Proposal(statement_entry(wall(), envelope).into());
            let proposer = self.inner.proposer();
            let written = tokio::time::timeout(left, proposer.write(entry)).await;
            self.inner.shared.forget(&digest);
            return match written {
                Ok(Ok((index, Outcome(Some(response))))) => Ok(Committed { index, response }),
                Ok(Err(WriteError::Stopped)) if self.inner.stopping.load(Ordering::Acquire) => {
                    Err(Some(ProposeError::Stopped))
                }
                // another leads, or it starts again with other timers
                Ok(_) => Err(None),
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
        let metrics = self.inner.raft().metrics().borrow_watched().clone();
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
        let frame = wire::encode_frame(question).into();
        let bytes = self.inner.transport.call(to, RaftClass::Forward, frame, deadline).await?;
        wire::decode_frame(&bytes).map_err(|error| TransportError::Refused { member: to, message: error.to_string() })
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
        let leader = self.inner.raft().current_leader().await;
        if leader == Some(self.inner.raft_id) {
            let raft = self.inner.raft();
            let asked = raft.get_read_log_id(ReadPolicy::ReadIndex);
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
        let metrics = self.inner.raft().metrics().borrow_watched().clone();
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
        metrics
            .last_quorum_acked
            .is_some_and(|at| at.elapsed().as_millis() < u128::from(self.inner.timers().election_ms_max))
    }

    /// The applied index, as it grows.
    pub fn watch_applied(&self) -> watch::Receiver<u64> {
        self.inner.shared.applied.subscribe()
    }

    /// The registry as operators look at it.
    pub fn status(&self) -> RegistryStatus {
        let metrics = self.inner.raft().metrics().borrow_watched().clone();
        let membership = metrics.membership_config.membership();
        let seats = |ids: Vec<u64>| {
            ids.into_iter().map(|id| (id, MemberId(membership.get_node(&id).map_or(0, |peer| peer.member)))).collect()
        };
        let timers = self.inner.timers();
        RegistryStatus {
            freshness: self.freshness(),
            last_log_index: metrics.last_log_index.unwrap_or(0),
            committed_index: metrics.cluster_committed.or(metrics.local_committed).map_or(0, |id| id.index()),
            snapshot_index: metrics.snapshot.map_or(0, |id| id.index()),
            voters: seats(membership.voter_ids().collect()),
            learners: seats(membership.learner_ids().collect()),
            timers_ms: (timers.heartbeat_ms, timers.election_ms_min, timers.election_ms_max),
            diverged_at: self.inner.proof.lock().expect("never poisoned").diverged_at,
            stopped: self.stopped().clone(),
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
        self.inner.raft()
    }

    /// Leaves Raft in order; the databases close with the last clone.
    pub async fn shutdown(&self) {
        self.inner.stopping.store(true, Ordering::Release);
        for task in self.inner.tasks.lock().expect("never poisoned").drain(..) {
            task.abort();
        }
        if let Err(error) = self.inner.raft().shutdown().await {
            tracing::warn!(%error, "the registry's task ended badly");
        }
    }
}

/// The largest envelope that is ever proposed.
const _: () = assert!(command::COMMAND_BYTES_MAX <= crate::envelope::BODY_BYTES_MAX);
