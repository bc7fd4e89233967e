//! The distances of the lab: one relay for each ordered pair of regions that are apart, and the `dial_map` that leads there.

use super::ring::RingSpec;
use crate::config::NodeConfig;
use crate::relay::{LineSettings, Relay, Route};
use anyhow::Context as _;
use cpi::ids::RegionName;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

/// All relays of a ring; they end when this is dropped.
#[derive(Debug)]
pub struct Relays {
    _relay: Relay,
    /// Who dials, who is dialled, and where the relay listens for that pair.
    pairs: Vec<(RegionName, RegionName, SocketAddr)>,
}

impl Relays {
    /// Starts them on free ports.
    ///
    /// # Errors
    /// A region listens on no QUIC address of this machine, or no port is free.
    pub async fn start(ring: &RingSpec, configs: &BTreeMap<RegionName, NodeConfig>) -> anyhow::Result<Self> {
        let (mut routes, mut pairs) = (Vec::new(), Vec::new());
        for dialled in &ring.regions {
            let config = &configs[&dialled.name];
            let target = config.mesh.listen.iter().find_map(|address| quic_address(address));
            let target = target.with_context(|| format!("{} listens on no QUIC address", dialled.name))?;
            for dialler in ring.regions.iter().filter(|region| region.name != dialled.name) {
                let rtt = Duration::from_secs_f64(ring.rtt_ms(&dialler.name, &dialled.name) / 1000.0);
                let line = LineSettings { rtt, ..LineSettings::default() };
                routes.push(Route { listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), target, line });
                pairs.push((dialler.name.clone(), dialled.name.clone()));
            }
        }
        let relay = Relay::start(&routes).await?;
        let pairs = pairs.into_iter().zip(relay.addresses()).map(|((from, to), address)| (from, to, address)).collect();
        Ok(Self { _relay: relay, pairs })
    }

    /// `mesh.dial_map` of one region.
    pub fn dial_map(&self, dialler: &RegionName) -> toml::Table {
        self.pairs
            .iter()
            .filter(|(from, ..)| from == dialler)
            .map(|(_, to, address)| {
                let multiaddress = format!("/ip4/{}/udp/{}/quic-v1", address.ip(), address.port());
                (to.to_string(), toml::Value::String(multiaddress))
            })
            .collect()
    }
}

/// The socket address of `/ip4/A/udp/P/quic-v1`.
fn quic_address(multiaddress: &str) -> Option<SocketAddr> {
    match multiaddress.split('/').collect::<Vec<_>>().as_slice() {
        ["", "ip4" | "ip6", ip, "udp", port, "quic-v1"] => Some(SocketAddr::new(ip.parse().ok()?, port.parse().ok()?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_quic_addresses_are_relayed() {
        assert_eq!(quic_address("/ip4/127.0.0.1/udp/7490/quic-v1"), "127.0.0.1:7490".parse().ok());
        assert_eq!(quic_address("/ip4/127.0.0.1/tcp/7490"), None);
    }
}
