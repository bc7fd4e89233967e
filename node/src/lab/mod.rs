//! The lab: a ring of real processes on one machine, the main job that runs across it, and the checks of its results.
//!
//! Nothing here is known to the nodes: they are the same processes that an operator deploys, founded and joined by the same
//! verbs, and everything that the lab wants of them goes through the command line or HTTP.
//!
//! ```text
//! ring      configs/lab/ring.toml: regions, distances, the job
//! relays    the round trips between the nodes
//! process   nodes as processes, and the command line as a person types it
//! founding  init, invite, join, approve
//! job       plan, run, logs, artifacts, check
//! up        all of it in order, and the end
//! ```

pub mod check;
mod founding;
mod job;
mod leftovers;
pub mod process;
mod relays;
mod report;
pub mod ring;
mod up;

pub use founding::{found, join};
pub use up::{Keep, LabCommand, UpArgs, up};
