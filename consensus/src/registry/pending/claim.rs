//! What a statement claims of identifiers, and whether the claim can hold: by itself, and by the state of the registry.

use crate::envelope::OpenError;
use crate::registry::command::{REGISTRATIONS_MAX, StatementError};
use crate::registry::read::Settled;
use crate::registry::{
    ChangeOutcome, Command, IdentifierChange, IdentifierState, ItemOutcome, Refusal, RegistryReader, Response,
    Standing, Statement,
};
use cpi::identifier::Cpi;
use cpi::ids::{MemberId, StableKey};

/// What is to happen to an identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is new.
    Register,
    /// It gets another text.
    Revise,
    /// It ends.
    Retire,
}

impl Change {
    /// The word for people and interfaces.
    pub fn name(self) -> &'static str {
        match self {
            Self::Register => "register",
            Self::Revise => "revise",
            Self::Retire => "retire",
        }
    }
}

/// One identifier of a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Its stable key.
    pub key: StableKey,
    /// What is to happen.
    pub change: Change,
    /// The new text; `None` where it ends.
    pub text: Option<String>,
    /// The revision that is replaced, 0 for a new one.
    pub expected_revision: u64,
}

/// Why a statement is not taken among the pending ones.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClaimRefused {
    /// The bytes are no signed statement, or its body is no command.
    #[error("the bytes are not a signed registry command")]
    Malformed,
    /// A later format than this release knows.
    #[error("the statement is of a format that this release does not know")]
    Format,
    /// The signature does not hold.
    #[error("the signature does not hold")]
    Signature,
    /// It belongs to another federation.
    #[error("the statement belongs to another federation")]
    Federation,
    /// It belongs to another epoch of this federation.
    #[error("the statement belongs to another epoch of this federation")]
    Epoch,
    /// Commands about members, policy or dictionary are never pending.
    #[error("only registrations, revisions and retirements are pending, nothing else")]
    Kind,
    /// A text does not hold, whatever the state.
    #[error("identifier {at}: expected {expected}")]
    Text {
        /// Its place in the statement.
        at: usize,
        /// What would hold.
        expected: String,
    },
    /// It is signed by another member than the one that spread it.
    #[error("the statement of member {signer} came as one of member {author}")]
    Author {
        /// Who signed.
        signer: MemberId,
        /// Who published it as its own.
        author: MemberId,
    },
    /// Nobody is known here by the signing key.
    #[error("the signing key belongs to no member that is known here")]
    UnknownSigner,
    /// The signer is suspended or expelled.
    #[error("member {member} is not active")]
    NotActive {
        /// Who.
        member: MemberId,
    },
    /// The registry has an outcome for it already.
    #[error("the registry has an outcome for it already")]
    Settled,
    /// The key signed another statement with this sequence.
    #[error("sequence {sequence} was used for another statement: the key signs at two places")]
    Equivocation {
        /// The sequence.
        sequence: u64,
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
    #[error("{key} belongs to member {owner}")]
    ForeignIdentifier {
        /// Which.
        key: StableKey,
        /// Whose.
        owner: MemberId,
    },
    /// The identifier went on without it, or ended.
    #[error("{key} is at revision {found} already, or retired")]
    Stale {
        /// Which.
        key: StableKey,
        /// Where it is.
        found: u64,
    },
    /// It is older than pending statements live.
    #[error("the statement is older than pending ones are kept")]
    Expired,
    /// The author's share of the table, or the table, is full.
    #[error("too much is pending{}", if *of_author { " of this author" } else { "" })]
    Full {
        /// Whether it is the author's share.
        of_author: bool,
    },
}

impl ClaimRefused {
    /// Whether it is wrong whatever the state: who passes such a statement on has not looked at it.
    pub fn is_wrong_by_itself(&self) -> bool {
        matches!(
            self,
            Self::Malformed | Self::Signature | Self::Federation | Self::Kind | Self::Text { .. } | Self::Author { .. }
        )
    }

    /// Whether the same statement may stand later: the state that speaks against it can change back.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::UnknownSigner | Self::NotActive { .. } | Self::ForeignEnterprise { .. })
    }

    /// A short name for metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Format => "format",
            Self::Signature => "signature",
            Self::Federation => "federation",
            Self::Epoch => "epoch",
            Self::Kind => "kind",
            Self::Text { .. } => "text",
            Self::Author { .. } => "author",
            Self::UnknownSigner => "unknown_signer",
            Self::NotActive { .. } => "not_active",
            Self::Settled => "replayed",
            Self::Equivocation { .. } => "equivocation",
            Self::ForeignEnterprise { .. } => "foreign_enterprise",
            Self::ForeignIdentifier { .. } => "foreign_identifier",
            Self::Stale { .. } => "stale",
            Self::Expired => "expired",
            Self::Full { .. } => "full",
        }
    }
}

impl From<&StatementError> for ClaimRefused {
    fn from(error: &StatementError) -> Self {
        use crate::codec::CodecError;
        match error {
            StatementError::Open(OpenError::Codec(CodecError::Version { .. }))
            | StatementError::Command(CodecError::Version { .. })
            | StatementError::Entry(CodecError::Version { .. }) => Self::Format,
            StatementError::Open(OpenError::Signature | OpenError::Key) => Self::Signature,
            StatementError::Open(OpenError::Federation) => Self::Federation,
            StatementError::Open(OpenError::Kind { .. }) => Self::Kind,
            _ => Self::Malformed,
        }
    }
}

/// What a statement claims, checked as far as it can be without the state.
///
/// # Errors
/// [`ClaimRefused::Kind`], `Text`.
pub fn claims_of(statement: &Statement) -> Result<Vec<Claim>, ClaimRefused> {
    match &statement.command {
        Command::Batch(changes) => {
            let items: usize = changes.iter().map(IdentifierChange::items).sum();
            if changes.is_empty() || changes.len() > REGISTRATIONS_MAX || items > REGISTRATIONS_MAX {
                let expected = format!("1 to {REGISTRATIONS_MAX} identifiers in one statement");
                return Err(ClaimRefused::Text { at: 0, expected });
            }
            let mut claims = Vec::with_capacity(items);
            for change in changes {
                claims.extend(claims_of_command(&change.clone().into())?);
            }
            Ok(claims)
        }
        single => claims_of_command(single),
    }
}

/// Claims of a statement that its outcome refuses, each with why.
pub fn refused_claims(statement: &Statement, response: &Response) -> Vec<(Claim, Refusal)> {
    let Ok(claims) = claims_of(statement) else { return Vec::new() };
    let of_items = |items: &[ItemOutcome]| items.iter().map(|item| item.refusal().cloned()).collect::<Vec<_>>();
    let refusals: Vec<Option<Refusal>> = match response {
        Response::Refused(refusal) => vec![Some(refusal.clone()); claims.len()],
        Response::Registered(items) => of_items(items),
        Response::Batch(outcomes) => {
            let Command::Batch(changes) = &statement.command else { return Vec::new() };
            let of_change = |(outcome, change): (&ChangeOutcome, &IdentifierChange)| match outcome {
                ChangeOutcome::Registered(items) => of_items(items),
                ChangeOutcome::Changed { .. } => vec![None],
                ChangeOutcome::Refused(refusal) => vec![Some(refusal.clone()); change.items()],
            };
            outcomes.iter().zip(changes).flat_map(of_change).collect()
        }
        _ => Vec::new(),
    };
    claims.into_iter().zip(refusals).filter_map(|(claim, refusal)| Some((claim, refusal?))).collect()
}

fn claims_of_command(command: &Command) -> Result<Vec<Claim>, ClaimRefused> {
    match command {
        Command::Register { items, .. } => {
            if items.is_empty() || items.len() > REGISTRATIONS_MAX {
                let expected = format!("1 to {REGISTRATIONS_MAX} identifiers in one statement");
                return Err(ClaimRefused::Text { at: 0, expected });
            }
            let claim = |(at, text): (usize, &String)| {
                let key = canonical(at, text)?.stable_key();
                Ok(Claim { key, change: Change::Register, text: Some(text.clone()), expected_revision: 0 })
            };
            items.iter().map(|item| &item.text).enumerate().map(claim).collect()
        }
        Command::Revise { key, expected_revision, text, .. } => {
            let found = canonical(0, text)?.stable_key();
            if found != *key {
                return Err(ClaimRefused::Text { at: 0, expected: format!("a text with key {key}, not {found}") });
            }
            let (text, expected_revision) = (Some(text.clone()), *expected_revision);
            Ok(vec![Claim { key: *key, change: Change::Revise, text, expected_revision }])
        }
        Command::Retire { key, expected_revision, .. } => {
            let expected_revision = *expected_revision;
            Ok(vec![Claim { key: *key, change: Change::Retire, text: None, expected_revision }])
        }
        _ => Err(ClaimRefused::Kind),
    }
}

fn canonical(at: usize, text: &str) -> Result<Cpi, ClaimRefused> {
    let cpi = Cpi::parse(text).map_err(|error| ClaimRefused::Text { at, expected: error.to_string() })?;
    if cpi.as_str() == text {
        return Ok(cpi);
    }
    Err(ClaimRefused::Text { at, expected: format!("the canonical form {}", cpi.as_str()) })
}

/// Who signed what, without the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Signed {
    /// The signing key.
    pub key: [u8; 32],
    /// Its sequence.
    pub sequence: u64,
    /// SHA-256 of the envelope.
    pub digest: [u8; 32],
}

impl From<&Statement> for Signed {
    fn from(statement: &Statement) -> Self {
        Self { key: statement.key, sequence: statement.sequence, digest: statement.digest }
    }
}

/// Whose statement it is, and that the registry could still commit something of it.
///
/// # Errors
/// What the state says against it: all of it depends on a replica that may lag.
pub(super) fn judge(signed: &Signed, claims: &[Claim], registry: &RegistryReader) -> Result<MemberId, ClaimRefused> {
    let signer = registry.member_of_key(&signed.key).ok_or(ClaimRefused::UnknownSigner)?;
    if signer.standing != Standing::Active {
        return Err(ClaimRefused::NotActive { member: signer.member });
    }
    match registry.settled(&signed.key, signed.sequence) {
        Settled::No => {}
        Settled::Outcome { digest, .. } if digest != signed.digest => {
            return Err(ClaimRefused::Equivocation { sequence: signed.sequence });
        }
        Settled::Outcome { .. } | Settled::Forgotten => return Err(ClaimRefused::Settled),
    }
    // Each identifier of a batch stands for itself: one that can hold is enough.
    let mut refused = None;
    for claim in claims {
        match stands(claim, signer.member, &signer.enterprises, registry) {
            Ok(()) => return Ok(signer.member),
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    Err(refused.unwrap_or(ClaimRefused::Kind))
}

fn stands(
    claim: &Claim,
    issuer: MemberId,
    enterprises: &[String],
    registry: &RegistryReader,
) -> Result<(), ClaimRefused> {
    if let Some(text) = &claim.text {
        let cpi = canonical(0, text)?;
        if !enterprises.iter().any(|code| code == cpi.enterprise()) {
            let enterprise = cpi.enterprise().to_owned();
            return Err(ClaimRefused::ForeignEnterprise { enterprise, member: issuer });
        }
    }
    // What is revised or retired may be pending itself: an identifier that is not there yet speaks against nothing.
    let Some(present) = registry.identifier(&claim.key) else { return Ok(()) };
    if present.owner != issuer {
        return Err(ClaimRefused::ForeignIdentifier { key: claim.key, owner: present.owner });
    }
    let retired = present.state != IdentifierState::Registered;
    let same = claim.change == Change::Register && claim.text.as_deref() == Some(present.text.as_str());
    if retired || (present.revision > claim.expected_revision && !same) {
        return Err(ClaimRefused::Stale { key: claim.key, found: present.revision });
    }
    Ok(())
}

/// Whether the registry would apply it now: what a revision or retirement replaces must be there.
pub(super) fn is_ready(claims: &[Claim], registry: &RegistryReader) -> bool {
    claims.iter().any(|claim| match claim.change {
        Change::Register => true,
        Change::Revise | Change::Retire => {
            registry.identifier(&claim.key).is_some_and(|present| present.revision == claim.expected_revision)
        }
    })
}
