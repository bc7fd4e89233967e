//! The `local` backend: commands as real processes of this machine, one supervisor process beside each.
//!
//! ```text
//!  node process                     launcher (one per node)          supervisor (one per run)        run
//!  LocalAdapter --- folder name --> fork ------------------------->  lock, cgroup, pipes, fork --->  own uid, Landlock, exec
//!      ^   `------- control.sock: renew, cancel -------------------->  lease on the boot clock
//!      `----------- events.sock: running, frozen, ended <-----------'  exit.json
//! ```
//!
//! The launcher exists because forking a small process is far cheaper than starting this large program for every run.
//! Supervisors outlive both the launcher and the node; a restarted node finds its runs by their folders and locks.
//!
//! Run folders are written without a sync: a run cannot outlive the machine's boot, so what a power cut takes from the
//! folder it took from the run as well, and such a run is reported as lost. What is acknowledged onward is synced by the
//! node (its records, its artifact store).

mod adapter;
mod backend;
mod clock;
mod config;
pub(crate) mod folder;
pub(crate) mod group;
mod inputs;
mod known;
mod launcher;
pub(crate) mod outputs;
pub(crate) mod pids;
mod prepare;
pub mod supervisor;
mod uids;

pub use adapter::{LocalAdapter, OpenLocalError};
pub use backend::LocalBackend;
pub use config::{LocalConfig, UidRange};
