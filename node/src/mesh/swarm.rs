//! The swarm task: owns the libp2p swarm, and does what only its owner can: dial, close, publish, report.
//!
//! No frame passes through here. Frames go from a lane's task over a stream to the peer, gossip to the gossip task.

use super::behaviour::{BehaviourEvent, MembersEvent, Swarm};
use super::core::{Command, Core};
use super::dialer::Dialer;
use super::gate::GateEvent;
use super::gossip::{self, Judged};
use super::peers::PeerEvent;
use super::stats::add;
use super::{Topic, addresses};
use bytes::Bytes;
use futures::StreamExt as _;
use libp2p::gossipsub::{self, MessageAcceptance, PublishError};
use libp2p::swarm::{ConnectionId, SwarmEvent};
use libp2p::{Multiaddr, PeerId, identify, ping};
use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// A peer whose penalties reach this is disconnected.
const PENALTY_MAX: f64 = 100.0;
/// Penalties halve in this time.
const PENALTY_HALF_LIFE: Duration = Duration::from_secs(60);

pub(super) struct SwarmTask {
    pub core: Arc<Core>,
    pub swarm: Swarm,
    pub commands: mpsc::UnboundedReceiver<Command>,
    pub publishes: mpsc::Receiver<(Topic, Bytes)>,
    pub judging: mpsc::Sender<Judged>,
    pub dialer: Dialer,
    pub penalties: HashMap<PeerId, (f64, Instant)>,
}

impl SwarmTask {
    /// Runs until the mesh stops; then all connections are closed.
    pub async fn run(mut self) {
        loop {
            let next_dial = self.dialer.next_at();
            tokio::select! {
                biased;
                () = self.core.stop.cancelled() => break,
                Some(command) = self.commands.recv() => self.on_command(command),
                event = self.swarm.select_next_some() => self.on_event(event),
                Some((topic, payload)) = self.publishes.recv() => self.publish(topic, payload),
                () = sleep_until(next_dial) => self.dial_due(),
            }
        }
        self.close_all().await;
    }

    /// Says goodbye, so that peers need not wait for a timeout.
    async fn close_all(mut self) {
        let peers: Vec<PeerId> = self.swarm.connected_peers().copied().collect();
        for peer in peers {
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let closed = async {
            while self.swarm.connected_peers().next().is_some() {
                self.swarm.select_next_some().await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_millis(300), closed).await;
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Reconcile => self.reconcile(),
            Command::Verdict { id, source, acceptance } => self.report(&id, &source, acceptance),
            Command::Penalise { peer, by } => self.penalise(peer, by),
            Command::Dial { peer, addresses } => self.dial(peer, addresses),
        }
    }

    /// Brings connections in line with the roster.
    fn reconcile(&mut self) {
        let core = Arc::clone(&self.core);
        let roster = core.roster.load();
        let connected: Vec<PeerId> = self.swarm.connected_peers().copied().collect();
        for peer in connected {
            let strangers = self.swarm.behaviour().gate.strangers_of(&peer);
            match roster.member_of(&peer) {
                // A stranger's connection speaks only the join protocol: a member needs a new one, once it has its answer.
                Some(member) if !strangers.is_empty() && !core.is_joining(&peer) => {
                    tracing::info!(%member, %peer, "admitted: its connection as a stranger is closed");
                    for connection in strangers {
                        self.swarm.close_connection(connection);
                    }
                }
                None if self.stands(&peer) || roster.is_denied(&peer) => {
                    tracing::info!(%peer, "no longer a member: disconnected");
                    let _ = self.swarm.disconnect_peer_id(peer);
                }
                _ => {}
            }
        }
        let links = core.links.load();
        self.dialer.retain(|peer| links.values().any(|link| link.peer == *peer));
        for link in links.values() {
            if self.stands(&link.peer) {
                link.connected.send_if_modified(|connected| !std::mem::replace(connected, true));
            } else {
                // The smaller member id dials at once, the other a little later: one connection is enough.
                self.dialer.add(Instant::now(), link.peer, link.member > core.me);
            }
        }
    }

    /// Whether a member's connection to `peer` stands.
    fn stands(&self, peer: &PeerId) -> bool {
        self.swarm.behaviour().members.connections().stands(peer)
    }

    fn report(&mut self, id: &gossipsub::MessageId, source: &PeerId, acceptance: MessageAcceptance) {
        self.swarm.behaviour_mut().members.inner.gossip.report_message_validation_result(id, source, acceptance);
    }

    fn penalise(&mut self, peer: PeerId, by: f64) {
        let now = Instant::now();
        self.penalties.retain(|_, (sum, since)| decayed(*sum, now - *since) >= 1.0);
        let (sum, since) = self.penalties.entry(peer).or_insert((0.0, now));
        *sum = decayed(*sum, now - *since) + by;
        *since = now;
        let sum = *sum;
        let score = self.score(&peer, sum);
        if let Some(link) = self.core.link_of_peer(&peer) {
            link.with_state(|state| state.score = score);
        }
        if sum >= PENALTY_MAX {
            tracing::warn!(%peer, penalty = sum, "a misbehaving peer is disconnected");
            let _ = self.swarm.disconnect_peer_id(peer);
        }
    }

    /// Tells gossip a peer's penalty as it is now, and asks for the whole score.
    fn score(&mut self, peer: &PeerId, penalty: f64) -> f64 {
        let gossip = &mut self.swarm.behaviour_mut().members.inner.gossip;
        // Before it has exchanged subscriptions with a peer, gossip keeps no score of it.
        let known = gossip.set_application_score(peer, -penalty);
        gossip.peer_score(peer).filter(|_| known).unwrap_or(-penalty)
    }

    fn publish(&mut self, topic: Topic, payload: Bytes) {
        add(&self.core.stats.gossip_out, 1);
        let gossip = &mut self.swarm.behaviour_mut().members.inner.gossip;
        match gossip.publish(gossip::ident(topic), Vec::from(payload)) {
            Ok(_) => {}
            // Alone just now: the anti-entropy of who published repairs that.
            Err(PublishError::NoPeersSubscribedToTopic) => tracing::debug!(topic = topic.name(), "nobody to gossip to"),
            Err(error) => tracing::warn!(topic = topic.name(), %error, "gossip not published"),
        }
    }

    fn dial_due(&mut self) {
        for peer in self.dialer.take_due(Instant::now()) {
            let Some(link) = self.core.link_of_peer(&peer) else { continue };
            let addresses = self.dialer.addresses(&self.core.roster.load(), link.member);
            if addresses.is_empty() {
                tracing::debug!(member = %link.member, "no address to dial");
            } else if addresses.iter().any(addresses::has_name) {
                let commands = self.core.commands.clone();
                self.core.tasks.spawn(async move {
                    let addresses = addresses::resolve(addresses).await;
                    let _ = commands.send(Command::Dial { peer, addresses });
                });
            } else {
                self.dial(peer, addresses);
            }
        }
    }

    fn dial(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
        if self.stands(&peer) || addresses.is_empty() {
            return;
        }
        let options =
            DialOpts::peer_id(peer).addresses(addresses).condition(PeerCondition::DisconnectedAndNotDialing).build();
        if let Err(error) = self.swarm.dial(options) {
            tracing::debug!(%peer, %error, "dial not begun");
        }
    }

    fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(BehaviourEvent::Members(event)) => self.on_member_event(event),
            SwarmEvent::Behaviour(BehaviourEvent::Gate(event)) => self.on_gate_event(event),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.on_connection(peer_id, connection_id, endpoint.get_remote_address());
            }
            SwarmEvent::ConnectionClosed { peer_id, cause, .. } => {
                let cause = cause.map(|cause| cause.to_string());
                self.on_closed(peer_id, cause.as_deref().unwrap_or("closed here"));
            }
            SwarmEvent::OutgoingConnectionError { peer_id: Some(peer), error, .. } => {
                add(&self.core.stats.dials_failed, 1);
                tracing::debug!(%peer, %error, "dial failed");
            }
            SwarmEvent::IncomingConnectionError { error, .. } => tracing::debug!(%error, "inbound connection failed"),
            SwarmEvent::NewListenAddr { address, .. } => {
                self.core.listening.lock().unwrap_or_else(PoisonError::into_inner).push(address);
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                self.core.listening.lock().unwrap_or_else(PoisonError::into_inner).retain(|known| *known != address);
            }
            SwarmEvent::ListenerClosed { addresses, reason, .. } => {
                tracing::error!(?addresses, ?reason, "a listener closed: nobody can connect there any more");
            }
            _ => {}
        }
    }

    fn on_connection(&mut self, peer: PeerId, connection: ConnectionId, address: &Multiaddr) {
        let behaviour = self.swarm.behaviour();
        if behaviour.gate.is_stranger(connection) {
            tracing::info!(%peer, %address, "a stranger connected: it may only ask to join");
            return;
        }
        if !behaviour.members.connections().counts(&peer, connection) {
            tracing::debug!(%peer, "a second connection to the same peer is closed");
            return;
        }
        self.dialer.done(Instant::now(), &peer);
        let Some(link) = self.core.link_of_peer(&peer) else {
            // Expelled while the handshake ran.
            let _ = self.swarm.disconnect_peer_id(peer);
            return;
        };
        link.with_state(|state| {
            state.address = Some(address.to_string());
            state.last_seen = Some(Instant::now());
        });
        let replaces = link.connected.send_replace(true);
        tracing::info!(member = %link.member, %address, replaces, "peer connected");
        let _ = self.core.events.send(PeerEvent::Connected(link.member));
    }

    fn on_closed(&mut self, peer: PeerId, cause: &str) {
        if self.stands(&peer) {
            return;
        }
        self.penalties.retain(|_, (sum, since)| decayed(*sum, since.elapsed()) >= 1.0);
        let Some(link) = self.core.link_of_peer(&peer) else { return };
        if link.connected.send_if_modified(|connected| std::mem::replace(connected, false)) {
            tracing::info!(member = %link.member, %peer, cause, "peer disconnected");
            let _ = self.core.events.send(PeerEvent::Disconnected(link.member));
        }
        self.dialer.add(Instant::now(), peer, link.member > self.core.me);
    }

    fn on_gate_event(&mut self, event: GateEvent) {
        add(&self.core.stats.refused, 1);
        match event {
            GateEvent::Refused { peer, protocol } => {
                tracing::warn!(%peer, %protocol, "refused: the peer is no member");
            }
            GateEvent::Denied { peer, reason } => tracing::warn!(%peer, reason, "connection refused"),
        }
    }

    fn on_member_event(&mut self, event: MembersEvent) {
        match event {
            MembersEvent::Ping(ping::Event { peer, connection, result }) => match result {
                Ok(rtt) => {
                    let penalty = self.penalties.get(&peer).map_or(0.0, |(sum, since)| decayed(*sum, since.elapsed()));
                    let score = self.score(&peer, penalty);
                    if let Some(link) = self.core.link_of_peer(&peer) {
                        link.with_state(|state| {
                            state.round_trips.record(rtt);
                            state.last_seen = Some(Instant::now());
                            state.score = score;
                        });
                    }
                }
                // A member that only asks to be told its admission again speaks no ping.
                Err(ping::Failure::Unsupported) => {}
                Err(error) => {
                    tracing::debug!(%peer, %error, "ping failed: the connection is closed");
                    self.swarm.close_connection(connection);
                }
            },
            MembersEvent::Identify(identify::Event::Received { peer_id, info, .. }) => {
                if let Some(link) = self.core.link_of_peer(&peer_id) {
                    let agent: String = info.agent_version.chars().take(64).collect();
                    link.with_state(|state| state.agent = Some(agent));
                }
            }
            MembersEvent::Gossip(gossipsub::Event::Message { propagation_source, message_id, message }) => {
                let judged = Judged {
                    id: message_id,
                    source: propagation_source,
                    author: message.source,
                    topic: message.topic,
                    payload: message.data,
                };
                // A full queue sheds gossip: it is only a hint.
                if let Err(error) = self.judging.try_send(judged) {
                    add(&self.core.stats.gossip_ignored, 1);
                    let judged = error.into_inner();
                    self.report(&judged.id, &judged.source, MessageAcceptance::Ignore);
                }
            }
            MembersEvent::Gossip(gossipsub::Event::GossipsubNotSupported { peer_id }) => {
                tracing::debug!(peer = %peer_id, "a member does not speak our gossip: it is joining, or its release is too old");
            }
            MembersEvent::Identify(_) | MembersEvent::Gossip(_) | MembersEvent::Streams(()) => {}
        }
    }
}

/// What is left of a penalty after `elapsed`.
fn decayed(sum: f64, elapsed: Duration) -> f64 {
    sum * 0.5_f64.powf(elapsed.as_secs_f64() / PENALTY_HALF_LIFE.as_secs_f64())
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
