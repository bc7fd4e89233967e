//! The registry replicated: openraft over our store and over whatever carries frames between members. The only room that
//! names openraft.
//!
//! ```text
//! propose -> (forward to the leader) -> client_write -> log (synced) -> quorum -> apply -> Response
//! ```
//!
//! A node answers reads from its own replica always, and says how fresh it is.

mod beacon;
mod doorkeeper;
mod handle;
mod lead;
mod log_store;
mod network;
mod seats;
mod serve;
mod snapshots;
mod state_machine;
mod status;
#[cfg(test)]
mod tests;
mod transport;
mod types;
mod wire;

pub use doorkeeper::RefusalWatch;
pub use handle::{RegistryHandle, RegistryOptions, StartError};
pub use status::{Committed, Freshness, ProposeError, ReadError, RegistryStatus, Role, SnapshotError};
pub use transport::{RaftClass, RaftTransport, TransportError};
