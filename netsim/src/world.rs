//! Regions, their messages and their time: a seeded discrete-event simulation.

use crate::disk::Disk;
use crate::executor::{Run, RunPhase, Runs};
use crate::invariants::{Fact, Invariants};
use crate::wan::Wan;
use consensus::negotiation::{
    Action, Attempt, Input, Message, NegotiationConfig, Negotiator, OwnPool, PersistId, PlanResult, Record, RunNotice,
    RunOrder, RunOutcome,
};
use consensus::time::{Monotonic, Now, Timestamp};
use cpi::dictionary::Dictionary;
use cpi::ids::{ContentDigest, MemberId, TaskId};
use cpi::reason::{Reason, ReasonCode};
use cpi::resource::RegionPlace;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Wall clock at the beginning.
const EPOCH_MS: u64 = 1_700_000_000_000;
/// Between digests.
const DIGEST_EVERY_MS: u64 = 1_000;

/// One region.
pub struct Node {
    /// Its member.
    pub member: MemberId,
    /// Where it is.
    pub place: RegionPlace,
    /// Its pools.
    pub pools: Vec<OwnPool>,
    /// Its machine; `None` while it is down.
    pub machine: Option<Negotiator>,
    /// Its disk.
    pub disk: Disk,
    /// Its runs.
    pub runs: Runs,
    incarnation: u64,
    synced: PersistId,
    held_back: VecDeque<(PersistId, MemberId, Message)>,
    admitted: Vec<(PersistId, TaskId)>,
    digests: u64,
    /// How long this region's runs last.
    pub run_ms: u64,
}

#[derive(Debug)]
enum Event {
    Deliver { from: usize, to: usize, message: Box<Message> },
    Wake { node: usize, incarnation: u64 },
    Synced { node: usize, incarnation: u64 },
    Digest { node: usize },
    Run { node: usize, attempt: Attempt },
    Staged { node: usize, attempt: Attempt },
    Fetched { node: usize, from: usize, attempt: Attempt, incarnation: u64 },
}

/// The whole simulation.
pub struct World {
    /// Milliseconds since the beginning.
    pub now_ms: u64,
    /// The network.
    pub wan: Wan,
    /// The regions.
    pub nodes: Vec<Node>,
    /// What must always hold.
    pub invariants: Invariants,
    /// Submissions that were acknowledged, and refusals.
    pub answers: BTreeMap<TaskId, Result<(), Reason>>,
    /// Plans that were made.
    pub plans: Vec<PlanResult>,
    /// Messages sent between regions.
    pub messages: u64,
    /// Steps taken.
    pub steps: u64,
    /// How long a sync takes, in ms.
    pub sync_ms: u64,
    config: NegotiationConfig,
    dictionary: Arc<Dictionary>,
    queue: BTreeMap<(u64, u64), Event>,
    order: u64,
    rng: ChaCha8Rng,
    trace: ContentDigest,
    lines: Option<Vec<String>>,
}

impl World {
    /// Regions with their pools, all knowing of each other, at time 0.
    pub fn new(seed: u64, wan: Wan, config: NegotiationConfig, regions: Vec<(RegionPlace, Vec<OwnPool>)>) -> Self {
        let mut world = Self {
            now_ms: 0,
            wan,
            nodes: Vec::new(),
            invariants: Invariants::default(),
            answers: BTreeMap::new(),
            plans: Vec::new(),
            messages: 0,
            steps: 0,
            sync_ms: 2,
            config,
            dictionary: Dictionary::first(),
            queue: BTreeMap::new(),
            order: 0,
            rng: ChaCha8Rng::seed_from_u64(seed),
            trace: ContentDigest::of(&seed.to_be_bytes()),
            lines: None,
        };
        for (index, (place, pools)) in regions.into_iter().enumerate() {
            world.nodes.push(Node {
                member: MemberId(index as u64 + 1),
                place,
                pools,
                machine: None,
                disk: Disk::default(),
                runs: Runs::new(),
                incarnation: 0,
                synced: PersistId(0),
                held_back: VecDeque::new(),
                admitted: Vec::new(),
                digests: 0,
                run_ms: 1_000,
            });
        }
        for node in 0..world.nodes.len() {
            world.start(node);
        }
        for node in 0..world.nodes.len() {
            world.gossip(node);
        }
        world
    }

    /// Keeps the lines of the trace, for people.
    pub fn keep_lines(&mut self) {
        self.lines = Some(Vec::new());
    }

    /// The lines kept.
    pub fn lines(&self) -> &[String] {
        self.lines.as_deref().unwrap_or_default()
    }

    /// A digest over every step: the same for the same seed.
    pub fn trace(&self) -> ContentDigest {
        self.trace
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        let text = format!("{} {}", self.now_ms, line());
        let mut bytes = self.trace.0.to_vec();
        bytes.extend_from_slice(text.as_bytes());
        self.trace = ContentDigest::of(&bytes);
        if let Some(lines) = &mut self.lines {
            lines.push(text);
        }
    }

    fn now(&self) -> Now {
        Now { mono: Monotonic(self.now_ms), wall: Timestamp(EPOCH_MS + self.now_ms) }
    }

    fn at(&mut self, ms: u64, event: Event) {
        self.order += 1;
        self.queue.insert((ms, self.order), event);
    }

    /// Position of a member.
    pub fn index(&self, member: MemberId) -> usize {
        member.0 as usize - 1
    }

    /// A region's machine, which must be up.
    pub fn machine(&self, node: usize) -> &Negotiator {
        self.nodes[node].machine.as_ref().expect("the region is up")
    }

    fn start(&mut self, index: usize) {
        let seed = self.rng.next_u64();
        let now = self.now();
        let node = &mut self.nodes[index];
        node.incarnation += 1;
        node.synced = PersistId(0);
        node.held_back.clear();
        node.admitted.clear();
        let dictionary = Arc::clone(&self.dictionary);
        let mut machine = Negotiator::new(node.member, node.incarnation, self.config.clone(), dictionary, seed);
        let restored = node.disk.restored();
        machine.restore(now, restored);
        machine.handle(now, Input::Pools(node.pools.clone()));
        node.machine = Some(machine);
        let members: Vec<_> = self.nodes.iter().map(|n| (n.member, n.place.clone())).collect();
        for (other, (member, place)) in members.into_iter().enumerate() {
            self.feed(index, Input::Member { member, place, active: true });
            let rtt_ms = Some((2 * self.wan.latency_ms(index, other)) as u32);
            self.feed(index, Input::Rtt { member, rtt_ms });
        }
        self.at(self.now_ms + 1, Event::Digest { node: index });
        self.note(|| format!("start {index}"));
    }

    /// Kills a region's node; its runs go on.
    pub fn crash(&mut self, index: usize) {
        if self.nodes[index].machine.take().is_some() {
            self.nodes[index].disk.crash();
            self.note(|| format!("crash {index}"));
        }
    }

    /// Kills a region's node and every run in it: a power cut.
    pub fn destroy(&mut self, index: usize) {
        self.crash(index);
        let gone: Vec<Attempt> = self.nodes[index].runs.keys().copied().collect();
        self.nodes[index].runs.clear();
        for attempt in gone {
            self.invariants.observe(&Fact::RunStopped { node: index, attempt });
        }
    }

    /// Starts a region's node again.
    pub fn restart(&mut self, index: usize) {
        if self.nodes[index].machine.is_none() {
            self.start(index);
            for other in 0..self.nodes.len() {
                if self.nodes[other].machine.is_some() {
                    self.gossip(other);
                }
            }
        }
    }

    /// Hands an input to a region's machine and does what it asks for. Nothing happens while it is down.
    pub fn feed(&mut self, index: usize, input: Input) {
        let now = self.now();
        let Some(machine) = &mut self.nodes[index].machine else { return };
        machine.handle(now, input);
        self.perform(index);
    }

    fn perform(&mut self, index: usize) {
        self.steps += 1;
        let mut inbox = VecDeque::new();
        loop {
            let action = match self.nodes[index].machine.as_mut().and_then(Negotiator::poll_action) {
                Some(action) => action,
                None => match inbox.pop_front() {
                    Some((from, message)) => {
                        let now = self.now();
                        if let Some(machine) = &mut self.nodes[index].machine {
                            machine.handle(now, Input::Message { from, message });
                        }
                        continue;
                    }
                    None => break,
                },
            };
            match action {
                Action::Persist { id, records } => {
                    for record in &records {
                        self.note(|| format!("persist {index} {id:?} {}", kind_of(record)));
                    }
                    if self.nodes[index].disk.write(id, records) {
                        self.nodes[index].disk.begin_sync();
                        let incarnation = self.nodes[index].incarnation;
                        self.at(self.now_ms + self.sync_ms, Event::Synced { node: index, incarnation });
                    }
                }
                Action::Send { to, message, after } => {
                    let node = &mut self.nodes[index];
                    match after.filter(|after| *after > node.synced) {
                        Some(after) => node.held_back.push_back((after, to, message)),
                        None if to == node.member => inbox.push_back((to, message)),
                        None => self.transmit(index, to, message),
                    }
                }
                Action::Admitted { task, result } => match result {
                    Ok(persist) => self.nodes[index].admitted.push((persist, task)),
                    Err(reason) => {
                        self.note(|| format!("refused {task} {}", reason.code));
                        self.answers.insert(task, Err(reason));
                    }
                },
                Action::Planned(plan) => self.plans.push(*plan),
                Action::Run(order) => self.order_run(index, order),
                Action::Fetch { attempt, from, .. } => {
                    let other = self.index(from);
                    let ms = self.now_ms + 2 * self.wan.latency_ms(index, other) + 5;
                    let incarnation = self.nodes[index].incarnation;
                    self.at(ms, Event::Fetched { node: index, from: other, attempt, incarnation });
                }
            }
        }
        if let Some(machine) = &self.nodes[index].machine {
            self.invariants.observe(&Fact::Step { node: index, machine });
            if let Some(at) = machine.poll_timeout() {
                let incarnation = self.nodes[index].incarnation;
                self.at(at.0.max(self.now_ms), Event::Wake { node: index, incarnation });
            }
        }
    }

    fn transmit(&mut self, from: usize, to: MemberId, message: Message) {
        let to = self.index(to);
        self.messages += 1;
        for ms in self.wan.arrivals(from, to, &mut self.rng) {
            let message = Box::new(message.clone());
            self.at(self.now_ms + ms, Event::Deliver { from, to, message });
        }
    }

    fn order_run(&mut self, index: usize, order: RunOrder) {
        let now_ms = self.now_ms;
        let run_ms = self.nodes[index].run_ms;
        match order {
            RunOrder::Prepare(grant) => {
                let attempt = grant.attempt;
                self.nodes[index].runs.entry(attempt).or_insert(Run {
                    phase: RunPhase::Staged,
                    left_ms: run_ms,
                    since_ms: now_ms,
                    lease_until_ms: grant.freeze_on_lapse.then_some(now_ms + grant.lease_ttl_ms),
                });
                self.at(now_ms + 5, Event::Staged { node: index, attempt });
            }
            RunOrder::Start(attempt) => {
                let Some(run) = self.nodes[index].runs.get_mut(&attempt) else { return };
                if run.phase == RunPhase::Staged {
                    run.phase = RunPhase::Running;
                    run.since_ms = now_ms;
                    run.lease_until_ms = run.lease_until_ms.map(|_| now_ms + self.config.lease_ttl_ms);
                    let left = run.left_ms;
                    self.note(|| format!("run {index} {}/{}", attempt.task, attempt.fence));
                    self.observe_start(index, attempt);
                    self.at(now_ms + left, Event::Run { node: index, attempt });
                }
                self.report(index, attempt, RunNotice::Started);
            }
            RunOrder::Reattach(grant) => {
                let attempt = grant.attempt;
                match self.nodes[index].runs.get(&attempt).map(|r| r.phase) {
                    None => self.report(index, attempt, RunNotice::Lost(ReasonCode::RunLost.into())),
                    Some(RunPhase::Staged) => {
                        self.order_run(index, RunOrder::Start(attempt));
                    }
                    Some(RunPhase::Running) => self.report(index, attempt, RunNotice::Started),
                    Some(RunPhase::Ended { cancelled }) => self.report(index, attempt, ended(attempt, cancelled)),
                }
            }
            RunOrder::Renew { runs, ttl_ms } => {
                for attempt in runs {
                    let Some(run) = self.nodes[index].runs.get_mut(&attempt) else { continue };
                    if run.lease_until_ms.is_some() {
                        run.advance(now_ms);
                        run.lease_until_ms = Some(now_ms + ttl_ms);
                        let left = run.left_ms;
                        self.at(now_ms + left, Event::Run { node: index, attempt });
                    }
                }
            }
            RunOrder::Cancel(attempt) => {
                let Some(run) = self.nodes[index].runs.get_mut(&attempt) else { return };
                if !matches!(run.phase, RunPhase::Ended { .. }) {
                    run.phase = RunPhase::Ended { cancelled: true };
                    self.invariants.observe(&Fact::RunStopped { node: index, attempt });
                    self.report(index, attempt, ended(attempt, true));
                }
            }
            RunOrder::Release(attempt) => {
                if self.nodes[index].runs.remove(&attempt).is_some() {
                    self.invariants.observe(&Fact::RunStopped { node: index, attempt });
                }
            }
        }
    }

    fn observe_start(&mut self, node: usize, attempt: Attempt) {
        let member = self.nodes[node].member;
        let bound = self.nodes.iter().any(|n| {
            let custody = n.disk.custody(attempt.task);
            custody
                .is_some_and(|c| c.binding.as_ref().is_some_and(|b| b.fence == attempt.fence && b.provider == member))
        });
        let now_ms = self.now_ms;
        let others = self.nodes.iter().flat_map(|n| n.runs.iter());
        let active =
            others.filter(|(a, run)| a.task == attempt.task && **a != attempt && run.is_active(now_ms)).count();
        self.invariants.observe(&Fact::RunStarted { node, attempt, bound, active });
    }

    /// Later, so that an executor never answers within the order that caused it.
    fn report(&mut self, node: usize, attempt: Attempt, notice: RunNotice) {
        let now = self.now();
        if let Some(machine) = &mut self.nodes[node].machine {
            machine.handle(now, Input::Run(attempt, notice));
        }
    }

    fn gossip(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let Some(machine) = &node.machine else { return };
        node.digests += 1;
        let digest = machine.digest(node.digests, 30_000);
        for other in 0..self.nodes.len() {
            if self.wan.is_open(index, other) {
                self.feed(other, Input::Digest(Box::new(digest.clone())));
            }
        }
    }

    /// Takes one step. False when nothing is left to happen.
    pub fn step(&mut self) -> bool {
        let Some(((ms, _), event)) = self.queue.pop_first() else { return false };
        self.now_ms = self.now_ms.max(ms);
        match event {
            Event::Deliver { from, to, message } => {
                self.note(|| format!("deliver {from}>{to} {}", name_of(&message)));
                let from = self.nodes[from].member;
                self.feed(to, Input::Message { from, message: *message });
            }
            Event::Wake { node, incarnation } => {
                let now = self.now();
                let current = self.nodes[node].incarnation == incarnation;
                if let Some(machine) = self.nodes[node].machine.as_mut().filter(|_| current)
                    && machine.poll_timeout().is_some_and(|at| at <= now.mono)
                {
                    machine.handle_timeout(now);
                    self.perform(node);
                }
            }
            Event::Synced { node, incarnation } => self.synced(node, incarnation),
            Event::Digest { node } => {
                if self.nodes[node].machine.is_some() {
                    self.gossip(node);
                    self.at(self.now_ms + DIGEST_EVERY_MS, Event::Digest { node });
                }
            }
            Event::Run { node, attempt } => {
                let now_ms = self.now_ms;
                if let Some(run) = self.nodes[node].runs.get_mut(&attempt)
                    && run.advance(now_ms)
                {
                    run.phase = RunPhase::Ended { cancelled: false };
                    self.invariants.observe(&Fact::RunStopped { node, attempt });
                    self.report(node, attempt, ended(attempt, false));
                    self.perform(node);
                }
            }
            Event::Staged { node, attempt } => {
                if self.nodes[node].runs.contains_key(&attempt) {
                    self.report(node, attempt, RunNotice::Staged);
                    self.perform(node);
                }
            }
            Event::Fetched { node, from, attempt, incarnation } => {
                let there = self.nodes[from].machine.is_some() && self.wan.is_open(node, from);
                let result = if there { Ok(()) } else { Err(ReasonCode::PeerUnreachable.into()) };
                if self.nodes[node].incarnation == incarnation {
                    self.feed(node, Input::Fetched { attempt, result });
                }
            }
        }
        true
    }

    fn synced(&mut self, index: usize, incarnation: u64) {
        if self.nodes[index].incarnation != incarnation || self.nodes[index].machine.is_none() {
            return;
        }
        let node = &mut self.nodes[index];
        let safe = node.disk.end_sync();
        let up_to = node.disk.synced_to();
        for record in &safe {
            self.invariants.observe(&Fact::Synced { node: index, record });
        }
        if node.disk.begin_sync().is_some() {
            self.at(self.now_ms + self.sync_ms, Event::Synced { node: index, incarnation });
        }
        let node = &mut self.nodes[index];
        node.synced = up_to;
        let admitted: Vec<TaskId> =
            node.admitted.iter().filter(|(persist, _)| *persist <= up_to).map(|(_, task)| *task).collect();
        node.admitted.retain(|(persist, _)| *persist > up_to);
        for task in admitted {
            self.answers.insert(task, Ok(()));
            self.invariants.observe(&Fact::Acknowledged { node: index, task });
        }
        while self.nodes[index].held_back.front().is_some_and(|(after, ..)| *after <= up_to) {
            let Some((_, to, message)) = self.nodes[index].held_back.pop_front() else { break };
            let member = self.nodes[index].member;
            if to == member {
                self.at(self.now_ms, Event::Deliver { from: index, to: index, message: Box::new(message) });
            } else {
                self.transmit(index, to, message);
            }
        }
        self.feed(index, Input::Persisted { up_to });
    }

    /// Runs until `ms`.
    pub fn run_until(&mut self, ms: u64) {
        while self.queue.first_key_value().is_some_and(|((at, _), _)| *at <= ms) {
            self.step();
        }
        self.now_ms = self.now_ms.max(ms);
    }

    /// Runs until `done` holds or `ms` passed; says whether it holds.
    pub fn run_while(&mut self, ms: u64, done: impl Fn(&World) -> bool) -> bool {
        let end = self.now_ms + ms;
        while !done(self) {
            if self.queue.first_key_value().is_none_or(|((at, _), _)| *at > end) {
                return done(self);
            }
            self.step();
        }
        true
    }

    /// A random number below `below`, for scenarios.
    pub fn random(&mut self, below: u64) -> u64 {
        self.rng.random_range(0..below)
    }
}

fn ended(attempt: Attempt, cancelled: bool) -> RunNotice {
    let reason = cancelled.then(|| ReasonCode::Cancelled.into());
    let exit_code = (!cancelled).then_some(0);
    let file = consensus::negotiation::FileRef {
        path: "stdout".into(),
        digest: ContentDigest::of(attempt.fence.to_string().as_bytes()),
        size_bytes: 3,
    };
    RunNotice::Ended(Box::new(RunOutcome { exit_code, reason, logs: vec![file], ..RunOutcome::default() }))
}

fn kind_of(record: &Record) -> String {
    match record {
        Record::Task(task) | Record::Kept(task) => format!("task {}", task.task),
        Record::Custody(c) => format!("custody {} {} {}", c.task, c.fence, c.end.is_some()),
        Record::Event(e) => format!("event {} {} {:?}", e.task, e.seq, e.kind),
        Record::Decision(d) => format!("decision {}", d.task),
        Record::Lease(l) => format!("lease {} {:?}", l.attempt.task, l.phase),
        Record::LeaseSettled(a) => format!("settled {}", a.task),
    }
}

fn name_of(message: &Message) -> String {
    let attempt = message.attempt().map(|a| format!("{}/{}", a.task, a.fence)).unwrap_or_default();
    let name = match message {
        Message::Ask(_) => "ask",
        Message::Offer(_) => "offer",
        Message::Decline(d) => return format!("decline {attempt} {}", d.reason.code),
        Message::Award(_) => "award",
        Message::Accepted(_) => "accepted",
        Message::Release(_) => "release",
        Message::Bound(_) => "bound",
        Message::Cancel(_) => "cancel",
        Message::Progress(..) => "progress",
        Message::Ended(_) => "ended",
        Message::EndAck(_) => "end_ack",
        Message::Gone(..) => "gone",
        Message::Renew(_) => "renew",
        Message::Renewed(_) => "renewed",
    };
    format!("{name} {attempt}")
}
