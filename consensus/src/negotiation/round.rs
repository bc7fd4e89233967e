//! One round of asking for one task under one fence: who was asked, what came back, who is left.

use super::counter::{LINES_MAX, Line};
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
    /// 1, and one more for every proposal of it that was come back to.
    pub round: u8,
    /// The most per hour that was offered to it, in millionths.
    pub limit: Option<u64>,
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
    /// What was proposed, by whom.
    pub transcript: Vec<Line>,
    /// When asking again may help, in ms, by the regions that know.
    pub again_in_ms: Option<u64>,
}

impl Round {
    /// A round that has asked nobody.
    pub fn new(fence: Fence, started: Monotonic, candidates: Vec<Ranked>, refusals: Vec<Refused>) -> Self {
        Self {
            fence,
            started,
            candidates,
            refusals,
            asked: BTreeMap::new(),
            planned: false,
            transcript: Vec::new(),
            again_in_ms: None,
        }
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

    /// The best offer at hand; `certain` if no region that may still answer could be better by its digest. Offers within
    /// `tie` of the best score count as equal: among them the order of the candidates decides.
    pub fn best_offer(&self, tie: u32) -> Option<(MemberId, bool)> {
        let offers = || {
            self.asked.iter().filter_map(|(member, asked)| {
                let Standing::Offered(offer) = &asked.standing else { return None };
                let position = self.position(*member)?;
                Some((self.candidates[position].score, offer.fragmentation_milli, position, *member))
            })
        };
        let best = offers().map(|(score, ..)| score).min()?;
        let equal = offers().filter(|(score, ..)| *score <= best.saturating_add(tie));
        let (.., position, member) =
            if tie == 0 { equal.min() } else { equal.min_by_key(|(.., position, _)| *position) }?;
        let rivals = self.asked.iter().any(|(other, asked)| {
            asked.standing == Standing::Waiting
                && self.position(*other).is_some_and(|p| p < position || self.candidates[p].score < best)
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
            transcript: self.transcript.clone(),
        }
    }

    /// Adds a line to the transcript.
    pub fn say(&mut self, line: Line) {
        if self.transcript.len() < LINES_MAX {
            self.transcript.push(line);
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
