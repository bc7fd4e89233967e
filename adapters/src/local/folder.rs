//! The folder of a run: what lies in it, and the records that the node and the supervisor exchange through it.
//!
//! ```text
//! <task>-<fence>/      0700, the node's
//!   request.json       the intent, there before anything runs
//!   lock               held by the supervisor; names it
//!   control.sock       renewals and cancels
//!   cancel             a cancel that came before the supervisor listened
//!   stdout stderr      bounded logs
//!   exit.json          the end; written once, by rename
//!   work/ tmp/         the run's own
//! ```

use super::clock;
use crate::contract::{RunEnd, RunKey, RunRequest};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

pub(crate) const REQUEST: &str = "request.json";
pub(crate) const LOCK: &str = "lock";
pub(crate) const CONTROL: &str = "control.sock";
pub(crate) const CANCEL: &str = "cancel";
pub(crate) const STDOUT: &str = "stdout";
pub(crate) const STDERR: &str = "stderr";
pub(crate) const EXIT: &str = "exit.json";
pub(crate) const WORK: &str = "work";
pub(crate) const TMP: &str = "tmp";
/// Beside the run folders: where the node listens for changes.
pub(crate) const EVENTS: &str = "events.sock";

/// The intent to run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RunRecord {
    /// Format; 1.
    pub version: u8,
    pub request: RunRequest,
    /// The user id it runs as; `None` where the node is not root.
    pub uid: Option<u32>,
    /// The boot in which it was submitted, and when on its clock.
    pub boot_id: String,
    pub submitted_ms: u64,
}

/// Who holds the lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SupervisorId {
    pub boot_id: String,
    pub pid: i32,
    pub start_ticks: u64,
}

impl SupervisorId {
    /// This process.
    pub fn own() -> Self {
        let pid = nix::unistd::getpid().as_raw();
        Self { boot_id: clock::boot_id().to_owned(), pid, start_ticks: clock::start_ticks(pid).unwrap_or(0) }
    }

    /// Whether that very process is still there.
    pub fn is_alive(&self) -> bool {
        self.boot_id == clock::boot_id() && clock::start_ticks(self.pid) == Some(self.start_ticks)
    }
}

/// What a node tells a supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case")]
pub(crate) enum Control {
    Renew { ttl_ms: u64 },
    Cancel { grace_ms: u64 },
}

/// What a supervisor tells the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Notice {
    /// The folder's name.
    pub run: String,
    pub state: NoticeState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum NoticeState {
    Running,
    Frozen,
    /// `exit.json` is there.
    Ended,
    /// The supervisor died without an end (said by the launcher).
    Gone,
}

/// The folder's name: the tag of the run.
pub(crate) fn name_of(key: &RunKey) -> String {
    format!("{}-{}", key.task, key.fence)
}

/// A run folder by its path.
#[derive(Debug, Clone)]
pub(crate) struct RunFolder(pub PathBuf);

impl RunFolder {
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn read_record(&self) -> io::Result<RunRecord> {
        read_json(&self.path(REQUEST))
    }

    /// The end, if there is one.
    pub fn read_end(&self) -> io::Result<Option<RunEnd>> {
        match read_json(&self.path(EXIT)) {
            Ok(end) => Ok(Some(end)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub fn write_end(&self, end: &RunEnd) -> io::Result<()> {
        write_json(&self.0, EXIT, end)
    }

    /// Who supervised or supervises the run, if anybody ever did.
    pub fn supervisor(&self) -> Option<SupervisorId> {
        read_json(&self.path(LOCK)).ok()
    }

    /// Whether its supervisor lives: the lock is held, by the process that it names.
    pub fn is_supervised(&self) -> bool {
        let Ok(lock) = File::open(self.path(LOCK)) else { return false };
        match lock.try_lock_shared() {
            Ok(()) => false,
            Err(std::fs::TryLockError::WouldBlock) => {
                // a supervisor that has not named itself yet is one, too
                self.supervisor().is_none_or(|id| id.is_alive())
            }
            Err(std::fs::TryLockError::Error(_)) => self.supervisor().is_some_and(|id| id.is_alive()),
        }
    }
}

fn invalid(error: serde_json::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

pub(crate) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> io::Result<T> {
    serde_json::from_slice(&std::fs::read(path)?).map_err(invalid)
}

/// Writes `value` under `name`, whole or not at all.
pub(crate) fn write_json<T: Serialize>(folder: &Path, name: &str, value: &T) -> io::Result<()> {
    let draft = folder.join(format!(".{name}.draft"));
    let mut file = File::create(&draft)?;
    file.write_all(&serde_json::to_vec(value).map_err(invalid)?)?;
    drop(file);
    std::fs::rename(&draft, folder.join(name))
}

/// Whether `path` stays inside the folder that it is relative to: 1 to 1,024 bytes, no root, no `..`, no `.` alone.
pub(crate) fn is_inside(path: &str) -> bool {
    use std::path::Component;
    let mut named = false;
    let plain = Path::new(path).components().all(|part| {
        named |= matches!(part, Component::Normal(_));
        matches!(part, Component::Normal(_) | Component::CurDir)
    });
    plain && named && path.len() <= 1024 && !path.contains('\0')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_leave_the_folder_are_seen() {
        for good in ["a", "a/b", "./a", "数据/输入.csv"] {
            assert!(is_inside(good), "{good}");
        }
        for bad in ["", ".", "/", "/etc/passwd", "../a", "a/../../b", "a\0b"] {
            assert!(!is_inside(bad), "{bad}");
        }
    }
}
