//! Regions, their messages and their time: a seeded discrete-event simulation of the node's own machines.
//!
//! This file holds the clock, the queue of events and the steps; `perform` does what machines ask for, `runs` is the
//! executor of all regions, `gossip` tells digests, `faults` breaks things.

use crate::bug::Bug;
use crate::invariants::{Fact, Invariants};
use crate::metrics::{Metrics, Sample};
use crate::node::{BACKLOG_MAX, Node, UNSYNCED_MAX};
use crate::oracle;
use crate::trace::{Detail, Step, Trace, number};
use crate::wan::Wan;
use consensus::negotiation::{
    Attempt, Digest, Input, Message, NegotiationConfig, Negotiator, OwnPool, PlanResult, RunNotice,
};
use cpi::dictionary::Dictionary;
use cpi::ids::{ContentDigest, Fence, MemberId, TaskId};
use cpi::reason::{Reason, ReasonCode};
use cpi::resource::RegionPlace;
use cpi::task::Durability;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;

/// How long a custodian is silent before another takes its place, in ms: shorter than a node's default, so that changed
/// sets belong to lives of a few minutes.
const REPLACE_AFTER_MS: u64 = 120_000;

#[derive(Debug)]
pub(crate) enum Event {
    Deliver { from: usize, to: usize, message: Box<Message> },
    Custody { from: usize, to: usize, message: Box<consensus::custody::Message> },
    Gossip { to: usize, digest: Arc<Digest> },
    Wake { node: usize, incarnation: u64 },
    Synced { node: usize, incarnation: u64 },
    Digest { node: usize, incarnation: u64 },
    Run { node: usize, attempt: Attempt },
    Staged { node: usize, attempt: Attempt },
    Fetched { node: usize, from: usize, attempt: Attempt, incarnation: u64 },
    Watch,
    Greedy { node: usize },
}

struct Queued {
    us: u64,
    order: u64,
    event: Event,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        (self.us, self.order) == (other.us, other.order)
    }
}

impl Eq for Queued {}

impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Queued {
    /// The earliest is the greatest, for the heap.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.us, other.order).cmp(&(self.us, self.order))
    }
}

/// What a task is outside the machines: how long it runs and where its inputs lie.
#[derive(Debug, Clone, Copy, Default)]
pub struct Job {
    /// How long it runs, in ms; 0 for the region's own figure.
    pub run_ms: u64,
    /// Length of its inputs.
    pub input_bytes: u64,
    /// Where they lie; `None` for the origin.
    pub input_site: Option<usize>,
}

/// The whole simulation.
pub struct World {
    /// Milliseconds since the beginning, rounded down.
    pub now_ms: u64,
    /// Microseconds since the beginning.
    pub now_us: u64,
    /// The network.
    pub wan: Wan,
    /// The regions.
    pub nodes: Vec<Node>,
    /// What must always hold.
    pub invariants: Invariants,
    /// Figures of the run.
    pub metrics: Metrics,
    /// Submissions that were acknowledged, and refusals.
    pub answers: BTreeMap<TaskId, Result<(), Reason>>,
    /// What the acknowledgement of a task with several custodians is worth now.
    pub worth: BTreeMap<TaskId, Durability>,
    /// Regions that are gone with their disks and do not come back.
    pub lost: BTreeSet<usize>,
    /// Disks that bound a provider under a fence, of tasks with several custodians.
    pub(crate) bound_on: BTreeMap<(TaskId, Fence), (MemberId, BTreeSet<usize>)>,
    /// Plans that were made.
    pub plans: Vec<PlanResult>,
    /// Messages sent between regions.
    pub messages: u64,
    /// Messages between custodians, which go in parallel; not among `messages`.
    pub custody_messages: u64,
    /// Digests that reached a region.
    pub digests: u64,
    /// Steps taken.
    pub steps: u64,
    /// How long a sync takes, in ms.
    pub sync_ms: u64,
    /// Between looks at whether a region has a new digest to tell, in ms.
    pub digest_every_ms: u64,
    /// A digest without news is told again after this time, in ms.
    pub digest_refresh_ms: u64,
    /// Jobs by the task's number.
    pub jobs: Vec<Job>,
    /// Bytes a second from site to site, where known.
    pub throughput: BTreeMap<(usize, usize), u64>,
    /// Bytes a second where nothing is known.
    pub throughput_default: u64,
    /// Whether an oracle looks for capacity at each submission.
    pub oracle: bool,
    /// Whether disks forget what was ended and settled, as large runs must.
    pub forgetful: bool,
    /// A planted bug.
    pub bug: Option<Bug>,
    pub(crate) config: NegotiationConfig,
    pub(crate) dictionary: Arc<Dictionary>,
    pub(crate) rng: ChaCha8Rng,
    pub(crate) trace: Trace,
    pub(crate) runs_of: BTreeMap<TaskId, Vec<(usize, Attempt)>>,
    pub(crate) twice: BTreeSet<TaskId>,
    pub(crate) disconnected: BTreeSet<(usize, usize)>,
    pub(crate) phantoms: u64,
    queue: BinaryHeap<Queued>,
    order: u64,
}

impl World {
    /// Regions with their pools, all knowing of each other, at time 0.
    pub fn new(seed: u64, wan: Wan, config: NegotiationConfig, regions: Vec<(RegionPlace, Vec<OwnPool>)>) -> Self {
        let nodes = regions.into_iter().enumerate();
        let nodes = nodes.map(|(index, (place, pools))| Node::new(MemberId(index as u64 + 1), place, pools));
        let mut world = Self::asleep(seed, wan, config, nodes.collect());
        world.wake_all();
        world
    }

    /// The same without having started anything, to be set up further before [`Self::wake_all`].
    pub fn asleep(seed: u64, wan: Wan, mut config: NegotiationConfig, nodes: Vec<Node>) -> Self {
        // Large runs would mostly count custody messages: scenarios and experiments say when they want them.
        config.custody.durability = Durability::Local;
        Self {
            now_ms: 0,
            now_us: 0,
            wan,
            metrics: Metrics::new(nodes.len()),
            nodes,
            invariants: Invariants::default(),
            answers: BTreeMap::new(),
            worth: BTreeMap::new(),
            lost: BTreeSet::new(),
            bound_on: BTreeMap::new(),
            plans: Vec::new(),
            messages: 0,
            custody_messages: 0,
            digests: 0,
            steps: 0,
            sync_ms: 2,
            digest_every_ms: 1_000,
            digest_refresh_ms: 10_000,
            jobs: Vec::new(),
            throughput: BTreeMap::new(),
            throughput_default: 125_000_000,
            oracle: true,
            forgetful: false,
            bug: None,
            config,
            dictionary: Dictionary::first(),
            rng: ChaCha8Rng::seed_from_u64(seed),
            trace: Trace::new(seed, Detail::Digest),
            runs_of: BTreeMap::new(),
            twice: BTreeSet::new(),
            disconnected: BTreeSet::new(),
            phantoms: 0,
            queue: BinaryHeap::new(),
            order: 0,
        }
    }

    /// Tasks are kept by two other regions, too. To be said before [`Self::wake_all`].
    pub fn keep_with_others(&mut self) {
        self.config.custody.durability = Durability::Quorum;
        self.config.custody.replace_after_ms = REPLACE_AFTER_MS;
    }

    /// Starts every region; each knows its peers' capacity.
    pub fn wake_all(&mut self) {
        for node in 0..self.nodes.len() {
            self.start(node);
        }
        for node in 0..self.nodes.len() {
            let Some(digest) = self.new_digest(node) else { continue };
            for other in self.peers_of(node) {
                self.feed(other, Input::Digest(Arc::clone(&digest)));
            }
        }
    }

    /// Keeps the lines of the trace, for people.
    pub fn keep_lines(&mut self) {
        self.trace.set_detail(Detail::Lines);
    }

    /// Keeps no trace at all.
    pub fn keep_no_trace(&mut self) {
        self.trace.set_detail(Detail::Off);
    }

    /// The lines kept.
    pub fn lines(&self) -> &[String] {
        self.trace.lines()
    }

    /// A digest over every step: the same for the same seed.
    pub fn trace(&self) -> ContentDigest {
        self.trace.digest()
    }

    pub(crate) fn note(&mut self, kind: &'static str, node: usize, task: Option<TaskId>, what: u64) {
        self.trace.note(self.now_us, Step { kind, node, other: None, task, what }, || what.to_string());
    }

    pub(crate) fn at_us(&mut self, us: u64, event: Event) {
        self.order += 1;
        self.queue.push(Queued { us, order: self.order, event });
    }

    pub(crate) fn after_ms(&mut self, ms: u64, event: Event) {
        self.at_us(self.now_us + ms * 1000, event);
    }

    /// Position of a member.
    pub fn index(&self, member: MemberId) -> usize {
        member.0 as usize - 1
    }

    /// A region's machine, which must be up.
    pub fn machine(&self, node: usize) -> &Negotiator {
        self.nodes[node].machine.as_ref().expect("the region is up")
    }

    /// Whom a region knows, itself included.
    pub fn peers_of(&self, node: usize) -> Vec<usize> {
        match &self.nodes[node].peers {
            Some(peers) => peers.iter().copied().chain([node]).collect(),
            None => (0..self.nodes.len()).collect(),
        }
    }

    pub(crate) fn start(&mut self, index: usize) {
        let seed = self.rng.next_u64();
        let dictionary = Arc::clone(&self.dictionary);
        let stale = self.bug == Some(Bug::StaleDisk);
        let node = &mut self.nodes[index];
        let now = node.clock.now(self.now_us);
        node.incarnation += 1;
        node.synced.0 = 0;
        node.newest.0 = 0;
        node.held_back.clear();
        node.custody_back.clear();
        node.admitted.clear();
        node.orders.clear();
        node.backlog.clear();
        node.armed_us = None;
        node.told_changes = u64::MAX;
        let mut machine = Negotiator::new(node.member, node.incarnation, self.config.clone(), dictionary, seed);
        let restored = node.disk.restored(stale);
        machine.restore(now, restored);
        machine.handle(now, Input::Pools(node.pools.clone()));
        node.machine = Some(Box::new(machine));
        for other in self.peers_of(index) {
            let (member, place) = (self.nodes[other].member, self.nodes[other].place.clone());
            self.feed(index, Input::Member { member, place, active: true });
            let rtt_ms = Some(self.wan.rtt_us(index, other).div_ceil(1000) as u32);
            self.disconnected.remove(&(index, other));
            self.feed(index, Input::Rtt { member, rtt_ms });
        }
        let incarnation = self.nodes[index].incarnation;
        // Not all in the same instant, as no two nodes start together.
        let offset_us = 1_000 + (index as u64).wrapping_mul(7_919) % (self.digest_every_ms * 1000);
        self.at_us(self.now_us + offset_us, Event::Digest { node: index, incarnation });
        self.note("start", index, None, incarnation);
    }

    /// Hands an input to a region's machine and does what it asks for. Nothing happens while it is down.
    ///
    /// New work waits while the disk is behind, and is refused when too much of it waits.
    pub fn feed(&mut self, index: usize, input: Input) {
        if let Input::Submit(submission) = &input {
            let feasible = self.oracle.then(|| oracle::has_room(self, &submission.need, &submission.wishes));
            self.metrics.submitted(self.now_us, index, submission, feasible);
        }
        let node = &mut self.nodes[index];
        if node.machine.is_none() {
            return;
        }
        let new_work =
            matches!(input, Input::Submit(_) | Input::Plan(_) | Input::Message { message: Message::Ask(_), .. });
        if new_work && (node.unsynced() > UNSYNCED_MAX || !node.backlog.is_empty()) {
            if node.backlog.len() < BACKLOG_MAX || self.bug == Some(Bug::NoShedding) {
                node.backlog.push_back(input);
            } else if let Input::Submit(submission) = input {
                let busy = Reason::new(ReasonCode::Busy, "too much work waits for the disk");
                self.metrics.refused(submission.task, busy.code);
                self.answers.insert(submission.task, Err(busy));
            }
            self.observe_step(index);
            return;
        }
        self.handle(index, input);
    }

    pub(crate) fn handle(&mut self, index: usize, input: Input) {
        let node = &mut self.nodes[index];
        let now = node.clock.now(self.now_us);
        let Some(machine) = &mut node.machine else { return };
        machine.handle(now, input);
        self.perform(index);
    }

    pub(crate) fn observe_step(&mut self, index: usize) {
        let node = &self.nodes[index];
        if let Some(machine) = &node.machine {
            let (backlog, unsynced) = (node.backlog.len(), node.unsynced());
            self.invariants.observe(self.now_ms, &Fact::Step { node: index, machine, backlog, unsynced });
        }
    }

    /// Takes a step. False when nothing is left to happen.
    pub fn step(&mut self) -> bool {
        let Some(Queued { us, event, .. }) = self.queue.pop() else { return false };
        self.now_us = self.now_us.max(us);
        self.now_ms = self.now_us / 1000;
        match event {
            Event::Deliver { from, to, message } => self.deliver(from, to, message),
            Event::Custody { from, to, message } => {
                let (task, what) = (message.task(), crate::trace::revision_of(&message));
                let step = Step { kind: message.name(), node: from, other: Some(to), task, what };
                self.trace.note(self.now_us, step, || format!("revision {what}"));
                let from = self.nodes[from].member;
                self.handle(to, Input::Custody { from, message });
            }
            Event::Gossip { to, digest } => {
                self.digests += 1;
                self.handle(to, Input::Digest(digest));
            }
            Event::Wake { node, incarnation } => self.wake(node, incarnation),
            Event::Synced { node, incarnation } => self.synced(node, incarnation),
            Event::Digest { node, incarnation } => {
                if self.nodes[node].machine.is_some() && self.nodes[node].incarnation == incarnation {
                    self.tell_digest(node);
                    self.after_ms(self.digest_every_ms, Event::Digest { node, incarnation });
                }
                if node == 0 {
                    self.observe_twice();
                }
            }
            Event::Run { node, attempt } => self.run_due(node, attempt),
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
                    if there {
                        self.measure_line(node, from, attempt);
                    }
                    self.feed(node, Input::Fetched { attempt, result });
                }
            }
            Event::Watch => self.watch(),
            Event::Greedy { node } => self.grab(node),
        }
        true
    }

    fn deliver(&mut self, from: usize, to: usize, message: Box<Message>) {
        let task = message.attempt().map(|a| a.task);
        let what = message.attempt().map_or(0, |a| u64::from(a.fence.attempt));
        let step = Step { kind: name_of(&message), node: from, other: Some(to), task, what };
        self.trace.note(self.now_us, step, || match &*message {
            Message::Decline(decline) => format!("attempt {what} {}", decline.reason),
            _ => format!("attempt {what}"),
        });
        if self.nodes[to].manners.ignores_asks && matches!(*message, Message::Ask(_)) {
            return;
        }
        let from = self.nodes[from].member;
        self.feed(to, Input::Message { from, message: *message });
    }

    fn wake(&mut self, index: usize, incarnation: u64) {
        let node = &mut self.nodes[index];
        if node.incarnation != incarnation {
            return;
        }
        if node.armed_us.is_some_and(|armed| armed <= self.now_us) {
            node.armed_us = None;
        }
        let now = node.clock.now(self.now_us);
        let Some(machine) = &mut node.machine else { return };
        if self.bug == Some(Bug::NoTimers) {
            return;
        }
        if machine.poll_timeout().is_some_and(|at| at <= now.mono) {
            machine.handle_timeout(now);
            self.perform(index);
        } else {
            self.arm(index);
        }
    }

    /// Sets the region's alarm if its machine waits for something earlier than what is set.
    pub(crate) fn arm(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let Some(at) = node.machine.as_ref().and_then(|machine| machine.poll_timeout()) else { return };
        let us = node.clock.when(at).max(self.now_us);
        if node.armed_us.is_none_or(|armed| us < armed) {
            node.armed_us = Some(us);
            let incarnation = node.incarnation;
            self.at_us(us, Event::Wake { node: index, incarnation });
        }
    }

    /// Runs until `ms`.
    pub fn run_until(&mut self, ms: u64) {
        self.run_until_us(ms * 1000);
    }

    /// Runs until `us`.
    pub fn run_until_us(&mut self, us: u64) {
        while self.queue.peek().is_some_and(|next| next.us <= us) {
            self.step();
        }
        self.now_us = self.now_us.max(us);
        self.now_ms = self.now_us / 1000;
    }

    /// Whether no region has open tasks or leases.
    pub fn is_quiet(&self) -> bool {
        self.metrics.leases() == 0
            && self.nodes.iter().all(|node| {
                let open = node.machine.as_ref().map_or(0, |machine| machine.origin_stats().open);
                open == 0 && node.backlog.is_empty()
            })
    }

    /// Takes a moment down for plots.
    pub fn sample(&mut self) {
        let (mut chips, mut cores) = (0u64, 0u64);
        for class in self.nodes.iter().flat_map(|node| &node.pools).flat_map(|pool| &pool.spec.classes) {
            chips += class.per_server.chip_milli * u64::from(class.servers);
            cores += class.per_server.cpu_milli * u64::from(class.servers);
        }
        let leased = self.metrics.leased_sum();
        let share = |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
        let stats = self.nodes.iter().filter_map(|node| Some(node.machine.as_ref()?.origin_stats()));
        let waiting = stats.map(|stats| (stats.waiting + stats.placing) as i64).sum();
        self.metrics.samples.push(Sample {
            at_s: self.now_us as f64 / 1e6,
            leases: self.metrics.leases() as u64,
            waiting,
            chips: share(leased.chip_milli, chips),
            cores: share(leased.cpu_milli, cores),
            messages: self.messages,
        });
    }

    /// Runs until `done` holds or `ms` passed; says whether it holds.
    pub fn run_while(&mut self, ms: u64, done: impl Fn(&World) -> bool) -> bool {
        let end = self.now_us + ms * 1000;
        while !done(self) {
            if self.queue.peek().is_none_or(|next| next.us > end) {
                return done(self);
            }
            self.step();
        }
        true
    }

    /// A random number below `below`, for scenarios.
    pub fn random(&mut self, below: u64) -> u64 {
        self.rng.random_range(0..below.max(1))
    }

    /// What is known of a task outside the machines.
    pub fn job(&self, task: TaskId) -> Job {
        self.jobs.get(number(task) as usize).copied().unwrap_or_default()
    }
}

/// A message's name in traces.
pub fn name_of(message: &Message) -> &'static str {
    match message {
        Message::Ask(_) => "ask",
        Message::Offer(_) => "offer",
        Message::Decline(_) => "decline",
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
        #[allow(unreachable_patterns, reason = "messages that later releases add")]
        _ => "other",
    }
}
