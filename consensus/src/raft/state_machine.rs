//! openraft's state machine over [`StateDb`] and [`RegistryState`].

use super::types::{LogId, Outcome, SnapshotMeta, StoredMembership, Types};
use super::wire::{self, WireProgress};
use crate::envelope::Federation;
use crate::registry::kv::{KvRead, KvWrite as _, Overlay};
use crate::registry::{Entry, RegistryState, Response, keys};
use crate::store::{Checkpoint, StateDb};
use futures::{Stream, TryStreamExt as _};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot};
use openraft::{EntryPayload, OptionalSend};
use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// Hashes of the newest entries that are kept, to be held against beacons.
const HASHES_KEPT: usize = 4096;

/// What the handle shares with the state machine.
pub struct Shared {
    /// The federation that the node believes in until a genesis is applied.
    pub federation: Federation,
    /// The applied index, as it grows.
    pub applied: watch::Sender<u64>,
    /// Replica hash by index, the newest last.
    pub hashes: Mutex<VecDeque<(u64, [u8; 32])>>,
    /// Digests of envelopes that this node verified when it proposed them or when they came in; each is verified once.
    pub verified: Mutex<BTreeSet<[u8; 32]>>,
    /// Told of commands of peers that are refused.
    pub refusals: std::sync::OnceLock<super::doorkeeper::RefusalWatch>,
}

/// Verified envelopes that wait to be applied. Those of a log that was cut off again never are, so there is a bound.
const VERIFIED_MAX: usize = 32_768;

impl Shared {
    /// Remembers that an envelope holds.
    pub fn known_to_hold(&self, digest: [u8; 32]) {
        let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        if verified.len() >= VERIFIED_MAX {
            verified.clear();
        }
        verified.insert(digest);
    }

    /// Whether an envelope is known to hold.
    pub fn is_known(&self, digest: &[u8; 32]) -> bool {
        self.verified.lock().unwrap_or_else(PoisonError::into_inner).contains(digest)
    }

    /// Forgets that an envelope holds.
    pub fn forget(&self, digest: &[u8; 32]) {
        self.verified.lock().unwrap_or_else(PoisonError::into_inner).remove(digest);
    }

    /// Whether an envelope is known to hold; it is asked once.
    fn holds(&self, digest: &[u8; 32]) -> bool {
        self.verified.lock().unwrap_or_else(PoisonError::into_inner).remove(digest)
    }
}

/// The registry as openraft drives it.
pub struct StateMachine {
    state: StateDb,
    shared: Arc<Shared>,
    applied: Option<LogId>,
    membership: StoredMembership,
}

/// Reads applied log id and membership out of a state.
pub fn progress(kv: &dyn KvRead) -> io::Result<(Option<LogId>, StoredMembership)> {
    match kv.get(keys::RAFT) {
        Some(bytes) => wire::decode::<WireProgress>(&bytes)?.read(),
        None => Ok((None, StoredMembership::default())),
    }
}

impl StateMachine {
    pub fn open(state: StateDb, shared: Arc<Shared>) -> io::Result<Self> {
        let (applied, membership) = progress(&state.reader())?;
        shared.applied.send_replace(applied.map_or(0, |id| id.index()));
        Ok(Self { state, shared, applied, membership })
    }

    fn federation(&self, kv: &dyn KvRead) -> Federation {
        RegistryState::summary(kv).map_or(self.shared.federation, |summary| summary.federation)
    }
}

impl RaftStateMachine<Types> for StateMachine {
    type SnapshotData = Checkpoint;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        // the first waits; what else is there already goes into the same write
        let mut batch = Vec::new();
        while let Some(item) = entries.try_next().await? {
            batch.push(item);
        }
        let mut answers = Vec::with_capacity(batch.len());
        let changes = {
            let reader = self.state.reader();
            let mut overlay = Overlay::new(&reader);
            for (entry, responder) in batch {
                self.applied = Some(entry.log_id);
                let index = entry.log_id.index();
                let outcome = match entry.payload {
                    EntryPayload::Blank => None,
                    EntryPayload::Membership(membership) => {
                        self.membership = StoredMembership::new(Some(entry.log_id), membership);
                        None
                    }
                    EntryPayload::Normal(proposal) => {
                        let federation = self.federation(&overlay);
                        let opened = Entry::open_known(&proposal.0, &federation, |digest| self.shared.holds(digest));
                        match opened {
                            Ok(entry) => Some(RegistryState::apply(&mut overlay, index, &entry)),
                            // the same bytes give the same refusal on every replica
                            Err(error) if error.is_a_refusal() => {
                                tracing::warn!(index, %error, "an entry of the log does not hold; it changes nothing");
                                Some(Response::Refused(crate::registry::Refusal::UnknownSigner))
                            }
                            Err(error) => {
                                tracing::error!(index, %error, "an entry of the log is unknown to this release; the replica halts");
                                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
                            }
                        }
                    }
                };
                if let Some(summary) = RegistryState::summary(&overlay) {
                    let mut hashes = self.shared.hashes.lock().expect("never poisoned");
                    if hashes.len() == HASHES_KEPT {
                        hashes.pop_front();
                    }
                    hashes.push_back((index, summary.hash));
                }
                answers.push((responder, Outcome(outcome)));
            }
            overlay.put(keys::RAFT.to_vec(), wire::encode(&WireProgress::new(self.applied, &self.membership)));
            overlay.into_changes()
        };
        self.state.write(changes)?;
        self.shared.applied.send_replace(self.applied.map_or(0, |id| id.index()));
        for (responder, outcome) in answers {
            if let Some(responder) = responder {
                responder.send(outcome);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder { state: self.state.clone() }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Checkpoint) -> Result<(), io::Error> {
        let state = self.state.clone();
        let installed = tokio::task::spawn_blocking(move || {
            state.install(&snapshot.path)?;
            // what was installed is the newest snapshot that this node can give
            state.checkpoint("installed").map(|_| ())
        });
        installed.await.map_err(io::Error::other)??;
        let (applied, membership) = progress(&self.state.reader())?;
        if applied != meta.last_log_id {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the snapshot is of another index than it says"));
        }
        (self.applied, self.membership) = (applied, membership);
        // held against the leader's beacons like every entry after it
        if let (Some(id), Some(summary)) = (applied, RegistryState::summary(&self.state.reader())) {
            let mut hashes = self.shared.hashes.lock().expect("never poisoned");
            hashes.clear();
            hashes.push_back((id.index(), summary.hash));
        }
        self.shared.applied.send_replace(self.applied.map_or(0, |id| id.index()));
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<Snapshot<CommittedLeader, u64, super::types::Peer, Checkpoint>>, io::Error> {
        let Some(checkpoint) = self.state.checkpoints()?.pop() else { return Ok(None) };
        describe(checkpoint).map(Some)
    }
}

/// The committed leader id of [`Types`].
type CommittedLeader = openraft::alias::CommittedLeaderIdOf<Types>;

fn describe(checkpoint: Checkpoint) -> io::Result<Snapshot<CommittedLeader, u64, super::types::Peer, Checkpoint>> {
    let (last_log_id, last_membership) = progress(&checkpoint.read()?)?;
    Ok(Snapshot { meta: SnapshotMeta { last_log_id, last_membership }, snapshot: checkpoint })
}

/// Makes a snapshot: a checkpoint of the state as it is when it is made.
pub struct Builder {
    state: StateDb,
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = Checkpoint;

    async fn build_snapshot(
        &mut self,
    ) -> Result<Snapshot<CommittedLeader, u64, super::types::Peer, Checkpoint>, io::Error> {
        let state = self.state.clone();
        let checkpoint = tokio::task::spawn_blocking(move || {
            let (applied, _) = progress(&state.reader())?;
            let name = format!("{:020}", applied.map_or(0, |id| id.index()));
            state.checkpoint(&name).map_err(io::Error::from)
        });
        describe(checkpoint.await.map_err(io::Error::other)??)
    }
}
