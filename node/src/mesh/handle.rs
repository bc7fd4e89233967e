//! The handle that drivers hold: cheap to clone, none of its methods blocks.

use super::core::Core;
use super::stats::add;
use super::{BulkStream, MeshError, MeshStats, PeerEvent, PeerView, RosterEntry, StreamClass, Topic, bulk};
use crate::trace::TraceId;
use bytes::Bytes;
use cpi::ids::MemberId;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::sync::{broadcast, mpsc};

/// Talks to the other members. A node's own member id is served too, without the network.
#[derive(Clone)]
pub struct MeshHandle {
    pub(super) core: Arc<Core>,
    pub(super) local: Arc<Vec<mpsc::Sender<(TraceId, Bytes)>>>,
}

impl MeshHandle {
    /// Who this node is.
    pub fn me(&self) -> MemberId {
        self.core.me
    }

    /// Queues a one-way frame. Delivered at most once, in order among the frames of its peer and class.
    ///
    /// # Errors
    /// [`MeshError`]: `Busy` if the queue is full, `Unreachable` without a connection, `Unknown`, `TooLarge`.
    pub fn send(&self, to: MemberId, class: StreamClass, frame: Bytes) -> Result<(), MeshError> {
        let sent = if to == self.core.me {
            self.send_local(class, frame)
        } else {
            self.core.link(to)?.lane(class)?.send(frame)
        };
        self.count_busy(class, &sent);
        sent
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// [`MeshError`]; after `Deadline` and `Disconnected` the peer may have acted all the same.
    pub async fn request(
        &self,
        to: MemberId,
        class: StreamClass,
        frame: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, MeshError> {
        if to == self.core.me {
            return self.request_local(class, frame, deadline).await;
        }
        let link = self.core.link(to)?;
        let answer = link.lane(class)?.request(frame, deadline).await;
        self.count_busy(class, &answer);
        answer
    }

    /// Opens a stream of its own for artifacts and snapshots. `header` says what for, at most 64 KiB.
    ///
    /// # Errors
    /// [`MeshError`]; `Busy` if the peer serves too many bulk streams of ours already.
    pub async fn open_bulk(&self, to: MemberId, header: Bytes) -> Result<BulkStream, MeshError> {
        bulk::open(&self.core, to, header).await
    }

    /// Publishes gossip. Delivery is never certain: it is a hint to all who listen.
    ///
    /// # Errors
    /// `TooLarge` (as `Publish`) or a full queue.
    pub fn publish(&self, topic: Topic, payload: Bytes) -> Result<(), MeshError> {
        if payload.len() > topic.bytes_max() {
            let reason = format!("{} bytes are more than the {} of {}", payload.len(), topic.bytes_max(), topic.name());
            return Err(MeshError::Publish { reason });
        }
        self.core.publishes.try_send((topic, payload)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => MeshError::Publish { reason: "too much gossip waits".into() },
            mpsc::error::TrySendError::Closed(_) => MeshError::Stopped,
        })
    }

    /// Puts the registry's roster in force. Who is missing in it is disconnected at once and gets nothing in.
    pub fn set_roster(&self, roster: Vec<RosterEntry>) {
        self.core.set_roster(roster, None);
    }

    /// As [`Self::set_roster`], and refuses even the join protocol to `expelled` transport keys.
    pub fn set_roster_and_expelled(&self, roster: Vec<RosterEntry>, expelled: Vec<[u8; 32]>) {
        self.core.set_roster(roster, Some(expelled));
    }

    /// The roster in force.
    pub fn roster(&self) -> Vec<RosterEntry> {
        self.core.roster.load().entries()
    }

    /// All other members and what is known of them.
    pub fn peers(&self) -> Vec<PeerView> {
        let roster = self.core.roster.load();
        let links = self.core.links.load();
        links.values().filter_map(|link| Some(link.view(roster.members.get(&link.member)?.region.clone()))).collect()
    }

    /// Whether a connection to `member` stands. A node is connected to itself.
    pub fn is_connected(&self, member: MemberId) -> bool {
        member == self.core.me || self.core.link(member).is_ok_and(|link| *link.connected.borrow())
    }

    /// The smoothed round trip to `of`; zero to itself.
    pub fn rtt(&self, of: MemberId) -> Option<Duration> {
        if of == self.core.me {
            return Some(Duration::ZERO);
        }
        self.core.link(of).ok()?.with_state(|state| state.round_trips.smoothed())
    }

    /// The 99th percentile of the last round trips to `of`.
    pub fn rtt_p99(&self, of: MemberId) -> Option<Duration> {
        if of == self.core.me {
            return Some(Duration::ZERO);
        }
        self.core.link(of).ok()?.with_state(|state| state.round_trips.p99())
    }

    /// Connections that come and go. A receiver that lags more than 1,024 events should read [`Self::peers`] anew.
    pub fn events(&self) -> broadcast::Receiver<PeerEvent> {
        self.core.events.subscribe()
    }

    /// Waits until a connection to `member` stands.
    ///
    /// # Errors
    /// `Unknown` if it is not in the roster, or leaves it meanwhile.
    pub async fn connected(&self, member: MemberId) -> Result<(), MeshError> {
        if member == self.core.me {
            return Ok(());
        }
        let link = self.core.link(member)?;
        let mut connected = link.connected.subscribe();
        tokio::select! {
            () = link.cancel.cancelled() => Err(MeshError::Unknown { member }),
            seen = connected.wait_for(|connected| *connected) => seen.map(drop).map_err(|_| MeshError::Stopped),
        }
    }

    /// The addresses listened on, as multiaddrs.
    pub fn listening(&self) -> Vec<String> {
        self.core.listening.lock().unwrap_or_else(PoisonError::into_inner).iter().map(ToString::to_string).collect()
    }

    /// Counters since start.
    pub fn stats(&self) -> MeshStats {
        self.core.stats()
    }

    /// Closes all connections and ends all tasks of the mesh.
    pub async fn stop(&self) {
        self.core.stop.cancel();
        self.core.tasks.close();
        self.core.tasks.wait().await;
    }

    fn count_busy<T>(&self, class: StreamClass, outcome: &Result<T, MeshError>) {
        if matches!(outcome, Err(MeshError::Busy { .. })) {
            add(&self.core.stats.class(class).busy, 1);
        }
    }

    fn send_local(&self, class: StreamClass, frame: Bytes) -> Result<(), MeshError> {
        let member = self.core.me;
        let bytes_max = class.limits().frame_bytes_max;
        if frame.len() > bytes_max {
            return Err(MeshError::TooLarge { class, bytes: frame.len(), bytes_max });
        }
        let queue =
            self.local.get(class.index()).ok_or(MeshError::Refused { member, reason: "bulk carries no frames" })?;
        queue.try_send((TraceId::current(), frame)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => MeshError::Busy { member, class },
            mpsc::error::TrySendError::Closed(_) => MeshError::Stopped,
        })
    }

    async fn request_local(&self, class: StreamClass, frame: Bytes, deadline: Duration) -> Result<Bytes, MeshError> {
        let member = self.core.me;
        let handler =
            self.core.handlers.frames.get(&class).ok_or(MeshError::Refused { member, reason: "not served here" })?;
        match tokio::time::timeout(deadline, handler.on_request(member, class, frame)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(message)) => Err(MeshError::Remote { member, message }),
            Err(_) => {
                let deadline_ms = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
                Err(MeshError::Deadline { member, class, deadline_ms })
            }
        }
    }
}

/// Serves the frames that a node sends to itself, in order, off the sender's stack.
pub(super) fn serve_local(core: &Arc<Core>) -> Arc<Vec<mpsc::Sender<(TraceId, Bytes)>>> {
    let serve = |class: StreamClass| {
        let (sender, mut frames) = mpsc::channel::<(TraceId, Bytes)>(class.limits().queue_frames_max);
        let handler = core.handlers.frames.get(&class).cloned();
        let (stop, me) = (core.stop.clone(), core.me);
        core.tasks.spawn(async move {
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    frame = frames.recv() => match (frame, &handler) {
                        (None, _) => return,
                        (Some((trace, frame)), Some(handler)) => trace.sync_scope(|| handler.on_frame(me, class, frame)),
                        (Some(_), None) => {}
                    },
                }
            }
        });
        sender
    };
    Arc::new(StreamClass::FRAMED.into_iter().map(serve).collect())
}
