//! The gate: decides on every connection, watches what strangers try, and keeps member protocols from them.
//!
//! [`Gate`] denies expelled keys and surplus strangers; to a stranger's connection it adds a handler that takes the member
//! protocols only to count and drop them. [`MembersOnly`] gives the protocols inside it to admitted peers' connections
//! alone: for the others they do not exist. What is decided at the start of a connection holds to its end, so the swarm
//! task closes connections whose peer was admitted or expelled meanwhile.

use super::StreamClass;
use super::roster::Roster;
use arc_swap::ArcSwap;
use futures::future::{Ready, ready};
use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::{DeniedUpgrade, InboundUpgrade, UpgradeInfo};
use libp2p::swarm::behaviour::{ConnectionClosed, ConnectionEstablished};
use libp2p::swarm::handler::{ConnectionEvent, FullyNegotiatedInbound};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm, NetworkBehaviour,
    NotifyHandler, Stream, StreamProtocol, SubstreamProtocol, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
    dummy,
};
use libp2p::{Multiaddr, PeerId};
use std::collections::{HashMap, HashSet, VecDeque};
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
    strangers: HashSet<ConnectionId>,
    events: VecDeque<GateEvent>,
}

impl Gate {
    pub fn new(roster: Arc<ArcSwap<Roster>>) -> Self {
        Self { roster, strangers: HashSet::new(), events: VecDeque::new() }
    }

    /// Whether the connection was made as a stranger's.
    pub fn is_stranger(&self, connection: ConnectionId) -> bool {
        self.strangers.contains(&connection)
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
        self.strangers.insert(connection);
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

/// Gives `inner` the connections of admitted peers, and hides all others from it.
pub(super) struct MembersOnly<B> {
    pub inner: B,
    roster: Arc<ArcSwap<Roster>>,
    let_in: HashSet<ConnectionId>,
    open: HashMap<PeerId, Vec<ConnectionId>>,
}

impl<B> MembersOnly<B> {
    pub fn new(inner: B, roster: Arc<ArcSwap<Roster>>) -> Self {
        Self { inner, roster, let_in: HashSet::new(), open: HashMap::new() }
    }

    fn admits(&mut self, connection: ConnectionId, peer: &PeerId) -> bool {
        let admitted = self.roster.load().member_of(peer).is_some();
        if admitted {
            self.let_in.insert(connection);
        }
        admitted
    }
}

impl<B: NetworkBehaviour> NetworkBehaviour for MembersOnly<B> {
    type ConnectionHandler = either::Either<THandler<B>, dummy::ConnectionHandler>;
    type ToSwarm = B::ToSwarm;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        if !self.admits(connection, &peer) {
            return Ok(either::Either::Right(dummy::ConnectionHandler));
        }
        let handler = self.inner.handle_established_inbound_connection(connection, peer, local, remote)?;
        Ok(either::Either::Left(handler))
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        if !self.admits(connection, &peer) {
            return Ok(either::Either::Right(dummy::ConnectionHandler));
        }
        let handler = self.inner.handle_established_outbound_connection(connection, peer, address, role, port)?;
        Ok(either::Either::Left(handler))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(established) => {
                if !self.let_in.contains(&established.connection_id) {
                    return;
                }
                let open = self.open.entry(established.peer_id).or_default();
                let other_established = open.len();
                open.push(established.connection_id);
                self.inner.on_swarm_event(FromSwarm::ConnectionEstablished(ConnectionEstablished {
                    other_established,
                    ..established
                }));
            }
            FromSwarm::ConnectionClosed(closed) => {
                if !self.let_in.remove(&closed.connection_id) {
                    return;
                }
                let open = self.open.entry(closed.peer_id).or_default();
                open.retain(|connection| *connection != closed.connection_id);
                let remaining_established = open.len();
                if open.is_empty() {
                    self.open.remove(&closed.peer_id);
                }
                self.inner
                    .on_swarm_event(FromSwarm::ConnectionClosed(ConnectionClosed { remaining_established, ..closed }));
            }
            FromSwarm::AddressChange(change) if !self.let_in.contains(&change.connection_id) => {}
            FromSwarm::ListenFailure(failure) => {
                self.let_in.remove(&failure.connection_id);
                self.inner.on_swarm_event(event);
            }
            FromSwarm::DialFailure(failure) => {
                self.let_in.remove(&failure.connection_id);
                self.inner.on_swarm_event(event);
            }
            other => self.inner.on_swarm_event(other),
        }
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, connection: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {
            either::Either::Left(event) => self.inner.on_connection_handler_event(peer, connection, event),
            either::Either::Right(event) => match event {},
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        loop {
            let Poll::Ready(action) = self.inner.poll(cx) else { return Poll::Pending };
            let action = match action {
                // "Any connection" could be a stranger's, whose handler knows nothing of these events.
                ToSwarm::NotifyHandler { peer_id, handler, event } => {
                    let connection = match handler {
                        NotifyHandler::One(connection) => Some(connection),
                        NotifyHandler::Any => self.open.get(&peer_id).and_then(|open| open.last().copied()),
                    };
                    let Some(connection) = connection else { continue };
                    ToSwarm::NotifyHandler { peer_id, handler: NotifyHandler::One(connection), event }
                }
                other => other,
            };
            return Poll::Ready(action.map_in(either::Either::Left));
        }
    }
}
