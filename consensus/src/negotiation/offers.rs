//! What asked regions answer: offers, declines, and the award of the best.

use super::counter::{Counter, Line, ROUNDS_MAX, Side};
use super::event::{Actor, EventKind, TaskState};
use super::message::{Ask, AskMode, Attempt, Award, Decline, Limits, Message, Offer};
use super::need::{Need, Wishes};
use super::origin::Origin;
use super::outbox::Outbox;
use super::rank::Answer;
use super::round::Standing;
use super::score::{offered, weighted, weights_for};
use super::task::{Phase, Task};
use crate::time::Now;
use cpi::ids::{MemberId, TaskId};
use cpi::reason::{Reason, ReasonCode};

impl Origin {
    /// An offer came.
    pub(super) fn offered(&mut self, now: Now, from: MemberId, offer: Offer, out: &mut Outbox) {
        let id = offer.task;
        let Some(task) = self.tasks.get_mut(&id) else {
            if !self.plan_offered(now, from, offer.clone(), out) {
                out.send(from, Message::Release(Attempt { task: id, fence: offer.fence }));
            }
            return;
        };
        let need = task.need_digest;
        let Phase::Placing(round) = &mut task.phase else {
            if !task.is_bound_to(from, &Attempt { task: id, fence: offer.fence }) {
                out.send(from, Message::Release(Attempt { task: id, fence: offer.fence }));
            }
            return;
        };
        let fitting = offer.fence == round.fence && offer.need == need;
        match round.asked.get_mut(&from).filter(|_| fitting) {
            Some(asked) if matches!(asked.standing, Standing::Waiting | Standing::Silent) => {
                if let Some(region) = self.directory.get_mut(from) {
                    region.answered(now.mono.since_ms(asked.at));
                }
                if over_budget(&task.wishes, &task.need, offer.price_hour_micro, &offer.currency) {
                    // Its price rose since its digest, beyond what the task may cost.
                    asked.standing = Standing::Declined;
                    let detail = format!("{} millionths of {} per hour", offer.price_hour_micro, offer.currency);
                    round.note(from, Answer::Declined(Reason::new(ReasonCode::BudgetExceeded, detail)));
                    out.send(from, Message::Release(Attempt { task: id, fence: offer.fence }));
                    self.advance(now, id, out);
                    return;
                }
                if let Some(candidate) = round.candidates.iter_mut().find(|c| c.member == from) {
                    let weights = weights_for(&self.config.weights, task.wishes.objective);
                    candidate.terms = offered(&candidate.terms, &offer, candidate.price_hour_micro);
                    candidate.score = weighted(&weights, &candidate.terms);
                }
                let target = offer.target.clone();
                let detail = format!("{} millionths of {} per hour", offer.price_hour_micro, offer.currency);
                asked.standing = Standing::Offered(Box::new(offer));
                round.note(from, Answer::Offered);
                task.tell(
                    now,
                    Actor::Provider(from),
                    EventKind::Offered,
                    TaskState::Placing,
                    None,
                    Some(from),
                    Some(target),
                    detail,
                );
                self.advance(now, id, out);
            }
            Some(_) => {}
            None => out.send(from, Message::Release(Attempt { task: id, fence: offer.fence })),
        }
    }

    pub(super) fn award(&mut self, now: Now, id: TaskId, member: MemberId, out: &mut Outbox) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        let Phase::Placing(round) = &mut task.phase else { return };
        let Some(asked) = round.asked.get_mut(&member) else { return };
        let Standing::Offered(offer) = &asked.standing else { return };
        let offer = offer.clone();
        asked.standing = Standing::Awarded(offer.clone());
        asked.limit = Some(offer.price_hour_micro);
        asked.at = now.mono;
        let target = offer.target.clone();
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
        let me = self.me;
        task.tell(
            now,
            Actor::Origin(me),
            EventKind::Awarded,
            TaskState::Placing,
            None,
            Some(member),
            Some(target),
            String::new(),
        );
        out.send(member, Message::Award(Box::new(award)));
        let patience = self.directory.get(member).map_or(0, |r| r.answers.patience_ms(r.rtt_ms));
        let ms = patience.clamp(self.config.ask_deadline_ms_min, self.config.ask_deadline_ms_max);
        self.arm_round(now, id, ms + self.config.award_grace_ms);
    }

    /// A decline came.
    pub(super) fn declined(&mut self, now: Now, from: MemberId, decline: Decline, out: &mut Outbox) {
        let id = decline.task;
        let Some(task) = self.tasks.get_mut(&id) else {
            self.plan_declined(now, from, decline, out);
            return;
        };
        let Task { phase: Phase::Placing(round), need, .. } = task else { return };
        if decline.fence != round.fence {
            return;
        }
        let Some(asked) = round.asked.get_mut(&from) else { return };
        if asked.standing == Standing::Declined {
            return;
        }
        let (asked_at, round_of_it, limit) = (asked.at, asked.round, asked.limit);
        let mode = asked.mode;
        let line = |side, price_hour_micro, code, counter| Line {
            member: from,
            round: round_of_it,
            side,
            price_hour_micro,
            code,
            counter,
        };
        if decline.counter.is_some() {
            round.say(line(Side::Origin, limit, None, None));
            round.say(line(Side::Provider, None, Some(decline.reason.code), decline.counter.clone()));
        }
        if let Some(Counter::Later { low_ms, .. }) = decline.counter {
            round.again_in_ms = Some(round.again_in_ms.map_or(low_ms, |other| other.min(low_ms)));
        }
        let Some(asked) = round.asked.get_mut(&from) else { return };
        let taken = asked.taken.take();
        let compare = decline.reason.code == ReasonCode::Contended && asked.mode == AskMode::CommitIf;
        asked.standing = Standing::Declined;
        round.note(from, Answer::Declined(decline.reason.clone()));
        if compare {
            // Contended: the region compares before it commits, so it is asked for an offer instead.
            round.asked.remove(&from);
            task.compare.insert(from);
        }
        if let Some(region) = self.directory.get_mut(from) {
            region.answered(now.mono.since_ms(asked_at));
            if let Some((target, quantity)) = taken {
                region.give_back(&target, &quantity);
            }
            region.update(&decline.status);
            if matches!(decline.reason.code, ReasonCode::NoCapacityNow | ReasonCode::Fragmented) {
                region.is_full_for(need);
            }
            if decline.reason.code == ReasonCode::HoldLost {
                region.breaks();
            }
        }
        if let Some(counter) = decline.counter.filter(|_| !compare && round_of_it < ROUNDS_MAX)
            && self.comes_back(now, id, from, mode, (round_of_it, limit), counter, out)
        {
            return;
        }
        let Some(task) = self.tasks.get_mut(&id) else { return };
        let reason = Some(decline.reason);
        task.tell(
            now,
            Actor::Provider(from),
            EventKind::Declined,
            TaskState::Placing,
            reason,
            Some(from),
            None,
            String::new(),
        );
        self.advance(now, id, out);
    }

    /// Comes back to a region on its proposal, where the task's own limits allow it: with a higher limit, never a lower
    /// one, or with another of the task's ways. Says whether it did.
    #[allow(clippy::too_many_arguments, reason = "the facts of one proposal")]
    fn comes_back(
        &mut self,
        now: Now,
        id: TaskId,
        member: MemberId,
        mode: AskMode,
        (round_before, limit_before): (u8, Option<u64>),
        counter: Counter,
        out: &mut Outbox,
    ) -> bool {
        let dearer_max = u64::from(self.config.dearer_permille_max);
        let Some(task) = self.tasks.get_mut(&id) else { return false };
        let Phase::Placing(round) = &mut task.phase else { return false };
        if round.planned {
            return false;
        }
        let Some(candidate) = round.candidates.iter_mut().find(|c| c.member == member) else { return false };
        let (targets, limit) = match counter {
            // It waits in its own queue: a region keeps no places.
            Counter::Later { .. } => return false,
            Counter::Less { target } => (vec![target], limit_before),
            Counter::Dearer { price_hour_micro } => {
                let most = candidate.price_hour_micro.saturating_mul(1000 + dearer_max) / 1000;
                let over = over_budget(&task.wishes, &task.need, price_hour_micro, &candidate.currency);
                // Giving way means a higher limit: the same one again would be refused again.
                if over || price_hour_micro > most || limit_before.is_some_and(|before| price_hour_micro <= before) {
                    return false;
                }
                (candidate.targets.clone(), Some(price_hour_micro))
            }
        };
        candidate.answer = Answer::Asked;
        let patience = self.directory.get(member).map_or(0, |r| r.answers.patience_ms(r.rtt_ms));
        let ttl_ms = patience.clamp(self.config.ask_deadline_ms_min, self.config.ask_deadline_ms_max);
        let ask = Ask {
            task: id,
            fence: round.fence,
            need: task.need.clone(),
            targets,
            limits: Limits {
                price_hour_micro_max: limit,
                start_in_ms_max: task.deadline_at.map(|at| at.since_ms(now.mono)),
            },
            mode,
            ttl_ms,
            round: round_before + 1,
            document: (mode == AskMode::CommitIf).then(|| task.document.clone()),
            custodians: task.custody.custodians.clone(),
        };
        if let Some(asked) = round.asked.get_mut(&member) {
            asked.at = now.mono;
            asked.standing = Standing::Waiting;
            asked.round = round_before + 1;
            asked.limit = limit;
        }
        self.stats.asks += 1;
        out.send(member, Message::Ask(Box::new(ask)));
        let grace = if mode == AskMode::CommitIf { self.config.award_grace_ms } else { 0 };
        self.arm_round(now, id, ttl_ms + grace);
        true
    }
}

/// Whether a run of the longest time at this price would cost more than the task may.
fn over_budget(wishes: &Wishes, need: &Need, price_hour_micro: u64, currency: &str) -> bool {
    let cost_micro = u128::from(price_hour_micro) * u128::from(need.max_runtime_ms) / 3_600_000;
    wishes
        .budget
        .as_ref()
        .is_some_and(|budget| budget.currency != currency || cost_micro > u128::from(budget.amount_minor) * 10_000)
}
