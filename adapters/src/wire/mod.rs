//! The plugin protocol as types: what `proto/` generates, and the way between it and the contract.
//!
//! Everything that comes from the other side is checked here, so that neither the host nor a plugin sees a value that the
//! contract does not allow.

mod fault;
mod machines;
mod tasks;

pub use fault::{fault_of, status_of};
pub(crate) use fault::{reason_from_wire, reason_to_wire};

/// The protocol's types and stubs, generated from `proto/causeway/adapter/v1/adapter.proto`.
#[allow(missing_docs, clippy::all, reason = "generated; the proto file has the documentation")]
pub mod proto {
    tonic::include_proto!("causeway.adapter.v1");
}

/// The highest protocol number that this code speaks.
pub const PROTOCOL_MAX: u32 = 2;
/// The lowest one.
pub const PROTOCOL_MIN: u32 = 1;
/// The first one with machines.
pub const PROTOCOL_MACHINES: u32 = 2;

/// The largest message in either direction.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// The largest piece of a log.
pub const LOG_CHUNK_BYTES_MAX: usize = 1 << 20;
/// The longest text in a message.
pub const TEXT_BYTES_MAX: usize = 64 << 10;
/// The most items in one list of a message.
pub const ITEMS_MAX: usize = 4096;
/// The header that carries credentials, a `Credentials` message.
pub const CREDENTIALS_HEADER: &str = "causeway-credentials-bin";
/// The variable that names a plugin's socket.
pub const SOCKET_VARIABLE: &str = "CAUSEWAY_PLUGIN_SOCKET";

/// The number that two sides agree on: the highest that both speak.
pub fn agree(own: (u32, u32), other: (u32, u32)) -> Option<u32> {
    let highest = own.1.min(other.1);
    (highest >= own.0.max(other.0) && highest > 0).then_some(highest)
}

/// A value from the other side that the contract does not allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: expected {expected}")]
pub struct WireError {
    /// The field.
    pub field: &'static str,
    /// What it should have been.
    pub expected: &'static str,
}

impl WireError {
    fn new(field: &'static str, expected: &'static str) -> Self {
        Self { field, expected }
    }
}

fn text(field: &'static str, value: String) -> Result<String, WireError> {
    if value.len() > TEXT_BYTES_MAX { Err(WireError::new(field, "at most 64 KiB of text")) } else { Ok(value) }
}

fn there<T>(field: &'static str, value: Option<T>) -> Result<T, WireError> {
    value.ok_or_else(|| WireError::new(field, "a value"))
}

fn list<A, B>(
    field: &'static str,
    items: Vec<A>,
    convert: impl FnMut(A) -> Result<B, WireError>,
) -> Result<Vec<B>, WireError> {
    if items.len() > ITEMS_MAX {
        return Err(WireError::new(field, "at most 4096 items"));
    }
    items.into_iter().map(convert).collect()
}

#[cfg(test)]
mod tests;
