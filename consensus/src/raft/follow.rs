//! Following: a member that neither votes nor stands by pulls what is committed from any replica that has room for it, so the
//! leader's work per write does not grow with the members.
//!
//! ```text
//! follower --Pull{after}-->       replica: waits until there is more, answers with entries and its newest beacon
//! follower --PullSnapshot-->      replica: once the entries after `after` are purged there
//! follower --PullPiece-->         replica: piece by piece
//! ```
//! What comes is believed as far as a learner believes its leader: entries are signed by their issuers and verified here, the
//! leader in whose name they are taken is proven by its beacon, and the beacon's hash is held against the state here. A
//! replica serves few followers and sends the others on, and followers have an order among them, so they form a tree.

use super::beacon::Beacon;
use super::handle::{Inner, RegistryHandle};
use super::snapshots::{Incoming, PIECE_BYTES, PIECE_DEADLINE, read_piece};
use super::transport::{RaftClass, TransportError};
use super::types::{LogId, Vote};
use super::wire::{self, Answer, Question, WireLogId, WireVote};
use crate::registry::Standing;
use bytes::Bytes;
use cpi::ids::{ContentDigest, MemberId};
use openraft::ServerState;
use openraft::async_runtime::WatchReceiver as _;
use openraft::raft::AppendEntriesResponse;
use openraft::storage::Snapshot;
use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// Followers that one replica serves.
const FOLLOWERS_MAX: usize = 8;
/// A follower that did not ask for so long is served no more.
const FOLLOWER_GONE: Duration = Duration::from_secs(10);
/// An answer waits so long for something new.
const WAIT: Duration = Duration::from_secs(2);
/// An answer is waited for so long.
const ANSWER_WAIT: Duration = Duration::from_secs(8);
/// A replica that had no room, or nothing that holds, is not asked again for so long.
const AVOID: Duration = Duration::from_secs(5);
/// A source whose newest beacon is older may be cut off itself, or pull from those who pull from it.
const STALE: Duration = Duration::from_secs(4);
/// Between two tries where nobody answers, and between two looks at whether this replica must pull.
const PAUSE: Duration = Duration::from_millis(300);
/// A learner that heard no leader for so long pulls too: it may have lost its seat without being told.
const SILENCE: Duration = Duration::from_secs(10);
/// Bytes of the entries in one answer.
const ENTRIES_BYTES_MAX: usize = 1 << 20;

/// What one pull came to.
#[derive(Debug, PartialEq, Eq)]
enum Pulled {
    /// Something was taken.
    News,
    /// The source has nothing new.
    Nothing,
    /// The source has no room, or what it gave does not hold.
    Elsewhere(&'static str),
    /// The source has purged what is missing here.
    Purged,
}

/// Pulls while this replica has no seat; ends with the handle.
pub(super) async fn follow(inner: std::sync::Weak<Inner>) {
    let mut avoid: BTreeMap<MemberId, Instant> = BTreeMap::new();
    loop {
        let Some(inner) = inner.upgrade() else { return };
        let handle = RegistryHandle { inner };
        avoid.retain(|_, since| since.elapsed() < AVOID);
        let source = if handle.must_pull() { handle.source(&avoid) } else { None };
        let Some(source) = source else {
            drop(handle);
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let began = Instant::now();
        let pulled = match handle.pull(source).await {
            Ok(Pulled::Purged) => handle.pull_snapshot(source).await,
            other => other,
        };
        match pulled {
            Ok(Pulled::News) => {}
            // a source that did not wait has nothing at all
            Ok(Pulled::Nothing) if began.elapsed() >= PAUSE => {}
            Ok(Pulled::Nothing) => tokio::time::sleep(PAUSE).await,
            Ok(Pulled::Purged) => drop(avoid.insert(source, Instant::now())),
            Ok(Pulled::Elsewhere(why)) => {
                tracing::debug!(%source, why, "another replica is asked for entries");
                avoid.insert(source, Instant::now());
            }
            Err(error) => {
                tracing::debug!(%source, error, "no entries came; another replica is asked");
                avoid.insert(source, Instant::now());
            }
        }
    }
}

impl RegistryHandle {
    /// Whether nobody brings entries here: this replica has no seat, or has one and is forgotten.
    fn must_pull(&self) -> bool {
        let raft = self.inner.raft();
        let watched = raft.metrics();
        let metrics = watched.borrow_watched();
        let membership = metrics.membership_config.membership();
        let me = self.inner.raft_id;
        if metrics.state == ServerState::Leader || membership.voter_ids().any(|id| id == me) {
            return false;
        }
        membership.get_node(&me).is_none() || self.silence() > SILENCE
    }

    fn knows_voters(&self) -> bool {
        let raft = self.inner.raft();
        let watched = raft.metrics();
        watched.borrow_watched().membership_config.membership().voter_ids().next().is_some()
    }

    fn silence(&self) -> Duration {
        self.inner.heard.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// Whom to pull from: the nearest replica with a seat that does not lead, else a follower before this one, else the leader,
    /// else anybody: who has a seat by now is not known where the newest entries are missing.
    fn source(&self, avoid: &BTreeMap<MemberId, Instant>) -> Option<MemberId> {
        let metrics = self.inner.raft().metrics().borrow_watched().clone();
        let membership = metrics.membership_config.membership();
        let member_of = |id: &u64| membership.get_node(id).map(|peer| peer.member);
        let leader = metrics.current_leader.as_ref().and_then(member_of);
        let seated: Vec<u64> = membership.nodes().map(|(_, peer)| peer.member).collect();
        let order = |member: u64| ContentDigest::of(&member.to_be_bytes());
        let mine = order(self.inner.member.0);
        let tier = |member: MemberId| {
            if leader == Some(member.0) {
                2
            } else if seated.contains(&member.0) || seated.is_empty() {
                0
            } else if order(member.0) < mine {
                1
            } else {
                // it may pull from this one: two who have nothing else find that out by their old beacons
                3
            }
        };
        let reachable = self.inner.transport.members().into_iter();
        reachable
            .filter(|member| *member != self.inner.member && !avoid.contains_key(member))
            .filter_map(|member| Some((tier(member), self.inner.transport.rtt_ms(member)?, member)))
            .min()
            .map(|(_, _, member)| member)
    }

    /// One question for entries.
    async fn pull(&self, source: MemberId) -> Result<Pulled, String> {
        let applied = self.inner.raft().metrics().borrow_watched().last_applied;
        let question = Question::Pull { after: applied.map(Into::into), wait_ms: WAIT.as_millis() as u32 };
        match self.ask(source, &question, ANSWER_WAIT).await.map_err(|error| error.to_string())? {
            Answer::Pulled { prev, entries, beacon, age_ms } => {
                self.take_pulled(applied, prev, &entries, &beacon, Duration::from_millis(age_ms)).await
            }
            Answer::Purged => Ok(Pulled::Purged),
            Answer::Full => Ok(Pulled::Elsewhere("it serves enough others")),
            _ => Err("the answer is none to a pull".to_owned()),
        }
    }

    /// The leader's vote that a relayed beacon proves.
    ///
    /// A replica that was given nothing yet knows no voters and believes whom it was invited to; one that heard nothing for
    /// long also believes a member that does not vote as far as it knows.
    fn proven(&self, envelope: &[u8]) -> Option<(Beacon, Vote)> {
        let (beacon, key) = Beacon::open(envelope, &self.federation())?;
        let raft = self.inner.raft();
        let watched = raft.metrics();
        let metrics = watched.borrow_watched();
        let membership = metrics.membership_config.membership();
        let vote = Vote::new_committed(beacon.term, beacon.leader);
        if membership.voter_ids().next().is_none() {
            return Some((beacon, vote));
        }
        let signer = self.reader().member_of_key(&key).filter(|signer| signer.standing == Standing::Active)?;
        let votes = membership.voter_ids().any(|id| id == beacon.leader)
            && membership.get_node(&beacon.leader).is_some_and(|peer| peer.member == signer.member.0);
        (votes || signer.raft_id == beacon.leader && self.silence() > SILENCE).then_some((beacon, vote))
    }

    /// Takes entries that another replica says are committed.
    async fn take_pulled(
        &self,
        after: Option<LogId>,
        prev: Option<WireLogId>,
        entries: &[Bytes],
        beacon: &Bytes,
        age: Duration,
    ) -> Result<Pulled, String> {
        let Some((said, vote)) = self.proven(beacon) else { return Ok(Pulled::Elsewhere("its beacon proves nothing")) };
        if prev.map(LogId::from) != after {
            return Ok(Pulled::Purged);
        }
        let mut request = wire::append_request(vote.into(), prev, entries, None).map_err(|error| error.to_string())?;
        let first = after.map_or(0, |id| id.index() + 1);
        let in_order = request.entries.iter().zip(first..).all(|(entry, index)| entry.log_id.index() == index);
        let of_this_leader = request.entries.iter().all(|entry| entry.log_id.committed_leader_id().term <= said.term);
        if !in_order || !of_this_leader {
            return Ok(Pulled::Elsewhere("its entries do not follow one another"));
        }
        let news = !request.entries.is_empty();
        request.leader_commit = request.entries.last().map(|entry| entry.log_id).or(after);
        let last = request.leader_commit.map_or(0, |id| id.index());
        self.verify_ahead(&request);
        let taken = self.inner.raft().append_entries(request).await.map_err(|error| error.to_string())?;
        match taken {
            AppendEntriesResponse::Success | AppendEntriesResponse::PartialSuccess(_) => {}
            AppendEntriesResponse::Conflict => return Ok(Pulled::Purged),
            AppendEntriesResponse::HigherVote(_) => return Ok(Pulled::Elsewhere("its leader is one of the past")),
        }
        *self.inner.heard.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        // what was taken is applied before the next question, which begins where the state is
        let mut applied = self.inner.shared.applied.subscribe();
        let _ = tokio::time::timeout(WAIT, applied.wait_for(|index| *index >= last)).await;
        // a replica that knew no voters knows them by now
        if let Some((beacon_here, _)) = self.proven(beacon).filter(|_| self.knows_voters()) {
            let heard = Instant::now().checked_sub(age).unwrap_or_else(Instant::now);
            self.believe(beacon.clone(), beacon_here, heard);
        }
        Ok(match news {
            true => Pulled::News,
            false if age > STALE => Pulled::Elsewhere("what it knows is old"),
            false => Pulled::Nothing,
        })
    }

    /// Whether a beacon that comes with no entries is taken.
    #[cfg(test)]
    pub(super) async fn take_beacon_for_test(&self, beacon: &Bytes, age: Duration) -> bool {
        let applied = self.inner.raft().metrics().borrow_watched().last_applied;
        let taken = self.take_pulled(applied, applied.map(Into::into), &[], beacon, age).await;
        !matches!(taken, Ok(Pulled::Elsewhere(_)))
    }

    /// Takes a snapshot from `source`, whose log begins after what is applied here.
    async fn pull_snapshot(&self, source: MemberId) -> Result<Pulled, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let offered = self.ask(source, &Question::PullSnapshot, ANSWER_WAIT).await.map_err(|error| text(&error))?;
        let Answer::Offered { name, progress, files, beacon } = offered else {
            return Ok(Pulled::Elsewhere("it has no snapshot to give"));
        };
        let Some((_, vote)) = self.proven(&beacon) else { return Ok(Pulled::Elsewhere("its beacon proves nothing")) };
        tracing::info!(%source, snapshot = name, "this replica fell behind its sources' logs and takes a snapshot");
        // a snapshot that a leader brings meanwhile waits
        let mut place = self.inner.incoming.lock().await;
        *place = None;
        let begun = Incoming::begin(&self.inner.state, source, WireVote::from(vote), progress, files.clone());
        let mut incoming = begun.map_err(|error| text(&error))?;
        for (file, (_, size)) in files.iter().enumerate() {
            let (file, mut offset) = (file as u32, 0);
            while offset < *size {
                let question = Question::PullPiece { snapshot: name.clone(), file, offset };
                let Answer::Piece(bytes) = self.ask_for_piece(source, &question).await.map_err(|error| text(&error))?
                else {
                    return Err("the answer is no piece of the snapshot".to_owned());
                };
                if bytes.is_empty() {
                    return Err("a piece of the snapshot is empty".to_owned());
                }
                incoming.write(file, offset, &bytes).map_err(|error| text(&error))?;
                offset += bytes.len() as u64;
            }
        }
        let (meta, snapshot) = incoming.finish().map_err(|error| text(&error))?;
        let installed = self.inner.raft().install_full_snapshot(vote, Snapshot { meta, snapshot }).await;
        installed.map_err(|error| text(&error))?;
        Ok(Pulled::News)
    }

    async fn ask_for_piece(&self, source: MemberId, question: &Question) -> Result<Answer, TransportError> {
        let frame = wire::encode_frame(question).into();
        let bytes = self.inner.transport.call(source, RaftClass::Snapshot, frame, PIECE_DEADLINE).await?;
        wire::decode_frame(&bytes)
            .map_err(|error| TransportError::Refused { member: source, message: error.to_string() })
    }
}

impl RegistryHandle {
    /// Answers a follower that has everything up to `after`.
    pub(super) async fn pulled(&self, from: MemberId, after: Option<LogId>, wait: Duration) -> Result<Answer, String> {
        if !self.has_room_for(from) {
            return Ok(Answer::Full);
        }
        let first = after.map_or(0, |id| id.index() + 1);
        let mut applied = self.inner.shared.applied.subscribe();
        let _ = tokio::time::timeout(wait.min(WAIT), applied.wait_for(|index| *index >= first)).await;
        let Some(applied) = self.inner.raft().metrics().borrow_watched().last_applied else { return Ok(Answer::Full) };
        let until = applied.index() + 1;
        let Some((beacon, heard)) = self.newest_beacon() else { return Ok(Answer::Full) };
        let age_ms = heard.elapsed().as_millis() as u64;
        let since = self.inner.again.log().since(first, until, ENTRIES_BYTES_MAX).map_err(|error| error.to_string())?;
        let Some((prev, entries)) = since else { return Ok(Answer::Purged) };
        let entries = entries.into_iter().map(|entry| wire::entry_bytes(entry).into()).collect();
        Ok(Answer::Pulled { prev: prev.map(Into::into), entries, beacon, age_ms })
    }

    /// Whether `from` is one of the few that are served here. A leader serves followers only where nobody else can.
    fn has_room_for(&self, from: MemberId) -> bool {
        let metrics = self.inner.raft().metrics().borrow_watched().clone();
        let seats = metrics.membership_config.membership().nodes().count();
        if metrics.state == ServerState::Leader && seats > 1 {
            return false;
        }
        let mut followers = self.inner.followers.lock().unwrap_or_else(PoisonError::into_inner);
        followers.retain(|_, asked| asked.elapsed() < FOLLOWER_GONE);
        if followers.len() >= FOLLOWERS_MAX && !followers.contains_key(&from) {
            return false;
        }
        followers.insert(from, Instant::now());
        true
    }

    /// What a follower may take instead of entries that are purged here.
    pub(super) async fn offered(&self, from: MemberId) -> Result<Answer, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let Some((beacon, _)) = self.newest_beacon().filter(|_| self.has_room_for(from)) else {
            return Ok(Answer::Full);
        };
        let Some(newest) = self.inner.state.checkpoints().map_err(|error| text(&error))?.pop() else {
            self.inner.raft().trigger().snapshot().await.map_err(|error| text(&error))?;
            return Err("a snapshot is being made: ask again".to_owned());
        };
        let name = newest.path.file_name().and_then(|name| name.to_str()).ok_or("a snapshot without a name")?;
        let progress = super::state_machine::progress(&newest.read().map_err(|error| text(&error))?);
        let (applied, membership) = progress.map_err(|error| text(&error))?;
        let files = newest.files().map_err(|error| text(&error))?;
        Ok(Answer::Offered {
            name: name.to_owned(),
            progress: wire::WireProgress::new(applied, &membership),
            files: files.into_iter().map(|file| (file.name, file.size_bytes)).collect(),
            beacon,
        })
    }

    /// A piece of a snapshot that was offered.
    pub(super) fn piece(&self, snapshot: &str, file: u32, offset: u64) -> Result<Answer, String> {
        let text = |error: std::io::Error| error.to_string();
        let all = self.inner.state.checkpoints().map_err(|error| error.to_string())?;
        let named = |checkpoint: &crate::store::Checkpoint| checkpoint.path.file_name().is_some_and(|n| n == snapshot);
        let checkpoint = all.into_iter().find(named).ok_or("that snapshot is gone: ask for a newer one")?;
        let files = checkpoint.files().map_err(text)?;
        let wanted = files.get(file as usize).ok_or("no such file in the snapshot")?;
        let left = wanted.size_bytes.checked_sub(offset).ok_or("the file ends before that")?;
        let length = PIECE_BYTES.min(usize::try_from(left).unwrap_or(PIECE_BYTES));
        read_piece(&checkpoint.path.join(&wanted.name), offset, length)
            .map(|bytes| Answer::Piece(bytes.into()))
            .map_err(text)
    }
}
