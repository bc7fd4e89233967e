//! Signed statements: what a member said, in the bytes it said it in.
//!
//! The signature (ed25519, verified strictly) covers a domain, the kind, the federation, its epoch, the signer's sequence
//! and the body as sent. The bytes are kept and relayed as they came; nothing is encoded again to check a signature.
//! Sealing and opening happen in drivers: pure machines see opened statements.

use crate::codec::{self, CodecError};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

/// Format version of the envelope.
const VERSION: u8 = 1;
/// Separates our signatures from those of every other use of the same key.
const DOMAIN: &[u8] = b"causeway/statement/1\0";
/// The largest body, in bytes: a registry command is at most this long.
pub const BODY_BYTES_MAX: usize = 256 << 10;
/// The largest envelope: the body and its frame.
pub const ENVELOPE_BYTES_MAX: usize = BODY_BYTES_MAX + 256;

/// What a statement is about; a statement of one kind never passes for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum StatementKind {
    /// A registry command.
    RegistryCommand,
    /// A region's capacity digest.
    Digest,
    /// A provider's offer.
    Offer,
    /// A provider's decline.
    Decline,
    /// A provider's acceptance of an award.
    Acceptance,
    /// A request to join, signed by the joiner.
    JoinRequest,
    /// A member's approval of a joiner.
    Approval,
    /// An invitation.
    Invitation,
    /// A commit beacon of the registry's leader.
    Beacon,
    /// Offers, declines, acceptances and ends of one provider to one origin: the digests of their bytes.
    ProviderStatements,
    /// A member's vote on a motion.
    Vote,
}

/// Which federation a statement belongs to, and in which of its epochs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Federation {
    /// SHA-256 of the genesis.
    pub id: [u8; 32],
    /// Raised by disaster recovery only.
    pub epoch: u64,
}

/// A statement with its signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// What it is about.
    pub kind: StatementKind,
    /// Where it holds.
    pub federation: Federation,
    /// The signer's ed25519 key.
    pub key: [u8; 32],
    /// The signer's sequence; removes duplicates and nothing else.
    pub sequence: u64,
    /// The statement, as the signer encoded it.
    pub body: Vec<u8>,
    /// 64 bytes of ed25519.
    pub signature: Vec<u8>,
}

/// Why an envelope was refused.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The bytes are no envelope.
    #[error("not a signed statement")]
    Codec(#[from] CodecError),
    /// Another kind than was expected here.
    #[error("a statement of kind {found:?} stands where {expected:?} was expected")]
    Kind {
        /// What came.
        found: StatementKind,
        /// What belongs here.
        expected: StatementKind,
    },
    /// It belongs to another federation, or to an older epoch of this one.
    #[error("the statement belongs to another federation or epoch")]
    Federation,
    /// The key is no ed25519 key.
    #[error("the signer's key is not an ed25519 key")]
    Key,
    /// The signature does not hold.
    #[error("the signature does not hold")]
    Signature,
}

fn signed_bytes(kind: StatementKind, federation: &Federation, sequence: u64, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(DOMAIN.len() + body.len() + 64);
    out.extend_from_slice(DOMAIN);
    out.push(kind as u8);
    out.extend_from_slice(&federation.id);
    out.extend_from_slice(&federation.epoch.to_be_bytes());
    out.extend_from_slice(&sequence.to_be_bytes());
    out.extend_from_slice(&(body.len() as u64).to_be_bytes());
    out.extend_from_slice(body);
    out
}

impl Envelope {
    /// Signs `body`.
    pub fn seal(
        kind: StatementKind,
        federation: Federation,
        signer: &SigningKey,
        sequence: u64,
        body: Vec<u8>,
    ) -> Self {
        let signature = signer.sign(&signed_bytes(kind, &federation, sequence, &body)).to_bytes().to_vec();
        Self { kind, federation, key: signer.verifying_key().to_bytes(), sequence, body, signature }
    }

    /// The bytes that travel and are stored.
    pub fn to_bytes(&self) -> Vec<u8> {
        codec::encode(VERSION, self).expect("an envelope has only plain fields")
    }

    /// Reads an envelope without verifying it: whom it claims to be of decides how it must be verified.
    ///
    /// # Errors
    /// [`CodecError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode(VERSION, bytes, ENVELOPE_BYTES_MAX)
    }

    /// Reads and verifies an envelope of `expected` kind in `federation`.
    ///
    /// # Errors
    /// [`OpenError`]; who the key belongs to is the caller's question.
    pub fn open(bytes: &[u8], expected: StatementKind, federation: &Federation) -> Result<Self, OpenError> {
        let envelope: Self = codec::decode(VERSION, bytes, ENVELOPE_BYTES_MAX)?;
        envelope.verify(expected, federation)?;
        Ok(envelope)
    }

    /// Reads an envelope whose very bytes were verified before on this node; checks everything but the signature.
    ///
    /// # Errors
    /// [`OpenError`].
    pub(crate) fn read(bytes: &[u8], expected: StatementKind, federation: &Federation) -> Result<Self, OpenError> {
        let envelope: Self = codec::decode(VERSION, bytes, ENVELOPE_BYTES_MAX)?;
        envelope.belongs(expected, federation)?;
        Ok(envelope)
    }

    fn belongs(&self, expected: StatementKind, federation: &Federation) -> Result<(), OpenError> {
        if self.kind != expected {
            return Err(OpenError::Kind { found: self.kind, expected });
        }
        if self.federation == *federation { Ok(()) } else { Err(OpenError::Federation) }
    }

    /// Verifies an envelope that was read already.
    ///
    /// # Errors
    /// [`OpenError`] except `Codec`.
    pub fn verify(&self, expected: StatementKind, federation: &Federation) -> Result<(), OpenError> {
        self.belongs(expected, federation)?;
        let key = VerifyingKey::from_bytes(&self.key).map_err(|_| OpenError::Key)?;
        let signature = Signature::from_slice(&self.signature).map_err(|_| OpenError::Signature)?;
        key.verify_strict(&signed_bytes(self.kind, &self.federation, self.sequence, &self.body), &signature)
            .map_err(|_| OpenError::Signature)
    }
}
