//! Held and leased quantities never exceed what a server has, and the book agrees with holds and leases.

use super::{Fact, Invariant};

/// See the file.
pub struct NoOvercommit;

impl Invariant for NoOvercommit {
    fn name(&self) -> &'static str {
        "no_overcommit"
    }

    fn observe(&mut self, fact: &Fact<'_>) -> Result<(), String> {
        match fact {
            Fact::Step { node, machine } if !machine.provider().is_sound() => {
                Err(format!("the book of region {node} does not add up"))
            }
            _ => Ok(()),
        }
    }
}
