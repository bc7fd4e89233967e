//! Addresses: what may be listened on and dialled, and names resolved before a dial.

use super::StartMeshError;
use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use std::net::IpAddr;

/// Addresses that one name may resolve to; more are not tried.
const RESOLVED_MAX: usize = 8;

/// Reads an address that this node can speak: an IP address or a name, then UDP with QUIC or TCP.
pub(super) fn parse(key: &'static str, text: &str) -> Result<Multiaddr, StartMeshError> {
    text.parse::<Multiaddr>()
        .ok()
        .filter(is_spoken)
        .ok_or_else(|| StartMeshError::Address { key, text: text.to_owned() })
}

/// Reads addresses of other members; those not spoken here are left out.
pub(super) fn parse_known<'a>(texts: impl IntoIterator<Item = &'a String>) -> Vec<Multiaddr> {
    texts.into_iter().filter_map(|text| text.parse().ok()).filter(is_spoken).collect()
}

fn is_spoken(address: &Multiaddr) -> bool {
    use Protocol::{Dns, Dns4, Dns6, Ip4, Ip6, P2p, QuicV1, Tcp, Udp};
    let parts: Vec<_> = address.iter().filter(|part| !matches!(part, P2p(_))).collect();
    matches!(
        parts.as_slice(),
        [Ip4(_) | Ip6(_) | Dns(_) | Dns4(_) | Dns6(_), Tcp(_)]
            | [Ip4(_) | Ip6(_) | Dns(_) | Dns4(_) | Dns6(_), Udp(_), QuicV1]
    )
}

/// Whether a name must be resolved before dialling.
pub(super) fn has_name(address: &Multiaddr) -> bool {
    matches!(address.iter().next(), Some(Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_)))
}

/// Replaces names by the addresses they have now; unknown names are left out.
pub(super) async fn resolve(addresses: Vec<Multiaddr>) -> Vec<Multiaddr> {
    let mut out = Vec::new();
    for address in addresses {
        let (name, wanted): (String, fn(&IpAddr) -> bool) = match address.iter().next() {
            Some(Protocol::Dns(name)) => (name.into_owned(), |_| true),
            Some(Protocol::Dns4(name)) => (name.into_owned(), IpAddr::is_ipv4),
            Some(Protocol::Dns6(name)) => (name.into_owned(), IpAddr::is_ipv6),
            _ => {
                out.push(address);
                continue;
            }
        };
        match tokio::net::lookup_host((name.as_str(), 0)).await {
            Ok(found) => {
                for ip in found.map(|found| found.ip()).filter(wanted).take(RESOLVED_MAX) {
                    out.extend(address.replace(0, |_| Some(ip.into())));
                }
            }
            Err(error) => tracing::debug!(%name, %error, "name not resolved"),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_quic_and_tcp_are_spoken() {
        for good in [
            "/ip4/127.0.0.1/udp/7400/quic-v1",
            "/ip6/::1/tcp/7400",
            "/dns4/node.example/tcp/1",
            "/ip4/10.0.0.1/tcp/1/p2p/12D3KooWGzBvLrjbZ8bTRmMHCwTkm4gRkJnsRj5bzyMBhBCEpCFj",
        ] {
            assert!(good.parse::<Multiaddr>().map(|a| is_spoken(&a)).unwrap_or(good.contains("p2p")), "{good}");
        }
        for bad in ["/ip4/127.0.0.1/udp/7400", "/ip4/127.0.0.1", "127.0.0.1:7400", "/ip4/127.0.0.1/tcp/1/ws", ""] {
            let error = parse("mesh.listen", bad).expect_err(bad).to_string();
            assert!(error.contains("mesh.listen") && error.contains("quic-v1"), "{error}");
        }
    }

    #[tokio::test]
    async fn names_become_addresses() {
        let named: Multiaddr = "/dns4/localhost/udp/9/quic-v1".parse().expect("an address");
        assert!(has_name(&named));
        assert_eq!(resolve(vec![named]).await, ["/ip4/127.0.0.1/udp/9/quic-v1".parse().expect("an address")]);
    }
}
