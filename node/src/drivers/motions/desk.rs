//! The desk: this member's votes, those of others, and what the table of votes asks for.

use crate::identity::{Signer, SignerError};
use crate::mesh::{GossipVerdict, MeshHandle, PeerEvent, Topic};
use crate::metrics::{Metrics, RefusedReason};
use consensus::codec::{self, CodecError};
use consensus::envelope::StatementKind;
use consensus::membership::{KeptVote, MotionView, VoteAction, VoteId, VoteRefused, VoteTable, VoteTaken};
use consensus::raft::{ProposeError, RegistryHandle, Role};
use consensus::registry::motion::VOTE_LIFETIME_MS;
use consensus::registry::{Command, Motion, Response, SignedVote, Standing, Tally, Vote};
use consensus::store::{RecordBatch, Records, StoreError, Table};
use consensus::time::{Monotonic, Now, Timestamp};
use cpi::ids::{ContentDigest, MemberId};
use rand::seq::IndexedRandom as _;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Votes by id: format version, milliseconds since 1970, envelope.
const VOTES: Table = Table(b'v');
const ROW_VERSION: u8 = 1;
/// Rows that are read at the start.
const ROWS_MAX: usize = 8_192;
/// Between two repairs with a random peer.
const REPAIR_EVERY: Duration = Duration::from_secs(15);
/// From a new connection to a repair with that peer.
const REPAIR_AFTER_CONNECT: Duration = Duration::from_millis(300);
/// Between two looks at the time while motions are open.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A proposal is given so long before its caller is told that there is no quorum.
const PROPOSE_WAIT: Duration = Duration::from_secs(10);

/// Members that are suspended or expelled by enough votes, whether or not the registry has it yet.
pub type Standings = watch::Receiver<Arc<BTreeMap<MemberId, Standing>>>;

/// What the desk is made of.
pub struct MotionParts {
    /// The registry.
    pub registry: RegistryHandle,
    /// The mesh.
    pub mesh: MeshHandle,
    /// Signs this member's votes.
    pub signer: Signer,
    /// The node's records.
    pub records: Records,
    /// Where refusals are counted.
    pub metrics: Arc<Metrics>,
}

/// Why a vote could not be given.
#[derive(Debug, thiserror::Error)]
pub enum MotionError {
    /// The table does not take it.
    #[error("the vote does not count: {0}")]
    Refused(#[from] VoteRefused),
    /// It is not on disk, so it was not sent.
    #[error("the vote cannot be written to disk: {0}")]
    Disk(String),
    /// The decision cannot be signed.
    #[error(transparent)]
    Sign(#[from] SignerError),
    /// The registry did not even look at it.
    #[error("the registry did not take the decision: {0}")]
    Rejected(String),
}

/// What came of a vote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MotionOutcome {
    /// More votes are needed.
    Waits(Tally),
    /// It has the votes and no quorum of the registry took it yet; a suspension or expulsion is in force here and wherever
    /// the votes arrive.
    Decided(Tally),
    /// The registry has it.
    Applied(Response),
}

/// The desk. Clones are one.
#[derive(Clone)]
pub struct MotionDesk(Arc<Inner>);

struct Inner {
    parts: MotionParts,
    table: Mutex<VoteTable>,
    in_force: watch::Sender<Arc<BTreeMap<MemberId, Standing>>>,
    wake: Notify,
    began: Instant,
}

impl MotionDesk {
    /// A desk with what the disk kept.
    ///
    /// # Errors
    /// [`StoreError`]: the rows cannot be read.
    pub fn open(parts: MotionParts) -> Result<Self, StoreError> {
        let rows = parts.records.scan(VOTES, &[], None, ROWS_MAX)?;
        let (in_force, _) = watch::channel(Arc::default());
        let (table, wake, began) = (Mutex::default(), Notify::new(), Instant::now());
        let desk = Self(Arc::new(Inner { parts, table, in_force, wake, began }));
        let (registry, now, federation) = (desk.registry().reader(), desk.now(), desk.registry().federation());
        let mut unreadable = RecordBatch::default();
        for (key, row) in rows {
            let kept = kept_of(&row).ok();
            match kept.and_then(|kept| Some((SignedVote::open(kept.envelope, &federation).ok()?, kept.since))) {
                Some((vote, since)) => desk.table().restore(now, vote, since, &registry),
                None => unreadable.delete(VOTES, &key),
            }
        }
        if !unreadable.is_empty() {
            tracing::warn!(rows = unreadable.len(), "kept votes that do not hold any more are dropped");
            drop(desk.0.parts.records.write(unreadable));
        }
        desk.publish_standings();
        Ok(desk)
    }

    pub(super) fn table(&self) -> MutexGuard<'_, VoteTable> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Now {
        let mono = u64::try_from(self.0.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        Now { mono: Monotonic(mono), wall: Timestamp(wall) }
    }

    fn registry(&self) -> &RegistryHandle {
        &self.0.parts.registry
    }

    pub(super) fn mesh(&self) -> &MeshHandle {
        &self.0.parts.mesh
    }

    /// Who is suspended or expelled by votes.
    pub fn standings(&self) -> Standings {
        self.0.in_force.subscribe()
    }

    /// Motions that are open, as far as known here.
    pub fn open_motions(&self) -> Vec<MotionView> {
        self.table().views(&self.registry().reader())
    }

    fn publish_standings(&self) {
        let standings = self.table().in_force(&self.registry().reader());
        self.0.in_force.send_if_modified(|known| {
            let differs = **known != standings;
            if differs {
                for (member, standing) in &standings {
                    if known.get(member) != Some(standing) {
                        tracing::warn!(%member, standing = standing.name(), "enough members voted: it is in force here");
                    }
                }
                *known = Arc::new(standings);
            }
            differs
        });
    }

    /// Gives this member's vote for `motion`: on disk, then to all others; has the registry apply it if that is enough.
    ///
    /// # Errors
    /// [`MotionError`].
    pub async fn vote(&self, motion: Motion, reason: &str) -> Result<MotionOutcome, MotionError> {
        let id = motion.digest();
        let until = Timestamp(self.now().wall.0.saturating_add(VOTE_LIFETIME_MS));
        let vote = Vote { motion: motion.clone(), reason: reason.to_owned(), until };
        let envelope = self.0.parts.signer.seal(StatementKind::Vote, vote.to_bytes()).to_bytes();
        let digest = ContentDigest::of(&envelope).0;
        let key = self.0.parts.signer.public_key();
        let signed = SignedVote { key, vote, digest, envelope: envelope.clone() };
        let now = self.now();
        self.table().offer(now, signed, now.wall, &self.registry().reader())?;
        let written = self.0.parts.records.write(self.drain(&mut Vec::new())).await;
        let failed = |error: String| MotionError::Disk(error);
        written.map_err(|error| failed(error.to_string()))?.map_err(|error| failed(error.to_string()))?;
        self.publish_standings();
        if let Err(error) = self.mesh().publish(Topic::Votes, envelope.into()) {
            tracing::debug!(%error, "a vote was not published: others learn of it by repair");
        }
        self.0.wake.notify_one();
        let reader = self.registry().reader();
        let tally =
            || self.table().views(&reader).into_iter().find(|view| view.motion == motion).map(|view| view.tally);
        let tally = tally().ok_or(VoteRefused::Settled)?;
        let votes = self.table().decided(&id, &reader);
        let Some(votes) = votes else { return Ok(MotionOutcome::Waits(tally)) };
        match self.propose(votes).await {
            Ok(response) => {
                self.settle();
                Ok(MotionOutcome::Applied(response))
            }
            Err(MotionError::Sign(error)) => Err(error.into()),
            Err(error) => {
                tracing::info!(%error, "a decision waits for a quorum of the registry");
                Ok(MotionOutcome::Decided(tally))
            }
        }
    }

    async fn propose(&self, votes: Vec<Vec<u8>>) -> Result<Response, MotionError> {
        let envelope = self.0.parts.signer.seal_command(Command::Decide { votes }.to_bytes())?.to_bytes();
        match self.registry().propose(envelope, PROPOSE_WAIT).await {
            Ok(committed) => Ok(committed.response),
            Err(ProposeError::Rejected(error)) => Err(MotionError::Rejected(error)),
            Err(error) => Err(MotionError::Rejected(error.to_string())),
        }
    }

    /// Judges a gossiped vote of `author` before it is forwarded.
    pub fn on_vote(&self, author: MemberId, payload: &[u8]) -> GossipVerdict {
        match self.take(Some(author), payload.to_vec()) {
            Ok(VoteTaken::New) => GossipVerdict::Accept,
            Ok(VoteTaken::Known) => GossipVerdict::Ignore,
            Err(refused) => {
                self.count(author, &refused);
                if refused.is_wrong_by_itself() { GossipVerdict::Reject } else { GossipVerdict::Ignore }
            }
        }
    }

    /// Takes a vote in that came from another member.
    pub(super) fn take(&self, author: Option<MemberId>, envelope: Vec<u8>) -> Result<VoteTaken, VoteRefused> {
        if self.table().has(&VoteId::of(&ContentDigest::of(&envelope).0)) {
            return Ok(VoteTaken::Known);
        }
        let federation = self.registry().federation();
        let vote = SignedVote::open(envelope, &federation).map_err(|error| VoteRefused::from(&error))?;
        let registry = self.registry().reader();
        if let Some(author) = author
            && let Some(signer) = registry.member_of_key(&vote.key)
            && signer.member != author
        {
            return Err(VoteRefused::Author { signer: signer.member, author });
        }
        let now = self.now();
        let taken = self.table().offer(now, vote, now.wall, &registry)?;
        if taken == VoteTaken::New {
            // at once: whom it puts out must not get one more frame in
            self.publish_standings();
            self.0.wake.notify_one();
        }
        Ok(taken)
    }

    /// Counts a refusal, and names the peer where it is no matter of timing.
    pub(super) fn count(&self, from: MemberId, refused: &VoteRefused) {
        let reason = refused.name();
        self.0.parts.metrics.registry_refused.get_or_create(&RefusedReason { reason }).inc();
        match refused {
            VoteRefused::Settled | VoteRefused::Expired | VoteRefused::UnknownSigner | VoteRefused::Format => {
                tracing::debug!(member = %from, reason, %refused, "a vote is not taken");
            }
            _ => tracing::warn!(member = %from, reason, %refused, "a vote was refused"),
        }
    }

    /// Drops what the registry knows by now.
    fn settle(&self) {
        let (now, registry) = (self.now(), self.registry().reader());
        self.table().settle(now, &registry);
        self.publish_standings();
    }

    /// What the table wants on disk; decisions to propose go into `decisions`.
    fn drain(&self, decisions: &mut Vec<([u8; 32], Vec<Vec<u8>>)>) -> RecordBatch {
        let mut batch = RecordBatch::default();
        let mut table = self.table();
        while let Some(action) = table.poll_action() {
            match action {
                VoteAction::Keep { id, kept } => batch.put(VOTES, &id.0, &row_of(&kept)),
                VoteAction::Drop { id } => batch.delete(VOTES, &id.0),
                VoteAction::Propose { motion, votes } => decisions.push((motion, votes)),
            }
        }
        batch
    }

    fn turn(&self, proposals: &mut JoinSet<()>) {
        let (now, registry) = (self.now(), self.registry().reader());
        if !self.table().is_empty() {
            let leads = self.registry().freshness().role == Role::Leader;
            self.table().handle_timeout(now, leads, &registry);
        }
        let mut decisions = Vec::new();
        let batch = self.drain(&mut decisions);
        if !batch.is_empty() {
            self.0.parts.records.write_then(batch, |written| {
                if let Err(error) = written {
                    tracing::error!(%error, "votes cannot be kept on disk");
                }
            });
        }
        for (motion, votes) in decisions {
            let desk = self.clone();
            proposals.spawn(async move {
                match desk.propose(votes).await {
                    Ok(response) => match response.refusal() {
                        None => tracing::info!("a decision of the members was applied"),
                        Some(refusal) => tracing::info!(%refusal, "a decision of the members was not applied"),
                    },
                    Err(error) => tracing::debug!(%error, "a decision of the members is not applied yet"),
                }
                let now = desk.now();
                desk.table().returned(now, &motion);
                desk.settle();
            });
        }
    }

    /// Runs the desk until `stop`; one task per node does.
    pub async fn run(self, stop: CancellationToken) {
        let mut applied = self.registry().watch_applied();
        let mut events = self.mesh().events();
        let mut members = None;
        let mut next_repair = Instant::now() + REPAIR_EVERY;
        let mut soon: BTreeMap<MemberId, Instant> = BTreeMap::new();
        let (mut repairs, mut proposals) = (JoinSet::new(), JoinSet::new());
        loop {
            self.turn(&mut proposals);
            let waits = !self.table().is_empty();
            let first_repair = soon.values().min().copied().map_or(next_repair, |at| at.min(next_repair));
            let until = if waits { (Instant::now() + LOOK_EVERY).min(first_repair) } else { first_repair };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(_) = proposals.join_next(), if !proposals.is_empty() => {}
                Some(_) = repairs.join_next(), if !repairs.is_empty() => {}
                () = self.0.wake.notified() => {}
                event = events.recv() => match event {
                    Ok(PeerEvent::Connected(member)) => {
                        soon.insert(member, Instant::now() + REPAIR_AFTER_CONNECT);
                    }
                    Ok(PeerEvent::Disconnected(member)) => {
                        soon.remove(&member);
                    }
                    Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
                    Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => next_repair = Instant::now(),
                },
                () = tokio::time::sleep_until(until.into()) => {}
            }
            if waits && applied.has_changed().unwrap_or(true) {
                applied.mark_unchanged();
                let revision = self.registry().reader().summary().map(|s| (s.members_revision, s.policy_revision));
                if members != revision {
                    members = revision;
                    self.settle();
                }
            } else if waits {
                self.settle();
            }
            let now = Instant::now();
            let mut with: Vec<MemberId> = soon.iter().filter(|(_, at)| **at <= now).map(|(who, _)| *who).collect();
            soon.retain(|_, at| *at > now);
            if next_repair <= now {
                next_repair = now + REPAIR_EVERY;
                with.extend(self.somebody());
            }
            for member in with {
                let desk = self.clone();
                repairs.spawn(async move { desk.repair_with(member).await });
            }
        }
    }

    fn somebody(&self) -> Option<MemberId> {
        let connected: Vec<MemberId> =
            self.mesh().peers().into_iter().filter(|peer| peer.connected).map(|peer| peer.member).collect();
        connected.choose(&mut rand::rng()).copied()
    }
}

fn row_of(kept: &KeptVote) -> Vec<u8> {
    codec::encode(ROW_VERSION, &(kept.since, &kept.envelope)).expect("plain fields")
}

fn kept_of(row: &[u8]) -> Result<KeptVote, CodecError> {
    let (since, envelope) = codec::decode(ROW_VERSION, row, Topic::Votes.bytes_max() + 64)?;
    Ok(KeptVote { since, envelope })
}
