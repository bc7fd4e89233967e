//! Bulk streams: one per transfer, for artifacts and snapshots. The transport's flow control is the receiver's credit: a
//! stream's window is small against the connection's, and a peer may have only a few, so that bulk never starves the rest.

use super::core::Core;
use super::frame::Welcome;
use super::inbound::say;
use super::lane::{OPEN_TIMEOUT, open_stream};
use super::link::Link;
use super::stats::add;
use super::{MeshError, StreamClass};
use bytes::Bytes;
use cpi::ids::MemberId;
use futures::io::AsyncReadExt as _;
use libp2p::Stream;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt as _};

/// Buffer of a bulk stream of a node to itself, in bytes.
const LOCAL_BUFFER_BYTES: usize = 256 << 10;

/// A two-way byte stream to a member. Shutting it down ends the sending half; dropping it ends both.
pub struct BulkStream {
    inner: Inner,
    _permit: Option<OwnedSemaphorePermit>,
}

enum Inner {
    Wire(Compat<Stream>),
    Local(DuplexStream),
}

impl BulkStream {
    /// Two ends of a stream within this process.
    pub fn local_pair() -> (Self, Self) {
        let (one, other) = tokio::io::duplex(LOCAL_BUFFER_BYTES);
        let end = |stream| Self { inner: Inner::Local(stream), _permit: None };
        (end(one), end(other))
    }
}

impl std::fmt::Debug for BulkStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BulkStream")
    }
}

pub(super) async fn open(core: &Arc<Core>, member: MemberId, header: Bytes) -> Result<BulkStream, MeshError> {
    let class = StreamClass::Bulk;
    let bytes_max = class.limits().frame_bytes_max;
    if header.len() > bytes_max {
        return Err(MeshError::TooLarge { class, bytes: header.len(), bytes_max });
    }
    if member == core.me {
        let handler =
            core.handlers.bulk.clone().ok_or(MeshError::Refused { member, reason: "bulk is not served here" })?;
        let (here, there) = BulkStream::local_pair();
        core.tasks.spawn(async move { handler.on_bulk(member, header, there).await });
        return Ok(here);
    }
    let link = core.link(member)?;
    if !*link.connected.borrow() {
        return Err(MeshError::Unreachable { member });
    }
    let mut opening = Vec::with_capacity(4 + header.len());
    opening.extend_from_slice(&(header.len() as u32).to_be_bytes());
    opening.extend_from_slice(&header);
    let stream = tokio::time::timeout(OPEN_TIMEOUT, open_stream(core, member, link.peer, class, &opening))
        .await
        .map_err(|_| MeshError::Unreachable { member })??;
    add(&core.stats.class(class).frames_out, 1);
    Ok(BulkStream { inner: Inner::Wire(stream.compat()), _permit: None })
}

/// Reads the header of an inbound bulk stream and hands it over.
pub(super) async fn serve(core: Arc<Core>, link: Arc<Link>, mut stream: Stream) {
    let bytes_max = StreamClass::Bulk.limits().frame_bytes_max;
    let header = tokio::time::timeout(OPEN_TIMEOUT, async {
        let mut length = [0; 4];
        stream.read_exact(&mut length).await?;
        let length = u32::from_be_bytes(length) as usize;
        if length > bytes_max {
            return Ok(Err(length));
        }
        let mut header = vec![0; length];
        stream.read_exact(&mut header).await?;
        Ok::<_, std::io::Error>(Ok(header))
    })
    .await;
    let header = match header {
        Ok(Ok(Ok(header))) => Bytes::from(header),
        Ok(Ok(Err(bytes))) => {
            let what = super::frame::FrameError::TooLarge { bytes, bytes_max };
            return core.bad_frame(link.peer, link.member, StreamClass::Bulk, &what);
        }
        _ => return,
    };
    let Some(handler) = core.handlers.bulk.clone() else {
        let _ = say(&mut stream, Welcome::Unserved).await;
        return;
    };
    let Ok(permit) = Arc::clone(&link.bulk_permits).try_acquire_owned() else {
        add(&core.stats.class(StreamClass::Bulk).busy, 1);
        let _ = say(&mut stream, Welcome::Busy).await;
        return;
    };
    add(&core.stats.class(StreamClass::Bulk).frames_in, 1);
    if say(&mut stream, Welcome::Yes).await.is_err() {
        return;
    }
    let stream = BulkStream { inner: Inner::Wire(stream.compat()), _permit: Some(permit) };
    tokio::select! {
        () = link.cancel.cancelled() => {}
        () = handler.on_bulk(link.member, header, stream) => {}
    }
}

impl AsyncRead for BulkStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        match &mut self.inner {
            Inner::Wire(stream) => Pin::new(stream).poll_read(cx, buf),
            Inner::Local(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for BulkStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        match &mut self.inner {
            Inner::Wire(stream) => Pin::new(stream).poll_write(cx, buf),
            Inner::Local(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match &mut self.inner {
            Inner::Wire(stream) => Pin::new(stream).poll_flush(cx),
            Inner::Local(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match &mut self.inner {
            Inner::Wire(stream) => Pin::new(stream).poll_shutdown(cx),
            Inner::Local(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
