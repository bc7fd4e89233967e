//! A stale answer never calls itself fresh: who claims to know everything up to a moment has applied all that was
//! committed by then.

use super::{Fact, Invariant};

/// See the file.
pub struct FreshIsFresh;

impl Invariant for FreshIsFresh {
    fn name(&self) -> &'static str {
        "fresh_is_fresh"
    }

    fn observe(&mut self, _: u64, fact: &Fact<'_>) -> Result<(), String> {
        match fact {
            Fact::Read { node, as_of_ms, applied, committed } if applied < committed => Err(format!(
                "replica {node} says it is as of {as_of_ms} ms with {applied} of the {committed} entries of that moment"
            )),
            _ => Ok(()),
        }
    }
}
