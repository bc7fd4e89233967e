//! A content on its way into the store: written aside, hashed, and named once it is whole and on disk.

use super::store::{ArtifactStore, Stored};
use cpi::ids::ContentDigest;
use sha2::Digest as _;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// How often the free space is looked at while writing.
const LOOK_EVERY_BYTES: u64 = 16 << 20;

/// Why a content was not stored. Nothing of it remains.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// The disk is full, or as good as.
    #[error(
        "the disk is full: {free_bytes} bytes are free and {free_bytes_min} must stay free (`data.free_bytes_min`)"
    )]
    DiskFull {
        /// What is free.
        free_bytes: u64,
        /// What must stay free.
        free_bytes_min: u64,
    },
    /// More than the caller allows.
    #[error("the content is longer than {bytes_max} bytes")]
    TooLarge {
        /// The bound.
        bytes_max: u64,
    },
    /// It is not what it was said to be.
    #[error("the content is {found} where {expected} was expected")]
    Mismatch {
        /// What came.
        found: ContentDigest,
        /// What was announced.
        expected: ContentDigest,
    },
    /// The sender broke off.
    #[error("the content did not arrive whole")]
    Source(#[source] io::Error),
    /// The disk refused.
    #[error("the content cannot be written")]
    Disk(#[source] io::Error),
}

impl PutError {
    pub(super) fn disk(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::DiskFull { free_bytes: 0, free_bytes_min: 0 }
            }
            _ => Self::Disk(error),
        }
    }
}

/// A content being written. Dropped before it is finished, it leaves nothing.
pub(super) struct Draft {
    file: File,
    path: Option<PathBuf>,
    hash: sha2::Sha256,
    size: u64,
    unseen: u64,
    store: ArtifactStore,
}

impl Draft {
    /// An empty content at `path`.
    pub fn begin(store: &ArtifactStore, path: PathBuf) -> Result<Self, PutError> {
        let file = File::options().write(true).create(true).truncate(true).open(&path).map_err(PutError::disk)?;
        Ok(Self { file, path: Some(path), hash: sha2::Sha256::new(), size: 0, unseen: 0, store: store.clone() })
    }

    /// Adds to it; not beyond `bytes_max` in all.
    pub fn write(&mut self, bytes: &[u8], bytes_max: u64) -> Result<(), PutError> {
        self.size += bytes.len() as u64;
        if self.size > bytes_max {
            return Err(PutError::TooLarge { bytes_max });
        }
        self.unseen += bytes.len() as u64;
        if self.unseen > LOOK_EVERY_BYTES {
            self.unseen = 0;
            self.store.check_space()?;
        }
        self.hash.update(bytes);
        self.file.write_all(bytes).map_err(PutError::disk)
    }

    /// Gives it its name; with `expected`, only if it is that.
    pub fn finish(mut self, store: &ArtifactStore, expected: Option<ContentDigest>) -> Result<Stored, PutError> {
        let digest = ContentDigest(std::mem::take(&mut self.hash).finalize().into());
        if let Some(expected) = expected.filter(|expected| *expected != digest) {
            return Err(PutError::Mismatch { found: digest, expected });
        }
        let stored = Stored { digest, size_bytes: self.size };
        if store.has(&digest) {
            // a new day for a content that nobody pinned yet
            if let Ok(file) = File::open(store.path(&digest)) {
                let _ = file.set_modified(SystemTime::now());
            }
            return Ok(stored);
        }
        self.file.sync_all().map_err(PutError::disk)?;
        let path = self.path.take().expect("a draft is finished once");
        store.name(&path, &digest).map_err(|error| {
            let _ = std::fs::remove_file(&path);
            PutError::disk(error)
        })?;
        Ok(stored)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Drafts of a process that died; partial fetches stay, they are gone on with.
pub(super) fn clear_drafts(partial: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(partial)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(".draft-") {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
