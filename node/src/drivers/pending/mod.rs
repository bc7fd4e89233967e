//! The driver around the pending table: gossip in and out, rows on disk, repair with a peer, the leader's fallback.
//!
//! Others' statements are kept in the node's records under their id, with the time since when; own ones lie in the
//! registry door's queue (`drivers/registry`) and are only shown and spread here.

mod desk;
mod repair;
#[cfg(test)]
pub(super) mod tests;

pub use desk::{PendingDesk, PendingParts};
pub use repair::RepairDesk;
