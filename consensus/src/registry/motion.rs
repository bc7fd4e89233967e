//! What members decide together: each signs the same motion, and with as many votes as the policy asks for it takes effect.
//! Format version 1.
//!
//! A motion names the state that it changes (how often a member's standing changed before, the policy's revision), so members
//! who want the same at different places sign the same motion without having heard of each other, and no old vote counts for a
//! later decision. A vote travels as it was signed: by gossip, by repair, and at last inside [`super::Command::Decide`].

use super::keys;
use super::kv::KvRead;
use super::member::{MemberRecord, Standing};
use super::policy::FederationPolicy;
use super::state::{Summary, load};
use crate::codec::{self, CodecError};
use crate::envelope::{Envelope, Federation, OpenError, StatementKind};
use crate::time::Timestamp;
use cpi::ids::{ContentDigest, MemberId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

const VERSION: u8 = 1;
/// Characters of a reason.
pub const REASON_CHARS_MAX: usize = 400;
/// Votes of one decision.
pub const VOTES_MAX: usize = 64;
/// The largest vote, in bytes: a motion and a reason.
pub const VOTE_BYTES_MAX: usize = 2 << 10;
/// How long a vote counts, in ms of registry time.
pub const VOTE_LIFETIME_MS: u64 = 7 * 24 * 3_600 * 1_000;

/// What is to change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Motion {
    /// Suspends, resumes or expels a member.
    Standing {
        /// Who.
        member: MemberId,
        /// How often its standing changed before ([`MemberRecord::standing_changes`]).
        changes: u64,
        /// The new standing.
        standing: Standing,
    },
    /// Sets the federation's policy.
    Policy {
        /// The revision that is replaced; 0 at first.
        expected_revision: u64,
        /// The new policy.
        policy: FederationPolicy,
    },
}

impl Motion {
    /// What names it: SHA-256 of its bytes.
    pub fn digest(&self) -> [u8; 32] {
        ContentDigest::of(&codec::encode(VERSION, self).expect("plain fields")).0
    }

    /// Whom it is about.
    pub fn about(&self) -> Option<MemberId> {
        if let Self::Standing { member, .. } = self { Some(*member) } else { None }
    }
}

/// One member's voice for a motion: the body of a [`StatementKind::Vote`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vote {
    /// What it is for.
    pub motion: Motion,
    /// Why, for the record; at most [`REASON_CHARS_MAX`] characters.
    pub reason: String,
    /// From then on, in registry time, it does not count.
    pub until: Timestamp,
}

impl Vote {
    /// The bytes that are signed.
    pub fn to_bytes(&self) -> Vec<u8> {
        codec::encode(VERSION, self).expect("a vote has only plain fields")
    }
}

/// A vote whose signature holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedVote {
    /// The signing key.
    pub key: [u8; 32],
    /// What was signed.
    pub vote: Vote,
    /// SHA-256 of the envelope as sent.
    pub digest: [u8; 32],
    /// The envelope as sent.
    pub envelope: Vec<u8>,
}

/// Why bytes are no vote.
#[derive(Debug, thiserror::Error)]
pub enum VoteError {
    /// The envelope does not hold.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The body is no vote.
    #[error("the signed body is not a vote on a motion")]
    Body(#[source] CodecError),
    /// The reason is too long.
    #[error("reason: expected at most {REASON_CHARS_MAX} characters")]
    Reason,
}

impl SignedVote {
    /// Reads and verifies an envelope.
    ///
    /// # Errors
    /// [`VoteError`].
    pub fn open(envelope: Vec<u8>, federation: &Federation) -> Result<Self, VoteError> {
        let opened = Envelope::open(&envelope, StatementKind::Vote, federation)?;
        let vote: Vote = codec::decode(VERSION, &opened.body, VOTE_BYTES_MAX).map_err(VoteError::Body)?;
        if vote.reason.chars().count() > REASON_CHARS_MAX {
            return Err(VoteError::Reason);
        }
        Ok(Self { key: opened.key, vote, digest: ContentDigest::of(&envelope).0, envelope })
    }
}

/// How many members are for a motion, and how many must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tally {
    /// Active members whose votes count.
    pub by: BTreeSet<MemberId>,
    /// So many are needed.
    pub need: u32,
}

impl Tally {
    /// How many votes count.
    pub fn have(&self) -> u32 {
        u32::try_from(self.by.len()).unwrap_or(u32::MAX)
    }

    /// Whether that is enough.
    pub fn is_enough(&self) -> bool {
        self.have() >= self.need
    }

    /// How many are missing.
    pub fn missing(&self) -> u32 {
        self.need.saturating_sub(self.have())
    }
}

/// The member that signs with `key` at registry time, if it is active.
pub(super) fn active_signer(kv: &dyn KvRead, summary: &Summary, key: &[u8; 32]) -> Option<MemberRecord> {
    load::<MemberId>(kv, &keys::join(keys::SIGNERS, &[key]))
        .and_then(|member| load::<MemberRecord>(kv, &keys::member(member)))
        .filter(|record| record.standing == Standing::Active && record.signs_with(key, summary.time))
}

/// Counts the active members among `voters` that decide a motion about `about`: as many must agree as the policy says, though no
/// more than there are. A member has no say about its own standing, except that it may always go.
pub(super) fn tally<'a>(
    kv: &dyn KvRead,
    summary: &Summary,
    motion: &Motion,
    voters: impl Iterator<Item = &'a [u8; 32]>,
) -> Tally {
    let policy: FederationPolicy = load(kv, keys::POLICY).unwrap_or_default();
    let mut by: BTreeSet<MemberId> =
        voters.filter_map(|key| active_signer(kv, summary, key)).map(|record| record.member).collect();
    let mut electors = summary.active_members;
    if let Motion::Standing { member, standing, .. } = motion {
        if by.contains(member) && *standing != Standing::Active {
            return Tally { by: BTreeSet::from([*member]), need: 1 };
        }
        by.remove(member);
        let about: Option<MemberRecord> = load(kv, &keys::member(*member));
        electors -= u64::from(about.is_some_and(|record| record.standing == Standing::Active));
    }
    let need = u64::from(policy.admission_approvals).min(electors).max(1);
    Tally { by, need: u32::try_from(need).unwrap_or(u32::MAX) }
}
