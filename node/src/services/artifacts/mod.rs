//! Content by its digest: inputs on their way to a region, outputs and logs on their way back.
//!
//! ```text
//! artifacts/sha256/<2>/<hex>   whole and verified, or not there
//! artifacts/pins/<owner>       which contents a task or a run needs, and which members may fetch them
//! artifacts/partial/           uploads and fetches that are not whole yet
//! ```
//!
//! A member gets a content only if it takes part in a task that names it. What no pin names is removed after a day
//! (as configured).

mod draft;
mod fetch;
mod pins;
mod protocol;
mod serve;
mod store;

pub use draft::PutError;
pub use fetch::{ArtifactFetcher, ByteStream, FetchError, StreamOpener};
pub use pins::{PinOwner, Pins};
pub use protocol::is_artifact_header;
pub use serve::ArtifactServer;
pub use store::{ArtifactStore, OpenStoreError, Retention, StoreStats, Stored};

#[cfg(test)]
mod tests;
