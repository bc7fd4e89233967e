//! The origin's part: takes tasks in, ranks and asks, binds one provider per fence, watches its lease, records the end.
//!
//! This file holds the queues and the clock work; `placing` asks, `running` follows bound runs, `planning` makes plans.

use super::action::{Action, PersistId};
use super::config::NegotiationConfig;
use super::directory::Directory;
use super::event::{Actor, EventKind, TaskState};
use super::input::Submission;
use super::message::{Attempt, Message};
use super::need::Wishes;
use super::outbox::Outbox;
use super::planning::Plan;
use super::record::{Record, RestoredTask, TaskRecord};
use super::task::{Bound, Phase, Task};
use super::timers::Timers;
use crate::custody::{CancelMark, CustodyRecord, EndMark, Quorum};
use crate::time::{Monotonic, Now};
use cpi::dictionary::Dictionary;
use cpi::ids::{ContentDigest, MemberId, PlanId, TaskId};
use cpi::reason::{Reason, ReasonCode};
use cpi::task::TaskSpec;
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// Rounds begun in one call at most; the rest follows at once by timer, so that messages are not kept waiting.
const ROUNDS_PER_CALL: usize = 64;
/// Waiting tasks that one piece of good news wakes.
const WOKEN_BY_DIGEST: usize = 64;

/// What is due at an origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Due {
    /// Look at the queue.
    Pump,
    /// Look at a task.
    Task(TaskId),
    /// Look at a plan.
    Plan(PlanId),
}

/// Counters for people and metrics.
#[derive(Debug, Clone, Default)]
pub struct OriginStats {
    /// Tasks taken in.
    pub submitted: u64,
    /// Bindings made.
    pub placed: u64,
    /// Of those, in other regions.
    pub placed_elsewhere: u64,
    /// Tasks that ended well.
    pub succeeded: u64,
    /// Tasks that ended otherwise, by reason.
    pub failed: BTreeMap<ReasonCode, u64>,
    /// Messages sent for placing.
    pub asks: u64,
    /// Runs that were lost.
    pub lost: u64,
    /// Tasks that wait now.
    pub waiting: usize,
    /// Tasks that ask now.
    pub placing: usize,
    /// Tasks that are not ended.
    pub open: usize,
}

/// The origin's side of one node.
pub struct Origin {
    pub(super) me: MemberId,
    pub(super) config: NegotiationConfig,
    pub(super) directory: Directory,
    pub(super) tasks: BTreeMap<TaskId, Task>,
    pub(super) ready: BTreeSet<(u8, TaskId)>,
    pub(super) waiting: BTreeSet<(u8, TaskId)>,
    pub(super) placing: usize,
    pub(super) plans: BTreeMap<PlanId, Plan>,
    pub(super) by_provider: BTreeMap<MemberId, BTreeSet<TaskId>>,
    pub(super) persists: VecDeque<(PersistId, TaskId)>,
    pub(super) timers: Timers<Due>,
    pub(super) rng: ChaCha8Rng,
    pub(super) hedges: u32,
    pub(super) stats: OriginStats,
}

impl Origin {
    /// An origin without tasks.
    pub fn new(me: MemberId, config: NegotiationConfig, dictionary: Arc<Dictionary>, rng: ChaCha8Rng) -> Self {
        Self {
            me,
            config,
            directory: Directory::new(dictionary),
            tasks: BTreeMap::new(),
            ready: BTreeSet::new(),
            waiting: BTreeSet::new(),
            placing: 0,
            plans: BTreeMap::new(),
            by_provider: BTreeMap::new(),
            persists: VecDeque::new(),
            timers: Timers::default(),
            rng,
            hedges: 200,
            stats: OriginStats::default(),
        }
    }

    /// When something is due.
    pub fn poll_timeout(&self) -> Option<Monotonic> {
        self.timers.next()
    }

    /// What it knows of the regions.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// The same, to change it.
    pub fn directory_mut(&mut self) -> &mut Directory {
        &mut self.directory
    }

    /// Its counters.
    pub fn stats(&self) -> OriginStats {
        OriginStats {
            waiting: self.waiting.len() + self.ready.len(),
            placing: self.placing,
            open: self.tasks.len(),
            ..self.stats.clone()
        }
    }

    /// Whether a task is unfinished here.
    pub fn has(&self, task: TaskId) -> bool {
        self.tasks.contains_key(&task)
    }

    /// Takes up unfinished tasks after a restart. Bound ones are said to be bound again; the others ask anew.
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
                promised: None,
            };
            let me = self.me;
            if let Some(binding) = task.custody.binding.clone() {
                let state = if state == TaskState::Placing { TaskState::Staging } else { state };
                let member = Some(binding.provider);
                task.tell(now, Actor::Origin(me), EventKind::Resumed, state, None, member, None, String::new());
                let bound = Bound {
                    provider: binding.provider,
                    fence: binding.fence,
                    taken: None,
                    acknowledged: false,
                    lease_until: now.mono.plus_ms(self.config.lease_ttl_ms),
                    started: state == TaskState::Running,
                    fetches_failed: 0,
                    repeat_at: now.mono,
                };
                self.by_provider.entry(binding.provider).or_default().insert(id);
                task.phase = Phase::Bound(Box::new(bound));
                self.timers.arm(Due::Task(id), now.mono);
            } else {
                // The fence of a round that no disk saw may have been used: leave it out.
                task.custody.fence.attempt += 1;
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

    /// Takes a task in.
    pub fn submit(&mut self, now: Now, submission: Submission, out: &mut Outbox) {
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
        let need_digest = submission.need.digest();
        let mut task = Task {
            need_digest,
            deadline_at: submission.deadline_ms.map(|ms| now.mono.plus_ms(ms)),
            custody: CustodyRecord::submitted(id, vec![self.me], self.me),
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
            Phase::Collecting(..) | Phase::Ending(_) => {
                out.persist(task.take_records());
            }
        }
    }

    /// Something is due.
    pub fn handle_timeout(&mut self, now: Now, out: &mut Outbox) {
        while let Some(due) = self.timers.pop_due(now.mono) {
            match due {
                Due::Pump => {}
                Due::Task(id) => self.task_due(now, id, out),
                Due::Plan(id) => self.plan_due(now, id, out),
            }
        }
        self.pump(now, out);
    }

    fn task_due(&mut self, now: Now, id: TaskId, out: &mut Outbox) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        if !task.expired && task.deadline_at.is_some_and(|at| at <= now.mono) {
            if matches!(task.phase, Phase::Collecting(..) | Phase::Ending(_)) {
                // The run ended in time: bringing its results here is not the task's time.
                task.deadline_at = None;
            } else {
                task.expired = true;
                self.stop(now, id, out);
                return;
            }
        }
        match &task.phase {
            Phase::Ready | Phase::Ending(_) | Phase::Binding(..) => self.rearm(id),
            Phase::Waiting => {
                let rank = task.rank();
                task.phase = Phase::Ready;
                self.waiting.remove(&rank);
                self.ready.insert(rank);
                self.rearm(id);
            }
            Phase::Placing(_) => self.round_due(now, id, out),
            Phase::Bound(_) | Phase::Collecting(..) => self.bound_due(now, id, out),
        }
    }

    /// Begins rounds while there is room for more.
    pub(super) fn pump(&mut self, now: Now, out: &mut Outbox) {
        for _ in 0..ROUNDS_PER_CALL {
            if self.placing >= self.config.placing_max {
                return;
            }
            let Some((_, id)) = self.ready.pop_first() else { return };
            self.begin_round(now, id, out);
        }
        if !self.ready.is_empty() {
            self.timers.arm(Due::Pump, now.mono);
        }
    }

    /// Capacity may have grown: waiting tasks look again.
    pub fn wake(&mut self, now: Now, out: &mut Outbox) {
        self.wake_some(WOKEN_BY_DIGEST);
        self.pump(now, out);
    }

    pub(super) fn wake_some(&mut self, count: usize) {
        for _ in 0..count {
            let Some(rank) = self.waiting.pop_first() else { return };
            if let Some(task) = self.tasks.get_mut(&rank.1) {
                task.phase = Phase::Ready;
                self.ready.insert(rank);
                self.rearm(rank.1);
            }
        }
    }

    /// A member is gone from the federation: its runs are lost.
    pub fn member_gone(&mut self, now: Now, member: MemberId, out: &mut Outbox) {
        self.directory.remove(member);
        let tasks = self.by_provider.get(&member).cloned().unwrap_or_default();
        for id in tasks {
            let why = Reason::new(ReasonCode::RunLost, format!("{member} left the federation"));
            self.lose(now, id, why, out);
        }
    }

    /// Records are on disk: bindings and ends take effect.
    pub fn persisted(&mut self, now: Now, up_to: PersistId, out: &mut Outbox) {
        while self.persists.front().is_some_and(|(id, _)| *id <= up_to) {
            let Some((_, id)) = self.persists.pop_front() else { return };
            self.synced(now, id, self.me, out);
        }
    }

    /// A custodian has the newest step of a task on disk.
    pub fn synced(&mut self, now: Now, id: TaskId, custodian: MemberId, out: &mut Outbox) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        let (quorum, ending) = match &mut task.phase {
            Phase::Binding(_, quorum) => (quorum, false),
            Phase::Ending(quorum) => (quorum, true),
            _ => return,
        };
        if !quorum.synced_by(custodian) {
            return;
        }
        if ending { self.forget(id) } else { self.take_effect(now, id, out) }
    }

    /// Ends a task for which no run's result counts.
    pub(super) fn end_without_run(&mut self, now: Now, id: TaskId, reason: Reason, out: &mut Outbox) {
        self.leave_phase(now, id, out);
        let Some(task) = self.tasks.get_mut(&id) else { return };
        let mark = EndMark {
            fence: None,
            digest: ContentDigest::of(reason.to_string().as_bytes()),
            reason: Some(reason.clone()),
            outcome: None,
            at: now.wall,
        };
        if task.custody.end(mark).is_err() {
            return;
        }
        let cancelled = reason.code == ReasonCode::Cancelled;
        let state = if cancelled { TaskState::Cancelled } else { TaskState::Failed };
        let me = self.me;
        task.tell(now, Actor::Origin(me), EventKind::Ended, state, Some(reason.clone()), None, None, String::new());
        *self.stats.failed.entry(reason.code).or_default() += 1;
        self.record_end(id, out);
    }

    /// Writes the end down; it takes effect once enough disks have it.
    pub(super) fn record_end(&mut self, id: TaskId, out: &mut Outbox) -> Option<PersistId> {
        let task = self.tasks.get_mut(&id)?;
        task.phase = Phase::Ending(Quorum::of(&task.custody.custodians));
        let persist = out.persist(task.take_records());
        self.persists.push_back((persist, id));
        self.timers.disarm(Due::Task(id));
        Some(persist)
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
            Phase::Ending(quorum) => task.phase = Phase::Ending(quorum),
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

    fn forget(&mut self, id: TaskId) {
        self.tasks.remove(&id);
        self.timers.disarm(Due::Task(id));
    }

    /// Lets a task wait with its reason until its next round.
    pub(super) fn wait(&mut self, now: Now, id: TaskId, reason: Reason, out: &mut Outbox) {
        let (least, most) = (self.config.backoff_ms_min, self.config.backoff_ms_max);
        let Some(task) = self.tasks.get_mut(&id) else { return };
        let rank = task.rank();
        task.phase = Phase::Waiting;
        self.waiting.insert(rank);
        let pause = task.backoff_ms.clamp(least, most);
        task.backoff_ms = (task.backoff_ms * 2).min(most);
        let jitter = self.rng.random_range(0..=pause / 2);
        let mut at = now.mono.plus_ms(pause / 2 + jitter + 1);
        if let Some(deadline) = task.deadline_at {
            at = at.min(deadline);
        }
        if task.shown == Some(reason.code) {
            // The same obstacle as before: nothing new to write, and the round's decision is on disk already.
            task.drop_unwritten();
            task.state = TaskState::Pending;
        } else {
            task.shown = Some(reason.code);
            let me = self.me;
            task.tell(
                now,
                Actor::Origin(me),
                EventKind::Waiting,
                TaskState::Pending,
                Some(reason),
                None,
                None,
                String::new(),
            );
            out.persist(task.take_records());
        }
        self.timers.arm(Due::Task(id), at);
    }

    /// Arms a task's timer for the earliest thing that its phase waits for.
    pub(super) fn rearm(&mut self, id: TaskId) {
        let Some(task) = self.tasks.get(&id) else { return };
        let mut at = if task.expired { None } else { task.deadline_at };
        let mut sooner = |t: Monotonic| at = Some(at.map_or(t, |a| a.min(t)));
        match &task.phase {
            Phase::Bound(bound) => {
                sooner(bound.lease_until);
                if !bound.acknowledged || task.custody.cancel.is_some() || task.expired {
                    sooner(bound.repeat_at);
                }
            }
            Phase::Collecting(bound, _) => sooner(bound.repeat_at),
            _ => {}
        }
        match at {
            Some(at) => self.timers.arm(Due::Task(id), at),
            None => self.timers.disarm(Due::Task(id)),
        }
    }
}
