//! One node's part in keeping tasks: the door of the machine. `hold`, `follow` and `claim` have its three parts.

use super::action::{Action, Found, Input};
use super::config::CustodyConfig;
use super::kept::{Following, Kept, Peer, Role};
use super::message::Message;
use super::ring::{self, Seat};
use crate::negotiation::timers::Timers;
use crate::negotiation::{PersistId, Record, RestoredTask};
use crate::time::{Monotonic, Now};
use cpi::ids::{Epoch, MemberId, TaskId};
use cpi::task::Durability;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Tasks whose messages wait for the disk at once; beyond, messages are dropped and come again.
const PARKED_MAX: usize = 4_096;
/// Messages that wait for one task's rows.
const PARKED_EACH_MAX: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Due {
    /// Signs of life, and who is silent.
    Scan,
    /// A submission is answered without a second disk.
    Answer(TaskId),
    /// Something of a task is to be repeated.
    Task(TaskId),
}

/// What takes effect once it is on disk.
#[derive(Debug, Clone, Copy)]
pub(super) enum Effect {
    /// An adopted state.
    Own(TaskId, u64),
    /// The claimant's promise to itself.
    Promised(TaskId, Epoch),
    /// Nothing more will happen here.
    Closed(TaskId),
}

/// Counters for people and metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CustodyStats {
    /// Tasks in memory that this node decides for.
    pub held: usize,
    /// Tasks in memory that another decides for.
    pub followed: usize,
    /// Claims under way or waiting.
    pub claiming: usize,
    /// Tasks adopted from others, and taken back, so far.
    pub adopted: u64,
    /// Tasks handed to others, or lost to them, so far.
    pub superseded: u64,
    /// Tasks of others that found no room here.
    pub turned_away: u64,
    /// Sets of custodians changed.
    pub reseated: u64,
}

/// One node's part in keeping tasks. Holds no clock, socket, disk or global randomness.
///
/// Call `handle` or `handle_timeout`, then drain `poll_action`, then arm `poll_timeout`. Drivers keep three promises:
/// records of a [`Action::Persist`] and of a step are on disk before [`Input::Persisted`] and [`Input::Stored`] are told;
/// an [`Action::Send`] waits for its persist; [`Action::Load`] reads what was last written, synced or not.
pub struct Custodian {
    pub(super) me: MemberId,
    pub(super) boot: u64,
    pub(super) config: CustodyConfig,
    pub(super) tasks: BTreeMap<TaskId, Kept>,
    pub(super) members: BTreeMap<MemberId, Seat>,
    pub(super) peers: BTreeMap<MemberId, Peer>,
    /// Tasks to be claimed, and how many are being claimed.
    pub(super) queue: BTreeSet<TaskId>,
    pub(super) claiming: usize,
    /// Tasks held here whose origin is another.
    pub(super) adopted: BTreeSet<TaskId>,
    parked: BTreeMap<TaskId, Vec<(MemberId, Message)>>,
    /// First states of tasks from others than their origins, until another custodian vouches for them.
    pub(super) unvouched: BTreeMap<TaskId, (MemberId, super::message::Write)>,
    effects: VecDeque<(PersistId, Effect)>,
    pub(super) timers: Timers<Due>,
    out: VecDeque<Action>,
    last: PersistId,
    pub(super) stats: CustodyStats,
}

impl Custodian {
    /// A custodian without tasks. `seed` differs with every start of the node: it tells one life from another.
    pub fn new(me: MemberId, config: CustodyConfig, seed: u64) -> Self {
        Self {
            me,
            boot: seed,
            config,
            tasks: BTreeMap::new(),
            members: BTreeMap::new(),
            peers: BTreeMap::new(),
            queue: BTreeSet::new(),
            claiming: 0,
            adopted: BTreeSet::new(),
            parked: BTreeMap::new(),
            unvouched: BTreeMap::new(),
            effects: VecDeque::new(),
            timers: Timers::default(),
            out: VecDeque::new(),
            last: PersistId(0),
            stats: CustodyStats::default(),
        }
    }

    /// Takes up the tasks that are not closed, as found on disk, before anything else comes in. Those that this node
    /// held are claimed anew under a higher epoch; the others are followed.
    pub fn restore(&mut self, now: Now, tasks: Vec<RestoredTask>) {
        for RestoredTask { record, custody, .. } in tasks {
            let id = custody.task;
            if custody.closed || !custody.is_seated(self.me) {
                continue;
            }
            let holder = custody.holder();
            if holder == self.me || custody.custodians.len() < ring::CUSTODIANS {
                self.queue.insert(id);
            }
            self.insert(now, Some(Box::new(record)), custody, holder, None);
        }
        self.begin_claims(now);
    }

    /// Who shall keep a task of this origin: three, or this node alone where that is wished or no others can be had.
    pub fn choose(&self, residency: &[String], wished: Option<Durability>) -> Vec<MemberId> {
        let others = || ring::complete(self.me, vec![self.me], &[], residency, &self.members);
        let quorum = wished.unwrap_or(self.config.durability) == Durability::Quorum;
        quorum.then(others).flatten().unwrap_or_else(|| vec![self.me])
    }

    /// Something happened.
    pub fn handle(&mut self, now: Now, input: Input) {
        match input {
            Input::Step { record, task, events } => self.step(now, *record, task, events),
            Input::Stored { task, revision } => self.stored(now, task, revision),
            Input::Persisted { up_to } => self.persisted(now, up_to),
            Input::Message { from, message } => self.message(now, from, message),
            Input::Loaded { task, found } => self.loaded(now, task, found),
            Input::Member { member, city, country, active } => {
                let seat = self.members.entry(member).or_default();
                (seat.city, seat.country, seat.active) = (city, country, active);
            }
            Input::Gone(member) => {
                self.members.remove(&member);
            }
            Input::Reachable { member, reachable } => {
                if let Some(seat) = self.members.get_mut(&member) {
                    seat.reachable = reachable;
                }
            }
            Input::Cancel { task, principal } => self.wish(task, principal),
        }
    }

    /// The moment of [`Self::poll_timeout`] came. A spurious call is harmless.
    pub fn handle_timeout(&mut self, now: Now) {
        while let Some(due) = self.timers.pop_due(now.mono) {
            match due {
                Due::Scan => self.scan(now),
                Due::Answer(task) => self.answer(task),
                Due::Task(task) => self.task_due(now, task),
            }
        }
    }

    /// The next thing to do.
    #[must_use]
    pub fn poll_action(&mut self) -> Option<Action> {
        self.out.pop_front()
    }

    /// When to call [`Self::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Monotonic> {
        self.timers.next()
    }

    /// Counters.
    pub fn stats(&self) -> CustodyStats {
        let held = self.tasks.values().filter(|k| matches!(k.role, Role::Holding(_))).count();
        let claiming = self.claiming + self.queue.len();
        CustodyStats { held, claiming, followed: self.tasks.len().saturating_sub(held + self.claiming), ..self.stats }
    }

    /// Whether this node decides for a task and most custodians know.
    pub fn is_holding(&self, task: TaskId) -> bool {
        matches!(self.tasks.get(&task), Some(Kept { role: Role::Holding(h), .. }) if h.working)
    }

    /// Who decides for a task that is kept here, as far as known.
    pub fn holder(&self, task: TaskId) -> Option<MemberId> {
        self.tasks.get(&task).map(|kept| kept.record.holder())
    }

    /// The newest state of a task in memory, perhaps ahead of the disk.
    pub fn record(&self, task: TaskId) -> Option<&super::CustodyRecord> {
        self.tasks.get(&task).map(|kept| &kept.record)
    }

    // ---- parts shared by the three roles

    pub(super) fn act(&mut self, action: Action) {
        self.out.push_back(action);
    }

    pub(super) fn persist(&mut self, records: Vec<Record>, effect: Option<Effect>) -> PersistId {
        self.last.0 += 1;
        self.out.push_back(Action::Persist { id: self.last, records });
        if let Some(effect) = effect {
            self.effects.push_back((self.last, effect));
        }
        self.last
    }

    pub(super) fn send(&mut self, to: MemberId, message: Message, after: Option<PersistId>) {
        self.out.push_back(Action::Send { to, message, after });
    }

    /// Arms a task's timer, unless it is due sooner.
    pub(super) fn arm(&mut self, id: TaskId, at: Monotonic) {
        let Some(kept) = self.tasks.get_mut(&id) else { return };
        if kept.due.is_none_or(|due| at < due) {
            kept.due = Some(at);
            self.timers.arm(Due::Task(id), at);
        }
    }

    /// Puts a task in memory that another decides for.
    pub(super) fn insert(
        &mut self,
        now: Now,
        task: Option<Box<crate::negotiation::TaskRecord>>,
        record: super::CustodyRecord,
        holder: MemberId,
        boot: Option<u64>,
    ) {
        let id = record.task;
        let role = Role::Following(Following { holder, boot, since: now.mono });
        let kept = Kept { task, record, events: VecDeque::new(), role, persist: None, due: None, wished: None };
        self.share(now, &kept.record, true);
        self.peers.entry(holder).or_default().followed.insert(id);
        self.tasks.insert(id, kept);
    }

    /// Counts a task for all who keep it, or no longer.
    pub(super) fn share(&mut self, now: Now, record: &super::CustodyRecord, more: bool) {
        for member in record.seats().filter(|m| *m != self.me) {
            let peer = self.peers.entry(member).or_default();
            if more {
                if peer.shared == 0 {
                    self.timers.arm_once(Due::Scan, now.mono.plus_ms(self.config.beat_every_ms.max(1)));
                    peer.heard_at = peer.heard_at.max(now.mono);
                }
                peer.shared += 1;
            } else {
                peer.shared = peer.shared.saturating_sub(1);
            }
        }
    }

    /// Gives a task another role, and tells the node's origin part if it loses the task by that.
    pub(super) fn turn(&mut self, id: TaskId, role: Role) {
        let Some(kept) = self.tasks.get_mut(&id) else { return };
        let before = std::mem::replace(&mut kept.role, role);
        let by = kept.record.holder();
        let follows = matches!(kept.role, Role::Following(_));
        let wished = if follows && by != self.me { kept.wished.take() } else { None };
        let cancel = kept.record.cancel.clone();
        kept.due = None;
        match &kept.role {
            Role::Following(following) => {
                self.peers.entry(following.holder).or_default().followed.insert(id);
            }
            Role::Claiming(_) => self.claiming += 1,
            Role::Holding(_) if kept.record.origin != self.me => {
                self.adopted.insert(id);
            }
            Role::Holding(_) => {}
        }
        let holder = match &kept.role {
            Role::Following(following) => Some(following.holder),
            _ => None,
        };
        self.timers.disarm(Due::Task(id));
        if let Some(principal) = wished {
            self.send(by, Message::Cancel { task: id, principal }, None);
        }
        match before {
            Role::Following(following) if Some(following.holder) != holder => {
                if let Some(peer) = self.peers.get_mut(&following.holder) {
                    peer.followed.remove(&id);
                }
            }
            Role::Following(_) => {}
            Role::Claiming(_) => self.claiming = self.claiming.saturating_sub(1),
            Role::Holding(held) => {
                self.adopted.remove(&id);
                self.timers.disarm(Due::Answer(id));
                if held.working {
                    self.stats.superseded += 1;
                    self.act(Action::Superseded { task: id, by });
                    if let Some(cancel) = cancel.filter(|_| by != self.me) {
                        // The wish may not have counted: it is said again to whom it concerns now.
                        self.send(by, Message::Cancel { task: id, principal: cancel.principal }, None);
                    }
                }
            }
        }
    }

    /// Forgets a task; its rows stay on disk.
    pub(super) fn forget(&mut self, now: Now, id: TaskId) {
        let Some(kept) = self.tasks.get(&id) else { return };
        let (record, holder) = (kept.record.clone(), kept.record.holder());
        // A role that needs no timers and no index: leaving the old one cleans up after it.
        self.turn(id, Role::Following(Following { holder, boot: None, since: now.mono }));
        self.share(now, &record, false);
        if let Some(peer) = self.peers.get_mut(&holder) {
            peer.followed.remove(&id);
        }
        self.timers.disarm(Due::Answer(id));
        self.queue.remove(&id);
        self.tasks.remove(&id);
    }

    fn persisted(&mut self, now: Now, up_to: PersistId) {
        while self.effects.front().is_some_and(|(id, _)| *id <= up_to) {
            match self.effects.pop_front() {
                Some((_, Effect::Own(task, revision))) => self.stored(now, task, revision),
                Some((_, Effect::Promised(task, epoch))) => self.promised_to_self(now, task, epoch),
                Some((_, Effect::Closed(task))) => self.forget(now, task),
                None => return,
            }
        }
    }

    fn message(&mut self, now: Now, from: MemberId, message: Message) {
        let boot = match &message {
            Message::Beat { boot } => Some(*boot),
            Message::Write(write) => Some(write.boot),
            Message::Claim(claim) => Some(claim.boot),
            _ => None,
        };
        self.heard(now, from, boot);
        let Some(id) = message.task() else { return };
        if self.tasks.contains_key(&id) {
            self.about(now, from, message);
            return;
        }
        match message {
            Message::Write(_) | Message::Claim(_) | Message::Enquire { .. } | Message::Vouch { .. } => {}
            Message::Vouched { task, epoch } => return self.vouched(now, from, task, epoch),
            _ => return,
        }
        let known = self.parked.len();
        match self.parked.get_mut(&id) {
            Some(parked) if parked.len() < PARKED_EACH_MAX => parked.push((from, message)),
            Some(_) => {}
            None if known < PARKED_MAX => {
                self.parked.insert(id, vec![(from, message)]);
                self.act(Action::Load { task: id });
            }
            None => {}
        }
    }

    /// What the disk has of a task that messages ask about.
    fn loaded(&mut self, now: Now, id: TaskId, found: Option<Found>) {
        let parked = self.parked.remove(&id).unwrap_or_default();
        for (from, message) in parked {
            if self.tasks.contains_key(&id) {
                self.about(now, from, message);
                continue;
            }
            let found = match &found {
                Some(Found::Gone(custody)) => {
                    self.about_closed(from, &message, custody);
                    continue;
                }
                Some(Found::Task(found)) => Some(found),
                None => None,
            };
            match found {
                Some(found) if !found.custody.closed && self.is_seated_anew(&message, &found.custody) => {
                    self.about_new(now, from, message);
                }
                Some(found) if found.custody.closed || !found.custody.is_seated(self.me) => {
                    self.about_closed(from, &message, &found.custody);
                }
                Some(found) => {
                    let holder = found.custody.holder();
                    self.insert(now, Some(Box::new(found.record.clone())), found.custody.clone(), holder, None);
                    self.about(now, from, message);
                }
                None => self.about_new(now, from, message),
            }
        }
    }

    /// A message about a task in memory.
    fn about(&mut self, now: Now, from: MemberId, message: Message) {
        match message {
            Message::Beat { .. } => {}
            Message::Write(write) => self.write(now, from, *write),
            Message::Written { task, written, revision, events } => {
                self.written(now, from, task, (written, revision), events);
            }
            Message::Lacks { task } => self.lacks(from, task),
            Message::Refused { task, promised } => self.refused(now, from, task, promised),
            Message::Claim(claim) => self.claimed(now, from, *claim),
            Message::Promise { task, epoch, record } => self.promised(now, from, task, epoch, *record),
            Message::Told { record } => self.told(now, from, *record),
            Message::Return { task, epoch } => self.returned(now, from, task, epoch),
            Message::Enquire { task } => self.enquired(from, task),
            Message::Unknown { task } => self.unknown(now, from, task),
            Message::Vouch { task, epoch } => self.vouch(from, task, epoch),
            Message::Vouched { .. } => {}
            Message::Cancel { task, principal } => {
                if self.tasks.get(&task).is_some_and(|kept| kept.record.is_seated(from)) {
                    self.wish_here(task, principal);
                }
            }
        }
    }

    fn wish(&mut self, task: TaskId, principal: String) {
        let Some(holder) = self.holder(task) else { return };
        if holder == self.me || self.is_holding(task) {
            self.wish_here(task, principal);
        } else {
            self.send(holder, Message::Cancel { task, principal }, None);
        }
    }

    /// A task that is held is ended at once, one that is being claimed as soon as it is held.
    fn wish_here(&mut self, task: TaskId, principal: String) {
        if self.is_holding(task) {
            self.act(Action::Cancel { task, principal });
        } else if let Some(kept) = self.tasks.get_mut(&task).filter(|kept| kept.record.holder() == self.me) {
            kept.wished = Some(principal);
        }
    }

    fn task_due(&mut self, now: Now, id: TaskId) {
        let Some(kept) = self.tasks.get_mut(&id) else { return };
        kept.due = None;
        match &kept.role {
            Role::Holding(_) => self.repeat_writes(now, id),
            Role::Claiming(_) => self.repeat_claim(now, id),
            Role::Following(_) => {}
        }
    }
}
