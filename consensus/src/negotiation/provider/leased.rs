//! Leases from the commit to their settlement: the run is prepared, started, ended, and its end told until the origin has it.

use super::super::action::RunOrder;
use super::super::answers::Remembered;
use super::super::capacity::Slot;
use super::super::input::RunNotice;
use super::super::lease::Lease;
use super::super::message::{Accepted, Attempt, Ended, Message, Progress, Target};
use super::super::need::Need;
use super::super::outbox::Outbox;
use super::super::outcome::RunOutcome;
use super::super::record::{LeasePhase, LeaseRecord, Record};
use super::{Due, Provider, random_id};
use crate::time::Now;
use bytes::Bytes;
use cpi::ids::{LeaseId, MemberId};
use cpi::reason::{Reason, ReasonCode};
use cpi::resource::Quantity;
use rand_chacha::ChaCha8Rng;

/// The longest pause between repeats of an end, in ms.
const RESEND_MS_MAX: u64 = 60_000;

/// What a lease is granted on.
pub(super) struct Terms {
    pub target: Target,
    pub quantity: Quantity,
    pub price: u64,
}

impl Provider {
    #[allow(clippy::too_many_arguments, reason = "the facts of one lease")]
    pub(super) fn commit(
        &mut self,
        now: Now,
        origin: MemberId,
        attempt: Attempt,
        need: &Need,
        slot: Slot,
        terms: Terms,
        (document, custodians): (Bytes, Vec<MemberId>),
        rng: &mut ChaCha8Rng,
        out: &mut Outbox,
    ) {
        let spec = self.book.pool(slot.pool);
        let record = LeaseRecord {
            attempt,
            lease: LeaseId(random_id(rng)),
            origin,
            target: terms.target,
            server: slot.server,
            chips: slot.chips,
            quantity: terms.quantity,
            firmness: spec.firmness,
            price_hour_micro: terms.price,
            currency: spec.price.currency.clone(),
            need: need.digest(),
            finish_on_partition: need.finish_on_partition,
            custodians,
            epoch: attempt.fence.epoch,
            document,
            phase: LeasePhase::Accepted,
            outcome: None,
        };
        let persist = out.persist(vec![Record::Lease(Box::new(record.clone()))]);
        out.run_after(persist, RunOrder::Prepare(Box::new(record.grant(self.config.lease_ttl_ms))));
        let until = now.mono.plus_ms(self.config.lease_ttl_ms);
        let lease = Lease {
            record,
            slot: Some(slot),
            persist,
            granted: now.mono,
            starting: None,
            until,
            superseded: false,
            running: false,
            frozen: false,
            resend_ms: self.config.resend_every_ms,
            ended_at: now.mono,
        };
        self.leases.insert(attempt, lease);
        *self.leases_of_pool.entry(slot.pool).or_default() += 1;
        *self.begun_in.entry(slot.pool).or_default() += u128::from(now.mono.0);
        if let Some(list) = self.waitlists.get_mut(&(slot.pool, slot.class)) {
            list.placed(attempt.task);
        }
        let account = self.accounts.entry(origin).or_default();
        if account.leases.is_empty() {
            self.timers.arm(Due::Renew(origin), now.mono.plus_ms(self.config.renew_every_ms));
        }
        account.leases.insert(attempt);
        self.timers.arm(Due::Lapse(attempt), until);
        self.stats.accepted += 1;
        self.changes += 1;
        self.say_accepted(attempt, out);
    }

    /// The custodians bound this provider: the run starts.
    pub fn bound(&mut self, now: Now, from: MemberId, attempt: Attempt, out: &mut Outbox) {
        let Some(lease) = self.leases.get_mut(&attempt) else {
            let why = Reason::new(ReasonCode::RunLost, "the region has no such lease");
            out.send(from, Message::Gone(attempt, why));
            return;
        };
        if lease.record.origin != from {
            return;
        }
        match lease.record.phase {
            LeasePhase::Accepted => {
                lease.record.phase = LeasePhase::Started;
                lease.until = now.mono.plus_ms(self.config.lease_ttl_ms);
                lease.starting = Some(now.mono);
                lease.persist = out.persist(vec![Record::Lease(Box::new(lease.record.clone()))]);
                out.run_after(lease.persist, RunOrder::Start { attempt, until: lease.until });
            }
            LeasePhase::Bound | LeasePhase::Started => {}
            LeasePhase::Ended => self.say_ended(attempt, out),
        }
    }

    /// The origin wants the run ended.
    pub fn cancel(&mut self, now: Now, from: MemberId, attempt: Attempt, out: &mut Outbox) {
        let Some(lease) = self.leases.get_mut(&attempt) else {
            let why = Reason::new(ReasonCode::Cancelled, "the region has no such lease");
            out.send(from, Message::Gone(attempt, why));
            return;
        };
        if lease.record.origin != from {
            return;
        }
        match lease.record.phase {
            LeasePhase::Accepted => {
                out.run(RunOrder::Cancel(attempt));
                let outcome = RunOutcome { reason: Some(ReasonCode::Cancelled.into()), ..RunOutcome::default() };
                self.end(now, attempt, outcome, out);
            }
            LeasePhase::Bound | LeasePhase::Started => out.run(RunOrder::Cancel(attempt)),
            LeasePhase::Ended => self.say_ended(attempt, out),
        }
    }

    /// The origin has the end.
    pub fn end_ack(&mut self, now: Now, from: MemberId, attempt: Attempt, out: &mut Outbox) {
        let known = self.leases.get(&attempt);
        if known.is_some_and(|l| l.record.origin == from && l.record.phase == LeasePhase::Ended) {
            self.settle(now, attempt, out);
        }
    }

    /// The executor reports.
    pub fn run(&mut self, now: Now, attempt: Attempt, notice: RunNotice, out: &mut Outbox) {
        let Some(lease) = self.leases.get_mut(&attempt) else {
            out.run(RunOrder::Release(attempt));
            return;
        };
        if lease.record.phase == LeasePhase::Ended {
            return;
        }
        let origin = lease.record.origin;
        match notice {
            RunNotice::Staged => out.send(origin, Message::Progress(attempt, Progress::Staged)),
            RunNotice::Started => {
                if !std::mem::replace(&mut lease.running, true) {
                    self.changes += 1;
                }
                if let (Some(since), Some(slot)) = (lease.starting.take(), lease.slot) {
                    self.starts.entry(slot.pool).or_default().measured(now.mono.since_ms(since));
                }
                out.send(origin, Message::Progress(attempt, Progress::Started { since_ms: 0 }));
            }
            RunNotice::Frozen => {
                lease.frozen = true;
                out.send(origin, Message::Progress(attempt, Progress::Frozen));
            }
            RunNotice::Ended(outcome) => self.end(now, attempt, *outcome, out),
            RunNotice::Failed(reason) | RunNotice::Lost(reason) => {
                let outcome = RunOutcome { reason: Some(reason), ..RunOutcome::default() };
                self.end(now, attempt, outcome, out);
            }
        }
    }

    pub(super) fn say_accepted(&self, attempt: Attempt, out: &mut Outbox) {
        let Some(lease) = self.leases.get(&attempt) else { return };
        let record = &lease.record;
        let accepted = Accepted {
            task: attempt.task,
            fence: attempt.fence,
            origin: record.origin,
            lease: record.lease,
            need: record.need,
            target: record.target.clone(),
            quantity: record.quantity,
            price_hour_micro: record.price_hour_micro,
            currency: record.currency.clone(),
            firmness: record.firmness,
            lease_ttl_ms: self.config.lease_ttl_ms,
            incarnation: self.incarnation,
        };
        out.send_after(lease.persist, record.origin, Message::Accepted(Box::new(accepted)));
    }

    pub(super) fn say_ended(&self, attempt: Attempt, out: &mut Outbox) {
        let Some(lease) = self.leases.get(&attempt) else { return };
        let Some(outcome) = lease.record.outcome.clone() else { return };
        let ended = Ended { task: attempt.task, fence: attempt.fence, origin: lease.record.origin, outcome };
        out.send_after(lease.persist, lease.record.origin, Message::Ended(Box::new(ended)));
    }

    pub(super) fn free(&mut self, attempt: &Attempt) {
        let Some(lease) = self.leases.get_mut(attempt) else { return };
        if let Some(slot) = lease.slot.take() {
            self.book.give_back(slot, &lease.record.quantity);
            if let Some(count) = self.leases_of_pool.get_mut(&slot.pool) {
                *count = count.saturating_sub(1);
            }
            if let Some(begun) = self.begun_in.get_mut(&slot.pool) {
                *begun = begun.saturating_sub(u128::from(lease.granted.0));
            }
            self.changes += 1;
        }
    }

    /// The run is over: capacity is free, the outcome goes to disk and then to the origin.
    pub(super) fn end(&mut self, now: Now, attempt: Attempt, outcome: RunOutcome, out: &mut Outbox) {
        if let Some(slot) = self.leases.get(&attempt).and_then(|lease| lease.slot)
            && outcome.wall_ms > 0
        {
            self.runs.entry(slot.pool).or_default().learn(outcome.wall_ms);
        }
        self.free(&attempt);
        self.stats.ended += 1;
        let Some(lease) = self.leases.get_mut(&attempt) else { return };
        self.stats.ended_for_others += u64::from(lease.record.origin != self.me);
        if lease.superseded {
            self.settle(now, attempt, out);
            return;
        }
        lease.record.phase = LeasePhase::Ended;
        lease.record.outcome = Some(outcome);
        lease.record.document = Bytes::new();
        lease.ended_at = now.mono;
        lease.persist = out.persist(vec![Record::Lease(Box::new(lease.record.clone()))]);
        self.timers.disarm(Due::Lapse(attempt));
        self.timers.arm(Due::Resend(attempt), now.mono.plus_ms(lease.resend_ms));
        self.say_ended(attempt, out);
    }

    /// Nothing is left to do for this attempt.
    pub(super) fn settle(&mut self, now: Now, attempt: Attempt, out: &mut Outbox) {
        self.free(&attempt);
        let Some(lease) = self.leases.remove(&attempt) else { return };
        if let Some(account) = self.accounts.get_mut(&lease.record.origin) {
            account.leases.remove(&attempt);
        }
        self.timers.disarm(Due::Lapse(attempt));
        self.timers.disarm(Due::Resend(attempt));
        let persist = out.persist(vec![Record::LeaseSettled(attempt)]);
        if lease.record.phase != LeasePhase::Ended {
            out.run(RunOrder::Cancel(attempt));
        }
        out.run_after(persist, RunOrder::Release(attempt));
        self.answers.remember(now.mono, attempt, Remembered::Released);
    }

    /// A lease is due: it was renewed meanwhile, or it lapsed.
    pub(super) fn lapse(&mut self, now: Now, attempt: Attempt, out: &mut Outbox) {
        let Some(lease) = self.leases.get_mut(&attempt) else { return };
        if lease.until > now.mono {
            self.timers.arm(Due::Lapse(attempt), lease.until);
            return;
        }
        match lease.record.phase {
            // Never bound: the origin is gone or chose another.
            LeasePhase::Accepted => self.settle(now, attempt, out),
            LeasePhase::Bound | LeasePhase::Started => {
                let last = lease.until.plus_ms(self.config.provider.frozen_ms_max);
                if lease.record.finish_on_partition {
                    self.timers.arm(Due::Lapse(attempt), now.mono.plus_ms(self.config.lease_ttl_ms));
                } else if now.mono < last {
                    // The run's supervisor froze it by its own clock; it waits for the origin's word.
                    lease.frozen = true;
                    self.timers.arm(Due::Lapse(attempt), last);
                } else {
                    // Said again until the executor reports the end: the capacity stays taken while the run may live.
                    lease.superseded = true;
                    out.run(RunOrder::Cancel(attempt));
                    self.timers.arm(Due::Lapse(attempt), now.mono.plus_ms(self.config.lease_ttl_ms));
                }
            }
            LeasePhase::Ended => {}
        }
    }

    /// The end was not acknowledged yet.
    pub(super) fn resend(&mut self, now: Now, attempt: Attempt, out: &mut Outbox) {
        let keep_ms = self.config.provider.result_ms_max;
        let Some(lease) = self.leases.get_mut(&attempt) else { return };
        if now.mono.since_ms(lease.ended_at) > keep_ms {
            self.settle(now, attempt, out);
            return;
        }
        lease.resend_ms = (lease.resend_ms * 2).min(RESEND_MS_MAX);
        let next = now.mono.plus_ms(lease.resend_ms);
        self.timers.arm(Due::Resend(attempt), next);
        self.say_ended(attempt, out);
    }
}
