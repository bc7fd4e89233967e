//! Who may decide for a task, and what of its life is on record: submit, bind, cancel and end under a fence.
//!
//! Every task has custodians, named at submission and never computed again from the ring. Each keeps one
//! [`CustodyRecord`]; a step counts once a [`Quorum`] of their disks has it. With one custodian (the origin alone,
//! `durability: local`) the quorum is its own disk; with three it is two. Bind and End are compare-and-set under the
//! fence, so that one provider at most is bound per fence and one result at most is accepted per task.
//!
//! This room decides and keeps nothing on disk: drivers persist records and report back.

mod error;
mod quorum;
mod record;

pub use error::{BindError, CancelError, EndError, PromiseError};
pub use quorum::{Durability, Quorum};
pub use record::{Binding, CancelMark, CustodyRecord, EndMark};

#[cfg(test)]
mod tests;
