//! Custodians on a virtual network with virtual disks, and what must always hold of them.

mod seeds;
mod stories;
mod strangers;

use super::{Action, Binding, Custodian, CustodyConfig, CustodyRecord, Durability, EndMark, Found, Input, Message};
use crate::negotiation::{
    ChipNeed, Need, PersistId, Record, RestoredTask, RunOutcome, Target, TaskRecord, TaskState, VariantNeed,
};
use crate::time::{Monotonic, Now, Timestamp};
use bytes::Bytes;
use cpi::ids::{ContentDigest, Epoch, Fence, LeaseId, MemberId, TaskId};
use cpi::resource::Quantity;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A task's id by number.
fn task_id(n: u64) -> TaskId {
    let mut id = [0; 16];
    id[8..].copy_from_slice(&n.to_be_bytes());
    TaskId(id)
}

fn task_record(task: TaskId, residency: &[&str]) -> TaskRecord {
    let way = VariantNeed { base: Quantity::default(), chips: ChipNeed::None, image: false };
    let need = Need {
        variants: vec![way],
        max_runtime_ms: 1_000,
        input_bytes: 0,
        residency: residency.iter().map(|c| (*c).to_owned()).collect(),
        priority: 50,
        finish_on_partition: false,
    };
    let document = Bytes::from_static(b"{}");
    TaskRecord { task, principal: "p".into(), idempotency_key: None, document, need, submitted: Timestamp(0) }
}

fn binding(fence: Fence, provider: u64) -> Binding {
    Binding {
        fence,
        provider: MemberId(provider),
        lease: LeaseId([1; 16]),
        target: Target { variant: 0, pool: "p".into(), class: "c".into() },
        price_hour_micro: 0,
        currency: "CNY".into(),
        at: Timestamp(0),
    }
}

fn outcome(fence: Fence) -> EndMark {
    let digest = ContentDigest::of(fence.to_string().as_bytes());
    EndMark { fence: Some(fence), digest, reason: None, outcome: Some(RunOutcome::default()), at: Timestamp(0) }
}

/// What survives a crash.
#[derive(Default, Clone)]
struct Disk {
    tasks: BTreeMap<TaskId, TaskRecord>,
    custody: BTreeMap<TaskId, CustodyRecord>,
    /// What stays of removed tasks.
    gone: BTreeMap<TaskId, CustodyRecord>,
}

impl Disk {
    fn apply(&mut self, records: &[Record]) {
        for record in records {
            match record {
                Record::Task(task) | Record::Kept(task) => {
                    self.tasks.insert(task.task, (**task).clone());
                }
                Record::Custody(custody) => {
                    self.custody.insert(custody.task, (**custody).clone());
                }
                _ => {}
            }
        }
    }

    /// Removes a closed task after its time, as a node's retention does.
    fn remove(&mut self, task: TaskId) {
        let custody = self.custody.remove(&task).expect("it is here");
        assert!(custody.closed, "only closed tasks are removed");
        self.tasks.remove(&task);
        self.gone.insert(task, custody.tombstone());
    }

    fn find(&self, task: TaskId) -> Option<Found> {
        let gone = || self.gone.get(&task).map(|custody| Found::Gone(Box::new(custody.clone())));
        self.get(task).map(|task| Found::Task(Box::new(task))).or_else(gone)
    }

    fn get(&self, task: TaskId) -> Option<RestoredTask> {
        let (record, custody) = (self.tasks.get(&task)?.clone(), self.custody.get(&task)?.clone());
        Some(RestoredTask { record, custody, events: 0, state: TaskState::Pending })
    }
}

/// A node: the machine, its disk, and a stand-in for the origin part that makes the steps.
struct Node {
    machine: Option<Custodian>,
    life: u64,
    disk: Disk,
    /// The disk with what is written but not synced.
    cache: Disk,
    synced_at_ms: u64,
    synced: PersistId,
    held: VecDeque<(PersistId, MemberId, Message)>,
    working: BTreeMap<TaskId, CustodyRecord>,
    counted: BTreeMap<TaskId, u64>,
}

enum Event {
    Deliver { from: usize, to: usize, message: Box<Message> },
    Wake { node: usize, life: u64 },
    Persisted { node: usize, life: u64, id: PersistId, records: Vec<Record> },
    Stored { node: usize, life: u64, task: TaskId, revision: u64, records: Vec<Record> },
}

/// Some nodes and what is between them.
struct Net {
    now_ms: u64,
    nodes: Vec<Node>,
    cut: BTreeSet<(usize, usize)>,
    lost_permille: u32,
    latency_ms: u64,
    config: CustodyConfig,
    queue: BTreeMap<(u64, u64), Event>,
    order: u64,
    rng: ChaCha8Rng,
    places: Vec<(&'static str, &'static str)>,
    durable: BTreeMap<TaskId, Durability>,
    /// Counted states by version, from which everything that took effect is read.
    states: BTreeMap<(TaskId, (Epoch, u64)), CustodyRecord>,
    accepted: BTreeMap<TaskId, ContentDigest>,
    refused: u64,
    sent: u64,
    violations: Vec<String>,
}

const PLACES: [(&str, &str); 5] =
    [("beijing", "CN"), ("dalian", "CN"), ("beijing", "CN"), ("frankfurt", "DE"), ("jinhua", "CN")];

impl Net {
    fn of(seed: u64, nodes: usize) -> Self {
        let mut net = Self {
            now_ms: 0,
            nodes: Vec::new(),
            cut: BTreeSet::new(),
            lost_permille: 0,
            latency_ms: 20,
            config: CustodyConfig::default(),
            queue: BTreeMap::new(),
            order: 0,
            rng: ChaCha8Rng::seed_from_u64(seed),
            places: PLACES[..nodes].to_vec(),
            durable: BTreeMap::new(),
            states: BTreeMap::new(),
            accepted: BTreeMap::new(),
            refused: 0,
            sent: 0,
            violations: Vec::new(),
        };
        for _ in 0..nodes {
            net.nodes.push(Node {
                machine: None,
                life: 0,
                disk: Disk::default(),
                cache: Disk::default(),
                synced_at_ms: 0,
                synced: PersistId(0),
                held: VecDeque::new(),
                working: BTreeMap::new(),
                counted: BTreeMap::new(),
            });
        }
        for node in 0..nodes {
            net.start(node);
        }
        net
    }

    fn now(&self) -> Now {
        Now { mono: Monotonic(self.now_ms), wall: Timestamp(self.now_ms) }
    }

    fn at(&mut self, ms: u64, event: Event) {
        self.order += 1;
        self.queue.insert((ms, self.order), event);
    }

    fn member(node: usize) -> MemberId {
        MemberId(node as u64 + 1)
    }

    fn start(&mut self, index: usize) {
        let (seed, now) = (self.rng.next_u64(), self.now());
        let node = &mut self.nodes[index];
        node.life += 1;
        node.synced = PersistId(0);
        node.cache = node.disk.clone();
        node.held.clear();
        node.working.clear();
        node.counted.clear();
        node.synced_at_ms = self.now_ms;
        let mut machine = Custodian::new(Self::member(index), self.config.clone(), seed);
        let open = node.disk.custody.values().filter(|c| !c.closed);
        let open = open.filter_map(|c| node.disk.get(c.task)).collect();
        machine.restore(now, open);
        node.machine = Some(machine);
        for (other, (city, country)) in self.places.clone().into_iter().enumerate() {
            let member = Self::member(other);
            let (city, country) = (city.to_owned(), country.to_owned());
            self.feed(index, Input::Member { member, city, country, active: true });
            self.feed(index, Input::Reachable { member, reachable: true });
        }
    }

    fn crash(&mut self, index: usize) {
        self.nodes[index].machine = None;
    }

    /// The node and its disk are gone.
    fn destroy(&mut self, index: usize) {
        self.crash(index);
        self.nodes[index].disk = Disk::default();
    }

    fn restart(&mut self, index: usize) {
        if self.nodes[index].machine.is_none() {
            self.start(index);
        }
    }

    fn partition(&mut self, some: &[usize], others: &[usize]) {
        for a in some {
            for b in others {
                self.cut.insert((*a, *b));
                self.cut.insert((*b, *a));
            }
        }
    }

    fn heal(&mut self) {
        self.cut.clear();
    }

    fn feed(&mut self, index: usize, input: Input) {
        let now = self.now();
        let Some(machine) = &mut self.nodes[index].machine else { return };
        machine.handle(now, input);
        self.perform(index);
    }

    fn sync_at(&mut self, index: usize) -> u64 {
        let took = self.rng.random_range(1..8);
        let node = &mut self.nodes[index];
        node.synced_at_ms = node.synced_at_ms.max(self.now_ms + took);
        node.synced_at_ms
    }

    fn perform(&mut self, index: usize) {
        while let Some(action) = self.nodes[index].machine.as_mut().and_then(Custodian::poll_action) {
            match action {
                Action::Persist { id, records } => {
                    self.nodes[index].cache.apply(&records);
                    let (at, life) = (self.sync_at(index), self.nodes[index].life);
                    self.at(at, Event::Persisted { node: index, life, id, records });
                }
                Action::Send { to, message, after } => {
                    let node = &mut self.nodes[index];
                    match after.filter(|after| *after > node.synced) {
                        Some(after) => node.held.push_back((after, to, message)),
                        None => self.transmit(index, to, message),
                    }
                }
                Action::Load { task } => {
                    let found = self.nodes[index].cache.find(task);
                    let now = self.now();
                    if let Some(machine) = &mut self.nodes[index].machine {
                        machine.handle(now, Input::Loaded { task, found });
                    }
                }
                Action::Durable { task, durability } => {
                    let before = self.durable.entry(task).or_insert(durability);
                    *before = durability.max(*before);
                }
                Action::Counted { task, revision } => {
                    self.nodes[index].counted.insert(task, revision);
                    let record = self.nodes[index].machine.as_ref().and_then(|m| m.record(task)).cloned();
                    // The newest state may be ahead of what counts; only an equal one is a fact.
                    if let Some(record) = record.filter(|r| r.revision == revision) {
                        self.took_effect(index, record);
                    }
                }
                Action::Adopted(restored) => {
                    let custody = restored.custody;
                    self.nodes[index].counted.insert(custody.task, custody.revision);
                    self.nodes[index].working.insert(custody.task, custody.clone());
                    self.took_effect(index, custody);
                }
                Action::Superseded { task, .. } => {
                    if self.nodes[index].working.remove(&task).is_none() {
                        self.violations.push(format!("{index} was superseded for {task} that it did not hold"));
                    }
                }
                Action::Reseat { task, custodians, former } => {
                    self.make(index, task, |record| {
                        record.custodians.clone_from(&custodians);
                        record.former.clone_from(&former);
                    });
                }
                Action::Cancel { task, principal } => {
                    self.make(index, task, |record| {
                        let mark = super::CancelMark { principal: principal.clone(), at: Timestamp(0) };
                        let _ = record.cancel(mark);
                    });
                }
            }
        }
        if let Some(at) = self.nodes[index].machine.as_ref().and_then(Custodian::poll_timeout) {
            let life = self.nodes[index].life;
            self.at(at.0.max(self.now_ms), Event::Wake { node: index, life });
        }
    }

    /// A state counts: what must hold of all such states is checked.
    fn took_effect(&mut self, index: usize, record: CustodyRecord) {
        let task = record.task;
        for ((_, version), other) in self.states.range((task, LOWEST)..) {
            if other.task != task {
                break;
            }
            let (older, newer) = if *version < record.version() { (other, &record) } else { (&record, other) };
            if older.fence > newer.fence {
                self.violations.push(format!("fences of {task} go back from {} to {}", older.fence, newer.fence));
            }
            if let (Some(a), Some(b)) = (&older.binding, &newer.binding)
                && a.fence == b.fence
                && a.provider != b.provider
            {
                self.violations.push(format!("{task} has two providers under {}", a.fence));
            }
            if older.end.is_some() && newer.end.as_ref().map(|e| e.digest) != older.end.as_ref().map(|e| e.digest) {
                self.violations.push(format!("the accepted end of {task} changed"));
            }
        }
        let disks = record.seats().filter(|m| {
            let disk = &self.nodes[m.0 as usize - 1].disk;
            disk.custody.get(&task).is_some_and(|c| c.version() >= record.version())
        });
        let mut quorum = record.quorum();
        for member in disks.collect::<Vec<_>>() {
            quorum.synced_by(member);
        }
        let destroyed = self.nodes.iter().any(|n| n.machine.is_none() && n.disk.custody.is_empty());
        if !quorum.is_reached() && !destroyed {
            self.violations.push(format!("{index} counted revision {} of {task} too early", record.revision));
        }
        if let Some(end) = &record.end {
            let before = *self.accepted.entry(task).or_insert(end.digest);
            if before != end.digest {
                self.violations.push(format!("{task} has two accepted results"));
            }
        }
        self.states.insert((task, record.version()), record);
    }

    fn transmit(&mut self, from: usize, to: MemberId, message: Message) {
        if let Message::Written { task, written, .. } = &message
            && self.nodes[from].disk.custody.get(task).is_some_and(|c| *written < c.written)
        {
            self.violations.push(format!("{from} acknowledged an older epoch of {task} than it has"));
        }
        self.refused += u64::from(matches!(message, Message::Refused { .. }));
        self.sent += 1;
        let to = to.0 as usize - 1;
        // Everything crosses the wire as bytes.
        let frames = super::seal_frames(&[message]);
        for _ in 0..if self.lost_permille > 0 && self.rng.random_range(0..1000) < 50 { 2 } else { 1 } {
            if self.cut.contains(&(from, to)) || self.rng.random_range(0..1000) < self.lost_permille {
                continue;
            }
            let jitter = if self.lost_permille > 0 { self.rng.random_range(0..200) } else { 0 };
            for frame in &frames {
                let opened = super::open_frame(Self::member(from), frame).expect("own frames keep their bounds");
                for message in opened {
                    let at = self.now_ms + self.latency_ms + jitter;
                    self.at(at, Event::Deliver { from, to, message: Box::new(message) });
                }
            }
        }
    }

    /// The stand-in for the origin part takes a task in.
    fn submit(&mut self, index: usize, n: u64, residency: &[&str]) -> TaskId {
        let id = task_id(n);
        let countries: Vec<String> = residency.iter().map(|c| (*c).to_owned()).collect();
        let machine = self.nodes[index].machine.as_ref().expect("the node is up");
        let mut record = CustodyRecord::submitted(id, machine.choose(&countries, None), Self::member(index));
        record.revision = 1;
        let task = task_record(id, residency);
        self.nodes[index].working.insert(id, record.clone());
        self.write_step(index, record, Some(task));
        id
    }

    fn write_step(&mut self, index: usize, record: CustodyRecord, task: Option<TaskRecord>) {
        let mut records = vec![Record::Custody(Box::new(record.clone()))];
        records.extend(task.clone().map(|t| Record::Task(Box::new(t))));
        self.nodes[index].cache.apply(&records);
        let (at, life) = (self.sync_at(index), self.nodes[index].life);
        let (id, revision) = (record.task, record.revision);
        self.at(at, Event::Stored { node: index, life, task: id, revision, records });
        let step = Input::Step { record: Box::new(record), task: task.map(Box::new), events: Vec::new() };
        self.feed(index, step);
    }

    /// The stand-in makes a step, if it holds the task.
    fn make(&mut self, index: usize, task: TaskId, change: impl FnOnce(&mut CustodyRecord)) {
        let Some(record) = self.nodes[index].working.get_mut(&task) else { return };
        change(record);
        record.revision += 1;
        let record = record.clone();
        self.write_step(index, record, None);
    }

    fn bind(&mut self, index: usize, task: TaskId, provider: u64) {
        self.make(index, task, |record| {
            let fence = record.next_fence();
            record.bind(binding(fence, provider)).expect("a new fence is free");
        });
    }

    fn end(&mut self, index: usize, task: TaskId) {
        self.make(index, task, |record| {
            let fence = record.binding.as_ref().expect("it is bound").fence;
            record.end(outcome(fence)).expect("it is bound under that fence");
        });
    }

    /// What the origin part does with a task that it holds, one step at a time; `chance` decides.
    fn work(&mut self, index: usize, task: TaskId, chance: u32) {
        let Some(record) = self.nodes[index].working.get(&task) else { return };
        let counts = self.nodes[index].counted.get(&task) == Some(&record.revision);
        if record.closed || !counts {
            return;
        }
        let provider = u64::from(chance % 7) + 100;
        match (&record.end, &record.binding) {
            (Some(_), _) => self.make(index, task, |record| record.closed = true),
            (None, None) => self.bind(index, task, provider),
            (None, Some(_)) if chance.is_multiple_of(4) => self.make(index, task, CustodyRecord::unbind),
            (None, Some(_)) => self.end(index, task),
        }
    }

    fn step(&mut self) -> bool {
        let Some(((ms, _), event)) = self.queue.pop_first() else { return false };
        self.now_ms = ms;
        let alive =
            |net: &Self, node: usize, life: u64| net.nodes[node].machine.is_some() && net.nodes[node].life == life;
        match event {
            Event::Deliver { from, to, message } => {
                self.feed(to, Input::Message { from: Self::member(from), message: *message });
            }
            Event::Wake { node, life } if alive(self, node, life) => {
                let now = self.now();
                let machine = self.nodes[node].machine.as_mut().expect("it is alive");
                if machine.poll_timeout().is_some_and(|at| at <= now.mono) {
                    machine.handle_timeout(now);
                    self.perform(node);
                }
            }
            Event::Persisted { node, life, id, records } if alive(self, node, life) => {
                self.onto_disk(node, &records);
                self.nodes[node].synced = id;
                self.feed(node, Input::Persisted { up_to: id });
                while self.nodes[node].held.front().is_some_and(|(after, ..)| *after <= id) {
                    let Some((_, to, message)) = self.nodes[node].held.pop_front() else { break };
                    self.transmit(node, to, message);
                }
            }
            Event::Stored { node, life, task, revision, records } if alive(self, node, life) => {
                self.onto_disk(node, &records);
                self.feed(node, Input::Stored { task, revision });
            }
            _ => {}
        }
        true
    }

    fn onto_disk(&mut self, node: usize, records: &[Record]) {
        for record in records {
            if let Record::Custody(new) = record
                && let Some(old) = self.nodes[node].disk.custody.get(&new.task)
                && (new.promised < old.promised || new.written < old.written)
            {
                self.violations.push(format!("epochs of {} go back on the disk of {node}", new.task));
            }
        }
        self.nodes[node].disk.apply(records);
    }

    fn run_for(&mut self, ms: u64) {
        let until = self.now_ms + ms;
        while self.queue.first_key_value().is_some_and(|((at, _), _)| *at <= until) {
            self.step();
        }
        self.now_ms = until;
    }

    /// Runs until `done`, at most `ms`. Says whether it came.
    fn run_until(&mut self, ms: u64, done: impl Fn(&Self) -> bool) -> bool {
        let until = self.now_ms + ms;
        while !done(self) {
            if self.queue.first_key_value().is_none_or(|((at, _), _)| *at > until) {
                return false;
            }
            self.step();
        }
        true
    }

    fn holds(&self, node: usize, task: TaskId) -> bool {
        self.nodes[node].working.contains_key(&task)
    }

    fn holders(&self, task: TaskId) -> Vec<usize> {
        (0..self.nodes.len()).filter(|n| self.nodes[*n].machine.is_some() && self.holds(*n, task)).collect()
    }

    /// The custodians of a task as node numbers, its origin first.
    fn custodians(&self, node: usize, task: TaskId) -> Vec<usize> {
        self.nodes[node].working[&task].custodians.iter().map(|m| m.0 as usize - 1).collect()
    }

    fn counts(&self, node: usize, task: TaskId) -> bool {
        let revision = self.nodes[node].working.get(&task).map(|r| r.revision);
        revision.is_some() && self.nodes[node].counted.get(&task).copied() == revision
    }
}

const LOWEST: (Epoch, u64) = (Epoch { counter: 0, member: MemberId(0) }, 0);
