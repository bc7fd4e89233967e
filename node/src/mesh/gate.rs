//! The gate: decides on every connection, watches what strangers try, and keeps member protocols from them.
//!
//! [`Gate`] denies expelled keys and surplus strangers; to a stranger's connection it adds a handler that takes the member
//! protocols only to count and drop them. What is decided at the start of a connection holds to its end, so the swarm task
//! closes connections whose peer was admitted or expelled meanwhile.

use super::StreamClass;
use super::roster::Roster;
use arc_swap::ArcSwap;
use futures::future::{Ready, ready};
use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::{DeniedUpgrade, InboundUpgrade, UpgradeInfo};
use libp2p::swarm::handler::{ConnectionEvent, FullyNegotiatedInbound};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm, NetworkBehaviour, Stream,
    StreamProtocol, SubstreamProtocol, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};
use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

/// Connections of strangers (joiners) at one time.
const STRANGERS_MAX: usize = 64;
/// The gossip protocol's name.
pub(super) const GOSSIP_PROTOCOL: &str = "/causeway/gossip/1.0.0";

/// Why a connection was denied.
#[derive(Debug, thiserror::Error)]
pub(super) enum Denied {
    #[error("this node is starting: it does not know its members yet")]
    Starting,
    #[error("the peer was expelled")]
    Expelled,
    #[error("too many strangers are connected")]
    TooManyStrangers,
}

/// What the gate saw.
#[derive(Debug)]
pub(super) enum GateEvent {
    /// A stranger tried a member protocol.
    Refused { peer: PeerId, protocol: StreamProtocol },
    /// A connection was denied.
    Denied { peer: PeerId, reason: &'static str },
}

/// Decides on connections.
pub(super) struct Gate {
    roster: Arc<ArcSwap<Roster>>,
    strangers: HashMap<ConnectionId, PeerId>,
    events: VecDeque<GateEvent>,
}

impl Gate {
    pub fn new(roster: Arc<ArcSwap<Roster>>) -> Self {
        Self { roster, strangers: HashMap::new(), events: VecDeque::new() }
    }

    /// Whether the connection was made as a stranger's.
    pub fn is_stranger(&self, connection: ConnectionId) -> bool {
        self.strangers.contains_key(&connection)
    }

    /// The connections that `peer` made as a stranger.
    pub fn strangers_of(&self, peer: &PeerId) -> Vec<ConnectionId> {
        self.strangers.iter().filter(|(_, of)| *of == peer).map(|(connection, _)| *connection).collect()
    }

    fn decide(&mut self, connection: ConnectionId, peer: PeerId) -> Result<Watch, ConnectionDenied> {
        let roster = self.roster.load();
        if !roster.is_known() {
            return Err(ConnectionDenied::new(Denied::Starting));
        }
        if roster.is_denied(&peer) {
            self.events.push_back(GateEvent::Denied { peer, reason: "expelled" });
            return Err(ConnectionDenied::new(Denied::Expelled));
        }
        if roster.member_of(&peer).is_some() {
            return Ok(Watch { refused: Vec::new(), seen: VecDeque::new(), member: true });
        }
        if self.strangers.len() >= STRANGERS_MAX {
            self.events.push_back(GateEvent::Denied { peer, reason: "too many strangers" });
            return Err(ConnectionDenied::new(Denied::TooManyStrangers));
        }
        self.strangers.insert(connection, peer);
        let mut refused: Vec<_> = StreamClass::ALL.into_iter().map(StreamClass::protocol).collect();
        refused.push(StreamProtocol::new(GOSSIP_PROTOCOL));
        Ok(Watch { refused, seen: VecDeque::new(), member: false })
    }
}

impl NetworkBehaviour for Gate {
    type ConnectionHandler = Watch;
    type ToSwarm = GateEvent;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.decide(connection, peer)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.decide(connection, peer)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionClosed(closed) => drop(self.strangers.remove(&closed.connection_id)),
            FromSwarm::ListenFailure(failure) => drop(self.strangers.remove(&failure.connection_id)),
            FromSwarm::DialFailure(failure) => drop(self.strangers.remove(&failure.connection_id)),
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, _: ConnectionId, protocol: THandlerOutEvent<Self>) {
        self.events.push_back(GateEvent::Refused { peer, protocol });
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        match self.events.pop_front() {
            Some(event) => Poll::Ready(ToSwarm::GenerateEvent(event)),
            None => Poll::Pending,
        }
    }
}

/// Keeps a member's connection open; on a stranger's it takes member protocols in order to count and drop them.
pub(super) struct Watch {
    refused: Vec<StreamProtocol>,
    seen: VecDeque<StreamProtocol>,
    member: bool,
}

/// Takes a stream only to drop it.
pub(super) struct Refuse(Vec<StreamProtocol>);

impl UpgradeInfo for Refuse {
    type Info = StreamProtocol;
    type InfoIter = std::vec::IntoIter<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.clone().into_iter()
    }
}

impl InboundUpgrade<Stream> for Refuse {
    type Output = StreamProtocol;
    type Error = Infallible;
    type Future = Ready<Result<StreamProtocol, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        drop(stream);
        ready(Ok(protocol))
    }
}

impl ConnectionHandler for Watch {
    type FromBehaviour = Infallible;
    type ToBehaviour = StreamProtocol;
    type InboundProtocol = Refuse;
    type OutboundProtocol = DeniedUpgrade;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Refuse> {
        SubstreamProtocol::new(Refuse(self.refused.clone()), ())
    }

    fn connection_keep_alive(&self) -> bool {
        self.member
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<DeniedUpgrade, (), StreamProtocol>> {
        match self.seen.pop_front() {
            Some(protocol) => Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(protocol)),
            None => Poll::Pending,
        }
    }

    fn on_behaviour_event(&mut self, event: Infallible) {
        match event {}
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Refuse, DeniedUpgrade>) {
        if let ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, .. }) = event {
            self.seen.push_back(protocol);
        }
    }
}
