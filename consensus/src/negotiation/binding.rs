//! An acceptance binds its region under the fence, once; every other region of the round is let go.

use super::event::{Actor, EventKind, TaskState};
use super::message::{Accepted, Attempt, Message};
use super::origin::Origin;
use super::outbox::Outbox;
use super::rank::Answer;
use super::record::Record;
use super::round::{Asked, Round, Standing};
use super::task::{Bound, Phase};
use crate::custody::Binding;
use crate::time::Now;
use cpi::ids::{MemberId, TaskId};

impl Origin {
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
        let agreed = round.asked.get(&from).is_some_and(|asked| keeps_terms(asked, &accepted));
        if round.fence != attempt.fence || !agreed || !expected {
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
                region.answered(now.mono.since_ms(asked_at));
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
        task.displaced = false;
        task.backoff_ms = self.config.backoff_ms_min;
        let bound = Bound {
            provider: from,
            fence: accepted.fence,
            taken,
            bound_at: now.mono,
            acknowledged: false,
            lease_until: now.mono.plus_ms(self.config.lease_ttl_ms),
            started: false,
            fetches_failed: 0,
            repeat_at: now.mono.plus_ms(self.config.resend_every_ms),
        };
        let label = task.wishes.spread.clone();
        out.persist(task.take_records());
        task.phase = Phase::Binding(Box::new(bound), task.custody.revision);
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
}

/// Whether an acceptance keeps what was agreed: never dearer than the limit that the region was given, and what was offered
/// where an offer was taken. A region that was asked for an offer only has no limit, so it cannot bind by itself.
fn keeps_terms(asked: &Asked, accepted: &Accepted) -> bool {
    let affordable = asked.limit.is_some_and(|most| accepted.price_hour_micro <= most);
    affordable
        && match &asked.standing {
            Standing::Awarded(offer) => offer.target == accepted.target && offer.currency == accepted.currency,
            _ => true,
        }
}
