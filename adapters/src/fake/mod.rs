//! A backend that runs nothing: runs are played by script, at once or over time. For benchmarks, and for what a real
//! platform does on its worst days: errors, delays, events twice, late, out of order or not at all, runs that vanish.
//!
//! A script is the backend's default, a task's own ([`FakeAdapter::script`]), or comes with the run in the environment
//! variable `CAUSEWAY_FAKE` as JSON. Time is tokio's, so that a test may pause it.

mod adapter;
mod backend;
mod machines;
mod script;

pub use adapter::FakeAdapter;
pub use backend::FakeBackend;
pub use script::{FakeScript, Lie, SCRIPT_VARIABLE};
