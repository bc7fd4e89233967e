//! One file per noun: parameters in, a service's answer out.

pub mod adapters;
pub mod artifacts;
pub mod dictionary;
pub mod identifiers;
pub mod members;
pub mod operations;
pub mod pools;
pub mod register_many;
pub mod registry;
pub mod resolve;
pub mod stream;
pub mod task_events;
pub mod tasks;
pub mod watch;
