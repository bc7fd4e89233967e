//! An identifier has one owner, the same on every replica and for ever.

use super::{Fact, Invariant};
use cpi::ids::{MemberId, StableKey};
use std::collections::BTreeMap;

/// See the file.
#[derive(Default)]
pub struct OneOwner {
    owners: BTreeMap<StableKey, MemberId>,
}

impl Invariant for OneOwner {
    fn name(&self) -> &'static str {
        "one_owner"
    }

    fn observe(&mut self, _: u64, fact: &Fact<'_>) -> Result<(), String> {
        let Fact::Owned { node, key, owner } = fact else { return Ok(()) };
        let first = *self.owners.entry(*key).or_insert(*owner);
        if first == *owner {
            Ok(())
        } else {
            Err(format!("replica {node} says {owner} owns {key}, another said {first}"))
        }
    }
}
