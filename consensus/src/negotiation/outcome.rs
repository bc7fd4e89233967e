//! How a run ended, as it travels and is recorded.

use cpi::ids::ContentDigest;
use cpi::reason::Reason;
use serde::{Deserialize, Serialize};

/// The most files one outcome names.
pub const FILES_MAX: usize = 1024;

/// A run's own account of its end.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RunOutcome {
    /// The exit code, where the program exited.
    pub exit_code: Option<i32>,
    /// The signal, where it was ended by one.
    pub signal: Option<i32>,
    /// `None` for exit code 0 with all outputs there.
    pub reason: Option<Reason>,
    /// Elapsed time.
    pub wall_ms: u64,
    /// Processor time.
    pub cpu_ms: u64,
    /// The most memory held at once.
    pub memory_peak_bytes: u64,
    /// Declared outputs that were found; their content lies in the provider's artifact store under its digest.
    pub outputs: Vec<FileRef>,
    /// The logs, named `stdout` and `stderr`, likewise. Empty logs may be left out.
    pub logs: Vec<FileRef>,
}

/// A file by content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRef {
    /// Relative path in the run's folder, or the log's name.
    pub path: String,
    /// SHA-256 of the content.
    pub digest: ContentDigest,
    /// Its length.
    pub size_bytes: u64,
}

impl RunOutcome {
    /// Digest of the canonical encoding: what End compares.
    pub fn digest(&self) -> ContentDigest {
        ContentDigest::of(&crate::codec::encode(1, self).expect("an outcome has only plain fields"))
    }

    /// Whether the program did what was asked.
    pub fn is_success(&self) -> bool {
        self.reason.is_none()
    }

    /// Whether it keeps the bounds of what comes from elsewhere.
    pub fn is_bounded(&self) -> bool {
        let files = self.outputs.iter().chain(&self.logs);
        self.outputs.len() + self.logs.len() <= FILES_MAX
            && files.into_iter().all(|f| f.path.len() <= 4096)
            && self.reason.as_ref().is_none_or(|r| r.detail.len() <= 4 * Reason::DETAIL_CHARS_MAX)
    }

    /// Whether anything has to be brought to the origin.
    pub fn has_files(&self) -> bool {
        !self.outputs.is_empty() || !self.logs.is_empty()
    }
}
