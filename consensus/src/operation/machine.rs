//! The machine: all open operations of a node.

use super::record::{OperationPhase, OperationRecord, Sight, SightState, Verb};
use crate::time::{Monotonic, Now};
use cpi::ids::TaskId;
use cpi::reason::{Reason, ReasonCode};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Released resources that are remembered, so that one that shows up again is released again.
const RELEASED_KEPT: usize = 10_000;
/// Looks that show no change after which a call is made again.
const LOOKS_BEFORE_RECALL: u32 = 3;

/// Names a call or a look; the newest of an operation is the only one whose answer counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct QuestionId(pub u64);

/// How patient the machine is.
#[derive(Debug, Clone)]
pub struct OperationConfig {
    /// The first wait before a look or another call, in ms; it doubles.
    pub wait_ms_min: u64,
    /// The longest wait, in ms.
    pub wait_ms_max: u64,
    /// When a call or a look without an answer is lost, in ms. Longer than any call can take effect after it was made.
    pub lost_ms: u64,
    /// When an operation that is not over fails, in ms; a release never does.
    pub limit_ms: u64,
    /// Operations that are not over, at most.
    pub open_max: usize,
}

impl Default for OperationConfig {
    fn default() -> Self {
        Self { wait_ms_min: 500, wait_ms_max: 30_000, lost_ms: 60_000, limit_ms: 3_600_000, open_max: 10_000 }
    }
}

/// What comes in.
#[derive(Debug, Clone)]
pub enum Input {
    /// A new operation; `phase`, `calls`, `sight`, `begun`, `ended` and `revision` are set by the machine.
    Begin(Box<OperationRecord>),
    /// The newest record of this operation and revision is on disk.
    Persisted(TaskId, u32),
    /// The answer to a call: what the resource looks like now, or a refusal and whether asking again may help.
    Called(TaskId, QuestionId, Result<Sight, (bool, Reason)>),
    /// The answer to a look: `None` where no resource has the tag.
    Looked(TaskId, QuestionId, Result<Option<Sight>, (bool, Reason)>),
    /// The platform says by itself that a resource changed.
    Hint(TaskId),
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Write the record, then say so.
    Persist(Box<OperationRecord>),
    /// Tell the backend what is wanted.
    Call(Box<OperationRecord>, QuestionId),
    /// Ask the backend for the resource.
    Look(Box<OperationRecord>, QuestionId),
    /// Tell those who want to know; the record is on disk.
    Tell(Box<OperationRecord>),
    /// A new operation is not taken.
    Refuse(TaskId, Reason),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Behind another operation of its resource, or not on disk yet.
    Queued,
    Calling(QuestionId),
    Looking(QuestionId),
    /// Until its timer, which makes a look or a call.
    Resting {
        call: bool,
    },
    /// Its end is being written.
    Ending,
}

struct Op {
    record: OperationRecord,
    step: Step,
    on_disk: bool,
    wait_ms: u64,
    looks: u32,
    until: Monotonic,
    refusal: Option<Reason>,
    /// Taken up again after a restart: what a call did is looked up first.
    restored: bool,
}

/// All open operations.
pub struct Operations {
    config: OperationConfig,
    ops: BTreeMap<TaskId, Op>,
    /// Open operations of each resource, in the order of their beginning.
    queues: BTreeMap<TaskId, VecDeque<TaskId>>,
    /// The release of resources that are gone, oldest first.
    released: BTreeMap<TaskId, OperationRecord>,
    released_order: VecDeque<TaskId>,
    due: BTreeSet<(Monotonic, TaskId)>,
    out: VecDeque<Action>,
    questions: u64,
}

impl Operations {
    /// A machine without operations. `seed` makes question ids differ from those of an earlier process.
    pub fn new(config: OperationConfig, seed: u64) -> Self {
        Self {
            config,
            ops: BTreeMap::new(),
            queues: BTreeMap::new(),
            released: BTreeMap::new(),
            released_order: VecDeque::new(),
            due: BTreeSet::new(),
            out: VecDeque::new(),
            questions: seed,
        }
    }

    /// Takes up what an earlier process left on disk, in the order of the ids.
    pub fn restore(&mut self, now: Now, records: Vec<OperationRecord>) {
        for record in records {
            if record.phase.is_over() {
                if record.verb == Verb::Release && record.phase == OperationPhase::Done {
                    self.remember_released(record);
                }
                continue;
            }
            self.queues.entry(record.resource).or_default().push_back(record.id);
            let op = self.op(now, record, true);
            self.ops.insert(op.record.id, op);
        }
        let heads: Vec<TaskId> = self.queues.values().filter_map(|queue| queue.front().copied()).collect();
        for head in heads {
            self.advance(now, head);
        }
    }

    fn op(&self, now: Now, record: OperationRecord, restored: bool) -> Op {
        Op {
            record,
            step: Step::Queued,
            on_disk: restored,
            wait_ms: self.config.wait_ms_min,
            looks: 0,
            until: now.mono.plus_ms(self.config.limit_ms),
            refusal: None,
            restored,
        }
    }

    /// Operations that are not over.
    pub fn open(&self) -> impl Iterator<Item = &OperationRecord> {
        self.ops.values().map(|op| &op.record)
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.out.pop_front()
    }

    /// When something is due.
    pub fn poll_timeout(&self) -> Option<Monotonic> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Something came in.
    pub fn handle(&mut self, now: Now, input: Input) {
        match input {
            Input::Begin(record) => self.begin(now, *record),
            Input::Persisted(id, revision) => self.persisted(now, id, revision),
            Input::Called(id, question, answer) => {
                let Some(op) = self.ops.get_mut(&id).filter(|op| op.step == Step::Calling(question)) else { return };
                match answer {
                    Ok(sight) => self.judge(now, id, Some(sight)),
                    Err((false, reason)) if op.record.verb == Verb::Release && reason.code == ReasonCode::RunLost => {
                        self.end(now, id, OperationPhase::Done);
                    }
                    Err((false, reason)) => self.end(now, id, OperationPhase::Failed(reason)),
                    Err((true, reason)) => {
                        op.refusal = Some(reason);
                        // what was refused may have been done all the same
                        let call = op.record.verb != Verb::Provision;
                        self.rest(now, id, call);
                    }
                }
            }
            Input::Looked(id, question, answer) => {
                let Some(op) = self.ops.get_mut(&id).filter(|op| op.step == Step::Looking(question)) else { return };
                match answer {
                    Ok(sight) => self.judge(now, id, sight),
                    Err((false, reason)) => self.end(now, id, OperationPhase::Failed(reason)),
                    Err((true, reason)) => {
                        op.refusal = Some(reason);
                        self.rest(now, id, false);
                    }
                }
            }
            Input::Hint(resource) => self.hint(now, resource),
        }
    }

    /// Something is due.
    pub fn handle_timeout(&mut self, now: Now) {
        while let Some(&(at, id)) = self.due.first().filter(|(at, _)| *at <= now.mono) {
            self.due.remove(&(at, id));
            let Some(op) = self.ops.get(&id) else { continue };
            match op.step {
                Step::Resting { call: true } => self.call(now, id),
                // lost: what it did is looked up before it is made again
                Step::Resting { call: false } | Step::Calling(_) | Step::Looking(_) => self.look(now, id),
                Step::Queued | Step::Ending => {}
            }
        }
    }

    fn begin(&mut self, now: Now, mut record: OperationRecord) {
        let refuse = |why: &str| Action::Refuse(record.id, Reason::new(ReasonCode::Busy, why));
        if self.ops.contains_key(&record.id) {
            return;
        }
        if self.ops.len() >= self.config.open_max {
            let refusal = refuse("the node has its most open operations");
            self.out.push_back(refusal);
            return;
        }
        let behind = self.queues.get(&record.resource).is_some_and(|queue| !queue.is_empty());
        record.phase = if behind { OperationPhase::Waiting } else { OperationPhase::Working };
        (record.calls, record.sight, record.begun, record.ended, record.revision) = (0, None, now.wall, None, 1);
        self.queues.entry(record.resource).or_default().push_back(record.id);
        self.out.push_back(Action::Persist(Box::new(record.clone())));
        let op = self.op(now, record, false);
        self.ops.insert(op.record.id, op);
    }

    fn persisted(&mut self, now: Now, id: TaskId, revision: u32) {
        let Some(op) = self.ops.get_mut(&id).filter(|op| op.record.revision == revision) else { return };
        self.out.push_back(Action::Tell(Box::new(op.record.clone())));
        match op.step {
            Step::Queued => {
                op.on_disk = true;
                if self.queues.get(&op.record.resource).and_then(VecDeque::front) == Some(&id) {
                    self.advance(now, id);
                }
            }
            Step::Ending => self.over(id),
            Step::Calling(_) | Step::Looking(_) | Step::Resting { .. } => {}
        }
    }

    /// The first of its resource's operations begins, once it is on disk.
    fn advance(&mut self, now: Now, id: TaskId) {
        let Some(op) = self.ops.get_mut(&id).filter(|op| op.on_disk && op.step == Step::Queued) else { return };
        op.record.phase = OperationPhase::Working;
        op.until = now.mono.plus_ms(self.config.limit_ms);
        if op.restored && op.record.verb == Verb::Provision {
            self.look(now, id);
        } else {
            self.call(now, id);
        }
    }

    fn question(&mut self) -> QuestionId {
        self.questions = self.questions.wrapping_add(1);
        QuestionId(self.questions)
    }

    fn call(&mut self, now: Now, id: TaskId) {
        if self.is_too_late(now, id) {
            return;
        }
        let question = self.question();
        let Some(op) = self.ops.get_mut(&id) else { return };
        (op.step, op.looks) = (Step::Calling(question), 0);
        op.record.calls = op.record.calls.saturating_add(1);
        self.out.push_back(Action::Call(Box::new(op.record.clone()), question));
        self.arm(id, now.mono.plus_ms(self.config.lost_ms));
    }

    fn look(&mut self, now: Now, id: TaskId) {
        if self.is_too_late(now, id) {
            return;
        }
        let question = self.question();
        let Some(op) = self.ops.get_mut(&id) else { return };
        op.step = Step::Looking(question);
        self.out.push_back(Action::Look(Box::new(op.record.clone()), question));
        self.arm(id, now.mono.plus_ms(self.config.lost_ms));
    }

    fn rest(&mut self, now: Now, id: TaskId, call: bool) {
        let Some(op) = self.ops.get_mut(&id) else { return };
        op.step = Step::Resting { call };
        let at = now.mono.plus_ms(op.wait_ms);
        op.wait_ms = (op.wait_ms * 2).min(self.config.wait_ms_max);
        self.arm(id, at);
    }

    fn arm(&mut self, id: TaskId, at: Monotonic) {
        self.due.retain(|(_, other)| *other != id);
        self.due.insert((at, id));
    }

    /// Fails an operation whose time is over. A release has no end but its own.
    fn is_too_late(&mut self, now: Now, id: TaskId) -> bool {
        let Some(op) = self.ops.get(&id) else { return true };
        if op.record.verb == Verb::Release || now.mono < op.until {
            return false;
        }
        let silent = || Reason::new(ReasonCode::AdapterDown, "the platform did not say in time that it is done");
        let reason = op.refusal.clone().unwrap_or_else(silent);
        self.end(now, id, OperationPhase::Failed(reason));
        true
    }

    /// Whether what was seen is what is wanted.
    fn judge(&mut self, now: Now, id: TaskId, sight: Option<Sight>) {
        let Some(op) = self.ops.get_mut(&id) else { return };
        let verb = op.record.verb;
        let Some(sight) = sight else {
            let lost = || Reason::new(ReasonCode::RunLost, "no machine has this tag");
            return match verb {
                Verb::Release => self.end(now, id, OperationPhase::Done),
                Verb::Provision => self.call(now, id),
                _ => self.end(now, id, OperationPhase::Failed(lost())),
            };
        };
        op.record.sight = Some(sight.clone());
        let gone = || Reason::new(ReasonCode::RunLost, "the machine was deleted");
        let reached = match (verb, &sight.state) {
            (Verb::Release, SightState::Released) => true,
            (Verb::Release, SightState::Failed(_)) | (_, SightState::Pending) => false,
            (_, SightState::Released) => return self.end(now, id, OperationPhase::Failed(gone())),
            (_, SightState::Failed(reason)) => {
                let reason = reason.clone();
                return self.end(now, id, OperationPhase::Failed(reason));
            }
            (Verb::Provision, SightState::Ready | SightState::Stopped) => true,
            (Verb::Start | Verb::Restart, state) => *state == SightState::Ready,
            (Verb::Stop, state) => *state == SightState::Stopped,
            (Verb::Modify(need), _) => sight.has == need,
            (Verb::Release, _) => false,
        };
        if reached {
            return self.end(now, id, OperationPhase::Done);
        }
        op.looks += 1;
        // a call that changed nothing was lost on its way, or undone
        let call = op.looks >= LOOKS_BEFORE_RECALL && sight.state != SightState::Pending;
        self.rest(now, id, call);
    }

    fn end(&mut self, now: Now, id: TaskId, phase: OperationPhase) {
        let Some(op) = self.ops.get_mut(&id) else { return };
        op.step = Step::Ending;
        op.record.phase = phase;
        op.record.ended = Some(now.wall);
        op.record.revision = op.record.revision.saturating_add(1);
        self.out.push_back(Action::Persist(Box::new(op.record.clone())));
        self.due.retain(|(_, other)| *other != id);
    }

    /// Its end is on disk: the next one of its resource begins.
    fn over(&mut self, id: TaskId) {
        let Some(op) = self.ops.remove(&id) else { return };
        let resource = op.record.resource;
        let next = self.queues.get_mut(&resource).and_then(|queue| {
            queue.retain(|other| *other != id);
            queue.front().copied()
        });
        if op.record.verb == Verb::Release && op.record.phase == OperationPhase::Done {
            self.remember_released(op.record);
        }
        match next {
            Some(next) => self.work(next),
            None => drop(self.queues.remove(&resource)),
        }
    }

    /// The next one is at work: that is written before it is told, its call needs no new write.
    fn work(&mut self, id: TaskId) {
        let Some(op) = self.ops.get_mut(&id) else { return };
        op.record.phase = OperationPhase::Working;
        op.record.revision = op.record.revision.saturating_add(1);
        op.on_disk = false;
        self.out.push_back(Action::Persist(Box::new(op.record.clone())));
    }

    fn remember_released(&mut self, record: OperationRecord) {
        let resource = record.resource;
        if self.released.insert(resource, record).is_none() {
            self.released_order.push_back(resource);
        }
        if self.released_order.len() > RELEASED_KEPT
            && let Some(oldest) = self.released_order.pop_front()
        {
            self.released.remove(&oldest);
        }
    }

    fn hint(&mut self, now: Now, resource: TaskId) {
        let head = self.queues.get(&resource).and_then(VecDeque::front).copied();
        if let Some(id) = head {
            // one that waits for its next call goes on waiting: frequent hints would put the call off for ever
            if self.ops.get(&id).is_some_and(|op| op.step == (Step::Resting { call: false })) {
                self.look(now, id);
            }
            return;
        }
        // one that was released and is heard of: if it is there again, it is released again
        if let Some(mut record) = self.released.remove(&resource) {
            self.released_order.retain(|other| *other != resource);
            record.phase = OperationPhase::Working;
            record.ended = None;
            self.queues.entry(resource).or_default().push_back(record.id);
            let op = self.op(now, record, true);
            let id = op.record.id;
            self.ops.insert(id, op);
            self.look(now, id);
        }
    }
}
