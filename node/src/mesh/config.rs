//! The mesh's section of the node's configuration, and what a mesh is started with.

use consensus::envelope::Federation;
use cpi::ids::{MemberId, RegionName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `[mesh]` of the node's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MeshSettings {
    /// Addresses to listen on, as multiaddrs: `/ip4/../udp/../quic-v1` for QUIC, `/ip4/../tcp/..` for TCP with Noise and
    /// Yamux. Port 0 takes a free one. Default: QUIC and TCP on 127.0.0.1:7400. All traffic is authenticated and encrypted.
    pub listen: Vec<String>,
    /// Addresses that other members should dial, when they differ from `listen` (NAT, port forwarding). `/dns4/NAME/..` is
    /// allowed. Empty (the default): the addresses listened on.
    pub advertise: Vec<String>,
    /// By region: dial this address instead of the one the registry names. For relays and for crossing NATs.
    pub dial_map: BTreeMap<RegionName, String>,
    /// Milliseconds between two pings of one peer, 200 to 60,000. Default 2,000. Smaller: fresher round trips for ranking
    /// and for Raft's timers, more wake-ups.
    pub ping_interval_ms: u64,
    /// Milliseconds without a sign of life after which a connection counts as broken, 1,000 to 60,000. Default 5,000. Must be
    /// several round trips; the peer's own value counts too (the smaller holds).
    pub idle_timeout_ms: u64,
}

impl Default for MeshSettings {
    fn default() -> Self {
        Self {
            listen: vec!["/ip4/127.0.0.1/udp/7400/quic-v1".into(), "/ip4/127.0.0.1/tcp/7400".into()],
            advertise: Vec::new(),
            dial_map: BTreeMap::new(),
            ping_interval_ms: 2_000,
            idle_timeout_ms: 5_000,
        }
    }
}

/// What a mesh is started with.
#[derive(Clone, Debug)]
pub struct MeshConfig {
    /// Who this node is in the federation.
    pub me: MemberId,
    /// The federation and its epoch: streams of another federation, or of an older epoch, are refused.
    pub federation: Federation,
    /// The node's settings.
    pub settings: MeshSettings,
}
