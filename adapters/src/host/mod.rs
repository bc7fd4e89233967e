//! The node's side of plugins: finds their programs, starts them on demand, watches over them, and gives the node an
//! [`Adapter`](crate::contract::Adapter) for each.
//!
//! ```text
//!  PluginAdapter --call--> Unit (one per plugin) --picks--> Instance (one per process) --gRPC, Unix socket--> plugin
//!                           |  gate, versions, quarantine      |  heartbeat, memory, changes of runs
//!                           `- keeper task per replica --------'  reaper task
//! ```
//!
//! A program is copied while it is hashed, and the copy is what runs: what was checked is what runs, and an older version can
//! be had back though its file was overwritten. A plugin that speaks another protocol, hangs, floods or answers what the
//! protocol does not allow ends up in quarantine with a reason; the node and the other plugins go on.
//!
//! Limits: open files by rlimit, memory and processor time by what the kernel counts for the process, seen at each
//! heartbeat. Control groups are left alone on purpose: `local` starts the runs' supervisors, which must outlive it.

mod by_runner;
mod config;
mod discover;
mod instance;
mod keeper;
mod output;
mod plugins;
mod program;
mod remote;
mod unit;
mod view;

pub use config::{Limits, PluginSpec, ProgramSpec, Timing};
pub use discover::{FoundPlugin, discover};
pub use plugins::{AddPluginError, HostConfig, PLUGINS_MAX, PluginHost, UnknownPlugin, is_name};
pub use remote::{NOT_STARTED, PluginAdapter};
pub use unit::SwapError;
pub use view::{InstanceView, PluginState, PluginView};

pub(crate) fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
