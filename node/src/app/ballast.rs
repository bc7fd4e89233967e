//! The ballast: a file that holds a part of the disk for the moment when all else is full.
//!
//! New work is refused long before (`data.free_bytes_min`), but what runs goes on writing, and so do other programs. When
//! nearly nothing is free the ballast is given up, so that the node can write what it must, or start at all; once there is
//! room again it is made anew.

use crate::services::disk::DiskRoom;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The ballast is given up when less than this is free, in bytes: enough for the logs of some seconds.
const LOW_BYTES: u64 = 16 << 20;
/// Between two looks at the disk.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The ballast of a data folder.
#[derive(Debug, Clone)]
pub(super) struct Ballast {
    path: PathBuf,
    bytes: u64,
    room: DiskRoom,
}

impl Ballast {
    /// The ballast of `bytes` in `folder`; 0 for none.
    pub fn new(folder: &Path, bytes: u64, room: DiskRoom) -> Self {
        Self { path: folder.join("ballast"), bytes, room }
    }

    /// Gives the ballast up where the disk is as good as full, or makes it where there is room for it. Blocking.
    pub fn look(&self) {
        let Ok(free_bytes) = self.room.free_bytes() else { return };
        let held = std::fs::metadata(&self.path).map(|file| file.len()).ok();
        match held {
            Some(bytes) if free_bytes < LOW_BYTES || self.bytes == 0 => match std::fs::remove_file(&self.path) {
                Ok(()) if self.bytes > 0 => {
                    tracing::error!(free_bytes, bytes, "the disk is as good as full: the ballast was given up");
                }
                Ok(()) => {}
                Err(error) => tracing::error!(%error, "the ballast cannot be given up"),
            },
            None if self.bytes > 0 && free_bytes >= self.room.free_bytes_min().saturating_add(self.bytes) => {
                match self.make() {
                    Ok(()) => tracing::debug!(bytes = self.bytes, "the ballast was made"),
                    Err(error) => {
                        let _ = std::fs::remove_file(&self.path);
                        tracing::warn!(%error, "the ballast cannot be made");
                    }
                }
            }
            _ => {}
        }
    }

    fn make(&self) -> io::Result<()> {
        let file = File::options().write(true).create_new(true).open(&self.path)?;
        let length = i64::try_from(self.bytes).map_err(io::Error::other)?;
        nix::fcntl::posix_fallocate(&file, 0, length)?;
        file.sync_all()
    }

    /// Looks now and then until `stop`.
    pub async fn keep(self, stop: CancellationToken) {
        let mut timer = tokio::time::interval(LOOK_EVERY);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = timer.tick() => {}
            }
            let ballast = self.clone();
            if tokio::task::spawn_blocking(move || ballast.look()).await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_made_once_and_goes_where_none_is_wanted() {
        let folder = tempfile::tempdir().expect("a folder");
        let room = DiskRoom::new(folder.path(), 0);
        let ballast = Ballast::new(folder.path(), 1 << 20, room.clone());
        ballast.look();
        ballast.look();
        assert_eq!(std::fs::metadata(folder.path().join("ballast")).expect("made").len(), 1 << 20);
        Ballast::new(folder.path(), 0, room).look();
        assert!(!folder.path().join("ballast").exists());
        // no room beside what must stay free
        Ballast::new(folder.path(), 1 << 20, DiskRoom::new(folder.path(), u64::MAX)).look();
        assert!(!folder.path().join("ballast").exists());
    }
}
