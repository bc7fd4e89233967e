//! Drives the negotiation: one task owns the machine; frames, disk, clock, executor and artifacts are met here.
//!
//! ```text
//! mesh --> Inbox (verifies, decodes) --> queues --> Driver [Negotiator] --> frames by peer, one signature each
//! services --> NegotiationHandle ------------------^   |  \--> Records (one write a tick, speaks once it is synced)
//! executor --> RunReport --------------------------^   \--> RunCommand, results fetched, board of tasks
//! ```
//!
//! A tick handles what waits in the queues (urgent things first), then writes once and sends one frame per peer and
//! class. It never waits for a peer: a full queue counts as silence.

mod board;
mod driver;
mod handle;
mod inbox;
mod index;
mod orders;
mod outgoing;
mod performing;
mod traces;
mod views;

pub use board::{BoardTask, TaskBoard};
pub use driver::{NegotiationParts, NoResults, ResultFetcher, start};
pub use handle::{CancelError, HandleError, NegotiationGauges, NegotiationHandle, PoolState, ProviderRun, SubmitError};
pub use inbox::{Inbox, Queues, inbox};
pub use outgoing::PeerSender;

#[cfg(test)]
mod tests;
