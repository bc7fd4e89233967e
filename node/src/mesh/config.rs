//! What a mesh is started with, and how the node's configuration says it.

use super::StartMeshError;
use crate::config;
use consensus::envelope::Federation;
use cpi::ids::{MemberId, RegionName};
use std::collections::BTreeMap;
use std::time::Duration;

/// The node's `[mesh]` section in the mesh's own terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshSettings {
    /// Addresses to listen on, as multiaddrs.
    pub listen: Vec<String>,
    /// By region: dial this address instead of those that the registry names.
    pub dial_map: BTreeMap<RegionName, String>,
    /// Between two pings of one peer.
    pub ping_interval: Duration,
    /// Without a sign of life for so long, a connection is broken.
    pub idle_timeout: Duration,
    /// Between two dials of a peer, from and to.
    pub redial: (Duration, Duration),
    /// Frames that may wait for one peer and class; a class may allow fewer.
    pub queue_frames_max: usize,
}

impl Default for MeshSettings {
    fn default() -> Self {
        Self::try_from(&config::MeshConfig::default()).expect("the defaults are valid")
    }
}

impl TryFrom<&config::MeshConfig> for MeshSettings {
    type Error = StartMeshError;

    fn try_from(section: &config::MeshConfig) -> Result<Self, StartMeshError> {
        let mut dial_map = BTreeMap::new();
        for (region, address) in &section.dial_map {
            let named = region.parse::<RegionName>();
            let region = named.map_err(|_| StartMeshError::Address { key: "mesh.dial_map", text: region.clone() })?;
            dial_map.insert(region, address.clone());
        }
        Ok(Self {
            listen: section.listen.clone(),
            dial_map,
            ping_interval: Duration::from_millis(section.ping_interval_ms),
            idle_timeout: Duration::from_millis(section.idle_timeout_ms),
            redial: (Duration::from_millis(section.redial_ms_min), Duration::from_millis(section.redial_ms_max)),
            queue_frames_max: section.queue_frames_max,
        })
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
