//! How tasks come in: handed in anew, or taken up again after a restart.

use super::action::Action;
use super::event::{Actor, EventKind, TaskState};
use super::input::Submission;
use super::message::Message;
use super::need::Wishes;
use super::origin::{Due, Origin};
use super::outbox::Outbox;
use super::record::{Record, RestoredTask, TaskRecord};
use super::task::{Bound, Phase, Task};
use crate::custody::CustodyRecord;
use crate::time::Now;
use cpi::ids::MemberId;
use cpi::reason::{Reason, ReasonCode};
use cpi::task::TaskSpec;
use std::collections::BTreeSet;

impl Origin {
    /// Takes a task in, to be kept by `custodians`; this member is the first of them.
    pub fn submit(&mut self, now: Now, submission: Submission, custodians: Vec<MemberId>, out: &mut Outbox) {
        let id = submission.task;
        let refusal = if self.tasks.len() >= self.config.tasks_max {
            Some(Reason::new(ReasonCode::Busy, format!("{} tasks have not ended yet", self.tasks.len())))
        } else if self.tasks.contains_key(&id) {
            Some(Reason::new(ReasonCode::InvalidTask, "the task exists already"))
        } else {
            None
        };
        if let Some(reason) = refusal {
            out.push(Action::Admitted { task: id, result: Err(reason) });
            return;
        }
        let plan = match submission.plan.map(|plan| self.take_plan(now, plan, &submission)) {
            Some(Err(reason)) => {
                out.push(Action::Admitted { task: id, result: Err(reason) });
                return;
            }
            Some(Ok(plan)) => Some(plan),
            None => None,
        };
        self.directory.demand_mut().count(&submission.need);
        let need_digest = submission.need.digest();
        let mut task = Task {
            need_digest,
            deadline_at: submission.deadline_ms.map(|ms| now.mono.plus_ms(ms)),
            custody: CustodyRecord::submitted(id, custodians, self.me),
            events: 0,
            events_written: 0,
            state: TaskState::Pending,
            shown: None,
            backoff_ms: self.config.backoff_ms_min,
            compare: BTreeSet::new(),
            phase: Phase::Ready,
            unwritten: Vec::new(),
            expired: false,
            last_failure: None,
            displaced: false,
            promised: None,
            need: submission.need,
            wishes: submission.wishes,
            document: submission.document,
            retry: submission.retry,
        };
        let record = TaskRecord {
            task: id,
            principal: submission.principal.clone(),
            idempotency_key: submission.idempotency_key,
            document: task.document.clone(),
            need: task.need.clone(),
            submitted: now.wall,
        };
        task.unwritten.push(Record::Task(Box::new(record)));
        let actor = Actor::Principal(submission.principal);
        task.tell(now, actor, EventKind::Submitted, TaskState::Pending, None, None, None, String::new());
        let persist = out.persist(task.take_records());
        out.push(Action::Admitted { task: id, result: Ok(persist) });
        self.stats.submitted += 1;
        let rank = task.rank();
        if let Some(at) = task.deadline_at {
            self.timers.arm(Due::Task(id), at);
        }
        self.tasks.insert(id, task);
        match plan {
            Some(plan) => self.begin_planned(now, id, plan, out),
            None => {
                self.ready.insert(rank);
                self.pump(now, out);
            }
        }
    }

    /// Takes up tasks that this node holds from now on, after a restart or an adoption. Bound ones are said to be bound
    /// again, their leases count afresh by this clock; the others ask anew; a recorded end is told.
    pub fn restore(&mut self, now: Now, tasks: Vec<RestoredTask>, out: &mut Outbox) {
        for RestoredTask { record, custody, events, state } in tasks {
            let Ok(spec) = serde_json::from_slice::<TaskSpec>(&record.document) else { continue };
            let Ok(wishes) = Wishes::of(&spec) else { continue };
            let id = record.task;
            let age_ms = now.wall.0.saturating_sub(record.submitted.0);
            let deadline_at = spec.deadline.map(|d| now.mono.plus_ms(d.ms.saturating_sub(age_ms)));
            let need_digest = record.need.digest();
            let mut task = Task {
                need: record.need,
                need_digest,
                wishes,
                document: record.document,
                retry: spec.retry,
                deadline_at,
                custody,
                events,
                events_written: events,
                state,
                shown: None,
                backoff_ms: self.config.backoff_ms_min,
                compare: BTreeSet::new(),
                phase: Phase::Ready,
                unwritten: Vec::new(),
                expired: false,
                last_failure: None,
                displaced: false,
                promised: None,
            };
            let me = self.me;
            if task.custody.end.is_some() {
                self.tasks.insert(id, task);
                self.close(now, id, out);
                continue;
            }
            if let Some(binding) = task.custody.binding.clone() {
                out.send(binding.provider, Message::Adopt(task.adoption(binding.fence)));
                let state = if state == TaskState::Placing { TaskState::Staging } else { state };
                let member = Some(binding.provider);
                task.tell(now, Actor::Origin(me), EventKind::Resumed, state, None, member, None, String::new());
                let bound = Bound {
                    provider: binding.provider,
                    fence: binding.fence,
                    taken: None,
                    bound_at: now.mono,
                    acknowledged: false,
                    lease_until: now.mono.plus_ms(self.config.lease_ttl_ms),
                    started: state == TaskState::Running,
                    fetches_failed: 0,
                    repeat_at: now.mono.plus_ms(self.config.resend_every_ms),
                };
                self.by_provider.entry(binding.provider).or_default().insert(id);
                self.timers.arm(Due::Task(id), bound.repeat_at);
                task.phase = Phase::Bound(Box::new(bound));
            } else {
                // The fence of a round that no disk saw may have been used: leave it out.
                task.custody.fence.attempt = task.custody.fence.attempt.saturating_add(1);
                task.tell(
                    now,
                    Actor::Origin(me),
                    EventKind::Resumed,
                    TaskState::Pending,
                    None,
                    None,
                    None,
                    String::new(),
                );
                self.ready.insert(task.rank());
                self.timers.arm(Due::Pump, now.mono);
            }
            let cancelled = task.custody.cancel.is_some();
            out.persist(task.take_records());
            self.tasks.insert(id, task);
            if cancelled {
                self.stop(now, id, out);
            }
        }
    }
}
