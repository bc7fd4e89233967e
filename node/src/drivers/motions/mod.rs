//! Motions that members vote on: votes by gossip and repair, what is in force by them, and their way into the registry.
//!
//! The machine is [`consensus::membership`]; here are its clock, its disk and its wires.

mod desk;
mod repair;
#[cfg(test)]
mod tests;

pub use desk::{MotionDesk, MotionError, MotionOutcome, MotionParts, Standings};
pub use repair::VoteRepair;
