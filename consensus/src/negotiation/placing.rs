//! Asking: a round of waves under one fence, until a region is bound or nobody is left to ask.

use super::event::{Actor, EventKind, TaskState};
use super::message::{Ask, AskMode, Limits, Message};
use super::origin::{Due, Origin};
use super::outbox::Outbox;
use super::rank::{Answer, Question, Ranked, Ranking, rank};
use super::record::Record;
use super::round::{Asked, Round, Standing};
use super::spread::Spreader;
use super::task::{Phase, Task};
use crate::time::Now;
use cpi::ids::{MemberId, TaskId};
use cpi::reason::{Reason, ReasonCode};
use cpi::resource::Firmness;
use std::collections::BTreeMap;

/// What one hedge costs of the retry budget; every first ask earns one, so that a tenth of all asks may be hedges.
const HEDGE_COST: u32 = 10;
/// Of 1,000 promises so many may be broken by a region that commits without others being asked.
const BROKEN_PERMILLE_CLEAR: u32 = 300;
/// The most that the retry budget saves up.
const HEDGES_MAX: u32 = 2_000;

impl Origin {
    /// Ranks the regions and asks the first, or lets the task wait or end with its reason.
    pub(super) fn begin_round(&mut self, now: Now, id: TaskId, out: &mut Outbox) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        let fence = task.custody.next_fence();
        let mut ranking = ranked(&self.directory, &self.config, self.me, task, now, false);
        if ranking.candidates.is_empty() {
            self.nobody(now, id, ranking, out);
            return;
        }
        let (me, own) = (self.me, self.config.own_permille);
        if task.displaced {
            self.spreader.in_proportion(&mut ranking.candidates, me, own, &mut self.rng);
        } else {
            let tie = self.config.tie_permille * 10;
            Spreader::choose_of_two(&mut ranking.candidates, tie, me, own, &mut self.rng);
        }
        task.phase = Phase::Placing(Box::new(Round::new(fence, now.mono, ranking.candidates, ranking.refusals)));
        self.placing += 1;
        self.advance(now, id, out);
    }

    /// No region can be asked now: the task waits if that may pass by itself, and ends otherwise. Words for people are
    /// made only where something new is to be written: most looks of a waiting task find the same obstacle again.
    fn nobody(&mut self, now: Now, id: TaskId, ranking: Ranking, out: &mut Outbox) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        let known = task.shown.is_some();
        let round = Round::new(task.custody.fence, now.mono, Vec::new(), ranking.refusals);
        let obstacle = round.obstacle().map(|reason| reason.code);
        if let Some(code) = obstacle.filter(|code| task.shown == Some(*code)) {
            self.wait(now, id, code.into(), None, out);
            return;
        }
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
            self.wait(now, id, reason, None, out);
        }
    }

    /// Does the next thing of a round: awards, asks the next, waits, or gives the round up.
    pub(super) fn advance(&mut self, now: Now, id: TaskId, out: &mut Outbox) {
        let Some(Task { phase: Phase::Placing(round), compare, .. }) = self.tasks.get(&id) else { return };
        if round.is_awarding() {
            return;
        }
        if let Some((member, certain)) = round.best_offer(self.config.tie_permille * 10)
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
        let may_commit = self.config.commit_if
            && !compare.contains(&favourite)
            && (first || !silent)
            && self.is_clear(round, favourite);
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

    /// Whether a favourite may commit without others being asked: it sets capacity aside, keeps its word, and has room for
    /// more than this task, so that comparing would show nothing new.
    fn is_clear(&self, round: &Round, favourite: MemberId) -> bool {
        let Some(candidate) = round.candidates.iter().find(|c| c.member == favourite) else { return false };
        let broken = self.directory.get(favourite).map_or(0, |region| region.broken_permille());
        candidate.firmness != Firmness::Estimate
            && broken <= BROKEN_PERMILLE_CLEAR
            && (candidate.slots > 1 || round.candidates.len() == 1)
    }

    /// Asks some regions at once.
    pub(super) fn ask(&mut self, now: Now, id: TaskId, members: &[MemberId], mode: AskMode, out: &mut Outbox) {
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
        let start_in_ms_max = task.deadline_at.map(|at| at.since_ms(now.mono));
        for &member in members {
            let Some(candidate) = round.candidates.iter_mut().find(|c| c.member == member) else { continue };
            candidate.answer = Answer::Asked;
            // Who may commit at once is bound to what its price list said; an offer is looked at before it is taken.
            let limit = (mode == AskMode::CommitIf).then_some(candidate.price_hour_micro);
            let ask = Ask {
                task: id,
                fence: round.fence,
                need: task.need.clone(),
                targets: candidate.targets.clone(),
                limits: Limits { price_hour_micro_max: limit, start_in_ms_max },
                mode,
                ttl_ms,
                round: 1,
                document: (mode == AskMode::CommitIf).then(|| task.document.clone()),
                custodians: task.custody.custodians.clone(),
            };
            let taken = candidate.targets.first().map(|t| (t.clone(), candidate.quantity));
            if let (Some(region), Some((target, quantity))) = (self.directory.get_mut(member), &taken) {
                region.take(target, quantity);
            }
            let standing = Standing::Waiting;
            round.asked.insert(member, Asked { at: now.mono, mode, standing, taken, round: 1, limit });
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

    pub(super) fn arm_round(&mut self, now: Now, id: TaskId, ms: u64) {
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
                // No answer is no measure of one, but says that it takes at least so long.
                region.answers.measured(now.mono.since_ms(at));
                region.breaker.miss(now.mono);
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

    /// The round is over without a region: the task waits and asks again under the next fence.
    pub(super) fn give_up(&mut self, now: Now, id: TaskId, reason: Reason, out: &mut Outbox) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        let round = match std::mem::replace(&mut task.phase, Phase::Ready) {
            Phase::Placing(round) => round,
            other => {
                task.phase = other;
                return;
            }
        };
        self.placing -= 1;
        if task.shown != Some(reason.code) {
            task.unwritten.push(Record::Decision(Box::new(round.decision(id, now))));
        }
        self.let_go(id, &round, None, out);
        self.wait(now, id, reason, round.again_in_ms, out);
    }

    /// A plan's placement cannot be had: the task ends with the difference.
    pub(super) fn plan_broken(&mut self, now: Now, id: TaskId, out: &mut Outbox) {
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
    rank(&question(directory, config, me, task, now, verbose), directory.iter())
}

/// What ranking is asked for a task.
pub(super) fn question<'a>(
    directory: &'a super::directory::Directory,
    config: &'a super::config::NegotiationConfig,
    me: MemberId,
    task: &'a Task,
    now: Now,
    verbose: bool,
) -> Question<'a> {
    Question {
        need: &task.need,
        wishes: &task.wishes,
        weights: &config.weights,
        dictionary: directory.dictionary(),
        me,
        now: now.mono,
        digest_age_ms_max: config.digest_age_ms_max,
        egress_gib_micro: config.egress_gib_micro,
        verbose,
    }
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
