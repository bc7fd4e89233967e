//! The ring of members, and who on it keeps a task: its origin and two successors.

use cpi::ids::MemberId;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;

/// Custodians of a task with `durability: ring`.
pub const CUSTODIANS: usize = 3;

/// What is known of a member that could keep tasks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seat {
    /// City code.
    pub city: String,
    /// ISO 3166 country.
    pub country: String,
    /// Whether its membership is in force.
    pub active: bool,
    /// Whether it can be reached now.
    pub reachable: bool,
}

/// A member's place on the ring: the first 64 bits of SHA-256 over its number, big-endian.
pub fn place(member: MemberId) -> u64 {
    let hash = Sha256::digest(member.0.to_be_bytes());
    u64::from_be_bytes(hash[..8].try_into().expect("a SHA-256 has more than 8 bytes"))
}

/// Adds custodians to `chosen` until there are three: members in force that satisfy `residency`, those that can be
/// reached first, then those in other cities than the chosen ones, then by their distance from `from` round the ring.
/// Members in `avoid` are left out.
///
/// With fewer than three in the end, or with nobody new that can be reached, `None`.
pub fn complete(
    from: MemberId,
    mut chosen: Vec<MemberId>,
    avoid: &[MemberId],
    residency: &[String],
    members: &BTreeMap<MemberId, Seat>,
) -> Option<Vec<MemberId>> {
    let start = place(from);
    let mut any_reachable = false;
    while chosen.len() < CUSTODIANS {
        let cities: Vec<&str> = chosen.iter().filter_map(|m| members.get(m)).map(|s| s.city.as_str()).collect();
        let fits = |(member, seat): &(&MemberId, &Seat)| {
            seat.active
                && !chosen.contains(member)
                && !avoid.contains(member)
                && (residency.is_empty() || residency.contains(&seat.country))
        };
        let (member, seat) = members.iter().filter(fits).min_by_key(|(member, seat)| {
            (!seat.reachable, cities.contains(&seat.city.as_str()), place(**member).wrapping_sub(start), **member)
        })?;
        any_reachable |= seat.reachable;
        let member = *member;
        chosen.push(member);
    }
    any_reachable.then_some(chosen)
}
