//! Motions that wait for votes: what is known of them here, and what is in force by them before the registry says so.
//!
//! A vote is signed by one member and spread among all. With as many as the policy asks for, a motion is *decided*: whoever
//! leads the registry puts it into the log. Until then, and above all where the registry cannot be reached, a member that has
//! the votes honours a suspension or an expulsion at once. Nobody is let in by votes alone.
//!
//! ```text
//! voter --gossip--> judge (by itself, by the state) -> VoteTable -> Keep | Drop on disk
//!   any two members: VoteQuestion <-> VoteAnswer, what one lacks and the other has
//!   in_force(): suspended and expelled by enough votes        leader: Propose, once decided
//! ```

mod repair;
mod table;
#[cfg(test)]
mod tests;

pub use repair::{VoteAnswer, VoteQuestion};
pub use table::{KeptVote, MotionView, VoteAction, VoteId, VoteRefused, VoteTable, VoteTaken};
