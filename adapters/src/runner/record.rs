//! The folder of a run at the desk: what is on disk survives the node, and nothing else has to.
//!
//! ```text
//! TASK-FENCE/
//!   request.json    the run, and whose it is
//!   submitted       empty: its platform has taken it
//!   runner          the instance that owns it
//!   stdout stderr   as far as they have come
//!   output-N        likewise
//!   end.json        the end; written once, by rename, after all that it names was synced
//! ```

use super::{key_of, name_of};
use crate::contract::{RunEnd, RunKey, RunRequest};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Seek as _, Write as _};
use std::path::{Path, PathBuf};

const REQUEST: &str = "request.json";
const SUBMITTED: &str = "submitted";
const RUNNER: &str = "runner";
const END: &str = "end.json";
/// The two logs.
pub(super) const LOGS: [&str; 2] = ["stdout", "stderr"];
/// The longest name of a runner's instance.
const INSTANCE_BYTES_MAX: usize = 64;

/// What the desk was asked to run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct DeskRecord {
    /// Format; 1.
    pub version: u8,
    /// The adapter that it belongs to.
    pub adapter: String,
    pub request: RunRequest,
}

/// The folder of one run.
#[derive(Debug, Clone)]
pub(super) struct DeskFolder(pub PathBuf);

/// What a folder says at a restart.
pub(super) struct Found {
    pub key: RunKey,
    pub record: DeskRecord,
    pub submitted: bool,
    pub runner: Option<String>,
    pub end: Option<RunEnd>,
}

impl DeskFolder {
    pub fn of(desk: &Path, key: &RunKey) -> Self {
        Self(desk.join(name_of(key)))
    }

    /// Makes the folder with its record, whole or not at all.
    pub fn create(&self, record: &DeskRecord) -> io::Result<()> {
        let draft = self.0.with_extension("draft");
        let _ = std::fs::remove_dir_all(&draft);
        std::fs::create_dir(&draft)?;
        write_whole(&draft, REQUEST, record, false)?;
        std::fs::rename(&draft, &self.0)
    }

    /// Reads what lies there; `None` for a folder that is no run's.
    pub fn read(&self) -> io::Result<Option<Found>> {
        let name = self.0.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some(key) = key_of(name) else { return Ok(None) };
        let record = read_json(&self.0.join(REQUEST))?;
        let there = |result: io::Result<_>| match result {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other.map(Some),
        };
        let runner = match std::fs::read_to_string(self.0.join(RUNNER)) {
            Ok(text) if text.len() <= INSTANCE_BYTES_MAX => Some(text),
            _ => None,
        };
        let end = there(read_json(&self.0.join(END)))?;
        Ok(Some(Found { key, record, submitted: self.0.join(SUBMITTED).exists(), runner, end }))
    }

    pub fn record(&self) -> io::Result<DeskRecord> {
        read_json(&self.0.join(REQUEST))
    }

    pub fn mark_submitted(&self) -> io::Result<()> {
        File::create(self.0.join(SUBMITTED)).map(drop)
    }

    /// The instance owns the run from now on.
    pub fn bind(&self, instance: &str) -> io::Result<()> {
        let draft = self.0.join(".runner.draft");
        std::fs::write(&draft, instance)?;
        std::fs::rename(draft, self.0.join(RUNNER))
    }

    pub fn output(&self, index: usize) -> PathBuf {
        self.0.join(format!("output-{index}"))
    }

    pub fn log(&self, which: usize) -> PathBuf {
        self.0.join(LOGS[which.min(1)])
    }

    pub fn write_end(&self, end: &RunEnd) -> io::Result<()> {
        for which in 0..LOGS.len() {
            match File::open(self.log(which)) {
                Ok(file) => file.sync_data()?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        for output in &end.outputs {
            File::open(&output.source)?.sync_data()?;
        }
        write_whole(&self.0, END, end, true)
    }

    /// Removes everything.
    pub fn remove(&self) -> io::Result<()> {
        match std::fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

/// How many bytes of a file there are.
pub(super) fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |meta| meta.len())
}

/// Adds `bytes`, which begin at `offset`, to the file: what it has already is skipped. The new length.
///
/// # Errors
/// `InvalidInput` where bytes between are missing, `FileTooLarge` beyond `bytes_max`, or the disk's.
pub(super) fn append(path: &Path, offset: u64, bytes: &[u8], bytes_max: u64) -> io::Result<u64> {
    let mut file = File::options().create(true).append(true).open(path)?;
    let have = file.metadata()?.len();
    if offset > have {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("a gap: {have} bytes are here, {offset} come"),
        ));
    }
    let known = usize::try_from(have - offset).unwrap_or(usize::MAX).min(bytes.len());
    let new = &bytes[known..];
    if have + new.len() as u64 > bytes_max {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {bytes_max} bytes")));
    }
    if let Err(error) = file.write_all(new) {
        // half a piece would be taken for a whole one
        let _ = file.set_len(have);
        return Err(error);
    }
    file.stream_position().map(|_| have + new.len() as u64)
}

fn invalid(error: serde_json::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> io::Result<T> {
    serde_json::from_slice(&std::fs::read(path)?).map_err(invalid)
}

fn write_whole<T: Serialize>(folder: &Path, name: &str, value: &T, sync: bool) -> io::Result<()> {
    let draft = folder.join(format!(".{name}.draft"));
    let mut file = File::create(&draft)?;
    file.write_all(&serde_json::to_vec(value).map_err(invalid)?)?;
    if sync {
        file.sync_data()?;
    }
    drop(file);
    std::fs::rename(&draft, folder.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_may_come_again_and_leave_no_gap() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        assert_eq!(append(&path, 0, b"abc", 8).unwrap(), 3);
        assert_eq!(append(&path, 1, b"bcde", 8).unwrap(), 5);
        assert_eq!(append(&path, 0, b"ab", 8).unwrap(), 5);
        assert_eq!(append(&path, 6, b"g", 8).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(append(&path, 5, b"fghi", 8).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(std::fs::read(&path).unwrap(), b"abcde");
    }
}
