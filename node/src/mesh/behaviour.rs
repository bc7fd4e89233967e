//! The swarm's behaviours, and how the transports are set.

use super::gate::Gate;
use super::gossip;
use super::members_only::MembersOnly;
use super::roster::Roster;
use super::{MeshSettings, StartMeshError};
use arc_swap::ArcSwap;
use libp2p::swarm::NetworkBehaviour;
use libp2p::{SwarmBuilder, connection_limits, gossipsub, identify, identity, noise, ping, tcp, yamux};
use std::sync::Arc;
use std::time::Duration;

/// Unread bytes of one stream: a bulk stream moves at most this much per round trip.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
/// Unread bytes of a connection. The bulk streams a peer may have (8) fill half of it at most.
const CONNECTION_WINDOW_BYTES: u32 = 32 << 20;
/// Streams a peer may have open: 16 of frames, 8 of bulk, gossip, ping, identify, and room for those that are closing.
const STREAMS_MAX: u32 = 128;
/// A stranger's connection without a stream is closed after this.
const STRANGER_IDLE: Duration = Duration::from_secs(10);
/// A dial that takes longer than this has failed.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections that are still shaking hands.
const PENDING_MAX: u32 = 256;
/// Connections of one peer: the one that counts, and those that are being closed.
const PER_PEER_MAX: u32 = 4;

/// What members speak.
#[derive(NetworkBehaviour)]
pub(super) struct Members {
    pub identify: identify::Behaviour,
    pub ping: ping::Behaviour,
    pub gossip: gossipsub::Behaviour,
    pub streams: libp2p_stream::Behaviour,
}

/// All behaviours.
#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    pub limits: connection_limits::Behaviour,
    pub gate: Gate,
    /// The join protocol, which strangers may speak.
    pub join: libp2p_stream::Behaviour,
    pub members: MembersOnly<Members>,
}

pub(super) type Swarm = libp2p::Swarm<Behaviour>;

/// The key that proves who this node is on the wire.
pub(super) fn keypair(seed: &[u8; 32]) -> Result<identity::Keypair, StartMeshError> {
    identity::Keypair::ed25519_from_bytes(*seed).map_err(|error| StartMeshError::Transport(error.to_string()))
}

pub(super) fn build(
    seed: &[u8; 32],
    settings: &MeshSettings,
    roster: &Arc<ArcSwap<Roster>>,
) -> Result<Swarm, StartMeshError> {
    let key = keypair(seed)?;
    let me = key.public().to_peer_id();
    let idle = settings.idle_timeout;
    let members = Members {
        identify: identify::Behaviour::new(
            identify::Config::new("/causeway/1.0.0".into(), key.public())
                .with_agent_version(concat!("causeway/", env!("CARGO_PKG_VERSION")).into())
                .with_cache_size(0),
        ),
        ping: ping::Behaviour::new(ping::Config::new().with_interval(settings.ping_interval).with_timeout(idle)),
        gossip: gossip::behaviour(&key).map_err(StartMeshError::Transport)?,
        streams: libp2p_stream::Behaviour::new(),
    };
    let limits = connection_limits::ConnectionLimits::default()
        .with_max_pending_incoming(Some(PENDING_MAX))
        .with_max_established_per_peer(Some(PER_PEER_MAX));
    let behaviour = Behaviour {
        limits: connection_limits::Behaviour::new(limits),
        gate: Gate::new(Arc::clone(roster)),
        join: libp2p_stream::Behaviour::new(),
        members: MembersOnly::new(members, me, Arc::clone(roster)),
    };
    swarm_of(key, idle, behaviour)
}

/// A swarm over TCP with Noise and Yamux, and over QUIC with windows that leave room beside bulk. QUIC is dialled first.
pub(super) fn swarm_of<B: NetworkBehaviour>(
    key: identity::Keypair,
    idle: Duration,
    behaviour: B,
) -> Result<libp2p::Swarm<B>, StartMeshError> {
    let broken = |error: &dyn std::fmt::Display| StartMeshError::Transport(error.to_string());
    let yamux = || {
        let mut config = yamux::Config::default();
        config.set_max_num_streams(STREAMS_MAX as usize);
        config
    };
    let swarm = SwarmBuilder::with_existing_identity(key)
        .with_tokio()
        .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, yamux)
        .map_err(|error| broken(&error))?
        .with_quic_config(|mut config| {
            config.handshake_timeout = HANDSHAKE_TIMEOUT;
            config.max_idle_timeout = u32::try_from(idle.as_millis()).unwrap_or(u32::MAX);
            config.keep_alive_interval = idle / 4;
            config.max_concurrent_stream_limit = STREAMS_MAX;
            config.max_stream_data = STREAM_WINDOW_BYTES;
            config.max_connection_data = CONNECTION_WINDOW_BYTES;
            config
        })
        .with_behaviour(|_| behaviour)
        .map_err(|error| broken(&error))?
        .with_swarm_config(|config| config.with_idle_connection_timeout(STRANGER_IDLE).with_smart_dial())
        .build();
    Ok(swarm)
}
