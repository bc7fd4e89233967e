//! From the operator's words to what the backends are told.

use super::{AdaptersConfig, Isolation, LocalConfig, NodeConfig};
use adapters::local::{LocalConfig as LocalBackend, UidRange};
use cpi::resource::PoolSpec;
use std::path::Path;

impl NodeConfig {
    /// The pools that `backend` drives.
    pub fn pools_of(&self, backend: &str) -> Vec<PoolSpec> {
        self.pools.iter().filter(|pool| pool.backend == backend).cloned().collect()
    }

    /// What the `local` backend is told; `supervisor_exe` is this program.
    pub fn local_backend(&self, supervisor_exe: &Path) -> LocalBackend {
        let AdaptersConfig { local, .. } = &self.adapters;
        local.backend(&self.runs_dir(), supervisor_exe, self.pools_of("local"))
    }
}

impl LocalConfig {
    fn backend(&self, runs_dir: &Path, supervisor_exe: &Path, pools: Vec<PoolSpec>) -> LocalBackend {
        let mut backend = LocalBackend::new(runs_dir, supervisor_exe, pools);
        backend.uids = (self.uid_base != 0).then_some(UidRange { first: self.uid_base, count: self.uid_count });
        backend.cgroup_parent.clone_from(&self.cgroup);
        backend.read_paths.clone_from(&self.readable);
        backend.isolation_required = self.isolation == Isolation::Required;
        backend.log_bytes_max = self.log_bytes_max;
        backend.processes_max = self.processes_max;
        backend
    }
}
