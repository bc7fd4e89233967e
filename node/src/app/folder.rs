//! The data folder: private, writable, and of one process at a time.

use nix::fcntl::{Flock, FlockArg};
use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Why the data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// Another process has it.
    #[error("{path} is in use by another node: one identity may run once only", path = path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// It cannot be made or written.
    #[error("the data folder {path} cannot be {verb}", path = path.display())]
    Unusable {
        /// The folder.
        path: PathBuf,
        /// What was tried.
        verb: &'static str,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
}

/// The data folder, locked until this is dropped.
#[derive(Debug)]
pub struct DataFolder {
    path: PathBuf,
    _lock: Flock<File>,
}

impl DataFolder {
    /// Makes the folder if need be, takes its lock, and proves that it can be written.
    ///
    /// # Errors
    /// [`FolderError`].
    pub fn open(path: &Path) -> Result<Self, FolderError> {
        let unusable = |verb| move |source| FolderError::Unusable { path: path.to_owned(), verb, source };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(unusable("made"))?;
        let metadata = std::fs::metadata(path).map_err(unusable("read"))?;
        if metadata.permissions().mode() & 0o077 != 0 {
            // Made by somebody's `mkdir`: the keys inside are safe by themselves, tasks' inputs are not.
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).map_err(unusable("made private"))?;
        }
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path.join("lock"))
            .map_err(unusable("written"))?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock)
            .map_err(|_| FolderError::InUse { path: path.to_owned() })?;
        Self::probe(path).map_err(unusable("written"))?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes and removes a small file: a full or read-only disk is said at start, not at the first task.
    fn probe(path: &Path) -> std::io::Result<()> {
        use std::io::Write as _;
        let mut probe = tempfile::Builder::new().prefix(".probe").tempfile_in(path)?;
        probe.write_all(&[0; 4096])?;
        probe.as_file().sync_all()?;
        probe.close()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_at_a_time_in_a_private_folder() {
        let parent = tempfile::tempdir().expect("a folder");
        let path = parent.path().join("data");
        let first = DataFolder::open(&path).expect("opened");
        let second = DataFolder::open(&path).expect_err("in use");
        assert!(second.to_string().contains("in use by another node"), "{second}");
        drop(first);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("ours");
        DataFolder::open(&path).expect("free again");
        assert_eq!(std::fs::metadata(&path).expect("exists").permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn an_unwritable_folder_is_said_at_start() {
        let parent = tempfile::tempdir().expect("a folder");
        let path = parent.path().join("file");
        std::fs::write(&path, "no folder").expect("ours");
        let error = DataFolder::open(&path).expect_err("no folder");
        assert!(matches!(error, FolderError::Unusable { .. }), "{error}");
        assert!(error.to_string().contains("file"), "{error}");
    }
}
