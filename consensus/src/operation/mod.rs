//! Operations on machines: made, changed, switched, released on a platform that answers late, twice, out of order or never.
//!
//! One record per operation, on disk before its platform hears of it. Operations on one resource follow each other. What a
//! platform says by itself is a hint and makes the machine ask; only the answer to its newest question counts, so that late,
//! repeated and reordered news cannot decide anything. A question without an answer is asked again; a call without one is
//! looked up by the resource's tag before it is repeated. The state machine is pure: a driver writes, calls and asks.

mod machine;
mod record;

pub use machine::{Action, Input, OperationConfig, Operations, QuestionId};
pub use record::{OperationPhase, OperationRecord, Sight, SightState, Verb};

#[cfg(test)]
mod tests;
