//! What a command came to. Stored for repeats, so released shapes are frozen.

use crate::time::Timestamp;
use cpi::ids::{MemberId, StableKey};
use serde::{Deserialize, Serialize};

/// Why a command (or one identifier of it) was refused. Nothing was changed by it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// Nobody signs with this key.
    #[error("the signing key belongs to no member of the federation")]
    UnknownSigner,
    /// The signer is suspended or expelled.
    #[error("member {member} is not active, so it may not change the registry")]
    SignerNotActive {
        /// Who.
        member: MemberId,
    },
    /// The sequence lies before the window of remembered ones.
    #[error("sequence {sequence} is older than the {window} remembered ones: sign the command again")]
    SequenceTooOld {
        /// The sequence.
        sequence: u64,
        /// How many are remembered.
        window: u64,
    },
    /// The same key signed two different commands with one sequence.
    #[error("sequence {sequence} was used for another command already: the key signs at two places")]
    Equivocation {
        /// The sequence.
        sequence: u64,
    },
    /// A field does not hold.
    #[error("field {field}: expected {expected}")]
    Invalid {
        /// Which.
        field: String,
        /// What would hold.
        expected: String,
    },
    /// The enterprise is not in the issuer's admission.
    #[error("enterprise {enterprise} is not among those that member {member} was admitted with")]
    ForeignEnterprise {
        /// The code in the identifier.
        enterprise: String,
        /// The issuer.
        member: MemberId,
    },
    /// The identifier is somebody else's.
    #[error("{key} was registered by member {owner} at {since:?}; only the owner changes it")]
    OwnedByOther {
        /// Which identifier.
        key: StableKey,
        /// Whose.
        owner: MemberId,
        /// Since when.
        since: Timestamp,
    },
    /// The object is at another revision.
    #[error("revision {expected} was expected, but it is at revision {found}")]
    RevisionMismatch {
        /// What the command says.
        expected: u64,
        /// What is.
        found: u64,
    },
    /// There is no such object.
    #[error("there is no {what}")]
    NotFound {
        /// What was named.
        what: String,
    },
    /// The identifier is retired.
    #[error("{key} is retired; register another one")]
    Retired {
        /// Which.
        key: StableKey,
    },
    /// The new text has another key.
    #[error("the new text has key {found}, so it is another identifier than {expected}: register it instead")]
    OtherIdentity {
        /// The key that was to be revised.
        expected: StableKey,
        /// The key of the text.
        found: StableKey,
    },
    /// The invitation was used.
    #[error("the invitation was used already")]
    InvitationUsed,
    /// The name, key or place is taken.
    #[error("{what} is taken by member {member}")]
    Taken {
        /// What.
        what: String,
        /// By whom.
        member: MemberId,
    },
    /// More approvals are needed.
    #[error("{have} of {need} approvals")]
    NeedsApprovals {
        /// How many hold.
        have: u32,
        /// How many are needed.
        need: u32,
    },
    /// The last active member cannot be put out.
    #[error("the last active member cannot be suspended or expelled")]
    LastMember,
}

impl Refusal {
    /// A short name for metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::UnknownSigner => "unknown_signer",
            Self::SignerNotActive { .. } => "not_active",
            Self::SequenceTooOld { .. } => "sequence_too_old",
            Self::Equivocation { .. } => "equivocation",
            Self::Invalid { .. } => "invalid",
            Self::ForeignEnterprise { .. } => "foreign_enterprise",
            Self::OwnedByOther { .. } => "foreign_identifier",
            Self::RevisionMismatch { .. } => "stale",
            Self::NotFound { .. } => "not_found",
            Self::Retired { .. } => "retired",
            Self::OtherIdentity { .. } => "other_identity",
            Self::InvitationUsed => "invitation_used",
            Self::Taken { .. } => "taken",
            Self::NeedsApprovals { .. } => "needs_approvals",
            Self::LastMember => "last_member",
        }
    }
}

/// What came of one identifier of a registration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ItemOutcome {
    /// It is registered.
    Registered {
        /// Its key.
        key: StableKey,
        /// Its revision.
        revision: u64,
    },
    /// The very same text was registered by this member before; nothing changed.
    Unchanged {
        /// Its key.
        key: StableKey,
        /// Its revision.
        revision: u64,
    },
    /// It is not.
    Refused(Refusal),
}

impl ItemOutcome {
    /// The refusal, if it is one.
    pub fn refusal(&self) -> Option<&Refusal> {
        if let Self::Refused(refusal) = self { Some(refusal) } else { None }
    }
}

/// What one change of a batch came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChangeOutcome {
    /// Each identifier of a registration, in the order given.
    Registered(Vec<ItemOutcome>),
    /// An identifier changed.
    Changed {
        /// Which.
        key: StableKey,
        /// Its new revision.
        revision: u64,
    },
    /// Nothing changed.
    Refused(Refusal),
}

impl ChangeOutcome {
    /// All refusals: of the whole, or of single identifiers.
    pub fn refusals(&self) -> impl Iterator<Item = &Refusal> {
        let (whole, items): (Option<&Refusal>, &[ItemOutcome]) = match self {
            Self::Registered(items) => (None, items),
            Self::Refused(refusal) => (Some(refusal), &[]),
            Self::Changed { .. } => (None, &[]),
        };
        whole.into_iter().chain(items.iter().filter_map(ItemOutcome::refusal))
    }
}

impl From<ChangeOutcome> for Response {
    fn from(outcome: ChangeOutcome) -> Self {
        match outcome {
            ChangeOutcome::Registered(items) => Self::Registered(items),
            ChangeOutcome::Changed { key, revision } => Self::IdentifierChanged { key, revision },
            ChangeOutcome::Refused(refusal) => Self::Refused(refusal),
        }
    }
}

/// What a command came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// The federation exists.
    Founded,
    /// A member was taken in.
    Admitted {
        /// Its id.
        member: MemberId,
        /// Its id in Raft.
        raft_id: u64,
    },
    /// A member's record changed.
    MemberChanged {
        /// Who.
        member: MemberId,
        /// Its new revision.
        revision: u64,
        /// Its id in Raft.
        raft_id: u64,
    },
    /// Each identifier of a registration, in the order given.
    Registered(Vec<ItemOutcome>),
    /// An identifier changed.
    IdentifierChanged {
        /// Which.
        key: StableKey,
        /// Its new revision.
        revision: u64,
    },
    /// A piece of a release is here.
    ChunkStored,
    /// A release is in force.
    ReleaseActive {
        /// Its number.
        release: u32,
    },
    /// The policy holds.
    PolicySet {
        /// Its revision.
        revision: u64,
    },
    /// The ring version is in force.
    RingVersion {
        /// Which.
        version: u32,
    },
    /// Nothing changed.
    Refused(Refusal),
    /// Each change of a batch, in the order given.
    Batch(Vec<ChangeOutcome>),
}

impl Response {
    /// The refusal, if it is one.
    pub fn refusal(&self) -> Option<&Refusal> {
        if let Self::Refused(refusal) = self { Some(refusal) } else { None }
    }

    /// All refusals: of the whole, or of single identifiers.
    pub fn refusals(&self) -> impl Iterator<Item = &Refusal> {
        let (items, changes): (&[ItemOutcome], &[ChangeOutcome]) = match self {
            Self::Registered(items) => (items, &[]),
            Self::Batch(changes) => (&[], changes),
            _ => (&[], &[]),
        };
        let of_changes = changes.iter().flat_map(ChangeOutcome::refusals);
        self.refusal().into_iter().chain(items.iter().filter_map(ItemOutcome::refusal)).chain(of_changes)
    }
}
