//! What tasks leave: logs while they run and afterwards, outputs brought here and kept.

use super::artifacts::{ArtifactFetcher, FetchError, PinOwner, PutError};
use super::logs::ReadLogError;
use super::task_error::TaskError;
use super::task_views::LogPiece;
use super::tasks::TaskService;
use crate::drivers::negotiation::ResultFetcher;
use adapters::contract::{LogStream, RunKey};
use async_trait::async_trait;
use bytes::Bytes;
use consensus::negotiation::FileRef;
use cpi::ids::{ContentDigest, MemberId, TaskId};
use cpi::reason::{Reason, ReasonCode};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

impl TaskService {
    /// A piece of a log: from the region while the program runs, from here afterwards.
    ///
    /// # Errors
    /// [`TaskError`].
    pub async fn logs(
        &self,
        id: TaskId,
        stream: LogStream,
        offset: u64,
        bytes_max: usize,
    ) -> Result<LogPiece, TaskError> {
        let task = self.find(id)?;
        let me = self.parts.mesh.me();
        // A result can be read once enough custodians hold its digest.
        if let Some(end) = task.custody.end.as_ref().filter(|_| task.summary.state.is_ended()) {
            let name = match stream {
                LogStream::Stdout => "stdout",
                LogStream::Stderr => "stderr",
            };
            let file = end.outcome.as_ref().and_then(|o| o.logs.iter().find(|f| f.path == name));
            let region = self.parts.members.region(me);
            let Some(file) = file.filter(|f| offset < f.size_bytes) else {
                return Ok(LogPiece { offset, bytes: Bytes::new(), end: true, region });
            };
            let bytes = self.read_file(file, offset, bytes_max).await?;
            let end = offset + bytes.len() as u64 >= file.size_bytes;
            return Ok(LogPiece { offset, bytes, end, region });
        }
        let Some(binding) = &task.custody.binding else {
            let region = self.parts.members.region(me);
            return Ok(LogPiece { offset, bytes: Bytes::new(), end: false, region });
        };
        let key = RunKey { task: id, fence: binding.fence };
        let region = self.parts.members.region(binding.provider);
        let read = self.parts.logs.read(&self.parts.mesh, binding.provider, key, stream, offset, bytes_max, 0).await;
        match read {
            // The end of the log is not the end of the task: its record is, and then the log is read here.
            Ok(chunk) => Ok(LogPiece { offset: chunk.offset, bytes: chunk.bytes.into(), end: false, region }),
            // Bound, but the region does not know of the run yet.
            Err(ReadLogError::Refused(_)) => Ok(LogPiece { offset, bytes: Bytes::new(), end: false, region }),
            Err(error) => Err(error.into()),
        }
    }

    async fn read_file(&self, file: &FileRef, offset: u64, bytes_max: usize) -> Result<Bytes, TaskError> {
        let Some(mut content) = self.parts.store.open_content(&file.digest).await? else {
            let detail = format!("{} is no longer kept", file.path);
            return Err(TaskError::Refused(Reason::new(ReasonCode::InputLost, detail)));
        };
        content.seek(std::io::SeekFrom::Start(offset)).await?;
        let mut bytes = Vec::new();
        content.take(bytes_max.clamp(1, 4 << 20) as u64).read_to_end(&mut bytes).await?;
        Ok(bytes.into())
    }
}

/// Brings results here and keeps them for their task.
#[async_trait]
impl ResultFetcher for ArtifactFetcher {
    async fn fetch_results(&self, task: TaskId, from: MemberId, files: Vec<FileRef>) -> Result<(), Reason> {
        for file in &files {
            self.fetch(from, task, file.digest).await.map_err(|error| why_not_fetched(&error, &file.path))?;
        }
        let store = self.store().clone();
        let digests: Vec<ContentDigest> = files.iter().map(|f| f.digest).collect();
        let pinned = tokio::task::spawn_blocking(move || store.pin(PinOwner::Task(task), digests, []));
        match pinned.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Reason::new(ReasonCode::DiskFull, error.to_string())),
            Err(error) => Err(Reason::new(ReasonCode::Internal, error.to_string())),
        }
    }
}

fn why_not_fetched(error: &FetchError, path: &str) -> Reason {
    let code = match error {
        // The run's own region has not got its result: only another run can make it again.
        FetchError::Missing { .. } | FetchError::Denied { .. } => ReasonCode::RunLost,
        FetchError::Corrupt { .. } => ReasonCode::InputCorrupt,
        FetchError::Unreachable { .. } => ReasonCode::PeerUnreachable,
        FetchError::Store(PutError::DiskFull { .. } | PutError::Disk(_)) => ReasonCode::DiskFull,
        FetchError::Store(_) => ReasonCode::Internal,
    };
    Reason::new(code, format!("{path}: {error}"))
}
