//! The node's pure machines on a virtual clock and a virtual WAN. No decision code of its own.
//!
//! A [`World`] holds regions; each drives the very `Negotiator` that the daemon drives. Messages take their latency, may
//! be lost or doubled; disks sync after a while and lose what they had not synced when a node crashes; runs outlive their
//! node, as they do under their supervisors. The same seed gives the same trace. Invariants watch every step.

pub mod bench;
pub mod bug;
pub mod catalogue;
pub mod cli;
pub mod convert;
pub mod disk;
pub mod evaluate;
pub mod executor;
pub mod experiment;
mod faults;
mod gossip;
pub mod html;
pub mod input;
pub mod invariants;
pub mod metrics;
pub mod node;
pub mod oracle;
mod perform;
pub mod registry;
pub mod report;
mod runs;
pub mod scenario;
pub mod story;
pub mod testing;
pub mod trace;
pub mod wan;
pub mod world;

pub use scenario::Scenario;
pub use world::World;
