//! The origin's part: takes tasks in, ranks and asks, binds one provider per fence, watches its lease, records the end.
//!
//! This file holds the queues and the clock work. `intake` and `ending` are a task's two ends; `placing` asks, `offers`
//! compares, `binding` binds, `running` follows bound runs; `planning` makes plans.

use super::config::NegotiationConfig;
use super::directory::Directory;
use super::event::{Actor, EventKind, TaskState};
use super::judge::judge;
use super::message::Message;
use super::outbox::Outbox;
use super::placing::question;
use super::planning::Plan;
use super::spread::Spreader;
use super::task::{Phase, Task};
use super::timers::Timers;
use crate::time::{Monotonic, Now};
use cpi::dictionary::Dictionary;
use cpi::ids::{MemberId, PlanId, TaskId};
use cpi::reason::{Reason, ReasonCode};
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Rounds begun in one call at most; the rest follows at once by timer, so that messages are not kept waiting.
const ROUNDS_PER_CALL: usize = 64;
/// Waiting tasks that are looked at when a region has good news.
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
    pub(super) timers: Timers<Due>,
    pub(super) rng: ChaCha8Rng,
    pub(super) spreader: Spreader,
    pub(super) hedges: u32,
    pub(super) stats: OriginStats,
}

impl Origin {
    /// An origin without tasks.
    pub fn new(me: MemberId, config: NegotiationConfig, dictionary: Arc<Dictionary>, rng: ChaCha8Rng) -> Self {
        Self {
            me,
            config,
            directory: Directory::new(me, dictionary),
            tasks: BTreeMap::new(),
            ready: BTreeSet::new(),
            waiting: BTreeSet::new(),
            placing: 0,
            plans: BTreeMap::new(),
            by_provider: BTreeMap::new(),
            timers: Timers::default(),
            rng,
            spreader: Spreader::default(),
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
            if matches!(task.phase, Phase::Collecting(..) | Phase::Ending(..)) {
                // The run ended in time: bringing its results here is not the task's time.
                task.deadline_at = None;
            } else {
                task.expired = true;
                self.stop(now, id, out);
                return;
            }
        }
        match &task.phase {
            Phase::Ready | Phase::Ending(..) | Phase::Binding(..) => self.rearm(id),
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

    /// A region may have more to give, or can be asked again: of the first waiting tasks those look again that it could
    /// take now, as many as it has room for. The others would only find the same obstacles.
    pub fn wake(&mut self, now: Now, member: MemberId, out: &mut Outbox) {
        let Some(region) = self.directory.get(member) else { return };
        let mut woken: Vec<(u8, TaskId)> = Vec::new();
        let mut room = u32::MAX;
        for rank in self.waiting.iter().take(WOKEN_BY_DIGEST) {
            let Some(task) = self.tasks.get(&rank.1) else { continue };
            let question = question(&self.directory, &self.config, self.me, task, now, false);
            let Ok(fit) = judge(&question, member, region) else { continue };
            room = room.min(fit.slots.max(1));
            woken.push(*rank);
            if woken.len() as u32 >= room {
                break;
            }
        }
        for rank in woken {
            self.waiting.remove(&rank);
            self.make_ready(rank);
        }
        self.pump(now, out);
    }

    fn make_ready(&mut self, rank: (u8, TaskId)) {
        if let Some(task) = self.tasks.get_mut(&rank.1) {
            task.phase = Phase::Ready;
            self.ready.insert(rank);
            self.rearm(rank.1);
        }
    }

    pub(super) fn wake_some(&mut self, count: usize) {
        for _ in 0..count {
            let Some(rank) = self.waiting.pop_first() else { return };
            self.make_ready(rank);
        }
    }

    /// A member is gone from the federation: its runs are lost.
    pub fn member_gone(&mut self, now: Now, member: MemberId, out: &mut Outbox) {
        self.directory.remove(member);
        self.spreader.forget(member);
        let tasks = self.by_provider.get(&member).cloned().unwrap_or_default();
        for id in tasks {
            let why = Reason::new(ReasonCode::RunLost, format!("{member} left the federation"));
            self.lose(now, id, why, out);
        }
    }

    /// Enough custodians have this revision of a task on disk: bindings and ends take effect.
    pub fn counted(&mut self, now: Now, id: TaskId, revision: u64, out: &mut Outbox) {
        match self.tasks.get(&id).map(|task| &task.phase) {
            Some(Phase::Binding(_, wanted)) if *wanted <= revision => self.take_effect(now, id, out),
            Some(Phase::Ending(wanted, _)) if *wanted <= revision => self.close(now, id, out),
            _ => {}
        }
    }

    /// The custodians of a held task change.
    pub fn reseat(&mut self, id: TaskId, custodians: Vec<MemberId>, former: Option<Vec<MemberId>>, out: &mut Outbox) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        task.custody.custodians = custodians;
        task.custody.former = former;
        out.persist(task.take_records());
        if let Phase::Bound(bound) = &task.phase {
            out.send(bound.provider, Message::Adopt(task.adoption(bound.fence)));
        }
    }

    /// Lets a task wait with its reason until its next round.
    /// `again_in_ms` is when regions think that asking again helps.
    pub(super) fn wait(&mut self, now: Now, id: TaskId, reason: Reason, again_in_ms: Option<u64>, out: &mut Outbox) {
        let (least, most) = (self.config.backoff_ms_min, self.config.backoff_ms_max);
        let Some(task) = self.tasks.get_mut(&id) else { return };
        let rank = task.rank();
        task.phase = Phase::Waiting;
        self.waiting.insert(rank);
        let pause = task.backoff_ms.max(again_in_ms.unwrap_or(0)).clamp(least, most);
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
