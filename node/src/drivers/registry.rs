//! The node's door to the registry: signs commands, brings them to the leader, keeps what no quorum has yet.
//!
//! A command that is not committed at once is written to the node's records, shown to the other members as pending, and
//! sent again, the same bytes each time, until the registry gives an outcome. So `202` means on disk here, and a restart
//! does not lose it.
//!
//! Changes of identifiers that come at the same time are signed and committed together (see `batches`).

use super::batches::Batches;
use super::pending::PendingDesk;
use super::refused::{RefusedClaim, RefusedClaims};
use crate::identity::Signer;
use crate::services::identifier_views::{FreshnessView, RegistryStatusView};
use crate::services::registry::{Outcome, Registry, RegistryError, rfc3339};
use async_trait::async_trait;
use consensus::envelope::{ENVELOPE_BYTES_MAX, Envelope};
use consensus::raft::{Freshness, ProposeError, RegistryHandle, Role};
use consensus::registry::pending::{PendingView, refused_claims};
use consensus::registry::{
    Command, IdentifierChange, Refusal, RegistryReader, Response, Statement, StatisticsDimension,
};
use consensus::store::{RecordBatch, Records, Table};
use consensus::time::Timestamp;
use cpi::ids::{MemberId, StableKey};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Commands that wait for a quorum, by sequence.
const PENDING: Table = Table(b'p');
/// Commands that wait at most; more are refused. Half of the registry's window of sequences.
const PENDING_MAX: usize = 512;
/// A command that is committed sooner is never pending: it needs no disk here and no gossip.
const PENDING_AFTER: Duration = Duration::from_millis(100);
/// Pause between two attempts to commit what waits.
const RESEND_EVERY: Duration = Duration::from_secs(1);
/// A read that must be linearizable waits so long.
const CATCH_UP: Duration = Duration::from_secs(5);
/// How long a computed freshness is shown again; the index is always the present one.
const FRESH_FOR: Duration = Duration::from_millis(20);

/// The registry as the services of this node use it. Clones are one door.
#[derive(Clone)]
pub struct LiveRegistry(Arc<Inner>);

struct Inner {
    me: MemberId,
    handle: RegistryHandle,
    signer: Signer,
    records: Records,
    commit_wait: Duration,
    pending: PendingDesk,
    /// Sequences of kept commands whose caller still waits for them.
    in_hand: Mutex<BTreeSet<u64>>,
    refused: RefusedClaims,
    fresh: Mutex<Option<(Instant, FreshnessView)>>,
    batches: Batches,
}

impl LiveRegistry {
    /// A door to `handle`; writes that are not committed within `commit_wait` go on by themselves.
    /// What waits on disk already is shown by `pending`.
    pub fn new(
        me: MemberId,
        handle: RegistryHandle,
        signer: Signer,
        records: Records,
        pending: PendingDesk,
        commit_wait: Duration,
    ) -> Self {
        let (in_hand, fresh) = (Mutex::default(), Mutex::default());
        let (batches, queue) = Batches::new();
        let refused = RefusedClaims::new(records.clone());
        let inner = Inner { me, handle, signer, records, commit_wait, pending, in_hand, refused, fresh, batches };
        let door = Self(Arc::new(inner));
        // ends with the last door
        let weak = Arc::downgrade(&door.0);
        tokio::spawn(queue.run(move |command| {
            let door = weak.upgrade().map(Self);
            async move {
                match door {
                    Some(door) => door.commit(command).await,
                    None => Err(RegistryError::NoQuorum),
                }
            }
        }));
        for (_, envelope) in door.waiting() {
            door.0.pending.show(&envelope);
        }
        door
    }

    /// The handle below.
    pub fn handle(&self) -> &RegistryHandle {
        &self.0.handle
    }

    /// Sends what waits for a quorum until `stop`; one task per node runs this.
    pub async fn resend(self, stop: CancellationToken) {
        loop {
            self.resend_once().await;
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(RESEND_EVERY) => {}
            }
        }
    }

    async fn resend_once(&self) {
        for (key, envelope) in self.waiting_aside().await {
            let sequence = key.as_slice().try_into().map(u64::from_be_bytes);
            if sequence.is_ok_and(|sequence| self.in_hand().contains(&sequence)) {
                continue;
            }
            match self.0.handle.propose(envelope.clone(), self.0.commit_wait).await {
                Ok(committed) => {
                    if let Some(Refusal::SequenceTooOld { .. }) = committed.response.refusal() {
                        self.sign_again(&key, &envelope).await;
                        continue;
                    }
                    match committed.response.refusals().next() {
                        None => tracing::info!(index = committed.index, "a waiting command was committed"),
                        Some(refusal) => {
                            tracing::warn!(%refusal, "a waiting command was refused");
                            self.tell_refused(&envelope, &committed.response).await;
                        }
                    }
                    self.forget(&key);
                }
                Err(ProposeError::Rejected(error)) => {
                    // it was acknowledged: one replica's word does not undo that
                    if Statement::open(envelope.to_vec(), &self.0.handle.federation()).is_ok() {
                        tracing::warn!(error, "a waiting command was turned away: it stays and is sent again");
                    } else {
                        tracing::warn!(error, "a waiting command does not hold any more");
                        self.forget(&key);
                    }
                }
                Err(ProposeError::NoQuorum | ProposeError::Stopped) => return,
            }
        }
    }

    /// A command whose sequence fell out of the registry's window is signed with a new one. If it was committed under the
    /// old one all the same, the registry says so: `expected_revision` keeps it from happening twice.
    async fn sign_again(&self, key: &[u8], envelope: &[u8]) {
        let Ok(old) = Envelope::from_bytes(envelope) else { return self.forget(key) };
        match self.0.signer.seal_command(old.body) {
            Ok(new) => {
                let mut batch = RecordBatch::default();
                batch.delete(PENDING, key);
                batch.put(PENDING, &new.sequence.to_be_bytes(), &new.to_bytes());
                match self.0.records.write(batch).await {
                    // others know the old bytes, which come to nothing any more
                    Ok(Ok(())) => self.0.pending.announce(&new.to_bytes()),
                    Ok(Err(error)) => tracing::error!(%error, "a waiting command cannot be signed again"),
                    Err(_) => tracing::error!("a waiting command cannot be signed again: the records are closed"),
                }
            }
            Err(error) => tracing::error!(%error, "a waiting command cannot be signed again"),
        }
    }

    fn in_hand(&self) -> std::sync::MutexGuard<'_, BTreeSet<u64>> {
        self.0.in_hand.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps for its owner what was refused after it was acknowledged.
    async fn tell_refused(&self, envelope: &[u8], response: &Response) {
        let Ok(statement) = Statement::open(envelope.to_vec(), &self.0.handle.federation()) else { return };
        let refused = refused_claims(&statement, response);
        if !refused.is_empty() {
            let book = self.0.refused.clone();
            let kept = tokio::task::spawn_blocking(move || book.remember(wall(), &refused)).await;
            if let Err(error) = kept {
                tracing::error!(%error, "a refusal cannot be kept; it stands in this log alone");
            }
        }
    }

    /// As [`Self::waiting`], on a thread that nobody waits for.
    async fn waiting_aside(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let door = self.clone();
        tokio::task::spawn_blocking(move || door.waiting()).await.unwrap_or_default()
    }

    fn waiting(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.0.records.scan(PENDING, &[], None, PENDING_MAX).unwrap_or_else(|error| {
            tracing::error!(%error, "the waiting commands cannot be read");
            Vec::new()
        })
    }

    fn forget(&self, key: &[u8]) {
        let mut batch = RecordBatch::default();
        batch.delete(PENDING, key);
        // not waited for: after a crash it is sent once more, which changes nothing
        self.0.records.write_then(batch, |written| {
            if let Err(error) = written {
                tracing::error!(%error, "a committed command stays among the waiting ones");
            }
        });
    }

    /// Writes a command to disk until a quorum has it.
    async fn keep(&self, sequence: u64, envelope: &[u8]) -> Result<(), RegistryError> {
        if self.waiting_aside().await.len() >= PENDING_MAX {
            return Err(RegistryError::Busy);
        }
        let mut batch = RecordBatch::default();
        batch.put(PENDING, &sequence.to_be_bytes(), envelope);
        let written = self.0.records.write(batch).await;
        let failed = |error: String| RegistryError::Failed(format!("the command cannot be written to disk: {error}"));
        written.map_err(|error| failed(error.to_string()))?.map_err(|error| failed(error.to_string()))?;
        self.0.pending.announce(envelope);
        Ok(())
    }

    /// Signs one command and brings it to the leader.
    async fn commit(&self, command: Command) -> Result<Outcome, RegistryError> {
        let sealed = self.0.signer.seal_command(command.to_bytes());
        let envelope = sealed.map_err(|error| RegistryError::Failed(error.to_string()))?;
        let bytes = envelope.to_bytes();
        if bytes.len() > ENVELOPE_BYTES_MAX {
            return Err(RegistryError::Failed(format!(
                "the command has {} bytes, too many for one entry",
                bytes.len()
            )));
        }
        let _in_hand = InHand::new(self, envelope.sequence);
        self.bring(envelope.sequence, &bytes).await
    }

    /// Brings a command to the leader. What takes longer than a moment is kept and shown as pending meanwhile.
    async fn bring(&self, sequence: u64, bytes: &[u8]) -> Result<Outcome, RegistryError> {
        let mut proposal = std::pin::pin!(self.0.handle.propose(bytes.to_vec(), self.0.commit_wait));
        let mut kept = false;
        let proposed = match tokio::time::timeout(PENDING_AFTER, &mut proposal).await {
            Ok(proposed) => proposed,
            Err(_) => {
                // a full queue is no reason to give up: the quorum may be there yet
                kept = self.keep(sequence, bytes).await.is_ok();
                proposal.await
            }
        };
        match proposed {
            Ok(committed) => {
                if kept {
                    self.forget(&sequence.to_be_bytes());
                }
                Ok(Outcome::Committed { index: committed.index, response: committed.response })
            }
            Err(ProposeError::NoQuorum | ProposeError::Stopped) => {
                if !kept {
                    self.keep(sequence, bytes).await?;
                }
                Ok(Outcome::Pending)
            }
            Err(ProposeError::Rejected(error)) => {
                if kept {
                    self.forget(&sequence.to_be_bytes());
                }
                Err(RegistryError::Failed(error))
            }
        }
    }

    fn view(&self, freshness: &Freshness) -> FreshnessView {
        FreshnessView {
            index: freshness.applied_index,
            as_of: freshness.as_of.map(rfc3339),
            age_ms: freshness.age_ms,
            leader: freshness.leader.map(|leader| leader.to_string()),
        }
    }
}

#[async_trait]
impl Registry for LiveRegistry {
    fn me(&self) -> MemberId {
        self.0.me
    }

    fn reader(&self) -> RegistryReader {
        self.0.handle.reader()
    }

    fn freshness(&self) -> FreshnessView {
        let mut fresh = self.0.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        match &mut *fresh {
            Some((at, view)) if now.duration_since(*at) < FRESH_FOR => {
                view.index = *self.0.handle.watch_applied().borrow();
                view.clone()
            }
            other => {
                let view = self.view(&self.0.handle.freshness());
                *other = Some((now, view.clone()));
                view
            }
        }
    }

    fn status(&self) -> RegistryStatusView {
        let status = self.0.handle.status();
        let reader = self.0.handle.reader();
        let summary = reader.summary();
        let leader = status.freshness.leader;
        let seats = |seats: &[(u64, MemberId)]| seats.iter().map(|(_, member)| member.to_string()).collect();
        let registered = reader.statistics(StatisticsDimension::All).first().map_or(0, |all| all.totals.identifiers);
        let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
        RegistryStatusView {
            federation: summary.as_ref().map_or_else(String::new, |summary| hex(&summary.federation.id)),
            epoch: summary.as_ref().map_or(0, |summary| summary.federation.epoch),
            member: self.0.me.to_string(),
            role: role_name(status.freshness.role).to_owned(),
            leader: leader.map(|leader| leader.to_string()),
            leader_region: leader
                .and_then(|leader| reader.member(leader))
                .map(|record| record.place.region.to_string()),
            term: status.freshness.term,
            last_log_index: status.last_log_index,
            commit_index: status.committed_index,
            applied_index: status.freshness.applied_index,
            snapshot_index: (status.snapshot_index > 0).then_some(status.snapshot_index),
            as_of: status.freshness.as_of.map(rfc3339),
            age_ms: status.freshness.age_ms,
            voters: seats(&status.voters),
            learners: seats(&status.learners),
            identifiers: registered,
            pending: self.waiting().len() as u64,
            state_hash: summary.map(|summary| hex(&summary.hash)),
        }
    }

    fn watch_applied(&self) -> watch::Receiver<u64> {
        self.0.handle.watch_applied()
    }

    async fn catch_up(&self) -> Result<(), RegistryError> {
        self.0.handle.linearizable(CATCH_UP).await.map_err(|_| RegistryError::NoQuorum)
    }

    async fn submit(&self, command: Command) -> Result<Outcome, RegistryError> {
        match IdentifierChange::try_from(command) {
            Ok(change) => self.0.batches.submit(change).await,
            Err(command) => self.commit(*command).await,
        }
    }

    async fn snapshot(&self) -> Result<(PathBuf, u64), RegistryError> {
        self.0.handle.snapshot().await.map_err(|error| RegistryError::Failed(error.to_string()))
    }

    fn pending(&self) -> Vec<PendingView> {
        self.0.pending.all()
    }

    fn pending_of(&self, key: &StableKey) -> Vec<PendingView> {
        self.0.pending.of_key(key)
    }

    fn refused_of(&self, key: &StableKey) -> Option<RefusedClaim> {
        self.0.refused.of_key(wall(), key, &self.0.handle.reader())
    }

    fn role_of(&self, member: MemberId) -> &'static str {
        let status = self.0.handle.status();
        if status.freshness.leader == Some(member) {
            "leader"
        } else if status.voters.iter().any(|(_, voter)| *voter == member) {
            "voter"
        } else if status.learners.iter().any(|(_, learner)| *learner == member) {
            "learner"
        } else {
            "follower"
        }
    }
}

/// A command whose caller waits: it is not sent again beside. Ends with the caller, who may give up.
struct InHand<'a> {
    door: &'a LiveRegistry,
    sequence: u64,
}

impl<'a> InHand<'a> {
    fn new(door: &'a LiveRegistry, sequence: u64) -> Self {
        door.in_hand().insert(sequence);
        Self { door, sequence }
    }
}

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        self.door.in_hand().remove(&self.sequence);
    }
}

fn wall() -> Timestamp {
    Timestamp(jiff::Timestamp::now().as_millisecond().unsigned_abs())
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Leader => "leader",
        Role::Voter => "voter",
        Role::Learner => "learner",
        Role::Follower => "follower",
    }
}
