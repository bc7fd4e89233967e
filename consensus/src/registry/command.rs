//! What can be asked of the registry, and the log entry it travels in. Format version 2; released shapes are frozen.

use super::genesis::Genesis;
use crate::codec::{self, CodecError};
use crate::envelope::{Envelope, Federation, OpenError, StatementKind};
use crate::time::Timestamp;
use cpi::ids::StableKey;
use cpi::resource::RegionPlace;
use serde::{Deserialize, Serialize};

/// Format version of commands and entries.
const VERSION: u8 = 2;
/// The largest command, in bytes, so that one entry never stops replication.
pub const COMMAND_BYTES_MAX: usize = 256 << 10;
/// Identifiers in one command.
pub const REGISTRATIONS_MAX: usize = 500;
/// Bytes of a dictionary release in one command.
pub const RELEASE_CHUNK_BYTES_MAX: usize = 192 << 10;

/// Takes a new member in. Signed by an active member; `approvals` come from others where the policy wants more than one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admission {
    /// Used up by this admission, so that an invitation is good for one.
    pub invitation_nonce: [u8; 16],
    /// Where the new member is.
    pub place: RegionPlace,
    /// Its ed25519 transport key.
    pub transport_key: [u8; 32],
    /// Its ed25519 signing key.
    pub signing_key: [u8; 32],
    /// Where it listens, as multiaddrs.
    pub addresses: Vec<String>,
    /// Enterprise codes that it may register under.
    pub enterprises: Vec<String>,
    /// The joiner's signed request ([`StatementKind::JoinRequest`]): proves that it has both keys and wants this place.
    pub request: Vec<u8>,
    /// Envelopes of [`StatementKind::Approval`] over [`Admission::approval_of`] by other members.
    pub approvals: Vec<Vec<u8>>,
}

impl Admission {
    /// What an approval signs: the joiner's request, and the enterprise codes that it is to be admitted with.
    pub fn approval_of(request: &[u8], enterprises: &[String]) -> [u8; 32] {
        let body = codec::encode(VERSION, &(request, enterprises)).expect("plain fields");
        cpi::ids::ContentDigest::of(&body).0
    }
}

/// What a joiner signs with its signing key ([`StatementKind::JoinRequest`]) before anybody admits it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    /// The invitation that it answers.
    pub invitation_nonce: [u8; 16],
    /// Where it is.
    pub place: RegionPlace,
    /// Its ed25519 transport key.
    pub transport_key: [u8; 32],
    /// Where it listens, as multiaddrs.
    pub addresses: Vec<String>,
    /// The transport key's signature over [`JoinRequest::transport_claim`]: proves that the joiner has it.
    pub transport_proof: Vec<u8>,
}

impl JoinRequest {
    /// What the transport key signs: that it belongs with this signing key, for this invitation.
    pub fn transport_claim(signing_key: &[u8; 32], invitation_nonce: &[u8; 16]) -> Vec<u8> {
        [b"causeway/transport-claim/1\0".as_slice(), signing_key, invitation_nonce].concat()
    }

    /// The bytes that are signed.
    pub fn to_bytes(&self) -> Vec<u8> {
        codec::encode(VERSION, self).expect("a join request has only plain fields")
    }

    /// Reads the bytes that were signed.
    ///
    /// # Errors
    /// [`CodecError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode(VERSION, bytes, 16 << 10)
    }
}

/// Changes of a member's own record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberUpdate {
    /// The member's revision that this replaces.
    pub expected_revision: u64,
    /// New addresses, where they change.
    pub addresses: Option<Vec<String>>,
    /// A new transport key; the old one stays good for the overlap.
    pub transport_key: Option<[u8; 32]>,
    /// A new signing key; the old one stays good for the overlap.
    pub signing_key: Option<[u8; 32]>,
}

/// One identifier to register.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// Its canonical text, as it is signed and stored.
    pub text: String,
}

/// A change of identifiers that travels with others under one signature. No batch is inside another, so that reading one
/// takes a bounded stack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum IdentifierChange {
    /// As [`Command::Register`].
    Register {
        /// The identifiers.
        items: Vec<Registration>,
        /// The dictionary release that they were checked against.
        release: u32,
    },
    /// As [`Command::Revise`].
    Revise {
        /// Which.
        key: StableKey,
        /// The revision that is replaced.
        expected_revision: u64,
        /// The new text.
        text: String,
        /// The dictionary release that it was checked against.
        release: u32,
    },
    /// As [`Command::Retire`].
    Retire {
        /// Which.
        key: StableKey,
        /// The revision that ends.
        expected_revision: u64,
        /// What takes its place.
        successor: Option<StableKey>,
    },
}

impl IdentifierChange {
    /// Identifiers that it touches.
    pub fn items(&self) -> usize {
        if let Self::Register { items, .. } = self { items.len() } else { 1 }
    }
}

impl TryFrom<Command> for IdentifierChange {
    type Error = Box<Command>;

    fn try_from(command: Command) -> Result<Self, Box<Command>> {
        match command {
            Command::Register { items, release } => Ok(Self::Register { items, release }),
            Command::Revise { key, expected_revision, text, release } => {
                Ok(Self::Revise { key, expected_revision, text, release })
            }
            Command::Retire { key, expected_revision, successor } => {
                Ok(Self::Retire { key, expected_revision, successor })
            }
            other => Err(Box::new(other)),
        }
    }
}

impl From<IdentifierChange> for Command {
    fn from(change: IdentifierChange) -> Self {
        match change {
            IdentifierChange::Register { items, release } => Self::Register { items, release },
            IdentifierChange::Revise { key, expected_revision, text, release } => {
                Self::Revise { key, expected_revision, text, release }
            }
            IdentifierChange::Retire { key, expected_revision, successor } => {
                Self::Retire { key, expected_revision, successor }
            }
        }
    }
}

/// A command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Takes a member in.
    Admit(Box<Admission>),
    /// Changes the issuer's own record.
    UpdateMember(MemberUpdate),
    /// What members decided together: a member's standing, or the policy. Proposed by anybody who has the votes.
    Decide {
        /// Envelopes of [`StatementKind::Vote`] on one motion, 1 to [`super::motion::VOTES_MAX`].
        votes: Vec<Vec<u8>>,
    },
    /// Registers identifiers, each on its own: some may hold and some be refused.
    Register {
        /// At most [`REGISTRATIONS_MAX`].
        items: Vec<Registration>,
        /// The dictionary release that they were checked against.
        release: u32,
    },
    /// A new revision of an identifier: same key, other attributes.
    Revise {
        /// Which.
        key: StableKey,
        /// The revision that is replaced.
        expected_revision: u64,
        /// The new text.
        text: String,
        /// The dictionary release that it was checked against.
        release: u32,
    },
    /// Ends an identifier.
    Retire {
        /// Which.
        key: StableKey,
        /// The revision that ends.
        expected_revision: u64,
        /// What takes its place.
        successor: Option<StableKey>,
    },
    /// A piece of a dictionary release.
    PublishRelease {
        /// Its number.
        release: u32,
        /// Which piece, from 0.
        chunk: u32,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// Puts a release in force whose pieces are all here.
    ActivateRelease {
        /// Its number: one more than the one in force.
        release: u32,
        /// How many pieces.
        chunks: u32,
        /// SHA-256 of all pieces together.
        sha256: [u8; 32],
    },
    /// Turns on behaviour that every replica can do by now.
    RaiseRingVersion {
        /// One more than the version in force.
        version: u32,
    },
    /// Gives a member whose log is lost a new Raft id; one that has another id already is told it.
    RenewRaftId {
        /// The id that is lost.
        lost: u64,
    },
    /// Changes of identifiers under one signature, each on its own: some may hold and some be refused. At most
    /// [`REGISTRATIONS_MAX`] identifiers altogether.
    Batch(Vec<IdentifierChange>),
}

impl Command {
    /// The commands in it: those of a batch, else itself.
    pub fn each(self) -> Vec<Self> {
        match self {
            Self::Batch(changes) => changes.into_iter().map(Into::into).collect(),
            other => vec![other],
        }
    }

    /// The bytes that are signed.
    pub fn to_bytes(&self) -> Vec<u8> {
        codec::encode(VERSION, self).expect("commands have only plain fields")
    }

    /// Reads the bytes that were signed.
    ///
    /// # Errors
    /// [`CodecError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode(VERSION, bytes, COMMAND_BYTES_MAX)
    }
}

/// A command whose signature holds. Made by drivers; machines see nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// The signing key.
    pub key: [u8; 32],
    /// The signer's sequence.
    pub sequence: u64,
    /// What it asks for.
    pub command: Command,
    /// SHA-256 of the envelope as sent.
    pub digest: [u8; 32],
    /// The envelope as sent.
    pub envelope: Vec<u8>,
}

/// Why bytes are no statement.
#[derive(Debug, thiserror::Error)]
pub enum StatementError {
    /// The envelope does not hold.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The body is no command.
    #[error("the signed body is not a registry command")]
    Command(#[source] CodecError),
    /// The bytes are no log entry of this release.
    #[error("the bytes are not a log entry that this release knows")]
    Entry(#[source] CodecError),
}

impl StatementError {
    /// Whether every release that reads the entry refuses it alike; otherwise a replica must halt.
    pub fn is_a_refusal(&self) -> bool {
        match self {
            Self::Open(_) => true,
            Self::Command(error) | Self::Entry(error) => {
                matches!(error, CodecError::TooLarge { .. } | CodecError::Empty | CodecError::Trailing { .. })
            }
        }
    }
}

impl Statement {
    /// Reads and verifies an envelope.
    ///
    /// # Errors
    /// [`StatementError`].
    pub fn open(envelope: Vec<u8>, federation: &Federation) -> Result<Self, StatementError> {
        let digest = cpi::ids::ContentDigest::of(&envelope).0;
        let opened = Envelope::open(&envelope, StatementKind::RegistryCommand, federation)?;
        Self::of(opened, digest, envelope)
    }

    fn of(opened: Envelope, digest: [u8; 32], envelope: Vec<u8>) -> Result<Self, StatementError> {
        let command = Command::from_bytes(&opened.body).map_err(StatementError::Command)?;
        Ok(Self { key: opened.key, sequence: opened.sequence, command, digest, envelope })
    }
}

/// What the log holds: a body and the leader's stamp.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The leader's clock when it proposed; `apply` makes it monotone.
    pub stamp: Timestamp,
    /// What to apply.
    pub body: EntryBody,
}

/// The two things that are ever applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryBody {
    /// The first entry of a federation's log.
    Genesis(Box<Genesis>),
    /// A signed command.
    Statement(Box<Statement>),
}

#[derive(Serialize, Deserialize)]
enum StoredEntry {
    Genesis { stamp: Timestamp, genesis: Box<Genesis> },
    Statement { stamp: Timestamp, envelope: Vec<u8> },
}

/// Bytes of the log entry for a genesis.
pub fn genesis_entry(stamp: Timestamp, genesis: &Genesis) -> Vec<u8> {
    codec::encode(VERSION, &StoredEntry::Genesis { stamp, genesis: Box::new(genesis.clone()) }).expect("plain fields")
}

/// Bytes of the log entry for a signed command.
pub fn statement_entry(stamp: Timestamp, envelope: &[u8]) -> Vec<u8> {
    codec::encode(VERSION, &StoredEntry::Statement { stamp, envelope: envelope.to_vec() }).expect("plain fields")
}

impl Entry {
    /// Reads a log entry and verifies its signature.
    ///
    /// # Errors
    /// [`StatementError`].
    pub fn open(bytes: &[u8], federation: &Federation) -> Result<Self, StatementError> {
        Self::open_known(bytes, federation, |_| false)
    }

    /// As [`Entry::open`], without verifying envelopes that `is_known` to hold by their digest.
    ///
    /// # Errors
    /// [`StatementError`].
    pub fn open_known(
        bytes: &[u8],
        federation: &Federation,
        is_known: impl FnOnce(&[u8; 32]) -> bool,
    ) -> Result<Self, StatementError> {
        let stored = codec::decode(VERSION, bytes, COMMAND_BYTES_MAX + 4096).map_err(StatementError::Entry)?;
        Ok(match stored {
            StoredEntry::Genesis { stamp, genesis } => Self { stamp, body: EntryBody::Genesis(genesis) },
            StoredEntry::Statement { stamp, envelope } => {
                let digest = cpi::ids::ContentDigest::of(&envelope).0;
                let opened = if is_known(&digest) {
                    Envelope::read(&envelope, StatementKind::RegistryCommand, federation)?
                } else {
                    Envelope::open(&envelope, StatementKind::RegistryCommand, federation)?
                };
                Self { stamp, body: EntryBody::Statement(Box::new(Statement::of(opened, digest, envelope)?)) }
            }
        })
    }
}
