//! The `kubernetes` backend: each run is a Job with one pod, found again by its tag.
//!
//! ```text
//! request -> rules (south.submit) -> Job -> the cluster's controllers and kubelets
//! Jobs, pods, nodes, claims, quotas -> watches -> Seen -> rules (north.*) -> states, servers, volumes
//! ```
//!
//! Answers come from what the watches have seen; where a watch is lost they come from the server, or fail. Nothing is kept
//! that a new process does not find on the cluster: a cancel is an annotation of the Job. It makes no reservations (the
//! platform has none) and no machines. What it cannot do is in `docs/adapters.md`.

mod adapter;
mod backend;
mod client;
mod facts;
mod inventory;
mod job;
mod patience;
mod quantity;
mod seen;
mod tag;
mod watching;

pub use adapter::KubernetesAdapter;
pub use backend::KubernetesBackend;
pub(crate) use quantity::milli;

#[cfg(test)]
mod tests;
