//! Asking: a round of waves under one fence, until a region is bound or nobody is left to ask.

use super::event::{Actor, EventKind, TaskState};
use super::message::{Accepted, Ask, AskMode, Attempt, Award, Decline, Limits, Message, Offer};
use super::origin::{Due, Origin};
use super::outbox::Outbox;
use super::rank::{Answer, Question, Ranked, Ranking, rank};
use super::record::Record;
use super::round::{Asked, Round, Standing};
use super::task::{Bound, Phase, Task};
use crate::custody::{Binding, Quorum};
use crate::time::Now;
use cpi::ids::{MemberId, TaskId};
use cpi::reason::{Reason, ReasonCode};
use rand::RngExt as _;
use std::collections::BTreeMap;

/// What one hedge costs of the retry budget; every first ask earns one, so that a tenth of all asks may be hedges.
const HEDGE_COST: u32 = 10;
/// The most that the retry budget saves up.
const HEDGES_MAX: u32 = 2_000;

impl Origin {
    /// Ranks the regions and asks the first, or lets the task wait or end with its reason.
    pub(super) fn begin_round(&mut self, now: Now, id: TaskId, out: &mut Outbox) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        let fence = task.custody.next_fence();
        let mut ranking = ranked(&self.directory, &self.config, self.me, task, now, false);
        if ranking.candidates.is_empty() {
            self.nobody(now, id, out);
            return;
        }
        choose_of_two(&mut ranking.candidates, self.config.tie_permille * 10, &mut self.rng);
        let Some(task) = self.tasks.get_mut(&id) else { return };
        task.phase = Phase::Placing(Box::new(Round::new(fence, now.mono, ranking.candidates, ranking.refusals)));
        self.placing += 1;
        self.advance(now, id, out);
    }

    /// No region can be asked now: the task waits if that may pass by itself, and ends otherwise.
    fn nobody(&mut self, now: Now, id: TaskId, out: &mut Outbox) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        let known = task.shown.is_some();
        let ranking = ranked(&self.directory, &self.config, self.me, task, now, true);
        let round = Round::new(task.custody.fence, now.mono, Vec::new(), ranking.refusals);
        let obstacle = round.obstacle();
        let hopeless = obstacle.is_none() && !self.directory.is_empty();
        let reason = if hopeless {
            Reason::new(ReasonCode::NoCandidates, counted(&round))
        } else {
            obstacle.unwrap_or_else(|| Reason::new(ReasonCode::PeerUnreachable, "no region is known yet"))
        };
        if hopeless || !known || task.shown != Some(reason.code) {
            task.unwritten.push(Record::Decision(Box::new(round.decision(id, now))));
        }
        if hopeless {
            self.end_without_run(now, id, reason, out);
        } else {
            self.wait(now, id, reason, out);
        }
    }

    /// Does the next thing of a round: awards, asks the next, waits, or gives the round up.
    pub(super) fn advance(&mut self, now: Now, id: TaskId, out: &mut Outbox) {
        let Some(Task { phase: Phase::Placing(round), compare, .. }) = self.tasks.get(&id) else { return };
        if round.is_awarding() {
            return;
        }
        if let Some((member, certain)) = round.best_offer()
            && (certain || !round.is_waiting())
        {
            self.award(now, id, member, out);
            return;
        }
        if round.is_waiting() {
            return;
        }
        if round.planned {
            self.plan_broken(now, id, out);
            return;
        }
        let first = round.asked.is_empty();
        let next = round.unasked(self.config.wave_size.clamp(1, 16));
        let Some(&favourite) = next.first() else {
            let silent = round.asked.values().any(|a| a.standing == Standing::Silent);
            let timeout = silent.then(|| ReasonCode::PeerTimeout.into());
            let reason = round.obstacle().or(timeout).unwrap_or_else(|| ReasonCode::NoCapacityNow.into());
            self.give_up(now, id, reason, out);
            return;
        };
        let silent = round.asked.values().any(|a| a.standing == Standing::Silent);
        let may_commit = self.config.commit_if && !compare.contains(&favourite) && (first || !silent);
        if first {
            self.hedges = (self.hedges + 1).min(HEDGES_MAX);
        } else if silent {
            // Beyond a tenth of all asks, silence is not answered with more asks: it would feed an overload.
            if self.hedges < HEDGE_COST {
                self.give_up(now, id, ReasonCode::PeerTimeout.into(), out);
                return;
            }
            self.hedges -= HEDGE_COST;
        }
        if may_commit {
            self.ask(now, id, &[favourite], AskMode::CommitIf, out);
        } else {
            let ttl_ms = self.config.hold_ttl_ms.min(5_000);
            self.ask(now, id, &next, AskMode::Hold { ttl_ms }, out);
        }
    }

    /// Asks some regions at once.
    fn ask(&mut self, now: Now, id: TaskId, members: &[MemberId], mode: AskMode, out: &mut Outbox) {
        let mut patience_ms = 0;
        for member in members {
            let region = self.directory.get(*member);
            patience_ms = patience_ms.max(region.map_or(0, |r| r.answers.patience_ms(r.rtt_ms)));
        }
        let mut ttl_ms = patience_ms.clamp(self.config.ask_deadline_ms_min, self.config.ask_deadline_ms_max);
        if mode == AskMode::CommitIf {
            ttl_ms += self.config.award_grace_ms;
        }
        let Some(task) = self.tasks.get_mut(&id) else { return };
        let Phase::Placing(round) = &mut task.phase else { return };
        for &member in members {
            let Some(candidate) = round.candidates.iter_mut().find(|c| c.member == member) else { continue };
            candidate.answer = Answer::Asked;
            let limits = Limits { price_hour_micro_max: Some(candidate.price_hour_micro), start_in_ms_max: None };
            let ask = Ask {
                task: id,
                fence: round.fence,
                need: task.need.clone(),
                targets: candidate.targets.clone(),
                limits: if mode == AskMode::CommitIf { limits } else { Limits::default() },
                mode,
                ttl_ms,
                document: (mode == AskMode::CommitIf).then(|| task.document.clone()),
            };
            let taken = candidate.targets.first().map(|t| (t.clone(), candidate.quantity));
            if let (Some(region), Some((target, quantity))) = (self.directory.get_mut(member), &taken) {
                region.take(target, quantity);
            }
            round.asked.insert(member, Asked { at: now.mono, mode, standing: Standing::Waiting, taken });
            self.stats.asks += 1;
            out.send(member, Message::Ask(Box::new(ask)));
        }
        let detail = if mode == AskMode::CommitIf {
            "may commit at once".to_owned()
        } else {
            let names: Vec<String> = members.iter().map(ToString::to_string).collect();
            format!("asked for offers: {}", names.join(", "))
        };
        let me = self.me;
        let member = (members.len() == 1).then(|| members[0]);
        task.tell(now, Actor::Origin(me), EventKind::Asked, TaskState::Placing, None, member, None, detail);
        self.arm_round(now, id, ttl_ms);
    }

    fn arm_round(&mut self, now: Now, id: TaskId, ms: u64) {
        let mut at = now.mono.plus_ms(ms);
        if let Some(deadline) = self.tasks.get(&id).and_then(|t| t.deadline_at) {
            at = at.min(deadline);
        }
        self.timers.arm(Due::Task(id), at);
    }

    /// The time of those who have not answered is over.
    pub(super) fn round_due(&mut self, now: Now, id: TaskId, out: &mut Outbox) {
        let Some(Task { phase: Phase::Placing(round), .. }) = self.tasks.get_mut(&id) else { return };
        let mut silent = Vec::new();
        for (member, asked) in &mut round.asked {
            if matches!(asked.standing, Standing::Waiting | Standing::Awarded(_)) {
                asked.standing = Standing::Silent;
                silent.push((*member, asked.at));
            }
        }
        for (member, _) in &silent {
            round.note(*member, Answer::TimedOut);
        }
        for (member, at) in silent {
            if let Some(region) = self.directory.get_mut(member) {
                region.answers.measured(2 * now.mono.since_ms(at));
                region.breaks();
            }
            let me = self.me;
            let Some(task) = self.tasks.get_mut(&id) else { return };
            let reason = Some(ReasonCode::PeerTimeout.into());
            task.tell(
                now,
                Actor::Origin(me),
                EventKind::TimedOut,
                TaskState::Placing,
                reason,
                Some(member),
                None,
                String::new(),
            );
        }
        self.advance(now, id, out);
    }

    /// The mesh could not take an ask: the region counts as silent.
    pub(super) fn peer_busy(&mut self, now: Now, id: TaskId, member: MemberId, out: &mut Outbox) {
        let Some(Task { phase: Phase::Placing(round), .. }) = self.tasks.get_mut(&id) else { return };
        let Some(asked) = round.asked.get_mut(&member) else { return };
        if asked.standing == Standing::Waiting {
            asked.standing = Standing::Silent;
            round.note(member, Answer::TimedOut);
            self.advance(now, id, out);
        }
    }

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
                    region.answers.measured(now.mono.since_ms(asked.at));
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

    fn award(&mut self, now: Now, id: TaskId, member: MemberId, out: &mut Outbox) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        let Phase::Placing(round) = &mut task.phase else { return };
        let Some(asked) = round.asked.get_mut(&member) else { return };
        let Standing::Offered(offer) = &asked.standing else { return };
        let offer = offer.clone();
        asked.standing = Standing::Awarded(offer.clone());
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
        let Phase::Placing(round) = &mut task.phase else { return };
        if decline.fence != round.fence {
            return;
        }
        let Some(asked) = round.asked.get_mut(&from) else { return };
        if asked.standing == Standing::Declined {
            return;
        }
        let asked_at = asked.at;
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
            region.answers.measured(now.mono.since_ms(asked_at));
            if let Some((target, quantity)) = taken {
                region.give_back(&target, &quantity);
            }
            region.update(&decline.status);
            if decline.reason.code == ReasonCode::HoldLost {
                region.breaks();
            }
        }
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

    /// An acceptance came: the first under the fence is bound, every other is released.
    pub(super) fn accepted(&mut self, now: Now, from: MemberId, accepted: Accepted, out: &mut Outbox) {
        let attempt = Attempt { task: accepted.task, fence: accepted.fence };
        let id = accepted.task;
        let Some(task) = self.tasks.get_mut(&id) else {
            out.send(from, Message::Release(attempt));
            return;
        };
        if task.is_bound_to(from, &attempt) {
            if matches!(task.phase, Phase::Bound(_)) {
                out.send(from, Message::Bound(attempt));
            }
            return;
        }
        let expected = accepted.need == task.need_digest;
        let Phase::Placing(round) = &mut task.phase else {
            out.send(from, Message::Release(attempt));
            return;
        };
        if round.fence != attempt.fence || !round.asked.contains_key(&from) || !expected {
            out.send(from, Message::Release(attempt));
            return;
        }
        let binding = Binding {
            fence: accepted.fence,
            provider: from,
            lease: accepted.lease,
            target: accepted.target.clone(),
            price_hour_micro: accepted.price_hour_micro,
            currency: accepted.currency.clone(),
            at: now.wall,
        };
        if task.custody.bind(binding).is_err() {
            out.send(from, Message::Release(attempt));
            return;
        }
        round.note(from, Answer::Chosen);
        let taken = round.asked.get_mut(&from).and_then(|a| {
            a.standing = Standing::Declined;
            let asked_at = a.at;
            if let Some(region) = self.directory.get_mut(from) {
                region.answers.measured(now.mono.since_ms(asked_at));
            }
            a.taken.take()
        });
        let took_ms = now.mono.since_ms(round.started);
        let decision = round.decision(id, now);
        let round = match std::mem::replace(&mut task.phase, Phase::Ready) {
            Phase::Placing(round) => round,
            other => {
                task.phase = other;
                return;
            }
        };
        self.placing -= 1;
        task.unwritten.push(Record::Decision(Box::new(decision)));
        let target = Some(accepted.target.clone());
        let detail = format!("lease {}, {} ms after the first ask", accepted.lease, took_ms);
        task.tell(
            now,
            Actor::Provider(from),
            EventKind::Accepted,
            TaskState::Placing,
            None,
            Some(from),
            target.clone(),
            detail,
        );
        let me = self.me;
        task.tell(
            now,
            Actor::Origin(me),
            EventKind::Bound,
            TaskState::Staging,
            None,
            Some(from),
            target,
            String::new(),
        );
        task.shown = None;
        task.backoff_ms = self.config.backoff_ms_min;
        let bound = Bound {
            provider: from,
            fence: accepted.fence,
            taken,
            acknowledged: false,
            lease_until: now.mono.plus_ms(self.config.lease_ttl_ms),
            started: false,
            fetches_failed: 0,
            repeat_at: now.mono.plus_ms(self.config.resend_every_ms),
        };
        task.phase = Phase::Binding(Box::new(bound), Quorum::of(&task.custody.custodians));
        let label = task.wishes.spread.clone();
        let persist = out.persist(task.take_records());
        self.persists.push_back((persist, id));
        self.by_provider.entry(from).or_default().insert(id);
        if let Some(region) = self.directory.get_mut(from) {
            region.keeps();
            region.label(label.as_ref(), true);
        }
        self.stats.placed += 1;
        if from != self.me {
            self.stats.placed_elsewhere += 1;
        }
        self.let_go(id, &round, Some(from), out);
        self.rearm(id);
    }

    /// Releases everybody in a round who may have set something aside, but one.
    pub(super) fn let_go(&mut self, id: TaskId, round: &Round, but: Option<MemberId>, out: &mut Outbox) {
        for member in round.entangled(but) {
            if Some(member) != but {
                out.send(member, Message::Release(Attempt { task: id, fence: round.fence }));
            }
            let taken = round.asked.get(&member).and_then(|a| a.taken.as_ref());
            if let (Some(region), Some((target, quantity))) = (self.directory.get_mut(member), taken) {
                region.give_back(target, quantity);
            }
        }
    }

    /// The round is over without a region: the task waits and asks again under the next fence.
    fn give_up(&mut self, now: Now, id: TaskId, reason: Reason, out: &mut Outbox) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        let round = match std::mem::replace(&mut task.phase, Phase::Ready) {
            Phase::Placing(round) => round,
            other => {
                task.phase = other;
                return;
            }
        };
        self.placing -= 1;
        task.unwritten.push(Record::Decision(Box::new(round.decision(id, now))));
        self.let_go(id, &round, None, out);
        self.wait(now, id, reason, out);
    }

    /// A plan's placement cannot be had: the task ends with the difference.
    fn plan_broken(&mut self, now: Now, id: TaskId, out: &mut Outbox) {
        let Some(task) = self.tasks.get(&id) else { return };
        let promised = task.promised.clone().unwrap_or_default();
        let ranking = ranked(&self.directory, &self.config, self.me, task, now, true);
        let instead = match ranking.candidates.first() {
            Some(best) => in_place(&self.directory, best),
            None => counted(&Round::new(task.custody.fence, now.mono, Vec::new(), ranking.refusals)),
        };
        let why = match &task.phase {
            Phase::Placing(round) => round.candidates.iter().find_map(|c| match &c.answer {
                Answer::Declined(reason) => Some(reason.to_string()),
                Answer::TimedOut => Some(ReasonCode::PeerTimeout.sentence().to_owned()),
                _ => None,
            }),
            _ => None,
        };
        let detail = format!("planned: {promised}; now: {instead}. {}", why.unwrap_or_default());
        self.end_without_run(now, id, Reason::new(ReasonCode::PlanChanged, detail), out);
    }
}

/// A candidate's place and price in words.
pub(super) fn in_place(directory: &super::directory::Directory, ranked: &Ranked) -> String {
    let region = directory.get(ranked.member).map_or_else(|| ranked.member.to_string(), |r| r.place.region.to_string());
    let place = ranked.targets.first().map(|t| format!("{}/{}", t.pool, t.class)).unwrap_or_default();
    format!("{region}/{place} at {} millionths of {} per hour", ranked.price_hour_micro, ranked.currency)
}

/// Ranks the regions for a task.
pub(super) fn ranked(
    directory: &super::directory::Directory,
    config: &super::config::NegotiationConfig,
    me: MemberId,
    task: &Task,
    now: Now,
    verbose: bool,
) -> Ranking {
    let question = Question {
        need: &task.need,
        wishes: &task.wishes,
        weights: &config.weights,
        dictionary: directory.dictionary(),
        me,
        now: now.mono,
        digest_age_ms_max: config.digest_age_ms_max,
        verbose,
    };
    rank(&question, directory.iter())
}

/// Refusals by code with their counts, for people.
fn counted(round: &Round) -> String {
    let mut counts: BTreeMap<(u8, &str), u32> = BTreeMap::new();
    for refused in &round.refusals {
        *counts.entry((refused.reason.code.precedence(), refused.reason.code.code())).or_default() += 1;
    }
    let parts: Vec<String> = counts.iter().map(|((_, code), count)| format!("{count} x {code}")).collect();
    parts.join(", ")
}

/// Among the candidates as good as the best, two are drawn by their free capacity and the better of them goes first, so
/// that origins with the same digests do not all run to one region.
///
/// Source: Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001.
fn choose_of_two(candidates: &mut [Ranked], tie: u32, rng: &mut rand_chacha::ChaCha8Rng) {
    let Some(best) = candidates.first().map(|c| c.score) else { return };
    let equal = candidates.iter().take_while(|c| c.score <= best.saturating_add(tie)).count();
    if equal < 2 {
        return;
    }
    let mut draw = || {
        let weights = candidates[..equal].iter().map(|c| u64::from(c.slots.clamp(1, 10_000)));
        let mut point = rng.random_range(0..weights.clone().sum::<u64>());
        weights.into_iter().position(|w| {
            let here = point < w;
            point = point.saturating_sub(w);
            here
        })
    };
    let (Some(one), Some(two)) = (draw(), draw()) else { return };
    let emptier = |i: usize| (candidates[i].terms.start, candidates[i].score, candidates[i].member);
    let chosen = if emptier(two) < emptier(one) { two } else { one };
    candidates[..=chosen].rotate_right(1);
}
