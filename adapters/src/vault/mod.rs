//! Credentials: encrypted at rest, referenced by name, handed to a plugin per call.
//!
//! The vault is one file, sealed with XChaCha20-Poly1305 under a key that lies in a file of its own (mode 0600). Whoever has
//! the vault alone (a backup, a stolen disk without the key's disk) has nothing.

mod file;
mod secret;

pub use file::{OpenVaultError, SECRET_BYTES_MAX, Vault, WriteVaultError, is_name};
pub use secret::Secret;
