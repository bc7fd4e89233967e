//! The outgoing half of one (peer, class): a bounded queue, one long-lived stream, and the requests that wait on it.
//!
//! One task writes what waits in batches (one flush each) and reads the answers. A lane keeps its stream open as long as
//! the peer is connected, opens it again with back-off when it breaks, and fails what waited: callers decide on retries.

use super::core::Core;
use super::frame::{Frame, FrameError, FrameKind, Hello, Welcome};
use super::pipe::{Ended, FrameReader, write_frames};
use super::stats::add;
use super::{MeshError, StreamClass};
use crate::trace::TraceId;
use bytes::Bytes;
use cpi::ids::MemberId;
use futures::io::{AsyncReadExt as _, AsyncWriteExt as _};
use libp2p::{PeerId, Stream};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// Opening a stream takes two round trips; a peer that needs longer than this is broken.
pub(super) const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// Back-off after a stream could not be opened: from, to.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// The callers' side.
pub(super) struct Lane {
    member: MemberId,
    class: StreamClass,
    queue: mpsc::Sender<Frame>,
    shared: Arc<LaneShared>,
}

#[derive(Default)]
struct LaneShared {
    queued_bytes: AtomicUsize,
    next_correlation: AtomicU64,
    pending: Mutex<HashMap<u64, oneshot::Sender<Result<Bytes, MeshError>>>>,
}

impl LaneShared {
    fn pending(&self) -> std::sync::MutexGuard<'_, HashMap<u64, oneshot::Sender<Result<Bytes, MeshError>>>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, correlation: u64, answer: Result<Bytes, MeshError>) {
        let waiting = self.pending().remove(&correlation);
        if let Some(waiting) = waiting {
            let _ = waiting.send(answer);
        }
    }
}

/// Forgets a request when its caller no longer waits.
struct Forget<'a>(&'a LaneShared, u64);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.0.pending().remove(&self.1);
    }
}

impl Lane {
    /// Queues a one-way frame.
    pub fn send(&self, payload: Bytes) -> Result<(), MeshError> {
        self.enqueue(FrameKind::OneWay, 0, 0, payload)
    }

    /// Queues a request and waits for its answer.
    pub async fn request(&self, payload: Bytes, deadline: Duration) -> Result<Bytes, MeshError> {
        let correlation = self.shared.next_correlation.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        {
            let mut pending = self.shared.pending();
            if pending.len() >= self.class.limits().queue_frames_max {
                return Err(MeshError::Busy { member: self.member, class: self.class });
            }
            pending.insert(correlation, answer);
        }
        let _forget = Forget(&self.shared, correlation);
        let deadline_ms = u32::try_from(deadline.as_millis()).unwrap_or(u32::MAX).max(1);
        self.enqueue(FrameKind::Request, correlation, deadline_ms, payload)?;
        match tokio::time::timeout(deadline, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(MeshError::Disconnected { member: self.member }),
            Err(_) => {
                Err(MeshError::Deadline { member: self.member, class: self.class, deadline_ms: u64::from(deadline_ms) })
            }
        }
    }

    fn enqueue(&self, kind: FrameKind, correlation: u64, deadline_ms: u32, payload: Bytes) -> Result<(), MeshError> {
        let limits = self.class.limits();
        let bytes = payload.len();
        if bytes > limits.frame_bytes_max {
            return Err(MeshError::TooLarge { class: self.class, bytes, bytes_max: limits.frame_bytes_max });
        }
        let before = self.shared.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        let frame = Frame { kind, correlation, deadline_ms, trace: TraceId::current(), payload };
        let refused = if before + bytes > limits.queue_bytes_max {
            Some(MeshError::Busy { member: self.member, class: self.class })
        } else {
            match self.queue.try_send(frame) {
                Ok(()) => None,
                Err(mpsc::error::TrySendError::Full(_)) => {
                    Some(MeshError::Busy { member: self.member, class: self.class })
                }
                Err(mpsc::error::TrySendError::Closed(_)) => Some(MeshError::Stopped),
            }
        };
        match refused {
            None => Ok(()),
            Some(error) => {
                self.shared.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
                Err(error)
            }
        }
    }
}

/// The task's side.
pub(super) struct LaneTask {
    core: Arc<Core>,
    member: MemberId,
    peer: PeerId,
    class: StreamClass,
    connected: watch::Receiver<bool>,
    cancel: CancellationToken,
    queue: mpsc::Receiver<Frame>,
    shared: Arc<LaneShared>,
}

impl LaneTask {
    pub fn new(
        core: &Arc<Core>,
        member: MemberId,
        peer: PeerId,
        class: StreamClass,
        connected: watch::Receiver<bool>,
        cancel: CancellationToken,
    ) -> (Lane, Self) {
        let (sender, queue) = mpsc::channel(class.limits().queue_frames_max.min(core.queue_frames_max));
        let shared = Arc::new(LaneShared::default());
        let lane = Lane { member, class, queue: sender, shared: Arc::clone(&shared) };
        (lane, Self { core: Arc::clone(core), member, peer, class, connected, cancel, queue, shared })
    }

    /// Runs until the link is cancelled.
    pub async fn run(mut self) {
        let cancel = self.cancel.clone();
        tokio::select! {
            biased;
            () = cancel.cancelled() => {}
            () = self.keep_open() => {}
        }
        self.queue.close();
        self.fail_waiting(&MeshError::Unknown { member: self.member });
    }

    async fn keep_open(&mut self) {
        let mut backoff = BACKOFF.0;
        loop {
            if self.wait_connected().await.is_err() {
                return;
            }
            match tokio::time::timeout(OPEN_TIMEOUT, self.open()).await {
                Ok(Ok(stream)) => {
                    backoff = BACKOFF.0;
                    self.drive(stream).await;
                    self.fail_waiting(&MeshError::Disconnected { member: self.member });
                }
                Ok(Err(error)) => {
                    tracing::debug!(member = %self.member, class = self.class.name(), %error, "stream not opened");
                    self.fail_waiting(&error);
                    self.pause(backoff).await;
                    backoff = (backoff * 2).min(BACKOFF.1);
                }
                Err(_) => self.fail_waiting(&MeshError::Unreachable { member: self.member }),
            }
        }
    }

    /// Waits for a connection; frames that slipped in without one are failed.
    async fn wait_connected(&mut self) -> Result<(), watch::error::RecvError> {
        loop {
            let slipped_in = tokio::select! {
                biased;
                connected = self.connected.wait_for(|connected| *connected) => return connected.map(drop),
                Some(frame) = self.queue.recv() => frame,
            };
            self.fail(slipped_in, &MeshError::Unreachable { member: self.member });
        }
    }

    /// Waits for `backoff`, or until the connection changes.
    async fn pause(&mut self, backoff: Duration) {
        let jitter = backoff.mul_f64(rand::random::<f64>() / 2.0);
        tokio::select! {
            () = tokio::time::sleep(backoff + jitter) => {}
            _ = self.connected.wait_for(|connected| !*connected) => {}
        }
    }

    async fn open(&self) -> Result<Stream, MeshError> {
        open_stream(&self.core, self.member, self.peer, self.class, &[]).await
    }

    async fn drive(&mut self, stream: Stream) {
        let (reader, writer) = stream.split();
        let shared = &self.shared;
        // Nobody waits for it any more: work past its lifetime is dropped.
        let wanted = |frame: &Frame| {
            shared.queued_bytes.fetch_sub(frame.payload.len(), Ordering::Relaxed);
            frame.kind != FrameKind::Request || shared.pending().contains_key(&frame.correlation)
        };
        let ended = tokio::select! {
            ended = write_frames(&self.core, self.class, &mut self.queue, wanted, writer) => ended,
            ended = read_answers(&self.core, self.member, self.class, shared, reader) => ended,
        };
        match ended {
            Ended::Violation(what) => self.core.bad_frame(self.peer, self.member, self.class, &what),
            Ended::Io(error) => {
                tracing::debug!(member = %self.member, class = self.class.name(), %error, "stream broke");
            }
            Ended::Closed => {}
        }
    }

    fn fail(&self, frame: Frame, error: &MeshError) {
        self.shared.queued_bytes.fetch_sub(frame.payload.len(), Ordering::Relaxed);
        if frame.kind == FrameKind::Request {
            self.shared.answer(frame.correlation, Err(error.clone()));
        }
    }

    fn fail_waiting(&mut self, error: &MeshError) {
        while let Ok(frame) = self.queue.try_recv() {
            self.fail(frame, error);
        }
        let waiting = std::mem::take(&mut *self.shared.pending());
        for (_, waiting) in waiting {
            let _ = waiting.send(Err(error.clone()));
        }
    }
}

/// Opens a stream to a member and has it welcomed. `header` goes out with the hello.
pub(super) async fn open_stream(
    core: &Core,
    member: MemberId,
    peer: PeerId,
    class: StreamClass,
    header: &[u8],
) -> Result<Stream, MeshError> {
    let unreachable = |_| MeshError::Unreachable { member };
    let mut control = core.control.clone();
    let mut stream = control.open_stream(peer, class.protocol()).await.map_err(|error| match error {
        libp2p_stream::OpenStreamError::UnsupportedProtocol(_) => {
            MeshError::Refused { member, reason: Welcome::NotAdmitted.reason() }
        }
        _ => MeshError::Unreachable { member },
    })?;
    stream.write_all(&Hello { federation: core.federation }.to_bytes()).await.map_err(unreachable)?;
    stream.write_all(header).await.map_err(unreachable)?;
    stream.flush().await.map_err(unreachable)?;
    let mut welcome = [0];
    stream.read_exact(&mut welcome).await.map_err(unreachable)?;
    match Welcome::from_byte(welcome[0]) {
        Some(Welcome::Yes) => Ok(stream),
        Some(Welcome::Busy) => Err(MeshError::Busy { member, class }),
        Some(other) => Err(MeshError::Refused { member, reason: other.reason() }),
        None => Err(MeshError::Refused { member, reason: "its welcome is not known here" }),
    }
}

async fn read_answers(
    core: &Core,
    member: MemberId,
    class: StreamClass,
    shared: &LaneShared,
    reader: impl futures::AsyncRead + Unpin,
) -> Ended {
    let mut frames = FrameReader::new(core, class, reader);
    loop {
        let frame = match frames.next().await {
            Ok(frame) => frame,
            Err(ended) => return ended,
        };
        let answer = match frame.kind {
            FrameKind::Response => Ok(frame.payload),
            FrameKind::Failed => {
                Err(MeshError::Remote { member, message: String::from_utf8_lossy(&frame.payload).into_owned() })
            }
            FrameKind::Busy => {
                add(&core.stats.class(class).busy, 1);
                Err(MeshError::Busy { member, class })
            }
            other @ (FrameKind::OneWay | FrameKind::Request) => {
                return Ended::Violation(FrameError::Kind(other as u8));
            }
        };
        shared.answer(frame.correlation, answer);
    }
}
