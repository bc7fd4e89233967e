//! Why somebody is not in.

use super::super::identity::{IdentityError, SignerError};
use crate::mesh::AskError;
use std::path::PathBuf;

/// Why a token is no good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvitationError {
    /// The text is no token.
    #[error("this is not an invitation token: it begins with {}", super::invitation::PREFIX)]
    Malformed,
    /// The signature inside does not hold.
    #[error("the token was changed on its way: its signature does not hold")]
    Signature,
    /// It is over.
    #[error("the invitation expired at {expired_at}: ask for a new one")]
    Expired {
        /// RFC 3339 UTC.
        expired_at: String,
    },
    /// It is for another federation or an older epoch.
    #[error("the invitation belongs to another federation, or to an epoch before a recovery")]
    Federation,
    /// Who signed it is no active member.
    #[error("the invitation was signed by a key that belongs to no active member")]
    Inviter,
    /// It is for another region.
    #[error("the invitation is for region {invited}, not for {region}")]
    Region {
        /// Whom it names.
        invited: String,
        /// Who came.
        region: String,
    },
    /// It is for another key.
    #[error("the invitation is for another transport key than this node's")]
    Joiner,
    /// The request is not what the invitation or the connection says.
    #[error("the join request does not hold: {0}")]
    Request(&'static str),
}

/// Why an invitation could not be made.
#[derive(Debug, thiserror::Error)]
pub enum InviteError {
    /// A field of the wish.
    #[error("{field}: expected {expected}")]
    Invalid {
        /// Which.
        field: &'static str,
        /// What would do.
        expected: String,
    },
}

/// Why a waiting join was not approved.
#[derive(Debug, thiserror::Error)]
pub enum ApproveError {
    /// No such request waits.
    #[error("no request {request} waits for approval here; `causeway member list --pending` shows those that do")]
    NotWaiting {
        /// Its digest.
        request: String,
    },
    /// The registry refused it or could not be reached.
    #[error("{0}")]
    Registry(String),
    /// The approval could not be signed.
    #[error(transparent)]
    Sign(#[from] SignerError),
}

/// Why no federation was founded.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// There is data already.
    #[error("{path} exists: this node belongs to a federation already. A new one needs an empty data folder", path = path.display())]
    Exists {
        /// What was found.
        path: PathBuf,
    },
    /// The keys.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The membership file.
    #[error(transparent)]
    Membership(#[from] MembershipError),
    /// The data folder.
    #[error("{path} cannot be made", path = path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
}

/// Why the membership file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    /// There is none.
    #[error("{path} is missing: run `causeway init` to found a federation, or `causeway member join TOKEN`", path = path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be read or written.
    #[error("{path} cannot be read or written", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// It says nothing that can be used.
    #[error("{path} is damaged: {reason}", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// Why joining failed.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The token.
    #[error(transparent)]
    Invitation(#[from] InvitationError),
    /// This node belongs to another federation.
    #[error("this node belongs to federation {name} already")]
    Elsewhere {
        /// Its name.
        name: String,
    },
    /// The keys.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The membership file.
    #[error(transparent)]
    Membership(#[from] MembershipError),
    /// The member that invited cannot be asked.
    #[error("the inviting member cannot be asked")]
    Ask(#[from] AskError),
    /// The federation said no.
    #[error("the federation refused: {0}")]
    Refused(String),
    /// The answer is not one.
    #[error("the member's answer cannot be read, or contradicts the invitation")]
    Answer,
    /// Still waiting for approval when patience ended.
    #[error("still waiting for approval ({have} of {need}): run the same command again later")]
    StillWaiting {
        /// Approvals there are.
        have: u32,
        /// Approvals needed.
        need: u32,
    },
}
