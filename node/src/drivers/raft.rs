//! The registry's questions over the mesh: Raft by class, and what else travels on the registry's stream, by a first byte.

use crate::mesh::{FrameHandler, MeshError, MeshHandle, StreamClass};
use async_trait::async_trait;
use bytes::{BufMut as _, Bytes, BytesMut};
use consensus::raft::{RaftClass, RaftTransport, RegistryHandle, TransportError};
use cpi::ids::MemberId;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// What a frame of [`StreamClass::Registry`] is about: its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum RegistryTopic {
    /// Proposals, reads and beacons of Raft.
    Raft = 0,
    /// Anti-entropy of pending registrations.
    Repair = 1,
    /// Joins that wait, and approvals of them.
    Admission = 2,
    /// Anti-entropy of votes.
    Votes = 3,
}

impl RegistryTopic {
    /// Puts the topic's byte in front.
    pub fn frame(self, body: &[u8]) -> Bytes {
        let mut frame = BytesMut::with_capacity(1 + body.len());
        frame.put_u8(self as u8);
        frame.put_slice(body);
        frame.freeze()
    }

    fn split(frame: &Bytes) -> Option<(Self, Bytes)> {
        let topic = match frame.first()? {
            0 => Self::Raft,
            1 => Self::Repair,
            2 => Self::Admission,
            3 => Self::Votes,
            _ => return None,
        };
        Some((topic, frame.slice(1..)))
    }
}

/// Carries the registry's questions to other members.
pub struct MeshTransport {
    mesh: MeshHandle,
}

impl MeshTransport {
    /// Over `mesh`.
    pub fn new(mesh: MeshHandle) -> Self {
        Self { mesh }
    }
}

#[async_trait]
impl RaftTransport for MeshTransport {
    async fn call(
        &self,
        to: MemberId,
        class: RaftClass,
        frame: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, TransportError> {
        let (class, frame) = match class {
            RaftClass::Control => (StreamClass::RaftControl, frame),
            RaftClass::Log => (StreamClass::RaftLog, frame),
            RaftClass::Snapshot => (StreamClass::RaftSnapshot, frame),
            RaftClass::Forward => (StreamClass::Registry, RegistryTopic::Raft.frame(&frame)),
        };
        self.mesh.request(to, class, frame, deadline).await.map_err(|error| match error {
            MeshError::Deadline { member, .. } | MeshError::Disconnected { member } => TransportError::Timeout(member),
            MeshError::Remote { member, message } => TransportError::Refused { member, message },
            MeshError::TooLarge { .. } => TransportError::Refused { member: to, message: error.to_string() },
            _ => TransportError::Unreachable(to),
        })
    }

    fn members(&self) -> Vec<MemberId> {
        self.mesh.roster().into_iter().map(|entry| entry.member).collect()
    }

    fn rtt_ms(&self, to: MemberId) -> Option<u32> {
        if !self.mesh.is_connected(to) {
            return None;
        }
        // one round trip in a hundred of a busy machine is no property of the line
        let (p99, smoothed) = (self.mesh.rtt_p99(to).unwrap_or_default(), self.mesh.rtt(to).unwrap_or_default());
        Some(u32::try_from(p99.min(3 * smoothed).as_millis()).unwrap_or(u32::MAX))
    }
}

/// Hands the registry's frames to who serves them.
#[derive(Default)]
pub struct RegistryFrames {
    registry: OnceLock<RegistryHandle>,
    repair: OnceLock<Arc<dyn FrameHandler>>,
    admission: OnceLock<Arc<dyn FrameHandler>>,
    votes: OnceLock<Arc<dyn FrameHandler>>,
}

impl RegistryFrames {
    /// Raft's frames go to `registry` from now on.
    pub fn serve_registry(&self, registry: RegistryHandle) {
        let _ = self.registry.set(registry);
    }

    /// Anti-entropy's frames, without their topic, go to `handler` from now on.
    pub fn serve_repair(&self, handler: Arc<dyn FrameHandler>) {
        let _ = self.repair.set(handler);
    }

    /// Frames about joins, without their topic, go to `handler` from now on.
    pub fn serve_admission(&self, handler: Arc<dyn FrameHandler>) {
        let _ = self.admission.set(handler);
    }

    /// Anti-entropy of votes, without its topic, goes to `handler` from now on.
    pub fn serve_votes(&self, handler: Arc<dyn FrameHandler>) {
        let _ = self.votes.set(handler);
    }

    async fn raft(&self, from: MemberId, class: RaftClass, frame: Bytes) -> Result<Bytes, String> {
        match self.registry.get() {
            Some(registry) => registry.serve(from, class, frame).await,
            None => Err("the node is starting".to_owned()),
        }
    }

    fn other(&self, topic: RegistryTopic) -> Option<&Arc<dyn FrameHandler>> {
        match topic {
            RegistryTopic::Raft => None,
            RegistryTopic::Repair => self.repair.get(),
            RegistryTopic::Admission => self.admission.get(),
            RegistryTopic::Votes => self.votes.get(),
        }
    }
}

#[async_trait]
impl FrameHandler for RegistryFrames {
    async fn on_request(&self, from: MemberId, class: StreamClass, frame: Bytes) -> Result<Bytes, String> {
        match class {
            StreamClass::RaftControl => self.raft(from, RaftClass::Control, frame).await,
            StreamClass::RaftLog => self.raft(from, RaftClass::Log, frame).await,
            StreamClass::RaftSnapshot => self.raft(from, RaftClass::Snapshot, frame).await,
            _ => match RegistryTopic::split(&frame) {
                Some((RegistryTopic::Raft, body)) => self.raft(from, RaftClass::Forward, body).await,
                Some((topic, body)) => match self.other(topic) {
                    Some(handler) => handler.on_request(from, class, body).await,
                    None => Err("the node is starting".to_owned()),
                },
                None => Err("this topic is not known here".to_owned()),
            },
        }
    }

    fn on_frame(&self, from: MemberId, class: StreamClass, frame: Bytes) {
        if class == StreamClass::Registry
            && let Some((topic, body)) = RegistryTopic::split(&frame)
            && let Some(handler) = self.other(topic)
        {
            handler.on_frame(from, class, body);
        }
    }
}
