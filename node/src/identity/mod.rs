//! Who this node is: two ed25519 keys, made once. The transport key proves it on the wire, the signing key signs what it
//! says. They are two, so that either can be changed without the other.
//!
//! It leaves the meaning of a member to the registry, and libp2p's form of the transport key to `mesh`.

mod keys;
mod signer;

pub use keys::{Identity, IdentityError};
pub use signer::{Signer, SignerError};
