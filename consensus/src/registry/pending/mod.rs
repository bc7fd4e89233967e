//! Registrations that no quorum has committed yet: what is known of them here, and what becomes of them.
//!
//! A statement (register, revise, retire) is *pending* from the moment it is durable at its owner until the registry has
//! an outcome for it. Pending is not registered: two members may both have a claim pending on one key, nothing here makes a
//! key unique, and nothing here is ever resolved. The table is a hint that others saw; the registry alone decides.
//!
//! ```text
//! owner --gossip--> read (by itself) -> judge (by the state) -> PendingTable -> Keep | Drop on disk
//!   any two members: RepairQuestion <-> RepairAnswer, what one lacks and the other has, with its age
//!   leader: Propose, once a statement is neither applied nor in flight for 2 s and a jitter
//! ```
//!
//! The owner sends the same bytes to the leader until there is an outcome; the leader's own proposal is the fallback for an
//! owner that cannot. Sequences make both one command.

mod claim;
mod repair;
mod table;
#[cfg(test)]
mod tests;

pub use claim::{Change, Claim, ClaimRefused, claims_of, refused_claims};
pub use repair::{REPAIR_BYTES_MAX, RepairAnswer, RepairItem, RepairQuestion};
pub use table::{Kept, PendingAction, PendingLimits, PendingTable, PendingView, StatementId, Taken};
