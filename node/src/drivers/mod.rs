//! Drivers: one tokio task per pure machine, between it and the mesh, the disk, the clock and the executor.

pub mod backends;
mod batches;
pub mod custody;
pub mod custody_copies;
pub mod custody_frames;
pub mod digests;
pub mod gossip;
pub mod members;
pub mod motions;
pub mod negotiation;
pub mod operations;
pub mod pending;
pub mod placement;
pub mod pool_watch;
pub mod raft;
pub mod refused;
pub mod registry;
pub mod roster;
pub mod run_channel;
pub mod runs;
