//! The registry replicated: openraft over our store and over whatever carries frames between members. The only room that
//! names openraft.
//!
//! ```text
//! propose -> (forward to the leader) -> client_write -> log (synced) -> quorum -> apply -> Response
//! ```
//!
//! A node answers reads from its own replica always, and says how fresh it is.

mod beacon;
mod handle;
mod log_store;
mod network;
mod seats;
mod snapshots;
mod state_machine;
#[cfg(test)]
mod tests;
mod transport;
mod types;
mod wire;

pub use handle::{
    Committed, Freshness, ProposeError, ReadError, RegistryHandle, RegistryOptions, RegistryStatus, Role,
    SnapshotError, StartError,
};
pub use transport::{RaftClass, RaftTransport, TransportError};
