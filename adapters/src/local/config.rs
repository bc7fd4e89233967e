//! What the `local` backend is told.

use cpi::resource::PoolSpec;
use std::ffi::OsString;
use std::path::PathBuf;

/// User ids that runs get, one each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UidRange {
    /// The first one.
    pub first: u32,
    /// How many.
    pub count: u32,
}

/// Settings of the `local` backend.
#[derive(Debug, Clone)]
pub struct LocalConfig {
    /// Where run folders lie; created with mode 0700.
    pub runs_dir: PathBuf,
    /// The program that holds [`super::supervisor::main`].
    pub supervisor_exe: PathBuf,
    /// What goes before the runs folder on its command line, for example `run-supervisor`.
    pub supervisor_args: Vec<OsString>,
    /// The pools, as declared. Their chips are shown as declared and not looked for.
    pub pools: Vec<PoolSpec>,
    /// User ids for runs where the node is root. `None`: a range of 65,536 ids from 2,000,000,000 up that no other node of
    /// this machine has claimed. Never shared by two nodes: runs are ended by their user id.
    pub uids: Option<UidRange>,
    /// Name of the control group under which runs get theirs. Default `causeway`. It lies outside the node's own group,
    /// so that a service manager that clears the node's group leaves runs alone.
    pub cgroup_parent: String,
    /// Folders beyond the system's libraries and programs that runs may read, for example where models lie. Default none.
    pub read_paths: Vec<PathBuf>,
    /// Refuse runs unless both a user id (or user namespace) of their own and Landlock can be had. Default false: one of
    /// the two is enough.
    pub isolation_required: bool,
    /// The most that is kept of each of a run's two streams, in bytes; the rest is dropped behind a marker. Default 64 MiB.
    pub log_bytes_max: u64,
    /// The most processes and threads of one run. Default 4,096.
    pub processes_max: u32,
    /// How long a run over its time limit may take to end by itself before it is killed, in ms. Default 2,000.
    pub time_limit_grace_ms: u64,
}

impl LocalConfig {
    /// The defaults.
    pub fn new(runs_dir: impl Into<PathBuf>, supervisor_exe: impl Into<PathBuf>, pools: Vec<PoolSpec>) -> Self {
        Self {
            runs_dir: runs_dir.into(),
            supervisor_exe: supervisor_exe.into(),
            supervisor_args: vec!["run-supervisor".into()],
            pools,
            uids: None,
            cgroup_parent: "causeway".into(),
            read_paths: Vec::new(),
            isolation_required: false,
            log_bytes_max: 64 << 20,
            processes_max: 4096,
            time_limit_grace_ms: 2000,
        }
    }
}
