//! The giving side: hands a content to a member that takes part in a task which names it.

use super::protocol::{Answer, Ask};
use super::store::ArtifactStore;
use crate::mesh::{BulkHandler, BulkStream};
use async_trait::async_trait;
use bytes::Bytes;
use cpi::ids::{MemberId, TaskId};
use std::io::SeekFrom;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncSeekExt as _, AsyncWrite, AsyncWriteExt as _};

/// A receiver that takes nothing for so long is given up.
const STALL: Duration = Duration::from_secs(60);

type TakesPart = dyn Fn(MemberId, TaskId) -> bool + Send + Sync;

/// Serves artifact streams.
#[derive(Clone)]
pub struct ArtifactServer {
    store: ArtifactStore,
    takes_part: Arc<TakesPart>,
}

impl ArtifactServer {
    /// `takes_part` says whether a member was asked for or awarded one of this origin's tasks: such a member may fetch
    /// what the task pins, beside the readers that the pin names.
    pub fn new(store: ArtifactStore, takes_part: impl Fn(MemberId, TaskId) -> bool + Send + Sync + 'static) -> Self {
        Self { store, takes_part: Arc::new(takes_part) }
    }

    /// Serves one stream that `from` opened with `header`.
    pub async fn serve(&self, from: MemberId, header: &[u8], mut stream: impl AsyncRead + AsyncWrite + Unpin + Send) {
        let ask = match Ask::from_header(header) {
            Ok(ask) => ask,
            Err(error) => {
                tracing::warn!(member = %from, %error, "an artifact stream with a wrong header is dropped");
                return;
            }
        };
        match self.send(from, ask, &mut stream).await {
            Ok(sent_bytes) => {
                tracing::debug!(member = %from, digest = %ask.digest, ask.offset, sent_bytes, "artifact served");
            }
            Err(error) => {
                tracing::debug!(member = %from, digest = %ask.digest, ask.offset, %error, "artifact stream broke off");
            }
        }
    }

    async fn send(
        &self,
        from: MemberId,
        ask: Ask,
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin + Send),
    ) -> std::io::Result<u64> {
        let allowed = self.store.may_read(from, ask.task, &ask.digest)
            || (self.store.names(ask.task, &ask.digest) && (self.takes_part)(from, ask.task));
        let content = if allowed { self.store.open_content(&ask.digest).await? } else { None };
        let Some(mut file) = content else {
            if !allowed {
                tracing::warn!(member = %from, task_id = %ask.task, digest = %ask.digest, "an artifact was asked for without a right to it");
            }
            let answer = if allowed { Answer::Missing } else { Answer::Denied };
            answer.write(stream).await?;
            stream.shutdown().await?;
            return Ok(0);
        };
        let size_bytes = file.metadata().await?.len();
        Answer::Here { size_bytes }.write(stream).await?;
        file.seek(SeekFrom::Start(ask.offset.min(size_bytes))).await?;
        let mut sent = 0;
        let mut chunk = vec![0; 128 << 10];
        loop {
            let count = tokio::io::AsyncReadExt::read(&mut file, &mut chunk).await?;
            if count == 0 {
                break;
            }
            tokio::time::timeout(STALL, stream.write_all(&chunk[..count]))
                .await
                .map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
            sent += count as u64;
        }
        stream.shutdown().await?;
        Ok(sent)
    }
}

#[async_trait]
impl BulkHandler for ArtifactServer {
    async fn on_bulk(&self, from: MemberId, header: Bytes, stream: BulkStream) {
        self.serve(from, &header, stream).await;
    }
}
