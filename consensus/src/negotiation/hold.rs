//! Capacity set aside for an offer, for seconds. In memory only: a restart loses it, and the award is checked anew.

use super::capacity::Slot;
use super::message::Offer;
use crate::time::Monotonic;
use cpi::ids::MemberId;

/// One hold.
#[derive(Debug, Clone)]
pub struct Hold {
    /// Whose.
    pub origin: MemberId,
    /// What is set aside, where.
    pub slot: Slot,
    /// The offer, to repeat it.
    pub offer: Box<Offer>,
    /// When it lapses.
    pub until: Monotonic,
}
