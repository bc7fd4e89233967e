//! Answers to asks and awards: offers with a hold, commits, declines. The same question gets the same answer.

use super::super::action::RunOrder;
use super::super::answers::Remembered;
use super::super::counter::{Counter, ROUNDS_MAX};
use super::super::hold::Hold;
use super::super::message::{Ask, AskMode, Attempt, Award, ClassUpdate, Decline, Message, Offer};
use super::super::need::Need;
use super::super::outbox::Outbox;
use super::super::record::LeasePhase;
use super::fitting::{Fit, Wanted};
use super::leased::Terms;
use super::{Due, Provider, Refusal, random_id, refuse};
use crate::time::Now;
use bytes::Bytes;
use cpi::ids::{Epoch, Fence, MemberId, OfferId};
use cpi::reason::{Reason, ReasonCode};
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, VecDeque};

/// The longest hold of an offer, in ms.
const HOLD_MS_MAX: u64 = 5_000;
/// The longest hold of a plan's first choice, in ms.
const PLAN_HOLD_MS_MAX: u64 = 60_000;
/// How long asks for what is contended are gathered, in ms.
const BATCH_MS: u64 = 10;
/// The most that are gathered; more are answered at once.
const BATCH_MAX: usize = 1_024;
/// Below every fence.
const LOWEST: Fence = Fence { epoch: Epoch { counter: 0, member: MemberId(0) }, attempt: 0 };

impl Provider {
    /// An ask. Where only one more such task fits, asks to hold are gathered for a moment and answered by turns of their
    /// origins, so that the quickest origin does not get everything.
    pub fn ask(&mut self, now: Now, from: MemberId, ask: Ask, rng: &mut ChaCha8Rng, out: &mut Outbox) {
        match self.contended_place(&ask) {
            Some(place) if self.batches.entry(place).or_default().len() < BATCH_MAX => {
                let batch = self.batches.entry(place).or_default();
                if batch.is_empty() {
                    self.timers.arm(Due::Batch(place.0, place.1), now.mono.plus_ms(BATCH_MS));
                }
                batch.push((from, ask));
            }
            _ => self.answer(now, from, ask, rng, out),
        }
    }

    /// The class that an ask to hold is about, if it is contended: the last fitting capacity, and others ask for it too.
    fn contended_place(&self, ask: &Ask) -> Option<(u16, u16)> {
        let target = ask.targets.first().filter(|_| matches!(ask.mode, AskMode::Hold { .. }))?;
        let place = self.book.find(target)?;
        if self.batches.get(&place).is_some_and(|batch| !batch.is_empty()) {
            return Some(place);
        }
        let way = ask.need.variants.get(usize::from(target.variant))?;
        let quantity = way.on(self.book.pool(place.0).classes[usize::from(place.1)].chip.as_ref())?;
        let others = self.waitlists.get(&place).is_some_and(|list| list.len() > 1);
        (others && self.is_last(place.0, place.1, &quantity)).then_some(place)
    }

    /// Answers a batch, one ask of each origin after the other.
    pub(super) fn answer_batch(&mut self, now: Now, place: (u16, u16), rng: &mut ChaCha8Rng, out: &mut Outbox) {
        let mut by_origin: BTreeMap<MemberId, VecDeque<Ask>> = BTreeMap::new();
        for (from, ask) in self.batches.remove(&place).unwrap_or_default() {
            by_origin.entry(from).or_default().push_back(ask);
        }
        // Another origin begins each time.
        let mut turns: VecDeque<(MemberId, VecDeque<Ask>)> = by_origin.into_iter().collect();
        if !turns.is_empty() {
            turns.rotate_left(rng.random_range(0..turns.len()));
        }
        while let Some((from, mut asks)) = turns.pop_front() {
            if let Some(ask) = asks.pop_front() {
                self.answer(now, from, ask, rng, out);
                turns.push_back((from, asks));
            }
        }
    }

    fn answer(&mut self, now: Now, from: MemberId, ask: Ask, rng: &mut ChaCha8Rng, out: &mut Outbox) {
        let attempt = Attempt { task: ask.task, fence: ask.fence };
        if self.repeat(now, from, attempt, (ask.mode, ask.round), out) {
            return;
        }
        if let Some(code) = self.supersede(now, from, attempt, out) {
            self.decline(now, from, attempt, (ask.mode, ask.round), (code.into(), 0), (Vec::new(), None), out);
            return;
        }
        let commit = ask.mode == AskMode::CommitIf;
        let wanted = Wanted { from, need: &ask.need, limits: &ask.limits, commit, round: ask.round };
        let picked = self.check(from, &ask.need, ask.mode).and_then(|()| self.pick(wanted, &ask.targets, rng));
        let fit = match picked {
            Ok(fit) => fit,
            Err(refusal) => {
                let status = self.figures(&ask.targets);
                let counter = self.counter(now, ask.task, wanted, &ask.targets, refusal.0.code, rng);
                self.decline(now, from, attempt, (ask.mode, ask.round), refusal, (status, counter), out);
                return;
            }
        };
        match ask.mode {
            AskMode::Quote => {
                let offer = self.offer(from, &ask, fit, 0, rng);
                self.stats.offers += 1;
                out.send(from, Message::Offer(Box::new(offer)));
            }
            AskMode::Hold { ttl_ms } => {
                let slot = fit.chance.slot;
                assert!(self.book.take_at(slot, &fit.quantity), "it was found to fit");
                let longest = if ttl_ms > HOLD_MS_MAX { PLAN_HOLD_MS_MAX } else { HOLD_MS_MAX };
                let hold_ms = ttl_ms.min(longest);
                let offer = self.offer(from, &ask, fit, hold_ms, rng);
                let until = now.mono.plus_ms(hold_ms);
                out.send(from, Message::Offer(Box::new(offer.clone())));
                self.holds.insert(attempt, Hold { origin: from, slot, offer: Box::new(offer), until });
                *self.holds_of_class.entry((slot.pool, slot.class)).or_default() += 1;
                self.accounts.entry(from).or_default().holds += 1;
                self.timers.arm(Due::Hold(attempt), until);
                self.stats.offers += 1;
                self.changes += 1;
            }
            AskMode::CommitIf => {
                let Some(document) = ask.document else {
                    let refusal = refuse(ReasonCode::InvalidTask, "an ask that may commit carries the document");
                    self.decline(now, from, attempt, (ask.mode, ask.round), refusal, (Vec::new(), None), out);
                    return;
                };
                self.commit_fit(now, from, attempt, &ask.need, fit, (document, ask.custodians), rng, out);
            }
        }
    }

    /// Takes what was found to fit and commits to it.
    #[allow(clippy::too_many_arguments, reason = "the facts of one lease")]
    fn commit_fit(
        &mut self,
        now: Now,
        from: MemberId,
        attempt: Attempt,
        need: &Need,
        fit: Fit,
        papers: (Bytes, Vec<MemberId>),
        rng: &mut ChaCha8Rng,
        out: &mut Outbox,
    ) {
        let slot = fit.chance.slot;
        assert!(self.book.take_at(slot, &fit.quantity), "it was found to fit");
        let terms = Terms { target: fit.target, quantity: fit.quantity, price: fit.price };
        self.commit(now, from, attempt, need, slot, terms, papers, rng, out);
    }

    /// An award: the held capacity becomes a lease; without the hold it is checked anew.
    pub fn award(&mut self, now: Now, from: MemberId, award: Award, rng: &mut ChaCha8Rng, out: &mut Outbox) {
        let attempt = Attempt { task: award.task, fence: award.fence };
        if let Some(lease) = self.leases.get(&attempt) {
            if lease.record.origin == from {
                self.say_accepted(attempt, out);
            }
            return;
        }
        let mode = AskMode::CommitIf;
        if self.answers.is_released(&attempt) {
            let refusal = refuse(ReasonCode::HoldLost, "it was released");
            self.decline(now, from, attempt, (mode, ROUNDS_MAX), refusal, (Vec::new(), None), out);
            return;
        }
        let held = self.holds.get(&attempt).is_some_and(|h| h.origin == from && h.offer.offer == award.offer);
        if held && award.incarnation == self.incarnation {
            let hold = self.remove_hold(&attempt, true).expect("it was just found");
            let offer = hold.offer;
            let terms = Terms { target: offer.target, quantity: offer.quantity, price: offer.price_hour_micro };
            let papers = (award.document, award.custodians);
            self.commit(now, from, attempt, &award.need, hold.slot, terms, papers, rng, out);
            return;
        }
        if let Some(code) = self.supersede(now, from, attempt, out) {
            self.decline(now, from, attempt, (mode, ROUNDS_MAX), (code.into(), 0), (Vec::new(), None), out);
            return;
        }
        self.drop_hold(&attempt, false);
        let targets = [award.target];
        let wanted = Wanted { from, need: &award.need, limits: &award.limits, commit: false, round: ROUNDS_MAX };
        let picked = self.check(from, &award.need, mode).and_then(|()| self.pick(wanted, &targets, rng));
        match picked {
            Ok(fit) => {
                let papers = (award.document, award.custodians);
                self.commit_fit(now, from, attempt, &award.need, fit, papers, rng, out);
            }
            Err((why, retry_ms)) => {
                let status = self.figures(&targets);
                let reason = Reason::new(ReasonCode::HoldLost, format!("{}: {}", why.code, why.detail));
                self.decline(now, from, attempt, (mode, ROUNDS_MAX), (reason, retry_ms), (status, None), out);
            }
        }
    }

    /// The origin needs it no longer.
    pub fn release(&mut self, now: Now, from: MemberId, attempt: Attempt, out: &mut Outbox) {
        if self.holds.get(&attempt).is_some_and(|h| h.origin == from) {
            self.drop_hold(&attempt, false);
        }
        match self.leases.get_mut(&attempt) {
            Some(lease) if lease.record.origin != from => return,
            Some(lease) if lease.record.phase == LeasePhase::Started => {
                lease.superseded = true;
                out.run(RunOrder::Cancel(attempt));
            }
            Some(_) => self.settle(now, attempt, out),
            None => {}
        }
        self.answers.remember(now.mono, attempt, Remembered::Released);
    }

    // ---- parts

    /// Answers a repeated ask as before. Says whether it did.
    fn repeat(
        &mut self,
        now: Now,
        from: MemberId,
        attempt: Attempt,
        (mode, round): (AskMode, u8),
        out: &mut Outbox,
    ) -> bool {
        if let Some(lease) = self.leases.get(&attempt) {
            if lease.record.origin == from {
                self.say_accepted(attempt, out);
            }
            return true;
        }
        if let Some(hold) = self.holds.get(&attempt) {
            if hold.origin == from {
                let left = hold.until.since_ms(now.mono);
                let offer = Offer { hold_ms: left, ..(*hold.offer).clone() };
                out.send(from, Message::Offer(Box::new(offer)));
            }
            return true;
        }
        match self.answers.get(&attempt) {
            Some(Remembered::Released) => {
                let refusal = refuse(ReasonCode::Fenced, "it was released");
                self.decline(now, from, attempt, (mode, ROUNDS_MAX), refusal, (Vec::new(), None), out);
                true
            }
            Some(Remembered::Declined(before, at, decline))
                if *before == mode && *at >= round && decline.origin == from =>
            {
                out.send(from, Message::Decline(decline.clone()));
                true
            }
            _ => false,
        }
    }

    /// Judges the attempt against others of the same task here: an older one of the same origin gives way.
    pub(super) fn supersede(
        &mut self,
        now: Now,
        from: MemberId,
        attempt: Attempt,
        out: &mut Outbox,
    ) -> Option<ReasonCode> {
        let low = Attempt { task: attempt.task, fence: LOWEST };
        let others: Vec<Attempt> = self
            .leases
            .range(low..)
            .take_while(|(a, _)| a.task == attempt.task)
            .filter(|(_, lease)| !lease.superseded && lease.record.phase != LeasePhase::Ended)
            .map(|(a, _)| *a)
            .collect();
        for other in others {
            if other.fence > attempt.fence {
                return Some(ReasonCode::Fenced);
            }
            self.release(now, from, other, out);
        }
        None
    }

    pub(super) fn offer(&mut self, origin: MemberId, ask: &Ask, fit: Fit, hold_ms: u64, rng: &mut ChaCha8Rng) -> Offer {
        let spec = self.book.pool(fit.chance.slot.pool);
        Offer {
            task: ask.task,
            fence: ask.fence,
            offer: OfferId(random_id(rng)),
            origin,
            need: ask.need.digest(),
            target: fit.target,
            quantity: fit.quantity,
            price_hour_micro: fit.price,
            currency: spec.price.currency.clone(),
            start_in_ms: fit.start_in_ms,
            firmness: spec.firmness,
            hold_ms,
            fragmentation_milli: fit.chance.fragmentation,
            carbon_g_per_kwh: spec.carbon_g_per_kwh,
            incarnation: self.incarnation,
        }
    }

    #[allow(clippy::too_many_arguments, reason = "the facts of one decline")]
    pub(super) fn decline(
        &mut self,
        now: Now,
        origin: MemberId,
        attempt: Attempt,
        (mode, round): (AskMode, u8),
        (reason, retry_after_ms): Refusal,
        (status, counter): (Vec<ClassUpdate>, Option<Counter>),
        out: &mut Outbox,
    ) {
        *self.stats.declines.entry(reason.code).or_default() += 1;
        let Attempt { task, fence } = attempt;
        let decline = Box::new(Decline { task, fence, origin, reason, retry_after_ms, status, counter });
        self.answers.remember(now.mono, attempt, Remembered::Declined(mode, round, decline.clone()));
        out.send(origin, Message::Decline(decline));
    }

    pub(super) fn remove_hold(&mut self, attempt: &Attempt, used: bool) -> Option<Hold> {
        let hold = self.holds.remove(attempt)?;
        self.timers.disarm(Due::Hold(*attempt));
        let place = (hold.slot.pool, hold.slot.class);
        if let Some(count) = self.holds_of_class.get_mut(&place) {
            *count -= 1;
            if *count == 0 {
                self.holds_of_class.remove(&place);
            }
        }
        let account = self.accounts.entry(hold.origin).or_default();
        account.holds = account.holds.saturating_sub(1);
        account.count_hold(used);
        Some(hold)
    }

    /// Drops a hold and gives its capacity back.
    pub(super) fn drop_hold(&mut self, attempt: &Attempt, used: bool) {
        if let Some(hold) = self.remove_hold(attempt, used) {
            self.book.give_back(hold.slot, &hold.offer.quantity);
            self.changes += 1;
        }
    }
}
