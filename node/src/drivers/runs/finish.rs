//! After the end: outputs and logs go into this node's artifact store, pinned until the origin has them; its custodians may fetch them, too.

use super::job::{figures_of, outcome_of};
use crate::services::artifacts::{ArtifactStore, PinOwner, PutError, Stored};
use adapters::contract::{Adapter, AdapterError, LogStream, RunEnd, RunKey};
use bytes::Bytes;
use consensus::negotiation::{FileRef, RunOutcome};
use cpi::ids::MemberId;
use cpi::reason::{Reason, ReasonCode};
use std::io;
use std::time::Duration;

/// Outputs of one run that are kept, under the bound of an outcome.
const OUTPUTS_MAX: usize = 1000;
/// How much of a log is read at once.
const LOG_CHUNK_BYTES: usize = 1 << 20;
/// How often a store that refuses is tried again before the run ends with that reason.
const TRIES: u32 = 5;
const BACK_OFF: Duration = Duration::from_millis(500);

/// Puts away what a run left and says how it ended. A store that stays full makes the end a failure, never silence.
pub(super) async fn finish(
    key: RunKey,
    readers: Vec<MemberId>,
    end: RunEnd,
    adapter: &dyn Adapter,
    store: &ArtifactStore,
) -> RunOutcome {
    let mut wait = BACK_OFF;
    for attempt in 1..=TRIES {
        match put_away(key, &readers, &end, adapter, store).await {
            Ok(outcome) => return outcome,
            Err(error) => {
                tracing::warn!(task_id = %key.task, fence = %key.fence, attempt, %error, "a run's results cannot be stored yet");
                if attempt == TRIES {
                    let code = match error {
                        PutError::DiskFull { .. } | PutError::Disk(_) => ReasonCode::DiskFull,
                        _ => ReasonCode::Internal,
                    };
                    let reason = Reason::new(code, format!("the run's results: {error}"));
                    return RunOutcome { reason: Some(reason), ..figures_of(&end) };
                }
                tokio::time::sleep(wait).await;
                wait *= 2;
            }
        }
    }
    outcome_of(Reason::from(ReasonCode::Internal))
}

async fn put_away(
    key: RunKey,
    readers: &[MemberId],
    end: &RunEnd,
    adapter: &dyn Adapter,
    store: &ArtifactStore,
) -> Result<RunOutcome, PutError> {
    let mut outcome = figures_of(end);
    for output in end.outputs.iter().take(OUTPUTS_MAX) {
        let (from, here, digest) = (output.source.clone(), store.clone(), output.digest);
        let stored = tokio::task::spawn_blocking(move || here.put_file(&from, digest)).await;
        let stored = stored.map_err(|error| PutError::Disk(io::Error::other(error)))??;
        outcome.outputs.push(file_ref(&output.path, stored));
    }
    for (name, stream) in [("stdout", LogStream::Stdout), ("stderr", LogStream::Stderr)] {
        if let Some(stored) = put_log(key, stream, adapter, store).await? {
            outcome.logs.push(file_ref(name, stored));
        }
    }
    let digests: Vec<_> = outcome.outputs.iter().chain(&outcome.logs).map(|file| file.digest).collect();
    if !digests.is_empty() {
        let (here, readers) = (store.clone(), readers.to_vec());
        let pinned = tokio::task::spawn_blocking(move || here.pin(PinOwner::Run(key), digests, readers)).await;
        pinned.map_err(|error| PutError::Disk(io::Error::other(error)))?.map_err(PutError::Disk)?;
    }
    Ok(outcome)
}

fn file_ref(path: &str, stored: Stored) -> FileRef {
    FileRef { path: path.to_owned(), digest: stored.digest, size_bytes: stored.size_bytes }
}

/// Stores a log; `None` where nothing was written, or where the backend keeps none.
async fn put_log(
    key: RunKey,
    stream: LogStream,
    adapter: &dyn Adapter,
    store: &ArtifactStore,
) -> Result<Option<Stored>, PutError> {
    let first = match adapter.logs(key, stream, 0, LOG_CHUNK_BYTES).await {
        Ok(chunk) if chunk.bytes.is_empty() => return Ok(None),
        Ok(chunk) => chunk,
        Err(AdapterError { retryable: false, .. }) => return Ok(None),
        Err(error) => return Err(PutError::Source(io::Error::other(error))),
    };
    let offset = first.bytes.len() as u64;
    let rest = futures::stream::try_unfold((offset, first.end), |(offset, end)| async move {
        if end {
            return Ok::<_, io::Error>(None);
        }
        let chunk = adapter.logs(key, stream, offset, LOG_CHUNK_BYTES).await.map_err(io::Error::other)?;
        // a run that ended writes no more: nothing new is the end, whatever the backend says of it
        if chunk.bytes.is_empty() {
            return Ok(None);
        }
        let next = offset + chunk.bytes.len() as u64;
        Ok(Some((Bytes::from(chunk.bytes), (next, chunk.end))))
    });
    let whole = futures::StreamExt::chain(futures::stream::iter([Ok(Bytes::from(first.bytes))]), rest);
    store.put(Box::pin(whole), None, u64::MAX).await.map(Some)
}
