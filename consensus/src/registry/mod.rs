//! The identifier registry: a replicated state machine over an ordered byte map.
//!
//! It decides who is a member, which identifiers exist and whose they are, which dictionary release holds and what the
//! federation's policy is. It never looks at a clock, a dictionary, a disk or a float: [`RegistryState::apply`] sees the
//! state and the entry, and gives the same bytes on every replica.
//!
//! ```text
//! signed command -> front door (signature, dictionary) -> Raft -> apply(entry) -> Response, changes -> indexes, history
//! ```

pub mod command;
pub mod genesis;
#[cfg(test)]
mod golden;
pub mod identifier;
mod index;
pub mod keys;
pub mod kv;
pub mod member;
pub mod motion;
pub mod pending;
pub mod policy;
pub mod read;
pub mod response;
mod state;
#[cfg(test)]
pub(crate) mod tests;
mod window;

pub use command::{Admission, Command, Entry, EntryBody, IdentifierChange, Registration, Statement};
pub use genesis::Genesis;
pub use identifier::{IdentifierRecord, IdentifierState};
pub use member::{KeySpan, MemberRecord, Standing};
pub use motion::{Motion, SignedVote, Tally, Vote};
pub use policy::FederationPolicy;
pub use read::{Page, RegistryReader, SearchQuery, Settled, Statistic, StatisticsDimension};
pub use response::{ChangeOutcome, ItemOutcome, Refusal, Response};
pub use state::{RegistryState, Summary};
