//! Who may decide for a task, and what of its life is on record: submit, bind, cancel and end under a fence.
//!
//! Every task has custodians, named at submission and never computed again from the ring: its origin and two
//! successors, or the origin alone (`durability: local`). Each keeps one [`CustodyRecord`]. One of them *holds* the task:
//! it alone makes steps, under its epoch, and a step counts once most custodians' disks have it. The others *follow*.
//!
//! ```text
//! holder (epoch e)                         follower
//!   (step on the own disk)
//!   Write {state, history}         ->        on disk, if no higher epoch was promised, then
//!                                  <-      Written | Refused {promised} | Lacks
//!   (counts: two of three disks)
//!   Beat                          <->      Beat
//!
//! claimant (holder silent, or back after a restart)
//!   (promise to itself on disk)
//!   Claim {epoch, state}           ->        promise on disk, then
//!                                  <-      Promise {newest state} | Refused | Told {closed}
//!   (newest state of most, written under the new epoch, on two disks: adopted, and only now it acts)
//!
//! holder                                   custodian that was never one before
//!   Write {state, task}            ->        asks the others: did you promise epoch e?
//!                                  <-      Written, once one of them did
//!
//! adopter                                  origin that is back and has all states
//!   Return                         ->        claims a higher epoch
//! ```
//!
//! So at most one member at a time has its steps counted, whoever else believes to hold the task; a bound run is kept
//! over an adoption, since the binding is part of the state; and a task whose end counted is closed for ever. A set
//! changes by a step that needs most of the old and most of the new, then by one that needs the new alone.
//!
//! What it never does: place tasks (the origin part of `negotiation` makes the steps of held tasks), hold a clock,
//! socket, disk or randomness, or compute custodians anew.
//!
//! Source: the promises are those of Lamport, "Paxos Made Simple", 2001, with the whole state as the value.

mod action;
mod claim;
mod config;
mod custodian;
mod error;
mod follow;
mod frame;
mod hold;
mod kept;
mod message;
mod quorum;
mod record;
mod ring;

pub use action::{Action, Found, Input};
pub use config::CustodyConfig;
pub use cpi::task::Durability;
pub use custodian::{Custodian, CustodyStats};
pub use error::{BindError, CancelError, EndError, PromiseError};
pub use frame::{FRAME_BYTES_MAX, OpenFrameError, open_frame, seal_frames};
pub use message::{Claim, Message, Write};
pub use quorum::{Quorum, durability_of};
pub use record::{Binding, CancelMark, CustodyRecord, EndMark};
pub use ring::{CUSTODIANS, Seat, complete, place};

#[cfg(test)]
mod tests;
