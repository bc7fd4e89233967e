//! One stream of a run, from its pipe into its file, up to a bound.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// How much is read before the other sources get their turn.
const TURN_BYTES: usize = 1 << 20;

/// A log as it grows.
pub(super) struct LogPump {
    pipe: Option<File>,
    file: File,
    written: u64,
    bytes_max: u64,
    cut: bool,
}

impl LogPump {
    /// A pump from a new pipe into `path`, and the pipe's end for the run.
    pub fn open(path: &Path, bytes_max: u64) -> io::Result<(Self, OwnedFd)> {
        use nix::fcntl::{FcntlArg, OFlag, fcntl};
        let file = File::options().create(true).append(true).open(path)?;
        let written = file.metadata()?.len();
        let (ours, theirs) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok((Self { pipe: Some(ours.into()), file, written, bytes_max, cut: false }, theirs))
    }

    /// What to poll, while there may be more.
    pub fn source(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(|pipe| pipe.as_fd())
    }

    /// Moves what is there. Never fails: a log that cannot be written is cut, the run goes on.
    pub fn pump(&mut self) {
        let mut chunk = [0; 64 << 10];
        for _ in 0..TURN_BYTES / chunk.len() {
            let Some(pipe) = self.pipe.as_mut() else { return };
            match pipe.read(&mut chunk) {
                Ok(0) => self.pipe = None,
                Ok(count) => self.keep(&chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.pipe = None,
            }
        }
    }

    /// Moves the rest once nobody writes any more.
    pub fn drain(&mut self) {
        let before = |pump: &Self| (pump.pipe.is_some(), pump.written, pump.cut);
        loop {
            let state = before(self);
            self.pump();
            if self.pipe.is_none() || before(self) == state {
                return;
            }
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.cut {
            return;
        }
        let room = usize::try_from(self.bytes_max.saturating_sub(self.written)).unwrap_or(usize::MAX);
        let kept = &bytes[..bytes.len().min(room)];
        if self.file.write_all(kept).is_err() {
            self.cut = true;
            return;
        }
        self.written += kept.len() as u64;
        if kept.len() < bytes.len() {
            self.cut = true;
            let _ = writeln!(self.file, "\n[causeway: the log is cut here, after {} bytes]", self.written);
        }
    }
}
