//! Operations on machines: the driver around their pure machine, their rows, and those who are told.
//!
//! `driver` writes records before it calls a backend, and asks it; `rows` are the records on disk; `webhook` tells callers
//! elsewhere, until they heard it.

mod driver;
mod rows;
mod webhook;

pub use driver::{BeginError, OperationHandle, OperationParts, start};
pub use rows::{OperationRows, OperationRowsError};
pub use webhook::{Notify, SIGNATURE_HEADER, TIMESTAMP_HEADER, sign};

use adapters::resources::{Resource, ResourceState};
use consensus::operation::{Sight, SightState};

/// What a backend says of a machine, as the machine of operations takes it.
fn sight(resource: Resource) -> Sight {
    Sight {
        state: match resource.state {
            ResourceState::Pending => SightState::Pending,
            ResourceState::Ready => SightState::Ready,
            ResourceState::Stopped => SightState::Stopped,
            ResourceState::Released => SightState::Released,
            ResourceState::Failed(reason) => SightState::Failed(reason),
        },
        has: resource.has,
        handle: resource.handle,
        addresses: resource.addresses,
    }
}
