//! What the mesh calls when something comes in. Implemented by drivers; named here so that the mesh knows none of them.

use super::{BulkStream, StreamClass, Topic};
use async_trait::async_trait;
use bytes::Bytes;
use cpi::ids::MemberId;

/// Serves the frames of a class.
#[async_trait]
pub trait FrameHandler: Send + Sync {
    /// Answers a request. Requests of one peer and class are begun in the order they were sent; the future is dropped
    /// when the request's deadline passes. An `Err` reaches the caller as [`super::MeshError::Remote`].
    async fn on_request(&self, from: MemberId, class: StreamClass, frame: Bytes) -> Result<Bytes, String>;

    /// Takes a one-way frame, in the order it was sent. Must not block: it runs in the stream's reader.
    fn on_frame(&self, from: MemberId, class: StreamClass, frame: Bytes);
}

/// Serves bulk streams.
#[async_trait]
pub trait BulkHandler: Send + Sync {
    /// Takes over a stream that `from` opened with `header`. The stream closes when it is dropped.
    async fn on_bulk(&self, from: MemberId, header: Bytes, stream: BulkStream);
}

/// What to do with a gossip message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GossipVerdict {
    /// Right: forward it.
    Accept,
    /// Depends on state that may merely lag here: not forwarded, nobody is blamed.
    Ignore,
    /// Wrong by itself: not forwarded, and the neighbour who sent it loses score.
    Reject,
}

/// Judges gossip before it is forwarded.
pub trait GossipHandler: Send + Sync {
    /// Takes a message of `author` (authenticated). Runs on the gossip task, so one message delays the next.
    fn on_gossip(&self, author: MemberId, topic: Topic, payload: Bytes) -> GossipVerdict;
}

/// Who speaks the join protocol.
#[derive(Clone, Debug)]
pub struct JoinPeer {
    /// The ed25519 key that the connection proved.
    pub transport_key: [u8; 32],
}

/// Answers those who are no members yet.
#[async_trait]
pub trait JoinHandler: Send + Sync {
    /// Answers one request of the join protocol.
    async fn on_join(&self, peer: JoinPeer, frame: Bytes) -> Result<Bytes, String>;
}

/// All that a mesh serves.
#[derive(Clone, Default)]
pub struct Handlers {
    /// By class; a class without a handler refuses its frames.
    pub frames: std::collections::BTreeMap<StreamClass, std::sync::Arc<dyn FrameHandler>>,
    /// For bulk streams.
    pub bulk: Option<std::sync::Arc<dyn BulkHandler>>,
    /// For gossip; without it all gossip is ignored.
    pub gossip: Option<std::sync::Arc<dyn GossipHandler>>,
    /// For the join protocol; without it joiners are refused.
    pub join: Option<std::sync::Arc<dyn JoinHandler>>,
}

/// A handler that is put in place later: the mesh is started before the drivers that need its handle. The gate lets nobody
/// in before there is a roster, so nothing is refused in between.
pub struct Late<H: ?Sized>(std::sync::OnceLock<std::sync::Arc<H>>);

impl<H: ?Sized> Default for Late<H> {
    fn default() -> Self {
        Self(std::sync::OnceLock::new())
    }
}

impl<H: ?Sized> Late<H> {
    /// Puts the handler in place; a second one is ignored.
    pub fn set(&self, handler: std::sync::Arc<H>) {
        let _ = self.0.set(handler);
    }
}

#[async_trait]
impl FrameHandler for Late<dyn FrameHandler> {
    async fn on_request(&self, from: MemberId, class: StreamClass, frame: Bytes) -> Result<Bytes, String> {
        match self.0.get() {
            Some(handler) => handler.on_request(from, class, frame).await,
            None => Err("the node is starting".to_owned()),
        }
    }

    fn on_frame(&self, from: MemberId, class: StreamClass, frame: Bytes) {
        if let Some(handler) = self.0.get() {
            handler.on_frame(from, class, frame);
        }
    }
}

#[async_trait]
impl BulkHandler for Late<dyn BulkHandler> {
    async fn on_bulk(&self, from: MemberId, header: Bytes, stream: BulkStream) {
        if let Some(handler) = self.0.get() {
            handler.on_bulk(from, header, stream).await;
        }
    }
}

impl GossipHandler for Late<dyn GossipHandler> {
    fn on_gossip(&self, author: MemberId, topic: Topic, payload: Bytes) -> GossipVerdict {
        self.0.get().map_or(GossipVerdict::Ignore, |handler| handler.on_gossip(author, topic, payload))
    }
}

#[async_trait]
impl JoinHandler for Late<dyn JoinHandler> {
    async fn on_join(&self, peer: JoinPeer, frame: Bytes) -> Result<Bytes, String> {
        match self.0.get() {
            Some(handler) => handler.on_join(peer, frame).await,
            None => Err("the node is starting: ask again".to_owned()),
        }
    }
}
