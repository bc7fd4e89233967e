//! Gives the protocols inside it to admitted peers' connections alone, and of each peer's to the one that counts.
//!
//! For all other connections those protocols do not exist. When a connection replaces another (see `connections`), the
//! protocols see the old one close before the new one opens, and nothing of the old one reaches them any more.

use super::connections::{Connections, Settled};
use super::roster::Roster;
use arc_swap::ArcSwap;
use libp2p::core::transport::PortUse;
use libp2p::core::{ConnectedPoint, Endpoint};
use libp2p::swarm::behaviour::{ConnectionClosed, ConnectionEstablished};
use libp2p::swarm::{
    CloseConnection, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, NotifyHandler, THandler,
    THandlerInEvent, THandlerOutEvent, ToSwarm, dummy,
};
use libp2p::{Multiaddr, PeerId};
use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};

pub(super) struct MembersOnly<B> {
    pub inner: B,
    roster: Arc<ArcSwap<Roster>>,
    connections: Connections,
    closing: VecDeque<(PeerId, ConnectionId)>,
}

impl<B: NetworkBehaviour> MembersOnly<B> {
    pub fn new(inner: B, me: PeerId, roster: Arc<ArcSwap<Roster>>) -> Self {
        Self { inner, roster, connections: Connections::new(me), closing: VecDeque::new() }
    }

    /// The members' connections.
    pub fn connections(&self) -> &Connections {
        &self.connections
    }

    /// Whether the protocols inside get a new connection. The one that it replaces is closed before they do: gossip, for
    /// one, makes its state of a peer when it makes the handler of the first connection.
    fn admits(&mut self, connection: ConnectionId, peer: PeerId, endpoint: ConnectedPoint) -> bool {
        if self.roster.load().member_of(&peer).is_none() {
            return false;
        }
        match self.connections.settle(peer, connection, endpoint) {
            Settled::Counts(before) => {
                if let Some(before) = before {
                    self.inner.on_swarm_event(FromSwarm::ConnectionClosed(ConnectionClosed {
                        peer_id: peer,
                        connection_id: before.id,
                        endpoint: &before.endpoint,
                        cause: None,
                        remaining_established: 0,
                    }));
                    self.closing.push_back((peer, before.id));
                }
                true
            }
            Settled::Surplus => {
                self.closing.push_back((peer, connection));
                false
            }
        }
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
        let endpoint = ConnectedPoint::Listener { local_addr: local.clone(), send_back_addr: remote.clone() };
        if !self.admits(connection, peer, endpoint) {
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
        let endpoint = ConnectedPoint::Dialer { address: address.clone(), role_override: role, port_use: port };
        if !self.admits(connection, peer, endpoint) {
            return Ok(either::Either::Right(dummy::ConnectionHandler));
        }
        let handler = self.inner.handle_established_outbound_connection(connection, peer, address, role, port)?;
        Ok(either::Either::Left(handler))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(established) => {
                if self.connections.counts(&established.peer_id, established.connection_id) {
                    self.inner.on_swarm_event(FromSwarm::ConnectionEstablished(ConnectionEstablished {
                        other_established: 0,
                        ..established
                    }));
                }
            }
            FromSwarm::ConnectionClosed(closed) => {
                if self.connections.remove(&closed.peer_id, closed.connection_id) {
                    self.inner.on_swarm_event(FromSwarm::ConnectionClosed(ConnectionClosed {
                        remaining_established: 0,
                        ..closed
                    }));
                }
            }
            FromSwarm::AddressChange(change) if !self.connections.counts(&change.peer_id, change.connection_id) => {}
            FromSwarm::ListenFailure(failure) => {
                self.connections.withdraw(failure.connection_id);
                self.inner.on_swarm_event(event);
            }
            FromSwarm::DialFailure(failure) => {
                self.connections.withdraw(failure.connection_id);
                self.inner.on_swarm_event(event);
            }
            other => self.inner.on_swarm_event(other),
        }
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, connection: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {
            either::Either::Left(event) if self.connections.counts(&peer, connection) => {
                self.inner.on_connection_handler_event(peer, connection, event);
            }
            // What a replaced connection still had to say.
            either::Either::Left(_) => {}
            either::Either::Right(event) => match event {},
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        if let Some((peer_id, connection)) = self.closing.pop_front() {
            return Poll::Ready(ToSwarm::CloseConnection { peer_id, connection: CloseConnection::One(connection) });
        }
        loop {
            let Poll::Ready(action) = self.inner.poll(cx) else { return Poll::Pending };
            let action = match action {
                // Only the connection that counts has a handler that knows these events.
                ToSwarm::NotifyHandler { peer_id, handler, event } => {
                    let counts = self.connections.of(&peer_id);
                    let meant = match handler {
                        NotifyHandler::One(connection) => counts.filter(|counts| *counts == connection),
                        NotifyHandler::Any => counts,
                    };
                    let Some(connection) = meant else { continue };
                    ToSwarm::NotifyHandler { peer_id, handler: NotifyHandler::One(connection), event }
                }
                other => other,
            };
            return Poll::Ready(action.map_in(either::Either::Left));
        }
    }
}
