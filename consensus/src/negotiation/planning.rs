//! Plans: every fitting region is asked for a quote, the best offer is then held under a fence of its own.

use super::action::Action;
use super::input::{PlanRequest, Submission};
use super::message::{Ask, AskMode, Award, Decline, Limits, Message, Offer};
use super::origin::{Due, Origin};
use super::outbox::Outbox;
use super::placing::in_place;
use super::plan::{Choice, PlanResult, PlannedOffer};
use super::rank::{Answer, Clause, Question, Ranked, Refused, rank};
use super::round::{Asked, Round, Standing};
use super::score::{offered, weighted, weights_for};
use super::task::Phase;
use crate::time::{Monotonic, Now};
use cpi::ids::{Epoch, Fence, MemberId, PlanId, TaskId};
use cpi::reason::{Reason, ReasonCode};
use std::collections::BTreeMap;

/// The most regions that one plan asks.
const ASKED_MAX: usize = 64;
/// The most plans kept at once; beyond, the oldest is forgotten.
const PLANS_MAX: usize = 1024;
/// How long a finished plan can be run: after its hold it is checked anew.
const KEPT_MS: u64 = 600_000;

/// A plan being made, or ready to be run.
#[derive(Debug)]
pub(super) struct Plan {
    request: PlanRequest,
    started: Monotonic,
    candidates: Vec<Ranked>,
    refusals: Vec<Refused>,
    waiting: BTreeMap<MemberId, Monotonic>,
    offers: Vec<PlannedOffer>,
    holding: Option<MemberId>,
    fence: Fence,
    ready: Option<(Ranked, Offer)>,
    told: bool,
}

impl Origin {
    fn plan_fence(&self, attempt: u32) -> Fence {
        Fence { epoch: Epoch { counter: 1, member: self.me }, attempt }
    }

    /// Begins a plan.
    pub(super) fn plan(&mut self, now: Now, request: PlanRequest, out: &mut Outbox) {
        if self.plans.len() >= PLANS_MAX {
            self.plans.pop_first();
        }
        let question = Question {
            need: &request.need,
            wishes: &request.wishes,
            weights: &self.config.weights,
            dictionary: self.directory.dictionary(),
            me: self.me,
            now: now.mono,
            digest_age_ms_max: self.config.digest_age_ms_max,
            egress_gib_micro: self.config.egress_gib_micro,
            verbose: true,
        };
        let mut ranking = rank(&question, self.directory.iter());
        ranking.candidates.truncate(ASKED_MAX);
        let id = request.plan;
        let fence = self.plan_fence(1);
        let mut patience_ms = self.config.ask_deadline_ms_min;
        let mut waiting = BTreeMap::new();
        for candidate in &ranking.candidates {
            let ask = ask(&request, candidate, fence, AskMode::Quote);
            out.send(candidate.member, Message::Ask(Box::new(ask)));
            waiting.insert(candidate.member, now.mono);
            let region = self.directory.get(candidate.member);
            patience_ms = patience_ms.max(region.map_or(0, |r| r.answers.patience_ms(r.rtt_ms)));
        }
        let plan = Plan {
            request,
            started: now.mono,
            candidates: ranking.candidates,
            refusals: ranking.refusals,
            waiting,
            offers: Vec::new(),
            holding: None,
            fence,
            ready: None,
            told: false,
        };
        self.plans.insert(id, plan);
        self.timers.arm(Due::Plan(id), now.mono.plus_ms(patience_ms.min(self.config.ask_deadline_ms_max)));
        self.plan_advance(now, id, out);
    }

    /// An offer for a plan came. False if it is for no plan of ours.
    pub(super) fn plan_offered(&mut self, now: Now, from: MemberId, offer: Offer, out: &mut Outbox) -> bool {
        let id = PlanId(offer.task.0);
        let weights = self.config.weights;
        let Some(plan) = self.plans.get_mut(&id) else { return false };
        if plan.told {
            return plan.ready.as_ref().is_some_and(|(_, held)| held.offer == offer.offer);
        }
        if plan.holding == Some(from) && offer.fence == plan.fence {
            let Some(candidate) = plan.candidates.iter().find(|c| c.member == from) else { return true };
            plan.ready = Some((candidate.clone(), offer));
            self.plan_tell(now, id, out);
            return true;
        }
        let Some(asked_at) = plan.waiting.remove(&from) else { return true };
        let Some(candidate) = plan.candidates.iter().find(|c| c.member == from) else { return true };
        let terms = offered(&candidate.terms, &offer, candidate.price_hour_micro);
        plan.offers.push(PlannedOffer {
            member: from,
            score: weighted(&weights_for(&weights, plan.request.wishes.objective), &terms),
            terms,
            rtt_ms: candidate.rtt_ms,
            answered_ms: now.mono.since_ms(asked_at),
            offer,
        });
        if let Some(region) = self.directory.get_mut(from) {
            region.answered(now.mono.since_ms(asked_at));
        }
        self.plan_advance(now, id, out);
        true
    }

    /// A decline for a plan came.
    pub(super) fn plan_declined(&mut self, now: Now, from: MemberId, decline: Decline, out: &mut Outbox) {
        let id = PlanId(decline.task.0);
        let Some(plan) = self.plans.get_mut(&id) else { return };
        if plan.told {
            return;
        }
        let asked = plan.waiting.remove(&from).is_some();
        let held = plan.holding == Some(from);
        if !asked && !held {
            return;
        }
        plan.offers.retain(|o| o.member != from);
        plan.refusals.push(Refused { member: from, reason: decline.reason, clause: Clause::Capacity });
        if held {
            plan.holding = None;
        }
        if let Some(region) = self.directory.get_mut(from) {
            region.update(&decline.status);
        }
        self.plan_advance(now, id, out);
    }

    /// The plan's time is over: for quotes, for the hold, or for good.
    pub(super) fn plan_due(&mut self, now: Now, id: PlanId, out: &mut Outbox) {
        let Some(plan) = self.plans.get_mut(&id) else { return };
        if plan.told {
            self.plans.remove(&id);
            return;
        }
        let silent: Vec<MemberId> = plan.waiting.keys().copied().chain(plan.holding.take()).collect();
        plan.waiting.clear();
        for member in silent {
            plan.offers.retain(|o| o.member != member);
            let reason = Reason::new(ReasonCode::PeerTimeout, "it did not answer in time");
            plan.refusals.push(Refused { member, reason, clause: Clause::Region });
        }
        self.plan_advance(now, id, out);
    }

    fn plan_advance(&mut self, now: Now, id: PlanId, out: &mut Outbox) {
        let fence = self.plan_fence(2);
        let (ttl_ms, patience_ms) = (self.config.plan_ttl_ms.min(60_000), self.config.ask_deadline_ms_max);
        let Some(plan) = self.plans.get_mut(&id) else { return };
        if !plan.waiting.is_empty() || plan.holding.is_some() || plan.told {
            return;
        }
        plan.offers.sort_by_key(|o| (o.score, o.member));
        let best = plan.offers.first().map(|o| o.member);
        let candidate = best.and_then(|m| plan.candidates.iter().find(|c| c.member == m));
        match candidate {
            Some(candidate) if plan.request.hold => {
                let ask = ask(&plan.request, candidate, fence, AskMode::Hold { ttl_ms });
                out.send(candidate.member, Message::Ask(Box::new(ask)));
                plan.holding = Some(candidate.member);
                plan.fence = fence;
                self.timers.arm(Due::Plan(id), now.mono.plus_ms(patience_ms));
            }
            Some(candidate) => {
                let offer = plan.offers.first().map(|o| o.offer.clone());
                plan.ready = offer.map(|offer| (candidate.clone(), offer));
                self.plan_tell(now, id, out);
            }
            None => self.plan_tell(now, id, out),
        }
    }

    fn plan_tell(&mut self, now: Now, id: PlanId, out: &mut Outbox) {
        let Some(plan) = self.plans.get_mut(&id) else { return };
        plan.told = true;
        plan.refusals.sort_by_key(|r| r.member);
        let choice = plan.ready.as_ref().map(|(candidate, offer)| Choice {
            member: candidate.member,
            target: offer.target.clone(),
            price_hour_micro: offer.price_hour_micro,
            currency: offer.currency.clone(),
            hold_ms: offer.hold_ms,
        });
        let result = PlanResult {
            plan: id,
            at: now.wall,
            fence: plan.fence,
            document: plan.request.document.clone(),
            offers: plan.offers.clone(),
            refusals: plan.refusals.clone(),
            choice,
            took_ms: now.mono.since_ms(plan.started),
        };
        out.push(Action::Planned(Box::new(result)));
        if plan.ready.is_some() {
            self.timers.arm(Due::Plan(id), now.mono.plus_ms(KEPT_MS));
        } else {
            self.plans.remove(&id);
            self.timers.disarm(Due::Plan(id));
        }
    }

    /// Takes a ready plan for the task that is made from it.
    pub(super) fn take_plan(&mut self, _now: Now, id: PlanId, submission: &Submission) -> Result<Plan, Reason> {
        let Some(plan) = self.plans.get(&id) else {
            return Err(Reason::new(
                ReasonCode::OfferExpired,
                "the plan is unknown here, was used, or is older than ten minutes",
            ));
        };
        if plan.ready.is_none() || !plan.told {
            return Err(Reason::new(ReasonCode::PlanChanged, "the plan found no region"));
        }
        if plan.request.document != submission.document {
            return Err(Reason::new(ReasonCode::PlanChanged, "the task document differs from the planned one"));
        }
        self.timers.disarm(Due::Plan(id));
        self.plans.remove(&id).ok_or_else(|| ReasonCode::OfferExpired.into())
    }

    /// Awards a plan's choice to the task made from it.
    pub(super) fn begin_planned(&mut self, now: Now, id: TaskId, plan: Plan, out: &mut Outbox) {
        let Some((mut candidate, offer)) = plan.ready else { return };
        let Some(task) = self.tasks.get_mut(&id) else { return };
        task.custody.fence = offer.fence;
        candidate.price_hour_micro = offer.price_hour_micro;
        candidate.answer = Answer::Offered;
        task.promised =
            Some(in_place(&self.directory, &Ranked { targets: vec![offer.target.clone()], ..candidate.clone() }));
        let member = candidate.member;
        let award = Award {
            task: id,
            fence: offer.fence,
            offer: offer.offer,
            incarnation: offer.incarnation,
            target: offer.target.clone(),
            need: task.need.clone(),
            limits: Limits { price_hour_micro_max: Some(offer.price_hour_micro), start_in_ms_max: None },
            document: task.document.clone(),
            custodians: task.custody.custodians.clone(),
        };
        let mode = AskMode::Hold { ttl_ms: offer.hold_ms };
        let taken = Some((offer.target.clone(), offer.quantity));
        let limit = Some(offer.price_hour_micro);
        let standing = Standing::Awarded(Box::new(offer));
        let asked = Asked { at: now.mono, mode, standing, taken, round: 1, limit };
        let mut round = Round::new(task.custody.fence, now.mono, vec![candidate], plan.refusals);
        round.planned = true;
        round.asked.insert(member, asked);
        task.phase = Phase::Placing(Box::new(round));
        self.placing += 1;
        out.send(member, Message::Award(Box::new(award)));
        let patience = self.config.ask_deadline_ms_max + self.config.award_grace_ms;
        self.timers.arm(Due::Task(id), now.mono.plus_ms(patience));
    }
}

fn ask(request: &PlanRequest, candidate: &Ranked, fence: Fence, mode: AskMode) -> Ask {
    Ask {
        task: TaskId(request.plan.0),
        fence,
        need: request.need.clone(),
        targets: candidate.targets.clone(),
        limits: Limits::default(),
        mode,
        ttl_ms: 5_000,
        round: 1,
        document: None,
        custodians: Vec::new(),
    }
}
