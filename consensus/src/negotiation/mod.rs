//! Two nodes agree by contract who runs a task: the origin asks, providers offer or decline, one is awarded, commits and
//! is bound under a fence. One machine, [`Negotiator`], plays both parts of a node.
//!
//! ```text
//! origin                                     provider
//!   Ask {need, limits, mode}            ->      policy, residency, quota, fit; in memory
//!                                       <-   Offer | Decline {reason}          signed
//!   Award {offer}                       ->      lease on disk, then
//!                                       <-   Accepted {lease}                  signed
//!   (Bind on two custodians' disks)
//!   Bound                               ->      inputs staged, then the run starts
//!   Release                             ->   to the others; holds also lapse
//!                                       <-   Progress, Renew, Ended            signed end
//!   (outputs fetched, End on two custodians' disks)
//!   EndAck                              ->      run and results forgotten
//! ```
//!
//! With `commit_if` the ask is answered by Accepted at once. What it never does: hold a clock, socket, disk or global
//! randomness; sign or verify; read identifiers from the registry. Drivers do that and hand it verified inputs.

mod action;
mod adopt;
mod answers;
mod binding;
mod capacity;
mod config;
mod counter;
mod demand;
mod digest;
mod directory;
mod ending;
mod event;
mod frame;
mod hold;
mod input;
mod intake;
mod judge;
mod keeping;
mod lease;
mod message;
mod need;
mod negotiator;
mod offers;
mod origin;
mod outbox;
mod outcome;
mod peer;
mod placing;
mod plan;
mod planning;
mod provider;
mod rank;
mod record;
mod round;
mod running;
mod score;
mod shape;
mod spread;
mod task;
pub(crate) mod timers;

pub use action::{Action, PersistId, RunOrder};
pub use capacity::ChipSet;
pub use config::{NegotiationConfig, ProviderPolicy, Weights};
pub use counter::{Counter, Line, ROUNDS_MAX, Side};
pub use digest::{ClassDigest, DIGEST_BODY_BYTES_MAX, DIGEST_BYTES_MAX, Digest, IDENTIFIERS_MAX, PoolDigest};
pub use directory::{Directory, Region};
pub use event::{Actor, DETAIL_CHARS_MAX, EventKind, TaskEvent, TaskState};
pub use frame::{FRAME_BYTES_MAX, OpenFrameError, StatementBatch, open_frame, seal_frames};
pub use input::{Input, PlanRequest, RunNotice, Submission};
pub use message::{
    Accepted, Adopt, Ask, AskMode, Attempt, Award, ClassUpdate, Decline, Ended, Limits, Message, MessageClass, Offer,
    Progress, Renew, Renewed, Target,
};
pub use need::{ChipNeed, DOCUMENT_BYTES_MAX, Need, VARIANTS_MAX, VariantNeed, Wishes};
pub use negotiator::Negotiator;
pub use origin::OriginStats;
pub use outcome::{FileRef, RunOutcome};
pub use peer::Learned;
pub use plan::{Choice, PlanResult, PlannedOffer};
pub use provider::{OwnPool, ProviderStats};
pub use rank::{Answer, Clause, Decision, Question, Ranked, Ranking, Refused, Terms, in_words, rank};
pub use record::{LeasePhase, LeaseRecord, Record, Restored, RestoredTask, RunGrant, TaskRecord};
pub use shape::{BestPlace, SHAPES_MAX, Shape, ShapeDigest};

#[cfg(test)]
mod tests;
