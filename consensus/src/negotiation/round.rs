//! One round of asking for one task under one fence: who was asked, what came back, who is left.

use super::message::{AskMode, Offer, Target};
use super::rank::{Answer, DECISION_REGIONS_MAX, Decision, Ranked, Refused};
use crate::time::{Monotonic, Now};
use cpi::ids::{Fence, MemberId, TaskId};
use cpi::reason::Reason;
use cpi::resource::Quantity;
use std::collections::BTreeMap;

/// Where one asked region stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Its answer is waited for.
    Waiting,
    /// Its time is over; it may still answer.
    Silent,
    /// It offered.
    Offered(Box<Offer>),
    /// Its offer was taken; its acceptance is waited for.
    Awarded(Box<Offer>),
    /// It declined.
    Declined,
}

/// One region that was asked.
#[derive(Debug, Clone)]
pub struct Asked {
    /// When.
    pub at: Monotonic,
    /// How.
    pub mode: AskMode,
    /// Where it stands.
    pub standing: Standing,
    /// What was taken off its digest for this ask.
    pub taken: Option<(Target, Quantity)>,
}

/// One round.
#[derive(Debug, Clone)]
pub struct Round {
    /// The attempt's fence.
    pub fence: Fence,
    /// When it began.
    pub started: Monotonic,
    /// Best first.
    pub candidates: Vec<Ranked>,
    /// Regions that were not asked.
    pub refusals: Vec<Refused>,
    /// Regions that were asked.
    pub asked: BTreeMap<MemberId, Asked>,
    /// Whether it serves a plan: one region, no others.
    pub planned: bool,
}

impl Round {
    /// A round that has asked nobody.
    pub fn new(fence: Fence, started: Monotonic, candidates: Vec<Ranked>, refusals: Vec<Refused>) -> Self {
        Self { fence, started, candidates, refusals, asked: BTreeMap::new(), planned: false }
    }

    /// The best candidates that were not asked yet.
    pub fn unasked(&self, count: usize) -> Vec<MemberId> {
        self.candidates.iter().map(|c| c.member).filter(|m| !self.asked.contains_key(m)).take(count).collect()
    }

    /// A candidate's position: smaller is better.
    pub fn position(&self, member: MemberId) -> Option<usize> {
        self.candidates.iter().position(|c| c.member == member)
    }

    /// Notes what became of a candidate.
    pub fn note(&mut self, member: MemberId, answer: Answer) {
        if let Some(candidate) = self.candidates.iter_mut().find(|c| c.member == member) {
            candidate.answer = answer;
        }
    }

    /// Whether some region still has time to answer.
    pub fn is_waiting(&self) -> bool {
        self.asked.values().any(|a| matches!(a.standing, Standing::Waiting | Standing::Awarded(_)))
    }

    /// Whether an award is under way.
    pub fn is_awarding(&self) -> bool {
        self.asked.values().any(|a| matches!(a.standing, Standing::Awarded(_)))
    }

    /// The best offer at hand; `certain` if no region that may still answer could be better by its digest.
    pub fn best_offer(&self) -> Option<(MemberId, bool)> {
        let offers = self.asked.iter().filter_map(|(member, asked)| match &asked.standing {
            Standing::Offered(offer) => {
                let position = self.position(*member)?;
                let dearer = offer.price_hour_micro > self.candidates[position].price_hour_micro;
                Some((dearer, position, *member))
            }
            _ => None,
        });
        let (dearer, position, member) = offers.min()?;
        let rivals = self.asked.iter().any(|(other, asked)| {
            asked.standing == Standing::Waiting && self.position(*other).is_some_and(|p| p < position || dearer)
        });
        Some((member, !rivals))
    }

    /// Regions that may have set something aside and are not `but`.
    pub fn entangled(&self, but: Option<MemberId>) -> Vec<MemberId> {
        let open = self.asked.iter().filter(|(_, a)| a.standing != Standing::Declined);
        open.map(|(m, _)| *m).filter(|m| Some(*m) != but).collect()
    }

    /// The round as it is kept.
    pub fn decision(&self, task: TaskId, now: Now) -> Decision {
        let mut candidates = self.candidates.clone();
        candidates.truncate(DECISION_REGIONS_MAX);
        let mut refusals = self.refusals.clone();
        refusals.truncate(DECISION_REGIONS_MAX);
        Decision {
            task,
            fence: self.fence,
            at: now.wall,
            took_ms: now.mono.since_ms(self.started),
            candidates,
            refusals,
        }
    }

    /// Of all declines, timeouts and refusals the one that came closest and may pass by itself.
    pub fn obstacle(&self) -> Option<Reason> {
        let declines = self.candidates.iter().filter_map(|c| match &c.answer {
            Answer::Declined(reason) => Some(reason.clone()),
            Answer::TimedOut => Some(Reason::new(cpi::reason::ReasonCode::PeerTimeout, c.member.to_string())),
            _ => None,
        });
        let refusals = self.refusals.iter().map(|r| r.reason.clone());
        declines.chain(refusals).filter(|r| r.code.is_retryable()).min_by_key(|r| r.code.precedence())
    }
}
