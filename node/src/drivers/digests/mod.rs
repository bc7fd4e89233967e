//! Capacity digests on their way out and in: own ones are signed and gossiped when they changed, others' are verified
//! before they are forwarded and then told to the machine; round trips and identifiers go with them.
//!
//! ```text
//! own digest --driver--> gossip ----------------------------> gate of every region --driver--> negotiation
//!                   \--> current <--asked when a peer connects, or was not heard for long--/
//! ```
//! Gossip is the cheap way to all. What must not depend on it goes directly: each peer that connects is asked for its
//! digest and given ours, and so is one whose digest gets old.

mod asking;
mod driver;
mod gate;

#[cfg(test)]
mod tests;

pub use driver::{DigestParts, IdentifierLookup, News, start};
pub use gate::{DigestGate, Judgement, Received, gate};
