//! Which regions can take a task, in which order, and why the others cannot. A pure function of a snapshot.
//!
//! Scores are integers, lower is better: the weighted sum of terms that go from 0 (best) to 1,000 (worst), divided by
//! the sum of the weights. Every term is kept with the decision, so that `explain` and `plan` can show it.

use super::config::Weights;
use super::counter::Line;
use super::directory::Region;
use super::judge::judge;
use super::message::Target;
use super::need::{Need, Wishes};
use super::score::score;
use crate::time::{Monotonic, Timestamp};
use cpi::dictionary::Dictionary;
use cpi::ids::{Fence, MemberId, TaskId};
use cpi::reason::Reason;
use cpi::resource::{Firmness, Quantity};
use serde::{Deserialize, Serialize};

/// The terms of a score, each 0 (best) to 1,000 (worst).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Terms {
    /// Against the cheapest candidate.
    pub price: u32,
    /// How full the region is, and what waits there.
    pub start: u32,
    /// Moving the inputs.
    pub data: u32,
    /// Round trip.
    pub latency: u32,
    /// Carbon of the site.
    pub carbon: u32,
    /// Broken promises.
    pub keep: u32,
    /// Capacity left behind that is hard to use; 500 for none, less where the task uses up what others could not.
    pub fragmentation: u32,
    /// Soft wishes and spread.
    pub affinity: u32,
    /// How long tasks waited there of late, in this origin's experience.
    pub waiting: u32,
    /// How often runs failed there, in this origin's experience.
    pub failure: u32,
}

/// A region that can take the task as far as its digest tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ranked {
    /// Who.
    pub member: MemberId,
    /// Where in it, best first.
    pub targets: Vec<Target>,
    /// What it would take at the first target.
    pub quantity: Quantity,
    /// Lower is better.
    pub score: u32,
    /// What the score is made of.
    pub terms: Terms,
    /// Between equal scores: what would be left behind on the server, 0 (nothing) to 255.
    pub left: u8,
    /// By its price list, per hour in millionths.
    pub price_hour_micro: u64,
    /// ISO 4217.
    pub currency: String,
    /// Round trip, 0 for this region itself.
    pub rtt_ms: u32,
    /// How sure its offers are.
    pub firmness: Firmness,
    /// How many such tasks its free capacity would take.
    pub slots: u32,
    /// What it may cost in all, moving the inputs included, in millionths.
    pub total_micro: u64,
    /// What became of it.
    pub answer: Answer,
}

/// What became of a candidate.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Answer {
    /// It was not needed.
    #[default]
    NotAsked,
    /// It was asked and has not answered yet.
    Asked,
    /// It offered.
    Offered,
    /// It declined.
    Declined(Reason),
    /// It did not answer in time.
    TimedOut,
    /// It took the task.
    Chosen,
}

/// Which clause of the task kept a region out; counts of these tell a submitter what to change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Clause {
    /// The region's standing or reachability.
    Region,
    /// `placement.residency`.
    Residency,
    /// `placement.regions`, `exclude_regions`.
    Regions,
    /// `placement.cities`.
    Cities,
    /// `placement.filter`.
    Filter,
    /// `placement.prefix`.
    Prefix,
    /// Command or image.
    Payload,
    /// `resources.chips` and `resources.compute`.
    Chips,
    /// Sizes of `resources`.
    Shape,
    /// `budget`.
    Budget,
    /// What is free now.
    Capacity,
}

/// A region that cannot take it, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Who.
    pub member: MemberId,
    /// Why: of its pools, the one that came closest.
    pub reason: Reason,
    /// Which clause.
    pub clause: Clause,
}

/// The outcome of ranking.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ranking {
    /// Best first.
    pub candidates: Vec<Ranked>,
    /// By member.
    pub refusals: Vec<Refused>,
}

/// How an attempt was decided: kept with the task for `explain`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// The task.
    pub task: TaskId,
    /// The attempt.
    pub fence: Fence,
    /// When it was decided.
    pub at: Timestamp,
    /// From the first ask to the binding, in ms.
    pub took_ms: u64,
    /// Best first.
    pub candidates: Vec<Ranked>,
    /// By member.
    pub refusals: Vec<Refused>,
    /// Proposals and answers to them, in their order.
    pub transcript: Vec<Line>,
}

/// The most regions that a decision keeps of each kind.
pub const DECISION_REGIONS_MAX: usize = 64;

/// What ranking is told beside the regions.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// What is needed.
    pub need: &'a Need,
    /// Where it may go.
    pub wishes: &'a Wishes,
    /// What the choice weighs.
    pub weights: &'a Weights,
    /// Where filters look codes up.
    pub dictionary: &'a Dictionary,
    /// The origin: its own inputs need not move.
    pub me: MemberId,
    /// The moment, for the age of digests.
    pub now: Monotonic,
    /// How old a digest may be.
    pub digest_age_ms_max: u64,
    /// What a GiB costs that leaves this region, in millionths of the currency.
    pub egress_gib_micro: u64,
    /// Whether refusals are worded in full; ranking for its own sake leaves that out.
    pub verbose: bool,
}

/// Ranks `regions` for the question.
pub fn rank<'a>(question: &Question<'_>, regions: impl Iterator<Item = (&'a MemberId, &'a Region)>) -> Ranking {
    let mut ranking = Ranking::default();
    for (&member, region) in regions {
        match judge(question, member, region) {
            Ok(ranked) => ranking.candidates.push(ranked),
            Err((clause, reason)) => ranking.refusals.push(Refused { member, reason, clause }),
        }
    }
    score(question, &mut ranking.candidates);
    ranking.candidates.sort_by_key(|c| (c.score, c.left, c.member));
    ranking
}

/// Amounts for people.
pub fn in_words(quantity: &Quantity) -> String {
    let mut words = format!(
        "{}.{:03} cores, {} MiB memory",
        quantity.cpu_milli / 1000,
        quantity.cpu_milli % 1000,
        quantity.memory_bytes >> 20
    );
    if quantity.chip_milli > 0 {
        words.push_str(&format!(", {}.{:03} chips", quantity.chip_milli / 1000, quantity.chip_milli % 1000));
    }
    words
}
