//! A few machines with their disks, runs and mail. Every step is taken by whoever tells the story, so that any order of
//! steps can be told; what must always hold is checked after each.

use super::{place, pool};
use crate::custody::CustodyRecord;
use crate::negotiation::*;
use crate::time::{Monotonic, Now, Timestamp};
use cpi::dictionary::Dictionary;
use cpi::ids::{ContentDigest, Fence, MemberId, TaskId};
use cpi::reason::ReasonCode;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

#[derive(Default)]
pub struct Disk {
    tasks: BTreeMap<TaskId, TaskRecord>,
    pub custody: BTreeMap<TaskId, CustodyRecord>,
    events: BTreeMap<TaskId, (u32, TaskState)>,
    pub leases: BTreeMap<Attempt, LeaseRecord>,
    unsynced: Vec<(PersistId, Vec<Record>)>,
    synced: PersistId,
}

pub struct Node {
    pub member: MemberId,
    pub machine: Option<Negotiator>,
    pub disk: Disk,
    /// Runs with whether they were started.
    pub runs: BTreeMap<Attempt, bool>,
    pools: Vec<OwnPool>,
    incarnation: u64,
    held: Vec<(PersistId, MemberId, Message)>,
    orders: Vec<(PersistId, RunOrder)>,
}

pub struct Net {
    pub nodes: Vec<Node>,
    pub mail: Vec<(usize, usize, Message)>,
    pub now_ms: u64,
    pub config: NegotiationConfig,
    pub admitted: BTreeSet<TaskId>,
    bound: BTreeMap<(TaskId, Fence), MemberId>,
    ends: BTreeMap<TaskId, (Option<Fence>, ContentDigest)>,
    digests: u64,
}

impl Net {
    /// Regions with a pool each, that know of each other.
    pub fn of(pools: &[(u32, u64)], mut config: NegotiationConfig) -> Self {
        config.custody.durability = crate::custody::Durability::Local;
        let nodes = pools.iter().enumerate().map(|(index, (servers, chips))| Node {
            member: MemberId(index as u64 + 1),
            machine: None,
            disk: Disk::default(),
            runs: BTreeMap::new(),
            pools: vec![pool(*servers, *chips)],
            incarnation: 0,
            held: Vec::new(),
            orders: Vec::new(),
        });
        let mut net = Self {
            nodes: nodes.collect(),
            mail: Vec::new(),
            now_ms: 0,
            config,
            admitted: BTreeSet::new(),
            bound: BTreeMap::new(),
            ends: BTreeMap::new(),
            digests: 0,
        };
        for index in 0..pools.len() {
            net.start(index);
        }
        net.gossip();
        net
    }

    pub fn now(&self) -> Now {
        Now { mono: Monotonic(self.now_ms), wall: Timestamp(self.now_ms) }
    }

    pub fn start(&mut self, index: usize) {
        if self.nodes[index].machine.is_some() {
            return;
        }
        let (now, count) = (self.now(), self.nodes.len());
        let node = &mut self.nodes[index];
        node.incarnation += 1;
        let seed = node.member.0 * 1000 + node.incarnation;
        let mut machine =
            Negotiator::new(node.member, node.incarnation, self.config.clone(), Dictionary::first(), seed);
        for other in 0..count {
            let member = MemberId(other as u64 + 1);
            machine.handle(now, Input::Member { member, place: place(other), active: true });
            machine.handle(now, Input::Rtt { member, rtt_ms: Some(10) });
        }
        let open = node.disk.custody.values().filter(|c| !c.closed);
        let tasks = open.filter_map(|custody| {
            let record = node.disk.tasks.get(&custody.task)?.clone();
            let (events, state) = node.disk.events.get(&custody.task).copied().unwrap_or((0, TaskState::Pending));
            Some(RestoredTask { record, custody: custody.clone(), events, state })
        });
        let restored = Restored { tasks: tasks.collect(), leases: node.disk.leases.values().cloned().collect() };
        machine.restore(now, restored);
        machine.handle(now, Input::Pools(node.pools.clone()));
        node.machine = Some(machine);
        self.perform(index);
    }

    /// The process is killed: what was not synced, said or ordered is gone; runs go on.
    pub fn crash(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        node.machine = None;
        node.disk.unsynced.clear();
        node.disk.synced = PersistId::default();
        node.held.clear();
        node.orders.clear();
    }

    pub fn gossip(&mut self) {
        self.digests += 1;
        let digests: Vec<Digest> =
            self.nodes.iter().filter_map(|n| Some(n.machine.as_ref()?.digest(self.digests, 60_000))).collect();
        for index in 0..self.nodes.len() {
            for digest in &digests {
                self.feed(index, Input::Digest(Arc::new(digest.clone())));
            }
        }
    }

    pub fn feed(&mut self, index: usize, input: Input) {
        let now = self.now();
        let Some(machine) = &mut self.nodes[index].machine else { return };
        machine.handle(now, input);
        self.perform(index);
    }

    fn perform(&mut self, index: usize) {
        let mut local = Vec::new();
        while let Some(action) = self.nodes[index].machine.as_mut().and_then(Negotiator::poll_action) {
            match action {
                // Every task here is kept by its origin alone.
                Action::Custody { .. } | Action::Load { .. } | Action::Durable { .. } => {}
                Action::Persist { id, records } => self.nodes[index].disk.unsynced.push((id, records)),
                Action::Send { to, message, after } => {
                    self.may_say(index, &message, after);
                    let node = &mut self.nodes[index];
                    match after.filter(|after| *after > node.disk.synced) {
                        Some(after) => node.held.push((after, to, message)),
                        None => self.mail.push((index, to.0 as usize - 1, message)),
                    }
                }
                Action::Run { order: RunOrder::Renew { mut runs, until }, .. } => {
                    // Those that wait for their start get the longer lease with it, as in the node's driver.
                    let waiting = &self.nodes[index].orders;
                    runs.retain(|run| !waiting.iter().any(|(_, order)| order.attempts().contains(run)));
                    local.extend(self.order(index, RunOrder::Renew { runs, until }));
                }
                Action::Run { order, after } => {
                    let node = &mut self.nodes[index];
                    let same = node.orders.iter().filter(|(_, o)| o.attempts() == order.attempts());
                    let after = same.map(|(after, _)| *after).fold(after.unwrap_or_default(), PersistId::max);
                    if after > node.disk.synced {
                        node.orders.push((after, order));
                    } else {
                        local.extend(self.order(index, order));
                    }
                }
                Action::Fetch { attempt, .. } => local.push(Input::Fetched { attempt, result: Ok(()) }),
                Action::Admitted { .. } | Action::Planned(_) => {}
            }
        }
        for input in local {
            self.feed(index, input);
        }
        self.check(index);
    }

    /// Promises rest on records: what is said now, or held back for a persist, is on its way to the disk already.
    fn may_say(&self, index: usize, message: &Message, after: Option<PersistId>) {
        let disk = &self.nodes[index].disk;
        let written = |found: &dyn Fn(&Record) -> bool| {
            let up_to = after.unwrap_or_default();
            disk.unsynced.iter().any(|(id, records)| *id <= up_to && records.iter().any(found))
        };
        match message {
            Message::Accepted(m) => {
                let attempt = Attempt { task: m.task, fence: m.fence };
                let is = |r: &Record| matches!(r, Record::Lease(l) if l.attempt == attempt);
                assert!(disk.leases.contains_key(&attempt) || written(&is), "accepted before its lease");
            }
            Message::Ended(m) => {
                let attempt = Attempt { task: m.task, fence: m.fence };
                let over = |l: &LeaseRecord| l.attempt == attempt && l.phase == LeasePhase::Ended;
                let is = |r: &Record| matches!(r, Record::Lease(l) if over(l));
                assert!(disk.leases.get(&attempt).is_some_and(over) || written(&is), "an end before its record");
            }
            Message::Bound(attempt) => {
                let bound = disk.custody.get(&attempt.task).and_then(|c| c.binding.as_ref());
                assert!(bound.is_some_and(|b| b.fence == attempt.fence), "bound before the binding was on disk");
            }
            _ => {}
        }
    }

    /// What the executor does; it answers at once, after the order.
    fn order(&mut self, index: usize, order: RunOrder) -> Vec<Input> {
        let ended = |attempt, reason: Option<ReasonCode>| {
            let outcome = RunOutcome { reason: reason.map(Into::into), wall_ms: 10, ..RunOutcome::default() };
            Input::Run(attempt, RunNotice::Ended(Box::new(outcome)))
        };
        let runs = &mut self.nodes[index].runs;
        match order {
            RunOrder::Prepare(grant) => {
                runs.entry(grant.attempt).or_insert(false);
                Vec::new()
            }
            RunOrder::Start { attempt, .. } => {
                runs.insert(attempt, true);
                let bound = self.bound.get(&(attempt.task, attempt.fence));
                assert_eq!(bound, Some(&self.nodes[index].member), "a run started that no disk has bound here");
                vec![Input::Run(attempt, RunNotice::Started)]
            }
            RunOrder::Reattach(grant) => match runs.get_mut(&grant.attempt) {
                // One that was staged only is started now.
                Some(started) => {
                    *started = true;
                    vec![Input::Run(grant.attempt, RunNotice::Started)]
                }
                None => vec![Input::Run(grant.attempt, RunNotice::Lost(ReasonCode::RunLost.into()))],
            },
            RunOrder::Cancel(attempt) => {
                runs.remove(&attempt);
                vec![ended(attempt, Some(ReasonCode::Cancelled))]
            }
            RunOrder::Release(attempt) => {
                runs.remove(&attempt);
                Vec::new()
            }
            RunOrder::Renew { until, .. } => {
                assert!(until.0 > self.now_ms, "a renewal that is over already");
                Vec::new()
            }
        }
    }

    /// A run comes to its end by itself.
    pub fn end_run(&mut self, index: usize, attempt: Attempt) {
        if self.nodes[index].machine.is_some() && self.nodes[index].runs.remove(&attempt).is_some() {
            let outcome = RunOutcome { exit_code: Some(0), wall_ms: 1_000, ..RunOutcome::default() };
            self.feed(index, Input::Run(attempt, RunNotice::Ended(Box::new(outcome))));
        }
    }

    /// The first `count` persists that wait are on disk.
    pub fn sync(&mut self, index: usize, count: usize) {
        let count = count.min(self.nodes[index].disk.unsynced.len());
        if count == 0 || self.nodes[index].machine.is_none() {
            return;
        }
        let disk = &mut self.nodes[index].disk;
        let safe: Vec<(PersistId, Vec<Record>)> = disk.unsynced.drain(..count).collect();
        let up_to = safe[count - 1].0;
        disk.synced = up_to;
        for record in safe.into_iter().flat_map(|(_, records)| records) {
            self.keep(index, record);
        }
        let node = &mut self.nodes[index];
        let (said, held) = std::mem::take(&mut node.held).into_iter().partition(|(after, ..)| *after <= up_to);
        node.held = held;
        let said: Vec<(PersistId, MemberId, Message)> = said;
        self.mail.extend(said.into_iter().map(|(_, to, message)| (index, to.0 as usize - 1, message)));
        self.feed(index, Input::Persisted { up_to });
        let node = &mut self.nodes[index];
        let (ready, orders) = std::mem::take(&mut node.orders).into_iter().partition(|(after, _)| *after <= up_to);
        node.orders = orders;
        let ready: Vec<(PersistId, RunOrder)> = ready;
        for (_, order) in ready {
            for input in self.order(index, order) {
                self.feed(index, input);
            }
        }
    }

    fn keep(&mut self, index: usize, record: Record) {
        match &record {
            Record::Custody(custody) => {
                if let Some(binding) = &custody.binding {
                    let held = self.bound.entry((custody.task, binding.fence)).or_insert(binding.provider);
                    assert_eq!(*held, binding.provider, "two providers under fence {}", binding.fence);
                }
                if let Some(end) = &custody.end {
                    let first = self.ends.entry(custody.task).or_insert((end.fence, end.digest));
                    assert_eq!(*first, (end.fence, end.digest), "two results of {}", custody.task);
                }
            }
            Record::Task(task) => {
                self.admitted.insert(task.task);
            }
            _ => {}
        }
        let disk = &mut self.nodes[index].disk;
        match record {
            Record::Task(task) => drop(disk.tasks.insert(task.task, *task)),
            Record::Custody(custody) => drop(disk.custody.insert(custody.task, *custody)),
            Record::Event(event) => drop(disk.events.insert(event.task, (event.seq, event.state))),
            Record::Lease(lease) => drop(disk.leases.insert(lease.attempt, *lease)),
            Record::LeaseSettled(attempt) => drop(disk.leases.remove(&attempt)),
            _ => {}
        }
    }

    /// The `which`th message of the mail arrives; it stays in the mail if it shall come again.
    pub fn deliver(&mut self, which: usize, again: bool) {
        let (from, to, message) = if again { self.mail[which].clone() } else { self.mail.remove(which) };
        self.feed(to, Input::Message { from: self.nodes[from].member, message });
    }

    pub fn wait(&mut self, ms: u64) {
        self.now_ms += ms;
        for index in 0..self.nodes.len() {
            let now = self.now();
            if let Some(machine) = &mut self.nodes[index].machine {
                machine.handle_timeout(now);
                self.perform(index);
            }
        }
    }

    /// Everything on its way arrives, in order, and every disk is synced, until nothing moves.
    pub fn settle(&mut self) {
        while !self.mail.is_empty() || self.nodes.iter().any(|n| n.machine.is_some() && !n.disk.unsynced.is_empty()) {
            while !self.mail.is_empty() {
                self.deliver(0, false);
            }
            for index in 0..self.nodes.len() {
                self.sync(index, usize::MAX);
            }
        }
    }

    fn check(&self, index: usize) {
        let Some(machine) = &self.nodes[index].machine else { return };
        assert!(machine.provider().is_sound(), "region {index} gave more than it has");
    }

    pub fn provider(&self, index: usize) -> &Negotiator {
        self.nodes[index].machine.as_ref().unwrap()
    }

    /// The region bound to a task, by the origin's disk.
    pub fn holder(&self, origin: usize, task: TaskId) -> Option<usize> {
        let binding = self.nodes[origin].disk.custody.get(&task)?.binding.as_ref()?;
        Some(binding.provider.0 as usize - 1)
    }

    /// How a task ended by the origin's disk: `Some(None)` for success.
    pub fn end(&self, origin: usize, task: TaskId) -> Option<Option<ReasonCode>> {
        let end = self.nodes[origin].disk.custody.get(&task)?.end.as_ref()?;
        Some(end.reason.as_ref().map(|reason| reason.code))
    }

    /// Lets runs end and time pass until every admitted task has ended and nothing is held.
    pub fn come_to_rest(&mut self) {
        for index in 0..self.nodes.len() {
            self.start(index);
        }
        for _ in 0..600 {
            self.settle();
            let over = |n: &Node| n.disk.custody.values().all(|c| c.closed) && n.disk.leases.is_empty();
            if self.nodes.iter().all(over) {
                break;
            }
            for index in 0..self.nodes.len() {
                let runs: Vec<Attempt> =
                    self.nodes[index].runs.iter().filter(|(_, started)| **started).map(|(a, _)| *a).collect();
                for attempt in runs {
                    self.end_run(index, attempt);
                }
            }
            self.gossip();
            self.wait(1_000);
        }
        self.wait(61_000);
        self.settle();
        for (index, node) in self.nodes.iter().enumerate() {
            assert_eq!(self.provider(index).provider().holds(), 0, "a hold of region {index} never ended");
            assert!(node.disk.leases.is_empty(), "a lease of region {index} was never settled");
            for custody in node.disk.custody.values() {
                assert!(custody.end.is_some(), "{} of region {index} never ended", custody.task);
            }
        }
        let known: BTreeSet<TaskId> = self.nodes.iter().flat_map(|n| n.disk.custody.keys().copied()).collect();
        assert!(self.admitted.is_subset(&known), "an acknowledged task is lost");
    }
}
