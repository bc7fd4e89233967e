//! Slurm by `slurmrestd`: jobs that execute the one runner, in partitions as pools.
//!
//! ```text
//!  SlurmAdapter -- Jobs (who runs, by tag; one poll for all) --- Rest (HTTP over a Unix socket or TCP) --- slurmrestd
//!       |--------- Nodes (servers, classes, free shapes) ------'
//!       `--------- holds: a job that only sleeps keeps capacity for a run
//! ```
//!
//! Nothing is kept that Slurm does not have: a job is ours by its comment and found by its name, the run's tag. Conversions are
//! rules (`configs/rules/slurm.toml`), here is only what rules cannot say. A controller that forgets jobs or brings them back
//! is met by looking at tags, never at job numbers alone.

mod adapter;
mod backend;
mod config;
mod convert;
mod jobs;
mod nodes;
mod rest;

pub use adapter::SlurmAdapter;
pub use backend::SlurmBackend;
pub use config::SlurmConfig;
