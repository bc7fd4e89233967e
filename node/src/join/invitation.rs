//! Invitation tokens: signed by the inviter, good for one admission, written as one line of text.

use super::InvitationError;
use consensus::codec;
use consensus::envelope::{Envelope, Federation, StatementKind};
use consensus::time::Timestamp;
use cpi::ids::{MemberId, RegionName};
use serde::{Deserialize, Serialize};

/// What a token begins with.
pub(super) const PREFIX: &str = "causeway-join-1-";
/// The longest token, in characters.
const TOKEN_CHARS_MAX: usize = 24 << 10;
/// Format version of the body.
const VERSION: u8 = 1;

/// What a member offers a region that is not in yet. The nonce makes it good for one admission.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invitation {
    /// The federation and its epoch.
    pub federation: Federation,
    /// The federation's name, for people.
    pub federation_name: String,
    /// Who invites.
    pub inviter: MemberId,
    /// The inviter's transport key: the joiner talks to nobody else.
    pub inviter_transport_key: [u8; 32],
    /// Where the inviter listens, as multiaddrs.
    pub inviter_addresses: Vec<String>,
    /// Only this transport key may use it, if given.
    pub joiner_key: Option<[u8; 32]>,
    /// Only this region may use it, if given.
    pub region: Option<RegionName>,
    /// Enterprise codes that the new member may register under.
    pub enterprises: Vec<String>,
    /// Not good from then on.
    pub expires_at: Timestamp,
    /// Used up by the admission.
    pub nonce: [u8; 16],
}

/// A token as read: what it says and the signed bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// What it says.
    pub invitation: Invitation,
    /// The key that signed it.
    pub signing_key: [u8; 32],
    /// The envelope as signed.
    pub envelope: Vec<u8>,
}

impl Invitation {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        codec::encode(VERSION, self).expect("an invitation has only plain fields")
    }
}

impl Token {
    /// The line of text that people pass on.
    pub fn text(envelope: &Envelope) -> String {
        format!("{PREFIX}{}", data_encoding::BASE64URL_NOPAD.encode(&envelope.to_bytes()))
    }

    /// Reads a line of text.
    pub fn parse(text: &str) -> Result<Self, InvitationError> {
        let body = text.trim().strip_prefix(PREFIX).filter(|body| body.len() <= TOKEN_CHARS_MAX);
        let bytes = body.and_then(|body| data_encoding::BASE64URL_NOPAD.decode(body.as_bytes()).ok());
        Self::open(bytes.ok_or(InvitationError::Malformed)?)
    }

    /// Reads the signed bytes. Whether the key is a member's is not known here.
    pub fn open(bytes: Vec<u8>) -> Result<Self, InvitationError> {
        if bytes.len() > TOKEN_CHARS_MAX {
            return Err(InvitationError::Malformed);
        }
        let envelope: Envelope = Envelope::from_bytes(&bytes).map_err(|_| InvitationError::Malformed)?;
        let federation = envelope.federation;
        envelope.verify(StatementKind::Invitation, &federation).map_err(|_| InvitationError::Signature)?;
        let invitation: Invitation =
            codec::decode(VERSION, &envelope.body, TOKEN_CHARS_MAX).map_err(|_| InvitationError::Malformed)?;
        if invitation.federation != federation {
            return Err(InvitationError::Federation);
        }
        Ok(Self { invitation, signing_key: envelope.key, envelope: bytes })
    }

    /// Whether it is still good at `now`, for this region and key.
    pub fn check(&self, now: Timestamp, region: &RegionName, transport_key: &[u8; 32]) -> Result<(), InvitationError> {
        let invitation = &self.invitation;
        if now >= invitation.expires_at {
            let expired_at = jiff::Timestamp::from_millisecond(invitation.expires_at.0.cast_signed())
                .map_or_else(|_| "an unknown time".to_owned(), |at| at.to_string());
            return Err(InvitationError::Expired { expired_at });
        }
        if let Some(invited) = &invitation.region
            && invited != region
        {
            return Err(InvitationError::Region { invited: invited.to_string(), region: region.to_string() });
        }
        if invitation.joiner_key.is_some_and(|key| key != *transport_key) {
            return Err(InvitationError::Joiner);
        }
        Ok(())
    }
}
