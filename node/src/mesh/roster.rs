//! Who is admitted, as the registry says. Everything that the gate asks is answered from here.

use cpi::ids::{MemberId, RegionName};
use libp2p::{PeerId, identity};
use std::collections::{BTreeMap, HashMap, HashSet};

/// One admitted member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RosterEntry {
    /// Who it is.
    pub member: MemberId,
    /// Its region.
    pub region: RegionName,
    /// Its ed25519 transport keys, the newest first; several only while a rotation overlaps. The first is dialled.
    pub transport_keys: Vec<[u8; 32]>,
    /// Where it listens, as multiaddrs without `/p2p`.
    pub addresses: Vec<String>,
}

/// The roster in the forms that are looked up.
#[derive(Default, Debug)]
pub(super) struct Roster {
    pub members: BTreeMap<MemberId, RosterEntry>,
    by_peer: HashMap<PeerId, MemberId>,
    denied: HashSet<PeerId>,
    /// Whether somebody said who is admitted. Before that nobody can be told from a stranger.
    is_known: bool,
}

impl Roster {
    pub fn new(entries: Vec<RosterEntry>, denied_keys: &[[u8; 32]]) -> Self {
        let mut roster = Self { is_known: true, ..Self::default() };
        for entry in entries {
            for key in &entry.transport_keys {
                match peer_id(key) {
                    Some(peer) => drop(roster.by_peer.insert(peer, entry.member)),
                    None => tracing::warn!(member = %entry.member, "a transport key in the registry is no ed25519 key"),
                }
            }
            roster.members.insert(entry.member, entry);
        }
        roster.denied =
            denied_keys.iter().filter_map(peer_id).filter(|peer| !roster.by_peer.contains_key(peer)).collect();
        roster
    }

    pub fn member_of(&self, peer: &PeerId) -> Option<MemberId> {
        self.by_peer.get(peer).copied()
    }

    pub fn is_known(&self) -> bool {
        self.is_known
    }

    pub fn is_denied(&self, peer: &PeerId) -> bool {
        self.denied.contains(peer)
    }

    pub fn entries(&self) -> Vec<RosterEntry> {
        self.members.values().cloned().collect()
    }
}

impl RosterEntry {
    /// The peer that is dialled for this member.
    pub(super) fn peer(&self) -> Option<PeerId> {
        self.transport_keys.first().and_then(peer_id)
    }
}

/// The libp2p name of an ed25519 transport key.
pub(super) fn peer_id(key: &[u8; 32]) -> Option<PeerId> {
    let key = identity::ed25519::PublicKey::try_from_bytes(key).ok()?;
    Some(identity::PublicKey::from(key).to_peer_id())
}

/// The ed25519 key inside a peer id; `None` for other kinds of keys.
pub(super) fn transport_key(peer: &PeerId) -> Option<[u8; 32]> {
    let digest = peer.as_ref().digest();
    let key = identity::PublicKey::try_decode_protobuf(digest).ok()?;
    Some(key.try_into_ed25519().ok()?.to_bytes())
}

/// The libp2p peer id of a transport key in text (`12D3Koo...`), as logs and people's tools show it.
pub fn peer_name(transport_key: &[u8; 32]) -> Option<String> {
    peer_id(transport_key).map(|peer| peer.to_base58())
}
