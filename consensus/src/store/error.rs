//! Why a database could not be opened, read or written.

use std::path::PathBuf;

/// A failure of a database under the data folder.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The folder cannot be made or written.
    #[error(
        "the folder {path} cannot be used: {cause} (check that it exists, that this user owns it, and that the disk has room)"
    )]
    Folder {
        /// Which folder.
        path: PathBuf,
        /// The system's own words.
        cause: String,
    },
    /// Another process has the database open.
    #[error("{path} is in use by another process")]
    InUse {
        /// Which folder.
        path: PathBuf,
    },
    /// The disk is full.
    #[error("the disk under {path} is full")]
    DiskFull {
        /// Which folder.
        path: PathBuf,
    },
    /// Bytes on disk are not what was written.
    #[error("{path} is damaged: {cause}")]
    Damaged {
        /// Which folder.
        path: PathBuf,
        /// The database's own words.
        cause: String,
    },
    /// A write or sync failed. Nothing after it is accepted until the node was restarted.
    #[error("a write to {path} failed: {cause}")]
    Write {
        /// Which folder.
        path: PathBuf,
        /// The database's own words.
        cause: String,
    },
    /// An earlier write or sync failed, or the database is closing.
    #[error("the database was stopped by an earlier failure, or is closing")]
    Stopped,
}

impl StoreError {
    pub(super) fn rocks(path: &std::path::Path, error: &rocksdb::Error) -> Self {
        let cause = error.to_string();
        let path = path.to_owned();
        match error.kind() {
            rocksdb::ErrorKind::Corruption => Self::Damaged { path, cause },
            _ if cause.contains("No space left") => Self::DiskFull { path },
            _ if cause.contains("lock ") || cause.contains("LOCK") => Self::InUse { path },
            _ => Self::Write { path, cause },
        }
    }

    pub(super) fn folder(path: &std::path::Path, error: &std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::StorageFull {
            return Self::DiskFull { path: path.to_owned() };
        }
        Self::Folder { path: path.to_owned(), cause: error.to_string() }
    }
}

impl From<StoreError> for std::io::Error {
    fn from(error: StoreError) -> Self {
        let kind = match error {
            StoreError::DiskFull { .. } => std::io::ErrorKind::StorageFull,
            _ => std::io::ErrorKind::Other,
        };
        std::io::Error::new(kind, error)
    }
}
