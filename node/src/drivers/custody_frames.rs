//! The way out of custody: messages of a tick gathered by peer, those that rest on a persist once it is on disk.

use crate::drivers::negotiation::PeerSender;
use crate::mesh::StreamClass;
use bytes::Bytes;
use consensus::custody::{Message, seal_frames};
use consensus::negotiation::PersistId;
use cpi::ids::MemberId;
use std::collections::{BTreeMap, VecDeque};

/// Messages to custodians that are not sent yet.
#[derive(Default)]
pub struct CustodyFrames {
    ready: BTreeMap<MemberId, Vec<Message>>,
    held: VecDeque<(PersistId, MemberId, Message)>,
}

impl CustodyFrames {
    /// Adds a message; `after` is the persist that it waits for.
    pub fn push(&mut self, to: MemberId, message: Message, after: Option<PersistId>) {
        match after {
            Some(after) => self.held.push_back((after, to, message)),
            None => self.ready.entry(to).or_default().push(message),
        }
    }

    /// Everything up to this persist is on disk.
    pub fn on_disk(&mut self, up_to: PersistId) {
        while self.held.front().is_some_and(|(after, ..)| *after <= up_to) {
            let Some((_, to, message)) = self.held.pop_front() else { return };
            self.ready.entry(to).or_default().push(message);
        }
    }

    /// Sends what is ready. What finds no room is lost, as on any network: it is said again by its timer.
    pub fn flush(&mut self, peers: &dyn PeerSender) {
        for (to, messages) in std::mem::take(&mut self.ready) {
            for frame in seal_frames(&messages) {
                if let Err(error) = peers.send_frame(to, StreamClass::Custody, Bytes::from(frame)) {
                    tracing::debug!(member = %to, %error, "a custody frame was not sent");
                }
            }
        }
    }
}
