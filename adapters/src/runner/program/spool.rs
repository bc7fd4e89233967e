//! One stream of the command: from its pipe into a bounded file, from where it is sent and sent again.

use std::path::PathBuf;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::watch;

/// A log as it grows.
pub(super) struct Spool {
    pub path: PathBuf,
    pub length: watch::Receiver<u64>,
}

impl Spool {
    /// Moves what comes from `pipe` into the file at `path` until the pipe ends, in a task of its own.
    pub fn start(
        path: PathBuf,
        bytes_max: u64,
        mut pipe: impl AsyncRead + Unpin + Send + 'static,
        changed: Arc<watch::Sender<u64>>,
    ) -> std::io::Result<(Self, tokio::task::JoinHandle<()>)> {
        use std::io::Write as _;
        let mut file = std::fs::File::options().create_new(true).append(true).open(&path)?;
        let (told, length) = watch::channel(0_u64);
        let pumping = tokio::spawn(async move {
            let mut chunk = vec![0; 64 << 10];
            let (mut written, mut cut) = (0_u64, false);
            // what is more than the bound is read and dropped, so that the command is not held up
            while let Ok(count @ 1..) = pipe.read(&mut chunk).await {
                if cut {
                    continue;
                }
                let room = usize::try_from(bytes_max.saturating_sub(written)).unwrap_or(usize::MAX);
                let mut kept = chunk[..count.min(room)].to_vec();
                if kept.len() < count {
                    cut = true;
                    let at = written + kept.len() as u64;
                    kept.extend_from_slice(format!("\n[causeway: the log is cut here, after {at} bytes]\n").as_bytes());
                }
                if file.write_all(&kept).is_err() {
                    return;
                }
                written += kept.len() as u64;
                told.send_replace(written);
                changed.send_modify(|count| *count += 1);
            }
        });
        Ok((Self { path, length }, pumping))
    }

    pub fn length(&self) -> u64 {
        *self.length.borrow()
    }

    /// At most `bytes_max` bytes from `offset`.
    pub fn read(&self, offset: u64, bytes_max: usize) -> std::io::Result<Vec<u8>> {
        super::link::read_piece(&self.path, offset, bytes_max)
    }
}
