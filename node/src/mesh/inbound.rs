//! Streams that peers opened: welcome or refusal, then frames to the handlers and answers back.

use super::StreamClass;
use super::bulk;
use super::core::Core;
use super::frame::{Frame, FrameError, FrameKind, Hello, Welcome};
use super::handlers::FrameHandler;
use super::lane::OPEN_TIMEOUT;
use super::link::Link;
use super::pipe::{Ended, FrameReader, write_frames};
use super::stats::add;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::io::{AsyncReadExt as _, AsyncWriteExt as _};
use libp2p::{PeerId, Stream};
use libp2p_stream::IncomingStreams;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};

/// The longest error text that is sent back, in bytes.
const ERROR_BYTES_MAX: usize = 4 << 10;
/// A request is served for this long at most, whatever its sender says.
const DEADLINE_MAX: Duration = Duration::from_secs(300);
/// Answers that may wait to be written to one peer.
const ANSWERS_MAX: usize = 1024;

/// Takes the streams of one class as they come.
pub(super) async fn accept(core: Arc<Core>, class: StreamClass, mut incoming: IncomingStreams) {
    loop {
        let next = tokio::select! {
            () = core.stop.cancelled() => return,
            next = incoming.next() => next,
        };
        let Some((peer, stream)) = next else { return };
        core.tasks.spawn(greet(Arc::clone(&core), class, peer, stream));
    }
}

/// Reads the hello, decides, and serves.
async fn greet(core: Arc<Core>, class: StreamClass, peer: PeerId, mut stream: Stream) {
    let mut hello = [0; Hello::BYTES];
    if !matches!(tokio::time::timeout(OPEN_TIMEOUT, stream.read_exact(&mut hello)).await, Ok(Ok(()))) {
        return;
    }
    let link = core.link_of_peer(&peer);
    let welcome = match (Hello::from_bytes(&hello), &link) {
        (_, None) => Welcome::NotAdmitted,
        (None, _) => Welcome::OtherFederation,
        (Some(hello), _) if hello.federation.id != core.federation.id => Welcome::OtherFederation,
        (Some(hello), _) if hello.federation.epoch < core.federation.epoch => Welcome::OlderEpoch,
        (Some(_), Some(_)) if class == StreamClass::Bulk => Welcome::Yes,
        (Some(_), Some(_)) if core.handlers.frames.contains_key(&class) => Welcome::Yes,
        (Some(_), Some(_)) => Welcome::Unserved,
    };
    let (Welcome::Yes, Some(link)) = (welcome, link) else {
        if welcome != Welcome::Unserved {
            add(&core.stats.refused, 1);
            tracing::warn!(%peer, class = class.name(), reason = welcome.reason(), "stream refused");
        }
        let _ = tokio::time::timeout(OPEN_TIMEOUT, say(&mut stream, welcome)).await;
        return;
    };
    if class == StreamClass::Bulk {
        return bulk::serve(core, link, stream).await;
    }
    let Some(handler) = core.handlers.frames.get(&class).cloned() else { return };
    let replaced = link.replace_inbound(class);
    if say(&mut stream, Welcome::Yes).await.is_err() {
        return;
    }
    let ended = tokio::select! {
        biased;
        () = replaced.cancelled() => return,
        ended = serve(&core, &link, class, handler, stream) => ended,
    };
    match ended {
        Ended::Violation(what) => core.bad_frame(peer, link.member, class, &what),
        Ended::Io(error) => tracing::debug!(member = %link.member, class = class.name(), %error, "stream broke"),
        Ended::Closed => {}
    }
}

pub(super) async fn say(stream: &mut Stream, welcome: Welcome) -> std::io::Result<()> {
    stream.write_all(&[welcome as u8]).await?;
    stream.flush().await
}

async fn serve(
    core: &Arc<Core>,
    link: &Link,
    class: StreamClass,
    handler: Arc<dyn FrameHandler>,
    stream: Stream,
) -> Ended {
    let (reader, writer) = stream.split();
    let (answers, mut waiting) = mpsc::channel(class.limits().serving_max.min(ANSWERS_MAX));
    tokio::select! {
        ended = read_frames(core, link, class, handler, reader, answers) => ended,
        ended = write_frames(core, class, &mut waiting, |_| true, writer) => ended,
    }
}

async fn read_frames(
    core: &Arc<Core>,
    link: &Link,
    class: StreamClass,
    handler: Arc<dyn FrameHandler>,
    reader: impl futures::AsyncRead + Unpin,
    answers: mpsc::Sender<Frame>,
) -> Ended {
    let permits = Arc::new(Semaphore::new(class.limits().serving_max));
    let mut frames = FrameReader::new(core, class, reader);
    loop {
        let frame = match frames.next().await {
            Ok(frame) => frame,
            Err(ended) => return ended,
        };
        match frame.kind {
            FrameKind::OneWay => frame.trace.sync_scope(|| handler.on_frame(link.member, class, frame.payload)),
            FrameKind::Request => match Arc::clone(&permits).try_acquire_owned() {
                Ok(permit) => {
                    let (handler, answers, from) = (Arc::clone(&handler), answers.clone(), link.member);
                    let trace = frame.trace;
                    let mut served = Box::pin(trace.scope(async move {
                        let answer = answer(&*handler, from, class, frame).await;
                        if let Some(answer) = answer {
                            let _ = answers.send(answer).await;
                        }
                        drop(permit);
                    }));
                    // The first step runs here, so that requests begin in the order they came; the rest elsewhere.
                    if futures::poll!(served.as_mut()).is_pending() {
                        let cancel = link.cancel.clone();
                        core.tasks.spawn(async move {
                            tokio::select! {
                                () = cancel.cancelled() => {}
                                () = served => {}
                            }
                        });
                    }
                }
                Err(_) => {
                    add(&core.stats.class(class).busy, 1);
                    let busy = Frame { kind: FrameKind::Busy, payload: Bytes::new(), deadline_ms: 0, ..frame };
                    // If even the refusals cannot be written, the peer's own deadline speaks.
                    let _ = answers.try_send(busy);
                }
            },
            other @ (FrameKind::Response | FrameKind::Failed | FrameKind::Busy) => {
                return Ended::Violation(FrameError::Kind(other as u8));
            }
        }
    }
}

/// Has a request answered within its deadline; `None` when it passed.
async fn answer(
    handler: &dyn FrameHandler,
    from: cpi::ids::MemberId,
    class: StreamClass,
    frame: Frame,
) -> Option<Frame> {
    let deadline = Duration::from_millis(u64::from(frame.deadline_ms)).min(DEADLINE_MAX);
    let answer = tokio::time::timeout(deadline, handler.on_request(from, class, frame.payload)).await.ok()?;
    let (kind, payload) = match answer {
        Ok(payload) if payload.len() <= class.limits().frame_bytes_max => (FrameKind::Response, payload),
        Ok(_) => (FrameKind::Failed, Bytes::from_static(b"the answer is longer than its class allows")),
        Err(mut message) => {
            message.truncate(message.floor_char_boundary(ERROR_BYTES_MAX));
            (FrameKind::Failed, Bytes::from(message))
        }
    };
    Some(Frame { kind, correlation: frame.correlation, deadline_ms: 0, trace: frame.trace, payload })
}
