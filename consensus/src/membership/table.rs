//! The table of votes: by motion and member, bounded per member and in all.

use crate::codec::CodecError;
use crate::envelope::OpenError;
use crate::registry::motion::{VOTE_LIFETIME_MS, VoteError};
use crate::registry::{Motion, RegistryReader, SignedVote, Standing, Tally};
use crate::time::{Monotonic, Now, Timestamp};
use cpi::ids::MemberId;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Votes of one member that are kept.
const VOTES_OF_ONE_MAX: usize = 64;
/// Votes in all.
pub(super) const VOTES_ALL_MAX: usize = 4_096;
/// A decided motion is proposed so long after it was decided, in ms, where nobody else had it committed; doubled with each
/// attempt up to [`PROPOSE_AFTER_MS_MAX`].
const PROPOSE_AFTER_MS: u64 = 2_000;
/// Longest pause between two attempts, in ms.
const PROPOSE_AFTER_MS_MAX: u64 = 60_000;

/// A vote among members: the first 16 bytes of its envelope's digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct VoteId(pub [u8; 16]);

impl VoteId {
    /// The id of a vote with this digest.
    pub fn of(digest: &[u8; 32]) -> Self {
        Self(digest[..16].try_into().expect("16 of 32 bytes"))
    }
}

/// Why a vote is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VoteRefused {
    /// The bytes are no signed vote.
    #[error("the bytes are not a signed vote on a motion")]
    Malformed,
    /// A later format than this release knows.
    #[error("the vote is of a format that this release does not know")]
    Format,
    /// The signature does not hold.
    #[error("the signature does not hold")]
    Signature,
    /// It belongs to another federation or epoch.
    #[error("the vote belongs to another federation or epoch")]
    Federation,
    /// It is signed by another member than the one that spread it.
    #[error("the vote of member {signer} came as one of member {author}")]
    Author {
        /// Who signed.
        signer: MemberId,
        /// Who published it as its own.
        author: MemberId,
    },
    /// Nobody active is known here by the signing key.
    #[error("the signing key belongs to no active member that is known here")]
    UnknownSigner,
    /// The registry went past what it is about.
    #[error("what the vote is about was decided already")]
    Settled,
    /// It counts no more, or for longer than votes do.
    #[error("the vote is out of date")]
    Expired,
    /// The member's share of the table, or the table, is full.
    #[error("too many votes wait")]
    Full,
}

impl VoteRefused {
    /// Whether it is wrong whatever the state: who passes such a vote on has not looked at it.
    pub fn is_wrong_by_itself(&self) -> bool {
        matches!(self, Self::Malformed | Self::Signature | Self::Author { .. })
    }

    /// A short name for metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Format => "format",
            Self::Signature => "signature",
            Self::Federation => "federation",
            Self::Author { .. } => "author",
            Self::UnknownSigner => "unknown_signer",
            Self::Settled => "replayed",
            Self::Expired => "expired",
            Self::Full => "full",
        }
    }
}

impl From<&VoteError> for VoteRefused {
    fn from(error: &VoteError) -> Self {
        match error {
            VoteError::Open(OpenError::Codec(CodecError::Version { .. }))
            | VoteError::Body(CodecError::Version { .. }) => Self::Format,
            VoteError::Open(OpenError::Signature | OpenError::Key) => Self::Signature,
            VoteError::Open(OpenError::Federation) => Self::Federation,
            _ => Self::Malformed,
        }
    }
}

/// Whether a vote was news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VoteTaken {
    /// It was.
    New,
    /// It is here, or a later one of the same member.
    Known,
}

/// A vote as the driver keeps it on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptVote {
    /// When it came, by the wall clock here.
    pub since: Timestamp,
    /// The envelope as signed.
    pub envelope: Vec<u8>,
}

/// What the driver is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VoteAction {
    /// Write a vote to disk.
    Keep {
        /// Under this id.
        id: VoteId,
        /// This.
        kept: KeptVote,
    },
    /// Remove it from the disk.
    Drop {
        /// Which.
        id: VoteId,
    },
    /// Propose a decided motion, and tell [`VoteTable::returned`] when that ended.
    Propose {
        /// Which: [`Motion::digest`].
        motion: [u8; 32],
        /// Its votes.
        votes: Vec<Vec<u8>>,
    },
}

/// A motion as far as this member heard of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MotionView {
    /// What is to change.
    pub motion: Motion,
    /// The first reason that was given; may be empty.
    pub reason: String,
    /// Since when it is known here, by the wall clock here.
    pub since: Timestamp,
    /// Who is for it, and how many must be.
    pub tally: Tally,
}

struct Held {
    vote: SignedVote,
    since: Timestamp,
}

#[derive(Default)]
struct Proposing {
    due: Option<Monotonic>,
    attempts: u32,
    in_flight: bool,
}

/// Votes of all members. Holds no clock, disk or socket.
///
/// Offer what comes in, settle after the registry applied something, call `handle_timeout` now and then, and drain
/// `poll_action` after each.
#[derive(Default)]
pub struct VoteTable {
    /// By motion and member.
    held: BTreeMap<([u8; 32], MemberId), Held>,
    ids: BTreeMap<VoteId, ([u8; 32], MemberId)>,
    proposing: BTreeMap<[u8; 32], Proposing>,
    actions: VecDeque<VoteAction>,
}

/// Whether the registry went past the motion.
fn is_over(motion: &Motion, registry: &RegistryReader) -> bool {
    match motion {
        Motion::Standing { member, changes, .. } => registry
            .member(*member)
            .is_some_and(|record| record.standing_changes > *changes || record.standing == Standing::Expelled),
        Motion::Policy { expected_revision, .. } => {
            registry.summary().is_some_and(|summary| summary.policy_revision > *expected_revision)
        }
    }
}

/// Whether the registry is where the motion begins; a replica that lags may not be there yet.
fn is_current(motion: &Motion, registry: &RegistryReader) -> bool {
    match motion {
        Motion::Standing { member, changes, .. } => {
            registry.member(*member).is_some_and(|record| record.standing_changes == *changes)
        }
        Motion::Policy { expected_revision, .. } => {
            registry.summary().is_some_and(|summary| summary.policy_revision == *expected_revision)
        }
    }
}

impl VoteTable {
    /// Takes a verified vote in, if it can still come to something. `since` is when it first came here, by the wall clock
    /// here: what came in its time counts until the registry has it.
    ///
    /// # Errors
    /// [`VoteRefused`] says why it is not taken, and whether it is wrong by itself.
    pub fn offer(
        &mut self,
        now: Now,
        vote: SignedVote,
        since: Timestamp,
        registry: &RegistryReader,
    ) -> Result<VoteTaken, VoteRefused> {
        let signer = registry.member_of_key(&vote.key).ok_or(VoteRefused::UnknownSigner)?;
        if signer.standing != Standing::Active {
            return Err(VoteRefused::UnknownSigner);
        }
        if is_over(&vote.vote.motion, registry) {
            return Err(VoteRefused::Settled);
        }
        let until = vote.vote.until;
        // the clocks of two members may differ by a day
        if until <= since || until.0 > now.wall.0.saturating_add(VOTE_LIFETIME_MS + 24 * 3_600 * 1_000) {
            return Err(VoteRefused::Expired);
        }
        let motion = vote.vote.motion.digest();
        let place = (motion, signer.member);
        match self.held.get(&place) {
            Some(known) if known.vote.vote.until >= until => return Ok(VoteTaken::Known),
            Some(_) => self.remove(place),
            None => {
                let own = self.held.keys().filter(|(_, member)| *member == signer.member).count();
                if own >= VOTES_OF_ONE_MAX || self.held.len() >= VOTES_ALL_MAX {
                    return Err(VoteRefused::Full);
                }
            }
        }
        let id = VoteId::of(&vote.digest);
        self.actions.push_back(VoteAction::Keep { id, kept: KeptVote { since, envelope: vote.envelope.clone() } });
        self.ids.insert(id, place);
        self.held.insert(place, Held { vote, since });
        Ok(VoteTaken::New)
    }

    /// Takes in what the disk kept. What cannot come to anything any more is dropped.
    pub fn restore(&mut self, now: Now, vote: SignedVote, since: Timestamp, registry: &RegistryReader) {
        let id = VoteId::of(&vote.digest);
        if self.offer(now, vote, since, registry) == Ok(VoteTaken::New) {
            // it is on disk
            self.actions.pop_back();
        } else {
            self.actions.push_back(VoteAction::Drop { id });
        }
    }

    fn remove(&mut self, place: ([u8; 32], MemberId)) {
        let Some(held) = self.held.remove(&place) else { return };
        let id = VoteId::of(&held.vote.digest);
        self.ids.remove(&id);
        self.actions.push_back(VoteAction::Drop { id });
    }

    fn of_motion(&self, motion: &[u8; 32]) -> impl Iterator<Item = &Held> {
        self.held.range((*motion, MemberId(0))..=(*motion, MemberId(u64::MAX))).map(|(_, held)| held)
    }

    fn motions(&self) -> BTreeSet<[u8; 32]> {
        self.held.keys().map(|(motion, _)| *motion).collect()
    }

    fn tally(&self, motion: &[u8; 32], registry: &RegistryReader) -> Option<(&Motion, Tally)> {
        let content = &self.of_motion(motion).next()?.vote.vote.motion;
        let tally = registry.tally(content, self.of_motion(motion).map(|held| &held.vote.key))?;
        Some((content, tally))
    }

    /// Drops what the registry went past, what is out of date, and votes of members that are active no more.
    pub fn settle(&mut self, now: Now, registry: &RegistryReader) {
        let mut over = Vec::new();
        for motion in self.motions() {
            let decided = self.tally(&motion, registry).is_some_and(|(_, tally)| tally.is_enough());
            for held in self.of_motion(&motion) {
                let signer = registry.member_of_key(&held.vote.key).filter(|by| by.standing == Standing::Active);
                let late = held.vote.vote.until <= now.wall && !decided;
                if late || signer.is_none() || is_over(&held.vote.vote.motion, registry) {
                    over.push(VoteId::of(&held.vote.digest));
                }
            }
        }
        for id in over {
            if let Some(place) = self.ids.get(&id).copied() {
                self.remove(place);
            }
        }
        let left = self.motions();
        self.proposing.retain(|motion, _| left.contains(motion));
    }

    /// All motions that are open here.
    pub fn views(&self, registry: &RegistryReader) -> Vec<MotionView> {
        let view = |motion: [u8; 32]| {
            let (content, tally) = self.tally(&motion, registry)?;
            let mut votes: Vec<&Held> = self.of_motion(&motion).collect();
            votes.sort_by_key(|held| held.since);
            let reason = votes.iter().map(|held| held.vote.vote.reason.clone()).find(|reason| !reason.is_empty());
            let since = votes.first()?.since;
            Some(MotionView { motion: content.clone(), reason: reason.unwrap_or_default(), since, tally })
        };
        self.motions().into_iter().filter_map(view).collect()
    }

    /// Members that are suspended or expelled by enough votes, whether or not the registry has it yet. Nobody is resumed.
    pub fn in_force(&self, registry: &RegistryReader) -> BTreeMap<MemberId, Standing> {
        let mut standings = BTreeMap::new();
        for motion in self.motions() {
            let Some((content, tally)) = self.tally(&motion, registry) else { continue };
            if let Motion::Standing { member, standing, .. } = content
                && *standing != Standing::Active
                && tally.is_enough()
                && is_current(content, registry)
            {
                let known = standings.entry(*member).or_insert(*standing);
                *known = (*known).max(*standing);
            }
        }
        standings
    }

    /// The votes of a motion that has enough of them.
    pub fn decided(&self, motion: &[u8; 32], registry: &RegistryReader) -> Option<Vec<Vec<u8>>> {
        let (content, tally) = self.tally(motion, registry)?;
        let votes = || self.of_motion(motion).take(crate::registry::motion::VOTES_MAX);
        (tally.is_enough() && is_current(content, registry))
            .then(|| votes().map(|held| held.vote.envelope.clone()).collect())
    }

    /// Proposes what is decided and due, where this node `leads`. Who gathered the last vote proposes at once, so this is for
    /// those who could not.
    pub fn handle_timeout(&mut self, now: Now, leads: bool, registry: &RegistryReader) {
        for motion in self.motions() {
            let Some(votes) = self.decided(&motion, registry) else { continue };
            let proposing = self.proposing.entry(motion).or_default();
            let due = *proposing.due.get_or_insert(now.mono.plus_ms(PROPOSE_AFTER_MS));
            if leads && !proposing.in_flight && due <= now.mono {
                proposing.in_flight = true;
                self.actions.push_back(VoteAction::Propose { motion, votes });
            }
        }
    }

    /// A proposal ended. If it has an outcome, [`VoteTable::settle`] finds it; if not, it is due again later.
    pub fn returned(&mut self, now: Now, motion: &[u8; 32]) {
        if let Some(proposing) = self.proposing.get_mut(motion) {
            proposing.attempts += 1;
            proposing.in_flight = false;
            let pause = PROPOSE_AFTER_MS.saturating_mul(1 << proposing.attempts.min(16)).min(PROPOSE_AFTER_MS_MAX);
            proposing.due = Some(now.mono.plus_ms(pause));
        }
    }

    /// The next thing to do.
    #[must_use]
    pub fn poll_action(&mut self) -> Option<VoteAction> {
        self.actions.pop_front()
    }

    /// How many votes wait.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether none does.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Ids in order.
    pub fn ids(&self) -> impl Iterator<Item = VoteId> {
        self.ids.keys().copied()
    }

    /// Whether a vote is here.
    pub fn has(&self, id: &VoteId) -> bool {
        self.ids.contains_key(id)
    }

    /// The bytes of a vote.
    pub(super) fn envelope(&self, id: &VoteId) -> Option<&[u8]> {
        Some(&self.held.get(self.ids.get(id)?)?.vote.envelope)
    }
}
