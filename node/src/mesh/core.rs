//! What the handle, the streams and the swarm task share.

use super::link::Link;
use super::roster::Roster;
use super::stats::{Stats, add};
use super::{Handlers, MeshError, MeshStats, PeerEvent, RosterEntry, StreamClass, Topic};
use arc_swap::ArcSwap;
use bytes::Bytes;
use consensus::envelope::Federation;
use cpi::ids::MemberId;
use libp2p::gossipsub::{MessageAcceptance, MessageId};
use libp2p::{Multiaddr, PeerId};
use libp2p_stream::Control;
use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What a bad frame costs its peer; a hundred disconnect it.
pub(super) const BAD_FRAME_PENALTY: f64 = 10.0;

/// What the swarm task is asked to do.
pub(super) enum Command {
    /// The roster changed: dial, close, forget.
    Reconcile,
    /// A judged gossip message.
    Verdict { id: MessageId, source: PeerId, acceptance: MessageAcceptance },
    /// A peer misbehaved on a stream.
    Penalise { peer: PeerId, by: f64 },
    /// Names in a peer's addresses were resolved.
    Dial { peer: PeerId, addresses: Vec<Multiaddr> },
}

pub(super) struct Core {
    pub me: MemberId,
    pub federation: Federation,
    pub roster: Arc<ArcSwap<Roster>>,
    pub links: ArcSwap<BTreeMap<MemberId, Arc<Link>>>,
    /// Expelled keys, kept beside the roster so that either can be set alone.
    pub denied: Mutex<Vec<[u8; 32]>>,
    /// Peers whose join request is being answered.
    pub joining: Mutex<HashSet<PeerId>>,
    pub handlers: Handlers,
    pub control: Control,
    pub commands: mpsc::UnboundedSender<Command>,
    pub publishes: mpsc::Sender<(Topic, Bytes)>,
    pub events: broadcast::Sender<PeerEvent>,
    pub queue_frames_max: usize,
    pub stats: Stats,
    pub listening: Mutex<Vec<Multiaddr>>,
    pub stop: CancellationToken,
    pub tasks: TaskTracker,
}

impl Core {
    pub fn link(&self, member: MemberId) -> Result<Arc<Link>, MeshError> {
        self.links.load().get(&member).cloned().ok_or(MeshError::Unknown { member })
    }

    /// The link of the member that `peer` is, if it is admitted.
    pub fn link_of_peer(&self, peer: &PeerId) -> Option<Arc<Link>> {
        let member = self.roster.load().member_of(peer)?;
        self.links.load().get(&member).cloned()
    }

    /// Puts a new roster in force: at once for the gate and the streams, and for connections as soon as the swarm task
    /// sees the command.
    pub fn set_roster(self: &Arc<Self>, entries: Vec<RosterEntry>, denied: Option<Vec<[u8; 32]>>) {
        let mut denied_now = self.denied.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(denied) = denied {
            *denied_now = denied;
        }
        let roster = Roster::new(entries, &denied_now);
        let old = self.links.load_full();
        let mut links = BTreeMap::new();
        for entry in roster.members.values().filter(|entry| entry.member != self.me) {
            let Some(peer) = entry.peer() else { continue };
            let link = match old.get(&entry.member) {
                Some(link) if link.peer == peer => Arc::clone(link),
                _ => Link::start(self, entry.member, peer),
            };
            links.insert(entry.member, link);
        }
        for (member, link) in old.iter() {
            if !links.get(member).is_some_and(|kept| Arc::ptr_eq(kept, link)) {
                link.cancel.cancel();
            }
        }
        self.roster.store(Arc::new(roster));
        self.links.store(Arc::new(links));
        drop(denied_now);
        let _ = self.commands.send(Command::Reconcile);
    }

    /// Whether a join request of `peer` is being answered.
    pub fn is_joining(&self, peer: &PeerId) -> bool {
        self.joining.lock().unwrap_or_else(PoisonError::into_inner).contains(peer)
    }

    /// Counts a broken rule of the protocol against its peer.
    pub fn bad_frame(&self, peer: PeerId, member: MemberId, class: StreamClass, what: &dyn std::fmt::Display) {
        add(&self.stats.bad_frames, 1);
        tracing::warn!(%peer, %member, class = class.name(), error = %what, "a bad frame closed the stream");
        let _ = self.commands.send(Command::Penalise { peer, by: BAD_FRAME_PENALTY });
    }

    pub fn stats(&self) -> MeshStats {
        self.stats.copy()
    }
}
