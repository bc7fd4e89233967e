//! The registry replicated: openraft over our store and over whatever carries frames between members. The only room that
//! names openraft.
//!
//! ```text
//! propose -> (forward to the leader) -> client_write -> log (synced) -> quorum -> apply -> Response
//! ```
//!
//! A node answers reads from its own replica always, and says how fresh it is.

mod beacon;
mod claims;
mod doorkeeper;
mod follow;
#[cfg(test)]
mod follow_tests;
#[cfg(test)]
mod golden;
mod handle;
mod lead;
#[cfg(test)]
mod linear;
mod log_store;
mod network;
mod proposer;
mod seats;
mod serve;
mod snapshots;
mod start;
mod state_machine;
mod status;
#[cfg(test)]
mod tests;
mod timers;
mod transport;
mod types;
mod wire;

pub use doorkeeper::RefusalWatch;
pub use handle::RegistryHandle;
pub use start::{RegistryOptions, StartError};
pub use status::{Committed, Freshness, ProposeError, ReadError, RegistryStatus, Role, SnapshotError};
pub use timers::TimerFloor;
pub use transport::{RaftClass, RaftTransport, TransportError};
