//! Room on the node's disk: what is free, and what must stay so. Work that would add to it is refused below.

use std::io;
use std::path::{Path, PathBuf};

/// Too little is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the disk is full: {free_bytes} bytes are free and {free_bytes_min} must stay free (`data.free_bytes_min`)")]
pub struct DiskFullError {
    /// What is free.
    pub free_bytes: u64,
    /// What must stay free.
    pub free_bytes_min: u64,
}

/// The room on the disk of a folder.
#[derive(Debug, Clone)]
pub struct DiskRoom {
    folder: PathBuf,
    free_bytes_min: u64,
}

impl DiskRoom {
    /// The room where `folder` lies, of which `free_bytes_min` must stay free.
    pub fn new(folder: &Path, free_bytes_min: u64) -> Self {
        Self { folder: folder.to_owned(), free_bytes_min }
    }

    /// Bytes that are free.
    ///
    /// # Errors
    /// What the system says.
    pub fn free_bytes(&self) -> io::Result<u64> {
        let disk = nix::sys::statvfs::statvfs(&self.folder)?;
        Ok(disk.blocks_available().saturating_mul(disk.fragment_size()))
    }

    /// Refuses where too little is free; a disk that cannot be asked counts as full.
    ///
    /// # Errors
    /// [`DiskFullError`].
    pub fn check(&self) -> Result<(), DiskFullError> {
        let free_bytes = self.free_bytes().unwrap_or(0);
        if free_bytes >= self.free_bytes_min {
            return Ok(());
        }
        Err(DiskFullError { free_bytes, free_bytes_min: self.free_bytes_min })
    }

    /// What must stay free.
    pub fn free_bytes_min(&self) -> u64 {
        self.free_bytes_min
    }
}
