//! Both directions of a stream of frames: frames written in batches with one flush each, bytes cut into frames, all counted.

use super::StreamClass;
use super::core::Core;
use super::frame::{Frame, FrameError};
use super::stats::{ClassStats, add};
use bytes::BytesMut;
use futures::io::AsyncWriteExt as _;
use tokio::sync::mpsc;
use tokio_util::compat::FuturesAsyncReadCompatExt as _;

/// Frames written with one flush at most.
const BATCH_FRAMES: usize = 256;
/// Bytes gathered before a write; more than this goes out at once.
const BATCH_BYTES: usize = 256 << 10;
/// First size of a buffer.
const BUFFER_BYTES: usize = 32 << 10;

/// How a stream ended.
pub(super) enum Ended {
    Closed,
    Io(std::io::Error),
    Violation(FrameError),
}

impl From<std::io::Error> for Ended {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

/// Writes what comes from `frames` until there is no more. A frame that `wanted` refuses is left out.
pub(super) async fn write_frames(
    core: &Core,
    class: StreamClass,
    frames: &mut mpsc::Receiver<Frame>,
    mut wanted: impl FnMut(&Frame) -> bool,
    mut writer: impl futures::AsyncWrite + Unpin,
) -> Ended {
    let stats = core.stats.class(class);
    let mut batch = Vec::with_capacity(BATCH_FRAMES);
    let mut out = BytesMut::with_capacity(BUFFER_BYTES);
    while frames.recv_many(&mut batch, BATCH_FRAMES).await > 0 {
        for frame in batch.drain(..).filter(&mut wanted) {
            add(&stats.frames_out, 1);
            add(&stats.bytes_out, frame.payload.len() as u64);
            frame.encode(&mut out);
            if out.len() >= BATCH_BYTES
                && let Err(error) = flush(&mut writer, &mut out).await
            {
                return error.into();
            }
        }
        if let Err(error) = flush(&mut writer, &mut out).await {
            return error.into();
        }
    }
    Ended::Closed
}

/// Writes and flushes what was gathered; a buffer that grew large is given back.
async fn flush(writer: &mut (impl futures::AsyncWrite + Unpin), out: &mut BytesMut) -> std::io::Result<()> {
    if !out.is_empty() {
        writer.write_all(out).await?;
    }
    out.clear();
    if out.capacity() > 2 * BATCH_BYTES {
        *out = BytesMut::with_capacity(BUFFER_BYTES);
    }
    writer.flush().await
}

/// Cuts a byte stream into frames and counts them.
pub(super) struct FrameReader<'a, R> {
    reader: tokio_util::compat::Compat<R>,
    buffer: BytesMut,
    payload_bytes_max: usize,
    stats: &'a ClassStats,
}

impl<'a, R: futures::AsyncRead + Unpin> FrameReader<'a, R> {
    pub fn new(core: &'a Core, class: StreamClass, reader: R) -> Self {
        let payload_bytes_max = class.limits().frame_bytes_max;
        Self { reader: reader.compat(), buffer: BytesMut::new(), payload_bytes_max, stats: core.stats.class(class) }
    }

    /// The next frame; [`Ended::Closed`] when the stream ended between frames. Yields to its neighbours now and then.
    pub async fn next(&mut self) -> Result<Frame, Ended> {
        loop {
            if let Some(frame) = Frame::decode(&mut self.buffer, self.payload_bytes_max).map_err(Ended::Violation)? {
                tokio::task::coop::consume_budget().await;
                add(&self.stats.frames_in, 1);
                add(&self.stats.bytes_in, frame.payload.len() as u64);
                return Ok(frame);
            }
            self.buffer.reserve(BUFFER_BYTES);
            if tokio::io::AsyncReadExt::read_buf(&mut self.reader, &mut self.buffer).await? == 0 {
                return Err(match self.buffer.is_empty() {
                    true => Ended::Closed,
                    false => Ended::Violation(FrameError::Truncated),
                });
            }
        }
    }
}
