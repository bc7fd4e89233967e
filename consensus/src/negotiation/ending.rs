//! How tasks end: on request, by their deadline, or because no region can take them.

use super::event::{Actor, EventKind, TaskState};
use super::message::{Attempt, Message};
use super::origin::{Due, Origin};
use super::outbox::Outbox;
use super::record::Record;
use super::task::{Bound, Phase};
use crate::custody::{CancelMark, EndMark};
use crate::time::Now;
use cpi::ids::{ContentDigest, MemberId, TaskId};
use cpi::reason::{Reason, ReasonCode};

impl Origin {
    /// Somebody wants a task ended.
    pub fn cancel(&mut self, now: Now, id: TaskId, principal: String, out: &mut Outbox) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        let asked_before = task.custody.cancel.is_some();
        if task.custody.cancel(CancelMark { principal: principal.clone(), at: now.wall }).is_err() || asked_before {
            return;
        }
        let state = task.state;
        let actor = Actor::Principal(principal);
        task.tell(
            now,
            actor,
            EventKind::CancelRequested,
            state,
            Some(ReasonCode::Cancelled.into()),
            None,
            None,
            String::new(),
        );
        self.stop(now, id, out);
    }

    /// Ends a task that is cancelled or expired: at once where nothing runs, by its provider otherwise.
    pub(super) fn stop(&mut self, now: Now, id: TaskId, out: &mut Outbox) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        let reason: Reason = if task.expired { ReasonCode::DeadlinePassed } else { ReasonCode::Cancelled }.into();
        match &mut task.phase {
            Phase::Ready | Phase::Waiting | Phase::Placing(_) => self.end_without_run(now, id, reason, out),
            Phase::Binding(bound, _) | Phase::Bound(bound) => {
                let (to, attempt) = (bound.provider, Attempt { task: id, fence: bound.fence });
                bound.repeat_at = now.mono.plus_ms(self.config.resend_every_ms);
                let persist = out.persist(task.take_records());
                out.send_after(persist, to, Message::Cancel(attempt));
                self.rearm(id);
            }
            Phase::Collecting(..) | Phase::Ending(..) => {
                out.persist(task.take_records());
            }
        }
    }

    /// Ends a task for which no run's result counts.
    pub(super) fn end_without_run(&mut self, now: Now, id: TaskId, reason: Reason, out: &mut Outbox) {
        self.leave_phase(now, id, out);
        let Some(task) = self.tasks.get_mut(&id) else { return };
        let mark = EndMark {
            fence: None,
            digest: ContentDigest::of(reason.to_string().as_bytes()),
            reason: Some(reason),
            outcome: None,
            at: now.wall,
        };
        if task.custody.end(mark).is_err() {
            return;
        }
        self.record_end(id, None, out);
    }

    /// Writes the end down; it takes effect once enough disks have it.
    pub(super) fn record_end(&mut self, id: TaskId, ack: Option<(MemberId, Attempt)>, out: &mut Outbox) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        out.persist(task.take_records());
        task.phase = Phase::Ending(task.custody.revision, ack);
        self.timers.disarm(Due::Task(id));
    }

    /// The end counts: it is told, the provider forgets its run, and nothing more will happen.
    pub(super) fn close(&mut self, now: Now, id: TaskId, out: &mut Outbox) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        let Some(end) = task.custody.end.clone() else { return };
        let state = match &end.reason {
            None => TaskState::Succeeded,
            Some(reason) if reason.code == ReasonCode::Cancelled => TaskState::Cancelled,
            Some(_) => TaskState::Failed,
        };
        match &end.reason {
            None => self.stats.succeeded += 1,
            Some(reason) => *self.stats.failed.entry(reason.code).or_default() += 1,
        }
        let binding = task.custody.binding.as_ref().filter(|b| end.fence == Some(b.fence));
        let (member, target) = (binding.map(|b| b.provider), binding.map(|b| b.target.clone()));
        let ack = match &task.phase {
            Phase::Ending(_, ack) => *ack,
            _ => binding.map(|b| (b.provider, Attempt { task: id, fence: b.fence })),
        };
        let actor = Actor::Origin(self.me);
        task.tell(now, actor, EventKind::Ended, state, end.reason, member, target, String::new());
        task.custody.closed = true;
        let persist = out.persist(task.take_records());
        if let Some((to, attempt)) = ack {
            out.send_after(persist, to, Message::EndAck(attempt));
        }
        self.forget(id);
    }

    /// Another custodian decides for the task from here on: everything that this origin had under way is let go.
    pub fn give_up_task(&mut self, now: Now, id: TaskId, out: &mut Outbox) {
        self.leave_phase(now, id, out);
        self.forget(id);
    }

    /// Lets go of everything that the present phase holds: queue places, asked regions, the provider's index.
    pub(super) fn leave_phase(&mut self, now: Now, id: TaskId, out: &mut Outbox) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        let rank = task.rank();
        match std::mem::replace(&mut task.phase, Phase::Ready) {
            Phase::Ready => {
                self.ready.remove(&rank);
            }
            Phase::Waiting => {
                self.waiting.remove(&rank);
            }
            Phase::Placing(round) => {
                self.placing -= 1;
                task.unwritten.push(Record::Decision(Box::new(round.decision(id, now))));
                self.let_go(id, &round, None, out);
            }
            Phase::Binding(bound, _) | Phase::Bound(bound) | Phase::Collecting(bound, _) => {
                self.unbind(id, &bound);
            }
            Phase::Ending(revision, ack) => task.phase = Phase::Ending(revision, ack),
        }
    }

    /// Takes a run out of the provider's index and gives its capacity back to the digest.
    pub(super) fn unbind(&mut self, id: TaskId, bound: &Bound) {
        if let Some(tasks) = self.by_provider.get_mut(&bound.provider) {
            tasks.remove(&id);
        }
        let label = self.tasks.get(&id).and_then(|t| t.wishes.spread.clone());
        if let Some(region) = self.directory.get_mut(bound.provider) {
            region.label(label.as_ref(), false);
            if let Some((target, quantity)) = &bound.taken {
                region.give_back(target, quantity);
            }
        }
        self.wake_some(2);
    }

    pub(super) fn forget(&mut self, id: TaskId) {
        self.tasks.remove(&id);
        self.timers.disarm(Due::Task(id));
    }
}
