//! Founding a federation and getting into one.
//!
//! ```text
//! causeway init                  genesis -> member 1                                    (InitError if there is data)
//! causeway member invite         signed invitation -> token, given to the new region by any safe way
//! causeway member join TOKEN     joiner --/causeway/join/1.0.0--> member: token, signed request, both keys proven
//!                                member: checks, gathers approvals of others where the policy wants more than one, proposes Admit --> committed
//!                                joiner <-- Admitted {member id, genesis, roster}   -> membership.json
//! ```
//!
//! Asking again is always safe: who was admitted gets the same answer, a crash at any point is repaired by asking again.
//! The registry decides in the end; here things are refused early and in words.

mod admission;
mod approvals;
mod error;
mod founding;
mod invitation;
mod joiner;
mod membership;
mod message;
#[cfg(test)]
mod tests;

pub use admission::{AdmissionDesk, AdmissionRegistry, PendingJoin};
pub use approvals::Approvals;
pub use error::{ApproveError, InitError, InvitationError, InviteError, JoinError, MembershipError};
pub use founding::{Founding, found};
pub use invitation::Invitation;
pub use joiner::{JoinProgress, Joiner, join};
pub use membership::{Membership, RosterSeed};
