//! The control group of a run, on cgroups v1 or v2, whichever this machine has: limits, the memory killer's count, and the
//! list of everything the run started.

use cgroups_rs::CgroupPid;
use cgroups_rs::fs::hierarchies;
use cgroups_rs::fs::{Cgroup, Controller, MaxValue};
use cgroups_rs::fs::{cpu::CpuController, freezer::FreezerController, memory::MemController, pid::PidController};
use cpi::resource::Quantity;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// The length of a period in which a run gets its share of the processors, in us.
const CPU_PERIOD_US: u64 = 100_000;
/// The shortest quota that the kernel takes, in us.
const CPU_QUOTA_US_MIN: u64 = 1_000;

/// Which controllers can be used here.
#[derive(Debug, Clone)]
pub(crate) struct Controllers {
    parent: String,
    v2: bool,
    names: Vec<String>,
}

fn io_error(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::other(error)
}

impl Controllers {
    /// Tries which of memory, cpu and pids may be used under the group `parent`, by making a group in each.
    pub fn detect(parent: &str) -> Self {
        let v2 = hierarchies::auto().v2();
        let names = ["memory", "cpu", "pids"]
            .iter()
            .map(|name| (*name).to_owned())
            .filter(|name| {
                let trial = format!("{parent}/.trial-{}", std::process::id());
                let made =
                    Cgroup::new_with_specified_controllers(hierarchies::auto(), &trial, Some(vec![name.clone()]));
                // v1 silently has no subsystem where the controller is not mounted; v2 may not delegate it
                made.is_ok_and(|group| {
                    let usable = group.exists()
                        && group.subsystems().iter().all(|sub| {
                            let path = sub.to_controller().path().to_owned();
                            path.join(if v2 { format!("{name}.max") } else { "cgroup.procs".to_owned() }).exists()
                        });
                    let _ = group.delete();
                    usable
                })
            })
            .collect();
        Self { parent: parent.to_owned(), v2, names }
    }

    /// Whether a run can have a group at all.
    pub fn is_usable(&self) -> bool {
        !self.names.is_empty()
    }

    /// Whether memory is limited by the kernel.
    pub fn limits_memory(&self) -> bool {
        self.names.iter().any(|name| name == "memory")
    }

    /// For people.
    pub fn describe(&self) -> String {
        if self.is_usable() {
            format!("cgroup v{}: {}", if self.v2 { 2 } else { 1 }, self.names.join(", "))
        } else {
            "no cgroup is writable: limits by rlimits and by watching memory".to_owned()
        }
    }

    /// The group of `run`, which may exist or not.
    pub fn group_of(&self, run: &str) -> Option<RunGroup> {
        self.is_usable().then(|| RunGroup::load(self, run))
    }
}

/// The group of one run.
#[derive(Debug)]
pub(crate) struct RunGroup {
    path: String,
    v2: bool,
    group: Cgroup,
    /// v1 only: made when first needed, because few runs are ever frozen.
    freezer: Option<Cgroup>,
}

impl RunGroup {
    fn load(controllers: &Controllers, run: &str) -> Self {
        let path = format!("{}/{run}", controllers.parent);
        let mut names = controllers.names.clone();
        if controllers.v2 {
            names.push("freezer".to_owned());
        }
        let group = Cgroup::load_with_specified_controllers(hierarchies::auto(), &path, names);
        Self { path, v2: controllers.v2, group, freezer: None }
    }

    /// Makes the group and sets its limits. A group left by a dead supervisor is taken over.
    pub fn create(&self, controllers: &Controllers, need: &Quantity, processes_max: u32) -> io::Result<()> {
        self.create_unlimited(controllers)?;
        if let Some(memory) = self.group.controller_of::<MemController>() {
            let bytes = i64::try_from(need.memory_bytes.max(1 << 20)).unwrap_or(i64::MAX);
            memory.set_limit(bytes).map_err(io_error)?;
            // swap accounting may be off, and then there is no such file: memory alone is limited
            let _ = memory.set_memswap_limit(if self.v2 { 0 } else { bytes });
        }
        if let Some(cpu) = self.group.controller_of::<CpuController>() {
            let quota = (need.cpu_milli.saturating_mul(CPU_PERIOD_US) / 1000).max(CPU_QUOTA_US_MIN);
            let quota = i64::try_from(quota).unwrap_or(i64::MAX / 1000);
            cpu.set_cfs_quota_and_period(Some(quota), Some(CPU_PERIOD_US)).map_err(io_error)?;
        }
        if let Some(pids) = self.group.controller_of::<PidController>() {
            pids.set_pid_max(MaxValue::Value(i64::from(processes_max))).map_err(io_error)?;
        }
        Ok(())
    }

    /// Makes the group without limits.
    pub fn create_unlimited(&self, controllers: &Controllers) -> io::Result<()> {
        if !self.v2 {
            return self.group.create().map_err(io_error);
        }
        // `freezer` is no controller of v2 and must not be asked for
        Cgroup::new_with_specified_controllers(hierarchies::auto(), &self.path, Some(controllers.names.clone()))
            .map(drop)
            .map_err(io_error)
    }

    /// Moves a process into the group.
    pub fn add(&self, pid: i32) -> io::Result<()> {
        self.group.add_task_by_tgid(CgroupPid::from(u64::from(pid.unsigned_abs()))).map_err(io_error)
    }

    /// Files into which a process writes its id to enter the group.
    pub fn procs_files(&self) -> Vec<PathBuf> {
        self.group.subsystems().iter().map(|sub| sub.to_controller().path().join("cgroup.procs")).collect()
    }

    /// The processes in the group.
    pub fn pids(&self) -> Vec<i32> {
        let Some(sub) = self.group.subsystems().first() else { return Vec::new() };
        sub.to_controller().procs().iter().filter_map(|pid| i32::try_from(pid.pid).ok()).collect()
    }

    /// Allows no new process, so that a kill is final.
    pub fn close(&self) {
        if let Some(pids) = self.group.controller_of::<PidController>() {
            let _ = pids.set_pid_max(MaxValue::Value(0));
        }
    }

    /// Kills everything in it at once where the kernel can (v2).
    pub fn kill(&self) {
        if self.v2 {
            let _ = self.group.kill();
        }
    }

    /// Stops everything in the group. On v1 the run's processes are moved into a frozen group, until none is left outside.
    pub fn freeze(&mut self) -> io::Result<()> {
        if self.v2 {
            let freezer = self.group.controller_of::<FreezerController>().ok_or(io::ErrorKind::Unsupported)?;
            return freezer.freeze().map_err(io_error);
        }
        let cgroup =
            Cgroup::new_with_specified_controllers(hierarchies::auto(), &self.path, Some(vec!["freezer".to_owned()]))
                .map_err(io_error)?;
        let freezer = cgroup.controller_of::<FreezerController>().ok_or(io::ErrorKind::Unsupported)?;
        freezer.freeze().map_err(io_error)?;
        let mut moved = std::collections::BTreeSet::new();
        loop {
            let fresh: Vec<i32> = self.pids().into_iter().filter(|pid| moved.insert(*pid)).collect();
            if fresh.is_empty() {
                break;
            }
            for pid in fresh {
                // it may have ended meanwhile
                let _ = cgroup.add_task_by_tgid(CgroupPid::from(u64::from(pid.unsigned_abs())));
            }
        }
        self.freezer = Some(cgroup);
        Ok(())
    }

    /// Lets everything in the group go on.
    pub fn thaw(&self) {
        let cgroup = self.freezer.as_ref().unwrap_or(&self.group);
        if let Some(freezer) = cgroup.controller_of::<FreezerController>() {
            let _ = freezer.thaw();
        }
    }

    fn memory_file(&self, name: &str) -> Option<String> {
        let memory = self.group.controller_of::<MemController>()?;
        std::fs::read_to_string(Controller::path(memory).join(name)).ok()
    }

    /// How often the kernel killed something of the run for its memory.
    pub fn oom_kills(&self) -> u64 {
        let Some(text) = self.memory_file(if self.v2 { "memory.events" } else { "memory.oom_control" }) else {
            return 0;
        };
        text.lines()
            .filter_map(|line| line.split_once(' '))
            .find(|(key, _)| *key == "oom_kill")
            .and_then(|(_, count)| count.trim().parse().ok())
            .unwrap_or(0)
    }

    /// The most memory that was held at once, in bytes.
    pub fn memory_peak(&self) -> Option<u64> {
        self.memory_file(if self.v2 { "memory.peak" } else { "memory.max_usage_in_bytes" })?.trim().parse().ok()
    }

    /// Removes the group, which must be empty; gives the kernel a moment to let go of the dead.
    pub fn delete(&self) {
        for cgroup in self.freezer.iter().chain([&self.group]) {
            for _ in 0..50 {
                let gone: Vec<PathBuf> = cgroup
                    .subsystems()
                    .iter()
                    .map(|sub| sub.to_controller().path().to_owned())
                    .filter(|path| path.exists() && std::fs::remove_dir(path).is_err() && path.exists())
                    .collect();
                if gone.is_empty() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }

    /// Takes note of a freezer group that an earlier process made, so that it is thawed and removed too.
    pub fn adopt_freezer(&mut self) {
        if !self.v2 {
            let cgroup =
                Cgroup::load_with_specified_controllers(hierarchies::auto(), &self.path, vec!["freezer".to_owned()]);
            if cgroup.exists() {
                self.freezer = Some(cgroup);
            }
        }
    }
}
