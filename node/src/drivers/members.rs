//! What drivers need to know of the members, as one snapshot that the registry's follower replaces.

use arc_swap::ArcSwap;
use cpi::ids::MemberId;
use cpi::resource::RegionPlace;
use std::collections::BTreeMap;
use std::sync::Arc;

/// One member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownMember {
    /// Where it is.
    pub place: RegionPlace,
    /// Whether its membership is in force.
    pub active: bool,
    /// Keys with which it may sign now.
    pub signing_keys: Vec<[u8; 32]>,
}

/// All members by id. Cheap to clone and to read.
#[derive(Debug, Clone, Default)]
pub struct KnownMembers {
    members: Arc<ArcSwap<BTreeMap<MemberId, KnownMember>>>,
}

impl KnownMembers {
    /// Puts a new snapshot in force.
    pub fn set(&self, members: BTreeMap<MemberId, KnownMember>) {
        self.members.store(Arc::new(members));
    }

    /// The snapshot in force.
    pub fn load(&self) -> Arc<BTreeMap<MemberId, KnownMember>> {
        self.members.load_full()
    }

    /// Whether `member` may sign with `key` now.
    pub fn may_sign(&self, member: MemberId, key: &[u8; 32]) -> bool {
        self.members.load().get(&member).is_some_and(|m| m.active && m.signing_keys.contains(key))
    }

    /// The region's name, or the member's id while it is unknown.
    pub fn region(&self, member: MemberId) -> String {
        self.members.load().get(&member).map_or_else(|| member.to_string(), |m| m.place.region.to_string())
    }
}
