//! Everything that a run started: found by its control group, else by its user id, else by descent; ended for good.

use super::group::RunGroup;
use crate::contract::RunKey;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;

/// How often the list is read again before a kill gives up on processes that the kernel will not let go.
const KILL_ROUNDS: usize = 50;

/// By what a run's processes are known.
pub(crate) struct RunPids<'a> {
    pub group: Option<&'a RunGroup>,
    pub uid: Option<u32>,
    /// Where neither is had.
    pub descent: Descent<'a>,
}

/// How a run's processes are found by what they are.
pub(crate) enum Descent<'a> {
    /// They descend from this supervisor, a subreaper.
    Of(i32),
    /// It is dead: they carry the run's mark in the environment they were started with, unless they took it off.
    Marked(&'a RunKey),
}

impl RunPids<'_> {
    /// The processes now. Each way that this run has is asked, the cheapest first.
    pub fn list(&self) -> Vec<i32> {
        if let Some(group) = self.group {
            return group.pids();
        }
        if let Some(uid) = self.uid {
            return by_uid(uid);
        }
        match self.descent {
            Descent::Of(supervisor) => descendants(supervisor),
            Descent::Marked(key) => marked(key),
        }
    }

    /// Sends `signal` to each process once.
    pub fn signal(&self, signal: Signal) {
        for pid in self.list() {
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// Kills all of them, forks in flight too. Zombies of the caller are left for it to reap.
    pub fn kill_all(&self) {
        let Some(group) = self.group else {
            // a process in the middle of an exec shows no environment, so one empty list proves nothing there
            let mut empty_lists = if matches!(self.descent, Descent::Marked(_)) { 5 } else { 1 };
            // stopped processes cannot fork faster than they are listed
            for _ in 0..KILL_ROUNDS {
                let living = self.list();
                if living.is_empty() {
                    empty_lists -= 1;
                    if empty_lists == 0 {
                        return;
                    }
                }
                for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
                    for pid in &living {
                        let _ = kill(Pid::from_raw(*pid), signal);
                    }
                }
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
            return;
        };
        if group.pids().is_empty() {
            return;
        }
        group.close();
        group.kill();
        for _ in 0..KILL_ROUNDS {
            let living = group.pids();
            if living.is_empty() {
                return;
            }
            for pid in living {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            group.thaw();
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    /// Memory held by all of them, in bytes: for machines without a control group.
    pub fn resident_bytes(&self) -> u64 {
        let page = procfs::page_size();
        self.list()
            .into_iter()
            .filter_map(|pid| procfs::process::Process::new(pid).ok()?.statm().ok())
            .map(|statm| statm.resident.saturating_sub(statm.shared) * page)
            .sum()
    }
}

fn stats() -> impl Iterator<Item = (procfs::process::Process, procfs::process::Stat)> {
    procfs::process::all_processes().into_iter().flatten().flatten().filter_map(|process| {
        let stat = process.stat().ok()?;
        // the dead wait for their parent and run nothing
        (stat.state != 'Z' && stat.state != 'X').then_some((process, stat))
    })
}

fn by_uid(uid: u32) -> Vec<i32> {
    stats().filter(|(process, _)| process.uid().is_ok_and(|owner| owner == uid)).map(|(_, stat)| stat.pid).collect()
}

fn descendants(of: i32) -> Vec<i32> {
    let parents: BTreeMap<i32, i32> = stats().map(|(_, stat)| (stat.pid, stat.ppid)).collect();
    let descends = |pid: &i32| {
        let mut at = *pid;
        for _ in 0..parents.len() {
            match parents.get(&at) {
                Some(parent) if *parent == of => return true,
                Some(parent) => at = *parent,
                None => return false,
            }
        }
        false
    };
    parents.keys().copied().filter(descends).collect()
}

fn marked(key: &RunKey) -> Vec<i32> {
    let (task, fence) = (key.task.to_string(), key.fence.to_string());
    let carries = |process: &procfs::process::Process, name: &str, wanted: &str| {
        process
            .environ()
            .is_ok_and(|environ| environ.get(std::ffi::OsStr::new(name)).is_some_and(|value| value == wanted))
    };
    stats()
        .filter(|(process, _)| carries(process, "CAUSEWAY_TASK", &task) && carries(process, "CAUSEWAY_FENCE", &fence))
        .map(|(_, stat)| stat.pid)
        .collect()
}
