//! `causeway member join TOKEN`: asks until it is in, then writes down who it is.

use super::invitation::Token;
use super::message::{Answer, Ask};
use super::{InvitationError, JoinError, Membership, MembershipError};
use crate::identity::Identity;
use crate::mesh::{self, AskError};
use consensus::envelope::{Envelope, Federation, StatementKind};
use consensus::registry::command::JoinRequest;
use consensus::time::Timestamp;
use cpi::resource::RegionPlace;
use std::path::Path;
use std::time::{Duration, Instant};

/// One question and its answer take this long at most.
const ASK_DEADLINE: Duration = Duration::from_secs(15);
/// Between two questions: from, to.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// Who wants in.
#[derive(Debug, Clone)]
pub struct Joiner {
    /// Its place.
    pub place: RegionPlace,
    /// Where it will listen, as multiaddrs.
    pub addresses: Vec<String>,
    /// How long it keeps asking.
    pub patience: Duration,
    /// Now, by the wall clock.
    pub now: Timestamp,
}

/// What happens meanwhile, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JoinProgress {
    /// Asking the inviter.
    Asking {
        /// The federation's name.
        federation: String,
    },
    /// More members must approve.
    Waiting {
        /// Approvals there are.
        have: u32,
        /// Approvals needed.
        need: u32,
    },
    /// The inviter cannot be reached, or its registry has no quorum.
    Retrying {
        /// In words.
        reason: String,
    },
}

/// Joins the federation that `token` invites to. Doing it again after success changes nothing.
///
/// # Errors
/// [`JoinError`]; `StillWaiting` and `Ask` may be tried again with the same token.
pub async fn join(
    data_dir: &Path,
    token: &str,
    joiner: &Joiner,
    mut progress: impl FnMut(JoinProgress),
) -> Result<Membership, JoinError> {
    let token = Token::parse(token)?;
    let invitation = &token.invitation;
    match Membership::load(data_dir) {
        Ok(known) if known.federation.id == invitation.federation.id => return Ok(known),
        Ok(other) => return Err(JoinError::Elsewhere { name: other.genesis.name }),
        Err(MembershipError::Missing { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    std::fs::create_dir_all(data_dir).map_err(|source| MembershipError::Io { path: data_dir.to_owned(), source })?;
    let identity = Identity::load_or_create(&data_dir.join("keys"))?;
    token.check(joiner.now, &joiner.place.region, &identity.transport_key())?;
    let request = request(&identity, invitation.federation, invitation.nonce, joiner);
    let ask = bytes::Bytes::from(Ask { invitation: token.envelope.clone(), request }.to_bytes());
    progress(JoinProgress::Asking { federation: invitation.federation_name.clone() });

    let began = Instant::now();
    let mut pause = PAUSE.0;
    loop {
        let asked = mesh::ask(
            &identity.transport_seed(),
            &invitation.inviter_transport_key,
            &invitation.inviter_addresses,
            ask.clone(),
            ASK_DEADLINE,
        )
        .await;
        let ended = match asked {
            Ok(bytes) => match Answer::from_bytes(&bytes).map_err(|_| JoinError::Answer)? {
                Answer::Admitted { member, raft_id, epoch, genesis, roster } => {
                    if genesis.federation_id() != invitation.federation.id {
                        return Err(JoinError::Answer);
                    }
                    let federation = Federation { id: invitation.federation.id, epoch };
                    let membership = Membership { member, raft_id, federation, genesis: *genesis, roster };
                    membership.store(data_dir)?;
                    return Ok(membership);
                }
                Answer::Refused { reason } => return Err(JoinError::Refused(reason)),
                Answer::Waiting { have, need } => {
                    progress(JoinProgress::Waiting { have, need });
                    JoinError::StillWaiting { have, need }
                }
                Answer::Unavailable { reason } => {
                    progress(JoinProgress::Retrying { reason: reason.clone() });
                    JoinError::Refused(reason)
                }
            },
            Err(AskError::Answered(reason)) => return Err(JoinError::Refused(reason)),
            Err(error @ (AskError::Start(_) | AskError::Key)) => return Err(error.into()),
            Err(error) => {
                progress(JoinProgress::Retrying { reason: error.to_string() });
                error.into()
            }
        };
        if began.elapsed() + pause > joiner.patience {
            return Err(ended);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE.1);
    }
}

/// The signed request, with both keys proven.
fn request(identity: &Identity, federation: Federation, nonce: [u8; 16], joiner: &Joiner) -> Vec<u8> {
    let claim = JoinRequest::transport_claim(&identity.signing_public(), &nonce);
    let request = JoinRequest {
        invitation_nonce: nonce,
        place: joiner.place.clone(),
        transport_key: identity.transport_key(),
        addresses: joiner.addresses.clone(),
        transport_proof: identity.prove_transport(&claim).to_bytes().to_vec(),
    };
    Envelope::seal(StatementKind::JoinRequest, federation, identity.signing_key(), 0, request.to_bytes()).to_bytes()
}

/// What a joiner's request must say to be put before the registry.
pub(super) fn check_request(
    bytes: &[u8],
    token: &Token,
    connection_key: &[u8; 32],
) -> Result<(JoinRequest, [u8; 32]), InvitationError> {
    let wrong = InvitationError::Request;
    let (request, signing_key) = check_proofs(bytes, &token.invitation.federation)?;
    if request.transport_key != *connection_key {
        return Err(wrong("it names another transport key than the connection proved"));
    }
    if request.invitation_nonce != token.invitation.nonce {
        return Err(wrong("it answers another invitation"));
    }
    Ok((request, signing_key))
}

/// A request whose signer has both keys; whose invitation it answers is not looked at.
pub(super) fn check_proofs(bytes: &[u8], federation: &Federation) -> Result<(JoinRequest, [u8; 32]), InvitationError> {
    let wrong = InvitationError::Request;
    let envelope = Envelope::open(bytes, StatementKind::JoinRequest, federation)
        .map_err(|_| wrong("its signature does not hold"))?;
    let request = JoinRequest::from_bytes(&envelope.body).map_err(|_| wrong("it cannot be read"))?;
    let claim = JoinRequest::transport_claim(&envelope.key, &request.invitation_nonce);
    let proven = ed25519_dalek::VerifyingKey::from_bytes(&request.transport_key)
        .ok()
        .zip(ed25519_dalek::Signature::from_slice(&request.transport_proof).ok())
        .is_some_and(|(key, signature)| key.verify_strict(&claim, &signature).is_ok());
    if !proven {
        return Err(wrong("the transport key does not vouch for the signing key"));
    }
    Ok((request, envelope.key))
}
