//! Logs of runs while they run: served to the origin by the region that runs the task, read by the origin for people.
//!
//! After the end the logs lie in the origin's artifact store, and that is where they are read then.

use crate::drivers::runs::RunTable;
use crate::mesh::{FrameHandler, MeshError, MeshHandle, StreamClass};
use adapters::contract::{LogChunk, LogStream, RunKey};
use async_trait::async_trait;
use bytes::Bytes;
use consensus::codec::{self, CodecError};
use cpi::ids::MemberId;
use serde::{Deserialize, Serialize};
use std::time::Duration;

const VERSION: u8 = 1;
/// The most of a log in one frame; well under the class's cap.
const CHUNK_BYTES_MAX: usize = 256 << 10;
/// The longest that a reader waits for more in one request, in ms.
pub const WAIT_MS_MAX: u64 = 10_000;
/// How often a growing log is looked at for a waiting reader.
const LOOK_EVERY: Duration = Duration::from_millis(50);
const ASK_BYTES_MAX: usize = 256;
/// Over the wait, for the way.
const DEADLINE: Duration = Duration::from_secs(10);

/// Asks for a piece of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct LogAsk {
    key: RunKey,
    stream: LogStream,
    offset: u64,
    bytes_max: u32,
    /// How long to wait for bytes where none are there yet.
    wait_ms: u64,
}

/// Why a log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadLogError {
    /// The region does not answer.
    #[error("{member} does not answer for the log")]
    Peer {
        /// Who was asked.
        member: MemberId,
        /// How it failed.
        #[source]
        source: MeshError,
    },
    /// The region's answer is not a piece of a log.
    #[error("{member} answered something else than a piece of a log")]
    Answer {
        /// Who was asked.
        member: MemberId,
        /// What is wrong.
        #[source]
        source: CodecError,
    },
    /// The region has no such run for us.
    #[error("{0}")]
    Refused(String),
}

/// Serves and reads logs of living runs.
#[derive(Clone)]
pub struct LogService {
    table: RunTable,
}

impl LogService {
    /// A service over the runs of this region.
    pub fn new(table: RunTable) -> Self {
        Self { table }
    }

    /// Reads a piece of the log of a run at `member` (this node included), waiting up to `wait_ms` for new bytes.
    ///
    /// # Errors
    /// [`ReadLogError`].
    #[allow(clippy::too_many_arguments, reason = "where, what, from where on, how much, how long")]
    pub async fn read(
        &self,
        mesh: &MeshHandle,
        member: MemberId,
        key: RunKey,
        stream: LogStream,
        offset: u64,
        bytes_max: usize,
        wait_ms: u64,
    ) -> Result<LogChunk, ReadLogError> {
        let bytes_max = u32::try_from(bytes_max.min(CHUNK_BYTES_MAX)).unwrap_or(u32::MAX);
        let ask = LogAsk { key, stream, offset, bytes_max, wait_ms: wait_ms.min(WAIT_MS_MAX) };
        if member == mesh.me() {
            return self.answer(member, ask).await.map_err(ReadLogError::Refused);
        }
        let frame = codec::encode(VERSION, &ask).expect("an ask has only plain fields");
        let deadline = DEADLINE + Duration::from_millis(ask.wait_ms);
        let answer = match mesh.request(member, StreamClass::Logs, frame.into(), deadline).await {
            Ok(answer) => answer,
            Err(MeshError::Remote { message, .. }) => return Err(ReadLogError::Refused(message)),
            Err(source) => return Err(ReadLogError::Peer { member, source }),
        };
        codec::decode(VERSION, &answer, CHUNK_BYTES_MAX + 64).map_err(|source| ReadLogError::Answer { member, source })
    }

    async fn answer(&self, from: MemberId, ask: LogAsk) -> Result<LogChunk, String> {
        // one answer for what is not there and for what is another's
        let sight = self.table.get(&ask.key).filter(|sight| sight.readers.contains(&from));
        let adapter = sight.and_then(|sight| sight.adapter).ok_or("no such run of yours is here")?;
        let bytes_max = usize::try_from(ask.bytes_max).unwrap_or(CHUNK_BYTES_MAX).clamp(1, CHUNK_BYTES_MAX);
        let until = tokio::time::Instant::now() + Duration::from_millis(ask.wait_ms.min(WAIT_MS_MAX));
        loop {
            let waits = tokio::time::Instant::now() < until;
            match adapter.logs(ask.key, ask.stream, ask.offset, bytes_max).await {
                Ok(chunk) if chunk.bytes.is_empty() && !chunk.end && waits => {}
                Ok(chunk) => return Ok(chunk),
                // leased and not started: its log is empty so far
                Err(_) if self.table.get(&ask.key).is_some() => {
                    if !waits {
                        return Ok(LogChunk { offset: ask.offset, bytes: Vec::new(), end: false });
                    }
                }
                Err(error) => return Err(error.to_string()),
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

#[async_trait]
impl FrameHandler for LogService {
    async fn on_request(&self, from: MemberId, _: StreamClass, frame: Bytes) -> Result<Bytes, String> {
        let ask = codec::decode(VERSION, &frame, ASK_BYTES_MAX).map_err(|error| error.to_string())?;
        let chunk = self.answer(from, ask).await?;
        codec::encode(VERSION, &chunk).map(Bytes::from).map_err(|error| error.to_string())
    }

    fn on_frame(&self, from: MemberId, _: StreamClass, _: Bytes) {
        tracing::debug!(member = %from, "a frame without a question on the log stream is dropped");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drivers::runs::RunSight;
    use adapters::contract::{Adapter as _, RunRequest};
    use adapters::fake::{FakeAdapter, FakeScript};
    use cpi::ids::{Epoch, Fence, TaskId};
    use cpi::resource::Quantity;
    use std::sync::Arc;

    const ORIGIN: MemberId = MemberId(1);

    fn request() -> RunRequest {
        let fence = Fence { epoch: Epoch { counter: 1, member: ORIGIN }, attempt: 1 };
        RunRequest {
            key: RunKey { task: TaskId([3; 16]), fence },
            pool: String::new(),
            class: String::new(),
            need: Quantity::default(),
            command: vec!["x".into()],
            image: None,
            env: std::collections::BTreeMap::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            max_runtime_ms: 60_000,
            lease_ttl_ms: 60_000,
            freeze_on_lapse: true,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_waits_for_more_and_only_the_origin_reads() {
        let fake = FakeAdapter::new(Vec::new());
        fake.script_all(FakeScript { start_ms: 500, run_ms: 500, stdout: "said".into(), ..FakeScript::default() });
        let table = RunTable::default();
        let service = LogService::new(table.clone());
        let request = request();
        let ask =
            |offset, wait_ms| LogAsk { key: request.key, stream: LogStream::Stdout, offset, bytes_max: 100, wait_ms };
        assert!(service.answer(ORIGIN, ask(0, 0)).await.is_err(), "no such run");
        table.set(request.key, RunSight { readers: vec![ORIGIN], adapter: Some(Arc::new(fake.clone())) });
        let early = service.answer(ORIGIN, ask(0, 100)).await.unwrap();
        assert_eq!((early.bytes.len(), early.end), (0, false), "leased and not started: empty so far");
        fake.submit(request.clone()).await.unwrap();
        assert_eq!(service.answer(ORIGIN, ask(0, 5000)).await.unwrap().bytes, b"said");
        let rest = service.answer(ORIGIN, ask(4, 5000)).await.unwrap();
        assert_eq!((rest.bytes.len(), rest.end), (0, true), "waits for the end");
        assert!(service.answer(MemberId(2), ask(0, 0)).await.is_err());
        let frame = codec::encode(VERSION, &ask(0, 0)).unwrap();
        let answer = service.on_request(ORIGIN, StreamClass::Logs, frame.clone().into()).await.unwrap();
        let chunk: LogChunk = codec::decode(VERSION, &answer, CHUNK_BYTES_MAX).unwrap();
        assert_eq!(chunk.bytes, b"said");
        assert!(service.on_request(ORIGIN, StreamClass::Logs, frame[..5].to_vec().into()).await.is_err());
    }
}
