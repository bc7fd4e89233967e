//! The run executor: carries out, through the adapters, what the negotiation orders for this region.
//!
//! ```text
//! Prepare -> fetch inputs from the origin -> Staged          Reattach -> find it -> Started | Ended | Lost
//! Start   -> Adapter::submit -> Started -> Ended {outputs and logs in the artifact store, pinned for the origin}
//! Renew, Cancel -> the adapter                               Release -> forget folder, inputs, pins
//! ```
//!
//! One task (`executor`) owns what is known of the runs and never waits; whatever takes time runs beside it and comes
//! back as a `job::Done`. Nothing is durable here: runs are found again in their backends, leases in the negotiation's
//! records. Orders and reports may be repeated.

mod care;
mod executor;
mod finish;
mod job;
mod stage;
mod table;

pub use executor::{ExecutorParts, RunExecutor};
pub use table::{RunSight, RunTable};

#[cfg(test)]
mod tests;
