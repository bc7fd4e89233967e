//! The link to one member: its state, its outgoing lanes, and the streams it opened here.

use super::core::Core;
use super::lane::{Lane, LaneTask};
use super::peers::{PeerView, RoundTrips};
use super::{MeshError, StreamClass};
use cpi::ids::MemberId;
use libp2p::PeerId;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

pub(super) struct Link {
    pub member: MemberId,
    pub peer: PeerId,
    /// Whether a connection stands.
    pub connected: watch::Sender<bool>,
    /// Cancelled when the member leaves the roster, changes its key, or the mesh stops.
    pub cancel: CancellationToken,
    /// Bulk streams this member may still open here.
    pub bulk_permits: Arc<Semaphore>,
    lanes: Vec<Lane>,
    state: Mutex<LinkState>,
    inbound: Mutex<[Option<CancellationToken>; StreamClass::FRAMED.len()]>,
}

#[derive(Default)]
pub(super) struct LinkState {
    pub round_trips: RoundTrips,
    pub last_seen: Option<Instant>,
    pub address: Option<String>,
    pub agent: Option<String>,
    pub score: f64,
}

impl Link {
    /// Makes the link and starts its lanes.
    pub fn start(core: &Arc<Core>, member: MemberId, peer: PeerId) -> Arc<Self> {
        let (connected, _) = watch::channel(false);
        let cancel = core.stop.child_token();
        let mut lanes = Vec::new();
        let mut tasks = Vec::new();
        for class in StreamClass::FRAMED {
            let (lane, task) = LaneTask::new(core, member, peer, class, connected.subscribe(), cancel.clone());
            lanes.push(lane);
            tasks.push(task);
        }
        for task in tasks {
            core.tasks.spawn(task.run());
        }
        Arc::new(Self {
            member,
            peer,
            connected,
            cancel,
            bulk_permits: Arc::new(Semaphore::new(StreamClass::Bulk.limits().serving_max)),
            lanes,
            state: Mutex::default(),
            inbound: Mutex::default(),
        })
    }

    /// The lane of a framed class.
    pub fn lane(&self, class: StreamClass) -> Result<&Lane, MeshError> {
        if !*self.connected.borrow() {
            return Err(MeshError::Unreachable { member: self.member });
        }
        self.lanes
            .get(class.index())
            .ok_or(MeshError::Refused { member: self.member, reason: "bulk carries no frames" })
    }

    /// Registers a newly opened inbound stream; an older one of the class ends.
    pub fn replace_inbound(&self, class: StreamClass) -> CancellationToken {
        let token = self.cancel.child_token();
        let mut inbound = self.inbound.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(older) = inbound.get_mut(class.index()).and_then(|slot| slot.replace(token.clone())) {
            older.cancel();
        }
        token
    }

    pub fn with_state<R>(&self, change: impl FnOnce(&mut LinkState) -> R) -> R {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn view(&self, region: cpi::ids::RegionName) -> PeerView {
        let ms = |d: std::time::Duration| d.as_secs_f64() * 1e3;
        let connected = *self.connected.borrow();
        self.with_state(|state| PeerView {
            member: self.member,
            region,
            connected,
            rtt_ms: state.round_trips.smoothed().map(ms),
            rtt_p99_ms: state.round_trips.p99().map(ms),
            last_seen_ms: state.last_seen.map(|at| u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX)),
            address: state.address.clone().filter(|_| connected),
            agent: state.agent.clone(),
            score: state.score,
        })
    }
}
