//! A question to all regions without a task: every offer, every refusal, and the first choice held for a while.

use super::message::{Offer, Target};
use super::rank::{Refused, Terms};
use crate::time::Timestamp;
use bytes::Bytes;
use cpi::ids::{Fence, MemberId, PlanId};
use serde::{Deserialize, Serialize};

/// A region's offer as planned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedOffer {
    /// Who.
    pub member: MemberId,
    /// Its words.
    pub offer: Offer,
    /// Lower is better.
    pub score: u32,
    /// What the score is made of.
    pub terms: Terms,
    /// Round trip.
    pub rtt_ms: u32,
    /// From the ask to the answer.
    pub answered_ms: u64,
}

/// What a plan found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanResult {
    /// Its id.
    pub plan: PlanId,
    /// When it was made.
    pub at: Timestamp,
    /// The fence its first choice is held under.
    pub fence: Fence,
    /// The document it was made for.
    pub document: Bytes,
    /// Offers, best first.
    pub offers: Vec<PlannedOffer>,
    /// Refusals, by member.
    pub refusals: Vec<Refused>,
    /// The first choice, where there is one.
    pub choice: Option<Choice>,
    /// From the request to the result.
    pub took_ms: u64,
}

/// The placement that a task made from the plan gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// Who.
    pub member: MemberId,
    /// Where.
    pub target: Target,
    /// Per hour, in millionths.
    pub price_hour_micro: u64,
    /// ISO 4217.
    pub currency: String,
    /// How long it is held from now; 0 if it is not.
    pub hold_ms: u64,
}
